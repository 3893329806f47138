"""The search: candidates in binned images are refined, tried, measured, and taken out of the images."""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from .backend import Array, array_module
from .line_candidates import Candidate, candidates
from .line_doubts import is_along_flags, is_bordered
from .line_fits import Fit, is_accepted, refine_line
from .line_images import LineImages, noise_factor, subtract_background
from .line_masks import Profile, extended, line_profile, mask_pixels
from .lines import Line
from .streak_config import StreakConfig

# Independent lines, lengths and widths per pixel: with 40, 1500 differences of noise, stars, gaps and cosmic rays had
# as many false lines as asked for, three, the errors of the noise factor included.
_TRIALS = 60
_SEEN, _MARGIN = 5.2, 0.9  # significance, less exact in binned images, from which a line is looked at
_MAX_ROUNDS = 6
_LOOKS = 12  # at candidates, in one round
_SAME = 20  # bins
_REMOVED = 3.5  # widths
_MORE_ALONG_FLAGS = 2.0  # significance that rows and columns of flagged pixels need beyond the threshold
_NARROW_PSF, _SMALL_IMAGE = 2.4, 1024


class Found(NamedTuple):
    """A line, what was measured on it, and the segment that is masked."""

    fit: Fit
    profile: Profile
    masked: Line


def threshold(shape: tuple[int, int], false_alarm: float) -> float:
    """
    Significance that noise reaches in so many images of a shape, per sign.

    Examples
    --------
    >>> round(threshold((512, 512), 1e-3), 2)
    6.43
    """
    return -NormalDist().inv_cdf(false_alarm / (_TRIALS * shape[0] * shape[1]))


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
            threshold=min(_SEEN, needed - _MARGIN),
            signs=config.signs,
        ):
            if any(_same(candidate, other, _SAME * bin) for other in looked):
                continue
            if len(looked) == _LOOKS or len(found) == config.max_lines:
                break
            looked.append(candidate)
            fit = refine_line(images, candidate, psf_sigma=psf_sigma, factor=factor)
            if fit is None or not _is_line(fit, needed, config, flagged):
                continue
            profile = line_profile(
                *planes, images, fit, psf_sigma=psf_sigma, mask_level=config.mask_level, clip=config.clip
            )
            masked = extended(fit.line, coverage, fit.width)
            line = Found(fit, profile, masked)
            _remove(images, line, config.mesh)
            removed = True
            if not is_bordered(fit.line, coverage, profile.half_width):
                found.append(line)
        if not removed:
            break
    return found


def _is_line(fit: Fit, needed: float, config: StreakConfig, flagged: Array | None) -> bool:
    if not is_accepted(fit, threshold=needed, spread=config.spread, min_length=config.min_length):
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
