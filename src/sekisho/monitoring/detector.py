"""Drift detectors on session statistics: prewhitening, then a Shiryaev-Roberts e-detector and a CUSUM.

Session statistics of market features are autocorrelated, so tests that assume independence alarm without any
change. Here each series is an AR(1) state seen through sampling noise, fitted on the reference; its one-step
forecast errors feed e-values, bets that gain nothing on average while nothing changes. Averaged over series,
strengths and signs the statistic stays an e-detector: stopping at level ``c`` means on average at least ``c``
sessions between false alarms, whatever the dependence between the series (Shin, Ramdas and Rinaldo,
"E-detectors", arXiv 2203.03532), as far as the forecast errors behave as on the reference. The CUSUM beside
it has no such guarantee; its limit comes from the reference itself (``calibration``).

Shapes: ``S`` sessions × the session's statistics ``(3, A, F)``, see ``profile.Profile.statistics``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sekisho.params import MonitoringParams

Array = npt.NDArray[np.float64]
Gaps = npt.NDArray[np.int64]
LAGS = 10  # autocorrelations that the AR(1)-in-noise is fitted to
PHI_STEP = 0.02
LARGEST_BIAS = 0.3  # share of the variance that the estimated mean may be thought to have absorbed
LARGEST_LOG = 600.0  # exp of more would overflow


@dataclass(frozen=True)
class Baseline:
    """What is normal: for each series ``mean``, AR(1) ``phi`` of the state, ``state`` and ``noise``
    variance, all
    ``(3, A, F)``; scaled so that forecast errors have unit variance on the reference.

    ``cost`` ``(3, A, F, strengths, 2)``: price per session of each bet, the logarithm of its mean gain on
    the reference and never less than the Gaussian ``strength² / 2``. ``watched`` ``(3, A, F)``: False where
    a series does not vary.
    """

    mean: Array
    phi: Array
    state: Array
    noise: Array
    cost: Array
    watched: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Detection:
    """After each session: ``level`` ``(S,)``, the e-detector averaged over the series, and ``evidence``
    ``(S, 3, A, F)``, each series' own; ``cusum`` ``(S,)``, the largest CUSUM, and ``sums`` ``(S, 3, A, F)``,
    each series' own.
    """

    level: Array
    evidence: Array
    cusum: Array
    sums: Array


def fit_baseline(statistics: Array, gaps: Gaps, params: MonitoringParams) -> Baseline:
    """Fit every series on the reference; assets share the autocorrelation of one feature's statistic.

    Args:
        statistics: ``(S, 3, A, F)``.
        gaps: ``(S,)`` sessions since the one before (1 where none is missing).
        params: strengths, inflation, clip, max_autocorrelation.
    """
    finite = np.isfinite(statistics).all(axis=0)
    known = np.where(finite, statistics, 0.0)
    mean, variance = known.mean(axis=0), known.var(axis=0)
    watched = finite & (np.sqrt(variance) > 1e-6 * (1 + np.abs(mean)))
    variance = np.where(watched, variance, 1.0)
    phi, share = _fit_autocorrelation(known - mean, variance, params.max_autocorrelation)
    phi, share = np.broadcast_to(phi, mean.shape), np.broadcast_to(share, mean.shape)
    draft = Baseline(mean, phi, share * variance, (1 - share) * variance, np.empty(0), watched)
    size = np.mean(forecast_errors(known, gaps, draft) ** 2, axis=0)
    size = np.where(watched, size, 1.0)
    state, noise = draft.state * size, draft.noise * size
    draft = Baseline(mean, phi, state, noise, np.empty(0), watched)
    scores = scores_of(forecast_errors(known, gaps, draft), draft, params)
    return Baseline(mean, phi, state, noise, cost_of_bets(scores, params), watched)


def _fit_autocorrelation(centred: Array, variance: Array, largest: float) -> tuple[Array, Array]:
    """φ and the state's share of the variance, ``(3, 1, F)``, by least squares of ρ(k) = share · φ^k over
    ``LAGS``.

    Centring on the estimated mean takes (long-run variance / n) off every autocovariance; it is put back,
    twice, with the fit so far (cf. Kendall 1954).
    """
    count = len(centred)
    lags = np.arange(1, min(LAGS, count // 4) + 1)
    sample = np.stack([(centred[k:] * centred[:-k]).sum(axis=0) / count / variance for k in lags])
    sample = sample.mean(axis=2, keepdims=True)  # (lags, 3, 1, F)
    grid = np.arange(0.0, largest + PHI_STEP / 2, PHI_STEP)
    powers = (grid[:, None] ** lags)[:, :, None, None, None]  # (grid, lags, 1, 1, 1)
    bias = np.zeros(sample.shape[1:])
    for _ in range(3):
        rho = sample + (1 - sample) * bias
        shares = np.clip((powers * rho).sum(axis=1) / np.maximum((powers**2).sum(axis=1), 1e-12), 0.0, 1.0)
        errors = ((rho - shares[:, None] * powers) ** 2).sum(axis=1)
        best = errors.argmin(axis=0)
        phi, share = grid[best], np.take_along_axis(shares, best[None], axis=0)[0]
        bias = np.minimum((share * (1 + phi) / (1 - phi) + 1 - share) / count, LARGEST_BIAS)
    return phi, share


def forecast_errors(statistics: Array, gaps: Gaps, baseline: Baseline) -> Array:
    """Standardised one-step forecast errors ``(S, 3, A, F)`` of the Kalman filter for an AR(1) state in
    noise.

    Before the first session the state is stationary; over ``g`` sessions it decays as φ^g.
    """
    estimate, variance = np.zeros_like(baseline.mean), baseline.state
    errors = np.empty_like(statistics)
    for t, observed in enumerate(statistics - baseline.mean):
        decay = baseline.phi ** float(gaps[t]) if t else np.zeros_like(baseline.phi)
        estimate = decay * estimate
        variance = decay**2 * variance + (1 - decay**2) * baseline.state
        total = variance + baseline.noise
        errors[t] = (observed - estimate) / np.sqrt(total)
        gain = variance / total
        estimate = estimate + gain * (observed - estimate)
        variance = variance * (1 - gain)
    return errors


def scores_of(errors: Array, baseline: Baseline, params: MonitoringParams) -> Array:
    """Scores ``(S, 3, A, F)``: forecast errors divided by ``inflation`` and clipped to ± ``clip``; 0 where
    unwatched.
    """
    return np.where(baseline.watched, np.clip(errors / params.inflation, -params.clip, params.clip), 0.0)


def bets(scores: Array, strengths: Array) -> Array:
    """``strength × score`` for every strength and both signs: two more axes, (strengths, 2)."""
    found: Array = scores[..., None, None] * strengths[:, None] * np.array([1.0, -1.0])
    return found


def cost_of_bets(scores: Array, params: MonitoringParams) -> Array:
    """Heavy-tailed or skewed scores make a bet dearer than a Gaussian would: log of its mean gain over the
    reference's ``(S, …)`` scores.
    """
    strengths = np.asarray(params.strengths)
    gains = np.exp(bets(scores, strengths)).mean(axis=0)
    cost: Array = np.maximum(np.log(gains), strengths[:, None] ** 2 / 2)
    return cost


def detect(errors: Array, baseline: Baseline, params: MonitoringParams) -> Detection:
    """Run both detectors over ``(S, 3, A, F)`` forecast errors; unwatched series take no part.

    E-detector: each series, strength λ and sign hold ``R ← (R + 1) exp(±λ score - cost)`` (kept as a
    logarithm, so that it cannot overflow); a series' evidence is the mean over its strengths and signs, the
    level the mean over all series. CUSUM: ``C ← max(0, C ± error - slack)`` with errors clipped; the largest
    of all series and signs counts (Page 1954).
    """
    strengths, watched = np.asarray(params.strengths), baseline.watched
    scores, clipped = scores_of(errors, baseline, params), np.clip(errors, -params.clip, params.clip)
    cost = baseline.cost[watched]
    log_r = np.full(cost.shape, -np.inf)
    evidence, sums = np.zeros_like(scores), np.zeros_like(scores)
    up, down = np.zeros(len(cost)), np.zeros(len(cost))
    for t in range(len(scores)):
        log_r = np.logaddexp(log_r, 0.0) + bets(scores[t][watched], strengths) - cost
        evidence[t, watched] = np.exp(np.minimum(log_r, LARGEST_LOG)).mean(axis=(1, 2))
        move = clipped[t][watched]
        up = np.maximum(0.0, up + move - params.cusum_slack)
        down = np.maximum(0.0, down - move - params.cusum_slack)
        sums[t, watched] = np.maximum(up, down)
    flat = (len(scores), -1)
    return Detection(
        level=evidence.reshape(flat).sum(axis=1) / max(len(cost), 1),
        evidence=evidence,
        cusum=sums.reshape(flat).max(axis=1, initial=0.0),
        sums=sums,
    )
