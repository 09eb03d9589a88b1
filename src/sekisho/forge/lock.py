"""Does a commit's ``dvc.lock`` describe that commit? Read from the forge, without a checkout.

``dvc.lock`` holds, per stage, the digest of everything the stage read and wrote and the parameters it used.
A commit whose code, parameters or metrics differ was not reproduced: its report is about something else.
Source: DVC's file format, version 3 (md5 of a file's bytes; of a folder, md5 of its sorted listing as JSON).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from sekisho.errors import CannotCheck, Refused
from sekisho.forge.interface import Forge
from sekisho.params import lookup, parse_yaml

Json = dict[str, Any]


def read_lock(forge: Forge, sha: str) -> tuple[bytes, Json]:
    """``dvc.lock`` of a commit: its bytes and its stages.

    Raises:
        CannotCheck: there is none, or it is not DVC's.
    """
    raw = forge.read_file(sha, "dvc.lock")
    if raw is None:
        raise CannotCheck(
            f"commit {sha} has no dvc.lock", remedy="run dvc repro, commit dvc.lock and metrics, push"
        )
    try:
        stages = parse_yaml(raw)["stages"]
        if not isinstance(stages, dict):
            raise TypeError("stages is not a mapping")
    except (YAMLError, KeyError, TypeError) as error:
        raise CannotCheck(
            f"commit {sha}: dvc.lock is not readable: {error}", remedy="run dvc repro"
        ) from error
    return raw, stages


def check_lock(forge: Forge, sha: str) -> None:
    """Every stage is locked, and all files in git that a stage read or wrote are those of the lock.

    Files that DVC holds and git does not are not looked at: ``dvc repro`` in CI does that.

    Raises:
        CannotCheck: dvc.lock, dvc.yaml or params.yaml is missing or unreadable.
        Refused: names the stage and the file or parameter that differs.
    """
    _, locked = read_lock(forge, sha)
    pipeline = _yaml(forge, sha, "dvc.yaml").get("stages", {})
    params = {"params.yaml": _yaml(forge, sha, "params.yaml")}
    if set(locked) != set(pipeline):
        raise _stale(
            "the stages of dvc.yaml", f"{sorted(set(locked) ^ set(pipeline))} in only one of the two"
        )
    digests: dict[str, str | None] = {}
    for stage, entry in locked.items():
        for item in [*entry.get("deps", []), *entry.get("outs", [])]:
            path, md5 = str(item["path"]), str(item["md5"])
            if path not in digests:
                digests[path] = _digest(forge, sha, path, folder=md5.endswith(".dir"))
            if digests[path] not in (None, md5):
                raise _stale(f"stage {stage}: {path} with md5 {md5}", digests[path])
        for file, used in entry.get("params", {}).items():
            for key, value in used.items():
                found = lookup(params.get(file) or _yaml(forge, sha, file), key)
                if found != value:
                    raise _stale(f"stage {stage}: {file}: {key} = {value!r}", found)


def folder_digest(files: Mapping[str, bytes]) -> str:
    """DVC's digest of a folder from its files by relative path."""
    listing = [
        {"md5": hashlib.md5(content, usedforsecurity=False).hexdigest(), "relpath": path}
        for path, content in sorted(files.items())
    ]
    return hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest() + ".dir"


def files_under(folder: Path) -> dict[str, bytes]:
    """A folder on this machine in the form that :func:`folder_digest` takes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _digest(forge: Forge, sha: str, path: str, *, folder: bool) -> str | None:
    """DVC's digest of what git holds at ``path``; None if git holds nothing there."""
    if folder:
        files = forge.read_folder(sha, path)
        return folder_digest(files) if files else None
    content = forge.read_file(sha, path)
    return None if content is None else hashlib.md5(content, usedforsecurity=False).hexdigest()


def _yaml(forge: Forge, sha: str, path: str) -> Json:
    try:
        value = parse_yaml(forge.read_file(sha, path) or b"")
    except YAMLError as error:
        raise CannotCheck(f"commit {sha}: {path} is not YAML: {error}", remedy=f"mend {path}") from error
    if not isinstance(value, dict):
        raise CannotCheck(f"commit {sha} has no readable {path}", remedy=f"commit {path} and push")
    return value


def _stale(expected: str, found: object) -> Refused:
    return Refused(
        "forge.lock-describes-head",
        expected=expected,
        found=found,
        remedy="run dvc repro on this head, commit dvc.lock and metrics, push",
    )
