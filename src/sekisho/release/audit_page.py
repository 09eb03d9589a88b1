"""The audit page: releases, facts, approvals, promotions and the log in one self-contained HTML file."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from sekisho.errors import SekishoError
from sekisho.release import audit
from sekisho.release.audit_check import check_log
from sekisho.release.manifest import read_manifest
from sekisho.release.promote import read_pointer
from sekisho.release.trace import table, trace_release

STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d5d8de, #3a3f4a); --soft: light-dark(#f5f6f8, #1d2027);
  --good: light-dark(#0a6b3d, #5fd39a); --bad: light-dark(#a3201d, #ff8d85); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  background: light-dark(#fff, #14161b); color: light-dark(#1a1c20, #e6e8ec); }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
td:last-child { white-space: normal; overflow-wrap: anywhere; }
th { background: var(--soft); font-weight: 600; }
details { border: 1px solid var(--line); border-radius: 6px; padding: .4rem .8rem; margin: .5rem 0; }
summary { cursor: pointer; font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); }
"""


def write_page(repo: Path, trust: Path, environment: str | None, out: Path) -> SekishoError | None:
    """Write the page for everything under ``releases/``; what does not verify is shown with its reason.

    Returns why the log does not hold, None if it does: the page is there to be read in either case.
    """
    releases = repo / "releases"
    events, _ = audit.read_log(releases)
    broken: SekishoError | None = None
    try:
        head = check_log(repo)
        state = _mark("good", f"unbroken: {head.lines} lines, head sha256:{head.sha256}")
    except SekishoError as error:
        broken = error
        state = _mark("bad", str(error))
    folders = sorted(
        (path.parent for path in releases.glob("*/[!.]*/manifest.json")),  # [!.]: no interrupted export's
        key=lambda folder: (folder.parent.name, len(folder.name), folder.name),
        reverse=True,
    )
    pointers = [
        (path.parent.name, str(read_pointer(repo, path.parent.name) or "none yet"))
        for path in sorted((repo / "deploy/policy").glob("*/release.env"))
    ]
    log = [
        (event.line, event.at.isoformat(), event.event, event.actor, _subject(event), _details(event.details))
        for event in reversed(events)
    ]
    body = [
        "<h1>Release audit</h1>",
        f"<p>Audit log {state}</p>",
        "<h2>Environments</h2>",
        _table(("environment", "release"), pointers),
        "<h2>Releases</h2>",
        *(_release(repo, folder, trust, environment) for folder in folders),
        "<h2>Log</h2>",
        _table(("line", "time", "event", "actor", "release", "details"), log),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Release audit</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )
    audit.write_atomically(out, page.encode())
    return broken


def _release(repo: Path, folder: Path, trust: Path, environment: str | None) -> str:
    name = f"{folder.parent.name}/{folder.name}"
    try:
        _, digest = read_manifest(folder)
        rows = table(trace_release(repo, folder, trust=trust, environment=environment))
        title = f"{_escape(name)} {_mark('good', 'verified')}"
    except SekishoError as error:
        digest = ""
        rows, title = [("not verified", str(error))], f"{_escape(name)} {_mark('bad', 'not verified')}"
    evidence = _table(("what", "evidence"), rows)
    return f'<details id="{_escape(digest)}"><summary>{title}</summary>{evidence}</details>'


def _table(header: tuple[str, ...], rows: list[Any]) -> str:
    head = "".join(f"<th>{_escape(cell)}</th>" for cell in header)
    lines = ["".join(f"<td>{_escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _subject(event: audit.Event) -> str:
    return f"{event.model}/{event.seq}" if event.model else ""


def _details(details: dict[str, Any]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in details.items() if key != "bundles")


def _mark(kind: str, text: str) -> str:
    return f'<strong class="{kind}">{_escape(text)}</strong>'


def _escape(value: object) -> str:
    return html.escape(str(value))
