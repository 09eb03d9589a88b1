"""``sekisho notify``: what becomes of a failed workflow run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from sekisho.cli.terminal import json_option, show


@click.command()
@click.option(
    "--event",
    type=click.Path(path_type=Path, dir_okay=False),
    help="GitHub's workflow_run event file.",
)
@click.option("--workflow", metavar="NAME", help="Argo's workflow, for --failures.")
@click.option("--failures", metavar="JSON", help="Argo's {{workflow.failures}}: tell the chat about them.")
@json_option
def notify(event: Path | None, workflow: str | None, failures: str | None, as_json: bool) -> None:
    """Run the failed jobs of a workflow run again, or tell people about them.

    Tells on the pull request that the run was for, and in the chat whose webhook NOTIFY_WEBHOOK names.
    """
    from sekisho.errors import CannotCheck
    from sekisho.forge import open_forge
    from sekisho.forge.github import GitHubForge
    from sekisho.forge.notify import settle, tell_failures
    from sekisho.params import load_params

    webhook = os.environ.get("NOTIFY_WEBHOOK")
    if (event is None) == (failures is None) or (failures is None) != (workflow is None):
        raise click.UsageError("give --event, or --workflow and --failures")
    if event is None:
        assert workflow is not None
        assert failures is not None
        done = tell_failures(workflow, failures, webhook, load_params().forge.timeout)
        show({"done": done}, done, as_json)
        return
    try:
        run = json.loads(event.read_text(encoding="utf-8"))["workflow_run"]
    except (OSError, ValueError, KeyError) as error:
        raise CannotCheck(f"{event}: not a workflow_run event", remedy="give GITHUB_EVENT_PATH") from error
    forge = open_forge(load_params().forge)
    if not isinstance(forge, GitHubForge):
        raise CannotCheck("the local forge has no workflow runs", remedy="set SEKISHO_FORGE=github:…")
    done = settle(forge, run, webhook)
    show({"done": done}, done, as_json)
