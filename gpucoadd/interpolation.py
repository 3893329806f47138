"""
Post-processing of a finished coadd: NO_DATA pixels are filled along rows, variances made positive.

A run of bad pixels is predicted from up to two good neighbours on each side by ordinary kriging
with correlation ``exp(-d**2 / 4)`` (d in pixels): the weights that minimise the prediction
variance and sum to one.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from .backend import Array, array_module, quiet
from .clipping import clipped_statistics, ordered_samples, quantile
from .configuration import Interpolation

_EDGE_RUN = 6  # pixels of a border run that are predicted; those further out take the fallback value
_FAR = 16  # beyond this distance exp(-d**2 / 4) is below 1e-27 and the weights no longer change


def interpolate(
    image: Array, variance: Array, mask: Array, *, no_data: int, interpolated: int, config: Interpolation
) -> tuple[Array, Array, Array]:
    """
    Fill the NO_DATA pixels of a coadd.

    Parameters
    ----------
    image, variance : array, shape (y, x), float32
    mask : array, shape (y, x), int32
    no_data, interpolated : int
        Bits of NO_DATA (which pixels; it stays set) and INTRP (set on them).
    config : Interpolation

    Returns
    -------
    image, variance, mask : array
        New arrays; the variance is +inf wherever it is not positive.
    """
    xp = array_module(image)
    if not config.enabled:
        return image, variance, mask
    bad = (mask & no_data) != 0
    fallback = _fallback_value(image, config)
    planes = []
    for plane in (image, variance):
        turned = plane.T if config.transpose else plane
        filled = _fill_rows(turned, bad.T if config.transpose else bad, fallback, config.fallback_at_edge)
        planes.append(xp.ascontiguousarray(filled.T if config.transpose else filled))
    image, variance = planes
    variance = xp.where(variance > 0, variance, xp.float32(xp.inf))
    return image, variance, xp.where(bad, mask | interpolated, mask)


def _fallback_value(image: Array, config: Interpolation) -> float:
    """Level given to pixels too far from any good one: a statistic of the finite pixels, whatever their mask."""
    xp = array_module(image)
    ordered = ordered_samples(image, xp.isfinite(image))
    if config.fallback == "USER":
        value = config.fallback_value
    elif config.fallback == "MEAN":
        value = float(ordered.mean(dtype=xp.float64)) if ordered.shape[0] else math.nan
    elif config.fallback == "MEANCLIP":
        value = clipped_statistics(ordered, sigma=3.0, iterations=3)[0]
    else:
        value = quantile(ordered, 0.5)
    return 0.0 if value < 0 and not config.negative_fallback else value


@cache
def _weights() -> np.ndarray:
    """
    Kriging weights, shape (3, 3, _FAR + 1, _FAR + 1, 4).

    Indices: good neighbours used on the left (0 to 2) and on the right, distances to the nearest one on
    the left and on the right, capped at `_FAR`. The four weights belong to the pixels at
    second left, left, right, second right; unused ones are zero.
    """
    table = np.zeros((3, 3, _FAR + 1, _FAR + 1, 4))
    for n_left in range(3):
        for n_right in range(3):
            if n_left + n_right == 0:
                continue
            used = [k for k in range(4) if (k < 2 and k >= 2 - n_left) or (k >= 2 and k - 2 < n_right)]
            for left in range(1, _FAR + 1):
                for right in range(1, _FAR + 1):
                    position = np.array([-left - 1.0, -left, right, right + 1.0])[used]
                    n = len(used)
                    system = np.ones((n + 1, n + 1))
                    system[:n, :n] = np.exp(-((position[:, None] - position) ** 2) / 4)
                    system[n, n] = 0.0
                    target = np.append(np.exp(-(position**2) / 4), 1.0)
                    table[n_left, n_right, left, right, used] = np.linalg.solve(system, target)[:n]
    return table


def _runs(bad: Array) -> tuple[Array, Array, Array]:
    """Flat indices of the bad pixels, and the columns just before and just after the run that each lies in."""
    xp = array_module(bad)
    n_columns = bad.shape[1]
    starts, ends = bad.copy(), bad.copy()
    starts[:, 1:] &= ~bad[:, :-1]
    ends[:, :-1] &= ~bad[:, 1:]
    starts, ends, where = xp.flatnonzero(starts), xp.flatnonzero(ends), xp.flatnonzero(bad)
    run = xp.searchsorted(starts, where, side="right") - 1
    return where, starts[run] % n_columns - 1, ends[run] % n_columns + 1


def _fill_rows(plane: Array, bad: Array, fallback: float, fallback_at_edge: bool) -> Array:
    """Copy of `plane` (y, x) with the runs of `bad` pixels of each row filled."""
    n_columns = plane.shape[1]
    out = plane.copy().reshape(-1)
    where, before, after = _runs(bad)
    if where.shape[0] == 0:
        return out.reshape(plane.shape)
    column = where % n_columns
    level = (before < 0) & (after >= n_columns)
    if fallback_at_edge:  # all of a border run but the pixels nearest the good data
        level |= (before < 0) & (after - column > _EDGE_RUN)
        level |= (after >= n_columns) & (column - before > _EDGE_RUN)
    out[where[level]] = fallback
    holes = bad.copy().reshape(-1)
    holes[where[level]] = False  # filled pixels are good neighbours for the rest
    holes = holes.reshape(plane.shape)
    where, before, after = _runs(holes)
    if where.shape[0]:
        out[where] = _predict(out, holes, where, before, after)
    return out.reshape(plane.shape)


def _predict(values: Array, holes: Array, where: Array, last_good: Array, next_good: Array) -> Array:
    """Kriging prediction at flat indices `where`, from the good pixels at columns `last_good` and `next_good`."""
    xp = array_module(values)
    n_columns = holes.shape[1]
    column = where % n_columns
    row_start = where - column

    def neighbour(at: Array) -> tuple[Array, Array]:
        inside = (at >= 0) & (at < n_columns)
        flat = row_start + xp.clip(at, 0, n_columns - 1)
        usable = inside & ~holes.ravel().take(flat)
        return usable, xp.where(usable, values.take(flat), xp.float32(0)).astype(xp.float64)

    has_left, left = neighbour(last_good)
    has_right, right = neighbour(next_good)
    has_left2, left2 = neighbour(xp.where(has_left, last_good - 1, -1))
    has_right2, right2 = neighbour(xp.where(has_right, next_good + 1, -1))
    n_left = has_left.astype(xp.int64) + has_left2
    n_right = has_right.astype(xp.int64) + has_right2
    distance_left = xp.where(has_left, xp.clip(column - last_good, 1, _FAR), 1)
    distance_right = xp.where(has_right, xp.clip(next_good - column, 1, _FAR), 1)
    table = xp.asarray(_weights())
    weights = table[n_left, n_right, distance_left, distance_right]
    with quiet(xp):
        value = weights[:, 0] * left2 + weights[:, 1] * left + weights[:, 2] * right + weights[:, 3] * right2
        nearest = (left + right) / xp.maximum(has_left.astype(xp.int64) + has_right, 1)
    return xp.where(xp.isnan(value), nearest, value).astype(xp.float32)
