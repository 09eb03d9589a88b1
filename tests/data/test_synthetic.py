"""The sample has the stylised facts it claims, a signal worth its costs, and one path."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from sekisho.data.contract import COLUMNS
from sekisho.data.synthetic import (
    SAMPLE_SEED,
    SECTOR,
    SYMBOLS,
    Change,
    sample_sessions,
    synthetic_bars,
    write_synthetic,
)
from sekisho.errors import DataError

FIRST = dt.date(2025, 1, 6)
ASSETS = len(SYMBOLS)


def matrices(bars: pl.DataFrame) -> SimpleNamespace:
    """``(T, A)`` arrays of the bars; ``returns`` from close to close, ``inside`` False over breaks."""
    wide = bars.sort("ts_close", "symbol")
    get = {c: wide[c].to_numpy().astype(np.float64).reshape(-1, ASSETS) for c in COLUMNS if c not in (
        "symbol", "ts_close", "available_at", "tradable")}  # fmt: skip
    times = wide["ts_close"].dt.replace_time_zone(None).to_numpy().reshape(-1, ASSETS)[:, 0]
    log = np.log(get["close"])
    inside = np.r_[False, np.diff(times) == np.timedelta64(5, "m")]
    session = wide["session"].to_numpy().reshape(-1, ASSETS)[:, 0]
    returns = np.vstack([np.zeros(ASSETS), np.diff(log, axis=0)])
    return SimpleNamespace(**get, log=log, inside=inside, session=session, returns=returns)


@pytest.fixture(scope="module")
def sample() -> SimpleNamespace:
    days = sample_sessions()
    return matrices(synthetic_bars(days[0], len(days), SAMPLE_SEED))


def autocorrelation(values: np.ndarray, lag: int) -> float:
    """Mean over assets."""
    return float(np.mean([np.corrcoef(v[:-lag], v[lag:])[0, 1] for v in values.T]))


def daily(values: np.ndarray, session: np.ndarray) -> np.ndarray:
    """Sums by session."""
    starts = np.flatnonzero(np.r_[True, session[1:] != session[:-1]])
    return np.add.reduceat(values, starts)


def test_tails_are_fat(sample: SimpleNamespace) -> None:
    r = sample.returns[sample.inside]
    kurtosis = ((r - r.mean(0)) ** 4).mean(0) / r.var(0) ** 2
    assert (kurtosis > 6).all()
    assert (kurtosis < 60).all()


def test_volatility_clusters_over_bars_and_over_days(sample: SimpleNamespace) -> None:
    size = np.abs(sample.returns[sample.inside])
    assert autocorrelation(size, 1) > 0.15
    assert autocorrelation(size, 20) > 0.08
    assert autocorrelation(np.sqrt(daily(sample.returns**2, sample.session)), 3) > 0.15


def test_returns_themselves_are_nearly_uncorrelated(sample: SimpleNamespace) -> None:
    r = sample.returns[sample.inside]
    assert all(abs(autocorrelation(r, lag)) < 0.03 for lag in (1, 2, 6, 24))


def slots(values: np.ndarray) -> np.ndarray:
    """Mean over days and assets of each of the 66 bars."""
    return values.reshape(-1, 66, ASSETS).mean(axis=(0, 2))


def test_volatility_and_volume_are_u_shaped_in_each_half_session(sample: SimpleNamespace) -> None:
    body = slots(np.abs(np.log(sample.close / sample.open)))
    for shape in (body, slots(sample.volume)):
        morning, afternoon = shape[:30], shape[30:]
        assert morning[0] > 1.5 * morning[12:18].mean()
        assert afternoon[-1] > 1.4 * afternoon[12:18].mean()
        assert afternoon[0] > 1.1 * afternoon[12:18].mean()


def test_volume_goes_with_volatility(sample: SimpleNamespace) -> None:
    size, volume = daily(np.abs(sample.returns), sample.session), daily(sample.volume, sample.session)
    assert all(np.corrcoef(np.log(size[:, a]), np.log(volume[:, a]))[0, 1] > 0.4 for a in range(ASSETS))


def test_assets_move_together_and_more_so_inside_a_sector(sample: SimpleNamespace) -> None:
    correlation = np.corrcoef(sample.returns[sample.inside].T)
    same = SECTOR[:, None] == SECTOR
    inside, across = correlation[same & ~np.eye(ASSETS, dtype=bool)], correlation[~same]
    assert 0.2 < across.min() < across.max() < 0.5
    assert inside.min() > across.max()


def test_turbulent_days_have_more_volatility_and_correlation(sample: SimpleNamespace) -> None:
    realised = np.sqrt(daily(sample.returns**2, sample.session)).mean(axis=1)
    low, high = np.quantile(realised, [0.25, 0.85])
    assert high / low > 1.6
    of_day = np.repeat(realised, 66)

    def correlation(rows: np.ndarray) -> float:
        return float(np.corrcoef(sample.returns[rows & sample.inside].T)[np.triu_indices(ASSETS, 1)].mean())

    assert correlation(of_day >= high) > correlation(of_day <= low) + 0.1


def test_nights_are_gaps(sample: SimpleNamespace) -> None:
    opening = np.arange(len(sample.session)) % 66 == 0
    gap = np.log(sample.open[1:] / sample.close[:-1])[opening[1:]]
    day = daily(sample.returns, sample.session)[1:]
    assert (gap.var(0) / day.var(0) > 0.1).all()
    assert (gap.var(0) / day.var(0) < 0.5).all()


def test_prices_stand_on_their_ticks_and_spreads_are_small(sample: SimpleNamespace) -> None:
    for prices in (sample.open, sample.high, sample.low, sample.close):
        tick = np.where(prices < 5000, 0.1, 1.0)
        np.testing.assert_allclose(prices / tick, np.round(prices / tick), atol=1e-6)
    assert sample.half_spread.min() >= 0.4e-4 * (1 - 1e-6)
    assert sample.half_spread.max() <= 1.2e-4 * (1 + 1e-6)


def forecast(market: SimpleNamespace, fit: slice) -> np.ndarray:
    """Expected next return in units of volatility, from trailing returns over 1, 6, 24 bars, by ridge."""
    square = np.vstack([np.zeros((1, ASSETS)), np.cumsum(market.returns**2, axis=0)])
    volatility = np.full_like(market.returns, np.nan)
    volatility[65:] = np.sqrt((square[66:] - square[:-66]) / 66)
    features = np.full((*market.returns.shape, 3), 0.0)
    for j, k in enumerate((1, 6, 24)):
        features[k:, :, j] = (market.log[k:] - market.log[:-k]) / volatility[k:] / np.sqrt(k)
    features = np.nan_to_num(features)
    body = np.vstack([np.zeros((1, ASSETS)), np.cumsum(np.log(market.close / market.open), axis=0)])
    ahead = (body[13:] - body[1:-12]) / volatility[:-12] / 12  # mean of the next 12 bars
    x, y = features[:-12][fit].reshape(-1, 3), ahead[fit].reshape(-1)
    market.volatility = volatility
    return features @ np.linalg.solve(x.T @ x + 10 * np.eye(3), x.T @ y)


def net_sharpe(market: SimpleNamespace, expected: np.ndarray, rows: range) -> float:
    """Annualised, of trading ``expected`` smoothed, at the next open, with the market's costs on 1e9 yen."""
    weights, net = np.zeros(ASSETS), []
    for t in rows:
        target = np.clip(0.015 * expected[t] / market.volatility[t], -0.3, 0.3)
        target /= max(1.0, np.abs(target).sum())
        new = weights + 0.1 * (target - weights)
        traded = np.abs(new - weights)
        impact = 0.1 * market.volatility[t] * np.sqrt(66) * np.sqrt(traded * 1e9 / market.adv[t])
        cost = (traded * (0.2e-4 + market.half_spread[t] + impact)).sum()
        night = weights @ (market.open[t + 1] / market.close[t] - 1)
        net.append(night + new @ (market.close[t + 1] / market.open[t + 1] - 1) - cost)
        weights = new
    by_day = daily(np.array(net), market.session[rows.start + 1 : rows.stop + 1])
    return float(by_day.mean() / by_day.std() * np.sqrt(245))


def test_a_linear_rule_fitted_on_the_first_half_earns_its_costs_in_the_second(
    sample: SimpleNamespace,
) -> None:
    half = len(sample.session) // 2
    expected = forecast(sample, slice(100, half))
    assert 3 < net_sharpe(sample, expected, range(half, len(sample.session) - 1)) < 7


def test_the_signal_is_weak(sample: SimpleNamespace) -> None:
    half = len(sample.session) // 2
    expected = forecast(sample, slice(100, half))[half:-1]
    realised = np.log(sample.close / sample.open)[half + 1 :] / sample.volatility[half:-1]
    explained = np.corrcoef(expected.ravel(), realised.ravel())[0, 1] ** 2
    assert 1e-4 < explained < 5e-3


def test_without_the_signal_the_same_rule_loses_and_turned_round_it_loses_more() -> None:
    days = sample_sessions()
    results = {}
    for strength in (1.0, 0.0, -1.0):
        change = Change(days[181], signal=strength)
        market = matrices(synthetic_bars(days[0], len(days), SAMPLE_SEED, change=change))
        half = len(market.session) // 2
        expected = forecast(market, slice(100, half - 12))
        results[strength] = net_sharpe(market, expected, range(half, len(market.session) - 1))
    assert results[1.0] > 3
    assert results[0.0] < 1.5
    assert results[-1.0] < -3


def test_same_arguments_same_bars_and_another_seed_another_market() -> None:
    assert synthetic_bars(FIRST, 3, 5).equals(synthetic_bars(FIRST, 3, 5))
    assert not synthetic_bars(FIRST, 3, 5).equals(synthetic_bars(FIRST, 3, 6))


def test_a_longer_run_continues_the_same_path() -> None:
    short, long = synthetic_bars(FIRST, 4, 5), synthetic_bars(FIRST, 9, 5)
    assert long[: len(short)].equals(short)


@pytest.mark.parametrize(
    "change",
    [
        Change(dt.date(2025, 1, 9), volatility=3.0),
        Change(dt.date(2025, 1, 9), correlation=0.8),
        Change(dt.date(2025, 1, 9), signal=-1.0),
    ],
    ids=["volatility", "correlation", "signal"],
)
def test_a_change_alters_only_what_comes_after_it(change: Change) -> None:
    plain, changed = synthetic_bars(FIRST, 6, 5), synthetic_bars(FIRST, 6, 5, change=change)
    before = pl.col("session") < change.at
    assert changed.filter(before).equals(plain.filter(before))
    later, other = changed.filter(~before)["close"].to_numpy(), plain.filter(~before)["close"].to_numpy()
    assert (later != other).mean() > 0.9


def test_a_change_does_what_it_says() -> None:
    at = sample_sessions()[60]

    def after(change: Change | None) -> SimpleNamespace:
        return matrices(synthetic_bars(FIRST, 120, 5, change=change).filter(pl.col("session") >= at))

    def correlation(market: SimpleNamespace) -> float:
        return float(np.corrcoef(market.returns[market.inside].T)[np.triu_indices(ASSETS, 1)].mean())

    plain = after(None)
    wild, tight = after(Change(at, volatility=2.0)), after(Change(at, correlation=0.8))
    ratio = wild.returns[wild.inside].std(0) / plain.returns[plain.inside].std(0)
    np.testing.assert_allclose(ratio, 2.0, rtol=0.02)
    assert correlation(tight) > 0.75 > correlation(plain) + 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Change(dt.date(2030, 1, 4)), "outside the run"),
        (Change(FIRST), "outside the run"),
        (Change(dt.date(2025, 1, 8), correlation=0.99), "not a market"),
        (Change(dt.date(2025, 1, 8), volatility=0.0), "not a market"),
    ],
)
def test_a_change_without_meaning_is_refused(change: Change, message: str) -> None:
    with pytest.raises(DataError, match=message):
        synthetic_bars(FIRST, 6, 5, change=change)


def test_more_sessions_than_the_calendar_knows_are_refused() -> None:
    with pytest.raises(DataError, match="100000 sessions"):
        synthetic_bars(FIRST, 100_000, 5)


def test_keep_from_writes_the_tail_of_the_very_same_path(tmp_path: Path) -> None:
    assert write_synthetic(tmp_path / "all", FIRST, 5, 5) == 5
    assert write_synthetic(tmp_path / "tail", FIRST, 5, 5, keep_from=dt.date(2025, 1, 9)) == 2
    for path in (tmp_path / "tail").iterdir():
        assert path.read_bytes() == (tmp_path / "all" / path.name).read_bytes()
    assert sorted(p.stem for p in (tmp_path / "tail").iterdir()) == ["2025-01-09", "2025-01-10"]
