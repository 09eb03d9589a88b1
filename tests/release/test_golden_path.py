"""The way a release takes when nothing is wrong."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from click.testing import CliRunner
from tests.release.workshop import payload

from sekisho.cli import main
from sekisho.errors import CannotCheck, Refused
from sekisho.params import load_params
from sekisho.pointer import Pointer, read_pointer
from sekisho.release.audit import read_log
from sekisho.release.audit_check import check_log
from sekisho.release.audit_page import write_page
from sekisho.release.dvclock import sha256_of
from sekisho.release.manifest import read_manifest
from sekisho.release.promote import promote, rollback
from sekisho.release.revoke import revoke
from sekisho.release.statements import PREDICATES, json_schema, read_approval
from sekisho.release.trace import find_records, table, trace_prediction, trace_release

SCHEMAS = Path(__file__).resolve().parents[2] / "src/sekisho/release/schemas"


def test_a_signed_release_verifies_and_is_promoted(shop: Any) -> None:
    verified = shop.verify()
    assert set(verified.facts) == {"provenance", "evaluation", "data", "approval"}
    promoted, before = promote(shop.desk, shop.release, "local", "first release")
    assert before is None
    assert read_pointer(shop.repo, "local") == Pointer("policy", 1, promoted.digest)
    line = (shop.repo / "deploy/policy/local/release.env").read_text()
    assert line == f"RELEASE=policy/1@sha256:{promoted.digest}\n"
    shop.verify(deployed=True)


def test_promoting_again_changes_nothing(shop: Any) -> None:
    promote(shop.desk, shop.release, "local", "first release")
    before = {path: path.read_bytes() for path in shop.repo.rglob("*") if path.is_file()}
    promote(shop.desk, shop.release, "local", "first release")
    assert {path: path.read_bytes() for path in shop.repo.rglob("*") if path.is_file()} == before


def test_a_bundle_verifies_with_sigstore_alone(shop: Any) -> None:
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier
    from sigstore.verify.policy import Identity

    verifier = Verifier(trusted_root=TrustedRoot.from_file(str(shop.trust / "local/trusted_root.json")))
    san = "https://local.sekisho.test/sekisho/.github/workflows/release.yml@refs/heads/main"
    for path in (shop.release / "bundles").iterdir():
        kind, _ = verifier.verify_dsse(Bundle.from_json(path.read_bytes()), Identity(identity=san))
        assert kind == "application/vnd.in-toto+json"


def test_verification_is_quick_and_needs_no_network(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def no_network(*_: Any) -> None:
        raise AssertionError("verification opened a socket")

    shop.verify()
    monkeypatch.setattr(socket.socket, "connect", no_network)
    start = time.process_time()
    shop.verify()
    assert time.process_time() - start < 0.5  # measured 0.03; the margin is for a loaded machine


def test_reading_a_file_checks_it_again(shop: Any) -> None:
    verified = shop.verify()
    assert verified.read("report.md").startswith(b"# Report")
    (shop.release / "content/report.md").write_bytes(b"changed")
    with pytest.raises(Refused, match="file-digest"):
        verified.read("report.md")


# what the facts say


def predicate(shop: Any, fact: str) -> dict[str, Any]:
    found: dict[str, Any] = payload(shop.release / f"bundles/{fact}.sigstore.json")["predicate"]
    return found


def test_the_provenance_names_runner_logs_data_and_requirements(shop: Any) -> None:
    claim = predicate(shop, "provenance")
    logs = {item["uri"]: item["digest"]["sha256"] for item in claim["runDetails"]["byproducts"]}
    written = sorted(path.relative_to(shop.repo) for path in shop.repo.glob("build/train/*/*/curve.csv"))
    assert logs == {str(path): sha256_of(shop.repo / path) for path in written}
    assert claim["runDetails"]["builder"]["version"].keys() == {"runner", "python"}
    named = [item["uri"] for item in claim["buildDefinition"]["resolvedDependencies"]]
    assert named[1:] == ["dvc.lock", "data/bars", "build/bars", "build/features", "requirements/dev.txt"]


def test_our_own_image_or_githubs_is_named_as_the_runner(monkeypatch: pytest.MonkeyPatch, shop: Any) -> None:
    from sekisho.release.policy import load_trust
    from sekisho.release.signer import describe_run

    policy = load_trust(shop.trust, "local").policy
    monkeypatch.setenv("ImageOS", "ubuntu24")
    monkeypatch.setenv("ImageVersion", "20260101.1")
    assert describe_run("local", policy).versions["runner"] == "ubuntu24/20260101.1"
    monkeypatch.setenv("SEKISHO_RUNNER_IMAGE", "registry.example/runner@sha256:" + "a" * 64)
    assert describe_run("local", policy).versions["runner"].endswith("a" * 64)


def test_the_evaluation_names_seeds_and_limits_and_the_data_its_range(shop: Any) -> None:
    params = load_params(shop.repo / "params.yaml")
    claim = predicate(shop, "evaluation")
    assert claim["seeds"] == list(params.train.seeds)
    assert claim["limits"] == json.loads(json.dumps(params.gate.model_dump(mode="json")))
    assert predicate(shop, "data")["range"] == {"first": "2025-01-06", "last": "2025-01-25"}


def test_object_versions_that_dvc_recorded_are_named(candidate: Any) -> None:
    """A version-aware remote; one that names objects by content has none to record."""
    import yaml

    from sekisho.release.dvclock import object_versions

    assert object_versions(candidate.repo, "data/bars") == {}
    cloud = {"storage": {"etag": "e", "version_id": "v7"}}
    files = [
        {"relpath": "bars/a.parquet", "md5": "0" * 32, "cloud": cloud},
        {"relpath": "x", "md5": "1" * 32},
    ]
    (candidate.repo / "data.dvc").write_text(yaml.safe_dump({"outs": [{"path": "data", "files": files}]}))
    candidate.commit("cloud versioning")
    assert object_versions(candidate.repo, "data/bars") == {"data/bars/a.parquet": "v7"}


# export


def test_the_same_commit_exports_the_same_bytes(candidate: Any, tmp_path: Path) -> None:
    import shutil

    other = type(candidate)(shutil.copytree(candidate.repo, tmp_path / "other"))
    assert read_manifest(candidate.export())[1] == read_manifest(other.export())[1]


def test_exporting_again_makes_no_second_release(candidate: Any) -> None:
    assert candidate.export() == candidate.export() == candidate.release
    assert len(read_log(candidate.repo / "releases")[0]) == 1


def test_the_golden_vectors_are_what_the_exported_model_answers(shop: Any) -> None:
    golden = json.loads((shop.release / "content/golden.json").read_text())
    session = onnxruntime.InferenceSession(shop.release / "content/model.onnx")
    inputs = np.array(golden["observation"], dtype=np.float32)
    (outputs,) = session.run(None, {"observation": inputs})
    np.testing.assert_array_equal(outputs, np.array(golden["target_weights"], dtype=np.float32))
    np.testing.assert_array_equal(inputs[1:, :, -1], outputs[:-1])  # each row holds what the last one decided


def test_the_last_folds_first_seed_is_the_candidate(shop: Any) -> None:
    seed = load_params(shop.repo / "params.yaml").train.seeds[0]
    expected = sha256_of(shop.repo / f"build/train/fold-1/seed-{seed}/model.onnx")
    assert read_manifest(shop.release)[0].sha256("model.onnx") == expected


def test_the_ranges_come_from_the_training_window_only(shop: Any) -> None:
    observation = json.loads((shop.release / "content/observation.json").read_text())
    run = json.loads(next((shop.repo / "build/train/fold-1").glob("*/run.json")).read_text())
    first, last = map(dt.date.fromisoformat, run["windows"]["train"])
    table_ = pl.read_parquet(shop.repo / "build/features/*.parquet").filter(
        pl.col("session").is_between(first, last)
    )
    for asset, symbol in enumerate(observation["symbols"]):
        own = table_.filter(pl.col("symbol") == symbol)
        for feature, name in enumerate(observation["features"]):
            assert observation["ranges"]["low"][asset][feature] == own[name].min()
            assert observation["ranges"]["high"][asset][feature] == own[name].max()


def test_a_failed_gate_is_not_exported(candidate: Any) -> None:
    candidate.figures(sharpe_low=-0.5)
    with pytest.raises(Refused, match=r"refused by rule gate: .*lower bound -0\.5 \(limit"):
        candidate.export()
    assert not (candidate.repo / "releases").exists()


@pytest.mark.parametrize("path", ["build/report/report.md", "metrics/backtest.json", "build/reference.json"])
def test_a_workspace_that_differs_from_the_lock_is_not_exported(candidate: Any, path: str) -> None:
    with (candidate.repo / path).open("a") as file:
        file.write(" ")
    with pytest.raises(CannotCheck, match=r"not what dvc\.lock says|differs from the commit"):
        candidate.export()
    assert not (candidate.repo / "releases").exists()


@pytest.mark.parametrize("path", ["dvc.lock", "params.yaml", "dvc.yaml"])
def test_an_uncommitted_pipeline_is_not_exported(candidate: Any, path: str) -> None:
    with (candidate.repo / path).open("a") as file:
        file.write("\n")
    with pytest.raises(CannotCheck, match="differs from the commit"):
        candidate.export()


def forge_verdict(shop: Any) -> None:
    """Figures that fail the gate beside a verdict that says they pass."""
    shop.figures(sharpe_low=-0.5)
    path = shop.repo / "metrics/gate.json"
    path.write_text(path.read_text().replace("false", "true"))


def drop_rule(shop: Any) -> None:
    shop.figures(sharpe_low=-0.5)
    path = shop.repo / "metrics/gate.json"
    value = json.loads(path.read_text())
    path.write_text(
        json.dumps({"passed": True, "rules": [rule for rule in value["rules"] if rule["passed"]]})
    )


def empty_verdict(shop: Any) -> None:
    (shop.repo / "metrics/gate.json").write_text('{"passed": true, "rules": []}')


@pytest.mark.parametrize("attack", [forge_verdict, drop_rule, empty_verdict])
def test_a_verdict_that_the_gate_would_not_give_is_not_exported(candidate: Any, attack: Any) -> None:
    """Whoever can write the figures can write the verdict and the lock beside them."""
    attack(candidate)
    candidate.lock()
    candidate.commit("forged")
    with pytest.raises(Refused, match="refused by rule gate-judgement:"):
        candidate.export()
    assert not list((candidate.repo / "releases").glob("*/*"))


def test_figures_of_other_agents_are_not_exported(candidate: Any) -> None:
    path = candidate.repo / "metrics/backtest.json"
    value = json.loads(path.read_text())
    value["opening"]["candidate"] = "f" * 64
    path.write_text(json.dumps(value))
    candidate.lock()
    candidate.commit("another backtest")
    with pytest.raises(Refused, match="refused by rule judged-candidate:"):
        candidate.export()


def other_returns(shop: Any) -> None:
    path = shop.repo / "metrics/returns.csv"
    path.write_text(path.read_text().replace("2024-01-01", "2023-12-31"))
    shop.lock()
    shop.commit("other returns")


def test_returns_of_another_backtest_verify_nowhere(candidate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where those who export and sign do not look."""
    other_returns(candidate)
    with monkeypatch.context() as blind:
        for module in ("release.judgement", "backtest.selection"):
            blind.setattr(f"sekisho.{module}.require_returns", lambda *_: None)
        candidate.export()
        candidate.open_local()
        with pytest.raises(Refused, match="refused by rule returns-digest:"):
            candidate.sign()


def test_returns_of_another_backtest_are_not_exported(candidate: Any) -> None:
    """What the live account is held against is what the judged figures were made of."""
    other_returns(candidate)
    with pytest.raises(Refused, match="refused by rule returns-digest:"):
        candidate.export()
    assert not list((candidate.repo / "releases").glob("*/*"))


def rewrite_lock(shop: Any, change: Any) -> None:
    import yaml

    path = shop.repo / "dvc.lock"
    value = yaml.safe_load(path.read_text())
    change(value["stages"])
    path.write_text(yaml.safe_dump(value))
    shop.commit("forged lock")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("backtest"), "in only one of the two"),
        (lambda s: s.update(extra={"cmd": "x"}), "in only one of the two"),
        (lambda s: s["train"].update(cmd="true"), "stage train run by 't'"),
        (lambda s: s["train"]["deps"].clear(), "stage train with the deps"),
        (lambda s: s["train"]["params"].clear(), "stage train with the params"),
        (lambda s: s["backtest"]["deps"][0].update(md5="0" * 32 + ".dir"), "as the stage before gave it"),
        (lambda s: s["gate"]["deps"][-1].update(md5="0" * 32), r"gate\.py: not what dvc\.lock says"),
        (lambda s: s["report"]["outs"].append(dict(s["train"]["outs"][0])), "one stage that gives"),
        (lambda s: s["report"]["outs"][0].pop("md5"), "outs without path and md5"),
    ],
    ids=["stage gone", "stage more", "command", "deps", "params", "chain", "code", "two givers", "no digest"],
)
def test_a_lock_that_is_not_of_this_pipeline_is_not_exported(
    candidate: Any, change: Any, message: str
) -> None:
    rewrite_lock(candidate, change)
    with pytest.raises(CannotCheck, match=message):
        candidate.export()


@pytest.mark.parametrize("key", ["frozen", "foreach", "wdir"])
def test_a_pipeline_that_the_lock_cannot_prove_is_not_exported(candidate: Any, key: str) -> None:
    import yaml

    path = candidate.repo / "dvc.yaml"
    value = yaml.safe_load(path.read_text())
    value["stages"]["train"][key] = True
    path.write_text(yaml.safe_dump(value))
    candidate.commit("frozen")
    with pytest.raises(CannotCheck, match=f"stage train: {key} in dvc.yaml"):
        candidate.export()


def test_code_that_is_not_committed_is_not_exported(candidate: Any) -> None:
    with (candidate.repo / "src/sekisho/backtest/gate.py").open("a") as file:
        file.write("# more\n")
    with pytest.raises(CannotCheck, match=r"gate\.py: the workspace differs from the commit"):
        candidate.export()


def test_a_model_that_onnx_runtime_and_onnx_compute_differently_is_not_exported(
    candidate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx.reference import ReferenceEvaluator

    run = ReferenceEvaluator.run
    monkeypatch.setattr(ReferenceEvaluator, "run", lambda *a, **k: [v + 1e-3 for v in run(*a, **k)])
    with pytest.raises(Refused, match="refused by rule onnx-runtime:"):
        candidate.export()


def test_every_bar_of_the_test_window_is_replayed(shop: Any) -> None:
    lineage = json.loads((shop.release / "content/lineage.json").read_text())
    assert lineage["replayed_bars"] == 5 * 4  # sessions × bars


def test_parameters_changed_without_a_run_are_not_exported(candidate: Any) -> None:
    path = candidate.repo / "params.yaml"
    path.write_text(path.read_text().replace("seeds: [1, 2]", "seeds: [1, 3]"))
    candidate.commit("forgot to run")
    with pytest.raises(CannotCheck, match=r"stage train: params\.yaml: train\.seeds"):
        candidate.export()


@pytest.mark.slow
def test_our_digests_are_dvcs(shop: Any) -> None:
    env = {
        "PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin",
        "HOME": str(shop.repo),
        "DVC_NO_ANALYTICS": "1",
    }
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "-q"], cwd=shop.repo, check=True, env=env)
    ours = (shop.release / "content.dvc").read_bytes()
    subprocess.run(
        [*dvc, "commit", "-q", "-f", "releases/policy/1/content.dvc"], cwd=shop.repo, check=True, env=env
    )
    assert (shop.release / "content.dvc").read_bytes() == ours
    status = subprocess.run(
        [*dvc, "status", "releases/policy/1/content.dvc"],
        cwd=shop.repo,
        check=True,
        env=env,
        capture_output=True,
    )
    assert b"up to date" in status.stdout
    shop.verify()


# signing, rollback, revocation


def test_an_approval_before_the_merge_is_not_signed(candidate: Any) -> None:
    folder = candidate.export()
    path = candidate.record(folder)
    record = json.loads(path.read_text())
    del record["merge_sha"]
    path.write_text(json.dumps(record))
    with pytest.raises(CannotCheck, match="merge_sha"):
        read_approval(path)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"approver": "ENGINEER"}, "four-eyes"),
        ({"permission": "read"}, "approver-permission"),
        ({"tree": "d" * 40}, "stale-approval"),
        ({"report_sha256": "d" * 64}, "approval-report"),
        ({"merge_sha": "d" * 40}, "approval-merge"),
    ],
)
def test_what_would_not_verify_is_not_signed(candidate: Any, changes: dict[str, str], rule: str) -> None:
    candidate.export()
    with pytest.raises(Refused, match=f"refused by rule {rule}:"):
        candidate.sign(**changes)
    assert not (candidate.release / "bundles").exists()
    assert [event.event for event in read_log(candidate.repo / "releases")[0]] == ["export"]


def test_an_older_release_is_not_promoted_over_a_newer_one(shop: Any) -> None:
    newer = shop.second_release()
    promote(shop.desk, newer, "local", "newer")
    with pytest.raises(Refused, match="replayed-seq"):
        promote(shop.desk, shop.release, "local", "older")


def test_a_rollback_is_a_new_release_of_old_content(shop: Any) -> None:
    newer = shop.second_release()
    promote(shop.desk, newer, "local", "newer")
    shop.commit()
    folder = rollback(shop.desk, 1, "seq 2 loses money", "local")
    manifest, _ = read_manifest(folder)
    old, old_digest = read_manifest(shop.release)
    assert (manifest.seq, manifest.files, manifest.previous) == (3, old.files, read_manifest(newer)[1])
    assert manifest.rollback is not None
    assert manifest.rollback.manifest_digest == old_digest
    with pytest.raises(Refused, match="missing-fact"):
        promote(shop.desk, folder, "local", "not approved yet")
    shop.commit("rollback PR")
    shop.sign(folder)
    promote(shop.desk, folder, "local", "approved")
    assert check_log(shop.repo).lines == len(read_log(shop.repo / "releases")[0])
    assert (
        trace_release(shop.repo, folder, trust=shop.trust, environment=None)["release"]["rollback"]["seq"]
        == 1
    )


@pytest.mark.parametrize("what", ["manifest.json", "bundles/approval.sigstore.json"])
def test_a_rollback_without_its_origin_is_refused(shop: Any, what: str) -> None:
    shop.second_release()
    folder = rollback(shop.desk, 1, "reason", "local")
    shop.commit("rollback PR")
    shop.sign(folder)
    shop.verify(folder)
    (folder / "origin" / what).unlink()
    with pytest.raises(Refused, match=r"rollback-origin|missing-fact"):
        shop.verify(folder)


def test_a_rollback_to_a_revoked_release_is_refused(shop: Any) -> None:
    shop.second_release()
    folder = rollback(shop.desk, 1, "reason", "local")
    shop.commit("rollback PR")
    shop.sign(folder)
    revoke(shop.desk, shop.release, "leaked", "local")
    with pytest.raises(Refused, match="revoked"):
        shop.verify(folder)


def test_a_renewed_list_keeps_every_revocation(shop: Any) -> None:
    revoke(shop.desk, shop.release, "leaked", "local")
    (shop.trust / "local/revoked.sigstore.json").unlink()  # lost, not only expired
    assert [entry.seq for entry in revoke(shop.desk, None, "", "local").revoked] == [1]


# trace, page, command line


def write_prediction(shop: Any, folder: Path) -> None:
    import hashlib

    digest = read_manifest(shop.release)[1]
    values = np.linspace(-1, 1, 12, dtype=np.float32)
    at = dt.datetime(2026, 1, 5, 1, 0, tzinfo=dt.UTC)
    row = {
        "prediction_id": "p-1",
        "at": at,
        "session": at.date(),
        "ts_close": at,
        "model": "policy",
        "seq": 1,
        "manifest_digest": digest,
        "input_digest": hashlib.sha256(values.tobytes()).hexdigest(),
        "observation": values.tolist(),
        "target_weights": [0.1, 0.2, 0.3],
        "verdict": "ok",
        "latency_us": 900,
    }
    (folder / "2026-01-05").mkdir(parents=True)
    schema = {"observation": pl.List(pl.Float32), "target_weights": pl.List(pl.Float32)}
    pl.DataFrame([row], schema_overrides=schema).write_parquet(folder / "2026-01-05/0001.parquet")


def test_a_prediction_traces_back_to_commit_data_and_approver(shop: Any, tmp_path: Path) -> None:
    promote(shop.desk, shop.release, "local", "first")
    write_prediction(shop, tmp_path / "predictions")
    records = find_records(tmp_path / "predictions", "p-1")
    trace = trace_prediction(shop.repo, records, trust=shop.trust, environment=None)
    manifest, digest = read_manifest(shop.release)
    assert trace["release"]["manifest_digest"] == digest
    assert trace["commit"]["commit"] == manifest.created_from.commit
    assert (trace["approval"]["author"], trace["approval"]["approver"]) == ("engineer", "reviewer")
    assert {item["fact"] for item in trace["signatures"]} == {
        "provenance",
        "evaluation",
        "data",
        "approval",
        "deployment",
    }
    assert [item["path"] for item in trace["data"]["sets"]] == ["data/bars", "build/bars", "build/features"]
    shown = dict(table(trace))
    assert shown["release then"].startswith("not in force, but in local from ")  # its clock is a replay's
    assert shown["gate"] == "passed; 1 trials"
    assert " by promote.yml, " in shown["signed deployment"]
    assert shown["promote to local"].endswith(": first")


def test_a_prediction_asked_for_twice_is_traced_by_its_first_answer(shop: Any, tmp_path: Path) -> None:
    promote(shop.desk, shop.release, "local", "first")
    for pod in ("late", "first"):
        write_prediction(shop, tmp_path / "pods" / pod)
    path = tmp_path / "pods/late/2026-01-05/0001.parquet"
    pl.read_parquet(path).with_columns(
        pl.col("at") + pl.duration(seconds=1), seq=pl.lit(2, pl.Int64)
    ).write_parquet(path)
    trace = trace_prediction(
        shop.repo, find_records(tmp_path / "pods", "p-1"), trust=shop.trust, environment="local"
    )
    assert trace["prediction"]["file"] == str(tmp_path / "pods/first/2026-01-05/0001.parquet")
    assert dict(table(trace))["asked again"].startswith("2026-01-05T01:00:01+00:00, answered by policy/2, ")


def test_a_trace_needs_no_content_but_every_signature(shop: Any) -> None:
    import shutil

    shutil.rmtree(shop.release / "content")
    trace = trace_release(shop.repo, shop.release, trust=shop.trust, environment="local")
    assert trace["release"]["content"].startswith("not here")
    shop.forge("approval", lambda s: s["predicate"].update(approver="engineer"))
    with pytest.raises(Refused, match="four-eyes"):
        trace_release(shop.repo, shop.release, trust=shop.trust, environment="local")


def test_a_falsified_prediction_is_noticed(shop: Any, tmp_path: Path) -> None:
    folder = tmp_path / "predictions"
    write_prediction(shop, folder)
    path = folder / "2026-01-05/0001.parquet"
    altered = pl.read_parquet(path).with_columns(
        pl.lit([0.0] * 12, dtype=pl.List(pl.Float32)).alias("observation")
    )
    altered.write_parquet(path)
    with pytest.raises(Refused, match="prediction-input"):
        trace_prediction(shop.repo, find_records(folder, "p-1"), trust=shop.trust, environment="local")


def test_the_page_stands_alone_and_escapes_what_people_wrote(shop: Any, tmp_path: Path) -> None:
    promote(shop.desk, shop.release, "local", "<script>alert(1)</script>")
    assert write_page(shop.repo, shop.trust, None, tmp_path / "audit.html") is None
    page = (tmp_path / "audit.html").read_text()
    assert "policy/1" in page
    assert "unbroken" in page
    assert "not verified" not in page
    assert "<script" not in page
    assert not any(mark in page for mark in (' src="', "<link", "@import", "url("))


def test_the_commands_work_end_to_end(
    candidate: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(candidate.repo)
    monkeypatch.setenv("SEKISHO_ACTOR", "releaser")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(main, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    exported = json.loads(run("export", "--no-cache", "--json"))
    assert exported["folder"] == "releases/policy/1"
    approval = str(candidate.record(candidate.release))
    run("sign", "policy/1", "--approval", approval)
    assert exported["digest"] in run("verify", "releases/policy/1", "--environment", "local")
    run("promote", "policy/1", "--environment", "local", "--reason", "first")
    run("verify", "policy/1", "--environment", "local", "--deployed")
    assert "unbroken" in run("audit", "check")
    assert "promote" in run("audit", "log")
    assert "reviewer (write)" in run("audit", "trace", "policy/1")
    assert json.loads(run("audit", "trace", "policy/1", "--json"))["release"]["seq"] == 1
    run("audit", "page", "--out", str(tmp_path / "page.html"))
    run("revoke", "policy/1", "--reason", "test", "--environment", "local")
    with pytest.raises(Refused, match="revoked"):
        run("verify", "policy/1", "--environment", "local")


@pytest.mark.parametrize("fact", PREDICATES)
def test_the_published_schemas_are_current(fact: str) -> None:
    assert json.loads((SCHEMAS / f"{fact}.v1.json").read_text()) == json_schema(fact)


@pytest.mark.parametrize("fact", ["provenance", "evaluation", "data", "approval"])
def test_what_we_sign_fits_the_published_schema(shop: Any, fact: str) -> None:
    import base64

    import jsonschema

    bundle = json.loads((shop.release / f"bundles/{fact}.sigstore.json").read_bytes())
    predicate = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))["predicate"]
    jsonschema.validate(predicate, json.loads((SCHEMAS / f"{fact}.v1.json").read_text()))
