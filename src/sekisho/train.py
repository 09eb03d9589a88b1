"""Runs one trainer per walk-forward fold and seed, each in its own process, and publishes them together."""

from __future__ import annotations

import ctypes
import datetime as dt
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from sekisho.backtest.splits import Fold, walk_forward
from sekisho.data.panel import partitions
from sekisho.data.store import replaced
from sekisho.errors import TrainingError
from sekisho.params import Params

SCRATCH = Path(".sekisho")  # finished runs and checkpoints of an interrupted training wait here
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
LAST_LINES = 15  # of a failed trainer's output that are shown
PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """One trainer process."""

    fold: int
    seed: int

    @property
    def name(self) -> str:
        return f"fold-{self.fold}/seed-{self.seed}"


def sessions_of(bars: Path) -> list[dt.date]:
    """All sessions of a folder of validated bars, ascending.

    Raises:
        DataError: no bars there.
    """
    frame = pl.scan_parquet(partitions(bars), glob=False).select("session").unique()
    return sorted(frame.collect(engine="streaming")["session"].to_list())


def require_listed(bars: Path, folds: Sequence[Fold]) -> None:
    """Every symbol of the bars has a bar in every training window.

    An agent's symbols are those of all bars: without history in its training window a symbol has no unit to
    trade in, no range that serving could guard, no reference for drift.

    Raises:
        TrainingError: names the symbol that is listed last, its first bar, the fold, and the remedy.
    """
    frame = pl.scan_parquet(partitions(bars), glob=False).group_by("symbol")
    starts = frame.agg(pl.col("session").min(), pl.col("ts_close").min()).sort("session", "symbol")
    symbol, session, bar = starts.collect(engine="streaming").row(-1)
    short = [fold for fold in folds if session > fold.train[1]]
    if short:
        raise TrainingError(
            f"{symbol}: its first bar is that of {bar:%Y-%m-%d %H:%M} UTC, fold {short[-1].index} "
            f"trains until {short[-1].train[1]}",
            remedy=f"leave {symbol} out of the bars until every training window holds it, or lower "
            "split.folds or split.test_sessions in params.yaml",
        )


def run_key(bars: Path, features: Path, params: Params, trainer: Path, **choices: Any) -> str:
    """Digest (hex) of everything that determines a run's result: data, parameters, ``choices``, code,
    and torch's version, whose arithmetic may differ from the next one's in the last bit.

    The same key means the same model, byte for byte: an interrupted run with this key may be gone on with.
    """
    digest = hashlib.sha256()
    for section in (params.features, params.market, params.split, getattr(params, trainer.stem)):
        digest.update(section.model_dump_json().encode())
    digest.update(params.train.model_dump_json(include={"evaluate_every", "patience", "device"}).encode())
    digest.update(json.dumps(choices | {"torch": version("torch")}, sort_keys=True).encode())
    code = [PACKAGE / "trainer.py", PACKAGE / "backtest/splits.py", PACKAGE / "data/panel.py"]
    code += [*PACKAGE.glob("features/*.py"), *PACKAGE.glob("market/*.py")]
    for path in (trainer, *sorted(code), *partitions(bars), *partitions(features)):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def train(
    params: Params,
    *,
    bars: Path,
    features: Path,
    out: Path,
    metrics: Path,
    source: Path = Path("params.yaml"),
    trainers: Path = Path("training"),
) -> dict[str, Any]:
    """Train every fold × seed, ``train.processes`` at once; publish ``out`` and ``metrics`` together.

    Runs that an interrupted call had finished are taken over, an unfinished one goes on from its checkpoint.
    Returns the metrics: per run validation Sharpe ratio, updates and ONNX digest.

    Raises:
        BacktestError: the history is too short for the folds.
        TrainingError: a trainer failed (its last lines are in the message), there is no such trainer, or a
            symbol is listed after a training window.
        DataError: the disk is full; nothing was published.
    """
    trainer = trainers / f"{params.train.trainer}.py"
    if not trainer.is_file():
        raise TrainingError(f"{trainer}: no such trainer", remedy="run from the repository's root")
    folds = walk_forward(sessions_of(bars), params.split)
    require_listed(bars, folds)
    key = run_key(bars, features, params, trainer)
    work = SCRATCH / "runs" / key
    runs = [Run(fold.index, seed) for fold in folds for seed in params.train.seeds]

    inputs = ["--bars", str(bars), "--features", str(features), "--params", str(source)]
    with _alone(key):
        _run_all(runs, params.train.processes, work, [str(trainer), *inputs])
        result = {"runs": {run.name: _summary(work / run.name) for run in runs}}
        with replaced(out) as (fresh,):
            for run in runs:  # an interrupted call with other seeds may have left more in `work`
                shutil.copytree(work / run.name, fresh / run.name)
            metrics.parent.mkdir(parents=True, exist_ok=True)
            temporary = metrics.with_name(f".{metrics.name}.new")
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        temporary.replace(metrics)
        shutil.rmtree(work)
        return result


def _run_all(runs: list[Run], processes: int, work: Path, trainer: list[str]) -> None:
    """Run what is not finished yet, ``processes`` at once; one progress bar, or in the end one line, each."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    console = Console(stderr=True)
    progress = Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
    with progress as bar:
        pool = ThreadPoolExecutor(processes)
        children: list[subprocess.Popen[str]] = []

        def start(run: Run) -> None:
            task = bar.add_task(run.name, total=1.0)
            if not (work / run.name / "run.json").is_file():  # published atomically: there means finished
                chosen = ["--fold", str(run.fold), "--seed", str(run.seed), "--out", str(work / run.name)]
                _run(
                    run,
                    [sys.executable, *trainer, *chosen],
                    children,
                    lambda share: bar.update(task, completed=share),
                )
            bar.update(task, completed=1.0)

        try:
            for count, done in enumerate(as_completed([pool.submit(start, run) for run in runs]), 1):
                done.result()
                if not console.is_terminal:
                    print(f"trained {count} of {len(runs)}", flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.terminate()
            pool.shutdown(wait=True)


def _end_with_parent() -> None:
    """Linux: have the kernel end this trainer when the one who waits for it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def _alone(key: str) -> Iterator[None]:
    """Hold the lock of one training; two of the same inputs would overwrite each other's files.

    Raises:
        TrainingError: the same training is running already.
    """
    path = SCRATCH / "locks" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"{path}: the same training is running already",
                remedy="wait for it; `fuser` on that file names its process",
            ) from error
        yield


def _run(
    run: Run, command: list[str], children: list[subprocess.Popen[str]], report: Callable[[float], None]
) -> None:
    """Run one trainer to its end; its ``update i/n`` lines move the bar."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        preexec_fn=_end_with_parent,
    )
    children.append(child)
    assert child.stdout is not None
    tail: deque[str] = deque(maxlen=LAST_LINES)
    for line in child.stdout:
        if line.startswith("update "):
            done, total = line.removeprefix("update ").split("/")
            report(int(done) / int(total))
        else:
            tail.append(line.rstrip())
    if child.wait() != 0:
        raise TrainingError(
            f"{run.name}: the trainer ended with code {child.returncode}\n" + "\n".join(tail),
            remedy="mend the cause and run `sekisho train` again: it goes on from the last checkpoint",
        )


def _summary(folder: Path) -> dict[str, Any]:
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        name: run[name] for name in ("validation_sharpe", "best_update", "updates", "samples", "onnx_sha256")
    }
