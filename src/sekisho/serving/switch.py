"""The kill switch: one word in a file, which whoever may stop the trading writes.

``on``: the release decides. ``off``: every answer is the safe action. ``previous``: the release that was
served before, verified and resident, decides again. Only the first word counts, so that a reason may follow.
A file that is missing, unreadable or says anything else means ``off``: what cannot be read must not be on.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path


class Position(StrEnum):
    """Where the switch stands."""

    ON = "on"
    OFF = "off"
    PREVIOUS = "previous"


def read_switch(path: Path) -> Position:
    """Where the switch stands; never raises."""
    try:
        words = path.read_text(encoding="utf-8").split(maxsplit=1)
        return Position(words[0])
    except (OSError, ValueError, IndexError):
        return Position.OFF


def write_switch(path: Path, position: Position, reason: str) -> None:
    """Turn the switch, in one step, so that no reader sees half a word.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(f"{position} {' '.join(reason.split())}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
