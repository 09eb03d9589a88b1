"""Argo CD's deny windows: nothing is deployed to production while its market is open.

Cron knows weekdays but no holidays, and no year. So each month gets one window for each kind of day (opening
and closing time), with the days of the month on which the exchange really opens. A day of the next
year's same month that falls into the list too is denied needlessly at worst.
"""

from __future__ import annotations

import datetime as dt
import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from sekisho.errors import CannotCheck, Refused
from sekisho.params import ServingParams

APPLICATION = "policy-production"
MONTHS_WRITTEN, MONTHS_NEEDED = 14, 12
Span = tuple[dt.datetime, dt.datetime]  # aware, in the exchange's own time


def market_hours(calendar: str, first: dt.date, last: dt.date) -> list[Span]:
    """Open and close of every session, in the exchange's time; the lunch break counts as open."""
    import exchange_calendars as xcals  # slow to import

    exchange = xcals.get_calendar(calendar, start=pd.Timestamp(first), end=pd.Timestamp(last))
    zone = exchange.tz
    return [
        (row.open.tz_convert(zone).to_pydatetime(), row.close.tz_convert(zone).to_pydatetime())
        for row in exchange.schedule.itertuples()
    ]


def deny_windows(calendar: str, first: dt.date, params: ServingParams) -> list[dict[str, Any]]:
    """``syncWindows`` of an AppProject for the ``MONTHS_WRITTEN`` months from ``first`` on."""
    before = dt.timedelta(minutes=params.freeze_before)
    after = dt.timedelta(minutes=params.freeze_after)
    days: dict[tuple[int, str, str], set[int]] = defaultdict(set)
    for opens, closes in market_hours(calendar, first, _later(first, MONTHS_WRITTEN)):
        start, minutes = opens - before, int((closes + after - (opens - before)).total_seconds() // 60)
        key = (start.month, f"{start.minute} {start.hour}", f"{minutes // 60}h{minutes % 60}m")
        days[key].add(start.day)
        zone = str(opens.tzinfo)
    return [
        {
            "kind": "deny",
            "schedule": f"{time} {','.join(map(str, sorted(found)))} {month} *",
            "duration": duration,
            "timeZone": zone,
            "applications": [APPLICATION],
            "manualSync": False,  # not by hand either: the switch and the traffic are outside
        }
        for (month, time, duration), found in sorted(days.items())
    ]


def write_windows(path: Path, calendar: str, today: dt.date, params: ServingParams) -> int:
    """Write the Kustomize patch that gives the project its windows; returns how many."""
    windows = deny_windows(calendar, today, params)
    patch = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AppProject",
        "metadata": {"name": "sekisho"},
        "spec": {"syncWindows": windows},
    }
    text = io.StringIO()
    YAML().dump(patch, text)
    head = f"# Written by `sekisho freeze --write` on {today} from the calendar {calendar}; do not edit.\n"
    path.write_text(head + text.getvalue(), encoding="utf-8")
    return len(windows)


def check_windows(path: Path, calendar: str, today: dt.date, params: ServingParams) -> dt.date:
    """That every session of the next ``MONTHS_NEEDED`` months is denied; returns the last of them.

    Raises:
        Refused: rule ``sync-windows``; names the first session that is not.
        CannotCheck: the file is missing or no such patch.
    """
    remedy = "run `sekisho freeze --write` and open a pull request"
    try:
        found = YAML(typ="safe").load(path.read_text(encoding="utf-8"))["spec"]["syncWindows"]
        denied = [window for window in found if window["kind"] == "deny" and window["manualSync"] is False]
        covered = [_Window(w["schedule"], w["duration"], w["applications"]) for w in denied]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CannotCheck(f"{path}: {error!r}", remedy=remedy) from error
    before = dt.timedelta(minutes=params.freeze_before)
    after = dt.timedelta(minutes=params.freeze_after)
    hours = market_hours(calendar, today, _later(today, MONTHS_NEEDED))
    for opens, closes in hours:
        if not any(window.covers(opens - before, closes + after) for window in covered):
            raise Refused(
                "sync-windows",
                expected=f"a deny window over {opens:%Y-%m-%d}, {opens:%H:%M} to {closes:%H:%M}",
                found=f"none in {path}",
                remedy=remedy,
            )
    return hours[-1][0].date()


class _Window:
    """One cron window with lists of days: all that ``deny_windows`` writes."""

    def __init__(self, schedule: str, duration: str, applications: list[str]) -> None:
        minute, hour, days, month, weekday = schedule.split()
        if weekday != "*" or APPLICATION not in applications:
            raise ValueError(f"not a window of {APPLICATION}: {schedule}")
        self._start, self._month = (int(hour), int(minute)), int(month)
        self._days = {int(day) for day in days.split(",")}
        hours, _, minutes = duration.rstrip("m").partition("h")
        self._length = dt.timedelta(hours=int(hours), minutes=int(minutes or 0))

    def covers(self, first: dt.datetime, last: dt.datetime) -> bool:
        """Whether both moments of one day lie inside."""
        start = first.replace(hour=self._start[0], minute=self._start[1])
        on = first.month == self._month and first.day in self._days
        return on and start <= first and last <= start + self._length


def _later(day: dt.date, months: int) -> dt.date:
    return (pd.Timestamp(day) + pd.DateOffset(months=months)).date()
