"""
The epochs of a coadd: where each of them contributed, and what they are like on average.

Why not from the detectors' outlines, as in LSST: what was clipped or masked counts too, and the stack knows it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .backend import Array, array_module, quiet, to_host, using
from .images import Frozen, WarpStack
from .matching import check_positions
from .planes import WORD, BitPlanes
from .point_spread import Psf, coefficient_shares, coefficient_stack

_BATCH_BYTES = 64 << 20  # of the samples under the stamps of some positions
_BYTES_PER_SAMPLE = 32  # weight, PSF, product, and the word that its bit comes from


class Contributors(Frozen):
    """
    The epochs kept in a coadd.

    Parameters
    ----------
    warps : WarpStack
        What was stacked.
    indices : sequence of int
        Of the epochs kept, in `warps`.
    weights : sequence of float
        Their weights.
    contributed : BitPlanes
        (kept, y, x): the samples that were used.

    Attributes
    ----------
    contributed : BitPlanes
    weights : numpy.ndarray, shape (kept,), float64
    epochs : tuple
        Ids.
    psf_sigma : numpy.ndarray, shape (kept,), float64
    psfs : tuple of Psf or None
    files : tuple of str
        Where the epochs came from; empty where it is not known.
    values : dict of str to numpy.ndarray, shape (kept, ...)
    """

    contributed: BitPlanes
    weights: np.ndarray
    epochs: tuple[Hashable, ...]
    psf_sigma: np.ndarray
    psfs: tuple[Psf | None, ...]
    files: tuple[str, ...]
    values: dict[str, np.ndarray]
    _origin: tuple[int, int]

    def __init__(
        self, warps: WarpStack, indices: Sequence[int], weights: Sequence[float], contributed: BitPlanes
    ) -> None:
        kept = list(indices)
        self._set(contributed=contributed, weights=np.array(weights), epochs=tuple(warps.epochs[i] for i in kept))
        self._set(psf_sigma=warps.psf_sigma[kept], psfs=tuple(warps.psfs[i] for i in kept))
        self._set(files=tuple(warps.inputs[i] for i in kept) if warps.inputs else ("",) * len(kept))
        self._set(values={name: values[kept] for name, values in warps.epoch_values.items()}, _origin=warps.origin)

    @property
    def has_psfs(self) -> bool:
        """Whether a PSF was given for any of them."""
        return any(psf is not None for psf in self.psfs)

    @cached_property
    def all_psfs(self) -> tuple[Psf, ...]:
        """PSFs of all of them, Gaussians where none was given; ValueError if the width of one is not known."""
        for epoch, psf, sigma in zip(self.epochs, self.psfs, self.psf_sigma, strict=True):
            if psf is None and not 0 < sigma < np.inf:
                raise ValueError(
                    f"the PSF of epoch {epoch!r} is not known, its psf_sigma is {sigma}; make the WarpStack with psfs, "
                    "or with every psf_sigma"
                )
        pairs = zip(self.psfs, self.psf_sigma, strict=True)
        return tuple(Psf.gaussian(float(sigma)) if psf is None else psf for psf, sigma in pairs)

    @cached_property
    def _coefficients(self) -> Array:
        """Coefficient images (kept, nc, k, k) where the coadd is."""
        words = self.contributed.words
        with using(words):
            return array_module(words).asarray(coefficient_stack(self.all_psfs))

    def shares(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """
        Share of every epoch in the pixels nearest to n positions, (n, kept) float64 on the host; the sums are 1.

        Raises
        ------
        ValueError
            If a position is outside of the coadd, or no epoch contributed there.

        Notes
        -----
        Waits for the device once.
        """
        rows, columns = self._pixels(y, x)
        members = self.contributed.at(rows, columns).T
        alone = ~members.any(axis=1)
        if alone.any():
            n = int(np.argmax(alone))
            raise ValueError(f"no epoch contributed at (y, x) = ({y[n]}, {x[n]}){_more(alone)}")
        weights = np.where(members, self.weights, 0.0)
        return weights / weights.sum(axis=1, keepdims=True)

    def _pixels(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of the pixels nearest to n positions."""
        (y0, x0), (_, n_rows, n_columns) = self._origin, self.contributed.shape
        rows, columns = np.floor(y + 0.5) - y0, np.floor(x + 0.5) - x0
        outside = ~((rows >= 0) & (rows < n_rows) & (columns >= 0) & (columns < n_columns))
        if outside.any():
            n = int(np.argmax(outside))
            raise ValueError(
                f"(y, x) = ({y[n]}, {x[n]}) is outside of the coadd{_more(outside)}, whose {n_rows} x {n_columns} "
                f"pixels begin at {self._origin}; positions are in the frame of the patch"
            )
        return rows.astype(np.int64), columns.astype(np.int64)

    def psf(self, y: Any, x: Any, *, exact: bool) -> Array:
        """`Coadd.psf`, whatever the statistic."""
        y, x = check_positions(y, x)
        flat_y, flat_x = y.reshape(-1), x.reshape(-1)
        members = self.shares(flat_y, flat_x)
        terms = coefficient_shares(self.all_psfs, flat_y, flat_x)
        xp, side = array_module(self._coefficients), self._coefficients.shape[-1]
        with using(self._coefficients):
            if exact:
                stamps = self._exact(terms, *self._pixels(flat_y, flat_x))
            else:
                factors = xp.asarray(members[:, :, None] * terms)
                stamps = xp.tensordot(factors, self._coefficients, 2)
            return stamps.reshape(*y.shape, side, side)

    def _exact(self, terms: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Array:
        """Every pixel of the stamps, (n, k, k), from the epochs that contributed to it."""
        n_epochs, _, side, _ = self._coefficients.shape
        xp = array_module(self._coefficients)
        out = xp.empty((len(rows), side, side))
        size = max(1, _BATCH_BYTES // (n_epochs * side * side * _BYTES_PER_SAMPLE))
        for start in range(0, len(rows), size):
            some = slice(start, start + size)
            weights = self._weights_around(rows[some], columns[some], side)
            stamps = self._stamps(terms[some])
            with quiet(xp):  # a pixel without any epoch is 0 / 0
                out[some] = (weights * stamps).sum(axis=0) / weights.sum(axis=0)
        return out

    def _weights_around(self, rows: np.ndarray, columns: np.ndarray, side: int) -> Array:
        """Weights of the samples in boxes about n pixels, (kept, n, side, side); 0 where one was not used."""
        words, (_, n_rows, n_columns) = self.contributed.words, self.contributed.shape
        xp = array_module(words)
        offsets = np.arange(side) - side // 2
        y, x = rows[:, None] + offsets, columns[:, None] + offsets
        is_inside = ((y >= 0) & (y < n_rows))[:, :, None] & ((x >= 0) & (x < n_columns))[:, None, :]
        y, x = xp.asarray(y.clip(0, n_rows - 1))[:, :, None], x.clip(0, n_columns - 1)[:, None, :]
        found = words[:, y, xp.asarray(x // WORD)] >> xp.asarray((x % WORD).astype(np.uint32)) & np.uint32(1)
        return found * xp.asarray(is_inside) * xp.asarray(self.weights)[:, None, None, None]

    def _stamps(self, terms: np.ndarray) -> Array:
        """Stamps of every epoch at n positions, (kept, n, k, k); (kept, 1, k, k) where none varies."""
        n_epochs, n_images, side, _ = self._coefficients.shape
        xp = array_module(self._coefficients)
        factors = xp.asarray((terms[:1] if n_images == 1 else terms).transpose(1, 0, 2))
        stamps = xp.matmul(factors, self._coefficients.reshape(n_epochs, n_images, -1))
        return stamps.reshape(n_epochs, -1, side, side)

    def mean(self, name: str, y: Any, x: Any) -> Any:
        """`Coadd.epoch_mean`."""
        if name not in self.values:
            has = ", ".join(map(repr, self.values)) or "none; give WarpStack(..., epoch_values={...})"
            raise KeyError(f"no epoch values {name!r}; the warps have {has}")
        y, x = check_positions(y, x)
        means = np.tensordot(self.shares(y.reshape(-1), x.reshape(-1)), self.values[name], 1)
        means = means.reshape(y.shape + means.shape[1:])
        return means if means.ndim else float(means)

    def nearest(self, y: int, x: int) -> tuple[int, int] | None:
        """The pixel (y, x), in the frame of the patch, nearest to another where any epoch contributed, if there is."""
        xp, (y0, x0) = array_module(self.contributed.words), self._origin
        if self.contributed.at(np.array([y - y0]), np.array([x - x0])).any():
            return y, x
        _, n_rows, n_columns = self.contributed.shape
        with using(self.contributed.words):
            distance = (xp.arange(n_rows)[:, None] - (y - y0)) ** 2 + (xp.arange(n_columns) - (x - x0)) ** 2
            distance = xp.where(self.contributed.any_plane(), distance, np.inf)
            at = distance.argmin()
            index, least = to_host(xp.stack([at.astype("float64"), distance.min()])).tolist()
        return None if least == np.inf else (y0 + int(index) // n_columns, x0 + int(index) % n_columns)

    def table(self, *, clipped: BitPlanes | None, no_data: BitPlanes | None, unit: str | None) -> Any:
        """`Coadd.inputs`."""
        from astropy.table import Table

        fraction = np.full(len(self.epochs), np.nan)
        if clipped is not None and no_data is not None:
            n_pixels = clipped.shape[1] * clipped.shape[2]
            with quiet(np):  # an epoch without any data is 0 / 0
                fraction = clipped.without(no_data).counts() / (n_pixels - no_data.counts())
        columns = (_ids(self.epochs), self.weights, self.psf_sigma, fraction, np.array(self.files, dtype=str))
        names = ("epoch", "weight", "psf_sigma", "fraction_clipped", "input")
        table = Table(dict(zip(names, columns, strict=True)))
        table["psf_sigma"].unit = "pix"
        table["fraction_clipped"].unit = ""
        table["weight"].unit = _weight_unit(unit)
        return table


def _more(wrong: Any) -> str:
    """How many positions besides the one that is named."""
    n = int(np.count_nonzero(wrong)) - 1
    return f" (and {n} more)" if n else ""


def _ids(epochs: Sequence[Hashable]) -> np.ndarray:
    """Ids as a column: integers if all are, else text."""
    if all(isinstance(epoch, (int, np.integer)) and not isinstance(epoch, bool) for epoch in epochs):
        return np.array([int(epoch) for epoch in epochs])  # type: ignore[call-overload]
    return np.array([str(epoch) for epoch in epochs])


def _weight_unit(unit: str | None) -> Any:
    """One over `unit` squared, or None where astropy does not know it."""
    from astropy import units

    try:
        return None if unit is None else units.Unit(unit) ** -2
    except ValueError:
        return None
