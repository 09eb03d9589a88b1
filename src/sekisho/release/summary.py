"""A signed verification summary: what one verification found, for whoever cannot repeat it.

SLSA's verification summary attestation, https://slsa.dev/spec/v1.1/verification_summary. It replaces no
check of ours: pods and servers verify the release itself.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

from sekisho.release.audit import now, write_atomically
from sekisho.release.policy import Trust, load_trust
from sekisho.release.signer import Desk
from sekisho.release.statements import Resource, Summary, Verifier, make_statement, subject_name
from sekisho.release.verify import VerifiedRelease

VERIFIER = "https://sekisho.example/verify/v1"
# The training ran in another job than the one that signs, so the provenance reaches SLSA's build level 1.
LEVELS = ["SLSA_BUILD_LEVEL_1", "SEKISHO_GATE_PASSED", "SEKISHO_FOUR_EYES", "SEKISHO_NOT_REVOKED"]


def summarise(verified: VerifiedRelease, trust: Trust, moment: dt.datetime) -> Summary:
    """What :func:`verify.verify_release` established at ``moment``, with the bundles and policy it read."""
    policy = hashlib.sha256((trust.folder / "policy.yaml").read_bytes()).hexdigest()
    name = subject_name(verified.manifest)
    return Summary(
        verifier=Verifier(id=VERIFIER),
        timeVerified=moment,
        resourceUri=f"{trust.policy.repository}/releases/{name}",
        policy=Resource(uri=f"trust/policy.yaml#{trust.environment}", digest={"sha256": policy}),
        inputAttestations=[
            Resource(uri=f"{name}/bundles/{fact}", digest={"sha256": signed.bundle_sha256})
            for fact, signed in verified.facts.items()
        ],
        verificationResult="PASSED",
        verifiedLevels=[*LEVELS, *(["SEKISHO_DEPLOYED"] if "deployment" in verified.facts else [])],
        slsaVersion="1.1",
    )


def write_summary(desk: Desk, verified: VerifiedRelease, environment: str, out: Path) -> Path:
    """Sign the summary as ``environment``'s promotion workflow would, check it and write it to ``out``.

    Raises:
        CannotCheck: no credential here, or it could not be signed.
    """
    from sekisho.release.bundle import BundleVerifier

    moment = now()
    trust = load_trust(desk.trust, environment, now=moment)
    name = subject_name(verified.manifest)
    statement = make_statement("summary", name, verified.digest, summarise(verified, trust, moment))
    bundle = desk.signer(trust.policy)("summary", statement)
    BundleVerifier(trust).check(bundle, out, "summary", name, verified.digest)
    write_atomically(out, bundle)
    return out
