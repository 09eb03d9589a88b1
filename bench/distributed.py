"""PPO and APG on one process and on two, and the data's stages by size: what `sekisho plan` reckons with.

    python bench/distributed.py

Each rank is one thread, so that two of them on two idle cores have at best twice the speed of one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from blocks import block_figures
from distributed_data import SIZES, data_figures, write_rates
from results import Figure, publish
from sekisho.launch import hold_memory
from sekisho.market import Agent, TradingMarket, derive_units
from sekisho.market.ranks import Ranks
from sekisho.params import load_params
from sekisho.trainer import Run, Task
from synthetic_market import costs_on, market_data, random_panel
from trainers import load_trainer

ROOT = Path(__file__).parents[1]
UPDATES, WARM = 12, 2
LARGE, MESSAGES = 16, 500
ASSETS, FEATURES, SESSIONS = 10, 6, 100


class Timed(Ranks):
    """Counts the seconds that this rank waits for messages."""

    waited = 0.0

    def _together(self, message: Any) -> None:
        began = time.perf_counter()
        super()._together(message)
        self.waited += time.perf_counter() - began


def work(name: str, times: int, rank: int, size: int, port: int) -> tuple[float, float]:
    """Learn as one of ``size`` ranks with ``times`` the accounts of params.yaml.

    Returns samples a second of all ranks, and this one's share of waiting.
    """
    ranks = joined(rank, size, port)
    params = load_params(ROOT / "params.yaml")
    options, costs = getattr(params, name), costs_on(params.market)
    options = options.model_copy(update={"environments": times * options.environments})
    each = options.steps * options.environments
    data = market_data(random_panel(ASSETS, SESSIONS), FEATURES, costs)
    window = (data.first_bar, len(data))
    units = derive_units(data, *window, costs)
    torch.manual_seed(1)
    agent = Agent(FEATURES, ASSETS, options.hidden, costs)
    agent.fit_scales(data, *window, units)
    market = TradingMarket(data, costs, units, options.environments, window, ranks=ranks)
    seen: list[tuple[float, float]] = []

    class Watched(Run):
        def record(self, **figures: Any) -> None:
            super().record(**figures)
            seen.append((time.perf_counter(), getattr(ranks, "waited", 0.0)))

    task = Task(market, agent, lambda: 0.0)
    run = Watched(task, (WARM + UPDATES) * each, evaluate_every=10**9, ranks=ranks)
    load_trainer(name).learn(task, options, 1, run)
    (began, before), (ended, after) = seen[WARM - 1], seen[-1]
    return UPDATES * each / (ended - began), (after - before) / (ended - began)


def one_message(rank: int, size: int, port: int) -> float:
    """Seconds of one sum over the ranks of as many floats as the agent has gradients, and nothing else."""
    ranks = joined(rank, size, port)
    params = load_params(ROOT / "params.yaml")
    agent = Agent(FEATURES, ASSETS, params.ppo.hidden, costs_on(params.market))
    values = torch.zeros(sum(each.numel() for each in agent.parameters()))
    for _ in range(20):
        ranks.sum(values)
    began = time.perf_counter()
    for _ in range(MESSAGES):
        ranks.sum(values)
    return (time.perf_counter() - began) / MESSAGES


def joined(rank: int, size: int, port: int) -> Timed:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    hold_memory()
    return Timed.join("cpu")


def on_ranks(size: int, task: Callable[..., Any], *arguments: Any) -> Any:
    """What the first of so many processes returns of ``task(*arguments, rank, size, port)``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(size, context) as pool:
        working = [pool.submit(task, *arguments, rank, size, port) for rank in range(size)]
        return working[0].result(timeout=300)


def training_figures() -> list[Figure]:
    """The rates of the configured trainer are left for `sekisho plan`."""
    figures = [Figure("one_message", 1e6 * on_ranks(2, one_message), "µs, a sum of the agent's gradients")]
    configured = load_params(ROOT / "params.yaml").train.trainer
    for name in ("ppo", "apg"):
        for times in (1, LARGE):
            (one, _), (two, waited) = (on_ranks(size, work, name, times) for size in (1, 2))
            if (name, times) == (configured, 1):
                rates = {"samples_per_second": {"cpu": one}, "speedup": {"1": 1.0, "2": two / one}}
                write_rates("train", {"trainer": name} | rates)
            label = name if times == 1 else f"{name}_{times}_times_the_accounts"
            figures += [
                Figure(f"{label}_1_process", one, "samples/s"),
                Figure(f"{label}_2_processes", two, "samples/s", "one process", one),
                Figure(f"{label}_messages", 100 * waited, "% of the time, waiting for the other included"),
            ]
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=SIZES, help="GB of raw bars (%(default)s)")
    sizes = parser.parse_args().sizes  # the disk needs eight times the largest
    compared = (
        f"The trainers with the options of params.yaml on {ASSETS} assets with all costs, {UPDATES} updates "
        "after two that warm up, one thread a process, Gloo; the ideal is twice the speed of one process. "
        f"With {LARGE} times the accounts a message carries as much, for {LARGE} times the work. "
        "What is neither message nor work on own accounts is done by all: noise, permutations, optimizer. "
        "Data: GB of raw Parquet, each stage in a process of its own; blocks as bench/blocks.py says."
    )
    figures = training_figures() + data_figures(tuple(sizes)) + block_figures()
    return publish("distributed", figures, compared, ["torch", "polars", "dvc"])


if __name__ == "__main__":
    sys.exit(main())
