"""
Connected components of packed planes.

Set pixels are few, so all that is done per pixel is done on a list of them; empty pixels are seen as words only.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ._compile import blocks, kernel
from ._planes import check_size

_FILE = "label.cu"
_BLOCK = 256


def _launch(name: str, n_threads: int, *args: Any) -> None:
    kernel(_FILE, name)((blocks(n_threads, _BLOCK),), (_BLOCK,), args)


def label(flags: Any, n_columns: int) -> tuple[Any, Any, int]:
    """
    Flat indices of the set pixels, the 8-connected component of each, and the number of components.

    `flags` are packed words (epoch, y, word); epochs are not connected. Components are numbered through all of them,
    in raster order of their first pixel. ValueError for 2**31 pixels or more.

    Waits for the device twice: for the number of set pixels, and of components. Moves about 32 bytes per word
    (1 byte per pixel), and about 40 bytes per set pixel.
    """
    check_size((*flags.shape[:2], n_columns))
    words = cupy.ascontiguousarray(flags)
    _, n_rows, n_words = words.shape
    ends = _counted(words)
    n = int(ends[-1]) if words.size else 0
    pixels, labels = cupy.empty(n, dtype=cupy.int32), cupy.empty(n, dtype=cupy.int32)
    if n == 0:
        return pixels, labels, 0
    parents = cupy.empty(n, dtype=cupy.int32)
    n_all = np.int32(words.size)
    _launch("list_pixels", words.size, words, ends, pixels, parents, np.int32(n_columns), np.int32(n_words), n_all)
    _launch("unite_rows", words.size, words, ends, parents, np.int32(n_rows), np.int32(n_words), n_all)
    is_root = cupy.empty(n, dtype=cupy.int32)
    _launch("flatten", n, parents, is_root, np.int32(n))
    numbers = cupy.cumsum(is_root, dtype=cupy.int32)
    _launch("number_pixels", n, parents, numbers, labels, np.int32(n))
    return pixels, labels, int(numbers[-1])


def _counted(words: Any) -> Any:
    """Set pixels in all words up to and including each, shape (epoch * y * word,), int32."""
    counts = cupy.empty(words.size, dtype=cupy.int32)
    _launch("count_bits", words.size, words, counts, np.int32(words.size))
    return cupy.cumsum(counts, dtype=cupy.int32)
