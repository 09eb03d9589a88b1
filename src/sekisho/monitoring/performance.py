"""Does the live account earn what the backtest earned? By the backtest's own session returns, resampled.

The logged target weights trade through the market of the backtest, with its costs, on the live bars; beside
them those that the released model gives on the logged observations: live minus replay is what the guard, the
safe action and faults of serving cost. Three limits: the equity above its band, a CUSUM of shortfalls below
its limit (both by a double block bootstrap, as for drift), and the losses at which the server is halted.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.errors import CannotCheck
from sekisho.monitoring.calibration import blocks
from sekisho.monitoring.live_bars import LiveBars
from sekisho.monitoring.records import SessionRecord
from sekisho.params import MarketParams, MonitoringParams

Array = npt.NDArray[np.float64]
SAMPLES = 2000  # resampled futures; the band's quantile is that of a handful of them
LEAST = 20  # sessions of the backtest below which nothing is resampled


@dataclass(frozen=True)
class Account:
    """Net returns of the live account by session, and what the replayed model would have earned."""

    sessions: tuple[dt.date, ...]
    live: Array
    replayed: Array

    @property
    def equity(self) -> Array:
        """From 1, after each session."""
        return np.asarray(np.cumprod(1.0 + self.live), dtype=np.float64)

    @property
    def drawdown(self) -> Array:
        """Fraction lost from the high so far, after each session."""
        equity = self.equity
        return np.asarray(1.0 - equity / np.maximum.accumulate(np.maximum(equity, 1.0)), dtype=np.float64)

    def of(self, sessions: Collection[dt.date]) -> Account:
        """The account of these sessions alone."""
        kept = np.array([day in sessions for day in self.sessions], dtype=bool)
        days = tuple(day for day in self.sessions if day in sessions)
        return Account(days, self.live[kept], self.replayed[kept])


@dataclass(frozen=True)
class Performance:
    """An account and its limits: the equity's lower band, the CUSUM of shortfalls and its own."""

    account: Account
    band: Array
    cusum: Array
    limit: float

    def as_dict(self) -> dict[str, Any]:
        """For the verdict: figures, and the account session by session."""
        account, equity = self.account, self.account.equity
        gap, days = np.cumprod(1.0 + account.replayed), [str(day) for day in account.sessions]
        return {
            "sessions": len(days),
            "net_return": float(equity[-1] - 1.0),
            "live_minus_replay": float(equity[-1] - gap[-1]),
            "band_low": float(self.band[-1] - 1.0),
            "cusum": float(self.cusum[-1]),
            "cusum_limit": self.limit,
            "drawdown": float(account.drawdown.max()),
            "worst_session": float(account.live.min()),
            "equity": {day: float(x) for day, x in zip(days, equity, strict=True)},
            "band": {day: float(x) for day, x in zip(days, self.band, strict=True)},
        }


def live_account(records: Sequence[SessionRecord], live: LiveBars, market: MarketParams) -> Account:
    """Trade the logged weights through the backtest's market, in the sessions that have bars.

    Args:
        records: of the sessions, in time order.
        live: bars of them and of some sessions before.
        market: costs and limits of the release.

    Raises:
        CannotCheck: the bars are too few.
        SekishoError: as ``live.panel`` and `simulate`.
    """
    table = _trade(records, live, market)
    found = {name: table.filter(pl.col("strategy") == name) for name in ("live", "replayed")}
    net = {name: part["net_return"].to_numpy() for name, part in found.items()}
    return Account(tuple(found["live"]["session"]), net["live"], net["replayed"])


def measure_performance(account: Account, returns: Path, params: MonitoringParams) -> Performance:
    """Hold the account against the backtest's net returns by session, column ``agent``
    (``metrics/returns.csv``).

    Raises:
        CannotCheck: the backtest's returns are missing or unusable.
    """
    expected = _expected(returns)
    band, limit = _limits(expected, len(account.live), params)
    cusum = shortfall(account.live[None], expected.mean(keepdims=True), expected.std(keepdims=True))[0]
    return Performance(account, band, cusum, limit)


def _expected(path: Path) -> Array:
    try:
        found = pl.read_csv(path)["agent"].to_numpy().astype(np.float64)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise CannotCheck(
            "the release holds no session returns of its backtest", remedy="export it with this version"
        ) from error
    if len(found) < LEAST or not np.isfinite(found).all() or found.std() == 0:
        raise CannotCheck(f"{path}: too few or constant returns", remedy="run the backtest again")
    return found


def _trade(records: Sequence[SessionRecord], live: LiveBars, market: MarketParams) -> pl.DataFrame:
    """Net returns by strategy (``live``, ``replayed``) and session, through the backtest's own market."""
    from sekisho.backtest.simulate import Account as Trader
    from sekisho.backtest.simulate import simulate  # torch: seconds to import
    from sekisho.backtest.splits import Fold
    from sekisho.backtest.strategies import Context, Observation, Strategy

    asked = [record.session for record in records]
    panel = live.readable([*live.warm_up(asked[0]), *asked[1:]])
    priced = set(panel.session.astype("datetime64[D]").tolist())
    days = [day for day in asked if day in priced]
    rows = {time: row for row, time in enumerate(panel.ts_close)}
    wanted: dict[str, dict[int, npt.NDArray[np.float32]]] = {"live": {}, "replayed": {}}
    for record in records:
        if record.sight:
            for at, out, again in zip(
                record.sight.closes, record.sight.answered, record.sight.replayed, strict=True
            ):
                if at in rows:
                    wanted["live"][rows[at]], wanted["replayed"][rows[at]] = out, again

    def follow(weights: dict[int, npt.NDArray[np.float32]]) -> Strategy:
        def decide(observation: Observation, context: Context) -> Array:
            held = observation[:, -1]
            return np.asarray(weights.get(context.bar, held), dtype=np.float64)

        return decide

    first_row = {day: int(np.searchsorted(panel.session, np.datetime64(day))) for day in days}
    tradable = [
        day for day in days if first_row[day] > market.vol_window
    ]  # the impact's volatility needs them
    if not tradable:
        raise CannotCheck("the bars hold too few sessions before these", remedy="bring earlier bars")
    window = (tradable[0], tradable[-1])
    features = np.zeros((len(panel), len(panel.symbols), 1), dtype=np.float32)
    strategies = {name: follow(weights) for name, weights in wanted.items()}
    fold = Fold(0, window, window, window)
    accounts = [Trader(name) for name in strategies]
    return simulate(panel, features, [fold], [strategies], accounts, market).returns


def shortfall(returns: Array, mean: Array, deviation: Array) -> Array:
    """CUSUM ``(N, T)`` of sessions that earn less than expected, in standard deviations.

    Args:
        returns: ``(N, T)``; mean and deviation: expected of each row, ``(N,)``. The slack is half the mean:
            tuned to an edge that is gone.
    """
    moves = (mean[:, None] - np.maximum(mean, 0.0)[:, None] / 2 - returns) / deviation[:, None]
    total, found = np.zeros(len(returns)), np.empty_like(moves)
    for t in range(returns.shape[1]):
        total = np.maximum(0.0, total + moves[:, t])
        found[:, t] = total
    return found


def _limits(expected: Array, count: int, params: MonitoringParams) -> tuple[Array, float]:
    """The equity's lower band ``(count,)`` and the CUSUM's limit, both by a double block bootstrap."""
    rng = np.random.default_rng(params.calibration_seed)
    length, block = len(expected), params.calibration_block
    horizon = math.ceil(params.cusum_level)
    longest = max(count, horizon)
    # a future under a past that could have been: the estimated mean's own error belongs into the band
    past = expected[blocks(rng, length, SAMPLES, length, block)]
    future = expected[blocks(rng, length, SAMPLES, longest, block)]
    mean, deviation = past.mean(axis=1), past.std(axis=1)
    spread = future - (mean - expected.mean())[:, None]
    grown = np.cumprod(1.0 + spread[:, :count], axis=1)
    band = np.quantile(grown, 1 - params.performance_confidence, axis=0)
    worst = shortfall(future[:, :horizon], mean, deviation).max(axis=1)
    return band, float(np.quantile(worst, math.exp(-1.0)))
