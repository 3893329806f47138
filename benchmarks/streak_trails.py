"""A trail and the ends of a chord: the geometry that scenes are made of and lines are compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

Point = tuple[float, float]


@dataclass(frozen=True)
class Trail:
    """
    A trail with a Gaussian cross profile.

    Attributes
    ----------
    ends : ((float, float), (float, float))
        (y, x) of both ends; on the image's border where the trail crosses it.
    crest : float
        Brightness along the middle, in units of the image.
    width : float
        Gaussian sigma across.
    periods : int
        Flashes from end to end, each half bright and half dark; 0 for a steady trail.
    sag : float
        How far the middle of a parabola lies from the straight line between the ends; 0 for a straight trail.
    """

    ends: tuple[Point, Point]
    crest: float
    width: float
    periods: int = 0
    sag: float = 0.0

    @property
    def length(self) -> float:
        """Distance of the ends."""
        (y0, x0), (y1, x1) = self.ends
        return math.hypot(y1 - y0, x1 - x0)

    @property
    def angle(self) -> float:
        """Direction in radians, 0 along x, 0 <= angle < pi."""
        (y0, x0), (y1, x1) = self.ends
        return math.atan2(y1 - y0, x1 - x0) % math.pi

    def along_across(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance along the trail from its first end, and signed distance across it, of the points (y, x)."""
        (y0, x0), (y1, x1) = self.ends
        uy, ux = (y1 - y0) / self.length, (x1 - x0) / self.length
        along, across = (y - y0) * uy + (x - x0) * ux, (x - x0) * uy - (y - y0) * ux
        return along, across - self.bend(along / self.length)

    def bend(self, share: np.ndarray) -> np.ndarray:
        """Distance of the trail from the straight line, at a share of its length."""
        return 4.0 * self.sag * share * (1.0 - share)

    def points(self, step: float = 1.0) -> np.ndarray:
        """Points (n, 2) from end to end, at most `step` apart."""
        share = np.linspace(0.0, 1.0, max(2, math.ceil(self.length / step) + 1))[:, None]
        (y0, x0), (y1, x1) = self.ends
        across = np.array([x0 - x1, y1 - y0]) / self.length  # of positive distances, see along_across
        return np.asarray(self.ends[0]) * (1 - share) + np.asarray(self.ends[1]) * share + self.bend(share) * across

    def bright_parts(self, shape: tuple[int, int]) -> list[tuple[float, float]]:
        """Distances along the trail between which it shines; it goes on outside an image whose border it meets."""
        if self.periods:
            period = self.length / self.periods
            return [((k + 0.25) * period, (k + 0.75) * period) for k in range(self.periods)]
        start, stop = (1e6 if on_border(end, shape) else 0.0 for end in self.ends)
        return [(-start, self.length + stop)]

    def render(self, shape: tuple[int, int], *, blur: float) -> np.ndarray:
        """
        Image of the trail alone.

        Parameters
        ----------
        shape : (int, int)
        blur : float
            Gaussian sigma of the PSF, which softens flashes and ends.
        """
        y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
        along, across = self.along_across(y, x)
        light = sum(
            0.5
            * (
                special.erf((along - start) / (math.sqrt(2) * blur))
                - special.erf((along - stop) / (math.sqrt(2) * blur))
            )
            for start, stop in self.bright_parts(shape)
        )
        return self.crest * light * np.exp(-0.5 * (across / self.width) ** 2)


def on_border(point: Point, shape: tuple[int, int]) -> bool:
    """Whether `point` is on the outer edge of the pixels of an image."""
    return any(abs(c + 0.5) < 1e-6 or abs(c - (n - 0.5)) < 1e-6 for c, n in zip(point, shape))


def chord(angle: float, offset: float, shape: tuple[int, int]) -> tuple[Point, Point]:
    """
    Ends of the line with direction `angle` (radians, 0 along x) that passes `offset` from the image's centre.

    Raises
    ------
    ValueError
        If the line misses the image.
    """
    low, high = -np.inf, np.inf
    foot = (shape[0] - 1) / 2 + offset * math.cos(angle), (shape[1] - 1) / 2 - offset * math.sin(angle)
    direction = math.sin(angle), math.cos(angle)
    for place, step, n in zip(foot, direction, shape):
        if abs(step) < 1e-12:
            if not -0.5 < place < n - 0.5:
                raise ValueError(f"the line must cross the image, but angle {angle} and offset {offset} miss {shape}")
            continue
        t = sorted(((-0.5 - place) / step, (n - 0.5 - place) / step))
        low, high = max(low, t[0]), min(high, t[1])
    if low >= high:
        raise ValueError(f"the line must cross the image, but angle {angle} and offset {offset} miss {shape}")
    ends = [tuple(np.clip(p + t * d, -0.5, n - 0.5) for p, d, n in zip(foot, direction, shape)) for t in (low, high)]
    return ends[0], ends[1]
