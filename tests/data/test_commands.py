"""The ``sekisho data`` commands: one call each, clear words, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from sekisho.cli.data import data
from sekisho.data.synthetic import sample_sessions

REPO = Path(__file__).parents[2]
PARAMS = ["--params", str(REPO / "params.yaml")]


def run(*words: object) -> Result:
    return CliRunner().invoke(data, [str(word) for word in words])


def test_validate_writes_where_it_is_told(raw: Path, tmp_path: Path) -> None:
    places = ["--out", tmp_path / "o", "--quarantine", tmp_path / "q", "--metrics", tmp_path / "m.json"]
    result = run("validate", "--raw", raw, *places, *PARAMS, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == json.loads((tmp_path / "m.json").read_text())
    assert len(list((tmp_path / "o").iterdir())) == 3


def test_check_lists_every_fault_and_exits_1(raw: Path, spoil: Callable, set_row: Callable) -> None:
    assert run("check", "--raw", raw, *PARAMS).exit_code == 0
    path = spoil(lambda f: set_row(140, volume=-1.0)(set_row(18, close=-1.0)(f)))
    (raw / "2025-01-08.parquet").write_bytes(b"PAR1")
    result = run("check", "--raw", raw, *PARAMS, "--json")
    assert result.exit_code == 1
    faults = [(f["rule"], f["count"], f["file"], f["row"], f["symbol"]) for f in json.loads(result.output)]
    assert faults == [
        ("structure", 1, str(raw / "2025-01-08.parquet"), None, None),
        ("positive-price", 1, str(path), 18, "SYN1"),
        ("price-order", 1, str(path), 18, "SYN1"),
        ("amounts", 1, str(path), 140, "SYN3"),
    ]
    assert (
        f"{path} row 18, SYN1 at 2025-01-07 01:30:00Z: prices are above 0; found open"
        in run("check", "--raw", raw, *PARAMS).output
    )


def test_check_reports_partitions_that_overlap(raw: Path) -> None:
    (raw / "2025-01-07a.parquet").write_bytes((raw / "2025-01-07.parquet").read_bytes())
    result = run("check", "--raw", raw, *PARAMS)
    assert result.exit_code == 1
    assert "overlap" in result.output


def test_check_reports_sessions_without_any_bar(raw: Path) -> None:
    (raw / "2025-01-07.parquet").unlink()
    result = run("check", "--raw", raw, *PARAMS, "--json")
    assert result.exit_code == 1
    faults = [(f["rule"], f["count"], f["file"]) for f in json.loads(result.output)]
    assert faults == [("missing-session", 1, None)]
    assert "2025-01-07" in result.output


def test_check_names_a_file_it_cannot_read_once_and_calls_none_of_its_sessions_missing(raw: Path) -> None:
    path = raw / "2025-01-07.parquet"
    path.write_bytes(b"")
    result = run("check", "--raw", raw, *PARAMS)
    assert result.exit_code == 1
    assert result.output.count(str(path)) == 1
    assert "missing-session" not in result.output


def test_synthetic_writes_a_changed_market(tmp_path: Path) -> None:
    base = ["synthetic", "--first", "2025-01-06", "--sessions", 4, "--seed", 5]
    assert run(*base, "--out", tmp_path / "a").exit_code == 0
    change = ["--change-at", "2025-01-08", "--volatility", 3]
    assert run(*base, "--out", tmp_path / "b", *change).exit_code == 0
    same = [(tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes()
            for n in sorted(p.name for p in (tmp_path / "a").iterdir())]  # fmt: skip
    assert same == [True, True, False, False]


def test_a_change_needs_its_day(tmp_path: Path) -> None:
    result = run(
        "synthetic", "--first", "2025-01-06", "--sessions", 4, "--seed", 5, "--out", tmp_path, "--signal", 0
    )
    assert result.exit_code == 2
    assert "need --change-at" in result.output


@pytest.mark.slow
def test_the_committed_sample_is_what_the_code_makes(tmp_path: Path) -> None:
    assert run("sample", "--out", tmp_path / "bars").exit_code == 0
    files = sorted((tmp_path / "bars").iterdir())
    assert [path.stem for path in files] == sorted({f"{day:%Y-%m}" for day in sample_sessions()})
    assert sum(path.stat().st_size for path in files) < 2.5e6
    committed = REPO / "data/bars"
    if not committed.exists():
        pytest.skip("data/bars is not checked out (`dvc pull`)")
    assert [p.name for p in files] == sorted(p.name for p in committed.iterdir())
    assert all(pl.read_parquet(p).equals(pl.read_parquet(committed / p.name)) for p in files)
