"""The simulation equals a ledger written by hand: plain loops, one account and one asset at a time.

The ledger shares no code with the market. Ticks and daily price limits are off: they only move
or stop a fill.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from sekisho.backtest.simulate import Account, simulate
from sekisho.backtest.splits import Fold, walk_forward
from sekisho.backtest.strategies import Context, Strategy
from sekisho.data.panel import Panel
from sekisho.params import MarketParams, Params

from .conftest import BARS, make_panel, sessions_from

PATHS = 1000


def within_limits(target: list[float], held: list[float], limits: MarketParams) -> list[float]:
    """Weights that may be held: asset, net, gross, turnover, in this order."""
    wanted = [min(max(w, -limits.max_asset), limits.max_asset) for w in target]
    longs = sum(w for w in wanted if w > 0)
    shorts = -sum(w for w in wanted if w < 0)
    if longs > shorts + limits.max_net:
        wanted = [w * (shorts + limits.max_net) / longs if w > 0 else w for w in wanted]
    if shorts > longs + limits.max_net:
        wanted = [w * (longs + limits.max_net) / shorts if w < 0 else w for w in wanted]
    gross = sum(abs(w) for w in wanted)
    if gross > limits.max_gross:
        wanted = [w * limits.max_gross / gross for w in wanted]
    turnover = sum(abs(w - h) for w, h in zip(wanted, held, strict=True))
    if turnover > limits.max_turnover:
        return [h + (w - h) * limits.max_turnover / turnover for w, h in zip(wanted, held, strict=True)]
    return wanted


@dataclass
class Ledger:
    """Cash, units and the remembered impact of one account."""

    panel: Panel
    limits: MarketParams
    account: Account

    def __post_init__(self) -> None:
        assets = len(self.panel.symbols)
        self.cash = self.limits.capital * self.account.capital_multiple
        self.units, self.memory = [0.0] * assets, [0.0] * assets

    def worth(self, prices: np.ndarray) -> float:
        return self.cash + sum(u * float(p) for u, p in zip(self.units, prices, strict=True))

    def step(self, t: int, target: list[float]) -> tuple[float, float, float]:
        """Trade the bar after ``t``; returns (net return, cost, turnover)."""
        panel, close, opening = self.panel, self.panel.close[t], self.panel.open[t + 1]
        before = self.worth(close)
        held = [u * float(p) / before for u, p in zip(self.units, close, strict=True)]
        allowed = within_limits(target, held, self.limits)
        cost = traded = 0.0
        for a in range(len(self.units)):
            order = self.whole((allowed[a] - held[a]) * before / float(close[a]))
            most = math.floor(
                self.limits.max_participation * float(panel.volume[t + 1, a]) / self.limits.lot_size
            )
            most *= self.limits.lot_size if panel.tradable[t + 1, a] else 0
            filled = max(-most, min(most, order))
            value = filled * float(opening[a])
            cost += self.account.cost_multiple * self.trading_cost(t, a, value)
            self.units[a] += filled
            self.cash -= value
            held_value = self.units[a] * float(opening[a])
            cost += self.account.cost_multiple * max(-held_value, 0.0) * float(panel.borrow_rate[t + 1, a])
            funding = held_value * float(panel.funding_rate[t + 1, a])
            cost += self.account.cost_multiple * funding if funding > 0 else funding
            traded += abs(value)
        self.cash -= cost
        return self.worth(panel.close[t + 1]) / before - 1.0, cost / before, traded / before

    def whole(self, units: float) -> float:
        lots = abs(units) / self.limits.lot_size
        return math.copysign(math.floor(lots * (1 + 1e-9)) * self.limits.lot_size, units)

    def trading_cost(self, t: int, a: int, value: float) -> float:
        """Commission, half spread, and impact over what earlier trades in this direction have left."""
        panel, limits = self.panel, self.limits
        past = [
            panel.close[i, a] / panel.close[i - 1, a] - 1 for i in range(t - limits.vol_window + 1, t + 1)
        ]
        daily = math.sqrt(sum(r * r for r in past) / limits.vol_window) * math.sqrt(BARS)
        volume = float(panel.adv[t + 1, a])
        share = value / volume
        self.memory[a] *= limits.impact_decay
        start = max(self.memory[a] * math.copysign(1.0, share), 0.0)
        end = start + abs(share)
        impact = limits.impact_linear * (end**2 - start**2)
        impact += limits.impact_sqrt * daily * (end**1.5 - start**1.5)
        self.memory[a] += share
        fees = limits.commission + limits.spread_multiple * float(panel.half_spread[t + 1, a])
        return abs(value) * fees + volume * impact


def by_hand(
    panel: Panel, fold: Fold, limits: MarketParams, account: Account, strategy: Strategy
) -> list[tuple[float, float, float]]:
    """(net return, cost, turnover) of each session of the fold."""
    first = next(i for i, day in enumerate(panel.session) if day == np.datetime64(fold.test[0]))
    ledger, sessions = Ledger(panel, limits, account), []
    for t in range(first - 1, len(panel) - 1):
        if panel.session[t + 1] > np.datetime64(fold.test[1]):
            break
        wanted = strategy(np.zeros((len(panel.symbols), 1), np.float32), Context(None, t, first - 1))
        net, cost, turnover = ledger.step(t, wanted.tolist())
        if panel.session[t + 1] != panel.session[t]:
            sessions.append((net, cost, turnover))
        else:
            growth, costs, turnovers = sessions[-1]
            sessions[-1] = ((1 + growth) * (1 + net) - 1, costs + cost, turnovers + turnover)
    return sessions


def random_trader(number: int, assets: int) -> Strategy:
    """New random targets at every third bar or so, often beyond every limit."""
    rng = np.random.default_rng((11, number))
    size, change = rng.uniform(0.05, 0.6), rng.random(2000) < rng.uniform(0.1, 0.9)
    wanted = rng.normal(0.0, size, (2000, assets))
    latest = np.maximum.accumulate(np.where(change, np.arange(2000), 0))
    return lambda observation, context: wanted[latest[context.bar]]


@pytest.fixture(scope="module")
def limits(params: Params) -> MarketParams:
    return params.market.model_copy(
        update={
            "tick_table": "none", "price_limits": "none", "impact_linear": 0.05, "impact_decay": 0.8,
            "lot_size": 100, "max_participation": 0.1, "latency_bars": 0, "max_net": 0.6,
        }
    )  # fmt: skip


def test_a_thousand_random_trade_paths_equal_the_ledger(params: Params, limits: MarketParams) -> None:
    assert limits.impact_sqrt > 0
    assert limits.commission > 0
    rng = np.random.default_rng(3)
    panel = make_panel(sessions=40, assets=3, seed=5)
    panel = replace(
        panel,
        tradable=rng.random(panel.close.shape) > 0.02,
        borrow_rate=rng.uniform(0, 1e-4, panel.close.shape),
        funding_rate=rng.normal(0, 1e-5, panel.close.shape),
    )
    split = params.split.model_copy(update={"test_sessions": 3, "validation_sessions": 2})
    folds = walk_forward(sessions_from(40), split)
    traders = {f"path-{n}": random_trader(n, 3) for n in range(PATHS)}
    accounts = [
        Account(name, float(rng.choice([0.0, 1.0, 2.0])), float(rng.choice([0.1, 1.0, 10.0])))
        for name in traders
    ]
    features = np.zeros((len(panel), 3, 1), np.float32)
    found = simulate(panel, features, folds, [traders] * 2, accounts, limits).accounts
    columns = ("net_return", "cost", "turnover")
    rows = {
        key[0]: part.select(columns).to_numpy()
        for key, part in found.partition_by("strategy", as_dict=True).items()
    }
    worst, turnovers = 0.0, []
    for account in accounts:
        expected = [
            row for fold in folds for row in by_hand(panel, fold, limits, account, traders[account.strategy])
        ]
        simulated = rows[account.strategy]
        assert simulated.shape == (6, 3)
        worst = max(worst, float(np.abs(simulated - np.array(expected)).max()))
        turnovers.append(simulated[:, 2].mean())
    assert worst < 1e-6
    assert np.mean(turnovers) > 0.3  # the paths do trade
    assert np.std([row[0, 1] for row in rows.values()]) > 0
