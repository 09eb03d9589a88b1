"""What a workflow asks before it starts machines (``session``, ``runs``), and DVC with our exit codes."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
from collections.abc import Iterable

import click

from sekisho.errors import CannotCheck, Refused, SekishoError, StoreError
from sekisho.params import load_params

# DVC 3's own words and codes: the end of a stage's command; bad configuration, no repository, bad arguments
STAGE_ENDED = re.compile(r"ERROR: .*failed to run: .*, exited with (-?\d+)\s*$")
MISCONFIGURED, MISCONFIGURED_CODES = re.compile(r"ERROR: .*config file error"), (251, 253, 254)


@click.command("session")
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="[default: today in Tokyo]")
def session(day: dt.datetime | None) -> None:
    """Print whether the exchange of ``data.calendar`` trades on a day: true or false."""
    from zoneinfo import ZoneInfo

    from sekisho.calendar import Calendar

    data = load_params().data
    asked = day.date() if day else dt.datetime.now(ZoneInfo("Asia/Tokyo")).date()
    calendar = Calendar(data.calendar, data.bar)
    if not calendar.next_sessions(asked, 1):  # of a day that it does not know it would say: no session
        raise CannotCheck(
            f"{asked}: the calendar {data.calendar} does not reach there",
            remedy="see whether this machine's clock is right; it knows days up to a year from now",
        )
    click.echo(json.dumps(bool(calendar.sessions(asked, asked))))


@click.command("runs")
def runs() -> None:
    """Print the runs of ``sekisho train --run`` as a JSON list: walk-forward windows × seeds."""
    from sekisho.train import Run

    params = load_params()
    names = [Run(fold, seed).name for fold in range(params.split.folds) for seed in params.train.seeds]
    click.echo(json.dumps(names))


@click.command("dvc", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
def dvc(words: tuple[str, ...]) -> None:
    """Run DVC, and tell by the exit code whether the same call may end better.

    1 and 2 are those of the stage that failed, 2 also stands for bad configuration; 75: all else, such as a
    remote that does not answer. DVC itself ends with 255 whatever a stage ended with, and with 1 where a
    push or pull met no remote.
    """
    command = [sys.executable, "-m", "dvc", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            click.echo(line, err=True, nl=False)
            said.append(line)
    sys.exit(_meaning(process.returncode, said))


def _meaning(code: int, said: Iterable[str]) -> int:
    """Our exit code for DVC's and what it said on stderr."""
    if code == 0:
        return 0
    text = list(said)
    if code in MISCONFIGURED_CODES or any(map(MISCONFIGURED.search, text)):
        return SekishoError.exit_code
    ends = [int(found[1]) for line in text if (found := STAGE_ENDED.search(line))]
    known = (Refused.exit_code, SekishoError.exit_code)
    return ends[-1] if ends and ends[-1] in known else StoreError.exit_code
