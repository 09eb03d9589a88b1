"""From session returns to ``metrics/backtest.json``: every figure that depends on this result alone.

What depends on the other trials as well is in `selection`: it changes while this result does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.backtest import metrics
from sekisho.backtest.files import rounded
from sekisho.backtest.names import BASELINES, CHAMPION, MODELLED, SEED
from sekisho.backtest.simulate import Simulation
from sekisho.backtest.splits import Fold
from sekisho.errors import BacktestError
from sekisho.market.regimes import REGIMES
from sekisho.params import BacktestParams

Float = npt.NDArray[np.float64]


def evaluate(
    simulation: Simulation,
    regimes: pl.DataFrame,
    folds: Sequence[Fold],
    seeds: Sequence[int],
    opening: dict[str, str],
    periods: float,
    params: BacktestParams,
) -> dict[str, Any]:
    """Content of ``metrics/backtest.json``.

    Args:
        simulation: strategy ``agent`` is the first seed's, ``agent-seed-<s>`` the others'.
        regimes: session, regime; see `regimes_of`.
        opening: ``candidate``, sha256 of the models that traded as ``agent``; ``train``, DVC's digest of the
        training result; ``champion``, the release that was compared, or "none".
        periods: sessions in a year of the calendar.

    Raises:
        BacktestError: no row for the agent at the modelled costs, or fewer than two sessions.
    """
    table = Returns(simulation.returns)
    net = table.net("agent")
    if len(net) < 2:
        raise BacktestError("the backtest holds fewer than two sessions", remedy="raise split.test_sessions")
    if not np.isfinite(simulation.returns.select(pl.exclude("strategy", "session")).to_numpy()).all():
        raise BacktestError(
            "the simulated returns are not finite", remedy="look for missing prices in build/bars"
        )
    sessions = table.sessions()
    window = {"first": str(sessions[0]), "last": str(sessions[-1]), "sessions": len(sessions)}
    names = ["agent", *(f"{SEED}{seed}" for seed in seeds[1:])]
    compared = [name for name in (*BASELINES, CHAMPION) if name in table.names]
    own = {
        "probabilistic_sharpe": metrics.deflated_sharpe(net, 1, 0.0),
        "min_track_record_sessions": _track_record(net, params.confidence),
        "sharpe_by_seed": {
            str(seed): metrics.sharpe(table.net(name), periods)
            for seed, name in zip(seeds, names, strict=True)
        },
        "capacity": _capacity(simulation.capacity, periods, params),
    }
    content = {
        "window": window,
        "opening": opening | {"window": window},
        "sessions_per_year": periods,
        "agent": _figures(table, "agent", periods, params) | own,
        "baselines": {name: _figures(table, name, periods, params) for name in compared},
        "over_champion": _over_champion(table, periods, params),
        "folds": [_fold(table, fold, periods) for fold in folds],
        "regimes": _by_regime(table, regimes, periods),
        "attribution": _attribution(simulation.assets),
    }
    return {key: rounded(value) for key, value in content.items()}


class Returns:
    """Columns of the returns table as arrays, by strategy and cost multiple."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.parts = {
            (str(key[0]), float(key[1])): part
            for key, part in frame.partition_by(
                "strategy", "cost_multiple", as_dict=True, maintain_order=True
            ).items()
        }
        self.names = {name for name, _ in self.parts}

    def column(self, strategy: str, multiple: float, column: str) -> Float:
        try:
            values = self.parts[strategy, multiple][column].to_numpy()
        except KeyError as error:
            raise BacktestError(
                f"no returns of {strategy} at {multiple:g} × costs",
                remedy="backtest.cost_multiples must hold 1.0; run `dvc repro backtest`",
            ) from error
        return np.asarray(values, dtype=np.float64)

    def net(self, strategy: str, multiple: float = MODELLED) -> Float:
        return self.column(strategy, multiple, "net_return")

    def multiples(self, strategy: str) -> list[float]:
        return sorted(multiple for name, multiple in self.parts if name == strategy)

    def sessions(self) -> list[Any]:
        self.net("agent")
        return self.parts["agent", MODELLED]["session"].to_list()


def _figures(table: Returns, name: str, periods: float, params: BacktestParams) -> dict[str, Any]:
    """What every strategy has; all net of the modelled costs unless it says otherwise."""
    net = table.net(name)
    multiples = table.multiples(name)
    low, high = metrics.sharpe_interval(net, periods, **_bootstrap(params))
    return {
        "sharpe": metrics.sharpe(net, periods),
        "sharpe_low": low,
        "sharpe_high": high,
        "annual_return": metrics.annual_return(net, periods),
        "annual_return_gross": metrics.annual_return(table.column(name, MODELLED, "gross_return"), periods),
        "annual_volatility": metrics.annual_volatility(net, periods),
        "total_return": _total(net),
        "max_drawdown": metrics.max_drawdown(net),
        "turnover": float(table.column(name, MODELLED, "turnover").mean()),
        "annual_cost": float(table.column(name, MODELLED, "cost").mean()) * periods,
        "gross_exposure": float(table.column(name, MODELLED, "gross_exposure").mean()),
        "sharpe_by_cost": {f"{m:g}": metrics.sharpe(table.net(name, m), periods) for m in multiples},
        "annual_return_by_cost": {
            f"{m:g}": metrics.annual_return(table.net(name, m), periods) for m in multiples
        },
    }


def _bootstrap(params: BacktestParams) -> dict[str, Any]:
    return {
        "samples": params.bootstrap_samples,
        "block": params.bootstrap_block,
        "confidence": params.confidence,
        "seed": params.seed,
    }


def _track_record(net: Float, confidence: float) -> int | None:
    """Sessions until a Sharpe ratio like this one is above zero with this confidence."""
    ratio = metrics.sharpe(net, 1.0)
    if ratio is None or float(net.std()) <= metrics.NO_VARIANCE:
        return None
    needed = metrics.min_track_record(ratio, 0.0, *metrics.shape(net), confidence)
    return None if needed is None else math.ceil(needed)


def _capacity(frame: pl.DataFrame, periods: float, params: BacktestParams) -> dict[str, Any]:
    """The agent's figures by capital multiple, and the multiple at which its edge is gone."""
    parts = {
        float(key[0]): part["net_return"].to_numpy()
        for key, part in frame.filter(pl.col("strategy") == "agent")
        .partition_by("capital_multiple", as_dict=True, maintain_order=True)
        .items()
    }
    ratios = {multiple: metrics.sharpe(net, periods) for multiple, net in parts.items()}
    multiple, reached = metrics.capacity(ratios, params.capacity_share)
    return {
        "share": params.capacity_share,
        "multiple": multiple,
        "reached": reached,  # false: the edge still stands at the largest multiple
        "sharpe": {f"{m:g}": ratio for m, ratio in ratios.items()},
        "annual_return": {f"{m:g}": metrics.annual_return(net, periods) for m, net in parts.items()},
    }


def _over_champion(table: Returns, periods: float, params: BacktestParams) -> dict[str, Any] | None:
    if CHAMPION not in table.names:
        return None
    found = metrics.sharpe_difference(table.net("agent"), table.net(CHAMPION), periods, **_bootstrap(params))
    return dict(zip(("sharpe", "sharpe_low", "sharpe_high"), found or (None, None, None), strict=True))


def _fold(table: Returns, fold: Fold, periods: float) -> dict[str, Any]:
    inside = np.array([fold.test[0] <= day <= fold.test[1] for day in table.sessions()])
    net = table.net("agent")[inside]
    return {
        "fold": fold.index,
        "train_last": str(fold.validation[1]),
        "first": str(fold.test[0]),
        "last": str(fold.test[1]),
        "sessions": len(net),
        "sharpe": metrics.sharpe(net, periods),
        "total_return": _total(net),
        "max_drawdown": metrics.max_drawdown(net),
        "buy_and_hold_return": _total(table.net("buy-and-hold")[inside]),
    }


def _by_regime(table: Returns, regimes: pl.DataFrame, periods: float) -> list[dict[str, Any]]:
    """Figures by volatility regime, known before the session, and by whether the market rose in it.

    The market is the mean asset, as buy-and-hold has it: its sign is known only afterwards.
    """
    net, held = table.net("agent"), table.net("buy-and-hold")
    regime = regimes["regime"].to_numpy()
    rows = []
    for name in REGIMES:
        for market, moved in (("up", held > 0.0), ("down", held <= 0.0)):
            inside = (regime == name) & moved
            rows.append(
                {
                    "volatility": name,
                    "market": market,
                    "sessions": int(inside.sum()),
                    "sharpe": metrics.sharpe(net[inside], periods),
                    "total_return": _total(net[inside]),
                    "buy_and_hold_return": _total(held[inside]),
                }
            )
    return rows


def _attribution(assets: pl.DataFrame) -> list[dict[str, Any]]:
    """Each symbol's part of the agent's sum of returns: before costs, its costs, and net."""
    sums = (
        assets.filter(pl.col("strategy") == "agent")
        .group_by("symbol", maintain_order=True)
        .agg(pl.col("gross_return").sum(), pl.col("cost").sum(), pl.col("weight").abs().mean())
    )
    return [
        {
            "symbol": row["symbol"],
            "gross_return": row["gross_return"],
            "cost": row["cost"],
            "net_return": row["gross_return"] - row["cost"],
            "mean_weight": row["weight"],
        }
        for row in sums.iter_rows(named=True)
    ]


def _total(net: Float) -> float:
    return float(np.prod(np.maximum(1.0 + net, 0.0))) - 1.0
