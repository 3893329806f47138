"""Yes-or-no planes: bool where they are worked on, packed words where they are kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucoadd.planes import n_words


def as_flags(planes: Any) -> Any:
    """Flags of (epoch, y, x) bool planes: the planes."""
    return planes


def as_planes(flags: Any, n_columns: int) -> Any:
    """(epoch, y, x) bool planes of flags: the flags."""
    return flags


def as_words(flags: Any) -> Any:
    """Flags packed into uint32 (epoch, y, word): bit i of word j is column 32 * j + i, and 0 beyond the last."""
    packed = np.packbits(flags, axis=-1, bitorder="little")
    out = np.zeros((*flags.shape[:-1], n_words(flags.shape[-1]) * 4), np.uint8)
    out[..., : packed.shape[-1]] = packed
    return out.view("<u4").astype(np.uint32, copy=False)


def unpack(words: Any, n_columns: int) -> Any:
    """(epoch, y, x) bool planes of packed words."""
    octets = words.astype("<u4", copy=False).view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=n_columns, bitorder="little").view(bool)


def any_flag(words: Any) -> Any:
    """(y, word): the packed pixels that are set in any epoch."""
    return np.bitwise_or.reduce(words, axis=0)


def add_flags(flags: Any, out: Any) -> None:
    """Add to `out` (y, x) int32 in how many epochs each pixel is set."""
    for plane in flags:
        np.add(out, plane, out=out)


def paint(pixels: Any, shape: tuple[int, int, int]) -> Any:
    """Flags of the given flat (epoch, y, x) indices."""
    flags = np.zeros(shape, bool)
    flags.reshape(-1)[pixels] = True
    return flags


def take_flags(flags: Any, pixels: Any, n_columns: int) -> Any:
    """Bool (n,): the flag at each of the given flat (epoch, y, x) indices."""
    return flags.reshape(-1).take(pixels)
