"""Rows about lines that come back: simulated stacks with a bad column or a bleeding row, and real exposures."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import streak_real
from streak_measures import SHARE, near, near_trail
from streak_rows import Row
from streak_scenes import Recipe, Trail, make_stack

from gpucoadd import backend, streaks

EPOCHS = 8
STATIC = {
    "column": Trail(((-0.5, 180.0), (511.5, 180.0)), 2.0, 2.6),
    "faint column": Trail(((-0.5, 301.0), (511.5, 301.0)), 0.9, 2.6),
    "bleeding row, 200 px": Trail(((140.0, 120.0), (140.0, 320.0)), 4.0, 2.6),
    "dark column": Trail(((-0.5, 211.0), (511.5, 211.0)), -2.0, 2.6),
}


def persistence_rows(options: argparse.Namespace) -> list[Row]:
    """
    A line of the detector in k of 8 epochs, a trail in the first of them, which is searched.

    Two other epochs with the line are enough to know it; with one, or none, it looks like a trail.
    """
    made = []
    n = 2 if options.quick else 4
    for name, static in STATIC.items():
        for seen_in in (1, 2, 3, EPOCHS):
            trails = kept = known = found = 0
            for k in range(n):
                stack = make_stack(
                    Recipe(crest=2.0), options.seed * 1000 + 100 * k, epochs=EPOCHS, static=static, seen_in=seen_in
                )
                planes = [_planes(scene.difference, scene.variance, scene.bad, options) for scene in stack]
                result = streaks.find_streaks(*planes[0], psf_sigma=stack[0].psf_sigma, others=planes[1:])
                for ends, persistent in zip(result.ends, result.persistent):
                    if near(stack[0].trails[0].points(), ends).mean() >= SHARE:
                        trails, kept = trails + 1, kept + (not persistent)
                    elif near_trail(ends, static).mean() >= SHARE:
                        found, known = found + 1, known + bool(persistent)
            what = f"{name} in {seen_in} of {EPOCHS} epochs"
            ours = f"trail kept {kept}/{n}, line found {found}/{n}, persistent {known}"
            enough = known == found if seen_in >= 3 else True
            required = "all persistent" if seen_in >= 3 else "trail kept"
            made.append(Row("persistence", what, "", required, ours, trails == kept == n and enough))
    return made


def _planes(difference: np.ndarray, variance: np.ndarray, bad: np.ndarray, options: argparse.Namespace) -> Any:
    return tuple(
        backend.to_device(np.ascontiguousarray(plane), options.device) for plane in (difference, variance, bad)
    )


def real_rows(options: argparse.Namespace) -> list[Row]:
    """The one trail of the real exposures kept, no other line clipped in any of them."""
    folder = streak_real.folder()
    if folder is None:
        return [Row("5", "real exposures", "", "", "skipped: GPUCOADD_DATA names no folder with them", None)]
    data = streak_real.load(folder)
    planes = [_planes(*one, options) for one in zip(data.difference, data.variance, data.bad)]
    trail, others, persistent = "not found", [], 0
    for number, epoch in enumerate(data.epochs):
        rest = planes[:number] + planes[number + 1 :]
        result = streaks.find_streaks(*planes[number], psf_sigma=data.psf_sigma, others=rest)
        for i, ends in enumerate(result.ends):
            y = np.polyval(np.polyfit(streak_real.TRAIL[:, 1], streak_real.TRAIL[:, 0], 1), ends[:, 1])
            if epoch == streak_real.TRAIL_EPOCH and np.abs(y - ends[:, 0]).max() < 8:
                trail = f"z = {result.z[i]:.1f}, " + ("persistent" if result.persistent[i] else "kept")
            elif result.persistent[i]:
                persistent += 1
            else:
                place = " to ".join(f"({y:.0f}, {x:.0f})" for y, x in ends)
                others.append(f"{epoch} {place} z = {result.sign[i] * result.z[i]:.1f}")
    what = f"{streak_real.NAME}, {len(data.epochs)} epochs"
    return [
        Row("5", f"{what}: the trail of {streak_real.TRAIL_EPOCH}", "z = 13.9", "kept", trail, trail.endswith("kept")),
        Row("5", f"{what}: other lines clipped", "0", "0", f"{len(others)}: {'; '.join(others)}", not others),
        Row("5", f"{what}: persistent lines", "5", "", f"{persistent}", None),
    ]
