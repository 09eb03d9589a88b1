"""``sekisho plan``: what a night takes and costs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import click

from sekisho.cli.numbers import Number
from sekisho.cli.terminal import json_option, show

POSITIVE = Number(0, 1e9, min_open=True)
NONE_OR_MORE = Number(0, 1e9)
COUNT = click.IntRange(1, 1_000_000)


@click.command()
@click.option(
    "--data-gb", type=NONE_OR_MORE, default=300.0, show_default=True, help="GB of raw Parquet so far."
)
@click.option("--new-gb", type=NONE_OR_MORE, default=0.5, show_default=True, help="GB that a night adds.")
@click.option("--folds", type=COUNT, help="[default: split.folds of params.yaml]")
@click.option("--seeds", type=COUNT, help="[default: as many as train.seeds]")
@click.option("--samples", type=COUNT, help="Samples of one run. [default: of the trainer's section]")
@click.option("--nodes", type=COUNT, default=4, show_default=True, help="Machines at once.")
@click.option(
    "--cores", type=COUNT, default=8, show_default=True, help="Of a machine, for bars and features."
)
@click.option("--ranks", type=COUNT, default=1, show_default=True, help="Machines of one run.")
@click.option("--device", default="cpu", show_default=True, help="As bench/rates.json names it.")
@click.option("--interruptions", type=Number(0, 1000), default=0.05, show_default=True,
              help="Of spot machines, per machine and hour.")  # fmt: skip
@click.option(
    "--checkpoint-minutes", type=POSITIVE, default=5.0, show_default=True, help="Between checkpoints."
)
@click.option(
    "--restart-minutes", type=NONE_OR_MORE, default=5.0, show_default=True, help="Until training goes on."
)
@click.option("--instance", default="g5.2xlarge", show_default=True, help="Of terraform/cost/prices.yaml.")
@click.option(
    "--spot-factor",
    type=Number(0, 1),
    help="Of the list price. [default: usage.yaml's; 1 for a machine that it lacks]",
)
@click.option("--jpy-per-usd", type=POSITIVE, help="[default: terraform/budget.yaml's]")
@click.option("--hours", type=POSITIVE, default=6.0, show_default=True, help="What has to fit.")
@click.option("--explain", is_flag=True, help="Print each figure's formula.")
@json_option
def plan(
    folds: int | None, seeds: int | None, samples: int | None, device: str, instance: str,
    spot_factor: float | None, jpy_per_usd: float | None, hours: float, explain: bool, as_json: bool,
    **asked: float,
) -> None:  # fmt: skip
    """Hours and yen of a night, from measured rates and list prices, and what fits into it."""
    from sekisho.params import load_params
    from sekisho.plan import Inputs, estimate, fits, load_prices, load_rates, shown

    if asked["ranks"] > asked["nodes"]:
        raise click.BadParameter(f"{asked['ranks']} is more than --nodes", param_hint="--ranks")
    params = load_params(Path("params.yaml"))
    usd, spot, jpy = load_prices(instance)
    inputs = Inputs(
        folds=folds or params.split.folds,
        seeds=seeds or len(params.train.seeds),
        samples=samples or getattr(params, params.train.trainer).samples,
        usd_hour=usd,
        spot_factor=spot if spot_factor is None else spot_factor,
        jpy_per_usd=jpy_per_usd or jpy,
        **asked,  # type: ignore[arg-type]
    )
    rates = load_rates(device)
    lines = estimate(inputs, rates) + fits(inputs, rates, hours)
    figures = [
        dataclasses.asdict(line) | {"value": line.value if math.isfinite(line.value) else None}
        for line in lines
    ]
    content = {"inputs": dataclasses.asdict(inputs), "rates": dataclasses.asdict(rates)}
    text = [
        f"{line.name:<24}{shown(line.value):>16} {line.unit:<5}" + (f"  = {line.formula}" if explain else "")
        for line in lines
    ]
    if explain:
        text += [f"from {inputs}", f"and {rates}"]
    show(content | {"figures": figures}, "\n".join(text), as_json)
