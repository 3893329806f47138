"""How work is cut and shared: pieces of pixels, bands of rows, threads, memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[str, int, int], None]


def no_progress(step: str, done: int, total: int) -> None:
    """Progress callback that shows nothing."""


class Work(NamedTuple):
    """How a call may spend memory (bytes) and threads, and whom it tells."""

    memory: int
    threads: int = 1
    progress: Progress = no_progress


def check_threads(threads: int | None) -> int:
    """Number of threads: the given one, or one per processor this process may use."""
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if isinstance(threads, bool) or int(threads) != threads or threads < 1:
        raise ValueError(f"threads must be a whole number from 1 on, got {threads!r}")
    return int(threads)


def check_memory(memory: int | None) -> int:
    """The memory bound in bytes: the given number, or half of what the machine has."""
    if memory is None:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (AttributeError, OSError, ValueError):
            return 4 << 30
    if isinstance(memory, bool) or not memory > 0:
        raise ValueError(f"memory must be a positive number of bytes, got {memory!r}")
    return int(memory)


def in_order(function: Callable[[T], R], items: Iterable[T], *, threads: int) -> Iterator[R]:
    """`map` with threads: results in the order of `items`, at most `threads` + 1 of them in flight."""
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Any] = []
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def cut(total: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover range(total)."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]
