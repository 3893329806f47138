"""Clipping of one large sample."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucoadd.clipping import IQR_TO_SIGMA, clipped_statistics, quantile


def by_definition(values, sigma, iterations):
    """The same in plain NumPy, no ordering used."""
    values = values.astype(np.float64)
    centre = np.median(values)
    half_width = first = sigma * IQR_TO_SIGMA * (np.percentile(values, 75) - np.percentile(values, 25))
    for _ in range(iterations):
        kept = values[np.abs(values - centre) <= half_width]
        if len(kept) == 0:
            return math.nan, math.nan, 0
        variance = kept.var(ddof=1) if len(kept) > 1 else math.nan
        centre = kept.mean()
        half_width = sigma * math.sqrt(max(variance, 0)) if len(values) > 1 else first
    return kept.mean(), variance, len(kept)


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.sampled_from([1.5, 2.5, 3.0]), st.integers(1, 4))
@settings(deadline=None, max_examples=100)
def test_equals_definition(n, seed, sigma, iterations):
    values = np.random.default_rng(seed).standard_t(2, n).astype(np.float32)
    mean, variance, count = clipped_statistics(np.sort(values), sigma=sigma, iterations=iterations)
    expected = by_definition(values, sigma, iterations)
    assert count == expected[2]
    # float64 sums of at most 60 terms in two orders
    np.testing.assert_allclose([mean, variance], expected[:2], rtol=1e-12, atol=1e-14)


def test_outliers_go_and_may_return():
    values = np.array([0.0] * 50 + [1.0] * 50 + [1000.0], np.float32)
    mean, _, count = clipped_statistics(np.sort(values), sigma=3.0, iterations=2)
    assert (mean, count) == (0.5, 100)


def test_equal_values():
    assert clipped_statistics(np.full(7, 4, np.float32), sigma=3.0, iterations=3) == (4.0, 0.0, 7)


def test_nothing():
    empty = np.empty(0, np.float32)
    assert math.isnan(clipped_statistics(empty, sigma=3.0, iterations=2)[0])
    assert math.isnan(quantile(empty, 0.5))


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_quantile_is_numpys(fraction):
    values = np.sort(np.random.default_rng(1).normal(size=32).astype(np.float32))
    assert quantile(values, fraction) == pytest.approx(np.quantile(values.astype(float), fraction), rel=1e-15)


def test_nothing_within_a_narrow_clip():
    ordered = np.array([0.0, 1.0], np.float32)
    assert clipped_statistics(ordered, sigma=0.1, iterations=1)[2] == 0
    # one sample stays, its variance is unknown, and so is the next round
    lone = np.array([0.0, 0.5, 1.0], np.float32)
    assert math.isnan(clipped_statistics(lone, sigma=0.1, iterations=2)[0])
