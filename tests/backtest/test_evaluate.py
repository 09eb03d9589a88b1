"""From session returns to figures: regimes, attribution, capacity, champion; and noise seldom passes."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import polars as pl
import pytest

from sekisho.backtest.evaluate import evaluate
from sekisho.backtest.gate import judge
from sekisho.backtest.selection import returns_csv, select
from sekisho.backtest.simulate import Simulation
from sekisho.backtest.splits import Fold
from sekisho.backtest.trials import Trials
from sekisho.errors import BacktestError
from sekisho.params import Params

from .conftest import sessions_from
from .test_gate import GOOD

SESSIONS = sessions_from(180)
WINDOW = (SESSIONS[0], SESSIONS[-1])
FOLDS = [Fold(0, WINDOW, (dt.date(2023, 1, 4), dt.date(2023, 12, 29)), WINDOW)]
YEAR = 245.0
OPENING = {"candidate": "c", "train": "t", "champion": "none"}
REGIMES = pl.DataFrame({"session": SESSIONS, "regime": ["calm"] * 60 + ["normal"] * 60 + ["turbulent"] * 60})
NAMES = ("agent", "agent-seed-2", "cash", "buy-and-hold", "momentum", "minimum-variance")


def simulated(
    edge: float, seed: int, multiples: tuple[float, ...] = (1.0, 2.0), names: tuple[str, ...] = NAMES
) -> Simulation:
    """Session returns: the agent's have the Sharpe ratio ``edge`` a year and cost a little."""
    rng = np.random.default_rng(seed)
    parts, assets = [], []
    for name in names:
        mean = edge / np.sqrt(YEAR) * 0.01 if name.startswith(("agent", "champion")) else 0.0
        gross = np.zeros(180) if name == "cash" else mean + 0.01 * rng.standard_t(5, 180) / np.sqrt(5 / 3)
        accounts = [(cost, 1.0) for cost in multiples] + ([(1.0, 10.0)] if name == "agent" else [])
        for multiple, capital in accounts:
            cost = 0.0 if name == "cash" else 1e-5 * multiple * capital**0.5
            figures = {"net_return": gross - cost, "gross_return": gross, "cost": cost}
            figures |= {"turnover": 0.0 if name == "cash" else 1.0, "gross_exposure": 1.0}
            keys = {"strategy": name, "cost_multiple": multiple, "capital_multiple": capital}
            parts.append(pl.DataFrame(keys | {"session": SESSIONS} | figures))
        for symbol, share in (("A", 0.75), ("B", 0.25)):
            keys = {"strategy": name, "session": SESSIONS, "symbol": symbol, "weight": -share}
            assets.append(pl.DataFrame(keys | {"gross_return": share * gross, "cost": share * 1e-5}))
    return Simulation(pl.concat(parts), pl.concat(assets))


def figures(simulation: Simulation, params: Params, seeds: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    return evaluate(simulation, REGIMES, FOLDS, seeds, OPENING, YEAR, params.backtest)


def passed(edge: float, seed: int, params: Params) -> bool:
    found = simulated(edge, seed)
    own = pl.read_csv(returns_csv(found.returns), try_parse_dates=True)
    trials = Trials("t", frozenset({"t"}), {}, {}, "full")
    selection = select(own, [1.0, 1.0], trials, YEAR, params.backtest)
    rules = judge(figures(found, params), selection, GOOD["lookahead"], params.gate)
    return all(rule.passed for rule in rules)


def test_noise_passes_the_gate_at_most_at_its_stated_rate(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sekisho.backtest.metrics.superior_ability", lambda *args, **kind: None)  # no rule
    quick = params.backtest.model_copy(update={"bootstrap_samples": 100, "pbo_blocks": 2})
    fast = params.model_copy(update={"backtest": quick})
    stated = 1.0 - params.gate.min_deflated_sharpe
    assert sum(passed(0.0, seed, fast) for seed in range(200)) / 200 <= stated


def test_a_strong_edge_passes_the_gate(params: Params) -> None:
    assert sum(passed(6.0, seed, params) for seed in range(20)) >= 18


def test_regimes_divide_the_sessions_and_their_returns(params: Params) -> None:
    found = simulated(1.0, 1)
    rows = figures(found, params)["regimes"]
    assert [(row["volatility"], row["market"]) for row in rows] == [
        (level, market) for level in ("calm", "normal", "turbulent") for market in ("up", "down")
    ]
    assert sum(row["sessions"] for row in rows) == 180
    assert all(row["buy_and_hold_return"] > 0 for row in rows if row["market"] == "up")
    total = np.prod([1 + row["total_return"] for row in rows]) - 1
    assert total == pytest.approx(figures(found, params)["agent"]["total_return"], rel=1e-6)


def test_attribution_adds_up(params: Params) -> None:
    found = simulated(1.0, 1)
    first, second = figures(found, params)["attribution"]
    net = found.returns.filter((pl.col("strategy") == "agent") & (pl.col("cost_multiple") == 1.0))
    assert first["symbol"] == "A"
    assert first["net_return"] + second["net_return"] == pytest.approx(net["net_return"].sum(), rel=1e-6)
    assert first["cost"] == pytest.approx(3 * second["cost"])
    assert first["mean_weight"] == 0.75


def test_capacity_reads_the_accounts_with_more_capital(params: Params) -> None:
    found = figures(simulated(3.0, 1), params)["agent"]
    assert list(found["capacity"]["sharpe"]) == ["1", "10"]
    assert found["capacity"]["sharpe"]["1"] == found["sharpe"] > found["capacity"]["sharpe"]["10"]
    assert found["capacity"]["multiple"] == 10.0
    assert found["capacity"]["reached"] is False


def test_the_champion_is_compared_on_the_same_sessions(params: Params) -> None:
    assert figures(simulated(1.0, 1), params)["over_champion"] is None
    found = figures(simulated(1.0, 1, names=(*NAMES, "champion")), params)
    ratios = found["agent"]["sharpe"], found["baselines"]["champion"]["sharpe"]
    over = found["over_champion"]
    assert over["sharpe"] == pytest.approx(ratios[0] - ratios[1], rel=1e-6)
    assert over["sharpe_low"] < over["sharpe"] < over["sharpe_high"]


def test_without_the_modelled_costs_there_is_no_judgement(params: Params) -> None:
    found = simulated(1.0, 1)
    free = Simulation(found.accounts.filter(pl.col("cost_multiple") == 2.0), found.assets)
    with pytest.raises(BacktestError, match="no returns of agent at 1 × costs"):
        figures(free, params)


def test_returns_that_are_not_finite_are_an_error(params: Params) -> None:
    found = simulated(1.0, 1)
    holed = found.accounts.with_columns(
        pl.when(pl.col("session") == SESSIONS[7])
        .then(None)
        .otherwise(pl.col("net_return"))
        .alias("net_return")
    )
    with pytest.raises(BacktestError, match="not finite"):
        figures(Simulation(holed, found.assets), params)


def test_one_session_is_too_short_a_window(params: Params) -> None:
    found = simulated(1.0, 1)
    with pytest.raises(BacktestError, match="fewer than two sessions"):
        figures(Simulation(found.accounts.filter(pl.col("session") == SESSIONS[0]), found.assets), params)
