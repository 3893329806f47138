"""Masks as the final stack uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np

from gpucoadd.planes import WORD, n_words

from ._compile import Defines, blocks, kernel
from ._planes import strided

_BLOCK = 256
_MOST_EDITS = 3  # in one launch


def _variant(n_edits: int, with_used: bool) -> Defines:
    return (("N_EDITS", n_edits), ("WITH_USED", int(with_used)))


VARIANTS = {"stacking_masks.cu": [_variant(n, used) for n in range(_MOST_EDITS + 1) for used in (False, True)]}


def stacking_masks(
    mask: Any, edits: Sequence[tuple[Any, int, int]], reject: int, removed: int, online: bool, image: Any = None
) -> tuple[Any, Any, Any]:
    """
    As `gpucoadd.fallback.stacking_masks`. Bands of rows of `mask`, `image` and the flags are read where they are.

    One launch for up to three edits, which nobody waits for. Moves 8 bytes a sample and a bit for each edit; 4 and a
    bit more with `image`.
    """
    edits = list(edits)
    if len(edits) > _MOST_EDITS:
        mask, *_ = stacking_masks(mask, edits[:_MOST_EDITS], 0, 0, False)
        return stacking_masks(mask, edits[_MOST_EDITS:], reject, removed, online, image)
    n_epochs, n_rows, n_columns = mask.shape
    masks = cupy.empty(mask.shape, dtype=cupy.int32)
    n_image = cupy.empty((n_rows, n_columns), dtype=cupy.int32)
    used = None if image is None else cupy.empty((n_epochs, n_rows, n_words(n_columns)), dtype=cupy.uint32)
    flags: list[Any] = []
    for words, keep, add in edits:
        flags += [*strided(words), np.int32(keep), np.int32(add)]
    flags += [np.uintp(0), np.int64(0), np.int32(-1), np.int32(0)] * (_MOST_EDITS - len(edits))
    kernel("stacking_masks.cu", "stacking_masks", _variant(len(edits), image is not None))(
        (blocks(n_rows * n_words(n_columns) * WORD, _BLOCK),),
        (_BLOCK,),
        (
            *strided(mask),
            *((np.uintp(0), np.int64(0)) if image is None else strided(image)),
            *flags,
            np.int32(reject & ~removed if online else reject),
            np.int32(~removed),
            np.int32(reject & ~removed),
            np.int32(n_epochs),
            np.int32(n_rows),
            np.int32(n_columns),
            np.int32(n_words(n_columns)),
            masks,
            n_image,
            np.uintp(0) if used is None else used,
        ),
    )
    return masks, n_image, used
