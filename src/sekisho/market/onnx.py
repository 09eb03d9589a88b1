"""The agent as an ONNX file whose bytes depend on nothing but the agent."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from sekisho.errors import TrainingError
from sekisho.market.agent import Agent

OPSET = 20
TOLERANCE = 1e-5  # of weight: float32 sums in another order


def export_onnx(agent: Agent, path: Path, observation: torch.Tensor) -> str:
    """Write the agent to ``path`` and return the file's sha256 (hex).

    Input ``observation`` float32 ``(N, A, F+1)``, output ``target_weights`` float32 ``(N, A)``, N free. The
    file is written only after ONNX Runtime has given the agent's own answers to ``observation``.

    Raises:
        TrainingError: the two answers differ.
    """
    agent = agent.eval()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The TorchScript exporter: 0.4 s where the newer one takes 10 s, for a graph this plain
        torch.onnx.export(
            agent,
            (observation[:2],),
            buffer,  # type: ignore[arg-type]  # a path by its annotation, a buffer by its documentation
            dynamo=False,
            opset_version=OPSET,
            input_names=["observation"],
            output_names=["target_weights"],
            dynamic_axes={"observation": {0: "N"}, "target_weights": {0: "N"}},
        )
    content = _stripped(onnx.load_from_string(buffer.getvalue()))
    with torch.no_grad():
        expected = agent(observation).numpy()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(["target_weights"], {"observation": observation.numpy()})[0]
    gap = float(np.abs(found - expected).max())
    if not gap <= TOLERANCE:
        raise TrainingError(
            f"the exported graph differs from the agent by {gap:.2e} of weight",
            remedy="use only operations that ONNX Runtime computes as torch does",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)
    return hashlib.sha256(content).hexdigest()


def _stripped(model: onnx.ModelProto) -> bytes:
    """Serialised without producer, versions, documentation, metadata or source paths; names by position."""
    model.ClearField("producer_name")
    model.ClearField("producer_version")
    model.ClearField("doc_string")
    del model.metadata_props[:]
    graph = model.graph
    graph.name = "agent"
    names = {"observation": "observation", "target_weights": "target_weights"}

    def short(name: str) -> str:
        return names.setdefault(name, f"v{len(names) - 2}") if name else name

    for value in (*graph.initializer, *graph.input, *graph.output):
        value.name = short(value.name)
    for index, node in enumerate(graph.node):
        node.name = f"n{index}"
        node.ClearField("doc_string")
        del node.metadata_props[:]
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
    del graph.value_info[:]
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
