"""How fast the market steps and PPO learns, beside FinRL and Gym-Trading-Env; ``make bench-speed``."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import ast
import inspect
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import gpu
from peers import markets as peers
from results import Figure, publish
from sekisho.launch import hold_memory
from sekisho.market import Agent, MarketData, TradingMarket, derive_units
from sekisho.params import Params, load_params
from sekisho.trainer import Run, Task, evaluate
from synthetic_market import costs_on, market_data, random_panel
from timing import Rate, cpu_shares, take_turns
from trainers import load_trainer

FINRL_DAYS = 1654  # 2014-01-06 to 2020-07-31, the training period in finrl/config.py
ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", *peers.PACKAGES)
FEATURES = 8
ASSETS = 10  # beside FinRL; beside Gym-Trading-Env it is its one
VALIDATION = 0.2  # share of the bars, at the end
ACTIONS = 16  # batches of random actions drawn before the clock, used in turn
FAST = {"precision": "bfloat16", "compile": True}  # what learns as well: bench/learning.py
TRADE = 0.5  # standard deviation of random actions, in trade units: a typical good trade
COMPARED = """\
One process, one torch thread, CPU time (process_time), medians of {rounds} rounds in which all took turns;
`wall` figures are of the same rounds. A sample is one bar of one account, whatever its number of assets.
PPO end to end: ours is training/ppo.py with the options of params.yaml, validation included, on the market
with every cost and limit on, in `fast` with the hidden layers' products in bfloat16, loss and market
compiled, which is left out of the time; FinRL's recipe is sb3's PPO (n_steps 2048, batch 128, 10 epochs) on
StockTradingEnv with costs; tuned is sb3's PPO on 64 accounts of Gym-Trading-Env (n_steps 128, batch 2048,
4 epochs), default the same with one account and sb3's own settings.
The market alone: random actions drawn beforehand, ends of episodes included. Ours has {accounts} accounts (in
`one_account` 1, eager) and a compiled step (`eager`: without); compiling is left out of the time. The peers'
accounts stand in sb3's DummyVecEnv as in their PPO; `bare` is one account without it. History: {bars} bars;
FinRL's, whose step looks through all of it, has the {days} days of its own configuration.
{gpu}"""


@dataclass(frozen=True)
class Sizes:
    rounds: int
    sessions: int
    accounts: int  # of our market alone
    market_samples: int  # ours, per round
    peer_steps: int  # of the peers' markets, per round
    ppo_samples: int | None  # ours, per round; None: as in params.yaml
    fast_samples: int  # ours with FAST, per round
    tuned_updates: int  # of the tuned peer, 8192 samples each, per round


FULL = Sizes(
    rounds=5, sessions=100, accounts=4096, market_samples=2_000_000, peer_steps=4096, ppo_samples=None,
    fast_samples=500_000, tuned_updates=3,
)  # fmt: skip
QUICK = Sizes(
    rounds=1, sessions=20, accounts=256, market_samples=20_000, peer_steps=256, ppo_samples=16_384,
    fast_samples=16_384, tuned_updates=1,
)  # fmt: skip


class Ours:
    """Our market and trainer on random prices."""

    def __init__(self, assets: int, sizes: Sizes, params: Params, device: str = "cpu") -> None:
        self.params, self.market_params, self.sizes = params, costs_on(params.market), sizes
        panel = random_panel(assets, sizes.sessions)
        self.data: MarketData = market_data(panel, FEATURES, self.market_params, device)
        split = int(len(panel) * (1 - VALIDATION))
        self.train, self.validation = (self.data.first_bar, split), (split, len(panel))
        self.units = derive_units(self.data, *self.train, self.market_params)
        self.assets, self.device = assets, device

    def market(self, accounts: int, compiled: bool = False) -> TradingMarket:
        return TradingMarket(
            self.data, self.market_params, self.units, accounts, self.train, compiled=compiled
        )

    def stepping(self, accounts: int, samples: int, compiled: bool = False) -> Callable[[], int]:
        """Steps a market of so many accounts by about so many samples."""
        market = self.market(accounts, compiled)
        market.reset(seed=0)
        generator = torch.Generator().manual_seed(0)
        actions = TRADE * torch.randn(ACTIONS, accounts, self.assets, generator=generator)
        drawn = itertools.cycle(actions.to(self.device).unbind())
        steps = max(1, samples // accounts)

        def run() -> int:
            with torch.no_grad():
                for _ in range(steps):
                    market.step(next(drawn))
            return steps * accounts

        return run

    def learning(
        self, trainer: ModuleType, samples: int | None, compiled: bool = False, **options: Any
    ) -> Callable[[], int]:
        """Learns from scratch, validation included, as ``sekisho train`` does but in memory."""
        settings = self.params.ppo.model_copy(update=options)
        budget = samples or settings.samples

        def run() -> int:
            torch.manual_seed(0)
            agent = Agent(FEATURES, self.assets, settings.hidden, self.market_params, settings.recurrent)
            agent.fit_scales(self.data, *self.train, self.units)
            agent.to(self.device)
            task = Task(
                market=self.market(settings.environments, compiled),
                agent=agent,
                validate=lambda: evaluate(agent, self.data, self.validation, self.market_params),
            )
            run = Run(task, budget, evaluate_every=self.params.train.evaluate_every)
            trainer.learn(task, settings, 0, run)
            return run.curve[-1]["samples"]

        return run


def sb3_learning(market: VecEnv, updates: int = 1, **settings: int) -> Callable[[], int]:
    """Goes on learning by so many updates at each call."""
    model = PPO("MlpPolicy", market, device="cpu", verbose=0, **settings)
    samples = updates * model.n_steps * market.num_envs

    def run() -> int:
        before = model.num_timesteps
        model.learn(samples, reset_num_timesteps=False)
        return model.num_timesteps - before

    return run


def peer_stepping(market: VecEnv, steps: int) -> Callable[[], int]:
    """Steps a peer's accounts by ``steps`` in all."""
    market.action_space.seed(0)
    batches = [
        np.array([market.action_space.sample() for _ in range(market.num_envs)]) for _ in range(ACTIONS)
    ]
    drawn = itertools.cycle(batches)
    market.reset()

    def run() -> int:
        for _ in range(steps // market.num_envs):
            market.step(next(drawn))
        return steps // market.num_envs * market.num_envs

    return run


def bare_stepping(market: Any, steps: int) -> Callable[[], int]:
    """Steps one account of a peer without any vector around it."""
    market.action_space.seed(0)
    actions = [market.action_space.sample() for _ in range(steps)]
    market.reset()

    def run() -> int:
        for action in actions:
            _, _, terminated, truncated, _ = market.step(action)
            if terminated or truncated:
                market.reset()
        return steps

    return run


def phases_of(trainer: ModuleType) -> dict[int, str]:
    """The phase of each line of the trainer's ``learn``: market, advantages, acting, validation or update.

    Raises:
        ValueError: a phase has no line: ``learn`` is written differently than expected.
    """
    source, first = inspect.getsourcelines(trainer.learn)
    phases = dict.fromkeys(range(first, first + len(source)), "update")

    def mark(found: Callable[[ast.AST], bool], phase: str) -> None:
        for node in ast.walk(ast.parse("".join(source))):
            if isinstance(node, ast.stmt | ast.expr) and found(node):
                assert node.end_lineno is not None
                phases.update(dict.fromkeys(range(first + node.lineno - 1, first + node.end_lineno), phase))

    def calls(node: ast.AST, function: str) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node.func) == function

    def collects(node: ast.AST) -> bool:
        return isinstance(node, ast.With) and calls(node.items[0].context_expr, "torch.no_grad")

    mark(collects, "acting")
    mark(partial(calls, function="market.step"), "market")
    mark(partial(calls, function="gae"), "advantages")
    mark(partial(calls, function="run.record"), "validation")
    missing = {"acting", "market", "advantages", "validation", "update"} - set(phases.values())
    if missing:
        raise ValueError(f"{trainer.__file__}: learn has no line of {sorted(missing)}")
    return phases


def shares(run: Callable[[], int], trainer: ModuleType) -> list[Figure]:
    """Where the CPU time of a training goes."""
    phases, code = phases_of(trainer), trainer.learn.__code__

    def phase_of(frame: FrameType) -> str | None:
        return phases[frame.f_lineno] if frame.f_code is code else None

    found = cpu_shares(run, phase_of)
    return [Figure(f"ppo_share_{phase}", 100 * found[phase], "% of CPU time") for phase in sorted(found)]


def learning_figures(sizes: Sizes, trainer: ModuleType, ten: Ours, one: Ours) -> list[Figure]:
    """PPO end to end beside the peers', and where its time goes."""
    close, samples = ten.data.close.numpy(), sizes.ppo_samples
    gym = partial(peers.gym_trading_market, close[:, 0], FEATURES)
    contestants = {
        "finrl": sb3_learning(
            DummyVecEnv([partial(peers.finrl_market, close[:FINRL_DAYS], FEATURES)]),
            n_steps=2048,
            batch_size=128,
            n_epochs=10,
        ),
        "ten": ten.learning(trainer, samples),
        "ten_fast": ten.learning(trainer, sizes.fast_samples, compiled=True, **FAST),
        "default": sb3_learning(DummyVecEnv([gym])),
        "tuned": sb3_learning(
            DummyVecEnv([gym] * 64), sizes.tuned_updates, n_steps=128, batch_size=2048, n_epochs=4
        ),
        "one": one.learning(trainer, samples),
    }
    rate = take_turns(contestants, sizes.rounds)
    return [
        *beside("ppo_10_assets_fast", rate["ten_fast"], "FinRL's recipe", rate["finrl"], "samples", goal=150),
        *beside("ppo_10_assets", rate["ten"], "FinRL's recipe", rate["finrl"], "samples"),
        *beside("ppo_1_asset", rate["one"], "tuned sb3, Gym-Trading-Env", rate["tuned"], "samples", goal=6),
        *beside(
            "ppo_1_asset_default", rate["one"], "default sb3, Gym-Trading-Env", rate["default"], "samples"
        ),
        *shares(contestants["ten"], trainer),
    ]


def market_figures(sizes: Sizes, ten: Ours, one: Ours) -> list[Figure]:
    """The market alone beside the peers', with many accounts and with one."""
    close, steps, many = ten.data.close.numpy(), sizes.peer_steps, sizes.accounts
    finrl = partial(peers.finrl_market, close[:FINRL_DAYS], FEATURES)
    gym = partial(peers.gym_trading_market, close[:, 0], FEATURES)
    contestants = {
        "finrl": peer_stepping(DummyVecEnv([finrl] * 8), steps),
        "finrl_bare": bare_stepping(finrl(), steps),
        "ten": ten.stepping(many, sizes.market_samples, compiled=True),
        "ten_eager": ten.stepping(many, sizes.market_samples),
        "ten_alone": ten.stepping(1, steps),
        "gym": peer_stepping(DummyVecEnv([gym] * 64), 4 * steps),
        "gym_bare": bare_stepping(gym(), 4 * steps),
        "one": one.stepping(many, 2 * sizes.market_samples, compiled=True),
        "one_eager": one.stepping(many, 2 * sizes.market_samples),
        "one_alone": one.stepping(1, steps),
    }
    rate = take_turns(contestants, sizes.rounds)
    finrl_many, finrl_one = ("FinRL, 8 accounts", rate["finrl"]), ("FinRL bare", rate["finrl_bare"])
    gym_many, gym_one = (
        ("Gym-Trading-Env, 64 accounts", rate["gym"]),
        ("Gym-Trading-Env bare", rate["gym_bare"]),
    )
    return [
        *beside("market_10_assets", rate["ten"], *finrl_many, "steps", goal=1000),
        *beside("market_10_assets_eager", rate["ten_eager"], *finrl_many, "steps"),
        *beside("market_10_assets_to_bare", rate["ten"], *finrl_one, "steps"),
        *beside("market_1_asset", rate["one"], *gym_many, "steps", goal=300),
        *beside("market_1_asset_eager", rate["one_eager"], *gym_many, "steps"),
        *beside("market_1_asset_to_bare", rate["one"], *gym_one, "steps"),
        *beside("one_account_10_assets", rate["ten_alone"], *finrl_one, "steps"),
        *beside("one_account_1_asset", rate["one_alone"], *gym_one, "steps"),
    ]


def beside(name: str, ours: Rate, peer: str, its: Rate, unit: str, goal: float | None = None) -> list[Figure]:
    """The figure by CPU time; where there is a goal for it, by wall time too."""
    figures = [Figure(name, ours.per_cpu_second, f"{unit}/CPU-s", peer, its.per_cpu_second, goal)]
    if goal:
        figures.append(Figure(f"{name}_wall", ours.per_second, f"{unit}/s", peer, its.per_second))
    return figures


def gpu_figures(sizes: Sizes, trainer: ModuleType, params: Params, device: str = "cuda") -> list[Figure]:
    """Market and PPO with 10 assets on the GPU, many accounts, wall time, as shares of their bounds."""
    ours = Ours(ASSETS, sizes, params, device)
    accounts, learners = 16 * sizes.accounts, 4 * sizes.accounts
    step = ours.stepping(accounts, 50 * accounts, compiled=device == "cuda")
    learn = ours.learning(trainer, 20 * learners * params.ppo.steps, environments=learners)
    market_speed = 50 * accounts / gpu.seconds(step, device)
    samples = 20 * learners * params.ppo.steps
    learning_speed = samples / gpu.seconds(learn, device)
    market_bound = gpu.memory_speed(device) / gpu.bytes_of_a_step(ASSETS, FEATURES)
    agent = Agent(FEATURES, ASSETS, params.ppo.hidden, ours.market_params)
    learning_bound = gpu.matrix_speed(device) / gpu.operations_of_a_sample(agent, ASSETS, params.ppo.epochs)
    return [
        *gpu.with_bound("market_10_assets", market_speed, "steps/s", market_bound, "a memory copy"),
        *gpu.with_bound("ppo_10_assets", learning_speed, "samples/s", learning_bound, "a matrix product"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round, no goals: a smoke test")
    quick = parser.parse_args().quick
    sizes = QUICK if quick else FULL
    torch.set_num_threads(1)
    hold_memory()
    peers.find()
    params, trainer = load_params(ROOT / "params.yaml"), load_trainer("ppo")
    ten, one = Ours(ASSETS, sizes, params), Ours(1, sizes, params)
    figures = learning_figures(sizes, trainer, ten, one) + market_figures(sizes, ten, one)
    there = torch.cuda.is_available()
    if there:
        figures += gpu_figures(sizes, trainer, params)
    if quick:
        figures = [replace(figure, goal=None) for figure in figures]
    compared = COMPARED.format(
        rounds=sizes.rounds,
        bars=len(ten.data),
        days=min(FINRL_DAYS, len(ten.data)),
        accounts=sizes.accounts,
        gpu=f"GPU: {torch.cuda.get_device_name()}, wall time." if there else "No GPU was here.",
    )
    return publish("speed-quick" if quick else "speed", figures, compared, PACKAGES)


if __name__ == "__main__":
    sys.exit(main())
