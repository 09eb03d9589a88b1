"""A market for benchmarks: random prices and features, with every cost and limit switched on."""

from __future__ import annotations

import numpy as np

from sekisho.data.panel import Panel
from sekisho.market import MarketData
from sekisho.params import MarketParams

BARS_A_SESSION = 66
HALTED = 0.01  # share of the bars in which an asset cannot be traded
LINEAR_IMPACT = 0.05  # switched on where params.yaml leaves it off


def costs_on(params: MarketParams) -> MarketParams:
    """``params`` with the costs that are 0 there switched on: a cost nobody pays is easily computed."""
    return params.model_copy(update={"impact_linear": params.impact_linear or LINEAR_IMPACT})


def random_panel(assets: int, sessions: int) -> Panel:
    """Five-minute bars of random walks, with spreads, borrow and funding of both signs."""
    rng = np.random.default_rng(0)
    rows = sessions * BARS_A_SESSION
    shape = (rows, assets)
    close = 1000 * np.exp(0.002 * rng.normal(size=shape).cumsum(axis=0))
    opens = close * np.exp(0.0005 * rng.normal(size=shape))
    session = np.datetime64("2025-01-06") + np.arange(rows) // BARS_A_SESSION
    after_midnight = (np.arange(rows) % BARS_A_SESSION + 1) * np.timedelta64(300, "s")
    return Panel(
        symbols=tuple(f"S{asset}" for asset in range(assets)),
        ts_close=session.astype("datetime64[us]") + after_midnight,
        session=session,
        open=opens,
        high=np.maximum(opens, close) * 1.0005,
        low=np.minimum(opens, close) * 0.9995,
        close=close,
        volume=rng.uniform(2e5, 2e6, shape),
        adv=rng.uniform(5e10, 1e11, shape),
        half_spread=rng.uniform(0.5e-4, 1e-4, shape),
        borrow_rate=np.full(shape, 2.5e-7),
        funding_rate=rng.normal(0, 1e-7, shape),
        adj_factor=np.ones(shape),
        tradable=rng.random(shape) > HALTED,
    )


def market_data(panel: Panel, features: int, params: MarketParams, device: str = "cpu") -> MarketData:
    values = np.random.default_rng(1).normal(size=(*panel.close.shape, features)).astype(np.float32)
    return MarketData.from_panel(panel, values, params, device)
