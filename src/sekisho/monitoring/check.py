"""The scheduled check: can the log be believed, then drift, then whether the served model is the released
one.

Problems of the data come first: a log that cannot be believed shows neither drift nor its absence, and a
silent one is a problem. What the guard's verdicts and the replay show of the serving side is said
all the same.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml

from sekisho.calendar import Calendar
from sekisho.errors import CannotCheck, Refused, SekishoError
from sekisho.monitoring.detector import Detection, detect, prewhiten
from sekisho.monitoring.live_bars import profile_bar_returns
from sekisho.monitoring.predictions import ANSWERED, MISTIMED, SessionLog, read_session, session_folders
from sekisho.monitoring.profile import FAMILIES, Profile, Scaler, profile_session
from sekisho.monitoring.records import SessionRecord, load_record, record_key, save_record
from sekisho.monitoring.reference import BAR_RETURN, Reference, load_reference, session_gaps
from sekisho.monitoring.verdict import Alarm, Verdict
from sekisho.params import DataParams, MonitoringParams
from sekisho.release.manifest import check_files, read_manifest
from sekisho.serving.predictions import verify_chain

TOP = 10  # series named in the verdict


@dataclass(frozen=True)
class JudgedRelease:
    """The release whose predictions are judged, its files checked against its manifest."""

    model: str
    seq: int
    digest: str
    content: Path
    calendar: str
    bar: str
    reference: Reference

    @property
    def shape(self) -> tuple[int, int]:
        """Assets and features of an observation, without the weight column."""
        return len(self.reference.symbols), len(self.reference.features) - 1


def check_predictions(
    predictions: Path,
    release: Path,
    params: MonitoringParams,
    *,
    bars: Path | None = None,
    data: DataParams | None = None,
    excluded: Mapping[dt.date, str] | None = None,
    as_of: dt.datetime | None = None,
) -> Verdict:
    """Judge the predictions of ``release``; never raises for what is wrong with the log: that is a verdict.

    Args:
        predictions: folder written by the server; session profiles are kept in it, so that a session is
            read once.
        release: release folder with its content.
        params: monitoring; strengths, inflation and clip come from the release's reference.
        bars: folder of the live market's bars (raw contract); with it the level of volatility is watched too.
        data: how ``bars`` are validated; needed with it.
        excluded: sessions that people took out of the judgement, with the reason
            (``monitoring/excluded.yaml``).
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
        until = last_ended(calendar, as_of) if as_of else None
        every, problems = read_records(predictions, judged, params, out, until)
        verify_chain(predictions)
        records = [record for record in every if not record.stray or record.rows >= params.min_rows]
        problems += _silences(records, predictions, calendar, out, as_of)
    except SekishoError as error:
        return replace(verdict, problems=[error.message])
    left_out = {str(day): reason for day, reason in out.items()}
    serving = _serving_alarms(records, params)
    verdict = replace(_summed(verdict, records, every), excluded=left_out, alarms=serving)
    if problems:
        return replace(verdict, problems=problems)
    try:
        statistics = _statistics(records, judged, bars, data)
        sessions = [record.session for record in records]
        gaps = session_gaps(sessions, calendar)
    except SekishoError as error:
        return replace(verdict, problems=[error.message])
    baseline = judged.reference.baseline
    unwatched = (
        [] if bars else [f"{BAR_RETURN}: no bars were given, so the level of volatility is not watched"]
    )
    if not bars:
        watched = baseline.watched.copy()
        watched[..., -1] = False
        baseline = replace(baseline, watched=watched)
    bets = judged.reference.params
    detection = detect(prewhiten(statistics, gaps, baseline, bets), baseline, bets)
    alarms = _drift_alarms(detection, sessions, judged.reference, params) + serving
    return replace(
        verdict,
        state="alarm" if alarms else "ok",
        alarms=alarms,
        threshold=params.alarm_level,
        levels={str(day): float(x) for day, x in zip(sessions, detection.level, strict=True)},
        top=_top(detection, _decisive(detection, params), judged.reference),
        unwatched=unwatched,
    )


def open_release(release: Path, params: MonitoringParams) -> JudgedRelease:
    """Check the release's files against its manifest and load what the check needs.

    Raises:
        Refused: a file differs from the manifest.
        CannotCheck: a file is missing or unreadable.
    """
    manifest, digest = read_manifest(release)
    content = release / "content"
    check_files(manifest, content)
    try:
        about = json.loads((content / "observation.json").read_text(encoding="utf-8"))
        calendar, bar = str(about["calendar"]), str(about["bar"])
        order = (tuple(about["symbols"]), (*about["features"], BAR_RETURN))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotCheck(
            f"{content}/observation.json: {error!r}", remedy="pull the release with dvc"
        ) from error
    reference = load_reference(content / "reference.json", params)
    if (reference.symbols, reference.features) != order:
        raise Refused(
            "monitoring.reference-series",
            expected=f"a reference of {order}",
            found=f"one of {(reference.symbols, reference.features)}",
            remedy="export the release again: its reference was made from other data",
        )
    return JudgedRelease(manifest.model, manifest.seq, digest, content, calendar, bar, reference)


def read_records(
    predictions: Path,
    release: JudgedRelease,
    params: MonitoringParams,
    excluded: Mapping[dt.date, str],
    until: dt.date | None = None,
) -> tuple[list[SessionRecord], list[str]]:
    """Records of the sessions up to ``until`` that the log holds rows of the release for, and every problem
    found in them.

    Raises:
        CannotCheck: a file that cannot be read at all; no prediction by this release.
    """
    records, problems = [], []
    replayer: Replayer | None = None
    for session, files in session_folders(predictions):
        if session in excluded or (until and session > until):
            continue
        path = files[0].parent / f".profile-{record_key(files, release.digest, release.reference.digest)}.npz"
        record = load_record(path)
        if record is None:
            log = read_session(session, files, release.model, release.seq, release.digest, release.shape)
            replayer = replayer or Replayer(release.content / "model.onnx")
            record = make_record(log, release, replayer)
            save_record(record, path)
        if not record.rows and not record.problems:
            continue  # only other releases predicted
        problems += [f"session {session}: {problem}" for problem in record.problems]
        short = record.bars < params.min_rows and not (record.stray and record.rows < params.min_rows)
        if short and not record.problems:
            problems.append(f"session {session}: {record.bars} predicted bars, {params.min_rows} are needed")
        records.append(record)
    if all(record.stray and record.rows < params.min_rows for record in records):
        raise CannotCheck(
            f"{predictions}: no prediction by {release.model}/{release.seq}"
            + (f" up to {until}" if until else ""),
            remedy="name the release that serves",
        )
    return records, problems


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


class Replayer:
    """The release's own model, to answer the logged observations again."""

    def __init__(self, model: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def difference(self, observations: npt.NDArray[np.float32], answered: npt.NDArray[np.float32]) -> float:
        """Largest |logged - replayed| target weight over ``(N, A, F + 1)`` observations; 0 for none."""
        if not len(observations):
            return 0.0
        replayed = self._session.run(None, {"observation": observations})[0]
        return float(np.abs(replayed - answered).max())


def make_record(log: SessionLog, release: JudgedRelease, replayer: Replayer) -> SessionRecord:
    """Everything later checks need to know of a session; a session with problems gets no profile."""
    answers = dict(sorted(Counter(log.rows["verdict"].drop_nulls().to_list()).items()))
    if log.problems or log.rows.is_empty():
        return SessionRecord(log.session, len(log.rows), 0, answers, 0.0, log.problems, None)
    observations = log.observations(release.shape)
    agreed = (log.rows["verdict"] == "ok").to_numpy()
    seen = np.isfinite(observations).all(axis=(1, 2)) & ~log.rows["verdict"].is_in(MISTIMED).to_numpy()
    times = log.rows["ts_close"].filter(pl.Series(seen))  # several portfolios may ask at one bar
    once = np.flatnonzero(seen)[times.is_first_distinct().to_numpy()]
    return SessionRecord(
        session=log.session,
        rows=len(log.rows),
        bars=len(once),
        answers=answers,
        parity=replayer.difference(observations[agreed], log.targets(release.shape)[agreed]),
        problems=(),
        profile=profile_session(
            log.session, observations[once, :, :-1], _features_only(release.reference.scaler)
        )
        if len(once)
        else None,
    )


def _features_only(scaler: Scaler) -> Scaler:
    return Scaler(scaler.median[:, :-1], scaler.scale[:, :-1], scaler.clip)


def _statistics(
    records: Sequence[SessionRecord], release: JudgedRelease, bars: Path | None, data: DataParams | None
) -> npt.NDArray[np.float64]:
    """``(S, 3, A, F + 1)``: the features' statistics and the bar returns' (zeros without bars)."""
    profiles = [record.profile for record in records if record.profile]
    features = np.stack([profile.statistics() for profile in profiles])
    returns = np.zeros((*features.shape[:3], 1))
    if bars and data:
        scaler, symbols = release.reference.scaler, release.reference.symbols
        market = Scaler(scaler.median[:, -1:], scaler.scale[:, -1:], scaler.clip)
        days = [profile.session for profile in profiles]
        found: Sequence[Profile] = profile_bar_returns(bars, days, symbols, market, data)
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
        parity_difference=max(record.parity for record in records),
    )


def _decisive(detection: Detection, params: MonitoringParams) -> int:
    """The session that tells the story: the first over the alarm level, else the last."""
    over = np.flatnonzero(detection.level >= params.alarm_level)
    return int(over[0]) if len(over) else len(detection.level) - 1


def _top(detection: Detection, at: int, reference: Reference) -> list[dict[str, Any]]:
    """The strongest series after session ``at``, by their own evidence."""
    evidence = detection.evidence[at]
    order = np.argsort(-evidence, axis=None, kind="stable")[:TOP]
    places = [np.unravel_index(i, evidence.shape) for i in order]
    return [
        {
            "family": FAMILIES[family],
            "symbol": reference.symbols[asset],
            "feature": reference.features[feature],
            "evidence": float(evidence[family, asset, feature]),
        }
        for family, asset, feature in places
    ]


def _drift_alarms(
    detection: Detection, sessions: Sequence[dt.date], reference: Reference, params: MonitoringParams
) -> list[Alarm]:
    """At most one alarm: the families share one statistic; the alarm bears the name of the one that carries
    it.
    """
    at = _decisive(detection, params)
    if not detection.level[at] >= params.alarm_level:
        return []
    family = int(detection.evidence[at].sum(axis=(1, 2)).argmax())
    strongest = np.unravel_index(detection.evidence[at, family].argmax(), detection.evidence.shape[2:])
    return [
        Alarm(
            family=FAMILIES[family],
            series=f"{reference.features[strongest[1]]} of {reference.symbols[strongest[0]]}",
            statistic=float(detection.level[at]),
            threshold=params.alarm_level,
            session=str(sessions[at]),
        )
    ]


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


def load_excluded(path: Path) -> dict[dt.date, str]:
    """Sessions people took out of the judgement (``2026-07-01: reason``); none where there is no file.

    Raises:
        CannotCheck: not a mapping of sessions to reasons.
    """
    if not path.exists():
        return {}
    try:
        entries = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).items()
        if all(isinstance(day, dt.date) and isinstance(why, str) and why.strip() for day, why in entries):
            return dict(entries)
        problem = "each line must be `YYYY-MM-DD: reason`"
    except (OSError, AttributeError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = str(error)
    raise CannotCheck(f"{path}: {problem}", remedy="write one line per session, with its reason")
