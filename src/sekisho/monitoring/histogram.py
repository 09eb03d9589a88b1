"""Mergeable histograms on the high 16 bits of float32, and the distances drawn from them.

The high half of a float32 is its sign, exponent and seven bits of its fraction: 65,536 bins that follow the
number's own scale, need no range beforehand and add up exactly, whatever the order. Neighbouring bins differ
by at most 1/128 of the value. The distances are shown to people; no alarm depends on them: on autocorrelated
features they alarm on most days without any change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.errors import CannotCheck

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
BINS = 1 << 16
ROWS = 1 << 22  # of a file decoded at once, one column at a time
# bins in the order of their values: from minus the largest number to plus the largest, then what is no number
_HIGH = np.concatenate([np.arange(0xFF7F, 0x7FFF, -1), np.arange(0x7F80)])
ORDER = np.concatenate([_HIGH, np.arange(0x7F80, 0x8000), np.arange(0xFF80, BINS)])
FINITE = len(_HIGH)  # bins of numbers; those behind hold NaN and infinities
_NEAR, _FAR = (
    ((_HIGH.astype(np.uint32) << 16) | low).view(np.float32).astype(np.float64) for low in (0, 0xFFFF)
)
MIDDLE, UPPER = (_NEAR + _FAR) / 2, np.maximum(_NEAR, _FAR)
PSI_BINS = 10  # equally filled on the reference
SMALLEST_SHARE = 1e-4  # an empty bin counts as this share in the PSI
DECILES = np.arange(1, PSI_BINS) / PSI_BINS


@dataclass(frozen=True)
class Histograms:
    """``K`` series; only bins that hold something: ``codes`` uint16 ``(n,)`` in the order of their values,
    ``counts`` int64 ``(n,)``; series ``k`` has those from ``starts[k]`` to ``starts[k + 1]``.
    """

    codes: npt.NDArray[np.uint16]
    counts: Counts
    starts: Counts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def merge(self, other: Histograms) -> Histograms:
        """Histograms of both sets of rows.

        Raises:
            ValueError: the two have not the same number of series.
        """
        if len(self) != len(other):
            raise ValueError(f"histograms of {len(self)} and {len(other)} series cannot be merged")
        return _pack([self.dense(k) + other.dense(k) for k in range(len(self))])

    def dense(self, series: int) -> Counts:
        """Counts of one series over all ``BINS``, in the order of their values."""
        part = slice(self.starts[series], self.starts[series + 1])
        found = np.zeros(BINS, dtype=np.int64)
        found[self.codes[part]] = self.counts[part]
        return found

    def numbers(self, series: int) -> Counts:
        """Counts of one series over the bins of numbers, ``(FINITE,)``."""
        return self.dense(series)[:FINITE]

    def not_finite(self, series: int) -> int:
        """How many values of a series were NaN or infinite."""
        part = slice(self.starts[series], self.starts[series + 1])
        return int(self.counts[part][self.codes[part] >= FINITE].sum())


def _pack(dense: Sequence[Counts]) -> Histograms:
    kept = [np.flatnonzero(one) for one in dense]
    return Histograms(
        codes=np.concatenate(kept).astype(np.uint16),
        counts=np.concatenate([one[codes] for one, codes in zip(dense, kept, strict=True)]),
        starts=np.cumsum([0, *map(len, kept)], dtype=np.int64),
    )


def histograms(values: npt.NDArray[np.float32]) -> Histograms:
    """Histograms of ``(N, …)`` values, one series per place of the other axes."""
    columns = np.ascontiguousarray(values.reshape(len(values), -1).T, dtype=np.float32)
    return _pack([_count(column) for column in columns])


def histograms_of_file(path: Path, columns: Sequence[str]) -> Histograms:
    """Histograms of float columns of a Parquet file, one column and ``ROWS`` rows in memory at a time.

    Raises:
        CannotCheck: not a whole Parquet file, or a column is missing; names it.
    """
    try:
        schema = pl.read_parquet_schema(path)
        if lacking := [name for name in columns if name not in schema]:
            raise CannotCheck(f"{path}: column {lacking[0]} is missing", remedy="find out what wrote it")
        rows = pl.scan_parquet(path).select(pl.len()).collect().item()
        return _pack([_count_column(path, name, rows) for name in columns])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CannotCheck(f"{path}: not a whole Parquet file ({error})", remedy="restore it") from error


def _count_column(path: Path, name: str, rows: int) -> Counts:
    total = np.zeros(BINS, dtype=np.int64)
    column = pl.scan_parquet(path).select(pl.col(name).cast(pl.Float32))
    for first in range(0, rows, ROWS):
        values = column.slice(first, ROWS).collect()[name]
        for part in values.get_chunks():
            total += _count(np.ascontiguousarray(part.to_numpy()))
    return total


def _count(values: npt.NDArray[np.float32]) -> Counts:
    high = values.view(np.uint16)[1::2]  # the second half on a little-endian machine, the only kind there is
    found: Counts = np.bincount(high, minlength=BINS)[ORDER]
    return found


def ks(one: Histograms, other: Histograms) -> Array:
    """Largest difference of the distribution functions, per series ``(K,)`` (Kolmogorov-Smirnov)."""
    return _each(one, other, lambda a, b: np.abs(_cdf(a) - _cdf(b)).max())


def psi(one: Histograms, other: Histograms) -> Array:
    """Population stability index over ``PSI_BINS`` bins that ``one`` (the reference) fills equally."""

    def distance(a: Counts, b: Counts) -> float:
        first, second = _cdf(a), _cdf(b)
        edges = np.unique(np.searchsorted(first, DECILES))
        return population_stability(first[edges], second[edges])

    return _each(one, other, distance)


def population_stability(expected: Array, found: Array) -> float:
    """PSI of two distribution functions at the same edges; an empty bin counts as ``SMALLEST_SHARE``."""
    shares = [
        np.maximum(np.diff(np.concatenate([[0.0], cdf, [1.0]])), SMALLEST_SHARE) for cdf in (expected, found)
    ]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def wasserstein(one: Histograms, other: Histograms) -> Array:
    """Mean shift of the sorted values, per series ``(K,)``, in the series' own unit (Wasserstein-1)."""
    return _each(one, other, lambda a, b: (np.abs(_cdf(a) - _cdf(b))[:-1] * np.diff(MIDDLE)).sum())


def _each(one: Histograms, other: Histograms, distance: Callable[[Counts, Counts], Any]) -> Array:
    return np.array([distance(one.numbers(k), other.numbers(k)) for k in range(len(one))], dtype=np.float64)


def _cdf(counts: Counts) -> Array:
    running = np.cumsum(counts)
    shares: Array = running / max(int(running[-1]), 1)
    return shares


def quantiles(found: Histograms, shares: Array) -> Array:
    """Quantiles ``(K, len(shares))``, to the width of a bin."""
    places = [np.searchsorted(_cdf(found.numbers(k)), shares - 1e-12) for k in range(len(found))]
    return MIDDLE[np.minimum(np.array(places), FINITE - 1)]


def share_below(found: Histograms, edges: Array) -> Array:
    """Share of each series' numbers up to ``edges`` ``(K, E)``, to the width of a bin."""
    places = np.minimum(np.searchsorted(UPPER, edges), FINITE - 1)
    return np.array([_cdf(found.numbers(k))[row] for k, row in enumerate(places)])
