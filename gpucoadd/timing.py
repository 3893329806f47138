"""
A clock that knows when a device is done, and the speeds to hold a step against: of a copy, and of the bus.

Why a copy is the yardstick: nearly all steps here wait for memory. "62 % of copy" says how much is left to gain, on any
machine; seconds do not.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .backend import Array, is_host
from .memory import room
from .upload import pinned

COPY_BYTES = {"host": 256 << 20, "device": 1 << 30}  # of one array: far more than any cache holds
_SMALLEST_COPY = 64 << 20


class Timings(NamedTuple):
    """
    Seconds of the calls of `measure`.

    Attributes
    ----------
    first : float
        Wall seconds of the first call, which compiles and allocates.
    seconds : list of float
        Of each later call: on a device the time between two events of the current stream, on the host wall seconds.
    wall : list of float
        Wall seconds of the same calls, until the device was idle.
    """

    first: float
    seconds: list[float]
    wall: list[float]

    @property
    def median(self) -> float:
        """Median of `seconds`."""
        return statistics.median(self.seconds)

    def summary(self) -> dict[str, float]:
        """Least, median and largest of `seconds`, median of `wall`, the first call, and how many were timed."""
        return {
            "min": min(self.seconds),
            "median": self.median,
            "max": max(self.seconds),
            "wall": statistics.median(self.wall),
            "first": self.first,
            "n": len(self.seconds),
        }


def measure(call: Callable[[], Any], xp: Any, *, repeats: int, patience: float = math.inf) -> Timings:
    """
    Time a call again and again, after a first one that is told apart.

    Parameters
    ----------
    call : callable
        Its result is dropped before the next turn, outside the clock.
    xp : module
        NumPy, or that of the device's arrays.
    repeats : int
        Timed calls, at least 1.
    patience : float
        No new call is begun after so many seconds of timed calls.

    Returns
    -------
    Timings
    """
    first = _timed(call, xp)[1]
    seconds: list[float] = []
    wall: list[float] = []
    while not seconds or (len(seconds) < repeats and sum(wall) < patience):
        one, of_wall = _timed(call, xp)
        seconds.append(one)
        wall.append(of_wall)
    return Timings(first, seconds, wall)


def _timed(call: Callable[[], Any], xp: Any) -> tuple[float, float]:
    """Seconds by the device's clock (the wall's, on the host), and by the wall's."""
    if is_host(xp):
        began = time.perf_counter()
        result = call()
        wall = time.perf_counter() - began
        del result
        return wall, wall
    before, after, device = xp.cuda.Event(), xp.cuda.Event(), xp.cuda.Device()
    device.synchronize()
    began = time.perf_counter()
    before.record()
    result = call()
    after.record()
    device.synchronize()  # other streams too
    wall = time.perf_counter() - began
    del result
    return xp.cuda.get_elapsed_time(before, after) / 1e3, wall


def copy_speed(xp: Any, *, repeats: int, like: int = 1 << 40) -> dict[str, Any]:
    """
    Copy speed of the memory that the arrays of `xp` live in, bytes read and bytes written both counted.

    Parameters
    ----------
    xp : module
    repeats : int
    like : int
        Bytes that the benchmark is about; for small ones a smaller array is copied, though no tiny one.

    Returns
    -------
    dict
        "bytes" moved by one copy, "seconds" as of `Timings.summary`, "bytes_per_second" of the median.
    """
    largest = COPY_BYTES["host" if is_host(xp) else "device"]
    n = min(largest, max(_SMALLEST_COPY, like), room(xp) // 8) // 4
    source = xp.full(n, 1, dtype=xp.float32)  # written to: pages that never were are all one page
    target = xp.empty_like(source)
    timings = measure(lambda: xp.copyto(target, source), xp, repeats=repeats)
    return _speed(2 * source.nbytes, timings)


def transfer_speeds(xp: Any, *, repeats: int, like: int = 1 << 40) -> dict[str, dict[str, Any]]:
    """
    Speeds from host to device and back, from pinned and from ordinary (pageable) memory; each byte counted once.

    Parameters and returned dictionaries are as of `copy_speed`.
    """
    n = min(COPY_BYTES["device"], max(_SMALLEST_COPY, like), room(xp) // 8) // 4
    there: Array = xp.empty(n, dtype=xp.float32)
    found = {}
    for kind, here in (("pinned", pinned(n, np.float32)), ("pageable", np.empty(n, np.float32))):
        here.fill(1)
        calls = {"upload": lambda here=here: there.set(here), "download": lambda here=here: there.get(out=here)}
        for way, call in calls.items():
            found[f"{way}, {kind}"] = _speed(here.nbytes, measure(call, xp, repeats=repeats))
    return found


def _speed(n_bytes: int, timings: Timings) -> dict[str, Any]:
    return {"bytes": n_bytes, "seconds": timings.summary(), "bytes_per_second": n_bytes / timings.median}
