"""
Connected components of planes.

Detected pixels are few, so their runs along the rows are found, runs that touch in neighbouring rows
are joined, and empty pixels are looked at only once. Where runs are many, `scipy.ndimage.label`,
which visits every pixel, is faster; both number footprints by their first pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_PIXELS_PER_RUN = 50  # measured: with more runs than one in so many pixels, visiting every pixel is faster


def label(flags: Any, n_columns: int) -> tuple[Any, Any, int]:
    """
    Flat indices of the detected pixels, the 8-connected component of each, and the number of components.

    `flags` are (epoch, y, x); epochs are not connected. Components are numbered through all of them.
    """
    parts = [_label_plane(plane) for plane in flags]
    if len(parts) == 1:
        return parts[0]
    dtype = np.int32 if flags.size < 2**31 else np.int64
    starts = np.cumsum([0] + [n for _, _, n in parts])
    pixels = [part[0] + dtype(epoch * flags[0].size) for epoch, part in enumerate(parts)]
    labels = [part[1] + np.int32(start) for part, start in zip(parts, starts)]
    return np.concatenate(pixels), np.concatenate(labels), int(starts[-1])


def _label_plane(detected: Any) -> tuple[Any, Any, int]:
    pixels = np.flatnonzero(detected)
    if detected.size < 2**31:
        pixels = pixels.astype(np.int32)
    if len(pixels) == 0:
        return pixels, np.zeros(0, np.int32), 0
    width = detected.shape[1]
    begins = np.ones(len(pixels), bool)
    begins[1:] = (np.diff(pixels) != 1) | (pixels[1:] % width == 0)
    first = np.flatnonzero(begins)
    n_runs = len(first)
    if n_runs * _PIXELS_PER_RUN > detected.size:
        return _label_every_pixel(detected)
    last = np.append(first[1:], len(pixels)) - 1
    upper, lower = _touching(pixels[first].astype(np.int64), pixels[last].astype(np.int64), width)
    touching = coo_array((np.ones(len(upper), bool), (upper, lower)), shape=(n_runs, n_runs))
    n_labels, component = connected_components(touching, directed=False)
    number = np.empty(n_labels, np.int32)
    number[component[np.sort(np.unique(component, return_index=True)[1])]] = np.arange(1, n_labels + 1)
    return pixels, np.repeat(number[component], last - first + 1), n_labels


def _touching(start: np.ndarray, end: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (run, run in the row below) that touch, given the flat indices of the runs' ends."""
    row = start // width
    start, end = start + 2 * row + 1, end + 2 * row + 1  # an empty column on either side keeps rows apart
    width += 2
    from_run = np.searchsorted(end, start - width - 1, side="left")
    to_run = np.searchsorted(start, end - width + 1, side="right")
    n_above = to_run - from_run
    lower = np.repeat(np.arange(len(start)), n_above)
    upper = np.arange(len(lower)) - np.repeat(np.cumsum(n_above) - n_above - from_run, n_above)
    return upper, lower


def _label_every_pixel(detected: Any) -> tuple[Any, Any, int]:
    labels, n_labels = ndimage.label(detected, structure=np.ones((3, 3), bool))
    pixels = np.flatnonzero(detected).astype(np.int32 if detected.size < 2**31 else np.int64)
    return pixels, labels.ravel().take(pixels).astype(np.int32), int(n_labels)
