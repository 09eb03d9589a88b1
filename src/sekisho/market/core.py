"""One bar of trading as a pure function of tensors: what `TradingMarket` steps, eagerly or compiled.

Everything here is float64 but observations and rewards. Nothing is changed in place and nothing detached, so
that the gradient of any figure flows to the actions of any earlier bar; only whole lots have no derivative of
their own and pass the gradient straight through.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from sekisho.market.costs import holding_cost, trading_cost
from sekisho.market.data import MarketData
from sekisho.market.exchange import SLACK, fill_rules
from sekisho.market.limits import limited_move
from sekisho.params import MarketParams

CLOSING = 1e-6  # relative: an order closes a position that it misses by no more, as float32 weights do
SMALLEST_ADV = 1.0  # currency a day: keeps shares finite where an asset has no volume on record


class Bar(NamedTuple):
    """What one bar means to a trader, ``(N, A)`` each: known at the close before it, or met in it."""

    last_close: torch.Tensor
    lots_bought: torch.Tensor  # lots that one unit of currency buys at the last close
    open: torch.Tensor
    close: torch.Tensor
    lot: torch.Tensor  # units
    most_sold: torch.Tensor  # lots, never above 0: the fill is clamped between it and most_bought
    most_bought: torch.Tensor  # lots
    adv: torch.Tensor  # currency
    unit_share: torch.Tensor  # of adv, of one unit at the open
    buy_rate: torch.Tensor  # commission, half spread and tick of a purchase, fraction of the traded value
    sell_rate: torch.Tensor
    sqrt_rate: torch.Tensor  # impact_sqrt × the daily volatility known at the last close
    borrow_rate: torch.Tensor
    funding_rate: torch.Tensor
    delisted: torch.Tensor | None = None  # 1 where positions are paid out at the open, else 0; None: nowhere


class Account(NamedTuple):
    """The ledger of ``N`` accounts at a close, without the bar it is."""

    cash: torch.Tensor  # (N,) currency
    positions: torch.Tensor  # (N, A) units
    footprint: torch.Tensor  # (N, A) recent signed trades as decaying shares of the daily volume
    pending: torch.Tensor  # (N, latency, A) orders in flight, units, the next to fill first


class Traded(NamedTuple):
    """What a bar brought; ``(N,)`` or ``(N, A)`` float64, money in currency."""

    before: torch.Tensor  # (N,) equity at the last close
    equity: torch.Tensor  # (N,) at this close
    profit: torch.Tensor  # (N, A) before costs
    cost: torch.Tensor  # (N, A)
    ordered: torch.Tensor  # (N, A) units that were to fill in this bar, in whole lots
    filled: torch.Tensor  # (N, A) units
    traded: torch.Tensor  # (N, A) value of the fills at the open, signed
    weights: torch.Tensor  # (N, A) of the positions
    awaited: torch.Tensor  # (N, A) the same with the orders in flight: what is observed


def bar_table(data: MarketData, start: int, stop: int, params: MarketParams) -> torch.Tensor:
    """The fields of `Bar` at the bars ``[start, stop)``, packed ``(bars, fields, A)``: one lookup a step.

    The first bar has no close before it inside the window and cannot be traded: it repeats its own.
    """
    prices = (data.open.cpu().numpy(), data.close.cpu().numpy())
    volume, factor = data.volume.cpu().numpy(), data.adj_factor.cpu().numpy()
    rules = fill_rules(*prices, volume, factor, data.tradable.cpu().numpy(), data.session, params)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values[start:stop], device=data.close.device)

    here = slice(start, stop)
    before = torch.arange(start, stop, device=data.close.device).sub(1).clamp(min=start)
    last_close, open_, adv = data.close[before], data.open[here], data.adv[here].clamp(min=SMALLEST_ADV)
    lot = tensor(rules.lot)
    spread = params.commission + params.spread_multiple * data.half_spread[here]
    bar = Bar(
        last_close=last_close,
        lots_bought=1.0 / (last_close * lot),
        open=open_,
        close=data.close[here],
        lot=lot,
        most_sold=-tensor(rules.most_sell),
        most_bought=tensor(rules.most_buy),
        adv=adv,
        unit_share=open_ / adv,
        buy_rate=spread + tensor(rules.buy_slip),
        sell_rate=spread + tensor(rules.sell_slip),
        sqrt_rate=params.impact_sqrt * data.volatility[before],
        borrow_rate=data.borrow_rate[here],
        funding_rate=data.funding_rate[here],
        # left out where nothing is delisted: what every step costs must not pay for what most data lack
        delisted=data.delisted[here].double() if bool(data.delisted[here].any()) else None,
    )
    return torch.stack([field for field in bar if field is not None], dim=1).contiguous()


def step_accounts(
    table: torch.Tensor,
    features: torch.Tensor,
    row: torch.Tensor,
    account: Account,
    action: torch.Tensor,
    trade_unit: torch.Tensor | None,
    cost_multiple: torch.Tensor,
    risk: float,
    params: MarketParams,
) -> tuple[Account, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Trade the bar in ``row`` ``(N,)`` of the tables; the account, observation, reward and infos.

    ``table`` is `bar_table`'s, ``features`` `feature_table`'s, ``risk`` the volatility that rewards are
    measured in; the others are as in `trade_bar`, the infos as in `TradingMarket`.
    """
    fields = table[row].permute(1, 2, 0).contiguous()  # accounts side by side, like the ledger
    bar = Bar(*fields.transpose(1, 2).unbind(0))
    account, done = trade_bar(bar, account, action, trade_unit, cost_multiple, params)
    per_wealth = 1.0 / done.before
    net = (done.profit - done.cost) * per_wealth[:, None]
    net_return = net.sum(dim=1)
    scaled = net_return / risk
    infos = {
        "net_return": net_return,
        "gross_return": done.profit.sum(dim=1) * per_wealth,
        "cost": done.cost.sum(dim=1) * per_wealth,
        "turnover": done.traded.abs().sum(dim=1) * per_wealth,
        "equity": done.equity,
        "cash": account.cash,
        "weights": done.weights,
        "ordered": done.ordered,
        "filled": done.filled,
        "asset_net": net,
        "asset_reward": difference_rewards(net / risk, scaled, params.risk_aversion).float(),
    }
    reward = scaled * (1.0 - 0.5 * params.risk_aversion * scaled)
    return account, observe(features, row, done.awaited), reward.float(), infos


def difference_rewards(part: torch.Tensor, total: torch.Tensor, risk_aversion: float) -> torch.Tensor:
    """Each asset's reward ``(N, A)``: the account's less what it would be without the asset.

    With r = ``total`` ``(N,)`` the account's return and rₐ = ``part`` ``(N, A)`` the asset's, both in units
    of risk, and γ the risk aversion: rₐ − γ (r rₐ − rₐ²/2). Its derivative by rₐ is that of the account's
    reward, so that agents that learn from it per asset climb the same objective with an A times smaller
    variance (Wolpert & Tumer 2002).
    """
    return part * (1.0 - risk_aversion * (total[:, None] - 0.5 * part))


def feature_table(data: MarketData, start: int, stop: int) -> torch.Tensor:
    """Features of the bars ``[start, stop)`` with a place for the weight behind them ``(bars, A, F+1)``."""
    return torch.nn.functional.pad(data.features[start:stop], (0, 1))


def observe(features: torch.Tensor, row: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Observations ``(N, A, F+1)`` float32: `feature_table`'s rows ``(N,)``, their weights ``(N, A)``."""
    observation = features[row]  # a copy: the table itself stays as it is
    observation[..., -1] = weights
    return observation


def trade_bar(
    bar: Bar,
    account: Account,
    action: torch.Tensor,
    trade_unit: torch.Tensor | None,
    cost_multiple: torch.Tensor,
    params: MarketParams,
) -> tuple[Account, Traded]:
    """Decide at the last close, fill at the open, hold and mark at the close.

    What is held of a delisted asset is paid out at the open, the last price, less ``delisting_haircut`` of
    its size: no trade, no turnover, and no cost that ``cost_multiple`` scales. A short loses as a long does:
    whether it failed or was bought at a premium is not in the bars.

    Args:
        action: ``(N, A)`` float64, target weights, or trades in ``trade_unit``.
        trade_unit: ``(A,)`` weight, or None where actions are target weights.
        cost_multiple: ``(N, 1)`` or ``(1, 1)``, of all that is paid; funding received stays as it is.
    """
    held_before, before, _, current = mark(account, bar.last_close)
    target = action if trade_unit is None else current + action * trade_unit
    order = limited_move(target, current, params) * before[:, None] * bar.lots_bought  # lots
    pending = account.pending
    if params.latency_bars:
        pending = torch.cat((pending, (order * bar.lot)[:, None]), dim=1)
        order, pending = pending[:, 0] / bar.lot, pending[:, 1:]

    lots = _whole(order, account.positions / bar.lot) if params.lot_size else order
    ordered, filled = lots * bar.lot, torch.clamp(lots, bar.most_sold, bar.most_bought) * bar.lot
    positions = account.positions + filled
    share = filled * bar.unit_share
    footprint = account.footprint * params.impact_decay if params.impact_decay else None
    rate = torch.where(filled > 0, bar.buy_rate, bar.sell_rate)
    cost = bar.adv * trading_cost(share, footprint, rate, bar.sqrt_rate, params.impact_linear)
    cost = cost * cost_multiple
    traded = spent = filled * bar.open
    if bar.delisted is not None:
        paid_out = positions * bar.delisted
        positions, payment = positions - paid_out, paid_out * bar.open
        cost, spent = cost + params.delisting_haircut * payment.abs(), traded - payment
    cost = cost + holding_cost(positions * bar.open, bar.borrow_rate, bar.funding_rate, cost_multiple)
    cash = account.cash - (spent + cost).sum(dim=1)
    after = Account(
        cash=cash,
        positions=positions,
        footprint=account.footprint if footprint is None else footprint + share,
        pending=pending,
    )
    values, equity, weights, awaited = mark(after, bar.close)
    profit = values - held_before - spent
    return after, Traded(before, equity, profit, cost, ordered, filled, traded, weights, awaited)


def mark(
    account: Account, close: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values ``(N, A)``, equity ``(N,)``, weights ``(N, A)``, and those with the orders in flight.

    The one place where weights are computed, so that a decision starts from the weights that were observed,
    and a run that goes on from a saved state observes those of the unbroken one to the bit. ``close``
    ``(N, A)`` lies in memory like the ledger, accounts side by side: sums depend on it.
    """
    values = account.positions * close
    equity = account.cash + values.sum(dim=1)
    per_equity = (1.0 / equity)[:, None]
    weights = values * per_equity
    if not account.pending.shape[1]:
        return values, equity, weights, weights
    return values, equity, weights, weights + account.pending.sum(dim=1) * close * per_equity


def _whole(lots: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """Whole lots, toward zero; an order that closes the position ``held`` (lots) takes its odd lot along.

    A dividend or a consolidation leaves odd lots, which whole ones could never close. The gradient passes
    straight through (adding 0 exactly).
    """
    held, exact, near = held.detach(), lots * (1 + SLACK), lots * CLOSING
    odd = held.frac() * (((exact + near).detach() + held) * held <= 0)
    exact = exact + near * (odd != 0)  # lies in memory as the orders do: sums depend on it
    whole = (exact + odd).trunc() - odd
    return whole.detach() + (exact - exact.detach()) if lots.requires_grad else whole
