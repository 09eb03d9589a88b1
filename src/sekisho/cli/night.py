"""``sekisho session`` and ``sekisho runs``: what a workflow asks before it starts machines."""

from __future__ import annotations

import datetime as dt
import json

import click

from sekisho.params import load_params


@click.command("session")
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="[default: today in Tokyo]")
def session(day: dt.datetime | None) -> None:
    """Print whether the exchange of ``data.calendar`` trades on a day: true or false."""
    from zoneinfo import ZoneInfo

    from sekisho.calendar import Calendar

    data = load_params().data
    asked = day.date() if day else dt.datetime.now(ZoneInfo("Asia/Tokyo")).date()
    click.echo(json.dumps(bool(Calendar(data.calendar, data.bar).sessions(asked, asked))))


@click.command("runs")
def runs() -> None:
    """Print the runs of ``sekisho train --run`` as a JSON list: walk-forward windows × seeds."""
    from sekisho.train import Run

    params = load_params()
    names = [Run(fold, seed).name for fold in range(params.split.folds) for seed in params.train.seeds]
    click.echo(json.dumps(names))
