"""The local authority's keys, certificates and log in a folder, so that several commands sign under one root.

Whoever has the folder can sign anything; that is why staging and production refuse its root
(``policy.load_trust``).
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from sigstore.models import TrustedRoot
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext

from sekisho.errors import CannotCheck
from sekisho.release.audit import now
from sekisho.release.local_signer import (
    ORIGIN,
    LocalFulcio,
    LocalRekor,
    LocalTimestamps,
    authority_name,
    b64,
    build_certificate,
    der,
    sha,
    spki,
)
from sekisho.release.policy import LOCAL_ORGANISATION

AUTHORITY_DAYS = 90
KEYS = ("root", "intermediate", "ct", "tsa-root", "tsa")


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
        moment = int(now().timestamp())
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
    start = now() - dt.timedelta(minutes=5)  # a signature's clock may lag a little
    valid = (start, start + dt.timedelta(days=AUTHORITY_DAYS))
    keys: dict[str, Any] = {name: ec.generate_private_key(ec.SECP256R1()) for name in KEYS}
    keys["log"] = ed25519.Ed25519PrivateKey.generate()

    def signed(name: str, issuer: x509.Certificate | None, by: str, **shape: Any) -> x509.Certificate:
        builder = build_certificate(authority_name(name), keys[name].public_key(), issuer, valid, **shape)
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
        public = {"rawBytes": b64(spki(key)), "keyDetails": details, "validFor": valid}
        return {
            "baseUrl": f"http://{host}",
            "hashAlgorithm": "SHA2_256",
            "publicKey": public,
            "logId": {"keyId": b64(log_id)},
        }

    def authority(host: str, certificates: list[x509.Certificate]) -> dict[str, Any]:
        return {
            "subject": {"organization": LOCAL_ORGANISATION, "commonName": host},
            "uri": f"http://{host}",
            "certChain": {"certificates": [{"rawBytes": b64(der(c))} for c in certificates]},
            "validFor": valid,
        }

    log_id = LocalRekor(keys["log"], Path(os.devnull)).id
    return {
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "tlogs": [log(ORIGIN, keys["log"], "PKIX_ED25519", log_id)],
        "ctlogs": [
            log("ct.local.sekisho.test", keys["ct"], "PKIX_ECDSA_P256_SHA_256", sha(spki(keys["ct"])))
        ],
        "certificateAuthorities": [authority("ca.local.sekisho.test", chain)],
        "timestampAuthorities": [authority("tsa.local.sekisho.test", tsa)],
    }
