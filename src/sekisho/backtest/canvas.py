"""How the report's figures look.

Each is drawn twice: a light PNG for the pull request and an SVG that follows the page.

Colours are Okabe & Ito's (2008), distinct for colour-blind readers, and each line has its own dash as well.
The same data give the same bytes: no dates, no random ids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure

Float = npt.NDArray[np.float64]

# colour, dash, width; the agent's is the strongest
LINES: dict[str, tuple[str, Any, float]] = {
    "agent": ("#0072B2", "-", 2.2),
    "buy-and-hold": ("#E69F00", "-", 1.4),
    "momentum": ("#009E73", (0, (5, 1.5)), 1.4),
    "minimum-variance": ("#CC79A7", (0, (3, 1, 1, 1)), 1.4),
    "champion": ("#D55E00", (0, (1, 1)), 1.8),
    "cash": ("#7F7F7F", (0, (1, 2)), 1.2),
}
SEED_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, PAPER = "#1b1f24", "#ffffff"
SVG_INK = "#010203"  # stands for the page's text colour, replaced by currentColor
ROLLING = 60  # sessions in a rolling figure, at most a third of all
DOTS = 120  # per inch of the PNG


@dataclass(frozen=True)
class Plot:
    """One figure: file name without ending, what it shows (for those who cannot see it), and how to draw
    it."""

    name: str
    caption: str
    draw: Callable[[], Figure]


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


def png(plot: Plot, path: Path) -> None:
    """Write the light picture."""
    with _style(INK, PAPER):
        plot.draw().savefig(path, dpi=DOTS, metadata={"Software": None})


def svg(plot: Plot) -> str:
    """The picture as an ``<svg>`` element without background, in the page's own text colour."""
    buffer = io.StringIO()
    with _style(SVG_INK, "none"):
        plot.draw().savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace(SVG_INK, "currentColor").replace("'DejaVu Sans'", "'DejaVu Sans', sans-serif")
    # ids are unique only within one figure; the page holds several
    for mark in ('id="', 'href="#', "url(#"):
        text = text.replace(mark, f"{mark}{plot.name}-")
    return text


@contextmanager
def _style(ink: str, paper: str) -> Iterator[None]:
    settings: Any = {
        "axes.axisbelow": True,
        "axes.edgecolor": ink,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.labelcolor": ink,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.xmargin": 0.01,
        "figure.constrained_layout.use": True,
        "figure.facecolor": paper,
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same glyphs everywhere
        "font.size": 10,
        "grid.alpha": 0.15,
        "grid.color": ink,
        "legend.frameon": False,
        "savefig.facecolor": paper,
        "svg.fonttype": "none",
        "svg.hashsalt": "sekisho",
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
    }
    with mpl.rc_context({**mpl.rcParamsDefault, "backend": "agg", **settings}):
        yield


def figure(height: float = 3.8, rows: int = 1, columns: int = 1, **kind: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8.0, height))
    return figure, list(figure.subplots(rows, columns, squeeze=False, **kind).ravel())


def line(axes: Axes, name: str, x: Any, y: Float, **kind: Any) -> None:
    colour, dash, width = LINES[name]
    front = 3 if name == "agent" else 2
    axes.plot(x, y, color=colour, linestyle=dash, linewidth=width, label=name, zorder=front, **kind)


def mark_windows(axes: Axes, series: Series) -> None:
    for start in series.starts[1:]:
        axes.axvline(start, color=mpl.rcParams["axes.edgecolor"], linewidth=0.7, alpha=0.35, zorder=1)


def legend(axes: Axes, columns: int = 3) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.2, fontsize=9)


def dates(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))  # type: ignore[no-untyped-call]
    axes.set_xlabel("session (vertical lines: a new test window with fresh capital)")


def equity_of(returns: Float) -> Float:
    return np.asarray(np.cumprod(np.maximum(1.0 + returns, 0.0)), dtype=np.float64)
