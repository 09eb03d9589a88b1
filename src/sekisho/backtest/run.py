"""The ``backtest`` stage: trained agents in, ``build/backtest`` and two files under ``metrics/`` out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.backtest import metrics
from sekisho.backtest.champion import Champion, find_champion, with_own_features
from sekisho.backtest.evaluate import evaluate
from sekisho.backtest.files import to_json, write_together
from sekisho.backtest.names import CHAMPION, MODELLED, SEED
from sekisho.backtest.selection import returns_csv
from sekisho.backtest.simulate import Account, Simulation, simulate
from sekisho.backtest.splits import Fold, walk_forward
from sekisho.backtest.strategies import Agent, Strategy, baselines
from sekisho.backtest.trials import folder_digest
from sekisho.calendar import Calendar
from sekisho.data.panel import Panel, load_panel
from sekisho.data.store import replaced, write_partition
from sekisho.errors import BacktestError
from sekisho.features import compute_features, feature_names, load_features
from sekisho.market.data import delisting_bars
from sekisho.market.regimes import REGIMES, volatility_regimes
from sekisho.params import BacktestParams, Params


def run_backtest(
    params: Params,
    *,
    bars: Path,
    features: Path,
    train: Path,
    out: Path,
    metrics_file: Path,
    returns_file: Path,
    repository: Path = Path(),
    on_session: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Run every agent, the baselines and the champion through the test windows; returns the metrics it wrote.

    The champion is found in ``repository``, see `champion.find_champion`. It may have been trained on some of
    these sessions, which favours it.

    Raises:
        BacktestError: a model is missing or broken, the history is too short, or there are fewer than two
        symbols.
        DataError: bars or features are missing or stale; the disk is full.
    """
    panel = load_panel(bars)
    if len(panel.symbols) < 2:
        raise BacktestError(
            f"{bars}: one symbol, {panel.symbols[0]}; the baselines need two or more",
            remedy="add symbols: with one, minimum variance and buy-and-hold are the same book",
        )
    table = load_features(features, panel)
    folds = walk_forward([day.item() for day in np.unique(panel.session)], params.split)
    champion = find_champion(repository, params.backtest.champion)
    rival = _champion(champion, panel, params) if champion else {}
    chosen = [
        _agents(params, train, fold) | baselines(params.market, params.backtest) | rival for fold in folds
    ]
    accounts = accounts_of(list(chosen[0]), params.backtest)
    simulation = simulate(panel, table, folds, chosen, accounts, params.market, on_session)
    regimes = regimes_of(panel, folds, params.market.vol_window)
    opening = {
        "candidate": _candidate(train, folds, params.train.seeds[0]),
        "train": folder_digest(train),
        "champion": champion.release if champion else "none",
    }
    periods = Calendar(params.data.calendar, "1d").bars_per_year()
    figures = evaluate(simulation, regimes, folds, params.train.seeds, opening, periods, params.backtest)
    table_of_returns = returns_csv(simulation.returns)
    figures["delistings"] = delistings_of(panel, folds, params.market.delisting_sessions)
    figures["returns_sha256"] = hashlib.sha256(table_of_returns).hexdigest()
    with replaced(out) as (fresh,):
        _write_tables(simulation, regimes, params.backtest, fresh)
        write_together({returns_file: table_of_returns, metrics_file: to_json(figures)})
    return figures


def regimes_of(panel: Panel, folds: list[Fold], window: int) -> pl.DataFrame:
    """session, regime of the test sessions: known at the close before each.

    Volatility terciles are those of the fold's own training and validation windows.
    """
    parts = []
    for fold in folds:
        start = int(np.searchsorted(panel.session, np.datetime64(fold.train[0])))
        stop = int(np.searchsorted(panel.session, np.datetime64(fold.validation[1]), side="right"))
        found = volatility_regimes(panel.close, window, start, stop)
        sessions, first = np.unique(panel.session, return_index=True)
        inside = (sessions >= np.datetime64(fold.test[0])) & (sessions <= np.datetime64(fold.test[1]))
        names = [REGIMES[regime] for regime in found[first[inside] - 1]]
        parts.append(pl.DataFrame({"session": sessions[inside], "regime": names}))
    return pl.concat(parts).with_columns(pl.col("session").cast(pl.Date))


def delistings_of(panel: Panel, folds: list[Fold], sessions: int) -> list[dict[str, str]]:
    """Symbols that are delisted within a test window, and the session in which positions are paid out."""
    bars, assets = np.nonzero(delisting_bars(panel, sessions))
    found = [
        (panel.session[bar].item(), panel.symbols[asset]) for bar, asset in zip(bars, assets, strict=True)
    ]
    inside = [any(fold.test[0] <= day <= fold.test[1] for fold in folds) for day, _ in found]
    return [
        {"symbol": symbol, "session": str(day)}
        for (day, symbol), tested in zip(found, inside, strict=True)
        if tested
    ]


def _agents(params: Params, train: Path, fold: Fold) -> dict[str, Strategy]:
    first, *others = params.train.seeds
    chosen: dict[str, Strategy] = {"agent": Agent(_model(train, fold, first))}
    return chosen | {f"{SEED}{seed}": Agent(_model(train, fold, seed)) for seed in others}


def _champion(champion: Champion, panel: Panel, params: Params) -> dict[str, Strategy]:
    agent: Strategy = Agent(champion.model)
    features: npt.NDArray[np.float32] = compute_features(panel, champion.features)
    names = feature_names(champion.features)
    return {CHAMPION: with_own_features(champion, agent, features, names, panel.symbols)}


def accounts_of(names: list[str], params: BacktestParams) -> list[Account]:
    """Every strategy at every cost, other seeds at the modelled one only, the agent also at every capital."""
    accounts = [
        Account(name, multiple)
        for name in names
        for multiple in ((MODELLED,) if name.startswith(SEED) else params.cost_multiples)
    ]
    return accounts + [Account("agent", MODELLED, multiple) for multiple in params.capital_multiples[1:]]


def _model(train: Path, fold: Fold, seed: int) -> Path:
    return train / f"fold-{fold.index}" / f"seed-{seed}" / "model.onnx"


def _candidate(train: Path, folds: list[Fold], seed: int) -> str:
    """sha256 over the sha256 of the models that trade as ``agent``, in the order of the windows."""
    digests = [hashlib.sha256(_model(train, fold, seed).read_bytes()).hexdigest() for fold in folds]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _write_tables(
    simulation: Simulation, regimes: pl.DataFrame, params: BacktestParams, folder: Path
) -> None:
    write_partition(simulation.returns, folder / "returns.parquet")
    write_partition(simulation.assets, folder / "assets.parquet")
    write_partition(regimes, folder / "regimes.parquet")
    agent = simulation.returns.filter((pl.col("strategy") == "agent") & (pl.col("cost_multiple") == MODELLED))
    low, high = metrics.equity_band(
        agent["net_return"].to_numpy(),
        samples=params.bootstrap_samples,
        block=params.bootstrap_block,
        confidence=params.confidence,
        seed=params.seed,
    )
    band = pl.DataFrame({"session": agent["session"], "low": low, "high": high})
    write_partition(band, folder / "band.parquet")  # agent's equity, start 1: resampled paths' interval
