"""Counts and sums over the pixels of footprints."""

from __future__ import annotations

from typing import Any

import numpy as np


def count_by_label(labels: Any, n: int, flags: Any = None) -> Any:
    """
    Pixels of each label 0, 1, ... n, shape (n + 1,), int32.

    With `flags` (bool, one per pixel), only those where it is set.
    """
    counted = labels if flags is None else labels.take(np.flatnonzero(flags))
    return np.bincount(counted, minlength=n + 1).astype(np.int32)


def sum_by_label(labels: Any, n: int, values: Any) -> Any:
    """Sums of `values` (int32, one per pixel) over each label 0, 1, ... n, shape (n + 1,), int64."""
    return np.bincount(labels, weights=values, minlength=n + 1).astype(np.int64)  # exact below 2**53


def same_under(labels: Any, n: int, under: Any) -> Any:
    """
    The one value that `under` has over all pixels of each label 0, 1, ... n, shape (n + 1,), int32.

    `under` is int32, one per pixel, 0 or more. 0 where the values differ or no pixel has the label.
    """
    value = np.zeros(n + 1, np.int32)
    value[labels] = under  # any pixel stands for all: if they differ, it does not matter which
    differs = count_by_label(labels, n, under != value.take(labels))
    return np.where(differs == 0, value, np.int32(0))
