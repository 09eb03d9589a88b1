"""Promote, roll back, revoke: each verifies first and is logged before it acts."""

from __future__ import annotations

import datetime as dt
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from sekisho.errors import CannotCheck, Refused
from sekisho.params import ReleaseParams
from sekisho.release import audit
from sekisho.release.dvclock import head
from sekisho.release.export import created_from, publish, releases_of
from sekisho.release.manifest import BUNDLES, CONTENT, MANIFEST, ORIGIN, Rollback, check_files, read_manifest
from sekisho.release.policy import FACTS, Fact, load_trust
from sekisho.release.signer import Authority, install_local_root, open_signer, predicate_digest
from sekisho.release.soak import check_soak
from sekisho.release.statements import (
    AuditHead,
    Deployment,
    Revocations,
    Revoked,
    make_statement,
    subject_name,
)
from sekisho.release.verify import REVOCATIONS, VerifiedRelease, check_facts, read_revocations, verify_release

if TYPE_CHECKING:
    from sekisho.release.bundle import BundleVerifier

NO_RELEASE = "RELEASE=none\n"  # what an environment points at before its first promotion
POINTER = re.compile(r"RELEASE=([a-z][a-z0-9-]{0,62})/([1-9][0-9]{0,8})@sha256:([0-9a-f]{64})\n")


@dataclass(frozen=True)
class Pointer:
    """What ``deploy/policy/<environment>/release.env`` says."""

    model: str
    seq: int
    digest: str

    def __str__(self) -> str:
        return f"{self.model}/{self.seq}@sha256:{self.digest}"


def pointer_path(repo: Path, environment: str) -> Path:
    return repo / "deploy/policy" / environment / "release.env"


def read_pointer(repo: Path, environment: str) -> Pointer | None:
    """The release an environment points at; None when it has none yet.

    Raises:
        CannotCheck: the file is not the one line it must be.
    """
    path = pointer_path(repo, environment)
    line = path.read_text(encoding="utf-8") if path.exists() else NO_RELEASE
    if line == NO_RELEASE:
        return None
    match = POINTER.fullmatch(line)
    if not match:
        raise CannotCheck(
            f"{path}: not one line RELEASE=<model>/<seq>@sha256:<digest>", remedy="restore it from git"
        )
    return Pointer(match[1], int(match[2]), match[3])


@dataclass(frozen=True)
class Desk:
    """Where and as whom a command works."""

    repo: Path
    trust: Path
    authority: Authority
    local_folder: Path
    actor: str
    params: ReleaseParams


def promote(
    desk: Desk, release: Path, environment: str, reason: str, soak: Path | None = None
) -> tuple[VerifiedRelease, Pointer | None]:
    """Point ``environment`` at a release: sign the deployment, log it, change the one line.

    Returns the release and what was there before. ``soak`` is monitoring's verdict on the release where it
    ran before; environments whose trust policy asks for one are not reached without.

    Repeating it after an interruption completes it; repeating it when done changes nothing.

    Raises:
        Refused: the release does not verify, or is older than what the environment has.
        CannotCheck: something could not be checked or signed.
    """
    from sekisho.release.bundle import BundleVerifier

    releases = desk.repo / "releases"
    with audit.locked(releases):
        current = read_pointer(desk.repo, environment)
        verified = verify_release(
            release, trust=desk.trust, environment=environment, minimum_seq=current.seq if current else 0
        )
        target = Pointer(verified.model, verified.seq, verified.digest)
        if current and (current.model, current.seq) == (target.model, target.seq) and current != target:
            raise Refused(
                "pointer-digest",
                expected=current,
                found=target,
                remedy="a seq is given once; export a new release",
            )
        if current == target and "deployment" in verified.facts:
            return verified, current
        if current and current.model != target.model:
            raise Refused(
                "pointer-model",
                expected=current.model,
                found=target.model,
                remedy="one environment, one model",
            )
        moment = audit.now()
        trust = load_trust(desk.trust, environment, now=moment)
        soaked = check_soak(release, verified, trust, soak, moment) if trust.policy.soak else None
        action: Literal["promote", "rollback"] = "rollback" if verified.manifest.rollback else "promote"
        event, log = audit.next_event(
            releases,
            "promote",
            desk.actor,
            model=target.model,
            seq=target.seq,
            manifest_digest=target.digest,
            details={
                "environment": environment,
                "action": action,
                "reason": reason,
                "previous": _text(current),
            },
        )
        claim = Deployment(
            environment=cast(Any, environment),
            model=target.model,
            seq=target.seq,
            previous=_text(current),
            action=action,
            reason=reason,
            actor=desk.actor,
            expires=moment + dt.timedelta(days=desk.params.deployment_days),
            audit=AuditHead(lines=log.lines, sha256=log.sha256),
            soak=soaked,
        )
        sign = open_signer(desk.authority, trust.policy, head(desk.repo)[0], desk.local_folder)
        name = subject_name(verified.manifest)
        bundle = sign("deployment", make_statement("deployment", name, target.digest, claim))
        path = release / BUNDLES / f"deployment-{environment}.sigstore.json"
        check_bundle(BundleVerifier(trust), bundle, path, "deployment", name, target.digest)
        audit.append(releases, event)
        audit.write_atomically(path, bundle, staging=release.parent)
        audit.write_atomically(pointer_path(desk.repo, environment), f"RELEASE={target}\n".encode())
    return verify_release(release, trust=desk.trust, environment=environment, deployed=True), current


def _text(pointer: Pointer | None) -> str | None:
    return str(pointer) if pointer else None


def check_bundle(
    verifier: BundleVerifier, bundle: bytes, path: Path, fact: Fact, name: str, digest: str | None
) -> None:
    """Verify a bundle just made as anybody would, before it is put in place."""
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / path.name
        staged.write_bytes(bundle)
        verifier.verify(staged, fact, name, digest)


def rollback(desk: Desk, to: int, reason: str, environment: str) -> Path:
    """Make the next release with the content of release ``to``; returns its folder.

    It carries the manifest and bundles of the release whose content it is, and needs an approval and
    signatures of its own, like any release. ``environment`` names the policy that release must hold under.

    Raises:
        Refused: ``to`` does not verify, or is the newest already.
        CannotCheck: no such release, or its content is not here.
    """
    from sekisho.release.bundle import BundleVerifier

    releases = desk.repo / "releases"
    with audit.locked(releases):
        existing = releases_of(releases, desk.params.model)
        if to not in existing:
            known = ", ".join(map(str, existing)) or "none"
            raise CannotCheck(
                f"no release {desk.params.model}/{to}; there are {known}", remedy="choose one of them"
            )
        source = existing[to]
        manifest, digest = read_manifest(source)
        if to == max(existing):
            raise Refused(
                "rollback-target", expected="an older release", found=f"the newest, {to}", remedy="promote it"
            )
        check_files(manifest, source / CONTENT)
        verifier = BundleVerifier(load_trust(desk.trust, environment, now=audit.now()))
        check_facts(source, manifest, digest, verifier)
        origin = source / ORIGIN if manifest.rollback else source
        seq = manifest.rollback.seq if manifest.rollback else manifest.seq
        digest = manifest.rollback.manifest_digest if manifest.rollback else digest
        fresh = Path(tempfile.mkdtemp(prefix=".export-", dir=source.parent))
        try:
            fresh.chmod(0o755)
            shutil.copytree(source / CONTENT, fresh / CONTENT)
            (fresh / ORIGIN / BUNDLES).mkdir(parents=True)
            shutil.copy(origin / MANIFEST, fresh / ORIGIN / MANIFEST)
            for fact in FACTS:
                name = f"{fact}.sigstore.json"
                shutil.copy(origin / BUNDLES / name, fresh / ORIGIN / BUNDLES / name)
            entry = Rollback(seq=seq, manifest_digest=digest, reason=reason)
            return publish(releases, desk.params.model, fresh, created_from(desk.repo), entry, desk.actor)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def revoke(desk: Desk, release: Path | None, reason: str, environment: str) -> Revocations:
    """Sign a new revocation list with ``release`` added; None only renews it.

    The list is made from the audit log's revocations, so that none is lost with an old list.

    Raises:
        Refused: the audit log or the present list does not hold.
        CannotCheck: no such release, or it could not be signed.
    """
    from sekisho.release.bundle import BundleVerifier

    releases = desk.repo / "releases"
    if desk.authority == "local":
        install_local_root(desk.trust, desk.local_folder)
    moment = audit.now()
    trust = load_trust(desk.trust, environment, now=moment)
    verifier = BundleVerifier(trust)
    path = desk.trust / trust.policy.revoked
    with audit.locked(releases):
        if release:
            manifest, digest = read_manifest(release)
            event, _ = audit.next_event(
                releases,
                "revoke",
                desk.actor,
                model=manifest.model,
                seq=manifest.seq,
                manifest_digest=digest,
                details={"environment": environment, "reason": reason},
            )
        else:
            event, _ = audit.next_event(releases, "renew", desk.actor, details={"environment": environment})
        audit.append(releases, event)
        events, _ = audit.read_log(releases)
        claim = Revocations(
            serial=sum(e.event in ("revoke", "renew") for e in events),
            issued=moment,
            expires=moment + dt.timedelta(days=desk.params.revocation_days),
            revoked=list(_revoked(events)),
        )
        if path.exists():
            _nothing_lost(verifier, claim, moment)
        digest = predicate_digest(claim.model_dump(mode="json"))
        sign = open_signer(desk.authority, trust.policy, head(desk.repo)[0], desk.local_folder)
        bundle = sign("revocation", make_statement("revocation", REVOCATIONS, digest, claim))
        check_bundle(verifier, bundle, path, "revocation", REVOCATIONS, None)
        audit.write_atomically(path, bundle)
    return claim


def _revoked(events: list[audit.Event]) -> list[Revoked]:
    entries: dict[str, Revoked] = {}
    for event in events:
        if event.event == "revoke" and event.manifest_digest and event.model and event.seq:
            entries.setdefault(
                event.manifest_digest,
                Revoked(
                    manifest_digest=event.manifest_digest,
                    model=event.model,
                    seq=event.seq,
                    reason=event.details["reason"],
                    at=event.at,
                ),
            )
    return list(entries.values())


def _nothing_lost(verifier: Any, claim: Revocations, moment: dt.datetime) -> None:
    """What the present list revokes must be in the new one; an expired list still counts."""
    present = read_revocations(verifier, moment, expired=True)
    lost = {e.manifest_digest for e in present.revoked} - {e.manifest_digest for e in claim.revoked}
    if lost:
        raise Refused(
            "audit-chain",
            expected="every revocation of the present list in the audit log",
            found=f"missing: {', '.join(sorted(lost))}",
            remedy=audit.RESTORE,
        )


def ensure_local_list(desk: Desk) -> None:
    """On a laptop nothing renews the list on a schedule: do it when it is missing or has run out."""
    from sekisho.release.bundle import BundleVerifier

    trust = load_trust(desk.trust, "local", now=audit.now())
    try:
        read_revocations(BundleVerifier(trust), audit.now())
    except CannotCheck:
        revoke(desk, None, "", "local")
