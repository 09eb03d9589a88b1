"""From session statistics to drift alarms, and what people are shown beside them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from sekisho.monitoring.detector import Detection
from sekisho.monitoring.histogram import Histograms, population_stability, quantiles, share_below
from sekisho.monitoring.profile import FAMILIES
from sekisho.monitoring.reference import SHARES, Reference
from sekisho.monitoring.verdict import Alarm

TOP = 10  # series named in the verdict
RECENT = 20  # last sessions whose values are compared with the reference's
DECILES = slice(9, None, 10)  # of SHARES


def alarms_of(detection: Detection, sessions: Sequence[dt.date], reference: Reference) -> list[Alarm]:
    """At most one alarm, by the detector that passed its limit first.

    It bears the family that carries the statistic and the series with the most evidence in it.
    """
    limits = reference.calibration
    over = {
        "e-detector": np.flatnonzero(detection.level >= limits.level),
        "CUSUM": np.flatnonzero(detection.cusum >= limits.cusum),
    }
    first = {name: int(found[0]) for name, found in over.items() if len(found)}
    if not first:
        return []
    name = min(first, key=lambda detector: first[detector])
    at = first[name]
    level, own, limit = {
        "e-detector": (detection.level, detection.evidence, limits.level),
        "CUSUM": (detection.cusum, detection.sums, limits.cusum),
    }[name]
    by_family = own[at].sum(axis=(1, 2)) if name == "e-detector" else own[at].max(axis=(1, 2))
    family = int(by_family.argmax())
    asset, feature = np.unravel_index(own[at, family].argmax(), own.shape[2:])
    return [
        Alarm(
            family=FAMILIES[family],
            series=f"{reference.features[feature]} of {reference.symbols[asset]}",
            statistic=float(level[at]),
            threshold=limit,
            session=str(sessions[at]),
            detector=name,
        )
    ]


def top_series(
    detection: Detection, alarms: Sequence[Alarm], days: Sequence[dt.date], reference: Reference
) -> list[dict[str, Any]]:
    """The strongest series by their own evidence: when the alarm came, else after the last session."""
    at = [str(day) for day in days].index(alarms[0].session) if alarms else len(days) - 1
    evidence, sums = detection.evidence[at], detection.sums[at]
    order = np.argsort(-evidence, axis=None, kind="stable")[:TOP]
    places = [np.unravel_index(i, evidence.shape) for i in order]
    return [
        {
            "family": FAMILIES[family],
            "symbol": reference.symbols[asset],
            "feature": reference.features[feature],
            "evidence": float(evidence[family, asset, feature]),
            "cusum": float(sums[family, asset, feature]),
        }
        for family, asset, feature in places
    ]


def distances(found: Sequence[Histograms], reference: Reference) -> list[dict[str, Any]]:
    """KS, PSI and Wasserstein (in robust standard deviations) of the last sessions' values, largest KS first.

    For people only: on autocorrelated features they are large on most days without any change.
    """
    if not found:
        return []
    recent = reduce(Histograms.merge, found[-RECENT:])
    names = [(symbol, feature) for symbol in reference.symbols for feature in reference.features[:-1]]
    shape: tuple[int, ...] = (len(names), len(SHARES))
    edges, known = (array[:, :-1].reshape(shape) for array in (reference.edges, reference.shares))
    own = Histograms(recent.codes, recent.counts, recent.starts[: len(names) + 1])
    below: npt.NDArray[np.float64] = share_below(own, edges)
    moved = np.abs(quantiles(own, SHARES) - edges).mean(axis=1) / reference.scaler.scale[:, :-1].ravel()
    rows = [
        {
            "symbol": symbol,
            "feature": feature,
            "ks": float(np.abs(below[k] - known[k]).max()),
            "psi": population_stability(known[k, DECILES], below[k, DECILES]),
            "wasserstein": float(moved[k]),
        }
        for k, (symbol, feature) in enumerate(names)
    ]
    return sorted(rows, key=lambda row: -float(str(row["ks"])))[:TOP]
