"""The CUDA labeller, run on the CPU, against SciPy's."""

from __future__ import annotations

import importlib

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal
from scipy import ndimage

from gpucoadd.fallback.flags import as_words
from gpucoadd.fallback.labelling import label as twin
from gpucoadd.planes import n_words

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

WITHIN_PLANES = np.zeros((3, 3, 3), bool)
WITHIN_PLANES[1] = True


@pytest.fixture
def cupy():
    with standin.device() as cupy:
        yield cupy


def check(cupy, planes):
    """Labels as SciPy's, of the pixels in raster order, with two reads from the device; one where there is none."""
    words = as_words(planes)
    on_device = cupy.asarray(words)
    reads = standin.host_reads
    pixels, labels, n = importlib.import_module("gpucoadd.kernels.labelling").label(on_device, planes.shape[2])
    assert standin.host_reads - reads == (2 if planes.any() else 1)
    assert (pixels.dtype, labels.dtype, type(n)) == (np.int32, np.int32, int)
    expected, n_expected = ndimage.label(planes, structure=WITHIN_PLANES)
    assert n == n_expected
    assert_array_equal(pixels.get(), np.flatnonzero(planes))
    assert_array_equal(labels.get(), expected.ravel()[np.flatnonzero(planes)])
    assert_array_equal(on_device.get(), words)


def picture(*rows):
    return np.array([[column == "#" for column in row] for row in rows])


def spiral(size):
    """One arm, one pixel wide with one pixel between its turns, from the corner to the middle."""
    plane = np.zeros((size, size), bool)
    top, bottom, left, right = 0, size - 1, 0, size - 1
    plane[0, 0] = True
    while left <= right and top <= bottom:
        plane[top, max(left - 2, 0) : right + 1] = True
        plane[top : bottom + 1, right] = True
        plane[bottom, left : right + 1] = True
        plane[top + 2 : bottom + 1, left] = True
        top, bottom, left, right = top + 2, bottom - 2, left + 2, right - 2
    return plane


def pictures(n_rows, n_columns):
    """Planes that are hard for one rule or another, by name."""
    y, x = np.mgrid[:n_rows, :n_columns]
    wedge = np.abs(x - n_columns // 2)
    size = min(n_rows, n_columns)
    curl = np.zeros((n_rows, n_columns), bool)
    curl[:size, n_columns - size :] = spiral(size)
    return {
        "full": y >= 0,
        "empty": y < 0,
        "chessboard": (x + y) % 2 == 0,
        "dots": (x % 2 == 0) & (y % 2 == 0),
        "rows": y % 2 == 0,
        "columns": x % 2 == 0,
        "falling lines": (x - y) % 5 == 0,
        "rising lines": (x + y) % 5 == 0,
        "comb": (x % 2 == 0) | (y == n_rows - 1),
        "comb, upside down": (x % 2 == 0) | (y == 0),
        "teeth of many lengths": (x % 2 == 0) & (y >= x * 7 % n_rows) | (y == n_rows - 1),
        "U in U": (x % 2 == 0) & (y <= n_rows - 1 - x // 2) | (y % 3 == 1) & (x > 3),
        "V": (wedge == n_rows - 1 - y) | (wedge == n_rows + 2 - y),
        "A": (wedge == y) | (wedge == y + 3),
        "spiral": curl,
        "spiral, turned": curl[::-1, ::-1],
        "frame": (x == 0) | (y == 0) | (x == n_columns - 1) | (y == n_rows - 1),
        "first and last column": (x == 0) | (x == n_columns - 1),
        "last pixel": (x == n_columns - 1) & (y == n_rows - 1),
    }


SIZES = [(1, 1), (1, 70), (70, 1), (9, 31), (9, 32), (9, 33), (12, 63), (12, 64), (12, 65), (33, 97)]


@pytest.mark.parametrize("name", pictures(1, 1))
def test_pictures(cupy, name):
    for n_rows, n_columns in SIZES:
        check(cupy, pictures(n_rows, n_columns)[name][None])


@pytest.mark.parametrize("size", SIZES)
def test_all_pictures_as_one_stack(cupy, size):
    stack = np.stack(list(pictures(*size).values()))
    check(cupy, stack)
    check(cupy, stack[::-1])


def test_the_rules_of_a_row_with_the_row_above(cupy):
    """Every picture of 3 x 5 pixels, each a plane of its own; and again across the end of a word."""
    number = np.arange(2**15, dtype=np.uint16)
    every = (number[:, None] >> np.arange(15, dtype=np.uint16) & 1).astype(bool).reshape(-1, 3, 5)
    check(cupy, every)
    across = np.zeros((len(every), 3, 36), bool)
    across[:, :, 29:34] = every
    check(cupy, across)


@pytest.mark.parametrize("density", [0.01, 0.1, 0.3, 0.45, 0.6, 0.8, 0.95])
@pytest.mark.parametrize("size", SIZES)
def test_random(cupy, size, density):
    check(cupy, np.random.default_rng(6).random((4, *size)) < density)


def test_a_larger_stack(cupy):
    rng = np.random.default_rng(7)
    check(cupy, ndimage.gaussian_filter(rng.normal(size=(3, 150, 331)), (0, 1.5, 1.5)) > 0.12)
    check(cupy, ndimage.gaussian_filter(rng.normal(size=(3, 150, 331)), (0, 1.5, 9)) > -0.01)


@pytest.mark.parametrize("n_columns", [31, 32, 33, 64])
def test_rows_and_planes_end_where_they_end(cupy, n_columns):
    """What lies next to each other in memory only: the end of a row and the next, the end of a plane and the next."""
    planes = np.zeros((3, 4, n_columns), bool)
    planes[:, 1, -1], planes[:, 2, 0], planes[:, 3, 0] = True, True, True
    check(cupy, planes)
    planes = np.zeros((3, 3, n_columns), bool)
    planes[0, -1], planes[1, 0], planes[1, -1, -1], planes[2, 0, 0] = True, True, True, True
    check(cupy, planes)
    check(cupy, np.ones((3, 2, n_columns), bool))


def test_footprints_that_touch_at_the_end_of_a_word(cupy):
    rows = ["." * 31 + "#.." + "." * 30, "." * 32 + "#." + "." * 30, "." * 31 + "#.#" + "." * 30]
    rows += ["." * 30 + "##.." + "." * 30, "." * 32 + "##" + "." * 30]
    check(cupy, picture(*rows)[None])
    check(cupy, picture(*rows)[None, :, ::-1])
    check(cupy, picture(*(row[1:] for row in rows))[None])


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_the_threads(cupy, seed):
    rng = np.random.default_rng(seed)
    with hostcuda.shuffled(seed):
        check(cupy, rng.random((3, 20, 75)) < rng.uniform(0.2, 0.7))
        check(cupy, np.stack([plane for name, plane in pictures(15, 70).items() if name != "empty"]))


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 3, 0)])
def test_no_pixels(cupy, shape):
    words = cupy.zeros((*shape[:2], n_words(shape[2])), dtype=cupy.uint32)
    pixels, labels, n = importlib.import_module("gpucoadd.kernels.labelling").label(words, shape[2])
    assert (pixels.shape, labels.shape, n, standin.host_reads) == ((0,), (0,), 0, 0)
    assert pixels.dtype == labels.dtype == np.int32


def test_a_view_and_the_twin(cupy):
    planes = np.random.default_rng(12).random((5, 8, 70)) < 0.2
    words = cupy.asarray(as_words(planes))
    found = importlib.import_module("gpucoadd.kernels.labelling").label(words[::2], 70)
    expected = twin(np.ascontiguousarray(planes[::2]), 70)
    assert_array_equal(found[0].get(), expected[0])
    assert_array_equal(found[1].get(), expected[1])
    assert found[2] == expected[2]


def test_too_many_pixels_are_refused(cupy):
    words = cupy.broadcast_to(cupy.zeros((1, 1, 1), dtype=cupy.uint32), (2, 32768, 1024))
    message = r"planes \(2, 32768, 32768\) .* more than 2147483647 pixels.*pass fewer epochs"
    with pytest.raises(ValueError, match=message):
        importlib.import_module("gpucoadd.kernels.labelling").label(words, 32768)
