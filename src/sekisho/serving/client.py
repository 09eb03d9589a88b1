"""A caller of the policy server that always gets an answer in time: the server's, or its own safe one."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import httpx
import numpy as np
import numpy.typing as npt

from sekisho.errors import CannotCheck

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ClientAnswer:
    """Weights to trade to, whoever decided them."""

    target_weights: Float32  # (N, A)
    verdicts: tuple[str, ...]  # one per row: the guard's reason, or "rejected", "unreachable", "deadline"
    prediction_ids: tuple[str, ...]
    release: str | None  # <model>/<seq>@sha256:<digest>; None when the server did not decide
    seconds: float
    error: str | None = None  # what went wrong, when the server did not decide


class PolicyClient:
    """One policy on one server.

    ``deadline`` (seconds) bounds the whole call, the one retry after a failed connection included.
    ``safe_action``: ``flat`` (zero weights) or ``hold`` (the observation's last column, where finite).
    """

    def __init__(
        self, url: str, model: str, *, deadline: float, safe_action: Literal["flat", "hold"] = "flat"
    ) -> None:
        self._url, self._model = url.rstrip("/"), model
        self._deadline, self._safe_action = deadline, safe_action
        self._http = httpx.Client()

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def require_ready(self) -> None:
        """Check that the model is served.

        Raises:
            CannotCheck: it is not, or the server cannot be reached.
        """
        address = f"{self._url}/v2/models/{self._model}/ready"
        remedy = "start it with `sekisho serve`"
        try:
            status = self._http.get(address).status_code
        except httpx.TransportError as error:
            raise CannotCheck(f"{address}: {error}", remedy=remedy) from error
        if status != 200:
            raise CannotCheck(f"{address}: status {status}", remedy=remedy)

    def decide(
        self,
        observation: Float32,
        ts_close: dt.datetime,
        *,
        request_id: str,
        now: dt.datetime | None = None,
        require_open: bool = False,
    ) -> ClientAnswer:
        """Ask for the target weights of ``observation`` ``(N, A, F+1)``; a failing network does not raise.

        ``now`` is a logical clock; the server honours it only when started for replays.
        """
        started = time.perf_counter()
        request = _request(observation, ts_close, request_id, now, require_open)
        try:
            response = self._post(request, started)
            body = response.json()
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}: {body.get('error')}")
            return _answer(body, len(observation), time.perf_counter() - started)
        except httpx.TimeoutException as error:
            verdict, reason = "deadline", repr(error)
        except httpx.TransportError as error:
            verdict, reason = "unreachable", repr(error)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            verdict, reason = "rejected", str(error)
        return ClientAnswer(
            self._safe(observation),
            (verdict,) * len(observation),
            _ids(request_id, len(observation)),
            None,
            time.perf_counter() - started,
            reason,
        )

    def _post(self, request: dict[str, Any], started: float) -> httpx.Response:
        """Send; once more if the connection could not be made, for then no server has seen the request."""
        address = f"{self._url}/v2/models/{self._model}/infer"
        try:
            return self._http.post(address, json=request, timeout=self._left(started))
        except httpx.ConnectError:
            return self._http.post(address, json=request, timeout=self._left(started))

    def _left(self, started: float) -> float:
        left = self._deadline - (time.perf_counter() - started)
        if left <= 0:
            raise httpx.PoolTimeout("no time left for another attempt")
        return left

    def _safe(self, observation: Float32) -> Float32:
        current: Float32 = observation[:, :, -1]
        if self._safe_action == "flat":
            return np.zeros_like(current)
        known = np.isfinite(current).all(axis=1, keepdims=True)
        return np.where(known, current, np.float32(0.0))


def _request(
    observation: Float32,
    ts_close: dt.datetime,
    request_id: str,
    now: dt.datetime | None,
    require_open: bool,
) -> dict[str, Any]:
    numbers = observation.ravel()
    # JSON has no NaN: null stands for it, and the guard refuses the row
    data = [
        None if missing else value
        for value, missing in zip(numbers.tolist(), ~np.isfinite(numbers), strict=True)
    ]
    parameters: dict[str, Any] = {"ts_close": ts_close.isoformat()}
    if now is not None:
        parameters["now"] = now.isoformat()
    if require_open:
        parameters["require_open"] = True
    tensor = {"name": "observation", "datatype": "FP32", "shape": list(observation.shape), "data": data}
    return {"id": request_id, "parameters": parameters, "inputs": [tensor]}


def _answer(body: dict[str, Any], rows: int, seconds: float) -> ClientAnswer:
    tensor, facts = body["outputs"][0], body["parameters"]
    weights = np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])
    verdicts = tuple(str(facts["verdict"]).split(","))
    if len(weights) != rows or not np.isfinite(weights).all():
        raise ValueError("the answer holds no finite weights for every row")
    return ClientAnswer(
        weights,
        verdicts * rows if len(verdicts) == 1 else verdicts,
        _ids(str(facts["prediction_id"]), rows),
        str(facts["release"]),
        seconds,
    )


def _ids(request_id: str, rows: int) -> tuple[str, ...]:
    return (request_id,) if rows == 1 else tuple(f"{request_id}/{row}" for row in range(rows))
