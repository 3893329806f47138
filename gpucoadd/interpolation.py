"""
Post-processing of a finished coadd: NO_DATA pixels are filled along rows, variances made positive.

Runs of bad pixels are predicted from the good neighbours on each side (`gpucoadd.fallback.fill_bad_runs`);
those too far from any take a statistic of the whole image.
"""

from __future__ import annotations

import math

import numpy as np

from . import primitives
from .backend import Array, array_module, to_host
from .configuration import Interpolation


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
        New arrays; the variance is +inf wherever it is not positive.
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


def _fallback_value(image: Array, config: Interpolation) -> float:
    """Level given to pixels too far from any good one: a statistic of the finite pixels, whatever their mask."""
    if config.fallback == "USER":
        value = config.fallback_value
    elif config.fallback == "MEAN":
        value = _mean(image)
    elif config.fallback == "MEANCLIP":
        value = float(to_host(primitives.clipped_statistics(image.reshape(1, -1), sigma=3.0, iterations=3))[0, 0])
    else:
        value = float(to_host(primitives.quantiles(image.reshape(1, -1), (0.5,))[0])[0, 0])
    return 0.0 if value < 0 and not config.negative_fallback else value


def _mean(image: Array) -> float:
    xp = array_module(image)
    finite = xp.isfinite(image)
    total, count = xp.where(finite, image, np.float32(0)).sum(dtype=xp.float64), int(xp.count_nonzero(finite))
    return float(total) / count if count else math.nan
