"""The training table, read: ``build/features/<label>.parquet``, one file per partition of the bars.

A symbol has rows in a partition if it has a bar there or in the lookback before it. Elsewhere it has none: a
symbol that lists today changes no partition before today.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.data.panel import Panel, partitions
from sekisho.errors import DataError
from sekisho.features.compute import CLOCKS


def load_features(folder: Path, panel: Panel, files: list[Path] | None = None) -> npt.NDArray[np.float32]:
    """Features ``(T, A, F)`` float32 of the panel's bars, NaN in the warm-up.

    ``files``: those of the folder that hold them; by default all are looked through.

    Raises:
        DataError: the table does not hold every bar of the panel: it was built from other bars.
    """
    scan = pl.scan_parquet(files or partitions(folder), glob=False)
    inside = pl.col("session").is_between(panel.session[0].item(), panel.session[-1].item())
    table = scan.filter(inside & pl.col("symbol").is_in(panel.symbols)).sort("ts_close", "symbol").collect()
    names = [name for name in table.columns if name not in ("symbol", "ts_close", "session")]
    times = table["ts_close"].dt.replace_time_zone(None).to_numpy().astype("datetime64[us]")
    bar = np.searchsorted(panel.ts_close, times)
    asset = np.searchsorted(np.array(panel.symbols), table["symbol"].to_numpy().astype(str))
    held = np.zeros((len(panel), len(panel.symbols)), dtype=np.bool_)
    other = bar >= len(panel)
    bar[other] = 0
    other |= panel.ts_close[bar] != times
    held[bar[~other], asset[~other]] = True
    lacking = int((~held & (panel.tradable | (panel.volume > 0))).sum() + (~held.any(axis=1)).sum())
    if other.any() or lacking:
        raise DataError(
            f"{folder}: {lacking} rows of the bars are missing, {int(other.sum())} are of other bars",
            remedy="the features belong to other bars; run `dvc repro features`",
        )
    values = table.select(pl.col(names).fill_null(float("nan"))).to_numpy().astype(np.float32)
    # a symbol without any bar in its windows: the clock of the bar, 0 in all else, NaN in the warm-up
    row_of = np.zeros(len(panel), dtype=np.int64)
    row_of[bar] = np.arange(len(table))
    clock = np.isin(names, CLOCKS)
    absent = np.where(clock | np.isnan(values[row_of]), values[row_of], np.float32(0.0))
    result = np.repeat(absent[:, None, :], len(panel.symbols), axis=1)
    result[bar, asset] = values
    return result
