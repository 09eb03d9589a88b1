"""The ledger: equal to the slow reference under every rule, and true to what money must obey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sekisho.market import MarketData, TradingMarket, Units, derive_units
from sekisho.market.exchange import base_prices, limit_width
from sekisho.params import MarketParams

from .reference import Reference

Maker = Callable[..., MarketData]
START, STOP = 5, 60
RULES = st.fixed_dictionaries(
    {
        "lot_size": st.sampled_from([0, 1, 100]),
        "tick_table": st.sampled_from(["none", "topix500", "other"]),
        "price_limits": st.sampled_from(["none", "tokyo"]),
        "max_participation": st.sampled_from([0.0, 0.02, 0.5]),
        "capital": st.sampled_from([1e6, 1e7]),
        "latency_bars": st.integers(0, 3),
        "impact_linear": st.sampled_from([0.0, 0.05]),
        "impact_sqrt": st.sampled_from([0.0, 0.1]),
        "impact_decay": st.sampled_from([0.0, 0.5, 0.9]),
        "spread_multiple": st.sampled_from([0.0, 1.0]),
    }
)


def tokyo(data: MarketData, seed: int, wild: float = 0.06) -> MarketData:
    """Yen prices that reach the daily limits now and then, thin volume, a split in the fourth session."""
    rng = np.random.default_rng(seed)
    rows, assets = data.close.shape
    moves = wild * rng.normal(size=(rows, assets))
    close = rng.uniform(80, 9000, assets) * np.exp(moves.cumsum(axis=0))
    split = np.where(np.arange(rows)[:, None] < 35, 0.5, 1.0) * np.ones((1, assets))
    opened = np.vstack([close[:1], close[:-1]]) * np.exp(0.3 * wild * rng.normal(size=(rows, assets)))
    raw = np.round(np.stack([opened, close]) / split, 1)  # on the finest grid of ticks
    opened, close = np.maximum(raw, 1.0) * split
    return replace(
        data,
        open=torch.as_tensor(opened),
        close=torch.as_tensor(close),
        adj_factor=torch.as_tensor(split),
        volume=torch.as_tensor(rng.uniform(0, 2e3, (rows, assets)).round() * 10),
    )


def delisting(data: MarketData, bar: int, asset: int) -> MarketData:
    """The last bar of ``asset`` is the one before ``bar``: it stands at its price and is paid out there."""
    opened, close, tradable, gone = (
        values.clone() for values in (data.open, data.close, data.tradable, data.delisted)
    )
    opened[bar:, asset] = close[bar:, asset] = close[bar - 1, asset].clone()
    tradable[bar:, asset], gone[bar, asset] = False, True
    return replace(data, open=opened, close=close, tradable=tradable, delisted=gone)


def market_of(data: MarketData, params: MarketParams, count: int = 1, **options: object) -> TradingMarket:
    units = Units(torch.full((len(data.symbols),), 0.2, dtype=torch.float64), 0.01)
    chosen = {"mode": "weights", "sequential": True} | options
    return TradingMarket(data, params, units, count, (START, STOP), **chosen)  # type: ignore[arg-type]


@given(
    seed=st.integers(0, 10_000), assets=st.integers(1, 5), rules=RULES, gone=st.none() | st.integers(10, 55)
)
@settings(max_examples=80, deadline=None)
def test_the_fast_market_equals_the_slow_reference(
    seed: int,
    assets: int,
    rules: dict[str, object],
    gone: int | None,
    make_data: Maker,
    params: MarketParams,
) -> None:
    params = params.model_copy(update=rules)
    data = tokyo(make_data(seed, assets=assets), seed)
    if gone is not None:
        data = delisting(data, gone, assets - 1)
    market = market_of(data, params)
    observation, _ = market.reset()
    slow = Reference(data, params, START)
    rng = np.random.default_rng(seed)
    for _ in range(START, STOP - 1):
        np.testing.assert_allclose(observation[0, :, -1], slow.weights(), rtol=1e-5, atol=1e-6)
        target = rng.normal(0, 0.4, assets) * (rng.random(assets) < 0.7)  # some are closed: 0
        day = slow.step(target.tolist())
        observation, reward, ruined, _, infos = market.step(target[None])
        np.testing.assert_allclose(infos["ordered"][0], day.ordered, rtol=1e-9, atol=1e-6)
        np.testing.assert_allclose(infos["filled"][0], day.filled, rtol=1e-9, atol=1e-6)
        np.testing.assert_allclose(infos["cost"][0], day.cost, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(infos["turnover"][0], day.turnover, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(infos["net_return"][0], day.net_return, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(infos["equity"][0], slow.equity(), rtol=1e-9)
        scaled = day.net_return / market.units.risk
        np.testing.assert_allclose(
            reward[0], scaled - params.risk_aversion / 2 * scaled**2, rtol=1e-5, atol=1e-9
        )
        if bool(ruined):
            break


@pytest.mark.parametrize("weight", [0.4, -0.4])
@pytest.mark.parametrize("haircut", [0.0, 0.3])
def test_a_delisted_position_is_paid_out_less_the_haircut_long_or_short(
    weight: float, haircut: float, make_data: Maker, params: MarketParams
) -> None:
    costless = {"commission": 0.0, "impact_linear": 0.0, "impact_sqrt": 0.0, "spread_multiple": 0.0}
    params = params.model_copy(update=costless | {"delisting_haircut": haircut})
    data = delisting(make_data(3, assets=2, halted=0.0), 20, 1)
    data = replace(data, borrow_rate=torch.zeros_like(data.close), funding_rate=torch.zeros_like(data.close))
    market = market_of(data, params, cost_multiple=2.0)
    market.reset()
    target = torch.tensor([[0.0, weight]])
    for _ in range(START, 19):
        *_, infos = market.step(target)
    before, share = infos["equity"], float(infos["weights"][0, 1])
    assert abs(share) == pytest.approx(0.4, rel=0.1)
    observation, _, _, _, infos = market.step(target)
    assert float(infos["net_return"][0]) == pytest.approx(-haircut * abs(share), rel=1e-12, abs=1e-15)
    assert float(infos["turnover"][0]) == pytest.approx(0.0, abs=1e-15)
    assert float(market.positions[0, 1]) == 0.0
    assert float(observation[0, 1, -1]) == 0.0
    torch.testing.assert_close(market.cash, before * (1 - haircut * abs(share)), rtol=1e-12, atol=0.0)
    *_, infos = market.step(target)  # and cannot be bought again
    assert float(infos["net_return"][0]) == 0.0


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("factor", [0.98, 1 / 1.5, 10.0])  # before: a dividend, a split, a consolidation
@pytest.mark.parametrize("latency", [0, 1])
def test_a_target_of_zero_closes_the_odd_lots_that_an_adjustment_left(
    factor: float, side: float, latency: int, make_data: Maker, params: MarketParams
) -> None:
    params = params.model_copy(update={"lot_size": 100, "latency_bars": latency})
    data = make_data(3, assets=1, halted=0.0)
    adjusted = torch.where(torch.arange(60)[:, None] < 20, factor, 1.0).double()
    data = replace(data, adj_factor=adjusted)
    market = market_of(data, params)
    observation, _ = market.reset()
    for bar in range(START, 25):
        observation, *_ = market.step(torch.tensor([[0.37 * side]]) if bar < 15 else observation[..., -1])
    assert float((market.positions / 100).frac().abs()) > 0.01
    for _ in range(1 + latency):
        *_, infos = market.step(torch.zeros(1, 1))
    assert float(infos["weights"].abs()) < 1e-12
    for _ in range(3):
        *_, infos = market.step(torch.tensor([[-0.3 * side]]))
    assert float((market.positions / 100 - (market.positions / 100).round()).abs()) < 1e-9


def test_every_rule_of_the_reference_comes_into_play(make_data: Maker, params: MarketParams) -> None:
    """Else its equality would say nothing about limits, volume and ticks."""
    params = params.model_copy(
        update={
            "lot_size": 100, "tick_table": "topix500", "price_limits": "tokyo", "max_participation": 0.05,
            "impact_decay": 0.5, "capital": 1e7,
        }
    )  # fmt: skip
    refused = partial = filled = ticked = 0
    for seed in range(10):
        slow = Reference(tokyo(make_data(seed), seed), params, START)
        rng = np.random.default_rng(seed)
        for _ in range(START, STOP - 1):
            day = slow.step(rng.normal(0, 0.4, 3).tolist())
            for a, (order, fill) in enumerate(zip(day.ordered, day.filled, strict=True)):
                refused += order != 0 and slow.beyond_limit(slow.bar, a, order > 0)
                partial += 0 < abs(fill) < abs(order)
                filled += order == fill != 0
                ticked += fill != 0 and slow.tick(slow.bar, a, fill) > 0
    assert min(refused, partial, filled, ticked) >= 10


@given(seed=st.integers(0, 10_000), rules=RULES)
@settings(max_examples=40, deadline=None)
def test_cash_plus_positions_is_equity_and_costs_are_never_negative(
    seed: int, rules: dict[str, object], make_data: Maker, params: MarketParams
) -> None:
    data = tokyo(make_data(seed), seed, wild=0.01)
    data = replace(data, funding_rate=torch.zeros_like(data.close))  # the only part that can be an income
    market = market_of(data, params.model_copy(update=rules), 16, mode="trade")
    market.reset()
    equity = market.capital.clone()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(30):
        before = market.cash.clone(), market.positions.clone()
        infos = market.step(2 * torch.randn(16, 3, generator=generator))[4]
        bar = infos["bar"]
        held = (market.positions * data.close[bar]).sum(1)
        torch.testing.assert_close(infos["cash"] + held, infos["equity"], rtol=1e-9, atol=0)
        grown = equity * (1 + infos["gross_return"] - infos["cost"])
        torch.testing.assert_close(infos["equity"], grown, rtol=1e-9, atol=0)
        assert (infos["cost"] >= 0).all()
        # what left the cash is in the book or was paid in costs: nothing is made or lost by a fill
        paid = (infos["filled"] * data.open[bar]).sum(1) + infos["cost"] * equity
        torch.testing.assert_close(before[0] - market.cash, paid, rtol=1e-9, atol=1e-6)
        assert torch.equal(market.positions, before[1] + infos["filled"])
        equity = infos["equity"]


@given(seed=st.integers(0, 10_000), decay=st.sampled_from([0.0, 0.5, 0.9]))
@settings(max_examples=30, deadline=None)
def test_partial_fills_are_whole_lots_within_order_and_volume_and_the_rest_lapses(
    seed: int, decay: float, make_data: Maker, params: MarketParams
) -> None:
    rules = {"lot_size": 100, "max_participation": 0.02, "impact_decay": decay, "capital": 1e8}
    params = params.model_copy(update=rules)
    data = tokyo(make_data(seed), seed, wild=0.01)
    market = market_of(data, params, 8)
    market.reset()
    target = 0.4 * torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)).double()
    cut = 0
    for _ in range(20):
        infos = market.step(target)[4]
        ordered, filled, bar = infos["ordered"], infos["filled"], infos["bar"]
        lots = filled * data.adj_factor[bar] / 100
        torch.testing.assert_close(lots, lots.round(), rtol=0, atol=1e-6)
        assert (filled.abs() <= ordered.abs() + 1e-6).all()
        assert (filled * ordered >= 0).all()
        assert (filled.abs() <= 0.02 * data.volume[bar] + 1e-6).all()
        cut += int((filled.abs() < ordered.abs()).sum())
        assert market.account.pending.shape[1] == 0  # nothing waits: the rest is decided upon anew
    assert cut > 0


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_nothing_trades_through_a_price_limit(seed: int, make_data: Maker, params: MarketParams) -> None:
    params = params.model_copy(update={"price_limits": "tokyo", "tick_table": "topix500"})
    data = tokyo(make_data(seed), seed)
    market = market_of(data, params, 4)
    market.reset()
    raw, factor = data.open / data.adj_factor, data.adj_factor.numpy()
    base = base_prices(data.close.numpy(), data.session) / factor
    width = limit_width(np.nan_to_num(base, nan=1.0))
    upper, lower = torch.as_tensor(base + width), torch.as_tensor(base - width)
    for bar in range(START + 1, STOP):
        target = 0.5 * torch.randn(4, 3, generator=torch.Generator().manual_seed(seed + bar)).double()
        filled = market.step(target)[4]["filled"]
        assert not (filled > 0)[:, raw[bar] >= upper[bar] - 1e-6].any()
        assert not (filled < 0)[:, raw[bar] <= lower[bar] + 1e-6].any()


@given(seed=st.integers(0, 10_000), decay=st.sampled_from([0.0, 0.5, 0.9]), bars=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_buying_and_selling_back_at_one_price_loses_exactly_the_costs(
    seed: int, decay: float, bars: int, make_data: Maker, params: MarketParams
) -> None:
    """In slices too: the agent's own impact is never its profit."""
    params = params.model_copy(update={"impact_decay": decay})
    still = torch.full((60, 3), 100.0, dtype=torch.float64)
    data = replace(make_data(seed, halted=0.0), close=still, open=still, funding_rate=torch.zeros_like(still))
    market = market_of(data, params)
    market.reset()
    top = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed)).double() * 0.2
    paid, equity = 0.0, params.capital
    path = [top * k / bars for k in range(1, bars + 1)]
    for wanted in [*path, *path[-2::-1], torch.zeros(1, 3)]:
        infos = market.step(wanted)[4]
        assert float(infos["cost"]) > 0
        paid += float(infos["cost"]) * equity
        equity = float(infos["equity"])
    torch.testing.assert_close(market.positions, torch.zeros(1, 3).double(), rtol=0, atol=1e-6)
    assert params.capital - equity == pytest.approx(paid, rel=1e-9)


def test_a_split_or_a_dividend_makes_no_profit_and_no_order(make_data: Maker, params: MarketParams) -> None:
    """Adjusted prices are the same whatever the factor; only lots, ticks and limits see raw ones."""
    data = make_data(2, halted=0.0)
    split = torch.where(torch.arange(60)[:, None] < 30, 0.2, 1.0).double().expand(60, 3)
    runs = []
    for chosen in (data, replace(data, adj_factor=split)):
        market = market_of(chosen, params)
        market.reset()
        runs.append([market.step(torch.full((1, 3), 0.15))[4]["equity"] for _ in range(50)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("latency", [1, 2])
def test_a_late_order_fills_at_the_later_open_and_is_seen_at_once(
    latency: int, make_data: Maker, params: MarketParams
) -> None:
    params = params.model_copy(update={"latency_bars": latency})
    data = make_data(3, halted=0.0)
    market = market_of(data, params)
    market.reset()
    wanted = torch.tensor([[0.2, -0.1, 0.1]], dtype=torch.float64)
    units = wanted * params.capital / data.close[START]
    observation, _, _, _, infos = market.step(wanted)
    torch.testing.assert_close(observation[..., -1].double(), units * data.close[START + 1] / params.capital)
    for _ in range(latency):
        assert not infos["filled"].any()
        infos = market.step(market._observe()[..., -1].double())[4]  # asks for what it awaits: no new order
    torch.testing.assert_close(infos["filled"], units, rtol=1e-6, atol=0)
    paid = (units * data.open[START + 1 + latency]).sum()
    assert float(market.capital - market.cash) == pytest.approx(float(paid), rel=0.01)


@given(seed=st.integers(0, 10_000), decay=st.sampled_from([0.0, 0.7]), latency=st.integers(0, 2))
@settings(max_examples=15, deadline=None)
def test_gradients_through_several_bars_equal_finite_differences(
    seed: int, decay: float, latency: int, make_data: Maker, params: MarketParams
) -> None:
    params = params.model_copy(update={"impact_decay": decay, "latency_bars": latency, "impact_linear": 0.3})
    data = make_data(seed, halted=0.2)
    market = market_of(data, params, 2, mode="trade")
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def outcome(actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        market.reset()
        returns = [market.step(action)[4]["net_return"] for action in actions]
        return torch.stack(returns), market.cash / params.capital

    assert torch.autograd.gradcheck(outcome, (actions,), eps=1e-7, atol=1e-5, rtol=1e-3)


def test_whole_lots_pass_the_gradient_straight_through(make_data: Maker, params: MarketParams) -> None:
    data, grads = make_data(4, halted=0.0), []
    for lot in (0, 1):
        market = market_of(data, params.model_copy(update={"lot_size": lot}))
        market.reset()
        action = torch.tensor([[0.2, -0.1, 0.05]], dtype=torch.float64, requires_grad=True)
        market.step(action)
        (grad,) = torch.autograd.grad(market.step(action)[4]["equity"].sum(), action)
        grads.append(grad)
    assert grads[1].abs().min() > 0
    torch.testing.assert_close(grads[0], grads[1], rtol=0.05, atol=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("latency", [0, 1])
def test_the_compiled_market_equals_the_eager_one(
    latency: int, make_data: Maker, params: MarketParams
) -> None:
    import shutil

    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs g++, which is not installed")
    rules = {"lot_size": 100, "tick_table": "topix500", "max_participation": 0.5, "impact_decay": 0.9}
    params = params.model_copy(update=rules | {"price_limits": "tokyo", "latency_bars": latency})
    data = tokyo(make_data(5), 5, wild=0.02)
    units = derive_units(data, START, STOP, params)
    runs = []
    for compiled in (False, True):
        market = TradingMarket(data, params, units, 32, (START, STOP), compiled=compiled)
        market.reset(seed=3)
        generator, seen = torch.Generator().manual_seed(3), []
        for _ in range(20):
            observation, reward, _, _, infos = market.step(torch.randn(32, 3, generator=generator))
            seen += [observation, reward, infos["equity"], infos["filled"], infos["asset_reward"]]
        runs.append(seen)
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
