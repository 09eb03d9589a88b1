"""Histograms on 16 bits: exact sums, near-exact distances; and limits that hold what they state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from sekisho.errors import CannotCheck
from sekisho.monitoring import histogram
from sekisho.monitoring.calibration import MONTH, calibrate
from sekisho.monitoring.histogram import (
    Histograms,
    histograms,
    histograms_of_file,
    ks,
    psi,
    quantiles,
    share_below,
    wasserstein,
)
from sekisho.params import MonitoringParams, Params

Float32 = npt.NDArray[np.float32]
ANY = arrays(np.float32, st.tuples(st.integers(1, 30), st.just(2)), elements=st.floats(width=32))


def same(one: Histograms, other: Histograms) -> bool:
    return all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ("codes", "counts", "starts"))


@given(first=ANY, second=ANY)
def test_histograms_of_parts_add_up_to_that_of_the_whole_in_any_order(
    first: Float32, second: Float32
) -> None:
    whole = histograms(np.concatenate([first, second]))
    assert same(histograms(first).merge(histograms(second)), whole)
    assert same(histograms(second).merge(histograms(first)), whole)
    assert whole.counts.sum() == 2 * (len(first) + len(second))


@given(values=ANY)
def test_bins_are_in_the_order_of_their_values_and_what_is_no_number_is_apart(values: Float32) -> None:
    found = histograms(values)
    for series, column in enumerate(values.T):
        finite = column[np.isfinite(column)]
        assert found.not_finite(series) == len(column) - len(finite)
        numbers = found.numbers(series)
        assert numbers.sum() == len(finite)
        middle = np.repeat(histogram.MIDDLE, numbers)
        np.testing.assert_allclose(middle, np.sort(finite), rtol=1 / 128, atol=1e-38)


@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0])
def test_the_distances_are_those_of_the_values(shift: float) -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal((4000, 2)).astype(np.float32)
    other = (rng.standard_t(4, (3000, 2)) + shift).astype(np.float32)
    first, second = histograms(one), histograms(other)
    for k in range(2):
        exact = stats.ks_2samp(one[:, k], other[:, k]).statistic
        assert ks(first, second)[k] == pytest.approx(exact, abs=5e-3)
        exact = stats.wasserstein_distance(one[:, k], other[:, k])
        assert wasserstein(first, second)[k] == pytest.approx(exact, abs=2e-3)
    assert psi(first, first) == pytest.approx([0.0, 0.0], abs=1e-12)
    assert (psi(first, second) > 0).all()


def test_on_a_million_values_ks_is_exact_to_a_thousandth() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.standard_normal((2, 1_000_000, 1), dtype=np.float32)
    exact = stats.ks_2samp(one[:, 0], other[:, 0] * np.float32(1.05)).statistic
    assert ks(histograms(one), histograms(other * np.float32(1.05)))[0] == pytest.approx(exact, abs=1e-3)


def test_quantiles_and_the_shares_below_them_agree_also_where_values_tie() -> None:
    values = np.repeat(np.float32([0.0, 1.0]), [700, 300])[:, None]
    found = histograms(values)
    edges = quantiles(found, np.array([0.5, 0.9]))
    np.testing.assert_allclose(edges, [[0.0, 1.0]], atol=0.01)
    np.testing.assert_allclose(share_below(found, edges), [[0.7, 1.0]])


def test_a_file_is_read_in_parts_and_a_damaged_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).standard_normal((5000, 2)).astype(np.float32)
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"a": values[:, 0], "b": values[:, 1]}).write_parquet(path, row_group_size=700)
    monkeypatch.setattr(histogram, "ROWS", 1024)
    assert same(histograms_of_file(path, ["a", "b"]), histograms(values))
    with pytest.raises(CannotCheck, match="column c is missing"):
        histograms_of_file(path, ["a", "c"])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CannotCheck, match="not a whole Parquet file"):
        histograms_of_file(path, ["a"])


def small(params: Params, **changed: object) -> MonitoringParams:
    return params.monitoring.model_copy(
        update={"alarm_level": 60.0, "cusum_level": 60.0, "calibration_samples": 200} | changed
    )


def test_the_limits_hold_what_they_state_and_are_the_same_every_time(params: Params) -> None:
    monitoring = small(params)
    errors = np.random.default_rng(0).standard_normal((150, 3, 4, 2))
    watched = np.ones((3, 4, 2), dtype=np.bool_)
    found = calibrate(errors, watched, monitoring)
    assert found == calibrate(errors, watched, monitoring)
    assert found.level >= 60.0
    assert found.low <= found.rate <= found.high
    assert found.rate <= 2 * MONTH / 60.0  # two detectors, each once in 60 sessions
    assert found.rate > 0.2 * MONTH / 60.0


def test_a_reference_that_is_shorter_knows_less_and_gets_a_higher_limit(params: Params) -> None:
    errors = np.random.default_rng(0).standard_normal((400, 3, 4, 2))
    watched = np.ones((3, 4, 2), dtype=np.bool_)
    long, short = (calibrate(errors[:n], watched, small(params)).cusum for n in (400, 60))
    assert short > long
