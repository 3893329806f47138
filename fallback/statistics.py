"""
Statistics of the samples of one pixel over the epochs.

Arrays are (epoch, pixel) pieces small enough to stay in the processor's cache; every sum runs
over the epochs in order, one row at a time, so that a result does not depend on how the
pixels were cut into pieces. Written for any array module.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from gpucoadd.backend import array_module, quiet

from .network import exchanges

IQR_TO_SIGMA = 0.741301109252802  # of a Gaussian; the figure LSST clips with


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


def stack_statistics(image: Any, variance: Any, mask: Any, weights: Any, rules: Rules) -> tuple[Any, Any, Any]:
    """
    One statistic of every pixel, its variance and mask.

    Parameters
    ----------
    image, variance : array, shape (epoch, pixel), float32
    mask : array, shape (epoch, pixel), int32
    weights : tuple of float, one per epoch
    rules : Rules

    Returns
    -------
    image, variance : array, shape (pixel,), float32
    mask : array, shape (pixel,), int32
    """
    xp = array_module(image)
    with quiet(xp):
        rejected = (mask & rules.reject) != 0
        good = xp.isfinite(image)
        good &= ~rejected
        samples = _Samples(xp, image, variance, good, weights)
        value, value_variance, n_clipped = _STATISTICS[rules.statistic](samples, rules)
        out_mask = _combine_masks(samples, mask, rejected, rules, n_clipped)
        if rules.statistic not in _COUNTS and not samples.all_good:
            empty = samples.count == 0
            value = xp.where(empty, xp.nan, value)
            if rules.statistic not in ("MIN", "MAX"):
                value_variance = xp.where(empty, xp.nan, value_variance)
        return value.astype(xp.float32), value_variance.astype(xp.float32), out_mask


class _Samples:
    """The samples of a piece, with what several statistics share computed when first asked for."""

    def __init__(self, xp: Any, image: Any, variance: Any, good: Any, weights: Any) -> None:
        self.xp, self.variance, self.good, self.weights = xp, variance, good, weights
        self.n_epochs = image.shape[0]
        self.all_good = bool(good.all())
        self.image = image if self.all_good else xp.where(good, image, xp.float32(0))
        self._sorted: tuple[Any, list[int]] | None = None

    @cached_property
    def count(self) -> Any:
        """Good samples per pixel, int32."""
        return self.good.sum(axis=0, dtype=self.xp.int32)

    def sorted_rows(self) -> list[Any]:
        """Rows in ascending order per pixel, float32; bad samples are +inf and come last."""
        if self._sorted is None:
            xp = self.xp
            buffer = xp.empty((self.n_epochs + 1, self.image.shape[1]), dtype=xp.float32)
            if self.all_good:
                buffer[:-1] = self.image
            else:
                buffer[:-1] = xp.where(self.good, self.image, xp.float32(xp.inf))
            place = list(range(self.n_epochs + 1))  # where in the buffer rank i lies; the last is spare
            rows = [buffer[i] for i in place]
            for i, j in exchanges(self.n_epochs):
                spare = rows[-1]
                xp.minimum(rows[i], rows[j], out=spare)
                xp.maximum(rows[i], rows[j], out=rows[j])
                rows[i], rows[-1] = spare, rows[i]
                place[i], place[-1] = place[-1], place[i]
            self._sorted = rows[:-1], place[:-1]
            self._buffer = buffer
        return self._sorted[0]

    def ranked(self, rank: Any) -> Any:
        """Sorted sample number `rank` (int array, per pixel; must be in range), float32."""
        xp = self.xp
        self.sorted_rows()
        assert self._sorted is not None
        n_pixels = self.image.shape[1]
        start = xp.asarray(self._sorted[1], dtype=xp.int64) * n_pixels
        return self._buffer.ravel().take(start.take(rank) + xp.arange(n_pixels))

    def quantile(self, fraction: float) -> Any:
        """Linear quantile of the good samples, float64; anything where there are none."""
        xp = self.xp
        if self.all_good:
            rows = self.sorted_rows()
            position = fraction * (self.n_epochs - 1)
            below = int(position)
            low = rows[below].astype(xp.float64)
            if position == below:
                return low
            return low + (rows[below + 1].astype(xp.float64) - low) * (position - below)
        position = fraction * xp.maximum(self.count - 1, 0)
        below = position.astype(xp.int64)
        low = self.ranked(below).astype(xp.float64)
        part = position - below
        high = self.ranked(xp.minimum(below + (part > 0), self.n_epochs - 1)).astype(xp.float64)
        return low + xp.where(part > 0, high - low, 0.0) * part

    def extremes(self) -> tuple[Any, Any]:
        """Smallest and largest good sample, float64."""
        xp = self.xp
        rows = self.sorted_rows()
        if self.all_good:
            return rows[0].astype(xp.float64), rows[-1].astype(xp.float64)
        largest = self.ranked(xp.maximum(self.count - 1, 0))
        return rows[0].astype(xp.float64), largest.astype(xp.float64)

    def moments(self, shift: Any, rules: Rules, *, scatter: bool) -> Moments:
        """Moments of all good samples; `shift` is near their mean, and only rounding depends on it."""
        kept = None if self.all_good else list(self.good)
        return _moments(self.xp, list(self.image), list(self.variance), self.weights, kept, shift, rules, scatter)

    def first_good(self) -> Any:
        """A shift for statistics that sort nothing: the plain mean, float64."""
        xp = self.xp
        total = xp.zeros(self.image.shape[1], dtype=xp.float64)
        for row in self.image:
            total += row
        return total / xp.maximum(self.count, 1)


def _moments(
    xp: Any, image: Any, variance: Any, weights: Any, kept: Any, shift: Any, rules: Rules, scatter: bool
) -> Moments:
    """Weighted moments over `kept` (list of bool rows, None for all), epoch by epoch in order."""
    n_pixels = image[0].shape[0]
    with_error = rules.error_from_input
    zeros = lambda: xp.zeros(n_pixels, dtype=xp.float64)  # noqa: E731
    first, second, error = zeros(), zeros(), zeros()
    if kept is None:
        total: Any = 0.0
        squares: Any = 0.0
        count: Any = xp.full(n_pixels, len(image), dtype=xp.int32)
    else:
        total, squares, count = zeros(), zeros(), xp.zeros(n_pixels, dtype=xp.int32)
    deviation, term = xp.empty(n_pixels, dtype=xp.float64), xp.empty(n_pixels, dtype=xp.float64)
    for epoch, weight in enumerate(weights):
        xp.subtract(image[epoch], shift, out=deviation, dtype=xp.float64)
        if kept is None:
            weight_here: Any = weight
            square_here: Any = weight * weight
        else:
            weight_here = kept[epoch] * weight
            square_here = weight_here * weight
            count += kept[epoch]
        total += weight_here
        squares += square_here
        xp.multiply(deviation, weight_here, out=term)
        first += term
        if scatter:
            term *= deviation
            second += term
        if with_error:
            xp.multiply(variance[epoch], square_here, out=term, dtype=xp.float64)
            if kept is not None:  # a bad sample may have any variance, NaN too
                term = xp.where(kept[epoch], term, 0.0)
            error += term
    offset = first / total
    mean = offset + shift
    total_squared = total * total
    spread = None
    if scatter:
        spread = (second / total - offset * offset) * (total_squared / (total_squared - squares))
        if kept is None and len(image) == 1:
            spread = xp.full(n_pixels, xp.nan)
    mean_variance = error / total_squared if with_error else (spread * squares / total_squared if scatter else None)
    return Moments(mean, spread, mean_variance, count)


def _pick(xp: Any, where: Any, values: Moments, into: Moments) -> None:
    """Write `values`, one per index of `where`, into the moments of a whole piece."""
    for source, target in zip(values, into, strict=True):
        if target is not None:
            target[where] = source


def clipped_moments(samples: _Samples, rules: Rules, *, scatter: bool) -> tuple[Moments, Any]:
    """
    Moments after clipping (not cumulative: every round starts from all good samples), and the number clipped.

    Rounds look at the extremes first: a pixel whose smallest and largest sample stay keeps all, and its
    moments are those of all samples; only the others walk their samples again.
    """
    xp = samples.xp
    centre = samples.quantile(0.5)
    iqr = samples.quantile(0.75) - samples.quantile(0.25)
    smallest, largest = samples.extremes()
    need_scatter = scatter or not rules.error_from_input or rules.clip_iterations > 1
    full = samples.moments(centre, rules, scatter=need_scatter)
    several = samples.count > 1
    first_width = rules.sigma_clip * IQR_TO_SIGMA * iqr
    half_width = first_width
    shift, current = centre, full
    for iteration in range(rules.clip_iterations):
        if iteration > 0:
            centre = current.mean
            width = rules.sigma_clip * xp.sqrt(xp.maximum(current.scatter, 0.0))
            half_width = xp.where(several, width, first_width)
        keeps_all = (xp.abs(smallest - centre) <= half_width) & (xp.abs(largest - centre) <= half_width)
        current = Moments(*(None if part is None else part.copy() for part in full))
        where = xp.flatnonzero(~keeps_all)
        if where.shape[0] == 0:
            continue
        image = samples.image.take(where, axis=1)
        good = samples.good.take(where, axis=1)
        kept = [
            row & (xp.abs(values - centre[where]) <= half_width[where]) for values, row in zip(image, good, strict=True)
        ]
        part = _moments(
            xp, image, samples.variance.take(where, axis=1), samples.weights, kept, shift[where], rules, need_scatter
        )
        _pick(xp, where, part, current)
    return current, samples.count - current.count


def _mean(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    if rules.online_mean and rules.error_from_input:
        return _online_mean(samples)
    shift = samples.first_good() if not rules.error_from_input else 0.0
    moments = samples.moments(shift, rules, scatter=not rules.error_from_input)
    return moments.mean, moments.mean_variance, None


def _online_mean(samples: _Samples) -> tuple[Any, Any, Any]:
    """Running sums as LSST's accumulator keeps them: each product rounded to float32, the sums in float64."""
    xp = samples.xp
    n_pixels = samples.image.shape[1]
    total, first, error = (xp.zeros(n_pixels, dtype=xp.float64) for _ in range(3))
    for epoch, weight in enumerate(samples.weights):
        good = samples.good[epoch]
        total += good * weight
        first += samples.image[epoch] * xp.float32(weight)
        error += xp.where(good, samples.variance[epoch] * xp.float32(weight * weight), xp.float32(0))
    return first / total, error / (total * total), None


def _mean_clip(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    moments, n_clipped = clipped_moments(samples, rules, scatter=False)
    return moments.mean, moments.mean_variance, n_clipped


def _median(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    median = samples.quantile(0.5)
    moments = samples.moments(median, rules._replace(error_from_input=False), scatter=True)
    return median, (samples.xp.pi / 2) * moments.scatter / samples.count, None


def _all_moments(samples: _Samples, rules: Rules) -> Moments:
    return samples.moments(samples.first_good(), rules._replace(error_from_input=False), scatter=True)


def _variance_error(scatter: Any, count: Any) -> Any:
    """Variance of a sample variance of Gaussian values."""
    return 2.0 * (count - 1) * scatter * scatter / (count * 1.0 * count)


def _stdev_error(scatter: Any, count: Any) -> Any:
    """Variance of the square root: (0.5 sqrt(variance error) / sqrt(scatter))**2, without the 0/0 of equal samples."""
    return 0.5 * (count - 1) * scatter / (count * 1.0 * count)


def _variance(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    scatter = _all_moments(samples, rules).scatter
    return scatter, _variance_error(scatter, samples.count), None


def _stdev(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    scatter = _all_moments(samples, rules).scatter
    return samples.xp.sqrt(scatter), _stdev_error(scatter, samples.count), None


def _variance_clip(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    moments, n_clipped = clipped_moments(samples, rules, scatter=True)
    return moments.scatter, samples.xp.full_like(moments.scatter, samples.xp.nan), n_clipped


def _stdev_clip(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    moments, n_clipped = clipped_moments(samples, rules, scatter=True)
    error = _stdev_error(moments.scatter, moments.count)
    error = samples.xp.where(moments.scatter == 0, samples.xp.nan, error)  # as LSST's 0/0, for equal samples
    return samples.xp.sqrt(moments.scatter), error, n_clipped


def _mean_square(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    moments = _all_moments(samples, rules)
    count = samples.count
    value = (count - 1) / count * moments.scatter + moments.mean**2
    return value, 2.0 * (value / count) ** 2, None


def _sum(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    xp = samples.xp
    total = xp.zeros(samples.image.shape[1], dtype=xp.float64)
    for row, weight in zip(samples.image, samples.weights, strict=True):
        total += row.astype(xp.float64) * weight
    return total, xp.zeros_like(total), None


def _minimum(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    smallest, _ = samples.extremes()
    if rules.lsst_extremes:
        smallest = samples.xp.minimum(smallest, _sum(samples, rules)[0] / samples.count)
    return smallest, samples.xp.zeros_like(smallest), None


def _maximum(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    _, largest = samples.extremes()
    if rules.lsst_extremes:
        largest = samples.xp.maximum(largest, _sum(samples, rules)[0] / samples.count)
    return largest, samples.xp.zeros_like(largest), None


def _n_point(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    value = samples.count.astype(samples.xp.float64)
    return value, samples.xp.zeros_like(value), None


def _n_clipped(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    value = samples.xp.zeros(samples.image.shape[1], dtype=samples.xp.float64)  # no clipping was asked for
    return value, samples.xp.zeros_like(value), None


def _n_masked(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    value = (samples.n_epochs - samples.count).astype(samples.xp.float64)
    return value, samples.xp.zeros_like(value), None


def _iqrange(samples: _Samples, rules: Rules) -> tuple[Any, Any, Any]:
    value = samples.quantile(0.75) - samples.quantile(0.25)
    return value, samples.xp.full_like(value, samples.xp.nan), None


_STATISTICS = {
    "MEAN": _mean,
    "MEDIAN": _median,
    "MEANCLIP": _mean_clip,
    "VARIANCE": _variance,
    "VARIANCECLIP": _variance_clip,
    "STDEV": _stdev,
    "STDEVCLIP": _stdev_clip,
    "MEANSQUARE": _mean_square,
    "SUM": _sum,
    "MIN": _minimum,
    "MAX": _maximum,
    "NPOINT": _n_point,
    "NCLIPPED": _n_clipped,
    "NMASKED": _n_masked,
    "IQRANGE": _iqrange,
}
_COUNTS = ("SUM", "NPOINT", "NCLIPPED", "NMASKED")  # have a value without any good sample


def _combine_masks(samples: _Samples, mask: Any, rejected: Any, rules: Rules, n_clipped: Any) -> Any:
    """Mask of the coadd: what good samples carry, what rejected weight asks for, and what was lost."""
    xp, good = samples.xp, samples.good
    if samples.all_good:
        out = _any_bits(mask)
        missing = None
    else:
        out = _any_bits(xp.where(good, mask, 0))
        missing = samples.count < samples.n_epochs
        out |= _propagated(samples, mask, rules)
        empty = samples.count == 0
        out = xp.where(empty, out | rules.no_data if rules.online_mean else rules.no_data, out)
    if n_clipped is not None:
        out = xp.where(n_clipped > 0, out | rules.clipped, out)
    if missing is not None:
        lost = _any_bits(xp.where(rejected, mask & rules.reject, 0) if rules.online_mean else mask)
        for source, target in rules.mask_map:
            out = xp.where(missing & ((lost & source) != 0), out | target, out)
    return out.astype(xp.int32)


def _any_bits(mask: Any) -> Any:
    """OR over the epochs of (epoch, pixel) bits."""
    out = mask[0].copy()
    for row in mask[1:]:
        out |= row
    return out


def _propagated(samples: _Samples, mask: Any, rules: Rules) -> Any:
    """Bits whose share of the weight was rejected often enough."""
    xp = samples.xp
    out = xp.zeros(mask.shape[1], dtype=xp.int32)
    bad = ~samples.good
    for bit, threshold in rules.propagation:
        if rules.online_mean and not bit & rules.reject:
            continue
        lost = bad & ((mask & bit) != 0)
        if not bool(lost.any()):
            continue
        lost_weight = xp.zeros(mask.shape[1], dtype=xp.float64)
        good_weight = xp.zeros(mask.shape[1], dtype=xp.float64)
        for epoch, weight in enumerate(samples.weights):
            lost_weight += lost[epoch] * weight
            good_weight += samples.good[epoch] * weight
        out = xp.where(lost_weight / (good_weight + lost_weight) > threshold, out | bit, out)
    return out
