"""
From pixels to the sky and back, by an `astropy.wcs.WCS`.

The WCS of this package's images counts array pixels, the first being 0, whatever the origin in the parent's frame.
Positions are ICRS degrees; the WCS may have other axes, in either order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .workers import cut

_CHUNK = 1 << 18  # positions at once: astropy takes some 300 bytes for each
_ARCSEC = 180 / np.pi * 3600


def check_wcs(wcs: Any, purpose: str) -> None:
    """Raise ValueError unless `wcs` is an `astropy.wcs.WCS` that gives the ICRS position of pixels."""
    from astropy.wcs import WCS

    if not (isinstance(wcs, WCS) and wcs.naxis == 2 and wcs.has_celestial):
        what = "none" if wcs is None else f"a {type(wcs).__name__}"
        if isinstance(wcs, WCS):
            what = f"one with the axes {', '.join(kind or 'linear' for kind in wcs.wcs.ctype)}"
        raise ValueError(f"{purpose} need an astropy.wcs.WCS with two axes, both celestial; the warps have {what}")
    try:
        sky(wcs, np.zeros(1), np.zeros(1))
    except Exception as error:
        raise ValueError(f"{purpose} need a WCS of positions on the sky; astropy says: {error}") from error


def sky(wcs: Any, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    ICRS right ascension and declination of array positions.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    y, x : numpy.ndarray, shape (n,)
        Array pixels; whole numbers are their centres.

    Returns
    -------
    ra, dec : numpy.ndarray, shape (n,), float64
        Degrees; NaN where the projection has no sky.
    """
    ra, dec = np.empty(len(y)), np.empty(len(y))
    for piece in cut(len(y), _CHUNK):
        found = wcs.pixel_to_world(x[piece], y[piece]).icrs
        ra[piece], dec[piece] = found.ra.deg, found.dec.deg
    return ra, dec


def pixels(wcs: Any, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Array positions (y, x), float64, of ICRS positions in degrees; NaN where the projection has none."""
    from astropy.coordinates import SkyCoord

    x, y = wcs.world_to_pixel(SkyCoord(ra, dec, unit="deg", frame="icrs"))
    return np.asarray(y), np.asarray(x)


def vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Unit vectors, shape (n, 3), of positions in degrees."""
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def outline(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Array positions y and x of the four outer corners of an image, one after the other."""
    bottom, left, top, right = -0.5, -0.5, shape[0] - 0.5, shape[1] - 0.5
    return np.array([bottom, bottom, top, top]), np.array([left, right, right, left])


def pixel_scale(wcs: Any, shape: tuple[int, int]) -> float:
    """
    Side in arcsec of a square as large as a pixel in the middle of an image.

    Raises
    ------
    ValueError
        If the WCS has no sky there.
    """
    y, x = outline((1, 1))
    corners = vectors(*sky(wcs, y + (shape[0] - 1) / 2, x + (shape[1] - 1) / 2))
    area = np.linalg.norm(np.cross(corners[2] - corners[0], corners[3] - corners[1])) / 2
    if not area > 0:
        raise ValueError("the WCS gives no sky position for the middle of the patch; check its cards")
    return float(np.sqrt(area) * _ARCSEC)
