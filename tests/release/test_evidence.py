"""Evidence for others: the audit pack, the verification summary, the soak that a deployment carries."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.release.workshop import Workshop, payload

from sekisho.cli import main
from sekisho.errors import CannotCheck, Refused
from sekisho.release import audit
from sekisho.release.audit import append, next_event, now
from sekisho.release.bundle import BundleVerifier
from sekisho.release.deployment import check_deployment
from sekisho.release.manifest import canonical
from sekisho.release.pack import export_pack
from sekisho.release.policy import Trust, load_trust
from sekisho.release.promote import promote, rollback
from sekisho.release.revoke import revoke
from sekisho.release.soak import check_soak
from sekisho.release.statements import Summary
from sekisho.release.summary import write_summary

TODAY = now().date()
# what an auditor's machine lacks: importing any of it fails
ABSENT = ("sekisho", "yaml", "ruamel", "numpy", "polars", "click", "onnx", "torch")


def make_pack(shop: Any, out: Path) -> Path:
    return export_pack(shop.repo, shop.trust, "local", TODAY, now().date(), out)


def pack_of_tomorrow(shop: Any, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pack made tomorrow, of that day alone."""
    tomorrow = now() + dt.timedelta(days=1)
    with monkeypatch.context() as patch:
        patch.setattr(audit, "now", lambda: tomorrow)
        return export_pack(shop.repo, shop.trust, "local", tomorrow.date(), tomorrow.date(), out)


def offline() -> list[str]:
    """Words before a command that take the network from it, where this system allows that."""
    words = ["unshare", "-rn"]
    return words if subprocess.run([*words, "true"], check=False).returncode == 0 else []


def run_alone(pack: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The pack's own verifier, with nothing but sigstore and, where the system allows it, no network."""
    program = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({ABSENT!r}))\n"
        f"sys.argv = ['verify.py', *{list(words)!r}]\n"
        f"runpy.run_path({str(pack / 'verify.py')!r}, run_name='__main__')"
    )
    return subprocess.run(
        [*offline(), sys.executable, "-I", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )


@pytest.fixture
def pack(shop: Any, tmp_path: Path) -> Path:
    """A pack of one promoted release."""
    promote(shop.desk, shop.release, "local", "first")
    return make_pack(shop, tmp_path / "pack")


def test_a_pack_verifies_with_nothing_but_sigstore_and_no_network(pack: Path) -> None:
    done = run_alone(pack)
    assert done.returncode == 0, done.stderr
    assert "the pack holds: 6 bundles" in done.stdout
    assert "PR 7 of engineer, approved by reviewer (write) 2026-01-02T03:04:05Z" in done.stdout
    assert "by releaser until" in done.stdout
    facts = {row["fact"] for row in json.loads(run_alone(pack, "--json").stdout)["bundles"]}
    assert facts == {"provenance", "evaluation", "data", "approval", "deployment-local", "revocation"}


@pytest.fixture(scope="session")
def sigstore_go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The verifier in sigstore_go/, built with Go: an implementation that shares no code with ours."""
    if shutil.which("go") is None:
        pytest.skip("go is not installed here")
    source = Path(__file__).with_name("sigstore_go")
    modules = subprocess.run(
        ["go", "mod", "download"], cwd=source, capture_output=True, text=True, check=False
    )
    if modules.returncode != 0:
        pytest.skip(f"the Go modules cannot be had here: {modules.stderr.strip()[-200:]}")
    program = tmp_path_factory.mktemp("go") / "verify"
    subprocess.run(["go", "build", "-o", str(program), "."], cwd=source, check=True)
    return program


def run_go(program: Path, pack: Path) -> subprocess.CompletedProcess[str]:
    """sigstore-go on the pack, without a network and with nothing else of ours in reach by name."""
    words = [*offline(), str(program), str(pack)]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd="/", env={})


@pytest.mark.slow
def test_a_pack_verifies_with_sigstore_go_and_no_network(
    sigstore_go: Path, pack: Path, tmp_path: Path
) -> None:
    alone = pack.rename(tmp_path / "elsewhere")
    done = run_go(sigstore_go, alone)
    assert done.returncode == 0, done.stderr
    assert "the pack holds: 6 bundles by sigstore-go" in done.stdout


@pytest.mark.slow
def test_sigstore_go_derives_the_releases_too(
    sigstore_go: Path, storied: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = pack_of_tomorrow(storied, tmp_path / "pack", monkeypatch)
    done = run_go(sigstore_go, pack)
    assert done.returncode == 0, done.stderr
    assert "the pack holds: 10 bundles" in done.stdout  # a rollback, what it returns to, the list
    changed = {"reason": "another"}
    entry = storied.repo / "releases/policy/3"
    storied.forge("deployment-local", lambda s: s["predicate"].update(changed), release=entry)
    shutil.copytree(entry / "bundles", pack / "releases/policy/3/bundles", dirs_exist_ok=True)
    done = run_go(sigstore_go, pack)
    assert (done.returncode, "not the promotion in the log" in done.stderr) == (1, True), done.stderr


@pytest.mark.slow
def test_sigstore_go_refuses_what_we_refuse(sigstore_go: Path, pack: Path, tmp_path: Path) -> None:
    for attack, message in (
        (cut_log, "ends at line"),
        (edit_log, "does not follow"),
        (swap_bundles, "evaluation"),
        (drop_bundle, "no approval"),
        (drop_release, "no manifest"),
        (drop_promotion, "no deployment-local"),
        (add_release, "does not ask for it"),
        (later_days, "does not ask for it"),
        (edit_manifest, "manifest of sha256"),
        (other_root, "approval"),
        (other_identity, "certificate extension 15"),
        (edit_bundle, "data"),
    ):
        copy = Path(shutil.copytree(pack, tmp_path / attack.__name__))
        attack(copy)
        done = run_go(sigstore_go, copy)
        assert (done.returncode, message in done.stderr) == (1, True), (attack, done.stderr)


def test_the_same_days_give_the_same_pack(shop: Any, tmp_path: Path) -> None:
    one, two = make_pack(shop, tmp_path / "one"), make_pack(shop, tmp_path / "two")
    assert (one / "SHA256SUMS").read_bytes() == (two / "SHA256SUMS").read_bytes()


def test_a_pack_of_a_rollback_brings_the_release_it_returns_to(shop: Any, tmp_path: Path) -> None:
    shop.commit()
    (shop.repo / "build/report/report.md").write_text("# Report\n\nSharpe 1.3\n")
    shop.lock()
    shop.commit("better candidate")
    shop.sign(shop.export())
    shop.commit()
    folder = rollback(shop.desk, 1, "seq 2 loses money", "local")
    shop.commit("rollback PR")
    shop.sign(folder)
    revoke(shop.desk, shop.repo / "releases/policy/2", "loses money", "local")
    pack = make_pack(shop, tmp_path / "pack")
    assert run_alone(pack).returncode == 0
    names = sorted(path.name for path in (pack / "releases/policy").iterdir())
    assert names == ["1", "2", "3"]
    assert "policy/2 " in run_alone(pack).stdout.partition("loses money")[0]


def test_a_pack_brings_what_was_in_force_when_its_days_began(
    storied: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = pack_of_tomorrow(storied, tmp_path / "pack", monkeypatch)
    assert sorted(path.name for path in (pack / "releases/policy").iterdir()) == ["1", "3"]
    assert not (pack / "releases/policy/1/content").exists()  # what a rollback returns to, no more
    done = run_alone(pack)
    assert done.returncode == 0, done.stderr


def test_a_pack_needs_the_content_that_an_auditor_reads(storied: Workshop, tmp_path: Path) -> None:
    shutil.rmtree(storied.repo / "releases/policy/2/content")
    with pytest.raises(CannotCheck, match="not here"):
        make_pack(storied, tmp_path / "pack")


def test_a_revocation_elsewhere_does_not_hinder_a_pack(storied: Workshop, tmp_path: Path) -> None:
    releases = storied.repo / "releases"
    digest = storied.verify(releases / "policy/2").digest
    details = {"environment": "staging", "reason": "bad data", "content": None}
    event, _ = next_event(
        releases, "revoke", "ops", model="policy", seq=2, manifest_digest=digest, details=details
    )
    append(releases, event)
    statement = payload(storied.trust / "local/revoked.sigstore.json")
    entry = {"manifest_digest": digest, "model": "policy", "seq": 2, "content_sha256": None}
    statement["predicate"]["revoked"] = [entry | {"reason": "bad data", "at": "2026-01-02T03:04:05Z"}]
    (storied.trust / "revoked.sigstore.json").write_bytes(
        storied.seal("revocation", canonical(statement), None, None, {})
    )
    assert run_alone(make_pack(storied, tmp_path / "pack")).returncode == 0


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_bytes())
    change(value)
    path.write_bytes(canonical(value))


def sums(pack: Path) -> None:
    """What a careful forger does after any change."""
    from sekisho.release.pack import _write_sums

    (pack / "SHA256SUMS").unlink()
    _write_sums(pack)


def cut_log(pack: Path) -> None:
    path = pack / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    sums(pack)


def edit_log(pack: Path) -> None:
    path = pack / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"releaser", b"somebody", 1))
    sums(pack)


def swap_bundles(pack: Path) -> None:
    folder = pack / "releases/policy/1/bundles"
    shutil.copy(folder / "data.sigstore.json", folder / "evaluation.sigstore.json")
    sums(pack)


def edit_bundle(pack: Path) -> None:
    path = pack / "releases/policy/1/bundles/data.sigstore.json"
    edit_json(
        path,
        lambda b: b["dsseEnvelope"]["signatures"][0].update(
            sig="A" + b["dsseEnvelope"]["signatures"][0]["sig"][1:-1] + "="
        ),
    )
    sums(pack)


def drop_bundle(pack: Path) -> None:
    (pack / "releases/policy/1/bundles/approval.sigstore.json").unlink()
    sums(pack)


def edit_manifest(pack: Path) -> None:
    edit_json(
        pack / "releases/policy/1/manifest.json", lambda m: m.update(previous=None, seq=1, model="other")
    )
    sums(pack)


def edit_content(pack: Path) -> None:
    (pack / "releases/policy/1/content/gate.json").write_text('{"passed": true, "rules": []}')
    sums(pack)


def link(pack: Path) -> None:
    (pack / "README.md").unlink()
    (pack / "README.md").symlink_to("/etc/hostname")


def drop_release(pack: Path) -> None:
    shutil.rmtree(pack / "releases/policy/1")
    sums(pack)


def drop_promotion(pack: Path) -> None:
    (pack / "releases/policy/1/bundles/deployment-local.sigstore.json").unlink()
    sums(pack)


def drop_content(pack: Path) -> None:
    shutil.rmtree(pack / "releases/policy/1/content")
    sums(pack)


def add_release(pack: Path) -> None:
    shutil.copytree(pack / "releases/policy/1", pack / "releases/policy/9")
    sums(pack)


def add_policy(pack: Path) -> None:
    (pack / "trust/policy.yaml").write_text("version: 1")
    sums(pack)


def later_days(pack: Path) -> None:
    """Days without an event, with nothing in force before."""
    edit_json(pack / "pack.json", lambda value: value.update({"from": "2020-01-01", "to": "2020-01-02"}))
    sums(pack)


def long_log(pack: Path) -> None:
    """A promotion that was signed into a longer log than the pack's."""
    log = pack / "audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    (last,) = [line for line in lines if b'"event":"promote"' in line]
    kept = [json.loads(line) for line in lines if line != last and b"policy" in line] + [json.loads(last)]
    previous = "0" * 64
    written = []
    for number, event in enumerate(kept, start=1):
        written.append(canonical(event | {"line": number, "previous": previous}))
        previous = hashlib.sha256(written[-1]).hexdigest()
    log.write_bytes(b"".join(line + b"\n" for line in written))
    head = {"lines": len(written), "sha256": previous}
    edit_json(pack / "pack.json", lambda value: value.update(head=head))
    sums(pack)


def link_sums(pack: Path) -> None:
    (pack / "SHA256SUMS").rename(pack.parent / "sums")
    (pack / "SHA256SUMS").symlink_to(pack.parent / "sums")


def pipe(pack: Path) -> None:
    os.mkfifo(pack / "pipe")


def other_root(pack: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "trust/trusted_root.json", pack / "trust/trusted_root.json")
    sums(pack)


def other_identity(pack: Path) -> None:
    edit_json(pack / "identities.json", lambda v: v["local"]["approval"]["extensions"].update({"15": "2"}))
    sums(pack)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda pack: (pack / "extra").write_text("x"), "files of the pack"),
        (lambda pack: (pack / "README.md").write_text("All is well."), "sha256 of README.md"),
        (link, "README.md is a plain file"),
        (cut_log, "head of audit.jsonl"),
        (edit_log, "audit.jsonl line 2"),
        (swap_bundles, "certificate|kind of fact"),
        (drop_bundle, "log asks for are missing"),
        (drop_release, "log asks for are missing|its manifest"),
        (drop_promotion, "log asks for are missing"),
        (drop_content, "log asks for are missing"),
        (add_release, "does not ask for"),
        (add_policy, "does not ask for"),
        (later_days, "does not ask for"),
        (long_log, "line of the log"),
        (link_sums, "SHA256SUMS is a plain file"),
        (pipe, "pipe is a plain file"),
        (edit_manifest, "digest of its manifest"),
        (edit_content, "gate.json"),
        (other_root, "."),
        (other_identity, "certificate extension 15"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_falsified_pack_is_refused(pack: Path, attack: Callable[[Path], object], message: str) -> None:
    import re

    attack(pack)
    done = run_alone(pack)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(message, done.stderr), done.stderr


@pytest.mark.parametrize("changes", [{"reason": "another"}, {"actor": "mallory"}], ids=["reason", "actor"])
def test_a_pack_with_a_promotion_signed_anew_is_refused(
    shop: Any, pack: Path, changes: dict[str, str]
) -> None:
    name = "releases/policy/1/bundles/deployment-local.sigstore.json"
    shop.forge("deployment-local", lambda statement: statement["predicate"].update(changes))
    shutil.copy(shop.repo / name, pack / name)
    sums(pack)
    done = run_alone(pack)
    assert (done.returncode, "as the log has it" in done.stderr) == (1, True), done.stderr


def test_the_verifier_says_which_values_another_source_must_confirm(pack: Path) -> None:
    before = json.loads(run_alone(pack, "--json").stdout)["compare"]
    edit_json(pack / "identities.json", lambda value: value.update(unused={"revocation": {"list": "x"}}))
    sums(pack)
    after = json.loads(run_alone(pack, "--json").stdout)["compare"]
    assert [key for key in before if before[key] != after[key]] == ["sha256 of identities.json"]
    assert len(before) == 4  # the days, the root, the identities, the log's head


def test_nothing_beside_the_verifier_stands_in_for_a_module(pack: Path) -> None:
    for name in ("sigstore", "json", "argparse"):
        (pack / name).mkdir()
        (pack / name / "__init__.py").write_text("print('the pack holds: everything'); raise SystemExit(0)")
    done = subprocess.run(
        [sys.executable, str(pack / "verify.py")], capture_output=True, text=True, check=False, cwd="/"
    )
    assert (done.returncode, "files of the pack" in done.stderr) == (1, True), done.stdout


def test_no_pack_is_made_of_days_out_of_order_or_to_come(storied: Workshop, tmp_path: Path) -> None:
    day = dt.timedelta(days=1)
    for first, last in ((TODAY, TODAY - day), (TODAY, TODAY + 2 * day), (TODAY + 2 * day, TODAY + 3 * day)):
        with pytest.raises(CannotCheck, match="days from"):
            export_pack(storied.repo, storied.trust, "local", first, last, tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_no_pack_is_made_of_a_broken_log_or_of_nothing(shop: Any, tmp_path: Path) -> None:
    with pytest.raises(CannotCheck, match="no release event"):
        export_pack(shop.repo, shop.trust, "local", dt.date(2020, 1, 1), dt.date(2020, 2, 1), tmp_path / "no")
    (tmp_path / "there").mkdir()
    with pytest.raises(CannotCheck, match="exists already"):
        make_pack(shop, tmp_path / "there")
    log = shop.repo / "releases/audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"releaser", b"somebody"))
    with pytest.raises(Refused, match="audit-chain"):
        make_pack(shop, tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("words", [["log"], ["check"], ["trace", "policy/1"], ["page", "--out", "page.html"]])
def test_an_audit_in_the_wrong_folder_is_an_error(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotCheck, match="no such folder"):
        CliRunner().invoke(main, ["audit", *words], catch_exceptions=False)
    assert not list(tmp_path.iterdir())


# the verification summary


def test_a_summary_says_what_was_verified_and_is_signed(shop: Any, tmp_path: Path) -> None:
    verified = shop.verify()
    path = write_summary(shop.desk, verified, "local", tmp_path / "summary.sigstore.json")
    verifier = BundleVerifier(load_trust(shop.trust, "local"))
    summary = verifier.verify(path, "summary", "policy/1", verified.digest).predicate
    assert isinstance(summary, Summary)
    assert summary.verificationResult == "PASSED"
    used = {item.digest["sha256"] for item in summary.inputAttestations}
    assert used == {fact.bundle_sha256 for fact in verified.facts.values()}
    with pytest.raises(Refused, match="wrong-subject"):
        verifier.verify(path, "summary", "policy/2", verified.digest)


def test_a_refused_release_gets_no_summary(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop.release / "content/report.md").write_text("changed")
    monkeypatch.chdir(shop.repo)
    words = ["verify", "policy/1", "--environment", "local", "--summary", str(tmp_path / "s.json")]
    with pytest.raises(Refused, match="file-size"):
        CliRunner().invoke(main, words, catch_exceptions=False)
    assert not (tmp_path / "s.json").exists()


# the soak


def demand_soak(shop: Any) -> Trust:
    """Trust of an environment that wants three sessions in `local`; from here on `local` is it."""
    path = shop.trust / "policy.yaml"
    path.write_text(
        path.read_text().replace("    soak: null", "    soak: {environment: local, sessions: 3}", 1)
    )
    return load_trust(shop.trust, "local")


def verdict(shop: Any, **changes: Any) -> Path:
    first = TODAY
    value = {
        "model": "policy",
        "seq": 1,
        "manifest_digest": shop.verify().digest,
        "state": "ok",
        "problems": [],
        "alarms": [],
        "first_session": str(first),
        "last_session": str(first + dt.timedelta(days=14)),
        "sessions": 5,
    }
    path: Path = shop.repo / "verdict.json"
    path.write_text(json.dumps(value | changes))
    return path


LATER = dt.timedelta(days=20)


def soak(shop: Any, path: Path | None) -> Any:
    verified = shop.verify()
    # the sessions are over by then; the signatures keep their own time
    return check_soak(shop.release, verified, demand_soak(shop), path, now() + LATER)


def test_a_release_that_soaked_has_its_evidence_signed_into_its_deployment(shop: Any) -> None:
    promote(shop.desk, shop.release, "local", "first")
    deployment = shop.verify().facts["deployment"]
    found = soak(shop, verdict(shop))
    assert (found.environment, found.sessions) == ("local", 5)
    assert found.deployment_sha256 == deployment.bundle_sha256


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"state": "alarm"}, "alarm"),
        ({"state": "cannot-judge", "problems": ["log missing"]}, "cannot-judge"),
        ({"alarms": [{"family": "mean"}]}, "mean"),
        ({"manifest_digest": "f" * 64}, "f" * 64),
        ({"seq": 2}, "2"),
        ({"sessions": 2}, "2 from"),
        ({"sessions": 99}, "99 from"),  # more than the exchange held
        ({"first_session": "2020-01-06"}, "False"),  # before it was deployed
        ({"last_session": "2999-01-01"}, "False"),
    ],
)
def test_a_soak_that_proves_nothing_is_refused(shop: Any, changes: dict[str, Any], found: str) -> None:
    promote(shop.desk, shop.release, "local", "first")
    path = verdict(shop, **changes)
    with pytest.raises(Refused, match=f"refused by rule soak: .*{found}"):
        soak(shop, path)


def test_a_release_that_was_never_there_has_not_soaked(shop: Any) -> None:
    path = verdict(shop)
    with pytest.raises(Refused, match="missing-fact"):
        soak(shop, path)


def test_without_a_verdict_a_soak_cannot_be_checked(shop: Any) -> None:
    promote(shop.desk, shop.release, "local", "first")
    with pytest.raises(CannotCheck, match="no verdict given"):
        soak(shop, None)


def test_a_deployment_without_its_soak_is_refused(shop: Any) -> None:
    promote(shop.desk, shop.release, "local", "first")
    verified = shop.verify(deployed=True)
    with pytest.raises(Refused, match=r"refused by rule soak: .*no soak result"):
        check_deployment(verified.facts, verified.manifest, demand_soak(shop), now(), required=True)


def deployed_after(shop: Any, sessions: int | None) -> None:
    """policy/1 promoted after a soak of so many sessions, where from then on three are asked for."""
    promote(shop.desk, shop.release, "local", "first")
    held = {
        "environment": "local",
        "deployment_sha256": "a" * 64,
        "deployed_at": "2026-01-02T03:04:05Z",
        "first_session": "2026-01-05",
        "last_session": "2026-01-06",
        "sessions": sessions,
        "verdict_sha256": "b" * 64,
    }
    soaked = held if sessions else None
    shop.forge("deployment-local", lambda statement: statement["predicate"].update(soak=soaked))
    demand_soak(shop)


def test_a_deployment_after_too_short_a_soak_is_refused(shop: Any) -> None:
    deployed_after(shop, 2)
    with pytest.raises(Refused, match=r"refused by rule soak: .*2 sessions"):
        shop.verify(deployed=True)


def rolled_back(shop: Any) -> Path:
    """policy/3, approved and signed: the content of policy/1 after policy/2."""
    shop.second_release()
    folder = rollback(shop.desk, 1, "seq 2 loses money", "local")
    shop.commit("rollback PR")
    shop.sign(folder)
    return folder


def test_content_that_soaked_and_ran_here_comes_back_without_another_soak(shop: Any) -> None:
    deployed_after(shop, 3)
    folder = rolled_back(shop)
    promote(shop.desk, folder, "local", "approved")
    assert shop.verify(folder, deployed=True).facts["deployment"].predicate.soak is None
    assert promote(shop.desk, folder, "local", "again")[1].seq == 3  # in force: nothing is signed anew
    (folder / "origin/bundles/deployment-local.sigstore.json").unlink()
    with pytest.raises(Refused, match=r"refused by rule soak: .*no soak result"):
        shop.verify(folder, deployed=True)


@pytest.mark.parametrize("sessions", [None, 2])
def test_content_that_ran_here_without_the_soak_that_is_asked_for_must_soak(
    shop: Any, sessions: int | None
) -> None:
    deployed_after(shop, sessions)
    folder = rolled_back(shop)
    with pytest.raises(Refused, match="missing-fact"):  # it was not even where it would soak
        promote(shop.desk, folder, "local", "approved")


def test_content_that_never_ran_here_must_soak_although_it_is_a_rollback(shop: Any) -> None:
    demand_soak(shop)
    folder = rolled_back(shop)
    with pytest.raises(Refused, match="missing-fact"):  # it was not even where it would soak
        promote(shop.desk, folder, "local", "approved")


def test_another_releases_deployment_spares_a_rollback_no_soak(shop: Any) -> None:
    deployed_after(shop, 3)
    folder = rolled_back(shop)
    path = folder / "origin/bundles/deployment-local.sigstore.json"
    statement = payload(path)
    statement["subject"] = [{"name": "policy/2", "digest": {"sha256": "f" * 64}}]
    path.write_bytes(shop.seal("deployment", canonical(statement), None, None, {}))
    with pytest.raises(Refused, match="subject"):
        promote(shop.desk, folder, "local", "approved")
