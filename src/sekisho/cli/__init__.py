"""The ``sekisho`` command: one module per room, loaded when its verb is used, so that ``--help`` is quick.

Each verb is one call of one function; what a program reads comes with ``--json``. Completion in a shell is
click's own: docs/en/terminal.md.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from typing import TYPE_CHECKING

import click

from sekisho.cli.terminal import colour, complain
from sekisho.errors import FULL, Refused, SekishoError, StoreError

PIPE_CLOSED = 141  # 128 + SIGPIPE

# verb -> (module under sekisho.cli, one line of help), in the order of the loop
VERBS = {
    "data": ("data", "Make, adapt, check and validate bars."),
    "features": ("features", "Compute the training table from validated bars."),
    "plan": ("plan", "Hours and yen of a night, and what fits into it."),
    "check-lookahead": ("features", "Prove that no feature looks into the future."),
    "train": ("train", "Train every walk-forward window and seed."),
    "runs": ("night", "List the runs of `train --run`, as JSON."),
    "session": ("night", "Say whether the exchange trades on a day."),
    "dvc": ("night", "Run DVC, and tell by the exit code whether to try again."),
    "backtest": ("backtest", "Run the trained agents through their test windows."),
    "trials": ("backtest", "Count the trials so far and what picking one of them costs."),
    "gate": ("backtest", "Judge the backtest: pass or fail per rule."),
    "report": ("backtest", "Write the backtest report (Markdown, HTML, plots)."),
    "pr": ("forge", "Pull requests: open, comment, approve, merge (GitHub or the local forge)."),
    "export": ("release", "Assemble a release: model, reference, golden vectors, manifest."),
    "sign": ("release", "Sign the facts about a release."),
    "verify": ("release", "Check a release against the trust policy."),
    "promote": ("release", "Point an environment at a release."),
    "rollback": ("release", "Make a new entry that returns to an older release's content."),
    "revoke": ("release", "Add a release to the signed revocation list."),
    "audit": ("audit", "Trace a prediction or a release; check the audit log."),
    "serve": ("serving", "Serve a verified release."),
    "switch": ("serving", "Turn the kill switch of running servers."),
    "served": ("serving", "Check which release is served."),
    "freeze": ("serving", "Argo CD's deny windows in market hours: write or check them."),
    "replay": ("serving", "Send a market's bars through a policy server."),
    "drift": ("monitoring", "Judge the prediction log: drift, data quality, performance."),
    "retrain": ("monitoring", "Open or update the retrain pull request for a verdict."),
    "kpi": ("monitoring", "Measure lead time, release frequency and time to retrain."),
    "pages": ("pages", "Write the pages on model, KPIs, cost and audit, which open without a server."),
    "repo": ("repo", "The repository's own rules: show, compare with GitHub, apply."),
    "notify": ("notify", "Run a failed workflow run again, or tell people about it."),
    "explain": ("explain", "Explain a name that a message, a report or an alert has."),
    "doctor": ("doctor", "Say what is missing on this machine and how to get it."),
}


if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """A click group whose commands live in modules that are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"sekisho.cli.{VERBS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the verbs, too, without importing any of them."""
        from click.shell_completion import CompletionItem

        verbs = [
            CompletionItem(verb, help=text)
            for verb, (_, text) in VERBS.items()
            if verb.startswith(incomplete)
        ]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sekisho")
def main() -> None:
    """Sekisho (関所): the checkpoint every trading model must pass.

    Exit codes: 0 done; 1 judged and refused; 2 could not be done or checked.
    """


def run() -> None:
    """Entry point: every error becomes its message, its remedy and its exit code.

    A fault of our own shows its traceback and ends with 2, never with 1: a crash is not a verdict. Neither is
    a reader who has seen enough: then it ends as a shell's own commands do.
    """
    stdout = sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals that cannot show every letter
    if colour() is False:
        os.environ["NO_COLOR"] = "1"  # for rich and for every process that is started from here
    try:
        code = main(standalone_mode=False, color=colour())
        sys.exit(code if isinstance(code, int) else 0)
    except SystemExit as ending:  # click's own when nobody reads any more: 1, and another sys.stdout
        sys.exit(ending.code if sys.stdout is stdout else PIPE_CLOSED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    except SekishoError as error:
        complain(f"sekisho: {error}")
        if isinstance(error, Refused):
            complain(f"  why: sekisho explain {error.rule}")
        sys.exit(error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        complain(f"sekisho: {where}{error.strerror or error}")
        complain("  remedy: check the path, its permissions and the free space (`sekisho doctor`)")
        sys.exit(StoreError.exit_code if error.errno in FULL else 2)
    except Exception:  # noqa: BLE001 (the last resort: show it and do not let it pass for a verdict)
        traceback.print_exc()
        complain("sekisho: this is a fault of sekisho itself; please report the lines above")
        sys.exit(2)
