"""
NVIDIA's run-time compiler by ctypes: compiles CUDA for every chip, on a machine without a GPU or a driver.

The library comes with the package nvidia-cuda-nvrtc (or -cu12); the environment variable GPUCOADD_NVRTC may name
another file. Where there is none, `find` gives None, and `REASON` says what to install.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PACKAGES = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu13", "nvidia-cuda-nvrtc-cu12")
REASON = "NVRTC is not installed: pip install nvidia-cuda-nvrtc"


@functools.cache
def find() -> Path | None:
    """File of the library, or None."""
    if "GPUCOADD_NVRTC" in os.environ:
        return Path(os.environ["GPUCOADD_NVRTC"])
    for package in PACKAGES:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if re.fullmatch(r"libnvrtc\.so\.\d+|nvrtc64_\d+_\d+\.dll", file.name):
                return Path(str(file.locate())).resolve()
    return None


@functools.cache
def _library() -> ctypes.CDLL:
    file = find()
    if file is None:
        raise RuntimeError(REASON)
    library = ctypes.CDLL(str(file))
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def _call(name: str, *arguments: object) -> None:
    code = getattr(_library(), name)(*arguments)
    if code:
        raise RuntimeError(f"{name}: {_library().nvrtcGetErrorString(code).decode()}")


def version() -> tuple[int, int]:
    """Of the compiler."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def supported_architectures() -> list[int]:
    """Chips the compiler knows, ascending: 75 is sm_75."""
    count = ctypes.c_int()
    _call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    _call("nvrtcGetSupportedArchs", numbers)
    return sorted(numbers)


def _text(program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    _call(f"nvrtcGet{what}", program, text)
    return text.raw


def build(source: str, architecture: int, options: Sequence[str] = ()) -> tuple[bytes, str]:
    """
    Binary of a CUDA text and what the compiler says about it.

    Parameters
    ----------
    source : str
        The text of a .cu file.
    architecture : int
        Such as 90, for sm_90.
    options : sequence of str
        Those that CuPy is given.

    Raises
    ------
    RuntimeError
        If it does not compile; with the messages of the compiler.
    """
    program = ctypes.c_void_p()
    _call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    try:
        words = [*options, f"-arch=sm_{architecture}", "-default-device", "-Xptxas=-v"]
        passed = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
        failed = _library().nvrtcCompileProgram(program, len(words), passed)
        log = _text(program, "ProgramLog").rstrip(b"\0").decode()
        if failed:
            raise RuntimeError(f"sm_{architecture}: {_library().nvrtcGetErrorString(failed).decode()}\n{log}")
        return _text(program, "CUBIN"), log
    finally:
        _library().nvrtcDestroyProgram(ctypes.byref(program))


@dataclass(frozen=True)
class Usage:
    """What a kernel takes of a chip, per thread and, shared memory, per block."""

    stack: int
    spill_stores: int
    spill_loads: int
    registers: int
    shared: int


def usage(log: str) -> dict[str, Usage]:
    """What each kernel of a build takes, from its log."""
    found = {}
    for name, text in re.findall(
        r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry function|\Z)", log, re.DOTALL
    ):
        numbers = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", text)
        registers, shared = re.search(r"Used (\d+) registers", text), re.search(r"(\d+) bytes smem", text)
        found[name] = Usage(*map(int, numbers.groups()), int(registers[1]), int(shared[1]) if shared else 0)
    return found
