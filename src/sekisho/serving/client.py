"""A caller of the policy server that always gets an answer in time: the server's, or its own safe one."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import httpx
import numpy as np
import numpy.typing as npt

from sekisho.errors import CannotCheck, Refused
from sekisho.serving.state import CarriedState

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
    state: CarriedState | None = None  # of a recurrent policy: hand it back with the next bar


class PolicyClient:
    """One policy on one server.

    ``deadline`` (seconds) bounds the whole call, the one retry after a broken connection included.
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

    def served(self) -> str | None:
        """The release that a replica names, on a new connection; ``None`` where none answers."""
        try:
            answer = httpx.get(f"{self._url}/v2/models/{self._model}", timeout=self._deadline)
            return str(answer.json()["parameters"]["release"]) if answer.status_code == 200 else None
        except (httpx.TransportError, ValueError, KeyError, TypeError):
            return None

    def require_release(self, pointer: str, *, timeout: float, in_a_row: int = 20) -> None:
        """Wait until ``in_a_row`` answers, each on a connection of its own, name the release ``pointer``.

        Raises:
            Refused: another release is still served after ``timeout`` seconds.
            CannotCheck: nothing answered at the end.
        """
        until, count, found = time.monotonic() + timeout, 0, None
        while count < in_a_row:
            found = self.served()
            count = count + 1 if found == pointer else 0
            if time.monotonic() > until:
                remedy = "look at the new pods: the first thing they log is why they refuse the release"
                if found is None:
                    raise CannotCheck(f"{self._url}: no answer", remedy=remedy)
                raise Refused("served-release", expected=pointer, found=found, remedy=remedy)
            time.sleep(0.0 if count else 0.5)

    def decide(
        self,
        observation: Float32,
        ts_close: dt.datetime,
        *,
        request_id: str,
        now: dt.datetime | None = None,
        require_open: bool = False,
        state: CarriedState | None = None,
    ) -> ClientAnswer:
        """Ask for the target weights of ``observation`` ``(N, A, F+1)``; a failing network does not raise.

        ``now`` is a logical clock; the server honours it only when started for replays. ``state`` is what the
        answer before carried; where no server answered it stays what it was.
        """
        started = time.perf_counter()
        request = _request(observation, ts_close, request_id, now, require_open, state)
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
            state,
        )

    def _post(self, request: dict[str, Any], started: float) -> httpx.Response:
        """Send; once more if the connection could not be made or broke: to decide twice changes nothing.

        The second try has an id of its own, since the first may have been decided and logged.
        """
        address = f"{self._url}/v2/models/{self._model}/infer"
        try:
            return self._http.post(address, json=request, timeout=self._left(started))
        except (httpx.NetworkError, httpx.RemoteProtocolError):
            again = {**request, "id": f"{request['id']}.2"}
            return self._http.post(address, json=again, timeout=self._left(started))

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
    state: CarriedState | None,
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
    inputs = [_tensor("observation", observation, data)]
    if state is not None:
        inputs.append(_tensor("state", state.values, state.values.ravel().tolist()))
        parameters |= {
            "state_sequence": state.sequence,
            "state_digest": state.digest,
            "state_release": state.release,
        }
    return {"id": request_id, "parameters": parameters, "inputs": inputs}


def _tensor(name: str, values: Float32, data: Sequence[float | None]) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": list(values.shape), "data": data}


def _answer(body: dict[str, Any], rows: int, seconds: float) -> ClientAnswer:
    facts, outputs = body["parameters"], {tensor["name"]: tensor for tensor in body["outputs"]}
    weights = _values(outputs["target_weights"])
    state = None
    if "next_state" in outputs:
        sequence, digest = int(facts["state_sequence"]), str(facts["state_digest"])
        state = CarriedState(_values(outputs["next_state"]), sequence, digest, str(facts["release"]))
    verdicts = tuple(str(facts["verdict"]).split(","))
    if len(weights) != rows or not np.isfinite(weights).all():
        raise ValueError("the answer holds no finite weights for every row")
    return ClientAnswer(
        weights,
        verdicts * rows if len(verdicts) == 1 else verdicts,
        _ids(str(facts["prediction_id"]), rows),
        str(facts["release"]),
        seconds,
        state=state,
    )


def _values(tensor: dict[str, Any]) -> Float32:
    return np.array(tensor["data"], dtype=np.float32).reshape(tensor["shape"])


def _ids(request_id: str, rows: int) -> tuple[str, ...]:
    return (request_id,) if rows == 1 else tuple(f"{request_id}/{row}" for row in range(rows))
