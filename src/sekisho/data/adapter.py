"""The user's own bars: Parquet or CSV, in a folder or under ``s3://…``, brought to the contract by a mapping.

The source is scanned lazily and taken in runs of whole partitions, so that memory stays bounded however large
it is. S3 credentials, region and endpoint come from the usual ``AWS_…`` environment variables. Guide:
docs/en/your-data.md.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from csv import reader
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ruamel.yaml.error import YAMLError

from sekisho.calendar import BAR_MINUTES, Calendar
from sekisho.data.contract import COLUMNS
from sekisho.data.store import add_partitions
from sekisho.data.tracked import listing
from sekisho.data.validate import BarEnds
from sekisho.errors import DataError
from sekisho.params import DataParams, parse_yaml

A_YEAR = 366 * 86_400.0  # seconds
ROWS_AT_ONCE = 4_000_000  # rows of the source held in memory, unless one partition alone has more


class Mapping(BaseModel):
    """How the user's columns become ours. Every contract column is given exactly once; nothing is guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: dict[str, str]  # ours: theirs
    constants: dict[str, bool | float | str] = {}  # for what their files lack
    time_zone: str  # of times without a zone, e.g. Asia/Tokyo
    time_is: Literal[
        "close", "open", "session"
    ]  # what their time names: the bar's end, its start, or the day
    available_after: Annotated[float, Field(ge=0, le=A_YEAR)] | None = None  # seconds from ts_close on
    adv_sessions: Annotated[int, Field(ge=1)] | None = (
        None  # adv = mean traded value of so many sessions before
    )
    partition: Literal["session", "year"]

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"no time zone is called {zone!r}") from error
        return zone

    @property
    def derived(self) -> set[str]:
        """Contract columns that are computed."""
        names = {"available_at"} if self.available_after is not None else set()
        return names | ({"adv"} if self.adv_sessions is not None else set())


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file.

    Raises:
        DataError: no such file, not YAML, an unknown key, a contract column given twice or not at all.
    """
    remedy = "docs/en/your-data.md shows a complete mapping"
    try:
        mapping = Mapping.model_validate(parse_yaml(path.read_bytes()))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", remedy=remedy) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid YAML: {error}", remedy=remedy) from error
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg']}" for e in error.errors()]
        raise DataError("\n".join(lines), remedy=remedy) from error
    given = [*mapping.columns, *mapping.constants, *mapping.derived]
    faults = [f"column {name} is not in the contract" for name in sorted(set(given) - set(COLUMNS))]
    faults += [
        f"column {name} is given more than once" for name in sorted(set(given)) if given.count(name) > 1
    ]
    faults += [f"column {name} is given nowhere" for name in COLUMNS if name not in given]
    faults += [_constant_fault(name, value) for name, value in mapping.constants.items() if name in COLUMNS]
    faults = [fault for fault in faults if fault]
    if faults:
        raise DataError(f"{path}: " + "; ".join(faults), remedy=remedy)
    return mapping


def _constant_fault(name: str, value: bool | float | str) -> str:
    """What is wrong with one of the mapping's constants; empty if nothing is."""
    wanted = COLUMNS[name]
    if name == "symbol" or isinstance(wanted, pl.Datetime):
        return f"constants.{name}: cannot be a constant"
    fits = isinstance(value, bool) if wanted == pl.Boolean else type(value) in (int, float)
    kind = "true or false" if wanted == pl.Boolean else "a number"
    return "" if fits else f"constants.{name}: {value!r} is not {kind}"


def ingest(source: str, mapping: Mapping, out: Path, params: DataParams) -> tuple[int, int]:
    """Add the source's partitions to ``out``; returns how many are new and how many were there already.

    Nothing that is there is ever changed; where DVC tracks ``out``, what its listing names is there too. The
    rows are judged later, by `validate_bars`.

    Raises:
        DataError: as `adapted`; a partition that exists with other rows; the disk is full.
    """
    parts = ((label, frame.select(list(COLUMNS))) for label, frame in adapted(source, mapping, params))
    return add_partitions(out, parts, listing(out))


def adapted(source: str, mapping: Mapping, params: DataParams) -> Iterator[tuple[str, pl.DataFrame]]:
    """Partitions in time order: label, and rows with the contract's columns, ``file`` and ``row``.

    Rows keep the source's order inside a symbol, so that the contract can judge it. A row whose time is no
    bar end goes to its UTC day, a value that is not of our type becomes null: for the contract to refuse.

    Raises:
        DataError: nothing there, not readable, a mapped column that is missing, a time that is a number.
    """
    ends = BarEnds(Calendar(params.calendar, params.bar))
    try:
        table = _placed(_ours(_scan(source), source, mapping, params), mapping, ends)
        sizes = table.group_by("label").len().sort("label").collect(engine="streaming")
        if sizes.is_empty():
            raise DataError(
                f"{source}: no row is left to take",
                remedy="check the path and the files; adv_sessions leaves out each symbol's first session",
            )
        for labels in _batches(sizes):
            rows = table.filter(pl.col("label").is_in(labels)).sort("_index").collect(engine="streaming")
            groups = rows.sort("symbol", "_index").partition_by("label", as_dict=True, include_key=False)
            for label in labels:
                yield label, groups[(label,)].select(*COLUMNS, "file", "row")
    except (pl.exceptions.PolarsError, OSError) as error:
        if "://" not in source:
            for path in _files(source):
                check_readable(path)
        raise DataError(
            f"{source}: cannot be read: {str(error).splitlines()[0]}",
            remedy="check the path and the files; for S3 also AWS_REGION, AWS_ENDPOINT_URL and credentials",
        ) from error


def _scan(source: str) -> pl.LazyFrame:
    """All files as one table, with ``file``, ``row`` (from 1, in its file), ``_index`` (over all files)."""
    files: str | list[str] = source if "://" in source else _local_files(source)
    extra = {"include_file_paths": "file", "row_index_name": "_index"}
    if (files if isinstance(files, str) else files[0]).endswith(".csv"):
        table = pl.scan_csv(files, infer_schema=False, glob="://" in source, **extra)  # type: ignore[arg-type]
    else:
        table = pl.scan_parquet(files, hive_partitioning=False, glob="://" in source, **extra)  # type: ignore[arg-type]
    firsts = table.group_by("file").agg(_first=pl.col("_index").min()).collect(engine="streaming")
    row = (pl.col("_index") - pl.col("_first") + 1).alias("row")
    return table.join(firsts.lazy(), on="file", how="left").with_columns(row).drop("_first")


def _local_files(source: str) -> list[str]:
    """All Parquet or all CSV files below a folder, each one readable and with the columns of the first."""
    files = _files(source)
    if len({path.suffix for path in files}) != 1:
        found = "both Parquet and CSV files" if files else "no .parquet or .csv file"
        raise DataError(f"{source}: {found} there", remedy="give a folder that holds files of one kind")
    expected = pl.Schema()
    for path in files:
        try:
            csv = path.suffix == ".csv"
            table = (
                pl.scan_csv(path, infer_schema=False, glob=False)
                if csv
                else pl.scan_parquet(path, glob=False)
            )
            columns = table.collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(
                f"{path}: empty, truncated or damaged: {str(error).splitlines()[0]}",
                remedy="fetch this file again",
            ) from error
        if csv and len(columns) == 1:
            raise DataError(f"{path}: one column only, {columns.names()[0]!r}", remedy="separate by commas")
        expected = expected or columns
        if columns != expected:
            here, there = _words(columns, csv), _words(expected, csv)
            raise DataError(
                f"{path}: its columns are {here}; of {files[0]} they are {there}",
                remedy="give all files the same columns of the same types in the same order",
            )
    return [str(path) for path in files]


def _files(source: str) -> list[Path]:
    if Path(source).is_file():
        raise DataError(f"{source}: a file", remedy="give the folder that holds it")
    return sorted(path for path in Path(source).rglob("*") if path.suffix in (".parquet", ".csv"))


def _words(columns: pl.Schema, csv: bool) -> str:
    return ", ".join(name if csv else f"{name} {dtype}" for name, dtype in columns.items())


def check_readable(path: Path) -> None:
    """Read one of the user's files line by line, to say what polars says of all files without a name.

    Raises:
        DataError: names the file, and in a CSV the line.
    """
    if path.suffix == ".csv":
        fields = 0
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            try:
                found = len(next(reader([line.decode("utf-8")]), []))
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}: line {number} is not UTF-8", remedy="save the file as UTF-8"
                ) from error
            fields = fields or found
            if found > fields:
                raise DataError(
                    f"{path}: line {number} has {found} fields, the first line has {fields}",
                    remedy="mend the line at its source; quote fields that hold a comma",
                )
    else:
        try:
            pl.scan_parquet(path, glob=False).select(pl.all().len()).collect(engine="streaming")
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(
                f"{path}: damaged: {str(error).splitlines()[0]}", remedy="fetch this file again"
            ) from error


def _ours(table: pl.LazyFrame, source: str, mapping: Mapping, params: DataParams) -> pl.LazyFrame:
    """Rename, convert, fill in constants; ``ts_close`` is still a bare day where times name the session."""
    schema = table.collect_schema()
    missing = [f"{ours}: {theirs}" for ours, theirs in mapping.columns.items() if theirs not in schema]
    if missing:
        raise DataError(
            f"{source}: the mapping names columns that are not there: {'; '.join(missing)}",
            remedy=f"the files have {', '.join(n for n in schema if n not in ('file', 'row', '_index'))}",
        )
    chosen = {
        ours: _converted(theirs, schema[theirs], ours, mapping) for ours, theirs in mapping.columns.items()
    }
    chosen |= {ours: pl.lit(value).cast(COLUMNS[ours]) for ours, value in mapping.constants.items()}
    table = table.select("file", "row", "_index", **chosen)
    if mapping.time_is == "open":
        if not BAR_MINUTES[params.bar]:
            raise DataError("time_is: open has no meaning for daily bars", remedy="write time_is: session")
        table = table.with_columns(pl.col("ts_close").dt.offset_by(f"{BAR_MINUTES[params.bar]}m"))
    return table


def _converted(theirs: str, found: pl.DataType, ours: str, mapping: Mapping) -> pl.Expr:
    column, wanted = pl.col(theirs), COLUMNS[ours]
    if isinstance(wanted, pl.Datetime):
        return _time(column, theirs, found, mapping, day=ours == "ts_close" and mapping.time_is == "session")
    if wanted == pl.Boolean and found == pl.String:
        words = {"true": True, "1": True, "false": False, "0": False}
        return column.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)
    return column.cast(wanted, strict=False)


def _time(column: pl.Expr, theirs: str, found: pl.DataType, mapping: Mapping, *, day: bool) -> pl.Expr:
    local = {"ambiguous": "null", "non_existent": "null"}
    if found == pl.String:
        has_zone = column.str.contains(r"(Z|[+-]\d\d:?\d\d)$")
        naive = pl.when(~has_zone).then(column).str.to_datetime(time_unit="us", strict=False)
        aware = pl.when(has_zone).then(column).str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
        zoned = naive.dt.replace_time_zone(mapping.time_zone, **local).dt.convert_time_zone("UTC")  # type: ignore[arg-type]
        moment = pl.coalesce(zoned, aware)
    elif isinstance(found, pl.Datetime) and found.time_zone:
        moment = column.cast(pl.Datetime("us", found.time_zone)).dt.convert_time_zone("UTC")
    elif isinstance(found, (pl.Datetime, pl.Date)):
        naive = column.cast(pl.Datetime("us"))
        moment = naive.dt.replace_time_zone(mapping.time_zone, **local).dt.convert_time_zone("UTC")  # type: ignore[arg-type]
    else:
        raise DataError(
            f"column {theirs} is {found}, not a time",
            remedy="store times as text, dates or Parquet timestamps",
        )
    return moment.dt.convert_time_zone(mapping.time_zone).dt.date() if day else moment


def _placed(table: pl.LazyFrame, mapping: Mapping, ends: BarEnds) -> pl.LazyFrame:
    """Give each row its ``ts_close``, derived columns and the ``label`` of its partition."""
    day = pl.col("ts_close").cast(pl.Date)
    days = table.select(day.unique()).collect(engine="streaming")["ts_close"]
    if days.is_empty():
        raise DataError("the files have no rows", remedy="check the path and the files")
    if days.null_count() == len(days):
        raise DataError("no row has a readable time", remedy="check ts_close and time_zone in the mapping")
    if mapping.time_is == "session":
        table = table.join(ends.last_of(days).lazy(), left_on="ts_close", right_on="session", how="left")
        midnight = pl.col("ts_close").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        table = table.with_columns(ts_close=pl.coalesce("end", midnight)).drop("end")
    table = table.join(ends.near(days).lazy().select("ts_close", "session"), on="ts_close", how="left")
    if mapping.available_after is not None:
        after = dt.timedelta(seconds=mapping.available_after)
        table = table.with_columns(available_at=pl.col("ts_close") + after)
    if mapping.adv_sessions is not None:
        table = with_lagged_adv(table, mapping.adv_sessions)
    form = "%Y" if mapping.partition == "year" else "%Y-%m-%d"
    undated = days.sort(nulls_last=True).dt.to_string(form)[0]  # where a row without a time will be refused
    return table.with_columns(label=pl.coalesce("session", day).dt.to_string(form).fill_null(undated))


def with_lagged_adv(table: pl.LazyFrame, sessions: int) -> pl.LazyFrame:
    """Add ``adv``: mean traded value of the ``sessions`` sessions before.

    Needs ``symbol, session, close, volume``. A symbol's first session has nothing before it: left out.
    """
    traded = table.group_by("symbol", "session").agg(traded=(pl.col("close") * pl.col("volume")).sum())
    mean = pl.col("traded").rolling_mean(sessions, min_samples=1).shift(1).over("symbol", order_by="session")
    known = traded.filter(pl.col("session").is_not_null()).with_columns(adv=mean).drop("traded")
    first = pl.col("session").is_not_null() & pl.col("adv").is_null()
    return table.join(known, on=["symbol", "session"], how="left").filter(~first)


def _batches(sizes: pl.DataFrame) -> Iterator[list[str]]:
    """Consecutive labels, at most `ROWS_AT_ONCE` rows together."""
    batch: list[str] = []
    rows = 0
    for label, count in sizes.iter_rows():
        if batch and rows + count > ROWS_AT_ONCE:
            yield batch
            batch, rows = [], 0
        batch.append(label)
        rows += count
    if batch:
        yield batch
