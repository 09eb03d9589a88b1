"""The report's figures. Each is drawn twice: a light PNG for the pull request and an SVG that follows the
page.

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
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from sekisho.backtest import metrics
from sekisho.backtest.evaluate import SEED

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
    weights: pl.DataFrame
    band: pl.DataFrame
    curves: dict[str, pl.DataFrame]  # by "fold-<k>/seed-<s>"
    starts: list[Any]  # first session of each test window
    periods: float  # sessions a year
    confidence: float

    def of(self, strategy: str, column: str = "net_return", multiple: float = 1.0) -> Float:
        chosen = self.returns.filter((pl.col("strategy") == strategy) & (pl.col("cost_multiple") == multiple))
        return np.asarray(chosen[column].to_numpy(), dtype=np.float64)

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


def plots(series: Series) -> Iterator[Plot]:
    """All figures, in the order of the report."""
    share = f"{series.confidence:.0%}"
    yield Plot(
        "equity",
        f"Equity after all costs, starting capital = 1. Shaded: {share} bootstrap interval of the agent.",
        lambda: _equity(series),
    )
    yield Plot("drawdown", "Loss from the highest equity so far, after all costs.", lambda: _drawdown(series))
    yield Plot(
        "rolling-sharpe",
        f"Annualised net Sharpe ratio over the last {_rolling(series)} sessions.",
        lambda: _rolling_sharpe(series),
    )
    yield Plot(
        "costs", "Annual return against costs, as multiples of the modelled ones.", lambda: _costs(series)
    )
    yield Plot(
        "trading", "The agent's turnover and gross exposure in each session.", lambda: _trading(series)
    )
    yield Plot("weights", "The agent's mean weight in each asset and session.", lambda: _weights(series))
    yield Plot("seeds", "Equity after all costs of agents trained from each seed.", lambda: _seeds(series))
    if series.curves:
        yield Plot(
            "learning",
            "Annualised net Sharpe ratio on the validation window during training; the best agent is kept.",
            lambda: _learning(series),
        )


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


def _figure(height: float = 3.8, rows: int = 1, columns: int = 1, **kind: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8.0, height))
    return figure, list(figure.subplots(rows, columns, squeeze=False, **kind).ravel())


def _line(axes: Axes, name: str, x: Any, y: Float) -> None:
    colour, dash, width = LINES[name]
    front = 3 if name == "agent" else 2
    axes.plot(x, y, color=colour, linestyle=dash, linewidth=width, label=name, zorder=front)


def _mark_windows(axes: Axes, series: Series) -> None:
    for start in series.starts[1:]:
        axes.axvline(start, color=mpl.rcParams["axes.edgecolor"], linewidth=0.7, alpha=0.35, zorder=1)


def _legend(axes: Axes, columns: int = 3) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.2, fontsize=9)


def _dates(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))  # type: ignore[no-untyped-call]
    axes.set_xlabel("session (vertical lines: a new test window with fresh capital)")


def _equity_of(returns: Float) -> Float:
    return np.asarray(np.cumprod(np.maximum(1.0 + returns, 0.0)), dtype=np.float64)


def _equity(series: Series) -> Figure:
    figure, (axes,) = _figure(4.4)
    colour = LINES["agent"][0]
    axes.fill_between(
        series.band["session"].to_numpy(),
        series.band["low"].to_numpy(),
        series.band["high"].to_numpy(),
        color=colour,
        alpha=0.16,
        linewidth=0,
        label=f"agent, {series.confidence:.0%} interval",
    )
    for name in series.compared:
        _line(axes, name, series.sessions, _equity_of(series.of(name)))
    _mark_windows(axes, series)
    axes.set_ylabel("equity after costs, start = 1")
    if axes.get_ylim()[1] > 5.0:  # long histories: equal distances are equal growth
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _dates(axes)
    _legend(axes, 3)
    return figure


def _drawdown(series: Series) -> Figure:
    figure, (axes,) = _figure(3.4)
    for name in series.compared:
        depth = -metrics.drawdowns(series.of(name))
        _line(axes, name, series.sessions, depth)
        if name == "agent":
            axes.fill_between(series.sessions, depth, 0.0, color=LINES[name][0], alpha=0.16, linewidth=0)
    _mark_windows(axes, series)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("drawdown, % of equity")
    _dates(axes)
    _legend(axes, 5)
    return figure


def _rolling(series: Series) -> int:
    return max(min(ROLLING, len(series.sessions) // 3), 2)


def _rolling_sharpe(series: Series) -> Figure:
    figure, (axes,) = _figure(3.4)
    width = _rolling(series)
    for name in (n for n in series.compared if n != "cash"):
        windows = np.lib.stride_tricks.sliding_window_view(series.of(name), width)
        deviation = windows.std(axis=1, ddof=1)
        ratio = windows.mean(axis=1) / np.where(deviation > metrics.NO_VARIANCE, deviation, np.nan)
        _line(axes, name, series.sessions[width - 1 :], ratio * np.sqrt(series.periods))
    axes.axhline(0.0, color=mpl.rcParams["axes.edgecolor"], linewidth=0.8)
    axes.set_ylabel(f"Sharpe ratio a year,\nlast {width} sessions")
    _dates(axes)
    axes.set_xlabel("session")
    _legend(axes, 4)
    return figure


def _costs(series: Series) -> Figure:
    figure, (axes,) = _figure(3.4)
    multiples = sorted(series.returns["cost_multiple"].unique())
    for name in (n for n in series.compared if n != "cash"):
        growth = [
            metrics.annual_return(series.of(name, multiple=m), series.periods) or 0.0 for m in multiples
        ]
        colour, dash, width = LINES[name]
        axes.plot(multiples, growth, color=colour, linestyle=dash, linewidth=width, marker="o", label=name)
    axes.axhline(0.0, color=mpl.rcParams["axes.edgecolor"], linewidth=0.8)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xticks(multiples, [f"{m:g} ×" for m in multiples])
    axes.set_xlabel("costs, multiple of the modelled ones")
    axes.set_ylabel("annual return, %")
    _legend(axes, 4)
    return figure


def _trading(series: Series) -> Figure:
    figure, (upper, lower) = _figure(4.6, rows=2, sharex=True)
    colour = LINES["agent"][0]
    turnover, exposure = series.of("agent", "turnover"), series.of("agent", "gross_exposure")
    upper.plot(series.sessions, turnover, color=colour, linewidth=0.8, alpha=0.55, label="session")
    width = min(20, len(turnover))
    smooth = np.convolve(turnover, np.full(width, 1.0 / width), mode="valid")
    upper.plot(
        series.sessions[width - 1 :], smooth, color=colour, linewidth=2.0, label=f"mean of {width} sessions"
    )
    upper.set_ylabel("turnover a session,\n× equity")
    upper.set_ylim(bottom=0.0)
    _legend(upper)
    lower.plot(series.sessions, exposure, color=colour, linewidth=1.2)
    lower.set_ylabel("gross exposure,\nsum of |weights|")
    lower.set_ylim(bottom=0.0)
    for axes in (upper, lower):
        _mark_windows(axes, series)
    _dates(lower)
    return figure


def _weights(series: Series) -> Figure:
    table = series.weights.filter(pl.col("strategy") == "agent").sort("session", "symbol")
    symbols = sorted(table["symbol"].unique())
    sessions = table["session"].unique().sort().to_numpy()
    grid = table["weight"].to_numpy().reshape(len(sessions), len(symbols)).T
    figure, (axes,) = _figure(min(1.6 + 0.26 * len(symbols), 9.0))
    bound = max(float(np.abs(grid).max()), 1e-6)
    picture = axes.imshow(
        grid, aspect="auto", cmap="PuOr_r", vmin=-bound, vmax=bound, interpolation="nearest"
    )
    axes.grid(False)
    step = max(1, len(symbols) // 40)
    axes.set_yticks(range(0, len(symbols), step), symbols[::step])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    labels = [str(day)[:10] for day in sessions.astype("datetime64[D]")]
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: labels[int(value)] if 0 <= value < len(labels) else "")
    )
    axes.set_xlabel("session")
    figure.colorbar(picture, ax=axes, label="weight (fraction of equity)", fraction=0.04, pad=0.02)
    return figure


def _seeds(series: Series) -> Figure:
    figure, (axes,) = _figure(3.4)
    others = [
        name for name in series.returns["strategy"].unique(maintain_order=True) if name.startswith(SEED)
    ]
    for place, name in enumerate(["agent", *others]):
        label = "candidate (first seed)" if name == "agent" else f"seed {name.removeprefix(SEED)}"
        axes.plot(
            series.sessions,
            _equity_of(series.of(name)),
            color=SEED_COLOURS[place % len(SEED_COLOURS)],
            linewidth=2.2 if name == "agent" else 1.4,
            label=label,
        )
    _mark_windows(axes, series)
    axes.set_ylabel("equity after costs, start = 1")
    _dates(axes)
    _legend(axes, 4)
    return figure


def _learning(series: Series) -> Figure:
    folds = sorted({int(name.split("/")[0].removeprefix("fold-")) for name in series.curves})
    columns = min(len(folds), 3)
    rows = -(-len(folds) // columns)
    figure, panels = _figure(1.0 + 2.4 * rows, rows, columns, sharey=True)
    seeds = sorted({name.split("/")[1] for name in series.curves}, key=lambda s: int(s.removeprefix("seed-")))
    for axes, fold in zip(panels, folds, strict=False):
        for place, seed in enumerate(seeds):
            curve = series.curves.get(f"fold-{fold}/{seed}")
            if curve is not None:
                axes.plot(
                    curve["samples"].to_numpy() / 1e6,
                    curve["validation_sharpe"].to_numpy(),
                    color=SEED_COLOURS[place % len(SEED_COLOURS)],
                    linestyle=("-", (0, (4, 1.5)), (0, (1, 1)))[place % 3],
                    marker="o",
                    markersize=3,
                    label=seed.replace("-", " "),
                )
        axes.set_title(f"window {fold + 1}", fontsize=10)
        axes.set_xlabel("samples, million")
    for axes in panels[len(folds) :]:
        axes.set_visible(False)
    for axes in panels[::columns]:
        axes.set_ylabel("validation\nSharpe ratio a year")
    panels[0].legend(fontsize=9)
    return figure
