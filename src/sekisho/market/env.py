"""The vectorised market: one step of N accounts × A assets in a handful of tensor operations.

Order of events in one step from bar t to bar t+1:

1. the agent has seen the features and weights at the close of t and decides on target weights;
2. the limits are applied; the orders are sized in units at the close of t (nothing later is known);
3. the orders fill at the open of t+1, or ``latency_bars`` later, in whole lots, as far as the exchange's
   rules and the bar's volume allow, with costs; the rest lapses; what is held of a symbol that has had its
   last bar is paid out less the delisting haircut;
4. the book is held to the close of t+1 (borrow, funding) and marked there: reward, next observation.

Prices are adjusted: a dividend or a split is in the adjustment and makes no profit on its day. The ledger is
float64 (cash and units); observations are float32. An episode's end by time is a truncation: its value must
be bootstrapped from ``final_obs``. Only ruin terminates.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal, SupportsIndex

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch.utils._pytree import tree_map

from sekisho.errors import TrainingError
from sekisho.market.core import Account, bar_table, feature_table, mark, observe, step_accounts
from sekisho.market.data import MarketData, Units
from sekisho.market.ranks import ALONE, Ranks
from sekisho.market.regimes import REGIMES, market_volatility, numbered, volatility_regimes
from sekisho.params import MarketParams

RUIN = 0.1  # share of the starting equity below which an episode terminates: the account would be closed

Actions = torch.Tensor | npt.NDArray[np.floating[Any]]


class TradingMarket(VectorEnv[torch.Tensor, torch.Tensor, torch.Tensor]):
    """``N`` accounts that trade the same ``A`` assets, each at its own time.

    Observation ``(N, A, F+1)`` float32: features, then the asset's weight with the orders in flight. Action
    ``(N, A)``: with ``mode="trade"`` a change of weight in ``units.trade``, with ``mode="weights"`` target
    weights. Reward ``(N,)`` float32: return net of costs, in ``units.risk``, less half ``risk_aversion`` ×
    its square.

    A step is differentiable in the actions of all steps before it (price limits, volume and position limits
    pass no gradient where they bind; whole lots pass it straight through), up to the end of an episode.

    Args:
        window: bars ``[start, stop)`` that may be observed and traded.
        sequential: run from ``options={"start": bar}`` (default: the window's start) to the window's end,
            without autoreset; otherwise episodes of ``episode_bars`` start anywhere in the window, with
            ``params.stratify`` as often in each volatility regime.
        cost_multiple: scales what is paid, not funding received; a number or one per account ``(N,)``.
        capital: starting equity, a number or one per account ``(N,)``; by default ``params.capital``.
        compiled: fuse the step with torch.compile; on a GPU it is replayed as a CUDA graph. The first step
            takes seconds. Results differ from the eager ones in the last bits, where operations are fused or
            summed in another order.
        edges: volatilities ``(2,)`` between the regimes; by default the terciles of the window.
        ranks: processes that share the ``num_envs`` accounts evenly: ``N`` is then this one's part, and
            episodes start where those of one process would.

    ``infos`` of a step, all ``(N,)`` unless noted: ``net_return``, ``gross_return`` and ``cost`` (fractions
    of the equity before the step), ``turnover`` (sum of traded value over equity), ``equity``, ``cash``,
    ``bar`` (index of the bar at whose close it stands), ``weights`` ``(N, A)`` at that close, ``ordered`` and
    ``filled`` ``(N, A)`` (units), ``asset_net`` ``(N, A)`` (each asset's part of ``net_return``),
    ``asset_reward`` ``(N, A)`` (see `core.difference_rewards`); ``final_obs``, ``_final_obs`` where an
    episode ended.

    Raises:
        TrainingError: the window is shorter than an episode, or the accounts cannot be shared out evenly.
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
        capital: float | torch.Tensor | None = None,
        compiled: bool = False,
        seed: int = 0,
        edges: npt.NDArray[np.float64] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        num_envs = ranks.share(num_envs)
        self.ranks = ranks
        self.params, self.units, self.mode = params, units, mode
        self.sequential, self.edges = sequential, edges
        self.num_envs, self.assets = num_envs, len(data.symbols)
        self.device = data.close.device
        self._set_spaces(data.features.shape[2])
        self._trade_unit = units.trade.to(self.device, torch.float64) if mode == "trade" else None
        self._multiple = self._per_account(cost_multiple)[:, None]
        self.capital = self._per_account(params.capital if capital is None else capital).expand(num_envs)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._step = _compiled(self.device) if compiled else step_accounts
        self.hold(data, window)

    def hold(self, data: MarketData, window: tuple[int, int]) -> None:
        """Trade the bars ``[start, stop)`` of ``data``, of the same symbols, from the next `reset` on.

        Raises:
            TrainingError: the window is shorter than an episode.
        """
        start, stop = window
        self.episode_bars = stop - start - 1 if self.sequential else self.params.episode_bars
        if start < data.first_bar or stop > len(data) or stop - start < max(self.episode_bars + 1, 2):
            raise TrainingError(
                f"{stop - start} bars in the window, an episode needs {self.episode_bars + 1} with features",
                remedy="shorten market.episode_bars or bring a longer history",
            )
        self.data, self.start, self.stop = data, start, stop
        self._table = bar_table(data, start, stop, self.params)
        self._features = feature_table(data, start, stop)
        strata = [] if self.sequential else self._starts_by_stratum()
        self._starts = torch.cat(strata) if strata else None
        self._stratum_sizes = torch.tensor([len(stratum) for stratum in strata], device=self.device)
        self._open_accounts()

    def _set_spaces(self, features: int) -> None:
        self.autoreset = AutoresetMode.DISABLED if self.sequential else AutoresetMode.SAME_STEP
        self.metadata = {"autoreset_mode": self.autoreset, "render_modes": []}
        shape = (self.assets, features + 1)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.single_action_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.assets,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _per_account(self, value: float | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(value, dtype=torch.float64, device=self.device).reshape(-1)

    def _starts_by_stratum(self) -> list[torch.Tensor]:
        """Bars where an episode may start: one tensor per volatility regime that has any, or one of all."""
        bars = torch.arange(self.start, self.stop - self.episode_bars, device=self.device)
        if not self.params.stratify:
            return [bars]
        close = self.data.close.cpu().numpy()
        window = self.params.vol_window
        if self.edges is None:
            regimes = volatility_regimes(close, window, self.start, self.stop)
        else:
            regimes = numbered(market_volatility(close, window), self.edges)
        regime = torch.as_tensor(regimes, device=self.device)[bars]
        strata = [bars[regime == number] for number in range(len(REGIMES))]
        return [stratum for stratum in strata if len(stratum)]

    def _open_accounts(self) -> None:
        # accounts lie side by side in memory, so that the arithmetic is vectorised over them
        accounts = (self.assets, self.num_envs)
        nothing = torch.zeros(accounts, dtype=torch.float64, device=self.device).t()
        pending = nothing[:, None].repeat(1, self.params.latency_bars, 1)
        self.account = Account(self.capital.clone(), nothing, nothing, pending)
        self.bar = torch.full((self.num_envs,), self.start, device=self.device)
        self.age = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)

    @property
    def cash(self) -> torch.Tensor:
        """``(N,)`` quote currency."""
        return self.account.cash

    @property
    def positions(self) -> torch.Tensor:
        """``(N, A)`` units of the asset."""
        return self.account.positions

    def reset(
        self, *, seed: SupportsIndex | None = None, options: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Start every account at its capital, without positions.

        One ``seed`` for all: the accounts draw from one generator. Options: ``start``, the bar where a
        sequential run begins, a number or one per account ``(N,)``.

        Raises:
            TrainingError: a start outside the window; an option that is none, gymnasium's ``reset_mask``
                among them; a seed that is no integer, such as gymnasium's list of one per account.
        """
        if unknown := set(options or ()) - {"start"}:
            raise TrainingError(
                f"reset takes no option {', '.join(sorted(map(str, unknown)))}: all accounts start together",
                remedy="leave it out; accounts whose episode has ended start anew by themselves",
            )
        if seed is not None:
            self.generator.manual_seed(_one_seed(seed))
        self._open_accounts()
        if self.sequential:
            start = torch.as_tensor((options or {}).get("start", self.start), device=self.device)
            if int(start.min()) < self.start or int(start.max()) + 1 >= self.stop:
                raise TrainingError(
                    f"a run cannot start at bar {start.tolist()}: its window is [{self.start}, {self.stop})",
                    remedy="start inside the window, at least one bar before its end",
                )
            self.bar = start.expand(self.num_envs).clone()
        else:
            count = self.num_envs * self.ranks.size
            self.bar = self.ranks.own(self._draw_starts(count))
            # spread the first ends over time: otherwise all accounts would end together, for ever
            age = torch.randint(0, self.episode_bars, (count,), generator=self.generator, device=self.device)
            self.age = torch.minimum(self.ranks.own(age), self.bar - self.start)
        return self._observe(), {}

    def step(
        self, actions: Actions
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Trade and advance one bar; see the module for the order of events.

        Raises:
            TrainingError: an action that is not finite or has another shape, or a step past the end of a
                sequential run.
        """
        action = torch.as_tensor(actions, device=self.device).to(torch.float64)
        if action.shape != (self.num_envs, self.assets):
            raise TrainingError(
                f"actions of shape {tuple(action.shape)}, not {(self.num_envs, self.assets)}",
                remedy="give one number per account and asset",
            )
        if not bool(action.detach().sum().isfinite()):
            raise TrainingError("an action is not finite", remedy="lower the learning rate")
        if self.sequential and int(self.bar.max()) + 1 >= self.stop:
            raise TrainingError("the run is over", remedy="call reset")
        self.bar, self.age = self.bar + 1, self.age + 1
        self.account, observation, reward, infos = self._step(
            self._table, self._features, self.bar - self.start, self.account, action,
            self._trade_unit, self._multiple, self.units.risk, self.params,
        )  # fmt: skip
        infos["bar"] = self.bar
        terminated = infos["equity"] <= RUIN * self.capital
        truncated = (self.age >= self.episode_bars) | (self.bar + 1 >= self.stop)
        if not self.sequential:
            done = terminated | truncated
            everywhere = self.ranks.gather(done)
            if bool(everywhere.any()):
                infos["final_obs"], infos["_final_obs"] = observation, done
                observation = self._restart(done, everywhere, observation)
        return observation, reward, terminated, truncated, infos

    def _observe(self) -> torch.Tensor:
        row = self.bar - self.start
        close = self.data.close[self.bar].t().contiguous().t()
        *_, awaited = mark(self.account, close)
        return observe(self._features, row, awaited)

    def _draw_starts(self, count: int) -> torch.Tensor:
        """Bars ``(count,)``: first a stratum, then a bar of it, each with equal probability."""
        uniform = torch.rand((2, count), generator=self.generator, dtype=torch.float64, device=self.device)
        sizes = self._stratum_sizes
        stratum = (uniform[0] * len(sizes)).long()
        place = (uniform[1] * sizes[stratum]).long() + (sizes.cumsum(0) - sizes)[stratum]
        assert self._starts is not None  # None for sequential runs only, which draw nothing
        return self._starts[place]

    def _restart(self, who: torch.Tensor, everywhere: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Open the accounts of ``who`` ``(N,)`` anew; their first observations among the others' ``last``.

        ``everywhere``: the same of the accounts of all ranks, for all of which starts are drawn.
        """
        which = who.nonzero()[:, 0]
        before = int(everywhere[: self.ranks.rank * self.num_envs].sum())
        bars = self._draw_starts(int(everywhere.sum()))[before : before + len(which)]
        self.bar = self.bar.index_copy(0, which, bars)
        self.age = torch.where(who, 0, self.age)
        one, all_ = who[:, None], who[:, None, None]
        self.account = Account(
            cash=torch.where(who, self.capital, self.account.cash),
            positions=torch.where(one, 0.0, self.account.positions),
            footprint=torch.where(one, 0.0, self.account.footprint),
            pending=torch.where(all_, 0.0, self.account.pending),
        )
        return last.index_copy(0, which, self._features[bars - self.start])  # their weights there are 0

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint needs to go on exactly."""
        about = {"bar": self.bar, "age": self.age, "generator": self.generator.get_state()}
        return self.account._asdict() | about

    def load_state(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """Go on from ``state``; returns the observation there."""
        self.account = Account(*(state[name].to(self.device) for name in Account._fields))
        self.bar, self.age = state["bar"].to(self.device), state["age"].to(self.device)
        self.generator.set_state(state["generator"])
        return self._observe()


def _one_seed(seed: SupportsIndex) -> int:
    try:
        return operator.index(seed)
    except TypeError as error:
        raise TrainingError(
            f"{seed!r} is no seed: all accounts draw from one generator", remedy="give one whole number"
        ) from error


def _compiled(device: torch.device) -> Callable[..., Any]:
    """`step_accounts` as one kernel or a few; each call's results are its own to keep."""
    if device.type != "cuda":
        return torch.compile(step_accounts, fullgraph=True, dynamic=False)
    graph = torch.compile(step_accounts, fullgraph=True, dynamic=False, mode="reduce-overhead")

    def replay(*arguments: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return tree_map(torch.clone, graph(*arguments))  # the next replay overwrites the graph's own memory

    return replay
