"""From session returns to ``metrics/backtest.json``: every figure that the gate and the report use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.backtest import metrics
from sekisho.backtest.splits import Fold
from sekisho.backtest.trials import Trials
from sekisho.errors import BacktestError
from sekisho.params import BacktestParams

Float = npt.NDArray[np.float64]
BASELINES = ("cash", "buy-and-hold", "momentum", "minimum-variance", "champion")
SEED = "agent-seed-"


def evaluate(
    returns: pl.DataFrame,
    folds: Sequence[Fold],
    seeds: Sequence[int],
    trials: Trials,
    candidate: str,
    periods: float,
    params: BacktestParams,
) -> dict[str, Any]:
    """Content of ``metrics/backtest.json``.

    Args:
        returns: of `simulate.Simulation`; strategy ``agent`` is the first seed's, ``agent-seed-<s>`` the
        others'.
        candidate: sha256 of the models that traded as ``agent``.
        periods: sessions in a year of the calendar.

    Raises:
        BacktestError: no row for the agent at the modelled costs.
    """
    table = _Returns(returns)
    net = table.net("agent", 1.0)
    if len(net) < 2:
        raise BacktestError("the backtest holds fewer than two sessions", remedy="raise split.test_sessions")
    sessions = table.sessions()
    window = {"first": str(sessions[0]), "last": str(sessions[-1]), "sessions": len(sessions)}
    by_seed = {
        seed: table.net("agent" if not place else f"{SEED}{seed}", 1.0) for place, seed in enumerate(seeds)
    }
    agent = _figures(table, "agent", periods, params) | _selection(net, by_seed, trials, periods, params)
    content = {
        "window": window,
        "trials": trials.count,
        "opening": {
            "candidate": candidate,
            "window": window,
            "trials": trials.count,
            "train": trials.present,
            "history": trials.history,
            "sharpes": trials.sharpes,
        },
        "sessions_per_year": periods,
        "agent": agent,
        "baselines": {
            name: _figures(table, name, periods, params) for name in BASELINES if name in table.names
        },
        "folds": [_fold(table, fold, periods) for fold in folds],
    }
    return {key: _rounded(value) for key, value in content.items()}


class _Returns:
    """Columns of the returns table as arrays, by strategy and cost multiple."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.parts = {
            (str(key[0]), float(key[1])): part
            for key, part in frame.partition_by(
                "strategy", "cost_multiple", as_dict=True, maintain_order=True
            ).items()
        }
        self.names = {name for name, _ in self.parts}
        self.multiples = sorted({multiple for _, multiple in self.parts})

    def column(self, strategy: str, multiple: float, column: str) -> Float:
        try:
            values = self.parts[strategy, multiple][column].to_numpy()
        except KeyError as error:
            raise BacktestError(
                f"no returns of {strategy} at {multiple:g} × costs",
                remedy="backtest.cost_multiples must hold 1.0; run `dvc repro backtest`",
            ) from error
        return np.asarray(values, dtype=np.float64)

    def net(self, strategy: str, multiple: float) -> Float:
        return self.column(strategy, multiple, "net_return")

    def sessions(self) -> list[Any]:
        return self.parts["agent", 1.0]["session"].to_list()


def _figures(table: _Returns, name: str, periods: float, params: BacktestParams) -> dict[str, Any]:
    """What every strategy has; all net of the modelled costs unless it says otherwise."""
    net = table.net(name, 1.0)
    low, high = metrics.sharpe_interval(
        net,
        periods,
        samples=params.bootstrap_samples,
        block=params.bootstrap_block,
        confidence=params.confidence,
        seed=params.seed,
    )
    return {
        "sharpe": metrics.sharpe(net, periods),
        "sharpe_low": low,
        "sharpe_high": high,
        "annual_return": metrics.annual_return(net, periods),
        "annual_return_gross": metrics.annual_return(table.column(name, 1.0, "gross_return"), periods),
        "annual_volatility": metrics.annual_volatility(net, periods),
        "total_return": float(np.prod(np.maximum(1.0 + net, 0.0))) - 1.0,
        "max_drawdown": metrics.max_drawdown(net),
        "turnover": float(table.column(name, 1.0, "turnover").mean()),
        "annual_cost": float(table.column(name, 1.0, "cost").mean()) * periods,
        "gross_exposure": float(table.column(name, 1.0, "gross_exposure").mean()),
        "sharpe_by_cost": {f"{m:g}": metrics.sharpe(table.net(name, m), periods) for m in table.multiples},
        "annual_return_by_cost": {
            f"{m:g}": metrics.annual_return(table.net(name, m), periods) for m in table.multiples
        },
    }


def _selection(
    net: Float, by_seed: dict[int, Float], trials: Trials, periods: float, params: BacktestParams
) -> dict[str, Any]:
    """What only the agent has: the figures that allow for having been picked among trials and seeds."""
    ratio = metrics.sharpe(net, 1.0)
    seeds = {str(seed): metrics.sharpe(values, periods) for seed, values in by_seed.items()}
    variance, source = _trial_variance(ratio, len(net), trials, list(seeds.values()), periods)
    pbo = metrics.overfitting_probability(np.stack(list(by_seed.values()), axis=1), params.pbo_blocks)
    reason = None
    if pbo is None:
        reason = (
            "only one agent has returns on these sessions"
            if len(by_seed) < 2
            else f"{len(net)} sessions are fewer than two in each of {params.pbo_blocks} blocks"
        )
    traded = ratio is not None and float(net.std()) > metrics.NO_VARIANCE
    needed = (
        metrics.min_track_record(ratio, 0.0, *metrics.shape(net), params.confidence)
        if ratio and traded
        else None
    )
    return {
        "probabilistic_sharpe": metrics.deflated_sharpe(net, 1, 0.0),
        "deflated_sharpe": metrics.deflated_sharpe(net, trials.count, variance),
        "expected_max_sharpe": metrics.expected_max_sharpe(trials.count, variance) * math.sqrt(periods),
        "trial_variance_from": source,
        "min_track_record_sessions": None if needed is None else math.ceil(needed),
        "sharpe_by_seed": seeds,
        "pbo": pbo,
        "pbo_missing": reason,
    }


def _trial_variance(
    ratio: float | None, sessions: int, trials: Trials, seeds: list[float | None], periods: float
) -> tuple[float, str]:
    """Variance of per-session Sharpe ratios across trials, and where it comes from.

    From the earlier trials' own ratios where git holds any, else from the seeds, else from sampling alone.
    Never below 1 / (sessions − 1), the variance between trials without skill: near-copies of one trial (or
    two seeds that happen to agree) must not hide that one of many was picked.
    """
    sampling = 1.0 / (sessions - 1)
    known = [value / math.sqrt(periods) for value in trials.sharpes.values()] + (
        [ratio] if ratio is not None else []
    )
    drawn = [value / math.sqrt(periods) for value in seeds if value is not None]
    for values, source in ((known, "trials"), (drawn, "seeds")):
        if len(values) > 1 and float(np.var(values, ddof=1)) > sampling:
            return float(np.var(values, ddof=1)), source
        if len(values) > 1:
            break
    return sampling, "sampling"


def _fold(table: _Returns, fold: Fold, periods: float) -> dict[str, Any]:
    inside = np.array([fold.test[0] <= day <= fold.test[1] for day in table.sessions()])
    net = table.net("agent", 1.0)[inside]
    held = table.net("buy-and-hold", 1.0)[inside]
    return {
        "fold": fold.index,
        "train_last": str(fold.validation[1]),
        "first": str(fold.test[0]),
        "last": str(fold.test[1]),
        "sessions": len(net),
        "sharpe": metrics.sharpe(net, periods),
        "total_return": float(np.prod(1.0 + net)) - 1.0,
        "max_drawdown": metrics.max_drawdown(net),
        "buy_and_hold_return": float(np.prod(1.0 + held)) - 1.0,
    }


def _rounded(value: Any) -> Any:
    """Floats to eight significant digits: what lies below is rounding and would clutter every diff."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value
