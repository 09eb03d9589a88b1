"""What the live account says: losses over their limits, and earnings under the backtest's band."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sekisho.calendar import Calendar, utc64
from sekisho.errors import SekishoError
from sekisho.monitoring.live_bars import LiveBars
from sekisho.monitoring.performance import Account, Performance, live_account, measure_performance
from sekisho.monitoring.records import SessionRecord
from sekisho.monitoring.reference import BAR_RETURN
from sekisho.monitoring.released import JudgedRelease
from sekisho.monitoring.verdict import Alarm
from sekisho.params import MonitoringParams
from sekisho.serving.switch import Position, Turned

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Earned:
    """What the live account says; ``known``: losses that people turned the switch on after."""

    alarms: list[Alarm] = field(default_factory=list)
    known: list[dict[str, str]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unwatched: list[str] = field(default_factory=list)


def judge_account(
    served: Sequence[SessionRecord],
    release: JudgedRelease,
    live: LiveBars | None,
    params: MonitoringParams,
    excluded: Collection[dt.date] = (),
    turned: Turned | None = None,
    as_of: dt.datetime | None = None,
) -> Earned:
    """Judge losses and earnings of the sessions served; never raises for what cannot be measured.

    Losses count in every session, those that people ``excluded`` too: an exclusion is for faults of the data.
    """
    if live is None:
        return Earned(unwatched=[f"{BAR_RETURN}, skew and the live account: no bars were given"])
    traded = [record for record in served if record.sight]
    earned = Earned()
    if not traded:
        return Earned(problems=["the live account: no session can be measured"])
    try:
        account = live_account(traded, live, release.market())
    except SekishoError as error:
        return Earned(problems=[f"the live account: {error.message}"])
    earned.problems.extend(_unmeasured(traded, account.sessions, excluded))
    earned.unwatched.extend(
        f"losses of {day}, which is excluded" for day in excluded if day not in account.sessions
    )
    counted = since_turned_on(account, turned, Calendar(release.calendar, release.bar), as_of)
    earned.alarms.extend(loss_alarms(counted, params))
    earned.known.extend(known_losses(account, counted, turned, params))
    judged = account.of([day for day in account.sessions if day not in excluded])
    if len(judged.sessions):
        try:
            found = measure_performance(judged, release.returns, params)
        except SekishoError as error:
            earned.problems.append(f"the live account: {error.message}")
        else:
            alarm = performance_alarm(found)
            earned.alarms[:0] = [alarm] if alarm else []
            earned.figures.update(found.as_dict())
    return earned


def _unmeasured(
    traded: Sequence[SessionRecord], measured: Collection[dt.date], excluded: Collection[dt.date]
) -> list[str]:
    """Sessions whose losses are not known, though bars were given."""
    lacking = [r.session for r in traded if r.session not in measured and r.session not in excluded]
    if not lacking:
        return []
    return [
        f"the live account: {len(lacking)} sessions cannot be measured, first {lacking[0]}: bring their bars"
        " and those of the sessions before"
    ]


def loss_alarms(account: Account, params: MonitoringParams) -> list[Alarm]:
    """The first session over each limit: fraction lost from the high, and in one session."""
    count = len(account.sessions)
    limits = (
        ("drawdown", account.drawdown, np.full(count, params.max_live_drawdown)),
        ("session-loss", -account.live, np.full(count, params.max_session_loss)),
    )
    found = [
        _first_over(family, "fraction of equity lost", statistic, limit, account)
        for family, statistic, limit in limits
    ]
    return [alarm for alarm in found if alarm]


def performance_alarm(found: Performance) -> Alarm | None:
    """The first session in which the account earned less than the backtest lets expect."""
    account = found.account
    below = "equity below the backtest's band"
    short = "CUSUM of net returns under the backtest's mean"
    return _first_over("performance", below, -account.equity, -found.band, account) or _first_over(
        "performance", short, found.cusum, np.full(len(found.band), found.limit), account
    )


def _first_over(family: str, series: str, statistic: Array, limit: Array, account: Account) -> Alarm | None:
    over = np.flatnonzero(statistic > limit)
    if not len(over):
        return None
    at = int(over[0])
    figures = (abs(float(statistic[at])), abs(float(limit[at])))
    return Alarm(family, series, *figures, str(account.sessions[at]))


def since_turned_on(
    account: Account, turned: Turned | None, calendar: Calendar, now: dt.datetime | None
) -> Account:
    """The account from a dated turn of the switch on: the sessions that closed after it was turned.

    Who turns it on in the middle of a session takes that whole session's loss with it. A moment later than
    ``now`` is none: nobody decides about losses to come.
    """
    if turned is None or turned.position is Position.OFF or turned.at is None or (now and turned.at > now):
        return account
    decided = utc64(turned.at)
    return account.of([day for day in account.sessions if calendar.closes(day)[-1] > decided])


def known_losses(
    whole: Account, counted: Account, turned: Turned | None, params: MonitoringParams
) -> list[dict[str, str]]:
    """Losses over a limit that people know of, as they turned the switch on after them."""
    if turned is None or len(whole.sessions) == len(counted.sessions):
        return []
    before = whole.of([day for day in whole.sessions if day not in counted.sessions])
    file = f"kill switch, {turned.at}"
    return [
        {"family": a.family, "series": a.series, "session": a.session, "file": file, "reason": turned.reason}
        for a in loss_alarms(before, params)
    ]
