"""Clipped means of background cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucoadd.workers import cut

from .clipping import clipped_rows

_PIECE_SAMPLES = 1 << 17  # what stays in a processor's cache


def cell_means(
    images: Any, masks: Any, bits: int, *, y_edges: np.ndarray, x_edges: np.ndarray, sigma: float, iterations: int
) -> Any:
    """As `gpucoadd.primitives.cell_means`."""
    rows = (_cells(*plane, bits, y_edges, x_edges) for plane in zip(images, masks, strict=True))
    shape = (len(y_edges) - 1, len(x_edges) - 1)
    return np.stack([_means(each, sigma, iterations).reshape(shape) for each in rows])


def _cells(image: Any, mask: Any, bits: int, y_edges: np.ndarray, x_edges: np.ndarray) -> Any:
    """The values of each cell in a row (cell, value), ascending; +inf for those that do not count or are not there."""
    good = np.isfinite(image)
    good &= (mask & bits) == 0
    values = np.where(good, image, np.float32(np.inf))
    n_y, n_x = len(y_edges) - 1, len(x_edges) - 1
    height, width = int(np.diff(y_edges).max()), int(np.diff(x_edges).max())
    if height * n_y != image.shape[0] or width * n_x != image.shape[1]:
        row = _padded_index(y_edges, height, image.shape[0])
        column = _padded_index(x_edges, width, image.shape[1])
        padded = np.full((image.shape[0] + 1, image.shape[1] + 1), np.inf, np.float32)
        padded[:-1, :-1] = values
        values = padded.take(row, axis=0).take(column, axis=1)
    grid = values.reshape(n_y, height, n_x, width)
    return np.sort(grid.transpose(0, 2, 1, 3).reshape(n_y * n_x, height * width), axis=1)


def _padded_index(edges: np.ndarray, length: int, size: int) -> np.ndarray:
    """Index of each cell's pixels along an axis, `length` per cell; missing ones point at `size`."""
    index = edges[:-1, None] + np.arange(length)
    return np.where(index < edges[1:, None], index, size).ravel()


def _means(rows: Any, sigma: float, iterations: int) -> Any:
    n = np.isfinite(rows).sum(axis=1)
    pieces = cut(rows.shape[0], max(1, _PIECE_SAMPLES // rows.shape[1]))
    return np.concatenate([clipped_rows(rows[piece], n[piece], sigma=sigma, iterations=iterations) for piece in pieces])
