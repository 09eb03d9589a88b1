"""Validation sets bad rows apart, refuses too many, names what is wrong, and never leaves half an output."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from sekisho.data.contract import COLUMNS
from sekisho.data.store import replaced, write_partition
from sekisho.data.validate import validate_bars
from sekisho.errors import DataError, StoreError
from sekisho.params import DataParams


class Stage:
    """The validate stage on a raw folder, with its three outputs."""

    def __init__(self, raw: Path, params: DataParams) -> None:
        self.raw, self.params, root = raw, params, raw.parent
        self.out, self.quarantine, self.metrics = (
            root / "build/bars",
            root / "build/q",
            root / "m/validate.json",
        )

    def run(self, **changes: object) -> dict[str, object]:
        params = self.params.model_copy(update=changes)
        return validate_bars(self.raw, self.out, self.quarantine, params, self.metrics)

    def left(self) -> list[str]:
        """Everything on disk that is not raw data."""
        root = self.raw.parent
        return sorted(
            str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and self.raw not in p.parents
        )


@pytest.fixture
def stage(raw: Path, params: DataParams) -> Stage:
    return Stage(raw, params)


def test_good_bars_pass_unchanged_with_their_session(stage: Stage, three_sessions: pl.DataFrame) -> None:
    counts = stage.run()
    written = pl.read_parquet(stage.out / "*.parquet")
    assert written.equals(three_sessions.select(*COLUMNS, "session"))
    assert json.loads(stage.metrics.read_text()) == counts
    assert counts == {
        "partitions": 3,
        "rows": 1188,
        "symbols": 6,
        "first_session": "2025-01-06",
        "last_session": "2025-01-08",
        "quarantined_rows": 0,
        "quarantined": {},
        "missing_sessions": 0,
    }
    assert not list(stage.quarantine.iterdir())


def test_twice_the_same_input_gives_the_same_bytes(stage: Stage) -> None:
    stage.run()
    first = {name: (stage.raw.parent / name).read_bytes() for name in stage.left()}
    stage.run()
    assert {name: (stage.raw.parent / name).read_bytes() for name in stage.left()} == first


def test_a_few_bad_rows_are_set_apart_with_reason_source_and_row(
    stage: Stage, spoil: Callable, set_row: Callable
) -> None:
    path = spoil(lambda f: set_row(130, volume=-5.0)(set_row(18, close=-1.0)(f)))
    counts = stage.run()
    bad = pl.read_parquet(stage.quarantine / path.name)
    assert bad.select("reason", "source", "row").rows() == [
        ("positive-price,price-order", str(path), 18),
        ("amounts", str(path), 130),
    ]
    assert counts["quarantined_rows"] == 2
    assert counts["quarantined"] == {"positive-price": 1, "price-order": 1, "amounts": 1}
    assert len(pl.read_parquet(stage.out / path.name)) == 394


def test_too_many_bad_rows_fail_and_the_first_are_named(
    stage: Stage, spoil: Callable, set_row: Callable
) -> None:
    path = spoil(set_row(18, close=-1.0))
    with pytest.raises(DataError) as caught:
        stage.run(max_quarantine_share=0.001)
    text = str(caught.value)
    assert f"{path}: 1 of 396 rows break the contract, allowed are 0.10%" in text
    assert "row 18, SYN1 at 2025-01-07 01:30:00Z: broken positive-price (prices are above 0)" in text
    assert "close -1.0" in text
    assert "remedy:" in text
    assert stage.left() == []


def drop(*rows: int) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.filter(~pl.int_range(1, pl.len() + 1).is_in(rows))


def later_by_a_day(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("ts_close", "available_at") - dt.timedelta(days=1))


STRUCTURAL = [
    (
        drop(*range(70, 78)),
        r"rule gap: SYN2 misses 8 bars in a row before 2025-01-07 01:00:00Z \(row 70\)",
    ),
    (drop(*range(60, 67)), r"rule gap: SYN1 misses 7 bars in a row after 2025-01-07 05:55:00Z \(row 59\)"),
    (drop(*range(67, 75)), r"rule gap: SYN2 misses 8 bars in a row before 2025-01-07 00:45:00Z \(row 67\)"),
    (lambda f: f.drop("volume"), "column volume is missing"),
    (lambda f: f.with_columns(pl.col("ts_close").dt.convert_time_zone("Asia/Tokyo")), "Asia/Tokyo"),
    (lambda f: f.with_columns(pl.col("ts_close").dt.replace_time_zone(None)), "no time zone"),
    (lambda f: f.clear(), "the file has no rows"),
    (
        later_by_a_day,
        "rule increasing: SYN1 begins at 2025-01-06 00:05:00Z, but .*2025-01-06.parquet already",
    ),
    (lambda f: pl.concat([f, f]), "792 of 792 rows break the contract"),
    (lambda f: f.with_columns(pl.col("ts_close") + dt.timedelta(hours=9)), "on-calendar"),
]


@pytest.mark.parametrize(("change", "message"), STRUCTURAL)
def test_a_fault_that_quarantine_cannot_mend_stops_the_stage_and_names_the_file(
    stage: Stage, spoil: Callable, change: Callable, message: str
) -> None:
    path = spoil(change)
    with pytest.raises(DataError, match=message) as caught:
        stage.run()
    assert str(path) in caught.value.message
    assert caught.value.remedy
    assert stage.left() == []


def test_late_bars_are_set_apart_unless_the_delay_is_allowed(
    stage: Stage, spoil: Callable, set_row: Callable
) -> None:
    # row 18 of 2025-01-07 ends at 01:30 UTC and is known five minutes later
    path = spoil(set_row(18, available_at=dt.datetime(2025, 1, 7, 1, 35, tzinfo=dt.UTC)))
    assert stage.run()["quarantined"] == {"late": 1}
    assert pl.read_parquet(stage.quarantine / path.name).select("reason", "row").rows() == [("late", 18)]
    assert stage.run(max_delay=300.0)["quarantined"] == {}


def test_a_session_without_any_bar_stops_the_stage_unless_allowed(stage: Stage) -> None:
    (stage.raw / "2025-01-07.parquet").unlink()
    with pytest.raises(
        DataError, match="no bar at all in 1 of the exchange's sessions: 2025-01-07"
    ) as caught:
        stage.run()
    assert "data.max_missing_sessions" in caught.value.remedy
    assert stage.left() == []
    assert stage.run(max_missing_sessions=1)["missing_sessions"] == 1


def test_a_history_that_only_begins_later_or_ends_sooner_misses_no_session(stage: Stage) -> None:
    (stage.raw / "2025-01-06.parquet").unlink()
    assert stage.run()["missing_sessions"] == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_or_empty_file_is_named(stage: Stage, share: float) -> None:
    path = stage.raw / "2025-01-07.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"empty|truncated or damaged") as caught:
        stage.run()
    assert str(path) in caught.value.message
    assert stage.left() == []


def test_a_missing_run_within_the_limit_is_kept(stage: Stage, spoil: Callable) -> None:
    spoil(drop(*range(70, 76)))
    assert stage.run()["rows"] == 1182


def test_quarantined_rows_count_as_missing_bars(stage: Stage, spoil: Callable, set_row: Callable) -> None:
    def seven_bad(frame: pl.DataFrame) -> pl.DataFrame:
        for row in range(70, 77):
            frame = set_row(row, close=-1.0)(frame)
        return frame

    spoil(seven_bad)
    with pytest.raises(DataError, match="SYN2 misses 7 bars"):
        stage.run(max_quarantine_share=0.05)


def test_a_failure_leaves_the_last_good_outputs_alone(stage: Stage, spoil: Callable) -> None:
    stage.run()
    before = {name: (stage.raw.parent / name).read_bytes() for name in stage.left()}
    spoil(lambda f: f.drop("volume"))
    with pytest.raises(DataError):
        stage.run()
    assert {name: (stage.raw.parent / name).read_bytes() for name in stage.left()} == before


def test_no_raw_partitions_is_an_error_with_a_remedy(stage: Stage) -> None:
    for path in stage.raw.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no Parquet file") as caught:
        stage.run()
    assert "dvc pull" in caught.value.remedy


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_at_the_last_write_leaves_nothing(stage: Stage) -> None:
    stage.metrics.parent.mkdir()
    beside = stage.metrics.with_name(f".{stage.metrics.name}.new")
    beside.symlink_to("/dev/full")
    with pytest.raises(DataError, match="no space left on the disk; nothing was written"):
        stage.run()
    assert not stage.out.exists()
    assert not stage.metrics.exists()
    assert not list(stage.out.parent.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_in_the_middle_of_a_partition_keeps_the_old_folder(
    tmp_path: Path, one_session: pl.DataFrame
) -> None:
    target = tmp_path / "bars"
    target.mkdir()
    (target / "old.parquet").write_bytes(b"old")

    def fill() -> None:
        with replaced(target) as (folder,):
            write_partition(one_session, folder / "new.parquet")
            write_partition(one_session, Path("/dev/full"))

    with pytest.raises(StoreError, match="no space left"):  # 75: a step of the night tries another machine
        fill()
    assert [p.name for p in tmp_path.rglob("*")] == ["bars", "old.parquet"]


def test_a_second_writer_of_a_folder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    target = tmp_path / "bars"
    with replaced(target) as (folder,):
        (folder / "first").touch()
        with pytest.raises(DataError, match="bars: another command is writing it"), replaced(target):
            raise AssertionError
        (folder / "second").touch()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bars", "first", "second"]


def test_what_a_killed_writer_left_is_in_nobodys_way(tmp_path: Path) -> None:
    program = "import os, signal; from pathlib import Path; from sekisho.data.store import replaced\n"
    program += f"with replaced(Path({str(tmp_path / 'bars')!r})) as (folder,):\n"
    program += "    (folder / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert {p.name for p in tmp_path.iterdir()} == {".bars.new", ".bars.lock"}
    with replaced(tmp_path / "bars") as (folder,):
        (folder / "whole").touch()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["bars", "whole"]


def test_a_folder_that_may_not_be_written_is_named(stage: Stage) -> None:
    if os.geteuid() == 0:
        stage.out.parent.mkdir()
        (stage.out.parent / ".bars.new").write_text("a file in the way")
    else:
        stage.out.parent.mkdir(mode=0o500)
    with pytest.raises(DataError, match=r"build/bars: "):
        stage.run()
