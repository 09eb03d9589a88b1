"""The direct path: inference over HTTP, answered as its last byte comes in.

MLServer's own path spends about 15 times the CPU of the decision on dependency solving, middleware and
models of the request, and ASGI alone as much as the decision. ``/v2/models/{name}/infer`` is therefore
answered by the connection's own parser callbacks; everything else goes on to MLServer's application.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

import orjson
from mlserver.handlers import DataPlane
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sekisho.params import ServingParams
from sekisho.serving.protocol import HEADER_LENGTH, BadRequest, Headers, decode, encode
from sekisho.serving.runtime import PolicyRuntime

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

INFER = re.compile(rb"/v2/models/([^/?]+)(?:/versions/([^/?]+))?/infer(?:\?.*)?")
JSON: Headers = [(b"content-type", b"application/json")]
KEEP_ALIVE = (
    75.0  # seconds that an idle connection stays open: longer than common clients and proxies keep it
)
SWEEP = 1.0  # seconds between two looks for connections that are idle or slow
STATUS = {s: b"HTTP/1.1 %d %s\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}


class StockMetrics:
    """MLServer's own figures, which its dashboards read and the direct paths bypass."""

    def __init__(self, data_plane: DataPlane) -> None:
        self._plane = data_plane
        self._labelled: dict[tuple[str, str | None], tuple[Any, Any, Any]] = {}

    def count(self, model: str, version: str | None, started: float | None) -> None:
        """A success that began at ``started`` (``perf_counter``), or a failure where that is ``None``."""
        key = (model, version)
        if key not in self._labelled:  # looking the labels up costs more than counting
            plane = self._plane
            metrics = (
                plane._ModelInferRequestSuccess,
                plane._ModelInferRequestFailure,
                plane._ModelInferRequestDuration,
            )
            success, failure, seconds = (m.labels(model=model, version=version) for m in metrics)
            self._labelled[key] = (success, failure, seconds)
        success, failure, seconds = self._labelled[key]
        if started is None:
            failure.inc()
        else:
            success.inc()
            seconds.observe(time.perf_counter() - started)


class DirectPath:
    """Answers inference requests; as an ASGI application it passes everything else on to MLServer's."""

    runtime: PolicyRuntime  # set once the release is loaded, before anything listens

    def __init__(self, app: App, stock: StockMetrics, params: ServingParams) -> None:
        self._app, self._stock, self.params = app, stock, params
        self.draining = False

    def respond(
        self, model: bytes, version: bytes | None, headers: Headers, body: bytes
    ) -> tuple[int, bytes, Headers]:
        """Status, body and headers for one request for inference."""
        started, runtime = time.perf_counter(), self.runtime
        asked = None if version is None else version.decode("latin-1")
        if model.decode("latin-1") != runtime.name or asked not in (None, runtime.version):
            return _error(404, f"model {model.decode('latin-1')} {asked or ''} is not served here")
        try:
            request = decode(body, _header_length(headers, len(body)))
            payload, response_headers = encode(runtime.answer(request), request.binary_output)
        except BadRequest as error:
            runtime.counts.malformed += 1
            self._stock.count(runtime.name, asked, None)
            return _error(400, str(error))
        self._stock.count(runtime.name, asked, started)
        return 200, payload, response_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only requests behind another one on its way (pipelining) are decided here, all others in line."""
        match = INFER.fullmatch(scope["raw_path"]) if scope["type"] == "http" else None
        if match is None or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        body, more = bytearray(), True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False) and len(body) <= self.params.max_request_bytes
        status, payload, headers = (
            self.respond(match[1], match[2], scope["headers"], bytes(body))
            if len(body) <= self.params.max_request_bytes
            else self.too_large()
        )
        length = (b"content-length", str(len(payload)).encode())
        await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await send({"type": "http.response.body", "body": payload})
        return None

    def too_large(self) -> tuple[int, bytes, Headers]:
        """The answer to a request over the limit."""
        self.runtime.counts.malformed += 1
        return _error(413, f"request larger than {self.params.max_request_bytes} bytes")


class DirectProtocol(HttpToolsProtocol):
    """uvicorn's connection, which answers inference itself, and lets nobody hold it for long."""

    app: DirectPath

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._target: re.Match[bytes] | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._receiving, self._since = True, time.monotonic()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.app.params.max_connections:
            transport.abort()

    def overstays(self, now: float) -> bool:
        """Whether a request is not whole, or none came, for too long."""
        limit = self.app.params.request_seconds if self._receiving else KEEP_ALIVE
        return now - self._since > limit and (self.cycle is None or self.cycle.response_complete)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._target, self._receiving, self._since = None, True, time.monotonic()

    def on_headers_complete(self) -> None:
        alone = self.cycle is None or self.cycle.response_complete
        if alone and not self.expect_100_continue and self.parser.get_method() == b"POST":
            self._target = INFER.fullmatch(self.url)
        if self._target is None:
            super().on_headers_complete()
        else:
            self._body, self._size = [], 0

    def on_body(self, body: bytes) -> None:
        if self._target is None:
            return super().on_body(body)
        self._size += len(body)
        if self._size <= self.app.params.max_request_bytes:
            self._body.append(body)
        elif not self.transport.is_closing():
            self._write(*self.app.too_large(), keep_alive=False)
        return None

    def on_message_complete(self) -> None:
        self._receiving, self._since = False, time.monotonic()
        if self._target is None:
            return super().on_message_complete()
        if self.transport.is_closing():
            return None
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        try:
            answer = self.app.respond(self._target[1], self._target[2], self.headers, body)
        except Exception:  # must not tear the connection down under other requests
            self.logger.exception("a defect of the policy server")
            answer = _error(500, "internal error")
        self._target, self._body = None, []
        self._write(*answer, keep_alive=self.parser.should_keep_alive() and not self.app.draining)
        return None

    def _write(self, status: int, body: bytes, headers: Headers, *, keep_alive: bool) -> None:
        parts = [STATUS[HTTPStatus(status)]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if not keep_alive:
            parts.append(b"connection: close\r\n")
        parts += (b"content-length: %d\r\n\r\n" % len(body), body)
        self.transport.write(b"".join(parts))
        self.server_state.total_requests += 1
        if not keep_alive:
            self.transport.close()

    def pause_writing(self) -> None:
        """Who does not read its answers gets no further ones: memory stays bounded."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.flow.resume_reading()

    def shutdown(self) -> None:
        """The end of the drain: a request that is on its way in is awaited, an idle connection closed."""
        if not (self._receiving and self._target is not None):
            super().shutdown()


async def sweep(connections: set[Any]) -> None:
    """Close connections that overstay, for ever; one timer for all costs less than one for each request."""
    while True:
        await asyncio.sleep(SWEEP)
        now = time.monotonic()
        for connection in list(connections):
            if connection.overstays(now):
                connection.transport.close()


def _header_length(headers: Headers, body_length: int) -> int | None:
    for key, value in headers:
        if key == HEADER_LENGTH:
            if not value.isdigit() or int(value) > body_length:
                raise BadRequest("Inference-Header-Content-Length: a length within the body expected")
            return int(value)
    return None


def _error(status: int, message: str) -> tuple[int, bytes, Headers]:
    return status, orjson.dumps({"error": message}), JSON
