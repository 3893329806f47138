"""
Applying a correction to images, by FFT, in blocks that stay in the cache.

The rows of the images are transformed, then block after block of columns: forward, times the correction of just these
columns, backward; the correction of the whole plane is never there. Images go to the corner of the grid and
are not rolled to the origin: the correction is real and even, so that their place on the grid does not matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .backend import Array, array_module, fft, is_host
from .spectra import Correction
from .workers import cut, in_order

# Of spectrum per block: half of a core's second-level cache on the host, plenty for a device.
_ROW_BYTES = 1 << 19
_COLUMN_BYTES = 1 << 20
_DEVICE_BYTES = 1 << 28

PRECISIONS = ("double", "single")


class Filtered(NamedTuple):
    """What `apply` made of n images."""

    images: Array  # (n, h, w) of the dtype asked for
    weights: Array  # (2, n) float64: mean over all frequencies of |c1|^2 and |c2|^2
    stamps: Array | None  # (n, ph, pw) float64: the PSF after the correction, not normalised


def _not_finite(images: Array) -> tuple[Array, Array] | None:
    """
    Means over the finite pixels of n images (n,), and where pixels are not finite; None if nowhere.

    Waits for the device. An image without a finite pixel has mean 0.
    """
    xp = array_module(images)
    good = xp.isfinite(images)
    if bool(good.all()):
        return None
    sums = xp.where(good, images, 0).sum(axis=(1, 2), dtype=xp.float64)
    return sums / xp.maximum(good.sum(axis=(1, 2)), 1), ~good


def apply(
    images: Array,
    correction: Correction,
    *,
    offset: tuple[int, int],
    size: tuple[int, int],
    dtype: Any,
    precision: str = "double",
    threads: int = 1,
) -> Filtered:
    """
    Multiply the transforms of n images, zero-padded to the grid, with their corrections.

    Parameters
    ----------
    images : array, shape (n, h, w), float
        Finite or not; pixels that are not count as the mean of the finite ones and are put back afterwards, NaN as NaN
        and both infinities as +inf. Not changed.
    correction : Correction
        On a grid at least as large as the images.
    offset, size : (int, int)
        (y, x) of the first pixel, and the size, of what is returned of each image.
    dtype : dtype
        Of the images returned.
    precision : {"double", "single"}
        Of the transforms; the correction itself is always in double precision.
    threads : int
        Host threads.

    Returns
    -------
    Filtered
    """
    xp = array_module(images)
    n, height, width = images.shape
    ny, nx = correction.shape
    real, complex_ = (xp.float32, xp.complex64) if precision == "single" else (xp.float64, xp.complex128)
    holes = _not_finite(images)
    spectrum = xp.empty((n, ny, correction.n_columns), complex_)
    spectrum[:, height:] = 0
    out = xp.empty((n, *size), dtype)
    ffts = fft(xp)

    def forward(rows: slice) -> None:
        part = images[:, rows]
        padded = xp.empty((n, part.shape[1], nx), real)
        padded[..., width:] = 0
        if holes is None:
            padded[..., :width] = part
        else:
            means, bad = holes
            padded[..., :width] = xp.where(bad[:, rows], means[:, None, None], part)
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
    _run(forward, cut(height, _block(xp, row_bytes, _ROW_BYTES)), threads)
    column_blocks = cut(correction.n_columns, _block(xp, n * ny * 16, _COLUMN_BYTES))
    weights, stamps = zip(*_run(correct, column_blocks, threads), strict=True)
    _run(backward, cut(size[0], _block(xp, row_bytes, _ROW_BYTES)), threads)
    if holes is not None:
        _restore(out, images[:, offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]])
    return Filtered(out, sum(weights), None if stamps[0] is None else sum(stamps))


def _run(function: Callable[[slice], Any], blocks: list[slice], threads: int) -> list[Any]:
    return list(in_order(function, blocks, threads=min(threads, len(blocks))))


def _block(xp: Any, item_bytes: int, host_bytes: int) -> int:
    """How many rows or columns of so many bytes go together."""
    return max(1, (host_bytes if is_host(xp) else _DEVICE_BYTES) // item_bytes)


def _restore(out: Array, images: Array) -> None:
    """Put NaN back where `images` has NaN, and +inf where it has either infinity."""
    xp = array_module(out)
    out[xp.isnan(images)] = xp.nan
    out[xp.isinf(images)] = xp.inf


def convolve_variance(planes: Array, transforms: Array, means: Array, shape: tuple[int, int]) -> Array:
    """
    Variance planes after the kernels with the given transforms, zero beyond their edges.

    Parameters
    ----------
    planes : array, shape (n, h, w), float
        Pixels that are not finite count as their plane's mean; afterwards they are NaN, or +inf for both infinities.
    transforms : array, shape (n, ny, nx // 2 + 1)
        Of the kernels, on the grid `shape`.
    means : array, shape (n,), float64
        Clipped means of the planes.
    shape : (int, int)
        FFT grid.

    Returns
    -------
    array, shape (n, h, w), float64
    """
    xp = array_module(planes)
    ffts = fft(xp)
    height, width = planes.shape[1:]
    filled = xp.where(xp.isfinite(planes), planes.astype(xp.float64), means[:, None, None])
    kernels = ffts.irfft2(transforms, s=shape, axes=(-2, -1))
    kernels *= kernels
    product = ffts.rfft2(kernels, axes=(-2, -1))
    product *= ffts.rfft2(filled, s=shape, axes=(-2, -1))
    variance = ffts.irfft2(product, s=shape, axes=(-2, -1))[:, :height, :width]
    _restore(variance, planes)
    return variance


def weighted_sum(weights: Array, v1: Array, v2: Array) -> Array:
    """``weights[0] * v1 + weights[1] * v2`` of n planes each, in the dtype of `v1`; weights are (2, n)."""
    xp = array_module(v1)
    w1, w2 = (w[:, None, None].astype(v1.dtype) for w in weights)
    out = xp.empty(v1.shape, v1.dtype)
    for rows in cut(v1.shape[1], _block(xp, 8 * v1.shape[0] * v1.shape[2], _ROW_BYTES)):
        xp.multiply(w1, v1[:, rows], out=out[:, rows])
        out[:, rows] += w2 * v2[:, rows]
    return out
