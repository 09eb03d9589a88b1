"""The policy server: MLServer with direct paths for inference; health and metadata stay MLServer's own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

import uvicorn
import uvloop
from mlserver import MLServer, ModelSettings, Settings
from mlserver.errors import MLServerError, ModelNotFound
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
from sekisho.params import ServingParams
from sekisho.serving.direct_grpc import DirectGRPCServer
from sekisho.serving.direct_http import DirectPath, DirectProtocol, StockMetrics, sweep
from sekisho.serving.runtime import PolicyRuntime, ServingSetup

DRAIN = 10  # seconds for requests in flight after serving.drain; Kubernetes' grace period must be longer
# Seconds that the writer thread may hold the interpreter while an answer waits; Python's default is 5 ms.
SWITCH_INTERVAL = 0.0005
# Objects until Python looks for cycles (700, 10, 10 by default). The log holds thousands of entries without
# any, and each look at them all makes an answer wait.
COLLECT_AFTER = (20_000, 20, 50)


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
    gc.set_threshold(*COLLECT_AFTER)
    _raise_file_limit()
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
            wanted = self._settings
            _require_free(wanted.host, wanted.http_port, wanted.grpc_port, wanted.metrics_port)
            self._rest_server.direct.runtime = self._grpc_server.direct.runtime = runtime
            if not self._draining:
                self._started = True
                gc.freeze()  # what is loaded now stays
                await super().start()
        finally:
            await runtime.unload()

    async def stop(self, sig: int | None = None) -> None:
        """Answer "not ready" and tell callers to go elsewhere; then finish what is in flight and end."""
        if self._draining:
            return
        self._draining = self._rest_server.direct.draining = True
        if self._started:
            await asyncio.sleep(self._setup.params.drain)
            await super().stop(sig)

    def _create_model_registry(self) -> MultiModelRegistry:
        return OneModelRegistry(
            on_model_load=[self.add_custom_handlers],
            on_model_reload=[self.reload_custom_handlers],
            on_model_unload=[self.remove_custom_handlers],
            model_initialiser=lambda settings: PolicyRuntime(settings, self._setup),
        )

    def _create_servers(self) -> None:
        self._data_plane.ready = self._ready
        params, stock = self._setup.params, StockMetrics(self._data_plane)
        handlers = ClosedRepository(self._model_repository, self._model_registry)
        self._rest_server = DirectRESTServer(self._settings, self._data_plane, handlers, stock, params)
        self._grpc_server = DirectGRPCServer(self._settings, self._data_plane, handlers, stock, params)
        self._metrics_server = QuietMetricsServer(self._settings)
        self._kafka_server = None

    async def _ready(self) -> bool:
        models = list(await self._model_registry.get_models())
        return not self._draining and bool(models) and all(model.ready for model in models)


class OneModelRegistry(MultiModelRegistry):  # type: ignore[misc]
    """A runtime keeps its place when a release is swapped; only its version changes."""

    async def get_model(self, name: str, version: str | None = None) -> PolicyRuntime:
        model = await super().get_model(name)
        if version and version != model.version:  # gRPC has no missing text, only an empty one
            raise ModelNotFound(name, version)
        return model  # type: ignore[no-any-return]


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
        self,
        settings: Settings,
        data_plane: DataPlane,
        handlers: ModelRepositoryHandlers,
        stock: StockMetrics,
        params: ServingParams,
    ) -> None:
        super().__init__(settings, data_plane, handlers)
        self.direct = DirectPath(self._app, stock, params)

    async def start(self) -> None:
        config = self._get_config()
        config.app, config.http = self.direct, DirectProtocol
        config.ws = "none"  # nothing here speaks it, and its connections would be neither counted nor swept
        config.timeout_graceful_shutdown = DRAIN
        config.server_header = config.date_header = config.proxy_headers = False
        self._server = QuietServer(config)
        sweeping = asyncio.create_task(sweep(self._server.server_state.connections))
        try:
            await self._server.serve()
        finally:
            sweeping.cancel()


def _raise_file_limit() -> None:
    """As many open files as the system allows: a connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _require_free(host: str, *ports: int) -> None:
    """All at once, so that two of ours that are the same are found too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as probes:
        for port in ports:
            probe = probes.enter_context(socket.socket(family))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen()
            except (OSError, OverflowError) as error:
                remedy = "choose another --host, --port, --grpc-port or --metrics-port"
                raise CannotCheck(f"{host}:{port}: {error}", remedy=remedy) from error
