"""The CUDA evaluation of the background, run on the host, against the NumPy one."""

from __future__ import annotations

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal

from gpucoadd import fallback
from gpucoadd.background import RowSplines, cell_edges, cell_means, row_coefficients

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

BITS = 2 | 16


def planes(shape, seed=1):
    """Noise with what a warp may hold: stars, holes, infinities, denormals, zero and negative variances, bits."""
    rng = np.random.default_rng(seed)
    image = rng.normal(20, 3, shape).astype(np.float32)
    variance = rng.uniform(0.5, 2, shape).astype(np.float32)
    mask = rng.choice(np.int32([0, 0, 0, 1, 2, 4, 16, 64 | 2]), shape).astype(np.int32)
    odd = [np.nan, np.inf, -np.inf, 1e-42, 0.0, -0.0, 1e15]
    for plane, values in ((image, odd), (variance, [*odd, -1.0])):
        where = rng.random(shape) < 0.1
        plane[where] = rng.choice(np.float32(values), np.count_nonzero(where))
    return image, variance, mask


def expected_residual(image, variance, mask, level):
    """The definition, in one line."""
    values = image - level
    good = ((mask & BITS) == 0) & np.isfinite(values) & (variance > 0) & (variance < np.float32(np.inf))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(good, values / np.sqrt(variance), np.float32(np.inf))


def check(image, variance, mask, usable, bin_size):
    """Level and residual from the same cells are those of NumPy to the bit; the device is waited for once."""
    shape = image.shape[1:]
    cells = cell_means(image, np.where(usable, 0, 1).astype(np.int32), 1, bin_size=bin_size)
    on_host = row_coefficients(cells, shape, bin_size=bin_size)
    level = fallback.background_level(on_host)
    assert_array_equal(
        fallback.background_residual(image, variance, mask, on_host, BITS),
        expected_residual(image, variance, mask, level).reshape(len(image), -1),
    )
    with standin.device() as cupy:
        from gpucoadd.kernels.background_level import background_level, background_residual

        given = cupy.asarray(cells)
        standin.reset()
        splines = row_coefficients(given, shape, bin_size=bin_size)
        assert standin.host_reads == 1
        found = background_residual(*map(cupy.asarray, (image, variance, mask)), splines, BITS)
        found_level = background_level(splines)
        assert standin.host_reads == 1
        assert found.dtype == found_level.dtype == np.float32
        assert_array_equal(found_level.get(), level)
        assert_array_equal(found.get(), expected_residual(image, variance, mask, level).reshape(len(image), -1))
        assert_array_equal(given.get(), cells)
    assert_array_equal(splines.measured, np.isfinite(cells).any(axis=(1, 2)))
    return level


def usable_pixels(kind, shape, bin_size):
    """Bool planes (epoch, y, x) that leave cells without a pixel in different ways."""
    usable = np.ones(shape, bool)
    rng = np.random.default_rng(5)
    edges = [cell_edges(size, bin_size)[0] for size in shape[1:]]

    def drop(epoch, i, j):
        usable[epoch, edges[0][i] : edges[0][i + 1], edges[1][j] : edges[1][j + 1]] = False

    n_y, n_x = (len(e) - 1 for e in edges)
    for epoch in range(shape[0]):
        for i in range(n_y):
            for j in range(n_x):
                if {
                    "all": False,
                    "tilted": i + 2 * j < n_y / 2 + epoch,
                    "columns": j % 3 == epoch,
                    "half": rng.random() < 0.5,
                    "few": rng.random() < 0.85,
                    "one epoch": epoch == 0,
                }[kind]:
                    drop(epoch, i, j)
    return usable


KINDS = ["all", "tilted", "columns", "half", "few", "one epoch"]
# Sizes for 1, 2, 3, 4, 5 and many cells of 8 pixels along an axis, even and with odd remainders.
SHAPES = [
    (1, 1, 1),
    (3, 8, 8),
    (3, 5, 60),
    (3, 60, 5),
    (3, 16, 50),
    (3, 41, 24),
    (2, 24, 70),
    (3, 32, 33),
    (3, 40, 40),
    (2, 39, 97),
    (3, 97, 64),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_numpy(shape, kind):
    image, variance, mask = planes(shape)
    check(image, variance, mask, usable_pixels(kind, shape, 8) & np.isfinite(image) & (np.abs(image) < 1e10), 8)


@pytest.mark.parametrize("bin_size", [1, 2, 3, 7, 13, 31, 64])
@pytest.mark.parametrize("kind", ["all", "half"])
def test_bin_sizes(bin_size, kind):
    shape = (2, 37, 31)
    image, variance, mask = planes(shape, seed=2)
    check(image, variance, mask, usable_pixels(kind, shape, bin_size) & (np.abs(image) < 1e10), bin_size)


def test_flat_cells_make_lines():
    """Where neighbouring slopes are equal, the weights of Akima's rule are 0 / 0."""
    shape = (2, 64, 64)
    image = np.repeat(np.arange(64, dtype=np.float32) // 24, 64).reshape(1, 64, 64) * np.ones(shape, np.float32)
    for kind in ("all", "half"):
        level = check(image, image + 1, np.zeros(shape, np.int32), usable_pixels(kind, shape, 8), 8)
        assert np.isfinite(level).all()


def test_bands_of_a_larger_stack():
    """Rows of a stack are views that are not contiguous; the stacks of the planes may be cut differently."""
    image, variance, mask = planes((3, 50, 40))
    cells = np.random.default_rng(1).normal(20, 1, (2, 4, 5))
    with standin.device() as cupy:
        from gpucoadd.kernels.background_level import background_level, background_residual

        splines = row_coefficients(cupy.asarray(cells), (32, 40), bin_size=8)
        stacks = (image, np.concatenate([variance, variance], axis=1), np.concatenate([mask, mask, mask], axis=1))
        views = [cupy.asarray(stack)[1:, 9:41] for stack in stacks]
        found = background_residual(*views, splines, BITS).get()
        level = background_level(splines).get()
    expected = expected_residual(*(plane[1:, 9:41] for plane in (image, variance, mask)), level)
    assert_array_equal(found, expected.reshape(2, -1))


def count_calls(cells, shape):
    """How often array code calls the stand-in: every launch is one, and every view."""
    calls = []

    def wrap(value, original=standin._wrap):
        calls.append(value)
        return original(value)

    with standin.installed() as cupy, pytest.MonkeyPatch.context() as patch:
        given = cupy.asarray(cells)
        patch.setattr(standin, "_wrap", wrap)
        row_coefficients(given, shape, bin_size=8)
    return len(calls)


def test_number_of_launches_does_not_grow_with_the_epochs():
    cells = np.random.default_rng(1).normal(size=(6, 9, 8))
    cells[:, np.arange(9)[:, None] < np.arange(8) - 4] = np.nan  # some columns have nodes of their own
    assert count_calls(cells[:2], (72, 64)) == count_calls(cells, (72, 64)) < 300


def test_splines_of_other_planes_are_refused():
    image, variance, mask = planes((2, 16, 24))
    with standin.device() as cupy:
        from gpucoadd.kernels.background_level import background_residual

        splines = row_coefficients(cupy.ones((3, 2, 3)), (16, 24), bin_size=8)
        with pytest.raises(
            ValueError, match=r"splines are for planes of shape \(3, 16, 24\) .* image has \(2, 16, 24\)"
        ):
            background_residual(*map(cupy.asarray, (image, variance, mask)), splines, BITS)


def test_too_many_epochs_are_refused():
    with standin.device() as cupy:
        from gpucoadd.kernels.background_level import background_level, background_residual

        n = 65536
        splines = RowSplines(
            cupy.zeros((n, 1, 1, 4), dtype=cupy.float32),
            cupy.zeros((n, 1), dtype=cupy.int32),
            cupy.zeros((n, 1), dtype=cupy.float32),
            np.ones(n, bool),
        )
        plane = cupy.zeros((n, 1, 1), dtype=cupy.float32)
        with pytest.raises(ValueError, match="65536 epochs; a grid has room for 65535, so pass fewer"):
            background_level(splines)
        with pytest.raises(ValueError, match="65536 epochs; a grid has room for 65535"):
            background_residual(plane, plane, plane.astype(cupy.int32), splines, BITS)
