"""Reading the prediction log: one session at a time, and whether it can be believed.

Layout: see ``serving.predictions``, which writes it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.errors import CannotCheck
from sekisho.serving.guard import Reason
from sekisho.serving.predictions import SCHEMA

ANSWERED = (Reason.OK, Reason.CLIPPED)  # guard verdicts under which the agent's own weights went out
MISTIMED = (Reason.STALE, Reason.FROM_FUTURE)  # the row's session is what its caller said, not when it came
UNWRITTEN = "name a folder of predictions that `sekisho serve --predictions` wrote"


@dataclass(frozen=True)
class SessionLog:
    """Predictions of one release in one session: ``rows`` as logged, and what is wrong with them."""

    session: dt.date
    rows: pl.DataFrame
    problems: tuple[str, ...]

    def observations(self, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """``(N, A, F + 1)`` for ``shape`` (A, F): features, then the asset's current weight."""
        return _numbers(self.rows["observation"]).reshape(-1, shape[0], shape[1] + 1)

    def states(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """``(N, A, H)`` for ``shape`` (A, H): the states that a recurrent policy decided from."""
        return _numbers(self.rows["state"]).reshape(-1, *shape)

    def targets(self, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
        """``(N, A)`` target weights as answered."""
        return _numbers(self.rows["target_weights"]).reshape(-1, shape[0])


def session_folders(predictions: Path) -> list[tuple[dt.date, list[Path]]]:
    """Sessions in time order with their batch files.

    Raises:
        CannotCheck: no such folder, no session in it, a session without batches, a folder not named by a
            date.
    """
    if not predictions.is_dir():
        raise CannotCheck(f"{predictions}: no such folder", remedy=UNWRITTEN)
    found = []
    for folder in sorted(p for p in predictions.iterdir() if p.is_dir() and not p.name.startswith(".")):
        try:
            session = dt.date.fromisoformat(folder.name)
        except ValueError as error:
            raise CannotCheck(
                f"{folder}: not named by a session (YYYY-MM-DD)", remedy="move it away"
            ) from error
        files = sorted(folder.glob("*.parquet"))
        if not files:
            raise CannotCheck(
                f"{folder}: no batch of predictions", remedy="restore the session from the archive"
            )
        found.append((session, files))
    if not found:
        raise CannotCheck(f"{predictions}: no predictions", remedy=UNWRITTEN)
    return found


def read_session(
    session: dt.date,
    files: list[Path],
    model: str,
    seq: int,
    manifest_digest: str,
    shape: tuple[int, int],
    closes: npt.NDArray[np.datetime64],
) -> SessionLog:
    """Read one session's batches and check the rows of release ``model``/``seq``; ``shape`` is (A, F),
    ``closes`` are the session's bar ends, UTC.

    Rows of other releases are left out. Problems are collected, never repaired.

    Raises:
        CannotCheck: a file that is not whole or has not the columns of the log; names file and column.
    """
    everything = pl.concat([read_batch(path) for path in files])  # names of batches sort by time
    rows = everything.filter((pl.col("model") == model) & (pl.col("seq") == seq))
    return SessionLog(
        session, rows, tuple(_problems(session, everything, rows, manifest_digest, shape, closes))
    )


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
    everything: pl.DataFrame,
    rows: pl.DataFrame,
    digest: str,
    shape: tuple[int, int],
    closes: npt.NDArray[np.datetime64],
) -> Iterator[str]:
    assets, features = shape
    # what the guard refused (a late retry, a NaN) is its verdict, counted as such, and no fault of the log
    answered = everything.filter(pl.col("verdict").is_in(ANSWERED))
    if (everything["session"] != session).any():
        yield "rows of another session lie in its folder"
    if everything.null_count().sum_horizontal().item():
        yield "a value is missing (null)"
    if twice := len(answered) - answered["prediction_id"].n_unique():
        yield f"{twice} prediction ids occur twice"
    if foreign := rows.filter(pl.col("manifest_digest") != digest)["manifest_digest"].unique().to_list():
        yield f"predictions by manifest {foreign[0][:12]}…, the release is {digest[:12]}…"
    if (rows["observation"].list.len() != assets * (features + 1)).any():
        found = sorted(rows["observation"].list.len().unique().to_list())
        wanted = assets * (features + 1)
        yield f"observations of {found} numbers, the release takes {wanted}: a feature is missing or extra"
    elif (rows["target_weights"].list.len() != assets).any():
        yield "target weights that do not match the release's symbols"
    elif not np.isfinite(_numbers(rows.filter(pl.col("verdict").is_in(ANSWERED))["observation"])).all():
        yield "an observation holds NaN or infinity"
    elif not np.isfinite(_numbers(rows["target_weights"])).all():
        yield "a target weight is NaN or infinite"
    steps = answered["ts_close"].diff().drop_nulls()
    if (steps < dt.timedelta()).any():
        yield "rows are out of order: ts_close goes back"
    times = answered["ts_close"].drop_nulls().dt.replace_time_zone(None).to_numpy()
    if wrong := int((~np.isin(times, closes)).sum()):
        yield f"{wrong} predictions at times that are not bar ends of this session: whose clock is wrong?"


def _numbers(column: pl.Series) -> npt.NDArray[np.float32]:
    return np.asarray(column.explode(empty_as_null=False).to_numpy(), dtype=np.float32)
