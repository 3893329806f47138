"""
The one place that knows NumPy from CuPy.

Arrays decide the backend: every function asks `array_module` for the module its
arrays come from and works with that. CuPy is imported only when a CuPy array has
come, or when a reader was told to put pixels on the device.
"""

from __future__ import annotations

import importlib
import os
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
        If one is no array, or if they are mixed: NumPy and CuPy, or of two devices.
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
    if first is not np:
        _check_one_device(labelled)
    return first


def _check_one_device(labelled: list[tuple[str, Array]]) -> None:
    first_name, first = labelled[0]
    for name, array in labelled[1:]:
        if array.device.id != first.device.id:
            raise TypeError(
                f"{name} is on cuda:{array.device.id} but {first_name} is on cuda:{first.device.id}; move one with "
                f'gpucoadd.to_device(gpucoadd.to_host(...), "cuda:{first.device.id}")'
            )


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


def launchers(name: str) -> ModuleType:
    """`gpucoadd.kernels.name`, whose functions have no NumPy twin: for code that is on a device already."""
    return importlib.import_module(f"gpucoadd.kernels.{name}")


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


def device_of(array: Array) -> int | None:
    """Number of the device that holds `array`; None for a NumPy array."""
    return None if is_host(array_module(array)) else int(array.device.id)


def using(where: Array | int | None) -> AbstractContextManager[Any]:
    """
    Context in which new CuPy arrays, and kernels, are on one device. For the calling thread alone.

    Parameters
    ----------
    where : array, int or None
        The device's number, or an array that is there. For None, or a NumPy array, the context does nothing.
    """
    number = where if where is None or isinstance(where, int) else device_of(where)
    return nullcontext() if number is None else device_module().cuda.Device(number)


def device_module() -> ModuleType:
    """CuPy, for those who are at work on a device."""
    return importlib.import_module("cupy")


def free_bytes(device: int) -> int:
    """Bytes of the device that new arrays can have: what nobody has, and what CuPy keeps for them."""
    cupy = device_module()
    with using(device):
        pool = cupy.get_default_memory_pool()
        return int(cupy.cuda.runtime.memGetInfo()[0]) + int(pool.total_bytes() - pool.used_bytes())


def free_memory() -> None:
    """Give back to the current device what CuPy keeps of arrays that are no more, so that a larger one may fit."""
    device_module().get_default_memory_pool().free_all_blocks()


def out_of_memory() -> tuple[type[BaseException], ...]:
    """The exceptions that say that a device is full; none where there is no CuPy. For an `except` clause."""
    cupy = sys.modules.get("cupy")
    return () if cupy is None else (cupy.cuda.memory.OutOfMemoryError,)


def has_device() -> bool:
    """Whether CuPy is installed, can be loaded and sees a CUDA device."""
    try:
        return not _trouble(device_module())
    except ImportError:
        return False


def parse_device(device: str) -> tuple[str, int]:
    """
    The parts of a device's word, "auto", "cpu", "cuda" or "gpu" and a number, 0 without; whether it is there or not.

    Raises
    ------
    ValueError
        If it is no such word.

    Examples
    --------
    >>> parse_device("cuda:1"), parse_device("auto")
    (('cuda', 1), ('auto', 0))
    """
    kind, _, number = str(device).partition(":")
    if kind not in ("auto", "cpu", "cuda", "gpu") or (number and not (kind in ("cuda", "gpu") and number.isdigit())):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    return kind, int(number or 0)


def resolve_device(device: str) -> tuple[str, int]:
    """
    Where pixels go for the user's word.

    Parameters
    ----------
    device : str
        "auto", "cpu", "cuda" (also "gpu") or "cuda:N". N counts the devices that the environment variable
        CUDA_VISIBLE_DEVICES leaves.

    Returns
    -------
    (str, int)
        "cpu" or "cuda", and the device number.

    Raises
    ------
    ValueError
        If the word is none of these.
    ImportError
        If a GPU was asked for and CuPy is not installed or cannot be loaded.
    RuntimeError
        If a GPU was asked for and none is visible, the driver is too old, or there is no device of that number.
    """
    kind, number = parse_device(device)
    if kind == "cpu" or (kind == "auto" and not has_device()):
        return "cpu", 0
    cupy = _loaded(device)
    trouble = _trouble(cupy)
    if trouble:
        raise RuntimeError(
            f'device={device!r} but {trouble}; or use device="cpu", or device="auto" to fall back by itself'
        )
    index, n_devices = number, int(cupy.cuda.runtime.getDeviceCount())
    if index >= n_devices:
        raise RuntimeError(
            f"device={device!r} but only {n_devices} CUDA device(s) are visible{_hiding()}; they count from cuda:0 to "
            f"cuda:{n_devices - 1}"
        )
    return "cuda", index


def _loaded(device: str) -> ModuleType:
    """CuPy, or an ImportError that says how to have it."""
    try:
        return device_module()
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise ImportError(
                f'device={device!r} needs CuPy: pip install "gpucoadd[cuda12]" (or cuda13; `nvidia-smi` tells the CUDA '
                "version of the driver)"
            ) from error
        raise ImportError(
            f"device={device!r} needs CuPy, which is installed but cannot be loaded ({error}); install the one for the "
            'CUDA version that `nvidia-smi` tells: pip install "gpucoadd[cuda12]" (or cuda13)'
        ) from error


_INSUFFICIENT_DRIVER = "cudaErrorInsufficientDriver"  # also where there is no driver at all


def _trouble(cupy: ModuleType) -> str:
    """Why no device can be used, and what to do; empty if one can."""
    try:
        if cupy.cuda.is_available():
            return ""
    except RuntimeError as error:
        if _INSUFFICIENT_DRIVER not in str(error):
            return f"CUDA cannot be started ({error}); see whether `nvidia-smi` works"
        return _driver_trouble(cupy.cuda.runtime)
    return f"no CUDA device is visible{_hiding()}; see whether `nvidia-smi` lists one"


def _driver_trouble(runtime: Any) -> str:
    needed = runtime.runtimeGetVersion()
    supported = runtime.driverGetVersion()
    if supported == 0:
        return "there is no NVIDIA driver; install one, or let the container have the GPU (docker run --gpus all)"
    advice = "update the driver"
    if supported // 1000 >= 12:
        advice += f', or install the CuPy that fits it: pip install "gpucoadd[cuda{supported // 1000}]"'
    return (
        f"the driver is too old: it supports CUDA {_cuda_version(supported)}, this CuPy needs CUDA "
        f"{_cuda_version(needed)}; {advice}"
    )


def _hiding() -> str:
    """What CUDA_VISIBLE_DEVICES has to do with it."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if value is None else f" (CUDA_VISIBLE_DEVICES is {value!r})"


_PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "cupy")


def describe() -> list[tuple[str, str]]:
    """Name and value of what there is to know about CuPy and the devices; "device" once for each that is visible."""
    installed = []
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            installed.append(f"{metadata.version(package)} ({package})")
    facts = [("cupy", ", ".join(installed) or "not installed")]
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        facts.append(("CUDA_VISIBLE_DEVICES", os.environ["CUDA_VISIBLE_DEVICES"] or "empty: hides every device"))
    try:
        cupy = device_module()
    except ImportError as error:
        missing = f"CuPy cannot be loaded ({error})" if installed else "CuPy is not installed"
        return [*facts, ("device", f"cpu; {missing}")]
    trouble = _trouble(cupy)
    if trouble:
        return [*facts, ("device", f"cpu; {trouble}")]
    runtime = cupy.cuda.runtime
    return [
        *facts,
        *(("device", _description(cupy, number)) for number in range(runtime.getDeviceCount())),
        ("driver", f"CUDA {_cuda_version(runtime.driverGetVersion())}"),
        ("runtime", f"CUDA {_cuda_version(runtime.runtimeGetVersion())}"),
        ("compiler", _compiler(cupy)),
    ]


def _compiler(cupy: ModuleType) -> str:
    try:
        return "NVRTC {}.{}".format(*cupy.cuda.nvrtc.getVersion())
    except RuntimeError as error:
        return f"none ({error}), so nothing can run there; install the CUDA toolkit"


def _description(cupy: ModuleType, number: int) -> str:
    properties = cupy.cuda.runtime.getDeviceProperties(number)
    with cupy.cuda.Device(number):
        free, total = cupy.cuda.runtime.memGetInfo()
    return (
        f"cuda:{number}, {properties['name'].decode()}, compute {properties['major']}.{properties['minor']}, "
        f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    )


def _cuda_version(number: int) -> str:
    """12040 is 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"
