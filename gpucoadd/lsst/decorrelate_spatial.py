"""Decorrelation of the noise of an image difference cell by cell, each with its own kernel and variances."""

from __future__ import annotations

import logging
import math
from typing import Any

from lsst.pex.config import ConfigField, ConfigurableField, ListField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..backend import array_module
from ..decorrelation_config import IGNORED_PLANES, DecorrelationConfig
from ..decorrelation_steps import all_nan
from ..exposure_parts import box_of
from ..exposure_psfs import psf_stamp
from ..exposures import cut_out, from_lsst, given_back
from ..images import MaskedImage
from .decorrelate import DecorrelateALKernelConfig, DecorrelateALKernelTask, lsst_names, mean_of
from .devices import device_field
from .image_map_reduce import ImageMapReduceConfig, ImageMapReduceTask, fwhm_of
from .image_mappers import ImageMapper
from .image_reducers import ImageReducer
from .image_triples import Triple, corrected_psfs
from .overrides import OverridableConfig
from .stamp_sources import ByPosition


class DecorrelateALKernelMapper(DecorrelateALKernelTask, ImageMapper):
    """
    `DecorrelateALKernelTask` for one cell of image map-reduce.

    Of the methods besides `run`, it asks `computeVarianceMean`; to override another one is an error.
    """

    ConfigClass = DecorrelateALKernelConfig
    _DefaultName = "ip_diffim_decorrelateALKernelMapper"
    _to_be_called = tuple(name for name in DecorrelateALKernelTask._to_be_called if name != "computeVarianceMean")

    def run(  # type: ignore[override]
        self,
        subExposure: Any,
        expandedSubExposure: Any,
        fullBBox: Any,
        template: Any,
        science: Any,
        alTaskResult: Any = None,
        psfMatchingKernel: Any = None,
        preConvKernel: Any = None,
        **kwargs: Any,
    ) -> Struct:
        """
        Decorrelate one cell.

        Parameters
        ----------
        subExposure, expandedSubExposure : exposure
            The difference in the cell, and in the cell with its border. Not modified.
        fullBBox : box
            Not looked at.
        template, science : exposure
            Template and science image, at least as large as the expanded cell.
        alTaskResult : object, optional
            With ``psfMatchingKernel``, where that is not given itself.
        psfMatchingKernel, preConvKernel
            As in `DecorrelateALKernelTask.run`.
        **kwargs
            Such as ``templateMatched`` and ``preConvMode``; others are ignored.

        Returns
        -------
        lsst.pipe.base.Struct
            ``subExposure``: the corrected cell; NaN throughout where a variance cannot be measured.

        Raises
        ------
        RuntimeError
            If there is no kernel.
        KeyError, TypeError, ValueError
            As from `gpucoadd.decorrelate`.
        """
        if psfMatchingKernel is None:
            if alTaskResult is None:
                raise RuntimeError("there is no matching kernel; give psfMatchingKernel, or alTaskResult that has it")
            psfMatchingKernel = alTaskResult.psfMatchingKernel
        if kwargs.get("preConvMode") and preConvKernel is None:
            preConvKernel = psf_stamp(science)
        # Cells at the edge may be smaller than the kernels.
        kernel, preconvolution = (k if k is None else ByPosition(k) for k in (psfMatchingKernel, preConvKernel))
        box = box_of(expandedSubExposure)
        sides = [cut_out(each, box) for each in (science, template)]
        levels = [self.computeVarianceMean(side) for side in sides]
        if any(map(math.isnan, levels)):
            if not any(all_nan(from_lsst(side).image) for side in sides):
                return Struct(subExposure=given_back(_nothing(from_lsst(subExposure)), subExposure))
        else:
            kwargs = dict(zip(("svar", "tvar"), levels)) | kwargs
        result = super().run(*sides, expandedSubExposure, kernel, preConvKernel=preconvolution, **kwargs)
        return Struct(subExposure=cut_out(result.correctedExposure, box_of(subExposure)))


def _nothing(image: MaskedImage) -> MaskedImage:
    """`image` without a value in any pixel."""
    values, variance = (array_module(plane).full_like(plane, math.nan) for plane in (image.image, image.variance))
    return image.with_planes(values, variance, image.mask)


class DecorrelateALKernelMapReduceConfig(ImageMapReduceConfig):
    """Configuration of image map-reduce for decorrelation."""

    mapper = ConfigurableField(target=DecorrelateALKernelMapper, doc="The operation on a cell.")


class DecorrelateALKernelSpatialConfig(OverridableConfig):
    """Configuration of `DecorrelateALKernelSpatialTask`."""

    decorrelateConfig = ConfigField(
        dtype=DecorrelateALKernelConfig, doc="Of the whole image, where spatiallyVarying is False."
    )
    decorrelateMapReduceConfig = ConfigField(
        dtype=DecorrelateALKernelMapReduceConfig,
        doc="Of the cells, where spatiallyVarying is True; its mapper has the mask planes and the kind of variance.",
    )
    ignoreMaskPlanes = ListField(
        dtype=str,
        default=list(IGNORED_PLANES),
        doc="Mask planes whose pixels do not count in the variances that are logged; others are not concerned.",
    )
    device = device_field()

    def setDefaults(self) -> None:
        """Sizes in units of the PSF's FWHM."""
        cells = self.decorrelateMapReduceConfig
        cells.cellSizeX = cells.cellSizeY = 41.0
        cells.gridStepX = cells.gridStepY = 40.0
        cells.borderSizeX = cells.borderSizeY = 8.0
        cells.reducer.reduceOperation = "average"


class DecorrelateALKernelSpatialTask(Task):
    """
    Makes the noise of a difference white again, in cells or with one correction for the whole image.

    Cells are corrected all together by `gpucoadd.decorrelate`. Only where the configuration has another mapper or
    reducer than `DecorrelateALKernelMapper` and `ImageReducer` do they go through `ImageMapReduceTask`, one by one.
    """

    ConfigClass = DecorrelateALKernelSpatialConfig
    _DefaultName = "ip_diffim_decorrelateALKernelSpatial"

    @timeMethod
    def run(
        self,
        scienceExposure: Any,
        templateExposure: Any,
        subtractedExposure: Any,
        psfMatchingKernel: Any,
        spatiallyVarying: bool = True,
        preConvKernel: Any = None,
        templateMatched: bool = True,
        preConvMode: bool = False,
    ) -> Struct:
        """
        Decorrelate a difference, or make a score image of a pre-convolved one.

        Parameters
        ----------
        scienceExposure, templateExposure, subtractedExposure, psfMatchingKernel
            As in `DecorrelateALKernelTask.run`. The difference is not modified.
        spatiallyVarying : bool
            Whether to work in cells. Each is corrected from the difference as it came. (LSST's cells are views of one
            image that is overwritten, so that overlaps are corrected repeatedly.)
        preConvKernel, templateMatched, preConvMode
            As in `DecorrelateALKernelTask.run`.

        Returns
        -------
        lsst.pipe.base.Struct
            As from `DecorrelateALKernelTask.run`. In cells ``exposure`` is the same object as ``correctedExposure``,
            and ``correctedPsf`` is a `gpucoadd.CompositePsf`, or None where cells go through `ImageMapReduceTask`; a
            `PlainMaskedImage` gets the corrected PSF of the cell nearest to the middle.

        Raises
        ------
        KeyError, TypeError, ValueError
            As from `gpucoadd.decorrelate`; ValueError also if sizes of cells are in units of the PSF's FWHM and the
            difference has no PSF.
        ImportError, RuntimeError
            If the device of the configuration is not there; RuntimeError also if boxes cannot be made even.
        """
        given = Triple(scienceExposure, templateExposure, subtractedExposure, psfMatchingKernel)
        self._log_variances(given)
        mode = {"templateMatched": templateMatched, "preConvMode": preConvMode, "preConvKernel": preConvKernel}
        cells = self.config.decorrelateMapReduceConfig
        if spatiallyVarying and not (
            cells.mapper.target is DecorrelateALKernelMapper and cells.reducer.target is ImageReducer
        ):
            exposure = self._map_reduced(given, mode)
            return Struct(correctedExposure=exposure, exposure=exposure, correctedPsf=None)
        config = DecorrelationConfig.from_lsst(lsst_names(self.config), spatially_varying=spatiallyVarying)
        part = cells.mapper if spatiallyVarying else self.config.decorrelateConfig
        made = given.decorrelated(
            config=config,
            device=self.config.device if part.device == "auto" else part.device,
            psf_fwhm=None if config.cells is None else fwhm_of(subtractedExposure, config.cells),
            **mode,
        )
        stamp, psf = corrected_psfs(made, score=preConvMode)
        exposure = given.given_back(made, psf=stamp)
        if made.cells is None:
            return Struct(correctedExposure=exposure, correctedPsf=psf)
        self.metadata["n_cells"] = len(made.cells.inner)
        return Struct(correctedExposure=exposure, exposure=exposure, correctedPsf=psf)

    def _map_reduced(self, given: Triple, mode: dict[str, Any]) -> Any:
        """What `ImageMapReduceTask` makes of the difference; the mask is that of the difference."""
        task = ImageMapReduceTask(config=self.config.decorrelateMapReduceConfig)
        result = task.run(
            given.difference,
            template=given.template,
            science=given.science,
            psfMatchingKernel=given.kernel,
            forceEvenSized=True,
            **mode,
        )
        self.metadata["n_cells"] = task.metadata["n_cells"]
        if not hasattr(result, "exposure"):
            raise ValueError(
                "the reducer of decorrelateMapReduceConfig gives no exposure; set reduceOperation to 'average', 'sum' "
                "or 'copy', or run ImageMapReduceTask"
            )
        return given.given_back(from_lsst(result.exposure))

    def computeVarianceMean(self, exposure: Any) -> float:
        """Clipped mean of the variance plane of an exposure, in its unit squared; for the log alone."""
        return mean_of(exposure, self.config.ignoreMaskPlanes)

    def _log_variances(self, given: Triple) -> None:
        if self.log.isEnabledFor(logging.INFO):
            means = [self.computeVarianceMean(each) for each in (given.science, given.template)]
            self.log.info("Variance of the whole image (science, template): (%g, %g)", *means)
