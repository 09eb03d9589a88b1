"""Revoke: sign a new revocation list, made from the audit log, so that none is lost with an old list."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from sekisho.errors import CannotCheck, Refused
from sekisho.release import audit
from sekisho.release.policy import load_policy, load_trust
from sekisho.release.revocation import REVOCATIONS, read_revocations, revoked_by
from sekisho.release.signer import Desk, install_local_root, predicate_digest
from sekisho.release.statements import Revocations, make_statement

if TYPE_CHECKING:
    from sekisho.release.bundle import BundleVerifier


def revoke(desk: Desk, release: Path | None, reason: str, environment: str) -> Revocations:
    """Sign a new revocation list with ``release`` added; None only renews it.

    The list is made from the audit log's revocations, so that none is lost with an old list.

    Raises:
        Refused: the audit log or the present list does not hold; the release lies elsewhere than in its own
            folder, or is not what the log has under its seq.
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
        written, _ = audit.read_log(releases)
        if release:
            manifest, digest = audit.logged_release(releases, release, written)
            event, _ = audit.next_event(
                releases,
                "revoke",
                desk.actor,
                model=manifest.model,
                seq=manifest.seq,
                manifest_digest=digest,
                details={"environment": environment, "reason": reason, "content": manifest.content_sha256},
            )
        else:
            event, _ = audit.next_event(releases, "renew", desk.actor, details={"environment": environment})
        events = [*written, event]
        claim = Revocations(
            serial=sum(e.event in ("revoke", "renew") for e in events),
            issued=moment,
            expires=moment + dt.timedelta(days=desk.params.revocation_days),
            revoked=revoked_by(events, load_policy(desk.trust).sharing(trust.policy.revoked)),
        )
        if path.exists():
            _nothing_lost(verifier, claim, moment)
        digest = predicate_digest(claim.model_dump(mode="json"))
        sign = desk.signer(trust.policy)
        bundle = sign("revocation", make_statement("revocation", REVOCATIONS, digest, claim))
        verifier.check(bundle, path, "revocation", REVOCATIONS, None)
        audit.append(releases, event)  # only what could be signed: a line cannot be taken back
        audit.write_atomically(path, bundle)
    return claim


def _nothing_lost(verifier: BundleVerifier, claim: Revocations, moment: dt.datetime) -> None:
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
