"""Order statistics and clipped means of whole planes, without a sort and without a wait for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np

from gpucoadd.fallback.clipping import IQR_TO_SIGMA

from ._compile import blocks, check_blocks, kernel

_FILE = "plane_statistics.cu"
_BLOCK = 256
_PIECE = 32 * _BLOCK  # samples of a block
_RANKS = 6  # two for each of three fractions
_MACROS = (("BLOCK", _BLOCK), ("PIECE", _PIECE), ("RANKS", _RANKS))
VARIANTS = {_FILE: [_MACROS]}
_SHIFTS = (24, 16, 8, 0)  # of the digits of a key, 8 bits each
_SEARCHERS = 32  # blocks of a plane that look for a value: mostly the first finds one


def samples(planes: Any, masks: Any, bits: int) -> Any:
    """
    The values that count in a statistic of their plane.

    Moves 12 bytes a pixel.

    Parameters
    ----------
    planes : cupy.ndarray, shape (k, y, x), float32
    masks : cupy.ndarray, shape (k, y, x), int32
    bits : int
        Pixels that have one of them do not count.

    Returns
    -------
    cupy.ndarray, shape (k, y * x), float32
        The value where it is finite and its pixel has none of `bits`; +inf elsewhere.
    """
    out = cupy.empty((planes.shape[0], planes.shape[1] * planes.shape[2]), dtype=cupy.float32)
    kernel(_FILE, "take_samples", _MACROS)(
        (blocks(out.size, _BLOCK),),
        (_BLOCK,),
        (
            cupy.ascontiguousarray(planes),
            cupy.ascontiguousarray(masks),
            np.int32(bits),
            out,
            np.int64(out.size),
        ),
    )
    return out


def all_nan(planes: Any) -> Any:
    """
    Whether a plane has nothing but NaN, for k planes.

    Moves 4 bytes a pixel of the planes that are NaN everywhere; of the others, what comes before their first values.

    Parameters
    ----------
    planes : cupy.ndarray, shape (k, y, x), float32
        k at most 65535.

    Returns
    -------
    cupy.ndarray, shape (k,), bool

    Raises
    ------
    ValueError
        If there are more planes.
    """
    check_blocks(planes.shape[0], "planes")
    flags = cupy.ones(planes.shape[0], dtype=bool)
    n = planes.shape[1] * planes.shape[2]
    grid = (min(blocks(n, _BLOCK), _SEARCHERS), planes.shape[0])
    kernel(_FILE, "find_all_nan", _MACROS)(grid, (_BLOCK,), (cupy.ascontiguousarray(planes), np.int32(n), flags))
    return flags


def quantiles(samples: Any, fractions: Sequence[float]) -> tuple[Any, Any]:
    """
    As `gpucoadd.primitives.quantiles`: exact order statistics.

    Moves 16 bytes a sample: it is read four times. ValueError for more than 65535 samples.
    """
    k, n = samples.shape
    check_blocks(k, "samples")
    samples = cupy.ascontiguousarray(samples)
    counts = cupy.zeros((len(_SHIFTS), k, _RANKS, 256), dtype=cupy.uint32)
    prefixes, rests = cupy.zeros((2, k, _RANKS), dtype=cupy.uint32)
    n_samples = cupy.empty(k, dtype=cupy.int32)
    out = cupy.empty((k, len(fractions)), dtype=cupy.float64)
    three = [np.float64(fractions[min(i, len(fractions) - 1)]) for i in range(_RANKS // 2)]
    count, pick = kernel(_FILE, "count_digits", _MACROS), kernel(_FILE, "pick_digits", _MACROS)
    for counted, shift in zip(counts, map(np.int32, _SHIFTS)):
        count((blocks(n, _PIECE), k), (_BLOCK,), (samples, np.int32(n), prefixes, shift, counted))
        pick(
            (k,),
            (_RANKS * 16,),
            (counted, *three, np.int32(len(fractions)), shift, prefixes, rests, n_samples, out),
        )
    return out, n_samples


def clipped_statistics(samples: Any, *, sigma: float, iterations: int) -> Any:
    """
    As `gpucoadd.primitives.clipped_statistics`, the sums added up in another order, always the same.

    Moves 16 bytes a sample, and 4 a round. ValueError for more than 65535 samples.
    """
    k, n = samples.shape
    samples = cupy.ascontiguousarray(samples)
    quartiles, n_samples = quantiles(samples, (0.25, 0.5, 0.75))
    n_pieces = blocks(n, _PIECE)
    sums = cupy.empty((k, n_pieces, 2), dtype=cupy.float64)
    numbers = cupy.empty((k, n_pieces), dtype=cupy.int32)
    out = cupy.empty((k, 3), dtype=cupy.float64)
    add, settle = kernel(_FILE, "sum_kept", _MACROS), kernel(_FILE, "settle", _MACROS)
    widths = np.float64(sigma), np.float64(sigma * IQR_TO_SIGMA)
    for iteration in range(iterations):
        add(
            (n_pieces, k),
            (_BLOCK,),
            (samples, np.int32(n), quartiles, n_samples, out, np.int32(iteration), *widths, sums, numbers),
        )
        settle((k,), (_BLOCK,), (sums, numbers, np.int32(n_pieces), quartiles, out))
    return out


def clipped_means(planes: Any, masks: Any, bits: int, *, sigma: float, iterations: int) -> Any:
    """The means alone of `clipped_statistics`, of ``samples(planes, masks, bits)``; (k,) float64."""
    return clipped_statistics(samples(planes, masks, bits), sigma=sigma, iterations=iterations)[:, 0]
