"""Image map-reduce: a task run on every cell of an exposure, and the results put together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from lsst.pex.config import ChoiceField, ConfigurableField, Field, ListField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..boxes import Box, as_box, box_like
from ..cell_pictures import draw_boxes
from ..cells import CellGrid
from ..decorrelation_config import IGNORED_PLANES
from ..exposure_parts import box_of, native_box
from ..exposure_psfs import psf_sigma
from ..exposures import cut_out
from ..psf import FWHM_PER_SIGMA
from .image_mappers import ImageMapper
from .image_reducers import ImageReducer
from .overrides import OverridableConfig


def _size(default: float, doc: str) -> Field:
    return Field(dtype=float, default=default, doc=doc, check=lambda size: size > 0)


def _centroids(axis: str) -> ListField:
    return ListField(
        dtype=float,
        default=None,
        optional=True,
        doc=f"{axis} of the cells' centres relative to the exposure's first pixel. With centres given, for both axes, "
        "sizes are whole pixels, and step and adjustment have no effect.",
    )


class ImageMapReduceConfig(OverridableConfig):
    """Configuration of `ImageMapReduceTask`; `gpucoadd.CellGrid` says what the fields of the grid mean."""

    mapper = ConfigurableField(target=ImageMapper, doc="The operation on a cell.")
    reducer = ConfigurableField(target=ImageReducer, doc="How the results are put together.")
    cellCentroidsX = _centroids("X")
    cellCentroidsY = _centroids("Y")
    cellSizeX = _size(10.0, "Width of the cells; in units of the PSF's FWHM with scaleByFwhm, like all sizes.")
    cellSizeY = _size(10.0, "Height of the cells.")
    gridStepX = _size(10.0, "Distance in x of the cells' centres; not used with adjustGridOption 'spacing'.")
    gridStepY = _size(10.0, "Distance in y of the cells' centres.")
    borderSizeX = _size(5.0, "Columns around a cell, on each side.")
    borderSizeY = _size(5.0, "Rows around a cell, on each side.")
    adjustGridOption = ChoiceField(
        dtype=str,
        default="spacing",
        doc="How the grid is made to fit the exposure.",
        allowed={
            "spacing": "as many centres as cells fit, plus one, evenly spread from edge to edge",
            "size": "cells of one pixel more than the step",
            "none": "sizes and steps as they are; the last cells are cut off at the edge",
        },
    )
    scaleByFwhm = Field(dtype=bool, default=True, doc="Whether sizes are in units of the PSF's FWHM; else pixels.")
    returnSubImages = Field(dtype=bool, default=False, doc="Whether the results get the cells' inputs as well.")
    ignoreMaskPlanes = ListField(dtype=str, default=list(IGNORED_PLANES), doc="Not used here; mappers may look at it.")


def grid_of(config: ImageMapReduceConfig) -> CellGrid:
    """
    The grid that a configuration describes; how results are put together is left to the reducer.

    Raises
    ------
    ValueError
        If the two lists of centroids differ in length.
    """
    names = [name for name in config if name not in ("mapper", "reducer")]
    values = {name: getattr(config, name) for name in names}
    plain = (str, float, bool, type(None))
    return CellGrid.from_lsst({name: v if isinstance(v, plain) else list(v) for name, v in values.items()})


def fwhm_of(exposure: Any, grid: CellGrid) -> float | None:
    """
    FWHM of the PSF of an exposure in pixels; None if the grid does not need it.

    Raises
    ------
    ValueError
        If the grid needs it and the exposure does not have it.
    """
    if grid.centroids or not grid.scale_by_fwhm:
        return None
    fwhm = FWHM_PER_SIGMA * psf_sigma(exposure)
    if not 0 < fwhm < np.inf:
        raise ValueError(
            "the cells' sizes are in units of the PSF's FWHM, and the exposure does not tell it; give it a PSF, or "
            "sizes in pixels with scaleByFwhm = False"
        )
    return fwhm


class ImageMapReduceTask(Task):
    """
    Runs a mapper on every cell of an exposure and puts the results together.

    Attributes
    ----------
    boxes0, boxes1 : list of box, or None
        The cells of the last run and the cells with their borders, in the kind of the exposure's own box.
    """

    ConfigClass = ImageMapReduceConfig
    _DefaultName = "ip_diffim_imageMapReduce"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.boxes0: list[Any] | None = None
        self.boxes1: list[Any] | None = None
        self.makeSubtask("mapper")
        self.makeSubtask("reducer")

    @timeMethod
    def run(self, exposure: Any, **kwargs: Any) -> Struct:
        """
        Map and reduce.

        Parameters
        ----------
        exposure : exposure
            Of any kind that `gpucoadd.from_lsst` takes; not modified.
        **kwargs
            Handed to the grid (`forceEvenSized`), to the mapper and to the reducer.

        Returns
        -------
        lsst.pipe.base.Struct
            What the reducer returns: ``exposure`` in the kind that came, or ``result``.

        Raises
        ------
        TypeError
            If the exposure, or a result that is to be put together, is of no kind that is known.
        ValueError
            If the grid has no cells, or needs a PSF that is not there.
        RuntimeError
            If boxes cannot be made even.

        Notes
        -----
        Every cell is a copy, cut from the exposure as it came, and the grid is made anew in every run. (In LSST's task
        cells are views, so that a mapper that writes to its input changes that of the cells after it, and the grid of
        the first run is kept.)
        """
        return self._reduceImage(self._runMapper(exposure, **kwargs), exposure, **kwargs)

    def _generateGrid(self, exposure: Any, forceEvenSized: bool = False, **kwargs: Any) -> tuple[list[Any], list[Any]]:
        """Make and keep the two lists of boxes."""
        grid, box, own = grid_of(self.config), box_of(exposure), native_box(exposure)
        inner, expanded = grid.boxes(
            box.shape, origin=box.origin, psf_fwhm=fwhm_of(exposure, grid), force_even=forceEvenSized
        )
        self.boxes0, self.boxes1 = ([box_like(Box(*row), own) for row in rows.tolist()] for rows in (inner, expanded))
        return self.boxes0, self.boxes1

    def _runMapper(self, exposure: Any, doClone: bool = False, **kwargs: Any) -> list[Any]:
        """Results of all cells, in order. Cells are copies whatever `doClone` says."""
        pairs = list(zip(*self._generateGrid(exposure, **kwargs)))
        self.metadata["n_cells"] = len(pairs)
        own = native_box(exposure)
        return [self._mapped(exposure, pair, own, kwargs) for pair in pairs]

    def _mapped(self, exposure: Any, pair: tuple[Any, Any], own: Any, kwargs: dict[str, Any]) -> Any:
        result = self.mapper.run(*(cut_out(exposure, box) for box in pair), own, **kwargs)
        if not self.config.returnSubImages:
            return result
        inputs = dict(zip(("inputSubExposure", "inputExpandedSubExposure"), (cut_out(exposure, box) for box in pair)))
        return Struct(**(result.getDict() | inputs))

    def _reduceImage(self, mapperResults: list[Any], exposure: Any, **kwargs: Any) -> Struct:
        """What the reducer makes of the results."""
        return self.reducer.run(mapperResults, exposure, **kwargs)

    def plotBoxes(self, fullBBox: Any, skip: int = 3, path: str | os.PathLike[str] = "boxes.png") -> Path:
        """
        Draw the boxes of the last run as a PNG file: cells tinted, with their borders outlined.

        Parameters
        ----------
        fullBBox : box
            Of the whole exposure.
        skip : int
            Every how manieth cell is drawn.
        path : path
            File to write; its folder must exist. (LSST's task draws into a window of matplotlib's.)

        Returns
        -------
        Path
            `path`.

        Raises
        ------
        RuntimeError
            If there has been no run, and so there is no grid.
        ValueError
            If `skip` is not a positive integer.
        """
        if self.boxes0 is None or self.boxes1 is None:
            raise RuntimeError("there are no boxes before the first run; call run(exposure) first")
        box = as_box(fullBBox)
        inner, expanded = (np.array([as_box(each) for each in boxes]) for boxes in (self.boxes0, self.boxes1))
        return draw_boxes(Path(path), inner, expanded, box.shape, origin=box.origin, skip=skip)
