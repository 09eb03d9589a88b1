from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from sekisho.errors import TrainingError
from sekisho.market import MarketData, TradingMarket, apply_limits, derive_units, volatility_regimes
from sekisho.market.core import difference_rewards, observe
from sekisho.params import MarketParams

Maker = Callable[..., MarketData]


def run_of(data: MarketData, params: MarketParams, count: int = 1, **options: object) -> TradingMarket:
    window = (data.first_bar, len(data))
    units = derive_units(data, *window, params)
    return TradingMarket(data, params, units, count, window, **options)  # type: ignore[arg-type]


def test_costs_scale_with_their_multiple(make_data: Maker, params: MarketParams) -> None:
    data = make_data(3)
    data = replace(data, funding_rate=torch.zeros_like(data.close))
    multiples = torch.tensor([0.0, 1.0, 2.0])
    market = run_of(data, params, 3, mode="weights", sequential=True, cost_multiple=multiples)
    market.reset()
    _, _, _, _, infos = market.step(torch.tensor([[0.3, -0.2, 0.1]] * 3))
    cost = infos["cost"]
    assert float(cost[0]) == 0.0
    assert float(cost[1]) > 0.0
    assert float(cost[2]) == pytest.approx(2 * float(cost[1]))


def test_double_costs_do_not_double_the_funding_income(make_data: Maker, params: MarketParams) -> None:
    data = make_data(3)
    data = replace(data, funding_rate=torch.full_like(data.close, -0.01))
    multiples = torch.tensor([0.0, 1.0, 2.0])
    market = run_of(data, params, 3, mode="weights", sequential=True, cost_multiple=multiples)
    market.reset()
    _, _, _, _, infos = market.step(torch.tensor([[0.3, 0.2, 0.1]] * 3))
    free, modelled, double = (float(cost) for cost in infos["cost"])
    assert free < 0.0
    assert free < modelled < double


def test_without_impact_capital_only_scales_the_profit(make_data: Maker, params: MarketParams) -> None:
    free = params.model_copy(update={"impact_linear": 0.0, "impact_sqrt": 0.0})
    returns = []
    for capital in (1e3, 1e9):
        market = run_of(make_data(4), free.model_copy(update={"capital": capital}), sequential=True)
        market.reset()
        steps = [market.step(torch.full((1, 3), 0.1 * (i % 3 - 1)))[4]["net_return"] for i in range(20)]
        returns.append(torch.cat(steps))
    torch.testing.assert_close(returns[0], returns[1], rtol=1e-9, atol=1e-15)


def test_larger_capital_pays_more_impact(make_data: Maker, params: MarketParams) -> None:
    costs = []
    for capital in (1e5, 1e7):
        market = run_of(make_data(4), params.model_copy(update={"capital": capital}), sequential=True)
        market.reset()
        costs.append(float(market.step(torch.full((1, 3), 0.5))[4]["cost"]))
    assert costs[1] > costs[0] > 0


def test_each_account_may_have_its_own_capital(make_data: Maker, params: MarketParams) -> None:
    data = make_data(4)
    capital = torch.tensor([1e5, 1e6, 1e7])
    market = run_of(data, params, 3, capital=capital)
    market.reset(seed=1)
    assert torch.equal(market.cash, capital.double())
    seen = torch.zeros(3, dtype=torch.bool)
    for _ in range(2 * params.episode_bars):
        infos = market.step(torch.full((3, 3), 0.3))[4]
        ended = infos.get("_final_obs", torch.zeros(3, dtype=torch.bool))
        assert torch.equal(market.cash[ended], capital[ended].double())
        seen |= ended
    assert seen.all()
    runs = [run_of(data, params, 3, capital=capital, sequential=True)]
    runs += [run_of(data, params, sequential=True, capital=float(c)) for c in capital]
    returns = []
    for run in runs:
        run.reset()
        returns.append(run.step(torch.full((run.num_envs, 3), 0.3))[4]["net_return"])
    torch.testing.assert_close(returns[0], torch.cat(returns[1:]), rtol=1e-12, atol=0)


def test_the_assets_parts_sum_to_the_net_return(make_data: Maker, params: MarketParams) -> None:
    market = run_of(make_data(4), params, 4, sequential=True)
    market.reset()
    for _ in range(5):
        infos = market.step(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))[4]
        assert infos["asset_net"].dtype == torch.float64
        torch.testing.assert_close(infos["asset_net"].sum(1), infos["net_return"], rtol=1e-12, atol=1e-15)


def test_an_asset_that_is_not_tradable_keeps_its_units(make_data: Maker, params: MarketParams) -> None:
    data = make_data(5, halted=0.0)
    tradable = data.tradable.clone()
    tradable[data.first_bar + 2, 1] = False
    market = run_of(replace(data, tradable=tradable), params, mode="weights", sequential=True)
    market.reset()
    market.step(torch.tensor([[0.2, 0.2, 0.1]]))
    before = market.positions.clone()
    market.step(torch.tensor([[-0.2, -0.2, -0.1]]))
    assert float(market.positions[0, 1]) == float(before[0, 1])
    assert float(market.positions[0, 0]) < 0 < float(before[0, 0])


RULED = {"lot_size": 100, "tick_table": "other", "price_limits": "tokyo", "max_participation": 0.1}


@pytest.mark.parametrize("rules", [{}, RULED | {"impact_decay": 0.5, "latency_bars": 1}])
@pytest.mark.parametrize("cut", range(6, 59))  # sessions of 10 bars begin at 10, 20, …
def test_the_future_changes_no_past_fill(
    cut: int, rules: dict[str, Any], make_data: Maker, params: MarketParams
) -> None:
    """Bars after ``cut`` are replaced: everything up to the close of ``cut`` must stay, bit for bit."""
    params = params.model_copy(update=rules)
    one, other = make_data(6), make_data(7)
    thin, split = 0.01 * other.adv.round(), torch.full_like(other.close, 0.5)
    other = replace(other, volume=thin, adj_factor=split)

    def spliced(name: str) -> torch.Tensor:
        return torch.cat([getattr(one, name)[: cut + 1], getattr(other, name)[cut + 1 :]])

    names = (
        "features",
        "open",
        "close",
        "adv",
        "half_spread",
        "borrow_rate",
        "funding_rate",
        "tradable",
        "volatility",
        "volume",
        "adj_factor",
    )
    units = derive_units(one, 5, 60, params)
    runs = []
    for data in (one, replace(one, **{name: spliced(name) for name in names})):
        market = TradingMarket(data, params, units, 1, (5, 60), mode="trade", sequential=True)
        market.reset()
        seen = []
        for bar in range(5, cut):
            observation, _, _, _, infos = market.step(torch.full((1, 3), math.sin(bar)))
            seen += [observation, *(infos[name] for name in ("equity", "cost", "weights", "filled"))]
        runs.append(seen)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_the_order_is_sized_before_the_open_is_known(make_data: Maker, params: MarketParams) -> None:
    data = make_data(8, halted=0.0)
    units = derive_units(data, 5, 60, params)
    held = []
    for factor in (1.0, 1.5):
        moved = data.open.clone()
        moved[6] *= factor
        market = TradingMarket(
            replace(data, open=moved), params, units, 1, (5, 60), mode="weights", sequential=True
        )
        market.reset()
        market.step(torch.tensor([[0.2, -0.2, 0.1]]))
        held.append(market.positions)
    assert torch.equal(*held)


def test_time_limits_truncate_and_hand_over_the_final_observation(
    make_data: Maker, params: MarketParams
) -> None:
    market = run_of(make_data(9), params, 8)
    assert market.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    market.reset(seed=1)
    ended = torch.zeros(8)
    for _ in range(2 * params.episode_bars):
        age = market.age.clone()
        observation, _, terminated, truncated, infos = market.step(torch.full((8, 3), 0.3))
        assert not terminated.any()
        torch.testing.assert_close(truncated, age + 1 >= params.episode_bars)
        if truncated.any():
            assert torch.equal(infos["_final_obs"], truncated)
            assert (infos["final_obs"][truncated][..., -1].abs().sum(1) > 0).all()  # the old account's book
            assert (observation[truncated][..., -1] == 0).all()  # a new account's
            assert torch.equal(infos["final_obs"][~truncated], observation[~truncated])
            assert (market.cash[truncated] == params.capital).all()
        ended += truncated
    assert (ended >= 2).all()


def test_ruin_terminates(make_data: Maker, params: MarketParams) -> None:
    data = make_data(10, halted=0.0)
    close = data.close.clone()
    close[8:] *= 20.0
    loose = params.model_copy(update={"max_net": 1.0})
    market = run_of(replace(data, close=close, open=close), loose, mode="weights", sequential=True)
    market.reset()
    done = [bool(market.step(torch.full((1, 3), -0.2))[2]) for _ in range(3)]
    assert done[:2] == [False, False]
    assert done[2]


def test_same_seed_same_episodes_and_a_saved_state_goes_on(make_data: Maker, params: MarketParams) -> None:
    one, two = run_of(make_data(11), params, 6), run_of(make_data(11), params, 6)
    assert torch.equal(one.reset(seed=5)[0], two.reset(seed=5)[0])
    assert not torch.equal(one.reset(seed=5)[0], two.reset(seed=6)[0])
    action = torch.full((6, 3), 0.1)
    one.step(action)
    state = {name: value.clone() for name, value in one.state().items()}
    later = [one.step(action)[0] for _ in range(30)]
    two.load_state(state)
    assert all(torch.equal(a, two.step(action)[0]) for a in later)


@pytest.mark.parametrize("latency", [0, 2])
@pytest.mark.parametrize("assets", [1, 3, 17])
def test_a_loaded_state_is_observed_as_the_step_before_it_to_the_bit(
    assets: int, latency: int, make_data: Maker, params: MarketParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, before the observation rounds: the rounding would hide a difference nearly always."""
    seen: list[torch.Tensor] = []

    def recorded(features: torch.Tensor, row: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.append(weights)
        return observe(features, row, weights)

    for module in ("core", "env"):
        monkeypatch.setattr(f"sekisho.market.{module}.observe", recorded)
    params = params.model_copy(update={"latency_bars": latency})
    market = run_of(make_data(13, assets=assets), params, 50, sequential=True)
    market.reset()
    generator = torch.Generator().manual_seed(2)
    for _ in range(25):
        observation, *_ = market.step(torch.randn((50, assets), generator=generator))
        assert torch.equal(market.load_state(market.state()), observation)
        assert torch.equal(seen[-1], seen[-2])


def test_gymnasium_vector_contract(make_data: Maker, params: MarketParams) -> None:
    market = run_of(make_data(12), params, 5)
    observation, infos = market.reset(seed=3)
    assert market.single_observation_space.shape == (3, 5)
    assert market.observation_space.shape == (5, 3, 5)
    assert market.action_space.shape == (5, 3)
    assert market.observation_space.contains(observation.numpy())
    assert isinstance(infos, dict)
    actions = market.action_space.sample()  # numpy actions are taken too
    observation, reward, terminated, truncated, infos = market.step(actions)
    assert market.observation_space.contains(observation.numpy())
    assert reward.shape == terminated.shape == truncated.shape == (5,)
    assert reward.dtype == torch.float32
    assert terminated.dtype == truncated.dtype == torch.bool
    assert market.unwrapped is market
    market.close()


def test_a_seed_is_any_one_integer_and_a_list_of_seeds_is_refused(
    make_data: Maker, params: MarketParams
) -> None:
    market = run_of(make_data(12), params, 3)
    assert torch.equal(market.reset(seed=np.int64(3))[0], market.reset(seed=3)[0])
    for seed in ([1, 2, 3], 1.5, "1"):
        with pytest.raises(TrainingError, match="is no seed: all accounts draw from one generator"):
            market.reset(seed=seed)  # type: ignore[arg-type]


def test_a_reset_of_some_accounts_is_refused_and_wipes_none(make_data: Maker, params: MarketParams) -> None:
    market = run_of(make_data(12), params, 3, mode="weights", sequential=True)
    market.reset()
    market.step(np.full((3, 3), 0.1))
    before = market.bar.clone(), market.positions.clone()
    with pytest.raises(TrainingError, match="reset takes no option reset_mask"):
        market.reset(seed=1, options={"reset_mask": np.array([True, False, False])})
    assert torch.equal(market.bar, before[0])
    assert torch.equal(market.positions, before[1])
    assert market.positions.any()


def test_difference_rewards_are_the_accounts_less_what_it_would_be_without_the_asset() -> None:
    parts = torch.randn(4, 3, dtype=torch.float64)
    found = difference_rewards(parts, parts.sum(1), 0.3)

    def reward(total: torch.Tensor) -> torch.Tensor:
        return total - 0.15 * total.square()

    for asset in range(3):
        without = reward(parts.sum(1) - parts[:, asset])
        torch.testing.assert_close(found[:, asset], reward(parts.sum(1)) - without)


def test_difference_rewards_have_the_gradient_of_the_reward() -> None:
    net = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
    own = difference_rewards(net, net.sum(1), 0.3)
    parts = torch.stack(
        [torch.autograd.grad(own[:, a].sum(), net, retain_graph=True)[0][:, a] for a in range(3)], 1
    )
    reward = net.sum(1) - 0.15 * net.sum(1).square()
    torch.testing.assert_close(parts, torch.autograd.grad(reward.sum(), net)[0])


def test_stratified_episodes_start_as_often_in_each_regime(make_data: Maker, params: MarketParams) -> None:
    data = make_data(17, rows=400)
    last = 400 - params.episode_bars  # starts are drawn before it: the turbulent end holds few of them
    wild = torch.where(torch.arange(400)[:, None] < last - 20, 1.0, 3.0)
    data = replace(data, close=data.close[:1] * (data.close / data.close[:1]) ** wild)
    regimes = volatility_regimes(data.close.numpy(), params.vol_window, data.first_bar, 400)
    shares = []
    for stratify in (True, False):
        market = run_of(data, params.model_copy(update={"stratify": stratify}), 30_000)
        market.reset(seed=1)
        assert int(market.bar.max()) < last
        shares.append(np.bincount(regimes[market.bar.numpy()], minlength=3) / 30_000)
    np.testing.assert_allclose(shares[0], 1 / 3, atol=0.01)
    here = np.bincount(regimes[data.first_bar : last], minlength=3) / (last - data.first_bar)
    np.testing.assert_allclose(shares[1], here, atol=0.01)
    assert np.abs(here - 1 / 3).max() > 0.01


def test_units_follow_the_market(make_data: Maker, params: MarketParams) -> None:
    data = make_data(14)
    units = derive_units(data, 5, 60, params)
    assert float(units.trade.sum()) == pytest.approx(params.max_gross)
    calm = replace(data, close=data.close[:1] * (data.close / data.close[:1]) ** 0.1)
    smaller = derive_units(calm, 5, 60, params)
    assert smaller.risk == pytest.approx(0.1 * units.risk, rel=0.05)
    torch.testing.assert_close(smaller.trade, units.trade, rtol=0.05, atol=0)
    with pytest.raises(TrainingError, match="do not move"):
        derive_units(replace(data, close=torch.ones_like(data.close)), 5, 60, params)


def test_bad_windows_actions_and_data_are_refused(make_data: Maker, params: MarketParams) -> None:
    data = make_data(15)
    units = derive_units(data, 5, 60, params)
    with pytest.raises(TrainingError, match="an episode needs 13"):
        TradingMarket(data, params, units, 2, (5, 17))
    with pytest.raises(TrainingError, match="with features"):
        TradingMarket(data, params, units, 2, (4, 60))
    market = TradingMarket(data, params, units, 2, (5, 60))
    market.reset()
    with pytest.raises(TrainingError, match="action is not finite"):
        market.step(np.array([[0.0, np.nan, 0.0]] * 2))
    run = TradingMarket(data, params, units, 1, (57, 60), sequential=True)
    run.reset()
    run.step(torch.zeros(1, 3))
    assert bool(run.step(torch.zeros(1, 3))[3])
    with pytest.raises(TrainingError, match="the run is over"):
        run.step(torch.zeros(1, 3))


def test_the_agents_limits_are_the_markets(make_data: Maker, params: MarketParams) -> None:
    """Target weights that have been through `apply_limits` are executed as they are."""
    data = make_data(16, halted=0.0)
    market = run_of(data, params, mode="weights", sequential=True)
    observation, _ = market.reset()
    wanted = apply_limits(torch.tensor([[0.9, -0.7, 0.4]]), observation[..., -1], params)
    market.step(wanted)
    executed = market.positions * data.close[data.first_bar] / params.capital
    torch.testing.assert_close(executed.float(), wanted)
