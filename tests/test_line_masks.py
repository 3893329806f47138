"""Profiles and masks of lines."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from trails import light, noise, planes

from gpucoadd import to_host
from gpucoadd.line_fits import Fit
from gpucoadd.line_images import streak_images
from gpucoadd.line_masks import _with_wings, extended, line_profile, mask_pixels, paint_lines
from gpucoadd.lines import Line

SHAPE = (220, 300)
LINE = Line(False, -0.5, 299.5, 60.0, 150.0)


def profile(crest, width, *, sign=1, z=20.0, line=LINE, extra=0.0, xp=np, psf_sigma=2.0, variance=1.0, seed=1):
    trail = light(SHAPE, *line.ends(), crest=crest, width=width)
    difference, variances, bad = planes(
        np.sqrt(np.float32(variance)) * (noise(SHAPE, seed) + trail + np.float32(extra)), xp=xp, variance=variance
    )
    images = streak_images(difference, variances, bad, mesh=0)
    fit = Fit(line, sign, width, z, z, 1.0, 1.0, line.length)
    found = line_profile(difference, variances, images, fit, psf_sigma=psf_sigma, mask_level=0.1, clip=3.0)
    # The unit is the scatter, which the line itself raises by some per cent in so small an image.
    unit = images.unit / np.sqrt(variance)
    return found._replace(crest=unit * found.crest, values=unit * found.values, blocks=unit * found.blocks)


@pytest.mark.parametrize(("crest", "width"), [(3, 2.0), (10, 2.6), (50, 2.6), (5, 5.0), (-10, 2.0)])
def test_crest_and_width_are_those_of_the_light(xp, crest, width):
    found = profile(crest, width, sign=np.sign(crest), xp=xp, variance=4.0)
    # Noise of 1 over some 300 x 3.5 w pixels, with a trimmed mean and a level: 0.1 at most; 300 pixels are clipped.
    assert_allclose(found.crest, abs(crest), rtol=0.03, atol=0.1)
    assert_allclose(found.width, width, rtol=0.05)
    half = len(found.values) // 2
    expected = crest * np.exp(-0.5 * (np.arange(-half, half + 1) / width) ** 2)
    assert_allclose(found.values, expected, rtol=0.05, atol=0.35)
    assert_allclose(np.nanmedian(found.blocks), crest, rtol=0.05, atol=0.2)
    assert np.sign(crest) == np.sign(found.blocks).mean()


def test_half_width_reaches_the_mask_level():
    found = profile(20, 2.5)
    assert_allclose(found.half_width, 2.5 * np.sqrt(2 * np.log(20 / 0.1)) + 1, rtol=0.05)
    faint = profile(0.5, 2.0, z=9.0, seed=2)
    assert 5.0 <= faint.half_width < 8.5  # two widths and a pixel, at least


def test_wings_widen_the_mask():
    core, wings = 8.0, light(SHAPE, *LINE.ends(), crest=1.0, width=7.0)
    narrow = profile(core, 2.0)
    wide = profile(core, 2.0, extra=wings)
    # The wings have fallen to 0.1 at 15 pixels; errors of the profile are some 0.06.
    assert 12 < wide.half_width < 20 and wide.half_width > narrow.half_width + 3


@pytest.mark.parametrize(
    ("values", "error", "reach"),
    [(0.2, 0.05, 8.5), (0.2, 0.07, 4.2), (0.1, 0.01, 4.2), (0.11, 0.01, 8.5)],
)
def test_wings_must_be_brighter_than_the_level_and_their_errors(values, error, reach):
    place = np.arange(-12, 13)
    profile = np.where(abs(place) <= 8, values, 0.0)
    profile[place == 11] = 9.0  # beyond a faint bin, not part of the wings
    for side in (place <= 0, place >= 0):
        one_sided = np.where(side | (abs(place) > 8), profile, 0.0)
        assert _with_wings(place, one_sided, np.full(25, error), 4.2, 0.1) == reach


def test_a_star_on_the_line_hardly_matters():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    star = 500 * np.exp(-((y - 108) ** 2 + (x - 160) ** 2) / 8)
    plain, spoilt = profile(3, 2.0), profile(3, 2.0, extra=star)
    assert_allclose([spoilt.crest, spoilt.width], [plain.crest, plain.width], rtol=0.05)


def test_a_bright_part_counts_for_the_width():
    flash = light(SHAPE, *LINE.between(100, 180).ends(), crest=40, width=2.0)
    assert profile(2, 2.0, extra=flash).half_width > 2.0 * np.sqrt(2 * np.log(20 / 0.1)) + 1


def test_faint_lines_are_as_wide_as_the_psf():
    assert profile(0.4, 2.0, z=7.0, psf_sigma=2.5).width >= 2.5


def test_bad_pixels_are_not_measured():
    difference, variance, bad = planes(noise(SHAPE) + light(SHAPE, *LINE.ends(), crest=4, width=2.0))
    bad[:, 40:120] = True
    difference[:, 40:120] = np.nan
    images = streak_images(difference, variance, bad, mesh=0)
    fit = Fit(LINE, 1, 2.0, 20.0, 20.0, 1.0, 1.0, 200.0)
    found = line_profile(difference, variance, images, fit, psf_sigma=2.0, mask_level=0.1, clip=3.0)
    assert_allclose(found.crest, 4, rtol=0.05)
    assert np.isnan(found.blocks).sum() == 4 and np.isfinite(found.blocks).sum() == 15


@pytest.mark.parametrize("vertical", [False, True])
def test_masks_have_the_pixels_within_the_half_width(xp, vertical):
    line = Line(vertical, 20.0, 150.3, 30.2, 95.7)
    mask = to_host(paint_lines([(line, 4.5)], SHAPE, xp))
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    major, minor = (y, x) if vertical else (x, y)
    distance = abs(minor - (30.2 + (major - 20) * 65.5 / 130.3)) / np.hypot(1, 65.5 / 130.3)
    assert_array_equal(mask, (distance <= 4.5) & (major >= 20) & (major <= 150.3))
    assert_array_equal(np.flatnonzero(mask), np.sort(mask_pixels(line, 4.5, SHAPE)))


def test_pixels_at_the_half_width_are_masked(xp):
    mask = to_host(paint_lines([(Line(False, 10.0, 20.0, 50.0, 50.0), 3.0)], SHAPE, xp))
    assert_array_equal(np.flatnonzero(mask.any(axis=1)), np.arange(47, 54))
    assert_array_equal(np.flatnonzero(mask.any(axis=0)), np.arange(10, 21))


def test_masks_of_lines_that_leave_the_image(xp):
    line = Line(False, -0.5, 299.5, -40.0, 20.0)
    mask = to_host(paint_lines([(line, 6.0), (LINE, 3.0)], SHAPE, xp))
    assert mask[0, 199] and mask[5, 205] and not mask[0, 160] and mask[105, 150]
    assert not to_host(paint_lines([], SHAPE, xp)).any()


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (100, 200, (68, 232)),  # 32 pixels more
        (64, 236, (-0.5, 299.5)),  # 64 pixels, or less, from the border
        (65, 234, (33, 266)),
    ],
)
def test_ends_go_on_a_little_and_to_a_near_border(xp, start, stop, expected):
    coverage = xp.asarray(np.ones(SHAPE, bool))
    row = extended(Line(False, start, stop, 100.0, 100.0), coverage, 2.0)
    assert (row.start, row.stop) == expected


def test_ends_go_on_across_gaps(xp):
    coverage = np.ones(SHAPE, bool)
    coverage[:, 210:260] = False
    coverage[:, :60] = False
    row = extended(Line(False, 100.0, 200.0, 100.0, 100.0), xp.asarray(coverage), 2.0)
    assert row.start == -0.5  # 40 pixels are left there
    assert row.stop == -0.5 + 300  # 9 before the gap and 40 behind it
    coverage[:, 260:] = True
    coverage[:, 210:240] = False
    coverage[:, 240:260] = True
    row = extended(Line(False, 100.0, 200.0, 100.0, 100.0), xp.asarray(coverage), 2.0)
    assert row.stop == 200 + 9 + 30 + 23
