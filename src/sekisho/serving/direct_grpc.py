"""Inference over gRPC without MLServer's conversions between three models of one request."""

from __future__ import annotations

import time

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mlserver.grpc.model_repository import ModelRepositoryServicer
from mlserver.grpc.model_repository_pb2_grpc import add_ModelRepositoryServiceServicer_to_server
from mlserver.grpc.server import GRPCServer
from mlserver.grpc.servicers import InferenceServicer
from mlserver.handlers import DataPlane, ModelRepositoryHandlers
from mlserver.settings import Settings

from sekisho.params import ServingParams
from sekisho.serving.direct_http import KEEP_ALIVE, StockMetrics
from sekisho.serving.protocol import BadRequest, decode_grpc, encode_grpc
from sekisho.serving.runtime import PolicyRuntime

SERVICE = "inference.GRPCInferenceService"
GRACE = 5.0  # seconds for calls in flight


class DirectCalls:
    """``ModelInfer`` from bytes to bytes."""

    runtime: PolicyRuntime  # set once the release is loaded, before anything listens

    def __init__(self, stock: StockMetrics) -> None:
        self._stock = stock

    async def infer(self, content: bytes, context: grpc.aio.ServicerContext) -> bytes:
        """Decide one request; a malformed one is INVALID_ARGUMENT, another model NOT_FOUND."""
        started, runtime = time.perf_counter(), self.runtime
        asked: str | None = None
        try:
            request = pb.ModelInferRequest.FromString(content)
            asked = request.model_version or None
            if request.model_name != runtime.name or asked not in (None, runtime.version):
                await context.abort(
                    grpc.StatusCode.NOT_FOUND, f"model {request.model_name} {asked or ''} is not served here"
                )
            answer = runtime.answer(decode_grpc(request))
        except (BadRequest, DecodeError) as error:
            runtime.counts.malformed += 1
            self._stock.count(runtime.name, asked, None)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        response = encode_grpc(answer, raw=bool(request.raw_input_contents))
        self._stock.count(runtime.name, asked, started)
        return response


class DirectGRPCServer(GRPCServer):  # type: ignore[misc]
    """MLServer's gRPC server with the direct path and without interceptors."""

    def __init__(
        self,
        settings: Settings,
        data_plane: DataPlane,
        handlers: ModelRepositoryHandlers,
        stock: StockMetrics,
        params: ServingParams,
    ) -> None:
        super().__init__(settings, data_plane, handlers)
        self.direct = DirectCalls(stock)
        self._servicer = InferenceServicer(data_plane, handlers)
        self._repository = ModelRepositoryServicer(handlers)
        self._options = [
            ("grpc.max_receive_message_length", params.max_request_bytes),
            ("grpc.max_allowed_incoming_connections", params.max_connections),
            ("grpc.server_handshake_timeout_ms", int(params.request_seconds * 1000)),
            ("grpc.max_connection_idle_ms", int(KEEP_ALIVE * 1000)),
        ]

    def _create_server(self) -> aio.Server:
        self._server = aio.server(options=self._options)
        add_GRPCInferenceServiceServicer_to_server(self._servicer, self._server)
        direct = {"ModelInfer": grpc.unary_unary_rpc_method_handler(self.direct.infer)}
        self._server.add_registered_method_handlers(SERVICE, direct)  # goes before the servicer's own
        add_ModelRepositoryServiceServicer_to_server(self._repository, self._server)
        self._server.add_insecure_port(f"{self._settings.host}:{self._settings.grpc_port}")
        return self._server

    async def stop(self, sig: int | None = None) -> None:
        """No new calls; those in flight have time to finish."""
        await self._server.stop(grace=GRACE)
