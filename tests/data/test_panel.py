"""The panel is dense: missing bars carry the last close, trade nothing, and keep their place."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sekisho.data.panel import load_panel, partitions
from sekisho.data.store import write_partition
from sekisho.errors import DataError


@pytest.fixture
def bars(tmp_path: Path, three_sessions: pl.DataFrame) -> Path:
    for (session,), part in three_sessions.partition_by("session", as_dict=True).items():
        write_partition(part, tmp_path / f"{session}.parquet")
    return tmp_path


def test_the_panel_holds_every_bar_in_its_place(bars: Path, three_sessions: pl.DataFrame) -> None:
    panel = load_panel(bars)
    assert len(panel) == 198
    assert panel.close.shape == (198, 6)
    for a, symbol in enumerate(panel.symbols):
        rows = three_sessions.filter(pl.col("symbol") == symbol)
        np.testing.assert_array_equal(panel.close[:, a], rows["close"].to_numpy())
        np.testing.assert_array_equal(panel.volume[:, a], rows["volume"].to_numpy())
    assert (np.diff(panel.ts_close) > np.timedelta64(0)).all()
    assert panel.tradable.all()


def test_a_month_comes_before_the_days_that_follow_it_in_the_same_month(tmp_path: Path) -> None:
    inside = ["2025-03", "2025-04", "2025-04-04", "2025-04-07", "2025-05", "2026"]
    for label in reversed(inside):
        (tmp_path / f"{label}.parquet").touch()
    assert [path.stem for path in partitions(tmp_path)] == inside


def test_a_missing_bar_carries_the_last_close_and_cannot_be_traded(
    bars: Path, three_sessions: pl.DataFrame
) -> None:
    path = bars / "2025-01-07.parquet"
    write_partition(
        three_sessions.filter(session=dt.date(2025, 1, 7)).filter(pl.int_range(pl.len()) != 70), path
    )
    panel = load_panel(bars)
    t = 66 + 4  # row 70 is the fifth bar of the second symbol
    last = panel.close[t - 1, 1]
    assert (panel.open[t, 1], panel.high[t, 1], panel.low[t, 1], panel.close[t, 1]) == (last,) * 4
    assert (panel.volume[t, 1], panel.tradable[t, 1]) == (0.0, False)
    assert panel.tradable.sum() == panel.tradable.size - 1


def test_sessions_can_be_chosen_and_none_is_an_error(bars: Path) -> None:
    day = dt.date(2025, 1, 7)
    assert set(load_panel(bars, day, day).session.astype("O")) == {day}
    with pytest.raises(DataError, match="no bars from 2026-01-01"):
        load_panel(bars, dt.date(2026, 1, 1))


def test_rows_are_views_of_the_same_bars(bars: Path) -> None:
    panel = load_panel(bars)
    part = panel.rows(10, 20)
    assert len(part) == 10
    assert np.shares_memory(part.close, panel.close)
