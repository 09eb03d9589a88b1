"""PPO and APG on one process and on two: samples a second, and what is lost on the way.

    python bench/distributed.py

Each rank is one thread, so that two of them on two idle cores have at best twice the speed of one.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from results import Figure, publish
from sekisho.market import Agent
from sekisho.market.linear_quadratic import LinearQuadratic, Problem
from sekisho.market.ranks import Ranks
from sekisho.params import load_params
from sekisho.trainer import Run, Task

ROOT = Path(__file__).parents[1]
UPDATES, WARM = 12, 2
PROBLEM = Problem(
    assets=16, decay=(0.05, 0.3), risk_aversion=1.0, cost=10.0, discount=0.95, correlation=0.3, noise=1.0
)


class Timed(Ranks):
    """Counts the seconds that this rank waits for messages."""

    waited = 0.0

    def _together(self, message: Any) -> None:
        began = time.perf_counter()
        super()._together(message)
        self.waited += time.perf_counter() - began


def load_trainer(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"training/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def work(name: str, rank: int, size: int, port: int, answers: Any) -> None:
    """Learn as one of ``size`` ranks; the first answers with samples a second and its share of waiting."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    ranks = Timed.join("cpu")
    options = getattr(load_params(ROOT / "params.yaml"), name)
    each = options.steps * options.environments
    torch.manual_seed(1)
    agent = Agent(len(PROBLEM.decay), PROBLEM.assets, options.hidden, None)
    market = LinearQuadratic(PROBLEM, ranks.share(options.environments), episode_steps=100)
    seen: list[tuple[float, float]] = []

    class Watched(Run):
        def record(self, **figures: Any) -> None:
            super().record(**figures)
            seen.append((time.perf_counter(), getattr(ranks, "waited", 0.0)))

    task = Task(market, agent, lambda: 0.0)
    run = Watched(task, (WARM + UPDATES) * each, evaluate_every=10**9, ranks=ranks)
    load_trainer(name).learn(task, options, 1, run)
    if rank == 0:
        (began, before), (ended, after) = seen[WARM - 1], seen[-1]
        answers.put((UPDATES * each / (ended - began), (after - before) / (ended - began)))


def measure(name: str, size: int) -> tuple[float, float]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    workers = [context.Process(target=work, args=(name, rank, size, port, answers)) for rank in range(size)]
    for worker in workers:
        worker.start()
    answer: tuple[float, float] = answers.get(timeout=300)
    for worker in workers:
        worker.join()
    return answer


def training_figures() -> list[Figure]:
    figures = []
    for name in ("ppo", "apg"):
        (one, _), (two, waited) = measure(name, 1), measure(name, 2)
        figures += [
            Figure(f"{name}_1_process", one, "samples/s"),
            Figure(f"{name}_2_processes", two, "samples/s", "one process", one),
            Figure(f"{name}_efficiency", 100 * two / (2 * one), "% of the ideal, twice the speed"),
            Figure(
                f"{name}_messages", 100 * waited, "% of the time in messages, waiting for the other included"
            ),
        ]
    return figures


def main() -> int:
    compared = (
        f"The trainers with the options of params.yaml on a market of {PROBLEM.assets} assets, {UPDATES} "
        "updates after two that warm up, one thread a process, Gloo; the ideal is twice the speed of one "
        "process. What is neither message nor work on own accounts is done by all: noise, permutations, "
        "the optimizer."
    )
    figures = training_figures()
    if (ROOT / "bench/distributed_data.py").is_file():
        from distributed_data import data_figures

        figures += data_figures()
    return publish("distributed", figures, compared, ["torch"])


if __name__ == "__main__":
    sys.exit(main())
