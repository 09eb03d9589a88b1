"""From one prediction, or one release, back to everything that led to it, every signature verified."""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sekisho.errors import CannotCheck, Refused, SekishoError, require_same
from sekisho.params import parse_yaml
from sekisho.release import audit
from sekisho.release.deployment import check_deployment, check_logged, last_promotions
from sekisho.release.manifest import CONTENT, Manifest, check_files, check_place, read_manifest
from sekisho.release.policy import Trust, TrustPolicy, load_policy, load_trust
from sekisho.release.revocation import (
    check_not_replayed,
    check_revocation,
    named_by,
    read_revocations,
    revoked_by,
)
from sekisho.release.statements import Approval, Data, Deployment, Evaluation, Provenance
from sekisho.release.verify import check_facts

if TYPE_CHECKING:
    from sekisho.release.bundle import BundleVerifier, SignedFact


def trace_prediction(
    repo: Path, records: list[dict[str, Any]], *, trust: Path, environment: str | None
) -> dict[str, Any]:
    """One served prediction's way back: release, signatures, commit, data, parameters, figures, approval.

    ``records``: of :func:`find_records`; the first is traced, the others are shown beside it.

    Raises:
        Refused: rules ``prediction-input`` (a record's digest does not fit its observation),
            ``prediction-release`` (the release here is another one), and those of :func:`trace_release`.
        CannotCheck: no such release.
    """
    for record in records:
        observation = record["observation"]
        packed = struct.pack(f"<{len(observation)}f", *observation)
        require_same(
            "prediction-input",
            record["input_digest"],
            hashlib.sha256(packed).hexdigest(),
            "restore the prediction log",
        )
    row, *again = ({key: value for key, value in r.items() if key != "observation"} for r in records)
    folder = repo / "releases" / row["model"] / str(row["seq"])
    manifest, digest = read_manifest(folder)
    if row["manifest_digest"].removeprefix("sha256:") != digest:
        raise Refused(
            "prediction-release",
            expected=f"{folder} with manifest {row['manifest_digest']}",
            found=digest,
            remedy="look for the release in git's history; seqs are given once",
        )
    events, _ = audit.read_log(repo / "releases")
    trace = _trace(repo, folder, events, trust=trust, environment=environment)
    row["in_force"] = _in_force(spans_in_force(events, load_policy(trust), manifest, digest), row["at"])
    return {"prediction": row, "asked_again": again, **trace}


@dataclass(frozen=True)
class Span:
    """A time in which an environment pointed at a release that might run there; ``until`` is its end."""

    environment: str
    since: dt.datetime
    until: dt.datetime


def spans_in_force(
    events: list[audit.Event], policy: TrustPolicy, manifest: Manifest, digest: str
) -> list[Span]:
    """When the release was in force: from a promotion until the environment's next, its end, or a revocation.

    A renewal goes on with the same span.
    """
    spans: list[Span] = []
    promotions = [event for event in events if event.event == "promote"]
    for name, environment in policy.environments.items():
        revoked = [
            entry.at
            for entry in revoked_by(events, policy.sharing(environment.revoked))
            if named_by(entry.manifest_digest, entry.content_sha256, manifest, digest)
        ]
        here = [event for event in promotions if event.details.get("environment") == name]
        for event, following in zip_longest(here, here[1:]):
            if event.manifest_digest != digest:
                continue
            ends = [dt.datetime.fromisoformat(str(event.details["expires"])), *revoked]
            until = min([*ends, following.at] if following else ends)
            last = spans[-1] if spans else None
            if last and (last.environment, last.until) == (name, event.at):
                spans[-1] = Span(name, last.since, until)
            elif until >= event.at:
                spans.append(Span(name, event.at, until))
    return sorted(spans, key=lambda span: span.since)


def _in_force(spans: list[Span], at: dt.datetime) -> str:
    """The environments where the release was in force at that time; a replay's clock says otherwise."""
    found = [f"{span.environment} since {span.since}" for span in spans if span.since <= at < span.until]
    if found:
        return f"promoted to {', '.join(found)}"
    known = [f"{span.environment} from {span.since} to {span.until}" for span in spans]
    if not known:
        return "never in force: a replay, or a false record"
    return f"not in force, but in {', '.join(known)}: a replay's clock, a change under way, or a false record"


def find_records(predictions: Path, prediction_id: str) -> list[dict[str, Any]]:
    """A prediction as logged, in the log of one server or of several in one folder, by time of answer.

    Several where the caller did not hear an answer in time and asked again: each server logged its own.
    ``file`` is the batch that a record lies in.

    Raises:
        CannotCheck: no such prediction, or an unreadable log.
    """
    import polars as pl

    if not any(predictions.rglob("*.parquet")):
        raise CannotCheck(f"{predictions}: no prediction log there", remedy="give --predictions its folder")
    try:
        table = (
            pl.scan_parquet(predictions / "**/*.parquet", include_file_paths="file")
            .filter(pl.col("prediction_id") == prediction_id)
            .sort("at")
            .collect()
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CannotCheck(
            f"{predictions}: {error}", remedy="restore the broken file from its mirror"
        ) from error
    if not len(table):
        raise CannotCheck(f"{predictions}: no prediction {prediction_id}", remedy="check the id")
    return list(table.iter_rows(named=True))


def trace_release(repo: Path, folder: Path, *, trust: Path, environment: str | None) -> dict[str, Any]:
    """One release's evidence, every signature verified; ``environment`` None: the strictest it came to.

    Content that is not here (`dvc pull`) is not needed: the signed manifest names it. A revocation list
    that has run out does not hinder a look back; a revocation in the log or the list is shown.

    Raises:
        Refused, CannotCheck: as :func:`verify.check_facts` and :func:`revocation.read_revocations`, and rules
            ``release-folder``, ``deployment-logged``, ``revocation-replayed``.
    """
    events, _ = audit.read_log(repo / "releases")
    return _trace(repo, folder, events, trust=trust, environment=environment)


def _trace(
    repo: Path, folder: Path, events: list[audit.Event], *, trust: Path, environment: str | None
) -> dict[str, Any]:
    from sekisho.release.bundle import BundleVerifier

    manifest, digest = read_manifest(folder)
    check_place(repo / "releases", folder, manifest)
    own = [event for event in events if event.manifest_digest == digest]
    verifier = BundleVerifier(load_trust(trust, environment or _environment(own, folder)))
    facts = check_facts(folder, manifest, digest, verifier)
    deployed = _deployment(facts, manifest, verifier.trust, own)
    here = (folder / CONTENT).exists()
    if here:
        check_files(manifest, folder / CONTENT)
    provenance = cast(Provenance, facts["provenance"].predicate)
    evaluation = cast(Evaluation, facts["evaluation"].predicate)
    return {
        "release": {
            "model": manifest.model,
            "seq": manifest.seq,
            "manifest_digest": digest,
            "previous": manifest.previous,
            "rollback": manifest.rollback.model_dump() if manifest.rollback else None,
            "content": "verified" if here else "not here; `dvc pull` brings it",
            "revoked": _revoked(verifier, events, manifest, digest, deployed),
        },
        "commit": manifest.created_from.model_dump(),
        "approval": cast(Approval, facts["approval"].predicate).model_dump(mode="json"),
        "verified_under": {
            "environment": verifier.trust.environment,
            "root_sha256": hashlib.sha256(verifier.trust.root_json).hexdigest(),
        },
        "deployment": deployed.model_dump(mode="json") if deployed else None,
        "data": cast(Data, facts["data"].predicate).model_dump(mode="json"),
        "parameters": {"sha256": evaluation.params_sha256, "values": _parameters(folder / CONTENT)},
        "metrics": evaluation.model_dump(mode="json", exclude={"report_sha256", "params_sha256"}),
        "built_from": [item.model_dump() for item in provenance.buildDefinition.resolvedDependencies],
        "signatures": [
            {
                "fact": name,
                "workflow": fact.workflow,
                "commit": fact.commit,
                "run": fact.run,
                "signed_at": fact.signed_at.isoformat(),
                "log_index": fact.log_index,
                "bundle_sha256": fact.bundle_sha256,
            }
            for name, fact in facts.items()
        ],
        "events": [event.model_dump(mode="json", exclude={"previous", "manifest_digest"}) for event in own],
    }


def trace_releases(
    repo: Path, trust: Path, environment: str | None
) -> dict[Path, dict[str, Any] | SekishoError]:
    """Every release's trace by its folder, the newest first; of one that does not verify, the reason.

    Raises:
        Refused: the audit log's chain is broken.
    """
    events, _ = audit.read_log(repo / "releases")
    manifests = (repo / "releases").glob("*/[!.]*/manifest.json")  # [!.]: no interrupted export's
    folders = sorted(
        (path.parent for path in manifests),
        key=lambda folder: (folder.parent.name, len(folder.name), folder.name),
        reverse=True,
    )
    found: dict[Path, dict[str, Any] | SekishoError] = {}
    for folder in folders:
        try:
            found[folder] = _trace(repo, folder, events, trust=trust, environment=environment)
        except SekishoError as error:
            found[folder] = error
    return found


def _environment(own: list[audit.Event], folder: Path) -> str:
    """Of the environments that the release was promoted to, the one that trusts least."""
    promoted = {event.details.get("environment") for event in own if event.event == "promote"}
    for environment in ("production", "staging", "local"):
        if environment in promoted:
            return environment
    raise CannotCheck(f"{folder}: never promoted", remedy="name the trust policy: --environment local")


def _deployment(
    facts: dict[str, SignedFact], manifest: Manifest, trust: Trust, own: list[audit.Event]
) -> Deployment | None:
    """The promotion to the environment as it is signed and logged; None where there never was one."""
    check_deployment(facts, manifest, trust, audit.now(), required=False)
    logged = last_promotions(own).get((manifest.model, manifest.seq, trust.environment))
    if "deployment" not in facts:
        require_same("missing-fact", None, logged and f"no bundle of line {logged.line}", audit.RESTORE)
        return None
    claim = cast(Deployment, facts["deployment"].predicate)
    check_logged(claim, logged, f"the promotion to {trust.environment}")
    return claim


def _revoked(
    verifier: BundleVerifier,
    events: list[audit.Event],
    manifest: Manifest,
    digest: str,
    deployed: Deployment | None,
) -> str:
    """``no``, or what revoked it: the log is asked first, so that an old list cannot hide it."""
    listed = read_revocations(verifier, audit.now(), expired=True)
    if deployed:
        check_not_replayed(listed.serial, deployed.revocations)
    for event in events:
        named, content = event.manifest_digest or "", event.details.get("content")
        if event.event == "revoke" and named_by(named, content, manifest, digest):
            where = event.details.get("environment")
            return f"{event.at:%Y-%m-%d} for {where}, line {event.line}: {event.details.get('reason')}"
    try:
        check_revocation(listed.revoked, manifest, digest)
    except Refused as error:
        return str(error.found)
    return "no"


def _parameters(content: Path) -> dict[str, Any] | None:
    path = content / "params.yaml"
    return cast(dict[str, Any], parse_yaml(path.read_bytes())) if path.exists() else None


Rows = Iterator[tuple[str, str]]


def table(trace: dict[str, Any]) -> list[tuple[str, str]]:
    """The trace as rows for people: what, and its value."""
    return [*_served(trace), *_approved(trace), *_promoted(trace), *_trained(trace), *_recorded(trace)]


def _served(trace: dict[str, Any]) -> Rows:
    if prediction := trace.get("prediction"):
        yield "prediction", f"{prediction['prediction_id']} at {_text(prediction['at'])}"
        yield "release then", prediction["in_force"]
        yield "verdict", f"{prediction['verdict']}; input sha256:{prediction['input_digest'][:16]}… fits"
        for other in trace["asked_again"]:
            by = f"{other['model']}/{other['seq']}, {other['verdict']}"
            yield "asked again", f"{_text(other['at'])}, answered by {by}"


def _approved(trace: dict[str, Any]) -> Rows:
    release, commit, approval = trace["release"], trace["commit"], trace["approval"]
    under = trace["verified_under"]
    yield "verified under", f"{under['environment']}, root sha256:{under['root_sha256']}"
    if under["environment"] == "local":
        yield "warning", "local keys lie beside the repository: this proves nothing to others"
    yield "release", f"{release['model']}/{release['seq']} sha256:{release['manifest_digest']}"
    if rollback := release["rollback"]:
        yield "rollback", f"to the content of seq {rollback['seq']}: {rollback['reason']}"
    yield "content", release["content"]
    yield "revoked", release["revoked"]
    yield "commit", commit["commit"]
    yield "dvc.lock", f"sha256:{commit['dvc_lock_sha256']}"
    yield "pull request", f"#{approval['pr']} {approval['url']}"
    yield "author", approval["author"]
    for one in approval["approvers"]:
        yield "approver", f"{one['person']} ({one['permission']}) {one['approved_at']}"
    yield "reviewed", f"head {approval['head_sha']}, merged as {approval['merge_sha']}"


def _promoted(trace: dict[str, Any]) -> Rows:
    deployed = trace["deployment"]
    if deployed is None:
        yield "promoted", f"never to {trace['verified_under']['environment']}"
        return
    until = f"by {deployed['actor']} until {deployed['expires']}: {deployed['reason']}"
    yield f"{deployed['action']} to {deployed['environment']}", until
    if soak := deployed["soak"]:
        days = f"{soak['first_session']} to {soak['last_session']}"
        yield "soak", f"{soak['sessions']} sessions in {soak['environment']}, {days}"


def _trained(trace: dict[str, Any]) -> Rows:
    for item in trace["data"]["sets"]:
        yield "data", f"{item['path']} md5:{item['dvc_md5']}"
    for name, days in trace["data"]["windows"].items():
        yield f"{name} window", " to ".join(days)
    yield "parameters", f"params.yaml sha256:{trace['parameters']['sha256']}"
    metrics = trace["metrics"]
    numbers = {key: value for key, value in metrics["figures"].items() if isinstance(value, int | float)}
    yield "figures", ", ".join(f"{key} {value:.4g}" for key, value in numbers.items())
    yield "seeds", ", ".join(map(str, metrics["seeds"]))
    yield "gate", f"{'passed' if metrics['gate_passed'] else 'failed'}; {metrics['trials']} trials"


def _recorded(trace: dict[str, Any]) -> Rows:
    for item in trace["signatures"]:
        workflow = item["workflow"].partition("@")[0].rpartition("/")[2]
        yield f"signed {item['fact']}", f"{item['signed_at']} by {workflow}, log index {item['log_index']}"
    for event in trace["events"]:
        environment = event["details"].get("environment", "")
        yield f"event {event['event']}", f"{event['at']} by {event['actor']} {environment}"


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)
