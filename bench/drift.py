"""The drift check on markets of known truth: how often it cries wolf, how soon it sees a change, its cost.

Each world goes through the code of `sekisho drift`: robust scaling and profiles, `fit_baseline`, `calibrate`
and `detect`. Beside it, on the same worlds, stand what others do: alarm always, KS, PSI, and evidently's
preset. Then real share prices, as they were and with a change put into them; then speed, in turns with
evidently and NannyML.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from rich.progress import track
from scipy import stats

from drift_tools import COLUMNS
from results import Figure, publish
from sekisho.monitoring.calibration import MONTH, calibrate
from sekisho.monitoring.detector import Detection, detect, fit_baseline, forecast_errors
from sekisho.monitoring.profile import profile_session
from sekisho.monitoring.reference import fit_scaler
from sekisho.params import MonitoringParams, load_params
from worlds import ASSETS, BARS, KINDS, Change, simulate

REFERENCE, HORIZON = 120, 126  # sessions: to learn from, to watch without a change
BEFORE, AFTER = 10, 50  # watched sessions before and after a change
CALM_WORLDS, CHANGED_WORLDS, PEER_WORLDS, EVIDENTLY_SESSIONS = 120, 40, 8, 12
LIMIT, SMALL, LARGE = 0.17, 4.0, 12.0  # false alarms a month over all features; sessions of median delay
CHANGES = (
    (Change("volatility × 2", volatility=2.0), SMALL),
    (Change("correlation .3 → .5", correlation=0.5), SMALL),
    (Change("+0.3 σ on five φ=.9 features", mean=0.3, shifted=5), LARGE),
    (Change("volatility × 1.3", volatility=1.3), LARGE),
    (Change("φ .9 → .95 on ten features", phi=0.95), None),
)
PEERS = Path("build/bench/drift-peers/bin/python")
QUIET = {"DO_NOT_TRACK": "1", "NML_DISABLE_USAGE_LOGGING": "1", "OMP_NUM_THREADS": "1"}
ROWS = 1_000_000  # of the speed comparison
FILES = 10  # of them for the large one
DAY = dt.date(2026, 1, 5)  # profiles want one; none is read
Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Watched:
    """The first session with an alarm after the reference, from 1; None: none until the end."""

    both: int | None
    e_detector: int | None
    cusum: int | None
    stated: float  # false alarms a month that the calibration found


def statistics_of(values: npt.NDArray[np.float32], reference: int, params: MonitoringParams) -> Float:
    """Session statistics ``(S, 3, A, F)`` of values ``(S, N, A, F)``, scaled by the first ``reference``."""
    scaler = fit_scaler(values[:reference].reshape(-1, *values.shape[2:]), params.feature_clip)
    return np.stack([profile_session(DAY, day, scaler).statistics() for day in values])


def watch(statistics: Float, reference: int, params: MonitoringParams) -> Watched:
    gaps = np.ones(len(statistics), dtype=np.int64)
    baseline = fit_baseline(statistics[:reference], gaps[:reference], params)
    errors = forecast_errors(statistics, gaps, baseline)
    limits = calibrate(errors[:reference], baseline.watched, params)
    found: Detection = detect(errors[reference:], baseline, params)
    bets, sums = found.level >= limits.level, found.cusum >= limits.cusum
    return Watched(_first(bets | sums), _first(bets), _first(sums), limits.rate)


def _first(over: npt.NDArray[np.bool_]) -> int | None:
    return int(over.argmax()) + 1 if over.any() else None


def calm_world(seed: int) -> Watched:
    params = load_params().monitoring
    return watch(statistics_of(simulate(seed, REFERENCE + HORIZON), REFERENCE, params), REFERENCE, params)


def changed_world(task: tuple[int, Change]) -> Watched:
    seed, change = task
    params = load_params().monitoring
    values = simulate(seed, REFERENCE + BEFORE + AFTER, change, REFERENCE + BEFORE)
    return watch(statistics_of(values, REFERENCE, params), REFERENCE, params)


def rate(alarms: Sequence[int | None], horizon: int) -> tuple[float, float, float]:
    """Alarms a month until the first one, with an exact 95 % interval (Garwood 1936)."""
    count = sum(alarm is not None for alarm in alarms)
    months = sum(alarm or horizon for alarm in alarms) / MONTH
    low = stats.chi2.ppf(0.025, 2 * count) / 2 / months if count else 0.0
    return count / months, float(low), float(stats.chi2.ppf(0.975, 2 * count + 2) / 2 / months)


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median and its 95 % interval from the order statistics."""
    ordered = sorted(values)
    low, high = (int(stats.binom.ppf(p, len(ordered), 0.5)) for p in (0.025, 0.975))
    return float(np.median(ordered)), ordered[max(low - 1, 0)], ordered[min(high, len(ordered) - 1)]


def calm_figures(pool: ProcessPoolExecutor, worlds: int, judged: bool) -> Iterator[Figure]:
    found = list(track(pool.map(calm_world, range(worlds)), "no change", total=worlds))
    goal = LIMIT if judged else None
    middle, low, high = rate([one.both for one in found], HORIZON)
    name = f"no change: false alarms over 40 features [{low:.3f}, {high:.3f}]"
    yield Figure(name, middle, "a month", goal=goal, at_most=True)
    for part in ("e_detector", "cusum"):
        middle, low, high = rate([getattr(one, part) for one in found], HORIZON)
        yield Figure(
            f"no change: of these {part.replace('_', '-')} [{low:.3f}, {high:.3f}]", middle, "a month"
        )
    stated = float(np.mean([one.stated for one in found]))
    yield Figure("no change: rate that the reference states, mean", stated, "a month")


def changed_figures(pool: ProcessPoolExecutor, worlds: int, judged: bool) -> Iterator[Figure]:
    for number, (change, limit) in enumerate(CHANGES):
        tasks = [(10_000 * (number + 1) + n, change) for n in range(worlds)]
        found = list(track(pool.map(changed_world, tasks), change.name, total=worlds))
        early = sum(one.both is not None and one.both <= BEFORE for one in found)
        delays = [
            float((one.both or BEFORE + AFTER + 1) - BEFORE)
            for one in found
            if one.both is None or one.both > BEFORE
        ]
        middle, low, high = median_interval(delays)
        missed = sum(delay > AFTER for delay in delays) / len(delays)
        name = f"{change.name}: median delay [{low:.0f}, {high:.0f}]"
        name += f"; {missed:.0%} not in {AFTER}; {early} before"
        yield Figure(name, middle, "sessions", goal=limit if judged else None, at_most=True)


def share_alarms(drifted: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Of ``(S, 40)``: share of feature-sessions, and alarms a month when any feature alarms."""
    return float(drifted.mean()), float(drifted.any(axis=1).mean()) * MONTH


def peer_world(seed: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """KS at .05 and PSI above .25 of every session ``(HORIZON, 40)`` against the reference's values."""
    values = simulate(seed, REFERENCE + HORIZON).reshape(REFERENCE + HORIZON, BARS, ASSETS * KINDS)
    known = np.sort(values[:REFERENCE].reshape(-1, ASSETS * KINDS), axis=0)
    edges = np.quantile(known, np.arange(1, 10) / 10, axis=0)
    far, unstable = np.zeros((2, HORIZON, known.shape[1]), dtype=np.bool_)
    steps = np.arange(BARS + 1) / BARS
    for t, day in enumerate(values[REFERENCE:]):
        for k in range(known.shape[1]):
            sample = np.sort(day[:, k])
            places = np.searchsorted(known[:, k], sample) / len(known)
            distance = max(np.abs(places - steps[:-1]).max(), np.abs(places - steps[1:]).max())
            size = BARS * len(known) / (BARS + len(known))
            far[t, k] = stats.kstwobign.sf(distance * np.sqrt(size)) < 0.05
            shares = np.bincount(np.searchsorted(edges[:, k], sample), minlength=10) / BARS
            shares = np.maximum(shares, 1e-4)
            unstable[t, k] = ((shares - 0.1) * np.log(shares / 0.1)).sum() > 0.25
    return far, unstable


def peer_figures(pool: ProcessPoolExecutor, worlds: int, sessions: int, folder: Path) -> Iterator[Figure]:
    yield Figure("no change: always alarm", float(MONTH), "a month")
    found = list(track(pool.map(peer_world, range(worlds)), "KS, PSI", total=worlds))
    for place, name in enumerate(("KS at .05", "PSI > .25")):
        share, monthly = share_alarms(np.concatenate([one[place] for one in found]))
        yield Figure(f"no change: {name}, any feature", monthly, "a month")
        yield Figure(f"no change: {name}", share, "of feature-days")
    values = simulate(0, REFERENCE + sessions).reshape(-1, ASSETS * KINDS)
    table = pl.DataFrame(dict(zip(COLUMNS, values.T, strict=True)))
    table[: REFERENCE * BARS].write_parquet(folder / "past.parquet")
    days = np.repeat(np.arange(sessions), BARS)
    table[REFERENCE * BARS :].with_columns(session=pl.Series(days)).write_parquet(folder / "live.parquet")
    print("evidently, session by session", flush=True)
    result = cost_of("evidently_by_session", [folder / "past.parquet", folder / "live.parquet"])["result"]
    share = float(np.mean([one["count"] for one in result])) / len(COLUMNS)
    called = sum(one["share"] >= 0.5 for one in result) / len(result)
    yield Figure("no change: evidently's preset", share, "of feature-days")
    yield Figure("no change: evidently's preset, half of the features", called * MONTH, "a month")


def real_figures(params: MonitoringParams) -> Iterator[Figure]:
    """20 US shares from 1990 on, a session of 21 days each: returns scaled by trailing volatility, and plain.

    References of 120 such sessions begin every 24; the 24 behind are watched, as they were and with a change.
    """
    from skfolio.datasets import load_sp500_dataset

    prices = load_sp500_dataset().to_numpy()
    plain = np.diff(np.log(prices), axis=0)
    for name, volatility in (("as they were", 1.0), ("volatility × 2 from the 7th on", 2.0)):
        alarms, starts = [], range(0, len(plain) // MONTH - REFERENCE - 24 - 3, 24)
        for start in starts:
            part = plain[start * MONTH : (start + REFERENCE + 24 + 3) * MONTH].copy()
            part[(3 + REFERENCE + 6) * MONTH :] *= volatility
            squares = np.cumsum(np.vstack([np.zeros((1, part.shape[1])), part**2]), axis=0)
            trailing = np.sqrt((squares[63:-1] - squares[:-64]) / 63)
            values = np.stack([part[63:] / np.maximum(trailing, 1e-6), part[63:]], axis=2).astype(np.float32)
            days = values.reshape(REFERENCE + 24, MONTH, -1, 2)
            alarms.append(watch(statistics_of(days, REFERENCE, params), REFERENCE, params).both)
        if volatility == 1.0:
            yield Figure(f"real shares {name}: of {len(starts)} stretches alarm", _share(alarms), "share")
        else:
            found = [a for a in alarms if a is None or a > 6]
            yield Figure(f"real shares, {name}: of {len(found)} seen", _share(found), "share")
            delays = [float((alarm or 25) - 6) for alarm in found]
            yield Figure("real shares: its median delay", float(np.median(delays)), "sessions")


def _share(alarms: Sequence[int | None]) -> float:
    return sum(alarm is not None for alarm in alarms) / max(len(alarms), 1)


def cost_of(tool: str, files: Sequence[Path]) -> dict[str, Any]:
    """Run one tool in a process of its own and read what it says it cost."""
    python = sys.executable if tool == "sekisho" else str(PEERS)
    script = str(Path(__file__).with_name("drift_tools.py"))
    done = subprocess.run(
        [python, script, tool, *map(str, files)],
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{tool} failed:\n{done.stderr[-2000:]}")
    cost: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return cost


def speed_figures(rows: int, rounds: int, folder: Path, judged: bool) -> Iterator[Figure]:
    files = [write_rows(folder / f"rows-{n}.parquet", n, rows) for n in range(2)]
    costs: dict[str, list[dict[str, Any]]] = {"sekisho": [], "nannyml": [], "evidently": []}
    for turn in range(rounds):
        for tool, spent in costs.items():
            if tool == "evidently" and turn:
                continue  # minutes: once
            spent.append(cost_of(tool, files))
            print(f"round {turn + 1}: {tool} {spent[-1]['cpu']:.1f} CPU-s", flush=True)
    ours = float(np.median([cost["cpu"] for cost in costs["sekisho"]]))
    size = f"{rows:,} × {len(COLUMNS)}, twice"
    for tool, goal in (("evidently", 50.0), ("nannyml", 2.0)):
        theirs = float(np.median([cost["cpu"] for cost in costs[tool]]))
        yield Figure(
            f"{size}: files a CPU-second", 2 / ours, "1/s", tool, 2 / theirs, goal if judged else None
        )
    yield Figure(
        f"{size}: memory",
        max(c["gib"] for c in costs["sekisho"]),
        "GiB",
        "evidently",
        costs["evidently"][0]["gib"],
    )
    several = [files[1], *(write_rows(folder / f"more-{n}.parquet", n, rows) for n in range(FILES - 1))]
    large = cost_of("sekisho", [files[0], *several])
    size = f"{FILES * rows:,} × {len(COLUMNS)} against {rows:,}"
    yield Figure(f"{size}: wall time", large["wall"], "s", goal=9.99 if judged else None, at_most=True)
    yield Figure(f"{size}: CPU time", large["cpu"], "s")
    yield Figure(f"{size}: memory", large["gib"], "GiB", goal=0.5 if judged else None, at_most=True)


def write_rows(path: Path, seed: int, rows: int) -> Path:
    rng = np.random.default_rng((7, seed))
    pl.DataFrame({name: rng.standard_normal(rows, dtype=np.float32) for name in COLUMNS}).write_parquet(path)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few worlds and rows; no goal is judged")
    quick = parser.parse_args().quick
    params = load_params(Path("params.yaml")).monitoring
    folder = Path(tempfile.mkdtemp(prefix="sekisho-drift-"))
    try:
        with ProcessPoolExecutor(2) as pool:
            figures = [
                *calm_figures(pool, 6 if quick else CALM_WORLDS, not quick),
                *changed_figures(pool, 3 if quick else CHANGED_WORLDS, not quick),
                *peer_figures(pool, 2 if quick else PEER_WORLDS, 2 if quick else EVIDENTLY_SESSIONS, folder),
            ]
        figures += [
            *real_figures(params),
            *speed_figures(*(50_000, 1) if quick else (ROWS, 3), folder, not quick),
        ]
    finally:
        shutil.rmtree(folder)
    return publish("drift", figures, COMPARED, ["numpy", "polars", "scipy", "skfolio"])


COMPARED = (
    f"Worlds of 40 features × {BARS} bars a session: AR(1) with φ .9, .99 and .999 a bar and "
    f"GARCH-t, correlated by .3; {REFERENCE} sessions to learn from, then {HORIZON} without a "
    f"change, or {BEFORE} before and {AFTER} after one. In brackets 95 % intervals. A delay counts "
    "the session of the alarm; a change not seen counts as one session more than watched. A month "
    "has 21 sessions. Shifts of features with φ ≥ .99 are slow to see. Real shares have regimes "
    "of their own: alarms on them as they were are not all false. Speed: CPU time of reading both "
    "files and measuring every column, each tool in a process of its own, imports left out; "
    "evidently once, the others in turns."
)

if __name__ == "__main__":
    raise SystemExit(main())
