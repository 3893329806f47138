"""Tables and coordinates of the LSST stack, by their attributes, as the array functions take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from astropy.io.fits import Header
from astropy.table import Table
from astropy.wcs import WCS

from ..boxes import as_box
from .warps import WarpRef, epoch_ids

_SIZES = ("radius", "width", "height")


def bright_table(catalogue: Any) -> Table:
    """
    Catalogue of bright objects as `gpucoadd.bright_objects` wants it.

    Parameters
    ----------
    catalogue : astropy.table.Table or iterable of rows
        Rows with ``type``, ``ra``, ``dec`` (angles with ``asDegrees``), ``radius``, ``width``, ``height`` (with
        ``asArcseconds``) and ``angle``, as those of LSST's ObjectMaskCatalog. A table is taken as it is.
    """
    if isinstance(catalogue, Table):
        return catalogue
    rows = [
        {
            "type": str(row["type"]),
            "ra": row["ra"].asDegrees(),
            "dec": row["dec"].asDegrees(),
            **{name: row[name].asArcseconds() for name in _SIZES},
            "angle": row["angle"].asDegrees(),
        }
        for row in catalogue
    ]
    return Table(rows=rows, names=("type", "ra", "dec", *_SIZES, "angle"))


def pixel_wcs(wcs: Any, origin: tuple[int, int]) -> Any:
    """
    A celestial WCS in array pixels.

    Parameters
    ----------
    wcs : astropy.wcs.WCS or object
        The first is in array pixels already; one with ``getFitsMetadata``, as a ``SkyWcs``, in those of the parent.
    origin : (int, int)
        (y, x) of the first pixel in the parent frame.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if isinstance(wcs, WCS):
        return wcs
    if not hasattr(wcs, "getFitsMetadata"):
        raise TypeError(
            f"bright objects and input maps need a WCS of the patch, an astropy WCS or one with getFitsMetadata(); got "
            f"{type(wcs).__name__}"
        )
    header = Header()
    for name, value in dict(wcs.getFitsMetadata()).items():
        header[name] = value
    made = WCS(header)
    made.wcs.crpix -= (origin[1], origin[0])
    return made


def detector_table(refs: Sequence[WarpRef]) -> Table:
    """
    Outlines of the detectors that went into the warps, for an input map.

    Raises
    ------
    ValueError
        If a warp does not tell: it needs ``getInfo().getCoaddInputs().ccds``, as warps of `lsst.afw` have it.
    """
    rows = []
    for epoch, ref in zip(epoch_ids(refs), refs, strict=True):
        info = ref.row.getInfo() if hasattr(ref.row, "getInfo") else None
        inputs = None if info is None else info.getCoaddInputs()
        if inputs is None:
            raise ValueError(
                f"an input map (doInputMap) needs the detectors of warp {ref.dataId}, "
                "getInfo().getCoaddInputs().ccds as in lsst.afw; turn it off, or give detectors= to gpucoadd.coadd"
            )
        for ccd in inputs.ccds:
            corners = [ccd.getWcs().pixelToSky(x, y) for x, y in _outline(ccd)]
            rows.append(
                {
                    "epoch": epoch,
                    "detector": int(ccd["ccd"]),
                    "ra": [corner.getRa().asDegrees() for corner in corners],
                    "dec": [corner.getDec().asDegrees() for corner in corners],
                }
            )
    return Table(rows)


def _outline(ccd: Any) -> list[tuple[float, float]]:
    """(x, y) of the corners of a detector's good area: its valid polygon, or the edges of its pixels."""
    polygon = ccd.getValidPolygon()
    if polygon is not None:
        return [(corner.getX(), corner.getY()) for corner in polygon.getVertices()]
    box = as_box(ccd.getBBox())
    left, low = box.x0 - 0.5, box.y0 - 0.5
    right, high = left + box.width, low + box.height
    return [(left, low), (right, low), (right, high), (left, high)]
