"""The report's figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from sekisho.backtest import metrics
from sekisho.backtest.canvas import (
    LINES,
    ROLLING,
    SEED_COLOURS,
    Series,
    dates,
    equity_of,
    line,
    mark_windows,
)
from sekisho.backtest.labels import both, japanese
from sekisho.backtest.names import SEED
from sekisho.page.canvas import Plot, figure, ink, legend


def plots(series: Series) -> Iterator[Plot]:
    """All figures, in the order of the report."""
    share = f"{series.confidence:.0%}"
    drawn: dict[str, tuple[str, Callable[[Series], Figure]]] = {
        "equity": (
            f"Equity after all costs, starting capital = 1. Shaded: {share} bootstrap interval of the agent.",
            _equity,
        ),
        "drawdown": ("Loss from the highest equity so far, after all costs.", _drawdown),
        "rolling-sharpe": (
            f"Annualised net Sharpe ratio over the last {_rolling(series)} sessions.",
            _rolling_sharpe,
        ),
        "costs": ("Annual return against costs, as multiples of the modelled ones.", _costs),
        "capacity": (
            "The agent's net Sharpe ratio and annual return against capital, with the impact of its own "
            "trades.",
            _capacity,
        ),
        "regimes": (
            "Annualised net Sharpe ratio by volatility before the session and by whether the market then "
            "rose.",
            _regimes,
        ),
        "attribution": (
            "Each symbol's part of the agent's return: before costs, and what is left after them.",
            _attribution,
        ),
        "trading": ("The agent's turnover and gross exposure in each session.", _trading),
        "weights": ("The agent's mean weight in each asset and session.", _weights),
        "seeds": ("Equity after all costs of agents trained from each seed.", _seeds),
    }
    if series.curves:
        drawn["learning"] = (
            "Annualised net Sharpe ratio on the validation window during training; the best agent is kept.",
            _learning,
        )
    for name, (caption, draw) in drawn.items():
        yield Plot(name, both(caption), partial(draw, series), japanese)


def _equity(series: Series) -> Figure:
    drawn, (axes,) = figure(4.4)
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
        line(axes, name, series.sessions, equity_of(series.of(name)))
    mark_windows(axes, series)
    axes.set_ylabel("equity after costs, start = 1")
    if axes.get_ylim()[1] > 5.0:  # long histories: equal distances are equal growth
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    dates(axes)
    legend(axes, 3)
    return drawn


def _drawdown(series: Series) -> Figure:
    drawn, (axes,) = figure(3.4)
    for name in series.compared:
        depth = -metrics.drawdowns(series.of(name))
        line(axes, name, series.sessions, depth)
        if name == "agent":
            axes.fill_between(series.sessions, depth, 0.0, color=LINES[name][0], alpha=0.16, linewidth=0)
    mark_windows(axes, series)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylabel("drawdown, % of equity")
    dates(axes)
    legend(axes, 3)
    return drawn


def _rolling(series: Series) -> int:
    return max(min(ROLLING, len(series.sessions) // 3), 2)


def _rolling_sharpe(series: Series) -> Figure:
    drawn, (axes,) = figure(3.4)
    width = _rolling(series)
    for name in (n for n in series.compared if n != "cash"):
        windows = np.lib.stride_tricks.sliding_window_view(series.of(name), width)
        deviation = windows.std(axis=1, ddof=1)
        ratio = windows.mean(axis=1) / np.where(deviation > metrics.NO_VARIANCE, deviation, np.nan)
        line(axes, name, series.sessions[width - 1 :], ratio * np.sqrt(series.periods))
    axes.axhline(0.0, color=ink(), linewidth=0.8)
    axes.set_ylabel(f"Sharpe ratio a year,\nlast {width} sessions")
    dates(axes)
    axes.set_xlabel("session")
    legend(axes, 4)
    return drawn


def _costs(series: Series) -> Figure:
    drawn, (axes,) = figure(3.4)
    multiples = sorted(series.returns["cost_multiple"].unique())
    for name in (n for n in series.compared if n != "cash"):
        growth = [
            metrics.annual_return(series.of(name, multiple=m), series.periods) or 0.0 for m in multiples
        ]
        line(axes, name, multiples, np.array(growth), marker="o")
    axes.axhline(0.0, color=ink(), linewidth=0.8)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xticks(multiples, [f"{m:g} ×" for m in multiples])
    axes.set_xlabel("costs, multiple of the modelled ones")
    axes.set_ylabel("annual return, %")
    legend(axes, 4)
    return drawn


def _capacity(series: Series) -> Figure:
    chart, (axes,) = figure(3.4)
    found = series.figures["agent"]["capacity"]
    multiples = [float(multiple) for multiple in found["sharpe"]]
    ratios = [np.nan if ratio is None else ratio for ratio in found["sharpe"].values()]
    colour = LINES["agent"][0]
    axes.plot(multiples, ratios, color=colour, marker="o", linewidth=2.0, label="Sharpe ratio (left)")
    axes.set_xscale("log")
    axes.set_xticks(multiples, [f"{m:g} ×" for m in multiples])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.axhline(0.0, color=ink(), linewidth=0.8)
    if found["reached"] and found["multiple"] > 1.0:
        axes.axvline(found["multiple"], color=ink(), linewidth=1.0, linestyle=":")
        axes.annotate(
            f" capacity {found['multiple']:.3g} ×",
            (found["multiple"], 0.97),
            xycoords=("data", "axes fraction"),
            va="top",
            fontsize=9,
        )
    axes.set_xlabel("capital, multiple of market.capital")
    axes.set_ylabel("net Sharpe ratio a year")
    growth = axes.twinx()
    values = [np.nan if value is None else value for value in found["annual_return"].values()]
    growth.plot(
        multiples,
        values,
        color=LINES["buy-and-hold"][0],
        marker="s",
        linestyle="--",
        label="annual return (right)",
    )
    growth.yaxis.set_major_formatter(PercentFormatter(1.0))
    growth.set_ylabel("net annual return, %")
    if min(ratios) >= 0.0 and min(values) >= 0.0:
        axes.set_ylim(bottom=0.0)
        growth.set_ylim(bottom=0.0)
    growth.grid(False)
    growth.spines["right"].set_visible(True)
    handles = [*axes.get_lines()[:1], *growth.get_lines()]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, fontsize=9)
    return chart


def _regimes(series: Series) -> Figure:
    """Bars: the agent's Sharpe ratio; the number of sessions stands below each."""
    chart, (axes,) = figure(3.4)
    rows = series.figures["regimes"]
    levels = list(dict.fromkeys(row["volatility"] for row in rows))
    for place, market in enumerate(("up", "down")):
        part = [row for row in rows if row["market"] == market]
        heights = [row["sharpe"] or 0.0 for row in part]
        at = np.arange(len(levels)) + (place - 0.5) * 0.38
        drawn = axes.bar(at, heights, 0.34, color=SEED_COLOURS[place], label=f"market {market}")
        axes.bar_label(drawn, [f"{row['sessions']} sessions" for row in part], fontsize=8, padding=2)
    axes.axhline(0.0, color=ink(), linewidth=0.8)
    axes.margins(y=0.15)
    axes.set_xticks(range(len(levels)), levels)
    axes.set_xlabel("volatility before the session, terciles of the training window")
    axes.set_ylabel("net Sharpe ratio a year")
    axes.grid(axis="x", visible=False)
    legend(axes, 2)
    return chart


def _attribution(series: Series) -> Figure:
    """The 20 symbols that matter most, best first."""
    rows = sorted(series.figures["attribution"], key=lambda row: abs(row["net_return"]))[-20:]
    rows.sort(key=lambda row: float(row["net_return"]))
    chart, (axes,) = figure(1.4 + 0.3 * len(rows))
    at = np.arange(len(rows))
    gross, net = ([row[key] for row in rows] for key in ("gross_return", "net_return"))
    axes.barh(at + 0.2, gross, 0.36, color=LINES["buy-and-hold"][0], label="before costs")
    axes.barh(at - 0.2, net, 0.36, color=LINES["agent"][0], label="after costs")
    axes.axvline(0.0, color=ink(), linewidth=0.8)
    axes.set_yticks(at, [row["symbol"] for row in rows])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("sum of returns over the test windows, % of equity")
    axes.grid(axis="y", visible=False)
    legend(axes, 2)
    return chart


def _trading(series: Series) -> Figure:
    drawn, (upper, lower) = figure(4.6, rows=2, sharex=True)
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
    legend(upper)
    lower.plot(series.sessions, exposure, color=colour, linewidth=1.2)
    lower.set_ylabel("gross exposure,\nsum of |weights|")
    lower.set_ylim(bottom=0.0)
    for axes in (upper, lower):
        mark_windows(axes, series)
    dates(lower)
    return drawn


def _weights(series: Series) -> Figure:
    table = series.assets.filter(pl.col("strategy") == "agent").sort("session", "symbol")
    symbols = sorted(table["symbol"].unique())
    sessions = table["session"].unique().sort().to_numpy()
    grid = table["weight"].to_numpy().reshape(len(sessions), len(symbols)).T
    drawn, (axes,) = figure(min(1.6 + 0.26 * len(symbols), 9.0))
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
    drawn.colorbar(picture, ax=axes, label="weight (fraction of equity)", fraction=0.04, pad=0.02)
    return drawn


def _seeds(series: Series) -> Figure:
    drawn, (axes,) = figure(3.4)
    others = [
        name for name in series.returns["strategy"].unique(maintain_order=True) if name.startswith(SEED)
    ]
    for place, name in enumerate(["agent", *others]):
        label = "candidate (first seed)" if name == "agent" else f"seed {name.removeprefix(SEED)}"
        axes.plot(
            series.sessions,
            equity_of(series.of(name)),
            color=SEED_COLOURS[place % len(SEED_COLOURS)],
            linewidth=2.2 if name == "agent" else 1.4,
            label=label,
        )
    mark_windows(axes, series)
    axes.set_ylabel("equity after costs, start = 1")
    dates(axes)
    legend(axes, 4)
    return drawn


def _learning(series: Series) -> Figure:
    folds = sorted({int(name.split("/")[0].removeprefix("fold-")) for name in series.curves})
    columns = min(len(folds), 3)
    rows = -(-len(folds) // columns)
    drawn, panels = figure(1.0 + 2.4 * rows, rows, columns, sharey=True)
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
    return drawn
