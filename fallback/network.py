"""Batcher's odd-even merge sort, as a list of compare-and-exchange pairs (Knuth, TAOCP 3, 5.2.2M)."""

from __future__ import annotations

from functools import cache


@cache
def exchanges(n: int) -> tuple[tuple[int, int], ...]:
    """
    Pairs (i, j), i < j, that sort `n` values when value i and j are put in order one pair after the other.

    Any n: the network of the next power of two, less the pairs that reach past the end
    (the values there would be +inf and stay where they are).
    """
    pairs = []
    size = 1
    while size < n:
        step = size
        while step >= 1:
            for start in range(step % size, n - step, 2 * step):
                for i in range(start, min(start + step, n - step)):
                    if i // (2 * size) == (i + step) // (2 * size):
                        pairs.append((i, i + step))
            step //= 2
        size *= 2
    return tuple(pairs)
