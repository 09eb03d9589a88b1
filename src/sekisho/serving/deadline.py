"""A deadline for ONNX Runtime: a run that takes too long is ended from beside it.

The event loop waits inside the run, so it cannot watch the clock itself. One thread looks now and then at
how long the run has lasted and raises its terminate flag, which ONNX Runtime obeys between two nodes.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Any

import onnxruntime as ort

LOOKS = 5  # per deadline: a run is ended between four fifths of it and the whole, and one node later at most


class Watchdog:
    """Ends runs that last longer than ``seconds``; its thread ends with it."""

    def __init__(self, seconds: float) -> None:
        self._watched: list[tuple[ort.RunOptions, float]] = []
        self.ends_after = seconds * (1 - 1 / LOOKS)  # a run may be ended from then on, and is by `seconds`
        ended = threading.Event()
        weakref.finalize(self, ended.set)
        threading.Thread(
            target=_watch,
            args=(self._watched, self.ends_after, seconds / LOOKS, ended),
            name="deadline",
            daemon=True,
        ).start()

    def run(self, session: ort.InferenceSession, names: list[str], feed: dict[str, Any]) -> list[Any]:
        """``session.run``; raises ONNX Runtime's own error when the deadline ended it."""
        options = ort.RunOptions()  # a new one each time: a late flag can only end its own run
        self._watched.append((options, time.monotonic()))
        try:
            outputs: list[Any] = session.run(names, feed, options)
            return outputs
        finally:
            self._watched.clear()


def _watch(
    watched: list[tuple[ort.RunOptions, float]], ends_after: float, look: float, ended: threading.Event
) -> None:
    while not ended.wait(look):
        for options, started in list(watched):
            if time.monotonic() - started > ends_after:
                options.terminate = True
