"""The background at every pixel, and images without it."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucoadd.backend import quiet


def background_level(splines: Any) -> Any:
    """The background of k epochs (`gpucoadd.background.RowSplines`) at every pixel, (k, y, x) float32."""
    n_epochs, n_rows, n_pieces = splines.coefficients.shape[:3]
    level = np.empty((n_epochs, n_rows, splines.piece.shape[1]), np.float32)
    for epoch, piece in enumerate(splines.piece):
        borders = np.searchsorted(piece, np.arange(n_pieces + 1))  # pieces follow each other from left to right
        for number in range(n_pieces):
            columns = slice(borders[number], borders[number + 1])
            a, b, c, d = splines.coefficients[epoch, :, number].T[:, :, None]
            offset = splines.offset[epoch, columns]
            level[epoch, :, columns] = a + offset * (b + offset * (c + offset * d))
    return level


def background_residual(image: Any, variance: Any, mask: Any, splines: Any, bits: int) -> Any:
    """As `gpucoadd.primitives.background_residual`."""
    with quiet(np):
        values = image - background_level(splines)
        good = np.isfinite(values)
        good &= (mask & bits) == 0
        good &= variance > 0
        good &= variance < np.float32(np.inf)
        values /= np.sqrt(variance)
    values[~good] = np.inf
    return values.reshape(len(image), -1)
