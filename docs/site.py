"""Hooks of mkdocs.yml: pages in their own language, a switch to the twin in the other, links out of docs/.

One build holds both languages, so that a link to an ADR, the glossary or a picture is the same in both and
the search finds either. See https://www.mkdocs.org/dev-guide/plugins for when each hook is called.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, normpath
from typing import Any

LANGUAGES = {"en": "English", "ja": "日本語"}
# a section's title in each language and its pages, of docs/<language>; a folder stands for all that is in it
SECTIONS = [
    ({"en": "Start", "ja": "はじめに"}, ["index.md", "tutorial.md"]),
    ({"en": "Guides", "ja": "役割別ガイド"}, ["guides/"]),
    (
        {"en": "Rooms", "ja": "各部の説明"},
        [
            "terminal.md",
            "your-data.md",
            "commands.md",
            "workflows.md",
            "monitoring.md",
            "audit.md",
            "terraform.md",
        ],
    ),
    ({"en": "Why", "ja": "規則の理由"}, ["why.md"]),
    ({"en": "Reference", "ja": "リファレンス"}, ["reference/"]),
    ({"en": "Runbooks", "ja": "ランブック"}, ["runbooks/"]),
]
# a link to a file of the repository: (text)(path, with its anchor)
LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s]+)(\))")


def language(path: str) -> str:
    """Of the page at ``path``, relative to docs/; what is in neither folder is in English."""
    first = path.split("/")[0]
    return first if first in LANGUAGES else "en"


def on_config(config: Any) -> Any:
    """The menu: both languages, then what they share."""
    docs = Path(config.docs_dir)
    config.nav = [{name: menu(docs, code)} for code, name in LANGUAGES.items()]
    config.nav += [{"ADR": pages(docs, "adr/")}, {"Glossary 用語集": "glossary.md"}]
    return config


def menu(docs: Path, code: str) -> list[dict[str, list[str]]]:
    """Sections of a language with their pages; a page that no section names is the last one's."""
    found = [
        {titles[code]: [page for name in names for page in pages(docs, f"{code}/{name}")]}
        for titles, names in SECTIONS
    ]
    listed = {page for section in found for named in section.values() for page in named}
    rest = [page for page in pages(docs, f"{code}/") if page not in listed]
    return [*found, {"…": rest}] if rest else found


def pages(docs: Path, name: str) -> list[str]:
    """The page ``name``, or the pages in that folder, its index first; as mkdocs names them."""
    if not name.endswith("/"):
        return [name]
    found = sorted((docs / name).rglob("*.md"), key=lambda path: (path.stem not in ("index", "README"), path))
    return [path.relative_to(docs).as_posix() for path in found]


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """What a link reaches outside docs/ is shown where the repository is."""

    def out(found: re.Match[str]) -> str:
        path = normpath(f"docs/{dirname(page.file.src_uri)}/{found[2]}")
        return (
            found[0]
            if path.startswith("docs/")
            else f"{found[1]}{config.repo_url}/blob/main/{path}{found[3]}"
        )

    return LINK.sub(out, markdown)


def on_page_context(context: Any, *, page: Any, config: Any, nav: Any) -> Any:
    """The theme's words in the page's language; the language menu leads to the page's twin."""
    path = page.file.src_uri
    config.theme["language"] = language(path)
    first, _, rest = path.removesuffix(".md").partition("/")
    twin = rest if first in LANGUAGES else "index"
    config.extra["alternate"] = [
        {"lang": code, "name": name, "link": f"{code}/{twin}.html"} for code, name in LANGUAGES.items()
    ]
    return context
