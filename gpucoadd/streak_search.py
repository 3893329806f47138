"""The search: candidates in binned images are refined, tried, measured, and taken out of the images."""

from __future__ import annotations

import sys
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from .backend import Array, array_module
from .line_candidates import Candidate, candidates
from .line_doubts import is_along_flags, is_bordered, without_compact
from .line_fits import Fit, is_accepted, refine_line
from .line_images import LineImages, NoiseFactor, noise_factor, subtract_background
from .line_masks import Profile, extended, line_profile, mask_pixels
from .line_sums import split
from .lines import NEAR_AXIS, Line
from .streak_config import StreakConfig

# Independent lines, lengths and widths per pixel, from the highest lines in noise: 30 if it is matched, 60 if white.
_TRIALS = 60
_LOOKED_AT, _MARGIN = 5.2, 0.9  # significance, less exact in binned images, from which a line is looked at
_MAX_ROUNDS = 6
_LOOKS = 12  # at candidates, in one round
_SAME = 20  # bins
_REMOVED = 3.5  # widths
_LESS = 0.5  # significance that a line may lack without compact sources
_MORE_NEAR_AXIS, _MORE_ALONG_FLAGS = 1.0, 2.0  # significance that rows and columns need beyond the threshold
_WIDEST_OF_PSF = 6.0  # of a trail's Gaussian sigma, in those of the PSF: what is wider is background
# In the same unit: what is wider may be narrow lines, if a neighbour was removed after it was seen.
_WIDE = 2.0
# So many lines that barely pass are the noise of an image that has stripes, whatever the threshold was made for.
_BARELY, _CROWD = 2.0, 3
_NARROW_PSF, _SMALL_IMAGE = 2.4, 1024


class Found(NamedTuple):
    """A line, what was measured on it, and the segment that is masked."""

    fit: Fit
    profile: Profile
    masked: Line


def threshold(shape: tuple[int, int], false_alarm: float) -> float:
    """
    Significance that a line needs so that noise makes `false_alarm` lines in an image of a shape, of either sign.

    Examples
    --------
    >>> round(threshold((512, 512), 1e-3), 2)
    6.43
    """
    rate = false_alarm / (_TRIALS * shape[0] * shape[1])
    return -NormalDist().inv_cdf(max(rate, sys.float_info.min))


def sums_bytes(shape: tuple[int, int], psf_sigma: float, config: StreakConfig) -> int:
    """Memory that the sums along lines of an image take, at most."""
    bin = config.bin or _bin(shape, psf_sigma)
    longer, shorter = (-(-n // bin) for n in (max(shape), min(shape)))
    base, n_joins = split(longer)
    n = base << n_joins
    return 20 * n * (n + shorter)  # two buffers of two channels, float32, and a quarter to search in


def search(
    images: LineImages,
    planes: tuple[Array, Array],
    *,
    psf_sigma: float,
    config: StreakConfig,
    flagged: Array | None,
) -> list[Found]:
    """
    All lines, round by round: in each, those found are removed, which uncovers fainter ones.

    Parameters
    ----------
    images : LineImages
        Changed: the pixels of the lines lose their light and their weight.
    planes : (array, array)
        Difference and variance, (y, x) float32.
    psf_sigma : float
    config : StreakConfig
    flagged : array, shape (y, x), bool, or None

    Returns
    -------
    list of Found
    """
    factor = noise_factor(images)
    needed = threshold(images.signal.shape, config.false_alarm)
    bin = config.bin or _bin(images.signal.shape, psf_sigma)
    coverage = images.weight > 0
    found: list[Found] = []
    for _ in range(_MAX_ROUNDS):
        removed = False
        looked: list[Candidate] = []
        for candidate in candidates(
            images,
            bin=bin,
            min_length=config.min_length,
            threshold=min(_LOOKED_AT, needed - _MARGIN),
            signs=config.signs,
        ):
            if any(_same(candidate, other, _SAME * bin) for other in looked):
                continue
            if len(looked) == _LOOKS or len(found) == config.max_lines:
                break
            looked.append(candidate)
            fit = _refined(images, candidate, psf_sigma, factor)
            if fit is None or not _is_line(fit, needed, config, flagged):
                continue
            if without_compact(images, planes, fit, psf_sigma=psf_sigma, factor=factor) < needed - _LESS:
                continue
            if removed and fit.width > _WIDE * psf_sigma:
                continue  # the next round looks again, without what was removed in this one
            profile = line_profile(
                *planes, images, fit, psf_sigma=psf_sigma, mask_level=config.mask_level, clip=config.clip
            )
            masked = extended(fit.line, coverage, fit.width)
            line = Found(fit, profile, masked)
            _remove(images, line, config.mesh)
            removed = True
            is_wide = max(fit.width, profile.width) > _WIDEST_OF_PSF * psf_sigma
            if not (is_wide or is_bordered(fit.line, coverage, profile.half_width)):
                found.append(line)
        if not removed:
            break
    clear = [line for line in found if line.fit.z >= needed + _BARELY]
    return clear if len(found) - len(clear) >= _CROWD else found


def _refined(images: LineImages, candidate: Candidate, psf_sigma: float, factor: NoiseFactor) -> Fit | None:
    """The best line near a candidate; one of two side by side, where it is that and no wide one."""
    fit = refine_line(images, candidate, psf_sigma=psf_sigma, factor=factor)
    if fit is None or fit.width <= _WIDE * psf_sigma:
        return fit
    aside = fit.width * fit.line.stretch
    fits = [fit]
    for by in (-aside, aside):
        first, last = fit.line.moved(by, by).ends().tolist()
        narrow = candidate._replace(ends=((first[0], first[1]), (last[0], last[1])), width=0.0)
        found = refine_line(images, narrow, psf_sigma=psf_sigma, factor=factor)
        fits += [] if found is None else [found]
    return max(fits, key=lambda each: each.z)


def _is_line(fit: Fit, needed: float, config: StreakConfig, flagged: Array | None) -> bool:
    if not is_accepted(fit, threshold=needed, spread=config.spread, min_length=config.min_length):
        return False
    if abs(fit.line.slope) <= NEAR_AXIS and fit.z < needed + _MORE_NEAR_AXIS:
        return False
    if flagged is None or fit.z >= needed + _MORE_ALONG_FLAGS:
        return True
    return not is_along_flags(fit.line, flagged, fit.width)


def _bin(shape: tuple[int, int], psf_sigma: float) -> int:
    return 2 if psf_sigma < _NARROW_PSF or max(shape) <= _SMALL_IMAGE else 4


def _same(one: Candidate, other: Candidate, reach: float) -> bool:
    """Whether both ends of two candidates of one sign are near each other."""
    if one.sign != other.sign:
        return False
    a, b = np.array(one.ends), np.array(other.ends)
    return any(np.hypot(*(a - ends).T).max() <= reach for ends in (b, b[::-1]))


def _remove(images: LineImages, found: Found, mesh: int) -> None:
    """Take the light and the weight of a line out of the images, and what the background had of it."""
    xp = array_module(images.signal)
    reach = max(_REMOVED * found.fit.width, found.profile.half_width)
    pixels = xp.asarray(mask_pixels(found.masked, reach, images.signal.shape))
    for plane in images[:2]:
        plane.ravel()[pixels] = 0
    subtract_background(images, mesh=mesh)
