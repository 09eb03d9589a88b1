"""``sekisho features`` and ``sekisho check-lookahead``."""

from __future__ import annotations

from pathlib import Path

import click

from sekisho.cli.data import show_damage, show_made, store_option
from sekisho.cli.terminal import complain, json_option, show
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
@store_option
@click.option(
    "--partition", "labels", multiple=True, metavar="LABEL",
    help="Compute only this one, from --raw into the store, and write nothing else; repeatable.",
)  # fmt: skip
@click.option(
    "--raw", type=FOLDER, default=Path("data/bars"), show_default=True, help="Raw bars, for --partition."
)
@json_option
def features(
    bars: Path, out: Path, lookahead: Path, store: str, labels: tuple[str, ...], raw: Path, as_json: bool
) -> None:
    """Compute the training table from validated bars, and check that no feature looks ahead."""
    from sekisho.features import Foreign, Leak, check_features, feature_names, write_finding
    from sekisho.features.build import build_features
    from sekisho.partition_store import PartitionStore

    if labels:
        _featurise(raw, labels, store, as_json)
        return
    params, kept = load_params().features, PartitionStore(store)
    names = feature_names(params)
    built = build_features(bars, out, params, kept)
    show_damage(kept)
    leaks: list[Leak | Foreign] = [*check_features(bars, params, cuts=CUTS, seed=SEED)]
    known = {leak.feature for leak in leaks}  # each feature is named once
    leaks += [other for other in built.foreign if other.feature not in known]
    write_finding(leaks, names, CUTS, lookahead)
    sizes = {"files": built.files, "rows": built.rows, "made": built.made}
    line = (
        f"features: {built.rows:,} rows × {len(names)} features in {built.files} files → {out}; "
        f"{len(built.made)} partitions were new"
    )
    show(sizes | {"features": names, "leaks": len(leaks)}, line, as_json)
    for leak in leaks:
        complain(f"features: LOOKS AHEAD, the gate will fail: {leak}")


def _featurise(raw: Path, labels: tuple[str, ...], store: str, as_json: bool) -> None:
    from sekisho.features.from_store import featurise_some
    from sekisho.partition_store import PartitionStore

    kept = PartitionStore(store)
    show_made(store, featurise_some(raw, labels, load_params(), kept), kept, as_json)


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
@json_option
def check_lookahead(bars: Path, cuts: int, seed: int, as_json: bool) -> None:
    """Prove that no feature looks into the future: change the future, compare the past."""
    from sekisho.errors import Refused
    from sekisho.features import check_features, feature_names

    params = load_params().features
    names = feature_names(params)
    leaks = check_features(bars, params, cuts=cuts, seed=seed)
    if leaks:
        raise Refused(
            "no look-ahead",
            expected="past features that do not depend on the future",
            found="; ".join(map(str, leaks)),
            remedy="compute the features named above from bars up to the current one only",
        )
    line = f"check-lookahead: {len(names)} features, every bar and {cuts} futures, no leak"
    show({"features": names, "cuts": cuts, "leaks": 0}, line, as_json)
