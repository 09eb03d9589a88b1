"""The ``backtest`` stage: trained agents in, ``build/backtest`` and ``metrics/backtest.json`` out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sekisho.backtest import metrics
from sekisho.backtest.evaluate import SEED, evaluate
from sekisho.backtest.files import write_json
from sekisho.backtest.simulate import STRATEGY_COST, Simulation, simulate
from sekisho.backtest.splits import Fold, walk_forward
from sekisho.backtest.strategies import Agent, Strategy, baselines
from sekisho.backtest.trials import count_trials
from sekisho.calendar import Calendar
from sekisho.data.panel import load_panel
from sekisho.data.store import replaced, write_partition
from sekisho.features import load_features
from sekisho.params import BacktestParams, Params


def run_backtest(
    params: Params,
    *,
    bars: Path,
    features: Path,
    train: Path,
    out: Path,
    metrics_file: Path,
    champion: Path | None = None,
    repository: Path = Path(),
    on_session: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Run every agent, the baselines and the champion through the test windows; returns the metrics it wrote.

    ``champion`` is the model in production: it may have been trained on some of these sessions, which
    favours it.

    Raises:
        BacktestError: a model is missing or broken, or the history is too short.
        DataError: bars or features are missing or stale; the disk is full.
    """
    panel = load_panel(bars)
    table = load_features(features, panel)
    folds = walk_forward([day.item() for day in np.unique(panel.session)], params.split)
    trials = count_trials(train, repository, market=(params.data.calendar, params.data.bar))
    strategies = [_strategies(params, train, fold, champion) for fold in folds]
    simulation = simulate(
        panel, table, folds, strategies, params.backtest.cost_multiples, params.market, on_session
    )
    periods = Calendar(params.data.calendar, "1d").bars_per_year()
    figures = evaluate(
        simulation.returns,
        folds,
        params.train.seeds,
        trials,
        _candidate(train, folds, params.train.seeds[0]),
        periods,
        params.backtest,
    )
    with replaced(out) as (fresh,):
        _write_tables(simulation, params.backtest, fresh)
        write_json(figures, metrics_file)
    return figures


def _strategies(params: Params, train: Path, fold: Fold, champion: Path | None) -> dict[str, Strategy]:
    first, *others = params.train.seeds
    chosen: dict[str, Strategy] = {"agent": Agent(_model(train, fold, first))}
    chosen |= {f"{SEED}{seed}": Agent(_model(train, fold, seed)) for seed in others}
    chosen |= baselines(params.market, params.backtest)
    return chosen | ({"champion": Agent(champion)} if champion else {})


def _model(train: Path, fold: Fold, seed: int) -> Path:
    return train / f"fold-{fold.index}" / f"seed-{seed}" / "model.onnx"


def _candidate(train: Path, folds: list[Fold], seed: int) -> str:
    """sha256 over the sha256 of the models that trade as ``agent``, in the order of the windows."""
    digests = [hashlib.sha256(_model(train, fold, seed).read_bytes()).hexdigest() for fold in folds]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _write_tables(simulation: Simulation, params: BacktestParams, folder: Path) -> None:
    write_partition(simulation.returns, folder / "returns.parquet")
    write_partition(simulation.weights, folder / "weights.parquet")
    agent = simulation.returns.filter(
        (pl.col("strategy") == "agent") & (pl.col("cost_multiple") == STRATEGY_COST)
    )
    low, high = metrics.equity_band(
        agent["net_return"].to_numpy(),
        samples=params.bootstrap_samples,
        block=params.bootstrap_block,
        confidence=params.confidence,
        seed=params.seed,
    )
    band = pl.DataFrame({"session": agent["session"], "low": low, "high": high})
    write_partition(band, folder / "band.parquet")  # agent's equity, start 1: resampled paths' interval
