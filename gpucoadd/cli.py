"""
The command line: `gpucoadd coadd`, `demo`, `view`, `info`.

It calls the public functions and adds three things: outputs appear together when everything is done and not at all
when something failed; messages are single lines; and the exit code tells whose error it was (2 the user's, 1 ours).

Why the imports are inside functions: `gpucoadd --help` and a wrong option should answer at once.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dis
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

Progress = Callable[[str, int, int], None]

_DONE, _OURS, _YOURS, _INTERRUPTED = 0, 1, 2, 130
_CUPY_PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "cupy")


class UsageError(ValueError):
    """The command line itself is wrong."""


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
        with _one_line_messages(verbose=args.verbose):
            args.run(args)
        return _DONE
    except KeyboardInterrupt:
        _say("interrupted")
        return _INTERRUPTED
    except Exception as error:
        if verbose:
            traceback.print_exc()
        if _is_users(error):
            _say(f"error: {_text(error)}")
            return _YOURS
        hint = "" if verbose else "; --verbose shows where"
        _say(f"internal error: {type(error).__name__}: {_text(error)}{hint}")
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
    _check_outputs(files, args.artifact_masks, inputs=[*args.warps, *(args.psf_matched or ())])
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
    with _progress_bars() as progress:
        if progress is not None:
            settings["progress"] = progress
        result = gpucoadd.coadd(warps, **settings)
    computed = time.perf_counter()
    n_clipped = _write_coadd(result, args)
    written = time.perf_counter()
    reading = _seconds_reading(warps)

    n_all = warps.shape[0]
    n_pixels = len(result.epochs) * result.image.size
    _tell("device", f"{device} ({_twin_name(kind)})")
    _tell("epochs", f"{len(result.epochs)} of {n_all} kept")
    _tell("clipped", f"{n_clipped} pixels, {100 * n_clipped / n_pixels:.3f} % of those in the epochs kept")
    computing = max(0.0, computed - began - (reading - read_before))
    _tell("seconds", f"{reading:.2f} reading, {computing:.2f} computing, {written - computed:.2f} writing")
    _tell("wrote", ", ".join(str(name) for name in (*files, args.artifact_masks) if name is not None))


def _write_coadd(result: Any, args: argparse.Namespace) -> int:
    """Write everything, then move all of it into place; the number of clipped pixels."""
    import numpy as np

    from . import backend, fits

    grid = {"origin": result.origin, "wcs": result.wcs, "provenance": result.provenance}
    artifacts = result.artifacts
    bit = np.int32(result.schema.bitmask("CLIPPED"))
    n_clipped = 0
    with _Staging() as staging:
        result.write(staging.place(args.out))
        if args.save_count_image is not None:
            fits.write_array(staging.place(args.save_count_image), artifacts.epoch_count, extname="EPOCH_COUNT", **grid)
        for position, epoch in enumerate(artifacts.epochs):
            clipped = backend.to_host(artifacts.plane("clipped", position))
            n_clipped += int(np.count_nonzero(clipped))
            if args.artifact_masks is not None:
                path = staging.place(Path(args.artifact_masks) / f"{_file_name(epoch)}.fits")
                fits.write_mask(path, np.where(clipped, bit, np.int32(0)), schema=result.schema, **grid)
    return n_clipped


def run_demo(args: argparse.Namespace) -> None:
    """`gpucoadd demo`: the whole package on a simulated sky."""
    _check_outputs([], args.out, inputs=[])
    from . import demo

    demo.run_demo(args.out, seed=args.seed, n_epochs=args.epochs, size=args.size)


def run_view(args: argparse.Namespace) -> None:
    """`gpucoadd view`: a picture of a file."""
    if not args.out.lower().endswith(".png"):
        raise UsageError(f"the picture is a PNG; give a name that ends with .png, got {args.out}")
    _check_outputs([args.out], None, inputs=[args.file])
    from . import pictures

    with _Staging() as staging:
        pictures.view(args.file, staging.place(args.out))
    _tell("wrote", args.out)


def run_info(args: argparse.Namespace) -> None:
    """`gpucoadd info`: versions, device, and which twin runs."""
    import platform

    from . import backend

    _tell("gpucoadd", _version("gpucoadd"))
    _tell("python", f"{platform.python_version()} on {platform.platform()}")
    for package in ("numpy", "scipy", "astropy"):
        _tell(package, _version(package))
    cupy = [f"{_version(name)} ({name})" for name in _CUPY_PACKAGES if _version(name) != "not installed"]
    _tell("cupy", ", ".join(cupy) or "not installed")
    if not backend.has_device():
        _tell("device", "cpu; no CUDA device is visible" if cupy else "cpu; CuPy is not installed")
    else:
        for name, value in _describe_device():
            _tell(name, value)
    _tell("processors", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))
    with contextlib.suppress(AttributeError, OSError, ValueError):
        _tell("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB")
    _tell("twin", _twin_name("cuda" if backend.has_device() else "cpu"))


def _describe_device() -> Iterator[tuple[str, str]]:
    """Name, memory and driver of the CUDA device that "auto" takes."""
    import numpy as np

    from . import backend

    cuda = backend.array_module(backend.to_device(np.zeros(1, np.float32))).cuda
    properties = cuda.runtime.getDeviceProperties(0)
    free, total = cuda.runtime.memGetInfo()
    yield "device", f"cuda:0, {properties['name'].decode()}, compute {properties['major']}.{properties['minor']}"
    yield "device memory", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    yield "driver", f"CUDA {_cuda_version(cuda.runtime.driverGetVersion())}"
    yield "runtime", f"CUDA {_cuda_version(cuda.runtime.runtimeGetVersion())}"


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


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


# ------------------------------------------------------------------------------------------------ values


def parse_memory(text: str) -> int:
    """
    Bytes for a size as people write it.

    K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024; KB, MB, GB, TB powers of 1000.

    Raises
    ------
    ValueError
        If it is no size, or less than a byte.

    Examples
    --------
    >>> parse_memory("4G"), parse_memory("1.5 KiB"), parse_memory("2MB"), parse_memory("4096")
    (4294967296, 1536, 2000000, 4096)
    """
    found = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*(?:([KMGT])(iB|B)?|B)?\s*", text, flags=re.IGNORECASE)
    if found is None:
        raise UsageError(f"--memory must be a size such as 4G, 512MiB or 2000000000, got {text!r}")
    number, letter, ending = found.groups()
    base = 1000 if (ending or "").lower() == "b" else 1024
    size = int(float(number) * base ** (" KMGT".index(letter.upper()) if letter else 0))
    if size < 1:
        raise UsageError(f"--memory must be positive, got {text!r}")
    return size


def parse_value(text: str) -> Any:
    """
    Value of an option: TOML, else a Python literal, else the text itself.

    Examples
    --------
    >>> [parse_value(text) for text in ("MEDIAN", "5", "true", "False", '["BAD", "SAT"]', "{SAT = 0.2}")]
    ['MEDIAN', 5, True, False, ['BAD', 'SAT'], {'SAT': 0.2}]
    """
    with contextlib.suppress(tomllib.TOMLDecodeError):
        parsed = tomllib.loads(f"value = {text}")
        if list(parsed) == ["value"]:
            return parsed["value"]
    with contextlib.suppress(ValueError, SyntaxError, RecursionError):
        return ast.literal_eval(text.strip())
    return text


def read_options(file: str | None, assignments: Sequence[str]) -> dict[str, Any]:
    """
    Options by dotted name: those of a TOML file, then `NAME=VALUE` texts, of which later ones win.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not TOML, or a text is not `NAME=VALUE`.
    """
    options = {} if file is None else _flat(_read_toml(file), tables=_table_options())
    for text in assignments:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(f"-c takes NAME=VALUE, such as detect.thresholdValue=5, got {text!r}")
        options.pop(name, None)  # to the end: under another spelling of its name, too, the last one wins
        options[name] = parse_value(value)
    return options


def _read_toml(file: str) -> dict[str, Any]:
    with open(file, "rb") as stream:
        try:
            return tomllib.load(stream)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not TOML: {error}") from error


def _table_options() -> frozenset[str]:
    """Names of the options whose value is itself a table."""
    from .configuration import CoaddConfig
    from .options import leaves

    tables = [(path, lsst) for path, lsst, value in leaves(CoaddConfig()) if isinstance(value, Mapping)]
    return frozenset(name for path, lsst in tables for name in (".".join(path), lsst) if name)


def _flat(table: Mapping[str, Any], *, tables: frozenset[str], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, Mapping) and name not in tables:
            flat.update(_flat(value, tables=tables, prefix=f"{name}."))
        else:
            flat[name] = value
    return flat


def _file_name(epoch: Any) -> str:
    """`epoch` as a file name: what a file system may stumble over becomes _."""
    return re.sub(r"[^\w.+-]", "_", str(epoch)).lstrip(".") or "_"


# ------------------------------------------------------------------------------------------------ outputs


def _check_outputs(files: Sequence[str], folder: str | None, *, inputs: Sequence[str]) -> None:
    """Raise unless all outputs can be written; done first, for a coadd may take an hour."""
    if len({os.path.realpath(file) for file in files}) < len(files):
        raise UsageError(f"two outputs have one name: {', '.join(files)}")
    taken = {os.path.realpath(path) for path in inputs}
    for path in filter(os.path.isdir, inputs):
        taken.update(os.path.realpath(os.path.join(path, name)) for name in os.listdir(path))
    for file in files:
        if os.path.isdir(file):
            raise IsADirectoryError(f"cannot write {file}: it is a folder; give the name of a file")
        if os.path.realpath(file) in taken:
            raise ValueError(f"{file} is an input too; give the output another name")
        parent = os.path.dirname(os.path.realpath(file))
        if not os.path.exists(parent):
            raise FileNotFoundError(f"cannot write {file}: there is no folder {os.path.dirname(file)}; make it first")
        _check_folder(file, parent)
    if folder is not None:
        if os.path.realpath(folder) in taken:
            raise ValueError(f"{folder} holds inputs; write the results to another folder")
        _check_folder(folder, os.path.realpath(folder))


def _check_folder(output: str, folder: str) -> None:
    """Raise OSError unless `folder` can be written to, or made."""
    existing = folder
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        raise NotADirectoryError(f"cannot write {output}: {existing} is not a folder")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise PermissionError(f"cannot write {output}: no file can be made in {existing}") from error


class _Staging:
    """
    Files written aside, in the file system they are for, and moved into place together at the end.

    When the block is left by an exception, all of them go, and so do the folders made for them.
    """

    def __init__(self) -> None:
        self._moves: list[tuple[Path, Path]] = []
        self._asides: dict[Path, Path] = {}
        self._made: list[Path] = []

    def place(self, target: str | os.PathLike[str]) -> Path:
        """Where to write what becomes `target`."""
        final = Path(os.path.realpath(target))
        if final.parent not in self._asides:
            self._make(final.parent)
            self._asides[final.parent] = Path(tempfile.mkdtemp(prefix=".gpucoadd-", dir=final.parent))
        aside = self._asides[final.parent] / final.name
        self._moves.append((aside, final))
        return aside

    def _make(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            new.mkdir()
            self._made.append(new)

    def __enter__(self) -> _Staging:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                for aside, final in self._moves:
                    os.replace(aside, final)
                self._made.clear()
        finally:
            for aside in self._asides.values():
                shutil.rmtree(aside, ignore_errors=True)
            for folder in reversed(self._made):
                with contextlib.suppress(OSError):  # something else is in it by now
                    folder.rmdir()


# ------------------------------------------------------------------------------------------------ messages


def _say(text: str) -> None:
    print(f"gpucoadd: {text}", file=sys.stderr)


def _tell(name: str, value: str) -> None:
    print(f"{name:<14}{value}")


def _text(error: BaseException) -> str:
    """One line for `error`, as its author worded it."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    elif isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str() of a KeyError is the repr of its message
    elif isinstance(error, MemoryError):
        text = f"out of memory ({error}); give a smaller --memory" if str(error) else "out of memory"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _is_users(error: BaseException) -> bool:
    """
    Whether `error` tells the user something to change.

    Files, memory and the command line always do. Of the rest, what this package raised in so many words, or what
    astropy found wrong in a file; the same exception type out of the middle of a computation is our mistake.
    """
    if isinstance(error, (OSError, MemoryError, UsageError)):
        return True
    if not isinstance(error, (ValueError, KeyError, TypeError, ImportError, RuntimeError)):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    module = trace.tb_frame.f_globals.get("__name__", "")
    if module.startswith("astropy.io.fits"):
        return True
    raised = dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
    return raised and (module == "gpucoadd" or module.startswith("gpucoadd."))


class _Teller(logging.Handler):
    """Hands each record to a function, as one line."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        self._tell(f"gpucoadd: {level}{' '.join(record.getMessage().split())}")


@contextlib.contextmanager
def _one_line_messages(*, verbose: bool) -> Iterator[None]:
    """
    Python's warnings and the package's log, as single lines on stderr.

    They come when the command has done its work; after a mistake its one line stands alone. With `verbose` they
    come as they arise.
    """
    import astropy  # noqa: F401  it brings a hook of its own for warnings, which must not come after ours

    held: list[str] = []

    def tell(line: str) -> None:
        if verbose:
            print(line, file=sys.stderr)
        else:
            held.append(line)

    def show(message: Warning | str, *place: Any, **more: Any) -> None:
        tell(f"gpucoadd: warning: {' '.join(str(message).split())}")

    logger = logging.getLogger("gpucoadd")
    handler = _Teller(tell)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show  # type: ignore[assignment]
            yield
        for line in held:
            print(line, file=sys.stderr)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextlib.contextmanager
def _progress_bars() -> Iterator[Progress | None]:
    """A bar for each step if tqdm is installed and someone is watching; else None."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    if not sys.stderr.isatty():
        yield None
        return
    bars: dict[str, Any] = {}

    def progress(step: str, done: int, total: int) -> None:
        if step not in bars:
            for bar in bars.values():
                bar.close()
            bars[step] = tqdm(total=total, desc=step, leave=False, file=sys.stderr)
        bars[step].total = total
        bars[step].update(done - bars[step].n)

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()
