"""Clipped means of background cells, a block of threads for each."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from gpucoadd.fallback.clipping import IQR_TO_SIGMA

from ._compile import check_blocks, kernel

_FILE = "cell_means.cu"
_BLOCK = 128
_MACROS = (("BLOCK", _BLOCK),)
VARIANTS = {_FILE: [_MACROS]}


def cell_means(
    images: Any,
    masks: Any,
    bits: int,
    *,
    y_edges: np.ndarray,
    x_edges: np.ndarray,
    sigma: float,
    iterations: int,
) -> Any:
    """
    As `gpucoadd.primitives.cell_means`.

    Moves 8 bytes a pixel. A pixel beyond the first 1024 of its cell is read again in each of four passes of the
    selection and each round. ValueError for more planes or rows of cells than a grid has room for.
    """
    shape = (images.shape[0], len(y_edges) - 1, len(x_edges) - 1)
    check_blocks(shape[0], "planes")
    check_blocks(shape[1], "rows of cells")
    out = cupy.empty(shape, dtype=cupy.float64)
    kernel(_FILE, "cell_means", _MACROS)(
        shape[::-1],
        (_BLOCK,),
        (
            cupy.ascontiguousarray(images),
            cupy.ascontiguousarray(masks),
            np.int32(bits),
            cupy.asarray(np.asarray(y_edges, dtype=np.int32)),
            cupy.asarray(np.asarray(x_edges, dtype=np.int32)),
            *map(np.int32, images.shape[1:]),
            np.float64(sigma),
            np.float64(sigma * IQR_TO_SIGMA),
            np.int32(iterations),
            out,
        ),
    )
    return out
