"""
The command line: `gpucoadd coadd`, `decorrelate`, `streaks`, `demo`, `lsst-demo`, `view`, `bench`, `info`.

It calls the public functions and adds three things: outputs appear together when everything is done and not at all
when something failed; messages are single lines; and the exit code tells whose error it was (2 the user's, 1 ours).
What each command does is in `commands`, `decorrelating` and `streak_command`.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from .arguments import UsageError
from .commands import run_bench, run_coadd, run_demo, run_info, run_lsst_demo, run_view, version
from .decorrelating import run_decorrelate
from .streak_command import run_streaks
from .terminal import is_users, message_of, one_line_messages, say

_DONE, _OURS, _YOURS, _INTERRUPTED = 0, 1, 2, 130
_DESCRIPTION = (
    "Coadd warped exposures and reject artifacts; find satellite trails; whiten the noise of image differences."
)


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
    parser = _Parser(prog="gpucoadd", description=_DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"gpucoadd {version('gpucoadd')}")
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
    coadd.add_argument(
        "--artifact-masks",
        metavar="DIR",
        help="write one mask per epoch, <epoch>.fits, planes CLIPPED and, where trails are searched for, STREAK",
    )
    coadd.add_argument("--save-count-image", metavar="FILE", help="write in how many epochs each pixel stood out")
    coadd.add_argument("--epochs", metavar="IDS", help="only these, in this order: 12,15,7, or a file of one id a line")
    coadd.add_argument(
        "--skip-missing-epochs", action="store_true", help="leave out ids of --epochs that have no warp, as LSST does"
    )
    words = "table (epoch, factor): images are multiplied by the factor, variances by its square"
    coadd.add_argument("--flux-factors", metavar="FILE", help=words)
    words = "catalogue (type, ra, dec, radius, width, height) of what to mask on the coadd"
    coadd.add_argument("--bright-objects", metavar="FILE", help=words)
    coadd.add_argument("--detectors", metavar="FILE", help="outlines (epoch, detector, ra, dec), for --input-map")
    coadd.add_argument("--input-map", metavar="FILE", help="write which detectors went where, a healsparse map")
    words = "such as 4G or 512MiB; half of the host's, or 80 %% of what is free on the device, when left out"
    coadd.add_argument("--memory", metavar="SIZE", help=words)
    coadd.add_argument("--psf-fwhm", type=float, metavar="PIXELS", help="FWHM, where the files do not tell it")
    _add_options_and_machine(coadd)

    text = "whiten the noise of an image difference; existing output files are replaced"
    _add_decorrelate_words(command("decorrelate", run_decorrelate, text))

    text = "find satellite trails in an image difference; existing output files are replaced"
    _add_streaks_words(command("streaks", run_streaks, text))

    demo = command("demo", run_demo, "simulate a sky and a difference, coadd, decorrelate, report what was found")
    demo.add_argument("--out", default="demo", metavar="DIR", help="folder for the result (default: demo)")
    demo.add_argument("--seed", type=int, default=1, help="another seed, another sky (default: 1)")
    demo.add_argument("--epochs", type=int, default=12, metavar="N", help="number of warps (default: 12)")
    demo.add_argument("--size", type=int, default=512, metavar="PIXELS", help="side of the sky (default: 512)")

    text = "make a Butler repository with simulated warps and run the pipeline in Rubin's engine"
    _add_lsst_demo_words(command("lsst-demo", run_lsst_demo, text))

    view = command("view", run_view, "picture of a FITS image")
    view.add_argument("file", metavar="FILE", help="a FITS file that gpucoadd reads")
    view.add_argument("-o", "--out", required=True, metavar="PNG", help="the picture; replaced if there")

    _add_bench_words(command("bench", run_bench, "how fast each step is on this machine, next to a plain copy"))

    command("info", run_info, "versions, device, and which twin runs")
    return parser


def _add_options_and_machine(parser: argparse.ArgumentParser) -> None:
    """What a command that computes takes besides its images."""
    parser.add_argument("--config", metavar="FILE", help="TOML file of options, LSST's dotted names or ours")
    parser.add_argument(
        "-c", dest="options", action="append", default=[], metavar="NAME=VALUE", help="one option; wins over --config"
    )
    _add_machine(parser)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, metavar="N", help="one per processor when left out")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda or cuda:1")


def _add_lsst_demo_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="made if it is not there; must be empty")
    parser.add_argument("--visits", type=int, default=6, metavar="N", help="per band (default: 6)")
    parser.add_argument("--patches", type=int, default=4, metavar="N", help="of one tract (default: 4)")
    parser.add_argument("--bands", type=int, default=2, metavar="N", help="1 to 6 (default: 2)")
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="side of a patch (default: 256)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, another sky (default: 1)")
    parser.add_argument("-j", "--processes", type=int, default=1, metavar="N", help="of pipetask (default: 1)")


def _add_bench_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=2048, metavar="PIXELS", help="side of the images (default: 2048)")
    parser.add_argument("--epochs", type=int, default=12, metavar="N", help="of the stack (default: 12)")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed calls (default: 3; 10 on a GPU)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same pixels (default: 1)")
    parser.add_argument("--steps", metavar="A,B", help="only these, such as coadd,find-artifacts")
    parser.add_argument("--json", metavar="FILE", help="write what was measured; replaced if there")
    _add_machine(parser)


def _add_streaks_words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "difference", metavar="DIFFERENCE", help="FITS file; its noise and its mask are used where it has them"
    )
    words = "mask with plane STREAK: all lines, dark and suspect ones too, but those of --others; replaced if there"
    parser.add_argument("-o", "--out", required=True, metavar="MASK", help=words)
    parser.add_argument("--table", metavar="ECSV", help="write the lines with what was measured on them")
    parser.add_argument(
        "--others",
        nargs="+",
        default=[],
        metavar="DIFFERENCE",
        help="after DIFFERENCE: those of other epochs on the same pixels; lines that they have, too, are not masked",
    )
    parser.add_argument("--psf-fwhm", type=float, metavar="PIXELS", help="FWHM, where the file does not tell it")
    parser.add_argument("--config", metavar="FILE", help="TOML file of options, those of StreakConfig")
    parser.add_argument(
        "-c", dest="options", action="append", default=[], metavar="NAME=VALUE", help="one option; wins over --config"
    )
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto (default), cpu, cuda or cuda:1")


def _add_decorrelate_words(parser: argparse.ArgumentParser) -> None:
    images = parser.add_argument_group("images")
    images.add_argument("--science", required=True, metavar="S", help="FITS file with image, variance and mask")
    images.add_argument("--template", required=True, metavar="T", help="the same, warped to it but not matched")
    images.add_argument(
        "--difference", required=True, metavar="D", help="their difference; its variance and mask may be missing"
    )
    images.add_argument(
        "--kernel",
        required=True,
        metavar="K",
        help="the matching kernel: the image HDU KERNEL or the first one, or HDUs KERNEL_BASIS and "
        "KERNEL_COEFFICIENTS as gpucoadd.fits.write_kernel makes them",
    )
    images.add_argument("-o", "--out", required=True, metavar="OUT", help="the result, a FITS file; replaced if there")
    for image in ("science", "template"):
        words = f"PSF stamp of the {image} image; if it is needed and left out, the image HDU PSF of its file is taken"
        images.add_argument(f"--{image}-psf", metavar="FILE", help=words)

    how = parser.add_argument_group("how the images were made")
    how.add_argument("--science-convolved", action="store_true", help="the kernel convolved the science image")
    how.add_argument("--score", action="store_true", help="D is a pre-convolved difference; make a score image")
    how.add_argument(
        "--preconvolution-kernel", metavar="FILE", help="with --score; the science PSF when left out (HDU KERNEL)"
    )
    how.add_argument("--even-kernel", action="store_true", help="take kernels of even sides, whose origin is n//2")
    how.add_argument(
        "--position",
        nargs=2,
        type=float,
        metavar=("Y", "X"),
        help="where to take a kernel that varies, in parent pixels; the middle of D when left out",
    )
    for image in ("science", "template"):
        words = f"mean variance of the {image} image; measured when left out"
        how.add_argument(f"--{image}-variance", type=float, metavar="V", help=words)
    how.add_argument("--ignore-planes", metavar="A,B", help="mask planes whose pixels do not count in these means")

    what = parser.add_argument_group("what to do")
    what.add_argument(
        "--cells", action="store_true", help="cell by cell; also switched on by -c cells.cell_size=... and its like"
    )
    what.add_argument("--psf-fwhm", type=float, metavar="PIXELS", help="the unit of the cells' sizes")
    what.add_argument("--save-cells", metavar="PNG", help="draw the boxes of the cells")
    what.add_argument("--complete-variance", action="store_true", help="convolve the variance planes; slower")
    what.add_argument("--precision", choices=("double", "single"), help="of the Fourier transforms (default: double)")
    what.add_argument("--edge", choices=("zero", "reflect"), help="what lies beyond the edges (default: zero)")
    _add_options_and_machine(parser)
