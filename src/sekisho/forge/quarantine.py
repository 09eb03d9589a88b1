"""Where a pull request's results lie until its merge: a folder of its own in the remote ``pull-request``.

A pull request's run writes there. Its role reaches the folders of all pull requests and nothing beyond them:
what a run puts into another's is not what that one's ``dvc.lock`` names. At the release, what the merged
``dvc.lock`` names is fetched from there and pushed to the production remote. On the way DVC holds every file
against its digest in ``dvc.lock`` (``verify = true`` in ``.dvc/config``) and drops what differs: nothing else
ever gets in.
"""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from ruamel.yaml.error import YAMLError

from sekisho.checkout import git, git_names
from sekisho.errors import CannotCheck
from sekisho.forge.interface import Forge
from sekisho.forge.markdown import one_line
from sekisho.params import parse_yaml

REMOTE = "pull-request"
PRODUCTION = "storage"


def use_remote(checkout: Path, number: int) -> str:
    """Point the checkout's remote ``pull-request`` at the folder of pull request ``number``; its address.

    Raises:
        CannotCheck: ``.dvc/config`` has no such remote, or it does not verify.
    """
    base = ""
    for name in ("config", "config.local"):  # a machine's own address wins
        settings = configparser.ConfigParser()
        settings.read(checkout / ".dvc" / name, encoding="utf-8")
        section = f"'remote \"{REMOTE}\"'"
        base = settings.get(section, "url", fallback=base)
        if name == "config" and settings.get(section, "verify", fallback="") != "true":
            raise CannotCheck(
                f".dvc/config: the remote {REMOTE} is not there or does not verify",
                remedy=f"give it a url and verify = true (dvc remote add {REMOTE} …)",
            )
    url = f"{re.sub(r'/[0-9]+$', '', base)}/{number}"
    if "://" not in url:  # relative to the file that names it, as DVC reads it
        url = str((checkout / ".dvc" / url).resolve())
    _dvc(checkout, "remote", "modify", "--local", REMOTE, "url", url)
    return url


def outputs(checkout: Path, base: str | None = None) -> dict[str, str]:
    """Digest of each output and tracked folder that DVC keeps, by target: here, or in commit ``base``."""
    pointers = git_names(checkout, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.dvc")
    names = sorted(name for name in pointers if "/" not in name)
    found: dict[str, str] = {}
    for name in ("dvc.lock", *names):
        path = checkout / name
        here = path.read_bytes() if path.is_file() else b""
        found |= _digests(_show(checkout, base, name) if base else here, name)
    uncached = _uncached(checkout)
    return {target: digest for target, digest in found.items() if target not in uncached}


def changed_outputs(checkout: Path, base: str) -> list[str]:
    """Outputs and tracked data whose digest here differs from commit ``base``, as DVC's targets."""
    there = outputs(checkout, base)
    return sorted(target for target, digest in outputs(checkout).items() if there.get(target) != digest)


def push(checkout: Path, number: int, base: str) -> list[str]:
    """Push what differs from ``base`` to the pull request's own folder, and nothing to anywhere else."""
    use_remote(checkout, number)
    targets = changed_outputs(checkout, base)
    if targets:
        _require_none(_missing(checkout, targets))
        _dvc(checkout, "push", "--quiet", "--remote", REMOTE, *targets)
    return targets


def admit(checkout: Path, numbers: Sequence[int]) -> list[str]:
    """Bring everything that the checkout's ``dvc.lock`` names into the production remote; what was not there.

    It is looked for in the folders of the pull requests ``numbers``, in that order: a merge whose release did
    not run left its outputs in its own. May be repeated: what is there already is not copied again.

    Raises:
        CannotCheck: a file is missing in the folders, or is not the one that dvc.lock names.
    """
    targets = sorted(outputs(checkout))
    _fetch(checkout, PRODUCTION, targets)
    absent = missing = _missing(checkout, targets)
    for number in numbers:
        if missing:
            use_remote(checkout, number)
            _fetch(checkout, REMOTE, targets)
            missing = _missing(checkout, targets)
    _require_none(missing)
    _dvc(checkout, "push", "--quiet", "--remote", PRODUCTION, *targets)
    return [t for t in targets if any(name == t or name.startswith(f"{t}/") for name in absent)]


def merged_since_release(forge: Forge, checkout: Path) -> list[int]:
    """Pull requests merged into the checkout's history since the commit of the newest release, newest first.

    Up to there everything was admitted. A rollback's entry is made of an older release and admits nothing.

    Raises:
        CannotCheck: a manifest cannot be read, or the history is not here.
    """
    released = set()
    for path in (checkout / "releases").glob("*/[1-9]*/manifest.json"):
        try:
            manifest = json.loads(path.read_bytes())
            if manifest["rollback"] is None:
                released.add(manifest["created_from"]["commit"])
        except (ValueError, KeyError, TypeError) as error:
            raise CannotCheck(f"{path}: not a manifest: {error}", remedy="restore it from git") from error
    history = git(checkout, "rev-list", "--first-parent", "HEAD").decode().split()
    numbers = {pull.merge_sha: pull.number for pull in forge.list_pull_requests("merged")}
    return [numbers[sha] for sha in takewhile(lambda sha: sha not in released, history) if sha in numbers]


def _fetch(checkout: Path, remote: str, targets: Sequence[str]) -> None:
    """What the remote has of the targets; what it lacks is seen afterwards."""
    with suppress(CannotCheck):
        _dvc(checkout, "fetch", "--quiet", "--remote", remote, *targets)


def _missing(checkout: Path, targets: Sequence[str]) -> list[str]:
    """Files that are not in the cache: DVC drops one that fails its digest without an error."""
    status = json.loads(_dvc(checkout, "data", "status", "--granular", "--json") or "{}")
    folders = tuple(f"{target}/" for target in targets)
    return [n for n in status.get("not_in_cache", []) if n in targets or n.startswith(folders)]


def _require_none(missing: Sequence[str]) -> None:
    if missing:
        raise CannotCheck(
            f"{len(missing)} files are missing or are not what dvc.lock names: {', '.join(missing[:5])}",
            remedy="run the pipeline on this head again; if it comes back, somebody writes into the remote",
        )


def _digests(raw: bytes, name: str) -> dict[str, str]:
    """Digest of each output that a ``dvc.lock`` or ``.dvc`` file names, by path."""
    try:
        content = parse_yaml(raw) or {}
        holders = list(content.get("stages", {}).values()) if name == "dvc.lock" else [content]
        return {str(out["path"]): str(out["md5"]) for each in holders for out in each.get("outs", [])}
    except (YAMLError, AttributeError, KeyError, TypeError) as error:
        raise CannotCheck(f"{name} is not DVC's: {error}", remedy="run dvc repro") from error


def _uncached(checkout: Path) -> set[str]:
    """Outputs that ``dvc.yaml`` leaves to git (``cache: false``)."""
    path = checkout / "dvc.yaml"
    stages = (parse_yaml(path.read_bytes()) or {}).get("stages", {}) if path.is_file() else {}
    found = set()
    for stage in stages.values():
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, []):
                if isinstance(out, dict):
                    found |= {name for name, options in out.items() if options.get("cache") is False}
    return found


def _show(checkout: Path, base: str, name: str) -> bytes:
    """A file of commit ``base``; empty where that has none."""
    there = git(checkout, "ls-tree", "--name-only", base, "--", name)
    return git(checkout, "show", f"{base}:{name}") if there else b""


def _dvc(checkout: Path, *words: str) -> str:
    program = [sys.executable, "-m", "dvc"]
    done = subprocess.run([*program, *words], cwd=checkout, capture_output=True, check=False)
    if done.returncode:
        reason = one_line(done.stderr.decode(errors="replace"), 500)
        raise CannotCheck(
            f"dvc {words[0]} failed: {reason}", remedy=f"run dvc {words[0]} by hand to see more"
        )
    return done.stdout.decode()
