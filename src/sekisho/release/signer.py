"""Sign statements: keyless in CI, by the in-process authority on a laptop."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sekisho.checkout import checked_out
from sekisho.errors import CannotCheck
from sekisho.params import ReleaseParams
from sekisho.release.manifest import canonical
from sekisho.release.policy import Environment, Fact, load_policy
from sekisho.release.statements import Run

if TYPE_CHECKING:
    from sigstore.sign import SigningContext

Authority = Literal["local", "github"]
Sign = Callable[[Fact, bytes], bytes]  # statement -> bundle, both as bytes

LOCAL_FOLDER = Path(".sekisho/local-authority")  # in the repository, ignored by git


@dataclass(frozen=True)
class Desk:
    """Where and as whom a command works; ``local_folder`` holds the local authority."""

    repo: Path
    trust: Path
    authority: Authority
    local_folder: Path
    actor: str
    params: ReleaseParams

    def signer(self, policy: Environment) -> Sign:
        """A function that signs a statement as the given fact, under ``policy``.

        A local certificate says that it ran on the commit that is checked out; GitHub's own comes from its
        token. Bundles are written in canonical JSON, so that they have one spelling.

        Raises:
            CannotCheck: no GitHub credential here, the authority's folder is broken, Sigstore cannot be
                reached.
        """
        if self.authority == "github":
            return _github_signer()
        return _local_signer(policy, checked_out(self.repo)[0], self.local_folder)


def default_authority() -> Authority:
    """GitHub's identity inside its Actions, else the local authority."""
    return "github" if os.environ.get("GITHUB_ACTIONS") == "true" else "local"


def signing_environment(authority: Authority) -> str:
    """Whose policy a release's own facts are signed under and checked against before they are written."""
    return "local" if authority == "local" else "production"


def describe_run(authority: Authority, policy: Environment) -> Run:
    """The run that signs: its address, and the image it runs in as far as that is known.

    Our own jobs name their image by digest in SEKISHO_RUNNER_IMAGE; GitHub's runners name theirs themselves.
    """
    known = dict(os.environ)
    image = known.get("SEKISHO_RUNNER_IMAGE")
    if image is None and "ImageOS" in known:
        image = f"{known['ImageOS']}/{known.get('ImageVersion', 'unknown')}"
    versions = {"runner": image or platform.platform(), "python": platform.python_version()}
    return Run(run_address(authority, policy), versions)


def run_address(authority: Authority, policy: Environment) -> str:
    """Where the run that signs can be looked up."""
    if authority == "local":
        return f"{policy.repository}/local-run"
    try:
        server, repository, run = (
            os.environ[f"GITHUB_{name}"] for name in ("SERVER_URL", "REPOSITORY", "RUN_ID")
        )
    except KeyError as error:
        raise CannotCheck(
            f"{error} is not set", remedy="sign with --authority github in GitHub Actions only"
        ) from error
    return f"{server}/{repository}/actions/runs/{run}/attempts/{os.environ.get('GITHUB_RUN_ATTEMPT', '1')}"


def _local_signer(policy: Environment, commit: str, folder: Path) -> Sign:
    from sekisho.release.local_authority import open_local_authority

    local = open_local_authority(folder)
    context = local.context()

    def sign(fact: Fact, statement: bytes) -> bytes:
        san, extensions = local_identity(policy, fact, commit)
        with local.locked():
            return _sign(context, local.token(san, extensions), statement)

    return sign


def local_identity(policy: Environment, fact: Fact, commit: str) -> tuple[str, dict[str, str]]:
    """Subject and Fulcio extensions that the policy expects of ``fact``'s signer."""
    from sekisho.release.bundle import expected_identity

    extensions = {arc: value for arc, value in expected_identity(policy, fact).items() if value is not None}
    extensions |= {
        "10": commit,
        "13": commit,
        "19": commit,
        "20": policy.signers[fact].events[0],
        "21": run_address("local", policy),
    }
    return extensions["9"], extensions


def _github_signer() -> Sign:
    from sigstore.errors import Error
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityError, IdentityToken, detect_credential
    from sigstore.sign import SigningContext

    try:
        raw = detect_credential()
        if raw is None:
            raise CannotCheck("no OIDC credential here", remedy="give the job `permissions: id-token: write`")
        token = IdentityToken(raw)
        context = SigningContext.from_trust_config(ClientTrustConfig.production())
    except (Error, IdentityError) as error:
        raise CannotCheck(
            f"Sigstore: {error}", remedy="run the job again; see status.sigstore.dev"
        ) from error

    def sign(fact: Fact, statement: bytes) -> bytes:
        return _sign(context, token, statement)

    return sign


def _sign(context: SigningContext, token: object, statement: bytes) -> bytes:
    from sigstore.dsse import Statement
    from sigstore.errors import Error
    from sigstore.oidc import IdentityToken

    assert isinstance(token, IdentityToken)
    try:
        with context.signer(token) as signer:
            bundle = signer.sign_dsse(Statement(statement))
    except Error as error:
        raise CannotCheck(f"signing failed: {error}", remedy="run it again; nothing was written") from error
    return canonical(json.loads(bundle.to_json()))


def install_local_root(trust: Path, folder: Path) -> Path:
    """Make the local authority if need be and put its public trusted root where the policy looks for it.

    Raises:
        CannotCheck: another authority's root lies there.
    """
    from sekisho.release.audit import write_atomically
    from sekisho.release.local_authority import open_local_authority

    policy = load_policy(trust).environments.get("local")
    if policy is None or policy.root.kind != "local":
        raise CannotCheck("trust policy has no environment `local` with a local root", remedy="sign in CI")
    raw = open_local_authority(folder).trusted_root_json
    path = trust / policy.root.file
    if not path.exists():
        write_atomically(path, raw)
    elif path.read_bytes() != raw:
        raise CannotCheck(
            f"{path}: the root of another local authority",
            remedy=f"bring that authority to {folder}, or remove trust/local and sign the releases again",
        )
    return path


def predicate_digest(predicate: object) -> str:
    """Digest of a fact that is about itself: the revocation list."""
    return hashlib.sha256(canonical(predicate)).hexdigest()
