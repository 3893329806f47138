"""
What a simulated night is made of: stars and galaxies, what spoils them, and the instrument that looks at them.

Everything is drawn in a frame that is wider than the patch by the reach of the matching kernels ("padded").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from .masks import MaskSchema

SATURATION = 40_000.0  # nJy per pixel
PHOTON = 0.3  # nJy of one photo-electron: a source of f nJy adds PHOTON * f nJy^2 of variance
_EDGE_WIDTH = 4  # pixels that carry EDGE along a detector border
_STAMP_FLOOR = 0.01  # nJy; star stamps end where the profile falls below this
_STAR = np.dtype([("y", "f8"), ("x", "f8"), ("flux", "f8"), ("variable", "?")])

Table = np.ndarray  # structured


class Pointing(NamedTuple):
    """Where the detectors lie in one epoch, padded."""

    angle: float
    no_data: np.ndarray
    bad: np.ndarray


def gaussian_psf(sigma: float, size: int = 31) -> np.ndarray:
    """
    Round Gaussian PSF stamp.

    Parameters
    ----------
    sigma : float
        Width in pixels.
    size : int
        Odd side of the stamp.

    Returns
    -------
    array, shape (size, size), float64
        Centred on the middle pixel; sums to 1.
    """
    profile = _profile(sigma, size // 2)
    return np.outer(profile, profile)


def point_source(dy: np.ndarray, dx: np.ndarray, flux: float, sigma: float) -> np.ndarray:
    """
    Pixels of a point source seen through a Gaussian PSF.

    Parameters
    ----------
    dy, dx : array, shapes (y, 1) and (1, x)
        Offsets of the pixel centres from the source.
    flux : float
        Total flux.
    sigma : float
        Width of the PSF in pixels.

    Returns
    -------
    array, shape (y, x), float64
        Flux per pixel.
    """
    peak = flux / (2 * np.pi * sigma**2)
    return peak * np.exp(-0.5 * (dy / sigma) ** 2) * np.exp(-0.5 * (dx / sigma) ** 2)


# ---- the sky ----------------------------------------------------------------------------


def star_catalogue(settings: dict[str, Any], size: tuple[int, int], pad: int) -> tuple[Table, Table]:
    """Stars with dN/dflux ~ flux**-1.9, in padded pixels, and the variable ones among them with a flux per epoch."""
    rng = np.random.default_rng([settings["seed"], 1])
    n_epochs, shape = settings["n_epochs"], settings["shape"]
    variables = np.zeros(2, dtype=[("y", "f8"), ("x", "f8"), ("flux", "f8", (n_epochs,))])
    for row, place, mean, amplitude in zip(
        variables, ((0.35, 0.62), (0.7, 0.3)), (20_000.0, 8_000.0), (0.4, 0.6), strict=True
    ):
        row["y"], row["x"] = pad + np.multiply(place, shape) + rng.uniform(-2, 2, 2)
        # Golden-ratio phases: however many epochs there are, few fall near the mean, so the star deviates in most.
        phase = rng.uniform() + 0.618034 * np.arange(n_epochs)
        row["flux"] = mean * (1 + amplitude * np.sin(2 * np.pi * phase))
    stars = np.zeros(round(settings["star_density"] * size[0] * size[1]), dtype=_STAR)
    stars["y"], stars["x"] = rng.uniform(0, 1, (2, len(stars))) * np.reshape(size, (2, 1))
    stars["flux"] = np.minimum(300.0 * rng.uniform(0, 1, len(stars)) ** (-1 / 0.9), 4e5)
    n_saturated = min(settings["n_saturated"], len(stars))
    stars["flux"][:n_saturated] = rng.uniform(1.5e6, 4e6, n_saturated)
    distance = _distance_to(variables, stars["y"], stars["x"])
    stars = stars[distance > np.where(stars["flux"] > 1e6, 60.0, 20.0)]
    known = np.zeros(len(variables), dtype=_STAR)
    known["y"], known["x"], known["flux"] = variables["y"], variables["x"], variables["flux"].mean(axis=1)
    known["variable"] = True
    return np.concatenate([stars, known]), variables


def galaxy_image(settings: dict[str, Any], size: tuple[int, int], variables: Table) -> np.ndarray:
    """Exponential discs before any PSF, (y, x) float64."""
    rng = np.random.default_rng([settings["seed"], 2])
    image = np.zeros(size)
    for _ in range(round(settings["galaxy_density"] * size[0] * size[1])):
        y, x = rng.uniform(0, 1, 2) * size
        flux, scale = min(300.0 * rng.uniform() ** -0.9, 3e4), rng.uniform(0.8, 3.0)
        ratio, angle = rng.uniform(0.3, 1.0), rng.uniform(0, np.pi)
        if _distance_to(variables, y, x) < 25:
            continue
        box, dy, dx = _stamp(size, y, x, int(9 * scale) + 1)
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        profile = np.exp(-np.hypot(along, across / ratio) / scale)
        image[box] += flux * profile / (2 * np.pi * scale**2 * ratio)
    return image


def noise_free(galaxies: np.ndarray, stars: Table, variables: Table | None, sigma: float, *, epoch: int) -> np.ndarray:
    """Noise-free sky through a Gaussian PSF of one epoch; without `variables`, stars have their mean flux."""
    image = ndimage.gaussian_filter(galaxies, sigma, truncate=5.0, mode="constant")
    flux = stars["flux"].copy()
    if variables is not None:
        flux[stars["variable"]] = variables["flux"][:, epoch]
    for y, x, star_flux in zip(stars["y"], stars["x"], flux, strict=True):
        _add_point(image, y, x, star_flux, sigma)
    return image


def _add_point(image: np.ndarray, y: float, x: float, flux: float, sigma: float) -> None:
    """Add a point source to `image`, in place."""
    peak = flux / (2 * np.pi * sigma**2)
    radius = math.ceil(sigma * math.sqrt(2 * math.log(max(peak / _STAMP_FLOOR, math.e))))
    box, dy, dx = _stamp(image.shape, y, x, radius)
    image[box] += point_source(dy, dx, flux, sigma)


def _stamp(
    size: tuple[int, int], y: float, x: float, radius: int
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """Box around (y, x) cut to the image, and the offsets dy (n, 1), dx (1, m) of its pixels from (y, x)."""
    iy, ix = round(y), round(x)
    rows = slice(max(iy - radius, 0), max(min(iy + radius + 1, size[0]), 0))
    columns = slice(max(ix - radius, 0), max(min(ix + radius + 1, size[1]), 0))
    dy = np.arange(rows.start, max(rows.stop, rows.start))[:, np.newaxis] - y
    dx = np.arange(columns.start, max(columns.stop, columns.start))[np.newaxis] - x
    return (rows, columns), dy, dx


def _distance_to(table: Table, y: Any, x: Any) -> Any:
    """Distance from (y, x) to the nearest row of `table`; infinite for an empty one."""
    distances = [np.hypot(np.subtract(y, row["y"]), np.subtract(x, row["x"])) for row in table]
    return np.min(distances, axis=0) if distances else np.full(np.shape(y), np.inf)


def shifted(table: Table, pad: int) -> Table:
    """Copy of `table` back in padded pixels."""
    table = table.copy()
    table["y"] += pad
    table["x"] += pad
    return table


# ---- what spoils it ---------------------------------------------------------------------


def plant(
    settings: dict[str, Any],
    size: tuple[int, int],
    pad: int,
    *,
    psf_sigma: np.ndarray,
    noise: np.ndarray,
    stars: Table,
    variables: Table,
    pointings: list[Pointing],
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Flux of all artifacts (epoch, y, x), the pixels of each kind, and those to be flagged CR."""
    rng = np.random.default_rng([settings["seed"], 3])
    n_epochs, side = settings["n_epochs"], min(settings["shape"])
    planes = {
        kind: np.zeros((n_epochs, *size), dtype=np.float32)
        for kind in ("trail", "cosmic ray", "moving object", "ghost")
    }
    y, x = np.ogrid[: size[0], : size[1]]

    n_trails = max(round(settings["trail_fraction"] * n_epochs), 1) if settings["trail_fraction"] > 0 else 0
    order = rng.permutation(n_epochs)
    for epoch in order[:n_trails]:
        for _ in range(1 + (rng.uniform() < 0.25)):
            planes["trail"][epoch] += _trail(rng, y, x, side, psf_sigma[epoch], variables)

    # A ghost in an epoch that lacks half the patch would go unseen.
    epoch = rng.choice(np.argsort([p.no_data.mean() for p in pointings])[: (n_epochs + 1) // 2])
    radius = 0.14 * side
    cy, cx = _away(rng, lambda: pad + rng.uniform(0.1, 0.9, 2) * settings["shape"], variables, radius + side / 16)
    distance = np.hypot(y - cy, x - cx)
    planes["ghost"][epoch] = 45.0 * (distance < radius) + 60.0 * np.exp(-0.5 * ((distance - radius) / 2.5) ** 2)

    bright = stars[(stars["flux"] > 4e3) & ~stars["variable"]]
    track = _moving_track(rng, n_epochs, settings["shape"], bright, variables) + pad
    for epoch, (oy, ox) in enumerate(track):
        _add_point(planes["moving object"][epoch], oy, ox, 5_000.0, psf_sigma[epoch])

    flagged = np.zeros((n_epochs, *size), dtype=bool)
    for epoch in range(n_epochs):
        for _ in range(rng.poisson(settings["cosmic_ray_density"] * size[0] * size[1])):
            pixels = _cosmic_ray(rng, size, variables)
            planes["cosmic ray"][epoch][pixels] += rng.uniform(0.6, 1.4, len(pixels[0])) * 10 ** rng.uniform(2.7, 3.8)
            flagged[epoch][pixels] |= rng.uniform() < 0.5

    half_noise = 0.5 * noise[:, np.newaxis, np.newaxis]
    truth = {kind: flux >= half_noise for kind, flux in planes.items()}
    if settings["faint_trail"] > 0:
        epoch = order[-1]  # the last that would get a bright one
        across, _ = _line(np.random.default_rng([settings["seed"], 6]), y, x, side, variables)
        profile = np.exp(-0.5 * (across / psf_sigma[epoch]) ** 2)
        planes["faint trail"] = np.zeros((n_epochs, *size), dtype=np.float32)
        planes["faint trail"][epoch] = settings["faint_trail"] * noise[epoch] * profile
        truth["faint trail"] = planes["faint trail"] >= 0.1 * settings["faint_trail"] * noise[epoch]
    planted = sum(planes.values(), start=np.zeros((n_epochs, *size), dtype=np.float32))
    return planted, truth, flagged & truth["cosmic ray"]


def _trail(
    rng: np.random.Generator, y: np.ndarray, x: np.ndarray, side: int, psf_sigma: float, variables: Table
) -> np.ndarray:
    """Straight trail across the frame, its brightness tumbling along the way."""
    across, along = _line(rng, y, x, side, variables)
    width = math.hypot(psf_sigma, rng.uniform(0.5, 2.0))
    tumbling = 1 + 0.3 * np.sin(2 * np.pi * (along / (side * rng.uniform(0.2, 0.6)) + rng.uniform()))
    return 10 ** rng.uniform(1.9, 2.8) * tumbling * np.exp(-0.5 * (across / width) ** 2)


def _line(
    rng: np.random.Generator, y: np.ndarray, x: np.ndarray, side: int, variables: Table
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every pixel from a line across the frame, and place along it; clear of the variable stars."""
    for _ in range(100):
        angle = rng.uniform(0, np.pi)
        cy, cx = rng.uniform(0.2, 0.8, 2) * (y.size, x.size)
        normal = (np.cos(angle), -np.sin(angle))
        clear = np.abs((variables["y"] - cy) * normal[0] + (variables["x"] - cx) * normal[1])
        if np.all(clear > side / 12):
            break
    across = (y - cy) * normal[0] + (x - cx) * normal[1]
    return across, (y - cy) * np.sin(angle) + (x - cx) * np.cos(angle)


def _moving_track(
    rng: np.random.Generator, n_epochs: int, shape: tuple[int, int], bright: Table, variables: Table
) -> np.ndarray:
    """Places (y, x) of a moving object, (epoch, 2), far from bright stars if a track allows; wraps at the border."""
    step = max(0.7 * min(shape) / n_epochs, 14.0)  # neighbouring places must not touch in the twins
    tracks = []
    for _ in range(60):
        angle = rng.uniform(0, 2 * np.pi)
        start = rng.uniform(0.15, 0.85, 2) * shape
        places = start + np.arange(n_epochs)[:, np.newaxis] * step * np.array([np.sin(angle), np.cos(angle)])
        places %= shape
        border = min(places.min(), (np.asarray(shape) - places).min())
        near = min(_distance_to(table, places[:, 0], places[:, 1]).min() for table in (bright, variables))
        tracks.append((min(near, border), places))
    return max(tracks, key=lambda track: track[0])[1]


def _cosmic_ray(rng: np.random.Generator, size: tuple[int, int], variables: Table) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of one straight track, 1 to 14 pixels long."""
    y, x = _away(rng, lambda: rng.uniform(0, 1, 2) * size, variables, 25.0)
    angle, steps = rng.uniform(0, 2 * np.pi), np.arange(0, rng.uniform(1, 14), 0.5)
    rows = np.round(y + steps * np.sin(angle)).astype(int)
    columns = np.round(x + steps * np.cos(angle)).astype(int)
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    pixels = np.unique(np.stack([rows[inside], columns[inside]]), axis=1)
    return pixels[0], pixels[1]


def _away(
    rng: np.random.Generator, draw: Callable[[], np.ndarray], variables: Table, distance: float
) -> tuple[float, float]:
    """First of up to 100 drawn places that is `distance` away from the variable stars."""
    for _ in range(100):
        y, x = draw()
        if _distance_to(variables, y, x) > distance:
            break
    return float(y), float(x)


# ---- the instrument ---------------------------------------------------------------------


def expose(
    scene: np.ndarray,
    planted: np.ndarray,
    flagged: np.ndarray,
    noise: float,
    settings: dict[str, Any],
    stars: Table,
    pointing: Pointing,
    schema: MaskSchema,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, variance and mask of one direct warp, padded."""
    signal = scene + planted
    variance = noise**2 + PHOTON * np.maximum(signal, 0)
    image = signal + np.sqrt(variance) * rng.standard_normal(scene.shape)
    y, x = np.ogrid[: scene.shape[0], : scene.shape[1]]
    u, v = _to_detector(y, x, scene.shape, pointing.angle)
    saturated = signal > SATURATION
    peak = stars["flux"] / (2 * np.pi * settings["psf_range"][0] ** 2)
    for star in stars[peak > SATURATION]:
        du, dv = _to_detector(star["y"], star["x"], scene.shape, pointing.angle)
        length = 8.0 * (star["flux"] / 1e6)
        saturated |= (np.abs(u - du) < 1.1) & (np.abs(v - dv) < length) & (length > 8.0)
    image[saturated] = SATURATION
    variance[saturated] = noise**2 + PHOTON * SATURATION

    bad = pointing.bad
    weight = np.where(bad, 0.0, 1.0)
    neighbours = ndimage.gaussian_filter(image * weight, 1.2) / np.maximum(ndimage.gaussian_filter(weight, 1.2), 1e-6)
    image[bad] = neighbours[bad]

    mask = np.zeros(scene.shape, dtype=np.int32)
    mask[saturated] |= schema.bitmask("SAT")
    mask[bad] |= schema.bitmask("BAD", "INTRP")
    mask[flagged] |= schema.bitmask("CR")
    mask[_grow(pointing.no_data, _EDGE_WIDTH)] |= schema.bitmask("EDGE")
    return _blank(image, variance, mask, pointing.no_data, schema)


def point(settings: dict[str, Any], size: tuple[int, int], rng: np.random.Generator) -> Pointing:
    """Draw one epoch's field rotation and dither; detectors are squares a little larger than the patch."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[: size[0], : size[1]]
    u, v = _to_detector(y, x, size, angle)
    pitch = 1.15 * max(settings["shape"])
    gap = max(6.0, 0.02 * pitch)
    u0, v0 = rng.uniform(0, pitch, 2)
    no_data = ((u + u0) % pitch < gap) | ((v + v0) % pitch < gap)
    if rng.uniform() < 0.25:  # the border of the field of view
        no_data |= u > rng.uniform(0.25, 0.45) * max(settings["shape"])
    bad = np.abs((u + u0) % pitch - rng.uniform(gap + 20, pitch - 20)) < 0.75
    return Pointing(angle, no_data, bad)


def _to_detector(y: Any, x: Any, size: tuple[int, int], angle: float) -> tuple[Any, Any]:
    """Detector coordinates u (along its rows) and v (along its columns), from the middle of the patch."""
    dy, dx = y - size[0] / 2, x - size[1] / 2
    return dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)


def match(
    image: np.ndarray, variance: np.ndarray, mask: np.ndarray, kernel_sigma: float, schema: MaskSchema
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Planes of a warp convolved with a Gaussian, as afw does it: masks spread over the kernel's support."""
    radius = kernel_radius(kernel_sigma)
    profile = _profile(kernel_sigma, radius)
    matched_image, matched_variance = (
        ndimage.convolve1d(ndimage.convolve1d(np.nan_to_num(plane), taps, axis=0), taps, axis=1)
        for plane, taps in ((image, profile), (variance, profile**2))
    )
    spread = np.zeros_like(mask)
    for bit in map(schema.bitmask, schema):
        plane = (mask & bit) != 0
        if plane.any():
            spread[_grow(plane, radius)] |= bit
    return _blank(matched_image, matched_variance, spread, (spread & schema.bitmask("NO_DATA")) != 0, schema)


def _blank(
    image: np.ndarray, variance: np.ndarray, mask: np.ndarray, no_data: np.ndarray, schema: MaskSchema
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The planes as a warp stores them: float32, and NaN with NO_DATA alone where there is no input."""
    image, variance = image.astype(np.float32), variance.astype(np.float32)
    image[no_data] = variance[no_data] = np.nan
    mask[no_data] = schema.bitmask("NO_DATA")
    return image, variance, mask


def _grow(pixels: np.ndarray, radius: int) -> np.ndarray:
    """Every pixel in the square of half side `radius` around a True one."""
    return ndimage.maximum_filter(pixels.view(np.uint8), 2 * radius + 1, mode="constant").view(bool)


def matching_sigma(target_sigma: float, psf_sigma: float) -> float:
    return math.sqrt(target_sigma**2 - psf_sigma**2)


def kernel_radius(kernel_sigma: float) -> int:
    return math.ceil(4.0 * kernel_sigma)


def _profile(sigma: float, radius: int) -> np.ndarray:
    """Gaussian sampled at -radius .. radius, unit sum."""
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return taps / taps.sum()
