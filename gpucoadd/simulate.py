"""
Simulated nights: warps of one patch with planted artifacts and known answers.

Why Gaussian PSFs: a Gaussian convolved with a Gaussian is a Gaussian, so the PSF-matched
twins are exact. What a difference image then shows is noise or something planted, never a
poor match.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .images import WarpStack
from .masks import MaskSchema
from .scenery import (
    PHOTON,
    SATURATION,
    Table,
    expose,
    galaxy_image,
    gaussian_psf,
    kernel_radius,
    match,
    matching_sigma,
    noise_free,
    plant,
    point,
    point_source,
    shifted,
    star_catalogue,
)

__all__ = [
    "PHOTON",
    "PIXEL_SCALE",
    "SATURATION",
    "Night",
    "gaussian_psf",
    "point_source",
    "simulate_night",
    "write_night",
]

PIXEL_SCALE = 0.2  # arcsec
LEAST_SIZE = 96  # pixels along each side


@dataclass(frozen=True)
class Night:
    """
    Simulated warps and everything that is true about them.

    Attributes
    ----------
    warps : WarpStack
        Direct warps, with their PSF-matched twins in `warps.psf_matched`.
    truth : dict of str to array, shape (epoch, y, x), bool
        Pixels of the direct warps that a planted artifact brightens by at least half the
        sky noise, by kind: "trail", "cosmic ray", "moving object", "ghost"; and, with `faint_trail`, "faint trail":
        pixels that get at least a tenth of its crest.
    planted : array, shape (epoch, y, x), float32
        Noise-free flux of all artifacts in the direct warps.
    expected : array, shape (epoch, y, x), float32
        Noise-free direct warps without artifacts (variable stars at their flux of that epoch).
    sky : array, shape (y, x), float32
        Noise-free sky at the target PSF, with variable stars at their mean flux.
    stars : structured array
        `y`, `x` in pixels of the warp, mean `flux`, `variable`.
    variable_stars : structured array
        `y`, `x`, and `flux` of shape (epoch,).
    noise : array, shape (epoch,), float64
        Standard deviation of the empty sky in the direct warps.
    target_sigma : float
        Gaussian sigma of the twins' PSF in pixels.
    settings : dict
        The arguments that made this night.
    """

    warps: WarpStack
    truth: dict[str, np.ndarray]
    planted: np.ndarray
    expected: np.ndarray
    sky: np.ndarray
    stars: Table
    variable_stars: Table
    noise: np.ndarray
    target_sigma: float
    settings: dict[str, Any]

    @property
    def twins(self) -> WarpStack:
        """`warps.psf_matched`, which a simulated night always has."""
        assert self.warps.psf_matched is not None
        return self.warps.psf_matched


def simulate_night(
    *,
    n_epochs: int = 12,
    shape: tuple[int, int] = (512, 512),
    seed: int = 1,
    psf_range: tuple[float, float] = (1.6, 2.4),
    noise_range: tuple[float, float] = (8.0, 13.0),
    star_density: float = 7e-4,
    galaxy_density: float = 1e-3,
    n_saturated: int = 2,
    trail_fraction: float = 0.4,
    cosmic_ray_density: float = 2.5e-5,
    faint_trail: float = 0.0,
) -> Night:
    """
    Simulate the warps of one patch in one band.

    A field of stars (power-law fluxes, some saturated with bleed columns, two variable) and
    galaxies is seen through another PSF, depth, field rotation and dither in each epoch.
    Detector gaps and the border of the field are NO_DATA with EDGE beside them, bad columns
    are interpolated and flagged BAD and INTRP. Planted on top: satellite trails, cosmic rays
    (half of them flagged CR), one moving object, and one ghost. Trails, moving object, ghost and
    cosmic rays stay away from the variable stars.

    The twins are the direct warps, noise and artifacts included, convolved to the common target PSF;
    variances go through the squared kernel and mask bits spread over the kernel's support.

    Parameters
    ----------
    n_epochs : int
        Number of warps, at least 1.
    shape : (int, int)
        (y, x) size in pixels, at least 96 each.
    seed : int
        Same seed and arguments, same pixels.
    psf_range : (float, float)
        Gaussian sigma of the PSFs in pixels, best to worst.
    noise_range : (float, float)
        Standard deviation of the empty sky in nJy, deepest to shallowest.
    star_density, galaxy_density, cosmic_ray_density : float
        Objects per pixel; cosmic rays per pixel and epoch.
    n_saturated : int
        Saturated stars among the stars.
    trail_fraction : float
        Fraction of epochs with a satellite trail; one epoch at least, unless 0.
    faint_trail : float
        Crest of one more trail, in standard deviations of its epoch's empty sky; 0 for none.

    Returns
    -------
    Night

    Raises
    ------
    ValueError
        If `n_epochs` or `shape` is too small, or a range is not increasing and positive.

    Examples
    --------
    >>> night = simulate_night(n_epochs=3, shape=(96, 96), seed=2)
    >>> night.warps
    WarpStack(3 epochs of 96 x 96, 3 twins, unit='nJy')
    >>> sorted(night.truth)
    ['cosmic ray', 'ghost', 'moving object', 'trail']
    """
    settings = dict(locals())
    _check_settings(settings)
    rng = np.random.default_rng([seed, 0])
    psf_sigma = np.sort(rng.uniform(*psf_range, n_epochs))[rng.permutation(n_epochs)]
    noise = rng.uniform(*noise_range, n_epochs)
    target_sigma = math.hypot(psf_range[1], 1.0)  # the narrowest matching kernel still has sigma 1
    pad = kernel_radius(matching_sigma(target_sigma, psf_range[0]))
    size = (shape[0] + 2 * pad, shape[1] + 2 * pad)
    inner = (slice(pad, -pad), slice(pad, -pad))

    stars, variables = star_catalogue(settings, size, pad)
    galaxies = galaxy_image(settings, size, variables)
    pointings = [point(settings, size, np.random.default_rng([seed, 4, epoch])) for epoch in range(n_epochs)]
    planted, truth, flagged = plant(
        settings, size, pad, psf_sigma=psf_sigma, noise=noise, stars=stars, variables=variables, pointings=pointings
    )

    schema = MaskSchema.lsst()
    direct, twins, expected = [], [], []
    for epoch in range(n_epochs):
        scene = noise_free(galaxies, stars, variables, psf_sigma[epoch], epoch=epoch)
        rng = np.random.default_rng([seed, 5, epoch])
        planes = expose(
            scene, planted[epoch], flagged[epoch], noise[epoch], settings, stars, pointings[epoch], schema, rng
        )
        matched = match(*planes, matching_sigma(target_sigma, psf_sigma[epoch]), schema)
        direct.append([plane[inner] for plane in planes])
        twins.append([plane[inner] for plane in matched])
        expected.append(scene[inner].astype(np.float32))

    for table in (stars, variables):
        table["y"] -= pad
        table["x"] -= pad
    visits = [1001 + 7 * epoch for epoch in range(n_epochs)]
    shared = {"schema": schema, "epochs": visits, "wcs": _tan_wcs(shape)}
    matched_stack = WarpStack(*_stack(twins), psf_sigma=np.full(n_epochs, target_sigma), **shared)
    return Night(
        warps=WarpStack(*_stack(direct), psf_sigma=psf_sigma, psf_matched=matched_stack, **shared),
        truth={kind: np.ascontiguousarray(pixels[:, *inner]) for kind, pixels in truth.items()},
        planted=np.ascontiguousarray(planted[:, *inner]),
        expected=np.stack(expected),
        sky=noise_free(galaxies, shifted(stars, pad), None, target_sigma, epoch=0)[inner].astype(np.float32),
        stars=stars,
        variable_stars=variables,
        noise=noise,
        target_sigma=target_sigma,
        settings=settings,
    )


def write_night(night: Night, folder: str | Path) -> Path:
    """
    Write a night as FITS files.

    `folder`/direct/warp-<visit>.fits and `folder`/matched/warp-<visit>.fits hold IMAGE, MASK,
    VARIANCE and PSF (31 x 31, unit sum); `folder`/truth.npz holds what was planted.

    Parameters
    ----------
    night : Night
        From `simulate_night`.
    folder : path
        Made when missing; files of the same name are overwritten.

    Returns
    -------
    Path
        `folder`.
    """
    from .fits import write_planes

    folder = Path(folder)
    for name, stack in (("direct", night.warps), ("matched", night.twins)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for epoch, visit in enumerate(stack.epochs):
            write_planes(
                folder / name / f"warp-{visit}.fits",
                image=stack.image[epoch],
                variance=stack.variance[epoch],
                mask=stack.mask[epoch],
                schema=stack.schema,
                origin=stack.origin,
                wcs=stack.wcs,
                unit=stack.unit,
                extra={"PSF": gaussian_psf(stack.psf_sigma[epoch])},
            )
    truth: dict[str, Any] = {
        "sky": night.sky,
        "stars": night.stars,
        "variable_stars": night.variable_stars,
        "noise": night.noise,
        "psf_sigma": night.warps.psf_sigma,
        **{kind.replace(" ", "_"): pixels for kind, pixels in night.truth.items()},
    }
    np.savez_compressed(folder / "truth.npz", **truth)
    return folder


def _check_settings(settings: dict[str, Any]) -> None:
    if settings["n_epochs"] < 1:
        raise ValueError(f"n_epochs must be at least 1, got {settings['n_epochs']}")
    if min(settings["shape"]) < LEAST_SIZE:
        raise ValueError(f"shape must be at least ({LEAST_SIZE}, {LEAST_SIZE}), got {settings['shape']}")
    for name in ("psf_range", "noise_range"):
        low, high = settings[name]
        if not 0 < low <= high:
            raise ValueError(f"{name} must be two positive numbers, the smaller first, got {settings[name]}")
    if not settings["faint_trail"] >= 0:
        raise ValueError(f"faint_trail must be at least 0, got {settings['faint_trail']}")


def _stack(epochs: list[list[np.ndarray]]) -> tuple[np.ndarray, ...]:
    return tuple(np.stack(planes) for planes in zip(*epochs, strict=True))


def _tan_wcs(shape: tuple[int, int]) -> Any:
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.1, 2.2]
    wcs.wcs.crpix = [shape[1] / 2 + 0.5, shape[0] / 2 + 0.5]
    wcs.wcs.cdelt = [-PIXEL_SCALE / 3600, PIXEL_SCALE / 3600]
    return wcs
