"""Order statistics and clipped means of whole planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import clipping


def all_nan(planes: Any) -> Any:
    """Which of (k, y, x) planes have nothing but NaN, (k,) bool."""
    return np.array([np.isnan(plane).all() for plane in planes], bool)


def quantiles(samples: Any, fractions: Sequence[float]) -> tuple[Any, Any]:
    """Linear quantiles (k, fraction), float64, of the finite samples of each row (k, n), and their number (k,)."""
    ordered = [_finite_in_order(row) for row in samples]
    values = [[clipping.quantile(row, fraction) for fraction in fractions] for row in ordered]
    return np.array(values).reshape(len(samples), len(fractions)), np.array([len(row) for row in ordered], np.int32)


def _finite_in_order(row: Any) -> Any:
    ordered = np.sort(row)
    return ordered[ordered.searchsorted(-np.inf, "right") : ordered.searchsorted(np.inf)]


def clipped_statistics(samples: Any, *, sigma: float, iterations: int) -> Any:
    """Mean, de-biased variance and number of the finite samples of each row (k, n) after clipping; (k, 3) float64."""
    rows = (_finite_in_order(row) for row in samples)
    statistics = [clipping.clipped_statistics(row, sigma=sigma, iterations=iterations) for row in rows]
    return np.array(statistics, dtype=np.float64).reshape(len(samples), 3)


def clipped_means(planes: Any, masks: Any, bits: int, *, sigma: float, iterations: int) -> Any:
    """The means alone of (n, y, x) planes, whose pixels with one of `bits` do not count; (n,) float64."""
    if len(planes) == 1:  # large, where many are small
        values, n_good = clipping.good_samples(planes[0], masks[0], bits)
        return np.array([clipping.clipped_mean(values, n_good, sigma=sigma, iterations=iterations)])
    good = np.isfinite(planes)
    good &= (masks & bits) == 0
    shape = (len(planes), -1)
    return clipping.clipped_means(planes.reshape(shape), good.reshape(shape), sigma=sigma, iterations=iterations)
