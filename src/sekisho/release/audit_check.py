"""Is the audit log whole? Against its chain, git, the signed deployments, and what lies in the repository."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from sekisho.errors import CannotCheck, Refused
from sekisho.release import audit
from sekisho.release.dvclock import git
from sekisho.release.manifest import BUNDLES, read_manifest
from sekisho.release.promote import read_pointer
from sekisho.release.statements import Deployment


def check_log(repo: Path) -> audit.Head:
    """Prove the log unbroken and complete; returns its head.

    The chain shows edits, deletions and moves inside the log; git's history and the heads signed into
    deployments show lines cut off its end; releases, bundles and pointers without their event show what was
    never logged.

    Raises:
        Refused: rules ``audit-chain``, ``audit-truncated``, ``audit-missing-event``.
        CannotCheck: git or a file cannot be read.
    """
    releases = repo / "releases"
    events, lines = audit.read_log(releases)
    _check_git(repo, lines)
    for path in sorted(releases.glob(f"*/*/{BUNDLES}/deployment-*.sigstore.json")):
        _check_signed_head(path, lines)
    for folder in sorted(path.parent for path in releases.glob("*/*/manifest.json")):
        _check_release(folder, events)
    for path in sorted((repo / "deploy/policy").glob("*/release.env")):
        _check_pointer(repo, path.parent.name, events)
    return audit.head_of(lines)


def _check_git(repo: Path, lines: list[bytes]) -> None:
    """Every committed version must be the beginning of the next, and the last of what lies here."""
    name = f"releases/{audit.LOG}"
    for commit in git(repo, "log", "--format=%H", "--", name).decode().split():
        listed = git(repo, "ls-tree", "--name-only", commit, "--", name)
        stored = git(repo, "show", f"{commit}:{name}").splitlines() if listed else []
        if lines[: len(stored)] != stored:
            raise _truncated(len(stored), f"commit {commit[:12]}", len(lines))


def _truncated(expected: int, where: str, found: int) -> Refused:
    return Refused(
        "audit-truncated",
        expected=f"the {expected} lines known to {where}",
        found=f"{found} lines that do not begin with them",
        remedy=audit.RESTORE,
    )


def _check_signed_head(path: Path, lines: list[bytes]) -> None:
    try:
        envelope = json.loads(path.read_bytes())["dsseEnvelope"]
        predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
        head = Deployment.model_validate_json(json.dumps(predicate)).audit
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotCheck(f"{path}: {error}", remedy="restore it from git") from error
    if len(lines) < head.lines or audit.line_hash(lines[head.lines - 1]) != head.sha256:
        raise _truncated(head.lines, str(path), len(lines))


def _check_release(folder: Path, events: list[audit.Event]) -> None:
    manifest, digest = read_manifest(folder)
    own = [event for event in events if event.manifest_digest == digest and event.seq == manifest.seq]
    made = "rollback" if manifest.rollback else "export"
    if not any(event.event == made for event in own):
        raise _unlogged(f"an {made} event of {folder}", "run the command again, or remove the folder")
    bundles = {
        path.name.removesuffix(".sigstore.json"): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / BUNDLES).glob("*.sigstore.json")
        if not path.name.startswith("deployment-")
    }
    signed: list[dict[str, Any]] = [event.details["bundles"] for event in own if event.event == "sign"]
    if bundles and bundles not in signed:
        raise _unlogged(f"a sign event with the bundles of {folder}", "restore the bundles from git")


def _check_pointer(repo: Path, environment: str, events: list[audit.Event]) -> None:
    pointer = read_pointer(repo, environment)
    promoted = [
        event
        for event in events
        if event.event == "promote" and event.details.get("environment") == environment
    ]
    last = promoted[-1] if promoted else None
    logged = (last.model, last.seq, last.manifest_digest) if last else None
    if pointer and logged != (pointer.model, pointer.seq, pointer.digest):
        raise _unlogged(f"a promotion of {pointer} to {environment} as the last one", "run `sekisho promote`")


def _unlogged(what: str, remedy: str) -> Refused:
    return Refused("audit-missing-event", expected=what, found="none in the audit log", remedy=remedy)
