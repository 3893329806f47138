"""How launchers look at (epoch, y, x) planes."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

MOST_PIXELS = 2**31 - 1


def check_size(shape: tuple[int, ...]) -> None:
    """ValueError for (epoch, y, x) planes whose pixels cannot be numbered in int32."""
    if math.prod(shape) > MOST_PIXELS:
        raise ValueError(
            f"planes {shape} (epoch, y, x) have more than {MOST_PIXELS} pixels, whose numbers do not fit int32; "
            "pass fewer epochs at once"
        )


def strided(planes: Any) -> tuple[Any, np.int64]:
    """
    Planes whose last axes are contiguous, and the elements from one epoch to the next.

    Bands of rows of a larger stack are views and stay so; anything else odd is copied.
    """
    inner = [planes.itemsize]
    for size in planes.shape[:1:-1]:
        inner.append(inner[-1] * size)
    step = planes.strides[0] if planes.shape[0] > 1 else inner[-1] * planes.shape[1]
    if tuple(planes.strides[1:]) != tuple(reversed(inner)) or step % planes.itemsize or step < 0:
        planes = cupy.ascontiguousarray(planes)
        step = planes.strides[0]
    return planes, np.int64(step // planes.itemsize)
