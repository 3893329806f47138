"""
The samples of one pixel over the epochs: their order, quantiles, sums, moments and clipping.

Arrays are (epoch, pixel) pieces small enough to stay in the processor's cache; every sum runs
over the epochs in order, one row at a time, so that a result does not depend on how the
pixels were cut into pieces.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from .clipping import IQR_TO_SIGMA
from .network import exchanges


class Rules(NamedTuple):
    """What `stack_statistics` needs to know beside the samples; bits instead of names."""

    statistic: str
    reject: int
    sigma_clip: float
    clip_iterations: int
    error_from_input: bool
    propagation: tuple[tuple[int, float], ...]  # bit, threshold
    mask_map: tuple[tuple[int, int], ...]  # bits of any sample, bits to set
    no_data: int
    clipped: int
    lsst_extremes: bool = False
    online_mean: bool = False


class Moments(NamedTuple):
    """Weighted moments over kept samples, float64 per pixel."""

    mean: Any
    scatter: Any  # de-biased weighted variance
    mean_variance: Any
    count: Any


class Samples:
    """The samples of a piece, with what several statistics share computed when first asked for."""

    def __init__(self, image: Any, variance: Any, good: Any, weights: Any) -> None:
        self.image, self.variance, self.good, self.weights = image, variance, good, weights
        self.n_epochs, self.n_pixels = image.shape
        self.bad = np.flatnonzero(~good)
        self.all_good = self.bad.shape[0] == 0
        self._rank_row: list[int] = []

    @cached_property
    def count(self) -> Any:
        """Good samples per pixel, int32."""
        return self.good.sum(axis=0, dtype=np.int32)

    def filled(self, plane: Any, level: Any) -> Any:
        """`plane` (epoch, pixel) with `level` (a number, or one per pixel) in place of bad samples."""
        return _filled(plane, self.bad, level)

    @cached_property
    def _ordered(self) -> Any:
        """
        (epoch + 1, pixel) float32 buffer whose row `_rank_row[k]` holds the sample of rank k.

        Bad samples are +inf and come last. Rows are exchanged by handle; one row is spare.
        """
        buffer = np.empty((self.n_epochs + 1, self.n_pixels), dtype=np.float32)
        buffer[:-1] = self.image
        buffer.reshape(-1)[self.bad] = np.inf
        place = list(range(self.n_epochs + 1))
        rows = list(buffer)
        for i, j in exchanges(self.n_epochs):
            spare = rows[-1]
            np.minimum(rows[i], rows[j], out=spare)
            np.maximum(rows[i], rows[j], out=rows[j])
            rows[i], rows[-1] = spare, rows[i]
            place[i], place[-1] = place[-1], place[i]
        self._rank_row = place[:-1]
        return buffer

    @cached_property
    def _incomplete(self) -> tuple[Any, Any]:
        """Pixels that lack a sample, and how many they have (at least 1 is said, for their ranks)."""
        where = np.flatnonzero(self.count < self.n_epochs)
        return where, np.maximum(self.count.take(where), 1)

    def _row(self, rank: int) -> Any:
        """Samples of rank `rank`, float64."""
        buffer = self._ordered
        return buffer[self._rank_row[rank]].astype(np.float64)

    def _at(self, where: Any, rank: Any) -> Any:
        """Samples of rank `rank`, one per pixel of `where`, float64."""
        flat = self._ordered.reshape(-1)
        start = np.asarray(self._rank_row, dtype=np.int64) * self.n_pixels
        return flat.take(start.take(rank) + where).astype(np.float64)

    def quantile(self, fraction: float) -> Any:
        """Linear quantile of the good samples, float64; anything where there are none."""
        position = fraction * (self.n_epochs - 1)
        below = int(position)
        out = self._row(below)
        if position != below:
            out += (self._row(below + 1) - out) * (position - below)
        if not self.all_good:
            where, count = self._incomplete
            position = fraction * (count - 1)
            below = position.astype(np.int64)
            low = self._at(where, below)
            out[where] = low + (self._at(where, np.minimum(below + 1, count - 1)) - low) * (position - below)
        return out

    def extremes(self) -> tuple[Any, Any]:
        """Smallest and largest good sample, float64."""
        largest = self._row(self.n_epochs - 1)
        if not self.all_good:
            where, count = self._incomplete
            largest[where] = self._at(where, count - 1)
        return self._row(0), largest

    def mean(self) -> Any:
        """Plain mean of the good samples, float32: a shift near which moments lose no digits."""
        total = np.zeros(self.n_pixels, dtype=np.float64)
        for row in self.filled(self.image, 0):
            total += row
        return (total / np.maximum(self.count, 1)).astype(np.float32)

    def moments(self, shift: Any, rules: Rules, *, scatter: bool) -> Moments:
        """Moments of all good samples about `shift` (float32, one per pixel); only rounding depends on it."""
        image = self.filled(self.image, shift)
        variance = self.filled(self.variance, 0) if rules.error_from_input else None
        total, squares = (np.full(self.n_pixels, constant) for constant in _constant_totals(self.weights))
        if not self.all_good:
            where, _ = self._incomplete
            total[where], squares[where] = totals(self.good.take(where, axis=1), self.weights)
        sums = _sums(image, variance, self.weights, shift, scatter)
        return _as_moments(sums, total, squares, self.count, shift)


def _filled(plane: Any, at: Any, level: Any) -> Any:
    """Copy of (epoch, pixel) `plane` with `level` (a number, or one per pixel) at flat indices `at`."""
    if at.shape[0] == 0:
        return plane
    out = plane.copy()
    out.reshape(-1)[at] = level[at % plane.shape[1]] if hasattr(level, "shape") else level
    return out


def _constant_totals(weights: Any) -> tuple[float, float]:
    """Sum of weights and of squared weights, epoch by epoch, as `totals` adds them where all are kept."""
    total = squares = 0.0
    for weight in weights:
        total += weight
        squares += weight * weight
    return total, squares


def totals(kept: Any, weights: Any) -> tuple[Any, Any]:
    """Sum of weights and of squared weights over `kept` (epoch, pixel) samples."""
    total, squares = np.zeros(kept.shape[1], dtype=np.float64), np.zeros(kept.shape[1], dtype=np.float64)
    term = np.empty(kept.shape[1], dtype=np.float64)
    for row, weight in zip(kept, weights, strict=True):
        np.multiply(row, weight, out=term)
        total += term
        term *= weight
        squares += term
    return total, squares


def _sums(image: Any, variance: Any, weights: Any, shift: Any, scatter: bool) -> tuple[Any, Any, Any]:
    """
    Sums over the epochs of w d, w d**2 and w**2 s, with d the deviation from `shift`.

    Samples that are not to count have the value `shift` and the variance 0.
    """
    n_pixels = image.shape[1]
    first = np.zeros(n_pixels, dtype=np.float64)
    second = np.zeros(n_pixels, dtype=np.float64) if scatter else None
    error = np.zeros(n_pixels, dtype=np.float64) if variance is not None else None
    deviation, term = np.empty(n_pixels, dtype=np.float64), np.empty(n_pixels, dtype=np.float64)
    shift = shift.astype(np.float64)
    for epoch, weight in enumerate(weights):
        deviation[...] = image[epoch]
        deviation -= shift
        np.multiply(deviation, weight, out=term)
        first += term
        if second is not None:
            term *= deviation
            second += term
        if error is not None:
            term[...] = variance[epoch]
            term *= weight * weight
            error += term
    return first, second, error


def _as_moments(sums: tuple[Any, Any, Any], total: Any, squares: Any, count: Any, shift: Any) -> Moments:
    first, second, error = sums
    offset = first / total
    total_squared = total * total
    spread = mean_variance = None
    if second is not None:
        spread = (second / total - offset * offset) * (total_squared / (total_squared - squares))
        spread[count == 1] = np.nan  # rounding would decide between NaN and inf
        mean_variance = spread * squares / total_squared
    if error is not None:
        mean_variance = error / total_squared
    return Moments(offset + shift, spread, mean_variance, count)


def clipped_moments(samples: Samples, rules: Rules, *, scatter: bool) -> tuple[Moments, Any]:
    """
    Moments after clipping (not cumulative: every round starts from all good samples), and the number clipped.

    Rounds look at the extremes first: a pixel whose smallest and largest sample stay keeps all, and its
    moments are those of all samples; only the others walk their samples again.
    """
    centre = samples.quantile(0.5)
    iqr = samples.quantile(0.75) - samples.quantile(0.25)
    smallest, largest = samples.extremes()
    shift = centre.astype(np.float32)
    need_scatter = scatter or not rules.error_from_input or rules.clip_iterations > 1
    full = samples.moments(shift, rules, scatter=need_scatter)
    several = samples.count > 1
    half_width = first_width = rules.sigma_clip * IQR_TO_SIGMA * iqr
    current = full
    for iteration in range(rules.clip_iterations):
        last = iteration == rules.clip_iterations - 1
        if iteration > 0:
            centre = current.mean
            width = rules.sigma_clip * np.sqrt(np.maximum(current.scatter, 0.0))
            half_width = np.where(several, width, first_width)
        keeps_all = (centre - smallest <= half_width) & (largest - centre <= half_width)
        current = Moments(*(None if part is None else part.copy() for part in full))
        where = np.flatnonzero(~keeps_all)
        if where.shape[0] == 0:
            continue
        # until the last round only the mean and the scatter are asked for, then only what the statistic gives
        with_error = last and rules.error_from_input
        part = _clipped_part(
            samples, where, centre[where], half_width[where], shift[where], scatter or not with_error, with_error
        )
        for target, values in zip(current, part, strict=True):
            if target is not None and values is not None:
                target[where] = values
    return current, samples.count - current.count


def _clipped_part(
    samples: Samples, where: Any, centre: Any, half_width: Any, shift: Any, with_scatter: bool, with_error: bool
) -> Moments:
    """Moments of the samples of pixels `where` that are within `half_width` of `centre`."""
    image = samples.image.take(where, axis=1)
    kept = np.ones(image.shape, dtype=bool) if samples.all_good else samples.good.take(where, axis=1)
    for row, values in zip(kept, image, strict=True):
        row &= np.abs(values - centre) <= half_width
    gone = np.flatnonzero(~kept)
    variance = _filled(samples.variance.take(where, axis=1), gone, 0) if with_error else None
    total, squares = totals(kept, samples.weights)
    sums = _sums(_filled(image, gone, shift), variance, samples.weights, shift, with_scatter)
    return _as_moments(sums, total, squares, kept.sum(axis=0, dtype=np.int32), shift)
