"""Rescaling of a warp's variance plane to the scatter that its pixels really have."""

from __future__ import annotations

import math

from .backend import Array, array_module, quiet
from .background import TooManyMaskedPixelsError, background
from .clipping import ordered_samples, quantile
from .configuration import VarianceScaling
from .masks import MaskSchema

_IQR_TO_SIGMA = 0.74  # LSST's scaleVariance rounds it


def variance_scale(image: Array, variance: Array, mask: Array, *, schema: MaskSchema, config: VarianceScaling) -> float:
    """
    Factor that makes the variance plane agree with the pixels' scatter.

    The scatter is the quartile width of (image - background) / sqrt(variance) over pixels with
    none of the listed planes; where that asks for more than `config.limit`, the width of the image over the
    median variance is tried instead.

    Parameters
    ----------
    image, variance : array, shape (y, x), float32
    mask : array, shape (y, x), int32
    schema : MaskSchema
    config : VarianceScaling

    Returns
    -------
    float
        NaN when no factor can be had (everything masked, or above the limit): the variance is
        then used as it is. Waits for the device.
    """
    xp = array_module(image)
    background_bits = schema.known_bitmask(config.background_mask_planes)
    bits = schema.known_bitmask(config.mask_planes)
    good = (mask & background_bits) == 0
    try:
        level = background(image, good, bin_size=config.bin_size)
    except TooManyMaskedPixelsError:
        return math.nan
    values = image - level
    if bits != background_bits:
        good = (mask & bits) == 0
    good &= xp.isfinite(values)
    good &= variance > 0
    good &= variance < xp.float32(xp.inf)
    with quiet(xp):
        ordered = ordered_samples(values / xp.sqrt(variance), good)
    if ordered.shape[0] < 2:
        return 1.0
    factor = _squared_width(ordered)
    if factor > config.limit:
        factor = _squared_width(ordered_samples(values, good)) / quantile(ordered_samples(variance, good), 0.5)
    return factor if factor <= config.limit else math.nan


def _squared_width(ordered: Array) -> float:
    return (_IQR_TO_SIGMA * (quantile(ordered, 0.75) - quantile(ordered, 0.25))) ** 2
