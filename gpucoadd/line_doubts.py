"""
Lines that their surroundings make one doubt.

Borders of the data, bad columns, rows that bleed and spikes of bright stars are straight, too.
"""

from __future__ import annotations

import math

import numpy as np

from . import primitives
from .backend import Array, array_module, to_host
from .line_fits import FILTERS, Fit, filtered
from .line_images import MAD_TO_SIGMA, LineImages, NoiseFactor
from .line_masks import unclipped
from .lines import Line, on_segment, take_strip

_ALONG_AXIS = math.tan(math.radians(0.3))  # slope
_FLAGGED_SHARE = 0.25
_WINDOW = 16  # pixels to each side, of which a line's running brightness is the median
_STICKS_OUT, _GROWN = 4.0, 1.5  # scatters by which a compact source does; PSF sigmas around it that are left out, too
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


def without_compact(
    images: LineImages, planes: tuple[Array, Array], fit: Fit, *, psf_sigma: float, factor: NoiseFactor
) -> float:
    """
    Significance of a line without what sticks out of it: cosmic rays, and what is left of stars.

    Such places are brighter than the median of their neighbourhood along the line, where no pixel is clipped. A trail,
    however bright, moves that median, and so do flashes longer than half of its window.

    Parameters
    ----------
    images : LineImages
    planes : (array, array)
        Difference and variance, (y, x) float32.
    fit : Fit
    psf_sigma : float
    factor : NoiseFactor

    Notes
    -----
    Waits for the device once.
    """
    line = fit.line
    strip = take_strip((*images[:2], *planes), line, 4 * fit.width * line.stretch)
    on = on_segment(strip, line)
    raw = unclipped(strip._replace(planes=strip.planes[[2, 3, 1]]), images, fit.sign)
    steady = on & _steady(*filtered(raw, line, 1, fit.width), math.ceil(_GROWN * psf_sigma))
    strip = strip._replace(planes=strip.planes[:2])
    best = 0.0
    for share in FILTERS:
        a, v = (values[steady].sum() for values in filtered(strip, line, fit.sign, share * fit.width))
        if v > 0:
            best = max(best, float(a / math.sqrt(v)) / factor(share * fit.width))
    return best


def _steady(a: np.ndarray, v: np.ndarray, grown: int) -> np.ndarray:
    """Which places along a line are as bright as their neighbourhood; (n,) bool."""
    brightness = np.where(v > 0, a / np.where(v > 0, v, 1), np.nan)
    padded = np.pad(brightness, _WINDOW, constant_values=np.nan)
    deviation = np.abs(brightness - _medians(np.lib.stride_tricks.sliding_window_view(padded, 2 * _WINDOW + 1)))
    out = deviation > _STICKS_OUT * MAD_TO_SIGMA * _medians(deviation[None])
    near = np.lib.stride_tricks.sliding_window_view(np.pad(out, grown), 2 * grown + 1)
    return (v > 0) & ~near.any(axis=1)


def _medians(rows: np.ndarray) -> np.ndarray:
    """Median of each row without its NaN; NaN where nothing is left."""
    return primitives.quantiles(np.ascontiguousarray(rows, dtype=np.float32), (0.5,))[0][:, 0]
