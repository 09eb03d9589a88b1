"""Small raw bars that keep the contract, for tests to break."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from sekisho.data.contract import COLUMNS
from sekisho.data.store import write_partition
from sekisho.data.synthetic import synthetic_bars
from sekisho.params import DataParams

Break = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture(scope="session")
def params() -> DataParams:
    return DataParams(
        calendar="XTKS",
        bar="5min",
        max_quarantine_share=0.01,
        max_gap_bars=6,
        max_missing_sessions=0,
        max_delay=0,
    )


@pytest.fixture(scope="session")
def three_sessions() -> pl.DataFrame:
    """Contract columns and ``session`` of 2025-01-06 to 2025-01-08."""
    return synthetic_bars(dt.date(2025, 1, 6), 3, seed=5)


@pytest.fixture(scope="session")
def one_session(three_sessions: pl.DataFrame) -> pl.DataFrame:
    """396 raw rows: 6 symbols × 66 bars, sorted by symbol and time."""
    return three_sessions.filter(pl.col("session") == dt.date(2025, 1, 6)).select(list(COLUMNS))


@pytest.fixture
def raw(tmp_path: Path, three_sessions: pl.DataFrame) -> Path:
    """A raw folder of three good partitions."""
    folder = tmp_path / "bars"
    folder.mkdir()
    for (session,), part in three_sessions.partition_by("session", as_dict=True).items():
        write_partition(part.select(list(COLUMNS)), folder / f"{session}.parquet")
    return folder


@pytest.fixture
def spoil(raw: Path) -> Callable[[Break], Path]:
    """Rewrite the second partition through a function; returns its path."""

    def rewrite(change: Break) -> Path:
        path = raw / "2025-01-07.parquet"
        change(pl.read_parquet(path)).write_parquet(path)
        return path

    return rewrite


@pytest.fixture
def set_row() -> Callable[..., Break]:
    """``set_row(17, close=-1.0)``: sets values of the row with this number (the first is 1)."""

    def make(row: int, **values: object) -> Break:
        here = pl.int_range(pl.len()) == row - 1
        return lambda frame: frame.with_columns(
            pl.when(here).then(pl.lit(value, frame.schema[name])).otherwise(pl.col(name)).alias(name)
            for name, value in values.items()
        )

    return make


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test takes from, or leaves anything in, the store of this checkout."""
    monkeypatch.setenv("SEKISHO_STORE", str(tmp_path.with_name(f"{tmp_path.name}-store")))
