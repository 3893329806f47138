"""Noise statistics against their definition, known answers, and LSST's frozen differences."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import standin
from numpy.testing import assert_allclose, assert_array_equal

from gpucoadd import noise
from gpucoadd.noise import noise_statistics

# Means of float64 sums over a few hundred products, summed in another order.
RTOL = 1e-12


def by_loops(image, mask, max_lag):
    """The definition: every pair of good pixels, one by one."""
    height, width = image.shape
    good = [
        [bool(np.isfinite(image[y, x])) and not (mask is not None and mask[y, x]) for x in range(width)]
        for y in range(height)
    ]
    pixels = [float(image[y, x]) for y in range(height) for x in range(width) if good[y][x]]
    mean = sum(pixels) / len(pixels)
    square = sum((p - mean) ** 2 for p in pixels)
    correlation = np.full((max_lag + 1, 2 * max_lag + 1), np.nan)
    n_pairs = np.zeros(correlation.shape, dtype=np.int64)
    for dy in range(max_lag + 1):
        for dx in range(-max_lag, max_lag + 1):
            products = [
                (float(image[y, x]) - mean) * (float(image[y + dy, x + dx]) - mean)
                for y in range(height - dy)
                for x in range(max(0, -dx), width - max(0, dx))
                if good[y][x] and good[y + dy][x + dx]
            ]
            n_pairs[dy, dx + max_lag] = len(products)
            if products and square > 0:
                correlation[dy, dx + max_lag] = sum(products) / len(products) / (square / len(pixels))
    return mean, square / (len(pixels) - 1), len(pixels), correlation, n_pairs


def check(found, expected):
    mean, variance, n_pixels, correlation, n_pairs = expected
    assert found.n_pixels == n_pixels
    assert_array_equal(found.n_pairs, n_pairs)
    assert found.mean == pytest.approx(mean, rel=RTOL, abs=RTOL)
    assert found.variance == pytest.approx(variance, rel=RTOL)
    assert_allclose(found.correlation, correlation, rtol=RTOL, atol=RTOL)
    assert found.correlation.dtype == np.float64
    assert found.n_pairs.dtype == np.int64


def rough_image(shape=(11, 14), seed=3):
    """Correlated values with NaN, both infinities and a mask, the first and the last pixel among them."""
    rng = np.random.default_rng(seed)
    image = rng.normal(5.0, 2.0, shape).cumsum(axis=1)
    image[0, 0], image[4, 5], image[7, 2] = np.nan, np.inf, -np.inf
    mask = np.where(rng.random(shape) < 0.2, rng.choice([1, 6, -(2**31)], shape), 0).astype(np.int32)
    mask[-1, -1] = 4
    return image, mask


@pytest.mark.parametrize("max_lag", [0, 1, 3, 10])
@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4"])
def test_equals_loops(xp, max_lag, dtype):
    if xp is not np and dtype.startswith(">"):
        pytest.skip("CuPy has native byte order only")
    image, mask = rough_image()
    image = image.astype(dtype)
    found = noise_statistics(xp.asarray(image), xp.asarray(mask), max_lag=max_lag)
    check(found, by_loops(image, mask, max_lag))
    assert found.max_lag == max_lag


@pytest.mark.parametrize("mask", [None, np.arange(154).reshape(11, 14) % 7 == 0])
def test_equals_loops_with_other_masks(xp, mask):
    image = np.random.default_rng(1).integers(-9, 9, (11, 14))
    found = noise_statistics(xp.asarray(image), None if mask is None else xp.asarray(mask), max_lag=2)
    check(found, by_loops(image, mask, 2))


@pytest.mark.parametrize("band_pixels", [1, 14, 28, 45, 154])
def test_bands_do_not_matter(monkeypatch, band_pixels):
    image, mask = rough_image()
    expected = by_loops(image, mask, 4)
    monkeypatch.setattr(noise, "_BAND_PIXELS", band_pixels)
    check(noise_statistics(image, mask, max_lag=4), expected)


def test_runs_on_device_arrays():
    image, mask = rough_image()
    with standin.installed() as cupy:
        found = noise_statistics(cupy.asarray(image), cupy.asarray(mask), max_lag=3)
    assert isinstance(found.correlation, np.ndarray)
    check(found, by_loops(image, mask, 3))


def test_lags_have_two_signs_and_one_value():
    image, mask = rough_image()
    found = noise_statistics(image, mask)
    _, _, _, correlation, _ = by_loops(image, mask, 3)
    assert found.lag(0, 0) == 1.0
    for dy, dx in ((0, 1), (1, 0), (2, -3), (3, 3), (0, 2)):
        assert found.lag(dy, dx) == found.lag(-dy, -dx) == pytest.approx(correlation[dy, 3 + dx], rel=RTOL)
    assert found.lag(2, 1) != found.lag(2, -1)
    assert found.lag1 == (found.lag(0, 1) + found.lag(1, 0)) / 2


def test_white_noise_scatters_as_the_errors_say():
    found = noise_statistics(np.random.default_rng(7).normal(3.0, 2.0, (300, 500)), max_lag=12)
    assert found.variance == pytest.approx(4.0, rel=5 * np.sqrt(2 / 150_000))
    independent = np.ones(found.correlation.shape, dtype=bool)
    independent[0, :13] = False  # the mirror image of the rest, and lag (0, 0)
    pull = (found.correlation / found.error)[independent]
    assert len(pull) == 12 * 25 + 12
    assert np.abs(pull).max() < 4.5
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(pull)))
    assert found.error[1, 12] == 1 / np.sqrt(299 * 500)
    assert found.lag1_error == pytest.approx(np.sqrt(1 / (300 * 499) + 1 / (299 * 500)) / 2)


def test_smoothing_gives_the_correlation_of_its_kernel():
    white = np.random.default_rng(4).normal(size=(601, 601))
    weights = np.array([0.25, 0.5, 0.25])
    smoothed = sum(w * white[:, i : 599 + i] for i, w in enumerate(weights))
    found = noise_statistics(smoothed)
    # Autocorrelation of the weights: (3/8, 1/4, 1/16) over 3/8.
    for dx, expected in ((1, 2 / 3), (2, 1 / 6), (3, 0.0)):
        assert found.lag(0, dx) == pytest.approx(expected, abs=0.01)
        assert found.lag(1, dx) == pytest.approx(0.0, abs=0.01)


def test_mean_far_from_zero_does_not_drown_the_noise():
    white = np.random.default_rng(4).normal(size=(120, 130))
    far, near = noise_statistics(white + 1e6), noise_statistics(white)
    assert far.variance == pytest.approx(near.variance, rel=1e-8)  # white + 1e6 itself is rounded by 1e-10
    assert_allclose(far.correlation, near.correlation, atol=1e-8)


def test_equal_pixels_have_no_correlation():
    found = noise_statistics(np.full((5, 6), 2.5))
    assert (found.mean, found.variance, found.n_pixels) == (2.5, 0.0, 30)
    assert np.isnan(found.correlation).all()
    assert found.n_pairs[0, 4] == 25


def test_one_pixel_has_no_variance():
    found = noise_statistics(np.array([[7]]), max_lag=0)
    assert (found.mean, found.n_pixels) == (7.0, 1)
    assert np.isnan(found.variance)
    assert repr(found) == "NoiseStatistics(mean=7, variance=nan, n_pixels=1)"


def test_lag_without_pairs_is_nan():
    image = np.array([[1.0, np.nan, 2.0], [np.nan, np.nan, np.nan], [4.0, np.nan, 8.0]])
    found = noise_statistics(image, max_lag=1)
    assert found.n_pairs.tolist() == [[0, 4, 0], [0, 0, 0]]
    assert np.isnan(found.lag1)
    assert np.isinf(found.lag1_error)
    assert found.lag(0, 0) == 1.0


def test_inputs_stay_as_they_are():
    image, mask = rough_image()
    image.setflags(write=False)
    mask.setflags(write=False)
    before = image.copy(), mask.copy()
    noise_statistics(image, mask)
    assert_array_equal(image, before[0])
    assert_array_equal(mask, before[1])


def test_needs_little_memory():
    image = np.random.default_rng(1).normal(size=(3000, 1000)).astype(np.float32)
    tracemalloc.start()
    noise_statistics(image, image > 2)  # the mask alone takes a quarter of the image
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < image.nbytes


@pytest.mark.parametrize(
    ("image", "mask", "max_lag", "error", "message"),
    [
        ([[1.0]], None, 0, TypeError, "image must be a NumPy or a CuPy array, got list"),
        (np.ones((3, 4)), [[0]], 0, TypeError, "mask must be a NumPy or a CuPy array, got list"),
        (np.ones((2, 3, 4)), None, 0, ValueError, r"image has shape \(2, 3, 4\); it must be \(y, x\)"),
        (np.ones((0, 4)), None, 0, ValueError, r"image has shape \(0, 4\); it must be \(y, x\) and not empty"),
        (np.ones((3, 4), bool), None, 0, TypeError, "image must be float or integer, got bool"),
        (np.ones((3, 4), complex), None, 0, TypeError, "image must be float or integer, got complex128"),
        (np.ones((3, 4)), np.zeros((4, 3), bool), 0, ValueError, r"mask has shape \(4, 3\) but image has \(3, 4\)"),
        (np.ones((3, 4)), np.zeros((3, 4)), 0, TypeError, "mask must be bool or integer, got float64; mask != 0"),
        (np.ones((3, 4)), None, 1.5, TypeError, "max_lag must be an integer, got 1.5"),
        (np.ones((3, 4)), None, -1, ValueError, r"max_lag must be 0 to 2 for an image of \(3, 4\), got -1"),
        (np.ones((3, 4)), None, 3, ValueError, r"max_lag must be 0 to 2 for an image of \(3, 4\), got 3"),
        (np.ones((3, 4)), np.ones((3, 4), bool), 0, ValueError, "no pixel is left: all are masked or not finite"),
        (np.full((3, 4), np.nan), None, 0, ValueError, "no pixel is left: all are masked or not finite"),
    ],
)
def test_errors(image, mask, max_lag, error, message):
    with pytest.raises(error, match=message):
        noise_statistics(image, mask, max_lag=max_lag)


@pytest.mark.parametrize("lag", [(4, 0), (0, -4), (-4, 4)])
def test_lag_that_was_not_measured(lag):
    found = noise_statistics(rough_image()[0])
    with pytest.raises(ValueError, match=r"was not measured; the largest is 3, noise_statistics\(\.\.\., max_lag=4\)"):
        found.lag(*lag)


def golden_files():
    """Differences that come with the tests, and those in $GPUCOADD_GOLDENS/decorrelate."""
    folders = [Path(__file__).parent / "data" / "decorrelate"]
    if os.environ.get("GPUCOADD_GOLDENS"):
        folders.append(Path(os.environ["GPUCOADD_GOLDENS"]) / "decorrelate")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("[gs]*.npz"))}.values()


@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.stem)
def test_equals_reference_statistics(path):
    """Stored numbers: interior beyond 24 pixels, variance over n, mean product of a lag over it."""
    with np.load(path) as file:
        meta = json.loads(str(file["meta_json"]))
        pairs = (("stats_in", "diff_image"), ("stats_out", "out_image"), ("stats_clean", "clean_image"))
        images = [(meta[k], file[name]) for k, name in pairs if k in meta]
    if not images:
        pytest.skip("no noise statistics are stored in this file")
    for stored, image in images:
        found = noise_statistics(image[24:-24, 24:-24])
        n = found.n_pixels
        assert found.variance * (n - 1) / n == pytest.approx(stored["var"], rel=1e-9)
        for name in (name for name in stored if name != "var"):
            assert found.lag(int(name[1]), int(name[2])) == pytest.approx(stored[name], rel=1e-7, abs=1e-9), name
