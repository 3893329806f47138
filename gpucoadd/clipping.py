"""Sigma clipping of one large sample, such as a variance plane or the cells of a background."""

from __future__ import annotations

import bisect
import math

import numpy as np

from .backend import Array, array_module, is_host, quiet

IQR_TO_SIGMA = 0.741301109252802  # of a Gaussian; the figure LSST clips with
_LARGE = 1 << 16  # samples; with more the search of the clip's ends in an ordered sample beats comparing all


def ordered_samples(plane: Array, good: Array) -> Array:
    """The values of `plane` where `good` (same shape, bool) is set, ascending, 1-d. They must be finite."""
    xp = array_module(plane)
    values = plane.copy().reshape(-1)
    bad = xp.flatnonzero(~good)
    values[bad] = xp.inf
    values.sort()
    return values[: values.shape[0] - bad.shape[0]]


def quantile(ordered: Array, fraction: float) -> float:
    """Linear quantile of an ascending 1-d array (NumPy's default method); waits for the device. NaN when empty."""
    n = ordered.shape[0]
    if n == 0:
        return math.nan
    position = fraction * (n - 1)
    below = int(position)
    low = float(ordered[below])
    return low if position == below else low + (float(ordered[below + 1]) - low) * (position - below)


def clipped_statistics(
    ordered: Array, *, sigma: float, iterations: int, with_variance: bool = True
) -> tuple[float, float, int]:
    """
    Mean, de-biased variance and number of the samples that stay after clipping.

    Parameters
    ----------
    ordered : array, shape (n,), float32
        All good samples, ascending, finite.
    sigma : float
        Half width of the clip in standard deviations.
    iterations : int
        Rounds; the first is about the median with the quartile width, the following about the
        clipped mean. Each starts again from all samples.
    with_variance : bool
        If False, the variance of the last round is not computed, and what is given for it means nothing.

    Returns
    -------
    (float, float, int)
        NaN, NaN, 0 when nothing stays. Waits for the device.

    Notes
    -----
    As LSST's `afw` statistics MEANCLIP and VARIANCECLIP without weights.
    """
    xp = array_module(ordered)
    n = ordered.shape[0]
    if n == 0:
        return math.nan, math.nan, 0
    centre = quantile(ordered, 0.5)
    first_width = sigma * IQR_TO_SIGMA * (quantile(ordered, 0.75) - quantile(ordered, 0.25))
    half_width = first_width
    mean = variance = math.nan
    for iteration in range(iterations):
        if math.isnan(centre) or math.isnan(half_width):
            return math.nan, math.nan, 0
        low, high = _span(ordered, centre, half_width)
        kept = ordered[low:high]
        count = high - low
        if count <= 0:
            return math.nan, math.nan, 0
        mean = float(kept.sum(dtype=xp.float64)) / count
        centre = mean
        if not with_variance and iteration == iterations - 1:
            break
        deviation = xp.subtract(kept, mean, dtype=xp.float64)
        variance = float((deviation * deviation).sum()) / (count - 1) if count > 1 else math.nan
        half_width = sigma * math.sqrt(max(variance, 0.0)) if n > 1 else first_width
    return mean, variance, count


def _span(ordered: Array, centre: float, half_width: float) -> tuple[int, int]:
    """First and end index of the samples with ``|sample - centre| <= half_width``, compared in float64."""
    xp = array_module(ordered)
    if is_host(xp):  # some twenty samples are looked at, where a device would wait for each
        low = bisect.bisect_left(ordered, -half_width, key=lambda sample: float(sample) - centre)
        return low, bisect.bisect_right(ordered, half_width, key=lambda sample: float(sample) - centre)
    deviation = xp.subtract(ordered, centre, dtype=xp.float64)
    low, high = (
        xp.searchsorted(deviation, xp.asarray(s * half_width), side) for s, side in ((-1, "left"), (1, "right"))
    )
    return int(low), int(high)


def clipped_means(samples: Array, good: Array, *, sigma: float, iterations: int) -> Array:
    """
    Clipped means of n samples, by the rules of `clipped_statistics`.

    Parameters
    ----------
    samples : array, shape (n, m), float32
    good : array, shape (n, m), bool
        Which of them count; these must be finite.
    sigma, iterations
        As in `clipped_statistics`.

    Returns
    -------
    array, shape (n,), float64
        NaN where nothing stays. Many small samples are worked on together; large ones singly, which waits for a device.
    """
    xp = array_module(samples)
    if samples.shape[1] > _LARGE:
        means = [
            clipped_statistics(ordered_samples(*one), sigma=sigma, iterations=iterations, with_variance=False)[0]
            for one in zip(samples, good)
        ]
        return xp.asarray(np.array(means))
    ordered = xp.sort(xp.where(good, samples, xp.inf), axis=1).astype(xp.float64)
    n = good.sum(axis=1)
    present = xp.arange(ordered.shape[1]) < n[:, None]
    ordered[~present] = xp.nan
    low, centre, high = (_quantiles(ordered, n, fraction) for fraction in (0.25, 0.5, 0.75))
    half_width = sigma * IQR_TO_SIGMA * (high - low)
    for iteration in range(iterations):
        deviation = ordered - centre[:, None]
        kept = xp.abs(deviation) <= half_width[:, None]  # never of a NaN
        count = kept.sum(axis=1)
        deviation[~kept] = 0
        with quiet(xp):
            shift = deviation.sum(axis=1) / count
            squares = (deviation * deviation).sum(axis=1) - count * shift * shift
            variance = squares / (count - 1)
        centre = centre + shift
        if iteration < iterations - 1:
            new = sigma * xp.sqrt(xp.maximum(variance, 0))
            half_width = xp.where(n > 1, xp.where(count > 1, new, xp.nan), half_width)
    return centre


def _quantiles(ordered: Array, n: Array, fraction: float) -> Array:
    """Linear quantiles of rows (n rows, m) of which the first `n` are there; NaN of an empty one."""
    xp = array_module(ordered)
    position = fraction * xp.maximum(n - 1, 0)
    below = position.astype(xp.int64)
    above = xp.minimum(below + 1, ordered.shape[1] - 1)
    rows = xp.arange(len(ordered))
    start, end = ordered[rows, below], ordered[rows, above]
    part = position - below
    return xp.where(part > 0, start + (end - start) * part, start)
