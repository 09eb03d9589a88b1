"""The gate: a pure judgement of the metrics files by the limits in ``params.yaml``.

Of thin-tailed returns, it lets a candidate without skill pass at most at the rate
1 − ``min_deflated_sharpe``, however many trials it was picked from: the deflated Sharpe ratio alone holds
that rate where returns are not autocorrelated, the block bootstrap's lower bound keeps it where they are, and
every other rule only adds to the two. A crash that the test windows do not hold is in none of these figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sekisho.errors import BacktestError
from sekisho.params import GateParams

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """One rule's outcome. ``figure`` is None where there is none: such a rule is passed only with a ``note``
    that says why it does not apply."""

    rule: str
    figure: float | None
    limit: float | None
    passed: bool
    reason: str  # why the rule exists
    note: str | None = None


def judge(backtest: Metrics, trials: Metrics, lookahead: Metrics, params: GateParams) -> list[Rule]:
    """Judge the candidate by metrics/backtest.json, trials.json and lookahead.json; it passes when every rule
    does.

    Raises:
        BacktestError: a figure that a rule needs is not there, or two files are of different results.
    """
    try:
        if trials["train"] != backtest["opening"]["train"]:
            raise BacktestError(
                "metrics/trials.json is of another training result than metrics/backtest.json",
                remedy="run `dvc repro trials`",
            )
        return [
            *_own(backtest, params),
            *_against_others(backtest, params),
            *_selection(trials, params),
            _lookahead(lookahead),
        ]
    except (KeyError, TypeError) as error:
        raise BacktestError(
            f"metrics: {error} is missing, a gate rule needs it",
            remedy="the files come from another version: run `dvc repro gate` again",
        ) from error


def verdict(rules: list[Rule]) -> Metrics:
    """The content of ``metrics/gate.json``."""
    return {"passed": all(rule.passed for rule in rules), "rules": [asdict(rule) for rule in rules]}


def _own(backtest: Metrics, params: GateParams) -> Iterator[Rule]:
    agent = backtest["agent"]
    yield _above(
        "net Sharpe ratio, lower bound",
        agent["sharpe_low"],
        params.min_sharpe_lower,
        "A profit that vanishes at the lower end of its own interval may be luck.",
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
    yield _least(
        "capacity, multiple of the capital",
        agent["capacity"]["multiple"],
        params.min_capacity,
        "An edge that its own market impact eats as soon as capital grows is not worth deploying.",
    )
    seeds = list(agent["sharpe_by_seed"].values())
    yield _above(
        "seeds agree (lowest Sharpe ratio)",
        None if len(seeds) < 2 or any(s is None or math.isnan(s) for s in seeds) else min(seeds),
        0.0,
        "A result that another random seed does not repeat is not a property of the method.",
    )


def _against_others(backtest: Metrics, params: GateParams) -> Iterator[Rule]:
    agent, baselines = backtest["agent"], backtest["baselines"]
    for multiple, words in (("1", ""), ("2", " at double cost")):
        for name in baselines:
            if name != "champion":
                yield _above(
                    f"beats {name}{words}",
                    agent["sharpe_by_cost"][multiple],
                    baselines[name]["sharpe_by_cost"][multiple],
                    "Real costs turn out higher than modelled ones; the edge must survive that."
                    if words
                    else "An agent is worth its risk only where a simple strategy does not do as well after "
                    "costs.",
                )
    over = backtest["over_champion"]
    rule = _above(
        "not worse than the champion (Sharpe ratio's difference, lower bound)",
        over["sharpe_low"] if over else None,
        params.min_sharpe_over_champion,
        "What is in production is replaced only by what is not clearly worse on the same sessions.",
    )
    yield (
        rule
        if over
        else Rule(
            rule.rule, None, rule.limit, True, rule.reason, "There is no champion: nothing is in production."
        )
    )


def _selection(trials: Metrics, params: GateParams) -> Iterator[Rule]:
    yield _above(
        "deflated Sharpe ratio",
        trials["deflated_sharpe"],
        params.min_deflated_sharpe,
        "The best of many trials looks good by chance alone; this discounts for all trials made.",
    )
    yield _below(
        "probability of backtest overfitting",
        trials["pbo"],
        params.max_pbo,
        "Where the best in one half of the sessions is no better than others in the rest, picking it says "
        "nothing.",
    )
    full = trials["history"] == "full"
    yield Rule(
        "trials counted from full history",
        float(full),
        1.0,
        full,
        "A shallow clone or a folder without git hides earlier trials, and fewer trials flatter the agent.",
    )


def _lookahead(lookahead: Metrics) -> Rule:
    leaks, checked = lookahead["leaks"], lookahead["features"]
    return _below(
        "no look-ahead (features that leak)",
        float(len(leaks)) if checked else None,
        0.0,
        "A feature that knows the future makes every figure above worthless.",
    )


def _above(rule: str, figure: float | None, limit: float | None, reason: str) -> Rule:
    return Rule(rule, figure, limit, figure is not None and limit is not None and figure > limit, reason)


def _least(rule: str, figure: float | None, limit: float, reason: str) -> Rule:
    return Rule(rule, figure, limit, figure is not None and figure >= limit, reason)


def _below(rule: str, figure: float | None, limit: float, reason: str) -> Rule:
    return Rule(rule, figure, limit, figure is not None and figure <= limit, reason)
