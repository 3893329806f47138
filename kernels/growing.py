"""Growing of packed flags by a disc or a diamond."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np

from ._compile import blocks, kernel

_FILE = "grow.cu"
_BLOCK = 256


def grow(flags: Any, n_columns: int, radii: Sequence[int], disc: bool) -> Any:
    """
    Union of the stencil placed on every set pixel of packed words (epoch, y, word), cut at the planes' borders.

    Two launches: which epochs have a flag at all, so that the others cost no more than their zeros; and the growth.
    Nothing waits for the device. Moves three eighths of a byte per pixel and epoch; a word is looked at some
    3 * (2 * radius + 1) times, all but the first from cache.
    """
    flags = cupy.ascontiguousarray(flags)
    n_planes, n_rows, n_words = flags.shape
    widest = max(0, n_rows + n_columns - 2)  # reaches from corner to corner, as any larger one would
    lengths = cupy.asarray(np.array([min(int(radius), widest) for radius in radii], dtype=np.int32))
    present = cupy.zeros(n_planes, dtype=cupy.uint32)
    out = cupy.empty_like(flags)
    grid = (blocks(flags.size, _BLOCK),)
    n = np.int32(flags.size)
    kernel(_FILE, "mark_planes")(grid, (_BLOCK,), (flags, present, np.int32(n_rows * n_words), n))
    sizes = map(np.int32, (disc, n_rows, n_columns, n_words))
    kernel(_FILE, "grow_flags")(grid, (_BLOCK,), (flags, lengths, present, out, *sizes, n))
    return out
