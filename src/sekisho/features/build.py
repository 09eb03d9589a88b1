"""The training table, made: partition by partition, and only those whose inputs are new.

A partition's table depends on its own bars and on those of the partitions before it that the lookback
reaches, on nothing else; so do the finding on whether it holds what its bars give, and its key in the store.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.data.panel import Panel, dense, partitions
from sekisho.data.store import partition_bytes, replaced
from sekisho.errors import DataError
from sekisho.features import compute
from sekisho.features.compute import compute_features, feature_names, lookback
from sekisho.features.lookahead import Foreign
from sekisho.params import FeatureParams
from sekisho.partition_store import PartitionStore, code_digest, key_of

BLOCK_ROWS = 2_000_000  # bars × symbols computed at once: about 0.5 GB at peak, whatever the history's length
# the code that decides the bytes of a table and the finding on it
MAKERS = (
    "data/panel.py",
    "data/store.py",
    "dvc_files.py",
    "features/build.py",
    "features/compute.py",
    "features/lookahead.py",
)


@dataclass(frozen=True)
class Part:
    """A partition of validated bars, not read yet."""

    label: str
    digest: str  # SHA-256 of its Parquet file
    first: dt.date
    last: dt.date
    bars: int  # distinct bar ends
    rows: int
    read: Callable[[], pl.DataFrame]


@dataclass(frozen=True)
class Built:
    """What `build_features` wrote, which partitions it had to make, what of it is not what the bars give."""

    files: int
    rows: int
    made: list[str]
    foreign: list[Foreign]


def build_features(
    bars: Path, out: Path, params: FeatureParams, store: PartitionStore | None = None
) -> Built:
    """Publish the features of every partition in ``bars`` as the folder ``out`` in one rename.

    Only what ``store`` lacks is computed, block by block with the ``lookback`` bars before it, so that memory
    is bounded; the bytes are the same as without a store, and the values as over the whole history.

    Raises:
        DataError: no bars, or fewer than ``lookback`` of them; the disk is full.
    """
    parts = survey(bars)
    total = sum(part.bars for part in parts)
    if total < lookback(params):
        raise DataError(
            f"{bars}: {total} bars, the features look back over {lookback(params)}",
            remedy="bring a longer history or shorten the windows under features in params.yaml",
        )
    rows, made, foreign = 0, [], dict[str, Foreign]()
    with replaced(out) as (fresh,):
        for part, record, content, is_new in features_of(parts, range(len(parts)), params, store):
            (fresh / f"{part.label}.parquet").write_bytes(content)
            rows += record["rows"]
            made += [part.label] if is_new else []
            for name, bar in record["foreign"]:
                foreign.setdefault(name, Foreign(name, np.datetime64(bar)))
    return Built(len(parts), rows, made, list(foreign.values()))


def features_of(
    parts: Sequence[Part], wanted: Sequence[int], params: FeatureParams, store: PartitionStore | None
) -> Iterator[tuple[Part, dict[str, Any], bytes, bool]]:
    """Record and Parquet file of each wanted partition, in order, and whether they were made just now.

    ``wanted``: ascending positions in ``parts``, which also hold the partitions that the lookback reaches.
    """
    block: list[int] = []
    for index in wanted:
        found = _kept(parts, index, params, store)
        if block and (found or index != block[-1] + 1 or _rows(parts, [*block, index]) > BLOCK_ROWS):
            yield from _made(parts, block, params, store)
            block = []
        if found:
            yield parts[index], *found, False
        else:
            block.append(index)
    if block:
        yield from _made(parts, block, params, store)


def feature_key(parts: Sequence[Part], index: int, params: FeatureParams) -> str:
    """Key of a partition's table: its bars, those in its lookback, the parameters, the code."""
    start = tail_start(parts, index, lookback(params))
    return key_of(
        "features",
        [part.digest for part in parts[start : index + 1]],
        params.model_dump(mode="json"),
        code_digest(MAKERS, ("numpy", "polars")),
    )


def survey(bars: Path) -> list[Part]:
    """The partitions of a folder of validated bars in time order; of each, three columns are read."""
    parts = []
    for path in partitions(bars):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        keys = pl.scan_parquet(path, glob=False).select(
            first=pl.col("session").min(),
            last=pl.col("session").max(),
            bars=pl.col("ts_close").n_unique(),
            rows=pl.len(),
        )
        first, last, count, rows = keys.collect().row(0)
        parts.append(Part(path.stem, digest, first, last, count, rows, _reader(path)))
    return parts


def tail_start(parts: Sequence[Part], first: int, bars: int) -> int:
    """The partition to read from so that ``bars`` bars lie before partition ``first``."""
    start = first
    while start > 0 and bars > 0:
        start -= 1
        bars -= parts[start].bars
    return start


def _reader(path: Path) -> Callable[[], pl.DataFrame]:
    return lambda: pl.read_parquet(path, glob=False)


def _rows(parts: Sequence[Part], block: list[int]) -> int:
    return sum(parts[index].rows for index in block)


def _kept(
    parts: Sequence[Part], index: int, params: FeatureParams, store: PartitionStore | None
) -> tuple[dict[str, Any], bytes] | None:
    record = store.record(feature_key(parts, index, params)) if store else None
    content = store.blob(record["table"]) if store and record else None
    return (record, content) if record and content is not None else None


def _made(
    parts: Sequence[Part], block: list[int], params: FeatureParams, store: PartitionStore | None
) -> Iterator[tuple[Part, dict[str, Any], bytes, bool]]:
    start = tail_start(parts, block[0], lookback(params))
    frames = [part.read() for part in parts[start : block[-1] + 1]]
    held = [set(frame["symbol"].unique()) for frame in frames]
    bars = pl.concat(frames).sort("ts_close", "symbol")
    del frames
    panel = dense(bars)
    table = _table(panel, compute_features(panel, params), feature_names(params))
    expected = compute.compute_features(dense(bars), params)  # once more, from the bars again
    for index in block:
        part = parts[index]
        tail = tail_start(parts, index, lookback(params)) - start
        symbols = sorted(set[str]().union(*held[max(tail, 0) : index - start + 1]))
        inside = pl.col("session").is_between(part.first, part.last) & pl.col("symbol").is_in(symbols)
        content = partition_bytes(table.filter(inside))
        foreign = _foreign(content, panel, expected, symbols, part, feature_names(params))
        record = {
            "table": hashlib.sha256(content).hexdigest(),
            "rows": part.bars * len(symbols),
            "foreign": [[other.feature, str(other.bar)] for other in foreign],
        }
        if store:
            store.put(feature_key(parts, index, params), record, [content])
        yield part, record, content, True


def _foreign(
    content: bytes,
    panel: Panel,
    expected: npt.NDArray[np.float32],
    symbols: Sequence[str],
    part: Part,
    names: Sequence[str],
) -> list[Foreign]:
    """Features of a partition's file that differ anywhere from what its bars give, read back to compare."""
    inside = (panel.session >= np.datetime64(part.first)) & (panel.session <= np.datetime64(part.last))
    columns = np.searchsorted(np.array(panel.symbols), np.array(symbols))
    wanted = expected[inside][:, columns]
    file = pl.read_parquet(content).sort("ts_close", "symbol")
    held = file.select(pl.col(names).fill_null(float("nan"))).to_numpy().reshape(wanted.shape)
    differs = ~((held == wanted) | (np.isnan(held) & np.isnan(wanted)))
    times = panel.ts_close[inside]
    return [
        Foreign(names[index], times[int(np.argmax(differs[:, :, index].any(axis=1)))])
        for index in np.flatnonzero(differs.any(axis=(0, 1))).tolist()
    ]


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
