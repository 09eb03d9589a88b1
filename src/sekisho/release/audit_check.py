"""Is the audit log whole? Against its chain, git, the signed deployments, and what lies in the repository."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from sekisho.errors import CannotCheck, Refused, require_same
from sekisho.release import audit
from sekisho.release.dvclock import git
from sekisho.release.manifest import BUNDLES, Manifest, read_manifest
from sekisho.release.policy import load_policy
from sekisho.release.promote import read_pointer
from sekisho.release.statements import Deployment, Predicate, Revocations

RESTORE = "restore the release from git; a release is never changed or removed"
P = TypeVar("P", bound=Predicate)


def check_log(repo: Path) -> audit.Head:
    """Prove the log unbroken and complete; returns its head.

    The chain shows edits, deletions and moves inside the log; git's history and the heads signed into
    deployments show lines cut off its end; releases, bundles, pointers and revocation lists without their
    event show what was never logged, or was undone.

    Raises:
        Refused: rules ``audit-chain``, ``audit-truncated``, ``audit-missing-event``, ``release-chain``.
        CannotCheck: git or a file cannot be read, or the clone has not the whole history.
    """
    releases = repo / "releases"
    events, lines = audit.read_log(releases)
    _check_git(repo, lines)
    for path in sorted(releases.glob(f"*/*/{BUNDLES}/deployment-*.sigstore.json")):
        _check_signed_head(path, lines)
    found: dict[tuple[str, int], tuple[Manifest, str]] = {}
    for folder in sorted(path.parent for path in releases.glob("*/*/manifest.json")):
        manifest, digest = _check_release(folder, events)
        found[manifest.model, manifest.seq] = manifest, digest
    for (model, seq), (manifest, _) in found.items():
        before = found.get((model, seq - 1))
        require_same("release-chain", before[1] if before else None, manifest.previous, RESTORE)
    _check_lists(repo / "trust", events)
    for path in sorted((repo / "deploy/policy").glob("*/release.env")):
        _check_pointer(repo, path.parent.name, events)
    return audit.head_of(lines)


def _check_git(repo: Path, lines: list[bytes]) -> None:
    """Every version that was ever committed must be a beginning of what lies here.

    The full history: left to itself, git passes over the side of a merge whose version did not survive.
    """
    if git(repo, "rev-parse", "--is-shallow-repository").strip() != b"false":
        raise CannotCheck(
            "this clone lacks part of the history", remedy="`git fetch --unshallow`, then again"
        )
    name = f"releases/{audit.LOG}"
    for commit in git(repo, "log", "--full-history", "--format=%H", "--", name).decode().split():
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
    head = _payload(path, Deployment).audit
    if len(lines) < head.lines or audit.line_hash(lines[head.lines - 1]) != head.sha256:
        raise _truncated(head.lines, str(path), len(lines))


def _check_release(folder: Path, events: list[audit.Event]) -> tuple[Manifest, str]:
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
    signed: list[dict[str, Any]] = [
        event.details.get("bundles", {}) for event in own if event.event == "sign"
    ]
    if bundles and bundles not in signed:
        raise _unlogged(f"a sign event with the bundles of {folder}", "restore the bundles from git")
    return manifest, digest


def _check_lists(trust: Path, events: list[audit.Event]) -> None:
    """A revocation list is of no later serial than the log knows, and lacks nothing that the log revokes."""
    environments = load_policy(trust).environments
    for name in sorted({policy.revoked for policy in environments.values()}):
        if not (trust / name).exists():
            continue  # nothing verifies without it
        claim = _payload(trust / name, Revocations)
        if claim.serial > sum(event.event in ("revoke", "renew") for event in events):
            raise _unlogged(f"the event of revocation list {claim.serial} in {trust / name}", RESTORE)
        own = {environment for environment, policy in environments.items() if policy.revoked == name}
        logged = {
            event.manifest_digest
            for event in events
            if event.event == "revoke" and event.details.get("environment") in own
        }
        missing = logged - {entry.manifest_digest for entry in claim.revoked}
        if missing:
            raise Refused(
                "audit-missing-event",
                expected=f"{trust / name} with every revocation of the log",
                found=f"without {', '.join(sorted(map(str, missing)))}",
                remedy="restore the list from git, or `sekisho revoke --renew`",
            )


def _payload(path: Path, model: type[P]) -> P:
    """What a bundle says. Its signature is not checked here: a false one can only lead to a refusal."""
    try:
        envelope = json.loads(path.read_bytes())["dsseEnvelope"]
        predicate = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
        return model.model_validate_json(json.dumps(predicate))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotCheck(f"{path}: {error}", remedy="restore it from git") from error


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
