"""Decorrelation of the noise of an image difference, with one kernel for the whole image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from lsst.pex.config import Config, Field, ListField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..backend import Array
from ..decorrelation import variance_mean
from ..decorrelation_config import IGNORED_PLANES, DecorrelationConfig
from ..exposures import from_lsst
from ..full_planes import (
    convolved_variance,
    corrected_image,
    corrected_stamp,
    cut_from_corner,
    full_correction,
    pad_to_corner,
    scaled_variance,
)
from ..spectra import fft_shape
from .devices import device_field
from .image_triples import Triple, corrected_psfs
from .overridden import check_overridden
from .overrides import OverridableConfig


class DecorrelateALKernelConfig(OverridableConfig):
    """Configuration of `DecorrelateALKernelTask` and of `DecorrelateALKernelMapper`."""

    ignoreMaskPlanes = ListField(
        dtype=str,
        default=list(IGNORED_PLANES),
        doc="Mask planes whose pixels do not count in the mean variances. Of this list, planes that a mask does not "
        "have are skipped; of any other all must exist.",
    )
    completeVarPlanePropagation = Field(
        dtype=bool,
        default=False,
        doc="Whether variance planes are convolved with the squared kernels, instead of being scaled.",
    )
    device = device_field()


def lsst_names(config: Config) -> dict[str, Any]:
    """Fields of a configuration under LSST's dotted names, without `device`."""
    return {name: value for name, value in _flat(config.toDict()).items() if name.split(".")[-1] != "device"}


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            named |= {f"{name}.{below}": each for below, each in _flat(value).items()}
        else:
            named[name] = value
    return named


def mean_of(exposure: Any, ignored: Iterable[str]) -> float:
    """`gpucoadd.variance_mean` of an exposure."""
    image = from_lsst(exposure)
    return variance_mean(image.variance, image.mask, schema=image.schema, ignore_planes=tuple(ignored))


class DecorrelateALKernelTask(Task):
    """
    Makes the noise of a difference white again: `gpucoadd.decorrelate` for exposures.

    `run` is all that is needed, and does not ask the other methods, so that to override one of them is an error. They
    do single steps of its work, for who calls them: on arrays of whole FFT planes, on the grid that
    `computeCommonShape` sets, with the origin at [0, 0].

    Attributes
    ----------
    freqSpaceShape : (int, int) or None
        (ny, nx) of the FFT grid, of the last run or call of `computeCommonShape`.
    """

    ConfigClass = DecorrelateALKernelConfig
    _DefaultName = "ip_diffim_decorrelateALKernel"

    # What `run` does not ask.
    _to_be_called: ClassVar[tuple[str, ...]] = (
        "computeVarianceMean",
        "computeCommonShape",
        "padCenterOriginArray",
        "computeDiffimCorrection",
        "computeScoreCorrection",
        "estimateVariancePlane",
        "calculateVariancePlane",
        "computeCorrectedImage",
        "computeCorrectedDiffimPsf",
    )

    freqSpaceShape: tuple[int, int] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_overridden(self, self._to_be_called, by="run")

    @timeMethod
    def run(
        self,
        scienceExposure: Any,
        templateExposure: Any,
        subtractedExposure: Any,
        psfMatchingKernel: Any,
        preConvKernel: Any = None,
        xcen: float | None = None,
        ycen: float | None = None,
        svar: float | None = None,
        tvar: float | None = None,
        templateMatched: bool = True,
        preConvMode: bool = False,
        **kwargs: Any,
    ) -> Struct:
        """
        Decorrelate a difference, or make a score image of a pre-convolved one.

        Parameters
        ----------
        scienceExposure, templateExposure : exposure
            The images before matching, on the pixels of the difference; of any kind that `gpucoadd.from_lsst` takes.
        subtractedExposure : exposure
            The difference. It is not modified (LSST's task overwrites it).
        psfMatchingKernel : array, object with ``at(y, x)``, Kernel of `lsst.afw.math`, or kernel of `lsst.images`
            What matched them.
        preConvKernel : likewise, optional
            In score mode, what the science image was convolved with; its PSF at the average position when left out.
        xcen, ycen : float, optional
            Parent position at which kernel and PSF are taken; the middle, begin plus end over two, when left out.
        svar, tvar : float, optional
            Variances per pixel of science image and template; measured when left out.
        templateMatched : bool
            Whether the template was convolved; else the science image was.
        preConvMode : bool
            Make a score image.
        **kwargs
            Ignored, such as ``spatiallyVarying``.

        Returns
        -------
        lsst.pipe.base.Struct
            ``correctedPsf``: array (h, w), float64, of sum 1, the PSF of the image that was not convolved after the
            correction, or None, if that image has no PSF, or for a score image.
            ``correctedExposure``: in the kind of the difference, a new object, with its mask. A `PlainMaskedImage` gets
            the corrected PSF; other kinds keep that of the difference, as in LSST's task, whose kinds of PSF cannot be
            made here.

        Raises
        ------
        KeyError, TypeError, ValueError
            As from `gpucoadd.decorrelate`.
        ImportError, RuntimeError
            If the device of the configuration is not there.
        """
        given = Triple(scienceExposure, templateExposure, subtractedExposure, psfMatchingKernel)
        made = given.decorrelated(
            config=DecorrelationConfig.from_lsst(lsst_names(self.config), spatially_varying=False),
            device=self.config.device,
            templateMatched=templateMatched,
            preConvMode=preConvMode,
            preConvKernel=preConvKernel,
            position=given.position(xcen, ycen),
            science_variance=svar,
            template_variance=tvar,
        )
        self.freqSpaceShape = made.fft_shape
        self.log.info("Variance (science, template): (%g, %g)", made.science_variance, made.template_variance)
        stamp, psf = corrected_psfs(made, score=preConvMode)
        return Struct(correctedExposure=given.given_back(made, psf=stamp), correctedPsf=psf)

    def computeVarianceMean(self, exposure: Any) -> float:
        """Clipped mean of the variance plane of an exposure, in its unit squared; as `gpucoadd.variance_mean`."""
        return mean_of(exposure, self.config.ignoreMaskPlanes)

    def computeCommonShape(self, *shapes: tuple[int, int]) -> None:
        """Set `freqSpaceShape` for arrays of these shapes (y, x), as `gpucoadd.fft_shape` tells."""
        self.freqSpaceShape = fft_shape(*shapes)

    @staticmethod
    def padCenterOriginArray(A: Array, newShape: tuple[int, int], useInverse: bool = False) -> Array:
        """
        Zero-pad an array and move its origin ``[h // 2, w // 2]`` to [0, 0], or undo that.

        Parameters
        ----------
        A : array, shape (y, x)
        newShape : (int, int)
            Of what is returned: the grid, or with `useInverse` the array that was padded.
        useInverse : bool

        Returns
        -------
        array, shape `newShape`, dtype of `A`

        Raises
        ------
        ValueError
            If the smaller shape does not fit into the larger one.
        """
        return cut_from_corner(A, newShape) if useInverse else pad_to_corner(A, newShape)

    def computeDiffimCorrection(self, kappa: Array, svar: float, tvar: float) -> Struct:
        """
        Correction that whitens a difference, on the whole FFT plane.

        Parameters
        ----------
        kappa : array, shape (ky, kx), float
            Matching kernel.
        svar, tvar : float
            Variances per pixel of the image that was not convolved, and of the one that was, before.

        Returns
        -------
        lsst.pipe.base.Struct
            Arrays (ny, nx) in the order of `fft2`: ``corrft``, float64, the correction; ``cnft`` and ``crft``,
            complex128, what acts on the image that was not convolved, and on the one that was.

        Raises
        ------
        RuntimeError
            If no FFT grid has been set.
        ValueError
            As from `gpucoadd.diffim_correction`.
        """
        return self._correction(kappa, svar, tvar)

    def computeScoreCorrection(self, kappa: Array, svar: float, tvar: float, preConvArr: Array) -> Struct:
        """
        Correction that makes a pre-convolved difference a score image, on the whole FFT plane.

        Parameters
        ----------
        kappa, svar, tvar
            As in `computeDiffimCorrection`; the template was convolved.
        preConvArr : array, shape (py, px), float
            What the science image was convolved with. Normalised here.

        Returns
        -------
        lsst.pipe.base.Struct
            As in `computeDiffimCorrection`.

        Raises
        ------
        RuntimeError, ValueError
            As in `computeDiffimCorrection`.
        """
        return self._correction(kappa, svar, tvar, preConvArr)

    def _correction(self, kappa: Array, v1: float, v2: float, preconvolution: Array | None = None) -> Struct:
        if self.freqSpaceShape is None:
            raise RuntimeError("no FFT grid has been set; call computeCommonShape(shape, ...) with all shapes first")
        made = full_correction(kappa, v1, v2, self.freqSpaceShape, preconvolution)
        return Struct(corrft=made.correction, cnft=made.unconvolved, crft=made.convolved)

    @staticmethod
    def estimateVariancePlane(vplane1: Array, vplane2: Array, c1ft: Array, c2ft: Array) -> Array:
        """Variance plane of the corrected difference, pixel by pixel; `gpucoadd.full_planes.scaled_variance`."""
        return scaled_variance(vplane1, vplane2, c1ft, c2ft)

    @staticmethod
    def calculateVariancePlane(
        vplane1: Array, vplane2: Array, varMean1: float, varMean2: float, c1ft: Array, c2ft: Array
    ) -> Array:
        """
        Variance plane of the corrected difference by convolution; `gpucoadd.full_planes.convolved_variance`.

        Pixels that are not finite count as `varMean1` and `varMean2`.
        """
        return convolved_variance(vplane1, vplane2, c1ft, c2ft, fill=(varMean1, varMean2))

    @staticmethod
    def computeCorrectedImage(corrft: Array, imgOld: Array) -> Array:
        """Image after a correction (ny, nx), float64; `gpucoadd.full_planes.corrected_image` tells more."""
        return corrected_image(corrft, imgOld)

    @staticmethod
    def computeCorrectedDiffimPsf(corrft: Array, psfOld: Any) -> Array:
        """
        PSF after a correction (ny, nx).

        Parameters
        ----------
        corrft : array, shape (ny, nx), float
        psfOld : array, shape (h, w), float

        Returns
        -------
        array, shape (h, w), float64
            Sum 1. (LSST's task makes a KernelPsf of it.)

        Raises
        ------
        ValueError
            As from `gpucoadd.full_planes.corrected_stamp`.
        """
        return corrected_stamp(corrft, psfOld)
