"""A training window ten times what is in memory: rows a second, and the peak memory beside the whole's.

    PYTHONPATH=. python bench/blocks.py

Each figure is of a process of its own; reading only, nothing is trained meanwhile.
"""

from __future__ import annotations

import datetime as dt
import multiprocessing
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import polars as pl

from distributed_data import session
from results import Figure, publish
from sekisho.calendar import Calendar
from sekisho.data.panel import load_panel
from sekisho.features import load_features
from sekisho.features.build import build_features
from sekisho.market import MarketData, TradingMarket, derive_units
from sekisho.market.blocks import Blocks
from sekisho.params import load_params

WORK = Path("build/bench/blocks")
SYMBOLS, SESSIONS, RESIDENT, VALIDATION = 250, 200, 20, 5
ENVIRONMENTS = 512


def generate() -> None:
    """Validated bars and their features, by session; kept and reused."""
    if (WORK / "done").exists():
        return
    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "bars").mkdir(parents=True)
    calendar = Calendar("XTKS", "5min")
    days = calendar.sessions(dt.date(2023, 1, 4), dt.date(2024, 12, 30))[: SESSIONS + VALIDATION]
    for number, day in enumerate(days):
        bars = session(calendar.closes(day), number).filter(pl.col("symbol") < f"S{SYMBOLS:04}")
        bars.with_columns(session=pl.lit(day)).write_parquet(WORK / f"bars/{day}.parquet")
    build_features(WORK / "bars", WORK / "features", load_params().features)
    (WORK / "done").touch()


def windows() -> tuple[list[dt.date], dict[str, tuple[dt.date, dt.date]]]:
    days = [dt.date.fromisoformat(path.stem) for path in sorted((WORK / "bars").glob("*.parquet"))]
    return days, {"train": (days[0], days[SESSIONS - 1]), "validation": (days[SESSIONS], days[-1])}


def by_block(sessions: int) -> tuple[float, float, float]:
    """Rows a second of the pass beforehand and of one that fills the market, and the peak MB."""
    params = load_params()
    train = params.train.model_copy(update={"resident_sessions": sessions, "block_updates": 1})
    params, updates = params.model_copy(update={"train": train}), -(-SESSIONS // sessions)
    began = time.perf_counter()
    blocks = Blocks(WORK / "bars", WORK / "features", params, **windows()[1], updates=updates, seed=1)
    studied = time.perf_counter()
    market = blocks.market(ENVIRONMENTS)
    rows = market.stop - market.start
    for update in range(2, blocks.count + 1):
        blocks.turn(market, update)
        rows += market.stop - market.start
    ended = time.perf_counter()
    rows *= SYMBOLS
    return rows / (studied - began), rows / (ended - studied), peak()


def whole() -> tuple[float, float]:
    """Rows a second until the market holds all, and the peak MB."""
    params, began = load_params(), time.perf_counter()
    panel = load_panel(WORK / "bars")
    data = MarketData.from_panel(panel, load_features(WORK / "features", panel), params.market)
    window = data.window(*windows()[1]["train"])
    units = derive_units(data, *window, params.market)
    TradingMarket(data, params.market, units, ENVIRONMENTS, window)
    return (window[1] - window[0]) * SYMBOLS / (time.perf_counter() - began), peak()


def nothing() -> float:
    """What the process takes before it reads anything, MB."""
    return peak()


def peak() -> float:
    """Linux; getrusage's figure begins with that of the process that started this one."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def block_figures() -> list[Figure]:
    generate()
    found = []
    for function, *arguments in ((nothing,), (by_block, RESIDENT), (whole,)):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found.append(pool.submit(function, *arguments).result())  # type: ignore[operator]
    base, (studied, read, held), (loaded, all_held) = found
    return [
        Figure("blocks, pass beforehand", studied, "rows/s"),
        Figure("blocks, read and held one after the other", read, "rows/s", "the whole at once", loaded),
        Figure("blocks, peak memory beyond the imports", held - base, "MB", "the whole", all_held - base,
               goal=0.4, at_most=True),
    ]  # fmt: skip


if __name__ == "__main__":
    compared = (
        f"{SESSIONS} sessions of {SYMBOLS} symbols, {RESIDENT} in memory at a time, and {VALIDATION} of "
        "validation; bars and features in one Parquet file a session."
    )
    sys.exit(publish("blocks", block_figures(), compared, ["polars", "torch"]))
