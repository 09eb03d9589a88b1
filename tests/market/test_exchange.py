"""The exchange's rules against the exchange's own published tables and examples."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.market.exchange import (
    LIMIT_BELOW,
    LIMIT_WIDTH,
    TICK_UP_TO,
    TICKS,
    base_prices,
    fill_rules,
    limit_width,
    tick_size,
)
from sekisho.params import MarketParams


def fills(params: MarketParams, **changes: object) -> MarketParams:
    rules = {"lot_size": 100, "tick_table": "topix500", "price_limits": "tokyo", "max_participation": 0.1}
    return params.model_copy(update=rules | changes)


@pytest.mark.parametrize(
    ("price", "topix500", "other"),
    [  # up to and with each bound of the table
        (1000.0, 0.1, 1), (1000.5, 0.5, 1), (3000.0, 0.5, 1), (3001.0, 1, 5), (5000.0, 1, 5), (5001.0, 1, 10),
        (10_000.0, 1, 10), (10_005.0, 5, 10), (30_000.0, 5, 10), (30_010.0, 10, 50), (50_000.0, 10, 50),
        (100_000.0, 10, 100), (300_000.0, 50, 100), (300_100.0, 100, 500), (1e9, 10_000, 100_000),
    ],
)  # fmt: skip
def test_tick_sizes_are_the_published_ones(price: float, topix500: float, other: float) -> None:
    assert tick_size(np.array(price), "topix500") == topix500
    assert tick_size(np.array(price), "other") == other


@pytest.mark.parametrize(
    ("base", "width"),
    [
        (99.0, 30), (100.0, 50), (199.0, 50), (200.0, 80), (499.0, 80), (500.0, 100), (999.0, 150),
        (1000.0, 300), (1499.0, 300), (1500.0, 400), (2999.0, 500), (3000.0, 700), (9990.0, 1500),
        (10_000.0, 3000), (49_950.0, 7000), (99_900.0, 15_000), (100_000.0, 30_000), (6e7, 10_000_000),
    ],
)  # fmt: skip
def test_price_limits_are_the_published_ones(base: float, width: float) -> None:
    assert limit_width(np.array(base)) == width


def test_the_tables_ascend_and_have_one_entry_more_than_bounds() -> None:
    for bounds, entries in ((LIMIT_BELOW, LIMIT_WIDTH), *((TICK_UP_TO, table) for table in TICKS.values())):
        assert len(entries) == len(bounds) + 1
        assert all(a < b for a, b in pairwise(bounds))
        assert all(a <= b for a, b in pairwise(entries))


@given(price=st.floats(1.0, 1e6), table=st.sampled_from(["topix500", "other"]))
def test_the_price_is_rounded_against_the_trader_by_less_than_a_tick(price: float, table: str) -> None:
    tick = float(tick_size(np.array(price), table))
    params = _params(tick_table=table)
    one = np.full((1, 1), price)
    day = np.array(["2025-01-06"], dtype="datetime64[D]")
    rules = fill_rules(one, one, one, np.ones((1, 1)), np.ones((1, 1), bool), day, params)
    buy, sell = float(rules.buy_slip[0, 0]), float(rules.sell_slip[0, 0])
    for paid in (price * (1 + buy), price * (1 - sell)):
        assert paid / tick == pytest.approx(round(paid / tick), abs=1e-6)
    assert 0 <= buy * price < tick * (1 + 1e-6)
    assert 0 <= sell * price < tick * (1 + 1e-6)


def _params(**changes: object) -> MarketParams:
    from .conftest import PARAMS

    return fills(PARAMS, **changes)


def test_limits_count_from_the_last_close_of_the_session_before(params: MarketParams) -> None:
    """Base 1,000: ± 300. The second bar of the day still counts from yesterday's close."""
    close = np.array([[1000.0], [1290.0], [1290.0], [1290.0]])
    opened = np.array([[1000.0], [1299.9], [1300.0], [700.0]])
    days = np.array(["2025-01-06", "2025-01-07", "2025-01-07", "2025-01-07"], dtype="datetime64[D]")
    full = np.ones((4, 1))
    rules = fill_rules(opened, close, full * 1e6, full, full.astype(bool), days, fills(params))
    assert rules.most_buy[:, 0].tolist() == [1000.0, 1000.0, 0.0, 1000.0]
    assert rules.most_sell[:, 0].tolist() == [1000.0, 1000.0, 1000.0, 0.0]
    np.testing.assert_array_equal(base_prices(close, days)[:, 0], [np.nan, 1000.0, 1000.0, 1000.0])


def test_a_split_is_taken_off_the_base_price(params: MarketParams) -> None:
    """2 for 1: yesterday's 1,000 are today's base of 500 with ± 100, and lots are of the new shares."""
    close = np.array([[500.0], [595.0]])  # adjusted; raw 1,000 and 595
    opened = np.array([[500.0], [599.0]])
    factor = np.array([[0.5], [1.0]])
    days = np.array(["2025-01-06", "2025-01-07"], dtype="datetime64[D]")
    true = np.ones((2, 1), bool)
    rules = fill_rules(opened, close, np.full((2, 1), 1e5), factor, true, days, fills(params))
    assert rules.most_buy[1, 0] == 100.0  # 599 is below 600
    assert rules.lot[:, 0].tolist() == [200.0, 100.0]  # adjusted units
    assert rules.most_buy[0, 0] == 50.0
    above = fill_rules(
        opened + np.array([[0.0], [1.0]]), close, np.full((2, 1), 1e5), factor, true, days, fills(params)
    )
    assert above.most_buy[1, 0] == 0.0
    assert above.most_sell[1, 0] == 100.0


def test_without_rules_any_amount_fills(params: MarketParams) -> None:
    free = fills(params, lot_size=0, tick_table="none", price_limits="none", max_participation=0.0)
    one = np.full((1, 1), 123.456)
    day = np.array(["2025-01-06"], dtype="datetime64[D]")
    rules = fill_rules(one, one, one, np.ones((1, 1)), np.ones((1, 1), bool), day, free)
    assert rules.most_buy[0, 0] == rules.most_sell[0, 0] == np.inf
    assert rules.buy_slip[0, 0] == rules.sell_slip[0, 0] == 0.0
    halted = fill_rules(one, one, one, np.ones((1, 1)), np.zeros((1, 1), bool), day, free)
    assert halted.most_buy[0, 0] == halted.most_sell[0, 0] == 0.0


@given(seed=st.integers(0, 1000), cut=st.integers(1, 19))
def test_no_rule_of_a_bar_depends_on_a_later_one(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    days = np.datetime64("2025-01-06") + np.arange(20) // 5
    one, other = ([rng.uniform(100, 4000, (20, 2)) for _ in range(3)] for _ in range(2))
    mixed = [np.vstack([a[:cut], b[cut:]]) for a, b in zip(one, other, strict=True)]
    full, true = np.ones((20, 2)), np.ones((20, 2), bool)
    for name in ("buy_slip", "sell_slip", "lot", "most_buy", "most_sell"):
        past = [
            getattr(fill_rules(*prices, full, true, days, _params()), name)[:cut] for prices in (one, mixed)
        ]
        np.testing.assert_array_equal(*past)
