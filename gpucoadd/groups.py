"""
How the steps walk through a stack: group after group of epochs, or band after band of rows.

On the host an epoch goes by itself, several in threads, so that its planes stay near the processor. A device
takes as many at once as its memory holds, and the next are read meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from .images import WarpStack
from .memory import group_size, in_pieces, stack_device
from .reading import Planes, read_epochs, read_groups
from .workers import Work, cut, in_order

R = TypeVar("R")

_DEVICE_BYTES_PER_SAMPLE = 12  # that the steps take beside the planes
# Of planes that are not in memory: 14 of a group at work, and 14 of the next. It holds for groups that are read one
# ahead, as `read_groups` does unless told otherwise.
_READ_BYTES_PER_SAMPLE = 28


def by_epochs(
    function: Callable[[slice, Planes], R],
    warps: WarpStack,
    indices: Sequence[int],
    work: Work,
    *,
    bytes_per_pixel: int,
) -> Iterator[tuple[slice, R]]:
    """
    Whole planes, group after group of epochs.

    Parameters
    ----------
    function : callable
        ``function(piece, planes)``, called with a slice of `indices` and image, variance and mask of these epochs,
        (epoch, y, x). It changes nothing: when a device is full it is called again, with a part of them.
    warps : WarpStack
    indices : sequence of int
        Epochs, as positions in the stack.
    work : Work
    bytes_per_pixel : int
        What it takes on the host, where it has one epoch and is called by several threads.

    Yields
    ------
    slice, object
        Piece and result, in order.
    """
    rows, n_pixels = slice(0, warps.shape[1]), warps.shape[1] * warps.shape[2]
    if stack_device(warps) is None:
        threads = max(1, min(work.threads, work.memory // (bytes_per_pixel * n_pixels)))
        pieces = cut(len(indices), 1)

        def run_one(piece: slice) -> R:
            return function(piece, read_epochs(warps, indices[piece], rows))

        yield from zip(pieces, in_order(run_one, pieces, threads=threads))
        return

    def run(pieces: Sequence[slice]) -> Iterator[R]:
        groups = read_groups(warps, [(indices[piece], rows) for piece in pieces], threads=work.threads)
        for piece, planes in zip(pieces, groups, strict=True):
            yield function(piece, planes)

    size = group_size(len(indices), n_pixels, bytes_per_sample=_bytes_per_sample(warps), memory=work.memory)
    yield from in_pieces(run, len(indices), size, what="epochs")


def by_rows(
    function: Callable[[slice, Planes], R], warps: WarpStack, indices: Sequence[int], work: Work, *, host_rows: int
) -> Iterator[tuple[slice, R]]:
    """
    All epochs `indices`, band after band of rows: as `by_epochs`, but for ``function(rows, planes)``.

    On the host bands have `host_rows` rows, and `function` may use threads of its own.
    """

    def run(pieces: Sequence[slice]) -> Iterator[R]:
        bands = read_groups(warps, [(indices, rows) for rows in pieces], threads=work.threads)
        for rows, planes in zip(pieces, bands, strict=True):
            yield function(rows, planes)

    _, n_rows, n_columns = warps.shape
    size = host_rows
    if stack_device(warps) is not None:
        size = group_size(
            n_rows, len(indices) * n_columns, bytes_per_sample=_bytes_per_sample(warps), memory=work.memory
        )
    yield from in_pieces(run, n_rows, size, what="rows")


def _bytes_per_sample(warps: WarpStack) -> int:
    return _DEVICE_BYTES_PER_SAMPLE + (0 if warps.source.in_memory else _READ_BYTES_PER_SAMPLE)
