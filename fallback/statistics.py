"""
Statistics of the samples of one pixel over the epochs, with their variance and mask.

`samples` has what several of them share.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucoadd.backend import quiet

from .samples import Moments, Rules, Samples, clipped_moments, totals


def stack_statistics(image: Any, variance: Any, mask: Any, weights: Any, rules: Rules) -> tuple[Any, Any, Any]:
    """As `gpucoadd.primitives.stack_statistics`."""
    with quiet(np):
        rejected = (mask & rules.reject) != 0
        good = np.isfinite(image)
        good &= ~rejected
        samples = Samples(image, variance, good, weights)
        value, value_variance, n_clipped = _STATISTICS[rules.statistic](samples, rules)
        out_mask = _combine_masks(samples, mask, rejected, rules, n_clipped)
        if rules.statistic not in _COUNTS and not samples.all_good:
            empty = samples.count == 0
            value = np.where(empty, np.nan, value)
            if rules.statistic not in ("MIN", "MAX"):
                value_variance = np.where(empty, np.nan, value_variance)
        return value.astype(np.float32), value_variance.astype(np.float32), out_mask


def _mean(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    if rules.online_mean and rules.error_from_input:
        return _online_mean(samples)
    shift = np.zeros(samples.n_pixels, dtype=np.float32) if rules.error_from_input else samples.mean()
    moments = samples.moments(shift, rules, scatter=not rules.error_from_input)
    return moments.mean, moments.mean_variance, None


def _online_mean(samples: Samples) -> tuple[Any, Any, Any]:
    """Running sums as LSST's accumulator keeps them: each product rounded to float32, the sums in float64."""
    n_pixels = samples.image.shape[1]
    first, error = np.zeros(n_pixels, dtype=np.float64), np.zeros(n_pixels, dtype=np.float64)
    image, variance = samples.filled(samples.image, 0), samples.filled(samples.variance, 0)
    total, _ = totals(samples.good, samples.weights)
    for epoch, weight in enumerate(samples.weights):
        first += image[epoch] * np.float32(weight)
        error += variance[epoch] * np.float32(weight * weight)
    return first / total, error / (total * total), None


def _mean_clip(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    moments, n_clipped = clipped_moments(samples, rules, scatter=False)
    return moments.mean, moments.mean_variance, n_clipped


def _median(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    median = samples.quantile(0.5)
    moments = samples.moments(median.astype(np.float32), rules._replace(error_from_input=False), scatter=True)
    return median, (np.pi / 2) * moments.scatter / samples.count, None


def _all_moments(samples: Samples, rules: Rules) -> Moments:
    return samples.moments(samples.mean(), rules._replace(error_from_input=False), scatter=True)


def _variance_error(scatter: Any, count: Any) -> Any:
    """Variance of a sample variance of Gaussian values."""
    return 2.0 * (count - 1) * scatter * scatter / (count * 1.0 * count)


def _stdev_error(scatter: Any, count: Any) -> Any:
    """Variance of the square root: (0.5 sqrt(variance error) / sqrt(scatter))**2, without the 0/0 of equal samples."""
    return 0.5 * (count - 1) * scatter / (count * 1.0 * count)


def _variance(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    scatter = _all_moments(samples, rules).scatter
    return scatter, _variance_error(scatter, samples.count), None


def _stdev(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    scatter = _all_moments(samples, rules).scatter
    return np.sqrt(scatter), _stdev_error(scatter, samples.count), None


def _variance_clip(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    moments, n_clipped = clipped_moments(samples, rules, scatter=True)
    return moments.scatter, np.full_like(moments.scatter, np.nan), n_clipped


def _stdev_clip(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    moments, n_clipped = clipped_moments(samples, rules, scatter=True)
    error = _stdev_error(moments.scatter, moments.count)
    error = np.where(moments.scatter == 0, np.nan, error)  # as LSST's 0/0, for equal samples
    return np.sqrt(moments.scatter), error, n_clipped


def _mean_square(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    moments = _all_moments(samples, rules)
    count = samples.count
    value = (count - 1) / count * moments.scatter + moments.mean**2
    return value, 2.0 * (value / count) ** 2, None


def _sum(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    total = np.zeros(samples.n_pixels, dtype=np.float64)
    for row, weight in zip(samples.filled(samples.image, 0), samples.weights, strict=True):
        total += row.astype(np.float64) * weight
    return total, np.zeros_like(total), None


def _minimum(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    smallest, _ = samples.extremes()
    if rules.lsst_extremes:
        smallest = np.minimum(smallest, _sum(samples, rules)[0] / samples.count)
    return smallest, np.zeros_like(smallest), None


def _maximum(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    _, largest = samples.extremes()
    if rules.lsst_extremes:
        largest = np.maximum(largest, _sum(samples, rules)[0] / samples.count)
    return largest, np.zeros_like(largest), None


def _n_point(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    value = samples.count.astype(np.float64)
    return value, np.zeros_like(value), None


def _n_clipped(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    value = np.zeros(samples.n_pixels, dtype=np.float64)  # no clipping was asked for
    return value, np.zeros_like(value), None


def _n_masked(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    value = (samples.n_epochs - samples.count).astype(np.float64)
    return value, np.zeros_like(value), None


def _iqrange(samples: Samples, rules: Rules) -> tuple[Any, Any, Any]:
    value = samples.quantile(0.75) - samples.quantile(0.25)
    return value, np.full_like(value, np.nan), None


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


def _combine_masks(samples: Samples, mask: Any, rejected: Any, rules: Rules, n_clipped: Any) -> Any:
    """Mask of the coadd: what good samples carry, what rejected weight asks for, and what was lost."""
    if samples.all_good:
        out = _any_bits(mask)
        missing = None
    else:
        out = _any_bits(samples.filled(mask, 0))
        missing = samples.count < samples.n_epochs
        out |= _propagated(samples, mask, rules)
        empty = samples.count == 0
        out = np.where(empty, out | rules.no_data if rules.online_mean else rules.no_data, out)
    if n_clipped is not None:
        out = np.where(n_clipped > 0, out | rules.clipped, out)
    if missing is not None:
        lost = _any_bits(np.where(rejected, mask & rules.reject, 0) if rules.online_mean else mask)
        for source, target in rules.mask_map:
            out = np.where(missing & ((lost & source) != 0), out | target, out)
    return out.astype(np.int32)


def _any_bits(mask: Any) -> Any:
    """OR over the epochs of (epoch, pixel) bits."""
    out = mask[0].copy()
    for row in mask[1:]:
        out |= row
    return out


def _propagated(samples: Samples, mask: Any, rules: Rules) -> Any:
    """Bits whose share of the weight was rejected often enough."""
    out = np.zeros(mask.shape[1], dtype=np.int32)
    bad = ~samples.good
    for bit, threshold in rules.propagation:
        if rules.online_mean and not bit & rules.reject:
            continue
        lost = bad & ((mask & bit) != 0)
        if not bool(lost.any()):
            continue
        lost_weight = np.zeros(mask.shape[1], dtype=np.float64)
        good_weight = np.zeros(mask.shape[1], dtype=np.float64)
        for epoch, weight in enumerate(samples.weights):
            lost_weight += lost[epoch] * weight
            good_weight += samples.good[epoch] * weight
        out = np.where(lost_weight / (good_weight + lost_weight) > threshold, out | bit, out)
    return out
