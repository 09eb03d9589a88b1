"""Verify an audit pack. Needs Python 3.11 and the package `sigstore`, no network, nothing of Sekisho.

    python -I verify.py FOLDER [--json]

Take this program from a source that you trust, not from the pack. It derives from the log which releases
and promotions the pack must hold, finds exactly these files, and demands that every bundle is signed by
exactly the identity in identities.json under trust/trusted_root.json, is about its release's manifest, and
says what the log says. It prints the three values that only another source can confirm. Exit codes: 0 all of
it holds, 1 something does not, 2 could not be checked.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # this folder: nothing that lies beside may stand in for a module

import argparse
import base64
import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any

FULCIO = "1.3.6.1.4.1.57264.1."  # prefix of the certificate's extensions
EVENT = "20"  # the one extension with several allowed values
REQUIRED = ("provenance", "evaluation", "data", "approval")
# What an auditor reads of a release; the model itself is named by digest only.
EVIDENCE = (
    "params.yaml",
    "dvc.lock",
    "backtest.json",
    "trials.json",
    "lookahead.json",
    "gate.json",
    "report.md",
    "lineage.json",
)
FIXED = (
    "README.md",
    "audit.jsonl",
    "identities.json",
    "pack.json",
    "trust/revoked.sigstore.json",
    "trust/trusted_root.json",
    "verify.py",
)
GENESIS = "0" * 64
Event = dict[str, Any]  # a line of the log


class Broken(Exception):
    """The pack does not hold what it must."""


def require(what: str, expected: object, found: object) -> None:
    if expected != found:
        raise Broken(f"{what}: expected {expected}, found {found}")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parse(raw: bytes, name: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        require(f"{name}: keys given once", len(pairs), len(dict(pairs)))
        return dict(pairs)

    return json.loads(raw, object_pairs_hook=once)


def load(path: Path) -> Any:
    return parse(path.read_bytes(), path.name)


def check_sums(pack: Path) -> set[str]:
    """SHA256SUMS names every file of the pack and no other, all of them plain; returns their names."""
    present = {}
    for path in sorted(pack.rglob("*")):
        name = path.relative_to(pack).as_posix()
        plain = not path.is_symlink() and (path.is_file() or path.is_dir())
        require(f"{name} is a plain file or folder", True, plain)
        if path.is_file():
            present[name] = path
    listed = {}
    for line in (pack / "SHA256SUMS").read_text("utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    present.pop("SHA256SUMS")
    require("files of the pack", sorted(listed), sorted(present))
    for name, path in present.items():
        require(f"sha256 of {name}", listed[name], sha256(path))
    return set(present)


def check_log(pack: Path, about: dict[str, Any]) -> list[Event]:
    """Each line of the log carries the hash of the line before; the last is the head that pack.json names."""
    events, previous = [], GENESIS
    for number, line in enumerate((pack / "audit.jsonl").read_bytes().splitlines(), start=1):
        event = parse(line, f"audit.jsonl line {number}")
        require(f"audit.jsonl line {number}", (number, previous), (event["line"], event["previous"]))
        previous = hashlib.sha256(line).hexdigest()
        events.append(event | {"sha256": previous})
    require("head of audit.jsonl", (about["head"]["lines"], about["head"]["sha256"]), (len(events), previous))
    return events


def name_of(event: Event) -> str:
    return f"{event['model']}/{event['seq']}"


def releases_of(events: list[Event], first: str, last: str) -> dict[str, str]:
    """Name and manifest digest of the releases that a pack of these days (UTC, both included) must hold.

    Those with an event in the days, and those that an environment pointed at when they began; of these, the
    ones that the log has seen signed.
    """
    signed: dict[str, str] = {}
    chosen: set[str] = set()
    in_force: dict[str, str] = {}
    for event in events:
        if not event["model"]:
            continue
        name, day = (
            name_of(event),
            dt.datetime.fromisoformat(event["at"]).astimezone(dt.UTC).date().isoformat(),
        )
        if event["event"] == "sign":
            digest = event["manifest_digest"]
            require(f"{name}: one manifest signed", signed.setdefault(name, digest), digest)
        if first <= day <= last:
            chosen.add(name)
        elif day < first and event["event"] == "promote":
            in_force[event["details"]["environment"]] = name
    return {name: signed[name] for name in sorted(chosen | set(in_force.values())) if name in signed}


def promotions_of(events: list[Event], name: str) -> dict[str, Event]:
    """The last promotion of a release to each environment."""
    own = [event for event in events if event["event"] == "promote" and name_of(event) == name]
    return {event["details"]["environment"]: event for event in own}


def check_layout(pack: Path, present: set[str], events: list[Event], about: Any) -> dict[str, str]:
    """The pack holds the releases that it must, each whole, and nothing else; returns digests by name.

    A release that is here only because a rollback returns to it comes without content and promotions.
    """
    chosen = releases_of(events, about["from"], about["to"])
    found = dict(chosen)
    expected = {*FIXED}
    for name, digest in chosen.items():
        path = pack / "releases" / name / "manifest.json"
        require(f"{name}: its manifest", True, path.is_file())
        require(f"{name}: digest of its manifest", digest, sha256(path))
        if origin := load(path)["rollback"]:
            known = found.setdefault(f"{name.partition('/')[0]}/{origin['seq']}", origin["manifest_digest"])
            require(f"{name}: digest of what it returns to", known, origin["manifest_digest"])
        expected |= {f"releases/{name}/content/{file}" for file in EVIDENCE}
        deployed = promotions_of(events, name)
        expected |= {f"releases/{name}/bundles/deployment-{env}.sigstore.json" for env in deployed}
    for name in found:
        expected |= {f"releases/{name}/bundles/{fact}.sigstore.json" for fact in REQUIRED}
        expected.add(f"releases/{name}/manifest.json")
    missing, more = sorted(expected - present), sorted(present - expected)
    require("files that the log asks for are missing", [], missing)
    require("files that the log does not ask for", [], more)
    return found


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
    folder: Path,
    name: str,
    digest: str,
    identities: Any,
    verifier: Any,
    events: list[Event],
    environment: str,
) -> list[dict[str, Any]]:
    """Every bundle of one release, its files as far as the pack has them, and what the log says of it."""
    manifest = load(folder / "manifest.json")
    require(f"{name}: digest of its manifest", digest, sha256(folder / "manifest.json"))
    require(f"{name}: its name", f"{manifest['model']}/{manifest['seq']}", name)
    if manifest["rollback"]:
        check_origin(
            name, manifest, load(folder.with_name(str(manifest["rollback"]["seq"])) / "manifest.json")
        )
    files = {file["path"]: file["sha256"] for file in manifest["files"]}
    for path in sorted((folder / "content").glob("*")):
        require(f"{name}: {path.name}", files.get(path.name), sha256(path))
    rows, facts = [], {}
    for path in sorted((folder / "bundles").iterdir()):
        fact, _, place = path.name.removesuffix(".sigstore.json").partition("-")
        signers = identities.get(place or environment, {})
        require(f"{name}: somebody may sign {path.name}", True, fact in signers)
        said = verify_bundle(verifier, path, signers[fact], name, digest)["predicate"]
        facts[fact] = said
        row = {"release": name, "fact": path.name.removesuffix(".sigstore.json"), "sha256": sha256(path)}
        if fact == "deployment":
            check_promotion(path, said, promotions_of(events, name)[place])
            row["said"] = f"by {said['actor']} until {said['expires']}: {said['reason']}"
        if fact == "approval":
            people = [f"{a['person']} ({a['permission']}) {a['approved_at']}" for a in said["approvers"]]
            row["said"] = f"PR {said['pr']} of {said['author']}, approved by {', '.join(people)}"
        rows.append(row)
    check_facts(name, manifest, files, facts)
    signed = [
        e["details"]["bundles"] for e in events if e["event"] == "sign" and e["manifest_digest"] == digest
    ]
    own = {row["fact"]: row["sha256"] for row in rows if row["fact"] in REQUIRED}
    require(f"{name}: bundles that the log names", True, own in signed)
    return rows


def check_origin(name: str, manifest: Any, origin: Any) -> None:
    """A rollback holds the very files of the release that it names, which is no rollback itself."""
    for key in ("model", "files"):
        require(f"{name}: {key} of what it returns to", origin[key], manifest[key])
    require(f"{name}: what it returns to is a release of its own", None, origin["rollback"])


def check_promotion(path: Path, said: dict[str, Any], event: Event) -> None:
    """The signed promotion is the one that the log has last: nobody signed it anew."""
    require(
        f"{path}: line of the log signed into it",
        (event["line"], event["sha256"]),
        (said["audit"]["lines"], said["audit"]["sha256"]),
    )
    logged = {"actor": event["actor"], "model": event["model"], "seq": event["seq"], **event["details"]}
    for key in ("environment", "action", "reason", "previous", "expires", "actor", "model", "seq"):
        require(f"{path}: {key} as the log has it", logged[key], said[key])


def check_facts(name: str, manifest: Any, files: dict[str, str], facts: dict[str, Any]) -> None:
    """The four facts agree with each other and with the manifest."""
    approval = facts["approval"]
    for person in (approval["approver"], *(approver["person"] for approver in approval["approvers"])):
        require(f"{name}: approved by another", False, approval["author"].lower() == person.lower())
    require(f"{name}: passed the gate", True, facts["evaluation"]["gate_passed"])
    require(f"{name}: report that was approved", files["report.md"], approval["report_sha256"])
    for file in ("gate.json", "backtest.json", "trials.json", "lookahead.json", "report.md", "params.yaml"):
        claimed = facts["evaluation"][f"{file.partition('.')[0]}_sha256"]
        require(f"{name}: {file} that was judged", files[file], claimed)
    built = facts["provenance"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["gitCommit"]
    require(f"{name}: commit", manifest["created_from"]["commit"], built)
    if not manifest["rollback"]:
        require(f"{name}: approved merge", built, approval["merge_sha"])


def check_revocations(
    pack: Path, identities: Any, verifier: Any, events: list[Event], environment: str
) -> list[dict[str, Any]]:
    """The list is signed and about itself, and revokes what the log revokes where this list counts."""
    path, identity = pack / "trust/revoked.sigstore.json", identities[environment]["revocation"]
    raw = json.loads(base64.b64decode(load(path)["dsseEnvelope"]["payload"]))
    said = verify_bundle(verifier, path, identity, "revocations", raw["subject"][0]["digest"]["sha256"])
    listed = {entry["manifest_digest"]: entry for entry in said["predicate"]["revoked"]}
    own = {name for name, facts in identities.items() if facts["revocation"]["list"] == identity["list"]}
    logged = {
        event["manifest_digest"]
        for event in events
        if event["event"] == "revoke" and event["details"]["environment"] in own
    }
    require("releases that the list revokes", sorted(logged), sorted(listed))
    revoked = [f"{e['model']}/{e['seq']} {e['at']}: {e['reason']}" for e in listed.values()]
    row = {"release": "-", "fact": "revocation", "sha256": sha256(path)}
    return [row | {"said": "; ".join(revoked) or "nothing revoked"}]


def verify_pack(pack: Path) -> list[dict[str, Any]]:
    """Verify everything; one row per bundle.

    Raises:
        Broken, sigstore.errors.Error: something does not hold.
    """
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    present = check_sums(pack)
    about, identities = load(pack / "pack.json"), load(pack / "identities.json")
    events = check_log(pack, about)
    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(pack / "trust/trusted_root.json")))
    rows, environment = [], about["environment"]
    for name, digest in check_layout(pack, present, events, about).items():
        folder = pack / "releases" / name
        rows += check_release(folder, name, digest, identities, verifier, events, environment)
    return rows + check_revocations(pack, identities, verifier, events, environment)


def outside_values(pack: Path) -> dict[str, str]:
    """What only another source can confirm: else the pack only agrees with itself."""
    about = load(pack / "pack.json")
    return {
        "period": f"{about['from']} to {about['to']}, environment {about['environment']}",
        "sha256 of trust/trusted_root.json": sha256(pack / "trust/trusted_root.json"),
        "sha256 of identities.json": sha256(pack / "identities.json"),
        f"head of the log, line {about['head']['lines']}": about["head"]["sha256"],
    }


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
        values = outside_values(options.folder)
        print(json.dumps({"verified": True, "compare": values, "bundles": rows}, indent=1))
    else:
        for row in rows:
            print(f"verified {row['release']:<14} {row['fact']:<22} sha256:{row['sha256']}")
            if "said" in row:
                print(f"         {row['said']}")
        for what, value in outside_values(options.folder).items():
            print(f"compare with another source: {what}: {value}")
        print(f"the pack holds: {len(rows)} bundles, files and log unbroken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
