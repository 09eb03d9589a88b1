"""Exchange sessions and the bars in them, from ``exchange_calendars`` (Tokyo, XTKS, by default)."""

from __future__ import annotations

import datetime as dt
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from sekisho.errors import ParamsError

BAR_MINUTES = {"1min": 1, "5min": 5, "15min": 15, "1d": 0}
FIRST_DAY = pd.Timestamp("1990-01-01")


class Calendar:
    """One exchange's sessions, cut into bars of one length.

    Times are UTC ``datetime64[us]``; a bar is named by its end. Lunch breaks hold no bars.
    """

    def __init__(self, name: str, bar: str) -> None:
        self.name, self.bar = name, bar

    @cached_property
    def _exchange(self):  # type: ignore[no-untyped-def]
        import exchange_calendars as xcals  # slow to import: only when a calendar is used

        try:
            earliest = xcals.get_calendar(self.name).bound_min()  # Tokyo's begins in 1997
            start = max(filter(None, [earliest, FIRST_DAY]))
            return xcals.get_calendar(self.name, start=start)
        except xcals.errors.InvalidCalendarName as error:
            raise ParamsError(
                f"data.calendar: no exchange is called {self.name!r}",
                remedy="use an ISO 10383 code such as XTKS (Tokyo) or XNYS (New York)",
            ) from error

    def sessions(self, first: dt.date, last: dt.date) -> list[dt.date]:
        """Trading days from ``first`` to ``last``, both included."""
        return [stamp.date() for stamp in self._exchange.sessions_in_range(str(first), str(last))]

    def next_sessions(self, after: dt.date, count: int) -> list[dt.date]:
        """The ``count`` trading days that follow ``after``."""
        days = self.sessions(after + dt.timedelta(days=1), after + dt.timedelta(days=2 * count + 20))
        return days[:count]

    def closes(self, session: dt.date) -> npt.NDArray[np.datetime64]:
        """Bar ends of one session, ``(B,)`` UTC: every full bar before and after the lunch break."""
        row = self._exchange.schedule.loc[str(session)]
        minutes = BAR_MINUTES[self.bar]
        if not minutes:
            return np.array([row["close"].to_datetime64()], dtype="datetime64[us]")
        morning_end = row["break_start"] if row["break_start"] == row["break_start"] else row["close"]
        spans = [(row["open"], morning_end)]
        if row["break_end"] == row["break_end"]:  # not NaT: the exchange has a lunch break
            spans.append((row["break_end"], row["close"]))
        step = np.timedelta64(minutes, "m")
        return np.concatenate(
            [
                np.arange(a.to_datetime64() + step, b.to_datetime64() + np.timedelta64(1, "us"), step)
                for a, b in spans
            ]
        ).astype("datetime64[us]")

    def is_open(self, moment: dt.datetime) -> bool:
        """Whether the exchange trades in the minute of ``moment`` (timezone-aware)."""
        minute = moment.astimezone(dt.UTC).replace(second=0, microsecond=0)
        return bool(self._exchange.is_trading_minute(minute))

    def bars_per_year(self) -> float:
        """Bars in an average year of the calendar: what annualises a per-bar figure."""
        year = self.sessions(dt.date(2025, 1, 1), dt.date(2025, 12, 31))
        return float(len(year) * len(self.closes(year[-10])))
