"""
Threshold detection: significant pixels, connected into footprints, grown, merged.

Footprints are kept as a sparse pair: the flat index of every pixel and the number of
its footprint. They are few, so that all later steps cost next to nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from . import primitives
from .backend import Array, array_module, quiet, to_host
from .configuration import Detection
from .fallback import Compared, Search
from .planes import Flags


class Footprints(NamedTuple):
    """
    Footprints of a group of epochs.

    `pixels` (n,) int flat (epoch, y, x) indices; `labels` (n,) int32 from 1 on, which footprint each belongs to;
    `n_footprints` their number. No footprint lies in two epochs.
    """

    pixels: Array
    labels: Array
    n_footprints: int

    def areas(self) -> Array:
        """Pixels of each footprint, shape (n_footprints + 1,); entry 0 is empty."""
        return primitives.count_by_label(self.labels, self.n_footprints)

    def total(self, flags: Array) -> Array:
        """Number of pixels of each footprint where `flags` (bool, one per pixel) is set, shape (n_footprints + 1,)."""
        return primitives.count_by_label(self.labels, self.n_footprints, flags)

    def select(self, keep: Array) -> Footprints:
        """Those whose entry in `keep`, bool of shape (n_footprints + 1,), is set; labels stay as they are."""
        xp = array_module(self.labels)
        where = xp.flatnonzero(keep.take(self.labels))
        return Footprints(self.pixels.take(where), self.labels.take(where), self.n_footprints)

    def paint(self, shape: tuple[int, int, int]) -> Flags:
        """Flags, of shape (epoch, y, x), of the pixels that lie in a footprint."""
        return primitives.paint(self.pixels, shape)


def label(flags: Flags) -> Footprints:
    """8-connected footprints of each epoch."""
    return Footprints(*primitives.label(flags))


def growth_radius(psf_sigma: float, config: Detection) -> int:
    """
    Whole pixels to grow by, ``int(grow_sigma * psf_sigma + 0.5)``.

    Raises
    ------
    ValueError
        If growth is asked for and `psf_sigma` is not finite and positive.
    """
    if config.grow_sigma > 0 and not (math.isfinite(psf_sigma) and psf_sigma > 0):
        raise ValueError(
            f"psf_sigma must be finite and positive to grow footprints, got {psf_sigma!r}; give the PSF width in pixels"
        )
    return int(config.grow_sigma * psf_sigma + 0.5) if config.grow_sigma > 0 else 0


def detect(
    image: Array,
    variance: Array,
    mask: Array,
    *,
    psf_sigma: Sequence[float],
    config: Detection,
    template: tuple[Array, Array] | None = None,
    scales: Sequence[float] | None = None,
    exclude: int = 0,
    reject: int = 0,
    edge: int = 0,
) -> tuple[Footprints, Compared]:
    """
    Footprints of the significant pixels of a group of epochs.

    Positive and negative pixels are connected apart, filtered by size, grown, and then merged: what
    touches is one footprint.

    Parameters
    ----------
    image, variance : array, shape (epoch, y, x), float32
    mask : array, shape (epoch, y, x), int32
    psf_sigma : sequence of float
        PSF width of each epoch in pixels, for the growth.
    config : Detection
    template : (array, array), optional
        Image and variance, (y, x) float32, that are subtracted and added; nothing when left out.
    scales : sequence of float, optional
        Factor for the variance of each epoch; NaN, or left out: none.
    exclude, reject, edge : int
        Bits whose pixels are searched as if their difference were 0, do not contribute, are the edge.

    Returns
    -------
    Footprints
    gpucoadd.fallback.Compared
        What else was seen when the pixels were compared.
    """
    scales = [math.nan] * image.shape[0] if scales is None else scales
    search = Search(
        limits=_limits(image, mask, template, config, exclude),
        in_sigmas=config.threshold_type == "pixel_stdev",
        peak=config.include_multiplier,
        exclude=exclude,
        reject=reject,
        edge=edge,
    )
    compared = primitives.compare(image, variance, mask, template, scales, search)
    sides = {"positive": (compared.positive, compared.positive_peaks)}
    sides["negative"] = compared.negative, compared.negative_peaks
    wanted = ("positive", "negative") if config.polarity == "both" else (config.polarity,)
    found = [_large_enough(*sides[side], config) for side in wanted]
    radii = [0 if config.return_original else growth_radius(sigma, config) for sigma in psf_sigma]
    return _grow_and_merge(found, image.shape, radii, config), compared


def _large_enough(flags: Flags, peaks: Flags | None, config: Detection) -> Footprints:
    """Footprints with enough pixels, and a peak if one is asked for."""
    footprints = label(flags)
    keep = footprints.areas() >= max(config.min_pixels, 1)
    if peaks is not None:
        keep &= footprints.total(primitives.take_flags(peaks, footprints.pixels)) > 0
    return footprints.select(keep)


def _limits(
    image: Array, mask: Array, template: tuple[Array, Array] | None, config: Detection, exclude: int
) -> tuple[float, ...]:
    """Threshold of each epoch, in standard deviations of its pixels or in units of the image."""
    if config.threshold_type in ("pixel_stdev", "value"):
        return (config.threshold,) * image.shape[0]
    xp = array_module(image)
    with quiet(xp):
        difference = image if template is None else image - template[0]
    if exclude:
        difference = xp.where((mask & exclude) != 0, xp.float32(0), difference)
    samples = difference.reshape(len(image), -1)
    variances = to_host(primitives.clipped_statistics(samples, **primitives.DEFAULT_CLIP))[:, 1].tolist()
    # "variance" is, in LSST too, a multiple of the standard deviation
    return tuple(config.threshold * math.sqrt(max(v, 0.0)) if not math.isnan(v) else math.inf for v in variances)


def _grow_and_merge(
    found: list[Footprints], shape: tuple[int, int, int], radii: list[int], config: Detection
) -> Footprints:
    """Grow each polarity and join what touches; a single polarity is joined only if `combined_grow`."""
    if len(found) == 1 and not any(radii):
        return _renumber(found[0])
    if config.polarity != "both" and not config.combined_grow:
        return _grow_each(found[0], shape, radii, config.isotropic_grow)
    grown = [primitives.grow(each.paint(shape), radii, disc=config.isotropic_grow) for each in found]
    return label(functools.reduce(Flags.union, grown))


def _renumber(footprints: Footprints) -> Footprints:
    """Labels 1, 2, ... without holes."""
    xp = array_module(footprints.labels)
    present = footprints.areas() > 0
    number = xp.cumsum(present.astype(xp.int32))
    return Footprints(footprints.pixels, number.take(footprints.labels).astype(xp.int32), int(present.sum()))


def _grow_each(footprints: Footprints, shape: tuple[int, int, int], radii: list[int], disc: bool) -> Footprints:
    """Grow every footprint by itself, inside the plane; they may then overlap, and stay apart."""
    xp = array_module(footprints.pixels)
    _, n_rows, n_columns = shape
    n_pixels = n_rows * n_columns
    radius = max(radii)
    reach = xp.asarray(np.array(radii)).take(footprints.pixels // n_pixels)
    y, x = footprints.pixels % n_pixels // n_columns, footprints.pixels % n_columns
    keys = []
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            within = dy * dy + dx * dx <= reach * reach if disc else abs(dy) + abs(dx) <= reach
            inside = (y + dy >= 0) & (y + dy < n_rows) & (x + dx >= 0) & (x + dx < n_columns)
            taken = xp.flatnonzero(within & inside)
            pixels = footprints.pixels.take(taken) + (dy * n_columns + dx)
            keys.append(footprints.labels.take(taken).astype(xp.int64) * (shape[0] * n_pixels) + pixels)
    unique = xp.unique(xp.concatenate(keys))
    labels = (unique // (shape[0] * n_pixels)).astype(xp.int32)
    return _renumber(Footprints(unique % (shape[0] * n_pixels), labels, footprints.n_footprints))


class NothingUndetectedError(ValueError):
    """Detection left no pixel undetected, so that no background can be measured."""


def detect_template(
    image: Array, variance: Array, *, psf_sigma: float, config: Detection, factor: float = 1.0
) -> list[Array]:
    """
    Label images of the bright sources of the template, detected on the smoothed template.

    Parameters
    ----------
    image, variance : array, shape (y, x), float32
    psf_sigma : float
        PSF width of the template in pixels; also the smoothing.
    config : Detection
    factor : float
        Multiplies the threshold.

    Returns
    -------
    list of array, shape (y, x), int32
        0 or the number of the footprint. One image; more only where footprints may overlap (`combined_grow`
        off): each footprint is whole in one of them. All 0 where the smoothing kernel does not fit into the image.

    Raises
    ------
    NothingUndetectedError
        If `config.reestimate_background` and the footprints cover everything.
    ValueError
        If `psf_sigma` is not finite and positive.
    """
    xp = array_module(image)
    if not (math.isfinite(psf_sigma) and psf_sigma > 0):
        raise ValueError(
            f"psf_sigma of the template must be finite and positive, got {psf_sigma!r}; give the PSF-matched warps' "
            "width in pixels"
        )
    kernel = smoothing_kernel(psf_sigma, config.kernel_sigmas)
    half = len(kernel) // 2
    nothing = xp.zeros(image.shape, dtype=xp.int32)
    if min(image.shape) <= 2 * half:
        return [nothing]
    smooth = primitives.smooth(image, kernel)
    smooth_variance = primitives.smooth(variance, kernel * kernel)
    inner = (slice(half, image.shape[0] - half), slice(half, image.shape[1] - half))
    value, spread = xp.full(image.shape, xp.nan, dtype=xp.float32), xp.full(image.shape, xp.nan, dtype=xp.float32)
    value[inner], spread[inner] = smooth[inner], smooth_variance[inner]
    scaled = config.threshold * factor
    footprints, _ = detect(
        value[None], spread[None], nothing[None], psf_sigma=[psf_sigma], config=replace(config, threshold=scaled)
    )
    if config.reestimate_background and bool(footprints.paint((1, *image.shape)).planes()[0][inner].all()):
        raise NothingUndetectedError("the template's footprints cover all of it")
    overlapping = config.polarity != "both" and not config.combined_grow
    return _label_images(footprints, image.shape, overlapping=overlapping)


def _label_images(footprints: Footprints, shape: tuple[int, int], *, overlapping: bool) -> list[Array]:
    """Each footprint in the first image where it overlaps no other."""
    xp = array_module(footprints.pixels)
    images = [xp.zeros(shape[0] * shape[1], dtype=xp.int32)]
    if not overlapping:
        images[0][footprints.pixels] = footprints.labels
    for number in range(1, footprints.n_footprints + 1) if overlapping else ():
        pixels = footprints.pixels[footprints.labels == number]
        free = (image for image in images if not bool(image.take(pixels).any()))
        image = next(free, None)
        if image is None:
            image = xp.zeros_like(images[0])
            images.append(image)
        image[pixels] = number
    return [image.reshape(shape) for image in images]


def smoothing_kernel(sigma: float, full_width: float) -> np.ndarray:
    """Normalised 1-d Gaussian, odd length ``(int(full_width * sigma + 0.5) // 2) * 2 + 1``."""
    half = int(full_width * sigma + 0.5) // 2
    offset = np.arange(-half, half + 1)
    kernel = np.exp(-(offset**2) / (2 * sigma**2))
    return kernel / kernel.sum()
