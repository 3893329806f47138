"""Growing and labelling, against loops."""

import itertools

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal

from gpucoadd import primitives
from gpucoadd.backend import to_host
from gpucoadd.fallback import Search
from gpucoadd.fallback.network import exchanges
from gpucoadd.planes import Flags

PLANES = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@pytest.mark.parametrize("density", [0.0, 0.1, 0.45, 0.9, 1.0])
def test_label_equals_flood_fill(xp, density):
    detected = np.random.default_rng(5).random((17, 23)) < density
    pixels, labels, n = primitives.label(Flags.of(xp.asarray(detected)[None]))
    expected, n_expected = oracles.flood_fill(detected)
    found = np.zeros(detected.shape, dtype=int)
    found.ravel()[to_host(pixels)] = to_host(labels)
    assert n == n_expected
    assert_array_equal(found, expected)


@pytest.mark.parametrize("pixels_per_run", [0, 10**9])
@given(detected=PLANES)
@settings(deadline=None, max_examples=60)
def test_label_property(pixels_per_run, detected):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpucoadd.fallback.labelling._PIXELS_PER_RUN", pixels_per_run)  # by runs, or by every pixel
        check_labels(detected)


def check_labels(detected):
    pixels, labels, n = primitives.label(Flags.of(detected[None]))
    expected, n_expected = oracles.flood_fill(detected)
    found = np.zeros(detected.shape, dtype=int)
    found.ravel()[pixels] = labels
    assert n == n_expected
    assert_array_equal(found, expected)


@given(PLANES, st.integers(0, 6), st.booleans())
@settings(deadline=None, max_examples=60)
def test_grow_equals_stencil_loops(detected, radius, disc):
    before = detected.copy()
    grown = primitives.grow(Flags.of(detected[None]), [radius], disc=disc).planes()
    assert_array_equal(grown[0], oracles.dilate(detected, radius, "disc" if disc else "diamond"))
    assert_array_equal(detected, before)


@pytest.mark.parametrize(("radius", "n_pixels"), [(0, 1), (1, 5), (2, 13), (3, 29)])
def test_disc_sizes(xp, radius, n_pixels):
    plane = xp.zeros((15, 15), dtype=bool)
    plane[7, 7] = True
    assert int(primitives.grow(Flags.of(plane[None]), [radius]).planes().sum()) == n_pixels


def test_grow_refuses_radii_that_cannot_be(xp):
    with pytest.raises(ValueError, match=r"radii must be 1 whole numbers, one per epoch, each 0 or more; got \[-1\]"):
        primitives.grow(Flags.of(xp.zeros((1, 3, 3), dtype=bool)), [-1])
    with pytest.raises(ValueError, match=r"radii must be 2 whole numbers.*got \[1\]"):
        primitives.grow(Flags.of(xp.zeros((2, 3, 3), dtype=bool)), [1])


def test_nothing_grows_by_nothing(xp):
    assert primitives.grow(Flags.of(xp.zeros((0, 3, 5), dtype=bool)), []).shape == (0, 3, 5)


@pytest.mark.parametrize("fractions", [(), (0.1, 0.2, 0.3, 0.4), (-0.1,), (1.1,), (np.nan,)])
def test_fractions_that_cannot_be(xp, fractions):
    with pytest.raises(ValueError, match=r"fractions must be one to three numbers from 0 to 1, got .*; ask in parts"):
        primitives.quantiles(xp.ones((1, 3), dtype=np.float32), fractions)


@pytest.mark.parametrize("iterations", [0, -1])
def test_a_clip_needs_a_round(xp, iterations):
    planes, masks = xp.ones((2, 3, 4), dtype=np.float32), xp.zeros((2, 3, 4), dtype=np.int32)
    clip = {"sigma": 3.0, "iterations": iterations}
    message = f"iterations must be 1 or more, got {iterations}; ask for at least one round"
    with pytest.raises(ValueError, match=message):
        primitives.clipped_statistics(planes.reshape(2, 12), **clip)
    with pytest.raises(ValueError, match=message):
        primitives.clipped_means(planes, masks, 0, **clip)
    with pytest.raises(ValueError, match=message):
        primitives.cell_means(planes, masks, 0, y_edges=np.array([0, 3]), x_edges=np.array([0, 4]), **clip)


def test_dtypes_do_not_depend_on_the_array_module(xp):
    """What the docstrings say, where no other test looks."""
    planes, labels = xp.ones((2, 3, 4), dtype=np.float32), xp.asarray(np.int32([1, 1, 2]))
    assert primitives.all_nan(planes).dtype == bool
    assert primitives.count_by_label(labels, 2).dtype == np.int32
    assert primitives.count_by_label(labels, 2, labels > 1).dtype == np.int32
    for n in (1, 2):
        search = Search((5.0,) * n, True)
        mask = xp.zeros((n, 3, 4), dtype=np.int32)
        assert primitives.compare(planes[:n], planes[:n], mask, None, [1.0] * n, search).n_good.dtype == np.int32


def test_epochs_are_labelled_apart_and_numbered_through(xp):
    detected = np.random.default_rng(7).random((3, 9, 40)) < 0.3
    pixels, labels, n = primitives.label(Flags.of(xp.asarray(detected)))
    found = np.zeros(detected.shape, int)
    found.ravel()[to_host(pixels)] = to_host(labels)
    start = 0
    for plane, expected in zip(found, map(oracles.flood_fill, detected), strict=True):
        assert_array_equal(plane, np.where(expected[0] > 0, expected[0] + start, 0))
        start += expected[1]
    assert n == start


def test_each_epoch_grows_by_its_own_radius(xp):
    detected = np.random.default_rng(8).random((3, 20, 37)) < 0.02
    grown = primitives.grow(Flags.of(xp.asarray(detected)), [0, 2, 5]).planes()
    for plane, before, radius in zip(to_host(grown), detected, (0, 2, 5), strict=True):
        assert_array_equal(plane, oracles.dilate(before, radius, "disc"))


@pytest.mark.parametrize("n", range(1, 11))
def test_network_sorts_every_zero_one_sequence(n):
    """A network that sorts all sequences of 0 and 1 sorts everything (Knuth's 0-1 principle)."""
    for bits in itertools.product((0, 1), repeat=n):
        values = list(bits)
        for i, j in exchanges(n):
            values[i], values[j] = min(values[i], values[j]), max(values[i], values[j])
        assert values == sorted(values)


@pytest.mark.parametrize(("n", "size"), [(16, 63), (30, 178), (64, 543)])
def test_network_size(n, size):
    assert len(exchanges(n)) == size
