"""Every row of a test window gets the same action offline and through HTTP, binary tensors and gRPC."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from sekisho.data.contract import COLUMNS
from sekisho.data.panel import load_panel
from sekisho.data.synthetic import synthetic_bars
from sekisho.features import compute_features, feature_names, lookback
from sekisho.market.agent import Agent
from sekisho.market.onnx import export_onnx
from sekisho.params import load_params

ROOT = Path(__file__).parents[2]
ULPS = 8  # float32 steps at a weight of 0.3 between torch and ONNX Runtime, which add in another order

pytestmark = pytest.mark.slow


def test_every_row_of_a_test_window_gets_the_same_action_everywhere(
    start: Callable[..., Any], lab: ModuleType, tmp_path: Path
) -> None:
    params = load_params(ROOT / "params.yaml")
    bars = tmp_path / "bars"
    bars.mkdir()
    sessions = params.split.test_sessions + 2  # the first ones warm the features up
    made = synthetic_bars(dt.date(2025, 1, 6), sessions, seed=3)
    for (session,), part in made.partition_by("session", as_dict=True).items():
        part.select([*COLUMNS, "session"]).write_parquet(bars / f"{session}.parquet")
    panel = load_panel(bars)
    features = compute_features(panel, params.features)[lookback(params.features) - 1 :]
    names = feature_names(params.features)
    torch.manual_seed(1)
    agent = Agent(len(names), len(panel.symbols), 32, params.market).eval()
    with torch.no_grad():  # an untrained actor hardly trades
        for parameter in agent.actor.parameters():
            parameter.mul_(3.0)
    agent.trade_unit.fill_(0.05)
    agent.position_unit.fill_(0.05)

    release = lab.write_release(tmp_path / "releases").folder
    content = release / "content"
    example = np.concatenate(
        [features[:64], np.zeros((64, len(panel.symbols), 1), np.float32)], axis=2, dtype=np.float32
    )
    export_onnx(agent, content / "model.onnx", torch.from_numpy(example))
    session_of_offline = ort.InferenceSession(content / "model.onnx", providers=["CPUExecutionProvider"])
    rows, offline = episode(session_of_offline, features)
    low, high = features.min(axis=0), features.max(axis=0)
    about = json.loads((content / "observation.json").read_text())
    limits = {
        name: getattr(params.market, name) for name in ("max_gross", "max_net", "max_asset", "max_turnover")
    }
    about |= {
        "symbols": panel.symbols,
        "features": names,
        "limits": limits,
        "ranges": {"low": low.tolist(), "high": high.tolist()},
    }
    (content / "observation.json").write_text(json.dumps(about))
    golden = {"observation": rows[:8].tolist(), "target_weights": offline[:8].tolist()}
    (content / "golden.json").write_text(json.dumps(golden))

    with torch.no_grad():
        by_torch = agent.act(torch.from_numpy(rows), agent.first_state(len(rows)))[0].numpy()
    apart = float(np.abs(by_torch - offline).max())
    assert apart <= ULPS * np.spacing(np.float32(0.3)), apart

    server = start(release).wait_ready()
    for kind in ("json", "binary", "grpc"):
        record = tmp_path / f"{kind}.json"
        plan = {
            "kind": kind,
            "port": server.grpc_port if kind == "grpc" else server.port,
            "seconds": len(rows) / 500.0,
            "rate": 500.0,
            "rows": rows.tolist(),
            "parameters": {"ts_close": lab.TS_CLOSE.isoformat(), "now": lab.NOW.isoformat()},
            "record": str(record),
        }
        subprocess.run(
            [sys.executable, "-m", "tests.serving.load"],
            cwd=ROOT, input=json.dumps(plan), text=True, check=True, capture_output=True,
        )  # fmt: skip
        answers = json.loads(record.read_text())
        assert sorted(answer["row"] for answer in answers) == list(range(len(rows)))
        assert {answer["verdict"] for answer in answers} == {"ok"}
        found = np.empty_like(offline)
        for answer in answers:
            found[answer["row"]] = np.array(answer["weights"], dtype=np.float32)
        assert found.tobytes() == offline.tobytes(), f"{kind}: {np.abs(found - offline).max()}"
    print(
        f"{len(rows)} rows, {np.abs(offline).sum(axis=1).mean():.2f} mean gross; torch apart by {apart:.1e}"
    )


def episode(session: ort.InferenceSession, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Observations and actions, bar by bar: what was decided is held at the next bar."""
    held = np.zeros(features.shape[1], dtype=np.float32)
    rows, actions = [], []
    for bar in features:
        row = np.concatenate([bar, held[:, None]], axis=1, dtype=np.float32)[None]
        held = session.run(["target_weights"], {"observation": row})[0][0]
        rows.append(row[0])
        actions.append(held)
    return np.stack(rows), np.stack(actions)
