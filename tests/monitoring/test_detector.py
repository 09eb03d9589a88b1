"""Properties of the profile and the detector, in simulated worlds."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sekisho.errors import CannotCheck
from sekisho.monitoring.detector import Baseline, Detection, detect, fit_baseline, forecast_errors
from sekisho.monitoring.profile import Scaler, profile_session
from sekisho.params import MonitoringParams, Params, load_params

Array = npt.NDArray[np.float64]
DAY = dt.date(2026, 7, 1)
ASSETS, BARS = 6, 66
REPO = Path(__file__).resolve().parents[2]


def plain(assets: int, features: int, clip: float = 8.0) -> Scaler:
    return Scaler(np.zeros((assets, features)), np.ones((assets, features)), clip)


def gaps(count: int) -> npt.NDArray[np.int64]:
    return np.ones(count, dtype=np.int64)


def judge(statistics: Array, reference: int, params: MonitoringParams) -> Detection:
    """Fit on the first ``reference`` sessions, run over the others."""
    baseline = fit_baseline(statistics[:reference], gaps(reference), params)
    rest = statistics[reference:]
    return detect(forecast_errors(rest, gaps(len(rest)), baseline), baseline, params)


def first_alarm(level: Array, threshold: float) -> int | None:
    over = np.flatnonzero(level >= threshold)
    return int(over[0]) + 1 if len(over) else None


def market(
    sessions: int, seed: int, *, at: int | None = None, volatility: float = 1.0, correlation: float = 0.3
) -> Array:
    """Statistics ``(sessions, 3, A, 3)`` of GARCH-t returns, their AR(1) sum (φ .9) and noise."""
    rng = np.random.default_rng(seed)
    rows = sessions * BARS
    changed = np.arange(rows) >= (rows if at is None else at * BARS)
    common = np.where(changed, correlation, 0.3)[:, None]
    shocks = np.sqrt(common) * rng.standard_normal((rows, 1))
    shocks = shocks + np.sqrt(1 - common) * rng.standard_normal((rows, ASSETS))
    shocks *= np.sqrt(4 / rng.chisquare(6, (rows, 1)))
    variance, smooth = np.ones(ASSETS), np.zeros(ASSETS)
    returns, level = np.empty((rows, ASSETS)), np.empty((rows, ASSETS))
    for t in range(rows):
        returns[t] = np.sqrt(variance) * shocks[t]
        variance = 0.03 + 0.05 * returns[t] ** 2 + 0.92 * variance
        smooth = 0.9 * smooth + returns[t]
        level[t] = smooth
    returns = returns * np.where(changed, volatility, 1.0)[:, None]
    values = np.stack([returns, level, rng.standard_normal((rows, ASSETS))], axis=2)
    scaler = plain(ASSETS, 3)
    days = values.reshape(sessions, BARS, ASSETS, 3)
    return np.stack([profile_session(DAY, day, scaler).statistics() for day in days])


@given(split=st.integers(1, 39), seed=st.integers(0, 2**32 - 1))
def test_profiles_of_parts_add_up_to_the_profile_of_the_whole(split: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_t(3, (40, 3, 2)).astype(np.float32)
    scaler = plain(3, 2)
    whole = profile_session(DAY, values, scaler)
    merged = profile_session(DAY, values[:split], scaler).merge(profile_session(DAY, values[split:], scaler))
    assert merged.rows == whole.rows
    np.testing.assert_allclose(merged.statistics(), whole.statistics(), rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal([merged.low, merged.high], [whole.low, whole.high])


def test_profiles_of_two_sessions_are_not_merged() -> None:
    values = np.ones((3, 2, 1), np.float32)
    one = profile_session(DAY, values, plain(2, 1))
    with pytest.raises(ValueError, match="cannot be merged"):
        one.merge(profile_session(DAY + dt.timedelta(days=1), values, plain(2, 1)))


def test_the_statistics_are_mean_log_variance_and_correlation_with_the_others() -> None:
    values = np.random.default_rng(0).standard_normal((500, 3, 2))
    values[:, 1, 0] = 0.6 * values[:, 0, 0] + 0.8 * values[:, 1, 0]
    found = profile_session(DAY, values, plain(3, 2)).statistics()
    np.testing.assert_allclose(found[0], values.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(found[1], np.log(values.var(axis=0) + 1e-4), rtol=1e-9, atol=1e-9)
    expected = np.corrcoef(values[:, :, 0].T)
    np.testing.assert_allclose(np.tanh(found[2, 0, 0]), (expected[0, 1] + expected[0, 2]) / 2, atol=1e-6)


@pytest.mark.parametrize("values", [np.empty((0, 2, 1)), np.array([[[1.0], [np.nan]]])])
def test_no_rows_and_values_that_are_not_finite_give_no_profile(values: Array) -> None:
    with pytest.raises(CannotCheck):
        profile_session(DAY, values, plain(2, 1))


def test_without_a_change_the_mean_of_the_statistic_is_at_most_the_time(params: Params) -> None:
    """E[R_t] ≤ t is what makes the alarm level a mean time between false alarms."""
    monitoring = params.monitoring
    worlds, sessions = 3000, 60
    # each world is one "asset" with independent unit scores: the true null, nothing estimated
    errors = np.random.default_rng(1).standard_normal((sessions, 1, worlds, 1))
    strengths = np.asarray(monitoring.strengths)
    cost = np.broadcast_to(strengths[:, None] ** 2 / 2, (1, worlds, 1, len(strengths), 2))
    ones = np.ones((1, worlds, 1))
    baseline = Baseline(0 * ones, 0 * ones, 0 * ones, ones, cost, ones.astype(np.bool_))
    evidence = detect(errors, baseline, monitoring).evidence
    mean, error = evidence.mean(axis=(1, 2, 3)), evidence.std(axis=(1, 2, 3)) / np.sqrt(worlds)
    assert (mean <= np.arange(1, sessions + 1) + 3 * error).all()
    assert mean[-1] > 1  # and it does bet


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_the_autocorrelation_of_an_ar1_in_noise_is_found_and_its_errors_are_white(
    phi: float, params: Params
) -> None:
    rng = np.random.default_rng(3)
    state, series = np.zeros(ASSETS), np.empty((600, 3, ASSETS, 1))
    for t in range(600):
        state = phi * state + np.sqrt(1 - phi**2) * rng.standard_normal(ASSETS)
        series[t] = (state + 0.5 * rng.standard_normal((3, ASSETS)))[..., None]
    baseline = fit_baseline(series, gaps(600), params.monitoring)
    errors = forecast_errors(series, gaps(600), baseline)
    lagged = (errors[1:] * errors[:-1]).mean(axis=0)
    assert abs(lagged.mean()) < 0.05
    np.testing.assert_allclose((errors**2).mean(axis=0), 1.0, rtol=1e-6)
    if phi:
        share = (baseline.state / (baseline.state + baseline.noise)).mean()
        assert share * baseline.phi.mean() == pytest.approx(phi / 1.25, abs=0.12)


def test_missing_sessions_loosen_the_forecast(params: Params) -> None:
    series = np.random.default_rng(0).standard_normal((100, 3, 2, 1)).cumsum(axis=0)
    baseline = fit_baseline(series, gaps(100), params.monitoring)
    two = series[50:52] + np.array([0.0, 3.0])[:, None, None, None]
    near = forecast_errors(two, np.array([1, 1]), baseline)
    far = forecast_errors(two, np.array([1, 30]), baseline)
    assert (np.abs(far[1]) <= np.abs(near[1])).mean() > 0.5


def test_series_that_do_not_vary_are_not_watched(params: Params) -> None:
    series = np.random.default_rng(0).standard_normal((80, 3, 2, 2))
    series[..., 1] = 5.0
    series[:, 2] = np.nan  # one asset has no correlation
    baseline = fit_baseline(series, gaps(80), params.monitoring)
    assert baseline.watched[:2, :, 0].all()
    assert not baseline.watched[..., 1].any()
    assert not baseline.watched[2].any()
    errors = forecast_errors(np.nan_to_num(series), gaps(80), baseline)
    assert np.isfinite(detect(errors, baseline, params.monitoring).level).all()


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(0.1, 1e6), sessions=st.integers(1, 200))
def test_the_statistic_stays_finite_whatever_comes(shift: float, sessions: int) -> None:
    monitoring = load_params(REPO / "params.yaml").monitoring
    reference = np.random.default_rng(0).standard_normal((80, 3, 2, 1))
    found = judge(np.concatenate([reference, np.full((sessions, 3, 2, 1), shift)]), 80, monitoring)
    assert np.isfinite(found.level).all()


@pytest.mark.slow
def test_false_alarms_in_a_garch_world_are_at_most_the_stated_rate(params: Params) -> None:
    sessions, worlds = 100, 16
    level = params.monitoring.alarm_level
    alarms = sum(
        first_alarm(judge(market(220 + sessions, seed), 220, params.monitoring).level, level) is not None
        for seed in range(worlds)
    )
    stated = worlds * (1 - np.exp(-sessions / level))  # 5.2 of 16 worlds
    assert alarms <= stated


@pytest.mark.slow
@pytest.mark.parametrize(("volatility", "correlation"), [(2.0, 0.3), (1.0, 0.5), (2.0, 0.5)])
def test_a_change_is_found_within_few_sessions(volatility: float, correlation: float, params: Params) -> None:
    change = {"at": 230, "volatility": volatility, "correlation": correlation}
    delays = []
    for seed in range(4):
        level = judge(market(250, seed, **change), 220, params.monitoring).level  # type: ignore[arg-type]
        assert first_alarm(level[:10], params.monitoring.alarm_level) is None
        delays.append(first_alarm(level[10:], params.monitoring.alarm_level) or 99)
    assert np.median(delays) <= 7, delays
