"""The CUDA means of background cells, run on the host, against those on NumPy arrays."""

from __future__ import annotations

import importlib
import math

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_allclose, assert_array_equal

from gpucoadd import background
from gpucoadd.fallback import clipping

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

CLIP = {"sigma": 3.0, "iterations": 3}


@pytest.fixture
def cupy():
    with standin.device() as cupy:
        yield cupy


def kernels():
    return importlib.import_module("gpucoadd.kernels.cell_means")


def edges(shape, bin_size):
    y, x = (background.cell_edges(size, bin_size)[0] for size in shape[-2:])
    return {"y_edges": y, "x_edges": x}


def planes(shape, seed=1):
    """Sky with outliers, values that are no numbers, and a third of the pixels masked, some cells as a whole."""
    rng = np.random.default_rng(seed)
    image = rng.normal(rng.normal(0, 100, (shape[0], 1, 1)), 2, shape).astype(np.float32)
    odd = rng.random(shape) < 0.05
    image[odd] = rng.choice(np.float32([np.nan, np.inf, -np.inf, 1e5, -3e38, 1e-42]), np.count_nonzero(odd))
    mask = rng.choice(np.int32([0, 0, 0, 1, 2, 12]), shape).astype(np.int32)
    mask[:, : shape[1] // 3, : shape[2] // 2] = 8
    return image, mask


def check(cupy, image, mask, bits, bin_size, **clip):
    """Each cell is the clipped mean of its samples."""
    device = cupy.asarray(image), cupy.asarray(mask)
    before = standin.host_reads
    rules = CLIP | clip
    out = kernels().cell_means(*device, bits, **edges(image.shape, bin_size), **rules)
    assert standin.host_reads == before
    assert out.dtype == np.float64
    assert_array_equal(device[0].get(), image)
    assert_array_equal(device[1].get(), mask)
    found, expected = out.get(), np.empty(out.shape)
    scatter = np.zeros(out.shape)
    y, x = edges(image.shape, bin_size).values()
    for k, i, j in np.ndindex(out.shape):
        cell = np.s_[k, y[i] : y[i + 1], x[j] : x[j + 1]]
        values = np.sort(image[cell][np.isfinite(image[cell]) & (mask[cell] & bits == 0)])
        expected[k, i, j], variance, _ = clipping.clipped_statistics(values, **rules)
        scatter[k, i, j] = math.sqrt(abs(np.nan_to_num(variance)))  # less than 0 by rounding
    assert_array_equal(np.isnan(found), np.isnan(expected))
    # float64 sums in two orders, of deviations that may cancel
    assert_array_equal(np.abs(found - expected) > 1e-12 * (np.abs(expected) + scatter), False)
    return found


@pytest.mark.parametrize(
    ("shape", "bin_size"),
    [
        ((1, 1, 1), 32),
        ((3, 64, 96), 32),
        ((2, 70, 101), 32),
        ((1, 33, 32), 32),
        ((3, 31, 40), 4),
        ((2, 7, 11), 1),
        ((1, 300, 300), 32),
        ((2, 5, 400), 32),
    ],
)
def test_equals_clipped_statistics(cupy, shape, bin_size):
    check(cupy, *planes(shape), 9, bin_size)


@pytest.mark.parametrize("bin_size", [33, 45, 64, 200])
def test_cells_that_do_not_fit_in_shared_memory(cupy, bin_size):
    check(cupy, *planes((2, 90, 130)), 9, bin_size)


@pytest.mark.parametrize("bin_size", [16, 40])
@pytest.mark.parametrize(("sigma", "iterations"), [(0.3, 1), (0.3, 4), (1.0, 2), (2.5, 2), (3.0, 1)])
def test_rules_of_the_clip(cupy, sigma, iterations, bin_size):
    check(cupy, *planes((2, 40, 80)), 9, bin_size, sigma=sigma, iterations=iterations)


@pytest.mark.parametrize(("shape", "bin_size"), [((2, 64, 96), 32), ((1, 100, 75), 32), ((2, 75, 80), 40)])
def test_equals_the_background_of_numpy(cupy, shape, bin_size):
    image, mask = planes(shape)
    found = check(cupy, image, mask, 9, bin_size)
    assert_allclose(found, background.cell_means(image, mask, 9, bin_size=bin_size), rtol=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        [0.1],
        [3.3, 3.3, 3.3, 9.0],
        [1.0, 2.0],
        [-0.0, 0.0, 1.0, -1.0],
        [1e-42, -1e-42, 2e-45],
        [1.0, 1.0 + 2**-23, 1.0 + 2**-22, 1.0 - 2**-24],
        [3e38, -3e38, 1e38, 3.4e38],
        np.round(np.random.default_rng(2).normal(0, 2, 50)),
    ],
)
def test_ties_and_extremes(cupy, values):
    image = np.random.default_rng(3).choice(np.float32(values), (2, 64, 67))
    mask = np.zeros(image.shape, np.int32)
    check(cupy, image, mask, 9, 32)
    check(cupy, image, mask, 9, 5, sigma=1.0)


def test_few_samples(cupy):
    """Cells of four pixels, of which none to all count."""
    image = np.float32([[[1, 2, 3, 4, 5, 6, np.nan, 8, 9, 10]] * 2])
    image[0, 1] += 100
    mask = np.int32([[[1, 1, 0, 1, 0, 0, 0, 2, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0, 0, 0]]])
    found = check(cupy, image, mask, 1, 2)
    assert_array_equal(found, [[[math.nan, 3, 5.5, 58, 59.5]]])
    # nothing is near enough to the median; one sample is, and the next round knows no width
    lone = np.float32([[[0, 1, 0, 0.5, 1, 1]]])
    y, x = np.array([0, 1]), np.array([0, 2, 5, 6])
    device = cupy.asarray(lone), cupy.asarray(np.zeros(lone.shape, np.int32))
    found = kernels().cell_means(*device, 0, y_edges=y, x_edges=x, sigma=0.1, iterations=2)
    assert_array_equal(found.get(), [[[math.nan, math.nan, 1]]])


def test_cells_may_have_any_edges(cupy):
    image, mask = planes((2, 50, 60))
    y, x = np.array([3, 4, 20, 49]), np.array([0, 1, 7, 59, 60])
    device = cupy.asarray(image), cupy.asarray(mask)
    found = kernels().cell_means(*device, 1, y_edges=y, x_edges=x, **CLIP).get()
    assert found.shape == (2, 3, 4)
    for k, i, j in np.ndindex(found.shape):
        cell = np.s_[k, y[i] : y[i + 1], x[j] : x[j + 1]]
        values = np.sort(image[cell][np.isfinite(image[cell]) & (mask[cell] & 1 == 0)])
        expected = clipping.clipped_statistics(values, sigma=3.0, iterations=3)[0]
        assert_allclose(found[k, i, j], expected, rtol=1e-12)


def test_views_are_read_as_they_look(cupy):
    image, mask = planes((4, 40, 50))
    whole = cupy.asarray(image), cupy.asarray(mask)
    parts = image[::2, 4:38].copy(), mask[::2, 4:38].copy()
    cells = edges(parts[0].shape, 16) | CLIP
    found = kernels().cell_means(*(w[::2, 4:38] for w in whole), 9, **cells).get()
    assert_array_equal(found, kernels().cell_means(*map(cupy.asarray, parts), 9, **cells).get())
    alone = kernels().cell_means(*(cupy.asarray(p[1:]) for p in parts), 9, **cells).get()
    assert_array_equal(found[1:], alone)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_order_of_threads_gives_the_same_bits(cupy, seed):
    image, mask = planes((2, 70, 45))
    image[1] = np.round(image[1] / 3)
    device = cupy.asarray(image), cupy.asarray(mask)
    for bin_size in (10, 32, 40):
        cells = edges(image.shape, bin_size) | CLIP
        expected = kernels().cell_means(*device, 9, **cells).get()
        with hostcuda.shuffled(seed):
            assert_array_equal(kernels().cell_means(*device, 9, **cells).get(), expected)


def test_a_grid_has_an_end(cupy):
    image, mask = (cupy.asarray(np.zeros((65536, 1, 1), dtype)) for dtype in (np.float32, np.int32))
    with pytest.raises(ValueError, match="65536 planes; a grid has room for 65535, so pass fewer"):
        kernels().cell_means(image, mask, 0, **edges((1, 1), 1), **CLIP)
    rows = (array.reshape(1, 65536, 1) for array in (image, mask))
    with pytest.raises(ValueError, match="65536 rows of cells; a grid has room for 65535"):
        kernels().cell_means(*rows, 0, **edges((65536, 1), 1), **CLIP)
