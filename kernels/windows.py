"""
Windows of planes: measured, padded for a transform, and cropped after it.

A call takes at most 65535 windows, for which a grid has room; more are a ValueError.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ._compile import MOST_BLOCKS, Defines, blocks, check_blocks, kernel

_FILE = "windows.cu"
_BLOCK = 256
_WARP, _MANY, _ROWS = 32, 64, 8  # of more windows than _MANY, a thread has _ROWS pixels
_FULL = 2048  # blocks that keep a device busy
_PIECE = 4096  # pixels, at least, that a block of threads adds up
_TYPES = {"float32": "float", "float64": "double"}
VARIANTS = {
    _FILE: [
        (("BLOCK", _BLOCK), *zip(("PLANE", "SECOND", "GRID", "RESULT"), types))
        for types in (("float", "float", "double", "float"), ("float", "double", "float", "double"), ("double",) * 4)
    ]
}

Shape = tuple[int, int]


def sample_windows(plane: Any, mask: Any, bits: int, corners: Any, size: Shape, samples: Any) -> None:
    """
    Write the values of n windows that count in a statistic, +inf in place of the others.

    Moves 12 bytes a pixel of a window.

    Parameters
    ----------
    plane : cupy.ndarray, shape (y, x), float32 or float64
    mask : cupy.ndarray, shape (y, x), int32
    bits : int
        Pixels that have one of them do not count, nor do values that are not finite.
    corners : cupy.ndarray, shape (n, 2), int32
        (y, x) of the windows' first pixels.
    size : (int, int)
        (y, x) of the windows, which lie inside the plane.
    samples : cupy.ndarray, shape (n, size[0] * size[1]), float32
        Written to.
    """
    _launch("sample_windows", len(corners), size, {"PLANE": plane})(
        *_contiguous(plane, mask), np.int32(bits), corners, np.int32(plane.shape[1]), *map(np.int32, size), samples
    )


def count_negative(plane: Any, mask: Any, bits: int, count: Any) -> None:
    """
    Add the number of a plane's pixels that are negative, finite and without one of `bits` to `count`.

    Moves 4 or 8 bytes a pixel.

    Parameters
    ----------
    plane : cupy.ndarray, shape (y, x), float32 or float64
    mask : cupy.ndarray, shape (y, x), int32
    bits : int
    count : cupy.ndarray, shape (1,), uint64
        Written to.
    """
    grid = min(blocks(plane.size, _BLOCK), _FULL)
    kernel(_FILE, "count_negative", _macros({"PLANE": plane}))(
        (grid,), (_BLOCK,), (*_contiguous(plane, mask), np.int32(bits), np.int64(plane.size), count)
    )


def finite_means(plane: Any, corners: Any, size: Shape) -> Any:
    """
    Means of the finite pixels of n windows, (n,) float64; 0 where there is none.

    Moves 4 or 8 bytes a pixel of a window. Parameters as in `sample_windows`.
    """
    n, (height, width) = len(corners), size
    check_blocks(n, "windows")
    n_pieces = min(height, _FULL, blocks(height * width, _PIECE))  # whatever n: no sum depends on other windows
    sums, means = cupy.empty((n, n_pieces, 2), cupy.float64), cupy.empty(n, cupy.float64)
    kernel(_FILE, "sum_finite", _macros({"PLANE": plane}))(
        (n_pieces, n),
        (_BLOCK,),
        (*_contiguous(plane), corners, np.int32(plane.shape[1]), np.int32(height), np.int32(width), sums),
    )
    kernel(_FILE, "divide_sums", _macros({}))((n,), (_BLOCK,), (sums, np.int32(n_pieces), means))
    return means


def pad_windows(plane: Any, corners: Any, size: Shape, means: Any, shape: Shape, dtype: Any) -> Any:
    """
    n windows, each in the corner of a grid that is zero elsewhere.

    Moves 4 or 8 bytes a pixel of a window, and writes the grids once.

    Parameters
    ----------
    plane, corners, size
        As in `sample_windows`.
    means : cupy.ndarray, shape (n,), float64
        What pixels that are not finite count as.
    shape : (int, int)
        (y, x) of the grids.
    dtype : dtype
        Of the grids, float32 or float64.

    Returns
    -------
    cupy.ndarray, shape (n, *shape)
    """
    grids = cupy.empty((len(corners), *shape), dtype)
    _launch("pad_windows", len(corners), shape, {"PLANE": plane, "GRID": grids})(
        *_contiguous(plane, corners, means), np.int32(plane.shape[1]), *map(np.int32, (*size, *shape)), grids
    )
    return grids


def crop_windows(grids: Any, scale: float, plane: Any, corners: Any, boxes: Any, size: Shape, dtype: Any) -> Any:
    """
    Boxes of n grids, times `scale`, with the NaN (as NaN) and the infinities (as +inf) of the plane behind.

    Reads grid and plane once, 4 or 8 bytes each, and writes the results once.

    Parameters
    ----------
    grids : cupy.ndarray, shape (n, ny, nx), float32 or float64
        Window i lies in the corner of grid i.
    scale : float
    plane, corners
        As in `sample_windows`.
    boxes : cupy.ndarray, shape (n, 4), int32
        x0, y0, width, height relative to the windows.
    size : (int, int)
        (y, x) size of the results, at least that of the largest box.
    dtype : dtype
        Of the results, float32 or float64.

    Returns
    -------
    cupy.ndarray, shape (n, *size)
        Zero beyond a smaller box.
    """
    results = cupy.empty((len(grids), *size), dtype)
    _launch("crop_windows", len(grids), size, {"PLANE": plane, "GRID": grids, "RESULT": results})(
        *_contiguous(grids),
        np.float64(scale),
        *map(np.int32, grids.shape[1:]),
        *_contiguous(plane, corners, boxes),
        np.int32(plane.shape[1]),
        *map(np.int32, size),
        results,
    )
    return results


def weigh_windows(
    weights: Any, plane: Any, second: Any, corners: Any, boxes: Any, size: Shape, dtype: Any, *, divisors: Any = None
) -> Any:
    """
    ``(weights[0] * plane + weights[1] * second) / divisors`` in boxes of n windows, in the type of `plane`.

    Moves 12 bytes a pixel of a result if all are float32.

    Parameters
    ----------
    weights : cupy.ndarray, shape (2, n), float64
    plane, second : cupy.ndarray, shape (y, x), float32 or float64
    corners, boxes, size, dtype
        As in `crop_windows`.
    divisors : cupy.ndarray, shape (n,), float64, optional

    Returns
    -------
    cupy.ndarray, shape (n, *size)
        Zero beyond a smaller box.
    """
    n = weights.shape[1]
    results = cupy.empty((n, *size), dtype)
    _launch("weigh_windows", n, size, {"PLANE": plane, "SECOND": second, "RESULT": results})(
        *_contiguous(plane, second, weights),
        np.uintp(0) if divisors is None else cupy.ascontiguousarray(divisors),
        *_contiguous(corners, boxes),
        np.int32(plane.shape[1]),
        *map(np.int32, size),
        results,
    )
    return results


def _contiguous(*arrays: Any) -> list[Any]:
    return [cupy.ascontiguousarray(array) for array in arrays]


def _macros(arrays: dict[str, Any]) -> Defines:
    """The size of a block, and the C types of some arrays."""
    return (("BLOCK", _BLOCK), *((name, _TYPES[array.dtype.name]) for name, array in arrays.items()))


def _launch(name: str, n: int, size: Shape, arrays: dict[str, Any]) -> Any:
    """A kernel whose threads own the columns of n results of a size."""
    check_blocks(n, "windows")
    function = kernel(_FILE, name, _macros(arrays))
    block = min(_BLOCK, -(-size[1] // _WARP) * _WARP)  # cells are narrow
    rows = size[0] if n <= _MANY else -(-size[0] // _ROWS)  # and many: enough to keep a device busy
    grid = blocks(size[1], block), min(rows, MOST_BLOCKS), n
    return lambda *args: function(grid, (block,), args)
