"""Verify one Sigstore bundle offline: signature, log proof, time, exact identity, one spelling only."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asn1crypto import tsp
from cryptography import x509
from cryptography.hazmat import asn1
from sigstore.errors import Error as SigstoreError
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier
from sigstore_models.trustroot.v1 import TrustedRoot as InnerRoot

from sekisho.errors import CannotCheck, Refused, SekishoError
from sekisho.release.manifest import canonical, open_plain, parse_canonical
from sekisho.release.policy import Environment, Fact, Trust
from sekisho.release.statements import Predicate, read_statement

FULCIO = "1.3.6.1.4.1.57264.1."  # https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUNDLE_LIMIT = 1 << 18  # bytes

# Fulcio extension -> the rule that names it
RULES = {
    "8": "identity-issuer",
    "12": "identity-repository",
    "15": "identity-repository-id",
    "17": "identity-owner-id",
    "14": "identity-ref",
    "18": "identity-workflow",  # the workflow that ran
    "9": "identity-signer-workflow",  # the workflow that signed: differs when one calls a reusable one
    "11": "identity-runner",
    "23": "identity-github-environment",
}


@dataclass(frozen=True)
class SignedFact:
    """A verified fact: what it says, who signed it when, and where the log has it."""

    name: str
    predicate: Predicate
    workflow: str
    commit: str  # that the signing workflow ran on
    run: str
    signed_at: dt.datetime
    log_index: int
    bundle_sha256: str


def expected_identity(policy: Environment, fact: Fact) -> dict[str, str | None]:
    """Value of each Fulcio extension that a signer of ``fact`` must have; None: it must be absent."""
    signer, workflow = policy.signers[fact], policy.workflow_uri(fact)
    return {
        "8": policy.issuer,
        "12": policy.repository,
        "15": str(policy.repository_id),
        "17": str(policy.owner_id),
        "14": policy.ref,
        "18": workflow,
        "9": workflow,
        "11": policy.runner_environment,
        "23": signer.github_environment,
    }


class BundleVerifier:
    """Verifies bundles under one environment's trust; loads the root once.

    Raises:
        CannotCheck: the trusted root cannot be used.
    """

    def __init__(self, trust: Trust) -> None:
        self.trust = trust
        try:
            root = InnerRoot.from_json(trust.root_json)
            self._verifier = Verifier(trusted_root=TrustedRoot(root))
            self._root = root
        except (SigstoreError, ValueError) as error:
            raise CannotCheck(
                f"trust root of {trust.environment}: {error}", remedy="restore it from git"
            ) from error

    def verify(self, path: Path, fact: Fact, name: str, digest: str | None) -> SignedFact:
        """Verify the bundle in ``path`` as ``fact`` about ``name`` (``digest`` None: about itself).

        Raises:
            Refused: rules ``missing-fact``, ``symlink``, ``bundle-format``, ``canonical-json``,
                ``duplicate-key``, ``signature``, ``identity-*``, and those of
                :func:`statements.read_statement`.
            CannotCheck: the file cannot be read, or the check itself failed.
        """
        return self.check(_read(path, fact), path, fact, name, digest)

    def check(self, raw: bytes, path: Path, fact: Fact, name: str, digest: str | None) -> SignedFact:
        """:meth:`verify` of a bundle's bytes, which need not lie in ``path`` yet."""
        bundle = _parse(raw, path)
        try:
            kind, payload = self._verifier.verify_dsse(bundle, _Identity(self.trust.policy, fact))
            self._check_log_name(bundle, path)
            self._check_timestamps(bundle, path)
        except SekishoError:
            raise
        except SigstoreError as error:
            raise Refused(
                "signature",
                expected=f"{path.name} signed under the trust root of {self.trust.environment}",
                found=str(error),
                remedy="do not deploy; sign the release again in its own workflow",
            ) from error
        except Exception as error:  # whatever a hostile bundle makes the parsers raise: never a pass
            raise CannotCheck(f"{path}: {error!r}", remedy="restore the bundle from git") from error
        if kind != PAYLOAD_TYPE:
            raise _bad_format(path, f"payload type {kind}")
        if digest is None:
            digest = hashlib.sha256(_predicate_bytes(payload, path)).hexdigest()
        predicate = read_statement(payload, fact, name, digest)
        certificate = bundle.signing_certificate
        return SignedFact(
            name=fact,
            predicate=predicate,
            workflow=_extension(certificate, "9") or "",
            commit=_extension(certificate, "13") or "",
            run=_extension(certificate, "21") or "",
            signed_at=certificate.not_valid_before_utc,
            log_index=bundle.log_entry._inner.log_index,
            bundle_sha256=hashlib.sha256(raw).hexdigest(),
        )

    def _check_log_name(self, bundle: Bundle, path: Path) -> None:
        """The whole log id must be a trusted log's; sigstore takes it for a hint and compares four bytes."""
        if bundle.log_entry._inner.log_id.key_id not in {log.log_id.key_id for log in self._root.tlogs}:
            raise _bad_format(path, "an unknown log id")

    def _check_timestamps(self, bundle: Bundle, path: Path) -> None:
        """Refuse a token whose unsigned fields are not the only possible ones (RFC 5652, RFC 3161)."""
        known = {
            certificate.raw_bytes
            for authority in self._root.timestamp_authorities
            for certificate in authority.cert_chain.certificates
        }
        stamps = bundle._inner.verification_material.timestamp_verification_data
        for stamp in stamps.rfc3161_timestamps if stamps else []:
            response = tsp.TimeStampResp.load(stamp.signed_timestamp, strict=True)
            signed = response["time_stamp_token"]["content"]
            (signer,) = signed["signer_infos"]
            digest = signer["digest_algorithm"]["algorithm"].native
            fixed = (
                response["status"].native == {"status": "granted", "status_string": None, "fail_info": None}
                and response["time_stamp_token"]["content_type"].native == "signed_data"
                and signed["version"].native == "v3"
                and [item["algorithm"].native for item in signed["digest_algorithms"]] == [digest]
                and all(item.chosen.dump() in known for item in signed["certificates"])
                and not signed["crls"].native
                and signer["version"].native == "v1"
                and signer["signature_algorithm"]["algorithm"].native == f"{digest}_ecdsa"
                and not signer["unsigned_attrs"].native
            )
            if not fixed:
                raise _bad_format(path, "a timestamp token of another form")


def _read(path: Path, fact: str) -> bytes:
    try:
        with open_plain(path) as file:
            raw = file.read(BUNDLE_LIMIT + 1)
    except FileNotFoundError as error:
        raise Refused(
            "missing-fact",
            expected=f"the signed {fact} fact in {path}",
            found="no such file",
            remedy="sign the release (`sekisho sign`), or promote it (`sekisho promote`)",
        ) from error
    except OSError as error:
        raise CannotCheck(f"{path}: {error.strerror}", remedy="restore the bundle from git") from error
    if len(raw) > BUNDLE_LIMIT:
        raise _bad_format(path, f"more than {BUNDLE_LIMIT} bytes")
    return raw


def _parse(raw: bytes, path: Path) -> Bundle:
    """A bundle in one spelling, with no field that the verifier ignores by name.

    Not every byte is fixed: an inserted ``keyid`` of the envelope or ``integratedTime`` of the log's entry is
    covered by no signature, and an ECDSA signature (r, s), such as the timestamp's, holds as (r, n - s) too.
    None of them changes what was signed, by whom or when; that the bundle was touched shows in its digest,
    which the log has of the four facts.
    """
    value = parse_canonical(raw, path.name)
    try:
        bundle = Bundle.from_json(raw)
        understood = json.loads(bundle.to_json())
        entry = bundle.log_entry._inner
    except Exception as error:  # whatever the parsers raise, it is not a bundle
        raise _bad_format(path, error) from error
    if value.get("mediaType") != MEDIA_TYPE:
        raise _bad_format(path, f"media type {value.get('mediaType')!r}")
    if understood != value:
        raise _bad_format(path, "fields or encodings that the verifier would ignore")
    proof = entry.inclusion_proof
    if proof is None or proof.checkpoint is None:
        raise _bad_format(path, "no log proof")
    if entry.inclusion_promise is None and entry.log_index != proof.log_index:
        raise _bad_format(path, "two log indices")
    note = proof.checkpoint.envelope.split("\n")
    if note[1:2] != [str(proof.tree_size)]:
        raise _bad_format(path, "two log sizes")
    if not _is_signed_note(note):
        raise _bad_format(path, "a checkpoint of another form")
    return bundle


def _is_signed_note(lines: list[str]) -> bool:
    """C2SP signed-note: origin, size, root, blank, the log's signature first, perhaps witnesses'."""
    if len(lines) < 6 or lines[3] or lines[-1]:
        return False
    signatures = [line.split(" ") for line in lines[4:-1]]
    if not all(len(parts) == 3 and parts[0] == "—" for parts in signatures):
        return False
    try:
        spelled = [base64.b64encode(base64.b64decode(parts[2])).decode() == parts[2] for parts in signatures]
    except ValueError:
        return False
    # Rekor v1 has "host - tree id" for its origin and signs as "host"; Rekor v2 signs as its origin
    return all(spelled) and signatures[0][1] == lines[0].partition(" - ")[0]


def _bad_format(path: Path, found: object) -> Refused:
    return Refused(
        "bundle-format",
        expected=f"{path.name}: one Sigstore bundle v0.3 with certificate, log proof and timestamp",
        found=str(found),
        remedy="restore the bundle from git; do not edit it",
    )


def _predicate_bytes(payload: bytes, path: Path) -> bytes:
    value = parse_canonical(payload, path.name)
    return canonical(value.get("predicate") if isinstance(value, dict) else None)


class _Identity:
    """sigstore's ``VerificationPolicy``: exact match of every extension in :func:`expected_identity`."""

    def __init__(self, policy: Environment, fact: Fact) -> None:
        self._expected = expected_identity(policy, fact)
        self._events = policy.signers[fact].events
        self._fact = fact

    def verify(self, cert: x509.Certificate) -> None:
        for arc, expected in self._expected.items():
            self._same(RULES[arc], expected, _extension(cert, arc))
        event = _extension(cert, "20")
        if event not in self._events:
            self._same("identity-event", " or ".join(self._events), event)
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self._same("identity-subject", [self._expected["9"]], [name.value for name in names])
        # the workflow's code comes from the commit it ran on, not from elsewhere
        commit = _extension(cert, "13")
        self._same(
            "identity-workflow-commit", [commit, commit], [_extension(cert, "10"), _extension(cert, "19")]
        )

    def _same(self, rule: str, expected: Any, found: Any) -> None:
        if expected != found:
            raise Refused(
                rule,
                expected=f"{expected} for the {self._fact} fact",
                found=found,
                remedy="do not deploy; only the workflows in trust/policy.yaml may sign",
            )


def _extension(certificate: x509.Certificate, arc: str) -> str | None:
    oid = x509.ObjectIdentifier(FULCIO + arc)
    try:
        value = certificate.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        return None
    if not isinstance(value, x509.UnrecognizedExtension):
        return None
    return asn1.decode_der(str, value.value)
