from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sekisho.errors import ParamsError, TrainingError
from sekisho.market.linear_quadratic import (
    LinearQuadratic,
    Problem,
    Rule,
    best_static,
    closed_form,
    derive_units,
    judge,
    markowitz,
    myopic,
    riccati,
    value_of,
)

BASE = Problem(
    assets=1, decay=(0.1,), risk_aversion=1.0, cost=100.0, discount=0.99, correlation=0.0, noise=0.0
)
SEVERAL = Problem(
    assets=3, decay=(0.05, 0.4), risk_aversion=2.0, cost=20.0, discount=0.95, correlation=0.4, noise=1.0
)

problems = st.builds(
    Problem,
    assets=st.integers(1, 4),
    decay=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=3).map(tuple),
    risk_aversion=st.floats(0.05, 20),
    cost=st.floats(0.01, 500),
    discount=st.floats(0.8, 0.995),
    correlation=st.floats(0.0, 0.8),
    noise=st.just(0.0),
)


@settings(max_examples=60, deadline=None)
@given(problem=problems)
def test_closed_form_riccati_and_lyapunov_agree(problem: Problem) -> None:
    paper, solved = closed_form(problem), riccati(problem)
    np.testing.assert_allclose(paper.keep, solved.rule.keep, atol=1e-7)
    np.testing.assert_allclose(paper.follow, solved.rule.follow, atol=1e-7 / problem.risk_aversion)
    assert value_of(problem, paper) == pytest.approx(solved.value, rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(problem=problems, seed=st.integers(0, 1000))
def test_no_linear_rule_beats_the_optimum(problem: Problem, seed: int) -> None:
    rule, generator = closed_form(problem), np.random.default_rng(seed)
    shaken = [m * (1 + 0.02 * generator.normal(size=m.shape)) for m in (rule.keep, rule.follow)]
    best = value_of(problem, rule)
    for other in (Rule(*shaken), markowitz(problem), best_static(problem), myopic(problem)):
        assert value_of(problem, other) <= best * (1 + 1e-9)


def test_the_discount_belongs_to_the_papers_cost() -> None:
    """Without it the two solutions part by far more than rounding."""
    wrong = closed_form(dataclasses.replace(BASE, cost=BASE.cost / BASE.discount))
    assert abs(wrong.keep - riccati(BASE).rule.keep).max() > 1e-4


def test_reference_rules_at_the_published_parameters() -> None:
    best = riccati(BASE).value
    shares = [value_of(BASE, rule(BASE)) / best for rule in (markowitz, best_static, myopic)]
    assert shares == pytest.approx([-78.6, 0.182, 0.422], rel=0.01)


def test_without_costs_the_optimum_is_markowitz() -> None:
    free = dataclasses.replace(SEVERAL, cost=0.0)
    np.testing.assert_allclose(closed_form(free).follow, markowitz(free).follow)
    np.testing.assert_allclose(riccati(free).rule.follow, markowitz(free).follow, atol=1e-9)


def test_a_rule_that_grows_without_bound_is_worth_nothing_finite() -> None:
    assert value_of(BASE, Rule(np.full((1, 1), 1.1), np.ones((1, 1)))) == -np.inf


@pytest.mark.parametrize("rule", [closed_form, myopic])
def test_the_simulated_market_pays_what_the_equations_say(rule: Any) -> None:
    chosen = rule(SEVERAL)
    market = LinearQuadratic(SEVERAL, 20_000, seed=3)
    observation, _ = market.reset()
    total = torch.zeros(market.num_envs, dtype=torch.float64)
    for step in range(200):
        observation, reward, *_ = market.step(chosen.decide(observation, market.units))
        total += SEVERAL.discount**step * reward.double() * market.units.reward
    error = total.std().item() / np.sqrt(market.num_envs)
    assert total.mean().item() == pytest.approx(value_of(SEVERAL, chosen), abs=4 * error)
    assert error < 0.02 * value_of(SEVERAL, chosen)


@pytest.mark.parametrize("rule", [closed_form, myopic, best_static])
@pytest.mark.parametrize("problem", [BASE, SEVERAL])
def test_the_judge_knows_the_exact_value_of_a_linear_rule(problem: Problem, rule: Any) -> None:
    chosen = rule(problem)
    units = derive_units(problem)
    found = judge(problem, lambda o: chosen.decide(o, units), accounts=4000, seed=5)
    assert found.value == pytest.approx(value_of(problem, chosen), abs=0.01 * riccati(problem).value)


def test_the_judge_sees_a_small_loss_sharply() -> None:
    """Half a percent off in the gain loses so little that returns would drown it; the judge measures it."""
    best = closed_form(BASE)
    near = Rule(best.keep, 1.05 * best.follow)
    found = judge(BASE, lambda o: near.decide(o, derive_units(BASE)), accounts=1000, seed=5)
    lost = riccati(BASE).value - value_of(BASE, near)
    assert lost < 0.004 * riccati(BASE).value
    assert riccati(BASE).value - found.value == pytest.approx(lost, rel=0.1)


def test_without_signal_the_optimum_is_to_stay_out() -> None:
    silent = dataclasses.replace(SEVERAL, signal=False)
    assert riccati(silent).value == pytest.approx(0.0, abs=1e-12)
    assert not closed_form(silent).follow.any()
    with_signal = closed_form(SEVERAL)
    market = LinearQuadratic(silent, 1000, seed=1)
    observation, _ = market.reset()
    torch.testing.assert_close(market.units, LinearQuadratic(SEVERAL, 1).units)
    assert observation[..., :-1].std().item() == pytest.approx(1.0, abs=0.05)  # features are as ever
    reward = torch.zeros(1000)
    for _ in range(50):
        observation, earned, *_ = market.step(with_signal.decide(observation, market.units))
        reward += earned
    assert reward.mean() < -4 * reward.std() / np.sqrt(1000)


@settings(max_examples=25, deadline=None)
@given(problem=problems)
def test_units_make_good_trades_positions_and_returns_of_order_one(problem: Problem) -> None:
    units, best = derive_units(problem), riccati(problem)
    found = judge(problem, lambda o: best.rule.decide(o, units), accounts=64, seed=1)
    assert 0.05 < found.turnover < 3.0
    assert 0.5 < best.value / problem.assets / units.reward < 10


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_units_follow_the_scale_of_risk_and_costs(factor: float) -> None:
    """Positions are worth their inverse: an agent sees the same numbers whatever the currency."""
    scaled = dataclasses.replace(SEVERAL, risk_aversion=factor * 2.0, cost=factor * 20.0)
    units, base = derive_units(scaled), derive_units(SEVERAL)
    for one, other in zip(dataclasses.astuple(units), dataclasses.astuple(base), strict=True):
        assert one * factor == pytest.approx(other)


def test_asset_rewards_are_the_accounts_less_what_it_would_be_without_the_asset() -> None:
    problem = dataclasses.replace(SEVERAL, noise=0.0)
    torch.manual_seed(1)
    positions, action = torch.randn(5, 3), torch.randn(5, 3)

    def earn(keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        market = LinearQuadratic(problem, 5, seed=1)
        market.reset()
        market.positions = positions * keep
        _, reward, _, _, infos = market.step(action * keep)
        return reward, infos["asset_reward"]

    reward, parts = earn(torch.ones(3))
    for asset in range(3):
        keep = torch.ones(3)
        keep[asset] = 0.0
        torch.testing.assert_close(parts[:, asset], reward - earn(keep)[0], atol=1e-5, rtol=1e-4)


def test_gradients_through_several_steps_equal_finite_differences() -> None:
    """The rewards are quadratic in the actions: central differences are exact but for rounding."""
    actions = 0.5 * torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(2))

    def total(actions: torch.Tensor) -> torch.Tensor:
        market = LinearQuadratic(SEVERAL, 8, seed=4)
        market.reset()
        return torch.stack([market.step(action)[1].sum() for action in actions]).sum()

    actions.requires_grad_(True)
    (gradient,) = torch.autograd.grad(total(actions), actions)
    with torch.no_grad():
        for index in [(0, 0, 0), (1, 3, 2), (3, 7, 1)]:
            bump = torch.zeros_like(actions)
            bump[index] = 0.5
            difference = total(actions + bump) - total(actions - bump)
            assert difference.item() == pytest.approx(gradient[index].item(), rel=2e-3, abs=2e-3)


def test_time_limits_truncate_and_hand_over_the_last_observation() -> None:
    market = LinearQuadratic(SEVERAL, 50, episode_steps=6, seed=1)
    observation, _ = market.reset()
    ends = torch.zeros(50)
    for _ in range(12):
        before = market.positions
        observation, _, terminated, truncated, infos = market.step(torch.ones(50, 3))
        assert not terminated.any()
        ends += truncated
        assert ("final_obs" in infos) == bool(truncated.any())
        if truncated.any():
            final = infos["final_obs"][truncated]
            held = (before[truncated] + market.units.trade) / market.units.position
            torch.testing.assert_close(final[..., -1], held)
            assert not observation[truncated][..., -1].any()
    assert (ends == 2).all()


def test_exploring_accounts_open_with_positions_of_the_markets_own_size() -> None:
    market = LinearQuadratic(SEVERAL, 5000, episode_steps=3, exploring=True, seed=1)
    observation, _ = market.reset()
    assert observation[..., -1].std().item() == pytest.approx(1.0, abs=0.05)
    observation, _, _, truncated, infos = market.step(torch.zeros(5000, 3))
    assert 0 < int(truncated.sum()) < 5000
    opened, closed = observation[..., -1], infos["final_obs"][..., -1]
    assert torch.equal(opened[~truncated], closed[~truncated])
    assert not (opened[truncated] == closed[truncated]).any()
    assert opened[truncated].std().item() == pytest.approx(1.0, abs=0.1)


def test_it_goes_on_exactly_from_a_saved_state() -> None:
    def run(market: LinearQuadratic, steps: int) -> torch.Tensor:
        return torch.stack([market.step(torch.full((6, 3), 0.3))[1] for _ in range(steps)])

    market = LinearQuadratic(SEVERAL, 6, episode_steps=5, seed=9)
    market.reset()
    run(market, 7)
    state = {name: value.clone() for name, value in market.state().items()}
    expected = run(market, 9)
    other = LinearQuadratic(SEVERAL, 6, episode_steps=5, seed=1)
    observation = other.load_state(state)
    assert observation.shape == (6, 3, 3)
    assert torch.equal(run(other, 9), expected)


def test_same_seed_same_market_other_seed_another() -> None:
    one, two, other = (LinearQuadratic(SEVERAL, 4, seed=seed).reset()[0] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_an_action_that_is_not_finite_is_refused() -> None:
    market = LinearQuadratic(BASE, 2)
    market.reset()
    with pytest.raises(TrainingError, match="not finite"):
        market.step(torch.tensor([[0.0], [float("nan")]]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("decay", ()), ("decay", (0.0,)), ("cost", -1.0), ("discount", 1.0), ("assets", 0),
     ("correlation", 1.0), ("noise", float("nan")), ("risk_aversion", 0.0)],
)  # fmt: skip
def test_numbers_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(ParamsError, match=name):
        dataclasses.replace(BASE, **{name: value})


def test_spaces_and_shapes_are_gymnasiums() -> None:
    market = LinearQuadratic(SEVERAL, 7)
    observation, infos = market.reset(seed=1)
    assert infos == {}
    assert observation.shape == market.observation_space.shape == (7, 3, 3)
    assert market.action_space.shape == (7, 3)
    observation, reward, terminated, truncated, _ = market.step(np.zeros((7, 3), dtype=np.float32))
    assert market.observation_space.contains(observation.numpy())
    assert (reward.shape, terminated.dtype, truncated.dtype) == ((7,), torch.bool, torch.bool)
