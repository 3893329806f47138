"""The simulated difference is what it says: the kernel's definition, its variances, sources that vanish."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import gpucoadd
from gpucoadd import fits
from gpucoadd.difference_scene import convolve, match, simulate_difference, write_scene
from gpucoadd.noise import noise_statistics

RADIUS = 11  # of the kernel
EPS = float(np.finfo(np.float32).eps)


@pytest.fixture(scope="module")
def scene():
    return simulate_difference(shape=(160, 180), seed=4)


def matched_by_loops(image, kernel, y, x, power=1):
    """The definition: the kernel at (y, x) weighs the neighbours of that pixel."""
    stamp = kernel.at(y, x) ** power
    reach = [n // 2 for n in stamp.shape]
    total = 0.0
    for dy in range(-reach[0], reach[0] + 1):
        for dx in range(-reach[1], reach[1] + 1):
            total += stamp[reach[0] + dy, reach[1] + dx] * float(image[y - dy, x - dx])
    return total


PLACES = ((11, 11), (80, 90), (148, 12), (30, 168), (148, 168))


@pytest.mark.parametrize(("y", "x"), PLACES)
def test_difference_is_science_minus_kernel_on_template(scene, y, x):
    expected = float(scene.science.image[y, x]) - matched_by_loops(scene.template.image, scene.kernel, y, x)
    # rounded to float32 once; the FFT errs by eps(float64) of the brightest pixel
    assert scene.difference.image[y, x] == pytest.approx(expected, rel=EPS, abs=1e-9)


@pytest.mark.parametrize(("y", "x"), PLACES)
def test_variance_goes_through_the_squared_kernel(scene, y, x):
    through = matched_by_loops(scene.template.variance, scene.kernel, y, x, power=2)
    expected = float(scene.science.variance[y, x]) + through
    assert scene.difference.variance[y, x] == pytest.approx(expected, rel=4 * EPS)


def test_sources_that_do_not_change_vanish(scene):
    left = (scene.difference.image - scene.expected) / np.sqrt(scene.difference.variance)
    stars = (scene.science.mask & scene.science.schema.bitmask("DETECTED")) != 0
    n = np.count_nonzero(stars)
    assert n > 500
    # pixels of a star are correlated over a few pixels, hence the 10 instead of 4
    assert np.mean(left[stars] ** 2) == pytest.approx(1.0, abs=10 * np.sqrt(2 / n))
    assert np.abs(left).max() < 6


def test_noise_of_the_difference_is_correlated_and_its_plane_right():
    scene = simulate_difference(seed=2, variance_ratio=3.0)
    pull = scene.difference.image / np.sqrt(scene.difference.variance)
    found = noise_statistics(pull, scene.sources)
    assert found.variance == pytest.approx(1.0, abs=0.02)
    assert found.lag1 > 20 * found.lag1_error
    sky = ~scene.sources
    ratio = np.median(scene.template.variance[sky]) / np.median(scene.science.variance[sky])
    assert ratio == pytest.approx(3.0, rel=0.01)


def test_kernel_keeps_flux_and_widens_over_the_field(scene):
    height, width = scene.science.shape
    y, x = (v.ravel() for v in np.mgrid[0 : height - 1 : 5j, 0 : width - 1 : 5j])
    kernels = scene.kernel.at(y, x)
    assert_allclose(kernels.sum(axis=(1, 2)), 1.0, rtol=1e-12)
    assert kernels.min() >= 0
    peaks = kernels[:, RADIUS, RADIUS].reshape(5, 5)
    assert (np.diff(peaks, axis=0) < 0).all()
    assert (np.diff(peaks, axis=1) < 0).all()


def test_changes_have_their_flux_and_the_science_psf(scene):
    assert sorted(set(scene.changes["kind"].tolist())) == ["transient", "variable star"]
    change = scene.changes[0]
    y, x = round(float(change["y"])), round(float(change["x"]))
    box = (slice(y - 10, y + 11), slice(x - 10, x + 11))
    assert scene.expected[box].sum() == pytest.approx(change["flux"], rel=0.01)
    psf = scene.science_psf(float(change["y"]), float(change["x"]))
    assert psf.shape == (31, 31)
    assert psf.sum() == pytest.approx(1.0)
    # away from the pixel's middle by at most half a pixel, which lowers the peak by exp(-(d / sigma)^2 / 2)
    assert 0.9 < scene.expected[y, x] / (change["flux"] * psf[15, 15]) <= 1.005


def test_masks_mark_sources(scene):
    schema = scene.difference.schema
    detected, negative = (
        (scene.difference.mask & schema.bitmask(name)) != 0 for name in ("DETECTED", "DETECTED_NEGATIVE")
    )
    noise = scene.settings["noise"]
    assert (detected[scene.expected > noise]).all()
    assert_array_equal(negative, scene.expected < -noise)
    assert negative.any()
    assert_array_equal(scene.sources, detected | negative)
    assert 0.01 < scene.sources.mean() < 0.2


def test_same_seed_same_pixels():
    first, again, other = (simulate_difference(shape=(96, 101), seed=seed) for seed in (3, 3, 5))
    for name in ("science", "template", "difference"):
        assert_array_equal(getattr(first, name).image, getattr(again, name).image)
        assert not np.array_equal(getattr(first, name).image, getattr(other, name).image)
    assert first.science.image.dtype == np.float32
    assert first.science.shape == first.template.shape == first.difference.shape == (96, 101)


def test_transients_are_as_significant_as_asked():
    scene = simulate_difference(shape=(400, 300), seed=1, n_transients=3, significance=(8.0, 32.0))
    flux = scene.changes["flux"][scene.changes["kind"] == "transient"]
    assert_allclose(flux / flux[-1], [4.0, 2.0, 1.0])
    psf = scene.science_psf(*scene.centre)
    error = np.sqrt(scene.settings["noise"] ** 2 * 3 / np.sum(psf**2))
    assert flux[-1] / error == pytest.approx(8.0, rel=1e-6)


def test_no_room_no_transients():
    scene = simulate_difference(shape=(96, 96), seed=1, n_transients=50)
    assert 0 < np.count_nonzero(scene.changes["kind"] == "transient") < 10
    nothing = simulate_difference(shape=(96, 96), seed=1, n_transients=0)
    assert set(nothing.changes["kind"].tolist()) == {"variable star"}


def test_files_read_back(scene, tmp_path):
    assert write_scene(scene, tmp_path / "a" / "b") == tmp_path / "a" / "b"
    folder = tmp_path / "a" / "b"
    for name in ("science", "template", "difference"):
        written, image = fits.read_image(folder / f"{name}.fits", device="cpu"), getattr(scene, name)
        for plane in ("image", "variance", "mask"):
            assert_array_equal(getattr(written, plane), getattr(image, plane))
        assert written.schema.planes["DETECTED"] == image.schema.planes["DETECTED"]
        assert written.unit == "nJy"
    kernel = fits.read_kernel(folder / "kernel.fits")
    assert_array_equal(kernel.at(20.0, 140.0), scene.kernel.at(20.0, 140.0))
    assert_allclose(fits.find_stamp(folder / "science.fits", "PSF"), scene.science_psf(79.5, 89.5), rtol=1e-12)
    with np.load(folder / "truth.npz") as truth:
        assert_array_equal(truth["changes"], scene.changes)
        assert_allclose(truth["expected"], scene.expected, rtol=1e-6)


def test_match_of_a_constant_is_the_sum_of_the_kernel(scene):
    constant = np.full((160 + 2 * RADIUS, 180 + 2 * RADIUS), 2.0)
    assert_allclose(match(constant, scene.kernel), 2.0, rtol=1e-12)
    squared = match(constant, scene.kernel, squared=True)
    for y, x in ((0, 0), (159, 40), (80, 179)):
        assert squared[y, x] == pytest.approx(2 * np.sum(scene.kernel.at(y, x) ** 2), rel=1e-12)


@pytest.mark.parametrize("stamp_shape", [(3, 5), (4, 1), (9, 2)])
def test_convolve_is_its_definition(stamp_shape):
    rng = np.random.default_rng(2)
    image, stamp = rng.normal(size=(8, 11)), rng.normal(size=stamp_shape)
    expected = np.zeros(image.shape)
    for (y, x), value in np.ndenumerate(image):
        for (j, i), weight in np.ndenumerate(stamp):
            row, column = y + j - stamp_shape[0] // 2, x + i - stamp_shape[1] // 2
            if 0 <= row < 8 and 0 <= column < 11:
                expected[row, column] += weight * value
    assert_allclose(convolve(image, stamp), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (95, 200)}, r"shape must be at least \(96, 96\), got \(95, 200\)"),
        ({"variance_ratio": 0.0}, "variance_ratio must be positive, got 0.0"),
        ({"noise": -1.0}, "noise must be positive, got -1.0"),
        ({"template_sigma": 0}, "template_sigma must be positive, got 0"),
        ({"n_transients": -1}, "n_transients must not be negative, got -1"),
        ({"significance": (5.0, 2.0)}, r"significance must be two positive numbers, the smaller first, got \(5.0, 2.0"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        simulate_difference(**settings)


def test_holders_are_those_of_the_package(scene):
    assert isinstance(scene.difference, gpucoadd.MaskedImage)
    assert scene.science.image.flags.c_contiguous
    assert scene.template.image.flags.c_contiguous
