"""A picture of the boxes that an image is cut into."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from .pictures import Colour, Overlay, to_png, write_atomically

_PICTURE_SIDE = 800  # pixels of the longer side
_COLOURS: tuple[Colour, ...] = ((200, 60, 50), (40, 110, 200), (40, 150, 80), (230, 150, 30), (130, 70, 170))


def draw_boxes(
    path: str | Path,
    inner: np.ndarray,
    expanded: np.ndarray,
    shape: tuple[int, int],
    *,
    origin: tuple[int, int] = (0, 0),
    skip: int = 3,
) -> Path:
    """
    Write a PNG file with inner boxes tinted and expanded ones outlined, in the same colour.

    Rows go up: the image's first pixel is at the lower left. The longer side has 800 pixels.

    Parameters
    ----------
    path : path
        File to write; its folder must exist.
    inner, expanded : numpy.ndarray, shape (cell, 4), int
        Rows x0, y0, width, height in parent coordinates, as of `CellGrid.boxes`.
    shape : (int, int)
        (y, x) size of the image in pixels.
    origin : (int, int)
        (y, x) of its first pixel in the parent frame.
    skip : int
        Every how manieth cell is drawn.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ValueError
        If `skip` is not a positive integer.
    """
    if isinstance(skip, bool) or not isinstance(skip, int) or skip < 1:
        raise ValueError(f"skip must be a positive integer, got {skip!r}; 1 draws every cell")
    first_pixel = np.array([origin[1], origin[0], 0, 0])
    scale = _PICTURE_SIDE / max(shape)
    canvas = max(round(shape[0] * scale), 1), max(round(shape[1] * scale), 1)
    overlays: list[Overlay] = []
    for number, colour in enumerate(_COLOURS):
        chosen = slice(number * skip, None, len(_COLOURS) * skip)
        tinted, outlined = ((boxes[chosen] - first_pixel) * scale for boxes in (inner, expanded))
        overlays.append((_drawn(tinted, canvas, filled=True), colour, 0.3))
        overlays.append((_drawn(outlined, canvas, filled=False), colour, 1.0))
    return write_atomically(path, to_png(np.ones(canvas), stretch="linear", limits=(0, 1), overlays=overlays))


def _drawn(boxes: np.ndarray, canvas: tuple[int, int], *, filled: bool) -> np.ndarray:
    """Pixels of a canvas (y, x) bool that boxes (x0, y0, width, height) in its pixels cover, or their outlines."""
    mask = np.zeros(canvas, dtype=bool)
    for x0, y0, width, height in boxes.tolist():
        (bottom, top), (left, right) = (
            (min(int(begin), n - 1), min(math.ceil(begin + length), n))
            for begin, length, n in ((y0, height, canvas[0]), (x0, width, canvas[1]))
        )
        if filled:
            mask[bottom:top, left:right] = True
        else:
            mask[[bottom, top - 1], left:right] = True
            mask[bottom:top, [left, right - 1]] = True
    return mask
