"""The relay's one call: who may make it, with which token, and that nobody can hold it up."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.monitoring.listening import running

from sekisho.errors import CannotCheck
from sekisho.monitoring.relay import is_call, read_secret, serve_relay


def webhook(status: str = "firing", severity: str = "dispatch") -> dict[str, Any]:
    alert = {"status": status, "labels": {"alertname": "retrain-due", "model": "m", "severity": severity}}
    return {"version": "4", "alerts": [alert]}


def call(url: str, body: Any, secret: str = "secret", path: str = "/dispatch") -> int:
    headers = {"Authorization": f"Bearer {secret}"}
    return httpx.post(url + path, json=body, headers=headers).status_code


class GitHub:
    """Where the relay's calls arrive; ``answer``: the status it gives."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any], str]] = []
        self.answer = 204
        self.url = ""


@pytest.fixture
def github() -> Iterator[GitHub]:
    here = GitHub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            here.seen.append((self.path, body, self.headers["Authorization"]))
            self.send_response(here.answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        here.url = url
        yield here


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("token", "secret")}
    for name, path in found.items():
        path.write_text(f"{name}\n")
    return found


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"alerts": 1}', b'{"alerts": [1]}', b'{"alerts": [{"status": "firing"}]}', b"\xff"],
)
def test_what_is_no_webhook_starts_nothing(body: bytes) -> None:
    assert not is_call(body)


def test_the_relay_starts_one_workflow_on_main_and_only_for_those_who_know_the_secret(
    github: GitHub, secrets: dict[str, Path]
) -> None:
    with running(serve_relay(github.url, "firm/sekisho", host="127.0.0.1", port=0, **secrets)) as url:
        assert call(url, webhook(), secret="guess") == 401
        assert call(url, webhook(), path="/") == 400
        assert call(url, webhook(status="resolved")) == 200
        assert call(url, webhook(severity="page")) == 200
        assert github.seen == []
        assert call(url, webhook()) == 202
        path = "/repos/firm/sekisho/actions/workflows/drift.yml/dispatches"
        assert github.seen == [(path, {"ref": "main"}, "Bearer token")]
        github.answer = 500
        assert call(url, webhook()) == 502  # Alertmanager tries again


def test_a_token_that_was_renewed_is_the_one_that_is_used(github: GitHub, secrets: dict[str, Path]) -> None:
    with running(serve_relay(github.url, "firm/sekisho", host="127.0.0.1", port=0, **secrets)) as url:
        assert call(url, webhook()) == 202
        secrets["token"].write_text("of the next hour\n")
        secrets["secret"].write_text("other")
        assert call(url, webhook()) == 401
        assert call(url, webhook(), secret="other") == 202
    assert [token for *_, token in github.seen] == ["Bearer token", "Bearer of the next hour"]


@pytest.mark.parametrize("name", ["token", "secret"])
def test_a_secret_that_is_gone_or_empty_lets_nobody_in(
    github: GitHub, secrets: dict[str, Path], name: str
) -> None:
    with running(serve_relay(github.url, "firm/sekisho", host="127.0.0.1", port=0, **secrets)) as url:
        secrets[name].write_text("\n")
        assert call(url, webhook()) == 503
        assert httpx.post(url + "/dispatch", headers={"Authorization": "Bearer"}).status_code == 503
        secrets[name].unlink()
        assert call(url, webhook()) == 503
        assert github.seen == []
        with pytest.raises(CannotCheck, match=name):
            read_secret(secrets[name])


def test_callers_that_stall_are_sent_away_and_others_are_served(
    github: GitHub, secrets: dict[str, Path]
) -> None:
    """Two who know the secret and never end their request hold both places, for a second."""
    server = serve_relay(
        github.url, "firm/sekisho", host="127.0.0.1", port=0, connections=2, seconds=1.0, **secrets
    )
    request = b"POST /dispatch HTTP/1.1\r\nAuthorization: Bearer secret\r\nContent-Length: 9\r\n\r\n{"
    with running(server) as url:
        address = ("127.0.0.1", server.server_port)
        begun = time.monotonic()
        with socket.create_connection(address) as one, socket.create_connection(address) as two:
            for stalled in (one, two):
                stalled.sendall(request)
            time.sleep(0.3)
            assert call(url, webhook()) == 503
            for stalled in (one, two):
                stalled.settimeout(5)
                assert stalled.recv(1024) in (b"", b"HTTP/1.0 400 Bad Request\r\n")
            assert time.monotonic() - begun < 4
            assert github.seen == []
            assert call(url, webhook()) == 202


def test_a_caller_that_sends_a_byte_now_and_then_is_sent_away_too(
    github: GitHub, secrets: dict[str, Path]
) -> None:
    server = serve_relay(github.url, "firm/sekisho", host="127.0.0.1", port=0, seconds=1.0, **secrets)
    address, begun = ("127.0.0.1", server.server_port), time.monotonic()
    with running(server), socket.create_connection(address) as slow, suppress(OSError):
        while time.monotonic() < begun + 4:
            slow.sendall(b"x")
            time.sleep(0.1)
    assert time.monotonic() - begun < 3
