"""
Cutting an image into overlapping cells.

Each cell has two boxes: the inner one, whose pixels count in the result, and the expanded one, which has a border
around it for whatever looks at neighbours. Both are clipped to the image. `mosaic` puts cells together again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from .cell_pictures import draw_boxes
from .images import check_pair
from .options import check_names, option, with_overrides

ADJUSTMENTS = ("spacing", "size", "none")
REDUCTIONS = ("average", "sum", "copy", "none", "coadd_psf")

Pair = tuple[float, float]


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(value: Any) -> Pair | None:
    """`value`, a pair of finite numbers, as floats; None if it is something else."""
    try:
        y, x = value
    except (TypeError, ValueError):
        return None
    return (float(y), float(x)) if _is_number(y) and _is_number(x) else None


def _check_size(name: str, value: Any) -> Pair:
    """`value`, a number or a pair (y, x), as a pair of positive floats, or ValueError."""
    pair = (float(value), float(value)) if _is_number(value) else _numbers(value)
    if pair is None or min(pair) <= 0:
        raise ValueError(f"{name} must be a positive number or a pair (y, x) of them, got {value!r}")
    return pair


def _check_centroids(centroids: Any) -> tuple[Pair, ...] | None:
    """`centroids` as a tuple of (y, x), None where there are none, or ValueError."""
    if not isinstance(centroids, Iterable) and centroids is not None:
        raise ValueError(
            f"centroids (cellCentroidsY, cellCentroidsX) must be a list of pairs (y, x), got {centroids!r}"
        )
    pairs: list[Pair] = []
    for centroid in () if centroids is None else centroids:
        pair = _numbers(centroid)
        if pair is None:
            raise ValueError(
                "centroids (cellCentroidsY, cellCentroidsX) must be pairs (y, x) of finite numbers, got "
                f"{centroid!r} as number {len(pairs)}"
            )
        pairs.append(pair)
    return tuple(pairs) or None


@dataclass(frozen=True, kw_only=True)
class CellGrid:
    """
    How an image is cut into cells, and how cells are put together (LSST's ImageMapReduceConfig).

    The defaults are those of LSST's spatially varying decorrelation, where sizes are in units of the PSF's FWHM.

    Parameters
    ----------
    cell_size : float or (float, float)
        (y, x) size of the inner boxes. Like the other sizes positive; one number is for both axes. With explicit
        centroids sizes are pixels, cut to integers; otherwise they are rounded, half to even.
    grid_step : float or (float, float)
        (y, x) distance of cell centres with ``adjust="none"``; the cell size with ``adjust="size"``; else not used.
    border_size : float or (float, float)
        (y, x) growth of the expanded boxes on each side.
    centroids : sequence of (float, float), optional
        (y, x) centres of the cells relative to the image's first pixel, whatever its origin. Then the grid's step,
        `adjust` and `scale_by_fwhm` have no effect. An empty sequence counts as none.
    adjust : {"spacing", "size", "none"}
        "spacing": as many centres as cells fit, plus one, evenly spread from edge to edge.
        "size": cells of one pixel more than `grid_step`, at that step.
        "none": `cell_size` and `grid_step` as they are; the cells leave gaps where the step is the larger.
    scale_by_fwhm : bool
        Whether sizes are in units of the PSF's FWHM; if False, pixels.
    reduce : {"average", "sum", "copy", "none", "coadd_psf"}
        How `map_cells` puts its results together.
    bad_planes : tuple of str
        Mask planes set where the mosaic has no value; made where a mask does not have them.
    return_sub_images : bool
        With ``reduce="none"``, whether `map_cells` gives each cell's inputs back too.

    Raises
    ------
    ValueError
        If a value is not one of these.

    Examples
    --------
    >>> grid = CellGrid(cell_size=10, border_size=5)
    >>> inner, expanded = grid.boxes((128, 128), psf_fwhm=4.70381)
    >>> len(inner), inner[-1].tolist(), expanded[-1].tolist()
    (9, [82, 82, 46, 46], [58, 58, 70, 70])
    """

    # LSST has x and y apart: `_MapReduceFields` knows its names.
    cell_size: float | Pair = option(None, 41.0)
    grid_step: float | Pair = option(None, 40.0)
    border_size: float | Pair = option(None, 8.0)
    centroids: Sequence[Pair] | None = option(None, None)
    adjust: str = option(None, "spacing")
    scale_by_fwhm: bool = option(None, True)
    reduce: str = option(None, "average")
    bad_planes: tuple[str, ...] = option(None, ("INVALID_MAPREDUCE", "BAD", "NO_DATA"))
    return_sub_images: bool = option(None, False)

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "cell_size": _check_size("cell_size (cellSizeY, cellSizeX)", self.cell_size),
            "grid_step": _check_size("grid_step (gridStepY, gridStepX)", self.grid_step),
            "border_size": _check_size("border_size (borderSizeY, borderSizeX)", self.border_size),
            "centroids": _check_centroids(self.centroids),
        }
        for name, value, allowed in (
            ("adjust (adjustGridOption)", self.adjust, ADJUSTMENTS),
            ("reduce (reducer.reduceOperation)", self.reduce, REDUCTIONS),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        for name, switch in (
            ("scale_by_fwhm (scaleByFwhm)", self.scale_by_fwhm),
            ("return_sub_images (returnSubImages)", self.return_sub_images),
        ):
            if not isinstance(switch, bool):
                raise ValueError(f"{name} must be True or False, got {switch!r}")
        checked["bad_planes"] = check_names("bad_planes (reducer.badMaskPlanes)", self.bad_planes)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_lsst(cls, overrides: Mapping[str, Any], *, defaults: CellGrid | None = None, prefix: str = "") -> CellGrid:
        """
        Grid from the field names of LSST's ImageMapReduceConfig, such as ``cellSizeX`` or ``reducer.reduceOperation``.

        Parameters
        ----------
        overrides : mapping of str to object
            Field names to values, in LSST's words ("coaddPsf").
        defaults : CellGrid, optional
            What fields without override say; LSST's own defaults (10, 10, 5) when left out.
        prefix : str
            What stands before each name, such as ``decorrelateMapReduceConfig.``.

        Raises
        ------
        ValueError
            If a name is unknown (the nearest are given), a value is not valid, or ``cellCentroidsX`` and
            ``cellCentroidsY`` do not pair.

        Examples
        --------
        >>> grid = CellGrid.from_lsst({"cellSizeX": 30, "reducer.reduceOperation": "sum"})
        >>> grid.cell_size, grid.reduce
        ((10.0, 30.0), 'sum')
        """
        fields = _MapReduceFields() if defaults is None else _MapReduceFields.of(defaults)
        names = {prefix + name: name for name in ("cellCentroidsX", "cellCentroidsY")}
        lists = {short: overrides[name] for name, short in names.items() if name in overrides}
        others = {name: value for name, value in overrides.items() if name not in names}
        dropped = frozenset({"ignoreMaskPlanes"})
        fields = with_overrides(fields, others, own_names=False, without_effect=dropped, prefix=prefix)
        return fields.replaced_centroids(lists).grid()

    def boxes(
        self,
        shape: tuple[int, int],
        *,
        origin: tuple[int, int] = (0, 0),
        psf_fwhm: float | None = None,
        force_even: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Inner and expanded box of every cell.

        They are computed anew in every call; LSST's task keeps those of its first image for all others.

        Parameters
        ----------
        shape : (int, int)
            (y, x) size of the image in pixels.
        origin : (int, int)
            (y, x) of its first pixel in the parent frame.
        psf_fwhm : float, optional
            FWHM of the PSF in pixels (2.3548 times the determinant radius); needed where sizes are in units of it.
        force_even : bool
            Grow boxes of odd sizes by a pixel, to the right or up where the image goes on, else to the left or down.

        Returns
        -------
        inner, expanded : numpy.ndarray, shape (cell, 4), int64
            Rows x0, y0, width, height in parent coordinates. Cells of one column lie together, the first row first.
            Cells of one pixel, and explicit ones outside the image, are left out.

        Raises
        ------
        ValueError
            If `psf_fwhm` is needed and missing, or not positive and finite; if a size rounds to no pixel; if no
            cell is left.
        RuntimeError
            If `force_even` and a box spans an axis of odd size.
        """
        extent = np.array(_check_shape(shape), dtype=np.int64)
        corner = np.array(check_pair("origin", origin), dtype=np.int64)
        centres, cell, border = self._centres(extent, psf_fwhm)
        begin = centres - cell // 2
        inner = _clipped(begin, begin + cell, extent)
        inside = (inner[1] > inner[0]).all(axis=1)
        expanded = _clipped(begin - border, begin + cell + border, extent)
        pairs = [(low[inside], high[inside]) for low, high in (inner, expanded)]
        if force_even:
            pairs = [_evened(low, high, extent) for low, high in pairs]
        large = np.all([(high - low).prod(axis=1) > 1 for low, high in pairs], axis=0)
        if not large.any():
            raise ValueError(
                f"no cell of more than one pixel lies in the image of {tuple(extent.tolist())} (y, x); "
                "use larger cells, or centroids (relative to the image's first pixel) inside it"
            )
        rows = [np.hstack([(low + corner)[large, ::-1], (high - low)[large, ::-1]]) for low, high in pairs]
        return rows[0], rows[1]

    def draw(
        self,
        path: str | Path,
        shape: tuple[int, int],
        *,
        origin: tuple[int, int] = (0, 0),
        psf_fwhm: float | None = None,
        force_even: bool = False,
        skip: int = 3,
    ) -> Path:
        """
        Picture of the boxes as a PNG file: inner ones tinted, expanded ones outlined, in the same colour.

        Rows go up: the image's first pixel is at the lower left. The longer side has 800 pixels.

        Parameters
        ----------
        path : path
            File to write; its folder must exist.
        shape, origin, psf_fwhm, force_even
            As for `boxes`.
        skip : int
            Every how manieth cell is drawn.

        Returns
        -------
        Path
            `path`.

        Raises
        ------
        ValueError, RuntimeError
            As for `boxes`; and if `skip` is not a positive integer.
        """
        inner, expanded = self.boxes(shape, origin=origin, psf_fwhm=psf_fwhm, force_even=force_even)
        return draw_boxes(path, inner, expanded, shape, origin=origin, skip=skip)

    def border(self, psf_fwhm: float | None = None) -> tuple[int, int]:
        """(y, x) pixels by which a box is expanded on each side; errors as in `boxes`."""
        y, x = self._pixels(psf_fwhm)[2].tolist()
        return y, x

    def _pixels(self, psf_fwhm: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Size of cells, step and border in whole pixels, int64 (y, x)."""
        if self.centroids is not None:
            cell, step, border = (
                np.trunc(size).astype(np.int64) for size in (self.cell_size, self.grid_step, self.border_size)
            )
            _check_pixels("cell_size", cell, self.cell_size)
            return cell, step, border
        unit = _check_fwhm(psf_fwhm) if self.scale_by_fwhm else 1.0
        sizes = self.cell_size, self.grid_step, self.border_size
        cell, step, border = (np.rint(np.multiply(size, unit)).astype(np.int64) for size in sizes)
        if self.adjust != "size":
            _check_pixels("cell_size", cell, self.cell_size)
        if self.adjust != "spacing":
            _check_pixels("grid_step", step, self.grid_step)
        return cell, step, border

    def _centres(self, extent: np.ndarray, psf_fwhm: float | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Centres (cell, 2) in pixels from the corner, cell size and border, all int64 in (y, x)."""
        cell, step, border = self._pixels(psf_fwhm)
        if self.centroids is not None:
            return np.floor(self.centroids).astype(np.int64), cell, border
        if self.adjust == "size":
            cell = step
        y, x = (_axis_centres(self.adjust, *axis) for axis in zip(extent.tolist(), cell.tolist(), step.tolist()))
        centres = np.stack([np.tile(y, len(x)), np.repeat(x, len(y))], axis=1)
        return centres, cell + (self.adjust == "size"), border


def _check_shape(shape: Any) -> tuple[int, int]:
    checked = check_pair("shape", shape)
    if min(checked) < 1:
        raise ValueError(f"shape must be a positive (y, x) size in pixels, got {shape!r}")
    return checked


def _check_fwhm(psf_fwhm: Any) -> float:
    if psf_fwhm is None:
        raise ValueError(
            "the cells' sizes are in units of the PSF's FWHM; give psf_fwhm in pixels, or sizes in pixels with "
            "scale_by_fwhm=False"
        )
    try:
        width = float(psf_fwhm)
    except (TypeError, ValueError):
        width = math.nan
    if not 0 < width < math.inf:
        raise ValueError(f"psf_fwhm must be positive and finite, in pixels, got {psf_fwhm!r}")
    return width


def _check_pixels(name: str, pixels: np.ndarray, size: Any) -> None:
    if pixels.min() < 1:
        raise ValueError(f"{name} {size} (y, x) is {tuple(pixels.tolist())} in whole pixels; use one of at least 1")


def _axis_centres(adjust: str, extent: int, cell: int, step: int) -> np.ndarray:
    """Centres along one axis of `extent` pixels."""
    if adjust == "spacing":
        return np.floor(np.linspace(cell // 2, extent - cell // 2, extent // cell + 1)).astype(np.int64)
    return np.arange(cell // 2, extent + cell // 2, step, dtype=np.int64)


def _clipped(begin: np.ndarray, end: np.ndarray, extent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.clip(begin, 0, extent), np.clip(end, 0, extent)


def _evened(begin: np.ndarray, end: np.ndarray, extent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intervals (cell, axis) of even length."""
    end = end + (((end - begin) % 2 == 1) & (end < extent))
    begin = begin - (((end - begin) % 2 == 1) & (begin > 0))
    odd = np.argwhere((end - begin) % 2 == 1)
    if len(odd):
        axis = int(odd[0, 1])
        raise RuntimeError(
            f"a box spans all {extent[axis]} pixels of the image along {'yx'[axis]} and cannot be made even; "
            "use smaller cells or borders, or cut the image to an even size"
        )
    return begin, end


@dataclass(frozen=True, kw_only=True)
class _MapReduceFields:
    """The fields of LSST's ImageMapReduceConfig, one by one, on its defaults."""

    centroids_x: tuple[float, ...] = option("cellCentroidsX", ())
    centroids_y: tuple[float, ...] = option("cellCentroidsY", ())
    cell_size_x: float = option("cellSizeX", 10.0)
    cell_size_y: float = option("cellSizeY", 10.0)
    grid_step_x: float = option("gridStepX", 10.0)
    grid_step_y: float = option("gridStepY", 10.0)
    border_size_x: float = option("borderSizeX", 5.0)
    border_size_y: float = option("borderSizeY", 5.0)
    adjust: str = option("adjustGridOption", "spacing")
    scale_by_fwhm: bool = option("scaleByFwhm", True)
    return_sub_images: bool = option("returnSubImages", False)
    reduce: str = option("reducer.reduceOperation", "average")
    bad_planes: tuple[str, ...] = option("reducer.badMaskPlanes", ("INVALID_MAPREDUCE", "BAD", "NO_DATA"))

    def __post_init__(self) -> None:
        allowed = [_lsst_word(word) for word in REDUCTIONS]
        if self.reduce not in allowed:
            raise ValueError(f"reducer.reduceOperation must be one of {', '.join(allowed)}, got {self.reduce!r}")

    @classmethod
    def of(cls, grid: CellGrid) -> _MapReduceFields:
        """Fields that say what `grid` says."""
        sizes: dict[str, float] = {}
        for name in ("cell_size", "grid_step", "border_size"):
            sizes[f"{name}_y"], sizes[f"{name}_x"] = getattr(grid, name)
        return cls(
            **sizes,  # type: ignore[arg-type]
            centroids_x=tuple(x for _, x in grid.centroids or ()),
            centroids_y=tuple(y for y, _ in grid.centroids or ()),
            adjust=grid.adjust,
            scale_by_fwhm=grid.scale_by_fwhm,
            return_sub_images=grid.return_sub_images,
            reduce=_lsst_word(grid.reduce),
            bad_planes=grid.bad_planes,
        )

    def replaced_centroids(self, lists: Mapping[str, Any]) -> _MapReduceFields:
        """Fields with other lists of centroids, by LSST's names; None is an empty one."""
        for name, values in lists.items():
            if values is not None and not (isinstance(values, (list, tuple)) and all(map(_is_number, values))):
                raise ValueError(f"{name} must be a list of finite numbers or None, got {values!r}")
        x = tuple(lists.get("cellCentroidsX", self.centroids_x) or ())
        y = tuple(lists.get("cellCentroidsY", self.centroids_y) or ())
        if len(x) != len(y):
            raise ValueError(
                f"cellCentroidsX has {len(x)} values but cellCentroidsY has {len(y)}; give both, of one length"
            )
        return replace(self, centroids_x=x, centroids_y=y)

    def grid(self) -> CellGrid:
        return CellGrid(
            cell_size=(self.cell_size_y, self.cell_size_x),
            grid_step=(self.grid_step_y, self.grid_step_x),
            border_size=(self.border_size_y, self.border_size_x),
            centroids=tuple(zip(self.centroids_y, self.centroids_x)),
            adjust=self.adjust,
            scale_by_fwhm=self.scale_by_fwhm,
            reduce="coadd_psf" if self.reduce == "coaddPsf" else self.reduce,
            bad_planes=self.bad_planes,
            return_sub_images=self.return_sub_images,
        )


def _lsst_word(reduce: str) -> str:
    return "coaddPsf" if reduce == "coadd_psf" else reduce
