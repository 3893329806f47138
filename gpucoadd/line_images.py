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

MAD_TO_SIGMA = 1.4826
_LARGEST_WEIGHT = 2.0  # of a pixel, as the ratio of the median sigma to its own
_SAMPLES = 1 << 20  # enough for a median that is off by a thousandth of a sigma
_MESH_SHARE = 0.25  # of a mesh that must be good
_N_RINGS = 96
_RING_SAMPLES = 4096
_N_INNER = 32  # rings, of which the innermost have too few frequencies one by one
_RING_DOUBT = 5.0  # errors by which a ring may be off
_MEDIAN_ERROR = 1 / math.log(2)  # of one frequency's power, relative to the median of many
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
    scatter = MAD_TO_SIGMA * mad
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
    power : numpy.ndarray, shape (96,), float64
        Power of the noise in rings of equal frequency from 0 to half a cycle per pixel; 1 is white.
    """

    power: np.ndarray

    def __call__(self, width: float) -> float:
        """The factor for a profile of sigma `width`; NaN where there is no noise."""
        frequency = 0.5 * (np.arange(_N_RINGS) + 0.5) / _N_RINGS
        filtered = np.exp(-((2 * math.pi * width * frequency) ** 2))
        return float(np.sqrt(np.sum(self.power * filtered) / np.sum(filtered)))


def noise_factor(images: LineImages) -> NoiseFactor:
    """
    Noise factor from the power spectrum of the image itself.

    Medians over rings: a trail is a line through the origin of the spectrum, and no ring has much of it.

    Parameters
    ----------
    images : LineImages

    Returns
    -------
    NoiseFactor
        NaN where no pixel is good.

    Notes
    -----
    Waits for the device once. Images above 1024 pixels are measured on four parts; on the one with the most data, where
    less than a tenth of each of the four is good.
    """
    size = tuple(min(n, _TILE) for n in images.signal.shape)
    factor = _measured(images, _parts(images.signal.shape, size))
    if np.isnan(factor.power).all() and size != images.signal.shape:
        factor = _measured(images, [_fullest(images.weight, size)])
    return factor


def _measured(images: LineImages, parts: list[tuple[slice, slice]]) -> NoiseFactor:
    """The noise factor from some parts, all of one size, with data enough in them."""
    xp = array_module(images.signal)
    shape = tuple(side.stop - side.start for side in parts[0])
    index = xp.asarray(_ring_pixels(shape))
    samples = [_ring_power(images, part).take(index) for part in parts]
    medians, _ = primitives.quantiles(xp.concatenate(samples, axis=1), (0.5,))
    power = to_host(medians).ravel() / math.log(2)
    n_modes = len(samples) * np.count_nonzero(_ring_pixels(shape) < shape[0] * (shape[1] // 2 + 1), axis=1)
    return NoiseFactor(_smooth_inside(power, n_modes))


def _fullest(weight: Array, size: tuple[int, ...]) -> tuple[slice, slice]:
    """The rows, and the columns, that have the most data, `size` of them. Waits for the device."""
    counts = [to_host((weight > 0).sum(axis=axis)) for axis in (1, 0)]
    totals = [np.concatenate([[0], np.cumsum(count)]) for count in counts]
    rows, columns = (int(np.argmax(total[n:] - total[:-n])) for total, n in zip(totals, size))
    return slice(rows, rows + size[0]), slice(columns, columns + size[1])


def _smooth_inside(power: np.ndarray, n_modes: np.ndarray) -> np.ndarray:
    """
    Power in rings of `n_modes` frequencies, that of the innermost ones replaced by a Gaussian fitted to them.

    Ring by ring they would scatter by a third, and wide lines see nothing else. A ring far from the Gaussian stays
    where it is, and rings without a frequency, in small images, are interpolated.
    """
    rings = np.arange(_N_RINGS)
    known = np.isfinite(power) & (power > 0)
    if not known.any():
        return power
    inside = known & (rings < _N_INNER)
    smooth = power.copy()
    if inside.sum() > 2:
        error = _MEDIAN_ERROR / np.sqrt(n_modes[inside])
        square, measured = (rings[inside] + 0.5) ** 2, np.log(power[inside])
        fit = np.polyval(np.polyfit(square, measured, 1, w=1 / error), square)
        apart = measured - fit
        smooth[inside] = np.where(np.abs(apart) > _RING_DOUBT * error, power[inside], np.exp(fit))
    return np.interp(rings, rings[known], smooth[known])


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
    """Flat indices (ring, n) into the half plane of frequencies; the index behind its end where a ring has fewer."""
    y, x = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    twice = (y < 0) & ((x == 0) | (x == 0.5))  # conjugates of others in these columns
    frequency = np.where(twice, np.inf, np.hypot(y, x)).ravel()
    frequency[0] = np.inf
    order = np.argsort(frequency, kind="stable")
    ordered = frequency[order]
    edges = np.searchsorted(ordered, 0.5 * np.arange(_N_RINGS + 1) / _N_RINGS)
    rings = [order[low:high] for low, high in itertools.pairwise(edges.tolist())]
    rings = [ring[:: max(1, math.ceil(len(ring) / _RING_SAMPLES))] for ring in rings]
    pixels = np.full((_N_RINGS, max(map(len, rings))), frequency.size, np.int32)
    for row, ring in zip(pixels, rings):
        row[: len(ring)] = ring
    pixels.setflags(write=False)
    return pixels
