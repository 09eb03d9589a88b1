"""``sekisho train``."""

from __future__ import annotations

from pathlib import Path

import click

from sekisho.cli.terminal import json_option, show, words_to_stderr
from sekisho.params import load_params

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("train")
@click.option("--bars", type=FOLDER, default=Path("build/bars"), show_default=True, help="Validated bars.")
@click.option(
    "--features", type=FOLDER, default=Path("build/features"), show_default=True, help="Their features."
)
@click.option("--out", type=FOLDER, default=Path("build/train"), show_default=True, help="Folder to publish.")
@click.option(
    "--metrics", type=FILE, default=Path("metrics/train.json"), show_default=True, help="Metrics file."
)
@click.option(
    "--run", "name", metavar="fold-N/seed-N", help="Train this one only, and leave it in the store."
)
@click.option(
    "--store",
    metavar="ADDRESS",
    default=".sekisho",
    show_default=True,
    envvar="SEKISHO_STORE",
    help="Of finished runs and checkpoints: a folder or s3://….",
)
@json_option
def train(
    bars: Path, features: Path, out: Path, metrics: Path, name: str | None, store: str, as_json: bool
) -> None:
    """Train every walk-forward window and seed; interrupted, the next call goes on.

    SIGTERM saves what is under way and ends with 75: the same call goes on from there.
    """
    from sekisho.train import train as run
    from sekisho.train import train_one

    if name is not None:
        with words_to_stderr():
            train_one(load_params(), name, bars=bars, features=features, store=store)
        show({"run": name, "store": store}, f"train: {name} is finished → {store}", as_json)
        return
    with words_to_stderr():
        result = run(load_params(), bars=bars, features=features, out=out, metrics=metrics, store=store)
    runs = result["runs"].values()
    sharpes = ", ".join(f"{run['validation_sharpe']:.2f}" for run in runs)
    show(result, f"train: {len(runs)} agents, validation Sharpe ratios {sharpes} → {out}", as_json)
