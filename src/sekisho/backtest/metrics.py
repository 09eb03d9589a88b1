"""Statistics of a strategy's returns: pure functions of arrays, each with its source.

Returns are simple net returns per session, ``(T,)``. A figure that the data cannot carry is None, never
infinite: too few sessions, or no variance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri  # scipy.stats takes longer to import than the trials to count

from sekisho.errors import BacktestError

Float = npt.NDArray[np.float64]
EULER = 0.5772156649015329  # Euler–Mascheroni constant
NO_VARIANCE = 1e-12  # a standard deviation below this is rounding, not risk
FEWEST_BLOCKS = 5  # resamples of fewer blocks are rotations of the same series: the interval is too narrow
CHUNK = 1 << 22  # bootstrap indices held in memory at once


def sharpe(returns: Float, periods: float) -> float | None:
    """Sharpe ratio over cash at no interest, annualised by √``periods`` a year (Sharpe 1994).

    0 for a strategy that neither gained nor lost; None for fewer than two sessions and for a gain without
    variance, where the ratio is undefined.
    """
    if len(returns) < 2:
        return None
    deviation = float(returns.std(ddof=1))
    if deviation < NO_VARIANCE:
        return 0.0 if abs(float(returns.mean())) < NO_VARIANCE else None
    return float(returns.mean()) / deviation * math.sqrt(periods)


def annual_return(returns: Float, periods: float) -> float | None:
    """Compound growth rate a year; −1 once everything is lost."""
    if not len(returns):
        return None
    growth = float(np.prod(np.maximum(1.0 + returns, 0.0)))
    return math.pow(growth, periods / len(returns)) - 1.0


def annual_volatility(returns: Float, periods: float) -> float | None:
    """Standard deviation of session returns × √periods."""
    return float(returns.std(ddof=1)) * math.sqrt(periods) if len(returns) > 1 else None


def drawdowns(returns: Float) -> Float:
    """Loss from the highest equity so far, ``(T,)`` in [0, 1]; the starting capital counts as a high."""
    equity = np.concatenate([[1.0], np.cumprod(np.maximum(1.0 + returns, 0.0))])
    return np.asarray(1.0 - equity / np.maximum.accumulate(equity), dtype=np.float64)[1:]


def max_drawdown(returns: Float) -> float:
    """Largest loss from a high, a fraction of equity in [0, 1]."""
    return float(drawdowns(returns).max(initial=0.0))


def stationary_bootstrap(
    length: int, samples: int, block: float, seed: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Resampled row numbers in chunks ``(n, length)``, ``samples`` rows in all.

    Blocks start anywhere, have geometric lengths of mean ``block`` and wrap round the end (Politis & Romano
    1994), which keeps the autocorrelation that single draws would destroy.
    """
    rng = np.random.default_rng(seed)
    place = np.arange(length)
    step = max(1, CHUNK // length)
    for first in range(0, samples, step):
        shape = (min(step, samples - first), length)
        restart = rng.random(shape) < 1.0 / block
        restart[:, 0] = True
        last = np.maximum.accumulate(np.where(restart, place, 0), axis=1)
        start = np.take_along_axis(rng.integers(length, size=shape), last, axis=1)
        yield (start + place - last) % length


def sharpe_interval(
    returns: Float, periods: float, *, samples: int, block: float, confidence: float, seed: int
) -> tuple[float, float] | tuple[None, None]:
    """Percentile interval of the annualised Sharpe ratio by the stationary block bootstrap.

    A resample without variance counts as 0. ``(None, None)`` where ``sharpe`` is None, or where the returns
    are shorter than `FEWEST_BLOCKS` blocks.
    """
    if sharpe(returns, periods) is None or len(returns) < FEWEST_BLOCKS * block:
        return None, None
    drawn = [_ratios(returns[rows]) for rows in stationary_bootstrap(len(returns), samples, block, seed)]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.concatenate(drawn) * math.sqrt(periods), [tail, 1.0 - tail])
    return float(low), float(high)


def sharpe_difference(
    one: Float, other: Float, periods: float, *, samples: int, block: float, confidence: float, seed: int
) -> tuple[float, float, float] | None:
    """Annualised Sharpe ratio of ``one`` less that of ``other``, and its percentile interval.

    Both are resampled by the same blocks of sessions, so that what moves both cancels out (Ledoit & Wolf
    2008, *Robust performance hypothesis testing with the Sharpe ratio*). None where either ratio is, or where
    the returns are shorter than `FEWEST_BLOCKS` blocks.
    """
    ratios = sharpe(one, periods), sharpe(other, periods)
    if ratios[0] is None or ratios[1] is None or len(one) < FEWEST_BLOCKS * block:
        return None
    drawn = [
        _ratios(one[rows]) - _ratios(other[rows])
        for rows in stationary_bootstrap(len(one), samples, block, seed)
    ]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.concatenate(drawn) * math.sqrt(periods), [tail, 1.0 - tail])
    return ratios[0] - ratios[1], float(low), float(high)


def _ratios(resampled: Float) -> Float:
    """Sharpe ratio per period of each row ``(n, T)``; 0 without variance."""
    deviation = resampled.std(axis=1, ddof=1)
    mean = resampled.mean(axis=1)
    return np.asarray(mean / np.where(deviation < NO_VARIANCE, np.inf, deviation), dtype=np.float64)


def equity_band(
    returns: Float, *, samples: int, block: float, confidence: float, seed: int
) -> tuple[Float, Float]:
    """Pointwise quantiles ``(T,)`` of resampled equity (start 1): how else the same returns may fall."""
    paths = [
        np.cumprod(1.0 + returns[rows], axis=1).astype(np.float32)
        for rows in stationary_bootstrap(len(returns), samples, block, seed)
    ]
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.concatenate(paths), [tail, 1.0 - tail], axis=0)
    return low.astype(np.float64), high.astype(np.float64)


def shape(returns: Float) -> tuple[float, float]:
    """Skewness and kurtosis (3 for a normal) of the returns."""
    moved = returns - returns.mean()
    variance = (moved**2).mean()
    return float((moved**3).mean() / variance**1.5), float((moved**4).mean() / variance**2)


def sharpe_probability(
    ratio: float, benchmark: float, observations: float, skew: float, kurtosis: float
) -> float:
    """Probabilistic Sharpe ratio: the chance that the true ratio exceeds ``benchmark`` (both per period).

    ``kurtosis`` is 3 for a normal. Bailey & López de Prado (2012), *The Sharpe Ratio Efficient Frontier*.
    """
    spread = math.sqrt(max(1.0 - skew * ratio + (kurtosis - 1.0) / 4.0 * ratio**2, NO_VARIANCE))
    return float(ndtr((ratio - benchmark) * math.sqrt(observations - 1.0) / spread))


def expected_max_sharpe(trials: int, variance: float) -> float:
    """Sharpe ratio that the best of ``trials`` without any skill is expected to show; 0 for one trial.

    ``variance`` of the ratios across trials, per period. Bailey & López de Prado (2014), *The Deflated Sharpe
    Ratio*, with a mean of zero.
    """
    if trials < 2:
        return 0.0
    first, second = ndtri([1.0 - 1.0 / trials, 1.0 - 1.0 / (trials * math.e)])
    return math.sqrt(variance) * float((1.0 - EULER) * first + EULER * second)


def deflated_sharpe(returns: Float, trials: int, variance: float) -> float | None:
    """Chance that the true Sharpe ratio is above zero, given that the best of ``trials`` was picked.

    ``variance`` of per-session ratios across trials. None: no ratio; 0: nothing was traded.
    Bailey & López de Prado (2014), *The Deflated Sharpe Ratio*.
    """
    ratio = sharpe(returns, 1.0)
    if ratio is None:
        return None
    if float(returns.std()) < NO_VARIANCE:
        return 0.0
    benchmark = expected_max_sharpe(trials, variance)
    return sharpe_probability(ratio, benchmark, len(returns), *shape(returns))


def min_track_record(
    ratio: float, benchmark: float, skew: float, kurtosis: float, confidence: float
) -> float | None:
    """Periods needed until ``ratio`` (per period) is above ``benchmark`` with this confidence; None: never.

    Bailey & López de Prado (2012), *The Sharpe Ratio Efficient Frontier*.
    """
    if ratio <= benchmark:
        return None
    spread = 1.0 - skew * ratio + (kurtosis - 1.0) / 4.0 * ratio**2
    return float(1.0 + spread * (ndtri(confidence) / (ratio - benchmark)) ** 2)


def overfitting_probability(returns: Float, blocks: int) -> float | None:
    """Probability of backtest overfitting by combinatorially symmetric cross-validation; returns ``(T, N)``.

    How often the trial that is best in one half of the blocks ranks in the lower half of all trials in the
    other half, over all halvings. None for fewer than two trials or two sessions a block. Ties share ranks:
    identical trials give 1. Bailey, Borwein, López de Prado & Zhu (2017), *The Probability of Backtest
    Overfitting*.

    Raises:
        BacktestError: a return or its square is not finite; ranks of NaN would give 0.
    """
    _require_finite(returns)
    sessions, trials = returns.shape
    if trials < 2 or sessions < 2 * blocks:
        return None
    parts = np.array_split(returns, blocks)  # nearly equal: no session is dropped
    count = np.array([len(p) for p in parts], dtype=np.float64)[:, None]
    with np.errstate(over="ignore"):  # refused below
        total = np.array([p.sum(axis=0) for p in parts])
        square = np.array([(p**2).sum(axis=0) for p in parts])
    _require_finite(total, square)
    halves = np.zeros((math.comb(blocks, blocks // 2), blocks))
    for row, chosen in enumerate(combinations(range(blocks), blocks // 2)):
        halves[row, list(chosen)] = 1.0

    def ratios(choice: Float) -> Float:
        n, mean = choice @ count, choice @ total / (choice @ count)
        deviation = np.sqrt(np.maximum(choice @ square / n - mean**2, 0.0))
        return np.asarray(mean / np.where(deviation < NO_VARIANCE, np.inf, deviation), dtype=np.float64)

    best = ratios(halves).argmax(axis=1)
    found = ratios(1.0 - halves)
    mine = np.take_along_axis(found, best[:, None], axis=1)
    rank = (found < mine).sum(axis=1) + ((found == mine).sum(axis=1) + 1.0) / 2.0
    return float(np.mean(rank / (trials + 1.0) <= 0.5))


def superior_ability(models: Float, benchmark: Float, *, samples: int, block: int, seed: int) -> float | None:
    """p-value of: none of ``models`` ``(T, N)`` is better than ``benchmark`` ``(T,)``.

    Hansen (2005), *A Test for Superior Predictive Ability*, his consistent p-value, by `arch`. Returns are
    first divided by their own standard deviation, so that Sharpe ratios are compared and not leverage. None
    where no model differs from the benchmark.

    Raises:
        BacktestError: a return or its square is not finite.
    """
    _require_finite(models, benchmark)
    from arch.bootstrap import SPA  # takes seconds to import

    scaled, reference = _unit_risk(models), _unit_risk(benchmark[:, None])
    differing = (scaled - reference).std(axis=0) > NO_VARIANCE
    if not differing.any():
        return None
    test = SPA(-reference[:, 0], -scaled[:, differing], block_size=block, reps=samples, seed=seed)
    test.compute()
    return float(test.pvalues["consistent"])


def _require_finite(*returns: Float) -> None:
    if not all(np.isfinite(part).all() for part in returns):
        raise BacktestError(
            "a trial's session returns, or their squares, are not finite",
            remedy="run `dvc repro backtest` where it was made",
        )


def _unit_risk(returns: Float) -> Float:
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        deviation = returns.std(axis=0, ddof=1)
    _require_finite(deviation)
    return np.asarray(returns / np.where(deviation < NO_VARIANCE, 1.0, deviation), dtype=np.float64)


def capacity(ratios: dict[float, float | None], share: float) -> tuple[float, bool]:
    """Capital multiple at which the Sharpe ratio falls under ``share`` of its own at 1, and whether it did.

    ``ratios`` by ascending capital multiple, from 1; between two of them the ratio is taken as linear in the
    logarithm of capital. Where it never falls so far: the largest multiple and False. 0 where there is no
    profit at 1 to begin with.
    """
    multiples = list(ratios)
    first = ratios[multiples[0]]
    if first is None or first <= 0.0:
        return 0.0, True
    floor = share * first
    before, height = multiples[0], first
    for multiple in multiples[1:]:
        ratio = ratios[multiple]
        if ratio is None or ratio < floor:
            low = -math.inf if ratio is None else ratio
            way = (height - floor) / (height - low)
            return before * (multiple / before) ** way, True
        before, height = multiple, ratio
    return before, False
