"""
The seam: operations with a CUDA and a NumPy twin.

Each function checks its input and calls the twin that fits the arrays
(`gpucoadd.kernels` or `gpucoadd.fallback`); the NumPy twin is the definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import Array, array_module, twin
from .fallback import Compared, Search
from .images import check_dtype
from .planes import Flags

if TYPE_CHECKING:
    from .background import RowSplines

# Clip of a statistic that has no options of its own; LSST: the defaults of afw's StatisticsControl.
DEFAULT_CLIP: dict[str, Any] = {"sigma": 3.0, "iterations": 3}


def _check_iterations(iterations: int) -> None:
    if iterations < 1:
        raise ValueError(f"iterations must be 1 or more, got {iterations}; ask for at least one round")


def stack_statistics(
    image: Array, variance: Array, mask: Array, weights: tuple[float, ...], rules: Any
) -> tuple[Array, Array, Array]:
    """
    One statistic over the epochs for every pixel, with its variance and mask.

    Parameters
    ----------
    image, variance : array, shape (epoch, pixel), float32
    mask : array, shape (epoch, pixel), int32
    weights : tuple of float
        One per epoch.
    rules : gpucoadd.fallback.Rules
        Statistic, clipping and mask bits.

    Returns
    -------
    image, variance : array, shape (pixel,), float32
    mask : array, shape (pixel,), int32
    """
    return twin(image).stack_statistics(image, variance, mask, weights, rules)


def stacking_masks(
    mask: Array,
    edits: Sequence[tuple[Array, int, int]],
    reject: int,
    removed: int,
    *,
    online: bool,
    image: Array | None = None,
) -> tuple[Array, Array, Array | None]:
    """
    Copy of the masks after the edits and without some bits, in how many epochs a pixel has no bit of `reject`, and
    which samples a statistic of these masks uses.

    Parameters
    ----------
    mask : array, shape (epoch, y, x), int32
    edits : sequence of (array, int, int)
        Packed flags (epoch, y, word) uint32, as `BitPlanes.words`; where one is set, the mask becomes
        ``mask & keep | add``. In order.
    reject : int
    removed : int
        Bits that are taken away: before pixels are counted if `online`, else after it.
    online : bool
    image : array, shape (epoch, y, x), float32, optional
        Samples that are not finite are not used.

    Returns
    -------
    masks : array, shape (epoch, y, x), int32
    n_image : array, shape (y, x), int32
    used : array, shape (epoch, y, word), uint32, or None
        Packed as `BitPlanes.words`: finite, and without a bit of `reject` in `masks`. None without `image`.
    """
    return twin(mask).stacking_masks(mask, edits, reject, removed, online, image)


def compare(
    image: Array,
    variance: Array,
    mask: Array,
    template: tuple[Array, Array] | None,
    scales: Sequence[float],
    search: Search,
) -> Compared:
    """
    Significant pixels of a group of epochs, with what is known about them on the way.

    Parameters
    ----------
    image, variance : array, shape (epoch, y, x), float32
    mask : array, shape (epoch, y, x), int32
    template : (array, array) or None
        Image and variance of the static sky, (y, x) float32; None: the image is the difference already.
    scales : sequence of float
        Factor for the variance of each epoch; NaN: none.
    search : gpucoadd.fallback.Search
        Thresholds and bits.

    Returns
    -------
    gpucoadd.fallback.Compared
        With `Flags` in it.
    """
    found = twin(image).compare(image, variance, mask, template, scales, search)
    *flags, n_good = found
    return Compared._make([*(None if data is None else Flags(data, image.shape[2]) for data in flags), n_good])


def smooth(plane: Array, weights: np.ndarray) -> Array:
    """
    Convolution with a symmetric kernel along both axes.

    Parameters
    ----------
    plane : array, shape (y, x), float32
        0 beyond its edges; NaN and inf spread over the kernel and no further.
    weights : numpy.ndarray, shape (n,), float64
        n odd.

    Returns
    -------
    array, shape (y, x), float32
    """
    check_dtype("plane", plane, ("float32",))
    if len(weights) % 2 == 0 or (weights != weights[::-1]).any():
        raise ValueError(f"weights must be symmetric and odd in number, got {np.asarray(weights).tolist()}")
    return twin(plane).smooth(plane, weights)


def scale(plane: Array, factor: float, out: Array | None = None) -> Array:
    """
    A plane times a number, in float32.

    Parameters
    ----------
    plane : array, any shape, float32
    factor : float
        Rounded to float32.
    out : array, C-contiguous, shape and dtype of `plane`, optional
        Where it goes; may be `plane` itself.

    Returns
    -------
    array
        `out`, or a new array.
    """
    check_dtype("plane", plane, ("float32",))
    return twin(plane).scale(plane, factor, out)


def label(flags: Flags) -> tuple[Array, Array, int]:
    """
    8-connected footprints of each epoch.

    Parameters
    ----------
    flags : Flags

    Returns
    -------
    pixels : array, shape (n,), int32, or int64 on the host for a group of 2**31 pixels or more
        Flat (epoch, y, x) indices of the detected pixels, ascending.
    labels : array, shape (n,), int32
        Footprint of each of them, 1, 2, ... in raster order of the footprints' first pixels.
    n_footprints : int

    Raises
    ------
    ValueError
        For a group of 2**31 pixels or more on a device.

    Notes
    -----
    Waits for the device twice: for the number of pixels, and of footprints.
    """
    return twin(flags.data).label(flags.data, flags.n_columns)


def grow(flags: Flags, radii: Sequence[int], *, disc: bool = True) -> Flags:
    """
    Every pixel within a radius of a detected one of its epoch, inside the plane.

    Parameters
    ----------
    flags : Flags
    radii : sequence of int
        Of each epoch, in pixels; 0 changes nothing.
    disc : bool
        Disc ``dx**2 + dy**2 <= radius**2``, or the diamond ``|dx| + |dy| <= radius``.

    Returns
    -------
    Flags

    Raises
    ------
    ValueError
        If a radius is negative, or their number is not that of the epochs.
    """
    if len(radii) != flags.shape[0] or any(radius < 0 for radius in radii):
        raise ValueError(
            f"radii must be {flags.shape[0]} whole numbers, one per epoch, each 0 or more; got {list(radii)}"
        )
    return Flags(twin(flags.data).grow(flags.data, flags.n_columns, list(radii), disc), flags.n_columns)


def paint(pixels: Array, shape: tuple[int, int, int]) -> Flags:
    """
    Flags of the given pixels.

    Parameters
    ----------
    pixels : array, shape (n,), int
        Flat indices into (epoch, y, x); quickest when they ascend.
    shape : (int, int, int)
        (epoch, y, x).

    Returns
    -------
    Flags

    Raises
    ------
    ValueError
        For planes of 2**31 pixels or more on a device.
    """
    return Flags(twin(pixels).paint(pixels, shape), shape[2])


def take_flags(flags: Flags, pixels: Array) -> Array:
    """
    Bool (n,): the flag at each of the flat (epoch, y, x) indices `pixels`, (n,) int.

    ValueError for planes of 2**31 pixels or more on a device.
    """
    return twin(pixels).take_flags(flags.data, pixels, flags.n_columns)


def add_flags(flags: Flags, out: Array) -> None:
    """Add to `out`, (y, x) int32, in how many epochs each pixel is set."""
    check_dtype("out", out, ("int32",))
    twin(flags.data).add_flags(flags.data, out)


def count_by_label(labels: Array, n: int, flags: Array | None = None) -> Array:
    """
    Pixels of each footprint.

    Parameters
    ----------
    labels : array, shape (m,), int32
        From 0 to `n`.
    n : int
    flags : array, shape (m,), bool, optional
        Count only where it is set.

    Returns
    -------
    array, shape (n + 1,), int32
    """
    return twin(labels).count_by_label(labels, n, flags)


def sum_by_label(labels: Array, n: int, values: Array) -> Array:
    """Sums of `values`, (m,) int32, over the pixels of each footprint; int64 (n + 1,). As `count_by_label`."""
    array_module(labels=labels, values=values)
    return twin(labels).sum_by_label(labels, n, values)


def same_under(labels: Array, n: int, under: Array) -> Array:
    """
    The one value that `under`, (m,) int32, 0 or more, has over all pixels of each footprint; int32 (n + 1,).

    0 where the values differ or the footprint has no pixel. As `count_by_label`.
    """
    array_module(labels=labels, under=under)
    return twin(labels).same_under(labels, n, under)


def all_nan(planes: Array) -> Array:
    """Which of (k, y, x) float32 planes have nothing but NaN; (k,) bool."""
    return twin(planes).all_nan(planes)


def quantiles(samples: Array, fractions: Sequence[float]) -> tuple[Array, Array]:
    """
    Linear quantiles of k samples (NumPy's default method).

    Parameters
    ----------
    samples : array, shape (k, n), float32
        Those that are finite count.
    fractions : sequence of float
        One to three, each from 0 to 1.

    Returns
    -------
    quantiles : array, shape (k, len(fractions)), float64
        NaN where nothing counts.
    n_samples : array, shape (k,), int32
        How many count.

    Raises
    ------
    ValueError
        If there are more or fewer fractions, or one is out of range.
    """
    if not 1 <= len(fractions) <= 3 or not all(0 <= fraction <= 1 for fraction in fractions):
        raise ValueError(f"fractions must be one to three numbers from 0 to 1, got {tuple(fractions)}; ask in parts")
    return twin(samples).quantiles(samples, fractions)


def clipped_statistics(samples: Array, *, sigma: float, iterations: int) -> Array:
    """
    Mean, de-biased variance and number of the samples that stay after clipping, for k samples.

    Parameters
    ----------
    samples : array, shape (k, n), float32
        Those that are finite count.
    sigma : float
        Half width of the clip in standard deviations.
    iterations : int
        Rounds, 1 or more, as `gpucoadd.fallback.clipping.clipped_statistics` explains.

    Returns
    -------
    array, shape (k, 3), float64
        NaN, NaN, 0 where nothing stays.

    Raises
    ------
    ValueError
        If there is no round.
    """
    _check_iterations(iterations)
    return twin(samples).clipped_statistics(samples, sigma=sigma, iterations=iterations)


def clipped_means(planes: Array, masks: Array, bits: int, *, sigma: float, iterations: int) -> Array:
    """
    Means of `clipped_statistics`, of planes some of whose pixels do not count.

    Parameters
    ----------
    planes : array, shape (k, y, x), float32
        Pixels that are not finite do not count.
    masks : array, shape (k, y, x), int32
    bits : int
        Nor do pixels that have one of them.
    sigma, iterations
        As there.

    Returns
    -------
    array, shape (k,), float64

    Raises
    ------
    ValueError
        If there is no round.
    """
    _check_iterations(iterations)
    return twin(planes).clipped_means(planes, masks, bits, sigma=sigma, iterations=iterations)


def cell_means(
    images: Array, masks: Array, bits: int, *, y_edges: np.ndarray, x_edges: np.ndarray, sigma: float, iterations: int
) -> Array:
    """
    Clipped mean of every cell of k planes.

    Parameters
    ----------
    images : array, shape (k, y, x), float32
    masks : array, shape (k, y, x), int32
    bits : int
        Pixels that have one of them do not count, nor do values that are not finite.
    y_edges, x_edges : numpy.ndarray, shape (cells + 1,), int
        First pixels of the cells along an axis, and its end.
    sigma, iterations
        As in `clipped_statistics`.

    Returns
    -------
    array, shape (k, cell y, cell x), float64
        NaN where nothing stays.

    Raises
    ------
    ValueError
        If there is no round.
    """
    _check_iterations(iterations)
    means = twin(images).cell_means
    return means(images, masks, bits, y_edges=y_edges, x_edges=x_edges, sigma=sigma, iterations=iterations)


def background_level(splines: RowSplines) -> Array:
    """The background of k epochs at every pixel, (k, y, x) float32; NaN where no cell was measured."""
    return twin(splines.coefficients).background_level(splines)


def background_residual(image: Array, variance: Array, mask: Array, splines: RowSplines, bits: int) -> Array:
    """
    What stands above the background of k epochs, in standard deviations of the variance plane.

    Parameters
    ----------
    image, variance : array, shape (k, y, x), float32
    mask : array, shape (k, y, x), int32
    splines : RowSplines
        Of these epochs, from `gpucoadd.background.row_coefficients`.
    bits : int
        Pixels that have one of them do not count.

    Returns
    -------
    array, shape (k, y * x), float32
        ``(image - background) / sqrt(variance)`` where the pixel has none of `bits`, a finite numerator and a positive
        finite variance; +inf elsewhere.
    """
    return twin(image).background_residual(image, variance, mask, splines, bits)


def fill_bad_runs(
    image: Array,
    variance: Array,
    mask: Array,
    *,
    no_data: int,
    interpolated: int,
    fallback: Any,
    fallback_at_edge: bool,
    transpose: bool,
) -> tuple[Array, Array, Array]:
    """
    Image and variance with the runs of bad pixels filled, and the mask that says so.

    Parameters
    ----------
    image, variance : array, shape (y, x), float32
    mask : array, shape (y, x), int32
    no_data, interpolated : int
        Bits: which pixels are bad, and what is set on them besides.
    fallback : float, or array of one element
        Level of pixels too far from any good one.
    fallback_at_edge : bool
        Whether such a level is given to all of a border run but the pixels nearest the good data.
    transpose : bool
        Runs lie along columns, not rows.

    Returns
    -------
    image, variance, mask : array
        New arrays; the variance is +inf wherever it is not positive.
    """
    fill = twin(image).fill_bad_runs
    return fill(image, variance, mask, no_data, interpolated, fallback, fallback_at_edge, transpose)


def merge_cells(
    target: tuple[Array, Array, Array | None],
    boxes: np.ndarray,
    images: Array,
    variances: Array,
    *,
    corners: np.ndarray,
    planes: np.ndarray,
    copy: bool,
    all_valid: np.ndarray | None = None,
) -> None:
    """
    Merge cells, one after the other, into the planes of a mosaic, which are written to.

    A pixel of a cell is valid if its image times its variance is not NaN.

    Parameters
    ----------
    target : (array, array, array or None)
        Image, variance, and how many cells had a valid pixel, each (y, x); the types of the first two float32 or
        float64, that of the third uint16 or int32.
    boxes : numpy.ndarray, shape (m, 4), int
        x0, y0, width, height of each cell in the mosaic, inside it.
    images, variances : array, shape (n, h, w), float32 or float64
        Where the cells' pixels are.
    corners : numpy.ndarray, shape (m, 2), int
        (y, x) of each cell's first pixel there.
    planes : numpy.ndarray, shape (m,), int
        In which of the n planes.
    copy : bool
        Whether valid pixels replace those of the mosaic; otherwise they are added.
    all_valid : numpy.ndarray, shape (m,), bool, optional
        Cells that are known to be valid throughout, which saves the host looking at them.
    """
    options: dict[str, Any] = {"corners": corners, "planes": planes, "copy": copy, "all_valid": all_valid}
    twin(images).merge_cells(target, boxes, images, variances, **options)
