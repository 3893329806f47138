"""What exposures, masks and images of the LSST stack have in common, by their attributes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .backend import Array
from .boxes import Box, as_box
from .images import MaskedImage


def box_of(exposure: Any) -> Box:
    """Pixels of an exposure in its parent frame."""
    if isinstance(exposure, MaskedImage):
        return Box.of(exposure.shape, exposure.origin)
    if hasattr(exposure, "getBBox"):
        return as_box(exposure.getBBox())
    if hasattr(exposure, "bbox"):
        return as_box(exposure.bbox)
    return Box.of(pixels_of(part(exposure, "image")).shape[:2], origin_of(exposure))


def origin_of(thing: Any) -> tuple[int, int]:
    """(y, x) of the first pixel of an exposure, a mask or an image; (0, 0) if it does not tell."""
    if hasattr(thing, "getXY0"):
        x, y = point(thing.getXY0())
    elif hasattr(thing, "bbox"):
        y, x = as_box(thing.bbox).origin
    else:
        y, x = getattr(thing, "origin", (0, 0))
    return int(y), int(x)


def native_box(exposure: Any) -> Any:
    """The box of an exposure in a kind of its own: that of `lsst.geom` or `lsst.images`, or a `Box`."""
    own = None if isinstance(exposure, MaskedImage) else first(exposure, ("getBBox", "bbox"))
    return box_of(exposure) if own is None else own


def first(thing: Any, names: Iterable[str]) -> Any:
    """The first attribute there is, called if it is a getter; None without any."""
    for name in names:
        value = getattr(thing, name, None)
        if value is not None:
            return value() if name.startswith("get") else value
    return None


def part(exposure: Any, name: str) -> Any:
    """
    Image, mask or variance of an exposure, in its own kind.

    Raises
    ------
    TypeError
        If it has none.
    """
    getter = "get" + name.capitalize()
    for holder in (exposure, first(exposure, ("maskedImage", "getMaskedImage"))):
        found = first(holder, (name, getter)) if holder is not None else None
        if found is not None:
            return found
    raise TypeError(
        f"{type(exposure).__name__} has no {name}; an exposure must have image, mask and variance, as those of "
        "lsst.afw.image and lsst.images, or be a gpucoadd.MaskedImage"
    )


def pixels_of(image: Any) -> Any:
    """The array of an image or a mask; TypeError if it has none."""
    array = first(image, ("array", "getArray"))
    if array is None:
        raise TypeError(f"{type(image).__name__} has no pixels: it must have an attribute array")
    return array


def native(array: Array) -> Array:
    """`array` in native byte order and C order; itself if it is."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def point(point: Any) -> tuple[float, float]:
    """(x, y) of a point of `lsst.geom`, or of a pair."""
    return (point.getX(), point.getY()) if hasattr(point, "getX") else tuple(point)
