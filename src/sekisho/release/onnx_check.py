"""The ONNX contract: one self-contained graph from observations to target weights within the limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from sekisho.errors import CannotCheck, Refused

OPSETS = range(17, 24)  # what ONNX Runtime and the exporter both know
TOLERANCE = 1e-5  # of a limit: the graph computes in float32
RETRAIN = "export the agent from the trainer again"


def check_onnx(path: Path, assets: int, features: int) -> int:
    """Check structure, names, shapes and operators; returns the opset.

    Raises:
        Refused: rules ``onnx-graph``, ``onnx-opset``, ``onnx-operators``, ``onnx-interface``,
            ``onnx-external-data``.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
        external = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        _require("onnx-external-data", [], external)
        onnx.checker.check_model(model, full_check=True)
    except Refused:
        raise
    except Exception as error:  # protobuf and the checker raise their own kinds
        raise Refused("onnx-graph", expected="a valid ONNX model", found=error, remedy=RETRAIN) from error
    opsets = {item.domain or "ai.onnx": item.version for item in model.opset_import}
    used = {node.domain or "ai.onnx" for node in model.graph.node}
    _require("onnx-operators", {"ai.onnx"}, used)
    if opsets["ai.onnx"] not in OPSETS:
        _require("onnx-opset", f"{OPSETS.start} to {OPSETS.stop - 1}", opsets["ai.onnx"])
    _require("onnx-interface", [("observation", [None, assets, features + 1])], _signature(model.graph.input))
    _require("onnx-interface", [("target_weights", [None, assets])], _signature(model.graph.output))
    return int(opsets["ai.onnx"])


def _signature(values: object) -> list[tuple[str, list[int | None]]]:
    from onnx import TensorProto

    found = []
    for value in values:  # type: ignore[attr-defined]
        tensor = value.type.tensor_type
        _require("onnx-interface", TensorProto.FLOAT, tensor.elem_type)
        found.append(
            (value.name, [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim])
        )
    return found


def _require(rule: str, expected: object, found: object) -> None:
    if expected != found:
        raise Refused(rule, expected=expected, found=found, remedy=RETRAIN)


def run_onnx(
    path: Path, rows: npt.NDArray[np.float32], limits: dict[str, float]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Golden vectors: observations ``(N, A, F + 1)`` and ONNX Runtime's target weights ``(N, A)``.

    The first observation holds no position, each later one the targets before it, so that the weight column
    counts.

    Raises:
        Refused: rules ``onnx-outputs`` (not finite), ``onnx-limits``.
        CannotCheck: ONNX Runtime cannot run the model.
    """
    weights = np.zeros(rows.shape[1], dtype=np.float32)
    session = _open(path)
    return _answers(session, path, rows, weights, limits)


def replay(path: Path, blocks: list[npt.NDArray[np.float32]], limits: dict[str, float]) -> int:
    """Let the model decide every bar of the blocks ``(N, A, F)``; returns the number of bars.

    Every answer must be finite and inside the limits, and be what onnx's own evaluator, which shares no code
    with ONNX Runtime, computes from the same observation.

    Raises:
        Refused: rules ``onnx-outputs``, ``onnx-limits``, ``onnx-runtime`` (the two differ).
        CannotCheck: one of the two cannot run the model.
    """
    from onnx.reference import ReferenceEvaluator

    session = _open(path)
    try:
        evaluator = ReferenceEvaluator(str(path))
    except Exception as error:  # the evaluator raises its own kinds for operators it lacks
        raise CannotCheck(f"onnx cannot evaluate {path.name}: {error}", remedy=RETRAIN) from error
    weights, bars = np.zeros(blocks[0].shape[1], dtype=np.float32), 0
    for block in blocks:
        if not len(block):
            continue
        inputs, outputs = _answers(session, path, block, weights, limits)
        try:
            (expected,) = cast("Any", evaluator.run(["target_weights"], {"observation": inputs}))
        except Exception as error:
            raise CannotCheck(f"onnx cannot evaluate {path.name}: {error}", remedy=RETRAIN) from error
        gap = float(np.abs(outputs - expected).max())
        if not gap <= TOLERANCE:
            raise Refused("onnx-runtime", expected=f"a difference ≤ {TOLERANCE}", found=gap, remedy=RETRAIN)
        weights, bars = outputs[-1], bars + len(block)
    return bars


def _open(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the same sums in the same order
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise CannotCheck(f"ONNX Runtime cannot open {path.name}: {error}", remedy=RETRAIN) from error


def _answers(
    session: Any,
    path: Path,
    rows: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    limits: dict[str, float],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    inputs, outputs = [], []
    try:
        for row in rows:
            observation = np.concatenate([row, weights[:, None]], axis=1)
            (targets,) = session.run(["target_weights"], {"observation": observation[None]})
            _check_targets(targets[0], weights, limits)
            inputs.append(observation)
            outputs.append(targets[0])
            weights = targets[0]
    except Refused:
        raise
    except Exception as error:
        raise CannotCheck(f"ONNX Runtime cannot run {path.name}: {error}", remedy=RETRAIN) from error
    return np.stack(inputs), np.stack(outputs)


def _check_targets(
    targets: npt.NDArray[np.float32], before: npt.NDArray[np.float32], limits: dict[str, float]
) -> None:
    if not np.isfinite(targets).all():
        raise Refused(
            "onnx-outputs", expected="finite target weights", found=targets.tolist(), remedy=RETRAIN
        )
    wide = targets.astype(np.float64)
    used = {
        "max_gross": np.abs(wide).sum(),
        "max_net": abs(wide.sum()),
        "max_asset": np.abs(wide).max(),
        "max_turnover": np.abs(wide - before).sum(),
    }
    for name, value in used.items():
        if value > limits[name] + TOLERANCE:
            raise Refused(
                "onnx-limits", expected=f"{name} ≤ {limits[name]}", found=float(value), remedy=RETRAIN
            )
