"""The user's own files: CSV or Parquet, their names and times, brought to the contract without guessing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml
from click.testing import CliRunner, Result

from sekisho.cli.data import data
from sekisho.data.adapter import Mapping, adapted, ingest, load_mapping
from sekisho.data.contract import COLUMNS
from sekisho.data.survey import survey
from sekisho.errors import DataError
from sekisho.params import DataParams

REPO = Path(__file__).parents[2]
MAPPING = {
    "columns": {"symbol": "code", "ts_close": "time", "volume": "shares"}
    | {name: name.upper() for name in ("open", "high", "low", "close")},
    "constants": {
        "adj_factor": 1.0,
        "adv": 5e10,
        "half_spread": 0.0001,
        "borrow_rate": 0.0,
        "funding_rate": 0.0,
        "tradable": True,
    },
    "time_zone": "Asia/Tokyo",
    "time_is": "close",
    "available_after": 0,
    "partition": "session",
}


def mapping(**changes: object) -> Mapping:
    return Mapping.model_validate(MAPPING | changes)


def theirs(bars: pl.DataFrame) -> pl.DataFrame:
    """The same bars as another firm would keep them: other names, Tokyo wall-clock time as text."""
    return bars.select(
        pl.col("symbol").alias("code"),
        pl.col("ts_close").dt.convert_time_zone("Asia/Tokyo").dt.strftime("%Y-%m-%d %H:%M:%S").alias("time"),
        *(pl.col(name).alias(name.upper()) for name in ("open", "high", "low", "close")),
        pl.col("volume").alias("shares"),
    )


@pytest.fixture
def source(tmp_path: Path, three_sessions: pl.DataFrame) -> Path:
    """One CSV file per symbol, three sessions in each."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for (symbol,), part in three_sessions.partition_by("symbol", as_dict=True).items():
        theirs(part).write_csv(folder / f"{symbol}.csv")
    return folder


def read(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "*.parquet")


PRICES = ["symbol", "ts_close", "available_at", "open", "high", "low", "close", "volume"]


def test_csv_files_per_symbol_become_partitions_per_session(
    source: Path, tmp_path: Path, params: DataParams, three_sessions: pl.DataFrame
) -> None:
    assert ingest(str(source), mapping(), tmp_path / "bars", params) == (3, 0)
    bars = read(tmp_path / "bars")
    assert bars.schema == pl.Schema(COLUMNS)
    assert bars.select(PRICES).equals(three_sessions.select(PRICES))
    assert sorted(p.stem for p in (tmp_path / "bars").iterdir()) == ["2025-01-06", "2025-01-07", "2025-01-08"]


@pytest.mark.parametrize("form", ["naive", "aware", "ns", "text with offset", "open"])
def test_every_form_of_time_gives_the_same_bars(
    tmp_path: Path, params: DataParams, three_sessions: pl.DataFrame, form: str
) -> None:
    tokyo = pl.col("ts_close").dt.convert_time_zone("Asia/Tokyo")
    time = {
        "naive": tokyo.dt.replace_time_zone(None),
        "aware": tokyo,
        "ns": tokyo.dt.cast_time_unit("ns"),
        "text with offset": tokyo.dt.strftime("%Y-%m-%dT%H:%M:%S%:z"),
        "open": tokyo.dt.replace_time_zone(None) - dt.timedelta(minutes=5),
    }[form]
    (tmp_path / "theirs").mkdir()
    frame = theirs(three_sessions).with_columns(three_sessions.select(time.alias("time")))
    frame.write_parquet(tmp_path / "theirs/all.parquet")
    how = mapping(time_is="open" if form == "open" else "close")
    ingest(str(tmp_path / "theirs"), how, tmp_path / "bars", params)
    assert read(tmp_path / "bars").select(PRICES).equals(three_sessions.select(PRICES))


def test_ingesting_again_changes_nothing_and_new_sessions_are_added(
    source: Path, tmp_path: Path, params: DataParams
) -> None:
    out = tmp_path / "bars"
    ingest(str(source), mapping(), out, params)
    (out / "2025-01-08.parquet").unlink()
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert ingest(str(source), mapping(), out, params) == (1, 2)
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.name in before} == before


def test_history_is_never_rewritten(source: Path, tmp_path: Path, params: DataParams) -> None:
    out = tmp_path / "bars"
    ingest(str(source), mapping(), out, params)
    (out / "2025-01-08.parquet").unlink()
    with pytest.raises(
        DataError, match=r"2025-01-06.parquet, .*2 partitions exist with other rows; nothing was"
    ):
        ingest(str(source), mapping(available_after=1), out, params)
    assert not (out / "2025-01-08.parquet").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_daily_files_get_the_sessions_close_and_years(tmp_path: Path) -> None:
    daily = DataParams(
        calendar="XNYS",
        bar="1d",
        max_quarantine_share=0.01,
        max_gap_bars=6,
        max_missing_sessions=200,
        max_delay=0,
    )
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/a.csv").write_text(
        "code,time,OPEN,HIGH,LOW,CLOSE,shares\n"
        "A,2024-12-31,1,2,1,2,10\nA,2025-01-02,2,3,2,3,10\nA,2025-01-04,3,4,3,4,10\nA,2025-07-03,4,5,4,5,10\n"
    )
    how = mapping(time_is="session", time_zone="America/New_York", partition="year")
    parts = dict(adapted(str(tmp_path / "theirs"), how, daily))
    assert list(parts) == ["2024", "2025"]
    assert parts["2025"]["ts_close"].to_list() == [
        dt.datetime(2025, 1, 2, 21, tzinfo=dt.UTC),
        dt.datetime(2025, 1, 4, 0, tzinfo=dt.UTC),  # a Saturday: left for the contract to refuse
        dt.datetime(2025, 7, 3, 17, tzinfo=dt.UTC),  # a half day
    ]
    faults = survey(adapted(str(tmp_path / "theirs"), how, daily), daily)
    assert [(f.rule, f.count, f.row, f.symbol) for f in faults] == [("on-calendar", 1, 3, "A")]


def test_adv_is_the_mean_of_earlier_sessions_only(
    source: Path, tmp_path: Path, params: DataParams, three_sessions: pl.DataFrame
) -> None:
    constants = {k: v for k, v in MAPPING["constants"].items() if k != "adv"}  # type: ignore[attr-defined]
    ingest(str(source), mapping(constants=constants, adv_sessions=20), tmp_path / "bars", params)
    traded = (
        three_sessions.group_by("symbol", "session")
        .agg(value=(pl.col("close") * pl.col("volume")).sum())
        .pivot("session", index="symbol", values="value")
        .sort("symbol")
    )
    first, second = traded["2025-01-06"], traded["2025-01-07"]
    found = {p.stem: pl.read_parquet(p).group_by("symbol").agg(pl.col("adv").unique()).sort("symbol")["adv"]
             for p in (tmp_path / "bars").iterdir()}  # fmt: skip
    assert sorted(found) == ["2025-01-07", "2025-01-08"]  # the first session has no past
    assert found["2025-01-07"].explode().to_list() == pytest.approx(first.to_list())
    assert found["2025-01-08"].explode().to_list() == pytest.approx(((first + second) / 2).to_list())


def edit(path: Path, line: int, old: str, new: str) -> None:
    lines = path.read_text().splitlines()
    assert old in lines[line]
    lines[line] = lines[line].replace(old, new)
    path.write_text("\n".join(lines) + "\n")


def test_the_dry_run_lists_each_rule_with_file_row_symbol_and_time(
    source: Path, params: DataParams, tmp_path: Path
) -> None:
    edit(source / "SYN3.csv", 5, ",16", ",-16")
    edit(source / "SYN4.csv", 70, "2025-01-07 09:20", "2025-01-07 09:21")
    edit(source / "SYN5.csv", 100, "SYN5", "")
    lines = (source / "SYN6.csv").read_text().splitlines()
    (source / "SYN6.csv").write_text("\n".join(lines[:80] + lines[90:]) + "\n")
    faults = {f.rule: f for f in survey(adapted(str(source), mapping(), params), params)}
    assert list(faults) == ["complete", "positive-price", "price-order", "on-calendar", "gap"]
    for rule, file, row, symbol, time in [
        ("complete", "SYN5.csv", 100, None, "2025-01-07 03:50"),
        ("positive-price", "SYN3.csv", 5, "SYN3", "2025-01-06 00:25"),
        ("on-calendar", "SYN4.csv", 70, "SYN4", "2025-01-07 00:21"),
        ("gap", "SYN6.csv", 80, "SYN6", "2025-01-07 02:00"),
    ]:
        fault = faults[rule]
        assert (Path(fault.file).name, fault.row, fault.symbol) == (file, row, symbol)
        assert f"{fault.time:%Y-%m-%d %H:%M}" == time


def run(source: Path, tmp_path: Path, *options: str) -> Result:
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(MAPPING))
    places = {"--from": source, "--mapping": tmp_path / "m.yaml", "--out": tmp_path / "bars"}
    places["--params"] = REPO / "params.yaml"
    words = [str(word) for place in places.items() for word in place]
    return CliRunner().invoke(data, ["ingest", *words, *options])


def test_the_dry_run_writes_nothing_and_exits_1_on_a_fault_and_0_on_none(
    source: Path, tmp_path: Path
) -> None:
    good = run(source, tmp_path, "--dry-run")
    assert (good.exit_code, "every bar keeps the contract" in good.output) == (0, True)
    edit(source / "SYN3.csv", 5, ",16", ",-16")
    bad = run(source, tmp_path, "--dry-run")
    assert bad.exit_code == 1
    assert "positive-price" in bad.output
    assert "SYN3.csv" in bad.output
    assert not (tmp_path / "bars").exists()


def test_a_dry_run_that_finds_no_row_is_an_error_and_not_a_pass(
    source: Path, tmp_path: Path, params: DataParams, three_sessions: pl.DataFrame
) -> None:
    first = theirs(three_sessions.filter(pl.col("session") == dt.date(2025, 1, 6)))
    nothing(source)
    constants = {k: v for k, v in MAPPING["constants"].items() if k != "adv"}  # type: ignore[attr-defined]
    past = mapping(constants=constants, adv_sessions=20)
    for rows, how, message in (
        (first.clear(), mapping(), "the files have no rows"),
        (first, past, "no row is left"),  # a first session has no past to average
    ):
        rows.write_parquet(source / "a.parquet")
        with pytest.raises(DataError, match=message):
            survey(adapted(str(source), how, params), params)
        with pytest.raises(DataError, match=message):
            ingest(str(source), how, tmp_path / "bars", params)
    first.clear().write_parquet(source / "a.parquet")
    result = run(source, tmp_path, "--dry-run")
    assert isinstance(result.exception, DataError)
    assert "every bar" not in result.output


def test_ingest_from_the_command_line(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path)
    assert result.exit_code == 0, result.output
    assert "3 new partitions" in result.output


def spoil_header(source: Path) -> None:
    edit(source / "SYN2.csv", 0, "OPEN,HIGH", "HIGH,OPEN")


def truncated_parquet(source: Path) -> None:
    for path in source.iterdir():
        path.unlink()
    (source / "a.parquet").write_bytes(b"PAR1 but no more")


def both_kinds(source: Path) -> None:
    (source / "a.parquet").touch()


def nothing(source: Path) -> None:
    for path in source.iterdir():
        path.unlink()


def shift_jis(source: Path) -> None:
    edit(source / "SYN2.csv", 3, "SYN2", "\u9285")
    text = (source / "SYN2.csv").read_text(encoding="utf-8")
    (source / "SYN2.csv").write_bytes(text.encode("shift_jis"))


def a_field_too_many(source: Path) -> None:
    edit(source / "SYN2.csv", 4, "SYN2", "SYN2,1,2")


def semicolons(source: Path) -> None:
    for path in source.iterdir():
        path.write_text(path.read_text().replace(",", ";"))


def two_types(source: Path) -> None:
    for path in sorted(source.iterdir()):
        table = pl.read_csv(path)
        wide = table if path.stem == "SYN1" else table.with_columns(pl.col("OPEN").cast(pl.Float32))
        wide.write_parquet(path.with_suffix(".parquet"))
        path.unlink()


@pytest.mark.parametrize(
    ("prepare", "changes", "message"),
    [
        (shift_jis, {}, r"SYN2.csv: line 4 is not UTF-8"),
        (a_field_too_many, {}, r"SYN2.csv: line 5 has 9 fields, the first line has 7"),
        (semicolons, {}, r"SYN1.csv: one column only"),
        (
            two_types,
            {},
            r"SYN2.parquet: its columns are .*OPEN Float32.*SYN1.parquet they are .*OPEN Float64",
        ),
        (spoil_header, {}, r"SYN2.csv: its columns are code, time, HIGH, OPEN"),
        (truncated_parquet, {}, "a.parquet: empty, truncated or damaged"),
        (both_kinds, {}, "both Parquet and CSV"),
        (nothing, {}, "no .parquet or .csv file there"),
        (
            None,
            {"columns": MAPPING["columns"] | {"volume": "units"}},
            "columns that are not there: volume: units",
        ),  # type: ignore[operator]
        (None, {"columns": MAPPING["columns"] | {"ts_close": "code"}}, "no row has a readable time"),  # type: ignore[operator]
    ],
)
def test_a_source_that_does_not_fit_its_mapping_is_named(
    source: Path, tmp_path: Path, params: DataParams, prepare: Callable | None, changes: dict, message: str
) -> None:
    if prepare:
        prepare(source)
    with pytest.raises(DataError, match=message):
        ingest(str(source), mapping(**changes), tmp_path / "bars", params)
    assert not (tmp_path / "bars").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colums": {}}, "colums"),
        ({"time_zone": "Asia/Edo"}, "no time zone is called 'Asia/Edo'"),
        ({"time_is": "middle"}, "time_is"),
        ({"available_after": None}, "column available_at is given nowhere"),
        ({"adv_sessions": 20}, "column adv is given more than once"),
        ({"constants": {"price": 1.0}}, "column price is not in the contract"),
        ({"constants": MAPPING["constants"] | {"adv": "abc"}}, "constants.adv: 'abc' is not a number"),  # type: ignore[operator]
        ({"constants": MAPPING["constants"] | {"tradable": 3}}, "tradable: 3.0 is not true or false"),  # type: ignore[operator]
        ({"available_after": float("inf")}, "available_after"),
    ],
)
def test_a_mapping_that_guesses_or_repeats_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(MAPPING | changes))
    with pytest.raises(DataError, match=message) as caught:
        load_mapping(path)
    assert str(path) in caught.value.message


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(MAPPING) + "time_is: open\n")
    with pytest.raises(DataError, match="time_is"):
        load_mapping(path)


def test_one_file_is_asked_for_as_its_folder(source: Path, tmp_path: Path, params: DataParams) -> None:
    with pytest.raises(DataError, match=r"SYN1.csv: a file\n.*give the folder"):
        ingest(str(source / "SYN1.csv"), mapping(), tmp_path / "bars", params)


def test_a_folders_name_is_no_pattern(source: Path, tmp_path: Path, params: DataParams) -> None:
    folder = source.rename(source.with_name("their [1] *"))
    assert ingest(str(folder), mapping(), tmp_path / "bars [x]", params) == (3, 0)
    assert ingest(str(folder), mapping(), tmp_path / "bars [x]", params) == (0, 3)


def test_the_mappings_in_the_guide_are_complete(tmp_path: Path) -> None:
    text = (REPO / "docs/en/your-data.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    assert len(blocks) >= 2
    for block in blocks:
        (tmp_path / "m.yaml").write_text(block)
        load_mapping(tmp_path / "m.yaml")
