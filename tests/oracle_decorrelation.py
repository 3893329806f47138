"""
Slow, obvious definitions of decorrelation, from DMTN-021 and DMTN-179; shares no code with the package.

Two answers to one question. `Dense` writes down how the noise of every pixel goes with that of every other on a small
torus and takes the inverse square root of that matrix; it knows no Fourier transform. `Textbook` writes the equations
in Fourier space, on the full complex plane, in double precision; it is fast enough for images of some hundred pixels.

Pairs are (y, x). "Unconvolved" is the image that was not convolved with the matching kernel, with variance `n1`;
"convolved" the other one, with variance `n2` before it was.
"""

from __future__ import annotations

import math
from itertools import product
from types import SimpleNamespace

import numpy as np

# Grid -------------------------------------------------------------------------------------------------------------


def fft_shape(*shapes):
    """Per axis: the two largest sizes added, less one, rounded up to even; a single size rounded up."""
    result = []
    for axis in (0, 1):
        sizes = sorted(shape[axis] for shape in shapes)
        size = sizes[0] if len(sizes) == 1 else sizes[-1] + sizes[-2] - 1
        result.append(size + size % 2)
    return tuple(result)


def to_corner(array, shape):
    """`array` in zeros of `shape`, its element n // 2 at [0, 0], what lies before it at the far end."""
    ny, nx = array.shape
    plane = np.zeros(shape)
    plane[:ny, :nx] = array
    return np.roll(plane, (-(ny // 2), -(nx // 2)), axis=(0, 1))


def from_corner(plane, shape):
    """The array of `shape` that `to_corner` had put into `plane`."""
    ny, nx = shape
    return np.roll(plane, (ny // 2, nx // 2), axis=(0, 1))[:ny, :nx]


def dft(plane):
    """Sum over pixels of plane * exp(-2 pi i k x / n), frequency by frequency."""
    ny, nx = plane.shape
    y, x = np.arange(ny)[:, None], np.arange(nx)[None, :]
    out = np.empty((ny, nx), complex)
    for ky, kx in product(range(ny), range(nx)):
        out[ky, kx] = (plane * np.exp(-2j * np.pi * (ky * y / ny + kx * x / nx))).sum()
    return out


# The correction, twice ----------------------------------------------------------------------------------------------


def circulant(kernel, shape):
    """Matrix that convolves an image, its pixels in one row, with `kernel` (origin n // 2) on the torus `shape`."""
    ny, nx = shape
    matrix = np.zeros((ny * nx, ny * nx))
    for y, x in product(range(ny), range(nx)):
        for j, i in product(*map(range, kernel.shape)):
            from_y = (y - (j - kernel.shape[0] // 2)) % ny
            from_x = (x - (i - kernel.shape[1] // 2)) % nx
            matrix[y * nx + x, from_y * nx + from_x] += kernel[j, i]
    return matrix


class Dense:
    """The correction as a matrix on the pixels of a torus."""

    def __init__(self, kernel, n1, n2, shape, preconvolution=None):
        self.shape = shape
        k = circulant(kernel, shape)
        total = n1 + n2 * kernel.sum() ** 2
        if preconvolution is None:
            covariance = n1 * np.eye(len(k)) + n2 * k @ k.T
            values, vectors = np.linalg.eigh(covariance)
            self.matrix = np.sqrt(total) * (vectors / np.sqrt(values)) @ vectors.T
            self.on_unconvolved = self.matrix
        else:
            p = circulant(preconvolution / preconvolution.sum(), shape)
            self.matrix = total * p @ p.T @ np.linalg.inv(n1 * p @ p.T + n2 * k @ k.T)
            self.on_unconvolved = p.T @ self.matrix
        self.on_convolved = k @ self.matrix

    def _on_torus(self, plane):
        torus = np.zeros(self.shape)
        torus[: plane.shape[0], : plane.shape[1]] = plane
        return torus.ravel()

    def _apply(self, matrix, plane):
        return (matrix @ self._on_torus(plane)).reshape(self.shape)[: plane.shape[0], : plane.shape[1]]

    def image(self, plane):
        """`plane` corrected; it is surrounded by zeros."""
        return self._apply(self.matrix, plane)

    def spectrum(self):
        """The real factor at each frequency of the full plane."""
        return dft(self.matrix[:, 0].reshape(self.shape)).real

    def weights(self):
        """Sum of the squares of what reaches a pixel from the unconvolved and from the convolved image."""
        return (self.on_unconvolved[0] ** 2).sum(), (self.on_convolved[0] ** 2).sum()

    def variance(self, unconvolved, convolved):
        """Variance of each pixel from the variances of all others."""
        return self._apply(self.on_unconvolved**2, unconvolved) + self._apply(self.on_convolved**2, convolved)


class Textbook:
    """The correction as a factor in Fourier space."""

    def __init__(self, kernel, n1, n2, shape, preconvolution=None):
        self.shape = shape
        k = np.fft.fft2(to_corner(kernel, shape))
        total = n1 + n2 * kernel.sum() ** 2
        if preconvolution is None:
            self.factor = np.sqrt(total / (n1 + n2 * np.abs(k) ** 2))
            self.on_unconvolved = self.factor
        else:
            p = np.fft.fft2(to_corner(preconvolution / preconvolution.sum(), shape))
            power = np.maximum(np.abs(p) ** 2, 1000 * np.finfo(float).tiny)
            self.factor = total / (n1 + n2 * np.abs(k) ** 2 / power)
            self.on_unconvolved = np.conj(p) * self.factor
        self.on_convolved = k * self.factor

    def _apply(self, factor, plane):
        return from_corner(np.fft.ifft2(np.fft.fft2(to_corner(plane, self.shape)) * factor).real, plane.shape)

    def image(self, plane):
        """`plane` corrected; it is surrounded by zeros."""
        return self._apply(self.factor, plane)

    def spectrum(self):
        """The real factor at each frequency of the full plane."""
        return self.factor

    def weights(self):
        """Mean over frequencies of the squared factors on the unconvolved and on the convolved image."""
        return (np.abs(self.on_unconvolved) ** 2).mean(), (np.abs(self.on_convolved) ** 2).mean()

    def variance(self, unconvolved, convolved):
        """Both variances, each convolved with its squared kernel."""
        total = 0.0
        for factor, plane in ((self.on_unconvolved, unconvolved), (self.on_convolved, convolved)):
            total = total + self._apply(np.fft.fft2(np.fft.ifft2(factor).real ** 2), plane)
        return total


# One image ----------------------------------------------------------------------------------------------------------


def filled(plane, value):
    """`plane` with `value` for what is not finite, and NaN and inf where they were: plane, restore(result)."""
    is_nan, is_inf = np.isnan(plane), np.isinf(plane)

    def restore(result):
        result = result.copy()
        result[is_nan], result[is_inf] = np.nan, np.inf
        return result

    return np.where(is_nan | is_inf, value, plane), restore


def corrected_image(engine, image):
    """Non-finite pixels step aside for the mean of the others, and come back; -inf comes back as +inf."""
    image = image.astype(np.float64)
    finite = image[np.isfinite(image)]
    plane, restore = filled(image, finite.mean() if finite.size else 0.0)
    return restore(engine.image(plane))


def corrected_variance(engine, unconvolved, convolved, n1, n2, *, complete):
    """Variance plane from those of the two images; `complete` convolves them, else they are only weighed."""
    unconvolved, convolved = unconvolved.astype(np.float64), convolved.astype(np.float64)
    if not complete:
        w1, w2 = engine.weights()
        with np.errstate(invalid="ignore"):  # inf - inf is NaN
            return w1 * unconvolved + w2 * convolved
    zeros = np.zeros_like(unconvolved)
    first, restore_first = filled(unconvolved, n1)
    second, restore_second = filled(convolved, n2)
    return restore_first(engine.variance(first, zeros)) + restore_second(engine.variance(zeros, second))


def corrected_psf(engine, psf):
    """Stamp corrected as an image, cut to its own shape, with sum one."""
    stamp = engine.image(psf)
    return stamp / stamp.sum()


def decorrelate(
    difference,
    science_variance,
    template_variance,
    kernel,
    *,
    sv,
    tv,
    template_matched=True,
    score=False,
    preconvolution=None,
    psf=None,
    complete=False,
    engine=Textbook,
):
    """
    Corrected planes of one difference, in float64.

    `sv`, `tv` are the variance levels of science and template, `psf` that of the unconvolved image; in score mode it is
    the pre-convolution kernel when there is none.
    """
    if score and preconvolution is None:
        preconvolution = psf
    participants = [a for a in (kernel, psf, difference, preconvolution if score else None) if a is not None]
    shape = fft_shape(*(a.shape for a in participants))
    n1, n2, unconvolved, convolved = sv, tv, science_variance, template_variance
    if not template_matched:
        n1, n2, unconvolved, convolved = tv, sv, template_variance, science_variance
    made = engine(kernel, n1, n2, shape, preconvolution if score else None)
    variance = corrected_variance(made, unconvolved, convolved, n1, n2, complete=complete)
    if not template_matched:
        variance = variance / kernel.sum() ** 2
    return SimpleNamespace(
        image=corrected_image(made, difference),
        variance=variance,
        psf=None if psf is None else corrected_psf(made, psf),
        spectrum=made.spectrum(),
        fft_shape=shape,
        n1=n1,
        n2=n2,
    )


# Numbers that go in -------------------------------------------------------------------------------------------------


def _quantile(ordered, fraction):
    """Linear interpolation at index fraction * (n - 1) of a sorted list."""
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def variance_mean(variance, mask, bits):
    """Mean after three passes of clipping at three sigma, each from all good pixels."""
    values = variance.astype(np.float32).ravel().tolist()
    flags = mask.ravel().tolist()
    good = sorted(v for v, m in zip(values, flags, strict=True) if math.isfinite(v) and not m & bits)
    if not good:
        return math.nan
    centre = _quantile(good, 0.5)
    width = 3 * 0.741301109252802 * (_quantile(good, 0.75) - _quantile(good, 0.25))
    for _ in range(3):
        kept = [v for v in good if abs(v - centre) <= width]
        if not kept:
            return math.nan
        centre = math.fsum(kept) / len(kept)
        if len(kept) > 1:
            width = 3 * math.sqrt(math.fsum((v - centre) ** 2 for v in kept) / (len(kept) - 1))
        elif len(good) > 1:
            width = math.nan
    return centre


def _chebyshev(n, x):
    """T_n(x) from its recurrence."""
    return (1.0, x)[n] if n < 2 else 2 * x * _chebyshev(n - 1, x) - _chebyshev(n - 2, x)


def kernel_at(basis, coefficients, kind, box, y, x):
    """Sum of basis images, each times a polynomial of the position; coefficients by degree, then by power of y."""
    if kind == "chebyshev1":
        min_x, min_y, max_x, max_y = box
        x = (2 * x - min_x - max_x) / (max_x - min_x)
        y = (2 * y - min_y - max_y) / (max_y - min_y)

    def term(power, value):
        return _chebyshev(power, value) if kind == "chebyshev1" else value**power

    kernel = np.zeros(basis.shape[1:])
    for image, numbers in zip(basis, coefficients, strict=True):
        degree, power_of_y = 0, 0
        for number in numbers:
            kernel += number * term(degree - power_of_y, x) * term(power_of_y, y) * image
            degree, power_of_y = (degree, power_of_y + 1) if power_of_y < degree else (degree + 1, 0)
    return kernel


# Cells --------------------------------------------------------------------------------------------------------------


def cut(plane, box, origin):
    """`plane` inside `box` (x0, y0, width, height in the parent frame)."""
    x0, y0, width, height = (int(v) for v in box)
    y, x = y0 - origin[0], x0 - origin[1]
    return plane[y : y + height, x : x + width]


def decorrelate_cells(difference, science, template, kernel, inner, expanded, *, origin, bits, reduce, **options):
    """
    Each cell decorrelated by itself in its expanded box, put together in their inner boxes.

    `science`, `template` are (variance, mask); `kernel(y, x)` and, if it is no array, `psf(y, x)` give a stamp;
    `reduce` is "average", "sum" or "copy". `sv` and `tv` are measured in each expanded box where they are not given.
    """
    start = np.nan if reduce == "copy" else 0.0
    image, variance = np.full(difference.shape, start), np.full(difference.shape, start)
    count = np.zeros(difference.shape, int)
    given = {name: options.pop(name, None) for name in ("sv", "tv")}
    psf = options.pop("psf", None)
    cells = []
    for small, large in zip(inner, expanded, strict=True):
        x0, y0, width, height = (int(v) for v in large)
        position = (y0 + height / 2, x0 + width / 2)
        levels = {}
        for name, (v, m) in (("sv", science), ("tv", template)):
            measured = variance_mean(cut(v, large, origin), cut(m, large, origin), bits)
            levels[name] = measured if given[name] is None else given[name]
        planes = [cut(plane, large, origin) for plane in (difference, science[0], template[0])]
        stamp = psf(*position) if callable(psf) else psf
        cell = decorrelate(*planes, kernel(*position), psf=stamp, **levels, **options)
        cells.append(SimpleNamespace(position=position, **levels, psf=cell.psf))
        new_image, new_variance = (cut(plane, small, (y0, x0)) for plane in (cell.image, cell.variance))
        with np.errstate(invalid="ignore"):
            valid = ~np.isnan(new_image * new_variance)
        for whole, new in ((image, new_image), (variance, new_variance)):
            there = cut(whole, small, origin)
            there[valid] = new[valid] if reduce == "copy" else there[valid] + new[valid]
        cut(count, small, origin)[valid] += 1
    if reduce == "average":
        with np.errstate(invalid="ignore", divide="ignore"):
            image, variance = image / count, variance / count
    return SimpleNamespace(image=image, variance=variance, cells=cells)


def psf_at(cells, inner, y, x):
    """Mean of the unit-sum PSFs of the cells that hold the point, a pixel's upper edges not included; None without."""
    stamps = []
    for cell, (x0, y0, width, height) in zip(cells, inner, strict=True):
        if x0 - 0.5 <= x < x0 + width - 0.5 and y0 - 0.5 <= y < y0 + height - 0.5:
            stamps.append(cell.psf / cell.psf.sum())
    return sum(stamps) / len(stamps) if stamps else None


# Something to try it on ---------------------------------------------------------------------------------------------


def gaussian(shape, sigma, centre=(0.0, 0.0)):
    """Unit-sum Gaussian stamp, `centre` (y, x) pixels off its element n // 2."""
    y = np.arange(shape[0])[:, None] - shape[0] // 2 - centre[0]
    x = np.arange(shape[1])[None, :] - shape[1] // 2 - centre[1]
    stamp = np.exp(-0.5 * (y**2 + x**2) / sigma**2)
    return stamp / stamp.sum()


def convolved(image, kernel):
    """`image` convolved with `kernel` (odd sides) where the kernel lies inside; smaller by the kernel less one."""
    ny, nx = kernel.shape
    height, width = image.shape[0] - ny + 1, image.shape[1] - nx + 1
    out = np.zeros((height, width))
    for j, i in product(range(ny), range(nx)):
        if kernel[j, i]:
            y, x = ny - 1 - j, nx - 1 - i
            out += kernel[j, i] * image[y : y + height, x : x + width]
    return out
