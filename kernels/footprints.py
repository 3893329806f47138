"""
Counts, sums and common values over the pixels of footprints.

Integer atomics, once per run of equal labels: the answers do not depend on the order of the threads. Nothing here
waits for the device.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ._compile import blocks, kernel

_FILE = "footprints.cu"
_BLOCK = 128
_STRETCH = 16  # pixels of a thread: 64 bytes of labels
_MACROS = (("STRETCH", _STRETCH),)
VARIANTS = {_FILE: [_MACROS]}


def _launch(name: str, labels: Any, *args: Any) -> None:
    grid = (blocks(labels.size, _BLOCK * _STRETCH),)
    kernel(_FILE, name, _MACROS)(grid, (_BLOCK,), (cupy.ascontiguousarray(labels), *args, np.int32(labels.size)))


def count_by_label(labels: Any, n: int, flags: Any = None) -> Any:
    """
    Pixels of each label 0, 1, ... n, shape (n + 1,), int32; only those where `flags` (bool, one per pixel) is set.

    Moves 4 bytes per pixel, and 1 more with flags.
    """
    counts = cupy.zeros(n + 1, dtype=cupy.int32)
    if flags is None:
        _launch("count_pixels", labels, counts)
    else:
        _launch("count_flagged", labels, cupy.ascontiguousarray(flags), counts)
    return counts


def sum_by_label(labels: Any, n: int, values: Any) -> Any:
    """
    Sums of `values` (int32, one per pixel) over each label 0, 1, ... n, shape (n + 1,), int64.

    Moves 8 bytes per pixel.
    """
    sums = cupy.zeros(n + 1, dtype=cupy.int64)
    _launch("sum_values", labels, cupy.ascontiguousarray(values), sums)
    return sums


def same_under(labels: Any, n: int, under: Any) -> Any:
    """
    The one value that `under` has over all pixels of each label 0, 1, ... n, shape (n + 1,), int32.

    `under` is int32, one per pixel. 0 where the values differ, are not positive, or no pixel has the label.
    Moves 8 bytes per pixel.
    """
    lowest = cupy.full(n + 1, np.iinfo(np.int32).max, dtype=cupy.int32)
    highest = cupy.zeros(n + 1, dtype=cupy.int32)
    _launch("extreme_values", labels, cupy.ascontiguousarray(under), lowest, highest)
    return lowest * (lowest == highest)
