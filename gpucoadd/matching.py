"""The PSF-matching kernel, one image or one that varies over the field."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .backend import Array, array_module
from .images import Frozen

KINDS = ("polynomial", "chebyshev1")


def check_stamp(name: str, stamp: Array) -> Array:
    """`stamp` in float64, or raise unless it is a finite (y, x) array that is not empty."""
    xp = array_module(**{name: stamp})
    if stamp.ndim != 2 or 0 in stamp.shape:
        raise ValueError(f"{name} has shape {stamp.shape}; it must be (y, x)")
    values = stamp.astype(xp.float64)
    if not bool(xp.isfinite(values).all()):
        raise ValueError(f"{name} holds NaN or infinite values; give finite ones")
    return values


class SpatialKernel(Frozen):
    """
    PSF-matching kernel that varies over the field.

    ``kernel(y, x) = sum_b f_b(y, x) basis_b``, each ``f_b`` a polynomial whose coefficients are ordered by total
    degree, then by rising power of y: 1, x, y, x^2, xy, y^2, x^3, ...

    Parameters
    ----------
    basis : array, shape (nb, ky, kx), float
        Basis images; the origin of each is element ``[ky // 2, kx // 2]``.
    coefficients : array, shape (nb, nc), float
        Coefficients of each ``f_b``; ``nc = (n + 1)(n + 2) / 2`` for degree n.
    kind : {"polynomial", "chebyshev1"}
        Powers of the parent pixel coordinates themselves, or products ``T_i(x') T_j(y')`` of Chebyshev polynomials of
        the first kind, where ``x'`` and ``y'`` run from -1 to 1 over `range`.
    range : (float, float, float, float), optional
        (min_x, min_y, max_x, max_y) in parent pixels; "chebyshev1" needs it, "polynomial" does not look at it. LSST's
        box is that of the pixel edges: ``x0 - 0.5`` to ``x0 + width - 0.5``.

    Raises
    ------
    TypeError, ValueError
        If the arrays are mixed (host and device), not finite, or of shapes that do not fit; if `kind` is unknown; if
        `range` is missing or empty.

    Examples
    --------
    >>> import numpy as np
    >>> kernel = SpatialKernel(np.ones((1, 3, 3)) / 9, np.array([[1.0, 0.5, 0.0]]))
    >>> round(float(kernel.at(10.0, 4.0).sum()), 12)  # 1 + 0.5 x
    3.0
    """

    basis: Array
    coefficients: Array
    kind: str
    range: tuple[float, float, float, float] | None

    def __init__(self, basis: Array, coefficients: Array, *, kind: str = "polynomial", range: Any = None) -> None:
        xp = array_module(basis=basis, coefficients=coefficients)
        if basis.ndim != 3 or 0 in basis.shape:
            raise ValueError(f"basis has shape {basis.shape}; it must be (basis, ky, kx)")
        if coefficients.ndim != 2 or coefficients.shape[0] != basis.shape[0]:
            raise ValueError(
                f"coefficients has shape {coefficients.shape} but there are {basis.shape[0]} basis images; it must be "
                f"({basis.shape[0]}, coefficient)"
            )
        degree_of(coefficients.shape[1])
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        for name, values in (("basis", basis), ("coefficients", coefficients)):
            if not bool(xp.isfinite(values).all()):
                raise ValueError(f"{name} holds NaN or infinite values; give finite ones")
        self._set(basis=basis.astype(xp.float64), coefficients=coefficients.astype(xp.float64))
        self._set(kind=kind, range=_check_range(kind, range))

    @property
    def shape(self) -> tuple[int, int]:
        """(ky, kx)."""
        return self.basis.shape[1:]

    def at(self, y: Any, x: Any) -> Array:
        """
        Kernel at one position or several.

        Parameters
        ----------
        y, x : float, or sequences of n floats
            Parent pixel coordinates.

        Returns
        -------
        array, shape (ky, kx) or (n, ky, kx), float64
            Not normalised: its sum varies with the position.
        """
        xp = array_module(self.basis)
        y, x = check_positions(y, x)
        terms = xp.asarray(self.terms(y.reshape(-1), x.reshape(-1)))
        kernels = xp.tensordot(xp.matmul(terms, self.coefficients.T), self.basis, 1)
        return kernels.reshape(y.shape + self.shape)

    def terms(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Values of the polynomial terms at n positions, shape (n, nc), on the host."""
        degree = degree_of(self.coefficients.shape[1])
        if self.range is None:
            powers_y, powers_x = (np.vander(v, degree + 1, increasing=True) for v in (y, x))
        else:
            min_x, min_y, max_x, max_y = self.range
            powers_y = np.polynomial.chebyshev.chebvander((2 * y - min_y - max_y) / (max_y - min_y), degree)
            powers_x = np.polynomial.chebyshev.chebvander((2 * x - min_x - max_x) / (max_x - min_x), degree)
        pairs = [(total - i, i) for total in range(degree + 1) for i in range(total + 1)]
        return np.stack([powers_x[:, i] * powers_y[:, j] for i, j in pairs], axis=-1)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a FITS file that `gpucoadd.read_kernel` reads; OSError if it cannot be written."""
        from .fits import write_kernel

        write_kernel(path, self)

    def __repr__(self) -> str:
        n_basis, n_coefficients = self.coefficients.shape
        return (
            f"SpatialKernel({n_basis} basis images of {self.shape}, {self.kind} of degree {degree_of(n_coefficients)})"
        )


def check_positions(y: Any, x: Any) -> tuple[np.ndarray, np.ndarray]:
    """`y` and `x` in float64, both of shape () or (n,); ValueError otherwise."""
    y, x = np.asarray(y, np.float64), np.asarray(x, np.float64)
    if y.shape != x.shape or y.ndim > 1:
        raise ValueError(f"y has shape {y.shape} and x {x.shape}; give two numbers, or two sequences of one length")
    return y, x


def degree_of(n_coefficients: int) -> int:
    """Degree of a 2-d polynomial with so many coefficients."""
    degree = (round((8 * n_coefficients + 1) ** 0.5) - 3) // 2
    if degree < 0 or (degree + 1) * (degree + 2) // 2 != n_coefficients:
        raise ValueError(
            f"coefficients has {n_coefficients} columns; a polynomial in two coordinates has 1, 3, 6, 10, 15, ..."
        )
    return degree


def _check_range(kind: str, range_: Any) -> tuple[float, float, float, float] | None:
    """`range_` as four floats; None for a polynomial."""
    if kind == "polynomial":
        return None
    try:
        min_x, min_y, max_x, max_y = (float(v) for v in range_)
    except (TypeError, ValueError):
        raise ValueError(f"range must be (min_x, min_y, max_x, max_y) for kind='chebyshev1', got {range_!r}") from None
    if not (min_x < max_x and min_y < max_y) or not np.isfinite((min_x, min_y, max_x, max_y)).all():
        raise ValueError(f"range must be (min_x, min_y, max_x, max_y) with min < max, got {range_!r}")
    return min_x, min_y, max_x, max_y
