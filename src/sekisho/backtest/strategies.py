"""What trades in a backtest: the agent as it would be served, and the baselines that it has to beat.

A strategy maps one observation ``(A, F+1)`` and its context to target weights ``(A,)``. It may read the
bars up to ``context.bar`` and no later one. The same object serves every account: what it remembers, it keeps
by ``context.account`` and forgets at ``context.start``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from sekisho.data.panel import Panel
from sekisho.errors import BacktestError
from sekisho.params import BacktestParams, MarketParams

Float = npt.NDArray[np.float64]
Observation = npt.NDArray[np.float32]


@dataclass(frozen=True)
class History:
    """All bars, and where their sessions end."""

    panel: Panel

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """Row of the last bar of each session, ``(S,)``."""
        return np.flatnonzero(np.append(self.panel.session[1:] != self.panel.session[:-1], True))


@dataclass(frozen=True)
class Context:
    """The moment of a decision: the close of row ``bar``; the test window's first decision was at
    ``start``. ``account`` is the account's number in this window."""

    history: History
    bar: int
    start: int
    account: int = 0

    def finished_sessions(self) -> int:
        """Sessions whose last bar has closed."""
        return int(np.searchsorted(self.history.ends, self.bar, side="right"))

    def session_closes(self, count: int) -> Float:
        """Closes ``(count, A)`` of the latest finished sessions.

        Raises:
            BacktestError: the data begin later.
        """
        rows = self.history.ends[: self.finished_sessions()]
        if len(rows) < count:
            raise BacktestError(
                f"baseline: {len(rows)} sessions before the test window, {count} are needed",
                remedy="bring a longer history, or lower backtest.momentum_sessions and covariance_sessions",
            )
        return self.history.panel.close[rows[-count:]]

    def bar_closes(self, sessions: int) -> Float:
        """Closes of every bar in the latest ``sessions`` finished sessions, after the close before them."""
        self.session_closes(sessions + 1)
        last = self.finished_sessions()
        ends = self.history.ends
        return self.history.panel.close[ends[last - sessions - 1] : ends[last - 1] + 1]


Strategy = Callable[[Observation, Context], Float]


INTERFACES = (  # of a model: names of its inputs and outputs, without and with a recurrent state
    (["observation"], ["target_weights"]),
    (["observation", "state"], ["target_weights", "next_state"]),
)


class Agent:
    """A model file run by ONNX Runtime on one thread: the very artefact that would be served.

    A recurrent model's state is carried for each account on its own, from zero at ``context.start``.
    """

    def __init__(self, model: Path) -> None:
        """Raises:
        BacktestError: the file is missing, truncated, or not a model of the contract; names it.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what it would print is in the exception
        try:
            content = model.read_bytes()
            self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except OSError as error:
            raise BacktestError(f"{model}: no such model", remedy="run `dvc repro train`") from error
        except Exception as error:  # ONNX Runtime's own classes derive from Exception only
            raise BacktestError(
                f"{model}: not a readable ONNX model: {error}", remedy="run `dvc repro train` again"
            ) from error
        names = ([i.name for i in self.session.get_inputs()], [o.name for o in self.session.get_outputs()])
        if names not in INTERFACES:
            raise BacktestError(
                f"{model}: has inputs {names[0]} and outputs {names[1]}, not observation and target_weights",
                remedy="export the agent by the trainer of this commit",
            )
        self.model = model
        self.empty = None  # the state at an episode's beginning, (1, A, recurrent)
        if names == INTERFACES[1]:
            self.empty = np.zeros((1, *self.session.get_inputs()[1].shape[1:]), np.float32)
        self.states: dict[int, Observation] = {}  # by account

    def __call__(self, observation: Observation, context: Context) -> Float:
        feed = {"observation": observation[None]}
        if self.empty is not None:
            fresh = context.bar == context.start
            feed["state"] = self.empty if fresh else self.states.get(context.account, self.empty)
        try:
            answers = self.session.run(None, feed)
        except Exception as error:
            raise BacktestError(
                f"{self.model}: cannot take an observation of shape {observation.shape}: {error}",
                remedy="the model belongs to other features or symbols: run `dvc repro train`",
            ) from error
        answer = answers[0][0]
        if self.empty is not None:
            self.states[context.account] = answers[1]
        if not np.isfinite(answer).all():
            raise BacktestError(
                f"{self.model}: weights are not finite at {context.history.panel.ts_close[context.bar]}",
                remedy="look for missing values in build/features at that time",
            )
        return np.asarray(answer, dtype=np.float64)


def cash(observation: Observation, context: Context) -> Float:
    """Holds nothing."""
    return np.zeros(len(observation))


class Rebalanced:
    """Moves to new targets after every so many sessions, then leaves the weights to drift.

    The turnover limit may stretch the move over several bars, so the target stands for as many as it needs.
    """

    def __init__(
        self, target: Callable[[Context], Float], limits: MarketParams, sessions: int | None
    ) -> None:
        self.target, self.sessions = target, sessions
        self.settle = int(
            np.ceil(2.0 * limits.max_gross / limits.max_turnover)
        )  # bars, from −gross to +gross
        self.cache: dict[int, Float] = {}

    def __call__(self, observation: Observation, context: Context) -> Float:
        bar = context.start
        if self.sessions:
            first = Context(context.history, context.start, context.start).finished_sessions()
            passed = (context.finished_sessions() - first) // self.sessions * self.sessions
            bar = int(context.history.ends[first + passed - 1]) if passed else context.start
        if context.bar - bar >= self.settle:
            return observation[:, -1].astype(np.float64)  # hold
        if bar not in self.cache:
            self.cache[bar] = self.target(Context(context.history, bar, context.start))
        return self.cache[bar]


def baselines(limits: MarketParams, params: BacktestParams) -> dict[str, Strategy]:
    """The baselines of every table, by name; all trade in the same market under the same limits."""
    every = params.rebalance_sessions
    return {
        "cash": cash,
        "buy-and-hold": Rebalanced(lambda c: equal_weights(c, limits), limits, None),
        "momentum": Rebalanced(
            lambda c: momentum_weights(c, limits, params.momentum_sessions), limits, every
        ),
        "minimum-variance": Rebalanced(
            lambda c: least_variance(c, limits, params.covariance_sessions), limits, every
        ),
    }


def equal_weights(context: Context, limits: MarketParams) -> Float:
    """The same share of capital in every symbol that can be traded now, as much as the limits allow."""
    tradable = context.history.panel.tradable[context.bar]
    share = min(limits.max_gross, limits.max_net) / max(int(tradable.sum()), 1)
    return np.where(tradable, min(share, limits.max_asset), 0.0)


def momentum_weights(context: Context, limits: MarketParams, sessions: int) -> Float:
    """Sign of the trailing return over its volatility, filled up to the gross limit.

    Time-series momentum: Moskowitz, Ooi & Pedersen (2012). A symbol that did not move gets nothing.
    """
    closes = context.session_closes(sessions + 1)
    volatility = _returns(closes).std(axis=0)
    signal = np.sign(closes[-1] - closes[0]) / np.where(volatility > 0, volatility, np.inf)
    gross = float(np.abs(signal).sum())
    weights = signal * (limits.max_gross / gross) if gross > 0 else signal
    return np.asarray(np.clip(weights, -limits.max_asset, limits.max_asset), dtype=np.float64)


def least_variance(context: Context, limits: MarketParams, sessions: int) -> Float:
    """`min_variance_weights` of the symbols that can be traded now: a halted one would only seem calm."""
    tradable = context.history.panel.tradable[context.bar]
    weights = np.zeros(len(tradable))
    if tradable.any():
        returns = _returns(context.bar_closes(sessions)[:, tradable])
        weights[tradable] = min_variance_weights(shrunk_covariance(returns), limits)
    return weights


def shrunk_covariance(returns: Float) -> Float:
    """Covariance ``(A, A)`` of ``(T, A)`` returns, shrunk towards a multiple of the identity.

    The intensity is the one that minimises the expected squared error: Ledoit & Wolf (2004), *A
    well-conditioned estimator for large-dimensional covariance matrices*.
    """
    rows, assets = returns.shape
    centred = returns - returns.mean(axis=0)
    sample = centred.T @ centred / rows
    scale = float(np.trace(sample)) / assets
    target = scale * np.eye(assets)
    distance = float(((sample - target) ** 2).sum())
    squared = centred**2
    noise = float((squared.T @ squared / rows - sample**2).sum()) / rows
    intensity = min(noise / distance, 1.0) if distance > 0 else 1.0
    return np.asarray(intensity * target + (1.0 - intensity) * sample, dtype=np.float64)


def min_variance_weights(covariance: Float, limits: MarketParams) -> Float:
    """Long-only weights of least variance that fill the limits (Markowitz 1952).

    Raises:
        BacktestError: the covariance is degenerate: not finite, no variance, or not positive definite.
    """
    variance = np.diag(covariance)
    scale = float(variance.mean())
    if not np.isfinite(covariance).all() or scale <= 0:
        raise BacktestError(
            "minimum variance: the trailing covariance is not finite or has no variance",
            remedy="look for constant or missing prices in build/bars",
        )
    if float(np.linalg.eigvalsh(covariance)[0]) < 1e-10 * scale:
        raise BacktestError(
            "minimum variance: the trailing covariance is degenerate (some portfolio has no variance at all)",
            remedy="look for duplicate or constant symbols, or raise backtest.covariance_sessions",
        )
    assets = len(covariance)
    total = min(limits.max_gross, limits.max_net, limits.max_asset * assets)
    scaled = covariance / scale
    found = minimize(
        lambda w: 0.5 * w @ scaled @ w,
        np.full(assets, total / assets),
        jac=lambda w: scaled @ w,
        bounds=[(0.0, limits.max_asset)] * assets,
        constraints={"type": "eq", "fun": lambda w: w.sum() - total, "jac": lambda w: np.ones(assets)},
        method="SLSQP",
        options={"ftol": 1e-10, "maxiter": 500},
    )
    if not found.success:
        raise BacktestError(
            f"minimum variance: no solution: {found.message}", remedy="look at market.max_asset and max_gross"
        )
    return np.asarray(found.x, dtype=np.float64)


def _returns(closes: Float) -> Float:
    return np.asarray(closes[1:] / closes[:-1] - 1.0, dtype=np.float64)
