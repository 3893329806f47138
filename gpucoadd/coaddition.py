"""
The whole story: `coadd` from top to bottom, and `assemble`, the plain statistical coadd.

    weights of the direct warps
      template               clipped mean of the PSF-matched warps
        artifacts            what differs from it in few epochs
          combine            weighted mean of the direct warps without the artifacts
            post-processing  edges, interpolation
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .artifacts import Artifacts, propagate_edge_bits, search
from .assembly_config import AssemblyConfig
from .backend import Array, array_module, using
from .bright_objects import set_plane, wanted_pixels
from .combination import ADDED_PLANES, Combined, MaskEdit, Prepared, combine, kept_epochs, prepare
from .configuration import CoaddConfig
from .contributors import Contributors
from .images import MaskedImage, WarpStack
from .input_map import Detector, InputMapper, wanted_detectors
from .interpolation import interpolate
from .masks import MaskSchema
from .memory import memory_bound, stack_device
from .options import as_names
from .residence import bounded
from .streaks import Streaks
from .workers import Progress, Work, check_threads, no_progress
from .wrappers import is_selected

logger = logging.getLogger(__name__)


class NoWorkFound(ValueError):
    """Nothing to coadd: no epoch is left that can be used."""


class Coadd(MaskedImage):
    """
    A coadd and what led to it.

    Attributes
    ----------
    image, variance : array, shape (y, x), float32
        In `unit` and its square. Variance is +inf where it is not known.
    mask : array, shape (y, x), int32
        Bits as named by `schema`.
    n_image : array, shape (y, x), int32
        Epochs that contributed.
    epochs : tuple
        Ids of the epochs kept.
    weights : numpy.ndarray, shape (kept,), float64
        Their weights, in one over the unit squared.
    psf_sigma : float
        Widest PSF among the epochs kept, pixels.
    template : MaskedImage or None
        Static-sky model, as subtracted. None, like all that follows, from `assemble`.
    artifacts : Artifacts or None
        The search's result; the following attributes are its.
    template_footprints, epoch_count, n_image_matched : array, shape (y, x), int32
    clipped, no_data, edge : array, shape (kept, y, x), bool
        Unpacked from bits at every access.
    variance_scale : numpy.ndarray, shape (kept,), float64
        NaN where not applied.
    streak : array, shape (kept, y, x), bool
        Pixels clipped for a trail; an AttributeError where none was searched for.
    lines : tuple of Streaks or None, (kept,)
        The lines of each epoch, whether or not they are trails; None where none was searched for.
    contributors : Contributors or None
        The epochs kept, where they contributed and what is known of them. None for the template of a coadd.
    contributed : array, shape (kept, y, x), bool
        Samples that the final stack used: finite, and without a rejecting plane once the artifacts are set. Unpacked at
        every access. A clipped statistic may have dropped some of them yet.
    inputs : astropy.table.Table
        One row per epoch kept.
    input_map : healsparse.HealSparseMap or None
        Which detectors went into each part of the sky, if they were given; `gpucoadd.input_map` says more.
    provenance : dict
        Version, configuration and inputs, as written to files.

    Notes
    -----
    *INEXACT_PSF* is set, as in LSST, where CLIPPED, REJECTED or SENSOR_EDGE is: so wherever an epoch that has data did
    not contribute, be it for an artifact, an edge or another rejecting plane. It is not set for an epoch that has no
    data there (NO_DATA in the warp or its twin, or a sample that is not finite), although the PSF changes where the
    data of an epoch end; `contributed` says that too. It may be set where all epochs contributed: at the EDGE of a
    twin, and where a clipped statistic dropped a sample.
    """

    n_image: Array
    epochs: tuple[Hashable, ...]
    weights: np.ndarray
    psf_sigma: float
    template: MaskedImage | None
    artifacts: Artifacts | None
    contributors: Contributors | None
    statistic: str
    provenance: dict[str, Any]
    input_map: Any

    def __init__(
        self,
        image: Array,
        variance: Array,
        mask: Array,
        *,
        n_image: Array,
        epochs: tuple[Hashable, ...],
        weights: np.ndarray,
        psf_sigma: float,
        provenance: dict[str, Any],
        template: MaskedImage | None = None,
        artifacts: Artifacts | None = None,
        input_map: Any = None,
        contributors: Contributors | None = None,
        statistic: str = "MEAN",
        **common: Any,
    ) -> None:
        super().__init__(image, variance, mask, **common)
        self._set(n_image=n_image, epochs=epochs, weights=weights, psf_sigma=psf_sigma)
        self._set(template=template, artifacts=artifacts, provenance=provenance, input_map=input_map)
        self._set(contributors=contributors, statistic=statistic)

    def _found(self) -> Artifacts:
        if self.artifacts is None:
            raise AttributeError("a coadd made by assemble() has no artifact search; use coadd()")
        return self.artifacts

    def _kept(self) -> Contributors:
        if self.contributors is None:
            raise AttributeError(
                "the template of a coadd does not keep which epochs contributed; use the coadd, or assemble()"
            )
        return self.contributors

    @property
    def contributed(self) -> Array:
        """(kept, y, x) bool: samples that the final stack used."""
        return self._kept().contributed.all_planes()

    def psf(self, y: Any, x: Any, *, exact: bool = False) -> Array:
        """
        PSF of the coadd at one position or several.

        The mean of the epochs' PSFs, each with sum 1, with the weights of the stack over the epochs that contributed to
        the nearest pixel. Where the epochs change within the stamp, as at a clipped trail, a star looks a little
        different: `exact` takes for every pixel of the stamp the epochs that contributed to that one.

        Parameters
        ----------
        y, x : float, or sequences of n floats
            Pixel coordinates in the frame of the patch, as `origin`; pixel centres are at integers.
        exact : bool
            The image that a star of flux 1, centred in the nearest pixel, has in the coadd. Its sum need not be 1.

        Returns
        -------
        array, shape (k, k) or (n, k, k), float64
            k of the largest stamp of any epoch; where the coadd's arrays are. With `exact`, NaN where no epoch
            contributed, and outside of the coadd.

        Raises
        ------
        ValueError
            If a position is outside, or no epoch contributed to its pixel; if the PSF of an epoch is not known; if
            `exact` is asked of another statistic than MEAN, of which no image of a star can be foretold.

        Warns
        -----
        UserWarning
            For other statistics than MEAN, to whose PSF the result is an approximation.

        Notes
        -----
        Epochs without a PSF of their own have a Gaussian of their `psf_sigma`. LSST's CoaddPsf asks whether a detector
        covers the position, and does not see what was clipped or masked. Waits for the device once.
        """
        if self.statistic != "MEAN":
            if exact:
                raise ValueError(
                    f"a coadd with the statistic {self.statistic} has no exact PSF, for it is no linear function of "
                    "its epochs; use exact=False, or the statistic MEAN"
                )
            warnings.warn(
                f"the statistic of this coadd is {self.statistic}: the weighted mean of the PSFs is only near its own",
                stacklevel=2,
            )
        return self._kept().psf(y, x, exact=exact)

    def epoch_mean(self, name: str, y: Any, x: Any) -> Any:
        """
        Mean of an epoch's numbers over the epochs that contributed, with the weights of the stack.

        Parameters
        ----------
        name : str
            Of the `epoch_values` of the warps that were stacked.
        y, x
            As in `psf`.

        Returns
        -------
        float, or numpy.ndarray of shape (...), (n,) or (n, ...)
            Of the shape that the epochs' values have; one such for every position.

        Raises
        ------
        KeyError
            If there are no values of that name.
        ValueError
            If a position is outside, or no epoch contributed to its pixel.
        """
        return self._kept().mean(name, y, x)

    @property
    def inputs(self) -> Any:
        """
        astropy Table of the epochs kept, made at every access.

        Columns: epoch (its id); weight (in one over `unit` squared); psf_sigma (pixels); fraction_clipped, the share of
        clipped pixels among those where the PSF-matched warp of the epoch has data, NaN where none has or no artifacts
        were searched for; input (file, or nothing).
        """
        bits: Any = {} if self.artifacts is None else self.artifacts.bits
        return self._kept().table(clipped=bits.get("clipped"), no_data=bits.get("no_data"), unit=self.unit)

    @property
    def clipped(self) -> Array:
        """(kept, y, x) bool: artifact pixels of every epoch."""
        return self._found().clipped

    @property
    def no_data(self) -> Array:
        """(kept, y, x) bool: no data in the PSF-matched warp."""
        return self._found().no_data

    @property
    def edge(self) -> Array:
        """(kept, y, x) bool: EDGE in the PSF-matched warp."""
        return self._found().edge

    @property
    def epoch_count(self) -> Array:
        """(y, x) int32: in how many epochs a pixel lies in a candidate."""
        return self._found().epoch_count

    @property
    def n_image_matched(self) -> Array:
        """(y, x) int32: PSF-matched epochs with good data."""
        return self._found().n_image_matched

    @property
    def template_footprints(self) -> Array:
        """(y, x) int32: 0 or the number of the bright template source."""
        return self._found().template_footprints

    @property
    def variance_scale(self) -> np.ndarray:
        """(kept,) float64: factor applied to each PSF-matched variance, NaN where none was."""
        return self._found().variance_scale

    @property
    def streak(self) -> Array:
        """(kept, y, x) bool: pixels clipped for a trail."""
        return self._found().streak

    @property
    def lines(self) -> tuple[Streaks | None, ...]:
        """(kept,): the lines of every epoch, None for those without a PSF-matched warp."""
        return self._found().lines

    def write(self, path: str | os.PathLike[str], *, compression: str = "none") -> None:
        """
        Write image, mask, variance and contribution image as FITS, in the layout of LSST's afw.

        Then follow, if the warps had PSFs, PSF: the stamp in the middle of the coadd, as `psf` gives it, or at the
        nearest pixel to which an epoch contributed; cards PSFY and PSFX have its position. And INPUTS: the table
        `inputs`.

        Parameters
        ----------
        path : path
            Replaced at once when the file is complete; nothing half-written is left.
        compression : str
            "none", "lossless" or "lossy".

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        from .fits import write_planes

        write_planes(
            path,
            image=self.image,
            variance=self.variance,
            mask=self.mask,
            schema=self.schema,
            origin=self.origin,
            wcs=self.wcs,
            unit=self.unit,
            extra={"NIMAGE": self.n_image},
            psf=None if self.contributors is None else self._central_psf(),
            tables={} if self.contributors is None else {"INPUTS": self.inputs},
            provenance=self.provenance,
            compression=compression,
        )

    def _central_psf(self) -> tuple[Array, tuple[int, int]] | None:
        """PSF in the middle, or as near to it as there is one, and where that is; None if the warps had none."""
        contributors = self._kept()
        if not contributors.has_psfs:
            return None
        (y0, x0), (n_rows, n_columns) = self.origin, self.shape
        where = contributors.nearest(y0 + (n_rows - 1) // 2, x0 + (n_columns - 1) // 2)
        try:
            return None if where is None else (contributors.psf(*where, exact=False), where)
        except ValueError as error:
            logger.warning("no PSF is written: %s", error)
            return None


def coadd(
    warps: WarpStack,
    *,
    config: CoaddConfig | None = None,
    bright_objects: Any = None,
    detectors: Any = None,
    memory: int | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Coadd:
    """
    Coadd of the direct warps without the artifacts that a comparison of the epochs finds.

    Parameters
    ----------
    warps : WarpStack
        Direct warps with their PSF-matched twins. Without twins each warp stands in for its own: differing
        PSFs then leave residuals at every bright source, which hides artifacts there (a UserWarning says so).
    config : CoaddConfig, optional
        The defaults are LSST's.
    bright_objects : astropy.table.Table or path, optional
        Catalogue of objects to mask on the finished coadd; `gpucoadd.bright_objects` lists its columns.
    detectors : astropy.table.Table or path, optional
        Outlines of the detectors of each epoch, for `Coadd.input_map`; `gpucoadd.input_map` lists its columns.
    memory : int, optional
        Bytes to use beside the interpreter and inputs in memory, of the host or of the device that the pixels go to;
        half of the host's, or 80 % of what is free on the device, when left out. A bound below the least that the
        patch takes is warned of in the log. The result does not depend on it.
    threads : int, optional
        One per processor when left out. The result does not depend on it.
    progress : callable, optional
        Called as ``progress(step, done, total)``.

    Returns
    -------
    Coadd

    Raises
    ------
    NoWorkFound
        If no epoch can be used.
    ValueError
        If a PSF width is missing, or an option does not fit the masks; if a table, or the WCS that it needs, cannot be
        used, which is found out before the work begins.
    ImportError
        If an input map is wanted and healsparse is not installed.

    Notes
    -----
    LSST's CompareWarpAssembleCoaddTask, post-processing included.
    """
    config = CoaddConfig() if config is None else config
    work = Work(memory_bound(memory, warps), check_threads(threads), progress)
    if warps.psf_matched is None:
        warnings.warn(
            "the warps have no PSF-matched twins: each stands in for its own, so differing PSFs leave residuals at "
            "bright sources, artifacts near them are missed and the coadd's PSF is less uniform",
            stacklevel=2,
        )
    extras = _extras(warps, config.stacking, bright_objects, detectors)
    with using(stack_device(warps)), bounded(warps, work) as (direct, matched, work):
        schema = warps.schema.with_planes(*ADDED_PLANES)
        stacked = matched if config.stacking.warp_type == "psfMatched" else direct
        # direct warps may still be on their way
        template = _assemble(matched, config.template, work, step="template", keep_contributed=False)
        prepared = _prepared(stacked, config.stacking, work, "weighing")
        epochs = kept_epochs(stacked, prepared)
        _check_psf_sigma(matched, epochs, config)
        artifacts = search(matched, template, config, epochs, work)
        reject = schema.known_bitmask(config.stacking.reject) | schema.bitmask("CLIPPED")
        edits = _mask_edits(artifacts, schema, config.stacking)
        masking: dict[str, Any] = {"reject": reject, "edits": edits}
        masking["mapper"] = mapper = extras.mapper(stacked, prepared, config.stacking, reject)
        made = combine(stacked, prepared, config.stacking, schema, work, **masking, step="stacking")
        mask = propagate_edge_bits(_finish_mask(made.mask, made.variance, schema), artifacts, schema=schema)
        result = _post_process(
            stacked,
            prepared,
            made._replace(mask=mask),
            config.stacking,
            schema,
            provenance=_provenance(stacked, prepared, config),
            bright=extras.bright,
            template=template,
            artifacts=artifacts,
            input_map=None if mapper is None else mapper.finish(),
        )
    if config.save_count_image:
        from .fits import write_array

        write_array(Path(config.figure_path) / "epochCountIm.fits", artifacts.epoch_count, extname="EPOCH_COUNT")
    return result


def assemble(
    warps: WarpStack,
    *,
    config: AssemblyConfig | None = None,
    bright_objects: Any = None,
    detectors: Any = None,
    memory: int | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Coadd:
    """
    Statistical coadd of one stack, post-processing included; no artifacts are searched for.

    Parameters
    ----------
    warps : WarpStack
    config : AssemblyConfig, optional
        The defaults are LSST's; `warp_type` "psfMatched" takes the twins of `warps`, if it has any.
    bright_objects, detectors, memory, threads, progress
        As in `coadd`.

    Returns
    -------
    Coadd

    Raises
    ------
    NoWorkFound
        If no epoch can be used.
    ValueError, ImportError
        As from `coadd`, about tables and the WCS.
    """
    config = AssemblyConfig() if config is None else config
    work = Work(memory_bound(memory, warps), check_threads(threads), progress)
    if config.warp_type == "psfMatched" and warps.psf_matched is not None:
        warps = warps.psf_matched
    extras = _extras(warps, config, bright_objects, detectors)
    with using(stack_device(warps)), bounded(warps, work) as (stack, _, work):
        return _assemble(stack, config, work, extras, step="stacking")


class _Extras(NamedTuple):
    """What a coadd is given besides pixels: flags of bright objects, (y, x) on the host, and detectors."""

    bright: np.ndarray | None = None
    detectors: list[Detector] | None = None

    def mapper(self, warps: WarpStack, prepared: Prepared, config: AssemblyConfig, reject: int) -> InputMapper | None:
        """What makes the input map of the epochs used, if one is wanted."""
        if self.detectors is None:
            return None
        used: dict[str, Any] = {"epochs": kept_epochs(warps, prepared), "weights": prepared.weights}
        return InputMapper(self.detectors, config.input_map, warps=warps, reject=reject, **used)


_NO_EXTRAS = _Extras()


def _extras(warps: WarpStack, config: AssemblyConfig, bright_objects: Any, detectors: Any) -> _Extras:
    """Tables, looked at before the work begins, and warnings about those that are missing."""
    if config.select_epochs and not is_selected(warps.source):
        warnings.warn(
            "epochs are to be selected (doSelectVisits) but the stack has all of its own; give the list to "
            "WarpStack.select (--epochs)",
            stacklevel=3,
        )
    if bright_objects is None and config.mask_bright_objects:
        warnings.warn(
            "bright objects are to be masked (doMaskBrightObjects) but there is no catalogue of them, so none are; "
            "give bright_objects= (--bright-objects)",
            stacklevel=3,
        )
    bright = None if bright_objects is None else wanted_pixels(bright_objects, config, warps)
    return _Extras(bright, wanted_detectors(detectors, config, warps))


def _assemble(
    warps: WarpStack,
    config: AssemblyConfig,
    work: Work,
    extras: _Extras = _NO_EXTRAS,
    *,
    step: str,
    keep_contributed: bool = True,
) -> Coadd:
    schema = warps.schema.with_planes(*ADDED_PLANES)
    prepared = _prepared(warps, config, work, "weighing")
    reject = schema.known_bitmask(config.reject)
    mapper = extras.mapper(warps, prepared, config, reject)
    kept: dict[str, Any] = {"reject": reject, "mapper": mapper, "keep_contributed": keep_contributed}
    made = combine(warps, prepared, config, schema, work, **kept, step=step)
    made = made._replace(mask=_finish_mask(made.mask, made.variance, schema))
    more: dict[str, Any] = {"provenance": _provenance(warps, prepared, config), "bright": extras.bright}
    more["input_map"] = None if mapper is None else mapper.finish()
    return _post_process(warps, prepared, made, config, schema, **more)


def _prepared(warps: WarpStack, config: AssemblyConfig, work: Work, step: str) -> Prepared:
    prepared = prepare(warps, config, work, step=step)
    if not prepared.indices:
        reasons = "; ".join(prepared.dropped[:3]) + ("; ..." if len(prepared.dropped) > 3 else "")
        raise NoWorkFound(
            f"none of the {warps.shape[0]} epochs can be used ({reasons}): an epoch needs pixels that are not NaN, and "
            "a positive variance where its mask is clean"
        )
    return prepared


def _check_psf_sigma(matched: WarpStack, epochs: tuple[Hashable, ...], config: CoaddConfig) -> None:
    """PSF widths are needed for growing, smoothing the template and trails; say which is missing before the search."""
    if config.detection.grow_sigma == 0 and not (config.preserve_contained or config.finds_streaks):
        return
    for epoch, sigma in zip(matched.epochs, matched.psf_sigma, strict=True):
        if epoch in epochs and not (np.isfinite(sigma) and sigma > 0):
            raise ValueError(
                f"psf_sigma of epoch {epoch} must be finite and positive, got {sigma}; give the PSF width in pixels"
            )


def _finish_mask(mask: Array, variance: Array, schema: MaskSchema) -> Array:
    """INEXACT_PSF where the set of epochs changes, NO_DATA where the variance is exactly 0."""
    xp = array_module(mask)
    inexact = (mask & schema.bitmask("SENSOR_EDGE", "CLIPPED", "REJECTED")) != 0
    mask = xp.where(inexact, mask | schema.bitmask("INEXACT_PSF"), mask)
    return xp.where(variance == 0, mask | schema.bitmask("NO_DATA"), mask)


def _post_process(
    warps: WarpStack,
    prepared: Prepared,
    made: Combined,
    config: AssemblyConfig,
    schema: MaskSchema,
    *,
    provenance: dict[str, Any],
    bright: np.ndarray | None = None,
    **results: Any,
) -> Coadd:
    if config.interpolation.enabled and "INTRP" not in schema:
        schema = schema.with_planes("INTRP")
    image, variance, mask = interpolate(
        made.image,
        made.variance,
        made.mask,
        no_data=schema.bitmask("NO_DATA"),
        interpolated=schema.known_bitmask(("INTRP",)),
        config=config.interpolation,
    )
    if bright is not None:
        mask, schema = set_plane(mask, bright, schema, config.bright_object_plane)
    sigmas = warps.psf_sigma[list(prepared.indices)]
    contributors = None
    if made.contributed is not None:
        contributors = Contributors(warps, prepared.indices, prepared.weights, made.contributed)
    return Coadd(
        image,
        variance,
        mask,
        schema=schema,
        origin=warps.origin,
        wcs=warps.wcs,
        unit=warps.unit,
        n_image=made.n_image,
        epochs=kept_epochs(warps, prepared),
        weights=np.array(prepared.weights),
        psf_sigma=float(np.max(sigmas)),
        provenance=provenance,
        contributors=contributors,
        statistic=config.statistic,
        **results,
    )


def _provenance(warps: WarpStack, prepared: Prepared, config: Any) -> dict[str, Any]:
    from . import __version__

    names = warps.inputs or tuple(str(epoch) for epoch in warps.epochs)
    inputs = [
        (warps.epochs[index], names[index], weight)
        for index, weight in zip(prepared.indices, prepared.weights, strict=True)
    ]
    return {"version": __version__, "config": as_names(config), "inputs": inputs}


def _mask_edits(artifacts: Artifacts, schema: MaskSchema, config: AssemblyConfig) -> list[MaskEdit]:
    """
    What makes the masks those that the final stack uses: the artifacts of an epoch set in the warp's own mask.

    Where the PSF-matched warp has no data, the planes that reject are cleared first, so that such a
    pixel leaves neither SAT nor REJECTED on the coadd, as in LSST.
    """
    no_data, edge, clipped = (schema.known_bitmask((plane,)) for plane in ("NO_DATA", "EDGE", "CLIPPED"))
    cleared = schema.known_bitmask(config.reject) if "NO_DATA" in config.reject else 0
    bits = artifacts.bits
    return [(bits["no_data"], ~cleared, no_data), (bits["edge"], -1, edge), (bits["clipped"], -1, clipped)]
