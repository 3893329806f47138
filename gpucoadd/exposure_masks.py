"""Masks of the LSST stack as int32 arrays with a `MaskSchema`, and back, by the names of the planes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .backend import Array, to_host
from .exposure_parts import native, part, pixels_of
from .images import MaskedImage
from .masks import MaskSchema


def read_mask(mask: Any) -> tuple[np.ndarray, MaskSchema]:
    """
    int32 mask (y, x) and its planes, of a mask of `lsst.afw.image` or `lsst.images`.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if hasattr(mask, "getMaskPlaneDict"):
        pixels = pixels_of(mask)
        return native(pixels.astype(np.int32, copy=False)), MaskSchema(dict(mask.getMaskPlaneDict()))
    if hasattr(mask, "schema") and hasattr(mask, "get"):
        names = _plane_names(mask.schema)
        schema = MaskSchema.lsst().with_planes(*names)
        bits = np.zeros(mask.array.shape[:2], dtype=np.int32)
        for name in names:
            bits |= np.where(mask.get(name), np.int32(schema.bitmask(name)), np.int32(0))
        return bits, schema
    if isinstance(getattr(mask, "schema", None), MaskSchema):
        return mask.mask, mask.schema
    raise TypeError(
        f"a mask must have getMaskPlaneDict() as in lsst.afw.image, or schema and get() as in lsst.images; got "
        f"{type(mask).__name__}"
    )


def write_mask(target: Any, mask: Array, schema: MaskSchema) -> None:
    """
    Put the pixels of `mask` into a mask of any kind, in place, by the names of the planes.

    Parameters
    ----------
    target : object
        A mask of `lsst.afw.image`, to which planes are added, or of `lsst.images`; or what has an array `mask` and its
        `schema`, as a `MaskedImage`.
    mask : array, shape (y, x), int32
    schema : MaskSchema
        Names of its bits.

    Raises
    ------
    ValueError
        If the target can have no new planes, and lacks some that `mask` has.
    """
    if hasattr(target, "getMaskPlaneDict"):
        bits = {name: plane_bit(target, name) for name in _used(mask, schema)}
        pixels_of(target)[...] = translated(to_host(mask), schema, bits)
        return
    is_ours = isinstance(target.schema, MaskSchema)
    have = target.schema if is_ours else _plane_names(target.schema)
    missing = [name for name in _set_planes(mask, schema) if name not in have]
    if missing:
        raise ValueError(f"the mask to be filled lacks the planes {', '.join(missing)}; make it with them")
    if is_ours:
        target.mask[...] = translated(to_host(mask), schema, target.schema.planes)
        return
    target.array[...] = 0
    _set_by_name(target, to_host(mask), schema)


def mask_given_back(mask: Array, schema: MaskSchema, like: Any, bbox: Any) -> Any:
    """
    The pixels of `mask` in a new mask of the kind of `like`, of `lsst.afw.image` or `lsst.images`, planes added.

    Parameters
    ----------
    mask : array, shape (y, x), int32
    schema : MaskSchema
        Names of its bits.
    like : object
        It may have other pixels.
    bbox : object
        Those of `mask`, a box of the kind that `like` has.
    """
    if not hasattr(like, "getMaskPlaneDict"):
        return images_mask(like, to_host(mask), schema, bbox)
    made = type(like)(bbox)
    write_mask(made, mask, schema)
    return made


def mask_of(exposure: Any) -> Any:
    """What `write_mask` takes, of an exposure: its mask, or itself where that is an array."""
    return exposure if isinstance(exposure, MaskedImage) else part(exposure, "mask")


def plane_bit(target: Any, name: str) -> int:
    """Bit number of a plane of a mask of `lsst.afw.image`, added if it is not there."""
    planes = target.getMaskPlaneDict()
    return int(planes[name]) if name in planes else int(target.addMaskPlane(name))


def translated(mask: Array, schema: MaskSchema, bits: Mapping[str, int]) -> Array:
    """`mask` with the bit numbers `bits` in place of those of `schema`; the mask itself if they are the same."""
    moves = [(schema.planes[name], bit) for name, bit in bits.items() if name in schema]
    if all(old == new for old, new in moves) and len(moves) == len(schema.planes):
        return mask
    out = np.zeros_like(mask)
    for old, new in moves:
        out |= (mask >> old & 1) << new
    return out


def images_mask(like: Any, mask: np.ndarray, schema: MaskSchema, bbox: Any) -> Any:
    """A mask of the class of `like`, of `lsst.images`, with its planes and those that `mask` uses besides."""
    known = list(like.schema)
    have = set(_plane_names(like.schema))
    plane = type(next(plane for plane in known if plane is not None))
    used = _used(mask, schema)
    missing = [plane(name, f"{name}, set by gpucoadd") for name in used if name not in have]
    made = type(like)(0, schema=type(like.schema)([*known, *missing]), bbox=bbox)
    _set_by_name(made, mask, schema)
    return made


def _set_planes(mask: Array, schema: MaskSchema) -> list[str]:
    """Planes of which `mask` has a pixel."""
    present = int(np.bitwise_or.reduce(to_host(mask), axis=None))
    return [name for name, bit in schema.planes.items() if present >> bit & 1]


def _used(mask: Array, schema: MaskSchema) -> list[str]:
    """Planes of which `mask` has a pixel, and those of `schema` that LSST does not start with."""
    present, start_up = _set_planes(mask, schema), MaskSchema.lsst()
    return [name for name in schema if name in present or name not in start_up]


def _plane_names(schema: Any) -> list[str]:
    """Names of the planes of a mask schema of `lsst.images`, in the order of their bits."""
    return list(schema.names) if hasattr(schema, "names") else [plane.name for plane in schema if plane is not None]


def _set_by_name(target: Any, mask: np.ndarray, schema: MaskSchema) -> None:
    for name in _set_planes(mask, schema):
        target.set(name, (mask >> schema.planes[name] & 1).astype(bool))
