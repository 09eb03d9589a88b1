"""What trading and holding cost: commission, half spread, market impact, borrow, funding.

Impact after the square-root law (Almgren et al. 2005, *Direct estimation of equity market impact*; Bouchaud
2010): cost fraction ∝ daily volatility × √(traded value / daily traded value), plus a linear term.
"""

from __future__ import annotations

import torch

from sekisho.params import MarketParams

SMALLEST_ADV = 1.0  # currency a day: keeps participation finite where an asset has no volume on record


def trade_cost(
    value: torch.Tensor,
    half_spread: torch.Tensor,
    adv: torch.Tensor,
    volatility: torch.Tensor,
    params: MarketParams,
) -> torch.Tensor:
    """Cost in currency of trading ``value`` (currency, any sign, ``(…, A)``); never negative.

    Args:
        value: traded value at the fill price.
        half_spread: fraction.
        adv: average traded value a day, currency, lagged.
        volatility: daily, fraction.
    """
    size = value.abs()
    participation = size / adv.clamp(min=SMALLEST_ADV)
    fraction = (
        params.commission
        + params.spread_multiple * half_spread
        + params.impact_linear * participation
        + params.impact_sqrt * volatility * participation.sqrt()
    )
    return size * fraction


def holding_cost(
    position: torch.Tensor, borrow_rate: torch.Tensor, funding_rate: torch.Tensor
) -> torch.Tensor:
    """Cost in currency of holding ``position`` (currency, signed, ``(…, A)``) over one bar.

    Shorts pay ``borrow_rate``. ``funding_rate`` is paid by longs and received by shorts, or the other way
    round where it is negative: the only part that can be an income.
    """
    return (-position).clamp(min=0.0) * borrow_rate + position * funding_rate
