"""Open Inference Protocol v2: tensors over HTTP (JSON or binary) and gRPC to arrays and back.

https://github.com/open-inference/open-inference-protocol, with the binary tensor data extension.
"""

from __future__ import annotations

import datetime as dt
from array import array
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import orjson
from mlserver.grpc import dataplane_pb2 as pb

from sekisho.serving.guard import Float32
from sekisho.serving.state import CarriedState, seal

HEADER_LENGTH = b"inference-header-content-length"
FIRST_YEAR, LAST_YEAR = 1970, 2199  # calendars and date arithmetic work well inside
Headers = list[tuple[bytes, bytes]]


class BadRequest(ValueError):
    """The request holds nothing that a policy could decide; answered with 400 or INVALID_ARGUMENT."""


class Call(NamedTuple):
    """A decoded inference request."""

    request_id: str | None
    observation: Float32  # (N, A, F+1) if the policy accepts its shape
    ts_close: dt.datetime
    now: dt.datetime | None  # the caller's logical clock
    require_open: bool
    binary_output: bool
    carried: CarriedState | None = None


class Answer(NamedTuple):
    """What goes back: weights ``(N, A)`` and the facts about them."""

    request_id: str
    target_weights: Float32
    verdict: str
    model: str
    seq: int
    pointer: str  # <model>/<seq>@sha256:<digest>
    next_state: Float32 | None = None
    sequence: int = 0

    def parameters(self) -> dict[str, str | int]:
        """Response parameters; of several rows, row ``i``'s prediction id is ``<prediction_id>/<i>``."""
        facts: dict[str, str | int] = {
            "prediction_id": self.request_id,
            "verdict": self.verdict,
            "release": self.pointer,
            "seq": self.seq,
        }
        if self.next_state is not None:
            facts["state_sequence"] = self.sequence
            facts["state_digest"] = seal(self.next_state, self.sequence, self.pointer)
        return facts

    def tensors(self) -> list[tuple[str, Float32]]:
        """Output tensors by name, little-endian."""
        outputs = [("target_weights", self.target_weights)]
        if self.next_state is not None:
            outputs.append(("next_state", self.next_state))
        return [(name, np.ascontiguousarray(values, dtype="<f4")) for name, values in outputs]


def decode(body: bytes, header_length: int | None) -> Call:
    """Decode a request; ``header_length`` is the JSON part's length when tensors follow in binary.

    Raises:
        BadRequest: not the protocol, not this model's input, or no bar end.
    """
    try:
        request = orjson.loads(body if header_length is None else memoryview(body)[:header_length])
        tensors: dict[str, Float32] = {}
        offset = header_length
        for tensor in request["inputs"]:
            values, offset = _values(tensor, body, offset)
            tensors[tensor["name"]] = values
        if offset is not None and offset != len(body):
            raise BadRequest("binary_data_size does not match the body")
        return call(tensors, request.get("id"), request.get("parameters") or {}, _wants_binary(request))
    except BadRequest:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise BadRequest(f"not an inference request: {error!r}") from error


def _values(tensor: Mapping[str, Any], body: bytes, offset: int | None) -> tuple[Float32, int | None]:
    """One input tensor, and where in the body the next binary one begins."""
    if tensor["datatype"] != "FP32":
        raise BadRequest(f"{tensor['name']}: datatype FP32 expected, {tensor['datatype']!r} found")
    shape = tuple(tensor["shape"])
    if any(type(length) is not int or length < 0 for length in shape):
        raise BadRequest(f"{tensor['name']}: bad shape {shape}")
    size = (tensor.get("parameters") or {}).get("binary_data_size")
    if size is None:
        return _numbers(tensor["data"]).reshape(shape), offset
    if offset is None or type(size) is not int or size < 0 or size % 4 or offset + size > len(body):
        raise BadRequest("binary_data_size does not match the body")
    values = np.frombuffer(body, dtype="<f4", offset=offset, count=size // 4)
    return values.reshape(shape), offset + size


def _numbers(data: Any) -> Float32:
    """JSON numbers, flat or nested; one too large for float32 is infinite, which the guard refuses."""
    try:
        return np.frombuffer(array("f", data), np.float32)  # twice as fast
    except TypeError:  # nested, or not numbers alone
        with np.errstate(over="ignore"):
            return np.array(data, dtype=np.float32)


def call(
    tensors: Mapping[str, Float32],
    request_id: object,
    parameters: Mapping[str, Any],
    binary_output: bool = False,
) -> Call:
    """Read the tensors ``observation`` and, of a recurrent policy, ``state``, and the request's parameters.

    Parameters: ``ts_close``, ``now`` (ISO 8601 with offset), ``require_open``; with a state, what came with
    it: ``state_sequence``, ``state_digest`` and ``state_release``.

    Raises:
        BadRequest: no observation, another tensor, no ``ts_close``; a time or the id is malformed.
    """
    if request_id is not None and not (isinstance(request_id, str) and 0 < len(request_id) <= 256):
        raise BadRequest("id: a string of 1 to 256 characters expected")
    if "observation" not in tensors:
        raise BadRequest("no input called 'observation'")
    if "ts_close" not in parameters:
        raise BadRequest("parameter ts_close (the newest bar's end) is missing")
    carried = None
    if len(tensors) > 1:
        if set(tensors) != {"observation", "state"}:
            raise BadRequest(f"inputs 'observation' and 'state' expected, {sorted(tensors)} found")
        carried = _carried(tensors["state"], parameters)
    now = parameters.get("now")
    return Call(
        request_id,
        tensors["observation"],
        _moment("ts_close", parameters["ts_close"]),
        None if now is None else _moment("now", now),
        parameters.get("require_open") is True,
        binary_output,
        carried,
    )


def _carried(values: Float32, parameters: Mapping[str, Any]) -> CarriedState:
    """What is missing or of another kind stands as what no server gives out, so that the guard refuses it."""
    sequence = parameters.get("state_sequence")
    return CarriedState(
        values,
        sequence if type(sequence) is int else -1,
        str(parameters.get("state_digest")),
        str(parameters.get("state_release")),
    )


def encode(answer: Answer, binary: bool) -> tuple[bytes, Headers]:
    """Body and headers of a response, tensors as JSON numbers or as binary tensor data."""
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, values in answer.tensors():
        tensor: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": values.shape}
        if binary:
            tensor["parameters"] = {"binary_data_size": values.nbytes}
            parts.append(values.tobytes())
        else:
            tensor["data"] = values.ravel()
        outputs.append(tensor)
    response = {
        "model_name": answer.model,
        "model_version": str(answer.seq),
        "id": answer.request_id,
        "parameters": answer.parameters(),
        "outputs": outputs,
    }
    head = orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return head, [(b"content-type", b"application/json")]
    return b"".join((head, *parts)), [
        (b"content-type", b"application/octet-stream"),
        (HEADER_LENGTH, str(len(head)).encode()),
    ]


def decode_grpc(request: Any) -> Call:
    """A ``ModelInferRequest`` with raw or typed contents as a call.

    Raises:
        BadRequest: as :func:`decode`.
    """
    raw, inputs, tensors = request.raw_input_contents, request.inputs, {}
    if raw and len(raw) != len(inputs):
        raise BadRequest(f"{len(raw)} raw contents for {len(inputs)} inputs")
    for number, tensor in enumerate(inputs):
        name, shape = tensor.name, tuple(tensor.shape)
        if tensor.datatype != "FP32":
            raise BadRequest(f"{name}: datatype FP32 expected, {tensor.datatype!r} found")
        if shape and min(shape) < 0:  # numpy would take -1 for "what is left"
            raise BadRequest(f"{name}: bad shape {shape}")
        try:
            values = (
                np.frombuffer(raw[number], dtype="<f4")
                if raw
                else np.array(tensor.contents.fp32_contents, dtype=np.float32)
            )
            tensors[name] = values.reshape(shape)
        except ValueError as error:
            raise BadRequest(f"not an inference request: {error}") from error
    parameters = {
        name: getattr(p, p.WhichOneof("parameter_choice") or "", None)
        for name, p in request.parameters.items()
    }
    return call(tensors, request.id or None, parameters)


def encode_grpc(answer: Answer, raw: bool) -> bytes:
    """A serialised ``ModelInferResponse``, raw contents where the request had raw ones."""
    response = pb.ModelInferResponse(
        model_name=answer.model, model_version=str(answer.seq), id=answer.request_id
    )
    for name, fact in answer.parameters().items():
        if isinstance(fact, str):
            response.parameters[name].string_param = fact
        else:
            response.parameters[name].int64_param = fact
    for name, values in answer.tensors():
        tensor = response.outputs.add(name=name, datatype="FP32", shape=values.shape)
        if raw:
            response.raw_output_contents.append(values.tobytes())
        else:
            tensor.contents.fp32_contents.extend(values.ravel().tolist())
    content: bytes = response.SerializeToString()
    return content


def _wants_binary(request: Mapping[str, Any]) -> bool:
    parameters = request.get("parameters") or {}
    if parameters.get("binary_data_output") is True:
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
