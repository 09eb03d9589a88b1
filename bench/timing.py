"""CPU and wall time of things that take turns, and where the CPU time of one of them goes."""

from __future__ import annotations

import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FrameType

TICK = 0.005  # CPU seconds between two looks at the stack


@dataclass(frozen=True)
class Rate:
    """Medians over the rounds."""

    per_cpu_second: float
    per_second: float


def take_turns(contestants: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, Rate]:
    """Run each contestant once to warm up, then ``rounds`` times in turn; each returns how much it did.

    Taking turns shares what else happens on the machine out over all of them.
    """
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for name, run in contestants.items():
        run()
        print(f"warm: {name}", flush=True)
    for turn in range(rounds):
        for name, run in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            done = run()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            rates[name].append((done / cpu, done / wall))
        print(f"round {turn + 1} of {rounds}", flush=True)
    return {
        name: Rate(statistics.median(cpu for cpu, _ in of), statistics.median(wall for _, wall in of))
        for name, of in rates.items()
    }


def cpu_shares(run: Callable[[], object], phase_of: Callable[[FrameType], str | None]) -> dict[str, float]:
    """Share of the CPU time of ``run`` in each phase, from samples of the stack every `TICK`.

    Args:
        phase_of: the phase that a frame belongs to, or None; the innermost frame that has one decides.
            Samples without any count as ``other``.
    """
    samples: Counter[str] = Counter()

    def look(_signal: int, frame: FrameType | None) -> None:
        phase = None
        while frame is not None and phase is None:
            phase = phase_of(frame)
            frame = frame.f_back
        samples[phase or "other"] += 1

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, TICK, TICK)
    try:
        run()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return {phase: count / samples.total() for phase, count in samples.items()}
