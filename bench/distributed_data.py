"""Validate and features over generated partitions: GB/s, peak memory, one more day, DVC's own time.

GB are decimal and of raw Parquet files as they lie in ``data/bars``. Each stage runs in a process of its own.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from results import Figure, _processor, publish
from sekisho.calendar import Calendar
from sekisho.data.contract import COLUMNS

WORK = Path("build/bench/partitions")
RATES = Path("bench/rates.json")
SYMBOLS, DVC_FILES = 6_000, 10_000
SIZES, QUICK = (0.25, 1.0), (0.05, 0.1)  # GB


def generate(size: float) -> Path:
    """Raw sessions of 5-minute bars until they are ``size`` GB; kept and reused. Same size, same bytes."""
    folder = WORK / f"raw-{size:g}"
    if (folder / "done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    calendar = Calendar("XTKS", "5min")
    written = 0
    for number, day in enumerate(calendar.sessions(dt.date(2015, 1, 5), dt.date(2026, 6, 30))):
        path = folder / f"{day}.parquet"
        session(calendar.closes(day), number).write_parquet(path, compression="zstd", statistics=False)
        written += path.stat().st_size
        if written >= size * 1e9:
            (folder / "done").touch()
            return folder
    raise SystemExit(f"{folder}: all sessions are {written / 1e9:.1f} GB")


def session(ends: np.ndarray, seed: int) -> pl.DataFrame:
    """Random bars of all symbols in one session, which keep the contract."""
    rng = np.random.default_rng(seed)
    shape = (SYMBOLS, len(ends))
    close = np.round(1000 * np.exp(0.002 * rng.normal(size=shape).cumsum(axis=1)), 1)
    opens = np.round(close * np.exp(0.0005 * rng.normal(size=shape)), 1)
    times = pl.Series(np.tile(ends, SYMBOLS)).dt.replace_time_zone("UTC")
    one = np.ones(close.size)
    columns: dict[str, Any] = {
        "symbol": np.repeat([f"S{number:04}" for number in range(SYMBOLS)], len(ends)),
        "ts_close": times,
        "available_at": times,
        "open": opens.ravel(),
        "high": np.maximum(opens, close).ravel() + 0.5,
        "low": np.minimum(opens, close).ravel() - 0.5,
        "close": close.ravel(),
        "adj_factor": one,
        "volume": rng.integers(0, 10_000, close.size) * 100.0,
        "adv": np.repeat(rng.uniform(1e8, 1e11, SYMBOLS), len(ends)),
        "half_spread": one * 1e-4,
        "borrow_rate": one * 1e-7,
        "funding_rate": one * 0,
        "tradable": np.ones(close.size, dtype=bool),
    }
    return pl.DataFrame(columns).cast(COLUMNS)  # type: ignore[arg-type]


def stage(name: str, raw: Path, out: Path) -> tuple[float, float]:
    """Wall seconds and peak MB of one stage in a process of its own, with the store below ``out``."""
    words = [sys.executable, __file__, "--stage", name, str(raw), str(out)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} of {raw}: {done.stderr}")
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def run_stage(name: str, raw: Path, out: Path) -> None:
    from sekisho.data.validate import validate_bars
    from sekisho.features.build import build_features
    from sekisho.params import load_params
    from sekisho.partition_store import PartitionStore

    params, store = load_params(), PartitionStore(str(out / "store"))
    started = time.perf_counter()
    if name == "validate":
        validate_bars(raw, out / "bars", out / "quarantine", params.data, out / "validate.json", store)
    else:
        build_features(out / "bars", out / "features", params.features, store)
    seconds = time.perf_counter() - started
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def data_figures(sizes: tuple[float, ...] = SIZES, dvc_files: int = DVC_FILES) -> list[Figure]:
    """Measure all sizes, write the data part of bench/rates.json, return the figures."""
    figures, taken = [], dict[str, list[tuple[float, float, float]]]()
    for size in sizes:
        raw, out = generate(size), WORK / "out"
        shutil.rmtree(out, ignore_errors=True)
        files = sorted(raw.glob("*.parquet"))
        newest, actual = files[-1], sum(path.stat().st_size for path in files) / 1e9
        held = newest.rename(newest.with_suffix(".held"))
        for name in ("validate", "features"):
            seconds, peak = stage(name, raw, out)
            taken.setdefault(name, []).append((actual, seconds, peak))
            figures += [
                Figure(f"{name} {actual:.2f} GB", actual / seconds * 1000, "MB/s"),
                Figure(f"{name} {actual:.2f} GB, peak memory", peak, "MB"),
            ]
        held.rename(newest)
        for name in ("validate", "features"):
            seconds, _ = stage(name, raw, out)
            taken.setdefault(f"more {name}", []).append((actual, seconds, newest.stat().st_size / 1e9))
            figures.append(Figure(f"{name} one more day, {actual:.2f} GB before", seconds, "s"))
    shutil.rmtree(WORK / "out", ignore_errors=True)
    for name in ("validate", "features"):
        gb, seconds, peak = np.array(taken[name]).T
        if len(gb) > 1:
            slope = float(np.polyfit(np.log(gb), np.log(seconds), 1)[0])
            figures.append(
                Figure(f"{name}: time grows as size to the power", slope, "", goal=1.15, at_most=True)
            )
            figures.append(
                Figure(
                    f"{name}: peak memory, largest over smallest",
                    float(peak[-1] / peak[0]),
                    "",
                    goal=1.3,
                    at_most=True,
                )
            )
    cores = len(os.sched_getaffinity(0))
    again = sum(taken[f"more {name}"][-1][1] for name in ("validate", "features"))
    rates = {
        f"{name}_gb_s": taken[name][-1][0] / taken[name][-1][1] / cores for name in ("validate", "features")
    }
    write_rates("data", rates | {"assemble_gb_s": 2 * taken["validate"][-1][0] / again})
    return figures + dvc_figures(dvc_files)


def dvc_figures(files: int) -> list[Figure]:
    """Seconds of real DVC for one more partition among so many small ones."""
    folder = WORK / "dvc"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "bars").mkdir(parents=True)
    for number in range(files):
        (folder / f"bars/{number:06}.parquet").write_bytes(number.to_bytes(4) * 64)

    def dvc(*words: str) -> float:
        started = time.perf_counter()
        subprocess.run(
            [Path(sys.executable).parent / "dvc", *words], cwd=folder, check=True, capture_output=True
        )
        return time.perf_counter() - started

    dvc("init", "--no-scm")
    dvc("remote", "add", "--default", "there", "remote")
    first = dvc("add", "bars"), dvc("push")
    (folder / f"bars/{files:06}.parquet").write_bytes(b"one more" * 32)
    more = dvc("add", "bars"), dvc("status"), dvc("push")
    shutil.rmtree(folder)
    named = zip(("add all", "push all", "add one more", "status", "push one more"), first + more, strict=True)
    return [Figure(f"dvc {name}, {files} partitions", seconds, "s") for name, seconds in named]


def write_rates(part: str, rates: dict[str, Any]) -> None:
    """Replace one part of bench/rates.json, which `sekisho plan` reads."""
    content = json.loads(RATES.read_text(encoding="utf-8")) if RATES.exists() else {}
    about = {"date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}", "machine": _processor()}
    RATES.write_text(json.dumps(content | {part: about | rates}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, few files")
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, help="GB")
    parser.add_argument("--stage", nargs=3)
    options = parser.parse_args()
    if options.stage:
        run_stage(options.stage[0], Path(options.stage[1]), Path(options.stage[2]))
    else:
        chosen = data_figures(QUICK, 200) if options.quick else data_figures(tuple(options.sizes))
        sys.exit(
            publish(
                "distributed-data",
                chosen,
                "GB of raw Parquet; each stage in its own process.",
                ["polars", "dvc"],
            )
        )
