"""
Which decoded epochs stay in memory: those that the bound leaves room for, beside what a coadd needs anyway.

On the host an epoch stays once a step has read it. On a device the epochs that stay are on their way before the first
step; of a stack that does not fit, the others are read again whenever a step needs them.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from .backend import Array, device_module, using
from .images import ArraySource, PlaneSource, WarpStack
from .memory import as_size, at_most, stack_device
from .reading import Planes, array_planes, together
from .workers import Work

logger = logging.getLogger(__name__)

_BYTES_PER_PIXEL = 12  # image, variance, mask
_ARRIVING_BYTES_PER_PIXEL = 14  # and the mask as it is sent to a device
_FIXED_BYTES_PER_PIXEL = 150  # the results, and one epoch with what is made of it while it is searched
_FIXED_BYTES_PER_SAMPLE = 0.83  # flags of every epoch, and its footprints where a few per cent of the pixels are in one


def least_memory(shape: tuple[int, int, int]) -> int:
    """Bytes that a coadd of (epoch, y, x) takes beside decoded epochs."""
    n_epochs, n_rows, n_columns = shape
    return int(n_rows * n_columns * (_FIXED_BYTES_PER_PIXEL + _FIXED_BYTES_PER_SAMPLE * n_epochs))


@contextmanager
def bounded(warps: WarpStack, work: Work) -> Iterator[tuple[WarpStack, WarpStack, Work]]:
    """
    Direct and PSF-matched stacks (the same one, without twins) that read files as seldom as memory allows.

    The bound holds for all but the interpreter and inputs in memory. What is left after the results and one epoch
    at work goes, one half to decoded epochs, the matched first since they are needed most often, the other to the
    work; the `Work` given back says how much. On a device those epochs are on their way from now on, and whoever asks
    for the first of a stack waits for all of them; the others are read again and again.
    """
    matched = warps if warps.psf_matched is None else warps.psf_matched
    n_epochs, n_rows, n_columns = warps.shape
    least = least_memory(warps.shape)
    if work.memory <= least:
        logger.warning(
            "memory bound of %s is less than the %s that a patch of %d x %d pixels and %d epochs takes; "
            "going on with the least",
            as_size(work.memory),
            as_size(least),
            n_rows,
            n_columns,
            n_epochs,
        )
    work = work._replace(memory=max(work.memory - least, least // 4))  # bands of a few rows would read files for ever
    if warps.source.in_memory and matched.source.in_memory:
        yield warps, matched, work
        return
    bytes_per_pixel = _BYTES_PER_PIXEL if stack_device(matched) is None else _ARRIVING_BYTES_PER_PIXEL
    room = work.memory // 2 // (bytes_per_pixel * n_rows * n_columns)
    matched_room = min(room, matched.shape[0])
    with ExitStack() as arrivals:
        kept_matched = _keep(matched, matched_room, work, arrivals)
        kept_direct = kept_matched if matched is warps else _keep(warps, room - matched_room, work, arrivals)
        yield kept_direct, kept_matched, work._replace(memory=work.memory // 2)


def _keep(warps: WarpStack, n_epochs: int, work: Work, arrivals: ExitStack) -> WarpStack:
    """The stack, which keeps so many of its epochs in memory; `arrivals` ends what is still under way."""
    source: PlaneSource
    if warps.source.in_memory:
        return warps
    if stack_device(warps) is None:
        source = _Kept(warps.source, n_epochs)
    elif n_epochs < 1:
        return warps
    else:
        source = _resident(warps.source, min(n_epochs, warps.shape[0]), work, arrivals)
    return warps.with_source(source)


def _resident(source: Any, n_epochs: int, work: Work, arrivals: ExitStack) -> PlaneSource:
    """A source on a device that has its first epochs there: all of them if they fit, and then it is in memory."""
    with using(source.device):
        kept = at_most(lambda n: _Arriving(source, n, work), n_epochs, what="epochs")
    arrivals.callback(kept.abandon)
    return kept if kept.shape[0] == source.shape[0] else _PartlyResident(kept, source)


class _Kept:
    """A source that keeps the first epochs it reads as a whole, up to a number; the rest is read again."""

    in_memory = False

    def __init__(self, source: PlaneSource, n_epochs: int) -> None:
        self.source, self.shape = source, source.shape
        self._room = n_epochs
        self._planes: dict[int, tuple[Array, Array, Array]] = {}
        self._lock = threading.Lock()

    def read(self, epoch: int, rows: slice) -> tuple[Array, Array, Array]:
        kept = self._planes.get(epoch)
        if kept is not None:
            return kept[0][rows], kept[1][rows], kept[2][rows]
        planes = self.source.read(epoch, rows)
        if rows.start == 0 and rows.stop == self.shape[1]:
            with self._lock:
                if len(self._planes) < self._room:
                    self._planes[epoch] = planes
        return planes


class _Arriving(ArraySource):
    """Arrays on a device that are being filled from elsewhere, while nobody asks for them."""

    def __init__(self, source: Any, n_epochs: int, work: Work) -> None:
        xp = device_module()
        self.shape, self.device = (n_epochs, *source.shape[1:]), source.device
        self._planes = tuple(xp.empty(self.shape, dtype=dtype) for dtype in (np.float32, np.float32, np.int32))
        self._progress = work.progress
        self._pool = ThreadPoolExecutor(work.threads)
        self._transfers: list[Any] = []
        try:
            for epoch in range(n_epochs):
                target = tuple(plane[epoch : epoch + 1] for plane in self._planes)
                transfer = source.start([epoch], slice(0, self.shape[1]), self._pool.submit, target)
                self._transfers.append(transfer)
        except BaseException:
            self.abandon()
            raise

    def _plane(self, which: int) -> Array:
        """One of the arrays, when all have been filled; ValueError if a file cannot be decoded."""
        n_epochs = self.shape[0]
        try:
            while self._transfers:
                self._transfers[0].finish()
                del self._transfers[0]
                self._progress("reading", n_epochs - len(self._transfers), n_epochs)
        except BaseException:
            self.abandon()
            raise
        return self._planes[which]

    image = property(lambda self: self._plane(0))  # type: ignore[assignment]
    variance = property(lambda self: self._plane(1))  # type: ignore[assignment]
    mask = property(lambda self: self._plane(2))  # type: ignore[assignment]

    def abandon(self) -> None:
        """Give up what is still under way."""
        while self._transfers:
            self._transfers.pop().abandon()
        self._pool.shutdown()


class _PartlyResident:
    """A source on a device whose first epochs are there; the others come from elsewhere whenever they are read."""

    in_memory = False

    def __init__(self, kept: ArraySource, rest: Any) -> None:
        self.shape, self.device = rest.shape, rest.device
        self._kept, self._rest, self._n_kept = kept, rest, kept.shape[0]

    def read(self, epoch: int, rows: slice) -> Planes:
        return (self._kept if epoch < self._n_kept else self._rest).read(epoch, rows)

    def start(self, epochs: Sequence[int], rows: slice, submit: Any) -> _Joined:
        """As `upload.DeviceSource.start`, but for `out`."""
        joined = _Joined()
        try:
            for is_kept, run in itertools.groupby(epochs, key=lambda epoch: epoch < self._n_kept):
                some = list(run)
                part = array_planes(self._kept, some, rows) if is_kept else self._rest.start(some, rows, submit)
                joined.parts.append(part)
        except BaseException:
            joined.abandon()
            raise
        return joined


class _Joined:
    """Planes that are there, and transfers, as one `upload.Transfer`."""

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def finish(self) -> Planes:
        try:
            planes = [part if isinstance(part, tuple) else part.finish() for part in self.parts]
        except BaseException:
            self.abandon()
            raise
        return together(planes)

    def abandon(self) -> None:
        for part in self.parts:
            if not isinstance(part, tuple):
                part.abandon()
