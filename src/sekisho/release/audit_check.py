"""Is the audit log whole? Against its chain, git, the signed deployments, and what lies in the repository."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from sekisho.checkout import git
from sekisho.errors import CannotCheck, Refused, require_same
from sekisho.pointer import Pointer, read_pointer
from sekisho.release import audit, evidence
from sekisho.release.deployment import check_logged, last_promotions
from sekisho.release.manifest import BUNDLES, MANIFEST, ORIGIN, Manifest, check_place, read_manifest
from sekisho.release.policy import FACTS, load_policy
from sekisho.release.revocation import CLOCK_LAG, revoked_by
from sekisho.release.statements import Deployment, Revocations

RESTORE = "restore the release from git; a release is never changed or removed"


def check_log(repo: Path, known: str | None = None) -> audit.Head:
    """Prove the log unbroken and complete; returns its head.

    The chain shows edits, deletions and moves inside the log; git's history, the heads signed into
    deployments and ``known`` (a head that was noted before, [sha256:]HEX) show lines cut off its end;
    releases, bundles, pointers and revocation lists without their event show what was never logged, or was
    undone; events without their release, bundles, pointer or list show what was removed.

    Raises:
        Refused: rules ``audit-chain``, ``audit-time``, ``audit-truncated``, ``audit-missing-event``,
            ``audit-missing-evidence``, ``deployment-logged``, ``release-folder``, ``release-chain``,
            ``rollback-origin``, ``rollback-content``, ``seq-reused``, ``symlink``.
        CannotCheck: git or a file cannot be read, the clone has not the whole history, ``known`` is no
            sha256.
    """
    releases = repo / "releases"
    _check_links(releases)
    events, lines = audit.read_log(releases)
    _check_time(events)
    if known is not None:
        _check_known(known, lines)
    _check_git(repo, lines)
    deployments = evidence.deployments(releases)
    for path in deployments.values():
        _check_signed_head(path, lines)
    signed = audit.signed_releases(events)
    found: dict[tuple[str, int], tuple[Manifest, str]] = {}
    # [!.]: what an interrupted command left is no release
    for folder in sorted(path.parent for path in releases.glob("*/[!.]*/manifest.json")):
        manifest, digest = _check_release(releases, folder, events)
        found[manifest.model, manifest.seq] = manifest, digest
    for (model, seq), (manifest, _) in found.items():
        before = found.get((model, seq - 1))
        require_same("release-chain", before[1] if before else None, manifest.previous, RESTORE)
        if manifest.rollback:
            _check_rollback(releases, manifest, found.get((model, manifest.rollback.seq)))
    for key, digest in signed.items():
        name = f"{key[0]}/{key[1]}"
        _present(f"{name} of sha256 {digest}", found.get(key, (None, None))[1] == digest, RESTORE)
        _present(f"content.dvc of {name}", (releases / name / "content.dvc").is_file(), RESTORE)
    _check_deployments(deployments, last_promotions(events))
    _check_lists(repo / "trust", events)
    _check_pointers(repo, events)
    return audit.head_of(lines)


def _check_rollback(releases: Path, manifest: Manifest, origin: tuple[Manifest, str] | None) -> None:
    """A rollback holds the very files and evidence of the release that it names, itself no rollback."""
    assert manifest.rollback
    name = f"{manifest.model}/{manifest.seq}"
    earlier, digest = origin or (None, None)
    remedy = f"do not run {name}; find out who signed it, and roll back anew"
    require_same(
        "rollback-origin",
        (manifest.rollback.manifest_digest, None),
        (digest, earlier and earlier.rollback),
        remedy,
    )
    require_same("rollback-content", earlier and earlier.files, manifest.files, remedy)
    source = releases / manifest.model / str(manifest.rollback.seq)
    for path in (MANIFEST, *(f"{BUNDLES}/{fact}.sigstore.json" for fact in FACTS)):
        copy = releases / name / ORIGIN / path
        _present(f"{copy} as in {source}", _read(copy) == _read(source / path) is not None, RESTORE)


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _present(what: str, present: bool, remedy: str) -> None:
    if not present:
        raise Refused(
            "audit-missing-evidence",
            expected=f"{what}, as the log says",
            found="removed or replaced",
            remedy=remedy,
        )


def _check_links(releases: Path) -> None:
    """Git keeps the history of what lies under this name: through a link, that would be another one's."""
    for path in (releases, releases / audit.LOG, *sorted(releases.glob("*"))):
        if path.is_symlink():
            raise Refused("symlink", expected="plain files and folders only", found=path, remedy=RESTORE)


def _check_known(known: str, lines: list[bytes]) -> None:
    digest = known.removeprefix("sha256:")
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise CannotCheck(
            f"noted head {known!r}: not a sha256",
            remedy="give --from the 64 hex digits that `sekisho audit check` printed",
        )
    if digest not in map(audit.line_hash, lines):
        raise Refused(
            "audit-truncated",
            expected=f"a line of sha256 {digest}",
            found=f"{len(lines)} lines without it",
            remedy=audit.RESTORE,
        )


def _check_time(events: list[audit.Event]) -> None:
    """A clock that once ran ahead would stamp every later event: seen before it is merged."""
    now = audit.now()
    for event in events:
        if event.at > now + CLOCK_LAG:
            raise Refused(
                "audit-time",
                expected=f"line {event.line} before now, {now}",
                found=event.at,
                remedy="set the clock of the machine that wrote it; take the line back before it is merged",
            )


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
    head = evidence.payload(path, Deployment).audit
    if len(lines) < head.lines or audit.line_hash(lines[head.lines - 1]) != head.sha256:
        raise _truncated(head.lines, str(path), len(lines))


def _check_release(releases: Path, folder: Path, events: list[audit.Event]) -> tuple[Manifest, str]:
    manifest, digest = read_manifest(folder)
    check_place(releases, folder, manifest)
    own = [event for event in events if event.manifest_digest == digest and event.seq == manifest.seq]
    made = "rollback" if manifest.rollback else "export"
    if not any(event.event == made for event in own):
        raise _unlogged(f"an {made} event of {folder}", "run the command again, or remove the folder")
    bundles = {
        path.name.removesuffix(".sigstore.json"): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / BUNDLES).glob("*.sigstore.json")
        if not path.name.startswith("deployment-")
    }
    signed = [event.details.get("bundles", {}) for event in own if event.event == "sign"]
    if bundles and bundles not in signed:
        raise _unlogged(f"a sign event with the bundles of {folder}", "restore the bundles from git")
    if signed:
        _present(f"the signed facts in {folder / BUNDLES}", bool(bundles), f"{RESTORE}; or sign it again")
    return manifest, digest


def _check_deployments(
    bundles: dict[tuple[str, int, str], Path], logged: dict[tuple[str, int, str], audit.Event]
) -> None:
    """Each release's last promotion to each environment is there, signed as the log has it; no other is."""
    for (model, seq, environment), event in logged.items():
        path = bundles.get((model, seq, environment))
        what = f"the promotion of {model}/{seq} to {environment} (line {event.line})"
        _present(what, path is not None, "restore it from git, or run `sekisho promote` again")
    for key, path in bundles.items():
        check_logged(evidence.payload(path, Deployment), logged.get(key), path)


def _check_lists(trust: Path, events: list[audit.Event]) -> None:
    """A revocation list is of no later serial than the log knows, and lacks nothing that the log revokes."""
    policy = load_policy(trust)
    for name in sorted({environment.revoked for environment in policy.environments.values()}):
        logged = {entry.manifest_digest for entry in revoked_by(events, policy.sharing(name))}
        if not (trust / name).exists():
            _present(f"{trust / name}", not logged, "restore the list from git, or `sekisho revoke --renew`")
            continue  # nothing verifies without it
        claim = evidence.payload(trust / name, Revocations)
        if claim.serial > sum(event.event in ("revoke", "renew") for event in events):
            raise _unlogged(f"the event of revocation list {claim.serial} in {trust / name}", RESTORE)
        missing = logged - {entry.manifest_digest for entry in claim.revoked}
        if missing:
            raise Refused(
                "audit-missing-event",
                expected=f"{trust / name} with every revocation of the log",
                found=f"without {', '.join(sorted(map(str, missing)))}",
                remedy="restore the list from git, or `sekisho revoke --renew`",
            )


def _check_pointers(repo: Path, events: list[audit.Event]) -> None:
    """Every environment points at what was promoted to it last."""
    last = {str(event.details.get("environment")): event for event in events if event.event == "promote"}
    files = {path.parent.name for path in (repo / "deploy/policy").glob("*/release.env")}
    for environment in sorted(files | last.keys()):
        pointer, event = read_pointer(repo, environment), last.get(environment)
        logged = Pointer(event.model, event.seq, event.manifest_digest) if event else None  # type: ignore[arg-type]
        if pointer and pointer != logged:
            raise _unlogged(
                f"a promotion of {pointer} to {environment} as the last one", "run `sekisho promote`"
            )
        _present(f"{environment} pointing at {logged}", pointer == logged, "restore release.env from git")


def _unlogged(what: str, remedy: str) -> Refused:
    return Refused("audit-missing-event", expected=what, found="none in the audit log", remedy=remedy)
