"""The policy server beside stock MLServer with the same model: requests a second, latency, CPU a request."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from mlserver import ModelSettings
from mlserver.settings import ModelParameters
from onnx import TensorProto, helper
from tests.serving import conftest as lab
from tests.serving.server_process import Release, verify

from results import Figure, publish
from sekisho.params import load_params
from sekisho.serving.protocol import Call
from sekisho.serving.runtime import PolicyRuntime, ServingSetup

ROOT = Path(__file__).parents[1]
ASSETS, WIDTH, HIDDEN = 8, 8, 64  # 64 numbers in, two layers of 64, 8 weights out
CONNECTIONS, RATE = 32, 3000.0
KINDS = ("json", "binary", "grpc")
PEER_OF = {
    "json": "json",
    "binary": "json",
    "grpc": "grpc",
}  # stock MLServer takes no binary tensors over HTTP
COMPARED = (
    "One server at a time on one core, the load on another where there are two; the contestants take "
    "turns and the median round counts. All serve the same ONNX file, 64 numbers through two layers of 64 "
    "to 8 weights, one row a request, {connections} connections in a closed loop. Ours has guard, "
    "prediction log and metrics on; its release is not signed here, since that is checked once at load. "
    "Stock is MLServer {version} with a custom runtime after its manual: tuned (parallel_workers=0, debug "
    "off) and as shipped, both as its own requirements install it, on h11, and tuned with the parser that "
    "our extra installs, httptools; it takes no binary tensors over HTTP, so ours are compared with its "
    "JSON. CPU is the server's, all its threads and processes. The open loop sends {rate:.0f} requests a "
    "second on schedule, latency from the scheduled moment. `cost_…` are CPU microseconds of one request "
    "inside our process."
)


def write_release(root: Path) -> Release:
    """A release folder like those of the tests, with the benchmark's own model."""
    folder = root / "policy" / "7"
    (folder / "content").mkdir(parents=True)
    rng = np.random.default_rng(1)
    sizes = [(ASSETS * WIDTH, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, ASSETS)]
    nodes, constants, last = [helper.make_node("Flatten", ["observation"], ["x0"])], [], "x0"
    for number, (rows, columns) in enumerate(sizes):
        for name, shape in ((f"w{number}", (rows, columns)), (f"b{number}", (columns,))):
            values = rng.normal(0, 0.1, shape).astype(np.float32)
            constants.append(helper.make_tensor(name, TensorProto.FLOAT, shape, values.ravel()))
        nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [f"g{number}"]))
        nodes.append(helper.make_node("Tanh", [f"g{number}"], [f"x{number + 1}"]))
        last = f"x{number + 1}"
    constants.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [0.05]))
    nodes.append(helper.make_node("Mul", [last, "scale"], ["target_weights"]))
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["N", ASSETS, WIDTH])],
        [helper.make_tensor_value_info("target_weights", TensorProto.FLOAT, ["N", ASSETS])],
        constants,
    )
    path = folder / "content" / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    shape = (ASSETS, WIDTH - 1)
    about = {
        "symbols": [f"{1301 + number}" for number in range(ASSETS)],
        "features": [f"feature_{number}" for number in range(WIDTH - 1)],
        "lookback": 67,
        "calendar": "XTKS",
        "bar": "5min",
        "limits": {"max_gross": 1.0, "max_net": 1.0, "max_asset": 0.3, "max_turnover": 1.0},
        "ranges": {"low": np.full(shape, -3.0).tolist(), "high": np.full(shape, 3.0).tolist()},
    }
    (folder / "content" / "observation.json").write_text(json.dumps(about))
    import onnxruntime

    rows = observations(4)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    weights = session.run(None, {"observation": rows})[0]
    golden = {"observation": rows.tolist(), "target_weights": weights.tolist()}
    (folder / "content" / "golden.json").write_text(json.dumps(golden))
    return Release("policy", 7, f"{7:064x}", folder)


def observations(rows: int) -> np.ndarray:
    values = np.random.default_rng(2).uniform(-2, 2, (rows, ASSETS, WIDTH)).astype(np.float32)
    values[:, :, -1] = 0.0
    return values


@dataclass
class Contestant:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    grpc_port: int

    def cpu(self) -> float:
        """CPU seconds so far of its process and of the workers that it started."""
        return sum(_cpu(pid) for pid in [self.process.pid, *_children(self.process.pid)])

    def wait_ready(self) -> None:
        for _ in range(1200):
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/v2/models/policy/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"the server at port {self.port} does not get ready")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    found = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [deeper for child in found for deeper in _children(child)]


def start_stock(root: Path, name: str, model: Path, *paths: Path, **settings: Any) -> Contestant:
    port, grpc_port, metrics_port = lab._free_ports(3)
    folder = root / name
    folder.mkdir()
    ports = {"http_port": port, "grpc_port": grpc_port, "metrics_port": metrics_port, "host": "127.0.0.1"}
    (folder / "settings.json").write_text(json.dumps({**ports, **settings}))
    about = {
        "name": "policy",
        "implementation": "stock_policy.StockPolicy",
        "parameters": {"uri": str(model), "version": "7"},
    }
    (folder / "model-settings.json").write_text(json.dumps(about))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    with (root / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("mlserver")), "start", str(folder)],
            cwd=folder, env=environment,
            stdout=log, stderr=log, text=True, preexec_fn=on_core(0),
        )  # fmt: skip
    return Contestant(process, port, grpc_port)


def on_core(number: int) -> Callable[[], None]:
    """Servers on one core, the load on another, where the machine has two."""
    cores = sorted(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {cores[number % len(cores)]})


def run_load(server: Contestant, kind: str, seconds: float, rate: float | None = None) -> dict[str, float]:
    """One run; adds the server's CPU microseconds a request."""
    moment = {"ts_close": lab.TS_CLOSE.isoformat(), "now": lab.NOW.isoformat()}
    plan = {
        "kind": kind,
        "port": server.grpc_port if kind == "grpc" else server.port,
        "seconds": seconds,
        "rows": observations(64).tolist(),
        "parameters": moment,
        "connections": CONNECTIONS,
        "rate": rate,
    }
    before = server.cpu()
    done = subprocess.run(
        [sys.executable, "-m", "tests.serving.load"],
        cwd=ROOT, input=json.dumps(plan), capture_output=True, text=True, check=True, preexec_fn=on_core(1),
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if result["failed"] or set(result["statuses"]) != {"200"}:
        raise RuntimeError(f"{kind}: {result}")
    result["cpu_us"] = (server.cpu() - before) / result["answered"] * 1e6
    return result


def costs(release: Release, root: Path) -> dict[str, float]:
    """CPU microseconds of one request's parts, in this process: best of seven."""
    import asyncio

    setup = ServingSetup(
        release=release.folder, trust=Path("trust"), environment="local", predictions=root / "costs",
        params=load_params().serving, verify=verify, replay_clock=True,
    )  # fmt: skip
    parameters = ModelParameters(_env_file=None, version="7")
    settings = ModelSettings(
        _env_file=None, name="policy", implementation=PolicyRuntime, parameters=parameters
    )

    def best(run: Callable[[], object], count: int = 3000) -> float:
        times = []
        for _ in range(7):
            start = time.process_time()
            for _ in range(count):
                run()
            times.append((time.process_time() - start) / count * 1e6)
        return min(times)

    async def measure() -> dict[str, float]:
        runtime = PolicyRuntime(settings, setup)
        await runtime.load()
        request = Call(None, observations(1), lab.TS_CLOSE, lab.NOW, False, False)
        policy, log = runtime.policy, runtime.log
        model = best(lambda: policy.run(request.observation))
        decision = best(lambda: policy.decide(request.observation, lab.TS_CLOSE, lab.NOW))
        verdicts = policy.decide(request.observation, lab.TS_CLOSE, lab.NOW).verdicts
        counting = best(lambda: runtime.counts.decided(0.001, verdicts))
        answers = []
        for _ in range(4):  # the first writes load what the log's writer needs
            start, rows = time.process_time(), log.written
            for _ in range(20_000):
                runtime.answer(request)
            log.flush(30)
            answers.append((time.process_time() - start) / (log.written - rows) * 1e6)
        await runtime.unload()
        return {
            "model": model,
            "guard": decision - model,
            "metrics": counting,
            "log": min(answers) - decision - counting,  # the writer's thread, request id and answer included
        }

    return asyncio.run(measure())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round; judges no goal")
    quick = parser.parse_args().quick
    rounds, seconds, long = (1, 1.5, 3.0) if quick else (5, 4.0, 20.0)
    Path("build").mkdir(exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="bench-serving-", dir="build")).resolve()
    release = write_release(root / "releases")
    model = release.folder / "content" / "model.onnx"
    ours = lab.Server(release.folder, root / "predictions", log_capacity=load_params().serving.log_capacity)
    on_one = sorted(os.sched_getaffinity(0))[0]
    os.sched_setaffinity(ours.process.pid, {on_one})
    here, installed = ROOT / "bench", ROOT / "bench" / "as_installed"
    servers = {
        "ours": Contestant(ours.process, ours.port, ours.grpc_port),
        "tuned": start_stock(root, "tuned", model, here, installed, parallel_workers=0, debug=False),
        "faster": start_stock(root, "faster", model, here, parallel_workers=0, debug=False),
        "shipped": start_stock(root, "shipped", model, here, installed),
    }
    figures: list[Figure] = []

    def goal(limit: float) -> float | None:
        return None if quick else limit

    try:
        for server in servers.values():
            server.wait_ready()
        runs = [("ours", kind) for kind in KINDS] + [("tuned", kind) for kind in PEER_OF.values()]
        runs = [*dict.fromkeys(runs), ("faster", "json"), ("shipped", "json")]
        for name, kind in runs:
            run_load(servers[name], kind, 1.0)  # warm
        results: dict[tuple[str, str], list[dict[str, float]]] = {run: [] for run in runs}
        for turn in range(rounds):
            for name, kind in runs:
                results[name, kind].append(run_load(servers[name], kind, seconds))
            print(f"round {turn + 1} of {rounds}", flush=True)

        def median(name: str, kind: str, what: str) -> float:
            return statistics.median(result[what] for result in results[name, kind])

        for kind, limit in (("json", 10.0), ("binary", 14.0), ("grpc", 2.5)):
            for name, what, unit, ratio in (
                ("rate", "per_second", "requests/s", goal(limit)),
                ("cpu", "cpu_us", "µs CPU/request", None),
                ("p99", "p99", "ms", None),
            ):
                value, peer = median("ours", kind, what), median("tuned", PEER_OF[kind], what)
                against = f"stock, tuned, {PEER_OF[kind]}"
                figures.append(Figure(f"{kind}_{name}", value, unit, against, peer, ratio))
        rate, peer = median("ours", "json", "per_second"), median("shipped", "json", "per_second")
        figures.append(Figure("json_rate_as_shipped", rate, "requests/s", "stock, as shipped", peer))
        cpu, peer = median("ours", "json", "cpu_us"), median("faster", "json", "cpu_us")
        figures.append(Figure("json_cpu_httptools", cpu, "µs CPU/request", "stock, tuned, httptools", peer))
        rate, peer = median("ours", "json", "per_second"), median("faster", "json", "per_second")
        figures.append(Figure("json_rate_httptools", rate, "requests/s", "stock, tuned, httptools", peer))
        result = run_load(servers["ours"], "json", long, RATE)
        for point in ("p50", "p99", "p999", "worst"):
            limit_ms = goal(10.0) if point == "p999" else None
            figures.append(Figure(f"open_loop_{point}", result[point], "ms", goal=limit_ms, at_most=True))
        figures.append(Figure("open_loop_cpu", result["cpu_us"], "µs CPU/request"))
    finally:
        for server in servers.values():
            server.process.terminate()
        for server in servers.values():
            server.process.wait(timeout=60)
    for name, cost in costs(release, root).items():
        figures.append(Figure(f"cost_{name}", cost, "µs CPU/request"))
    shutil.rmtree(root)
    packages = ["mlserver", "onnxruntime", "uvicorn", "httptools", "uvloop", "grpcio"]
    import importlib.metadata

    compared = COMPARED.format(
        connections=CONNECTIONS, version=importlib.metadata.version("mlserver"), rate=RATE
    )
    return publish("serving", figures, compared, packages)


if __name__ == "__main__":
    sys.exit(main())
