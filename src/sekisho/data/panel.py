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
    grid = (
        table.select("ts_close", "session")
        .unique(maintain_order=True)
        .join(pl.DataFrame({"symbol": symbols}), how="cross")
    )
    full = (
        grid.join(table, on=["ts_close", "symbol", "session"], how="left", maintain_order="left")
        .with_columns(pl.col("tradable").fill_null(False), pl.col("volume").fill_null(0.0))
        .with_columns(pl.col(*PRICES, "adj_factor").forward_fill().backward_fill().over("symbol"))
    )
    # a missing bar has no prices of its own: all four are the last close
    last_close = pl.col("close").forward_fill().backward_fill().over("symbol")
    missing = ~pl.col("tradable") & (pl.col("volume") == 0)
    full = full.with_columns(
        [pl.when(missing).then(last_close).otherwise(pl.col(c)).alias(c) for c in ("open", "high", "low")]
    )
    shape = (-1, len(symbols))
    column = {
        c: full[c].to_numpy().astype(np.float64).reshape(shape) for c in (*PRICES, "volume", "adj_factor")
    }
    return Panel(
        symbols=symbols,
        ts_close=full["ts_close"].dt.replace_time_zone(None).to_numpy().reshape(shape)[:, 0],
        session=full["session"].to_numpy().astype("datetime64[D]").reshape(shape)[:, 0],
        tradable=full["tradable"].to_numpy().reshape(shape),
        **column,
    )
