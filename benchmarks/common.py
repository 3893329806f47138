"""
What the scripts share: fair repeats, one JSON line per measurement.

Import this module before NumPy: it pins the thread pools of BLAS and OpenMP, which would otherwise make CPU seconds
depend on the machine.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any


def options(doc: str, *, threads: str, size: int = 1024, epochs: int | None = 12) -> argparse.Namespace:
    """
    Options that the scripts share.

    Parameters
    ----------
    doc : str
        The script's docstring.
    threads : str
        Whose threads are meant.
    size : int
        Default of --size.
    epochs : int or None
        Default of --epochs; None for a script without a stack, which has no such option.
    """
    parser = argparse.ArgumentParser(description=doc.split("\n\n")[0].strip())
    if epochs is not None:
        parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--size", type=int, default=size)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help=threads)
    parser.add_argument("--json", metavar="FILE", help="append a JSON line here; - is stdout")
    return parser.parse_args()


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of those of `packages` that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Name of the processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def interleave(calls: Mapping[str, Callable[[], Any]], *, repeats: int) -> dict[str, dict[str, list[float]]]:
    """
    Wall and CPU seconds of each call, in rounds.

    Every round times each call once, so that a change in the machine's load meets all of them; every other
    round runs backwards, so that none always follows the same neighbour. CPU seconds are user and
    system time of all threads of this process. One untimed round comes first.

    Parameters
    ----------
    calls : mapping of str to callable
    repeats : int
        Timed rounds.

    Returns
    -------
    dict
        Per call, lists "wall" and "cpu" in order of the rounds.
    """
    times: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in calls}
    for call in calls.values():
        call()
    for turn in range(repeats):
        for name, call in list(calls.items())[:: 1 if turn % 2 == 0 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            result = call()
            times[name]["cpu"].append(time.process_time() - cpu)
            times[name]["wall"].append(time.perf_counter() - wall)
            del result  # outside the clock, and before the next call asks for memory
    return times


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {
        "median": round(statistics.median(seconds), 5),
        "min": round(min(seconds), 5),
        "max": round(max(seconds), 5),
    }


def ratios(over: Mapping[str, list[float]], under: Mapping[str, list[float]], clock: str) -> dict[str, float]:
    """Median and spread of the ratio of two calls, taken round by round."""
    return summary([a / b for a, b in zip(over[clock], under[clock], strict=True)])


def compare(
    times: Mapping[str, Mapping[str, list[float]]], targets: Sequence[tuple[str, str, str | None]]
) -> dict[str, dict[str, dict[str, float]]]:
    """
    Ratios of the calls that were timed, for people and for the record.

    Parameters
    ----------
    times : mapping
        Of `interleave`.
    targets : sequence of (str, str, str or None)
        Over, under, and what is hoped for; a pair of which one was not timed is left out.

    Returns
    -------
    dict
        "over / under" to `ratios` by clock.
    """
    found = {}
    say(f"{'ratio':<72}{'CPU':>8}{'min':>8}{'max':>8}{'wall':>9}{'min':>8}{'max':>8}")
    for over, under, hoped in targets:
        if over not in times or under not in times:
            continue
        name = f"{over} / {under}"
        found[name] = {clock: ratios(times[over], times[under], clock) for clock in ("cpu", "wall")}
        cpu, wall = (tuple(found[name][clock].values()) for clock in ("cpu", "wall"))
        numbers = "{:8.2f}{:8.2f}{:8.2f}{:9.2f}{:8.2f}{:8.2f}".format(*cpu, *wall)
        say(f"{name:<72}{numbers}" + (f"  hoped for: {hoped}" if hoped else ""))
    return found


def emit(record: Mapping[str, Any], path: str | None) -> None:
    """Append `record` as a line of JSON to `path`, "-" being stdout; nothing without a path."""
    if path is None:
        return
    line = json.dumps(record)
    if path == "-":
        print(line)
        return
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(line + "\n")


def say(text: str = "") -> None:
    """A line for people."""
    print(text, file=sys.stderr)


def say_times(times: Mapping[str, dict[str, list[float]]]) -> None:
    """Table of all calls for people."""
    say(f"{'call':<44}{'CPU s':>9}{'min':>9}{'max':>9}{'wall s':>10}{'min':>9}{'max':>9}")
    for name, clocks in times.items():
        cpu, wall = summary(clocks["cpu"]), summary(clocks["wall"])
        numbers = f"{cpu['median']:9.3f}{cpu['min']:9.3f}{cpu['max']:9.3f}"
        say(f"{name:<44}{numbers}{wall['median']:10.3f}{wall['min']:9.3f}{wall['max']:9.3f}")
