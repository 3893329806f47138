"""
The one place that knows NumPy from CuPy.

Arrays decide the backend: every function asks `array_module` for the module its
arrays come from and works with that. CuPy is imported only when a CuPy array has
come, or when a reader was told to put pixels on the device.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # a NumPy or a CuPy array; neither package offers a common base class


def _module_of(array: object) -> ModuleType | None:
    """Array module of one object, or None when it is no array."""
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(array, cupy.ndarray):
        return cupy
    return None


def array_module(*arrays: Array, **named: Array) -> ModuleType:
    """
    NumPy or CuPy, whichever the arrays belong to.

    Parameters
    ----------
    *arrays, **named : array
        All from one module; give names to have them in the error message.

    Raises
    ------
    TypeError
        If one is no array, or if they are mixed.
    """
    labelled = [(f"argument {i}", a) for i, a in enumerate(arrays)] + list(named.items())
    first_name, first = "", None
    for name, array in labelled:
        module = _module_of(array)
        if module is None:
            raise TypeError(f"{name} must be a NumPy or a CuPy array, got {type(array).__name__}")
        if first is None:
            first_name, first = name, module
        elif module is not first:
            place = {True: "a NumPy array", False: "on the GPU"}
            raise TypeError(
                f"{name} is {place[module is np]} but {first_name} is {place[first is np]}; "
                "move one with gpucoadd.to_device or gpucoadd.to_host"
            )
    if first is None:
        raise TypeError("no array given")
    return first


def is_host(xp: ModuleType) -> bool:
    """Whether arrays of `xp` live in host memory."""
    return xp is np


def quiet(xp: ModuleType) -> AbstractContextManager[Any]:
    """Context in which a division by zero is an answer (NaN, inf) and no accident; CuPy never warns."""
    return np.errstate(divide="ignore", invalid="ignore", over="ignore") if is_host(xp) else nullcontext()


def twin(array: Array) -> ModuleType:
    """`gpucoadd.kernels` for a CuPy array, `gpucoadd.fallback` for a NumPy one."""
    name = "gpucoadd.fallback" if is_host(array_module(array)) else "gpucoadd.kernels"
    return importlib.import_module(name)


def ndimage(xp: ModuleType) -> ModuleType:
    """`scipy.ndimage`, or `cupyx.scipy.ndimage`."""
    return importlib.import_module("scipy.ndimage" if is_host(xp) else "cupyx.scipy.ndimage")


def fft(xp: ModuleType) -> ModuleType:
    """`scipy.fft`, or `cupyx.scipy.fft`."""
    return importlib.import_module("scipy.fft" if is_host(xp) else "cupyx.scipy.fft")


def to_host(array: Array) -> np.ndarray:
    """NumPy array with the values of `array`; waits for the device. A NumPy array is returned as it is."""
    xp = array_module(array)
    return array if is_host(xp) else xp.asnumpy(array)


def to_device(array: np.ndarray, device: str = "cuda") -> Array:
    """
    CuPy array with the values of `array`.

    Parameters
    ----------
    array : numpy.ndarray
        Any shape, native byte order.
    device : str
        As in `resolve_device`; "cpu" gives the array back as it is.
    """
    kind, number = resolve_device(device)
    if kind == "cpu":
        return array
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(number):
        return cupy.asarray(array)


def has_device() -> bool:
    """Whether CuPy is installed and sees a CUDA device."""
    try:
        cupy = importlib.import_module("cupy")
        return bool(cupy.cuda.is_available())
    except ImportError:
        return False


def resolve_device(device: str) -> tuple[str, int]:
    """
    Where pixels go for the user's word.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda" (also "gpu") or "cuda:N".

    Returns
    -------
    (str, int)
        "cpu" or "cuda", and the device number.

    Raises
    ------
    ValueError
        If the word is none of these.
    ImportError
        If a GPU was asked for and CuPy is not installed.
    RuntimeError
        If a GPU was asked for and none is visible.
    """
    kind, _, number = str(device).partition(":")
    if kind not in ("auto", "cpu", "cuda", "gpu") or (number and not (kind in ("cuda", "gpu") and number.isdigit())):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    if kind == "cpu" or (kind == "auto" and not has_device()):
        return "cpu", 0
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise ImportError(f'device={device!r} needs CuPy: pip install "gpucoadd[cuda12]" (or cuda13)') from error
    if not cupy.cuda.is_available():
        raise RuntimeError(
            f'device={device!r} but no CUDA device is visible; use device="cpu", or device="auto" to fall back '
            "by itself"
        )
    index = int(number) if number else 0
    if index >= cupy.cuda.runtime.getDeviceCount():
        raise RuntimeError(
            f"device={device!r} but only {cupy.cuda.runtime.getDeviceCount()} CUDA device(s) are visible"
        )
    return "cuda", index


_PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "cupy")


def describe() -> list[tuple[str, str]]:
    """Name and value of what there is to know about CuPy and the device that "auto" takes."""
    installed = []
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed.append(f"{metadata.version(package)} ({package})")
    facts = [("cupy", ", ".join(installed) or "not installed")]
    if not has_device():
        return [*facts, ("device", f"cpu; {'no CUDA device is visible' if installed else 'CuPy is not installed'}")]
    runtime = importlib.import_module("cupy").cuda.runtime
    properties = runtime.getDeviceProperties(0)
    free, total = runtime.memGetInfo()
    return [
        *facts,
        ("device", f"cuda:0, {properties['name'].decode()}, compute {properties['major']}.{properties['minor']}"),
        ("device memory", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"),
        ("driver", f"CUDA {_cuda_version(runtime.driverGetVersion())}"),
        ("runtime", f"CUDA {_cuda_version(runtime.runtimeGetVersion())}"),
    ]


def _cuda_version(number: int) -> str:
    """12040 is 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"
