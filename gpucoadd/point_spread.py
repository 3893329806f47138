"""PSFs: of one image, and of every epoch of a stack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .backend import Array, array_module, to_host, using
from .images import Frozen
from .matching import SpatialKernel, check_positions, degree_of
from .psf import adaptive_covariance

_GAUSSIAN_HALF = 5.0  # half of a stamp in sigmas; 4e-6 of the flux of a Gaussian lies beyond


class Psf(Frozen):
    """
    PSF of an image, the same everywhere or varying over the field.

    The stamp at (y, x) is ``sum_c f_c(y, x) images_c`` divided by its sum, the ``f_c`` being polynomial terms in the
    order of `SpatialKernel`.

    Parameters
    ----------
    images : array, shape (nc, k, k) or (k, k), float
        Coefficient images, or one stamp, k odd; the origin is element ``[k // 2, k // 2]``. ``nc = (n + 1)(n + 2) / 2``
        for degree n. Sums need not be 1.
    kind : {"chebyshev1", "polynomial"}
        As in `SpatialKernel`.
    range : (float, float, float, float), optional
        (min_x, min_y, max_x, max_y) in parent pixels, as in `SpatialKernel`; needed where a "chebyshev1" varies.

    Attributes
    ----------
    images : array, shape (nc, k, k), float64
    kind, range
        As given.

    Raises
    ------
    TypeError
        If `images` is no array, or not real.
    ValueError
        If its shape does not fit, it is not finite, or its sum is not positive; if `kind` or `range` is not allowed.

    Examples
    --------
    >>> psf = Psf.gaussian(1.5)
    >>> psf.at(20.0, 30.0).shape, round(psf.moments(20.0, 30.0)[0], 3)
    ((17, 17), 1.5)
    """

    images: Array
    kind: str
    range: tuple[float, float, float, float] | None
    _field: SpatialKernel
    _sums: np.ndarray

    def __init__(self, images: Array, *, kind: str = "chebyshev1", range: Any = None) -> None:
        xp = array_module(images=images)
        if images.dtype.kind not in "iuf":
            raise TypeError(f"images must be real numbers, got {images.dtype}")
        coefficients = images[None] if images.ndim == 2 else images
        side = images.shape[-1] if images.ndim else 0
        if coefficients.ndim != 3 or 0 in images.shape or coefficients.shape[1:] != (side, side) or side % 2 == 0:
            raise ValueError(
                f"images has shape {images.shape}; it must be (k, k) or (coefficient, k, k), k odd so that there is a "
                "centre pixel"
            )
        n_images = coefficients.shape[0]
        try:
            degree_of(n_images)
        except ValueError:
            raise ValueError(
                f"images has {n_images} coefficient images; a polynomial in two coordinates has 1, 3, 6, 10, 15, ..."
            ) from None
        with using(images):
            if not bool(xp.isfinite(coefficients).all()):
                raise ValueError("images holds NaN or infinite values; give finite ones")
            varies = n_images > 1 or kind != "chebyshev1" or range is not None
            field = SpatialKernel(
                coefficients, xp.eye(n_images), kind=kind if varies else "polynomial", range=range if varies else None
            )
            sums = to_host(field.basis.sum(axis=(1, 2)))
        if n_images == 1 and not sums[0] > 0:
            raise ValueError(f"images has the sum {sums[0]}; a PSF's must be positive")
        self._set(images=field.basis, kind=kind, range=field.range, _field=field, _sums=sums)

    @classmethod
    def gaussian(cls, sigma: float) -> Psf:
        """Round Gaussian, in NumPy, sampled at the pixels' centres to five `sigma` (pixels, positive)."""
        from .scenery import gaussian_psf

        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be finite and positive, in pixels, got {sigma}")
        return cls(gaussian_psf(sigma, 2 * math.ceil(_GAUSSIAN_HALF * sigma) + 1))

    @property
    def side(self) -> int:
        """Pixels along an edge of the stamp."""
        return int(self.images.shape[1])

    def shares(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """
        Factors of the coefficient images at n positions, (n, nc) float64 on the host, for a sum of 1.

        Raises
        ------
        ValueError
            If the sum at a position is not positive.
        """
        if len(self._sums) == 1:
            return np.full((len(y), 1), 1.0 / self._sums[0])
        terms = self._field.terms(y, x)
        totals = terms @ self._sums
        if not (totals > 0).all():
            n = int(np.argmin(totals > 0))
            raise ValueError(f"the PSF has the sum {totals[n]} at (y, x) = ({y[n]}, {x[n]}); it must be positive there")
        return terms / totals[:, None]

    def at(self, y: Any, x: Any) -> Array:
        """
        Stamp at one position or several.

        Parameters
        ----------
        y, x : float, or sequences of n floats
            Parent pixel coordinates.

        Returns
        -------
        array, shape (k, k) or (n, k, k), float64
            Of sum 1; where `images` is.

        Raises
        ------
        ValueError
            If `y` and `x` do not fit each other, or the sum at a position is not positive.
        """
        xp = array_module(self.images)
        y, x = check_positions(y, x)
        with using(self.images):
            stamps = xp.tensordot(xp.asarray(self.shares(y.reshape(-1), x.reshape(-1))), self.images, 1)
            return stamps.reshape(y.shape + self.images.shape[1:])

    def moments(self, y: Any, x: Any) -> tuple[Any, Any, Any]:
        """
        Width and shape, from adaptive moments ``Q`` of the stamp (`gpucoadd.psf.adaptive_moments`).

        Parameters
        ----------
        y, x
            As in `at`.

        Returns
        -------
        sigma : float or numpy.ndarray, shape (n,)
            ``det(Q)**0.25`` in pixels.
        e1, e2 : float or numpy.ndarray, shape (n,)
            ``(Qxx - Qyy) / (Qxx + Qyy)`` and ``2 Qxy / (Qxx + Qyy)``.

        Raises
        ------
        ValueError
            As `at`, or if the moments do not settle.
        """
        y, x = check_positions(y, x)
        stamps = to_host(self.at(y.reshape(-1), x.reshape(-1)))
        center = (float(self.side // 2), float(self.side // 2))
        found = np.array([adaptive_covariance(stamp, center=center)[0] for stamp in stamps]).reshape(-1, 3)
        yy, xx, yx = found.T.reshape(3, *y.shape)
        values = (yy * xx - yx**2) ** 0.25, (xx - yy) / (xx + yy), 2 * yx / (xx + yy)
        return values if y.ndim else tuple(float(value) for value in values)  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"Psf({self.side} x {self.side}, {self.kind} of degree {degree_of(self.images.shape[0])})"


def as_psfs(
    psfs: Sequence[Any], *, names: Sequence[Any], box: tuple[float, float, float, float]
) -> tuple[Psf | None, ...]:
    """
    The PSFs of a stack's epochs.

    Parameters
    ----------
    psfs : sequence of Psf, array or None
        One per epoch: a stamp (k, k), coefficient images (nc, k, k) of kind "chebyshev1" over `box`, or None.
    names : sequence of hashable
        Ids of the epochs.
    box : (float, float, float, float)
        (min_x, min_y, max_x, max_y) of the stack's pixel edges, in parent pixels.

    Raises
    ------
    TypeError, ValueError
        If there are more or fewer than epochs, or one is none of these; as `Psf`.
    """
    given = list(psfs)
    if len(given) != len(names):
        raise ValueError(f"{len(given)} psfs are given but there are {len(names)} epochs; give one for each, or None")
    out = []
    for name, psf in zip(names, given, strict=True):
        try:
            if psf is None or isinstance(psf, Psf):
                out.append(psf)
            else:
                out.append(Psf(psf, range=box if getattr(psf, "ndim", 0) == 3 else None))
        except (TypeError, ValueError) as error:
            raise type(error)(f"psfs: that of epoch {name!r}: {error}") from None
    return tuple(out)


def measured_sigmas(psfs: Sequence[Psf | None], *, names: Sequence[Any], center: tuple[float, float]) -> np.ndarray:
    """Widths of the PSFs at a position (y, x), (epoch,) float64; ValueError where there is none."""
    sigmas = []
    for name, psf in zip(names, psfs, strict=True):
        if psf is None:
            raise ValueError(
                f"psf_sigma must be given, for psfs has none for epoch {name!r}; give widths in pixels, NaN where "
                "unknown"
            )
        try:
            sigmas.append(psf.moments(*center)[0])
        except ValueError as error:
            raise ValueError(f"the width of epoch {name!r} cannot be measured: {error}; give psf_sigma") from None
    return np.array(sigmas)


def coefficient_stack(psfs: Sequence[Psf]) -> np.ndarray:
    """
    Coefficient images of several PSFs, (psf, nc, k, k) float64 on the host.

    On the union of the stamps, whose centres fall together, and with as many coefficients as the largest number of
    them; 0 elsewhere.
    """
    n_images = max(psf.images.shape[0] for psf in psfs)
    side = max(psf.side for psf in psfs)
    out = np.zeros((len(psfs), n_images, side, side))
    for target, psf in zip(out, psfs, strict=True):
        start = side // 2 - psf.side // 2
        window = slice(start, start + psf.side)
        target[: psf.images.shape[0], window, window] = to_host(psf.images)
    return out


def coefficient_shares(psfs: Sequence[Psf], y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`Psf.shares` of several PSFs at n positions, (n, psf, nc) as in `coefficient_stack`."""
    n_images = max(psf.images.shape[0] for psf in psfs)
    out = np.zeros((len(y), len(psfs), n_images))
    for number, psf in enumerate(psfs):
        out[:, number, : psf.images.shape[0]] = psf.shares(y, x)
    return out
