"""Merging of cells into a mosaic, many with one launch."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from ._compile import kernel

_FILE = "merge_cells.cu"
_TILE, _BLOCK = 64, (32, 8)
_SIZES = (("TILE", _TILE), ("BLOCK_X", _BLOCK[0]), ("BLOCK_Y", _BLOCK[1]))
_TYPES = {"float32": "float", "float64": "double", "uint16": "unsigned short", "int32": "int"}
VARIANTS = {_FILE: [_SIZES, (*_SIZES, ("IMAGE", "double"), ("CELL_VARIANCE", "double"), ("COUNT", "int"))]}


def merge_cells(
    target: tuple[Any, Any, Any | None],
    boxes: np.ndarray,
    images: Any,
    variances: Any,
    *,
    corners: np.ndarray,
    planes: np.ndarray,
    copy: bool,
    all_valid: np.ndarray | None = None,
) -> None:
    """
    Merge cells into the planes of a mosaic, which are written to, as `gpucoadd.fallback.cells.merge_cells` does.

    A table of the tiles that the cells lie in goes to the device; nothing is read. Moves 8 bytes a pixel of a cell and
    20 a pixel of the mosaic that lies in one, for float32 and counts of 16 bits.
    """
    image, variance, count = target
    cells = np.hstack([boxes, corners[:, ::-1], planes[:, None]]).astype(np.int32)
    tiles, starts, members = _tiles(boxes, image.shape)
    sent = cupy.asarray(np.concatenate([a.reshape(-1) for a in (cells, tiles, starts, members)]).astype(np.int32))
    ends = np.cumsum([cells.size, tiles.size, starts.size])
    table = [sent[start:end] for start, end in zip((0, *ends), (*ends, sent.size))]
    images, variances = map(cupy.ascontiguousarray, (images, variances))
    arrays = {"IMAGE": image, "VARIANCE": variance, "CELL_IMAGE": images, "CELL_VARIANCE": variances}
    arrays |= {} if count is None else {"COUNT": count}
    types = tuple((name, _TYPES[array.dtype.name]) for name, array in arrays.items())
    kernel(_FILE, "merge_cells", _SIZES + types)(
        (len(tiles), (_TILE // _BLOCK[0]) * (_TILE // _BLOCK[1])),
        _BLOCK,
        (
            images,
            variances,
            *table,
            *map(np.int32, images.shape[1:]),
            np.int32(copy),
            *map(np.int32, image.shape),
            image,
            variance,
            np.uintp(0) if count is None else count,
        ),
    )


def _tiles(boxes: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tiles that a box lies in, where the list of each begins and the last ends, and the lists of boxes, ascending."""
    first = boxes[:, :2] // _TILE
    n_across, n_down = ((boxes[:, :2] + boxes[:, 2:] - 1) // _TILE - first + 1).T
    n_tiles = n_across * n_down
    box = np.repeat(np.arange(len(boxes)), n_tiles)
    place = np.arange(len(box)) - np.repeat(np.cumsum(n_tiles) - n_tiles, n_tiles)
    row, column = first[box, 1] + place // n_across[box], first[box, 0] + place % n_across[box]
    tile = row * -(-shape[1] // _TILE) + column
    order = np.argsort(tile, kind="stable")
    tiles, starts = np.unique(tile[order], return_index=True)
    return tiles, np.append(starts, len(box)), box[order]
