"""
Threshold detection: significant pixels, connected into footprints, grown, merged.

Footprints of one plane are kept as a sparse pair: the flat index of every pixel and the number of
its footprint. They are few, so that all later steps cost next to nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from . import primitives
from .backend import Array, array_module, ndimage, quiet
from .clipping import clipped_statistics, ordered_samples
from .configuration import Detection

_MARGIN = 1e-5  # relative; float32 rounding of T * sqrt(variance) is 100 times smaller


class Footprints(NamedTuple):
    """
    Footprints of one plane.

    `pixels` (n,) int flat indices; `labels` (n,) int32 from 1 on, which footprint each belongs to;
    `n_footprints` their number.
    """

    pixels: Array
    labels: Array
    n_footprints: int

    def areas(self) -> Array:
        """Pixels of each footprint, shape (n_footprints + 1,); entry 0 is empty."""
        return array_module(self.labels).bincount(self.labels, minlength=self.n_footprints + 1)

    def total(self, flags: Array) -> Array:
        """Number of pixels of each footprint where `flags` (bool, one per pixel) is set, shape (n_footprints + 1,)."""
        xp = array_module(self.labels)
        return xp.bincount(self.labels.take(xp.flatnonzero(flags)), minlength=self.n_footprints + 1)

    def select(self, keep: Array) -> Footprints:
        """Those whose entry in `keep`, bool of shape (n_footprints + 1,), is set; labels stay as they are."""
        xp = array_module(self.labels)
        where = xp.flatnonzero(keep.take(self.labels))
        return Footprints(self.pixels.take(where), self.labels.take(where), self.n_footprints)

    def paint(self, shape: tuple[int, int]) -> Array:
        """(y, x) bool plane of the pixels that lie in a footprint."""
        xp = array_module(self.pixels)
        plane = xp.zeros(shape[0] * shape[1], dtype=bool)
        plane[self.pixels] = True
        return plane.reshape(shape)


def label(detected: Array) -> Footprints:
    """8-connected footprints of a (y, x) bool plane."""
    return Footprints(*primitives.label(detected))


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
    image: Array, variance: Array, mask: Array, *, psf_sigma: float, config: Detection, exclude: int
) -> Footprints:
    """
    Footprints of the significant pixels of a difference.

    Positive and negative pixels are connected apart, filtered by size, grown, and then merged: what
    touches is one footprint.

    Parameters
    ----------
    image, variance : array, shape (y, x), float32
    mask : array, shape (y, x), int32
    psf_sigma : float
        PSF width in pixels, for the growth.
    config : Detection
    exclude : int
        Bits whose pixels are searched as if their value were 0.

    Returns
    -------
    Footprints
    """
    xp = array_module(image)
    if exclude:
        image = xp.where((mask & exclude) != 0, xp.float32(0), image)
    signs = {"positive": (1.0,), "negative": (-1.0,), "both": (1.0, -1.0)}[config.polarity]
    limits = _limits(image, config)
    where, values, spread = _candidates(image, variance, config, limits)
    found = []
    for sign in signs:
        signed = values if sign > 0 else -values
        hit = signed >= limits * spread
        if not bool(hit.any()):
            continue
        detected = xp.zeros(image.size, dtype=bool)
        detected[where[hit]] = True
        footprints = label(detected.reshape(image.shape))
        keep = footprints.areas() >= max(config.min_pixels, 1)
        if config.include_multiplier > 1.0:
            peak = signed[hit] >= limits * config.include_multiplier * spread[hit]
            keep &= footprints.total(peak) > 0
        found.append(footprints.select(keep))
    if not found:
        return Footprints(xp.zeros(0, dtype=xp.int32), xp.zeros(0, dtype=xp.int32), 0)
    radius = 0 if config.return_original else growth_radius(psf_sigma, config)
    return _grow_and_merge(found, image.shape, radius, config)


def _limits(image: Array, config: Detection) -> float:
    """Threshold in units of what `_candidates` calls the spread."""
    if config.threshold_type in ("pixel_stdev", "value"):
        return config.threshold
    xp = array_module(image)
    ordered = ordered_samples(image, xp.isfinite(image))
    variance = clipped_statistics(ordered, sigma=3.0, iterations=3)[1]
    # "variance" is, in LSST too, a multiple of the standard deviation
    return config.threshold * math.sqrt(max(variance, 0.0)) if not math.isnan(variance) else math.inf


def _candidates(image: Array, variance: Array, config: Detection, limit: float) -> tuple[Array, Array, Array]:
    """
    Flat indices, values and spreads (float64) of all pixels near or above the limit on either side.

    A float32 comparison with a margin leaves few pixels for the exact one in float64.
    """
    xp = array_module(image)
    with quiet(xp):
        if config.threshold_type == "pixel_stdev":
            near = xp.abs(image) >= xp.sqrt(variance) * np.float32(limit * (1 - _MARGIN))
            near &= variance < np.float32(np.inf)
        else:
            near = xp.abs(image) >= np.float32(limit * (1 - _MARGIN))
        where = xp.flatnonzero(near)
        values = image.ravel().take(where).astype(xp.float64)
        if config.threshold_type == "pixel_stdev":
            spread = xp.sqrt(variance.ravel().take(where).astype(xp.float64))
        else:
            spread = xp.ones(where.shape[0])
    return where, values, spread


def _grow_and_merge(found: list[Footprints], shape: tuple[int, int], radius: int, config: Detection) -> Footprints:
    """Grow each polarity and join what touches; a single polarity is joined only if `combined_grow`."""
    if len(found) == 1 and radius == 0:
        return _renumber(found[0])
    if config.polarity != "both" and not config.combined_grow:
        return _grow_each(found[0], shape, radius, config.isotropic_grow)
    union = None
    for footprints in found:
        grown = primitives.grow(footprints.paint(shape), radius, disc=config.isotropic_grow)
        union = grown if union is None else union | grown
    return label(union)


def _renumber(footprints: Footprints) -> Footprints:
    """Labels 1, 2, ... without holes."""
    xp = array_module(footprints.labels)
    present = footprints.areas() > 0
    number = xp.cumsum(present.astype(xp.int32))
    return Footprints(footprints.pixels, number.take(footprints.labels).astype(xp.int32), int(present.sum()))


def _grow_each(footprints: Footprints, shape: tuple[int, int], radius: int, disc: bool) -> Footprints:
    """Grow every footprint by itself, inside the plane; they may then overlap, and stay apart."""
    xp = array_module(footprints.pixels)
    offsets = [
        (dy, dx)
        for dy in range(-radius, radius + 1)
        for dx in range(-radius, radius + 1)
        if (dy * dy + dx * dx <= radius * radius if disc else abs(dy) + abs(dx) <= radius)
    ]
    y, x = footprints.pixels // shape[1], footprints.pixels % shape[1]
    keys = []
    for dy, dx in offsets:
        inside = xp.flatnonzero((y + dy >= 0) & (y + dy < shape[0]) & (x + dx >= 0) & (x + dx < shape[1]))
        pixels = (y.take(inside) + dy) * shape[1] + x.take(inside) + dx
        keys.append(footprints.labels.take(inside).astype(xp.int64) * (shape[0] * shape[1]) + pixels)
    unique = xp.unique(xp.concatenate(keys))
    labels = (unique // (shape[0] * shape[1])).astype(xp.int32)
    return _renumber(Footprints(unique % (shape[0] * shape[1]), labels, footprints.n_footprints))


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
    smooth = _smooth(image, kernel)
    smooth_variance = _smooth(variance, kernel * kernel)
    inner = (slice(half, image.shape[0] - half), slice(half, image.shape[1] - half))
    value, spread = xp.full(image.shape, xp.nan, dtype=xp.float32), xp.full(image.shape, xp.nan, dtype=xp.float32)
    value[inner], spread[inner] = smooth[inner], smooth_variance[inner]
    scaled = config.threshold * factor
    footprints = detect(
        value, spread, nothing, psf_sigma=psf_sigma, config=replace(config, threshold=scaled), exclude=0
    )
    if config.reestimate_background and bool(footprints.paint(image.shape)[inner].all()):
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


def _smooth(plane: Array, kernel: np.ndarray) -> Array:
    """Separable convolution with a symmetric kernel; NaN and inf spread over the kernel and no further."""
    xp = array_module(plane)
    weights: Any = xp.asarray(kernel)
    for axis in (0, 1):
        plane = ndimage(xp).correlate1d(plane, weights, axis=axis, mode="constant")
    return plane
