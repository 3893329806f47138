"""Connected components of one plane."""

from __future__ import annotations

from typing import Any

from gpucoadd.backend import array_module, ndimage


def label(detected: Any) -> tuple[Any, Any, int]:
    """Flat indices of the detected pixels, the 8-connected component of each, and the number of components."""
    xp = array_module(detected)
    labels, n_labels = ndimage(xp).label(detected, structure=xp.ones((3, 3), dtype=bool))
    pixels = xp.flatnonzero(detected).astype(xp.int32 if detected.size < 2**31 else xp.int64)
    return pixels, labels.ravel().take(pixels).astype(xp.int32), int(n_labels)
