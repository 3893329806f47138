"""
A small Butler repository (SQLite, files in folders) with simulated warps, made with `lsst.daf.butler` alone.

One tract, a grid of patches in it, and in each band its own visits, which see all patches: what a coadd task needs to
be tried, and an example of the records that a repository must have.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lsst.daf.butler import Butler, CollectionType, Config, DatasetType
from lsst.sphgeom import ConvexPolygon, UnitVector3d

from ..images import WarpStack
from ..point_spread import Psf
from ..simulate import Night, simulate_night
from ..sky import outline, sky, vectors
from .plain import PlainMaskedImage
from .storage import butler_config

INSTRUMENT, SKYMAP, TRACT = "SimCam", "simulated", 0
WARPS = "warps"  # the collection
DIRECT, MATCHED = "direct_warp", "psf_matched_warp"
_DAY_OBS = 20260101
_WARP_DIMENSIONS = ("instrument", "visit", "skymap", "tract", "patch")


@dataclasses.dataclass(frozen=True)
class SimulatedPatch:
    """One patch in one band: its place in the tract's grid, and the simulated night whose warps it has."""

    patch: int
    cell: tuple[int, int]  # (y, x)
    band: str
    night: Night

    @property
    def data_id(self) -> dict[str, Any]:
        """Of the coadd."""
        return {"skymap": SKYMAP, "tract": TRACT, "patch": self.patch, "band": self.band}

    def warp_id(self, visit: Any) -> dict[str, Any]:
        """Of a warp."""
        return {"instrument": INSTRUMENT, "visit": visit, "skymap": SKYMAP, "tract": TRACT, "patch": self.patch}


def simulate_fields(
    *, n_visits: int = 6, n_patches: int = 4, bands: Sequence[str] = ("g", "r"), size: int = 256, seed: int = 1
) -> Iterator[SimulatedPatch]:
    """
    Simulated nights, each of its own seed, side by side in the pixel frame of one tract.

    Parameters
    ----------
    n_visits : int
        Per band; visits of different bands are different visits.
    n_patches : int
        In a grid as square as may be.
    bands : sequence of str
    size : int
        Side of a patch in pixels, at least 96.
    seed : int
        Same seed and arguments, same pixels.

    Yields
    ------
    SimulatedPatch
        Patch by patch; warps have visit ids as epochs, and the origin and WCS of their patch.
    """
    n_columns = math.ceil(math.sqrt(n_patches))
    for patch in range(n_patches):
        cell = divmod(patch, n_columns)
        for number, band in enumerate(bands):
            night = simulate_night(
                n_epochs=n_visits, shape=(size, size), seed=10_000 * seed + len(bands) * patch + number
            )
            visits = [1000 * (number + 1) + epoch + 1 for epoch in range(n_visits)]
            warps = _placed(night.warps, visits, origin=(cell[0] * size, cell[1] * size))
            yield SimulatedPatch(patch, cell, band, dataclasses.replace(night, warps=warps))


def _placed(warps: WarpStack, visits: Sequence[int], *, origin: tuple[int, int]) -> WarpStack:
    """The stack with other ids, at `origin`, under the tangent plane of the patch at (0, 0)."""
    wcs = warps.wcs.deepcopy()
    wcs.wcs.crpix = wcs.wcs.crpix - np.array(origin[::-1])
    twins = None if warps.psf_matched is None else _placed(warps.psf_matched, visits, origin=origin)
    planes = warps.image, warps.variance, warps.mask
    about: dict[str, Any] = {"schema": warps.schema, "psf_sigma": warps.psf_sigma, "unit": warps.unit}
    return WarpStack(*planes, epochs=visits, psf_matched=twins, origin=origin, wcs=wcs, **about)


def make_repository(root: str | os.PathLike[str], fields: Sequence[SimulatedPatch]) -> Butler:
    """
    Make a repository and put the warps of `fields`, and their twins, into the collection `WARPS`.

    Parameters
    ----------
    root : path
        A folder that is empty or not there.
    fields : sequence of SimulatedPatch
        At least one.

    Returns
    -------
    lsst.daf.butler.Butler
        Writeable.
    """
    Butler.makeRepo(os.fspath(root), config=Config(butler_config()))
    butler = Butler.from_config(os.fspath(root), writeable=True)
    with butler.transaction():
        register_dimensions(butler, fields)
    butler.collections.register(WARPS, CollectionType.RUN)
    for name in (DIRECT, MATCHED):
        butler.registry.registerDatasetType(
            DatasetType(name, _WARP_DIMENSIONS, "PlainMaskedImage", universe=butler.dimensions)
        )
    for field in fields:
        for name, stack in ((DIRECT, field.night.warps), (MATCHED, field.night.twins)):
            for epoch, visit in enumerate(stack.epochs):
                butler.put(warp_of(stack, epoch), name, field.warp_id(visit), run=WARPS)
    return butler


def warp_of(stack: WarpStack, epoch: int) -> PlainMaskedImage:
    """One epoch of a simulated stack, with its Gaussian PSF, as a repository keeps it."""
    return PlainMaskedImage(
        stack.image[epoch],
        stack.variance[epoch],
        stack.mask[epoch],
        schema=stack.schema,
        origin=stack.origin,
        wcs=stack.wcs,
        unit=stack.unit,
        psf=Psf.gaussian(stack.psf_sigma[epoch]),
        psf_sigma=stack.psf_sigma[epoch],
        metadata={"VISIT": stack.epochs[epoch]},
    )


def register_dimensions(butler: Butler, fields: Sequence[SimulatedPatch]) -> None:
    """
    Records of the dimensions that warps and coadds have.

    Parameters
    ----------
    butler : lsst.daf.butler.Butler
        Writeable; of its dimensions, none may have the records yet.
    fields : sequence of SimulatedPatch
        All patches in all bands, at least one; of their warps, ids, shape and WCS are used.
    """
    cells = np.array([field.cell for field in fields])
    whole = _region(field.night.warps for field in fields)
    ny, nx = (int(n) for n in cells.max(axis=0) + 1)
    name = f"{SKYMAP} {ny} x {nx}".encode()
    insert = butler.registry.insertDimensionData
    insert("instrument", {"name": INSTRUMENT, "visit_max": 10**6, "detector_max": 1})
    insert("day_obs", {"instrument": INSTRUMENT, "id": _DAY_OBS})
    insert(
        "skymap",
        {
            "name": SKYMAP,
            "hash": hashlib.sha1(name).digest(),
            "tract_max": 1,
            "patch_nx_max": nx,
            "patch_ny_max": ny,
        },
    )
    insert("tract", {"skymap": SKYMAP, "id": TRACT, "region": whole})
    seen: set[Any] = set()
    for field in fields:
        if field.patch not in seen:
            place = {"cell_y": field.cell[0], "cell_x": field.cell[1], "region": _region([field.night.warps])}
            insert("patch", {"skymap": SKYMAP, "tract": TRACT, "id": field.patch, **place})
        if field.band not in seen:
            insert("physical_filter", {"instrument": INSTRUMENT, "name": f"sim_{field.band}", "band": field.band})
            for visit in field.night.warps.epochs:
                about = {"day_obs": _DAY_OBS, "physical_filter": f"sim_{field.band}", "region": whole}
                insert("visit", {"instrument": INSTRUMENT, "id": visit, "name": str(visit), **about})
        seen |= {field.patch, field.band}


def _region(stacks: Any) -> ConvexPolygon:
    """Convex hull on the sky of the corners of patches."""
    corners = [vectors(*sky(stack.wcs, *outline(stack.shape[1:]))) for stack in stacks]
    return ConvexPolygon.convexHull([UnitVector3d(*corner) for corner in np.concatenate(corners)])
