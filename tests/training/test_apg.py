from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import sekisho.trainer
from sekisho.errors import TrainingError
from sekisho.market import Agent, TradingMarket
from sekisho.market.linear_quadratic import LinearQuadratic, LinearUnits, Problem, judge, riccati
from sekisho.params import ApgParams, load_params
from sekisho.trainer import Run, Task, train_fold

from .conftest import Interrupted, interrupt_at, newest_update

ROOT = Path(__file__).parents[2]
TRAINER = ROOT / "training/apg.py"
SMALL = {"samples": 4096, "environments": 32, "steps": 8, "minibatches": 2, "hidden": 8}
LOOP = {"evaluate_every": 4, "patience": 0, "checkpoint_every": 1, "device": "cpu"}
ONE = Problem(
    assets=1, decay=(0.1,), risk_aversion=1.0, cost=100.0, discount=0.99, correlation=0.0, noise=0.0
)
World = Any
Train = Callable[..., Path]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def apg() -> ModuleType:
    return load(TRAINER)


@pytest.fixture
def train(apg: ModuleType, world: World) -> Train:
    def run(name: str, fold: int = 0, seed: int = 1, **options: Any) -> Path:
        world.with_params(apg=SMALL | options, train=LOOP)
        out: Path = world.folder / name
        train_fold(
            apg.learn, world.params, fold=fold, seed=seed, out=out, bars=world.bars, features=world.features,
            checkpoints=str(world.folder / "checkpoints" / name),
        )  # fmt: skip
        return out

    return run


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def trained(learn: Any, problem: Problem, episode_steps: int | None = None) -> tuple[Agent, LinearUnits]:
    options = load_params(ROOT / "params.yaml").apg.model_copy(
        update={"environments": 64, "samples": 200_000, "discount": problem.discount}
    )
    torch.manual_seed(1)
    agent = Agent(len(problem.decay), problem.assets, options.hidden, None)
    market = LinearQuadratic(problem, options.environments, episode_steps=episode_steps)
    run = Run(Task(market, agent, lambda: 0.0), options.samples, evaluate_every=10**9)
    learn(run.task, options, 1, run)
    return agent, market.units


def share_of_optimum(learn: Any, problem: Problem) -> float:
    agent, _ = trained(learn, problem)
    found = judge(problem, lambda seen: agent.trade(agent.encode(seen)), accounts=256, seed=77)
    return found.value / riccati(problem).value


def test_it_learns_a_planted_signal_net_of_costs(train: Train) -> None:
    run = json.loads((train("run", samples=20_000, environments=16, steps=16) / "run.json").read_text())
    assert run["trainer"] == "apg"
    assert run["validation_sharpe"] > 5


def test_it_comes_near_the_optimum_of_a_market_with_a_known_one(apg: ModuleType) -> None:
    assert share_of_optimum(apg.learn, ONE) > 0.97


def test_the_end_of_an_episode_is_not_the_end_of_the_account(apg: ModuleType) -> None:
    """Episodes are shorter than the horizon: without a bootstrap it would trade two thirds of the optimum."""
    agent, units = trained(apg.learn, ONE, episode_steps=6)
    seen = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])  # a signal and an empty book
    found, best = agent.trade(agent.encode(seen)), riccati(ONE).rule.decide(seen, units)
    assert 0.8 < (found.abs().sum() / best.abs().sum()).item() < 1.4


def test_correlated_assets_with_two_signals_each(apg: ModuleType) -> None:
    problem = replace(ONE, assets=3, decay=(0.05, 0.3), correlation=0.5)
    assert share_of_optimum(apg.learn, problem) > 0.9


def test_the_benchmark_sees_a_trainer_that_does_not_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    bench = load(ROOT / "bench/learning.py")
    trial = bench.Trial("apg", "one_asset", bench.SEEDS[0])
    idle = bench.attempt(trial, learning_rate=0.0, samples=8192)
    (worst, _, seconds) = bench.figures_of([idle])
    assert (worst.name, worst.holds) == ("apg_one_asset", False)
    assert worst.value < 50
    assert seconds.name == "apg_one_asset_time"


def test_same_seed_same_bytes_other_seed_another_model(train: Train) -> None:
    one, two, other = train("a"), train("b"), train("c", seed=2)
    assert bytes_of(one) == bytes_of(two)
    assert (one / "model.onnx").read_bytes() != (other / "model.onnx").read_bytes()


@pytest.mark.parametrize("update", [1, 5, 15])
def test_interrupted_and_resumed_gives_the_same_bytes(
    update: int, train: Train, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train("whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, update)
        with pytest.raises(Interrupted):
            train("broken")
    assert not (world.folder / "broken").exists()
    assert bytes_of(train("broken")) == bytes_of(whole)


@pytest.mark.slow
def test_help_shows_every_parameter() -> None:
    shown = subprocess.run(
        [sys.executable, str(TRAINER), "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    for name in ApgParams.model_fields:
        assert f"--{name.replace('_', '-')}" in shown


def test_rewards_that_are_not_finite_stop_the_run_and_keep_the_last_checkpoint(
    train: Train, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(TradingMarket):
        def step(self, actions: Any) -> Any:
            observation, reward, *rest = super().step(actions)
            self.calls = getattr(self, "calls", 0) + 1
            return observation, reward * (float("nan") if self.calls > 20 else 1.0), *rest

    monkeypatch.setattr(sekisho.trainer, "TradingMarket", Broken)
    with pytest.raises(TrainingError, match="update 3: the reward is not finite"):
        train("run")
    assert newest_update(world.folder / "checkpoints/run") == 2
    assert not (world.folder / "run").exists()


def test_an_exploding_gradient_stops_the_run(train: Train, world: World) -> None:
    with pytest.raises(TrainingError, match=r" is |not finite"):
        train("run", critic_learning_rate=1e9)
    assert not (world.folder / "run").exists()


def test_td_lambda_by_its_definition(apg: ModuleType) -> None:
    """(1 − λ) Σ λⁿ⁻¹ × the n-step returns; what is left of the weight is the longest return's."""
    generator = torch.Generator().manual_seed(1)
    steps, discount, lam = 9, 0.9, 0.8
    rewards, values = (torch.randn(steps, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    ended = torch.rand(steps, 4, generator=generator) < 0.3
    found = apg.td_lambda(rewards, values, ended, discount, lam)
    for env in range(4):
        for start in range(steps):
            expected, left, earned, weight = 0.0, 1.0, 0.0, 1.0
            for step in range(start, steps):
                earned += weight * rewards[step, env].item()
                weight *= discount
                n_step = earned + weight * values[step, env].item()
                if ended[step, env] or step == steps - 1:
                    expected += left * n_step
                    break
                expected += left * (1 - lam) * n_step
                left *= lam
            assert found[start, env].item() == pytest.approx(expected)
