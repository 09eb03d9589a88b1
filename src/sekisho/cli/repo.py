"""``sekisho repo``: the repository's own rules, held as data in .github/rulesets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sekisho.cli.terminal import json_option, show

if TYPE_CHECKING:
    from sekisho.forge.rest import Rest

FOLDER = click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".github/rulesets"),
    show_default=True,
    help="Folder of the rulesets' files.",
)


@click.group("repo")
def repo() -> None:
    """The repository on GitHub that SEKISHO_FORGE names."""


@repo.group("rules")
def rules() -> None:
    """Required checks, reviews and signatures, and who may pass over them."""


@rules.command("show")
def show_() -> None:
    """Print the rulesets that GitHub has, as JSON in the form of the files."""
    from sekisho.forge.rules import FIELDS, fetch_rules

    found = [{field: rules.get(field) for field in FIELDS} for rules in fetch_rules(_rest())]
    click.echo(json.dumps(found, indent=2))


@rules.command("check")
@FOLDER
@json_option
def check(folder: Path, as_json: bool) -> None:
    """Compare GitHub with the files. Exits 0 the same, 1 different, 2 could not be compared."""
    from sekisho.forge.rules import differences, fetch_rules, read_rules

    wanted = read_rules(folder)
    lines = differences(wanted, fetch_rules(_rest()))
    text = "\n".join(lines) or f"GitHub has the {len(wanted)} rulesets of {folder}"
    show({"rulesets": len(wanted), "differences": lines}, text, as_json)
    sys.exit(1 if lines else 0)


@rules.command("apply")
@FOLDER
@json_option
def apply(folder: Path, as_json: bool) -> None:
    """Make GitHub have what the files say; a ruleset of which no file knows is left alone."""
    from sekisho.forge.rules import apply_rules, read_rules

    done = apply_rules(_rest(), read_rules(folder))
    show({"done": done}, "\n".join(done) or "nothing to change", as_json)


def _rest() -> Rest:
    from sekisho.errors import CannotCheck
    from sekisho.forge import open_forge
    from sekisho.forge.github import GitHubForge
    from sekisho.params import load_params

    forge = open_forge(load_params().forge)
    if not isinstance(forge, GitHubForge):
        raise CannotCheck(
            "the local forge has no rulesets", remedy="set SEKISHO_FORGE to github:<owner>/<name>"
        )
    return forge.rest
