"""
Lines that stand out in binned images: where sums along lines, over boxes of several widths, are far from their median.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from . import primitives
from .backend import Array, array_module, is_host, quiet, to_host
from .line_images import LineImages
from .line_sums import TILE, LineSums, line_sums

BOXES = (1, 2, 4, 8, 16)  # widths in bins
_FILLED = 0.5  # of a box's weight that must be there
_KEPT = 48  # tiles of one direction, length and sign
_SAMPLES = 1 << 15  # for the quartiles of significance
_CHUNK, _DEVICE_CHUNK = 1 << 18, 1 << 24  # sums that are searched at once; those on the host stay in its caches
_LOWER_QUARTILE = 0.6745  # of a Gaussian, below its median, in sigmas
_SIGNS = {"positive": (1,), "negative": (-1,), "both": (1, -1)}


class Candidate(NamedTuple):
    """
    A line that was seen in binned images.

    `ends` ((y, x), (y, x)) in pixels; `width` of the box in pixels, measured along y or x; `sign` 1 or -1; `z` in
    sigmas of the sums along all lines of its length.
    """

    z: float
    sign: int
    ends: tuple[tuple[float, float], tuple[float, float]]
    width: float


def candidates(
    images: LineImages, *, bin: int, min_length: int, threshold: float, signs: str = "both"
) -> list[Candidate]:
    """
    Lines of any direction and length whose significance reaches a threshold, the highest first.

    Parameters
    ----------
    images : LineImages
    bin : int
        Side of the bins in pixels.
    min_length : int
        Shortest line in pixels.
    threshold : float
        In sigmas, of the sums along all lines of one direction and length.
    signs : str
        "both", "positive" or "negative".

    Returns
    -------
    list of Candidate
        The highest of each 16 x 16 tile in displacement and start; at most 48 per direction, length and sign.

    Notes
    -----
    Waits for the device once. Memory: 16 bytes for each of ``n (n + y)`` sums, where n is the larger side of the binned
    image, filled up, and y the other, and 28 for each that is searched at once.
    """
    xp = array_module(images.signal)
    binned = xp.stack([_binned(plane, bin) for plane in (images.signal, images.weight)])
    tables = []
    for number, turned in enumerate(_turned(binned)):
        for lines in line_sums(turned, min_length=-(-min_length // bin)):
            tables += [
                xp.stack([*best, xp.full_like(best[0], lines.length), xp.full_like(best[0], number)])
                for best in _best_tiles(lines, full=float(bin * bin), signs=_SIGNS[signs])
            ]
    if not tables:
        return []
    table = to_host(xp.concatenate(tables, axis=1)).T
    table = table[table[:, 0] >= threshold]
    order = np.lexsort((*table.T[::-1][:-1], -table[:, 0]))
    return [_candidate(row, bin, binned.shape[1:]) for row in table[order].tolist()]


def _binned(plane: Array, bin: int) -> Array:
    """Sums over bins; what the last ones lack is 0."""
    xp = array_module(plane)
    for axis in (0, 1):
        plane = plane.swapaxes(0, axis)
        n_bins = -(-plane.shape[0] // bin)
        total = xp.zeros((n_bins, plane.shape[1]), dtype=xp.float32)
        for first in range(bin):
            rows = plane[first::bin]
            total[: rows.shape[0]] += rows
        plane = total.swapaxes(0, axis)
    return plane


def _turned(binned: Array) -> Iterator[Array]:
    """The four ways to look at an image in which every line ascends by at most one row per column."""
    for images in (binned, binned.transpose(0, 2, 1)):
        yield images
        yield images[:, ::-1]


def _best_tiles(lines: LineSums, *, full: float, signs: Sequence[int]) -> list[list[Array]]:
    """
    Of each sign: z, sign, box, block, displacement and row of the highest tiles, float64 (n,) each.

    `full` is the weight of a full bin.
    """
    xp = array_module(lines.sums)
    n_blocks, length, n_starts = lines.sums.shape[1:]
    rows = lines.sums.reshape(2, n_blocks * length, n_starts)
    floors = [xp.float32(_FILLED * full * length * box) for box in BOXES]
    tile = (math.gcd(length, TILE), TILE)
    tops = _tile_extremes(rows, floors, tile, signs)
    found = []
    for sign, top in zip(signs, tops):
        z = top.reshape(-1)
        kept = xp.argsort(-z)[:_KEPT]
        shape = (len(BOXES), rows.shape[1] // tile[0], n_starts // TILE)
        box, k, i = (w.astype(xp.int64) for w in xp.unravel_index(kept, shape))
        row, start = _place_of_best(rows, floors, tile, sign, box, k, i)
        values = (box, row // length, row % length, start + lines.first)
        found.append([z.take(kept), xp.full(kept.shape, float(sign)), *(v.astype(xp.float64) for v in values)])
    return found


def _tile_extremes(rows: Array, floors: list[Array], tile: tuple[int, int], signs: Sequence[int]) -> list[Array]:
    """
    Highest z of every tile, (box, tile, tile) float64, for each sign.

    z is counted from its median, in units of the distance of the quartile on the other side, where no line is.
    """
    xp = array_module(rows)
    n_rows, n_starts = rows.shape[1:]
    chunk = max(1, (_CHUNK if is_host(xp) else _DEVICE_CHUNK) // (n_starts * tile[0])) * tile[0]
    step = max(1, min(tile[0], n_rows * n_starts // _SAMPLES))
    extremes: dict[tuple[int, int], list[Array]] = {}
    samples: list[list[Array]] = [[] for _ in BOXES]
    for first in range(0, n_rows, chunk):
        for number, (sums, floor) in enumerate(zip(_box_sums(rows[:, first : first + chunk]), floors)):
            z = _significance(sums, floor)
            thin = slice(None, None, BOXES[number] if step > 1 else 1)
            filled = sums[1, ::step, thin] >= floor
            samples[number].append(xp.where(filled, z[::step, thin], xp.float32(xp.nan)).ravel())
            tiles = z.reshape(z.shape[0] // tile[0], tile[0], n_starts)
            for sign in signs:
                rowwise = tiles.max(axis=1) if sign > 0 else tiles.min(axis=1)
                columns = rowwise.reshape(rowwise.shape[0], n_starts // TILE, TILE)
                best = columns.max(axis=2) if sign > 0 else columns.min(axis=2)
                extremes.setdefault((sign, number), []).append(best)
    quartiles = xp.stack([primitives.quantiles(xp.concatenate(s)[None], (0.25, 0.5, 0.75))[0][0] for s in samples])
    return [
        xp.stack(
            [
                _standardized(xp.concatenate(extremes[sign, number]), quartiles[number], sign)
                for number in range(len(BOXES))
            ]
        )
        for sign in signs
    ]


def _standardized(z: Array, quartiles: Array, sign: int) -> Array:
    """`z` of a sign, from the median on, over the distance of the quartile on the other side; -inf if that is 0."""
    xp = array_module(z)
    spread = sign * (quartiles[1] - quartiles[1 - sign])
    with quiet(xp):
        return xp.where(spread > 0, sign * (z - quartiles[1]) * (_LOWER_QUARTILE / spread), -xp.inf)


def _box_sums(rows: Array) -> Iterator[Array]:
    """Sums (2, row, start) over boxes of starts, 1, 2, 4, ... wide, each made of the one before."""
    xp = array_module(rows)
    buffers = [xp.empty(rows.shape, dtype=xp.float32) for _ in range(2)]
    yield rows
    for box in BOXES[:-1]:
        wider = buffers[0]
        xp.add(rows[..., :-box], rows[..., box:], out=wider[..., :-box])
        wider[..., -box:] = rows[..., -box:]
        yield wider
        rows, buffers = wider, buffers[::-1]


def _significance(sums: Array, floor: Array) -> Array:
    """Signal over the root of the weight; as if the weight were `floor` where it is less."""
    xp = array_module(sums)
    z = xp.maximum(sums[1], floor)
    xp.sqrt(z, out=z)
    return xp.divide(sums[0], z, out=z)


def _place_of_best(
    rows: Array, floors: list[Array], tile: tuple[int, int], sign: int, box: Array, k: Array, i: Array
) -> tuple[Array, Array]:
    """Row and start of the highest z in some tiles, (n,) each."""
    xp = array_module(rows)
    n_starts = rows.shape[2]
    row = (k[:, None] * tile[0] + xp.arange(tile[0]))[:, :, None]
    start = (i[:, None] * TILE + xp.arange(TILE + BOXES[-1]))[:, None, :]
    inside = start < n_starts
    start = xp.minimum(start, n_starts - 1)
    around = xp.stack([xp.where(inside, plane[row, start], xp.float32(0)) for plane in rows])
    around = around.reshape(2, -1, TILE + BOXES[-1])
    best = xp.zeros((len(k), around.shape[1] // len(k) * TILE), dtype=xp.float32)
    for number, sums in enumerate(_box_sums(around)):
        z = _significance(sums, floors[number])[:, :TILE].reshape(len(k), -1)
        best = xp.where((box == number)[:, None], z, best)
    place = (sign * best).argmax(axis=1)
    return k * tile[0] + place // TILE, i * TILE + place % TILE


def _candidate(values: list[float], bin: int, shape: tuple[int, int]) -> Candidate:
    """From z, sign, number of the box, block, displacement, row, length and the way the image of `shape` was turned."""
    z, sign, number, block, displacement, row, length, turn = values
    box = BOXES[int(number)]
    n_minor = shape[int(turn) // 2]
    ends = []
    for share in (0, 1):
        minor = row + share * displacement + (box - 1) / 2
        major = block * length + share * (length - 1)
        minor = n_minor - 1 - minor if turn % 2 else minor
        y, x = (bin * c + (bin - 1) / 2 for c in (minor, major))
        ends.append((y, x) if turn < 2 else (x, y))
    return Candidate(z, int(sign), (ends[0], ends[1]), float(box * bin))
