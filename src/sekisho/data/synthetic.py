"""A seeded intraday market of our own making: the sample in ``data/bars``, and changed markets for tests.

The model, per 5-minute bar of Tokyo's two half-sessions: log return = signal + volatility × shock, where

- shocks are Student-t with one market factor, one factor per sector and an own part per asset;
- volatility is a product of a U-shape over each half-session, a bar-to-bar and a day-to-day log AR(1)
  (clustering), and a two-state Markov chain of days (calm, turbulent: higher volatility and correlation);
- the signal is a latent AR(1) per asset whose innovations share in the asset's own shock ("flow"), so that
  trailing returns reveal part of it. It is weak: under 1 % of the variance of a bar;
- nights and lunch breaks are gaps; volume follows the U-shape and volatility; prices stand on a tick grid.

Stylised facts after Cont (2001), *Empirical properties of asset returns*; tests/data/test_synthetic.py checks
them on the sample. Every session has its own random stream keyed by (seed, session), and states run forward
only: more sessions continue the same path, and a `Change` leaves every earlier bar as it was.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.signal import lfilter

from sekisho.calendar import Calendar
from sekisho.data.contract import COLUMNS
from sekisho.data.store import replaced, write_partition
from sekisho.errors import DataError

Array = npt.NDArray[np.float64]

# The sample: fixed, because releases and reports are compared on it.
SAMPLE_FIRST, SAMPLE_LAST, SAMPLE_SEED = dt.date(2025, 1, 6), dt.date(2026, 6, 30), 2
CALENDAR, BAR = "XTKS", "5min"

# Six assets: neutral codes, price at the start (yen), sector, daily volatility, mean daily traded value (yen)
SYMBOLS = ("SYN1", "SYN2", "SYN3", "SYN4", "SYN5", "SYN6")
START_PRICE = np.array([2150.0, 2870.0, 1640.0, 3420.0, 6900.0, 2480.0])
SECTOR = np.array([0, 0, 1, 1, 2, 2])
DAILY_VOLATILITY = np.array([0.014, 0.017, 0.013, 0.019, 0.015, 0.016])
TRADED_VALUE = np.array([6e10, 5e10, 4.5e10, 5.5e10, 7e10, 4e10])

NIGHT_SHARE, LUNCH_SHARE = 0.25, 0.02  # of a day's variance
DEGREES_OF_FREEDOM = 5.0  # of the Student-t shocks
MARKET_CORRELATION = np.array([0.25, 0.50])  # pairwise, from the market factor: calm, turbulent
SECTOR_CORRELATION = 0.15  # further, inside a sector
REGIME_VOLATILITY = np.array([0.80, 1.60])  # multiple: calm, turbulent
LEAVE = np.array([1 / 40, 1 / 12])  # daily probability of leaving the calm, the turbulent state
BAR_PERSISTENCE, BAR_SPREAD = 0.97, 0.30  # of log volatility from bar to bar; standard deviation
DAY_PERSISTENCE, DAY_SPREAD = 0.95, 0.20  # of log volatility from day to day; standard deviation
SIGNAL_HALF_LIFE = 18.0  # bars
SIGNAL_STRENGTH = 0.065  # standard deviation of the expected return, in units of the bar's volatility
FLOW = 0.7  # correlation of the signal's innovation with the asset's own shock
BORROW_A_YEAR = 0.004  # fraction of the shorted value
ADV_MEMORY = 1 / 20  # weight of the last session in the lagged average of traded value
DAILY_DRAWS = ("regime", "day", "night")  # of `_noise`, one per session; the others are one per bar


@dataclass(frozen=True)
class Change:
    """What becomes different from the session ``at`` on; everything before is untouched."""

    at: dt.date
    volatility: float = 1.0  # multiple
    correlation: float | None = None  # pairwise, from the market factor; None keeps the regimes' own
    signal: float = 1.0  # multiple; 0 removes the signal, −1 turns it round


def sample_sessions() -> list[dt.date]:
    """Sessions of the committed sample."""
    return Calendar(CALENDAR, BAR).sessions(SAMPLE_FIRST, SAMPLE_LAST)


def synthetic_bars(
    first_session: dt.date, sessions: int, seed: int, *, change: Change | None = None
) -> pl.DataFrame:
    """Bars of the market's first ``sessions`` sessions (contract: DESIGN.md, *Bars*), plus ``session``.

    Sorted by session, symbol, time. Same arguments, same bytes; a longer run continues a shorter one.

    Raises:
        DataError: a change outside the run, or a correlation or volatility without meaning.
    """
    grid = _Grid(_sessions(first_session, sessions))
    _check(grid.days, change)
    noise = [_noise(seed, day, len(ends)) for day, ends in zip(grid.days, grid.closes, strict=True)]
    drawn = {name: np.concatenate([n[name] for n in noise]) for name in noise[0] if name not in DAILY_DRAWS}
    changed = np.array([change is not None and day >= change.at for day in grid.days])

    regime = _regimes([float(n["regime"]) for n in noise])
    level = _daily_volatility(seed, np.stack([n["day"] for n in noise]), regime)  # (D, A)
    market = MARKET_CORRELATION[regime]  # (D,)
    strength = np.full(len(grid.days), SIGNAL_STRENGTH)
    if change is not None:
        level = level * np.where(changed, change.volatility, 1.0)[:, None]
        market = market if change.correlation is None else np.where(changed, change.correlation, market)
        strength = strength * np.where(changed, change.signal, 1.0)

    within = _ar1(drawn["vol"], BAR_PERSISTENCE, _initial(seed, 2)) * BAR_SPREAD
    sigma = (
        level[grid.day_of] * (grid.per_bar * grid.shape)[:, None] * np.exp(within - BAR_SPREAD**2)
    )  # (T, A)
    shock = _correlate(drawn["market"], drawn["sector"], drawn["own"], market[grid.day_of])
    signal = _signal(seed, drawn["own"], drawn["flow"])
    body = sigma * (strength[grid.day_of][:, None] * signal + shock)  # log return from open to close
    gap = _gaps(grid, level, np.stack([n["night"] for n in noise]), market, drawn["jump"])
    prices = _prices(gap, body, sigma, drawn["range"])

    stir = np.log(level[grid.day_of] / DAILY_VOLATILITY) + within  # log volatility over the usual
    volume = _volume(grid, stir, shock, drawn["volume"], prices["close"])
    adv = _lagged_average(np.add.reduceat(volume * prices["close"], grid.starts))[grid.day_of]
    usual_spread = 0.5e-4 * np.sqrt(level[grid.day_of] / DAILY_VOLATILITY)
    half_spread = np.maximum(0.5 * _tick(prices["close"]) / prices["close"], usual_spread)
    return _frame(
        grid, **prices, volume=volume, adv=np.round(adv, -6),
        half_spread=np.clip(np.round(half_spread, 6), 0.4e-4, 1.2e-4),
    )  # fmt: skip


class _Grid:
    """The run's sessions and bars: ``D`` days, ``T`` bars."""

    def __init__(self, days: list[dt.date]) -> None:
        calendar = Calendar(CALENDAR, BAR)
        self.days = days
        self.closes = [calendar.closes(day) for day in days]
        bars = np.array([len(ends) for ends in self.closes])
        self.starts = np.cumsum(bars) - bars  # (D,) first bar of each day
        self.day_of = np.repeat(np.arange(len(days)), bars)  # (T,)
        self.after_lunch = np.concatenate([_after_lunch(ends) for ends in self.closes])  # (T,)
        self.shape = np.concatenate(
            [_u_shape(ends) for ends in self.closes]
        )  # (T,) mean square 1 in a session
        self.per_bar = np.sqrt(
            (1 - NIGHT_SHARE - LUNCH_SHARE) / bars[self.day_of]
        )  # (T,) of daily volatility


def _sessions(first: dt.date, count: int) -> list[dt.date]:
    try:
        days = Calendar(CALENDAR, BAR).next_sessions(first - dt.timedelta(days=1), count)
    except OverflowError:
        days = []
    if len(days) < count:
        raise DataError(
            f"{count} sessions from {first}: the calendar knows {len(days)}",
            remedy="ask for fewer or other ones",
        )
    return days


def _check(days: list[dt.date], change: Change | None) -> None:
    if change is None:
        return
    if not days or not days[0] < change.at <= days[-1]:
        raise DataError(
            f"change at {change.at} lies outside the run", remedy="choose a session after the first"
        )
    ceiling = 1 - SECTOR_CORRELATION
    if change.volatility <= 0 or (change.correlation is not None and not 0 <= change.correlation <= ceiling):
        raise DataError(
            f"volatility {change.volatility}, correlation {change.correlation}: not a market",
            remedy=f"volatility above 0, correlation from 0 to {ceiling}",
        )


def _noise(seed: int, session: dt.date, bars: int) -> dict[str, Array]:
    """All of one session's randomness, from its own stream; the order of the draws is part of the sample."""
    rng = np.random.default_rng([seed, session.toordinal()])
    assets, sectors = len(SYMBOLS), SECTOR.max() + 1

    def student(*shape: int) -> Array:  # unit variance
        nu = DEGREES_OF_FREEDOM
        return rng.standard_t(nu, shape) * math.sqrt((nu - 2) / nu)

    return {
        "regime": rng.random(1)[0],
        "day": rng.standard_normal(assets),
        "night": student(1 + sectors + assets),
        "market": student(bars),
        "sector": student(bars, sectors),
        "own": student(bars, assets),
        "vol": 0.8 * rng.standard_normal((bars, 1)) + 0.6 * rng.standard_normal((bars, assets)),
        "flow": rng.standard_normal((bars, assets)),
        "jump": rng.standard_normal((bars, assets)),
        "volume": rng.standard_normal((bars, assets)),
        "range": rng.uniform(1e-9, 1, (bars, assets, 2)),
    }


def _initial(seed: int, which: int) -> Array:
    return np.random.default_rng([seed, 0, which]).standard_normal(len(SYMBOLS))


def _ar1(shocks: Array, phi: float, initial: Array) -> Array:
    """Stationary AR(1) of unit variance along the first axis, begun at ``initial``."""
    scale = math.sqrt(1 - phi * phi)
    return np.asarray(lfilter([scale], [1.0, -phi], shocks, axis=0, zi=(phi * initial)[None])[0])


def _signal(seed: int, own: Array, flow: Array) -> Array:
    """Signal of each bar, known before the bar begins: ``(T, A)``, unit variance."""
    phi = 0.5 ** (1 / SIGNAL_HALF_LIFE)
    initial = _initial(seed, 3)
    state = _ar1(FLOW * own + math.sqrt(1 - FLOW**2) * flow, phi, initial)
    return np.vstack([initial[None], state[:-1]])


def _regimes(uniform: list[float]) -> npt.NDArray[np.int64]:
    """State of each day, 0 calm and 1 turbulent."""
    state, states = 0, []
    for u in uniform:
        state = 1 - state if u < LEAVE[state] else state
        states.append(state)
    return np.array(states)


def _daily_volatility(seed: int, shocks: Array, regime: npt.NDArray[np.int64]) -> Array:
    daily = _ar1(shocks, DAY_PERSISTENCE, _initial(seed, 1)) * DAY_SPREAD
    return np.asarray(DAILY_VOLATILITY * REGIME_VOLATILITY[regime][:, None] * np.exp(daily - DAY_SPREAD**2))


def _gaps(grid: _Grid, level: Array, night: Array, market: Array, jump: Array) -> Array:
    """Log return from the last close to the open ``(T, A)``: over night and over lunch, else 0."""
    sectors = SECTOR.max() + 1
    gap = np.zeros((len(grid.day_of), len(SYMBOLS)))
    shock = _correlate(night[:, 0], night[:, 1 : 1 + sectors], night[:, 1 + sectors :], market)
    gap[grid.starts] = level * math.sqrt(NIGHT_SHARE) * shock
    gap[0] = 0.0
    lunch = grid.after_lunch
    gap[lunch] = level[grid.day_of][lunch] * math.sqrt(LUNCH_SHARE) * jump[lunch]
    return gap


def _prices(gap: Array, body: Array, sigma: Array, uniform: Array) -> dict[str, Array]:
    """Open, high, low, close on the tick grid; the extremes are those of a Brownian bridge."""
    log_close = np.log(START_PRICE) + np.cumsum(gap + body, axis=0)
    log_open = log_close - body
    reach = np.sqrt(-2 * np.log(uniform)) * sigma[..., None]  # (T, A, 2)
    open_, close = _to_tick(np.exp(log_open)), _to_tick(np.exp(log_close))
    high = _to_tick(np.exp(log_open + 0.5 * (body + np.hypot(body, reach[..., 0]))))
    low = _to_tick(np.exp(log_open + 0.5 * (body - np.hypot(body, reach[..., 1]))))
    return {
        "open": open_,
        "high": np.maximum(high, np.maximum(open_, close)),
        "low": np.minimum(low, np.minimum(open_, close)),
        "close": close,
    }


def _volume(grid: _Grid, stir: Array, shock: Array, noise: Array, close: Array) -> Array:
    """Units in lots of 100: the day's U-shape, more in volatile times and on large moves."""
    share = grid.per_bar**2 / (1 - NIGHT_SHARE - LUNCH_SHARE) * grid.shape
    usual = TRADED_VALUE * share[:, None]
    activity = 0.6 * stir + 0.35 * np.log1p(np.abs(shock)) - 0.2
    return np.asarray(np.maximum(np.round(usual * np.exp(activity + noise * 0.25) / close / 100), 1) * 100)


def _correlate(market: Array, sector: Array, own: Array, correlation: Array) -> Array:
    """Shocks of unit variance ``(T, A)``; ``correlation`` ``(T,)`` is the market factor's part."""
    common = (
        np.sqrt(correlation)[:, None] * market[:, None] + math.sqrt(SECTOR_CORRELATION) * sector[:, SECTOR]
    )
    return common + np.sqrt(1 - correlation - SECTOR_CORRELATION)[:, None] * own


def _halves(ends: npt.NDArray[np.datetime64]) -> list[int]:
    """Lengths of the half-sessions: bars before and after the lunch break."""
    breaks = np.flatnonzero(np.diff(ends) > np.timedelta64(30, "m")) + 1
    return [int(length) for length in np.diff([0, *breaks, len(ends)])]


def _after_lunch(ends: npt.NDArray[np.datetime64]) -> npt.NDArray[np.bool_]:
    first = np.zeros(len(ends), dtype=bool)
    first[np.cumsum(_halves(ends))[:-1]] = True
    return first


def _u_shape(ends: npt.NDArray[np.datetime64]) -> Array:
    """Volatility over the day: high at the open and the close, a smaller bump around lunch."""
    heights = [(1.3, 0.25), (0.5, 0.9)]  # at the (left, right) end of each half-session, above the floor of 1
    parts = []
    for length, (left, right) in zip(_halves(ends), heights, strict=False):
        place = np.arange(length)
        parts.append(1 + left * np.exp(-place / 4) + right * np.exp(-place[::-1] / 4))
    shape = np.concatenate(parts)
    return np.asarray(shape / np.sqrt(np.mean(shape**2)))


def _tick(price: Array) -> Array:
    return np.where(price < 5000, 0.1, 1.0)


def _to_tick(price: Array) -> Array:
    tick = _tick(price)
    return np.round(np.round(price / tick) * tick, 1)


def _lagged_average(traded: Array) -> Array:
    """Exponential average of the sessions before each one ``(D, A)``; begins at the usual value."""
    past = np.vstack([TRADED_VALUE[None], traded[:-1]])
    return np.asarray(
        lfilter([ADV_MEMORY], [1.0, ADV_MEMORY - 1], past, axis=0, zi=(1 - ADV_MEMORY) * TRADED_VALUE[None])[
            0
        ]
    )


def _frame(grid: _Grid, **columns: Array) -> pl.DataFrame:
    assets, times = len(SYMBOLS), np.concatenate(grid.closes)
    bars_a_year = 245 * len(grid.closes[-1])
    table = {
        "symbol": np.tile(np.array(SYMBOLS), len(times)),
        "ts_close": np.repeat(times, assets),
        "session": np.repeat(np.array(grid.days, dtype="datetime64[D]")[grid.day_of], assets),
    } | {name: values.ravel() for name, values in columns.items()}
    return (
        pl.DataFrame(table)
        .with_columns(
            pl.col("ts_close").dt.replace_time_zone("UTC"),
            pl.col("half_spread").cast(pl.Float32),
            adj_factor=pl.lit(1.0),
            borrow_rate=pl.lit(BORROW_A_YEAR / bars_a_year, dtype=pl.Float32),
            funding_rate=pl.lit(0.0, dtype=pl.Float32),
            tradable=pl.lit(True),
        )
        .with_columns(available_at=pl.col("ts_close"))
        .sort("session", "symbol", "ts_close")
    )


def write_synthetic(
    out: Path,
    first_session: dt.date,
    sessions: int,
    seed: int,
    *,
    change: Change | None = None,
    keep_from: dt.date | None = None,
    months: bool = False,
) -> int:
    """Write `synthetic_bars` to ``out``, one Parquet file a session or a month; returns how many.

    With ``keep_from`` only the sessions from that day on are written, of the very same path.

    Raises:
        DataError: as `synthetic_bars`; the disk is full.
    """
    frame = synthetic_bars(first_session, sessions, seed, change=change)
    if keep_from:
        frame = frame.filter(pl.col("session") >= keep_from)
    if frame.is_empty():
        raise DataError(f"no session from {keep_from} on", remedy="raise the number of sessions")
    with replaced(out) as (folder,):
        label = pl.col("session").dt.strftime("%Y-%m" if months else "%Y-%m-%d").alias("label")
        parts = frame.with_columns(label).partition_by("label", as_dict=True)
        for (name,), part in parts.items():
            table = part.select(list(COLUMNS)).sort("symbol", "ts_close")
            write_partition(table, folder / f"{name}.parquet")
    return len(parts)
