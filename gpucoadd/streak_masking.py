"""
Streaks among the artifacts of a coadd: lines are found in each difference, voted on by the other epochs, and masked.

Why epochs are looked at twice: what is a line and no trail (a bleed row, a bad column, a diffraction spike) comes back
in other epochs, and which lines to look for there is known after the first look only. Where none was found, there is no
second.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import primitives
from .backend import Array, array_module, quiet, to_host
from .configuration import CoaddConfig, LsstStreaks
from .detection import Footprints, label
from .images import MaskedImage
from .line_votes import LEAST_WEIGHT, Votes
from .masks import MaskSchema
from .planes import Flags
from .reading import Planes
from .streak_config import FLAGGED_PLANES
from .streaks import Streaks, find_streaks, line_votes, noise_factor, streak_images, streak_mask, with_votes

_IN_SOURCE = 0.5  # of a line, that may lie in one bright source of the template
_CROWDED = 0.25  # of the image
# Widths of a Moffat profile of exponent 2.5 and of a Gaussian that is as wide at half its height.
_MOFFAT_WIDTH = math.sqrt(2 * math.log(2) / (2**0.4 - 1))


class Difference(NamedTuple):
    """One epoch as lines are searched for in it: planes (y, x); `bad` and `flagged` are bool."""

    image: Array
    variance: Array
    bad: Array
    flagged: Array


def differences(
    planes: Planes, scales: Sequence[float], template: MaskedImage, schema: MaskSchema, config: CoaddConfig
) -> Iterator[Difference]:
    """A group of warps less the template; `scales` are factors of their variances, NaN for none."""
    xp = array_module(template.image)
    bad, flagged = (schema.known_bitmask(names) for names in (config.streak_bad_planes, FLAGGED_PLANES))
    for image, variance, mask, scale in zip(*planes, scales, strict=True):
        with quiet(xp):
            noise = variance * xp.float32(1.0 if math.isnan(scale) else scale) + template.variance
            difference = image - template.image
        yield Difference(difference, noise, (mask & bad) != 0, (mask & flagged) != 0)


def find_lines(epochs: Iterator[Difference], psf_sigma: Sequence[float], config: CoaddConfig) -> list[Streaks]:
    """The lines of each epoch, nobody asked yet whether they come back."""
    return [
        find_streaks(*each[:3], psf_sigma=sigma, config=config.streaks, flagged=each.flagged)
        for each, sigma in zip(epochs, psf_sigma, strict=True)
    ]


def cast_votes(
    epochs: Iterator[Difference], positions: Sequence[int], lines: Mapping[int, Streaks], config: CoaddConfig
) -> list[dict[int, Votes]]:
    """What each of some epochs, at `positions`, says about the `lines` of the others."""
    votes = []
    for position, each in zip(positions, epochs, strict=True):
        images = streak_images(*each[:3], clip=config.streaks.clip, mesh=config.streaks.mesh)
        factor = noise_factor(images)
        asked = {other: found for other, found in lines.items() if other != position and len(found)}
        votes.append({other: line_votes(found, images, factor) for other, found in asked.items()})
    return votes


def count_votes(
    lines: Mapping[int, Streaks], votes: Sequence[Mapping[int, Votes]], config: CoaddConfig
) -> dict[int, Streaks]:
    """
    The lines, persistent where they were seen in more epochs than an artifact may be.

    Where no artifact can be told, for there are two epochs or fewer, lines are suspect.
    """
    return {
        position: _counted(found, [v[position] for v in votes if position in v], config)
        for position, found in lines.items()
    }


def _counted(found: Streaks, votes: Sequence[Votes], config: CoaddConfig) -> Streaks:
    if not len(found):
        return found
    n_epochs = 1 + sum((each.weight >= LEAST_WEIGHT for each in votes), start=np.zeros(len(found)))
    allowed = np.array([config.persistence.limit(n) for n in n_epochs.tolist()])
    rule = dataclasses.replace(config.streaks, persistence=max(config.streaks.persistence, int(allowed.max())))
    return with_votes(found, votes, config=rule).marked(suspect=allowed < 1)


def outside_sources(found: Streaks, template_labels: Sequence[Array]) -> Streaks:
    """
    The lines less those that lie in one bright source of the template for more than half of their length.

    A footprint over more than a quarter of the image is no source but a crowded field, and says nothing.
    """
    keep = [
        not any(_share_in_one_source(labels, pixels) > _IN_SOURCE for labels in template_labels)
        for pixels in (found.pixels(number, half_width=0.5) for number in range(len(found)))
    ]
    return found.select(keep)


def _share_in_one_source(labels: Array, pixels: np.ndarray) -> float:
    """Largest share of some pixels that lies in one footprint of the size of a source."""
    xp = array_module(labels)
    under = to_host(labels.reshape(-1).take(xp.asarray(pixels)))
    number, count = np.unique(under[under > 0], return_counts=True)
    if not count.size or (share := count.max() / len(pixels)) <= _IN_SOURCE:
        return 0.0
    area = int((labels == int(number[count.argmax()])).sum())
    return float(share) if area <= _CROWDED * labels.size else 0.0


def streak_flags(
    lines: Sequence[Streaks],
    candidates: Footprints,
    no_data: Flags,
    template_labels: Sequence[Array],
    psf_sigma: Sequence[float],
    config: CoaddConfig,
) -> Flags:
    """
    Pixels of a group of epochs to be clipped for a trail: a bright line that is neither persistent nor suspect.

    Dark lines are none: what they lack is a trail that was left in the template, or a defect. By LSST's rules, pieces
    of a trail that lie wholly inside one bright source of the template are left out, as candidates are.
    """
    shape = no_data.shape
    xp = array_module(no_data.data)
    trails = [np.flatnonzero(found.is_trail) for found in lines]
    if not config.lsst_streaks.enabled:
        planes = [streak_mask(found, shape[1:], which=which, xp=xp) for found, which in zip(lines, trails, strict=True)]
        return Flags.of(xp.stack(planes) & ~no_data.planes())
    rules = config.lsst_streaks
    bands = xp.stack([_lsst_mask(found, which, rules, xp) for found, which in zip(lines, trails, strict=True)])
    pieces = label(Flags.of(bands & candidates.paint(shape).planes() if rules.only_detected else bands))
    outside = xp.ones(pieces.n_footprints + 1, dtype=bool)
    for labels in template_labels:
        under = labels.reshape(-1).take(pieces.pixels % labels.size)
        outside &= primitives.same_under(pieces.labels, pieces.n_footprints, under) == 0
    radii = [int(rules.grow_sigma * sigma) for sigma in psf_sigma]
    return primitives.grow(pieces.select(outside).paint(shape), radii)


def _lsst_mask(found: Streaks, which: np.ndarray, config: LsstStreaks, xp: Any) -> Array:
    """Bands across the image where a Moffat profile as high and wide as each line is not faint."""
    mask = xp.zeros(found.shape[0] * found.shape[1], dtype=bool)
    for number in which.tolist():
        width = _MOFFAT_WIDTH * found.width[number]
        half = config.mask_sigmas * width
        if config.footprint_threshold > 0:
            height = abs(found.amplitude[number]) * found.noise / config.footprint_threshold
            half = min(half, width * math.sqrt(max(height**0.4 - 1, 0)))
        if config.max_width > 0:
            half = min(half, config.max_width / 2)
        mask[xp.asarray(found.pixels(number, half_width=half, across=True))] = True
    return mask.reshape(found.shape)
