"""Sigma clipping of one large sample, such as a variance plane, or of many small ones, such as background cells."""

from __future__ import annotations

import bisect
import contextlib
import math
from typing import Any

import numpy as np

from gpucoadd.backend import quiet
from gpucoadd.workers import cut

IQR_TO_SIGMA = 0.741301109252802  # of a Gaussian; the figure LSST clips with
_INFINITE = np.float32(np.inf)
_PIECE = 1 << 17  # samples that are summed at once on the host: they stay in the cache, and threads get on
_LARGE = 1 << 16  # samples; of more than that, a clip can do without most of the order
_TIES = 0.03  # share of one value among the samples, above which their whole order is the quicker
_BODY = 0.6  # of the first half width; the bounds of later rounds are hardly ever closer to the centre
_TAIL = 16  # of the samples of a row lie in each tail that a round may clip


def good_samples(plane: Any, mask: Any, bits: int) -> tuple[Any, int]:
    """
    The finite values of `plane` whose pixel has none of `bits` in `mask`; +inf in place of the others.

    Gives a 1-d copy, and how many are good.
    """
    values, flags = plane.reshape(-1), mask.reshape(-1)
    samples = np.empty_like(values)
    n = 0
    for piece in cut(values.shape[0], _PIECE):
        good = (flags[piece] & bits) == 0
        good &= np.isfinite(values[piece])
        samples[piece] = np.where(good, values[piece], _INFINITE)
        n += int(np.count_nonzero(good))
    return samples, n


def quantile(ordered: Any, fraction: float) -> float:
    """Linear quantile of an ascending 1-d array (NumPy's default method). NaN when empty."""
    n = ordered.shape[0]
    if n == 0:
        return math.nan
    position = fraction * (n - 1)
    below = int(position)
    low = float(ordered[below])
    return low if position == below else low + (float(ordered[below + 1]) - low) * (position - below)


def clipped_statistics(ordered: Any, *, sigma: float, iterations: int) -> tuple[float, float, int]:
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

    Returns
    -------
    (float, float, int)
        NaN, NaN, 0 when nothing stays.

    Notes
    -----
    As LSST's `afw` statistics MEANCLIP and VARIANCECLIP without weights.
    """
    if ordered.shape[0] == 0:
        return math.nan, math.nan, 0
    centre, half_width = _first_bounds(ordered, sigma)
    moments = _Moments(ordered, centre)
    return _rounds(moments, centre, half_width, sigma=sigma, iterations=iterations)


def _first_bounds(ordered: Any, sigma: float) -> tuple[float, float]:
    """Centre and half width of the first round: median, and the quartile width as that of a Gaussian."""
    width = quantile(ordered, 0.75) - quantile(ordered, 0.25)
    return quantile(ordered, 0.5), sigma * IQR_TO_SIGMA * width


def _rounds(
    moments: _Moments,
    centre: float,
    half_width: float,
    *,
    sigma: float,
    iterations: int,
    unordered: tuple[float, float] | None = None,
) -> tuple[float, float, int]:
    """The rounds of the clip; `_Disordered` if a bound falls between the values `unordered`."""
    ordered = moments.ordered
    n, first_width = ordered.shape[0], half_width
    mean = variance = math.nan
    low = high = 0
    for _ in range(iterations):
        if math.isnan(centre) or math.isnan(half_width):
            return math.nan, math.nan, 0
        if unordered and (centre - half_width >= unordered[0] or centre + half_width <= unordered[1]):
            raise _Disordered
        low, high = _span(ordered, centre, half_width)
        if high <= low:
            return math.nan, math.nan, 0
        mean, variance = moments.of(low, high)
        centre = mean
        half_width = sigma * math.sqrt(max(variance, 0.0)) if n > 1 else first_width
    return mean, variance, high - low


class _Disordered(Exception):
    """A sample is not ordered where it would have to be."""


class _Moments:
    """
    Mean and variance of slices of an ordered sample.

    Slices of successive rounds differ at their ends only, so the sums of one are mended to those of the next.
    """

    def __init__(self, ordered: Any, origin: float) -> None:
        self.ordered, self._origin = ordered, origin
        self._low = self._high = 0
        self._sums = np.zeros(2)  # of the deviations from the origin, and of their squares

    def of(self, low: int, high: int) -> tuple[float, float]:
        """Mean and de-biased variance (NaN of a single one) of ``ordered[low:high]``, which is not empty."""
        changed = abs(low - self._low) + abs(high - self._high)
        if low >= self._high or high <= self._low or changed > (high - low) // 8:
            self._low = self._high = low
            self._sums = np.zeros(2)
        self._sums = (
            self._sums
            + self._signed(low, self._low)
            + self._signed(self._high, high)  # the other way round where the slice has shrunk
        )
        self._low, self._high = low, high
        n = high - low
        shift, squares = self._sums[0] / n, self._sums[1]
        return float(self._origin + shift), float((squares - n * shift * shift) / (n - 1)) if n > 1 else math.nan

    def _signed(self, start: int, stop: int) -> np.ndarray:
        """Sums over ``ordered[start:stop]``, or less those over ``ordered[stop:start]``."""
        if start > stop:
            return -self._signed(stop, start)
        sums = np.zeros(2)
        for first in range(start, stop, _PIECE):
            deviation = np.subtract(self.ordered[first : min(first + _PIECE, stop)], self._origin, dtype=np.float64)
            total = deviation.sum()
            sums += np.array([total, np.square(deviation, out=deviation).sum()])
        return sums


def _span(ordered: Any, centre: float, half_width: float) -> tuple[int, int]:
    """First and end index of the samples with ``|sample - centre| <= half_width``, compared in float64."""
    low = bisect.bisect_left(ordered, -half_width, key=lambda sample: float(sample) - centre)
    return low, bisect.bisect_right(ordered, half_width, key=lambda sample: float(sample) - centre)


def clipped_mean(samples: Any, n: int, *, sigma: float, iterations: int) -> float:
    """
    The mean of `clipped_statistics`, of samples in any order.

    Parameters
    ----------
    samples : array, shape (m,), float32
        The good samples, finite, among +inf. They are reordered.
    n : int
        How many are good.
    sigma, iterations
        As in `clipped_statistics`.

    Returns
    -------
    float
        NaN when nothing stays.
    """
    if n > _LARGE and not _has_ties(samples):
        centre, half_width, unordered = _order_tails(samples, n, sigma)
        if unordered is not None:
            moments = _Moments(samples[:n], centre)
            with contextlib.suppress(_Disordered):
                return _rounds(moments, centre, half_width, sigma=sigma, iterations=iterations, unordered=unordered)[0]
    samples.sort()
    return clipped_statistics(samples[:n], sigma=sigma, iterations=iterations)[0]


def _has_ties(samples: np.ndarray) -> bool:
    """Whether one value is so frequent that partitions take tens of times as long as otherwise, longer than a sort."""
    values, counts = np.unique(samples[:: len(samples) // 2000], return_counts=True)
    counts = counts[np.isfinite(values)]
    return counts.size == 0 or bool(counts.max() > _TIES * counts.sum())


def _order_tails(samples: np.ndarray, n: int, sigma: float) -> tuple[float, float, tuple[float, float] | None]:
    """
    Order a sample of n among +inf no more than a clip needs: median, quartiles, and the tails where its bounds fall.

    Gives the bounds of the first round, and between which values nothing is in order; None if the quartiles are one.
    """
    first, middle, third = (int(fraction * (n - 1)) for fraction in (0.25, 0.5, 0.75))
    _place(samples, middle)
    _place(samples[:middle], first)
    _place(samples[middle + 1 :], third - middle - 1)
    centre, half_width = _first_bounds(samples[:n], sigma)
    if half_width == 0:
        return centre, half_width, None
    reach = _BODY * half_width
    below, above = np.float32(centre - reach), np.float32(centre + reach)
    low, high = samples[: first + 1], samples[third + 1 :]
    n_low, n_high = np.count_nonzero(low < below), np.count_nonzero(high > above)
    if n_low < low.shape[0]:
        low.partition(n_low)
    if n_high < high.shape[0]:
        high.partition(high.shape[0] - n_high - 1)
    low[:n_low].sort()
    high[high.shape[0] - n_high :].sort()
    return centre, half_width, (float(below), float(above))


def _place(samples: np.ndarray, rank: int) -> None:
    """Reorder so that the elements of this rank and of the next are in place, with smaller ones before."""
    samples.partition(rank)
    rest = samples[rank + 1 :]
    if rest.shape[0]:
        least = int(rest.argmin())
        rest[0], rest[least] = rest[least], rest[0]


def clipped_means(samples: Any, good: Any, *, sigma: float, iterations: int) -> Any:
    """
    Clipped means of many small samples at once, by the rules of `clipped_statistics`.

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
        NaN where nothing stays.
    """
    n = good.sum(axis=1)
    complete = int(n.min()) == samples.shape[1]
    ordered = np.sort(samples if complete else np.where(good, samples, _INFINITE), axis=1)
    return clipped_rows(ordered, n, sigma=sigma, iterations=iterations)


def clipped_rows(ordered: Any, n: Any, *, sigma: float, iterations: int) -> Any:
    """
    As `clipped_means`, of rows that are ascending already: (rows, m) float32.

    The first `n` (rows,) samples of each count; +inf follows.
    """
    fewest, most = int(n.min()), int(n.max())
    first = most // _TAIL
    body = slice(first, max(first, fewest - fewest // _TAIL))
    with quiet(np):  # no sample, one sample: NaN
        try:
            return _rounds_of_rows(ordered, n, body, sigma=sigma, iterations=iterations)
        except _Disordered:
            return _rounds_of_rows(ordered, n, slice(0, 0), sigma=sigma, iterations=iterations)


def _rounds_of_rows(ordered: Any, n: Any, body: slice, *, sigma: float, iterations: int) -> Any:
    """
    The rounds of the clip of ordered rows, of which the first `n` samples count; +inf follows.

    The columns `body` are summed once, since no round drops a sample of them; `_Disordered` if one does.
    """
    low, origin, high = (_quantiles(ordered, n, fraction) for fraction in (0.25, 0.5, 0.75))
    centre, half_width = origin, sigma * IQR_TO_SIGMA * (high - low)
    ends = np.concatenate([ordered[:, : body.start], ordered[:, body.stop :]], axis=1).astype(np.float64)
    middle = np.subtract(ordered[:, body], origin[:, None], dtype=np.float64)
    body_sum, body_squares = middle.sum(axis=1), np.einsum("nm,nm->n", middle, middle)
    innermost = ordered[:, [body.start, body.stop - 1]].astype(np.float64) if body.stop > body.start else ends[:, :0]
    for iteration in range(iterations):
        if bool((np.abs(innermost - centre[:, None]) > half_width[:, None]).any()):
            raise _Disordered
        kept = np.abs(ends - centre[:, None]) <= half_width[:, None]
        deviation = np.where(kept, ends - origin[:, None], 0)
        count = kept.sum(axis=1) + (body.stop - body.start)
        shift = (deviation.sum(axis=1) + body_sum) / count
        centre = origin + shift
        squares = np.einsum("nm,nm->n", deviation, deviation) + body_squares - count * shift * shift
        if iteration < iterations - 1:
            width = np.where(count > 1, sigma * np.sqrt(np.maximum(squares / (count - 1), 0)), np.nan)
            half_width = np.where(n > 1, width, half_width)
    return centre


def _quantiles(ordered: Any, n: Any, fraction: float) -> Any:
    """Linear quantiles of rows (n rows, m) of which the first `n` are there, float64; NaN of an empty one."""
    position = fraction * np.maximum(n - 1, 0)
    below = position.astype(np.int64)
    above = np.minimum(below + 1, ordered.shape[1] - 1)
    rows = np.arange(len(ordered))
    start, end = (ordered[rows, column].astype(np.float64) for column in (below, above))
    part = position - below
    return np.where(n > 0, np.where(part > 0, start + (end - start) * part, start), np.nan)
