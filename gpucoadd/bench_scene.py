"""
Pixels to measure speed on: a stack of warps with its PSF-matched twins, and an image difference.

Why not those of `simulate`: 30 epochs of 4200 x 4200 should take seconds to make. All epochs here are cut out of one
plane of noise, each at another place, so that the samples of a pixel differ as if drawn anew; trails, cosmic rays,
borders and stars are about as frequent as on a real patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage, signal

from .backend import Array
from .images import MaskedImage, WarpStack
from .masks import MaskSchema
from .matching import SpatialKernel
from .workers import check_threads, in_order

SKY_SIGMA = (8.0, 12.0)  # noise of empty sky, from the best epoch to the worst
PHOTON = 0.3  # variance per flux
PSF_SIGMA, MATCHED_SIGMA = 2.0, 2.5  # pixels
TRAIL_HALF_WIDTH = 2.0
SCIENCE_VARIANCE, TEMPLATE_VARIANCE = 100.0, 400.0  # of the sky in the image difference
_STARS_PER_PIXEL, _COSMIC_RAYS_PER_PIXEL = 3e-4, 2.5e-5
_SATURATION = 4e4
_TRAIL_EVERY = 3  # epochs
_TRAIL_PEAK = 300.0
_THREADS = 8  # that make epochs; each holds half a gigabyte at 4200 x 4200 pixels
_KERNEL_SIDE, _KERNEL_WIDTHS = 21, (0.7, 1.5, 3.0)


class Trail(NamedTuple):
    """A straight trail: the pixels near ``x cos(angle) + y sin(angle) = offset``, measured from the middle."""

    epoch: int
    angle: float
    offset: float

    def distance(self, size: int) -> np.ndarray:
        """Distance of every pixel from the middle of the trail, (y, x) float32."""
        at = np.arange(size, dtype=np.float32) - np.float32(size / 2)
        x_part, y_part = at * np.float32(math.cos(self.angle)), at * np.float32(math.sin(self.angle))
        return np.abs(y_part[:, None] + (x_part - np.float32(self.offset)))


class Field(NamedTuple):
    """Warps with their twins, the sky without noise in the direct ones, and the planted trails."""

    warps: WarpStack
    sky: np.ndarray
    trails: tuple[Trail, ...]


def make_field(
    n_epochs: int, size: int, seed: int, *, xp: Any = np, empty: Callable[[tuple[int, ...], Any], Array] | None = None
) -> Field:
    """
    A patch with artifacts, quickly.

    Parameters
    ----------
    n_epochs, size : int
        Warps of size x size pixels.
    seed : int
        Same seed, same pixels.
    xp : module
        Where the warps are to live; one epoch at a time is made on the host.
    empty : callable, optional
        ``empty(shape, dtype)`` makes the arrays of the stacks; `xp.empty` when left out.

    Returns
    -------
    Field
    """
    rng = np.random.default_rng(seed)
    schema = MaskSchema.lsst()
    empty = xp.empty if empty is None else empty
    margin = 4 * n_epochs  # room to cut out each epoch elsewhere
    white = rng.standard_normal((size + margin, size + margin), dtype=np.float32)
    width = math.sqrt(MATCHED_SIGMA**2 - PSF_SIGMA**2)
    smooth = ndimage.gaussian_filter(white, width, mode="wrap")
    smooth /= smooth.std()
    share = 1 / (4 * math.pi * width**2)  # of the variance that noise keeps under that Gaussian
    stars = _stars(size, rng)
    dead = _dead_pixels(size, rng)
    kinds = [  # sky, noise, share of the variance, width of a point
        (ndimage.gaussian_filter(stars, PSF_SIGMA), white, 1.0, 0.0),
        (ndimage.gaussian_filter(stars, MATCHED_SIGMA), smooth, share, width),
    ]
    draws = [_draw(epoch, size, margin, rng) for epoch in range(n_epochs)]

    def planes_of(draw: _Draw) -> list[list[np.ndarray]]:
        return [_planes(draw, *kind, dead, schema) for kind in kinds]

    stacks = [[empty((n_epochs, size, size), dtype) for dtype in (np.float32, np.float32, np.int32)] for _ in kinds]
    for epoch, made in enumerate(in_order(planes_of, draws, threads=min(_THREADS, check_threads(None)))):
        for stack, planes in zip(stacks, made, strict=True):
            for target, plane in zip(stack, planes, strict=True):
                target[epoch] = plane if isinstance(target, np.ndarray) else xp.asarray(plane)
    twins = WarpStack(*stacks[1], schema=schema, psf_sigma=np.full(n_epochs, MATCHED_SIGMA))
    warps = WarpStack(*stacks[0], schema=schema, psf_sigma=np.full(n_epochs, PSF_SIGMA), psf_matched=twins)
    return Field(warps, kinds[0][0], tuple(draw.trail for draw in draws if draw.trail is not None))


class _Draw(NamedTuple):
    """What chance decides about an epoch."""

    level: float  # noise of the empty sky
    corner: tuple[int, int]  # where its noise is cut out
    rays: np.ndarray  # (2, n) pixels hit by cosmic rays
    border: list[int]  # widths without data: low y, high y, low x, high x
    trail: Trail | None


def _draw(epoch: int, size: int, margin: int, rng: np.random.Generator) -> _Draw:
    y, x = rng.permutation(margin)[:2].tolist()
    return _Draw(
        level=rng.uniform(*SKY_SIGMA),
        corner=(y, x),
        rays=rng.integers(0, size, (2, max(1, int(_COSMIC_RAYS_PER_PIXEL * size * size)))),
        border=rng.integers(0, size // 16 + 1, 4).tolist(),
        trail=None if epoch % _TRAIL_EVERY else Trail(epoch, rng.uniform(0, math.pi), rng.uniform(-0.3, 0.3) * size),
    )


def _planes(
    draw: _Draw, sky: np.ndarray, noise: np.ndarray, share: float, blur: float, dead: np.ndarray, schema: MaskSchema
) -> list[np.ndarray]:
    """Image, variance and mask of one epoch; `share` of the variance is left under the Gaussian of width `blur`."""
    size = len(sky)
    variance = (sky * np.float32(PHOTON) + np.float32(draw.level**2)) * np.float32(share)
    window = tuple(slice(first, first + size) for first in draw.corner)
    image = np.sqrt(variance)
    image *= noise[window]
    image += sky
    if draw.trail is not None:
        image += _profile(draw.trail.distance(size), math.hypot(TRAIL_HALF_WIDTH, blur))
    _add_points(image, draw.rays, 3000.0, blur)
    mask = _mask(sky, draw.border, dead, schema)
    gone = (mask & schema.bitmask("NO_DATA")) != 0
    image[gone] = variance[gone] = np.nan
    return [image, variance, mask]


def _stars(size: int, rng: np.random.Generator) -> np.ndarray:
    """Points with a power law of fluxes, before any PSF."""
    plane = np.zeros((size, size), np.float32)
    at = rng.integers(0, size, (2, int(_STARS_PER_PIXEL * size * size)))
    fluxes = np.minimum(300.0 * (1.0 + rng.pareto(1.0, at.shape[1])), 2e6)
    np.add.at(plane, tuple(at), fluxes.astype(np.float32))
    return plane


def _dead_pixels(size: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels without data in any epoch, for the interpolation to fill: a few columns, and single pixels."""
    dead = np.zeros((size, size), bool)
    dead[:, rng.integers(0, size, 1 + size // 500)] = True
    dead[tuple(rng.integers(0, size, (2, 1 + size * size // 5000)))] = True
    return dead


def _profile(distance: np.ndarray, width: float) -> np.ndarray:
    peak = _TRAIL_PEAK * TRAIL_HALF_WIDTH / width
    return np.float32(peak) * np.exp(np.float32(-0.5 / width**2) * distance * distance)


def _add_points(image: np.ndarray, at: np.ndarray, flux: float, width: float) -> None:
    """Add points of `flux`, as they are, or under a Gaussian of that width."""
    if width == 0:
        image[tuple(at)] += np.float32(flux)
        return
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            value = flux / (2 * math.pi * width**2) * math.exp(-0.5 * (dy * dy + dx * dx) / width**2)
            image[(at[0] + dy) % image.shape[0], (at[1] + dx) % image.shape[1]] += np.float32(value)


def _mask(sky: np.ndarray, border: list[int], dead: np.ndarray, schema: MaskSchema) -> np.ndarray:
    """NO_DATA beyond the borders and on dead pixels, EDGE along the borders, SAT in bright stars."""
    size = len(sky)
    mask = np.where(sky > _SATURATION, np.int32(schema.bitmask("SAT")), np.int32(0))
    edge, no_data = (np.int32(schema.bitmask(name)) for name in ("EDGE", "NO_DATA"))
    for bit, extra in ((edge, 4), (no_data, 0)):
        low_y, high_y, low_x, high_x = (width + extra for width in border)
        for part in (np.s_[:low_y], np.s_[size - high_y :], np.s_[:, :low_x], np.s_[:, size - high_x :]):
            mask[part] |= bit
    mask[dead] |= no_data
    return mask


class Difference(NamedTuple):
    """Two images, their difference, and the kernel that takes the second to the first."""

    science: MaskedImage
    template: MaskedImage
    difference: MaskedImage
    kernel: SpatialKernel

    @property
    def whole(self) -> tuple[Any, ...]:
        """The images, and the kernel in the middle of the field, which the difference was made with."""
        return *self[:3], self.kernel.at(*(n / 2 for n in self.difference.shape))


def make_difference(size: int, seed: int, *, xp: Any = np) -> Difference:
    """A field of stars in which nothing changed: ``difference = science - kernel * template``, float32, masks on it."""
    rng = np.random.default_rng(seed)
    schema = MaskSchema.lsst()
    edges = (-0.5, -0.5, size - 0.5, size - 0.5)
    coefficients = rng.uniform(-0.03, 0.03, (len(_KERNEL_WIDTHS), 6))
    coefficients[:, 0] = 0.2, 0.6, 0.2
    basis = np.stack([_gaussian(width) for width in _KERNEL_WIDTHS])
    kernel = SpatialKernel(basis, coefficients, kind="chebyshev1", range=edges)
    middle = kernel.at(size / 2, size / 2).astype(np.float32)
    truth = ndimage.gaussian_filter(_stars(size, rng), 1.5)
    seen = signal.fftconvolve(truth, middle, mode="same").clip(min=0)

    def observed(sky: np.ndarray, level: float) -> list[np.ndarray]:
        variance = (sky * np.float32(PHOTON) + np.float32(level)).astype(np.float32)
        noise = rng.standard_normal(sky.shape, dtype=np.float32)
        mask = np.where(sky > 5 * math.sqrt(level), np.int32(schema.bitmask("DETECTED")), np.int32(0))
        mask[tuple(rng.integers(0, size, (2, size * size // 200)))] |= schema.bitmask("CR")
        return [(sky + noise * np.sqrt(variance)).astype(np.float32), variance, mask]

    science, template = observed(seen, SCIENCE_VARIANCE), observed(truth, TEMPLATE_VARIANCE)
    image = science[0] - signal.fftconvolve(template[0], middle, mode="same")
    planes = (science, template, [image.astype(np.float32), *science[1:]])
    return Difference._make([*(MaskedImage(*map(xp.asarray, group), schema=schema) for group in planes), kernel])


def _gaussian(width: float) -> np.ndarray:
    offset = np.arange(_KERNEL_SIDE) - _KERNEL_SIDE // 2
    profile = np.exp(-0.5 * (offset / width) ** 2)
    return np.outer(profile, profile) / profile.sum() ** 2
