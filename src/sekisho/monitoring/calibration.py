"""Alarm limits from the reference itself, by a double block bootstrap, and the false alarms they realise.

Resampling blocks of whole sessions keeps what series have in common and what prewhitening left over. Drawing
once would take the reference's mean and variance for the true ones; so each draw first resamples a reference,
estimates both anew, and judges a second resample by them: the error of estimation counts as in live use
(on market-like data a CUSUM calibrated by a single bootstrap alarms two to three times as often as stated).

A detector's limit is the quantile that its statistic stays under for its level of sessions (``alarm_level``,
``cusum_level``) with a probability of 1/e: what that many between false alarms come to without memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv

from sekisho.monitoring.detector import cost_of_bets
from sekisho.params import MonitoringParams

Array = npt.NDArray[np.float64]
MONTH = 21  # sessions
CHUNK = 1 << 22  # bets held in memory at once
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Calibration:
    """``level``: of the e-detector, never under ``alarm_level``; ``cusum``: limit of the CUSUM; ``rate``:
    false alarms a month of both together over all series, with its 95 % interval ``low`` to ``high``.
    """

    level: float
    cusum: float
    rate: float
    low: float
    high: float


def calibrate(errors: Array, watched: npt.NDArray[np.bool_], params: MonitoringParams) -> Calibration:
    """Limits for the reference's forecast errors, and the rate that fresh draws realise under them.

    Args:
        errors: ``(S, 3, A, F)`` with unit variance, in time order.
        watched: ``(3, A, F)``.
        params: monitoring.
    """
    series = errors[:, watched]
    rng = np.random.default_rng(params.calibration_seed)
    levels = (params.alarm_level, params.cusum_level)
    horizon = math.ceil(max(levels))
    highest = np.concatenate(list(_paths(series, horizon, rng, params)), axis=1)
    limits = [
        float(np.quantile(highest[math.ceil(length) - 1, :, n], math.exp(-1.0)))
        for n, length in enumerate(levels)
    ]
    level, cusum = max(params.alarm_level, limits[0]), limits[1]
    again = np.concatenate(list(_paths(series, horizon, rng, params)), axis=1)
    over = (again[..., 0] >= level) | (again[..., 1] >= cusum)
    alarmed = over[-1]
    exposure = np.where(alarmed, over.argmax(axis=0) + 1, horizon).sum()  # sessions until the first alarm
    months, count = exposure / MONTH, int(alarmed.sum())
    tail = (1 - CONFIDENCE) / 2
    low = gammaincinv(count, tail) / months if count else 0.0  # of a Poisson count: Garwood (1936)
    high = gammaincinv(count + 1, 1 - tail) / months
    return Calibration(level, cusum, count / months, float(low), float(high))


def _paths(
    series: Array, horizon: int, rng: np.random.Generator, params: MonitoringParams
) -> Iterator[Array]:
    """Running maxima ``(horizon, n, 2)`` of both statistics over resampled sessions, in chunks of draws."""
    width = 2 * len(params.strengths) * max(series.shape[1], 1)
    step = max(1, CHUNK // (width * 4))
    for first in range(0, params.calibration_samples, step):
        draws = min(step, params.calibration_samples - first)
        past = blocks(rng, len(series), draws, len(series), params.calibration_block)
        live = blocks(rng, len(series), draws, horizon, params.calibration_block)
        yield np.maximum.accumulate(_judge(series, past, live, params), axis=0)


def blocks(
    rng: np.random.Generator, length: int, draws: int, count: int, block: int
) -> npt.NDArray[np.int64]:
    """Row numbers ``(draws, count)``: blocks of ``block`` rows that begin anywhere and wrap round the end."""
    starts = rng.integers(length, size=(draws, -(-count // block)))
    rows = (starts[:, :, None] + np.arange(block)) % length
    return rows.reshape(draws, -1)[:, :count]


def _judge(
    series: Array, past: npt.NDArray[np.int64], live: npt.NDArray[np.int64], params: MonitoringParams
) -> Array:
    """Both statistics ``(T, n, 2)`` of the sessions ``live``, judged by the reference ``past``."""
    strengths = np.asarray(params.strengths)
    known = np.stack([(series[rows].mean(axis=0), series[rows].std(axis=0)) for rows in past])  # (n, 2, K)
    mean, scale = known[:, 0], np.maximum(known[:, 1], 1e-9)
    cost = np.stack(
        [
            cost_of_bets(
                np.clip((series[rows] - m) / s / params.inflation, -params.clip, params.clip), params
            )
            for rows, m, s in zip(past, mean, scale, strict=True)
        ]
    )
    bets = np.ones_like(cost)  # (n, K, strengths, 2), of e-detector plus one
    up, down = np.zeros_like(mean), np.zeros_like(mean)
    found = np.empty((live.shape[1], len(live), 2))
    for t in range(live.shape[1]):
        errors = (series[live[:, t]] - mean) / scale
        scores = np.clip(errors / params.inflation, -params.clip, params.clip)
        gains = scores[..., None] * strengths
        bets[..., 0] *= np.exp(gains - cost[..., 0])
        bets[..., 1] *= np.exp(-gains - cost[..., 1])
        np.minimum(bets, 1e200, out=bets)
        found[t, :, 0] = bets.mean(axis=(1, 2, 3))
        bets += 1.0
        clipped = np.clip(errors, -params.clip, params.clip)
        up = np.maximum(0.0, up + clipped - params.cusum_slack)
        down = np.maximum(0.0, down - clipped - params.cusum_slack)
        found[t, :, 1] = np.maximum(up, down).max(axis=1, initial=0.0)
    return found
