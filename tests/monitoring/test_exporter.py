"""The exporter's gauges, the relay's one call, and the page for the desk."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from sekisho.calendar import Calendar
from sekisho.monitoring.exporter import RETRAIN, metrics, serve_metrics
from sekisho.monitoring.relay import is_call, serve_relay
from sekisho.monitoring.status_page import write_status_page
from sekisho.monitoring.verdict import Alarm, State, Verdict

TOKYO = Calendar("XTKS", "5min")
DRIFT = Alarm("mean", "return_3 of SYN1", 300.0, 252.0, "2026-07-01", "e-detector")


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


def verdict(state: State, when: str, *alarms: Alarm, digest: str = "a") -> Verdict:
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
    )


def gauges(folder: Path, now: str) -> dict[str, float]:
    lines = metrics(TOKYO, folder, at(now)).splitlines()
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


def test_the_newest_verdict_counts_and_an_anomaly_begins_with_its_first(tmp_path: Path) -> None:
    history = (
        ("1", verdict("alarm", "2026-07-01T08:00", DRIFT, digest="0")),
        ("2", verdict("ok", "2026-07-02T08:00")),
        ("3", verdict("alarm", "2026-07-03T08:00", DRIFT)),
        ("4", verdict("cannot-judge", "2026-07-04T08:00")),
        ("5", verdict("alarm", "2026-07-05T08:00", DRIFT)),
    )
    for name, one in history:
        one.write(tmp_path / name / "verdict.json")
    (tmp_path / "5" / "other.json").write_text("{}")
    found = gauges(tmp_path, "2026-07-06T00:00")
    assert found['sekisho_check_timestamp_seconds{model="policy"}'] == at("2026-07-05T08:00").timestamp()
    assert found['sekisho_verdict{model="policy",state="alarm"}'] == 1
    assert found['sekisho_verdict{model="policy",state="ok"}'] == 0
    assert found['sekisho_action{model="policy",action="propose"}'] == 1
    assert found['sekisho_alarm{model="policy",family="mean"}'] == 1
    since = 'sekisho_alarm_since_timestamp_seconds{model="policy"}'
    assert found[since] == at("2026-07-03T08:00").timestamp()
    assert found['sekisho_retrain_answered{model="policy"}'] == 0
    (tmp_path / "5" / RETRAIN).write_text(json.dumps({"number": 7, "waits": False}))
    assert gauges(tmp_path, "2026-07-06T00:00")['sekisho_retrain_answered{model="policy"}'] == 1
    (tmp_path / "5" / RETRAIN).write_text(json.dumps({"number": None, "waits": True}))
    assert gauges(tmp_path, "2026-07-06T00:00")['sekisho_retrain_cooldown{model="policy"}'] == 1
    verdict("ok", "2026-07-06T08:00", digest="c").write(tmp_path / "6" / "verdict.json")
    assert since not in gauges(tmp_path, "2026-07-07T00:00")


@contextmanager
def running(server: HTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_prometheus_can_scrape_it(tmp_path: Path) -> None:
    with running(serve_metrics(TOKYO, tmp_path, "127.0.0.1", 0)) as url:
        answer = httpx.get(f"{url}/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        assert "market_session_open" in answer.text
        assert httpx.get(f"{url}/other").status_code == 404


def webhook(status: str = "firing", severity: str = "dispatch") -> dict[str, Any]:
    alert = {"status": status, "labels": {"alertname": "retrain-due", "model": "m", "severity": severity}}
    return {"version": "4", "alerts": [alert]}


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"alerts": 1}', b'{"alerts": [1]}', b'{"alerts": [{"status": "firing"}]}', b"\xff"],
)
def test_what_is_no_webhook_starts_nothing(body: bytes) -> None:
    assert not is_call(body)


def test_the_relay_starts_one_workflow_on_main_and_only_for_those_who_know_the_secret() -> None:
    seen: list[tuple[str, dict[str, Any], str]] = []
    answers = [204]

    class GitHub(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, body, self.headers["Authorization"]))
            self.send_response(answers[-1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with running(ThreadingHTTPServer(("127.0.0.1", 0), GitHub)) as api:
        server = serve_relay(api, "firm/sekisho", "token", "secret", "127.0.0.1", 0)
        with running(server) as url:

            def call(body: Any, secret: str = "secret", path: str = "/dispatch") -> int:
                return httpx.post(
                    url + path, json=body, headers={"Authorization": f"Bearer {secret}"}
                ).status_code

            assert call(webhook(), secret="guess") == 401
            assert call(webhook(), path="/") == 400
            assert call(webhook(status="resolved")) == 200
            assert call(webhook(severity="page")) == 200
            assert seen == []
            assert call(webhook()) == 202
            path = "/repos/firm/sekisho/actions/workflows/drift.yml/dispatches"
            assert seen == [(path, {"ref": "main"}, "Bearer token")]
            answers.append(500)
            assert call(webhook()) == 502  # Alertmanager tries again


def test_the_page_opens_without_a_server_and_shows_text_as_text(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"picture")
    strange = Alarm("mean", "<script>alert(1)</script>", 300.0, 252.0, "2026-07-01")
    page = tmp_path / "verdict.html"
    write_status_page(verdict("alarm", "2026-07-01T08:00", strange), plot, page)
    text = page.read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "data:image/png;base64,cGljdHVyZQ==" in text
    assert "http" not in text.replace("http-equiv", "")
    write_status_page(verdict("cannot-judge", "2026-07-01T08:00"), None, page)
    assert "not a finding of no drift" in page.read_text(encoding="utf-8")
