"""Tiny releases: an ONNX graph of a few nodes with limits inside, and the files that a server reads."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sekisho.params import ServingParams, load_params
from sekisho.serving.core import Policy

ROOT = Path(__file__).parents[2]
SYMBOLS = ("1301", "6501", "7203")
FEATURES = ("return_1", "return_6")
LIMITS = {"max_gross": 1.0, "max_net": 0.6, "max_asset": 0.4, "max_turnover": 0.5}
# A bar end inside a session of Tokyo, and the moment after it.
TS_CLOSE = dt.datetime(2025, 6, 3, 1, 5, tzinfo=dt.UTC)
NOW = TS_CLOSE + dt.timedelta(seconds=2)


@dataclass(frozen=True)
class Release:
    """Stands in for a verified release: what ``verify_release`` returns."""

    model: str
    seq: int
    digest: str
    folder: Path

    def read(self, path: str) -> bytes:
        return (self.folder / "content" / path).read_bytes()


def write_model(path: Path, gain: float = 0.05) -> None:
    """``target = clip(gain × (features summed + current weight), ±0.15)``: inside all limits but turnover."""
    assets, width = len(SYMBOLS), len(FEATURES) + 1
    nodes = [
        helper.make_node("ReduceSum", ["observation", "axis"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "gain"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "low", "high"], ["target_weights"]),
    ]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [2]),
        helper.make_tensor("gain", TensorProto.FLOAT, [], [gain]),
        helper.make_tensor("low", TensorProto.FLOAT, [], [-0.15]),
        helper.make_tensor("high", TensorProto.FLOAT, [], [0.15]),
    ]
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["N", assets, width])],
        [helper.make_tensor_value_info("target_weights", TensorProto.FLOAT, ["N", assets])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def write_release(root: Path, seq: int = 7, gain: float = 0.05, **changes: object) -> Release:
    """A release folder with content; ``changes`` replace entries of observation.json."""
    folder = root / "policy" / str(seq)
    content = folder / "content"
    content.mkdir(parents=True)
    write_model(content / "model.onnx", gain)
    shape = (len(SYMBOLS), len(FEATURES))
    about = {
        "symbols": SYMBOLS,
        "features": FEATURES,
        "lookback": 67,
        "calendar": "XTKS",
        "bar": "5min",
        "limits": LIMITS,
        "ranges": {"low": np.full(shape, -2.0).tolist(), "high": np.full(shape, 2.0).tolist()},
        **changes,
    }
    (content / "observation.json").write_text(json.dumps(about))
    rows = observations(4)
    golden = {"observation": rows.tolist(), "target_weights": expected(rows, gain).tolist()}
    (content / "golden.json").write_text(json.dumps(golden))
    return Release("policy", seq, f"{seq:064x}", folder)


def observations(rows: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.uniform(-2.0, 2.0, (rows, len(SYMBOLS), len(FEATURES) + 1))
    values[:, :, -1] = 0.0
    return values.astype(np.float32)


def expected(rows: np.ndarray, gain: float = 0.05) -> np.ndarray:
    return np.clip(rows.sum(axis=2) * np.float32(gain), -0.15, 0.15).astype(np.float32)


@pytest.fixture(scope="session")
def lab() -> ModuleType:
    """The helpers of this file, for tests (which cannot import it)."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def params() -> ServingParams:
    return load_params(ROOT / "params.yaml").serving


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory, params: ServingParams) -> Policy:
    return Policy(write_release(tmp_path_factory.mktemp("releases")), params)


class Server:
    """A policy server in a process of its own; a release without a file TAMPERED counts as verified."""

    def __init__(
        self,
        release: Path,
        predictions: Path,
        *,
        replay_clock: bool = True,
        switch: Path | str = "",
        pointer: Path | str = "",
        ports: Callable[[list[int]], list[int]] = list,
        **changes: object,
    ) -> None:
        self.predictions = predictions
        self.port, self.grpc_port, self.metrics_port = ports(_free_ports(3))
        self.url = f"http://127.0.0.1:{self.port}"
        changes = {"deadline": 10.0, "drain": 0.1, **changes}  # other programs may stop this one for a while
        places = [release, predictions, self.port, self.grpc_port, self.metrics_port]
        arguments = [*places, int(replay_clock), switch, pointer, json.dumps(changes)]
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("server_process.py"), *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_ready(self) -> Server:
        for _ in range(600):
            try:
                if httpx.get(f"{self.url}/v2/health/ready").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            if self.process.poll() is not None:
                raise AssertionError(self.process.communicate()[0])
            time.sleep(0.05)
        raise AssertionError("not ready after 30 s")

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and output."""
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=30)
        return self.process.returncode, output


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("server")
    release = write_release(root / "releases")
    running = Server(release.folder, root / "predictions").wait_ready()
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers that end with the test."""
    started: list[Server] = []

    def start_one(release: Path, predictions: str = "predictions", **options: object) -> Server:
        started.append(Server(release, tmp_path / predictions, **options))
        return started[-1]

    yield start_one
    for one in started:
        if one.process.poll() is None:
            one.stop(signal.SIGKILL)


def body(rows: np.ndarray, request_id: str | None = None, **parameters: object) -> dict[str, object]:
    """An inference request in JSON."""
    tensor = {"name": "observation", "datatype": "FP32", "shape": rows.shape, "data": rows.ravel().tolist()}
    times = {"ts_close": TS_CLOSE.isoformat(), "now": NOW.isoformat()}
    request: dict[str, object] = {"inputs": [tensor], "parameters": {**times, **parameters}}
    return request if request_id is None else {"id": request_id, **request}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
