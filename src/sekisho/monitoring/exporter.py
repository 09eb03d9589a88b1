"""What Prometheus needs beside the server's own metrics: the exchange's hours and what the checks found.

A verdict file becomes gauges, the newest of each model. Served as plain text: a handful of lines a scrape.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sekisho.calendar import Calendar
from sekisho.monitoring.verdict import DATA, DRIFT, DUE, HALT, Verdict, read_verdicts

STATES = ("ok", "alarm", "cannot-judge")
ACTIONS = ("none", "propose", "retrain", "halt", "mend")
FAMILIES = (*DRIFT, *DUE, *HALT, *DATA, "parity", "safe-answers")
RETRAIN = "retrain.json"  # written beside a verdict by `sekisho retrain`


def metrics(calendar: Calendar, verdicts: Path, now: dt.datetime) -> str:
    """All gauges at the moment ``now`` (aware), in Prometheus' text format."""
    lines = [*_hours(calendar, now), *_verdicts(newest_verdicts(verdicts))]
    return "\n".join(lines) + "\n"


def _hours(calendar: Calendar, now: dt.datetime) -> Iterator[str]:
    label = f'{{calendar="{calendar.name}"}}'
    yield f"market_session_open{label} {int(calendar.is_open(now))}"
    yield f"market_refreshed_timestamp_seconds{label} {now.timestamp():.0f}"
    today = now.astimezone(dt.UTC).date()
    for day in reversed(calendar.sessions(today - dt.timedelta(days=30), today + dt.timedelta(days=1))):
        close = calendar.closes(day)[-1].item().replace(tzinfo=dt.UTC)
        if close <= now:
            yield f"market_last_close_timestamp_seconds{label} {close.timestamp():.0f}"
            return


def newest_verdicts(folder: Path) -> dict[str, list[tuple[Path, Verdict]]]:
    """Verdicts below ``folder`` by model, oldest first."""
    found: dict[str, list[tuple[Path, Verdict]]] = {}
    for path, verdict in read_verdicts(folder):
        found.setdefault(verdict.model, []).append((path, verdict))
    for several in found.values():
        several.sort(key=lambda pair: dt.datetime.fromisoformat(str(pair[1].checked_at)))
    return found


def _verdicts(found: dict[str, list[tuple[Path, Verdict]]]) -> Iterator[str]:
    for model, several in sorted(found.items()):
        path, verdict = several[-1]
        families = {alarm.family for alarm in verdict.alarms}
        label = f'model="{model}"'
        yield f"sekisho_check_timestamp_seconds{{{label}}} {_moment(verdict):.0f}"
        for state in STATES:
            yield f'sekisho_verdict{{{label},state="{state}"}} {int(state == verdict.state)}'
        for action in ACTIONS:
            yield f'sekisho_action{{{label},action="{action}"}} {int(action == verdict.action)}'
        for family in FAMILIES:
            yield f'sekisho_alarm{{{label},family="{family}"}} {int(family in families)}'
        if verdict.levels:
            yield f"sekisho_drift_level{{{label}}} {list(verdict.levels.values())[-1]:.6g}"
            yield f"sekisho_drift_level_limit{{{label}}} {verdict.threshold:.6g}"
            yield f"sekisho_drift_cusum{{{label}}} {list(verdict.cusum.values())[-1]:.6g}"
            yield f"sekisho_drift_cusum_limit{{{label}}} {verdict.cusum_threshold:.6g}"
        if account := verdict.performance:
            yield f"sekisho_live_net_return{{{label}}} {account['net_return']:.6g}"
            yield f"sekisho_live_band_low{{{label}}} {account['band_low']:.6g}"
            yield f"sekisho_live_minus_replay{{{label}}} {account['live_minus_replay']:.6g}"
            yield f"sekisho_live_drawdown{{{label}}} {account['drawdown']:.6g}"
        if since := _since(several):
            yield f"sekisho_alarm_since_timestamp_seconds{{{label}}} {since:.0f}"
        answer = _answer(path)
        yield f"sekisho_retrain_answered{{{label}}} {int(answer.get('number') is not None)}"
        yield f"sekisho_retrain_cooldown{{{label}}} {int(bool(answer.get('waits')))}"


def _moment(verdict: Verdict) -> float:
    return dt.datetime.fromisoformat(str(verdict.checked_at)).timestamp()


def _since(several: list[tuple[Path, Verdict]]) -> float | None:
    """When the anomaly of the newest verdict was first seen: the same release ever since, with a cause each
    time. A verdict that could not be reached neither begins nor ends an anomaly.
    """
    since = None
    digest = several[-1][1].manifest_digest
    for _, verdict in reversed(several):
        if verdict.manifest_digest != digest or (verdict.state != "cannot-judge" and not verdict.cause()):
            break
        since = _moment(verdict) if verdict.cause() else since
    return since


def _answer(verdict: Path) -> dict[str, Any]:
    """What `sekisho retrain` said to this verdict; nothing where it has not run."""
    try:
        content = json.loads((verdict.parent / RETRAIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def serve_metrics(calendar: Calendar, verdicts: Path, host: str, port: int) -> ThreadingHTTPServer:
    """A server of ``/metrics``; the caller runs ``serve_forever``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/metrics":
                return self.send_error(404)
            body = metrics(calendar, verdicts, dt.datetime.now(dt.UTC)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A scrape every 15 seconds is no news."""

    return ThreadingHTTPServer((host, port), Handler)
