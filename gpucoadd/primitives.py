"""
The seam: operations with a CUDA and a NumPy twin.

Each function checks its input and calls the twin that fits the arrays
(`gpucoadd.kernels` or `gpucoadd.fallback`); the NumPy twin is the definition.
"""

from __future__ import annotations

from typing import Any

from .backend import Array, twin
from .images import check_dtype


def stack_statistics(
    image: Array, variance: Array, mask: Array, weights: tuple[float, ...], rules: Any
) -> tuple[Array, Array, Array]:
    """
    One statistic over the epochs for every pixel, with its variance and mask.

    Parameters
    ----------
    image, variance : array, shape (epoch, pixel), float32
    mask : array, shape (epoch, pixel), int32
    weights : tuple of float
        One per epoch.
    rules : gpucoadd.fallback.Rules
        Statistic, clipping and mask bits.

    Returns
    -------
    image, variance : array, shape (pixel,), float32
    mask : array, shape (pixel,), int32
    """
    return twin(image).stack_statistics(image, variance, mask, weights, rules)


def label(detected: Array) -> tuple[Array, Array, int]:
    """
    8-connected footprints of one plane.

    Parameters
    ----------
    detected : array, shape (y, x), bool

    Returns
    -------
    pixels : array, shape (n,), int32, or int64 for a plane of 2**31 pixels or more
        Flat indices of the detected pixels, ascending.
    labels : array, shape (n,), int32
        Footprint of each of them, 1, 2, ... in raster order of the footprints' first pixels.
    n_footprints : int
    """
    check_dtype("detected", detected, ("bool",))
    return twin(detected).label(detected)


def grow(detected: Array, radius: int, *, disc: bool = True) -> Array:
    """
    Every pixel within `radius` of a detected one, inside the plane.

    Parameters
    ----------
    detected : array, shape (y, x), bool
    radius : int
        In pixels; 0 gives a copy.
    disc : bool
        Disc ``dx**2 + dy**2 <= radius**2``, or the diamond ``|dx| + |dy| <= radius``.

    Returns
    -------
    array, shape (y, x), bool

    Raises
    ------
    TypeError
        If `detected` is not bool.
    ValueError
        If `radius` is negative.
    """
    check_dtype("detected", detected, ("bool",))
    if radius < 0:
        raise ValueError(f"radius must be 0 or more, got {radius}")
    return twin(detected).grow(detected, int(radius), disc)
