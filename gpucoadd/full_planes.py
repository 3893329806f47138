"""
Corrections as arrays: padded stamps, whole FFT planes, and what is done with a correction that somebody else made.

`decorrelate` needs none of this. LSST's decorrelation gives its corrections away and takes them back on the whole FFT
plane, on the grid of `fft_shape`, with the origin of images and kernels at [0, 0].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .backend import Array, array_module, quiet, using
from .filtering import Windows, apply, convolve_variance, weighted_sum
from .matching import check_stamp
from .spectra import Block, StampTransform, check_preconvolution, checked_correction, column_weights


class FullCorrection(NamedTuple):
    """
    A correction on the whole FFT plane, arrays of shape (ny, nx) in the order of `fft2`.

    Attributes
    ----------
    correction : array, float64
        What the difference is multiplied with.
    unconvolved, convolved : array, complex128
        What acts on the image that was not convolved, and on the one that was, altogether.
    """

    correction: Array
    unconvolved: Array
    convolved: Array


def full_correction(
    kernel: Array, v1: float, v2: float, shape: tuple[int, int], preconvolution_kernel: Array | None = None
) -> FullCorrection:
    """
    `diffim_correction`, or with a pre-convolution kernel `score_correction`, on the whole plane.

    Parameters
    ----------
    kernel, v1, v2, shape, preconvolution_kernel
        As there.

    Returns
    -------
    FullCorrection

    Raises
    ------
    ValueError
        As there.
    """
    preconvolution = None if preconvolution_kernel is None else check_preconvolution(preconvolution_kernel)
    model = checked_correction(kernel, v1, v2, shape, preconvolution)
    c1, c2 = model.overall()
    whole = model.whole()[0]
    return FullCorrection(mirrored(whole, shape), mirrored(c1[0].astype("complex128"), shape), mirrored(c2[0], shape))


def mirrored(half: Array, shape: tuple[int, int]) -> Array:
    """
    The whole FFT plane of which `half` is the `rfft2` half.

    Parameters
    ----------
    half : array, shape (ny, nx // 2 + 1), float or complex
        Transform of a real image.
    shape : (int, int)
        (ny, nx).

    Returns
    -------
    array, shape (ny, nx), dtype of `half`

    Examples
    --------
    >>> image = np.arange(12.0).reshape(3, 4)
    >>> bool(np.allclose(mirrored(np.fft.rfft2(image), image.shape), np.fft.fft2(image)))
    True
    """
    xp = array_module(half)
    n_columns = shape[1] // 2 + 1
    others = half[:, shape[1] - n_columns : 0 : -1]  # at the negative frequencies
    return xp.concatenate([half, xp.roll(others[::-1], 1, axis=0).conj()], axis=1)


def pad_to_corner(array: Array, shape: tuple[int, int]) -> Array:
    """
    Zero-pad an array and move its origin ``[h // 2, w // 2]`` to [0, 0]; what lies before it goes to the far end.

    Parameters
    ----------
    array : array, shape (h, w)
    shape : (int, int)
        (y, x) size of the grid.

    Returns
    -------
    array, shape `shape`, dtype of `array`

    Raises
    ------
    ValueError
        If `array` does not fit on the grid.

    Examples
    --------
    >>> pad_to_corner(np.array([[1, 2, 3]]), (1, 6)).tolist()
    [[2, 3, 0, 0, 0, 1]]
    """
    xp = array_module(array=array)
    _check_fits("array", array.shape, shape)
    height, width = array.shape
    with using(array):
        padded = xp.zeros(tuple(map(int, shape)), array.dtype)
        padded[:height, :width] = array
        return xp.roll(padded, (-(height // 2), -(width // 2)), (0, 1))


def cut_from_corner(padded: Array, shape: tuple[int, int]) -> Array:
    """
    Undo `pad_to_corner`.

    Parameters
    ----------
    padded : array, shape (ny, nx)
    shape : (int, int)
        (y, x) size of the array that was padded.

    Returns
    -------
    array, shape `shape`, dtype of `padded`

    Raises
    ------
    ValueError
        If `shape` is larger than the grid.
    """
    xp = array_module(padded=padded)
    _check_fits("the array", shape, padded.shape)
    height, width = shape
    return xp.roll(padded, (height // 2, width // 2), (0, 1))[:height, :width]


class GivenCorrection:
    """
    A correction that is there already, in the place of a `Correction`.

    Parameters
    ----------
    values : array, shape (ny, nx), float
        Real and even, in the order of `fft2`.
    psf : array, shape (h, w), float64, optional
        A PSF to correct along the way.
    """

    def __init__(self, values: Array, psf: Array | None = None) -> None:
        xp = array_module(correction=values)
        if values.ndim != 2 or values.dtype.kind not in "iuf":
            raise ValueError(
                f"a correction must be real and (ny, nx), the whole plane, got {values.dtype} {tuple(values.shape)}"
            )
        self.shape, self.n_columns = values.shape, values.shape[1] // 2 + 1
        self._half = values[None, :, : self.n_columns].astype("float64")
        self._psf = None if psf is None else StampTransform(psf[None], self.shape)
        self._column_weights = column_weights(xp, self.shape)

    def block(self, columns: slice = slice(None)) -> Block:
        """As `Correction.block`; there are no variance weights, for which more than the correction is needed."""
        values = self._half[..., columns]
        stamps = None
        if self._psf is not None:
            transform = self._psf(columns) * values
            stamps = self._psf.cropped_inverse(transform, columns, self._column_weights[columns])
        return Block(values, array_module(values).zeros((2, 1)), stamps)

    def multiply(self, spectra: Array) -> tuple[Array, Array | None]:
        """As `Correction.multiply`."""
        values, weights, stamps = self.block()
        spectra *= values
        return weights, stamps


def corrected_image(correction: Array, image: Array) -> Array:
    """
    An image after a correction, zero beyond its edges.

    Parameters
    ----------
    correction : array, shape (ny, nx), float
        Real and even, in the order of `fft2`; the plane is at least as large as the image.
    image : array, shape (y, x), float
        Pixels that are not finite count as the mean of the finite ones and are put back afterwards, NaN as NaN and both
        infinities as +inf.

    Returns
    -------
    array, shape (y, x), float64

    Raises
    ------
    ValueError
        If `correction` is of another type or shape.
    """
    array_module(correction=correction, image=image)
    _check_fits("image", image.shape, correction.shape)
    height, width = image.shape
    with using(image):
        given = GivenCorrection(correction)
        filtered = apply(Windows.whole(image), given, np.array([[0, 0, width, height]]), dtype="float64")
        return filtered.images[0]


def corrected_stamp(correction: Array, psf: Array) -> Array:
    """
    A PSF after a correction.

    Parameters
    ----------
    correction : array, shape (ny, nx), float
        As in `corrected_image`.
    psf : array, shape (h, w), float
        Origin at ``[h // 2, w // 2]``.

    Returns
    -------
    array, shape (h, w), float64
        Sum 1.

    Raises
    ------
    ValueError
        If `psf` is not finite or larger than the plane, or `correction` is of another type or shape.
    """
    array_module(correction=correction, psf=psf)
    stamp = check_stamp("psf", psf)
    _check_fits("psf", stamp.shape, correction.shape)
    with using(stamp):
        corrected = GivenCorrection(correction, stamp).block().stamps
        assert corrected is not None  # there is a PSF
        return corrected[0] / corrected.sum()


def scaled_variance(v1: Array, v2: Array, c1: Array, c2: Array) -> Array:
    """
    Variance plane of a corrected difference, pixel by pixel: ``mean(|c1|^2) v1 + mean(|c2|^2) v2``.

    Parameters
    ----------
    v1, v2 : array, shape (y, x), float
        Variances of the image that was not convolved, and of the one that was, before.
    c1, c2 : array, shape (ny, nx), complex or float
        What acts on these images, on the whole plane.

    Returns
    -------
    array, shape (y, x), dtype of `v1`

    Raises
    ------
    TypeError
        If arrays are mixed (host and device).
    ValueError
        If the shapes of `v1` and `v2` differ.
    """
    xp = array_module(v1=v1, v2=v2, c1=c1, c2=c2)
    _check_same_shape(v1, v2)
    with using(v1), quiet(xp):
        weights = xp.stack([(abs(c) ** 2).mean(dtype="float64") for c in (c1, c2)])[:, None]
        parts = np.array([[0, 0, v1.shape[1], v1.shape[0]]])
        return weighted_sum(weights, Windows.whole(v1), Windows.whole(v2), parts, v1.dtype)[0]


def convolved_variance(v1: Array, v2: Array, c1: Array, c2: Array, *, fill: tuple[float, float]) -> Array:
    """
    Variance plane of a corrected difference: the variance planes convolved with the squared kernels.

    Parameters
    ----------
    v1, v2, c1, c2
        As in `scaled_variance`; c1 and c2 are the transforms of real kernels.
    fill : (float, float)
        What pixels of `v1` and of `v2` count as that are not finite; afterwards they are NaN, or +inf for both
        infinities.

    Returns
    -------
    array, shape (y, x), float64
        Zero is assumed beyond the edges.

    Raises
    ------
    ValueError
        If the planes are larger than the grid, or shapes differ.
    """
    xp = array_module(v1=v1, v2=v2, c1=c1, c2=c2)
    _check_same_shape(v1, v2)
    _check_same_shape(c1, c2)
    _check_fits("v1", v1.shape, c1.shape)
    shape, parts = c1.shape, np.array([[0, 0, v1.shape[1], v1.shape[0]]])
    with using(v1), quiet(xp):
        planes = [
            convolve_variance(
                Windows.whole(plane),
                c[None, :, : shape[1] // 2 + 1].astype("complex128"),  # a copy, which is overwritten
                xp.asarray(np.array([float(mean)])),
                shape,
                parts,
            )[0]
            for plane, c, mean in zip((v1, v2), (c1, c2), fill)
        ]
        return planes[0] + planes[1]


def _check_fits(name: str, shape: tuple[int, ...], grid: tuple[int, ...]) -> None:
    if len(shape) != 2 or len(grid) != 2 or shape[0] > grid[0] or shape[1] > grid[1]:
        raise ValueError(f"{name} has shape {tuple(shape)} and does not fit on the grid {tuple(grid)}; both are (y, x)")


def _check_same_shape(first: Array, second: Array) -> None:
    if first.shape != second.shape:
        raise ValueError(f"two planes of one image have shapes {first.shape} and {second.shape}; they must be the same")
