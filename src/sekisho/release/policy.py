"""The trust policy is data: ``trust/policy.yaml`` says who may sign which fact. Exact matches only."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sekisho.errors import CannotCheck, Refused

FACTS = ("provenance", "evaluation", "data", "approval")  # signed together, before any promotion
Fact = Literal["provenance", "evaluation", "data", "approval", "deployment", "revocation", "summary"]
LOCAL_ORGANISATION = "sekisho local authority"  # stands in every local root, so that it is known as one
GITHUB_ISSUER = "https://token.actions.githubusercontent.com"  # of GitHub Actions' OIDC tokens
ROOT_LIMIT = 1 << 20  # bytes

Relative = Annotated[str, Field(pattern=r"^[a-z0-9_-]+(/[a-z0-9_-]+)*(\.sigstore)?\.json$")]
Days = Annotated[int, Field(ge=1, le=366)]


class Section(BaseModel):
    """A part of the policy: no key but those named, no value turned into another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PinnedRoot(Section):
    """A root published by others: pinned by digest, refreshed by a reviewed change."""

    kind: Literal["pinned"]
    file: Relative
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    refreshed: dt.date  # when somebody last took it from Sigstore
    max_age_days: Days


class LocalRoot(Section):
    """The root of this checkout's own authority, for demonstrations and tests only."""

    kind: Literal["local"]
    file: Relative
    max_age_days: Days  # since the authority was made


class Signer(Section):
    """The one workflow run that may sign a fact."""

    workflow: Annotated[str, Field(pattern=r"^\.github/workflows/[a-z0-9-]+\.yml$")]
    events: Annotated[list[Literal["push", "workflow_dispatch", "schedule"]], Field(min_length=1)]
    github_environment: str | None  # null: the certificate must name none


class SoakRule(Section):
    """What a release must have lived through in another environment before it may come to this one."""

    environment: Literal["local", "staging"]
    sessions: Annotated[int, Field(ge=1)]  # of the exchange, judged ok, after the deployment there


class Environment(Section):
    """On whose signatures, and after what, a release may run in one environment."""

    root: Annotated[PinnedRoot | LocalRoot, Field(discriminator="kind")]
    issuer: Annotated[str, Field(pattern=r"^https://[a-z0-9./-]+$")]
    repository: Annotated[str, Field(pattern=r"^https://[A-Za-z0-9._/-]+$")]
    repository_id: Annotated[int, Field(ge=0)]  # 0: not set yet, nothing verifies
    owner_id: Annotated[int, Field(ge=0)]
    ref: Annotated[str, Field(pattern=r"^refs/heads/[A-Za-z0-9._/-]+$")]
    runner_environment: Literal["github-hosted", "self-hosted"]
    revoked: Relative  # revocation list
    max_revocation_days: Days  # that a list may hold, whatever end it names
    max_deployment_days: Days  # that a promotion may hold, whatever end it names
    four_eyes_permissions: Annotated[list[Literal["admin", "maintain", "write"]], Field(min_length=1)]
    signers: dict[Fact, Signer]
    required: list[Fact]
    soak: SoakRule | None  # null: a release may come here at once

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [
            fact for fact in (*FACTS, "deployment", "revocation", "summary") if fact not in self.signers
        ]
        if missing:
            raise ValueError(f"signers lack {', '.join(missing)}")
        if sorted(self.required) != sorted(FACTS):
            raise ValueError(
                f"required must be {', '.join(FACTS)}; deployment is required of what is deployed"
            )
        return self

    def workflow_uri(self, fact: Fact) -> str:
        """The workflow that may sign ``fact``, as a certificate names it."""
        return f"{self.repository}/{self.signers[fact].workflow}@{self.ref}"


class TrustPolicy(Section):
    """The whole of ``policy.yaml``."""

    version: Annotated[int, Field(ge=1, le=1)]  # strict, unlike Literal[1], which takes true for it
    environments: Annotated[dict[Literal["local", "staging", "production"], Environment], Field(min_length=1)]

    @model_validator(mode="after")
    def _closed(self) -> Self:
        """What no edit may open: who signs for staging and production, and the way that leads there."""
        for name, policy in self.environments.items():
            if name == "local":
                continue
            for fact in ("deployment", "summary"):
                if policy.signers[fact].github_environment != name:
                    raise ValueError(f"{name}: {fact} must be signed in the GitHub environment {name}")
            given = (policy.root.kind, policy.issuer, policy.runner_environment)
            if given != ("pinned", GITHUB_ISSUER, "github-hosted"):
                raise ValueError(
                    f"{name}: needs a pinned root, the issuer {GITHUB_ISSUER} and github-hosted runners"
                )
        production = self.environments.get("production")
        if production and (production.soak is None or production.soak.environment != "staging"):
            raise ValueError("production: soak must ask for sessions in staging")
        return self

    def sharing(self, revoked: str) -> set[str]:
        """The environments whose revocation list is the file ``revoked``."""
        return {name for name, policy in self.environments.items() if policy.revoked == revoked}


@dataclass(frozen=True)
class Trust:
    """One environment's policy with its root, read and checked."""

    folder: Path
    environment: str
    policy: Environment
    root_json: bytes


class _OneKeyLoader(yaml.CSafeLoader):  # the C parser: the other takes a third of a verification
    """YAML that refuses a key given twice: otherwise the last one silently wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.YAMLError(f"{', '.join(twice)} given twice")
        return super().construct_mapping(node, deep)


def load_policy(trust: Path) -> TrustPolicy:
    """Read ``policy.yaml``.

    Raises:
        CannotCheck: missing, not YAML, an unknown or missing key, a value out of range; names the key.
    """
    path = trust / "policy.yaml"
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _OneKeyLoader)  # noqa: S506 (a SafeLoader)
        return TrustPolicy.model_validate(raw)
    except OSError as error:
        raise CannotCheck(
            f"{path}: {error.strerror}", remedy="give --trust a folder with policy.yaml"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise CannotCheck(f"{path}: {where}: {first['msg']}", remedy="see trust/README.md") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CannotCheck(f"{path}: {error}", remedy="see trust/README.md") from error


def load_trust(trust: Path, environment: str, *, now: dt.datetime | None = None) -> Trust:
    """The policy and root of one environment; ``now`` limits the root's age, None leaves the age unchecked.

    Raises:
        Refused: rules ``local-trust-root`` (staging or production trusts a local root), ``root-digest``.
        CannotCheck: unknown environment, identity not filled in, root missing, unreadable or too old.
    """
    environments: dict[Any, Environment] = dict(load_policy(trust).environments)
    if environment not in environments:
        raise CannotCheck(
            f"trust policy has no environment {environment!r}",
            remedy=f"choose from {', '.join(environments)}",
        )
    policy = environments[environment]
    if not (policy.repository_id and policy.owner_id):
        raise CannotCheck(
            f"trust/policy.yaml: {environment}: repository_id and owner_id are not set",
            remedy="fill them in as trust/README.md says; until then nothing verifies there",
        )
    path = trust / policy.root.file
    raw = _read_root(path)
    if environment != "local" and _is_local(raw, path):
        raise Refused(
            "local-trust-root",
            expected=f"a published trust root for {environment}",
            found=f"the local authority's in {path}",
            remedy="sign in CI; local signatures are for the environment `local` only",
        )
    if (
        isinstance(policy.root, PinnedRoot)
        and (found := hashlib.sha256(raw).hexdigest()) != policy.root.sha256
    ):
        raise Refused(
            "root-digest",
            expected=f"{path} with sha256 {policy.root.sha256}",
            found=found,
            remedy="restore it from git, or refresh it and its pin together (trust/README.md)",
        )
    if now is not None:
        _check_age(policy.root, raw, path, now)
    return Trust(trust, environment, policy, raw)


def _read_root(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(ROOT_LIMIT + 1)
    except OSError as error:
        raise CannotCheck(
            f"trust root {path}: {error.strerror}",
            remedy="restore it from git; for the environment `local` run `sekisho sign --init-local`",
        ) from error
    if not 0 < len(raw) <= ROOT_LIMIT:
        raise CannotCheck(f"trust root {path}: {len(raw)} bytes", remedy="restore it from git")
    return raw


def _is_local(raw: bytes, path: Path) -> bool:
    try:
        root = json.loads(raw)
        authorities = [*root["certificateAuthorities"], *root["timestampAuthorities"]]
        chains = [c["rawBytes"] for a in authorities for c in a["certChain"]["certificates"]]
        # in the certificates: what the file itself says beside them is not signed
        return any(LOCAL_ORGANISATION.encode() in base64.b64decode(raw) for raw in chains)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotCheck(
            f"trust root {path}: not a Sigstore trusted root", remedy="restore it from git"
        ) from error


def _check_age(root: PinnedRoot | LocalRoot, raw: bytes, path: Path, now: dt.datetime) -> None:
    if isinstance(root, PinnedRoot):
        start = dt.datetime.combine(root.refreshed, dt.time(), dt.UTC)
    else:
        try:
            starts = json.loads(raw)["certificateAuthorities"][0]["validFor"]["start"]
            start = dt.datetime.fromisoformat(starts)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise CannotCheck(f"trust root {path}: no start of validity", remedy="make it again") from error
    age = now - start
    if not dt.timedelta(0) <= age <= dt.timedelta(days=root.max_age_days):
        raise CannotCheck(
            f"trust root {path}: {age.days} days old, at most {root.max_age_days} are allowed",
            remedy="refresh it (trust/README.md); if local: remove .sekisho/local-authority and trust/local",
        )
