"""
A smooth background: clipped means of cells, joined by Akima splines.

The plane is cut into nearly equal cells; each cell's value is the clipped mean of its usable
pixels. A spline runs down every column of cells, evaluated at every row, and then one along
every row (LSST's AKIMA_SPLINE with REDUCE_INTERP_ORDER).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import primitives
from .backend import Array, array_module, is_host, to_host

_FULL_ORDER = 5  # nodes that an Akima spline needs; 3 for a cubic one, 2 for a line


def cell_edges(size: int, bin_size: int) -> tuple[np.ndarray, np.ndarray]:
    """First pixels of the cells along an axis (with the end), and the cells' centres."""
    n = -(-size // bin_size)
    edges = np.array([0] + [min(((i + 1) * size + n // 2) // n, size) for i in range(n)])
    return edges, edges[:-1] + np.diff(edges) / 2 - 0.5


def cell_means(images: Array, masks: Array, bits: int, *, bin_size: int) -> Array:
    """
    Clipped mean of every cell of k planes.

    Parameters
    ----------
    images : array, shape (k, y, x), float32
    masks : array, shape (k, y, x), int32
    bits : int
        Pixels that have one of them do not count; nor do those that are not finite.
    bin_size : int
        Largest side of a cell in pixels.

    Returns
    -------
    array, shape (k, cell y, cell x), float64
        NaN where a cell has no usable pixel.
    """
    y_edges, x_edges = (cell_edges(size, bin_size)[0] for size in images.shape[1:])
    return primitives.cell_means(images, masks, bits, y_edges=y_edges, x_edges=x_edges, **primitives.DEFAULT_CLIP)


class RowSplines(NamedTuple):
    """
    Splines along the rows of the backgrounds of k epochs, one cubic polynomial for every piece of a row.

    The background at (epoch, y, x) is ``a + o * (b + o * (c + o * d))`` in float32, with a, b, c, d the
    ``coefficients[epoch, y, piece[epoch, x]]`` and o the ``offset[epoch, x]``.

    Attributes
    ----------
    coefficients : array, shape (k, y, n_pieces, 4), float32
    piece : array, shape (k, x), int32
    offset : array, shape (k, x), float32
        Distance in pixels from where the piece's polynomial is anchored.
    measured : numpy.ndarray, shape (k,), bool
        Whether any cell of the epoch has a value; the background is NaN where none has.
    """

    coefficients: Array
    piece: Array
    offset: Array
    measured: np.ndarray

    def of(self, epochs: slice) -> RowSplines:
        """Those of some epochs."""
        return RowSplines(*(values[epochs] for values in self))


def row_coefficients(cells: Array, shape: tuple[int, int], *, bin_size: int) -> RowSplines:
    """
    The background from the means of its cells, short of its evaluation at every pixel.

    Parameters
    ----------
    cells : array, shape (k, cell y, cell x), float64
        NaN where a cell has no value.
    shape : (int, int)
        (y, x) of the planes.
    bin_size : int
        As for `cell_means`.

    Returns
    -------
    RowSplines

    Notes
    -----
    Waits for the device once: which cells are known is read for all epochs together.
    """
    xp = array_module(cells)
    n_epochs, n_y, n_x = cells.shape
    style = min(n_y, n_x)
    y_nodes, x_nodes = (cell_edges(size, bin_size)[1] for size in shape)
    known_cells = to_host(xp.isfinite(cells))
    beside = [planes.transpose(1, 0, 2).reshape(n_y, n_epochs * n_x) for planes in (cells, known_cells)]
    columns = _spline_columns(y_nodes, beside[0], beside[1], shape[0], style)
    values = xp.ascontiguousarray(columns.reshape(shape[0], n_epochs, n_x).transpose(2, 1, 0))
    known: np.ndarray = np.logical_or.reduce(known_cells, axis=1).T
    coefficients = xp.zeros((n_epochs, shape[0], n_x + 1, 4), dtype=xp.float32)
    piece, offset = np.zeros((n_epochs, shape[1]), np.int32), np.zeros((n_epochs, shape[1]), np.float32)
    for epochs, pattern in _batches(known, style, together=not is_host(xp)):
        if pattern.ndim == 1:
            fitted = _fit(x_nodes[pattern], _select(values, epochs, pattern), shape[1], style, xp.float32).coefficients
        else:
            own, part, count = _own_nodes(x_nodes, values, epochs, pattern)
            fitted = _polynomials(own, part, style, xp.float32, count)
        where = xp.asarray(epochs)
        for power, coefficient in enumerate(fitted):
            coefficients[..., power][where, :, : coefficient.shape[0]] = coefficient.transpose(1, 2, 0)
        for epoch in epochs:
            nodes = x_nodes[known[:, epoch]]
            anchors, borders = _layout(nodes, shape[1], min(len(nodes), style))
            piece[epoch] = _piece_of_pixel(borders)
            offset[epoch] = np.arange(shape[1]) - anchors[piece[epoch]]
    measured: np.ndarray = np.logical_or.reduce(known, axis=0)
    if not measured.all():
        coefficients[xp.asarray(np.flatnonzero(~measured))] = xp.nan
    return RowSplines(coefficients, xp.asarray(piece), xp.asarray(offset), measured)


def _batches(known: np.ndarray, style: int, *, together: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """
    Which columns of `known` (node, column) are fitted at once, and through which nodes: (columns, pattern).

    Those with the same nodes go together, with a pattern (node,). `together`: splines of full order do even
    where nodes differ, with a pattern (node, column); a device would else be given dozens of small tasks for
    each, and at the tilted border of the data every column has nodes of its own. Columns without a node are left out.
    """
    rest = np.arange(known.shape[1])
    if together:
        full = np.minimum(known.sum(axis=0), style) >= _FULL_ORDER
        columns, rest = rest[full], rest[~full]
        if len(columns):
            pattern = known[:, columns]
            yield columns, pattern[:, 0] if (pattern == pattern[:, :1]).all() else pattern
    patterns, which = np.unique(known[:, rest], axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        if pattern.any():
            yield rest[which.ravel() == number], pattern


def _select(values: Array, columns: np.ndarray, pattern: np.ndarray) -> Array:
    """Values (node, column, ...) at some columns and at the nodes of `pattern` (node,)."""
    xp = array_module(values)
    if len(columns) < values.shape[1]:
        values = values.take(xp.asarray(columns), axis=1)
    return values if pattern.all() else values.take(xp.asarray(np.flatnonzero(pattern)), axis=0)


def _own_nodes(
    nodes: np.ndarray, values: Array, columns: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, Array, np.ndarray]:
    """
    Positions, values and number of each column's known nodes, which are moved to the front.

    Behind them are the positions of unknown nodes (no step is 0) and NaN. Positions and number broadcast
    against the values at `columns` (node, column, ...).
    """
    xp = array_module(values)
    count = known.sum(axis=0)
    index = np.argsort(~known, axis=0, kind="stable")[: count.max()]
    index, count = (a.reshape(*a.shape, *(1,) * (values.ndim - 2)) for a in (index, count))
    part = xp.take_along_axis(values.take(xp.asarray(columns), axis=1), xp.asarray(index), axis=0)
    return nodes[index], part, count


def _spline_columns(nodes: np.ndarray, values: Array, known: np.ndarray, size: int, style: int) -> Array:
    """
    Splines through the columns of `values` (node, column), evaluated at 0, 1, ... `size` - 1; (size, column).

    A column has the nodes where it is `known` (node, column), told on the host; without any it is NaN. `style` limits
    the order.
    """
    xp = array_module(values)
    if known.all():
        return _evaluate(_fit(nodes, values, size, style, xp.float64), size)
    out = xp.full((size, values.shape[1]), xp.nan)
    for columns, pattern in _batches(known, style, together=not is_host(xp)):
        if pattern.ndim == 1:
            part = _select(values, columns, pattern)
            level = _evaluate(_fit(nodes[pattern], part, size, style, xp.float64), size)
        else:
            level = _evaluate_own(nodes, _own_nodes(nodes, values, columns, pattern), pattern, size, style)
        out[:, xp.asarray(columns)] = level
    return out


class _Pieces(NamedTuple):
    """Splines with common nodes: `coefficients` (piece, ...) of the powers of the distance from the `anchors`."""

    anchors: np.ndarray
    borders: np.ndarray  # first pixel of each piece, and the end of the last
    coefficients: tuple[Array, ...]


def _fit(nodes: np.ndarray, values: Array, size: int, style: int, dtype: Any) -> _Pieces:
    """Splines through `values` (node, ...) of the order that the number of nodes and `style` allow."""
    order = min(len(nodes), style)
    anchors, borders = _layout(nodes, size, order)
    if order == 1:
        return _Pieces(anchors, borders, (values.astype(dtype),))
    nodes = nodes.reshape(-1, *(1,) * (values.ndim - 1))
    return _Pieces(anchors, borders, _polynomials(nodes, values, order, dtype))


def _layout(nodes: np.ndarray, size: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Anchors and borders of the pieces.

    Splines of order 1 have a piece around each node, others one between two nodes and one beyond either end.
    """
    if order == 1:
        return nodes, np.concatenate([[0], np.floor((nodes[:-1] + nodes[1:]) / 2) + 1, [size]]).astype(np.int64)
    anchors = np.concatenate([nodes[:1], nodes])
    return anchors, np.concatenate([[0], np.ceil(nodes), [size]]).astype(np.int64)


def _piece_of_pixel(borders: np.ndarray) -> np.ndarray:
    """Number of the piece in which each pixel lies."""
    return np.searchsorted(borders[1:-1], np.arange(borders[-1]), side="right")


def _polynomials(
    nodes: np.ndarray, values: Array, order: int, dtype: Any, count: np.ndarray | None = None
) -> tuple[Array, ...]:
    """
    Coefficients of splines of order 2 or more, each (piece, ...).

    Between nodes their own cubic, beyond the first and last the quadratic with the value and derivatives there.

    Parameters
    ----------
    nodes : numpy.ndarray, shape (node, ...)
        Positions; broadcasts against `values`.
    values : array, shape (node, ...), float64
    order : int
    dtype : dtype
        Of the result; it is computed in float64.
    count : numpy.ndarray, optional
        How many nodes each spline has, if not all; broadcasts against ``values[0]``. Only for full order.
    """
    xp = array_module(values)
    step = np.diff(nodes, axis=0)
    steps = xp.asarray(step)
    counts = None if count is None else xp.asarray(count)
    slopes = (values[1:] - values[:-1]) / steps
    if order >= _FULL_ORDER:
        linear, quadratic, cubic = _akima(slopes, steps, counts)
    elif order >= 3:
        linear, quadratic, cubic = _natural_cubic(step.ravel(), slopes)
    else:
        linear, quadratic, cubic = slopes, xp.zeros_like(slopes), xp.zeros_like(slopes)
    value = values[:-1]
    before_last = -1 if counts is None else counts - 2
    last, a, b, c, d = (_row(of, before_last) for of in (steps, value, linear, quadratic, cubic))
    ends = (a + last * (b + last * (c + last * d)), b + last * (2 * c + 3 * last * d), c + 3 * last * d, 0.0)
    starts = (value[0], linear[0], quadratic[0], 0.0)
    pieces = []
    for start, inside, end in zip(starts, (value, linear, quadratic, cubic), ends, strict=True):
        pieces.append(xp.empty((inside.shape[0] + 2, *inside.shape[1:]), dtype=dtype))
        pieces[-1][0], pieces[-1][1:-1], pieces[-1][-1] = start, inside, end
        if counts is not None:
            pieces[-1] = xp.where(_numbers(pieces[-1]) == counts, pieces[-1][-1:], pieces[-1])
    return tuple(pieces)


def _row(array: Array, number: Any) -> Array:
    """Row `number` (int) of an array (row, ...), or for every column its own row (array that broadcasts)."""
    if isinstance(number, int):
        return array[number]
    return array_module(array).take_along_axis(array, number[None], axis=0)[0]


def _numbers(array: Array) -> Array:
    """0, 1, ... along the first axis of `array`, broadcasting against it."""
    return array_module(array).arange(array.shape[0]).reshape(-1, *(1,) * (array.ndim - 1))


def _akima(slopes: Array, steps: Array, counts: Array | None) -> tuple[Array, Array, Array]:
    """
    Coefficients of Akima's spline (J. ACM 17, 589, 1970) on each interval; where a weight sum is 0, a line.

    `counts` is the number of nodes of each column, None if it is that of all slopes and one.
    """
    xp = array_module(slopes)
    m = _with_outer_slopes(slopes, counts)
    change = xp.abs(m[1:] - m[:-1])
    outer, inner = change[2:], change[:-2]  # per node: |m[i+1] - m[i]|, |m[i-1] - m[i-2]|
    total = outer + inner
    straight = total == 0
    share = inner / xp.where(straight, 1.0, total)
    at_node = (1 - share) * m[1:-2] + share * m[2:-1]
    left = at_node[:-1]
    right = xp.where(straight[1:], slopes, at_node[1:])
    linear = xp.where(straight[:-1], slopes, left)
    quadratic = xp.where(straight[:-1], 0.0, (3 * slopes - 2 * left - right) / steps)
    cubic = xp.where(straight[:-1], 0.0, (left + right - 2 * slopes) / (steps * steps))
    return linear, quadratic, cubic


def _with_outer_slopes(slopes: Array, counts: Array | None) -> Array:
    """Slopes of the intervals with two extrapolated ones on either side."""
    xp = array_module(slopes)
    before1 = 2 * slopes[0] - slopes[1]
    before2 = 2 * before1 - slopes[0]
    last, second_last = (_row(slopes, -n if counts is None else counts - 1 - n) for n in (1, 2))
    after1 = 2 * last - second_last
    after2 = 2 * after1 - last
    m = xp.concatenate([before2[None], before1[None], slopes, after1[None], after2[None]])
    if counts is None:
        return m
    m = xp.where(_numbers(m) == counts + 1, after1, m)
    return xp.where(_numbers(m) == counts + 2, after2, m)


def _natural_cubic(step: np.ndarray, slopes: Array) -> tuple[Array, Array, Array]:
    """Coefficients of the cubic spline with zero second derivative at both ends (3 nodes or more)."""
    xp = array_module(slopes)
    n = len(step) - 1
    system = np.diag(2 * (step[:-1] + step[1:])) + np.diag(step[1:-1], 1) + np.diag(step[1:-1], -1)
    bend = 3 * (slopes[1:] - slopes[:-1])
    inner = xp.asarray(np.linalg.inv(system)) @ bend.reshape(n, -1)
    zero = xp.zeros_like(slopes[:1])
    quadratic = xp.concatenate([zero, inner.reshape(bend.shape), zero])
    steps = xp.asarray(step).reshape(-1, *(1,) * (slopes.ndim - 1))
    linear = slopes - steps * (2 * quadratic[:-1] + quadratic[1:]) / 3
    cubic = (quadratic[1:] - quadratic[:-1]) / (3 * steps)
    return linear, quadratic[:-1], cubic


def _evaluate(pieces: _Pieces, size: int) -> Array:
    """Splines with common nodes (piece, column) at every pixel, (size, column)."""
    anchors, borders, coefficients = pieces
    xp = array_module(coefficients[0])
    if not is_host(xp):  # a few large tasks instead of some for every piece
        piece = _piece_of_pixel(borders)
        offset, which = xp.asarray(np.arange(size) - anchors[piece]), xp.asarray(piece)
        return _horner([c.take(which, axis=0) for c in coefficients], offset[:, None])
    out = np.empty((size, coefficients[0].shape[1]))
    for number, (anchor, first, stop) in enumerate(zip(anchors, borders[:-1], borders[1:], strict=True)):
        if stop > first:
            offset = np.arange(first, stop)[:, None] - anchor
            out[first:stop] = _horner([c[number] for c in coefficients], offset)
    return out


def _evaluate_own(
    nodes: np.ndarray, own: tuple[np.ndarray, Array, np.ndarray], known: np.ndarray, size: int, style: int
) -> Array:
    """Splines through each column's `_own_nodes`, those that are `known` (node, column), at every pixel."""
    positions, values, count = own
    xp = array_module(values)
    coefficients = _polynomials(positions, values, style, xp.float64, count)
    passed = np.concatenate([np.zeros_like(count[None]), np.cumsum(known, axis=0)])  # known ones among the first nodes
    n_passed = _piece_of_pixel(_layout(nodes, size, style)[1])
    piece = xp.asarray(passed).take(xp.asarray(n_passed), axis=0)
    anchors = xp.take_along_axis(xp.asarray(positions), xp.maximum(piece - 1, 0), axis=0)
    offset = xp.arange(size, dtype=xp.float64)[:, None] - anchors
    return _horner([xp.take_along_axis(c, piece, axis=0) for c in coefficients], offset)


def _horner(coefficients: Sequence[Array], offset: Array) -> Array:
    """Polynomials in `offset`; coefficients of ascending powers."""
    level = coefficients[-1]
    for coefficient in coefficients[-2::-1]:
        level = coefficient + offset * level
    return level
