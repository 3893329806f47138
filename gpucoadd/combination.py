"""
Combining the epochs of a stack: weights, per-pixel statistics, masks.

The work goes in bands of rows, so that a stack in files is never in memory as a whole, and each
band in pieces of pixels, which threads share. Every pixel is computed by itself, with the
epochs in order, so neither the bands nor the threads show in the result.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import primitives
from .assembly_config import AssemblyConfig, Clipping, Interpolation
from .backend import Array, array_module, is_host, to_host, using
from .fallback import Rules
from .groups import by_epochs, by_rows
from .images import MaskedImage, WarpStack, check_planes
from .input_map import InputMapper
from .masks import MaskSchema
from .planes import BitPlanes
from .reading import Planes
from .workers import Work, check_threads, cut, in_order

logger = logging.getLogger(__name__)

ADDED_PLANES = ("REJECTED", "CLIPPED", "SENSOR_EDGE", "INEXACT_PSF")
_PIECE_SAMPLES = 1 << 18  # of all epochs together: what stays in a processor's cache
_SMALLEST_PIECE = 2048  # pixels; below, NumPy's cost per call shows
_WEIGHING_BYTES_PER_PIXEL = 20
_BAND_BYTES = 64 << 20
_NO_INTERPOLATION = Interpolation(enabled=False)


class Combined(NamedTuple):
    """
    What `combine` makes.

    image, variance (y, x) float32 and mask (y, x) int32 of the coadd; n_image (y, x) int32, the epochs without a
    rejecting plane; contributed, the samples that were used, by kept epoch, or None.
    """

    image: Array
    variance: Array
    mask: Array
    n_image: Array
    contributed: BitPlanes | None


class Prepared(NamedTuple):
    """Epochs of a stack that can be used, and their weights; why the others cannot."""

    indices: tuple[int, ...]
    weights: tuple[float, ...]
    dropped: tuple[str, ...]


def mask_rules(schema: MaskSchema, reject: int) -> tuple[tuple[int, int], ...]:
    """Which lost bits leave which bit on the coadd: REJECTED, SENSOR_EDGE, CLIPPED."""
    silent = schema.known_bitmask(("NO_DATA", "EDGE", "CLIPPED"))
    pairs = [(reject & ~silent, "REJECTED"), (schema.known_bitmask(("EDGE",)), "SENSOR_EDGE")]
    pairs.append((schema.bitmask("CLIPPED"), "CLIPPED"))
    return tuple((source, schema.bitmask(target)) for source, target in pairs if source)


def stacking_rules(
    schema: MaskSchema,
    *,
    statistic: str,
    reject: int,
    clipping: Clipping,
    error_from_input: bool,
    propagation: Mapping[str, float],
    lsst_extremes: bool = False,
    online_mean: bool = False,
) -> Any:
    """Options by name, as the bits and numbers that the twins take."""
    return Rules(
        statistic=statistic,
        reject=reject,
        sigma_clip=clipping.sigma,
        clip_iterations=clipping.iterations,
        error_from_input=error_from_input,
        propagation=tuple((schema.bitmask(plane), float(share)) for plane, share in propagation.items()),
        mask_map=mask_rules(schema, reject),
        no_data=schema.bitmask("NO_DATA"),
        clipped=schema.bitmask("CLIPPED"),
        lsst_extremes=lsst_extremes,
        online_mean=online_mean,
    )


def _stack_pieces(
    planes: Sequence[Array], weights: tuple[float, ...], rules: Any, *, threads: int
) -> tuple[Array, Array, Array]:
    """`primitives.stack_statistics` of planes (epoch, ...), flattened; on the host piece by piece."""
    image, variance, mask = (plane.reshape(plane.shape[0], -1) for plane in planes)
    xp = array_module(image)
    if not is_host(xp):
        return primitives.stack_statistics(image, variance, mask, weights, rules)
    n_pixels = image.shape[1]
    out = (
        xp.empty(n_pixels, dtype=xp.float32),
        xp.empty(n_pixels, dtype=xp.float32),
        xp.empty(n_pixels, dtype=xp.int32),
    )

    def one(piece: slice) -> None:
        results = primitives.stack_statistics(image[:, piece], variance[:, piece], mask[:, piece], weights, rules)
        for target, result in zip(out, results, strict=True):
            target[piece] = result

    size = max(_PIECE_SAMPLES // image.shape[0], _SMALLEST_PIECE)
    for _ in in_order(one, cut(n_pixels, size), threads=threads):
        pass
    return out


def stack(
    image: Array,
    variance: Array,
    mask: Array,
    weights: Array,
    *,
    statistic: str,
    reject: Sequence[str],
    sigma_clip: float = 3.0,
    clip_iterations: int = 2,
    error_from_input_variance: bool = True,
    propagation: Mapping[str, float] | None = None,
    schema: MaskSchema,
    lsst_extremes: bool = False,
    threads: int | None = 1,
) -> MaskedImage:
    """
    One weighted statistic of a stack, with its variance and mask.

    A sample is good when it is finite and has none of the planes `reject`. Means are weighted,
    medians and quartiles are not.

    Parameters
    ----------
    image, variance : array, shape (epoch, y, x), float32
    mask : array, shape (epoch, y, x), int32
    weights : array-like, shape (epoch,), float
        Finite and positive; used as float32.
    statistic : str
        One of `gpucoadd.STATISTICS`.
    reject : sequence of str
        Planes of `schema` that reject a sample.
    sigma_clip : float
        Half width of the clip, for the clipped statistics.
    clip_iterations : int
        Clipping rounds, each starting again from all good samples.
    error_from_input_variance : bool
        Variance of a mean from the input variances; if False, from the scatter of the samples.
    propagation : dict of str to float
        Plane name to the share of rejected weight above which the plane is set on the result.
    schema : MaskSchema
        Names of the bits of `mask`; needs NO_DATA.
    lsst_extremes : bool
        For MIN and MAX, start the search at the weighted sum over the count, as LSST does.
    threads : int or None
        None: one per processor.

    Returns
    -------
    MaskedImage
        float32; NO_DATA where no sample is good, and NaN there unless the statistic is a sum or a
        count. Its schema has REJECTED, CLIPPED,
        SENSOR_EDGE and INEXACT_PSF besides those of `schema`.

    Raises
    ------
    ValueError
        If shapes, lengths or options do not fit.
    TypeError
        If arrays are mixed (host and device) or have other dtypes.
    KeyError
        If a plane is not in `schema`.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.array([10, 11, 12, 13, 40, 9], dtype=np.float32).reshape(6, 1, 1)
    >>> result = stack(values, np.full_like(values, 4), np.zeros(values.shape, np.int32), [1, 1, 2, 1, 1, 0.5],
    ...                statistic="MEANCLIP", reject=["NO_DATA"], schema=MaskSchema.lsst())
    >>> round(float(result.image[0, 0]), 6), round(float(result.variance[0, 0]), 6)
    (11.363636, 0.958678)
    """
    check_planes(image, variance, mask, axes="epoch, y, x", floats=("float32",))
    config = AssemblyConfig(  # checks the options
        statistic=statistic,
        reject=tuple(reject),
        clipping=Clipping(sigma=sigma_clip, iterations=clip_iterations),
        propagation=dict(propagation or {}),
        interpolation=_NO_INTERPOLATION,
    )
    numbers = check_weights(weights, image.shape[0])
    full = schema.with_planes(*ADDED_PLANES)
    rules = stacking_rules(
        full,
        statistic=statistic,
        reject=full.bitmask(*config.reject),
        clipping=config.clipping,
        error_from_input=error_from_input_variance,
        propagation=config.propagation,
        lsst_extremes=lsst_extremes,
    )
    with using(image):
        planes = _stack_pieces((image, variance, mask), as_float32(numbers), rules, threads=check_threads(threads))
    return MaskedImage(*(plane.reshape(image.shape[1:]) for plane in planes), schema=full)


def as_float32(weights: Sequence[float]) -> tuple[float, ...]:
    """Weights as the stack uses them: rounded to float32."""
    return tuple(float(np.float32(weight)) for weight in weights)


def check_weights(weights: Any, n_epochs: int) -> tuple[float, ...]:
    """`weights` as floats, one per epoch, finite and positive; ValueError otherwise."""
    numbers = tuple(float(weight) for weight in weights)
    if len(numbers) != n_epochs:
        raise ValueError(f"{len(numbers)} weights are given but image has {n_epochs} epochs; give one for each")
    for epoch, weight in enumerate(numbers):
        if not (np.isfinite(weight) and weight > 0):
            raise ValueError(f"weight of epoch {epoch} must be finite and positive, got {weight!r}")
    return numbers


def prepare(warps: WarpStack, config: AssemblyConfig, work: Work, *, step: str) -> Prepared:
    """
    Which epochs can be used, and their weights: one over the clipped mean of the variance plane.

    An epoch whose image is NaN everywhere is dropped, and one whose weight is not finite and
    positive is dropped with a warning in the log.
    """
    reject = warps.schema.known_bitmask(config.reject)
    clip: dict[str, Any] = {"sigma": config.clipping.sigma, "iterations": config.clipping.iterations}

    def weigh(piece: slice, planes: Planes) -> list[float | None]:
        image, variance, mask = planes
        blank = to_host(primitives.all_nan(image))
        means = to_host(primitives.clipped_means(variance, mask, reject, **clip)).tolist()
        return [None if is_blank else _inverse(mean) for is_blank, mean in zip(blank, means, strict=True)]

    indices: list[int] = []
    weights: list[float] = []
    dropped: list[str] = []
    n_epochs = warps.shape[0]
    groups = by_epochs(weigh, warps, range(n_epochs), work, bytes_per_pixel=_WEIGHING_BYTES_PER_PIXEL)
    for epoch, value in enumerate(itertools.chain.from_iterable(values for _, values in groups)):
        work.progress(step, epoch + 1, n_epochs)
        name = warps.inputs[epoch] if warps.inputs else f"epoch {warps.epochs[epoch]}"
        if value is None:
            dropped.append(f"{name} is NaN everywhere")
            logger.info("%s; dropped", dropped[-1])
        elif not (np.isfinite(value) and value > 0):
            dropped.append(f"{name} has the weight {value}, which must be finite and positive")
            logger.warning(
                "%s; dropped. The weight is 1 / mean variance of its good pixels: are all masked, or is the "
                "variance 0, negative or NaN?",
                dropped[-1],
            )
        else:
            indices.append(epoch)
            weights.append(value)
    return Prepared(tuple(indices), tuple(weights), tuple(dropped))


MaskEdit = tuple[BitPlanes, int, int]  # of the kept epochs: flags; bits kept and bits added where one is set


def combine(
    warps: WarpStack,
    prepared: Prepared,
    config: AssemblyConfig,
    schema: MaskSchema,
    work: Work,
    *,
    reject: int,
    edits: Sequence[MaskEdit] = (),
    mapper: InputMapper | None = None,
    keep_contributed: bool = True,
    step: str,
) -> Combined:
    """
    Image, variance and mask of the statistical coadd, the number of contributing epochs, and which they are.

    Parameters
    ----------
    warps : WarpStack
    prepared : Prepared
        Epochs used and their weights.
    config : AssemblyConfig
    schema : MaskSchema
        Of the result; it has `ADDED_PLANES`.
    work : Work
    reject : int
        Bits that reject a sample.
    edits : sequence of (BitPlanes, int, int)
        What the masks of the kept epochs become before they are used; see `primitives.stacking_masks`.
    mapper : InputMapper, optional
        Is shown the masks as they are used.
    keep_contributed : bool
        Whether to say which samples were used: all that are finite and have none of the bits `reject` after the
        edits. A clipped statistic may drop some of them yet.
    step : str
        Name for the progress.

    Returns
    -------
    Combined
    """
    online = config.online_mean and config.statistic == "MEAN"
    rules = stacking_rules(
        schema,
        statistic=config.statistic,
        reject=reject,
        clipping=config.clipping,
        error_from_input=config.error_from_input_variance,
        propagation=config.propagation,
        online_mean=online,
    )
    weights = prepared.weights if online else as_float32(prepared.weights)
    removed = _removed_bits(schema, config.remove)
    _, n_rows, n_columns = warps.shape
    n_epochs = len(prepared.indices)

    def stacked(rows: slice, planes: Planes) -> tuple[tuple[Array, ...], Array | None, np.ndarray | None]:
        image, variance, mask = planes
        # the running sums and their count see one mask; the stack path counts before planes are removed
        masks, n_image, used = primitives.stacking_masks(
            mask,
            [(bits.words[:, rows], keep, add) for bits, keep, add in edits],
            reject,
            removed,
            online=online,
            image=image if keep_contributed else None,
        )
        band = _stack_pieces((image, variance, masks), weights, rules, threads=work.threads)
        counts = None if mapper is None else mapper.count(rows, masks)
        return (*(plane.reshape(n_image.shape) for plane in band), n_image), used, counts

    out: tuple[Array, ...] = ()
    contributed = None
    host_rows = _band_rows(warps, n_epochs, work.memory)
    for rows, (band, used, counts) in by_rows(stacked, warps, prepared.indices, work, host_rows=host_rows):
        if not out:
            xp = array_module(band[0])
            out = tuple(xp.empty((n_rows, n_columns), dtype=plane.dtype) for plane in band)
            contributed = BitPlanes((n_epochs, n_rows, n_columns), xp) if keep_contributed else None
        for target, plane in zip(out, band, strict=True):
            target[rows] = plane
        if mapper is not None and counts is not None:
            mapper.add(counts)  # here and not in `stacked`, which a full device makes run again
        if contributed is not None:
            contributed.words[:, rows] = used
        work.progress(step, rows.stop, n_rows)
    return Combined(*out, contributed)  # type: ignore[call-arg]


def edited_mask(mask: Array, edits: Sequence[MaskEdit], epoch: int = 0) -> Array:
    """
    Mask of one epoch after edits.

    Parameters
    ----------
    mask : array, shape (y, x), int32
        Not modified.
    edits : sequence of MaskEdit
        In their order.
    epoch : int
        Which of the epochs that the edits have flags of.

    Returns
    -------
    array, shape (y, x), int32
        A new one, on the device of `mask`.
    """
    words = [(bits.words[epoch : epoch + 1], keep, add) for bits, keep, add in edits]
    with using(mask):
        return primitives.stacking_masks(mask[None], words, 0, 0, online=False)[0][0]


def _removed_bits(schema: MaskSchema, planes: Sequence[str]) -> int:
    unknown = [plane for plane in planes if plane not in schema]
    if unknown:
        logger.debug("planes %s are to be removed but the masks do not have them", ", ".join(unknown))
    return schema.known_bitmask(planes)


def _band_rows(warps: WarpStack, n_epochs: int, memory: int) -> int:
    """
    Rows per band on the host, so that a band's planes and the copies made of them stay within half of `memory`.

    A stack in memory is copied in part only, and gains from bands that are small; files are opened
    for every band, and gain from large ones.
    """
    _, n_rows, n_columns = warps.shape
    in_memory = warps.source.in_memory
    room = min(memory // 2, _BAND_BYTES) if in_memory else memory // 2
    per_row = n_epochs * n_columns * (4 if in_memory else 28)
    return max(1, min(n_rows, room // per_row))


def _inverse(mean: float) -> float:
    return 1.0 / mean if mean != 0 else math.inf


def kept_epochs(warps: WarpStack, prepared: Prepared) -> tuple[Hashable, ...]:
    """Ids of the epochs that are used."""
    return tuple(warps.epochs[index] for index in prepared.indices)
