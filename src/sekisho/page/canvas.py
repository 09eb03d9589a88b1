"""How figures look, each drawn for both places: a light PNG for a pull request, an SVG that follows the page.

Colours are Okabe & Ito's (2008), distinct for colour-blind readers. The same data give the same bytes: no
dates, no random ids. matplotlib is imported when a figure is drawn, so that pages without one are quick.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sekisho.page.blocks import Both, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PINK, RED, SKY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"
GREY = "#7F7F7F"
INK, PAPER = "#1b1f24", "#ffffff"
SVG_INK = "#010203"  # stands for the page's text colour, replaced by currentColor
DOTS = 120  # per inch of the PNG
WRITTEN = re.compile(r"<text ([^>]*)>([^<]*)</text>")


@dataclass(frozen=True)
class Plot:
    """One figure: file name without ending, what it shows (for those who cannot see it), and how to draw it.

    ``japanese``: of what is written in it; None where that stands in both languages, as a figure does.
    """

    name: str
    caption: Both
    draw: Callable[[], Figure]
    japanese: Callable[[str], str | None]


def png(plot: Plot, path: Path) -> None:
    """Write the light picture, in English."""
    with _style(INK, PAPER):
        plot.draw().savefig(path, dpi=DOTS, metadata={"Software": None})


def picture(plot: Plot) -> Picture:
    """The figure for a page: without background, in the page's own text colour, in both languages."""
    buffer = io.StringIO()
    with _style(SVG_INK, "none"):
        plot.draw().savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace(SVG_INK, "currentColor").replace("'DejaVu Sans'", "'DejaVu Sans', sans-serif")
    # ids are unique only within one figure; the page holds several
    for mark in ('id="', 'href="#', "url(#"):
        text = text.replace(mark, f"{mark}{plot.name}-")
    text = WRITTEN.sub(lambda found: _in_both(found, plot.japanese), text)
    return Picture(plot.name, plot.caption, text)


def _in_both(found: re.Match[str], japanese: Callable[[str], str | None]) -> str:
    """A ``<text>`` for each language; matplotlib anchors it where it was aligned, so any width fits."""
    style, english = found.groups()
    other = japanese(html.unescape(english))
    if other is None:
        return found[0]
    other = html.escape(other, quote=False)
    return f'<text lang="en" {style}>{english}</text><text lang="ja" {style}>{other}</text>'


@contextmanager
def _style(ink: str, paper: str) -> Iterator[None]:
    import matplotlib as mpl

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
    """A figure 8 inches wide and its axes, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, height))
    return figure, list(figure.subplots(rows, columns, squeeze=False, **kind).ravel())


def legend(axes: Axes, columns: int = 3) -> None:
    """Above the axes, where it hides nothing; wide columns, since names are longer in Japanese."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        fontsize=9,
        columnspacing=4.2,
    )


def ink() -> str:
    """The colour of text and axes in the figure that is being drawn."""
    import matplotlib as mpl

    return str(mpl.rcParams["axes.edgecolor"])
