"""What people decided about the check, as dated files in git: sessions left out, alarms acknowledged.

``monitoring/excluded.yaml``: ``2026-07-01: reason``, a line for each session that is not to be judged.
``monitoring/acknowledged/2026-07-20-mean.yaml``: ``model``, ``family``, ``until`` and ``reason``; alarms of
that family up to that day are shown and raise nothing. Only drift, performance and age can be acknowledged:
what the serving side shows, and what halts it, can only be mended.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sekisho.errors import CannotCheck
from sekisho.monitoring.verdict import DRIFT, DUE, Alarm

MAY_BE = (*DRIFT, *DUE)
LONGEST = dt.timedelta(days=92)  # an acknowledgement lasts no longer than a quarter


@dataclass(frozen=True)
class Acknowledgement:
    """``name``: of its file."""

    name: str
    model: str
    family: str
    until: dt.date
    reason: str

    def covers(self, model: str, alarm: Alarm) -> bool:
        return (self.model, self.family) == (model, alarm.family) and alarm.session <= str(self.until)


def load_excluded(path: Path) -> dict[dt.date, str]:
    """Sessions people took out of the judgement; none where there is no file.

    Raises:
        CannotCheck: not a mapping of sessions to reasons.
    """
    if not path.exists():
        return {}
    try:
        entries = (_read(path) or {}).items()
    except AttributeError as error:
        raise CannotCheck(f"{path}: {error}", remedy="write one line per session") from error
    if all(isinstance(day, dt.date) and isinstance(why, str) and why.strip() for day, why in entries):
        return dict(entries)
    raise CannotCheck(
        f"{path}: each line must be `YYYY-MM-DD: reason`",
        remedy="write one line per session, with its reason",
    )


def load_acknowledgements(folder: Path) -> list[Acknowledgement]:
    """All of them; none where there is no folder.

    Raises:
        CannotCheck: a file not named by its day, or one that does not say model, family, until and reason.
    """
    return [_acknowledgement(path) for path in sorted(folder.glob("*.yaml"))] if folder.is_dir() else []


def _acknowledgement(path: Path) -> Acknowledgement:
    remedy = "write model, family, until (YYYY-MM-DD) and reason; name the file YYYY-MM-DD-<family>.yaml"
    content = _read(path)
    try:
        given = dt.date.fromisoformat(path.stem[:10])
        found = Acknowledgement(path.name, **content)
        if not (isinstance(found.until, dt.date) and isinstance(found.reason, str) and found.reason.strip()):
            raise ValueError("until must be a day and reason a text")
        if found.family not in MAY_BE:
            raise ValueError(f"{found.family} cannot be acknowledged, only {', '.join(MAY_BE)}")
        if not given <= found.until <= given + LONGEST:
            raise ValueError(f"until must lie within {LONGEST.days} days after {given}")
    except (ValueError, TypeError) as error:
        raise CannotCheck(f"{path}: {error}", remedy=remedy) from error
    return found


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CannotCheck(f"{path}: {error}", remedy="restore it from git") from error


def acknowledged(
    alarms: Sequence[Alarm], model: str, by: Sequence[Acknowledgement]
) -> tuple[list[Alarm], list[dict[str, str]]]:
    """Alarms that stand, and those that somebody acknowledged, with file and reason."""
    stand, known = [], []
    for alarm in alarms:
        if found := next((one for one in by if one.covers(model, alarm)), None):
            about = {"family": alarm.family, "series": alarm.series, "session": alarm.session}
            known.append(about | {"file": found.name, "reason": found.reason})
        else:
            stand.append(alarm)
    return stand, known
