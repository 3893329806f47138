"""Lines that their surroundings make one doubt."""

import numpy as np
import pytest
from trails import noise, planes

from gpucoadd.line_candidates import Candidate
from gpucoadd.line_doubts import is_along_flags, is_bordered, starts_at_flags, without_compact
from gpucoadd.line_fits import refine_line
from gpucoadd.line_images import noise_factor, streak_images
from gpucoadd.lines import Line

SHAPE = (120, 200)


def row(y, start=0.0, stop=199.0, slope=0.0):
    return Line(False, start, stop, float(y), y + slope * (stop - start))


@pytest.mark.parametrize(
    ("line", "bordered"),
    [
        (row(5), True),
        (row(6), False),
        (row(114), True),
        (row(113), False),
        (row(2, slope=0.02), True),
        (row(2, slope=0.2), False),
        (Line(True, 0.0, 119.0, 3.0, 3.0), True),
        (row(60), False),
    ],
)
def test_borders_of_the_image(xp, line, bordered):
    assert is_bordered(line, xp.asarray(np.ones(SHAPE, bool)), 5.5) is bordered


def test_borders_of_the_data():
    coverage = np.ones(SHAPE, bool)
    coverage[:40] = False
    assert is_bordered(row(44), coverage, 5.0) and not is_bordered(row(46), coverage, 5.0)
    coverage[:40, 120:] = True  # now for 120 of 200 pixels
    assert is_bordered(row(44), coverage, 5.0)
    coverage[:40, 90:] = True
    assert not is_bordered(row(44), coverage, 5.0)
    gap = np.ones(SHAPE, bool)
    gap[40:53] = False  # as far as one looks
    assert is_bordered(row(36), gap, 5.0)
    gap[40:49] = True
    assert not is_bordered(row(36), gap, 5.0)


def test_single_bad_pixels_are_no_border():
    coverage = np.random.default_rng(1).random(SHAPE) > 0.1
    assert not is_bordered(row(60), coverage, 5.0)


def test_rows_along_flags(xp):
    flagged = np.zeros(SHAPE, bool)
    flagged[61, :50] = True
    assert not is_along_flags(row(60), xp.asarray(flagged), 2.0)
    flagged[61, 50] = True  # more than a quarter of 200
    assert is_along_flags(row(60), xp.asarray(flagged), 2.0)
    assert not is_along_flags(row(56), xp.asarray(flagged), 2.0)
    assert not is_along_flags(row(60, slope=0.006), xp.asarray(flagged), 2.0)  # 0.3 degrees are 0.0052
    assert is_along_flags(row(60, slope=0.005), xp.asarray(flagged), 2.0)
    column = Line(True, 0.0, 119.0, 61.0, 61.0)
    assert not is_along_flags(column, xp.asarray(flagged), 2.0)


def test_ends_at_a_flagged_footprint(xp):
    flagged = np.zeros(SHAPE, bool)
    flagged[59:62, 79:82] = True  # about (60, 80)
    lines = [row(60, 100.0, 199.0), row(60, 101.0, 199.0), row(40, 0.0, 80.0), row(30, 0.0, 80.0), row(60, 0.0, 199.0)]
    assert starts_at_flags(lines, xp.asarray(flagged)).tolist() == [True, False, True, False, False]
    beside = [row(75, 95.0, 199.0), row(74, 94.0, 199.0)]  # 21.2 and 19.8 pixels away
    assert starts_at_flags(beside, xp.asarray(flagged)).tolist() == [False, True]
    flagged[60, 80] = False
    assert not starts_at_flags(lines, xp.asarray(flagged)).any()
    assert starts_at_flags([], xp.asarray(flagged)).shape == (0,)


def test_footprints_are_seen_at_the_edge_only_where_they_are():
    flagged = np.zeros(SHAPE, bool)
    flagged[0:3, 0:3] = True
    assert starts_at_flags([row(1, 10.0, 199.0)], flagged).tolist() == [True]
    assert starts_at_flags([row(119, 10.0, 199.0)], flagged).tolist() == [False]


def _fitted(difference, xp=np):
    """Images, planes, the line along row 60 as it is, and the noise factor."""
    given = planes(difference.astype(np.float32), xp=xp)
    images = streak_images(*given, mesh=0)
    factor = noise_factor(images)
    candidate = Candidate(9.0, 1, ((60.0, 0.0), (60.0, 199.0)), 4.0)
    fit = refine_line(images, candidate, psf_sigma=2.0, factor=factor)
    return images, given[:2], fit, factor


def test_compact_sources_on_a_line_do_not_make_it(xp):
    y, x = np.mgrid[:120, :200]
    spots = sum(8 * np.exp(-0.5 * ((y - 60) ** 2 + (x - at) ** 2) / 4) for at in (18, 52, 91, 128, 170))
    images, given, fit, factor = _fitted(noise((120, 200), 3) + spots, xp)
    assert fit.z > 8
    assert without_compact(images, given, fit, psf_sigma=2.0, factor=factor) < 0.5 * fit.z


@pytest.mark.parametrize("crest", [0.6, 3.0, 30.0])
@pytest.mark.parametrize("period", [None, 66])
def test_trails_and_long_flashes_are_no_compact_sources(crest, period):
    y, x = np.mgrid[:120, :200]
    lit = 1.0 if period is None else (x // (period // 2)) % 2
    light_of_it = crest * lit * np.exp(-0.5 * ((y - 60) / 2.0) ** 2)
    images, given, fit, factor = _fitted(noise((120, 200), 3) + light_of_it)
    assert without_compact(images, given, fit, psf_sigma=2.0, factor=factor) > 0.75 * fit.z
