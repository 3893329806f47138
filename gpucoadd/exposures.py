"""
Exposures of the LSST stack, used by their attributes; nothing of that stack is imported.

Three kinds are known: those of `lsst.afw.image` (an int32 mask and ``getMaskPlaneDict``), those of `lsst.images` (a
mask with a ``schema``), and `MaskedImage`. What goes out is a new object of the kind that came in.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .backend import Array, to_host
from .images import MaskedImage
from .masks import MaskSchema
from .mosaic import cut
from .point_spread import Psf
from .psf import adaptive_moments


class Box(NamedTuple):
    """Rectangle of pixels in the parent frame."""

    x0: int
    y0: int
    width: int
    height: int

    @property
    def origin(self) -> tuple[int, int]:
        """(y, x) of the first pixel."""
        return self.y0, self.x0

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) size in pixels."""
        return self.height, self.width

    @classmethod
    def of(cls, shape: tuple[int, int], origin: tuple[int, int] = (0, 0)) -> Box:
        """From a shape and an origin, both (y, x)."""
        return cls(origin[1], origin[0], shape[1], shape[0])


def as_box(box: Any) -> Box:
    """
    `Box` of what stands for one: a ``Box2I`` of `lsst.geom`, a ``Box`` of `lsst.images`, or x0, y0, width, height.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if isinstance(box, Box):
        return box
    if hasattr(box, "getMinX"):
        return Box(int(box.getMinX()), int(box.getMinY()), int(box.getWidth()), int(box.getHeight()))
    if hasattr(box, "y") and hasattr(box.y, "start"):
        return Box(int(box.x.start), int(box.y.start), int(box.x.stop - box.x.start), int(box.y.stop - box.y.start))
    if hasattr(box, "minX"):
        return Box(int(box.minX), int(box.minY), int(box.width), int(box.height))
    if isinstance(box, (tuple, list)) and len(box) == 4:
        return Box(*map(int, box))
    raise TypeError(f"a box must be x0, y0, width, height or an object of lsst.geom or lsst.images, got {box!r}")


def box_like(box: Box, like: Any) -> Any:
    """`box` as an object of the class of `like`, which is any that `as_box` takes."""
    if hasattr(like, "getMinX"):
        return type(like)(type(like.getMin())(box.x0, box.y0), type(like.getDimensions())(box.width, box.height))
    if hasattr(like, "y") and hasattr(like.y, "start"):
        return type(like).from_shape(box.shape, start=box.origin)
    return box


def from_lsst(exposure: Any) -> MaskedImage:
    """
    Arrays of an exposure or a masked image of the LSST stack.

    Parameters
    ----------
    exposure : object
        With the attributes of `lsst.afw.image` exposures or masked images, of `lsst.images` masked images, or a
        `MaskedImage`, which comes back as it is.

    Returns
    -------
    MaskedImage
        Image and variance are the arrays of `exposure` where they are in native byte order and C order, not copies. The
        mask of an `lsst.images` object gets bits of its own, those that LSST starts with where the names are these.

    Raises
    ------
    TypeError
        If the object is of no kind that is known, or its pixels are not float32 or float64.

    Examples
    --------
    >>> from types import SimpleNamespace as Object
    >>> image, mask = np.ones((2, 3), np.float32), np.zeros((2, 3), np.int32)
    >>> planes = Object(array=mask, getMaskPlaneDict=lambda: {"BAD": 0, "NO_DATA": 8})
    >>> exposure = Object(image=Object(array=image), mask=planes, variance=Object(array=image), getXY0=lambda: (7, 5))
    >>> from_lsst(exposure)
    MaskedImage(shape=(2, 3), origin=(5, 7), unit=None)
    """
    if isinstance(exposure, MaskedImage):
        return exposure
    image, variance = (_native(_pixels(_part(exposure, name))) for name in ("image", "variance"))
    mask, schema = read_mask(_part(exposure, "mask"))
    return MaskedImage(
        image,
        variance,
        mask,
        schema=schema,
        origin=box_of(exposure).origin,
        wcs=wcs_of(exposure),
        unit=unit_of(exposure),
    )


def given_back(result: MaskedImage, like: Any, *, anew: bool = False) -> Any:
    """
    The pixels of `result` in an exposure of the kind of `like`.

    Parameters
    ----------
    result : MaskedImage
        On the host or a device. Its planes are given those bits that the new mask has for them.
    like : object
        Any that `from_lsst` takes; it is not modified.
    anew : bool
        Whether all that `like` has besides its pixels is left out but WCS, filter and calibration: for a coadd, which
        must not have the PSF of one of its warps. Of `lsst.images` it is a ``MaskedImage`` then.

    Returns
    -------
    object
        For a `MaskedImage` `result` itself, unless the class has a method ``filled`` that makes one of its own of it.

    Raises
    ------
    TypeError
        If `like` is of no kind that is known.
    ValueError
        If the shapes differ.
    """
    if isinstance(like, MaskedImage):
        return like.filled(result) if hasattr(like, "filled") and not anew else result
    made = _new_exposure(like) if anew else _copy(like)
    overwrite(made, result)
    return made


def overwrite(exposure: Any, result: MaskedImage) -> None:
    """
    Put the pixels of `result` into an exposure of any kind, in place.

    Raises
    ------
    ValueError
        If the shapes differ, or the exposure is a `MaskedImage` and lacks planes that `result` has.
    """
    image = exposure.image if isinstance(exposure, MaskedImage) else _pixels(_part(exposure, "image"))
    if image.shape != result.image.shape:
        raise ValueError(
            f"the result has shape {result.image.shape} but the exposure to be filled {image.shape}; both must cover "
            "the same pixels"
        )
    if is_of_images(exposure):
        exposure.mask = _images_mask(exposure.mask, to_host(result.mask), result.schema, exposure.mask.bbox)
    else:
        write_mask(mask_of(exposure), result.mask, result.schema)
    image[...] = to_host(result.image)
    is_ours = isinstance(exposure, MaskedImage)
    variance = exposure.variance if is_ours else _pixels(_part(exposure, "variance"))
    variance[...] = to_host(result.variance)


def read_mask(mask: Any) -> tuple[np.ndarray, MaskSchema]:
    """
    int32 mask (y, x) and its planes, of a mask of `lsst.afw.image` or `lsst.images`.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if hasattr(mask, "getMaskPlaneDict"):
        pixels = _pixels(mask)
        return _native(pixels.astype(np.int32, copy=False)), MaskSchema(dict(mask.getMaskPlaneDict()))
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
        _pixels(target)[...] = translated(to_host(mask), schema, bits)
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
        return _images_mask(like, to_host(mask), schema, bbox)
    made = type(like)(bbox)
    write_mask(made, mask, schema)
    return made


def mask_of(exposure: Any) -> Any:
    """What `write_mask` takes, of an exposure: its mask, or itself where that is an array."""
    return exposure if isinstance(exposure, MaskedImage) else _part(exposure, "mask")


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


def _set_planes(mask: Array, schema: MaskSchema) -> list[str]:
    """Planes of which `mask` has a pixel."""
    present = int(np.bitwise_or.reduce(to_host(mask), axis=None))
    return [name for name, bit in schema.planes.items() if present >> bit & 1]


def _used(mask: Array, schema: MaskSchema) -> list[str]:
    """Planes of which `mask` has a pixel, and those of `schema` that LSST does not start with."""
    present, start_up = _set_planes(mask, schema), MaskSchema.lsst()
    return [name for name in schema if name in present or name not in start_up]


def is_of_images(exposure: Any) -> bool:
    """Whether an exposure is one of `lsst.images`, whose masks have a schema of their own."""
    return not isinstance(exposure, MaskedImage) and hasattr(getattr(exposure, "mask", None), "schema")


def box_of(exposure: Any) -> Box:
    """Pixels of an exposure in its parent frame."""
    if isinstance(exposure, MaskedImage):
        return Box.of(exposure.shape, exposure.origin)
    if hasattr(exposure, "getBBox"):
        return as_box(exposure.getBBox())
    if hasattr(exposure, "bbox"):
        return as_box(exposure.bbox)
    x0, y0 = _point(exposure.getXY0()) if hasattr(exposure, "getXY0") else (0, 0)
    return Box.of(_pixels(_part(exposure, "image")).shape[:2], (int(y0), int(x0)))


def native_box(exposure: Any) -> Any:
    """The box of an exposure in a kind of its own: that of `lsst.geom` or `lsst.images`, or a `Box`."""
    own = None if isinstance(exposure, MaskedImage) else _first(exposure, ("getBBox", "bbox"))
    return box_of(exposure) if own is None else own


def cut_out(exposure: Any, box: Any) -> Any:
    """
    Copy of the pixels in a box, in the kind of the exposure.

    Parameters
    ----------
    exposure : object
        Any that `from_lsst` takes; those of the LSST stack are indexed with a box of their own kind.
    box : object
        In the parent frame; any that `as_box` takes.
    """
    inside = as_box(box)
    if hasattr(exposure, "cutout"):
        return _copy(exposure.cutout(inside))
    if isinstance(exposure, MaskedImage):
        return cut(exposure, inside)
    return _copy(exposure[box_like(inside, native_box(exposure))])


def wcs_of(exposure: Any) -> Any:
    """The WCS of an exposure, or None."""
    return _first(exposure, ("getWcs", "wcs", "sky_projection", "projection"))


def unit_of(exposure: Any) -> str | None:
    """Unit of the pixels: BUNIT of the metadata, or the attribute `unit`; None if it is not told."""
    unit = getattr(exposure, "unit", None)
    if unit is None:
        metadata = _first(exposure, ("getMetadata", "metadata"))
        unit = None if metadata is None or "BUNIT" not in metadata else metadata["BUNIT"]
    return None if unit is None else unit if isinstance(unit, str) else unit.to_string()


def psf_of(exposure: Any) -> Any:
    """The PSF object of an exposure, or None."""
    return _first(exposure, ("getPsf", "psf"))


def psf_sigma(exposure: Any) -> float:
    """
    Determinant radius of the PSF in pixels, at its average position or in the middle; NaN if it is not known.

    It is told by the attribute `psf_sigma`, the PSF itself, or the entry PSFSIGMA of the metadata.
    """
    told = getattr(exposure, "psf_sigma", None)
    if told is not None and math.isfinite(told):
        return float(told)
    psf = psf_of(exposure)
    if psf is None:
        metadata = _first(exposure, ("getMetadata", "metadata"))
        return float(metadata["PSFSIGMA"]) if metadata is not None and "PSFSIGMA" in metadata else math.nan
    if hasattr(psf, "computeShape"):
        at = (psf.getAveragePosition(),) if hasattr(psf, "getAveragePosition") else ()
        return float(psf.computeShape(*at).getDeterminantRadius())
    return float(adaptive_moments(psf_stamp(exposure))[0])


def psf_stamp(exposure: Any, position: tuple[float, float] | None = None) -> Array | None:
    """
    Image of the PSF.

    Parameters
    ----------
    exposure : object
    position : (float, float), optional
        Parent (y, x); the average position that the PSF gives, else the middle, when left out.

    Returns
    -------
    array, shape (k, k), float64, or None
        None if the exposure has no PSF.

    Raises
    ------
    TypeError
        If the PSF has no method that gives an image.
    """
    psf = psf_of(exposure)
    if psf is None:
        return None
    if position is None and hasattr(psf, "getAveragePosition"):
        x, y = _point(psf.getAveragePosition())
        return stamp_at(psf, y, x)
    box = box_of(exposure)
    return stamp_at(psf, *(position or (box.y0 + (box.height - 1) / 2, box.x0 + (box.width - 1) / 2)))


def stamp_at(psf: Any, y: float, x: float) -> Array:
    """
    Image of a PSF at a position in the parent frame, (k, k) float64.

    Raises
    ------
    TypeError
        If the PSF has no method that gives an image.
    """
    if hasattr(psf, "computeKernelImage"):
        # Positions are of the class that the PSF itself gives: it cannot be imported.
        image = psf.computeKernelImage(type(psf.getAveragePosition())(x, y))
        return np.array(_pixels(image), dtype=np.float64)
    if hasattr(psf, "compute_kernel_image"):
        return np.array(_pixels(psf.compute_kernel_image(x=x, y=y)), dtype=np.float64)
    if isinstance(psf, Psf):
        return psf.at(y, x)
    raise TypeError(
        f"a PSF must have computeKernelImage() as in lsst.afw, compute_kernel_image() as in lsst.images, or be a "
        f"gpucoadd.Psf; got {type(psf).__name__}"
    )


def _first(thing: Any, names: Iterable[str]) -> Any:
    """The first attribute there is, called if it is a getter; None without any."""
    for name in names:
        value = getattr(thing, name, None)
        if value is not None:
            return value() if name.startswith("get") else value
    return None


def _part(exposure: Any, name: str) -> Any:
    """Image, mask or variance of an exposure."""
    getter = "get" + name.capitalize()
    for holder in (exposure, _first(exposure, ("maskedImage", "getMaskedImage"))):
        part = _first(holder, (name, getter)) if holder is not None else None
        if part is not None:
            return part
    raise TypeError(
        f"{type(exposure).__name__} has no {name}; an exposure must have image, mask and variance, as those of "
        "lsst.afw.image and lsst.images, or be a gpucoadd.MaskedImage"
    )


def _pixels(part: Any) -> Any:
    array = _first(part, ("array", "getArray"))
    if array is None:
        raise TypeError(f"{type(part).__name__} has no pixels: it must have an attribute array")
    return array


def _native(array: Array) -> Array:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _point(point: Any) -> tuple[float, float]:
    """(x, y) of a point of `lsst.geom`, or of a pair."""
    return (point.getX(), point.getY()) if hasattr(point, "getX") else tuple(point)


def _copy(like: Any) -> Any:
    for name in ("clone", "copy"):
        if hasattr(like, name):
            return getattr(like, name)()
    return copy.deepcopy(like)


def _new_exposure(like: Any) -> Any:
    """An exposure of the kind of `like` with its pixels, WCS, filter and calibration, and nothing else."""
    if is_of_images(like):
        plain = next((kind for kind in type(like).__mro__ if kind.__name__ == "MaskedImage"), type(like))
        return plain(like.image.copy(), mask=like.mask.copy(), variance=like.variance.copy())
    if not hasattr(like, "getMetadata"):
        return _copy(like)
    try:
        made = type(like)(like.getBBox(), like.getWcs())
    except (TypeError, AttributeError):
        made = _copy(like)
        if hasattr(made, "setPsf"):
            made.setPsf(None)
    for name in ("Filter", "PhotoCalib"):
        if hasattr(like, f"get{name}") and hasattr(made, f"set{name}"):
            getattr(made, f"set{name}")(getattr(like, f"get{name}")())
    unit = unit_of(like)
    if unit is not None:
        made.getMetadata()["BUNIT"] = unit
    return made


def _plane_names(schema: Any) -> list[str]:
    """Names of the planes of a mask schema of `lsst.images`, in the order of their bits."""
    return list(schema.names) if hasattr(schema, "names") else [plane.name for plane in schema if plane is not None]


def _images_mask(like: Any, mask: np.ndarray, schema: MaskSchema, bbox: Any) -> Any:
    """A mask of the class of `like`, of `lsst.images`, with its planes and those that `mask` uses besides."""
    known = list(like.schema)
    have = set(_plane_names(like.schema))
    plane = type(next(plane for plane in known if plane is not None))
    used = _used(mask, schema)
    missing = [plane(name, f"{name}, set by gpucoadd") for name in used if name not in have]
    made = type(like)(0, schema=type(like.schema)([*known, *missing]), bbox=bbox)
    _set_by_name(made, mask, schema)
    return made


def _set_by_name(target: Any, mask: np.ndarray, schema: MaskSchema) -> None:
    for name in _set_planes(mask, schema):
        target.set(name, (mask >> schema.planes[name] & 1).astype(bool))
