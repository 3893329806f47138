"""
Sets of pixels as spans of rows: what ``SpanSet`` is in `lsst.afw`, where that is absent.

What comes in may be either: sets are read by the attributes that both have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from .boxes import Box
from .exposure_parts import origin_of

_ALL_NEIGHBOURS = np.ones((3, 3), dtype=int)


class Span(NamedTuple):
    """Pixels of row `y` from `x0` to `x1`, both included, in parent coordinates."""

    y: int
    x0: int
    x1: int

    def getY(self) -> int:
        """Row."""
        return self.y

    def getX0(self) -> int:
        """First column."""
        return self.x0

    def getX1(self) -> int:
        """Last column."""
        return self.x1


class PixelSet:
    """
    A set of pixels.

    `getArea`, `getBBox`, `indices`, `contains` and `setMask` are there for whoever has the sets of a task: as those of
    ``SpanSet``, but that `getBBox` gives a `Box`, and `indices` counts in the parent frame.

    Parameters
    ----------
    spans : array-like, shape (span, 3), int
        Rows y, x0, x1 in parent pixels, both ends included; no pixel twice.

    Examples
    --------
    >>> pixels = PixelSet([(4, 7, 9), (5, 8, 8)])
    >>> pixels.getArea(), [tuple(span) for span in pixels]
    (4, [(4, 7, 9), (5, 8, 8)])
    """

    def __init__(self, spans: Any = ()) -> None:
        self.spans = np.array(spans, dtype=np.int64).reshape(-1, 3)

    @classmethod
    def of(cls, plane: np.ndarray, origin: tuple[int, int] = (0, 0)) -> PixelSet:
        """Pixels that are set in a bool plane (y, x), whose first pixel is `origin`."""
        return cls(_runs(plane) + np.array([origin[0], origin[1], origin[1]]))

    def __iter__(self) -> Iterator[Span]:
        return (Span(*span) for span in self.spans.tolist())

    def __len__(self) -> int:
        return len(self.spans)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PixelSet) and np.array_equal(self._sorted(), other._sorted())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PixelSet({self.getArea()} pixels in {len(self)} spans)"

    def _sorted(self) -> np.ndarray:
        return self.spans[np.lexsort((self.spans[:, 1], self.spans[:, 0]))]

    def getArea(self) -> int:
        """Number of pixels."""
        return int((self.spans[:, 2] - self.spans[:, 1] + 1).sum())

    def getBBox(self) -> Box:
        """Smallest box that holds the pixels; an empty one at (0, 0) without any."""
        return box_around([self])

    def indices(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns of all pixels, parent coordinates."""
        lengths = self.spans[:, 2] - self.spans[:, 1] + 1
        starts = np.cumsum(lengths) - lengths
        x = np.arange(lengths.sum()) - np.repeat(starts - self.spans[:, 1], lengths)
        return np.repeat(self.spans[:, 0], lengths), x

    def contains(self, other: Any) -> bool:
        """Whether all pixels of another set, which has some, are in this one."""
        box = box_around([self, other])
        inner = plane_of([other], box)
        return bool(inner.any() and not (inner & ~plane_of([self], box)).any())

    def setMask(self, target: Any, bitmask: int) -> None:
        """Set bits in a mask with ``array`` and ``getXY0``, as those of `lsst.afw.image`, where it has these pixels."""
        target.array[plane_of([self], Box.of(target.array.shape, origin_of(target)))] |= bitmask


def spans_of(pixels: Any) -> np.ndarray:
    """
    Spans (n, 3) of a `PixelSet`, of a ``SpanSet`` or ``Footprint`` of `lsst.afw`, or of any iterable of such spans.

    Raises
    ------
    TypeError
        If it is something else.
    """
    if isinstance(pixels, PixelSet):
        return pixels.spans
    for name in ("getSpans", "spans"):
        if hasattr(pixels, name):
            found = getattr(pixels, name)
            return spans_of(found() if callable(found) else found)
    try:
        spans = list(pixels)
        rows = [
            (span.getY(), span.getX0(), span.getX1()) if hasattr(span, "getY") else (span.y, span.x0, span.x1)
            for span in spans
        ]
    except (TypeError, AttributeError):
        raise TypeError(
            f"a set of pixels must be a PixelSet, or have spans with y, x0 and x1 as those of lsst.afw.geom; got "
            f"{type(pixels).__name__}"
        ) from None
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def plane_of(sets: Iterable[Any], box: Box) -> np.ndarray:
    """bool plane of the pixels of `box` that are in any of the sets."""
    return layer(sets, box) > 0


def layer(sets: Iterable[Any], box: Box) -> np.ndarray:
    """int32 plane of `box`: 0, or 1 + the position of a set that holds the pixel, the last where several do."""
    plane = np.zeros(box.shape, dtype=np.int32)
    for number, pixels in enumerate(sets, start=1):
        spans = spans_of(pixels) - (box.y0, box.x0, box.x0)
        spans = spans[(spans[:, 0] >= 0) & (spans[:, 0] < box.height)]
        spans = np.column_stack([spans[:, 0], np.clip(spans[:, 1], 0, None), np.clip(spans[:, 2], None, box.width - 1)])
        plane[PixelSet(spans[spans[:, 1] <= spans[:, 2]]).indices()] = number
    return plane


def in_layers(sets: Sequence[Any]) -> list[list[int]]:
    """Positions of the sets, in groups in which no two sets share a pixel."""
    groups: list[tuple[list[int], np.ndarray]] = []
    box = box_around(sets)
    for position, pixels in enumerate(sets):
        rows, columns = PixelSet(spans_of(pixels) - (box.y0, box.x0, box.x0)).indices()
        group = next((group for group in groups if not group[1][rows, columns].any()), None)
        if group is None:
            group = [], np.zeros(box.shape, dtype=bool)
            groups.append(group)
        group[0].append(position)
        group[1][rows, columns] = True
    return [members for members, _ in groups]


def box_around(sets: Iterable[Any], *boxes: Box) -> Box:
    """Smallest box that holds all sets and `boxes`."""
    spans = np.vstack([np.empty((0, 3), dtype=np.int64), *(spans_of(pixels) for pixels in sets)])
    corners = [(box.x0, box.y0, box.x0 + box.width, box.y0 + box.height) for box in boxes if box.width and box.height]
    if len(spans):
        low, high = spans.min(axis=0), spans.max(axis=0)
        corners.append((int(low[1]), int(low[0]), int(high[2]) + 1, int(high[0]) + 1))
    if not corners:
        return Box(0, 0, 0, 0)
    x0, y0 = (min(corner[axis] for corner in corners) for axis in (0, 1))
    x1, y1 = (max(corner[axis] for corner in corners) for axis in (2, 3))
    return Box(x0, y0, x1 - x0, y1 - y0)


def pieces(plane: np.ndarray, origin: tuple[int, int], *, diagonal: bool) -> list[PixelSet]:
    """Connected pieces of a bool plane (y, x): pixels that share a side are neighbours, or, `diagonal`, a corner."""
    labels, n_pieces = ndimage.label(plane, structure=_ALL_NEIGHBOURS if diagonal else None)
    runs = _runs(plane)
    numbers = labels[runs[:, 0], runs[:, 1]]
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(1, n_pieces + 1), side="right")
    offset = (origin[0], origin[1], origin[1])
    return [PixelSet(runs[some] + offset) for some in np.split(order, ends[:-1]) if len(some)]


def kept_sets(sets: Sequence[Any], box: Box, keep: Callable[[np.ndarray], np.ndarray]) -> list[Any]:
    """
    Those of the sets that have a pixel which a rule keeps, in their order.

    Parameters
    ----------
    sets : sequence of pixel sets
        They may overlap; those that do are not shown to the rule together.
    box : Box
        Of the planes.
    keep : callable
        Of an int32 plane as `layer` makes it, the bool plane of the pixels to keep.
    """
    chosen: set[int] = set()
    for group in in_layers(sets):
        labels = layer([sets[position] for position in group], box)
        chosen.update(group[number - 1] for number in np.unique(labels[keep(labels)]).tolist())
    return [pixels for position, pixels in enumerate(sets) if position in chosen]


def _runs(plane: np.ndarray) -> np.ndarray:
    """(run, 3): row, first and last column of every run of set pixels."""
    padded = np.zeros((plane.shape[0], plane.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = plane
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    stops = np.nonzero(steps == -1)[1]
    return np.column_stack([rows, starts, stops - 1])
