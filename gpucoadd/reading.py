"""Groups of epochs, and bands of rows, of a stack in memory or in files; on a device, read ahead of the work."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .backend import Array, array_module, using
from .images import ArraySource, WarpStack
from .workers import in_order
from .wrappers import SelectedSource

Planes = tuple[Array, Array, Array]


def read_epochs(warps: WarpStack, epochs: Sequence[int], rows: slice, *, threads: int = 1) -> Planes:
    """
    Some rows of some epochs.

    Parameters
    ----------
    warps : WarpStack
    epochs : sequence of int
        Positions in the stack, at least one.
    rows : slice
        Of step 1.
    threads : int
        That read files.

    Returns
    -------
    image, variance : array, shape (len(epochs), rows, x), float32
    mask : array, shape (len(epochs), rows, x), int32
        Views where the epochs follow each other in a stack in memory: callers do not write to them.

    Raises
    ------
    ValueError
        If a file cannot be decoded.
    """
    if _can_start(warps.source):
        (planes,) = read_groups(warps, [(epochs, rows)], threads=threads)
        return planes
    source = warps.source
    if isinstance(source, SelectedSource):
        source, epochs = source.source, source.below(epochs)
    if isinstance(source, ArraySource):
        return array_planes(source, epochs, rows)
    found = in_order(lambda epoch: source.read(epoch, rows), epochs, threads=threads)
    return together([(image[None], variance[None], mask[None]) for image, variance, mask in found])


def array_planes(source: ArraySource, epochs: Sequence[int], rows: slice) -> Planes:
    """Some rows of some epochs of arrays: views where the epochs follow each other."""
    first = epochs[0]
    if list(epochs) == list(range(first, first + len(epochs))):
        which = slice(first, first + len(epochs))
        return source.image[which, rows], source.variance[which, rows], source.mask[which, rows]
    return together([array_planes(source, [epoch], rows) for epoch in epochs])


def together(groups: Sequence[Planes]) -> Planes:
    """One group of the epochs of several; the very arrays where there is one only."""
    if len(groups) == 1:
        return groups[0]
    with using(groups[0][0]):
        xp = array_module(groups[0][0])
        image, variance, mask = (xp.concatenate(planes) for planes in zip(*groups, strict=True))
    return image, variance, mask


def read_groups(
    warps: WarpStack, groups: Iterable[tuple[Sequence[int], slice]], *, threads: int = 1, ahead: int = 1
) -> Iterator[Planes]:
    """
    `read_epochs` for one group after the other.

    On a device the next groups are decoded and copied while the caller works on one. The work must be asked for on the
    stream that is current when the generator is.

    Parameters
    ----------
    warps : WarpStack
    groups : iterable of (sequence of int, slice)
        Epochs and rows.
    threads : int
        That read files.
    ahead : int
        How many groups are under way to a device beside the one given. Each takes 14 bytes a sample there, and the
        sizes that `gpucoadd.groups` gives them count on 1.

    Yields
    ------
    image, variance, mask
        As from `read_epochs`.

    Raises
    ------
    ValueError
        If a file cannot be decoded.
    """
    source: Any = warps.source
    if not _can_start(source):
        for epochs, rows in groups:
            yield read_epochs(warps, epochs, rows, threads=threads)
        return
    under_way: deque[Any] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for epochs, rows in groups:
                under_way.append(source.start(epochs, rows, pool.submit))
                if len(under_way) > ahead:
                    yield under_way.popleft().finish()
            while under_way:
                yield under_way.popleft().finish()
        finally:
            for transfer in under_way:
                transfer.abandon()


def _can_start(source: Any) -> bool:
    """Whether planes of `source` come to a device from elsewhere, as those of `upload.DeviceSource`."""
    return hasattr(source, "start")
