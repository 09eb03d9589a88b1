"""Reading the prediction log: one session at a time, and whether it can be believed.

What is read is one server's folder (layout: ``serving.predictions``, which writes it) or a folder of several,
one for each pod: ``<pod>/<session>/<batch>.parquet`` with ``<pod>/head.json``. Each is a chain of its own; a
session's rows are those of all of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.errors import CannotCheck
from sekisho.serving.guard import Reason
from sekisho.serving.predictions import HEAD, SCHEMA

ANSWERED = (Reason.OK, Reason.CLIPPED)  # guard verdicts under which the agent's own weights went out
MISTIMED = (Reason.STALE, Reason.FROM_FUTURE)  # the row's session is what its caller said, not when it came
UNWRITTEN = "name a folder of predictions that `sekisho serve --predictions` wrote"
CLOCK_STEP = dt.timedelta(seconds=1)  # that a server's clock may be set back while it serves
LOG = "log"  # column: which of the logs a row is from


@dataclass(frozen=True)
class SessionLog:
    """Predictions of one release in one session: ``rows`` as logged, by the time they came; what is wrong
    with them; whether any came in the session's own ``hours``; how many rows other releases answered.
    """

    session: dt.date
    rows: pl.DataFrame
    problems: tuple[str, ...]
    hours: bool = True
    others: int = 0

    def usable(self, shape: tuple[int, int]) -> SessionLog:
        """Without the rows that cannot be computed with."""
        assets, features = shape
        whole = (
            self.rows.drop_nulls()
            .filter(pl.col("session") == self.session)
            .filter(pl.col("observation").list.len() == assets * (features + 1))
            .filter(pl.col("target_weights").list.len() == assets)
        )
        if len(whole):
            finite = np.isfinite(_numbers(whole["target_weights"]).reshape(-1, assets)).all(axis=1)
            whole = whole.filter(pl.Series(finite))
        return replace(self, rows=whole)

    def first_answers(self) -> npt.NDArray[np.bool_]:
        """``(N,)``: False where a request was answered already; a caller that does not hear an answer in time
        asks again with the same id and observation.
        """
        answered = pl.col("verdict").is_in(ANSWERED)
        first = pl.struct("prediction_id", answered.alias("answered")).is_first_distinct()
        found: npt.NDArray[np.bool_] = self.rows.select(first | ~answered).to_series().to_numpy()
        return found

    def observations(self, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """``(N, A, F + 1)`` for ``shape`` (A, F): features, then the asset's current weight."""
        return _numbers(self.rows["observation"]).reshape(-1, shape[0], shape[1] + 1)

    def states(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """``(N, A, H)`` for ``shape`` (A, H): the states that a recurrent policy decided from."""
        return _numbers(self.rows["state"]).reshape(-1, *shape)

    def targets(self, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """``(N, A)`` target weights as answered."""
        return _numbers(self.rows["target_weights"]).reshape(-1, shape[0])


@dataclass(frozen=True)
class Logs:
    """``folders``: one for each server; ``sessions``: batch files of each session, log by log in the order
    they were written; ``problems``: what lies there and is no log.
    """

    folders: tuple[Path, ...]
    sessions: dict[dt.date, list[Path]]
    problems: tuple[str, ...]


def find_logs(predictions: Path) -> Logs:
    """What is in the folder, one server's or several servers'.

    Raises:
        CannotCheck: no such folder, or no session in it.
    """
    if not predictions.is_dir():
        raise CannotCheck(f"{predictions}: no such folder", remedy=UNWRITTEN)
    inside = [p for p in sorted(predictions.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    folders, problems = [], []
    if (predictions / HEAD).exists() or any(_session(p) for p in inside):
        folders.append(predictions)
    for folder in inside:
        if not _session(folder):
            if (folder / HEAD).exists() or any(p.is_dir() and _session(p) for p in folder.iterdir()):
                folders.append(folder)
            else:
                problems.append(f"{folder}: neither a session (YYYY-MM-DD) nor the log of a server")
    sessions: dict[dt.date, list[Path]] = {}
    for log in folders:
        for folder in sorted(p for p in log.iterdir() if p.is_dir() and _session(p)):
            files = sorted(folder.glob("*.parquet"))
            if not files:
                problems.append(f"{folder}: no batch of predictions")
            sessions.setdefault(dt.date.fromisoformat(folder.name), []).extend(files)
        if log != predictions:
            foreign = [
                p for p in log.iterdir() if p.is_dir() and not p.name.startswith(".") and not _session(p)
            ]
            problems += [f"{folder}: not named by a session (YYYY-MM-DD)" for folder in foreign]
    if not sessions:
        raise CannotCheck(problems[0] if problems else f"{predictions}: no predictions", remedy=UNWRITTEN)
    return Logs(tuple(folders), dict(sorted(sessions.items())), tuple(problems))


def _session(folder: Path) -> bool:
    try:
        dt.date.fromisoformat(folder.name)
    except ValueError:
        return False
    return True


def read_session(
    session: dt.date,
    files: Sequence[Path],
    model: str,
    seq: int,
    manifest_digest: str,
    shape: tuple[int, int],
    closes: npt.NDArray[np.datetime64],
) -> SessionLog:
    """Read one session's batches and check the rows of release ``model``/``seq``; ``shape`` is (A, F),
    ``closes`` are the session's bar ends, UTC.

    Rows of other releases are left out. Problems are collected, never repaired; a file that cannot be read is
    one, and the others are read.
    """
    frames, problems = [], []
    for path in files:
        try:
            frames.append(read_batch(path).with_columns(pl.lit(str(path.parent.parent)).alias(LOG)))
        except CannotCheck as error:
            problems.append(error.message)
    if not frames:
        return SessionLog(session, pl.DataFrame(schema=SCHEMA), tuple(problems))
    everything = pl.concat(frames)
    own = (pl.col("model") == model) & (pl.col("seq") == seq)
    rows = everything.filter(own)
    if everything.null_count().sum_horizontal().item():
        problems.append("a value is missing (null)")
    problems += _problems(session, rows, manifest_digest, shape, closes)
    others = everything.filter(~own & pl.col("verdict").is_in(ANSWERED))
    return SessionLog(
        session, rows.sort("at", maintain_order=True), tuple(problems), _inside(rows, closes), len(others)
    )


def _inside(rows: pl.DataFrame, closes: npt.NDArray[np.datetime64]) -> bool:
    """Whether any of the rows came while the exchange was open, or within a bar before and after."""
    if len(closes) < 2:
        return False
    bar, came = closes[1] - closes[0], rows["at"].drop_nulls().dt.replace_time_zone(None).to_numpy()
    return bool(((came >= closes[0] - bar) & (came <= closes[-1] + bar)).any())


def read_batch(path: Path) -> pl.DataFrame:
    """One file of the log, in the order it was logged.

    Raises:
        CannotCheck: truncated, empty or no Parquet; a column missing or of another type.
    """
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CannotCheck(
            f"{path}: not a whole Parquet file ({reason})", remedy="restore it from the archive, or remove it"
        ) from error
    for name, kind in SCHEMA.items():
        if name not in frame.columns:
            raise CannotCheck(f"{path}: column {name} is missing", remedy="find out what wrote this file")
        if frame[name].dtype != kind:
            raise CannotCheck(
                f"{path}: column {name} is {frame[name].dtype}, expected {kind}",
                remedy="find out what wrote this file",
            )
    if frame.is_empty():
        raise CannotCheck(f"{path}: no rows", remedy="restore it from the archive, or remove it")
    return frame.select(list(SCHEMA))


def _problems(
    session: dt.date,
    rows: pl.DataFrame,
    digest: str,
    shape: tuple[int, int],
    closes: npt.NDArray[np.datetime64],
) -> Iterator[str]:
    """What is wrong with one release's rows, log by log in the order they were logged."""
    assets, features = shape
    # what the guard refused (a late retry, a NaN) is its verdict, counted as such, and no fault of the log
    answered = rows.filter(pl.col("verdict").is_in(ANSWERED))
    if (rows["session"] != session).any():
        yield "rows of another session lie in its folder"
    if twice := len(answered) - answered.select("prediction_id", "at").n_unique():
        yield f"{twice} predictions occur twice: same id, same time"
    by_id = answered.group_by("prediction_id").agg(pl.col("input_digest").n_unique())
    if reused := int((by_id["input_digest"] > 1).sum()):
        yield f"{reused} prediction ids stand for different observations"
    if foreign := rows.filter(pl.col("manifest_digest") != digest)["manifest_digest"].unique().to_list():
        yield f"predictions by manifest {foreign[0][:12]}…, the release is {digest[:12]}…"
    if (rows["observation"].list.len() != assets * (features + 1)).any():
        found = sorted(rows["observation"].list.len().drop_nulls().unique().to_list())
        wanted = assets * (features + 1)
        yield f"observations of {found} numbers, the release takes {wanted}: a feature is missing or extra"
    elif (rows["target_weights"].list.len() != assets).any():
        yield "target weights that do not match the release's symbols"
    elif not np.isfinite(_numbers(answered["observation"])).all():
        yield "an observation holds NaN or infinity"
    elif not np.isfinite(_numbers(rows["target_weights"])).all():
        yield "a target weight is NaN or infinite"
    steps = rows.select(pl.col("at").diff().over(LOG))["at"].drop_nulls()
    if (steps < -CLOCK_STEP).any():
        yield "rows are out of order: the time of answering goes back"
    times = answered["ts_close"].drop_nulls().dt.replace_time_zone(None).to_numpy()
    if wrong := int((~np.isin(times, closes)).sum()):
        yield f"{wrong} predictions at times that are not bar ends of this session: whose clock is wrong?"


def _numbers(column: pl.Series) -> npt.NDArray[np.float32]:
    return np.asarray(column.explode(empty_as_null=False).to_numpy(), dtype=np.float32)
