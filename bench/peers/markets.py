"""The peers' markets, unmodified, from the hashed packages in ``build/bench/peers``.

FinRL's ``finrl/__init__.py`` imports its whole trainer with every broker's client, so the file of its
StockTradingEnv is loaded alone. Gym-Trading-Env turns all warnings of the process into errors when it is
imported; that is undone.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import numpy.typing as npt
import pandas as pd

FOLDER = Path(__file__).parents[2] / "build/bench/peers"
PACKAGES = ("finrl", "gym-trading-env")
STOCK_TRADING = FOLDER / "finrl/meta/env_stock_trading/env_stocktrading.py"
POSITIONS = [-1, -0.5, 0, 0.5, 1]
EPISODE = 132  # bars


def installed() -> bool:
    return STOCK_TRADING.exists()


def find() -> None:
    """Make the peers importable.

    Raises:
        FileNotFoundError: they are not installed.
    """
    if not installed():
        raise FileNotFoundError(f"{FOLDER}: the peers are not installed; `make bench-speed` installs them")
    sys.path.append(str(FOLDER))


def finrl_market(close: npt.NDArray[np.float64], indicators: int) -> gymnasium.Env:
    """FinRL's StockTradingEnv on closing prices ``(T, A)`` with random indicators.

    As its tutorial sets it up: trading costs 0.1 %, at most 100 shares of an asset a day, a million of cash.
    """
    spec = importlib.util.spec_from_file_location("finrl_env_stocktrading", STOCK_TRADING)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    days, assets = close.shape
    names = [f"indicator_{i}" for i in range(indicators)]
    values = np.random.default_rng(0).normal(size=(indicators, days * assets))
    frame = pd.DataFrame(
        {
            "date": np.repeat(pd.date_range("2015-01-01", periods=days, freq="B").astype(str), assets),
            "tic": np.tile([f"S{a}" for a in range(assets)], days),
            "close": close.ravel(),
            **dict(zip(names, values, strict=True)),
        }
    )
    frame.index = frame["date"].factorize()[0]
    return module.StockTradingEnv(
        df=frame, stock_dim=assets, hmax=100, initial_amount=1_000_000, num_stock_shares=[0] * assets,
        buy_cost_pct=[1e-3] * assets, sell_cost_pct=[1e-3] * assets, reward_scaling=1e-4,
        state_space=1 + 2 * assets + indicators * assets, action_space=assets, tech_indicator_list=names,
        print_verbosity=10**9,
    )  # fmt: skip


def gym_trading_market(close: npt.NDArray[np.float64], features: int) -> gymnasium.Env:
    """Gym-Trading-Env on one asset's closing prices ``(T,)``: trailing returns as features, fee, borrow."""
    with warnings.catch_warnings():
        from gym_trading_env.environments import TradingEnv

    index = pd.date_range("2020-01-01", periods=len(close), freq="5min")
    frame = pd.DataFrame({name: close for name in ("open", "high", "low", "close")}, index=index)
    for i in range(features):
        frame[f"feature_{i}"] = frame["close"].pct_change(i + 1)
    return TradingEnv(
        frame.dropna(), positions=POSITIONS, trading_fees=1e-4, borrow_interest_rate=1e-6,
        max_episode_duration=EPISODE, verbose=0,
    )  # fmt: skip
