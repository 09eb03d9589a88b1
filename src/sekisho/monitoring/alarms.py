"""The table of a verdict's alarms, for every page that shows them."""

from __future__ import annotations

from sekisho.monitoring.verdict import Verdict
from sekisho.monitoring.words import named, series
from sekisho.page.blocks import Both, Cell, Table

RUNBOOKS = {
    "mean": "data-drift",
    "volatility": "data-drift",
    "correlation": "data-drift",
    "parity": "parity",
    "safe-answers": "safe-answers",
    "performance": "performance",
    "age": "model-age",
    "drawdown": "halted",
    "session-loss": "halted",
    "skew": "train-serve-skew",
}


def alarms(verdict: Verdict) -> Table:
    """Its alarms, each with the runbook that answers it."""
    rows: list[list[Cell]] = [
        [
            named(alarm.family),
            series(alarm.series),
            alarm.detector or "–",
            f"{alarm.statistic:.3g}",
            f"{alarm.threshold:.4g}",
            alarm.session,
            _runbook(RUNBOOKS[alarm.family]),
        ]
        for alarm in verdict.alarms
    ]
    header = [
        Both("alarm", "アラーム"),
        Both("series", "系列"),
        Both("by", "検出器"),
        Both("statistic", "統計量"),
        Both("limit", "基準"),
        Both("session", "立会日"),
        Both("runbook", "ランブック"),
    ]
    return Table(header, rows, left=frozenset({0, 1, 2, 5, 6}))


def _runbook(name: str) -> Both:
    return Both(f"docs/en/runbooks/{name}.md", f"docs/ja/runbooks/{name}.md", plain=True)
