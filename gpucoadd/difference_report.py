"""The part of the demo's report about the difference: pictures, a plot of the noise's power, numbers."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from .difference_scene import DifferenceScene
from .images import MaskedImage
from .pictures import display_limits
from .report import FOUND, MISSED, crop, figure, key
from .whiteness import (
    THRESHOLD,
    DifferenceMeasurements,
    Spectra,
    difference_rows,
    matched_filter,
    near_changes,
)

_FRAME = (56.0, 14.0, 626.0, 284.0)  # left, top, right, bottom of the plot's axes
_SIZE = (640, 334)


def difference_section(
    scene: DifferenceScene,
    decorrelated: MaskedImage,
    measured: DifferenceMeasurements,
    *,
    psf: np.ndarray | None = None,
) -> str:
    """
    HTML of the section about the difference.

    Parameters
    ----------
    scene : DifferenceScene
        What was planted.
    decorrelated : MaskedImage
        Its decorrelated difference, on the host.
    measured : DifferenceMeasurements
        From `measure_difference`.
    psf : array, shape (ky, kx), optional
        As in `measure_difference`.

    Returns
    -------
    str
        Needs the style sheet of the report; has no links.
    """
    science, template, difference = (i.image for i in (scene.science, scene.template, scene.difference))
    sky = display_limits(science)
    sigma = scene.settings["noise"] * math.sqrt(1 + scene.settings["variance_ratio"])
    noise: dict[str, Any] = {"limits": (-4 * sigma, 4 * sigma), "stretch": "linear"}
    inputs = [
        figure(science, "Science image", "Its seeing is the worse.", limits=sky),
        figure(template, "Template", "Sharper; it is to be blurred.", limits=sky),
    ]
    frames = [
        figure(difference, "Difference", "Stars are gone, what changed is left. The noise is blotchy.", **noise),
        figure(decorrelated.image, "Decorrelated", "The same stretch. More noise, but the truth about it.", **noise),
    ]
    before = scene.science_psf(*scene.centre)
    looks = [
        _detections(scene, scene.difference, before, "before"),
        _detections(scene, decorrelated, before if psf is None else psf, "after"),
    ]
    zooms = _zooms(scene, decorrelated, noise)
    return f"""<h2>One difference, white noise again</h2>
<p>Subtracting a template that was blurred to the seeing of the science image leaves noise that is correlated from
pixel to pixel: the template's share of it has been smoothed. A variance plane cannot say so, and whoever detects
sources by adding up pixels takes blotches for sources. Decorrelation multiplies the difference's Fourier transform by
the inverse root of its noise power, in cells, since the blurring changes over the field.</p>
<div class="grid">{"".join(inputs)}</div>
<div class="grid pairs">{"".join([*frames, *zooms, *looks])}</div>
<h2>The noise's power</h2>
{spectrum_plot(measured.spectra)}
<p>Noise power over the variance plane, by spatial frequency, without the planted changes. White noise that its variance
plane describes lies on the line at 1; blotches are too much power on the left. The dashed line is what the kernel and
the noise of the two images make one expect before.</p>
<h2>The difference in numbers</h2>
<p>Measured on the files of this run, in sky without sources. The correlation of neighbours is the mean of those to the
right and below; white noise has 0 within the error given. A matched filter adds up pixels under the PSF; its scatter
is 1 when it errs as much as the variance plane makes it believe, and only then does a threshold of {THRESHOLD:g} sigma
mean {THRESHOLD:g} sigma.</p>
{_table(("measured", "before", "after"), difference_rows(measured))}
<p>Significance of what was planted: as the variance plane has it, and over the scatter that the filter really has.
Decorrelation brings the claims down to the true values.</p>
{_table(("planted", "claimed before", "true before", "claimed after", "true after"), _change_rows(measured))}
"""


def spectrum_plot(spectra: Spectra) -> str:
    """
    Plot of noise power against frequency, as SVG to stand in a page.

    Parameters
    ----------
    spectra : Spectra
        Measured and expected power.

    Returns
    -------
    str
        Colours are the page's: `currentColor`, and the classes "before", "after", "soft".
    """
    left, top, right, bottom = _FRAME
    largest = max(float(np.max(power)) for power in (spectra.before, spectra.after, spectra.expected))
    power_of_ten = 10.0 ** math.floor(math.log10(largest))
    step = power_of_ten * next(part for part in (0.2, 0.5, 1.0) if largest <= 10 * part * power_of_ten)
    highest = step * math.ceil(1.05 * largest / step)

    def across(frequency: float) -> float:
        return left + (right - left) * frequency / 0.5

    def up(power: float) -> float:
        return bottom - (bottom - top) * power / highest

    parts = [f'<path class="axis" d="M{left} {top}V{bottom}H{right}"/>']
    parts.append(f'<path class="soft" d="M{left} {up(1):.1f}H{right}"/>')
    for tick in np.arange(0, 0.51, 0.1):
        parts.append(f'<path class="axis" d="M{across(tick):.1f} {bottom}v5"/>')
        parts.append(f'<text x="{across(tick):.1f}" y="{bottom + 19}" text-anchor="middle">{tick:.1f}</text>')
    for tick in np.arange(0, highest + step / 2, step):
        parts.append(f'<path class="axis" d="M{left} {up(tick):.1f}h-5"/>')
        parts.append(f'<text x="{left - 9}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    middle = (left + right) / 2, (top + bottom) / 2
    parts.append(f'<text x="{middle[0]}" y="{_SIZE[1] - 8}" text-anchor="middle">cycles per pixel</text>')
    turned = f'transform="translate(14 {middle[1]}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">noise power over the variance plane</text>')

    curves = (
        ("expected before", "expected", spectra.expected),
        ("difference", "before", spectra.before),
        ("decorrelated", "after", spectra.after),
    )
    for row, (name, kind, powers) in enumerate(curves):
        points = [(across(f), up(p)) for f, p in zip(spectra.frequency, powers, strict=True)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="{kind}" points="{line}"/>')
        if kind != "expected":
            parts += [f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in points]
        y = top + 14 + 20 * row
        parts.append(f'<path class="{kind}" d="M{right - 160} {y}h28"/>')
        parts.append(f'<text x="{right - 124}" y="{y + 4}">{name}</text>')
    label = f"Noise power before and after: {spectra.before[1]:.2f} and {spectra.after[1]:.2f} at low frequency."
    return (
        f'<svg class="plot" viewBox="0 0 {_SIZE[0]} {_SIZE[1]}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _detections(scene: DifferenceScene, image: MaskedImage, psf: np.ndarray, when: str) -> str:
    """What a detector sees: the matched filter, and what is beyond the threshold, made thick enough to be seen."""
    significance = matched_filter(image, psf)
    beyond = ndimage.maximum_filter((np.abs(significance) > THRESHOLD).view(np.uint8), 5) != 0
    planted = near_changes(scene)
    return figure(
        significance,
        f"Matched filter, {when}",
        f"Beyond {THRESHOLD:g} sigma: {key(FOUND)}planted {key(MISSED)}nothing was there",
        limits=(-THRESHOLD, THRESHOLD),
        stretch="linear",
        overlays=[(beyond & planted, FOUND, 1.0), (beyond & ~planted, MISSED, 1.0)],
    )


def _zooms(scene: DifferenceScene, decorrelated: MaskedImage, drawing: Mapping[str, Any]) -> list[str]:
    """A transient of middling brightness before and after; nothing where none was planted."""
    transients = scene.changes[scene.changes["kind"] == "transient"]
    if not len(transients):
        return []
    chosen = transients[len(transients) // 2]
    box, zoom = crop(scene.science.shape, (round(float(chosen["y"])), round(float(chosen["x"]))), side=64)
    return [
        figure(image[box], f"A transient: {title}", "", zoom=zoom, **drawing)
        for image, title in ((scene.difference.image, "difference"), (decorrelated.image, "decorrelated"))
    ]


def _change_rows(measured: DifferenceMeasurements) -> list[tuple[str, ...]]:
    return [
        (
            f"{change.kind}, {change.flux:+.0f} nJy",
            *(f"{value:+.1f}" for pair in zip(change.claimed, change.honest, strict=True) for value in pair),
        )
        for change in measured.changes
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f'<div class="wide"><table class="numbers"><tr>{names}</tr>{cells}</table></div>'
