"""From Alertmanager to GitHub: starts the workflow of the check, because GitHub's own cron may be hours late.

It can start that one workflow on main and nothing else: no text of an alert reaches a command or branch, and
the token needs no more than ``actions: write``. The check decides again from the data, so that a forged or
repeated call costs a run and changes nothing.
"""

from __future__ import annotations

import hmac
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

WORKFLOW = "drift.yml"
LARGEST = 1 << 20  # bytes of a call
TIMEOUT = 20.0  # seconds


def is_call(body: bytes) -> bool:
    """Whether a webhook of Alertmanager (version 4) holds an alert that fires and asks for a dispatch."""
    try:
        content: Any = json.loads(body)
        alerts = content["alerts"]
        return any(
            alert["status"] == "firing" and alert["labels"].get("severity") == "dispatch" for alert in alerts
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def dispatch(api: str, repository: str, token: str) -> None:
    """Start the workflow on main.

    Raises:
        httpx.HTTPError: GitHub did not take it; Alertmanager tries again.
    """
    url = f"{api}/repos/{repository}/actions/workflows/{WORKFLOW}/dispatches"
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
    httpx.post(url, json={"ref": "main"}, headers=headers, timeout=TIMEOUT).raise_for_status()


def serve_relay(
    api: str, repository: str, token: str, secret: str, host: str, port: int
) -> ThreadingHTTPServer:
    """A server of ``POST /dispatch`` for callers that know ``secret``; the caller runs ``serve_forever``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            given = self.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {secret}".encode()):
                return self.send_error(401)
            length = self.headers.get("Content-Length", "")
            if self.path != "/dispatch" or not length.isdigit() or int(length) > LARGEST:
                return self.send_error(400)
            if not is_call(self.rfile.read(int(length))):
                return self._end(200)  # resolved, or not for us
            try:
                dispatch(api, repository, token)
            except httpx.HTTPError as error:
                return self.send_error(502, explain=type(error).__name__)
            self._end(202)

        def _end(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            print(f"relay: {format % args}", flush=True)

    return ThreadingHTTPServer((host, port), Handler)
