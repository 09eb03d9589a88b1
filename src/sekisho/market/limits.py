"""Position limits as one differentiable function, the same in the environment and inside the ONNX graph."""

from __future__ import annotations

import torch

from sekisho.params import MarketParams

TINY = 1e-9  # of weight: divides where there is nothing to scale


def apply_limits(target: torch.Tensor, current: torch.Tensor, params: MarketParams) -> torch.Tensor:
    """The target weights ``(N, A)`` that may be held, given the ``current`` ones ``(N, A)``.

    In turn: each asset is clipped to ± ``max_asset``; the heavier side is scaled down until |net| is within
    ``max_net``; all are scaled down to ``max_gross``; the move from ``current`` is shortened to
    ``max_turnover``. Each step keeps what the ones before it reached, except that the turnover limit may
    leave a book outside that has drifted outside: it then comes back as fast as turnover allows.
    """
    bounded = target.clamp(-params.max_asset, params.max_asset)
    long = bounded.clamp(min=0.0)
    short = (-bounded).clamp(min=0.0)
    longs, shorts = long.sum(dim=1, keepdim=True), short.sum(dim=1, keepdim=True)
    long = long * ((shorts + params.max_net) / longs.clamp(min=TINY)).clamp(max=1.0)
    short = short * ((longs + params.max_net) / shorts.clamp(min=TINY)).clamp(max=1.0)
    netted = long - short
    gross = netted.abs().sum(dim=1, keepdim=True)
    scaled = netted * (params.max_gross / gross.clamp(min=TINY)).clamp(max=1.0)
    move = scaled - current
    turnover = move.abs().sum(dim=1, keepdim=True)
    return current + move * (params.max_turnover / turnover.clamp(min=TINY)).clamp(max=1.0)
