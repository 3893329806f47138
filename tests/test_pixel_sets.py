"""Sets of pixels, ours and those with the attributes of afw's."""

import types

import afwlike
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import ndimage

from gpucoadd.boxes import Box
from gpucoadd.pixel_sets import PixelSet, box_around, in_layers, kept_sets, layer, pieces, plane_of, spans_of

BOX = Box(-3, 40, 11, 9)


def random_plane(seed, share=0.4):
    return np.random.default_rng(seed).random(BOX.shape) < share


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_planes_and_back(share):
    plane = random_plane(1, share)
    pixels = PixelSet.of(plane, BOX.origin)
    assert pixels.getArea() == plane.sum()
    assert_array_equal(plane_of([pixels], BOX), plane)
    y, x = pixels.indices()
    assert_array_equal(np.argwhere(plane), np.column_stack([y - BOX.y0, x - BOX.x0]))
    for y, x0, x1 in pixels:  # whole runs
        row = plane[y - BOX.y0]
        assert row[x0 - BOX.x0 : x1 - BOX.x0 + 1].all()
        assert x0 == BOX.x0 or not row[x0 - BOX.x0 - 1]
        assert x1 == BOX.x0 + BOX.width - 1 or not row[x1 - BOX.x0 + 1]


def test_only_the_box_is_painted():
    plane = random_plane(2)
    pixels = PixelSet.of(plane, BOX.origin)
    small = Box(0, 43, 4, 3)
    assert_array_equal(plane_of([pixels], small), plane[3:6, 3:7])
    assert not plane_of([pixels], Box(500, 500, 3, 3)).any()
    large = Box(-10, 30, 30, 30)
    assert plane_of([pixels], large).sum() == plane.sum()


@pytest.mark.parametrize("diagonal", [False, True])
def test_pieces_are_those_of_scipy(diagonal):
    plane = random_plane(3)
    labels, n = ndimage.label(plane, structure=np.ones((3, 3)) if diagonal else None)
    found = pieces(plane, BOX.origin, diagonal=diagonal)
    assert len(found) == n
    expected = [PixelSet.of(labels == number, BOX.origin) for number in range(1, n + 1)]
    for one in expected:
        assert sum(one == other for other in found) == 1
    assert pieces(np.zeros((4, 5), bool), (0, 0), diagonal=diagonal) == []


def test_what_is_read():
    spans = [(4, 7, 9), (5, 8, 8)]
    footprint = types.SimpleNamespace(spans=afwlike.SpanSet(spans))
    for given in (PixelSet(spans), afwlike.SpanSet(spans), afwlike.Footprint(spans), footprint, list(PixelSet(spans))):
        assert_array_equal(spans_of(given), spans)
    for given in (3, [1, 2], np.zeros((2, 2), bool)):
        with pytest.raises(TypeError, match="a set of pixels must be a PixelSet"):
            spans_of(given)


def test_boxes_containment_and_layers():
    one, two, three = PixelSet([(0, 0, 3)]), PixelSet([(0, 3, 5)]), PixelSet([(7, -2, -2)])
    assert one.getBBox() == Box(0, 0, 4, 1)
    assert box_around([one, three], Box(0, -1, 1, 1)) == Box(-2, -1, 6, 9)
    assert box_around([]) == Box(0, 0, 0, 0) == PixelSet().getBBox()
    assert in_layers([one, two, three]) == [[0, 2], [1]]
    assert_array_equal(layer([one, two], Box(0, 0, 6, 1)), [[1, 1, 1, 2, 2, 2]])
    assert one.contains(PixelSet([(0, 1, 2)])) and not one.contains(two) and not one.contains(PixelSet())
    assert one.contains(afwlike.SpanSet([(0, 1, 2)]))
    assert one != two and one == PixelSet([(0, 0, 3)]) and one != "pixels"
    assert repr(one) == "PixelSet(4 pixels in 1 spans)" and len(one) == 1
    assert PixelSet([(1, 0, 0), (0, 0, 0)]) == PixelSet([(0, 0, 0), (1, 0, 0)])


def test_sets_that_overlap_are_judged_apart():
    one, two, three = PixelSet([(0, 0, 3)]), PixelSet([(0, 3, 5)]), PixelSet([(0, 5, 5)])
    shown = []

    def keep(labels):
        shown.append(labels[0].tolist())
        return np.arange(7)[None] == 5

    kept = kept_sets([one, two, three], Box(0, 0, 7, 1), keep)
    assert len(kept) == 2 and kept[0] is two and kept[1] is three
    assert shown == [[1, 1, 1, 1, 0, 2, 0], [0, 0, 0, 1, 1, 1, 0]]
    assert kept_sets([], Box(0, 0, 7, 1), keep) == []


def test_bits_are_set_in_a_mask():
    mask = afwlike.Mask(np.full((3, 4), 1, np.int32), afwlike.Planes(), xy0=(10, 20))
    PixelSet([(21, 8, 11), (99, 0, 4)]).setMask(mask, 1 << 4)
    expected = np.full((3, 4), 1)
    expected[1, :2] |= 16
    assert_array_equal(mask.array, expected)
