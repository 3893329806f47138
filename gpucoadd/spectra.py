"""
Fourier transforms of kernels, and the corrections made of them.

A kernel of twenty pixels on a grid of thousands is cheaper to transform by two matrix products than by an FFT, and the
products give any block of columns alone, which keeps a large correction in the cache while it is applied. On a device
the first product is made as on the host; the second one is a loop inside the kernel that applies the correction.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import numpy as np

from .backend import Array, array_module, is_host, launchers, quiet
from .matching import check_stamp
from .workers import cut

_WHOLE_BYTES = 1 << 24  # of a kernel's transform that are there at once when a whole correction is made
_ONE_THREAD = 1 << 18  # multiplications in a product, up to which OpenBLAS stays on one thread
SCORE_FLOOR = 1000 * float(np.finfo(np.float64).tiny)  # of |P|^2; rounding noise of any real stamp is far above


def fft_shape(*shapes: tuple[int, int]) -> tuple[int, int]:
    """
    Size of the FFT grid on which two arrays of the given sizes, the largest ones, do not wrap into each other.

    Per axis the sum of the two largest sizes less 1 (the size itself, of one array), rounded up to even. That is LSST's
    grid; its lengths may have large prime factors, with which FFTs take longer than with 2, 3, 5 and 7 alone.

    Parameters
    ----------
    *shapes : (int, int)
        (y, x) sizes of all arrays that take part.

    Returns
    -------
    (int, int)

    Raises
    ------
    ValueError
        If no shape is given, or one is not a pair of positive sizes.

    Examples
    --------
    >>> fft_shape((21, 21), (25, 25), (100, 120)), fft_shape((7, 8))
    ((124, 144), (8, 8))
    """
    if not shapes or any(len(shape) != 2 or min(shape) < 1 for shape in shapes):
        raise ValueError(f"shapes must be pairs (y, x) of positive sizes, at least one; got {shapes!r}")
    totals = (sum(sorted(sizes)[-2:]) - (len(sizes) > 1) for sizes in zip(*shapes, strict=True))
    ny, nx = (int(total + total % 2) for total in totals)
    return ny, nx


@functools.lru_cache(maxsize=16)  # cells of one shape come one after the other
def phases(n: int, n_frequencies: int, size: int) -> np.ndarray:
    """
    Matrix (n_frequencies, size) that transforms a stamp of `size` pixels, origin at `size // 2`, on a grid of `n`.

    The exponents are reduced as integers, so that no frequency loses digits.
    """
    turns = np.outer(np.arange(n_frequencies), np.arange(size) - size // 2) % n
    matrix = np.exp(-2j * np.pi / n * turns)
    matrix.setflags(write=False)
    return matrix


def phases_beside(array: Array, n: int, n_frequencies: int, size: int) -> Array:
    """`phases` in the memory where `array` is; on a device kept from one image to the next."""
    if is_host(array_module(array)):
        return phases(n, n_frequencies, size)
    return _phases_on(array_module(array), array.device.id, n, n_frequencies, size)


@functools.lru_cache(maxsize=64)  # nine shapes of cells need some thirty, of less than a megabyte each
def _phases_on(xp: Any, device: int, n: int, n_frequencies: int, size: int) -> Array:
    return xp.asarray(phases(n, n_frequencies, size))


class StampTransform:
    """
    Real-input transforms of stamps on a common grid, in blocks of columns.

    Parameters
    ----------
    stamps : array, shape (n, h, w), float64
        The origin of each is ``[h // 2, w // 2]``.
    shape : (int, int)
        (y, x) size of the grid.
    """

    def __init__(self, stamps: Array, shape: tuple[int, int]) -> None:
        xp = array_module(stamps)
        self.stamps, self.shape, self.n_columns = stamps, shape, shape[1] // 2 + 1
        self._x = xp.ascontiguousarray(phases_beside(stamps, shape[1], self.n_columns, stamps.shape[2]).T)
        self._rows = _product(stamps.astype(xp.complex128), self._x)

    @property
    def rows(self) -> Array:
        """Transforms of the stamps' rows, shape (n, h, nx // 2 + 1), complex128."""
        return self._rows

    def __call__(self, columns: slice = slice(None)) -> Array:
        """Transforms at some columns, shape (n, ny, columns), complex128."""
        return _product(self._y, self._rows[..., columns])

    def power(self, columns: slice = slice(None)) -> Array:
        """
        Squared modulus at some columns, shape (n, ny, columns), float64.

        The rows of a stamp come in pairs about its origin. Their sums go with cosines, which makes A, their differences
        with sines, which makes B; the transform is ``A - iB`` at a frequency in y and ``A + iB`` at its negative. That
        takes an eighth of the multiplications.
        """
        xp = array_module(self._rows)
        even, odd = self._pairs
        (a_real, a_imag), (b_real, b_imag) = (
            [_product(waves, part[..., columns]) for part in parts]
            for waves, parts in zip(self._waves, (even, odd), strict=True)
        )
        ny, half = self.shape[0], a_real.shape[-2]
        out = xp.empty((a_real.shape[0], ny, a_real.shape[-1]))
        positive = out[:, :half]
        xp.subtract(a_imag, b_real, out=positive)
        positive *= positive
        a_imag += b_real
        real = a_real + b_imag
        real *= real
        positive += real
        a_real -= b_imag
        a_real *= a_real
        a_imag *= a_imag
        a_real += a_imag
        out[:, half:] = a_real[:, ny - half : 0 : -1]
        return out

    @functools.cached_property
    def _y(self) -> Array:
        """Phases that transform columns, (ny, h)."""
        ny = self.shape[0]
        return phases_beside(self._rows, ny, ny, self._rows.shape[1])

    @functools.cached_property
    def _pairs(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Sums of rows at equal distances from the origin, and their differences, as real and imaginary part."""
        xp = array_module(self._rows)
        n, height, width = self._rows.shape
        above = xp.zeros((n, height // 2, width), xp.complex128)
        above[:, : (height - 1) // 2] = self._rows[:, height // 2 + 1 :]
        below = self._rows[:, : height // 2][:, ::-1]
        even = xp.concatenate([self._rows[:, height // 2 : height // 2 + 1], above + below], axis=1)
        odd = above - below
        (er, ei), (or_, oi) = ([xp.ascontiguousarray(p) for p in (a.real, a.imag)] for a in (even, odd))
        return (er, ei), (or_, oi)

    @functools.cached_property
    def _waves(self) -> tuple[Array, Array]:
        """Cosines of distances from 0 on, and sines of those from 1 on, at the frequencies that are not negative."""
        xp = array_module(self._rows)
        reach = self._rows.shape[1] // 2
        waves = phases(self.shape[0], self.shape[0] // 2 + 1, 2 * reach + 1)
        return xp.asarray(waves.real[:, reach:].copy()), xp.asarray(-waves.imag[:, reach + 1 :])

    def convolved(self, corrections: Array, weights: Array) -> Array:
        """
        The stamps after corrections, for whole half planes on a device: convolved with what these do to a single pixel.

        That is wanted no farther out than the stamps reach, and a few of its rows are a product with real matrices,
        where `cropped_inverse` needs the complex transforms of the stamps on the whole grid.

        Parameters
        ----------
        corrections : array, shape (n, ny, nx // 2 + 1), float64
        weights : array, shape (nx // 2 + 1,), float64
            Of `column_weights`.

        Returns
        -------
        array, shape (n, h, w), float64
        """
        xp = array_module(corrections)
        height, width = self.stamps.shape[1:]
        y = phases_beside(corrections, self.shape[0], self.shape[0], 2 * height - 1)[:, height - 1 :].T
        x = phases_beside(corrections, self.shape[1], self.n_columns, 2 * width - 1) * weights[:, None]
        # The real part of a product of phases: cosines with cosines less sines with sines.
        cosines, sines = (xp.matmul(xp.ascontiguousarray(part), corrections) for part in (y.real, y.imag))
        responses = xp.matmul(cosines, xp.ascontiguousarray(x.real))
        responses -= xp.matmul(sines, xp.ascontiguousarray(x.imag))
        return launchers("corrections").convolve_stamps(responses, self.stamps)

    def cropped_inverse(self, transform: Array, columns: slice, weights: Array) -> Array:
        """
        What some columns of a transform add to its inverse, cut to the size of the stamps.

        Parameters
        ----------
        transform : array, shape (n, ny, columns), complex
            Of real images.
        columns : slice
            Which columns these are.
        weights : array, shape (columns,), float64
            Of `column_weights`.

        Returns
        -------
        array, shape (n, h, w), float64
        """
        rows = _product(self._y.conj().T, transform) * weights
        return _product(rows, self._x[:, columns].conj().T).real


def _product(a: Array, b: Array) -> Array:
    """
    Matrix product, on the host in pieces so small that BLAS libraries take one thread for each.

    Blocks are shared out to threads already, and threads that wait for each other cost more than the product.
    """
    xp = array_module(a)
    if not is_host(xp):
        return xp.matmul(a, b)
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    out = np.empty(shape, np.result_type(a, b))
    tall = a.shape[-2] > b.shape[-1]
    row = a.shape[-1] * (b.shape[-1] if tall else a.shape[-2])
    for piece in cut(a.shape[-2] if tall else b.shape[-1], max(1, _ONE_THREAD // max(row, 1))):
        if tall:
            np.matmul(a[..., piece, :], b, out=out[..., piece, :])
        else:
            np.matmul(a, b[..., piece], out=out[..., piece])
    return out


def column_weights(xp: Any, shape: tuple[int, int]) -> Array:
    """How often each column of the half plane counts in a mean over the whole plane, over the number of bins."""
    n = shape[1] // 2 + 1
    weights = np.full(n, 2.0)
    weights[0] = 1.0
    if shape[1] % 2 == 0:
        weights[-1] = 1.0
    return xp.asarray(weights / (shape[0] * shape[1]))


class Block(NamedTuple):
    """A correction at some columns: values, their parts in the two variance weights, and in the corrected PSF."""

    correction: Array  # (n, ny, columns) float64
    weights: Array  # (2, n) float64: mean of |c1|^2, |c2|^2
    stamps: Array | None  # (n, h, w) float64


class Factor(Protocol):
    """What transforms of images are multiplied with: a `Correction`, or one that is there already."""

    shape: tuple[int, int]
    n_columns: int

    def block(self, columns: slice = slice(None)) -> Block: ...

    def multiply(self, spectra: Array) -> tuple[Array, Array | None]: ...


class Correction:
    """
    The factor that whitens differences, or makes them scores; one for each of n pairs of variances.

    Parameters
    ----------
    kernels : array, shape (n, ky, kx) or (1, ky, kx), float64
        Matching kernels.
    v1, v2 : array, shape (n,), float64
        Variances of the image that was not convolved, and of the one that was, before.
    shape : (int, int)
        FFT grid.
    preconvolution : array, shape (py, px), float64, optional
        Of sum 1; makes it a score correction.
    psf : array, shape (n, h, w) or (1, h, w), float64, optional
        PSFs to correct along the way.
    """

    def __init__(
        self,
        kernels: Array,
        v1: Array,
        v2: Array,
        shape: tuple[int, int],
        *,
        preconvolution: Array | None = None,
        psf: Array | None = None,
    ) -> None:
        self.shape, self.n_columns = shape, shape[1] // 2 + 1
        self.v1, self.v2 = v1[:, None, None], v2[:, None, None]
        self.target = self.v1 + self.v2 * kernels.sum(axis=(-2, -1), keepdims=True) ** 2
        self.n = len(self.target)
        self.kernel = StampTransform(kernels, shape)
        self.preconvolution = None if preconvolution is None else StampTransform(preconvolution[None], shape)
        self.psf = None if psf is None else StampTransform(psf, shape)
        self._column_weights = column_weights(array_module(kernels), shape)

    def block(self, columns: slice = slice(None)) -> Block:
        """The correction at some columns."""
        xp = array_module(self._column_weights)
        weights = self._column_weights[columns]
        k2 = self.kernel.power(columns)
        p2 = None
        with quiet(xp):  # NaN variances give a NaN correction
            noise = self.v2 * k2
            if self.preconvolution is not None:
                p2 = xp.maximum(self.preconvolution.power(columns), SCORE_FLOOR)
                noise /= p2
            noise += self.v1
            ratio = xp.divide(self.target, noise, out=noise)
        if p2 is None:
            correction, squared = xp.sqrt(ratio), ratio
        else:
            correction, squared = ratio, ratio * ratio
        k2 = k2 * squared  # may be one kernel of many cells
        if p2 is not None:
            squared *= p2
        sums = xp.stack([xp.einsum("nyx,x->n", part, weights) for part in (squared, k2)])
        stamps = None
        if self.psf is not None:
            stamps = self.psf.cropped_inverse(self.psf(columns) * correction, columns, weights)
        return Block(correction, sums, stamps)

    def multiply(self, spectra: Array) -> tuple[Array, Array | None]:
        """
        Multiply transforms (n, ny, nx // 2 + 1) of images with the correction, in place, on a device.

        Gives what `block` has of the whole half plane beside the correction: weights and stamps.
        """
        weights, corrections = self._launch(spectra, keep=self.psf is not None)
        return weights, None if self.psf is None else self.psf.convolved(corrections, self._column_weights)

    def _launch(self, spectra: Array | None, *, keep: bool) -> tuple[Array, Array | None]:
        xp = array_module(self._column_weights)
        ny = self.shape[0]
        levels = xp.concatenate(
            [xp.broadcast_to(part[:, 0], (self.n, 1)) for part in (self.v1, self.v2, self.target)], axis=1
        )
        return launchers("corrections").correct_spectra(
            spectra,
            self.shape,
            levels,
            self.kernel.rows,
            phases_beside(levels, ny, ny, 3)[:, 2],
            preconvolution=None if self.preconvolution is None else self.preconvolution.rows,
            keep=keep,
        )

    def whole(self) -> Array:
        """The correction on the whole half plane, shape (n, ny, nx // 2 + 1), float64."""
        xp = array_module(self._column_weights)
        if not is_host(xp):
            return self._launch(None, keep=True)[1]
        out = xp.empty((self.n, self.shape[0], self.n_columns), xp.float64)
        for columns in cut(self.n_columns, max(1, _WHOLE_BYTES // (16 * self.n * self.shape[0]))):
            out[..., columns] = self.block(columns).correction
        return out

    def overall(self) -> tuple[Array, Array]:
        """Transforms of what acts on the unconvolved and on the convolved image, on the whole half plane."""
        correction = self.whole()
        xp = array_module(correction)
        c1 = correction if self.preconvolution is None else xp.conj(self.preconvolution()) * correction
        return c1, self.kernel() * correction


def diffim_correction(kernel: Array, v1: float, v2: float, shape: tuple[int, int]) -> Array:
    """
    Fourier factor that whitens the noise of an image difference.

    ``C = sqrt((v1 + v2 s^2) / (v1 + v2 |K|^2))`` with K the transform of the kernel and s its sum. It is 1 at zero
    frequency, so that fluxes are kept, and depends on ``v2 / v1`` alone.

    Parameters
    ----------
    kernel : array, shape (ky, kx), float
        PSF-matching kernel; its place on the stamp does not matter.
    v1, v2 : float
        Variances per pixel of the image that was not convolved and of the one that was, before; in the image unit
        squared.
    shape : (int, int)
        (y, x) size of the FFT grid, as from `fft_shape`.

    Returns
    -------
    array, shape (shape[0], shape[1] // 2 + 1), float64
        Real, in the order of `rfft2`, on the device of `kernel`.

    Raises
    ------
    ValueError
        If `kernel` is not a finite 2-d array that fits on the grid, or the variances are not finite, `v1` positive and
        `v2` at least 0.

    References
    ----------
    DMTN-021 (dmtn-021.lsst.io), equation 1.

    Examples
    --------
    >>> import numpy as np
    >>> kernel = np.array([[0, 0.125, 0], [0.125, 0.5, 0.125], [0, 0.125, 0]])
    >>> c = diffim_correction(kernel, 1.0, 2.0, (8, 8))
    >>> c.shape, float(c[0, 0]), round(float(c.max()), 3)
    ((8, 5), 1.0, 1.732)
    """
    return checked_correction(kernel, v1, v2, shape).whole()[0]


def score_correction(
    kernel: Array, v1: float, v2: float, shape: tuple[int, int], preconvolution_kernel: Array
) -> Array:
    """
    Fourier factor that turns a pre-convolved difference into a detection statistic.

    ``C = (v1 + v2 s^2) / (v1 + v2 |K|^2 / |P|^2)`` with P the transform of the pre-convolution kernel, normalised to
    sum 1. The noise of the result is correlated, by design. At high frequencies C is a ratio of rounding errors, which
    does no harm, since the image has no power there.

    Parameters
    ----------
    kernel : array, shape (ky, kx), float
        PSF-matching kernel that takes the template to the pre-convolved science image.
    v1, v2, shape
        As in `diffim_correction`; `v1` is the science image's.
    preconvolution_kernel : array, shape (py, px), float
        Its sum must not be 0.

    Returns
    -------
    array, shape (shape[0], shape[1] // 2 + 1), float64

    Raises
    ------
    ValueError
        As in `diffim_correction`.

    References
    ----------
    DMTN-179 (dmtn-179.lsst.io).
    """
    return checked_correction(kernel, v1, v2, shape, check_preconvolution(preconvolution_kernel)).whole()[0]


def check_preconvolution(kernel: Array) -> Array:
    """Pre-convolution kernel in float64, normalised to sum 1, or raise ValueError."""
    values = check_stamp("preconvolution_kernel", kernel)
    total = float(values.sum())
    if total == 0:
        raise ValueError("preconvolution_kernel has sum 0 and cannot be normalised; give a PSF or a kernel with a sum")
    return values / total


def checked_correction(
    kernel: Array, v1: float, v2: float, shape: tuple[int, int], preconvolution: Array | None = None
) -> Correction:
    """Correction of one kernel, ValueError as in `diffim_correction`; `preconvolution` is of sum 1."""
    values = check_stamp("kernel", kernel)
    for name, stamp in (("kernel", values), ("preconvolution_kernel", preconvolution)):
        if stamp is not None and (stamp.shape[0] > shape[0] or stamp.shape[1] > shape[1]):
            raise ValueError(f"{name} has shape {stamp.shape} and does not fit on the grid {tuple(shape)}")
    if not (0 < v1 < np.inf and 0 <= v2 < np.inf):
        raise ValueError(f"variances must be finite, v1 positive and v2 at least 0; got v1 = {v1!r}, v2 = {v2!r}")
    xp = array_module(values)
    n1, n2 = (xp.asarray(np.array([float(v)])) for v in (v1, v2))
    grid = (int(shape[0]), int(shape[1]))
    return Correction(values[None], n1, n2, grid, preconvolution=preconvolution)
