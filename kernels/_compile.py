"""
From a .cu file to a kernel that can be launched: read, compiled once per chip and variant, kept on disk.

A variant is a set of macros put in front of the file, such as the number of samples a sort is written out for.

Why NVRTC is called here and not by `cupy.RawModule`: CuPy has it compile with -ftz=true, behind all options of ours,
and then float32 numbers below 1.2e-38 are 0; in NumPy they are not.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import cupy
from cupy.cuda import nvrtc

# A product and a sum stay two operations and small numbers what they are, as in NumPy: comparisons must come out alike.
OPTIONS = ("-std=c++17", "-fmad=false", "-ftz=false")

MOST_BLOCKS = 65535  # along the second axis of a grid, and along the third

Defines = tuple[tuple[str, int | str], ...]
Kernel = Callable[[tuple[int, ...], tuple[int, ...], Sequence[Any]], None]


def source(file: str, defines: Defines = ()) -> str:
    """Text of a .cu file behind common.cuh, with macros in front of both."""
    folder = resources.files(__package__)
    macros = "".join(f"#define {name} {value}\n" for name, value in defines)
    return macros + "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in ("common.cuh", file))


def kernel(file: str, name: str, defines: Defines = ()) -> Kernel:
    """
    Kernel `name` of a .cu file, for the current device.

    Parameters
    ----------
    file : str
        In this folder.
    name : str
        An ``extern "C" __global__`` function of it.
    defines : tuple of (str, int or str)
        Macros of the variant.

    Returns
    -------
    callable
        ``kernel(grid, block, args)``; arguments are arrays and NumPy scalars of exactly the types declared.
    """
    return _function(cupy.cuda.runtime.getDevice(), file, name, defines)


@cache
def _function(device: int, file: str, name: str, defines: Defines) -> Kernel:
    return _module(device, file, defines).get_function(name)


@cache
def _module(device: int, file: str, defines: Defines) -> Any:
    chip, known = int(cupy.cuda.Device(device).compute_capability), nvrtc.getSupportedArchs()
    # A chip that is newer than this NVRTC gets code for the newest it knows, which the driver translates.
    arch = f"sm_{chip}" if chip in known else f"compute_{max((a for a in known if a < chip), default=min(known))}"
    return cupy.RawModule(path=str(_binary(file, source(file, defines), arch)))


def _binary(file: str, text: str, arch: str) -> Path:
    """File of the compiled text, in CuPy's folder of such files; made if it is not there."""
    key = hashlib.sha256(repr((text, OPTIONS, arch, nvrtc.getVersion())).encode()).hexdigest()[:32]
    folder = Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
    path = folder / f"gpucoadd-{Path(file).stem}-{key}.{'cubin' if arch.startswith('sm') else 'ptx'}"
    if path.exists():
        return path
    binary = _compiled(file, text, arch)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _written(binary, path)
    except OSError:  # a home that cannot be written to: for this process only
        return _written(binary, Path(tempfile.mkdtemp(prefix="gpucoadd-")) / path.name)


def _written(binary: bytes, path: Path) -> Path:
    """Write the file, whole or not at all: other processes may be at it."""
    handle, aside = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as stream:
        stream.write(binary)
    os.replace(aside, path)
    return path


def _compiled(file: str, text: str, arch: str) -> bytes:
    """What NVRTC makes of a text: machine code, or PTX where `arch` is no real one."""
    program = nvrtc.createProgram(text, file, (), ())
    try:
        nvrtc.compileProgram(program, (*OPTIONS, f"-arch={arch}"))
        binary = nvrtc.getCUBIN(program) if arch.startswith("sm") else nvrtc.getPTX(program)
        return binary if isinstance(binary, bytes) else binary.encode()
    except nvrtc.NVRTCError as error:
        raise RuntimeError(
            f"{file} cannot be compiled for {arch} by NVRTC {nvrtc.getVersion()} ({error}); this is a fault of "
            f"gpucoadd, or an NVRTC older than CUDA 12: {nvrtc.getProgramLog(program)}"
        ) from error
    finally:
        nvrtc.destroyProgram(program)


def check_blocks(n: int, things: str) -> None:
    """ValueError if the second or third axis of a grid has no room for `n` blocks, one for each of some `things`."""
    if n > MOST_BLOCKS:
        raise ValueError(f"{n} {things}; a grid has room for {MOST_BLOCKS}, so pass fewer at once")


def blocks(n: int, block: int) -> int:
    """Blocks of so many threads that cover `n` items; at least one."""
    return max(1, -(-n // block))
