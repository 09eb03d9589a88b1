"""What the live bars add: recomputed features, the live account, the losses that halt the server."""

from __future__ import annotations

import datetime as dt
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sekisho.cli import main
from sekisho.errors import CannotCheck
from sekisho.monitoring.check import check_predictions
from sekisho.monitoring.decisions import acknowledged, load_acknowledgements
from sekisho.monitoring.evidence import markdown
from sekisho.monitoring.halt import FileSwitch, halt
from sekisho.monitoring.performance import shortfall
from sekisho.monitoring.verdict import Alarm, Verdict, read_verdict
from sekisho.serving.switch import Position, read_switch, write_switch

REPO = Path(__file__).resolve().parents[2]
NOW = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)


def judge(world, predictions: Path, bars: Path | None = None, **changed) -> Verdict:  # type: ignore[no-untyped-def]
    params = world.params.monitoring.model_copy(update=changed)
    live = bars or world.bars["calm"]
    return check_predictions(predictions, world.release, params, bars=live, data=world.params.data)


def test_served_features_are_those_that_training_computes_bit_by_bit(world, predictions: Path) -> None:
    verdict = judge(world, predictions)
    assert verdict.state == "ok"
    assert verdict.skew["differ"] == 0
    assert verdict.skew["compared"] == verdict.skew["answered"] == verdict.rows > 0
    assert "features served against recomputed" in markdown(verdict, None)


def test_features_that_training_would_compute_otherwise_mute_drift_and_name_the_feature(
    world, predictions: Path, tmp_path: Path
) -> None:
    bars = Path(shutil.copytree(world.bars["calm"], tmp_path / "bars"))
    path = bars / f"{world.calm.sessions[3]}.parquet"
    frame = pl.read_parquet(path)
    frame.with_columns(pl.col("volume") * 2).write_parquet(path)
    verdict = judge(world, predictions, bars)
    assert (verdict.state, verdict.action) == ("cannot-judge", "mend")
    assert [(alarm.family, alarm.series) for alarm in verdict.alarms] == [("skew", "volume_share")]
    assert verdict.alarms[0].session == str(world.calm.sessions[3])
    assert verdict.levels == {}
    assert "volume_share" in verdict.problems[0]
    assert verdict.skew["first"].startswith(str(world.calm.sessions[3]))
    frame.write_parquet(path)  # mended bars are noticed, although the session was read before
    assert judge(world, predictions, bars).state == "ok"


def test_the_live_account_trades_the_logged_weights_beside_the_replayed(world, predictions: Path) -> None:
    account = judge(world, predictions).performance
    assert account["live_minus_replay"] == pytest.approx(0.0, abs=1e-6)
    assert account["sessions"] == len(account["equity"]) >= 2
    last = list(account["equity"].values())[-1]
    assert account["net_return"] == pytest.approx(last - 1)
    assert account["net_return"] != 0.0
    assert all(low < 1.0 for low in account["band"].values())


def test_without_the_backtests_returns_the_account_cannot_be_judged_and_losses_halt_all_the_same(
    world, predictions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sekisho.monitoring.released.JudgedRelease.returns", property(lambda self: self.content / "none.csv")
    )
    verdict = judge(world, predictions)
    assert (verdict.state, verdict.performance) == ("cannot-judge", {})
    assert any("no session returns" in what for what in verdict.problems)
    lost = judge(world, predictions, max_session_loss=1e-5)
    assert (lost.state, lost.action, lost.alarms[0].family) == ("cannot-judge", "halt", "session-loss")


def test_a_loss_over_the_limit_turns_the_switch_off_and_nothing_here_turns_it_on(
    world, predictions: Path, tmp_path: Path
) -> None:
    worst = judge(world, predictions).performance["worst_session"]
    assert worst < 0
    verdict = judge(world, predictions, max_session_loss=-worst / 2)
    assert (verdict.state, verdict.action) == ("alarm", "halt")
    assert "session-loss" in {alarm.family for alarm in verdict.alarms}
    switch = tmp_path / "switch"
    write_switch(switch, Position.ON, "trading")
    assert halt(verdict, FileSwitch(switch), NOW)
    assert read_switch(switch) is Position.OFF
    assert "session-loss" in switch.read_text()
    assert not halt(verdict, FileSwitch(switch), NOW)
    assert not halt(
        judge(world, predictions), FileSwitch(switch), NOW
    )  # a later calm verdict does not lift it
    assert read_switch(switch) is Position.OFF


def test_an_account_that_earns_less_than_the_backtest_makes_a_retraining_due(
    world, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = tmp_path / "returns.csv"
    earned = 0.03 + 1e-3 * np.random.default_rng(0).standard_normal(180)  # 3 % in every session
    pl.DataFrame({"agent": earned}).write_csv(golden)
    monkeypatch.setattr("sekisho.monitoring.released.JudgedRelease.returns", property(lambda self: golden))
    verdict = judge(world, predictions)
    assert (verdict.state, verdict.action) == ("alarm", "retrain")
    (alarm,) = verdict.alarms
    assert alarm.family == "performance"
    assert verdict.cause() == alarm
    account = verdict.performance
    assert account["net_return"] < account["band_low"]
    assert account["cusum"] > account["cusum_limit"]


def test_a_model_past_its_age_is_due(world, predictions: Path) -> None:
    verdict = judge(world, predictions, max_model_age=5)
    assert (verdict.state, verdict.action) == ("alarm", "retrain")
    assert verdict.cause() is not None
    assert verdict.cause().family == "age"  # type: ignore[union-attr]


@given(mean=st.floats(-1e-2, 1e-2), seed=st.integers(0, 2**32 - 1))
def test_the_shortfall_is_never_negative_and_grows_when_less_is_earned(mean: float, seed: int) -> None:
    returns = 1e-2 * np.random.default_rng(seed).standard_normal((1, 50))
    expected, deviation = np.array([mean]), np.array([1e-2])
    found = shortfall(returns, expected, deviation)
    assert (found >= 0).all()
    assert (shortfall(returns - 1e-3, expected, deviation) >= found).all()


def test_the_values_distances_are_shown_and_gate_nothing(world, predictions: Path) -> None:
    verdict = judge(world, predictions)
    assert verdict.state == "ok"
    assert verdict.distances[0]["ks"] == max(row["ks"] for row in verdict.distances)
    assert verdict.latency["p50"] == pytest.approx(500e-6, rel=0.01)
    assert "no alarm depends on this table" in markdown(verdict, None)


def write_acknowledgement(folder: Path, name: str, **content: object) -> None:
    lines = "".join(f"{key}: {value}\n" for key, value in content.items())
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(lines)


GOOD = {"model": "policy", "family": "mean", "until": "2026-07-20", "reason": "index rebalancing"}


def test_an_acknowledged_alarm_is_shown_and_raises_nothing(tmp_path: Path) -> None:
    write_acknowledgement(tmp_path / "a", "2026-07-10-mean.yaml", **GOOD)
    known = load_acknowledgements(tmp_path / "a")
    alarms = [
        Alarm("mean", "return_3 of SYN1", 300.0, 252.0, "2026-07-09"),
        Alarm("mean", "return_3 of SYN1", 300.0, 252.0, "2026-07-21"),
        Alarm("volatility", "return_3 of SYN1", 300.0, 252.0, "2026-07-09"),
    ]
    stand, found = acknowledged(alarms, "policy", known)
    assert stand == alarms[1:]
    assert (found[0]["reason"], found[0]["file"]) == ("index rebalancing", "2026-07-10-mean.yaml")
    assert acknowledged(alarms, "other", known) == (alarms, [])
    assert load_acknowledgements(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mean.yaml", {}),
        ("2026-07-10-mean.yaml", {"family": "parity"}),
        ("2026-07-10-mean.yaml", {"family": "session-loss"}),
        ("2026-07-10-mean.yaml", {"until": "2027-07-10"}),
        ("2026-07-10-mean.yaml", {"until": "soon"}),
        ("2026-07-10-mean.yaml", {"reason": ""}),
        ("2026-07-10-mean.yaml", {"who": "me"}),
    ],
)
def test_an_acknowledgement_without_end_or_reason_or_of_what_must_be_mended_is_refused(
    tmp_path: Path, name: str, changed: dict[str, str]
) -> None:
    write_acknowledgement(tmp_path / "a", name, **(GOOD | changed))
    with pytest.raises(CannotCheck, match=name):
        load_acknowledgements(tmp_path / "a")


def test_the_command_turns_the_switch_off_only_at_a_loss(world, predictions: Path, tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    write_switch(switch, Position.ON, "trading")
    text = (REPO / "params.yaml").read_text()
    for limit, code, stands in (("0.04", 0, Position.ON), ("0.00001", 1, Position.OFF)):
        (tmp_path / "params.yaml").write_text(
            text.replace("max_session_loss: 0.04", f"max_session_loss: {limit}")
        )
        words = ["drift", "check", "--predictions", predictions, "--release", world.release]
        words += ["--bars", world.bars["calm"], "--as-of", world.calm.sessions[4], "--switch", switch]
        words += ["--out", tmp_path / "v.json", "--params", tmp_path / "params.yaml"]
        done = CliRunner().invoke(main, [str(word) for word in words])
        assert done.exit_code == code, done.output
        assert read_switch(switch) is stands
    assert replace(read_verdict(tmp_path / "v.json"), alarms=[]).action == "none"


def test_the_warm_up_of_a_session_reaches_back_over_weekends(world) -> None:
    from sekisho.monitoring.live_bars import LiveBars

    live = LiveBars(world.bars["calm"], (), world.params.features, world.params.data)
    days = live.warm_up(dt.date(2026, 7, 6))  # a Monday
    assert days[-1] == dt.date(2026, 7, 6)
    assert dt.date(2026, 7, 3) in days
    assert len(days) >= 3
