"""Others' programs talk to the policy server: Triton's clients, schemathesis, stock MLServer beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

ROOT = Path(__file__).parents[2]
OTHERS = ROOT / "build/conformance/bin"
INSTALLED = (OTHERS / "st").exists()

pytestmark = pytest.mark.slow
needs_others = pytest.mark.skipif(
    not INSTALLED, reason="Triton's clients are not installed: `make conformance`"
)


@needs_others
def test_tritons_clients_get_the_models_bits(server: Any, lab: ModuleType) -> None:
    rows = lab.observations(16)
    plan = {
        "http": server.url.removeprefix("http://"),
        "grpc": f"127.0.0.1:{server.grpc_port}",
        "rows": rows.tolist(),
        "parameters": {"ts_close": lab.TS_CLOSE.isoformat(), "now": lab.NOW.isoformat()},
    }
    done = subprocess.run(
        [str(OTHERS / "python"), str(Path(__file__).with_name("triton_caller.py"))],
        input=json.dumps(plan), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["http ready"] == found["grpc ready"] == [True, True, True]
    assert found["http metadata"] == found["grpc metadata"] == "observation"
    for kind in ("json", "binary", "grpc"):
        np.testing.assert_allclose(found[kind], lab.expected(rows), rtol=0, atol=1e-6)
    assert found["json"] == found["binary"] == found["grpc"]
    for kind in ("http", "grpc"):
        assert "ts_close" in found[f"{kind} error"]


def openapi(folder: Path, *only: str) -> Path:
    """The Open Inference Protocol as MLServer's package states it, for our model; ``only`` these endings."""
    text = (files("mlserver.rest.openapi") / "dataplane.json").read_text()
    schema = json.loads(text.replace("{model_name}", "policy").replace("{model_version}", "7"))
    for path, item in list(schema["paths"].items()):
        item.pop("parameters", None)
        for operation in (o for o in item.values() if isinstance(o, dict)):
            operation["parameters"] = [p for p in operation.get("parameters", []) if p.get("in") != "path"]
        if path.endswith("_stream") or (only and not path.endswith(only)):  # a policy streams nothing
            del schema["paths"][path]
    # stated as an array of anything or as "bytes", which OpenAPI does not know; our tensor is of numbers
    schema["components"]["schemas"]["TensorData"] = {"type": "array", "items": {"type": "number"}}
    target = folder / "openapi.json"
    target.write_text(json.dumps(schema))
    return target


@needs_others
@pytest.mark.parametrize(
    ("only", "checks"),
    [
        (
            ("/infer", "/ready", "/live", "/v2", "/policy", "/7"),
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ),
        ((), "not_a_server_error"),
    ],
    ids=["ours", "all"],
)
def test_schemathesis_finds_no_answer_outside_the_protocol(
    server: Any, tmp_path: Path, only: tuple[str, ...], checks: str
) -> None:
    done = subprocess.run(
        [str(OTHERS / "st"), "run", str(openapi(tmp_path, *only)), "--url", server.url, "--checks", checks,
         "--phases", "examples,fuzzing", "--max-examples", "50", "--seed", "1", "--request-timeout", "60",
         "--suppress-health-check", "all", "--no-color"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200


@pytest.fixture(scope="module")
def stock(lab: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Stock MLServer with the benchmark's custom runtime and the test's model; its URL and gRPC port."""
    folder = tmp_path_factory.mktemp("stock")
    lab.write_model(folder / "model.onnx")
    port, grpc_port, metrics_port = lab._free_ports(3)
    ports = {"http_port": port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    about = {
        "name": "policy",
        "implementation": "stock_policy.StockPolicy",
        "parameters": {"uri": str(folder / "model.onnx"), "version": "7"},
    }
    (folder / "model-settings.json").write_text(json.dumps(about))
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("mlserver")), "start", str(folder)],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT / "bench")},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(1200):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/v2/models/policy/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", grpc_port
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_stock_mlserver_gives_the_same_answers(server: Any, stock: tuple[str, int], lab: ModuleType) -> None:
    for rows in (lab.observations(1, seed=5), lab.observations(16, seed=6)):
        request = lab.body(rows, "same")
        ours, theirs = (
            httpx.post(f"{url}/v2/models/policy/infer", json=request).json() for url in (server.url, stock[0])
        )
        for answer in (ours, theirs):
            for extra in ("parameters",):
                answer.pop(extra, None)
            for output in answer["outputs"]:
                output.pop("parameters", None)  # stock adds the content type
                output["data"] = np.array(output["data"], dtype=np.float32).tolist()
        assert ours == theirs
        message = pb.ModelInferRequest(model_name="policy", id="same")
        message.inputs.add(name="observation", datatype="FP32", shape=rows.shape)
        message.raw_input_contents.append(rows.tobytes())
        for key, value in request["parameters"].items():
            message.parameters[key].string_param = value
        answers = []
        for port in (server.grpc_port, stock[1]):
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                answer = GRPCInferenceServiceStub(channel).ModelInfer(message)
            answers.append(
                (answer.model_name, answer.model_version, answer.id, answer.raw_output_contents[0])
            )
        assert answers[0] == answers[1]
