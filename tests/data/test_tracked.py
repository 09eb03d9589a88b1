"""A damaged object of DVC's cache, with real DVC."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from sekisho.data.store import add_partitions, partition_bytes
from sekisho.data.tracked import check_tracked, listing
from sekisho.errors import DataError


def dvc(folder: Path, *words: str) -> None:
    subprocess.run(["dvc", *words, "--quiet"], cwd=folder, check=True)


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    dvc(tmp_path, "init", "--no-scm")
    (tmp_path / "data/bars").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / f"data/bars/{name}.parquet").write_bytes(name.encode() * 1000)
    dvc(tmp_path, "add", "data")
    return tmp_path


def test_untouched_and_untracked_folders_pass(tracked: Path, tmp_path: Path) -> None:
    check_tracked(Path("data/bars"), tracked)
    (tmp_path / "elsewhere").mkdir()
    check_tracked(Path("elsewhere"), tmp_path)


def test_a_damaged_cache_object_that_dvc_checks_out_is_named_and_the_remedy_works(tracked: Path) -> None:
    shutil.copytree(tracked / ".dvc/cache", tracked / "remote")
    dvc(tracked, "remote", "add", "--default", "r", str(tracked / "remote"))
    whole = tracked / "data/bars/a.parquet"
    damaged = next(
        p for p in (tracked / ".dvc/cache").rglob("*") if p.is_file() and p.read_bytes()[:1] == b"a"
    )
    damaged.chmod(0o644)
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    damaged.chmod(0o444)
    shutil.rmtree(tracked / "data")
    dvc(tracked, "checkout")
    with pytest.raises(DataError, match=r"data/bars/a\.parquet") as caught:
        check_tracked(Path("data/bars"), tracked)
    assert str(damaged.relative_to(tracked)) in caught.value.remedy
    damaged.unlink()
    whole.unlink()
    dvc(tracked, "pull")
    check_tracked(Path("data/bars"), tracked)


@pytest.mark.parametrize("change", ["extra", "missing", "edited"])
def test_files_that_dvc_does_not_know_are_named_with_what_to_do(tracked: Path, change: str) -> None:
    bars = tracked / "data/bars"
    if change == "missing":
        (bars / "a.parquet").unlink()
    else:
        (bars / ("c.parquet" if change == "extra" else "a.parquet")).write_bytes(b"other")
    with pytest.raises(DataError, match=r"data/bars/[ac]\.parquet") as caught:
        check_tracked(Path("data/bars"), tracked)
    assert "dvc add data" in caught.value.remedy


def test_one_more_day_is_added_to_a_folder_of_which_no_file_is_here(tracked: Path) -> None:
    """What the night's `ingest` does: training/workflow.py, `LISTING`."""
    frame = pl.DataFrame({"close": [1.0]})
    (tracked / "data/bars/a.parquet").write_bytes(partition_bytes(frame))
    dvc(tracked, "add", "data")
    shutil.copytree(tracked / ".dvc/cache", tracked / "remote")
    dvc(tracked, "remote", "add", "--default", "r", str(tracked / "remote"))
    bars, days = Path("data/bars"), {"a": frame, "c": frame * 2}
    for folder in ("data", ".dvc/cache"):
        shutil.rmtree(tracked / folder)
    assert listing(bars, tracked) is None
    dvc(tracked, "fetch", "data/.listing")
    before = listing(bars, tracked)
    assert before is not None
    assert set(before) == {"a.parquet", "b.parquet"}
    assert [p.suffix for p in (tracked / ".dvc/cache").rglob("*") if p.is_file()] == [".dir"]
    with pytest.raises(DataError, match=r"b\.parquet: 1 partitions are tracked with other bytes") as caught:
        add_partitions(tracked / bars, [*days.items(), ("b", frame)], before)
    assert "dvc pull" in caught.value.remedy
    assert not list(tracked.glob("data/bars/*"))
    assert add_partitions(tracked / bars, days.items(), before) == (1, 1)
    assert [p.name for p in tracked.glob("data/bars/*")] == ["c.parquet"]
    dvc(tracked, "add", "data/bars/c.parquet")
    after = listing(bars, tracked)
    assert after is not None
    assert set(after) == {"a.parquet", "b.parquet", "c.parquet"}
    assert before.items() < after.items()
    dvc(tracked, "push", "data.dvc")
    for folder in ("data", ".dvc/cache"):
        shutil.rmtree(tracked / folder)
    dvc(tracked, "pull")
    check_tracked(bars, tracked)
