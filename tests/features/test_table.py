from __future__ import annotations

import datetime as dt
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from sekisho.cli.features import check_lookahead
from sekisho.data.panel import Panel, load_panel
from sekisho.errors import DataError, Refused
from sekisho.features import (
    build,
    compute_features,
    feature_names,
    load_features,
    lookahead,
)
from sekisho.features.build import build_features
from sekisho.params import FeatureParams

Maker = Callable[..., Panel]


def write_bars(panel: Panel, folder: Path) -> None:
    """One partition per session; a bar without volume that is not tradable is missing."""
    folder.mkdir()
    bars, assets = panel.close.shape
    columns = ("open", "high", "low", "close", "volume", "adv", "half_spread", "borrow_rate", "funding_rate")
    frame = pl.DataFrame(
        {
            "symbol": list(panel.symbols) * bars,
            "ts_close": pl.Series(np.repeat(panel.ts_close, assets)).dt.replace_time_zone("UTC"),
            "session": np.repeat(panel.session, assets),
            "adj_factor": 1.0,
            "tradable": panel.tradable.ravel(),
        }
        | {name: getattr(panel, name).ravel() for name in columns}
    ).filter(pl.col("tradable") | (pl.col("volume") > 0))
    for (session,), part in frame.group_by("session"):
        part.write_parquet(folder / f"{session}.parquet")


@pytest.mark.parametrize("block", [1, 60, 10_000])
def test_block_by_block_equals_the_whole_history(
    block: int, tmp_path: Path, random_panel: Maker, params: FeatureParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bars(random_panel(1, sessions=8, missing=0.15), tmp_path / "bars")
    monkeypatch.setattr(build, "BLOCK_ROWS", block)
    built = build_features(tmp_path / "bars", tmp_path / "features", params)
    panel = load_panel(tmp_path / "bars")
    assert (built.files, built.rows, len(built.made)) == (8, 8 * 8 * 3, 8)
    loaded = load_features(tmp_path / "features", panel)
    np.testing.assert_array_equal(loaded, compute_features(panel, params))


@pytest.mark.parametrize("block", [1, 10_000])
@pytest.mark.parametrize("every", [1, 40])
def test_a_table_that_holds_the_next_bars_feature_is_found_though_the_function_is_honest(
    every: int, block: int, tmp_path: Path, random_panel: Maker, params: FeatureParams,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def leaky(panel: Panel, params: FeatureParams) -> np.ndarray:
        features = compute_features(panel, params)
        features[:-1][::-every, :, 1] = features[1:][::-every, :, 1]
        return features

    write_bars(random_panel(1, sessions=8, missing=0.15), tmp_path / "bars")
    monkeypatch.setattr(build, "BLOCK_ROWS", block)
    assert build_features(tmp_path / "bars", tmp_path / "honest", params).foreign == []
    monkeypatch.setattr(build, "compute_features", leaky)
    found = build_features(tmp_path / "bars", tmp_path / "leaky", params).foreign
    assert [leak.feature for leak in found] == [feature_names(params)[1]]
    assert "the training table holds another value" in str(found[0])


def test_a_symbol_that_lists_later_changes_nothing_before(
    tmp_path: Path, random_panel: Maker, params: FeatureParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = random_panel(2, sessions=8, missing=0.0)
    panel.volume[:30, 2], panel.tradable[:30, 2] = 0.0, False
    write_bars(panel, tmp_path / "bars")
    monkeypatch.setattr(build, "BLOCK_ROWS", 1)
    build_features(tmp_path / "bars", tmp_path / "features", params)
    whole = load_panel(tmp_path / "bars")
    np.testing.assert_array_equal(
        load_features(tmp_path / "features", whole), compute_features(whole, params)
    )
    assert pl.read_parquet(tmp_path / "features/2025-01-06.parquet").columns == [
        "symbol", "ts_close", "session", *feature_names(params),
    ]  # fmt: skip


def test_building_twice_gives_the_same_bytes(
    tmp_path: Path, random_panel: Maker, params: FeatureParams
) -> None:
    write_bars(random_panel(1), tmp_path / "bars")
    build_features(tmp_path / "bars", tmp_path / "a", params)
    build_features(tmp_path / "bars", tmp_path / "b", params)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_features_of_other_bars_are_refused(
    tmp_path: Path, random_panel: Maker, params: FeatureParams
) -> None:
    write_bars(random_panel(1), tmp_path / "bars")
    build_features(tmp_path / "bars", tmp_path / "features", params)
    (tmp_path / "features/2025-01-08.parquet").unlink()
    with pytest.raises(DataError, match="dvc repro features"):
        load_features(tmp_path / "features", load_panel(tmp_path / "bars"))
    early = load_panel(tmp_path / "bars", last=dt.date(2025, 1, 7))
    assert load_features(tmp_path / "features", early).shape[0] == 16


def test_too_short_a_history_is_refused_and_leaves_the_old_table(
    tmp_path: Path, random_panel: Maker, params: FeatureParams
) -> None:
    write_bars(random_panel(1), tmp_path / "bars")
    build_features(tmp_path / "bars", tmp_path / "features", params)
    before = {p.name: p.read_bytes() for p in (tmp_path / "features").iterdir()}
    write_bars(random_panel(1, sessions=1, missing=0.0), tmp_path / "short")
    with pytest.raises(DataError, match="8 bars, the features look back over 12"):
        build_features(tmp_path / "short", tmp_path / "features", params)
    assert {p.name: p.read_bytes() for p in (tmp_path / "features").iterdir()} == before


def test_a_write_that_fails_leaves_the_old_table_and_says_so(
    tmp_path: Path, random_panel: Maker, params: FeatureParams
) -> None:
    write_bars(random_panel(1), tmp_path / "bars")
    build_features(tmp_path / "bars", tmp_path / "features", params)
    before = {p.name: p.read_bytes() for p in (tmp_path / "features").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # bytes a file: the disk's refusal, for real
    try:
        with pytest.raises(DataError, match="features: no space left on the disk"):
            build_features(tmp_path / "bars", tmp_path / "features", params)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in (tmp_path / "features").iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bars", "features"]


def test_check_lookahead_passes_ours_and_refuses_a_leak(
    tmp_path: Path, random_panel: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bars(random_panel(4, sessions=20, bars=10, missing=0.0), tmp_path / "bars")
    arguments = ["--bars", str(tmp_path / "bars"), "--cuts", "2"]
    result = CliRunner().invoke(check_lookahead, arguments, catch_exceptions=False)
    assert "no leak" in result.output

    def leaky(panel: Panel, params: FeatureParams) -> np.ndarray:
        honest = compute_features(panel, params)
        honest[:-1, :, 0] = honest[1:, :, 0]
        return honest

    monkeypatch.setattr("sekisho.features.compute.compute_features", leaky)
    with pytest.raises(Refused, match="return_") as refused:
        CliRunner().invoke(check_lookahead, arguments, catch_exceptions=False)
    assert refused.value.exit_code == 1


def test_only_the_newest_bars_of_a_long_history_are_checked(
    tmp_path: Path, random_panel: Maker, params: FeatureParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bars(random_panel(1, sessions=8), tmp_path / "bars")
    monkeypatch.setattr(lookahead, "ROWS", 100)  # four sessions of 8 bars × 3 symbols

    def checked(panel: Panel, params: FeatureParams) -> np.ndarray:
        lengths.append(len(panel))
        return compute_features(panel, params)

    lengths: list[int] = []
    monkeypatch.setattr("sekisho.features.compute.compute_features", checked)
    assert lookahead.check_features(tmp_path / "bars", params, cuts=1, seed=1) == []
    assert lengths[0] == 4 * 8
