"""The live market's bars, kept to the contract: what served features and earnings are held against."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.calendar import Calendar
from sekisho.data.panel import Panel, load_panel, partitions
from sekisho.data.store import write_partition
from sekisho.data.validate import BarEnds, judge, read_partition
from sekisho.errors import CannotCheck, SekishoError
from sekisho.features import compute_features, lookback
from sekisho.params import DataParams, FeatureParams

Float32 = npt.NDArray[np.float32]
HELD = 16  # partitions in memory: more than features look back to, far fewer than a year's


@dataclass(frozen=True)
class SessionBars:
    """Bars of one session: ``features`` ``(A, F)`` of each bar end, NaN where the past is too short;
    ``returns`` ``(N, A, 1)``: log(close / open), which shows the level of volatility that features hide (a
    missing bar did not move); ``constant``: symbols whose close never moved.
    """

    features: dict[np.datetime64, Float32]
    returns: Float32
    constant: tuple[str, ...]


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

    def files(self, session: dt.date) -> list[Path]:
        """Partitions that the session's features rest on."""
        wanted = set(self.warm_up(session))
        return [path for day, path in self._files if day is None or day in wanted]

    @cached_property
    def _kept(self) -> Callable[[Path], pl.DataFrame]:
        """The rows of a partition that keep the contract; the last ones stay in memory, for the sessions
        whose features look back to them.

        Raises: as ``panel``.
        """
        ends = BarEnds(self.calendar)

        @lru_cache(maxsize=HELD)
        def kept(path: Path) -> pl.DataFrame:
            frame = read_partition(path)
            judged = judge(frame, str(path), ends, self.data)
            if len(judged.bad) > self.data.max_quarantine_share * len(frame):  # left out, they look calm
                raise CannotCheck(
                    f"{path}: {len(judged.bad)} of {len(frame)} rows break the contract",
                    remedy=f"see `sekisho data check {path.parent}`",
                )
            return judged.kept

        return kept

    @cached_property
    def last(self) -> dt.date | None:
        """The last session that a partition is named by; None where names are no sessions."""
        named = [day for day, _ in self._files]
        return max((day for day in named if day), default=None) if all(named) else None

    def panel(self, sessions: Sequence[dt.date]) -> Panel:
        """The bars of ``sessions``.

        Raises:
            CannotCheck: a session or a symbol has no bars; too many rows of a partition break the contract.
            DataError: a partition that cannot be read or lacks a column.
        """
        wanted = set(sessions)
        inside = pl.col("session").is_in(wanted) & pl.col("symbol").is_in(self.symbols)
        named = [path for day, path in self._files if day is None or day in wanted]
        tables = [self._kept(path).filter(inside) for path in named]
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

    def readable(self, sessions: Sequence[dt.date]) -> Panel:
        """As ``panel``, without the sessions whose bars are missing or broken.

        Raises:
            CannotCheck, DataError: none of them can be read.
        """
        try:
            return self.panel(sessions)
        except SekishoError:
            return self.panel([day for day in sessions if self._reads(day)] or sessions)

    def _reads(self, session: dt.date) -> bool:
        try:
            self.panel([session])
        except SekishoError:
            return False
        return True

    def watch(self, session: dt.date) -> SessionBars:
        """The session's bars, and the features of each bar end by the code of training.

        Raises:
            CannotCheck: a session that they rest on has no bars; too many rows break the contract.
            DataError: a partition that cannot be read or lacks a column.
        """
        if self.last and session > self.last:
            raise CannotCheck(
                f"the live bars do not reach {session} yet: they end with {self.last}",
                remedy="bring the live market's bars up to date",
            )
        days = self.warm_up(session)
        panel = self.panel(days)
        held = set(panel.session.astype("datetime64[D]").tolist())
        # before the first bar features are NaN; across a hole they would be others than were served
        if lacking := [day for day in days if day not in held and (day > min(held) or day == session)]:
            what = "" if lacking[-1] == session else f", which the features of {session} rest on"
            raise CannotCheck(f"{self.folder}: no bars of {lacking[-1]}{what}", remedy="bring them")
        inside = panel.session == np.datetime64(session)
        features = compute_features(panel, self.features)
        return SessionBars(
            features={panel.ts_close[row]: features[row] for row in np.flatnonzero(inside)},
            returns=np.log(panel.close / panel.open).astype(np.float32)[inside][..., None],
            constant=self._constant(panel, inside),
        )

    def _constant(self, panel: Panel, inside: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        moved = (np.ptp(panel.close[inside], axis=0) > 0) | (inside.sum() < 2)
        return tuple(symbol for symbol, free in zip(panel.symbols, moved, strict=True) if not free)


def _day(path: Path) -> dt.date | None:
    """The session a partition is named by, None where its name is no date (it may hold any session)."""
    try:
        return dt.date.fromisoformat(path.stem)
    except ValueError:
        return None
