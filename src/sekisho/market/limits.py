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
    return current + limited_move(target, current, params)


def limited_move(target: torch.Tensor, current: torch.Tensor, params: MarketParams) -> torch.Tensor:
    """The change of weights ``(N, A)`` to the target that `apply_limits` allows."""
    bounded = target.clamp(-params.max_asset, params.max_asset)
    long = bounded.clamp(min=0.0)
    longs = long.sum(dim=1, keepdim=True)
    shorts = longs - bounded.sum(dim=1, keepdim=True)
    long_scale = ((shorts + params.max_net) / longs.clamp(min=TINY)).clamp(max=1.0)
    short_scale = ((longs + params.max_net) / shorts.clamp(min=TINY)).clamp(max=1.0)
    gross = longs * long_scale + shorts * short_scale
    gross_scale = (params.max_gross / gross.clamp(min=TINY)).clamp(max=1.0)
    # shorts × their scale, plus what the longs' scale differs by
    scaled = bounded * (short_scale * gross_scale) + long * ((long_scale - short_scale) * gross_scale)
    move = scaled - current
    turnover = move.abs().sum(dim=1, keepdim=True)
    return move * (params.max_turnover / turnover.clamp(min=TINY)).clamp(max=1.0)
