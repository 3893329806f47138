"""Clipping of one large sample."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucoadd.fallback import clipping
from gpucoadd.fallback.clipping import (
    IQR_TO_SIGMA,
    clipped_mean,
    clipped_means,
    clipped_statistics,
    good_samples,
    quantile,
)


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


RNG = np.random.default_rng(7)
N_LARGE = 100_000  # more than are ordered as a whole
LARGE = {
    "gaussian": RNG.normal(3, 1, N_LARGE),
    "wings": RNG.standard_t(1.5, N_LARGE),
    "skew": RNG.exponential(1, N_LARGE) ** 3,
    "two values": RNG.choice([1.0, 2.0], N_LARGE),
    "mostly one value": np.where(RNG.random(N_LARGE) < 0.8, 3.3, 9.0),
    "one value": np.full(N_LARGE, 0.1),
    "a core and a shelf": np.where(RNG.random(N_LARGE) < 0.3, RNG.uniform(-50, 50, N_LARGE), RNG.normal(0, 1, N_LARGE)),
    "outliers": np.where(RNG.random(N_LARGE) < 1e-3, 1e30, RNG.normal(5, 1, N_LARGE)),
    "steps": np.round(RNG.normal(0, 1.5, N_LARGE)),
}


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("name", LARGE)
def test_a_large_sample_needs_no_whole_order(name, sigma):
    """Whether the bounds fall in the tails that were ordered or not; infinities stand for what does not count."""
    values = LARGE[name].astype(np.float32)
    samples = np.insert(values, [0, 17, 17, N_LARGE], np.inf)
    mean = clipped_mean(samples, N_LARGE, sigma=sigma, iterations=3)
    expected = clipped_statistics(np.sort(values), sigma=sigma, iterations=3)[0]
    np.testing.assert_allclose(mean, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(expected, by_definition(values, sigma, 3)[0], rtol=1e-11, atol=1e-12)


def test_a_large_sample_is_ordered_where_it_must_be(monkeypatch):
    """A narrow clip has its bounds in the body, the usual one does not; and few values are quickly put in order."""
    asked = []
    whole = clipping.clipped_statistics
    monkeypatch.setattr(clipping, "clipped_statistics", lambda *a, **k: asked.append(1) or whole(*a, **k))
    values = LARGE["gaussian"].astype(np.float32)
    clipped_mean(values.copy(), N_LARGE, sigma=3.0, iterations=3)
    assert not asked
    shelf = np.where(np.arange(N_LARGE) < 0.55 * N_LARGE, LARGE["gaussian"] * 0.01, LARGE["gaussian"] * 30)
    clipped_mean(shelf.astype(np.float32), N_LARGE, sigma=3.0, iterations=3)
    assert len(asked) == 1
    clipped_mean(LARGE["two values"].astype(np.float32), N_LARGE, sigma=3.0, iterations=3)
    assert len(asked) == 2


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 2**32 - 1), st.sampled_from([0.3, 1.5, 3.0]))
@settings(deadline=None, max_examples=150)
def test_rows_together_equal_rows_alone(m, n, seed, sigma):
    rng = np.random.default_rng(seed)
    samples = (rng.standard_t(2, (n, m)) * 10).astype(np.float32)
    if seed % 3 == 0:
        samples = np.round(samples / 10)
    good = rng.random((n, m)) < rng.choice([0.0, 0.2, 0.9, 1.0], (n, 1))
    means = clipped_means(samples.copy(), good, sigma=sigma, iterations=3)
    expected = [clipped_statistics(np.sort(s[g]), sigma=sigma, iterations=3)[0] for s, g in zip(samples, good)]
    np.testing.assert_allclose(means, expected, rtol=1e-12, atol=1e-13)


def test_good_samples_are_counted_and_the_rest_is_infinite():
    plane = np.array([[1.0, np.nan, -np.inf, 4.0, 5.0]], np.float32)
    samples, n = good_samples(plane, np.array([[0, 0, 0, 8, 3]], np.int32), 8)
    assert n == 2
    np.testing.assert_array_equal(samples, [1.0, np.inf, np.inf, np.inf, 5.0])


@pytest.mark.parametrize("name", [name for name in LARGE if name not in ("one value", "mostly one value")])
@pytest.mark.parametrize("n", [N_LARGE, N_LARGE - 1, N_LARGE - 2, N_LARGE - 3])
def test_the_first_bounds_of_a_large_sample(name, n):
    """Linear quantiles ask for two neighbouring ranks, of whatever remainder."""
    values = LARGE[name][:n].astype(np.float32)
    samples = np.append(values, np.full(5, np.inf, np.float32))
    centre, half_width, (below, above) = clipping._order_tails(samples, n, 3.0)
    low, middle, high = np.percentile(values.astype(np.float64), (25, 50, 75))
    assert (centre, half_width) == (middle, pytest.approx(3 * IQR_TO_SIGMA * (high - low), rel=1e-14))
    assert sorted(samples[:n]) == sorted(values)
    tails = samples[:n] < below, samples[:n] > above
    np.testing.assert_array_equal(samples[:n][tails[0]], np.sort(values[values < np.float32(below)]))
    np.testing.assert_array_equal(samples[:n][tails[1]], np.sort(values[values > np.float32(above)]))
