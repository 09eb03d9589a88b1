"""One figure of a benchmark, the table people read and the file programs read
(``build/bench/<part>.json``)."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

OUT = Path("build/bench")


@dataclass(frozen=True)
class Figure:
    """A measured value, beside a peer's from the same run where there is one.

    The goal is compared with the ratio where there is a peer, else with the value; ``at_most`` turns it
    round.
    """

    name: str
    value: float
    unit: str
    peer: str | None = None  # what the peer is, in words
    peer_value: float | None = None
    goal: float | None = None
    at_most: bool = False

    @property
    def ratio(self) -> float | None:
        return self.value / self.peer_value if self.peer_value else None

    @property
    def holds(self) -> bool | None:
        if self.goal is None:
            return None
        measured = self.value if self.ratio is None else self.ratio
        return measured <= self.goal if self.at_most else measured >= self.goal

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio, "holds": self.holds}


def publish(part: str, figures: Sequence[Figure], compared: str, packages: Sequence[str] = ()) -> int:
    """Print the table, write ``build/bench/<part>.json``; returns 1 when a goal is missed, else 0.

    Args:
        compared: one paragraph that says what was measured against what, and under which conditions.
        packages: whose versions matter for the figures.
    """
    content = {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "load": os.getloadavg()[0],  # of the last minute, this benchmark included
        "compared": compared,
        "figures": [figure.row() for figure in figures],
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{part}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _print(part, figures, compared)
    return int(any(figure.holds is False for figure in figures))


def _print(part: str, figures: Sequence[Figure], compared: str) -> None:
    table = Table(title=f"bench-{part}", title_justify="left")
    for column in ("figure", "value", "unit", "peer", "its value", "ratio", "goal", ""):
        table.add_column(column, justify="right" if column in ("value", "its value", "ratio") else "left")
    marks = {None: "", True: "[green]holds[/green]", False: "[red]missed[/red]"}
    for figure in figures:
        goal = "" if figure.goal is None else f"{'≤' if figure.at_most else '≥'} {figure.goal:g}"
        cells = (figure.name, _short(figure.value), figure.unit, figure.peer or "", _short(figure.peer_value))
        table.add_row(*cells, _short(figure.ratio), goal, marks[figure.holds])
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table)
    console.print(compared, highlight=False)
    console.print(f"→ {OUT / f'{part}.json'}", highlight=False)


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
