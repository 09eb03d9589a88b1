"""The facts about a release as in-toto statements over its manifest's digest.

``provenance`` and ``summary`` are SLSA's predicates; the others are ours, versioned in their type. The models
here are the schemas: ``schemas/<fact>.v1.json`` are printed from them for auditors and other tools, and every
statement is validated when it is made and again when it is verified. https://in-toto.io/Statement/v1,
https://slsa.dev/provenance/v1, https://slsa.dev/verification_summary/v1
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from sekisho.errors import CannotCheck, Refused
from sekisho.release.manifest import Commit, Manifest, ModelName, Seq, Sha256, canonical, parse_canonical

STATEMENT = "https://in-toto.io/Statement/v1"
Text = Annotated[str, Field(max_length=2000)]
Session = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
Person = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9\[\]_.-]{0,99}$")]


class Predicate(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Resource(Predicate):
    """in-toto ResourceDescriptor."""

    uri: Text
    digest: dict[str, str] = Field(min_length=1)


class BuildDefinition(Predicate):
    # .example can belong to nobody (RFC 2606)
    buildType: Literal["https://sekisho.example/dvc-pipeline/v1"]
    externalParameters: dict[str, Any]  # model, seq, params_sha256
    internalParameters: dict[str, Any]  # candidate: fold, seed
    resolvedDependencies: list[Resource] = Field(min_length=2)  # first the commit, then dvc.lock, data, locks


class Builder(Predicate):
    id: Text  # the signing workflow; equals the certificate's
    version: dict[str, str]  # runner: the image that the signing job ran in; python


class BuildMetadata(Predicate):
    invocationId: Text  # address of the run


class RunDetails(Predicate):
    builder: Builder
    metadata: BuildMetadata
    byproducts: list[Resource]  # the training runs' logs (curve.csv)


class Provenance(Predicate):
    buildDefinition: BuildDefinition
    runDetails: RunDetails


class Evaluation(Predicate):
    gate_passed: bool
    gate_sha256: Sha256
    backtest_sha256: Sha256
    trials_sha256: Sha256
    lookahead_sha256: Sha256
    report_sha256: Sha256
    params_sha256: Sha256
    seeds: list[int] = Field(min_length=1)  # of the training runs
    limits: dict[str, Any]  # of the gate
    window: dict[str, Any]  # first, last, sessions
    trials: Annotated[int, Field(ge=1)]
    deflated_sharpe: float
    overfitting_probability: float | None
    figures: dict[str, Any]  # the agent's, as in backtest.json


class DataSet(Predicate):
    path: Text
    dvc_md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")]
    sha256: Sha256 | None  # of the files here, as one list; None where they were not present at export
    versions: dict[str, str]  # object version ids by file, where the remote is version-aware; else empty


class TimeRange(Predicate):
    first: Session
    last: Session


class Data(Predicate):
    sets: list[DataSet] = Field(min_length=1)
    range: TimeRange  # sessions that the features hold
    windows: dict[str, list[str]]  # train, validation, test: first and last session of the candidate's fold
    contract: Literal["bars/v1"]


class Approver(Predicate):
    person: Person
    permission: Text  # in the repository, when the approval was given
    approved_at: AwareDatetime
    comment_id: int | str


class Approval(Predicate):
    pr: Annotated[int, Field(ge=1)]
    url: Text
    head_sha: Commit
    merge_sha: Commit
    tree: Commit
    dvc_lock_sha256: Sha256
    report_sha256: Sha256
    author: Person
    approver: Person
    permission: Text
    approved_at: AwareDatetime
    comment_id: int | str
    approvers: list[Approver] = Field(
        min_length=1
    )  # everybody whose approval counted; the one above comes last


class AuditHead(Predicate):
    lines: Annotated[int, Field(ge=1)]
    sha256: Sha256


class Soak(Predicate):
    """How the release did where it was deployed before: the evidence behind a promotion to production."""

    environment: Literal["local", "staging"]
    deployment_sha256: Sha256  # of the signed deployment there
    deployed_at: AwareDatetime
    first_session: Session
    last_session: Session
    sessions: Annotated[int, Field(ge=1)]
    verdict_sha256: Sha256  # of monitoring's verdict file


class Deployment(Predicate):
    environment: Literal["local", "staging", "production"]
    model: ModelName
    seq: Seq
    previous: Text | None  # what the environment pointed at before, as in release.env
    action: Literal["promote", "rollback"]
    reason: Text
    actor: Person
    expires: AwareDatetime
    revocations: Annotated[int, Field(ge=1)]  # serial of the list that was read; an older one is a replay
    audit: AuditHead  # the log's head with this promotion's own line: cutting the log shorter shows
    soak: Soak | None  # where the trust policy asks for one


class Revoked(Predicate):
    manifest_digest: Sha256
    model: ModelName
    seq: Seq
    content_sha256: Sha256 | None  # of its list of files: no other release may bring them back; None: unknown
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    at: AwareDatetime


class Revocations(Predicate):
    """The revocation list; signed whole, always with an end."""

    serial: Annotated[int, Field(ge=1)]  # grows with each list
    issued: AwareDatetime
    expires: AwareDatetime
    revoked: list[Revoked]


class Verifier(Predicate):
    id: Text


class Summary(Predicate):
    """SLSA verification summary: that a verifier, under a policy, found the release good."""

    verifier: Verifier
    timeVerified: AwareDatetime
    resourceUri: Text
    policy: Resource
    inputAttestations: list[Resource] = Field(min_length=1)
    verificationResult: Literal["PASSED"]  # what is refused gets no summary
    verifiedLevels: list[Text]
    slsaVersion: Literal["1.1"]


@dataclass(frozen=True)
class Run:
    """The run that signs: where it can be looked up, and on what it runs."""

    address: str
    versions: dict[str, str]


PREDICATES: dict[str, tuple[str, type[Predicate]]] = {
    "provenance": ("https://slsa.dev/provenance/v1", Provenance),
    "evaluation": ("https://sekisho.example/evaluation/v1", Evaluation),
    "data": ("https://sekisho.example/data/v1", Data),
    "approval": ("https://sekisho.example/approval/v1", Approval),
    "deployment": ("https://sekisho.example/deployment/v1", Deployment),
    "revocation": ("https://sekisho.example/revocation/v1", Revocations),
    "summary": ("https://slsa.dev/verification_summary/v1", Summary),
}


def make_statement(fact: str, name: str, digest: str, predicate: Predicate) -> bytes:
    """A canonical in-toto statement about one subject."""
    kind, model = PREDICATES[fact]
    value = model.model_validate(predicate).model_dump(mode="json")
    return canonical(
        {
            "_type": STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": digest}}],
            "predicateType": kind,
            "predicate": value,
        }
    )


def read_statement(payload: bytes, fact: str, name: str, digest: str) -> Predicate:
    """The predicate of a verified payload, which must be this fact about this subject.

    Raises:
        Refused: rules ``statement-schema``, ``wrong-fact``, ``wrong-subject``, ``canonical-json``,
            ``duplicate-key``.
    """
    value = parse_canonical(payload, f"the {fact} statement")
    remedy = "do not deploy; find out where this bundle came from"
    kind, model = PREDICATES[fact]
    keys = {"_type", "subject", "predicateType", "predicate"}
    if not isinstance(value, dict) or value.keys() != keys or value["_type"] != STATEMENT:
        raise Refused(
            "statement-schema",
            expected=f"an in-toto statement for {fact}",
            found="another shape",
            remedy=remedy,
        )
    if value["predicateType"] != kind:
        raise Refused("wrong-fact", expected=f"{fact} ({kind})", found=value["predicateType"], remedy=remedy)
    if value["subject"] != [{"name": name, "digest": {"sha256": digest}}]:
        raise Refused(
            "wrong-subject",
            expected=f"{fact} about {name} sha256:{digest}",
            found=value["subject"],
            remedy=remedy,
        )
    try:
        return model.model_validate_json(canonical(value["predicate"]))
    except ValidationError as error:
        first = error.errors()[0]
        found = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise Refused("statement-schema", expected=f"{fact} of {kind}", found=found, remedy=remedy) from error


def subject_name(manifest: Manifest) -> str:
    """What the facts about a release are about: MODEL/SEQ."""
    return f"{manifest.model}/{manifest.seq}"


def build_definition(manifest: Manifest, lineage: dict[str, Any], repository: str) -> BuildDefinition:
    """What the release was built from: commit, dvc.lock, data, requirements, parameters, candidate."""
    commit = manifest.created_from.commit
    dependencies = [
        Resource(uri=f"git+{repository}", digest={"gitCommit": commit}),
        Resource(uri="dvc.lock", digest={"sha256": manifest.sha256("dvc.lock")}),
        *(Resource(uri=item["path"], digest={"dvcMd5": item["dvc_md5"]}) for item in lineage["data"]),
        *(
            Resource(uri=path, digest={"sha256": sha})
            for path, sha in sorted(lineage["requirements"].items())
        ),
    ]
    if manifest.rollback:
        dependencies.append(
            Resource(
                uri=f"{manifest.model}/{manifest.rollback.seq}",
                digest={"sha256": manifest.rollback.manifest_digest},
            )
        )
    return BuildDefinition(
        buildType="https://sekisho.example/dvc-pipeline/v1",
        externalParameters={
            "model": manifest.model,
            "seq": manifest.seq,
            "params_sha256": manifest.sha256("params.yaml"),
        },
        internalParameters={"candidate": lineage["candidate"], "training": lineage["training"]},
        resolvedDependencies=dependencies,
    )


def provenance(
    manifest: Manifest, lineage: dict[str, Any], repository: str, workflow: str, run: Run
) -> Provenance:
    """Where the release was built from and how: its build definition, runner, logs."""
    return Provenance(
        buildDefinition=build_definition(manifest, lineage, repository),
        runDetails=RunDetails(
            builder=Builder(id=workflow, version=run.versions),
            metadata=BuildMetadata(invocationId=run.address),
            byproducts=[
                Resource(uri=path, digest={"sha256": sha}) for path, sha in sorted(lineage["logs"].items())
            ],
        ),
    )


def evaluation(
    manifest: Manifest,
    gate: dict[str, Any],
    backtest: dict[str, Any],
    trials: dict[str, Any],
    lineage: dict[str, Any],
) -> Evaluation:
    """What the backtest and the gate said, with the digests of the files that say it."""
    return Evaluation(
        gate_passed=gate["passed"],
        gate_sha256=manifest.sha256("gate.json"),
        backtest_sha256=manifest.sha256("backtest.json"),
        trials_sha256=manifest.sha256("trials.json"),
        lookahead_sha256=manifest.sha256("lookahead.json"),
        report_sha256=manifest.sha256("report.md"),
        params_sha256=manifest.sha256("params.yaml"),
        seeds=lineage["seeds"],
        limits=lineage["judge"]["limits"],
        window=backtest["window"],
        trials=trials["trials"],
        deflated_sharpe=trials["deflated_sharpe"],
        overfitting_probability=trials["pbo"],
        figures=backtest["agent"],
    )


def data(lineage: dict[str, Any]) -> Data:
    """Which data the agent learned from and was judged on."""
    return Data(
        sets=[DataSet(**item) for item in lineage["data"]],
        range=TimeRange(**lineage["range"]),
        windows=lineage["windows"],
        contract="bars/v1",
    )


def read_approval(path: Path) -> Approval:
    """An approval record as the forge writes it, after the merge.

    Raises:
        CannotCheck: missing, not JSON, or a field is missing (before the merge: merge_sha).
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        known = {key: raw[key] for key in Approval.model_fields if key in raw}
        return Approval.model_validate_json(json.dumps(known))
    except (OSError, ValueError, TypeError) as error:
        reason = error.errors()[0] if isinstance(error, ValidationError) else error
        raise CannotCheck(
            f"approval record {path}: {reason}",
            remedy="merge the PR, then `sekisho pr approval N --out FILE`",
        ) from error


def json_schema(fact: str) -> dict[str, Any]:
    """JSON schema of a fact's predicate, as kept in ``schemas/``."""
    kind, model = PREDICATES[fact]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": kind,
        **model.model_json_schema(),
    }
