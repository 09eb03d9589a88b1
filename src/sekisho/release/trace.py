"""From one prediction, or one release, back to everything that led to it, every signature verified."""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sekisho.errors import CannotCheck, Refused, SekishoError
from sekisho.params import parse_yaml
from sekisho.release import audit
from sekisho.release.deployment import check_deployment
from sekisho.release.manifest import CONTENT, check_files, read_manifest
from sekisho.release.policy import load_trust
from sekisho.release.revocation import check_revocation, read_revocations
from sekisho.release.statements import Approval, Data, Evaluation, Provenance
from sekisho.release.verify import check_facts

if TYPE_CHECKING:
    from sekisho.release.bundle import BundleVerifier


def trace_prediction(
    repo: Path, predictions: Path, prediction_id: str, *, trust: Path, environment: str | None
) -> dict[str, Any]:
    """One served prediction's way back: release, signatures, commit, data, parameters, figures, approval.

    Raises:
        Refused: rules ``prediction-input`` (its digest does not fit its observation),
            ``prediction-release`` (the release here is another one), and those of :func:`trace_release`.
        CannotCheck: no such prediction, unreadable log, no such release.
    """
    row = _find_prediction(predictions, prediction_id)
    observation = row.pop("observation")
    packed = struct.pack(f"<{len(observation)}f", *observation)
    if (found := hashlib.sha256(packed).hexdigest()) != row["input_digest"]:
        raise Refused(
            "prediction-input", expected=row["input_digest"], found=found, remedy="restore the prediction log"
        )
    folder = repo / "releases" / row["model"] / str(row["seq"])
    _, digest = read_manifest(folder)
    if row["manifest_digest"].removeprefix("sha256:") != digest:
        raise Refused(
            "prediction-release",
            expected=f"{folder} with manifest {row['manifest_digest']}",
            found=digest,
            remedy="look for the release in git's history; seqs are given once",
        )
    return {"prediction": row, **trace_release(repo, folder, trust=trust, environment=environment)}


def _find_prediction(predictions: Path, prediction_id: str) -> dict[str, Any]:
    import polars as pl

    if not any(predictions.rglob("*.parquet")):
        raise CannotCheck(f"{predictions}: no prediction log there", remedy="give --predictions its folder")
    try:
        table = (
            pl.scan_parquet(predictions / "**/*.parquet", include_file_paths="file")
            .filter(pl.col("prediction_id") == prediction_id)
            .collect()
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CannotCheck(
            f"{predictions}: {error}", remedy="restore the broken file from its mirror"
        ) from error
    if len(table) != 1:
        raise CannotCheck(
            f"prediction {prediction_id}: {len(table)} of them in {predictions}",
            remedy="check the id; ids are unique",
        )
    return table.row(0, named=True)


def trace_release(repo: Path, folder: Path, *, trust: Path, environment: str | None) -> dict[str, Any]:
    """One release's evidence, every signature verified; ``environment`` None: where it was promoted last.

    Content that is not here (`dvc pull`) is not needed: the signed manifest names it. A revocation list
    that has run out does not hinder a look back; it is shown.

    Raises:
        Refused, CannotCheck: as :func:`verify.check_facts`.
    """
    from sekisho.release.bundle import BundleVerifier

    manifest, digest = read_manifest(folder)
    events, _ = audit.read_log(repo / "releases")
    own = [event for event in events if event.manifest_digest == digest]
    verifier = BundleVerifier(load_trust(trust, environment or _last_environment(own, folder)))
    facts = check_facts(folder, manifest, digest, verifier)
    check_deployment(facts, manifest, verifier.trust, audit.now(), required=False)
    here = (folder / CONTENT).exists()
    if here:
        check_files(manifest, folder / CONTENT)
    origin = [manifest.rollback.manifest_digest] if manifest.rollback else []
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
            "revoked": _revoked(verifier, [digest, *origin]),
        },
        "commit": manifest.created_from.model_dump(),
        "approval": cast(Approval, facts["approval"].predicate).model_dump(mode="json"),
        "deployment": facts["deployment"].predicate.model_dump(mode="json")
        if "deployment" in facts
        else None,
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


def _last_environment(own: list[audit.Event], folder: Path) -> str:
    promoted = [event.details["environment"] for event in own if event.event == "promote"]
    if not promoted:
        raise CannotCheck(f"{folder}: never promoted", remedy="name the trust policy: --environment local")
    return str(promoted[-1])


def _revoked(verifier: BundleVerifier, digests: list[str]) -> str:
    try:
        check_revocation(read_revocations(verifier, audit.now(), expired=True), digests)
    except Refused as error:
        return str(error.found) if error.rule == "revoked" else f"cannot tell: {error.message}"
    except SekishoError as error:
        return f"cannot tell: {error.message}"
    return "no"


def _parameters(content: Path) -> dict[str, Any] | None:
    path = content / "params.yaml"
    return cast(dict[str, Any], parse_yaml(path.read_bytes())) if path.exists() else None


def table(trace: dict[str, Any]) -> list[tuple[str, str]]:
    """The trace as rows for people: what, and its value."""
    rows: list[tuple[str, str]] = []
    if prediction := trace.get("prediction"):
        rows.append(("prediction", f"{prediction['prediction_id']} at {_text(prediction['at'])}"))
        rows.append(
            ("verdict", f"{prediction['verdict']}; input sha256:{prediction['input_digest'][:16]}… fits")
        )
    release, commit, approval = trace["release"], trace["commit"], trace["approval"]
    rows.append(("release", f"{release['model']}/{release['seq']} sha256:{release['manifest_digest']}"))
    if release["rollback"]:
        rows.append(
            (
                "rollback",
                f"to the content of seq {release['rollback']['seq']}: {release['rollback']['reason']}",
            )
        )
    rows += [
        ("content", release["content"]),
        ("revoked", release["revoked"]),
        ("commit", commit["commit"]),
        ("dvc.lock", f"sha256:{commit['dvc_lock_sha256']}"),
        ("pull request", f"#{approval['pr']} {approval['url']}"),
        ("author", approval["author"]),
        ("approver", f"{approval['approver']} ({approval['permission']}) {approval['approved_at']}"),
        ("reviewed", f"head {approval['head_sha']}, merged as {approval['merge_sha']}"),
    ]
    if deployed := trace["deployment"]:
        what = f"{deployed['action']} to {deployed['environment']}"
        rows.append((what, f"by {deployed['actor']} until {deployed['expires']}: {deployed['reason']}"))
        if soak := deployed["soak"]:
            days = f"{soak['first_session']} to {soak['last_session']}"
            rows.append(("soak", f"{soak['sessions']} sessions in {soak['environment']}, {days}"))
    rows += [("data", f"{item['path']} md5:{item['dvc_md5']}") for item in trace["data"]["sets"]]
    rows += [(f"{name} window", " to ".join(days)) for name, days in trace["data"]["windows"].items()]
    rows.append(("parameters", f"params.yaml sha256:{trace['parameters']['sha256']}"))
    metrics = trace["metrics"]
    figures = [
        f"{key} {value:.4g}" for key, value in metrics["figures"].items() if isinstance(value, int | float)
    ]
    rows.append(("figures", ", ".join(figures)))
    rows.append(("seeds", ", ".join(map(str, metrics["seeds"]))))
    rows.append(("gate", f"{'passed' if metrics['gate_passed'] else 'failed'}; {metrics['trials']} trials"))
    for item in trace["signatures"]:
        workflow = item["workflow"].partition("@")[0].rpartition("/")[2]
        rows.append(
            (f"signed {item['fact']}", f"{item['signed_at']} by {workflow}, log index {item['log_index']}")
        )
    for event in trace["events"]:
        rows.append(
            (
                f"event {event['event']}",
                f"{event['at']} by {event['actor']} {event['details'].get('environment', '')}",
            )
        )
    return rows


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)
