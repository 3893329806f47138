"""
Differences with planted trails: noise whose spectrum is known, what disturbs it, and the answer.

`make_scene(Recipe(...), seed)` gives the planes that the streak finder takes, and the trails in them. One seed gives
one noise, one set of places and one set of disturbances, whatever the brightness: a series in brightness looks at the
same scenes. Lengths are in pixels, points are (y, x), and a pixel's standard deviation is that of the image searched.

Two kinds of noise. In "white", pixels are independent. In "matched", white noise and the cosmic rays in it are
convolved with a Gaussian, as in a difference whose PSF was matched, and brought back to unit variance per pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from streak_trails import Point, Trail, chord

PSF_SIGMA = {"white": 2.0, "matched": 2.6}
MATCHING_SIGMA = {"white": 0.0, "matched": 1.77}  # of the Gaussian that the noise was convolved with
# Per pixel, so that a recipe means the same at every size
STARS, COSMIC_RAYS = 150 / 512**2, 20 / 512**2
GAP_WIDTH = 18
SMOOTH_TRUNCATE = 6.0


@dataclass(frozen=True)
class Recipe:
    """
    What a scene holds.

    Attributes
    ----------
    kind : str
        "white" or "matched".
    size : int or (int, int)
        Shape of the image.
    crest : float
        Of every trail, in standard deviations of a pixel (with `gradient`, of `crest_sigma`).
    width : float or None
        Gaussian sigma of the trails across; None is that of the PSF.
    trails : int
        How many.
    length : float or None
        None for full chords.
    angle : float or None
        Degrees; None is random.
    periods : int
        Flashes along each trail.
    sag : float
        Of each trail.
    stars, gaps, corner, cosmic_rays : float, bool, bool, float
        Residuals of stars and cosmic rays in units of their usual density; two gaps between detectors; a missing
        corner.
    bad_fraction : float
        Share of single bad pixels.
    gradient : float
        Ratio of the standard deviations at the right and the left edge.
    """

    kind: str = "matched"
    size: int | tuple[int, int] = 512
    crest: float = 1.0
    width: float | None = None
    trails: int = 1
    length: float | None = None
    angle: float | None = None
    periods: int = 0
    sag: float = 0.0
    stars: float = 0.0
    gaps: bool = False
    corner: bool = False
    cosmic_rays: float = 0.0
    bad_fraction: float = 0.0
    gradient: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x)"""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def crest_sigma(self) -> float:
        """Standard deviation that `crest` is in units of: in the middle of a gradient, over 1.75."""
        return 1.0 if self.gradient == 1.0 else 0.5 * (1.0 + self.gradient) / 1.75


@dataclass(frozen=True)
class Scene:
    """
    Planes for the finder, and the answer.

    Attributes
    ----------
    difference, variance : array, shape (y, x), float32
        NaN and infinite where `bad`.
    bad : array, shape (y, x), bool
    trails : tuple of Trail
    psf_sigma : float
    matching_sigma : float
        Gaussian sigma that the noise was convolved with; 0 for independent pixels.
    """

    difference: np.ndarray
    variance: np.ndarray
    bad: np.ndarray
    trails: tuple[Trail, ...]
    psf_sigma: float
    matching_sigma: float

    def light(self) -> np.ndarray:
        """The trails without noise, in standard deviations of each pixel; 0 where bad."""
        light = sum(
            (trail.render(self.bad.shape, blur=self.psf_sigma) for trail in self.trails), np.zeros(self.bad.shape)
        )
        return np.where(self.bad, 0.0, light / np.sqrt(np.where(self.bad, 1.0, self.variance)))

    def mask(self, level: float = 0.1) -> np.ndarray:
        """Where the trails are brighter than `level` standard deviations."""
        return np.abs(self.light()) > level

    def ideal_z(self, trail: Trail) -> float:
        """Significance that a filter of the trail's own shape has on the average, on the noise as it is."""
        plane = np.where(self.bad, 0.0, trail.render(self.bad.shape, blur=self.psf_sigma))
        plane /= np.sqrt(np.where(self.bad, 1.0, self.variance))
        return float(np.sqrt((plane**2).sum()) / noise_factor(trail.width, self.matching_sigma))


def noise_factor(width: float, matching_sigma: float) -> float:
    """How much larger the noise of a Gaussian line filter is where the noise is a Gaussian's, than in white noise."""
    if matching_sigma == 0:
        return 1.0
    return math.sqrt(4 * math.pi * matching_sigma**2 * width / math.hypot(width, matching_sigma))


def make_scene(recipe: Recipe, seed: int) -> Scene:
    """
    Planes of one epoch.

    Parameters
    ----------
    recipe : Recipe
    seed : int
    """
    noise_rng, trail_rng, star_rng, ray_rng, bad_rng = (np.random.default_rng([seed, k]) for k in range(5))
    shape, psf_sigma = recipe.shape, PSF_SIGMA[recipe.kind]
    stars = random_stars(shape, psf_sigma, recipe.stars * STARS, star_rng)
    sigma = sky_sigma(shape, recipe.gradient) * np.sqrt(1.0 + np.maximum(stars[0], 0.0) / 30.0)
    difference = noise(recipe, noise_rng, ray_rng) * sigma + stars[1]
    trails = random_trails(recipe, trail_rng)
    for trail in trails:
        difference += trail.render(shape, blur=psf_sigma)
    bad = bad_pixels(recipe, bad_rng)
    difference[bad] = np.nan
    variance = np.where(bad, np.inf, sigma**2)
    return Scene(
        difference.astype(np.float32),
        variance.astype(np.float32),
        bad,
        trails,
        psf_sigma,
        MATCHING_SIGMA[recipe.kind],
    )


def noise(recipe: Recipe, noise_rng: np.random.Generator, ray_rng: np.random.Generator) -> np.ndarray:
    """Unit noise with cosmic rays, both seen through the matching kernel; noise alone has unit variance per pixel."""
    width = MATCHING_SIGMA[recipe.kind]
    margin = math.ceil(SMOOTH_TRUNCATE * width) + 1
    padded = (recipe.shape[0] + 2 * margin, recipe.shape[1] + 2 * margin)
    plane = noise_rng.standard_normal(padded)
    plane += cosmic_rays(padded, recipe.cosmic_rays * COSMIC_RAYS, ray_rng)
    if width:
        impulse = np.zeros(2 * margin + 1)
        impulse[margin] = 1.0
        kernel = ndimage.gaussian_filter1d(impulse, width, truncate=SMOOTH_TRUNCATE)
        plane = ndimage.gaussian_filter(plane, width, truncate=SMOOTH_TRUNCATE) / (kernel**2).sum()
    return plane[margin:-margin, margin:-margin]


def cosmic_rays(shape: tuple[int, int], density: float, rng: np.random.Generator) -> np.ndarray:
    """Tracks one pixel wide, mostly of a few pixels and at most 40 long, of 10 to 300 standard deviations."""
    plane = np.zeros(shape)
    for _ in range(rng.poisson(density * shape[0] * shape[1])):
        length, angle = min(40.0, 2.0 + rng.exponential(5.0)), rng.uniform(0.0, math.pi)
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        t = np.arange(0.0, length, 0.5)
        rows, columns = np.rint(y + t * math.sin(angle)).astype(int), np.rint(x + t * math.cos(angle)).astype(int)
        inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        plane[rows[inside], columns[inside]] = 10.0 ** rng.uniform(1.0, 2.5)
    return plane


def random_stars(
    shape: tuple[int, int], psf_sigma: float, density: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """
    Stars as they were, and what a subtraction leaves of them.

    Peaks are 5 to 3000 standard deviations of the sky; each star was shifted by some hundredths of a pixel and
    broadened by some per cent.
    """
    stars, residuals = np.zeros(shape), np.zeros(shape)
    radius = math.ceil(5 * psf_sigma)
    for _ in range(rng.poisson(density * shape[0] * shape[1])):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        peak = min(3000.0, 5.0 * (1.0 + rng.pareto(0.8)))
        dy, dx, broader = rng.normal(0.0, 0.03, 3)
        top, left = max(0, round(y) - radius), max(0, round(x) - radius)
        box = slice(top, round(y) + radius + 1), slice(left, round(x) + radius + 1)
        rows, columns = (np.arange(*one.indices(n), dtype=float) for one, n in zip(box, shape))
        v, u = (rows[:, None] - y) / psf_sigma, (columns - x) / psf_sigma
        light = peak * np.exp(-0.5 * (v**2 + u**2))
        stars[box] += light
        residuals[box] += light * ((v * dy + u * dx) / psf_sigma + broader * (v**2 + u**2 - 2.0))
    return stars, residuals


def sky_sigma(shape: tuple[int, int], gradient: float) -> np.ndarray:
    """Standard deviation of the sky: 1 at the left edge, `gradient` at the right one."""
    return np.broadcast_to(np.linspace(1.0, gradient, shape[1]), shape).copy()


def random_trails(recipe: Recipe, rng: np.random.Generator) -> tuple[Trail, ...]:
    """Trails at random angles that pass the centre within 0.3 of the image's shorter side; shorter ones lie inside."""
    width = PSF_SIGMA[recipe.kind] if recipe.width is None else recipe.width
    trails = []
    for _ in range(recipe.trails):
        angle = rng.uniform(0.0, 180.0)
        angle = math.radians(angle if recipe.angle is None else recipe.angle)
        ends = chord(angle, rng.uniform(-0.3, 0.3) * min(recipe.shape), recipe.shape)
        place = rng.uniform()
        if recipe.length is not None:
            ends = _piece(ends, recipe.length, place)
        trails.append(Trail(ends, recipe.crest * recipe.crest_sigma, width, recipe.periods, recipe.sag))
    return tuple(trails)


def _piece(ends: tuple[Point, Point], length: float, place: float) -> tuple[Point, Point]:
    """Piece of a chord, at least 8 pixels from the border; `place` 0 is the nearest to the first end."""
    first, last = (np.asarray(end) for end in ends)
    whole = float(np.hypot(*(last - first)))
    start = 8.0 + place * (whole - 16.0 - length)
    unit = (last - first) / whole
    return tuple(first + start * unit), tuple(first + (start + length) * unit)


def bad_pixels(recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """Gaps across the whole image, a missing corner, single pixels."""
    ny, nx = recipe.shape
    bad = rng.random(recipe.shape) < recipe.bad_fraction
    row, column = (int(rng.uniform(0.2, 0.8) * n) for n in recipe.shape)
    if recipe.gaps:
        bad[row : row + GAP_WIDTH] = True
        bad[:, column : column + GAP_WIDTH] = True
    if recipe.corner:
        y, x = np.mgrid[:ny, :nx]
        bad |= y / ny + x / nx < 0.4
    return bad


def make_stack(recipe: Recipe, seed: int, *, epochs: int, static: Trail | None, seen_in: int) -> list[Scene]:
    """
    Epochs of one field: the trails of `recipe` in the first, a line that comes back in the first `seen_in`.

    Parameters
    ----------
    recipe : Recipe
        Noise and disturbances are each epoch's own, as the seed is; only the first has trails.
    seed : int
        Of the first epoch; the others follow.
    epochs : int
    static : Trail or None
        A bad column, a bleeding row: something of the detector, in the same pixels whenever it shows.
    seen_in : int
        In how many epochs it shows.
    """
    scenes = []
    for epoch in range(epochs):
        scene = make_scene(recipe if epoch == 0 else replace(recipe, trails=0), seed + epoch)
        if static is not None and epoch < seen_in:
            light = static.render(recipe.shape, blur=scene.psf_sigma)
            scene = replace(scene, difference=(scene.difference + light).astype(np.float32))
        scenes.append(scene)
    return scenes
