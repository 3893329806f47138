"""
Lines that their surroundings make one doubt.

Borders of the data, bad columns, rows that bleed and spikes of bright stars are straight, too.
"""

from __future__ import annotations

import math

import numpy as np

from .backend import Array, array_module, to_host
from .lines import Line, on_segment, take_strip

_ALONG_AXIS = math.tan(math.radians(0.3))  # slope
_FLAGGED_SHARE = 0.25
_NEAR = 20  # pixels
_BEYOND = 8.0  # pixels beyond a line's mask, without which it is along a border


def is_bordered(line: Line, coverage: Array, half_width: float) -> bool:
    """
    Whether a line runs along a border of the data: with none beyond `half_width` on one side, for most of its length.

    Waits for the device once.

    Parameters
    ----------
    line : Line
    coverage : array, shape (y, x), bool
        Where there are data.
    half_width : float
        In pixels, across the line.
    """
    strip = take_strip((coverage,), line, (half_width + _BEYOND) * line.stretch)
    on = on_segment(strip, line)
    there, offset = strip.planes[0][on] > 0, strip.offset[on] / np.float32(line.stretch)
    on_line = (there & (np.abs(offset) <= half_width)).any(axis=1)
    empty = [~(there & (side * offset > half_width)).any(axis=1) for side in (-1, 1)]
    return bool(max((on_line & each).sum() for each in empty) > on_line.sum() / 2)


def is_along_flags(line: Line, flagged: Array, width: float) -> bool:
    """
    Whether a line is one row or column, and flagged for more than a quarter of its length.

    Parameters
    ----------
    line : Line
    flagged : array, shape (y, x), bool
    width : float
        Gaussian sigma across, in pixels, within which flags count.
    """
    if abs(line.slope) > _ALONG_AXIS:
        return False
    strip = take_strip((flagged,), line, max(width, 1.0))
    touched = (strip.planes[0][on_segment(strip, line)] > 0).any(axis=1)
    return bool(touched.mean() > _FLAGGED_SHARE)


def starts_at_flags(lines: list[Line], flagged: Array) -> np.ndarray:
    """
    Which lines have an end within 20 pixels of a flagged footprint of 3 x 3 pixels or more; (n,) bool.

    Single flagged pixels are no footprint. Waits for the device once.
    """
    if not lines:
        return np.zeros(0, dtype=bool)
    xp = array_module(flagged)
    ends = np.floor(np.concatenate([line.ends() for line in lines]) + 0.5).astype(np.int64)
    around = np.arange(-_NEAR - 1, _NEAR + 2)
    y, x = (ends[:, axis, None] + around for axis in (0, 1))
    inside = ((y >= 0) & (y < flagged.shape[0]))[:, :, None] & ((x >= 0) & (x < flagged.shape[1]))[:, None, :]
    flat = np.where(inside, y[:, :, None] * flagged.shape[1] + x[:, None, :], 0)
    windows = to_host(flagged.ravel().take(xp.asarray(flat))) & inside
    across = windows[:, :-2] & windows[:, 1:-1] & windows[:, 2:]
    blocks = across[:, :, :-2] & across[:, :, 1:-1] & across[:, :, 2:]
    near = np.hypot(around[1:-1, None], around[1:-1]) <= _NEAR
    return (blocks & near).any(axis=(1, 2)).reshape(-1, 2).any(axis=1)
