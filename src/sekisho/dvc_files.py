"""DVC's own files, read without DVC: its digests, and whether a ``dvc.lock`` is one of this ``dvc.yaml``.

Digests as DVC 3 makes them: md5 of a file's bytes; of a folder, md5 of the JSON list of its files' md5 and
paths, then ``.dir``. They name content; they do not protect it. https://dvc.org/doc/user-guide/project-structure
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.params import lookup

PARAMS = "params.yaml"  # the file that DVC reads keys from where a stage names none
OUTPUTS = ("outs", "metrics", "plots")
# `frozen` makes DVC skip a stage whatever changed; foreach, matrix and vars are stages unseen here
STAGE_KEYS = {"cmd", "deps", "params", "always_changed", "desc", "meta", *OUTPUTS}


def content_md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def file_md5(path: Path) -> str:
    """Digest of one file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def folder_md5(digests: Mapping[str, str]) -> str:
    """DVC's digest of a folder from its files' digests by relative POSIX path."""
    listing = [{"md5": digest, "relpath": path} for path, digest in sorted(digests.items())]
    return content_md5(json.dumps(listing).encode()) + ".dir"


def folder_digest(files: Mapping[str, bytes]) -> str:
    """DVC's digest of a folder from its files' contents by relative POSIX path."""
    return folder_md5({path: content_md5(content) for path, content in files.items()})


def files_under(folder: Path) -> dict[str, bytes]:
    """A folder on this machine in the form that :func:`folder_digest` takes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class Mismatch:
    """A place where ``dvc.lock`` does not say what it must."""

    expected: str
    found: object


def lock_mismatches(
    pipeline: Mapping[str, Any], locked: Mapping[str, Any], read: Callable[[str], Any]
) -> Iterator[Mismatch]:
    """Where the locked stages are not a run of these stages with these parameters.

    Every stage is locked and no other; each ran this command, read exactly the named dependencies and
    parameters, wrote exactly the named outputs, and took what the stage before it gave.

    Args:
        pipeline: ``stages`` of dvc.yaml.
        locked: ``stages`` of dvc.lock.
        read: gives the parsed parameter file of that name.

    Raises:
        ValueError: a stage is written in a way that cannot be compared; names it.
    """
    if set(locked) != set(pipeline):
        odd = sorted(set(locked) ^ set(pipeline))
        yield Mismatch("the stages of dvc.yaml", f"{odd} in only one of the two")
    given: dict[str, str] = {}
    for name in locked:
        for path, md5 in locked_paths(name, locked[name], "outs").items():
            if path in given:
                yield Mismatch(f"one stage that gives {path}", f"stage {name} too")
            given[path] = md5
    for name in sorted(set(locked) & set(pipeline)):
        yield from _stage_mismatches(name, _Stage.read(name, pipeline[name]), locked[name], given, read)


def locked_paths(name: str, stage: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Digest by path of a locked stage's ``deps`` or ``outs``.

    Raises:
        ValueError: an entry is not one of DVC's.
    """
    try:
        entries = [(entry["path"], entry["md5"]) for entry in stage.get(kind) or []]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"stage {name}: {kind} without path and md5") from error
    if len(dict(entries)) != len(entries) or not all(isinstance(part, str) for e in entries for part in e):
        raise ValueError(f"stage {name}: {kind} named twice or not by text")
    return dict(entries)


def _stage_mismatches(
    name: str, stage: _Stage, locked: Mapping[str, Any], given: Mapping[str, str], read: Callable[[str], Any]
) -> Iterator[Mismatch]:
    if locked.get("cmd") != stage.cmd:
        yield Mismatch(f"stage {name} run by {stage.cmd!r}", locked.get("cmd"))
    for kind, declared in (("deps", stage.deps), ("outs", stage.outs)):
        paths = locked_paths(name, locked, kind)
        if set(paths) != declared:
            odd = sorted(set(paths) ^ declared)
            yield Mismatch(f"stage {name} with the {kind} of dvc.yaml", f"{odd} in only one of the two")
        if kind == "deps":
            for path, md5 in paths.items():
                if given.get(path, md5) != md5:
                    yield Mismatch(f"stage {name}: {path} as the stage before gave it, {given[path]}", md5)
    used = locked.get("params") or {}
    for file in sorted(set(used) | set(stage.params)):
        values = read(file)
        keys = stage.params.get(file, set())
        wanted = set(values) if keys is None else keys
        if set(used.get(file, {})) != wanted:
            odd = sorted(set(used.get(file, {})) ^ wanted)
            yield Mismatch(f"stage {name} with the params of dvc.yaml", f"{odd} in only one of the two")
        for key, value in used.get(file, {}).items():
            if lookup(values, key) != value:
                yield Mismatch(f"stage {name}: {file}: {key} = {value!r}", lookup(values, key))


@dataclass(frozen=True)
class _Stage:
    """A stage of dvc.yaml; ``params``: keys by file, None for a whole file."""

    cmd: str | list[str]
    deps: set[str]
    outs: set[str]
    params: dict[str, set[str] | None]

    @classmethod
    def read(cls, name: str, stage: Any) -> _Stage:
        if not isinstance(stage, dict) or set(stage) - STAGE_KEYS or "${" in json.dumps(stage, default=str):
            odd = sorted(set(stage) - STAGE_KEYS) if isinstance(stage, dict) else []
            raise ValueError(
                f"stage {name}: {', '.join(odd) or 'a template'} in dvc.yaml cannot be compared with the lock"
            )
        params: dict[str, set[str] | None] = {}
        for entry in stage.get("params") or []:
            for file, keys in entry.items() if isinstance(entry, dict) else [(PARAMS, [entry])]:
                known = params.setdefault(file, set())
                params[file] = None if keys is None or known is None else known | set(keys)
        return cls(
            stage.get("cmd", ""),
            _paths(stage, "deps"),
            set().union(*(_paths(stage, kind) for kind in OUTPUTS)),
            params,
        )


def _paths(stage: Mapping[str, Any], kind: str) -> set[str]:
    """Paths of a list whose entries are a path or ``{path: options}``."""
    entries = stage.get(kind) or []
    return {path for entry in entries for path in (entry if isinstance(entry, dict) else [entry])}
