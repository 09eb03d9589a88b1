"""Is the workspace what the committed ``dvc.lock`` says? Read without DVC: git is enough.

Digests as DVC 3 makes them: md5 of a file's bytes; for a folder md5 of the JSON list of its files (`.dir`).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from sekisho.errors import CannotCheck
from sekisho.params import lookup, parse_yaml
from sekisho.release.manifest import canonical, list_files, walk

REPRODUCE = "run `dvc repro`, commit dvc.lock, then export"


@dataclass(frozen=True)
class Tracked:
    """One path that DVC tracks, with what DVC knows about it."""

    path: str
    md5: str  # ends in .dir for a folder
    size: int  # bytes
    files: int | None  # of a folder


def git(repo: Path, *arguments: str) -> bytes:
    """Output of a git command.

    Raises:
        CannotCheck: git is missing or fails; with its message.
    """
    try:
        done = subprocess.run(["git", "-C", str(repo), *arguments], capture_output=True, check=True)
    except FileNotFoundError as error:
        raise CannotCheck("git is not installed", remedy="see `sekisho doctor`") from error
    except subprocess.CalledProcessError as error:
        message = error.stderr.decode(errors="replace").strip()
        raise CannotCheck(f"git {arguments[0]}: {message}", remedy="run inside the repository") from error
    return done.stdout


def head(repo: Path) -> tuple[str, str]:
    """Commit and tree that are checked out."""
    commit, tree = git(repo, "rev-parse", "HEAD", "HEAD^{tree}").decode().split()
    return commit, tree


def committed(repo: Path, name: str) -> bytes:
    """A file's bytes, which must be the same in HEAD and in the workspace.

    Raises:
        CannotCheck: not committed, or changed since.
    """
    stored = git(repo, "show", f"HEAD:{name}")
    path = repo / name
    if not path.is_file() or path.read_bytes() != stored:
        raise CannotCheck(
            f"{name}: the workspace differs from the commit", remedy="commit or restore it, then export"
        )
    return stored


def track(path: Path, name: str) -> Tracked:
    """Size and DVC digest of a file or folder."""
    if not path.is_dir():
        return Tracked(name, _md5(path), path.stat().st_size, None)
    files = [(relative, path / relative) for relative in sorted(walk(path))]
    listing = [{"md5": _md5(file), "relpath": relative} for relative, file in files]
    digest = hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
    return Tracked(name, f"{digest}.dir", sum(file.stat().st_size for _, file in files), len(files))


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise CannotCheck(f"{path}: {error.strerror}", remedy=REPRODUCE) from error


def dvc_file(tracked: Tracked) -> bytes:
    """What ``dvc add`` writes for a folder."""
    lines = [
        "outs:",
        f"- md5: {tracked.md5}",
        f"  size: {tracked.size}",
        f"  nfiles: {tracked.files}",
        "  hash: md5",
        f"  path: {tracked.path}",
        "",
    ]
    return "\n".join(lines).encode()


def check_lock(repo: Path, needed: list[str]) -> dict[str, str]:
    """Compare the workspace with the committed ``dvc.lock``; returns its md5 by path.

    Checks that ``dvc.lock``, ``dvc.yaml`` and ``params.yaml`` are committed, that every stage took what the
    stage before it gave and the parameters as they are now, and that the ``needed`` outputs are the locked
    ones.

    Raises:
        CannotCheck: any of that does not hold; names the path or the parameter.
    """
    lock = _parse(committed(repo, "dvc.lock"), "dvc.lock")
    params = _parse(committed(repo, "params.yaml"), "params.yaml")
    committed(repo, "dvc.yaml")
    stages: dict[str, Any] = lock.get("stages") or {}
    given = {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", [])}
    taken = {}
    for name, stage in stages.items():
        for dependency in stage.get("deps", []):
            path, md5 = dependency["path"], dependency["md5"]
            if given.get(path, md5) != md5:
                raise CannotCheck(f"dvc.lock: stage {name} took an older {path}", remedy=REPRODUCE)
            taken[path] = md5
        for key, value in stage.get("params", {}).get("params.yaml", {}).items():
            if lookup(params, key) != value:
                raise CannotCheck(f"dvc.lock: stage {name} ran with another {key}", remedy=REPRODUCE)
    for path in needed:
        if path not in given:
            raise CannotCheck(f"dvc.lock: no stage gives {path}", remedy=REPRODUCE)
        if not (repo / path).exists():
            raise CannotCheck(f"{path}: not there", remedy="run `dvc pull` or `dvc repro`, then export")
        if track(repo / path, path).md5 != given[path]:
            raise CannotCheck(f"{path}: not what dvc.lock says", remedy=REPRODUCE)
    return {**taken, **given}


def _parse(raw: bytes, name: str) -> dict[str, Any]:
    try:
        value = parse_yaml(raw)
    except YAMLError as error:
        raise CannotCheck(f"{name}: {error}", remedy="restore it from git") from error
    if not isinstance(value, dict):
        raise CannotCheck(f"{name}: not a mapping", remedy="restore it from git")
    return value


def sha256_of(path: Path) -> str:
    """Our own digest of a file, or of a folder: sha256 of the canonical list of its files."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    listing = [entry.model_dump() for entry in list_files(path)]
    return hashlib.sha256(canonical(listing)).hexdigest()
