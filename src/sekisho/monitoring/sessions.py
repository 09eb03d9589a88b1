"""From the prediction log to one record per session: read, replayed and compared with bars once."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.calendar import Calendar
from sekisho.errors import SekishoError
from sekisho.features.compute import CLOCKS
from sekisho.monitoring.histogram import Histograms, histograms
from sekisho.monitoring.kept import Kept
from sekisho.monitoring.live_bars import LiveBars, SessionBars
from sekisho.monitoring.predictions import ANSWERED, MISTIMED, Logs, SessionLog, read_session
from sekisho.monitoring.profile import Scaler, profile_session
from sekisho.monitoring.records import VERSION, SessionRecord, Sight, Skew
from sekisho.monitoring.released import JudgedRelease
from sekisho.params import MonitoringParams

Float32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
MICROSECOND = np.float32(1e-6)
TIME_OF_DAY = CLOCKS[0]


def read_records(
    logs: Logs,
    release: JudgedRelease,
    params: MonitoringParams,
    kept: Kept,
    live: LiveBars | None = None,
    until: dt.date | None = None,
) -> list[SessionRecord]:
    """Records of the sessions up to ``until`` that the log holds rows of the release for, in time order; what
    is wrong with a session is said in its record.
    """
    records = []
    replayer: Replayer | None = None
    for session, files in logs.sessions.items():
        if until and session > until:
            continue
        key = _key(files, release, params, kept, session, live)
        record = kept.record(str(session), key)
        if record is None:
            names = (release.model, release.seq, release.digest)
            kept.need(files)
            log = read_session(session, files, *names, release.shape, _closes(release, session))
            replayer = replayer or Replayer(release.content / "model.onnx")
            record = make_record(log, release, params, replayer, live)
            kept.keep(record, key)
        if record.rows or record.problems:  # else only other releases predicted
            records.append(record)
    return records


def _key(
    files: list[Path],
    release: JudgedRelease,
    params: MonitoringParams,
    kept: Kept,
    session: dt.date,
    live: LiveBars | None,
) -> str:
    """Changes with the content of the batches and of the live bars, the release, the reference and this
    code's version.
    """
    limits = f"{params.max_safe_share} {params.max_skew_share} {params.min_rows}"
    parts = [str(VERSION), release.digest, release.reference.digest, limits]
    try:
        parts += [kept.digests(files), kept.digests(live.files(session)) if live else ""]
    except (OSError, SekishoError) as error:  # said again where the file is read
        parts.append(str(error))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _closes(release: JudgedRelease, session: dt.date) -> npt.NDArray[np.datetime64]:
    """The session's bar ends; none where the exchange has no such session."""
    calendar = Calendar(release.calendar, release.bar)
    known = calendar.sessions(session, session)
    return calendar.closes(session) if known else np.array([], dtype="datetime64[us]")


class Replayer:
    """The release's own model, to answer the logged observations again."""

    def __init__(self, model: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        inputs = self._session.get_inputs()
        self.state_shape = (
            tuple(inputs[1].shape[1:]) if len(inputs) > 1 else None
        )  # (A, H) of a recurrent one

    def answer(self, observations: Float32, states: Float32 | None) -> Float32:
        """Target weights ``(N, A)`` for ``(N, A, F + 1)`` observations, from the logged ``states``."""
        given = {"observation": observations}
        if states is not None:
            given["state"] = states
        weights: Float32 = self._session.run(["target_weights"], given)[0]
        return weights


def make_record(
    log: SessionLog,
    release: JudgedRelease,
    params: MonitoringParams,
    replayer: Replayer,
    live: LiveBars | None,
) -> SessionRecord:
    """Everything later checks need to know of a session. One with problems gets no profile, so that drift is
    not judged by it; what its rows show of losses and of the guard is kept all the same.
    """
    bars, feed = _watch(log.session, live)
    logged = log.rows.filter(pl.Series(log.first_answers())) if len(log.rows) else log.rows
    base = SessionRecord(
        session=log.session,
        rows=len(logged),
        bars=0,
        answers=dict(sorted(Counter(logged["verdict"].drop_nulls().to_list()).items())),
        parity=0.0,
        problems=log.problems,
        feed=feed,
        hours=log.hours,
        others=log.others,
        market=profile_session(log.session, bars.returns, _market(release.reference.scaler))
        if bars
        else None,
    )
    usable = log.usable(release.shape)
    return _filled(base, usable, release, params, replayer, bars) if len(usable.rows) else base


def _filled(
    record: SessionRecord,
    log: SessionLog,
    release: JudgedRelease,
    params: MonitoringParams,
    replayer: Replayer,
    bars: SessionBars | None,
) -> SessionRecord:
    """``record`` with what the usable rows of ``log`` show."""
    observations, targets = log.observations(release.shape), log.targets(release.shape)
    finite = np.isfinite(observations).all(axis=(1, 2))
    replayed = np.zeros_like(targets)
    if finite.any():
        states = log.states(replayer.state_shape) if replayer.state_shape else None
        kept = states[finite] if states is not None else None
        replayed[finite] = replayer.answer(observations[finite], kept)
    agreed = finite & (log.rows["verdict"] == "ok").to_numpy()
    seen = finite & log.first_answers() & ~log.rows["verdict"].is_in(MISTIMED).to_numpy()
    times = log.rows["ts_close"].filter(pl.Series(seen))  # several portfolios may ask at one bar
    once = np.flatnonzero(seen)[times.is_first_distinct().to_numpy()]
    once = once[np.argsort(_naive(log.rows["ts_close"])[once], kind="stable")]
    features = observations[once, :, :-1]
    problems = (
        record.problems
        or tuple(_poor_inputs(observations, features, release, params))
        or tuple(_other_order(features, _naive(log.rows["ts_close"])[once], release))
    )
    skew = _skew(log, observations, bars) if bars else None
    return replace(
        record,
        bars=len(once),
        parity=float(np.abs(replayed - targets)[agreed].max(initial=0.0)),
        problems=problems,
        profile=profile_session(log.session, features, _features_only(release.reference.scaler))
        if len(once) and not problems
        else None,
        sight=Sight(
            histograms=_histograms(features, log.rows["latency_us"]),
            closes=_naive(log.rows["ts_close"])[once],
            answered=targets[once],
            replayed=replayed[once],
        )
        if len(once)
        else None,
        skew=skew,
        feed=(*record.feed, *_uncompared(skew, params)),
    )


def _watch(session: dt.date, live: LiveBars | None) -> tuple[SessionBars | None, tuple[str, ...]]:
    """The live bars of the session, or why they cannot be held against it."""
    if live is None:
        return None, ()
    try:
        bars = live.watch(session)
    except SekishoError as error:
        return None, (error.message,)
    return bars, tuple(f"the close of {symbol} never moved: is its feed frozen?" for symbol in bars.constant)


def _poor_inputs(
    observations: Float32, features: Float32, release: JudgedRelease, params: MonitoringParams
) -> Iterator[str]:
    """Inputs that were missing, or that stood still: a fault of the data, which is no drift."""
    names, symbols = release.reference.features, release.reference.symbols
    missing = ~np.isfinite(observations[:, :, :-1])
    lacking = int(missing.any(axis=(1, 2)).sum())
    if lacking > params.max_safe_share * len(observations):
        asset, feature = np.unravel_index(missing.sum(axis=0).argmax(), missing.shape[1:])
        share = f"{lacking} of {len(observations)} requests"
        yield f"inputs are missing (NaN) in {share}, most often {names[feature]} of {symbols[asset]}"
    if len(features) >= params.min_rows:
        watched = release.reference.baseline.watched[..., :-1].any(axis=0)  # clocks need not vary
        still = (np.ptp(features, axis=0) == 0) & watched
        if still.any():
            asset, feature = (int(i[0]) for i in np.nonzero(still))
            more = f" (and {still.sum() - 1} more inputs)" if still.sum() > 1 else ""
            value = features[0, asset, feature]
            what = f"{names[feature]} of {symbols[asset]} stood still at {value:.4g}{more}"
            yield f"{what}: is the feed frozen?"


def _other_order(
    features: Float32, closes: npt.NDArray[np.datetime64], release: JudgedRelease
) -> Iterator[str]:
    """The one feature whose values are known without bars: where it holds something else, the caller gave the
    features in another order, or those of another time.
    """
    if TIME_OF_DAY not in release.reference.features:
        return
    place = release.reference.features.index(TIME_OF_DAY)
    day = closes.astype("datetime64[D]").astype("datetime64[us]")
    known = ((closes - day).astype(np.int64) / 86_400e6).astype(np.float32)
    if wrong := int((features[:, :, place] != known[:, None]).any(axis=1).sum()):
        share = f"{wrong} of {len(features)} bar ends"
        yield f"{TIME_OF_DAY} is not that of the bar at {share}: are the features in another order?"


def _histograms(features: Float32, latency: pl.Series) -> Histograms:
    """Of the features, and of the latency as one more series."""
    values, times = histograms(features), histograms(latency.to_numpy().astype(np.float32) * MICROSECOND)
    return Histograms(
        np.concatenate([values.codes, times.codes]),
        np.concatenate([values.counts, times.counts]),
        np.concatenate([values.starts, values.starts[-1] + times.starts[1:]]),
    )


def _skew(log: SessionLog, observations: Float32, bars: SessionBars) -> Skew:
    """Join each answered request with the features recomputed for its bar; every bit must agree."""
    answered = log.rows["verdict"].is_in(ANSWERED).to_numpy() & log.first_answers()
    times = _naive(log.rows["ts_close"])
    known = {at for at, row in bars.features.items() if np.isfinite(row).all()}
    rows = [row for row in np.flatnonzero(answered) if times[row] in known]
    count, answers = len(live_features := observations[rows, :, :-1]), int(answered.sum())
    if not count:
        return Skew(answers, 0, 0, (0,) * (observations.shape[2] - 1), "")
    unlike = live_features != np.stack([bars.features[times[row]] for row in rows])  # (N, A, F)
    differ = np.flatnonzero(unlike.any(axis=(1, 2)))
    first = str(log.rows["prediction_id"][int(rows[differ[0]])]) if len(differ) else ""
    by_feature = tuple(int(n) for n in unlike.any(axis=1).sum(axis=0))
    return Skew(answers, count, len(differ), by_feature, first)


def _uncompared(skew: Skew | None, params: MonitoringParams) -> tuple[str, ...]:
    """At least ``1 - max_skew_share`` of the answered requests must have been held against the bars."""
    if skew is None or skew.answered - skew.compared <= params.max_skew_share * skew.answered:
        return ()
    return (
        f"only {skew.compared} of {skew.answered} answered requests could be compared with the live bars: "
        "their bars, or those of the sessions before, are missing",
    )


def _naive(times: pl.Series) -> npt.NDArray[np.datetime64]:
    found: npt.NDArray[np.datetime64] = times.dt.replace_time_zone(None).to_numpy()
    return found


def _features_only(scaler: Scaler) -> Scaler:
    return Scaler(scaler.median[:, :-1], scaler.scale[:, :-1], scaler.clip)


def _market(scaler: Scaler) -> Scaler:
    """Of the bars' returns, the last series."""
    return Scaler(scaler.median[:, -1:], scaler.scale[:, -1:], scaler.clip)
