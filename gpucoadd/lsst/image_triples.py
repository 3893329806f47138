"""`gpucoadd.decorrelate` for exposures: what the tasks of decorrelation have in common."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from ..backend import Array, array_module, is_host, to_host
from ..decorrelation import Decorrelated, decorrelate
from ..decorrelation_config import DecorrelationConfig
from ..decorrelation_inputs import middle
from ..exposure_psfs import psf_stamp
from ..exposures import from_lsst, given_back
from ..images import MaskedImage
from ..mosaic import CompositePsf
from ..point_spread import Psf
from .devices import on_device
from .plain import PlainMaskedImage
from .stamp_sources import kernel_source, psf_source

logger = logging.getLogger(__name__)


class Triple(NamedTuple):
    """Science image, template, their difference, and the kernel that matched the two."""

    science: Any
    template: Any
    difference: Any
    kernel: Any

    def decorrelated(
        self,
        *,
        config: DecorrelationConfig,
        device: str,
        templateMatched: bool,
        preConvMode: bool,
        preConvKernel: Any,
        **options: Any,
    ) -> Decorrelated:
        """
        `gpucoadd.decorrelate` of the exposures, on a device.

        Parameters
        ----------
        config : DecorrelationConfig
        device : str
            As in `gpucoadd.backend.resolve_device`.
        templateMatched, preConvMode, preConvKernel
            As of the tasks.
        **options
            Further ones of `gpucoadd.decorrelate`.

        Raises
        ------
        TypeError, ValueError, RuntimeError, ImportError
            As from `gpucoadd.decorrelate` and `gpucoadd.backend.resolve_device`.
        """
        science, template, difference = (on_device(from_lsst(each), device) for each in self[:3])
        preconvolution = None if preConvKernel is None else kernel_source(preConvKernel)
        if preConvMode and preconvolution is None:
            preconvolution = psf_stamp(self.science)
        return decorrelate(
            science,
            template,
            difference,
            kernel_source(self.kernel),
            template_matched=templateMatched,
            score=preConvMode,
            preconvolution_kernel=preconvolution,
            science_psf=psf_source(self.science),
            template_psf=psf_source(self.template),
            config=config,
            **options,
        )

    def position(self, xcen: float | None, ycen: float | None) -> tuple[float, float]:
        """(y, x) at which the kernel is taken: the middle, begin plus end over two, where it is not given."""
        y, x = middle(from_lsst(self.difference))
        return (y if ycen is None else ycen), (x if xcen is None else xcen)

    def given_back(self, made: Decorrelated | MaskedImage, *, psf: Array | None = None) -> Any:
        """
        Image and variance of `made`, in the kind of the difference.

        The mask is a copy of that of the difference, and all that an exposure has besides is the difference's too; but
        a `PlainMaskedImage` gets the stamp `psf`, if there is one and it is a PSF.
        """
        difference = from_lsst(self.difference)
        stays = not is_host(array_module(difference.image))
        image, variance = (plane if stays else to_host(plane) for plane in (made.image, made.variance))
        planes = image, variance, difference.mask.copy()
        if psf is not None and isinstance(difference, PlainMaskedImage):
            try:
                return difference.with_planes(*planes, psf=Psf(psf))
            except ValueError as error:
                logger.warning("the PSF of the difference is kept, since the corrected one cannot be: %s", error)
        return given_back(difference.with_planes(*planes), self.difference)


def corrected_psfs(made: Decorrelated, *, score: bool) -> tuple[Array | None, Any]:
    """
    PSF after the correction, on the host: a stamp, and what there is to know; in cells that is a `CompositePsf`.

    None without a PSF, and for a score image, whose PSF is another one.
    """
    if score or made.psf is None:
        return None, None
    stamp = to_host(made.psf)
    return stamp, stamp if made.cells is None else CompositePsf(to_host(made.cells.psf), made.cells.inner)
