"""The part of the demo's report about the trail that nobody sees."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from .pictures import PLANE_COLOURS, display_limits
from .report import figure
from .simulate import Night
from .streaks import Streaks

_BESIDE, _PIECE = 24, 32  # pixels to either side of the line, and along it that are averaged


def faint_trail_section(night: Night, coadd: Any) -> str:
    """
    HTML of the section about the faint trail of a night.

    Parameters
    ----------
    night : Night
        Made with `faint_trail`.
    coadd : Coadd
        Of its warps, with trails searched for.

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
        f"<p>One more trail was planted in visit {html.escape(str(visit))}, only {crest:g} times as bright as the noise "
        "of a single pixel. No threshold on pixels finds it. The sum of the pixels along it does: the search adds up "
        "the difference along every line of every length, and asks the other visits whether they have what it found."
    )
    position = coadd.epochs.index(visit) if visit in coadd.epochs else None
    found = None if position is None else coadd.artifacts.lines[position]
    number = None if found is None else _planted_one(found, night.truth["faint trail"][epoch])
    if number is None:
        return f"{intro} In this run it was not found: fields this small, or visits with such gaps, hide it.</p>"
    assert found is not None
    difference = _significance(night, coadd, epoch)
    noise: dict[str, Any] = {"limits": (-4, 4), "stretch": "linear"}
    streak = np.asarray(coadd.artifacts.plane("streak", position))
    limits = display_limits(night.warps.image[epoch])
    pictures = [
        figure(night.warps.image[epoch], "The visit as it came", "The trail is in it.", limits=limits),
        figure(difference, "Less the template", "From -4 to 4 sigma of a pixel. Still nothing to see.", **noise),
        figure(
            _along(difference, found, number),
            "Straightened and averaged",
            f"Around the line that was found, {_PIECE} pixels along it in one.",
            zoom=8,
            limits=(-2, 2),
            stretch="linear",
        ),
        figure(
            night.warps.image[epoch],
            "Clipped for it",
            "As far out as its light is above a tenth of a sigma.",
            limits=limits,
            overlays=[(streak, PLANE_COLOURS["STREAK"], 0.6)],
        ),
    ]
    return (
        f"{intro} It was found at {found.z[number]:.1f} sigma, {found.amplitude[number]:.2f} sigma per pixel bright in "
        f'the difference, which is smoother than the visit.</p><div class="grid pairs">{"".join(pictures)}</div>'
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


def _along(image: np.ndarray, found: Streaks, number: int) -> np.ndarray:
    """(distance, piece): means of the pixels beside a line."""
    image = image.T if found.orientation[number] == "v" else image
    major = np.arange(image.shape[1])
    middle = found.intercept[number] + found.slope[number] * (major - (image.shape[1] - 1) / 2)
    minor = np.rint(middle).astype(int) + np.arange(-_BESIDE, _BESIDE + 1)[:, np.newaxis]
    inside = (minor >= 0) & (minor < image.shape[0])
    strip = np.where(inside, image[np.clip(minor, 0, image.shape[0] - 1), major], np.nan)
    whole = strip[:, : image.shape[1] // _PIECE * _PIECE].reshape(len(strip), -1, _PIECE)
    known = np.isfinite(whole)
    return np.divide(
        np.where(known, whole, 0).sum(axis=2),
        known.sum(axis=2),
        out=np.full(whole.shape[:2], np.nan),
        where=known.any(axis=2),
    )
