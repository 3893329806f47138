"""The command `gpucoadd decorrelate`: files in, `decorrelate` called, and what came of it said."""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .arguments import UsageError, check_positive, read_options
from .outputs import Staging, check_outputs
from .terminal import tell

if TYPE_CHECKING:
    from .decorrelation import Decorrelated
    from .decorrelation_config import DecorrelationConfig
    from .images import MaskedImage

_INPUTS = (
    "science",
    "template",
    "difference",
    "kernel",
    "preconvolution_kernel",
    "science_psf",
    "template_psf",
    "config",
)
_KERNEL_NAMES = ("KERNEL", "PSF")  # of a pre-convolution kernel, which may be a file of the PSF


def run_decorrelate(args: argparse.Namespace) -> None:
    """`gpucoadd decorrelate`: read, decorrelate, write, and say what happened."""
    _check_words(args)
    outputs = [name for name in (args.out, args.save_cells) if name is not None]
    check_outputs(outputs, None, inputs=[file for _, file in _inputs(args)])
    config = _config(args)

    from . import backend
    from .cell_pictures import draw_boxes
    from .decorrelation import decorrelate

    kind, number = backend.resolve_device(args.device)
    device = kind if kind == "cpu" else f"{kind}:{number}"
    began = time.perf_counter()
    given = _read(args, device)
    read = time.perf_counter()
    result = decorrelate(**given, **_choices(args), config=config, threads=args.threads)
    backend.to_host(result.image[:1])  # waits for the device, so that its time is counted here
    computed = time.perf_counter()
    with Staging() as staging:
        result.write(staging.place(args.out), inputs=_inputs(args))
        if args.save_cells is not None and result.cells is not None:
            boxes = result.cells.inner, result.cells.expanded
            draw_boxes(staging.place(args.save_cells), *boxes, result.image.shape, origin=result.origin)
    written = time.perf_counter()

    tell("device", f"{device} ({'NumPy' if kind == 'cpu' else 'CuPy'})")
    for name, text in _facts(given["difference"], result, args):
        tell(name, text)
    tell("seconds", f"{read - began:.2f} reading, {computed - read:.2f} computing, {written - computed:.2f} writing")
    tell("wrote", ", ".join(outputs))


def _inputs(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Name and file of every input."""
    return [(name, getattr(args, name)) for name in _INPUTS if getattr(args, name) is not None]


def _check_words(args: argparse.Namespace) -> None:
    """Raise UsageError for what no file is needed to see."""
    check_positive({"--threads": args.threads, "--psf-fwhm": args.psf_fwhm})
    for name, value in (
        ("--science-variance", args.science_variance),
        ("--template-variance", args.template_variance),
    ):
        if value is not None and not 0 <= value < math.inf:
            raise UsageError(f"{name} must be a number that is not negative, got {value}")
    if args.position is not None and not all(map(math.isfinite, args.position)):
        raise UsageError(f"--position must be two finite numbers, got {args.position[0]} {args.position[1]}")
    if args.preconvolution_kernel is not None and not args.score:
        raise UsageError("--preconvolution-kernel goes with --score only; leave it out, or make a score image")
    if args.save_cells is not None and not args.save_cells.lower().endswith(".png"):
        raise UsageError(f"the picture is a PNG; give a name that ends with .png, got {args.save_cells}")


def _config(args: argparse.Namespace) -> DecorrelationConfig:
    """Options of --config and -c, and over them those with a flag of their own."""
    from .decorrelation_config import DecorrelationConfig

    options = read_options(args.config, args.options, tables=(), example="cells.cell_size=60")
    config = DecorrelationConfig.from_names(options, cells=args.cells or None)
    flags: dict[str, Any] = {
        "ignore_planes": _planes(args),
        "complete_variance": args.complete_variance or None,
        "precision": args.precision,
        "edge": args.edge,
    }
    if args.save_cells is not None and config.cells is None:
        raise UsageError("--save-cells draws the cells of --cells; give both, or neither")
    return dataclasses.replace(config, **{name: value for name, value in flags.items() if value is not None})


def _planes(args: argparse.Namespace) -> tuple[str, ...] | None:
    if args.ignore_planes is None:
        return None
    return tuple(name.strip() for name in args.ignore_planes.split(",") if name.strip())


def _choices(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments that are no pixels."""
    return {
        "template_matched": not args.science_convolved,
        "score": args.score,
        "position": None if args.position is None else tuple(args.position),
        "science_variance": args.science_variance,
        "template_variance": args.template_variance,
        "psf_fwhm": args.psf_fwhm,
    }


# ------------------------------------------------------------------------------------------------ files


def _read(args: argparse.Namespace, device: str) -> dict[str, Any]:
    """Images, kernels and PSFs by the name of their argument."""
    from . import fits

    stamps: dict[str, Any] = {"kernel": _checked(args.kernel, fits.read_kernel(args.kernel), even=args.even_kernel)}
    unconvolved = "template" if args.science_convolved else "science"
    for image in ("science", "template"):
        file = getattr(args, f"{image}_psf")
        if file is not None:
            stamps[f"{image}_psf"] = fits.read_stamp(file, "PSF")
        elif image == unconvolved and (stamp := fits.find_stamp(getattr(args, image), "PSF")) is not None:
            stamps[f"{image}_psf"] = stamp
    if args.preconvolution_kernel is not None:
        stamp = fits.read_stamp(args.preconvolution_kernel, *_KERNEL_NAMES)
        stamps["preconvolution_kernel"] = _checked(args.preconvolution_kernel, stamp, even=args.even_kernel)
    elif args.score and "science_psf" not in stamps:
        raise UsageError(
            f"--score needs the kernel that pre-convolved the science image, and {args.science} has no HDU PSF; "
            "give --preconvolution-kernel or --science-psf"
        )
    return {
        "science": fits.read_image(args.science, device=device),
        "template": fits.read_image(args.template, device=device),
        "difference": fits.read_difference(args.difference, device=device),
        **stamps,
    }


def _checked(path: str, kernel: Any, *, even: bool) -> Any:
    """`kernel`, or UsageError if it has no centre pixel, which in a file is nearly always a mistake."""
    if not even and not all(side % 2 for side in kernel.shape):
        raise UsageError(
            f"{path}: kernel has shape {tuple(kernel.shape)}; both sides must be odd so that it has a centre pixel; "
            "--even-kernel takes element n//2 as its origin"
        )
    return kernel


# ------------------------------------------------------------------------------------------------ what is said


def _facts(difference: MaskedImage, result: Decorrelated, args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """What was done, in words."""
    what = f"{'score' if args.score else 'difference'}, {'science' if args.science_convolved else 'template'} convolved"
    if result.cells is not None:
        yield "mode", f"{what}, {len(result.cells.inner)} cells"
        science, template = map(_middle, (result.cells.science_variance, result.cells.template_variance))
        yield "variance", f"science {science:.6g}, template {template:.6g} (medians of the cells)"
    elif result.fft_shape is None:
        yield "mode", f"{what}, not corrected"
        return
    else:
        yield "mode", f"{what}, whole image"
        yield "variance", f"science {result.science_variance:.6g}, template {result.template_variance:.6g}"
    if not args.score:  # a score image is correlated by design
        yield "correlation", _correlations(difference, result)


def _middle(values: Any) -> float:
    """Median of those that are numbers; NaN when none is."""
    import numpy as np

    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan


def _correlations(difference: MaskedImage, result: Decorrelated) -> str:
    """Correlation of neighbours before and after, on the pixels that count."""
    from .backend import using
    from .noise import noise_statistics

    try:
        with using(difference.mask):
            ignored = difference.mask & difference.schema.known_bitmask(result.config.ignore_planes)
        before, after = (noise_statistics(image, ignored, max_lag=1).lag1 for image in (difference.image, result.image))
    except ValueError as error:  # no pixel is left, or the image is one row
        return f"not measured: {error}"
    return f"{before:+.4f} -> {after:+.4f} between neighbours"
