"""Verdicts where the exporter reads them: objects under one address, put there by `sekisho drift publish`.

Each check puts `<environment>-<model>-<moment>.verdict.json`, and `.retrain.json` beside it once `sekisho
retrain` has answered. Neither is written again with other content, so that each is read once.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sekisho.errors import CannotCheck, SekishoError
from sekisho.monitoring.verdict import Verdict, parse_verdict
from sekisho.objects import Objects

VERDICT, ANSWER = ".verdict.json", ".retrain.json"
RETRAIN = "retrain.json"  # written beside a verdict by `sekisho retrain`
CLOCKS = dt.timedelta(minutes=5)  # that the clocks of two machines may differ by


@dataclass(frozen=True)
class Published:
    """``moment``: when this was so; ``answer``: what `sekisho retrain` said to it, empty before it ran."""

    verdict: Verdict
    moment: dt.datetime
    answer: Mapping[str, Any] = field(default_factory=dict)


def moment_of(verdict: Verdict) -> dt.datetime:
    """The moment that a verdict speaks of: that of its check, or the earlier one that it was asked about.

    Raises:
        CannotCheck: it lacks environment or moments, or they are none.
    """
    moments = []
    for name in ("checked_at", "as_of"):
        try:
            moments.append(dt.datetime.fromisoformat(str(getattr(verdict, name))))
        except ValueError as error:
            raise CannotCheck(f"{name}: {error}", remedy="run `sekisho drift check` again") from error
    if not verdict.environment or any(moment.tzinfo is None for moment in moments):
        raise CannotCheck(
            "no environment, or a moment without its zone", remedy="run `sekisho drift check` again"
        )
    return min(moments)


def publish(path: Path, objects: Objects) -> list[str]:
    """Put a verdict, and retraining's answer to it if there is one; returns the objects' names.

    Raises:
        CannotCheck: the file is not a verdict of `sekisho drift check`.
        DataError: the store cannot take it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CannotCheck(f"{path}: {error.strerror}", remedy="run `sekisho drift check` first") from error
    verdict = parse_verdict(content, str(path))
    moment_of(verdict)
    checked = dt.datetime.fromisoformat(str(verdict.checked_at)).astimezone(dt.UTC)
    stem = re.sub(r"[^\w.-]", "_", f"{verdict.environment}-{verdict.model}-{checked:%Y%m%dT%H%M%SZ}")
    parts = {f"{stem}{VERDICT}": content}
    answer = path.parent / RETRAIN
    if answer.is_file():
        parts[f"{stem}{ANSWER}"] = answer.read_bytes()
    for name, part in parts.items():
        objects.put(name, part)
    return list(parts)


class VerdictStore:
    """What lies under an address, as of the last ``refresh``.

    ``found``: by environment and model, oldest first; ``unreadable``: why an object could not be used, by
    name; ``refreshed``: when the store was last read whole, None before.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._read: dict[str, Verdict | dict[str, Any]] = {}
        self.found: dict[tuple[str, str], list[Published]] = {}
        self.unreadable: dict[str, str] = {}
        self.refreshed: dt.datetime | None = None

    def refresh(self, now: dt.datetime) -> None:
        """Read what is new; one object that cannot be read hides no other.

        Raises:
            DataError: the store itself cannot be read; what was read before stays.
        """
        names = self._objects.names()
        read: dict[str, Verdict | dict[str, Any]] = {}
        unreadable: dict[str, str] = {}
        for name in names:
            try:
                read[name] = self._read[name] if name in self._read else self._parse(name)
            except SekishoError as error:
                unreadable[name] = error.message
        found: dict[tuple[str, str], list[Published]] = {}
        for name, verdict in read.items():
            if not isinstance(verdict, Verdict):
                continue
            moment = moment_of(verdict)
            if moment > now + CLOCKS:
                unreadable[name] = f"given at {moment}, which is yet to come"
                continue
            answer = read.get(name.removesuffix(VERDICT) + ANSWER, {})
            held = found.setdefault((verdict.environment, verdict.model), [])
            held.append(Published(verdict, moment, answer if isinstance(answer, dict) else {}))
        for several in found.values():
            several.sort(key=lambda one: (one.moment, str(one.verdict.checked_at)))
        for name in sorted(set(unreadable) - set(self.unreadable)):
            print(f"{self._objects.address}/{name}: {unreadable[name]}", flush=True)
        self._read, self.found, self.unreadable, self.refreshed = read, found, unreadable, now

    def follow(self, seconds: float) -> None:
        """Refresh for ever in a thread of its own, so that a slow store keeps no scrape waiting."""

        def repeat() -> None:
            wait = threading.Event()
            while True:
                try:
                    self.refresh(dt.datetime.now(dt.UTC))
                except SekishoError as error:
                    print(error.message, flush=True)
                wait.wait(seconds)

        threading.Thread(target=repeat, daemon=True).start()

    def _parse(self, name: str) -> Verdict | dict[str, Any]:
        """
        Raises:
            SekishoError: it is neither a verdict nor an answer, or cannot be had.
        """
        content = self._objects.get(name)
        if content is None:
            raise CannotCheck("taken away while it was read", remedy="none")
        if name.endswith(VERDICT):
            verdict = parse_verdict(content, name)
            moment_of(verdict)
            return verdict
        try:
            answer = json.loads(content) if name.endswith(ANSWER) else None
        except ValueError as error:
            raise CannotCheck(f"not an answer: {error}", remedy="publish it again") from error
        if not isinstance(answer, dict):
            raise CannotCheck("neither a verdict nor retraining's answer", remedy="take it away")
        return answer
