"""The market as other libraries meet it: gymnasium's checkers, its wrappers, and an sb3 agent that learns."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.performance import benchmark_step
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers.vector import ClipAction, RecordEpisodeStatistics

from sekisho.errors import TrainingError
from sekisho.market import MarketData, TradingMarket, derive_units
from sekisho.market.single import BOUND, DiscreteActions, SingleMarket
from sekisho.params import MarketParams

Maker = Callable[..., MarketData]
ID = "sekisho.market.single:sekisho/Market-v0"


@pytest.fixture
def options(make_data: Maker, params: MarketParams) -> dict[str, Any]:
    data = make_data(1)
    window = (data.first_bar, len(data))
    return {"data": data, "params": params, "units": derive_units(data, *window, params), "window": window}


@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("mode", ["trade", "weights"])
def test_gymnasiums_checker_finds_nothing(options: dict[str, Any], levels: int | None, mode: str) -> None:
    env = gymnasium.make(ID, levels=levels, mode=mode, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(infinity|Casting input x).*")  # features have no bound
        check_env(env.unwrapped, skip_render_check=True)
    assert benchmark_step(env, target_duration=1) > 0


def test_stable_baselines_checker_finds_nothing(options: dict[str, Any]) -> None:
    from stable_baselines3.common.env_checker import check_env as check

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*unconventional shape.*")
        check(SingleMarket(**options))


@pytest.mark.parametrize("levels", [None, 5])
def test_the_vector_market_steps_as_so_many_single_ones(options: dict[str, Any], levels: int | None) -> None:
    """gymnasium's own vector of single accounts is the reference: same spaces, same answers."""
    count = 3
    vector: Any = gymnasium.make_vec(ID, num_envs=count, levels=levels, **options)
    market: TradingMarket = vector.unwrapped
    singles = SyncVectorEnv(
        [lambda: SingleMarket(levels=levels, **options)] * count, autoreset_mode=AutoresetMode.DISABLED
    )
    assert vector.observation_space == singles.observation_space
    assert vector.single_observation_space == singles.single_observation_space
    if levels:
        assert vector.action_space == singles.action_space
        assert vector.single_action_space == singles.single_action_space
    vector.reset(seed=1)
    singles.reset(seed=[1, 2, 3])
    for one, env in enumerate(singles.envs):  # begin together: how starts are drawn differs
        inner = env.unwrapped.market
        market.bar[one], market.age[one] = inner.bar[0], inner.age[0]
    singles.action_space.seed(4)
    for _ in range(options["params"].episode_bars - 1):
        action = singles.action_space.sample()
        one, other = vector.step(action if levels else BOUND * action), singles.step(action)
        for ours, theirs in zip(one[:4], other[:4], strict=True):
            np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(one[4]["equity"], other[4]["equity"])


class AsNumpy(VectorWrapper):
    """gymnasium's own wrappers of vectors calculate with numpy arrays."""

    def reset(self, **options: Any) -> Any:
        observation, infos = self.env.reset(**options)
        return observation.numpy(), infos

    def step(self, actions: Any) -> Any:
        *answers, infos = self.env.step(actions)
        return *(answer.numpy() for answer in answers), infos


def test_gymnasiums_vector_wrappers_take_it(options: dict[str, Any]) -> None:
    market: Any = TradingMarket(num_envs=4, **options)
    recorded = RecordEpisodeStatistics(ClipAction(AsNumpy(market)))
    observation, _ = recorded.reset(seed=1)
    ends, total = 0, np.zeros(4)
    for step in range(3 * options["params"].episode_bars):
        observation, reward, terminated, truncated, infos = recorded.step(np.full((4, 3), 0.1 * step % 0.5))
        assert recorded.observation_space.contains(observation.astype(np.float32))
        total, over = total + reward, terminated | truncated
        if over.any():
            np.testing.assert_allclose(infos["episode"]["r"][over], total[over], rtol=1e-5)
            assert np.array_equal(infos["_episode"], over)
        total, ends = np.where(over, 0.0, total), ends + int(over.sum())
    assert ends == recorded.episode_count > 4
    assert market.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP


def test_an_episode_is_whole_and_ends_with_its_own_last_observation(options: dict[str, Any]) -> None:
    env = SingleMarket(**options)
    for seed in (1, 2, 3):
        env.reset(seed=seed)
        for step in range(1, options["params"].episode_bars + 1):
            seen, reward, terminated, truncated, infos = env.step(np.full(3, 0.25, np.float32))
            assert isinstance(reward, float)
            assert (terminated, truncated) == (False, step == options["params"].episode_bars)
        np.testing.assert_allclose(seen[:, -1], infos["weights"], rtol=1e-6)
        assert (seen[:, -1] != 0).any()


def test_the_middle_level_trades_nothing_and_the_outer_ones_the_bound(options: dict[str, Any]) -> None:
    market = TradingMarket(num_envs=2, **options)
    discrete = DiscreteActions(market, levels=5, bound=1.0)
    assert discrete.actions(np.array([[0, 1, 2], [2, 3, 4]])).tolist() == [[-1.0, -0.5, 0.0], [0.0, 0.5, 1.0]]
    discrete.reset(seed=1)
    assert not discrete.step(np.full((2, 3), 2))[4]["ordered"].any()
    assert (discrete.step(torch.full((2, 3), 4))[4]["ordered"] > 0).all()


def test_levels_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    market = TradingMarket(num_envs=2, **options)
    for levels in (1, 4):
        with pytest.raises(TrainingError, match="odd number"):
            DiscreteActions(market, levels)
    discrete = DiscreteActions(market, 5)
    discrete.reset(seed=1)
    for action in (-1, 5):
        with pytest.raises(TrainingError, match="no level"):
            discrete.step(np.full((2, 3), action))


@pytest.mark.slow
@pytest.mark.parametrize("levels", [None, 5])
def test_an_sb3_agent_learns_a_planted_signal(
    make_data: Maker, params: MarketParams, levels: int | None
) -> None:
    from stable_baselines3 import PPO

    data = make_data(1, rows=400, assets=1, halted=0.0)
    coming = torch.zeros_like(data.close)
    coming[:-1] = torch.where(torch.rand(399, 1, generator=torch.Generator().manual_seed(1)) < 0.5, -1.0, 1.0)
    close = 100 * (1 + 0.01 * coming.roll(1, 0)).cumprod(0)  # the first feature is the next bar's direction
    features = data.features.clone()
    features[:, :, 0] = coming.float()
    data = replace(data, close=close, open=close.roll(1, 0), features=features)
    window = (data.first_bar, 399)
    units = derive_units(data, *window, params)

    def env() -> gymnasium.Env[Any, Any]:
        return gymnasium.make(
            ID, data=data, params=params, units=units, window=window, mode="weights", bound=0.5, levels=levels
        )

    model = PPO(
        "MlpPolicy", env(), n_steps=512, batch_size=64, gamma=0.0, learning_rate=1e-3, seed=1, device="cpu"
    )

    def earned() -> float:
        judged, total = env(), 0.0
        for seed in range(10):
            seen, _ = judged.reset(seed=1000 + seed)
            over = False
            while not over:
                seen, reward, terminated, truncated, _ = judged.step(
                    model.predict(seen, deterministic=True)[0]
                )
                total, over = total + float(reward), terminated or truncated
        return total / 10

    before = earned()
    model.learn(8_192)
    best = params.episode_bars * 0.5 * 0.01 / units.risk  # without costs: half the capital, always right
    assert before < 0.2 * best
    assert earned() > 0.6 * best
