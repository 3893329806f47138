"""
Slow, obvious definitions of the streak finder's sums; shares no code with the package.

Lines are summed pixel by pixel along their jagged paths; the noise factor is the integral it is defined by; the
significance of a line is a loop over pixels. Double precision throughout.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


def path(length: int, displacement: int, q: int) -> list[int]:
    """
    Rows above the first that a line with `displacement` rows in all visits, one number per column.

    Over `q` columns it is the straight line, rounded with halves up; a longer one is made of two halves of the same
    path, the second lifted so that the last column reaches `displacement`.
    """
    if length == q:
        return [math.floor(Fraction(displacement * i, q - 1) + Fraction(1, 2)) for i in range(q)]
    half = path(length // 2, displacement // 2, q)
    return half + [(displacement + 1) // 2 + row for row in half]


def line_sums(plane: np.ndarray, length: int, q: int) -> dict[tuple[int, int, int], float]:
    """
    Sum of `plane` along every path of `length` columns.

    Parameters
    ----------
    plane : array, shape (y, x)
        Zero outside.
    length : int
        q times a power of two.
    q : int

    Returns
    -------
    dict
        (block of columns, displacement, row of the first column) to the sum. First rows run from where a path first
        meets the image, so they may be negative.
    """
    ny, nx = plane.shape
    sums = {}
    for block in range(-(-nx // length)):
        for displacement in range(length):
            rows = path(length, displacement, q)
            for first in range(-displacement, ny):
                total = 0.0
                for i, row in enumerate(rows):
                    y, x = first + row, block * length + i
                    if 0 <= y < ny and x < nx:
                        total += float(plane[y, x])
                sums[block, displacement, first] = total
    return sums


def gaussian_noise_factor(width: float, matching_sigma: float) -> float:
    """Noise factor of white noise that was convolved with a Gaussian and brought back to unit variance."""
    return math.sqrt(4 * math.pi * matching_sigma**2 * width / math.hypot(width, matching_sigma))


def noise_factor(noise: np.ndarray, good: np.ndarray, width: float, rings: int = 96) -> float:
    """
    Noise factor from its definition, on an image of unit noise.

    Power is the squared transform over the number of good pixels; each ring of |k|, from 0 to 0.5, has the median
    over ln 2, which is the mean for the exponential distribution of power; rings are weighted by the power of a
    Gaussian profile.
    """
    transform = np.fft.fft2(np.where(good, noise, 0.0))
    power = np.abs(transform) ** 2 / good.sum()
    ky, kx = np.meshgrid(*map(np.fft.fftfreq, noise.shape), indexing="ij")
    radius = np.hypot(ky, kx)
    above = below = 0.0
    for ring in range(rings):
        low, high = 0.5 * ring / rings, 0.5 * (ring + 1) / rings
        inside = power[(radius >= low) & (radius < high) & (radius > 0)]
        if inside.size:
            k = (low + high) / 2
            weight = math.exp(-((2 * math.pi * width * k) ** 2))
            above += weight * float(np.median(inside)) / math.log(2)
            below += weight
    return math.sqrt(above / below)


def line_z(
    numerator: np.ndarray, weight: np.ndarray, ends: np.ndarray, width: float, factor: float = 1.0, reach: float = 5.0
) -> float:
    """
    Significance of a Gaussian line: sum(N p) / sqrt(sum(W p²)) over the pixels around it, over the noise factor.

    Parameters
    ----------
    numerator, weight : array, shape (y, x)
        N and W.
    ends : array, shape (2, 2)
        (y, x) of both ends; pixels whose foot on the line lies between them count.
    width : float
        Gaussian sigma of the profile p, in pixels at right angles to the line.
    factor : float
        Noise factor.
    reach : float
        Widths from the line at which the profile ends.
    """
    (y0, x0), (y1, x1) = np.asarray(ends, float)
    length = math.hypot(y1 - y0, x1 - x0)
    above = below = 0.0
    for y in range(numerator.shape[0]):
        for x in range(numerator.shape[1]):
            along = ((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / length
            across = ((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) / length
            if 0 <= along <= length and abs(across) <= reach * width:
                profile = math.exp(-0.5 * (across / width) ** 2)
                above += float(numerator[y, x]) * profile
                below += float(weight[y, x]) * profile**2
    return above / math.sqrt(below) / factor if below else 0.0
