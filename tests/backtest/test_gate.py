"""The gate: every rule flips on its own figure, and nothing unknown passes."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from sekisho.backtest.gate import judge, verdict
from sekisho.backtest.words import RULES_JA
from sekisho.errors import BacktestError
from sekisho.params import GateParams

LIMITS = GateParams(
    min_sharpe_lower=0.1,
    min_deflated_sharpe=0.9,
    max_drawdown=0.2,
    max_turnover=10.0,
    min_sharpe_at_double_cost=0.2,
)
GOOD: dict[str, Any] = {
    "opening": {"history": "full"},
    "agent": {
        "sharpe": 2.0,
        "sharpe_low": 0.5,
        "deflated_sharpe": 0.97,
        "max_drawdown": 0.1,
        "turnover": 5.0,
        "sharpe_by_cost": {"0": 2.5, "1": 2.0, "2": 1.5},
        "sharpe_by_seed": {"1": 2.0, "2": 1.8},
    },
    "baselines": {
        "cash": {"sharpe": 0.0},
        "buy-and-hold": {"sharpe": 1.0},
        "momentum": {"sharpe": -0.3},
        "minimum-variance": {"sharpe": 0.8},
        "champion": {"sharpe": 1.9},
    },
}
FLIPS = [
    ("net Sharpe ratio, lower bound", ("agent", "sharpe_low"), 0.1),
    ("deflated Sharpe ratio", ("agent", "deflated_sharpe"), 0.89),
    ("trials counted from full history", ("opening", "history"), "shallow"),
    ("beats cash", ("baselines", "cash", "sharpe"), 2.0),
    ("beats buy-and-hold", ("baselines", "buy-and-hold", "sharpe"), 2.1),
    ("beats momentum", ("baselines", "momentum", "sharpe"), 2.1),
    ("beats minimum-variance", ("baselines", "minimum-variance", "sharpe"), 2.1),
    ("Sharpe ratio at double cost", ("agent", "sharpe_by_cost", "2"), 0.19),
    ("maximum drawdown", ("agent", "max_drawdown"), 0.21),
    ("turnover a session", ("agent", "turnover"), 10.1),
    ("seeds agree (lowest Sharpe ratio)", ("agent", "sharpe_by_seed", "2"), -0.01),
    ("beats the champion", ("baselines", "champion", "sharpe"), 2.0),
]


def changed(path: tuple[str, ...], value: float | str | None) -> dict[str, Any]:
    metrics = copy.deepcopy(GOOD)
    place = metrics
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return metrics


def failing(metrics: dict[str, Any]) -> list[str]:
    return [rule.rule for rule in judge(metrics, LIMITS) if not rule.passed]


def test_a_good_candidate_passes_every_rule() -> None:
    assert failing(GOOD) == []
    assert verdict(judge(GOOD, LIMITS))["passed"] is True


def test_the_flips_below_cover_every_rule() -> None:
    assert [rule for rule, _, _ in FLIPS] == [rule.rule for rule in judge(GOOD, LIMITS)]


@pytest.mark.parametrize(("rule", "path", "value"), FLIPS)
def test_each_rule_fails_on_its_own_figure_alone(
    rule: str, path: tuple[str, ...], value: float | str
) -> None:
    metrics = changed(path, value)
    assert failing(metrics) == [rule]
    assert verdict(judge(metrics, LIMITS))["passed"] is False


@pytest.mark.parametrize(("rule", "path", "value"), FLIPS)
@pytest.mark.parametrize("unknown", [None, math.nan])
def test_an_unknown_figure_never_passes(
    rule: str, path: tuple[str, ...], value: float | str, unknown: float | None
) -> None:
    assert failing(changed(path, unknown)) == [rule]


@pytest.mark.parametrize(("rule", "path", "value"), FLIPS[:1] + FLIPS[2:3] + FLIPS[7:11])
def test_a_missing_figure_is_named(rule: str, path: tuple[str, ...], value: float) -> None:
    metrics = copy.deepcopy(GOOD)
    place = metrics
    for key in path[:-1]:
        place = place[key]
    if path[-2] == "sharpe_by_seed":
        metrics["agent"].pop("sharpe_by_seed")
    else:
        place.pop(path[-1])
    with pytest.raises(BacktestError, match=path[-2] if path[-2] == "sharpe_by_seed" else path[-1]):
        judge(metrics, LIMITS)


@pytest.mark.parametrize("history", ["shallow", "none"])
def test_a_count_that_may_lack_trials_does_not_pass(history: str) -> None:
    assert failing(changed(("opening", "history"), history)) == ["trials counted from full history"]


def test_without_a_champion_there_is_no_rule_about_it() -> None:
    metrics = copy.deepcopy(GOOD)
    del metrics["baselines"]["champion"]
    assert len(judge(metrics, LIMITS)) == len(FLIPS) - 1


def test_every_rule_has_a_reason_and_a_japanese_name() -> None:
    for rule in judge(GOOD, LIMITS):
        assert rule.reason.endswith(".")
        assert rule.rule in RULES_JA


def test_the_verdict_lists_figure_limit_and_reason() -> None:
    first = verdict(judge(GOOD, LIMITS))["rules"][0]
    assert set(first) == {"rule", "figure", "limit", "passed", "reason"}
    assert (first["figure"], first["limit"], first["passed"]) == (0.5, 0.1, True)
