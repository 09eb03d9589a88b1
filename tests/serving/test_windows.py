"""Every session of the next year is under a deny window; a calendar's holidays and odd days too."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sekisho.errors import CannotCheck, Refused
from sekisho.params import ServingParams
from sekisho.serving.windows import check_windows, deny_windows, market_hours, write_windows

FILE = Path(__file__).parents[2] / "deploy/argocd/windows.yaml"
DAY = dt.date(2026, 11, 26)


@pytest.mark.parametrize("calendar", ["XTKS", "XNYS", "XLON"])
@pytest.mark.parametrize("day", [DAY, dt.date(2027, 2, 28), dt.date(2026, 12, 31)])
def test_what_is_written_covers_twelve_months(
    tmp_path: Path, params: ServingParams, calendar: str, day: dt.date
) -> None:
    path = tmp_path / "windows.yaml"
    write_windows(path, calendar, day, params)
    last = check_windows(path, calendar, day, params)
    assert (last - day).days > 350
    later = day + dt.timedelta(days=45)  # two months are written ahead
    assert check_windows(path, calendar, later, params) > last


def test_the_committed_windows_cover_twelve_months_from_the_day_they_were_written(
    params: ServingParams,
) -> None:
    day = dt.date.fromisoformat(FILE.read_text().split(" on ")[1][:10])
    assert (check_windows(FILE, "XTKS", day, params) - day).days > 350
    written = YAML(typ="safe").load(FILE.read_text())["spec"]["syncWindows"]
    assert written == deny_windows("XTKS", day, params)


def test_a_holiday_is_not_denied_and_a_session_that_is_not_denied_is_named(
    tmp_path: Path, params: ServingParams
) -> None:
    windows = {w["schedule"].split()[3]: w["schedule"].split()[2] for w in deny_windows("XTKS", DAY, params)}
    assert "31" not in windows["12"].split(",")  # the exchange is closed on New Year's Eve
    assert "3" not in windows["5"].split(",")  # and on Constitution Day
    path = tmp_path / "windows.yaml"
    write_windows(path, "XTKS", DAY, params)
    path.write_text(path.read_text().replace(" 4,5,6,7,8,", " 4,5,6,8,"))
    with pytest.raises(Refused, match="2027-01-07"):
        check_windows(path, "XTKS", DAY, params)


def test_a_window_that_people_may_pass_by_hand_denies_nothing(tmp_path: Path, params: ServingParams) -> None:
    path = tmp_path / "windows.yaml"
    write_windows(path, "XTKS", DAY, params)
    path.write_text(path.read_text().replace("manualSync: false", "manualSync: true"))
    with pytest.raises(Refused, match="sync-windows"):
        check_windows(path, "XTKS", DAY, params)
    path.write_text("nothing")
    with pytest.raises(CannotCheck, match="windows"):
        check_windows(path, "XTKS", DAY, params)


def test_half_days_end_when_the_market_does(params: ServingParams) -> None:
    hours = market_hours("XNYS", dt.date(2026, 11, 23), dt.date(2026, 11, 30))
    assert [(opens.strftime("%d %H:%M"), closes.strftime("%H:%M")) for opens, closes in hours] == [
        ("23 09:30", "16:00"),
        ("24 09:30", "16:00"),
        ("25 09:30", "16:00"),
        ("27 09:30", "13:00"),  # the day after Thanksgiving
        ("30 09:30", "16:00"),
    ]
