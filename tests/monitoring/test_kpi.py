"""Figures of the loop from a history whose times are known."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
from pathlib import Path

import pytest

from sekisho.errors import CannotCheck, Refused
from sekisho.monitoring.alarms import RUNBOOKS
from sekisho.monitoring.kpi import measure
from sekisho.monitoring.verdict import Alarm, Verdict
from sekisho.release.audit import GENESIS, Event, line_hash
from sekisho.release.manifest import canonical

REPO = Path(__file__).resolve().parents[2]
HOUR = 3600
START = 1_780_000_000  # seconds since 1970


def git(repo: Path, *words: str, at: int = START) -> str:
    who = {f"GIT_{role}_{what}": "engineer" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    when = {"GIT_AUTHOR_DATE": f"{at} +0000", "GIT_COMMITTER_DATE": f"{at} +0000"}
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "GIT_CONFIG_GLOBAL": "/dev/null", **who, **when}
    done = subprocess.run(
        ["git", *words], cwd=repo, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(repo: Path, message: str, hours: float) -> str:
    git(repo, "commit", "--quiet", "--allow-empty", "-m", message, at=START + int(hours * HOUR))
    return git(repo, "rev-parse", "HEAD")


def merge(repo: Path, branch: str, hours: float) -> str:
    git(repo, "switch", "--quiet", "main")
    git(repo, "merge", "--quiet", "--no-ff", "-m", f"Merge {branch}", branch, at=START + int(hours * HOUR))
    return git(repo, "rev-parse", "HEAD")


def audit(repo: Path, *events: tuple[str, int, float], environment: str | None = None) -> None:
    lines, previous = [], GENESIS
    for number, (what, seq, hours) in enumerate(events, 1):
        moment = dt.datetime.fromtimestamp(START + hours * HOUR, dt.UTC)
        details = {"environment": environment} if environment and what == "promote" else {}
        event = Event(
            line=number,
            previous=previous,
            at=moment,
            event=what,  # type: ignore[arg-type]
            actor="bot",
            model="policy",
            seq=seq,
            manifest_digest=("a" if seq == 1 else str(seq)) * 64,
            details=details,
        )
        lines.append(event.encode())
        previous = line_hash(lines[-1])
    (repo / "releases").mkdir(exist_ok=True)
    (repo / "releases" / "audit.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Branch begun at hour 0, merged at 5, promoted at 6 and 30; alarm at 40, retrain at 42, merged at 50."""

    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commit(tmp_path, "Root", -100)
    git(tmp_path, "switch", "--quiet", "-c", "change")
    commit(tmp_path, "First", 0)
    commit(tmp_path, "Second", 4)
    merged = merge(tmp_path, "change", 5)
    folder = tmp_path / "releases" / "policy" / "1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(canonical({"created_from": {"commit": merged}}))
    audit(tmp_path, ("export", 1, 5.5), ("promote", 1, 6), ("promote", 1, 30))
    git(tmp_path, "switch", "--quiet", "-c", "retrain/policy")
    commit(tmp_path, f"Retrain policy\n\nAlarm on policy/1, manifest sha256:{'a' * 64}", 42)
    merge(tmp_path, "retrain/policy", 50)
    alarm = Alarm("volatility", "return_1 of SYN1", 400.0, 252.0, "2026-07-01")
    for hours in (40, 41):
        at = dt.datetime.fromtimestamp(START + hours * HOUR, dt.UTC).isoformat()
        verdict = Verdict("policy", 1, "a" * 64, "b" * 64, "alarm", alarms=[alarm], checked_at=at)
        verdict.write(tmp_path / "verdicts" / str(hours) / "verdict.json")
    (tmp_path / "verdicts" / "other.json").write_text(json.dumps([1]))
    return tmp_path


def test_the_figures_are_those_of_the_history(history: Path) -> None:
    found = measure(history, history / "verdicts").as_dict()
    assert found["lead_time_seconds"] == {"policy/1": 6 * HOUR}
    assert (found["releases"], found["promotions"], found["promotions_span_seconds"]) == (1, 2, 24 * HOUR)
    (response,) = found["alarms"]
    assert (response["to_branch"], response["to_merge"]) == (2 * HOUR, 10 * HOUR)
    assert (response["family"], response["to_promotion"]) == ("volatility", None)
    assert dict(measure(history, history / "verdicts").rows())["releases"] == "1"


def release_at(repo: Path, seq: int, commit: str) -> None:
    folder = repo / "releases" / "policy" / str(seq)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(canonical({"created_from": {"commit": commit}}))


def test_a_retrained_release_in_service_ends_the_response_and_meets_its_goals(history: Path) -> None:
    release_at(history, 2, git(history, "rev-parse", "main"))
    audit(history, ("export", 1, 5.5), ("promote", 1, 6), ("export", 2, 51), ("promote", 2, 52))
    found = measure(history, history / "verdicts", baseline=48.0 * HOUR)
    (response,) = found.responses
    assert response["to_promotion"] == 12 * HOUR
    rows = dict(found.rows())
    assert rows[f"alarm of {response['at']} to promotion"] == "12.0 hours (goal 24.0 hours: holds)"
    assert found.lead_time == 8 * HOUR  # of 6 and, for the retrained one, 10 hours
    assert "holds" in rows["lead time, first commit to promotion (median)"]
    slow = dict(measure(history, history / "verdicts", baseline=10.0 * HOUR).rows())
    assert "missed" in slow["lead time, first commit to promotion (median)"]


def judged(repo: Path, hours: float, *families: str, seq: int = 1, state: str = "") -> None:
    """A verdict of release ``seq`` with alarms of these families."""
    at = dt.datetime.fromtimestamp(START + hours * HOUR, dt.UTC).isoformat()
    alarms = [Alarm(family, "x", 2.0, 1.0, "2026-07-01") for family in families]
    digest = ("a" if seq == 1 else str(seq)) * 64
    state = state or ("alarm" if alarms else "ok")
    verdict = Verdict("policy", seq, digest, "b" * 64, state, alarms=alarms, checked_at=at)  # type: ignore[arg-type]
    verdict.write(repo / "verdicts" / f"{seq}-{hours}" / "verdict.json")


ROLLED_BACK = [("export", 1, 5.5), ("promote", 1, 6), ("rollback", 2, 43), ("promote", 2, 44)]


def test_the_time_to_restore_begins_with_the_anomaly_that_the_rollback_answers(history: Path) -> None:
    audit(history, *ROLLED_BACK, environment="production")  # type: ignore[arg-type]
    judged(history, 10, "safe-answers")  # over again: another matter
    judged(history, 11)
    drift_only = measure(history, history / "verdicts", environment="production")
    assert drift_only.failures == {"policy/1": 1 * HOUR}  # from the rollback's entry: a drift is no failure
    judged(history, 42, "session-loss")
    judged(history, 42.5, state="cannot-judge")  # ends nothing
    found = measure(history, history / "verdicts", environment="production")
    assert found.failures == {"policy/1": 2 * HOUR}
    assert (found.changes, found.failure_rate) == (1, 1.0)
    assert dict(found.rows())["time to restore (median)"] == "2.0 hours"
    elsewhere = measure(history, history / "verdicts", environment="staging")
    assert (elsewhere.promotions, elsewhere.failures, elsewhere.failure_rate) == (0, {}, None)


def test_a_halt_and_a_release_that_another_had_to_replace_are_failures_too(history: Path) -> None:
    audit(history, ("promote", 1, 6), ("promote", 2, 60), ("promote", 3, 70), environment="production")
    judged(history, 50, "parity")  # stands while 2 replaces it
    judged(history, 61, "drawdown", seq=2)
    judged(history, 62, seq=2)  # over when 3 replaces it
    judged(history, 75, "session-loss", seq=3)
    found = measure(history, history / "verdicts", environment="production")
    assert found.failures == {"policy/1": 10 * HOUR, "policy/2": None, "policy/3": None}
    assert (found.restored, found.failure_rate) == (10 * HOUR, 1.0)


def test_failures_are_a_share_of_all_changes_also_of_those_whose_first_commit_is_not_known(
    history: Path,
) -> None:
    events = [
        ("promote", 1, 6),
        ("promote", 4, 7),
        ("promote", 5, 8),
        ("rollback", 6, 9),
        ("promote", 6, 9.5),
    ]
    audit(history, *events, environment="production")  # type: ignore[arg-type]
    found = measure(history, history / "none", environment="production")
    assert (len(found.lead_times), found.changes) == (1, 3)
    assert found.failures == {"policy/5": 0.5 * HOUR}
    assert found.failure_rate == pytest.approx(1 / 3)


def test_each_anomaly_of_a_release_has_its_own_response(history: Path) -> None:
    judged(history, 45)  # the first one is over
    judged(history, 60, "mean")
    first, second = measure(history, history / "verdicts").responses
    assert (first["family"], first["to_branch"]) == ("volatility", 2 * HOUR)
    assert (second["family"], second["to_branch"]) == ("mean", None)  # the commit of the first is no answer


def test_after_a_squash_the_first_commit_is_not_known(history: Path) -> None:
    squashed = commit(history, "Squash of another request", 55)
    release_at(history, 2, squashed)
    audit(history, ("promote", 2, 60))
    found = measure(history, history / "none")
    assert (found.lead_times, found.changes) == ({}, 1)


def test_what_is_not_recorded_is_not_known(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commit(tmp_path, "Root", 0)
    audit(tmp_path, ("promote", 7, 1))
    found = measure(tmp_path, tmp_path / "none")
    assert found.lead_times == {}
    assert ("lead time, first commit to promotion (median)", "not known") in found.rows()


def test_outside_git_nothing_can_be_measured(tmp_path: Path) -> None:
    with pytest.raises(CannotCheck):
        measure(tmp_path, tmp_path)


def test_a_broken_audit_log_is_refused(history: Path) -> None:
    log = history / "releases" / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"seq":1', b'"seq":2'))
    with pytest.raises(Refused, match="audit-chain"):
        measure(history, history / "verdicts")


@pytest.mark.parametrize("language", ["en", "ja"])
def test_every_alarm_has_a_runbook(language: str) -> None:
    for name in {*RUNBOOKS.values(), "cannot-judge"}:
        text = (REPO / "docs" / language / "runbooks" / f"{name}.md").read_text(encoding="utf-8")
        assert text.startswith("# ")
