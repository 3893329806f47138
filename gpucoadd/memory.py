"""
The memory that pixels are in, the host's or a device's: its bound, how much work fits under it, and what happens when
a device is full all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from .backend import device_of, free_bytes, free_memory, is_host, out_of_memory
from .images import ArraySource, WarpStack
from .workers import check_memory, cut

logger = logging.getLogger(__name__)

# Of a device's free memory. Nothing pages there, so all but a reserve for what libraries take unasked and for gaps
# between arrays; a guess that was too high costs one smaller group, as `in_pieces` has it.
_DEVICE_SHARE = 0.8
LARGEST_GROUP = 2**31 - 1  # samples whose flat indices fit int32

T = TypeVar("T")


def stack_device(warps: WarpStack) -> int | None:
    """Number of the device that the pixels of a stack are given on; None for the host."""
    return source_device(warps.source)


def source_device(source: Any) -> int | None:
    """As `stack_device`, of the pixels of a source."""
    if isinstance(source, ArraySource) and not hasattr(source, "device"):
        return device_of(source.image)
    device: int | None = getattr(source, "device", None)
    return device


def memory_bound(memory: int | None, warps: WarpStack) -> int:
    """
    The memory bound in bytes: the given number, or 80 % of what is free on the device, or half of the host's memory.

    Raises
    ------
    ValueError
        If the number is not positive.
    """
    device = stack_device(warps)
    return check_memory(memory) if memory is not None or device is None else int(_DEVICE_SHARE * free_bytes(device))


def room(xp: Any) -> int:
    """Bytes that new arrays of the module `xp` can have; a bound that never binds where the system does not tell."""
    if not is_host(xp):
        return free_bytes(int(xp.cuda.Device().id))
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            fields = dict(line.split(":", 1) for line in stream)
        return int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return 1 << 62


def as_size(n_bytes: int) -> str:
    """
    A number of bytes for a message.

    Examples
    --------
    >>> as_size(4_200_000_000), as_size(7_600_000), as_size(7600), as_size(76)
    ('4200 MB', '8 MB', '8 kB', '76 bytes')
    """
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.0f} {unit}"
    return f"{n_bytes} bytes"


def group_size(n_items: int, samples: int, *, bytes_per_sample: float, memory: int) -> int:
    """
    How many epochs, or rows, go together.

    Parameters
    ----------
    n_items : int
        All of them.
    samples : int
        In each of them.
    bytes_per_sample : float
        What work on them takes.
    memory : int
        Bytes that it may take.

    Returns
    -------
    int
        From 1 to `n_items`; with less than 2**31 samples together, if more than one.
    """
    return max(1, min(n_items, int(memory / (bytes_per_sample * samples)), LARGEST_GROUP // samples))


def in_pieces(
    run: Callable[[Sequence[slice]], Iterable[T]], total: int, size: int, *, what: str
) -> Iterator[tuple[slice, T]]:
    """
    Work on range(total) piece by piece; with pieces half as large from there on when the device is full.

    Parameters
    ----------
    run : callable
        ``run(pieces)`` gives the results of these pieces one after another. It is called again, with the pieces that
        are left, after it has raised the device's out-of-memory error: that work is best a generator, which forgets
        its arrays when it fails. One that reads ahead, as `reading.read_groups`, can go on with it from piece to piece.
    total : int
    size : int
        Of the first pieces.
    what : str
        The things that are cut, plural, for messages.

    Yields
    ------
    slice, object
        A piece, and its result. What the caller does with it is not tried again.

    Raises
    ------
    MemoryError
        If the device is full with a piece of 1.

    Examples
    --------
    >>> list(in_pieces(lambda pieces: (10 * piece.start for piece in pieces), 5, 2, what="rows"))
    [(slice(0, 2, None), 0), (slice(2, 4, None), 20), (slice(4, 5, None), 40)]
    """
    done = 0
    while done < total:
        pieces = [slice(done + piece.start, done + piece.stop) for piece in cut(total - done, size)]
        results = iter(run(pieces))
        try:
            for piece in pieces:
                result = next(results)
                done = piece.stop
                yield piece, result
                del result  # as large as the next may be
        except out_of_memory() as error:
            size = _halved(piece.stop - piece.start, what, error)
        else:
            return
        free_memory()  # not before the error, whose traceback holds arrays, is gone


def at_most(allocate: Callable[[int], T], size: int, *, what: str) -> T:
    """``allocate(size)``, or with half of it, and so on, while the device is full; as `in_pieces` otherwise."""
    while True:
        try:
            return allocate(size)
        except out_of_memory() as error:
            size = _halved(size, what, error)
        free_memory()


def _halved(size: int, what: str, error: BaseException) -> int:
    if size <= 1:
        raise MemoryError(
            f"the device is out of memory even with 1 of the {what} at a time; end other programs on it (nvidia-smi "
            "lists them), use a device with more memory, or device='cpu'"
        ) from error
    logger.warning("the device is out of memory with %d %s at a time; going on with %d", size, what, size // 2)
    return size // 2
