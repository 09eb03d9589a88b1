"""The MLServer runtime: verifies releases, loads and swaps policies, answers and logs."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from mlserver import MLModel, ModelSettings, types
from mlserver.codecs import NumpyCodec
from mlserver.errors import MLServerError
from prometheus_client.core import Metric

from sekisho.errors import Refused, SekishoError
from sekisho.params import ServingParams
from sekisho.pointer import Pointer
from sekisho.serving import metrics
from sekisho.serving.core import Policy, VerifiedRelease
from sekisho.serving.guard import Reason
from sekisho.serving.marks import HighWaterMark
from sekisho.serving.predictions import Entry, PredictionLog
from sekisho.serving.protocol import Answer, BadRequest, Call, call
from sekisho.serving.switch import Position, read_switch

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
    switch: Path | None = None  # file of the kill switch; None: there is none
    follow: Callable[[], Pointer | None] | None = None  # reads the environment's pointer; None: never swap


class PolicyRuntime(MLModel):  # type: ignore[misc]
    """Verified releases behind MLServer's interface: one that decides, and the one before it."""

    policy: Policy
    previous: Policy | None
    log: PredictionLog

    def __init__(self, settings: ModelSettings, setup: ServingSetup) -> None:
        super().__init__(settings)
        self.setup, self.previous, self.counts = setup, None, metrics.Counts()
        self.switch = Position.ON if setup.switch is None else read_switch(setup.switch)
        self._prefix, self._count = secrets.token_hex(6), itertools.count()
        self._clock: Callable[[Call], dt.datetime] = _logical_clock if setup.replay_clock else _wall_clock
        self._mark = HighWaterMark(setup.predictions / "high-water.json")
        self._refused_pointer: str | None = None

    async def load(self) -> bool:
        """Verify, load, compare with the golden vectors, open the log.

        Raises:
            Refused: the release does not verify, is older than one served before, or contradicts itself.
            CannotCheck: something needed for the checks is missing.
        """
        params = self.setup.params
        self.policy, before = await asyncio.to_thread(self._bring, self.setup.release, self.setup.expect)
        self.previous = await asyncio.to_thread(self._find_previous, before)
        self.log = PredictionLog(
            self.setup.predictions,
            capacity=params.log_capacity,
            batch=params.log_batch,
            interval=params.log_interval,
        )
        self._mark.raise_to(self.name, self.policy.seq)
        self._describe()
        self._collector = metrics.ServerCollector(self._collect)
        self._watch = asyncio.create_task(self._watch_files())
        return True

    async def unload(self) -> bool:
        """Flush and close the prediction log."""
        if hasattr(self, "log"):
            self._watch.cancel()
            await asyncio.to_thread(self.log.close)
            self._collector.close()
            del self.log
        return True

    def answer(self, request: Call) -> Answer:
        """Decide, count and log one request.

        Raises:
            BadRequest: the observation's shape is not this policy's.
        """
        started = time.perf_counter()
        policy, observation = self._deciding(), request.observation
        if not policy.accepts(observation.shape):
            raise BadRequest(
                f"observation: shape (N, {len(policy.symbols)}, {policy.width}) expected, "
                f"{observation.shape} found"
            )
        carried = request.carried
        if carried is not None and carried.values.shape != (*observation.shape[:2], policy.units):
            wanted = f"shape (N, {len(policy.symbols)}, {policy.units})" if policy.units else "none"
            raise BadRequest(f"state: {wanted} expected, {carried.values.shape} found")
        now = self._clock(request)
        if self.switch is Position.OFF or (self.switch is Position.PREVIOUS and self.previous is None):
            decision = policy.refuse(
                observation, Reason.SWITCHED_OFF, policy.first_state(len(observation)), 0
            )
        else:
            decision = policy.decide(
                observation, request.ts_close, now, require_open=request.require_open, carried=carried
            )
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
        self.counts.decided(elapsed, decision.verdicts)
        return Answer(
            request_id,
            decision.target_weights,
            decision.verdict,
            policy.model,
            policy.seq,
            policy.pointer,
            decision.next_state,
            decision.sequence,
        )

    async def metadata(self) -> types.MetadataModelResponse:
        """MLServer's, and which release decides."""
        about = await super().metadata()
        about.parameters = types.Parameters(release=self._deciding().pointer)
        return about

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """MLServer's own path, taken by its other endpoints only."""
        try:
            tensors = {
                tensor.name: np.array(NumpyCodec.decode_input(tensor), dtype=np.float32)
                for tensor in payload.inputs
            }
            parameters = payload.parameters.model_dump() if payload.parameters else {}
            answer = self.answer(call(tensors, payload.id, parameters))
        except (BadRequest, ValueError, TypeError) as error:
            self.counts.malformed += 1
            raise MLServerError(str(error), 400) from error
        return types.InferenceResponse(
            model_name=answer.model,
            model_version=str(answer.seq),
            id=answer.request_id,
            parameters=types.Parameters(**answer.parameters()),
            outputs=[NumpyCodec.encode_output(name, values) for name, values in answer.tensors()],
        )

    async def predict_stream(
        self, payloads: AsyncIterator[types.InferenceRequest]
    ) -> AsyncIterator[types.InferenceResponse]:
        """MLServer's streaming endpoints: one answer for each request."""
        async for payload in payloads:
            yield await self.predict(payload)

    async def swap(self, release: Path, expect: str | None = None) -> None:
        """Put ``release`` in the place of the one that decides, between two answers; that one stays resident.

        Raises:
            Refused, CannotCheck: as :meth:`load`; the release before goes on deciding.
        """
        policy, before = await asyncio.to_thread(self._bring, release, expect)
        self._mark.raise_to(self.name, policy.seq)
        # a rollback was made because the release before it must not decide
        self.previous = self.policy if before > self.policy.seq else None
        self.policy = policy
        self.counts.swapped += 1
        self._describe()

    def _deciding(self) -> Policy:
        return self.previous if self.switch is Position.PREVIOUS and self.previous else self.policy

    def _bring(self, release: Path, expect: str | None) -> tuple[Policy, int]:
        """A verified, warm policy, and the seq under which releases may stand in for it."""
        setup = self.setup
        verified = setup.verify(
            release,
            trust=setup.trust,
            environment=setup.environment,
            minimum_seq=self._mark.read(self.name),
            deployed=True,
        )
        found = f"{verified.model}/{verified.seq}@sha256:{verified.digest}"
        if expect not in (None, found):
            raise Refused(
                "release-pointer",
                expected=expect,
                found=found,
                remedy="bring the release that the environment points at",
            )
        if (verified.model, str(verified.seq)) != (self.name, release.name):
            raise Refused(
                "release-folder",
                expected=f"{self.name}/{release.name}",
                found=f"{verified.model}/{verified.seq}",
                remedy="keep releases in releases/<model>/<seq>",
            )
        origin = verified.manifest.rollback
        return Policy(verified, setup.params), origin.seq if origin else verified.seq

    def _find_previous(self, before: int) -> Policy | None:
        """The newest release under ``before`` that may still be served here, to stand by."""
        setup, folder = self.setup, self.setup.release.parent
        seqs = sorted((int(p.name) for p in folder.iterdir() if p.name.isdecimal()), reverse=True)
        for seq in (seq for seq in seqs if seq < before):
            try:
                verified = setup.verify(
                    folder / str(seq), trust=setup.trust, environment=setup.environment, deployed=True
                )
                return Policy(verified, setup.params)
            except SekishoError as error:
                logger.info("%s/%d does not stand by: %s", self.name, seq, error)
        return None

    async def _watch_files(self) -> None:
        """Look at the kill switch and at the followed pointer, for ever."""
        while True:
            await asyncio.sleep(self.setup.params.switch_interval)
            if self.setup.switch is not None:
                position = await asyncio.to_thread(read_switch, self.setup.switch)
                if position is not self.switch:
                    logger.warning("kill switch: %s (it was %s)", position, self.switch)
                    self.switch = position
            if self.setup.follow is not None:
                await self._follow(self.setup.follow)

    async def _follow(self, read: Callable[[], Pointer | None]) -> None:
        try:
            pointer = await asyncio.to_thread(read)
        except Exception as error:  # noqa: BLE001 (half a file, a lost mount: the watch must live on)
            return self._refuse(str(error), error)
        wanted = str(pointer)
        if pointer is None or wanted in (self.policy.pointer, self._refused_pointer):
            return None
        try:
            if pointer.model != self.name:
                raise Refused(
                    "release-pointer", expected=self.name, found=wanted, remedy="start another server"
                )
            await self.swap(self.setup.release.parent / str(pointer.seq), wanted)
        except Exception as error:  # noqa: BLE001 (whatever is wrong with it, the one before goes on)
            return self._refuse(wanted, error)
        self._refused_pointer = None

    def _refuse(self, what: str, error: Exception) -> None:
        """Once for each pointer that may not be followed."""
        if what != self._refused_pointer:
            self._refused_pointer = what
            self.counts.swaps_refused += 1
            logger.error("not followed, %s goes on: %s", self.policy.pointer, error)

    def _describe(self) -> None:
        """What MLServer's metadata and the log say about the release that decides."""
        policy = self.policy
        self.settings.parameters.version = str(policy.seq)
        self.inputs = [_tensor("observation", len(policy.symbols), policy.width)]
        self.outputs = [_tensor("target_weights", len(policy.symbols))]
        if policy.units:
            self.inputs.append(_tensor("state", len(policy.symbols), policy.units))
            self.outputs.append(_tensor("next_state", len(policy.symbols), policy.units))
        logger.info(
            "serving %s; standing by: %s", policy.pointer, self.previous.pointer if self.previous else "none"
        )

    def _collect(self) -> list[Metric]:
        resident = [("current", self.policy), ("previous", self.previous)]
        releases = [(role, p.model, p.seq, p.digest) for role, p in resident if p]
        return [
            *self.counts.collect(),
            *metrics.collect_log(self.log),
            *metrics.collect_state(releases, self.switch, self._deciding().rests),
        ]


def _tensor(name: str, *shape: int) -> types.MetadataTensor:
    return types.MetadataTensor(name=name, datatype="FP32", shape=[-1, *shape])


def _wall_clock(_: Call) -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _logical_clock(request: Call) -> dt.datetime:
    return request.now or dt.datetime.now(dt.UTC)
