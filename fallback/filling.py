"""
Filling of runs of bad pixels by ordinary kriging.

A run is predicted from up to two good neighbours on each side with correlation ``exp(-d**2 / 4)`` (d in pixels): the
weights that minimise the prediction variance and sum to one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from gpucoadd.backend import quiet

EDGE_RUN = 6  # pixels of a border run that are predicted; those further out take the fallback value
FAR = 16  # beyond this distance exp(-d**2 / 4) is below 1e-27 and the weights no longer change


def fill_bad_runs(
    image: Any,
    variance: Any,
    mask: Any,
    no_data: int,
    interpolated: int,
    fallback: Any,
    fallback_at_edge: bool,
    transpose: bool,
) -> tuple[Any, Any, Any]:
    """
    Image and variance with the runs of `no_data` pixels filled, and the mask that says so.

    Runs lie along rows, or along columns if `transpose`.
    """
    bad = (mask & no_data) != 0
    planes = []
    for plane in (image, variance):
        turned = plane.T if transpose else plane
        filled = _fill_rows(turned, bad.T if transpose else bad, fallback, fallback_at_edge)
        planes.append(np.ascontiguousarray(filled.T if transpose else filled))
    image, variance = planes
    variance = np.where(variance > 0, variance, np.float32(np.inf))
    return image, variance, np.where(bad, mask | interpolated, mask)


@cache
def kriging_weights() -> np.ndarray:
    """
    Kriging weights, shape (3, 3, FAR + 1, FAR + 1, 4).

    Indices: good neighbours used on the left (0 to 2) and on the right, distances to the nearest one on
    the left and on the right, capped at `FAR`. The four weights belong to the pixels at
    second left, left, right, second right; unused ones are zero.
    """
    table = np.zeros((3, 3, FAR + 1, FAR + 1, 4))
    for n_left in range(3):
        for n_right in range(3):
            if n_left + n_right == 0:
                continue
            used = [k for k in range(4) if (k < 2 and k >= 2 - n_left) or (k >= 2 and k - 2 < n_right)]
            for left in range(1, FAR + 1):
                for right in range(1, FAR + 1):
                    position = np.array([-left - 1.0, -left, right, right + 1.0])[used]
                    n = len(used)
                    system = np.ones((n + 1, n + 1))
                    system[:n, :n] = np.exp(-((position[:, None] - position) ** 2) / 4)
                    system[n, n] = 0.0
                    target = np.append(np.exp(-(position**2) / 4), 1.0)
                    table[n_left, n_right, left, right, used] = np.linalg.solve(system, target)[:n]
    return table


def _runs(bad: Any) -> tuple[Any, Any, Any]:
    """Flat indices of the bad pixels, and the columns just before and just after the run that each lies in."""
    n_columns = bad.shape[1]
    starts, ends = bad.copy(), bad.copy()
    starts[:, 1:] &= ~bad[:, :-1]
    ends[:, :-1] &= ~bad[:, 1:]
    starts, ends, where = np.flatnonzero(starts), np.flatnonzero(ends), np.flatnonzero(bad)
    run = np.searchsorted(starts, where, side="right") - 1
    return where, starts[run] % n_columns - 1, ends[run] % n_columns + 1


def _fill_rows(plane: Any, bad: Any, fallback: Any, fallback_at_edge: bool) -> Any:
    """Copy of `plane` (y, x) with the runs of `bad` pixels of each row filled."""
    n_columns = plane.shape[1]
    out = plane.copy().reshape(-1)
    where, before, after = _runs(bad)
    if where.shape[0] == 0:
        return out.reshape(plane.shape)
    column = where % n_columns
    level = (before < 0) & (after >= n_columns)
    if fallback_at_edge:  # all of a border run but the pixels nearest the good data
        level |= (before < 0) & (after - column > EDGE_RUN)
        level |= (after >= n_columns) & (column - before > EDGE_RUN)
    out[where[level]] = fallback
    holes = bad.copy().reshape(-1)
    holes[where[level]] = False  # filled pixels are good neighbours for the rest
    holes = holes.reshape(plane.shape)
    where, before, after = _runs(holes)
    if where.shape[0]:
        out[where] = _predict(out, holes, where, before, after)
    return out.reshape(plane.shape)


def _predict(values: Any, holes: Any, where: Any, last_good: Any, next_good: Any) -> Any:
    """Kriging prediction at flat indices `where`, from the good pixels at columns `last_good` and `next_good`."""
    n_columns = holes.shape[1]
    column = where % n_columns
    row_start = where - column

    def neighbour(at: Any) -> tuple[Any, Any]:
        inside = (at >= 0) & (at < n_columns)
        flat = row_start + np.clip(at, 0, n_columns - 1)
        usable = inside & ~holes.ravel().take(flat)
        return usable, np.where(usable, values.take(flat), np.float32(0)).astype(np.float64)

    has_left, left = neighbour(last_good)
    has_right, right = neighbour(next_good)
    has_left2, left2 = neighbour(np.where(has_left, last_good - 1, -1))
    has_right2, right2 = neighbour(np.where(has_right, next_good + 1, -1))
    n_left = has_left.astype(np.int64) + has_left2
    n_right = has_right.astype(np.int64) + has_right2
    distance_left = np.where(has_left, np.clip(column - last_good, 1, FAR), 1)
    distance_right = np.where(has_right, np.clip(next_good - column, 1, FAR), 1)
    weights = kriging_weights()[n_left, n_right, distance_left, distance_right]
    with quiet(np):
        value = weights[:, 0] * left2 + weights[:, 1] * left + weights[:, 2] * right + weights[:, 3] * right2
        nearest = (left + right) / np.maximum(has_left.astype(np.int64) + has_right, 1)
    return np.where(np.isnan(value), nearest, value).astype(np.float32)
