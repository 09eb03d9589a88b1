"""What a live market leaves for the scheduled check: bars, and the log of the released model's answers."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import polars as pl

from sekisho.calendar import Calendar
from sekisho.data.contract import COLUMNS
from sekisho.data.panel import load_panel
from sekisho.data.store import write_partition
from sekisho.data.synthetic import BAR, CALENDAR, SAMPLE_SEED, Change, sample_sessions, synthetic_bars
from sekisho.features import compute_features
from sekisho.params import load_params
from sekisho.release.manifest import read_manifest
from sekisho.serving.core import Decision
from sekisho.serving.guard import Reason
from sekisho.serving.predictions import Entry, PredictionLog

CHANGE = {"volatility": 2.0, "correlation": 0.8}
WARM_UP = 2  # sessions of live bars that the first answer's features and costs look back over


@dataclass(frozen=True)
class Live:
    """The sample's market in the sessions after it; ``changed_from``: index of the first changed one."""

    folder: Path
    sessions: int
    changed_from: int | None = None

    @property
    def days(self) -> list[dt.date]:
        return Calendar(CALENDAR, BAR).next_sessions(sample_sessions()[-1], self.sessions)

    def write(self, release: Path, params: Path) -> None:
        """``bars/<session>.parquet``, and ``predictions/<session>/…`` of the release after the warm-up."""
        past, days = sample_sessions(), self.days
        change = None if self.changed_from is None else Change(days[self.changed_from], **CHANGE)
        frame = synthetic_bars(past[0], len(past) + len(days), SAMPLE_SEED, change=change)
        whole = self.folder / "whole"
        whole.mkdir(parents=True)
        frame.write_parquet(whole / "all.parquet")
        (self.folder / "bars").mkdir()
        new = frame.filter(pl.col("session") > past[-1]).partition_by(["session"], as_dict=True)
        for (day,), part in new.items():
            write_partition(part.select(list(COLUMNS)), self.folder / "bars" / f"{day}.parquet")
        panel = load_panel(whole)
        features = compute_features(panel, load_params(params).features)
        manifest, digest = read_manifest(release)
        model = ort.InferenceSession(release / "content/model.onnx", providers=["CPUExecutionProvider"])
        (given,) = model.get_inputs()
        log = PredictionLog(self.folder / "predictions", capacity=10**6, batch=4096, interval=60.0)
        for number in np.flatnonzero(panel.session >= np.datetime64(days[WARM_UP])):
            moment = panel.ts_close[number].item().replace(tzinfo=dt.UTC)
            flat = np.zeros((panel.close.shape[1], 1), np.float32)  # no position yet
            observation = np.concatenate([features[number], flat], axis=1)[None]
            answer = model.run(None, {given.name: observation})[0]
            log.append(
                Entry(
                    request_id=f"live-{number}", at=moment, session=panel.session[number].item(),
                    ts_close=moment, model=manifest.model, seq=manifest.seq, digest=digest,
                    observation=observation, decision=Decision(answer, (Reason.OK,)), latency_us=500,
                )
            )  # fmt: skip
        log.close()
