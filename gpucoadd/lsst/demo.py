"""
The demo of the engine: simulated warps in a repository, `pipetask run` on them, and what came out.

Nothing is coadded here. What is printed is read from the repository afterwards, as anyone could.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from lsst.daf.butler import Butler

from .repository import WARPS, SimulatedPatch, make_repository, simulate_fields

BANDS = "ugrizy"
COADDS = "coadds"  # the collection
PIPELINE, LAPTOP = "compare_warp.yaml", "laptop.yaml"
_EMPTY = 0.05  # of the noise, below which the true sky is none
_QUARTILES = 1.3489795  # between those of a Gaussian, in its sigmas
_PIPETASK = "lsst.ctrl.mpexec"


def run_demo(
    folder: str | os.PathLike[str],
    *,
    n_visits: int = 6,
    n_patches: int = 4,
    n_bands: int = 2,
    size: int = 256,
    seed: int = 1,
    processes: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """
    Make a repository in `folder`, run the pipeline, print statistics of every coadd and where to look next.

    Parameters
    ----------
    folder : path
        Empty or not there.
    n_visits, n_patches : int
        Visits per band, and patches.
    n_bands : int
        Of "ugrizy", from g on.
    size : int
        Side of a patch in pixels.
    seed : int
        Another seed, another sky.
    processes : int
        Of pipetask.
    say : callable
        Takes each line.

    Raises
    ------
    FileExistsError
        If `folder` is not empty.
    ValueError
        If a number is out of range.
    ImportError
        If pipetask is not installed.
    RuntimeError
        If the pipeline fails.
    """
    folder = Path(folder)
    if not _is_installed(_PIPETASK):
        raise ImportError(
            f'the demo needs pipetask, of {_PIPETASK}, which is not installed: pip install "gpucoadd[lsst]", best with '
            "Python 3.12 or later"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder; give one that is, or a name that is not taken")
    bands = demo_bands(n_bands)
    amount = f"{n_visits} visits x {n_patches} patches x {n_bands} bands"
    say(f"simulating  {amount} of {size} x {size} pixels")
    began = time.perf_counter()
    fields = list(simulate_fields(n_visits=n_visits, n_patches=n_patches, bands=bands, size=size, seed=seed))
    folder.mkdir(parents=True, exist_ok=True)
    for kind, name in (("pipelines", PIPELINE), ("bps", LAPTOP)):
        with resources.as_file(resources.files("gpucoadd.lsst") / kind / name) as source:
            shutil.copy(source, folder / name)
    butler = make_repository(folder / "repo", fields)
    n_warps = sum(field.night.warps.shape[0] for field in fields)
    say(
        f"repository  {folder / 'repo'}: {n_warps} warps of {size} x {size} pixels and their PSF-matched twins "
        f"({amount}), {time.perf_counter() - began:.1f} s"
    )
    words = run_words(folder / "repo", folder / PIPELINE, output=COADDS, processes=processes)
    say(f"$ {' '.join(['pipetask', *words])}")
    began = time.perf_counter()
    _run_pipetask(words, folder)
    say(f"pipetask    {len(fields)} quanta, {time.perf_counter() - began:.1f} s; log: {folder / 'pipetask.log'}")
    butler.registry.refresh()
    for line in _table([_HEAD, *(statistics(butler, field) for field in fields)]):
        say(line)
    for line in _next_steps(folder):
        say(line)


def demo_bands(n_bands: int) -> str:
    """Names of the first bands, from g on; ValueError if there are not so many."""
    if not 1 <= n_bands <= len(BANDS):
        raise ValueError(f"bands must be 1 to {len(BANDS)}, the number of {', '.join(BANDS)}; got {n_bands}")
    return (BANDS[1:] + BANDS[0])[:n_bands]


def run_words(repo: Any, pipeline: Any, *, output: str, processes: int = 1, more: Sequence[str] = ()) -> list[str]:
    """The words after `pipetask` that make coadds of the collection `WARPS`; what gpucoadd logs at INFO is shown."""
    words = ["--log-level", "gpucoadd=INFO", "run", "-b", str(repo), "-i", WARPS, "-o", output, "-p", str(pipeline)]
    return [*words, "--register-dataset-types", *(["-j", str(processes)] if processes != 1 else []), *more]


def pipetask(words: Iterable[str], **settings: Any) -> subprocess.CompletedProcess[Any]:
    """Run `pipetask` in a process of this interpreter; `settings` are those of `subprocess.run`."""
    return subprocess.run(_command(words), **settings)


def _command(words: Iterable[str]) -> list[str]:
    start = f"import sys; from {_PIPETASK}.cli.pipetask import main; sys.argv[0] = 'pipetask'; sys.exit(main())"
    return [sys.executable, "-c", start, *words]


def _run_pipetask(words: Sequence[str], folder: Path) -> None:
    """`pipetask`, with its log in `folder`; it does not outlive the demo."""
    log = folder / "pipetask.log"
    with open(log, "w", encoding="utf-8") as stream:
        process = subprocess.Popen(_command(words), stdout=stream, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code != 0:
        raise RuntimeError(f"pipetask ended with exit code {code}; {log} says why; remove {folder} before another try")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package that it is in
        return False


# ------------------------------------------------------------------------------------------------ what came out

_HEAD = ("band", "patch", "visits", "with data", "epochs", "clipped", "of planted", "sky", "noise", "seconds")


def statistics(butler: Butler, field: SimulatedPatch, *, output: str = COADDS) -> tuple[str, ...]:
    """
    A row about the coadd of `field`, of what the repository holds.

    Of all pixels, those with data; epochs of the median pixel; clipped samples, and how many of the planted pixels
    above five sigmas are among them; of empty sky, the median and the scatter (from quartiles, which what is left of an
    artifact hardly moves) in sigmas of the variance plane; seconds that the task took.
    """
    data_id = field.data_id
    coadd = butler.get("deep_coadd_predetection", data_id, collections=output)
    counts = butler.get("deep_coadd_n_image", data_id, collections=output).image
    night, warps = field.night, field.night.warps
    clipped = np.zeros(warps.shape, bool)
    for epoch, visit in enumerate(warps.epochs):
        mask = butler.get("compare_warp_artifact_mask", field.warp_id(visit), collections=output)
        clipped[epoch] = (mask.mask & mask.schema.bitmask("CLIPPED")) != 0
    good = (warps.mask & warps.schema.bitmask("NO_DATA", "BAD", "SAT")) == 0
    good &= (night.twins.mask & warps.schema.bitmask("NO_DATA")) == 0
    bright = good & (night.planted > 5 * np.sqrt(np.where(good, warps.variance, np.inf)))
    with np.errstate(invalid="ignore"):
        pull = coadd.image / np.sqrt(coadd.variance)
        # Of the expected images, since a sharp one may have a star where the wide twins have none, and the reverse.
        empty = (np.abs(night.expected).max(axis=0) < _EMPTY * np.sqrt(coadd.variance)) & (counts > 0)
    low, middle, high = np.percentile(pull[empty], (25, 50, 75)) if empty.any() else (np.nan,) * 3
    told = butler.get("compareWarp_metadata", data_id, collections=output)["compareWarp"]
    return (
        field.band,
        str(field.patch),
        str(len(warps.epochs)),
        f"{100 * np.mean(counts > 0):.1f} %",
        f"{np.median(counts):g}",
        str(np.count_nonzero(clipped)),
        f"{100 * clipped[bright].mean():.1f} %" if bright.any() else "none",
        f"{middle:+.3f}",
        f"{(high - low) / _QUARTILES:.3f}",
        f"{told['seconds']:.2f}",
    )


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows]


def _next_steps(folder: Path) -> list[str]:
    repo = folder / "repo"
    tried = f"bps submit {folder / LAPTOP} -b {repo} -i {WARPS} -o bps"
    if not _is_installed("lsst.ctrl.bps"):
        tried += '   (after: pip install "gpucoadd[bps]")'
    # That release of bps asks these variables where pipetask and butler are.
    exports = f"{'':18}export CTRL_MPEXEC_DIR={sys.prefix} DAF_BUTLER_DIR={sys.prefix}   (first)"
    before = [exports] if sys.version_info < (3, 12) else []
    again = run_words(repo, folder / PIPELINE, output="deeper", more=["-c", "compareWarp:detect.thresholdValue=5"])
    return [
        "",
        "Where to look next",
        f"  what is there   butler query-datasets {repo} --collections {COADDS} 'deep_*'",
        f'  one coadd       python -c "from lsst.daf.butler import Butler; '
        f"print(Butler('{repo}').get('deep_coadd_predetection', collections='{COADDS}', "
        "skymap='simulated', tract=0, patch=0, band='g'))\"",
        f"  its files       {repo / COADDS}/: FITS, gpucoadd view makes a picture of one",
        f"  other options   pipetask {' '.join(again)}",
        f"  the pipeline    {folder / PIPELINE}",
        f"  as batch jobs   {tried}",
        *before,
        "  all the rest    docs/rubin.md of gpucoadd",
    ]
