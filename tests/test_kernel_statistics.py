"""The CUDA statistics over the epochs, run on the CPU, against the NumPy ones: equal to the bit."""

from __future__ import annotations

import importlib

import hostcuda
import numpy as np
import pytest
import standin
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from oracles import STATISTICS

from gpucoadd import fallback
from gpucoadd.fallback import Rules

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

BAD, SAT, CR, EDGE, NO_DATA, CLIPPED = (1 << i for i in range(6))
RULES = Rules(
    statistic="MEANCLIP",
    reject=BAD | SAT | EDGE | NO_DATA,
    sigma_clip=3.0,
    clip_iterations=2,
    error_from_input=True,
    propagation=((SAT, 0.1),),
    mask_map=((BAD | SAT, 1 << 20), (EDGE, 1 << 21), (CR, 1 << 22), (CLIPPED, CLIPPED)),
    no_data=NO_DATA,
    clipped=CLIPPED,
)
ORDERED = ("MEDIAN", "MEANCLIP", "VARIANCECLIP", "STDEVCLIP", "IQRANGE")
ABOUT_MEAN = ("VARIANCE", "STDEV", "MEANSQUARE")
ODD = np.float32([np.nan, np.inf, -np.inf, 1e-45, -1e-42, 0.0, -0.0, np.finfo(np.float32).max, -3.4e38, 1e30])


def samples(n_epochs, n_pixels, seed=1):
    """
    Samples of every kind: image, variance, mask and weights.

    Of ten pixels each: noise; noise with outliers; equal samples; few values, so that many are equal; noise with odd
    numbers; only odd numbers; none, one, two good samples; the last epoch masked.
    """
    rng = np.random.default_rng([seed, n_epochs])
    shape = n_epochs, n_pixels
    image = rng.normal(10, 1, shape).astype(np.float32)
    variance = rng.uniform(0.5, 2, shape).astype(np.float32)
    mask = rng.choice(np.int32([0, 0, 0, 0, 0, 0, BAD, SAT, CR, EDGE, SAT | CR, 1 << 30]), shape)
    kind = np.arange(n_pixels) % 10
    image += np.float32(50) * ((rng.random(shape) < 0.15) & (kind == 1))
    image[:, kind == 2] = 7.25
    image[:, kind == 3] = rng.integers(0, 3, (n_epochs, np.count_nonzero(kind == 3)))
    for where in (kind == 5, (kind == 4) & (rng.random(shape) < 0.3)):
        where = np.broadcast_to(where, shape)
        image[where] = rng.choice(ODD, np.count_nonzero(where))
    variance[:, kind == 4] = rng.choice(np.append(ODD, np.float32(-1)), (n_epochs, np.count_nonzero(kind == 4)))
    for n_good in (0, 1, 2):
        pixels = np.flatnonzero(kind == 6 + n_good)
        mask[:, pixels] |= BAD
        for _ in range(n_good):
            mask[rng.integers(n_epochs, size=len(pixels)), pixels] = 0
    mask[:, (kind % 2 == 0) & (kind < 4)] &= CR
    mask[-1, kind == 9] |= NO_DATA
    weights = tuple(float(w) for w in rng.uniform(0.3, 3, n_epochs).astype(np.float32))
    return image, variance, mask.astype(np.int32), weights


def check(image, variance, mask, weights, rules, view=lambda plane: plane):
    """Both twins on `view` of the planes; gives what they agree on."""
    expected = fallback.stack_statistics(*map(view, (image, variance, mask)), weights, rules)
    hostcuda.reset()
    with standin.device() as cupy:
        device = [view(cupy.asarray(plane.copy())) for plane in (image, variance, mask)]
        found = importlib.import_module("gpucoadd.kernels.statistics").stack_statistics(*device, weights, rules)
        assert standin.host_reads == 0
        standin.expect_launches({"stack_statistics": 1})
        for plane, given in zip(device, (image, variance, mask), strict=True):
            assert_array_equal(plane.get(), view(given), err_msg="an input was changed")
        for name, here, there in zip(("image", "variance", "mask"), expected, found, strict=True):
            assert there.dtype == here.dtype
            assert_array_equal(there.get(), here, err_msg=f"{name}, {rules}")
    return expected


@pytest.mark.parametrize("n_epochs", [1, 2, 3, 5, 30])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_every_statistic(statistic, n_epochs):
    for error_from_input in (True, False):
        check(*samples(n_epochs, 130), RULES._replace(statistic=statistic, error_from_input=error_from_input))


@pytest.mark.parametrize("n_pixels", [1, 31, 32, 33, 127, 128, 129, 257])
@pytest.mark.parametrize("statistic", ["MEAN", "MEANCLIP"])
def test_numbers_of_pixels(statistic, n_pixels):
    check(*samples(5, n_pixels), RULES._replace(statistic=statistic))


@pytest.mark.parametrize("n_epochs", [4, 7, 8, 9, 63, 64, 65, 93, 200])
def test_numbers_of_epochs(n_epochs):
    """Around the sizes at which a build has no room for more, and at which blocks become smaller."""
    check(*samples(n_epochs, 70), RULES)


@pytest.mark.parametrize("statistic", [*ORDERED, *ABOUT_MEAN, "MEAN", "SUM", "MAX"])
@pytest.mark.parametrize("n_epochs", [201, 203])
def test_more_epochs_than_fit_into_registers(n_epochs, statistic):
    check(*samples(n_epochs, 40), RULES._replace(statistic=statistic, error_from_input=False))
    check(*samples(n_epochs, 40), RULES._replace(statistic=statistic))


@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0, 3.0, np.inf])
@pytest.mark.parametrize("iterations", [0, 1, 2, 3, 7])
def test_rounds_of_clipping(iterations, sigma):
    rules = RULES._replace(sigma_clip=sigma, clip_iterations=iterations)
    for statistic in ("MEANCLIP", "STDEVCLIP"):
        check(*samples(2, 100), rules._replace(statistic=statistic))
        _, _, mask = check(*samples(12, 100), rules._replace(statistic=statistic))
        assert np.any(mask & CLIPPED) == (iterations > 0)  # inf clips equal samples: inf * 0 is NaN


@pytest.mark.parametrize("sigma", [0.3, 0.6])
def test_rounds_that_leave_one_sample_or_equal_ones(sigma):
    """Their scatter is NaN, or a rounding error of either sign, and decides about the next round."""
    _, variance, mask, weights = samples(6, 3000)
    image = np.random.default_rng(1).integers(0, 5, mask.shape).astype(np.float32) / 3
    for iterations in (2, 3, 4):
        rules = RULES._replace(statistic="VARIANCECLIP", sigma_clip=sigma, clip_iterations=iterations)
        check(image, variance, mask & CR, weights, rules)


def test_a_sample_on_the_edge_of_the_clip_stays():
    """Quartiles 1 and 3, so that the half width is what sigma makes it: 8 exactly, and a hair less."""
    image = np.float32([1, 1, 2, 3, 10]).repeat(3).reshape(5, 3)
    variance, mask, weights = np.ones_like(image), np.zeros(image.shape, np.int32), (1.0,) * 5
    sigma = next(s for s in 4 / 0.741301109252802 * (1 + np.arange(-8, 9) * 2.0**-53) if s * 0.741301109252802 == 4.0)
    rules = RULES._replace(clip_iterations=1)
    assert np.all(check(image, variance, mask, weights, rules._replace(sigma_clip=sigma))[2] == 0)
    less = rules._replace(sigma_clip=np.nextafter(sigma, 0) * (1 - 2.0**-52))
    assert np.all(check(image, variance, mask, weights, less)[2] == CLIPPED)


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize(
    "propagation",
    [(), ((SAT, 0.1),), ((SAT, 0.0), (CR, 0.3), (EDGE, 1 / 3), (1 << 30, 0.2))],
    ids=["none", "one", "several"],
)
def test_masks(online, propagation):
    rules = RULES._replace(online_mean=online, propagation=propagation)
    for statistic in ("MEAN", "MEANCLIP"):
        for mask_map in ((), RULES.mask_map):
            check(*samples(6, 300), rules._replace(statistic=statistic, mask_map=mask_map))


@pytest.mark.parametrize("share", [0.25, np.nextafter(0.25, 0)])
def test_a_share_at_the_threshold(share):
    image, mask = np.ones((4, 1), np.float32), np.int32([[SAT], [0], [0], [0]])
    _, _, out = check(image, image, mask, (0.5,) * 4, RULES._replace(propagation=((SAT, share),), mask_map=()))
    assert out[0] == (SAT if share < 0.25 else 0)


@pytest.mark.parametrize("error_from_input", [False, True])
def test_running_sums(error_from_input):
    """With weights that are no float32 numbers."""
    image, variance, mask, _ = samples(9, 200)
    weights = tuple(np.random.default_rng(1).uniform(0.3, 3, 9).tolist())
    rules = RULES._replace(statistic="MEAN", online_mean=True, error_from_input=error_from_input)
    check(image, variance, mask, weights, rules)


@pytest.mark.parametrize("statistic", ["MIN", "MAX"])
def test_extremes_as_lsst_finds_them(statistic):
    image, variance, mask, weights = samples(6, 300)
    rules = RULES._replace(statistic=statistic, lsst_extremes=True)
    for factor in (0.01, 1.0, 100.0):
        check(image, variance, mask, tuple(w * factor for w in weights), rules)
        check(-image, variance, mask, tuple(w * factor for w in weights), rules)


@pytest.mark.parametrize("cut", [np.s_[:, 40:167], np.s_[2:7, 3:], np.s_[4:5, :50], np.s_[::2, 1:90], np.s_[:, ::2]])
def test_pieces_of_a_larger_stack(cut):
    """Epochs that lie apart are read where they are; pixels that lie apart are copied."""
    image, variance, mask, weights = samples(9, 200)
    check(image, variance, mask, weights[cut[0]], RULES, view=lambda plane: plane[cut])


def test_planes_of_different_strides():
    image, variance, mask, weights = samples(9, 200)
    piece = np.s_[:, 7:50]
    expected = fallback.stack_statistics(image[piece], variance[piece], mask[piece], weights, RULES)
    with standin.device() as cupy:
        wide = cupy.asarray(np.concatenate([variance, variance], axis=1))
        planes = cupy.asarray(image)[piece], wide[piece], cupy.asarray(mask[piece].copy())
        found = importlib.import_module("gpucoadd.kernels.statistics").stack_statistics(*planes, weights, RULES)
        for here, there in zip(expected, found, strict=True):
            assert_array_equal(there.get(), here)


NUMBERS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, np.nan, np.inf, -np.inf]),
    st.floats(width=32),
    st.floats(-100, 100, width=32),
)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n_epochs=st.integers(1, 8), statistic=st.sampled_from(STATISTICS))
def test_any_numbers(data, n_epochs, statistic):
    def draw(numbers):
        return np.array(data.draw(st.lists(numbers, min_size=3 * n_epochs, max_size=3 * n_epochs))).reshape(-1, 3)

    image, variance = draw(NUMBERS).astype(np.float32), draw(NUMBERS).astype(np.float32)
    mask = draw(st.sampled_from([0, 0, BAD, SAT, CR, EDGE | CR])).astype(np.int32)
    weights = tuple(data.draw(st.lists(st.floats(0.125, 8, width=32), min_size=n_epochs, max_size=n_epochs)))
    sigma = data.draw(st.sampled_from([0.5, 1.5, 3.0]))
    check(image, variance, mask, weights, RULES._replace(statistic=statistic, sigma_clip=sigma))
