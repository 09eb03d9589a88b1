"""The market once more, for one account: Python floats and loops, slow and plain, from the documents alone.

It shares no arithmetic with the fast market; only the exchange's published tables are the same, and those are
checked in test_exchange.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sekisho.market import MarketData
from sekisho.market.exchange import LIMIT_BELOW, LIMIT_WIDTH, TICK_UP_TO, TICKS
from sekisho.params import MarketParams

NEARLY = 1e-9  # relative: what counts as the same price or as whole


@dataclass
class Day:
    """What one bar brought."""

    net_return: float
    cost: float  # fraction of the equity before
    turnover: float
    ordered: list[float]  # units
    filled: list[float]


class Reference:
    """Cash, units, orders in flight and the remembered impact of one account at the close of ``bar``."""

    def __init__(self, data: MarketData, params: MarketParams, bar: int, multiple: float = 1.0) -> None:
        self.d, self.p, self.bar, self.multiple = data, params, bar, multiple
        self.cash = params.capital
        self.units, self.memory = [0.0] * len(data.symbols), [0.0] * len(data.symbols)
        self.flight = [[0.0] * len(data.symbols) for _ in range(params.latency_bars)]

    def at(self, field: str, bar: int, asset: int) -> float:
        return float(getattr(self.d, field)[bar, asset])

    def equity(self) -> float:
        return self.cash + sum(u * self.at("close", self.bar, a) for a, u in enumerate(self.units))

    def weights(self) -> list[float]:
        """With the orders in flight: what is observed."""
        awaited = [u + sum(order[a] for order in self.flight) for a, u in enumerate(self.units)]
        return [u * self.at("close", self.bar, a) / self.equity() for a, u in enumerate(awaited)]

    def limited(self, target: list[float]) -> list[float]:
        p, current = self.p, self.weights()
        w = [min(max(x, -p.max_asset), p.max_asset) for x in target]
        longs, shorts = sum(x for x in w if x > 0), -sum(x for x in w if x < 0)
        if longs - shorts > p.max_net:
            w = [x * (shorts + p.max_net) / longs if x > 0 else x for x in w]
        elif shorts - longs > p.max_net:
            w = [x * (longs + p.max_net) / shorts if x < 0 else x for x in w]
        gross = sum(abs(x) for x in w)
        if gross > p.max_gross:
            w = [x * p.max_gross / gross for x in w]
        turnover = sum(abs(x - c) for x, c in zip(w, current, strict=True))
        if turnover > p.max_turnover:
            w = [c + (x - c) * p.max_turnover / turnover for x, c in zip(w, current, strict=True)]
        return w

    def step(self, target: list[float]) -> Day:
        """Trade the next bar and hold to its close."""
        now, then, before, current = self.bar, self.bar + 1, self.equity(), self.weights()
        allowed = self.limited(target)
        decided = [
            (w - c) * before / self.at("close", now, a)
            for a, (w, c) in enumerate(zip(allowed, current, strict=True))
        ]
        self.flight.append(decided)
        due = self.flight.pop(0)
        costs = turnover = 0.0
        ordered, filled = [], []
        for a, order in enumerate(due):
            lot = self.p.lot_size / self.at("adj_factor", then, a) if self.p.lot_size else 0.0
            if lot:
                order = self.in_lots(order, self.units[a], lot)
            fill = self.fill(then, a, order, lot)
            price = self.at("open", then, a)
            costs += self.multiple * self.trading_cost(now, then, a, fill * price)
            self.cash -= fill * price
            self.units[a] += fill
            if bool(self.d.delisted[then, a]):
                self.cash += self.units[a] * price
                costs += self.p.delisting_haircut * abs(self.units[a] * price)
                self.units[a] = 0.0
            value = self.units[a] * price
            costs += self.multiple * max(-value, 0.0) * self.at("borrow_rate", then, a)
            funding = value * self.at("funding_rate", then, a)
            costs += self.multiple * funding if funding > 0 else funding
            turnover += abs(fill * price)
            ordered.append(order)
            filled.append(fill)
        self.cash -= costs
        self.bar = then
        return Day(self.equity() / before - 1, costs / before, turnover / before, ordered, filled)

    def in_lots(self, order: float, held: float, lot: float) -> float:
        """Whole lots; what closes the position closes all of it, and goes on from zero in whole lots."""
        closing = held * order < 0 and abs(order) >= abs(held) * (1 - 1e-6)  # as float32 weights close
        units = max(abs(order) - abs(held), 0.0) * math.copysign(1.0, order) if closing else order
        whole = math.copysign(math.floor(abs(units) / lot * (1 + NEARLY)) * lot, units)
        return whole - held if closing else whole

    def fill(self, bar: int, asset: int, order: float, lot: float) -> float:
        """How much of the order fills: none where trading is impossible, at most a share of the volume."""
        if not bool(self.d.tradable[bar, asset]) or self.beyond_limit(bar, asset, order > 0):
            return 0.0
        most = math.inf
        if self.p.max_participation:
            most = self.p.max_participation * self.at("volume", bar, asset)
            if lot:
                most = math.floor(most / lot * (1 + NEARLY)) * lot
        return math.copysign(min(abs(order), most), order)

    def beyond_limit(self, bar: int, asset: int, buying: bool) -> bool:
        """Whether the open stands at the day's upper limit for a buyer, at the lower for a seller."""
        if self.p.price_limits == "none":
            return False
        earlier = [b for b in range(bar) if self.d.session[b] < self.d.session[bar]]
        if not earlier:
            return False
        factor = self.at("adj_factor", bar, asset)
        base, raw = self.at("close", earlier[-1], asset) / factor, self.at("open", bar, asset) / factor
        below = [width for price, width in zip(LIMIT_BELOW, LIMIT_WIDTH, strict=False) if base < price]
        width = below[0] if below else LIMIT_WIDTH[-1]
        return raw >= (base + width) * (1 - NEARLY) if buying else raw <= (base - width) * (1 + NEARLY)

    def trading_cost(self, now: int, then: int, a: int, value: float) -> float:
        """Commission, half spread, tick, and impact over what earlier trades in this direction have left."""
        p, volume = self.p, self.at("adv", then, a)
        share = value / volume
        self.memory[a] *= p.impact_decay
        start = max(math.copysign(1.0, share) * self.memory[a], 0.0)
        end = start + abs(share)
        self.memory[a] += share
        law = p.impact_sqrt * self.at("volatility", now, a)
        impact = p.impact_linear * (end**2 - start**2) + law * (end**1.5 - start**1.5)
        fees = p.commission + p.spread_multiple * self.at("half_spread", then, a) + self.tick(then, a, value)
        return abs(value) * fees + volume * impact

    def tick(self, bar: int, asset: int, value: float) -> float:
        """Rounding of the price against the trader, as a fraction of it."""
        if self.p.tick_table == "none":
            return 0.0
        raw = self.at("open", bar, asset) / self.at("adj_factor", bar, asset)
        sizes = TICKS[self.p.tick_table]
        size = next((s for up_to, s in zip(TICK_UP_TO, sizes, strict=False) if raw <= up_to), sizes[-1])
        steps = raw / size
        paid = math.ceil(steps - NEARLY) if value > 0 else math.floor(steps + NEARLY)
        return max(abs(paid * size / raw - 1.0) if abs(paid - steps) > NEARLY else 0.0, 0.0)
