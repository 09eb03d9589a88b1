"""``sekisho explain``: what a name means, from the documents of the checkout."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from sekisho.cli.terminal import colour, json_option, show
from sekisho.explain import LANGUAGES, Entry, find_documents, key, read_entries
from sekisho.explain import explain as look_up

WIDEST = 100  # letters of a line on a terminal


def spoken() -> str:
    """The language of this terminal: the first of LC_ALL, LC_MESSAGES and LANG that is set says it."""
    said = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    return next((language for language in LANGUAGES if said.startswith(language)), LANGUAGES[0])


def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names that begin so; of several words, joined by hyphens."""
    entries = read_entries(find_documents(Path.cwd()), context.params.get("language") or spoken())
    names = {name: entry.kind for entry in entries for name in entry.name.split(", ")}
    return [
        CompletionItem(key(name) if " " in name else name, help=kind)
        for name, kind in names.items()
        if key(name).startswith(key(incomplete))
    ]


@click.command()
@click.argument("name", nargs=-1, shell_complete=complete)
@click.option("--lang", "language", type=click.Choice(LANGUAGES), help="[default: that of the terminal]")
@json_option
def explain(name: tuple[str, ...], language: str | None, as_json: bool) -> None:
    """Explain a rule, an alert, an error, an exit code, a figure, a parameter, a term or a command.

    NAME as a message or a page has it; without one, all names are listed.
    """
    entries = read_entries(find_documents(Path.cwd()), language or spoken())
    found = look_up(entries, " ".join(name)) if name else entries
    if as_json or not name:
        fields = ("name", "kind", "text", "page") if name else ("name", "kind", "page")
        value = [{field: asdict(entry)[field] for field in fields} for entry in found]
        show(value, "\n".join(f"{entry.name:<48} {entry.kind}" for entry in found), as_json)
        return
    text = "\n\n".join(map(_written, found))
    if sys.stdout.isatty() and colour() is None:
        _render(text)
    else:
        click.echo(text)


def _written(entry: Entry) -> str:
    return f"## {entry.name}\n\n*{entry.kind} ({entry.page})*\n\n{entry.text}"


def _render(markdown: str) -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.width = min(console.width, WIDEST)
    console.print(Markdown(markdown))
