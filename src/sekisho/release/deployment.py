"""The signed promotion of a release to an environment: whose it is, that it soaked, that it is in force."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sekisho.errors import Refused, require_same
from sekisho.release.audit import Event
from sekisho.release.manifest import BUNDLES, ORIGIN, Manifest
from sekisho.release.policy import SoakRule, Trust
from sekisho.release.revocation import CLOCK_LAG
from sekisho.release.statements import Deployment

if TYPE_CHECKING:
    from sekisho.release.bundle import SignedFact


def ran_before(release: Path, manifest: Manifest, trust: Trust) -> bool:
    """Whether the release brings back content that soaked as ``trust`` demands and was deployed then.

    What says so is the earlier release's own signed deployment, in the rollback's ``origin/``.

    Raises:
        Refused, CannotCheck: as :meth:`bundle.BundleVerifier.verify`.
    """
    from sekisho.release.bundle import BundleVerifier

    path = release / ORIGIN / BUNDLES / f"deployment-{trust.environment}.sigstore.json"
    if manifest.rollback is None or trust.policy.soak is None or not path.exists():
        return False
    earlier = (manifest.model, manifest.rollback.seq)
    name = f"{manifest.model}/{manifest.rollback.seq}"
    fact = BundleVerifier(trust).verify(path, "deployment", name, manifest.rollback.manifest_digest)
    claim = cast(Deployment, fact.predicate)
    remedy = "make the rollback again from git"
    require_same("deployment-environment", trust.environment, claim.environment, remedy)
    require_same("deployment-release", earlier, (claim.model, claim.seq), remedy)
    return _soaked(claim, trust.policy.soak) >= trust.policy.soak.sessions


def check_deployment(
    facts: Mapping[str, SignedFact],
    manifest: Manifest,
    trust: Trust,
    now: dt.datetime,
    *,
    required: bool,
    ran: bool = False,
) -> None:
    """The promotion, if there is one (or one is required): to this environment, of this release, not run out.

    Where none is required, one that has run out is no fault: promoting again renews it. ``ran``: what
    :func:`ran_before` says; then no new soak is asked for.

    Raises:
        Refused: rules ``missing-fact``, ``deployment-environment``, ``deployment-release``,
            ``deployment-action``, and if required ``soak``, ``deployment-lifetime``, ``deployment-expired``.
    """
    if "deployment" not in facts:
        if required:
            raise Refused(
                "missing-fact",
                expected=f"a signed deployment to {trust.environment}",
                found="none",
                remedy=f"`sekisho promote RELEASE --environment {trust.environment}`",
            )
        return
    claim = cast(Deployment, facts["deployment"].predicate)
    remedy = "promote the release again"
    require_same("deployment-environment", trust.environment, claim.environment, remedy)
    require_same("deployment-release", (manifest.model, manifest.seq), (claim.model, claim.seq), remedy)
    action = "rollback" if manifest.rollback else "promote"
    require_same("deployment-action", action, claim.action, remedy)
    if required:
        if trust.policy.soak and not ran:
            _check_soak(claim, trust.policy.soak, trust.environment)
        _check_in_force(claim, facts["deployment"].signed_at, trust, now, remedy)


def last_promotions(events: Iterable[Event]) -> dict[tuple[str, int, str], Event]:
    """The last promotion of each release to each environment, by model, seq and environment."""
    return {
        (event.model, event.seq, str(event.details.get("environment"))): event
        for event in events
        if event.event == "promote" and event.model and event.seq
    }


def check_logged(claim: Deployment, event: Event | None, where: object) -> None:
    """The promotion says what its line of the log says: nobody signed it anew with another reason.

    Raises:
        Refused: rule ``deployment-logged``.
    """
    said = claim.model_dump(mode="json")
    words = {key: said[key] for key in ("environment", "action", "reason", "previous", "expires")}
    found = {
        "line": claim.audit.lines,
        "actor": claim.actor,
        "release": f"{claim.model}/{claim.seq}",
        **words,
    }
    logged = {}
    if event:
        details = {key: event.details.get(key) for key in words}
        logged = {
            "line": event.line,
            "actor": event.actor,
            "release": f"{event.model}/{event.seq}",
            **details,
        }
    for key, value in found.items():
        if logged.get(key) != value:
            raise Refused(
                "deployment-logged",
                expected=f"{where}: {key} {logged.get(key)!r}, as the log has it",
                found=repr(value),
                remedy="restore the bundle from git, or promote the release again; find out who signed it",
            )


def _soaked(claim: Deployment, rule: SoakRule) -> int:
    """Sessions judged ok in the environment that the rule names."""
    return claim.soak.sessions if claim.soak and claim.soak.environment == rule.environment else 0


def _check_soak(claim: Deployment, rule: SoakRule, environment: str) -> None:
    soaked = _soaked(claim, rule)
    if soaked < rule.sessions:
        raise Refused(
            "soak",
            expected=f"{rule.sessions} sessions judged ok in {rule.environment}",
            found=f"{soaked} sessions" if soaked else "no soak result",
            remedy=f"`sekisho promote RELEASE --environment {environment} --soak VERDICT.json`",
        )


def _check_in_force(
    claim: Deployment, signed_at: dt.datetime, trust: Trust, now: dt.datetime, remedy: str
) -> None:
    longest = dt.timedelta(days=trust.policy.max_deployment_days)
    if claim.expires - signed_at > longest + CLOCK_LAG:
        raise Refused(
            "deployment-lifetime",
            expected=f"an end within {longest.days} days of {signed_at}",
            found=claim.expires,
            remedy=f"lower release.deployment_days in params.yaml; {remedy}",
        )
    if now > claim.expires:
        raise Refused(
            "deployment-expired", expected=f"a time before {claim.expires}", found=now, remedy=remedy
        )
