"""What is kept of a session once it was read, beside its batches: the next check reads only new sessions."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sekisho.monitoring.histogram import Histograms
from sekisho.monitoring.predictions import ANSWERED, MISTIMED
from sekisho.monitoring.profile import Profile

VERSION = 3  # of the record's content: a new one makes every session be read again
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Skew:
    """Served observations against those recomputed from bars, joined request by request.

    ``compared`` requests had a recomputed row, ``differ`` of them in any bit; ``by_feature``: how many differ
    in each feature; ``first``: id of the first that differs, empty where none does.
    """

    compared: int
    differ: int
    by_feature: tuple[int, ...]
    first: str


@dataclass(frozen=True)
class Sight:
    """What the release saw and did at the ``N`` distinct bar ends of a session.

    ``histograms``: of the features (``A × F`` series) and, last, of the latency in seconds; ``closes``
    ``(N,)`` datetime64; ``answered`` and ``replayed`` ``(N, A)``: target weights that went out, and those
    that the released model gives on the logged observations.
    """

    histograms: Histograms
    closes: npt.NDArray[np.datetime64]
    answered: Float32
    replayed: Float32


@dataclass(frozen=True)
class SessionRecord:
    """One release in one session: ``rows`` predictions at ``bars`` distinct bar ends, counts of the guard's
    verdicts, largest difference to the replayed model, problems found. ``profile`` and ``sight`` are None
    where there are problems, ``skew`` where no bars were at hand.
    """

    session: dt.date
    rows: int
    bars: int
    answers: dict[str, int]
    parity: float
    problems: tuple[str, ...]
    profile: Profile | None = None
    sight: Sight | None = None
    skew: Skew | None = None

    @property
    def safe_share(self) -> float:
        """Share of the rows that got the safe action; 0 where verdicts are missing."""
        counted = sum(self.answers.values())
        return 1 - sum(self.answers.get(name, 0) for name in ANSWERED) / counted if counted else 0.0

    @property
    def stray(self) -> bool:
        """Nothing but requests that named this session at another time: no sign of service in it."""
        return 0 < self.rows == sum(self.answers.get(name, 0) for name in MISTIMED)


def record_key(files: Sequence[Path], manifest_digest: str, reference_digest: str, bars: str) -> str:
    """Changes with the batches (name, size, time of change), the release, the reference, the live bars and
    this code's version.
    """
    parts = [str(VERSION), manifest_digest, reference_digest, bars]
    for path in files:
        status = path.stat()
        parts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def load_record(path: Path) -> SessionRecord | None:
    """The record at ``path``; None where there is none or it is not whole."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return _unpack(json.loads(str(stored["about"])), dict(stored))
    except Exception:  # noqa: BLE001 (a damaged record of any kind means: read the session again)
        return None


def _unpack(about: dict[str, Any], stored: dict[str, Any]) -> SessionRecord:
    session, profile, sight = dt.date.fromisoformat(about["session"]), None, None
    if "total" in stored:
        arrays = {name: stored[name] for name in ("total", "products", "low", "high")}
        profile = Profile(session=session, rows=about["bars"], **arrays)
    if "codes" in stored:
        found = Histograms(stored["codes"], stored["counts"], stored["starts"])
        sight = Sight(found, stored["closes"], stored["answered"], stored["replayed"])
    skew = about["skew"]
    return SessionRecord(
        session,
        about["rows"],
        about["bars"],
        about["answers"],
        about["parity"],
        tuple(about["problems"]),
        profile,
        sight,
        Skew(skew[0], skew[1], tuple(skew[2]), skew[3]) if skew else None,
    )


def save_record(record: SessionRecord, path: Path) -> None:
    """Keep a record and drop older ones of its session; a folder that may not be written is left as it is."""
    skew, profile, sight = record.skew, record.profile, record.sight
    about = {
        "session": str(record.session),
        "rows": record.rows,
        "bars": record.bars,
        "answers": record.answers,
        "parity": record.parity,
        "problems": list(record.problems),
        "skew": [skew.compared, skew.differ, list(skew.by_feature), skew.first] if skew else None,
    }
    arrays = {n: getattr(profile, n) for n in ("total", "products", "low", "high")} if profile else {}
    if sight:
        arrays |= {n: getattr(sight.histograms, n) for n in ("codes", "counts", "starts")}
        arrays |= {n: getattr(sight, n) for n in ("closes", "answered", "replayed")}
    beside = path.with_suffix(".tmp")
    try:
        with beside.open("wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
        for old in path.parent.glob(".profile-*.npz"):
            old.unlink()
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
