"""What a terminal gets and a pipe does not, decided in one place.

The result goes to stdout, for people or, with ``--json``, as one JSON document; all else goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document for programs.")


def colour() -> bool | None:
    """False: none at all, by NO_COLOR (no-color.org), in CI or on a terminal that says it cannot. None: as
    the stream is, so that pipes and files get plain text."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("CI") or os.environ.get("TERM") == "dumb"
    return False if plain else None


def show(value: Any, text: str, as_json: bool) -> None:
    """The result: ``value`` for programs, ``text`` for people (nothing, where it is empty)."""
    if as_json:
        click.echo(json.dumps(value, default=str))
    elif text:
        click.echo(text)


def complain(text: str) -> None:
    """What is wrong, in red where a terminal reads it."""
    click.secho(text, fg="red", err=True, color=colour())


@contextmanager
def steps(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal, else nothing; yields what to call after each step."""
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=total, label=label, file=sys.stderr, hidden=hidden) as bar:
        yield lambda: bar.update(1)


@contextmanager
def words_to_stderr() -> Iterator[None]:
    """What the code inside prints while it works is no result."""
    with redirect_stdout(sys.stderr):
        yield
