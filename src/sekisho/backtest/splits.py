"""Walk-forward windows: train on the past, validate on its end, test on what follows, move on."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sekisho.errors import BacktestError
from sekisho.params import SplitParams

Window = tuple[dt.date, dt.date]  # first and last session, both included


@dataclass(frozen=True)
class Fold:
    """One step of the walk: three windows in time order, without overlap."""

    index: int
    train: Window
    validation: Window
    test: Window


def walk_forward(sessions: Sequence[dt.date], params: SplitParams) -> list[Fold]:
    """Cut ``sessions`` (ascending) into ``folds`` windows; the last test window ends at the last session.

    Going back from the end: test windows of ``test_sessions``, ``embargo_sessions`` apart. Training begins at
    the first session in every fold (expanding) and stops ``purge_sessions`` before validation, which stops
    ``purge_sessions`` before its test window.

    Purge and embargo in the sense of López de Prado (2018, ch. 7.4): the purge drops training bars whose
    outcome reaches into the test window. A decision at one close earns until the next, so one session is
    ample. The embargo drops training bars that follow a test window, whose features still look back into it.
    Walking forward, a fold trains on nothing that follows the beginning of its test window: an embargo
    without end. What does follow a test window is the next one, of another agent; the sessions between the
    two are tested by no fold. A later fold trains on earlier test windows, which lie in its past.

    Raises:
        BacktestError: the history is too short; names the sessions needed and those there.
    """
    if any(later <= earlier for earlier, later in pairwise(sessions)):
        raise BacktestError("the sessions do not ascend", remedy="sort them and drop duplicates")
    stride = params.test_sessions + params.embargo_sessions
    before = params.validation_sessions + 2 * params.purge_sessions
    # the first fold's training window is at least as long as its test window
    needed = params.folds * stride - params.embargo_sessions + before + params.test_sessions
    if len(sessions) < needed:
        raise BacktestError(
            f"walk-forward needs {needed} sessions, the bars hold {len(sessions)}",
            remedy="bring a longer history, or lower split.folds or split.test_sessions in params.yaml",
        )
    folds = []
    for index in range(params.folds):
        test_last = len(sessions) - 1 - (params.folds - 1 - index) * stride
        test_first = test_last - params.test_sessions + 1
        validation_last = test_first - params.purge_sessions - 1
        validation_first = validation_last - params.validation_sessions + 1
        train_last = validation_first - params.purge_sessions - 1
        folds.append(
            Fold(
                index,
                train=(sessions[0], sessions[train_last]),
                validation=(sessions[validation_first], sessions[validation_last]),
                test=(sessions[test_first], sessions[test_last]),
            )
        )
    return folds
