"""
Decorrelation of image differences: noise made white again, over the whole image or in cells.

A difference ``D = S - kernel * T`` has correlated noise, since the kernel smooths the noise of T. Multiplying its
transform by ``C = sqrt((v1 + v2 s^2) / (v1 + v2 |K|^2))`` makes the power of the noise flat again; v1 and v2 are the
variances of the image that was not convolved and of the one that was, K is the transform of the kernel and s its sum.

Why cells: v1, v2 and the kernel vary over the field, and one C is right at one place only. Every cell here is
corrected from the untouched difference.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .backend import Array, array_module, is_host, launchers, using
from .cells import CellGrid
from .decorrelation_cells import DecorrelatedCells, correct_cells
from .decorrelation_config import IGNORED_PLANES, DecorrelationConfig
from .decorrelation_inputs import Inputs, clipped_variance, ignored_bits, middle, prepare
from .decorrelation_steps import correct_whole
from .filtering import Windows
from .images import MaskedImage, check_dtype, check_schema
from .masks import MaskSchema
from .matching import SpatialKernel
from .mosaic import CompositePsf
from .spectra import Correction
from .workers import check_threads


@dataclass(frozen=True, kw_only=True, eq=False)
class Decorrelated:
    """
    A decorrelated difference, or a score image.

    Attributes
    ----------
    image : array, shape (y, x)
        Dtype and unit of the difference.
    variance : array, shape (y, x)
        Made anew of the variances of science and template; dtype of the difference's variance.
    mask : array, shape (y, x), int32
        That of the difference, the very array.
    schema, origin, wcs, unit
        As of the difference.
    psf : array, shape (h, w), float64, or None
        PSF of the image that was not convolved after the correction, sum 1; in cells, that of the one nearest to the
        middle. None if no PSF was given. In score mode it is *not* the PSF of the score image; a warning says so.
    fft_shape : (int, int) or None
        (ny, nx) of the FFT grid, of a whole image.
    kernel_position : (float, float) or None
        (y, x) at which the kernel was taken, of a whole image.
    science_variance, template_variance : float or None
        Variances used, of a whole image.
    cells : DecorrelatedCells or None
        In cells: what was done in each.
    config : DecorrelationConfig
        The options used.
    model : Correction or None
        What `correction` is made of.
    """

    image: Array
    variance: Array
    mask: Array
    schema: MaskSchema
    origin: tuple[int, int]
    config: DecorrelationConfig
    wcs: Any = None
    unit: str | None = None
    psf: Array | None = None
    fft_shape: tuple[int, int] | None = None
    kernel_position: tuple[float, float] | None = None
    science_variance: float | None = None
    template_variance: float | None = None
    cells: DecorrelatedCells | None = None
    model: Correction | None = dataclasses.field(default=None, repr=False)

    @functools.cached_property
    def correction(self) -> Array | None:
        """
        The Fourier factor of a whole image: (ny, nx // 2 + 1) float64 in `rfft2` order, made when first asked for.

        None in cells, and where nothing was done.
        """
        with using(self.image):
            return None if self.model is None else self.model.whole()[0]

    def psf_at(self, y: float, x: float) -> Array:
        """
        PSF at a position in parent pixels: the mean of the PSFs of the cells that hold it.

        Returns
        -------
        array, shape (h, w), float64
            Sum 1. Without cells it is `psf` everywhere.

        Raises
        ------
        ValueError
            If no PSF was given to `decorrelate`, or the position is in no cell.
        """
        if self.psf is None:
            raise ValueError("there is no PSF; give science_psf (template_psf where the science image was convolved)")
        if self.cells is None:
            return self.psf
        with using(self.image):
            return CompositePsf(self.cells.psf, self.cells.inner).at(y, x)

    def write(self, path: str | os.PathLike[str], *, inputs: Sequence[tuple[str, str]] = ()) -> None:
        """
        Write a FITS file in LSST's afw layout: IMAGE, MASK, VARIANCE, and PSF where there is one.

        Parameters
        ----------
        path : path
            Appears when it is complete; one that was there is replaced.
        inputs : sequence of (role, file name), optional
            For the provenance in the primary header.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        from . import __version__
        from .fits import write_planes

        provenance = {
            "version": __version__,
            "config": self.config.as_names(),
            "inputs": [(role, file, math.nan) for role, file in inputs],
        }
        write_planes(
            path,
            image=self.image,
            variance=self.variance,
            mask=self.mask,
            schema=self.schema,
            origin=self.origin,
            wcs=self.wcs,
            unit=self.unit,
            extra=None if self.psf is None else {"PSF": self.psf},
            provenance=provenance,
        )


def variance_mean(
    variance: Array, mask: Array, *, schema: MaskSchema, ignore_planes: Sequence[str] = IGNORED_PLANES
) -> float:
    """
    One variance for a whole image: the clipped mean of its variance plane.

    Three rounds at 3 sigma, the first about the median with the quartile width, the following about the clipped mean;
    each starts again from all good pixels.

    Parameters
    ----------
    variance : array, shape (y, x), float32 or float64
        In the image unit squared; taken as float32.
    mask : array, shape (y, x), int32
        Bits as named by `schema`.
    schema : MaskSchema
        Names of the mask's bits.
    ignore_planes : sequence of str
        Pixels with one of these do not count, nor do those that are not finite. Of the default list, planes that the
        mask does not have are skipped; in any other list all must exist.

    Returns
    -------
    float
        NaN without a good pixel. Waits for the device.

    Raises
    ------
    KeyError
        If a plane does not exist.
    TypeError, ValueError
        If the arrays do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> variance = np.array([[1.0, 1.0, 1.5, 90.0]], dtype=np.float32)
    >>> mask = np.array([[0, 0, 0, 8]], dtype=np.int32)
    >>> variance_mean(variance, mask, schema=MaskSchema({"CR": 3}), ignore_planes=["CR"])
    1.1666666666666667
    """
    check_schema(schema)
    array_module(variance=variance, mask=mask)
    if variance.shape != mask.shape or variance.ndim != 2:
        raise ValueError(f"variance has shape {variance.shape} and mask {mask.shape}; both must be the same (y, x)")
    check_dtype("mask", mask, ("int32",))
    bits = ignored_bits(schema, ignore_planes)
    with using(variance):
        return float(clipped_variance(Windows.whole(variance), Windows.whole(mask), bits)[0])


def decorrelate(
    science: MaskedImage,
    template: MaskedImage,
    difference: MaskedImage,
    kernel: Array | SpatialKernel,
    *,
    template_matched: bool = True,
    score: bool = False,
    preconvolution_kernel: Array | None = None,
    science_psf: Any = None,
    template_psf: Any = None,
    position: tuple[float, float] | None = None,
    science_variance: float | None = None,
    template_variance: float | None = None,
    ignore_planes: Sequence[str] | None = None,
    complete_variance: bool | None = None,
    cells: CellGrid | None = None,
    psf_fwhm: float | None = None,
    precision: str | None = None,
    edge: str | None = None,
    config: DecorrelationConfig = DecorrelationConfig(),  # noqa: B008  frozen
    threads: int | None = None,
) -> Decorrelated:
    """
    Make the noise of an image difference white again.

    Parameters
    ----------
    science, template : MaskedImage
        The two images before matching, on the grid of the difference. Of their pixels only variance and mask matter.
    difference : MaskedImage
        ``science - kernel * template``; with ``template_matched=False``,
        ``(kernel * science - template) / sum(kernel)``; with `score`, ``flipped preconvolution * science - kernel *
        template``. Its variance plane is not used. Not modified.
    kernel : array, shape (ky, kx), float, or SpatialKernel, or another object with ``at(y, x)``
        PSF-matching kernel; element ``[ky // 2, kx // 2]`` is its origin. A kernel of one pixel is the identity. What
        ``at(y, x)`` gives is such an array, of one shape wherever it is asked; it may be larger than the image.
    template_matched : bool
        Whether the template was convolved; else the science image was.
    score : bool
        Make a pre-convolved difference a detection statistic instead (DMTN-179). Its noise is correlated by design.
    preconvolution_kernel : array, shape (py, px), float, optional
        With `score`: what the science image was convolved with; the science PSF when left out. Normalised here.
    science_psf, template_psf : array, shape (h, w), float, or an object with ``at(y, x)``, optional
        PSFs, origin ``[h // 2, w // 2]``. That of the image that was not convolved is corrected and returned; its size
        takes part in the FFT grid.
    position : (float, float), optional
        Parent (y, x) at which a varying kernel and PSF are taken; ``origin + shape / 2`` when left out. Not with cells.
    science_variance, template_variance : float, optional
        Variances per pixel to use, in the unit squared; measured as in `variance_mean` when left out, in each cell.
    ignore_planes : sequence of str, optional
        As in `variance_mean`; other than there, masks have no effect.
    complete_variance : bool, optional
        Convolve the variance planes with the squared kernels, instead of scaling them.
    cells : CellGrid, optional
        Correct cell by cell, each with its own kernel and variances; the whole image at once when left out.
    psf_fwhm : float, optional
        Pixels; the unit of a grid with `scale_by_fwhm`. Measured on the given PSF by adaptive moments when left out.
    precision : {"double", "single"}, optional
        Of the image's transforms. Single takes three quarters of the time and errs by up to 1.5e-6 of the standard
        deviation of a noise image; by 1.4e-5 with stars of 130 sigma in it, since rounding follows the brightest pixel.
        The correction is always computed in double precision.
    edge : {"zero", "reflect"}, optional
        What lies beyond the image: "zero" as in LSST, or "reflect": the image mirrored, d c b a | a b c d, on a grid of
        fast length. It matters in the outermost rows. For a Gaussian kernel of sigma 1.17 pixels the variance of the
        outermost is 1.01, 1.10, 1.69 and 16 times the right one with "zero" at ``v2 / v1`` of 1, 10, 100 and 10^4, and
        0.97, 0.89, 0.81 and 0.75 times with "reflect", which is the better one from 100 on.
    config : DecorrelationConfig
        Says what options that are None are.
    threads : int, optional
        Host threads; one per processor when left out. The result does not depend on it.

    Returns
    -------
    Decorrelated
        On the device of the inputs. NaN pixels of the difference stay NaN, infinite ones become +inf. If a variance
        cannot be measured because the science or the template image is NaN throughout, the difference comes back as a
        copy, with a warning.

    Raises
    ------
    KeyError
        If a mask plane does not exist.
    TypeError
        If arrays are mixed (host and device) or an argument is of another type.
    ValueError
        If grids differ, a kernel given as array is larger than the image, an option does not fit another, a variance is
        negative, or the variance of the unconvolved image is zero or has no good pixel.
    RuntimeError
        If the boxes of cells cannot be made even.

    Notes
    -----
    Memory beside the inputs, for N pixels of float32: 13 N bytes for a whole image (9 N in single precision, 25 N with
    mirrored edges, 65 N with `complete_variance`), 10 N in cells, with `complete_variance` too, of which 8 N are the
    result; mirrored edges add 12 N there.

    A device is waited for a few times, whatever the number of cells: before the correction, to see whether variances
    are negative, kernels and PSFs that are there are finite, and how large the variances are. A whole image takes some
    40 N bytes there, 16 N of which CuPy keeps with its FFT plans; cells take 10 N, and 0.5 GB for a batch of them with
    its plans. That is by count, and more with `complete_variance`.

    References
    ----------
    DMTN-021 and DMTN-179 (dmtn-021.lsst.io, dmtn-179.lsst.io).

    Examples
    --------
    >>> import numpy as np
    >>> import gpucoadd
    >>> rng = np.random.default_rng(1)
    >>> def noise(image):
    ...     variance, mask = np.ones_like(image), np.zeros(image.shape, np.int32)
    ...     return gpucoadd.MaskedImage(image, variance, mask, schema=gpucoadd.MaskSchema.lsst())
    >>> science, template = (noise(rng.normal(size=(128, 128)).astype(np.float32)) for _ in range(2))
    >>> kernel = np.full((3, 3), 1 / 9)
    >>> matched = sum(np.roll(template.image, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    >>> difference = noise(science.image - matched)
    >>> result = gpucoadd.decorrelate(science, template, difference, kernel)
    >>> round(float(result.variance.mean()), 3), bool(abs(result.image.var() - 2) < 0.1)
    (2.0, True)
    """
    if not isinstance(config, DecorrelationConfig):
        raise TypeError(f"config must be a DecorrelationConfig, got {type(config).__name__}")
    options: dict[str, Any] = {
        "ignore_planes": ignore_planes,
        "complete_variance": complete_variance,
        "cells": cells,
        "precision": precision,
        "edge": edge,
    }
    config = dataclasses.replace(config, **{name: value for name, value in options.items() if value is not None})
    with using(getattr(difference, "image", None)):
        inputs = prepare(
            science,
            template,
            difference,
            kernel,
            template_matched=template_matched,
            score=score,
            preconvolution_kernel=preconvolution_kernel,
            psfs=(science_psf, template_psf),
            variances=(science_variance, template_variance),
            config=config,
            threads=check_threads(threads),
        )
        made = _correct(inputs, None if position is None else _check_position(position), psf_fwhm)
    return Decorrelated(
        mask=difference.mask,
        schema=difference.schema,
        origin=difference.origin,
        wcs=difference.wcs,
        unit=difference.unit,
        config=config,
        **made,
    )


def _correct(inputs: Inputs, position: tuple[float, float] | None, psf_fwhm: float | None) -> dict[str, Any]:
    """The fields of `Decorrelated` that differ between a whole image and cells."""
    if not is_host(array_module(inputs.difference.image)):
        launchers("plans").keep_plans()
    if inputs.config.cells is None:
        return correct_whole(inputs, middle(inputs.difference) if position is None else position)
    if position is not None:
        raise ValueError("position belongs to a whole image; each cell takes the kernel at its own middle")
    return correct_cells(inputs, inputs.config.cells, psf_fwhm)


def _check_position(position: Any) -> tuple[float, float]:
    """`position` as two floats (y, x), or raise ValueError."""
    try:
        y, x = (float(value) for value in position)
    except (TypeError, ValueError):
        raise ValueError(f"position must be a pair of numbers (y, x), got {position!r}") from None
    if not (math.isfinite(y) and math.isfinite(x)):
        raise ValueError(f"position must be a pair of finite numbers (y, x), got {position!r}")
    return y, x
