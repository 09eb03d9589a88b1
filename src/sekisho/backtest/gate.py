"""The gate: a pure judgement of ``metrics/backtest.json`` by the limits in ``params.yaml``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sekisho.errors import BacktestError
from sekisho.params import GateParams


@dataclass(frozen=True)
class Rule:
    """One rule's outcome. ``figure`` is None where the data carry none: such a rule is never passed."""

    rule: str
    figure: float | None
    limit: float | None
    passed: bool
    reason: str  # why the rule exists


def judge(metrics: dict[str, Any], params: GateParams) -> list[Rule]:
    """Judge the candidate; it passes when every rule does.

    Raises:
        BacktestError: a figure that a rule needs is not in ``metrics``; names it.
    """
    try:
        return list(_rules(metrics, params))
    except (KeyError, TypeError) as error:
        raise BacktestError(
            f"metrics/backtest.json: {error} is missing, a gate rule needs it",
            remedy="run `dvc repro backtest` again; backtest.cost_multiples must hold 1.0 and 2.0",
        ) from error


def verdict(rules: list[Rule]) -> dict[str, Any]:
    """The content of ``metrics/gate.json``."""
    return {"passed": all(rule.passed for rule in rules), "rules": [asdict(rule) for rule in rules]}


def _rules(metrics: dict[str, Any], params: GateParams) -> Iterator[Rule]:
    agent, baselines, opening = metrics["agent"], metrics["baselines"], metrics["opening"]
    yield _above(
        "net Sharpe ratio, lower bound",
        agent["sharpe_low"],
        params.min_sharpe_lower,
        "A profit that vanishes at the lower end of its own interval may be luck.",
    )
    yield _above(
        "deflated Sharpe ratio",
        agent["deflated_sharpe"],
        params.min_deflated_sharpe,
        "The best of many trials looks good by chance alone; this discounts for all trials made.",
    )
    full = opening["history"] == "full"
    yield Rule(
        "trials counted from full history",
        float(full),
        1.0,
        full,
        "A shallow clone or a folder without git hides earlier trials, and fewer trials flatter the agent.",
    )
    for name in baselines:
        if name != "champion":
            yield _above(
                f"beats {name}",
                agent["sharpe"],
                baselines[name]["sharpe"],
                "An agent is worth its risk only where a simple strategy does not do as well after costs.",
            )
    yield _above(
        "Sharpe ratio at double cost",
        agent["sharpe_by_cost"]["2"],
        params.min_sharpe_at_double_cost,
        "Real costs turn out higher than modelled ones; the edge must survive that.",
    )
    yield _below(
        "maximum drawdown",
        agent["max_drawdown"],
        params.max_drawdown,
        "A loss this deep from the high would stop the strategy before it could recover.",
    )
    yield _below(
        "turnover a session",
        agent["turnover"],
        params.max_turnover,
        "Heavy trading depends wholly on the cost model and cannot grow.",
    )
    seeds = list(agent["sharpe_by_seed"].values())
    yield _above(
        "seeds agree (lowest Sharpe ratio)",
        None if len(seeds) < 2 or any(s is None or math.isnan(s) for s in seeds) else min(seeds),
        0.0,
        "A result that another random seed does not repeat is not a property of the method.",
    )
    if "champion" in baselines:
        yield _above(
            "beats the champion",
            agent["sharpe"],
            baselines["champion"]["sharpe"],
            "What is in production is replaced only by something better on the same sessions.",
        )


def _above(rule: str, figure: float | None, limit: float | None, reason: str) -> Rule:
    return Rule(rule, figure, limit, figure is not None and limit is not None and figure > limit, reason)


def _below(rule: str, figure: float | None, limit: float, reason: str) -> Rule:
    return Rule(rule, figure, limit, figure is not None and figure <= limit, reason)
