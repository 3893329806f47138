"""
The input map: which detector of which epoch went into each part of a coadd, as a healsparse map.

Every detector has a bit, set where its outline covers the centre of a map pixel inside the patch. In map pixels where
an epoch has too many bad coadd pixels, the bits of its detectors are cleared. Bad is what the final stack rejected:
artifacts, and the planes that reject, as they are after all changes to the masks.

Detectors are an astropy table, or a file that `astropy.table.Table.read` knows, with these columns:

====================  =====================================================================================
column                meaning; unit where the column has none
====================  =====================================================================================
``epoch``             id, as in the stack; rows of other epochs are left out
``detector``          number or name
``ra``, ``dec``       corners of the detector's good area, ICRS; degrees
====================  =====================================================================================

A row holds all corners of a detector (an array in each of ``ra`` and ``dec``, padded with NaN where others have more),
or one corner, and then the rows of a detector together make it. As in LSST, the convex hull of the corners counts.

Why on the host: healsparse and hpgeom work there. From a device comes one bit for each pixel and epoch.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .assembly_config import AssemblyConfig, InputMap
from .backend import Array
from .images import WarpStack
from .outputs import Staging
from .planes import Flags, host_planes
from .sky import check_wcs, outline, pixel_scale, sky, vectors
from .tables import as_known, in_unit, read_table, scalars
from .workers import cut

logger = logging.getLogger(__name__)

_MOST_BITS = 10_000  # that the names of the metadata have room for
_AT_ONCE = 1 << 20  # pixels, each of which takes some 100 bytes where an epoch is bad
_ARCSEC2 = (180 / np.pi * 3600) ** 2  # in a steradian


class Detector(NamedTuple):
    """One detector of one epoch: its id, and the corners of its outline in ICRS degrees, convex and in turn."""

    epoch: Hashable
    name: Any
    ra: np.ndarray
    dec: np.ndarray


def wanted_detectors(detectors: Any, config: AssemblyConfig, warps: WarpStack) -> list[Detector] | None:
    """
    What an input map is to be made of, looked at before the work of a coadd begins; None if none is wanted.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        If the table, or a row of it, or the WCS of the warps cannot be used; if a map is wanted and there is no table.
    ImportError
        If healsparse is not installed.
    """
    if detectors is None:
        if config.input_map.enabled:
            raise ValueError(
                "input_map (doInputMap) is on but there are no detectors; give detectors= (--detectors), or turn it off"
            )
        return None
    _packages()
    check_wcs(warps.wcs, "input maps")
    if not np.isfinite(sky(warps.wcs, *outline(warps.shape[1:]))).all():
        raise ValueError("input maps need a patch that lies on the sky; by its WCS a corner does not")
    return read_detectors(detectors, warps.epochs)


def read_detectors(detectors: Any, epochs: Sequence[Hashable]) -> list[Detector]:
    """
    Detectors of the epochs with the ids `epochs`, in the order of the table, whose columns are those above.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        If the table cannot be used, has none of the epochs, or an outline is no polygon.
    """
    table = read_table(detectors, "detectors", ("epoch", "detector", "ra", "dec"))
    if not len(table):
        raise ValueError("detectors has no rows; give a row for each detector")
    ids = as_known(scalars(table, "epoch"), epochs)
    found = _corners(table, ids, set(epochs))
    if not found:
        raise ValueError(
            f"detectors has none of an epoch of the stack: its first row is of epoch {ids[0]!r}, the stack has "
            f"{epochs[0]!r} and others"
        )
    if len(found) > _MOST_BITS:
        raise ValueError(f"detectors has {len(found)} detectors of these epochs; the map has room for {_MOST_BITS}")
    without = [epoch for epoch in epochs if epoch not in {key[0] for key in found}]
    if without:
        logger.warning("no detectors are given for %d epochs, such as %r; the map lacks them", len(without), without[0])
    return [Detector(*key, *_hull(key, *corners)) for key, corners in found.items()]


def _corners(table: Any, ids: Sequence[Any], known: set[Hashable]) -> dict[tuple[Any, Any], tuple[list, list]]:
    """Right ascensions and declinations of the corners, by epoch and detector."""
    columns = [table["ra"], table["dec"]]
    one_each = all(column.ndim == 1 and column.dtype.kind != "O" for column in columns)
    found: dict[tuple[Any, Any], tuple[list, list]] = {}
    rows = zip(ids, scalars(table, "detector"), _cells(table, "ra"), _cells(table, "dec"), strict=True)
    for epoch, name, ra, dec in rows:
        if epoch not in known:
            continue
        key = (epoch, name)
        if ra.shape != dec.shape:
            raise ValueError(f"detector {name!r} of epoch {epoch!r} has {ra.size} ra and {dec.size} dec; give pairs")
        if key in found and not one_each:
            raise ValueError(f"detector {name!r} of epoch {epoch!r} is there twice; one row holds all its corners")
        there = ~(np.isnan(ra) & np.isnan(dec))
        if not (np.isfinite(ra[there]).all() and (np.abs(dec[there]) <= 90).all()):
            raise ValueError(f"detector {name!r} of epoch {epoch!r} has a corner that is no position on the sky")
        for corners, values in zip(found.setdefault(key, ([], [])), (ra, dec), strict=True):
            corners.extend(values[there])
    return found


def _cells(table: Any, column: str) -> list[np.ndarray]:
    """Each row of a column as an array, (corner,) float64, in degrees."""
    if table[column].dtype.kind != "O":
        return list(in_unit(table, column, "deg").reshape(len(table), -1))
    cells = []
    for cell in table[column]:
        one = table[column][:0].copy()  # keeps the unit
        cells.append(in_unit({column: type(one)(np.ravel(cell), unit=one.unit)}, column, "deg"))
    return cells


def _hull(key: tuple[Any, Any], ra: Any, dec: Any) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the convex hull, in turn: that of their gnomonic projection, which keeps great circles straight."""
    from scipy.spatial import ConvexHull, QhullError

    ra, dec = np.array(ra, np.float64), np.array(dec, np.float64)
    directions = vectors(ra, dec)
    middle = directions.sum(axis=0)
    middle /= np.linalg.norm(middle) or 1.0
    depth = directions @ middle
    if len(ra) < 3 or not (depth > 0).all():
        raise ValueError(
            f"detector {key[1]!r} of epoch {key[0]!r} has {len(ra)} corners; an outline has three or more, on one side "
            "of the sky"
        )
    east = np.cross([0.0, 0.0, 1.0] if abs(middle[2]) < 0.9 else [1.0, 0.0, 0.0], middle)
    plane = np.stack([directions @ east, directions @ np.cross(middle, east)], axis=-1) / depth[:, np.newaxis]
    try:
        corners = ConvexHull(plane).vertices
    except QhullError:
        raise ValueError(
            f"the corners of detector {key[1]!r} of epoch {key[0]!r} lie on one line; an outline encloses some sky"
        ) from None
    return ra[corners], dec[corners]


class InputMapper:
    """
    An input map in the making: outlines first, then bad pixels band by band.

    Parameters
    ----------
    detectors : sequence of Detector
    config : InputMap
    warps : WarpStack
        For its grid.
    epochs : sequence of hashable
        Ids of the epochs in the stack, in order; detectors of others get no bit.
    weights : sequence of float
        Of these epochs, for the metadata.
    reject : int
        Mask bits that make a pixel bad.
    """

    def __init__(
        self,
        detectors: Sequence[Detector],
        config: InputMap,
        *,
        warps: WarpStack,
        epochs: Sequence[Hashable],
        weights: Sequence[float],
        reject: int,
    ) -> None:
        self._wcs, self._nside, self._reject = warps.wcs, config.nside, reject
        position = {epoch: number for number, epoch in enumerate(epochs)}
        used = [detector for detector in detectors if detector.epoch in position]
        self._bits: dict[int, list[int]] = {}
        for bit, detector in enumerate(used):
            self._bits.setdefault(position[detector.epoch], []).append(bit)
        self._map = _drawn(used, config, warps)
        self._map.metadata = {
            f"B{bit:04d}{key}": _card(value)
            for bit, detector in enumerate(used)
            for key, value in (
                ("CCD", detector.name),
                ("VIS", detector.epoch),
                ("WT", weights[position[detector.epoch]]),
            )
        }
        self._pixels = np.sort(self._map.valid_pixels)
        if not len(self._pixels):
            logger.warning("no detector's outline reaches the patch; the input map is empty")
        self._bad = np.zeros((len(epochs), len(self._pixels)), dtype=np.int64)
        area = _packages()[1].nside_to_pixel_area(config.nside, degrees=False) * _ARCSEC2
        self._most_bad = config.max_bad_share * area / pixel_scale(warps.wcs, warps.shape[1:]) ** 2

    def count(self, rows: slice, masks: Array) -> np.ndarray:
        """
        Bad pixels of some rows.

        Parameters
        ----------
        rows : slice
            Of the patch.
        masks : array, shape (epoch, rows, x), int32
            As the stack used them.

        Returns
        -------
        numpy.ndarray, shape (epoch, map pixel), int64
            For `add`.

        Notes
        -----
        Copies a bit per pixel and epoch from a device, and waits for it. The sky is looked up where any epoch is bad.
        """
        counts = np.zeros_like(self._bad)
        if len(self._pixels):
            n_rows, n_columns = masks.shape[1:]
            for band in cut(n_rows, max(1, _AT_ONCE // n_columns)):
                self._count(rows.start + band.start, masks[:, band], counts)
        return counts

    def _count(self, first_row: int, masks: Array, counts: np.ndarray) -> None:
        bad = {at: host_planes(Flags.of((masks[at : at + 1] & self._reject) != 0))[0] for at in self._bits}
        anywhere = np.logical_or.reduce(list(bad.values()))
        y, x = np.nonzero(anywhere)
        where = self._where(y + first_row, x)
        for at, plane in bad.items():
            counts[at] += np.bincount(where[plane[anywhere]], minlength=len(self._pixels) + 1)[:-1]

    def _where(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Position in `_pixels` of the map pixel that each pixel's centre is in; their number where it is in none."""
        ra, dec = sky(self._wcs, y, x)
        on_sky = np.isfinite(ra) & np.isfinite(dec)
        where = np.full(len(y), len(self._pixels), dtype=np.intp)
        number = _packages()[1].angle_to_pixel(self._nside, ra[on_sky], dec[on_sky])
        place = np.minimum(np.searchsorted(self._pixels, number), len(self._pixels) - 1)
        where[on_sky] = np.where(self._pixels[place] == number, place, len(self._pixels))
        return where

    def add(self, counts: np.ndarray) -> None:
        """Take what `count` gave for rows that were not yet taken."""
        self._bad += counts

    def finish(self) -> Any:
        """The map, a `healsparse.HealSparseMap`, less the epochs that are bad in a pixel; the mapper is done then."""
        for at, bits in self._bits.items():
            bad = self._pixels[self._bad[at] > self._most_bad]
            if len(bad):
                self._map.clear_bits_pix(bad, bits)
        return self._map


def _drawn(detectors: Sequence[Detector], config: InputMap, warps: WarpStack) -> Any:
    """A map with the bit of each detector where its outline and that of the patch overlap."""
    from .sources import quiet

    healsparse, hpgeom = _packages()
    with quiet():
        warnings.simplefilter("ignore", ResourceWarning)  # on fine coverage grids, which serve a patch well
        made = healsparse.HealSparseMap.make_empty(
            config.nside_coverage, config.nside, healsparse.WIDE_MASK, wide_mask_maxbits=max(1, len(detectors))
        )
    patch = hpgeom.query_polygon(config.nside, *sky(warps.wcs, *outline(warps.shape[1:])))
    for bit, detector in enumerate(detectors):
        try:
            inside = hpgeom.query_polygon(config.nside, detector.ra, detector.dec)
        except RuntimeError as error:
            raise ValueError(
                f"the outline of detector {detector.name!r} of epoch {detector.epoch!r} cannot be drawn: {error}"
            ) from error
        inside = np.intersect1d(inside, patch, assume_unique=True)
        if len(inside):
            made.set_bits_pix(inside, [bit])
    return made


def _card(value: Any) -> Any:
    """What a FITS header holds of an id."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def write_input_map(path: str | os.PathLike[str], input_map: Any) -> None:
    """
    Write an input map as healsparse does, in FITS.

    Parameters
    ----------
    path : path
        Replaced at once when the file is complete; nothing half-written is left. LSST ends the name with ``.hsp``.
    input_map : healsparse.HealSparseMap
        `Coadd.input_map`.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with Staging() as staging:
        input_map.write(os.fspath(staging.place(path)))


def _packages() -> tuple[Any, Any]:
    """healsparse and hpgeom, or an ImportError that says how to have them."""
    try:
        import healsparse
        import hpgeom
    except ImportError as error:
        raise ImportError('input maps need healsparse and hpgeom: pip install "gpucoadd[maps]"') from error
    return healsparse, hpgeom
