from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from sekisho.market import Agent, MarketData, derive_units, export_onnx
from sekisho.params import MarketParams

Maker = Callable[..., MarketData]


def make_agent(data: MarketData, params: MarketParams) -> Agent:
    torch.manual_seed(3)
    agent = Agent(4, len(data.symbols), 8, params)
    agent.fit_scales(data, 5, 40, derive_units(data, 5, 40, params))
    return agent


def observations(count: int, assets: int, generator: torch.Generator) -> torch.Tensor:
    weights = 0.1 * torch.randn(count, assets, 1, generator=generator)
    return torch.cat((torch.randn(count, assets, 4, generator=generator) * 3, weights), dim=2)


def test_a_symbol_that_does_not_move_in_training_is_left_alone(
    make_data: Maker, params: MarketParams
) -> None:
    data = make_data()
    data.close[:, 1] = data.open[:, 1] = 100.0
    agent = make_agent(data, params)
    assert agent.trade_unit[1] == 0.0
    weights = agent(torch.cat((data.features[5:40], torch.zeros(35, 3, 1)), dim=2))
    assert weights.isfinite().all()
    assert (weights[:, 1] == 0.0).all()


@pytest.mark.parametrize("assets", [1, 3, 11])
def test_onnx_gives_the_agents_answers_for_any_batch(
    assets: int, make_data: Maker, params: MarketParams, tmp_path: Path
) -> None:
    agent = make_agent(make_data(assets=assets), params)
    generator = torch.Generator().manual_seed(1)
    digest = export_onnx(agent, tmp_path / "model.onnx", observations(16, assets, generator))
    assert digest == hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7, 64):
        batch = observations(count, assets, generator)
        found = torch.from_numpy(session.run(["target_weights"], {"observation": batch.numpy()})[0])
        torch.testing.assert_close(found, agent(batch).detach(), atol=1e-5, rtol=1e-4)
        assert (found.abs() <= params.max_asset + 1e-6).all()


def test_the_file_names_no_place_tool_or_version(
    make_data: Maker, params: MarketParams, tmp_path: Path
) -> None:
    agent = make_agent(make_data(), params)
    export_onnx(agent, tmp_path / "model.onnx", observations(4, 3, torch.Generator().manual_seed(1)))
    content = (tmp_path / "model.onnx").read_bytes()
    for noise in (
        b"pytorch",
        b"torch",
        b".py",
        b"sekisho",
        str(Path.home()).encode(),
        torch.__version__.encode(),
    ):
        assert noise not in content
    model = onnx.load(tmp_path / "model.onnx")
    assert [value.name for value in model.graph.input] == ["observation"]
    assert [value.name for value in model.graph.output] == ["target_weights"]


SCRIPT = """
import sys, torch
from pathlib import Path
from sekisho.market import Agent, export_onnx
from sekisho.params import MarketParams
torch.manual_seed(7)
agent = Agent(4, 3, 8, MarketParams.model_validate_json(sys.argv[2]))
print(export_onnx(agent, Path(sys.argv[1]), torch.linspace(-1, 1, 4 * 3 * 5).reshape(4, 3, 5)))
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(params: MarketParams, tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "deeper/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / name), params.model_dump_json()]
        digests.add(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(digests) == 1


def test_normalisation_comes_from_the_window_given(make_data: Maker, params: MarketParams) -> None:
    data = make_data()
    agent = make_agent(data, params)
    data.features[40:] = 1e6  # a later world
    again = make_agent(data, params)
    assert torch.equal(agent.feature_mean, again.feature_mean)
    assert torch.equal(agent.feature_scale, again.feature_scale)
    normal = (data.features[5:40] - agent.feature_mean) * agent.feature_scale
    torch.testing.assert_close(normal.mean((0, 1)), torch.zeros(4), atol=1e-5, rtol=0)


def test_a_constant_feature_is_left_out(make_data: Maker, params: MarketParams) -> None:
    """Time of day on daily bars."""
    data = make_data()
    data.features[5:, :, 2] = 0.25
    agent = make_agent(data, params)
    base = observations(4, 3, torch.Generator().manual_seed(1))
    moved = base.clone()
    moved[..., 2] += 100.0
    torch.testing.assert_close(agent(base), agent(moved))


def test_an_untrained_agent_hardly_trades(make_data: Maker, params: MarketParams) -> None:
    agent = make_agent(make_data(), params)
    batch = observations(32, 3, torch.Generator().manual_seed(2))
    batch[..., -1] = 0.0
    assert float(agent(batch).detach().abs().max()) < 0.05
