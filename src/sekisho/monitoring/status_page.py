"""One page per model for the desk: a file that opens without a server, its picture inside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from sekisho.monitoring.alarms import alarms
from sekisho.monitoring.evidence import figures, plot_of
from sekisho.monitoring.verdict import Verdict
from sekisho.monitoring.words import STATES, action, minute, named, sentence, series
from sekisho.page.blocks import Block, Both, Heading, Plain, Table, Text
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
                [named(one["family"]), series(one["series"]), Plain(one["reason"]), Plain(one["file"])]
                for one in verdict.acknowledged
            ],
            left=frozenset(range(4)),
        )
    for what in verdict.unwatched:
        yield Text((Both("Not watched:", "監視していないもの:"), Plain(what)))
    checked = minute(verdict.checked_at)
    yield Text(Both(f"Checked at {checked}.", f"確認時刻: {checked}"))
