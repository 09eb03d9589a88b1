"""The exporter's gauges, and the page for the desk."""

from __future__ import annotations

import datetime as dt
import json
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.monitoring.listening import running

from sekisho.calendar import Calendar
from sekisho.errors import CannotCheck, DataError
from sekisho.monitoring.exporter import metrics, serve_metrics
from sekisho.monitoring.published import RETRAIN, VerdictStore, publish
from sekisho.monitoring.status_page import write_status_page
from sekisho.monitoring.verdict import Alarm, State, Verdict
from sekisho.objects import Objects

TOKYO = Calendar("XTKS", "5min")
DRIFT = Alarm("mean", "return_3 of SYN1", 300.0, 252.0, "2026-07-01", "e-detector")


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def verdict(
    state: State,
    when: str,
    *alarms: Alarm,
    digest: str = "a",
    as_of: str | None = None,
    environment: str = "production",
) -> Verdict:
    problems = ["broken"] if state == "cannot-judge" else []
    level = {"2026-07-01": 3.0}
    return Verdict(
        "policy",
        1,
        digest * 64,
        "b" * 64,
        state,
        problems,
        [*alarms],
        levels=level,
        cusum=level,
        threshold=252.0,
        cusum_threshold=12.0,
        checked_at=at(when).isoformat(),
        as_of=at(as_of or when).isoformat(),
        environment=environment,
    )


def put(folder: Path, one: Verdict, answer: dict[str, Any] | None = None) -> str:
    """Publish as drift.yml does; the verdict's name."""
    with tempfile.TemporaryDirectory() as beside:
        one.write(Path(beside) / "verdict.json")
        if answer is not None:
            (Path(beside) / RETRAIN).write_text(json.dumps(answer))
        return publish(Path(beside) / "verdict.json", Objects(str(folder)))[0]


def gauges(folder: Path, now: str) -> dict[str, float]:
    store = VerdictStore(Objects(str(folder)))
    store.refresh(at(now))
    lines = metrics(TOKYO, store, at(now)).splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.mark.parametrize(
    ("now", "open_", "close"),
    [
        ("2026-07-01T00:30", 1, "2026-06-30T06:30"),  # 9:30 in Tokyo
        ("2026-07-01T03:00", 0, "2026-06-30T06:30"),  # lunch
        ("2026-07-01T06:29", 1, "2026-06-30T06:30"),
        ("2026-07-01T06:30", 0, "2026-07-01T06:30"),
        ("2026-07-04T02:00", 0, "2026-07-03T06:30"),  # a Saturday
    ],
)
def test_the_exchanges_hours_are_those_of_its_calendar(
    tmp_path: Path, now: str, open_: int, close: str
) -> None:
    found = gauges(tmp_path, now)
    assert found['market_session_open{calendar="XTKS"}'] == open_
    assert found['market_last_close_timestamp_seconds{calendar="XTKS"}'] == at(close).timestamp()


P = 'environment="production",model="policy"'


def test_the_newest_verdict_counts_and_an_anomaly_begins_with_its_first(tmp_path: Path) -> None:
    for one in (
        verdict("alarm", "2026-07-01T08:00", DRIFT, digest="0"),
        verdict("ok", "2026-07-02T08:00"),
        verdict("alarm", "2026-07-03T08:00", DRIFT),
        verdict("cannot-judge", "2026-07-04T08:00"),
        verdict("alarm", "2026-07-05T08:00", DRIFT),
    ):
        put(tmp_path, one)
    found = gauges(tmp_path, "2026-07-06T00:00")
    assert found[f"sekisho_check_timestamp_seconds{{{P}}}"] == at("2026-07-05T08:00").timestamp()
    assert found[f'sekisho_verdict{{{P},state="alarm"}}'] == 1
    assert found[f'sekisho_verdict{{{P},state="ok"}}'] == 0
    assert found[f'sekisho_action{{{P},action="propose"}}'] == 1
    assert found[f'sekisho_alarm{{{P},family="mean"}}'] == 1
    assert found["sekisho_verdicts_unreadable"] == 0
    assert found["sekisho_verdicts_refreshed_timestamp_seconds"] == at("2026-07-06T00:00").timestamp()
    since = f"sekisho_alarm_since_timestamp_seconds{{{P}}}"
    assert found[since] == at("2026-07-03T08:00").timestamp()
    assert found[f"sekisho_retrain_answered{{{P}}}"] == 0
    again = verdict("alarm", "2026-07-05T08:00", DRIFT)
    put(tmp_path, again, {"number": 7, "waits": False})
    assert gauges(tmp_path, "2026-07-06T00:00")[f"sekisho_retrain_answered{{{P}}}"] == 1
    put(tmp_path, again, {"number": None, "waits": True})
    assert gauges(tmp_path, "2026-07-06T00:00")[f"sekisho_retrain_cooldown{{{P}}}"] == 1
    put(tmp_path, verdict("ok", "2026-07-06T08:00", digest="c"))
    assert since not in gauges(tmp_path, "2026-07-07T00:00")


def test_the_answer_that_comes_after_the_verdict_is_seen_by_the_same_exporter(tmp_path: Path) -> None:
    store = VerdictStore(Objects(str(tmp_path)))
    one = verdict("alarm", "2026-07-05T08:00", DRIFT)
    put(tmp_path, one)
    store.refresh(at("2026-07-05T08:01"))
    assert f"sekisho_retrain_answered{{{P}}} 0" in metrics(TOKYO, store, at("2026-07-05T08:01"))
    put(tmp_path, one, {"number": 7, "waits": False})
    store.refresh(at("2026-07-05T08:02"))
    assert f"sekisho_retrain_answered{{{P}}} 1" in metrics(TOKYO, store, at("2026-07-05T08:02"))


def test_a_look_back_at_an_old_day_and_another_environment_hide_no_alarm(tmp_path: Path) -> None:
    loss = Alarm("session-loss", "fraction of equity lost", 0.1, 0.04, "2026-07-05")
    put(tmp_path, verdict("alarm", "2026-07-05T08:00", loss))
    put(tmp_path, verdict("ok", "2026-07-05T09:00", as_of="2026-07-01T23:59"))
    put(tmp_path, verdict("ok", "2026-07-05T10:00", environment="staging"))
    found = gauges(tmp_path, "2026-07-06T00:00")
    assert found[f'sekisho_alarm{{{P},family="session-loss"}}'] == 1
    assert found[f"sekisho_check_timestamp_seconds{{{P}}}"] == at("2026-07-05T08:00").timestamp()
    staging = 'environment="staging",model="policy"'
    assert found[f'sekisho_alarm{{{staging},family="session-loss"}}'] == 0
    put(tmp_path, verdict("ok", "2026-07-05T11:00", as_of="2026-07-09T23:59"))  # not over yet
    moment = gauges(tmp_path, "2026-07-06T00:00")[f"sekisho_check_timestamp_seconds{{{P}}}"]
    assert moment == at("2026-07-05T11:00").timestamp()


def broken(one: Verdict, **fields: Any) -> bytes:
    return json.dumps(json.loads(one.to_json()) | fields).encode()


NEWEST = verdict("ok", "2026-07-05T08:00")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        NEWEST.to_json()[:200].encode(),
        broken(NEWEST, checked_at="yesterday"),
        broken(NEWEST, checked_at="2026-07-05T08:00:00"),
        broken(NEWEST, checked_at="2126-07-05T08:00:00+00:00", as_of="2126-07-05T08:00:00+00:00"),
        broken(NEWEST, as_of=None),
        broken(NEWEST, environment=""),
        broken(NEWEST, environment=None),
        broken(NEWEST, levels={"2026-07-01": "much"}),
        broken(NEWEST, threshold=None),
        broken(NEWEST, alarms=[{"family": "mean"}]),
        broken(NEWEST, state="fine"),
    ],
)
def test_one_object_that_cannot_be_read_is_counted_and_hides_no_other(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, verdict("alarm", "2026-07-04T08:00", DRIFT))
    newest = put(tmp_path, NEWEST)
    (tmp_path / newest).write_bytes(content)
    found = gauges(tmp_path, "2026-07-06T00:00")
    assert found["sekisho_verdicts_unreadable"] == 1
    assert found['market_session_open{calendar="XTKS"}'] == 1  # what does not hang on verdicts is there
    assert found[f"sekisho_check_timestamp_seconds{{{P}}}"] == at("2026-07-04T08:00").timestamp()
    assert found[f'sekisho_alarm{{{P},family="mean"}}'] == 1
    put(tmp_path, NEWEST)
    found = gauges(tmp_path, "2026-07-06T00:00")
    assert found["sekisho_verdicts_unreadable"] == 0
    assert found[f'sekisho_alarm{{{P},family="mean"}}'] == 0


def test_an_answer_that_cannot_be_read_and_a_foreign_object_are_counted(tmp_path: Path) -> None:
    name = put(tmp_path, NEWEST, {"number": 7})
    (tmp_path / name.replace(".verdict.", ".retrain.")).write_text("{")
    (tmp_path / "other.json").write_text("{}")
    found = gauges(tmp_path, "2026-07-06T00:00")
    assert found["sekisho_verdicts_unreadable"] == 2
    assert found[f"sekisho_retrain_answered{{{P}}}"] == 0


def test_a_store_that_cannot_be_read_keeps_what_was_read_and_shows_its_age(tmp_path: Path) -> None:
    class Away(Objects):
        away = False

        def names(self) -> list[str]:
            if self.away:
                raise DataError("s3://away: no", remedy="wait")
            return super().names()

    objects = Away(str(tmp_path))
    put(tmp_path, NEWEST)
    store = VerdictStore(objects)
    store.refresh(at("2026-07-05T09:00"))
    objects.away = True
    with pytest.raises(DataError):
        store.refresh(at("2026-07-05T10:00"))
    text = metrics(TOKYO, store, at("2026-07-05T10:00"))
    seen = f"{at('2026-07-05T09:00').timestamp():.0f}"
    assert f"sekisho_verdicts_refreshed_timestamp_seconds {seen}" in text
    assert f'sekisho_verdict{{{P},state="ok"}} 1' in text


def test_a_strange_name_of_a_model_breaks_no_line(tmp_path: Path) -> None:
    put(tmp_path, replace(NEWEST, model='a"} 1\nup{x="\\'))
    store = VerdictStore(Objects(str(tmp_path)))
    store.refresh(at("2026-07-06T00:00"))
    families = text_string_to_metric_families(metrics(TOKYO, store, at("2026-07-06T00:00")))
    samples = {sample.name: sample.labels for family in families for sample in family.samples}
    assert samples["sekisho_check_timestamp_seconds"]["model"] == 'a"} 1\nup{x="\\'
    assert "up" not in samples


def test_what_is_no_verdict_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "verdict.json").write_text("{}")
    for path in (tmp_path / "verdict.json", tmp_path / "none.json"):
        with pytest.raises(CannotCheck):
            publish(path, Objects(str(tmp_path / "to")))
    replace(NEWEST, as_of=None).write(tmp_path / "verdict.json")
    with pytest.raises(CannotCheck, match="as_of"):
        publish(tmp_path / "verdict.json", Objects(str(tmp_path / "to")))
    assert not (tmp_path / "to").exists()


def test_prometheus_can_scrape_it(tmp_path: Path) -> None:
    put(tmp_path, NEWEST)
    store = VerdictStore(Objects(str(tmp_path)))
    with running(serve_metrics(TOKYO, store, "127.0.0.1", 0)) as url:
        store.follow(60.0)
        end = time.monotonic() + 20
        while "sekisho_verdict{" not in (answer := httpx.get(f"{url}/metrics")).text:
            assert time.monotonic() < end
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        assert "market_session_open" in answer.text
        assert httpx.get(f"{url}/other").status_code == 404


def test_the_page_opens_without_a_server_and_shows_text_as_text(tmp_path: Path) -> None:
    strange = Alarm("mean", "<script>alert(1)</script>", 300.0, 252.0, "2026-07-01")
    page = tmp_path / "verdict.html"
    write_status_page(verdict("alarm", "2026-07-01T08:00", strange), page)
    text = page.read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)", text)
    write_status_page(verdict("cannot-judge", "2026-07-01T08:00"), page)
    assert "not a finding of no drift" in page.read_text(encoding="utf-8")
