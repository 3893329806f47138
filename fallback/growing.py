"""Growing of detected pixels by a disc or a diamond."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def half_widths(radius: int, disc: bool) -> list[int]:
    """Half width of the stencil's row at distance 0, 1, ... `radius` from its middle."""
    if disc:
        return [math.isqrt(radius * radius - dy * dy) for dy in range(radius + 1)]
    return [radius - dy for dy in range(radius + 1)]


def grow(flags: Any, n_columns: int, radii: Sequence[int], disc: bool) -> Any:
    """Union of the stencil placed on every detected pixel of (epoch, y, x) flags, cut at the planes' borders."""
    out = np.empty_like(flags)
    for target, plane, radius in zip(out, flags, radii, strict=True):
        _grow_plane(plane, radius, disc, target)
    return out


def _grow_plane(detected: Any, radius: int, disc: bool, out: Any) -> None:
    """
    A row of the result is the OR, over the stencil's rows, of a detected row widened by the half width of that row.

    The widening goes in steps of one pixel, in order of width, so that each step serves all wider rows.
    """
    out[...] = detected
    if radius == 0:
        return
    n_rows = detected.shape[0]
    widened = detected.copy()
    width = 0
    widths = half_widths(radius, disc)
    for dy in range(radius, -1, -1):
        while width < widths[dy]:
            wider = widened.copy()
            wider[:, 1:] |= widened[:, :-1]
            wider[:, :-1] |= widened[:, 1:]
            widened = wider
            width += 1
        if dy == 0:
            out |= widened
        elif dy < n_rows:
            out[dy:] |= widened[:-dy]
            out[:-dy] |= widened[dy:]
