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

from sekisho.calendar import Calendar
from sekisho.errors import CannotCheck, Refused
from sekisho.params import ServingParams
from sekisho.serving.guard import Float32, Guard, Limits, Reason

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
    def read(self, path: str) -> bytes: ...


class Decision(NamedTuple):
    """Answer to one request of ``N`` rows."""

    target_weights: Float32  # (N, A), fractions of equity
    verdicts: tuple[Reason, ...]  # one per row

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
        inputs = [(i.name, i.type, list(i.shape[1:])) for i in self._session.get_inputs()]
        _require("model-input", [("observation", "tensor(float)", [assets, self.width])], inputs)
        _require("model-output", ["target_weights"], [o.name for o in self._session.get_outputs()])
        golden = self._check_golden(_read_json(release, "golden.json"))
        self.session_of = lru_cache(maxsize=4096)(self._session_of)
        for _ in range(WARM_UP):
            self.run(golden[:1])
        self.calendar.is_open(dt.datetime(2025, 1, 6, tzinfo=dt.UTC))  # loads the exchange's days

    def run(self, observation: Float32) -> Float32:
        """The model alone, unguarded: ``(N, A, F+1)`` to ``(N, A)``."""
        weights: Float32 = self._session.run(None, {"observation": observation})[0]
        return weights

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
    ) -> Decision:
        """Decide every row, safely where the agent must not.

        Args:
            observation: float32 ``(N, A, F+1)``: features, then the asset's current weight.
            ts_close: end of the newest bar in it, aware.
            now: the moment of the decision, aware.
            require_open: refuse to decide outside the exchange's trading minutes.

        Weights out are always finite and inside the position limits, whatever came in.
        """
        started = time.perf_counter()
        current = observation[:, :, -1]
        reason = self.guard.check_time(ts_close, now, require_open)
        if reason is not Reason.OK:
            return self._safe(current, reason)
        inside = self.guard.inside(observation)
        all_inside = bool(np.logical_and.reduce(inside))
        if not all_inside and not inside.any():
            verdicts = tuple(self.guard.why_outside(row) for row in observation)
            return Decision(self.guard.safe(current), verdicts)
        try:
            weights = self.run(observation)
        except Exception:  # the runtime raises its own types; any failure of the model means the safe action
            logger.exception("the model failed on an accepted observation")
            return self._safe(current, Reason.MODEL_FAILED)
        if time.perf_counter() - started > self.params.deadline:
            return self._safe(current, Reason.DEADLINE)
        if all_inside and np.logical_and.reduce(self.guard.limits.holds(weights, current)):
            return Decision(weights, (Reason.OK,) * len(weights))
        return self._mend(observation, inside, weights)

    def _mend(self, observation: Float32, inside: npt.NDArray[np.bool_], weights: Float32) -> Decision:
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
        return Decision(result, tuple(verdicts))

    def _safe(self, current: Float32, reason: Reason) -> Decision:
        return Decision(self.guard.safe(current), (reason,) * len(current))

    def _session_of(self, ts_close: dt.datetime) -> dt.date:
        """The exchange's day that a bar end belongs to: the first session that has not ended before it."""
        moment = np.datetime64(ts_close.astimezone(dt.UTC).replace(tzinfo=None), "us")
        day = ts_close.astimezone(dt.UTC).date()
        around = self.calendar.sessions(day - dt.timedelta(days=1), day + dt.timedelta(days=14))
        return next((s for s in around if self.calendar.closes(s)[-1] >= moment), day)

    def _check_golden(self, golden: dict[str, Any]) -> Float32:
        """Recompute the signed examples and compare; returns their observations."""
        try:
            observation = np.array(golden["observation"], dtype=np.float32)
            expected = np.array(golden["target_weights"], dtype=np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise CannotCheck(f"golden.json: {error!r}", remedy="export the release again") from error
        if not self.accepts(observation.shape):
            raise Refused(
                "golden-shape",
                expected=f"(N, {len(self.symbols)}, {self.width})",
                found=observation.shape,
                remedy="export the release again",
            )
        found = self.run(observation)
        _require("golden-shape", expected.shape, found.shape)
        gap = float(np.abs(found - expected).max())
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
