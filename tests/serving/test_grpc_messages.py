"""Messages over gRPC that are not this model's input are refused, as over HTTP."""

from __future__ import annotations

import pytest
from mlserver.grpc import dataplane_pb2 as pb

from sekisho.serving.protocol import BadRequest, decode_grpc


def request(shape: tuple[int, ...], raw: bytes, datatype: str = "FP32") -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="policy", raw_input_contents=[raw])
    message.inputs.add(name="observation", datatype=datatype, shape=shape)
    message.parameters["ts_close"].string_param = "2025-06-03T01:05:00+00:00"
    return message


@pytest.mark.parametrize("shape", [(-1, 3, 3), (1, -3, -3), (1, 3, 4), (1 << 62, 3, 3)])
def test_a_shape_that_is_not_the_contents_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadRequest):
        decode_grpc(request(shape, bytes(36)))
    assert decode_grpc(request((1, 3, 3), bytes(36))).observation.shape == (1, 3, 3)


@pytest.mark.parametrize(("raw", "datatype"), [(bytes(35), "FP32"), (bytes(36), "FP64"), (b"", "FP32")])
def test_contents_of_another_kind_are_refused(raw: bytes, datatype: str) -> None:
    with pytest.raises(BadRequest):
        decode_grpc(request((1, 3, 3), raw, datatype))
