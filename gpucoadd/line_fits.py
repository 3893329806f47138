"""
One line at full resolution: where it runs, from where to where, how significant it is and whether its light is spread.

Pixels around a line are gathered where the images live, and come to the host, where NumPy does the rest: a strip is as
long as the line and a few dozen pixels wide.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .line_candidates import Candidate
from .line_images import LineImages, NoiseFactor
from .lines import Line, Strip, chord, on_segment, take_strip

BLOCK = 16  # pixels along the line that are taken together
FILTERS = (0.45, 0.7, 1.0)  # of the width: in correlated noise a narrower profile sees more
_REACHES = (6.0, 3.0, 1.2, 0.6)  # pixels by which the ends of a line are moved, round by round
_STEPS = 6  # from the middle to the reach
_GROWING = 2  # rounds in which longer segments are tried
_FINE = 0.25  # pixels, at most, between the places where a profile is tried
_WIDTHS = ((0.5, 0.71, 1.0, 1.41, 2.0), (0.7, 0.84, 1.0, 1.19, 1.41))  # tried in the first round, and in others
_WIDEST = 16.0  # Gaussian sigma, in pixels
_BOX_TO_SIGMA = 0.36  # of the Gaussian that a box sees best
LEAST_HALF = 24  # pixels to each side of the line
NARROWEST = 0.8  # of a line's Gaussian sigma, in those of the PSF
_N_PIECES, _N_BEST = 16, 3
_POSITIVE_SHARE, _STEADY = 0.7, 0.7
_LEAST_LENGTH = 0.8
_SEEN = 0.1  # of the largest weight that a place along a line must have
_DOUBT = 4.0  # log likelihood by which a line must rather end than go on to the border


class Fit(NamedTuple):
    """
    A line that was refined.

    Attributes
    ----------
    line : Line
    sign : int
    width : float
        Gaussian sigma across, in pixels, as the clipped image has it.
    z : float
        Significance in noise as correlated as it is.
    rest : float
        What of it is left without the best 3 of 16 pieces.
    steadiness : float
        Mean brightness without the 3 brightest blocks of 16 pixels, over that of the whole line.
    positive : float
        Share of the pieces that have the line's sign.
    seen : float
        Length, in pixels, of the part that was seen: without gaps, and without what goes on to the border.
    """

    line: Line
    sign: int
    width: float
    z: float
    rest: float
    steadiness: float
    positive: float
    seen: float


def line_of(candidate: Candidate) -> Line:
    """The segment that was seen in binned images."""
    (y0, x0), (y1, x1) = candidate.ends
    if abs(x1 - x0) >= abs(y1 - y0):
        return Line(False, x0, x1, y0, y1)
    return Line(True, y0, y1, x0, x1)


def refine_line(images: LineImages, candidate: Candidate, *, psf_sigma: float, factor: NoiseFactor) -> Fit | None:
    """
    The best line near a candidate, at full resolution.

    In rounds, both ends are moved along the minor axis, and the width changed, to where the significance is highest;
    then the segment is taken along which the light is as bright as it is so far.

    Parameters
    ----------
    images : LineImages
    candidate : Candidate
    psf_sigma : float
        Width of the PSF in pixels; no line is narrower than 0.8 of it.
    factor : NoiseFactor

    Returns
    -------
    Fit or None
        None where no light is left.

    Notes
    -----
    Waits for the device in each round.
    """
    line, sign = line_of(candidate), candidate.sign
    narrowest = min(NARROWEST * psf_sigma, _WIDEST)
    width = float(np.clip(_BOX_TO_SIGMA * candidate.width / line.stretch, psf_sigma, _WIDEST))
    slack = candidate.width / 2
    for number, reach in enumerate(_REACHES):
        reach = max(reach, min(slack, 4 * reach))
        widths = np.unique(np.clip(np.multiply(_WIDTHS[number > 0], width), narrowest, _WIDEST))
        strip = take_strip(images[:2], line, max(LEAST_HALF, 3 * widths[-1]) * line.stretch + reach)
        if len(strip.major) == 0:
            return None
        segments = _longer(line, strip) if number < _GROWING else [line]
        best = _best_line(strip, segments, sign, widths * line.stretch, reach)
        if best is None:
            return None
        before = line.stop - line.start
        line, width = best[0], best[1] / line.stretch
        slack = reach / _STEPS * (line.stop - line.start) / before
    return _tested(images, line, sign, width, factor)


def _best_line(
    strip: Strip, segments: list[Line], sign: int, widths: np.ndarray, reach: float
) -> tuple[Line, float] | None:
    """
    The best of some segments of a line, and the best width, with the ends moved by up to `reach`.

    Widths are along the minor axis. The segment that comes back is the one that has light.
    """
    signal, weight, middle = _blocks(strip)
    centre = strip.offset[:, strip.offset.shape[1] // 2].astype(float)
    edges = np.arange(0, len(centre), BLOCK)
    aside = np.add.reduceat(centre, edges) / np.diff(np.append(edges, len(centre)))
    step = reach / _STEPS
    fine = min(_FINE, step)
    n_shifts = math.ceil((2 * reach + 0.5) / fine) + 1
    shifts = fine * np.arange(-n_shifts, n_shifts + 1)
    across = np.arange(signal.shape[1]) - signal.shape[1] // 2
    responses = []
    for width in widths:
        profile = np.exp(-0.5 * ((across[:, None] - shifts) / width) ** 2).astype(np.float32)
        responses.append((sign * (signal @ profile), weight @ profile**2))
    moves = step * np.arange(-_STEPS, _STEPS + 1)
    best_z, best = 0.0, None
    for line in segments:
        rows = np.flatnonzero((middle >= line.start) & (middle <= line.stop))
        share = (middle[rows] - line.start) / (line.stop - line.start)
        shift = moves[:, None, None] * (1 - share) + moves[:, None] * share  # (first, last, block)
        column = np.rint((shift - aside[rows]) / fine).astype(np.int64) + n_shifts
        for number, (found, weights) in enumerate(responses):
            total, total_weight = found[rows, column].sum(axis=2), weights[rows, column].sum(axis=2)
            z = total / np.sqrt(np.maximum(total_weight, np.finfo(np.float32).tiny))
            first, last = np.unravel_index(z.argmax(), z.shape)
            if z[first, last] > best_z:
                best_z, best = z[first, last], (line, number, float(moves[first]), float(moves[last]))
    if best is None:
        return None
    before, number, first, last = best
    line = before.moved(first, last)
    column = np.rint((line.minor(middle) - before.minor(middle) - aside) / fine).astype(np.int64) + n_shifts
    known = (column >= 0) & (column < len(shifts))
    rows = np.arange(len(middle))
    a, v = (np.where(known, each[rows, np.where(known, column, 0)], 0).astype(float) for each in responses[number])
    low, high = _segment(a, v, (middle >= line.start) & (middle <= line.stop))
    start, stop = float(middle[low] - BLOCK / 2), float(min(middle[high] + BLOCK / 2, strip.major[-1] + 0.5))
    return line.between(start, stop), float(widths[number])


def _blocks(strip: Strip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signal and weight (block, offset) summed over blocks along the line, and the blocks' middles."""
    n_blocks = -(-len(strip.major) // BLOCK)
    padded = np.zeros((2, n_blocks * BLOCK, strip.offset.shape[1]), dtype=np.float32)
    padded[:, : len(strip.major)] = strip.planes
    signal, weight = padded.reshape(2, n_blocks, BLOCK, -1).sum(axis=2)
    return signal, weight, strip.major[0] + BLOCK * np.arange(n_blocks) + (BLOCK - 1) / 2


def _longer(line: Line, strip: Strip) -> list[Line]:
    """The segment, and the same with its own length added before it, behind it, and both; not beyond the strip."""
    length = line.stop - line.start
    starts = (line.start, max(line.start - length, float(strip.major[0]) - 0.5))
    stops = (line.stop, min(line.stop + length, float(strip.major[-1]) + 0.5))
    return [line.between(start, stop) for start in starts for stop in stops]


def _segment(a: np.ndarray, v: np.ndarray, inside: np.ndarray) -> tuple[int, int]:
    """
    First and last block of the run for which a line of constant brightness is the likeliest.

    Starts from the blocks `inside` and always has one of them.
    """
    low, high = np.flatnonzero(inside)[[0, -1]]
    for _ in range(4):
        amplitude = a[low : high + 1].sum() / max(v[low : high + 1].sum(), 1e-30)
        if amplitude <= 0:
            break
        total = np.concatenate([[0.0], np.cumsum(amplitude * a - amplitude**2 * v / 2)])
        gain = total[None, 1 + low :] - total[: high + 1, None]  # from block i to block j, (i, j)
        gain[np.arange(high + 1)[:, None] > np.arange(low, len(a))[None, :]] = -np.inf
        i, j = np.unravel_index(gain.argmax(), gain.shape)
        if (i, j + low) == (low, high):
            break
        low, high = int(i), int(j + low)
    filled = np.flatnonzero(v[low : high + 1] > 0)
    return (int(low + filled[0]), int(low + filled[-1])) if len(filled) else (int(low), int(high))


def filtered(strip: Strip, line: Line, sign: int, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Sums of signal times profile, and of weight times its square, for each pixel along the line; float64 (n,)."""
    profile = np.exp(-0.5 * (strip.offset / np.float32(width * line.stretch)) ** 2)
    a = sign * np.einsum("ij,ij->i", strip.planes[0], profile)
    return a.astype(np.float64), np.einsum("ij,ij,ij->i", strip.planes[1], profile, profile).astype(np.float64)


def _tested(images: LineImages, line: Line, sign: int, width: float, factor: NoiseFactor) -> Fit | None:
    """Significance with the filter that sees the line best, how it is spread, and the line to its very ends."""
    start, stop = chord(line, images.signal.shape)
    start, stop = max(start, line.start), min(stop, line.stop)
    if stop - start < BLOCK:
        return None
    line = line.between(start, stop)
    strip = take_strip(images[:2], line, 4 * width * line.stretch)
    on = on_segment(strip, line)
    best = None
    for share in FILTERS:
        a, v = filtered(strip, line, sign, share * width)
        scale = factor(share * width)
        if v[on].sum() > 0 and (best is None or a[on].sum() / math.sqrt(v[on].sum()) / scale > best[0]):
            best = a[on].sum() / math.sqrt(v[on].sum()) / scale, a, v, scale
    if best is None:
        return None
    z, a, v, scale = best
    rest, positive = spread_of(a[on], v[on])
    whole = _to_border(strip.major, a, v, line, scale, images.signal.shape)
    seen = float((v[on] > _SEEN * v[on].max()).sum()) * line.stretch
    return Fit(whole, sign, width, z, rest / scale, _steadiness(a[on], v[on]), positive, seen)


def _to_border(
    major: np.ndarray, a: np.ndarray, v: np.ndarray, line: Line, scale: float, shape: tuple[int, int]
) -> Line:
    """The segment up to the border of the image, at each end where the light does not say that it ends before."""
    start, stop = chord(line, shape)
    on = (major >= line.start) & (major <= line.stop)
    amplitude = a[on].sum() / v[on].sum()
    gain = (amplitude * a - amplitude**2 * v / 2) / scale**2
    before = (major >= start) & (major < line.start)
    after = (major <= stop) & (major > line.stop)
    return line.between(
        start if gain[before].sum() > -_DOUBT else line.start, stop if gain[after].sum() > -_DOUBT else line.stop
    )


def spread_of(a: np.ndarray, v: np.ndarray) -> tuple[float, float]:
    """Significance without the best pieces of a line cut into 16 of equal weight, and the share of positive ones."""
    weight = np.cumsum(v)
    piece = np.minimum((_N_PIECES * (weight - v / 2) / weight[-1]).astype(np.int64), _N_PIECES - 1)
    a_piece, v_piece = (np.bincount(piece, weights=each, minlength=_N_PIECES) for each in (a, v))
    there = v_piece > 0
    rest = np.argsort(a_piece, kind="stable")[:-_N_BEST]
    significance = a_piece[rest].sum() / math.sqrt(max(v_piece[rest].sum(), 1e-30))
    return float(significance), float((a_piece[there] > 0).mean())


def _steadiness(a: np.ndarray, v: np.ndarray) -> float:
    """Mean brightness of a line without its brightest blocks, over that of all of it; 0 where no block is left."""
    edges = np.arange(0, len(a), BLOCK)
    a, v = np.add.reduceat(a, edges), np.add.reduceat(v, edges)
    a, v = a[v > 0], v[v > 0]
    rest = np.argsort(a, kind="stable")[:-_N_BEST]
    return float(a[rest].sum() / v[rest].sum() / (a.sum() / v.sum())) if len(rest) and a.sum() > 0 else 0.0


def is_accepted(fit: Fit, *, threshold: float, spread: float, min_length: int) -> bool:
    """Whether a line is significant, long enough, and more than a few bright spots in a row."""
    return (
        fit.z >= threshold
        and fit.rest >= spread * fit.z
        and fit.steadiness >= _STEADY
        and fit.positive >= _POSITIVE_SHARE
        and fit.seen >= _LEAST_LENGTH * min_length
    )
