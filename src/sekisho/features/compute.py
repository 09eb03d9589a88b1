"""Features of an exact trailing window.

Serving computes them on the last ``lookback`` bars, training on years of bars; both must give the same bits.
Hence three rules: only correctly rounded operations (+ − × ÷ √, no logarithm, whose last bit depends on the
vector width), sums in a written-out order (newest bar first) and never incrementally, and nothing that
depends on how missing bars were filled: a return counts only between two bars that both exist.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sekisho.data.panel import Panel
from sekisho.params import FeatureParams

Float = npt.NDArray[np.float64]
CACHED = 64  # symbols whose rows are added up at once
CLOCKS = ("time_of_day", "session_start")  # of a bar, the same for every asset


def feature_names(params: FeatureParams) -> tuple[str, ...]:
    """Names of the ``F`` features, in the order of ``compute_features``'s last axis."""
    windows = params.return_windows
    return (
        *(f"return_{w}" for w in windows),
        *(f"relative_return_{w}" for w in windows),
        "volume_share",
        "volatility_ratio",
        *CLOCKS,
    )


def lookback(params: FeatureParams) -> int:
    """Bars, the current one included, that one row of features depends on."""
    scaled_returns = params.vol_window + max(params.return_windows) - 1
    return 1 + max(scaled_returns, params.short_vol_window, params.volume_window)


def compute_features(panel: Panel, params: FeatureParams) -> npt.NDArray[np.float32]:
    """Features ``(T, A, F)`` float32 of every bar, NaN in the first ``lookback − 1`` rows.

    Per asset: sums over ``return_windows`` of one-bar returns, each in units of the volatility trailing it
    (zero-mean root mean square) and clipped, over the root of the window; the same less the cross-sectional
    mean of the assets that have a bar; volume as share of itself plus its trailing mean; short over long
    volatility; time of day (UTC, fraction of 24 h); whether the bar opens a session, so that its return spans
    the night.
    """
    result = np.full((len(panel), len(panel.symbols), len(feature_names(params))), np.nan, dtype=np.float32)
    warm = lookback(params) - 1
    if len(panel) <= warm:
        return result
    present = panel.tradable | (panel.volume > 0)
    count = np.maximum(_sum_assets(present.astype(np.float64)), 1.0)
    returns = _bar_returns(panel.close, present)
    squares = returns * returns
    volatility = np.sqrt(trailing_sum(squares, params.vol_window) / params.vol_window)
    short = np.sqrt(trailing_sum(squares, params.short_vol_window) / params.short_vol_window)

    score = np.clip(_ratio(returns, volatility), -params.clip, params.clip)
    score[: params.vol_window] = 0.0  # no volatility yet; all windows that reach here lie in the warm-up
    columns = [trailing_sum(score, window) / np.sqrt(np.float64(window)) for window in params.return_windows]
    for absolute in columns[: len(params.return_windows)]:
        mean = _sum_assets(np.where(present, absolute, 0.0)) / count
        columns.append(np.where(present, absolute - mean, 0.0))
    mean_volume = trailing_sum(panel.volume, params.volume_window) / params.volume_window
    columns.append(_ratio(panel.volume, panel.volume + mean_volume))
    columns.append(_ratio(short, volatility))
    columns.extend(np.broadcast_to(clock[:, None], present.shape) for clock in _clocks(panel))
    for index, column in enumerate(columns):
        result[warm:, :, index] = column[warm:]
    return result


def trailing_sum(values: Float, window: int) -> Float:
    """Sum of the last ``window`` rows of ``(T, A)``, newest first; the first ``window − 1`` rows are NaN.

    ``window`` passes of elementwise additions: the order is the same for every row and every length of
    ``values``, which a running sum or a library's reduction does not promise.
    """
    rows = len(values)
    result = np.full(values.shape, np.nan)
    if rows < window:
        return result
    for first in range(0, values.shape[1], CACHED):  # so many columns stay in the processor's cache
        some = np.ascontiguousarray(values[:, first : first + CACHED])
        total = some[window - 1 :].copy()
        for age in range(1, window):
            total += some[window - 1 - age : rows - age]
        result[window - 1 :, first : first + CACHED] = total
    return result


def _bar_returns(close: Float, present: npt.NDArray[np.bool_]) -> Float:
    """One-bar simple returns ``(T, A)``; 0 across a missing bar and in the first row, which is warm-up."""
    returns = np.zeros_like(close)
    both = present[1:] & present[:-1]
    returns[1:] = np.where(both, close[1:] / close[:-1] - 1.0, 0.0)
    return returns


def _sum_assets(values: Float) -> Float:
    """Sum over the assets ``(T, A) → (T, 1)``, first symbol first (a fixed order, see the module)."""
    total = np.zeros((len(values), 1))
    for asset in range(values.shape[1]):
        total[:, 0] += values[:, asset]
    return total


def _ratio(over: Float, under: Float) -> Float:
    """``over / under``, 0 where ``under`` is 0 (no move, no volume); NaN stays NaN."""
    safe = np.where(under == 0, 1.0, under)
    return np.where(under == 0, 0.0, over / safe)


def _clocks(panel: Panel) -> tuple[Float, Float]:
    day = panel.ts_close.astype("datetime64[D]").astype("datetime64[us]")
    time_of_day = (panel.ts_close - day).astype(np.int64) / 86_400e6
    first = np.zeros(len(panel))
    first[1:] = panel.session[1:] != panel.session[:-1]
    return time_of_day, first
