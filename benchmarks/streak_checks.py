"""Rows that do not come from a series of scenes: noise factors, sums along lines, invariance, stacks, time."""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from streak_cases import GAPPY
from streak_measures import Line, lines_of, near
from streak_rows import Row
from streak_scenes import MATCHING_SIGMA, Recipe, Scene, make_scene, noise_factor
from streak_stacks import persistence_rows, real_rows

from gpucoadd import backend, streaks

WIDTHS = (0.7, 1.0, 2.0, 2.6, 5.0, 10.0)
LINE_COLUMNS = (16, 24, 60)
EVERYTHING = {"stars": 1.0, "cosmic_rays": 1.0, **GAPPY}


def rows(item: str, options: argparse.Namespace) -> list[Row]:
    """The rows of an item."""
    made: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
        "5": real_rows,
        "6": noise_rows,
        "7": line_rows,
        "8": invariance_rows,
        "persistence": persistence_rows,
        "time": time_rows,
    }
    return made[item](options)


def planes(scene: Scene, options: argparse.Namespace) -> list[Any]:
    """Difference, variance and bad where the finder is to run."""
    return [backend.to_device(plane, options.device) for plane in (scene.difference, scene.variance, scene.bad)]


def noise_rows(options: argparse.Namespace) -> list[Row]:
    """Measured noise factors next to their formula."""
    made = []
    for kind, n in (("matched", 24), ("white", 24)):
        ratios = []
        for k in range(3 if options.quick else n):
            scene = make_scene(Recipe(kind=kind, trails=0), options.seed * 1000 + k)
            factor = streaks.noise_factor(streaks.streak_images(*planes(scene, options)))
            ratios.append([factor(width) / noise_factor(width, MATCHING_SIGMA[kind]) for width in WIDTHS])
        errors = np.array(ratios) - 1
        for width, error in zip(WIDTHS, errors.T):
            rms = float(np.sqrt((error**2).mean()))
            ours = f"{rms:.3f}, mean {error.mean():+.3f}, worst {np.abs(error).max():.3f}"
            reference = "0.015" if kind == "matched" else "0.02"
            what = f"noise factor, relative error (rms), {kind} 512, w = {width:g}"
            made.append(Row("6", what, reference, "<= 0.03", ours, rms <= 0.03))
    return made


def oracle() -> Any:
    """The slow sums of the tests."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    return importlib.import_module("oracle_streaks")


def line_rows(options: argparse.Namespace) -> list[Row]:
    """The transform next to direct summation along the same paths, and a search next to its repeat."""
    made = []
    rng = np.random.default_rng(options.seed)
    direct = oracle()
    for n in LINE_COLUMNS:
        image = rng.standard_normal((n - 3, n)).astype(np.float32)
        base, joins = n, 0
        while base > 15:
            base, joins = base // 2, joins + 1
        worst = 0.0
        for lines in streaks.line_sums(backend.to_device(image[None], options.device)):
            sums = backend.to_host(lines.sums)[0]
            sizes = direct.line_sums(np.abs(image), lines.length, base)
            for (block, displacement, first), total in direct.line_sums(image, lines.length, base).items():
                rounding = (base + joins) * np.finfo(np.float32).eps / 2 * sizes[block, displacement, first] + 1e-30
                worst = max(worst, abs(float(sums[block, displacement, first - lines.first]) - total) / rounding)
        made.append(
            Row("7", f"sums along lines, {n} columns, error over rounding", "", "<= 1", f"{worst:.2f}", worst <= 1)
        )
    scene = make_scene(Recipe(crest=1.5, trails=3, **EVERYTHING), options.seed)
    here = find(scene, options)
    same = np.array_equal(here[1], find(scene, options)[1])
    made.append(Row("7", "mask equal to that of a second run", "", "equal", str(same), same))
    if backend.resolve_device(options.device)[0] == "cpu":
        made.append(Row("7", "mask on a device equal to NumPy's", "", "equal", "not run: --device cpu", None))
        return made
    host = find(scene, argparse.Namespace(**{**vars(options), "device": "cpu"}))
    equal = np.array_equal(here[1], host[1]) and len(here[0]) == len(host[0])
    made.append(Row("7", f"mask on {options.device} equal to NumPy's", "", "equal", str(equal), equal))
    return made


def find(scene: Scene, options: argparse.Namespace, **changes: Any) -> tuple[list[Line], np.ndarray]:
    """Lines and mask."""
    result = streaks.find_streaks(
        *planes(scene, options), psf_sigma=scene.psf_sigma, config=streaks.StreakConfig(**changes)
    )
    return lines_of(result, backend.to_host), backend.to_host(result.mask)


def turned(scene: Scene, turn: Callable[[np.ndarray], np.ndarray]) -> Scene:
    """A scene whose planes were turned; its trails no longer belong to it."""
    planes = (np.ascontiguousarray(turn(plane)) for plane in (scene.difference, scene.variance, scene.bad))
    difference, variance, bad = planes
    return replace(scene, difference=difference, variance=variance, bad=bad, trails=())


def invariance_rows(options: argparse.Namespace) -> list[Row]:
    """The same lines in an image that was scaled, transposed or flipped; those within 0.05 of the threshold aside."""
    flip = {"transposed": np.transpose, "flipped in y": np.flipud, "flipped in x": np.fliplr}
    size = 512
    back = {
        "transposed": lambda ends: ends[:, ::-1],
        "flipped in y": lambda ends: ends * [-1, 1] + [size - 1, 0],
        "flipped in x": lambda ends: ends * [1, -1] + [0, size - 1],
        "scaled by 37": lambda ends: ends,
        "scaled by 1e-6": lambda ends: ends,
    }
    n = 2 if options.quick else 8
    scenes = [
        make_scene(Recipe(crest=1.5, trails=2, size=size, **EVERYTHING), options.seed * 1000 + k) for k in range(n)
    ]
    plain = [find(scene, options)[0] for scene in scenes]
    made = []
    for name, place in back.items():
        equal, worst = 0, 0.0
        for scene, lines in zip(scenes, plain):
            if name in flip:
                other = turned(scene, flip[name])
            else:
                scale = np.float32(name.split()[-1])
                other = replace(scene, difference=scene.difference * scale, variance=scene.variance * scale**2)
            there = find(other, options)[0]
            good, distance = alike(lines, [line._replace(ends=place(line.ends)) for line in there], size)
            equal, worst = equal + good, max(worst, distance)
        ours = f"{equal}/{n}, z differs by {worst:.3f} at most"
        made.append(Row("8", f"same lines, {name}", "", f"{n}/{n}", ours, equal == n))
    return made


def alike(lines: list[Line], others: list[Line], size: int) -> tuple[bool, float]:
    """Whether both hold the same lines, apart from those within 0.05 of the threshold; largest difference of z."""
    sure = threshold(size) + 0.05
    worst, same = 0.0, True
    for here, there in ((lines, others), (others, lines)):
        for line in here:
            along = line.ends[0] + np.linspace(0, 1, 50)[:, None] * (line.ends[1] - line.ends[0])
            partners = [other for other in there if other.sign == line.sign and near(along, other.ends).mean() > 0.9]
            if partners:
                worst = max(worst, min(abs(other.z - line.z) for other in partners))
            elif line.z > sure:
                same = False
    return same, worst


def threshold(size: int, false_alarm: float = 1e-3) -> float:
    """Accepted significance in an image of size x size: Q(T) = false alarms / (30 pixels)."""
    from scipy import stats

    return float(stats.norm.isf(false_alarm / (30 * size**2)))


def time_rows(options: argparse.Namespace) -> list[Row]:
    """Seconds of one search in noise, one process."""
    references = {
        (256, 2): "0.1",
        (512, 2): "0.3-0.5",
        (1024, 2): "2-3",
        (2048, 2): "19-25",
        (2048, 4): "1-6",
        (4096, 4): "3-38",
    }
    made = []
    for (size, bin_), reference in references.items():
        if options.quick and size > 1024:
            continue
        scene = make_scene(Recipe(trails=0, size=size), options.seed)
        arrays = planes(scene, options)
        config = streaks.StreakConfig(bin=bin_, min_length=256 if size == 4096 else 128)
        search = functools.partial(streaks.find_streaks, *arrays, psf_sigma=scene.psf_sigma, config=config)
        seconds = []
        for _ in range(1 if size > 1024 else 3):
            wall, cpu = time.perf_counter(), time.process_time()
            backend.to_host(search().mask)
            seconds.append((time.process_time() - cpu, time.perf_counter() - wall))
        cpu, wall = min(seconds)
        made.append(
            Row("time", f"noise, {size} x {size}, bin {bin_}", reference, "", f"{cpu:.2f} s CPU, {wall:.2f} s", None)
        )
    return made
