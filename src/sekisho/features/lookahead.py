"""Proof by experiment that no feature looks ahead: change the future, compare the past bit for bit.

What is proved of the function holds for the table that is trained on only where the table is what the
function gives: so each partition is compared with it, bit for bit, when it is made (`features.build`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.data.panel import Panel, dense, partitions
from sekisho.features import compute
from sekisho.params import FeatureParams

ROWS = 1_000_000  # bars × symbols that are changed at most: a feature leaks in these or in none
Compute = Callable[[Panel], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Leak:
    """A feature that changed at a bar when only bars outside its trailing window did."""

    feature: str
    cut: int  # the next bar that was changed
    bar: int  # the first bar whose feature changed

    def __str__(self) -> str:
        return f"{self.feature}: bar {self.bar} changed when bars outside its window did, the next {self.cut}"


@dataclass(frozen=True)
class Foreign:
    """A feature of the training table that is not what the checked function gives."""

    feature: str
    bar: np.datetime64  # the end of the first bar that differs

    def __str__(self) -> str:
        return (
            f"{self.feature}: the training table holds another value than its bars give, first at {self.bar}"
        )


def find_leaks(
    panel: Panel, function: Compute, names: Sequence[str], *, lookback: int, cuts: int, seed: int
) -> list[Leak]:
    """Change bars and compare the features of bars that must not depend on them; return the leaks found.

    Every bar is a cut once: blocks of bars are replaced by another market's, so far apart that the bars
    before each lie more than ``lookback`` bars after the block before it, and the blocks move on bar by bar.
    A leak that acts on one bar alone is met, and so is a feature that depends on more than its lookback. At
    ``cuts`` random bars besides, and at as many first bars of a session, all that follows is replaced, then
    left out (the panel ends there): that meets what reaches far ahead, and statistics of the whole sample.
    Costs 2 ``lookback`` computations of all features.
    """
    rng = np.random.default_rng(seed)
    baseline = function(panel)
    leaks: dict[str, Leak] = {}

    def compare(changed: Panel, cuts: npt.NDArray[np.int64], fixed: npt.NDArray[np.bool_]) -> None:
        """``fixed`` (T,): the bars whose features must stay as they were."""
        found = function(changed)
        old, kept = baseline[: len(found)], fixed[: len(found), None, None]
        differs = kept & ~((found == old) | (np.isnan(found) & np.isnan(old)))
        for index in np.flatnonzero(differs.any(axis=(0, 1))).tolist():
            bar = int(np.argmax(differs[:, :, index].any(axis=1)))
            cut = int(cuts[min(int(np.searchsorted(cuts, bar, side="right")), len(cuts) - 1)])
            leaks.setdefault(names[index], Leak(names[index], cut, bar))

    bars = np.arange(len(panel))
    width, stride = max(lookback // 2, 1), 2 * lookback + 1
    for first in range(min(stride, len(panel))):
        since = (bars - first) % stride  # bars since the last block began; before the first, it never did
        begun = bars >= first
        block = begun & (since < width)
        fixed = ~begun | (since >= width + lookback - 1)
        compare(_perturbed(panel, block, rng), bars[first::stride], fixed)
    opens = 1 + np.flatnonzero(panel.session[1:] != panel.session[:-1])
    chosen = [*rng.integers(1, len(panel), size=cuts), *rng.permutation(opens)[:cuts]]
    for cut in sorted(int(bar) for bar in chosen):
        for future in (_perturbed(panel, bars >= cut, rng), panel.rows(0, cut)):
            compare(future, np.array([cut]), bars < cut)
    return list(leaks.values())


def check_features(bars: Path, params: FeatureParams, *, cuts: int, seed: int) -> list[Leak]:
    """`find_leaks` of our own features on the newest partitions of validated ``bars``, at most `ROWS` rows.

    Raises:
        DataError: no bars there.
    """
    newest: list[Path] = []
    rows = 0
    for path in reversed(partitions(bars)):
        rows += pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
        if newest and rows > ROWS:
            break
        newest.append(path)
    panel = dense(pl.scan_parquet(newest, glob=False).sort("ts_close", "symbol").collect())
    kept = max(ROWS // len(panel.symbols), 4 * compute.lookback(params))  # a large partition's last bars
    panel = panel.rows(max(len(panel) - kept, 0), len(panel))
    return find_leaks(
        panel,
        lambda p: compute.compute_features(p, params),
        compute.feature_names(params),
        lookback=compute.lookback(params),
        cuts=cuts,
        seed=seed,
    )


def write_finding(leaks: Sequence[Leak | Foreign], names: Sequence[str], cuts: int, path: Path) -> None:
    """Write ``metrics/lookahead.json`` in one rename: what was checked and which features leak."""
    content = {"features": len(names), "cuts": cuts, "leaks": [str(leak) for leak in leaks]}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    fresh.replace(path)


def _perturbed(panel: Panel, where: npt.NDArray[np.bool_], rng: np.random.Generator) -> Panel:
    """The panel with another market at the bars ``where`` (T,): everything but symbols and times differs."""
    shape = (int(where.sum()), len(panel.symbols))

    def shaken(values: npt.NDArray[np.float64], factor: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        changed = values.copy()
        changed[where] *= factor
        return changed

    def redrawn(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Also where it is 0, as rates and volumes often are."""
        changed = values.copy()
        changed[where] = rng.exponential(1.0 + np.abs(values[where]))
        return changed

    price = np.exp(rng.normal(0.0, 0.05, shape))
    volume = redrawn(panel.volume)
    volume[where] *= rng.random(shape) < 0.75  # else no trade at all
    tradable = panel.tradable.copy()
    tradable[where] ^= True
    return replace(
        panel,
        open=shaken(panel.open, price * np.exp(rng.normal(0.0, 0.01, shape))),
        high=shaken(panel.high, price * 1.1),
        low=shaken(panel.low, price * 0.9),
        close=shaken(panel.close, price),
        volume=volume,
        adv=redrawn(panel.adv),
        half_spread=redrawn(panel.half_spread),
        borrow_rate=redrawn(panel.borrow_rate),
        funding_rate=redrawn(panel.funding_rate),
        adj_factor=shaken(panel.adj_factor, np.exp(rng.normal(0.0, 0.5, shape))),
        tradable=tradable,
    )
