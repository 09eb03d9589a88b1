"""A load on a policy server, in a process of its own: ``python -m tests.serving.load`` with a plan on stdin.

Prints "started" as it begins, then the result as JSON.

Closed loop: every connection sends its next request when the last is answered (throughput). Open loop:
requests leave on a fixed schedule whatever comes back, and latency counts from the scheduled moment, so that
a slow server cannot slow its own examination down (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from mlserver.grpc import dataplane_pb2 as pb

PATIENCE = 30.0  # seconds for an answer
RETRY_AFTER = 0.1  # seconds; a dead replica's connections end one by one, and its proxy sees it later
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Plan:
    """What to send where; ``requests`` are sent in turn, over and over."""

    kind: str  # json, binary or grpc
    port: int
    seconds: float
    rows: list[list[list[float]]]  # (R, A, F+1); one request for each row
    parameters: dict[str, Any] = field(default_factory=dict)
    model: str = "policy"
    host: str = "127.0.0.1"
    connections: int = 32
    rate: float | None = None  # requests a second in open loop; None is a closed loop
    retries: int = 0  # of a request whose connection failed
    ids: str = ""  # prefix of request ids; empty sends none
    record: str = ""  # file for the answers; what a test compares with its oracle


@dataclass
class Result:
    """What came back. Latencies in ms."""

    sent: int
    answered: int  # with status 200
    per_second: float
    p50: float
    p99: float
    p999: float
    worst: float
    statuses: dict[str, int]
    failed: int  # no answer, after the retries
    retried: int
    errors: dict[str, int]
    client_cpu: float  # CPU seconds of this process


def requests_of(plan: Plan) -> list[bytes]:
    """One encoded request for each row (without an id)."""
    rows = [np.array([row], dtype=np.float32) for row in plan.rows]
    return [
        _grpc_request(plan, row, "") if plan.kind == "grpc" else _http_request(plan, row, "") for row in rows
    ]


def _http_request(plan: Plan, row: np.ndarray, request_id: str) -> bytes:
    tensor: dict[str, Any] = {"name": "observation", "datatype": "FP32", "shape": list(row.shape)}
    request: dict[str, Any] = {"inputs": [tensor], "parameters": dict(plan.parameters)}
    if request_id:
        request["id"] = request_id
    if plan.kind == "json":
        tensor["data"] = [float(str(x)) for x in row.ravel()]  # as short as the float32 can be written
        body, extra = json.dumps(request, separators=(",", ":")).encode(), b""
    else:
        tensor["parameters"] = {"binary_data_size": row.nbytes}
        request["outputs"] = [{"name": "target_weights", "parameters": {"binary_data": True}}]
        head = json.dumps(request, separators=(",", ":")).encode()
        body, extra = head + row.tobytes(), b"Inference-Header-Content-Length: %d\r\n" % len(head)
    kind = b"application/json" if plan.kind == "json" else b"application/octet-stream"
    return (
        b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n"  # noqa: E501
        % (plan.model.encode(), kind, extra, len(body))
    ) + body


def _grpc_request(plan: Plan, row: np.ndarray, request_id: str) -> bytes:
    tensor = pb.ModelInferRequest.InferInputTensor(name="observation", datatype="FP32", shape=row.shape)
    request = pb.ModelInferRequest(model_name=plan.model, id=request_id, inputs=[tensor])
    for key, value in plan.parameters.items():
        if isinstance(value, bool):
            request.parameters[key].bool_param = value
        else:
            request.parameters[key].string_param = value
    request.raw_input_contents.append(row.tobytes())
    content: bytes = request.SerializeToString()
    return content


class Connection(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection with one request on its way at most."""

    def __init__(self) -> None:
        self.buffer = b""
        self.waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self.broken: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.broken = error or ConnectionResetError("closed")
        if self.waiting and not self.waiting.done():
            self.waiting.set_exception(self.broken)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        at = head.index(b"\r\ncontent-length:") + 17
        stop = head.find(b"\r\n", at)
        length = int(head[at : stop if stop > 0 else end])
        if len(self.buffer) < end + 4 + length:
            return
        whole, self.buffer = self.buffer[: end + 4 + length], self.buffer[end + 4 + length :]
        if b"\r\nconnection: close" in head:
            self.broken = ConnectionResetError("the server asks for another connection")
        waiting, self.waiting = self.waiting, None
        if waiting and not waiting.done():
            waiting.set_result((int(whole[9:12]), whole))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        if self.broken:
            raise self.broken
        self.waiting, self.since = asyncio.get_running_loop().create_future(), time.monotonic()
        self.transport.write(request)  # type: ignore[attr-defined]
        return await self.waiting

    def give_up(self) -> None:
        """After ``PATIENCE`` without an answer; a timer for each request would cost too much."""
        if self.waiting and not self.waiting.done() and time.monotonic() - self.since > PATIENCE:
            self.broken = TimeoutError()
            self.waiting.set_exception(self.broken)
            self.transport.abort()


class HttpPool:
    """Connections that wait for work."""

    def __init__(self, plan: Plan) -> None:
        self._host, self._port, self._idle = plan.host, plan.port, asyncio.Queue[Connection | None]()
        for _ in range(plan.connections):
            self._idle.put_nowait(None)
        self._open: set[Connection] = set()

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(1)
            for connection in self._open:
                connection.give_up()
            self._open = {connection for connection in self._open if not connection.broken}

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        connection = await self._idle.get()
        try:
            if connection is None or connection.broken:
                connection = None
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(Connection, self._host, self._port)
                self._open.add(connection)
            return await connection.ask(request)
        finally:
            self._idle.put_nowait(connection)


class GrpcPool:
    """Channels that are used in turn; gRPC puts many requests on one connection."""

    def __init__(self, plan: Plan) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = deque(
            grpc.aio.insecure_channel(f"{plan.host}:{plan.port}", options=options)
            for _ in range(min(plan.connections, 4))
        )
        self._calls = deque(channel.unary_unary(INFER) for channel in self._channels)

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        self._calls.rotate(1)
        return 200, await self._calls[0](request, timeout=PATIENCE)


class Load:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.requests = plan, requests_of(plan)
        self.rows = [np.array([row], dtype=np.float32) for row in plan.rows]
        self.pool: HttpPool | GrpcPool = GrpcPool(plan) if plan.kind == "grpc" else HttpPool(plan)
        self.seconds: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.failed = self.retried = self.sent = 0
        self.answers: list[dict[str, Any]] = []

    async def one(self, number: int, due: float) -> None:
        """Send request ``number``; its latency counts from ``due``."""
        index = number % len(self.requests)
        request = self.requests[index]
        if self.plan.ids:
            make = _grpc_request if self.plan.kind == "grpc" else _http_request
            request = make(self.plan, self.rows[index], f"{self.plan.ids}{number}")
        self.sent += 1
        for attempt in range(1 + self.plan.retries):
            try:
                status, content = await self.pool.ask(request)
                break
            except (OSError, TimeoutError, grpc.aio.AioRpcError) as error:
                self.errors[_named(error)] += 1
                if attempt == self.plan.retries:
                    self.failed += 1
                    return
                self.retried += 1
                await asyncio.sleep(RETRY_AFTER)
        self.seconds.append(time.perf_counter() - due)
        self.statuses[str(status)] += 1
        if self.plan.record:
            self.answers.append({"row": index, "number": number, **_read(self.plan.kind, content)})

    async def closed(self) -> float:
        """Every connection busy all the time; returns the seconds it took."""
        numbers = iter(range(1 << 60))
        start = time.perf_counter()

        async def worker() -> None:
            while time.perf_counter() - start < self.plan.seconds:
                await self.one(next(numbers), time.perf_counter())

        await asyncio.gather(*(worker() for _ in range(self.plan.connections)))
        return time.perf_counter() - start

    async def open(self, rate: float) -> float:
        """``rate`` requests a second on schedule; returns the seconds it took."""
        count, tasks = int(rate * self.plan.seconds), set()
        start = time.perf_counter() + 0.05
        for number in range(count):
            due = start + number / rate
            early = due - time.perf_counter()
            if early > 0:
                await asyncio.sleep(early)
            task = asyncio.ensure_future(self.one(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=60)
        return time.perf_counter() - start

    async def run(self) -> Result:
        watch = asyncio.create_task(self.pool.watch()) if isinstance(self.pool, HttpPool) else None
        took = await (self.open(self.plan.rate) if self.plan.rate else self.closed())
        if watch:
            watch.cancel()
        if self.plan.record:
            Path(self.plan.record).write_text(json.dumps(self.answers))
        points = np.percentile(self.seconds or [0.0], [50, 99, 99.9, 100]) * 1e3
        used = resource.getrusage(resource.RUSAGE_SELF)
        return Result(
            sent=self.sent,
            answered=self.statuses["200"],
            per_second=len(self.seconds) / took,
            p50=float(points[0]),
            p99=float(points[1]),
            p999=float(points[2]),
            worst=float(points[3]),
            statuses=dict(self.statuses),
            failed=self.failed,
            retried=self.retried,
            errors=dict(self.errors),
            client_cpu=used.ru_utime + used.ru_stime,
        )


def _named(error: BaseException) -> str:
    return str(error.code()) if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__


def _read(kind: str, content: bytes) -> dict[str, Any]:
    """Who answered what, of one answer."""
    if kind == "grpc":
        response = pb.ModelInferResponse.FromString(content)
        parameters = {key: value.string_param for key, value in response.parameters.items()}
        weights = np.frombuffer(response.raw_output_contents[0], dtype="<f4").tolist()
        return {"seq": int(response.model_version), "verdict": parameters["verdict"], "weights": weights}
    head, _, body = content.partition(b"\r\n\r\n")
    at = head.lower().find(b"inference-header-content-length:")
    length = int(head[at + 32 :].split(b"\r\n")[0]) if at >= 0 else len(body)
    response = json.loads(body[:length])
    if "outputs" not in response:
        return {"error": response.get("error")}
    weights = (
        np.frombuffer(body[length:], dtype="<f4").tolist() if at >= 0 else response["outputs"][0]["data"]
    )
    parameters = response.get("parameters") or {}
    seq = response.get("model_version") or 0
    return {
        "seq": int(seq),
        "verdict": parameters.get("verdict"),
        "weights": weights,
        "id": response.get("id"),
    }


if __name__ == "__main__":
    plan = Plan(**json.loads(sys.stdin.read()))

    async def run() -> Result:
        load = Load(plan)
        print("started", flush=True)
        return await load.run()

    print(json.dumps(asdict(uvloop.run(run()))))
