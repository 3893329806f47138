"""Lines at full resolution."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from trails import light, noise, planes

from gpucoadd.line_candidates import Candidate
from gpucoadd.line_fits import Fit, is_accepted, line_of, refine_line
from gpucoadd.line_images import NoiseFactor, noise_factor, streak_images
from gpucoadd.lines import Line, chord, strip_pixels, take_strip

SHAPE = (200, 260)
WHITE = NoiseFactor(np.ones(96))
GOOD = Fit(Line(False, 0, 200, 10, 20), 1, 2.0, z=8.0, rest=7.0, steadiness=0.9, positive=1.0, seen=200.0)


def refined(difference, candidate, factor=WHITE, bad=None, xp=np, psf_sigma=2.0):
    images = streak_images(*planes(difference, bad=bad, xp=xp), mesh=0)
    return refine_line(images, candidate, psf_sigma=psf_sigma, factor=factor)


def ideal_z(trail, factor=1.0):
    return np.sqrt((trail.astype(float) ** 2).sum()) / factor


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("ends", [((30, 0), (120, 259)), ((0, 200), (199, 60)), ((100, 0), (100, 259))])
def test_a_rough_candidate_becomes_the_line(xp, ends, sign):
    trail = light(SHAPE, *ends, crest=sign * 1.0, width=2.0)
    rough = Candidate(9.0, sign, tuple((y + dy, x) for (y, x), dy in zip(ends, (4.0, -3.0))), 8.0)
    fit = refined(noise(SHAPE) + trail, rough, xp=xp)
    assert fit.sign == sign and 1.5 < fit.width < 2.6
    true = line_of(Candidate(9.0, sign, ends, 8.0))
    middle = np.linspace(true.start, true.stop, 20)
    # The ideal filter places a line of z = 30 to sqrt(2) w / z = 0.1 in the middle and twice that at its ends.
    assert abs(fit.line.minor(middle) - true.minor(middle)).max() < 0.7
    assert_allclose([fit.line.start, fit.line.stop], [true.start, true.stop], atol=9)
    assert_allclose(fit.z, ideal_z(trail), rtol=0.15)
    assert fit.rest > 0.8 * fit.z and fit.steadiness > 0.9 and fit.positive == 1.0
    assert_allclose(fit.seen, fit.line.length, rtol=0.1)


def test_grows_from_a_block_over_a_gap_and_ends_where_the_light_does():
    trail = light(SHAPE, (60, 40), (95, 200), crest=1.5, width=2.0)
    bad = np.zeros(SHAPE, bool)
    bad[:, 100:130] = True
    start = line_of(Candidate(9.0, 1, ((60, 40), (95, 200)), 4.0)).between(48, 90)
    seed = Candidate(9.0, 1, ((start.first, start.start), (start.last, start.stop)), 4.0)
    fit = refined(noise(SHAPE) + trail, seed, bad=bad)
    assert_allclose([fit.line.start, fit.line.stop], [40, 200], atol=12)
    assert_allclose(fit.seen, (160 - 30) * fit.line.stretch, atol=20)


def test_a_tilted_piece_finds_the_whole():
    """Which the line through the piece misses by many widths: longer segments are tried with ends of their own."""
    ends = (30, 0), (120, 259)
    piece = line_of(Candidate(9.0, 1, ends, 4.0)).between(100, 148).moved(3.0, -3.0)
    seed = Candidate(9.0, 1, ((piece.first, piece.start), (piece.last, piece.stop)), 4.0)
    trail = light(SHAPE, *ends, crest=0.35, width=2.0)
    found, best = (refined(noise(SHAPE, 3) + trail, each) for each in (seed, Candidate(9.0, 1, ends, 4.0)))
    assert found.z > best.z - 0.5


def test_a_faint_end_near_the_border_goes_on_to_it():
    trail = light(SHAPE, (100, 0), (100, 259), crest=0.5, width=2.0)
    trail[:, 235:] = 0
    bright = 6 * trail
    middle = Candidate(9.0, 1, ((100, 0), (100, 200)), 4.0)
    assert refined(noise(SHAPE, 3) + trail, middle, factor=NoiseFactor(np.full(96, 16.0))).line.stop == 259.5
    assert refined(noise(SHAPE, 3) + bright, middle, factor=WHITE).line.stop < 245


def test_narrow_filters_see_more_in_correlated_noise():
    trail = light(SHAPE, (30, 0), (120, 259), crest=2.0, width=2.6)
    difference = noise(SHAPE, 2, 1.77) + trail
    factor = noise_factor(streak_images(*planes(noise(SHAPE, 2, 1.77)), mesh=0))
    seed = Candidate(9.0, 1, ((30, 0), (120, 259)), 8.0)
    fit = refined(difference, seed, factor=factor, psf_sigma=2.6)
    # One width too many is still inside what clipping and the noise of a single image do.
    assert 0.85 * ideal_z(trail, factor(2.6)) < fit.z < 1.3 * ideal_z(trail, factor(2.6))
    assert fit.z > refined(difference, seed, factor=NoiseFactor(np.full(96, factor(2.6) ** 2)), psf_sigma=2.6).z


def test_nothing_where_there_is_no_light():
    empty = np.ones(SHAPE, bool)
    empty[:50] = False
    seed = Candidate(9.0, 1, ((150, 0), (160, 259)), 4.0)
    assert refined(noise(SHAPE), seed, bad=empty) is None
    outside = Candidate(9.0, 1, ((-300, 0), (-290, 259)), 4.0)
    assert refined(noise(SHAPE), outside) is None


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({}, True),
        ({"z": 6.0}, True),
        ({"z": 5.99}, False),
        ({"rest": 4.8}, True),
        ({"rest": 4.79}, False),
        ({"steadiness": 0.69}, False),
        ({"positive": 0.69}, False),
        ({"seen": 80.0}, True),
        ({"seen": 79.9}, False),
    ],
)
def test_each_condition_counts(changes, accepted):
    fit = GOOD._replace(**changes)
    assert is_accepted(fit, threshold=6.0, spread=0.6, min_length=100) is accepted


def test_spots_in_a_row_are_no_line():
    ends = ((40, 0), (140, 259))
    spots = light(SHAPE, *ends, crest=30, width=2.0)
    spots[:, np.arange(SHAPE[1]) % 60 > 8] = 0
    seed = Candidate(9.0, 1, ends, 4.0)
    fit, steady = (refined(noise(SHAPE, 3) + each, seed) for each in (spots, light(SHAPE, *ends, crest=0.6, width=2.0)))
    assert fit.z > 8 and fit.steadiness < 0.6
    assert not is_accepted(fit, threshold=6.0, spread=0.6, min_length=128)
    assert steady.steadiness > 0.8 and is_accepted(steady, threshold=6.0, spread=0.6, min_length=128)


@pytest.mark.parametrize("vertical", [False, True])
def test_strips_have_the_pixels_around_a_line(xp, vertical):
    shape = (30, 40)
    y, x = np.mgrid[:30, :40].astype(np.float32)
    line = Line(vertical, 3.0, 33.0, -4.0, 11.0)
    strip = take_strip((xp.asarray(y), xp.asarray(x)), line, 3)
    major, minor = strip.planes[::-1] if not vertical else strip.planes
    n_major, n_minor = shape if vertical else shape[::-1]
    expected = line.minor(strip.major)[:, None] + strip.offset
    inside = (expected > -0.5) & (expected < n_minor - 0.5)
    assert_allclose(minor[inside], expected[inside], atol=1e-5)
    assert (major[inside] == np.broadcast_to(strip.major[:, None], inside.shape)[inside]).all()
    assert (strip.planes[:, ~inside] == 0).all() and 0 < inside.sum() < inside.size
    assert abs(strip.offset).max() <= 3.5 and strip.offset.shape[1] == 7
    assert set(range(5, min(n_major, 37))) <= set(strip.major)


def test_flat_indices_are_raster_order():
    major, minor, flat = strip_pixels(Line(False, 0, 9, 2, 2), 1, (4, 10))
    assert (flat == minor * 10 + major[:, None]).all() and minor.tolist() == [[1, 2, 3]] * 10
    major, minor, flat = strip_pixels(Line(True, 0, 3, 0, 0), 1, (4, 10))
    assert flat[:, 0].tolist() == [-1] * 4 and flat[:, 1].tolist() == [0, 10, 20, 30]


def test_chords_end_where_the_image_does():
    assert chord(Line(False, 10, 20, 5, 5), (50, 100)) == (-0.5, 99.5)
    start, stop = chord(Line(False, 10, 20, 5, 10), (50, 100))
    line = Line(False, 10, 20, 5, 10)
    assert start == -0.5 and math.isclose(float(line.minor(stop)), 49.5)
    start, stop = chord(Line(True, 10, 20, 5, 0), (50, 100))
    assert start == -0.5 and math.isclose(stop, 21.0)


def test_lines_know_their_geometry():
    line = Line(True, 10.0, 50.0, 5.0, 35.0)
    assert line.slope == 0.75 and line.stretch == 1.25 and line.length == 50
    assert line.ends().tolist() == [[10, 5], [50, 35]]
    assert line.between(10, 50) == line and line.moved(1, -1) == Line(True, 10.0, 50.0, 6.0, 34.0)
    assert line._replace(vertical=False).ends().tolist() == [[5, 10], [35, 50]]
