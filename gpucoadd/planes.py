"""
Yes-or-no planes of several epochs.

`Flags` is what a step works on: bool planes on the host, which NumPy is quickest with, and packed words on a device.
`BitPlanes` keeps them for all epochs, packed on either: an eighth of the memory of bool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .backend import Array, array_module, is_host, to_host, twin, using

WORD = 32  # pixels of a row in one word; bit i of word j is column 32 * j + i, bits beyond the last column are 0


def n_words(n_columns: int) -> int:
    """Words of one packed row."""
    return -(-n_columns // WORD)


class Flags(NamedTuple):
    """
    Yes-or-no planes of a group of epochs.

    `data` is (epoch, y, x) bool on the host, and (epoch, y, word) uint32 on a device.
    """

    data: Array
    n_columns: int

    @classmethod
    def of(cls, planes: Array) -> Flags:
        """From (epoch, y, x) bool."""
        with using(planes):
            return cls(twin(planes).as_flags(planes), planes.shape[2])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(epoch, y, x)."""
        return (*self.data.shape[:2], self.n_columns)

    def planes(self) -> Array:
        """(epoch, y, x) bool."""
        with using(self.data):
            return twin(self.data).as_planes(self.data, self.n_columns)

    def union(self, other: Flags) -> Flags:
        """What is set in either."""
        return Flags(self.data | other.data, self.n_columns)


def host_planes(flags: Flags) -> np.ndarray:
    """(epoch, y, x) bool in host memory; from a device they are copied as bits."""
    if is_host(array_module(flags.data)):
        return flags.data
    words = to_host(flags.data)
    return twin(words).unpack(words, flags.n_columns)


class BitPlanes:
    """
    (epoch, y, x) flags, one bit each.

    Parameters
    ----------
    shape : (int, int, int)
        (epoch, y, x).
    xp : module
        NumPy or CuPy: where they live.

    Attributes
    ----------
    words : array, shape (epoch, y, word), uint32
        Packed as `WORD` says. Nothing is set at first.
    """

    def __init__(self, shape: tuple[int, int, int], xp: Any) -> None:
        self.shape = shape
        self.words = xp.zeros((*shape[:2], n_words(shape[2])), dtype=xp.uint32)

    def set_planes(self, epochs: Sequence[int], flags: Flags) -> None:
        """Keep `flags` for some epochs."""
        xp = array_module(self.words, flags.data)
        kernels = twin(flags.data)
        if not is_host(xp):
            with using(self.words):
                self.words[xp.asarray(np.array(epochs))] = kernels.as_words(flags.data)
            return
        for epoch, plane in zip(epochs, flags.data, strict=True):
            if plane.any():  # most have little in them, and memory that nobody wrote to is not taken
                self.words[epoch] = kernels.as_words(plane[None])[0]

    def fill(self, epoch: int) -> None:
        """Set all pixels of `epoch`."""
        xp = array_module(self.words)
        with using(self.words):
            self.set_planes([epoch], Flags.of(xp.ones((1, *self.shape[1:]), dtype=bool)))

    def plane(self, epoch: int) -> Array:
        """(y, x) bool plane of `epoch`."""
        return self._planes(self.words[epoch : epoch + 1])[0]

    def all_planes(self) -> Array:
        """(epoch, y, x) bool."""
        return self._planes(self.words)

    def any_plane(self) -> Array:
        """(y, x) bool: set in any epoch."""
        with using(self.words):
            return self._planes(twin(self.words).any_flag(self.words)[None])[0]

    def _planes(self, words: Array) -> Array:
        with using(words):
            return twin(words).unpack(words, self.shape[2])
