"""The market for other libraries' agents: bounded or discrete actions, and one account as a `gymnasium.Env`.

    env = gymnasium.make(
        "sekisho.market.single:sekisho/Market-v0", data=data, params=params, units=units, window=window
    )

``data``, ``params``, ``units`` and ``window`` are those of `TradingMarket`, further options too; `make_vec`
gives `TradingMarket` itself. With ``levels`` actions are discrete. One account at a time is as slow as in any
other library: the speed is in `TradingMarket`'s thousands.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorActionWrapper
from gymnasium.vector.utils import batch_space

from sekisho.errors import TrainingError
from sekisho.market.env import Actions, TradingMarket

BOUND = 2.0  # of an action: four times a typical good trade, in trade units; beyond every limit as a weight

Observation = npt.NDArray[np.float32]


class DiscreteActions(VectorActionWrapper):
    """Whole numbers ``(N, A)`` in ``[0, levels)`` as actions, evenly spaced from −``bound`` to ``bound``.

    ``levels`` is odd, so that the one in the middle is 0: no trade, or with ``mode="weights"`` no position.

    Raises:
        TrainingError: an even number of levels, or fewer than three; in a step, an action that is none.
    """

    def __init__(self, market: TradingMarket, levels: int, bound: float = BOUND) -> None:
        if levels < 3 or levels % 2 == 0:
            raise TrainingError(
                f"{levels} action levels", remedy="choose an odd number from 3 on: the middle one is no trade"
            )
        super().__init__(market)
        self.values = torch.linspace(-bound, bound, levels, dtype=torch.float64, device=market.device)
        self.values[levels // 2] = 0.0
        self.single_action_space = gymnasium.spaces.MultiDiscrete([levels] * market.assets)
        self.action_space = batch_space(self.single_action_space, market.num_envs)

    def actions(self, actions: Actions) -> torch.Tensor:
        """The market's actions ``(N, A)`` of the levels ``(N, A)``."""
        chosen = torch.as_tensor(actions, device=self.values.device).long()
        if bool(((chosen < 0) | (chosen >= len(self.values))).any()):
            raise TrainingError(
                "an action is no level", remedy=f"choose whole numbers from 0 to {len(self.values) - 1}"
            )
        return self.values[chosen]


class SingleMarket(gymnasium.Env[Observation, Any]):
    """One account of `TradingMarket`: observation ``(A, F+1)``, action ``(A,)`` in [−1, 1], in ``bound``, or
    one of ``levels``, reward a float; an episode is ``params.episode_bars`` long and then truncated.

    ``infos`` are the market's, of this account. ``options`` are those of `TradingMarket`.
    """

    def __init__(self, *, levels: int | None = None, bound: float = BOUND, **options: Any) -> None:
        self.metadata = {"render_modes": []}
        self.market = TradingMarket(num_envs=1, **options)
        self.scale = bound if levels is None else 1
        self.front = self.market if levels is None else DiscreteActions(self.market, levels, bound)
        self.observation_space = self.market.single_observation_space
        if levels is None:
            shape = (self.market.assets,)
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, shape, np.float32)
        else:
            self.action_space = self.front.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Open the account anew, at a bar that ``np_random`` draws."""
        super().reset(seed=seed)
        observation, _ = self.front.reset(seed=int(self.np_random.integers(2**31)), options=options)
        if not self.market.sequential:  # alone, the account needs no place among others' ends
            self.market.age = torch.zeros_like(self.market.age)
        return observation[0].cpu().numpy(), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Trade and advance one bar; what an episode's end shows is its own last observation."""
        scaled = np.asarray(action)[None] * self.scale
        observation, reward, terminated, truncated, infos = self.front.step(scaled)
        last = infos.pop("final_obs", observation)
        infos.pop("_final_obs", None)
        own = {name: value[0].detach().cpu().numpy() for name, value in infos.items()}
        return last[0].cpu().numpy(), float(reward[0]), bool(terminated[0]), bool(truncated[0]), own


def vector_market(
    num_envs: int, *, levels: int | None = None, bound: float = BOUND, **options: Any
) -> TradingMarket | DiscreteActions:
    """What `gymnasium.make_vec` gives: `TradingMarket`, with ``levels`` under `DiscreteActions`."""
    market = TradingMarket(num_envs=num_envs, **options)
    return market if levels is None else DiscreteActions(market, levels, bound)


gymnasium.register(
    "sekisho/Market-v0",
    entry_point=f"{__name__}:SingleMarket",
    vector_entry_point=f"{__name__}:vector_market",
)
