"""Decide whether a release may be used. Offline; everything must hold; an error is never a pass.

The same function is called on the PR, before promotion, in the pod's init container and by the server at
load.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sekisho.errors import CannotCheck, Refused
from sekisho.release.judgement import judge_again, read_judged
from sekisho.release.manifest import (
    BUNDLES,
    CONTENT,
    MANIFEST,
    ORIGIN,
    Manifest,
    check_files,
    check_path,
    parse_manifest,
    read_manifest,
    walk,
)
from sekisho.release.policy import FACTS, Fact, Trust, load_trust
from sekisho.release.statements import (
    Approval,
    Data,
    Deployment,
    Evaluation,
    Provenance,
    Revocations,
    subject_name,
)

if TYPE_CHECKING:
    from sekisho.release.bundle import BundleVerifier, SignedFact

REVOCATIONS = "revocations"  # subject name of the revocation list
BUNDLE_NAME = re.compile(
    r"(provenance|evaluation|data|approval|deployment-(local|staging|production))\.sigstore\.json"
)
CLOCK_LAG = dt.timedelta(minutes=5)  # how far a list's start may lie ahead of our clock


@dataclass(frozen=True)
class VerifiedRelease:
    """A release that passed; ``digest`` is the sha256 (hex) of its manifest."""

    model: str
    seq: int
    digest: str
    folder: Path
    facts: Mapping[str, SignedFact]
    manifest: Manifest

    def read(self, path: str) -> bytes:
        """One content file, checked again as it is read, so that nothing can change after the verification.

        Raises:
            Refused: rules ``missing-file``, ``file-digest``.
            CannotCheck: it cannot be read any more.
        """
        expected = self.manifest.sha256(path)
        try:
            raw = (self.folder / CONTENT / check_path(path)).read_bytes()
        except OSError as error:
            raise CannotCheck(f"{path}: {error.strerror}", remedy="load the release again") from error
        if (found := hashlib.sha256(raw).hexdigest()) != expected:
            raise Refused(
                "file-digest",
                expected=f"{path} of sha256 {expected}",
                found=found,
                remedy="load the release again",
            )
        return raw


def verify_release(
    release: Path,
    *,
    trust: Path,
    environment: str,
    minimum_seq: int = 0,
    deployed: bool = False,
    now: dt.datetime | None = None,
) -> VerifiedRelease:
    """Check a release's files, signatures, identities, approval, gate, revocation and order.

    ``trust`` is the folder with ``policy.yaml``; ``minimum_seq`` the caller's high-water mark; ``deployed``
    also demands a promotion to ``environment`` that has not run out; ``now`` is the clock (tests only).

    Raises:
        Refused: a rule is broken (exit code 1); ``rule`` names it.
        CannotCheck: something could not be checked (exit code 2), such as a missing or expired revocation
            list.
    """
    from sekisho.release.bundle import BundleVerifier

    now = now or dt.datetime.now(dt.UTC)
    manifest, digest = read_manifest(release)
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
    check_deployment(facts, manifest, verifier.trust, now, required=deployed)
    check_content(facts, manifest, release / CONTENT)
    origin = [manifest.rollback.manifest_digest] if manifest.rollback else []
    check_revocation(read_revocations(verifier, now), [digest, *origin])
    return VerifiedRelease(manifest.model, manifest.seq, digest, release, facts, manifest)


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
    facts: dict[str, SignedFact] = {}
    for fact in wanted:
        name = deployment if fact == "deployment" else f"{fact}.sigstore.json"
        facts[fact] = verifier.verify(bundles / name, fact, subject_name(manifest), digest)
    _check_provenance(facts["provenance"], manifest)
    _check_evaluation(facts["evaluation"], manifest)
    _check_approval(facts, manifest, verifier.trust)
    _check_origin(release, manifest, verifier)
    return facts


def _check_provenance(fact: SignedFact, manifest: Manifest) -> None:
    claim = cast(Provenance, fact.predicate)
    remedy = "sign the release again from the commit it was exported at"
    dependencies = {
        item.uri.split("@")[0]: item.digest for item in claim.buildDefinition.resolvedDependencies
    }
    commits = [d["gitCommit"] for d in dependencies.values() if "gitCommit" in d]
    _same("provenance-commit", [manifest.created_from.commit], commits, remedy)
    locked = dependencies.get("dvc.lock", {}).get("sha256")
    _same("provenance-dvc-lock", manifest.sha256("dvc.lock"), locked, remedy)
    _same("provenance-workflow", fact.workflow, claim.runDetails.builder.id, remedy)


def _check_evaluation(fact: SignedFact, manifest: Manifest) -> None:
    claim = cast(Evaluation, fact.predicate)
    remedy = "a release needs a passed gate: improve the agent, do not edit the verdict"
    _same("gate", True, claim.gate_passed, remedy)
    remedy = "export and sign again; the figures must be those of the release"
    for path, claimed in {
        "gate.json": claim.gate_sha256,
        "backtest.json": claim.backtest_sha256,
        "trials.json": claim.trials_sha256,
        "lookahead.json": claim.lookahead_sha256,
        "report.md": claim.report_sha256,
        "params.yaml": claim.params_sha256,
    }.items():
        _same("evaluation-figures", f"{path} {manifest.sha256(path)}", f"{path} {claimed}", remedy)


def _check_approval(facts: Mapping[str, SignedFact], manifest: Manifest, trust: Trust) -> None:
    claim = cast(Approval, facts["approval"].predicate)
    author, approver = claim.author.casefold(), claim.approver.casefold()
    remedy = "have someone else with write permission approve the PR"
    if author == approver or approver.endswith("[bot]"):
        raise Refused(
            "four-eyes", expected=f"a person other than {claim.author}", found=claim.approver, remedy=remedy
        )
    if claim.permission not in trust.policy.four_eyes_permissions:
        allowed = " or ".join(trust.policy.four_eyes_permissions)
        raise Refused("approver-permission", expected=allowed, found=claim.permission, remedy=remedy)
    remedy = (
        "approve the head as it is now (`/approve <sha>`), merge it unchanged, export at the merge commit"
    )
    created = manifest.created_from
    _same("approval-report", manifest.sha256("report.md"), claim.report_sha256, remedy)
    _same("approval-dvc-lock", created.dvc_lock_sha256, claim.dvc_lock_sha256, remedy)
    if manifest.rollback is None:
        _same("approval-content-lock", manifest.sha256("dvc.lock"), claim.dvc_lock_sha256, remedy)
        _same("stale-approval", f"tree {created.tree}", f"tree {claim.tree}", remedy)
        _same("approval-merge", created.commit, claim.merge_sha, remedy)
    for name in FACTS:
        _same("signed-commit", f"{name} at {claim.merge_sha}", f"{name} at {facts[name].commit}", remedy)


def _check_origin(release: Path, manifest: Manifest, verifier: BundleVerifier) -> None:
    """A rollback carries the manifest and bundles of the release it returns to; they must still hold."""
    folder = release / ORIGIN
    if manifest.rollback is None:
        if folder.exists() or folder.is_symlink():
            raise Refused(
                "extra-file", expected="no origin/", found=str(folder), remedy="restore the folder from git"
            )
        return
    remedy = "make the rollback again with `sekisho rollback`"
    entries = {path.split("/")[0] for path in walk(folder)}
    _same("rollback-origin", {MANIFEST, BUNDLES}, entries, remedy)
    origin, digest = parse_manifest((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
    _same("rollback-origin", manifest.rollback.manifest_digest, digest, remedy)
    _same("rollback-origin", (manifest.model, manifest.rollback.seq), (origin.model, origin.seq), remedy)
    _same(
        "rollback-origin",
        "an original release",
        "a rollback" if origin.rollback else "an original release",
        remedy,
    )
    _same("rollback-content", origin.files, manifest.files, remedy)
    check_facts(folder, origin, digest, verifier)


def check_deployment(
    facts: Mapping[str, SignedFact], manifest: Manifest, trust: Trust, now: dt.datetime, *, required: bool
) -> None:
    """The promotion, if there is one (or one is required): to this environment, of this release, not run out.

    Raises:
        Refused: rules ``missing-fact``, ``deployment-environment``, ``deployment-release``,
            ``deployment-expired``, ``soak``.
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
    _same("deployment-environment", trust.environment, claim.environment, remedy)
    _same("deployment-release", (manifest.model, manifest.seq), (claim.model, claim.seq), remedy)
    if rule := trust.policy.soak:
        soaked = claim.soak and claim.soak.environment == rule.environment and claim.soak.sessions
        if not soaked or soaked < rule.sessions:
            raise Refused(
                "soak",
                expected=f"{rule.sessions} sessions judged ok in {rule.environment}",
                found=f"{soaked} sessions" if soaked else "no soak result",
                remedy=f"`sekisho promote RELEASE --environment {trust.environment} --soak VERDICT.json`",
            )
    if required and now > claim.expires:
        raise Refused(
            "deployment-expired", expected=f"a time before {claim.expires}", found=now, remedy=remedy
        )


def check_content(facts: Mapping[str, SignedFact], manifest: Manifest, content: Path) -> None:
    """What the files themselves say must agree with what was signed about them.

    Raises:
        Refused: rules ``gate``, ``gate-judgement``, ``data-lineage``, ``evaluation-figures``.
        CannotCheck: a file is not what it should be.
    """
    gate = _load(content / "gate.json")
    rules = gate.get("rules")
    if gate.get("passed") is not True or not rules or not all(rule.get("passed") is True for rule in rules):
        failed = [rule.get("rule") for rule in rules or [] if rule.get("passed") is not True]
        raise Refused(
            "gate",
            expected="every rule of the gate passed",
            found=f"failed: {', '.join(map(str, failed)) or 'the verdict'}",
            remedy="improve the agent, do not edit the verdict",
        )
    judged = read_judged(content)
    backtest, trials = judged["backtest"], judged["trials"]
    evaluation = cast(Evaluation, facts["evaluation"].predicate)
    remedy = "export and sign again; the figures must be those of the release"
    for figure, claimed in (
        (backtest.get("window"), evaluation.window),
        (backtest.get("agent"), evaluation.figures),
        (trials.get("trials"), evaluation.trials),
        (trials.get("deflated_sharpe"), evaluation.deflated_sharpe),
        (trials.get("pbo"), evaluation.overfitting_probability),
    ):
        _same("evaluation-figures", figure, claimed, remedy)
    lineage = _load(content / "lineage.json")
    judge_again(judged, gate, lineage.get("judge") or {})
    data = cast(Data, facts["data"].predicate).model_dump(mode="json")
    _same("data-lineage", lineage.get("data"), data["sets"], remedy)
    _same("data-lineage", lineage.get("windows"), data["windows"], remedy)


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CannotCheck(f"{path}: {error}", remedy="export the release again") from error
    if not isinstance(value, dict):
        raise CannotCheck(f"{path}: not a JSON object", remedy="export the release again")
    return value


def read_revocations(verifier: BundleVerifier, now: dt.datetime, *, expired: bool = False) -> Revocations:
    """The signed revocation list of the environment. Fails closed; ``expired`` reads one that has run out.

    Raises:
        CannotCheck: no list, or it has run out, or its start lies ahead of the clock.
        Refused: its signature or form does not hold.
    """
    path = verifier.trust.folder / verifier.trust.policy.revoked
    renew = "renew it: `sekisho revoke --renew` (in CI: the promote workflow)"
    if not path.exists():
        raise CannotCheck(f"revocation list {path}: missing", remedy=renew)
    claim = cast(Revocations, verifier.verify(path, "revocation", REVOCATIONS, None).predicate)
    if now > claim.expires and not expired:
        raise CannotCheck(f"revocation list {path}: ran out {claim.expires}", remedy=renew)
    if claim.issued > now + CLOCK_LAG:
        raise CannotCheck(
            f"revocation list {path}: issued {claim.issued}, after now", remedy="check the clock"
        )
    return claim


def check_revocation(revocations: Revocations, digests: list[str]) -> None:
    """Refuse a release whose manifest (or, for a rollback, whose origin's) is on the list.

    Raises:
        Refused: rule ``revoked``.
    """
    for entry in revocations.revoked:
        if entry.manifest_digest in digests:
            raise Refused(
                "revoked",
                expected="a release that is not revoked",
                found=f"{entry.model}/{entry.seq} revoked {entry.at:%Y-%m-%d}: {entry.reason}",
                remedy="promote another release, or `sekisho rollback --to` one that is not revoked",
            )


def _same(rule: str, expected: object, found: object, remedy: str) -> None:
    if expected != found:
        raise Refused(rule, expected=expected, found=found, remedy=remedy)
