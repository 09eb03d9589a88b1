"""The scheduled check: can the log be believed, then drift, then what the release earns.

Problems of the data come first: a log that cannot be believed shows neither drift nor its absence, and a
silent one is a problem; so are features that training would have computed otherwise. What the guard's
verdicts, the replay and the live account show is said all the same, of every session that can be read:
a fault of the data disarms no loss limit.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sekisho.calendar import Calendar, utc64
from sekisho.errors import CannotCheck, SekishoError
from sekisho.monitoring.decisions import Acknowledgement, acknowledged
from sekisho.monitoring.detector import Baseline, detect, forecast_errors
from sekisho.monitoring.drift import alarms_of, distances, top_series
from sekisho.monitoring.histogram import Histograms, quantiles
from sekisho.monitoring.kept import FOLDER, Kept
from sekisho.monitoring.live_bars import LiveBars
from sekisho.monitoring.losses import judge_account
from sekisho.monitoring.predictions import ANSWERED, find_logs
from sekisho.monitoring.records import SessionRecord
from sekisho.monitoring.reference import session_gaps
from sekisho.monitoring.released import JudgedRelease, open_release
from sekisho.monitoring.sessions import read_records
from sekisho.monitoring.verdict import Alarm, State, Verdict
from sekisho.params import DataParams, MonitoringParams
from sekisho.serving.switch import Turned

LATENCY = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True)
class Decisions:
    """What people decided: sessions not to be judged, with the reason (``monitoring/excluded.yaml``), alarms
    that they know of (``monitoring/acknowledged``), and the last turn of the kill switch.
    """

    excluded: Mapping[dt.date, str] = field(default_factory=dict)
    acknowledgements: Sequence[Acknowledgement] = ()
    turned: Turned | None = None


def check_predictions(
    predictions: Path,
    release: Path,
    params: MonitoringParams,
    *,
    bars: Path | None = None,
    data: DataParams | None = None,
    decisions: Decisions | None = None,
    as_of: dt.datetime | None = None,
    kept: Kept | None = None,
    problems: Sequence[str] = (),
) -> Verdict:
    """Judge the predictions of ``release``; never raises `SekishoError`: what is wrong is a verdict.

    Args:
        predictions: folder written by the server, or a folder of several servers' (``find_logs``).
        release: release folder with its content.
        params: monitoring; strengths, inflation, clip and slack come from the release's reference.
        bars: folder of the live market's bars (raw contract); with it the level of volatility, train/serve
            skew and the live account are watched too.
        data: how ``bars`` are validated; needed with it.
        decisions: people's. A session that they excluded still counts for the loss limits.
        as_of: the moment (aware) to judge at: sessions that have not ended by then are left out, and the log
            must reach the last one that has. None: the log is judged whole, its end is not checked.
        kept: what the next check need not read again; None: a folder beside the sessions.
        problems: why the rest cannot be believed either, where the caller knows.
    """
    try:
        judged = open_release(release, params)
    except SekishoError as error:
        return not_judged(release, [*problems, error.message])
    verdict = Verdict(judged.model, judged.seq, judged.digest, judged.reference.digest, "cannot-judge")
    decided, found = decisions or Decisions(), list(problems)
    if judged.reference.sessions < params.min_reference_sessions:
        held = judged.reference.sessions
        found.append(f"the reference has {held} sessions, {params.min_reference_sessions} are needed")
    calendar = Calendar(judged.calendar, judged.bar)
    live, until = None, None
    try:
        until = last_ended(calendar, as_of) if as_of else None
        live = LiveBars(bars, judged.reference.symbols, judged.features(), data) if bars and data else None
    except SekishoError as error:
        found.append(error.message)
    memory = kept or Kept(predictions / FOLDER)
    try:
        logs = find_logs(predictions)
        every = read_records(logs, judged, params, memory, live, until)
    except SekishoError as error:
        return replace(verdict, problems=[*found, error.message])
    found += logs.problems
    for log in logs.folders:
        try:
            memory.verify(log, "." if log == predictions else log.name)
        except SekishoError as error:
            found.append(error.message)
    memory.save()
    served = _of_service(every, calendar)
    every = [record for record in every if record.session not in decided.excluded]
    records = [record for record in served if record.session not in decided.excluded]
    if not records:
        until_then = f" up to {until}" if until else ""
        found.append(f"{predictions}: no prediction by {judged.model}/{judged.seq}{until_then}")
        return replace(verdict, problems=found)
    found += _session_problems(records, params)
    found += _silences(served, logs.sessions, calendar, decided.excluded, as_of)
    verdict = _summed(verdict, records, every)
    return _judge(verdict, served, records, judged, live, calendar, params, decided, as_of, found)


def not_judged(release: Path, problems: Sequence[str]) -> Verdict:
    """The verdict where the release itself, or the parameters, cannot be read: named by the folder."""
    seq = int(release.name) if release.name.isdecimal() else 0
    return Verdict(release.absolute().parent.name, seq, "", "", "cannot-judge", problems=list(problems))


def _judge(
    verdict: Verdict,
    served: Sequence[SessionRecord],
    records: Sequence[SessionRecord],
    judged: JudgedRelease,
    live: LiveBars | None,
    calendar: Calendar,
    params: MonitoringParams,
    decided: Decisions,
    as_of: dt.datetime | None,
    problems: list[str],
) -> Verdict:
    """``verdict`` with the alarms of what can be read; drift only where there is no problem.

    ``records``: those of ``served`` that nobody excluded.
    """
    skew = _skew_alarms(records, judged, params)
    problems += [
        f"session {alarm.session}: {alarm.statistic:.1%} of the requests had other features than training "
        f"computes from the bars, most often {alarm.series}"
        for alarm in skew
    ]
    earned = judge_account(served, judged, live, params, decided.excluded, decided.turned, as_of)
    problems += earned.problems
    verdict = replace(
        verdict,
        excluded={str(day): reason for day, reason in decided.excluded.items()},
        performance=earned.figures,
        unwatched=[*earned.unwatched, *_shared(records, params)],
        alarms=[
            *earned.alarms,
            *_age_alarms(records, judged, calendar, params),
            *skew,
            *serving_alarms(records, params),
        ],
    )
    # of a session that releases share, one may have answered too little to judge drift by, and no fault in it
    whole = [record for record in records if record.bars >= params.min_rows]
    if not problems and not whole:
        problems = [f"no session with {params.min_rows} predicted bars"]
    if not problems:
        try:
            verdict = _judge_drift(verdict, whole, judged, live, calendar)
        except SekishoError as error:
            problems = [error.message]
    stand, known = acknowledged(verdict.alarms, judged.model, decided.acknowledgements)
    state: State = "cannot-judge" if problems else "alarm" if stand else "ok"
    return replace(
        verdict, state=state, problems=problems, alarms=stand, acknowledged=[*earned.known, *known]
    )


def _judge_drift(
    verdict: Verdict,
    records: Sequence[SessionRecord],
    release: JudgedRelease,
    live: LiveBars | None,
    calendar: Calendar,
) -> Verdict:
    """``verdict`` with what the detectors say; a drift alarm comes before those already there.

    Raises:
        CannotCheck, DataError: bars are missing or break the contract; a session that is none.
    """
    reference = release.reference
    statistics = _statistics(records, live)
    sessions = [record.session for record in records]
    baseline = reference.baseline if live else _without_bars(reference.baseline)
    errors = forecast_errors(statistics, session_gaps(sessions, calendar), baseline)
    detection = detect(errors, baseline, reference.params)
    alarms, limits = alarms_of(detection, sessions, reference), reference.calibration
    return replace(
        verdict,
        alarms=alarms + verdict.alarms,
        threshold=limits.level,
        cusum_threshold=limits.cusum,
        false_alarms={"a_month": limits.rate, "low": limits.low, "high": limits.high},
        levels={str(day): float(x) for day, x in zip(sessions, detection.level, strict=True)},
        cusum={str(day): float(x) for day, x in zip(sessions, detection.cusum, strict=True)},
        top=top_series(detection, alarms, sessions, reference),
        distances=distances([r.sight.histograms for r in records if r.sight], reference),
    )


def _without_bars(baseline: Baseline) -> Baseline:
    watched = baseline.watched.copy()
    watched[..., -1] = False
    return replace(baseline, watched=watched)


def last_ended(calendar: Calendar, as_of: dt.datetime) -> dt.date:
    """The last session whose close lies before ``as_of`` (aware).

    Raises:
        CannotCheck: the calendar knows none near it.
    """
    moment = utc64(as_of)
    day = as_of.astimezone(dt.UTC).date()
    near = calendar.sessions(day - dt.timedelta(days=30), day + dt.timedelta(days=1))
    if ended := [session for session in near if calendar.closes(session)[-1] < moment]:
        return ended[-1]
    raise CannotCheck(f"{calendar.name} knows no session before {day}", remedy="name another day")


def _of_service(every: Sequence[SessionRecord], calendar: Calendar) -> list[SessionRecord]:
    """Records of the sessions in which the release served, or should have.

    A request may name any session, and the guard refuses it. Such requests alone make a session of service
    where they came in its own hours, or where it is the exchange's and lies after the first that was served;
    not where another release answered.
    """
    first = next((record.session for record in every if not record.mistimed), None)

    def counts(record: SessionRecord) -> bool:
        if not record.mistimed:
            return True
        known = bool(calendar.sessions(record.session, record.session))
        after = first is not None and record.session > first
        return known and not record.others and (record.hours or after)

    return [record for record in every if counts(record)]


def _session_problems(records: Sequence[SessionRecord], params: MonitoringParams) -> list[str]:
    found = []
    for record in records:
        said = [*record.problems, *record.feed]
        if record.mistimed:
            refused = ", ".join(sorted(record.answers))
            said.insert(0, f"no service: every one of its {record.rows} requests was refused as {refused}")
        elif record.bars < params.min_rows and not record.problems and not record.others:
            said.insert(0, f"{record.bars} predicted bars, {params.min_rows} are needed")
        found += [f"session {record.session}: {what}" for what in said]
    return found


def _shared(records: Sequence[SessionRecord], params: MonitoringParams) -> list[str]:
    """Sessions that are not judged for drift, as other releases answered most of them."""
    return [
        f"drift in session {record.session}: {record.bars} predicted bars, other releases answered the rest"
        for record in records
        if record.others and record.bars < params.min_rows
    ]


def _silences(
    served: Sequence[SessionRecord],
    logged: Collection[dt.date],
    calendar: Calendar,
    excluded: Mapping[dt.date, str],
    as_of: dt.datetime | None,
) -> list[str]:
    """Sessions without predictions of any release between those served, or after the last up to ``as_of``."""
    first, last = served[0].session, served[-1].session
    present = {*logged, *excluded}
    lacking = [day for day in calendar.sessions(first, last) if day not in present]
    found = [f"session {day}: no predictions" for day in lacking]
    if as_of:
        end = last_ended(calendar, as_of)
        after = [d for d in calendar.sessions(last + dt.timedelta(days=1), end) if d not in excluded]
        if after:
            found.append(
                f"the log is silent since {last}: no predictions of {len(after)} sessions up to {after[-1]}"
            )
    return found


def _statistics(records: Sequence[SessionRecord], live: LiveBars | None) -> npt.NDArray[np.float64]:
    """``(S, 3, A, F + 1)``: the features' statistics and the bar returns' (zeros without bars)."""
    features = np.stack([record.profile.statistics() for record in records if record.profile])
    returns = np.zeros((*features.shape[:3], 1))
    if live:
        returns = np.stack([record.market.statistics() for record in records if record.market])
    return np.concatenate([features, returns], axis=3)


def _summed(verdict: Verdict, records: Sequence[SessionRecord], every: Sequence[SessionRecord]) -> Verdict:
    """Sessions of ``records``; rows and shares of ``every``, with those that stray requests named."""
    rows = sum(record.rows for record in every)
    counts: Counter[str] = sum((Counter(record.answers) for record in every), Counter())
    return replace(
        verdict,
        first_session=str(records[0].session),
        last_session=str(records[-1].session),
        sessions=len(records),
        rows=rows,
        answers={name: counts[name] / max(rows, 1) for name in sorted(counts)},
        latency=_latency(records),
        skew=_skew_summed(records),
        parity_difference=max(record.parity for record in records),
    )


def _latency(records: Sequence[SessionRecord]) -> dict[str, float]:
    """Quantiles of the answers' latency in seconds."""
    parts = [record.sight.histograms for record in records if record.sight]
    if not parts:
        return {}
    last = [
        Histograms(p.codes[p.starts[-2] :], p.counts[p.starts[-2] :], p.starts[-2:] - p.starts[-2])
        for p in parts
    ]
    found = quantiles(reduce(Histograms.merge, last), np.array(list(LATENCY.values())))[0]
    return {name: float(value) for name, value in zip(LATENCY, found, strict=True)}


def _skew_summed(records: Sequence[SessionRecord]) -> dict[str, Any]:
    parts = [record.skew for record in records if record.skew]
    if not parts:
        return {}
    return {
        "answered": sum(part.answered for part in parts),
        "compared": sum(part.compared for part in parts),
        "differ": sum(part.differ for part in parts),
        "first": next((part.first for part in parts if part.first), ""),
    }


def _skew_alarms(
    records: Sequence[SessionRecord], release: JudgedRelease, params: MonitoringParams
) -> list[Alarm]:
    """The first session in which more requests than allowed saw other features than training computes."""
    for record in records:
        skew = record.skew
        if skew and skew.differ > params.max_skew_share * skew.answered:
            worst = release.reference.features[int(np.argmax(skew.by_feature))]
            share = skew.differ / skew.answered
            return [Alarm("skew", worst, share, params.max_skew_share, str(record.session))]
    return []


def serving_alarms(records: Sequence[SessionRecord], params: MonitoringParams) -> list[Alarm]:
    """First session in which the served model differs from the release, and first with too many safe
    answers.
    """
    found = []
    for record in records:
        if not record.parity <= params.parity_tolerance:
            figures = ("parity", "logged against replayed weights", record.parity, params.parity_tolerance)
            found.append(Alarm(*figures, str(record.session)))
            break
    for record in records:
        safe = record.safe_share
        if safe > params.max_safe_share:
            worst = max((n for n in record.answers if n not in ANSWERED), key=lambda n: record.answers[n])
            found.append(Alarm("safe-answers", worst, safe, params.max_safe_share, str(record.session)))
            break
    return found


def _age_alarms(
    records: Sequence[SessionRecord], release: JudgedRelease, calendar: Calendar, params: MonitoringParams
) -> list[Alarm]:
    last, trained = records[-1].session, release.reference.last_session
    age = len(calendar.sessions(trained, last)) - 1
    if age <= params.max_model_age:
        return []
    figures = (f"training window ends {trained}", float(age), float(params.max_model_age), str(last))
    return [Alarm("age", *figures)]
