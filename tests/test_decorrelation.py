"""Decorrelation against its definition on small images, what must stay true, and what is refused."""

from __future__ import annotations

import logging
import re
import tracemalloc

import numpy as np
import oracle_decorrelation as oracle
import pytest
import standin
from goldens import host
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from oracle_decorrelation import gaussian

import gpucoadd
from gpucoadd import CellGrid, MaskedImage, MaskSchema, SpatialKernel, decorrelate

SCHEMA = MaskSchema.lsst()
IGNORED = "INTRP EDGE DETECTED SAT CR BAD NO_DATA DETECTED_NEGATIVE".split()
BITS = SCHEMA.bitmask(*IGNORED)
# Float64 on both sides, some hundred terms per sum; an image's values are near its standard deviation.
DOUBLE = {"rtol": 1e-11, "atol": 1e-11}
# Two products and their sum in float32.
STORED = {"rtol": 3e-7, "atol": 0.0}

CENTRED = gaussian((5, 5), 1.0)
KERNELS = {
    "centred": CENTRED,
    "lopsided": 1.07 * gaussian((5, 5), 0.9, (0.7, -0.4)),
    "even": 0.8 * gaussian((4, 5), 1.1),
    "sharpening": np.pad([[1.7]], 2) - 0.7 * CENTRED,
    "no sum": np.pad([[1.0]], 2) - CENTRED,
}


def exposure(shape, seed=0, *, variance=1.0, mask=None, origin=(0, 0), dtype=np.float64, schema=SCHEMA):
    """Noise with a variance plane that goes up by a third from corner to corner."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0, 1 / 6, shape[0])[:, None] + np.linspace(0, 1 / 6, shape[1])[None, :]
    plane = variance * (1 + slope)
    image = rng.normal(size=shape) * np.sqrt(plane)
    mask = np.zeros(shape, np.int32) if mask is None else mask
    return MaskedImage(image.astype(dtype), plane.astype(np.float32), mask, schema=schema, origin=origin)


def three(shape=(40, 46), *, sv=1.0, tv=2.0, **options):
    """Science, template, difference; the difference is any noise, as the correction asks for nothing else."""
    return [exposure(shape, seed, variance=v, **options) for seed, v in ((1, sv), (2, tv), (3, sv + tv))]


def there(xp, *images):
    """The same exposures with arrays of `xp`."""
    moved = []
    for e in images:
        planes = (xp.asarray(plane) for plane in (e.image, e.variance, e.mask))
        moved.append(MaskedImage(*planes, schema=e.schema, origin=e.origin))
    return moved


def changed(exposure_, **planes):
    """The same exposure with other planes."""
    kept = {name: getattr(exposure_, name) for name in ("image", "variance", "mask")} | planes
    return MaskedImage(**kept, schema=exposure_.schema, origin=exposure_.origin)


def expected_of(images, kernel, *, bits=BITS, **options):
    """The oracle's answer for three exposures."""
    science, template, difference = images
    options.setdefault("sv", oracle.variance_mean(science.variance, science.mask, bits))
    options.setdefault("tv", oracle.variance_mean(template.variance, template.mask, bits))
    return oracle.decorrelate(difference.image, science.variance, template.variance, kernel, **options)


def check(result, expected):
    """Planes, PSF and correction of a whole image against the oracle."""
    assert_allclose(host(result.image), expected.image, err_msg="image", **DOUBLE)
    assert_allclose(host(result.variance), expected.variance, err_msg="variance", **STORED)
    assert tuple(result.fft_shape) == expected.fft_shape
    half = expected.spectrum[:, : expected.fft_shape[1] // 2 + 1]
    assert_allclose(host(result.correction), half, err_msg="correction", **DOUBLE)
    if expected.psf is None:
        assert result.psf is None
    else:
        assert_allclose(host(result.psf), expected.psf, err_msg="psf", **DOUBLE)


def full_plane(half, shape):
    """The full plane of a real even factor from its rfft half."""
    whole = np.empty(shape)
    whole[:, : half.shape[1]] = half
    for kx in range(half.shape[1], shape[1]):
        whole[:, kx] = half[-np.arange(shape[0]) % shape[0], shape[1] - kx]
    return whole


# Is the definition right? --------------------------------------------------------------------------------------------


# A difference in science units is divided by the kernel's sum.
MODES = [(name, matched) for name in KERNELS for matched in (True, False) if matched or name != "no sum"]


@pytest.mark.parametrize(("name", "matched"), MODES)
def test_equals_the_matrix(xp, name, matched):
    """A dense covariance matrix on a 12 x 12 torus, no Fourier transform."""
    kernel = KERNELS[name]
    images = three((8, 8))
    psf = gaussian((5, 5), 0.9, (0.2, 0.1))
    options = {"template_matched": matched, "science_psf": xp.asarray(psf), "template_psf": xp.asarray(psf)}
    for complete in (False, True):
        result = decorrelate(*there(xp, *images), xp.asarray(kernel), complete_variance=complete, **options)
        expected = expected_of(
            images, kernel, template_matched=matched, psf=psf, complete=complete, engine=oracle.Dense
        )
        assert expected.fft_shape == (12, 12)
        check(result, expected)


@pytest.mark.parametrize("complete", [False, True])
def test_score_equals_the_matrix(xp, complete):
    images, kernel, smoothing = three((8, 8)), KERNELS["lopsided"], gaussian((5, 5), 0.6, (0.3, -0.2))
    options = {"score": True, "preconvolution_kernel": xp.asarray(3 * smoothing), "complete_variance": complete}
    result = decorrelate(*there(xp, *images), xp.asarray(kernel), **options)
    expected = expected_of(images, kernel, score=True, preconvolution=smoothing, complete=complete, engine=oracle.Dense)
    check(result, expected)


@pytest.mark.parametrize("shape", [(12, 12), (13, 12), (12, 15), (15, 11)])
@pytest.mark.parametrize("size", [(1, 1), (5, 4), (4, 7), (2, 9)])
def test_corrections_on_grids_of_any_size(shape, size):
    """`fft_shape` gives even sizes; a grid that is given may have others."""
    kernel, smoothing = gaussian(size, 1.0, (0.2, 0.1)), gaussian((3, 4), 0.7)
    half = shape[1] // 2 + 1
    for made, engine in (
        (gpucoadd.diffim_correction(kernel, 1.3, 2.1, shape), oracle.Textbook(kernel, 1.3, 2.1, shape)),
        (
            gpucoadd.score_correction(kernel, 1.3, 2.1, shape, smoothing),
            oracle.Textbook(kernel, 1.3, 2.1, shape, smoothing),
        ),
    ):
        assert_allclose(made, engine.spectrum()[:, :half], **DOUBLE)


def test_a_score_where_both_kernels_have_no_power():
    """Binomials vanish at half a cycle per pixel: 0 / 0 without the floor under the smoothing kernel's power."""
    binomial = np.outer((1, 2, 1), (1, 2, 1)) / 16
    correction = gpucoadd.score_correction(binomial, 2.0, 3.0, (16, 16), binomial)
    assert_allclose(correction[8, 8], (2.0 + 3.0) / 2.0, rtol=1e-15)
    assert np.isfinite(correction).all()


@pytest.mark.parametrize("name", KERNELS)
def test_the_two_oracles_agree(name):
    for smoothing in (None, gaussian((5, 5), 0.6, (0.3, -0.2))):
        dense, textbook = (o(KERNELS[name], 1.3, 2.1, (12, 12), smoothing) for o in (oracle.Dense, oracle.Textbook))
        assert_allclose(dense.spectrum(), textbook.spectrum(), **DOUBLE)
        assert_allclose(dense.weights(), textbook.weights(), **DOUBLE)
        plane = np.random.default_rng(7).normal(size=(8, 8))
        assert_allclose(dense.image(plane), textbook.image(plane), **DOUBLE)
        assert_allclose(dense.variance(plane**2, plane**4), textbook.variance(plane**2, plane**4), **DOUBLE)


@pytest.mark.parametrize("options", [{}, {"template_matched": False}, {"complete": True}, {"score": True}])
def test_a_large_image_equals_the_textbook(xp, options):
    """Large enough for the work to be cut into pieces."""
    images, kernel, psf = three((300, 1001)), gaussian((21, 19), 1.2, (0.3, 0.2)), gaussian((25, 25), 1.0, (0.1, -0.3))
    images[2].image[100:103, 500] = np.nan, np.inf, -np.inf
    named = {"complete_variance" if key == "complete" else key: value for key, value in options.items()}
    stamps = {"science_psf": xp.asarray(psf), "template_psf": xp.asarray(psf)}
    result = decorrelate(*there(xp, *images), xp.asarray(kernel), **stamps, **named)
    expected = expected_of(images, kernel, psf=psf, **options)
    if "score" in options:  # a ratio of small numbers at high frequency
        assert_allclose(host(result.image), expected.image, rtol=0, atol=1e-8)
        assert_allclose(host(result.variance), expected.variance, rtol=2e-6)
    else:
        check(result, expected)


def test_every_factor_equals_the_sum_over_pixels():
    for name, kernel in KERNELS.items():
        half = gpucoadd.diffim_correction(kernel, 1.3, 2.1, (12, 12))
        assert half.shape == (12, 7)
        assert half.dtype == np.float64
        assert_allclose(half, oracle.Dense(kernel, 1.3, 2.1, (12, 12)).spectrum()[:, :7], err_msg=name, **DOUBLE)
        smoothing = gaussian((5, 5), 0.6)
        half = gpucoadd.score_correction(kernel, 1.3, 2.1, (12, 12), smoothing)
        expected = oracle.Dense(kernel, 1.3, 2.1, (12, 12), smoothing).spectrum()[:, :7]
        assert_allclose(half, expected, err_msg=name, **DOUBLE)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.0, 0.05, 0.5, 0.95]))
@settings(deadline=None, max_examples=60)
def test_variance_mean_equals_sorted_lists(seed, ny, nx, spoiled):
    rng = np.random.default_rng(seed)
    variance = rng.gamma(9, 0.5, (ny, nx)) * np.where(rng.random((ny, nx)) < 0.1, 50, 1)
    special = rng.choice([np.nan, np.inf, -np.inf], (ny, nx))
    variance = np.where(rng.random((ny, nx)) < spoiled, special, variance).astype(np.float32)
    mask = (1 << rng.integers(0, 9, (ny, nx))) * (rng.random((ny, nx)) < spoiled)
    mask = mask.astype(np.int32)
    expected = oracle.variance_mean(variance, mask, BITS)
    assert_allclose(gpucoadd.variance_mean(variance, mask, schema=SCHEMA), expected, rtol=1e-12)


def test_variance_mean_when_most_pixels_are_equal():
    variance = np.full((40, 50), 3.3, np.float32)
    variance.flat[::400] = 9.0
    mean = gpucoadd.variance_mean(variance, np.zeros((40, 50), np.int32), schema=SCHEMA)
    assert mean == float(np.float32(3.3))


@pytest.mark.parametrize("kind", ["polynomial", "chebyshev1"])
@pytest.mark.parametrize("n_coefficients", [1, 3, 6, 10])
def test_spatial_kernel_equals_loops(kind, n_coefficients):
    rng = np.random.default_rng(n_coefficients)
    basis, coefficients = rng.normal(size=(3, 5, 4)), rng.normal(size=(3, n_coefficients))
    box = (-0.5, 9.5, 99.5, 79.5)
    kernel = SpatialKernel(basis, coefficients, kind=kind, range=box if kind == "chebyshev1" else None)
    points = [(12.0, 3.5), (79.25, 99.0), (40.0, 50.0)]
    expected = np.array([oracle.kernel_at(basis, coefficients, kind, box, y, x) for y, x in points])
    for (y, x), stamp in zip(points, expected, strict=True):
        assert kernel.at(y, x).shape == (5, 4)
        assert_allclose(kernel.at(y, x), stamp, rtol=1e-12, atol=1e-12 * np.abs(stamp).max())
    many = kernel.at([y for y, _ in points], [x for _, x in points])
    assert_allclose(many, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


class AtOnePosition:
    """A kernel that is known by position, and nothing else of it."""

    def __init__(self, kernel, xp=np):
        self._kernel, self._xp = kernel, xp

    def at(self, y, x):
        assert isinstance(y, float) and isinstance(x, float)
        return self._xp.asarray(self._kernel(y, x))


@pytest.mark.parametrize("cells", [None, CellGrid(cell_size=24, border_size=6, scale_by_fwhm=False)])
def test_a_kernel_by_position(xp, cells):
    """From the host or from where the images are, it is what a `SpatialKernel` is."""
    kernel = SpatialKernel(CENTRED[None], np.array([[0.5, 0.01, 0.0]]))
    images = there(xp, *three((48, 52)))
    expected = decorrelate(*images, kernel, cells=cells)
    for module in (np, xp):
        got = decorrelate(*images, AtOnePosition(kernel.at, module), cells=cells)
        assert_allclose(host(got.image), host(expected.image), **DOUBLE)
        assert_allclose(host(got.variance), host(expected.variance), **STORED)
        if cells is None:
            assert got.fft_shape == expected.fft_shape


def test_a_kernel_by_position_may_be_larger_than_the_image():
    images = three((8, 9))
    large = np.pad(CENTRED, 4)
    expected = expected_of(images, large)
    got = decorrelate(*images, AtOnePosition(lambda y, x: large))
    assert got.fft_shape == expected.fft_shape
    assert_allclose(got.image, expected.image, **DOUBLE)
    with pytest.raises(ValueError, match=r"kernel has shape \(13, 13\) and is larger than the image"):
        decorrelate(*images, large)
    got = decorrelate(
        *images,
        AtOnePosition(lambda y, x: CENTRED),
        score=True,
        preconvolution_kernel=AtOnePosition(lambda y, x: large),
    )
    expected = expected_of(images, CENTRED, score=True, preconvolution=large)
    assert_allclose(got.image, expected.image, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"preconvolution_kernel has shape \(13, 13\) and is larger than the image"):
        decorrelate(*images, CENTRED, score=True, preconvolution_kernel=large)


def test_what_a_kernel_by_position_must_be():
    images = three((48, 52))
    cells = CellGrid(cell_size=24, border_size=6, scale_by_fwhm=False)
    shapes = iter([(5, 5)] * 3 + [(5, 7)] * 30)
    with pytest.raises(ValueError, match=r"kernel has the shapes \[\(5, 5\), \(5, 7\)\] at different positions"):
        decorrelate(*images, AtOnePosition(lambda y, x: np.ones(next(shapes))), cells=cells, threads=1)
    with pytest.raises(ValueError, match="kernel holds NaN or infinite values"):
        decorrelate(*images, AtOnePosition(lambda y, x: np.full((3, 3), np.nan)))
    with pytest.raises(ValueError, match=r"kernel has shape \(3,\); it must be \(y, x\)"):
        decorrelate(*images, AtOnePosition(lambda y, x: np.ones(3)))


# Worked example ------------------------------------------------------------------------------------------------------


def test_the_worked_example_in_fourier_space():
    assert_allclose(CENTRED[2], [0.02193823, 0.09832033, 0.16210282, 0.09832033, 0.02193823], atol=5e-9)
    half = gpucoadd.diffim_correction(CENTRED, 1.0, 1.0, (12, 12))
    assert_allclose(
        [half[0, 0], half[0, 3], half[0, 6], half[6, 6]], [1, 1.35692208, 1.41383330, 1.41421336], atol=5e-9
    )
    psi = np.fft.irfft2(half, (12, 12))
    assert_allclose(psi[0, :4], [1.37049949, -0.03270217, -0.01295308, -0.00171341], atol=5e-9)
    assert_allclose(psi[1, 1], -0.02432672, atol=5e-9)
    assert_allclose(gpucoadd.diffim_correction(CENTRED / 2, 1.0, 4.0, (12, 12)), half, rtol=1e-14)
    half = gpucoadd.score_correction(CENTRED, 1.0, 1.0, (12, 12), gaussian((5, 5), 0.8))
    assert_allclose([half[0, 3], half[0, 6], half[6, 6]], [1.41239960, 1.86424031, 1.98944955], atol=5e-9)


def test_the_worked_example_on_pixels():
    image = np.zeros((12, 12))
    image[5, 6] = 1.0
    ones, mask = np.ones((12, 12), np.float32), np.zeros((12, 12), np.int32)
    plain = MaskedImage(image, ones, mask, schema=SCHEMA)
    result = decorrelate(plain, plain, plain, CENTRED, science_psf=gaussian((5, 5), 1.5))
    assert tuple(result.fft_shape) == (16, 16)
    out = result.image
    assert_allclose(out[5, 6:9], [1.37049954, -0.03270210, -0.01295315], atol=5e-9)
    assert_allclose([out[6, 7], out.sum()], [-0.02432664, 1.00043695], atol=5e-9)
    image = image.copy()
    image[0, 0], image[1, 1] = np.nan, -np.inf
    out = decorrelate(plain, plain, changed(plain, image=image), CENTRED).image
    assert np.isnan(out[0, 0])
    assert out[1, 1] == np.inf
    assert np.isfinite(out).sum() == 142


def test_the_worked_variance_and_psf():
    shape = (40, 44)
    flat = [changed(e, variance=np.ones(shape, np.float32)) for e in three(shape)]
    result = decorrelate(*flat, CENTRED, science_psf=gaussian((9, 9), 1.5))
    assert_allclose(result.variance, 2.0, **STORED)
    assert_allclose([result.psf[4, 4], result.psf[4, 5], result.psf.min()], [0.081383, 0.063803, -9.5e-5], atol=6e-7)
    zeros = changed(flat[1], variance=np.zeros(shape, np.float32))
    options = {"science_variance": 1.0, "template_variance": 1.0}
    # The weights of the micro example, whose 12 x 12 grid cuts the wings of psi at the sixth digit.
    assert_allclose(decorrelate(flat[0], zeros, flat[2], CENTRED, **options).variance, 1.886356, rtol=2e-6)
    assert_allclose(decorrelate(zeros, flat[1], flat[2], CENTRED, **options).variance, 0.113644, rtol=2e-5)


# What must stay true -------------------------------------------------------------------------------------------------


def random_kernel(seed, ny, nx):
    return np.random.default_rng(seed).normal(size=(ny, nx)) + 0.2


VARIANCES = st.floats(-4, 4).map(lambda power: 10.0**power)
SIDES = st.integers(1, 6)
SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, SIDES, SIDES, VARIANCES, VARIANCES)
@settings(deadline=None, max_examples=60)
def test_noise_power_adds_up(seed, ny, nx, v1, v2):
    kernel, shape = random_kernel(seed, ny, nx), (10, 14)
    c = full_plane(gpucoadd.diffim_correction(kernel, v1, v2, shape), shape)
    k = np.fft.fft2(oracle.to_corner(kernel, shape))
    total = v1 + v2 * kernel.sum() ** 2
    assert_allclose(v1 * (c**2).mean() + v2 * (np.abs(k * c) ** 2).mean(), total, rtol=1e-12)
    assert_allclose(c[0, 0], 1.0, rtol=1e-13)


@given(SEEDS, SIDES, SIDES, VARIANCES, st.integers(-5, 5), st.integers(-5, 5), st.floats(0.01, 100))
@settings(deadline=None, max_examples=60)
def test_what_the_correction_does_not_depend_on(seed, ny, nx, v2, dy, dx, factor):
    kernel, shape = random_kernel(seed, ny, nx), (18, 20)
    stamp = np.pad(kernel, 5)
    c = gpucoadd.diffim_correction(stamp, 1.0, v2, shape)
    moved = gpucoadd.diffim_correction(np.roll(stamp, (dy, dx), axis=(0, 1)), 1.0, v2, shape)
    # |K| is known to 1e-15 of the kernel's norm; where it is small, C hardly depends on it.
    assert_allclose(moved, c, rtol=1e-11)
    assert_allclose(gpucoadd.diffim_correction(factor * stamp, 1.0, v2 / factor**2, shape), c, rtol=1e-11)
    assert_allclose(gpucoadd.diffim_correction(stamp, factor, factor * v2, shape), c, rtol=1e-11)
    assert_allclose(gpucoadd.diffim_correction(stamp, 1.0, 0.0, shape), 1.0, rtol=1e-14)


@pytest.mark.parametrize("ratio", [1.0, 10.0, 100.0])
def test_flux_is_kept(ratio):
    shape = (121, 130)
    science, template, difference = three(shape, tv=ratio)
    source = 1e4 * gaussian(shape, 1.6, (0.3, -1.2))
    result = decorrelate(science, template, changed(difference, image=source), gaussian((21, 21), 1.17))
    assert_allclose(result.image.sum(), 1e4, rtol=1e-6)
    assert not np.allclose(result.image, source, atol=1.0)


def test_a_template_without_variance_changes_nothing():
    science, template, difference = three()
    template = changed(template, variance=np.zeros_like(template.variance))
    result = decorrelate(science, template, difference, KERNELS["lopsided"])
    assert_allclose(result.image, difference.image, **DOUBLE)
    assert_allclose(result.variance, science.variance, **STORED)


def test_only_the_variances_and_masks_of_the_two_images_matter():
    science, template, difference = three()
    other = [changed(e, image=np.full_like(e.image, 7.0)) for e in (science, template)]
    other_variance = changed(difference, variance=np.full_like(difference.variance, np.nan))
    result = decorrelate(*other, other_variance, CENTRED)
    expected = decorrelate(science, template, difference, CENTRED)
    assert_array_equal(result.image, expected.image)
    assert_array_equal(result.variance, expected.variance)


@pytest.mark.parametrize("complete", [False, True])
def test_pixels_that_are_not_finite(complete):
    images = three((30, 34))
    planes = []
    for number, image in enumerate(images):
        pair = {"image": image.image.copy(), "variance": image.variance.copy()}
        values = (np.nan, np.inf, -np.inf)
        for plane in pair.values():
            plane[5 + number, 6 : 6 + 3 * 5 : 5] = values
        planes.append(changed(image, **pair))
    result = decorrelate(*planes, KERNELS["lopsided"], complete_variance=complete)
    expected = expected_of(planes, KERNELS["lopsided"], complete=complete)
    for name in ("image", "variance"):
        got, wanted = getattr(result, name), getattr(expected, name)
        assert_array_equal(np.isnan(got), np.isnan(wanted), err_msg=name)
        assert_array_equal(np.isposinf(got), np.isposinf(wanted), err_msg=name)
        assert_array_equal(np.isneginf(got), np.isneginf(wanted), err_msg=name)
    check(result, expected)
    assert np.isnan(result.image).sum() == 1
    assert np.isposinf(result.image).sum() == 2


def test_a_difference_without_finite_pixels_stays_so():
    science, template, difference = three()
    empty = changed(difference, image=np.full_like(difference.image, np.nan))
    result = decorrelate(science, template, empty, CENTRED)
    assert np.isnan(result.image).all()
    assert np.isfinite(result.variance).all()


def test_the_mask_comes_through():
    rng = np.random.default_rng(9)
    mask = rng.integers(0, 1 << 11, (40, 46), dtype=np.int32)
    science, template, difference = three()
    result = decorrelate(science, template, changed(difference, mask=mask), CENTRED)
    assert_array_equal(result.mask, mask)
    assert result.mask.dtype == np.int32
    assert result.schema == SCHEMA
    clean = decorrelate(science, template, difference, CENTRED)
    assert_array_equal(result.image, clean.image)


def every_call(images):
    """Calls that reach all branches, as functions without arguments."""
    psf = gaussian((7, 7), 1.4)
    kernel = SpatialKernel(np.stack([CENTRED, KERNELS["lopsided"]]), np.array([[0.5, 0.01, 0.0], [0.4, 0.0, 0.01]]))
    grid = CellGrid(cell_size=20, border_size=6, scale_by_fwhm=False)
    arrays = [psf, kernel.basis, kernel.coefficients]
    for options in (
        {},
        {"template_matched": False, "template_psf": psf},
        {"score": True, "science_psf": psf},
        {"complete_variance": True},
        {"cells": grid},
        {"cells": grid, "complete_variance": True, "science_psf": psf},
        {"precision": "single", "edge": "reflect"},
    ):
        yield arrays, lambda options=options: decorrelate(*images, kernel, **options)


def test_inputs_are_left_alone():
    images = three((60, 66), dtype=np.float32)
    images[2].image[3, 4], images[2].image[30, 31] = np.nan, -np.inf
    images[0].variance[7, 8] = np.nan
    planes = [getattr(e, name) for e in images for name in ("image", "variance", "mask")]
    for arrays, call in every_call(images):
        mine = planes + arrays
        before = [array.copy() for array in mine]
        for array in mine:
            array.setflags(write=False)
        call()
        for array, copy in zip(mine, before, strict=True):
            assert_array_equal(array, copy)


# Numbers that go in --------------------------------------------------------------------------------------------------


def varying_kernel(box=None):
    """Sum and shape change with the position."""
    coefficients = np.array([[0.6, 0.002, 0.001], [0.3, -0.001, 0.002]])
    return SpatialKernel(np.stack([CENTRED, KERNELS["lopsided"]]), coefficients)


@pytest.mark.parametrize("origin", [(0, 0), (-30, 55)])
def test_a_varying_kernel_is_taken_half_a_pixel_beyond_the_centre(origin):
    images = three((41, 46), origin=origin)
    kernel = varying_kernel()
    result = decorrelate(*images, kernel)
    y, x = origin[0] + 20.5, origin[1] + 23.0
    assert tuple(result.kernel_position) == (y, x)
    assert tuple(result.origin) == origin
    check(result, expected_of(images, kernel.at(y, x)))
    elsewhere = decorrelate(*images, kernel, position=(origin[0] + 3.25, origin[1] + 40.0))
    assert tuple(elsewhere.kernel_position) == (origin[0] + 3.25, origin[1] + 40.0)
    check(elsewhere, expected_of(images, kernel.at(origin[0] + 3.25, origin[1] + 40.0)))
    assert np.abs(elsewhere.image - result.image).max() > 1e-3


@pytest.mark.parametrize("matched", [True, False])
def test_given_variances(matched):
    images = three()
    options = {"template_matched": matched, "science_psf": CENTRED, "template_psf": CENTRED}
    result = decorrelate(*images, KERNELS["lopsided"], science_variance=0.7, template_variance=5.0, **options)
    assert (result.science_variance, result.template_variance) == (0.7, 5.0)
    check(result, expected_of(images, KERNELS["lopsided"], sv=0.7, tv=5.0, template_matched=matched, psf=CENTRED))
    one = decorrelate(*images, KERNELS["lopsided"], template_variance=5.0, **options)
    check(one, expected_of(images, KERNELS["lopsided"], tv=5.0, template_matched=matched, psf=CENTRED))


def with_loud_pixels(images, plane):
    """A third of the science pixels at thrice the variance, flagged with `plane`."""
    science = images[0]
    variance, mask = science.variance.copy(), science.mask.copy()
    variance[::3] *= 3
    mask[::3] |= SCHEMA.bitmask(plane)
    return [changed(science, variance=variance, mask=mask), *images[1:]]


def test_masked_pixels_are_left_out_of_the_variance():
    quiet = decorrelate(*three(), CENTRED).science_variance
    for plane in IGNORED:
        images = with_loud_pixels(three(), plane)
        result = decorrelate(*images, CENTRED)
        check(result, expected_of(images, CENTRED))
        assert_allclose(result.science_variance, quiet, rtol=0.02, err_msg=plane)
    images = with_loud_pixels(three(), "SUSPECT")
    assert decorrelate(*images, CENTRED).science_variance > 1.2 * quiet


def test_other_planes_to_ignore():
    images = with_loud_pixels(three(), "CR")
    for planes in (["SUSPECT", "CR"], ["SUSPECT"], []):
        result = decorrelate(*images, CENTRED, ignore_planes=planes)
        check(result, expected_of(images, CENTRED, bits=SCHEMA.bitmask(*planes)))
        mean = gpucoadd.variance_mean(images[0].variance, images[0].mask, schema=SCHEMA, ignore_planes=planes)
        assert mean == result.science_variance
    with pytest.raises(KeyError, match="SUSPEKT"):
        decorrelate(*images, CENTRED, ignore_planes=["SUSPEKT"])
    with pytest.raises(KeyError, match="SUSPEKT"):
        gpucoadd.variance_mean(images[0].variance, images[0].mask, schema=SCHEMA, ignore_planes=["SUSPEKT"])


def test_default_planes_may_be_missing():
    images = three(schema=MaskSchema({"SAT": 3}))
    spoiled = images[0].mask.copy()
    spoiled[::3] = 1 << 3
    images[0] = changed(images[0], mask=spoiled)
    check(decorrelate(*images, CENTRED), expected_of(images, CENTRED, bits=1 << 3))


def test_the_psf_only_shapes_the_grid():
    images = three((24, 26))
    small, large = (decorrelate(*images, CENTRED, science_psf=gaussian((n, n + 2), 1.4)) for n in (3, 11))
    assert tuple(small.fft_shape) == (28, 30)
    assert tuple(large.fft_shape) == (34, 38)
    assert small.psf.shape == (3, 5)
    assert_allclose(large.psf.sum(), 1.0, rtol=1e-14)
    assert_array_equal(large.psf_at(3, 8), large.psf)
    assert decorrelate(*images, CENTRED).psf is None


def test_the_psf_of_the_unconvolved_image_is_corrected():
    images = three((24, 26))
    science_psf, template_psf = gaussian((9, 9), 1.3), gaussian((11, 11), 1.6)
    options = {"science_psf": science_psf, "template_psf": template_psf}
    for matched, psf in ((True, science_psf), (False, template_psf)):
        result = decorrelate(*images, CENTRED, template_matched=matched, **options)
        check(result, expected_of(images, CENTRED, template_matched=matched, psf=psf))


class VaryingPsf:
    """Gaussian that widens with x; not defined where `hole` says so."""

    def __init__(self, hole=lambda y, x: False):
        self.hole = hole

    def at(self, y, x):
        if self.hole(y, x):
            raise ValueError("there is a hole")
        return gaussian((9, 9), 1.0 + 0.01 * x)


@pytest.mark.parametrize("cells", [None, CellGrid(cell_size=24, border_size=8, scale_by_fwhm=False)])
def test_a_varying_psf_is_taken_where_the_kernel_is(cells):
    images, kernel, psf = three((60, 66), origin=(0, 10)), varying_kernel(), VaryingPsf()
    result = decorrelate(*images, kernel, science_psf=psf, cells=cells)
    if cells is None:
        y, x = result.kernel_position
        check(result, expected_of(images, kernel.at(y, x), psf=psf.at(y, x)))
    else:
        expected = in_cells(images, kernel, result, psf=psf.at)
        assert_allclose(result.cells.psf, [cell.psf for cell in expected.cells], **DOUBLE)
        assert_allclose(result.image, expected.image, **DOUBLE)


def test_a_psf_with_a_hole_is_averaged_over_the_image():
    images = three((40, 46))
    left, right = gaussian((9, 9), 1.0), gaussian((9, 9), 1.5)

    class TwoPsfs(VaryingPsf):
        def at(self, y, x):
            super().at(y, x)
            return left if x < 23 else right

    holed = TwoPsfs(lambda y, x: (y - 20) ** 2 + (x - 23) ** 2 < 5**2)
    result = decorrelate(*images, CENTRED, template_psf=holed, template_matched=False)
    expected = decorrelate(*images, CENTRED, template_psf=(left + right) / 2, template_matched=False)
    # The two halves have the same number of points but for those on the line between them.
    assert_allclose(result.psf, expected.psf, rtol=0, atol=0.01 * expected.psf.max())
    decorrelate(*images, CENTRED, science_psf=VaryingPsf(lambda y, x: y > 0.07 * 40))
    for hole in (lambda y, x: True, lambda y, x: 0.04 * 40 < y < 0.96 * 40):  # a twentieth at each side does not count
        refused(ValueError, "PSF is not defined", science_psf=VaryingPsf(hole))
    nowhere = VaryingPsf()
    nowhere.at = lambda y, x: np.full((9, 9), np.nan)
    refused(ValueError, "PSF is not defined", science_psf=nowhere)


def test_score_may_take_a_varying_psf():
    images, psf = three((40, 46)), VaryingPsf()
    result = decorrelate(*images, CENTRED, score=True, science_psf=psf)
    expected = expected_of(images, CENTRED, score=True, psf=psf.at(20, 23))
    assert_allclose(result.variance, expected.variance, rtol=2e-6)


def test_the_unit_of_cells_is_measured_on_the_psf():
    """Adaptive moments of a Gaussian give its sigma."""
    images = three((120, 132))
    grid = CellGrid(cell_size=12, border_size=3)
    psfs = {"science_psf": gaussian((25, 25), 1.5), "template_psf": gaussian((25, 25), 2.0)}
    for matched, sigma in ((True, 1.5), (False, 2.0)):
        result = decorrelate(*images, CENTRED, cells=grid, template_matched=matched, **psfs)
        boxes = grid.boxes((120, 132), psf_fwhm=2.3548 * sigma, force_even=True)
        assert_array_equal(result.cells.inner, boxes[0])
        assert_array_equal(result.cells.expanded, boxes[1])
    refused(ValueError, "psf_fwhm.*science_psf", cells=grid)
    refused(ValueError, "psf_fwhm.*template_psf", cells=grid, template_matched=False)


def test_score_takes_the_science_psf_and_says_what_its_psf_is(caplog):
    images, psf = three(), gaussian((9, 9), 0.9, (0.2, 0.0))
    with caplog.at_level(logging.WARNING, logger="gpucoadd"):
        result = decorrelate(*images, CENTRED, score=True, science_psf=5 * psf)
    assert "score" in caplog.text
    expected = expected_of(images, CENTRED, score=True, psf=psf)
    assert_allclose(result.image, expected.image, rtol=0, atol=1e-8)  # a ratio of small numbers, spec: 2e-11
    assert_allclose(result.variance, expected.variance, rtol=2e-6)
    assert_allclose(result.psf, expected.psf, rtol=0, atol=1e-12)


# Warnings ------------------------------------------------------------------------------------------------------------


def test_a_huge_variance_ratio_is_worth_a_warning(caplog):
    images = three()
    with caplog.at_level(logging.WARNING, logger="gpucoadd"):
        decorrelate(*images, CENTRED, science_variance=1.0, template_variance=9e7)
        assert not caplog.records
        decorrelate(*images, CENTRED, science_variance=1.0, template_variance=2e8)
        decorrelate(*images, CENTRED, science_variance=3e8, template_variance=1.0, template_matched=False)
    assert len(caplog.records) == 2
    for record, names, number in zip(caplog.records, ("template.*science", "science.*template"), ("2e", "3e")):
        assert re.search(names, record.getMessage())
        assert number + "+08" in record.getMessage()


@pytest.mark.parametrize("which", [0, 1])
def test_an_empty_image_leaves_the_difference(which, caplog):
    images = three()
    nothing = np.full_like(images[which].image, np.nan)
    images[which] = changed(images[which], image=nothing, variance=nothing.astype(np.float32))
    difference = images[2]
    with caplog.at_level(logging.WARNING, logger="gpucoadd"):
        result = decorrelate(*images, CENTRED)
    assert ("science", "template")[which] in caplog.text
    for plane in ("image", "variance", "mask"):
        assert_array_equal(getattr(result, plane), getattr(difference, plane))
    assert not np.shares_memory(result.image, difference.image)
    assert not np.shares_memory(result.variance, difference.variance)


# Types and precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"cells": CellGrid(cell_size=20, border_size=6, scale_by_fwhm=False)}])
def test_types_of_the_difference_are_kept(dtype, options):
    images = three(dtype=dtype)
    result = decorrelate(*images, CENTRED, **options)
    assert result.image.dtype == dtype
    assert result.variance.dtype == np.float32
    wide = changed(images[2], variance=images[2].variance.astype(np.float64))
    result = decorrelate(*images[:2], wide, CENTRED, **options)
    assert result.variance.dtype == np.float64


@pytest.mark.parametrize("ratio", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("cells", [None, CellGrid(cell_size=50, border_size=16, scale_by_fwhm=False)])
def test_single_precision_is_close(ratio, cells):
    images, kernel = three((120, 132), tv=ratio, dtype=np.float32), gaussian((11, 11), 1.3)
    double = decorrelate(*images, kernel, cells=cells)
    single = decorrelate(*images, kernel, cells=cells, precision="single")
    assert np.abs(single.image - double.image).max() < 2e-5 * double.image.std()
    assert_allclose(single.variance, double.variance, rtol=2e-6)
    assert not np.array_equal(single.image, double.image)


def score_scene(shape):
    """A smoothed difference, what it was smoothed with, and the kernel from the template to the smoothed science."""
    images, psf = three(shape), gaussian((11, 11), 1.2)
    images[2] = changed(images[2], image=oracle.convolved(np.pad(images[2].image, 5), psf))
    return images, psf, oracle.convolved(np.pad(gaussian((9, 9), 1.0), 10), psf)


def test_score_in_single_precision_is_close():
    images, psf, kernel = score_scene((120, 132))
    options = {"score": True, "preconvolution_kernel": psf}
    double = decorrelate(*images, kernel, **options)
    single = decorrelate(*images, kernel, precision="single", **options)
    assert np.abs(single.image - double.image).max() < 2e-5 * double.image.std()
    assert not np.array_equal(single.image, double.image)


def noise_difference(shape, kernel, tv, seed):
    """Science, template and difference of pure noise; the template is convolved on a larger field and cut."""
    rng = np.random.default_rng(seed)
    pad = kernel.shape[0] - 1
    template = rng.normal(size=(shape[0] + pad, shape[1] + pad)) * np.sqrt(tv)
    image = rng.normal(size=shape) - oracle.convolved(template, kernel)
    mask = np.zeros(shape, np.int32)
    planes = [np.full(shape, v, np.float32) for v in (1.0, tv, 1.0)]
    return [MaskedImage(image, plane, mask, schema=SCHEMA) for plane in planes]


def mirrored(image, reach):
    """`image` on a larger field, d c b a | a b c d | d c b a on each axis."""
    rows, columns = (np.arange(-reach, n + reach) % (2 * n) for n in image.shape)
    rows, columns = (np.where(i < n, i, 2 * n - 1 - i) for i, n in zip((rows, columns), image.shape, strict=True))
    return image[np.ix_(rows, columns)]


@pytest.mark.parametrize("complete", [False, True])
def test_reflected_edges_equal_a_mirrored_image(complete):
    images, kernel, reach = three((60, 71), tv=10.0), gaussian((9, 9), 1.1), 50
    images[2].image[4, 60:63] = np.nan, np.inf, -np.inf
    fields = [images[2].image.astype(np.float64), images[0].variance, images[1].variance]
    levels = {"sv": 1.1, "tv": 11.0}
    expected = oracle.decorrelate(*(mirrored(f, reach) for f in fields), kernel, complete=complete, **levels)
    options = {"edge": "reflect", "complete_variance": complete, "science_variance": 1.1, "template_variance": 11.0}
    result = decorrelate(*images, kernel, **options)
    cut = (slice(reach, -reach), slice(reach, -reach))
    # The mean that stands for pixels that are not finite is that of the field here, of the image there.
    far = np.ones((60, 71), bool)
    far[:25, 40:] = False
    error = np.abs(result.image[far] - expected.image[cut][far]).max()
    assert error < 1e-4 * np.std(expected.image[cut][far])  # the reach is where psi is 1e-5 of its peak
    assert_allclose(result.variance, expected.variance[cut], rtol=1e-4)
    assert_array_equal(np.isfinite(result.image), np.isfinite(expected.image[cut]))


@pytest.mark.parametrize("cell_size", [40, (200, 40), (41, 200), 200])
def test_cells_at_the_edge_reach_into_the_mirrored_image(cell_size):
    """Also where one cell reaches from edge to edge."""
    images, kernel, reach = three((110, 122), tv=10.0), gaussian((9, 9), 1.1), 50
    grid = CellGrid(cell_size=cell_size, border_size=(24, 26), scale_by_fwhm=False)
    fields = [mirrored(f, reach) for f in (images[2].image, images[0].variance, images[1].variance)]
    expected = oracle.decorrelate(*fields, kernel, sv=1.1, tv=11.0).image[reach:-reach, reach:-reach]
    result = decorrelate(*images, kernel, edge="reflect", cells=grid, science_variance=1.1, template_variance=11.0)
    assert np.abs(result.image - expected).max() < 1e-4 * expected.std()


def border(image):
    """The outermost pixels."""
    return np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])


def test_reflected_edges():
    kernel = gaussian((15, 15), 1.17)
    images = noise_difference((400, 420), kernel, 1.0, seed=4)
    zero, reflect = (decorrelate(*images, kernel, edge=edge) for edge in ("zero", "reflect"))
    inside = (slice(30, -30), slice(30, -30))
    assert np.abs(zero.image[inside] - reflect.image[inside]).max() < 1e-6 * zero.image.std()
    assert np.abs(zero.image - reflect.image).max() > 0.01
    assert_array_equal(zero.variance, reflect.variance)
    images = noise_difference((400, 420), kernel, 100.0, seed=5)
    zero, reflect = (decorrelate(*images, kernel, edge=edge) for edge in ("zero", "reflect"))
    excess = [abs((border(result.image) ** 2).mean() / 101 - 1) for result in (zero, reflect)]
    assert excess[0] > 0.5  # 163.6 instead of 101 in the outermost row
    assert excess[1] < 0.75 * excess[0]


def test_reflected_edges_of_a_score():
    images, psf, kernel = score_scene((120, 132))
    options = {"score": True, "preconvolution_kernel": psf}
    zero, reflect = (decorrelate(*images, kernel, edge=edge, **options) for edge in ("zero", "reflect"))
    inside = (slice(40, -40), slice(40, -40))
    assert np.abs(zero.image[inside] - reflect.image[inside]).max() < 1e-6 * zero.image.std()
    assert np.abs(zero.image - reflect.image).max() > 0.01 * zero.image.std()
    assert_allclose(reflect.variance, zero.variance, rtol=1e-5)


# Cells ---------------------------------------------------------------------------------------------------------------

GRIDS = {
    "spacing": CellGrid(cell_size=(24, 30), border_size=(7, 6), scale_by_fwhm=False),
    "overlap": CellGrid(cell_size=31, grid_step=(17, 22), border_size=5, adjust="none", scale_by_fwhm=False),
    "sum": CellGrid(cell_size=30, border_size=6, reduce="sum", scale_by_fwhm=False),
    "copy": CellGrid(cell_size=31, grid_step=19, border_size=5, adjust="none", reduce="copy", scale_by_fwhm=False),
    "size": CellGrid(grid_step=26, border_size=8, adjust="size", scale_by_fwhm=False),
    "centroids": CellGrid(cell_size=(20, 22), border_size=6, centroids=[(12, 15), (33, 40.7), (64, 70)]),
    "fwhm": CellGrid(cell_size=8.0, border_size=2.0),
}


@pytest.mark.parametrize("name", GRIDS)
def test_cells_equal_a_loop(xp, name):
    grid, origin = GRIDS[name], (200, -15)
    images = three((70, 76), origin=origin)
    rng = np.random.default_rng(11)
    images[0].mask[rng.random((70, 76)) < 0.1] = SCHEMA.bitmask("SAT")
    images[2].image[30:33, 40] = np.nan, np.inf, -np.inf
    kernel, psf = varying_kernel(), gaussian((9, 9), 1.4)
    options = {"psf_fwhm": 4.1} if name == "fwhm" else {}
    result = decorrelate(*there(xp, *images), kernel, cells=grid, science_psf=psf, **options)
    inner, expanded = grid.boxes((70, 76), origin=origin, force_even=True, **options)
    assert_array_equal(result.cells.inner, inner)
    assert_array_equal(result.cells.expanded, expanded)
    science, template, difference = images
    expected = oracle.decorrelate_cells(
        difference.image,
        (science.variance, science.mask),
        (template.variance, template.mask),
        lambda y, x: oracle.kernel_at(kernel.basis, kernel.coefficients, "polynomial", None, y, x),
        inner,
        expanded,
        origin=origin,
        bits=BITS,
        reduce=grid.reduce,
        psf=psf,
    )
    assert_allclose(host(result.image), expected.image, **DOUBLE)
    assert_allclose(host(result.variance), expected.variance, **STORED)
    assert_array_equal(host(result.mask), difference.mask)
    assert_allclose(result.cells.kernel_position, [cell.position for cell in expected.cells], rtol=0)
    assert_allclose(result.cells.science_variance, [cell.sv for cell in expected.cells], rtol=1e-12)
    assert_allclose(result.cells.template_variance, [cell.tv for cell in expected.cells], rtol=1e-12)
    assert_allclose(host(result.cells.psf), [cell.psf for cell in expected.cells], **DOUBLE)
    assert result.correction is None
    offsets = result.cells.kernel_position - np.array([200 + 35, -15 + 38])
    assert_array_equal(host(result.psf), host(result.cells.psf[int(np.hypot(*offsets.T).argmin())]))
    for x, y in (inner[0][:2] + 3, inner[-1][:2]):
        stamp = oracle.psf_at(expected.cells, inner, y, x)
        assert_allclose(host(result.psf_at(y, x)), stamp, **DOUBLE)
    with pytest.raises(ValueError, match="no cell"):
        result.psf_at(0, 0)


@pytest.mark.parametrize("mode", ["matched", "convolved science", "score", "complete"])
def test_cells_equal_a_loop_in_every_mode(mode):
    images = three((70, 76))
    psf, kernel = gaussian((9, 9), 0.8, (0.1, 0.2)), KERNELS["lopsided"]
    options = {
        "matched": {},
        "convolved science": {"template_matched": False},
        "score": {"score": True},
        "complete": {"complete": True},
    }[mode]
    named = {"complete_variance" if key == "complete" else key: value for key, value in options.items()}
    result = decorrelate(*images, kernel, cells=GRIDS["spacing"], science_psf=psf, template_psf=psf, **named)
    expected = in_cells(images, kernel, result, psf=psf, **options)
    tolerance = {"rtol": 0, "atol": 1e-8} if mode == "score" else DOUBLE
    assert_allclose(result.image, expected.image, **tolerance)
    assert_allclose(result.variance, expected.variance, rtol=2e-6)


@pytest.mark.parametrize("options", [{}, {"template_matched": False}, {"complete_variance": True}])
def test_one_cell_is_the_whole_image(options):
    images, kernel = three((60, 66), origin=(5, -9)), varying_kernel()
    grid = CellGrid(cell_size=100, border_size=1, scale_by_fwhm=False)
    psfs = {"science_psf": gaussian((9, 9), 1.4), "template_psf": gaussian((9, 9), 1.2)}
    one, whole = (decorrelate(*images, kernel, cells=cells, **psfs, **options) for cells in (grid, None))
    assert len(one.cells.inner) == 1
    assert_allclose(one.image, whole.image, **DOUBLE)
    assert_allclose(one.variance, whole.variance, rtol=1e-6)
    assert_allclose(one.cells.psf[0], whole.psf, **DOUBLE)
    assert tuple(one.cells.kernel_position[0]) == tuple(whole.kernel_position)


def in_cells(images, kernel, result, **options):
    """The oracle's answer in the cells of a result, averaged."""
    pairs = [(e.variance, e.mask) for e in images[:2]]
    boxes = result.cells.inner, result.cells.expanded
    at = kernel.at if isinstance(kernel, SpatialKernel) else lambda y, x: kernel
    options = {"origin": images[2].origin, "bits": BITS, "reduce": "average"} | options
    return oracle.decorrelate_cells(images[2].image, *pairs, at, *boxes, **options)


def test_given_variances_hold_in_every_cell():
    images = three((70, 76))
    result = decorrelate(*images, CENTRED, cells=GRIDS["spacing"], science_variance=1.5, template_variance=0.5)
    assert_array_equal(result.cells.science_variance, 1.5)
    assert_array_equal(result.cells.template_variance, 0.5)
    expected = in_cells(images, CENTRED, result, sv=1.5, tv=0.5)
    assert_allclose(result.image, expected.image, **DOUBLE)


def test_a_cell_without_good_pixels_is_nan():
    images = three((70, 76))
    mask = images[0].mask.copy()
    mask[:, :38] = SCHEMA.bitmask("BAD")
    images[0] = changed(images[0], mask=mask)
    grid = CellGrid(cell_size=20, border_size=4, scale_by_fwhm=False)
    result = decorrelate(*images, CENTRED, cells=grid)
    empty = np.isnan(result.cells.science_variance)
    assert 0 < empty.sum() < len(empty)
    for (x0, y0, width, height), nothing in zip(result.cells.inner, empty, strict=True):
        if not nothing:
            assert np.isfinite(result.image[y0 : y0 + height, x0 : x0 + width]).all()
    assert_array_equal(np.isnan(result.image), np.isnan(result.variance))
    assert np.isnan(result.image[:, :10]).all()
    assert_array_equal(result.mask, images[2].mask)


@pytest.mark.parametrize("which", [0, 1])
def test_a_cell_of_an_empty_image_keeps_the_difference(which, caplog):
    images = three((70, 76))
    image, variance = images[which].image.copy(), images[which].variance.copy()
    image[:, :40] = variance[:, :40] = np.nan
    images[which] = changed(images[which], image=image, variance=variance)
    grid = CellGrid(cell_size=20, border_size=4, scale_by_fwhm=False)
    psf = gaussian((9, 9), 1.4)
    with caplog.at_level(logging.WARNING, logger="gpucoadd"):
        result = decorrelate(*images, CENTRED, cells=grid, science_psf=3 * psf)
    assert ("science", "template")[which] in caplog.text
    assert_array_equal(result.image[:, :20], images[2].image[:, :20])
    assert_array_equal(result.variance[:, :20], images[2].variance[:, :20])
    assert_allclose(result.cells.psf[0], psf, rtol=1e-12)
    assert np.abs(result.image[:, 60:] - images[2].image[:, 60:]).max() > 0.1


def test_cells_without_any_good_pixel_are_refused():
    images = three((70, 76))
    images[1] = changed(images[1], mask=np.full((70, 76), SCHEMA.bitmask("BAD"), np.int32))
    refused(ValueError, "template", images=images, cells=GRIDS["spacing"])


def test_a_cell_without_noise_is_refused():
    images = three((70, 76))
    variance = images[0].variance.copy()
    variance[40:, 40:] = 0.0
    images[0] = changed(images[0], variance=variance)
    grid = CellGrid(cell_size=20, border_size=4, scale_by_fwhm=False)
    refused(ValueError, "science.*cell", images=images, cells=grid)


@pytest.mark.parametrize("reduce", ["average", "copy"])
def test_reflected_edges_of_cells(reduce):
    kernel = gaussian((15, 15), 1.17)
    grid = CellGrid(cell_size=90, border_size=30, reduce=reduce, scale_by_fwhm=False)
    images = noise_difference((270, 280), kernel, 100.0, seed=6)
    zero, reflect = (decorrelate(*images, kernel, edge=edge, cells=grid) for edge in ("zero", "reflect"))
    whole = decorrelate(*images, kernel)
    inside = (slice(40, -40), slice(40, -40))
    # At this ratio psi has fallen to 1e-6 or so of its peak where an expanded cell ends.
    assert np.abs(reflect.image[inside] - whole.image[inside]).max() < 1e-4 * whole.image.std()
    assert_allclose(reflect.variance, zero.variance, rtol=2e-6)
    excess = [abs((border(result.image) ** 2).mean() / 101 - 1) for result in (zero, reflect)]
    assert excess[0] > 0.4
    assert excess[1] < 0.75 * excess[0]


@pytest.mark.parametrize("cells", [None, GRIDS["overlap"], GRIDS["copy"]])
@pytest.mark.parametrize("options", [{}, {"complete_variance": True, "edge": "reflect", "precision": "single"}])
def test_a_run_equals_its_repeat(cells, options):
    images, kernel, psf = three((300, 1000) if cells is None else (70, 76)), varying_kernel(), gaussian((9, 9), 1.4)
    results = [
        decorrelate(*images, kernel, cells=cells, science_psf=psf, threads=threads, **options)
        for threads in (1, 2, 2, None)
    ]
    for result in results[1:]:
        assert_array_equal(result.image, results[0].image)
        assert_array_equal(result.variance, results[0].variance)
        assert_array_equal(result.psf, results[0].psf)


# On the device -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cupy():
    with standin.installed() as module:
        yield module


@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"template_matched": False},
        {"score": True},
        {"complete_variance": True},
        {"precision": "single"},
        {"edge": "reflect"},
        {"cells": GRIDS["spacing"]},
        {"cells": GRIDS["sum"], "score": True},
        {"cells": GRIDS["overlap"], "complete_variance": True},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_arrays_stay_on_the_device(cupy, options, varying):
    images = three((70, 76))
    images[2].image[20, 21:24] = np.nan, np.inf, -np.inf
    images[0].mask[5:9, 6] = SCHEMA.bitmask("BAD")
    psf = gaussian((9, 9), 1.3)
    there = [
        MaskedImage(*(cupy.asarray(getattr(e, n)) for n in ("image", "variance", "mask")), schema=SCHEMA)
        for e in images
    ]
    kernel = varying_kernel() if varying else KERNELS["lopsided"]
    expected = decorrelate(*images, kernel, science_psf=psf, template_psf=psf, **options)
    on_device = cupy.asarray(psf)
    kernel = kernel if varying else cupy.asarray(kernel)
    result = decorrelate(*there, kernel, science_psf=on_device, template_psf=on_device, **options)
    std = np.std(expected.image[np.isfinite(expected.image)])
    tolerance = 2e-6 if options.get("precision") == "single" else 1e-9
    for name in ("image", "variance", "mask"):
        plane = getattr(result, name)
        assert isinstance(plane, standin.ndarray), f"{name} is a {type(plane)}"
        assert plane.dtype == getattr(expected, name).dtype
    assert_allclose(result.image.get(), expected.image, rtol=0, atol=tolerance * std)
    assert_allclose(result.variance.get(), expected.variance, rtol=2e-6)
    assert_array_equal(result.mask.get(), expected.mask)
    if "cells" not in options:
        assert isinstance(result.correction, standin.ndarray)
        assert_allclose(result.correction.get(), expected.correction, rtol=1e-9)
        assert_allclose(result.psf.get(), expected.psf, rtol=0, atol=1e-12)


def test_the_pieces_stay_on_the_device(cupy):
    kernel = cupy.asarray(KERNELS["lopsided"])
    for half, expected in (
        (gpucoadd.diffim_correction(kernel, 1.0, 2.0, (12, 14)), oracle.Textbook(KERNELS["lopsided"], 1, 2, (12, 14))),
        (
            gpucoadd.score_correction(kernel, 1.0, 2.0, (12, 14), cupy.asarray(CENTRED)),
            oracle.Textbook(KERNELS["lopsided"], 1, 2, (12, 14), CENTRED),
        ),
    ):
        assert isinstance(half, standin.ndarray)
        assert_allclose(half.get(), expected.spectrum()[:, :8], rtol=1e-9)
    science = three()[0]
    mean = gpucoadd.variance_mean(cupy.asarray(science.variance), cupy.asarray(science.mask), schema=SCHEMA)
    assert isinstance(mean, float)
    assert_allclose(mean, oracle.variance_mean(science.variance, science.mask, BITS), rtol=1e-12)


def test_host_and_device_are_not_mixed(cupy):
    science, template, difference = three()
    there = MaskedImage(*(cupy.asarray(getattr(template, n)) for n in ("image", "variance", "mask")), schema=SCHEMA)
    with pytest.raises(TypeError, match="template"):
        decorrelate(science, there, difference, CENTRED)


# What is refused -----------------------------------------------------------------------------------------------------


def refused(error, match, *, images=None, kernel=CENTRED, **options):
    with pytest.raises(error, match=match):
        decorrelate(*(images or three()), kernel, **options)


@pytest.mark.parametrize("which", [0, 1])
def test_images_that_do_not_fit(which):
    name = ("science", "template")[which]
    images = three()
    images[which] = exposure((40, 45))
    refused(ValueError, name, images=images)
    images[which] = exposure((40, 46), origin=(0, 1))
    refused(ValueError, f"{name}.*origin|origin.*{name}", images=images)
    images[which] = images[which].image
    refused(TypeError, name, images=images)


@pytest.mark.parametrize(
    ("kernel", "error", "match"),
    [
        (gaussian((41, 5), 1.0), ValueError, "kernel.*41"),
        (gaussian((5, 47), 1.0), ValueError, "kernel.*47"),
        (CENTRED[0], ValueError, "kernel.*shape"),
        (np.zeros((3, 5, 5)), ValueError, "kernel.*shape"),
        (np.where(CENTRED == CENTRED.max(), np.nan, CENTRED), ValueError, "kernel.*finite"),
        (np.where(CENTRED == CENTRED.max(), np.inf, CENTRED), ValueError, "kernel.*finite"),
        (CENTRED.tolist(), TypeError, "kernel"),
    ],
)
def test_kernels_that_cannot_be(kernel, error, match):
    refused(error, match, kernel=kernel)


def test_a_convolved_science_needs_a_kernel_sum():
    edges = np.array([[0, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 0]])
    refused(ValueError, "sum", kernel=edges, template_matched=False)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("given", [True, False])
def test_negative_variances(which, given):
    name, images = ("science", "template")[which], three()
    if given:
        refused(ValueError, f"{name}.*-2", **{f"{name}_variance": -2.0})
        refused(ValueError, name, **{f"{name}_variance": float("nan")})
        refused(ValueError, name, **{f"{name}_variance": float("inf")})
    else:
        images[which] = changed(images[which], variance=np.full((40, 46), -2, np.float32))
        refused(ValueError, name, images=images)


@pytest.mark.parametrize("which", [0, 1])
def test_the_unconvolved_image_needs_noise(which):
    name, images = ("science", "template")[which], three()
    images[which] = changed(images[which], variance=np.zeros((40, 46), np.float32))
    refused(ValueError, name, images=images, template_matched=which == 0)
    refused(ValueError, name, **{f"{name}_variance": 0.0}, template_matched=which == 0)


@pytest.mark.parametrize("which", [0, 1])
def test_an_image_with_all_pixels_masked(which):
    name, images = ("science", "template")[which], three()
    images[which] = changed(images[which], mask=np.full((40, 46), SCHEMA.bitmask("SAT"), np.int32))
    refused(ValueError, name, images=images)


def test_score_and_what_it_needs():
    refused(ValueError, "score", preconvolution_kernel=CENTRED)
    refused(ValueError, "score", score=True, template_matched=False, science_psf=CENTRED, template_psf=CENTRED)
    refused(ValueError, "science_psf", score=True)
    refused(ValueError, "preconvolution_kernel", score=True, preconvolution_kernel=CENTRED[0])
    refused(ValueError, "preconvolution_kernel", score=True, preconvolution_kernel=np.full((3, 3), np.nan))
    refused(ValueError, "preconvolution_kernel.*sum", score=True, preconvolution_kernel=np.zeros((3, 3)))


@pytest.mark.parametrize("name", ["science_psf", "template_psf"])
def test_psfs_that_cannot_be(name):
    matched = name == "science_psf"
    refused(ValueError, name, **{name: CENTRED[0]}, template_matched=matched)
    refused(ValueError, name, **{name: np.full((3, 3), np.nan)}, template_matched=matched)


def test_words_and_pairs():
    refused(ValueError, "precision.*half", precision="half")
    refused(ValueError, "edge.*wrap", edge="wrap")
    refused(ValueError, "position", position=3.0)
    refused(ValueError, "position", position=(1.0, 2.0, 3.0))
    refused(ValueError, "position", position=(1.0, float("nan")))
    refused(ValueError, "threads", threads=0)
    refused(TypeError, "cells", cells=41)
    refused(TypeError, "config", config={"precision": "single"})
    refused(ValueError, "position.*cell", position=(3.0, 4.0), cells=GRIDS["spacing"])


def test_options_that_cannot_be():
    for error, match, option in (
        (ValueError, "ignore_planes.*names of mask planes.*'BAD'$", {"ignore_planes": "BAD"}),
        (ValueError, "ignore_planes.*names of mask planes.*5", {"ignore_planes": [5]}),
        (TypeError, "complete_variance.*1", {"complete_variance": 1}),
        (TypeError, "cells.*int", {"cells": 41}),
        (ValueError, "precision.*half", {"precision": "half"}),
        (ValueError, "edge.*wrap", {"edge": "wrap"}),
    ):
        with pytest.raises(error, match=match):
            gpucoadd.DecorrelationConfig(**option)
    with pytest.raises(ValueError, match=r"ignoreMaskPlane.*ignoreMaskPlanes"):
        gpucoadd.DecorrelationConfig.from_lsst({"decorrelateConfig.ignoreMaskPlane": ["BAD"]})
    full = "decorrelateMapReduceConfig.cellSize"
    with pytest.raises(ValueError, match=f"'{full}'; nearest: {full}"):
        gpucoadd.DecorrelationConfig.from_lsst({full: 5.0})
    with pytest.raises(ValueError, match=f"{full}X must be float, got 'five'"):
        gpucoadd.DecorrelationConfig.from_lsst({f"{full}X": "five"})
    with pytest.raises(ValueError, match=r"'cells\.cell_sice'; nearest: cells\.cell_size"):
        gpucoadd.DecorrelationConfig.from_names({"cells.cell_sice": 5.0})


def test_stamps_that_cannot_be():
    images = three((24, 24))
    with pytest.raises(ValueError, match="science_psf has sum 0"):
        decorrelate(*images, gaussian((5, 5), 1.0), science_psf=np.zeros((5, 5)))
    steep = gpucoadd.SpatialKernel(gaussian((5, 5), 1.0)[None], np.array([[1.0, 1e300, 1e300, 0, 0, 0]]))
    with pytest.raises(ValueError, match="kernel is not finite where it is taken"), np.errstate(all="ignore"):
        decorrelate(*images, steep, position=(1e300, 1e300))
    with pytest.raises(ValueError, match="science_variance must be a finite number, got '1'"):
        decorrelate(*images, gaussian((5, 5), 1.0), science_variance="1")


def test_options_by_lsst_names():
    """A name without prefix holds for both, one with a prefix comes before it where it applies."""
    make = gpucoadd.DecorrelationConfig.from_lsst
    assert make({}) == gpucoadd.DecorrelationConfig()
    assert make({}, spatially_varying=True).cells == CellGrid()
    names = {"ignoreMaskPlanes": ["BAD"], "decorrelateMapReduceConfig.mapper.ignoreMaskPlanes": ["SAT"]}
    assert make(names, spatially_varying=False).ignore_planes == ("BAD",)
    assert make(names, spatially_varying=True).ignore_planes == ("SAT",)
    names = {"decorrelateConfig.completeVarPlanePropagation": True}
    assert make(names).complete_variance
    assert not make(names, spatially_varying=True).complete_variance
    grid = make({"decorrelateMapReduceConfig.cellSizeX": 60.0}).cells
    assert (grid.cell_size, grid.grid_step, grid.border_size) == ((41.0, 60.0), (40.0, 40.0), (8.0, 8.0))


def test_options_by_our_names():
    make = gpucoadd.DecorrelationConfig.from_names
    config = make({"precision": "single", "cells.border_size": 5, "completeVarPlanePropagation": True})
    assert (config.precision, config.complete_variance, config.edge) == ("single", True, "zero")
    assert config.cells == CellGrid(border_size=5)
    assert make({"edge": "reflect"}).cells is None
    assert make({"cells.border_size": 5}, cells=False).cells is None
    names = config.as_names()
    assert names["cells.border_size"] == (5.0, 5.0)
    assert make({k: v for k, v in names.items() if v is not None}) == config


def test_an_option_of_the_call_comes_before_the_configuration():
    images = three()
    config = gpucoadd.DecorrelationConfig(complete_variance=True, ignore_planes=["SAT"])
    by_config = decorrelate(*images, CENTRED, config=config)
    assert_array_equal(by_config.variance, decorrelate(*images, CENTRED, complete_variance=True).variance)
    plain = decorrelate(*images, CENTRED, config=config, complete_variance=False)
    assert_array_equal(plain.variance, decorrelate(*images, CENTRED).variance)
    assert by_config.config == config


@pytest.mark.parametrize("reduce", ["none", "coadd_psf"])
def test_cells_that_give_no_image(reduce):
    refused(ValueError, "map_cells", cells=CellGrid(cell_size=20, scale_by_fwhm=False, reduce=reduce))


def test_no_psf_to_ask_for():
    result = decorrelate(*three(), CENTRED)
    with pytest.raises(ValueError, match="science_psf"):
        result.psf_at(3, 4)


def test_pieces_that_cannot_be():
    mask = np.zeros((4, 5), np.int32)
    with pytest.raises(ValueError, match=r"variance.*mask"):
        gpucoadd.variance_mean(np.ones((4, 4)), mask, schema=SCHEMA)
    with pytest.raises(TypeError, match=r"mask.*int32"):
        gpucoadd.variance_mean(np.ones((4, 5)), mask.astype(np.int64), schema=SCHEMA)
    with pytest.raises(TypeError, match="schema"):
        gpucoadd.variance_mean(np.ones((4, 5)), mask, schema={"BAD": 0})
    for shapes in ((), ((3, 0),), ((3, 4, 5),)):
        with pytest.raises(ValueError, match="shapes"):
            gpucoadd.fft_shape(*shapes)
    for arguments, match in (
        ((CENTRED[0], 1.0, 1.0, (12, 12)), "kernel.*shape"),
        ((CENTRED, 1.0, 1.0, (12, 4)), "kernel.*grid"),
        ((CENTRED, 0.0, 1.0, (12, 12)), "v1 = 0.0"),
        ((CENTRED, 1.0, -1.0, (12, 12)), "v2 = -1.0"),
        ((CENTRED, float("nan"), 1.0, (12, 12)), "v1 = nan"),
    ):
        with pytest.raises(ValueError, match=match):
            gpucoadd.diffim_correction(*arguments)
        with pytest.raises(ValueError, match=match):
            gpucoadd.score_correction(*arguments, gaussian((3, 3), 0.7))
    with pytest.raises(ValueError, match=r"preconvolution_kernel.*grid"):
        gpucoadd.score_correction(CENTRED, 1.0, 1.0, (12, 12), gaussian((5, 13), 1.0))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"basis": CENTRED}, "basis.*shape"),
        ({"coefficients": np.ones((3, 3))}, "coefficients.*2 basis"),
        ({"coefficients": np.ones(3)}, "coefficients.*shape"),
        ({"coefficients": np.ones((2, 4))}, "4 columns"),
        ({"kind": "chebyshev2"}, "kind.*chebyshev2"),
        ({"basis": np.full((2, 5, 5), np.nan)}, "basis.*finite"),
        ({"coefficients": np.full((2, 3), np.inf)}, "coefficients.*finite"),
        ({"kind": "chebyshev1"}, "range"),
        ({"kind": "chebyshev1", "range": (0, 0, 10)}, "range"),
        ({"kind": "chebyshev1", "range": (0, 0, 10, 0)}, "range.*min < max"),
        ({"kind": "chebyshev1", "range": (0, 0, float("nan"), 10)}, "range.*min < max"),
    ],
)
def test_spatial_kernels_that_cannot_be(changes, match):
    given = {"basis": np.stack([CENTRED, CENTRED]), "coefficients": np.ones((2, 3))} | changes
    with pytest.raises(ValueError, match=match):
        SpatialKernel(given.pop("basis"), given.pop("coefficients"), **given)


def test_a_spatial_kernel_is_asked_for_points():
    kernel = varying_kernel()
    with pytest.raises(ValueError, match="y has shape"):
        kernel.at([1.0, 2.0], [1.0])
    with pytest.raises(AttributeError, match="frozen"):
        kernel.kind = "chebyshev1"


def test_one_negative_pixel_counts_unless_it_is_masked():
    images = three()
    variance, mask = images[0].variance.copy(), images[0].mask.copy()
    variance[3, 4] = -0.5
    images[0] = changed(images[0], variance=variance)
    refused(ValueError, "science.*1 pixels", images=images)
    mask[3, 4] = SCHEMA.bitmask("BAD")
    images[0] = changed(images[0], mask=mask)
    check(decorrelate(*images, CENTRED), expected_of(images, CENTRED))


@pytest.mark.parametrize(
    ("options", "bytes_per_pixel"),
    [
        ({}, 13),
        ({"precision": "single"}, 9),
        ({"edge": "reflect"}, 25),
        ({"complete_variance": True}, 65),
        ({"cells": CellGrid(cell_size=41, border_size=8, scale_by_fwhm=False)}, 10),
    ],
    ids=["whole", "single", "reflect", "complete", "cells"],
)
def test_memory(options, bytes_per_pixel):
    """What the docstring promises, and 9 megabytes for blocks at work: less than one more plane of this image."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(1500, 1600)).astype(np.float32)
    variance = (1 + rng.random(noise.shape)).astype(np.float32)
    images = [MaskedImage(noise, variance, np.zeros(noise.shape, np.int32), schema=SCHEMA)] * 3
    tracemalloc.start()
    try:
        decorrelate(*images, gaussian((21, 21), 1.2), threads=1, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < bytes_per_pixel * noise.size + 9e6
