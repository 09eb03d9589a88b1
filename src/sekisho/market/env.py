"""The vectorised market: one step of N environments × A assets in a handful of tensor operations.

Order of events in one step from bar t to bar t+1:

1. the agent has seen the features and weights at the close of t and decides on target weights;
2. the limits are applied; the orders are sized in units at the close of t (nothing later is known);
3. the orders fill at the open of t+1, with costs, in assets that are tradable then;
4. the book is held to the close of t+1 (borrow, funding) and marked there: reward, next observation.

The ledger is float64 (cash and units); observations are float32. An episode's end by time is a truncation:
its value must be bootstrapped from ``final_obs``. Only ruin terminates.
"""

from __future__ import annotations

from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from sekisho.errors import TrainingError
from sekisho.market.costs import holding_cost, trade_cost
from sekisho.market.data import MarketData, Units
from sekisho.market.limits import apply_limits
from sekisho.params import MarketParams

RUIN = 0.1  # share of the starting equity below which an episode terminates: the account would be closed

Actions = torch.Tensor | npt.NDArray[np.floating[Any]]


class TradingMarket(VectorEnv[torch.Tensor, torch.Tensor, torch.Tensor]):
    """``N`` accounts that trade the same ``A`` assets, each at its own time.

    Observation ``(N, A, F+1)`` float32: features, then the asset's current weight. Action ``(N, A)``: with
    ``mode="trade"`` a change of weight in ``units.trade``, with ``mode="weights"`` target weights.
    Reward ``(N,)`` float32: return net of costs, in ``units.risk``, less half ``risk_aversion`` × its square.

    Args:
        window: bars ``[start, stop)`` that may be observed and traded.
        sequential: run from ``options={"start": bar}`` (default: the window's start) to the window's end,
            without autoreset; otherwise episodes of ``episode_bars`` start anywhere in the window.
        cost_multiple: scales all costs, a number or one per environment ``(N,)``.

    ``infos`` of a step, all ``(N,)`` unless noted: ``net_return``, ``gross_return`` and ``cost`` (fractions
    of the equity before the step), ``turnover`` (sum of traded value over equity), ``equity``, ``cash``,
    ``bar`` (index of the bar at whose close it stands), ``weights`` ``(N, A)`` at that close,
    ``asset_reward`` ``(N, A)`` (see `_asset_reward`); ``final_obs``, ``_final_obs`` where an episode ended.

    Raises:
        TrainingError: the window is shorter than an episode.
    """

    def __init__(
        self,
        data: MarketData,
        params: MarketParams,
        units: Units,
        num_envs: int,
        window: tuple[int, int],
        *,
        mode: Literal["trade", "weights"] = "trade",
        sequential: bool = False,
        cost_multiple: float | torch.Tensor = 1.0,
        seed: int = 0,
    ) -> None:
        start, stop = window
        self.episode_bars = stop - start - 1 if sequential else params.episode_bars
        if (
            start < data.first_bar
            or stop > len(data)
            or stop - start <= self.episode_bars
            or stop - start < 2
        ):
            raise TrainingError(
                f"{stop - start} bars in the window, an episode needs {self.episode_bars + 1} with features",
                remedy="shorten market.episode_bars or bring a longer history",
            )
        self.data, self.params, self.units, self.mode = data, params, units, mode
        self.start, self.stop, self.sequential = start, stop, sequential
        self.num_envs, self.assets = num_envs, len(data.symbols)
        self.device = data.close.device
        self.autoreset = AutoresetMode.DISABLED if sequential else AutoresetMode.SAME_STEP
        self.metadata = {"autoreset_mode": self.autoreset, "render_modes": []}
        shape = (self.assets, data.features.shape[2] + 1)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.single_action_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.assets,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._trade_unit = units.trade.to(self.device)
        self._multiple = torch.as_tensor(cost_multiple, dtype=torch.float64, device=self.device).reshape(
            -1, 1
        )
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._everyone = torch.ones(num_envs, dtype=torch.bool, device=self.device)
        self._open_accounts()

    def _open_accounts(self) -> None:
        accounts = (self.num_envs, self.assets)
        self.positions = torch.zeros(accounts, dtype=torch.float64, device=self.device)  # units of the asset
        self.cash = self.positions.new_full((self.num_envs,), self.params.capital)
        self.bar = torch.full((self.num_envs,), self.start, device=self.device)
        self.age = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Start every account at ``capital``, without positions.

        Options: ``start``, the bar where a sequential run begins, a number or one per environment ``(N,)``.
        """
        if seed is not None:
            self.generator.manual_seed(seed)
        self._open_accounts()
        if self.sequential:
            start = torch.as_tensor((options or {}).get("start", self.start), device=self.device)
            self.bar = start.expand(self.num_envs).clone()
        else:
            self._restart(self._everyone)
            # spread the first ends over time: otherwise all accounts would end together, for ever
            self.age = torch.randint(0, self.episode_bars, (self.num_envs,), generator=self.generator)
            self.age = torch.minimum(self.age, self.bar - self.start)
        return self._observe(), {}

    def step(
        self, actions: Actions
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Trade and advance one bar; see the module for the order of events.

        Raises:
            TrainingError: an action that is not finite, or a step past the end of a sequential run.
        """
        action = torch.as_tensor(actions, device=self.device).to(torch.float64)
        if not bool(torch.isfinite(action).all()):
            raise TrainingError("an action is not finite", remedy="lower the learning rate")
        if self.sequential and int(self.bar.max()) + 1 >= self.stop:
            raise TrainingError("the run is over", remedy="call reset")
        data, now, then = self.data, self.bar, self.bar + 1
        close, price = data.close[now], data.open[then]
        before = self.cash + (self.positions * close).sum(dim=1)
        weights = self.positions * close / before[:, None]
        target = weights + action * self._trade_unit if self.mode == "trade" else action
        move = apply_limits(target, weights, self.params) - weights
        order = torch.where(data.tradable[then], move * before[:, None] / close, 0.0)  # units

        traded = order * price
        trading = self._multiple * trade_cost(
            traded, data.half_spread[then], data.adv[then], data.volatility[now], self.params
        )
        held = self.positions + order
        holding = self._multiple * holding_cost(held * price, data.borrow_rate[then], data.funding_rate[then])
        profit = self.positions * (price - close) + held * (data.close[then] - price)  # (N, A) before costs
        cost = trading + holding
        self.cash = self.cash - traded.sum(dim=1) - cost.sum(dim=1)
        self.positions = held
        self.bar, self.age = then, self.age + 1

        values = held * data.close[then]
        equity = self.cash + values.sum(dim=1)
        net = (profit - cost) / before[:, None]  # (N, A)
        net_return = net.sum(dim=1)
        scaled = net_return / self.units.risk
        reward = scaled - 0.5 * self.params.risk_aversion * scaled.square()
        terminated = equity <= RUIN * self.params.capital
        truncated = (self.age >= self.episode_bars) | (then + 1 >= self.stop)
        infos: dict[str, Any] = {
            "net_return": net_return,
            "gross_return": profit.sum(dim=1) / before,
            "cost": cost.sum(dim=1) / before,
            "turnover": traded.abs().sum(dim=1) / before,
            "equity": equity,
            "cash": self.cash,
            "bar": then,
            "weights": values / equity[:, None],
            "asset_reward": self._asset_reward(net).float(),
        }
        observation = self._observe()
        done = terminated | truncated
        if not self.sequential and bool(done.any()):
            infos["final_obs"], infos["_final_obs"] = observation, done
            self._restart(done)
            observation = self._observe()
        return observation, reward.float(), terminated, truncated, infos

    def _asset_reward(self, net: torch.Tensor) -> torch.Tensor:
        """Each asset's difference reward ``(N, A)``: the account's less what it would be without the asset.

        With r the account's return and rₐ the asset's part, both in units of risk, and γ the risk aversion:
        rₐ − γ (r rₐ − rₐ²/2). Its derivative by rₐ is that of the account's reward, so that agents that learn
        from it per asset climb the same objective with an A times smaller variance (Wolpert & Tumer 2002).
        """
        part = net / self.units.risk
        total = part.sum(dim=1, keepdim=True)
        return part - self.params.risk_aversion * (total * part - 0.5 * part.square())

    def _observe(self) -> torch.Tensor:
        values = self.positions * self.data.close[self.bar]
        weights = values / (self.cash + values.sum(dim=1))[:, None]
        return torch.cat((self.data.features[self.bar], weights.float()[..., None]), dim=2)

    def _restart(self, who: torch.Tensor) -> None:
        """Open the accounts of ``who`` ``(N,)`` anew at random bars; draws for all, so that streams align."""
        last = self.stop - self.episode_bars  # exclusive
        bars = torch.randint(self.start, last, (self.num_envs,), generator=self.generator, device=self.device)
        self.bar = torch.where(who, bars, self.bar)
        self.age = torch.where(who, 0, self.age)
        self.cash = torch.where(who, self.params.capital, self.cash)
        self.positions = torch.where(who[:, None], 0.0, self.positions)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint needs to go on exactly."""
        return {
            "cash": self.cash,
            "positions": self.positions,
            "bar": self.bar,
            "age": self.age,
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """Go on from ``state``; returns the observation there."""
        self.cash, self.positions = state["cash"], state["positions"]
        self.bar, self.age = state["bar"], state["age"]
        self.generator.set_state(state["generator"])
        return self._observe()
