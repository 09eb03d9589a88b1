"""Proof by experiment that no feature looks ahead: change the future, compare the past bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sekisho.data.panel import Panel

Compute = Callable[[Panel], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Leak:
    """A feature whose past changed when only the future did."""

    feature: str
    cut: int  # bars before this one were left alone
    bar: int  # the first past bar whose feature changed

    def __str__(self) -> str:
        return f"{self.feature}: bar {self.bar} changed when only bars from {self.cut} on were changed"


def find_leaks(panel: Panel, compute: Compute, names: Sequence[str], *, cuts: int, seed: int) -> list[Leak]:
    """Replace everything from a random bar on by another market, ``cuts`` times; return the leaks found.

    Two futures are tried per cut: other prices and volumes, and no future at all (the panel ends at the cut),
    which also catches statistics of the whole sample.
    """
    rng = np.random.default_rng(seed)
    baseline = compute(panel)
    leaks: dict[str, Leak] = {}
    for cut in sorted(rng.integers(1, len(panel), size=cuts).tolist()):
        for future in (_perturbed(panel, cut, rng), panel.rows(0, cut)):
            past = compute(future)[:cut]
            same = (past == baseline[:cut]) | (np.isnan(past) & np.isnan(baseline[:cut]))
            for index in np.flatnonzero(~same.all(axis=(0, 1))).tolist():
                bar = int(np.argmin(same[:, :, index].all(axis=1)))
                leaks.setdefault(names[index], Leak(names[index], cut, bar))
    return list(leaks.values())


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
