"""One page per model for the desk: a file that opens without a server, its picture inside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sekisho.monitoring.evidence import RUNBOOKS, figures, plot_of
from sekisho.monitoring.verdict import Verdict
from sekisho.monitoring.words import STATES, action, minute, named, sentence
from sekisho.page.blocks import Block, Both, Cell, Heading, Plain, Table, Text
from sekisho.page.canvas import picture
from sekisho.page.html import Page, to_html
from sekisho.release.audit import write_atomically

TITLE = Both("Verdict", "判定")


def write_status_page(verdict: Verdict, path: Path, menu: Iterable[Page] = ()) -> None:
    """Write the page of a verdict, whole or not at all."""
    name = f"{verdict.model}/{verdict.seq}"
    title = Both(f"{TITLE.en}: {name}", f"{TITLE.ja}: {name}")
    write_atomically(path, to_html(title, list(_blocks(verdict, name)), menu, path.name).encode())


def _blocks(verdict: Verdict, name: str) -> Iterator[Block]:
    state = STATES[verdict.state]
    yield Heading(Both(f"{name}: {state.en}", f"{name}: {state.ja}"), 1)
    yield Text(sentence(verdict))
    yield Text(action(verdict))
    if verdict.problems:
        yield Heading(Both("Why it cannot be judged", "判定できない理由"))
        yield Text(Both("This is not a finding of no drift.", "ドリフトがないという判定ではありません。"))
        yield Table([Both("problem", "問題")], [[Plain(problem)] for problem in verdict.problems])
    if verdict.alarms:
        yield Heading(Both("Alarms", "アラーム"))
        yield alarms(verdict)
    if verdict.levels:
        yield picture(plot_of(verdict))
    if verdict.first_session:
        yield Heading(Both("Figures", "数値"))
        yield Table(
            [Both("figure", "項目"), Both("value", "値")],
            [[named(what), value] for what, value in figures(verdict)]
            + [[Both(f"left out {day}", f"除外 {day}"), Plain(why)] for day, why in verdict.excluded.items()],
            left=frozenset({0, 1}),
        )
    if verdict.acknowledged:
        yield Heading(Both("Acknowledged", "承知済み"))
        yield Table(
            [
                Both("alarm", "アラーム"),
                Both("series", "系列"),
                Both("reason", "理由"),
                Both("file", "ファイル"),
            ],
            [
                [named(one["family"]), *(Plain(one[key]) for key in ("series", "reason", "file"))]
                for one in verdict.acknowledged
            ],
            left=frozenset(range(4)),
        )
    for what in verdict.unwatched:
        yield Text((Both("Not watched:", "監視していないもの:"), Plain(what)))
    checked = minute(verdict.checked_at)
    yield Text(Both(f"Checked at {checked}.", f"確認時刻: {checked}"))


def alarms(verdict: Verdict) -> Table:
    """Its alarms, each with the runbook that answers it."""
    rows: list[list[Cell]] = [
        [
            named(alarm.family),
            Plain(alarm.series),
            f"{alarm.statistic:.3g}",
            f"{alarm.threshold:.4g}",
            alarm.session,
            Plain(RUNBOOKS[alarm.family]),
        ]
        for alarm in verdict.alarms
    ]
    header = [
        Both("alarm", "アラーム"),
        Both("series", "系列"),
        Both("statistic", "統計量"),
        Both("limit", "基準"),
        Both("session", "立会日"),
        Both("runbook", "ランブック"),
    ]
    return Table(header, rows, left=frozenset({0, 1, 4, 5}))
