"""The command `gpucoadd streaks`: a difference in, `find_streaks` called, the mask and the table of lines out."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .arguments import UsageError, check_positive, read_options
from .outputs import Staging, check_outputs
from .terminal import tell

if TYPE_CHECKING:
    from .streaks import Streaks


def run_streaks(args: argparse.Namespace) -> None:
    """`gpucoadd streaks`: read, search, write, and say what was found."""
    check_positive({"--psf-fwhm": args.psf_fwhm})
    if args.table is not None and not args.table.lower().endswith(".ecsv"):
        raise UsageError(f"the table is ECSV; give a name that ends with .ecsv, got {args.table}")
    outputs = [name for name in (args.out, args.table) if name is not None]
    files = [args.difference, *args.others]
    check_outputs(outputs, None, inputs=[*files, *filter(None, [args.config])])
    options = read_options(args.config, args.options, tables=(), example="min_length=64")
    options = {name.removeprefix("streaks."): value for name, value in options.items()}  # a coadd's names, too
    options.pop("enabled", None)  # which is for coadds

    from . import __version__, backend
    from .fits import write_mask
    from .options import as_names, with_overrides
    from .streaks import StreakConfig, find_streaks

    config = with_overrides(StreakConfig(), options, own_names=True)
    kind, number = backend.resolve_device(args.device)
    device = kind if kind == "cpu" else f"{kind}:{number}"
    sigma = _psf_sigma(args)
    began = time.perf_counter()
    difference = _Difference(args.difference, device)
    others = [_other(path, difference, device).planes for path in args.others if not _is_one(path, args.difference)]
    read = time.perf_counter()
    found = find_streaks(
        *difference.planes, psf_sigma=sigma, config=config, others=others or None, flagged=difference.flagged
    )
    image = difference.image
    schema = image.schema.with_planes("STREAK")
    masked = backend.to_host(found.mask)
    mask = masked.astype("int32") * schema.bitmask("STREAK")
    n_masked = int(masked.sum())
    computed = time.perf_counter()
    provenance = {
        "version": __version__,
        "config": {"psf_sigma": sigma, **{n: value for n, value in as_names(config).items() if n != "enabled"}},
        "inputs": [(os.path.basename(path), path, math.nan) for path in files],
    }
    grid = {"origin": image.origin, "wcs": image.wcs, "provenance": provenance}
    with Staging() as staging:
        write_mask(staging.place(args.out), mask, schema=schema, **grid)
        if args.table is not None:
            table = found.to_table()
            table.meta.update(origin_y=image.origin[0], origin_x=image.origin[1], psf_sigma=sigma)
            table.write(staging.place(args.table), format="ascii.ecsv", overwrite=True)

    tell("device", f"{device} ({'NumPy' if kind == 'cpu' else 'CuPy'})")
    tell("psf", f"{sigma:.2f} pixels (sigma)")
    tell("noise", "from the file" if difference.has_noise else "measured on the image, the same everywhere")
    for text in _lines(found):
        tell("line", text)
    n_persistent = int(found.persistent.sum())
    tell("lines", f"{len(found)}, of which {n_persistent} are in other differences, too, and not masked")
    tell("masked", f"{n_masked} pixels, {100 * n_masked / image.image.size:.3f} %")
    tell("seconds", f"{read - began:.2f} reading, {computed - read:.2f} computing")
    tell("wrote", ", ".join(outputs))


class _Difference:
    """A difference from a file as the search takes it."""

    def __init__(self, path: str, device: str) -> None:
        from . import backend
        from .fits import read_difference
        from .streak_config import BAD_PLANES, FLAGGED_PLANES

        self.path = path
        self.image = image = read_difference(path, device=device)
        xp = backend.array_module(image.image)
        with backend.using(image.image):
            self.has_noise = bool(xp.isfinite(image.variance).any())
            variance = image.variance if self.has_noise else xp.ones_like(image.image)
            bits = (image.schema.known_bitmask(names) for names in (BAD_PLANES, FLAGGED_PLANES))
            bad, self.flagged = ((image.mask & bit) != 0 for bit in bits)
        self.planes = (image.image, variance, bad)


def _is_one(path: str, other: str) -> bool:
    """Whether two names are one file: a difference has no vote on itself."""
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def _other(path: str, first: _Difference, device: str) -> _Difference:
    """Another epoch, on the same pixels."""
    other = _Difference(path, device)
    grids = [(each.image.shape, each.image.origin) for each in (other, first)]
    if grids[0] != grids[1]:
        (shape, origin), (wanted, start) = grids
        raise UsageError(
            f"{path} is {shape} at origin {origin} but {first.path} is {wanted} at {start}; differences must share one "
            "pixel grid"
        )
    return other


def _psf_sigma(args: argparse.Namespace) -> float:
    """Width of the PSF in pixels, as typed or as the file tells it."""
    from .fits import find_psf_sigma
    from .psf import FWHM_PER_SIGMA

    if args.psf_fwhm is not None:
        return float(args.psf_fwhm) / FWHM_PER_SIGMA
    sigma = find_psf_sigma(args.difference)
    if math.isnan(sigma):
        raise UsageError(f"{args.difference} does not tell how wide its PSF is; give --psf-fwhm, in pixels")
    return sigma


def _lines(found: Streaks) -> Iterator[str]:
    """Each line in words."""
    for number in range(len(found)):
        (y0, x0), (y1, x1) = found.ends[number]
        kind = "trail" if found.sign[number] > 0 else "dark line"
        kind = "persistent" if found.persistent[number] else "suspect" if found.suspect[number] else kind
        yield (
            f"{kind}: (y, x) from ({round(y0)}, {round(x0)}) to ({round(y1)}, {round(x1)}), "
            f"width {found.width[number]:.1f}, {found.amplitude[number]:.2f} sigma per pixel, z {found.z[number]:.1f}"
        )
