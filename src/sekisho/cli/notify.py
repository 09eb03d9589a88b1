"""``sekisho notify``: what becomes of a failed workflow run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click


@click.command()
@click.option(
    "--event",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="GitHub's workflow_run event file.",
)
def notify(event: Path) -> None:
    """Run the failed jobs of a workflow run again, or tell people about them.

    Tells on the pull request that the run was for, and in the chat whose webhook NOTIFY_WEBHOOK names.
    """
    from sekisho.errors import CannotCheck
    from sekisho.forge import open_forge
    from sekisho.forge.github import GitHubForge
    from sekisho.forge.notify import settle
    from sekisho.params import load_params

    try:
        run = json.loads(event.read_text(encoding="utf-8"))["workflow_run"]
    except (OSError, ValueError, KeyError) as error:
        raise CannotCheck(f"{event}: not a workflow_run event", remedy="give GITHUB_EVENT_PATH") from error
    forge = open_forge(load_params().forge)
    if not isinstance(forge, GitHubForge):
        raise CannotCheck("the local forge has no workflow runs", remedy="set SEKISHO_FORGE=github:…")
    click.echo(settle(forge, run, os.environ.get("NOTIFY_WEBHOOK")))
