"""Losses and the guard's verdicts alone, the running session included: what may not wait for the evening.

It judges whichever release trades, the pointer's or, where the switch stands at ``previous``, the one before,
from the moment that the switch was turned there.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

from sekisho.calendar import Calendar, utc64
from sekisho.errors import CannotCheck, SekishoError
from sekisho.monitoring.check import not_judged, serving_alarms
from sekisho.monitoring.halt import halt, open_switch, step_back
from sekisho.monitoring.kept import FOLDER, Kept
from sekisho.monitoring.live_bars import LiveBars
from sekisho.monitoring.losses import judge_account
from sekisho.monitoring.predictions import find_logs
from sekisho.monitoring.released import open_release
from sekisho.monitoring.sessions import read_records
from sekisho.monitoring.verdict import Alarm, State, Verdict
from sekisho.params import DataParams, MonitoringParams, Params
from sekisho.serving.switch import Position, Turned

LATE_BARS = 2  # bar lengths that the newest live bar may lag behind before losses count as unknown


def release_before(release: Path) -> Path | None:
    """The release that ``previous`` lets trade; None where its folder is not there."""
    before = release.parent / str(int(release.name) - 1) if release.name.isdecimal() else None
    return before if before and before.is_dir() else None


def trading(release: Path, turned: Turned) -> Path:
    """The release that trades as the switch stands."""
    return (release_before(release) if turned.position is Position.PREVIOUS else None) or release


def running_session(calendar: Calendar, now: dt.datetime) -> tuple[dt.date, dt.datetime]:
    """The session whose first bar has ended most recently, and when that was.

    Raises:
        CannotCheck: the calendar knows none near ``now``.
    """
    moment, day = utc64(now), now.astimezone(dt.UTC).date()
    near = calendar.sessions(day - dt.timedelta(days=30), day + dt.timedelta(days=1))
    begun = [session for session in near if calendar.closes(session)[0] <= moment]
    if not begun:
        raise CannotCheck(f"{calendar.name} knows no session before {day}", remedy="look at data.calendar")
    return begun[-1], calendar.closes(begun[-1])[0].item().replace(tzinfo=dt.UTC)


def watch_and_turn(
    predictions: Path,
    release: Path,
    params: Params,
    bars: Path,
    switch: str,
    now: dt.datetime,
    kept: Path | None = None,
) -> tuple[Verdict, Position | None]:
    """Judge whichever of ``release`` and the one before trades, and turn the switch at ``switch``
    (``halt.open_switch``) as `halt` and `step_back` say; with what it was turned to, if it was.

    Raises:
        CannotCheck: the switch cannot be read or turned: whether anything trades is not known.
    """
    control = open_switch(switch)
    turned = control.read()
    served = trading(release, turned)
    verdict = watch_losses(predictions, served, params.monitoring, bars, params.data, turned, now, kept)
    moved = halt(verdict, control, now, Position.ON if served == release else Position.PREVIOUS)
    if moved is None and release_before(release):
        _, opened = running_session(Calendar(params.data.calendar, params.data.bar), now)
        moved = step_back(control, opened, now)
    return verdict, moved


def watch_losses(
    predictions: Path,
    release: Path,
    params: MonitoringParams,
    bars: Path,
    data: DataParams,
    turned: Turned,
    now: dt.datetime,
    kept: Path | None = None,
) -> Verdict:
    """Judge the losses of ``release`` up to ``now`` (aware); never raises `SekishoError`.

    The log's chain, skew and drift are the scheduled check's: nothing here says that they are in order.
    """
    try:
        judged = open_release(release, params)
        calendar = Calendar(judged.calendar, judged.bar)
        session, _ = running_session(calendar, now)
        live = LiveBars(bars, judged.reference.symbols, judged.features(), data)
        logs, memory = find_logs(predictions), Kept(kept or predictions / FOLDER)
        records = read_records(logs, judged, params, memory, None, session)
        memory.save()
    except SekishoError as error:
        return not_judged(release, [error.message])
    verdict = Verdict(judged.model, judged.seq, judged.digest, judged.reference.digest, "cannot-judge")
    problems = [f"session {r.session}: {problem}" for r in records for problem in r.problems]
    problems += [*logs.problems, *_late(live, calendar, session, now)]
    earned = judge_account(records, judged, live, params, turned=turned, as_of=now)
    problems += earned.problems
    losses: list[Alarm] = [alarm for alarm in earned.alarms if alarm.family != "performance"]
    alarms = [*losses, *serving_alarms(records, params)]
    state: State = "cannot-judge" if problems else "alarm" if alarms else "ok"
    return replace(
        verdict,
        state=state,
        problems=problems,
        alarms=alarms,
        acknowledged=earned.known,
        performance=earned.figures,
        sessions=len(records),
        first_session=str(records[0].session) if records else None,
        last_session=str(records[-1].session) if records else None,
    )


def _late(live: LiveBars, calendar: Calendar, session: dt.date, now: dt.datetime) -> list[str]:
    """Whether the newest bar of the running session is too old to know its loss by."""
    closes, moment = calendar.closes(session), utc64(now)
    due = closes[closes <= moment - LATE_BARS * (closes[1] - closes[0])]
    if not len(due):
        return []
    try:
        newest = live.panel([session]).ts_close[-1]
    except SekishoError as error:
        return [error.message]
    if newest >= due[-1]:
        return []
    return [f"the live bars of {session} end at {newest} UTC: later losses are not known"]
