"""The agent with a memory: replayed as it was collected, exported with its state, judged with its state."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from sekisho.backtest.strategies import Agent as ModelFile
from sekisho.backtest.strategies import Context, History
from sekisho.data.panel import load_panel
from sekisho.features import load_features
from sekisho.market import Agent, export_onnx

World = Any
Run = Callable[..., Path]
UNITS = 4


@pytest.fixture
def agent() -> Agent:
    torch.manual_seed(3)
    return Agent(4, 3, 8, None, UNITS)


def test_a_sequence_is_replayed_as_it_was_collected(ppo: ModuleType, agent: Agent) -> None:
    steps, accounts = 9, 5
    generator = torch.Generator().manual_seed(1)
    encoded = torch.randn(steps, accounts, 3, 10, generator=generator)
    ended = torch.rand(steps, accounts, 1, generator=generator) < 0.3
    state, states, inputs = torch.randn(accounts, 3, UNITS, generator=generator), [], []
    for step in range(steps):
        states.append(state)
        seen, state = agent.recall(encoded[step], state)
        inputs.append(seen)
        state = torch.where(ended[step, :, :, None], 0.0, state)
    rows = [part.transpose(0, 1) for part in (encoded, torch.stack(states), ended)]
    torch.testing.assert_close(ppo.replay(agent, *rows), torch.stack(inputs, dim=1))


def test_the_memory_learns_from_later_steps_but_not_across_an_episodes_end(
    ppo: ModuleType, agent: Agent
) -> None:
    encoded = torch.randn(1, 4, 3, 10, generator=torch.Generator().manual_seed(1)).requires_grad_()
    states, ended = torch.zeros(1, 4, 3, UNITS), torch.zeros(1, 4, 1, dtype=torch.bool)
    ended[0, 1] = True
    last = agent.trade(ppo.replay(agent, encoded, states, ended))[0, 3].sum()
    (grad,) = torch.autograd.grad(last, encoded)
    reached = grad.abs().sum(dim=(0, 2, 3)) > 0
    assert reached.tolist() == [False, False, True, True]


def test_the_exported_state_goes_round_as_the_agents_own(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    generator = torch.Generator().manual_seed(1)
    export_onnx(agent, path, torch.randn(16, 3, 5, generator=generator))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["observation", "state"]
    assert [o.name for o in session.get_outputs()] == ["target_weights", "next_state"]
    own, theirs = agent.first_state(7), np.zeros((7, 3, UNITS), np.float32)
    for _ in range(20):
        seen = torch.randn(7, 3, 5, generator=generator)
        with torch.no_grad():
            weights, own = agent.act(seen, own)
        found, theirs = session.run(None, {"observation": seen.numpy(), "state": theirs})
        np.testing.assert_allclose(found, weights, atol=1e-5)
        np.testing.assert_allclose(theirs, own, atol=1e-5)
    assert own.abs().max() > 0.1


def test_the_backtest_carries_each_accounts_state_and_forgets_it_at_a_new_window(
    world: World, run_ppo: Run
) -> None:
    out = run_ppo(world, "run", recurrent=UNITS)
    panel = load_panel(world.bars)
    features = load_features(world.features, panel)
    history, start = History(panel), 700

    def decide(traders: list[ModelFile], bars: range, first: int) -> np.ndarray:
        rows = []
        for bar in bars:
            for account, trader in enumerate(traders):
                weight = np.full((3, 1), 0.1 * account, np.float32)
                seen = np.concatenate((features[bar], weight), axis=1)
                rows.append(trader(seen, Context(history, bar, first, account)))
        return np.array(rows)

    def fresh() -> ModelFile:
        return ModelFile(out / "model.onnx")

    shared = fresh()
    bars = range(start, start + 20)
    together, alone = decide([shared, shared], bars, start), decide([fresh(), fresh()], bars, start)
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(decide([shared, shared], bars, start), together)  # a new window: forgotten
    forgetful = np.concatenate([decide([fresh(), fresh()], range(bar, bar + 1), bar) for bar in bars])
    assert np.abs(forgetful - together).max() > 1e-4  # the state matters


def test_it_trains_publishes_and_repeats_itself(world: World, run_ppo: Run) -> None:
    options = {"recurrent": UNITS, "samples": 20_000, "environments": 64, "steps": 16}
    one, two = run_ppo(world, "a", **options), run_ppo(world, "b", **options)
    assert (one / "model.onnx").read_bytes() == (two / "model.onnx").read_bytes()
    assert json.loads((one / "run.json").read_text())["validation_sharpe"] > 3
