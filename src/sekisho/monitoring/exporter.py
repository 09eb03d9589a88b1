"""What Prometheus needs beside the server's own metrics: the exchange's hours and what the checks found.

The newest verdict of each model in each environment becomes gauges: a handful of lines of plain text.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler

from sekisho.calendar import Calendar
from sekisho.monitoring.listener import Listener
from sekisho.monitoring.published import Published, VerdictStore
from sekisho.monitoring.verdict import DATA, DRIFT, DUE, HALT

STATES = ("ok", "alarm", "cannot-judge")
ACTIONS = ("none", "propose", "retrain", "halt", "mend")
FAMILIES = (*DRIFT, *DUE, *HALT, *DATA, "parity", "safe-answers")
REFRESH = 30.0  # seconds between two looks at the store


def metrics(calendar: Calendar, store: VerdictStore, now: dt.datetime) -> str:
    """All gauges at the moment ``now`` (aware), in Prometheus' text format."""
    lines = [*_hours(calendar, now), *_verdicts(store)]
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


def _verdicts(store: VerdictStore) -> Iterator[str]:
    yield f"sekisho_verdicts_unreadable {len(store.unreadable)}"
    if store.refreshed:
        yield f"sekisho_verdicts_refreshed_timestamp_seconds {store.refreshed.timestamp():.0f}"
    for (environment, model), several in sorted(store.found.items()):
        yield from _gauges(f'environment="{_quoted(environment)}",model="{_quoted(model)}"', several)


def _gauges(label: str, several: Sequence[Published]) -> Iterator[str]:
    """Of the newest of ``several``, which are of one model in one environment, oldest first."""
    newest, verdict = several[-1], several[-1].verdict
    families = {alarm.family for alarm in verdict.alarms}
    yield f"sekisho_check_timestamp_seconds{{{label}}} {newest.moment.timestamp():.0f}"
    for state in STATES:
        yield f'sekisho_verdict{{{label},state="{state}"}} {int(state == verdict.state)}'
    for action in ACTIONS:
        yield f'sekisho_action{{{label},action="{action}"}} {int(action == verdict.action)}'
    for family in FAMILIES:
        yield f'sekisho_alarm{{{label},family="{family}"}} {int(family in families)}'
    if verdict.levels and verdict.cusum:
        yield f"sekisho_drift_level{{{label}}} {list(verdict.levels.values())[-1]:.6g}"
        yield f"sekisho_drift_level_limit{{{label}}} {verdict.threshold:.6g}"
        yield f"sekisho_drift_cusum{{{label}}} {list(verdict.cusum.values())[-1]:.6g}"
        yield f"sekisho_drift_cusum_limit{{{label}}} {verdict.cusum_threshold:.6g}"
    for name in ("net_return", "band_low", "live_minus_replay", "drawdown"):
        if isinstance(figure := verdict.performance.get(name), int | float):
            short = name.removeprefix("live_")
            yield f"sekisho_live_{short}{{{label}}} {figure:.6g}"
    if since := _since(several):
        yield f"sekisho_alarm_since_timestamp_seconds{{{label}}} {since:.0f}"
    yield f"sekisho_retrain_answered{{{label}}} {int(newest.answer.get('number') is not None)}"
    yield f"sekisho_retrain_cooldown{{{label}}} {int(bool(newest.answer.get('waits')))}"


def _quoted(text: str) -> str:
    """A label's value in Prometheus' text format."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _since(several: Sequence[Published]) -> float | None:
    """When the anomaly of the newest verdict was first seen: the same release ever since, with a cause each
    time. A verdict that could not be reached neither begins nor ends an anomaly.
    """
    since = None
    digest = several[-1].verdict.manifest_digest
    for one in reversed(several):
        verdict = one.verdict
        if verdict.manifest_digest != digest or (verdict.state != "cannot-judge" and not verdict.cause()):
            break
        since = one.moment.timestamp() if verdict.cause() else since
    return since


def serve_metrics(calendar: Calendar, store: VerdictStore, host: str, port: int) -> Listener:
    """A server of ``/metrics``; the caller runs ``serve_forever`` and refreshes ``store``."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0  # seconds of a caller's silence

        def do_GET(self) -> None:
            if self.path != "/metrics":
                return self.send_error(404)
            body = metrics(calendar, store, dt.datetime.now(dt.UTC)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A scrape every 15 seconds is no news."""

    return Listener((host, port), Handler)
