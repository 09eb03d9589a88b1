"""Volatility regimes of the market, known at each bar: for stratified starts and for tables by regime."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sekisho.errors import TrainingError
from sekisho.features.compute import trailing_sum

REGIMES = ("calm", "normal", "turbulent")  # terciles of trailing volatility; numbered 0, 1, 2


def volatility_regimes(
    close: npt.NDArray[np.float64], window: int, start: int, stop: int
) -> npt.NDArray[np.int64]:
    """The market's regime ``(T,)`` at each bar's close: the index into `REGIMES`, -1 in the warm-up.

    The market's return is the equal-weighted mean of the assets' close-to-close returns; its volatility is
    the root mean square over the ``window`` bars up to and with the bar. Terciles are those of the bars
    ``[start, stop)`` alone: a regime of a bar depends on no bar after it and on none from ``stop`` on.

    Args:
        close: ``(T, A)``, finite, above 0.
        window: bars.

    Raises:
        TrainingError: fewer than three bars of ``[start, stop)`` have a full window.
    """
    volatility = market_volatility(close, window)
    edges = regime_edges(volatility[start:stop], window, f"[{start}, {stop})")
    return numbered(volatility, edges)


def market_volatility(close: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """The market's trailing volatility per bar ``(T,)``; NaN in the warm-up of ``window`` bars."""
    returns = (close[1:] / close[:-1] - 1.0).mean(axis=1, keepdims=True)  # of bars 1 … T-1
    volatility = np.full(len(close), np.nan)
    volatility[1:] = np.sqrt(trailing_sum(returns**2, window)[:, 0] / window)
    volatility[:window] = np.nan
    return volatility


def regime_edges(volatility: npt.NDArray[np.float64], window: int, where: str) -> npt.NDArray[np.float64]:
    """Terciles ``(2,)`` of the finite ones of ``volatility``, that of the bars ``where``.

    Raises:
        TrainingError: they are fewer than three.
    """
    known = volatility[np.isfinite(volatility)]
    if len(known) < len(REGIMES):
        raise TrainingError(
            f"{len(known)} bars of {where} have {window} returns before them: no regimes",
            remedy="bring a longer history or shorten market.vol_window",
        )
    edges: npt.NDArray[np.float64] = np.quantile(known, np.arange(1, len(REGIMES)) / len(REGIMES))
    return edges


def numbered(volatility: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The regime of each ``volatility``, -1 where it is NaN."""
    return np.where(np.isfinite(volatility), np.searchsorted(edges, volatility, side="right"), -1)
