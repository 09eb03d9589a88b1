"""A page as one HTML file without scripts or outside resources: both languages, light and dark, and print.

Language and colours are chosen by radio buttons that the style sheet looks at; ``#ja`` in an address opens a
page in Japanese, so that links keep the reader's language.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sekisho.page.blocks import (
    Block,
    Both,
    Cell,
    Chain,
    Fold,
    Heading,
    Link,
    Picture,
    Plain,
    Step,
    Table,
    Text,
    Tile,
    Tiles,
    Words,
    parts,
    said,
)
from sekisho.page.style import STYLE

LEADS_SOMEWHERE = re.compile(
    r"https?://[^\s]+|[\w.-][\w./-]*(#[\w.-]+)?"
)  # no other scheme, nothing that runs

HEADER = "<header>"  # the menu stands at its beginning
WHOLE = re.compile(r"\b\d{4}-\d\d-\d\d(?![\d-])|\be-detector\b")  # is not broken at its hyphens


@dataclass(frozen=True)
class Page:
    """A page of a set: its title, and its file's name beside the others."""

    title: Both
    file: str


def to_html(title: Both, blocks: Sequence[Block], menu: Iterable[Page] = (), here: str = "") -> str:
    """The page; ``menu`` leads to the others of its set, of which it is ``here``."""
    fields = {
        "title": html.escape(f"{title.en} · {title.ja}"),
        "style": STYLE,
        "header": HEADER,
        "menu": _menu(list(menu), here),
        "body": "\n".join(map(_html, blocks)),
    }
    return re.sub(r"\{(\w+)\}", lambda found: fields[found[1]], PAGE)


def with_menu(page: str, menu: Iterable[Page], here: str) -> str:
    """A page that `to_html` wrote without one, with a menu; what else wrote stands as it is."""
    return page.replace(HEADER, f"{HEADER}{_menu(list(menu), here)}", 1)


def _menu(pages: list[Page], here: str) -> str:
    if not pages:
        return ""
    links = [
        f'<strong aria-current="page">{_inline(page.title)}</strong>'
        if page.file == here
        else _inline(Link(page.title, page.file))
        for page in pages
    ]
    return f"<nav>{''.join(links)}</nav>"


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Text(text):
            return f"<p>{_lines(text)}</p>"
        case Picture(name, caption, svg):
            label = f"figure-{name}"
            drawn = svg.replace("<svg ", f'<svg role="img" aria-labelledby="{label}" ', 1)
            drawing = f'<div class="drawing" tabindex="0">{drawn}</div>'
            return f'<figure>{drawing}<figcaption id="{label}">{_inline(caption)}</figcaption></figure>'
        case Table():
            return _table(block)
        case Tiles(tiles):
            return f'<dl class="tiles">{"".join(map(_tile, tiles))}</dl>'
        case Chain(steps):
            return f'<ol class="chain">{"".join(map(_step, steps))}</ol>'
        case Fold(summary, blocks, name):
            inner = "\n".join(map(_html, blocks))
            at = f' id="{html.escape(name)}"' if name else ""
            return f"<details{at}><summary>{_inline(summary)}</summary>{inner}</details>"


def _table(table: Table) -> str:
    head = "".join(_cell("th", cell, place in table.left) for place, cell in enumerate(table.header))
    lines = "".join(
        "<tr>" + "".join(_cell("td", cell, place in table.left) for place, cell in enumerate(row)) + "</tr>\n"
        for row in table.rows
    )
    whole = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{lines}</tbody></table>"
    wide = f'<div class="wide" tabindex="0">{whole}</div>'
    return f"<details><summary>{_inline(table.folded)}</summary>{wide}</details>" if table.folded else wide


def _cell(tag: str, cell: Cell, left: bool) -> str:
    text = _lines(cell)
    if tag == "th" and not text:
        tag = "td"  # a header that says nothing is none
    return f"<{tag}{'' if left else ' class=n'}>{text}</{tag}>"


def _lines(cell: Cell) -> str:
    return "<br>".join(map(_inline, parts(cell)))


def _tile(tile: Tile) -> str:
    note = f'<dd class="note">{_inline(tile.note)}</dd>' if tile.note else ""
    kind = f' class="{tile.state}"' if tile.state else ""
    return f"<div{kind}><dt>{_inline(tile.label)}</dt><dd>{_inline(tile.value)}</dd>{note}</div>"


def _step(step: Step) -> str:
    lines = "".join(f"<p>{_inline(line)}</p>" for line in step.lines)
    return f"<li><strong>{_inline(step.title)}</strong>{lines}</li>"


def _inline(words: Words) -> str:
    match words:
        case Both(en, ja, plain):
            written = _escaped if plain else _marked
            if en == ja:
                return written(en)
            return f'<span lang="en">{written(en)}</span><span lang="ja">{written(ja)}</span>'
        case Plain(text):
            return _escaped(text)
        case Link(inner, href):
            if not LEADS_SOMEWHERE.fullmatch(href):
                return _inline(inner)
            if href.startswith("http") or "#" in href:
                return f'<a href="{html.escape(href)}">{_inline(inner)}</a>'
            names = said(inner)
            return "".join(
                f'<span lang="{language}"><a href="{href}{at}">{_escaped(name)}</a></span>'
                for language, at, name in (("en", "", names[0]), ("ja", "#ja", names[-1]))
            )
    return _marked(words)


def _escaped(text: str) -> str:
    whole = WHOLE.sub(r'<span class="whole">\g<0></span>', html.escape(text, quote=False))
    return whole.replace("\n", "<br>")


def _marked(text: str) -> str:
    escaped = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", _escaped(text))
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
<body>
{header}{menu}
<form class="switches">
<fieldset><legend>Language 言語</legend>
<input type="radio" name="language" id="en"><label for="en">English</label>
<input type="radio" name="language" id="ja"><label for="ja" class="ja">日本語</label>
</fieldset>
<fieldset><legend>Colours 配色</legend>
<input type="radio" name="colours" id="auto" checked><label for="auto">
<span lang="en">auto</span><span lang="ja">自動</span></label>
<input type="radio" name="colours" id="light"><label for="light">
<span lang="en">light</span><span lang="ja">明</span></label>
<input type="radio" name="colours" id="dark"><label for="dark">
<span lang="en">dark</span><span lang="ja">暗</span></label>
</fieldset>
</form>
</header>
<main>
{body}
</main>
</body>
</html>
"""
