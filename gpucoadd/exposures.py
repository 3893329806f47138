"""
Exposures of the LSST stack, used by their attributes; nothing of that stack is imported.

Three kinds are known: those of `lsst.afw.image` (an int32 mask and ``getMaskPlaneDict``), those of `lsst.images` (a
mask with a ``schema``), and `MaskedImage`. What goes out is a new object of the kind that came in.
"""

from __future__ import annotations

import copy
from typing import Any

from .backend import to_host
from .boxes import Box, as_box, box_like
from .exposure_masks import images_mask, mask_of, read_mask, write_mask
from .exposure_parts import box_of, first, native, native_box, part, pixels_of
from .images import MaskedImage
from .mosaic import cut

__all__ = ["Box", "as_box", "cut_out", "from_lsst", "given_back", "is_of_images", "overwrite", "unit_of", "wcs_of"]


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
    >>> import numpy as np
    >>> from types import SimpleNamespace as Object
    >>> image, mask = np.ones((2, 3), np.float32), np.zeros((2, 3), np.int32)
    >>> planes = Object(array=mask, getMaskPlaneDict=lambda: {"BAD": 0, "NO_DATA": 8})
    >>> exposure = Object(image=Object(array=image), mask=planes, variance=Object(array=image), getXY0=lambda: (7, 5))
    >>> from_lsst(exposure)
    MaskedImage(shape=(2, 3), origin=(5, 7), unit=None)
    """
    if isinstance(exposure, MaskedImage):
        return exposure
    image, variance = (native(pixels_of(part(exposure, name))) for name in ("image", "variance"))
    mask, schema = read_mask(part(exposure, "mask"))
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
        For a `MaskedImage` what its method `with_planes` makes; `result` itself with `anew`.

    Raises
    ------
    TypeError
        If `like` is of no kind that is known.
    ValueError
        If the shapes differ.
    """
    if isinstance(like, MaskedImage):
        planes = result.image, result.variance, result.mask
        return result if anew else like.with_planes(*planes, schema=result.schema)
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
    image = exposure.image if isinstance(exposure, MaskedImage) else pixels_of(part(exposure, "image"))
    if image.shape != result.image.shape:
        raise ValueError(
            f"the result has shape {result.image.shape} but the exposure to be filled {image.shape}; both must cover "
            "the same pixels"
        )
    if is_of_images(exposure):
        exposure.mask = images_mask(exposure.mask, to_host(result.mask), result.schema, exposure.mask.bbox)
    else:
        write_mask(mask_of(exposure), result.mask, result.schema)
    image[...] = to_host(result.image)
    is_ours = isinstance(exposure, MaskedImage)
    variance = exposure.variance if is_ours else pixels_of(part(exposure, "variance"))
    variance[...] = to_host(result.variance)


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


def is_of_images(exposure: Any) -> bool:
    """Whether an exposure is one of `lsst.images`, whose masks have a schema of their own."""
    return not isinstance(exposure, MaskedImage) and hasattr(getattr(exposure, "mask", None), "schema")


def wcs_of(exposure: Any) -> Any:
    """The WCS of an exposure, or None."""
    return first(exposure, ("getWcs", "wcs", "sky_projection", "projection"))


def unit_of(exposure: Any) -> str | None:
    """Unit of the pixels: BUNIT of the metadata, or the attribute `unit`; None if it is not told."""
    unit = getattr(exposure, "unit", None)
    if unit is None:
        metadata = first(exposure, ("getMetadata", "metadata"))
        unit = None if metadata is None or "BUNIT" not in metadata else metadata["BUNIT"]
    return None if unit is None else unit if isinstance(unit, str) else unit.to_string()


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
    made = _empty(like)
    if made is None:
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


def _empty(like: Any) -> Any:
    """An exposure of the class of `like` on its pixels, made of box and WCS; None if the class does not do that."""
    try:
        made = type(like)(like.getBBox(), like.getWcs())
        fits = pixels_of(part(made, "image")).shape == pixels_of(part(like, "image")).shape
    except (TypeError, AttributeError, ValueError):
        return None
    return made if fits else None
