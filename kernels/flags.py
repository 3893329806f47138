"""
Yes-or-no planes on the device: packed words, uint32 (epoch, y, word).

Bit i of word j is column 32 * j + i; bits beyond the last column are 0. Nothing here waits for the device.
Bytes moved are those of the longer side: a packed plane is an eighth of a byte per pixel.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from gpucoadd.planes import n_words
from gpucoadd.workers import cut

from ._compile import blocks, kernel
from ._planes import MOST_PIXELS, check_size

_FILE = "flags.cu"
_BLOCK = 256


def _launch(name: str, n_threads: int, *args: Any) -> None:
    kernel(_FILE, name)((blocks(n_threads, _BLOCK),), (_BLOCK,), args)


def pack(planes: Any) -> Any:
    """
    Words of (epoch, y, x) bool planes.

    Moves 1 byte per pixel, and its eighth.
    """
    planes = cupy.ascontiguousarray(planes)
    n_columns = planes.shape[2]
    words = cupy.empty((*planes.shape[:2], n_words(n_columns)), dtype=cupy.uint32)
    sizes = map(np.int32, (n_columns, words.shape[2], words.size))
    _launch("pack_flags", 32 * words.size, planes, words, *sizes)
    return words


def unpack(words: Any, n_columns: int) -> Any:
    """
    (epoch, y, x) bool planes of packed words.

    One launch, or more for 2**31 pixels or more. Moves 1 byte per pixel, and its eighth.
    """
    words = cupy.ascontiguousarray(words)
    planes = cupy.empty((*words.shape[:2], n_columns), dtype=bool)
    for epochs in cut(words.shape[0], max(1, MOST_PIXELS // max(1, words.shape[1] * n_columns))):
        part, out = words[epochs], planes[epochs]
        _launch("unpack_flags", out.size, part, out, *map(np.int32, (n_columns, part.shape[2], out.size)))
    return planes


def as_flags(planes: Any) -> Any:
    """Flags of (epoch, y, x) bool planes: packed words."""
    return pack(planes)


def as_planes(flags: Any, n_columns: int) -> Any:
    """(epoch, y, x) bool planes of flags."""
    return unpack(flags, n_columns)


def as_words(flags: Any) -> Any:
    """Packed words of flags: the flags."""
    return flags


def add_flags(flags: Any, out: Any) -> None:
    """
    Add to `out` (y, x) int32, in place, in how many epochs each pixel is set.

    Moves an eighth of a byte per pixel and epoch, and 8 bytes per pixel.

    Raises
    ------
    ValueError
        If `out` is not C-contiguous: a copy would be counted in, and thrown away.
    """
    if not out.flags.c_contiguous:
        raise ValueError(
            f"out must be C-contiguous to be added to in place, got strides {out.strides} for shape {out.shape}; "
            "give a whole array"
        )
    flags = cupy.ascontiguousarray(flags)
    n_planes, n_rows, length = flags.shape
    sizes = map(np.int32, (n_planes, out.shape[1], length, n_rows * length, out.size))
    _launch("add_flags", out.size, flags, out, *sizes)


def any_flag(words: Any) -> Any:
    """
    (y, word): the packed pixels that are set in any epoch.

    Moves an eighth of a byte per pixel and epoch, and again per pixel.
    """
    words = cupy.ascontiguousarray(words)
    out = cupy.empty(words.shape[1:], dtype=cupy.uint32)
    _launch("any_flag", out.size, words, out, *map(np.int32, (words.shape[0], out.size)))
    return out


def paint(pixels: Any, shape: tuple[int, int, int]) -> Any:
    """
    Words of the given flat (epoch, y, x) indices; quickest when they ascend.

    Moves 4 bytes per listed pixel, and an eighth of a byte per pixel of the planes to clear them. ValueError for 2**31
    pixels or more.
    """
    check_size(shape)
    pixels = cupy.ascontiguousarray(pixels, dtype=cupy.int32)
    words = cupy.zeros((*shape[:2], n_words(shape[2])), dtype=cupy.uint32)
    _launch("paint_flags", pixels.size, pixels, words, *map(np.int32, (shape[2], words.shape[2], pixels.size)))
    return words


def take_flags(flags: Any, pixels: Any, n_columns: int) -> Any:
    """
    Bool (n,): the flag at each of the given flat (epoch, y, x) indices.

    Moves 5 bytes per listed pixel, and the words they lie in. ValueError for planes of 2**31 pixels or more.
    """
    check_size((*flags.shape[:2], n_columns))
    flags, pixels = cupy.ascontiguousarray(flags), cupy.ascontiguousarray(pixels, dtype=cupy.int32)
    out = cupy.empty(pixels.shape, dtype=bool)
    _launch("take_flags", pixels.size, flags, pixels, out, *map(np.int32, (n_columns, flags.shape[2], pixels.size)))
    return out
