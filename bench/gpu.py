"""The same market and trainer on a GPU, as shares of what its memory and its matrix units allow."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from results import Figure

REPEATS = 5
COPIED = 2**30  # bytes
MATRIX = 8192  # rows and columns


def seconds(run: Callable[[], object], device: str) -> float:
    """Median wall time of a call, the work that it queued included."""
    taken = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return median(taken[1:])  # the first call warms up


def memory_speed(device: str) -> float:
    """Bytes a second that a plain copy reads and writes."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPIED / seconds(lambda: target.copy_(source), device)


def matrix_speed(device: str) -> float:
    """Operations a second of a float32 matrix product, with PyTorch's default precision."""
    left = torch.randn(MATRIX, MATRIX, device=device)
    return 2 * MATRIX**3 / seconds(lambda: left @ left, device)


def bytes_of_a_step(assets: int, features: int) -> int:
    """What any market must move for one account and bar: read and write the float64 ledger, the bar and the
    age, read the float32 action, write the float32 observation. The prices, which all share, are left out.
    """
    ledger = 2 * 8 * (assets + 1)
    clock = 2 * 2 * 8
    return ledger + clock + 4 * assets + 4 * assets * (features + 1)


def operations_of_a_sample(agent: torch.nn.Module, assets: int, epochs: int) -> int:
    """Of the agent's matrix products: forward to act, then forward and backward (twice that) per epoch."""
    weights = sum(part.numel() for part in agent.parameters() if part.dim() == 2)
    return 2 * weights * assets * (1 + 3 * epochs)


def with_bound(name: str, speed: float, unit: str, bound: float, of: str) -> list[Figure]:
    return [
        Figure(f"gpu_{name}", speed, unit),
        Figure(f"gpu_{name}_bound", 100 * speed / bound, f"% of what {of} allows"),
    ]
