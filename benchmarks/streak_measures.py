"""
What the finder made of a scene: trails found, false lines, and how well the lines and the mask lie.

A trail is found when one accepted line lies on it: 0.8 of it within 6 pixels of the line's segment. An accepted line
that finds no trail is a piece if 0.8 of itself lies within 6 pixels of one, and false otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from streak_scenes import Scene, Trail

SHARE, DISTANCE = 0.8, 6.0


class Line(NamedTuple):
    """An accepted line on the host."""

    ends: np.ndarray  # (2, 2), rows (y, x)
    z: float
    sign: int
    crest: float  # in units of the image, negative for a dark line
    width: float


class Found(NamedTuple):
    """How one planted trail was met."""

    z: float
    offset: float  # root of the mean squared distance, along the whole trail
    length: float  # over the planted one
    end: float  # larger distance of the ends, along the trail
    crest: float  # over the planted one
    width: float  # over the planted one
    ideal: float  # z over that of the ideal filter


class Outcome(NamedTuple):
    """One scene."""

    found: tuple[Found | None, ...]  # per planted trail
    false: tuple[Line, ...]
    pieces: int
    rest: float  # brightest light outside the mask, in standard deviations
    lost: float  # share of the light outside the mask
    area: float  # masked pixels over those brighter than 0.1 standard deviations
    masked: float  # share of the image
    seconds: float
    seed: int


def near(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Whether each of the points (n, 2) lies within `DISTANCE` of the segment with the rows of `line` as its ends."""
    start, along = line[0], line[1] - line[0]
    share = ((points - start) @ along / (along @ along)).clip(0.0, 1.0)
    return np.hypot(*(points - start - share[:, None] * along).T) <= DISTANCE


def near_trail(line: np.ndarray, trail: Trail) -> np.ndarray:
    """Whether points along the segment `line` lie within `DISTANCE` of the trail."""
    points = line[0] + np.linspace(0.0, 1.0, 200)[:, None] * (line[1] - line[0])
    path = trail.points(step=2.0)
    return (np.hypot(*np.moveaxis(points[:, None] - path[None], -1, 0)) <= DISTANCE).any(axis=1)


def compare(line: Line, trail: Trail, ideal: float) -> Found:
    """The planted trail and the line that found it."""
    planted = trail.points()
    start, along = line.ends[0], line.ends[1] - line.ends[0]
    length = float(np.hypot(*along))
    across = ((planted - start) @ np.array([-along[1], along[0]])) / length
    ends = np.sort(trail.along_across(*line.ends.T)[0])
    return Found(
        line.z,
        float(np.sqrt((across**2).mean())),
        length / trail.length,
        float(max(abs(ends[0]), abs(ends[1] - trail.length))),
        line.crest / trail.crest,
        line.width / trail.width,
        line.z / ideal,
    )


def lines_of(streaks: Any, host: Callable[[Any], np.ndarray] = np.asarray) -> list[Line]:
    """The accepted lines of a result of `find_streaks`; persistent ones are left out."""
    ends, z, sign, amplitude, width, persistent = (
        host(getattr(streaks, name)) for name in ("ends", "z", "sign", "amplitude", "width", "persistent")
    )
    crest = amplitude * streaks.noise
    return [
        Line(np.asarray(ends[i], float), float(z[i]), int(sign[i]), float(crest[i]), float(width[i]))
        for i in range(len(ends))
        if not persistent[i]
    ]


def judge(scene: Scene, lines: list[Line], mask: np.ndarray, *, seconds: float = 0.0, seed: int = 0) -> Outcome:
    """
    Compare accepted lines and their mask with what was planted.

    Parameters
    ----------
    scene : Scene
    lines : list of Line
    mask : array, shape (y, x), bool
    seconds, seed : float, int
        Carried along.
    """
    found: list[Found | None] = []
    partners: set[int] = set()
    for trail in scene.trails:
        shares = [near(trail.points(), line.ends).mean() for line in lines]
        fits = [i for i, share in enumerate(shares) if share >= SHARE]
        best = max(fits, key=lambda i: lines[i].z, default=None)
        partners.update(fits[:1] if best is None else [best])
        found.append(None if best is None else compare(lines[best], trail, scene.ideal_z(trail)))
    others = [line for i, line in enumerate(lines) if i not in partners]
    false = tuple(line for line in others if all(near_trail(line.ends, trail).mean() < SHARE for trail in scene.trails))
    light = np.abs(scene.light())
    outside = np.where(mask, 0.0, light)
    return Outcome(
        tuple(found),
        false,
        len(others) - len(false),
        float(outside.max(initial=0.0)),
        float(outside.sum() / max(light.sum(), 1e-30)),
        float(mask.sum() / max((light > 0.1).sum(), 1)),
        float(mask.mean()),
        seconds,
        seed,
    )


def search(
    find: Callable[..., Any],
    scene: Scene,
    *,
    seed: int,
    device: Callable[[Any], Any],
    host: Callable[[Any], np.ndarray],
) -> Outcome:
    """
    Run `find(difference, variance, bad, psf_sigma=...)` on a scene and judge what comes back.

    Parameters
    ----------
    find : callable
        `find_streaks` with its configuration.
    scene : Scene
    seed : int
        The scene's, for the record.
    device, host : callable
        Take arrays to where the finder runs, and back.
    """
    planes = [device(plane) for plane in (scene.difference, scene.variance, scene.bad)]
    start = time.perf_counter()
    streaks = find(*planes, psf_sigma=scene.psf_sigma)
    mask = host(streaks.mask)
    seconds = time.perf_counter() - start
    return judge(scene, lines_of(streaks, host), mask, seconds=seconds, seed=seed)
