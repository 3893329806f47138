"""A real pair: JWST NIRCam images of Abell 2744, months apart, matched by the ratio of their model PSFs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.fft import fft2, fftshift, ifft2, ifftshift
from scipy.ndimage import binary_dilation
from scipy.signal import fftconvolve

import gpucoadd

REFERENCE = "jw01324001001-01324-o001_t001_nircam_clear-f200w_i2d_stamp"
SCIENCE = "jw02561001002-02561-o001_t003_nircam_clear-f200w_i2d_stamp"
BORDER, HALF = 30, 20


@pytest.fixture(scope="module")
def planes():
    folder = os.environ.get("GPUCOADD_DATA")
    if not folder:
        pytest.skip("GPUCOADD_DATA is not set")
    files = sorted((Path(folder) / "nircam_diff").glob("*.fits"))
    if not files:
        pytest.skip(f"GPUCOADD_DATA={folder} has no nircam_diff")
    from astropy.io import fits

    return {path.name.removesuffix(".fits"): fits.getdata(path).astype(np.float64) for path in files}


def pair(planes, regularisation):
    """Science, reference, difference and kernel; sources are DETECTED, pixels without noise NO_DATA."""
    (science, reference), (noise_s, noise_r) = ([planes[n + e] for n in (SCIENCE, REFERENCE)] for e in ("", ".noise"))
    psf_s, psf_r = (planes[f"{name}.WebbPSF"] for name in (SCIENCE, REFERENCE))
    to, of = (fft2(ifftshift(psf / psf.sum())) for psf in (psf_s, psf_r))
    wide = fftshift(ifft2(to * of.conj() / (abs(of) ** 2 + regularisation)).real)
    middle = wide.shape[0] // 2
    kernel = wide[middle - HALF : middle + HALF + 1, middle - HALF : middle + HALF + 1]
    good = np.isfinite(science) & np.isfinite(reference) & (noise_s > 0) & (noise_r > 0)
    difference = science - fftconvolve(np.where(good, reference, 0), kernel, mode="same")
    sources = (planes[f"{SCIENCE}.mask4sfft"] > 0) | (abs(difference) > 5 * np.hypot(noise_s, noise_r))
    schema = gpucoadd.MaskSchema.lsst()
    mask = np.where(binary_dilation(sources, iterations=6), schema.bitmask("DETECTED"), 0)
    mask = (mask | np.where(good, 0, schema.bitmask("NO_DATA"))).astype(np.int32)

    def image(pixels, noise):
        variance = np.where(noise > 0, noise**2, np.nan)
        return gpucoadd.MaskedImage(pixels.astype(np.float32), variance.astype(np.float32), mask, schema=schema)

    images = image(science, noise_s), image(reference, noise_r), image(np.where(good, difference, np.nan), noise_s)
    return images, kernel


def test_the_kernel_no_longer_shows_in_the_noise(planes):
    """
    Drizzled pixels are correlated before any subtraction, so white is not the aim here.

    But kernels that match equally well and differ in their high frequencies leave differences whose noise differs, and
    after the correction it must be the same: that of the pixels themselves.
    """
    before, after = [], []
    for regularisation in (1e-2, 1e-3, 1e-4):
        images, kernel = pair(planes, regularisation)
        cells = gpucoadd.CellGrid(cell_size=150, border_size=24, scale_by_fwhm=False)
        edge = np.ones(images[0].shape, bool)
        edge[BORDER:-BORDER, BORDER:-BORDER] = False
        bad = edge | (images[2].mask != 0)
        before.append(gpucoadd.noise_statistics(images[2].image, bad).lag1)
        for options in ({}, {"cells": cells}):
            result = gpucoadd.decorrelate(*images, kernel, **options)
            statistics = gpucoadd.noise_statistics(result.image, bad)
            after.append(statistics.lag1)
            # JWST's noise maps are good to about ten per cent; what is left of faint galaxies adds to it.
            assert 0.9 < statistics.variance / result.variance[~bad].mean() < 1.15
    assert np.ptp(before) > 0.03
    assert np.ptp(after) < 0.005
    assert max(after) < min(before) - 0.03
