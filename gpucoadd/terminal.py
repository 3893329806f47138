"""
What a command says: results, errors, warnings and log as single lines, and a bar for each step.

Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import contextlib
import linecache
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from .arguments import UsageError
from .workers import Progress


def say(text: str) -> None:
    """A line about the command itself, on stderr."""
    print(f"gpucoadd: {text}", file=sys.stderr)


def tell(name: str, value: str) -> None:
    """A line of the result, on stdout."""
    print(f"{name:<14}{value}")


def message_of(error: BaseException) -> str:
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


def is_users(error: BaseException) -> bool:
    """
    Whether `error` tells the user something to change.

    Files, memory, missing packages and the command line always do. Of the rest, what a `raise` statement of this
    package says in so many words, or what astropy found wrong in a file; the same exception type out of the middle
    of a computation is our mistake.
    """
    if isinstance(error, (OSError, MemoryError, ImportError, UsageError)):
        return True
    places = list(traceback.walk_tb(error.__traceback__))
    if not places or not isinstance(error, (ValueError, KeyError, TypeError, RuntimeError)):
        return False
    frame, number = places[-1]  # where it arose; of a statement over several lines, the first
    module = frame.f_globals.get("__name__", "")
    if module.startswith("astropy.io.fits"):
        return True
    line = linecache.getline(frame.f_code.co_filename, number, frame.f_globals)
    return module.split(".")[0] == "gpucoadd" and line.lstrip().startswith("raise ")


class _Noter(logging.Handler):
    """Hands each record to a function, as one line."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        self._note(f"gpucoadd: {level}{' '.join(record.getMessage().split())}")


@contextlib.contextmanager
def one_line_messages(*, verbose: bool) -> Iterator[None]:
    """
    Python's warnings and the package's log, as single lines on stderr.

    They come when the command has done its work; after a mistake its one line stands alone. With `verbose` they
    come as they arise.
    """
    import astropy  # noqa: F401  it brings a hook of its own for warnings, which must not come after ours

    held: list[str] = []

    def note(line: str) -> None:
        if verbose:
            print(line, file=sys.stderr)
        else:
            held.append(line)

    def show(message: Warning | str, *place: Any, **more: Any) -> None:
        note(f"gpucoadd: warning: {' '.join(str(message).split())}")

    logger = logging.getLogger("gpucoadd")
    handler = _Noter(note)
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
def progress_bars() -> Iterator[Progress | None]:
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
