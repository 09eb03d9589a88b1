"""From Alertmanager to GitHub: starts the workflow of the check, because GitHub's own cron may be hours late.

It can start that one workflow on main and nothing else: no text of an alert reaches a command or branch, and
the token needs no more than ``actions: write``. The check decides again from the data, so that a forged or
repeated call costs a run and changes nothing.
"""

from __future__ import annotations

import hmac
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx

from sekisho.errors import CannotCheck
from sekisho.monitoring.listener import CONNECTIONS, SECONDS, Listener

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


def read_secret(path: Path) -> str:
    """What a mounted secret holds now.

    Raises:
        CannotCheck: missing or empty.
    """
    try:
        found = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise CannotCheck(f"{path}: {error}", remedy="mount it from the cluster's secrets") from error
    if not found:
        raise CannotCheck(f"{path} is empty", remedy="mount it from the cluster's secrets")
    return found


def serve_relay(
    api: str,
    repository: str,
    token: Path,
    secret: Path,
    host: str,
    port: int,
    *,
    connections: int = CONNECTIONS,
    seconds: float = SECONDS,
) -> Listener:
    """A server of ``POST /dispatch`` for callers that bring ``secret``; the caller runs ``serve_forever``.

    Both files are read at each call. ``connections`` are served at once, each for ``seconds`` at most.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 5.0  # seconds of a caller's silence

        def do_POST(self) -> None:
            given = self.headers.get("Authorization", "")
            try:
                known, key = read_secret(secret), read_secret(token)
            except CannotCheck as error:
                print(f"relay: {error.message}", flush=True)
                return self.send_error(503)
            if not hmac.compare_digest(given.encode(), f"Bearer {known}".encode()):
                return self.send_error(401)
            length = self.headers.get("Content-Length", "")
            if self.path != "/dispatch" or not length.isdigit() or int(length) > LARGEST:
                return self.send_error(400)
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                return self.send_error(400)  # went away, or was sent away
            if not is_call(body):
                return self._end(200)  # resolved, or not for us
            try:
                dispatch(api, repository, key)
            except httpx.HTTPError as error:
                return self.send_error(502, explain=type(error).__name__)
            self._end(202)

        def _end(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            print(f"relay: {format % args}", flush=True)

    return Listener((host, port), Handler, connections=connections, seconds=seconds)
