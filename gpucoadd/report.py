"""The demo's report: one HTML page with its pictures inside, readable without a network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .pictures import PLANE_COLOURS, Overlay, display_limits, to_png, write_atomically
from .simulate import Night

FOUND, MISSED, _BEYOND = (70, 210, 120), (255, 60, 60), (80, 140, 255)  # tints of what was planted, and beside it
_SIDE = 512  # pixels of a full-frame picture, at most
_STYLE = """
:root { color-scheme: light dark; --page: #fbfbf9; --ink: #1d2126; --soft: #5d6670; --line: #d9dcdf; --box: #ffffff;
  --before: #c4501b; --after: #2166ac; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --ink: #e6e8ea; --soft: #9aa4ad; --line: #30363c; --box: #1b1f23;
    --before: #f59e64; --after: #78b4f0; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 0.4rem; }
p { max-width: 44rem; margin: 0.5rem 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr));
  gap: 1rem; margin: 1rem 0; }
.pairs { grid-template-columns: repeat(2, minmax(0, 1fr)); }
figure { margin: 0; background: var(--box); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
figure img { display: block; width: 100%; height: auto; image-rendering: pixelated; }
figcaption { padding: 0.5rem 0.75rem 0.7rem; font-size: 0.875rem; color: var(--soft); }
figcaption b { display: block; color: var(--ink); }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
th, td { text-align: left; padding: 0.4rem 0.8rem 0.4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td + td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.numbers td + td { white-space: nowrap; }
.plot { display: block; width: 100%; max-width: 720px; height: auto; margin: 1rem 0; font-size: 13px; }
.plot text { fill: var(--soft); }
.plot path, .plot polyline { fill: none; stroke-width: 2; }
.plot .axis { stroke: currentColor; stroke-width: 1; }
.plot .soft { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 4; }
.plot .expected { stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 6 4; }
.plot .before { stroke: var(--before); } .plot circle.before { fill: var(--before); }
.plot .after { stroke: var(--after); } .plot circle.after { fill: var(--after); }
.key { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 2px; margin-right: 0.3em; }
"""


def write_report(
    path: str | Path,
    *,
    night: Night,
    coadd: Any,
    plain: Any,
    clipped: np.ndarray,
    rows: Sequence[tuple[str, str, str]],
    facts: Mapping[str, str],
    sections: Sequence[str] = (),
) -> Path:
    """
    Write the report of a demo.

    Parameters
    ----------
    path : path
        HTML file; replaced at once when it is complete.
    night : Night
        What was planted.
    coadd, plain : Coadd
        The artifact-rejecting coadd, with its `template` and `epoch_count`, and the plain mean.
    clipped : array, shape (epoch, y, x), bool
        Clipped pixels of every epoch of the night.
    rows : sequence of (str, str, str)
        Table: what was measured, for the coadd, for the plain mean.
    facts : mapping of str to str
        Settings, versions, times.
    sections : sequence of str
        More of the page, HTML, to stand before the facts.

    Returns
    -------
    Path
        `path`.
    """
    epoch = _trail_epoch(night)
    image, mean = np.asarray(coadd.image), np.asarray(plain.image)
    limits, deep = display_limits(night.warps.image[epoch]), display_limits(image)
    matched_limits = display_limits(coadd.template.image)
    counts = np.asarray(coadd.epoch_count)
    tint: list[Overlay] = [(clipped[epoch], PLANE_COLOURS["CLIPPED"], 0.75)]
    name = html.escape(str(night.warps.epochs[epoch]))
    n_epochs = len(night.noise)

    one_epoch = [
        figure(
            night.warps.image[epoch],
            f"Visit {name} as it came",
            "A satellite trail, short cosmic rays, gaps between detectors (violet: no data).",
            limits=limits,
        ),
        figure(
            night.twins.image[epoch],
            "Its PSF-matched twin",
            "The same pixels blurred to the PSF that all epochs share, so that epochs can be compared.",
            limits=matched_limits,
        ),
        figure(
            coadd.template.image,
            "The template",
            "Clipped mean of all twins: what the sky looks like when nothing passes.",
            limits=matched_limits,
        ),
        figure(
            night.warps.image[epoch],
            "Clipped in this visit",
            "Orange pixels differ from the template here and in too few other epochs to be the sky.",
            limits=limits,
            overlays=tint,
        ),
        figure(
            counts,
            "Epoch count",
            f"In how many epochs a pixel stood out: 0 (dark) to {int(counts.max())} (bright). Trails and cosmic rays "
            "stand out once or twice; variable and saturated stars often, which is why they are kept.",
            limits=(0, max(int(counts.max()), 1)),
            colours="heat",
        ),
        figure(
            image,
            f"What was found, all {n_epochs} epochs",
            f"{key(FOUND)}planted and clipped in some epoch {key(MISSED)}planted above 5 sigma but kept "
            f"{key(_BEYOND)}clipped beside it",
            limits=deep,
            overlays=_verdict(night, clipped),
        ),
    ]
    frames = [
        figure(mean, "Plain weighted mean", "Every artifact is still there, diluted.", limits=deep),
        figure(image, "gpucoadd", "The same warps, weights and stretch, without the clipped pixels.", limits=deep),
    ]
    zooms = []
    for place, title in _places(night, epoch):
        box, zoom = crop(image.shape, place)
        zooms += [
            figure(mean[box], f"{title}: plain mean", "", limits=deep, zoom=zoom),
            figure(image[box], f"{title}: gpucoadd", "", limits=deep, zoom=zoom),
        ]
    numbers = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    listed = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in facts.items())
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>gpucoadd demo</title><style>{_STYLE}</style></head><body>
<h1>{n_epochs} visits, one clean sky</h1>
<p>This page was made from a simulated patch of sky, seen {n_epochs} times through different seeing, depth and field
rotation. Satellite trails, cosmic rays, a moving object and a ghost were planted in single visits; stars that vary were
planted, too. The coadd has to lose the first and keep the second.</p>
<h2>One visit</h2><div class="grid">{"".join(one_epoch)}</div>
<h2>The coadd</h2>
<p>Left and right differ in one thing only: pixels that stood out in too few epochs to belong to the sky were left
out.</p>
<div class="grid">{"".join(frames)}</div>
<div class="grid pairs">{"".join(zooms)}</div>
<h2>In numbers</h2>
<p>Everything here was measured on the coadd of this run, against what was planted. Pixels above 5 sigma are those
where the planted flux is at least five times the noise of the visit; planted flux counts the faint wings, too. Flux
kept compares the star's flux in the coadd with the weighted mean of its true fluxes. The scatter of empty sky is 1 when
the noise is just what the variance plane says; a few cosmic rays left over raise its standard deviation, not the value
from the quartiles. They are left over where the method spares what stands out: on bright sources, next to bad
columns, and where artifacts of more visits cross than the persistence rule allows.</p>
<div class="wide"><table class="numbers"><tr><th>measured</th><th>gpucoadd</th><th>plain mean</th></tr>
{numbers}</table></div>
{"".join(sections)}
<h2>This run</h2><div class="wide"><table>{listed}</table></div>
</body></html>
"""
    return write_atomically(path, page.encode())


def figure(image: np.ndarray, title: str, text: str, **drawing: Any) -> str:
    """One picture with its caption; `text` is HTML, `drawing` goes to `to_png`."""
    png = base64.b64encode(to_png(np.asarray(image), size_limit=_SIDE, **drawing)).decode()
    name = html.escape(title)
    picture = f'<img alt="{name}" src="data:image/png;base64,{png}">'
    return f"<figure>{picture}<figcaption><b>{name}</b>{text}</figcaption></figure>"


def key(colour: tuple[int, int, int]) -> str:
    """Patch of a colour, to explain it in a caption."""
    return f'<span class="key" style="background: rgb{colour}"></span>'


def _trail_epoch(night: Night) -> int:
    """Epoch with the largest number of clear trail pixels; the first where there is no trail."""
    finite = np.isfinite(night.warps.image)
    clear = night.truth["trail"] & finite & (night.planted > 5 * night.noise[:, np.newaxis, np.newaxis])
    return int(clear.sum(axis=(1, 2)).argmax())


def _verdict(night: Night, clipped: np.ndarray) -> list[Overlay]:
    """Tints for artifact pixels found, missed, and clipped beyond what was planted; all epochs together."""
    truth = np.any(list(night.truth.values()), axis=0)
    variance = np.nan_to_num(night.warps.variance, nan=np.inf)
    rejected = night.warps.schema.bitmask("NO_DATA", "BAD", "SAT")
    counted = truth & (night.planted >= 5 * np.sqrt(variance)) & ((night.warps.mask & rejected) == 0)
    counted &= np.isfinite(night.twins.image)
    found = (truth & clipped).any(axis=0)
    beyond = clipped.any(axis=0) & ~found
    missed = (counted & ~clipped).any(axis=0)
    return [(beyond, _BEYOND, 0.6), (found, FOUND, 0.75), (missed, MISSED, 0.95)]


def _places(night: Night, epoch: int) -> list[tuple[tuple[int, int], str]]:
    """(y, x) worth a closer look."""
    bright = np.where(night.truth["trail"][epoch], night.planted[epoch], 0)
    border = [n // 5 for n in bright.shape]
    inner = bright[border[0] : -border[0], border[1] : -border[1]]
    y, x = np.unravel_index(int(inner.argmax()), inner.shape)
    star = night.variable_stars[0]
    return [
        ((int(y) + border[0], int(x) + border[1]), "A trail"),
        ((round(float(star["y"])), round(float(star["x"]))), "The variable star"),
    ]


def crop(shape: tuple[int, ...], place: tuple[int, int], side: int = 96) -> tuple[tuple[slice, ...], int]:
    """Box of `side` pixels around a place, moved into the frame; and the zoom that makes it a picture."""
    starts = [int(np.clip(p - side // 2, 0, n - side)) for p, n in zip(place, shape, strict=True)]
    return tuple(slice(start, start + side) for start in starts), max(_SIDE // side, 1)
