"""What all trainers share: which agent is kept, when a run stops, what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sekisho.checkpoints import Checkpoints
from sekisho.errors import TrainingError
from sekisho.market import Agent
from sekisho.market.linear_quadratic import LinearQuadratic, Problem
from sekisho.trainer import Run, Task, train_fold

from .test_apg import load

ROOT = Path(__file__).parents[2]
PROBLEM = Problem(
    assets=1, decay=(0.1,), risk_aversion=1.0, cost=100.0, discount=0.99, correlation=0.0, noise=0.0
)
World = Any
SMALL = {
    "ppo": {"environments": 32, "steps": 8, "epochs": 2, "minibatches": 2},
    "apg": {"environments": 32, "steps": 8, "minibatches": 2},
    "td3": {"environments": 32, "steps": 8, "buffer": 1000, "first": 200, "batch": 64, "updates": 1},
}


def run_of(looks: list[float], samples: int = 100, **options: Any) -> Run:
    """A run whose validation gives ``looks`` in turn; the agent's ``log_std`` counts the updates."""
    agent, coming = Agent(1, 1, 4, None), iter(looks)
    return Run(Task(LinearQuadratic(PROBLEM, 2), agent, lambda: next(coming)), samples, **options)


def drive(run: Run, **figures: float) -> list[int]:
    run.start(1)
    done = []
    for update in run.updates(10):
        with torch.no_grad():
            run.task.agent.log_std.fill_(float(update))
        run.record(**({"reward": 0.0, "loss": 1.0} | figures))
        done.append(update)
    return done


def test_the_agent_that_validated_best_is_kept() -> None:
    run = run_of([1.0, 3.0, 2.0, 3.0, -1.0] + [0.0] * 5)
    assert drive(run) == list(range(1, 11))
    assert (run.best["update"], run.best["validation"]) == (2, 3.0)  # the earlier of two equals
    assert run.task.agent.log_std.item() == 2.0


@pytest.mark.parametrize(("patience", "last"), [(1, 3), (2, 4), (3, 10), (0, 10)])
def test_it_stops_after_so_many_looks_at_validation_without_a_better_one(patience: int, last: int) -> None:
    run = run_of([1.0, 2.0, 0.0, 1.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], patience=patience)
    assert drive(run)[-1] == last
    assert run.task.agent.log_std.item() == run.best["update"]


def test_patience_counts_looks_and_not_updates_and_the_last_update_is_looked_at() -> None:
    run = run_of([5.0, 1.0, 1.0], evaluate_every=3, patience=2)
    assert drive(run)[-1] == 9  # looks at 3, 6 and 9
    run = run_of([1.0, 2.0, 3.0, 4.0], evaluate_every=3)
    drive(run)
    assert [row["validation"] is not None for row in run.curve] == [
        u % 3 == 0 or u == 10 for u in range(1, 11)
    ]
    assert run.best["update"] == 10


def test_figures_of_training_never_decide() -> None:
    """However well training goes: the curve's rewards rise, the validation's best is the first."""
    run = run_of([1.0] + [0.0] * 9)
    run.start(1)
    for update in run.updates(10):
        run.record(reward=float(update))
    assert run.best["update"] == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e7])
@pytest.mark.parametrize("name", ["reward", "loss"])
def test_a_figure_out_of_bounds_stops_the_run_and_the_last_good_checkpoint_is_kept(
    name: str, value: float, tmp_path: Path
) -> None:
    run = run_of([1.0] * 10, checkpoints=Checkpoints(tmp_path))
    run.start(1)

    def go_on() -> None:
        for update in run.updates(10):
            run.record(**({"reward": 0.0, "loss": 1.0} | ({name: value} if update == 3 else {})))

    with pytest.raises(TrainingError, match=rf"update 3: .*{name}") as caught:
        go_on()
    assert "the last good checkpoint is kept" in str(caught.value)
    assert caught.value.exit_code == 2
    again = run_of([1.0] * 10, checkpoints=Checkpoints(tmp_path))
    again.start(1)
    assert again.update == 2


@pytest.mark.parametrize("trainer", SMALL)
def test_one_asset_is_enough_to_train_on(trainer: str, make_world: Callable[..., World]) -> None:
    world = make_world(assets=1)
    world.with_params(**{trainer: SMALL[trainer] | {"samples": 2048, "hidden": 8}}, train={"device": "cpu"})
    out = world.folder / "run"
    train_fold(
        load(ROOT / f"training/{trainer}.py").learn, world.params, fold=0, seed=1, out=out, bars=world.bars,
        features=world.features, checkpoints=str(world.folder / "checkpoints"),
    )  # fmt: skip
    assert {path.name for path in out.iterdir()} == {"model.onnx", "curve.csv", "run.json"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"market": {"episode_bars": 5000}}, "an episode needs 5001"),
        (
            {"features": {"vol_window": 790}},
            "shorten the feature windows|no bar has all its features|look back",
        ),
    ],
)
def test_a_window_too_short_is_refused_with_what_it_needs(
    changes: dict[str, Any], message: str, world: World
) -> None:
    from sekisho.features.build import build_features

    world.with_params(ppo=SMALL["ppo"], **changes)
    out = world.folder / "run"

    def build_and_train() -> None:
        build_features(world.bars, world.features, world.params.features)
        train_fold(
            load(ROOT / "training/ppo.py").learn, world.params, fold=0, seed=1, out=out, bars=world.bars,
            features=world.features, checkpoints=str(world.folder / "checkpoints"),
        )  # fmt: skip

    with pytest.raises(TrainingError, match=message):
        build_and_train()
    assert not out.exists()
    assert not (world.folder / "checkpoints").exists()
