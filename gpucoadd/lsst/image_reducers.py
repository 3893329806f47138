"""Putting the cells of image map-reduce together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from lsst.pex.config import ChoiceField, ListField
from lsst.pipe.base import Struct, Task

from ..backend import Array
from ..boxes import Box, as_box
from ..cells import CellGrid
from ..exposure_masks import translated
from ..exposure_parts import box_of
from ..exposure_psfs import psf_stamp, stamp_at
from ..exposures import from_lsst, given_back
from ..mosaic import CompositePsf, Mosaic
from .overrides import OverridableConfig


class ImageReducerConfig(OverridableConfig):
    """Configuration of an `ImageReducer`."""

    reduceOperation = ChoiceField(
        dtype=str,
        default="average",
        doc="How the results of the cells are put together.",
        allowed={
            "none": "the list of results as it is",
            "copy": "pixels of later cells replace those of earlier ones",
            "sum": "image and variance are added; 0 where there is no cell",
            "average": "image and variance are averaged, without weights",
            "coaddPsf": "the PSF of the mosaic alone, a gpucoadd.CompositePsf",
        },
    )
    badMaskPlanes = ListField(
        dtype=str,
        default=["INVALID_MAPREDUCE", "BAD", "NO_DATA"],
        doc="Mask planes set where no cell has a value; added to a mask that does not have them.",
    )


class ImageReducer(Task):
    """Puts the results of the cells together, as `gpucoadd.Mosaic` does."""

    ConfigClass = ImageReducerConfig
    _DefaultName = "ip_diffim_ImageReducer"

    def run(self, mapperResults: Sequence[Any], exposure: Any, **kwargs: Any) -> Struct:
        """
        Put the cells together.

        Parameters
        ----------
        mapperResults : sequence of lsst.pipe.base.Struct
            As `ImageMapper.run` returns them, in the order of the cells.
        exposure : exposure
            The whole one. Gives pixels' grid, mask and all that an exposure has besides pixels; not modified.
        **kwargs
            Ignored.

        Returns
        -------
        lsst.pipe.base.Struct
            ``exposure``, in the kind that came and with the PSF that came; ``result``, the list, with "none";
            ``result``, a `gpucoadd.CompositePsf`, with "coaddPsf".

        Raises
        ------
        TypeError
            If a result has no exposure, or with "coaddPsf" no PSF either.
        ValueError
            If a result lies outside of the exposure.
        """
        config = self.config
        if config.reduceOperation == "none":
            return Struct(result=mapperResults)
        if config.reduceOperation == "coaddPsf":
            return Struct(result=_composite(mapperResults))
        grid = CellGrid.from_lsst(
            {"reducer.reduceOperation": config.reduceOperation, "reducer.badMaskPlanes": list(config.badMaskPlanes)}
        )
        cells = [from_lsst(_exposure(number, result)) for number, result in enumerate(mapperResults)]
        parent = from_lsst(exposure)
        schema = parent.schema.with_planes(*itertools.chain.from_iterable(cell.schema for cell in cells))
        whole = parent.with_planes(parent.image, parent.variance, parent.mask, schema=schema)
        mosaic = Mosaic(whole, grid)
        bits = schema.planes
        for cell in cells:
            mask = translated(cell.mask, cell.schema, {name: bits[name] for name in cell.schema})
            mosaic.add(box_of(cell), cell.image, cell.variance, mask)
        return Struct(exposure=given_back(mosaic.finish(), exposure))


def _exposure(number: int, result: Any) -> Any:
    sub = getattr(result, "subExposure", None)
    if sub is None:
        raise TypeError(
            f"the mapper's result for cell {number} has no subExposure; to be put together, results must be a Struct "
            'with an exposure of that name (reduceOperation = "none" takes anything)'
        )
    return sub


def _composite(results: Sequence[Any]) -> CompositePsf:
    members = [_member(number, result) for number, result in enumerate(results)]
    return CompositePsf([stamp for stamp, _ in members], [list(box) for _, box in members])


def _member(number: int, result: Any) -> tuple[Array, Box]:
    """PSF in the middle of a cell, and its box."""
    sub, psf, box = (getattr(result, name, None) for name in ("subExposure", "psf", "bbox"))
    if sub is not None:
        box = box_of(sub)
        stamp = psf_stamp(sub, box.center)
        if stamp is not None:
            return stamp, box
    elif psf is not None and box is not None:
        box = as_box(box)
        return stamp_at(psf, *box.center), box
    raise TypeError(
        f"the mapper's result for cell {number} has no PSF; for a composite one it must be a Struct with a subExposure "
        "that has a PSF, or with psf and bbox"
    )
