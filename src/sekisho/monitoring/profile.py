"""What one session's features looked like: mergeable sums, and the three statistics drawn from them.

A profile holds sums only, so that two profiles of one session add up to the profile of all its rows: a new
batch is added without reading the earlier ones, and partitions may be profiled on different machines.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sekisho.errors import CannotCheck

Array = npt.NDArray[np.float64]
FAMILIES = ("mean", "volatility", "correlation")
SMALLEST_VARIANCE = 1e-4  # added to a variance before its logarithm; z-scores have variance of order 1


@dataclass(frozen=True)
class Scaler:
    """Robust z-score: ``clip((x - median) / scale, ±clip)``; ``median`` and ``scale`` are ``(A, F)``."""

    median: Array
    scale: Array
    clip: float

    def __call__(self, values: npt.NDArray[np.floating]) -> Array:
        """Z-scores ``(N, A, F)`` of feature values of the same shape."""
        z: Array = np.clip((values.astype(np.float64) - self.median) / self.scale, -self.clip, self.clip)
        return z


@dataclass(frozen=True)
class Profile:
    """Sums over the rows of one session.

    ``total`` ``(A, F)``: sum of the z-scores; ``products`` ``(F, A, A)``: sum of their products between
    assets, feature by feature; ``low`` and ``high`` ``(A, F)``: range of the raw features.
    """

    session: dt.date
    rows: int
    total: Array
    products: Array
    low: Array
    high: Array

    def merge(self, other: Profile) -> Profile:
        """Profile of both sets of rows.

        Raises:
            ValueError: the two are of different sessions.
        """
        if self.session != other.session:
            raise ValueError(f"profiles of {self.session} and {other.session} cannot be merged")
        return Profile(
            session=self.session,
            rows=self.rows + other.rows,
            total=self.total + other.total,
            products=self.products + other.products,
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
        )

    def statistics(self) -> Array:
        """The session's ``(3, A, F)`` statistics, in the order of ``FAMILIES``.

        Mean, log variance, and the mean correlation of each asset's feature with the same feature of the
        other assets, on Fisher's scale (artanh). Correlation is NaN where there is one asset.
        """
        mean = self.total / self.rows
        centre = mean.T  # (F, A)
        covariance = self.products / self.rows - centre[:, :, None] * centre[:, None, :]
        variance = np.maximum(np.einsum("faa->fa", covariance), 0.0)
        scale = np.sqrt(variance + 1e-9)
        correlation = covariance / (scale[:, :, None] * scale[:, None, :])
        others = variance.shape[1] - 1
        if others:
            off_diagonal = correlation.sum(axis=2) - np.einsum("faa->fa", correlation)
            mean_correlation = np.arctanh(np.clip(off_diagonal / others, -0.999, 0.999))
        else:
            mean_correlation = np.full_like(variance, np.nan)
        return np.stack([mean, np.log(variance + SMALLEST_VARIANCE).T, mean_correlation.T])


def profile_session(session: dt.date, values: npt.NDArray[np.floating], scaler: Scaler) -> Profile:
    """Profile of feature values ``(N, A, F)`` of one session, without the weight column.

    Raises:
        CannotCheck: no rows, or a value that is not finite.
    """
    if not len(values):
        raise CannotCheck(f"session {session}: no rows", remedy="check that the server logs its predictions")
    if not np.isfinite(values).all():
        raise CannotCheck(
            f"session {session}: a feature is NaN or infinite", remedy="look at the feed's bars"
        )
    z = scaler(values)
    by_feature = np.ascontiguousarray(z.transpose(2, 1, 0))  # (F, A, N)
    return Profile(
        session=session,
        rows=len(values),
        total=z.sum(axis=0),
        products=by_feature @ by_feature.transpose(0, 2, 1),
        low=values.min(axis=0).astype(np.float64),
        high=values.max(axis=0).astype(np.float64),
    )
