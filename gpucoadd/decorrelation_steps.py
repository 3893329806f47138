"""The correction of images of one shape, and of one whole image."""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import numpy as np
from scipy.fft import next_fast_len

from .backend import Array, array_module, fft, quiet, to_host
from .decorrelation_inputs import Inputs, variance_levels
from .filtering import Windows, apply, convolve_variance, weighted_sum
from .spectra import Correction

logger = logging.getLogger(__name__)

_PSI_GRID, _PSI_TAIL = 256, 1e-5  # grid and relative height at which the reach of a correction is measured


class Batch(NamedTuple):
    """Images of one shape that go through the FFT together, and what their correction is made of."""

    images: Windows  # n
    v1: Windows  # the same in the variance planes of the image that was not convolved, and of the one that was
    v2: Windows
    n1: Array  # (n,) float64: their levels
    n2: Array
    kernels: Array  # (n or 1, ky, kx) float64
    psfs: Array | None  # (n or 1, ph, pw) float64


class Corrected(NamedTuple):
    """What became of a batch."""

    images: Array  # (n, h, w)
    variance: Array  # (n, h, w)
    psfs: Array | None  # (n, ph, pw) float64, sum 1
    model: Correction


def correct(
    inputs: Inputs,
    batch: Batch,
    shape: tuple[int, int],
    parts: np.ndarray,
    *,
    threads: int = 1,
) -> Corrected:
    """
    Correct the images of a batch on the FFT grid `shape`, and make their variance planes anew.

    What is given back is cut to `parts`, as in `gpucoadd.filtering.apply`. Waits for no device.
    """
    xp = array_module(batch.images.plane)
    variance_dtype = inputs.difference.variance.dtype
    correction = Correction(
        batch.kernels, batch.n1, batch.n2, shape, preconvolution=inputs.preconvolution, psf=batch.psfs
    )
    filtered = apply(
        batch.images,
        correction,
        parts,
        dtype=inputs.difference.image.dtype,
        precision=inputs.config.precision,
        threads=threads,
    )
    with quiet(xp):
        # Of a convolved science image: the difference was scaled to the science image.
        divisors = None if inputs.template_matched else batch.kernels.sum(axis=(1, 2)) ** 2
        if inputs.config.complete_variance:
            c1, c2 = correction.overall()
            variance = convolve_variance(batch.v1, c1, batch.n1, shape, parts)
            variance += convolve_variance(batch.v2, c2, batch.n2, shape, parts)
            if divisors is not None:
                variance /= divisors[:, None, None]
            variance = variance.astype(variance_dtype, copy=False)
        else:
            variance = weighted_sum(filtered.weights, batch.v1, batch.v2, parts, variance_dtype, divisors=divisors)
        psfs = filtered.stamps
        if psfs is not None:
            psfs = psfs / psfs.sum(axis=(1, 2), keepdims=True)
    return Corrected(filtered.images, variance, psfs, correction)


def correct_whole(inputs: Inputs, position: tuple[float, float]) -> dict[str, Any]:
    """The fields of `Decorrelated` that a whole image has, its kernel taken at `position` (y, x)."""
    difference = inputs.difference
    xp = array_module(difference.image)
    windows = [(Windows.whole(side.image.variance), Windows.whole(side.image.mask)) for side in inputs.sides]
    levels = to_host(variance_levels(inputs.sides, windows, threads=inputs.threads))[:, 0].tolist()
    named = {f"{side.name}_variance": level for side, level in zip(inputs.sides, levels)}
    where = np.array([position])
    kernels, psfs = inputs.kernels_at(where), inputs.psfs_at(where)
    blank = [side.name for side in inputs.sides if any(map(math.isnan, levels)) and all_nan(side.image.image)]
    if blank:
        logger.warning("the %s image is NaN throughout; the difference is given back as it came", blank[0])
        psf = None if psfs is None else psfs[0] / psfs[0].sum()
        return {"image": difference.image.copy(), "variance": difference.variance.copy(), "psf": psf, **named}
    for side, level in zip(inputs.sides, levels):
        inputs.check_level(side, level)
    inputs.warn(np.array(levels[1:]) / levels[0])
    n1, n2 = (xp.asarray(np.array([level])) for level in levels)
    images, v1, v2 = map(Windows.whole, (difference.image, *(side.image.variance for side in inputs.sides)))
    batch = Batch(images, v1, v2, n1, n2, kernels, psfs)
    shape, reach = inputs.grid_shape(difference.shape, kernels, psfs), 0
    if inputs.config.edge == "reflect":
        shape, reach, batch = _mirrored(inputs, batch)
    height, width = difference.shape
    done = correct(inputs, batch, shape, np.array([[reach, reach, width, height]]), threads=inputs.threads)
    return {
        "image": done.images[0],
        "variance": done.variance[0],
        "psf": None if done.psfs is None else done.psfs[0],
        "model": done.model,
        "fft_shape": shape,
        "kernel_position": position,
        **named,
    }


def all_nan(image: Array) -> bool:
    """Whether there is nothing but NaN; waits for the device."""
    return bool(array_module(image).isnan(image).all())


def _mirrored(inputs: Inputs, batch: Batch) -> tuple[tuple[int, int], int, Batch]:
    """A grid of fast lengths, where the image begins on it, and the batch mirrored over its edges to fill it."""
    reach = _reach(inputs, batch)
    height, width = batch.images.size
    # Factors up to 5 alone, of whatever device: host and device pad alike.
    shape = (next_fast_len(height + 2 * reach, real=True), next_fast_len(width + 2 * reach, real=True))
    xp = array_module(batch.images.plane)
    pad = ((reach, shape[0] - height - reach), (reach, shape[1] - width - reach))
    images, v1, v2 = (
        Windows.whole(xp.pad(windows.plane, pad, mode="symmetric")) for windows in (batch.images, batch.v1, batch.v2)
    )
    return shape, reach, batch._replace(images=images, v1=v1, v2=v2)


def _reach(inputs: Inputs, batch: Batch) -> int:
    """Pixels beyond which the image-space kernel of the correction is negligible."""
    grid = (_PSI_GRID, _PSI_GRID)
    model = Correction(batch.kernels, batch.n1, batch.n2, grid, preconvolution=inputs.preconvolution)
    transform = model.block().correction
    if model.preconvolution is not None:  # the image has no power where the pre-convolution kernel has none
        transform = transform * abs(model.preconvolution())
    psi = np.abs(to_host(fft(array_module(transform)).irfft2(transform, s=grid, axes=(-2, -1))))
    distance = np.abs(np.fft.fftfreq(_PSI_GRID, 1 / _PSI_GRID)).astype(int)
    largest = np.zeros(_PSI_GRID // 2 + 1)  # at each distance, the coordinate farther out counting
    np.maximum.at(largest, np.maximum.outer(distance, distance), psi.max(axis=0))
    return int(np.flatnonzero(largest > _PSI_TAIL * largest[0])[-1]) + 1
