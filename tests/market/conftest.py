from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sekisho.data.panel import Panel
from sekisho.market import MarketData
from sekisho.params import MarketParams

PARAMS = MarketParams(
    capital=1e6,
    commission=1e-4,
    impact_linear=0.05,
    impact_sqrt=0.1,
    impact_decay=0.0,
    spread_multiple=1.0,
    lot_size=0,
    tick_table="none",
    price_limits="none",
    max_participation=0.0,
    latency_bars=0,
    delisting_sessions=2,
    delisting_haircut=0.3,
    max_gross=1.0,
    max_net=0.6,
    max_asset=0.5,
    max_turnover=0.8,
    vol_window=5,
    episode_bars=12,
    stratify=False,
    risk_aversion=0.1,
)


@pytest.fixture(scope="session")
def params() -> MarketParams:
    return PARAMS


@pytest.fixture(scope="session")
def make_data() -> Callable[..., MarketData]:
    def make(seed: int = 0, rows: int = 60, assets: int = 3, halted: float = 0.1) -> MarketData:
        """A random market with costs, borrow, funding of both signs and halted assets; features are noise."""
        rng = np.random.default_rng(seed)
        shape = (rows, assets)
        close = 100 * np.exp(0.02 * rng.normal(size=shape).cumsum(axis=0))
        features = rng.normal(size=(*shape, 4)).astype(np.float32)
        features[:5] = np.nan
        panel = Panel(
            symbols=tuple(f"S{a}" for a in range(assets)),
            ts_close=np.datetime64("2025-01-06T00:05", "us") + np.arange(rows) * np.timedelta64(300, "s"),
            session=np.datetime64("2025-01-06") + np.arange(rows) // 10,
            open=close * np.exp(0.005 * rng.normal(size=shape)),
            high=close * 1.1,
            low=close * 0.9,
            close=close,
            volume=np.full(shape, 1e4),
            adv=rng.uniform(1e6, 1e8, shape),
            half_spread=rng.uniform(1e-4, 1e-3, shape),
            borrow_rate=rng.uniform(0, 1e-4, shape),
            funding_rate=rng.normal(0, 1e-5, shape),
            adj_factor=np.ones(shape),
            tradable=rng.random(shape) > halted,
        )
        return MarketData.from_panel(panel, features, PARAMS)

    return make
