"""The real MLServer on loopback: answers, refusals, and what is left after it stops."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

from sekisho.serving.core import Policy
from sekisho.serving.predictions import read_predictions, verify_chain

INFER = "/v2/models/policy/infer"


@pytest.fixture(scope="module")
def http(server: Any) -> httpx.Client:
    return httpx.Client(base_url=server.url)


def weights(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    tensor = response.json()["outputs"][0]
    assert (tensor["name"], tensor["datatype"]) == ("target_weights", "FP32")
    return np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])


def binary(lab: ModuleType, rows: np.ndarray, *, binary_output: bool = True) -> tuple[bytes, dict[str, str]]:
    request = lab.body(rows, binary_data_output=binary_output)
    tensor = request["inputs"][0]
    del tensor["data"]
    tensor["parameters"] = {"binary_data_size": rows.nbytes}
    head = json.dumps(request).encode()
    return head + rows.tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def test_json_binary_grpc_and_the_stock_path_give_the_models_bits(
    http: httpx.Client, server: Any, policy: Policy, lab: ModuleType
) -> None:
    rows = lab.observations(32)
    wanted = policy.run(rows)[0].tobytes()
    assert weights(http.post(INFER, json=lab.body(rows))).tobytes() == wanted
    assert weights(http.post("/v2/models/policy/versions/7/infer", json=lab.body(rows))).tobytes() == wanted
    assert weights(http.post("/v2/models/policy/generate", json=lab.body(rows))).tobytes() == wanted
    content, headers = binary(lab, rows)
    response = http.post(INFER, content=content, headers=headers)
    head = int(response.headers["inference-header-content-length"])
    assert response.content[head:] == wanted
    assert json.loads(response.content[:head])["outputs"][0]["shape"] == [32, 3]
    content, headers = binary(lab, rows, binary_output=False)
    assert weights(http.post(INFER, content=content, headers=headers)).tobytes() == wanted
    assert _grpc(server, lab, rows).raw_output_contents[0] == wanted


def _grpc_request(lab: ModuleType, rows: np.ndarray) -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(name="observation", datatype="FP32", shape=rows.shape)
    request = pb.ModelInferRequest(model_name="policy", id="over-grpc", inputs=[tensor])
    request.parameters["ts_close"].string_param = lab.TS_CLOSE.isoformat()
    request.parameters["now"].string_param = lab.NOW.isoformat()
    request.raw_input_contents.append(rows.tobytes())
    return request


def _grpc(server: Any, lab: ModuleType, rows: np.ndarray) -> pb.ModelInferResponse:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        return GRPCInferenceServiceStub(channel).ModelInfer(_grpc_request(lab, rows))


def test_the_answer_says_who_decided_and_how(http: httpx.Client, lab: ModuleType) -> None:
    rows = lab.observations(2)
    rows[1, 0, 0] = 50.0
    answer = http.post(INFER, json=lab.body(rows, "morning")).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("morning", "policy", "7")
    assert answer["parameters"] == {
        "prediction_id": "morning",
        "verdict": "ok,out-of-range",
        "release": f"policy/7@sha256:{7:064x}",
        "seq": 7,
    }


def test_requests_without_an_id_get_ids_of_their_own(http: httpx.Client, lab: ModuleType) -> None:
    ids = {http.post(INFER, json=lab.body(lab.observations(1))).json()["id"] for _ in range(20)}
    assert len(ids) == 20


def test_null_in_the_data_is_a_row_that_the_guard_refuses(http: httpx.Client, lab: ModuleType) -> None:
    request = lab.body(lab.observations(1))
    request["inputs"][0]["data"][4] = None
    response = http.post(INFER, json=request)
    assert response.json()["parameters"]["verdict"] == "non-finite"
    assert not weights(response).any()


def test_the_stock_endpoints_are_there_and_the_repository_is_closed(http: httpx.Client) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/policy/ready", "/v2"):
        assert http.get(path).status_code == 200
    metadata = http.get("/v2/models/policy").json()
    assert metadata["inputs"] == [{"name": "observation", "datatype": "FP32", "shape": [-1, 3, 3]}]
    for verb in ("load", "unload"):
        assert http.post(f"/v2/repository/models/policy/{verb}").status_code == 403
    assert http.post("/v2/repository/index", json={}).json() == [
        {"name": "policy", "version": "7", "state": "READY", "reason": ""}
    ]
    assert http.get("/v2/models/policy/ready").status_code == 200


def test_unknown_models_and_too_large_requests_are_refused(http: httpx.Client, lab: ModuleType) -> None:
    for path in (
        "/v2/models/other/infer",
        "/v2/models/policy/versions/6/infer",
        "/v2/models/policy/v/7/infer",
    ):
        assert http.post(path, json=lab.body(lab.observations(1))).status_code == 404
    assert http.post(INFER, content=b" " * 9_000_000).status_code == 413
    assert http.post(INFER, content=iter([b" " * 3_000_000] * 3)).status_code == 413


def test_metrics_count_requests_verdicts_release_and_log(
    http: httpx.Client, server: Any, lab: ModuleType
) -> None:
    def figures() -> dict[str, float]:
        text = httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics").text
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    before = figures()
    rows = lab.observations(3)
    rows[0] = np.inf
    with np.errstate(all="ignore"):
        content, headers = binary(lab, rows)
    assert http.post(INFER, content=content, headers=headers).status_code == 200
    assert http.post(INFER, content=b"{}").status_code == 400
    gained = {name: value - before.get(name, 0.0) for name, value in figures().items()}
    assert gained["sekisho_decision_seconds_count"] == 1
    assert gained['sekisho_predictions_total{verdict="ok"}'] == 2
    assert gained['sekisho_predictions_total{verdict="non-finite"}'] == 1
    assert gained["sekisho_malformed_requests_total"] == 1
    assert gained['model_infer_request_success_total{model="policy",version="None"}'] == 1
    assert gained["sekisho_log_written_total"] + gained["sekisho_log_queued"] == 3
    release = f'sekisho_release_info{{digest="{7:064x}",model="policy",role="current",seq="7"}}'
    assert before[release] == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("observation") | JSON,
        "datatype": st.just("FP32") | JSON,
        "shape": st.just([1, 3, 3]) | st.lists(st.integers(-2, 5), max_size=4) | JSON,
        "data": st.just([0.0] * 9) | st.lists(st.floats(), max_size=12) | JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 99) | JSON})
        | JSON,
    },
)
REQUEST = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON,
        "inputs": st.lists(TENSOR, max_size=2) | JSON,
        "outputs": JSON,
        "parameters": st.fixed_dictionaries(
            {},
            optional={
                "ts_close": st.just("2025-06-03T01:05:00+00:00") | JSON,
                "now": JSON,
                "require_open": JSON,
            },
        )
        | JSON,
    },
)


@settings(max_examples=400, deadline=None)
@given(
    request=REQUEST | JSON,
    length=st.none() | st.integers(-5, 400) | st.text("0123456789x-", min_size=1, max_size=4),
)
def test_no_malformed_request_gets_a_5xx_or_hangs(http: httpx.Client, request: Any, length: Any) -> None:
    headers = {} if length is None else {"Inference-Header-Content-Length": str(length)}
    response = http.post(INFER, content=json.dumps(request).encode(), headers=headers)
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        assert response.json()["error"]


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300), length=st.none() | st.integers(0, 300))
def test_no_bytes_get_a_5xx(http: httpx.Client, content: bytes, length: int | None) -> None:
    headers = {} if length is None else {"Inference-Header-Content-Length": str(length)}
    assert http.post(INFER, content=content, headers=headers).status_code in (200, 400)


def test_a_tampered_release_never_opens_a_port(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    release = lab.write_release(tmp_path / "releases")
    (release.folder / "TAMPERED").touch()
    server = start(release.folder)
    output, _ = server.process.communicate(timeout=30)
    assert server.process.returncode == 1
    assert "refused by rule manifest" in output
    assert "running on" not in output


def test_an_older_release_is_not_served_after_a_newer_one(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    older, newer = (lab.write_release(tmp_path / "releases", seq) for seq in (7, 8))
    assert start(newer.folder).wait_ready().stop()[0] == 0
    server = start(older.folder)
    output, _ = server.process.communicate(timeout=30)
    assert server.process.returncode == 1
    assert "at least 8" in output


def test_a_damaged_high_water_mark_is_no_licence(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    release = lab.write_release(tmp_path / "releases")
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "high-water.json").write_text("{")
    server = start(release.folder)
    output, _ = server.process.communicate(timeout=30)
    assert server.process.returncode == 2
    assert "high-water.json" in output


def test_a_taken_port_is_named(start: Callable[..., Any], lab: ModuleType, tmp_path: Path) -> None:
    release = lab.write_release(tmp_path / "releases")
    with socket.socket() as taken:
        server = start(release.folder)
        taken.bind(("127.0.0.1", server.port))
        taken.listen()
        output, _ = server.process.communicate(timeout=30)
    assert server.process.returncode == 2
    assert f":{server.port}" in output


@pytest.mark.parametrize("port", [65536, "the http port"])
def test_a_port_that_cannot_be_is_named(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path, port: int | str
) -> None:
    release = lab.write_release(tmp_path / "releases")
    server = start(
        release.folder, ports=lambda ports: [ports[0], ports[0] if port != 65536 else port, ports[2]]
    )
    output, _ = server.process.communicate(timeout=30)
    assert server.process.returncode == 2
    assert f":{server.grpc_port}" in output
    assert "--grpc-port" in output


def test_no_connection_becomes_a_websocket(server: Any, lab: ModuleType) -> None:
    content = json.dumps(lab.body(lab.observations(1))).encode()
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    for line, body, wanted in (
        (b"POST " + INFER.encode(), content, b" 400 "),  # to the parser, such a request has no body
        (b"GET /v2/health/live", b"", b" 200 "),
        (b"GET /nothing", b"", b" 404 "),
    ):
        length = b"Content-Length: %d\r\n" % len(body)
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as caller:
            caller.sendall(line + b" HTTP/1.1\r\nHost: x\r\n" + upgrade + length + b"\r\n" + body)
            assert wanted in caller.recv(200).partition(b"\r\n")[0]


def test_bytes_that_are_no_message_are_an_invalid_argument(server: Any) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for content in (b"", b"\xff" * 40, pb.ModelInferRequest(model_name="policy").SerializeToString()):
            with pytest.raises(grpc.RpcError) as failed:
                call(content, timeout=30)
            assert failed.value.code().name == ("INVALID_ARGUMENT" if content else "NOT_FOUND")
        with pytest.raises(grpc.RpcError) as failed:
            call(bytes(9 << 20), timeout=30)
        assert failed.value.code().name == "RESOURCE_EXHAUSTED"
        none = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as failed:
            none(iter(()), timeout=30)
        assert failed.value.code().name == "INVALID_ARGUMENT"


def test_the_callers_clock_counts_only_on_a_replay_server(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    server = start(lab.write_release(tmp_path / "releases").folder, replay_clock=False).wait_ready()
    response = httpx.post(server.url + INFER, json=lab.body(lab.observations(1)))
    assert response.json()["parameters"]["verdict"] == "stale"


def test_sigterm_under_load_loses_no_answered_prediction(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    server = start(lab.write_release(tmp_path / "releases").folder).wait_ready()
    stopping, answered, broken = threading.Event(), [], []

    def ask(worker: int) -> None:
        with httpx.Client() as http:
            for number in range(100_000):
                request = lab.body(lab.observations(1), f"{worker}-{number}")
                try:
                    response = http.post(server.url + INFER, json=request)
                except httpx.ConnectError:  # the port is closed: another replica's turn
                    return
                except httpx.TransportError as error:
                    (broken if not stopping.is_set() else []).append(error)
                    return
                assert response.status_code == 200
                answered.append(response.json()["id"])
                if worker == 0 and number == 150:
                    stopping.set()
                    server.process.send_signal(signal.SIGTERM)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    server.process.communicate(timeout=30)
    assert server.process.returncode == 0
    assert not broken
    logged = set(read_predictions(server.predictions)["prediction_id"])
    assert len(answered) > 150
    assert set(answered) <= logged
    assert verify_chain(server.predictions).predictions == len(logged)


def test_sigterm_over_grpc_loses_no_answered_prediction(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    server = start(lab.write_release(tmp_path / "releases").folder, drain=1.0).wait_ready()
    answered: list[list[str]] = [[] for _ in range(4)]
    codes: list[str] = []

    def ask(worker: int) -> None:
        message = _grpc_request(lab, lab.observations(1))
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=options) as channel:
            stub = GRPCInferenceServiceStub(channel)
            for number in range(1_000_000):
                message.id = f"{worker}-{number}"
                try:
                    answered[worker].append(stub.ModelInfer(message, timeout=30).id)
                except grpc.RpcError as error:
                    codes.append(error.code().name)
                    return
                if worker == 0 and number == 100:
                    server.process.send_signal(signal.SIGTERM)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    server.process.communicate(timeout=30)
    assert server.process.returncode == 0
    # one call of each caller at most: not begun, or it came as grpc.aio stopped taking calls
    assert len(codes) == 4
    assert set(codes) <= {"UNAVAILABLE", "CANCELLED"}
    everything = [one for worker in answered for one in worker]
    assert len(everything) > 200  # they went on through the drain
    logged = set(read_predictions(server.predictions)["prediction_id"])
    assert set(everything) <= logged
    assert len(logged) <= len(everything) + 4


def test_after_kill_9_the_log_holds_and_the_next_server_goes_on(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    release = lab.write_release(tmp_path / "releases")
    server = start(release.folder).wait_ready()
    for number in range(50):
        httpx.post(server.url + INFER, json=lab.body(lab.observations(1), f"first-{number}"))
    server.stop(signal.SIGKILL)
    before = verify_chain(server.predictions) if server.predictions.exists() else None
    assert before is not None
    again = start(release.folder).wait_ready()
    httpx.post(again.url + INFER, json=lab.body(lab.observations(1), "second"))
    assert again.stop()[0] == 0
    assert verify_chain(again.predictions).predictions == before.predictions + 1


@pytest.mark.parametrize("moment", ["9999-12-31T00:00:00+00:00", "0001-01-01T00:00:00+00:00"])
def test_a_time_that_no_calendar_knows_is_a_bad_request(
    http: httpx.Client, lab: ModuleType, moment: str
) -> None:
    response = http.post(INFER, json=lab.body(lab.observations(1), ts_close=moment))
    assert response.status_code == 400
    assert "ts_close: a time from 1970 to 2199 expected" in response.json()["error"]


def test_calls_at_once_over_grpc_get_each_its_own_answer(server: Any, lab: ModuleType) -> None:
    rows = lab.observations(200, seed=5)
    wanted = lab.expected(rows)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        calls = []
        for number, row in enumerate(rows):
            message = _grpc_request(lab, row[None])
            message.id = f"at-once-{number}"
            if number % 10 == 3:  # refused, among those that are not
                message.raw_input_contents[0] = b"\0"
            calls.append(stub.ModelInfer.future(message, timeout=30))
        for number, call in enumerate(calls):
            if number % 10 == 3:
                assert call.exception().code() == grpc.StatusCode.INVALID_ARGUMENT
                continue
            answer = call.result()
            weights = np.frombuffer(answer.raw_output_contents[0], dtype="<f4")
            assert (answer.id, weights.tobytes()) == (f"at-once-{number}", wanted[number].tobytes())


def test_a_caller_that_gives_up_leaves_the_others_their_answers(server: Any, lab: ModuleType) -> None:
    message = _grpc_request(lab, lab.observations(1))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        for _ in range(20):
            given_up = [stub.ModelInfer.future(message) for _ in range(20)]
            kept = stub.ModelInfer.future(message, timeout=30)
            for call in given_up:
                call.cancel()
            assert kept.result().id == message.id
