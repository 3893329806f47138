"""Whether a line comes back: trails never do; rows that bleed, bad columns and diffraction spikes always do."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .line_fits import FILTERS, filtered, spread_of
from .line_images import LineImages, NoiseFactor
from .lines import NEAR_AXIS, Line, Strip, on_segment, take_strip

_OFFSETS = (-2, -1, 0, 1, 2)  # pixels by which a line may move from epoch to epoch
_LEAST_Z, _LEAST_SHARE_OF_Z = 3.5, 0.4
LEAST_WEIGHT = 0.5  # of a line, below which an epoch has no vote
# Of 16 pieces the best 3 are left out: root of 16 / 13, and what noise alone has in them, over the root of 13.
_MORE_PIECES, _LESS_NOISE = 1.11, 1.12
_FEW = 3  # other epochs, of which one is enough
_FAINT_Z, _FAINT_SHARE_OF_Z = 2.5, 0.2
_COMMON, _LEAST_COMMON = 1 / 3, 3  # of the other epochs, if a line is faint there


class Votes(NamedTuple):
    """
    What one other epoch says about some lines, each (n,) float64.

    `z` is the significance of a line of the same sign there, in units of that epoch's own noise; `weight` the share of
    the line's pixels that have weight there.
    """

    z: np.ndarray
    weight: np.ndarray


def vote(lines: list[tuple[Line, int, float]], images: LineImages, factor: NoiseFactor) -> Votes:
    """
    Significance of known lines (segment, sign, width) in another epoch.

    Notes
    -----
    Waits for the device once for each line.
    """
    z, weight = np.zeros(len(lines)), np.zeros(len(lines))
    for number, (line, sign, width) in enumerate(lines):
        strip = take_strip(images[:2], line, 3 * width * line.stretch + max(_OFFSETS))
        on = on_segment(strip, line)
        strip = strip._replace(major=strip.major[on], offset=strip.offset[on], planes=strip.planes[:, on])
        inside = np.abs(strip.offset) <= width * line.stretch
        asked = inside.any() and not math.isnan(factor(width))
        weight[number] = (strip.planes[1][inside] > 0).mean() if asked else 0.0
        z[number] = max(_z(strip, line.moved(by, by), by, sign, width, factor) for by in _OFFSETS)
    return Votes(z, weight)


def _z(strip: Strip, line: Line, by: int, sign: int, width: float, factor: NoiseFactor) -> float:
    moved = strip._replace(offset=strip.offset - np.float32(by))
    best = 0.0
    for share in FILTERS:
        a, v = filtered(moved, line, sign, share * width)
        if v.sum() > 0:
            scale = factor(share * width)
            # What crosses the line is bright in a few pieces of it. Without these, light that is spread has as much.
            rest = (spread_of(a, v)[0] / scale + _LESS_NOISE) * _MORE_PIECES
            best = max(best, min(a.sum() / math.sqrt(v.sum()) / scale, rest))
    return best


def is_persistent(z: np.ndarray, slope: np.ndarray, votes: list[Votes], *, persistence: int) -> np.ndarray:
    """
    Which lines come back: are seen in enough other epochs, or, however faintly, in a third of them.

    For lines within two degrees of a row or a column one other epoch is enough.

    Parameters
    ----------
    z, slope : numpy.ndarray, shape (n,)
        Significance of the lines in their own epoch; change of the minor coordinate along the major one.
    votes : list of Votes
        One per other epoch.
    persistence : int
        How many other epochs are enough, if there are more than three.

    Returns
    -------
    numpy.ndarray, shape (n,), bool
    """
    if not votes:
        return np.zeros(len(z), dtype=bool)
    may = np.stack([each.weight >= LEAST_WEIGHT for each in votes])
    there = np.stack([each.z for each in votes])
    n_voters = may.sum(axis=0)
    n_seen = (may & (there > np.maximum(_LEAST_Z, _LEAST_SHARE_OF_Z * z))).sum(axis=0)
    n_faint = (may & (there > np.maximum(_FAINT_Z, _FAINT_SHARE_OF_Z * z))).sum(axis=0)
    is_seen = n_seen >= np.where((n_voters <= _FEW) | (np.abs(slope) <= NEAR_AXIS), 1, persistence)
    return is_seen | (n_faint >= np.maximum(max(_LEAST_COMMON, persistence), _COMMON * n_voters))
