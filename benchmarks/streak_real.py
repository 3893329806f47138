"""
Differences of real exposures with one satellite trail: the crowded Galactic-bulge field "saao_bulge".

The folder holds epoch_NNNN.fits (image, variance, mask on one grid and flux scale) and epochs.csv with the widths of
the PSFs; the environment variable GPUCOADD_DATA names the folder above it. Warps are brought to one Gaussian width and
compared with their median, so every star leaves something.
"""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

NAME = "saao_bulge"
TRAIL_EPOCH, TRAIL = "0064", np.array([[323.0, 12.0], [342.0, 511.0]])  # (y, x), seen by eye
FWHM = 2.0 * math.sqrt(2.0 * math.log(2.0))


class Differences(NamedTuple):
    """Planes (epoch, y, x); `psf_sigma` holds for all of them."""

    epochs: tuple[str, ...]
    difference: np.ndarray
    variance: np.ndarray
    bad: np.ndarray
    psf_sigma: float


def folder() -> Path | None:
    """Where the files are, or None."""
    path = Path(os.environ.get("GPUCOADD_DATA", "")) / NAME
    return path if (path / "epochs.csv").is_file() else None


def load(path: Path) -> Differences:
    """Differences of all epochs whose PSF is at most 6 px wide, each at the width of the widest of those."""
    from astropy.io import fits

    with open(path / "epochs.csv", newline="", encoding="utf-8") as stream:
        widths = {row["epoch"]: float(row["fwhm_pix"]) / FWHM for row in csv.DictReader(stream)}
    epochs = tuple(epoch for epoch, width in widths.items() if width * FWHM <= 6.0)
    common = 1.05 * max(widths[epoch] for epoch in epochs)
    planes = []
    for epoch in epochs:
        with fits.open(path / f"epoch_{epoch}.fits") as file:
            image, variance, mask = (file[name].data for name in ("IMAGE", "VARIANCE", "MASK"))
            bits = sum(1 << file["MASK"].header[f"MP_{name}"] for name in ("SAT", "NO_DATA", "EDGE", "BAD"))
        bad = ~np.isfinite(image) | ~np.isfinite(variance) | ~(variance > 0) | ((mask & bits) != 0)
        planes.append(smooth(image, variance, bad, math.sqrt(common**2 - widths[epoch] ** 2)))
    image, variance, bad = (np.stack(plane) for plane in zip(*planes))
    bad |= bad.all(axis=0)
    template = np.ma.median(np.ma.masked_array(image, bad), axis=0).filled(np.nan)
    difference = np.where(bad, np.nan, image - template).astype(np.float32)
    return Differences(epochs, difference, np.where(bad, np.nan, variance).astype(np.float32), bad, common)


def smooth(
    image: np.ndarray, variance: np.ndarray, bad: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image convolved with a Gaussian, the variance of its pixels, and those that saw much of a bad one."""
    filled = ndimage.gaussian_filter(np.where(bad, 0.0, image).astype(float), width)
    spread = ndimage.gaussian_filter(np.where(bad, 0.0, variance).astype(float), width / math.sqrt(2.0))
    touched = ndimage.gaussian_filter(bad.astype(float), width) > 0.02
    return filled, spread / (4.0 * math.pi * width**2), touched | bad
