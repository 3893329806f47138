"""
The commands `gpucoadd coadd`, `demo`, `lsst-demo`, `view`, `bench`, `info`: what each does once its words are parsed.

Why the imports are inside functions: `gpucoadd --help` and a wrong option should answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from .arguments import UsageError, check_positive, parse_memory, read_ids, read_options
from .outputs import Staging, check_outputs, file_name
from .terminal import progress_bars, tell


def run_coadd(args: argparse.Namespace) -> None:
    """`gpucoadd coadd`: read, coadd, write, and say what happened."""
    files = [name for name in (args.out, args.save_count_image, args.input_map) if name is not None]
    lists = [name for name in (args.epochs, args.flux_factors, args.bright_objects, args.detectors) if name is not None]
    check_outputs(files, args.artifact_masks, inputs=[*args.warps, *(args.psf_matched or ()), *lists])
    if (args.input_map is None) != (args.detectors is None):
        raise UsageError("--input-map FILE needs --detectors FILE, and the other way round")
    if args.skip_missing_epochs and args.epochs is None:
        raise UsageError("--skip-missing-epochs is about --epochs, which is not given")
    memory = None if args.memory is None else parse_memory(args.memory)
    check_positive({"--threads": args.threads, "--psf-fwhm": args.psf_fwhm})

    import gpucoadd

    from . import backend

    options = read_options(args.config, args.options)
    config = gpucoadd.CoaddConfig.from_names(options)
    if not config.finds_streaks and any(name.startswith("streaks.") for name in options if name != "streaks.enabled"):
        raise UsageError("there are options of streaks, but no trails are searched for; add -c streaks.enabled=true")
    if config.stacking.select_epochs and args.epochs is None:
        raise UsageError("select_epochs (doSelectVisits) is on but no list of epochs is given; give --epochs")
    kind, number = backend.resolve_device(args.device)
    device = kind if kind == "cpu" else f"{kind}:{number}"
    warps = gpucoadd.read_warps(args.warps, psf_matched=args.psf_matched, device=device, psf_fwhm=args.psf_fwhm)
    warps = _chosen(warps, args)
    settings: dict[str, Any] = {"config": config, "memory": memory, "threads": args.threads}
    settings.update(bright_objects=args.bright_objects, detectors=args.detectors)
    read_before, began = _seconds_reading(warps), time.perf_counter()
    with progress_bars() as progress:
        if progress is not None:
            settings["progress"] = progress
        result = gpucoadd.coadd(warps, **settings)
    computed = time.perf_counter()
    n_clipped = _write_coadd(result, args)
    written = time.perf_counter()
    reading = _seconds_reading(warps)

    n_all = warps.shape[0]
    n_pixels = len(result.epochs) * result.image.size
    tell("device", f"{device} ({twin_name(kind)})")
    tell("epochs", f"{len(result.epochs)} of {n_all} kept")
    tell("clipped", f"{n_clipped} pixels, {100 * n_clipped / n_pixels:.3f} % of those in the epochs kept")
    if config.finds_streaks:
        found = [int(lines.is_trail.sum()) for lines in result.lines if lines is not None]
        tell("trails", f"{sum(found)} in {sum(map(bool, found))} of {len(result.epochs)} epochs")
    computing = max(0.0, computed - began - (reading - read_before))
    tell("seconds", f"{reading:.2f} reading, {computing:.2f} computing, {written - computed:.2f} writing")
    tell("wrote", ", ".join(str(name) for name in (*files, args.artifact_masks) if name is not None))


def _chosen(warps: Any, args: argparse.Namespace) -> Any:
    """The stack with the epochs and fluxes that were asked for."""
    from .tables import as_known, in_unit, read_table, scalars

    if args.epochs is not None:
        missing = "ignore" if args.skip_missing_epochs else "error"
        warps = warps.select(as_known(read_ids(args.epochs), warps.epochs), missing=missing)
    if args.flux_factors is not None:
        table = read_table(args.flux_factors, "--flux-factors", ("epoch", "factor"))
        ids = as_known(scalars(table, "epoch"), warps.epochs)
        if len(set(ids)) < len(ids):
            twice = next(epoch for epoch in ids if ids.count(epoch) > 1)
            raise UsageError(f"{args.flux_factors} has more than one factor for epoch {twice!r}; give one")
        warps = warps.scaled(dict(zip(ids, in_unit(table, "factor", ""), strict=True)))
    return warps


def _write_coadd(result: Any, args: argparse.Namespace) -> int:
    """Write everything, then move all of it into place; the number of clipped pixels."""
    import numpy as np

    from . import backend, fits
    from .input_map import write_input_map

    grid = {"origin": result.origin, "wcs": result.wcs, "provenance": result.provenance}
    artifacts = result.artifacts
    schema = result.schema if "streak" not in artifacts.bits else result.schema.with_planes("STREAK")
    n_clipped = 0
    with Staging() as staging:
        result.write(staging.place(args.out))
        if args.save_count_image is not None:
            fits.write_array(staging.place(args.save_count_image), artifacts.epoch_count, extname="EPOCH_COUNT", **grid)
        if args.input_map is not None:
            write_input_map(staging.place(args.input_map), result.input_map)
        for position, epoch in enumerate(artifacts.epochs):
            clipped = backend.to_host(artifacts.plane("clipped", position))
            n_clipped += int(np.count_nonzero(clipped))
            if args.artifact_masks is not None:
                path = staging.place(Path(args.artifact_masks) / f"{file_name(epoch)}.fits")
                mask = clipped * np.int32(schema.bitmask("CLIPPED"))
                if "streak" in artifacts.bits:
                    mask |= backend.to_host(artifacts.plane("streak", position)) * np.int32(schema.bitmask("STREAK"))
                fits.write_mask(path, mask, schema=schema, **grid)
    return n_clipped


def run_demo(args: argparse.Namespace) -> None:
    """`gpucoadd demo`: the whole package on a simulated sky."""
    check_outputs([], args.out, inputs=[])
    from . import demo

    demo.run_demo(args.out, seed=args.seed, n_epochs=args.epochs, size=args.size)


def run_lsst_demo(args: argparse.Namespace) -> None:
    """`gpucoadd lsst-demo`: a repository, `pipetask run`, and what came out."""
    check_positive({f"--{name}": getattr(args, name) for name in ("visits", "patches", "bands", "processes")})
    _check_seed(args.seed)
    check_outputs([], args.folder, inputs=[])
    from .lsst import demo
    from .simulate import LEAST_SIZE

    if args.bands > len(demo.BANDS):
        raise UsageError(f"--bands must be 1 to {len(demo.BANDS)}, got {args.bands}")
    if args.size < LEAST_SIZE:
        raise UsageError(f"--size must be at least {LEAST_SIZE}, got {args.size}")

    demo.run_demo(
        args.folder,
        n_visits=args.visits,
        n_patches=args.patches,
        n_bands=args.bands,
        size=args.size,
        seed=args.seed,
        processes=args.processes,
    )


def run_view(args: argparse.Namespace) -> None:
    """`gpucoadd view`: a picture of a file."""
    if not args.out.lower().endswith(".png"):
        raise UsageError(f"the picture is a PNG; give a name that ends with .png, got {args.out}")
    check_outputs([args.out], None, inputs=[args.file])
    from . import pictures

    with Staging() as staging:
        pictures.view(args.file, staging.place(args.out))
    tell("wrote", args.out)


def run_bench(args: argparse.Namespace) -> None:
    """`gpucoadd bench`: a table of every step's throughput, and the same as JSON."""
    check_positive({f"--{name}": getattr(args, name) for name in ("size", "epochs", "repeats", "threads")})
    _check_seed(args.seed)
    check_outputs([args.json] if args.json else [], None, inputs=[])
    from . import benchmarking

    benchmarking.run(
        device=args.device,
        size=args.size,
        n_epochs=args.epochs,
        repeats=args.repeats,
        seed=args.seed,
        threads=args.threads,
        steps=args.steps,
        say=lambda line: print(line, flush=True),
        keep=(lambda document: benchmarking.save(document, args.json)) if args.json else lambda document: None,
    )
    if args.json:
        tell("wrote", args.json)


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise UsageError(f"--seed must be 0 or more, got {seed}")


def run_info(args: argparse.Namespace) -> None:
    """`gpucoadd info`: versions, device, and which twin runs."""
    import platform

    from . import backend

    tell("gpucoadd", version("gpucoadd"))
    tell("python", f"{platform.python_version()} on {platform.platform()}")
    for package in ("numpy", "scipy", "astropy"):
        tell(package, version(package))
    for name, value in backend.describe():
        tell(name, value)
    tell("processors", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))
    with contextlib.suppress(AttributeError, OSError, ValueError):
        tell("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB")
    tell("twin", twin_name("cuda" if backend.has_device() else "cpu"))


def twin_name(kind: str) -> str:
    """What computes on a device of that kind."""
    return "gpucoadd.fallback, NumPy" if kind == "cpu" else "gpucoadd.kernels, CuPy"


def version(package: str) -> str:
    """Version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _seconds_reading(warps: Any) -> float:
    stacks = [stack for stack in (warps, warps.psf_matched) if stack is not None]
    return sum(getattr(stack.source, "seconds_reading", 0.0) for stack in stacks)
