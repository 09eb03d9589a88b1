"""From returns to figures: noise seldom passes, trials deflate, copies hide nothing."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from sekisho.backtest.evaluate import evaluate
from sekisho.backtest.gate import judge
from sekisho.backtest.splits import Fold
from sekisho.backtest.trials import Trials
from sekisho.errors import BacktestError
from sekisho.params import Params

from .conftest import sessions_from

SESSIONS = sessions_from(180)
WINDOW = (SESSIONS[0], SESSIONS[-1])
FOLDS = [Fold(0, WINDOW, (dt.date(2023, 1, 4), dt.date(2023, 12, 29)), WINDOW)]
YEAR = 245.0


def trials(count: int, sharpes: list[float] | None = None) -> Trials:
    digests = [f"{n:032x}.dir" for n in range(count)]
    return Trials(digests[0], frozenset(digests), dict(zip(digests[1:], sharpes or [], strict=False)), "full")


def table(edge: float, seed: int, multiples: tuple[float, ...] = (1.0, 2.0)) -> pl.DataFrame:
    """Session returns: the agent's have the Sharpe ratio ``edge`` a year and cost a little."""
    rng = np.random.default_rng(seed)
    parts = []
    for name in ("agent", "agent-seed-2", "cash", "buy-and-hold", "momentum", "minimum-variance"):
        mean = edge / np.sqrt(YEAR) * 0.01 if name.startswith("agent") else 0.0
        net = np.zeros(180) if name == "cash" else mean + 0.01 * rng.standard_t(5, 180) / np.sqrt(5 / 3)
        for multiple in multiples:
            cost = 0.0 if name == "cash" else 1e-5 * multiple
            parts.append(
                pl.DataFrame(
                    {
                        "strategy": name,
                        "cost_multiple": multiple,
                        "session": SESSIONS,
                        "net_return": net - cost,
                        "gross_return": net,
                        "cost": cost,
                        "turnover": 0.0 if name == "cash" else 1.0,
                        "gross_exposure": 1.0,
                    }
                )
            )
    return pl.concat(parts)


def passed(edge: float, seed: int, params: Params, count: int = 1) -> bool:
    figures = evaluate(table(edge, seed), FOLDS, (1, 2), trials(count), "c", YEAR, params.backtest)
    return all(rule.passed for rule in judge(figures, params.gate))


def test_noise_passes_the_gate_at_most_at_its_stated_rate(params: Params) -> None:
    stated = 1.0 - params.gate.min_deflated_sharpe
    quick = params.backtest.model_copy(update={"bootstrap_samples": 100, "pbo_blocks": 2})
    fast = params.model_copy(update={"backtest": quick})
    assert sum(passed(0.0, seed, fast) for seed in range(200)) / 200 <= stated


def test_a_strong_edge_passes_the_gate(params: Params) -> None:
    assert sum(passed(6.0, seed, params) for seed in range(20)) >= 18


def test_an_edge_that_passes_once_fails_as_the_best_of_many(params: Params) -> None:
    chosen = next(seed for seed in range(100) if passed(3.0, seed, params))
    assert not passed(3.0, chosen, params, count=1000)


def variance_of(params: Params, count: int, sharpes: list[float]) -> tuple[float, str]:
    agent = evaluate(table(1.0, 1), FOLDS, (1, 2), trials(count, sharpes), "c", YEAR, params.backtest)[
        "agent"
    ]
    return agent["expected_max_sharpe"], agent["trial_variance_from"]


def test_scattered_trials_deflate_more_than_sampling_alone(params: Params) -> None:
    wide, source = variance_of(params, 5, [-6.0, 5.0, -4.0, 7.0])
    alone, floor = variance_of(params, 5, [])
    assert (source, floor) in {("trials", "sampling"), ("trials", "seeds")}
    assert wide > 2 * alone


def test_copies_of_one_trial_do_not_hide_that_one_was_picked(params: Params) -> None:
    own = evaluate(table(1.0, 1), FOLDS, (1, 2), trials(1), "c", YEAR, params.backtest)["agent"]["sharpe"]
    copies, source = variance_of(params, 5, [own] * 4)
    assert source == "sampling"
    assert copies > 0.5


def test_one_trial_expects_nothing_from_luck(params: Params) -> None:
    assert variance_of(params, 1, [])[0] == 0.0


def test_one_seed_has_no_overfitting_figure_and_says_why(params: Params) -> None:
    agent = evaluate(table(1.0, 1), FOLDS, (1,), trials(1), "c", YEAR, params.backtest)["agent"]
    assert agent["pbo"] is None
    assert agent["pbo_missing"] == "only one agent has returns on these sessions"


def test_without_the_modelled_costs_there_is_no_judgement(params: Params) -> None:
    with pytest.raises(BacktestError, match="no returns of agent at 1 × costs"):
        evaluate(table(1.0, 1, (0.0, 2.0)), FOLDS, (1, 2), trials(1), "c", YEAR, params.backtest)
