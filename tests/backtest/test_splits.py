from __future__ import annotations

import datetime as dt
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sekisho.backtest.splits import walk_forward
from sekisho.errors import BacktestError
from sekisho.params import SplitParams

PARAMS = st.builds(
    SplitParams,
    folds=st.integers(1, 6),
    test_sessions=st.integers(1, 20),
    validation_sessions=st.integers(1, 10),
    purge_sessions=st.integers(0, 4),
    embargo_sessions=st.integers(0, 4),
)


def days(count: int) -> list[dt.date]:
    """Trading days with gaps: every second calendar day."""
    return [dt.date(2025, 1, 6) + dt.timedelta(days=2 * i) for i in range(count)]


@given(params=PARAMS, extra=st.integers(0, 50))
@settings(max_examples=200, deadline=None)
def test_windows_are_ordered_apart_and_end_with_the_history(params: SplitParams, extra: int) -> None:
    shortest = (
        params.folds * (params.test_sessions + params.embargo_sessions)
        - params.embargo_sessions
        + params.validation_sessions
        + 2 * params.purge_sessions
        + params.test_sessions
    )
    sessions = days(shortest + extra)
    place = {day: i for i, day in enumerate(sessions)}
    folds = walk_forward(sessions, params)
    assert [fold.index for fold in folds] == list(range(params.folds))
    assert folds[-1].test[1] == sessions[-1]
    for fold in folds:
        train, validation, test = ([place[d] for d in w] for w in (fold.train, fold.validation, fold.test))
        assert train[0] == 0
        assert train[1] - train[0] + 1 >= params.test_sessions
        assert validation[0] - train[1] == params.purge_sessions + 1
        assert validation[1] - validation[0] + 1 == params.validation_sessions
        assert test[0] - validation[1] == params.purge_sessions + 1
        assert test[1] - test[0] + 1 == params.test_sessions
    for earlier, later in pairwise(folds):
        assert place[later.test[0]] - place[earlier.test[1]] == params.embargo_sessions + 1
        assert later.train[1] > earlier.train[1]
    with pytest.raises(BacktestError, match=f"needs {shortest} sessions, the bars hold {shortest - 1}"):
        walk_forward(sessions[: shortest - 1], params)


def test_sessions_out_of_order_are_refused() -> None:
    params = SplitParams(
        folds=1, test_sessions=1, validation_sessions=1, purge_sessions=0, embargo_sessions=0
    )
    with pytest.raises(BacktestError, match="do not ascend"):
        walk_forward([*days(5), dt.date(2025, 1, 6)], params)
