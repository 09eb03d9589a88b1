"""From the prediction log to one record per session: read, replayed and compared with bars once."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.calendar import Calendar
from sekisho.errors import CannotCheck
from sekisho.monitoring.histogram import Histograms, histograms
from sekisho.monitoring.live_bars import LiveBars
from sekisho.monitoring.predictions import ANSWERED, MISTIMED, SessionLog, read_session, session_folders
from sekisho.monitoring.profile import Scaler, profile_session
from sekisho.monitoring.records import SessionRecord, Sight, Skew, load_record, record_key, save_record
from sekisho.monitoring.released import JudgedRelease
from sekisho.params import MonitoringParams

Float32 = npt.NDArray[np.float32]
MICROSECOND = np.float32(1e-6)


def read_records(
    predictions: Path,
    release: JudgedRelease,
    params: MonitoringParams,
    excluded: Mapping[dt.date, str],
    live: LiveBars | None = None,
    until: dt.date | None = None,
) -> tuple[list[SessionRecord], list[str]]:
    """Records of the sessions up to ``until`` that the log holds rows of the release for, and every problem
    found in them.

    Raises:
        CannotCheck: a file that cannot be read at all; no prediction by this release.
        DataError: live bars that cannot be read.
    """
    records, problems = [], []
    replayer: Replayer | None = None
    for session, files in session_folders(predictions):
        if session in excluded or (until and session > until):
            continue
        bars = live.key(session) if live else ""
        key = record_key(files, release.digest, release.reference.digest, bars)
        path = files[0].parent / f".profile-{key}.npz"
        record = load_record(path)
        if record is None:
            names = (release.model, release.seq, release.digest)
            log = read_session(session, files, *names, release.shape, _closes(release, session))
            replayer = replayer or Replayer(release.content / "model.onnx")
            record = make_record(log, release, replayer, live)
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
    log: SessionLog, release: JudgedRelease, replayer: Replayer, live: LiveBars | None
) -> SessionRecord:
    """Everything later checks need to know of a session; a session with problems gets no profile."""
    answers = dict(sorted(Counter(log.rows["verdict"].drop_nulls().to_list()).items()))
    if log.problems or log.rows.is_empty():
        return SessionRecord(log.session, len(log.rows), 0, answers, 0.0, log.problems)
    observations, targets = log.observations(release.shape), log.targets(release.shape)
    finite = np.isfinite(observations).all(axis=(1, 2))
    replayed = np.zeros_like(targets)
    if finite.any():
        states = log.states(replayer.state_shape) if replayer.state_shape else None
        kept = states[finite] if states is not None else None
        replayed[finite] = replayer.answer(observations[finite], kept)
    agreed = (log.rows["verdict"] == "ok").to_numpy()
    seen = finite & ~log.rows["verdict"].is_in(MISTIMED).to_numpy()
    times = log.rows["ts_close"].filter(pl.Series(seen))  # several portfolios may ask at one bar
    once = np.flatnonzero(seen)[times.is_first_distinct().to_numpy()]
    features = observations[once, :, :-1]
    return SessionRecord(
        session=log.session,
        rows=len(log.rows),
        bars=len(once),
        answers=answers,
        parity=float(np.abs(replayed - targets)[agreed].max(initial=0.0)),
        problems=(),
        profile=profile_session(log.session, features, _features_only(release.reference.scaler))
        if len(once)
        else None,
        sight=Sight(
            histograms=_histograms(features, log.rows["latency_us"]),
            closes=_naive(log.rows["ts_close"])[once],
            answered=targets[once],
            replayed=replayed[once],
        )
        if len(once)
        else None,
        skew=_skew(log, observations, live) if live else None,
    )


def _histograms(features: Float32, latency: pl.Series) -> Histograms:
    """Of the features, and of the latency as one more series."""
    values, times = histograms(features), histograms(latency.to_numpy().astype(np.float32) * MICROSECOND)
    return Histograms(
        np.concatenate([values.codes, times.codes]),
        np.concatenate([values.counts, times.counts]),
        np.concatenate([values.starts, values.starts[-1] + times.starts[1:]]),
    )


def _skew(log: SessionLog, observations: Float32, live: LiveBars) -> Skew:
    """Join each answered request with the features recomputed for its bar; every bit must agree."""
    recomputed = live.recomputed(log.session)
    answered = log.rows["verdict"].is_in(ANSWERED).to_numpy()
    times = _naive(log.rows["ts_close"])
    rows = [row for row in np.flatnonzero(answered) if times[row] in recomputed]
    count = len(live_features := observations[rows, :, :-1])
    if not count:
        return Skew(0, 0, (0,) * (observations.shape[2] - 1), "")
    unlike = live_features != np.stack([recomputed[times[row]] for row in rows])  # (N, A, F)
    differ = np.flatnonzero(unlike.any(axis=(1, 2)))
    first = str(log.rows["prediction_id"][int(rows[differ[0]])]) if len(differ) else ""
    by_feature = tuple(int(n) for n in unlike.any(axis=1).sum(axis=0))
    return Skew(count, len(differ), by_feature, first)


def _naive(times: pl.Series) -> npt.NDArray[np.datetime64]:
    found: npt.NDArray[np.datetime64] = times.dt.replace_time_zone(None).to_numpy()
    return found


def _features_only(scaler: Scaler) -> Scaler:
    return Scaler(scaler.median[:, :-1], scaler.scale[:, :-1], scaler.clip)
