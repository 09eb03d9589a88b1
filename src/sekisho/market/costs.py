"""What trading and holding cost: commission, half spread, ticks, market impact, borrow, funding.

Impact follows the square-root law (Almgren et al. 2005, *Direct estimation of equity market impact*; Bouchaud
2010, *Price impact*) plus a linear term: trading the share p of a day's volume costs C(p) = linear · p² +
sqrt · volatility · p^1.5 of that volume. It fades: what was traded in the last bars is remembered as a share
m of the volume that decays geometrically, as the order book refills (Obizhaeva & Wang 2013, *Optimal trading
strategy and supply/demand dynamics*), and a further trade in the same direction costs C(m + p) − C(m). An
order cut into slices hence costs what it costs in one piece, less what has faded in between.

A trade against the memory costs C(p), never less. In a propagator model, where it would fill at the displaced
price, the displacement that an agent has caused itself turns into its profit as soon as impact is non-linear
(Gatheral 2010, *No-dynamic-arbitrage and market impact*), and a learner finds that before anything else.
"""

from __future__ import annotations

import torch

SMALLEST_SHARE = 1e-30  # of a day's volume: the derivative of the square root at 0 is infinite


def trading_cost(
    share: torch.Tensor,
    memory: torch.Tensor | None,
    rate: torch.Tensor,
    sqrt_rate: torch.Tensor,
    linear: float,
) -> torch.Tensor:
    """Cost of a trade of the signed ``share`` of a day's volume, in volumes, ``(…, A)``; never negative.

    Args:
        share: traded value over the average traded value a day.
        memory: what is left of earlier shares, signed; None where nothing is remembered.
        rate: commission, half spread and tick, as a fraction.
        sqrt_rate: coefficient of the square-root law × daily volatility (fraction).
        linear: coefficient of the linear law.
    """
    size = share.abs()
    if memory is None:
        return size * (rate + linear * size + sqrt_rate * size.clamp(min=SMALLEST_SHARE).sqrt())
    before = torch.where(share > 0, memory, -memory).clamp(min=0.0)
    after = before + size
    cost = size * rate + sqrt_rate * (_power(after) - _power(before))
    return cost + (linear * size) * (after + before) if linear else cost


def _power(share: torch.Tensor) -> torch.Tensor:
    """``share`` to the power of 1.5, monotone in floating point, with derivative 0 at 0."""
    return share * share.clamp(min=SMALLEST_SHARE).sqrt()


def holding_cost(
    value: torch.Tensor, borrow_rate: torch.Tensor, funding_rate: torch.Tensor, multiple: torch.Tensor
) -> torch.Tensor:
    """Cost in currency of holding ``value`` (currency, signed, ``(…, A)``) over one bar.

    Shorts pay ``borrow_rate``. ``funding_rate`` is paid by longs and received by shorts, or the other way
    round where it is negative: the only part that can be an income. ``multiple`` scales what is paid alone:
    dearer costs must not pay the holder more, and free ones take no income away.
    """
    funding = value * funding_rate
    return funding * torch.where(funding > 0, multiple, 1.0) - value.clamp(max=0.0) * borrow_rate * multiple
