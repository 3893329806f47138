"""Yes-or-no planes of every epoch, kept as bits: an eighth of the memory of bool arrays."""

from __future__ import annotations

from typing import Any

from .backend import Array, array_module


class BitPlanes:
    """
    (epoch, y, x) flags, one bit each.

    Parameters
    ----------
    shape : (int, int, int)
        (epoch, y, x).
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self._packed: list[Array | None] = [None] * shape[0]
        self._xp: Any = None

    def set_plane(self, epoch: int, plane: Array) -> None:
        """Keep a (y, x) bool plane for `epoch`."""
        self._xp = array_module(plane)
        self._packed[epoch] = self._pack(plane) if bool(plane.any()) else None

    def _pack(self, plane: Array) -> Array:
        """Rows as bytes; each row begins with a fresh byte so that bands can be unpacked alone."""
        _, n_rows, n_columns = self.shape
        width = -(-n_columns // 8) * 8
        if width != n_columns:
            padded = self._xp.zeros((n_rows, width), dtype=bool)
            padded[:, :n_columns] = plane
            plane = padded
        return self._xp.packbits(plane.ravel()).reshape(n_rows, width // 8)

    def any(self, epoch: int) -> bool:
        """Whether `epoch` has a flag set."""
        return self._packed[epoch] is not None

    def plane(self, epoch: int, rows: slice | None = None) -> Array:
        """(y, x) bool plane of `epoch`, or some rows of it."""
        _, n_rows, n_columns = self.shape
        rows = rows or slice(0, n_rows)
        packed = self._packed[epoch]
        n = rows.stop - rows.start
        if packed is None:
            return self._module().zeros((n, n_columns), dtype=bool)
        bits = self._xp.unpackbits(packed[rows].ravel()).reshape(n, -1)
        return bits[:, :n_columns].astype(bool)

    def all_planes(self) -> Array:
        """(epoch, y, x) bool."""
        xp = self._module()
        out = xp.empty(self.shape, dtype=bool)
        for epoch in range(self.shape[0]):
            out[epoch] = self.plane(epoch)
        return out

    def _module(self) -> Any:
        if self._xp is None:
            raise RuntimeError("no plane has been set yet")
        return self._xp
