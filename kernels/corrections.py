"""
Corrections of spectra, computed where they are applied.

A call takes at most 65535 images or stamps, for which a grid has room; more are a ValueError.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from gpucoadd.spectra import SCORE_FLOOR

from ._compile import Defines, blocks, check_blocks, kernel

_FILE = "corrections.cu"
_BLOCK = (32, 8)
_STEPS = 8  # frequencies in y, and their negatives, of a thread
_STAMP_BLOCK = 128
_NOTHING = np.uintp(0)

Shape = tuple[int, int]


def _variant(real: str) -> Defines:
    sizes = ("BLOCK_X", _BLOCK[0]), ("BLOCK_Y", _BLOCK[1]), ("STEPS", _STEPS)
    return ("REAL", real), ("SCORE_FLOOR", repr(SCORE_FLOOR)), *sizes


VARIANTS = {_FILE: [_variant("double"), _variant("float")]}


def correct_spectra(
    spectra: Any | None,
    shape: Shape,
    levels: Any,
    kernels: Any,
    roots: Any,
    *,
    preconvolution: Any = None,
    keep: bool = False,
) -> tuple[Any, Any | None]:
    """
    Multiply the half-plane transforms of n images with their corrections, in place.

    Reads and writes the spectra once; 8 bytes more a frequency to keep the corrections. The transforms of the stamps'
    rows come from cache.

    Parameters
    ----------
    spectra : cupy.ndarray, shape (n, ny, nx // 2 + 1), complex64 or complex128, or None
        Multiplied in place.
    shape : (int, int)
        (ny, nx).
    levels : cupy.ndarray, shape (n, 3), float64
        Variance of the image that was not convolved, of the one that was, and the noise power aimed at.
    kernels : cupy.ndarray, shape (1 or n, height, nx // 2 + 1), complex128
        Transforms of the rows of the matching kernels, whose origins are in row ``height // 2``.
    roots : cupy.ndarray, shape (ny,), complex128
        ``exp(-2 pi i k / ny)``.
    preconvolution : cupy.ndarray, shape (1, height, nx // 2 + 1), complex128, optional
        Likewise; makes it a score correction.
    keep : bool
        Whether the corrections are wanted.

    Returns
    -------
    sums : cupy.ndarray, shape (2, n), float64
        Means over all frequencies of what the noise power of either image is multiplied with.
    corrections : cupy.ndarray, shape (n, ny, nx // 2 + 1), float64, or None
    """
    n, (ny, nx) = len(levels), shape
    check_blocks(n, "images")
    n_columns = nx // 2 + 1
    grid = blocks(n_columns, _BLOCK[0]), blocks(ny // 2 + 1, _BLOCK[1] * _STEPS), n
    sums = cupy.empty((n, 2, grid[0] * grid[1]), cupy.float64)
    corrections = cupy.empty((n, ny, n_columns), cupy.float64) if keep else None
    real = "float" if spectra is not None and spectra.dtype == cupy.complex64 else "double"
    height = 0 if preconvolution is None else preconvolution.shape[1]
    kernel(_FILE, "correct_spectra", _variant(real))(
        grid,
        _BLOCK,
        (
            _NOTHING if spectra is None else spectra.view(spectra.real.dtype),
            _NOTHING if corrections is None else corrections,
            sums,
            cupy.ascontiguousarray(levels),
            _numbers(kernels),
            np.int32(len(kernels)),
            np.int32(kernels.shape[1]),
            _NOTHING if preconvolution is None else _numbers(preconvolution),
            np.int32(height),
            _numbers(roots),
            np.int32(ny),
            np.int32(nx),
        ),
    )
    return sums.sum(axis=2).T / (ny * nx), corrections


def convolve_stamps(responses: Any, stamps: Any) -> Any:
    """
    Stamps convolved with what corrections do to a single pixel.

    Parameters
    ----------
    responses : cupy.ndarray, shape (n, height, 2 * width - 1), float64
        At the lags 0 to ``height - 1`` in y and ``1 - width`` to ``width - 1`` in x; at ``(-y, -x)`` they are the same.
    stamps : cupy.ndarray, shape (1 or n, height, width), float64

    Returns
    -------
    cupy.ndarray, shape (n, height, width), float64
    """
    n, (height, width) = len(responses), stamps.shape[1:]
    check_blocks(n, "stamps")
    results = cupy.empty((n, height, width), cupy.float64)
    kernel(_FILE, "convolve_stamps", _variant("double"))(
        (blocks(height * width, _STAMP_BLOCK), n),
        (_STAMP_BLOCK,),
        (
            cupy.ascontiguousarray(responses),
            cupy.ascontiguousarray(stamps),
            *map(np.int32, (len(stamps), height, width)),
            results,
        ),
    )
    return results


def _numbers(array: Any) -> Any:
    """A complex array as pairs of numbers."""
    return cupy.ascontiguousarray(array).view(cupy.float64)
