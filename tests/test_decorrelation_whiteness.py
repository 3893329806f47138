"""Does the science work? Differences of simulated noise must come out white, with the variance their plane says."""

from __future__ import annotations

import numpy as np
import pytest
from oracle_decorrelation import convolved, gaussian

from gpucoadd import CellGrid, MaskedImage, MaskSchema, SpatialKernel, decorrelate

SCHEMA = MaskSchema.lsst()
LAGS = [(0, 1), (1, 0), (1, 1), (0, 2), (0, 3)]
EDGE = 24  # pixels over which the missing surroundings show
SHARPENING = np.pad([[1.6]], 8) - 0.6 * gaussian((17, 17), 1.5)


def correlations(image):
    """Normalised autocorrelation at `LAGS`."""
    image = image - image.mean()
    height, width = image.shape
    variance = (image**2).mean()
    return np.array([(image[dy:, dx:] * image[: height - dy, : width - dx]).mean() / variance for dy, dx in LAGS])


def exposures(image, *variances):
    """Science, template and difference as `decorrelate` takes them."""
    mask = np.zeros(image.shape, np.int32)
    planes = [np.full(image.shape, v, np.float32) for v in (*variances, variances[0])]
    return [MaskedImage(image, plane, mask, schema=SCHEMA) for plane in planes]


def check_white(image, variance_plane):
    """All correlations and the ratio of variances within four standard errors of a white image."""
    n = image.size
    found = correlations(image)
    assert np.abs(found).max() < 4 / np.sqrt(n), dict(zip(LAGS, found.round(4).tolist(), strict=True))
    ratio = image.var() / np.median(variance_plane)
    assert abs(ratio - 1) < 4 * np.sqrt(2 / n), f"variance is {ratio:.4f} of its plane"


def inside(array):
    return array[EDGE:-EDGE, EDGE:-EDGE]


@pytest.mark.parametrize(
    ("kernel", "sv", "tv", "variance_before", "lag_before", "expected"),
    [
        (gaussian((21, 21), 1.17), 1.0, 1.0, 1.056, 0.045, 2.0),
        (gaussian((21, 21), 1.17), 1.0, 100.0, 6.80, 0.71, 101.0),
        (gaussian((21, 21), 2.46), 1.0, 100.0, 2.32, 0.55, 101.0),
        (SHARPENING, 1.0, 1.0, None, None, 2.0),
        (gaussian((21, 15), 1.3, (0.8, -0.4)) * 0.9, 2.0, 1.5, None, None, 2.0 + 0.81 * 1.5),
    ],
    ids=["equal", "noisy template", "wide kernel", "sharpening", "lopsided"],
)
def test_template_convolved(kernel, sv, tv, variance_before, lag_before, expected):
    rng = np.random.default_rng(12)
    shape, (ky, kx) = (480, 500), kernel.shape
    science = rng.normal(size=shape) * np.sqrt(sv)
    template = rng.normal(size=(shape[0] + ky - 1, shape[1] + kx - 1)) * np.sqrt(tv)
    difference = science - convolved(template, kernel)
    before = inside(difference)
    assert abs(correlations(before)[0]) > 8 / np.sqrt(before.size)
    if variance_before is not None:
        assert abs(before.var() / variance_before - 1) < 0.06  # fewer independent pixels, as they are correlated
        assert abs(correlations(before)[0] - lag_before) < 0.02
    result = decorrelate(*exposures(difference, sv, tv), kernel)
    assert abs(np.median(result.variance) / expected - 1) < 1e-6
    check_white(inside(result.image), inside(result.variance))


def test_science_convolved():
    """The difference is in science units: divided by the kernel's sum after the subtraction."""
    rng = np.random.default_rng(13)
    kernel, shape = 1.18 * gaussian((21, 21), 1.3), (480, 500)
    science, template = rng.normal(size=(500, 520)), rng.normal(size=shape) * np.sqrt(0.7)
    difference = (convolved(science, kernel) - template) / 1.18
    assert correlations(inside(difference))[0] > 0.05
    result = decorrelate(*exposures(difference, 1.0, 0.7), kernel, template_matched=False)
    assert abs(np.median(result.variance) - (1 + 0.7 / 1.18**2)) < 1e-6
    check_white(inside(result.image), inside(result.variance))


def test_without_template_noise_nothing_changes():
    rng = np.random.default_rng(14)
    difference = rng.normal(size=(96, 96))
    result = decorrelate(*exposures(difference, 1.0, 0.0), gaussian((21, 21), 1.5))
    np.testing.assert_allclose(correlations(result.image), correlations(difference), rtol=0, atol=1e-10)


@pytest.mark.parametrize("complete", [False, True])
def test_score_has_the_variance_it_says(complete):
    """A detection statistic is correlated by design; divided by the root of its variance it has unit scatter."""
    rng = np.random.default_rng(15)
    psf, matching = gaussian((21, 21), 1.4, (0.3, -0.2)), gaussian((21, 21), 1.2)
    kernel = convolved(np.pad(matching, 20), psf)[10:-10, 10:-10]  # takes the template to the smoothed science
    science, template = rng.normal(size=(500, 500)), rng.normal(size=(500, 500)) * np.sqrt(0.8)
    difference = convolved(science, psf[::-1, ::-1]) - convolved(template, kernel)
    images = exposures(difference, 1.0, 0.8)
    result = decorrelate(*images, kernel, score=True, preconvolution_kernel=psf[::-1, ::-1], complete_variance=complete)
    significance = inside(result.image / np.sqrt(result.variance))
    assert correlations(significance)[0] > 0.8
    # One independent number per 4 pi sigma^2 pixels or so.
    assert abs(significance.std() - 1) < 4 * np.sqrt(4 * np.pi * 1.4**2 / (2 * significance.size))


# A kernel that changes over the field --------------------------------------------------------------------------------

WIDTHS = (0.9, 1.5)


def separable(image, sigma, half):
    """`image` convolved with a Gaussian, smaller by 2 * half."""
    row = gaussian((1, 2 * half + 1), sigma)
    return convolved(convolved(image, row), row.T)


def varying_scene(size, tv, seed):
    """Difference of noise whose template was convolved with one kernel at the left and another at the right."""
    rng = np.random.default_rng(seed)
    half = 8
    template = rng.normal(size=(size + 2 * half, size + 2 * half)) * np.sqrt(tv)
    right = np.arange(size) / size
    sharp, wide = (separable(template, sigma, half) for sigma in WIDTHS)
    difference = rng.normal(size=(size, size)) - ((1 - right) * sharp + right * wide)
    basis = np.stack([gaussian((2 * half + 1, 2 * half + 1), sigma) for sigma in WIDTHS])
    kernel = SpatialKernel(basis, np.array([[1.0, -1 / size, 0.0], [0.0, 1 / size, 0.0]]))
    return exposures(difference, 1.0, tv), kernel


def parts(array, n=4):
    """`array` without its edge, cut into n x n parts."""
    for rows in np.array_split(inside(array), n, axis=0):
        yield from np.array_split(rows, n, axis=1)


@pytest.mark.parametrize("ratio", [1.0, 10.0, 100.0])
def test_cells_whiten_everywhere(ratio):
    images, kernel = varying_scene(1024, ratio, seed=int(ratio))
    grid = CellGrid(cell_size=64, border_size=24, scale_by_fwhm=False)
    result = decorrelate(*images, kernel, cells=grid)
    for image, variance in zip(parts(result.image), parts(result.variance), strict=True):
        check_white(image, variance)


def test_one_kernel_for_all_does_not():
    images, kernel = varying_scene(512, 100.0, seed=3)
    result = decorrelate(*images, kernel)
    lag = [correlations(image)[0] for image in parts(result.image)]
    assert max(lag) > 0.1
    assert min(lag) < -0.1
