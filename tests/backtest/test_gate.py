"""The gate: every rule flips on its own figure, and nothing unknown passes."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from sekisho.backtest.gate import judge, verdict
from sekisho.backtest.words import NOTES_JA, RULES_JA
from sekisho.errors import BacktestError
from sekisho.params import GateParams

LIMITS = GateParams(
    min_sharpe_lower=0.1,
    min_sharpe_over_champion=-0.5,
    min_deflated_sharpe=0.9,
    max_pbo=0.4,
    max_drawdown=0.2,
    max_turnover=10.0,
    min_capacity=2.0,
)
GOOD: dict[str, Any] = {
    "backtest": {
        "opening": {"train": "a"},
        "agent": {
            "sharpe": 2.0,
            "sharpe_low": 0.5,
            "max_drawdown": 0.1,
            "turnover": 5.0,
            "sharpe_by_cost": {"0": 2.5, "1": 2.0, "2": 1.5},
            "sharpe_by_seed": {"1": 2.0, "2": 1.8},
            "capacity": {"multiple": 8.0},
        },
        "baselines": {
            "cash": {"sharpe_by_cost": {"1": 0.0, "2": 0.0}},
            "buy-and-hold": {"sharpe_by_cost": {"1": 1.0, "2": 0.9}},
            "momentum": {"sharpe_by_cost": {"1": -0.3, "2": -0.8}},
            "minimum-variance": {"sharpe_by_cost": {"1": 0.8, "2": 0.7}},
            "champion": {"sharpe_by_cost": {"1": 9.9, "2": 9.9}},
        },
        "over_champion": {"sharpe": 0.1, "sharpe_low": -0.4, "sharpe_high": 0.6},
    },
    "trials": {"train": "a", "deflated_sharpe": 0.97, "pbo": 0.1, "history": "full"},
    "lookahead": {"features": 10, "leaks": []},
}
CHAMPION = "not worse than the champion (Sharpe ratio's difference, lower bound)"
FLIPS: list[tuple[str, tuple[str, ...], Any]] = [
    ("net Sharpe ratio, lower bound", ("backtest", "agent", "sharpe_low"), 0.1),
    ("maximum drawdown", ("backtest", "agent", "max_drawdown"), 0.21),
    ("turnover a session", ("backtest", "agent", "turnover"), 10.1),
    ("capacity, multiple of the capital", ("backtest", "agent", "capacity", "multiple"), 1.99),
    ("seeds agree (lowest Sharpe ratio)", ("backtest", "agent", "sharpe_by_seed", "2"), -0.01),
    *(
        (f"beats {name}{words}", ("backtest", "baselines", name, "sharpe_by_cost", multiple), 2.1)
        for multiple, words in (("1", ""), ("2", " at double cost"))
        for name in ("cash", "buy-and-hold", "momentum", "minimum-variance")
    ),
    (CHAMPION, ("backtest", "over_champion", "sharpe_low"), -0.51),
    ("deflated Sharpe ratio", ("trials", "deflated_sharpe"), 0.89),
    ("probability of backtest overfitting", ("trials", "pbo"), 0.41),
    ("trials counted from full history", ("trials", "history"), "shallow"),
    ("no look-ahead (features that leak)", ("lookahead", "leaks"), ["tomorrow: bar 3 changed"]),
]


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    metrics = copy.deepcopy(GOOD)
    place = metrics
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return metrics


def failing(metrics: dict[str, Any]) -> list[str]:
    return [rule.rule for rule in judge(*metrics.values(), LIMITS) if not rule.passed]


def test_a_good_candidate_passes_every_rule() -> None:
    assert failing(GOOD) == []
    assert verdict(judge(*GOOD.values(), LIMITS))["passed"] is True


def test_the_flips_below_cover_every_rule() -> None:
    assert [rule for rule, _, _ in FLIPS] == [rule.rule for rule in judge(*GOOD.values(), LIMITS)]


@pytest.mark.parametrize(("rule", "path", "value"), FLIPS)
def test_each_rule_fails_on_its_own_figure_alone(rule: str, path: tuple[str, ...], value: Any) -> None:
    metrics = changed(path, value)
    assert failing(metrics) == [rule]
    assert verdict(judge(*metrics.values(), LIMITS))["passed"] is False


@pytest.mark.parametrize(("rule", "path", "value"), FLIPS[:-1])
@pytest.mark.parametrize("unknown", [None, math.nan])
def test_an_unknown_figure_never_passes(
    rule: str, path: tuple[str, ...], value: Any, unknown: float | None
) -> None:
    assert failing(changed(path, unknown)) == [rule]


def test_features_that_were_not_checked_never_pass() -> None:
    assert failing(changed(("lookahead", "features"), 0)) == ["no look-ahead (features that leak)"]


@pytest.mark.parametrize("path", [path for _, path, _ in FLIPS if "sharpe_by_seed" not in path])
def test_a_missing_figure_is_named(path: tuple[str, ...]) -> None:
    metrics = copy.deepcopy(GOOD)
    place = metrics
    for key in path[:-1]:
        place = place[key]
    place.pop(path[-1])
    with pytest.raises(BacktestError, match=path[-1]):
        judge(*metrics.values(), LIMITS)


def test_figures_of_two_results_are_not_judged_together() -> None:
    with pytest.raises(BacktestError, match="another training result"):
        judge(*changed(("trials", "train"), "b").values(), LIMITS)


@pytest.mark.parametrize("history", ["shallow", "none"])
def test_a_count_that_may_lack_trials_does_not_pass(history: str) -> None:
    assert failing(changed(("trials", "history"), history)) == ["trials counted from full history"]


def test_without_a_champion_the_rule_passes_and_says_why() -> None:
    metrics = changed(("backtest", "over_champion"), None)
    (rule,) = [rule for rule in judge(*metrics.values(), LIMITS) if rule.rule == CHAMPION]
    assert rule.passed
    assert rule.figure is None
    assert rule.note in NOTES_JA


def test_every_rule_has_a_reason_and_a_japanese_name() -> None:
    for rule in judge(*GOOD.values(), LIMITS):
        assert rule.reason.endswith(".")
        name, reason = RULES_JA[rule.rule]
        assert name
        assert reason.endswith("。")


def test_the_verdict_lists_figure_limit_and_reason() -> None:
    first = verdict(judge(*GOOD.values(), LIMITS))["rules"][0]
    assert set(first) == {"rule", "figure", "limit", "passed", "reason", "note"}
    assert (first["figure"], first["limit"], first["passed"]) == (0.5, 0.1, True)
