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
    """
    Merge cells, one after the other, into the planes of a mosaic, which are written to.

    A pixel of a cell is valid if its image times its variance is not NaN.

    Parameters
    ----------
    target : (array, array, array or None)
        Image, variance, and how many cells had a valid pixel, each (y, x); the types of the first two float32 or
        float64, that of the third uint16 or int32.
    boxes : numpy.ndarray, shape (m, 4), int
        x0, y0, width, height of each cell in the mosaic, inside it.
    images, variances : array, shape (n, h, w), float32 or float64
        Where the cells' pixels are.
    corners : numpy.ndarray, shape (m, 2), int
        (y, x) of each cell's first pixel there.
    planes : numpy.ndarray, shape (m,), int
        In which of the n planes.
    copy : bool
        Whether valid pixels replace those of the mosaic; otherwise they are added.
    all_valid : numpy.ndarray, shape (m,), bool, optional
        Cells that are known to be valid throughout, which saves looking at them.
    """
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
