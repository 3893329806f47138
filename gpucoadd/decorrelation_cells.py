"""The correction of an image in cells, cells of one shape together."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .backend import Array, array_module, is_host, quiet, to_host
from .cells import CellGrid
from .decorrelation_inputs import Inputs, middle
from .decorrelation_steps import Batch, Corrected, all_nan, correct
from .mosaic import Mosaic
from .workers import in_order

logger = logging.getLogger(__name__)

_CHUNK_BYTES, _DEVICE_CHUNK_BYTES = 1 << 21, 1 << 28  # of spectrum that goes through one FFT call


@dataclass(frozen=True, eq=False)
class DecorrelatedCells:
    """
    What was done in each cell.

    Attributes
    ----------
    inner, expanded : numpy.ndarray, shape (n, 4), int
        x0, y0, width, height in parent coordinates, in processing order.
    kernel_position : numpy.ndarray, shape (n, 2), float64
        (y, x) at which the kernel was taken: the middle of the expanded box.
    science_variance, template_variance : numpy.ndarray, shape (n,), float64
        Over the expanded box. Where one is NaN the cell contributed nothing, or, if the science or the template image
        is NaN throughout the box, the difference as it was.
    psf : array, shape (n, h, w), float64, or None
        Corrected PSFs, each of sum 1; NaN where the cell contributed nothing.
    """

    inner: np.ndarray
    expanded: np.ndarray
    kernel_position: np.ndarray
    science_variance: np.ndarray
    template_variance: np.ndarray
    psf: Array | None


class _Chunk(NamedTuple):
    """Cells of one shape, corrected."""

    indices: np.ndarray
    levels: np.ndarray  # (2, n) float64: variances of the unconvolved and the convolved image
    images: Array  # (n, h, w)
    variance: Array
    psfs: Array | None
    merged: np.ndarray  # (n,) bool: contributes
    all_valid: np.ndarray  # (n,) bool: no pixel whose image times variance is NaN


def correct_cells(inputs: Inputs, grid: CellGrid, psf_fwhm: float | None) -> dict[str, Any]:
    """The fields of `Decorrelated` that a difference corrected cell by cell has."""
    if grid.reduce in ("none", "coadd_psf"):
        raise ValueError(
            f"decorrelate puts cells together with reduce='average', 'sum' or 'copy', got {grid.reduce!r}; map_cells "
            "does the others"
        )
    difference = inputs.difference
    if psf_fwhm is None and grid.scale_by_fwhm and not grid.centroids:
        psf_fwhm = inputs.psf_fwhm()
    inner, expanded = grid.boxes(difference.shape, origin=difference.origin, psf_fwhm=psf_fwhm, force_even=True)
    cutter = _Cutter(inputs, inner, expanded, border=grid.border(psf_fwhm))
    mosaic = Mosaic(difference, dataclasses.replace(grid, bad_planes=()))  # the mask stays that of the difference
    levels = np.empty((2, len(inner)))
    merged = np.empty(len(inner), bool)
    psfs = None
    chunks = cutter.chunks(consecutive=grid.reduce == "copy")
    for chunk in in_order(cutter.correct, chunks, threads=inputs.threads):
        cutter.merge(chunk, mosaic)
        levels[:, chunk.indices], merged[chunk.indices] = chunk.levels, chunk.merged
        if chunk.psfs is not None:
            xp = array_module(chunk.psfs)
            psfs = xp.empty((len(inner), *chunk.psfs.shape[1:])) if psfs is None else psfs
            psfs[xp.asarray(chunk.indices)] = chunk.psfs
    _report(inputs, levels, merged)
    image, variance = mosaic.planes()
    cells = DecorrelatedCells(
        inner=inner,
        expanded=expanded,
        kernel_position=cutter.positions,
        psf=psfs,
        **{f"{side.name}_variance": level for side, level in zip(inputs.sides, levels)},
    )
    distance = np.where(merged, np.hypot(*(cutter.positions - middle(difference)).T), np.inf)
    psf = None if psfs is None else psfs[int(distance.argmin())]
    return {"image": image, "variance": variance, "psf": psf, "cells": cells}


def _report(inputs: Inputs, levels: np.ndarray, merged: np.ndarray) -> None:
    """Log what a user should know of the cells; ValueError if none contributed."""
    if not merged.any():
        inputs.check_level(inputs.sides[int(not np.isnan(levels[0]).all())], math.nan)
    unusable = np.isnan(levels).any(axis=0)
    if unusable.any():
        logger.warning(
            "%d of %d cells have no good pixel to measure a variance on: %d are left out, %d keep the difference as it "
            "was, since the science or the template image is NaN throughout",
            np.count_nonzero(unusable),
            len(merged),
            np.count_nonzero(unusable & ~merged),
            np.count_nonzero(unusable & merged),
        )
    inputs.warn(levels[1, ~unusable] / levels[0, ~unusable])


class _Cutter:
    """
    Cuts cells out of the images, corrects them, and puts them together.

    Boxes are in pixels from the corner of the image here. With ``edge="reflect"`` a cell at the edge reaches as far
    beyond it as others reach beyond theirs, into mirrored planes.
    """

    def __init__(self, inputs: Inputs, inner: np.ndarray, expanded: np.ndarray, *, border: tuple[int, int]) -> None:
        y0, x0 = inputs.difference.origin
        inner, expanded = (boxes - [x0, y0, 0, 0] for boxes in (inner, expanded))
        self.inputs = inputs
        self.positions = expanded[:, [1, 0]] + expanded[:, [3, 2]] / 2 + [y0, x0]
        self._expanded = self._filled = expanded
        self._planes = [inputs.difference.image, *(side.image.variance for side in inputs.sides)]
        first = inner
        if inputs.config.edge == "reflect":
            first = self._mirror(inner, border)
        # The inner box of each cell: in the image, and in what is corrected.
        self._inner, self._inside = inner, first.copy()
        self._inside[:, :2] -= self._filled[:, :2]

    def _mirror(self, inner: np.ndarray, border: tuple[int, int]) -> np.ndarray:
        """Let every cell reach equally far, into planes mirrored over their edges; gives the inner boxes in these."""
        xp = array_module(self.inputs.difference.image)
        y, x = border
        self._planes = [xp.pad(plane, ((y, y), (x, x)), mode="symmetric") for plane in self._planes]
        self._filled = inner + np.array([0, 0, 2 * x, 2 * y])
        return inner + np.array([x, y, 0, 0])

    def chunks(self, *, consecutive: bool) -> list[np.ndarray]:
        """Indices of cells of one shape that are corrected together; only neighbours in order if `consecutive`."""
        sizes = np.concatenate([self._expanded[:, 2:], self._filled[:, 2:]], axis=1)
        if consecutive:
            groups = np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(sizes, axis=0).any(axis=1)) + 1)
        else:
            kinds = np.unique(sizes, axis=0, return_inverse=True)[1].reshape(-1)
            groups = [np.flatnonzero(kinds == kind) for kind in range(kinds.max() + 1)]
        host = is_host(array_module(self.inputs.difference.image))
        room = _CHUNK_BYTES if host else _DEVICE_CHUNK_BYTES
        chunks: list[np.ndarray] = []
        for group in groups:
            n = max(1, int(room // (16 * self._filled[group[0], 2:].prod())))
            chunks += [group[start : start + n] for start in range(0, len(group), n)]
        return chunks

    def correct(self, indices: np.ndarray) -> _Chunk:
        """Correct the cells of one chunk."""
        inputs = self.inputs
        xp = array_module(inputs.difference.image)
        boxes, positions = self._expanded[indices], self.positions[indices]
        variances, masks = ([_windows(getattr(s.image, p), boxes) for s in inputs.sides] for p in ("variance", "mask"))
        levels = np.stack([side.levels(v, m) for side, v, m in zip(inputs.sides, variances, masks)])
        usable = ~np.isnan(levels).any(axis=0)
        self._check(levels, usable, indices)
        n1, n2 = (xp.asarray(np.where(usable, level, 1.0)) for level in levels)
        images = _windows(self._planes[0], self._filled[indices])
        if self._filled is self._expanded:
            v1, v2 = variances
        else:
            v1, v2 = (_windows(plane, self._filled[indices]) for plane in self._planes[1:])
        kernels, psfs = inputs.kernels_at(positions), inputs.psfs_at(positions)
        batch = Batch(images, v1, v2, n1, n2, kernels, psfs)
        done = correct(inputs, batch, inputs.grid_shape(images.shape[1:], kernels, psfs))
        merged = usable.copy()
        for position in np.flatnonzero(~usable).tolist():
            merged[position] = self._copy_blank(indices[position], position, batch, done)
        with quiet(xp):
            valid = ~xp.isnan(done.images * done.variance)
        return _Chunk(indices, levels, done.images, done.variance, done.psfs, merged, to_host(valid.all(axis=(1, 2))))

    def _check(self, levels: np.ndarray, usable: np.ndarray, indices: np.ndarray) -> None:
        """Raise ValueError if a variance that was measured cannot be used."""
        for side, values in zip(self.inputs.sides, levels):
            wrong = usable & ((values <= 0) if side is self.inputs.unconvolved else (values < 0))
            if wrong.any():
                first = int(wrong.argmax())
                x0, y0, width, height = self._expanded[indices[first]].tolist()
                where = f" in the cell of {height} x {width} pixels at (y, x) = ({y0}, {x0}) of the image"
                self.inputs.check_level(side, float(values[first]), where)

    def _copy_blank(self, index: int, position: int, batch: Batch, done: Corrected) -> bool:
        """
        Undo the correction of a cell without a variance; whether it contributes all the same.

        It does, with the difference as it was, if the science or the template image has nothing but NaN in it.
        """
        blank = any(all_nan(side.image.image[_slices(self._expanded[index].tolist())]) for side in self.inputs.sides)
        if blank:
            inside, window = (_slices(boxes[index].tolist()) for boxes in (self._inside, self._inner))
            done.images[position][inside] = self.inputs.difference.image[window]
            done.variance[position][inside] = self.inputs.difference.variance[window]
        if done.psfs is not None and batch.psfs is not None:
            psf = batch.psfs[position % len(batch.psfs)]
            done.psfs[position] = psf / psf.sum() if blank else math.nan
        return blank

    def merge(self, chunk: _Chunk, mosaic: Mosaic) -> None:
        """Add the inner part of each cell to the mosaic."""
        cells = zip(
            self._inner[chunk.indices].tolist(),
            self._inside[chunk.indices].tolist(),
            chunk.images,
            chunk.variance,
            chunk.merged.tolist(),
            chunk.all_valid.tolist(),
        )
        with quiet(array_module(chunk.images)):
            for inner, inside, image, variance, is_merged, all_valid in cells:
                if is_merged:
                    part = _slices(inside)
                    mosaic.merge(_slices(inner), image[part], variance[part], all_valid=all_valid)


def _slices(box: list[int]) -> tuple[slice, slice]:
    """Rows and columns of a box x0, y0, width, height."""
    x0, y0, width, height = box
    return slice(y0, y0 + height), slice(x0, x0 + width)


def _windows(plane: Array, boxes: np.ndarray) -> Array:
    """Copies of n boxes of one size, shape (n, h, w)."""
    xp = array_module(plane)
    width, height = boxes[0, 2:].tolist()
    if is_host(xp):  # copies whole rows
        every = np.lib.stride_tricks.sliding_window_view(plane, (height, width))
        return every[boxes[:, 1], boxes[:, 0]]
    # A device looks up each pixel anyway, and a view of all windows would be huge, were it ever copied.
    corners = xp.asarray(boxes[:, 1] * plane.shape[1] + boxes[:, 0])
    offsets = xp.arange(height)[:, None] * plane.shape[1] + xp.arange(width)
    return plane.reshape(-1)[corners[:, None, None] + offsets]
