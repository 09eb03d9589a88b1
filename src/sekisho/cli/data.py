"""``sekisho data …``: make, adapt, check and validate bars."""

from __future__ import annotations

import dataclasses
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sekisho.cli.numbers import Number
from sekisho.cli.terminal import json_option, show

if TYPE_CHECKING:
    from sekisho.data.survey import Fault
    from sekisho.partition_store import PartitionStore

PATH = click.Path(path_type=Path)
DAY = click.DateTime(["%Y-%m-%d"])
BARS = Path("data/bars")
store_option = click.option(
    "--store",
    envvar="SEKISHO_STORE",
    default=".sekisho/partitions",
    show_default=True,
    show_envvar=True,
    help="Results by partition, so that none is made twice: a folder, or s3://bucket/prefix.",
)


@click.group()
def data() -> None:
    """Make, adapt, check and validate bars (contract: docs/en/your-data.md)."""


@data.command()
@click.option("--raw", type=PATH, default=BARS, show_default=True, help="Folder of raw partitions.")
@click.option("--out", type=PATH, default=Path("build/bars"), show_default=True, help="For the good rows.")
@click.option(
    "--quarantine", type=PATH, default=Path("build/quarantine"), show_default=True, help="For the bad rows."
)
@click.option(
    "--metrics", type=PATH, default=Path("metrics/validate.json"), show_default=True, help="For the counts."
)
@click.option("--params", type=PATH, default=Path("params.yaml"), show_default=True)
@store_option
@click.option(
    "--partition", "labels", multiple=True, metavar="LABEL",
    help="Check only this one, into the store, and write nothing else; repeatable.",
)  # fmt: skip
@json_option
def validate(
    raw: Path,
    out: Path,
    quarantine: Path,
    metrics: Path,
    params: Path,
    store: str,
    labels: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check every bar; set bad rows apart; fail where there are too many."""
    from sekisho.data.validate import first_offenders, validate_bars
    from sekisho.params import load_params
    from sekisho.partition_store import PartitionStore

    if labels:
        _validate_some(raw, labels, params, store, as_json)
        return
    kept = PartitionStore(store)
    counts = validate_bars(raw, out, quarantine, load_params(params).data, metrics, kept)
    show_damage(kept)
    text = (
        f"{out}: {counts['rows']} rows in {counts['partitions']} partitions, "
        f"{counts['quarantined_rows']} bad rows quarantined in {quarantine}"
    )
    if counts["quarantined_rows"]:
        text += f"\n{first_offenders(quarantine)}"
    show(counts, text, as_json)


def _validate_some(raw: Path, labels: tuple[str, ...], params: Path, store: str, as_json: bool) -> None:
    from sekisho.features.from_store import validate_some
    from sekisho.params import load_params
    from sekisho.partition_store import PartitionStore

    kept = PartitionStore(store)
    show_made(store, validate_some(raw, labels, load_params(params), kept), kept, as_json)


def show_damage(store: PartitionStore) -> None:
    """Name what the store held damaged, on stderr."""
    for damage in store.damaged:
        click.echo(f"sekisho: {damage}", err=True)


def show_made(address: str, made: list[str], store: PartitionStore, as_json: bool) -> None:
    """Say what one call of a fan-out put into the store."""
    show_damage(store)
    show({"made": made}, f"{address}: {len(made)} partitions were new", as_json)


@data.command()
@click.option("--raw", type=PATH, default=BARS, show_default=True, help="Folder of raw partitions.")
@click.option("--params", type=PATH, default=Path("params.yaml"), show_default=True)
@store_option
@click.option("--new", is_flag=True, help="Only those whose bars or features the store lacks.")
@click.option(
    "--labels", is_flag=True, help="Print their labels alone, as a JSON list: the items of a fan-out."
)
@json_option
def partitions(raw: Path, params: Path, store: str, new: bool, labels: bool, as_json: bool) -> None:
    """List the partitions of raw bars, with what the store has of each; no file that DVC tracks is read."""
    from sekisho.features.from_store import raw_partitions
    from sekisho.params import load_params
    from sekisho.partition_store import PartitionStore

    kept = PartitionStore(store)
    found = raw_partitions(raw, load_params(params), kept)
    show_damage(kept)
    shown = [part for part in found if not (new and part.validated and part.featurised)]
    if labels:
        click.echo(json.dumps([part.label for part in shown]))
        return
    lines = []
    for part in shown:
        size = "not here" if part.bytes is None else f"{part.bytes:,}"
        marks = " ".join(["validated"] * part.validated + ["featurised"] * part.featurised) or "new"
        lines.append(f"{part.label:<12}{size:>16}  {part.digest}  {marks}")
    show([dataclasses.asdict(part) for part in shown], "\n".join(lines), as_json)


@data.command()
@click.option("--raw", type=PATH, default=BARS, show_default=True, help="Folder of raw partitions.")
@click.option("--params", type=PATH, default=Path("params.yaml"), show_default=True)
@json_option
def check(raw: Path, params: Path, as_json: bool) -> None:
    """List every rule that raw bars break; write nothing. Exit code 1 when there is any."""
    from sekisho.data.survey import read_all, survey
    from sekisho.params import load_params

    _show_faults(survey(read_all(raw), load_params(params).data), str(raw), as_json)


@data.command()
@click.option(
    "--from",
    "source",
    required=True,
    help="Folder of Parquet or CSV files, or s3://bucket/prefix/**/*.parquet.",
)
@click.option("--mapping", type=PATH, required=True, help="YAML file that maps your columns to ours.")
@click.option("--out", type=PATH, default=BARS, show_default=True, help="Gets new partitions; old ones stay.")
@click.option("--params", type=PATH, default=Path("params.yaml"), show_default=True)
@click.option(
    "--dry-run", is_flag=True, help="Write nothing; list every broken rule; exit code 1 when there is any."
)
@json_option
def ingest(source: str, mapping: Path, out: Path, params: Path, dry_run: bool, as_json: bool) -> None:
    """Bring your own bars to the contract."""
    from sekisho.data.adapter import adapted, load_mapping
    from sekisho.data.adapter import ingest as add
    from sekisho.data.survey import survey
    from sekisho.params import load_params

    settings, columns = load_params(params).data, load_mapping(mapping)
    if dry_run:
        _show_faults(survey(adapted(source, columns, settings), settings), source, as_json)
        return
    new, same = add(source, columns, out, settings)
    text = f"{out}: {new} new partitions, {same} were there already"
    show({"new": new, "unchanged": same}, text, as_json)


@data.command()
@click.option("--out", type=PATH, default=BARS, show_default=True)
@json_option
def sample(out: Path, as_json: bool) -> None:
    """Write the committed sample anew: same seed, same bytes."""
    from sekisho.data.synthetic import SAMPLE_SEED, sample_sessions, write_synthetic

    days = sample_sessions()
    files = write_synthetic(out, days[0], len(days), SAMPLE_SEED, months=True)
    value = {"out": out, "sessions": len(days), "files": files, "first": days[0], "last": days[-1]}
    show(value, f"{out}: {len(days)} sessions in {files} months, {days[0]} to {days[-1]}", as_json)


@data.command()
@click.option("--out", type=PATH, required=True, help="This folder is replaced.")
@click.option("--first", type=DAY, required=True, help="First session.")
@click.option("--sessions", type=click.IntRange(1), required=True, help="How many.")
@click.option("--seed", type=click.IntRange(0), required=True)
@click.option("--keep-from", type=DAY, help="Write only the sessions from here on (the path is the same).")
@click.option("--change-at", type=DAY, help="From this session on the market is another:")
@click.option(
    "--volatility",
    type=Number(0, 100, min_open=True),
    default=1.0,
    show_default=True,
    help="  multiple of its volatility",
)
@click.option(
    "--correlation",
    type=Number(0, 1),
    help="  pairwise correlation from the market factor",
)
@click.option(
    "--signal",
    type=Number(-100, 100),
    default=1.0,
    show_default=True,
    help="  multiple of its signal; -1 turns it round",
)
@json_option
def synthetic(
    out: Path,
    first: datetime,
    sessions: int,
    seed: int,
    keep_from: datetime | None,
    change_at: datetime | None,
    volatility: float,
    correlation: float | None,
    signal: float,
    as_json: bool,
) -> None:
    """Write a synthetic market, changed from some session on if you like."""
    from sekisho.data.synthetic import Change, write_synthetic

    if change_at is None and (volatility, correlation, signal) != (1.0, None, 1.0):
        raise click.UsageError("--volatility, --correlation and --signal need --change-at")
    change = Change(change_at.date(), volatility, correlation, signal) if change_at else None
    keep = keep_from.date() if keep_from else None
    files = write_synthetic(out, first.date(), sessions, seed, change=change, keep_from=keep)
    show({"out": out, "sessions": files}, f"{out}: {files} sessions", as_json)


@data.command()
@click.option("--out", type=PATH, required=True, help="This folder is replaced.")
@click.option("--source", type=click.Choice(["skfolio", "arch"]), default="skfolio", show_default=True)
@json_option
def real(out: Path, source: Literal["skfolio", "arch"], as_json: bool) -> None:
    """Write the real daily prices that an installed package ships (calendar XNYS, bar 1d)."""
    from sekisho.data.real import write_real

    files, rows = write_real(out, source)
    value = {"out": out, "source": source, "rows": rows, "files": files}
    show(value, f"{out}: {rows} rows of {source} in {files} years", as_json)


def _show_faults(faults: list[Fault], source: str, as_json: bool) -> None:
    """Print faults as a table or JSON; exit code 1 when there is any."""
    lines = [f"{'rule':<16}{'count':>7}  first example"]
    for f in faults:
        row = f" row {f.row}" if f.row else ""
        where = f", {f.symbol} at {f.time:%Y-%m-%d %H:%M:%SZ}" if f.time else ""
        place = f"{f.file}{row}{where}: " if f.file else ""
        lines.append(f"{f.rule:<16}{f.count:>7}  {place}{f.detail}")
    text = "\n".join(lines) if faults else f"{source}: every bar keeps the contract"
    show([dataclasses.asdict(fault) for fault in faults], text, as_json)
    if faults:
        sys.exit(1)
