"""Significance, background and noise factor that lines are searched with."""

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from trails import light, noise, planes

from gpucoadd import to_host
from gpucoadd.line_images import LineImages, _mesh_sums, noise_factor, streak_images, subtract_background


def images_of(*arrays, **options):
    made = streak_images(*arrays, **options)
    return made._replace(signal=to_host(made.signal), weight=to_host(made.weight))


def test_definition_without_background(xp):
    rng = np.random.default_rng(2)
    sigma = rng.uniform(0.2, 3.0, (90, 70))
    difference = (5 * sigma * rng.normal(size=sigma.shape)).astype(np.float32)
    variance, bad = (sigma**2).astype(np.float32), rng.random(sigma.shape) < 0.1
    difference[3, 4], variance[5, 6], variance[7, 8], variance[9, 10] = np.nan, np.inf, 0, -1
    good = ~bad
    good[[3, 5, 7, 9], [4, 6, 8, 10]] = False
    images = images_of(*(xp.asarray(p) for p in (difference, variance, bad)), clip=2.5, mesh=0)
    root = np.sqrt(np.where(good, variance, 1).astype(float))
    s = difference / root
    scatter = 1.4826 * np.median(abs(s[good] - np.median(s[good])))
    typical = 1 / np.median(1 / root[good])
    r = np.minimum(typical / root, 2)
    expected = np.where(good, np.clip(s / scatter, -2.5, 2.5) * r, 0)
    # A handful of float32 operations, and quantiles of float32 samples.
    assert_allclose(images.signal, expected, rtol=1e-5, atol=1e-6)
    assert_allclose(images.weight, np.where(good, r**2, 0), rtol=1e-5)
    assert_allclose([images.unit, images.scatter], [scatter * typical, scatter], rtol=1e-5)


def test_inputs_stay_and_any_layout_will_do(xp):
    difference, variance, bad = planes(noise((60, 80)), xp=xp)
    before = to_host(difference).copy()
    there = images_of(difference.T, variance.T, bad.T, mesh=0)
    assert_array_equal(to_host(difference), before)
    assert_array_equal(there.signal, images_of(difference, variance, bad, mesh=0).signal.T)
    assert there.signal.flags.c_contiguous


def test_background_is_taken_out(xp):
    y, x = np.mgrid[:300, :400]
    smooth = (0.5 * np.sin(y / 150) + 0.002 * x).astype(np.float32)
    flat, hilly = (images_of(*planes(noise((300, 400)) + level, xp=xp), mesh=64) for level in (0, smooth))
    # The slope of 0.002 per pixel is left beyond the outermost centres, 32 pixels from the edges.
    assert abs(hilly.signal - flat.signal).mean() < 0.2 * abs(smooth).mean()


def test_background_of_two_meshes_or_more(xp):
    difference = noise((255, 300)) + np.float32(1)
    with_mesh = images_of(*planes(difference, xp=xp), mesh=128)
    assert_array_equal(with_mesh.signal, images_of(*planes(difference, xp=xp), mesh=0).signal)
    assert abs(images_of(*planes(difference, xp=xp), mesh=127).signal.mean()) < 0.05


def test_meshes_without_pixels_take_their_neighbours_level(xp):
    difference = np.full((256, 256), 3, np.float32)
    weight = np.ones((256, 256), np.float32)
    weight[:64, :64] = 0
    weight[0, 0] = 1
    difference *= weight
    images = LineImages(xp.asarray(difference), xp.asarray(weight), 1.0, 1.0)
    subtract_background(images, mesh=64)
    assert_allclose(to_host(images.signal), 0, atol=1e-6)


def test_meshes_with_few_pixels_have_no_level(xp):
    signal, weight = np.zeros((256, 256), np.float32), np.zeros((256, 256), np.float32)
    signal[::64, ::64], weight[::64, ::64] = 300, 1
    signal[192:, 192:], weight[192:, 192:] = 3, 1
    images = LineImages(xp.asarray(signal), xp.asarray(weight), 1.0, 1.0)
    subtract_background(images, mesh=64)
    assert_allclose(to_host(images.signal)[200:, 200:], 0, atol=1e-6)


@pytest.mark.parametrize(("shape", "sides"), [((10, 12), [5, 4]), ((23, 17), [7, 6]), ((9, 9), [9, 1])])
def test_mesh_sums(xp, shape, sides):
    plane = np.random.default_rng(1).integers(-99, 99, shape).astype(np.float32)
    expected = [
        [plane[y : y + sides[0], x : x + sides[1]].sum() for x in range(0, shape[1], sides[1])]
        for y in range(0, shape[0], sides[0])
    ]
    assert_array_equal(to_host(_mesh_sums(xp.asarray(plane), sides)), expected)


@pytest.mark.parametrize("shape", [(130, 131), (128, 300), (257, 129)])
def test_constant_backgrounds_vanish_whatever_the_shape(xp, shape):
    images = LineImages(xp.full(shape, 2, dtype=xp.float32), xp.full(shape, 0.5, dtype=xp.float32), 1.0, 1.0)
    subtract_background(images, mesh=64)
    # Two roundings of float32 at each of seven foldings.
    assert_allclose(to_host(images.signal), 0, atol=1e-5)


def test_nothing_good_is_no_image(xp):
    difference, variance, bad = planes(noise((40, 50)), bad=np.ones((40, 50), bool), xp=xp)
    images = images_of(difference, variance, bad)
    assert math.isnan(images.unit) and not images.signal.any() and not images.weight.any()
    flat = images_of(*planes(np.zeros((40, 50), np.float32), xp=xp))  # without scatter, nothing is significant
    assert math.isnan(flat.unit) and not flat.weight.any()


@pytest.mark.parametrize("smooth", [0.0, 1.77])
def test_noise_factor_of_known_noise(xp, smooth):
    widths = np.array([0.7, 1.0, 2.0, 2.6])
    expected = np.sqrt(4 * np.pi * smooth**2 * widths / np.hypot(widths, smooth)) if smooth else np.ones(4)
    found = []
    for seed in range(4):
        factor = noise_factor(streak_images(*planes(noise((256, 320), seed, smooth), xp=xp)))
        found.append([factor(w) for w in widths])
    # Single images scatter by 0.04 here; most of it in the few frequencies below 1 / (2 pi w).
    assert_allclose(np.mean(found, axis=0), expected, rtol=0.06)


def test_noise_factor_does_not_see_a_trail(xp):
    clean = noise((256, 256), 3, 1.77)
    trail = light(clean.shape, (20, 0), (230, 255), crest=5, width=2.5)
    with_trail, without = (
        noise_factor(streak_images(*planes(clean + extra, xp=xp), mesh=0)) for extra in (trail, 0 * trail)
    )
    assert_allclose([with_trail(w) for w in (1, 2.6)], [without(w) for w in (1, 2.6)], rtol=0.1)


def test_noise_factor_of_gaps_and_of_large_images(xp):
    bad = np.zeros((1100, 90), bool)
    bad[:, 30:60] = True
    factor = noise_factor(streak_images(*planes(noise((1100, 90)), bad=bad, xp=xp)))
    assert abs(factor(2.0) - 1) < 0.15


def test_noise_factor_is_that_of_the_transposed_image(xp):
    difference = noise((200, 256), 5, 1.5)
    factors = [noise_factor(streak_images(*planes(d, xp=xp), mesh=0)) for d in (difference, difference.T)]
    # The same frequencies, but for the last digits of the transforms.
    assert_allclose(factors[0].power, factors[1].power, rtol=1e-3)


def test_noise_of_a_strip_in_a_large_image(xp):
    """Where the data lie beside the parts that are looked at first."""
    bad = np.ones((1300, 1500), bool)
    bad[:, :120] = False
    given = [
        xp.asarray(p)
        for p in (
            np.random.default_rng(3).normal(size=bad.shape).astype(np.float32),
            np.ones(bad.shape, np.float32),
            bad,
        )
    ]
    factor = noise_factor(streak_images(*given, mesh=0))
    assert abs(factor(2.0) - 1) < 0.1
    given[2][:] = True
    assert np.isnan(noise_factor(streak_images(*given, mesh=0))(2.0))
