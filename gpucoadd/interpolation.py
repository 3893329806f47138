"""
Post-processing of a finished coadd: NO_DATA pixels are filled along rows, variances made positive.

Runs of bad pixels are predicted from the good neighbours on each side (`gpucoadd.fallback.fill_bad_runs`);
those too far from any take a statistic of the whole image.
"""

from __future__ import annotations

import numpy as np

from . import primitives
from .assembly_config import Interpolation
from .backend import Array, array_module, quiet


def interpolate(
    image: Array, variance: Array, mask: Array, *, no_data: int, interpolated: int, config: Interpolation
) -> tuple[Array, Array, Array]:
    """
    Fill the NO_DATA pixels of a coadd.

    Parameters
    ----------
    image, variance : array, shape (y, x), float32
    mask : array, shape (y, x), int32
    no_data, interpolated : int
        Bits of NO_DATA (which pixels; it stays set) and INTRP (set on them).
    config : Interpolation

    Returns
    -------
    image, variance, mask : array
        New arrays, the variance +inf wherever it is not positive; the very inputs if it is not enabled.
    """
    if not config.enabled:
        return image, variance, mask
    return primitives.fill_bad_runs(
        image,
        variance,
        mask,
        no_data=no_data,
        interpolated=interpolated,
        fallback=_fallback_value(image, config),
        fallback_at_edge=config.fallback_at_edge,
        transpose=config.transpose,
    )


def _fallback_value(image: Array, config: Interpolation) -> Array:
    """
    Level given to pixels too far from any good one: a statistic of the finite pixels, whatever their mask.

    An array of one element, beside the image: no device is waited for.
    """
    xp = array_module(image)
    pixels = image.reshape(1, -1)
    if config.fallback == "USER":
        value = xp.full(1, config.fallback_value)
    elif config.fallback == "MEAN":
        finite = xp.isfinite(pixels)
        with quiet(xp):  # none: NaN
            value = xp.where(finite, pixels, np.float32(0)).sum(axis=1, dtype=xp.float64) / finite.sum(axis=1)
    elif config.fallback == "MEANCLIP":
        value = primitives.clipped_statistics(pixels, **primitives.DEFAULT_CLIP)[:, 0]
    else:
        value = primitives.quantiles(pixels, (0.5,))[0][:, 0]
    return value if config.negative_fallback else xp.where(value < 0, 0.0, value)
