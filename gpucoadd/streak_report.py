"""The part of the demo's report about the trail that nobody sees."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .pictures import PLANE_COLOURS, display_limits
from .report import figure
from .simulate import Night
from .streaks import Streaks

_BESIDE = 24  # pixels to either side of the line
_FRAME = (56.0, 14.0, 626.0, 284.0)  # left, top, right, bottom of the plot's axes


def faint_trail_section(night: Night, coadd: Any, kept: Sequence[int]) -> str:
    """
    HTML of the section about the faint trail of a night.

    Parameters
    ----------
    night : Night
        Made with `faint_trail`.
    coadd : Coadd
        Of its warps, with trails searched for.
    kept : sequence of int
        Positions of the epochs that the coadd kept.

    Returns
    -------
    str
        Needs the style sheet of the report; has no links.
    """
    epoch = int(night.truth["faint trail"].any(axis=(1, 2)).argmax())
    visit = night.warps.epochs[epoch]
    crest = night.settings["faint_trail"]
    intro = (
        "<h2>A trail that nobody sees</h2>"
        f"<p>One more trail was planted in visit {html.escape(str(visit))}, only {crest:g} times as bright as the "
        "noise of a single pixel. No threshold on pixels finds it. The sum of the pixels along it does: the search "
        "adds up the difference along every line of every length, and asks the other visits whether they have what it "
        "found."
    )
    position = list(kept).index(epoch) if epoch in kept else None
    found = None if position is None else coadd.lines[position]
    number = None if found is None else _planted_one(found, night.truth["faint trail"][epoch])
    if position is None or found is None or number is None:
        return f"{intro} In this run it was not found: the field is too small, or the visit has too many gaps.</p>"
    difference = _significance(night, coadd, epoch)
    noise: dict[str, Any] = {"limits": (-4, 4), "stretch": "linear"}
    streak = np.asarray(coadd.artifacts.plane("streak", position))
    limits = display_limits(night.warps.image[epoch])
    pictures = [
        figure(night.warps.image[epoch], "The visit as it came", "The trail is in it.", limits=limits),
        figure(difference, "Less the template", "From -4 to 4 sigma of a pixel. A hint, for those who know.", **noise),
        figure(
            night.warps.image[epoch],
            "Clipped for it",
            "As far out as its light is above a tenth of a sigma.",
            limits=limits,
            overlays=[(streak, PLANE_COLOURS["STREAK"], 0.6)],
        ),
    ]
    return (
        f"{intro} It was found at {found.z[number]:.1f} sigma.</p>"
        f'<div class="grid">{"".join(pictures)}</div>{_profile_plot(found, number)}'
        "<p>Brightness across the line, averaged along all of it, in the difference; it is smoother than the visit, "
        "so that the trail is higher over its noise. Dashed: the Gaussian that decides how wide the mask is.</p>"
    )


def _planted_one(found: Streaks, truth: np.ndarray) -> int | None:
    """Number of the line that lies on the planted trail."""
    for number in range(len(found)):
        on = truth.ravel()[found.pixels(number, half_width=0.5)]
        if not found.persistent[number] and on.mean() > 0.5:
            return number
    return None


def _significance(night: Night, coadd: Any, epoch: int) -> np.ndarray:
    """Difference of twin and template in sigmas of each pixel."""
    twin, template = night.twins, coadd.template
    with np.errstate(invalid="ignore", divide="ignore"):
        return (twin.image[epoch] - template.image) / np.sqrt(twin.variance[epoch] + template.variance)


def _profile_plot(found: Streaks, number: int) -> str:
    """Brightness across a line, averaged along all of it, as SVG to stand in a page."""
    values = found.profile[number]
    place = np.arange(len(values)) - len(values) // 2
    curve = np.linspace(-_BESIDE, _BESIDE, 193)
    fitted = found.amplitude[number] * np.exp(-0.5 * (curve / found.width[number]) ** 2)
    shown = np.isfinite(values) & (np.abs(place) <= _BESIDE)
    low, high = min(values[shown].min(), 0.0) - 0.1, max(values[shown].max(), fitted.max()) + 0.1
    left, top, right, bottom = _FRAME

    def points(across: np.ndarray, up: np.ndarray) -> list[tuple[float, float]]:
        x = left + (right - left) * (across + _BESIDE) / (2 * _BESIDE)
        return list(zip(x.tolist(), (bottom - (bottom - top) * (up - low) / (high - low)).tolist(), strict=True))

    parts = [f'<path class="axis" d="M{left} {top}V{bottom}H{right}"/>']
    ((_, zero),) = points(np.zeros(1), np.zeros(1))
    parts.append(f'<path class="soft" d="M{left} {zero:.1f}H{right}"/>')
    for tick in range(-_BESIDE, _BESIDE + 1, 8):
        ((x, _),) = points(np.array([float(tick)]), np.zeros(1))
        parts.append(f'<text x="{x:.1f}" y="{bottom + 19}" text-anchor="middle">{tick}</text>')
    for tick in np.arange(math.ceil(2 * low) / 2, high, 0.5):
        ((_, y),) = points(np.zeros(1), np.array([tick]))
        parts.append(f'<text x="{left - 9}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="{bottom + 42}" text-anchor="middle">pixels from the line</text>')
    turned = f'transform="translate(14 {(top + bottom) / 2}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">sigmas of one pixel</text>')
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points(curve, fitted))
    parts.append(f'<polyline class="expected" points="{line}"/>')
    dots = points(place[shown], values[shown])
    parts += [f'<circle class="after" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in dots]
    label = f"Brightness across the trail: {found.amplitude[number]:.2f} sigma in the middle."
    return f'<svg class="plot" viewBox="0 0 640 334" role="img" aria-label="{label}">{"".join(parts)}</svg>'
