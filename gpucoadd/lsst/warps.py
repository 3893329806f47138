"""
Deferred warps as a stack whose pixels are read when a step asks for them.

A warp is looked at through the one row that is read first: its kind, planes, unit, PSF and WCS. Its pixels are read in
boxes, and kept for the next step as far as there is room.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np

from ..backend import Array
from ..boxes import Box, as_box, box_like
from ..exposure_masks import translated
from ..exposure_parts import box_of
from ..exposure_psfs import psf_of, psf_sigma
from ..exposures import from_lsst, unit_of
from ..images import MaskedImage, WarpStack
from ..masks import MaskSchema
from ..point_spread import Psf

_BYTES_PER_PIXEL = 12  # image, variance, mask


def bytes_of_warp(box: Box) -> int:
    """What the pixels of a warp take in memory."""
    return _BYTES_PER_PIXEL * box.width * box.height


class Room:
    """
    How many bytes of pixels may be kept; shared by warps that are read in threads.

    Parameters
    ----------
    n_bytes : int
    """

    def __init__(self, n_bytes: int) -> None:
        self._left = n_bytes
        self._lock = threading.Lock()

    def take(self, n_bytes: int) -> bool:
        """Whether there was room for so many, which are taken then."""
        with self._lock:
            fits = n_bytes <= self._left
            self._left -= n_bytes if fits else 0
            return fits


class WarpRef:
    """
    One deferred warp.

    Parameters
    ----------
    handle : object
        With ``get(parameters={"bbox": box})``, as the engine's deferred dataset handles; one that has the exposure in
        memory; or an exposure itself.
    bbox : object
        Pixels of the patch, any box that `gpucoadd.exposures.as_box` takes; boxes for `handle` are of its class.
    room : Room
        For its pixels, once they have been read.

    Attributes
    ----------
    dataId
        That of `handle`; None if it has none.
    bbox
        As given.
    box : Box
        The same.
    row : object
        The first row of the patch, in the kind that the warp has.
    schema : MaskSchema
        Planes of the mask, with the bits that `read` gives.
    seconds : float
        Spent on reading so far, in all threads together.

    Raises
    ------
    TypeError
        If `bbox` is no box, or the warp of no kind that `gpucoadd.from_lsst` takes.
    """

    def __init__(self, handle: Any, bbox: Any, room: Room) -> None:
        self._handle, self.bbox, self._room = handle, bbox, room
        self.box = as_box(bbox)
        self.dataId = getattr(handle, "dataId", None)
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._planes: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self.row = self._get(self.box._replace(height=1))
        self.schema = from_lsst(self.row).schema

    @property
    def kept(self) -> bool:
        """Whether the pixels are in memory."""
        return self._planes is not None

    def get(self, **more: Any) -> Any:
        """As that of the handle."""
        return self._handle.get(**more) if hasattr(self._handle, "get") else self._handle

    def whole(self) -> Any:
        """The exposure of the patch, in the kind that the warp has."""
        return self._get(self.box)

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Some rows of the patch.

        Parameters
        ----------
        rows : slice
            Counted from the first of the patch; with begin and end.

        Returns
        -------
        numpy.ndarray, shape (rows, x)
            Image and variance, float32, and mask, int32, with bits as in `schema`. Not to be written to.

        Raises
        ------
        ValueError
            If the warp does not cover these rows.
        TypeError
            If its pixels are of no dtype that `gpucoadd.MaskedImage` takes.
        """
        if self._planes is not None:
            image, variance, mask = self._planes
            return image[rows], variance[rows], mask[rows]
        box = self.box._replace(y0=self.box.y0 + rows.start, height=rows.stop - rows.start)
        start = time.perf_counter()
        planes = self._cut(from_lsst(self._get(box)), box)
        with self._lock:
            self.seconds += time.perf_counter() - start
            if box == self.box and self._planes is None and self._room.take(bytes_of_warp(box)):
                self._planes = planes
        return planes

    def _get(self, box: Box) -> Any:
        in_memory = getattr(self._handle, "inMemoryDataset", None)
        if in_memory is not None:
            return in_memory
        if not hasattr(self._handle, "get"):
            return self._handle
        return self._handle.get(parameters={"bbox": self._box_object(box)})

    def _box_object(self, box: Box) -> Any:
        """A box for the handle; that of the patch where no other of its class can be made."""
        if box == self.box:
            return self.bbox
        try:
            return box_like(box, self.bbox)
        except (TypeError, AttributeError):
            return self.bbox

    def _cut(self, exposure: MaskedImage, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Planes of `box`, of an exposure that may have more pixels."""
        try:
            window = box.within(box_of(exposure))
        except ValueError as error:
            raise ValueError(f"warp {self.dataId}: {error}; all warps must cover the patch") from None
        planes = exposure.image, exposure.variance
        image, variance = (plane[window].astype(np.float32, copy=False) for plane in planes)
        return image, variance, exposure.mask[window]


def as_refs(handles: Sequence[Any], bbox: Any, room: Room | None = None) -> list[Any]:
    """A `WarpRef` for each handle that is none yet; None stays None."""
    room = Room(0) if room is None else room
    ready = (WarpRef, type(None))
    return [handle if isinstance(handle, ready) else WarpRef(handle, bbox, room) for handle in handles]


class _RefSource:
    """Planes of some warps, with bits as one schema names them."""

    in_memory = False

    def __init__(self, refs: Sequence[WarpRef], schema: MaskSchema) -> None:
        self._refs, self._schema = refs, schema
        self.shape = (len(refs), *refs[0].box.shape)

    @property
    def seconds_reading(self) -> float:
        """Of all threads together."""
        return sum(ref.seconds for ref in self._refs)

    def read(self, epoch: int, rows: slice) -> tuple[Array, Array, Array]:
        ref = self._refs[epoch]
        image, variance, mask = ref.read(slice(*rows.indices(self.shape[1])))
        return image, variance, translated(mask, ref.schema, self._schema.planes)

    @contextlib.contextmanager
    def raw(self, epoch: int, rows: slice) -> Iterator[None]:
        """Never: they are no bytes of a file."""
        yield None

    def close(self) -> None:
        """Nothing is open."""


def stack_of(
    refs: Sequence[WarpRef],
    *,
    scalers: Sequence[float | None] | None = None,
    wcs: Any = None,
    epochs: Sequence[Hashable] | None = None,
    device: str = "cpu",
) -> WarpStack:
    """
    The warps as a stack, whose planes are those of the first warp and what the others have besides.

    Parameters
    ----------
    refs : sequence of WarpRef
        At least one, of one patch.
    scalers : sequence of float or None, optional
        Factor of each warp's fluxes; None for 1.
    wcs : object, optional
        Of the patch; that of the first warp when left out.
    epochs : sequence of hashable, optional
        Ids; see `epoch_ids`.
    device : str
        As in `gpucoadd.backend.resolve_device`.

    Returns
    -------
    WarpStack
        Without twins. Pixels are read, in float32, when a step asks for them.

    Raises
    ------
    ValueError
        If there are more or fewer scalers than warps.
    TypeError
        If a scaler is no number.
    """
    schema = common_schema(refs)
    stack = WarpStack.from_source(
        _RefSource(refs, schema),
        schema=schema,
        psf_sigma=[psf_sigma(ref.row) for ref in refs],
        psfs=[_psf(ref) for ref in refs],
        epochs=epoch_ids(refs) if epochs is None else epochs,
        origin=refs[0].box.origin,
        wcs=from_lsst(refs[0].row).wcs if wcs is None else wcs,
        inputs=[str(ref.dataId) for ref in refs],
    )
    factors = _factors(scalers, len(refs))
    if any(factor != 1 for factor in factors):
        stack = stack.scaled(factors)
    return stack.to_device(device)


def check_units(refs: Sequence[WarpRef], *, may_be_missing: bool = False) -> None:
    """ValueError if a warp is not in nJy, or does not tell its unit and has to."""
    for ref in refs:
        unit = unit_of(ref.row)
        if unit != "nJy" and not (unit is None and may_be_missing):
            raise ValueError(f"warp {ref.dataId} must be in nJy (BUNIT, or unit), got {unit!r}; calibrate it before")


def common_schema(refs: Sequence[WarpRef]) -> MaskSchema:
    """Planes of the first warp with its bits, and those that the others have besides."""
    schema = refs[0].schema
    for ref in refs[1:]:
        schema = schema.with_planes(*ref.schema)
    return schema


def epoch_ids(refs: Sequence[Any]) -> list[Hashable]:
    """Visits, where every warp has one of its own; else the positions."""
    visits = [_visit(ref) for ref in refs]
    return list(range(len(refs))) if None in visits or len(set(visits)) < len(visits) else visits


def by_data_id(refs: Sequence[Any]) -> dict[Hashable, Any]:
    """
    The warps, or the places of datasets, by `data_key`.

    Raises
    ------
    ValueError
        If one has no data id, or two have the same.
    """
    found = {data_key(ref): ref for ref in refs}
    if len(found) < len(refs) or None in found or frozenset() in found:
        raise ValueError(
            "warps and their PSF-matched twins are matched by their data ids, so each must have one of its own, such "
            f"as visit=7; got {', '.join(str(getattr(ref, 'dataId', None)) for ref in refs)}"
        )
    return found


def data_key(ref: Any) -> Hashable:
    """What a warp and its twin have in common: the data id, of the engine's kind, a mapping, or any other id."""
    data_id: Any = getattr(ref, "dataId", None)
    required: Any = getattr(data_id, "required", data_id)
    return frozenset(required.items()) if hasattr(required, "items") else required


def _visit(ref: Any) -> Hashable:
    data_id = getattr(ref, "dataId", None)
    try:
        return None if data_id is None else data_id["visit"]
    except (KeyError, TypeError):
        return None


def _psf(ref: WarpRef) -> Psf | None:
    """PSF of a warp, if it is ours: only then the coadd can be given one."""
    psf = psf_of(ref.row)
    return psf if isinstance(psf, Psf) else None


def _factors(scalers: Sequence[float | None] | None, n_warps: int) -> list[float]:
    if scalers is not None and len(scalers) != n_warps:
        raise ValueError(f"imageScalerList has {len(scalers)} entries but there are {n_warps} warps; give one for each")
    factors = [1.0 if scaler is None else scaler for scaler in scalers or [None] * n_warps]
    for factor in factors:
        if not isinstance(factor, Real) or not math.isfinite(factor):
            raise TypeError(
                f"an image scaler must be None or a number, the factor of the warp's fluxes, got {factor!r}; one that "
                "varies over the image is not supported"
            )
    return [float(factor) for factor in factors]
