"""What must not happen, under load, counted. The load and every server are processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tests.serving.load import Plan, requests_of

from sekisho.serving.predictions import read_predictions, verify_chain

ROOT = Path(__file__).parents[2]
RATE = 1000.0  # requests a second, on schedule
ROWS = 64

pytestmark = pytest.mark.slow


class Load:
    """An open loop of ``RATE`` requests a second beside the test."""

    def __init__(self, lab: ModuleType, port: int, seconds: float, record: Path, **changes: object) -> None:
        self.record = record
        plan = {
            "kind": "json",
            "port": port,
            "seconds": seconds,
            "rows": lab.observations(ROWS).tolist(),
            "parameters": {"ts_close": lab.TS_CLOSE.isoformat(), "now": lab.NOW.isoformat()},
            "rate": RATE,
            "ids": "r",
            "record": str(record),
            **changes,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.load"],
            cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdin
        self.process.stdin.write(json.dumps(plan))
        self.process.stdin.close()
        self.process.stdin = None
        assert self.process.stdout
        assert self.process.stdout.readline() == "started\n"

    def result(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        output, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, errors
        answers = json.loads(self.record.read_text())
        return json.loads(output), answers


@pytest.fixture
def load(lab: ModuleType, tmp_path: Path) -> Iterator[Callable[..., Load]]:
    started: list[Load] = []

    def start_one(port: int, seconds: float, **changes: object) -> Load:
        started.append(Load(lab, port, seconds, tmp_path / f"load-{len(started)}.json", **changes))
        return started[-1]

    yield start_one
    for one in started:
        if one.process.poll() is None:
            one.process.kill()


@pytest.fixture
def proxy(lab: ModuleType) -> Iterator[Callable[..., int]]:
    """Starts a proxy before servers; gives its port."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(*servers: Any, grpc: bool = False) -> int:
        (port,) = lab._free_ports(1)
        replicas = [f"{server.port}:{server.grpc_port if grpc else server.port}" for server in servers]
        started.append(
            subprocess.Popen([sys.executable, "-m", "tests.serving.proxy", str(port), *replicas], cwd=ROOT)
        )
        for _ in range(400):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        time.sleep(1.0)  # every replica has been asked
        return int(port)

    yield start_one
    for one in started:
        one.kill()
        one.wait()


def wrong(lab: ModuleType, answers: list[dict[str, Any]], gain: Callable[[int], float]) -> list[Any]:
    """Answers that are not the model's of the release they name, on the very row that was sent."""
    rows = lab.observations(ROWS)
    total = rows.sum(axis=2)
    return [
        answer
        for answer in answers
        if not np.allclose(
            answer["weights"],
            np.clip(total[answer["row"]] * np.float32(gain(answer["seq"])), -0.15, 0.15),
            rtol=0,
            atol=1e-6,
        )
    ]


def same(seq: int) -> float:
    return 0.05


def gain_of(seq: int) -> float:
    return 0.05 - 0.0002 * seq


def test_sigterm_of_one_of_two_replicas_loses_no_request(
    start: Callable[..., Any],
    load: Callable[..., Load],
    proxy: Callable[..., int],
    lab: ModuleType,
    tmp_path: Path,
) -> None:
    release = lab.write_release(tmp_path / "releases").folder
    first, second = (start(release, name, drain=2.0).wait_ready() for name in ("one", "two"))
    running = load(proxy(first, second), 6)
    time.sleep(2.5)
    code, output = first.stop(signal.SIGTERM)
    result, answers = running.result()
    assert code == 0, output
    assert (result["failed"], result["retried"], result["errors"]) == (0, 0, {})
    assert result["statuses"] == {"200": int(RATE * 6)}
    assert not wrong(lab, answers, same)
    logged = [read_predictions(server.predictions)["prediction_id"].to_list() for server in (first,)]
    second.stop()
    logged.append(read_predictions(second.predictions)["prediction_id"].to_list())
    assert sorted(logged[0] + logged[1]) == sorted(answer["id"] for answer in answers)
    assert logged[0]
    for server in (first, second):
        verify_chain(server.predictions)


def test_sigterm_of_one_of_two_replicas_loses_no_call_over_grpc(
    start: Callable[..., Any],
    load: Callable[..., Load],
    proxy: Callable[..., int],
    lab: ModuleType,
    tmp_path: Path,
) -> None:
    """Connections are asked to end while calls are taken still, so that none is left when the drain ends."""
    release = lab.write_release(tmp_path / "releases").folder
    first, second = (
        start(release, name, drain=3.0, connection_age=1.0).wait_ready() for name in ("one", "two")
    )
    port = proxy(first, second, grpc=True)
    running = load(port, 8, kind="grpc", rate=500.0)
    time.sleep(2.5)
    code, output = first.stop(signal.SIGTERM)
    result, answers = running.result()
    assert code == 0, output
    assert (result["failed"], result["errors"]) == (0, {})
    assert result["statuses"] == {"200": 4000}
    assert not wrong(lab, answers, same)
    second.stop()
    logged = [len(read_predictions(server.predictions)) for server in (first, second)]
    assert sum(logged) == 4000
    assert min(logged) > 0


def test_kill_9_of_one_of_two_replicas_fails_no_request_after_one_retry(
    start: Callable[..., Any],
    load: Callable[..., Load],
    proxy: Callable[..., int],
    lab: ModuleType,
    tmp_path: Path,
) -> None:
    release = lab.write_release(tmp_path / "releases").folder
    first, second = (start(release, name).wait_ready() for name in ("one", "two"))
    running = load(proxy(first, second), 6, retries=1)
    time.sleep(2.5)
    first.stop(signal.SIGKILL)
    result, answers = running.result()
    assert result["failed"] == 0
    assert result["statuses"] == {"200": int(RATE * 6)}
    assert not wrong(lab, answers, same)
    # of the killed server's answers, all that its log calls written are there, and the chain holds
    whole = verify_chain(first.predictions)
    assert whole.predictions == len(read_predictions(first.predictions)) > 0
    second.stop()
    by_second = set(read_predictions(second.predictions)["prediction_id"])
    by_first = set(read_predictions(first.predictions)["prediction_id"])
    unwritten = {answer["id"] for answer in answers} - by_second - by_first
    # what only the dead server's memory held: at most what came within a write's interval and duration
    assert len(unwritten) <= RATE * 3, len(unwritten)


def test_fifty_swaps_under_load_fail_nothing_and_mix_nothing_up(
    start: Callable[..., Any], load: Callable[..., Load], lab: ModuleType, tmp_path: Path
) -> None:
    swaps = 50
    for seq in range(1, swaps + 2):
        lab.write_release(tmp_path / "releases", seq, gain=gain_of(seq))
    pointer = tmp_path / "pointer"
    pointer.write_text("1")
    server = start(
        tmp_path / "releases/policy/1", pointer=pointer, switch_interval=0.02, log_capacity=1_000_000
    ).wait_ready()
    running = load(server.port, 15)
    time.sleep(1.5)
    for seq in range(2, swaps + 2):
        pointer.write_text("half a")  # whoever writes it without care
        pointer.write_text(str(seq))
        deadline = time.monotonic() + 120
        while httpx.get(f"{server.url}/v2/models/policy/versions/{seq}/ready").status_code != 200:
            assert time.monotonic() < deadline, f"seq {seq} was never swapped in"
            time.sleep(0.02)
    result, answers = running.result()
    assert (result["failed"], result["errors"]) == (0, {})
    assert result["statuses"] == {"200": int(RATE * 15)}
    assert {answer["verdict"] for answer in answers} == {"ok"}
    assert not wrong(lab, answers, gain_of)
    assert len({answer["seq"] for answer in answers}) > swaps // 2  # swapped under load, not after it
    assert server.stop()[0] == 0
    table = read_predictions(server.predictions)
    assert len(table) == len(answers)
    assert dict(zip(table["prediction_id"], table["seq"], strict=True)) == {
        answer["id"]: answer["seq"] for answer in answers
    }
    verify_chain(server.predictions)


@pytest.mark.parametrize("fault", ["TAMPERED", "UNSIGNED", "REVOKED", "older", "golden", "absent"])
def test_a_release_that_may_not_be_served_is_refused_and_the_old_one_keeps_serving(
    start: Callable[..., Any], load: Callable[..., Load], lab: ModuleType, tmp_path: Path, fault: str
) -> None:
    release = lab.write_release(tmp_path / "releases", 7)
    seq = 6 if fault == "older" else 8
    if fault != "absent":
        other = lab.write_release(tmp_path / "releases", seq, gain=0.01 if fault == "golden" else 0.05)
        if fault == "golden":  # the model of another release
            source = release.folder / "content/model.onnx"
            shutil.copy(source, other.folder / "content/model.onnx")
        elif fault != "older":
            (other.folder / fault).touch()
    pointer = tmp_path / "pointer"
    pointer.write_text("7")
    server = start(release.folder, pointer=pointer, switch_interval=0.02).wait_ready()
    running = load(server.port, 2)
    time.sleep(0.5)
    pointer.write_text(str(seq))
    result, answers = running.result()
    assert (result["failed"], result["statuses"]) == (0, {"200": int(RATE * 2)})
    assert {answer["seq"] for answer in answers} == {7}
    assert not wrong(lab, answers, same)
    assert figures(server)["sekisho_releases_refused_total"] == 1
    assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200


def figures(server: Any) -> dict[str, float]:
    text = httpx.get(f"http://127.0.0.1:{server.metrics_port}/metrics").text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def test_a_full_disk_costs_no_answer_and_what_is_lost_is_counted(
    start: Callable[..., Any], load: Callable[..., Load], lab: ModuleType, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode  # fmt: skip
    if not mounted:
        pytest.skip("a disk of 64 kB needs the right to mount one")
    try:
        release = lab.write_release(tmp_path / "releases").folder
        server = start(release, "disk/log", log_capacity=1500, log_interval=0.2).wait_ready()
        result, answers = load(server.port, 5).result()
        found = figures(server)
        assert (result["failed"], result["statuses"]) == (0, {"200": int(RATE * 5)})
        assert not wrong(lab, answers, same)
        assert found["sekisho_log_failed_writes_total"] > 0
        assert found["sekisho_log_lost_total"] > 0
        assert found["sekisho_log_lag_seconds"] > 0
        assert server.stop()[0] == 0
        whole = verify_chain(server.predictions).predictions
        assert found["sekisho_log_written_total"] <= whole
        # every prediction is on disk or was counted: lost while serving, or named in the last line
        assert whole + found["sekisho_log_lost_total"] <= len(answers)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_slow_disk_delays_no_answer(
    start: Callable[..., Any], load: Callable[..., Load], lab: ModuleType, tmp_path: Path
) -> None:
    release = lab.write_release(tmp_path / "releases").folder
    server = start(release, fsync_seconds=1.5, log_interval=0.1).wait_ready()
    result, answers = load(server.port, 4).result()
    assert (result["failed"], result["statuses"]) == (0, {"200": int(RATE * 4)})
    assert not wrong(lab, answers, same)
    assert figures(server)["sekisho_log_lost_total"] == 0
    assert server.stop()[0] == 0
    assert verify_chain(server.predictions).predictions == len(answers)


def test_a_clock_that_jumps_gives_typed_safe_answers_and_an_unbroken_log(
    start: Callable[..., Any], load: Callable[..., Load], lab: ModuleType, tmp_path: Path
) -> None:
    jump = tmp_path / "jump"
    jump.write_text("0")
    release = lab.write_release(tmp_path / "releases").folder
    server = start(release, replay_clock=False, clock=str(jump)).wait_ready()
    running = load(server.port, 6)
    for seconds in (7200, -7200, 0):
        time.sleep(1.5)
        jump.write_text(str(seconds))
    result, answers = running.result()
    assert (result["failed"], result["statuses"]) == (0, {"200": int(RATE * 6)})
    verdicts = Counter(answer["verdict"] for answer in answers)
    assert set(verdicts) == {"ok", "stale", "from-future"}
    assert not any(any(answer["weights"]) for answer in answers if answer["verdict"] != "ok")
    assert not wrong(lab, [answer for answer in answers if answer["verdict"] == "ok"], same)
    assert server.stop()[0] == 0
    assert verify_chain(server.predictions).predictions == len(answers)


def test_a_flood_of_connections_and_slow_clients_leave_the_others_alone(
    start: Callable[..., Any], load: Callable[..., Load], lab: ModuleType, tmp_path: Path
) -> None:
    release = lab.write_release(tmp_path / "releases").folder
    server = start(release, max_connections=600, request_seconds=2.0).wait_ready()
    running = load(server.port, 5, connections=16)
    time.sleep(1.0)
    address = ("127.0.0.1", server.port)
    silent = [socket.create_connection(address) for _ in range(300)]
    slow = [socket.create_connection(address) for _ in range(200)]
    for one in slow:  # a header that never ends
        one.sendall(b"POST /v2/models/policy/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nX-Sl")
    body = [socket.create_connection(address) for _ in range(50)]
    for one in body:  # a body that never comes
        one.sendall(b"POST /v2/models/policy/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    beyond = [socket.create_connection(address) for _ in range(200)]
    result, answers = running.result()
    assert (result["failed"], result["statuses"]) == (0, {"200": int(RATE * 5)})
    assert not wrong(lab, answers, same)
    deadline = time.monotonic() + 10
    for one in [*silent, *slow, *body, *beyond]:  # all of them have been hung up on
        one.settimeout(max(0.1, deadline - time.monotonic()))
        with contextlib.suppress(ConnectionResetError):
            assert one.recv(1000) == b""
        one.close()


def test_a_flood_of_silent_connections_over_grpc_leaves_the_others_alone(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    release = lab.write_release(tmp_path / "releases").folder
    server = start(release, max_connections=300, request_seconds=2.0).wait_ready()
    moment = {"ts_close": lab.TS_CLOSE.isoformat(), "now": lab.NOW.isoformat()}
    (request,) = requests_of(Plan("grpc", 0, 0.0, lab.observations(1).tolist(), moment))
    with over_grpc(server) as send:
        assert send(request) == "OK"
        flood = [socket.create_connection(("127.0.0.1", server.grpc_port)) for _ in range(600)]
        assert {send(request) for _ in range(500)} == {"OK"}
        deadline = time.monotonic() + 20
        for one in flood:  # those beyond the limit and those that never spoke
            one.settimeout(max(0.1, deadline - time.monotonic()))
            with contextlib.suppress(ConnectionResetError):
                while one.recv(1000):
                    pass
            one.close()
        assert send(request) == "OK"


def test_a_server_that_stands_still_for_a_while_cancels_no_call(
    start: Callable[..., Any], load: Callable[..., Load], lab: ModuleType, tmp_path: Path
) -> None:
    """gRPC's core cancels calls that wait for the server when 1,000 do, if it is not told another number."""
    server = start(lab.write_release(tmp_path / "releases").folder).wait_ready()
    running = load(server.grpc_port, 6, kind="grpc", rate=600.0)
    time.sleep(1.0)
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(4.0)
    server.process.send_signal(signal.SIGCONT)
    result, answers = running.result()
    assert (result["failed"], result["errors"], result["statuses"]) == (0, {}, {"200": 3600})
    assert not wrong(lab, answers, same)


def test_a_call_whose_message_never_comes_is_ended(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    release = lab.write_release(tmp_path / "releases").folder
    server = start(release, connection_age=1.0, request_seconds=1.0).wait_ready()
    moment = {"ts_close": lab.TS_CLOSE.isoformat(), "now": lab.NOW.isoformat()}
    (request,) = requests_of(Plan("grpc", 0, 0.0, lab.observations(1).tolist(), moment))
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait()
        yield from ()

    with over_grpc(server) as send, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        method = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        silent = [method.future(nothing()) for _ in range(100)]  # more than are taken at once
        assert {send(request) for _ in range(200)} == {"OK"}
        codes = {call.exception(timeout=20).code().name for call in silent}  # type: ignore[union-attr]
        assert codes <= {"UNAVAILABLE", "CANCELLED"}
        never.set()
        assert send(request) == "OK"


def test_a_client_that_never_reads_does_not_grow_the_server(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    server = start(lab.write_release(tmp_path / "releases").folder).wait_ready()
    content = json.dumps(lab.body(lab.observations(1))).encode()
    request = (
        b"POST /v2/models/policy/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content)
        + content
    )
    before = memory(server.process.pid)
    with socket.create_connection(("127.0.0.1", server.port)) as greedy:
        greedy.settimeout(0.5)
        sent = 0
        try:
            for _ in range(3000):
                greedy.sendall(request * 20)
                sent += 20
        except TimeoutError:
            pass
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
        assert sent < 60_000  # it was held back
        assert memory(server.process.pid) - before < 100 << 20


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def mutated(good: bytes, rng: np.random.Generator) -> bytes:
    """A good request with pieces flipped, cut or repeated."""
    content = bytearray(good)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(len(content) or 1))
        choice = rng.integers(3)
        if choice == 0 and content:
            content[at] = int(rng.integers(256))
        elif choice == 1:
            del content[at : at + int(rng.integers(40))]
        else:
            content[at:at] = content[at : at + 20]
    return bytes(content)


@contextlib.contextmanager
def over_http(server: Any, rng: np.random.Generator, length: int | None) -> Iterator[Callable[[bytes], str]]:
    """Sends a body, every third with a wrong length of its JSON part; gives the status."""
    with httpx.Client(base_url=server.url) as http:

        def send(content: bytes) -> str:
            said = int(rng.integers(900)) if rng.integers(3) == 0 else length
            headers = {} if said is None else {"Inference-Header-Content-Length": str(said)}
            return str(http.post("/v2/models/policy/infer", content=content, headers=headers).status_code)

        yield send


@contextlib.contextmanager
def over_grpc(server: Any, *_: object) -> Iterator[Callable[[bytes], str]]:
    """Sends a message's bytes; gives the status."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def send(content: bytes) -> str:
            try:
                call(content, timeout=30)
            except grpc.RpcError as error:
                return str(error.code().name)
            return "OK"

        yield send


@pytest.mark.parametrize(
    ("kind", "over", "good", "bad"),
    [
        ("json", over_http, "200", {"400"}),
        ("binary", over_http, "200", {"400"}),
        ("grpc", over_grpc, "OK", {"INVALID_ARGUMENT", "NOT_FOUND"}),  # another model, another method's
    ],
)
def test_ten_thousand_malformed_requests_leak_nothing(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path, kind: str, over: Any, good: str, bad: set[str]
) -> None:
    server = start(lab.write_release(tmp_path / "releases").folder).wait_ready()
    rng, statuses = np.random.default_rng(3), Counter[str]()
    moment = {"ts_close": lab.TS_CLOSE.isoformat(), "now": lab.NOW.isoformat()}
    (request,) = requests_of(Plan(kind, 0, 0.0, lab.observations(1).tolist(), moment))
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"Inference-Header-Content-Length: ([0-9]+)", head)
    request = request if kind == "grpc" else body
    with over(server, rng, int(length[1]) if length else None) as send:
        assert good in {send(request) for _ in range(20)}  # the log begins
        statuses.update(send(mutated(request, rng)) for _ in range(2000))
        deadline = time.monotonic() + 30
        while not any(server.predictions.rglob("*.parquet")):  # the log's writer takes its memory once
            assert time.monotonic() < deadline
            time.sleep(0.05)
        after_warm_up = memory(server.process.pid)
        statuses.update(send(mutated(request, rng)) for _ in range(8000))
    assert set(statuses) <= {good} | bad
    assert sum(statuses[one] for one in bad) > 5000
    assert memory(server.process.pid) - after_warm_up < 20 << 20  # 1 or 2 MiB are usual
