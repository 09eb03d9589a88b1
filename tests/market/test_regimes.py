from __future__ import annotations

import numpy as np
import pytest

from sekisho.errors import TrainingError
from sekisho.market import REGIMES, volatility_regimes


def prices(seed: int, rows: int = 400) -> np.ndarray:
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.choice([0.001, 0.004, 0.02], rows // 20), 20)[:, None]
    return np.asarray(100 * np.exp(np.cumsum(level * rng.normal(size=(rows, 3)), axis=0)))


def test_terciles_of_the_given_rows_hold_a_third_each() -> None:
    regimes = volatility_regimes(prices(0), 10, 0, 400)
    assert (regimes[:10] == -1).all()
    counts = np.bincount(regimes[10:], minlength=len(REGIMES))
    assert counts.sum() == 390
    assert (np.abs(counts - 130) <= 1).all()


def test_a_regime_is_the_volatility_of_the_equal_weighted_market() -> None:
    close = prices(1)
    market = (close[1:] / close[:-1] - 1).mean(axis=1)
    volatility = np.array([np.sqrt(np.mean(market[t - 10 : t] ** 2)) for t in range(10, 400)])
    low, high = np.quantile(volatility[40:190], [1 / 3, 2 / 3])  # of the bars 50 … 199
    expected = (volatility >= low).astype(int) + (volatility >= high)
    assert np.array_equal(volatility_regimes(close, 10, 50, 200)[10:], expected)


def test_later_bars_change_no_earlier_regime() -> None:
    one, other = prices(2), prices(3)
    for cut in (200, 250, 399):
        changed = np.vstack([one[:cut], other[cut:]])
        same = volatility_regimes(one, 10, 20, 200)[:cut]
        assert np.array_equal(volatility_regimes(changed, 10, 20, 200)[:cut], same)


def test_too_few_bars_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"2 bars of \[0, 12\)"):
        volatility_regimes(prices(4), 10, 0, 12)
