"""The caller always gets weights in time."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest

from sekisho.errors import CannotCheck
from sekisho.serving.client import PolicyClient
from sekisho.serving.core import Policy


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_an_answer_from_the_server(server: Any, policy: Policy, lab: ModuleType) -> None:
    rows = lab.observations(2)
    rows[1, 2, 0] = np.nan
    with PolicyClient(server.url, "policy", deadline=5.0) as client:
        client.require_ready()
        answer = client.decide(rows, lab.TS_CLOSE, request_id="c", now=lab.NOW)
        np.testing.assert_array_equal(answer.target_weights[0], policy.run(rows)[0][0])
        assert answer.verdicts == ("ok", "non-finite")
        assert answer.prediction_ids == ("c/0", "c/1")
        assert answer.release == f"policy/7@sha256:{7:064x}"
        one = client.decide(rows[:1], lab.TS_CLOSE, request_id="d", now=lab.NOW, require_open=True)
        assert (one.verdicts, one.prediction_ids, one.error) == (("ok",), ("d",), None)


def test_a_silent_server_is_left_at_the_deadline(silent_port: int, lab: ModuleType) -> None:
    with PolicyClient(f"http://127.0.0.1:{silent_port}", "policy", deadline=0.2) as client:
        started = time.perf_counter()
        answer = client.decide(lab.observations(2), lab.TS_CLOSE, request_id="x")
        assert 0.15 < time.perf_counter() - started < 1.0
    assert answer.verdicts == ("deadline", "deadline")
    assert answer.release is None
    assert not answer.target_weights.any()


def test_nobody_there_is_answered_by_holding_if_so_configured(lab: ModuleType) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    rows = lab.observations(2)
    rows[:, :, -1] = [[0.1, 0.2, -0.1], [0.1, np.nan, 0.1]]
    with PolicyClient(f"http://127.0.0.1:{port}", "policy", deadline=1.0, safe_action="hold") as client:
        answer = client.decide(rows, lab.TS_CLOSE, request_id="x")
        with pytest.raises(CannotCheck, match="sekisho serve"):
            client.require_ready()
    assert answer.verdicts == ("unreachable", "unreachable")
    np.testing.assert_array_equal(answer.target_weights, np.float32([[0.1, 0.2, -0.1], [0, 0, 0]]))


def test_a_request_that_the_server_rejects_is_answered_safely(server: Any, lab: ModuleType) -> None:
    with PolicyClient(server.url, "policy", deadline=5.0) as client:
        answer = client.decide(lab.observations(1)[:, :, 1:], lab.TS_CLOSE, request_id="narrow")
    assert answer.verdicts == ("rejected",)
    assert "shape" in str(answer.error)


def test_a_refused_connection_is_tried_once_more(lab: ModuleType) -> None:
    attempts: list[float] = []

    class Counting(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            attempts.append(time.perf_counter())
            return super().handle_request(request)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = PolicyClient(f"http://127.0.0.1:{port}", "policy", deadline=1.0)
    client._http = httpx.Client(transport=Counting())
    assert client.decide(lab.observations(1), lab.TS_CLOSE, request_id="x").verdicts == ("unreachable",)
    assert len(attempts) == 2
