"""Real daily prices come from the installed packages, offline, and keep the contract."""

from __future__ import annotations

import socket
from pathlib import Path

import polars as pl
import pytest

from sekisho.data.contract import COLUMNS
from sekisho.data.panel import load_panel
from sekisho.data.real import Source, real_bars, write_real
from sekisho.data.validate import validate_bars
from sekisho.params import DataParams

EXPECTED: dict[Source, tuple[int, int, str, str]] = {
    "arch": (2, 10062, "1999-01-04", "2018-12-31"),
    "skfolio": (20, 166260, "1990-01-02", "2022-12-28"),
}


@pytest.mark.slow
@pytest.mark.parametrize("source", EXPECTED)
def test_real_prices_pass_the_contract_whole_and_without_network(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    daily = DataParams(
        calendar="XNYS",
        bar="1d",
        max_quarantine_share=0.0,
        max_gap_bars=0,
        max_missing_sessions=0,
        max_delay=0,
    )
    files, rows = write_real(tmp_path / "raw", source)
    counts = validate_bars(tmp_path / "raw", tmp_path / "bars", tmp_path / "q", daily, tmp_path / "m.json")
    symbols, expected_rows, first, last = EXPECTED[source]
    assert (counts["symbols"], rows, counts["rows"]) == (symbols, expected_rows, expected_rows)
    assert (counts["first_session"], counts["last_session"]) == (first, last)
    assert files == int(last[:4]) - int(first[:4]) + 1
    panel = load_panel(tmp_path / "bars")
    assert panel.close.shape == (expected_rows // symbols, symbols)


@pytest.mark.slow
def test_where_only_a_close_is_known_all_four_prices_are_it() -> None:
    bars = real_bars("skfolio")
    assert bars.schema == pl.Schema(COLUMNS)
    assert all(bars[name].equals(bars["close"], check_names=False) for name in ("open", "high", "low"))
