"""Every rule that partitions break, counted, with the first example: the dry run and `data check`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from sekisho.calendar import Calendar
from sekisho.data.contract import RULES
from sekisho.data.panel import partitions
from sekisho.data.validate import (
    BarEnds,
    Judgement,
    check_order,
    gap_words,
    judge,
    missing_sessions,
    missing_words,
    offenders,
    read_partition,
)
from sekisho.errors import DataError
from sekisho.params import DataParams


@dataclass(frozen=True)
class Fault:
    """A broken rule: how many rows (or gaps, or files) break it, and the first of them."""

    rule: str
    count: int
    file: str | None  # None: of no single one
    row: int | None
    symbol: str | None
    time: dt.datetime | None
    detail: str


def survey(parts: Iterable[tuple[str, pl.DataFrame | DataError]], params: DataParams) -> list[Fault]:
    """Judge partitions (contract columns, ``file``, ``row``) and sum up their faults, in the rules' order.

    A partition may also be the error that kept it from being read; no session is called missing then.
    Nothing is written, nothing raised.
    """
    ends = BarEnds(Calendar(params.calendar, params.bar))
    found: dict[str, Fault] = {}
    last_end: dict[str, tuple[dt.datetime, str]] = {}
    seen: set[dt.date] = set()
    for label, part in parts:
        for fault in _faults(label, part, ends, params, last_end, seen):
            known = found.get(fault.rule)
            found[fault.rule] = replace(known, count=known.count + fault.count) if known else fault
    missing = missing_sessions(seen, ends.calendar)
    if "structure" not in found and len(missing) > params.max_missing_sessions:
        words = missing_words(missing)
        found["missing-session"] = Fault("missing-session", len(missing), None, None, None, None, words)
    order = ["structure", *(rule.name for rule in RULES), "gap", "overlap", "missing-session"]
    return sorted(found.values(), key=lambda fault: order.index(fault.rule))


def read_all(raw: Path) -> Iterator[tuple[str, pl.DataFrame | DataError]]:
    """The partitions of a raw folder for `survey`: read whole, one at a time."""
    for path in partitions(raw):
        try:
            frame = read_partition(path)
        except DataError as error:
            yield str(path), error
        else:
            yield str(path), frame.with_columns(file=pl.lit(str(path)), row=pl.int_range(1, pl.len() + 1))


def _faults(
    label: str,
    part: pl.DataFrame | DataError,
    ends: BarEnds,
    params: DataParams,
    last_end: dict[str, tuple[dt.datetime, str]],
    seen: set[dt.date],
) -> Iterator[Fault]:
    if isinstance(part, DataError):
        yield Fault("structure", 1, label, None, None, None, part.message.removeprefix(f"{label}: "))
        return
    judged = judge(part.drop("file", "row"), label, ends, params)
    seen.update(judged.kept["session"].unique())
    yield from _broken_rules(judged, part)
    for gap in judged.gaps.iter_rows(named=True):
        origin = part.row(gap["row"] - 1, named=True)
        yield Fault("gap", 1, origin["file"], origin["row"], gap["symbol"], gap["ts_close"], gap_words(gap))
    try:
        check_order(judged.kept, label, last_end)
    except DataError as error:
        yield Fault("overlap", 1, label, None, None, None, error.message.removeprefix(f"{label}: "))


def _broken_rules(judged: Judgement, part: pl.DataFrame) -> Iterator[Fault]:
    for rule in RULES:
        broken = judged.bad.filter(pl.col("reason").str.split(",").list.contains(rule.name))
        if not broken.is_empty():
            first = broken.row(0, named=True)
            origin = part.row(first["row"] - 1, named=True)
            yield Fault(
                rule.name, len(broken), origin["file"], origin["row"], first["symbol"], first["ts_close"],
                f"{rule.says}; found {offenders(broken.head(1)).rpartition(': ')[2]}",
            )  # fmt: skip
