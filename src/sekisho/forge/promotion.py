"""When production may be changed: outside market hours, or in an emergency that two people stand up for."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import numpy as np

from sekisho.calendar import Calendar
from sekisho.errors import Refused
from sekisho.forge.grammar import emergency_reason
from sekisho.forge.interface import Comment, Forge, at_least, same_actor
from sekisho.forge.records import Event, answers, events

EMERGENCY, EMERGENCY_PROMOTION = "emergency", "emergency-promotion"  # one voice, and both


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


def first_voice(forge: Forge, number: int, second: Comment, moment: dt.datetime) -> Event | None:
    """The emergency that somebody else declared within ``forge.emergency_minutes`` in a comment before
    ``second``, if it still stands.

    It stands while its comment is there unedited and its author may still change production. Once acted on
    it is used up. It need not be answered yet: of two comments at the same moment the later is the second.
    """
    comments = forge.comments(number)
    standing: list[Event] = []
    for voice in _voices(forge, number, comments):
        if voice["comment_id"] >= second.id:
            break
        at = dt.datetime.fromisoformat(voice["at"])
        if voice["event"] == EMERGENCY_PROMOTION:
            standing.clear()
        elif "status" not in voice and _partner(forge, comments, standing, voice["actor"], at):
            standing.clear()  # its own job will act on both
        else:
            standing.append(voice)
    return _partner(forge, comments, standing, second.author, moment)


def acted_on(forge: Forge, number: int, first: Comment) -> Event | None:
    """The promotion for which ``first`` was the first of two voices."""
    acts = [e for e in events(forge, number) if e["event"] == EMERGENCY_PROMOTION]
    return next((e for e in acts if e["first"]["comment_id"] == first.id), None)


def _voices(forge: Forge, number: int, comments: Sequence[Comment]) -> list[Event]:
    """Emergencies declared and acted on, in the order of their comments; unanswered ones have no status."""
    found = [e for e in events(forge, number) if e["event"] in (EMERGENCY, EMERGENCY_PROMOTION)]
    answered = {answer.to for answer in answers(forge, number)}
    for comment in comments:
        reason = emergency_reason(comment)
        if reason and comment.id not in answered and may_change_production(forge, comment.author):
            about = {"event": EMERGENCY, "actor": comment.author, "comment_id": comment.id}
            found.append(about | {"at": comment.created_at, "reason": reason})
    return sorted(found, key=lambda voice: int(voice["comment_id"]))


def _partner(
    forge: Forge, comments: Sequence[Comment], standing: Sequence[Event], actor: str, moment: dt.datetime
) -> Event | None:
    """The last of the standing voices that is fresh at that moment, another's, and not taken back."""
    oldest = moment - dt.timedelta(minutes=forge.params.emergency_minutes)
    for voice in reversed(standing):
        fresh = oldest <= dt.datetime.fromisoformat(voice["at"]) <= moment
        if fresh and not same_actor(voice["actor"], actor) and voice_stands(forge, comments, voice):
            return voice
    return None


def voice_stands(forge: Forge, comments: Sequence[Comment], voice: Event) -> bool:
    """Whether the comment of a voice still declares the emergency, and its author may still change
    production.
    """
    comment = next((c for c in comments if c.id == voice["comment_id"]), None)
    if comment is None or not emergency_reason(comment) or not same_actor(comment.author, voice["actor"]):
        return False
    return may_change_production(forge, comment.author)


def _utc(moment: np.datetime64) -> dt.datetime:
    return moment.astype("datetime64[s]").astype(dt.datetime).replace(tzinfo=dt.UTC)  # type: ignore[no-any-return]
