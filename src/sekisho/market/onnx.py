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

    Input ``observation`` float32 ``(N, A, F+1)``, output ``target_weights`` float32 ``(N, A)``, N free; a
    recurrent agent also takes ``state`` and gives ``next_state``, float32 ``(N, A, recurrent)``, zero where
    an episode begins: whoever calls it carries the state. The file is written only after ONNX Runtime has
    given the agent's own answers to ``observation`` (in two steps where there is a state).

    Raises:
        TrainingError: the two answers differ.
    """
    agent = agent.eval()
    inputs, outputs = ["observation"], ["target_weights"]
    example: tuple[torch.Tensor, ...] = (observation[:2],)
    if agent.recurrent:
        inputs, outputs = [*inputs, "state"], [*outputs, "next_state"]
        example = (*example, agent.first_state(2))
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The TorchScript exporter: 0.4 s where the newer one takes 10 s, for a graph this plain
        torch.onnx.export(
            agent,
            example,
            buffer,  # type: ignore[arg-type]  # a path by its annotation, a buffer by its documentation
            dynamo=False,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {0: "N"} for name in (*inputs, *outputs)},
        )
    content = _stripped(onnx.load_from_string(buffer.getvalue()), (*inputs, *outputs))
    gap = _gap(agent, content, observation)
    if not gap <= TOLERANCE:
        raise TrainingError(
            f"the exported graph differs from the agent by {gap:.2e}",
            remedy="use only operations that ONNX Runtime computes as torch does",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)
    return hashlib.sha256(content).hexdigest()


@torch.no_grad()
def _gap(agent: Agent, content: bytes, observation: torch.Tensor) -> float:
    """Largest difference between the graph's answers and the agent's, of weight and of state."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    state, gap = agent.first_state(len(observation)), 0.0
    for _ in range(2 if agent.recurrent else 1):
        feed = {"observation": observation.numpy()} | ({"state": state.numpy()} if agent.recurrent else {})
        weights, state = agent.act(observation, state)
        expected = (weights, state) if agent.recurrent else (weights,)
        for found, own in zip(session.run(None, feed), expected, strict=True):
            gap = max(gap, float(np.abs(found - own.numpy()).max()))
    return gap


def _stripped(model: onnx.ModelProto, kept: tuple[str, ...]) -> bytes:
    """Serialised without producer, versions, documentation, metadata or source paths; names by position, but
    for the ``kept`` ones of inputs and outputs."""
    model.ClearField("producer_name")
    model.ClearField("producer_version")
    model.ClearField("doc_string")
    del model.metadata_props[:]
    graph = model.graph
    graph.name = "agent"
    names = {name: name for name in kept}

    def short(name: str) -> str:
        return names.setdefault(name, f"v{len(names) - len(kept)}") if name else name

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
