"""PSFs of exposures: the object, its width, images of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .backend import Array
from .exposure_parts import box_of, first, pixels_of, point
from .point_spread import Psf
from .psf import adaptive_moments


def psf_of(exposure: Any) -> Any:
    """The PSF object of an exposure, or None."""
    return first(exposure, ("getPsf", "psf"))


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
        metadata = first(exposure, ("getMetadata", "metadata"))
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
        x, y = point(psf.getAveragePosition())
        return stamp_at(psf, y, x)
    return stamp_at(psf, *(position or box_of(exposure).center))


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
        return np.array(pixels_of(image), dtype=np.float64)
    if hasattr(psf, "compute_kernel_image"):
        return np.array(pixels_of(psf.compute_kernel_image(x=x, y=y)), dtype=np.float64)
    if isinstance(psf, Psf):
        return psf.at(y, x)
    raise TypeError(
        f"a PSF must have computeKernelImage() as in lsst.afw, compute_kernel_image() as in lsst.images, or be a "
        f"gpucoadd.Psf; got {type(psf).__name__}"
    )
