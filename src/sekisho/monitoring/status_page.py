"""One page per model for the desk: a file that opens without a server, its picture inside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from sekisho.monitoring.evidence import ACTIONS, RUNBOOKS, figures
from sekisho.monitoring.verdict import Verdict
from sekisho.release.audit import write_atomically

COLOURS = {"ok": "#1b7f3b", "alarm": "#b03030", "cannot-judge": "#8a6d00"}
WORDS = {"ok": "in order", "alarm": "alarm", "cannot-judge": "cannot be judged"}
STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 span { color: #fff; padding: .1em .5em; border-radius: .3em }
table { border-collapse: collapse; margin: 1rem 0; width: 100% }
td, th { border-bottom: 1px solid #8884; padding: .3rem .6rem; text-align: left; vertical-align: top }
img { max-width: 100%; background: #fff }
footer { color: #888; margin-top: 2rem }
"""


def write_status_page(verdict: Verdict, plot: Path | None, path: Path) -> None:
    """Write the page of a verdict, whole or not at all; ``plot`` is put into it."""
    write_atomically(path, "".join(_page(verdict, plot)).encode())


def _page(verdict: Verdict, plot: Path | None) -> Iterator[str]:
    name = f"{verdict.model}/{verdict.seq}"
    yield f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(name)}</title>\n'
    yield f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n'
    state = f'<span style="background:{COLOURS[verdict.state]}">{WORDS[verdict.state]}</span>'
    yield f"<h1>{escape(name)} {state}</h1>\n"
    yield f"<p>{escape(verdict.sentence())}</p>\n"
    yield f"<p>Action: <strong>{verdict.action}</strong>. {escape(ACTIONS[verdict.action])}.</p>\n"
    if verdict.problems:
        yield "<h2>Why it cannot be judged</h2>\n<p>This is not a finding of no drift.</p>\n<ul>"
        yield from (f"<li>{escape(problem)}</li>" for problem in verdict.problems)
        yield "</ul>\n"
    if verdict.alarms:
        yield "<h2>Alarms</h2>\n"
        yield from _table(
            ("alarm", "series", "statistic", "limit", "session", "runbook"),
            (
                (
                    alarm.family,
                    alarm.series,
                    f"{alarm.statistic:.3g}",
                    f"{alarm.threshold:.4g}",
                    alarm.session,
                    RUNBOOKS[alarm.family],
                )
                for alarm in verdict.alarms
            ),
        )
    if plot and plot.is_file():
        picture = base64.b64encode(plot.read_bytes()).decode()
        yield f'<img alt="Statistics over their limits" src="data:image/png;base64,{picture}">\n'
    if verdict.first_session:
        yield "<h2>Figures</h2>\n"
        yield from _table(("figure", "value"), ((n, value.replace("`", "")) for n, value in figures(verdict)))
    if verdict.acknowledged:
        yield "<h2>Acknowledged</h2>\n"
        known = verdict.acknowledged
        yield from _table(
            ("alarm", "series", "reason", "file"),
            ((one["family"], one["series"], one["reason"], one["file"]) for one in known),
        )
    yield from (f"<p>Not watched: {escape(what)}.</p>\n" for what in verdict.unwatched)
    yield f"<footer>Checked at {escape(verdict.checked_at or 'an unknown time')}.</footer>\n</html>\n"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield "<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>\n"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n"
    yield "</table>\n"
