"""Convolution with a symmetric kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage


def smooth(plane: Any, weights: np.ndarray) -> Any:
    """
    Convolution of a (y, x) float32 plane with a symmetric kernel (n,), n odd, along both axes, y first.

    Beyond the edges the plane is 0; NaN and inf spread over the kernel and no further.
    """
    for axis in (0, 1):
        plane = ndimage.correlate1d(plane, weights, axis=axis, mode="constant")
    return plane
