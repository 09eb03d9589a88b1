"""A recurrent policy's state goes with the caller: from any replica to any other, unchanged or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import httpx
import numpy as np
import onnx
import pytest
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from onnx import TensorProto, helper

from sekisho.params import ServingParams
from sekisho.serving.client import PolicyClient
from sekisho.serving.core import Policy
from sekisho.serving.guard import Reason
from sekisho.serving.predictions import read_predictions
from sekisho.serving.state import CarriedState, seal

UNITS = 2


def write_recurrent(path: Path, lab: ModuleType) -> None:
    """``next = state / 2 + sum of features / 100`` in both units; ``target = clip(first unit, ±0.15)``."""
    assets, width = len(lab.SYMBOLS), len(lab.FEATURES) + 1
    nodes = [
        helper.make_node("ReduceSum", ["observation", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "small"], ["added"]),
        helper.make_node("Mul", ["state", "half"], ["kept"]),
        helper.make_node("Add", ["kept", "added"], ["next_state"]),
        helper.make_node("ReduceMean", ["next_state", "axis"], ["mean"], keepdims=0),
        helper.make_node("Clip", ["mean", "low", "high"], ["target_weights"]),
    ]
    constants = [helper.make_tensor("axis", TensorProto.INT64, [1], [2])]
    for name, value in (("small", 0.01), ("half", 0.5), ("low", -0.15), ("high", 0.15)):
        constants.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
    shape = ["N", assets]
    graph = helper.make_graph(
        nodes,
        "policy",
        [
            helper.make_tensor_value_info("observation", TensorProto.FLOAT, [*shape, width]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [*shape, UNITS]),
        ],
        [
            helper.make_tensor_value_info("target_weights", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("next_state", TensorProto.FLOAT, [*shape, UNITS]),
        ],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def step(rows: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the model computes."""
    following = state * np.float32(0.5) + rows.sum(axis=2, keepdims=True) * np.float32(0.01)
    return np.clip(following.mean(axis=2), -0.15, 0.15), following


def write_release(root: Path, lab: ModuleType, seq: int = 7) -> Any:
    release = lab.write_release(root, seq)
    content = release.folder / "content"
    write_recurrent(content / "model.onnx", lab)
    rows = lab.observations(4)
    weights, following = step(rows, np.zeros((4, len(lab.SYMBOLS), UNITS), np.float32))
    golden = {
        "observation": rows.tolist(),
        "target_weights": weights.tolist(),
        "next_state": following.tolist(),
    }
    (content / "golden.json").write_text(json.dumps(golden))
    return release


@pytest.fixture
def recurrent(lab: ModuleType, tmp_path: Path, params: ServingParams) -> Policy:
    return Policy(write_release(tmp_path, lab), params.model_copy(update={"deadline": 30.0}))


def carried(policy: Policy, values: np.ndarray, sequence: int) -> CarriedState:
    return CarriedState(values, sequence, seal(values, sequence, policy.pointer), policy.pointer)


def test_an_episode_through_carried_states_is_the_models_own(recurrent: Policy, lab: ModuleType) -> None:
    state, handed = np.zeros((2, len(lab.SYMBOLS), UNITS), np.float32), None
    for bar in range(20):
        rows = lab.observations(2, seed=bar)
        decision = recurrent.decide(rows, lab.TS_CLOSE, lab.NOW, carried=handed)
        weights, state = step(rows, state)
        assert decision.verdict == "ok"
        assert decision.sequence == bar + 1
        np.testing.assert_allclose(decision.target_weights, weights, atol=1e-6)
        assert decision.next_state is not None
        np.testing.assert_allclose(decision.next_state, state, atol=1e-6)
        handed = carried(recurrent, decision.next_state, decision.sequence)


@pytest.mark.parametrize("change", ["values", "sequence", "digest", "swapped rows", "nan"])
def test_a_state_that_no_server_gave_out_is_answered_safely_and_begins_anew(
    recurrent: Policy, lab: ModuleType, change: str
) -> None:
    rows = lab.observations(2)
    first = recurrent.decide(rows, lab.TS_CLOSE, lab.NOW)
    assert first.next_state is not None
    good = carried(recurrent, first.next_state, 1)
    touched = good.values.copy()
    touched[0, 0, 0] = np.nan if change == "nan" else touched[0, 0, 0] + 0.01
    bad = {
        "values": dataclasses.replace(good, values=touched),
        "sequence": dataclasses.replace(good, sequence=2),
        "digest": dataclasses.replace(good, digest="0" * 64),
        "swapped rows": dataclasses.replace(good, values=good.values[::-1]),
        "nan": carried(recurrent, touched, 1),
    }[change]
    decision = recurrent.decide(rows, lab.TS_CLOSE, lab.NOW, carried=bad)
    assert decision.verdicts == (Reason.BAD_STATE,) * 2
    assert not decision.target_weights.any()
    assert decision.next_state is not None
    assert not decision.next_state.any()
    assert decision.sequence == 0


def test_another_releases_state_begins_anew_and_is_no_reason_to_go_flat(
    recurrent: Policy, lab: ModuleType
) -> None:
    rows = lab.observations(1)
    values = np.ones((1, len(lab.SYMBOLS), UNITS), np.float32)
    older = f"policy/6@sha256:{6:064x}"
    handed = CarriedState(values, 40, seal(values, 40, older), older)
    decision = recurrent.decide(rows, lab.TS_CLOSE, lab.NOW, carried=handed)
    assert decision.verdict == "ok"
    assert decision.sequence == 1
    np.testing.assert_allclose(decision.target_weights, step(rows, values * 0)[0], atol=1e-6)


def test_a_row_that_the_agent_did_not_decide_keeps_its_state(recurrent: Policy, lab: ModuleType) -> None:
    rows = lab.observations(2)
    first = recurrent.decide(rows, lab.TS_CLOSE, lab.NOW)
    assert first.next_state is not None
    rows[1, 0, 0] = np.nan
    second = recurrent.decide(
        rows, lab.TS_CLOSE, lab.NOW, carried=carried(recurrent, first.next_state, first.sequence)
    )
    assert second.verdicts == (Reason.OK, Reason.NON_FINITE)
    assert second.next_state is not None
    np.testing.assert_array_equal(second.next_state[1], first.next_state[1])
    assert (second.next_state[0] != first.next_state[0]).any()


def test_the_client_carries_the_state_from_one_server_to_another_over_every_protocol(
    start: Any, lab: ModuleType, tmp_path: Path
) -> None:
    release = write_release(tmp_path / "releases", lab).folder
    servers = [start(release, name).wait_ready() for name in ("one", "two")]
    state, handed = np.zeros((1, len(lab.SYMBOLS), UNITS), np.float32), None
    for bar in range(6):
        rows = lab.observations(1, seed=bar)
        weights, state = step(rows, state)
        with PolicyClient(servers[bar % 2].url, "policy", deadline=30.0) as client:
            answer = client.decide(rows, lab.TS_CLOSE, request_id=f"b{bar}", now=lab.NOW, state=handed)
        assert answer.verdicts == ("ok",), answer
        np.testing.assert_allclose(answer.target_weights, weights, atol=1e-6)
        handed = answer.state
        assert handed is not None
        assert handed.sequence == bar + 1
    assert handed is not None
    rows = lab.observations(1, seed=99)
    weights, _ = step(rows, state)
    for found in (_binary(servers[0], lab, rows, handed), _grpc(servers[1], lab, rows, handed)):
        np.testing.assert_allclose(found[: weights.size], weights[0], atol=1e-6)
    wrong = dataclasses.replace(handed, values=np.zeros((1, len(lab.SYMBOLS), UNITS + 1), np.float32))
    with PolicyClient(servers[0].url, "policy", deadline=30.0) as client:
        answer = client.decide(rows, lab.TS_CLOSE, request_id="wrong", now=lab.NOW, state=wrong)
    assert answer.verdicts == ("rejected",)
    assert servers[0].stop()[0] == 0
    logged = read_predictions(servers[0].predictions)
    assert logged["state_sequence"].to_list() == [1, 3, 5, 7]
    assert logged["state"].list.len().to_list() == [len(lab.SYMBOLS) * UNITS] * 4


def _facts(lab: ModuleType, state: CarriedState) -> dict[str, Any]:
    return {
        "ts_close": lab.TS_CLOSE.isoformat(),
        "now": lab.NOW.isoformat(),
        "state_sequence": state.sequence,
        "state_digest": state.digest,
        "state_release": state.release,
    }


def _binary(server: Any, lab: ModuleType, rows: np.ndarray, state: CarriedState) -> np.ndarray:
    tensors = {"observation": rows, "state": state.values}
    inputs = [
        {
            "name": name,
            "datatype": "FP32",
            "shape": list(values.shape),
            "parameters": {"binary_data_size": values.nbytes},
        }
        for name, values in tensors.items()
    ]
    parameters = {**_facts(lab, state), "binary_data_output": True}
    head = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    response = httpx.post(
        f"{server.url}/v2/models/policy/infer",
        content=head + b"".join(values.astype("<f4").tobytes() for values in tensors.values()),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert response.status_code == 200, response.text
    length = int(response.headers["inference-header-content-length"])
    assert [o["name"] for o in json.loads(response.content[:length])["outputs"]] == [
        "target_weights",
        "next_state",
    ]
    return np.frombuffer(response.content[length:], dtype="<f4")


def _grpc(server: Any, lab: ModuleType, rows: np.ndarray, state: CarriedState) -> np.ndarray:
    request = pb.ModelInferRequest(model_name="policy")
    for name, value in _facts(lab, state).items():
        if isinstance(value, int):
            request.parameters[name].int64_param = value
        else:
            request.parameters[name].string_param = value
    for name, values in (("observation", rows), ("state", state.values)):
        request.inputs.add(name=name, datatype="FP32", shape=values.shape)
        request.raw_input_contents.append(values.astype("<f4").tobytes())
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        response = GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert response.parameters["verdict"].string_param == "ok"
    return np.frombuffer(response.raw_output_contents[0], dtype="<f4")
