"""Walk-forward simulation: all accounts side by side in one run of the market of training.

Each test window starts with fresh capital and no positions; the first decision is taken at the last close
before it. A window's end marks the book and does not sell it; the next window pays for building it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from sekisho.backtest.names import MODELLED
from sekisho.backtest.splits import Fold
from sekisho.backtest.strategies import Context, History, Strategy
from sekisho.data.panel import Panel
from sekisho.errors import BacktestError
from sekisho.market import MarketData, TradingMarket, Units
from sekisho.params import MarketParams

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Account:
    """One row of the market: who trades, with costs and capital as multiples of the modelled ones."""

    strategy: str
    cost_multiple: float = MODELLED
    capital_multiple: float = MODELLED


@dataclass(frozen=True)
class Simulation:
    """``accounts``: strategy, cost_multiple, capital_multiple, session, net_return, gross_return, cost,
    turnover, gross_exposure.

    One row per session; returns compound over its bars, ``cost`` and ``turnover`` are sums of fractions of
    equity, ``gross_exposure`` is the mean sum of |weights|. ``assets``: strategy, session, symbol, weight
    (mean over the session's bars), gross_return, cost (sums of fractions of equity: the symbol's part), at
    the modelled costs and capital.
    """

    accounts: pl.DataFrame
    assets: pl.DataFrame

    @property
    def returns(self) -> pl.DataFrame:
        """``accounts`` of the modelled capital, without that column."""
        return self.accounts.filter(pl.col("capital_multiple") == MODELLED).drop("capital_multiple")

    @property
    def capacity(self) -> pl.DataFrame:
        """``accounts`` at the modelled costs, without that column."""
        return self.accounts.filter(pl.col("cost_multiple") == MODELLED).drop("cost_multiple")


def simulate(
    panel: Panel,
    features: npt.NDArray[np.float32],
    folds: Sequence[Fold],
    strategies: Sequence[dict[str, Strategy]],
    accounts: Sequence[Account],
    limits: MarketParams,
    on_session: Callable[[], object] = lambda: None,
) -> Simulation:
    """Trade the folds' test windows.

    Args:
        features: ``(T, A, F)`` of the panel's bars.
        strategies: by name, one mapping per fold, all with the same names in the same order.
        accounts: each names a strategy; all run in the same market, so each costs a row and not a run.
        on_session: called after each simulated session (progress).

    Raises:
        BacktestError: a window has no bar before it, or a strategy cannot decide.
        TrainingError: prices or features of a window are not finite.
    """
    data = MarketData.from_panel(panel, features, limits)
    history = History(panel)
    parts = [
        _window(data, history, fold, chosen, accounts, limits, on_session)
        for fold, chosen in zip(folds, strategies, strict=True)
    ]
    order = {name: place for place, name in enumerate(strategies[0])}
    rank = pl.col("strategy").replace_strict(order, return_dtype=pl.Int32)
    rows = pl.concat([rows for rows, _ in parts])
    return Simulation(
        accounts=rows.sort(rank, "cost_multiple", "capital_multiple", "session"),
        assets=pl.concat([assets for _, assets in parts]).sort(rank, "session", "symbol"),
    )


def _window(
    data: MarketData,
    history: History,
    fold: Fold,
    strategies: dict[str, Strategy],
    accounts: Sequence[Account],
    limits: MarketParams,
    on_session: Callable[[], object],
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One test window: rows by account and session, and those by symbol of the modelled accounts."""
    panel = history.panel
    first = int(np.searchsorted(panel.session, np.datetime64(fold.test[0])))
    stop = int(np.searchsorted(panel.session, np.datetime64(fold.test[1]), side="right"))
    if first == 0 or first == stop:
        raise BacktestError(
            f"fold {fold.index}: no bar in test window {fold.test[0]} to {fold.test[1]}, or none before it",
            remedy="build/bars is shorter than the split needs: run `dvc repro validate`",
        )
    start, bars = first - 1, stop - first
    market = _market(data, limits, accounts, (start, stop))
    observation, _ = market.reset()
    shape = (bars, len(accounts))
    bar = _Bars(
        *(np.zeros(shape) for _ in range(4)), *(np.zeros((*shape, len(data.symbols))) for _ in range(3))
    )
    alive = np.ones(len(accounts), dtype=np.bool_)
    equity, weights = market.capital.numpy(), np.zeros((len(accounts), len(data.symbols)))
    for step in range(bars):
        seen = observation.numpy()
        targets = np.zeros((len(accounts), len(data.symbols)))
        for row in np.flatnonzero(alive).tolist():
            context = Context(history, start + step, start, row)
            targets[row] = strategies[accounts[row].strategy](seen[row], context)
        observation, _, ruined, _, infos = market.step(targets)
        found = {name: infos[name].numpy() for name in (*_Bars.TOTALS, "weights", "asset_net", "equity")}
        gross = _gross(panel, start + step, weights, equity, found["weights"], found["equity"])
        bar.record(step, alive, found, gross)
        equity, weights = found["equity"], found["weights"]
        alive &= ~ruined.numpy()  # a ruined account is closed; its loss stays in the returns
        if step + 1 == bars or panel.session[first + step + 1] != panel.session[first + step]:
            on_session()
    return _by_session(panel.session[first:stop], bar, accounts, data.symbols)


def _market(
    data: MarketData, limits: MarketParams, accounts: Sequence[Account], window: tuple[int, int]
) -> TradingMarket:
    return TradingMarket(
        data,
        limits,
        Units(trade=torch.ones(len(data.symbols)), risk=1.0),
        len(accounts),
        window,
        mode="weights",
        sequential=True,
        cost_multiple=torch.tensor([a.cost_multiple for a in accounts], dtype=torch.float64),
        capital=torch.tensor([a.capital_multiple * limits.capital for a in accounts], dtype=torch.float64),
    )


def _gross(panel: Panel, bar: int, weights: Float, equity: Float, later: Float, equity_later: Float) -> Float:
    """Each asset's profit ``(N, A)`` before costs from the close of ``bar`` to the next, over ``equity``.

    The book of ``weights`` earns until the next open, the book of ``later`` (the weights at the next close)
    from there on.
    """
    close, fill, end = panel.close[bar], panel.open[bar + 1], panel.close[bar + 1]
    overnight = weights * (fill / close - 1.0)
    return np.asarray(
        overnight + later * (equity_later / equity)[:, None] * (1.0 - fill / end), dtype=np.float64
    )


@dataclass(frozen=True)
class _Bars:
    """What the market answered, by bar and account ``(bars, N)`` and asset ``(bars, N, A)``."""

    TOTALS: ClassVar = ("net_return", "gross_return", "cost", "turnover")
    net_return: Float
    gross_return: Float
    cost: Float
    turnover: Float
    weights: Float
    asset_gross: Float
    asset_cost: Float

    def record(self, step: int, alive: npt.NDArray[np.bool_], found: dict[str, Float], gross: Float) -> None:
        for name in self.TOTALS:
            getattr(self, name)[step] = np.where(alive, found[name], 0.0)
        self.weights[step] = np.where(alive[:, None], found["weights"], 0.0)
        self.asset_gross[step] = np.where(alive[:, None], gross, 0.0)
        self.asset_cost[step] = np.where(alive[:, None], gross - found["asset_net"], 0.0)


def _by_session(
    days: npt.NDArray[np.datetime64], bar: _Bars, accounts: Sequence[Account], symbols: tuple[str, ...]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Aggregate bars to sessions."""
    sessions, begins = np.unique(days, return_index=True)
    count = np.diff(np.append(begins, len(days)))
    total = {
        "net_return": np.multiply.reduceat(1.0 + bar.net_return, begins) - 1.0,
        "gross_return": np.multiply.reduceat(1.0 + bar.gross_return, begins) - 1.0,
        "cost": np.add.reduceat(bar.cost, begins),
        "turnover": np.add.reduceat(bar.turnover, begins),
        "gross_exposure": np.add.reduceat(np.abs(bar.weights).sum(axis=2), begins) / count[:, None],
    }
    by_asset = {
        "weight": np.add.reduceat(bar.weights, begins) / count[:, None, None],
        "gross_return": np.add.reduceat(bar.asset_gross, begins),
        "cost": np.add.reduceat(bar.asset_cost, begins),
    }
    day = pl.Series("session", sessions).cast(pl.Date)
    returns, assets = [], []
    for row, account in enumerate(accounts):
        name = pl.lit(account.strategy).alias("strategy")
        multiples = [
            pl.lit(value, pl.Float64).alias(key)
            for key, value in (
                ("cost_multiple", account.cost_multiple),
                ("capital_multiple", account.capital_multiple),
            )
        ]
        columns = {key: values[:, row] for key, values in total.items()}
        returns.append(pl.DataFrame({"session": day, **columns}).select(name, *multiples, pl.all()))
        if account == Account(account.strategy):
            keys = {
                "session": day.repeat_by(len(symbols)).explode(),
                "symbol": list(symbols) * len(sessions),
            }
            columns = {key: values[:, row].ravel() for key, values in by_asset.items()}
            assets.append(pl.DataFrame(keys | columns).select(name, pl.all()))
    return pl.concat(returns), pl.concat(assets)
