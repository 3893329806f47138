"""
Yes-or-no planes of several epochs.

`Flags` is what a step works on: bool planes on the host, which NumPy is quickest with, and packed words on a device.
`BitPlanes` keeps them for all epochs, packed on either: an eighth of the memory of bool.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
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

    def at(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """(epoch, n) bool, on the host: the flags at n pixels, whose rows and columns are given there too."""
        xp = array_module(self.words)
        with using(self.words):
            words = to_host(self.words[:, xp.asarray(y), xp.asarray(x // WORD)])
        return (words >> (x % WORD).astype(np.uint32) & 1).astype(bool)

    def counts(self) -> np.ndarray:
        """(epoch,) int64, on the host: how many flags are set. Waits for the device once."""
        with using(self.words):
            sums = array_module(self.words).stack([_count_bits(words).sum(dtype="int64") for words in self.words])
            return to_host(sums)

    def without(self, other: BitPlanes) -> BitPlanes:
        """What is set here and not in `other`, of the same shape."""
        out = copy(self)
        with using(self.words):
            out.words = self.words & ~other.words
        return out

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


def _count_bits(words: Array) -> Array:
    """Bits that are set in each of some uint32: sums of pairs, of fours, of bytes, and the bytes into the highest."""
    one = words.dtype.type
    pairs = words - (words >> one(1) & one(0x55555555))
    fours = (pairs & one(0x33333333)) + (pairs >> one(2) & one(0x33333333))
    octets = fours + (fours >> one(4)) & one(0x0F0F0F0F)
    return octets * one(0x01010101) >> one(24)
