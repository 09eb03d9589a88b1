"""The check as a whole, on the sample's own market: silence, alarm, and refusals to judge."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sekisho.errors import CannotCheck
from sekisho.monitoring.check import Decisions, check_predictions
from sekisho.monitoring.decisions import load_excluded
from sekisho.monitoring.evidence import write_evidence
from sekisho.monitoring.verdict import DRIFT, Verdict, read_verdict
from sekisho.serving.predictions import PredictionLog, verify_chain

Rewrite = Callable[[Path, pl.DataFrame], None]


def judge(world, predictions: Path, **options) -> Verdict:  # type: ignore[no-untyped-def]
    if "excluded" in options:
        options["decisions"] = Decisions(excluded=options.pop("excluded"))
    return check_predictions(predictions, world.release, world.params.monitoring, **options)


def batch(predictions: Path, session: int = 2) -> Path:
    return sorted(predictions.glob("*/*.parquet"))[session]


@pytest.mark.slow
def test_sixty_sessions_without_a_change_raise_no_alarm(world, tmp_path: Path) -> None:
    log = world.log(tmp_path / "log", world.calm, world.calm.sessions[:60])
    verdict = judge(world, log)
    assert (verdict.state, verdict.sessions, verdict.alarms) == ("ok", 60, [])
    with_bars = judge(world, log, bars=world.bars["calm"], data=world.params.data)
    assert (with_bars.state, with_bars.alarms, with_bars.unwatched) == ("ok", [], [])
    assert with_bars.performance["sessions"] == 60


@pytest.mark.slow
def test_double_volatility_and_higher_correlation_are_found_within_ten_sessions(
    world, tmp_path: Path
) -> None:
    live = world.changed.sessions
    log = world.log(tmp_path / "log", world.changed, live[:35])
    verdict = judge(world, log)
    assert verdict.state == "alarm"
    assert live[20] <= dt.date.fromisoformat(verdict.alarms[0].session) < live[30]
    assert verdict.alarms[0].statistic >= verdict.alarms[0].threshold > 0
    assert verdict.threshold >= world.params.monitoring.alarm_level
    assert 0 < verdict.false_alarms["low"] <= verdict.false_alarms["a_month"] <= 0.25
    assert verdict.top[0]["evidence"] == max(row["evidence"] for row in verdict.top)
    out = tmp_path / "out" / "verdict.json"
    written = write_evidence(verdict, out)
    verdict.write(out)
    assert {path.name for path in written} == {"verdict.png", "verdict.md"}
    assert read_verdict(out) == verdict
    assert verdict.alarms[0].series in (tmp_path / "out" / "verdict.md").read_text()


def test_bars_add_the_level_of_volatility(world, predictions: Path) -> None:
    without = judge(world, predictions)
    assert without.state == "ok"
    assert "bar_return" in without.unwatched[0]
    verdict = judge(world, predictions, bars=world.bars["calm"], data=world.params.data)
    assert verdict.levels != without.levels


def test_missing_bars_cannot_be_judged(world, predictions: Path, tmp_path: Path) -> None:
    bars = Path(shutil.copytree(world.bars["calm"], tmp_path / "bars"))
    (bars / f"{world.calm.sessions[3]}.parquet").unlink()
    verdict = judge(world, predictions, bars=bars, data=world.params.data)
    assert verdict.state == "cannot-judge"
    assert str(world.calm.sessions[3]) in verdict.problems[0]


def test_the_same_log_gives_the_same_verdict_from_its_kept_profiles(world, predictions: Path) -> None:
    first = judge(world, predictions)
    kept = sorted(predictions.glob(".kept/*.npz"))
    assert len(kept) == 5
    before = [path.stat().st_mtime_ns for path in kept]
    assert judge(world, predictions) == first
    assert [path.stat().st_mtime_ns for path in kept] == before
    kept[0].write_bytes(b"half a profile")
    assert judge(world, predictions) == first
    verify_chain(predictions)


def half_a_file(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_bytes(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    path.write_bytes(b"")


def no_rows(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    rewrite(path, frame.clear())


def duplicated(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    rewrite(path, pl.concat([frame, frame.tail(1)]))


def out_of_order(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    rewrite(path, frame.reverse())


def a_number(value: float) -> Callable[[Path, pl.DataFrame, Rewrite], None]:
    def damage(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
        values = frame["observation"].to_list()
        values[7][3] = value
        rewrite(path, frame.with_columns(pl.Series("observation", values, dtype=pl.List(pl.Float32))))

    return damage


def a_missing_feature(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    rewrite(path, frame.with_columns(pl.col("observation").list.head(pl.col("observation").list.len() - 6)))


def a_renamed_column(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    rewrite(path, frame.rename({"observation": "observations"}))


def a_clock_ahead(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    rewrite(path, frame.with_columns(pl.col("ts_close", "at") + dt.timedelta(days=1)))


def a_missing_column(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    rewrite(path, frame.drop("latency_us"))


def another_type(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    rewrite(path, frame.with_columns(pl.col("seq").cast(pl.String)))


def a_null(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    rewrite(path, frame.with_columns(verdict=pl.lit(None, pl.String)))


def another_manifest(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    rewrite(path, frame.with_columns(manifest_digest=pl.lit("f" * 64)))


def another_session(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    rewrite(path, frame.with_columns(session=pl.col("session") + dt.timedelta(days=1)))


def an_edited_weight(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    rewrite(path, frame.with_columns(pl.col("target_weights").list.eval(pl.element() + 0.5)))


def a_removed_batch(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    shutil.rmtree(path.parent)


def an_emptied_session(path: Path, frame: pl.DataFrame, rewrite: Rewrite) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (half_a_file, "not a whole Parquet file"),
        (no_bytes, "not a whole Parquet file"),
        (no_rows, "no rows"),
        (duplicated, "occur twice"),
        (out_of_order, "out of order"),
        (a_number(float("nan")), "NaN or infinity"),
        (a_number(float("inf")), "NaN or infinity"),
        (a_missing_feature, "a feature is missing"),
        (a_missing_column, "column latency_us is missing"),
        (a_renamed_column, "column observation is missing"),
        (a_clock_ahead, "not bar ends of this session"),
        (another_type, "column seq is String"),
        (a_null, "a value is missing"),
        (another_manifest, "predictions by manifest ffffffffffff"),
        (another_session, "another session"),
        (an_edited_weight, "prediction-log-chain"),
        (a_removed_batch, "prediction-log-chain"),
        (an_emptied_session, "no batch"),
    ],
)
def test_damage_is_a_reason_not_to_judge(
    world, predictions: Path, rewrite: Rewrite, monkeypatch: pytest.MonkeyPatch, damage, reason: str
) -> None:
    path = batch(predictions)
    damage(path, pl.read_parquet(path), rewrite)
    if "chain" not in reason:  # what an honest server would have logged with these rows: the chain is whole
        monkeypatch.setattr("sekisho.monitoring.kept.Kept.verify", lambda self, *log: None)
    verdict = judge(world, predictions)
    assert verdict.state == "cannot-judge"
    assert verdict.exit_code == 2
    assert not {alarm.family for alarm in verdict.alarms} & set(DRIFT)
    assert any(reason in problem for problem in verdict.problems), verdict.problems
    assert "ok" not in verdict.sentence()


def test_damage_stays_a_reason_when_read_from_the_kept_profile(
    world, predictions: Path, rewrite: Rewrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sekisho.monitoring.kept.Kept.verify", lambda self, *log: None)
    duplicated(batch(predictions), pl.read_parquet(batch(predictions)), rewrite)
    assert judge(world, predictions) == judge(world, predictions)
    assert judge(world, predictions).state == "cannot-judge"


def test_a_half_written_file_is_never_read(world, predictions: Path) -> None:
    (batch(predictions).parent / ".000000000009.tmp").write_bytes(b"PAR1 half")
    assert judge(world, predictions).state == "ok"


def test_an_empty_folder_cannot_be_judged(world, tmp_path: Path) -> None:
    assert judge(world, tmp_path).problems == [f"{tmp_path}: no predictions"]
    assert "no such folder" in judge(world, tmp_path / "none").problems[0]


def test_predictions_of_other_releases_only_cannot_be_judged(world, tmp_path: Path) -> None:
    log = world.log(tmp_path / "log", world.calm, world.calm.sessions[:2], seq=2)
    assert "no prediction by policy/1" in judge(world, log).problems[0]


def test_a_short_session_cannot_be_judged_unless_people_exclude_it(world, tmp_path: Path) -> None:
    log = world.log(tmp_path / "log", world.calm, world.calm.sessions[-3:-1])
    market = replace(world.calm, panel=world.calm.panel.rows(0, len(world.calm.panel) - 50))
    market = replace(market, features=world.calm.features[:-50])
    world.log(log, market, [world.calm.sessions[-1]])
    short = world.calm.sessions[-1]
    assert judge(world, log).problems == [f"session {short}: 16 predicted bars, 30 are needed"]
    file = tmp_path / "excluded.yaml"
    file.write_text(f"{short}: the feed was down\n")
    verdict = judge(world, log, excluded=load_excluded(file))
    assert (verdict.state, verdict.sessions) == ("ok", 2)
    assert verdict.excluded == {str(short): "the feed was down"}


@pytest.mark.parametrize("text", ["- 2026-07-01", "2026-07-01:", "soon: because", "{"])
def test_an_exclusion_without_session_and_reason_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "excluded.yaml").write_text(text)
    with pytest.raises(CannotCheck):
        load_excluded(tmp_path / "excluded.yaml")


def test_answers_that_the_released_model_would_not_give_are_an_alarm(
    world, predictions: Path, rewrite: Rewrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sekisho.monitoring.kept.Kept.verify", lambda self, *log: None)
    an_edited_weight(batch(predictions), pl.read_parquet(batch(predictions)), rewrite)
    verdict = judge(world, predictions)
    assert [alarm.family for alarm in verdict.alarms] == ["parity"]
    assert verdict.alarms[0].statistic == pytest.approx(0.5, abs=1e-6)
    assert verdict.alarms[0].session == batch(predictions).parent.name


def test_many_safe_answers_are_an_alarm_that_names_the_reason(
    world, predictions: Path, rewrite: Rewrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sekisho.monitoring.kept.Kept.verify", lambda self, *log: None)
    path = batch(predictions)
    frame = pl.read_parquet(path)
    stale = pl.when(pl.int_range(pl.len()) < 7).then(pl.lit("stale")).otherwise("verdict")
    rewrite(path, frame.with_columns(verdict=stale))
    verdict = judge(world, predictions)
    assert [(alarm.family, alarm.series) for alarm in verdict.alarms] == [("safe-answers", "stale")]
    assert verdict.alarms[0].statistic == pytest.approx(7 / len(frame))
    assert verdict.answers["stale"] == pytest.approx(7 / verdict.rows)


def test_a_release_that_is_not_whole_is_a_verdict_that_names_it(
    world, predictions: Path, tmp_path: Path
) -> None:
    release = Path(shutil.copytree(world.release, tmp_path / "policy" / "1"))
    with (release / "content" / "reference.json").open("ab") as file:
        file.write(b" ")
    verdict = check_predictions(predictions, release, world.params.monitoring)
    assert (verdict.state, verdict.exit_code, verdict.model, verdict.seq) == ("cannot-judge", 2, "policy", 1)
    assert "file-size" in verdict.problems[0]


def test_too_short_a_reference_cannot_judge(world, predictions: Path) -> None:
    strict = world.params.monitoring.model_copy(update={"min_reference_sessions": 10_000})
    verdict = check_predictions(predictions, world.release, strict)
    assert verdict.state == "cannot-judge"
    assert "10000 are needed" in verdict.problems[0]


def test_the_log_may_go_on_after_a_check(world, predictions: Path) -> None:
    before = judge(world, predictions)
    PredictionLog(predictions, capacity=10, batch=10, interval=60.0).close()
    world.log(predictions, world.calm, [world.calm.sessions[5]])
    after = judge(world, predictions)
    assert after.sessions == 6
    assert list(after.levels.values())[:5] == list(before.levels.values())
    assert np.isfinite(list(after.levels.values())).all()


def evening(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(12), dt.UTC)


def test_a_log_that_fell_silent_cannot_be_judged(world, predictions: Path) -> None:
    days = world.calm.sessions
    assert judge(world, predictions, as_of=evening(days[4])).state == "ok"
    silent = judge(world, predictions, as_of=evening(days[6]))
    assert silent.state == "cannot-judge"
    assert f"silent since {days[4]}: no predictions of 2 sessions up to {days[6]}" in silent.problems[0]
    away = {days[5]: "exchange down", days[6]: "exchange down"}
    assert judge(world, predictions, as_of=evening(days[6]), excluded=away).state == "ok"


def test_a_session_counts_from_its_close_and_not_before(world, predictions: Path) -> None:
    days = world.calm.sessions
    close = dt.datetime.combine(days[5], dt.time(6, 30), dt.UTC)  # 15:30 in Tokyo
    assert judge(world, predictions, as_of=close).state == "ok"
    assert judge(world, predictions, as_of=close + dt.timedelta(seconds=1)).state == "cannot-judge"
    earlier = judge(world, predictions, as_of=evening(days[2]))  # later sessions are not known yet
    assert (earlier.state, earlier.last_session) == ("ok", str(days[2]))


def test_a_session_without_predictions_inside_the_log_cannot_be_judged(world, tmp_path: Path) -> None:
    days = world.calm.sessions
    log = world.log(tmp_path / "log", world.calm, [*days[:2], *days[3:5]])
    assert judge(world, log).problems == [f"session {days[2]}: no predictions"]
    assert judge(world, log, excluded={days[2]: "server moved"}).state == "ok"


def a_refused_row(
    frame: pl.DataFrame, verdict: str, ts_close: dt.datetime, number: float | None = None
) -> pl.DataFrame:
    """The last row asked again, as the guard answered it."""
    row = frame.tail(1).with_columns(
        verdict=pl.lit(verdict),
        ts_close=pl.lit(ts_close).cast(frame["ts_close"].dtype),
        target_weights=pl.col("target_weights").list.eval(pl.element() * 0),
    )
    if number is not None:
        values = [number, *row["observation"][0].to_list()[1:]]
        row = row.with_columns(observation=pl.Series([values], dtype=pl.List(pl.Float32)))
    return pl.concat([frame, row])


def test_one_bad_request_is_counted_and_does_not_mute_the_check(
    world, predictions: Path, rewrite: Rewrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = judge(world, predictions)
    monkeypatch.setattr("sekisho.monitoring.kept.Kept.verify", lambda self, *log: None)
    late, nan = batch(predictions, 1), batch(predictions, 3)
    frame = pl.read_parquet(late)
    rewrite(late, a_refused_row(frame, "stale", frame["ts_close"][0]))  # a retry, with the id of its first
    frame = pl.read_parquet(nan)
    rewrite(nan, a_refused_row(frame, "non-finite", frame["ts_close"][-1], float("nan")))
    verdict = judge(world, predictions)
    assert (verdict.state, verdict.problems, verdict.alarms) == ("ok", [], [])
    assert verdict.answers["stale"] == verdict.answers["non-finite"] == pytest.approx(1 / verdict.rows)
    assert verdict.levels == before.levels


def test_a_request_that_names_a_far_session_is_no_session_of_service(
    world, predictions: Path, rewrite: Rewrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sekisho.monitoring.kept.Kept.verify", lambda self, *log: None)
    frame = pl.read_parquet(batch(predictions))
    far = dt.date(2020, 1, 6)
    row = a_refused_row(frame, "stale", dt.datetime(2020, 1, 6, 1, tzinfo=dt.UTC)).tail(1)
    (predictions / str(far)).mkdir()
    row.with_columns(session=pl.lit(far)).write_parquet(predictions / str(far) / "000000000006.parquet")
    verdict = judge(world, predictions)
    assert (verdict.state, verdict.sessions, verdict.first_session) == ("ok", 5, str(world.calm.sessions[0]))
    assert verdict.answers["stale"] == pytest.approx(1 / verdict.rows)


def test_a_session_that_the_guard_refused_whole_is_an_alarm_though_drift_cannot_be_judged(
    world, predictions: Path, rewrite: Rewrite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sekisho.monitoring.kept.Kept.verify", lambda self, *log: None)
    frame = pl.read_parquet(batch(predictions))
    values = [[float("nan")] * len(row) for row in frame["observation"].to_list()]
    refused = frame.with_columns(
        pl.Series("observation", values, dtype=pl.List(pl.Float32)), verdict=pl.lit("non-finite")
    )
    rewrite(batch(predictions), refused)
    verdict = judge(world, predictions)
    assert (verdict.state, verdict.exit_code) == ("cannot-judge", 2)
    assert [(alarm.family, alarm.series) for alarm in verdict.alarms] == [("safe-answers", "non-finite")]
    assert "but safe-answers alarm" in verdict.sentence()


def test_live_bars_that_break_the_contract_are_not_low_volatility(
    world, predictions: Path, tmp_path: Path
) -> None:
    bars = Path(shutil.copytree(world.bars["calm"], tmp_path / "bars"))
    path = bars / f"{world.calm.sessions[3]}.parquet"
    frame = pl.read_parquet(path)
    broken = pl.when(pl.int_range(pl.len()) % 4 == 0).then(-pl.col("close")).otherwise("close")
    frame.with_columns(close=broken).write_parquet(path)
    verdict = judge(world, predictions, bars=bars, data=world.params.data)
    assert verdict.state == "cannot-judge"
    assert "break the contract" in verdict.problems[0]
    assert path.name in verdict.problems[0]
