"""
Sums of pixels along all straight lines: the fast discrete Radon transform.

A line over 2 B columns is one over the first B columns, joined to one over the last B, so that log2(n) passes of plain
additions give all lines, and what each pass has so far are the shorter ones. There are n = q 2**m columns, q from 8 to
15, of which the first q are added one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .backend import Array, array_module

TILE = 16  # the number of starts is a multiple of it


class LineSums(NamedTuple):
    """
    Sums along the lines over all blocks of one length.

    Attributes
    ----------
    length : int
        Columns in a block.
    first : int
        Row of the lines with start 0; negative, for lines may enter from below.
    sums : array, shape (channel, block, displacement, start), float32
        Over the line from column ``block * length``, row ``first + start``, to column ``(block + 1) * length - 1``, row
        ``first + start + displacement``. Overwritten when the next length is asked for.
    """

    length: int
    first: int
    sums: Array


def line_sums(images: Array, *, min_length: int = 1) -> Iterator[LineSums]:
    """
    Sums along lines that ascend by at most one row per column, for blocks of columns that double in length.

    Parameters
    ----------
    images : array, shape (channel, y, x), float32
        Missing pixels are 0. For lines that descend, flip it along y; for steep ones, swap y and x.
    min_length : int
        Blocks of fewer columns are not given.

    Yields
    ------
    LineSums
        In ascending order of length. The last is as long as the image, filled up with zeros to q 2**m columns.

    Notes
    -----
    Two buffers of ``4 c n (n + y)`` bytes, n the columns filled up and c the channels. Each sum is added in one order,
    the same on every backend. The path of a line is that of `line_rows`.
    """
    xp = array_module(images)
    n_channels, n_rows, n_columns = images.shape
    base, n_joins = split(n_columns)
    n = base << n_joins
    front = n + TILE  # zeros before each row, in which lines start that enter from below
    row = front + n_rows
    size = n_channels * n * row
    # The zeros at the end are for shears of the last row; those of others end in the zeros before the next.
    here, there = (xp.zeros(size + n, dtype=xp.float32) for _ in range(2))
    _add_columns(here[:size].reshape(n_channels, n // base, base, row), images, front)
    length = base
    while True:
        if length >= min_length:
            first = _first(length, n_rows)
            sums = here[:size].reshape(n_channels, n // length, length, row)
            yield LineSums(length, first, sums[..., front + first :])
        if length == n:
            return
        _join(here, there, (n_channels, n // length, length, row), front + _first(2 * length, n_rows))
        here, there = there, here
        length *= 2


def split(n_columns: int) -> tuple[int, int]:
    """q and m of the smallest n = q 2**m >= `n_columns`, q from 8 to 15."""
    n_joins = 0
    while n_columns > 15 << n_joins:
        n_joins += 1
    return max(8, -(-n_columns >> n_joins)), n_joins


def line_rows(length: int, displacement: int) -> list[int]:
    """
    The row of a line in each of its columns, counted from the first.

    Examples
    --------
    >>> line_rows(8, 3)
    [0, 0, 1, 1, 2, 2, 3, 3]
    >>> line_rows(16, 5)
    [0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 5, 5]
    """
    if length <= 15:
        return [_row(displacement, column, length) for column in range(length)]
    half = line_rows(length // 2, displacement // 2)
    return half + [(displacement + 1) // 2 + r for r in half]


def _row(displacement: int, column: int, length: int) -> int:
    """``displacement * column / (length - 1)`` rounded, halves up."""
    return (2 * displacement * column + length - 1) // (2 * (length - 1))


def _first(length: int, n_rows: int) -> int:
    """Lowest row that lines of a length start from, and as many below that `TILE` divides the number of starts."""
    return -(-(n_rows + length - 1) // TILE) * -TILE + n_rows


def _add_columns(sums: Array, images: Array, front: int) -> None:
    """Lines over `base` columns, for (channel, block, displacement, row)."""
    xp = array_module(images)
    n_channels, n_blocks, base, _ = sums.shape
    n_rows, n_columns = images.shape[1:]
    columns = xp.zeros((n_channels, n_blocks * base, n_rows), dtype=xp.float32)
    columns[:, :n_columns] = images.transpose(0, 2, 1)
    columns = columns.reshape(n_channels, n_blocks, base, n_rows)
    for displacement in range(base):
        for column in range(base):
            start = front - _row(displacement, column, base)
            sums[:, :, displacement, start : start + n_rows] += columns[:, :, column]


def _join(here: Array, there: Array, shape: tuple[int, int, int, int], start: int) -> None:
    """
    Lines of twice the length, from flat `here` (channel, block, displacement, row) of `shape` to flat `there`.

    ``joined[j, s, y] = sums[2j, s//2, y] + sums[2j+1, s//2, y + (s+1)//2]`` for all y from `start` on. Rows that are
    each shifted by their number are a view with a longer stride.
    """
    xp = array_module(here)
    n_channels, n_blocks, length, row = shape
    size = n_channels * n_blocks * length * row
    sums = here[:size].reshape(shape)
    joined = there[:size].reshape(n_channels, n_blocks // 2, 2 * length, row)
    block = length * row
    item = here.itemsize
    strides = tuple(item * step for step in (n_blocks * block, 2 * block, row + 1, 1))
    for odd in (0, 1):
        second = xp.lib.stride_tricks.as_strided(
            here[block + start + odd :], (n_channels, n_blocks // 2, length, row - start), strides
        )
        xp.add(sums[:, ::2, :, start:], second, out=joined[:, :, odd::2, start:])
