"""Killed at random moments and resumed, every trainer ends with the bytes of an unbroken run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KILLS = 5
LOOP = {"evaluate_every": 4, "patience": 0, "checkpoint_every": 1, "device": "cpu"}
SMALL = {"samples": 49_152, "environments": 32, "steps": 8, "hidden": 8}  # 192 updates
TRAINERS = {
    "ppo": {"epochs": 2, "minibatches": 2},
    "ppo-recurrent": {"epochs": 2, "minibatches": 2, "recurrent": 4},
    "apg": {"minibatches": 2},
    "td3": {"buffer": 1000, "first": 200, "batch": 64, "updates": 1},
}
World = Any


def command(trainer: str, world: World, out: Path) -> list[str]:
    return [
        sys.executable, str(ROOT / f"training/{trainer}.py"), "--fold", "0", "--seed", "1", "--out", str(out),
        "--bars", str(world.bars), "--features", str(world.features), "--params", str(world.params_file),
        "--checkpoints", str(world.folder / "checkpoints"), "--tensorboard", str(world.folder / "board"),
    ]  # fmt: skip


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_five_random_kills_change_no_byte(name: str, world: World, tmp_path: Path) -> None:
    """The unbroken run is another process, and is offered another number of threads."""
    trainer = name.split("-")[0]
    world.with_params(**{trainer: SMALL | TRAINERS[name]}, train=LOOP)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    two = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run(command(trainer, world, whole), env=two, check=True, capture_output=True)
    draw, one = random.Random(name), os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(KILLS):
        child = subprocess.Popen(
            command(trainer, world, broken),
            env=one,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert child.stdout is not None
        for _ in range(draw.randint(1, 15)):
            assert child.stdout.readline().startswith("update ")
        time.sleep(draw.uniform(0.0, 0.03))  # in the middle of an update, or of a checkpoint
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        assert not broken.exists()
    assert list((world.folder / "checkpoints").glob("*.json"))
    subprocess.run(command(trainer, world, broken), env=one, check=True, capture_output=True)
    assert bytes_of(broken) == bytes_of(whole)
    assert json.loads((whole / "run.json").read_text())["threads"] == 1  # pinned, and said so
