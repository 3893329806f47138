"""Masks as the final stack uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucoadd.planes import n_words

from .flags import as_words, unpack

Edit = tuple[Any, int, int]  # packed flags (epoch, y, word) uint32; bits kept and bits added where a flag is set


def stacking_masks(
    mask: Any, edits: Sequence[Edit], reject: int, removed: int, online: bool, image: Any = None
) -> tuple[Any, Any, Any]:
    """As `gpucoadd.primitives.stacking_masks`."""
    masks = np.empty(mask.shape, np.int32)
    n_image = np.zeros(mask.shape[1:], np.int32)
    used = None if image is None else np.empty((*mask.shape[:2], n_words(mask.shape[2])), np.uint32)
    for epoch, plane in enumerate(masks):
        plane[...] = mask[epoch]
        for words, keep, add in edits:
            _edit(plane, words[epoch], keep, add)
        if online:
            plane &= ~removed
        good = (plane & reject) == 0
        n_image += good
        if removed and not online:
            plane &= ~removed
            good = (plane & reject) == 0
        if used is not None:
            good &= np.isfinite(image[epoch])
            used[epoch] = as_words(good)
    return masks, n_image, used


def _edit(plane: Any, words: Any, keep: int, add: int) -> None:
    if words.any():  # what is set is sparse, mostly
        flat = plane.reshape(-1)
        where = np.flatnonzero(unpack(words[None], plane.shape[1]))
        flat[where] = (flat.take(where) & keep) | add
