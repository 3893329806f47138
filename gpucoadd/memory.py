"""The memory bound: what a coadd needs anyway, and how many decoded epochs may stay in what is left."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .backend import Array
from .images import PlaneSource, WarpStack
from .workers import Work

logger = logging.getLogger(__name__)

_BYTES_PER_PIXEL = 12  # image, variance, mask
_FIXED_BYTES_PER_PIXEL = 150  # the results, and one epoch with what is made of it while it is searched
_FIXED_BYTES_PER_SAMPLE = 0.7  # flags of every epoch, and its footprints where a few per cent of the pixels are in one


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


@contextmanager
def bounded(warps: WarpStack, work: Work) -> Iterator[tuple[WarpStack, WarpStack, Work]]:
    """
    Direct and PSF-matched stacks (the same one, without twins) that read files as seldom as memory allows.

    The bound holds for all but the interpreter and inputs in memory. What is left after the results and one epoch
    at work goes, one half to decoded epochs, the matched first since they are needed most often, the other to the
    work; the `Work` given back says how much.
    """
    matched = warps if warps.psf_matched is None else warps.psf_matched
    n_epochs, n_rows, n_columns = warps.shape
    least = int(n_rows * n_columns * (_FIXED_BYTES_PER_PIXEL + _FIXED_BYTES_PER_SAMPLE * n_epochs))
    if work.memory <= least:
        logger.warning(
            "memory bound of %.0f MB is less than the %.0f MB that a patch of %d x %d pixels and %d epochs takes; "
            "going on with the least",
            work.memory / 1e6,
            least / 1e6,
            n_rows,
            n_columns,
            n_epochs,
        )
    work = work._replace(memory=max(work.memory - least, least // 4))  # bands of a few rows would read files for ever
    if warps.source.in_memory and matched.source.in_memory:
        yield warps, matched, work
        return
    room = work.memory // 2 // (_BYTES_PER_PIXEL * n_rows * n_columns)
    matched_room = min(room, matched.shape[0])
    kept_matched = _with_source(matched, matched_room)
    kept_direct = kept_matched if matched is warps else _with_source(warps, room - matched_room)
    yield kept_direct, kept_matched, work._replace(memory=work.memory // 2)


def _with_source(warps: WarpStack, n_epochs: int) -> WarpStack:
    return WarpStack.from_source(
        _Kept(warps.source, n_epochs),
        schema=warps.schema,
        psf_sigma=warps.psf_sigma,
        epochs=warps.epochs,
        origin=warps.origin,
        wcs=warps.wcs,
        unit=warps.unit,
        inputs=warps.inputs,
    )
