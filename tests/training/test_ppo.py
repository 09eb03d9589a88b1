from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import polars as pl
import pytest
import torch

from sekisho import trainer
from sekisho.data.panel import load_panel
from sekisho.errors import TrainingError
from sekisho.features import load_features
from sekisho.market import Agent, MarketData, derive_units
from sekisho.params import PpoParams

from .conftest import Interrupted, interrupt_at, newest_update

ROOT = Path(__file__).parents[2]
TRAINER = ROOT / "training/ppo.py"
World = Any
Run = Callable[..., Path]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_it_learns_a_planted_signal_net_of_costs(world: World, run_ppo: Run) -> None:
    world.with_params(ppo={"samples": 60_000, "environments": 64, "steps": 16})  # a third is not enough
    run = json.loads((run_ppo(world, "run") / "run.json").read_text())
    assert run["validation_sharpe"] > 5
    assert run["windows"]["train"] == ["2025-01-06", "2025-01-27"]


def test_a_run_publishes_model_curve_and_windows(world: World, run_ppo: Run) -> None:
    out = run_ppo(world, "run", fold=1)
    assert set(bytes_of(out)) == {"model.onnx", "curve.csv", "run.json"}
    rows = list(csv.DictReader((out / "curve.csv").open()))
    assert [int(row["update"]) for row in rows] == list(range(1, 17))
    assert [bool(row["validation_sharpe"]) for row in rows] == [i % 4 == 0 for i in range(1, 17)]
    run = json.loads((out / "run.json").read_text())
    assert (run["samples"], run["updates"], run["fold"], run["seed"]) == (4096, 16, 1, 1)
    assert run["windows"]["test"][1] == "2025-02-14"
    assert str(world.folder) not in (out / "run.json").read_text()
    assert "key" not in run  # it covers the trainer's text: a comment would look like another trial
    assert not (world.folder / "checkpoints/run").exists()


def test_same_seed_same_bytes_other_seed_another_model(world: World, run_ppo: Run) -> None:
    one, two, other = run_ppo(world, "a"), run_ppo(world, "b"), run_ppo(world, "c", seed=2)
    assert bytes_of(one) == bytes_of(two)
    assert (one / "model.onnx").read_bytes() != (other / "model.onnx").read_bytes()


def test_what_is_learned_in_bfloat16_has_the_same_bytes_twice_and_is_published_in_float32(
    world: World, run_ppo: Run
) -> None:
    exact = run_ppo(world, "float32")
    world.with_params(ppo={"precision": "bfloat16"})
    first, again = run_ppo(world, "first"), run_ppo(world, "again")
    assert bytes_of(first) == bytes_of(again)
    found, expected = onnx.load(first / "model.onnx"), onnx.load(exact / "model.onnx")
    assert [node.op_type for node in found.graph.node] == [node.op_type for node in expected.graph.node]
    weights = [
        (onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(other))
        for one, other in zip(found.graph.initializer, expected.graph.initializer, strict=True)
    ]
    assert all(one.dtype == other.dtype for one, other in weights)
    assert any((one != other).any() for one, other in weights)
    for one, other in weights:  # what rounding moves in 16 updates
        np.testing.assert_allclose(one, other, atol=0.05)


@pytest.mark.parametrize(("precision", "off"), [("bfloat16", 0.02), ("float32", 0.0)])
def test_trades_and_values_are_float32_whatever_the_hidden_layers_are_in(
    ppo: ModuleType, world: World, precision: str, off: float
) -> None:
    options = world.params.ppo.model_copy(update={"precision": precision})
    torch.manual_seed(1)
    agent, inputs = Agent(4, 3, 8, None), torch.randn(64, 3, 10)
    for net, exact in ((agent.actor, agent.trade), (agent.critic, agent.value)):
        found = ppo.through(net, options, inputs)
        assert found.dtype == torch.float32
        assert (found - exact(inputs)).abs().max() <= off * exact(inputs).abs().max()


def test_the_test_window_changes_nothing(make_world: Callable[..., World], run_ppo: Run) -> None:
    world = make_world()
    before = run_ppo(world, "before")
    for path in sorted(world.bars.glob("*.parquet"))[-11:]:  # both test windows but for the first session
        table = pl.read_parquet(path)
        table.with_columns(open=table["open"] * 2, close=table["close"] * 2).write_parquet(path)
    after = run_ppo(world, "after")
    assert (before / "model.onnx").read_bytes() == (after / "model.onnx").read_bytes()


@pytest.mark.parametrize("longest", [132, 40])
def test_the_evaluation_reaches_the_end_of_the_validation_window(
    longest: int, world: World, ppo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "EVALUATION_BARS", longest)  # 99 steps: one run, or three of 33
    panel = load_panel(world.bars)
    data = MarketData.from_panel(panel, load_features(world.features, panel), world.params.market)
    torch.manual_seed(1)
    agent = trainer.Agent(data.features.shape[2], len(data.symbols), 8, world.params.market)
    start, stop = len(panel) - 100, len(panel)
    agent.fit_scales(data, 100, start, derive_units(data, 100, start, world.params.market))
    with torch.no_grad():
        agent.trade_unit.fill_(0.2)
        agent.actor[-1].weight.normal_(0.0, 2.0)
    close = data.close.clone()
    close[stop - 1] *= 1.05  # seen by the very last step alone
    sharpes = [
        trainer.evaluate(agent, d, (start, stop), world.params.market)
        for d in (data, replace(data, close=close))
    ]
    assert sharpes[0] != sharpes[1]


def test_a_ruined_account_earns_nothing_more_in_the_evaluation(world: World) -> None:
    """Prices rise twentyfold and end a short account; whether they then fall by half must not matter."""
    panel = load_panel(world.bars)
    data = MarketData.from_panel(panel, load_features(world.features, panel), world.params.market)
    agent = trainer.Agent(data.features.shape[2], len(data.symbols), 8, world.params.market)
    agent.act = lambda observation, state: (torch.full(observation.shape[:2], -0.3), state)  # type: ignore[method-assign]
    start, stop = len(panel) - 100, len(panel)
    sharpes = []
    for later in (1.0, 0.5):
        prices = {name: getattr(data, name).clone() for name in ("open", "close")}
        for values in prices.values():
            values[start + 50 :] *= 20.0
            values[start + 60 :] *= later
        moved = replace(data, **prices)
        sharpes.append(trainer.evaluate(agent, moved, (start, stop), world.params.market))
    assert sharpes[0] == sharpes[1] < 0.0


def test_a_validation_window_of_two_bars_is_refused_not_scored_zero(world: World) -> None:
    panel = load_panel(world.bars)
    data = MarketData.from_panel(panel, load_features(world.features, panel), world.params.market)
    agent = trainer.Agent(data.features.shape[2], len(data.symbols), 8, world.params.market)
    with pytest.raises(TrainingError, match="validation window holds 1 returns"):
        trainer.evaluate(agent, data, (len(panel) - 2, len(panel)), world.params.market)


@pytest.mark.parametrize("update", [1, 5, 15])
def test_interrupted_and_resumed_gives_the_same_bytes(
    update: int, world: World, run_ppo: Run, ppo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_ppo(world, "whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, update)
        with pytest.raises(Interrupted):
            run_ppo(world, "broken")
    assert not (world.folder / "broken").exists()
    assert bytes_of(run_ppo(world, "broken")) == bytes_of(whole)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a checkpoint"])
@pytest.mark.parametrize("damaged", ["*-shared.pt", "*-rank-0-of-1.pt", "*.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    damaged: str,
    damage: bytes,
    world: World,
    run_ppo: Run,
    ppo: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = run_ppo(world, "whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        with pytest.raises(Interrupted):
            run_ppo(world, "broken")
    folder = world.folder / "checkpoints/broken"
    before, newest = sorted(folder.glob(damaged))
    newest.write_bytes(damage)
    assert before.name.startswith("0000005-")
    assert newest_update(folder) == 5
    assert newest.name in capsys.readouterr().err
    assert bytes_of(run_ppo(world, "broken")) == bytes_of(whole)


@pytest.mark.slow
def test_help_shows_every_parameter_with_its_value() -> None:
    shown = subprocess.run(
        [sys.executable, str(TRAINER), "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    for name in PpoParams.model_fields:
        assert f"--{name.replace('_', '-')}" in shown


def test_rewards_that_are_not_finite_stop_the_run_and_keep_the_last_checkpoint(
    world: World, run_ppo: Run, ppo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(trainer.TradingMarket):  # type: ignore[misc, name-defined]
        def step(self, actions: Any) -> Any:
            *rest, infos = super().step(actions)
            self.calls = getattr(self, "calls", 0) + 1
            infos["asset_reward"] = infos["asset_reward"] * (float("nan") if self.calls > 20 else 1.0)
            return *rest, infos

    monkeypatch.setattr(trainer, "TradingMarket", Broken)
    with pytest.raises(TrainingError, match="update 3: the reward is not finite"):
        run_ppo(world, "run")
    assert newest_update(world.folder / "checkpoints/run") == 2
    assert not (world.folder / "run").exists()


def test_an_exploding_loss_stops_the_run(world: World, run_ppo: Run) -> None:
    with pytest.raises(TrainingError, match=r"loss is|not finite"):
        run_ppo(world, "run", learning_rate=1e9, max_gradient_norm=1e12)
    assert not (world.folder / "run").exists()


def test_a_fold_that_is_not_there_is_refused(world: World, run_ppo: Run) -> None:
    with pytest.raises(TrainingError, match="choose one of 0 to 1"):
        run_ppo(world, "run", fold=2)


def test_gae_by_its_definition(ppo: ModuleType) -> None:
    """Sum of discounted TD errors up to the episode's end; a truncated step keeps its bootstrap."""
    torch.manual_seed(1)
    steps, discount, lam = 9, 0.9, 0.8
    rewards, values, next_values = (torch.randn(steps, 4, 2) for _ in range(3))
    ended = torch.rand(steps, 4, 1) < 0.3
    found = ppo.gae(rewards, values, next_values, ended, discount, lam)
    for env in range(4):
        for start in range(steps):
            expected, weight = torch.zeros(2), 1.0
            for step in range(start, steps):
                delta = rewards[step, env] + discount * next_values[step, env] - values[step, env]
                expected = expected + weight * delta
                weight *= discount * lam
                if ended[step, env]:
                    break
            torch.testing.assert_close(found[start, env], expected)
