"""Proof by experiment that no feature looks ahead: change the future, compare the past bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.data.panel import Panel, load_panel, partitions
from sekisho.features import compute
from sekisho.params import FeatureParams

ROWS = 1_000_000  # bars × symbols that are changed at most: a feature leaks in these or in none
Compute = Callable[[Panel], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Leak:
    """A feature whose past changed when only the future did."""

    feature: str
    cut: int  # bars before this one were left alone
    bar: int  # the first past bar whose feature changed

    def __str__(self) -> str:
        return f"{self.feature}: bar {self.bar} changed when only bars from {self.cut} on were changed"


def find_leaks(panel: Panel, function: Compute, names: Sequence[str], *, cuts: int, seed: int) -> list[Leak]:
    """Replace everything from a random bar on by another market, ``cuts`` times; return the leaks found.

    Two futures are tried per cut: other prices and volumes, and no future at all (the panel ends at the cut),
    which also catches statistics of the whole sample.
    """
    rng = np.random.default_rng(seed)
    baseline = function(panel)
    leaks: dict[str, Leak] = {}
    for cut in sorted(rng.integers(1, len(panel), size=cuts).tolist()):
        for future in (_perturbed(panel, cut, rng), panel.rows(0, cut)):
            past = function(future)[:cut]
            same = (past == baseline[:cut]) | (np.isnan(past) & np.isnan(baseline[:cut]))
            for index in np.flatnonzero(~same.all(axis=(0, 1))).tolist():
                bar = int(np.argmin(same[:, :, index].all(axis=1)))
                leaks.setdefault(names[index], Leak(names[index], cut, bar))
    return list(leaks.values())


def check_features(bars: Path, params: FeatureParams, *, cuts: int, seed: int) -> list[Leak]:
    """`find_leaks` of our own features on the newest partitions of validated ``bars``, at most `ROWS` rows.

    Raises:
        DataError: no bars there.
    """
    rows, first = 0, None
    for path in reversed(partitions(bars)):
        days = pl.scan_parquet(path, glob=False).select(pl.len(), first=pl.col("session").min()).collect()
        rows += days["len"].item()
        if first is not None and rows > ROWS:
            break
        first = days["first"].item()
    panel = load_panel(bars, first)
    return find_leaks(
        panel,
        lambda p: compute.compute_features(p, params),
        compute.feature_names(params),
        cuts=cuts,
        seed=seed,
    )


def write_finding(leaks: Sequence[Leak], names: Sequence[str], cuts: int, path: Path) -> None:
    """Write ``metrics/lookahead.json`` in one rename: what was checked and which features leak."""
    content = {"features": len(names), "cuts": cuts, "leaks": [str(leak) for leak in leaks]}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)


def _perturbed(panel: Panel, cut: int, rng: np.random.Generator) -> Panel:
    """The panel with other prices, volumes, costs and tradability from bar ``cut`` on."""

    def shaken(values: npt.NDArray[np.float64], factor: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        changed = values.copy()
        changed[cut:] *= factor
        return changed

    shape = panel.close[cut:].shape
    price = np.exp(rng.normal(0.0, 0.05, shape).cumsum(axis=0))
    tradable = panel.tradable.copy()
    tradable[cut:] ^= rng.random(shape) < 0.1
    return replace(
        panel,
        open=shaken(panel.open, price * np.exp(rng.normal(0.0, 0.01, shape))),
        high=shaken(panel.high, price * 1.1),
        low=shaken(panel.low, price * 0.9),
        close=shaken(panel.close, price),
        volume=shaken(panel.volume, rng.exponential(2.0, shape)),
        adv=shaken(panel.adv, rng.exponential(2.0, shape)),
        half_spread=shaken(panel.half_spread, rng.exponential(2.0, shape)),
        tradable=tradable,
    )
