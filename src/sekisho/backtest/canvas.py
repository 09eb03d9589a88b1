"""What the report's figures have in common: lines by strategy, dates, and the tables they are drawn from.

Each strategy's line has its own dash beside its colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter

from sekisho.page.canvas import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, ink

Float = npt.NDArray[np.float64]

# colour, dash, width; the agent's is the strongest
LINES: dict[str, tuple[str, Any, float]] = {
    "agent": (BLUE, "-", 2.2),
    "buy-and-hold": (ORANGE, "-", 1.4),
    "momentum": (GREEN, (0, (5, 1.5)), 1.4),
    "minimum-variance": (PINK, (0, (3, 1, 1, 1)), 1.4),
    "champion": (RED, (0, (1, 1)), 1.8),
    "cash": (GREY, (0, (1, 2)), 1.2),
}
SEED_COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY)
ROLLING = 60  # sessions in a rolling figure, at most a third of all


@dataclass(frozen=True)
class Series:
    """What the plots are drawn from: the tables of ``build/backtest`` and the curves of ``build/train``."""

    returns: pl.DataFrame
    assets: pl.DataFrame
    band: pl.DataFrame
    curves: dict[str, pl.DataFrame]  # by "fold-<k>/seed-<s>"
    starts: list[Any]  # first session of each test window
    figures: dict[str, Any]  # metrics/backtest.json
    confidence: float

    def of(self, strategy: str, column: str = "net_return", multiple: float = 1.0) -> Float:
        chosen = self.returns.filter((pl.col("strategy") == strategy) & (pl.col("cost_multiple") == multiple))
        return np.asarray(chosen[column].to_numpy(), dtype=np.float64)

    @property
    def periods(self) -> float:
        """Sessions a year."""
        return float(self.figures["sessions_per_year"])

    @property
    def sessions(self) -> Any:
        return self.returns.filter((pl.col("strategy") == "agent") & (pl.col("cost_multiple") == 1.0))[
            "session"
        ].to_numpy()

    @property
    def compared(self) -> list[str]:
        """The agent and the baselines that are there, in the order of the legend."""
        there = set(self.returns["strategy"].unique())
        return [name for name in LINES if name in there]


def line(axes: Axes, name: str, x: Any, y: Float, **kind: Any) -> None:
    colour, dash, width = LINES[name]
    front = 3 if name == "agent" else 2
    axes.plot(x, y, color=colour, linestyle=dash, linewidth=width, label=name, zorder=front, **kind)


def mark_windows(axes: Axes, series: Series) -> None:
    for start in series.starts[1:]:
        axes.axvline(start, color=ink(), linewidth=0.7, alpha=0.35, zorder=1)


def dates(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))  # type: ignore[no-untyped-call]
    axes.set_xlabel("session (vertical lines: a new test window with fresh capital)")


def equity_of(returns: Float) -> Float:
    return np.asarray(np.cumprod(np.maximum(1.0 + returns, 0.0)), dtype=np.float64)
