"""Comparison of warps with the static sky: which pixels are significant, and which count at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpucoadd.backend import quiet

MARGIN = 1e-5  # relative; float32 rounding of limit * sqrt(variance) is 100 times smaller


class Search(NamedTuple):
    """What `compare` needs to know beside the planes; bits instead of names."""

    limits: tuple[float, ...]  # threshold of each epoch
    in_sigmas: bool  # the unit of the limits: sqrt(variance), or that of the image
    peak: float = 1.0  # multiplies the limits for the peaks; none are looked for at 1
    exclude: int = 0  # bits whose pixels are searched as if they were 0
    reject: int = 0  # bits whose pixels do not contribute
    edge: int = 0


class Compared(NamedTuple):
    """What `compare` found. All but `n_good` are (epoch, y, x): `Flags`, or from the twins themselves their data."""

    positive: Any
    negative: Any
    positive_peaks: Any | None
    negative_peaks: Any | None
    no_data: Any
    edge: Any
    n_good: Any  # (y, x) int32: in how many of the epochs the pixel is finite and not rejected


def compare(image: Any, variance: Any, mask: Any, template: Any, scales: Sequence[float], search: Search) -> Compared:
    """As `gpucoadd.primitives.compare`."""
    with quiet(np):
        epochs = [
            _compare_plane(values, spread, bits, template, scale, limit, search)
            for values, spread, bits, scale, limit in zip(image, variance, mask, scales, search.limits, strict=True)
        ]
    *flags, good = ([epoch[i] for epoch in epochs] for i in range(7))
    n_good = good[0].astype(np.int32) if len(good) == 1 else np.add.reduce(good, axis=0, dtype=np.int32)
    return Compared._make([*(None if each[0] is None else _stacked(each) for each in flags), n_good])


def _stacked(planes: list[Any]) -> Any:
    return planes[0][None] if len(planes) == 1 else np.stack(planes)


def _compare_plane(
    image: Any, variance: Any, mask: Any, template: Any, scale: float, limit: float, search: Search
) -> tuple[Any, ...]:
    if not math.isnan(scale):
        variance = variance * np.float32(scale)
    if template is not None:
        image = image - template[0]
        variance = variance + template[1]
    good = np.isfinite(image)
    good &= (mask & search.reject) == 0
    no_data, edge = np.isnan(image), (mask & search.edge) != 0
    if search.exclude:
        image = np.where((mask & search.exclude) != 0, np.float32(0), image)
    where, values, spread = _candidates(image, variance, limit, search.in_sigmas)
    factors = (1.0, search.peak if search.peak > 1 else None)
    found = [
        None if factor is None else _at(where[signed >= limit * factor * spread], image.shape)
        for factor in factors
        for signed in (values, -values)
    ]
    return *found, no_data, edge, good


def _at(pixels: Any, shape: tuple[int, int]) -> Any:
    plane = np.zeros(shape[0] * shape[1], bool)
    plane[pixels] = True
    return plane.reshape(shape)


def _candidates(image: Any, variance: Any, limit: float, in_sigmas: bool) -> tuple[Any, Any, Any]:
    """
    Flat indices, values and spreads (float64) of all pixels near or above the limit on either side.

    A float32 comparison with a margin leaves few pixels for the exact one in float64.
    """
    near_limit = np.float32(limit * (1 - MARGIN))
    if in_sigmas:
        near = np.abs(image) >= np.sqrt(variance) * near_limit
        near &= variance < np.float32(np.inf)
    else:
        near = np.abs(image) >= near_limit
    where = np.flatnonzero(near)
    values = image.ravel().take(where).astype(np.float64)
    spread = np.sqrt(variance.ravel().take(where).astype(np.float64)) if in_sigmas else np.ones(where.shape[0])
    return where, values, spread
