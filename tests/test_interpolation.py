"""Filling of NO_DATA pixels."""

import numpy as np
import oracles
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from gpucoadd import Interpolation
from gpucoadd.backend import to_host
from gpucoadd.interpolation import interpolate

NO_DATA, INTRP = 256, 4


def fill(xp, image, bad, **options):
    image = np.asarray(image, np.float32)
    variance = np.full(image.shape, 2, np.float32)
    mask = np.where(bad, NO_DATA, 0).astype(np.int32)
    planes = interpolate(
        *(xp.asarray(plane) for plane in (image, variance, mask)),
        no_data=NO_DATA,
        interpolated=INTRP,
        config=Interpolation(**options),
    )
    return [to_host(plane) for plane in planes]


def test_one_bad_pixel_takes_the_tabulated_weights(xp):
    image = np.array([[1.0, 10.0, np.nan, 100.0, 1000.0]])
    filled, variance, mask = fill(xp, image, np.isnan(image))
    # LSST tabulates -0.2737, 0.7737 on either side, to four decimals
    assert filled[0, 2] == pytest.approx(-0.2737 * 1001 + 0.7737 * 110, abs=1e-4 * 1000)
    assert variance[0, 2] == pytest.approx(2.0, rel=1e-6)
    assert mask[0, 2] == NO_DATA | INTRP


def test_extrapolation_by_one(xp):
    image = np.array([[np.nan, 10.0, 20.0, 30.0]])
    filled, _, _ = fill(xp, image, np.isnan(image))
    assert filled[0, 0] == pytest.approx(1.4288 * 10 - 0.4288 * 20, abs=1e-4 * 20)


@pytest.mark.parametrize("seed", range(6))
def test_equals_kriging_pixel_by_pixel(xp, seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 5, size=(9, 40)).astype(np.float32)
    bad = np.zeros(image.shape, bool)
    for row in range(9):
        for _ in range(3):
            start = rng.integers(0, 40)
            bad[row, start : start + rng.integers(1, 14)] = True
    image[bad] = np.nan
    filled, _, _ = fill(xp, image, bad)
    level = np.float32(np.median(image[np.isfinite(image)]))
    for row in range(9):
        expected = oracles.kriging_interpolate(image[row], bad[row], fallback=level)
        # weights solved in float64 both times, the result rounded to float32 once
        assert_allclose(filled[row], expected, rtol=3e-7)
    assert_array_equal(filled[~bad], image[~bad])


def test_a_row_without_good_pixels_takes_the_median(xp):
    image = np.array([[np.nan] * 4, [1, 2, 3, 10]])
    filled, _, mask = fill(xp, image, np.isnan(image))
    assert_array_equal(filled[0], 2.5)
    assert (mask[0] == NO_DATA | INTRP).all()


@pytest.mark.parametrize(
    ("options", "level"),
    [
        ({"fallback": "MEAN"}, 4.0),
        ({"fallback": "MEANCLIP"}, 2.0),
        ({"fallback": "USER", "fallback_value": 7.0}, 7.0),
        ({"fallback": "USER", "fallback_value": -7.0}, 0.0),
        ({"fallback": "USER", "fallback_value": -7.0, "negative_fallback": True}, -7.0),
    ],
)
def test_fallback_kinds(xp, options, level):
    image = np.array([[np.nan] * 4, [1, 2, 3, 10]])
    filled, _, _ = fill(xp, image, np.isnan(image), **options)
    assert_allclose(filled[0], level)


def test_transposed(xp):
    image = np.random.default_rng(2).normal(size=(7, 9)).astype(np.float32)
    bad = np.zeros(image.shape, bool)
    bad[2:4, 3] = True
    across, _, _ = fill(xp, image, bad)
    down, _, _ = fill(xp, image, bad, transpose=True)
    turned, _, _ = fill(xp, image.T, bad.T)
    assert_array_equal(down, turned.T)
    assert (across != down).any()


def test_long_border_runs_take_the_level_but_for_six_pixels(xp):
    image = np.concatenate([np.full(10, np.nan), np.arange(50.0, 60.0)])[None]
    filled, _, _ = fill(xp, image, np.isnan(image))
    assert_array_equal(filled[0, :4], 54.5)
    assert (filled[0, 4:10] != 54.5).all()
    straight, _, _ = fill(xp, image, np.isnan(image), fallback_at_edge=False)
    assert (straight[0, :4] != 54.5).all()


def test_variance_becomes_positive(xp):
    image, mask = xp.zeros((1, 3), dtype=xp.float32), xp.zeros((1, 3), dtype=xp.int32)
    variance = xp.asarray(np.array([[np.nan, 0.0, 1.0]], np.float32))
    _, filled, _ = interpolate(image, variance, mask, no_data=NO_DATA, interpolated=INTRP, config=Interpolation())
    assert_array_equal(to_host(filled), [[np.inf, np.inf, 1.0]])


def test_off_changes_nothing():
    image = np.array([[np.nan]], np.float32)
    planes = image, image, np.array([[NO_DATA]], np.int32)
    result = interpolate(*planes, no_data=NO_DATA, interpolated=INTRP, config=Interpolation(enabled=False))
    for before, after in zip(planes, result, strict=True):
        assert_array_equal(before, after)


def test_nan_neighbour_gives_the_mean_of_the_adjacent():
    image = np.array([[np.nan, 4.0, 0.0, 6.0, 1.0]], np.float32)
    bad = np.array([[False, False, True, False, False]])
    filled, _, _ = fill(np, image, bad)
    assert filled[0, 2] == 5.0
