"""Matching kernels and PSFs of the LSST stack as what `gpucoadd.decorrelate` takes: arrays, or objects with ``at``."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from ..backend import Array
from ..exposure_psfs import psf_of, stamp_at
from .loaded import loaded_afw

_LOCK = threading.Lock()  # cells are corrected in several threads; kernels and PSFs of afw keep what was asked last


def kernel_source(kernel: Any) -> Any:
    """
    A matching or pre-convolution kernel as `gpucoadd.decorrelate` takes it.

    Parameters
    ----------
    kernel : array, object with ``at(y, x)``, Kernel of `lsst.afw.math`, or ConvolutionKernel of `lsst.images`

    Returns
    -------
    array or object with ``at(y, x)``
        An array if the kernel is the same everywhere and says so.

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if hasattr(kernel, "compute_kernel_image"):
        return KernelStamps(kernel)
    if hasattr(kernel, "computeImage"):
        source = KernelStamps(kernel)
        varies = kernel.isSpatiallyVarying() if hasattr(kernel, "isSpatiallyVarying") else True
        return source if varies else source.at(0.0, 0.0)
    if hasattr(kernel, "at") or hasattr(kernel, "ndim"):
        return kernel
    raise TypeError(
        "a kernel must be an array (y, x), an object with at(y, x) as gpucoadd.SpatialKernel, or have computeImage() "
        f"as in lsst.afw.math or compute_kernel_image() as in lsst.images; got {type(kernel).__name__}"
    )


def psf_source(exposure: Any) -> Any:
    """The PSF of an exposure as `gpucoadd.decorrelate` takes it: an array, an object with ``at(y, x)``, or None."""
    psf = psf_of(exposure)
    return psf if psf is None or hasattr(psf, "at") or hasattr(psf, "ndim") else PsfStamps(psf)


class ByPosition:
    """
    Any kernel as an object with ``at(y, x)``, which may be larger than the image that it is for.

    Parameters
    ----------
    kernel
        As `kernel_source` takes it.
    """

    def __init__(self, kernel: Any) -> None:
        self._source = kernel_source(kernel)

    def at(self, y: float, x: float) -> Array:
        """Kernel at a position in parent pixels."""
        return self._source.at(y, x) if hasattr(self._source, "at") else self._source


class KernelStamps:
    """
    A Kernel of `lsst.afw.math` or `lsst.images`, by position.

    Parameters
    ----------
    kernel : object
        With ``computeImage(image, doNormalize, x=, y=)`` and ``getDimensions()``, or ``compute_kernel_image(x=, y=)``.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel

    def at(self, y: float, x: float) -> Array:
        """Kernel at a position in parent pixels, (ky, kx) float64, not normalised."""
        with _LOCK:
            if hasattr(self._kernel, "compute_kernel_image"):
                return stamp_at(self._kernel, y, x)
            image = _blank(self._kernel)
            self._kernel.computeImage(image, False, x=x, y=y)
            return np.array(image.array, dtype=np.float64)


class PsfStamps:
    """A PSF of `lsst.afw.detection` or `lsst.images`, by position."""

    def __init__(self, psf: Any) -> None:
        self._psf = psf

    def at(self, y: float, x: float) -> Array:
        """
        PSF at a position in parent pixels, (h, w) float64.

        Raises
        ------
        TypeError
            If the PSF has no method that gives an image.
        ValueError
            If it is not defined there, as that of a coadd in a hole.
        """
        try:
            with _LOCK:
                return stamp_at(self._psf, y, x)
        except (TypeError, AttributeError):
            raise
        except Exception as error:  # that of a PSF without a value is of a package that is not imported here
            raise ValueError(f"the PSF has no image at (y, x) = ({y}, {x}): {error}") from error


class _Image:
    """What a kernel fills where `lsst.afw.image` is not there."""

    def __init__(self, dimensions: Any) -> None:
        self.array = np.zeros((dimensions.getY(), dimensions.getX()))


def _blank(kernel: Any) -> Any:
    """An image for a kernel to fill; one of `lsst.afw` wants one of its own, and then that module is loaded."""
    afw = loaded_afw("image", kernel)
    return (_Image if afw is None else afw.ImageD)(kernel.getDimensions())
