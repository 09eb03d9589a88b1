"""Walk-forward simulation: all strategies and cost multiples side by side in the market of training.

Each test window starts with fresh capital and no positions; the first decision is taken at the last close
before it. A window's end marks the book and does not sell it; the next window pays for building it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from sekisho.backtest.splits import Fold
from sekisho.backtest.strategies import Context, History, Strategy
from sekisho.data.panel import Panel
from sekisho.errors import BacktestError
from sekisho.market import MarketData, TradingMarket, Units
from sekisho.params import MarketParams

Float = npt.NDArray[np.float64]
STRATEGY_COST = 1.0  # the cost multiple of figures that name none


@dataclass(frozen=True)
class Simulation:
    """``returns``: strategy, cost_multiple, session, net_return, gross_return, cost, turnover,
    gross_exposure.

    One row per session; returns compound over its bars, ``cost`` and ``turnover`` are sums of fractions of
    equity, ``gross_exposure`` is the mean sum of |weights|. ``weights``: strategy, session, symbol, weight
    (mean over the session's bars, at the modelled costs).
    """

    returns: pl.DataFrame
    weights: pl.DataFrame


def simulate(
    panel: Panel,
    features: npt.NDArray[np.float32],
    folds: Sequence[Fold],
    strategies: Sequence[dict[str, Strategy]],
    cost_multiples: Sequence[float],
    limits: MarketParams,
    on_session: Callable[[], object] = lambda: None,
) -> Simulation:
    """Trade the folds' test windows.

    Args:
        features: ``(T, A, F)`` of the panel's bars.
        strategies: by name, one mapping per fold, all with the same names in the same order.
        on_session: called after each simulated session (progress).

    Raises:
        BacktestError: a window has no bar before it, or a strategy cannot decide.
        TrainingError: prices or features of a window are not finite.
    """
    data = MarketData.from_panel(panel, features, limits)
    history = History(panel)
    parts = [
        _window(data, history, fold, chosen, cost_multiples, limits, on_session)
        for fold, chosen in zip(folds, strategies, strict=True)
    ]
    order = {name: place for place, name in enumerate(strategies[0])}
    rank = pl.col("strategy").replace_strict(order, return_dtype=pl.Int32)
    return Simulation(
        returns=pl.concat([p.returns for p in parts]).sort(rank, "cost_multiple", "session"),
        weights=pl.concat([p.weights for p in parts]).sort(rank, "session", "symbol"),
    )


def _window(
    data: MarketData,
    history: History,
    fold: Fold,
    strategies: dict[str, Strategy],
    multiples: Sequence[float],
    limits: MarketParams,
    on_session: Callable[[], object],
) -> Simulation:
    """One test window: the rows of the market are strategies × cost multiples."""
    days = history.panel.session
    first = int(np.searchsorted(days, np.datetime64(fold.test[0])))
    stop = int(np.searchsorted(days, np.datetime64(fold.test[1]), side="right"))
    if first == 0 or first == stop:
        raise BacktestError(
            f"fold {fold.index}: no bar in test window {fold.test[0]} to {fold.test[1]}, or none before it",
            remedy="build/bars is shorter than the split needs: run `dvc repro validate`",
        )
    start = first - 1
    names = [(name, multiple) for name in strategies for multiple in multiples]
    accounts = list(strategies.values())
    market = TradingMarket(
        data,
        limits,
        Units(trade=torch.ones(len(data.symbols)), risk=1.0),
        len(names),
        (start, stop),
        mode="weights",
        sequential=True,
        cost_multiple=torch.tensor(list(multiples) * len(strategies), dtype=torch.float64),
    )
    observation, _ = market.reset()
    bars = stop - first
    figures = {
        name: np.zeros((bars, len(names))) for name in ("net_return", "gross_return", "cost", "turnover")
    }
    weights = np.zeros((bars, len(names), len(data.symbols)))
    alive = np.ones(len(names), dtype=np.bool_)
    for step in range(bars):
        seen = observation.numpy()
        context = Context(history, start + step, start)
        targets = np.zeros((len(names), len(data.symbols)))
        for row in np.flatnonzero(alive):
            targets[row] = accounts[row // len(multiples)](seen[row], context)
        observation, _, ruined, _, infos = market.step(targets)
        for name, values in figures.items():
            values[step] = np.where(alive, infos[name].numpy(), 0.0)
        weights[step] = np.where(alive[:, None], infos["weights"].numpy(), 0.0)
        alive &= ~ruined.numpy()  # a ruined account is closed; its loss stays in the returns
        if step + 1 == bars or days[first + step + 1] != days[first + step]:
            on_session()
    return _by_session(days[first:stop], figures, weights, names, data.symbols)


def _by_session(
    days: npt.NDArray[np.datetime64],
    figures: dict[str, Float],
    weights: Float,
    names: list[tuple[str, float]],
    symbols: tuple[str, ...],
) -> Simulation:
    """Aggregate bars ``(bars, rows)`` to sessions."""
    sessions, begins = np.unique(days, return_index=True)
    count = np.diff(np.append(begins, len(days)))
    total = {
        "net_return": np.multiply.reduceat(1.0 + figures["net_return"], begins) - 1.0,
        "gross_return": np.multiply.reduceat(1.0 + figures["gross_return"], begins) - 1.0,
        "cost": np.add.reduceat(figures["cost"], begins),
        "turnover": np.add.reduceat(figures["turnover"], begins),
        "gross_exposure": np.add.reduceat(np.abs(weights).sum(axis=2), begins) / count[:, None],
    }
    mean = np.add.reduceat(weights, begins) / count[:, None, None]
    day = pl.Series("session", sessions).cast(pl.Date)
    returns = [
        pl.DataFrame({"session": day, **{key: values[:, row] for key, values in total.items()}}).select(
            pl.lit(name).alias("strategy"), pl.lit(multiple).cast(pl.Float64).alias("cost_multiple"), pl.all()
        )
        for row, (name, multiple) in enumerate(names)
    ]
    held = [
        pl.DataFrame(
            {
                "session": day.repeat_by(len(symbols)).explode(),
                "symbol": list(symbols) * len(sessions),
                "weight": mean[:, row].ravel(),
            }
        ).select(pl.lit(name).alias("strategy"), pl.all())
        for row, (name, multiple) in enumerate(names)
        if multiple == STRATEGY_COST
    ]
    return Simulation(pl.concat(returns), pl.concat(held))
