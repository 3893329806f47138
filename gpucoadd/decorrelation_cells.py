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
from .decorrelation_inputs import Inputs, middle, variance_levels
from .decorrelation_steps import Batch, Corrected, correct
from .filtering import Windows
from .mosaic import Mosaic
from .workers import in_order

logger = logging.getLogger(__name__)

_CHUNK_BYTES, _DEVICE_CHUNK_BYTES = 1 << 21, 1 << 28  # of planes and spectra that go through one FFT call
_MOST_ON_DEVICE = 32767  # cells; a launch takes twice as many, the variances of two images


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
    corners: np.ndarray  # (n, 2) int: (y, x) at which the inner box begins there
    all_valid: np.ndarray | None  # (n,) bool: no pixel whose image times variance is NaN; not asked of a device


class _Ingredients(NamedTuple):
    """What the corrections of n cells are made of."""

    levels: np.ndarray  # (2, n) float64
    kernels: Array  # (n or 1, ky, kx)
    psfs: Array | None  # (n or 1, ph, pw)


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
    cutter.measure(chunks)
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

    A device is waited for before the first cell is corrected, for what is needed of all of them, and again only
    where cells have no variance.
    """

    def __init__(self, inputs: Inputs, inner: np.ndarray, expanded: np.ndarray, *, border: tuple[int, int]) -> None:
        y0, x0 = inputs.difference.origin
        inner, expanded = (boxes - [x0, y0, 0, 0] for boxes in (inner, expanded))
        self.inputs = inputs
        self.positions = expanded[:, [1, 0]] + expanded[:, [3, 2]] / 2 + [y0, x0]
        self._xp = array_module(inputs.difference.image)
        self._expanded = self._filled = expanded
        self._planes = [inputs.difference.image, *(side.image.variance for side in inputs.sides)]
        first = inner
        if inputs.config.edge == "reflect":
            first = self._mirror(inner, border)
        # The inner box of each cell: in the image, and in what is corrected.
        self._inner, self._inside = inner, first.copy()
        self._inside[:, :2] -= self._filled[:, :2]
        self._all: _Ingredients | None = None

    def _mirror(self, inner: np.ndarray, border: tuple[int, int]) -> np.ndarray:
        """Let every cell reach equally far, into planes mirrored over their edges; gives the inner boxes in these."""
        y, x = border
        self._planes = [self._xp.pad(plane, ((y, y), (x, x)), mode="symmetric") for plane in self._planes]
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
        chunks: list[np.ndarray] = []
        for group in groups:
            n = self._room(int(self._filled[group[0], 2:].prod()), len(group))
            chunks += [group[start : start + n] for start in range(0, len(group), n)]
        return chunks

    def _room(self, n_pixels: int, n_cells: int) -> int:
        """How many of some equal cells are corrected together."""
        if is_host(self._xp):
            return max(1, _CHUNK_BYTES // (16 * n_pixels))
        most = min(max(1, _DEVICE_CHUNK_BYTES // (16 * n_pixels)), _MOST_ON_DEVICE)
        return math.ceil(n_cells / math.ceil(n_cells / most))  # equal chunks: cuFFT has a plan for each number of cells

    def measure(self, chunks: list[np.ndarray]) -> None:
        """On a device, find out all that is needed of the cells before the first is corrected."""
        if is_host(self._xp):
            return  # a chunk at a time, while it is in the cache
        levels = self._xp.empty((2, len(self._expanded)))
        for indices in chunks:
            levels[:, self._xp.asarray(indices)] = self._levels(indices)
        kernels, psfs = self.inputs.kernels_at(self.positions), self.inputs.psfs_at(self.positions)
        self._all = _Ingredients(to_host(levels), kernels, psfs)

    def _levels(self, indices: np.ndarray, variances: list[Windows] | None = None) -> Array:
        """Variances (2, n) of some cells of one shape; `variances` are their windows on the two sides, if at hand."""
        sides, boxes = self.inputs.sides, self._expanded[indices]
        if variances is None:
            variances = self._windows(boxes, *(side.image.variance for side in sides))
        masks = self._windows(boxes, *(side.image.mask for side in sides))
        return variance_levels(sides, list(zip(variances, masks)))

    def _ingredients(self, indices: np.ndarray, variances: list[Windows]) -> _Ingredients:
        """What the corrections of some cells are made of; `variances` are their windows on the two sides."""
        if self._all is None:
            levels, positions = self._levels(indices, variances), self.positions[indices]
            return _Ingredients(levels, self.inputs.kernels_at(positions), self.inputs.psfs_at(positions))
        levels, *stamps = self._all
        where = self._xp.asarray(indices)
        kernels, psfs = (s if s is None or len(s) == 1 else s[where] for s in stamps)
        return _Ingredients(levels[:, indices], kernels, psfs)

    def _windows(self, boxes: np.ndarray, *planes: Array) -> list[Windows]:
        """Boxes of one size of some planes."""
        width, height = boxes[0, 2:].tolist()
        corners = self._xp.asarray(np.ascontiguousarray(boxes[:, 1::-1], dtype=np.int32))
        return [Windows(plane, corners, (height, width)) for plane in planes]

    def correct(self, indices: np.ndarray) -> _Chunk:
        """Correct the cells of one chunk."""
        inputs, xp = self.inputs, self._xp
        variances = self._windows(self._expanded[indices], *(side.image.variance for side in inputs.sides))
        levels, kernels, psfs = self._ingredients(indices, variances)
        usable = ~np.isnan(levels).any(axis=0)
        self._check(levels, usable, indices)
        n1, n2 = (xp.asarray(np.where(usable, level, 1.0)) for level in levels)
        images, v1, v2 = self._windows(self._filled[indices], *self._planes)
        if self._filled is self._expanded:
            v1, v2 = variances
        parts = self._inside[indices]
        if is_host(xp):  # whole rows are transformed anyway; borders cost a device time to write
            height, width = images.size
            parts = np.tile([0, 0, width, height], (len(indices), 1))
        batch = Batch(images, v1, v2, n1, n2, kernels, psfs)
        done = correct(inputs, batch, inputs.grid_shape(images.size, kernels, psfs), parts)
        corners = (self._inside[indices] - parts)[:, 1::-1]
        merged = usable | self._copy_blank(indices, ~usable, corners, batch, done)
        all_valid = None
        if is_host(xp):
            with quiet(xp):
                all_valid = (~np.isnan(done.images * done.variance)).all(axis=(1, 2))
        return _Chunk(indices, levels, done.images, done.variance, done.psfs, merged, corners, all_valid)

    def _check(self, levels: np.ndarray, usable: np.ndarray, indices: np.ndarray) -> None:
        """Raise ValueError if a variance that was measured cannot be used."""
        for side, values in zip(self.inputs.sides, levels):
            wrong = usable & ((values <= 0) if side is self.inputs.unconvolved else (values < 0))
            if wrong.any():
                first = int(wrong.argmax())
                x0, y0, width, height = self._expanded[indices[first]].tolist()
                where = f" in the cell of {height} x {width} pixels at (y, x) = ({y0}, {x0}) of the image"
                self.inputs.check_level(side, float(values[first]), where)

    def _copy_blank(
        self, indices: np.ndarray, unusable: np.ndarray, corners: np.ndarray, batch: Batch, done: Corrected
    ) -> np.ndarray:
        """
        Undo the correction of cells without a variance; which of them contribute all the same, (n,) bool.

        They do, with the difference as it was, if the science or the template image has nothing but NaN in them.
        Waits for the device if there are such cells.
        """
        blank = np.zeros(len(indices), bool)
        places = np.flatnonzero(unusable)
        if not places.size:
            return blank
        xp, difference = self._xp, self.inputs.difference
        windows = self._windows(self._expanded[indices[places]], *(side.image.image for side in self.inputs.sides))
        all_nan = xp.stack([xp.isnan(each.pixels).all(axis=(1, 2)) for each in windows])
        blank[places] = to_host(all_nan).any(axis=0)
        for place in np.flatnonzero(blank).tolist():
            x0, y0, width, height = self._inner[indices[place]].tolist()
            window, (y, x) = (slice(y0, y0 + height), slice(x0, x0 + width)), corners[place].tolist()
            inside = slice(y, y + height), slice(x, x + width)
            done.images[place][inside] = difference.image[window]
            done.variance[place][inside] = difference.variance[window]
        if done.psfs is not None and batch.psfs is not None:
            for place in places.tolist():
                psf = batch.psfs[place % len(batch.psfs)]
                done.psfs[place] = psf / psf.sum() if blank[place] else math.nan
        return blank

    def merge(self, chunk: _Chunk, mosaic: Mosaic) -> None:
        """Add the inner part of each cell to the mosaic."""
        planes = np.flatnonzero(chunk.merged)
        mosaic.merge(
            self._inner[chunk.indices[planes]],
            chunk.images,
            chunk.variance,
            corners=chunk.corners[planes],
            planes=planes,
            all_valid=None if chunk.all_valid is None else chunk.all_valid[planes],
        )
