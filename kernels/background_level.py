"""The background at every pixel, and images without it."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from gpucoadd.background import RowSplines

from ._compile import blocks, check_blocks, kernel
from ._planes import strided

_FILE = "background_level.cu"
_BLOCK = 256


def background_residual(image: Any, variance: Any, mask: Any, splines: RowSplines, bits: int) -> Any:
    """
    As `gpucoadd.primitives.background_residual`, to the bit.

    Does not wait for the device. Moves 16 bytes a pixel, and 16 for each piece of a row. ValueError if the splines are
    of another number of epochs or another size, or there are too many epochs for a grid.
    """
    n_epochs, n_rows, n_columns = image.shape
    found = _shape(splines)
    if found != image.shape:
        raise ValueError(
            f"splines are for planes of shape {found} (epoch, y, x) but image has {image.shape}; make them with "
            "row_coefficients from the cells of these epochs"
        )
    check_blocks(n_epochs, "epochs")
    (image, image_stride), (variance, variance_stride), (mask, mask_stride) = map(strided, (image, variance, mask))
    out = cupy.empty((n_epochs, n_rows * n_columns), dtype=cupy.float32)
    kernel(_FILE, "background_residual")(
        (blocks(n_rows * n_columns, _BLOCK), n_epochs),
        (_BLOCK,),
        (
            image,
            variance,
            mask,
            *map(cupy.ascontiguousarray, (splines.coefficients, splines.piece, splines.offset)),
            out,
            *map(np.int32, (bits, n_rows, n_columns, splines.coefficients.shape[2])),
            image_stride,
            variance_stride,
            mask_stride,
        ),
    )
    return out


def background_level(splines: RowSplines) -> Any:
    """
    The background of k epochs at every pixel, (k, y, x) float32; NaN where no cell was measured.

    Does not wait for the device. Moves 4 bytes a pixel, and 16 for each piece of a row. ValueError for more epochs than
    a grid has room for.
    """
    shape = _shape(splines)
    check_blocks(shape[0], "epochs")
    out = cupy.empty(shape, dtype=cupy.float32)
    kernel(_FILE, "background_level")(
        (blocks(shape[1] * shape[2], _BLOCK), shape[0]),
        (_BLOCK,),
        (
            *map(cupy.ascontiguousarray, (splines.coefficients, splines.piece, splines.offset)),
            out,
            *map(np.int32, (*shape[1:], splines.coefficients.shape[2])),
        ),
    )
    return out


def _shape(splines: RowSplines) -> tuple[int, int, int]:
    return (*splines.coefficients.shape[:2], splines.piece.shape[1])
