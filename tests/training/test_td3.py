from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.training.conftest import Interrupted, interrupt_at, newest_update
from tests.training.test_apg import LOOP, ONE, bytes_of, load

import sekisho.trainer
from sekisho.checkpoints import Checkpoints
from sekisho.errors import TrainingError
from sekisho.market import Agent, TradingMarket
from sekisho.market.linear_quadratic import LinearQuadratic, judge, riccati
from sekisho.market.ranks import Ranks
from sekisho.params import Td3Params, load_params
from sekisho.trainer import Run, Task, train_fold

ROOT = Path(__file__).parents[2]
TRAINER = ROOT / "training/td3.py"
SMALL = {  # the ring is written over several times
    "samples": 4096, "environments": 32, "steps": 8, "buffer": 1000, "first": 200, "batch": 64, "updates": 1,
    "hidden": 8,
}  # fmt: skip
World = Any
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def td3() -> ModuleType:
    return load(TRAINER)


@pytest.fixture
def train(td3: ModuleType, world: World) -> Train:
    def run(name: str, fold: int = 0, seed: int = 1, **options: Any) -> Path:
        world.with_params(td3=SMALL | options, train=LOOP)
        out: Path = world.folder / name
        train_fold(
            td3.learn, world.params, fold=fold, seed=seed, out=out, bars=world.bars, features=world.features,
            checkpoints=str(world.folder / "checkpoints" / name),
        )  # fmt: skip
        return out

    return run


def test_it_learns_a_planted_signal_net_of_costs(train: Train) -> None:
    options = {"samples": 20_000, "steps": 16, "buffer": 16_384, "first": 512, "batch": 128}
    run = json.loads((train("run", **options) / "run.json").read_text())
    assert run["trainer"] == "td3"
    assert run["validation_sharpe"] > 5


@pytest.mark.slow
def test_it_finds_most_of_the_optimum_of_a_market_with_a_known_one(td3: ModuleType) -> None:
    options = load_params(ROOT / "params.yaml").td3.model_copy(update={"discount": ONE.discount})
    torch.manual_seed(1)
    agent = Agent(1, 1, options.hidden, None)
    market = LinearQuadratic(ONE, options.environments, episode_steps=200)
    run = Run(Task(market, agent, lambda: 0.0), options.samples, evaluate_every=10**9)
    td3.learn(run.task, options, 1, run)
    found = judge(ONE, lambda seen: agent.trade(agent.encode(seen)), accounts=256, seed=77)
    assert found.value > 0.8 * riccati(ONE).value


def test_same_seed_same_bytes_other_seed_another_model(train: Train) -> None:
    one, two, other = train("a"), train("b"), train("c", seed=2)
    assert bytes_of(one) == bytes_of(two)
    assert (one / "model.onnx").read_bytes() != (other / "model.onnx").read_bytes()


@pytest.mark.parametrize("update", [1, 5, 15])
def test_interrupted_and_resumed_gives_the_same_bytes(
    update: int, train: Train, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train("whole", steps=7, updates=3)  # an odd number of minibatches: whose turn it is must be kept
    with monkeypatch.context() as patch:
        interrupt_at(patch, update)
        with pytest.raises(Interrupted):
            train("broken", steps=7, updates=3)
    assert not (world.folder / "broken").exists()
    assert bytes_of(train("broken", steps=7, updates=3)) == bytes_of(whole)


def test_what_was_met_is_in_the_checkpoint(
    train: Train, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[dict[str, Any]] = []

    def save(_: Checkpoints, update: int, shared: dict[str, Any], own: dict[str, Any]) -> bool:
        saved.append(own)
        return True

    monkeypatch.setattr(Checkpoints, "save", save)
    train("run")
    kept = saved[-1]["stateful"]
    assert kept["count"] == 4096
    assert kept["before"].shape[:2] == (1000, 3)
    assert (kept["after"] != 0).any(dim=2).all()
    assert kept["rewards"].std() > 0


@pytest.mark.slow
def test_help_shows_every_parameter() -> None:
    shown = subprocess.run(
        [sys.executable, str(TRAINER), "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    for name in Td3Params.model_fields:
        assert f"--{name.replace('_', '-')}" in shown


def test_rewards_that_are_not_finite_stop_the_run_and_keep_the_last_checkpoint(
    train: Train, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(TradingMarket):
        def step(self, actions: Any) -> Any:
            *rest, infos = super().step(actions)
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 24:  # the last step of the third update
                infos["asset_reward"] = infos["asset_reward"] * float("nan")
            return *rest, infos

    monkeypatch.setattr(sekisho.trainer, "TradingMarket", Broken)
    with pytest.raises(TrainingError, match="update 3: the reward is not finite"):
        train("run")
    assert newest_update(world.folder / "checkpoints/run") == 2
    assert not (world.folder / "run").exists()


def test_an_exploding_loss_stops_the_run(train: Train, world: World) -> None:
    with pytest.raises(TrainingError, match=r" is |not finite"):
        train("run", learning_rate=1e9)
    assert not (world.folder / "run").exists()


def test_a_ring_that_does_not_hold_one_step_is_refused(train: Train) -> None:
    with pytest.raises(TrainingError, match=r"td3\.buffer = 31 does not hold one step of 32"):
        train("run", buffer=31)


@pytest.mark.parametrize("first", [4096, 5000])
def test_a_run_that_would_end_before_it_learns_is_refused(train: Train, first: int) -> None:
    with pytest.raises(
        TrainingError, match=f"td3.first = {first} of 4096 samples.*learning would never begin"
    ):
        train("run", first=first, samples=4200)


def test_many_ranks_are_refused(td3: ModuleType) -> None:
    options = load_params(ROOT / "params.yaml").td3
    run = Run(Task(LinearQuadratic(ONE, 2), Agent(1, 1, 4, None), lambda: 0.0), 100, ranks=Ranks(0, 2))
    with pytest.raises(TrainingError, match=r"td3 cannot be shared by 2 ranks(?s:.*)train\.ranks to 1"):
        td3.learn(run.task, options, 1, run)


def test_samples_for_less_than_one_update_are_refused(train: Train) -> None:
    with pytest.raises(TrainingError, match="samples = 255 are fewer than one update's 256"):
        train("run", samples=255)


def test_twin_critics_are_two_networks_that_see_their_own_asset_alone(td3: ModuleType) -> None:
    generator = torch.Generator().manual_seed(1)
    critics = td3.Critics(6, 8, generator)
    encoded, action = torch.randn(5, 3, 6, generator=generator), torch.randn(5, 3, generator=generator)
    found = critics(encoded, action)
    assert found.shape == (2, 5, 3)
    assert not torch.allclose(found[0], found[1])
    other = action.clone()
    other[:, 1] += 1.0
    changed = critics(encoded, other) != found
    assert changed[..., 1].all()
    assert not changed[..., [0, 2]].any()
    rows = torch.cat((encoded, action[..., None]), dim=-1)
    for twin in range(2):
        hidden = rows
        for layer, (weight, bias) in enumerate(zip(critics.weights, critics.biases, strict=True)):
            hidden = hidden @ weight[twin] + bias[twin]
            hidden = hidden.relu() if layer < 2 else hidden
        torch.testing.assert_close(found[twin], hidden.squeeze(-1))
