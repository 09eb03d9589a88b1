"""The contract refuses every kind of bad row, lazily too, and names it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sekisho.data.contract import COLUMNS, FLOATS, RULES, bar_schema, check_structure, violations
from sekisho.errors import DataError

SESSION = dt.date(2025, 1, 6)
NAN, INFINITE = math.nan, math.inf
LATER = dt.timedelta(minutes=5)
DELAY = 0.0  # seconds

BAD_VALUES = [
    ({"close": -1.0}, {"positive-price", "price-order"}),
    ({"low": 0.0}, {"positive-price"}),
    ({"open": NAN}, {"finite"}),
    ({"volume": INFINITE}, {"finite"}),
    ({"low": 1e6}, {"price-order"}),
    ({"high": 1.0}, {"price-order"}),
    ({"volume": -1.0}, {"amounts"}),
    ({"adv": 0.0}, {"amounts"}),
    ({"adj_factor": 0.0}, {"amounts"}),
    ({"half_spread": 1.0}, {"amounts"}),
    ({"close": None}, {"complete"}),
    ({"symbol": None}, {"complete"}),
    ({"tradable": None}, {"complete"}),
    ({"available_at": dt.datetime(2025, 1, 6, tzinfo=dt.UTC)}, {"available"}),
    ({"available_at": dt.datetime(2025, 1, 7, tzinfo=dt.UTC)}, {"late"}),
]


def placed(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(session=pl.lit(SESSION))


def test_good_bars_break_nothing(one_session: pl.DataFrame) -> None:
    assert violations(placed(one_session), DELAY).is_empty()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("values", "rules"), BAD_VALUES, ids=lambda v: "-".join(sorted(v)))
def test_a_bad_value_is_found_in_its_row_and_no_other(
    one_session: pl.DataFrame, set_row: Callable, values: dict, rules: set[str], lazy: bool
) -> None:
    frame = placed(set_row(18, **values)(one_session))
    found = violations(frame.lazy() if lazy else frame, DELAY)
    assert found["row"].unique().to_list() == [17]
    assert set(found["rule"]) == rules


def test_a_bar_known_after_the_allowed_delay_is_late_and_up_to_it_is_not(one_session: pl.DataFrame) -> None:
    late = placed(one_session).with_columns(pl.col("available_at") + dt.timedelta(seconds=60))
    assert violations(late, 60.0).is_empty()
    found = violations(late, 59.5)
    assert found["rule"].unique().to_list() == ["late"]
    assert len(found) == len(one_session)


def test_pandera_alone_passes_a_bad_lazyframe_which_is_why_we_force_the_depth(
    one_session: pl.DataFrame, set_row: Callable
) -> None:
    bad = placed(set_row(18, close=-1.0)(one_session)).lazy()
    bar_schema(DELAY).validate(bad, lazy=True)  # pandera's default: no complaint
    assert not violations(bad, DELAY).is_empty()


def test_the_forced_depth_holds_against_panderas_own_switch(
    one_session: pl.DataFrame, set_row: Callable
) -> None:
    from pandera.config import ValidationDepth, config_context

    bad = placed(set_row(18, close=-1.0)(one_session))
    with config_context(validation_enabled=False, validation_depth=ValidationDepth.SCHEMA_ONLY):
        assert violations(bad, DELAY)["row"].unique().to_list() == [17]


def test_all_copies_of_a_duplicate_are_refused(one_session: pl.DataFrame) -> None:
    twice = pl.concat([one_session[:10], one_session[9:]])
    assert violations(placed(twice), DELAY).rows() == [(9, "duplicate"), (10, "duplicate")]


def test_time_running_backwards_is_refused_at_the_row_that_goes_back(one_session: pl.DataFrame) -> None:
    order = [*range(5), 6, 5, *range(7, len(one_session))]
    assert violations(placed(one_session[order]), DELAY).rows() == [(6, "increasing")]


def test_a_time_off_the_calendar_does_not_spoil_the_order_of_the_others(one_session: pl.DataFrame) -> None:
    far = pl.lit(dt.datetime(2199, 1, 1), one_session.schema["ts_close"])
    here = pl.int_range(pl.len()) == 3
    frame = one_session.with_columns(
        ts_close=pl.when(here).then(far).otherwise("ts_close"),
        available_at=pl.when(here).then(far).otherwise("available_at"),
        session=pl.when(~here).then(pl.lit(SESSION)),
    )
    assert violations(frame, DELAY).rows() == [(3, "on-calendar")]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(one_session: pl.DataFrame, column: str) -> None:
    with pytest.raises(DataError, match=f"f.parquet: column {column} is missing"):
        check_structure(one_session.drop(column).schema, "f.parquet")
    with pytest.raises(DataError, match=f"column {column} is missing"):
        violations(placed(one_session.drop(column)).lazy(), DELAY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.col("ts_close").dt.convert_time_zone("Asia/Tokyo"), r"ts_close is datetime\[us, Asia/Tokyo\]"),
        (pl.col("ts_close").dt.replace_time_zone(None), r"ts_close is datetime\[us, no time zone\]"),
        (pl.col("ts_close").dt.cast_time_unit("ns"), r"ts_close is datetime\[ns, UTC\]"),
        (pl.col("half_spread").cast(pl.Float64), "half_spread is Float64, the contract says Float32"),
        (pl.col("close").cast(pl.String), "close is String"),
        (pl.lit(1).alias("note"), "column note is not in the contract"),
    ],
)
def test_wrong_types_zones_and_extra_columns_are_named(
    one_session: pl.DataFrame, change: pl.Expr, message: str
) -> None:
    broken = one_session.with_columns(change)
    with pytest.raises(DataError, match=message):
        check_structure(broken.schema, "f.parquet")
    with pytest.raises(DataError, match=message):
        violations(placed(broken), DELAY)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    row=st.integers(1, 396), column=st.sampled_from(FLOATS), value=st.sampled_from([NAN, INFINITE, -INFINITE])
)
def test_no_number_that_is_not_finite_passes_anywhere(
    one_session: pl.DataFrame, set_row: Callable, row: int, column: str, value: float
) -> None:
    found = violations(placed(set_row(row, **{column: value})(one_session)), DELAY)
    assert (row - 1, "finite") in found.rows()
    assert found["row"].unique().to_list() == [row - 1]


def test_rule_names_are_unique() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
