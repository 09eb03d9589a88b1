"""The prediction log: every decision on disk, in hash-chained Parquet batches, without making an answer wait.

``<folder>/<session>/<batch>.parquet``, batches numbered over all sessions by one writer. Each file's metadata
carry the link of the chain, a digest over the rows themselves (not over their Parquet encoding) and the link
before it; ``head.json`` names the last one, so that a missing end is noticed too.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import io
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.errors import CannotCheck, Refused

if TYPE_CHECKING:  # who only reads the log needs no model runtime
    from sekisho.serving.core import Decision
    from sekisho.serving.guard import Float32

logger = logging.getLogger(__name__)

COLUMNS: dict[str, pl.DataType] = {
    "prediction_id": pl.String(),
    "at": pl.Datetime("us", "UTC"),
    "session": pl.Date(),
    "ts_close": pl.Datetime("us", "UTC"),
    "model": pl.String(),
    "seq": pl.Int64(),
    "manifest_digest": pl.String(),
    "input_digest": pl.String(),  # sha256 hex of the row's float32 little-endian bytes
    "observation": pl.List(pl.Float32),  # A × (F+1), row-major
    "target_weights": pl.List(pl.Float32),
    "state": pl.List(pl.Float32),  # A × H that a recurrent policy decided from; empty without one
    "state_sequence": pl.Int64(),  # of the state that went out with the answer; 0 without one
    "verdict": pl.String(),
    "latency_us": pl.Int64(),
}
SCHEMA = pl.Schema(COLUMNS)
CHAIN, PREVIOUS, BATCH = "sekisho.chain", "sekisho.previous", "sekisho.batch"
GENESIS = "0" * 64
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
HEAD = "head.json"


class Entry(NamedTuple):
    """One answered request of ``N`` rows; row ``i`` is logged as ``<id>`` or, of several, ``<id>/<i>``."""

    request_id: str
    at: dt.datetime
    session: dt.date
    ts_close: dt.datetime
    model: str
    seq: int
    digest: str
    observation: Float32  # (N, A, F+1)
    decision: Decision
    latency_us: int


class PredictionLog:
    """A bounded queue in memory and one thread that writes it to ``folder``.

    ``append`` belongs to one thread (the event loop). Beyond ``capacity`` predictions in memory, new ones are
    counted in ``lost`` and dropped. What cannot be written (disk full) stays queued and is tried again.
    """

    def __init__(self, folder: Path, *, capacity: int, batch: int, interval: float) -> None:
        """Recover ``folder`` after whatever happened to its last writer, and start the writer thread.

        Args:
            capacity: predictions held in memory at most.
            batch: predictions in one file at most (a larger request is one file of its own).
            interval: seconds between writes at most.

        Raises:
            CannotCheck: another process writes there, or the last batch cannot be read.
        """
        self._folder, self._capacity, self._batch, self._interval = folder, capacity, batch, interval
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise CannotCheck(
                f"{folder}: another server writes its predictions there",
                remedy="give each server its own folder",
            ) from error
        for leftover in folder.glob("*/.*.tmp"):
            leftover.unlink()
        self._number, self._chain = _last_link(folder)
        self._entries: deque[Entry] = deque()
        # counters with one writer each, so that no lock is needed
        self._accepted = self._overflowed = 0  # the event loop's
        self._written = self._abandoned = 0  # the writer's
        self.failed_writes = 0
        self._up_to_date = time.monotonic()  # the last moment whose predictions are all on disk
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Predictions in memory, not on disk yet."""
        return self._accepted - self._written - self._abandoned

    @property
    def lag(self) -> float:
        """Seconds since a moment whose predictions are all on disk; 0 when nothing waits."""
        return time.monotonic() - self._up_to_date if self.queued else 0.0

    @property
    def written(self) -> int:
        """Predictions on disk."""
        return self._written

    @property
    def lost(self) -> int:
        """Predictions that will never be on disk: over capacity, or unwritable when the server stopped."""
        return self._overflowed + self._abandoned

    def append(self, entry: Entry) -> None:
        """Queue an entry; never blocks, never raises."""
        rows = len(entry.observation)
        if self.queued + rows > self._capacity:
            self._overflowed += rows
            return
        self._entries.append(entry)
        self._accepted += rows
        if self.queued >= self._batch:
            self._wake.set()

    def flush(self, timeout: float) -> bool:
        """Wait until all accepted so far is on disk; ``False`` if that took longer than ``timeout`` s."""
        wanted, deadline = self._accepted, time.monotonic() + timeout
        while self._written + self._abandoned < wanted and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.005)
        return self._written + self._abandoned >= wanted

    def close(self) -> None:
        """Write what is queued, count what cannot be written, and release the folder."""
        self._closing.set()
        self._wake.set()
        self._thread.join()
        self._lock.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self._interval)
            self._wake.clear()
            self._write_all()
        if not self._write_all():
            self._abandoned += sum(len(entry.observation) for entry in self._entries)
            self._entries.clear()
            logger.error("prediction log: %d predictions lost at the end", self._abandoned)

    def _write_all(self) -> bool:
        """Write what is queued now (not what comes meanwhile: few files); ``False`` if the disk refused."""
        until, now = self._accepted, time.monotonic()
        while self._written + self._abandoned < until and self._entries:
            taken = self._take()
            try:
                self._publish(taken)
            except Exception as error:  # whatever it is, the thread must live on and the loss be bounded
                self._entries.extendleft(reversed(taken))
                self.failed_writes += 1
                logger.exception("prediction log: cannot write (%s); %d predictions wait", error, self.queued)
                if not self._closing.is_set():
                    self._closing.wait(self._interval)
                return False
            self._written += sum(len(entry.observation) for entry in taken)
        self._up_to_date = now
        return True

    def _take(self) -> list[Entry]:
        """The oldest entries of one session and one release, up to a batch."""
        first = self._entries.popleft()
        taken, rows = [first], len(first.observation)
        while self._entries:
            entry = self._entries[0]
            rows += len(entry.observation)
            if rows > self._batch or (entry.session, entry.seq) != (first.session, first.seq):
                break
            taken.append(self._entries.popleft())
        return taken

    def _publish(self, entries: list[Entry]) -> None:
        frame, number = _frame(entries), self._number + 1
        session = entries[0].session
        chain = _link(self._chain, number, session, frame)
        folder = self._folder / session.isoformat()
        folder.mkdir(exist_ok=True)
        final, temporary = folder / f"{number:012d}.parquet", folder / f".{number:012d}.tmp"
        links = {CHAIN: chain, PREVIOUS: self._chain, BATCH: str(number)}
        encoded = io.BytesIO()  # polars reports a full disk as a fault of the format; Python names it
        frame.write_parquet(encoded, metadata=links)
        with temporary.open("wb") as file:
            file.write(encoded.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(final)
        _sync_folder(folder)
        # only now is the batch part of the log; a crash before the next line leaves the head one behind
        self._number, self._chain = number, chain
        _write_head(self._folder, number, chain)


def read_predictions(folder: Path, sessions: Iterable[dt.date] | None = None) -> pl.DataFrame:
    """Logged predictions of ``sessions`` (of all, when ``None``) in the order they were written.

    Columns: ``SCHEMA``. A session without predictions gives no rows. Does not check the chain.
    """
    wanted = None if sessions is None else {day.isoformat() for day in sessions}
    files = [path for path in batches(folder) if wanted is None or path.parent.name in wanted]
    if not files:
        return pl.DataFrame(schema=SCHEMA)
    return pl.concat([pl.read_parquet(path) for path in files])


@dataclass(frozen=True)
class ChainSummary:
    """A log whose chain is whole."""

    batches: int
    predictions: int
    head: str


def verify_chain(folder: Path, after: ChainSummary | None = None) -> ChainSummary:
    """Recompute the chain, from ``after`` on where its batches are known to be as they were verified.

    Raises:
        Refused: a batch was edited, removed, added or moved; names the file.
        CannotCheck: no such folder.
    """
    if not folder.is_dir():
        raise CannotCheck(f"{folder}: no such folder", remedy="name the folder given to `sekisho serve`")
    known, files = after or ChainSummary(0, 0, GENESIS), batches(folder)
    chain, rows = known.head, known.predictions
    for number, path in enumerate(files[known.batches :], start=known.batches + 1):
        if path.stem != f"{number:012d}":
            raise _broken(folder, f"batch {number:012d}", f"{path.relative_to(folder)}")
        try:
            frame, links = pl.read_parquet(path), pl.read_parquet_metadata(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _broken(folder, f"a readable {path.relative_to(folder)}", error) from error
        if frame.schema != SCHEMA or (links.get(PREVIOUS), links.get(BATCH)) != (chain, str(number)):
            raise _broken(folder, f"{path.relative_to(folder)} to follow {chain[:12]}", links)
        session = dt.date.fromisoformat(path.parent.name)
        chain = _link(chain, number, session, frame)
        if links.get(CHAIN) != chain or not (frame["session"] == session).all():
            raise _broken(folder, f"the rows of {path.relative_to(folder)} as written", "other rows")
        rows += len(frame)
    _check_head(folder, files, chain)
    return ChainSummary(len(files), rows, chain)


def _check_head(folder: Path, files: Sequence[Path], chain: str) -> None:
    """The head must name the log's end."""
    if not (folder / HEAD).exists() and not files:
        return
    try:
        found = _read_head(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(folder, f"a readable {HEAD}", error) from error
    if found == (len(files), chain):
        return
    previous = pl.read_parquet_metadata(files[-1])[PREVIOUS] if files else GENESIS
    if not _is_end(found, len(files), chain, previous):
        raise _broken(folder, f"batch {found[0]:012d}, which {HEAD} names", f"{len(files)} batches")


def _broken(folder: Path, expected: object, found: object) -> Refused:
    return Refused(
        "prediction-log-chain",
        expected=expected,
        found=found,
        remedy=f"treat {folder} as evidence: do not judge drift or performance from it",
    )


def _frame(entries: Sequence[Entry]) -> pl.DataFrame:
    """One row per prediction, columns of ``SCHEMA``; the entries are of one session and one release.

    Whole arrays wherever possible: what Python does here for each row, an answer may have to wait for.
    """
    first, sizes = entries[0], [len(entry.observation) for entry in entries]

    def stacked(values: Iterable[Float32]) -> pl.Series:
        rows = np.concatenate([v.reshape(n, -1) for v, n in zip(values, sizes, strict=True)])
        return pl.Series(rows, dtype=pl.Array(pl.Float32, rows.shape[1]))

    def repeated(values: Iterable[int]) -> npt.NDArray[np.int64]:
        return np.repeat(np.fromiter(values, np.int64, len(sizes)), sizes)

    observations = stacked(entry.observation for entry in entries)
    states = [entry.decision.state for entry in entries]
    columns: dict[str, Any] = {
        "prediction_id": [
            entry.request_id if n == 1 else f"{entry.request_id}/{row}"
            for entry, n in zip(entries, sizes, strict=True)
            for row in range(n)
        ],
        "at": repeated(_microseconds(entry.at) for entry in entries),
        "session": pl.repeat(first.session, sum(sizes), eager=True),
        "ts_close": repeated(_microseconds(entry.ts_close) for entry in entries),
        "model": pl.repeat(first.model, sum(sizes), eager=True),
        "seq": pl.repeat(first.seq, sum(sizes), eager=True),
        "manifest_digest": pl.repeat(first.digest, sum(sizes), eager=True),
        "input_digest": [input_digest(row) for row in observations.to_numpy()],
        "observation": observations,
        "target_weights": stacked(entry.decision.target_weights for entry in entries),
        "state": pl.Series([[]], dtype=SCHEMA["state"]).new_from_index(0, sum(sizes))
        if first.decision.state is None
        else stacked(state for state in states if state is not None),
        "state_sequence": repeated(entry.decision.sequence for entry in entries),
        "verdict": [verdict.value for entry in entries for verdict in entry.decision.verdicts],
        "latency_us": repeated(entry.latency_us for entry in entries),
    }
    return pl.DataFrame(columns).cast(SCHEMA)


def _microseconds(moment: dt.datetime) -> int:
    """Since 1970, exactly."""
    since = moment - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def input_digest(row: Float32) -> str:
    """sha256 hex of one observation's float32 little-endian bytes, row-major."""
    return hashlib.sha256(np.ascontiguousarray(row, dtype="<f4").tobytes()).hexdigest()


def _link(previous: str, number: int, session: dt.date, frame: pl.DataFrame) -> str:
    """The chain's next link: previous link, place, and every value of the batch in a fixed byte form."""
    digest = hashlib.sha256(
        f"sekisho-predictions-2\n{previous}\n{number}\n{session}\n{len(frame)}\n".encode()
    )
    for name, dtype in SCHEMA.items():
        column = frame[name]
        digest.update(name.encode() + b"\n")
        if dtype == pl.String:
            digest.update(json.dumps(column.to_list(), ensure_ascii=True).encode())
        elif isinstance(dtype, pl.List):
            digest.update(column.list.len().to_numpy().astype("<u4").tobytes())
            values = column.explode(empty_as_null=False).to_numpy()
            digest.update(values.astype("<f4").tobytes())
        else:
            digest.update(column.to_physical().to_numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def batches(folder: Path) -> list[Path]:
    """Files of one log, in the order they were written."""
    return sorted(folder.glob("*/*.parquet"), key=lambda path: path.name)


def _last_link(folder: Path) -> tuple[int, str]:
    """Number and link of the newest batch, to go on from; a head that names another end is not gone over."""
    files, number, chain, previous = batches(folder), 0, GENESIS, GENESIS
    if not files and not (folder / HEAD).exists():
        _write_head(folder, 0, GENESIS)  # before any batch: a head that is missing was taken away
    try:
        if files:
            links = pl.read_parquet_metadata(files[-1])
            number, chain, previous = int(links[BATCH]), links[CHAIN], links[PREVIOUS]
        head = _read_head(folder)
        if not _is_end(head, number, chain, previous):
            raise ValueError(f"{HEAD} names batch {head[0]}, the newest is {number}")
    except (pl.exceptions.PolarsError, OSError, KeyError, TypeError, ValueError) as error:
        raise CannotCheck(
            f"{files[-1] if files else folder}: {error!r}",
            remedy="move the folder away and keep it; serve into an empty one",
        ) from error
    return number, chain


def _is_end(head: tuple[int, str], number: int, chain: str, previous: str) -> bool:
    """Whether a head names the last batch, or the one before it: a crash between the two writes."""
    return head in ((number, chain), (number - 1, previous))


def _read_head(folder: Path) -> tuple[int, str]:
    head = json.loads((folder / HEAD).read_text(encoding="utf-8"))
    return int(head["batch"]), str(head["chain"])


def _write_head(folder: Path, number: int, chain: str) -> None:
    temporary = folder / f".{HEAD}.tmp"
    temporary.write_text(json.dumps({"batch": number, "chain": chain}) + "\n", encoding="utf-8")
    temporary.replace(folder / HEAD)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
