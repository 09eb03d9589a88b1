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


def export_pack(repo: Path, trust: Path, environment: str, first: dt.date, last: dt.date, out: Path) -> Path:
    """Write the pack of all releases with an event from ``first`` to ``last`` (UTC days, both included).

    And of those that were in force when these days began. It holds their manifests, bundles and readable
    content, the whole log, the trust root, who had to sign what, and a verifier that needs only ``sigstore``;
    it is verified by that verifier before it is put in place. ``environment`` names the trust policy of the
    releases' own facts. The same repository and days give the same bytes.

    Raises:
        Refused: the log or a release does not hold; a pack of it would mislead.
        CannotCheck: the days are not in order or not here yet, ``out`` exists, no signed release in these
            days, a release's content is not here, something cannot be read.
    """
    if not first <= last <= audit.now().date():
        raise CannotCheck(
            f"days from {first} to {last}",
            remedy="give --from and --to in this order, up to today (UTC): later days have no log yet",
        )
    if out.exists():
        raise CannotCheck(f"{out}: exists already", remedy="give --out a folder that does not exist yet")
    head = check_log(repo)
    events, lines = audit.read_log(repo / "releases")
    logged = [event.model_dump(mode="json") for event in events]
    names = pack_verify.releases_of(logged, str(first), str(last))
    if not names:
        raise CannotCheck(
            f"no release event from {first} to {last}, and none in force before",
            remedy="see `sekisho audit log`",
        )
    loaded = load_trust(trust, environment)
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        fresh.chmod(0o755)
        for name in names:
            folder = repo / "releases" / name
            trace_release(repo, folder, trust=trust, environment=environment)
            _copy_release(folder, fresh / "releases" / name)
        for name in names:
            _copy_origin(repo / "releases" / name, fresh)
        (fresh / "audit.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
        _copy_trust(loaded, fresh)
        _write_json(fresh / "identities.json", _identities(loaded))
        about = {
            "version": 1,
            "from": str(first),
            "to": str(last),
            "environment": environment,
            "head": {"lines": head.lines, "sha256": head.sha256},
        }
        _write_json(fresh / "pack.json", about)
        shutil.copy(pack_verify.__file__, fresh / "verify.py")
        (fresh / "README.md").write_text(_readme(about), encoding="utf-8")
        _write_sums(fresh)
        _verify(fresh)
        os.replace(fresh, out)  # noqa: PTH105 (the one call that puts it in place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return out


def _copy_release(folder: Path, target: Path) -> None:
    if not (folder / CONTENT).is_dir():
        raise CannotCheck(
            f"{folder / CONTENT}: not here; an auditor reads part of it",
            remedy=f"`dvc pull {folder / CONTENT}.dvc`, then again",
        )
    shutil.copytree(folder / BUNDLES, target / BUNDLES)
    shutil.copy(folder / MANIFEST, target / MANIFEST)
    (target / CONTENT).mkdir()
    for file in pack_verify.EVIDENCE:
        shutil.copy(folder / CONTENT / file, target / CONTENT / file)


def _copy_origin(folder: Path, pack: Path) -> None:
    """A rollback brings the release whose content it returns to, unless that is here already."""
    manifest, _ = read_manifest(folder)
    if manifest.rollback:
        target = pack / "releases" / manifest.model / str(manifest.rollback.seq)
        if not target.exists():
            shutil.copytree(folder / ORIGIN, target)


def _copy_trust(trust: Trust, pack: Path) -> None:
    folder = pack / "trust"
    folder.mkdir()
    (folder / "trusted_root.json").write_bytes(trust.root_json)
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
            found[name]["revocation"]["list"] = policy.revoked
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


def _readme(about: dict[str, Any]) -> str:
    text = Path(__file__).with_name("pack_readme.md").read_text(encoding="utf-8")
    return text.format(
        first=about["from"],
        last=about["to"],
        environment=about["environment"],
        fields=", ".join(Approval.model_fields),
    )
