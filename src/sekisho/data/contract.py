"""The contract every bar must keep (DESIGN.md, *Bars*), as a pandera schema on polars.

Two kinds of rule: the *structure* of a table (columns, types, time zone) and the *rules* of its rows. A
broken structure leaves nothing to judge; a broken rule names its rows. pandera 0.35 checks only the structure
of a LazyFrame unless told otherwise, so `violations` always asks for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import polars as pl

from sekisho.errors import DataError

TIME = pl.Datetime("us", "UTC")
COLUMNS: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "ts_close": TIME,  # the bar's end
    "available_at": TIME,  # nothing may be used before it
    "open": pl.Float64(),  # prices: quote currency, adjusted
    "high": pl.Float64(),
    "low": pl.Float64(),
    "close": pl.Float64(),
    "adj_factor": pl.Float64(),
    "volume": pl.Float64(),  # units
    "adv": pl.Float64(),  # currency a day, lagged
    "half_spread": pl.Float32(),  # fraction
    "borrow_rate": pl.Float32(),  # per bar
    "funding_rate": pl.Float32(),  # per bar
    "tradable": pl.Boolean(),
}
FLOATS = [name for name, dtype in COLUMNS.items() if dtype.is_float()]


@dataclass(frozen=True)
class Rule:
    """One rule of a row: ``holds`` is True (or null, where `complete` already speaks) on a good row."""

    name: str
    says: str
    holds: pl.Expr


@cache
def rules(max_delay: float) -> tuple[Rule, ...]:
    """All rules; ``max_delay`` (seconds from ``ts_close`` to ``available_at``) is their only limit."""
    lowest, highest = pl.min_horizontal("open", "close"), pl.max_horizontal("open", "close")
    # a time off the calendar says nothing about the order of the others
    seen = pl.when(pl.col("session").is_not_null()).then(pl.col("ts_close"))
    last_seen = seen.cum_max().shift(1).forward_fill().over("symbol")
    return (
        Rule("complete", "no value is missing", pl.all_horizontal(pl.col(list(COLUMNS)).is_not_null())),
        Rule("finite", "numbers are finite", pl.all_horizontal(pl.col(FLOATS).is_finite())),
        Rule("positive-price", "prices are above 0", pl.min_horizontal("open", "high", "low", "close") > 0),
        Rule(
            "price-order",
            "low <= open, close <= high",
            (pl.col("low") <= lowest) & (highest <= pl.col("high")),
        ),
        Rule(
            "amounts",
            "volume >= 0, adv > 0, adj_factor > 0, 0 <= half_spread < 1",
            (pl.col("volume") >= 0)
            & (pl.col("adv") > 0)
            & (pl.col("adj_factor") > 0)
            & pl.col("half_spread").is_between(0, 1, closed="left"),
        ),
        Rule("available", "available_at >= ts_close", pl.col("available_at") >= pl.col("ts_close")),
        Rule(
            "late",
            "available_at is within data.max_delay of ts_close",
            (pl.col("available_at") - pl.col("ts_close")) <= pl.duration(microseconds=round(max_delay * 1e6)),
        ),
        Rule("duplicate", "one row per symbol and ts_close", pl.struct("symbol", "ts_close").is_unique()),
        Rule(
            "increasing",
            "ts_close increases per symbol",
            (pl.col("ts_close") >= last_seen) | last_seen.is_null(),  # equal times are the rule `duplicate`
        ),
        Rule("on-calendar", "ts_close is a bar end of the exchange", pl.col("session").is_not_null()),
    )


RULES = rules(0.0)  # for their names and words, which no limit changes


@cache
def bar_schema(max_delay: float) -> Any:
    """The pandera schema of bars that have their ``session`` (null: not a bar end of the calendar)."""
    import pandera.polars as pa  # slow to import

    def check(rule: Rule) -> Any:
        return pa.Check(
            lambda data: data.lazyframe.select(rule.holds.fill_null(True)),
            name=rule.name,
            description=rule.says,
            n_failure_cases=1,  # `violations` finds the rest from the same expression, without their text
        )

    columns = {name: pa.Column(dtype, nullable=True) for name, dtype in COLUMNS.items()}
    columns["session"] = pa.Column(pl.Date, nullable=True)
    return pa.DataFrameSchema(columns, checks=[check(rule) for rule in rules(max_delay)], strict=True)


def check_structure(schema: pl.Schema, source: str) -> None:
    """Refuse a table that lacks a contract column, has another type or time zone, or a column too many.

    Raises:
        DataError: names the source and every column at fault.
    """
    faults = [f"column {name} is missing" for name in COLUMNS if name not in schema]
    faults += [
        f"column {name} is {_type(schema[name])}, the contract says {_type(dtype)}"
        for name, dtype in COLUMNS.items()
        if name in schema and schema[name] != dtype
    ]
    faults += [f"column {name} is not in the contract" for name in schema if name not in COLUMNS]
    if faults:
        raise DataError(
            f"{source}: " + "; ".join(faults),
            remedy="convert the files with `sekisho data ingest` and a mapping (docs/en/your-data.md)",
        )


def violations(frame: pl.DataFrame | pl.LazyFrame, max_delay: float) -> pl.DataFrame:
    """Every broken rule of every row: columns ``row`` (u32, from 0) and ``rule``, by row then rule.

    ``frame`` has the contract's columns and ``session``; ``max_delay`` is in seconds. Structure and data are
    both checked, lazy or not.

    Raises:
        DataError: the structure is broken.
    """
    import pandera.errors
    from pandera.config import ValidationDepth, config_context

    table = frame.lazy()
    try:
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            bar_schema(max_delay).validate(table, lazy=True)
        return pl.DataFrame(schema={"row": pl.UInt32, "rule": pl.String})
    except pandera.errors.SchemaErrors as error:
        check_structure(
            pl.Schema({k: v for k, v in table.collect_schema().items() if k != "session"}), "bars"
        )
        found = _broken_rows(table, max_delay)
        if found.is_empty():  # pandera refuses what the rules let pass: never a pass
            raise DataError(f"bars break the contract: {error}", remedy="report this as a defect") from error
        return found


def _broken_rows(table: pl.LazyFrame, max_delay: float) -> pl.DataFrame:
    order = pl.Enum([rule.name for rule in RULES])
    holds = [rule.holds.fill_null(True).alias(rule.name) for rule in rules(max_delay)]
    masks = table.select(holds).with_row_index("row")
    return (
        masks.unpivot(index="row", variable_name="rule", value_name="holds")
        .filter(~pl.col("holds"))
        .select("row", pl.col("rule").cast(order))
        .sort("row", "rule")
        .with_columns(pl.col("rule").cast(pl.String))
        .collect()
    )


def _type(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.Datetime):
        return f"datetime[{dtype.time_unit}, {dtype.time_zone or 'no time zone'}]"
    return str(dtype)
