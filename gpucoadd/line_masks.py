"""From a line to its mask: the profile across it, how far out and how far along it goes, and which pixels these are."""

from __future__ import annotations

import math
from types import ModuleType
from typing import NamedTuple

import numpy as np

from .backend import Array
from .line_fits import BLOCK, LEAST_HALF, NARROWEST, Fit
from .line_images import LineImages
from .lines import Line, Strip, on_segment, strip_pixels, take_strip

_N_GROUPS = 32  # along the line, whose median is taken
_OUTER = 0.7  # of the half strip, beyond which the level is measured
_FAINT = 8.0  # z below which a width is not trusted when it is below the PSF's
_BRIGHT_BLOCKS = 4  # 64 pixels
_TRIMMED = 0.2  # of the groups, at either end
_TRIMMED_ERROR = 1.68  # of a mean so trimmed, in units of that of what is kept; for Gaussian noise
_WIDTH_ERROR = 1.5  # relative error of a measured width, times significance
_WIDTH_DOUBT = 2.0  # errors by which a width must differ from the PSF's to be believed by half
_EXTENSION, _TO_BORDER = 32, 64  # pixels
_GOOD_SHARE = 0.25  # of the pixels across a line that must have weight for its place to count


class Profile(NamedTuple):
    """
    What is measured on the unclipped difference along a line.

    Attributes
    ----------
    crest, width : float
        Of the Gaussian that fits the profile: its height in sigmas of a typical pixel, its sigma in pixels.
    half_width : float
        How far from the line, in pixels, it is masked.
    values : numpy.ndarray, shape (2 h + 1,), float64
        Median brightness over groups along the line, at distances -h, ..., h, in sigmas of a typical pixel; NaN where
        there is nothing. Has the sign of the line.
    blocks : numpy.ndarray, shape (n,), float64
        Crest in pieces 16 pixels long of the major axis, from the segment's start on; NaN where there is nothing.
    """

    crest: float
    width: float
    half_width: float
    values: np.ndarray
    blocks: np.ndarray


def line_profile(
    difference: Array,
    variance: Array,
    images: LineImages,
    fit: Fit,
    *,
    psf_sigma: float,
    mask_level: float,
    clip: float,
) -> Profile:
    """
    Brightness across and along a line, and how wide a mask it needs.

    Parameters
    ----------
    difference, variance : array, shape (y, x), float32
    images : LineImages
        Where their weight is 0, nothing is measured.
    fit : Fit
    psf_sigma : float
        Width of the PSF in pixels.
    mask_level : float
        The mask goes out to where the line is fainter than this.
    clip : float
        That of the images, which bounds the significance of bright lines.

    Returns
    -------
    Profile

    Notes
    -----
    Waits for the device once.
    """
    line = fit.line
    half = max(LEAST_HALF, math.ceil(4 * fit.width))
    raw = take_strip((difference, variance, images.weight), line, 2 * half * line.stretch + 1)
    strip = unclipped(raw, images, fit.sign)
    on = on_segment(strip, line)
    distance = strip.offset[on] / np.float32(line.stretch)
    signal, weight = strip.planes[0][on], strip.planes[1][on]
    values, error, place = _typical_profile(distance, signal, weight, 2 * half)
    outside = values[np.abs(np.arange(-2 * half, 2 * half + 1)) > _OUTER * half]
    level = float(np.median(outside[np.isfinite(outside)])) if np.isfinite(outside).any() else 0.0
    values, error, place = values[half:-half] - level, error[half:-half], place[half:-half]
    crest, width = _gaussian(place, values, least=NARROWEST * psf_sigma, most=half / 2.5)
    error_of_width = _WIDTH_ERROR / (fit.z * max(1.0, crest / clip))
    width = _towards(psf_sigma, width, error_of_width)
    if fit.z < _FAINT:
        width = max(width, psf_sigma)
    crest = _height(place, values, width)
    blocks, bright = _along(distance, signal - np.float32(level) * weight, weight, width)
    reach = _half_width(max(crest, bright, 0.0), width * (1 + error_of_width / 2), mask_level)
    reach = _with_wings(place, values, error, reach, mask_level)
    return Profile(crest, width, reach, fit.sign * values, fit.sign * blocks)


def unclipped(raw: Strip, images: LineImages, sign: int) -> Strip:
    """The strip of signal and weight as if no pixel had been clipped, from one of difference, variance and weight."""
    difference, variance, weight = raw.planes
    there = weight > 0
    sigma = np.sqrt(np.where(there, variance, np.float32(1)))
    signal = np.where(there, difference, np.float32(0)) / sigma * np.sqrt(weight) * np.float32(sign / images.scatter)
    return raw._replace(planes=np.stack([signal, weight]))


def _typical_profile(
    distance: np.ndarray, signal: np.ndarray, weight: np.ndarray, half: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Mean in bins of distance over most groups along the line, without the brightest and the faintest; its error; and the
    mean distance in each bin, which is not its middle for lines along rows and columns.
    """
    n_bins = 2 * half + 1
    place = np.floor(distance + 0.5).astype(np.int64) + half
    group = (np.arange(len(distance)) * _N_GROUPS // max(len(distance), 1))[:, None]
    inside = (place >= 0) & (place < n_bins)
    flat = np.where(inside, group * n_bins + place, _N_GROUPS * n_bins).ravel()
    total, weights, moments = (
        np.bincount(flat, weights=each.ravel(), minlength=_N_GROUPS * n_bins + 1)[:-1].reshape(_N_GROUPS, n_bins)
        for each in (signal, weight, weight * distance)
    )
    heavy = weights.sum(axis=0)
    middle = np.where(heavy > 0, moments.sum(axis=0) / np.where(heavy > 0, heavy, 1), np.arange(-half, half + 1))
    means = np.sort(np.where(weights > 0, total / np.where(weights > 0, weights, 1), np.nan), axis=0)
    known = np.isfinite(means).sum(axis=0)
    number, cut = np.arange(_N_GROUPS)[:, None], (known * _TRIMMED).astype(np.int64)
    kept = (number >= cut) & (number < known - cut)
    n_kept = np.maximum(kept.sum(axis=0), 1)
    values = np.where(known > 0, np.where(kept, means, 0).sum(axis=0) / n_kept, np.nan)
    variance = np.where(kept, (means - values) ** 2, 0).sum(axis=0) / n_kept
    return values, _TRIMMED_ERROR * np.sqrt(variance / n_kept), middle


def _gaussian(place: np.ndarray, values: np.ndarray, *, least: float, most: float) -> tuple[float, float]:
    """Height and sigma of the Gaussian about 0 that fits best."""
    known = np.isfinite(values)
    place, values = place[known], values[known]
    width = np.geomspace(least, max(most, 1.01 * least), 80)
    for _ in range(2):
        profile = np.exp(-0.5 * (place / width[:, None]) ** 2)
        gain = np.maximum(profile @ values, 0) / np.sqrt((profile**2).sum(axis=1))
        best = int(gain.argmax())
        width = np.linspace(width[max(best - 1, 0)], width[min(best + 1, len(width) - 1)], 21)
    profile = np.exp(-0.5 * (place / width[:, None]) ** 2)
    best = int((np.maximum(profile @ values, 0) / np.sqrt((profile**2).sum(axis=1))).argmax())
    return _height(place, values, float(width[best])), float(width[best])


def _towards(expected: float, measured: float, error: float) -> float:
    """The measured width, or the expected one unless they differ by more than the relative error of the former."""
    apart = math.log(measured / expected)
    return expected * math.exp(apart * apart**4 / (apart**4 + (_WIDTH_DOUBT * error) ** 4))


def _height(place: np.ndarray, values: np.ndarray, width: float) -> float:
    known = np.isfinite(values)
    profile = np.exp(-0.5 * (place[known] / width) ** 2)
    return float(profile @ values[known] / (profile @ profile))


def _along(distance: np.ndarray, signal: np.ndarray, weight: np.ndarray, width: float) -> tuple[np.ndarray, float]:
    """Crest in blocks along the line, and of the brightest run of a few blocks that have half of their weight."""
    profile = np.exp(-0.5 * (distance / np.float32(width)) ** 2)
    edges = np.arange(0, len(distance), BLOCK)
    a, v = (
        np.add.reduceat(each.astype(np.float64), edges)
        for each in ((signal * profile).sum(axis=1), (weight * profile**2).sum(axis=1))
    )
    blocks = np.where(v > 0, a / np.where(v > 0, v, 1), np.nan)
    run = np.ones(min(_BRIGHT_BLOCKS, len(a)))
    a_run, v_run = np.convolve(a, run, "valid"), np.convolve(v, run, "valid")
    filled = v_run > 0.5 * v_run.max()
    return blocks, float((a_run[filled] / v_run[filled]).max()) if filled.any() else 0.0


def _half_width(crest: float, width: float, mask_level: float) -> float:
    """Distance at which a Gaussian of this height has fallen to `mask_level`, and a pixel more."""
    fallen = width * math.sqrt(2 * math.log(crest / mask_level)) if crest > mask_level else 0.0
    return max(2 * width, fallen) + 1


def _with_wings(place: np.ndarray, values: np.ndarray, error: np.ndarray, reach: float, mask_level: float) -> float:
    """Further out, bin by bin on either side, while the profile is brighter than `mask_level` and its own error."""
    bright = (values > mask_level) & (values > 3 * error)
    for side in (place > 0, place < 0):
        for distance in np.abs(place[side])[np.argsort(np.abs(place[side]))]:
            if distance <= reach:
                continue
            if not bright[side][np.abs(place[side]) == distance][0]:
                break
            reach = float(distance) + 0.5
    return reach


def extended(line: Line, coverage: Array, width: float) -> Line:
    """
    The line with some pixels more at both ends, and up to the border of the image where that is near.

    Only pixels with data, where `coverage` (y, x) is set, count: gaps are crossed.
    """
    strip = take_strip((coverage,), line, max(1.0, width * line.stretch))
    good = (strip.planes[0] > 0).mean(axis=1) >= _GOOD_SHARE
    before = strip.major[good & (strip.major < line.start)][::-1]
    after = strip.major[good & (strip.major > line.stop)]
    n_major = coverage.shape[0] if line.vertical else coverage.shape[1]
    return line.between(
        min(line.start, _extended_end(before, line.stretch, -0.5)),
        max(line.stop, _extended_end(after, line.stretch, n_major - 0.5)),
    )


def _extended_end(beyond: np.ndarray, step: float, border: float) -> float:
    """Where a mask ends, from the good places beyond the line's end, the nearest first."""
    if len(beyond) * step <= _TO_BORDER:
        return border
    return float(beyond[math.ceil(_EXTENSION / step) - 1])


def mask_pixels(line: Line, half_width: float, shape: tuple[int, int]) -> np.ndarray:
    """Flat indices, on the host, of the pixels within `half_width` of a segment."""
    major, minor, flat = strip_pixels(line, half_width * line.stretch + 1, shape)
    distance = np.abs(minor - line.minor(major)[:, None]) / line.stretch
    on = (major >= line.start) & (major <= line.stop)
    return flat[on[:, None] & (distance <= half_width) & (flat >= 0)]


def paint_lines(lines: list[tuple[Line, float]], shape: tuple[int, int], xp: ModuleType) -> Array:
    """(y, x) bool mask of lines with their half widths."""
    mask = xp.zeros(shape[0] * shape[1], dtype=bool)
    for line, half_width in lines:
        mask[xp.asarray(mask_pixels(line, half_width, shape))] = True
    return mask.reshape(shape)
