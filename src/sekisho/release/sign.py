"""Sign a release: provenance, evaluation, data and approval together, or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sekisho.checkout import checked_out, git
from sekisho.errors import Refused, require_same
from sekisho.release import audit, statements
from sekisho.release.evidence import require_finished
from sekisho.release.judgement import read_judged, read_object, recount, require_judged
from sekisho.release.manifest import (
    BUNDLES,
    CONTENT,
    MANIFEST,
    Manifest,
    check_files,
    check_place,
    read_manifest,
)
from sekisho.release.policy import FACTS, Environment, Fact, load_trust
from sekisho.release.signer import (
    Desk,
    describe_run,
    install_local_root,
    signing_environment,
)
from sekisho.release.verify import check_content, check_facts

if TYPE_CHECKING:
    from sekisho.release.bundle import BundleVerifier, SignedFact


def sign_release(desk: Desk, release: Path, approval: Path) -> dict[str, SignedFact]:
    """Sign the four facts, check the bundles as any verifier would, log it, put them in place in one rename.

    A release that is signed already is checked, the approval too, and left as it is.

    Raises:
        Refused: rules ``release-folder``, ``seq-reused``, ``logged-release`` (of its
            predecessor, by the log), ``signed-approval`` (signed already, with another
            approval), ``unfinished`` (an earlier command was interrupted); what is signed would not verify
            (gate failed or forged, approval does not fit, …).
        CannotCheck: no approval record, no credential, files missing.
    """
    from sekisho.release.bundle import BundleVerifier

    manifest, digest = read_manifest(release)
    releases = desk.repo / "releases"
    check_place(releases, release, manifest)
    check_files(manifest, release / CONTENT)
    if manifest.rollback is None:  # an old content's verdict was given by the gate of its time
        require_judged(release / CONTENT)
        recount(desk.repo, manifest)
    if desk.authority == "local":
        install_local_root(desk.trust, desk.local_folder)
    verifier = BundleVerifier(load_trust(desk.trust, signing_environment(desk.authority), now=audit.now()))
    if (release / BUNDLES).exists():
        return _signed_already(release, manifest, digest, verifier, approval)
    policy = verifier.trust.policy
    claims = make_claims(manifest, release / CONTENT, approval, policy, describe_run(desk.authority, policy))
    if manifest.rollback:
        check_rollback_approval(desk.repo, release, digest, claims["approval"])
    sign = desk.signer(policy)
    staging = Path(tempfile.mkdtemp(prefix=".sign-", dir=release.parent))
    try:
        bundles = staging / BUNDLES
        bundles.mkdir(mode=0o755)
        for fact, predicate in claims.items():
            statement = statements.make_statement(fact, statements.subject_name(manifest), digest, predicate)
            (bundles / f"{fact}.sigstore.json").write_bytes(sign(fact, statement))
        facts = check_facts(release, manifest, digest, verifier, bundles=bundles)
        check_content(facts, manifest, release / CONTENT, policy.repository)
        with audit.locked(releases):
            if (release / BUNDLES).exists():  # by another command meanwhile
                return _signed_already(release, manifest, digest, verifier, approval)
            details = _details(claims["approval"], facts)
            audit.append(releases, _next_signature(releases, manifest, digest, desk.actor, details))
            os.replace(bundles, release / BUNDLES)  # noqa: PTH105 (the one call that tests interrupt)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return facts


def _next_signature(
    releases: Path, manifest: Manifest, digest: str, actor: str, details: dict[str, Any]
) -> audit.Event:
    """The log's next line: the first signature under this seq, its predecessor logged, nothing unfinished."""
    events, _ = audit.read_log(releases)
    known = audit.signed_releases(events).get((manifest.model, manifest.seq))
    audit.require_first(manifest.model, manifest.seq, known, digest)
    if manifest.previous:
        audit.require_logged(events, manifest.model, manifest.seq - 1, manifest.previous)
    require_finished(releases, events, signing=(manifest.model, manifest.seq))
    event, _ = audit.next_event(
        releases,
        "sign",
        actor,
        model=manifest.model,
        seq=manifest.seq,
        manifest_digest=digest,
        details=details,
    )
    return event


def _signed_already(
    release: Path, manifest: Manifest, digest: str, verifier: BundleVerifier, approval: Path
) -> dict[str, SignedFact]:
    facts = check_facts(release, manifest, digest, verifier)
    require_same(
        "signed-approval",
        facts["approval"].predicate,
        statements.read_approval(approval),
        "nothing was signed anew; another approval needs another release",
    )
    return facts


def make_claims(
    manifest: Manifest, content: Path, approval: Path, policy: Environment, run: statements.Run
) -> dict[Fact, statements.Predicate]:
    """The predicates of the four facts, from the content and the approval record."""
    lineage, gate = (read_object(content / f"{name}.json") for name in ("lineage", "gate"))
    judged = read_judged(content)
    return {
        "provenance": statements.provenance(
            manifest, lineage, policy.repository, policy.workflow_uri("provenance"), run
        ),
        "evaluation": statements.evaluation(manifest, gate, judged["backtest"], judged["trials"], lineage),
        "data": statements.data(lineage),
        "approval": statements.read_approval(approval),
    }


def check_rollback_approval(repo: Path, release: Path, digest: str, approval: statements.Predicate) -> None:
    """The approved tree holds exactly this entry: an approval of something else does not bring it back.

    An ordinary release is bound to its approval by the tree it was exported from; a rollback's entry is
    made before its pull request, so that the tree which was reviewed is looked up in git.

    Raises:
        Refused: rule ``approval-rollback``.
    """
    assert isinstance(approval, statements.Approval)
    path = f"releases/{release.parent.name}/{release.name}/{MANIFEST}"
    commit, tree = checked_out(repo)
    found = (
        hashlib.sha256(git(repo, "cat-file", "blob", f"{tree}:{path}")).hexdigest()
        if git(repo, "ls-tree", tree, "--", path)
        else None
    )
    if (approval.merge_sha, approval.tree, found) != (commit, tree, digest):
        raise Refused(
            "approval-rollback",
            expected=f"an approval of {commit} that holds {path} of sha256 {digest}",
            found=f"one of {approval.merge_sha}; {path} there: {found or 'none'}",
            remedy="merge the rollback's pull request, then sign at its merge commit",
        )


def _details(approval: statements.Predicate, facts: dict[str, SignedFact]) -> dict[str, Any]:
    assert isinstance(approval, statements.Approval)
    return {
        "pr": approval.pr,
        "author": approval.author,
        "approvers": [approver.person for approver in approval.approvers],
        "bundles": {fact: facts[fact].bundle_sha256 for fact in FACTS},
    }
