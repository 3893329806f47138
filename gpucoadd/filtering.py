"""
Applying a correction to windows of an image, by FFT.

On the host in blocks that stay in the cache: the rows are transformed, then block after block of columns: forward,
times the correction of just these columns, backward. On a device in two transforms of whole planes, and one kernel
between them that computes the correction where it multiplies with it. Either way the correction of the whole plane is
never there. Windows go to the corner of the grid and are not rolled to the origin: the correction is real and even, so
that their place on the grid does not matter.

Why a device does not cut: cuFFT keeps a plan for every shape, and cells are cut into batches of bounded size already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .backend import Array, array_module, fft, is_host, launchers
from .spectra import Factor
from .workers import cut, in_order

# Of spectrum per block: half of a core's second-level cache.
_ROW_BYTES = 1 << 19
_COLUMN_BYTES = 1 << 20

PRECISIONS = ("double", "single")


class Windows:
    """
    Equally large parts of a plane; host code works on copies of them, device code on the plane.

    Parameters
    ----------
    plane : array, shape (y, x)
    corners : array, shape (n, 2), int32
        (y, x) of their first pixels; beside the plane.
    size : (int, int)
        (y, x).
    """

    def __init__(self, plane: Array, corners: Array, size: tuple[int, int]) -> None:
        self.plane, self.corners, self.size = plane, corners, size

    @classmethod
    def whole(cls, plane: Array) -> Windows:
        """The one window that is all of a plane."""
        return cls(plane, array_module(plane).zeros((1, 2), "int32"), plane.shape)

    def __len__(self) -> int:
        return len(self.corners)

    @functools.cached_property
    def pixels(self) -> Array:
        """Copies (n, h, w); of a whole plane a view."""
        xp = array_module(self.plane)
        if self.size == self.plane.shape:
            return xp.broadcast_to(self.plane, (len(self), *self.size))
        if is_host(xp):  # copies whole rows
            every = np.lib.stride_tricks.sliding_window_view(self.plane, self.size)
            return every[self.corners[:, 0], self.corners[:, 1]]
        # A device looks up each pixel anyway, and a view of all windows would be huge, were it ever copied.
        rows, columns = (self.corners[:, axis, None] + xp.arange(self.size[axis]) for axis in (0, 1))
        return self.plane[rows[:, :, None], columns[:, None, :]]


class Filtered(NamedTuple):
    """What `apply` made of n images."""

    images: Array  # (n, h, w) of the dtype asked for
    weights: Array  # (2, n) float64: mean over all frequencies of |c1|^2 and |c2|^2
    stamps: Array | None  # (n, ph, pw) float64: the PSF after the correction, not normalised


def apply(
    windows: Windows,
    correction: Factor,
    parts: np.ndarray,
    *,
    dtype: Any,
    precision: str = "double",
    threads: int = 1,
) -> Filtered:
    """
    Multiply the transforms of n windows of an image, zero-padded to the grid, with their corrections.

    Waits for no device.

    Parameters
    ----------
    windows : Windows
        Of pixels that are finite or not; those that are not count as the mean of the finite ones and are put back
        afterwards, NaN as NaN and both infinities as +inf.
    correction : Factor
        On a grid at least as large as the windows.
    parts : numpy.ndarray, shape (n, 4), int
        x0, y0, width, height, relative to the windows, of what is returned of each. On the host they are all the same;
        on a device results are as large as the largest, and 0 where a part has no pixel.
    dtype : dtype
        Of the images returned.
    precision : {"double", "single"}
        Of the transforms; the correction itself is always in double precision.
    threads : int
        Host threads.

    Returns
    -------
    Filtered

    Notes
    -----
    On a device beside the result: two planes of the grid and their half-plane spectra, and cuFFT's work area for each
    of the two plans, about as large; five times the grid's 8 bytes a pixel, 4 in single precision.
    """
    if is_host(array_module(windows.plane)):
        x0, y0, width, height = parts[0].tolist()
        return _in_blocks(
            windows.pixels,
            correction,
            offset=(y0, x0),
            size=(height, width),
            dtype=dtype,
            precision=precision,
            threads=threads,
        )
    return _on_device(windows, correction, parts, dtype=dtype, precision=precision)


def _on_device(windows: Windows, correction: Factor, parts: np.ndarray, *, dtype: Any, precision: str) -> Filtered:
    xp = array_module(windows.plane)
    device, ffts = launchers("windows"), fft(xp)
    place = windows.plane, windows.corners
    ny, nx = correction.shape
    means = device.finite_means(*place, windows.size)
    grids = device.pad_windows(
        *place, windows.size, means, correction.shape, xp.float32 if precision == "single" else xp.float64
    )
    spectra = ffts.rfft2(grids, axes=(-2, -1))
    del grids
    weights, stamps = correction.multiply(spectra)
    grids = _unscaled_inverse(spectra, correction.shape)
    images = device.crop_windows(grids, 1 / (ny * nx), *place, _beside(xp, parts), largest(parts), dtype)
    return Filtered(images, weights, stamps)


def _unscaled_inverse(spectra: Array, shape: tuple[int, int]) -> Array:
    """Inverse transforms times the size of the grid; the spectra are lost, which saves a copy of them."""
    return fft(array_module(spectra)).irfft2(spectra, s=shape, axes=(-2, -1), norm="forward", overwrite_x=True)


def _beside(xp: Any, boxes: np.ndarray) -> Array:
    return xp.asarray(boxes.astype(np.int32))


def largest(boxes: np.ndarray) -> tuple[int, int]:
    """(y, x) size that holds each of some boxes x0, y0, width, height."""
    width, height = boxes[:, 2:].max(axis=0).tolist()
    return height, width


def _not_finite(images: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """
    Means over the finite pixels of n images (n,), and where pixels are not finite; None if nowhere.

    An image without a finite pixel has mean 0.
    """
    good = np.isfinite(images)
    if good.all():
        return None
    sums = np.where(good, images, 0).sum(axis=(1, 2), dtype=np.float64)
    return sums / np.maximum(good.sum(axis=(1, 2)), 1), ~good


def _in_blocks(
    images: np.ndarray,
    correction: Factor,
    *,
    offset: tuple[int, int],
    size: tuple[int, int],
    dtype: Any,
    precision: str,
    threads: int,
) -> Filtered:
    n, height, width = images.shape
    ny, nx = correction.shape
    real, complex_ = (np.float32, np.complex64) if precision == "single" else (np.float64, np.complex128)
    holes = _not_finite(images)
    spectrum = np.empty((n, ny, correction.n_columns), complex_)
    spectrum[:, height:] = 0
    out = np.empty((n, *size), dtype)
    ffts = fft(np)

    def forward(rows: slice) -> None:
        part = images[:, rows]
        padded = np.empty((n, part.shape[1], nx), real)
        padded[..., width:] = 0
        if holes is None:
            padded[..., :width] = part
        else:
            means, bad = holes
            padded[..., :width] = np.where(bad[:, rows], means[:, None, None], part)
        spectrum[:, rows] = ffts.rfft(padded, axis=-1)

    def correct(columns: slice) -> tuple[Array, Array | None]:
        values, weights, stamps = correction.block(columns)
        part = ffts.fft(spectrum[..., columns], axis=-2)
        part *= values
        spectrum[..., columns] = ffts.ifft(part, axis=-2, overwrite_x=True)
        return weights, stamps

    def backward(rows: slice) -> None:
        first = offset[0]
        part = ffts.irfft(spectrum[:, first + rows.start : first + rows.stop], n=nx, axis=-1)
        out[:, rows] = part[..., offset[1] : offset[1] + size[1]]

    row_bytes = n * nx * spectrum.itemsize // 2
    _run(forward, cut(height, _block(row_bytes, _ROW_BYTES)), threads)
    column_blocks = cut(correction.n_columns, _block(n * ny * 16, _COLUMN_BYTES))
    weights, stamps = zip(*_run(correct, column_blocks, threads), strict=True)
    _run(backward, cut(size[0], _block(row_bytes, _ROW_BYTES)), threads)
    if holes is not None:
        _restore(out, images[:, offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]])
    return Filtered(out, sum(weights), None if stamps[0] is None else sum(stamps))


def _run(function: Callable[[slice], Any], blocks: list[slice], threads: int) -> list[Any]:
    return list(in_order(function, blocks, threads=min(threads, len(blocks))))


def _block(item_bytes: int, most_bytes: int) -> int:
    """How many rows or columns of so many bytes go together."""
    return max(1, most_bytes // item_bytes)


def _restore(out: np.ndarray, images: np.ndarray) -> None:
    """Put NaN back where `images` has NaN, and +inf where it has either infinity."""
    out[np.isnan(images)] = np.nan
    out[np.isinf(images)] = np.inf


def convolve_variance(
    windows: Windows, transforms: Array, means: Array, shape: tuple[int, int], parts: np.ndarray
) -> Array:
    """
    Windows of a variance plane after the kernels with the given transforms, zero beyond their edges.

    Parameters
    ----------
    windows : Windows
        Pixels that are not finite count as their window's mean; afterwards they are NaN, or +inf for both infinities.
    transforms : array, shape (n, ny, nx // 2 + 1)
        Of the kernels, on the grid `shape`. Overwritten.
    means : array, shape (n,), float64
        Clipped means of the windows.
    shape : (int, int)
        FFT grid.
    parts : numpy.ndarray, shape (n, 4), int
        As in `apply`.

    Returns
    -------
    array, shape (n, h, w), float64
    """
    xp = array_module(windows.plane)
    ffts = fft(xp)
    kernels = ffts.irfft2(transforms, s=shape, axes=(-2, -1), overwrite_x=True)
    kernels *= kernels
    product = ffts.rfft2(kernels, axes=(-2, -1))
    del kernels
    if not is_host(xp):
        place, device = (windows.plane, windows.corners), launchers("windows")
        filled = device.pad_windows(*place, windows.size, means, shape, xp.float64)
        product *= ffts.rfft2(filled, axes=(-2, -1))
        del filled
        grids, scale = _unscaled_inverse(product, shape), 1 / (shape[0] * shape[1])
        return device.crop_windows(grids, scale, *place, _beside(xp, parts), largest(parts), xp.float64)
    planes, (x0, y0, width, height) = windows.pixels, parts[0].tolist()
    filled = np.where(np.isfinite(planes), planes.astype(np.float64), means[:, None, None])
    product *= ffts.rfft2(filled, s=shape, axes=(-2, -1))
    window = np.s_[:, y0 : y0 + height, x0 : x0 + width]
    variance = ffts.irfft2(product, s=shape, axes=(-2, -1))[window]
    _restore(variance, planes[window])
    return variance


def weighted_sum(
    weights: Array, first: Windows, second: Windows, parts: np.ndarray, dtype: Any, *, divisors: Array | None = None
) -> Array:
    """
    ``(weights[0] * first + weights[1] * second) / divisors`` in parts of n windows of two planes.

    Parameters
    ----------
    weights : array, shape (2, n), float64
    first, second : Windows
        At the same places. The sum is in the type of the first plane.
    parts : numpy.ndarray, shape (n, 4), int
        As in `apply`.
    dtype : dtype
        Of the result.
    divisors : array, shape (1 or n,), float64, optional

    Returns
    -------
    array, shape (n, h, w)
    """
    xp = array_module(first.plane)
    if not is_host(xp):
        if divisors is not None:
            divisors = xp.broadcast_to(divisors, (len(first),))
        return launchers("windows").weigh_windows(
            weights,
            first.plane,
            second.plane,
            first.corners,
            _beside(xp, parts),
            largest(parts),
            dtype,
            divisors=divisors,
        )
    x0, y0, width, height = parts[0].tolist()
    v1, v2 = (windows.pixels[:, y0 : y0 + height, x0 : x0 + width] for windows in (first, second))
    w1, w2 = (w[:, None, None].astype(v1.dtype) for w in weights)
    out = np.empty(v1.shape, v1.dtype)
    for rows in cut(v1.shape[1], _block(8 * v1.shape[0] * v1.shape[2], _ROW_BYTES)):
        np.multiply(w1, v1[:, rows], out=out[:, rows])
        out[:, rows] += w2 * v2[:, rows]
    if divisors is not None:
        out /= divisors.astype(out.dtype)[:, None, None]
    return out.astype(dtype, copy=False)
