"""The signed revocation list: read it, and refuse what it names. Fails closed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from sekisho.errors import CannotCheck, Refused
from sekisho.release.audit import REASON_LIMIT, Event
from sekisho.release.manifest import Manifest
from sekisho.release.policy import Trust, load_policy
from sekisho.release.statements import Revocations, Revoked

if TYPE_CHECKING:
    from sekisho.release.bundle import BundleVerifier

REVOCATIONS = "revocations"  # subject name of the revocation list
CLOCK_LAG = dt.timedelta(minutes=5)  # how far two clocks may differ


def read_revocations(verifier: BundleVerifier, now: dt.datetime, *, expired: bool = False) -> Revocations:
    """The signed revocation list of the environment. Fails closed; ``expired`` reads one that has run out.

    Raises:
        CannotCheck: no list, or it has run out, or its start lies ahead of the clock.
        Refused: its signature or form does not hold; rules ``revocation-time``, ``revocation-lifetime``.
    """
    path = verifier.trust.folder / verifier.trust.policy.revoked
    renew = "renew it: `sekisho revoke --renew` (in CI: the revoke workflow)"
    if not path.exists():
        raise CannotCheck(f"revocation list {path}: missing", remedy=renew)
    fact = verifier.verify(path, "revocation", REVOCATIONS, None)
    claim = cast(Revocations, fact.predicate)
    if abs(claim.issued - fact.signed_at) > CLOCK_LAG:
        raise _false("revocation-time", f"issued when it was signed, {fact.signed_at}", claim.issued)
    longest = dt.timedelta(days=verifier.trust.policy.max_revocation_days)
    if claim.expires - claim.issued > longest:
        raise _false("revocation-lifetime", f"at most {longest.days} days", claim.expires - claim.issued)
    if now > claim.expires and not expired:
        raise CannotCheck(f"revocation list {path}: ran out {claim.expires}", remedy=renew)
    if claim.issued > now + CLOCK_LAG:
        raise CannotCheck(
            f"revocation list {path}: issued {claim.issued}, after now", remedy="check the clock"
        )
    return claim


def named_by(digest: str, content: str | None, manifest: Manifest, own: str) -> bool:
    """Whether revoking ``digest`` with ``content`` revokes the release ``manifest`` of sha256 ``own``.

    It is if it names the release, the one a rollback returns to, or any release with the same content.
    """
    origin = manifest.rollback.manifest_digest if manifest.rollback else own
    return digest in (own, origin) or content == manifest.content_sha256


def check_revocation(revoked: Iterable[Revoked], manifest: Manifest, digest: str) -> None:
    """Refuse a release that is among the revoked, by itself or by its content.

    Raises:
        Refused: rule ``revoked``.
    """
    for entry in revoked:
        if named_by(entry.manifest_digest, entry.content_sha256, manifest, digest):
            raise Refused(
                "revoked",
                expected="a release that is not revoked",
                found=f"{entry.model}/{entry.seq} revoked {entry.at:%Y-%m-%d}: {entry.reason}",
                remedy="promote another release, or `sekisho rollback --to` one that is not revoked",
            )


def revoked_by(events: Iterable[Event], environments: set[str]) -> list[Revoked]:
    """Every release that the events revoke in one of the environments, once, in their order."""
    entries: dict[str, Revoked] = {}
    for event in events:
        own = event.event == "revoke" and event.details.get("environment") in environments
        if own and event.manifest_digest and event.model and event.seq:
            entries.setdefault(
                event.manifest_digest,
                Revoked(
                    manifest_digest=event.manifest_digest,
                    model=event.model,
                    seq=event.seq,
                    content_sha256=event.details.get("content"),
                    reason=str(event.details.get("reason") or "-")[:REASON_LIMIT],
                    at=event.at,
                ),
            )
    return list(entries.values())


def check_with_log(events: list[Event], trust: Trust, serial: int, manifest: Manifest, digest: str) -> None:
    """Refuse what the log revokes here, listed or not, and a list (of ``serial``) before the log's newest.

    A revocation is logged before its list is in place: a killed command, or an old list put back, must not
    let the release pass.

    Raises:
        Refused: rules ``revoked``, ``revocation-replayed``.
    """
    environments = load_policy(trust.folder).sharing(trust.policy.revoked)
    check_revocation(revoked_by(events, environments), manifest, digest)
    known = count = 0
    for event in events:
        if event.event in ("revoke", "renew"):
            count += 1
            if event.details.get("environment") in environments:
                known = count
    check_not_replayed(serial, known)


def check_not_replayed(serial: int, known: int) -> None:
    """Refuse a list (of ``serial``) that is older than one already known, although it has not run out.

    Raises:
        Refused: rule ``revocation-replayed``.
    """
    if serial < known:
        raise _false("revocation-replayed", f"serial {known} or later", f"serial {serial}")


def _false(rule: str, expected: object, found: object) -> Refused:
    remedy = "restore the list from git, or make it again: `sekisho revoke --renew`"
    return Refused(rule, expected=f"a revocation list, {expected}", found=found, remedy=remedy)
