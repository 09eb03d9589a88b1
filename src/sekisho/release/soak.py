"""The soak: a release comes to production only after sessions in staging that monitoring judged ok."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any, cast

from sekisho.calendar import Calendar
from sekisho.errors import CannotCheck, Refused
from sekisho.release.deployment import ran_before
from sekisho.release.manifest import BUNDLES
from sekisho.release.policy import SoakRule, Trust, load_trust
from sekisho.release.statements import Deployment, Soak, subject_name
from sekisho.release.verify import VerifiedRelease

VERDICT_LIMIT = 1 << 22  # bytes


def required_soak(
    release: Path, verified: VerifiedRelease, trust: Trust, verdict: Path | None, now: dt.datetime
) -> Soak | None:
    """As `check_soak`; None where ``trust`` asks for none, or the content was there already after one."""
    if trust.policy.soak is None or ran_before(release, verified.manifest, trust):
        return None
    return check_soak(release, verified, trust, verdict, now)


def check_soak(
    release: Path, verified: VerifiedRelease, trust: Trust, verdict: Path | None, now: dt.datetime
) -> Soak:
    """The evidence that the release has soaked as ``trust`` demands, to be signed into its deployment.

    The deployment to the earlier environment must be signed under that environment's own policy, and the
    verdict (``sekisho drift check``) must be about this release, say ok, and hold enough of the exchange's
    sessions after that deployment.

    Raises:
        Refused: rules ``soak``, and those of :meth:`bundle.BundleVerifier.verify` for the deployment.
        CannotCheck: no verdict, or it cannot be read.
    """
    from sekisho.release.bundle import BundleVerifier

    rule = cast(SoakRule, trust.policy.soak)
    before = load_trust(trust.folder, rule.environment, now=now)
    bundle = release / BUNDLES / f"deployment-{rule.environment}.sigstore.json"
    name = subject_name(verified.manifest)
    fact = BundleVerifier(before).verify(bundle, "deployment", name, verified.digest)
    deployment = cast(Deployment, fact.predicate)
    _same("a deployment to", rule.environment, deployment.environment)
    raw, found = _read_verdict(verdict, rule)
    _same("a verdict on", [verified.model, verified.seq, verified.digest], _subject(found))
    _same("the verdict", ("ok", [], []), (found.get("state"), found.get("problems"), found.get("alarms")))
    calendar = json.loads(verified.read("observation.json"))["calendar"]
    first, last, sessions = _span(found, verdict)
    _same("a first session from the deployment on", True, first >= fact.signed_at.date())
    _same("a last session that is over", True, last <= now.date())
    if not rule.sessions <= sessions <= len(Calendar(calendar, "1d").sessions(first, last)):
        raise _refused(f"{rule.sessions} sessions of {calendar} judged", f"{sessions} from {first} to {last}")
    return Soak(
        environment=rule.environment,
        deployment_sha256=fact.bundle_sha256,
        deployed_at=fact.signed_at,
        first_session=str(first),
        last_session=str(last),
        sessions=sessions,
        verdict_sha256=hashlib.sha256(raw).hexdigest(),
    )


def _read_verdict(path: Path | None, rule: SoakRule) -> tuple[bytes, dict[str, Any]]:
    remedy = f"`sekisho drift check` on the predictions of {rule.environment}, then promote with --soak FILE"
    if path is None:
        raise CannotCheck(f"the soak in {rule.environment}: no verdict given", remedy=remedy)
    try:
        with path.open("rb") as file:
            raw = file.read(VERDICT_LIMIT)
        value = json.loads(raw)
    except (OSError, ValueError) as error:
        raise CannotCheck(f"{path}: not a verdict: {error}", remedy=remedy) from error
    if not isinstance(value, dict):
        raise CannotCheck(f"{path}: not a verdict", remedy=remedy)
    return raw, value


def _subject(verdict: dict[str, Any]) -> list[Any]:
    digest = str(verdict.get("manifest_digest")).removeprefix("sha256:")
    return [verdict.get("model"), verdict.get("seq"), digest]


def _span(verdict: dict[str, Any], path: Path | None) -> tuple[dt.date, dt.date, int]:
    try:
        first, last = (dt.date.fromisoformat(verdict[name]) for name in ("first_session", "last_session"))
        return first, last, int(verdict["sessions"])
    except (KeyError, TypeError, ValueError) as error:
        raise CannotCheck(
            f"{path}: no sessions in it: {error}", remedy="run `sekisho drift check`"
        ) from error


def _same(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise _refused(f"{what} {expected}", found)


def _refused(expected: str, found: object) -> Refused:
    remedy = "let the release soak, have it judged by `sekisho drift check`, then promote with --soak FILE"
    return Refused("soak", expected=expected, found=found, remedy=remedy)
