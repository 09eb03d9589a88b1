"""The scheduled check: can the log be believed, then drift, then what the release earns.

Problems of the data come first: a log that cannot be believed shows neither drift nor its absence, and a
silent one is a problem; so are features that training would have computed otherwise. What the guard's
verdicts, the replay and the live account show is said all the same.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sekisho.calendar import Calendar
from sekisho.errors import CannotCheck, SekishoError
from sekisho.monitoring.decisions import Acknowledgement, acknowledged
from sekisho.monitoring.detector import Baseline, detect, forecast_errors
from sekisho.monitoring.drift import alarms_of, distances, top_series
from sekisho.monitoring.histogram import Histograms, quantiles
from sekisho.monitoring.live_bars import LiveBars, profile_bar_returns
from sekisho.monitoring.performance import Performance, measure_performance
from sekisho.monitoring.predictions import ANSWERED, session_folders
from sekisho.monitoring.profile import Scaler
from sekisho.monitoring.records import SessionRecord
from sekisho.monitoring.reference import BAR_RETURN, session_gaps
from sekisho.monitoring.released import JudgedRelease, open_release
from sekisho.monitoring.sessions import read_records
from sekisho.monitoring.verdict import Alarm, State, Verdict
from sekisho.params import DataParams, MonitoringParams
from sekisho.serving.predictions import verify_chain

LATENCY = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def check_predictions(
    predictions: Path,
    release: Path,
    params: MonitoringParams,
    *,
    bars: Path | None = None,
    data: DataParams | None = None,
    excluded: Mapping[dt.date, str] | None = None,
    acknowledgements: Sequence[Acknowledgement] = (),
    as_of: dt.datetime | None = None,
) -> Verdict:
    """Judge the predictions of ``release``; never raises for what is wrong with the log: that is a verdict.

    Args:
        predictions: folder written by the server; session profiles are kept in it, so that a session is
            read once.
        release: release folder with its content.
        params: monitoring; strengths, inflation, clip and slack come from the release's reference.
        bars: folder of the live market's bars (raw contract); with it the level of volatility, train/serve
            skew and the live account are watched too.
        data: how ``bars`` are validated; needed with it.
        excluded: sessions that people took out of the judgement, with the reason
            (``monitoring/excluded.yaml``).
        acknowledgements: alarms that people know of (``monitoring/acknowledged``).
        as_of: the moment (aware) to judge at: sessions that have not ended by then are left out, and the log
            must reach the last one that has. None: the log is judged whole, its end is not checked.

    Raises:
        Refused, CannotCheck: the release itself is not whole, so that nothing can be said about its log.
    """
    judged = open_release(release, params)
    verdict = Verdict(judged.model, judged.seq, judged.digest, judged.reference.digest, "cannot-judge")
    if judged.reference.sessions < params.min_reference_sessions:
        held = judged.reference.sessions
        few = f"the reference has {held} sessions, {params.min_reference_sessions} are needed"
        return replace(verdict, problems=[few])
    calendar, out = Calendar(judged.calendar, judged.bar), excluded or {}
    try:
        live = LiveBars(bars, judged.reference.symbols, judged.features(), data) if bars and data else None
        until = last_ended(calendar, as_of) if as_of else None
        every, problems = read_records(predictions, judged, params, out, live, until)
        verify_chain(predictions)
        records = [record for record in every if not record.stray or record.rows >= params.min_rows]
        problems += _silences(records, predictions, calendar, out, as_of)
    except SekishoError as error:
        return replace(verdict, problems=[error.message])
    verdict = replace(
        _summed(verdict, records, every), excluded={str(day): reason for day, reason in out.items()}
    )
    skew = _skew_alarms(records, judged, params)
    problems += [
        f"session {alarm.session}: {alarm.statistic:.1%} of the requests had other features than training "
        f"computes from the bars, most often {alarm.series}"
        for alarm in skew
    ]
    verdict, lasting = _lasting(verdict, records, judged, live, params)
    verdict = replace(verdict, alarms=[*lasting, *skew, *_serving_alarms(records, params)])
    if not problems:
        try:
            verdict = _judge_drift(verdict, records, judged, live, calendar)
        except SekishoError as error:
            problems = [error.message]
    stand, known = acknowledged(verdict.alarms, judged.model, acknowledgements)
    state: State = "cannot-judge" if problems else "alarm" if stand else "ok"
    return replace(verdict, state=state, problems=problems, alarms=stand, acknowledged=known)


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
    statistics = _statistics(records, release, live)
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
    moment = np.datetime64(as_of.astimezone(dt.UTC).replace(tzinfo=None), "us")
    day = as_of.astimezone(dt.UTC).date()
    near = calendar.sessions(day - dt.timedelta(days=30), day + dt.timedelta(days=1))
    if ended := [session for session in near if calendar.closes(session)[-1] < moment]:
        return ended[-1]
    raise CannotCheck(f"{calendar.name} knows no session before {day}", remedy="name another day")


def _silences(
    records: Sequence[SessionRecord],
    predictions: Path,
    calendar: Calendar,
    excluded: Mapping[dt.date, str],
    as_of: dt.datetime | None,
) -> list[str]:
    """Sessions without predictions of any release between the records, or after the last up to ``as_of``."""
    logged = {session for session, _ in session_folders(predictions)} | set(excluded)
    first, last = records[0].session, records[-1].session
    lacking = [day for day in calendar.sessions(first, last) if day not in logged]
    found = [f"session {day}: no predictions" for day in lacking]
    if as_of:
        end = last_ended(calendar, as_of)
        after = [d for d in calendar.sessions(last + dt.timedelta(days=1), end) if d not in excluded]
        if after:
            found.append(
                f"the log is silent since {last}: no predictions of {len(after)} sessions up to {after[-1]}"
            )
    return found


def _statistics(
    records: Sequence[SessionRecord], release: JudgedRelease, live: LiveBars | None
) -> npt.NDArray[np.float64]:
    """``(S, 3, A, F + 1)``: the features' statistics and the bar returns' (zeros without bars)."""
    profiles = [record.profile for record in records if record.profile]
    features = np.stack([profile.statistics() for profile in profiles])
    returns = np.zeros((*features.shape[:3], 1))
    if live:
        scaler = release.reference.scaler
        market = Scaler(scaler.median[:, -1:], scaler.scale[:, -1:], scaler.clip)
        found = profile_bar_returns(live, [profile.session for profile in profiles], market)
        returns = np.stack([profile.statistics() for profile in found])
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
    answered = sum(record.answers.get(name, 0) for record in records for name in ANSWERED)
    return {
        "answered": answered,
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
        if skew and skew.differ > params.max_skew_share * skew.compared:
            worst = release.reference.features[int(np.argmax(skew.by_feature))]
            share = skew.differ / skew.compared
            return [Alarm("skew", worst, share, params.max_skew_share, str(record.session))]
    return []


def _serving_alarms(records: Sequence[SessionRecord], params: MonitoringParams) -> list[Alarm]:
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


def _lasting(
    verdict: Verdict,
    records: Sequence[SessionRecord],
    release: JudgedRelease,
    live: LiveBars | None,
    params: MonitoringParams,
) -> tuple[Verdict, list[Alarm]]:
    """What the live account and the model's age say; ``verdict`` with the figures and what is not watched."""
    alarms, unwatched = [], []
    last, trained = records[-1].session, release.reference.last_session
    age = len(Calendar(release.calendar, release.bar).sessions(trained, last)) - 1
    if age > params.max_model_age:
        figures = (f"training window ends {trained}", float(age), float(params.max_model_age), str(last))
        alarms.append(Alarm("age", *figures))
    figures_of: dict[str, Any] = {}
    if live is None:
        unwatched.append(f"{BAR_RETURN}, skew and the live account: no bars were given")
    else:
        usable = [record for record in records if record.sight]
        try:
            found = measure_performance(usable, live, release.returns, release.market(), params)
        except SekishoError as error:
            unwatched.append(f"the live account: {error.message}")
        else:
            alarms += _performance_alarms(found, params)
            figures_of = found.as_dict()
    return replace(verdict, performance=figures_of, unwatched=unwatched), alarms


def _performance_alarms(found: Performance, params: MonitoringParams) -> list[Alarm]:
    """The first session over each limit of the live account."""
    equity, band = found.equity, found.band
    below = ("equity below the backtest's band", -equity, -band)
    short = ("CUSUM of net returns under the backtest's mean", found.cusum, np.full(len(band), found.limit))
    alarms: list[Alarm] = []
    for family, (series, statistic, limit) in (
        ("performance", below),
        ("performance", short),
        (
            "drawdown",
            ("fraction of equity lost", found.drawdown, np.full(len(band), params.max_live_drawdown)),
        ),
        (
            "session-loss",
            ("fraction of equity lost", -found.live, np.full(len(band), params.max_session_loss)),
        ),
    ):
        over = np.flatnonzero(statistic > limit)
        if len(over) and family not in {alarm.family for alarm in alarms}:
            at = int(over[0])
            figures = (abs(float(statistic[at])), abs(float(limit[at])))
            alarms.append(Alarm(family, series, *figures, str(found.sessions[at])))
    return alarms
