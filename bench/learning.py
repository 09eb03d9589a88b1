"""Does it learn? Trainers on a market whose optimum is known; ``make bench-learning``."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import argparse
import multiprocessing
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from results import Figure, publish
from sekisho.errors import TrainingError
from sekisho.launch import hold_memory
from sekisho.market import Agent
from sekisho.market.linear_quadratic import (
    Judgement,
    LinearQuadratic,
    Problem,
    best_static,
    derive_units,
    judge,
    markowitz,
    myopic,
    riccati,
    value_of,
)
from sekisho.params import Section, load_params
from sekisho.trainer import Run, Task
from trainers import load_trainer

ROOT = Path(__file__).parents[1]
SEEDS = (501, 502, 503, 504, 505)  # none of them was used in choosing the options below
EPISODE = 256  # steps of an account in training, a truncation: what it lost without bound ends with it
ACCOUNTS = 1024  # that judge an agent, on signals that no training drew
JUDGING = 1_000_000  # added to a training's seed gives the judgement's

ONE = Problem(
    assets=1, decay=(0.1,), risk_aversion=1.0, cost=100.0, discount=0.99, correlation=0.0, noise=0.0
)
MARKETS = {
    "one_asset": ONE,
    "noise": replace(ONE, noise=10.0),
    "five_assets": replace(ONE, assets=5, decay=(0.02, 0.3), correlation=0.3),
    "slow_dear": replace(ONE, decay=(0.02,), risk_aversion=2.0, cost=500.0),
    "fast_averse": replace(ONE, decay=(0.3,), risk_aversion=5.0, cost=20.0),
    "cheap_bold": replace(ONE, decay=(0.05,), risk_aversion=0.2, cost=5.0),
    "no_signal": replace(ONE, noise=10.0, signal=False),
}
UNTUNED = ("slow_dear", "fast_averse", "cheap_bold")  # options are those of one_asset
REFERENCES = {"markowitz": markowitz, "best_static": best_static, "myopic": myopic}

# Options beside those of params.yaml, which are for prices: chosen on other seeds, the same for every market
# but for the samples
OPTIONS: dict[str, dict[str, Any]] = {
    "apg": {"environments": 128, "steps": 32, "learning_rate": 1e-2},
    "ppo": {
        "environments": 1024,
        "steps": 32,
        "epochs": 4,
        "learning_rate": 1e-3,
        "gae_lambda": 0.9,
        "entropy": 0.02,
    },
    "td3": {
        "environments": 256,
        "batch": 2048,
        "learning_rate": 3e-4,
    },  # smaller and faster, it diverges in noise
}
SAMPLES = {
    "apg": {"noise": 4_000_000, "no_signal": 10_000_000, "five_assets": 1_500_000},
    "ppo": {"noise": 16_000_000, "no_signal": 14_000_000, "five_assets": 2_500_000},
    "td3": {},
}
USUAL = {"apg": 1_000_000, "ppo": 5_000_000, "td3": 1_000_000}
SB3 = {"n_steps": 32, "batch_size": 4096, "n_epochs": 4, "learning_rate": 1e-3, "gae_lambda": 0.95}
SB3_ENVIRONMENTS, SB3_SECONDS = 1024, 60.0  # the budget is what our PPO may take

# What is tried: market → number of seeds
PLAN = {
    "apg": dict.fromkeys(MARKETS, 5) | dict.fromkeys(UNTUNED, 3),
    "ppo": dict.fromkeys(MARKETS, 5) | dict.fromkeys(UNTUNED, 3) | {"no_signal": 3},
    "ppo_bfloat16": dict.fromkeys(("one_asset", "noise", "five_assets"), 3),
    "td3": {"one_asset": 3, "no_signal": 3},
    "sb3": {"one_asset": 2, "noise": 1, "five_assets": 1},
}
GOALS = {  # % of the optimum, of the worst seed
    "apg": {"one_asset": 99.0, "noise": 98.0, "five_assets": 98.5} | dict.fromkeys(UNTUNED, 99.0),
    "ppo": {"one_asset": 98.5, "noise": 98.0, "five_assets": 97.5} | dict.fromkeys(UNTUNED, 98.5),
    "ppo_bfloat16": {"one_asset": 98.5, "noise": 98.0, "five_assets": 97.5},
}
SECONDS = {"apg": 10.0, "ppo": 60.0, "ppo_bfloat16": 60.0}  # of CPU time, of the worst seed, on one_asset
IDLE = 2.0  # without signal: % of the turnover of the optimum with signal, at most
COMPARED = """\
Gârleanu and Pedersen's market: share of the closed-form optimum's value, judged on signals that no training
drew, without an end; accounts in training end after {episode} steps; those of APG, whose actions have no
noise, open with random positions. The worst of the seeds, the median below it. one_asset: φ 0.1, γ 1, λ
100, discount 0.99. noise: the same with unpredictable returns of 10 × the predictable ones. five_assets: φ
0.02 and 0.3, correlation 0.3. slow_dear (φ 0.02, γ 2, λ 500), fast_averse (φ 0.3, γ 5, λ 20) and cheap_bold
(φ 0.05, γ 0.2, λ 5) were not tuned for. no_signal: noise as above and nothing to be found; turnover in % of
that of the optimum with signal. CPU time is process_time of the training, one torch thread, without the
judgement and after a first update that warms up. A run that stopped itself counts as an empty book and as
one `diverged`; without signal it has no turnover to show. TD3 has no goals: it diverges at times, and does
not end idle without signal. ppo_bfloat16: PPO with the hidden layers' products in bfloat16. sb3 is the PPO of
stable-baselines3 on the same market and units with {sb3:.0f} CPU-s. Markowitz, the best static scaling of it
and the cost-aware myopic rule are valued exactly; noise does not change their value.
Seeds: {seeds}; of them {plan}."""


@dataclass(frozen=True)
class Trial:
    trainer: str
    market: str
    seed: int


@dataclass(frozen=True)
class Outcome:
    trial: Trial
    share: float  # % of the optimum; not a number where the optimum is zero
    turnover: float  # % of the optimum's, with signal
    seconds: float  # of CPU time
    samples: int
    diverged: bool = False  # the trainer stopped itself and has no agent: share 0, as of an empty book


def attempt(trial: Trial, **changes: Any) -> Outcome:
    """Train once and judge; ``changes`` of the trainer's options."""
    torch.set_num_threads(1)
    hold_memory()
    problem = MARKETS[trial.market]
    train = sb3_trained if trial.trainer == "sb3" else trained
    try:
        decide, seconds, samples = train(problem, trial, **changes)
    except TrainingError as error:
        print(f"{trial} diverged: {error}", file=sys.stderr, flush=True)
        return Outcome(trial, 0.0, 0.0, 0.0, 0, diverged=True)
    found = judge(problem, decide, ACCOUNTS, trial.seed + JUDGING)
    best = riccati(problem).value
    share = 100 * found.value / best if problem.signal else float("nan")
    return Outcome(trial, share, 100 * found.turnover / optimum(problem, trial).turnover, seconds, samples)


def optimum(problem: Problem, trial: Trial) -> Judgement:
    """Of the market with its signal, on the paths that judge ``trial``."""
    problem, units = replace(problem, signal=True), derive_units(problem)
    rule = riccati(problem).rule
    return judge(problem, lambda seen: rule.decide(seen, units), ACCOUNTS, trial.seed + JUDGING)


Decide = Callable[[torch.Tensor], torch.Tensor]


def trained(problem: Problem, trial: Trial, **changes: Any) -> tuple[Decide, float, int]:
    """An agent after ``training/<trainer>.py``; CPU seconds and samples."""
    options = options_of(trial, problem, **changes)
    trainer = load_trainer(trainer_of(trial))

    def learn(samples: int) -> tuple[Agent, Run]:
        torch.manual_seed(trial.seed)  # initial weights
        agent = Agent(len(problem.decay), problem.assets, options.hidden, None)
        market = LinearQuadratic(
            problem,
            options.environments,
            episode_steps=EPISODE,
            exploring=trainer_of(trial) == "apg",  # the others explore by the noise of their actions
        )
        run = Run(Task(market, agent, validate=lambda: 0.0), samples, evaluate_every=sys.maxsize)
        trainer.learn(run.task, options, trial.seed, run)
        return agent, run

    update = options.environments * options.steps
    learn(update + getattr(options, "first", 0))  # what torch loads and allocates once is not learning
    began = time.process_time()
    agent, run = learn(options.samples)
    seconds = time.process_time() - began
    return lambda seen: agent.trade(agent.encode(seen)), seconds, run.curve[-1]["samples"]


def trainer_of(trial: Trial) -> str:
    return trial.trainer.partition("_")[0]


def options_of(trial: Trial, problem: Problem, **changes: Any) -> Section:
    name, _, precision = trial.trainer.partition("_")
    section: Section = getattr(load_params(ROOT / "params.yaml"), name)
    chosen = OPTIONS[name] | {"samples": SAMPLES[name].get(trial.market, USUAL[name])}
    chosen |= {"discount": problem.discount} | changes
    if precision:
        chosen["precision"] = precision
    assert set(chosen) <= set(type(section).model_fields)
    return section.model_copy(update=chosen)


class Sb3Market(VecEnv):
    """The market as stable-baselines3 wants it: flat numpy arrays and the account's reward."""

    def __init__(self, market: LinearQuadratic) -> None:
        self.market = market
        space = market.single_observation_space
        flat = type(space)(-np.inf, np.inf, (int(np.prod(space.shape)),), np.float32)  # type: ignore[arg-type]
        bound = type(space)(-10.0, 10.0, market.single_action_space.shape, np.float32)  # finite, as sb3 asks
        super().__init__(market.num_envs, flat, bound)

    def reset(self) -> np.ndarray:
        return self.market.reset(seed=self.market.generator.initial_seed())[0].flatten(1).numpy()

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        seen, reward, _, truncated, infos = self.market.step(self.actions)
        about: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for which in truncated.nonzero().flatten().tolist():
            last = infos["final_obs"][which].flatten().numpy()
            about[which] = {"TimeLimit.truncated": True, "terminal_observation": last}
        return seen.flatten(1).numpy(), reward.numpy(), truncated.numpy(), about

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [None] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class UntilSpent(BaseCallback):
    """Stops when the CPU time is used up."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.end = time.process_time() + seconds

    def _on_step(self) -> bool:
        return time.process_time() < self.end


def sb3_trained(problem: Problem, trial: Trial, *, budget: float = SB3_SECONDS) -> tuple[Decide, float, int]:
    """stable-baselines3's PPO with so many CPU seconds; those it took, and samples."""
    market = Sb3Market(LinearQuadratic(problem, SB3_ENVIRONMENTS, episode_steps=EPISODE, seed=trial.seed))
    model = PPO("MlpPolicy", market, gamma=problem.discount, seed=trial.seed, device="cpu", **SB3)
    began = time.process_time()
    model.learn(sys.maxsize, callback=UntilSpent(budget))
    seconds = time.process_time() - began

    def decide(seen: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(model.predict(seen.flatten(1).numpy(), deterministic=True)[0])

    return decide, seconds, model.num_timesteps


def trials(only: str | None) -> list[Trial]:
    return [
        Trial(trainer, market, seed)
        for trainer, markets in PLAN.items()
        if only in (None, trainer)
        for market, count in markets.items()
        for seed in SEEDS[:count]
    ]


def run_all(planned: list[Trial], processes: int) -> Iterator[Outcome]:
    """Each trial in a fresh process; its result on the way."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, max_tasks_per_child=1) as pool:
        for done, future in enumerate(as_completed([pool.submit(attempt, trial) for trial in planned]), 1):
            outcome = future.result()
            trial = outcome.trial
            share = f"{outcome.share:.2f} % of the optimum, " if MARKETS[trial.market].signal else ""
            print(
                f"{done}/{len(planned)} {trial.trainer} {trial.market} seed {trial.seed}: "
                f"{share}turnover {outcome.turnover:.1f} %, {outcome.samples:,} samples, "
                f"{outcome.seconds:.1f} CPU-s",
                flush=True,
            )
            yield outcome


def figures_of(outcomes: Iterable[Outcome]) -> list[Figure]:
    """Per trainer and market: the worst seed against its goal, the median, the CPU time."""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.trial.trainer, outcome.trial.market].append(outcome)
    figures = []
    order = [(trainer, market) for trainer, markets in PLAN.items() for market in markets]
    for trainer, market in sorted(groups, key=order.index):
        found, name = groups[trainer, market], f"{trainer}_{market}"
        if MARKETS[market].signal:
            shares = [outcome.share for outcome in found]
            goal = GOALS.get(trainer, {}).get(market)
            figures.append(Figure(name, min(shares), "% of optimum, worst", goal=goal))
            figures.append(Figure(f"{name}_median", statistics.median(shares), "% of optimum"))
        else:
            idle = IDLE if trainer in GOALS else None
            idled = [outcome.turnover for outcome in found if not outcome.diverged]  # no agent is not idle
            if idled:
                figures.append(Figure(name, max(idled), "% of turnover, worst", goal=idle, at_most=True))
        diverged = sum(outcome.diverged for outcome in found)
        if diverged:
            none = 0 if trainer in GOALS else None
            figures.append(Figure(f"{name}_diverged", diverged, "runs", goal=none, at_most=True))
        limit = SECONDS.get(trainer) if market == "one_asset" else None
        seconds = max(outcome.seconds for outcome in found)
        figures.append(Figure(f"{name}_time", seconds, "CPU-s, worst", goal=limit, at_most=True))
    return figures


def references() -> list[Figure]:
    """Simple rules, valued exactly."""
    figures = []
    for market, problem in MARKETS.items():
        if problem.signal and market != "noise":  # the noise changes no expectation
            best = riccati(problem).value
            for name, rule in REFERENCES.items():
                share = 100 * value_of(problem, rule(problem)) / best
                figures.append(Figure(f"{name}_{market}", share, "% of optimum"))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(PLAN), help="one trainer (default: all of them)")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1, help="trials side by side")
    given = parser.parse_args()
    outcomes = list(run_all(trials(given.only), given.processes))
    plan = "; ".join(
        f"{trainer}: " + ", ".join(f"{market} {count}" for market, count in markets.items())
        for trainer, markets in PLAN.items()
    )
    compared = COMPARED.format(sb3=SB3_SECONDS, episode=EPISODE, seeds=", ".join(map(str, SEEDS)), plan=plan)
    part = f"learning-{given.only}" if given.only else "learning"
    packages = ("torch", "numpy", "scipy", "stable-baselines3")
    return publish(part, figures_of(outcomes) + references(), compared, packages)


if __name__ == "__main__":
    sys.exit(main())
