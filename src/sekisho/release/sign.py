"""Sign a release: provenance, evaluation, data and approval together, or nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sekisho.errors import CannotCheck
from sekisho.release import audit, statements
from sekisho.release.dvclock import head
from sekisho.release.judgement import recount, require_judged
from sekisho.release.manifest import BUNDLES, CONTENT, Manifest, check_files, read_manifest
from sekisho.release.policy import FACTS, Environment, Fact, load_trust
from sekisho.release.signer import (
    Authority,
    install_local_root,
    open_signer,
    run_address,
    signing_environment,
)
from sekisho.release.verify import check_content, check_facts

if TYPE_CHECKING:
    from sekisho.release.bundle import SignedFact


def sign_release(
    repo: Path,
    release: Path,
    approval: Path,
    *,
    trust: Path,
    authority: Authority,
    local_folder: Path,
    actor: str,
) -> dict[str, SignedFact]:
    """Sign the four facts, check the bundles as any verifier would, log it, put them in place in one rename.

    A release that is signed already is checked and left as it is.

    Raises:
        Refused: what is signed would not verify (gate failed or forged, approval does not fit, …).
        CannotCheck: no approval record, no credential, files missing.
    """
    from sekisho.release.bundle import BundleVerifier

    manifest, digest = read_manifest(release)
    check_files(manifest, release / CONTENT)
    if manifest.rollback is None:  # an old content's verdict was given by the gate of its time
        require_judged(release / CONTENT)
        recount(repo, manifest)
    if authority == "local":
        install_local_root(trust, local_folder)
    verifier = BundleVerifier(load_trust(trust, signing_environment(authority), now=audit.now()))
    if (release / BUNDLES).exists():
        return check_facts(release, manifest, digest, verifier)
    policy = verifier.trust.policy
    claims = make_claims(
        manifest, digest, release / CONTENT, approval, policy, run_address(authority, policy)
    )
    sign = open_signer(authority, policy, head(repo)[0], local_folder)
    releases = release.parent.parent
    staging = Path(tempfile.mkdtemp(prefix=".sign-", dir=release.parent))
    try:
        bundles = staging / BUNDLES
        bundles.mkdir(mode=0o755)
        for fact, predicate in claims.items():
            statement = statements.make_statement(fact, statements.subject_name(manifest), digest, predicate)
            (bundles / f"{fact}.sigstore.json").write_bytes(sign(fact, statement))
        facts = check_facts(release, manifest, digest, verifier, bundles=bundles)
        check_content(facts, manifest, release / CONTENT)
        with audit.locked(releases):
            event, _ = audit.next_event(
                releases,
                "sign",
                actor,
                model=manifest.model,
                seq=manifest.seq,
                manifest_digest=digest,
                details=_details(claims["approval"], facts),
            )
            audit.append(releases, event)
            os.replace(bundles, release / BUNDLES)  # noqa: PTH105 (the one call that tests interrupt)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return facts


def make_claims(
    manifest: Manifest, digest: str, content: Path, approval: Path, policy: Environment, run: str
) -> dict[Fact, statements.Predicate]:
    """The predicates of the four facts, from the content and the approval record."""
    lineage = _load(content / "lineage.json")
    return {
        "provenance": statements.provenance(
            manifest, digest, lineage, policy.repository, policy.workflow_uri("provenance"), run
        ),
        "evaluation": statements.evaluation(
            manifest, *(_load(content / f"{name}.json") for name in ("gate", "backtest", "trials"))
        ),
        "data": statements.data(lineage),
        "approval": statements.read_approval(approval),
    }


def _details(approval: statements.Predicate, facts: dict[str, SignedFact]) -> dict[str, Any]:
    assert isinstance(approval, statements.Approval)
    return {
        "pr": approval.pr,
        "author": approval.author,
        "approver": approval.approver,
        "bundles": {fact: facts[fact].bundle_sha256 for fact in FACTS},
    }


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CannotCheck(f"{path}: {error}", remedy="export the release again") from error
