"""
The demo: simulate a night and an image difference, run the command line on their files, and measure what was found
against what was planted.

Every number is measured: fluxes, clipped pixels and noise on the files that the command line wrote, variances and
epoch counts of the coadd on the same coadd made once more in memory (the report says whether the two agree).
"""

from __future__ import annotations

import contextlib
import io
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from .simulate import Night, point_source, simulate_night, write_night

REJECTED = ("NO_DATA", "BAD", "SAT")
# Cells and their borders in FWHM of the PSF: smaller than the defaults, so that even a small field has several.
_CELLS = ("cells.cell_size=15", "cells.border_size=5")
_FAINT_TRAIL = 0.3  # crest in sigmas of a pixel
_STREAKS = "streaks.enabled=true"
_COUNTED_SIGMA = 5.0  # planted flux over the noise of the direct warp that makes a pixel count
_APERTURE_SIGMA = 3.0  # aperture radius in sigmas of the twins' PSF


@dataclass(frozen=True)
class Found:
    """How much of one kind of artifact was clipped; pixels with data in warp and twin alone are looked at."""

    kind: str
    n_epochs: int
    n_pixels: int  # planted at 5 sigma or more
    pixels: float  # fraction of those that is clipped
    flux: float  # fraction of the planted flux, faint wings included, that is clipped


@dataclass(frozen=True)
class FluxKept:
    """Flux of one star in the coadds over its expected weighted mean."""

    y: float
    x: float
    flux: float
    change: float  # peak to peak over mean
    n_outlying: int  # epochs in which it stood out
    n_matched: int  # epochs in which it could
    coadd: float
    plain: float


@dataclass(frozen=True)
class Measurements:
    """Answers of `measure`; pairs are (artifact-rejecting coadd, plain mean)."""

    found: tuple[Found, ...]
    false_fraction: float
    n_false: int
    variable_stars: tuple[FluxKept, ...]
    n_constant_stars: int
    constant_median: tuple[float, float]
    constant_worst: tuple[float, float]
    noise: tuple[float, float]  # standard deviation of what is left in empty sky, in sigmas
    noise_core: tuple[float, float]  # the same from the quartiles, which a few bright pixels do not move
    n_epochs: int


def run_demo(out: str | Path = "gpucoadd-demo", *, seed: int = 1, n_epochs: int = 12, size: int = 512) -> int:
    """
    Simulate a night and a difference, run the command line on both, print tables and write `out`/report.html.

    Parameters
    ----------
    out : path
        Folder for warps, coadd, masks, pictures; made when missing.
    seed, n_epochs : int
        As in `simulate_night`; the seed is that of the difference, too.
    size : int
        Side of the sky in pixels.

    Returns
    -------
    int
        0.

    Raises
    ------
    ValueError
        If the night or the difference cannot be simulated so.
    RuntimeError
        If the command line fails.
    """
    import gpucoadd

    from .fits import read_image, read_warps
    from .report import write_report
    from .streak_report import faint_trail_section

    out = Path(out)
    night = simulate_night(n_epochs=n_epochs, shape=(size, size), seed=seed, faint_trail=_FAINT_TRAIL)
    write_night(night, out)
    files, twins = (
        [out / kind / f"warp-{visit}.fits" for visit in night.warps.epochs] for kind in ("direct", "matched")
    )
    summary = _run_command_line(
        [
            *("coadd", *map(str, files), "--psf-matched", *map(str, twins), "-o", str(out / "coadd.fits")),
            *("--artifact-masks", str(out / "artifact-masks"), "--save-count-image", str(out / "epoch-count.fits")),
            *("-c", _STREAKS),
        ]
    )
    written = read_image(out / "coadd.fits", device="cpu")

    # Once more through the API: for the template, which the command line keeps to itself, and the plain mean.
    warps = read_warps(files, psf_matched=twins, device="cpu")
    coadd = gpucoadd.coadd(warps, config=gpucoadd.CoaddConfig(streaks=gpucoadd.StreakConfig()))
    plain_config = gpucoadd.AssemblyConfig(statistic="MEAN", reject=REJECTED, remove=("EDGE",))
    plain = gpucoadd.assemble(warps, config=plain_config)
    plain.write(out / "plain-mean.fits")
    kept = [warps.epochs.index(epoch) for epoch in coadd.epochs]
    clipped = np.zeros(night.warps.shape, dtype=bool)
    clipped[kept] = read_clipped(out / "artifact-masks", coadd.epochs)

    measured = measure(night, coadd, plain, clipped, kept=kept, image=np.asarray(written.image))
    rows = table_rows(measured)
    difference_rows, section, difference_summary = _difference(out / "difference", seed=seed, size=size)
    facts = {
        "seed, epochs, size": f"{seed}, {n_epochs}, {size} x {size}",
        **summary,
        "files against a second run in memory": _agreement(np.asarray(written.image), coadd.image),
        **{f"decorrelate: {name}": text for name, text in difference_summary.items()},
        "versions": versions(),
        "configuration": f"the defaults (LSST's CompareWarp) and {_STREAKS}; decorrelate: {', '.join(_CELLS)}, in "
        "FWHM of the PSF",
    }
    if n_epochs < 3:
        facts["note"] = "with fewer than three epochs nothing is ever clipped: one cannot tell which of two is wrong"
    report = write_report(
        out / "report.html",
        night=night,
        coadd=coadd,
        plain=plain,
        clipped=clipped,
        rows=rows,
        facts=facts,
        sections=[faint_trail_section(night, coadd, kept), section],
    )
    _print_table(("", "gpucoadd", "plain mean"), rows)
    print()
    _print_table(("image difference", "before", "decorrelated"), difference_rows)
    if "note" in facts:
        print(f"note        {facts['note']}")
    print(f"seconds     {summary.get('seconds', 'unknown')}")
    print(f"report      {report}")
    return 0


def _difference(folder: Path, *, seed: int, size: int) -> tuple[list[tuple[str, str, str]], str, dict[str, str]]:
    """Simulate a difference, decorrelate its files; the rows of its table, its section of the report, what was said."""
    from .difference_report import difference_section
    from .difference_scene import simulate_difference, write_scene
    from .fits import find_stamp, read_image
    from .whiteness import difference_rows, measure_difference

    scene = simulate_difference(shape=(size, size), seed=seed)
    write_scene(scene, folder)
    inputs = [f"--{name}={folder / name}.fits" for name in ("science", "template", "difference", "kernel")]
    options = [word for option in _CELLS for word in ("-c", option)]
    decorrelated = folder / "decorrelated.fits"
    summary = _run_command_line(["decorrelate", *inputs, "--cells", *options, "-o", str(decorrelated)])
    image, psf = read_image(decorrelated, device="cpu"), find_stamp(decorrelated, "PSF")
    measured = measure_difference(scene, image, psf=psf)
    return difference_rows(measured), difference_section(scene, image, measured, psf=psf), summary


def read_clipped(folder: str | Path, epochs: Sequence[Any]) -> np.ndarray:
    """
    Clipped pixels from the files of ``--artifact-masks``.

    Parameters
    ----------
    folder : path
        Holds `<epoch id>.fits`.
    epochs : sequence
        Ids, in the order wanted.

    Returns
    -------
    array, shape (epoch, y, x), bool
    """
    from astropy.io import fits

    planes = []
    for epoch in epochs:
        with fits.open(Path(folder) / f"{epoch}.fits") as hdus:
            bit = int(hdus["MASK"].header["MP_CLIPPED"])
            planes.append((np.asarray(hdus["MASK"].data) >> bit) & 1 != 0)
    return np.stack(planes)


def measure(
    night: Night,
    coadd: Any,
    plain: Any,
    clipped: np.ndarray,
    *,
    kept: Sequence[int],
    image: np.ndarray | None = None,
) -> Measurements:
    """
    Compare a coadd with what is true of the night.

    Parameters
    ----------
    night : Night
        What is true.
    coadd, plain : Coadd
        The artifact-rejecting coadd and a plain weighted mean of the same epochs.
    clipped : array, shape (epoch, y, x), bool
        Clipped pixels of every epoch of the night.
    kept : sequence of int
        Positions of the epochs that the coadds kept.
    image : array, shape (y, x), optional
        Pixels to measure instead of `coadd.image`, such as those read back from a file.

    Returns
    -------
    Measurements
    """
    schema = night.warps.schema
    good = (night.warps.mask & schema.bitmask(*REJECTED)) == 0
    usable = good & ((night.twins.mask & schema.bitmask("NO_DATA")) == 0)
    image = np.asarray(coadd.image if image is None else image, dtype=np.float64)
    plain_image = np.asarray(plain.image, dtype=np.float64)
    weights, plain_weights = (_spread(c.weights, kept, len(good)) for c in (coadd, plain))
    n_false, n_far = _count_false(night, clipped, usable)

    # The coadd lacks the pixels without data in the twins, too; were a star clipped, its flux would tell.
    samples = ((image, weights, usable), (plain_image, plain_weights, good))
    stars = night.stars[~night.stars["variable"]]
    measured = [_flux_kept(night, star, star["flux"], samples, coadd) for star in stars]
    constant = np.array([(c.coadd, c.plain) for c in measured if c is not None and c.flux > 3000]).reshape(-1, 2)
    variable = [_flux_kept(night, v, v["flux"], samples, coadd) for v in night.variable_stars]

    noise, noise_core = [], []
    clean = ((image, weights, usable & ~clipped), samples[1])
    for (pixels, w, used), variance in zip(clean, (coadd.variance, plain.variance), strict=True):
        expected, total = _weighted_mean(night.expected, w, used)
        sigma = np.sqrt(np.asarray(variance, dtype=np.float64))
        empty = (total > 0) & np.isfinite(sigma) & (np.abs(expected) < 0.5)
        pull = (pixels[empty] - expected[empty]) / sigma[empty] if empty.any() else np.array([math.nan])
        noise.append(float(np.std(pull)))
        noise_core.append(float(0.7413 * np.subtract(*np.percentile(pull, (75, 25)))))
    return Measurements(
        found=tuple(_found(night, kind, clipped, usable) for kind in night.truth),
        false_fraction=n_false / n_far if n_far else math.nan,
        n_false=n_false,
        variable_stars=tuple(v for v in variable if v is not None),
        n_constant_stars=len(constant),
        constant_median=_pair(np.median(constant, axis=0)) if len(constant) else (math.nan, math.nan),
        constant_worst=_pair(np.abs(constant - 1).max(axis=0)) if len(constant) else (math.nan, math.nan),
        noise=_pair(noise),
        noise_core=_pair(noise_core),
        n_epochs=len(good),
    )


def table_rows(measured: Measurements) -> list[tuple[str, str, str]]:
    """
    The table of the demo.

    Parameters
    ----------
    measured : Measurements
        From `measure`.

    Returns
    -------
    list of (str, str, str)
        What was measured, the answer for the coadd, and the answer for the plain mean ("" where there is none).
    """
    rows: list[tuple[str, str, str]] = []
    for found in measured.found:
        epochs = f"{found.n_epochs} epoch{'s' if found.n_epochs != 1 else ''}"
        if found.kind == "faint trail":
            kind = f"{found.kind}, {_FAINT_TRAIL:g} sigma per pixel"
        else:
            kind = found.kind
            rows.append((f"{kind}: pixels above 5 sigma clipped ({epochs})", _percent(found.pixels), ""))
        rows.append((f"{kind}: planted flux clipped", _percent(found.flux), ""))
    rows.append(("clipped far from anything planted", f"{100 * measured.false_fraction:.3f} % of good pixels", ""))
    for star in measured.variable_stars:
        label = f"variable star ({star.change:.0%} peak to peak, out in {star.n_outlying} of {star.n_matched} epochs)"
        rows.append((f"{label}: flux kept", _percent(star.coadd, 2), _percent(star.plain, 2)))
    label = f"{measured.n_constant_stars} constant stars"
    noise = "empty sky, scatter over what the variance plane says"
    for what, (ours, plain), write in (
        (f"{label}: median flux kept", measured.constant_median, partial(_percent, digits=2)),
        (f"{label}: largest flux error", measured.constant_worst, partial(_percent, digits=2)),
        (f"{noise}: from quartiles", measured.noise_core, "{:.3f}".format),
        (f"{noise}: standard deviation", measured.noise, "{:.3f}".format),
    ):
        rows.append((what, write(ours), write(plain)))
    return rows


def versions() -> str:
    """Versions of this package and of what it stands on, in one line."""
    import astropy
    import scipy

    import gpucoadd

    modules = (("gpucoadd", gpucoadd), ("numpy", np), ("scipy", scipy), ("astropy", astropy))
    return ", ".join(
        [f"{name} {module.__version__}" for name, module in modules] + [f"Python {platform.python_version()}"]
    )


def _run_command_line(arguments: list[str]) -> dict[str, str]:
    """Run `gpucoadd ARGUMENTS` in this process; what it said, by the first word of each line."""
    from .cli import main

    said, began = io.StringIO(), time.perf_counter()
    with contextlib.redirect_stdout(said):
        code = main(arguments)
    if code != 0:
        raise RuntimeError(f"gpucoadd {arguments[0]} ended with exit code {code}; its message is above")
    lines = (line.split(maxsplit=1) for line in said.getvalue().splitlines())
    summary = {words[0].rstrip(":"): words[1] for words in lines if len(words) == 2}
    summary.pop("wrote", None)
    return {**summary, "command line": f"{time.perf_counter() - began:.2f} s in all"}


def _agreement(written: np.ndarray, again: np.ndarray) -> str:
    """How the coadd read back from its file compares with one made on the CPU, in words."""
    if np.array_equal(written, again, equal_nan=True):
        return "equal, pixel for pixel"
    differ = ~np.isclose(written, again, rtol=0, atol=0, equal_nan=True)
    largest = np.nanmax(np.abs(written - again))
    return f"{np.count_nonzero(differ)} pixels differ, by {largest:.3g} nJy at most"


def _found(night: Night, kind: str, clipped: np.ndarray, usable: np.ndarray) -> Found:
    truth = night.truth[kind]
    looked_at = truth & usable
    sigma = np.sqrt(night.warps.variance, where=usable, out=np.full(usable.shape, np.inf, dtype=np.float32))
    counted = looked_at & (night.planted >= _COUNTED_SIGMA * sigma)
    flux = night.planted[looked_at].sum(dtype=np.float64)
    n_pixels = int(counted.sum())
    return Found(
        kind=kind,
        n_epochs=int(truth.any(axis=(1, 2)).sum()),
        n_pixels=n_pixels,
        pixels=float(clipped[counted].mean()) if n_pixels else math.nan,
        flux=float(night.planted[looked_at & clipped].sum(dtype=np.float64) / flux) if flux > 0 else math.nan,
    )


def _count_false(night: Night, clipped: np.ndarray, usable: np.ndarray) -> tuple[int, int]:
    """Clipped pixels, and all, beyond the reach (matching, growing) of planted artifacts and saturated stars."""
    widest = math.sqrt(night.target_sigma**2 - night.warps.psf_sigma.min() ** 2)
    reach = math.ceil(4 * widest) + 2
    saturated = (night.twins.mask & night.warps.schema.bitmask("SAT")) != 0
    n_false = n_far = 0
    for epoch, planes in enumerate(zip(*night.truth.values(), strict=True)):
        source = np.any([*planes, saturated[epoch]], axis=0)
        far = usable[epoch] & (ndimage.maximum_filter(source.view(np.uint8), 2 * reach + 1) == 0)
        n_false += int((clipped[epoch] & far).sum())
        n_far += int(far.sum())
    return n_false, n_far


def _flux_kept(
    night: Night,
    star: Any,
    flux: Any,
    samples: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...],
    coadd: Any,
) -> FluxKept | None:
    """Aperture fluxes over the expected one; None where the aperture leaves the frame or holds rejected pixels."""
    y, x = float(star["y"]), float(star["x"])
    radius = math.ceil(_APERTURE_SIGMA * night.target_sigma)
    iy, ix = round(y), round(x)
    height, width = night.sky.shape
    if not (radius <= iy < height - radius and radius <= ix < width - radius):
        return None
    box = (slice(iy - radius, iy + radius + 1), slice(ix - radius, ix + radius + 1))
    rows, columns = np.ogrid[box]
    aperture = np.hypot(rows - y, columns - x) <= _APERTURE_SIGMA * night.target_sigma
    if (night.warps.mask[:, *box] & night.warps.schema.bitmask("SAT"))[:, aperture].any():
        return None
    fluxes = np.broadcast_to(np.asarray(flux, dtype=np.float64), len(night.noise))
    alone = np.stack(
        [point_source(rows - y, columns - x, f, s) for f, s in zip(fluxes, night.warps.psf_sigma, strict=True)]
    )
    kept = []
    for image, weights, used in samples:
        star_mean, total = _weighted_mean(alone, weights, used[:, *box])
        expected, _ = _weighted_mean(night.expected[:, *box], weights, used[:, *box])
        if not (total[aperture] > 0).all():
            return None
        kept.append(1 + (image[box] - expected)[aperture].sum() / star_mean[aperture].sum())
    return FluxKept(
        y=y,
        x=x,
        flux=float(fluxes.mean()),
        change=float(np.ptp(fluxes) / fluxes.mean()),
        n_outlying=int(coadd.epoch_count[iy, ix]),
        n_matched=int(coadd.n_image_matched[iy, ix]),
        coadd=float(kept[0]),
        plain=float(kept[1]),
    )


def _weighted_mean(values: np.ndarray, weights: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean over the epochs of the pixels `used`, and the sum of weights; NaN where nothing is."""
    total = np.einsum("e,eyx->yx", weights, used.astype(np.float64))
    mean = np.einsum("e,eyx->yx", weights, np.where(used, values, 0.0).astype(np.float64))
    return np.divide(mean, total, out=np.full(total.shape, np.nan), where=total > 0), total


def _spread(weights: Any, kept: Sequence[int], n_epochs: int) -> np.ndarray:
    """Weights of all epochs; 0 for those that were not kept."""
    all_weights = np.zeros(n_epochs)
    all_weights[list(kept)] = weights
    return all_weights


def _pair(values: Any) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _percent(value: float, digits: int = 1) -> str:
    return "none planted" if math.isnan(value) else f"{100 * value:.{digits}f} %"


def _print_table(head: tuple[str, str, str], rows: Sequence[tuple[str, str, str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(3)]
    for what, first, second in (head, *rows):
        print(f"{what:{widths[0]}}  {first:>{max(widths[1], 24)}}  {second:>{max(widths[2], 12)}}")
