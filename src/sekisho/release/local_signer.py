"""An in-process Sigstore for laptops and tests: CA with SCTs, Rekor v2 log, RFC 3161 timestamps. No sockets.

Its bundles are real: the unmodified sigstore-python verifies them, against this authority's own trusted
root and no other. The keys lie in a folder, so that several commands sign under one root; whoever has the
folder can sign anything, which is why staging and production refuse the root (``policy.load_trust``).

The only module that touches sigstore's internals; hence the exact pin in pyproject.toml. Formats: Fulcio's
OID table (sigstore/fulcio docs/oid-info.md), RFC 6962 (SCT, Merkle tree), rekor-tiles (hashedrekord 0.0.2),
C2SP signed-note and tlog-checkpoint, RFC 3161 and RFC 5816 (timestamp token).
"""

from __future__ import annotations

import base64
import datetime as dt
import fcntl
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
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
from sigstore.models import TransparencyLogEntry, TrustedRoot
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext
from sigstore_models.rekor.v1 import TransparencyLogEntry as InnerEntry

from sekisho.errors import CannotCheck
from sekisho.release.policy import LOCAL_ORGANISATION

FULCIO = "1.3.6.1.4.1.57264.1."
SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
ORIGIN = "log.local.sekisho.test"  # the log's name in checkpoints
CERTIFICATE_MINUTES = 10  # as Fulcio's
AUTHORITY_DAYS = 90
KEYS = ("root", "intermediate", "ct", "tsa-root", "tsa")


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _sha(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


def _spki(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def _certificate(
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


def _name(common: str) -> x509.Name:
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
        start = _now()
        valid = (start, start + dt.timedelta(minutes=CERTIFICATE_MINUTES))
        builder = _certificate(
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
        entry = _sha(_spki(self.key)) + struct.pack("!I", len(tbs))[1:] + tbs + b"\0\0"
        signature = self.ct_key.sign(
            struct.pack("!BBQH", 0, 0, milliseconds, 1) + entry, ec.ECDSA(hashes.SHA256())
        )
        sct = b"\0" + _sha(_spki(self.ct_key)) + struct.pack("!Q", milliseconds) + b"\0\0"
        sct += bytes([4, 3]) + struct.pack("!H", len(signature)) + signature
        return struct.pack("!HH", len(sct) + 2, len(sct)) + sct


class LocalRekor(RekorV2Client):
    """A Merkle-tree log with its leaves in one file, one base64 body a line."""

    def __init__(self, key: ed25519.Ed25519PrivateKey, leaves: Path) -> None:
        super().__init__(f"http://{ORIGIN}")
        self.key = key
        self.leaves = leaves
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.id = _sha(ORIGIN.encode() + b"\n\x01" + raw)  # C2SP signed-note key id

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
        return TransparencyLogEntry(
            InnerEntry.from_dict(self._entry(body, [_sha(b"\0" + b) for b in bodies]))
        )

    def _entry(self, body: bytes, leaf_hashes: list[bytes]) -> dict[str, Any]:
        size = len(leaf_hashes)
        root, path = merkle_path(leaf_hashes, size - 1)
        note = f"{ORIGIN}\n{size}\n{_b64(root)}\n"
        signature = _b64(self.id[:4] + self.key.sign(note.encode()))
        return {
            "logIndex": str(size - 1),
            "logId": {"keyId": _b64(self.id)},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "canonicalizedBody": _b64(body),
            "inclusionProof": {
                "logIndex": str(size - 1),
                "rootHash": _b64(root),
                "treeSize": str(size),
                "hashes": [_b64(step) for step in path],
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
        return _sha(b"\1" + root + other), [*path, other]
    root, path = merkle_path(right, index - split)
    other = merkle_path(left, 0)[0]
    return _sha(b"\1" + other + root), [*path, other]


@dataclass
class LocalTimestamps:
    """RFC 3161 authority."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    url: str = "local"

    def request_timestamp(self, signature: bytes) -> TimeStampResponse:
        leaf = asn1_x509.Certificate.load(_der(self.certificate))
        sha256 = algos.DigestAlgorithm({"algorithm": "sha256"})
        moment = _now()
        info = tsp.TSTInfo(
            {
                "version": "v1",
                "policy": "1.3.6.1.4.1.57264.2",  # Sigstore's timestamping policy
                "message_imprint": {"hash_algorithm": sha256, "hashed_message": _sha(signature)},
                "serial_number": x509.random_serial_number(),
                "gen_time": moment,
            }
        )
        certificate_id = {"hash_algorithm": {"algorithm": "sha256"}, "cert_hash": _sha(leaf.dump())}
        attributes = cms.CMSAttributes(
            [
                {"type": "content_type", "values": ["tst_info"]},
                {"type": "signing_time", "values": [cms.Time({"utc_time": moment})]},
                {"type": "message_digest", "values": [_sha(info.dump())]},
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


class LocalAuthority:
    """The whole authority, kept in ``folder`` (0700): keys, certificates, log, its public trusted root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trusted_root_json = (folder / "trusted_root.json").read_bytes()
        keys = {name: _load_key(folder / f"{name}.pem") for name in KEYS}
        certificates = {
            name: x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
            for name in ("root", "intermediate", "tsa")
        }
        self.fulcio = LocalFulcio(
            certificates["intermediate"], certificates["root"], keys["intermediate"], keys["ct"]
        )
        self.rekor = LocalRekor(_load_key(folder / "log.pem"), folder / "log.txt")
        self.timestamps = LocalTimestamps(certificates["tsa"], keys["tsa"])

    def context(self) -> SigningContext:
        return SigningContext(
            fulcio=self.fulcio,  # type: ignore[arg-type]  # the one method that sigstore calls
            rekor=self.rekor,
            trusted_root=TrustedRoot.from_file(str(self.folder / "trusted_root.json")),
            tsa_clients=[self.timestamps],  # type: ignore[list-item]  # same
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One signer at a time, so that the log's leaves stay in order."""
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def token(self, san: str, extensions: dict[str, str]) -> IdentityToken:
        """A token that only this authority accepts: its claims go into the certificate as they are."""
        moment = int(_now().timestamp())
        claims = {"iss": extensions["8"], "aud": "sigstore", "sub": san, "iat": moment, "nbf": moment - 5}
        key = ec.generate_private_key(ec.SECP256R1())
        extra = {"exp": moment + 600, "san": san, "extensions": extensions}
        return IdentityToken(jwt.encode({**claims, **extra}, key, algorithm="ES256"))


def _load_key(path: Path) -> Any:
    return serialization.load_pem_private_key(path.read_bytes(), password=None)


def open_local_authority(folder: Path) -> LocalAuthority:
    """The authority in ``folder``; made there in one rename if there is none.

    Raises:
        CannotCheck: the folder is broken or readable by others.
    """
    if not folder.exists():
        _create(folder)
    if folder.stat().st_mode & 0o077:
        raise CannotCheck(f"{folder}: readable by others", remedy=f"chmod -R go= {folder}, or remove it")
    try:
        return LocalAuthority(folder)
    except (OSError, ValueError) as error:
        raise CannotCheck(
            f"{folder}: {error}", remedy="remove it and trust/local; old local signatures then stop verifying"
        ) from error


def _create(folder: Path) -> None:
    start = _now() - dt.timedelta(minutes=5)  # a signature's clock may lag a little
    valid = (start, start + dt.timedelta(days=AUTHORITY_DAYS))
    keys: dict[str, Any] = {name: ec.generate_private_key(ec.SECP256R1()) for name in KEYS}
    keys["log"] = ed25519.Ed25519PrivateKey.generate()

    def signed(name: str, issuer: x509.Certificate | None, by: str, **shape: Any) -> x509.Certificate:
        builder = _certificate(_name(name), keys[name].public_key(), issuer, valid, **shape)
        return builder.sign(keys[by], hashes.SHA256())

    root = signed("root", None, "root", ca_depth=1)
    intermediate = signed("intermediate", root, "root", ca_depth=0, usage=ExtendedKeyUsageOID.CODE_SIGNING)
    tsa_root = signed("tsa-root", None, "tsa-root", ca_depth=1)
    tsa = signed("tsa", tsa_root, "tsa-root", usage=ExtendedKeyUsageOID.TIME_STAMPING)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))  # mode 0700
    for name, key in keys.items():
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (fresh / f"{name}.pem").touch(0o600)
        (fresh / f"{name}.pem").write_bytes(pem)
    for name, certificate in {"root": root, "intermediate": intermediate, "tsa": tsa}.items():
        (fresh / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (fresh / "log.txt").touch()
    document = _trusted_root(keys, [intermediate, root], [tsa, tsa_root], start)
    (fresh / "trusted_root.json").write_bytes(json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
    fresh.replace(folder)


def _trusted_root(
    keys: dict[str, Any], chain: list[x509.Certificate], tsa: list[x509.Certificate], start: dt.datetime
) -> dict[str, Any]:
    valid = {"start": start.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def log(host: str, key: Any, details: str, log_id: bytes) -> dict[str, Any]:
        public = {"rawBytes": _b64(_spki(key)), "keyDetails": details, "validFor": valid}
        return {
            "baseUrl": f"http://{host}",
            "hashAlgorithm": "SHA2_256",
            "publicKey": public,
            "logId": {"keyId": _b64(log_id)},
        }

    def authority(host: str, certificates: list[x509.Certificate]) -> dict[str, Any]:
        return {
            "subject": {"organization": LOCAL_ORGANISATION, "commonName": host},
            "uri": f"http://{host}",
            "certChain": {"certificates": [{"rawBytes": _b64(_der(c))} for c in certificates]},
            "validFor": valid,
        }

    log_id = LocalRekor(keys["log"], Path(os.devnull)).id
    return {
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "tlogs": [log(ORIGIN, keys["log"], "PKIX_ED25519", log_id)],
        "ctlogs": [
            log("ct.local.sekisho.test", keys["ct"], "PKIX_ECDSA_P256_SHA_256", _sha(_spki(keys["ct"])))
        ],
        "certificateAuthorities": [authority("ca.local.sekisho.test", chain)],
        "timestampAuthorities": [authority("tsa.local.sekisho.test", tsa)],
    }
