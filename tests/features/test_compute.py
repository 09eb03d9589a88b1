from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sekisho.data.panel import Panel
from sekisho.features import compute_features, feature_names, find_leaks, lookback
from sekisho.features.compute import trailing_sum
from sekisho.params import FeatureParams

Maker = Callable[..., Panel]


@given(seed=st.integers(0, 10_000), end=st.integers(12, 48), assets=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_the_last_lookback_bars_give_the_training_row_bit_for_bit(
    seed: int, end: int, assets: int, random_panel: Maker, params: FeatureParams
) -> None:
    panel = random_panel(seed, assets=assets)
    whole = compute_features(panel, params)
    served = compute_features(panel.rows(end - lookback(params), end), params)
    assert np.isfinite(served[-1]).all()
    np.testing.assert_array_equal(served[-1].view(np.uint32), whole[end - 1].view(np.uint32))


@given(seed=st.integers(0, 10_000), cut=st.integers(13, 47))
@settings(max_examples=40, deadline=None)
def test_another_future_never_changes_past_features(
    seed: int, cut: int, random_panel: Maker, params: FeatureParams
) -> None:
    panel, other = random_panel(seed), random_panel(seed + 1)
    names = [n for n in vars(panel) if n not in ("symbols", "ts_close", "session")]
    spliced = {n: np.concatenate([getattr(panel, n)[:cut], getattr(other, n)[cut:]]) for n in names}
    past = compute_features(replace(panel, **spliced), params)[:cut]
    np.testing.assert_array_equal(past, compute_features(panel, params)[:cut])


def test_the_first_row_with_features_is_the_last_of_the_lookback(
    random_panel: Maker, params: FeatureParams
) -> None:
    features = compute_features(random_panel(1), params)
    warm = lookback(params) - 1
    assert np.isnan(features[:warm]).all()
    assert np.isfinite(features[warm:]).all()
    assert features.shape[2] == len(feature_names(params))
    assert features.dtype == np.float32


def test_prices_before_a_missing_bar_do_not_matter(random_panel: Maker, params: FeatureParams) -> None:
    """What lets serving, which sees few bars, and training, which sees all, fill gaps differently."""
    panel = random_panel(3, missing=0.0)
    volume, tradable, close = panel.volume.copy(), panel.tradable.copy(), panel.close.copy()
    volume[20, 1], tradable[20, 1] = 0.0, False
    gap = replace(panel, volume=volume, tradable=tradable)
    close[:20, 1] *= 7.0
    close[20, 1] *= 3.0
    np.testing.assert_array_equal(
        compute_features(replace(gap, close=close), params)[21:, :, :6],
        compute_features(gap, params)[21:, :, :6],
    )


def test_features_by_hand() -> None:
    """Two assets, windows of 1 and 2: returns 1 % and −1 %, then 2 % and 0."""
    close = np.array([[100.0, 100.0], [101.0, 99.0], [103.02, 99.0]])
    params = FeatureParams(return_windows=(1,), vol_window=2, short_vol_window=1, volume_window=2, clip=3.0)
    times = np.array(["2025-01-06T06:00", "2025-01-07T03:00", "2025-01-07T06:00"], dtype="datetime64[us]")
    ones = np.ones_like(close)
    panel = Panel(
        ("A", "B"), times, times.astype("datetime64[D]"), close, close, close, close,
        np.array([[1.0, 1.0], [1.0, 3.0], [3.0, 1.0]]), ones, ones, ones, ones, ones, ones.astype(bool),
    )  # fmt: skip
    row = compute_features(panel, params)[-1]
    volatility = np.sqrt([(0.01**2 + 0.02**2) / 2, 0.01**2 / 2])
    move = np.array([0.02 / volatility[0], 0.0])
    expected = np.stack(
        [
            move,
            move - move.mean(),
            [3 / (3 + 2), 1 / (1 + 2)],
            [0.02 / volatility[0], 0.0],
            [0.25] * 2,
            [0.0] * 2,
        ],
        axis=1,
    )
    np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-7)


def test_trailing_sum_adds_the_newest_first() -> None:
    values = np.array([[1e16], [1.0], [1.0], [-1e16]])
    # ((−1e16 + 1) + 1) + 1e16 loses both ones; another order would not
    assert trailing_sum(values, 4)[-1, 0] == 0.0


def test_a_leaky_feature_is_named_and_an_honest_one_is_not(random_panel: Maker) -> None:
    def compute(panel: Panel) -> np.ndarray:
        tomorrow = np.roll(panel.close, -1, axis=0)
        demeaned = panel.close - panel.close.mean(axis=0)
        return np.stack([panel.close, tomorrow, demeaned], axis=2).astype(np.float32)

    leaks = find_leaks(
        random_panel(5), compute, ("close", "tomorrow", "demeaned"), lookback=1, cuts=3, seed=1
    )
    assert {leak.feature for leak in leaks} == {"tomorrow", "demeaned"}


def test_our_own_features_do_not_leak(random_panel: Maker, params: FeatureParams) -> None:
    panel, names, window = random_panel(6, sessions=12), feature_names(params), lookback(params)
    assert (
        find_leaks(panel, lambda p: compute_features(p, params), names, lookback=window, cuts=8, seed=2) == []
    )
    found = find_leaks(
        panel, lambda p: compute_features(p, params), names, lookback=window - 1, cuts=0, seed=2
    )
    assert {leak.feature for leak in found} >= {"return_5"}  # one bar more than it says is too much


FIELDS = [
    *("open", "high", "low", "close", "volume", "adv", "half_spread", "borrow_rate", "funding_rate"),
    *("adj_factor", "tradable"),
]


@pytest.mark.parametrize("field", FIELDS)
@given(seed=st.integers(0, 10_000), at=st.integers(0, 299), ahead=st.integers(1, 4))
@settings(max_examples=4, deadline=None)
def test_a_leak_of_one_bar_in_three_hundred_is_caught_whatever_it_reads(
    field: str, seed: int, at: int, ahead: int, random_panel: Maker
) -> None:
    panel = random_panel(seed, sessions=75)  # 600 bars: two of them leak, in one symbol of three
    leaking = np.arange(at, len(panel) - ahead, 300)
    # no trade at all may follow no trade at all: a volume of 0 alone need not show
    assume(field != "volume" or panel.volume[leaking + ahead, 1].any())

    def compute(panel: Panel) -> np.ndarray:
        rare = panel.close.copy()
        bars = np.arange(at, len(panel) - ahead, 300)
        rare[bars, 1] += getattr(panel, field)[bars + ahead, 1]
        return np.stack([panel.close, rare], axis=2).astype(np.float32)

    for cuts in (0, 2):
        found = find_leaks(panel, compute, ("close", "rare"), lookback=8, cuts=cuts, seed=1)
        assert [leak.feature for leak in found] == ["rare"]
    assert found[0].bar < found[0].cut <= found[0].bar + ahead


@given(seed=st.integers(0, 10_000), session=st.integers(1, 39))
@settings(max_examples=10, deadline=None)
def test_a_leak_across_one_night_is_caught(seed: int, session: int, random_panel: Maker) -> None:
    """One session's bars know where the next one opens, however far that is ahead."""
    panel = random_panel(seed, sessions=40)

    def compute(panel: Panel) -> np.ndarray:
        gap = panel.close.copy()
        if len(panel) > session * 8:
            gap[session * 8 - 8 : session * 8] *= panel.open[session * 8]
        return gap[:, :, None].astype(np.float32)

    (leak,) = find_leaks(panel, compute, ("gap",), lookback=20, cuts=0, seed=3)
    assert leak.bar // 8 == session - 1
