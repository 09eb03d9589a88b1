"""``sekisho features`` and ``sekisho check-lookahead``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sekisho.params import load_params

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command("features")
@click.option("--bars", type=FOLDER, default=Path("build/bars"), show_default=True, help="Validated bars.")
@click.option(
    "--out", type=FOLDER, default=Path("build/features"), show_default=True, help="Folder to publish."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def features(bars: Path, out: Path, as_json: bool) -> None:
    """Compute the training table from validated bars."""
    from sekisho.features import build_features, feature_names

    params = load_params().features
    files, rows = build_features(bars, out, params)
    if as_json:
        click.echo(json.dumps({"files": files, "rows": rows, "features": feature_names(params)}))
    else:
        click.echo(
            f"features: {rows:,} rows × {len(feature_names(params))} features in {files} files → {out}"
        )


@click.command("check-lookahead")
@click.option("--bars", type=FOLDER, default=Path("build/bars"), show_default=True, help="Validated bars.")
@click.option("--cuts", type=click.IntRange(min=1), default=5, show_default=True, help="Moments to cut at.")
@click.option(
    "--seed", type=int, default=1, show_default=True, help="Of the cuts and of the changed futures."
)
def check_lookahead(bars: Path, cuts: int, seed: int) -> None:
    """Prove that no feature looks into the future: change the future, compare the past."""
    from sekisho.data.panel import load_panel
    from sekisho.errors import Refused
    from sekisho.features import compute_features, feature_names, find_leaks

    params = load_params().features
    panel = load_panel(bars)
    leaks = find_leaks(
        panel, lambda p: compute_features(p, params), feature_names(params), cuts=cuts, seed=seed
    )
    if leaks:
        raise Refused(
            "no look-ahead",
            expected="past features that do not depend on the future",
            found="; ".join(map(str, leaks)),
            remedy="compute the features named above from bars up to the current one only",
        )
    click.echo(f"check-lookahead: {len(feature_names(params))} features, {cuts} cuts, no leak")
