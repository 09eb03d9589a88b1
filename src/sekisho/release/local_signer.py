"""An in-process Sigstore for laptops and tests: CA with SCTs, Rekor v2 log, RFC 3161 timestamps. No sockets.

Its bundles are real: the unmodified sigstore-python verifies them, against this authority's own trusted root
and no other. With bundle.py the only module that touches sigstore's internals; hence the exact pin in
pyproject.toml. Formats: Fulcio's OID table (sigstore/fulcio docs/oid-info.md), RFC 6962 (SCT, Merkle tree),
rekor-tiles (hashedrekord 0.0.2), C2SP signed-note and tlog-checkpoint, RFC 3161 and RFC 5816 (timestamps).
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rfc8785
from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from rfc3161_client import TimeStampResponse, decode_timestamp_response
from sigstore._internal.fulcio.client import FulcioCertificateSigningResponse
from sigstore._internal.rekor.client_v2 import RekorV2Client
from sigstore.models import TransparencyLogEntry
from sigstore.oidc import IdentityToken
from sigstore_models.rekor.v1 import TransparencyLogEntry as InnerEntry

from sekisho.release.audit import now
from sekisho.release.bundle import FULCIO
from sekisho.release.policy import LOCAL_ORGANISATION

SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
ORIGIN = "log.local.sekisho.test"  # the log's name in checkpoints
CERTIFICATE_MINUTES = 10  # as Fulcio's


def b64(raw: bytes) -> str:
    """As JSON carries bytes."""
    return base64.b64encode(raw).decode()


def sha(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


def spki(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """The public key in DER, as a trusted root names it."""
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def build_certificate(
    subject: x509.Name,
    key: Any,
    issuer: x509.Certificate | None,
    valid: tuple[dt.datetime, dt.datetime],
    *,
    ca_depth: int | None = None,
    usage: x509.ObjectIdentifier | None = None,
) -> x509.CertificateBuilder:
    """A certificate in the shape Fulcio's have; ``ca_depth`` makes it an authority with that path length."""
    ca = ca_depth is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.BasicConstraints(ca, ca_depth), critical=True)
        .add_extension(
            x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True
        )  # digital signature for a leaf; certificate and CRL signing for an authority
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    if issuer:
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    if usage:
        # RFC 3161 wants the timestamping usage critical
        critical = usage == ExtendedKeyUsageOID.TIME_STAMPING
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=critical)
    return builder


def authority_name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, LOCAL_ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


@dataclass
class LocalFulcio:
    """Issues a certificate for any claims it is given, with an SCT of its own CT log."""

    intermediate: x509.Certificate
    root: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    ct_key: ec.EllipticCurvePrivateKey

    @property
    def signing_cert(self) -> LocalFulcio:
        """sigstore calls ``fulcio.signing_cert.post``."""
        return self

    def post(
        self, request: x509.CertificateSigningRequest, identity: IdentityToken
    ) -> FulcioCertificateSigningResponse:
        extensions: dict[str, str] = identity._unverified_claims["extensions"]
        start = now()
        valid = (start, start + dt.timedelta(minutes=CERTIFICATE_MINUTES))
        builder = build_certificate(
            x509.Name([]),
            request.public_key(),
            self.intermediate,
            valid,
            usage=ExtendedKeyUsageOID.CODE_SIGNING,
        ).add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity._unverified_claims["san"])]),
            critical=True,
        )
        for arc, value in extensions.items():
            oid = x509.ObjectIdentifier(FULCIO + arc)
            builder = builder.add_extension(
                x509.UnrecognizedExtension(oid, core.UTF8String(value).dump()), critical=False
            )
        certificate = builder.add_extension(
            x509.UnrecognizedExtension(SCT_LIST, core.OctetString(self._sct(builder)).dump()), critical=False
        ).sign(self.key, hashes.SHA256())
        return FulcioCertificateSigningResponse(certificate, [self.intermediate, self.root])

    def _sct(self, builder: x509.CertificateBuilder) -> bytes:
        """RFC 6962 section 3.2: the list with the one signed certificate timestamp of a precertificate."""
        tbs = builder.sign(self.key, hashes.SHA256()).tbs_certificate_bytes
        milliseconds = int(dt.datetime.now(dt.UTC).timestamp() * 1000)
        entry = sha(spki(self.key)) + struct.pack("!I", len(tbs))[1:] + tbs + b"\0\0"
        signature = self.ct_key.sign(
            struct.pack("!BBQH", 0, 0, milliseconds, 1) + entry, ec.ECDSA(hashes.SHA256())
        )
        sct = b"\0" + sha(spki(self.ct_key)) + struct.pack("!Q", milliseconds) + b"\0\0"
        sct += bytes([4, 3]) + struct.pack("!H", len(signature)) + signature
        return struct.pack("!HH", len(sct) + 2, len(sct)) + sct


class LocalRekor(RekorV2Client):
    """A Merkle-tree log with its leaves in one file, one base64 body a line."""

    def __init__(self, key: ed25519.Ed25519PrivateKey, leaves: Path) -> None:
        super().__init__(f"http://{ORIGIN}")
        self.key = key
        self.leaves = leaves
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.id = sha(ORIGIN.encode() + b"\n\x01" + raw)  # C2SP signed-note key id

    def create_entry(self, payload: Any) -> TransparencyLogEntry:
        request = payload["hashedRekordRequestV002"]
        data = {"algorithm": "SHA2_256", "digest": request["digest"]}
        body = rfc8785.dumps(
            {
                "apiVersion": "0.0.2",
                "kind": "hashedrekord",
                "spec": {"hashedRekordV002": {"data": data, "signature": request["signature"]}},
            }
        )
        with self.leaves.open("a+b") as file:
            file.seek(0)
            # a line cut short by a crash was never in a bundle
            kept = [line for line in file.read().split(b"\n")[:-1]]
            bodies = [*map(base64.b64decode, kept), body]
            file.truncate(sum(len(line) + 1 for line in kept))
            file.write(base64.b64encode(body) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return TransparencyLogEntry(InnerEntry.from_dict(self._entry(body, [sha(b"\0" + b) for b in bodies])))

    def _entry(self, body: bytes, leaf_hashes: list[bytes]) -> dict[str, Any]:
        size = len(leaf_hashes)
        root, path = merkle_path(leaf_hashes, size - 1)
        note = f"{ORIGIN}\n{size}\n{b64(root)}\n"
        signature = b64(self.id[:4] + self.key.sign(note.encode()))
        return {
            "logIndex": str(size - 1),
            "logId": {"keyId": b64(self.id)},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "canonicalizedBody": b64(body),
            "inclusionProof": {
                "logIndex": str(size - 1),
                "rootHash": b64(root),
                "treeSize": str(size),
                "hashes": [b64(step) for step in path],
                "checkpoint": {"envelope": f"{note}\n— {ORIGIN} {signature}\n"},
            },
        }


def merkle_path(leaves: list[bytes], index: int) -> tuple[bytes, list[bytes]]:
    """Root and inclusion path of leaf ``index`` (RFC 6962 section 2.1), from leaf hashes."""
    if len(leaves) == 1:
        return leaves[0], []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = leaves[:split], leaves[split:]
    if index < split:
        root, path = merkle_path(left, index)
        other = merkle_path(right, 0)[0]
        return sha(b"\1" + root + other), [*path, other]
    root, path = merkle_path(right, index - split)
    other = merkle_path(left, 0)[0]
    return sha(b"\1" + other + root), [*path, other]


@dataclass
class LocalTimestamps:
    """RFC 3161 authority."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    url: str = "local"

    def request_timestamp(self, signature: bytes) -> TimeStampResponse:
        leaf = asn1_x509.Certificate.load(der(self.certificate))
        sha256 = algos.DigestAlgorithm({"algorithm": "sha256"})
        moment = now()
        info = tsp.TSTInfo(
            {
                "version": "v1",
                "policy": "1.3.6.1.4.1.57264.2",  # Sigstore's timestamping policy
                "message_imprint": {"hash_algorithm": sha256, "hashed_message": sha(signature)},
                "serial_number": x509.random_serial_number(),
                "gen_time": moment,
            }
        )
        certificate_id = {"hash_algorithm": {"algorithm": "sha256"}, "cert_hash": sha(leaf.dump())}
        attributes = cms.CMSAttributes(
            [
                {"type": "content_type", "values": ["tst_info"]},
                {"type": "signing_time", "values": [cms.Time({"utc_time": moment})]},
                {"type": "message_digest", "values": [sha(info.dump())]},
                {
                    "type": "signing_certificate_v2",
                    "values": [tsp.SigningCertificateV2({"certs": [certificate_id]})],
                },
            ]
        )
        signer = {
            "version": "v1",
            "sid": cms.SignerIdentifier(
                {"issuer_and_serial_number": {"issuer": leaf.issuer, "serial_number": leaf.serial_number}}
            ),
            "digest_algorithm": sha256,
            "signed_attrs": attributes,
            "signature_algorithm": {"algorithm": "sha256_ecdsa"},
            "signature": self.key.sign(attributes.dump(), ec.ECDSA(hashes.SHA256())),
        }
        content = {"content_type": "tst_info", "content": core.ParsableOctetString(info.dump())}
        signed = cms.SignedData(
            {
                "version": "v3",
                "digest_algorithms": [sha256],
                "encap_content_info": cms.EncapsulatedContentInfo(content),
                "certificates": [leaf],
                "signer_infos": [signer],
            }
        )
        token = {"content_type": "signed_data", "content": signed}
        response = tsp.TimeStampResp({"status": {"status": "granted"}, "time_stamp_token": token})
        return decode_timestamp_response(response.dump())
