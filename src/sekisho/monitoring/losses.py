"""What the live account says: losses over their limits, and earnings under the backtest's band."""

from __future__ import annotations

import datetime as dt

import numpy as np
import numpy.typing as npt

from sekisho.calendar import Calendar
from sekisho.monitoring.performance import Account, Performance
from sekisho.monitoring.verdict import Alarm
from sekisho.params import MonitoringParams
from sekisho.serving.switch import Position, Turned

Array = npt.NDArray[np.float64]


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
    """The account from a person's dated decision on: the sessions that closed after the switch was turned on.

    Who turns it on in the middle of a session takes that whole session's loss with it. A moment later than
    ``now`` is none: nobody decides about losses to come.
    """
    if turned is None or turned.position is not Position.ON or turned.at is None or (now and turned.at > now):
        return account
    decided = np.datetime64(turned.at.astimezone(dt.UTC).replace(tzinfo=None), "us")
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
