"""Validated bars as dense arrays: time × symbol, the shape every later room works on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.errors import DataError

Float = npt.NDArray[np.float64]
PRICES = ("open", "high", "low", "close", "adv", "half_spread", "borrow_rate", "funding_rate")


@dataclass(frozen=True)
class Panel:
    """Bars of ``A`` symbols at ``T`` common bar ends, ascending in time.

    Where a symbol has no bar, prices carry the last close forward, volume is 0 and ``tradable`` is False.
    Shapes: ``ts_close``, ``session`` ``(T,)``; all others ``(T, A)``.
    """

    symbols: tuple[str, ...]
    ts_close: npt.NDArray[np.datetime64]  # us, UTC, the bar's end
    session: npt.NDArray[np.datetime64]  # D, the exchange's day
    open: Float  # quote currency, adjusted
    high: Float
    low: Float
    close: Float
    volume: Float  # units of the adjusted prices: volume × close is the traded value
    adv: Float  # currency a day, lagged
    half_spread: Float  # fraction
    borrow_rate: Float  # per bar
    funding_rate: Float  # per bar
    adj_factor: Float  # what raw prices were multiplied by
    tradable: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ts_close)

    def rows(self, start: int, stop: int) -> Panel:
        """Bars ``start`` to ``stop`` (views, no copy)."""
        cut = {f.name: getattr(self, f.name)[start:stop] for f in fields(self) if f.name != "symbols"}
        return Panel(symbols=self.symbols, **cut)


def partitions(folder: Path) -> list[Path]:
    """Parquet files of a bars or features folder in time order.

    Raises:
        DataError: no such folder, or no Parquet file in it.
    """
    names = in_time_order(path.name for path in folder.glob("*.parquet"))
    if not names:
        raise DataError(
            f"{folder}: no Parquet file there", remedy="run `dvc pull data.dvc`, then `dvc repro`"
        )
    return [folder / name for name in names]


def in_time_order(names: Iterable[str]) -> list[str]:
    """Names of partitions as their time goes: as they sort, but a month before the days that follow it in
    the same month, which plain text would turn round (``2025-04-04.parquet`` < ``2025-04.parquet``)."""
    return sorted(names, key=lambda name: name.removesuffix(".parquet"))


def load_panel(bars: Path, first: dt.date | None = None, last: dt.date | None = None) -> Panel:
    """Read validated bars (contract: DESIGN.md, *Bars*, plus ``session``) of the given sessions.

    Raises:
        DataError: no bars there.
    """
    frame = pl.scan_parquet(partitions(bars), glob=False)
    if first:
        frame = frame.filter(pl.col("session") >= first)
    if last:
        frame = frame.filter(pl.col("session") <= last)
    table = frame.sort("ts_close", "symbol").collect()
    if table.is_empty():
        raise DataError(f"{bars}: no bars from {first} to {last}", remedy="choose sessions the data has")
    return dense(table)


def dense(table: pl.DataFrame) -> Panel:
    """The panel of a table of validated bars that is sorted by ``ts_close`` and ``symbol``, not empty."""
    symbols = tuple(table["symbol"].unique().sort())
    ends = table.select("ts_close", "session").unique(maintain_order=True)
    shape = (len(ends), len(symbols))
    place = (
        table["ts_close"].rle_id().to_numpy().astype(np.int64) * len(symbols)
        + table["symbol"].cast(pl.Enum(symbols)).to_physical().to_numpy()
    )
    column = {name: _placed(table[name], place, shape) for name in (*PRICES, "adj_factor")}
    column["volume"] = _placed(table["volume"], place, shape, absent=0.0)
    tradable = _placed(table["tradable"], place, shape, absent=0.0).astype(bool)
    # a missing bar has no prices of its own: all four are the last close
    missing = ~tradable & (column["volume"] == 0)
    for name in ("open", "high", "low"):
        np.copyto(column[name], column["close"], where=missing)
    return Panel(
        symbols=symbols,
        ts_close=ends["ts_close"].dt.replace_time_zone(None).to_numpy(),
        session=ends["session"].to_numpy().astype("datetime64[D]"),
        tradable=tradable,
        **column,
    )


def _placed(
    values: pl.Series, place: npt.NDArray[np.int64], shape: tuple[int, int], absent: float | None = None
) -> Float:
    """``(T, A)`` of one column. Where there is no value: ``absent``, else the symbol's last one before it,
    else its first. NaN is a value, which later checks name."""
    result, present = np.full(shape, absent or 0.0), np.zeros(shape, dtype=bool)
    present.reshape(-1)[place] = values.is_not_null().to_numpy()
    result.reshape(-1)[place] = values.cast(pl.Float64).fill_null(absent or 0.0).to_numpy()
    if absent is not None or present.all():
        return result
    row = np.arange(shape[0])[:, None]
    last = np.maximum.accumulate(np.where(present, row, -1), axis=0)
    return np.take_along_axis(result, np.where(last < 0, np.argmax(present, axis=0), last), axis=0)
