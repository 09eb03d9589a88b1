"""What a name in a message, a report or an alert means, looked up in the documents of a checkout.

Nothing is said here: the pages under ``docs/`` are written from the code (docs/reference.py) or by hand, in
two languages, and tests keep them whole. Each row of their tables, each command and each runbook is an entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from itertools import zip_longest
from pathlib import Path
from posixpath import splitext

from sekisho.errors import CannotCheck

LANGUAGES = ("en", "ja")
# pages of docs/<language> whose tables explain names: the first column holds the name
TABLES = (
    "reference/gate.md",
    "why.md",
    "reference/report.md",
    "reference/params.md",
    "reference/errors.md",
    "your-data.md",
    "reference/alerts.md",
    "reference/metrics.md",
    "runbooks/safe-answers.md",
    "monitoring.md",
    "commands.md",
    "workflows.md",
    "reference/workflows.md",
    "reference/make.md",
)
COMMANDS = "reference/cli.md"  # a section each
RUNBOOKS = "runbooks"  # a page each
GLOSSARY = "glossary.md"  # of docs/, for both languages; its columns of words and of meanings
TERMS, MEANING = (0, 1), {"en": 2, "ja": 3}
LONGEST = 72  # letters of a first column that is a name; what is longer is a sentence
SERIES = re.compile("-(total|bucket|count|sum)$")  # what Prometheus puts behind a metric's name
NEAR = 5  # names that are suggested
ALIKE = 0.75  # difflib's ratio from which a name counts as misspelt: two letters of eight
BESIDE = 0.1  # of that ratio, that a name may lie under the nearest one
SHORTEST = 3  # letters of what is looked for inside names


@dataclass(frozen=True)
class Entry:
    """One explanation: Markdown, what kind it is of, and the page that says it."""

    name: str
    kind: str
    text: str
    page: str
    keys: frozenset[str]


def find_documents(start: Path, package: Path = Path(__file__)) -> Path:
    """The folder ``docs`` of the checkout around ``start``, else of the one that holds the package.

    Raises:
        CannotCheck: neither is a checkout; an installed package brings no documents.
    """
    for folder in (start, *start.parents, *package.parents):
        if (folder / "docs" / LANGUAGES[0] / COMMANDS).is_file():
            return folder / "docs"
    raise CannotCheck(
        f"{start}: no documents here, nor where sekisho is installed",
        remedy="run this in a checkout of the repository, which holds them in docs/",
    )


def read_entries(docs: Path, language: str) -> list[Entry]:
    """Every entry in a language, the gate's rules first; it is found by its names in the other one too."""
    found = [entry for page in TABLES for entry in _rows(docs, page, language)]
    found += _sections(docs, f"{language}/{COMMANDS}")
    found += [_runbook(docs, path) for path in sorted((docs / language / RUNBOOKS).glob("*.md"))]
    return found + list(_terms(docs, language))


def explain(entries: list[Entry], name: str) -> list[Entry]:
    """The entries of a name, however it is spelled: case, spaces, hyphens and underscores count as the same.

    Raises:
        CannotCheck: nothing has that name; the nearest are suggested.
    """
    wanted = key(name)
    for each in (wanted, SERIES.sub("", wanted)):
        if found := [entry for entry in entries if each in entry.keys]:
            return found
    remedy = "`sekisho explain` alone lists every name"
    if near := _near(entries, wanted):
        remedy = f"did you mean {', '.join(near)}? {remedy}"
    raise CannotCheck(f"no document explains {name!r}", remedy=remedy)


def _near(entries: list[Entry], wanted: str) -> list[str]:
    """Names that are spelled almost so; of which a word begins so; that are one of its words. None, where
    nothing is near: a guess that is none leads astray.
    """
    longest = sorted(entries, key=lambda entry: len(entry.name), reverse=True)
    names = {each: entry.name for entry in longest for each in entry.keys}  # the shortest of several
    alike = {
        each: SequenceMatcher(None, each, wanted).ratio()
        for each in get_close_matches(wanted, names, n=NEAR, cutoff=ALIKE)
    }
    near = [each for each, ratio in alike.items() if ratio > max(alike.values()) - BESIDE]
    if len(wanted) >= SHORTEST:
        near += sorted(each for each in names if f"-{wanted}" in re.sub(r"[^\w]", "-", f"-{each}"))
        near += [word for word in wanted.split("-") if word in names]
    return list(dict.fromkeys(names[each] for each in near))[:NEAR]


def key(name: str) -> str:
    """A name as it is looked up."""
    return re.sub(r"[\s_-]+", "-", name.strip().strip("`*").casefold())


def _keys(name: str) -> frozenset[str]:
    """A name's spellings: itself and, of a dotted one, its last parts, without marks of lists and tables."""
    plain = re.sub(r"\[\]|\.\*|\s*\([^)]*\)", "", name)
    parts = plain.split(".")
    ends = [".".join(parts[first:]) for first in range(len(parts))] if re.fullmatch(r"[\w.]+", plain) else []
    return frozenset(
        map(
            key,
            (name, plain, plain.removeprefix("/"), plain.removeprefix("make "), splitext(plain)[0], *ends),
        )
    )


def _rows(docs: Path, page: str, language: str) -> Iterator[Entry]:
    """The pages are mirrored row by row; a row that only one language has is found by that one's names."""
    shown = LANGUAGES.index(language)
    for rows in zip_longest(*(_tables(docs, f"{each}/{page}") for each in LANGUAGES)):
        if rows[shown] is None or not all(_names(row[2][0]) for row in rows if row):
            continue
        kind, head, cells = rows[shown]
        every = [(row[1][0], name) for row in rows if row for name in _names(row[2][0])]
        said = [(what, cell) for what, cell in zip(head[1:], cells[1:], strict=True) if cell not in ("", "–")]
        if not said:
            continue
        text = said[0][1] if len(said) == 1 else "\n".join(f"- {what}: {cell}" for what, cell in said)
        keys = frozenset().union(*(_keys(name) | {key(f"{what} {name}")} for what, name in every))
        yield Entry(", ".join(_names(cells[0])), kind, text, f"docs/{language}/{page}", keys)


def _names(cell: str) -> list[str]:
    """Names in a first column: what is code, without the arguments of a command; else the whole, if short."""
    found = [
        code.split(" ")[0] if code.startswith("/") else re.split(r" (?=[-<\[(…]|[A-Z])", code)[0]
        for code in re.findall(r"`([^`]+)`", cell)
    ]
    return found or ([cell.replace("*", "")] if 0 < len(cell) <= LONGEST else [])


def _tables(docs: Path, page: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Headings, head and cells of every row of a page's tables; links are their text alone."""
    title, section, head = "", "", list[str]()
    for line in (docs / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            title = line[2:]
        elif line.startswith("#"):
            section = ": " + line.lstrip("# ")
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not head:
            head = cells
        elif not re.fullmatch(r"[-: |]+", line):
            yield title + section, head, [_without_links(cell) for cell in cells]


def _without_links(text: str) -> str:
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", text)


def _sections(docs: Path, page: str) -> Iterator[Entry]:
    title, *sections = (docs / page).read_text(encoding="utf-8").split("\n## ")
    kind = title.split("# ", 1)[1].split("\n", 1)[0]
    for section in sections:
        name, text = section.split("\n", 1)
        keys = frozenset({key(name), key(name.removeprefix("sekisho "))})
        yield Entry(name, kind, text.strip(), f"docs/{page}", keys)


def _runbook(docs: Path, path: Path) -> Entry:
    title, text = path.read_text(encoding="utf-8").split("\n", 1)
    page = path.relative_to(docs.parent).as_posix()
    return Entry(path.stem, title.removeprefix("# "), _without_links(text.strip()), page, _keys(path.stem))


def _terms(docs: Path, language: str) -> Iterator[Entry]:
    for heading, _, cells in _tables(docs, GLOSSARY):
        terms = [cells[column].replace("*", "") for column in TERMS]
        words = [
            word for term in terms for word in re.split(r" / |[,、] ?", re.sub(r"[((].*?[))]", "", term))
        ]
        keys = frozenset(map(key, (*terms, *words)))
        yield Entry(" ".join(terms), heading, cells[MEANING[language]], f"docs/{GLOSSARY}", keys)
