"""Markdown for comments: cut long text without breaking tables or fences; quote other people's words."""

from __future__ import annotations

import re
from collections.abc import Iterator

FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
FOLD, UNFOLD = re.compile(r"<details>(?!.*</details>)"), "</details>"
RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")  # the |---|---| line under a table's header


def split_markdown(text: str, limit: int) -> list[str]:
    """Cut ``text`` into parts of at most ``limit`` characters; at least one part is returned.

    Cuts fall between lines; a table that is cut repeats its header, a fence or a fold (``<details>``, on a
    line of its own) is closed and opened again. Only a line that alone exceeds the limit is cut inside (a
    table's row loses its end, marked by an ellipsis).
    """
    if len(text) <= limit:
        return [text]
    parts: list[str] = []
    current, closing = "", ""
    folds: list[str] = []  # what opened each fold that is open here
    for opening, unit, close in _units(text.split("\n"), limit // 4):
        row, outside = "|" in opening, list(folds)
        if not opening and not close and FOLD.match(unit) and len("".join([*folds, unit])) < limit // 8:
            folds.append(unit)
        elif not opening and not close and unit.strip() == UNFOLD and folds:
            folds.pop()
        opening = "\n".join([*(f"{fold}\n" for fold in outside), *filter(None, [opening])])
        close += f"\n\n{UNFOLD}" * len(folds)
        for piece in _pieces(unit, limit - len(opening) - len(close) - 2, row=row):
            if current and len(current) + 1 + len(piece) + len(close) > limit:
                parts.append(current + closing)
                current = ""
            current = f"{current}\n{piece}" if current else (f"{opening}\n{piece}" if opening else piece)
            closing = close
    return [*parts, current + closing]


def _units(lines: list[str], longest: int) -> Iterator[tuple[str, str, str]]:
    """(what opens a part that begins here, the unit itself, what closes a part that ends here)."""
    fence, opener, header = "", "", ""
    index = 0
    while index < len(lines):
        line, index = lines[index], index + 1
        match = FENCE.match(line)
        if fence:
            if match and match[1].startswith(fence) and not line.strip().strip(fence[0]):
                yield opener, line, ""
                fence = opener = ""
            else:
                yield opener, line, f"\n{fence}"
        elif match and len(line) < longest:
            fence, opener, header = match[1], line, ""
            yield "", line, f"\n{fence}"
        elif header and "|" in line and line.strip():
            yield header, line, ""
        else:
            header = ""
            under = lines[index] if index < len(lines) else ""
            if "|" in line and "|" in under and RULE.match(under) and len(line) + len(under) < longest:
                header, index = f"{line}\n{under}", index + 1
                yield "", header, ""
            else:
                yield "", line, ""


def _pieces(unit: str, room: int, *, row: bool) -> list[str]:
    if len(unit) <= room:
        return [unit]
    if row:
        return [unit[: room - 4] + " … |"]
    return [unit[start : start + room] for start in range(0, len(unit), room)]


def quoted(text: str, longest: int = 200) -> str:
    """Someone's words as one harmless code span: no mention, link, marker or line of its own."""
    plain = "".join(c if c.isprintable() else " " for c in text).replace("`", "'").strip()
    plain = plain[:longest] + ("…" if len(plain) > longest else "")
    return f"`` {plain} ``" if plain else "(nothing)"


def one_line(text: str, longest: int = 250) -> str:
    """A title: printable, one line, not too long."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:longest]
