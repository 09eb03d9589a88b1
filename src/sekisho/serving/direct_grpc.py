"""Inference over gRPC without MLServer's conversions between three models of one request.

grpc.aio asks its core for one call at a time and makes three tasks of each. ``ModelInfer`` is therefore taken
many calls at a time and answered in one task, through the names below grpc.aio's interface; they are no
contract, so a new grpcio is one that passes the tests. All other methods are grpc.aio's and MLServer's own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc._cython import cygrpc
from grpc.aio._server import Server
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

logger = logging.getLogger(__name__)

INFER = b"/inference.GRPCInferenceService/ModelInfer"
CALLS = 32  # inference calls asked for at once
# Calls that wait to be taken, from which on the core cancels some, and all. By default 1,000 and 3,000, which
# 500 calls a second reach when a busy machine stops this process for two seconds.
WAITING, WAITING_ALL = 10_000, 20_000
GRACE = 5.0  # seconds for calls in flight


Result = tuple[grpc.StatusCode, str, bytes | None]  # status, its details, the message
NO_MESSAGE: Result = (grpc.StatusCode.INVALID_ARGUMENT, "no message", None)


class DirectCalls:
    """``ModelInfer`` from bytes to bytes."""

    runtime: PolicyRuntime  # set once the release is loaded, before anything listens

    def __init__(self, stock: StockMetrics) -> None:
        self._stock = stock

    def infer(self, content: bytes) -> Result:
        """Decide one request; a malformed one is INVALID_ARGUMENT, another model NOT_FOUND. Never raises."""
        started, runtime = time.perf_counter(), self.runtime
        asked: str | None = None
        try:
            request = pb.ModelInferRequest.FromString(content)
            asked = request.model_version or None
            if request.model_name != runtime.name or asked not in (None, runtime.version):
                missing = f"model {request.model_name} {asked or ''} is not served here"
                return grpc.StatusCode.NOT_FOUND, missing, None
            answer = runtime.answer(decode_grpc(request))
        except (BadRequest, DecodeError) as error:
            runtime.counts.malformed += 1
            self._stock.count(runtime.name, asked, None)
            return grpc.StatusCode.INVALID_ARGUMENT, str(error), None
        except Exception:
            logger.exception("a defect of the policy server")
            return grpc.StatusCode.INTERNAL, "internal error", None
        response = encode_grpc(answer, raw=bool(request.raw_input_contents))
        self._stock.count(runtime.name, asked, started)
        return grpc.StatusCode.OK, "", response


class CallTaker(cygrpc.AioServer):  # type: ignore[misc]
    """grpc.aio's server with a way of its own for ``ModelInfer``."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: list[tuple[str, int]], calls: DirectCalls
    ) -> None:
        super().__init__(loop, None, (), (), tuple(options), None)
        self._events, self._calls = loop, calls
        self._answering: set[asyncio.Task[None]] = set()  # the loop itself holds them weakly
        self._turn: list[tuple[bytes, asyncio.Future[Result]]] = []

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """What grpc.aio waits for to take the next call of a method; inference's never comes to it."""
        if method != INFER:
            future: asyncio.Future[Any] = super()._make_request_call_future(method)
            return future
        return self._events.create_task(self._take_calls())

    async def _take_calls(self) -> None:
        """Until the server stops, which the core says by an error that grpc.aio expects."""
        await asyncio.gather(*(self._take() for _ in range(CALLS)))

    async def _take(self) -> None:
        while True:
            self._begin(await self._request_registered_call(INFER))

    def _begin(self, call: Any) -> None:
        task = self._events.create_task(self._answer(call))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, call: Any) -> None:
        content = await cygrpc._receive_message(call, self._events)
        if content is None:  # none came, or it was too large or given up, which the core says by itself
            status, details, response = NO_MESSAGE
        else:
            decided: asyncio.Future[Result] = self._events.create_future()
            if not self._turn:
                self._events.call_soon(self._decide_turn)
            self._turn.append((content, decided))
            status, details, response = await decided
        message = () if response is None else (cygrpc.SendMessageOperation(response, 0),)
        operations = (
            cygrpc.SendInitialMetadataOperation(None, 0),
            *message,
            cygrpc.SendStatusFromServerOperation((), status.value[0], details, 0),
            cygrpc.ReceiveCloseOnServerOperation(0),
        )
        try:
            await cygrpc.execute_batch(call, operations, self._events)
        except cygrpc.ExecuteBatchError:
            logger.debug("a caller over gRPC did not wait for its answer")

    def _decide_turn(self) -> None:
        """Decide in a row what came in one turn of the loop: each call alone would find cold caches."""
        turn, self._turn = self._turn, []
        results = [self._calls.infer(content) for content, _ in turn]
        for (_, decided), result in zip(turn, results, strict=True):
            if not decided.done():  # the server ended beside it
                decided.set_result(result)


class DirectServer(Server):  # type: ignore[misc]
    """grpc.aio's server round a ``CallTaker``."""

    def __init__(self, options: list[tuple[str, int]], calls: DirectCalls) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = CallTaker(self._loop, options, calls)


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
            ("grpc.server.max_pending_requests", WAITING),
            ("grpc.server.max_pending_requests_hard_limit", WAITING_ALL),
            ("grpc.server_handshake_timeout_ms", int(params.request_seconds * 1000)),
            ("grpc.max_connection_idle_ms", int(KEEP_ALIVE * 1000)),
            # A caller that is asked to connect anew while calls are still taken loses none; at the end of a
            # drain it could. Age and grace also end a call whose message never comes; nothing else does.
            ("grpc.max_connection_age_ms", int(params.connection_age * 1000)),
            ("grpc.max_connection_age_grace_ms", int(params.request_seconds * 1000)),
        ]

    def _create_server(self) -> Server:
        self._server = DirectServer(self._options, self.direct)
        add_GRPCInferenceServiceServicer_to_server(self._servicer, self._server)
        add_ModelRepositoryServiceServicer_to_server(self._repository, self._server)
        self._server.add_insecure_port(f"{self._settings.host}:{self._settings.grpc_port}")
        return self._server

    async def stop(self, sig: int | None = None) -> None:
        """No new calls; those in flight have time to finish."""
        await self._server.stop(grace=GRACE)
