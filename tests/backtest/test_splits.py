from __future__ import annotations

import datetime as dt
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sekisho.backtest.splits import walk_forward
from sekisho.errors import BacktestError
from sekisho.features import compute_features, lookback
from sekisho.market import MarketData, TradingMarket, Units
from sekisho.params import Params, SplitParams

from .conftest import BARS, make_panel, sessions_from

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


@pytest.mark.parametrize("purge", [0, 1, 3])
def test_no_training_bar_looks_or_earns_into_its_test_window(purge: int, params: Params) -> None:
    """Bars that features look back over and bars that a position is held through, in training's market."""
    split = params.split.model_copy(update={"purge_sessions": purge})
    panel = make_panel(sessions=120)
    data = MarketData.from_panel(panel, compute_features(panel, params.features), params.market)
    for fold in walk_forward(sessions_from(120), split):
        test = int(np.searchsorted(panel.session, np.datetime64(fold.test[0])))
        for name, behind in (("train", 2 * purge + split.validation_sessions), ("validation", purge)):
            window = data.window(*getattr(fold, name))
            limits = params.market.model_copy(update={"episode_bars": 20})
            market = TradingMarket(
                data, limits, Units(torch.ones(4), 1.0), 512, window, mode="weights", seed=fold.index
            )
            market.reset(seed=1)
            reached = 0
            for _ in range(60):
                _, _, _, _, infos = market.step(torch.full((512, 4), 0.1))
                reached = max(reached, int(infos["bar"].max()))
            assert window[1] - 8 < reached < window[1]  # no position is held through a bar after the window
            assert test - window[1] == behind * BARS
            assert window[0] - lookback(params.features) + 1 >= 0
        # what the training bars see does not change with the test window
        changed = replace(panel, close=np.where(np.arange(len(panel))[:, None] >= test, 1.0, panel.close))
        before = slice(*data.window(fold.train[0], fold.validation[1]))
        np.testing.assert_array_equal(
            compute_features(changed, params.features)[before], data.features[before].numpy()
        )


def test_the_sessions_after_a_test_window_are_tested_by_no_fold(params: Params) -> None:
    split = params.split.model_copy(update={"embargo_sessions": 3, "folds": 3})
    sessions = sessions_from(150)
    folds = walk_forward(sessions, split)
    tested = [day for day in sessions if any(fold.test[0] <= day <= fold.test[1] for fold in folds)]
    for fold in folds[:-1]:
        after = sessions.index(fold.test[1])
        assert not set(sessions[after + 1 : after + 4]) & set(tested)
        assert sessions[after + 4] in tested
