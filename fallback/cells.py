"""Merging of cells into a mosaic."""

from __future__ import annotations

from typing import Any

import numpy as np


def merge_cells(
    target: tuple[Any, Any, Any | None],
    boxes: np.ndarray,
    images: Any,
    variances: Any,
    *,
    corners: np.ndarray,
    planes: np.ndarray,
    copy: bool,
    all_valid: np.ndarray | None = None,
) -> None:
    """As `gpucoadd.primitives.merge_cells`."""
    known = np.zeros(len(boxes), bool) if all_valid is None else all_valid
    image, variance, count = target
    for (x0, y0, width, height), (y, x), plane, valid in zip(
        boxes.tolist(), corners.tolist(), planes.tolist(), known.tolist()
    ):
        window, part = (slice(y0, y0 + height), slice(x0, x0 + width)), (slice(y, y + height), slice(x, x + width))
        _merge(
            [image[window], variance[window], None if count is None else count[window]],
            images[plane][part],
            variances[plane][part],
            copy=copy,
            all_valid=valid,
        )


def _merge(target: list[Any], image: np.ndarray, variance: np.ndarray, *, copy: bool, all_valid: bool) -> None:
    """Merge one cell into a part of a mosaic as large."""
    valid = None
    if not all_valid:
        valid = ~np.isnan(image * variance)
        if valid.all():
            valid = None
    for merged, plane in zip(target, (image, variance)):
        if copy:
            merged[...] = plane if valid is None else np.where(valid, plane, merged)
        else:
            merged += plane if valid is None else np.where(valid, plane, 0)
    if target[2] is not None:
        target[2] += 1 if valid is None else valid
