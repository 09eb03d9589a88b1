from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sekisho.data.panel import Panel
from sekisho.params import FeatureParams

PARAMS = FeatureParams(return_windows=(2, 5), vol_window=7, short_vol_window=3, volume_window=6, clip=3.0)


@pytest.fixture(scope="session")
def params() -> FeatureParams:
    """Short windows, so that small panels suffice: lookback 12."""
    return PARAMS


@pytest.fixture(scope="session")
def random_panel() -> Callable[..., Panel]:
    def make(seed: int, sessions: int = 6, bars: int = 8, assets: int = 3, missing: float = 0.1) -> Panel:
        """A random market with missing bars (filled as `load_panel` fills them)."""
        rng = np.random.default_rng(seed)
        rows = sessions * bars
        shape = (rows, assets)
        close = 1000 * np.exp(0.01 * rng.standard_t(4, shape).cumsum(axis=0))
        open_ = close * np.exp(0.003 * rng.normal(size=shape))
        gone = rng.random(shape) < missing
        gone[0] = False
        for row in np.arange(1, rows):
            close[row] = np.where(gone[row], close[row - 1], close[row])
        open_ = np.where(gone, close, open_)
        day = np.datetime64("2025-01-06") + np.repeat(np.arange(sessions), bars)
        minute = np.tile(np.arange(1, bars + 1), sessions) * np.timedelta64(5, "m")
        return Panel(
            symbols=tuple(f"S{a}" for a in range(assets)),
            ts_close=(day.astype("datetime64[us]") + minute).astype("datetime64[us]"),
            session=day.astype("datetime64[D]"),
            open=open_,
            high=np.maximum(open_, close) * 1.001,
            low=np.minimum(open_, close) * 0.999,
            close=close,
            volume=np.where(gone, 0.0, np.round(rng.exponential(1e4, shape)) + 1),
            adv=np.full(shape, 1e9),
            half_spread=np.full(shape, 1e-4),
            borrow_rate=np.full(shape, 1e-7),
            funding_rate=np.zeros(shape),
            adj_factor=np.ones(shape),
            tradable=~gone,
        )

    return make
