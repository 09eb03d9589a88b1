"""Open Inference Protocol v2 over HTTP: JSON and binary tensors to arrays and back.

https://github.com/open-inference/open-inference-protocol, with the binary tensor data extension.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import orjson

from sekisho.serving.guard import Float32

HEADER_LENGTH = b"inference-header-content-length"
FIRST_YEAR, LAST_YEAR = 1970, 2199  # calendars and date arithmetic work well inside
Headers = list[tuple[bytes, bytes]]


class BadRequest(ValueError):
    """The request holds nothing that a policy could decide; answered with 400."""


class Call(NamedTuple):
    """A decoded inference request."""

    request_id: str | None
    observation: Float32  # (N, A, F+1) if the policy accepts its shape
    ts_close: dt.datetime
    now: dt.datetime | None  # the caller's logical clock
    require_open: bool
    binary_output: bool


class Answer(NamedTuple):
    """What goes back: weights ``(N, A)`` and the facts about them."""

    request_id: str
    target_weights: Float32
    verdict: str
    model: str
    seq: int
    digest: str

    def parameters(self) -> dict[str, str | int]:
        """Response parameters; of several rows, row ``i``'s prediction id is ``<prediction_id>/<i>``."""
        return {
            "prediction_id": self.request_id,
            "verdict": self.verdict,
            "release": f"{self.model}/{self.seq}@sha256:{self.digest}",
            "seq": self.seq,
        }


def decode(body: bytes, header_length: int | None) -> Call:
    """Decode a request; ``header_length`` is the JSON part's length when tensors follow in binary.

    Raises:
        BadRequest: not the protocol, not this model's input, or no bar end.
    """
    try:
        request = orjson.loads(body if header_length is None else memoryview(body)[:header_length])
        tensor = next(t for t in request["inputs"] if t["name"] == "observation")
        if tensor["datatype"] != "FP32":
            raise BadRequest(f"observation: datatype FP32 expected, {tensor['datatype']!r} found")
        size = (tensor.get("parameters") or {}).get("binary_data_size")
        if size is None:
            with np.errstate(over="ignore"):  # too large for float32: infinite, which the guard refuses
                values = np.array(tensor["data"], dtype=np.float32)
        elif header_length is None or len(request["inputs"]) != 1 or size != len(body) - header_length:
            raise BadRequest("binary_data_size does not match the body")
        else:
            values = np.frombuffer(body, dtype="<f4", offset=header_length)
        shape = tuple(tensor["shape"])
        if any(type(length) is not int or length < 0 for length in shape):
            raise BadRequest(f"observation: bad shape {shape}")
        return call(
            values.reshape(shape),
            request.get("id"),
            request.get("parameters") or {},
            _wants_binary(request),
        )
    except BadRequest:
        raise
    except StopIteration:
        raise BadRequest("no input called 'observation'") from None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise BadRequest(f"not an inference request: {error!r}") from error


def call(
    observation: Float32, request_id: object, parameters: Mapping[str, Any], binary_output: bool = False
) -> Call:
    """Read the request's parameters: ``ts_close``, ``now`` (ISO 8601 with offset) and ``require_open``.

    Raises:
        BadRequest: ``ts_close`` is missing, a time or the id is malformed.
    """
    if request_id is not None and not (isinstance(request_id, str) and 0 < len(request_id) <= 256):
        raise BadRequest("id: a string of 1 to 256 characters expected")
    if "ts_close" not in parameters:
        raise BadRequest("parameter ts_close (the newest bar's end) is missing")
    now = parameters.get("now")
    return Call(
        request_id=request_id,
        observation=observation,
        ts_close=_moment("ts_close", parameters["ts_close"]),
        now=None if now is None else _moment("now", now),
        require_open=parameters.get("require_open") is True,
        binary_output=binary_output,
    )


def encode(answer: Answer, binary: bool) -> tuple[bytes, Headers]:
    """Body and headers of a response, weights as JSON numbers or as binary tensor data."""
    weights = np.ascontiguousarray(answer.target_weights, dtype="<f4")
    tensor: dict[str, Any] = {"name": "target_weights", "datatype": "FP32", "shape": list(weights.shape)}
    response = {
        "model_name": answer.model,
        "model_version": str(answer.seq),
        "id": answer.request_id,
        "parameters": answer.parameters(),
        "outputs": [tensor],
    }
    if binary:
        tensor["parameters"] = {"binary_data_size": weights.nbytes}
        head = orjson.dumps(response)
        length = str(len(head)).encode()
        return head + weights.tobytes(), [
            (b"content-type", b"application/octet-stream"),
            (HEADER_LENGTH, length),
        ]
    tensor["data"] = weights.ravel()
    return orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY), [(b"content-type", b"application/json")]


def _wants_binary(request: Mapping[str, Any]) -> bool:
    if (request.get("parameters") or {}).get("binary_data_output") is True:
        return True
    outputs = request.get("outputs") or []
    return any((output.get("parameters") or {}).get("binary_data") is True for output in outputs)


def _moment(name: str, text: object) -> dt.datetime:
    if not isinstance(text, str):
        raise BadRequest(f"{name}: an ISO 8601 time expected, {text!r} found")
    return _parse(name, text)


@lru_cache(maxsize=4096)  # all requests about one bar carry the same text
def _parse(name: str, text: str) -> dt.datetime:
    try:
        moment = dt.datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise BadRequest(f"{name}: {text!r} has no UTC offset")
        moment = moment.astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"{name}: an ISO 8601 time expected, {text!r} found") from error
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise BadRequest(f"{name}: a time from {FIRST_YEAR} to {LAST_YEAR} expected, {text!r} found")
    return moment
