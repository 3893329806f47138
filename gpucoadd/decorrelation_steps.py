"""The correction of images of one shape, and of one whole image."""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import numpy as np
from scipy.fft import next_fast_len

from .backend import Array, array_module, fft, quiet, to_host
from .decorrelation_inputs import Inputs, Side
from .filtering import apply, convolve_variance, weighted_sum
from .spectra import Correction
from .workers import in_order

logger = logging.getLogger(__name__)

_PSI_GRID, _PSI_TAIL = 256, 1e-5  # grid and relative height at which the reach of a correction is measured


class Batch(NamedTuple):
    """Images of one shape that go through the FFT together, and what their correction is made of."""

    images: Array  # (n, h, w)
    v1: Array  # (n, h, w): variance planes of the image that was not convolved, and of the one that was
    v2: Array
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
    *,
    offset: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
    threads: int = 1,
) -> Corrected:
    """
    Correct the images of a batch on the FFT grid `shape`, and make their variance planes anew.

    What is given back is cut to `size` at `offset`, both (y, x).
    """
    xp = array_module(batch.images)
    size = batch.images.shape[1:] if size is None else size
    window = (slice(None), slice(offset[0], offset[0] + size[0]), slice(offset[1], offset[1] + size[1]))
    correction = Correction(
        batch.kernels, batch.n1, batch.n2, shape, preconvolution=inputs.preconvolution, psf=batch.psfs
    )
    filtered = apply(
        batch.images,
        correction,
        offset=offset,
        size=size,
        dtype=inputs.difference.image.dtype,
        precision=inputs.config.precision,
        threads=threads,
    )
    with quiet(xp):
        if inputs.config.complete_variance:
            c1, c2 = correction.overall()
            variance = convolve_variance(batch.v1, c1, batch.n1, shape)[window]
            variance += convolve_variance(batch.v2, c2, batch.n2, shape)[window]
        else:
            variance = weighted_sum(filtered.weights, batch.v1[window], batch.v2[window])
        if not inputs.template_matched:  # the difference was scaled to the science image
            variance /= (batch.kernels.sum(axis=(1, 2)) ** 2).astype(variance.dtype)[:, None, None]
        psfs = filtered.stamps
        if psfs is not None:
            psfs = psfs / psfs.sum(axis=(1, 2), keepdims=True)
    variance = variance.astype(inputs.difference.variance.dtype, copy=False)
    return Corrected(filtered.images, variance, psfs, correction)


def correct_whole(inputs: Inputs, position: tuple[float, float]) -> dict[str, Any]:
    """The fields of `Decorrelated` that a whole image has, its kernel taken at `position` (y, x)."""
    difference = inputs.difference
    xp = array_module(difference.image)

    def level_of(side: Side) -> float:
        return float(side.levels(side.image.variance[None], side.image.mask[None])[0])

    levels = list(in_order(level_of, inputs.sides, threads=inputs.threads))
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
    v1, v2 = (side.image.variance[None] for side in inputs.sides)
    batch = Batch(difference.image[None], v1, v2, n1, n2, kernels, psfs)
    shape, offset = inputs.grid_shape(difference.shape, kernels, psfs), (0, 0)
    if inputs.config.edge == "reflect":
        shape, offset, batch = _mirrored(inputs, batch)
    done = correct(inputs, batch, shape, offset=offset, size=difference.shape, threads=inputs.threads)
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


def _mirrored(inputs: Inputs, batch: Batch) -> tuple[tuple[int, int], tuple[int, int], Batch]:
    """A grid of fast lengths, where the image begins on it, and the batch mirrored over its edges to fill it."""
    reach = _reach(inputs, batch)
    height, width = batch.images.shape[1:]
    # Factors up to 5 alone, of whatever device: host and device pad alike.
    shape = (next_fast_len(height + 2 * reach, real=True), next_fast_len(width + 2 * reach, real=True))
    xp = array_module(batch.images)
    pad = ((0, 0), (reach, shape[0] - height - reach), (reach, shape[1] - width - reach))
    images, v1, v2 = (xp.pad(a, pad, mode="symmetric") for a in (batch.images, batch.v1, batch.v2))
    return shape, (reach, reach), batch._replace(images=images, v1=v1, v2=v2)


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
