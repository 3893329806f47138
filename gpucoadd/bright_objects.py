"""
Masks of bright objects: circles and boxes of a catalogue, drawn on a coadd's mask.

A catalogue is an astropy table, or a file that `astropy.table.Table.read` knows, with a row for each object:

====================  =====================================================================================
column                meaning; unit where the column has none
====================  =====================================================================================
``type``              "circle" or "box"; rows of other types are left out with a warning in the log
``ra``, ``dec``       centre, ICRS; degrees
``radius``            of a circle; arcsec
``width``, ``height`` full size of a box along x and y; arcsec
``angle``             of a box, must be 0; degrees; may be missing
====================  =====================================================================================

The last four may be missing, empty or anything where the type does not need them. These are the fields of LSST's
`ObjectMaskCatalog`; in its region files, of ``circle(ra, dec, radius)`` and ``box(ra, dec, width, height, angle)``, all
numbers are degrees. The rules are those of LSST's `setBrightObjectMasks`: sizes become pixels by the pixel scale in the
middle of the patch, a centre goes to the nearest pixel, and what is not a whole pixel of a size is cut off.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import Any

import numpy as np

from .assembly_config import AssemblyConfig
from .backend import Array, array_module, using
from .combination import ADDED_PLANES
from .fallback.growing import half_widths
from .images import WarpStack, check_dtype, check_pair, check_schema
from .masks import MaskSchema
from .sky import check_wcs, outline, pixel_scale, pixels, sky
from .tables import in_unit, read_table, scalars

logger = logging.getLogger(__name__)

_SIZES = {"circle": ("radius",), "box": ("width", "height", "angle")}
_LARGEST = 180 * 3600.0  # arcsec
_WIDE = 2.0  # far more than a pixel's size varies over a patch


def mask_bright_objects(
    mask: Array,
    objects: Any,
    *,
    wcs: Any,
    schema: MaskSchema,
    origin: tuple[int, int] = (0, 0),
    plane: str = "BRIGHT_OBJECT",
) -> tuple[Array, MaskSchema]:
    """
    A mask in which the pixels of bright objects have a plane.

    Parameters
    ----------
    mask : array, shape (y, x), int32
        Bits as named by `schema`.
    objects : astropy.table.Table or path
        The catalogue; its columns are those above.
    wcs : astropy.wcs.WCS
        Celestial, in array pixels: position (0, 0) is the centre of the first pixel, wherever `origin` is.
    schema : MaskSchema
    origin : (int, int)
        (y, x) of the first pixel in the parent's frame, which is where a box is cut down to whole pixels.
    plane : str
        Takes the lowest free bit if `schema` does not have it.

    Returns
    -------
    mask : array, shape (y, x), int32
        A new one.
    schema : MaskSchema
        With `plane`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError, ValueError
        If the mask, the WCS, the table or a row of it cannot be used.

    Notes
    -----
    A box reaches from ``int(x - width / 2)`` to ``int(x + width / 2)``, both included and in parent pixels, where `x`
    is the nearest pixel to its centre; a circle is the disc ``dx**2 + dy**2 <= radius**2`` of a radius cut down to
    whole pixels.
    """
    check_dtype("mask", mask, ("int32",))
    if mask.ndim != 2:
        raise ValueError(f"mask has shape {mask.shape}; it must be (y, x)")
    check_schema(schema)
    bright = bright_pixels(objects, mask.shape, wcs=wcs, origin=check_pair("origin", origin))
    return set_plane(mask, bright, schema, plane)


def set_plane(mask: Array, flags: np.ndarray, schema: MaskSchema, plane: str) -> tuple[Array, MaskSchema]:
    """`mask` with `plane` set where the host's `flags` are, and its schema with that plane."""
    schema = schema.with_planes(plane)
    with using(mask):
        xp = array_module(mask)
        return xp.where(xp.asarray(flags), mask | np.int32(schema.bitmask(plane)), mask), schema


def wanted_pixels(objects: Any, config: AssemblyConfig, warps: WarpStack) -> np.ndarray:
    """`bright_pixels` of a coadd to be made of `warps`, before its work begins."""
    warps.schema.with_planes(*ADDED_PLANES, config.bright_object_plane)  # all bits may be taken
    return bright_pixels(objects, warps.shape[1:], wcs=warps.wcs, origin=warps.origin)


def bright_pixels(objects: Any, shape: tuple[int, int], *, wcs: Any, origin: tuple[int, int]) -> np.ndarray:
    """(y, x) bool on the host: the pixels of the objects; parameters and errors as of `mask_bright_objects`."""
    check_wcs(wcs, "bright-object masks")
    name = os.fspath(objects) if isinstance(objects, (str, os.PathLike)) else "bright_objects"
    table = read_table(objects, "bright_objects", ("type", "ra", "dec"))
    kinds = scalars(table, "type")
    strange = Counter(str(kind) for kind in kinds if kind not in _SIZES)
    for kind, times in strange.items():
        logger.warning("%s has %d objects of type %r, which are left out; circle and box are known", name, times, kind)
    scale = pixel_scale(wcs, shape)
    flags = np.zeros(shape, dtype=bool)
    for kind, wanted in _SIZES.items():
        rows = np.array([row for row, found in enumerate(kinds) if found == kind], dtype=np.intp)
        if not len(rows):
            continue
        ra, dec = (in_unit(table, column, "deg")[rows] for column in ("ra", "dec"))
        sizes = _sizes(table, name, wanted, rows)
        _check_rows(name, rows, np.isfinite(ra) & (np.abs(dec) <= 90), "ra and dec must be a position on the sky")
        draw = _draw_circle if kind == "circle" else _draw_box
        near = _near(wcs, shape, ra, dec, sizes.sum(axis=0))
        for y, x, size in zip(*pixels(wcs, ra[near], dec[near]), sizes.T[near]):
            if np.isfinite(y) and np.isfinite(x):
                centre = [int(np.floor(value + 0.5)) + start for value, start in zip((y, x), origin)]
                draw(flags, centre, size / scale, origin)
    return flags


def _sizes(table: Any, name: str, columns: tuple[str, ...], rows: np.ndarray) -> np.ndarray:
    """Sizes in arcsec, (size, row), of objects of one type; ValueError if one is missing or cannot be."""
    sizes = []
    for column in columns:
        if column == "angle":
            if column in table.colnames:
                straight = in_unit(table, column, "deg")[rows] == 0
                _check_rows(name, rows, straight, "the angle of a box must be 0: boxes lie along the pixels")
            continue
        read_table(table, name, (column,))
        sizes.append(in_unit(table, column, "arcsec")[rows])
        words = f"{column} must be a size from 0 to {_LARGEST:.0f} arcsec"
        _check_rows(name, rows, (sizes[-1] >= 0) & (sizes[-1] <= _LARGEST), words)
    return np.array(sizes)


def _check_rows(name: str, rows: np.ndarray, fine: np.ndarray, words: str) -> None:
    if not fine.all():
        bad = rows[~fine]
        more = f", and in {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ValueError(f"{name}: {words}; in row {bad[0]} (of 0, 1, ...){more} it is not")


def _near(wcs: Any, shape: tuple[int, int], ra: np.ndarray, dec: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """
    Which objects may touch the patch; `reach` is how far each extends, in arcsec.

    Why the others go first: a projection may bring in what lies behind the observer, or not converge far from home.
    """
    from astropy.coordinates import SkyCoord

    y, x = outline(shape)
    here = sky(wcs, np.append(y, (shape[0] - 1) / 2), np.append(x, (shape[1] - 1) / 2))
    *corners, middle = SkyCoord(*here, unit="deg")
    radius = np.max([middle.separation(corner).arcsec for corner in corners])
    if not radius < 45 * 3600:  # or NaN
        return np.ones(len(ra), dtype=bool)
    return middle.separation(SkyCoord(ra, dec, unit="deg")).arcsec <= _WIDE * (radius + reach)


def _draw_circle(flags: np.ndarray, centre: list[int], size: np.ndarray, origin: tuple[int, int]) -> None:
    radius = int(size[0])
    widths = half_widths(radius, True)
    y, x = centre[0] - origin[0], centre[1] - origin[1]
    for row in range(max(y - radius, 0), min(y + radius + 1, flags.shape[0])):
        width = widths[abs(row - y)]
        flags[row, max(x - width, 0) : max(x + width + 1, 0)] = True


def _draw_box(flags: np.ndarray, centre: list[int], size: np.ndarray, origin: tuple[int, int]) -> None:
    """`size` is width and height; `int` cuts towards 0 of the parent's frame, as LSST does."""
    slices = []
    for middle, full, start in zip(centre, size[::-1], origin):
        first, last = int(middle - 0.5 * full) - start, int(middle + 0.5 * full) - start
        slices.append(slice(max(first, 0), max(last + 1, 0)))
    flags[tuple(slices)] = True
