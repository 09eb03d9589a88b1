"""Decide whether a release may be used. Offline; everything must hold; an error is never a pass.

The same function is called on the PR, before promotion, in the pod's init container and by the server at
load.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sekisho.backtest.files import require_returns
from sekisho.errors import CannotCheck, Refused, require_same
from sekisho.pointer import RELEASE
from sekisho.release.deployment import check_deployment, ran_before
from sekisho.release.judgement import INPUTS, judge_again
from sekisho.release.manifest import (
    BUNDLES,
    CONTENT,
    MANIFEST,
    ORIGIN,
    Manifest,
    check_files,
    parse_manifest,
    read_content,
    read_manifest,
    walk,
)
from sekisho.release.policy import FACTS, Fact, Trust, load_policy, load_trust
from sekisho.release.revocation import CLOCK_LAG, check_not_replayed, check_revocation, read_revocations
from sekisho.release.statements import (
    Approval,
    Approver,
    BuildDefinition,
    Data,
    Deployment,
    Evaluation,
    Provenance,
    build_definition,
    subject_name,
)

if TYPE_CHECKING:
    from sekisho.release.bundle import BundleVerifier, SignedFact

BUNDLE_NAME = re.compile(
    r"(provenance|evaluation|data|approval|deployment-(local|staging|production))\.sigstore\.json"
)
EXPECT = re.compile(rf"{RELEASE.pattern}(@sha256:[0-9a-f]{{64}})?")


@dataclass(frozen=True)
class VerifiedRelease:
    """A release that passed; ``digest`` is the sha256 (hex) of its manifest."""

    model: str
    seq: int
    digest: str
    folder: Path
    facts: Mapping[str, SignedFact]
    manifest: Manifest
    revocations: int  # serial of the list that was read: an older one need not be believed any more
    judged_again: (
        bool  # False: another version of the gate gave the verdict; it was checked when it was signed
    )

    def read(self, path: str) -> bytes:
        """One content file, checked again as it is read, so that nothing can change after the verification.

        Raises:
            Refused, CannotCheck: as :func:`manifest.read_content`.
        """
        return read_content(self.manifest, self.folder / CONTENT, path)


def verify_release(
    release: Path,
    *,
    trust: Path,
    environment: str,
    minimum_seq: int = 0,
    deployed: bool = False,
    expect: str | None = None,
    now: dt.datetime | None = None,
) -> VerifiedRelease:
    """Check a release's files, signatures, identities, approval, gate, revocation and order.

    ``trust`` is the folder with ``policy.yaml``; ``minimum_seq`` the caller's high-water mark; ``deployed``
    also demands a promotion to ``environment`` that has not run out; ``expect`` names the one release it may
    be, MODEL/SEQ or MODEL/SEQ@sha256:DIGEST, whatever its folder is called; ``now`` is for tests only.

    Raises:
        Refused: a rule is broken (exit code 1); ``rule`` names it.
        CannotCheck: something could not be checked (exit code 2), such as a missing or expired revocation
            list, or an ``expect`` that names no release.
    """
    from sekisho.release.bundle import BundleVerifier

    now = now or dt.datetime.now(dt.UTC)
    if expect is not None and not EXPECT.fullmatch(expect):
        raise CannotCheck(
            f"expected release {expect!r}: not a release's name",
            remedy="give MODEL/SEQ or MODEL/SEQ@sha256:DIGEST, 64 lower-case hex digits, as in release.env",
        )
    manifest, digest = read_manifest(release)
    if expect is not None:
        found = subject_name(manifest) + (f"@sha256:{digest}" if "@" in expect else "")
        require_same("expected-release", expect, found, "restore the release's folder from git")
    check_files(manifest, release / CONTENT)
    if manifest.seq < minimum_seq:
        raise Refused(
            "replayed-seq",
            expected=f"{manifest.model} of seq {minimum_seq} or later",
            found=f"seq {manifest.seq}",
            remedy="an older release comes back only as a new one: `sekisho rollback --to SEQ`",
        )
    verifier = BundleVerifier(load_trust(trust, environment, now=now))
    facts = check_facts(release, manifest, digest, verifier)
    ran = deployed and ran_before(release, manifest, verifier.trust)
    check_deployment(facts, manifest, verifier.trust, now, required=deployed, ran=ran)
    repository = verifier.trust.policy.repository
    judged = check_content(facts, manifest, release / CONTENT, repository)
    revocations = read_revocations(verifier, now)
    if "deployment" in facts:
        check_not_replayed(revocations.serial, cast(Deployment, facts["deployment"].predicate).revocations)
    check_revocation(revocations.revoked, manifest, digest)
    serial = revocations.serial
    return VerifiedRelease(manifest.model, manifest.seq, digest, release, facts, manifest, serial, judged)


def check_facts(
    release: Path, manifest: Manifest, digest: str, verifier: BundleVerifier, bundles: Path | None = None
) -> dict[str, SignedFact]:
    """Every required fact, signed by exactly whom the policy names, about this manifest, and consistent.

    ``bundles`` is where they lie if not yet in the release.

    Raises:
        Refused, CannotCheck: as :meth:`bundle.BundleVerifier.verify`, and the rules of the checks below.
    """
    bundles = bundles or release / BUNDLES
    policy = verifier.trust.policy
    deployment = f"deployment-{verifier.trust.environment}.sigstore.json"
    present = set(walk(bundles)) if bundles.exists() else set()
    for path in sorted(present):
        if not BUNDLE_NAME.fullmatch(path):
            raise Refused(
                "extra-file",
                expected="one bundle per fact",
                found=str(bundles / path),
                remedy="remove it, look who added it",
            )
    wanted: list[Fact] = [*policy.required]
    if deployment in present:
        wanted.append("deployment")
    _check_other_deployments(present - {deployment}, bundles, manifest, digest, verifier)
    facts: dict[str, SignedFact] = {}
    for fact in wanted:
        name = deployment if fact == "deployment" else f"{fact}.sigstore.json"
        facts[fact] = verifier.verify(bundles / name, fact, subject_name(manifest), digest)
    _check_provenance(facts["provenance"], manifest)
    _check_evaluation(facts["evaluation"], manifest)
    _check_approval(facts, manifest, verifier.trust)
    _check_origin(release, manifest, verifier)
    return facts


def _check_other_deployments(
    present: set[str], bundles: Path, manifest: Manifest, digest: str, verifier: BundleVerifier
) -> None:
    """A promotion to another environment must hold under its policy: nothing in bundles/ is unverified."""
    ours = verifier.trust.policy.root.file
    for path in sorted(path for path in present if path.startswith("deployment-")):
        environment = path.removeprefix("deployment-").removesuffix(".sigstore.json")
        other = load_policy(verifier.trust.folder).environments.get(cast(Any, environment))
        if other is None or other.root.file != ours:
            raise Refused(
                "extra-file",
                expected=f"promotions under the trust root of {verifier.trust.environment} only",
                found=str(bundles / path),
                remedy="remove it: a release signed elsewhere is exported and signed anew",
            )
        trust = load_trust(verifier.trust.folder, environment)
        fact = type(verifier)(trust).verify(bundles / path, "deployment", subject_name(manifest), digest)
        check_deployment({"deployment": fact}, manifest, trust, fact.signed_at, required=False)


def _check_provenance(fact: SignedFact, manifest: Manifest) -> None:
    claim = cast(Provenance, fact.predicate)
    remedy = "sign the release again from the commit it was exported at"
    dependencies = {
        item.uri.split("@")[0]: item.digest for item in claim.buildDefinition.resolvedDependencies
    }
    commits = [d["gitCommit"] for d in dependencies.values() if "gitCommit" in d]
    require_same("provenance-commit", [manifest.created_from.commit], commits, remedy)
    locked = dependencies.get("dvc.lock", {}).get("sha256")
    require_same("provenance-dvc-lock", manifest.sha256("dvc.lock"), locked, remedy)
    require_same("provenance-workflow", fact.workflow, claim.runDetails.builder.id, remedy)


def _check_evaluation(fact: SignedFact, manifest: Manifest) -> None:
    claim = cast(Evaluation, fact.predicate)
    remedy = "a release needs a passed gate: improve the agent, do not edit the verdict"
    require_same("gate", True, claim.gate_passed, remedy)
    remedy = "export and sign again; the figures must be those of the release"
    for path, claimed in {
        "gate.json": claim.gate_sha256,
        "backtest.json": claim.backtest_sha256,
        "trials.json": claim.trials_sha256,
        "lookahead.json": claim.lookahead_sha256,
        "report.md": claim.report_sha256,
        "params.yaml": claim.params_sha256,
    }.items():
        require_same("evaluation-figures", f"{path} {manifest.sha256(path)}", f"{path} {claimed}", remedy)


def _check_approval(facts: Mapping[str, SignedFact], manifest: Manifest, trust: Trust) -> None:
    claim = cast(Approval, facts["approval"].predicate)
    deciding = Approver(
        person=claim.approver,
        permission=claim.permission,
        approved_at=claim.approved_at,
        comment_id=claim.comment_id,
    )
    for approver in (deciding, *claim.approvers):
        _check_approver(approver, claim.author, facts["approval"].signed_at, trust)
    remedy = "fetch the approval again (`sekisho pr approval`), then sign"
    require_same("approval-approvers", deciding, claim.approvers[-1], remedy)
    remedy = (
        "approve the head as it is now (`/approve <sha>`), merge it unchanged, export at the merge commit"
    )
    created = manifest.created_from
    require_same("approval-report", manifest.sha256("report.md"), claim.report_sha256, remedy)
    require_same("approval-dvc-lock", created.dvc_lock_sha256, claim.dvc_lock_sha256, remedy)
    if manifest.rollback is None:
        require_same("approval-content-lock", manifest.sha256("dvc.lock"), claim.dvc_lock_sha256, remedy)
        require_same("stale-approval", f"tree {created.tree}", f"tree {claim.tree}", remedy)
        require_same("approval-merge", created.commit, claim.merge_sha, remedy)
    for name in FACTS:
        require_same(
            "signed-commit", f"{name} at {claim.merge_sha}", f"{name} at {facts[name].commit}", remedy
        )


def _check_approver(approver: Approver, author: str, signed_at: dt.datetime, trust: Trust) -> None:
    """A person other than the author, who could write to the repository, before it was signed."""
    name, remedy = approver.person.casefold(), "have someone else with write permission approve the PR"
    if name == author.casefold() or name.endswith("[bot]"):
        raise Refused(
            "four-eyes", expected=f"a person other than {author}", found=approver.person, remedy=remedy
        )
    if approver.permission not in trust.policy.four_eyes_permissions:
        allowed = " or ".join(trust.policy.four_eyes_permissions)
        raise Refused("approver-permission", expected=allowed, found=approver.permission, remedy=remedy)
    if approver.approved_at > signed_at + CLOCK_LAG:
        raise Refused(
            "approval-time",
            expected=f"an approval before it was signed, {signed_at}",
            found=approver.approved_at,
            remedy="fetch the approval again (`sekisho pr approval`), then sign",
        )


def _check_origin(release: Path, manifest: Manifest, verifier: BundleVerifier) -> None:
    """A rollback carries the manifest and bundles of the release it returns to; they must still hold."""
    folder = release / ORIGIN
    if manifest.rollback is None:
        if folder.exists() or folder.is_symlink():
            raise Refused(
                "extra-file", expected="no origin/", found=str(folder), remedy="restore the folder from git"
            )
        return
    remedy = "restore origin/ from git; one that was never whole: make the rollback again"
    require_same("rollback-origin", True, folder.is_dir(), remedy)
    entries = {path.split("/")[0] for path in walk(folder)}
    require_same("rollback-origin", {MANIFEST, BUNDLES}, entries, remedy)
    origin, digest = parse_manifest((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
    require_same("rollback-origin", manifest.rollback.manifest_digest, digest, remedy)
    wanted = (manifest.model, manifest.rollback.seq, None)
    require_same("rollback-origin", wanted, (origin.model, origin.seq, origin.rollback), remedy)
    require_same("rollback-content", origin.files, manifest.files, remedy)
    check_facts(folder, origin, digest, verifier)


def check_content(
    facts: Mapping[str, SignedFact], manifest: Manifest, content: Path, repository: str
) -> bool:
    """What the files themselves say must agree with what was signed about them, as from ``repository``.

    Returns whether the gate here gave the verdict again; another version's cannot be given again.

    Raises:
        Refused: rules ``gate``, ``gate-judgement``, ``returns-digest``, ``data-lineage``,
            ``evaluation-figures``, ``provenance-logs``, ``provenance-build``, and those of
            :func:`manifest.read_content`.
        CannotCheck: a file is not what it should be.
    """
    gate = _load(manifest, content, "gate.json")
    rules = gate.get("rules")
    if gate.get("passed") is not True or not rules or not all(rule.get("passed") is True for rule in rules):
        failed = [rule.get("rule") for rule in rules or [] if rule.get("passed") is not True]
        raise Refused(
            "gate",
            expected="every rule of the gate passed",
            found=f"failed: {', '.join(map(str, failed)) or 'the verdict'}",
            remedy="improve the agent, do not edit the verdict",
        )
    judged = {name: _load(manifest, content, f"{name}.json") for name in INPUTS}
    require_returns(judged["backtest"], manifest.sha256("returns.csv"))
    lineage = _load(manifest, content, "lineage.json")
    judge = lineage.get("judge") or {}
    backtest, trials = judged["backtest"], judged["trials"]
    evaluation = cast(Evaluation, facts["evaluation"].predicate)
    remedy = "export and sign again; the figures must be those of the release"
    for figure, claimed in (
        (backtest.get("window"), evaluation.window),
        (backtest.get("agent"), evaluation.figures),
        (trials.get("trials"), evaluation.trials),
        (trials.get("deflated_sharpe"), evaluation.deflated_sharpe),
        (trials.get("pbo"), evaluation.overfitting_probability),
        (lineage.get("seeds"), evaluation.seeds),
        (judge.get("limits"), evaluation.limits),
    ):
        require_same("evaluation-figures", figure, claimed, remedy)
    again = judge_again(judged, gate, judge)
    data = cast(Data, facts["data"].predicate).model_dump(mode="json")
    require_same("data-lineage", lineage.get("data"), data["sets"], remedy)
    for name in ("range", "windows"):
        require_same("data-lineage", lineage.get(name), data[name], remedy)
    provenance = cast(Provenance, facts["provenance"].predicate)
    logs = {item.uri: item.digest.get("sha256") for item in provenance.runDetails.byproducts}
    require_same("provenance-logs", lineage.get("logs"), logs, remedy)
    try:
        built = build_definition(manifest, lineage, repository)
    except (KeyError, TypeError, ValueError) as error:
        raise CannotCheck(
            f"{content / 'lineage.json'}: {error!r}", remedy="export the release again"
        ) from error
    for part in BuildDefinition.model_fields:
        claimed = getattr(provenance.buildDefinition, part)
        require_same("provenance-build", (part, getattr(built, part)), (part, claimed), remedy)
    return again


def _load(manifest: Manifest, content: Path, path: str) -> dict[str, Any]:
    """The very bytes whose digest is signed, so that no swap between check and use counts."""
    try:
        value = json.loads(read_content(manifest, content, path))
    except ValueError as error:
        raise CannotCheck(f"{content / path}: {error}", remedy="export the release again") from error
    if not isinstance(value, dict):
        raise CannotCheck(f"{content / path}: not a JSON object", remedy="export the release again")
    return value
