"""Corrections as arrays on whole FFT planes: what `decorrelate` does in one, step by step."""

import numpy as np
import pytest
from goldens import host
from numpy.testing import assert_allclose, assert_array_equal

import gpucoadd
from gpucoadd.full_planes import (
    GivenCorrection,
    convolved_variance,
    corrected_image,
    corrected_stamp,
    cut_from_corner,
    full_correction,
    mirrored,
    pad_to_corner,
    scaled_variance,
)
from gpucoadd.scenery import gaussian_psf

# Some hundred terms per sum, in float64 on both sides.
DOUBLE = {"rtol": 1e-11, "atol": 1e-11}
KERNEL, PSF = 1.1 * gaussian_psf(1.2, 9), gaussian_psf(1.7, 15)
SHAPE, LEVELS = (31, 40), (1.5, 4.0)


def image(seed, level):
    """Noise with some pixels that are not finite, a sloping variance, and no mask."""
    rng = np.random.default_rng(seed)
    pixels, variance = rng.normal(size=SHAPE), level + np.linspace(0, 1, SHAPE[1]) * np.ones(SHAPE)
    for plane in (pixels, variance):
        plane[3, 4], plane[10, 11], plane[30, 39] = np.nan, np.inf, -np.inf
    mask = np.zeros(SHAPE, np.int32)
    return gpucoadd.MaskedImage(pixels, np.abs(variance), mask, schema=gpucoadd.MaskSchema.lsst())


@pytest.fixture(scope="module")
def images():
    return [image(seed, level) for seed, level in enumerate((*LEVELS, 9.0))]


def decorrelated(images, **options):
    given = {"science_variance": LEVELS[0], "template_variance": LEVELS[1], "science_psf": PSF}
    return gpucoadd.decorrelate(*images, KERNEL, **given, **options)


def steps(xp, shape, preconvolution=None):
    more = () if preconvolution is None else (xp.asarray(preconvolution),)
    return full_correction(xp.asarray(KERNEL), *LEVELS, shape, *more)


@pytest.mark.parametrize("shape", [(6, 8), (5, 7), (6, 7), (5, 8), (1, 2)])
def test_the_half_gives_the_whole(xp, shape):
    pixels = np.random.default_rng(1).normal(size=shape)
    got = mirrored(xp.asarray(np.fft.rfft2(pixels)), shape)
    assert_allclose(host(got), np.fft.fft2(pixels), **DOUBLE)


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (4, 3), (5, 5), (6, 7)])
def test_padding_moves_the_origin_to_the_corner(xp, shape):
    grid = (6, 7)
    array = np.arange(1, 1 + shape[0] * shape[1], dtype=np.int16).reshape(shape)
    expected = np.zeros(grid, np.int16)
    for y in range(shape[0]):
        for x in range(shape[1]):
            expected[(y - shape[0] // 2) % grid[0], (x - shape[1] // 2) % grid[1]] = array[y, x]
    got = pad_to_corner(xp.asarray(array), grid)
    assert_array_equal(host(got), expected)
    assert got.dtype == array.dtype
    assert_array_equal(host(cut_from_corner(got, shape)), array)


def test_the_kernels_acting_on_both_images(xp):
    shape = (48, 56)
    made = steps(xp, shape)
    transform = np.fft.fft2(host(pad_to_corner(xp.asarray(KERNEL), shape)))
    assert_allclose(host(made.convolved), transform * host(made.correction), **DOUBLE)
    assert_allclose(host(made.unconvolved), host(made.correction), rtol=0, atol=0)
    assert_allclose(host(made.correction)[:, :29], gpucoadd.diffim_correction(KERNEL, *LEVELS, shape), **DOUBLE)
    # What the noise of both images becomes: v1 + v2 s^2, all frequencies together.
    powers = [np.mean(np.abs(host(c)) ** 2) for c in (made.unconvolved, made.convolved)]
    assert np.dot(LEVELS, powers) == pytest.approx(LEVELS[0] + LEVELS[1] * KERNEL.sum() ** 2, rel=1e-12)


def test_the_score_correction(xp):
    shape = (48, 56)
    made = steps(xp, shape, 3 * PSF)  # normalised
    transform = np.fft.fft2(host(pad_to_corner(xp.asarray(PSF / PSF.sum()), shape)))
    assert_allclose(host(made.unconvolved), transform.conj() * host(made.correction), rtol=1e-8, atol=1e-8)
    score = gpucoadd.score_correction(KERNEL, *LEVELS, shape, PSF)
    assert_allclose(host(made.correction)[:, :29], score, rtol=1e-6, atol=1e-14)  # where P is rounding, so is its ratio


@pytest.mark.parametrize("complete", [False, True])
def test_the_steps_give_what_decorrelate_gives(xp, images, complete):
    whole = decorrelated(images, complete_variance=complete)
    made = steps(xp, whole.fft_shape)
    science, template, difference = images
    got = corrected_image(made.correction, xp.asarray(difference.image))
    assert got.dtype == np.float64
    assert_allclose(host(got), whole.image, **DOUBLE)
    got = corrected_stamp(made.correction, xp.asarray(PSF))
    assert_allclose(host(got), whole.psf, rtol=0, atol=1e-14)
    planes = [xp.asarray(each.variance) for each in (science, template)]
    acting = made.unconvolved, made.convolved
    if complete:
        kept = [host(c).copy() for c in acting]
        got = convolved_variance(*planes, *acting, fill=LEVELS)
        for c, copied in zip(acting, kept):
            assert_array_equal(host(c), copied)
    else:
        got = scaled_variance(*planes, *acting)
    assert_allclose(host(got), whole.variance, **DOUBLE)


def test_single_precision_in(xp):
    pixels = np.random.default_rng(2).normal(size=(20, 20)).astype(np.float32)
    correction = full_correction(KERNEL, 1.0, 1.0, (32, 32)).correction
    got = corrected_image(xp.asarray(correction), xp.asarray(pixels))
    assert got.dtype == np.float64
    expected = np.fft.ifft2(np.fft.fft2(pixels.astype(np.float64), s=(32, 32)) * correction).real[:20, :20]
    assert_allclose(host(got), expected, **DOUBLE)
    variance = scaled_variance(*[xp.asarray(np.abs(pixels))] * 2, *[xp.asarray(correction)] * 2)
    assert variance.dtype == np.float32


def test_errors_say_what_is_wrong():
    grid, small = np.ones((8, 8)), np.ones((4, 4))
    with pytest.raises(ValueError, match=r"array has shape \(8, 8\) and does not fit on the grid \(4, 4\)"):
        pad_to_corner(grid, (4, 4))
    with pytest.raises(ValueError, match=r"the array has shape \(8, 8\) and does not fit on the grid \(4, 4\)"):
        cut_from_corner(small, (8, 8))
    with pytest.raises(ValueError, match=r"image has shape \(8, 8\) and does not fit on the grid \(4, 4\)"):
        corrected_image(small, grid)
    with pytest.raises(ValueError, match=r"psf has shape \(8, 8\) and does not fit on the grid \(4, 4\)"):
        corrected_stamp(small, grid)
    with pytest.raises(ValueError, match=r"a correction must be real and \(ny, nx\), the whole plane, got complex128"):
        GivenCorrection(grid.astype(complex))
    with pytest.raises(ValueError, match=r"shapes \(8, 8\) and \(4, 4\); they must be the same"):
        scaled_variance(grid, small, grid, grid)
    with pytest.raises(ValueError, match=r"shapes \(8, 8\) and \(4, 4\); they must be the same"):
        convolved_variance(grid, grid, grid, small, fill=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"v1 has shape \(8, 8\) and does not fit on the grid \(4, 4\)"):
        convolved_variance(grid, grid, small, small, fill=(1.0, 1.0))
    with pytest.raises(ValueError, match="variances must be finite, v1 positive"):
        full_correction(KERNEL, 0.0, 1.0, (32, 32))
    with pytest.raises(ValueError, match="preconvolution_kernel has sum 0"):
        full_correction(KERNEL, 1.0, 1.0, (32, 32), np.zeros((3, 3)))
