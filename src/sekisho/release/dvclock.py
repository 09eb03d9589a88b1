"""Is the workspace what the committed ``dvc.lock`` says? Read without DVC: git is enough."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from sekisho.checkout import git, git_names
from sekisho.dvc_files import file_md5, folder_md5, lock_mismatches, locked_paths
from sekisho.errors import CannotCheck
from sekisho.params import parse_yaml
from sekisho.release.manifest import canonical, list_files, walk

REPRODUCE = "run `dvc repro`, commit dvc.lock, then export"


@dataclass(frozen=True)
class Tracked:
    """One path that DVC tracks, with what DVC knows about it."""

    path: str
    md5: str  # ends in .dir for a folder
    size: int  # bytes
    files: int | None  # of a folder


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
    try:
        if not path.is_dir():
            return Tracked(name, file_md5(path), path.stat().st_size, None)
        files = [(relative, path / relative) for relative in walk(path)]
        digest = folder_md5({relative: file_md5(file) for relative, file in files})
    except OSError as error:
        raise CannotCheck(f"{path}: {error.strerror}", remedy=REPRODUCE) from error
    return Tracked(name, digest, sum(file.stat().st_size for _, file in files), len(files))


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

    Checks that ``dvc.lock``, ``dvc.yaml`` and ``params.yaml`` are committed and that the lock is one of them
    (:func:`dvc_files.lock_mismatches`), that everything in git that a stage names (code, metrics) is what
    the stage had, and that the ``needed`` outputs here are the locked ones.

    Raises:
        CannotCheck: any of that does not hold; names the stage and the path, command or parameter.
    """
    locked = _stages(repo, "dvc.lock")
    pipeline = _stages(repo, "dvc.yaml")
    named: dict[str, str] = {}
    given: dict[str, str] = {}
    try:
        for mismatch in lock_mismatches(pipeline, locked, lambda file: _parse(committed(repo, file), file)):
            raise CannotCheck(
                f"dvc.lock: expected {mismatch.expected}, found {mismatch.found}", remedy=REPRODUCE
            )
        for name, stage in locked.items():
            given |= locked_paths(name, stage, "outs")
            named |= locked_paths(name, stage, "deps")
    except ValueError as error:
        raise CannotCheck(f"dvc.lock: {error}", remedy=REPRODUCE) from error
    named |= given
    _check_committed(repo, named)
    for path in needed:
        if path not in given:
            raise CannotCheck(f"dvc.lock: no stage gives {path}", remedy=REPRODUCE)
        if not (repo / path).exists():
            raise CannotCheck(f"{path}: not there", remedy="run `dvc pull` or `dvc repro`, then export")
        if track(repo / path, path).md5 != given[path]:
            raise CannotCheck(f"{path}: not what dvc.lock says", remedy=REPRODUCE)
    return named


def object_versions(repo: Path, path: str) -> dict[str, str]:
    """The object version ids that DVC recorded for a path, by file; none where the remote names objects by
    their content, for then the md5 is the object's name.

    DVC records them (``cloud``) in dvc.lock and in the .dvc file of a version-aware remote.
    https://dvc.org/doc/user-guide/data-management/cloud-versioning
    """
    outputs = [out for stage in _stages(repo, "dvc.lock").values() for out in stage.get("outs", [])]
    for name in git_names(repo, "ls-tree", "-z", "--name-only", "HEAD"):
        if name.endswith(".dvc") and name != ".dvc":  # DVC's own folder is no pointer
            outputs += _parse(committed(repo, name), name).get("outs") or []
    found: dict[str, str] = {}
    for out in outputs:
        entries = [
            out,
            *({**item, "path": f"{out['path']}/{item['relpath']}"} for item in out.get("files", [])),
        ]
        for entry in entries:
            for remote in (entry.get("cloud") or {}).values():
                if f"{entry['path']}/".startswith(f"{path}/") and "version_id" in remote:
                    found[entry["path"]] = str(remote["version_id"])
    return dict(sorted(found.items()))


def _stages(repo: Path, name: str) -> dict[str, Any]:
    stages = _parse(committed(repo, name), name).get("stages")
    if not isinstance(stages, dict):
        raise CannotCheck(f"{name}: no stages", remedy="restore it from git")
    return stages


def _check_committed(repo: Path, named: dict[str, str]) -> None:
    """What git holds of the named paths is as locked, and the workspace has it unchanged."""
    changed = git(repo, "status", "--porcelain", "--untracked-files=all", "--", *named).decode().splitlines()
    if changed:
        raise CannotCheck(
            f"{changed[0][3:]}: the workspace differs from the commit",
            remedy="commit or restore it, then export",
        )
    for path, md5 in named.items():
        files = git_names(repo, "ls-tree", "-r", "-z", "--name-only", "HEAD", "--", path)
        if not files:
            continue  # DVC's, not git's
        if files == [path]:
            found = file_md5(repo / path)
        else:
            found = folder_md5({name.removeprefix(path + "/"): file_md5(repo / name) for name in files})
        if found != md5:
            raise CannotCheck(f"{path}: not what dvc.lock says", remedy=REPRODUCE)


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
