"""
Finding artifacts: what differs from the template in few epochs.

Every PSF-matched warp is compared with the template; significant pixels become footprints;
pixels are counted over the epochs. A footprint that is rare is an artifact; one that recurs is a
variable source or a bad subtraction and stays.

Why two loops: the rule needs the count over all epochs, so the first loop keeps every epoch's
footprints (sparse: a few per cent of the pixels) and the second judges them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import primitives
from .backend import Array, array_module, using
from .configuration import CoaddConfig, Persistence, Prefilter
from .detection import Footprints, NothingUndetectedError, detect, detect_template, label
from .groups import by_epochs
from .images import Frozen, MaskedImage, WarpStack, check_dtype
from .line_votes import Votes
from .masks import MaskSchema
from .memory import memory_bound
from .planes import BitPlanes, Flags
from .reading import Planes
from .streak_masking import cast_votes, count_votes, differences, find_lines, outside_sources, streak_flags
from .streak_search import sums_bytes
from .streaks import Streaks
from .variance import variance_scales
from .workers import Work, check_threads

logger = logging.getLogger(__name__)


class Artifacts(Frozen):
    """
    What `find_artifacts` found.

    Attributes
    ----------
    epochs : tuple
        Ids of the epochs, in the order of the planes.
    clipped, no_data, edge : array, shape (epoch, y, x), bool
        Artifact pixels; pixels without data in the PSF-matched warp; its EDGE pixels. Unpacked
        from bits at every access; `plane` gives one epoch.
    epoch_count : array, shape (y, x), int32
        In how many epochs the pixel lies in a candidate.
    n_image_matched : array, shape (y, x), int32
        How many epochs have good data there.
    variance_scale : numpy.ndarray, shape (epoch,), float64
        Factor applied to each epoch's variance; NaN where none was.
    template_footprints : array, shape (y, x), int32
        0 or the number of the bright template source.
    streak : array, shape (epoch, y, x), bool
        Those of the clipped pixels that lie on a trail; an AttributeError where none was searched for.
    lines : tuple of Streaks or None, (epoch,)
        The lines of each epoch, persistent and dark ones too; None where none was searched for.
    """

    epochs: tuple[Hashable, ...]
    epoch_count: Array
    n_image_matched: Array
    variance_scale: np.ndarray
    template_footprints: Array
    lines: tuple[Streaks | None, ...]
    bits: dict[str, BitPlanes]

    def __init__(self, **values: Any) -> None:
        self._set(**values)

    @property
    def by_plane(self) -> dict[str, BitPlanes]:
        """What is set in the masks of the epochs, by the name of the plane."""
        return {plane: self.bits[plane.lower()] for plane in ("NO_DATA", "EDGE", "CLIPPED")}

    def plane(self, kind: str, epoch: int) -> Array:
        """(y, x) bool plane of `kind` ("clipped", "no_data", "edge" or "streak") for the epoch at position `epoch`."""
        return self.bits[kind].plane(epoch)

    @property
    def clipped(self) -> Array:
        """(epoch, y, x) bool: artifact pixels."""
        return self.bits["clipped"].all_planes()

    @property
    def no_data(self) -> Array:
        """(epoch, y, x) bool: no data in the PSF-matched warp."""
        return self.bits["no_data"].all_planes()

    @property
    def edge(self) -> Array:
        """(epoch, y, x) bool: EDGE in the PSF-matched warp."""
        return self.bits["edge"].all_planes()

    @property
    def streak(self) -> Array:
        """(epoch, y, x) bool: pixels clipped for a trail."""
        if "streak" not in self.bits:
            raise AttributeError("no trails were searched for; use CoaddConfig(streaks=StreakConfig())")
        return self.bits["streak"].all_planes()


class _Searched(NamedTuple):
    """First loop's result for a group of epochs."""

    footprints: Footprints
    scales: np.ndarray
    no_data: Flags
    edge: Flags
    n_good: Array  # (y, x)
    lines: list[Streaks]  # none where they are not searched for


def find_artifacts(
    psf_matched: WarpStack,
    template: MaskedImage,
    *,
    config: CoaddConfig | None = None,
    epochs: Sequence[Hashable] | None = None,
    memory: int | None = None,
    threads: int | None = None,
) -> Artifacts:
    """
    Compare PSF-matched warps with the template, and say which pixels are artifacts.

    Parameters
    ----------
    psf_matched : WarpStack
        Warps with a common PSF; `psf_sigma` must be known.
    template : MaskedImage
        Static-sky model on the same grid and with the same PSF. If it has an attribute `psf_sigma` (as
        what `assemble` returns), that is its width; else the widest of `psf_matched`.
    config : CoaddConfig, optional
    epochs : sequence of hashable, optional
        Ids to report on, in this order; those without a warp in `psf_matched` have no data anywhere.
        All of `psf_matched` when left out.
    memory : int, optional
        Bytes to use beside inputs and outputs, where the pixels are; half of the host's, or 80 % of what is free on
        the device, when left out.
    threads : int, optional
        One per processor when left out.

    Returns
    -------
    Artifacts

    Raises
    ------
    ValueError
        If shapes or origins differ, or a PSF width is missing.

    Notes
    -----
    Waits for the device a few times for every group of epochs that its memory holds (sizes of what was found).
    """
    config = CoaddConfig() if config is None else config
    if template.image.shape != psf_matched.shape[1:] or template.origin != psf_matched.origin:
        raise ValueError(
            f"template is {template.image.shape} at origin {template.origin} but the warps are "
            f"{psf_matched.shape[1:]} at {psf_matched.origin}; both must share one pixel grid"
        )
    work = Work(memory_bound(memory, psf_matched), check_threads(threads))
    ids = psf_matched.epochs if epochs is None else tuple(epochs)
    with using(template.image):
        return search(psf_matched, template, config, ids, work)


def search(
    psf_matched: WarpStack,
    template: MaskedImage,
    config: CoaddConfig,
    ids: Sequence[Hashable],
    work: Work,
    *,
    compared: Collection[Hashable] | None = None,
) -> Artifacts:
    """`find_artifacts` without its checks; of the warps only those that are `compared`, if that is given."""
    n_epochs, shape = len(ids), psf_matched.shape[1:]
    xp = array_module(template.image)
    sigma = getattr(template, "psf_sigma", None)
    sigma = float(np.nanmax(psf_matched.psf_sigma)) if sigma is None else float(sigma)
    bright = template_footprints(template.image, template.variance, psf_sigma=sigma, config=config)
    kinds = ("clipped", "no_data", "edge", *(("streak",) if config.finds_streaks else ()))
    bits = {kind: BitPlanes((n_epochs, *shape), xp) for kind in kinds}
    epoch_count, n_image = xp.zeros(shape, dtype=xp.int32), xp.zeros(shape, dtype=xp.int32)
    present = psf_matched.epochs if compared is None else compared
    where = {epoch: index for index, epoch in enumerate(psf_matched.epochs) if epoch in present}
    positions = [position for position, epoch in enumerate(ids) if epoch in where]
    indices = [where[ids[position]] for position in positions]
    for position in set(range(n_epochs)).difference(positions):
        bits["no_data"].fill(position)

    def search_group(piece: slice, planes: Planes) -> _Searched:
        return _search_group(psf_matched, indices[piece], planes, template, config)

    factors = np.full(n_epochs, math.nan)
    candidates: list[tuple[list[int], Footprints]] = []
    lines: dict[int, Streaks] = {}
    groups = by_epochs(search_group, psf_matched, indices, work, bytes_per_pixel=_bytes_per_pixel(config, psf_matched))
    for piece, searched in groups:
        group = positions[piece]
        candidates.append((group, searched.footprints))
        lines.update(zip(group, searched.lines))
        factors[group] = searched.scales
        bits["no_data"].set_planes(group, searched.no_data)
        bits["edge"].set_planes(group, searched.edge)
        primitives.add_flags(searched.footprints.paint((len(group), *shape)), epoch_count)
        xp.add(n_image, searched.n_good, out=n_image)
        work.progress("comparing", piece.stop, len(positions))
    if any(map(len, lines.values())):
        lines = _put_to_the_vote(lines, psf_matched, template, config, positions, indices, factors, work)
        lines = {position: outside_sources(found, bright) for position, found in lines.items()}
    for group, footprints in candidates:
        judged = _judge(footprints, epoch_count, n_image, bright, config.persistence)
        clipped = judged.paint((len(group), *shape))
        if any(len(lines[position]) for position in group if position in lines):
            no_data = Flags.of(xp.stack([bits["no_data"].plane(position) for position in group]))
            sigmas = [float(psf_matched.psf_sigma[where[ids[position]]]) for position in group]
            found = [lines[position] for position in group]
            streaks = streak_flags(found, footprints, no_data, bright, sigmas, config)
            bits["streak"].set_planes(group, streaks)
            clipped = clipped.union(streaks)
        bits["clipped"].set_planes(group, clipped)
    return Artifacts(
        epochs=tuple(ids),
        epoch_count=epoch_count,
        n_image_matched=n_image,
        variance_scale=factors,
        template_footprints=_merged(bright, template.image),
        lines=tuple(lines.get(position) for position in range(n_epochs)),
        bits=bits,
    )


def _put_to_the_vote(
    lines: dict[int, Streaks],
    psf_matched: WarpStack,
    template: MaskedImage,
    config: CoaddConfig,
    positions: list[int],
    indices: list[int],
    scales: np.ndarray,
    work: Work,
) -> dict[int, Streaks]:
    """The lines, `persistent` where enough of the other epochs have them, too."""

    def vote(piece: slice, planes: Planes) -> list[dict[int, Votes]]:
        group = positions[piece]
        epochs = differences(planes, scales[group].tolist(), template, psf_matched.schema, config)
        return cast_votes(epochs, group, lines, config)

    votes = []
    for piece, cast in by_epochs(
        vote, psf_matched, indices, work, bytes_per_pixel=_bytes_per_pixel(config, psf_matched)
    ):
        votes += cast
        work.progress("voting", piece.stop, len(positions))
    return count_votes(lines, votes, config)


_OF_DETECTION = ("DETECTED", "DETECTED_NEGATIVE")  # cleared before a difference is searched, whatever the warp had
_BYTES_PER_PIXEL = 80  # planes of one epoch and what is made of them while it is searched
_BYTES_PER_PIXEL_OF_LINES = 34  # beside these, and the sums along lines, while it is searched for lines


def _bytes_per_pixel(config: CoaddConfig, warps: WarpStack) -> int:
    if not config.finds_streaks:
        return _BYTES_PER_PIXEL
    shape = warps.shape[1:]
    sums = sums_bytes(shape, float(np.nanmin(warps.psf_sigma)), config.streaks)
    return _BYTES_PER_PIXEL + _BYTES_PER_PIXEL_OF_LINES + math.ceil(sums / (shape[0] * shape[1]))


def _search_group(
    warps: WarpStack, indices: Sequence[int], planes: Planes, template: MaskedImage, config: CoaddConfig
) -> _Searched:
    """Candidates of some warps, their variance factors, and which of their pixels contribute, lack data, are edge."""
    schema = warps.schema
    image, variance, mask = planes
    scales = np.full(len(indices), math.nan)
    if config.variance_scaling.enabled:
        scales = variance_scales(image, variance, mask, schema=schema, config=config.variance_scaling)
        for index, scale in zip(indices, scales, strict=True):
            if math.isnan(scale):
                logger.info("epoch %s: variance not rescaled, no factor can be had", warps.epochs[index])
    sigmas = [float(warps.psf_sigma[index]) for index in indices]
    footprints, compared = detect(
        image,
        variance,
        mask,
        psf_sigma=sigmas,
        config=config.detection,
        template=(template.image, template.variance),
        scales=scales.tolist(),
        exclude=schema.known_bitmask(config.detection.exclude) & ~schema.known_bitmask(_OF_DETECTION),
        reject=schema.known_bitmask(config.stacking.reject),
        edge=schema.known_bitmask(("EDGE",)),
    )
    if config.prefilter.enabled:
        footprints = _prefilter(footprints, mask, schema, config.prefilter)
    lines = []
    if config.finds_streaks:
        lines = find_lines(differences(planes, scales.tolist(), template, schema, config), sigmas, config)
    return _Searched(footprints, scales, compared.no_data, compared.edge, compared.n_good, lines)


def template_footprints(image: Array, variance: Array, *, psf_sigma: float, config: CoaddConfig) -> list[Array]:
    """
    Label images of the bright sources that spare the candidates inside them; none if they are not wanted.

    Where the footprints cover everything, the threshold is raised and detection tried again.

    Raises
    ------
    NothingUndetectedError
        If the last attempt fails too.
    """
    if not config.preserve_contained:
        return []
    attempts, factor = config.template_detection_attempts, 1.0
    detection = config.template_detection
    for attempt in range(attempts - 1):
        try:
            return detect_template(image, variance, psf_sigma=psf_sigma, config=detection, factor=factor)
        except NothingUndetectedError:
            if attempt > int(0.4 * attempts):  # the first attempts raise the negative threshold only, as in LSST
                factor *= config.template_detection_step
    return detect_template(image, variance, psf_sigma=psf_sigma, config=detection, factor=factor)


def _merged(labels: list[Array], like: Array) -> Array:
    """One label image; where footprints overlap, the higher number."""
    xp = array_module(like)
    merged = xp.zeros(like.shape, dtype=xp.int32)
    for image in labels:
        xp.maximum(merged, image, out=merged)
    return merged


def _prefilter(footprints: Footprints, mask: Array, schema: MaskSchema, config: Prefilter) -> Footprints:
    xp = array_module(mask)
    good = (mask.reshape(-1).take(footprints.pixels) & schema.known_bitmask(config.planes)) == 0
    areas = footprints.areas()
    keep = footprints.total(good) / xp.maximum(areas, 1) > config.ratio
    return footprints.select(keep)


def _judge(
    footprints: Footprints, epoch_count: Array, n_image: Array, template_labels: Sequence[Array], rule: Persistence
) -> Footprints:
    """The artifacts among the footprints of a group of epochs."""
    xp = array_module(epoch_count)
    pixels, labels = footprints.pixels % epoch_count.size, footprints.labels
    areas = xp.maximum(footprints.areas(), 1)
    counts = epoch_count.reshape(-1).take(pixels)
    total = primitives.sum_by_label(labels, footprints.n_footprints, n_image.reshape(-1).take(pixels))
    mean = total / areas
    limit = xp.minimum(rule.max_fraction_low * mean, rule.max_epochs + rule.max_fraction_high * mean)
    limit = xp.trunc(limit)  # `Persistence.limit` of every footprint at once
    rare = (counts > 0) & (counts <= limit.take(labels))
    artifact = footprints.total(rare) / areas > rule.spatial_threshold
    for image in template_labels:  # a footprint wholly inside a bright source of the template is spared
        artifact &= primitives.same_under(labels, footprints.n_footprints, image.reshape(-1).take(pixels)) == 0
    return footprints.select(artifact)


def _as_footprints(name: str, footprints: Array) -> Footprints:
    """From a bool plane (connected here) or a label image."""
    xp = array_module(**{name: footprints})
    if footprints.ndim != 2:
        raise ValueError(f"{name} has shape {footprints.shape}; it must be (y, x), one epoch")
    if footprints.dtype == bool:
        return label(Flags.of(footprints[None]))
    check_dtype(name, footprints, ("int32", "int64", "bool"))
    flat = footprints.ravel()
    pixels = xp.flatnonzero(flat)
    labels = flat.take(pixels).astype(xp.int32)
    if pixels.shape[0] and int(labels.min()) < 0:
        raise ValueError(f"{name} has negative labels; use 0 for no footprint and 1, 2, ... for footprints")
    return Footprints(pixels, labels, int(labels.max()) if pixels.shape[0] else 0)


def filter_artifacts(
    footprints: Array,
    epoch_count: Array,
    n_image: Array,
    *,
    template_footprints: Array | None = None,
    config: Persistence | None = None,
) -> Array:
    """
    Which footprints of one epoch are artifacts (LSST's `filterArtifacts`).

    Parameters
    ----------
    footprints : array, shape (y, x), bool or int32
        Candidates of the epoch: a bool plane, whose 8-connected pieces are the footprints, or a label image.
    epoch_count : array, shape (y, x), int
        In how many epochs a pixel lies in a candidate.
    n_image : array, shape (y, x), int
        How many epochs contribute there.
    template_footprints : array, shape (y, x), int, optional
        Labels of bright template sources; a footprint wholly inside one of them is no artifact.
    config : Persistence, optional

    Returns
    -------
    array, shape (y, x), bool
        Pixels of the footprints that are artifacts.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    _check_same_shape(footprints, epoch_count=epoch_count, n_image=n_image, template_footprints=template_footprints)
    given = [plane for plane in (epoch_count, n_image, template_footprints) if plane is not None]
    for name, plane in zip(("epoch_count", "n_image", "template_footprints"), given, strict=False):
        if plane.dtype.kind not in "iu":
            raise TypeError(f"{name} must be integers, got {plane.dtype}; convert it with astype('int32')")
    with using(footprints):
        epoch_count, n_image, *spared = (plane.astype("int32", copy=False) for plane in given)
        candidates = _as_footprints("footprints", footprints)
        judged = _judge(candidates, epoch_count, n_image, spared, config or Persistence())
        return judged.paint((1, *footprints.shape)).planes()[0]


def prefilter_artifacts(
    footprints: Array, mask: Array, *, schema: MaskSchema, config: Prefilter | None = None
) -> Array:
    """
    Candidates of one epoch that do not lie mostly on bad pixels (LSST's `prefilterArtifacts`).

    Parameters
    ----------
    footprints : array, shape (y, x), bool or int32
        As in `filter_artifacts`.
    mask : array, shape (y, x), int32
        Mask of the difference.
    schema : MaskSchema
        Names of its bits.
    config : Prefilter, optional

    Returns
    -------
    array, shape (y, x), bool
        Pixels of the candidates that stay.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    _check_same_shape(footprints, mask=mask)
    with using(footprints):
        candidates = _as_footprints("footprints", footprints)
        kept = _prefilter(candidates, mask, schema, config or Prefilter())
        return kept.paint((1, *footprints.shape)).planes()[0]


def propagate_edges(mask: Array, edge: Array, *, schema: MaskSchema) -> Array:
    """
    Coadd mask with SENSOR_EDGE and INEXACT_PSF wherever any epoch has an edge (LSST's `applyAltEdgeMask`).

    Parameters
    ----------
    mask : array, shape (y, x), int32
    edge : array, shape (epoch, y, x), bool
        Edge pixels of every epoch, as `Artifacts.edge`.
    schema : MaskSchema
        Has SENSOR_EDGE and INEXACT_PSF.

    Returns
    -------
    array, shape (y, x), int32
        A new mask.

    Raises
    ------
    ValueError
        If shapes do not fit.
    KeyError
        If `schema` lacks one of the two planes.
    """
    xp = array_module(mask=mask, edge=edge)
    if edge.ndim != 3 or edge.shape[1:] != mask.shape:
        raise ValueError(f"edge has shape {edge.shape} but mask has {mask.shape}; edge is (epoch, y, x)")
    with using(mask):
        return _with_edges(xp, mask, edge.any(axis=0), schema)


def propagate_edge_bits(mask: Array, artifacts: Artifacts, *, schema: MaskSchema) -> Array:
    """`propagate_edges` without unpacking all epochs at once."""
    return _with_edges(array_module(mask), mask, artifacts.bits["edge"].any_plane(), schema)


def _with_edges(xp: Any, mask: Array, edge: Array, schema: MaskSchema) -> Array:
    return xp.where(edge, mask | schema.bitmask("SENSOR_EDGE", "INEXACT_PSF"), mask)


def _check_same_shape(footprints: Array, **others: Array | None) -> None:
    given = {name: array for name, array in others.items() if array is not None}
    array_module(footprints=footprints, **given)
    for name, array in given.items():
        if array.shape != footprints.shape:
            raise ValueError(f"{name} has shape {array.shape} but footprints has {footprints.shape}; both are (y, x)")
