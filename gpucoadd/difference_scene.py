"""
A simulated image difference with a known answer: science image, template, matching kernel, planted transients.

Why the science image is made from the template: its noise-free pixels are the kernel applied to the noise-free
template, pixel for pixel. What does not change vanishes exactly, so the difference holds planted changes and noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import fft

from .images import MaskedImage
from .masks import MaskSchema
from .matching import SpatialKernel
from .scenery import PHOTON, Table, galaxy_image, gaussian_psf, noise_free, star_catalogue

SOURCE_PLANES = ("DETECTED", "DETECTED_NEGATIVE")
_BASIS_SIGMA = (0.9, 1.7, 2.8)  # pixels, of the Gaussians that make the kernel
_BASIS_SIZE = 23  # odd; four sigma of the widest
# Weight of each Gaussian: at the centre, and its slopes in x and y, which run from -1 to 1 over the field. They sum to
# 1 everywhere, so fluxes are those of the template; none is negative.
_WEIGHTS = ((0.50, -0.22, -0.12), (0.35, 0.14, 0.08), (0.15, 0.08, 0.04))
_CHANGE = np.dtype([("y", "f8"), ("x", "f8"), ("flux", "f8"), ("kind", "U13")])
_VARIABLE_CHANGES = (0.4, -0.5)  # of the two variable stars, over their flux in the template


@dataclass(frozen=True)
class DifferenceScene:
    """
    Science image, template and their Alard-Lupton difference, and everything that is true about them.

    Attributes
    ----------
    science, template, difference : MaskedImage
        float32, in nJy. Variances are those of the noise put in; that of the difference goes through the kernel
        squared, pixel by pixel, which is right for each pixel and says nothing of the correlation between them.
        DETECTED marks sources that stand out of the noise, DETECTED_NEGATIVE what fades in the difference.
    kernel : SpatialKernel
        Makes the template look like the science image: ``difference = science - kernel * template``.
    expected : array, shape (y, x), float64
        Noise-free difference.
    changes : structured array
        `y`, `x` in pixels, `flux` (science minus template), and `kind`: "transient" or "variable star".
    template_psf : array, shape (31, 31), float64
        PSF of the template, unit sum.
    settings : dict
        The arguments that made this scene.
    """

    science: MaskedImage
    template: MaskedImage
    difference: MaskedImage
    kernel: SpatialKernel
    expected: np.ndarray
    changes: Table
    template_psf: np.ndarray
    settings: dict[str, Any]

    def science_psf(self, y: float, x: float) -> np.ndarray:
        """PSF of the science image at a position, shape (31, 31), float64, unit sum."""
        psf = convolve(self.template_psf, self.kernel.at(y, x))
        return psf / psf.sum()

    @property
    def centre(self) -> tuple[float, float]:
        """(y, x) of the middle of the field."""
        y, x = self.science.shape
        return (y - 1) / 2, (x - 1) / 2

    @property
    def sources(self) -> np.ndarray:
        """(y, x) bool: a source of the science image, of the template, or a planted change."""
        return (self.difference.mask & self.difference.schema.bitmask(*SOURCE_PLANES)) != 0


def simulate_difference(
    *,
    shape: tuple[int, int] = (512, 512),
    seed: int = 1,
    variance_ratio: float = 2.0,
    noise: float = 10.0,
    template_sigma: float = 1.5,
    n_transients: int = 6,
    significance: tuple[float, float] = (6.0, 30.0),
    star_density: float = 4e-4,
    galaxy_density: float = 1e-3,
) -> DifferenceScene:
    """
    Simulate a science image, a sharper template, and the difference with a matching kernel that varies over the field.

    Stars and galaxies are the same in both images but for two variable stars and some transients. The kernel is a sum
    of three Gaussians of unit sum, the weights of the wider ones growing with x and y. Noise is white: sky noise, and
    photon noise of the sources. The template reaches further than the science image, so the difference has no border
    where the kernel lacks pixels.

    Parameters
    ----------
    shape : (int, int)
        (y, x) size in pixels, at least 96 each.
    seed : int
        Same seed and arguments, same pixels.
    variance_ratio : float
        Variance of the template's empty sky over that of the science image.
    noise : float
        Standard deviation of the empty sky in the science image, in nJy.
    template_sigma : float
        Gaussian sigma of the template's PSF in pixels.
    n_transients : int
        Transients to plant; fewer where the field has no room for them away from stars.
    significance : (float, float)
        Flux of the faintest and of the brightest transient, in units of its error in the decorrelated difference.
    star_density, galaxy_density : float
        Objects per pixel.

    Returns
    -------
    DifferenceScene

    Raises
    ------
    ValueError
        If `shape` is too small, a number is not positive, or the two of `significance` do not increase.

    Examples
    --------
    >>> scene = simulate_difference(shape=(96, 128), seed=2, n_transients=1)
    >>> scene.kernel
    SpatialKernel(3 basis images of (23, 23), chebyshev1 of degree 1)
    >>> scene.changes["kind"].tolist()
    ['transient', 'variable star', 'variable star']
    """
    settings = dict(locals())
    _check_settings(settings)
    kernel = _kernel(shape)
    pad = _BASIS_SIZE // 2
    size = (shape[0] + 2 * pad, shape[1] + 2 * pad)
    stars, galaxies, changes = _catalogue(settings, kernel, size, pad)
    sky = noise_free(galaxies, stars, None, template_sigma, epoch=0)
    change = noise_free(np.zeros(size), _as_stars(changes), None, template_sigma, epoch=0)
    changes["y"] -= pad
    changes["x"] -= pad

    expected = match(change, kernel)
    matched_sky = match(sky, kernel)
    schema = MaskSchema.lsst()
    rng = np.random.default_rng([seed, 20])
    science = _expose(matched_sky + expected, noise**2, schema, rng)
    template = _expose(sky, variance_ratio * noise**2, schema, rng)
    difference = science.image - match(template.image, kernel)
    variance = science.variance + match(template.variance, kernel, squared=True)
    inner = (slice(pad, -pad), slice(pad, -pad))
    template = MaskedImage(
        *(np.ascontiguousarray(p[inner]) for p in (template.image, template.variance, template.mask)),
        schema=schema,
        unit="nJy",
    )
    mask = science.mask | template.mask
    mask[expected > noise] |= np.int32(schema.bitmask("DETECTED"))
    mask[expected < -noise] |= np.int32(schema.bitmask("DETECTED_NEGATIVE"))
    return DifferenceScene(
        science=science,
        template=template,
        difference=MaskedImage(
            difference.astype(np.float32), variance.astype(np.float32), mask, schema=schema, unit="nJy"
        ),
        kernel=kernel,
        expected=expected,
        changes=changes,
        template_psf=gaussian_psf(template_sigma),
        settings=settings,
    )


def match(image: np.ndarray, kernel: SpatialKernel, *, squared: bool = False) -> np.ndarray:
    """
    Convolve an image with a kernel that varies over the field as `simulate_difference` makes it.

    Parameters
    ----------
    image : array, shape (y + ky - 1, x + kx - 1), float
        Reaches half a kernel beyond the field on each side. Of pixel (y, x) of the result, ``kernel.at(y, x)`` weighs
        the neighbours.
    kernel : SpatialKernel
        Of kind "chebyshev1" and degree 1; its range is the field.
    squared : bool
        Weigh with the squared kernel, as variances are.

    Returns
    -------
    array, shape (y, x), float64
    """
    height, width = (n - k + 1 for n, k in zip(image.shape, kernel.shape, strict=True))
    weights = _weights(kernel, (height, width))
    top, left = (k // 2 for k in kernel.shape)

    def through(stamp: np.ndarray) -> np.ndarray:
        return convolve(image, stamp)[top : top + height, left : left + width]

    if not squared:
        return sum(w * through(basis) for w, basis in zip(weights, kernel.basis, strict=True))
    # (sum_b f_b B_b)^2 = sum_b f_b sum_c f_c (B_b B_c), where no f depends on the pixels weighed.
    matched = np.zeros((height, width))
    for i, (first, one) in enumerate(zip(weights, kernel.basis, strict=True)):
        for j in range(i + 1):
            matched += (1 if i == j else 2) * first * weights[j] * through(one * kernel.basis[j])
    return matched


def convolve(image: np.ndarray, stamp: np.ndarray) -> np.ndarray:
    """
    Convolve an image with one stamp; beyond the image's edge there is nothing.

    Parameters
    ----------
    image : array, shape (y, x), float
        Finite.
    stamp : array, shape (ky, kx), float
        Its middle pixel, ``[ky // 2, kx // 2]``, is the origin.

    Returns
    -------
    array, shape (y, x), float64
    """
    shape = [fft.next_fast_len(n + k - 1, real=True) for n, k in zip(image.shape, stamp.shape, strict=True)]
    spectrum = fft.rfft2(image.astype(np.float64), shape) * fft.rfft2(stamp.astype(np.float64), shape)
    top, left = (k // 2 for k in stamp.shape)
    return fft.irfft2(spectrum, shape)[top : top + image.shape[0], left : left + image.shape[1]]


def write_scene(scene: DifferenceScene, folder: str | Path) -> Path:
    """
    Write a scene as the files that `gpucoadd decorrelate` reads.

    science.fits and template.fits (with PSF, that of the science image at its centre), difference.fits, kernel.fits,
    and truth.npz with the noise-free difference and the planted changes.

    Parameters
    ----------
    scene : DifferenceScene
        From `simulate_difference`.
    folder : path
        Made when missing; files of the same name are replaced.

    Returns
    -------
    Path
        `folder`.
    """
    from .fits import write_planes

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamps = {"science": {"PSF": scene.science_psf(*scene.centre)}, "template": {"PSF": scene.template_psf}}
    for name in ("science", "template", "difference"):
        image: MaskedImage = getattr(scene, name)
        write_planes(
            folder / f"{name}.fits",
            image=image.image,
            variance=image.variance,
            mask=image.mask,
            schema=image.schema,
            origin=image.origin,
            unit=image.unit,
            extra=stamps.get(name),
        )
    scene.kernel.write(folder / "kernel.fits")
    np.savez_compressed(folder / "truth.npz", expected=scene.expected.astype(np.float32), changes=scene.changes)
    return folder


def _check_settings(settings: dict[str, Any]) -> None:
    if min(settings["shape"]) < 96:
        raise ValueError(f"shape must be at least (96, 96), got {settings['shape']}")
    for name in ("variance_ratio", "noise", "template_sigma"):
        if not settings[name] > 0:
            raise ValueError(f"{name} must be positive, got {settings[name]}")
    if settings["n_transients"] < 0:
        raise ValueError(f"n_transients must not be negative, got {settings['n_transients']}")
    low, high = settings["significance"]
    if not 0 < low <= high:
        raise ValueError(f"significance must be two positive numbers, the smaller first, got {(low, high)}")


def _kernel(shape: tuple[int, int]) -> SpatialKernel:
    basis = np.stack([gaussian_psf(sigma, _BASIS_SIZE) for sigma in _BASIS_SIGMA])
    basis /= basis.sum(axis=(1, 2), keepdims=True)
    edges = (-0.5, -0.5, shape[1] - 0.5, shape[0] - 0.5)
    return SpatialKernel(basis, np.array(_WEIGHTS), kind="chebyshev1", range=edges)


def _weights(kernel: SpatialKernel, shape: Sequence[int]) -> np.ndarray:
    """Weight of each basis image at each pixel of the field, shape (nb, y, x)."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    in_y, in_x = (2 * y + 1) / shape[0] - 1, (2 * x + 1) / shape[1] - 1  # -1 and 1 at the field's edges
    return np.stack([constant + slope_x * in_x + slope_y * in_y for constant, slope_x, slope_y in kernel.coefficients])


def _catalogue(
    settings: dict[str, Any], kernel: SpatialKernel, size: tuple[int, int], pad: int
) -> tuple[Table, np.ndarray, Table]:
    """Stars, image of the galaxies, and what changes, in padded pixels."""
    stars, variables = star_catalogue({**settings, "n_epochs": 1, "n_saturated": 0}, size, pad)
    galaxies = galaxy_image(settings, size, variables)
    rng = np.random.default_rng([settings["seed"], 21])
    places = _places(rng, stars, settings["shape"], settings["n_transients"], pad)
    changes = np.zeros(len(places) + len(variables), dtype=_CHANGE)
    transients, others = changes[: len(places)], changes[len(places) :]
    transients["kind"], others["kind"] = "transient", "variable star"
    transients["y"], transients["x"] = places.T
    centre = ((n - 1) / 2 for n in settings["shape"])
    psf = convolve(gaussian_psf(settings["template_sigma"]), kernel.at(*centre))
    error = settings["noise"] * math.sqrt((1 + settings["variance_ratio"]) / (psf**2).sum())
    faintest, brightest = settings["significance"]
    transients["flux"] = error * np.geomspace(brightest, faintest, len(places))
    for name in ("y", "x"):
        others[name] = variables[name]
    others["flux"] = variables["flux"][:, 0] * _VARIABLE_CHANGES
    return stars, galaxies, changes


def _places(rng: np.random.Generator, stars: Table, shape: tuple[int, int], n: int, pad: int) -> np.ndarray:
    """(n, 2) padded (y, x) inside the field, away from each other and from stars; fewer where there is no room."""
    margin, apart = 24.0, 24.0
    known = np.stack([stars["y"], stars["x"]], axis=1)
    places: list[np.ndarray] = []
    for place in rng.uniform(margin, np.subtract(shape, margin), (200 * n, 2)) + pad:
        taken = np.concatenate([known, np.reshape(places, (-1, 2))])
        if len(places) < n and np.hypot(*(taken - place).T).min(initial=np.inf) > apart:
            places.append(place)
    return np.reshape(places, (-1, 2))


def _as_stars(changes: Table) -> Table:
    """Table with the columns that `noise_free` asks for."""
    stars = np.zeros(len(changes), dtype=[("y", "f8"), ("x", "f8"), ("flux", "f8"), ("variable", "?")])
    for name in ("y", "x", "flux"):
        stars[name] = changes[name]
    return stars


def _expose(scene: np.ndarray, sky_variance: float, schema: MaskSchema, rng: np.random.Generator) -> MaskedImage:
    """White noise on noise-free pixels; what rises above the sky's noise is DETECTED."""
    variance = sky_variance + PHOTON * np.maximum(scene, 0)
    image = scene + rng.normal(size=scene.shape) * np.sqrt(variance)
    mask = np.where(scene > math.sqrt(sky_variance), schema.bitmask("DETECTED"), 0).astype(np.int32)
    return MaskedImage(image.astype(np.float32), variance.astype(np.float32), mask, schema=schema, unit="nJy")
