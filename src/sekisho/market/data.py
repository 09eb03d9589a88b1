"""Bars and features as tensors, and the units in which an agent trades and is rewarded."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from sekisho.data.panel import Panel
from sekisho.errors import TrainingError
from sekisho.features.compute import trailing_sum
from sekisho.params import MarketParams


@dataclass(frozen=True)
class History:
    """What a part of a panel cannot tell by itself: the whole's sessions, and where its symbols end."""

    sessions: npt.NDArray[np.datetime64]  # (S,) D, ascending
    bars: npt.NDArray[np.int64]  # (S,) of each session
    last_bar: npt.NDArray[np.datetime64]  # (A,) us, end of each symbol's last bar; NaT where it has none
    last_session: npt.NDArray[np.datetime64]  # (A,) D, that bar's

    @classmethod
    def of(cls, panel: Panel) -> History:
        sessions, bars = np.unique(panel.session, return_counts=True)
        present = panel.tradable | (panel.volume > 0)
        last, none = len(panel) - 1 - np.argmax(present[::-1], axis=0), ~present.any(axis=0)  # (A,)
        last_bar, last_session = panel.ts_close[last], panel.session[last]
        last_bar[none], last_session[none] = np.datetime64("NaT"), np.datetime64("NaT")
        return cls(sessions, bars, last_bar, last_session)


@dataclass(frozen=True)
class MarketData:
    """What the environment reads: ``T`` bars of ``A`` assets.

    Prices are quote currency; ``volatility`` is the trailing daily volatility, known at the bar's close;
    ``features`` is float32, NaN in the warm-up; everything else ``(T, A)`` float64.
    """

    symbols: tuple[str, ...]
    ts_close: npt.NDArray[np.datetime64]  # (T,) us, UTC
    session: npt.NDArray[np.datetime64]  # (T,) D
    features: torch.Tensor  # (T, A, F) float32
    open: torch.Tensor
    close: torch.Tensor
    volume: torch.Tensor  # units of the adjusted prices
    adj_factor: torch.Tensor  # what raw prices were multiplied by
    adv: torch.Tensor  # currency a day
    half_spread: torch.Tensor  # fraction
    borrow_rate: torch.Tensor  # per bar
    funding_rate: torch.Tensor  # per bar
    volatility: torch.Tensor  # fraction, per day
    tradable: torch.Tensor  # bool
    delisted: torch.Tensor  # bool: the bar after the last one of a symbol that is delisted
    first_bar: int  # the first bar with features

    @classmethod
    def from_panel(
        cls,
        panel: Panel,
        features: npt.NDArray[np.float32],
        params: MarketParams,
        device: str = "cpu",
        history: History | None = None,
    ) -> MarketData:
        """Put a panel and its features ``(T, A, F)`` on ``device``.

        ``history``: the one that the panel is a part of; without, the panel is all there is. A part has the
        rows of the whole wherever ``vol_window`` bars and a session of its own lie before.

        Raises:
            TrainingError: no bar has features, or a price or a feature after the warm-up is not finite.
        """
        history = history or History.of(panel)
        ready = np.asarray(np.isfinite(features).all(axis=(1, 2)))
        if not ready.any():
            raise TrainingError("no bar has all its features", remedy="bring a longer history")
        first = max(int(np.argmax(ready)), params.vol_window)
        finite = np.asarray(np.isfinite(panel.open + panel.close).all(axis=1))
        good = np.logical_and(ready, finite)[first:]
        if not good.all():
            bad = first + int(np.argmin(good))
            raise TrainingError(
                f"bar {panel.ts_close[bad]}: a price or a feature is not finite",
                remedy="run `sekisho data check` on the bars, then `dvc repro features`",
            )

        def tensor(values: npt.NDArray[np.generic]) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(values), device=device)

        return cls(
            symbols=panel.symbols,
            ts_close=panel.ts_close,
            session=panel.session,
            features=tensor(features),
            open=tensor(panel.open),
            close=tensor(panel.close),
            volume=tensor(panel.volume),
            adj_factor=tensor(panel.adj_factor),
            adv=tensor(panel.adv),
            half_spread=tensor(panel.half_spread),
            borrow_rate=tensor(panel.borrow_rate),
            funding_rate=tensor(panel.funding_rate),
            volatility=tensor(_daily_volatility(panel, params.vol_window, history)),
            tradable=tensor(panel.tradable),
            delisted=tensor(delisting_bars(panel, params.delisting_sessions, history)),
            first_bar=first,
        )

    def __len__(self) -> int:
        return len(self.session)

    def window(self, first: dt.date, last: dt.date) -> tuple[int, int]:
        """Bars of the sessions ``first`` to ``last`` as ``[start, stop)``, warm-up left out.

        Raises:
            TrainingError: no bar with features in these sessions.
        """
        start = max(int(np.searchsorted(self.session, np.datetime64(first))), self.first_bar)
        stop = int(np.searchsorted(self.session, np.datetime64(last), side="right"))
        if stop - start < 2:
            raise TrainingError(
                f"{max(stop - start, 0)} bars with features from {first} to {last}; trading needs two",
                remedy="bring a longer history or shorten the feature windows",
            )
        return start, stop


@dataclass(frozen=True)
class Units:
    """Scales derived from the market, so that actions and rewards are of order one in any market.

    ``trade`` ``(A,)``: the weight that one unit of action trades. ``risk``: the per-bar volatility of a book
    that holds one unit in every asset; returns are rewarded in this unit.
    """

    trade: torch.Tensor
    risk: float


def derive_units(data: MarketData, start: int, stop: int, params: MarketParams) -> Units:
    """Units of the bars ``[start, stop)``: a training window, never a later one.

    One unit is an equal share of the gross limit, more in calm assets and less in wild ones (equal risk), at
    most the asset limit: a good trade moves a position by about half of what it typically is, hence ≈ 0.5.

    Raises:
        TrainingError: the prices do not move in this window.
    """
    returns = data.close[start + 1 : stop] / data.close[start : stop - 1] - 1
    return units_of(returns.square().mean(dim=0).sqrt(), params)


def units_of(volatility: torch.Tensor, params: MarketParams) -> Units:
    """`derive_units` from the assets' root mean square returns ``(A,)`` per bar of a training window."""
    moving = volatility > 0
    if not bool(moving.any()):
        raise TrainingError("the prices do not move", remedy="check the bars: `sekisho data check`")
    typical = volatility[moving].median()
    tilt = torch.where(moving, typical / volatility.where(moving, typical), 0.0).clamp(max=4.0)
    trade = (params.max_gross * tilt / tilt.sum()).clamp(max=params.max_asset)
    risk = float((trade * volatility).square().sum().sqrt())
    return Units(trade=trade, risk=risk)


def delisting_bars(panel: Panel, sessions: int, history: History | None = None) -> npt.NDArray[np.bool_]:
    """Where a position is paid out ``(T, A)``: the bar after the last one of a symbol that is delisted.

    A symbol counts as delisted when the ``history``, or without one the panel, goes on for at least
    ``sessions`` whole sessions after the one of its last bar. A suspension that lasts to the end cannot be
    told from that.
    """
    history = history or History.of(panel)
    later = len(history.sessions) - 1 - np.searchsorted(history.sessions, history.last_session)  # NaT: -1
    after = np.searchsorted(panel.ts_close, history.last_bar, side="right")
    here = (later >= sessions) & (after > 0) & (after < len(panel))
    found = np.zeros(panel.close.shape, dtype=np.bool_)
    found[after[here], np.flatnonzero(here)] = True
    return found


def _daily_volatility(panel: Panel, window: int, history: History) -> npt.NDArray[np.float64]:
    """Trailing zero-mean volatility ``(T, A)`` per day; 0 in the warm-up.

    A day has as many bars as the sessions before had on average; in the first one, its own, which the
    exchange's calendar has told beforehand.
    """
    squares = np.zeros_like(panel.close)
    squares[1:] = (panel.close[1:] / panel.close[:-1] - 1.0) ** 2
    bars, number = history.bars, np.searchsorted(history.sessions, panel.session)
    finished = np.concatenate((bars[:1], bars[:-1].cumsum() / np.arange(1, len(bars))))
    daily = np.sqrt(trailing_sum(squares, window) / window) * np.sqrt(finished[number])[:, None]
    return np.asarray(np.nan_to_num(daily), dtype=np.float64)
