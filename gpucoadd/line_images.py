"""
What lines are searched in: a difference in units of its noise, clipped, with weights, and the noise's spectrum.

Sums over a set of pixels with profile ``p`` have the signal-to-noise ``sum(signal p) / sqrt(sum(weight p**2))``, for a
trail of constant flux under noise that varies, gaps included. In correlated noise they are larger by a noise factor.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import primitives
from .backend import Array, array_module, fft, quiet, to_host

_MAD_TO_SIGMA = 1.4826
_LARGEST_WEIGHT = 2.0  # of a pixel, as the ratio of the median sigma to its own
_SAMPLES = 1 << 20  # enough for a median that is off by a thousandth of a sigma
_MESH_SHARE = 0.25  # of a mesh that must be good
_N_RINGS = 96  # at most, and no more than keep rings wide enough for some frequencies each
_RING_WIDTH = 8 / 3  # of the lowest frequency of the shorter side, at least
_RING_SAMPLES, _LEAST_SAMPLES = 4096, 60
_TILE = 1024  # pixels along an axis that the noise is measured on


class LineImages(NamedTuple):
    """
    The two images that lines are searched in.

    Attributes
    ----------
    signal, weight : array, shape (y, x), float32
        Clipped significance times ``r``, and ``r**2``, where ``r`` is the median sigma over the pixel's own; 0 where
        there is nothing.
    unit : float
        One unit of ``signal / weight`` in units of the difference: the scatter of a typical pixel.
    scatter : float
        That of the significance before it was scaled to 1; NaN where no pixel is good.
    """

    signal: Array
    weight: Array
    unit: float
    scatter: float


def streak_images(difference: Array, variance: Array, bad: Array, *, clip: float = 3.0, mesh: int = 128) -> LineImages:
    """
    Clipped significance of a difference and its weight, without the smooth background.

    Parameters
    ----------
    difference, variance : array, shape (y, x), float32
        Pixels that are not finite, or whose variance is not positive, do not count.
    bad : array, shape (y, x), bool
        Nor do these.
    clip : float
        No pixel counts for more than so many sigmas.
    mesh : int
        Side of the background's meshes in pixels; 0, or an image with a side below two meshes: none is subtracted.

    Returns
    -------
    LineImages
        New arrays. All zeros where no pixel is good.

    Notes
    -----
    Waits for the device once, for the scatter.
    """
    xp = array_module(difference=difference, variance=variance, bad=bad)
    difference, variance = xp.ascontiguousarray(difference), xp.ascontiguousarray(variance)
    with quiet(xp):
        inverse = 1 / xp.sqrt(variance)  # NaN, or infinite, where the variance is not positive
        signal = difference * inverse
        good = xp.isfinite(signal) & xp.isfinite(inverse) & ~bad & (inverse > 0)
    nothing = xp.float32(0)
    signal, inverse = (xp.ascontiguousarray(xp.where(good, plane, nothing)) for plane in (signal, inverse))
    thin = slice(None, None, max(1, math.ceil(math.sqrt(difference.size / _SAMPLES))))
    samples = xp.stack([xp.where(good, plane, xp.float32(xp.nan))[thin, thin].ravel() for plane in (signal, inverse)])
    centres, n_good = primitives.quantiles(samples, (0.5,))
    deviations = xp.abs(samples[0] - centres[0].astype(xp.float32))
    spread, _ = primitives.quantiles(deviations[None], (0.5,))
    typical, mad, n = to_host(xp.concatenate([centres[1], spread[0], n_good[:1]])).tolist()
    del samples, deviations, good
    if not (n and mad > 0):
        return LineImages(xp.zeros_like(signal), xp.zeros_like(signal), math.nan, math.nan)
    scatter = _MAD_TO_SIGMA * mad
    signal *= xp.float32(1 / scatter)
    xp.clip(signal, -clip, clip, out=signal)
    inverse *= xp.float32(1 / typical)
    xp.minimum(inverse, xp.float32(_LARGEST_WEIGHT), out=inverse)
    signal *= inverse
    inverse *= inverse
    images = LineImages(signal, inverse, scatter / typical, scatter)
    subtract_background(images, mesh=mesh)
    return images


def subtract_background(images: LineImages, *, mesh: int) -> None:
    """
    Take the smooth background out of ``images.signal``, in place.

    Weighted means in meshes, the median over 3 x 3 of them, and bilinear interpolation between their centres. Meshes
    with less than a quarter of their weight have no value of their own.
    """
    signal, weight = images.signal, images.weight
    if mesh == 0 or min(signal.shape) < 2 * mesh:
        return
    xp = array_module(signal)
    sides = [_mesh_side(n, mesh) for n in signal.shape]
    total, weights = (_mesh_sums(plane, sides) for plane in (signal, weight))
    with quiet(xp):
        means = xp.where(weights >= _MESH_SHARE * sides[0] * sides[1], total / weights, xp.float32(xp.nan))
    level = _interpolate(_median_of_nine(means), 0, signal.shape[0], sides[0])
    level = _interpolate(level, 1, signal.shape[1], sides[1])
    level *= weight
    xp.subtract(signal, level, out=signal)


def _mesh_side(n: int, mesh: int) -> int:
    """Pixels of equal meshes, of about `mesh`, that cover n pixels."""
    return math.ceil(n / max(1, round(n / mesh)))


def _mesh_sums(plane: Array, sides: list[int]) -> Array:
    """Sums of (y, x) over meshes, added in one order whatever the backend: halves on halves."""
    for axis, side in enumerate(sides):
        plane = plane.swapaxes(0, axis)
        n_meshes = math.ceil(plane.shape[0] / side)
        parts = [_fold(plane[i * side : (i + 1) * side]) for i in range(n_meshes)]
        plane = array_module(plane).stack(parts).swapaxes(0, axis)
    return plane


def _fold(rows: Array) -> Array:
    while (n := rows.shape[0]) > 1:
        half = n // 2
        folded = rows[:half] + rows[half : 2 * half]
        if n % 2:
            folded[0] += rows[-1]
        rows = folded
    return rows[0]


def _median_of_nine(means: Array) -> Array:
    """Median of each mesh and its neighbours that have a value; 0 where none has."""
    xp = array_module(means)
    padded = xp.pad(means, 1, constant_values=xp.nan)
    n_y, n_x = means.shape
    around = xp.stack([padded[j : j + n_y, i : i + n_x].ravel() for j in range(3) for i in range(3)], axis=1)
    medians, _ = primitives.quantiles(xp.ascontiguousarray(around), (0.5,))
    return xp.nan_to_num(medians).astype(xp.float32).reshape(means.shape)


def _interpolate(nodes: Array, axis: int, n: int, side: int) -> Array:
    """Linear between the mesh centres along an axis, constant beyond the first and the last."""
    xp = array_module(nodes)
    place = np.clip((np.arange(n) + 0.5) / side - 0.5, 0, nodes.shape[axis] - 1)
    low = np.minimum(place.astype(np.int32), max(nodes.shape[axis] - 2, 0))
    high = np.minimum(low + 1, nodes.shape[axis] - 1)
    share = xp.asarray((place - low).astype(np.float32)).reshape((-1, 1) if axis == 0 else (1, -1))
    out = nodes.take(xp.asarray(low), axis=axis)
    step = nodes.take(xp.asarray(high), axis=axis)
    step -= out
    step *= share
    out += step
    return out


@dataclass(frozen=True, eq=False)
class NoiseFactor:
    """
    By how much correlated noise makes sums along a line scatter more than independent pixels would.

    ``factor(width)`` is for a Gaussian profile with this sigma, in pixels, across the line.

    Attributes
    ----------
    power : numpy.ndarray, shape (n,), float64
        Power of the noise in rings of equal frequency from 0 to half a cycle per pixel; 1 is white.
    """

    power: np.ndarray

    def __call__(self, width: float) -> float:
        """The factor for a profile of sigma `width`; NaN where there is no noise."""
        frequency = 0.5 * (np.arange(len(self.power)) + 0.5) / len(self.power)
        filtered = np.exp(-((2 * math.pi * width * frequency) ** 2))
        return float(np.sqrt(np.sum(self.power * filtered) / np.sum(filtered)))


def noise_factor(images: LineImages) -> NoiseFactor:
    """
    Noise factor from the power spectrum of the image itself.

    Medians over rings: a trail is a line through the origin of the spectrum, and no ring has much of it. The innermost
    have few frequencies; a ring that is joined with its neighbours counts instead where that has more power. Taking the
    larger is on the safe side where single rings are too low by chance, and where the power rises towards the centre,
    as clutter and backgrounds make it.

    Parameters
    ----------
    images : LineImages

    Returns
    -------
    NoiseFactor
        NaN where no pixel is good.

    Notes
    -----
    Waits for the device once. Images above 1024 pixels are measured on four parts.
    """
    xp = array_module(images.signal)
    shape = tuple(min(n, _TILE) for n in images.signal.shape)
    index = xp.asarray(_ring_pixels(shape))
    samples = [_ring_power(images, part).take(index) for part in _parts(images.signal.shape, shape)]
    medians, _ = primitives.quantiles(xp.concatenate(samples, axis=1), (0.5,))
    narrow, wide = to_host(medians).reshape(2, -1) / math.log(2)
    power = np.fmax(narrow, wide)
    return NoiseFactor(power)


def _parts(shape: tuple[int, ...], size: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """The quarters' middles of axes that are longer than `size`, and all of those that are not."""
    starts = [[0] if n == m else [(n - m) // 4, n - m - (n - m) // 4] for n, m in zip(shape, size)]
    return [(slice(y, y + size[0]), slice(x, x + size[1])) for y in starts[0] for x in starts[1]]


def _ring_power(images: LineImages, part: tuple[slice, slice]) -> Array:
    """Power of the significance over its number of good pixels, flat, with a NaN behind it; NaN if few are good."""
    xp = array_module(images.signal)
    weight = images.weight[part]
    good = weight > 0
    white = xp.where(good, images.signal[part] / xp.sqrt(xp.where(good, weight, xp.float32(1))), xp.float32(0))
    spectrum = fft(xp).rfft2(white)
    n_good = good.sum().astype(xp.float32)
    power = (spectrum.real**2 + spectrum.imag**2) / xp.where(n_good < 0.1 * good.size, xp.float32(xp.nan), n_good)
    return xp.concatenate([power.ravel(), xp.full(1, xp.nan, dtype=xp.float32)])


@functools.lru_cache(maxsize=8)
def _ring_pixels(shape: tuple[int, int]) -> np.ndarray:
    """
    Flat indices (2 ring, n) into the half plane of frequencies; the index behind its end where a ring has fewer.

    The second half of the rings have some of their neighbours' frequencies, too, if they have few of their own.
    """
    y, x = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    twice = (y < 0) & ((x == 0) | (x == 0.5))  # conjugates of others in these columns
    frequency = np.where(twice, np.inf, np.hypot(y, x)).ravel()
    frequency[0] = np.inf
    order = np.argsort(frequency, kind="stable")
    ordered = frequency[order]
    n_rings = max(1, min(_N_RINGS, round(0.5 * min(shape) / _RING_WIDTH)))
    edges = np.searchsorted(ordered, 0.5 * np.arange(n_rings + 1) / n_rings)
    narrow, wide = [], []
    for low, high in itertools.pairwise(edges.tolist()):
        narrow.append(order[low:high])
        low = max(0, low - max(0, _LEAST_SAMPLES - (high - low)) // 2)
        wide.append(order[low : max(high, min(low + _LEAST_SAMPLES, edges[-1]))])
    rings = [ring[:: max(1, math.ceil(len(ring) / _RING_SAMPLES))] for ring in narrow + wide]
    pixels = np.full((len(rings), max(map(len, rings))), frequency.size, np.int32)
    for row, ring in zip(pixels, rings):
        row[: len(ring)] = ring
    pixels.setflags(write=False)
    return pixels
