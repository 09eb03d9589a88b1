"""What having picked one of many trials costs: ``metrics/trials.json``.

The trials are those that git knows now, so this is counted anew in every run of the pipeline and once more
before a release is signed, while the backtest itself depends on nothing but its inputs.
"""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.backtest import metrics
from sekisho.backtest.files import read_json, require_returns, rounded
from sekisho.backtest.names import BASELINES, MODELLED
from sekisho.backtest.trials import Trials, count_trials
from sekisho.errors import BacktestError
from sekisho.params import BacktestParams, Params

Float = npt.NDArray[np.float64]
DIGITS = 8  # decimals of a return in metrics/returns.csv


def returns_csv(returns: pl.DataFrame) -> bytes:
    """metrics/returns.csv from `simulate.Simulation.returns`: session, then net returns by strategy.

    Small enough for git, where the trials to come will find it.
    """
    table = returns.filter(pl.col("cost_multiple") == MODELLED).pivot(
        "strategy", index="session", values="net_return"
    )
    buffer = io.BytesIO()
    table.sort("session").with_columns(pl.exclude("session").round(DIGITS)).write_csv(buffer)
    return buffer.getvalue()


def count_and_select(
    metrics_file: Path, returns: Path, params: Params, repository: Path = Path()
) -> dict[str, Any]:
    """Content of ``metrics/trials.json`` for this backtest, by the trials that ``repository`` knows now.

    Raises:
        Refused: rule ``returns-digest``, the returns are not those that the backtest wrote.
        BacktestError: a file is missing or broken, or git cannot be read.
    """
    figures = read_json(metrics_file, "backtest")
    try:
        content = returns.read_bytes()
        require_returns(figures, hashlib.sha256(content).hexdigest(), str(returns))
        own = pl.read_csv(io.BytesIO(content), infer_schema_length=None, try_parse_dates=True)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BacktestError(f"{returns}: unreadable: {error}", remedy="run `dvc repro backtest`") from error
    try:
        same = len(own) == figures["window"]["sessions"] and {"session", "agent", *BASELINES} <= set(
            own.columns
        )
        present, candidate = (str(figures["opening"][key]) for key in ("train", "candidate"))
        periods = float(figures["sessions_per_year"])
        seeds = list(figures["agent"]["sharpe_by_seed"].values())
    except (KeyError, TypeError) as error:
        raise BacktestError(
            f"{metrics_file}: {error} is missing", remedy="run `dvc repro backtest` again"
        ) from error
    if not same:
        raise BacktestError(
            f"{returns}: not of the backtest in {metrics_file}", remedy="run `dvc repro backtest` again"
        )
    _require_numbers(own, returns)
    market = (params.data.calendar, params.data.bar)
    trials = count_trials(present, repository, candidate=candidate, market=market)
    return select(own, seeds, trials, periods, params.backtest)


def select(
    own: pl.DataFrame,
    seeds: list[float | None],
    trials: Trials,
    periods: float,
    params: BacktestParams,
) -> dict[str, Any]:
    """The figures that allow for having been picked among ``trials``.

    Overfitting and superior predictive ability judge the best of what could have been picked. Earlier trials
    with a higher Sharpe ratio on these sessions were not: they are left out, or their merit would be the
    candidate's.

    Args:
        own: metrics/returns.csv of the present trial.
        seeds: annualised Sharpe ratios of its agents.
    """
    net = _column(own, "agent")
    ratio = metrics.sharpe(net, 1.0)
    variance, source = _trial_variance(ratio, len(net), trials, seeds, periods)
    earlier = [
        _column(table, "agent")
        for table in trials.returns.values()
        if table["session"].equals(own["session"])
    ]
    no_better = [other for other in earlier if not _better(other, ratio)]
    tried = np.stack([net, *no_better], axis=1)
    baselines = np.stack([_column(own, name) for name in BASELINES], axis=1)
    choices = np.concatenate((tried, baselines), axis=1)
    best = _best_baseline(own)
    spa = {"samples": params.bootstrap_samples, "block": params.bootstrap_block, "seed": params.seed}
    return rounded(  # type: ignore[no-any-return]
        {
            "trials": trials.count,
            "history": trials.history,
            "train": trials.present,
            "sharpes": trials.sharpes,
            "deflated_sharpe": metrics.deflated_sharpe(net, trials.count, variance),
            "expected_max_sharpe": metrics.expected_max_sharpe(trials.count, variance) * math.sqrt(periods),
            "variance_from": source,
            "with_returns": tried.shape[1],
            "better_left_out": len(earlier) - len(no_better),
            "pbo": metrics.overfitting_probability(choices, params.pbo_blocks),
            "pbo_without_baselines": metrics.overfitting_probability(tried, params.pbo_blocks),
            "spa_cash": metrics.superior_ability(tried, np.zeros(len(net)), **spa),
            "spa_baseline": metrics.superior_ability(tried, _column(own, best), **spa),
            "best_baseline": best,
        }
    )


def _require_numbers(own: pl.DataFrame, path: Path) -> None:
    for name in ("agent", *BASELINES):
        numbers = own[name].cast(pl.Float64, strict=False).is_finite().fill_null(False)
        if not numbers.all():
            row = int(numbers.arg_min() or 0)
            raise BacktestError(
                f"{path}: row {row + 1}, {name}: {own[name][row]!r} is no finite number",
                remedy="run `dvc repro backtest` again",
            )


def _column(table: pl.DataFrame, name: str) -> Float:
    return np.asarray(table[name].cast(pl.Float64).to_numpy(), dtype=np.float64)


def _better(other: Float, ratio: float | None) -> bool:
    """Whether the Sharpe ratio of ``other`` returns is above ``ratio``; so it is where that is undefined."""
    found = metrics.sharpe(other, 1.0)
    return found is not None and (ratio is None or found > ratio)


def _best_baseline(own: pl.DataFrame) -> str:
    def ratio(name: str) -> float:
        found = metrics.sharpe(_column(own, name), 1.0)
        return -math.inf if found is None else found

    return max(BASELINES, key=ratio)


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
