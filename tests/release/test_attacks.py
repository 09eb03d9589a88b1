"""The attack corpus: every way past the checkpoint that we know of, each refused by its own rule."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sekisho.errors import CannotCheck, Refused
from sekisho.release.deployment import check_deployment
from sekisho.release.manifest import canonical
from sekisho.release.policy import LOCAL_ORGANISATION, load_policy, load_trust
from sekisho.release.promote import promote
from sekisho.release.revocation import read_revocations
from sekisho.release.revoke import revoke
from sekisho.release.signer import install_local_root

Attack = Callable[[Any], object]
BUILD = "provenance-build"


def content(shop: Any) -> Path:
    return shop.release / "content"


def swap_files(shop: Any) -> None:
    one, two = content(shop) / "gate.json", content(shop) / "reference.json"
    a, b = one.read_bytes(), two.read_bytes()
    one.write_bytes(b)
    two.write_bytes(a)


def swap_same_size(shop: Any) -> None:
    path = content(shop) / "report.md"
    path.write_bytes(path.read_bytes().replace(b"1.2", b"9.9"))


def rename(shop: Any) -> None:
    (content(shop) / "golden.json").rename(content(shop) / "golden2.json")


def symlink_file(shop: Any) -> None:
    path = content(shop) / "model.onnx"
    path.rename(shop.repo / "model.onnx")
    path.symlink_to(shop.repo / "model.onnx")


def symlink_folder(shop: Any) -> None:
    content(shop).rename(shop.repo / "elsewhere")
    content(shop).symlink_to(shop.repo / "elsewhere")


def edit_manifest(shop: Any, change: Callable[[dict[str, Any]], None]) -> None:
    path = shop.release / "manifest.json"
    value = json.loads(path.read_bytes())
    change(value)
    path.write_bytes(canonical(value))


def set_path(text: str) -> Attack:
    def change(value: dict[str, Any]) -> None:
        value["files"][0]["path"] = text
        value["files"].sort(key=lambda entry: entry["path"])

    return lambda shop: edit_manifest(shop, change)


def duplicate_key(shop: Any) -> None:
    path = shop.release / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"seq":1', b'"seq":1,"seq":1'))


def edit_dvc_lock_and_manifest(shop: Any) -> None:
    """An edited manifest that fits the edited files, with the old bundles."""
    path = content(shop) / "report.md"
    path.write_bytes(b"# All is well\n")

    def change(value: dict[str, Any]) -> None:
        for entry in value["files"]:
            if entry["path"] == "report.md":
                entry |= {"size": 14, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    edit_manifest(shop, change)


def edit_text(old: bytes, new: bytes) -> Attack:
    """The manifest with other bytes: what no JSON library of ours would write."""

    def attack(shop: Any) -> None:
        path = shop.release / "manifest.json"
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new))

    return attack


def two_spellings(value: dict[str, Any]) -> None:
    value["files"].append({**value["files"][-1], "path": value["files"][-1]["path"].upper()})
    value["files"].sort(key=lambda entry: entry["path"])


def symlink_bundles(shop: Any) -> None:
    (shop.release / "bundles").rename(shop.repo / "elsewhere")
    (shop.release / "bundles").symlink_to(shop.repo / "elsewhere")


def symlink_bundle(shop: Any) -> None:
    path = shop.release / "bundles/data.sigstore.json"
    path.rename(shop.repo / "data.sigstore.json")
    path.symlink_to(shop.repo / "data.sigstore.json")


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def nested_bundle(shop: Any) -> None:
    (shop.release / "bundles/old").mkdir()
    shutil.copy(shop.release / "bundles/data.sigstore.json", shop.release / "bundles/old")


def newer_target(value: dict[str, Any]) -> None:
    value["rollback"] = {"manifest_digest": "f" * 64, "reason": "x", "seq": 5}


FILES: list[tuple[str, Attack, str]] = [
    ("files swapped between names", swap_files, "file-size"),
    ("file edited at the same size", swap_same_size, "file-digest"),
    ("file renamed", rename, "extra-file"),
    ("file missing", lambda s: (content(s) / "model.onnx").unlink(), "missing-file"),
    ("file truncated", lambda s: os.truncate(content(s) / "model.onnx", 100), "file-size"),
    ("extra file", lambda s: (content(s) / "hook.py").write_text("import os"), "extra-file"),
    ("extra hidden file", lambda s: (content(s) / ".env").write_text("x"), "extra-file"),
    ("extra file beside the manifest", lambda s: (s.release / "setup.py").write_text("x"), "extra-file"),
    ("extra bundle", lambda s: (s.release / "bundles/other.sigstore.json").write_text("x"), "extra-file"),
    ("empty folder", lambda s: (content(s) / "sub").mkdir(), "empty-folder"),
    ("symlink for a file", symlink_file, "symlink"),
    ("symlink for the content", symlink_folder, "symlink"),
    ("named pipe for a file", lambda s: os.mkfifo(content(s) / "pipe"), "special-file"),
    ("path escape", set_path("../../../etc/passwd"), "path-escape"),
    ("absolute path", set_path("/etc/passwd"), "path-escape"),
    ("path with a dot segment", set_path("a/./b"), "path-escape"),
    ("path with a backslash", set_path("..\\x"), "path-escape"),
    ("path with a look-alike letter", set_path("m\u043edel.onnx"), "path-escape"),
    ("path in another Unicode form", set_path("mode\u0301l.onnx"), "path-escape"),
    ("path that reads backwards", set_path("x\u202eonnx.exe"), "path-escape"),
    ("path with a line end", set_path("model.onnx\n"), "path-escape"),
    ("path with a zero byte", set_path("model.onnx\x00.txt"), "path-escape"),
    ("empty path segment", set_path("a//b"), "path-escape"),
    ("two paths that differ only in case", lambda s: edit_manifest(s, two_spellings), "manifest-schema"),
    (
        "a path listed twice",
        lambda s: edit_manifest(s, lambda m: m["files"].insert(0, m["files"][0])),
        "manifest-schema",
    ),
    (
        "no file at all",
        lambda s: edit_manifest(s, lambda m: m.update(files=[])),
        "manifest-schema",
    ),
    ("extra file with a look-alike name", lambda s: (content(s) / "m\u043edel.onnx").touch(), "extra-file"),
    ("symlink for the bundles", symlink_bundles, "symlink"),
    ("symlink for a bundle", symlink_bundle, "symlink"),
    ("named pipe for the manifest", lambda s: replace_by_pipe(s.release / "manifest.json"), "special-file"),
    (
        "named pipe for a bundle",
        lambda s: replace_by_pipe(s.release / "bundles/data.sigstore.json"),
        "special-file",
    ),
    ("bundle in a folder of the bundles", nested_bundle, "extra-file"),
    ("empty folder in the bundles", lambda s: (s.release / "bundles/old").mkdir(), "empty-folder"),
    (
        "something in place of another environment's promotion",
        lambda s: (s.release / "bundles/deployment-staging.sigstore.json").write_text("{}"),
        "extra-file",
    ),
    ("an origin where nothing was rolled back", lambda s: (s.release / "origin").mkdir(), "extra-file"),
    ("a rollback to a newer seq", lambda s: edit_manifest(s, newer_target), "manifest-schema"),
    ("seq as a fraction", edit_text(b'"seq":1', b'"seq":1.0'), "canonical-json"),
    ("version as a truth", edit_text(b'"version":1', b'"version":true'), "manifest-schema"),
    ("seq as a truth", edit_text(b'"seq":1', b'"seq":true'), "manifest-schema"),
    ("a number that is none", edit_text(b'"seq":1', b'"seq":NaN'), "canonical-json"),
    ("a number beyond every float", edit_text(b'"seq":1', b'"seq":' + b"9" * 40), "canonical-json"),
    ("half a character", edit_text(b'"policy"', b'"\\ud800"'), "canonical-json"),
    (
        "enormous manifest",
        lambda s: (s.release / "manifest.json").write_bytes(b"[" * (1 << 21)),
        "manifest-schema",
    ),
    (
        "edited manifest, intact bundles",
        lambda s: edit_manifest(s, lambda m: m.update(seq=1, model="other")),
        "wrong-subject",
    ),
    ("edited files and manifest", edit_dvc_lock_and_manifest, "wrong-subject"),
    (
        "manifest with an unknown key",
        lambda s: edit_manifest(s, lambda m: m.update(extra=1)),
        "manifest-schema",
    ),
    ("manifest with a duplicate key", duplicate_key, "duplicate-key"),
    (
        "manifest reformatted",
        lambda s: (s.release / "manifest.json").write_text(
            json.dumps(json.loads((s.release / "manifest.json").read_bytes()), indent=1)
        ),
        "canonical-json",
    ),
]

OTHER = "https://local.sekisho.test/attacker"
RELEASE_WORKFLOW = "/.github/workflows/release.yml@refs/heads/main"
PR_WORKFLOW = "https://local.sekisho.test/sekisho/.github/workflows/pr.yml@refs/heads/main"

IDENTITIES: list[tuple[str, dict[str, Any], str]] = [
    ("another issuer", {"e8": "https://token.actions.githubusercontent.com"}, "identity-issuer"),
    (
        "another repository",
        {"e12": OTHER, "e9": OTHER + RELEASE_WORKFLOW, "e18": OTHER + RELEASE_WORKFLOW},
        "identity-repository",
    ),
    ("the same name, recreated by someone else", {"e15": "2"}, "identity-repository-id"),
    ("another owner", {"e17": "2"}, "identity-owner-id"),
    ("another branch", {"e14": "refs/heads/feature"}, "identity-ref"),
    ("a tag", {"e14": "refs/tags/main"}, "identity-ref"),
    ("another workflow", {"e18": PR_WORKFLOW, "e9": PR_WORKFLOW}, "identity-workflow"),
    (
        "a reusable workflow of another repository",
        {"e9": OTHER + RELEASE_WORKFLOW},
        "identity-signer-workflow",
    ),
    ("our reusable workflow called by another repository", {"e12": OTHER, "e15": "2"}, "identity-repository"),
    ("our reusable workflow called by another of our workflows", {"e18": PR_WORKFLOW}, "identity-workflow"),
    ("pull_request_target", {"e20": "pull_request_target"}, "identity-event"),
    ("no event", {"e20": None}, "identity-event"),
    ("another kind of runner", {"e11": "github-hosted"}, "identity-runner"),
    ("an unexpected GitHub environment", {"e23": "production"}, "identity-github-environment"),
    ("workflow code from another commit", {"e10": "c" * 40}, "identity-workflow-commit"),
    ("another certificate subject", {"san": OTHER + RELEASE_WORKFLOW}, "identity-subject"),
    ("another commit", {"e10": "c" * 40, "e13": "c" * 40, "e19": "c" * 40}, "signed-commit"),
]


def predicate(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda statement: statement["predicate"].update(changes)


def among(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Another approver before the one who decided."""

    def change(statement: dict[str, Any]) -> None:
        approvers = statement["predicate"]["approvers"]
        approvers.insert(0, approvers[0] | {"person": "colleague"} | changes)

    return change


def retype(statement: dict[str, Any]) -> None:
    statement["predicateType"] = "https://sekisho.example/evaluation/v1"


def resubject(statement: dict[str, Any]) -> None:
    statement["subject"][0]["digest"]["sha256"] = "f" * 64


def second_subject(statement: dict[str, Any]) -> None:
    statement["subject"].append({"name": "other/1", "digest": {"sha256": "f" * 64}})


def other_commit(statement: dict[str, Any]) -> None:
    statement["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["gitCommit"] = "c" * 40


def version_two(statement: dict[str, Any]) -> None:
    statement["predicateType"] = "https://sekisho.example/data/v2"


def other_logs(statement: dict[str, Any]) -> None:
    statement["predicate"]["runDetails"]["byproducts"][0]["digest"]["sha256"] = "f" * 64


def other_lock(statement: dict[str, Any]) -> None:
    statement["predicate"]["buildDefinition"]["resolvedDependencies"][1]["digest"]["sha256"] = "f" * 64


def other_builder(statement: dict[str, Any]) -> None:
    statement["predicate"]["runDetails"]["builder"]["id"] = OTHER + RELEASE_WORKFLOW


def built(part: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda statement: statement["predicate"]["buildDefinition"][part].update(changes)


def dependency(index: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(statement: dict[str, Any]) -> None:
        statement["predicate"]["buildDefinition"]["resolvedDependencies"][index].update(changes)

    return change


def two_dependencies(statement: dict[str, Any]) -> None:
    del statement["predicate"]["buildDefinition"]["resolvedDependencies"][2:]


STATEMENTS: list[tuple[str, str, Callable[[dict[str, Any]], None], str]] = [
    ("fact about another manifest", "approval", resubject, "wrong-subject"),
    ("fact about a second subject too", "approval", second_subject, "wrong-subject"),
    ("one fact in another's place", "data", retype, "wrong-fact"),
    ("another version of the predicate", "data", version_two, "wrong-fact"),
    (
        "another kind of statement",
        "data",
        lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
        "statement-schema",
    ),
    ("a field beside the statement's", "data", lambda s: s.update(also=1), "statement-schema"),
    ("approval of the future", "approval", predicate(approved_at="2999-01-02T03:04:05Z"), "approval-time"),
    ("other seeds", "evaluation", predicate(seeds=[9]), "evaluation-figures"),
    ("other limits of the gate", "evaluation", predicate(limits={}), "evaluation-figures"),
    (
        "another time range",
        "data",
        predicate(range={"first": "2000-01-04", "last": "2026-01-05"}),
        "data-lineage",
    ),
    ("other logs of the training", "provenance", other_logs, "provenance-logs"),
    ("another dvc.lock", "provenance", other_lock, "provenance-dvc-lock"),
    ("another builder", "provenance", other_builder, "provenance-workflow"),
    ("unknown field", "approval", predicate(also="x"), "statement-schema"),
    ("missing time zone", "approval", predicate(approved_at="2026-01-02T03:04:05"), "statement-schema"),
    ("self-approval", "approval", predicate(approver="Engineer"), "four-eyes"),
    ("the author among the approvers", "approval", among(person="ENGINEER"), "four-eyes"),
    ("a reader among the approvers", "approval", among(permission="read"), "approver-permission"),
    ("an approver of the future", "approval", among(approved_at="2999-01-02T03:04:05Z"), "approval-time"),
    ("an approver who is not listed", "approval", predicate(approver="somebody"), "approval-approvers"),
    ("no approvers", "approval", predicate(approvers=[]), "statement-schema"),
    ("approval by a bot", "approval", predicate(approver="release[bot]"), "four-eyes"),
    ("approval by a reader", "approval", predicate(permission="read"), "approver-permission"),
    ("stale approval: the head moved", "approval", predicate(tree="d" * 40), "stale-approval"),
    ("approval of another merge", "approval", predicate(merge_sha="d" * 40), "approval-merge"),
    ("approval of another dvc.lock", "approval", predicate(dvc_lock_sha256="d" * 64), "approval-dvc-lock"),
    ("approval of another report", "approval", predicate(report_sha256="d" * 64), "approval-report"),
    ("failed gate", "evaluation", predicate(gate_passed=False), "gate"),
    ("truthy gate", "evaluation", predicate(gate_passed="yes"), "statement-schema"),
    ("figures of another backtest", "evaluation", predicate(backtest_sha256="d" * 64), "evaluation-figures"),
    ("better figures", "evaluation", predicate(figures={"sharpe": 9.0}), "evaluation-figures"),
    ("other trials", "evaluation", predicate(trials=9), "evaluation-figures"),
    (
        "other data windows",
        "data",
        predicate(windows={"train": ["2020-01-01", "2020-02-01"]}),
        "data-lineage",
    ),
    ("built from another commit", "provenance", other_commit, "provenance-commit"),
    ("built from other parameters", "provenance", built("externalParameters", params_sha256="f" * 64), BUILD),
    ("built as another release", "provenance", built("externalParameters", seq=9), BUILD),
    ("another candidate", "provenance", built("internalParameters", candidate={"fold": 9}), BUILD),
    ("built from another repository", "provenance", dependency(0, uri="git+https://x.test/x"), BUILD),
    ("built from other data", "provenance", dependency(2, digest={"dvcMd5": "f" * 32}), BUILD),
    ("built with another lock", "provenance", dependency(-1, digest={"sha256": "f" * 64}), BUILD),
    ("built from nothing but a commit", "provenance", two_dependencies, BUILD),
]


def refused(rule: str) -> Any:
    return pytest.raises(Refused, match=f"refused by rule {rule}:")


@pytest.mark.parametrize(
    ("attack", "rule"), [(a, r) for _, a, r in FILES], ids=[name for name, _, _ in FILES]
)
def test_tampered_files_are_refused(shop: Any, attack: Attack, rule: str) -> None:
    attack(shop)
    with refused(rule):
        shop.verify()


@pytest.mark.parametrize(
    ("extensions", "rule"), [(e, r) for _, e, r in IDENTITIES], ids=[name for name, _, _ in IDENTITIES]
)
def test_signatures_of_others_are_refused(shop: Any, extensions: dict[str, Any], rule: str) -> None:
    shop.forge("provenance", **extensions)
    with refused(rule):
        shop.verify()


@pytest.mark.parametrize(
    ("fact", "change", "rule"), [s[1:] for s in STATEMENTS], ids=[name for name, *_ in STATEMENTS]
)
def test_false_statements_are_refused(
    shop: Any, fact: str, change: Callable[[dict[str, Any]], None], rule: str
) -> None:
    shop.forge(fact, change)
    with refused(rule):
        shop.verify()


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (lambda s: s.replace(b'"approver":', b'"approver":"engineer","approver":'), "duplicate-key"),
        (lambda s: s.replace(b'"predicateType":', b'"predicate":{},"predicateType":'), "duplicate-key"),
        (lambda s: s + b" ", "canonical-json"),
        (lambda s: s.replace(b'"reviewer"', b'"r\\u0065viewer"'), "canonical-json"),
    ],
    ids=["approver given twice", "predicate given twice", "trailing space", "escaped letter"],
)
def test_signed_statements_of_two_readings_are_refused(shop: Any, raw: Any, rule: str) -> None:
    """Properly signed bytes in which two parsers may read two things."""
    shop.forge("approval", raw=raw)
    with refused(rule):
        shop.verify()


def test_the_forging_tool_itself_makes_good_bundles(shop: Any) -> None:
    shop.forge("approval")
    shop.verify()


@pytest.mark.parametrize("fact", ["provenance", "evaluation", "data", "approval"])
def test_a_missing_fact_is_refused(shop: Any, fact: str) -> None:
    (shop.release / f"bundles/{fact}.sigstore.json").unlink()
    with refused("missing-fact"):
        shop.verify()


def test_an_unsigned_release_is_refused(candidate: Any) -> None:
    candidate.export()
    install_local_root(candidate.trust, candidate.folder)
    with refused("missing-fact"):
        candidate.verify()


def test_another_authoritys_signature_is_refused(shop: Any, tmp_path: Path) -> None:
    shop.forge("approval", folder=tmp_path / "other-authority")
    with refused("signature"):
        shop.verify()


def edit_bundle(shop: Any, change: Callable[[dict[str, Any]], None]) -> None:
    path = shop.release / "bundles/approval.sigstore.json"
    value = json.loads(path.read_bytes())
    change(value)
    path.write_bytes(canonical(value))


def entry_of(bundle: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = bundle["verificationMaterial"]["tlogEntries"][0]
    return entry


def edit_payload(bundle: dict[str, Any]) -> None:
    raw = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b'"reviewer"', b'"reviewex"')
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(raw).decode()


def other_entry(shop: Any) -> None:
    """The log proof of another fact's entry."""
    other = json.loads((shop.release / "bundles/data.sigstore.json").read_bytes())
    edit_bundle(shop, lambda b: b["verificationMaterial"].update(tlogEntries=[entry_of(other)]))


def double_key(shop: Any) -> None:
    path = shop.release / "bundles/approval.sigstore.json"
    path.write_bytes(path.read_bytes().replace(b'"mediaType":', b'"mediaType":"x","mediaType":', 1))


BUNDLES: list[tuple[str, Attack, str]] = [
    (
        "no log entry",
        lambda s: edit_bundle(s, lambda b: b["verificationMaterial"].update(tlogEntries=[])),
        "bundle-format",
    ),
    ("no log proof", lambda s: edit_bundle(s, lambda b: entry_of(b).pop("inclusionProof")), "bundle-format"),
    (
        "no timestamp",
        lambda s: edit_bundle(s, lambda b: b["verificationMaterial"].pop("timestampVerificationData")),
        "bundle-format",
    ),
    ("another entry's proof", other_entry, "signature"),
    (
        "another payload type",
        lambda s: edit_bundle(s, lambda b: b["dsseEnvelope"].update(payloadType="text/plain")),
        "signature",
    ),
    (
        "a second signature",
        lambda s: edit_bundle(
            s, lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0])
        ),
        "signature",
    ),
    ("a key given twice", double_key, "duplicate-key"),
    ("edited payload", lambda s: edit_bundle(s, edit_payload), "signature"),
    (
        "another log index",
        lambda s: edit_bundle(s, lambda b: entry_of(b).update(logIndex="9")),
        "bundle-format",
    ),
    ("field the verifier ignores", lambda s: edit_bundle(s, lambda b: b.update(note="x")), "bundle-format"),
    (
        "older bundle form",
        lambda s: edit_bundle(
            s, lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2")
        ),
        "bundle-format",
    ),
    (
        "not JSON",
        lambda s: (s.release / "bundles/approval.sigstore.json").write_bytes(b"\xff\xfe"),
        "canonical-json",
    ),
    ("empty", lambda s: (s.release / "bundles/approval.sigstore.json").write_bytes(b""), "canonical-json"),
    (
        "enormous",
        lambda s: (s.release / "bundles/approval.sigstore.json").write_bytes(b"[" * (1 << 19)),
        "bundle-format",
    ),
    (
        "deeply nested",
        lambda s: (s.release / "bundles/approval.sigstore.json").write_bytes(b"[" * (1 << 17)),
        "canonical-json",
    ),
]


@pytest.mark.parametrize(
    ("attack", "rule"), [(a, r) for _, a, r in BUNDLES], ids=[name for name, _, _ in BUNDLES]
)
def test_broken_bundles_are_refused(shop: Any, attack: Attack, rule: str) -> None:
    attack(shop)
    with refused(rule):
        shop.verify()


# trust, order, revocation


def set_ids(shop: Any) -> None:
    """A repository that has filled in its numeric ids."""
    path = shop.trust / "policy.yaml"
    text = (
        path.read_text().replace("repository_id: 0", "repository_id: 5").replace("owner_id: 0", "owner_id: 6")
    )
    path.write_text(text)


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_local_signatures_are_refused_where_it_counts(shop: Any, environment: str) -> None:
    set_ids(shop)
    with refused("signature"):
        shop.verify(environment=environment)


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_local_root_is_refused_where_it_counts(shop: Any, environment: str) -> None:
    set_ids(shop)
    shutil.copy(shop.trust / "local/trusted_root.json", shop.trust / "trusted_root.json")
    with refused("local-trust-root"):
        shop.verify(environment=environment)


def test_a_policy_that_names_the_local_root_for_production_cannot_be_read(shop: Any) -> None:
    set_ids(shop)
    path = shop.trust / "policy.yaml"
    head, _, tail = path.read_text().partition("  staging:")
    path.write_text(
        head
        + "  staging:"
        + tail.replace("kind: pinned", "kind: local")
        .replace("      sha256:", "      #")
        .replace("      refreshed:", "      #")
    )
    with pytest.raises(CannotCheck, match="pinned root"):
        shop.verify(environment="production")


def test_an_edited_trust_root_is_refused(shop: Any) -> None:
    set_ids(shop)
    with (shop.trust / "trusted_root.json").open("a") as file:
        file.write("\n")
    with refused("root-digest"):
        shop.verify(environment="production")


def test_unset_ids_cannot_be_checked(shop: Any) -> None:
    with pytest.raises(CannotCheck, match="repository_id and owner_id are not set"):
        shop.verify(environment="production")


@pytest.mark.parametrize(
    ("environment", "days"), [("local", 91), ("local", -1), ("staging", 400), ("staging", -400)]
)
def test_a_trust_root_too_old_or_from_the_future_cannot_be_checked(
    shop: Any, environment: str, days: int
) -> None:
    set_ids(shop)
    with pytest.raises(CannotCheck, match="days old"):
        shop.verify(environment=environment, now=dt.datetime.now(dt.UTC) + dt.timedelta(days=days))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: 1\nversion: 1", "given twice"),
        ("version: 1", "version: 2", "version"),
        ("version: 1", "version: 1\nskip_checks: true", "skip_checks"),
        ("required: [provenance, evaluation, data, approval]", "required: [provenance]", "required must be"),
        ("events: [push]", "events: [pull_request_target]", "events"),
        ("ref: refs/heads/main", "ref: refs/heads/*", "ref"),
        ("    max_revocation_days: 14\n", "", "max_revocation_days"),
        ("max_deployment_days: 120", "max_deployment_days: 100000", "max_deployment_days"),
        ("max_age_days: 90", "max_age_days: 0", "max_age_days"),
        ("repository_id: 1", "repository_id: '1'", "repository_id"),
        ("file: local/trusted_root.json", "file: ../trusted_root.json", "file"),
    ],
)
def test_a_loosened_policy_cannot_be_read(shop: Any, old: str, new: str, message: str) -> None:
    path = shop.trust / "policy.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CannotCheck, match=message):
        shop.verify()


STAGING_SIGNER = "events: [workflow_dispatch], github_environment: staging}"
PRODUCTION_SIGNER = "events: [workflow_dispatch], github_environment: production}"
SOAK = "    soak: {environment: staging, sessions: 5}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (SOAK, "    soak: null", "soak must ask"),
        (SOAK + "\n", "", "soak must ask"),  # the merge key supplies null
        (SOAK, SOAK.replace("staging", "local"), "soak must ask"),
        (PRODUCTION_SIGNER, PRODUCTION_SIGNER.replace("production", "null"), "environment production"),
        (PRODUCTION_SIGNER, PRODUCTION_SIGNER.replace("production", "staging"), "environment production"),
        (STAGING_SIGNER, STAGING_SIGNER.replace("staging", "null"), "environment staging"),
        ("    runner_environment: github-hosted", "    runner_environment: self-hosted", "github-hosted"),
        (
            "issuer: https://token.actions.githubusercontent.com",
            "issuer: https://local.sekisho.test",
            "issuer",
        ),
        ("version: 1", "version: true", "version"),
    ],
    ids=[
        "no soak",
        "soak line deleted",
        "soak on a laptop",
        "production signed in no environment",
        "production signed in staging",
        "staging signed in no environment",
        "runner of our own",
        "issuer of our own",
        "a version that is a truth",
    ],
)
def test_a_policy_that_opens_production_cannot_be_read(shop: Any, old: str, new: str, message: str) -> None:
    path = shop.trust / "policy.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CannotCheck, match=message):
        load_policy(shop.trust)


def test_a_local_root_under_another_name_is_refused(shop: Any) -> None:
    """What the file says of its authorities is not signed; what their certificates say is."""
    set_ids(shop)
    raw = (shop.trust / "local/trusted_root.json").read_bytes()
    assert raw.count(LOCAL_ORGANISATION.encode()) == 2
    raw = raw.replace(LOCAL_ORGANISATION.encode(), b"sigstore.dev")
    (shop.trust / "trusted_root.json").write_bytes(raw)
    path = shop.trust / "policy.yaml"
    pinned = load_policy(shop.trust).environments["production"].root.sha256  # type: ignore[union-attr]
    path.write_text(path.read_text().replace(pinned, hashlib.sha256(raw).hexdigest()))
    with refused("local-trust-root"):
        shop.verify(environment="production")


def test_an_older_seq_is_refused(shop: Any) -> None:
    with refused("replayed-seq"):
        shop.verify(minimum_seq=2)


def test_a_revoked_release_is_refused(shop: Any) -> None:
    revoke(shop.desk, shop.release, "trained on bad data", "local")
    with refused("revoked"):
        shop.verify()


def test_a_missing_revocation_list_fails_closed(shop: Any) -> None:
    (shop.trust / "local/revoked.sigstore.json").unlink()
    with pytest.raises(CannotCheck, match="missing"):
        shop.verify()


def test_an_expired_revocation_list_fails_closed(shop: Any) -> None:
    with pytest.raises(CannotCheck, match="ran out"):
        shop.verify(now=dt.datetime.now(dt.UTC) + dt.timedelta(days=8))


def test_a_revocation_list_from_the_future_fails_closed(shop: Any) -> None:
    from sekisho.release.bundle import BundleVerifier

    verifier = BundleVerifier(load_trust(shop.trust, "local"))
    with pytest.raises(CannotCheck, match="after now"):
        read_revocations(verifier, dt.datetime.now(dt.UTC) - dt.timedelta(hours=1))


def test_a_forged_revocation_list_is_refused(shop: Any, tmp_path: Path) -> None:
    shutil.copy(shop.release / "bundles/data.sigstore.json", shop.trust / "local/revoked.sigstore.json")
    with pytest.raises(Refused, match="identity-workflow"):
        shop.verify()


# deployment


def test_an_undeployed_release_is_refused_where_a_deployment_is_required(shop: Any) -> None:
    with refused("missing-fact"):
        shop.verify(deployed=True)


def test_a_deployment_that_ran_out_is_refused(shop: Any) -> None:
    promote(shop.desk, shop.release, "local", "first")
    verified = shop.verify(deployed=True)
    trust = load_trust(shop.trust, "local")
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=91)
    with refused("deployment-expired"):
        check_deployment(verified.facts, verified.manifest, trust, later, required=True)


@pytest.mark.parametrize(
    ("change", "extensions", "rule"),
    [
        (predicate(environment="production"), {}, "deployment-environment"),
        (predicate(seq=2), {}, "deployment-release"),
        (predicate(), {"e23": "staging"}, "identity-github-environment"),
        (predicate(), {"e23": None}, "identity-github-environment"),
    ],
    ids=[
        "for another environment",
        "of another release",
        "from another GitHub environment",
        "from no environment",
    ],
)
def test_a_false_deployment_is_refused(
    shop: Any, change: Callable[[dict[str, Any]], None], extensions: dict[str, Any], rule: str
) -> None:
    promote(shop.desk, shop.release, "local", "first")
    shop.forge("deployment-local", change, **extensions)
    with refused(rule):
        shop.verify(deployed=True)


@pytest.mark.parametrize(
    ("origin", "signer", "signature", "good"),
    [
        ("log2025-1.rekor.sigstore.dev", "log2025-1.rekor.sigstore.dev", "QUJDRA==", True),  # Rekor v2
        ("rekor.sigstore.dev - 2605736670972794746", "rekor.sigstore.dev", "QUJDRA==", True),  # Rekor v1
        ("rekor.sigstore.dev - 2605736670972794746", "rekor.sigstore.dex", "QUJDRA==", False),
        ("log2025-1.rekor.sigstore.dev", "log2025-1.rekor.sigstore.dev", "QUJDRB==", False),  # loose base64
    ],
)
def test_public_checkpoints_are_taken_in_their_one_spelling(
    origin: str, signer: str, signature: str, good: bool
) -> None:
    from sekisho.release.bundle import _is_signed_note

    note = f"{origin}\n12\nAAAA\n\n— {signer} {signature}\n"
    assert _is_signed_note(note.split("\n")) is good
