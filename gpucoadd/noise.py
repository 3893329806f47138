"""
How noisy an image is, and how white: variance and autocorrelation of its pixels.

In white noise one pixel tells nothing about the next: every lag of the autocorrelation is 0, give or take one over the
root of the number of pairs. Convolution, resampling and differencing correlate neighbours, which a variance plane, one
number per pixel, cannot tell.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from .backend import Array, array_module, is_host, to_host, using

_BAND_PIXELS = 1 << 18  # of one band of rows: 2 MiB of float64, which stay in the processor's cache over all lags
_DEVICE_BAND_PIXELS = 1 << 25  # a device has no use for small ones, and each costs dozens of launches


@dataclass(frozen=True, eq=False)
class NoiseStatistics:
    """
    Moments and autocorrelation of the pixels of an image of noise.

    Attributes
    ----------
    mean, variance : float
        Of the pixels used, in the image unit and its square; the variance is unbiased (n - 1), NaN for a single pixel.
    n_pixels : int
        Pixels used.
    correlation : numpy.ndarray, shape (max_lag + 1, 2 * max_lag + 1), float64
        Element [dy, max_lag + dx] belongs to pixels `dy` rows and `dx` columns apart: the mean of their products, mean
        subtracted, over the mean square of all pixels; so element [0, max_lag] is 1. NaN where there is no pair, and
        everywhere when all pixels are equal.
    n_pairs : numpy.ndarray, shape (max_lag + 1, 2 * max_lag + 1), int64
        Pairs behind each of them.
    """

    mean: float
    variance: float
    n_pixels: int
    correlation: np.ndarray
    n_pairs: np.ndarray

    @property
    def max_lag(self) -> int:
        """Largest lag along each axis."""
        return self.correlation.shape[0] - 1

    @property
    def error(self) -> np.ndarray:
        """Scatter of `correlation` if the noise were white, 1 / sqrt(n_pairs); inf where there is no pair."""
        with np.errstate(divide="ignore"):
            return 1 / np.sqrt(self.n_pairs)

    @property
    def lag1(self) -> float:
        """Correlation of direct neighbours: the mean of lag (0, 1) and lag (1, 0)."""
        return (self.lag(0, 1) + self.lag(1, 0)) / 2

    @property
    def lag1_error(self) -> float:
        """Scatter of `lag1` if the noise were white."""
        right, down = (self.error[self._place(dy, dx)] for dy, dx in ((0, 1), (1, 0)))
        return float(math.hypot(right, down) / 2)

    def lag(self, dy: int, dx: int) -> float:
        """
        Correlation of pixels `dy` rows and `dx` columns apart.

        Parameters
        ----------
        dy, dx : int
            Of either sign, at most `max_lag` in size. (-dy, -dx) gives the same as (dy, dx).

        Raises
        ------
        ValueError
            If a lag is larger than `max_lag`.
        """
        return float(self.correlation[self._place(dy, dx)])

    def _place(self, dy: int, dx: int) -> tuple[int, int]:
        """Indices of a lag."""
        if max(abs(dy), abs(dx)) > self.max_lag:
            raise ValueError(
                f"lag ({dy}, {dx}) was not measured; the largest is {self.max_lag}, noise_statistics(..., "
                f"max_lag={max(abs(dy), abs(dx))}) measures it"
            )
        return (dy, self.max_lag + dx) if dy >= 0 else (-dy, self.max_lag - dx)

    def __repr__(self) -> str:
        return f"NoiseStatistics(mean={self.mean:.6g}, variance={self.variance:.6g}, n_pixels={self.n_pixels}" + (
            f", lag1={self.lag1:.4f} +- {self.lag1_error:.4f})" if self.max_lag else ")"
        )


def noise_statistics(image: Array, mask: Array | None = None, *, max_lag: int = 3) -> NoiseStatistics:
    """
    Mean, variance and normalised autocorrelation of the good pixels of an image.

    Sources are correlated by nature: mask them, or give an image of noise alone. Each lag is the mean over all pairs
    with both pixels good. Rows are taken in bands, so little memory is needed beyond the image. Waits for the device.

    Parameters
    ----------
    image : array, shape (y, x), float or integer
        Not modified. Pixels that are not finite are left out.
    mask : array, shape (y, x), bool or integer, optional
        Pixels where it is not zero are left out.
    max_lag : int
        Largest lag along each axis, 0 to the shorter side less 1.

    Returns
    -------
    NoiseStatistics

    Raises
    ------
    TypeError
        If `image` and `mask` are no arrays, mixed (host and device), or of another dtype; if `max_lag` is no integer.
    ValueError
        If `image` is not 2-d, `mask` has another shape, `max_lag` is out of range, or no pixel is left.

    Examples
    --------
    >>> noise = np.random.default_rng(1).normal(size=(400, 500))
    >>> noise_statistics(noise)
    NoiseStatistics(mean=-0.00248339, variance=0.997567, n_pixels=200000, lag1=-0.0007 +- 0.0016)
    >>> smoothed = (noise[:, :-1] + noise[:, 1:]) / 2
    >>> found = noise_statistics(smoothed, smoothed > 3)
    >>> round(found.lag(0, 1), 2), abs(found.lag(1, 0)) < 0.01
    (0.5, True)
    """
    xp = _check(image, mask)
    reach = _check_max_lag(max_lag, image.shape)
    with using(image):
        n_pixels, mean = _mean(xp, image, mask)
        if n_pixels == 0:
            raise ValueError("no pixel is left: all are masked or not finite; noise needs a pixel that is neither")
        sums, n_pairs = _products(xp, image, mask, mean, reach)
    total = sums[0, reach]  # of the squares
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = (sums / n_pairs) / (total / n_pixels)
    variance = float(total / (n_pixels - 1)) if n_pixels > 1 else math.nan
    return NoiseStatistics(mean, variance, n_pixels, correlation, n_pairs)


def _check(image: Array, mask: Array | None) -> ModuleType:
    """Array module of the two, or raise."""
    xp = array_module(image=image) if mask is None else array_module(image=image, mask=mask)
    if image.ndim != 2 or 0 in image.shape:
        raise ValueError(f"image has shape {image.shape}; it must be (y, x) and not empty")
    if image.dtype.kind not in "fiu":
        raise TypeError(f"image must be float or integer, got {image.dtype}; convert it with image.astype('float64')")
    if mask is None:
        return xp
    if mask.shape != image.shape:
        raise ValueError(f"mask has shape {mask.shape} but image has {image.shape}; both are (y, x)")
    if mask.dtype.kind not in "biu":
        raise TypeError(f"mask must be bool or integer, got {mask.dtype}; mask != 0 makes it bool")
    return xp


def _check_max_lag(max_lag: Any, shape: tuple[int, int]) -> int:
    try:
        reach = operator.index(max_lag)
    except TypeError:
        raise TypeError(f"max_lag must be an integer, got {max_lag!r}") from None
    if not 0 <= reach < min(shape):
        raise ValueError(f"max_lag must be 0 to {min(shape) - 1} for an image of {shape}, got {max_lag}")
    return reach


def _bands(xp: ModuleType, shape: tuple[int, int]) -> Iterator[slice]:
    """Rows of the bands, top to bottom."""
    height = max((_BAND_PIXELS if is_host(xp) else _DEVICE_BAND_PIXELS) // shape[1], 1)
    return (slice(start, min(start + height, shape[0])) for start in range(0, shape[0], height))


def _good(xp: ModuleType, image: Array, mask: Array | None, rows: slice) -> Array:
    good = xp.isfinite(image[rows])
    return good if mask is None else good & (mask[rows] == 0)


def _mean(xp: ModuleType, image: Array, mask: Array | None) -> tuple[int, float]:
    """Number and mean of the good pixels; NaN when there is none."""
    total = xp.zeros(2, dtype=xp.float64)
    for rows in _bands(xp, image.shape):
        good = _good(xp, image, mask, rows)
        total[0] += xp.count_nonzero(good)
        total[1] += xp.where(good, image[rows], 0).sum(dtype=xp.float64)
    n_pixels, sum_ = to_host(total).tolist()
    return int(n_pixels), sum_ / n_pixels if n_pixels else math.nan


def _products(
    xp: ModuleType, image: Array, mask: Array | None, mean: float, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the products at every lag, and numbers of pairs, on the host."""
    n_rows, n_columns = image.shape
    sums = xp.zeros((reach + 1, 2 * reach + 1), dtype=xp.float64)
    n_pairs = xp.zeros(sums.shape, dtype=xp.int64)
    for rows in _bands(xp, image.shape):
        below = slice(rows.start, min(rows.stop + reach, n_rows))  # partners reach into the next band
        good = _good(xp, image, mask, below)
        values = xp.where(good, image[below].astype(xp.float64) - mean, 0.0)
        for dy in range(reach + 1):
            n = min(rows.stop, n_rows - dy) - rows.start  # rows that have a partner; none in the last band, perhaps
            for dx in range(-reach if dy else 0, reach + 1):
                first = slice(0, max(n, 0)), slice(max(-dx, 0), n_columns - max(dx, 0))
                second = slice(dy, dy + max(n, 0)), slice(max(dx, 0), n_columns - max(-dx, 0))
                sums[dy, reach + dx] += (values[first] * values[second]).sum()
                n_pairs[dy, reach + dx] += xp.count_nonzero(good[first] & good[second])
    for plane in (sums, n_pairs):
        plane[0, :reach] = plane[0, reach + 1 :][::-1]  # (0, -dx) pairs the same pixels as (0, dx)
    return to_host(sums), to_host(n_pairs)
