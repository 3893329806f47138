"""What `gpucoadd bench` runs: the throughput of every step on this machine, next to the speed of a copy."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from . import backend, timing
from .arguments import UsageError
from .backend import is_host
from .bench_steps import STEPS, Bench, Step
from .memory import room
from .timing import measure
from .workers import check_threads

SMALLEST = 64  # pixels along a side: what the kernels and cells of the difference need
REPEATS = {"cpu": 3, "cuda": 10}
PATIENCE = 20.0  # seconds of timed calls after which a step is not repeated
_PACKAGES = ("numpy", "scipy", "astropy")


def steps_named(text: str | None) -> tuple[Step, ...]:
    """
    The steps of a comma-separated list of names, in the order of `STEPS`; all without a list.

    Raises
    ------
    ValueError
        If there is no step of a name, or none is named.
    """
    if text is None:
        return STEPS
    known = {_plain(step.name): step for step in STEPS}
    wanted = {_plain(name) for name in text.split(",") if name.strip()}
    unknown = sorted(wanted - set(known))
    if unknown or not wanted:
        which = f"no step {unknown[0]!r}" if unknown else "no step is named"
        raise UsageError(f"--steps: {which}; there are {', '.join(known)}")
    return tuple(step for name, step in known.items() if name in wanted)


def _plain(name: str) -> str:
    """A step's name as it is typed: "FFT pair, single" is fft-pair-single."""
    return "-".join(name.lower().replace(",", " ").replace("_", "-").split())


@contextlib.contextmanager
def on_device(device: str) -> Iterator[tuple[Any, str]]:
    """Context in which `device` is the current one; gives the module of its arrays, and "cpu" or "cuda:N"."""
    kind, number = backend.resolve_device(device)
    if kind == "cpu":
        yield np, kind
        return
    with backend.using(number):
        yield backend.device_module(), f"{kind}:{number}"


def run(
    *,
    device: str = "auto",
    size: int = 2048,
    n_epochs: int = 12,
    repeats: int | None = None,
    seed: int = 1,
    threads: int | None = None,
    steps: str | None = None,
    say: Callable[[str], None] = print,
    keep: Callable[[dict[str, Any]], None] = lambda document: None,
) -> dict[str, Any]:
    """
    Time every step and tell how it compares with a copy.

    Parameters
    ----------
    device : str
        As in `backend.resolve_device`.
    size, n_epochs, seed : int
        Of the simulated stack.
    repeats : int, optional
        Timed calls of each step, after one that is not; `REPEATS` when left out. Fewer where they take too long.
    threads : int, optional
        Of the host; one per processor when left out.
    steps : str, optional
        Names, as `steps_named` takes them.
    say : callable
        Takes the lines of the table, one at a time.
    keep : callable
        Takes the document after each result.

    Returns
    -------
    dict
        The document: versions, device, settings, speeds of the memory, and what was measured of each step.

    Raises
    ------
    ValueError
        If `size` is too small, a step is unknown, or the pixels do not fit into the memory; before any is made.
    Exception
        The first that a step raised, after all the others have run; the document names it.
    """
    chosen = steps_named(steps)
    if size < SMALLEST:
        raise UsageError(f"--size must be at least {SMALLEST} pixels, got {size}")
    threads = check_threads(threads)
    failures: list[Exception] = []
    with on_device(device) as (xp, word):
        bench = Bench(xp, size=size, n_epochs=n_epochs, seed=seed, threads=threads)
        check_room(bench, chosen)
        repeats = REPEATS[word.split(":")[0]] if repeats is None else repeats
        document = _document(word, bench, repeats)
        _speeds(document, bench, repeats, say)
        keep(document)
        say(_HEADING)
        for step in chosen:
            try:
                line = _measured(step, bench, repeats, document["copy"]["bytes_per_second"])
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # they hold arrays that the next step needs room for
                failures.append(error)
                line = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"}
            document["steps"][step.name] = line
            say(_row(step.name, line))
            keep(document)
    document["complete"] = not failures
    keep(document)
    if failures:
        raise failures[0]
    return document


def check_room(bench: Bench, steps: Sequence[Step], *, more: tuple[int, int] = (0, 0)) -> None:
    """
    Raise ValueError unless the pixels that the steps work on fit where they are to live.

    `more` is what a caller needs besides, in bytes of host and of device memory; the latter does not matter on the
    host.
    """
    places = [("host", np)] if is_host(bench.xp) else [("host", np), ("device", bench.xp)]
    for (where, xp), needed, besides in zip(places, bytes_needed(bench, steps), more):
        total, free = needed + besides, room(xp)
        if total > free:
            raise UsageError(
                f"--size {bench.size} with --epochs {bench.n_epochs} takes about {total / 2**30:.1f} GiB of {where} "
                f"memory and {free / 2**30:.1f} GiB are free; give less of either"
            )


def bytes_needed(bench: Bench, steps: Sequence[Step]) -> tuple[int, int]:
    """About how many bytes of host and of device memory the steps take: two stacks and what is made of them."""
    stacks = any(step.of_stack or step.name == "interpolation" for step in steps)
    pixels = 32 * bench.n_samples * stacks + 200 * bench.n_pixels
    return (pixels, 0) if is_host(bench.xp) else (100 * bench.n_pixels, pixels)


def _document(word: str, bench: Bench, repeats: int) -> dict[str, Any]:
    return {
        "benchmark": "gpucoadd bench",
        "complete": False,
        "device": word,
        "facts": [list(fact) for fact in backend.describe()],
        "machine": platform.platform(),
        "processors": check_threads(None),
        "versions": versions(),
        "settings": {
            "size": bench.size,
            "epochs": bench.n_epochs,
            "repeats": repeats,
            "seed": bench.seed,
            "threads": bench.threads,
        },
        "copy": {},
        "transfers": {},
        "steps": {},
    }


def versions() -> dict[str, str]:
    """Of this package, Python, and those of `_PACKAGES` that are installed."""
    from . import __version__

    found = {"gpucoadd": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _speeds(document: dict[str, Any], bench: Bench, repeats: int, say: Callable[[str], None]) -> None:
    """Copy within memory, and transfers over the bus."""
    xp, like = bench.xp, 12 * bench.n_samples
    document["copy"] = timing.copy_speed(xp, repeats=max(repeats, 5), like=like)
    where = "host, one thread" if is_host(xp) else document["device"]
    say(f"{bench.n_epochs} epochs of {bench.size} x {bench.size} pixels, seed {bench.seed}, {bench.threads} threads")
    say(f"{'copy':<22}{document['copy']['bytes_per_second'] / 1e9:10.1f} GB/s, read and written ({where})")
    if not is_host(xp):
        document["transfers"] = timing.transfer_speeds(xp, repeats=max(repeats, 5), like=like)
        for name, speed in document["transfers"].items():
            say(f"{name:<22}{speed['bytes_per_second'] / 1e9:10.1f} GB/s")


def _measured(step: Step, bench: Bench, repeats: int, copy: float) -> dict[str, Any]:
    timings = measure(step.build(bench), bench.xp, repeats=repeats, patience=PATIENCE)
    floor, seconds = step.floor.of(bench), timings.median
    return {
        "seconds": timings.summary(),
        "floor_bytes": floor,
        "bytes_per_second": floor / seconds,
        "share_of_copy": floor / seconds / copy,
        "pixels_per_second": bench.n_pixels / seconds,
        "samples_per_second": (bench.n_samples if step.of_stack else bench.n_pixels) / seconds,
    }


_HEADING = (
    f"{'step':<22}{'seconds':>10}{'least':>10}{'most':>10}{'Mpix/s':>10}{'Msample/s':>11}{'GB/s':>9}{'of copy':>9}"
)


def _row(name: str, line: dict[str, Any]) -> str:
    if "failed" in line:
        return f"{name:<22}failed: {line['failed']}"
    seconds = line["seconds"]
    times = "".join(f"{seconds[which]:10.3g}" for which in ("median", "min", "max"))
    speeds = f"{line['pixels_per_second'] / 1e6:10.4g}{line['samples_per_second'] / 1e6:11.4g}"
    return f"{name:<22}{times}{speeds}{line['bytes_per_second'] / 1e9:9.3g}{line['share_of_copy']:9.1%}"


def save(document: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write `document` as JSON; at any moment, `path` is a complete file or, before the first time, none."""
    aside = f"{os.fspath(path)}.part"
    with open(aside, "w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=1)
        stream.write("\n")
    os.replace(aside, path)
