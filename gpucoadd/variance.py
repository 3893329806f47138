"""Rescaling of a warp's variance plane to the scatter that its pixels really have."""

from __future__ import annotations

import math

import numpy as np

from . import primitives
from .backend import Array, array_module, to_host
from .background import RowSplines, cell_means, row_coefficients
from .configuration import VarianceScaling
from .masks import MaskSchema

_INFINITE = np.float32(np.inf)
_IQR_TO_SIGMA = 0.74  # LSST's scaleVariance rounds it


def variance_scales(
    image: Array, variance: Array, mask: Array, *, schema: MaskSchema, config: VarianceScaling
) -> np.ndarray:
    """
    Factors that make the variance planes agree with the pixels' scatter.

    The scatter is the quartile width of (image - background) / sqrt(variance) over pixels with
    none of the listed planes; where that asks for more than `config.limit`, the width of the image over the
    median variance is tried instead.

    Parameters
    ----------
    image, variance : array, shape (epoch, y, x), float32
    mask : array, shape (epoch, y, x), int32
    schema : MaskSchema
    config : VarianceScaling

    Returns
    -------
    numpy.ndarray, shape (epoch,), float64
        NaN when no factor can be had (everything masked, or above the limit): the variance is
        then used as it is. Waits for the device.
    """
    bits = schema.known_bitmask(config.mask_planes)
    background_bits = schema.known_bitmask(config.background_mask_planes)
    cells = cell_means(image, mask, background_bits, bin_size=config.bin_size)
    splines = row_coefficients(cells, image.shape[1:], bin_size=config.bin_size)
    residual = primitives.background_residual(image, variance, mask, splines, bits)
    factors, n_samples = _squared_widths(residual)
    factors[n_samples < 2] = 1.0
    for epoch in np.flatnonzero(factors > config.limit):
        one = slice(epoch, epoch + 1)
        factors[one] = _from_median_variance(image[one], variance[one], residual[one], splines.of(one))
    factors[(factors > config.limit) | ~splines.measured] = math.nan
    return factors


def _from_median_variance(image: Array, variance: Array, residual: Array, splines: RowSplines) -> np.ndarray:
    """The factor of one epoch (1, y, x), from the width of the image and the median variance of the same pixels."""
    xp = array_module(image)
    good = xp.isfinite(residual)
    values = (image - primitives.background_level(splines)).reshape(residual.shape)
    medians, _ = primitives.quantiles(xp.where(good, variance.reshape(residual.shape), _INFINITE), (0.5,))
    return _squared_widths(xp.where(good, values, _INFINITE))[0] / to_host(medians)[:, 0]


def _squared_widths(samples: Array) -> tuple[np.ndarray, np.ndarray]:
    """Squared quartile widths of the rows of `samples`, as that of a Gaussian, and how many count."""
    quartiles, n_samples = primitives.quantiles(samples, (0.25, 0.75))
    low, high = to_host(quartiles).T
    return (_IQR_TO_SIGMA * (high - low)) ** 2, to_host(n_samples)
