"""The audit pack: one folder with which somebody else, elsewhere and offline, can verify our releases."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sekisho.errors import CannotCheck, Refused
from sekisho.release import audit, pack_verify
from sekisho.release.audit_check import check_log
from sekisho.release.manifest import BUNDLES, CONTENT, MANIFEST, ORIGIN, read_manifest
from sekisho.release.policy import Trust, load_policy, load_trust
from sekisho.release.statements import PREDICATES, Approval
from sekisho.release.trace import trace_release

# What an auditor reads; the model itself is named by digest only.
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


def export_pack(repo: Path, trust: Path, environment: str, first: dt.date, last: dt.date, out: Path) -> Path:
    """Write the pack of all releases with an event from ``first`` to ``last`` (UTC days, both included).

    It holds their manifests, bundles and readable content, the whole log, the trust root, who had to sign
    what, and a verifier that needs only ``sigstore``; it is verified by that verifier before it is put in
    place. ``environment`` names the trust policy of the releases' own facts. The same repository and days
    give the same bytes.

    Raises:
        Refused: the log or a release does not hold; a pack of it would mislead.
        CannotCheck: ``out`` exists, no release in these days, something cannot be read.
    """
    if out.exists():
        raise CannotCheck(f"{out}: exists already", remedy="give --out a folder that does not exist yet")
    head = check_log(repo)
    events, lines = audit.read_log(repo / "releases")
    chosen = [event for event in events if first <= event.at.date() <= last]
    names = sorted({(event.model, event.seq) for event in chosen if event.model and event.seq})
    if not names:
        raise CannotCheck(f"no release event from {first} to {last}", remedy="see `sekisho audit log`")
    loaded = load_trust(trust, environment)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        fresh.chmod(0o755)
        about: dict[str, Any] = {
            "version": 1,
            "from": str(first),
            "to": str(last),
            "environment": environment,
            "head": {"lines": head.lines, "sha256": head.sha256},
            "releases": [],
        }
        rows = []
        for model, seq in names:
            folder = repo / "releases" / str(model) / str(seq)
            if not (folder / BUNDLES).exists():
                continue  # exported and never signed: the log tells of it, there is nothing to verify
            trace = trace_release(repo, folder, trust=trust, environment=environment)
            about["releases"] += _copy_release(folder, fresh, environment)
            rows.append(trace)
        (fresh / "audit.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        _copy_trust(loaded, fresh)
        _write_json(fresh / "identities.json", _identities(loaded))
        about["releases"] = _once(about["releases"])
        _write_json(fresh / "pack.json", about)
        shutil.copy(pack_verify.__file__, fresh / "verify.py")
        (fresh / "README.md").write_text(_readme(about, rows, fresh), encoding="utf-8")
        _write_sums(fresh)
        _verify(fresh)
        os.replace(fresh, out)  # noqa: PTH105 (the one call that puts it in place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return out


def _copy_release(folder: Path, pack: Path, environment: str) -> list[dict[str, str]]:
    """Copy a release's evidence; a rollback brings the release whose content it returns to."""
    manifest, digest = read_manifest(folder)
    name = f"{manifest.model}/{manifest.seq}"
    entries = [{"name": name, "digest": digest, "environment": environment}]
    target = pack / "releases" / name
    shutil.copytree(folder / BUNDLES, target / BUNDLES)
    shutil.copy(folder / MANIFEST, target / MANIFEST)
    if (folder / CONTENT).exists():
        (target / CONTENT).mkdir()
        for file in EVIDENCE:
            shutil.copy(folder / CONTENT / file, target / CONTENT / file)
    if manifest.rollback:
        origin = {"name": f"{manifest.model}/{manifest.rollback.seq}", "environment": environment}
        entries.append(origin | {"digest": manifest.rollback.manifest_digest})
        source = pack / "releases" / origin["name"]
        if not source.exists():
            shutil.copytree(folder / ORIGIN, source)
    return entries


def _once(entries: list[dict[str, str]]) -> list[dict[str, str]]:
    unique = {entry["name"]: entry for entry in entries}
    return sorted(unique.values(), key=lambda e: (e["name"].split("/")[0], int(e["name"].split("/")[1])))


def _copy_trust(trust: Trust, pack: Path) -> None:
    folder = pack / "trust"
    folder.mkdir()
    (folder / "trusted_root.json").write_bytes(trust.root_json)
    shutil.copy(trust.folder / "policy.yaml", folder / "policy.yaml")
    shutil.copy(trust.folder / trust.policy.revoked, folder / "revoked.sigstore.json")


def _identities(trust: Trust) -> dict[str, Any]:
    """Who had to sign each fact, for every environment under the same root; nothing left to interpret."""
    from sekisho.release.bundle import expected_identity

    found: dict[str, Any] = {}
    for name, policy in load_policy(trust.folder).environments.items():
        if policy.root.file == trust.policy.root.file:
            found[name] = {
                fact: {
                    "predicate": PREDICATES[fact][0],
                    "subject": policy.workflow_uri(fact),
                    "events": signer.events,
                    "extensions": expected_identity(policy, fact),
                }
                for fact, signer in policy.signers.items()
            }
    return found


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _write_sums(pack: Path) -> None:
    files = sorted(path for path in pack.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(pack).as_posix()}\n"
        for path in files
    ]
    (pack / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def _verify(pack: Path) -> None:
    from sigstore.errors import Error

    try:
        pack_verify.verify_pack(pack)
    except (pack_verify.Broken, Error) as error:
        raise Refused(
            "audit-pack",
            expected="a pack that verifies by itself",
            found=error,
            remedy="see `sekisho audit check` and `sekisho audit trace`",
        ) from error


def _readme(about: dict[str, Any], traces: list[dict[str, Any]], pack: Path) -> str:
    root = hashlib.sha256((pack / "trust/trusted_root.json").read_bytes()).hexdigest()
    table = [
        f"| {t['release']['model']}/{t['release']['seq']} | `{t['release']['manifest_digest'][:16]}…` "
        f"| #{t['approval']['pr']} | {t['approval']['author']} | {t['approval']['approver']} "
        f"| {t['approval']['approved_at']} | {t['release']['revoked']} |"
        for t in traces
    ]
    text = Path(__file__).with_name("pack_readme.md").read_text(encoding="utf-8")
    return text.format(
        first=about["from"],
        last=about["to"],
        lines=about["head"]["lines"],
        head=about["head"]["sha256"],
        root=root,
        environment=about["environment"],
        table="\n".join(table),
        fields=", ".join(Approval.model_fields),
    )
