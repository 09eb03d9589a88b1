from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from sekisho.backtest.splits import walk_forward
from sekisho.errors import BacktestError, DataError, TrainingError
from sekisho.train import run_key, sessions_of, train

ROOT = Path(__file__).parents[2]
World = Any

# A trainer of a few lines: what is tested here is the orchestration, not the learning
STUB = """
import argparse, json, pathlib
from sekisho.params import load_params
from sekisho.train import Finished, run_key
parser = argparse.ArgumentParser()
for name in ("fold", "seed", "store", "bars", "features", "params"):
    parser.add_argument(f"--{name}")
args = parser.parse_args()
calls = pathlib.Path("calls.txt")
with calls.open("a") as file:
    file.write(f"{args.fold}/{args.seed} ")
print("update 1/2", flush=True)
if pathlib.Path("fail").exists() and args.fold == "1":
    print("the market is closed")
    raise SystemExit(2)
out = pathlib.Path(f"scratch-{args.fold}-{args.seed}")
out.mkdir(exist_ok=True)
(out / "model.onnx").write_text(args.seed)
(out / "run.json").write_text(json.dumps(dict(
    validation_sharpe=1.0, best_update=1, updates=2, samples=8, onnx_sha256=args.fold + args.seed)))
params = load_params(pathlib.Path(args.params))
key = run_key(pathlib.Path(args.bars), pathlib.Path(args.features), params, pathlib.Path(__file__))
if not pathlib.Path("forgets").exists():
    Finished(args.store, key, params.train.ranks).put(f"fold-{args.fold}/seed-{args.seed}", out)
"""


@pytest.fixture
def call(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    (tmp_path / "training").mkdir()
    (tmp_path / "training/ppo.py").write_text(STUB)
    monkeypatch.chdir(tmp_path)
    world.with_params(train={"seeds": [1, 2], "processes": 2})
    return lambda: train(
        world.params, bars=world.bars, features=world.features, out=Path("build/train"),
        metrics=Path("metrics/train.json"), source=world.params_file,
    )  # fmt: skip


def test_every_fold_and_seed_is_run_and_published_with_metrics(call: Callable[[], dict[str, Any]]) -> None:
    Path("build/train/old").mkdir(parents=True)
    result = call()
    names = ["fold-0/seed-1", "fold-0/seed-2", "fold-1/seed-1", "fold-1/seed-2"]
    assert list(result["runs"]) == names
    assert json.loads(Path("metrics/train.json").read_text()) == result
    assert (
        sorted(str(p.parent.relative_to("build/train")) for p in Path("build/train").rglob("run.json"))
        == names
    )
    assert not Path("build/train/old").exists()
    assert not list(Path(".sekisho/runs").rglob("*.tar"))


def test_a_second_training_of_the_same_inputs_is_refused_while_the_first_runs(
    call: Callable[[], dict[str, Any]],
) -> None:
    call()
    (lock,) = Path(".sekisho/locks").iterdir()
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="running already"):
            call()
    call()


def test_a_failed_trainer_is_shown_with_its_last_lines_and_finished_runs_are_kept(
    call: Callable[[], dict[str, Any]],
) -> None:
    Path("fail").touch()
    with pytest.raises(TrainingError, match="the market is closed"):
        call()
    assert not Path("build/train").exists()
    assert not Path("metrics/train.json").exists()
    Path("fail").unlink()
    finished = {
        "/".join(re.findall(r"fold-(\d)\.seed-(\d)-", path.name)[0])
        for path in Path(".sekisho/runs").rglob("*.tar")
    }
    Path("calls.txt").unlink()
    call()
    assert set(Path("calls.txt").read_text().split()) == {"0/1", "0/2", "1/1", "1/2"} - finished


def test_runs_of_an_interrupted_call_with_other_seeds_are_not_published(
    call: Callable[[], dict[str, Any]], world: World
) -> None:
    Path("fail").touch()
    with pytest.raises(TrainingError):
        call()
    Path("fail").unlink()
    (work,) = Path(".sekisho/runs").iterdir()
    one = next(work.glob("fold-0.seed-1-*"))
    shutil.copyfile(one, work / one.name.replace("seed-1", "seed-7"))
    names = set(call()["runs"])
    published = {str(p.parent.relative_to("build/train")) for p in Path("build/train").rglob("run.json")}
    assert published == names
    assert "fold-0/seed-7" not in names


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_at_the_last_write_publishes_nothing(call: Callable[[], dict[str, Any]]) -> None:
    Path("metrics").mkdir()
    Path("metrics/.train.json.new").symlink_to("/dev/full")
    with pytest.raises(DataError, match="no space left on the disk; nothing was written"):
        call()
    assert not Path("metrics/train.json").exists()
    assert not list(Path("build").iterdir())


def test_too_short_a_history_is_refused_before_any_training(
    call: Callable[[], dict[str, Any]], world: World
) -> None:
    for path in sorted(world.bars.glob("*.parquet"))[:-20]:
        path.unlink()
    with pytest.raises(BacktestError, match="needs 23 sessions, the bars hold 20"):
        call()
    assert not Path("calls.txt").exists()


@pytest.mark.parametrize(("listed", "fold"), [(25, 0), (32, 1)])
def test_a_symbol_listed_after_a_training_window_is_refused_before_any_training(
    world: World, call: Callable[[], dict[str, Any]], listed: int, fold: int
) -> None:
    """Folds train until sessions 21 and 27 of 40: the remedy must be known before hours of training."""
    sessions = sessions_of(world.bars)
    until = [window.train[1] for window in walk_forward(sessions, world.params.split)]
    for session in sessions[:listed]:
        path = world.bars / f"{session}.parquet"
        pl.read_parquet(path).filter(pl.col("symbol") != "S1").write_parquet(path)
    words = (
        rf"S1: its first bar is that of {sessions[listed]} 00:05 UTC, fold {fold} trains until {until[fold]}"
    )
    with pytest.raises(TrainingError, match=words) as error:
        call()
    assert "leave S1 out of the bars" in error.value.remedy
    assert not Path("calls.txt").exists()


def test_a_symbol_listed_inside_every_training_window_is_trained(
    world: World, call: Callable[[], dict[str, Any]]
) -> None:
    for session in sessions_of(world.bars)[:10]:
        path = world.bars / f"{session}.parquet"
        pl.read_parquet(path).filter(pl.col("symbol") != "S1").write_parquet(path)
    assert len(call()["runs"]) == 4


def test_the_key_changes_with_all_that_determines_the_result(world: World) -> None:
    trainer = ROOT / "training/ppo.py"

    def key() -> str:
        return run_key(world.bars, world.features, world.params, trainer)

    keys = [key()]
    world.with_params(market={"commission": 0.5})
    keys.append(key())
    world.with_params(features={"clip": 2.5})
    keys.append(key())
    world.with_params(gate={"max_drawdown": 0.5})  # read by nothing here
    world.with_params()
    assert key() == keys[0]
    (world.bars / "2025-01-06.parquet").write_bytes(b"other")
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_a_run_of_another_torch_is_not_gone_on_with(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed under another torch is another run: half of each would be neither."""

    def key() -> str:
        return run_key(world.bars, world.features, world.params, ROOT / "training/ppo.py")

    here = key()
    monkeypatch.setattr("sekisho.train.version", {"torch": "2.0.1"}.__getitem__)
    assert key() != here


@pytest.mark.parametrize(
    "module", ["data/panel.py", "backtest/splits.py", "features/compute.py", "market/env.py"]
)
def test_the_key_changes_with_the_code_that_determines_the_result(
    module: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "sekisho"
    shutil.copytree(ROOT / "src/sekisho", package)
    monkeypatch.setattr("sekisho.train.PACKAGE", package)

    def key() -> str:
        return run_key(world.bars, world.features, world.params, ROOT / "training/ppo.py")

    before = key()
    with (package / module).open("a") as file:
        file.write("changed = True\n")
    assert key() != before


def test_sessions_ascend(world: World) -> None:
    sessions = sessions_of(world.bars)
    assert len(sessions) == 40
    assert sessions == sorted(sessions)
