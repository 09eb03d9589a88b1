"""Does a commit's ``dvc.lock`` describe that commit? Read from the forge, without a checkout.

``dvc.lock`` holds, per stage, the digest of everything the stage read and wrote and the parameters it used.
A commit whose code, parameters or metrics differ was not reproduced: its report is about something else.
"""

from __future__ import annotations

from typing import Any

from ruamel.yaml.error import YAMLError

from sekisho.dvc_files import content_md5, folder_digest, lock_mismatches, locked_paths
from sekisho.errors import CannotCheck, Refused
from sekisho.forge.interface import Forge
from sekisho.forge.markdown import quoted
from sekisho.params import parse_yaml

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
            f"commit {sha}: dvc.lock is not readable: {quoted(str(error))}", remedy="run dvc repro"
        ) from error
    return raw, stages


def check_lock(forge: Forge, sha: str) -> None:
    """The lock is one of this dvc.yaml and params.yaml; files in git that a stage names are the lock's.

    Files that DVC holds and git does not are not looked at: ``dvc repro`` in CI does that.

    Raises:
        CannotCheck: dvc.lock, dvc.yaml or params.yaml is missing or unreadable.
        Refused: names the stage and the command, path or parameter that differs.
    """
    _, locked = read_lock(forge, sha)
    pipeline = _yaml(forge, sha, "dvc.yaml").get("stages", {})
    params = {"params.yaml": _yaml(forge, sha, "params.yaml")}
    try:
        for mismatch in lock_mismatches(
            pipeline, locked, lambda file: params.get(file) or _yaml(forge, sha, file)
        ):
            raise _stale(mismatch.expected, mismatch.found)
        digests: dict[str, str | None] = {}
        for stage, entry in locked.items():
            for path, md5 in (
                locked_paths(stage, entry, "deps") | locked_paths(stage, entry, "outs")
            ).items():
                if path not in digests:
                    digests[path] = _digest(forge, sha, path, folder=md5.endswith(".dir"))
                if digests[path] not in (None, md5):
                    raise _stale(f"stage {stage}: {path} with md5 {md5}", digests[path])
    except ValueError as error:
        raise CannotCheck(
            f"commit {sha}: {quoted(str(error))}", remedy="mend dvc.yaml, run dvc repro, push"
        ) from error


def _digest(forge: Forge, sha: str, path: str, *, folder: bool) -> str | None:
    """DVC's digest of what git holds at ``path``; None if git holds nothing there."""
    if folder:
        files = forge.read_folder(sha, path)
        return folder_digest(files) if files else None
    content = forge.read_file(sha, path)
    return None if content is None else content_md5(content)


def _yaml(forge: Forge, sha: str, path: str) -> Json:
    try:
        value = parse_yaml(forge.read_file(sha, path) or b"")
    except YAMLError as error:
        raise CannotCheck(
            f"commit {sha}: {quoted(path)} is not YAML: {quoted(str(error))}", remedy="mend the file"
        ) from error
    if not isinstance(value, dict):
        raise CannotCheck(f"commit {sha} has no readable {quoted(path)}", remedy="commit it and push")
    return value


def _stale(expected: str, found: object) -> Refused:
    return Refused(
        "forge.lock-describes-head",
        expected=quoted(expected),  # a pull request's own words
        found=quoted(str(found)),
        remedy="run dvc repro on this head, commit dvc.lock and metrics, push",
    )
