"""A policy from a verified release: observation in, decision out. Knows no framework and no network."""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from sekisho.calendar import Calendar, utc64
from sekisho.errors import CannotCheck, Refused
from sekisho.params import ServingParams
from sekisho.serving.deadline import Watchdog
from sekisho.serving.guard import Float32, Guard, Limits, Reason
from sekisho.serving.state import CarriedState

logger = logging.getLogger(__name__)

# Largest gap between a recomputed golden vector and the signed one: other processors add in another order.
GOLDEN_TOLERANCE = 1e-5
# Weights that the guard moved by no more than float32 rounding are still the agent's own.
MOVED = 1e-6
WARM_UP = 50  # first runs allocate; they must not meet a deadline


class VerifiedRelease(Protocol):
    """What ``release.verify.verify_release`` returns, as far as serving needs it.

    ``read`` gives one content file and checks its digest again.
    """

    @property
    def model(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def digest(self) -> str: ...
    @property
    def manifest(self) -> Any: ...  # its ``rollback`` names the seq whose content came back, or is None
    def read(self, path: str) -> bytes: ...


class Decision(NamedTuple):
    """Answer to one request of ``N`` rows."""

    target_weights: Float32  # (N, A), fractions of equity
    verdicts: tuple[Reason, ...]  # one per row
    state: Float32 | None = None  # (N, A, H) that a recurrent policy decided from
    next_state: Float32 | None = None  # (N, A, H), for the caller to send with the next bar
    sequence: int = 0  # of the next state

    @property
    def verdict(self) -> str:
        """``ok``, another reason, or the rows' reasons joined by commas where they differ."""
        first = self.verdicts[0]
        return first if self.verdicts.count(first) == len(self.verdicts) else ",".join(self.verdicts)


class Policy:
    """One release, loaded, checked against its golden vectors, warmed up and guarded."""

    def __init__(self, release: VerifiedRelease, params: ServingParams) -> None:
        """Load ``release``; it must be verified already.

        Raises:
            Refused: the model contradicts its own description or its golden vectors.
            CannotCheck: a file of the release is missing or unreadable.
        """
        self.model, self.seq, self.digest, self.params = release.model, release.seq, release.digest, params
        self.pointer = f"{self.model}/{self.seq}@sha256:{self.digest}"
        about = _read_json(release, "observation.json")
        try:
            self.symbols = tuple(map(str, about["symbols"]))
            self.features = tuple(map(str, about["features"]))
            self.calendar = Calendar(about["calendar"], about["bar"])
            limits = Limits(**{key: float(value) for key, value in about["limits"].items()})
            low, high = (np.array(about["ranges"][side], dtype=np.float32) for side in ("low", "high"))
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                raise ValueError("ranges must be finite")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CannotCheck(f"observation.json: {error!r}", remedy="export the release again") from error
        assets, features = len(self.symbols), len(self.features)
        _require("range-shape", (assets, features), low.shape)
        _require("range-shape", (assets, features), high.shape)
        self.guard = Guard(limits, low, high, self.calendar, params)
        self._session = _open_model(release.read("model.onnx"))
        self.width = features + 1
        self.units = self._read_interface(assets)
        self._watchdog = Watchdog(params.deadline)
        self._failures, self._rests_until = 0, 0.0
        golden = self._check_golden(_read_json(release, "golden.json"))
        self.session_of = lru_cache(maxsize=4096)(self._session_of)
        for _ in range(WARM_UP):
            self.run(golden[:1], self.first_state(1))
        self.calendar.is_open(dt.datetime(2025, 1, 6, tzinfo=dt.UTC))  # loads the exchange's days

    @property
    def rests(self) -> bool:
        """Whether the breaker is open: the model failed too often just now."""
        return self._failures >= self.params.breaker_failures and time.monotonic() < self._rests_until

    def first_state(self, rows: int) -> Float32 | None:
        """The state ``(N, A, H)`` where an episode begins; ``None`` for a policy without one."""
        return np.zeros((rows, len(self.symbols), self.units), np.float32) if self.units else None

    def run(self, observation: Float32, state: Float32 | None = None) -> tuple[Float32, Float32 | None]:
        """The model alone, unguarded: ``(N, A, F+1)`` and ``(N, A, H)`` to ``(N, A)`` and the next state."""
        if state is None:
            return self._watchdog.run(self._session, ["target_weights"], {"observation": observation})[
                0
            ], None
        feed = {"observation": observation, "state": state}
        weights, following = self._watchdog.run(self._session, ["target_weights", "next_state"], feed)
        return weights, following

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether an observation has the shape ``(N, A, F+1)`` of this release, with ``N`` at least 1."""
        return len(shape) == 3 and shape[0] > 0 and shape[1:] == (len(self.symbols), self.width)

    def decide(
        self,
        observation: Float32,
        ts_close: dt.datetime,
        now: dt.datetime,
        *,
        require_open: bool = False,
        carried: CarriedState | None = None,
    ) -> Decision:
        """Decide every row, safely where the agent must not.

        Args:
            observation: float32 ``(N, A, F+1)``: features, then the asset's current weight.
            ts_close: end of the newest bar in it, aware.
            now: the moment of the decision, aware.
            require_open: refuse to decide outside the exchange's trading minutes.
            carried: what the answer before gave a caller of a recurrent policy; ``None`` begins anew.

        Weights out are always finite and inside the position limits, whatever came in. A row that the agent
        did not decide leaves its state as it was.
        """
        state, sequence = self.first_state(len(observation)), 0
        if carried is not None and state is not None:
            if not carried.is_sealed() or not np.isfinite(carried.values).all():
                return self.refuse(observation, Reason.BAD_STATE, state, 0)
            if carried.release == self.pointer:  # else another release's: it means nothing to this one
                state, sequence = carried.values, carried.sequence
        reason = self.guard.check_time(ts_close, now, require_open)
        if reason is not Reason.OK:
            return self.refuse(observation, reason, state, sequence)
        if self._failures and self.rests:
            return self.refuse(observation, Reason.BREAKER_OPEN, state, sequence)
        all_inside = self.guard.all_inside(observation)
        if not all_inside and not self.guard.inside(observation).any():
            verdicts = tuple(self.guard.why_outside(row) for row in observation)
            return Decision(self.guard.safe(observation[:, :, -1]), verdicts, state, state, sequence)
        started = time.perf_counter()
        try:
            weights, following = self.run(observation, state)
        except Exception:  # the runtime raises its own types; any failure of the model means the safe action
            late = time.perf_counter() - started > self._watchdog.ends_after
            logger.exception("the model failed on an accepted observation")
            return self._failed(
                observation, Reason.DEADLINE if late else Reason.MODEL_FAILED, state, sequence
            )
        if time.perf_counter() - started > self.params.deadline:
            return self._failed(observation, Reason.DEADLINE, state, sequence)
        self._failures = 0
        if all_inside and self.guard.limits.all_hold(weights, observation[:, :, -1]):
            verdicts = (Reason.OK,) * len(weights)
            return Decision(weights, verdicts, state, following, sequence + 1 if self.units else 0)
        inside = self.guard.inside(observation)
        weights, mended = self._mend(observation, inside, weights)
        if state is not None and following is not None:
            decided = inside & np.isfinite(following).all(axis=(1, 2))
            following = np.where(decided[:, None, None], following, state)
        return Decision(weights, mended, state, following, sequence + 1 if self.units else 0)

    def refuse(
        self, observation: Float32, reason: Reason, state: Float32 | None = None, sequence: int = 0
    ) -> Decision:
        """The safe action for every row; the state, where there is one, stays."""
        safe = self.guard.safe(observation[:, :, -1])
        return Decision(safe, (reason,) * len(observation), state, state, sequence)

    def _failed(self, observation: Float32, reason: Reason, state: Float32 | None, sequence: int) -> Decision:
        self._failures += 1
        self._rests_until = time.monotonic() + self.params.breaker_pause
        return self.refuse(observation, reason, state, sequence)

    def _mend(
        self, observation: Float32, inside: npt.NDArray[np.bool_], weights: Float32
    ) -> tuple[Float32, tuple[Reason, ...]]:
        """Row by row: safe action, clipped weights, or the agent's own."""
        current = observation[:, :, -1]
        result, safe = weights.copy(), self.guard.safe(current)
        fits = self.guard.limits.holds(weights, np.nan_to_num(current))
        verdicts = [Reason.OK] * len(weights)
        for row in np.flatnonzero(~(inside & fits)):
            if not inside[row]:
                result[row], verdicts[row] = safe[row], self.guard.why_outside(observation[row])
            elif not np.isfinite(weights[row]).all():
                result[row], verdicts[row] = safe[row], Reason.NON_FINITE_OUTPUT
            else:
                clipped = self.guard.limits.clip(weights[row : row + 1], current[row : row + 1])[0]
                result[row] = clipped
                if not np.allclose(clipped, weights[row], rtol=0.0, atol=MOVED):
                    verdicts[row] = Reason.CLIPPED
        return result, tuple(verdicts)

    def _session_of(self, ts_close: dt.datetime) -> dt.date:
        """The exchange's day that a bar end belongs to: the first session that has not ended before it."""
        moment = utc64(ts_close)
        day = ts_close.astimezone(dt.UTC).date()
        around = self.calendar.sessions(day - dt.timedelta(days=1), day + dt.timedelta(days=14))
        return next((s for s in around if self.calendar.closes(s)[-1] >= moment), day)

    def _read_interface(self, assets: int) -> int:
        """Check the names and shapes of the model's tensors; returns the units of its state, or 0."""
        inputs = [(i.name, i.type, list(i.shape[1:])) for i in self._session.get_inputs()]
        wanted = [("observation", "tensor(float)", [assets, self.width])]
        outputs = ["target_weights"]
        units = inputs[1][2][-1] if len(inputs) == 2 and isinstance(inputs[1][2][-1], int) else 0
        if units:
            wanted.append(("state", "tensor(float)", [assets, units]))
            outputs.append("next_state")
        _require("model-input", wanted, inputs)
        _require("model-output", outputs, [o.name for o in self._session.get_outputs()])
        return units

    def _check_golden(self, golden: dict[str, Any]) -> Float32:
        """Recompute the signed examples and compare; returns their observations."""
        observation, expected = _array(golden, "observation"), _array(golden, "target_weights")
        if not self.accepts(observation.shape):
            raise Refused(
                "golden-shape",
                expected=f"(N, {len(self.symbols)}, {self.width})",
                found=observation.shape,
                remedy="export the release again",
            )
        state = self.first_state(len(observation))
        if state is not None and "state" in golden:
            state = _array(golden, "state")
            _require("golden-shape", (len(observation), len(self.symbols), self.units), state.shape)
        found, following = self.run(observation, state)
        _require("golden-shape", expected.shape, found.shape)
        gap = float(np.abs(found - expected).max())
        if following is not None and "next_state" in golden:
            wanted = _array(golden, "next_state")
            _require("golden-shape", wanted.shape, following.shape)
            gap = max(gap, float(np.abs(following - wanted).max()))
        if not gap <= GOLDEN_TOLERANCE:
            raise Refused(
                "golden-vectors",
                expected=f"the signed weights to within {GOLDEN_TOLERANCE}",
                found=f"a difference of {gap}",
                remedy="do not serve this release here: this machine computes something else",
            )
        return observation


def _open_model(content: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one row takes microseconds
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a family of types of its own
        raise CannotCheck(f"model.onnx: {error}", remedy="export the release again") from error


def _array(golden: dict[str, Any], name: str) -> Float32:
    try:
        return np.array(golden[name], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise CannotCheck(f"golden.json: {error!r}", remedy="export the release again") from error


def _require(rule: str, expected: object, found: object) -> None:
    if expected != found:
        raise Refused(rule, expected=expected, found=found, remedy="export the release again")


def _read_json(release: VerifiedRelease, name: str) -> dict[str, Any]:
    try:
        value = json.loads(release.read(name))
    except ValueError as error:
        raise CannotCheck(f"{name}: {error}", remedy="export the release again") from error
    if not isinstance(value, dict):
        raise CannotCheck(f"{name}: not a JSON object", remedy="export the release again")
    return value
