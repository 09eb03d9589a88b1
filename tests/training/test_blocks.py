"""A training window that is not all in memory: the same rows, the same learning, no byte lost to a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from sekisho.backtest.splits import Fold, walk_forward
from sekisho.data.panel import load_panel
from sekisho.errors import DataError, TrainingError
from sekisho.features import load_features
from sekisho.features.build import build_features
from sekisho.market import MarketData, TradingMarket, derive_units, volatility_regimes
from sekisho.market.blocks import Block, Blocks
from sekisho.market.core import bar_table
from sekisho.train import sessions_of
from sekisho.trainer import Run, Task, train_fold

from .conftest import Interrupted, World, interrupt_at
from .test_apg import load
from .test_distributed import TOLERANCE, finished, gap
from .test_kill import TRAINERS, bytes_of, command

ROOT = Path(__file__).parents[2]
SESSIONS, UPDATES_EACH = 5, 4  # of a block
LOOP = {
    "evaluate_every": 4, "patience": 0, "checkpoint_every": 1, "device": "cpu", "block_updates": UPDATES_EACH,
}  # fmt: skip
SMALL = {"samples": 8192, "environments": 32, "steps": 8, "hidden": 8}  # 32 updates: more than one pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With a symbol that lists late, one that is delisted, bars that are missing, sessions that are short."""
    world = World(tmp_path_factory.mktemp("blocks") / "world", assets=5)
    rng = np.random.default_rng(3)
    for number, path in enumerate(sorted(world.bars.glob("*.parquet"))):
        frame = pl.read_parquet(path)
        bar = (pl.col("ts_close").rank("dense") - 1).cast(pl.Int64)
        frame = frame.filter(bar < 20 - number % 3)
        away = pl.col("symbol").is_in((["S3"] if number < 9 else []) + (["S4"] if number > 12 else []))
        lost = pl.Series(rng.random(len(frame)) < 0.1) & (frame["symbol"] == "S1")
        frame.filter(~away & ~lost).write_parquet(path)
    build_features(world.bars, world.features, world.params.features)
    return world


def with_blocks(world: World, sessions: int = SESSIONS, **overrides: Any) -> None:
    trainers = {name: SMALL for name in ("ppo", "apg", "td3")} | overrides
    world.with_params(train=LOOP | {"resident_sessions": sessions}, **trainers)


def fold_of(world: World) -> Fold:
    return walk_forward(sessions_of(world.bars), world.params.split)[0]


def blocks_of(world: World, sessions: int = SESSIONS, seed: int = 1, updates: int = 1000) -> Blocks:
    with_blocks(world, sessions)
    fold = fold_of(world)
    return Blocks(
        world.bars, world.features, world.params,
        train=fold.train, validation=fold.validation, updates=updates, seed=seed,
    )  # fmt: skip


def whole_of(world: World) -> tuple[MarketData, tuple[int, int], tuple[int, int]]:
    fold, market = fold_of(world), world.params.market
    panel = load_panel(world.bars, last=fold.validation[1])
    data = MarketData.from_panel(panel, load_features(world.features, panel), market)
    return data, data.window(*fold.train), data.window(*fold.validation)


def run(world: World, name: str, trainer: str = "ppo", learn: Any = None) -> Path:
    out = world.folder / name
    train_fold(
        learn or load(ROOT / f"training/{trainer}.py").learn, world.params, fold=0, seed=1, out=out,
        bars=world.bars, features=world.features, checkpoints=str(world.folder / "checkpoints" / name),
    )  # fmt: skip
    return out


@pytest.mark.parametrize("sessions", [2, 3, 7, 1000])
def test_rows_of_the_blocks_are_those_of_the_whole_window(world: World, sessions: int) -> None:
    blocks = blocks_of(world, sessions)
    data, train, validation = whole_of(world)
    assert bool(data.delisted[slice(*train)].any())
    reached = train[0]
    every = [(blocks.read(index), (train[0], train[1])) for index in range(blocks.count)]
    for block, (first, last) in [*every, (blocks.validation, validation)]:
        start, stop = block.window
        if block is blocks.validation:
            assert reached == train[1]
            reached = first
        here = slice(reached, reached + stop - start)
        assert here.stop <= last
        for field in fields(MarketData):
            mine, its = getattr(block.data, field.name), getattr(data, field.name)
            if field.name == "symbols":
                assert mine == its
            elif field.name != "first_bar":
                assert np.array_equal(np.asarray(mine[start:stop]), np.asarray(its[here])), field.name
        # the first bar of a block cannot be traded; what fills are in the others, limits of price among it
        tables = [bar_table(d, s, e, world.params.market)[1:, :13] for d, s, e in (
            (block.data, start, stop), (data, here.start, here.stop))]  # fmt: skip
        assert torch.equal(*tables)
        reached = here.stop
    assert reached == validation[1]


@pytest.mark.parametrize("sessions", [3, 1000])
def test_units_scales_and_regimes_are_those_of_the_whole_window(world: World, sessions: int) -> None:
    blocks = blocks_of(world, sessions)
    data, train, _ = whole_of(world)
    units = derive_units(data, *train, world.params.market)
    std, mean = torch.std_mean(data.features[slice(*train)].double(), dim=(0, 1))
    for mine, its in ((blocks.units.trade, units.trade), (blocks.scales[0], mean), (blocks.scales[1], std)):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-14)
    assert blocks.units.risk == pytest.approx(units.risk, rel=1e-12)

    def starts(market: TradingMarket) -> list[set[Any]]:
        """The sessions and bars where an episode may start, by regime."""
        assert market._starts is not None
        strata = market._starts.split(market._stratum_sizes.tolist())
        return [set(market.data.ts_close[stratum.numpy()].tolist()) for stratum in strata]

    market = world.params.market
    regimes = volatility_regimes(data.close.numpy(), market.vol_window, *train)
    of = dict(zip(data.ts_close.tolist(), regimes.tolist(), strict=True))
    held = blocks.market(4)
    for update in range(1, 1 + blocks.count * UPDATES_EACH, UPDATES_EACH):
        blocks.turn(held, update)
        for stratum in starts(held):
            assert len({of[time] for time in stratum}) == 1


def test_each_pass_shows_every_block_once_in_an_order_of_its_own(world: World) -> None:
    blocks = blocks_of(world, 2)
    orders = [tuple(blocks.order(passed)) for passed in range(5)]
    assert all(sorted(order) == list(range(blocks.count)) for order in orders)
    assert len(set(orders)) == 5
    seen = [blocks.place(update) for update in range(1, 1 + blocks.count * UPDATES_EACH)]
    assert seen == [index for index in orders[0] for _ in range(UPDATES_EACH)]
    assert blocks.place(1 + blocks.count * UPDATES_EACH) == orders[1][0]
    assert tuple(blocks_of(world, 2, seed=2).order(0)) != orders[0]
    assert tuple(blocks_of(world, 2).order(3)) == orders[3]


def test_no_more_than_two_blocks_are_in_memory_and_the_next_is_read_aside(
    world: World, monkeypatch: pytest.MonkeyPatch, ppo: ModuleType
) -> None:
    with_blocks(world, 3)
    held: dict[int, int] = {}  # rows of the blocks that are alive
    most: list[tuple[int, int]] = []
    readers: list[str] = []
    make, take = Blocks._block, Blocks.read

    def counted(self: Blocks, span: Any, *arguments: Any) -> Block:
        block = make(self, span, *arguments)
        if span is not self._spans[-1]:  # the validation window, which stays
            key = len(most)
            held[key] = len(block.data)
            weakref.finalize(block.data, held.pop, key)
            most.append((len(held), sum(held.values())))
        return block

    def noted(self: Blocks, index: int) -> Block:
        readers.append(threading.current_thread().name)
        return take(self, index)

    monkeypatch.setattr(Blocks, "_block", counted)
    monkeypatch.setattr(Blocks, "read", noted)
    run(world, "counted", learn=ppo.learn)
    assert len(most) > 16  # once each beforehand, then as they are trained on
    assert max(count for count, _ in most) == 2
    assert max(rows for _, rows in most) <= 2 * (3 + 1) * 20  # with a session to look back over
    assert "MainThread" in readers[0]
    assert {name.rpartition("_")[0] for name in readers[1:]} == {"blocks"}


def test_all_accounts_open_anew_where_the_block_changes_and_nowhere_else(world: World) -> None:
    blocks = blocks_of(world)
    market = blocks.market(16)
    agent = torch.nn.Linear(1, 1)
    task = Task(market, agent, lambda: 0.0, turn=lambda update: blocks.turn(market, update))  # type: ignore[arg-type]
    run = Run(task, 16 * 32)
    run.start(1)
    for update in run.updates(16):
        changed = update > 1 and blocks.place(update) != blocks.place(update - 1)
        assert (run.opened is not None) == changed
        if run.opened is not None:
            assert not run.opened[..., -1].any()
            assert torch.equal(market.cash, market.capital)
        start, stop = blocks.read(blocks.place(update)).window
        assert bool(((market.bar >= market.start) & (market.bar < market.stop)).all())
        assert (market.start, market.stop) == (start, stop)
        market.step(torch.full((16, 5), 0.5))
        run.record(reward=0.0)


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("update", [UPDATES_EACH, UPDATES_EACH + 2])
def test_going_on_inside_a_block_or_right_at_its_end_gives_the_same_bytes(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, update: int
) -> None:
    trainer = name.split("-")[0]
    with_blocks(world, **{trainer: SMALL | TRAINERS[name]})
    whole = world.folder / f"{name}-whole"
    whole = whole if whole.exists() else run(world, whole.name, trainer)
    with monkeypatch.context() as patch:
        interrupt_at(patch, update)
        with pytest.raises(Interrupted):
            run(world, f"{name}-{update}", trainer)
    assert bytes_of(run(world, f"{name}-{update}", trainer)) == bytes_of(whole)


@pytest.mark.slow
def test_kills_inside_a_block_and_at_its_end_change_no_byte(world: World, tmp_path: Path) -> None:
    with_blocks(world, ppo=SMALL | TRAINERS["ppo"])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command("ppo", world, whole), check=True, capture_output=True)
    for update in (UPDATES_EACH - 1, 2 * UPDATES_EACH, 3 * UPDATES_EACH + 1):
        child = subprocess.Popen(
            command("ppo", world, broken), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(f"update {update}/"):
                break
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        assert not broken.exists()
    subprocess.run(command("ppo", world, broken), check=True, capture_output=True)
    assert bytes_of(broken) == bytes_of(whole)


def test_one_block_of_all_sessions_gives_the_model_of_the_whole_window(world: World) -> None:
    models = []
    for sessions in (0, 1000):
        with_blocks(world, sessions)
        models.append((run(world, f"sessions-{sessions}") / "model.onnx").read_bytes())
    assert models[0] == models[1]


def test_two_ranks_learn_from_blocks_what_one_process_learns(world: World) -> None:
    with_blocks(world)
    assert gap(run(world, "one"), finished(world, "two", 2)) < TOLERANCE


def test_blocks_teach_about_what_the_whole_window_teaches(make_world: Callable[..., World]) -> None:
    """Within a fifth of the validation figure; the market's pattern is the same in every block."""
    world = make_world()
    figures = []
    for sessions in (0, SESSIONS):
        with_blocks(world, sessions, ppo=SMALL | {"samples": 32_768})
        curve = pl.read_csv(run(world, f"taught-{sessions}") / "curve.csv")
        figures.append(curve["validation_sharpe"].drop_nulls().to_list())
    whole, blocks = (max(found) for found in figures)
    assert figures[0][0] < whole / 2  # there was something to learn
    assert blocks == pytest.approx(whole, rel=0.2)


def test_a_block_shorter_than_an_episode_is_refused(world: World) -> None:
    with pytest.raises(
        TrainingError, match=r"train\.resident_sessions = 1: a block of 1 sessions has \d+ bars"
    ):
        blocks_of(world, 1)


def test_a_window_without_features_is_refused(world: World) -> None:
    world.with_params(train=LOOP | {"resident_sessions": SESSIONS}, market={"vol_window": 30})
    sessions = sessions_of(world.bars)
    with pytest.raises(TrainingError, match="a block of 0 sessions has 0 bars"):
        Blocks(
            world.bars, world.features, world.params,
            train=(sessions[0], sessions[0]), validation=(sessions[9], sessions[14]), updates=9, seed=1,
        )  # fmt: skip


def test_updates_that_would_leave_blocks_unseen_are_refused(world: World) -> None:
    blocks = blocks_of(world, updates=5 * UPDATES_EACH)
    assert blocks.count == 5
    with pytest.raises(TrainingError, match=r"are not all seen in 19 updates") as refused:
        blocks_of(world, updates=5 * UPDATES_EACH - 1)
    assert "train.block_updates" in refused.value.remedy


def test_a_partition_without_features_is_named(world: World) -> None:
    blocks = blocks_of(world)
    path = sorted(world.features.glob("*.parquet"))[8]
    content = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(DataError, match=path.name):
            blocks_of(world)
        market = blocks.market(4)
        with pytest.raises(DataError, match=path.name):  # found by the one who reads ahead, said here
            all(blocks.turn(market, update) is not None for update in range(1, 1000))
    finally:
        path.write_bytes(content)


def test_the_options_are_on_the_trainers_command_line(world: World, tmp_path: Path) -> None:
    with_blocks(world, 0)
    words = [*command("ppo", world, tmp_path / "out"), "--resident-sessions", "1"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 2
    assert "train.resident_sessions = 1" in done.stderr
    assert words[0] == sys.executable
