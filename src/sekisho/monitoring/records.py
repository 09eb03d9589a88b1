"""What is kept of a session once it was read, beside its batches: the next check reads only new sessions."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sekisho.monitoring.predictions import ANSWERED, MISTIMED
from sekisho.monitoring.profile import Profile

VERSION = 2  # of the record's content: a new one makes every session be read again


@dataclass(frozen=True)
class SessionRecord:
    """One release in one session: ``rows`` predictions at ``bars`` distinct bar ends, counts of the guard's
    verdicts,
    largest difference to the replayed model, problems found; ``profile`` is None where there are problems."""

    session: dt.date
    rows: int
    bars: int
    answers: dict[str, int]
    parity: float
    problems: tuple[str, ...]
    profile: Profile | None

    @property
    def safe_share(self) -> float:
        """Share of the rows that got the safe action; 0 where verdicts are missing."""
        counted = sum(self.answers.values())
        return 1 - sum(self.answers.get(name, 0) for name in ANSWERED) / counted if counted else 0.0

    @property
    def stray(self) -> bool:
        """Nothing but requests that named this session at another time: no sign of service in it."""
        return 0 < self.rows == sum(self.answers.get(name, 0) for name in MISTIMED)


def record_key(files: Sequence[Path], manifest_digest: str, reference_digest: str) -> str:
    """Changes with the batches (name, size, time of change), the release, the reference and this code's
    version.
    """
    parts = [str(VERSION), manifest_digest, reference_digest]
    for path in files:
        status = path.stat()
        parts.append(f"{path.name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def load_record(path: Path) -> SessionRecord | None:
    """The record at ``path``; None where there is none or it is not whole."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            session = dt.date.fromisoformat(about["session"])
            profile = None
            if "total" in stored:
                arrays = {name: stored[name] for name in ("total", "products", "low", "high")}
                profile = Profile(session=session, rows=about["bars"], **arrays)
    except Exception:  # noqa: BLE001 (a damaged record of any kind means: read the session again)
        return None
    return SessionRecord(
        session,
        about["rows"],
        about["bars"],
        about["answers"],
        about["parity"],
        tuple(about["problems"]),
        profile,
    )


def save_record(record: SessionRecord, path: Path) -> None:
    """Keep a record and drop older ones of its session; a folder that may not be written is left as it is."""
    about = {
        "session": str(record.session),
        "rows": record.rows,
        "bars": record.bars,
        "answers": record.answers,
        "parity": record.parity,
        "problems": list(record.problems),
    }
    profile = record.profile
    arrays = {n: getattr(profile, n) for n in ("total", "products", "low", "high")} if profile else {}
    beside = path.with_suffix(".tmp")
    try:
        with beside.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)
        for old in path.parent.glob(".profile-*.npz"):
            old.unlink()
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
