"""The MLServer runtime: verifies the release, loads the policy, answers and logs."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from mlserver import MLModel, ModelSettings, types
from mlserver.codecs import NumpyCodec
from mlserver.errors import MLServerError

from sekisho.errors import CannotCheck, Refused
from sekisho.params import ServingParams
from sekisho.serving import metrics
from sekisho.serving.core import Policy, VerifiedRelease
from sekisho.serving.predictions import Entry, PredictionLog
from sekisho.serving.protocol import Answer, BadRequest, Call, call

logger = logging.getLogger(__name__)


class Verify(Protocol):
    """``release.verify.verify_release``."""

    def __call__(
        self,
        release: Path,
        *,
        trust: Path,
        environment: str,
        minimum_seq: int = 0,
        deployed: bool = False,
    ) -> VerifiedRelease: ...


@dataclass(frozen=True)
class ServingSetup:
    """What one server serves, and where its state lies."""

    release: Path  # releases/<model>/<seq>
    trust: Path  # folder with policy.yaml
    environment: str
    predictions: Path  # the prediction log, and the high-water mark of seq
    params: ServingParams
    verify: Verify
    expect: str | None = None  # the pointer <model>/<seq>@sha256:<digest> that the release must be
    replay_clock: bool = False  # honour the caller's logical clock: for replays only


class PolicyRuntime(MLModel):  # type: ignore[misc]
    """One verified release behind MLServer's interface."""

    policy: Policy
    log: PredictionLog

    def __init__(self, settings: ModelSettings, setup: ServingSetup) -> None:
        super().__init__(settings)
        self.setup = setup
        self._prefix, self._count = secrets.token_hex(6), itertools.count()
        self._clock: Callable[[Call], dt.datetime] = _logical_clock if setup.replay_clock else _wall_clock

    async def load(self) -> bool:
        """Verify, load, compare with the golden vectors, open the log.

        Raises:
            Refused: the release does not verify, is older than one served before, or contradicts itself.
            CannotCheck: something needed for the checks is missing.
        """
        setup = self.setup
        mark = HighWaterMark(setup.predictions / "high-water.json")
        verified = await asyncio.to_thread(
            setup.verify,
            setup.release,
            trust=setup.trust,
            environment=setup.environment,
            minimum_seq=mark.read(self.name),
            deployed=True,
        )
        found = f"{verified.model}/{verified.seq}@sha256:{verified.digest}"
        if setup.expect not in (None, found):
            raise Refused(
                "release-pointer",
                expected=setup.expect,
                found=found,
                remedy="bring the release that the environment points at",
            )
        if (verified.model, str(verified.seq)) != (self.name, self.version):
            raise Refused(
                "release-folder",
                expected=f"{self.name}/{self.version}",
                found=f"{verified.model}/{verified.seq}",
                remedy="keep releases in releases/<model>/<seq>",
            )
        self.policy = Policy(verified, setup.params)
        self.inputs = [_tensor("observation", len(self.policy.symbols), self.policy.width)]
        self.outputs = [_tensor("target_weights", len(self.policy.symbols))]
        self.log = PredictionLog(
            setup.predictions,
            capacity=setup.params.log_capacity,
            batch=setup.params.log_batch,
            interval=setup.params.log_interval,
        )
        mark.raise_to(self.name, verified.seq)
        self._collector = metrics.LogCollector(self.log)
        metrics.RELEASE.labels(verified.model, str(verified.seq), verified.digest).set(1)
        logger.info("serving %s", found)
        return True

    async def unload(self) -> bool:
        """Flush and close the prediction log."""
        if hasattr(self, "log"):
            await asyncio.to_thread(self.log.close)
            self._collector.close()
            metrics.RELEASE.clear()
            del self.log
        return True

    def answer(self, request: Call) -> Answer:
        """Decide, count and log one request.

        Raises:
            BadRequest: the observation's shape is not this policy's.
        """
        started = time.perf_counter()
        policy, observation = self.policy, request.observation
        if not policy.accepts(observation.shape):
            raise BadRequest(
                f"observation: shape (N, {len(policy.symbols)}, {policy.width}) expected, "
                f"{observation.shape} found"
            )
        now = self._clock(request)
        decision = policy.decide(observation, request.ts_close, now, require_open=request.require_open)
        elapsed = time.perf_counter() - started
        request_id = request.request_id or f"{self._prefix}-{next(self._count)}"
        self.log.append(
            Entry(
                request_id,
                now,
                policy.session_of(request.ts_close),
                request.ts_close,
                policy.model,
                policy.seq,
                policy.digest,
                observation,
                decision,
                round(elapsed * 1e6),
            )
        )
        metrics.SECONDS.observe(elapsed)
        for verdict in decision.verdicts:
            metrics.VERDICTS[verdict].inc()
        return Answer(
            request_id, decision.target_weights, decision.verdict, policy.model, policy.seq, policy.digest
        )

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """MLServer's own path, taken by gRPC."""
        try:
            tensor = next((t for t in payload.inputs if t.name == "observation"), None)
            if tensor is None or tensor.datatype != "FP32":
                raise BadRequest("no FP32 input called 'observation'")
            observation = np.array(NumpyCodec.decode_input(tensor), dtype=np.float32)
            parameters = payload.parameters.model_dump() if payload.parameters else {}
            answer = self.answer(call(observation, payload.id, parameters))
        except (BadRequest, ValueError, TypeError) as error:
            metrics.MALFORMED.inc()
            raise MLServerError(str(error), 400) from error
        return types.InferenceResponse(
            model_name=answer.model,
            model_version=str(answer.seq),
            id=answer.request_id,
            parameters=types.Parameters(**answer.parameters()),
            outputs=[NumpyCodec.encode_output("target_weights", answer.target_weights)],
        )


class HighWaterMark:
    """The highest seq this server ever served, per model: nothing older is loaded again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, model: str) -> int:
        """The mark, 0 if none.

        Raises:
            CannotCheck: the file is damaged.
        """
        try:
            return int(self._read().get(model, 0))
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise CannotCheck(
                f"{self._path}: {error}",
                remedy="find the highest seq in the prediction log and write it there by hand",
            ) from error

    def raise_to(self, model: str, seq: int) -> None:
        """Record ``seq`` durably, unless it is recorded."""
        marks = self._read()
        if seq <= int(marks.get(model, 0)):
            return
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({**marks, model: seq}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def _read(self) -> dict[str, int]:
        marks: dict[str, int] = (
            json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        )
        return marks


def _tensor(name: str, *shape: int) -> types.MetadataTensor:
    return types.MetadataTensor(name=name, datatype="FP32", shape=[-1, *shape])


def _wall_clock(_: Call) -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _logical_clock(request: Call) -> dt.datetime:
    return request.now or dt.datetime.now(dt.UTC)
