"""The signed revocation list: read it, and refuse what it names. Fails closed."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, cast

from sekisho.errors import CannotCheck, Refused
from sekisho.release.manifest import Manifest
from sekisho.release.statements import Revocations

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
    renew = "renew it: `sekisho revoke --renew` (in CI: the promote workflow)"
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


def check_revocation(revocations: Revocations, manifest: Manifest, digest: str) -> None:
    """Refuse a release that the list names, by itself or by its content.

    Raises:
        Refused: rule ``revoked``.
    """
    for entry in revocations.revoked:
        if named_by(entry.manifest_digest, entry.content_sha256, manifest, digest):
            raise Refused(
                "revoked",
                expected="a release that is not revoked",
                found=f"{entry.model}/{entry.seq} revoked {entry.at:%Y-%m-%d}: {entry.reason}",
                remedy="promote another release, or `sekisho rollback --to` one that is not revoked",
            )


def check_not_replayed(revocations: Revocations, known: int) -> None:
    """Refuse a list that is older than one already known, although it has not run out.

    Raises:
        Refused: rule ``revocation-replayed``.
    """
    if revocations.serial < known:
        raise _false("revocation-replayed", f"serial {known} or later", f"serial {revocations.serial}")


def _false(rule: str, expected: object, found: object) -> Refused:
    remedy = "restore the list from git, or make it again: `sekisho revoke --renew`"
    return Refused(rule, expected=f"a revocation list, {expected}", found=found, remedy=remedy)
