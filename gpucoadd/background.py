"""
A smooth background: clipped means of cells, joined by Akima splines.

The plane is cut into nearly equal cells; each cell's value is the clipped mean of its usable
pixels. A spline runs down every column of cells, evaluated at every row, and then one along
every row (LSST's AKIMA_SPLINE with REDUCE_INTERP_ORDER).
"""

from __future__ import annotations

import numpy as np

from .backend import Array, array_module, is_host
from .clipping import clipped_rows
from .workers import cut

_SIGMA, _ITERATIONS = 3.0, 3
_PIECE_SAMPLES = 1 << 17  # what stays in a processor's cache
_FULL_ORDER = 5  # nodes that an Akima spline needs; 3 for a cubic one, 2 for a line


class TooManyMaskedPixelsError(ValueError):
    """Nothing is left to measure: every pixel is masked."""


def background(image: Array, usable: Array, *, bin_size: int) -> Array:
    """
    Background of `image`.

    Parameters
    ----------
    image : array, shape (y, x), float32
    usable : array, shape (y, x), bool
        Pixels that count; non-finite ones are left out besides.
    bin_size : int
        Largest side of a cell in pixels.

    Returns
    -------
    array, shape (y, x), float32

    Raises
    ------
    TooManyMaskedPixelsError
        If no cell has a usable pixel.
    """
    xp = array_module(image)
    cells = cell_means(image, usable, bin_size=bin_size)
    if not bool(xp.isfinite(cells).any()):
        raise TooManyMaskedPixelsError("no pixel is left for the background: all are masked or not finite")
    n_y, n_x = cells.shape
    style = min(n_y, n_x)
    y_nodes, x_nodes = (cell_edges(size, bin_size)[1] for size in image.shape)
    columns = _interpolate_columns(y_nodes, cells, image.shape[0], style)
    return _interpolate_rows(x_nodes, columns, image.shape[1], style)


def cell_edges(size: int, bin_size: int) -> tuple[np.ndarray, np.ndarray]:
    """First pixels of the cells along an axis (with the end), and the cells' centres."""
    n = -(-size // bin_size)
    edges = np.array([0] + [min(((i + 1) * size + n // 2) // n, size) for i in range(n)])
    return edges, edges[:-1] + np.diff(edges) / 2 - 0.5


def cell_means(image: Array, usable: Array, *, bin_size: int) -> Array:
    """Clipped mean of every cell, shape (cell y, cell x), float64; NaN where a cell has no usable pixel."""
    xp = array_module(image)
    y_edges, x_edges = cell_edges(image.shape[0], bin_size)[0], cell_edges(image.shape[1], bin_size)[0]
    values = xp.where(usable & xp.isfinite(image), image, xp.float32(xp.inf))
    n_y, n_x = len(y_edges) - 1, len(x_edges) - 1
    height, width = int(np.diff(y_edges).max()), int(np.diff(x_edges).max())
    if height * n_y == image.shape[0] and width * n_x == image.shape[1]:
        grid = values.reshape(n_y, height, n_x, width)
    else:  # cells differ by a pixel: the short ones are filled up with +inf
        row = _padded_index(y_edges, height, image.shape[0])
        column = _padded_index(x_edges, width, image.shape[1])
        padded = xp.full((image.shape[0] + 1, image.shape[1] + 1), xp.inf, dtype=xp.float32)
        padded[:-1, :-1] = values
        grid = padded.take(xp.asarray(row), axis=0).take(xp.asarray(column), axis=1)
        grid = grid.reshape(n_y, height, n_x, width)
    rows = xp.sort(grid.transpose(0, 2, 1, 3).reshape(n_y * n_x, height * width), axis=1)
    size = max(1, _PIECE_SAMPLES // rows.shape[1]) if is_host(xp) else rows.shape[0]
    n = xp.isfinite(rows).sum(axis=1)
    pieces = cut(rows.shape[0], size)
    means = [clipped_rows(rows[piece], n[piece], sigma=_SIGMA, iterations=_ITERATIONS) for piece in pieces]
    return xp.concatenate(means).reshape(n_y, n_x)


def _padded_index(edges: np.ndarray, length: int, size: int) -> np.ndarray:
    """Index of each cell's pixels along an axis, `length` per cell; missing ones point at `size`."""
    index = edges[:-1, None] + np.arange(length)
    return np.where(index < edges[1:, None], index, size).ravel()


def _interpolate_columns(nodes: np.ndarray, values: Array, size: int, style: int) -> Array:
    """
    Splines through the columns of `values` (node, column), evaluated at 0, 1, ... `size` - 1; (size, column).

    Columns lose their NaN nodes; those that lose the same ones are done together, and a column of NaN
    stays one. `style` limits the order.
    """
    xp = array_module(values)
    known = xp.isfinite(values)
    if bool(known.all()):
        return _evaluate(nodes, values, size, style)
    out = xp.full((size, values.shape[1]), xp.nan)
    # which cells are known is a small pattern; it is grouped on the host
    patterns, which = np.unique(np.array(known.tolist()), axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        nodes_known = np.flatnonzero(patterns[:, number])
        if len(nodes_known) == 0:
            continue
        columns = xp.asarray(np.flatnonzero(which.ravel() == number))
        part = values.take(xp.asarray(nodes_known), axis=0).take(columns, axis=1)
        out[:, columns] = _evaluate(nodes[nodes_known], part, size, style)
    return out


def _interpolate_rows(nodes: np.ndarray, values: Array, size: int, style: int) -> Array:
    """Splines along the rows of `values` (row, node), evaluated as above; a node is known in all rows or in none."""
    xp = array_module(values)
    known = np.flatnonzero(np.array(xp.isfinite(values[0]).tolist()))
    part = values.take(xp.asarray(known), axis=1).T
    return _evaluate(nodes[known], part, size, style, turned=True)


def _evaluate(nodes: np.ndarray, values: Array, size: int, style: int, turned: bool = False) -> Array:
    """Spline of the order that the number of nodes and `style` allow, as piecewise cubic polynomials."""
    xp = array_module(values)
    n = len(nodes)
    order = min(n, style)
    if order == 1:  # the value of the nearest node
        nearest = xp.asarray(np.searchsorted((nodes[:-1] + nodes[1:]) / 2, np.arange(size)))
        out = values.take(nearest, axis=0)
        return xp.ascontiguousarray(out.T.astype(xp.float32)) if turned else out
    step = np.diff(nodes)
    steps = xp.asarray(step)[:, None]
    slopes = (values[1:] - values[:-1]) / steps
    if order >= _FULL_ORDER:
        linear, quadratic, cubic = _akima(slopes, steps)
    elif order >= 3:
        linear, quadratic, cubic = _natural_cubic(step, slopes)
    else:
        linear, quadratic, cubic = slopes, xp.zeros_like(slopes), xp.zeros_like(slopes)
    return _polynomials(nodes, (values[:-1], linear, quadratic, cubic), size, turned)


def _akima(slopes: Array, steps: Array) -> tuple[Array, Array, Array]:
    """Coefficients of Akima's spline (J. ACM 17, 589, 1970) on each interval; where a weight sum is 0, a line."""
    xp = array_module(slopes)
    before1 = 2 * slopes[0] - slopes[1]
    before2 = 2 * before1 - slopes[0]
    after1 = 2 * slopes[-1] - slopes[-2]
    after2 = 2 * after1 - slopes[-1]
    m = xp.concatenate([before2[None], before1[None], slopes, after1[None], after2[None]])
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


def _natural_cubic(step: np.ndarray, slopes: Array) -> tuple[Array, Array, Array]:
    """Coefficients of the cubic spline with zero second derivative at both ends (3 nodes or more)."""
    xp = array_module(slopes)
    n = len(step) - 1
    system = np.diag(2 * (step[:-1] + step[1:])) + np.diag(step[1:-1], 1) + np.diag(step[1:-1], -1)
    inner = xp.asarray(np.linalg.inv(system)) @ (3 * (slopes[1:] - slopes[:-1]))
    zero = xp.zeros_like(slopes[:1])
    quadratic = xp.concatenate([zero, inner.reshape(n, -1), zero])
    steps = xp.asarray(step)[:, None]
    linear = slopes - steps * (2 * quadratic[:-1] + quadratic[1:]) / 3
    cubic = (quadratic[1:] - quadratic[:-1]) / (3 * steps)
    return linear, quadratic[:-1], cubic


def _polynomials(nodes: np.ndarray, coefficients: tuple[Array, ...], size: int, turned: bool) -> Array:
    """
    Piecewise cubics at every pixel; beyond the first and last node the quadratic with the value and
    derivatives there. (size, column), or (column, size) in float32 if `turned`.
    """
    xp = array_module(coefficients[0])
    value, linear, quadratic, cubic = coefficients
    last = nodes[-1] - nodes[-2]
    end = [
        value[-1] + last * (linear[-1] + last * (quadratic[-1] + last * cubic[-1])),
        linear[-1] + last * (2 * quadratic[-1] + 3 * last * cubic[-1]),
        quadratic[-1] + 3 * last * cubic[-1],
        xp.zeros_like(value[-1]),
    ]
    start = [value[0], linear[0], quadratic[0], xp.zeros_like(value[0])]
    pieces = [start, *zip(value, linear, quadratic, cubic, strict=True), end]
    anchors = np.concatenate([nodes[:1], nodes[:-1], nodes[-1:]])
    borders = [0, *(int(np.ceil(node)) for node in nodes), size]
    n_columns = value.shape[1]
    dtype = xp.float32 if turned else xp.float64
    pieces = [[coefficient.astype(dtype) for coefficient in piece] for piece in pieces]
    out = xp.empty((n_columns, size) if turned else (size, n_columns), dtype=dtype)
    for (a, b, c, d), anchor, first, stop in zip(pieces, anchors, borders[:-1], borders[1:], strict=True):
        if stop <= first:
            continue
        offset = (xp.arange(first, stop, dtype=xp.float64) - anchor).astype(dtype)
        if turned:
            out[:, first:stop] = a[:, None] + offset * (b[:, None] + offset * (c[:, None] + offset * d[:, None]))
        else:
            offset = offset[:, None]
            out[first:stop] = a + offset * (b + offset * (c + offset * d))
    return out
