"""``sekisho features`` and ``sekisho check-lookahead``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sekisho.params import load_params

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
CUTS, SEED = 5, 1  # moments from which on all is changed, beside the short blocks at every bar, and how


@click.command("features")
@click.option("--bars", type=FOLDER, default=Path("build/bars"), show_default=True, help="Validated bars.")
@click.option(
    "--out", type=FOLDER, default=Path("build/features"), show_default=True, help="Folder to publish."
)
@click.option(
    "--lookahead",
    type=FILE,
    default=Path("metrics/lookahead.json"),
    show_default=True,
    help="Finding on look-ahead to write; the gate judges it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def features(bars: Path, out: Path, lookahead: Path, as_json: bool) -> None:
    """Compute the training table from validated bars, and check that no feature looks ahead."""
    from sekisho.features import (
        Foreign,
        Leak,
        build_features,
        check_features,
        check_table,
        feature_names,
        write_finding,
    )

    params = load_params().features
    names = feature_names(params)
    files, rows = build_features(bars, out, params)
    leaks: list[Leak | Foreign] = [*check_features(bars, params, cuts=CUTS, seed=SEED)]
    known = {leak.feature for leak in leaks}  # each feature is named once
    leaks += [other for other in check_table(bars, out, params) if other.feature not in known]
    write_finding(leaks, names, CUTS, lookahead)
    if as_json:
        click.echo(json.dumps({"files": files, "rows": rows, "features": names, "leaks": len(leaks)}))
        return
    click.echo(f"features: {rows:,} rows × {len(names)} features in {files} files → {out}")
    for leak in leaks:
        click.echo(f"features: LOOKS AHEAD, the gate will fail: {leak}", err=True)


@click.command("check-lookahead")
@click.option("--bars", type=FOLDER, default=Path("build/bars"), show_default=True, help="Validated bars.")
@click.option(
    "--cuts",
    type=click.IntRange(min=1),
    default=CUTS,
    show_default=True,
    help="Moments from which on all is changed; a short block is at every bar.",
)
@click.option(
    "--seed", type=int, default=SEED, show_default=True, help="Of the cuts and of the changed futures."
)
def check_lookahead(bars: Path, cuts: int, seed: int) -> None:
    """Prove that no feature looks into the future: change the future, compare the past."""
    from sekisho.errors import Refused
    from sekisho.features import check_features, feature_names

    params = load_params().features
    leaks = check_features(bars, params, cuts=cuts, seed=seed)
    if leaks:
        raise Refused(
            "no look-ahead",
            expected="past features that do not depend on the future",
            found="; ".join(map(str, leaks)),
            remedy="compute the features named above from bars up to the current one only",
        )
    click.echo(
        f"check-lookahead: {len(feature_names(params))} features, every bar and {cuts} futures, no leak"
    )
