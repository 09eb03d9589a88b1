"""What verifying a release costs beside hashing it, and how soon the commands that people wait for answer."""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.release.workshop import Workshop, build_repo

from results import Figure, publish
from sekisho.release.manifest import canonical, list_files, read_manifest
from sekisho.release.promote import promote
from sekisho.release.verify import verify_release
from sekisho.serving.core import Decision
from sekisho.serving.guard import Reason
from sekisho.serving.predictions import Entry, PredictionLog

MB = 1 << 20
PREDICTIONS = 20_000
COMPARED = (
    "A signed release of the tests' scratch repository with random files added to its content, all in the "
    "page cache; verifying and hashlib.file_digest over the same files take turns in one process. Small "
    "release and commands: a new process each time, wall time, median; `after_import` leaves out only the "
    "imports. The trace is of one of {n} logged predictions: it checks the log's chain and every signature."
)


def signed_release(repo: Path, size: int) -> Workshop:
    """A signed release whose content holds ``size`` bytes more, in four files."""
    shop = build_repo(repo)
    release = shop.export()
    block = os.urandom(MB)
    for number in range(4):
        with (release / f"content/weights-{number}.bin").open("wb") as file:
            for _ in range(size // 4 // MB):
                file.write(block)
    manifest, _ = read_manifest(release)
    grown = manifest.model_copy(update={"files": list_files(release / "content")})
    (release / "manifest.json").write_bytes(canonical(grown.model_dump(mode="json")))
    shop.open_local()
    shop.sign()
    return shop


def verify(shop: Workshop) -> None:
    verify_release(shop.release, trust=shop.trust, environment="local")


def hash_all(shop: Workshop) -> None:
    for path in sorted((shop.release / "content").iterdir()):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def take_turns(shop: Workshop, rounds: int) -> tuple[float, float]:
    """Median wall seconds of verifying and of hashing, after one warm-up of each."""
    verify(shop)
    hash_all(shop)
    pairs = [(seconds(lambda: verify(shop)), seconds(lambda: hash_all(shop))) for _ in range(rounds)]
    return statistics.median(v for v, _ in pairs), statistics.median(h for _, h in pairs)


def first_call(shop: Workshop, rounds: int) -> tuple[float, float]:
    """Median wall and CPU seconds of the first verification in a new process, its imports left out."""
    program = (
        "import time; from pathlib import Path; import sekisho.release.bundle; "
        "from sekisho.release.verify import verify_release; "
        "wall, cpu = time.perf_counter(), time.process_time(); "
        f"verify_release(Path({str(shop.release)!r}), trust=Path({str(shop.trust)!r}), environment='local'); "
        "print(time.perf_counter() - wall, time.process_time() - cpu)"
    )
    words = [sys.executable, "-c", program]
    runs = [subprocess.run(words, check=True, capture_output=True, text=True).stdout for _ in range(rounds)]
    wall, cpu = zip(*(map(float, line.split()) for line in runs), strict=True)
    return statistics.median(wall), statistics.median(cpu)


def command(shop: Workshop, rounds: int, *words: str) -> tuple[float, float]:
    """Median wall and CPU seconds of a command, each time in a new process."""
    program = str(Path(sys.executable).with_name("sekisho"))
    taken = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall = seconds(
            lambda: subprocess.run([program, *words], cwd=shop.repo, check=True, capture_output=True)
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append((wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return statistics.median(wall for wall, _ in taken), statistics.median(cpu for _, cpu in taken)


def write_predictions(shop: Workshop, folder: Path) -> str:
    """A served log of the release, a session of 2000 predictions at a time; returns the id of one in it."""
    _, digest = read_manifest(shop.release)
    log = PredictionLog(folder, capacity=PREDICTIONS, batch=8192, interval=0.05)
    rng = np.random.default_rng(1)
    first = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
    for number in range(PREDICTIONS):
        at = first + dt.timedelta(days=number // 2000, seconds=number % 2000)
        observation = rng.normal(size=(1, 3, 10)).astype(np.float32)
        decision = Decision(np.zeros((1, 3), np.float32), (Reason.OK,))
        log.append(Entry(f"p{number}", at, at.date(), at, "policy", 1, digest, observation, decision, 900))
    log.close()
    return f"p{PREDICTIONS // 2}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small files and few rounds; judges no goal")
    quick = parser.parse_args().quick
    large, rounds = (64 * MB, 2) if quick else (2048 * MB, 7)
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build") as scratch:
        folder = Path(scratch).resolve()
        shop = signed_release(folder / "large", large)
        verified, hashed = take_turns(shop, rounds)
        small = signed_release(folder / "small", 10 * MB)
        first, first_cpu = first_call(small, rounds)
        warm, small_hashed = take_turns(small, 5 * rounds)
        wait, wait_cpu = command(small, 3 * rounds, "--help")
        promote(small.desk, small.release, "local", "first")
        prediction = write_predictions(small, folder / "predictions")
        words = ["audit", "trace", prediction, "--predictions", str(folder / "predictions")]
        trace, trace_cpu = command(small, rounds, *words)

    def goal(limit: float) -> float | None:
        return None if quick else limit

    name = f"verify_{large // MB}_mb"
    figures = [
        Figure(name, verified, "s", "hashlib", hashed, goal(1.3), at_most=True),
        Figure("verify_10_mb_after_import", 1000 * first, "ms", goal=goal(50), at_most=True),
        Figure("verify_10_mb_after_import_cpu", 1000 * first_cpu, "ms of CPU"),
        Figure("verify_10_mb_again", 1000 * warm, "ms", "hashlib", 1000 * small_hashed),
        Figure("help", 1000 * wait, "ms", goal=goal(300), at_most=True),
        Figure("help_cpu", 1000 * wait_cpu, "ms of CPU"),
        Figure("audit_trace_prediction", trace, "s", goal=goal(2), at_most=True),
        Figure("audit_trace_prediction_cpu", trace_cpu, "s of CPU"),
    ]
    return publish("verify", figures, COMPARED.format(n=PREDICTIONS), ["sigstore", "cryptography"])


if __name__ == "__main__":
    sys.exit(main())
