"""The CUDA filling of bad runs, run on the host, against the NumPy one."""

from __future__ import annotations

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal

from gpucoadd import fallback

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

NO_DATA, INTRP, OTHER = 256, 4, 1
OPTIONS = [(at_edge, transpose) for at_edge in (True, False) for transpose in (True, False)]


def planes(bad, seed=1, odd=0.0):
    """Image, variance and mask with these bad pixels; a share `odd` of all is NaN, infinite, zero or negative."""
    rng = np.random.default_rng(seed)
    image = rng.normal(50, 20, bad.shape).astype(np.float32)
    variance = rng.uniform(1, 3, bad.shape).astype(np.float32)
    for plane in (image, variance):
        where = rng.random(bad.shape) < odd
        plane[where] = rng.choice(np.float32([np.nan, np.inf, -np.inf, 0, -7, 3e38]), np.count_nonzero(where))
    mask = np.where(bad, NO_DATA, 0) | rng.choice([0, OTHER, INTRP], bad.shape)
    return image, variance, mask.astype(np.int32)


def check(given, level=12.3456789, at_edge=True, transpose=False):
    """The kernel gives NumPy's bits, wherever the level lies, waits for nothing and leaves the input as it was."""
    with np.errstate(over="ignore"):  # of a variance of 3e38
        expected = fallback.fill_bad_runs(*given, NO_DATA, INTRP, level, at_edge, transpose)
    with standin.device() as cupy:
        from gpucoadd.kernels.filling import fill_bad_runs

        device = [cupy.asarray(plane) for plane in given]
        levels = [level, cupy.asarray(np.array(level)), cupy.asarray(np.array([level], np.float32))]
        for value in levels:
            standin.reset()
            found = fill_bad_runs(*device, NO_DATA, INTRP, value, at_edge, transpose)
            assert standin.host_reads == 0
            for name, plane, wanted in zip(("image", "variance", "mask"), found, expected, strict=True):
                assert plane.dtype == wanted.dtype and plane.flags.c_contiguous
                assert_array_equal(plane.get(), wanted, err_msg=name)
        for plane, before in zip(device, given, strict=True):
            assert_array_equal(plane.get(), before)
    return expected


@pytest.mark.parametrize(("at_edge", "transpose"), OPTIONS)
@pytest.mark.parametrize("odd", [0.0, 0.2])
@pytest.mark.parametrize("width", [1, 2, 3, 7, 10])
def test_every_pattern_of_a_short_row(width, odd, at_edge, transpose):
    rows = np.arange(2**width)[:, None] >> np.arange(width) & 1 != 0
    check(planes(rows.T if transpose else rows, odd=odd), at_edge=at_edge, transpose=transpose)


@pytest.mark.parametrize(("at_edge", "transpose"), OPTIONS)
@pytest.mark.parametrize("width", [5, 31, 32, 33, 64, 65, 97])
def test_runs_of_every_length_at_every_place(width, at_edge, transpose):
    """One run in each row: in the middle, at either border, across the borders of words; or two at both borders."""
    at = np.arange(width)
    lengths = [n for n in (*range(21), 31, 32, 33, 34, 64, 65, 97) if n <= width]
    starts = [0, 1, 2, 3, 20, 30]
    rows = [(at >= start) & (at < start + n) for n in lengths for start in (*starts, width - n - 1, width - n)]
    rows += [(at < n) | (at >= width - m) for n in lengths[:12] for m in lengths[:12]]
    rows += [at % 2 == 0, at % 2 == 1, at % 3 == 0, at % 3 > 0]
    bad = np.array(rows)
    check(planes(bad.T if transpose else bad, odd=0.05), at_edge=at_edge, transpose=transpose)


@pytest.mark.parametrize(("at_edge", "transpose"), OPTIONS)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (33, 97), (70, 31)])
def test_noise(shape, density, at_edge, transpose):
    bad = np.random.default_rng(7).random(shape) < density
    check(planes(bad, odd=0.1), at_edge=at_edge, transpose=transpose)


@pytest.mark.parametrize("level", [np.nan, 0.0, -3.5, np.inf])
def test_levels(level):
    bad = np.zeros((6, 40), bool)
    bad[0] = True
    bad[1, :8], bad[2, -8:], bad[3, :7], bad[4, -7:] = True, True, True, True
    bad[5, :9] = bad[5, 10:] = True
    image, variance, _ = check(planes(bad), level=level)
    assert_array_equal(image[0], np.float32(level))
    assert_array_equal(variance[0], np.float32(level) if level > 0 else np.inf)


def test_a_nan_prediction_becomes_the_mean_of_the_nearest():
    bad = np.array([[False, False, True, False, False]])
    image, variance, mask = planes(bad)
    image[0] = [np.nan, 4, 0, 6, 1]
    assert check((image, variance, mask))[0][0, 2] == 5


def test_all_bits_but_no_data_are_good():
    bad = np.zeros((3, 40), bool)
    image, variance, mask = planes(bad)
    mask[...] = ~NO_DATA
    filled, _, flags = check((image, variance, mask))
    assert_array_equal(filled, image)
    assert_array_equal(flags, mask)


def test_views_are_taken_as_they_are():
    """Planes that are not contiguous give what copies of them give."""
    given = planes(np.random.default_rng(3).random((40, 66)) < 0.4)
    expected = fallback.fill_bad_runs(*(plane[1::2, ::3] for plane in given), NO_DATA, INTRP, 1.0, True, False)
    with standin.device() as cupy:
        from gpucoadd.kernels.filling import fill_bad_runs

        views = [cupy.asarray(plane)[1::2, ::3] for plane in given]
        found = fill_bad_runs(*views, NO_DATA, INTRP, 1.0, True, False)
        for plane, wanted in zip(found, expected, strict=True):
            assert_array_equal(plane.get(), wanted)


def test_two_launches():
    given = planes(np.ones((3, 40), bool))
    with standin.device() as cupy:
        from gpucoadd.kernels.filling import fill_bad_runs

        hostcuda.reset()
        fill_bad_runs(*map(cupy.asarray, given), NO_DATA, INTRP, 1.0, True, False)
    standin.expect_launches({"flag_bad_in_rows": 1, "fill_runs": 1})
