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
    returns = (close[1:] / close[:-1] - 1.0).mean(axis=1, keepdims=True)  # of bars 1 … T-1
    volatility = np.full(len(close), np.nan)
    volatility[1:] = np.sqrt(trailing_sum(returns**2, window)[:, 0] / window)
    volatility[:window] = np.nan
    known = volatility[start:stop]
    known = known[np.isfinite(known)]
    if len(known) < len(REGIMES):
        raise TrainingError(
            f"{len(known)} bars of [{start}, {stop}) have {window} returns before them: no regimes",
            remedy="bring a longer history or shorten market.vol_window",
        )
    edges = np.quantile(known, np.arange(1, len(REGIMES)) / len(REGIMES))
    return np.where(np.isfinite(volatility), np.searchsorted(edges, volatility, side="right"), -1)
