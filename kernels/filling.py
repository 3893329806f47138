"""Filling of runs of bad pixels on the device."""

from __future__ import annotations

from functools import cache
from typing import Any

import cupy
import numpy as np

from gpucoadd.fallback.filling import EDGE_RUN, FAR, kriging_weights
from gpucoadd.planes import n_words

from ._compile import blocks, kernel

_FILE = "fill_rows.cu"
_BLOCK = 256
_MACROS = (("EDGE_RUN", EDGE_RUN), ("FAR", FAR))
VARIANTS = {_FILE: [_MACROS]}


@cache
def _weights(device: int) -> Any:
    """The table of weights on the device of this number, which must be the current one."""
    return cupy.asarray(kriging_weights())


def fill_bad_runs(
    image: Any,
    variance: Any,
    mask: Any,
    no_data: int,
    interpolated: int,
    fallback: Any,
    fallback_at_edge: bool,
    transpose: bool,
) -> tuple[Any, Any, Any]:
    """
    As `gpucoadd.fallback.fill_bad_runs`.

    `fallback` may also be a device array of one element. Does not wait for the device. Moves 28 bytes a pixel, and a
    quarter for the flags; pixels that are filled read their neighbours besides, and the words of their run.
    """
    image, variance, mask = map(cupy.ascontiguousarray, (image, variance, mask))
    n_rows, n_columns = image.shape
    on_device = isinstance(fallback, cupy.ndarray)
    level = fallback.astype(cupy.float32).reshape(1) if on_device else cupy.full(1, fallback, dtype=cupy.float32)
    length = n_words(n_rows if transpose else n_columns)
    flags = cupy.empty((length, n_columns) if transpose else (n_rows, length), dtype=cupy.uint32)
    find = kernel(_FILE, "flag_bad_in_columns" if transpose else "flag_bad_in_rows", _MACROS)
    n_threads = flags.size if transpose else 32 * flags.size
    sizes = tuple(map(np.int32, (n_rows, n_columns, length)))
    find((blocks(n_threads, _BLOCK),), (_BLOCK,), (mask, flags, np.int32(no_data), *sizes))
    out = tuple(map(cupy.empty_like, (image, variance, mask)))
    options = map(np.int32, (interpolated, fallback_at_edge, transpose))
    weights = _weights(cupy.cuda.runtime.getDevice())
    kernel(_FILE, "fill_runs", _MACROS)(
        (blocks(image.size, _BLOCK),),
        (_BLOCK,),
        (image, variance, mask, flags, weights, level, *out, *options, *sizes),
    )
    return out
