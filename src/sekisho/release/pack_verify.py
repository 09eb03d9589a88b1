"""Verify an audit pack. Needs Python 3.11 and the package `sigstore`, no network, nothing of Sekisho.

    python verify.py [FOLDER] [--json]

Every file is what the pack lists, the log is unbroken, every bundle is signed by exactly the identity in
identities.json under trust/trusted_root.json, is about its release's manifest, and is the one that the log
names. Exit codes: 0 all of it holds, 1 something does not, 2 could not be checked.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

FULCIO = "1.3.6.1.4.1.57264.1."  # prefix of the certificate's extensions
EVENT = "20"  # the one extension with several allowed values
REQUIRED = ("provenance", "evaluation", "data", "approval")
GENESIS = "0" * 64


class Broken(Exception):
    """The pack does not hold what it must."""


def require(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise Broken(f"{what}: expected {expected}, found {found}")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path: Path) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        require(f"{path.name}: keys given once", len(pairs), len(dict(pairs)))
        return dict(pairs)

    return json.loads(path.read_bytes(), object_pairs_hook=once)


def check_sums(pack: Path) -> int:
    """SHA256SUMS names every file of the pack and no other."""
    listed = {}
    for line in (pack / "SHA256SUMS").read_text("utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    present = {p.relative_to(pack).as_posix(): p for p in pack.rglob("*") if p.is_symlink() or not p.is_dir()}
    present.pop("SHA256SUMS")
    require("files of the pack", sorted(listed), sorted(present))
    for name, path in present.items():
        require(f"{name} is a plain file", False, path.is_symlink())
        require(f"sha256 of {name}", listed[name], sha256(path))
    return len(listed)


def check_log(pack: Path, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Each line of the log carries the hash of the line before; the last is the head that pack.json names."""
    events, previous = [], GENESIS
    for number, line in enumerate((pack / "audit.jsonl").read_bytes().splitlines(), start=1):
        event = json.loads(line)
        require(f"audit.jsonl line {number}", (number, previous), (event["line"], event["previous"]))
        previous = hashlib.sha256(line).hexdigest()
        events.append(event)
    require("head of audit.jsonl", (about["head"]["lines"], about["head"]["sha256"]), (len(events), previous))
    return events


class Exactly:
    """sigstore's verification policy: the certificate's extensions have exactly these values."""

    def __init__(self, identity: dict[str, Any]) -> None:
        self.identity = identity

    def verify(self, cert: Any) -> None:
        from cryptography import x509

        def value(arc: str) -> str | None:
            try:
                extension = cert.extensions.get_extension_for_oid(x509.ObjectIdentifier(FULCIO + arc))
            except x509.ExtensionNotFound:
                return None
            raw: bytes = extension.value.value
            require(f"extension {arc} is a short UTF-8 string", (12, len(raw) - 2), (raw[0], raw[1]))
            return raw[2:].decode()

        for arc, expected in self.identity["extensions"].items():
            require(f"certificate extension {arc}", expected, value(arc))
        require("certificate's trigger is allowed", True, value(EVENT) in self.identity["events"])
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        require("certificate's subject", [self.identity["subject"]], [name.value for name in names])
        require("workflow's commit", (value("13"), value("13")), (value("10"), value("19")))


def verify_bundle(
    verifier: Any, path: Path, identity: dict[str, Any], name: str, digest: str
) -> dict[str, Any]:
    """The statement in a bundle, which must be signed by ``identity`` and be about ``digest``."""
    from sigstore.models import Bundle

    bundle = Bundle.from_json(path.read_bytes())
    _, payload = verifier.verify_dsse(bundle, Exactly(identity))
    statement: dict[str, Any] = json.loads(payload)
    require(f"{path}: subject", [{"name": name, "digest": {"sha256": digest}}], statement["subject"])
    require(f"{path}: kind of fact", identity["predicate"], statement["predicateType"])
    return statement


def check_release(
    folder: Path, entry: dict[str, Any], identities: Any, verifier: Any, events: list[dict[str, Any]]
) -> list[dict[str, str]]:
    """Every bundle of one release, its files as far as the pack has them, and what the log says of it."""
    manifest, digest, name = load(folder / "manifest.json"), entry["digest"], entry["name"]
    require(f"{name}: digest of its manifest", digest, sha256(folder / "manifest.json"))
    require(f"{name}: its name", f"{manifest['model']}/{manifest['seq']}", name)
    files = {file["path"]: file["sha256"] for file in manifest["files"]}
    for path in (p for p in (folder / "content").rglob("*") if not p.is_dir()):
        inside = path.relative_to(folder / "content").as_posix()
        require(f"{name}: {inside}", files.get(inside), sha256(path))
    rows, facts = [], {}
    for path in sorted((folder / "bundles").iterdir()):
        fact, _, environment = path.name.removesuffix(".sigstore.json").partition("-")
        identity = identities[environment or entry["environment"]][fact]
        statement = verify_bundle(verifier, path, identity, name, digest)
        facts[fact] = statement["predicate"]
        rows.append(
            {"release": name, "fact": path.name.removesuffix(".sigstore.json"), "sha256": sha256(path)}
        )
        if fact == "deployment":
            head = statement["predicate"]["audit"]
            line = (folder.parents[2] / "audit.jsonl").read_bytes().splitlines()[head["lines"] - 1]
            require(
                f"{name}: log line signed into {path.name}", head["sha256"], hashlib.sha256(line).hexdigest()
            )
    require(f"{name}: facts", [], [fact for fact in REQUIRED if fact not in facts])
    approval = facts["approval"]
    require(f"{name}: approved by another", False, approval["author"].lower() == approval["approver"].lower())
    require(f"{name}: passed the gate", True, facts["evaluation"]["gate_passed"])
    require(f"{name}: report that was approved", files["report.md"], approval["report_sha256"])
    for file in ("gate.json", "backtest.json", "trials.json", "lookahead.json", "report.md", "params.yaml"):
        claimed = facts["evaluation"][f"{file.partition('.')[0]}_sha256"]
        require(f"{name}: {file} that was judged", files[file], claimed)
    built = facts["provenance"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["gitCommit"]
    require(f"{name}: commit", manifest["created_from"]["commit"], built)
    if not manifest["rollback"]:
        require(f"{name}: approved merge", built, approval["merge_sha"])
    signed = [
        e["details"]["bundles"] for e in events if e["event"] == "sign" and e["manifest_digest"] == digest
    ]
    own = {row["fact"]: row["sha256"] for row in rows if row["fact"] in REQUIRED}
    require(f"{name}: bundles that the log names", True, own in signed)
    return rows


def verify_pack(pack: Path) -> list[dict[str, str]]:
    """Verify everything; one row per bundle.

    Raises:
        Broken, sigstore.errors.Error: something does not hold.
    """
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    check_sums(pack)
    about, identities = load(pack / "pack.json"), load(pack / "identities.json")
    events = check_log(pack, about)
    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(pack / "trust/trusted_root.json")))
    rows = []
    for entry in about["releases"]:
        folder = pack / "releases" / entry["name"]
        rows += check_release(folder, entry, identities, verifier, events)
    revoked = pack / "trust/revoked.sigstore.json"
    raw = json.loads(base64.b64decode(load(revoked)["dsseEnvelope"]["payload"]))
    digest = raw["subject"][0]["digest"]["sha256"]
    identity = identities[about["environment"]]["revocation"]
    listed = verify_bundle(verifier, revoked, identity, "revocations", digest)["predicate"]
    logged = {event["manifest_digest"] for event in events if event["event"] == "revoke"}
    require("releases that the list revokes", logged, {e["manifest_digest"] for e in listed["revoked"]})
    return [*rows, {"release": "-", "fact": "revocation", "sha256": sha256(revoked)}]


def main() -> int:
    parser = argparse.ArgumentParser(description="Verify an audit pack.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--json", action="store_true", help="print the result for programs")
    options = parser.parse_args()
    try:
        from sigstore.errors import Error
    except ImportError:
        print("cannot check: install the package `sigstore` first", file=sys.stderr)
        return 2
    try:
        rows = verify_pack(options.folder)
    except (Broken, Error) as error:
        print(f"REFUSED: {error}", file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001 (whatever a broken pack makes the parsers raise: never a pass)
        print(f"cannot check: {error!r}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"verified": True, "bundles": rows}, indent=1))
    else:
        for row in rows:
            print(f"verified {row['release']:<14} {row['fact']:<22} sha256:{row['sha256']}")
        print(f"the pack holds: {len(rows)} bundles, files and log unbroken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
