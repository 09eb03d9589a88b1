"""The kill switch: one word in a file, which whoever may stop the trading writes.

``on``: the release decides. ``off``: every answer is the safe action. ``previous``: the release that was
served before, verified and resident, decides again. Only the first word counts for the server; the moment
and the reason follow: ``on 2026-07-08T18:30:00+09:00 the feed is mended``. A file that is missing,
unreadable or says anything else means ``off``: what cannot be read must not be on.
"""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Position(StrEnum):
    """Where the switch stands."""

    ON = "on"
    OFF = "off"
    PREVIOUS = "previous"


@dataclass(frozen=True)
class Turned:
    """What the file says of the last turn: ``at`` is aware; None where no moment with its zone is written."""

    position: Position
    at: dt.datetime | None
    reason: str


def parse_turn(text: str) -> Turned:
    """A switch's text; what cannot be read means ``off``, never raises."""
    words = text.split(maxsplit=1)
    try:
        position = Position(words[0])
    except (ValueError, IndexError):
        return Turned(Position.OFF, None, "")
    rest = words[1].split(maxsplit=1) if len(words) > 1 else []
    try:
        at = dt.datetime.fromisoformat(rest[0])
    except (ValueError, IndexError):
        return Turned(position, None, " ".join(rest))
    return Turned(position, at if at.tzinfo else None, rest[1].strip() if len(rest) > 1 else "")


def read_turn(path: Path) -> Turned:
    """The last turn of the switch; never raises."""
    try:
        return parse_turn(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Turned(Position.OFF, None, "")


def read_switch(path: Path) -> Position:
    """Where the switch stands; never raises."""
    return read_turn(path).position


def turn_text(position: Position, reason: str, at: dt.datetime) -> str:
    """What a switch turned at ``at`` (aware) says."""
    return f"{position} {at.isoformat(timespec='seconds')} {' '.join(reason.split())}".rstrip() + "\n"


def write_switch(path: Path, position: Position, reason: str, at: dt.datetime | None = None) -> None:
    """Turn the switch, in one step, so that no reader sees half a word; ``at``: when, now if None.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(turn_text(position, reason, at or dt.datetime.now(dt.UTC)))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
