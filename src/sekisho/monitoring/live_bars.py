"""The live market's bars, kept to the contract: what served features and earnings are held against."""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.calendar import Calendar
from sekisho.data.panel import Panel, load_panel, partitions
from sekisho.data.store import write_partition
from sekisho.data.validate import BarEnds, judge, read_partition
from sekisho.errors import CannotCheck
from sekisho.features import compute_features, lookback
from sekisho.monitoring.profile import Profile, Scaler, profile_session
from sekisho.params import DataParams, FeatureParams

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LiveBars:
    """Bars of ``symbols`` in ``folder`` (raw contract); those that break the contract are left out, up to the
    share that it allows. Partitions named by a session are read only where that session is wanted.
    """

    folder: Path
    symbols: tuple[str, ...]
    features: FeatureParams
    data: DataParams

    @cached_property
    def calendar(self) -> Calendar:
        return Calendar(self.data.calendar, self.data.bar)

    @cached_property
    def _files(self) -> list[tuple[dt.date | None, Path]]:
        return [(_day(path), path) for path in partitions(self.folder)]

    def warm_up(self, session: dt.date) -> list[dt.date]:
        """``session`` after as many sessions as its features look back to."""
        need = -(-lookback(self.features) // len(self.calendar.closes(session))) + 1
        return self.calendar.sessions(session - dt.timedelta(days=2 * need + 12), session)[-need - 1 :]

    def key(self, session: dt.date) -> str:
        """Changes with the partitions (name, size, time of change) that the session's features rest on."""
        wanted = set(self.warm_up(session))
        found = [(path.name, path.stat()) for day, path in self._files if day is None or day in wanted]
        parts = [f"{name}:{about.st_size}:{about.st_mtime_ns}" for name, about in found]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def panel(self, sessions: Sequence[dt.date]) -> Panel:
        """The bars of ``sessions``.

        Raises:
            CannotCheck: a session or a symbol has no bars; too many rows of a partition break the contract.
            DataError: a partition that cannot be read or lacks a column.
        """
        ends, wanted, tables = BarEnds(self.calendar), set(sessions), []
        for day, path in self._files:
            if day is None or day in wanted:
                frame = read_partition(path)
                judged = judge(frame, str(path), ends, self.data)
                if len(judged.bad) > self.data.max_quarantine_share * len(frame):  # left out, they look calm
                    raise CannotCheck(
                        f"{path}: {len(judged.bad)} of {len(frame)} rows break the contract",
                        remedy=f"see `sekisho data check {path.parent}`",
                    )
                inside = pl.col("session").is_in(wanted) & pl.col("symbol").is_in(self.symbols)
                tables.append(judged.kept.filter(inside))
        table = pl.concat(tables) if tables else pl.DataFrame(schema={"symbol": pl.String})
        held = set(table["symbol"].unique())
        if lacking := [symbol for symbol in self.symbols if symbol not in held]:
            raise CannotCheck(
                f"{self.folder}: no bars of {lacking[0]} in {sessions[-1]}",
                remedy="bring the live market's bars up to date",
            )
        with tempfile.TemporaryDirectory(prefix="sekisho-bars-") as folder:
            write_partition(table, Path(folder) / "bars.parquet")
            return load_panel(Path(folder))

    def recomputed(self, session: dt.date) -> dict[np.datetime64, Float32]:
        """Features ``(A, F)`` of each bar end of the session with a whole past, by the code of training.

        Raises:
            CannotCheck, DataError: as ``panel``.
        """
        panel = self.panel(self.warm_up(session))
        table = compute_features(panel, self.features)
        rows = np.flatnonzero(panel.session == np.datetime64(session))
        if not len(rows):
            raise CannotCheck(
                f"{self.folder}: no bars of {session}", remedy="bring the live market's bars up to date"
            )
        return {panel.ts_close[row]: table[row] for row in rows if np.isfinite(table[row]).all()}


def profile_bar_returns(live: LiveBars, sessions: Sequence[dt.date], scaler: Scaler) -> list[Profile]:
    """Profiles of log(close / open), ``A`` × 1 series, of the given sessions: they show the level of
    volatility, which features hide. A missing bar did not move.

    Raises:
        CannotCheck: a session or a symbol has no bars; too many rows of a partition break the contract.
        DataError: a partition that cannot be read or lacks a column.
    """
    panel = live.panel(sessions)
    returns = np.log(panel.close / panel.open).astype(np.float32)[..., None]
    profiles = []
    for day in sessions:
        rows = panel.session == np.datetime64(day)
        if not rows.any():
            raise CannotCheck(
                f"{live.folder}: no bars of {day}", remedy="bring the live market's bars up to date"
            )
        profiles.append(profile_session(day, returns[rows], scaler))
    return profiles


def _day(path: Path) -> dt.date | None:
    """The session a partition is named by, None where its name is no date (it may hold any session)."""
    try:
        return dt.date.fromisoformat(path.stem)
    except ValueError:
        return None
