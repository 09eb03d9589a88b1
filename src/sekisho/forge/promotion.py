"""When production may be changed: outside market hours, or in an emergency that two people stand up for."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np

from sekisho.calendar import Calendar
from sekisho.errors import Refused
from sekisho.forge.approvals import events
from sekisho.forge.interface import Forge, at_least, same_actor

Event = dict[str, Any]


def may_change_production(forge: Forge, actor: str) -> bool:
    """Admins, and members of ``forge.trading_desk`` who may write; asked of the forge now."""
    granted = forge.permission(actor)
    if granted == "admin":
        return True
    return at_least(granted, "write") and forge.is_member(forge.params.trading_desk, actor)


def market_hours(calendar: Calendar, moment: dt.datetime) -> tuple[dt.datetime, dt.datetime] | None:
    """Open and close (UTC) of the session that ``moment`` falls into, its lunch break included; else None."""
    minutes = Calendar(calendar.name, "1min")
    day = moment.astimezone(dt.UTC).date()
    for session in minutes.sessions(day - dt.timedelta(days=1), day + dt.timedelta(days=1)):
        ends = minutes.closes(session)
        opens, closes = (_utc(end) for end in (ends[0] - np.timedelta64(1, "m"), ends[-1]))
        if opens <= moment < closes:
            return opens, closes
    return None


def check_hours(calendar: Calendar, moment: dt.datetime) -> None:
    """Production is changed outside market hours.

    Raises:
        Refused: the exchange is open, or between its two halves of the day.
    """
    hours = market_hours(calendar, moment)
    if hours:
        opens, closes = (f"{end:%H:%M}" for end in hours)
        raise Refused(
            "commands.market-hours",
            expected=f"a time outside {calendar.name} hours ({opens} to {closes} UTC today)",
            found=f"{moment:%Y-%m-%d %H:%M} UTC",
            remedy="wait for the close; if it cannot wait, two members of the trading desk comment "
            "/promote production emergency <reason>",
        )


def second_voice(forge: Forge, number: int, actor: str, moment: dt.datetime) -> Event | None:
    """The emergency that somebody else declared here within ``forge.emergency_minutes``, if it still stands.

    It stands while its comment is there unedited and its author may still change production. Once acted on
    it is used up.
    """
    standing: list[Event] = []
    for event in events(forge, number):
        if event.get("event") == "emergency":
            standing.append(event)
        elif event.get("event") == "emergency-promotion":
            standing.clear()
    comments = {comment.id: comment for comment in forge.comments(number)}
    oldest = moment - dt.timedelta(minutes=forge.params.emergency_minutes)
    for event in reversed(standing):
        comment = comments.get(event["comment_id"])
        fresh = oldest <= dt.datetime.fromisoformat(event["at"]) <= moment
        unchanged = comment and not comment.edited and same_actor(comment.author, event["actor"])
        another = fresh and unchanged and not same_actor(event["actor"], actor)
        if another and may_change_production(forge, event["actor"]):
            return event
    return None


def _utc(moment: np.datetime64) -> dt.datetime:
    return moment.astype("datetime64[s]").astype(dt.datetime).replace(tzinfo=dt.UTC)  # type: ignore[no-any-return]
