"""Lines that stand out in binned images."""

import numpy as np
import pytest
import standin
from numpy.testing import assert_allclose
from trails import light, noise, planes

from gpucoadd import to_host
from gpucoadd.line_candidates import BOXES, candidates
from gpucoadd.line_images import LineImages, streak_images
from gpucoadd.line_sums import line_rows

SHAPE = (150, 180)
ENDS = {
    "falling": ((20, 0), (120, 179)),
    "rising": ((120, 0), (30, 179)),
    "steep": ((0, 40), (149, 130)),
    "steep, back": ((0, 150), (149, 60)),
    "row": ((70, 0), (70, 179)),
    "column": ((0, 90), (149, 90)),
    "diagonal": ((0, 15), (149, 164)),
    "part": ((60, 10), (110, 90)),
}


def distance(candidate, ends):
    """Largest distance of a candidate's ends from the line through two points."""
    (y0, x0), (y1, x1) = ends
    points = np.array(candidate.ends)
    return abs((points[:, 1] - x0) * (y1 - y0) - (points[:, 0] - y0) * (x1 - x0)).max() / np.hypot(y1 - y0, x1 - x0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bin", [1, 2, 3])
@pytest.mark.parametrize("name", ENDS)
def test_the_first_candidate_is_the_line(name, bin, sign):
    difference = noise(SHAPE) + light(SHAPE, *ENDS[name], crest=sign * 1.5, width=2.0)
    found = candidates(streak_images(*planes(difference), mesh=0), bin=bin, min_length=64, threshold=6)
    assert found[0].sign == sign
    assert distance(found[0], ENDS[name]) <= 2.5 * bin
    assert [c.z for c in found] == sorted((c.z for c in found), reverse=True)
    assert {c.width for c in found} <= {box * bin for box in BOXES}


def test_candidates_are_those_of_numpy(xp):
    bad = np.random.default_rng(1).random(SHAPE) < 0.05
    bad[:, 50:60] = True
    difference = noise(SHAPE) + light(SHAPE, *ENDS["rising"], crest=1, width=2) + np.float32(0.1)
    options = {"bin": 2, "min_length": 40, "threshold": 3.5}
    images = [streak_images(*planes(difference, bad=bad, xp=module), mesh=64) for module in (np, xp)]
    for plane in (0, 1):
        assert to_host(images[1][plane]).tobytes() == images[0][plane].tobytes()
    here, there = (candidates(each, **options) for each in images)
    assert len(here) > 20 and here == there


@pytest.mark.parametrize("bin", [1, 2])
@pytest.mark.parametrize("turn", range(4))
def test_places_are_exact(turn, bin):
    """A path of the transform itself, in each of the four directions in which it is drawn."""
    rows = 20 + np.array(line_rows(64, 37))
    plane = np.zeros((90, 64), np.float32)
    plane[rows, np.arange(64)] = 5
    plane += np.random.default_rng(3).normal(size=plane.shape).astype(np.float32)
    first, last = (20.0, 0.0), (57.0, 63.0)
    if turn % 2:
        plane, first, last = plane[::-1], (89 - first[0], first[1]), (89 - last[0], last[1])
    if turn >= 2:
        plane, first, last = plane.T, first[::-1], last[::-1]
    signal = np.kron(plane, np.ones((bin, bin), np.float32))
    found = candidates(LineImages(signal, np.ones_like(signal), 1.0, 1.0), bin=bin, min_length=64 * bin, threshold=9)
    assert found[0].width == bin
    assert found[0].ends == tuple(tuple(bin * c + (bin - 1) / 2 for c in end) for end in (first, last))


def test_signs_and_threshold():
    difference = noise(SHAPE) + light(SHAPE, *ENDS["row"], crest=1, width=2)
    difference -= light(SHAPE, *ENDS["column"], crest=1, width=2)
    images = streak_images(*planes(difference), mesh=0)
    options = {"bin": 2, "min_length": 64, "threshold": 5}
    both = candidates(images, **options)
    assert {c.sign for c in both} == {1, -1} and min(c.z for c in both) >= 5
    for signs, sign in (("positive", 1), ("negative", -1)):
        assert candidates(images, **options, signs=signs) == [c for c in both if c.sign == sign]
    assert candidates(images, **{**options, "threshold": 100}) == []


def test_significance_counts_from_the_median_in_units_of_the_lower_quartile():
    """Rows of a flat image with one bright row: what the quartiles of its sums make of it."""
    rng = np.random.default_rng(4)
    signal, weight = rng.normal(size=(96, 128)).astype(np.float32), np.ones((96, 128), np.float32)
    signal[48] += 1.0
    found = candidates(LineImages(signal, weight, 1.0, 1.0), bin=1, min_length=128, threshold=6)
    # sqrt(128) for the sum along the row; the quartiles of some thousand correlated sums are good to a tenth.
    assert_allclose(found[0].z, signal[48].sum() / np.sqrt(128), rtol=0.15)
    assert found[0].width == 1 and np.array(found[0].ends)[:, 0].tolist() == [48, 48]


def test_half_of_the_weight_must_be_there():
    signal = noise((96, 128))
    signal[48] += 3
    signal[48, 40:] = 0
    weight = np.ones_like(signal)
    weight[48, 40:] = 0
    images = LineImages(signal, weight, 1.0, 1.0)
    z = [c.z for c in candidates(images, bin=1, min_length=128, threshold=1) if c.width == 1]
    alone = signal[48].sum()
    # As if the weight were half of all: never the significance that 40 pixels have by themselves.
    assert max(z) < 1.2 * alone / np.sqrt(64) < alone / np.sqrt(40)


def test_images_too_small_have_none(xp):
    for shape in ((1, 1), (5, 3), (1, 300), (40, 40)):
        images = streak_images(*planes(noise(shape), xp=xp))
        assert candidates(images, bin=2, min_length=128, threshold=20) == []


def test_one_read_for_all(device):
    images = streak_images(*planes(noise(SHAPE), xp=device))
    standin.reset()
    candidates(images, bin=2, min_length=64, threshold=5)
    assert standin.host_reads <= 1 and standin.hidden_waits == 0
