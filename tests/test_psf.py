"""Adaptive moments against Gaussians of known shape, and widths measured on planted stars."""

import numpy as np
import pytest

from gpucoadd.psf import adaptive_moments, measure_sigma


def gaussian(shape, y0, x0, syy, sxx, syx=0.0):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    det = syy * sxx - syx**2
    return np.exp(-0.5 * (sxx * (y - y0) ** 2 + syy * (x - x0) ** 2 - 2 * syx * (y - y0) * (x - x0)) / det)


@pytest.mark.parametrize("sigma", [1.2, 1.7, 2.5, 4.0])
@pytest.mark.parametrize("offset", [0.0, 0.37])
def test_gaussian_gives_its_sigma_and_center(sigma, offset):
    image = 1e3 * gaussian((61, 57), 30 + offset, 28 - offset, sigma**2, sigma**2)
    measured, (y, x) = adaptive_moments(image)
    assert measured == pytest.approx(sigma, rel=1e-4)
    assert (y, x) == pytest.approx((30 + offset, 28 - offset), abs=1e-4)


def test_ellipse_gives_the_determinant_radius():
    image = gaussian((81, 81), 40.2, 39.9, 9.0, 4.0, 2.5)
    sigma, center = adaptive_moments(image)
    assert sigma == pytest.approx((9.0 * 4.0 - 2.5**2) ** 0.25, rel=1e-6)
    assert center == pytest.approx((40.2, 39.9), abs=1e-5)


def test_wings_count_little():
    core = gaussian((101, 101), 50, 50, 4.0, 4.0)
    wings = 0.01 * gaussian((101, 101), 50, 50, 100.0, 100.0)
    plain = np.sqrt(np.sum((core + wings) * (np.mgrid[:101, :101][0] - 50) ** 2) / np.sum(core + wings))
    assert adaptive_moments(core + wings)[0] == pytest.approx(2.0, rel=0.03)
    assert plain > 4.0


def test_starts_from_a_given_center_and_leaves_the_image_alone():
    image = gaussian((41, 81), 20, 20, 4.0, 4.0) + 2 * gaussian((41, 81), 20, 60, 9.0, 9.0)
    image.setflags(write=False)
    assert adaptive_moments(image)[0] == pytest.approx(3.0, rel=1e-3)
    sigma, center = adaptive_moments(image, center=(20.5, 20.5))
    assert sigma == pytest.approx(2.0, rel=1e-3)
    assert center == pytest.approx((20, 20), abs=1e-3)


def test_float32_input():
    image = gaussian((31, 31), 15, 15, 4.0, 4.0).astype(np.float32)
    assert adaptive_moments(image)[0] == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.ones((3, 3, 3)), r"shape \(3, 3, 3\); it must be \(y, x\)"),
        (np.ones((0, 3)), r"shape \(0, 3\)"),
        (np.full((9, 9), np.nan), "finite with a positive sum, got a sum of nan"),
        (-np.ones((9, 9)), "got a sum of -81.0"),
        (np.ones((9, 9)), "do not settle"),
    ],
)
def test_adaptive_moments_refuses(image, message):
    with pytest.raises(ValueError, match=message):
        adaptive_moments(image)


def test_one_pixel_is_no_star():
    image = np.zeros((21, 21))
    image[10, 10] = 1.0
    with pytest.raises(ValueError, match="do not settle"):
        adaptive_moments(image)


def star_field(sigma, seed, n_stars=60, n_rays=20, shape=(400, 380)):
    rng = np.random.default_rng(seed)
    image = 100.0 + rng.normal(0.0, 1.0, shape)
    for _ in range(n_stars):
        y, x = rng.uniform(20, shape[0] - 20), rng.uniform(20, shape[1] - 20)
        y0, x0 = int(y) - 20, int(x) - 20
        stamp = gaussian((41, 41), y - y0, x - x0, sigma**2, sigma**2)
        image[y0 : y0 + 41, x0 : x0 + 41] += rng.uniform(100, 1000) * stamp
    image[rng.integers(0, shape[0], n_rays), rng.integers(0, shape[1], n_rays)] += 800.0
    return image


@pytest.mark.parametrize("sigma", [1.3, 2.0, 3.5])
def test_measure_sigma_of_planted_stars(sigma):
    image = star_field(sigma, seed=7)
    bad = np.zeros(image.shape, bool)
    image[30, 40] = np.nan
    bad[100:110] = True
    image[100:110] = 1e6
    measured, n_stars = measure_sigma(image, bad)
    # Noise of one star: 1 / (S/N) / sqrt(2), S/N above 100, over some twenty stars; the sky's ring adds the rest.
    assert measured == pytest.approx(sigma, rel=0.01)
    assert n_stars >= 10


def test_measure_sigma_in_a_large_image_uses_the_middle():
    image = np.zeros((2200, 100))
    for y0 in (300, 900, 1500):
        image += gaussian(image.shape, y0, 50, 4.0, 4.0)
    image += 1e-4 * np.random.default_rng(3).normal(size=image.shape)
    assert measure_sigma(image, np.zeros(image.shape, bool)) == (pytest.approx(2.0, rel=1e-3), 3)


def test_measure_sigma_without_stars_is_nan():
    noise = np.random.default_rng(1).normal(size=(100, 100))
    assert measure_sigma(noise, np.zeros((100, 100), bool)) == (pytest.approx(np.nan, nan_ok=True), 0)
    assert np.isnan(measure_sigma(noise, np.ones((100, 100), bool))[0])
    assert np.isnan(measure_sigma(np.zeros((50, 50)), np.zeros((50, 50), bool))[0])
