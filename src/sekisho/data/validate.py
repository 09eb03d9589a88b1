"""From raw to validated bars, one partition at a time; what breaks the contract is set apart with reasons."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sekisho.calendar import Calendar
from sekisho.data.contract import COLUMNS, RULES, check_structure, violations
from sekisho.data.panel import partitions
from sekisho.data.store import partition_bytes, replaced
from sekisho.data.tracked import check_tracked
from sekisho.dvc_files import file_md5
from sekisho.errors import DataError
from sekisho.params import DataParams
from sekisho.partition_store import PartitionStore, code_digest, key_of

SHOWN = 3  # offenders named in a message
# the code that decides what becomes of a partition's rows and which bytes are written
JUDGES = (
    "calendar.py",
    "data/contract.py",
    "data/panel.py",
    "data/store.py",
    "data/validate.py",
    "dvc_files.py",
)


@dataclass(frozen=True)
class Judgement:
    """One partition after the contract.

    ``kept``: contract columns and ``session``, sorted by symbol and time. ``bad``: the rest with ``reason``
    (names of the broken rules, joined by a comma), ``source`` and ``row`` (in the source, the first is 1).
    ``gaps``: runs of missing bars over the limit, among the kept rows: ``symbol, missing, side`` ("before" or
    "after") of ``ts_close`` and ``row``.
    """

    kept: pl.DataFrame
    bad: pl.DataFrame
    gaps: pl.DataFrame


class BarEnds:
    """Bar ends of a calendar, looked up by day as partitions need them and remembered."""

    def __init__(self, calendar: Calendar) -> None:
        self.calendar = calendar
        self.known: dict[dt.date, npt.NDArray[np.datetime64]] = {}  # empty: no session that day

    def near(self, days: pl.Series) -> pl.DataFrame:
        """``ts_close, session, slot, bars`` of the sessions on the given UTC days and their neighbours."""
        around = {day + dt.timedelta(days=shift) for day in _plausible(days) for shift in (-1, 0, 1)}
        return self._table(sorted(around))

    def last_of(self, days: pl.Series) -> pl.DataFrame:
        """``session, end`` of the given days that are sessions: the last bar's end."""
        table = self._table(_plausible(days))
        return table.group_by("session", maintain_order=True).agg(end=pl.col("ts_close").max())

    def _table(self, days: list[dt.date]) -> pl.DataFrame:
        self._learn([day for day in days if day not in self.known])
        bars = [len(self.known[day]) for day in days]
        ends = np.concatenate([np.array([], "datetime64[us]"), *(self.known[day] for day in days)])
        return pl.DataFrame(
            {
                "ts_close": ends,
                "session": np.repeat(np.array(days, "datetime64[D]"), bars),
                "slot": np.concatenate(
                    [np.array([], np.int32), *(np.arange(n, dtype=np.int32) for n in bars)]
                ),
                "bars": np.repeat(np.array(bars, np.int32), bars),
            }
        ).with_columns(pl.col("ts_close").dt.replace_time_zone("UTC"))

    def _learn(self, days: list[dt.date]) -> None:
        sessions = set(self.calendar.sessions(days[0], days[-1])) if days else set()
        none = np.array([], "datetime64[us]")
        self.known |= {day: self.calendar.closes(day) if day in sessions else none for day in days}


def _plausible(days: pl.Series) -> list[dt.date]:
    """Distinct days in order that a calendar may know; a wild one is simply on no calendar."""
    return days.filter(days.dt.year().is_between(1900, 2200)).unique().sort().to_list()


@dataclass(frozen=True)
class Validated:
    """A partition that was let through: its figures (`_record`), and whether they were made just now.

    ``kept`` and ``bad`` are the Parquet files of the good and of the bad rows; ``bad`` is None without any.
    """

    record: dict[str, Any]
    kept: bytes
    bad: bytes | None
    made: bool


def validate_bars(
    raw: Path,
    out: Path,
    quarantine: Path,
    params: DataParams,
    metrics: Path,
    store: PartitionStore | None = None,
) -> dict[str, object]:
    """Check every partition of ``raw``; write the good rows, the bad rows and the counts, or nothing at all.

    Good rows go to ``out/<label>.parquet`` with their ``session``, bad rows to ``quarantine/<label>.parquet``
    with ``reason``, ``source`` and ``row``, the counts to ``metrics`` (returned too). Only partitions that
    ``store`` lacks are judged; the bytes are the same without it. Memory is bounded by the largest partition.

    Raises:
        DataError: a file is not the one that DVC tracks, a broken structure, a gap over ``max_gap_bars``,
            partitions out of order, more bad rows than ``max_quarantine_share`` of a partition (names file,
            rule, row, symbol and time); more sessions without a bar than ``max_missing_sessions``.
    """
    digests = check_tracked(raw)
    ends = BarEnds(Calendar(params.calendar, params.bar))
    tally = _Tally()
    with replaced(out, quarantine) as (new_out, new_quarantine):
        order = _Order(new_out)
        for path in partitions(raw):
            done = validate_partition(path, digests[path.name], ends, params, store)
            (new_out / path.name).write_bytes(done.kept)
            order.check(path, done.record)
            if done.bad is not None:
                (new_quarantine / path.name).write_bytes(done.bad)
            tally.add(done.record)
        missing = missing_sessions(tally.sessions, ends.calendar)
        if len(missing) > params.max_missing_sessions:
            raise DataError(
                f"{raw}: {missing_words(missing)}, allowed are {params.max_missing_sessions}",
                remedy="supply the missing sessions, check data.calendar, "
                "or, knowing why, raise data.max_missing_sessions in params.yaml",
            )
        counts = tally.counts() | {"missing_sessions": len(missing)}
        metrics.parent.mkdir(parents=True, exist_ok=True)
        beside = metrics.with_name(f".{metrics.name}.new")
        beside.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    beside.replace(metrics)
    return counts


def validated_key(path: Path, md5: str, params: DataParams) -> str:
    """Key of a partition's result: all that determines it. No other partition does: see `_Order`.

    Its path is in it because the quarantine names it; how many sessions may be missing is no matter of one.
    """
    return key_of(
        "validated",
        str(path),
        md5,
        params.model_dump(mode="json", exclude={"max_missing_sessions"}),
        code_digest(JUDGES, ("exchange_calendars", "numpy", "pandera", "polars")),
    )


def validate_partition(
    path: Path, md5: str, ends: BarEnds, params: DataParams, store: PartitionStore | None
) -> Validated:
    """One partition's result, from ``store`` if it is there, else made and put there.

    Raises:
        DataError: as `validate_bars`, of one partition; the file is no longer the one of ``md5``.
    """
    key = validated_key(path, md5, params)
    record = store.record(key) if store else None
    if store and record:
        kept = store.blob(record["kept"])
        bad = store.blob(record["bad"]) if record["bad"] else None
        if kept is not None and (bad is not None) == bool(record["bad"]):
            return Validated(record, kept, bad, made=False)
    frame = read_partition(path)
    judged = judge(frame, str(path), ends, params)
    _check_share(judged, str(path), params)
    _check_gaps(judged, str(path), params)
    kept = partition_bytes(judged.kept)
    bad = None if judged.bad.is_empty() else partition_bytes(judged.bad)
    record = _record(judged, kept, bad)
    # the calendar reaches a year from now: what it says of later days is not for ever
    if store and frame.select((pl.col("ts_close") < dt.datetime.now(dt.UTC)).all()).item():
        if file_md5(path) != md5:
            raise DataError(f"{path}: changed while it was read", remedy="run the command again")
        store.put(key, record, [kept] if bad is None else [kept, bad])
    return Validated(record, kept, bad, made=True)


def _record(judged: Judgement, kept: bytes, bad: bytes | None) -> dict[str, Any]:
    rules = Counter(rule for reason in judged.bad["reason"] for rule in reason.split(","))
    return {
        "kept": hashlib.sha256(kept).hexdigest(),
        "bad": hashlib.sha256(bad).hexdigest() if bad is not None else None,
        "rows": len(judged.kept),
        "bars": judged.kept["ts_close"].n_unique(),
        "span": [judged.kept["ts_close"].dt.epoch("us").min(), judged.kept["ts_close"].dt.epoch("us").max()],
        "bad_rows": len(judged.bad),
        "rules": dict(rules),
        "symbols": judged.kept["symbol"].unique().sort().to_list(),
        "sessions": [str(day) for day in judged.kept["session"].unique().sort()],
    }


def read_partition(path: Path) -> pl.DataFrame:
    """Read one raw partition whole and check its structure.

    Raises:
        DataError: empty, truncated, not Parquet; a column missing, of another type or time zone, or too many.
    """
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes)", remedy="fetch or make this partition again")
    try:
        frame = pl.read_parquet(path, hive_partitioning=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{path}: not readable as Parquet, truncated or damaged: {str(error).splitlines()[0]}",
            remedy="fetch or make this partition again",
        ) from error
    check_structure(frame.schema, str(path))
    if frame.is_empty():
        raise DataError(f"{path}: the file has no rows", remedy="fetch this partition again, or remove it")
    return frame.select(list(COLUMNS))


def judge(frame: pl.DataFrame, source: str, ends: BarEnds, params: DataParams) -> Judgement:
    """Divide a partition's rows by the contract; gaps are looked for in what is kept."""
    placed = with_sessions(frame, ends).with_row_index("row", offset=1)
    contract = placed.select(*COLUMNS, "session")
    broken = violations(contract, params.max_delay)
    if broken.is_empty():
        bad = placed.clear().with_columns(reason=pl.lit(None, pl.String), source=pl.lit(None, pl.String))
    else:
        reasons = broken.group_by("row", maintain_order=True).agg(
            pl.col("rule").str.join(",").alias("reason")
        )
        reasons = reasons.with_columns(pl.col("row") + 1, source=pl.lit(source))
        bad = placed.join(reasons, on="row", how="inner", maintain_order="left")
        placed = placed.join(reasons, on="row", how="anti", maintain_order="left")
    kept = placed.select(*COLUMNS, "session").sort("symbol", "ts_close")
    gaps = _gaps(placed, params.max_gap_bars)
    return Judgement(kept, bad.select(*COLUMNS, "session", "reason", "source", "row"), gaps)


def with_sessions(frame: pl.DataFrame, ends: BarEnds) -> pl.DataFrame:
    """Add ``session``, ``slot`` (from 0) and ``bars`` (of the session); null where no bar ends."""
    return frame.join(
        ends.near(frame["ts_close"].dt.date()), on="ts_close", how="left", maintain_order="left"
    )


def offenders(bad: pl.DataFrame, shown: int = SHOWN) -> str:
    """The first bad rows in words: row, symbol, time, broken rules and the values they speak of."""
    lines = []
    for line in bad.head(shown).iter_rows(named=True):
        when = line["ts_close"].strftime("%Y-%m-%d %H:%M:%SZ") if line["ts_close"] else "no time"
        says = "; ".join(
            f"{rule.name} ({rule.says})" for rule in RULES if rule.name in line["reason"].split(",")
        )
        prices = ", ".join(f"{name} {line[name]}" for name in ("open", "high", "low", "close", "volume"))
        nulls = ", ".join(name for name in COLUMNS if line[name] is None)
        prices += f"; no value: {nulls}" if nulls else ""
        lines.append(f"  row {line['row']}, {line['symbol']} at {when}: broken {says}: {prices}")
    if len(bad) > shown:
        lines.append(f"  and {len(bad) - shown} more")
    return "\n".join(lines)


def first_offenders(quarantine: Path) -> str:
    """The first quarantined rows in words, with their source file; empty where there are none."""
    for path in sorted(quarantine.glob("*.parquet")):
        bad = pl.read_parquet(path, glob=False)
        return f"{bad['source'][0]}:\n{offenders(bad)}"
    return ""


def _check_share(judged: Judgement, source: str, params: DataParams) -> None:
    bad, rows = len(judged.bad), len(judged.bad) + len(judged.kept)
    if bad > params.max_quarantine_share * rows:
        raise DataError(
            f"{source}: {bad} of {rows} rows break the contract, "
            f"allowed are {params.max_quarantine_share:.2%}\n" + offenders(judged.bad),
            remedy="mend these rows at their source and run `sekisho data check`; "
            "or, knowing why, raise data.max_quarantine_share in params.yaml",
        )


def _gaps(placed: pl.DataFrame, limit: int) -> pl.DataFrame:
    """Runs of more than ``limit`` missing bars inside a session, by symbol and time."""
    key = ["symbol", "session"]
    before = pl.col("slot") - pl.col("slot").shift(1).over(key).fill_null(-1) - 1
    last = pl.col("slot") == pl.col("slot").max().over(key)
    after = pl.when(last).then(pl.col("bars") - 1 - pl.col("slot"))
    runs = placed.sort("symbol", "ts_close").with_columns(before=before, after=after)
    return (
        runs.unpivot(
            ["before", "after"],
            index=["symbol", "ts_close", "row"],
            variable_name="side",
            value_name="missing",
        )
        .filter(pl.col("missing") > limit)
        .sort("symbol", "ts_close")
    )


def gap_words(gap: dict[str, object]) -> str:
    """One row of `Judgement.gaps` in words."""
    return (
        f"{gap['symbol']} misses {gap['missing']} bars in a row {gap['side']} "
        f"{gap['ts_close']:%Y-%m-%d %H:%M:%SZ}"
    )


def _check_gaps(judged: Judgement, source: str, params: DataParams) -> None:
    for gap in judged.gaps.head(1).iter_rows(named=True):
        raise DataError(
            f"{source}: rule gap: {gap_words(gap)} (row {gap['row']}), allowed are {params.max_gap_bars}",
            remedy="supply the missing bars (tradable = false, volume 0, in a halt), leave the symbol out "
            "of that session, or raise data.max_gap_bars in params.yaml",
        )


def check_order(kept: pl.DataFrame, source: str, last_end: dict[str, tuple[dt.datetime, str]]) -> None:
    """Each symbol's time also increases from partition to partition; ``last_end`` carries its end and source.

    Raises:
        DataError: a partition reaches back into an earlier one.
    """
    spans = kept.group_by("symbol").agg(first=pl.col("ts_close").min(), last=pl.col("ts_close").max())
    for symbol, first, last in spans.sort("symbol").iter_rows():
        if symbol in last_end and first <= last_end[symbol][0]:
            end, earlier = last_end[symbol]
            raise DataError(
                f"{source}: rule increasing: {symbol} begins at {first:%Y-%m-%d %H:%M:%SZ}, "
                f"but {earlier} already reaches {end:%Y-%m-%d %H:%M:%SZ}",
                remedy="partitions must not overlap and their names must sort by time; remove or rename one",
            )
        last_end[symbol] = (last, source)


def missing_sessions(seen: set[dt.date], calendar: Calendar) -> list[dt.date]:
    """Sessions of the exchange between the first and the last one seen that were not seen, in order."""
    return [day for day in calendar.sessions(min(seen), max(seen)) if day not in seen] if seen else []


def missing_words(missing: list[dt.date]) -> str:
    """What `missing_sessions` found, in words."""
    days = ", ".join(map(str, missing[:SHOWN])) + (" …" if len(missing) > SHOWN else "")
    return f"no bar at all in {len(missing)} of the exchange's sessions: {days}"


class _Order:
    """Does time increase from partition to partition, per symbol? The only rule that reaches across a border.

    A partition that begins after all before it have ended needs no look at its symbols. Where one does not,
    `check_order` reads all of them, once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder  # of the partitions' good rows
        self._seen: list[Path] = []
        self._end: int | None = None  # of all so far, microseconds
        self._by_symbol: dict[str, tuple[dt.datetime, str]] | None = None

    def check(self, path: Path, record: dict[str, Any]) -> None:
        first, last = record["span"]
        self._seen.append(path)
        if first is None:
            return
        if self._by_symbol is None and self._end is not None and first <= self._end:
            self._by_symbol = {}
            for earlier in self._seen[:-1]:
                self._look(earlier)
        if self._by_symbol is not None:
            self._look(path)
        self._end = last if self._end is None else max(self._end, last)

    def _look(self, path: Path) -> None:
        assert self._by_symbol is not None
        kept = pl.read_parquet(self.folder / path.name, columns=["symbol", "ts_close"], glob=False)
        check_order(kept, str(path), self._by_symbol)


@dataclass
class _Tally:
    partitions: int = 0
    rows: int = 0
    bad: int = 0
    rules: Counter[str] = field(default_factory=Counter)
    symbols: set[str] = field(default_factory=set)
    sessions: set[dt.date] = field(default_factory=set)

    def add(self, record: dict[str, Any]) -> None:
        self.partitions += 1
        self.rows += record["rows"]
        self.bad += record["bad_rows"]
        self.rules.update(record["rules"])
        self.symbols.update(record["symbols"])
        self.sessions.update(map(dt.date.fromisoformat, record["sessions"]))

    def counts(self) -> dict[str, object]:
        return {
            "partitions": self.partitions,
            "rows": self.rows,
            "symbols": len(self.symbols),
            "first_session": str(min(self.sessions, default=None)),
            "last_session": str(max(self.sessions, default=None)),
            "quarantined_rows": self.bad,
            "quarantined": {rule.name: self.rules[rule.name] for rule in RULES if self.rules[rule.name]},
        }
