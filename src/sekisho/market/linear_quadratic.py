"""A market with a known optimum: predictable returns, quadratic risk and quadratic trading costs.

Gârleanu and Pedersen (2013), *Dynamic Trading with Predictable Returns and Transaction Costs*. Signals
revert to zero, fₜ₊₁ = (1 − φ) fₜ + noise; an asset's expected return is the sum of its signals; a book x
earns x'r − γ/2 x'Σx − λ/2 Δ'ΣΔ where Δ is the trade. The best rule is linear and known in closed form: what
an agent learns here is measured against it, and an agent that fails here need not be tried on prices.

Both the paper's solution and a Riccati equation are solved, independently of one another. The paper discounts
returns and risk by one period more than costs: its λ is ours × discount.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from sekisho.errors import ParamsError, TrainingError

TYPICAL_RETURN = 5.0  # of an asset under a good agent: the discounted sum of its rewards, in reward units
REMAINDER = 1e-4  # an evaluation ends where the discount has fallen to this

Matrix = npt.NDArray[np.float64]
Actions = torch.Tensor | npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Problem:
    """The market in numbers. Every signal of an asset has the same part in a return of standard deviation 1.

    Raises:
        ParamsError: a number outside its range; names it.
    """

    assets: int
    decay: tuple[float, ...]  # φ of each signal, per period, in (0, 1]
    risk_aversion: float  # γ
    cost: float  # λ
    discount: float  # per period, in (0, 1)
    correlation: float  # of any two assets' returns; Σ has ones on its diagonal
    noise: float  # standard deviation of the unpredictable return, as multiple of the predictable one's
    signal: bool = True  # False: the features are as ever and foretell nothing

    def __post_init__(self) -> None:
        ranges = {
            "assets": self.assets >= 1,
            "decay": len(self.decay) > 0 and all(0 < phi <= 1 for phi in self.decay),
            "risk_aversion": self.risk_aversion > 0,
            "cost": self.cost >= 0,
            "discount": 0 < self.discount < 1,
            "correlation": -1 / max(self.assets - 1, 1) < self.correlation < 1,
            "noise": self.noise >= 0,
        }
        for name, right in ranges.items():
            if not right:
                raise ParamsError(
                    f"linear-quadratic market: {name} = {getattr(self, name)} is out of its range",
                    remedy="see the comments of sekisho.market.linear_quadratic.Problem",
                )

    @property
    def covariance(self) -> Matrix:
        """Σ ``(A, A)``."""
        return (1 - self.correlation) * np.eye(self.assets) + self.correlation

    @property
    def loadings(self) -> Matrix:
        """B ``(A, A·K)``: expected returns of signals in standard deviations, an asset's side by side."""
        weight = float(self.signal) / np.sqrt(len(self.decay))
        return np.kron(np.eye(self.assets), np.full((1, len(self.decay)), weight))

    @property
    def persistence(self) -> Matrix:
        """1 − φ of all signals ``(A·K,)``."""
        return 1 - np.tile(np.asarray(self.decay, dtype=float), self.assets)


@dataclass(frozen=True)
class LinearUnits:
    """Scales derived from the market's primitives: an agent meets numbers of order one in any problem.

    ``trade``: what one unit of action trades; ``position``: in which positions are observed; ``reward``.
    """

    trade: float
    position: float
    reward: float


def derive_units(problem: Problem) -> LinearUnits:
    """Units by dimensions alone: no solution of the problem enters.

    A signal of size f is worth f·h a unit held, with h = 1/(1 − discount (1 − φ)) its discounted life. The
    best *single* trade on it, held as long, is f·h/(γh + λ). Positions grow by such trades for a life at most
    and never beyond f/γ, where risk costs what is earned. A trade is one unit where it is as large as either
    limit allows: that single trade, or the position times the part of its signal that is replaced in a
    period; a good one is about half of it. An account earns half of what its position is expected to return,
    the other half pays risk and costs.
    """
    decay = np.asarray(problem.decay)
    life = 1 / (1 - problem.discount * (1 - decay))
    part = 1 / np.sqrt(len(problem.decay))  # of each signal in an expected return of standard deviation 1
    precision = np.linalg.inv(problem.covariance)
    spread = float(np.sqrt(np.square(precision).sum(axis=1).mean()))  # of Σ⁻¹μ for μ of standard deviation 1
    one = life / (problem.risk_aversion * life + problem.cost)
    grown = 1 / (1 / (one * life) + problem.risk_aversion)
    renewed = grown * np.sqrt(1 - (1 - decay) ** 2)
    trade = spread * part * float(np.sqrt(np.square(one * renewed / np.hypot(one, renewed)).sum()))
    position = spread * part * float(np.sqrt(np.square(grown).sum()))
    reward = 0.5 * position / (1 - problem.discount) / TYPICAL_RETURN
    return LinearUnits(trade, position, reward)


class LinearQuadratic(VectorEnv[torch.Tensor, torch.Tensor, torch.Tensor]):
    """``N`` accounts in markets of their own, with the interface of `TradingMarket`.

    Observation ``(N, A, K+1)`` float32: the asset's signals in standard deviations, its position in
    ``units.position``. Action ``(N, A)``: trades in ``units.trade``. Reward ``(N,)`` float32 in
    ``units.reward``. ``infos``: ``asset_reward`` ``(N, A)``, the account's reward less what it would be
    without the asset; ``turnover`` ``(N,)``, the sum of |trades| in ``units.trade``; ``final_obs``,
    ``_final_obs`` where an episode ended. A step is differentiable in the actions and positions before it.

    Args:
        episode_steps: an account is closed and opened anew after so many steps, a truncation; None: never.
        exploring: accounts open with random positions, normal in ``units.position``, instead of none
            (exploring starts, Sutton and Barto 2018, 5.3). An agent that hardly trades sees no other position
            than zero, and learns too late that its rule lets positions grow on themselves.
    """

    def __init__(
        self,
        problem: Problem,
        num_envs: int,
        *,
        episode_steps: int | None = None,
        exploring: bool = False,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.exploring = exploring
        self.problem, self.units = problem, derive_units(problem)
        self.num_envs, self.assets, self.signals = num_envs, problem.assets, len(problem.decay)
        self.episode_steps, self.device = episode_steps, torch.device(device)
        self.autoreset = AutoresetMode.SAME_STEP
        self.metadata = {"autoreset_mode": self.autoreset, "render_modes": []}
        shape = (self.assets, self.signals + 1)
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.single_action_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.assets,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        def tensor(values: object) -> torch.Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=self.device)

        self._persistence = tensor(1 - np.asarray(problem.decay))
        self._innovation = (1 - self._persistence.square()).sqrt()
        self._covariance = tensor(problem.covariance)
        self._noise = tensor(problem.noise * np.linalg.cholesky(problem.covariance).T)
        self._weight = float(problem.loadings[0, 0])
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._open_accounts()

    def _open_accounts(self) -> None:
        self.positions = self._first_positions()
        self.features = self._normal(self.assets, self.signals)
        self.age = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)

    def _first_positions(self) -> torch.Tensor:
        if self.exploring:
            return self._normal(self.assets) * self.units.position
        return torch.zeros(self.num_envs, self.assets, device=self.device)

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(self.num_envs, *shape, generator=self.generator, device=self.device)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Open every account, its signals where chance has them."""
        if seed is not None:
            self.generator.manual_seed(seed)
        self._open_accounts()
        if self.episode_steps is not None:  # spread the first ends over time
            self.age = torch.randint(
                0, self.episode_steps, (self.num_envs,), generator=self.generator, device=self.device
            )
        return self._observe(), {}

    def step(
        self, actions: Actions
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Trade, earn one period's return on the new positions, see the next signals.

        Raises:
            TrainingError: an action that is not finite.
        """
        action = torch.as_tensor(actions, dtype=torch.float32, device=self.device)
        if not bool(torch.isfinite(action).all()):
            raise TrainingError("an action is not finite", remedy="lower the learning rate")
        trade = action * self.units.trade
        held = self.positions + trade
        returns = self._weight * self.features.sum(dim=2)
        if self.problem.noise > 0:
            returns = returns + self._normal(self.assets) @ self._noise
        risk, cost = self.problem.risk_aversion, self.problem.cost
        load, effort = held @ self._covariance, trade @ self._covariance
        unit = self.units.reward
        part = held * (returns - risk * load) - cost * trade * effort  # twice the quadratic terms
        half = 0.5 * (risk * held * load + cost * trade * effort)
        own = 0.5 * (risk * held.square() + cost * trade.square())  # Σ has ones on its diagonal

        self.positions = held
        self.features = self._persistence * self.features + self._innovation * self._normal(
            self.assets, self.signals
        )
        self.age = self.age + 1
        infos: dict[str, Any] = {
            "asset_reward": (part + own) / unit,
            "turnover": action.detach().abs().sum(dim=1),
        }
        reward = (part + half).sum(dim=1) / unit
        terminated = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        truncated = terminated if self.episode_steps is None else self.age >= self.episode_steps
        observation = self._observe()
        if self.episode_steps is not None and bool(truncated.any()):
            infos["final_obs"], infos["_final_obs"] = observation, truncated
            self._restart(truncated)
            observation = self._observe()
        return observation, reward, terminated, truncated, infos

    def _observe(self) -> torch.Tensor:
        return torch.cat((self.features, self.positions[..., None] / self.units.position), dim=2)

    def _restart(self, who: torch.Tensor) -> None:
        """Open the accounts of ``who`` ``(N,)`` anew; draws for all, so that streams align."""
        fresh = self._normal(self.assets, self.signals)
        self.features = torch.where(who[:, None, None], fresh, self.features)
        self.positions = torch.where(who[:, None], self._first_positions(), self.positions)
        self.age = torch.where(who, 0, self.age)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint needs to go on exactly."""
        return {
            "positions": self.positions.detach(),
            "features": self.features,
            "age": self.age,
            "generator": self.generator.get_state(),
        }

    def load_state(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """Go on from ``state``; returns the observation there."""
        self.positions, self.features, self.age = state["positions"], state["features"], state["age"]
        self.generator.set_state(state["generator"])
        return self._observe()


@dataclass(frozen=True)
class Rule:
    """Linear trading: positions = ``keep`` ``(A, A)`` @ positions + ``follow`` ``(A, A·K)`` @ signals.

    Signals in standard deviations, an asset's own side by side: an observation's, flattened.
    """

    keep: Matrix
    follow: Matrix

    def decide(self, observation: torch.Tensor, units: LinearUnits) -> torch.Tensor:
        """The action ``(N, A)`` in units at an observation ``(N, A, K+1)``, as an agent would give it."""
        keep, follow = (torch.as_tensor(m, dtype=observation.dtype) for m in (self.keep, self.follow))
        position = observation[..., -1] * units.position
        target = position @ keep.T + observation[..., :-1].flatten(1) @ follow.T
        return (target - position) / units.trade


def closed_form(problem: Problem) -> Rule:
    """The optimum by the paper's formulas (proposition 2 for costs λΣ): trade partly towards an aim."""
    risk, cost, rate = problem.risk_aversion, problem.cost * problem.discount, 1 - problem.discount
    if cost == 0:
        return markowitz(problem)
    base = risk * (1 - rate) + cost * rate
    a = (-base + np.sqrt(base**2 + 4 * risk * cost * (1 - rate) ** 2)) / (2 * (1 - rate))
    weight = 1 / (1 + (1 - problem.persistence) * a / risk)  # of each signal: lasting ones count for more
    aim = np.linalg.solve(risk * problem.covariance, problem.loadings * weight)
    return Rule((1 - a / cost) * np.eye(problem.assets), a / cost * aim)


@dataclass(frozen=True)
class Optimum:
    """The solution of the Riccati equation: the rule, its value, and what a trade beside it loses.

    A trade Δ where the rule has Δ* loses (Δ − Δ*)' ``curvature`` (Δ − Δ*) against the optimum, in expectation
    and for ever after, whatever the state (all in the problem's own units, discounted to that step).
    """

    rule: Rule
    value: float  # expected discounted sum from an empty book and signals where chance has them
    curvature: Matrix  # (A, A)


def riccati(problem: Problem) -> Optimum:
    """The optimum by dynamic programming on the state (signals, positions), without the paper's formulas."""
    n, a = len(problem.persistence), problem.assets
    sigma, loadings, discount = problem.covariance, problem.loadings, problem.discount
    move = np.diag(np.r_[problem.persistence, np.ones(a)])
    push = np.vstack([np.zeros((n, a)), np.eye(a)])
    state = np.block([[np.zeros((n, n)), -loadings.T], [-loadings, problem.risk_aversion * sigma]]) / 2
    cross = np.vstack([-loadings.T, problem.risk_aversion * sigma]) / 2
    trade = (problem.risk_aversion + problem.cost) * sigma / 2
    root = np.sqrt(discount)
    p = scipy.linalg.solve_discrete_are(root * move, root * push, state, trade, s=cross)
    curvature = trade + discount * push.T @ p @ push
    gain = -np.linalg.solve(curvature, cross.T + discount * push.T @ p @ move)  # trade = gain @ state
    innovation = np.zeros_like(p)
    innovation[:n, :n] = np.diag(1 - problem.persistence**2)
    start = np.zeros_like(p)
    start[:n, :n] = np.eye(n)
    value = -float(np.trace(p @ start) + discount / (1 - discount) * np.trace(p @ innovation))
    return Optimum(Rule(gain[:, n:] + np.eye(a), gain[:, :n]), value, curvature)


def value_of(problem: Problem, rule: Rule) -> float:
    """Expected discounted sum under ``rule`` from an empty book, exactly, by a Lyapunov equation.

    -inf where the rule's book grows faster than the discount shrinks it.
    """
    n, a = len(problem.persistence), problem.assets
    move = np.block([[np.diag(problem.persistence), np.zeros((n, a))], [rule.follow, rule.keep]])
    root = np.sqrt(problem.discount)
    if np.abs(np.linalg.eigvals(root * move)).max() >= 1:
        return -np.inf
    held = np.hstack([rule.follow, rule.keep])
    trade = held - np.hstack([np.zeros((a, n)), np.eye(a)])
    earned = held.T @ problem.loadings @ np.eye(n, n + a)
    reward = (earned + earned.T) / 2 - problem.risk_aversion / 2 * held.T @ problem.covariance @ held
    reward -= problem.cost / 2 * trade.T @ problem.covariance @ trade
    p = scipy.linalg.solve_discrete_lyapunov(root * move.T, reward)
    innovation = np.diag(1 - problem.persistence**2)
    return float(
        np.trace(p[:n, :n]) + problem.discount / (1 - problem.discount) * np.trace(p[:n, :n] @ innovation)
    )


@dataclass(frozen=True)
class Judgement:
    """What a way of trading is worth."""

    value: float  # expected discounted sum
    turnover: float  # mean |trade| a period and asset, in ``units.trade``


@torch.no_grad()
def judge(
    problem: Problem, decide: Callable[[torch.Tensor], torch.Tensor], accounts: int, seed: int
) -> Judgement:
    """What ``decide``, from observations ``(N, A, K+1)`` to actions ``(N, A)``, is worth on fresh signals.

    The value is the optimum's, exactly, less what each decision loses against it, summed over the states that
    ``decide`` itself leads to (Kakade and Langford 2002, lemma 6.1): returns and their noise are integrated
    out, only the states are drawn, so that a thousand accounts suffice. The same seed draws the same signals.
    """
    best = riccati(problem)
    curvature = torch.as_tensor(best.curvature, dtype=torch.float32)
    market = LinearQuadratic(dataclasses.replace(problem, noise=0.0), accounts, seed=seed)
    observation, _ = market.reset()
    lost = turnover = 0.0
    steps = math.ceil(math.log(REMAINDER) / math.log(problem.discount))
    for step in range(steps):
        action = decide(observation)
        beside = (action - best.rule.decide(observation, market.units)) * market.units.trade
        lost += problem.discount**step * ((beside @ curvature) * beside).sum(dim=1).mean().item()
        turnover += action.abs().mean().item() / steps
        observation, *_ = market.step(action)
    return Judgement(best.value - lost, turnover)


def markowitz(problem: Problem) -> Rule:
    """The best book of a market without costs, taken up at once."""
    follow = np.linalg.inv(problem.risk_aversion * problem.covariance) @ problem.loadings
    return Rule(np.zeros((problem.assets, problem.assets)), follow)


def best_static(problem: Problem) -> Rule:
    """Markowitz's book scaled by the one factor in [0, 1] that is best under the costs."""
    full = markowitz(problem)

    def loss(factor: float) -> float:
        return -value_of(problem, Rule(full.keep, factor * full.follow))

    found = scipy.optimize.minimize_scalar(loss, bounds=(0.0, 1.0), options={"xatol": 1e-9})
    return Rule(full.keep, float(found.x) * full.follow)


def myopic(problem: Problem) -> Rule:
    """The trade that is best for the next period alone, its cost counted in full."""
    share = problem.risk_aversion / (problem.risk_aversion + problem.cost)
    return Rule((1 - share) * np.eye(problem.assets), share * markowitz(problem).follow)
