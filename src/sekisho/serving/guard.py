"""The guard: what a policy may see, and what may leave it.

Nothing here raises: a row that may not be decided gets a safe action and the reason why.
"""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import astuple, dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sekisho.calendar import Calendar
from sekisho.params import ServingParams

Float32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

# A float32 sum of weights may pass a limit by rounding; such weights are sent as the graph made them.
TOLERANCE = 1e-5
FEW = 64  # weights that Python adds up faster than numpy


class Reason(StrEnum):
    """Verdict on one row: ``OK``, ``CLIPPED`` (the agent's weights, moved inside the limits), or why not."""

    OK = "ok"
    CLIPPED = "clipped"
    NON_FINITE = "non-finite"
    OUT_OF_RANGE = "out-of-range"
    STALE = "stale"
    FROM_FUTURE = "from-future"
    MARKET_CLOSED = "market-closed"
    BAD_STATE = "bad-state"  # a recurrent policy's state that is not what a server gave out
    MODEL_FAILED = "model-failed"
    NON_FINITE_OUTPUT = "non-finite-output"
    DEADLINE = "deadline"
    BREAKER_OPEN = "breaker-open"  # the model failed too often just now: it rests
    SWITCHED_OFF = "switched-off"  # the kill switch
    REJECTED = "rejected"  # only on the caller's side: the server answered with an error
    UNREACHABLE = "unreachable"  # only on the caller's side


@dataclass(frozen=True)
class Limits:
    """Limits on weights; fractions of equity, all positive."""

    max_gross: float  # sum of |weights|
    max_net: float  # |sum of weights|
    max_asset: float  # |weight| of one asset
    max_turnover: float  # sum of |weight changes| in one decision

    def __post_init__(self) -> None:
        if not all(0 < limit < math.inf for limit in astuple(self)):
            raise ValueError(f"limits must be positive and finite: {self}")

    def project(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Finite ``(N, A)`` weights moved inside the position limits; every step only shrinks positions."""
        inside = np.clip(weights, -self.max_asset, self.max_asset)
        net = inside.sum(axis=1, keepdims=True)
        heavy = np.sign(inside) == np.sign(net)  # the side that makes the net position
        heavy_sum = np.where(heavy, np.abs(inside), 0.0).sum(axis=1, keepdims=True)
        excess = np.maximum(np.abs(net) - self.max_net, 0.0)
        keep = 1.0 - np.divide(excess, heavy_sum, out=np.zeros_like(excess), where=heavy_sum > 0)
        inside = np.where(heavy, inside * keep, inside)
        gross = np.abs(inside).sum(axis=1, keepdims=True)
        bounded: npt.NDArray[np.float64] = inside * (self.max_gross / np.maximum(gross, self.max_gross))
        return bounded

    def clip(self, target: Float32, current: Float32) -> Float32:
        """Finite target weights ``(N, A)`` moved inside all limits.

        Turnover counts from ``current``. Where the current weights break a position limit by so much that the
        turnover limit would keep them outside, the position limits win.
        """
        start = current.astype(np.float64)
        wanted = self.project(target.astype(np.float64))
        turnover = np.abs(wanted - start).sum(axis=1, keepdims=True)
        step = self.max_turnover / np.maximum(turnover, self.max_turnover)
        return self.project(start + (wanted - start) * step).astype(np.float32)

    def holds(self, weights: Float32, current: Float32) -> Bools:
        """Which rows ``(N,)`` are finite and inside every limit, up to float32 rounding."""
        # ufunc.reduce, not the array methods, which cost twice as much
        size, slack, total = np.abs(weights), 1.0 + TOLERANCE, np.add.reduce
        ok: Bools = (
            np.maximum.reduce(size, axis=1) <= self.max_asset * slack
        )  # a comparison with NaN is False
        ok &= total(size, axis=1) <= self.max_gross * slack
        ok &= np.abs(total(weights, axis=1)) <= self.max_net * slack
        ok &= total(np.abs(weights - current), axis=1) <= self.max_turnover * slack
        return ok

    def all_hold(self, weights: Float32, current: Float32) -> bool:
        """Whether every row is; what nearly every answer needs to know."""
        if weights.size <= FEW:
            return all(map(self._row_holds, weights.tolist(), current.tolist()))
        return bool(self.holds(weights, current).all())

    def _row_holds(self, weights: list[float], current: list[float]) -> bool:
        """The same for one row, where numpy would spend its time on being called."""
        gross = net = turnover = 0.0
        for weight, held in zip(weights, current, strict=True):
            size = abs(weight)
            if not size <= self.max_asset * (1.0 + TOLERANCE):  # a comparison with NaN is False
                return False
            gross += size
            net += weight
            turnover += abs(weight - held)
        slack = 1.0 + TOLERANCE
        return (
            gross <= self.max_gross * slack
            and abs(net) <= self.max_net * slack
            and turnover <= self.max_turnover * slack
        )


class Guard:
    """Checks of one release: its limits, its training ranges ``low``/``high`` ``(A, F)``, its calendar."""

    def __init__(
        self, limits: Limits, low: Float32, high: Float32, calendar: Calendar, params: ServingParams
    ) -> None:
        self.limits, self.params = limits, params
        margin = (high - low) * params.range_multiple
        held = limits.max_gross * (1.0 + 2.0 * params.range_multiple)  # the last column: current weights
        edge = np.full((len(low), 1), held)
        self._low = np.concatenate([low - margin, -edge], axis=1).astype(np.float32)
        self._high = np.concatenate([high + margin, edge], axis=1).astype(np.float32)
        # The calendar is slow to ask: once per minute is enough.
        self._calendar, self._is_open = calendar, lru_cache(maxsize=1024)(self._open)

    def _open(self, minute: dt.datetime) -> bool:
        try:
            return self._calendar.is_open(minute)
        except ValueError:  # a replay's clock may show a year that the calendar does not know
            return False

    def check_time(self, ts_close: dt.datetime, now: dt.datetime, require_open: bool) -> Reason:
        """Whether an observation of the bar ended at ``ts_close`` may be acted on at ``now`` (both aware)."""
        age = (now - ts_close).total_seconds()
        if age > self.params.max_staleness:
            return Reason.STALE
        if age < -self.params.max_clock_skew:
            return Reason.FROM_FUTURE
        if require_open and not self._is_open(now.replace(second=0, microsecond=0)):
            return Reason.MARKET_CLOSED
        return Reason.OK

    def inside(self, observation: Float32) -> Bools:
        """Which rows ``(N,)`` of ``(N, A, F+1)`` are finite and near enough to the training range."""
        ok: Bools = np.logical_and.reduce(self._within(observation), axis=(1, 2))
        return ok

    def all_inside(self, observation: Float32) -> bool:
        """Whether every row is; bytes are searched faster than numpy reduces so few values."""
        return b"\0" not in self._within(observation).tobytes()

    def _within(self, observation: Float32) -> Bools:
        within: Bools = (observation >= self._low) & (observation <= self._high)  # NaN is False
        return within

    def why_outside(self, row: Float32) -> Reason:
        """The reason for a row ``(A, F+1)`` that ``inside`` refused."""
        return Reason.OUT_OF_RANGE if np.isfinite(row).all() else Reason.NON_FINITE

    def safe(self, current: Float32) -> Float32:
        """The safe action ``(N, A)``: zero, or the current weights moved inside the position limits.

        ``flat`` is not held back by the turnover limit: it is the way out. A row whose current weights are
        not finite can only be flat.
        """
        if self.params.safe_action == "flat":
            return np.zeros_like(current)
        known = np.isfinite(current).all(axis=1, keepdims=True)
        return self.limits.project(np.where(known, current, 0.0).astype(np.float64)).astype(np.float32)
