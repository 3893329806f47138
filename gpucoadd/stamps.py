"""
Small images in files: matching kernels and PSFs.

A kernel that varies over the field is two HDUs, KERNEL_BASIS (basis, ky, kx) and KERNEL_COEFFICIENTS (basis,
coefficient) with cards KERNKIND and, for Chebyshev polynomials, KERNXMIN, KERNYMIN, KERNXMAX, KERNYMAX. A PSF that
varies is one HDU (coefficient, k, k) with the same cards. Any other stamp is one 2-d image.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .layouts import hdu_name
from .matching import KINDS, SpatialKernel
from .point_spread import Psf
from .sources import OpenFile
from .writing import BASIS_HDU, COEFFICIENTS_HDU, KERNEL_HDU, KIND_CARD, RANGE_CARDS


def read_kernel(path: str | os.PathLike[str]) -> np.ndarray | SpatialKernel:
    """
    PSF-matching kernel of a file.

    Parameters
    ----------
    path : path
        FITS file with the HDUs KERNEL_BASIS and KERNEL_COEFFICIENTS as `SpatialKernel.write` makes them; or with a 2-d
        image, of which one named KERNEL comes before the first.

    Returns
    -------
    SpatialKernel or numpy.ndarray, shape (ky, kx), float64
        The image, which is not normalised, has its origin at element ``[ky // 2, kx // 2]``.

    Raises
    ------
    FileNotFoundError, OSError
        If the file does not exist or cannot be read.
    ValueError
        If it is not FITS, truncated or damaged; if it holds no 2-d image, or one of the two HDUs without the other; if
        shapes or cards do not fit; if values are not finite. All name the file.
    """
    name = os.fspath(path)
    with _images(name) as hdus:
        if any(hdu_name(hdu) in (BASIS_HDU, COEFFICIENTS_HDU) for hdu in hdus):
            return _spatial_kernel(name, hdus)
        return _first_stamp(name, hdus, (KERNEL_HDU,))


def read_stamp(path: str | os.PathLike[str], *names: str) -> np.ndarray:
    """
    2-d image of a file: the first HDU of the first of `names` that is there, else the first 2-d image.

    Returns
    -------
    numpy.ndarray, shape (y, x), float64
        As it is in the file, not normalised.

    Raises
    ------
    FileNotFoundError, OSError
        If the file does not exist or cannot be read.
    ValueError
        If it is not FITS, truncated or damaged; if it holds no 2-d image; if values are not finite. All name the file.
    """
    file = os.fspath(path)
    with _images(file) as hdus:
        return _first_stamp(file, hdus, names)


def find_stamp(path: str | os.PathLike[str], name: str) -> np.ndarray | None:
    """As `read_stamp`, but the 2-d image called `name` or, where there is none, None."""
    file = os.fspath(path)
    with _images(file) as hdus:
        named = _called([hdu for hdu in hdus if len(hdu.shape) == 2], name)
        return None if named is None else _pixels(file, named, 2)


def psf_of_hdu(path: str, hdu: Any) -> Psf:
    """
    PSF of an image HDU of an open file.

    Parameters
    ----------
    path : str
        Of the file, for the errors.
    hdu : astropy HDU
        A stamp, or coefficient images with the cards of a kernel that varies.

    Raises
    ------
    ValueError
        If it is damaged, not finite, not (k, k) or (coefficient, k, k) with k odd, or a card does not fit.
    """
    images = _pixels(path, hdu, len(hdu.shape))
    kind, range_ = ("chebyshev1", None) if images.ndim == 2 else _field(path, hdu)
    try:
        return Psf(images, kind=kind, range=range_)
    except ValueError as error:
        raise ValueError(f"{path}: {hdu_name(hdu)}: {error}") from None


@contextlib.contextmanager
def _images(path: str) -> Iterator[list[Any]]:
    """HDUs of a file that are images with pixels."""
    file = OpenFile(path)
    try:
        yield [hdu for hdu in file.hdus if getattr(hdu, "is_image", False) and len(hdu.shape) > 0]
    finally:
        file.close()


def _called(hdus: Sequence[Any], name: str) -> Any:
    """The first HDU of that name, or None."""
    return next((hdu for hdu in hdus if hdu_name(hdu) == name), None)


def _first_stamp(path: str, hdus: Sequence[Any], names: Sequence[str]) -> np.ndarray:
    named = [hdu for name in names if (hdu := _called(hdus, name)) is not None]
    found = named or [hdu for hdu in hdus if len(hdu.shape) == 2]
    if not found:
        has = ", ".join(f"{hdu_name(hdu) or 'an unnamed image'} of shape {hdu.shape}" for hdu in hdus) or "no image"
        raise ValueError(f"{path} has no 2-d image; it must hold one{_named(names)}, this file holds {has}")
    return _pixels(path, found[0], 2)


def _named(names: Sequence[str]) -> str:
    return f", best in an HDU named {' or '.join(names)}" if names else ""


def _pixels(path: str, hdu: Any, n_axes: int) -> np.ndarray:
    """Values of an HDU: native float64, all finite."""
    name = hdu_name(hdu) or "image"
    shape = tuple(hdu.shape)
    if len(shape) != n_axes or 0 in shape:
        raise ValueError(f"{path}: {name} has shape {shape}; it must have {n_axes} axes and no empty one")
    try:
        values = np.array(hdu.data, dtype=np.float64, order="C")
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path}: the pixels of {name} cannot be decoded ({error or type(error).__name__}); "
            "the file is damaged, fetch it again"
        ) from error
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: {name} holds NaN or infinite values; every value must be finite")
    return values


def _spatial_kernel(path: str, hdus: Sequence[Any]) -> SpatialKernel:
    basis, coefficients = (_called(hdus, name) for name in (BASIS_HDU, COEFFICIENTS_HDU))
    for hdu, name, other in (
        (basis, BASIS_HDU, COEFFICIENTS_HDU),
        (coefficients, COEFFICIENTS_HDU, BASIS_HDU),
    ):
        if hdu is None:
            raise ValueError(f"{path} has {other} but no {name}; a kernel that varies over the field is made of both")
    kind, range_ = _field(path, coefficients)
    arrays = _pixels(path, basis, 3), _pixels(path, coefficients, 2)
    try:
        return SpatialKernel(*arrays, kind=kind, range=range_)
    except ValueError as error:  # shapes that do not fit each other, or an empty range
        raise ValueError(f"{path}: {error}") from None


def _field(path: str, hdu: Any) -> tuple[str, tuple[float, ...] | None]:
    """Kind of the polynomials, and (min_x, min_y, max_x, max_y) if they need it, as the cards of an HDU have them."""
    kind = str(hdu.header.get(KIND_CARD, "")).strip().lower()
    if kind not in KINDS:
        raise ValueError(f"{path}: card {KIND_CARD} of {hdu_name(hdu)} must be {' or '.join(KINDS)}, got {kind!r}")
    if kind == "polynomial":
        return kind, None
    values = [hdu.header.get(card) for card in RANGE_CARDS]
    for card, value in zip(RANGE_CARDS, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{path}: card {card} of {hdu_name(hdu)} must be a number, got {value!r}")
    return kind, tuple(float(value) for value in values)
