"""The peer of `make bench-serving`: the same model behind MLServer alone, as its manual shows it."""

from __future__ import annotations

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class StockPolicy(MLModel):
    """ONNX Runtime with one thread; no guard, no log, no signatures."""

    async def load(self) -> bool:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(
            self.settings.parameters.uri, options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = next(tensor for tensor in payload.inputs if tensor.name == "observation")
        observation = NumpyCodec.decode_input(tensor)
        (weights,) = self._session.run(["target_weights"], {"observation": observation})
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            id=payload.id,
            outputs=[NumpyCodec.encode_output("target_weights", weights)],
        )
