"""
Width of a point source: adaptive moments of a stamp, and of the stars in an image.

Runs on the host in NumPy: stamps are small, and it is done once per epoch.

Why adaptive: plain second moments of a real PSF grow with the stamp, because its wings
fall off slowly. Moments weighted by a Gaussian that has taken the PSF's own shape do not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

FWHM_PER_SIGMA = 2.3548200450309493  # 2 sqrt(2 ln 2), of a Gaussian

_N_ROUNDS = 100
_MIN_SIGMA = 0.4  # pixels; narrower than any sampled PSF: a cosmic ray or noise
_MAX_SHIFT = 1.5  # pixels between the peak of a star and its centroid
_MIN_SNR = 20.0  # of a star's peak after smoothing, over the scatter of the smoothed image
_MAX_STARS = 160
_MAX_NEIGHBOUR = 0.15  # height of a neighbour, relative to the star, that spoils it
_MAX_SIDE = 2048  # pixels; the middle of a larger image has stars enough


def adaptive_moments(image: Any, *, center: tuple[float, float] | None = None) -> tuple[float, tuple[float, float]]:
    """
    Determinant radius and centroid of one point source.

    The image is weighted by an elliptical Gaussian of covariance ``W``. Its weighted second moment is ``M``; for a
    Gaussian image of covariance ``Q`` the product is a Gaussian with ``M = (W^-1 + Q^-1)^-1``, so
    ``Q = (M^-1 - W^-1)^-1`` is the next weight. It settles at ``W = Q``, where ``M = Q / 2``, and that fixed point is
    the definition for an image of any shape. A PSF narrower than about 0.75 pixels may have none.

    Parameters
    ----------
    image : array-like, shape (y, x), real
        A source on no background, any flux unit, positive sum; not changed.
    center : (float, float), optional
        (y, x) to start from, in pixels from the first pixel's centre; the brightest pixel when left out.

    Returns
    -------
    sigma : float
        ``det(Q)**0.25`` in pixels; a Gaussian's sigma.
    center : (float, float)
        (y, x) of the centroid.

    Raises
    ------
    ValueError
        If `image` is not a finite 2-d array with a positive sum, or the moments do not settle inside it (its sides
        must be four sigma at least).

    References
    ----------
    Bernstein & Jarvis 2002 (AJ 123, 583), section 3; Hirata & Seljak 2003 (MNRAS 343, 459).

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:25, :25]
    >>> star = np.exp(-((y - 12) ** 2 + (x - 11.5) ** 2) / (2 * 1.8**2))
    >>> sigma, (y0, x0) = adaptive_moments(star)
    >>> round(sigma, 3), round(y0, 3), round(x0, 3)
    (1.8, 12.0, 11.5)
    """
    moments, found = adaptive_covariance(image, center=center)
    return float(_radius(np.array(moments))), found


def adaptive_covariance(
    image: Any, *, center: tuple[float, float] | None = None
) -> tuple[tuple[float, float, float], tuple[float, float]]:
    """The weight (yy, xx, yx) that `adaptive_moments` settles at, in pixels squared, and the centroid; as there."""
    stamp = np.asarray(image, dtype=np.float64)
    if stamp.ndim != 2 or 0 in stamp.shape:
        raise ValueError(f"image has shape {stamp.shape}; it must be (y, x)")
    total = stamp.sum()
    if not np.isfinite(total) or total <= 0:
        raise ValueError(f"image must be finite with a positive sum, got a sum of {total}")
    if center is None:
        peak = np.unravel_index(int(np.argmax(stamp)), stamp.shape)
        center = (float(peak[0]), float(peak[1]))
    # Exact for a Gaussian; noise makes it too small, hence the other starts.
    first = 1.0 / np.sqrt(4 * np.pi * np.sum((stamp / total) ** 2))
    for start in (first, 1.5, 3.0, 6.0):
        moments, centers, settled = _settle(stamp[None], np.array([center], float), start, tolerance=1e-7)
        y, x = centers[0]
        sigma = float(_radius(moments)[0])
        inside = -0.5 <= y <= stamp.shape[0] - 0.5 and -0.5 <= x <= stamp.shape[1] - 0.5
        if settled[0] and inside and 4 * sigma <= min(stamp.shape):
            yy, xx, yx = moments[:, 0].tolist()
            return (yy, xx, yx), (float(y), float(x))
    raise ValueError(
        f"adaptive moments of an image of shape {stamp.shape} do not settle around (y, x) = {tuple(center)}; "
        "it must hold one point source on no background"
    )


def _radius(moments: np.ndarray) -> np.ndarray:
    """Determinant radius of (yy, xx, yx) moments, shape (3, n)."""
    yy, xx, yx = moments
    return np.maximum(yy * xx - yx**2, 0.0) ** 0.25


def _inverse(moments: np.ndarray) -> np.ndarray:
    """Inverse of symmetric 2 x 2 matrices kept as (yy, xx, yx)."""
    yy, xx, yx = moments
    return np.stack([xx, yy, -yx]) / (yy * xx - yx**2)


def _settle(
    stamps: np.ndarray, centers: np.ndarray, sigma: float, *, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Adaptive moments of (n, y, x) stamps: (yy, xx, yx) of shape (3, n), (n, 2) centres, and which settled.

    All stamps go round together; a stamp that has settled or failed is left out of the next round.
    """
    n, ny, nx = stamps.shape
    weight = np.outer([sigma**2, sigma**2, 0.0], np.ones(n))
    centers = centers.copy()
    settled = np.zeros(n, bool)
    active = np.arange(n)
    y, x = np.arange(ny, dtype=float), np.arange(nx, dtype=float)
    for _ in range(_N_ROUNDS):
        if active.size == 0:
            break
        old = weight[:, active]
        with np.errstate(all="ignore"):  # a failing stamp may divide by zero; it is dropped below
            new, shift = _one_round(stamps[active], centers[active], old, y, x)
            change = np.abs(new - old).max(axis=0) / (old[0] + old[1])
            definite = (new[0] > 0) & (new[1] > 0) & (new[0] * new[1] > new[2] ** 2)
            alive = np.isfinite(new).all(axis=0) & np.isfinite(shift).all(axis=1) & definite
            alive &= (_radius(new) > _MIN_SIGMA) & (np.abs(shift).max(axis=1) < max(ny, nx))
        weight[:, active[alive]] = new[:, alive]
        centers[active[alive]] += shift[alive]
        done = alive & (change < tolerance) & (np.abs(shift).max(axis=1) < 10 * tolerance)
        settled[active[done]] = True
        active = active[alive & ~done]
    return weight, centers, settled


def _one_round(
    stamps: np.ndarray, centers: np.ndarray, weight: np.ndarray, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Next weight (3, n) and the step of the centre (n, 2)."""
    dy = (y - centers[:, :1])[:, :, None]
    dx = (x - centers[:, 1:])[:, None, :]
    inverse = _inverse(weight)
    yy, xx, yx = (term[:, None, None] for term in inverse)
    product = stamps * np.exp(-0.5 * (yy * dy**2 + xx * dx**2 + 2 * yx * dy * dx))
    total = product.sum(axis=(1, 2))
    total[total <= 0] = np.nan
    mean_y = (product * dy).sum(axis=(1, 2)) / total
    mean_x = (product * dx).sum(axis=(1, 2)) / total
    moments = np.stack(
        [
            (product * dy**2).sum(axis=(1, 2)) / total - mean_y**2,
            (product * dx**2).sum(axis=(1, 2)) / total - mean_x**2,
            (product * dy * dx).sum(axis=(1, 2)) / total - mean_y * mean_x,
        ]
    )
    # Twice: the weight pulls the centroid half way back to the old centre, as it halves the moments.
    return _inverse(_inverse(moments) - inverse), 2 * np.stack([mean_y, mean_x], axis=1)


def measure_sigma(image: np.ndarray, bad: np.ndarray) -> tuple[float, int]:
    """
    PSF width of an image, from its own stars.

    Stars are bright, isolated local maxima of the smoothed image without a bad pixel near; each gets its adaptive
    moments. The width is the median of the shortest interval of log sigma that holds half of them, which cosmic
    rays (narrower) and galaxies and blends (wider) do not move.

    Parameters
    ----------
    image : numpy.ndarray, shape (y, x), float
        Sky subtracted or not; not changed. Of an image larger than 2048 pixels the middle is used.
    bad : numpy.ndarray, shape (y, x), bool
        Pixels not to be used; non-finite ones are left out too.

    Returns
    -------
    sigma : float
        Determinant radius in pixels; NaN if no star is found.
    n_stars : int
        Stars that the number rests on.
    """
    middle = tuple(slice(max(0, (n - _MAX_SIDE) // 2), max(0, (n - _MAX_SIDE) // 2) + _MAX_SIDE) for n in image.shape)
    pixels = np.asarray(image[middle], dtype=np.float64)
    unusable = bad[middle] | ~np.isfinite(pixels)
    if unusable.all():
        return np.nan, 0
    flat = np.where(unusable, 0.0, pixels - np.median(pixels[~unusable]))
    sigma, n_stars = 2.0, 0
    for _ in range(4):
        widths = _star_widths(flat, unusable, sigma)
        if widths.size == 0:
            return (sigma, n_stars) if n_stars else (np.nan, 0)
        previous, sigma, n_stars = sigma, _typical(widths), widths.size
        if abs(sigma / previous - 1) < 0.03:
            break
    return float(sigma), int(n_stars)


def _typical(widths: np.ndarray) -> float:
    """Median of the shortest interval of log width that holds half of the values."""
    values = np.sort(np.log(widths))
    half = values.size // 2 + 1
    start = int(np.argmin(values[half - 1 :] - values[: values.size - half + 1]))
    return float(np.exp(np.median(values[start : start + half])))


def _star_widths(flat: np.ndarray, unusable: np.ndarray, sigma: float) -> np.ndarray:
    """Determinant radii of the stars in `flat`, looked for at the scale `sigma`."""
    stars = _find_stars(flat, unusable, sigma)
    if len(stars) == 0:
        return np.empty(0)
    half = _half_stamp(sigma)
    offsets = np.arange(-half, half + 1)
    stamps = flat[stars[:, 0, None, None] + offsets[:, None], stars[:, 1, None, None] + offsets]
    ring = np.ones(stamps.shape[1:], bool)
    ring[1:-1, 1:-1] = False
    stamps = stamps - np.median(stamps[:, ring], axis=1)[:, None, None]
    middle = np.full((len(stars), 2), float(half))
    moments, centers, settled = _settle(stamps, middle, sigma, tolerance=1e-4)
    settled &= np.abs(centers - middle).max(axis=1) < _MAX_SHIFT
    return _radius(moments)[settled]


def _half_stamp(sigma: float) -> int:
    return int(np.ceil(4 * sigma)) + 2


def _find_stars(flat: np.ndarray, unusable: np.ndarray, sigma: float) -> np.ndarray:
    """(n, 2) pixels (y, x) of bright, isolated maxima whose stamps are whole and usable."""
    smooth = ndimage.gaussian_filter(flat, sigma, mode="nearest")
    scatter = 1.4826 * np.median(np.abs(smooth[~unusable] - np.median(smooth[~unusable])))
    box = 2 * round(1.77 * sigma + 1) + 1
    floor = _MIN_SNR * scatter
    # Neighbours count from a fraction of the faintest star's height on, so they are searched below the floor.
    maxima = (smooth == ndimage.maximum_filter(smooth, box, mode="nearest")) & (smooth > _MAX_NEIGHBOUR * floor)
    peaks = np.argwhere(maxima & (smooth > 0))
    heights = smooth[tuple(peaks.T)]
    half = _half_stamp(sigma)
    spoiled = ndimage.maximum_filter(unusable, 2 * half + 1, mode="constant", cval=True)
    candidate = (heights > floor) & ~spoiled[tuple(peaks.T)]
    chosen = np.flatnonzero(candidate)
    if chosen.size == 0:
        return peaks[:0]
    chosen = chosen[np.argsort(-heights[chosen], kind="stable")]
    near = cKDTree(peaks).query_ball_point(peaks[chosen], 5.8 * sigma)
    isolated = [
        all(other == star or heights[other] <= _MAX_NEIGHBOUR * heights[star] for other in others)
        for star, others in zip(chosen, near, strict=True)
    ]
    return peaks[chosen[np.array(isolated, bool)][:_MAX_STARS]]
