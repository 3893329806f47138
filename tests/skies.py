"""Celestial WCSs of small patches, and where pixels are on the sky by the plain formulas of a projection."""

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

RA, DEC = 150.0, -27.0
SCALE = 0.8  # arcsec
KINDS = ("plain", "rotated", "transposed", "far from the tangent", "FK5", "galactic")


def tan_wcs(kind="plain", centre=(30.0, 22.0), scale=SCALE, at=(RA, DEC)):
    """A WCS whose array position `centre`, (y, x), is near the ICRS position `at`; `kind` is one of `KINDS`."""
    wcs = WCS(naxis=2)
    step = scale / 3600
    angle = np.radians({"rotated": 33.0, "galactic": 70.0}.get(kind, 0.0))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = at
    wcs.wcs.crpix = [centre[1] + 1, centre[0] + 1]
    wcs.wcs.cd = turn @ np.diag([-step, step])
    wcs.wcs.radesys = "ICRS"
    if kind == "transposed":
        wcs.wcs.ctype = ["DEC--TAN", "RA---TAN"]
        wcs.wcs.crval = at[::-1]
        wcs.wcs.cd = np.array([[step, 0.0], [0.0, step]])
    elif kind == "FK5":
        wcs.wcs.radesys, wcs.wcs.equinox = "FK5", 2000.0
    elif kind == "galactic":
        place = SkyCoord(*at, unit="deg").galactic
        wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
        wcs.wcs.crval = [place.l.deg, place.b.deg]
        wcs.wcs.radesys = ""
    wcs.wcs.set()
    if kind == "far from the tangent":
        wcs.wcs.crval = [at[0] - 1.0, at[1] + 1.0]
        wcs.wcs.set()
        moved = wcs.wcs_world2pix([at], 0)[0]
        wcs.wcs.crpix = wcs.wcs.crpix + np.array([centre[1] - moved[0], centre[0] - moved[1]])
        wcs.wcs.set()
    return wcs


def sky_of(wcs, y, x):
    """ICRS degrees of one array position, by the low-level interface."""
    values = dict(zip((kind[:4] for kind in wcs.wcs.ctype), wcs.wcs_pix2world([[x, y]], 0)[0], strict=True))
    if "GLON" not in values and wcs.wcs.radesys == "ICRS":
        return float(values["RA--"]), float(values["DEC-"])
    if "GLON" in values:
        place = SkyCoord(l=values["GLON"], b=values["GLAT"], unit="deg", frame="galactic").icrs
    else:
        frame = {"FK5": "fk5"}.get(wcs.wcs.radesys, "icrs")
        place = SkyCoord(values["RA--"], values["DEC-"], unit="deg", frame=frame).icrs
    return float(place.ra.deg), float(place.dec.deg)


def scale_of(wcs, shape):
    """Pixel scale in the middle, arcsec: the root of the area that two sides and the angle between them span."""
    y, x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    left, right, low, high = (
        SkyCoord(*sky_of(wcs, *at), unit="deg") for at in ((y, x - 0.5), (y, x + 0.5), (y - 0.5, x), (y + 0.5, x))
    )
    angle = left.position_angle(right) - low.position_angle(high)
    return float(np.sqrt(abs(left.separation(right).arcsec * low.separation(high).arcsec * np.sin(angle.rad))))
