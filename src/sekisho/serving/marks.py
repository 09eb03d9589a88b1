"""The highest seq that this server ever served: nothing older comes back by itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

from sekisho.errors import CannotCheck


class HighWaterMark:
    """The highest seq this server ever served, per model: nothing older is loaded again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, model: str) -> int:
        """The mark, 0 if none.

        Raises:
            CannotCheck: the file is damaged.
        """
        try:
            return int(self._read().get(model, 0))
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise CannotCheck(
                f"{self._path}: {error}",
                remedy="find the highest seq in the prediction log and write it there by hand",
            ) from error

    def raise_to(self, model: str, seq: int) -> None:
        """Record ``seq`` durably, unless it is recorded."""
        marks = self._read()
        if seq <= int(marks.get(model, 0)):
            return
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({**marks, model: seq}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def _read(self) -> dict[str, int]:
        marks: dict[str, int] = (
            json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        )
        return marks
