"""Exchange sessions and the bars in them, from ``exchange_calendars`` (Tokyo, XTKS, by default)."""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sekisho.errors import ParamsError

BAR_MINUTES = {"1min": 1, "5min": 5, "15min": 15, "1d": 0}
FIRST_DAY = "1990-01-01"


class Calendar:
    """One exchange's sessions, cut into bars of one length.

    Times are UTC ``datetime64[us]``; a bar is named by its end. Lunch breaks hold no bars.
    """

    def __init__(self, name: str, bar: str) -> None:
        self.name, self.bar = name, bar

    @property
    def _exchange(self) -> Any:
        return _load(self.name)

    def sessions(self, first: dt.date, last: dt.date) -> list[dt.date]:
        """Trading days from ``first`` to ``last``, both included, as far as the calendar knows them."""
        import pandas as pd  # as in `_load`

        exchange = self._exchange
        start = max(pd.Timestamp(first), exchange.first_session)
        end = min(pd.Timestamp(last), exchange.last_session)
        return [stamp.date() for stamp in exchange.sessions_in_range(start, end)] if start <= end else []

    def next_sessions(self, after: dt.date, count: int) -> list[dt.date]:
        """The ``count`` trading days that follow ``after``; fewer at its end, a year from now."""
        days = self.sessions(after + dt.timedelta(days=1), after + dt.timedelta(days=2 * count + 20))
        return days[:count]

    def closes(self, session: dt.date) -> npt.NDArray[np.datetime64]:
        """Bar ends of one session, ``(B,)`` UTC: every full bar before and after the lunch break."""
        opens, break_start, break_end, closes = _hours(self.name)[session]
        minutes = BAR_MINUTES[self.bar]
        if not minutes:
            return np.array([closes])
        spans = [(opens, closes)] if np.isnat(break_start) else [(opens, break_start), (break_end, closes)]
        step, after = np.timedelta64(minutes, "m"), np.timedelta64(1, "us")
        return np.concatenate([np.arange(a + step, b + after, step) for a, b in spans])

    def is_open(self, moment: dt.datetime) -> bool:
        """Whether the exchange trades in the minute of ``moment`` (timezone-aware)."""
        minute = moment.astimezone(dt.UTC).replace(second=0, microsecond=0)
        return bool(self._exchange.is_trading_minute(minute))

    def bars_per_year(self) -> float:
        """Bars in an average year of the calendar: what annualises a per-bar figure."""
        year = self.sessions(dt.date(2025, 1, 1), dt.date(2025, 12, 31))
        return float(len(year) * len(self.closes(year[-10])))


def utc64(moment: dt.datetime) -> np.datetime64:
    """An aware moment in the form of bar ends."""
    return np.datetime64(moment.astimezone(dt.UTC).replace(tzinfo=None), "us")


@cache
def _load(name: str) -> Any:
    """The exchange's calendar from its first possible day to a year from now; takes a quarter of a second."""
    import exchange_calendars as xcals  # both slow to import: only when a calendar is used
    import pandas as pd

    try:
        recent = pd.Timestamp.now().normalize() - pd.Timedelta(days=30)
        factory = type(xcals.get_calendar(name, start=recent))  # a short one tells its class
    except xcals.errors.InvalidCalendarName as error:
        raise ParamsError(
            f"data.calendar: no exchange is called {name!r}",
            remedy="use an ISO 10383 code such as XTKS (Tokyo) or XNYS (New York)",
        ) from error
    first = max(filter(None, [factory.bound_min(), pd.Timestamp(FIRST_DAY)]))  # Tokyo's begins in 1997
    return factory(start=first)


@cache
def _hours(name: str) -> dict[dt.date, list[np.datetime64]]:
    """Open, start and end of the lunch break (NaT where there is none), close of every session, UTC."""
    schedule = _load(name).schedule[["open", "break_start", "break_end", "close"]]
    table = schedule.apply(lambda column: column.dt.tz_convert(None)).to_numpy("datetime64[us]")
    return dict(zip([day.date() for day in schedule.index], table, strict=True))
