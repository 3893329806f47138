"""The CUDA statistics of whole planes, run on the host, against those on NumPy arrays."""

from __future__ import annotations

import importlib
import math

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_allclose, assert_array_equal

from gpucoadd.fallback import clipping, plane_statistics

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

PIECE = 8192  # samples of a block of threads
SIZES = [1, 2, 3, 4, 5, 100, 257, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 1030]
QUARTILES = (0.25, 0.5, 0.75)


@pytest.fixture
def cupy():
    with standin.device() as cupy:
        yield cupy


LARGEST = np.finfo(np.float32).max  # finite still


def kernels():
    return importlib.import_module("gpucoadd.kernels.plane_statistics")


def any_finite_float(rng, n):
    values = rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32)
    return np.where(np.isfinite(values), values, np.float32(-1e-40))


KINDS = {
    "gaussian": lambda rng, n: rng.normal(3, 1, n),
    "about zero": lambda rng, n: rng.normal(0, 1e-3, n),
    "negative": lambda rng, n: -rng.exponential(1, n) - 5,
    "wings": lambda rng, n: rng.standard_t(1.5, n),
    "outliers": lambda rng, n: np.where(rng.random(n) < 0.02, 1e30, rng.normal(5, 1, n)),
    "one value": lambda rng, n: np.full(n, 0.1),
    "mostly one value": lambda rng, n: np.where(rng.random(n) < 0.8, 3.3, 9.0),
    "two values": lambda rng, n: rng.choice([1.0, 2.0], n),
    "steps": lambda rng, n: np.round(rng.normal(0, 1.5, n)),
    "zeros of both signs": lambda rng, n: rng.choice([-0.0, 0.0, 1.0, -1.0], n, p=[0.4, 0.4, 0.1, 0.1]),
    "denormals": lambda rng, n: rng.normal(0, 1e-42, n),
    "neighbours": lambda rng, n: 1 + 2**-23 * rng.integers(0, 300, n),
}


def draw(kind, n, seed=5):
    return KINDS[kind](np.random.default_rng(seed), n).astype(np.float32)


def with_holes(planes, seed=6):
    """Each plane shuffled among as many values again that do not count; and a plane without any."""
    rng = np.random.default_rng(seed)
    holes = rng.choice(np.float32([np.inf, np.nan, -np.inf]), planes.shape)
    mixed = rng.permuted(np.concatenate([planes, holes], axis=1), axis=1)
    return np.concatenate([mixed, np.full((1, mixed.shape[1]), np.inf, np.float32)])


def check_quantiles(cupy, samples, fractions):
    device = cupy.asarray(samples)
    before = standin.host_reads
    found, n_samples = kernels().quantiles(device, fractions)
    assert standin.host_reads == before
    assert (found.dtype, n_samples.dtype) == (np.float64, np.int32)
    ordered = [np.sort(plane[np.isfinite(plane)]) for plane in samples]
    assert_array_equal(n_samples.get(), [len(plane) for plane in ordered])
    assert_array_equal(found.get(), [[clipping.quantile(plane, f) for f in fractions] for plane in ordered])
    assert_array_equal(device.get(), samples)


# ------------------------------------------------------------------------------------------------ samples, NaN


def test_samples_are_what_counts(cupy):
    plane = np.float32([[[1, np.nan, -np.inf, 4, 5]], [[np.inf, -0.0, 1e-42, LARGEST, -3e38]]])
    mask = np.int32([[[0, 0, 0, 8, 3]], [[0, 4, 0, -(2**31), 9]]])
    device = [cupy.asarray(plane), cupy.asarray(mask)]
    found = kernels().samples(*device, 8)
    assert standin.host_reads == 0
    assert found.dtype == np.float32
    assert_array_equal(
        found.get(), np.float32([[1, np.inf, np.inf, np.inf, 5], [np.inf, -0.0, 1e-42, LARGEST, np.inf]])
    )
    assert_array_equal(kernels().samples(*device, -(2**31))[1].get()[3], np.inf)
    assert_array_equal(device[0].get(), plane)
    assert_array_equal(device[1].get(), mask)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 17, 31), (2, 300, 300)])
def test_samples_equal_numpy(cupy, shape):
    rng = np.random.default_rng(1)
    plane = rng.choice(np.float32([1, 2.5, -3, np.nan, np.inf, -np.inf]), shape)
    mask = rng.integers(0, 16, shape).astype(np.int32)
    found = kernels().samples(cupy.asarray(plane), cupy.asarray(mask), 5).get()
    assert_array_equal(found, [clipping.good_samples(p, m, 5)[0] for p, m in zip(plane, mask)])


def test_samples_of_a_band_of_rows(cupy):
    plane = np.random.default_rng(1).normal(size=(3, 8, 9)).astype(np.float32)
    mask = np.arange(plane.size, dtype=np.int32).reshape(plane.shape)
    device = cupy.asarray(plane), cupy.asarray(mask)
    found = kernels().samples(*(d[:, 2:7] for d in device), 2).get()
    assert_array_equal(found, np.where(mask & 2, np.float32(np.inf), plane)[:, 2:7].reshape(3, 45))


def test_which_planes_are_nan(cupy):
    planes = np.full((6, 100, 101), np.nan, np.float32)
    planes[1, -1, -1] = 0  # beyond what the threads look at in their first turn
    planes[2, 0, 0] = -1e-45
    planes[3, 50, 50] = np.inf
    planes[5] = 1
    device = cupy.asarray(planes)
    found = kernels().all_nan(device)
    assert standin.host_reads == 0
    expected = plane_statistics.all_nan(planes)
    assert found.dtype == expected.dtype == bool
    assert_array_equal(expected, [True, False, False, False, True, False])
    assert_array_equal(found.get(), expected)
    assert_array_equal(device.get(), planes)
    with hostcuda.shuffled(3):
        assert_array_equal(kernels().all_nan(device[:2, :3, :5]).get(), [True, True])
        assert_array_equal(kernels().all_nan(device[1:3, -3:]).get(), [False, True])


# ------------------------------------------------------------------------------------------------ quantiles


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_quartiles_are_exact(cupy, kind, n):
    check_quantiles(cupy, draw(kind, n)[None], QUARTILES)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_does_not_count(cupy, kind):
    check_quantiles(cupy, with_holes(np.stack([draw(kind, 333, seed) for seed in (1, 2)])), QUARTILES)


@pytest.mark.parametrize("fractions", [(0.5,), (1.0, 0.0), (0.9, 0.1, 0.5), (0.3, 0.3, 0.3), (1 / 3, 2 / 3, 0.999)])
def test_any_fractions_in_any_order(cupy, fractions):
    for n in (1, 2, 4, 7, 100):
        check_quantiles(cupy, np.stack([draw("wings", n), draw("steps", n), draw("gaussian", n)]), fractions)


def test_every_rank_of_any_floats(cupy):
    """All bits of a key decide somewhere."""
    rng = np.random.default_rng(9)
    samples = np.stack([any_finite_float(rng, 41) for _ in range(40)])
    samples[20:] = samples[20:, :1] + np.zeros_like(samples[20:])
    samples.view(np.uint32)[20:] ^= (1 << rng.integers(0, 23, (20, 41))).astype(np.uint32)  # last bits only
    for rank in range(0, 41, 2):
        found, _ = kernels().quantiles(cupy.asarray(samples), (rank / 40,))
        assert_array_equal(found.get()[:, 0], np.sort(samples, axis=1)[:, rank])


def test_quantiles_are_numpys(cupy):
    plane = draw("gaussian", 90_000).reshape(1, -1)
    found, _ = kernels().quantiles(cupy.asarray(plane), QUARTILES)
    assert_allclose(found.get()[0], np.quantile(plane.astype(float), QUARTILES), rtol=1e-15)


# ------------------------------------------------------------------------------------------------ clipped


def check_clipped(cupy, samples, sigma, iterations):
    device = cupy.asarray(samples)
    before = standin.host_reads
    out = kernels().clipped_statistics(device, sigma=sigma, iterations=iterations)
    assert standin.host_reads == before
    assert (out.dtype, out.shape) == (np.float64, (len(samples), 3))
    assert_array_equal(device.get(), samples)
    found = out.get()
    for (mean, variance, n), plane in zip(found, samples):
        ordered = np.sort(plane[np.isfinite(plane)])
        expected = clipping.clipped_statistics(ordered, sigma=sigma, iterations=iterations)
        assert n == expected[2]
        # float64 sums in two orders, of deviations that may cancel
        assert_allclose(mean, expected[0], rtol=1e-12, atol=1e-12 * math.sqrt(np.nan_to_num(expected[1])))
        assert_allclose(variance, expected[1], rtol=1e-12)
    return found


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_clipped_equals_numpy(cupy, kind, n):
    check_clipped(cupy, draw(kind, n)[None], 3.0, 3)


@pytest.mark.parametrize(("sigma", "iterations"), [(0.3, 1), (0.3, 4), (1.0, 2), (1.5, 3), (2.5, 2), (3.0, 1)])
def test_rules_of_the_clip(cupy, sigma, iterations):
    check_clipped(cupy, with_holes(np.stack([draw(kind, 500) for kind in KINDS])), sigma, iterations)


def test_pieces_are_put_together(cupy):
    """More pieces than the threads that sum them, and most of them empty."""
    plane = np.full((2, 300 * PIECE), np.inf, np.float32)
    plane[0, :: PIECE // 2] = draw("gaussian", 600)
    plane[1, -3:] = 1, 2, 4
    found = check_clipped(cupy, plane, 2.5, 2)
    assert found[1, 2] == 3


def test_small_samples(cupy):
    nan = math.nan
    found = check_clipped(cupy, np.float32([[np.inf] * 3, [7, np.nan, np.inf], [1, 3, np.inf], [0, 0.5, 1]]), 3.0, 3)
    assert_array_equal(found, [[nan, nan, 0], [7, nan, 1], [2, 2, 2], [0.5, 0.25, 3]])
    # nothing is near enough; one sample stays, its variance is unknown, and so is the next round
    narrow = np.float32([[0, 1, np.inf], [0, 0.5, 1]])
    assert_array_equal(check_clipped(cupy, narrow, 0.1, 1), [[nan, nan, 0], [0.5, nan, 1]])
    assert_array_equal(check_clipped(cupy, narrow, 0.1, 2), [[nan, nan, 0]] * 2)


def test_bounds_belong_to_what_is_kept(cupy):
    """The quartiles are -1 and 1, and the sigma makes that a clip from -8 to 8."""
    sigma = np.nextafter(4 / clipping.IQR_TO_SIGMA, 9)
    assert sigma * clipping.IQR_TO_SIGMA * 2 == 8
    beyond = float(np.nextafter(np.float32(8), np.float32(9)))
    plane = np.float32([[-8, -1, -1, -1, 0, 1, 1, 1, 8], [-beyond, -1, -1, -1, 0, 1, 1, 1, beyond]])
    assert_array_equal(check_clipped(cupy, plane, sigma, 1)[:, 2], [9, 7])


def test_what_was_clipped_may_return(cupy):
    """The quartile width clips the 5 at 2.6 sigma, the standard deviation of the others does not."""
    plane = np.float32([[-3] * 20 + [-1] * 31 + [0] + [1] * 31 + [3] * 20 + [5]])
    assert check_clipped(cupy, plane, 2.6, 1)[0, 2] == 103
    assert check_clipped(cupy, plane, 2.6, 2)[0, 2] == 104


@pytest.mark.parametrize("k", [1, 3])
def test_clipped_means_of_planes(cupy, k):
    rng = np.random.default_rng(k)
    planes = np.stack([draw("wings", 300 * 300, seed).reshape(300, 300) for seed in range(k)])
    planes[rng.random(planes.shape) < 0.1] = np.nan
    masks = rng.integers(0, 16, planes.shape).astype(np.int32)
    masks[0, :, ::2] = 5
    found = kernels().clipped_means(cupy.asarray(planes), cupy.asarray(masks), 5, sigma=2.5, iterations=2)
    expected = [
        clipping.clipped_mean(*clipping.good_samples(plane, mask, 5), sigma=2.5, iterations=2)
        for plane, mask in zip(planes, masks)
    ]
    assert_allclose(found.get(), expected, rtol=1e-12)


# ------------------------------------------------------------------------------------------------ repeats


def test_planes_together_equal_planes_alone(cupy):
    planes = cupy.asarray(np.stack([draw(kind, 2 * PIECE + 77) for kind in KINDS]))
    together = kernels().clipped_statistics(planes[::5], sigma=3.0, iterations=3).get()  # also not one piece of memory
    alone = [kernels().clipped_statistics(planes[i : i + 1], sigma=3.0, iterations=3).get()[0] for i in (0, 5, 10)]
    assert_array_equal(together, alone)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_order_of_threads_gives_the_same_bits(cupy, seed):
    samples = cupy.asarray(with_holes(np.stack([draw(kind, 5000) for kind in ("gaussian", "steps", "one value")])))

    def both():
        clipped = kernels().clipped_statistics(samples, sigma=2.0, iterations=3)
        return [array.get() for array in (*kernels().quantiles(samples, QUARTILES), clipped)]

    expected = both()
    with hostcuda.shuffled(seed):
        for found, array in zip(both(), expected):
            assert_array_equal(found, array)
