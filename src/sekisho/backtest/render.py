"""A report as a list of blocks, written as Markdown for the pull request and as one HTML page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph; ``**bold**`` and `` `code` `` are understood."""

    text: str
    language: str = "en"


@dataclass(frozen=True)
class Table:
    """Rows of cells, line breaks kept; columns in ``left`` are text, the others are figures and set right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int] = frozenset({0})
    folded: str = ""  # a summary under which the table is folded away


@dataclass(frozen=True)
class Picture:
    """A figure: its name (``plots/<name>.png``), what it shows, and its ``<svg>`` for the page."""

    name: str
    caption: str
    svg: str


Block = Heading | Text | Table | Picture


def to_markdown(blocks: Sequence[Block]) -> str:
    """GitHub-flavoured Markdown; pictures are referenced relatively."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Picture(name, caption):
            return f"![{caption}](plots/{name}.png)\n\n*{caption}*"
        case Table(header, rows, left, folded):
            marks = ["---" if place in left else "---:" for place in range(len(header))]
            lines = [_row(header), _row(marks), *map(_row, rows)]
            table = "\n".join(lines)
            if folded:
                return f"<details><summary>{html.escape(folded)}</summary>\n\n{table}\n\n</details>"
            return table


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells) + " |"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """One page without scripts or outside resources: light and dark, for phones and for print."""
    body = "\n".join(_html(block) for block in blocks)
    return PAGE.replace("{title}", html.escape(title)).replace("{style}", STYLE).replace("{body}", body)


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Text(text, language):
            return f'<p lang="{language}">{_inline(text)}</p>'
        case Picture(_, caption, svg):
            label = html.escape(caption, quote=True)
            drawn = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
            return f"<figure>{drawn}<figcaption>{html.escape(caption)}</figcaption></figure>"
        case Table(header, rows, left, folded):
            head = "".join(_cell("th", text, place in left) for place, text in enumerate(header))
            lines = "".join(
                "<tr>"
                + "".join(_cell("td", text, place in left) for place, text in enumerate(row))
                + "</tr>\n"
                for row in rows
            )
            table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody></table>"
            table = f'<div class="wide">{table}</div>'
            if folded:
                return f"<details><summary>{html.escape(folded)}</summary>{table}</details>"
            return table


def _cell(tag: str, text: str, left: bool) -> str:
    return f"<{tag}{'' if left else ' class=n'}>{_inline(text)}</{tag}>"


def _inline(text: str) -> str:
    escaped = html.escape(text, quote=False).replace("\n", "<br>")
    escaped = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escaped)
    escaped = re.sub(r"`(.+?)`", r"<code>\1</code>", escaped)
    # drawn by any font, in the page's colours; the words are for screen readers
    escaped = escaped.replace("✅", '<b class="yes" role="img" aria-label="passed">✓</b>')
    return escaped.replace("❌", '<b class="no" role="img" aria-label="failed">✗</b>')


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body><main>
{body}
</main></body>
</html>
"""

STYLE = """
:root { --ink: #1b1f24; --paper: #fff; --soft: #f3f5f7; --line: #d5dae0; --quiet: #57606a;
  --yes: #1a7f37; --no: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e8ee; --paper: #0f1419; --soft: #192028; --line: #333d48; --quiet: #98a4b1;
    --yes: #4ac26b; --no: #ff8078; }
}
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #f3f5f7; --line: #bbb; --quiet: #444;
    --yes: #1a7f37; --no: #b3261e; }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, "Segoe UI", "Hiragino Sans", "Noto Sans CJK JP", "Yu Gothic", sans-serif; }
main { max-width: 58rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--line); }
p { margin: .7rem 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { white-space: nowrap; }
td:last-child:not(.n) { min-width: 14rem; }
.n { text-align: right; }
td.n { white-space: nowrap; }
figure { margin: 1.4rem 0; }
svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--quiet); font-size: .88rem; margin-top: .3rem; }
code { background: var(--soft); padding: .1em .3em; border-radius: .2em; font-size: .88em;
  overflow-wrap: anywhere; }
summary { cursor: pointer; }
.yes { color: var(--yes); }
.no { color: var(--no); }
"""
