"""
PNG pictures of images, counts and masks, with nothing but NumPy, zlib and astropy's stretches.

North is not known here; rows go up, as on a sky chart: pixel (0, 0) is at the lower left.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Colour = tuple[int, int, int]
Overlay = tuple[np.ndarray, Colour, float]

NAN_COLOUR: Colour = (92, 40, 92)  # no grey and no tint looks like it
PLANE_COLOURS: dict[str, Colour] = {
    "CLIPPED": (255, 90, 60),
    "SAT": (255, 215, 0),
    "CR": (60, 220, 120),
    "BAD": (90, 150, 255),
    "STREAK": (255, 130, 200),
    "SENSOR_EDGE": (0, 190, 200),
    "EDGE": (0, 190, 200),
    "NO_DATA": (150, 80, 150),
}
_GREY = ((0, 0, 0), (255, 255, 255))
_HEAT = ((8, 8, 32), (54, 24, 110), (134, 40, 116), (206, 72, 78), (246, 146, 48), (252, 240, 160))  # lightness rises
_DIVERGING = ((48, 96, 200), (150, 180, 230), (245, 245, 245), (236, 168, 130), (190, 50, 40))
COLOUR_TABLES: dict[str, Sequence[Colour]] = {"grey": _GREY, "heat": _HEAT, "diverging": _DIVERGING}


def to_png(
    image: np.ndarray,
    *,
    stretch: str = "asinh",
    limits: tuple[float, float] | None = None,
    colours: str = "grey",
    overlays: Iterable[Overlay] = (),
    size_limit: int | None = None,
    zoom: int = 1,
) -> bytes:
    """
    Draw an image as PNG.

    Parameters
    ----------
    image : array, shape (y, x)
        Numbers or bools. Non-finite pixels are drawn in `NAN_COLOUR`.
    stretch : {"asinh", "linear"}
        How values between the limits become colours.
    limits : (float, float), optional
        Values drawn in the first and last colour; chosen by `display_limits` when left out.
    colours : {"grey", "heat", "diverging"}
        Colour table.
    overlays : iterable of (mask, (red, green, blue), opacity)
        Each (y, x) bool mask is tinted over the image, in order; opacity 0 to 1.
    size_limit : int, optional
        Longest side of the picture; larger images are averaged in blocks.
    zoom : int
        Draw each pixel as a square of this side (after averaging).

    Returns
    -------
    bytes
        The PNG file, 8-bit RGB.

    Raises
    ------
    ValueError
        If `image` is not 2-d or empty, or `stretch` or `colours` is unknown.

    Examples
    --------
    >>> to_png(np.eye(3))[1:4]
    b'PNG'
    """
    image = np.asarray(image)
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"image has shape {image.shape}; it must be (y, x) and not empty")
    if stretch not in ("asinh", "linear"):
        raise ValueError(f"stretch must be 'asinh' or 'linear', got {stretch!r}")
    if colours not in COLOUR_TABLES:
        raise ValueError(f"colours must be one of {', '.join(COLOUR_TABLES)}, got {colours!r}")
    low, high = display_limits(image, stretch=stretch) if limits is None else limits
    block = 1 if size_limit is None else -(-max(image.shape) // max(int(size_limit), 1))
    values = _block_mean(image.astype(np.float64), block)
    rgb = _coloured(_stretched(values, stretch, low, high), COLOUR_TABLES[colours])
    for mask, colour, opacity in overlays:
        share = np.nan_to_num(_block_mean(np.asarray(mask, dtype=np.float64), block))
        alpha = opacity * np.minimum(2 * share, 1)[..., np.newaxis]  # thin things survive the averaging
        rgb = (1 - alpha) * rgb + alpha * np.asarray(colour, dtype=np.float64)
    rgb = np.round(rgb).astype(np.uint8)[::-1]
    return _encode(np.repeat(np.repeat(rgb, zoom, axis=0), zoom, axis=1))


def display_limits(image: np.ndarray, *, stretch: str = "asinh") -> tuple[float, float]:
    """
    Values to draw in the darkest and the brightest colour.

    Parameters
    ----------
    image : array, any shape
        Non-finite values are left out.
    stretch : {"asinh", "linear"}
        "asinh": from astropy's ZScale, the bright end drawn out so that stars keep their shape;
        "linear": the smallest and the largest value.

    Returns
    -------
    (float, float)
        The second is always the larger.
    """
    from astropy.visualization import ZScaleInterval

    values = np.asarray(image)[np.isfinite(image)].astype(np.float64)
    if values.size == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if stretch == "asinh" and low < high:
        # A fixed thinning: ZScale looks at a sample anyway, and a picture must not depend on chance.
        near, far = ZScaleInterval().get_limits(values[:: max(values.size // 100_000, 1)])
        low, high = float(near), float(near + 8 * (far - near)) if far > near else high
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def view(path: str | Path, out_png: str | Path, *, hdu: str = "IMAGE", size_limit: int = 2000) -> Path:
    """
    Draw one plane of a FITS file as a PNG file; mask planes are tinted over it.

    Parameters
    ----------
    path : path
        FITS file. Where it has no `hdu` of the default name, the first 2-d HDU is drawn.
    out_png : path
        Written through a temporary file beside it, so it is there whole or not at all.
    hdu : str
        EXTNAME, any case. Integers (counts) get a colour table, "MASK" its planes on black.
    size_limit : int
        Longest side of the picture.

    Returns
    -------
    Path
        `out_png`.

    Raises
    ------
    KeyError
        If the file has no such 2-d HDU.
    """
    from astropy.io import fits

    with fits.open(path) as hdus:
        pixels, name = _plane(hdus, hdu, str(path))
        overlays = _mask_overlays(hdus, pixels.shape)
    if name == "MASK":
        png = to_png(np.zeros(pixels.shape), limits=(0, 1), stretch="linear", overlays=overlays, size_limit=size_limit)
    elif pixels.dtype.kind in "iub":
        png = to_png(pixels, stretch="linear", colours="heat", size_limit=size_limit)
    else:
        png = to_png(pixels, overlays=overlays, size_limit=size_limit)
    return write_atomically(out_png, png)


def write_atomically(path: str | Path, content: bytes) -> Path:
    """
    Write a file so that a reader sees the old one or the new one, never a part.

    Parameters
    ----------
    path : path
        Its folder must exist.
    content : bytes
        The whole file.

    Returns
    -------
    Path
        `path`.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp gives 0600
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _plane(hdus: Any, hdu: str, path: str) -> tuple[np.ndarray, str]:
    """Pixels and upper-case name of the HDU called `hdu`."""
    planes = {h.name.upper(): h for h in hdus if h.is_image and h.header.get("NAXIS") == 2}
    name = hdu.upper()
    if name == "IMAGE" and name not in planes and planes:
        name = next(iter(planes))
    if name not in planes:
        raise KeyError(f"{path} has no image HDU {hdu!r}; it has {', '.join(planes) or 'none'}")
    return np.asarray(planes[name].data), name


def _mask_overlays(hdus: Any, shape: tuple[int, int]) -> list[Overlay]:
    """A tint for each mask plane we have a colour for, from the MP_ cards of the MASK HDU."""
    if "MASK" not in hdus or hdus["MASK"].shape != shape:
        return []
    mask, header = np.asarray(hdus["MASK"].data), hdus["MASK"].header
    planes = {name: header[f"MP_{name}"] for name in reversed(PLANE_COLOURS) if f"MP_{name}" in header}
    return [((mask >> bit) & 1 != 0, PLANE_COLOURS[name], 0.45) for name, bit in planes.items()]


def _block_mean(values: np.ndarray, block: int) -> np.ndarray:
    """Mean of the finite values in blocks of `block` x `block`; NaN where there is none. The last blocks may be cut."""
    if block == 1:
        return values
    finite = np.isfinite(values)
    starts = [np.arange(0, n, block) for n in values.shape]
    total, count = (
        np.add.reduceat(np.add.reduceat(plane, starts[0], axis=0), starts[1], axis=1)
        for plane in (np.where(finite, values, 0.0), finite.astype(np.float64))
    )
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _stretched(values: np.ndarray, stretch: str, low: float, high: float) -> np.ndarray:
    """Values between the limits as 0 to 1; NaN stays."""
    from astropy.visualization import AsinhStretch

    unit = np.clip((np.where(np.isfinite(values), values, np.nan) - low) / (high - low), 0, 1)
    return AsinhStretch(a=0.08)(unit) if stretch == "asinh" else unit


def _coloured(unit: np.ndarray, table: Sequence[Colour]) -> np.ndarray:
    """Colours (y, x, 3) float64 of numbers from 0 to 1, linear between the anchors of `table`."""
    anchors = np.asarray(table, dtype=np.float64)
    places = np.linspace(0, 1, len(anchors))
    rgb = np.stack([np.interp(np.nan_to_num(unit), places, anchors[:, channel]) for channel in range(3)], axis=-1)
    rgb[np.isnan(unit)] = NAN_COLOUR
    return rgb


def _encode(rgb: np.ndarray) -> bytes:
    """PNG of (y, x, 3) uint8: signature, IHDR, IDAT, IEND; each row is filtered by its left neighbours."""
    height, width, _ = rgb.shape
    left = np.zeros_like(rgb)
    left[:, 1:] = rgb[:, :-1]
    rows = np.empty((height, 1 + 3 * width), dtype=np.uint8)
    rows[:, 0] = 1  # filter type Sub
    rows[:, 1:] = (rgb - left).reshape(height, -1)  # modulo 256, as the format asks

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows.tobytes(), 7)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
