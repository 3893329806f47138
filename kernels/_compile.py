"""
From a .cu file to a kernel that can be launched: read, compiled once per device and variant, kept.

A variant is a set of macros put in front of the file, such as the number of samples a sort is written out for.
CuPy keeps the binaries on disk, so that a survey compiles each of them once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import Any

import cupy

# A product and a sum stay two operations, as in NumPy: comparisons must come out alike.
OPTIONS = ("-std=c++17", "-fmad=false")

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
    return cupy.RawModule(code=source(file, defines), options=OPTIONS)


def check_blocks(n: int, things: str) -> None:
    """ValueError if the second or third axis of a grid has no room for `n` blocks, one for each of some `things`."""
    if n > MOST_BLOCKS:
        raise ValueError(f"{n} {things}; a grid has room for {MOST_BLOCKS}, so pass fewer at once")


def blocks(n: int, block: int) -> int:
    """Blocks of so many threads that cover `n` items; at least one."""
    return max(1, -(-n // block))
