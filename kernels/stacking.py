"""Masks as the final stack uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np

from gpucoadd.planes import n_words

from ._compile import Defines, blocks, kernel
from ._planes import strided

_BLOCK = 256
_MOST_EDITS = 3  # in one launch


def _variant(n_edits: int) -> Defines:
    return (("N_EDITS", n_edits),)


VARIANTS = {"stacking_masks.cu": [_variant(n) for n in range(_MOST_EDITS + 1)]}


def stacking_masks(
    mask: Any, edits: Sequence[tuple[Any, int, int]], reject: int, removed: int, online: bool
) -> tuple[Any, Any]:
    """
    As `gpucoadd.fallback.stacking_masks`. Bands of rows of `mask` and of the flags are read where they are.

    One launch for up to three edits, which nobody waits for. Moves 8 bytes a sample and a bit for each edit.
    """
    edits = list(edits)
    if len(edits) > _MOST_EDITS:
        mask, _ = stacking_masks(mask, edits[:_MOST_EDITS], 0, 0, False)
        return stacking_masks(mask, edits[_MOST_EDITS:], reject, removed, online)
    n_epochs, n_rows, n_columns = mask.shape
    masks = cupy.empty(mask.shape, dtype=cupy.int32)
    n_image = cupy.empty((n_rows, n_columns), dtype=cupy.int32)
    flags: list[Any] = []
    for words, keep, add in edits:
        flags += [*strided(words), np.int32(keep), np.int32(add)]
    flags += [np.uintp(0), np.int64(0), np.int32(-1), np.int32(0)] * (_MOST_EDITS - len(edits))
    kernel("stacking_masks.cu", "stacking_masks", _variant(len(edits)))(
        (blocks(mask[0].size, _BLOCK),),
        (_BLOCK,),
        (
            *strided(mask),
            *flags,
            np.int32(reject & ~removed if online else reject),
            np.int32(~removed),
            np.int32(n_epochs),
            np.int32(n_rows * n_columns),
            np.int32(n_columns),
            np.int32(n_words(n_columns)),
            masks,
            n_image,
        ),
    )
    return masks, n_image
