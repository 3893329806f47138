"""
The command line: `gpucoadd coadd`, `demo`, `view`, `info`.

It calls the public functions and adds three things: outputs appear together when everything is done and not at all
when something failed; messages are single lines; and the exit code tells whose error it was (2 the user's, 1 ours).

Why the imports are inside functions: `gpucoadd --help` and a wrong option should answer at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from .arguments import UsageError, parse_memory, read_options
from .outputs import Staging, check_outputs, file_name
from .terminal import is_users, message_of, one_line_messages, progress_bars, say, tell

_DONE, _OURS, _YOURS, _INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Parser whose errors are one line and an exception, so that `main` alone prints and exits."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name; those of the process when left out.

    Returns
    -------
    int
        Exit code: 0 done, 2 the user's error, 1 ours, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = "--verbose" in arguments
    try:
        args = _parser().parse_args(arguments)
        with one_line_messages(verbose=args.verbose):
            args.run(args)
        return _DONE
    except KeyboardInterrupt:
        say("interrupted")
        return _INTERRUPTED
    except Exception as error:
        if verbose:
            traceback.print_exc()
        if is_users(error):
            say(f"error: {message_of(error)}")
            return _YOURS
        hint = "" if verbose else "; --verbose shows where"
        say(f"internal error: {type(error).__name__}: {message_of(error)}{hint}")
        return _OURS


# ------------------------------------------------------------------------------------------------ what can be typed


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gpucoadd", description="Coadd warped exposures and reject artifacts.")
    parser.add_argument("--version", action="version", version=f"gpucoadd {_version('gpucoadd')}")
    common = _Parser(add_help=False)
    common.add_argument("--verbose", action="store_true", help="say more, and show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common])
        made.set_defaults(run=run)
        return made

    coadd = command("coadd", run_coadd, "coadd warps, rejecting artifacts; existing output files are replaced")
    coadd.add_argument("warps", nargs="+", metavar="WARPS", help="FITS files, or folders of them")
    coadd.add_argument("--psf-matched", nargs="+", metavar="WARPS", help="their PSF-matched twins, paired by epoch id")
    coadd.add_argument("-o", "--out", required=True, metavar="OUT", help="the coadd, a FITS file; replaced if there")
    coadd.add_argument("--config", metavar="FILE", help="TOML file of options, LSST's dotted names or ours")
    coadd.add_argument(
        "-c", dest="options", action="append", default=[], metavar="NAME=VALUE", help="one option; wins over --config"
    )
    coadd.add_argument("--artifact-masks", metavar="DIR", help="write one mask per epoch, <epoch>.fits, plane CLIPPED")
    coadd.add_argument("--save-count-image", metavar="FILE", help="write in how many epochs each pixel stood out")
    coadd.add_argument("--memory", metavar="SIZE", help="such as 4G or 512MiB; half of the machine's when left out")
    coadd.add_argument("--threads", type=int, metavar="N", help="one per processor when left out")
    coadd.add_argument("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda or cuda:1")
    coadd.add_argument("--psf-fwhm", type=float, metavar="PIXELS", help="where the files do not tell it")

    demo = command("demo", run_demo, "simulate a sky with planted artifacts, coadd it, and report what was found")
    demo.add_argument("--out", default="demo", metavar="DIR", help="folder for the result (default: demo)")
    demo.add_argument("--seed", type=int, default=1, help="another seed, another sky (default: 1)")
    demo.add_argument("--epochs", type=int, default=12, metavar="N", help="number of warps (default: 12)")
    demo.add_argument("--size", type=int, default=512, metavar="PIXELS", help="side of the sky (default: 512)")

    view = command("view", run_view, "picture of a FITS image")
    view.add_argument("file", metavar="FILE", help="a FITS file that gpucoadd reads")
    view.add_argument("-o", "--out", required=True, metavar="PNG", help="the picture; replaced if there")

    command("info", run_info, "versions, device, and which twin runs")
    return parser


# ------------------------------------------------------------------------------------------------ the commands


def run_coadd(args: argparse.Namespace) -> None:
    """`gpucoadd coadd`: read, coadd, write, and say what happened."""
    files = [name for name in (args.out, args.save_count_image) if name is not None]
    check_outputs(files, args.artifact_masks, inputs=[*args.warps, *(args.psf_matched or ())])
    memory = None if args.memory is None else parse_memory(args.memory)
    for name, value in (("--threads", args.threads), ("--psf-fwhm", args.psf_fwhm)):
        if value is not None and not value > 0:
            raise UsageError(f"{name} must be positive, got {value}")

    import gpucoadd

    from . import backend

    config = gpucoadd.CoaddConfig.from_names(read_options(args.config, args.options))
    kind, number = backend.resolve_device(args.device)
    device = kind if kind == "cpu" else f"{kind}:{number}"
    warps = gpucoadd.read_warps(args.warps, psf_matched=args.psf_matched, device=device, psf_fwhm=args.psf_fwhm)
    settings: dict[str, Any] = {"config": config, "memory": memory, "threads": args.threads}
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
    tell("device", f"{device} ({_twin_name(kind)})")
    tell("epochs", f"{len(result.epochs)} of {n_all} kept")
    tell("clipped", f"{n_clipped} pixels, {100 * n_clipped / n_pixels:.3f} % of those in the epochs kept")
    computing = max(0.0, computed - began - (reading - read_before))
    tell("seconds", f"{reading:.2f} reading, {computing:.2f} computing, {written - computed:.2f} writing")
    tell("wrote", ", ".join(str(name) for name in (*files, args.artifact_masks) if name is not None))


def _write_coadd(result: Any, args: argparse.Namespace) -> int:
    """Write everything, then move all of it into place; the number of clipped pixels."""
    import numpy as np

    from . import backend, fits

    grid = {"origin": result.origin, "wcs": result.wcs, "provenance": result.provenance}
    artifacts = result.artifacts
    bit = np.int32(result.schema.bitmask("CLIPPED"))
    n_clipped = 0
    with Staging() as staging:
        result.write(staging.place(args.out))
        if args.save_count_image is not None:
            fits.write_array(staging.place(args.save_count_image), artifacts.epoch_count, extname="EPOCH_COUNT", **grid)
        for position, epoch in enumerate(artifacts.epochs):
            clipped = backend.to_host(artifacts.plane("clipped", position))
            n_clipped += int(np.count_nonzero(clipped))
            if args.artifact_masks is not None:
                path = staging.place(Path(args.artifact_masks) / f"{file_name(epoch)}.fits")
                fits.write_mask(path, np.where(clipped, bit, np.int32(0)), schema=result.schema, **grid)
    return n_clipped


def run_demo(args: argparse.Namespace) -> None:
    """`gpucoadd demo`: the whole package on a simulated sky."""
    check_outputs([], args.out, inputs=[])
    from . import demo

    demo.run_demo(args.out, seed=args.seed, n_epochs=args.epochs, size=args.size)


def run_view(args: argparse.Namespace) -> None:
    """`gpucoadd view`: a picture of a file."""
    if not args.out.lower().endswith(".png"):
        raise UsageError(f"the picture is a PNG; give a name that ends with .png, got {args.out}")
    check_outputs([args.out], None, inputs=[args.file])
    from . import pictures

    with Staging() as staging:
        pictures.view(args.file, staging.place(args.out))
    tell("wrote", args.out)


def run_info(args: argparse.Namespace) -> None:
    """`gpucoadd info`: versions, device, and which twin runs."""
    import platform

    from . import backend

    tell("gpucoadd", _version("gpucoadd"))
    tell("python", f"{platform.python_version()} on {platform.platform()}")
    for package in ("numpy", "scipy", "astropy"):
        tell(package, _version(package))
    for name, value in backend.describe():
        tell(name, value)
    tell("processors", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))
    with contextlib.suppress(AttributeError, OSError, ValueError):
        tell("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB")
    tell("twin", _twin_name("cuda" if backend.has_device() else "cpu"))


def _twin_name(kind: str) -> str:
    return "gpucoadd.fallback, NumPy" if kind == "cpu" else "gpucoadd.kernels, CuPy"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _seconds_reading(warps: Any) -> float:
    stacks = [stack for stack in (warps, warps.psf_matched) if stack is not None]
    return sum(getattr(stack.source, "seconds_reading", 0.0) for stack in stacks)
