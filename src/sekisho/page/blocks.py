"""What a page is made of, in English and Japanese; written as HTML by ``html.py``, as Markdown here.

HTML shows one language at a time; Markdown, which has no switch, English, but paragraphs in both.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["good", "bad", "warn", ""]


@dataclass(frozen=True)
class Both:
    """One thing in both languages; ``**bold**`` and `` `code` `` are understood, and the marks ✅ and ❌.

    ``plain``: it holds what others wrote: nothing in it is markup or a mark.
    """

    en: str
    ja: str
    plain: bool = False


@dataclass(frozen=True)
class Plain:
    """What others wrote, such as a title or a reason: nothing in it is markup or a mark."""

    text: str


@dataclass(frozen=True)
class Link:
    """``href``: an address of the web or a file beside the page; anything else is shown and leads nowhere."""

    words: Words
    href: str


Words = str | Both | Plain | Link
Cell = Words | tuple[Words, ...]  # several: lines


@dataclass(frozen=True)
class Heading:
    text: Words
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: Cell


@dataclass(frozen=True)
class Table:
    """Rows of cells, line breaks kept; columns in ``left`` are text, the others are figures and set right.

    ``folded``: a summary under which it is folded away; ``twofold``: in Markdown in both languages too.
    """

    header: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    left: frozenset[int] = frozenset({0})
    folded: Words = ""
    twofold: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure: its name (``plots/<name>.png``), what it shows, and its ``<svg>`` for the page."""

    name: str
    caption: Words
    svg: str


@dataclass(frozen=True)
class Tile:
    """One figure to be seen first, with what it is held against."""

    label: Words
    value: Words
    note: Words = ""
    state: State = ""


@dataclass(frozen=True)
class Tiles:
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Step:
    """A link of a chain: its name and what is known of it."""

    title: Words
    lines: Sequence[Words]


@dataclass(frozen=True)
class Chain:
    """What came from what, drawn as boxes with arrows."""

    steps: Sequence[Step]


@dataclass(frozen=True)
class Fold:
    """Blocks folded away under a summary; ``name`` is an anchor."""

    summary: Words
    blocks: Sequence[Block]
    name: str = ""


Paper = Heading | Text | Table | Picture  # what Markdown can show
Block = Paper | Tiles | Chain | Fold


def to_markdown(blocks: Sequence[Paper]) -> str:
    """GitHub-flavoured Markdown; pictures are referenced relatively."""
    return "\n\n".join("\n\n".join(_markdown(block)) for block in blocks) + "\n"


def _markdown(block: Paper) -> Iterator[str]:
    match block:
        case Heading(text, level):
            yield f"{'#' * level} {_english(text)}"
        case Text(text):
            yield from (line for words in parts(text) for line in said(words))
        case Picture(name, caption):
            yield f"![{_english(caption)}](plots/{name}.png)"
            yield f"*{_english(caption)}*"
        case Table(header, rows, left, folded, twofold):
            marks = ["---" if place in left else "---:" for place in range(len(header))]
            shown = [[_written(cell, twofold) for cell in row] for row in (header, *rows)]
            table = "\n".join([_row(shown[0]), _row(marks), *map(_row, shown[1:])])
            if folded:
                summary = html.escape(_english(folded))
                table = f"<details><summary>{summary}</summary>\n\n{table}\n\n</details>"
            yield table


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _written(cell: Cell, twofold: bool) -> str:
    lines = [line for words in parts(cell) for line in (said(words) if twofold else [_english(words)])]
    return "\n".join(lines).replace("\n", "<br>")


def parts(cell: Cell) -> tuple[Words, ...]:
    """The lines of a cell."""
    return cell if isinstance(cell, tuple) else (cell,)


def _english(words: Words) -> str:
    return said(words)[0]


def said(words: Words) -> list[str]:
    """In English, then in Japanese where that is another text."""
    match words:
        case Both(en, ja, _):
            return [en] if en == ja else [en, ja]
        case Plain(text):
            return [text]
        case Link(inner, _):
            return said(inner)
    return [words]
