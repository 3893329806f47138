"""
Byte order and width of what comes from files: pixels cross the bus as the file has them.

There is no NumPy twin: on the host NumPy reads either byte order. Nothing here waits for the device.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ._compile import blocks, kernel

_FILE = "bytes.cu"
_BLOCK = 256


def _launch(name: str, array: Any, out: Any) -> None:
    n = array.size
    if n:
        kernel(_FILE, name)((blocks(n, _BLOCK),), (_BLOCK,), (array, out, np.int64(n)))


def _check_out(out: Any, shape: tuple[int, ...], dtype: Any) -> None:
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(
            f"out must be C-contiguous {np.dtype(dtype)} of shape {shape}, got {out.dtype} of shape {out.shape} with "
            f"strides {out.strides}; leave it out to have one made"
        )


def swap_bytes(array: Any, out: Any = None) -> Any:
    """
    The items of `array`, each with its bytes in reverse.

    Moves every byte twice: 8 bytes per float32.

    Parameters
    ----------
    array : array, any shape, items of 2, 4 or 8 bytes
        Numbers of the other byte order, under the dtype that they have once swapped.
    out : array, C-contiguous, shape and dtype of `array`, optional
        Where they go; may be `array` itself.

    Returns
    -------
    array
        `out`, or a new array.

    Raises
    ------
    TypeError
        If the items have another size.
    ValueError
        If `out` is no such array.
    """
    unsigned = {2: np.uint16, 4: np.uint32, 8: np.uint64}.get(array.itemsize)
    if unsigned is None or array.dtype.kind not in "iuf":
        raise TypeError(f"array must hold real numbers of 2, 4 or 8 bytes, got {array.dtype}; there is nothing to swap")
    if out is None:
        out = cupy.empty(array.shape, dtype=array.dtype)
    _check_out(out, array.shape, array.dtype)
    _launch(f"swap_{array.itemsize}", cupy.ascontiguousarray(array).view(unsigned), out.view(unsigned))
    return out


def widen_mask(mask: Any, out: Any = None) -> Any:
    """
    Masks of 16 bits as those of 32; the upper half is 0.

    Moves 6 bytes per pixel.

    Parameters
    ----------
    mask : array, any shape, uint16
    out : array, C-contiguous, shape of `mask`, int32, optional

    Returns
    -------
    array, shape of `mask`, int32
        `out`, or a new array.

    Raises
    ------
    TypeError
        If `mask` is not uint16.
    ValueError
        If `out` is no such array.
    """
    if mask.dtype != np.uint16:
        raise TypeError(f"mask must be uint16, got {mask.dtype}; wider masks need no widening")
    if out is None:
        out = cupy.empty(mask.shape, dtype=np.int32)
    _check_out(out, mask.shape, np.int32)
    _launch("widen_16", cupy.ascontiguousarray(mask), out)
    return out
