"""Runs one trainer per walk-forward fold and seed, each in its own process, and publishes them together."""

from __future__ import annotations

import ctypes
import datetime as dt
import fcntl
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
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
from sekisho.errors import Interrupted, TrainingError
from sekisho.objects import Objects
from sekisho.params import Params

SCRATCH = Path(".sekisho")  # finished runs and checkpoints of an interrupted training wait here
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
LAST_LINES = 15  # of a failed trainer's output that are shown
PACKAGE = Path(__file__).parent


def run_name(fold: int, seed: int) -> str:
    return f"fold-{fold}/seed-{seed}"


@dataclass(frozen=True)
class Run:
    """One trainer process."""

    fold: int
    seed: int

    @property
    def name(self) -> str:
        return run_name(self.fold, self.seed)


class Finished:
    """Published folders of finished runs in a store, each one object: whole or not there.

    Args:
        store: a folder or ``s3://…``.
        key: `run_key`'s; runs of other ``ranks`` differ in the last bits, and lie elsewhere.
    """

    def __init__(self, store: str, key: str, ranks: int) -> None:
        self.objects = Objects.below(store, f"runs/{derived_key(key, ranks=ranks)}")

    def put(self, name: str, folder: Path) -> None:
        """
        Raises:
            DataError: the store cannot take it.
        """
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path in sorted(folder.iterdir()):
                entry = tarfile.TarInfo(path.name)  # no owner, no time: equal files give equal bytes
                entry.size = path.stat().st_size
                archive.addfile(entry, io.BytesIO(path.read_bytes()))
        content = buffer.getvalue()
        self.objects.put(f"{_flat(name)}-{hashlib.sha256(content).hexdigest()}.tar", content)

    def has(self, name: str) -> bool:
        return self._get(name) is not None

    def unpack(self, name: str, folder: Path) -> None:
        """
        Raises:
            TrainingError: there is no such run.
            DataError: the store cannot be read.
        """
        content = self._get(name)
        if content is None:
            raise TrainingError(
                f"{self.objects.address}: {name} is not there", remedy="run `sekisho train` again"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for entry in archive:  # extractall has no filter before Python 3.11.4; names lead nowhere else
                file = archive.extractfile(entry)
                if file is not None:
                    (folder / Path(entry.name).name).write_bytes(file.read())

    def clear(self) -> None:
        for name in self.objects.names():
            self.objects.remove(name)

    def _get(self, name: str) -> bytes | None:
        for found in self.objects.names():
            if not found.startswith(f"{_flat(name)}-"):
                continue
            content = self.objects.get(found)
            if content and found.endswith(f"-{hashlib.sha256(content).hexdigest()}.tar"):
                return content
            print(f"{self.objects.address}/{found} is damaged and left out", file=sys.stderr, flush=True)
        return None


def _flat(name: str) -> str:
    return name.replace("/", ".")


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


def run_key(bars: Path, features: Path, params: Params, trainer: Path) -> str:
    """Digest (hex) of everything that determines the results of all folds and seeds: data, parameters, code,
    and torch's version, whose arithmetic may differ from the next one's in the last bit.

    The same key, fold, seed and number of ranks mean the same model, byte for byte: an interrupted run with
    this key may be gone on with. With another number of ranks, it may differ in the order of sums.
    """
    digest = hashlib.sha256()
    for section in (params.features, params.market, params.split, getattr(params, trainer.stem)):
        digest.update(section.model_dump_json().encode())
    loop = {"evaluate_every", "patience", "device", "resident_sessions", "block_updates"}
    digest.update(params.train.model_dump_json(include=loop).encode())
    digest.update(version("torch").encode())
    code = [PACKAGE / "checkpoints.py", PACKAGE / "trainer.py"]
    code += [PACKAGE / "backtest/splits.py", PACKAGE / "data/panel.py"]
    code += [*PACKAGE.glob("features/*.py"), *PACKAGE.glob("market/*.py")]
    for path in (trainer, *sorted(code), *partitions(bars), *partitions(features)):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def derived_key(key: str, **choices: Any) -> str:
    """Of one choice among those that share a `run_key`."""
    return hashlib.sha256((key + json.dumps(choices, sort_keys=True)).encode()).hexdigest()


def train(
    params: Params,
    *,
    bars: Path,
    features: Path,
    out: Path,
    metrics: Path,
    source: Path = Path("params.yaml"),
    trainers: Path = Path("training"),
    store: str = str(SCRATCH),
) -> dict[str, Any]:
    """Train every fold × seed, ``train.processes`` at once; publish ``out`` and ``metrics`` together.

    Runs that lie finished in ``store`` (a folder or ``s3://…``) are taken over, an unfinished one goes on
    from its checkpoint there. A store of one's own keeps the finished runs, the default one does not.
    Returns the metrics: per run validation Sharpe ratio, updates and ONNX digest.

    Raises:
        BacktestError: the history is too short for the folds.
        TrainingError: a trainer failed (its last lines are in the message), there is no such trainer, or a
            symbol is listed after a training window.
        DataError: the disk is full or the store cannot be reached; nothing was published.
        Interrupted: SIGTERM came; the trainers have saved what they had.
    """
    runs, key, command = _planned(params, bars, features, source, trainers, store)
    finished = Finished(store, key, params.train.ranks)
    with _alone(key):
        _run_all(runs, params.train.processes, finished, command)
        with replaced(out) as (fresh,):
            for run in runs:
                finished.unpack(run.name, fresh / run.name)
            result = {"runs": {run.name: _summary(fresh / run.name) for run in runs}}
            metrics.parent.mkdir(parents=True, exist_ok=True)
            temporary = metrics.with_name(f".{metrics.name}.new")
            temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        temporary.replace(metrics)
        if store == str(SCRATCH):
            finished.clear()
        return result


def train_one(
    params: Params,
    name: str,
    *,
    bars: Path,
    features: Path,
    source: Path = Path("params.yaml"),
    trainers: Path = Path("training"),
    store: str = str(SCRATCH),
) -> None:
    """Train the run ``name`` (``fold-0/seed-1``) and leave it finished in ``store``, for `train` to take.

    Raises:
        as `train`; TrainingError also where there is no such run.
    """
    runs, key, command = _planned(params, bars, features, source, trainers, store)
    chosen = [run for run in runs if run.name == name]
    if not chosen:
        raise TrainingError(
            f"there is no run {name}", remedy=f"choose one of {', '.join(run.name for run in runs)}"
        )
    with _alone(derived_key(key, run=name)):
        _run_all(chosen, 1, Finished(store, key, params.train.ranks), command)


def _planned(
    params: Params, bars: Path, features: Path, source: Path, trainers: Path, store: str
) -> tuple[list[Run], str, list[str]]:
    """The runs, their key, and the command of a trainer without fold and seed."""
    trainer = trainers / f"{params.train.trainer}.py"
    if not trainer.is_file():
        raise TrainingError(f"{trainer}: no such trainer", remedy="run from the repository's root")
    folds = walk_forward(sessions_of(bars), params.split)
    require_listed(bars, folds)
    runs = [Run(fold.index, seed) for fold in folds for seed in params.train.seeds]
    places = ["--bars", str(bars), "--features", str(features), "--params", str(source), "--store", store]
    return runs, run_key(bars, features, params, trainer), [sys.executable, str(trainer), *places]


def _run_all(runs: list[Run], processes: int, finished: Finished, trainer: list[str]) -> None:
    """Run what is not finished yet, ``processes`` at once; one progress bar, or in the end one line, each."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    console = Console(stderr=True)
    progress = Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal)
    pool, trainers = ThreadPoolExecutor(processes), _Trainers()
    with progress as bar, trainers.passing_on_sigterm():

        def start(run: Run) -> None:
            task = bar.add_task(run.name, total=1.0)
            if not finished.has(run.name):
                chosen = ["--fold", str(run.fold), "--seed", str(run.seed)]
                trainers.run(run, [*trainer, *chosen], lambda share: bar.update(task, completed=share))
            bar.update(task, completed=1.0)

        try:
            for count, done in enumerate(as_completed([pool.submit(start, run) for run in runs]), 1):
                done.result()
                if not console.is_terminal:
                    print(f"trained {count} of {len(runs)}", flush=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            trainers.end()
            pool.shutdown(wait=True)


def end_with_parent() -> None:
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


class _Trainers:
    """Trainer processes, which are told to end together."""

    def __init__(self) -> None:
        self.children: list[subprocess.Popen[str]] = []
        self.told = threading.Event()

    @contextmanager
    def passing_on_sigterm(self) -> Iterator[None]:
        """Python lets the main thread alone set a handler: elsewhere SIGTERM is its owner's affair."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, lambda *_: self.end())
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def end(self) -> None:
        """Once: a second SIGTERM would keep torchrun from waiting for its ranks."""
        if not self.told.is_set():
            self.told.set()
            for child in self.children:
                child.terminate()

    def run(self, run: Run, command: list[str], report: Callable[[float], None]) -> None:
        """Run one trainer to its end; its ``update i/n`` lines move the bar.

        Raises:
            TrainingError: it failed.
            Interrupted: it was told to end, or was killed.
        """
        interrupted = Interrupted(
            f"{run.name}: told to end, what was done is saved", remedy="run `sekisho train` again: it goes on"
        )
        if self.told.is_set():
            raise interrupted
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=end_with_parent,
        )
        self.children.append(child)
        if self.told.is_set():
            child.terminate()
        assert child.stdout is not None
        tail: deque[str] = deque(maxlen=LAST_LINES)
        for line in child.stdout:
            if line.startswith("update "):
                done, total = line.removeprefix("update ").split("/")
                report(int(done) / int(total))
            else:
                tail.append(line.rstrip())
        code = child.wait()
        if self.told.is_set() and code in (Interrupted.exit_code, -signal.SIGTERM):
            raise interrupted
        if code == Interrupted.exit_code:
            raise Interrupted(
                f"{run.name}: a process of it was lost or told to end, or the store did not answer\n"
                + "\n".join(tail),
                remedy="run `sekisho train` again: it goes on from the last checkpoint; lost time and again, "
                "it lacks memory: see train.resident_sessions and train.ranks",
            )
        if code < 0:
            raise Interrupted(
                f"{run.name}: the trainer was killed by {signal.Signals(-code).name}\n" + "\n".join(tail),
                remedy="run `sekisho train` again: it goes on from the last checkpoint; killed time and "
                "again, it lacks memory: see train.resident_sessions and train.processes",
            )
        if code != 0:
            raise TrainingError(
                f"{run.name}: the trainer ended with code {code}\n" + "\n".join(tail),
                remedy="mend the cause and run `sekisho train` again: it goes on from the last checkpoint",
            )


def _summary(folder: Path) -> dict[str, Any]:
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        name: run[name] for name in ("validation_sharpe", "best_update", "updates", "samples", "onnx_sha256")
    }
