"""What `decorrelate` was given, checked and sorted by which image was convolved."""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from . import primitives
from .backend import Array, array_module, is_host, launchers, to_host
from .decorrelation_config import IGNORED_PLANES, DecorrelationConfig
from .filtering import Windows
from .images import MaskedImage
from .masks import MaskSchema
from .matching import SpatialKernel, check_stamp
from .psf import FWHM_PER_SIGMA, adaptive_moments
from .spectra import check_preconvolution, fft_shape
from .workers import in_order

logger = logging.getLogger(__name__)

_MAX_RATIO = 1e8  # of the variances, above which a warning is due
_N_FALLBACK = 100  # points along each axis at which a PSF is averaged that is not defined where it is needed
_FALLBACK_CUT = 0.05  # of the extent, left out at each side


class Side(NamedTuple):
    """Science or template image."""

    name: str
    image: MaskedImage
    bits: int  # of the planes whose pixels do not count
    given: float | None  # variance


def variance_levels(sides: Sequence[Side], windows: Sequence[tuple[Windows, Windows]], *, threads: int = 1) -> Array:
    """
    Variances per pixel of sides over n windows.

    Parameters
    ----------
    sides : sequence of Side
    windows : sequence of (Windows, Windows)
        Of each side's variance and mask, all of one size.
    threads : int
        Host threads.

    Returns
    -------
    array, shape (sides, n), float64
        Given ones as they are; those that are measured are NaN without a good pixel. Waits for no device.
    """
    xp = array_module(windows[0][0].plane)
    levels = xp.empty((len(sides), len(windows[0][0])))
    measured = [number for number, side in enumerate(sides) if side.given is None]
    for number, side in enumerate(sides):
        if side.given is not None:
            levels[number] = side.given
    samples = [(*windows[number], sides[number].bits) for number in measured]
    if samples and is_host(xp):
        levels[measured] = list(in_order(lambda each: clipped_variance(*each), samples, threads=threads))
    elif samples:
        levels[measured] = _clipped_on_device(samples).reshape(len(measured), -1)
    return levels


def clipped_variance(variance: Windows, mask: Windows, bits: int) -> Array:
    """Clipped means, 3 rounds at 3 sigma, of n windows of a variance plane: (n,) float64, NaN without a good pixel."""
    xp = array_module(variance.plane)
    if not is_host(xp):
        return _clipped_on_device([(variance, mask, bits)])
    return primitives.clipped_means(
        variance.pixels.astype(np.float32, copy=False), mask.pixels, bits, **primitives.DEFAULT_CLIP
    )


def _clipped_on_device(windows: Sequence[tuple[Windows, Windows, int]]) -> Array:
    """`clipped_variance` of several planes with one search for quartiles, one after the other in what is given back."""
    first = windows[0][0]
    xp, kernels = array_module(first.plane), launchers("windows")
    n, n_samples = len(first), math.prod(first.size)
    samples = xp.empty((len(windows) * n, n_samples), xp.float32)
    for number, (variance, mask, bits) in enumerate(windows):
        kernels.sample_windows(
            variance.plane, mask.plane, bits, variance.corners, variance.size, samples[number * n : (number + 1) * n]
        )
    return primitives.clipped_statistics(samples, **primitives.DEFAULT_CLIP)[:, 0]


def ignored_bits(schema: MaskSchema, planes: Sequence[str]) -> int:
    """Bits of `planes`; of the default list, those that the mask has. KeyError if one does not exist."""
    return schema.known_bitmask(planes) if tuple(planes) == IGNORED_PLANES else schema.bitmask(*planes)


@dataclass(frozen=True)
class Inputs:
    """
    Checked arguments of `decorrelate`.

    Attributes
    ----------
    unconvolved, convolved : Side
        By what the kernel was applied to.
    difference : MaskedImage
    kernel : array, shape (ky, kx), float64, or SpatialKernel, or another object with ``at(y, x)``
    psf : array, shape (h, w), float64, or object with ``at(y, x)``, or None
        Of the image that was not convolved.
    preconvolution : array, shape (py, px), float64, or None
        Of sum 1; there in score mode alone.
    template_matched : bool
    config : DecorrelationConfig
    threads : int
    """

    unconvolved: Side
    convolved: Side
    difference: MaskedImage
    kernel: Any
    psf: Any
    preconvolution: Array | None
    template_matched: bool
    config: DecorrelationConfig
    threads: int

    @property
    def sides(self) -> tuple[Side, Side]:
        """The image that was not convolved, and the one that was."""
        return self.unconvolved, self.convolved

    def kernels_at(self, positions: np.ndarray) -> Array:
        """Kernels at (n, 2) positions (y, x): (n, ky, kx), or (1, ky, kx) of one that is the same everywhere."""
        if isinstance(self.kernel, SpatialKernel):
            kernels = self.kernel.at(positions[:, 0], positions[:, 1])
            if not bool(array_module(kernels).isfinite(kernels).all()):
                raise ValueError("kernel is not finite where it is taken; its polynomials overflow so far off")
        elif hasattr(self.kernel, "at"):
            kernels = _kernels_of(self.kernel, positions.tolist(), self.difference)
        else:
            kernels = self.kernel[None]
        if not self.template_matched and bool((kernels.sum(axis=(1, 2)) == 0).any()):
            raise ValueError("kernel has sum 0; a difference with a convolved science image was divided by that sum")
        return kernels

    def psfs_at(self, positions: np.ndarray) -> Array | None:
        """PSFs of the unconvolved image, likewise."""
        if self.psf is None or not hasattr(self.psf, "at"):
            return None if self.psf is None else self.psf[None]
        stamps = _psfs_at(self.psf, positions.tolist(), self.difference)
        # Stamps from the host go to the device together.
        return _beside(self.difference, psf=array_module(*stamps).stack(stamps))

    def grid_shape(self, image_shape: tuple[int, int], kernels: Array, psfs: Array | None) -> tuple[int, int]:
        """FFT grid for images of a shape, as LSST chooses it."""
        stamps = [a.shape[-2:] for a in (kernels, psfs, self.preconvolution) if a is not None]
        return fft_shape(image_shape, *stamps)

    def psf_fwhm(self) -> float:
        """FWHM in pixels of the PSF of the difference, from its adaptive moments."""
        stamps = self.psfs_at(np.array([middle(self.difference)]))
        if stamps is None:
            needed = "science_psf" if self.template_matched else "template_psf"
            raise ValueError(
                f"the cells' sizes are in units of the PSF's FWHM; give psf_fwhm in pixels, or {needed} to measure it "
                "on, or sizes in pixels with scale_by_fwhm=False"
            )
        return FWHM_PER_SIGMA * adaptive_moments(to_host(stamps[0]))[0]

    def check_level(self, side: Side, level: float, where: str = "") -> None:
        """Raise ValueError unless the variance of one side can be used."""
        if math.isnan(level):
            planes = ", ".join(self.config.ignore_planes)
            raise ValueError(
                f"{side.name} has no pixel{where} with a finite variance and without one of the planes {planes}; mend "
                f"its mask, give other ignore_planes, or give {side.name}_variance"
            )
        if level < 0 or (level == 0 and side is self.unconvolved):
            wanted = "positive" if side is self.unconvolved else "at least 0"
            raise ValueError(
                f"the variance of the {side.name} image{where} must be {wanted}, got {level}; mask pixels that hold no "
                f"data, or give {side.name}_variance"
            )

    def warn(self, ratios: np.ndarray) -> None:
        """Log what a user should know of the variance ratios, and of the PSF of a score image."""
        if ratios.size and ratios.max() > _MAX_RATIO:
            logger.warning(
                "the %s image has %.3g times the variance of the %s image; the correction amplifies what is left of "
                "its noise at high frequencies by as much",
                self.convolved.name,
                ratios.max(),
                self.unconvolved.name,
            )
        if self.preconvolution is not None and self.psf is not None:
            logger.warning(
                "the PSF given back is that of the science image after the correction, not the score image's"
            )


def prepare(
    science: MaskedImage,
    template: MaskedImage,
    difference: MaskedImage,
    kernel: Array | SpatialKernel,
    *,
    template_matched: bool,
    score: bool,
    preconvolution_kernel: Array | None,
    psfs: tuple[Any, Any],
    variances: tuple[float | None, float | None],
    config: DecorrelationConfig,
    threads: int,
) -> Inputs:
    """Check the arguments of `decorrelate`; pairs are (science, template)."""
    _check_images(science=science, template=template, difference=difference)
    checked_kernel = _check_kernel(kernel, difference)
    if preconvolution_kernel is not None and not score:
        raise ValueError(
            "preconvolution_kernel is of use with score=True alone; leave it out, or ask for a score image"
        )
    if score and not template_matched:
        raise ValueError("score=True needs template_matched=True: a score image is made with a convolved template")
    science_psf, template_psf = (
        _check_psf(name, psf, difference) for name, psf in zip(("science_psf", "template_psf"), psfs)
    )
    preconvolution = None
    if score:
        source = science_psf if preconvolution_kernel is None else preconvolution_kernel
        if source is None:
            raise ValueError("score=True needs preconvolution_kernel, or science_psf to take its place")
        preconvolution = _check_preconvolution(source, difference)
    sides = [
        Side(name, image, ignored_bits(image.schema, config.ignore_planes), _check_variance(name, value))
        for name, image, value in zip(("science", "template"), (science, template), variances)
    ]
    _check_not_negative(sides)
    unconvolved, convolved = sides if template_matched else sides[::-1]
    psf = science_psf if template_matched else template_psf
    return Inputs(
        unconvolved,
        convolved,
        difference,
        checked_kernel,
        psf,
        preconvolution,
        template_matched,
        config,
        threads if is_host(array_module(difference.image)) else 1,
    )


def _check_images(**images: MaskedImage) -> None:
    for name, image in images.items():
        if not isinstance(image, MaskedImage):
            raise TypeError(f"{name} must be a MaskedImage, got {type(image).__name__}")
    array_module(**{name: image.image for name, image in images.items()})
    difference = images["difference"]
    for name, image in images.items():
        if image.shape != difference.shape or image.origin != difference.origin:
            raise ValueError(
                f"{name} is {image.shape} at origin {image.origin} but difference is {difference.shape} at "
                f"{difference.origin}; all three must share one pixel grid"
            )


def _check_kernel(kernel: Any, difference: MaskedImage) -> Any:
    if isinstance(kernel, SpatialKernel):
        basis, coefficients = (_beside(difference, kernel=a) for a in (kernel.basis, kernel.coefficients))
        _check_fits("kernel", kernel.shape, difference)
        moved = copy.copy(kernel)
        moved._set(basis=basis, coefficients=coefficients)  # a new one would be checked, and the device waited for
        return moved
    if hasattr(kernel, "at"):
        return kernel
    _module_for(difference, kernel=kernel)
    checked = check_stamp("kernel", kernel)  # where it is: a device would be waited for
    _check_fits("kernel", checked.shape, difference)
    return _beside(difference, kernel=checked)


def _kernels_of(kernel: Any, positions: Sequence[tuple[float, float]], difference: MaskedImage) -> Array:
    """
    Kernels (n, ky, kx) of an object with ``at(y, x)``; those from the host go to a device together.

    They may be larger than the image, which may be one cell of another.
    """
    kernels = [check_stamp("kernel", kernel.at(y, x)) for y, x in positions]
    shapes = {stamp.shape for stamp in kernels}
    if len(shapes) > 1:
        raise ValueError(f"kernel has the shapes {sorted(shapes)} at different positions; it must be one (y, x)")
    return _beside(difference, kernel=array_module(*kernels).stack(kernels))


def _beside(difference: MaskedImage, **stamp: Array) -> Array:
    """A small array where the images are: one from the host follows them to the device; TypeError the other way."""
    xp = _module_for(difference, **stamp)
    (array,) = stamp.values()
    return xp.asarray(array) if is_host(array_module(**stamp)) else array


def _module_for(difference: MaskedImage, **stamp: Array) -> Any:
    """Module of the images; TypeError if they are on the host and a small array is not."""
    xp = array_module(difference.image)
    if is_host(xp):
        array_module(difference=difference.image, **stamp)
    return xp


def _check_fits(name: str, shape: tuple[int, int], difference: MaskedImage) -> None:
    if shape[0] > difference.shape[0] or shape[1] > difference.shape[1]:
        raise ValueError(f"{name} has shape {shape} and is larger than the image, {difference.shape}; both are (y, x)")


def _check_psf(name: str, psf: Any, difference: MaskedImage) -> Any:
    if psf is None or hasattr(psf, "at"):
        return psf
    _module_for(difference, **{name: psf})
    stamp = check_stamp(name, psf)
    if float(stamp.sum()) == 0:
        raise ValueError(f"{name} has sum 0 and cannot be normalised; give a PSF with a positive sum")
    return _beside(difference, **{name: stamp})


def _check_preconvolution(source: Any, difference: MaskedImage) -> Array:
    by_position = hasattr(source, "at")
    if by_position:  # LSST takes the PSF at its average position, the same for all cells
        source = _psfs_at(source, [middle(difference)], difference)[0]
    _module_for(difference, preconvolution_kernel=source)
    kernel = check_preconvolution(source)
    if not by_position:
        _check_fits("preconvolution_kernel", kernel.shape, difference)
    return _beside(difference, preconvolution_kernel=kernel)


def _check_variance(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name}_variance must be a finite number, got {value!r}")
    return float(value)


def _check_not_negative(sides: Sequence[Side]) -> None:
    """Raise ValueError if a variance that counts is negative; waits for the device, once."""
    for side, n in zip(sides, _n_negative(sides)):
        if n:
            raise ValueError(
                f"the variance plane of the {side.name} image is negative at {n} pixels that count; mask them, or set "
                "them to NaN"
            )


def _n_negative(sides: Sequence[Side]) -> list[int]:
    """How many pixels that count have a negative variance, for each side."""
    planes = [(side.image.variance, side.image.mask, side.bits) for side in sides]
    xp = array_module(planes[0][0])
    if is_host(xp):
        # The minimum is quick, and not 0 or more where there is a NaN.
        return [
            0 if float(v.min()) >= 0 else int(np.count_nonzero((v < 0) & np.isfinite(v) & ((mask & bits) == 0)))
            for v, mask, bits in planes
        ]
    counts = xp.zeros(len(sides), xp.uint64)
    for number, plane in enumerate(planes):
        launchers("windows").count_negative(*plane, counts[number : number + 1])
    return to_host(counts).tolist()


def middle(image: MaskedImage) -> tuple[float, float]:
    """LSST's middle of a box: begin plus end over two, half a pixel beyond the centre."""
    (y0, x0), (height, width) = image.origin, image.shape
    return y0 + height / 2, x0 + width / 2


def _psfs_at(psf: Any, positions: Sequence[tuple[float, float]], image: MaskedImage) -> list[Array]:
    """
    PSF stamps at positions (y, x); where the PSF is not defined, its mean over the image.

    Not defined is a PSF whose ``at`` raises ValueError or gives NaN, as that of a coadd with a hole.
    """
    found = _defined(psf, positions, image)
    if all(stamp is not None for stamp in found):
        return found
    (y0, x0), (height, width) = image.origin, image.shape
    ys, xs = (
        np.linspace(start + _FALLBACK_CUT * size, start + (1 - _FALLBACK_CUT) * size, _N_FALLBACK)
        for start, size in ((y0, height), (x0, width))
    )
    stamps = [s for s in _defined(psf, list(itertools.product(ys.tolist(), xs.tolist())), image) if s is not None]
    if not stamps:
        y, x = next(position for position, stamp in zip(positions, found) if stamp is None)
        raise ValueError(f"the PSF is not defined at (y, x) = ({y}, {x}), nor anywhere else on the image")
    mean = sum(stamps) / len(stamps)
    return [mean if stamp is None else stamp for stamp in found]


def _defined(psf: Any, positions: Sequence[tuple[float, float]], image: MaskedImage) -> list[Array | None]:
    """Stamps in float64, None where there is none; of stamps on a device, waits for it once."""
    stamps = []
    for y, x in positions:
        try:
            stamps.append(psf.at(y, x))
        except ValueError:
            stamps.append(None)
            continue
        _module_for(image, psf=stamps[-1])
    finite = [array_module(stamp).isfinite(stamp).all() for stamp in stamps if stamp is not None]
    flags = iter(to_host(array_module(*finite).stack(finite)).tolist() if finite else [])
    return [None if stamp is None or not next(flags) else stamp.astype("float64") for stamp in stamps]
