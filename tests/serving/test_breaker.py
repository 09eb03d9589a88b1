"""A model that fails, hangs or is switched off: the answer is safe, typed and in time."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from sekisho.cli.serving import switch
from sekisho.params import ServingParams
from sekisho.serving.core import Policy
from sekisho.serving.deadline import Watchdog
from sekisho.serving.guard import Reason
from sekisho.serving.predictions import read_predictions
from sekisho.serving.switch import Position, read_switch, read_turn, write_switch

INFER = "/v2/models/policy/infer"


class Faulty(Policy):
    """The real policy, whose model does what ``fault`` says."""

    fault: Callable[[], None] = staticmethod(lambda: None)
    runs = 0

    def run(self, observation: np.ndarray, state: np.ndarray | None = None) -> tuple[np.ndarray, None]:
        self.runs += 1
        self.fault()
        return super().run(observation, state)[0], None


def raise_it() -> None:
    raise RuntimeError("the model is broken")


@pytest.fixture
def faulty(lab: ModuleType, tmp_path: Path, params: ServingParams) -> Faulty:
    quick = params.model_copy(update={"breaker_failures": 3, "breaker_pause": 0.3, "deadline": 30.0})
    return Faulty(lab.write_release(tmp_path), quick)


def test_a_model_that_fails_in_a_row_rests_and_is_tried_again_after_the_pause(
    faulty: Faulty, lab: ModuleType
) -> None:
    rows = lab.observations(2)
    ask = lambda: faulty.decide(rows, lab.TS_CLOSE, lab.NOW)  # noqa: E731
    faulty.fault = raise_it
    before = faulty.runs
    verdicts = [ask().verdict for _ in range(10)]
    assert verdicts == ["model-failed"] * 3 + ["breaker-open"] * 7
    assert faulty.runs - before == 3  # it was left alone
    assert faulty.rests
    time.sleep(0.35)
    assert ask().verdict == "model-failed"  # one request tried it
    assert ask().verdict == "breaker-open"
    faulty.fault = lambda: None
    time.sleep(0.35)
    assert [ask().verdict for _ in range(3)] == ["ok"] * 3
    assert not faulty.rests


def test_a_success_between_failures_keeps_the_breaker_closed(faulty: Faulty, lab: ModuleType) -> None:
    for _ in range(5):
        for fault in (raise_it, raise_it, lambda: None):
            faulty.fault = fault
            verdict = faulty.decide(lab.observations(1), lab.TS_CLOSE, lab.NOW).verdict
            assert verdict == ("ok" if fault is not raise_it else "model-failed")


def endless_model(path: Path, nodes: int = 4000) -> None:
    """A graph of ``nodes`` matrix products, each of some milliseconds."""
    chain = [
        helper.make_node("MatMul", [f"x{n}" if n else "start", "matrix"], [f"x{n + 1}"]) for n in range(nodes)
    ]
    square = np.full((1, 500, 500), 1e-3, dtype=np.float32)
    graph = helper.make_graph(
        chain,
        "endless",
        [helper.make_tensor_value_info("start", TensorProto.FLOAT, [1, 500, 500])],
        [helper.make_tensor_value_info(f"x{nodes}", TensorProto.FLOAT, [1, 500, 500])],
        [helper.make_tensor("matrix", TensorProto.FLOAT, [1, 500, 500], square.ravel())],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def test_a_run_that_hangs_is_ended_from_beside_it_and_the_next_one_works(tmp_path: Path) -> None:
    import onnxruntime as ort

    endless_model(tmp_path / "endless.onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(tmp_path / "endless.onnx", options, providers=["CPUExecutionProvider"])
    start = np.ones((1, 500, 500), dtype=np.float32)
    watchdog = Watchdog(0.25)
    for _ in range(2):
        started = time.perf_counter()
        with pytest.raises(Exception, match="terminate flag"):
            watchdog.run(session, ["x4000"], {"start": start})
        assert time.perf_counter() - started < 2.0  # 0.25 s on a machine that is not starved
    patient = Watchdog(600.0)
    assert patient.run(session, ["x4000"], {"start": start * 0})[0].shape == (1, 500, 500)


def test_what_came_too_late_is_not_sent(faulty: Faulty, lab: ModuleType) -> None:
    faulty.params = faulty.params.model_copy(update={"deadline": 0.05})
    faulty.fault = lambda: time.sleep(0.1)
    assert faulty.decide(lab.observations(1), lab.TS_CLOSE, lab.NOW).verdicts == (Reason.DEADLINE,)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("on", "on"),
        ("off the desk asked for it\n", "off"),
        ("  previous\n", "previous"),
        ("", "off"),
        ("ON", "off"),
        ("yes", "off"),
        ("onwards", "off"),
    ],
)
def test_a_switch_that_cannot_be_understood_is_off(tmp_path: Path, text: str, position: str) -> None:
    (tmp_path / "switch").write_text(text)
    assert read_switch(tmp_path / "switch") == position


def test_a_switch_that_is_missing_or_unreadable_is_off(tmp_path: Path) -> None:
    assert read_switch(tmp_path / "switch") is Position.OFF
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert read_switch(tmp_path / "bytes") is Position.OFF
    assert read_switch(tmp_path) is Position.OFF


def test_the_kill_switch_stops_the_agent_and_lets_the_release_before_decide(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    lab.write_release(tmp_path / "releases", 6, gain=0.02)
    release = lab.write_release(tmp_path / "releases", 7, gain=0.05).folder
    file = tmp_path / "switch"
    write_switch(file, Position.ON, "start")
    server = start(release, switch=file, switch_interval=0.02).wait_ready()
    rows = lab.observations(1)

    def ask() -> tuple[str, str, np.ndarray]:
        answer = httpx.post(server.url + INFER, json=lab.body(rows)).json()
        weights = np.array(answer["outputs"][0]["data"], dtype=np.float32)
        return answer["parameters"]["verdict"], answer["model_version"], weights

    def wait_for(verdict: str, version: str) -> np.ndarray:
        deadline = time.monotonic() + 30
        while (found := ask())[:2] != (verdict, version):
            assert time.monotonic() < deadline, found
            time.sleep(0.01)
        return found[2]

    np.testing.assert_allclose(wait_for("ok", "7"), lab.expected(rows, 0.05)[0], atol=1e-6)
    turned = CliRunner().invoke(switch, ["off", "--file", str(file), "--reason", "drill"])
    assert turned.exit_code == 0, turned.output
    assert (read_turn(file).position, read_turn(file).reason) == (Position.OFF, "drill")
    assert read_turn(file).at is not None
    assert not wait_for("switched-off", "7").any()
    assert (
        httpx.get(f"{server.url}/v2/health/ready").status_code == 200
    )  # it answers: it is not to be replaced
    write_switch(file, Position.PREVIOUS, "the new one trades too much")
    np.testing.assert_allclose(wait_for("ok", "6"), lab.expected(rows, 0.02)[0], atol=1e-6)
    metadata = httpx.get(f"{server.url}/v2/models/policy").json()
    assert metadata["parameters"]["release"] == f"policy/6@sha256:{6:064x}"
    file.unlink()
    assert not wait_for("switched-off", "7").any()
    write_switch(file, Position.ON, "back")
    wait_for("ok", "7")
    assert server.stop()[0] == 0
    logged = read_predictions(server.predictions)
    assert set(logged.filter(logged["seq"] == 6)["verdict"]) == {"ok"}
    assert set(logged["verdict"]) == {"ok", "switched-off"}


def test_without_a_release_before_it_previous_means_off(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    file = tmp_path / "switch"
    write_switch(file, Position.PREVIOUS, "")
    tampered = lab.write_release(tmp_path / "releases", 6)
    (tampered.folder / "TAMPERED").touch()
    server = start(lab.write_release(tmp_path / "releases", 7).folder, switch=file).wait_ready()
    answer = httpx.post(server.url + INFER, json=lab.body(lab.observations(1))).json()
    assert answer["parameters"]["verdict"] == "switched-off"
    assert answer["model_version"] == "7"


def test_a_later_moment_closes_the_market(policy: Policy, lab: ModuleType) -> None:
    evening = dt.datetime(2025, 6, 3, 9, 0, tzinfo=dt.UTC)
    decision = policy.decide(lab.observations(1), evening, evening, require_open=True)
    assert decision.verdicts == (Reason.MARKET_CLOSED,)
