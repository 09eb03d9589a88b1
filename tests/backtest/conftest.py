"""A small market for the backtest's tests: seeded prices, a few sessions, a few bars."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sekisho.data.panel import Panel
from sekisho.params import MarketParams, Params, load_params

PARAMS = Path(__file__).parents[2] / "params.yaml"
BARS = 6  # a session


@pytest.fixture(scope="session")
def params() -> Params:
    """The repository's parameters with a walk that fits a small market."""
    full = load_params(PARAMS)
    return full.model_copy(
        update={
            "split": full.split.model_copy(
                update={"folds": 2, "test_sessions": 20, "validation_sessions": 5}
            ),
            "features": full.features.model_copy(
                update={"return_windows": (1, 2), "vol_window": 12, "volume_window": 12}
            ),
            "market": full.market.model_copy(update={"vol_window": 12}),
            "train": full.train.model_copy(update={"seeds": (1, 2)}),
            "backtest": full.backtest.model_copy(
                update={
                    "bootstrap_samples": 300,
                    "bootstrap_block": 8,  # five fit into 40 sessions
                    "pbo_blocks": 8,
                    "cost_multiples": (0.0, 1.0, 2.0),
                    "capital_multiples": (1.0, 10.0),
                    "champion": "none",
                    "momentum_sessions": 10,
                    "covariance_sessions": 10,
                    "rebalance_sessions": 5,
                }
            ),
        }
    )


@pytest.fixture(scope="session")
def limits(params: Params) -> MarketParams:
    return params.market


def sessions_from(count: int, first: dt.date = dt.date(2024, 1, 4)) -> list[dt.date]:
    """Weekdays."""
    days = (first + dt.timedelta(days=n) for n in range(2 * count))
    return [day for day in days if day.weekday() < 5][:count]


def make_panel(sessions: int = 90, assets: int = 4, seed: int = 0, drift: float = 0.0) -> Panel:
    """Geometric random walks with opens off the last close; the volatility differs by asset."""
    rng = np.random.default_rng(seed)
    rows = sessions * BARS
    sigma = np.linspace(0.002, 0.006, assets)
    close = 1000.0 * np.exp(np.cumsum(drift + sigma * rng.standard_normal((rows, assets)), axis=0))
    last = np.vstack([close[:1], close[:-1]])
    opening = last * np.exp(0.2 * sigma * rng.standard_normal((rows, assets)))
    days = np.repeat(np.array(sessions_from(sessions), dtype="datetime64[D]"), BARS)
    minutes = np.tile(np.arange(1, BARS + 1) * 5, sessions).astype("timedelta64[m]")
    full = np.ones((rows, assets))
    return Panel(
        symbols=tuple(f"S{n}" for n in range(assets)),
        ts_close=(days.astype("datetime64[us]") + minutes),
        session=days,
        open=opening,
        high=np.maximum(opening, close) * 1.0005,
        low=np.minimum(opening, close) * 0.9995,
        close=close,
        volume=rng.integers(10_000_000, 20_000_000, (rows, assets)).astype(np.float64),
        adv=full * 5e9,
        half_spread=full * 1e-4,
        borrow_rate=full * 1e-6,
        funding_rate=full * 0.0,
        adj_factor=np.ones_like(close),
        tradable=np.ones((rows, assets), dtype=np.bool_),
    )


def write_bars(panel: Panel, folder: Path) -> None:
    """Validated bars, one partition a session."""
    folder.mkdir(parents=True)
    assets = len(panel.symbols)
    prices = {
        name: getattr(panel, name).ravel()
        for name in (
            "open",
            "high",
            "low",
            "close",
            "volume",
            "adv",
            "half_spread",
            "borrow_rate",
            "funding_rate",
        )
    }
    times = pl.Series("ts_close", np.repeat(panel.ts_close, assets)).dt.replace_time_zone("UTC")
    frame = pl.DataFrame(
        {
            "symbol": list(panel.symbols) * len(panel),
            "ts_close": times,
            "available_at": times,
            **prices,
            "adj_factor": panel.adj_factor.ravel(),
            "tradable": panel.tradable.ravel(),
            "session": np.repeat(panel.session, assets),
        }
    ).with_columns(pl.col("session").cast(pl.Date))
    for (session,), part in frame.partition_by("session", as_dict=True).items():
        part.write_parquet(folder / f"{session}.parquet")
