"""
Working on an image cell by cell, and putting the cells together.

`map_cells` is the whole way; `Mosaic` is its second half, for whoever makes the cells otherwise. Every cell is a copy
of its own, so the order of the cells shows only where inner boxes overlap and the last one wins. (LSST's cells are
views of one image that its decorrelation writes to; what one cell leaves in a border, the next takes as input.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import primitives
from .backend import Array, array_module, quiet, using
from .boxes import Box
from .cells import CellGrid
from .images import Frozen, MaskedImage

_MANY = np.iinfo(np.uint16).max  # cells, up to which 16 bits can count those of a pixel
_MERGING = ("average", "sum", "copy")


class CellResult(NamedTuple):
    """What a function made of one cell, and its inputs, cut afresh."""

    result: Any
    cell: MaskedImage
    expanded: MaskedImage


class Mosaic:
    """
    Cells put together to an image, one after the other.

    A pixel of a cell is valid if its image times its variance is not NaN. Depending on ``grid.reduce``, valid pixels

    - "average": are averaged, the image and the variance alike: the mean of n variances, not 1/n of it;
    - "sum": are added, the image and the variance alike; pixels without any stay 0;
    - "copy": replace those of earlier cells.

    The mask is that of the input with those of all cells. Where image times variance is NaN in the end (with "average"
    and "copy" that is where no cell had a valid pixel), it has the planes ``grid.bad_planes`` too.

    Parameters
    ----------
    image : MaskedImage
        Gives shape, origin, mask, dtypes, WCS and unit; its pixel values are not used and nothing is written to it.
    grid : CellGrid
        Gives `reduce` and `bad_planes`.

    Attributes
    ----------
    schema : MaskSchema
        That of `image`, with the bad planes.

    Raises
    ------
    TypeError
        If `image` or `grid` is something else.
    ValueError
        If ``grid.reduce`` is not one of the three, or no bit is free for a bad plane.

    Examples
    --------
    >>> from gpucoadd import MaskSchema
    >>> ones, none = np.ones((2, 3), np.float32), np.zeros((2, 3), np.int32)
    >>> image = MaskedImage(ones, ones, none, schema=MaskSchema.lsst())
    >>> mosaic = Mosaic(image, CellGrid(bad_planes=("NO_DATA",)))
    >>> mosaic.add((0, 0, 2, 2), 4 * ones[:, :2], ones[:, :2])
    >>> mosaic.add((1, 0, 1, 2), 8 * ones[:, :1], ones[:, :1])
    >>> result = mosaic.finish()
    >>> result.image[0].tolist(), result.mask[0].tolist()
    ([4.0, 6.0, nan], [0, 0, 256])
    """

    def __init__(self, image: MaskedImage, grid: CellGrid) -> None:
        _check_types(image, grid)
        if grid.reduce not in _MERGING:
            raise ValueError(f"a mosaic needs reduce to be one of {', '.join(_MERGING)}, got {grid.reduce!r}")
        xp = array_module(image.image)
        self.schema = image.schema.with_planes(*grid.bad_planes)
        self._bad = self.schema.bitmask(*grid.bad_planes)
        self._reduce = grid.reduce
        self._parent = image
        fill = np.nan if grid.reduce == "copy" else 0
        self._mask: Array | None = None  # until a cell brings one
        self._is_finished = False
        with using(image.image):
            # in C order, whatever the image's: kernels write to them
            planes = (image.image, image.variance)
            self._image, self._variance = (xp.full(image.shape, fill, dtype=plane.dtype) for plane in planes)
            self._count = xp.zeros(image.shape, dtype=xp.uint16) if grid.reduce == "average" else None
        self._n_cells = 0

    def add(
        self,
        box: Sequence[int],
        image: Array,
        variance: Array,
        mask: Array | None = None,
        *,
        all_valid: bool = False,
    ) -> None:
        """
        Merge one cell.

        Parameters
        ----------
        box : sequence of four ints
            x0, y0, width, height in parent coordinates; inside the image.
        image, variance : array, shape (height, width), float
            On the device of the mosaic.
        mask : array, shape (height, width), int32, optional
            Bits as in `schema`; none set when left out.
        all_valid : bool
            Whether every pixel is known to be valid, which saves looking at them.

        Raises
        ------
        TypeError
            If arrays are mixed (host and device).
        ValueError
            If the box is not inside the image, shapes do not fit it, or the mosaic is finished.
        """
        planes = {"image": image, "variance": variance} | ({} if mask is None else {"mask": mask})
        array_module(mosaic=self._image, **planes)
        window = Box(*map(int, box)).within(Box.of(self._parent.shape, self._parent.origin))
        shape = self._image[window].shape
        for name, plane in planes.items():
            if plane.shape != shape:
                raise ValueError(f"{name} has shape {plane.shape} but the box {_words(box)} has {shape} (y, x) pixels")
        if self._is_finished:
            raise ValueError("the mosaic is finished; make another one to add cells")
        if mask is not None:
            with using(self._image):
                if self._mask is None:
                    self._mask = self._parent.mask.copy()
                self._mask[window] |= mask
        self.merge(
            np.array([[window[1].start, window[0].start, shape[1], shape[0]]]),
            image[None],
            variance[None],
            all_valid=np.array([all_valid]),
        )

    def merge(
        self,
        boxes: np.ndarray,
        images: Array,
        variances: Array,
        *,
        corners: np.ndarray | None = None,
        planes: np.ndarray | None = None,
        all_valid: np.ndarray | None = None,
    ) -> None:
        """
        Merge many cells in their order, as if `add` were called for each; on a device with one launch.

        What is given is not checked.

        Parameters
        ----------
        boxes : numpy.ndarray, shape (m, 4), int
            x0, y0, width, height from the corner of the image.
        images, variances : array, shape (n, h, w), float
        corners : numpy.ndarray, shape (m, 2), int, optional
            (y, x) of a cell's first pixel there; (0, 0) when left out.
        planes : numpy.ndarray, shape (m,), int, optional
            In which of the n planes a cell is; when left out, cells and planes go in pairs.
        all_valid : numpy.ndarray, shape (m,), bool, optional
            Cells whose pixels are all known to be valid.
        """
        if len(boxes) == 0:
            return
        self._n_cells += len(boxes)
        with using(self._image), quiet(array_module(images)):
            if self._count is not None and self._n_cells > _MANY:
                self._count = self._count.astype("int32", copy=False)
            primitives.merge_cells(
                (self._image, self._variance, self._count),
                boxes,
                images,
                variances,
                corners=np.zeros((len(boxes), 2), int) if corners is None else corners,
                planes=np.arange(len(boxes)) if planes is None else planes,
                copy=self._reduce == "copy",
                all_valid=all_valid,
            )

    def finish(self) -> MaskedImage:
        """
        The image of all cells. No cell can be added afterwards: its arrays are those of the mosaic, not copies.

        Returns
        -------
        MaskedImage
            Shape, origin, dtypes, WCS and unit of the input; `schema` as the mosaic has it.
        """
        xp = array_module(self._image)
        image, variance = self.planes()
        parent, mask = self._parent, self._mask
        with using(image), quiet(xp):
            if mask is None:
                mask = parent.mask.copy()
            if self._bad:
                mask |= xp.where(xp.isnan(image * variance), xp.int32(self._bad), xp.int32(0))
        self._mask = mask
        return MaskedImage(
            image, variance, mask, schema=self.schema, origin=parent.origin, wcs=parent.wcs, unit=parent.unit
        )

    def planes(self) -> tuple[Array, Array]:
        """Image and variance of all cells, as in `finish`."""
        if self._count is not None and not self._is_finished:
            with using(self._image), quiet(array_module(self._image)):
                self._image /= self._count  # 0 / 0 is NaN
                self._variance /= self._count
        self._is_finished = True
        return self._image, self._variance


def map_cells(
    image: MaskedImage,
    function: Callable[..., Any],
    grid: CellGrid,
    *,
    psf_fwhm: float | None = None,
    force_even: bool = False,
    **context: Any,
) -> MaskedImage | list[Any] | CompositePsf:
    """
    Apply a function to every cell of an image and put the results together.

    Parameters
    ----------
    image : MaskedImage
        Not modified.
    function : callable
        Called as ``function(cell, expanded, **context)`` for one cell after the other. Both are `MaskedImage` copies
        (inner and expanded box) that it may write to; their origins are those of the boxes, their WCS is cut to the
        box if it has a method ``slice`` as that of `astropy.wcs.WCS`, else None. It returns

        - with "average", "sum" and "copy": a `MaskedImage` of the inner box, on the device of `image`, whose schema
          has no planes but those of the mosaic (see `Mosaic`);
        - with "coadd_psf": a PSF stamp, array (y, x), or a pair of stamp and box;
        - with "none": anything.
    grid : CellGrid
        The boxes, and in ``grid.reduce`` what is done with the results.
    psf_fwhm : float, optional
        FWHM of the PSF in pixels; needed where the grid's sizes are in units of it.
    force_even : bool
        Whether boxes get even sizes.
    **context
        Handed to `function`.

    Returns
    -------
    MaskedImage
        With "average", "sum" and "copy": the results in one image, as `Mosaic` puts them together.
    list
        With "none": the results in order; with ``grid.return_sub_images`` as `CellResult`, with the cell's inputs.
    CompositePsf
        With "coadd_psf".

    Raises
    ------
    TypeError
        If an argument, or what `function` returns, is of another type, or on another device.
    ValueError
        If the grid has no cells, `psf_fwhm` is missing, or a result has another shape or schema.
    RuntimeError
        If boxes cannot be made even.

    Examples
    --------
    >>> from gpucoadd import MaskSchema
    >>> pixels = np.arange(8, dtype=np.float32).reshape(2, 4)
    >>> image = MaskedImage(pixels, pixels, np.zeros((2, 4), np.int32), schema=MaskSchema.lsst())
    >>> grid = CellGrid(cell_size=2, grid_step=2, border_size=1, adjust="none", scale_by_fwhm=False)
    >>> def without_mean(cell, expanded, factor):
    ...     cell.image[...] -= factor * expanded.image.mean()
    ...     return cell
    >>> map_cells(image, without_mean, grid, factor=1.0).image.tolist()
    [[-3.0, -2.0, -2.0, -1.0], [1.0, 2.0, 2.0, 3.0]]
    """
    _check_types(image, grid)
    if not callable(function):
        raise TypeError(f"function must be callable as function(cell, expanded), got {type(function).__name__}")
    inner, expanded = grid.boxes(image.shape, origin=image.origin, psf_fwhm=psf_fwhm, force_even=force_even)
    boxes = list(zip(inner.tolist(), expanded.tolist()))
    with using(image.image):
        return _mapped(image, function, grid, boxes, context)


def _mapped(
    image: MaskedImage, function: Callable[..., Any], grid: CellGrid, boxes: list[Any], context: dict[str, Any]
) -> MaskedImage | list[Any] | CompositePsf:
    """`map_cells` for pairs of boxes, inner and expanded."""

    def result_of(pair: tuple[list[int], list[int]]) -> Any:
        return function(*(cut(image, box) for box in pair), **context)

    if grid.reduce == "none":
        if not grid.return_sub_images:
            return [result_of(pair) for pair in boxes]
        return [CellResult(result_of(pair), *(cut(image, box) for box in pair)) for pair in boxes]
    if grid.reduce == "coadd_psf":
        found = [_stamp_and_box(number, result_of(pair), pair[0]) for number, pair in enumerate(boxes)]
        return CompositePsf([stamp for stamp, _ in found], [box for _, box in found])
    mosaic = Mosaic(image, grid)
    for number, pair in enumerate(boxes):
        result = result_of(pair)
        _check_result(number, result, image, mosaic, pair[0])
        mosaic.add(pair[0], result.image, result.variance, result.mask)
    return mosaic.finish()


class CompositePsf(Frozen):
    """
    PSF of a mosaic: at each point the mean of the PSFs of the cells it lies in.

    Parameters
    ----------
    stamps : array, shape (cell, y, x), or sequence of arrays, shape (y, x), float
        PSF of each cell, origin at element ``[ny // 2, nx // 2]``; need not be normalised.
    boxes : array-like, shape (cell, 4), int
        Inner box of each cell: x0, y0, width, height in parent coordinates.

    Raises
    ------
    TypeError
        If a stamp is no array, or they are mixed (host and device).
    ValueError
        If the shapes or the numbers of stamps and boxes do not fit, or there is none.

    Examples
    --------
    >>> psf = CompositePsf([np.ones((1, 1)), np.ones((1, 3))], [(0, 0, 8, 8), (4, 0, 8, 8)])
    >>> psf.at(y=2, x=1).tolist(), psf.at(y=2, x=5).round(3).tolist()
    ([[1.0]], [[0.167, 0.667, 0.167]])
    """

    stamps: Array | tuple[Array, ...]
    boxes: np.ndarray

    def __init__(self, stamps: Array | Sequence[Array], boxes: Any) -> None:
        rows = np.array(boxes)
        if rows.ndim != 2 or rows.shape[1] != 4 or rows.dtype.kind not in "iu":
            raise ValueError(
                f"boxes must be integers of shape (cell, 4): x0, y0, width, height; got {rows.dtype} {rows.shape}"
            )
        if len(stamps) != len(rows) or len(rows) == 0:
            raise ValueError(f"{len(stamps)} stamps came with {len(rows)} boxes; give one of each per cell, and a cell")
        kept: Any = tuple(stamps) if isinstance(stamps, (list, tuple)) else stamps
        if isinstance(kept, tuple):
            array_module(**{f"stamp {number}": stamp for number, stamp in enumerate(kept)})
            shapes = [stamp.shape for stamp in kept]
        else:
            array_module(stamps=kept)
            shapes = [kept.shape[1:]]
        for shape in shapes:
            if len(shape) != 2 or 0 in shape:
                raise ValueError(f"a stamp has shape {shape}; each must be (y, x) and not empty")
        rows = rows.astype(np.int64)
        rows.setflags(write=False)
        self._set(stamps=kept, boxes=rows)

    def __len__(self) -> int:
        return len(self.boxes)

    def at(self, y: float, x: float) -> Array:
        """
        PSF at one point.

        Parameters
        ----------
        y, x : float
            Parent coordinates; pixel centres are at integers. A box reaches from half a pixel before its first
            pixel, that included, to half a pixel after its last.

        Returns
        -------
        array, shape (y, x), float64
            Mean of the members' stamps, each normalised to sum 1, aligned at their origins; as large as the largest
            along each axis, sum 1. NaN where a member is.

        Raises
        ------
        ValueError
            If no box holds the point.
        """
        begin, size = self.boxes[:, :2], self.boxes[:, 2:]
        offset = np.array([x, y], dtype=np.float64) + 0.5 - begin
        members = np.flatnonzero(((offset >= 0) & (offset < size)).all(axis=1)).tolist()
        if not members:
            raise ValueError(f"no cell holds the point y={y}, x={x}; the PSF is known inside the inner boxes only")
        stamps = [self.stamps[member] for member in members]
        xp = array_module(stamps[0])
        ny, nx = (max(stamp.shape[axis] for stamp in stamps) for axis in (0, 1))
        with using(stamps[0]), quiet(xp):
            total = xp.zeros((ny, nx), dtype=xp.float64)
            for stamp in stamps:
                row, column = ny // 2 - stamp.shape[0] // 2, nx // 2 - stamp.shape[1] // 2
                window = slice(row, row + stamp.shape[0]), slice(column, column + stamp.shape[1])
                values = stamp.astype(xp.float64)
                total[window] += values / values.sum()
            return total / len(members)

    def __repr__(self) -> str:
        return f"CompositePsf({len(self)} cells)"


def _check_types(image: object, grid: object) -> None:
    if not isinstance(image, MaskedImage):
        raise TypeError(f"image must be a MaskedImage, got {type(image).__name__}")
    if not isinstance(grid, CellGrid):
        raise TypeError(f"grid must be a CellGrid, got {type(grid).__name__}")


def cut(image: MaskedImage, box: Sequence[int]) -> MaskedImage:
    """Copy of the pixels in a box (parent coordinates); ValueError if it is not inside."""
    inside = Box(*box)
    window = inside.within(Box.of(image.shape, image.origin))
    cut_wcs = getattr(image.wcs, "slice", None)
    return MaskedImage(
        *(plane[window].copy() for plane in (image.image, image.variance, image.mask)),
        schema=image.schema,
        origin=inside.origin,
        wcs=cut_wcs(window) if callable(cut_wcs) else None,
        unit=image.unit,
    )


def _check_result(number: int, result: Any, image: MaskedImage, mosaic: Mosaic, box: Sequence[int]) -> None:
    """Raise unless `result` can go into the mosaic at `box`."""
    if not isinstance(result, MaskedImage):
        raise TypeError(
            f"function returned {type(result).__name__} for cell {number}; to be put together, results must be "
            'MaskedImage (reduce="none" takes anything)'
        )
    shape = box[3], box[2]
    if result.shape != shape:
        raise ValueError(
            f"function returned an image of {result.shape} for cell {number}, whose inner box is {shape} (y, x); "
            "cut it to that box"
        )
    if not result.schema.planes.items() <= mosaic.schema.planes.items():
        raise ValueError(
            f"function returned other mask planes for cell {number} than the mosaic has; results must keep the cell's "
            "schema, so add planes to the image's before"
        )
    array_module(**{"image": image.image, f"result of cell {number}": result.image})


def _stamp_and_box(number: int, result: Any, inner: Sequence[int]) -> tuple[Array, Sequence[int]]:
    """A PSF stamp and its box, from a stamp or a pair of them."""
    stamp, box = result if isinstance(result, tuple) and len(result) == 2 else (result, inner)
    if getattr(stamp, "ndim", None) != 2:
        raise TypeError(
            f"function returned {type(stamp).__name__} for cell {number}; for a composite PSF results must be a stamp, "
            "array (y, x), or a pair of stamp and box"
        )
    return stamp, [int(value) for value in box]


def _words(box: Sequence[int]) -> str:
    return str(tuple(map(int, box)))
