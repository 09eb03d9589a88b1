"""Promote and roll back: each verifies first and is logged before it acts."""

from __future__ import annotations

import datetime as dt
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from sekisho.errors import CannotCheck, Refused
from sekisho.params import ReleaseParams
from sekisho.pointer import Pointer, pointer_path, read_pointer
from sekisho.release import audit
from sekisho.release.deployment import check_deployment, ran_before
from sekisho.release.evidence import require_finished
from sekisho.release.export import created_from, publish, releases_of
from sekisho.release.manifest import (
    BUNDLES,
    CONTENT,
    MANIFEST,
    ORIGIN,
    Rollback,
    check_files,
    check_place,
    read_manifest,
)
from sekisho.release.policy import FACTS, Trust, load_trust
from sekisho.release.revocation import check_revocation, check_with_log, read_revocations
from sekisho.release.signer import Desk
from sekisho.release.soak import required_soak
from sekisho.release.statements import (
    AuditHead,
    Deployment,
    Soak,
    make_statement,
    subject_name,
)
from sekisho.release.verify import VerifiedRelease, check_facts, verify_release

if TYPE_CHECKING:
    from sekisho.release.bundle import SignedFact


def promote(
    desk: Desk, release: Path, environment: str, reason: str, soak: Path | None = None
) -> tuple[VerifiedRelease, Pointer | None]:
    """Point ``environment`` at a release: sign the deployment, log it, change the one line.

    Returns the release and what was there before. ``soak`` is monitoring's verdict on the release where it
    ran before; an environment whose trust policy asks for one is not reached without: `required_soak`.

    Repeating it after an interruption completes it; repeating it when done changes nothing, unless the
    promotion has less than half of its days left or no longer holds: then it is renewed.

    Raises:
        Refused: the release does not verify, lies elsewhere, is not what the log has as signed under its
            seq, or is older than what the environment has, or ever had; an earlier signature or promotion was
            interrupted (``unfinished``); the log or the list revokes it, or the list is not the newest.
        CannotCheck: something could not be checked or signed.
    """
    from sekisho.release.bundle import BundleVerifier

    releases = desk.repo / "releases"
    with audit.locked(releases):
        current = read_pointer(desk.repo, environment)
        events, _ = audit.read_log(releases)
        manifest, _ = read_manifest(release)
        highest = max(_promoted(events, manifest.model, environment), current.seq if current else 0)
        verified = verify_release(release, trust=desk.trust, environment=environment, minimum_seq=highest)
        check_place(releases, release, verified.manifest)
        target = Pointer(verified.model, verified.seq, verified.digest)
        _check_target(target, current, events)
        moment = audit.now()
        trust = load_trust(desk.trust, environment, now=moment)
        check_with_log(events, trust, verified.revocations, verified.manifest, verified.digest)
        deployed = verified.facts.get("deployment")
        if current == target and deployed and _holds(deployed, verified, trust, moment, desk.params):
            return verified, current
        soaked = required_soak(release, verified, trust, soak, moment)
        require_finished(releases, events, promoting=(target.model, target.seq, environment))
        event, claim = _next_promotion(desk, verified, environment, reason, current, soaked, moment)
        name = subject_name(verified.manifest)
        statement = make_statement("deployment", name, target.digest, claim)
        bundle = desk.signer(trust.policy)("deployment", statement)
        path = release / BUNDLES / f"deployment-{environment}.sigstore.json"
        BundleVerifier(trust).check(bundle, path, "deployment", name, target.digest)
        audit.append(releases, event)
        audit.write_atomically(path, bundle, staging=release.parent)
        audit.write_atomically(pointer_path(desk.repo, environment), f"RELEASE={target}\n".encode())
    return verify_release(release, trust=desk.trust, environment=environment, deployed=True), current


def _next_promotion(
    desk: Desk,
    verified: VerifiedRelease,
    environment: str,
    reason: str,
    before: Pointer | None,
    soak: Soak | None,
    moment: dt.datetime,
) -> tuple[audit.Event, Deployment]:
    """The log's next line, and the deployment to sign, which holds the log's head with that line."""
    renewed = verified.facts.get("deployment")
    previous = str(before) if before else None
    action: Literal["promote", "rollback"] = "rollback" if verified.manifest.rollback else "promote"
    expires = moment + dt.timedelta(days=desk.params.deployment_days)
    event, log = audit.next_event(
        desk.repo / "releases",
        "promote",
        desk.actor,
        model=verified.model,
        seq=verified.seq,
        manifest_digest=verified.digest,
        details={
            "environment": environment,
            "action": action,
            "reason": reason,
            "previous": previous,
            "expires": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "renews": renewed.bundle_sha256 if renewed else None,
        },
    )
    claim = Deployment(
        environment=cast(Any, environment),
        model=verified.model,
        seq=verified.seq,
        previous=previous,
        action=action,
        reason=reason,
        actor=desk.actor,
        expires=expires,
        revocations=verified.revocations,
        audit=AuditHead(lines=log.lines, sha256=log.sha256),
        soak=soak,
    )
    return event, claim


def _check_target(target: Pointer, current: Pointer | None, events: list[audit.Event]) -> None:
    """It is of the environment's model, and what the log has as signed under this seq."""
    if current and current.model != target.model:
        raise Refused(
            "pointer-model",
            expected=current.model,
            found=target.model,
            remedy="one environment, one model",
        )
    audit.require_logged(events, target.model, target.seq, target.digest, exported=False)


def _promoted(events: list[audit.Event], model: str, environment: str) -> int:
    """The highest seq that the log has ever promoted there: emptying the pointer does not lower it."""
    return max(
        (
            event.seq
            for event in events
            if event.event == "promote"
            and event.model == model
            and event.details.get("environment") == environment
            and event.seq
        ),
        default=0,
    )


def _holds(
    deployed: SignedFact, verified: VerifiedRelease, trust: Trust, moment: dt.datetime, params: ReleaseParams
) -> bool:
    """Whether the promotion is in force and will be for more than half of its days."""
    half = dt.timedelta(days=params.deployment_days) / 2
    try:
        ran = ran_before(verified.folder, verified.manifest, trust)
        check_deployment({"deployment": deployed}, verified.manifest, trust, moment, required=True, ran=ran)
    except Refused:
        return False
    return cast(Deployment, deployed.predicate).expires - moment > half


def rollback(desk: Desk, to: int, reason: str, environment: str) -> Path:
    """Make the next release with the content of release ``to``; returns its folder.

    It carries the manifest and bundles of the release whose content it is, and needs an approval and
    signatures of its own, like any release. ``environment`` names the policy that release must hold under;
    its deployment there, if it had one, comes along and spares the content another soak.

    Raises:
        Refused: ``to`` does not verify, or is not what the log has under its seq, or its content
            is revoked by the list or the log, or it is the newest already.
        CannotCheck: no such release, or its content is not here, or no revocation list.
    """
    from sekisho.release.bundle import BundleVerifier

    audit.check_words(desk.actor, reason)
    releases = desk.repo / "releases"
    with audit.locked(releases):
        events, _ = audit.read_log(releases)
        existing = releases_of(releases, desk.params.model)
        if to not in existing:
            known = ", ".join(map(str, existing)) or "none"
            raise CannotCheck(
                f"no release {desk.params.model}/{to}; there are {known}", remedy="choose one of them"
            )
        source = existing[to]
        manifest, digest = audit.logged_release(releases, source, events)
        if to == max(existing):
            raise Refused(
                "rollback-target", expected="an older release", found=f"the newest, {to}", remedy="promote it"
            )
        check_files(manifest, source / CONTENT)
        moment = audit.now()
        verifier = BundleVerifier(load_trust(desk.trust, environment, now=moment))
        check_facts(source, manifest, digest, verifier)
        listed = read_revocations(verifier, moment)
        check_revocation(listed.revoked, manifest, digest)
        check_with_log(events, verifier.trust, listed.serial, manifest, digest)
        origin = source / ORIGIN if manifest.rollback else source
        seq = manifest.rollback.seq if manifest.rollback else manifest.seq
        digest = manifest.rollback.manifest_digest if manifest.rollback else digest
        fresh = Path(tempfile.mkdtemp(prefix=".export-", dir=source.parent))
        try:
            fresh.chmod(0o755)
            shutil.copytree(source / CONTENT, fresh / CONTENT)
            (fresh / ORIGIN / BUNDLES).mkdir(parents=True)
            shutil.copy(origin / MANIFEST, fresh / ORIGIN / MANIFEST)
            names = [f"{fact}.sigstore.json" for fact in FACTS]
            deployed = f"deployment-{environment}.sigstore.json"
            if verifier.trust.policy.soak and (origin / BUNDLES / deployed).exists():
                names.append(deployed)
            for name in names:
                shutil.copy(origin / BUNDLES / name, fresh / ORIGIN / BUNDLES / name)
            entry = Rollback(seq=seq, manifest_digest=digest, reason=reason)
            return publish(releases, desk.params.model, fresh, created_from(desk.repo), entry, desk.actor)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
