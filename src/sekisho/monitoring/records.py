"""What is kept of a session once it was read: the next check reads only new sessions."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sekisho.monitoring.histogram import Histograms
from sekisho.monitoring.predictions import ANSWERED, MISTIMED
from sekisho.monitoring.profile import Profile

VERSION = 4  # of the record's content: a new one makes every session be read again
Float32 = npt.NDArray[np.float32]
SUMS = ("total", "products", "low", "high")  # arrays of a profile
MARKET = "market_"  # before those of the bars' returns
PLAIN = ("rows", "bars", "answers", "parity", "hours", "others")  # kept as they are


@dataclass(frozen=True)
class Skew:
    """Served observations against those recomputed from bars, joined request by request.

    Of ``answered`` requests ``compared`` had a recomputed row, ``differ`` of these in any bit;
    ``by_feature``: how many differ in each feature; ``first``: id of the first that differs, empty where
    none does.
    """

    answered: int
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
    """One release in one session: ``rows`` predictions (a request answered twice counts once) at ``bars``
    distinct bar ends, counts of the guard's verdicts, largest difference to the replayed model.

    ``problems``: of the log; ``feed``: of the live bars, and of the features held against them. ``hours``:
    whether a row came in the session's own hours; ``others``: rows that other releases answered.
    ``profile`` is None where there are problems, ``sight`` where no row can be computed with; ``skew`` and
    ``market`` (the profile of the bars' returns) where no bars were at hand.
    """

    session: dt.date
    rows: int
    bars: int
    answers: dict[str, int]
    parity: float
    problems: tuple[str, ...]
    feed: tuple[str, ...] = ()
    hours: bool = True
    others: int = 0
    profile: Profile | None = None
    sight: Sight | None = None
    skew: Skew | None = None
    market: Profile | None = None

    @property
    def safe_share(self) -> float:
        """Share of the rows that got the safe action; 0 where verdicts are missing."""
        counted = sum(self.answers.values())
        return 1 - sum(self.answers.get(name, 0) for name in ANSWERED) / counted if counted else 0.0

    @property
    def mistimed(self) -> bool:
        """Nothing but requests whose time the guard refused: the session is what their callers said."""
        return 0 < self.rows == sum(self.answers.get(name, 0) for name in MISTIMED)


def load_record(path: Path) -> SessionRecord | None:
    """The record at ``path``; None where there is none or it is not whole."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return _unpack(json.loads(str(stored["about"])), dict(stored))
    except Exception:  # noqa: BLE001 (a damaged record of any kind means: read the session again)
        return None


def _unpack(about: dict[str, Any], stored: dict[str, Any]) -> SessionRecord:
    session, sight, skew = dt.date.fromisoformat(about["session"]), None, about["skew"]
    if "codes" in stored:
        found = Histograms(stored["codes"], stored["counts"], stored["starts"])
        sight = Sight(found, stored["closes"], stored["answered"], stored["replayed"])
    return SessionRecord(
        session=session,
        **{name: about[name] for name in PLAIN},
        problems=tuple(about["problems"]),
        feed=tuple(about["feed"]),
        profile=_profile(session, about["profile"], "", stored),
        sight=sight,
        skew=Skew(skew[0], skew[1], skew[2], tuple(skew[3]), skew[4]) if skew else None,
        market=_profile(session, about["market"], MARKET, stored),
    )


def _profile(session: dt.date, rows: int | None, prefix: str, stored: dict[str, Any]) -> Profile | None:
    if rows is None:
        return None
    return Profile(session=session, rows=rows, **{name: stored[prefix + name] for name in SUMS})


def save_record(record: SessionRecord, path: Path) -> None:
    """Keep a record and drop older ones of its session; a folder that may not be written is left as it is."""
    skew, sight = record.skew, record.sight
    about = {name: getattr(record, name) for name in PLAIN} | {
        "session": str(record.session),
        "problems": list(record.problems),
        "feed": list(record.feed),
        "skew": [skew.answered, skew.compared, skew.differ, list(skew.by_feature), skew.first]
        if skew
        else None,
    }
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, prefix, profile in (("profile", "", record.profile), ("market", MARKET, record.market)):
        about[name] = profile.rows if profile else None
        arrays |= {prefix + part: getattr(profile, part) for part in SUMS} if profile else {}
    if sight:
        arrays |= {n: getattr(sight.histograms, n) for n in ("codes", "counts", "starts")}
        arrays |= {n: getattr(sight, n) for n in ("closes", "answered", "replayed")}
    beside = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            arrays["about"] = np.array(json.dumps(about))
            np.savez_compressed(file, allow_pickle=False, **arrays)
        for old in path.parent.glob(f"{record.session}-*.npz"):
            old.unlink()
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
