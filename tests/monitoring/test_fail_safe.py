"""A check that cannot see says so, and what cannot be seen disarms nothing."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from sekisho.cli import main
from sekisho.monitoring.check import Decisions, check_predictions
from sekisho.monitoring.halt import FileSwitch, halt
from sekisho.monitoring.verdict import Verdict, read_verdict
from sekisho.serving.guard import Reason
from sekisho.serving.predictions import HEAD, PredictionLog
from sekisho.serving.switch import Position, Turned, read_switch, read_turn, write_switch

REPO = Path(__file__).resolve().parents[2]
NOW = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
TINY = 1e-5  # a loss that some session of the world surely has


def judge(  # type: ignore[no-untyped-def]
    world, predictions: Path, *, bars: bool | Path = False, limits: dict[str, float] | None = None, **options
) -> Verdict:
    params = world.params.monitoring.model_copy(update=limits or {})
    live = world.bars["calm"] if bars is True else bars or None
    return check_predictions(predictions, world.release, params, bars=live, data=world.params.data, **options)


def evening(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(12), dt.UTC)


@contextmanager
def opened(folder: Path) -> Iterator[PredictionLog]:
    log = PredictionLog(folder, capacity=10**6, batch=1024, interval=60.0)
    yield log
    log.close()


def families(verdict: Verdict) -> list[str]:
    return [alarm.family for alarm in verdict.alarms]


# a session in which nothing but refused requests came


@pytest.mark.parametrize(("rows", "count"), [(29, 1), (20, 9), (1, 1)])
def test_sessions_of_nothing_but_stale_answers_are_sessions_without_service(
    world, tmp_path: Path, rows: int, count: int
) -> None:
    days = world.calm.sessions[: count + 3]
    with opened(tmp_path / "log") as log:
        for number, day in enumerate(days):
            stale = 2 <= number < 2 + count
            world.add(
                log,
                world.calm,
                day,
                rows=range(rows) if stale else None,
                verdict=Reason.STALE if stale else Reason.OK,
            )
    verdict = judge(world, tmp_path / "log", as_of=evening(days[-1]))
    assert (verdict.state, families(verdict)) == ("cannot-judge", ["safe-answers"])
    assert len(verdict.problems) == count
    assert f"session {days[2]}: no service: every one of its {rows} requests" in verdict.problems[0]


def test_a_release_that_answered_nothing_in_its_first_session_is_seen(world, tmp_path: Path) -> None:
    with opened(tmp_path / "log") as log:
        world.add(log, world.calm, world.calm.sessions[0], rows=range(5), verdict=Reason.STALE)
        world.add(log, world.calm, world.calm.sessions[1])
    verdict = judge(world, tmp_path / "log")
    assert verdict.state == "cannot-judge"
    assert "no service" in verdict.problems[0]


# a log for each pod


@pytest.fixture
def pods(world, tmp_path: Path) -> Path:
    """Three pods that each answered a third of the requests of three sessions; the last one only two."""
    for number, pod in enumerate(("policy-stable-a", "policy-stable-b", "policy-stable-c")):
        with opened(tmp_path / "pods" / pod) as log:
            for day in world.calm.sessions[: 2 if number == 2 else 3]:
                last = day == world.calm.sessions[2]
                mine = [
                    row for row in range(66) if row % 3 == number or (last and number == 0 and row % 3 == 2)
                ]
                world.add(log, world.calm, day, rows=mine)
    with opened(tmp_path / "pods" / "policy-stable-d"):
        pass  # started, and was asked nothing
    return tmp_path / "pods"


def test_the_logs_of_all_pods_are_judged_as_one(world, pods: Path, tmp_path: Path) -> None:
    whole = world.log(tmp_path / "whole", world.calm, world.calm.sessions[:3])
    verdict = judge(world, pods, bars=True, as_of=evening(world.calm.sessions[2]))
    assert (verdict.state, verdict.rows) == ("ok", 3 * 66)
    alone = judge(world, whole, bars=True, as_of=evening(world.calm.sessions[2]))
    assert verdict == alone


@pytest.mark.parametrize("damage", ["head", "batch", "row"])
def test_each_pods_chain_is_verified(world, pods: Path, damage: str, rewrite) -> None:
    judge(world, pods)  # what was verified before is not believed for ever
    log = pods / "policy-stable-b"
    batch = sorted(log.glob("2*/*.parquet"))[-1]
    if damage == "head":
        (log / HEAD).unlink()
    elif damage == "batch":
        batch.unlink()
        (batch.parent).rmdir()
    else:
        rewrite(batch, pl.read_parquet(batch).with_columns(latency_us=pl.col("latency_us") + 1))
    verdict = judge(world, pods)
    assert verdict.state == "cannot-judge"
    assert any("prediction-log-chain" in problem for problem in verdict.problems)


def test_what_is_no_log_in_the_folder_is_named(world, pods: Path) -> None:
    (pods / "notes" / "deep").mkdir(parents=True)
    verdict = judge(world, pods)
    assert verdict.problems == [f"{pods}/notes: neither a session (YYYY-MM-DD) nor the log of a server"]


# losses, whatever the rest says


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    write_switch(tmp_path / "switch", Position.ON, "trading", dt.datetime(2026, 6, 1, tzinfo=dt.UTC))
    return tmp_path / "switch"


def half_a_batch(log: Path) -> None:
    path = sorted(log.glob("*/*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:500])


def no_last_batch(log: Path) -> None:
    shutil.rmtree(sorted(log.glob("2*"))[-1])


def a_foreign_folder(log: Path) -> None:
    (log / "copy of monday").mkdir()


@pytest.mark.parametrize("damage", [half_a_batch, no_last_batch, a_foreign_folder])
def test_a_fault_of_the_data_does_not_disarm_the_kill_switch(
    world, predictions: Path, switch: Path, damage: Callable[[Path], None]
) -> None:
    damage(predictions)
    verdict = judge(world, predictions, bars=True, limits={"max_session_loss": TINY})
    assert (verdict.state, verdict.action) == ("cannot-judge", "halt")
    assert "session-loss" in families(verdict)
    assert halt(verdict, FileSwitch(switch), NOW)
    assert read_switch(switch) is Position.OFF


def test_a_fault_in_the_session_of_the_loss_does_not_hide_it(
    world, predictions: Path, rewrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sekisho.monitoring.kept.Kept.verify", lambda self, *log: None)
    lost = judge(world, predictions, bars=True, limits={"max_session_loss": TINY}).alarms[0].session
    path = next((predictions / lost).glob("*.parquet"))
    frame = pl.read_parquet(path)
    rewrite(path, pl.concat([frame, frame.tail(1)]))  # the same row twice
    verdict = judge(world, predictions, bars=True, limits={"max_session_loss": TINY})
    assert "occur twice" in verdict.problems[0]
    assert [(a.family, a.session) for a in verdict.alarms if a.family == "session-loss"] == [
        ("session-loss", lost)
    ]


def test_missing_bars_of_one_session_leave_the_losses_of_the_others(
    world, predictions: Path, tmp_path: Path
) -> None:
    bars = Path(shutil.copytree(world.bars["calm"], tmp_path / "bars"))
    (bars / f"{world.calm.sessions[4]}.parquet").write_bytes(b"PAR1")
    verdict = judge(world, predictions, bars=bars, limits={"max_session_loss": TINY})
    assert (verdict.state, verdict.action) == ("cannot-judge", "halt")
    assert any(str(world.calm.sessions[4]) in problem for problem in verdict.problems)


def test_a_person_may_turn_the_switch_on_after_a_loss(world, predictions: Path) -> None:
    limits = {"max_session_loss": TINY}
    lost = judge(world, predictions, bars=True, limits=limits).alarms[0].session
    day = dt.date.fromisoformat(lost)
    close = dt.datetime.combine(day, dt.time(6, 30), dt.UTC)  # 15:30 in Tokyo

    def after(at: dt.datetime | None, position: Position = Position.ON) -> list[str]:
        decisions = Decisions(turned=Turned(position, at, "a fat finger at the exchange"))
        verdict = judge(
            world,
            predictions,
            bars=True,
            limits=limits,
            decisions=decisions,
            as_of=evening(world.calm.sessions[4]),
        )
        known = [a for a in verdict.acknowledged if a["family"] == "session-loss"]
        assert all(a["reason"] == "a fat finger at the exchange" for a in known)
        found = [a.session for a in verdict.alarms if a.family == "session-loss"]
        assert lost in {*found, *(a["session"] for a in known)}
        return found

    assert lost not in after(close + SECOND)
    assert after(close - SECOND)[0] == lost  # in the session: its loss still counts
    assert after(None)[0] == lost  # no date, no decision
    assert after(close + SECOND, Position.OFF)[0] == lost
    assert after(evening(world.calm.sessions[9]))[0] == lost  # nobody decides about what is to come


def test_the_switch_stays_on_in_the_next_check_and_goes_off_at_the_next_loss(
    world, predictions: Path, switch: Path
) -> None:
    limits = {"max_session_loss": TINY}
    days = world.calm.sessions
    first = judge(world, predictions, bars=True, limits=limits)
    assert halt(first, FileSwitch(switch), NOW)
    assert read_turn(switch).at is not None
    write_switch(switch, Position.ON, "known", evening(days[4]))
    again = judge(
        world, predictions, bars=True, limits=limits, decisions=Decisions(turned=read_turn(switch)),
        as_of=evening(days[4]),
    )  # fmt: skip
    assert again.state == "ok"
    assert not halt(again, FileSwitch(switch), NOW)
    assert read_switch(switch) is Position.ON
    world.log(predictions, world.calm, days[5:12])
    later = judge(
        world, predictions, bars=True, limits=limits, decisions=Decisions(turned=read_turn(switch)),
        as_of=evening(days[11]),
    )  # fmt: skip
    assert dt.date.fromisoformat(later.alarms[-1].session) > days[4]
    assert halt(later, FileSwitch(switch), NOW)


def test_excluding_a_session_hides_no_loss(world, predictions: Path) -> None:
    limits = {"max_session_loss": TINY}
    lost = judge(world, predictions, bars=True, limits=limits).alarms[0]
    decisions = Decisions(excluded={dt.date.fromisoformat(lost.session): "looks odd"})
    verdict = judge(world, predictions, bars=True, limits=limits, decisions=decisions)
    assert lost in verdict.alarms
    assert verdict.action == "halt"


# what must be held against live bars, and cannot be


def test_requests_that_cannot_be_compared_with_bars_are_not_in_order(world, tmp_path: Path) -> None:
    day = world.calm.sessions[3]
    log = world.log(tmp_path / "log", world.calm, world.calm.sessions[:5])
    bars = Path(shutil.copytree(world.bars["calm"], tmp_path / "bars"))
    path = bars / f"{day}.parquet"
    frame = pl.read_parquet(path)
    frame.filter(pl.col("ts_close") == frame["ts_close"].min()).write_parquet(path)
    verdict = judge(world, log, bars=bars)
    assert verdict.state == "cannot-judge"
    assert any(f"session {day}: only 1 of 66 answered requests" in what for what in verdict.problems)


def test_bars_that_do_not_reach_the_session_yet_are_named_as_such(
    world, predictions: Path, tmp_path: Path
) -> None:
    bars = Path(shutil.copytree(world.bars["calm"], tmp_path / "bars"))
    for day in world.calm.sessions[4:]:
        (bars / f"{day}.parquet").unlink()
    verdict = judge(world, predictions, bars=bars)
    assert verdict.state == "cannot-judge"
    assert f"the live bars do not reach {world.calm.sessions[4]} yet" in verdict.problems[0]
    assert any("the live account: 1 sessions cannot be measured" in what for what in verdict.problems)


def test_bars_without_the_sessions_before_are_named(world, predictions: Path, tmp_path: Path) -> None:
    bars = tmp_path / "bars"
    bars.mkdir()
    for day in world.calm.sessions[:5]:
        shutil.copy(world.bars["calm"] / f"{day}.parquet", bars)
    verdict = judge(world, predictions, bars=bars)
    assert verdict.state == "cannot-judge"
    assert f"session {world.calm.sessions[0]}: only 0 of 66 answered requests" in verdict.problems[0]


def test_a_hole_in_the_bars_is_no_skew_of_the_session_after_it(
    world, predictions: Path, tmp_path: Path
) -> None:
    bars = Path(shutil.copytree(world.bars["calm"], tmp_path / "bars"))
    (bars / f"{world.calm.sessions[1]}.parquet").unlink()
    verdict = judge(world, predictions, bars=bars)
    assert (verdict.state, verdict.alarms) == ("cannot-judge", [])
    assert any(f"which the features of {world.calm.sessions[2]} rest on" in what for what in verdict.problems)


# what every caller may do


def test_a_second_caller_a_retry_and_a_second_release_do_not_mute_the_check(world, tmp_path: Path) -> None:
    days = world.calm.sessions[:5]
    plain = judge(world, world.log(tmp_path / "plain", world.calm, days))
    with opened(tmp_path / "log") as log:
        for number, day in enumerate(days):
            world.add(log, world.calm, day)
            if number == 1:  # asks for the bar before, within its age limit
                world.add(log, world.calm, day, rows=[64], name="second", later=dt.timedelta(seconds=305))
            if number == 2:  # did not hear the answer
                world.add(log, world.calm, day, rows=[65], later=SECOND)
            if number == 3:  # a canary is replayed
                world.add(log, world.calm, day, seq=2)
    verdict = judge(world, tmp_path / "log")
    assert (verdict.state, verdict.problems, verdict.alarms) == ("ok", [], [])
    assert verdict.rows == plain.rows + 1  # the second caller's; who asks twice counts once
    assert verdict.levels == plain.levels


def test_a_session_that_a_swap_left_a_few_bars_of_is_not_judged_for_drift_and_no_fault(
    world, tmp_path: Path
) -> None:
    days = world.calm.sessions[:3]
    with opened(tmp_path / "log") as log:
        world.add(log, world.calm, days[0], rows=range(50), seq=2)
        world.add(log, world.calm, days[0], rows=range(50, 66))
        for day in days[1:]:
            world.add(log, world.calm, day)
    verdict = judge(world, tmp_path / "log")
    assert (verdict.state, verdict.problems, list(verdict.levels)) == ("ok", [], [str(d) for d in days[1:]])
    assert any(f"drift in session {days[0]}: 16 predicted bars" in what for what in verdict.unwatched)
    with opened(tmp_path / "only") as log:
        world.add(log, world.calm, days[0], rows=range(50), seq=2)
        world.add(log, world.calm, days[0], rows=range(50, 66))
    assert judge(world, tmp_path / "only").problems == ["no session with 30 predicted bars"]


def test_one_id_for_two_observations_is_a_fault(world, tmp_path: Path) -> None:
    with opened(tmp_path / "log") as log:
        world.add(log, world.calm, world.calm.sessions[0])
        world.add(log, world.calm, world.calm.sessions[0], rows=[65], later=SECOND, see=lambda x: x + 1)
    assert "1 prediction ids stand for different observations" in judge(world, tmp_path / "log").problems[0]


# inputs that stand still or are missing


def test_inputs_that_stand_still_are_a_fault_of_the_data_and_no_drift(world, tmp_path: Path) -> None:
    days = world.calm.sessions[:8]
    first = world.calm.of(days[2])[1][0]

    def still(features: np.ndarray) -> np.ndarray:
        features[1, 0] = first[1, 0]
        return features

    for name, see in (("one", still), ("all", lambda features: first.copy())):
        with opened(tmp_path / name) as log:
            for number, day in enumerate(days):
                world.add(log, world.calm, day, **({"see": see} if number >= 2 else {}))
        verdict = judge(world, tmp_path / name)
        assert (verdict.state, verdict.action, verdict.alarms) == ("cannot-judge", "mend", [])
        assert len(verdict.problems) == 6
        assert "stood still at" in verdict.problems[0]


def test_bars_whose_close_never_moves_are_named(world, predictions: Path, tmp_path: Path) -> None:
    bars = Path(shutil.copytree(world.bars["calm"], tmp_path / "bars"))
    path = bars / f"{world.calm.sessions[2]}.parquet"
    frame = pl.read_parquet(path)
    symbol = frame["symbol"][0]
    frozen = [pl.when(pl.col("symbol") == symbol).then(frame["close"][0]).otherwise(name).alias(name)
              for name in ("open", "high", "low", "close")]  # fmt: skip
    frame.with_columns(frozen).write_parquet(path)
    verdict = judge(world, predictions, bars=bars)
    assert verdict.state == "cannot-judge"
    assert any(f"the close of {symbol} never moved" in what for what in verdict.problems)


def test_missing_inputs_are_a_fault_of_the_data(world, tmp_path: Path) -> None:
    def missing(features: np.ndarray) -> np.ndarray:
        features[0, 1] = np.nan
        return features

    with opened(tmp_path / "log") as log:
        for day in world.calm.sessions[:3]:
            world.add(log, world.calm, day, rows=range(60))
            world.add(log, world.calm, day, rows=range(60, 66), verdict=Reason.NON_FINITE, see=missing)
    verdict = judge(world, tmp_path / "log")
    assert (verdict.state, families(verdict)) == ("cannot-judge", ["safe-answers"])
    assert "inputs are missing (NaN) in 6 of 66 requests" in verdict.problems[0]


def test_features_in_another_order_are_seen_without_bars(world, tmp_path: Path) -> None:
    with opened(tmp_path / "log") as log:
        for number, day in enumerate(world.calm.sessions[:3]):
            turned = {"see": lambda features: features[:, ::-1].copy()} if number == 1 else {}
            world.add(log, world.calm, day, **turned)
    (problem,) = judge(world, tmp_path / "log").problems
    assert str(world.calm.sessions[1]) in problem
    assert "are the features in another order?" in problem


# every failure is a verdict


@pytest.mark.parametrize("what", ["release", "params", "excluded", "acknowledged"])
def test_a_check_that_fails_writes_a_verdict(world, predictions: Path, tmp_path: Path, what: str) -> None:
    release = Path(shutil.copytree(world.release, tmp_path / "policy" / "1"))
    params = Path(shutil.copy(REPO / "params.yaml", tmp_path / "params.yaml"))
    excluded, known = tmp_path / "excluded.yaml", tmp_path / "acknowledged"
    known.mkdir()
    if what == "release":
        (release / "content" / "reference.json").write_bytes(b"{}")
    elif what == "params":
        params.write_text("data: 1\n")
    elif what == "excluded":
        excluded.write_text("soon: because\n")
    else:
        (known / "mean.yaml").write_text("{}\n")
    out = tmp_path / "out" / "verdict.json"
    words = ["--predictions", predictions, "--release", release, "--out", out, "--excluded", excluded]
    words += ["--acknowledged", known, "--params", params, "--as-of", world.calm.sessions[4]]
    done = CliRunner().invoke(main, ["drift", "check", *map(str, words)])
    assert done.exit_code == 2, done.output
    assert sorted(path.suffix for path in out.parent.iterdir())[:3] == [".html", ".json", ".md"]
    verdict = read_verdict(out)
    assert (verdict.state, verdict.model, verdict.seq) == ("cannot-judge", "policy", 1)
    assert json.loads(out.read_text())["checked_at"]


# work grows with new sessions only


def test_no_file_of_an_old_session_is_read_again(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, reads = tmp_path / "log", []
    for name in ("read_parquet", "read_parquet_metadata"):
        real = getattr(pl, name)
        monkeypatch.setattr(
            pl, name, lambda path, *a, real=real, **k: (reads.append(path), real(path, *a, **k))[1]
        )
    monkeypatch.setattr(
        "sekisho.monitoring.kept.sha256_of", lambda path: (reads.append(path), real_digest(path))[1]
    )
    counts = {}
    for first, last in ((0, 10), (10, 80)):
        world.log(log, world.calm, world.calm.sessions[first:last])
        judge(world, log)
        reads.clear()
        judge(world, log)
        counts[last] = len(reads)
    assert counts == {10: 0, 80: 0}
    shutil.copytree(log, tmp_path / "copy", copy_function=shutil.copyfile)
    reads.clear()
    assert judge(world, tmp_path / "copy").sessions == 80
    assert len([path for path in reads if path.suffix == ".parquet"]) == 80  # hashed once, not decoded


def real_digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
