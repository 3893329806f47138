"""Cell means and splines."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.interpolate import Akima1DInterpolator, CubicSpline

from gpucoadd import MaskSchema, VarianceScaling, primitives
from gpucoadd import background as splines_of_cells
from gpucoadd.backend import array_module, to_host
from gpucoadd.background import cell_edges, row_coefficients
from gpucoadd.fallback.clipping import clipped_statistics
from gpucoadd.variance import variance_scales

SCHEMA = MaskSchema.lsst()


def cell_means(image, usable, *, bin_size):
    """Of one plane."""
    xp = array_module(image)
    return splines_of_cells.cell_means(image[None], xp.where(usable, 0, 1).astype("i4")[None], 1, bin_size=bin_size)[0]


def background(image, usable, *, bin_size):
    """Of one plane, at every pixel."""
    splines = row_coefficients(cell_means(image, usable, bin_size=bin_size)[None], image.shape, bin_size=bin_size)
    return primitives.background_level(splines)[0]


def variance_scale(image, variance, mask, **options):
    return variance_scales(image[None], variance[None], mask[None], **options)[0]


def noise(shape, seed=3, scale=1.0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 64, 100, 116, 170])
def test_cells_cover_the_axis(size):
    edges, centres = cell_edges(size, 32)
    assert edges[0] == 0 and edges[-1] == size
    assert len(centres) == -(-size // 32)
    assert np.diff(edges).max() - np.diff(edges).min() <= 1
    assert_allclose(centres, [(a + b - 1) / 2 for a, b in pairwise(edges)])


@pytest.mark.parametrize("shape", [(64, 96), (70, 101), (33, 32)])
def test_cell_means_are_clipped_means(xp, shape):
    image = noise(shape) + 50
    image[5, 7] = 1e5
    image[6, 9] = np.nan
    usable = np.random.default_rng(1).random(shape) > 0.2
    usable[:16, :16] = False
    found = to_host(cell_means(xp.asarray(image), xp.asarray(usable), bin_size=32))
    y, x = (cell_edges(size, 32)[0] for size in shape)
    for i in range(len(y) - 1):
        for j in range(len(x) - 1):
            cell = np.s_[y[i] : y[i + 1], x[j] : x[j + 1]]
            values = image[cell][usable[cell] & np.isfinite(image[cell])]
            expected, _, _ = clipped_statistics(np.sort(values), sigma=3.0, iterations=3)
            assert found[i, j] == pytest.approx(expected, rel=1e-9)  # float64 sums about another shift


def with_extrapolation(spline, nodes, size):
    """A spline, and beyond its ends the quadratic with its value and derivatives there."""
    x = np.arange(size, dtype=float)
    out = spline(np.clip(x, nodes[0], nodes[-1]))
    for node, outside in ((nodes[0], x < nodes[0]), (nodes[-1], x > nodes[-1])):
        d = x[outside] - node
        out[outside] = spline(node) + d * spline(node, 1) + d * d / 2 * spline(node, 2)
    return out


@pytest.mark.parametrize(
    ("n_cells", "make"),
    [
        (9, Akima1DInterpolator),
        (5, Akima1DInterpolator),
        (4, lambda x, y: CubicSpline(x, y, bc_type="natural")),
        (3, lambda x, y: CubicSpline(x, y, bc_type="natural")),
    ],
)
def test_surface_is_a_spline_of_splines(xp, n_cells, make):
    size = n_cells * 8
    image = noise((size, size))
    usable = np.ones(image.shape, bool)
    surface = to_host(background(xp.asarray(image), xp.asarray(usable), bin_size=8))
    cells = cell_means(image, usable, bin_size=8)
    nodes = cell_edges(size, 8)[1]
    columns = np.stack([with_extrapolation(make(nodes, cells[:, j]), nodes, size) for j in range(n_cells)], axis=1)
    expected = np.stack([with_extrapolation(make(nodes, row), nodes, size) for row in columns])
    assert_allclose(surface, expected, rtol=1e-6, atol=1e-6)  # float64 down the columns, float32 along the rows


def test_two_cells_make_a_line_and_one_a_constant():
    image = np.repeat(np.repeat(np.array([[0, 8], [16, 24]], np.float32), 4, 0), 4, 1)
    surface = background(image, np.ones(image.shape, bool), bin_size=4)
    y, x = np.mgrid[:8, :8] - 1.5
    assert_allclose(surface, 2 * x + 4 * y, rtol=1e-6, atol=1e-6)
    assert_array_equal(background(image[:4, :4], np.ones((4, 4), bool), bin_size=4), 0)


def test_a_strip_one_cell_high_takes_the_nearest_cell():
    image = np.repeat(np.array([[1, 2, 3]], np.float32), 4, 1).repeat(4, 0)
    surface = background(image, np.ones(image.shape, bool), bin_size=4)
    assert_array_equal(surface[0], [1] * 4 + [2] * 4 + [3] * 4)


def test_masked_cells_are_bridged(xp):
    y, x = np.mgrid[:96, :96]
    image = (0.5 * x + y).astype(np.float32)
    usable = np.ones(image.shape, bool)
    usable[32:40, 40:48] = False
    usable[:, 80:88] = False
    surface = to_host(background(xp.asarray(image), xp.asarray(usable), bin_size=8))
    assert_allclose(surface, image, rtol=1e-6, atol=1e-5)  # a plane is a plane, however many nodes are missing


@pytest.mark.parametrize("shape", [(5, 60), (60, 5), (16, 50), (24, 70), (32, 33), (70, 97)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_row_coefficients_make_the_background(xp, shape, share):
    rng = np.random.default_rng(8)
    images = [noise(shape, seed) for seed in (3, 4, 5)]
    n_y, n_x = (len(cell_edges(size, 8)[1]) for size in shape)
    rough = rng.random((3, n_y, n_x)) >= share
    rough[:, 0, 0], rough[2] = True, False
    y, x = (np.searchsorted(cell_edges(size, 8)[0][1:], np.arange(size), side="right") for size in shape)
    usable = rough[:, y][:, :, x]
    planes = [(xp.asarray(image), xp.asarray(good)) for image, good in zip(images, usable, strict=True)]
    splines = row_coefficients(xp.stack([cell_means(*each, bin_size=8) for each in planes]), shape, bin_size=8)
    assert_array_equal(splines.measured, [True, True, False])
    for epoch in range(3):
        at = splines.piece[epoch]
        a, b, c, d = (splines.coefficients[epoch].take(at, axis=1)[..., power] for power in range(4))
        o = splines.offset[epoch]
        surface = to_host(a + o * (b + o * (c + o * d)))
        if splines.measured[epoch]:
            assert_array_equal(surface, to_host(background(*planes[epoch], bin_size=8)))
        else:
            assert np.isnan(surface).all()


def test_nothing_left():
    image = noise((40, 40))
    assert np.isnan(background(image, np.zeros(image.shape, bool), bin_size=32)).all()


def scale(image, variance, mask=None, **options):
    mask = np.zeros(image.shape, np.int32) if mask is None else mask
    variance = np.broadcast_to(np.float32(variance), image.shape).copy()
    return variance_scale(image, variance, mask, schema=SCHEMA, config=VarianceScaling(**options))


def test_scale_recovers_the_scatter():
    factor = scale(noise((256, 256), scale=2.0), 1.0)
    # 0.74 for 0.7413 is 0.35 % low; the quartile width of 65536 samples is good to 0.5 % per sigma, squared
    assert factor == pytest.approx(4.0 * (0.74 / 0.7413) ** 2, rel=0.03)


def test_scale_above_the_limit_is_not_applied():
    assert np.isnan(scale(noise((128, 128), scale=4.0), 1.0))
    assert scale(noise((128, 128), scale=4.0), 1.0, limit=20.0) == pytest.approx(16, rel=0.1)


def test_second_try_uses_the_median_variance():
    image = noise((128, 128), scale=2.0)
    variance = np.full(image.shape, 0.05, np.float32)  # wrong for a part of the pixels
    variance[:, 50:] = 1.0
    factor = variance_scale(
        image, variance, np.zeros(image.shape, np.int32), schema=SCHEMA, config=VarianceScaling(limit=5.0)
    )
    assert factor == pytest.approx(4, rel=0.1)


def test_scale_of_nothing():
    image = noise((64, 64))
    masked = np.full(image.shape, SCHEMA.bitmask("BAD"), np.int32)
    assert np.isnan(scale(image, 1.0, masked))
    assert scale(image, 0.0) == 1.0  # no positive variance: fewer than two pixels to measure on


def test_scatter_and_background_may_leave_out_different_planes():
    image = noise((128, 128))
    mask = np.zeros(image.shape, np.int32)
    mask[:, ::2] = SCHEMA.bitmask("CR")
    image[:, ::2] *= 5
    assert scale(image, 1.0, mask, mask_planes=("CR",)) == pytest.approx(1, rel=0.1)
    assert scale(image, 1.0, mask) > 2
