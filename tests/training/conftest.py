from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from sekisho.checkpoints import Checkpoints
from sekisho.features.build import build_features
from sekisho.params import Params, load_params
from sekisho.trainer import train_fold

ROOT = Path(__file__).parents[2]
TRAINER = ROOT / "training/ppo.py"

SMALL = {
    "features": {
        "return_windows": [1, 4], "vol_window": 10, "short_vol_window": 4, "volume_window": 10, "clip": 3.0,
    },
    "market": {"vol_window": 10, "episode_bars": 20, "tick_table": "none"},
    "split": {
        "folds": 2, "test_sessions": 5, "validation_sessions": 5, "purge_sessions": 1, "embargo_sessions": 1,
    },
    "train": {"seeds": [1], "processes": 2, "checkpoint_every": 1, "evaluate_every": 4},
    "ppo": {
        "samples": 4096, "environments": 32, "steps": 8, "epochs": 2, "minibatches": 2, "hidden": 8,
        "learning_rate": 0.003,
    },
}  # fmt: skip


def small_params(folder: Path, **overrides: dict[str, Any]) -> Path:
    """The repository's parameters with a small problem's; ``overrides`` by section."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for changes in (SMALL, overrides):
        for section, values in changes.items():
            raw[section].update(values)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path


def write_bars(folder: Path, sessions: int, bars: int = 20, assets: int = 3, signal: float = 0.5) -> None:
    """A market whose one-bar returns are an AR(1) of coefficient ``signal``: yesterday's move goes on."""
    rng = np.random.default_rng(17)
    rows = sessions * bars
    returns = np.zeros((rows, assets))
    shocks = 0.002 * rng.normal(size=(rows, assets))
    for row in range(1, rows):
        returns[row] = signal * returns[row - 1] + shocks[row]
    close = 1000 * np.exp(returns.cumsum(axis=0))
    opens = np.vstack([close[:1], close[:-1]])
    day = np.datetime64("2025-01-06") + np.repeat(np.arange(sessions), bars)
    times = day.astype("datetime64[us]") + np.tile(np.arange(1, bars + 1), sessions) * np.timedelta64(
        300, "s"
    )
    table = {
        "symbol": [f"S{a}" for a in range(assets)] * rows,
        "ts_close": pl.Series(np.repeat(times, assets)).dt.replace_time_zone("UTC"),
        "session": np.repeat(day.astype("datetime64[D]"), assets),
        "open": opens.ravel(),
        "high": np.maximum(opens, close).ravel(),
        "low": np.minimum(opens, close).ravel(),
        "close": close.ravel(),
        "volume": rng.uniform(1e8, 2e8, rows * assets),
        "adv": np.full(rows * assets, 1e12),
        "half_spread": np.full(rows * assets, 1e-5),
        "borrow_rate": np.zeros(rows * assets),
        "funding_rate": np.zeros(rows * assets),
        "adj_factor": np.ones(rows * assets),
        "tradable": np.ones(rows * assets, dtype=bool),
    }
    folder.mkdir(parents=True)
    for (session,), part in pl.DataFrame(table).group_by("session"):
        part.write_parquet(folder / f"{session}.parquet")


class World:
    """A folder with bars, features and params.yaml."""

    def __init__(self, folder: Path, sessions: int = 40, **bars: Any) -> None:
        self.folder = folder
        self.bars, self.features = folder / "bars", folder / "features"
        write_bars(self.bars, sessions, **bars)
        self.params_file = small_params(folder)
        build_features(self.bars, self.features, self.params.features)

    @property
    def params(self) -> Params:
        return load_params(self.params_file)

    def with_params(self, **overrides: dict[str, Any]) -> None:
        small_params(self.folder, **overrides)


class Interrupted(Exception):
    pass


def interrupt_at(monkeypatch: pytest.MonkeyPatch, update: int) -> None:
    """Stop the run right after the checkpoint of ``update`` was written."""
    write = Checkpoints.save

    def save(self: Checkpoints, number: int, shared: Any, own: Any) -> bool:
        saved = write(self, number, shared, own)
        if number == update:
            raise Interrupted
        return saved

    monkeypatch.setattr(Checkpoints, "save", save)


def newest_update(folder: Path) -> int:
    """Update of the checkpoint that the run in ``folder`` would go on from; what is damaged is said."""
    run = next(
        json.loads(path.read_bytes())["run"] for path in folder.glob("*.json") if path.stat().st_size > 50
    )
    saved = Checkpoints(folder, run).load()
    assert saved is not None
    update: int = saved[0]["update"]
    return update


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    return lambda **options: World(tmp_path / "world", **options)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture(scope="session")
def ppo() -> ModuleType:
    """training/ppo.py as a module."""
    spec = importlib.util.spec_from_file_location("ppo", TRAINER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ppo"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def run_ppo(ppo: ModuleType) -> Callable[..., Path]:
    def run(world: World, name: str, fold: int = 0, seed: int = 1, **options: Any) -> Path:
        """Train in this process; returns the published folder."""
        params = world.params
        changed = params.model_copy(update={"ppo": params.ppo.model_copy(update=options)})
        out = world.folder / name
        train_fold(
            ppo.learn, changed, fold=fold, seed=seed, out=out, bars=world.bars, features=world.features,
            checkpoints=str(world.folder / "checkpoints" / name),
        )  # fmt: skip
        return out

    return run
