"""Market-like worlds of known truth: 40 features × 390 bars a session, autocorrelated and correlated.

Ten series each of AR(1) with φ .9, .99 and .999 a bar and of GARCH(1, 1) returns with Student-t shocks. All
share one factor, so that the series of a kind correlate. The ten are ten assets, the four kinds their
features, as the detector sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

BARS, ASSETS, KINDS = 390, 10, 4
PHI = (0.9, 0.99, 0.999)
FREEDOM = 6  # of the t shocks
ALPHA, BETA = 0.02, 0.975
RHO = 0.3
BURN = 4000  # bars before the first session
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Change:
    """From one session on: added to the mean of ``shifted`` assets of one kind (in standard deviations),
    volatility multiplied, another correlation, another φ of the first kind."""

    name: str
    mean: float = 0.0
    shifted: int = 0
    volatility: float = 1.0
    correlation: float = RHO
    phi: float = PHI[0]


def simulate(seed: int, sessions: int, change: Change | None = None, at: int = 0) -> Float32:
    """One world ``(sessions, BARS, ASSETS, KINDS)``; ``change`` begins with session ``at``."""
    rng = np.random.default_rng(seed)
    rows = BURN + sessions * BARS
    turn = BURN + at * BARS if change else rows
    change = change or Change("none")
    rho = np.full((rows, 1, 1), RHO)
    rho[turn:] = change.correlation
    shocks = rng.standard_normal((rows, ASSETS, KINDS)) * np.sqrt(1 - rho)
    shocks += rng.standard_normal((rows, 1, 1)) * np.sqrt(rho)
    found = np.empty((rows, ASSETS, KINDS))
    for kind, phi in enumerate(PHI):
        found[..., kind] = _ar1(shocks[..., kind], phi)
    if change.phi != PHI[0]:
        start = found[turn - 1, :, 0]
        noise = shocks[turn:, :, 0] * np.sqrt(1 - change.phi**2)
        found[turn:, :, 0] = lfilter([1.0], [1.0, -change.phi], noise, axis=0, zi=[change.phi * start])[0]
    mixing = np.sqrt((FREEDOM - 2) / rng.chisquare(FREEDOM, (rows, ASSETS)))
    found[..., 3] = _garch(shocks[..., 3] * mixing)
    found[turn:] *= change.volatility
    found[turn:, : change.shifted, 0] += change.mean
    return found[BURN:].reshape(sessions, BARS, ASSETS, KINDS).astype(np.float32)


def _ar1(shocks: npt.NDArray[np.float64], phi: float) -> npt.NDArray[np.float64]:
    """Stationary AR(1) of unit variance, from its stationary state on."""
    noise = shocks * np.sqrt(1 - phi**2)
    return np.asarray(lfilter([1.0], [1.0, -phi], noise, axis=0, zi=[phi * shocks[0]])[0])


def _garch(shocks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """GARCH(1, 1) of unit variance from shocks ``(T, A)`` of unit variance."""
    variance, returns = np.ones(shocks.shape[1]), np.empty_like(shocks)
    for t in range(len(shocks)):
        returns[t] = np.sqrt(variance) * shocks[t]
        variance = (1 - ALPHA - BETA) + ALPHA * returns[t] ** 2 + BETA * variance
    return returns
