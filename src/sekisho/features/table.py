"""The training table: ``build/features/<label>.parquet``, one file per partition of the bars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.data.panel import Panel, load_panel, partitions
from sekisho.data.store import replaced, write_partition
from sekisho.errors import DataError
from sekisho.features.compute import compute_features, feature_names, lookback
from sekisho.params import FeatureParams

BLOCK_ROWS = 2_000_000  # bars × symbols computed at once: about 0.5 GB at peak, whatever the history's length


@dataclass(frozen=True)
class Partition:
    label: str
    first: date
    last: date
    bars: int  # distinct bar ends
    rows: int


def build_features(bars: Path, out: Path, params: FeatureParams) -> tuple[int, int]:
    """Compute the features of every partition in ``bars`` and publish the folder ``out`` in one rename.

    Works block by block with the ``lookback`` bars before it, so that memory is bounded and the result is the
    same as over the whole history. Returns (files, rows) written.

    Raises:
        DataError: no bars, or fewer than ``lookback`` of them; the disk is full.
    """
    parts, symbols = survey(bars)
    total = sum(part.bars for part in parts)
    if total < lookback(params):
        raise DataError(
            f"{bars}: {total} bars, the features look back over {lookback(params)}",
            remedy="bring a longer history or shorten the windows under features in params.yaml",
        )
    rows = 0
    with replaced(out) as (fresh,):
        for first, last in blocks(parts):
            start = tail_start(parts, first, lookback(params))
            panel = _with_symbols(load_panel(bars, parts[start].first, parts[last].last), symbols)
            table = _table(panel, compute_features(panel, params), feature_names(params))
            for part in parts[first : last + 1]:
                cut = table.filter(pl.col("session").is_between(part.first, part.last))
                write_partition(cut, fresh / f"{part.label}.parquet")
                rows += len(cut)
    return len(parts), rows


def load_features(folder: Path, panel: Panel) -> npt.NDArray[np.float32]:
    """Features ``(T, A, F)`` float32 of the panel's bars, NaN in the warm-up.

    Raises:
        DataError: the table does not hold every bar of the panel: it was built from other bars.
    """
    frame = pl.scan_parquet(partitions(folder), glob=False).filter(
        pl.col("session").is_between(panel.session[0].item(), panel.session[-1].item())
        & pl.col("symbol").is_in(panel.symbols)
    )
    table = frame.sort("ts_close", "symbol").collect()
    shape = (len(panel), len(panel.symbols))
    times = table["ts_close"].dt.replace_time_zone(None).to_numpy().astype("datetime64[us]")
    if len(table) != shape[0] * shape[1] or (times.reshape(shape) != panel.ts_close[:, None]).any():
        raise DataError(
            f"{folder}: {len(table)} rows, the bars need {shape[0]} × {shape[1]}",
            remedy="the features belong to other bars; run `dvc repro features`",
        )
    names = [name for name in table.columns if name not in ("symbol", "ts_close", "session")]
    values = table.select(pl.col(names).fill_null(float("nan"))).to_numpy()
    return values.astype(np.float32).reshape(*shape, len(names))


def survey(bars: Path) -> tuple[list[Partition], tuple[str, ...]]:
    parts: list[Partition] = []
    symbols: set[str] = set()
    for path in partitions(bars):
        frame = pl.read_parquet(path, columns=["session", "ts_close", "symbol"], glob=False)
        symbols.update(frame["symbol"].unique())
        first, last = frame["session"].min(), frame["session"].max()
        assert isinstance(first, date)
        assert isinstance(last, date)
        parts.append(Partition(path.stem, first, last, frame["ts_close"].n_unique(), len(frame)))
    return parts, tuple(sorted(symbols))


def blocks(parts: list[Partition]) -> Iterator[tuple[int, int]]:
    """First and last partition of each run of partitions that is computed at once."""
    first, rows = 0, 0
    for index, part in enumerate(parts):
        if rows and rows + part.rows > BLOCK_ROWS:
            yield first, index - 1
            first, rows = index, 0
        rows += part.rows
    yield first, len(parts) - 1


def tail_start(parts: list[Partition], first: int, bars: int) -> int:
    """The partition to read from so that ``bars`` bars lie before partition ``first``."""
    start = first
    while start > 0 and bars > 0:
        start -= 1
        bars -= parts[start].bars
    return start


def _with_symbols(panel: Panel, symbols: tuple[str, ...]) -> Panel:
    """The panel over all ``symbols``: one that has no bar here is not tradable and has no volume."""
    if panel.symbols == symbols:
        return panel
    columns = [symbols.index(symbol) for symbol in panel.symbols]
    wide = {}
    for name in (
        "open",
        "high",
        "low",
        "close",
        "volume",
        "adv",
        "half_spread",
        "borrow_rate",
        "funding_rate",
    ):
        absent = 0.0 if name == "volume" else 1.0
        wide[name] = np.full((len(panel), len(symbols)), absent)
        wide[name][:, columns] = getattr(panel, name)
    tradable = np.zeros((len(panel), len(symbols)), dtype=np.bool_)
    tradable[:, columns] = panel.tradable
    return replace(panel, symbols=symbols, tradable=tradable, **wide)


def _table(panel: Panel, features: npt.NDArray[np.float32], names: tuple[str, ...]) -> pl.DataFrame:
    bars, assets, _ = features.shape
    times = pl.Series("ts_close", np.repeat(panel.ts_close, assets)).dt.replace_time_zone("UTC")
    keys = {
        "symbol": list(panel.symbols) * bars,
        "ts_close": times,
        "session": np.repeat(panel.session, assets),
    }
    columns = {name: features[:, :, index].ravel() for index, name in enumerate(names)}
    frame = pl.DataFrame(keys | columns).with_columns(pl.col("session").cast(pl.Date))
    return frame.with_columns(pl.col(names).fill_nan(None))
