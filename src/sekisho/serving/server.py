"""The policy server: MLServer with a direct path for inference.

MLServer's own path spends about 15 times the CPU of the decision on dependency solving, middleware and models
of the request. ``/v2/models/{name}/infer`` is therefore answered before its application sees it; health,
readiness, metadata, gRPC and metrics stay MLServer's.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import orjson
import uvicorn
import uvloop
from mlserver import MLServer, ModelSettings, Settings
from mlserver.errors import MLServerError, ModelNotFound
from mlserver.grpc import GRPCServer
from mlserver.handlers import DataPlane, ModelRepositoryHandlers
from mlserver.metrics import MetricsServer
from mlserver.registry import MultiModelRegistry
from mlserver.rest import RESTServer
from mlserver.settings import ModelParameters
from mlserver.types import (
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryIndexResponseItem,
    State,
)

from sekisho.errors import CannotCheck
from sekisho.serving import metrics
from sekisho.serving.protocol import HEADER_LENGTH, BadRequest, Headers, decode, encode
from sekisho.serving.runtime import PolicyRuntime, ServingSetup

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON: Headers = [(b"content-type", b"application/json")]
KEEP_ALIVE = 75  # seconds that an idle connection stays open: longer than common clients and proxies keep it
DRAIN = 10  # seconds for requests in flight after SIGTERM; Kubernetes' grace period must be longer
# Seconds that the writer thread may hold the interpreter while an answer waits; Python's default is 5 ms.
SWITCH_INTERVAL = 0.0005


@dataclass(frozen=True)
class Listen:
    """Where the server listens."""

    host: str
    http_port: int
    grpc_port: int
    metrics_port: int


def serve(setup: ServingSetup, listen: Listen) -> None:
    """Serve until SIGTERM or SIGINT, then drain and flush the prediction log.

    Raises:
        Refused: the release may not be served; no port was opened.
        CannotCheck: a check could not be made, or a port is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(name)s] %(levelname)s - %(message)s")
    logging.getLogger("mlserver").propagate = False  # it has a handler of its own
    sys.setswitchinterval(SWITCH_INTERVAL)
    uvloop.run(_serve(setup, listen))


async def _serve(setup: ServingSetup, listen: Listen) -> None:
    await PolicyServer(setup, listen).serve()


class PolicyServer(MLServer):  # type: ignore[misc]
    """One release, one process, one event loop."""

    def __init__(self, setup: ServingSetup, listen: Listen) -> None:
        self._setup = setup
        self._draining = self._started = False
        super().__init__(
            Settings(
                _env_file=None,
                debug=False,
                parallel_workers=0,
                host=listen.host,
                http_port=listen.http_port,
                grpc_port=listen.grpc_port,
                metrics_port=listen.metrics_port,
                metrics_endpoint="/metrics",
                server_name="sekisho",
                server_version=version("sekisho"),
                extensions=["binary_tensor_data"],
                gzip_enabled=False,
                cache_enabled=False,
                kafka_enabled=False,
                load_models_at_startup=False,
                model_repository_root=str(setup.release),
            )
        )

    async def serve(self) -> None:
        """Load the release, then listen; readiness never precedes a verified, warm policy."""
        model = ModelSettings(
            _env_file=None,
            name=self._setup.release.parent.name,
            implementation=PolicyRuntime,
            platform="onnx",
            parameters=ModelParameters(_env_file=None, version=self._setup.release.name),
        )
        runtime = await self._model_registry.load(model)
        try:
            for port in (self._settings.http_port, self._settings.grpc_port, self._settings.metrics_port):
                _require_free(self._settings.host, port)
            if not self._draining:
                self._started = True
                await super().start()
        finally:
            await runtime.unload()

    async def stop(self, sig: int | None = None) -> None:
        """Answer "not ready", finish what is in flight, stop listening."""
        if self._draining:
            return
        self._draining = True
        if self._started:
            await super().stop(sig)

    def _create_model_registry(self) -> MultiModelRegistry:
        return MultiModelRegistry(
            on_model_load=[self.add_custom_handlers],
            on_model_reload=[self.reload_custom_handlers],
            on_model_unload=[self.remove_custom_handlers],
            model_initialiser=lambda settings: PolicyRuntime(settings, self._setup),
        )

    def _create_servers(self) -> None:
        self._data_plane.ready = self._ready
        handlers = ClosedRepository(self._model_repository, self._model_registry)
        self._rest_server = DirectRESTServer(
            self._settings, self._data_plane, handlers, self._setup.params.max_request_bytes
        )
        self._grpc_server = GRPCServer(self._settings, self._data_plane, handlers)
        self._metrics_server = QuietMetricsServer(self._settings)
        self._kafka_server = None

    async def _ready(self) -> bool:
        models = list(await self._model_registry.get_models())
        return not self._draining and bool(models) and all(model.ready for model in models)


class ClosedRepository(ModelRepositoryHandlers):  # type: ignore[misc]
    """No release comes or goes through the network: that is a pull request's business."""

    async def load(self, name: str) -> bool:
        raise MLServerError("releases are loaded at start only", 403)

    async def index(self, payload: RepositoryIndexRequest) -> RepositoryIndexResponse:
        """The release being served (the stock one searches the disk)."""
        models = [
            model for model in await self._model_registry.get_models() if model.ready or not payload.ready
        ]
        states = {True: State.READY, False: State.UNAVAILABLE}
        return RepositoryIndexResponse(
            root=[
                RepositoryIndexResponseItem(name=m.name, version=m.version, state=states[m.ready], reason="")
                for m in models
            ]
        )

    async def unload(self, name: str) -> bool:
        raise MLServerError("releases are unloaded at the end only", 403)


class QuietServer(uvicorn.Server):
    """Leaves signals to ``MLServer.stop``: uvicorn's handlers would stop one server and not the others."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class QuietMetricsServer(MetricsServer):  # type: ignore[misc]
    """MLServer's metrics endpoint on a ``QuietServer``."""

    async def start(self) -> None:
        self._server = QuietServer(self._get_config())
        await self._server.serve()


class DirectRESTServer(RESTServer):  # type: ignore[misc]
    """MLServer's REST server behind the direct path."""

    def __init__(
        self, settings: Settings, data_plane: DataPlane, handlers: ModelRepositoryHandlers, max_bytes: int
    ) -> None:
        super().__init__(settings, data_plane, handlers)
        self._max_bytes = max_bytes

    async def start(self) -> None:
        config = self._get_config()
        config.app = DirectPath(self._app, self._data_plane, self._max_bytes)
        config.timeout_keep_alive = KEEP_ALIVE
        config.timeout_graceful_shutdown = DRAIN
        config.server_header = config.date_header = config.proxy_headers = False
        self._server = QuietServer(config)
        await self._server.serve()


class DirectPath:
    """ASGI: answers ``POST /v2/models/{name}[/versions/{v}]/infer``; passes everything else on."""

    def __init__(self, app: App, data_plane: DataPlane, max_bytes: int) -> None:
        self._app, self._registry, self._max_bytes = app, data_plane._model_registry, max_bytes
        # MLServer's own figures, which its dashboards read; looking the labels up costs more than counting
        self._stock = lru_cache(maxsize=16)(
            lambda model, version: tuple(
                metric.labels(model=model, version=version)
                for metric in (
                    data_plane._ModelInferRequestSuccess,
                    data_plane._ModelInferRequestFailure,
                    data_plane._ModelInferRequestDuration,
                )
            )
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/infer"):
            return await self._app(scope, receive, send)
        parts = scope["path"].split("/")
        if len(parts) == 5:
            version = None
        elif len(parts) == 7 and parts[4] == "versions":
            version = parts[5]
        else:
            return await self._app(scope, receive, send)
        try:
            model = await self._registry.get_model(parts[3], version)
        except ModelNotFound as error:
            return await _send_error(send, 404, str(error))
        if not model.ready:
            return await _send_error(send, 503, f"model {parts[3]} is not ready")
        await self._infer(model, version, scope["headers"], receive, send)

    async def _infer(
        self, model: PolicyRuntime, version: str | None, headers: Headers, receive: Receive, send: Send
    ) -> None:
        started = time.perf_counter()
        body = await _read_body(receive, self._max_bytes)
        success, failure, seconds = self._stock(model.name, version)
        if body is None:
            metrics.MALFORMED.inc()
            return await _send_error(send, 413, f"request larger than {self._max_bytes} bytes")
        try:
            request = decode(body, _header_length(headers, len(body)))
            payload, response_headers = encode(model.answer(request), request.binary_output)
        except BadRequest as error:
            metrics.MALFORMED.inc()
            failure.inc()
            return await _send_error(send, 400, str(error))
        await _send(send, 200, payload, response_headers)
        success.inc()
        seconds.observe(time.perf_counter() - started)


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or ``None`` once it passes ``limit`` bytes."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body if len(body) <= limit else None
    parts, size = [body], len(body)
    while message.get("more_body") and size <= limit:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
    return b"".join(parts) if size <= limit else None


def _header_length(headers: Headers, body_length: int) -> int | None:
    for key, value in headers:
        if key == HEADER_LENGTH:
            if not value.isdigit() or int(value) > body_length:
                raise BadRequest("Inference-Header-Content-Length: a length within the body expected")
            return int(value)
    return None


async def _send(send: Send, status: int, body: bytes, headers: Headers) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def _send_error(send: Send, status: int, message: str) -> None:
    await _send(send, status, orjson.dumps({"error": message}), JSON)


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotCheck(f"{host}:{port}: {error}", remedy="choose another port with --port") from error
