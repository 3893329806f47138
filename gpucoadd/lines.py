"""Straight segments, and the pixels along them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .backend import Array, array_module, to_host

# Slope up to which a line may be a row or a column of a detector that is turned a little. Detectors are full of these.
NEAR_AXIS = math.tan(math.radians(2.0))


class Line(NamedTuple):
    """
    A straight segment, from (major `start`, minor `first`) to (major `stop`, minor `last`), pixel coordinates.

    The major axis is y if `vertical`, else x; there is no line for which the minor one changes faster.
    """

    vertical: bool
    start: float
    stop: float
    first: float
    last: float

    @property
    def slope(self) -> float:
        """Change of the minor coordinate for one pixel along the major one."""
        return (self.last - self.first) / (self.stop - self.start)

    @property
    def stretch(self) -> float:
        """Length of the line for one pixel along the major axis."""
        return math.hypot(1.0, self.slope)

    @property
    def length(self) -> float:
        """In pixels, along the line."""
        return (self.stop - self.start) * self.stretch

    def minor(self, major: np.ndarray | float) -> np.ndarray:
        """Minor coordinate at some major ones, on and beyond the segment."""
        return self.first + self.slope * (np.asarray(major, dtype=np.float64) - self.start)

    def between(self, start: float, stop: float) -> Line:
        """Another segment of the same line."""
        return Line(self.vertical, start, stop, float(self.minor(start)), float(self.minor(stop)))

    def moved(self, first: float, last: float) -> Line:
        """The segment with its ends moved along the minor axis."""
        return self._replace(first=self.first + first, last=self.last + last)

    def ends(self) -> np.ndarray:
        """(y, x) of both ends, (2, 2)."""
        points = np.array([[self.first, self.start], [self.last, self.stop]])
        return points[:, ::-1] if self.vertical else points


class Strip(NamedTuple):
    """
    Pixels along a line: `major` (n,), `offset` (n, m) along the minor axis from the line, and `planes` (k, n, m).

    On the host, float32; the planes are 0 beyond the image.
    """

    major: np.ndarray
    offset: np.ndarray
    planes: np.ndarray


def strip_pixels(line: Line, half: float, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Pixels up to `half` away from a line, along the minor axis.

    Returns
    -------
    major : numpy.ndarray, shape (n,), int64
        Where the line, or what is within `half` of it, is inside the image.
    minor : numpy.ndarray, shape (n, m), int64
        Coordinates, some of them outside of the image.
    flat : numpy.ndarray, shape (n, m), int64
        Flat indices; -1 outside.
    """
    n_major, n_minor = shape if line.vertical else shape[::-1]
    reach = math.ceil(half)
    major = np.arange(n_major)
    nearest = np.floor(line.minor(major) + 0.5).astype(np.int64)
    near = (nearest >= -reach) & (nearest < n_minor + reach)
    major, nearest = major[near], nearest[near]
    minor = nearest[:, None] + np.arange(-reach, reach + 1)
    flat = minor + major[:, None] * n_minor if line.vertical else minor * n_major + major[:, None]
    return major, minor, np.where((minor >= 0) & (minor < n_minor), flat, -1)


def take_strip(planes: tuple[Array, ...], line: Line, half: float) -> Strip:
    """Planes (y, x) along a line. Waits for the device."""
    xp = array_module(*planes)
    major, minor, flat = strip_pixels(line, half, planes[0].shape)
    index = xp.asarray(np.maximum(flat, 0))
    values = to_host(xp.stack([plane.ravel().take(index) for plane in planes]))
    offset = (minor - line.minor(major)[:, None]).astype(np.float32)
    return Strip(major, offset, np.where(flat >= 0, values, np.float32(0)))


def on_segment(strip: Strip, line: Line) -> np.ndarray:
    """(n,) bool: which pixels along the line belong to the segment."""
    return (strip.major >= line.start) & (strip.major <= line.stop)


def chord(line: Line, shape: tuple[int, int]) -> tuple[float, float]:
    """Major coordinates between which the middle of a line is inside an image of a shape."""
    n_major, n_minor = shape if line.vertical else shape[::-1]
    start, stop = -0.5, n_major - 0.5
    if line.slope != 0:
        crossings = sorted(line.start + (edge - line.first) / line.slope for edge in (-0.5, n_minor - 0.5))
        start, stop = max(start, crossings[0]), min(stop, crossings[1])
    return start, stop
