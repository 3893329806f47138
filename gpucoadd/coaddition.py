"""
The whole story: `coadd` from top to bottom, and `assemble`, the plain statistical coadd.

    weights of the direct warps
      template               clipped mean of the PSF-matched warps
        artifacts            what differs from it in few epochs
          combine            weighted mean of the direct warps without the artifacts
            post-processing  edges, interpolation
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .artifacts import propagate_edge_bits, search
from .assembly_config import AssemblyConfig, Interpolation
from .backend import Array, array_module, using
from .bright_objects import set_plane, wanted_pixels
from .coadds import Coadd
from .combination import ADDED_PLANES, Combined, MaskEdit, Prepared, check_weights, combine, kept_epochs, prepare
from .configuration import CoaddConfig
from .contributors import Contributors
from .images import WarpStack
from .input_map import Detector, InputMapper, wanted_detectors
from .interpolation import interpolate
from .masks import MaskSchema
from .memory import memory_bound, stack_device
from .options import as_names
from .planes import BitPlanes
from .residence import bounded
from .workers import Progress, Work, check_threads, no_progress
from .wrappers import is_selected


class NoWorkFound(ValueError):
    """Nothing to coadd: no epoch is left that can be used."""


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
        _check_psf_sigma(matched, set(epochs) & set(template.epochs), config)
        artifacts = search(matched, template, config, epochs, work, compared=template.epochs)
        reject = schema.known_bitmask(config.stacking.reject) | schema.bitmask("CLIPPED")
        edits = mask_edits(artifacts.by_plane, schema, config.stacking)
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


def weigh(
    warps: WarpStack, *, config: AssemblyConfig, memory: int | None = None, threads: int | None = None
) -> Prepared:
    """
    Which epochs a coadd would use, and their weights: its first stage, for those who go from stage to stage.

    Parameters
    ----------
    warps : WarpStack
        Without twins; these have weights of their own.
    config : AssemblyConfig
    memory, threads
        As in `coadd`.

    Returns
    -------
    Prepared
        Positions of the epochs, and their weights in one over the unit squared. None may be left; the reasons are in
        it.

    Raises
    ------
    ValueError
        If `memory` or `threads` is not positive.
    """
    work = Work(memory_bound(memory, warps), check_threads(threads))
    with using(stack_device(warps)), bounded(warps, work) as (stack, _, work):
        return prepare(stack, config, work, step="weighing")


def assemble_weighted(
    warps: WarpStack,
    weights: Sequence[float],
    *,
    config: AssemblyConfig,
    reject: Sequence[str] | None = None,
    flags: Mapping[str, BitPlanes] | None = None,
    clear: bool = True,
    detectors: Any = None,
    memory: int | None = None,
    threads: int | None = None,
) -> Coadd:
    """
    Coadd of all epochs of a stack with weights that are given, before post-processing.

    Parameters
    ----------
    warps : WarpStack
        Without twins.
    weights : sequence of float, shape (epoch,)
        Finite and positive, in one over the unit squared; used as float64.
    config : AssemblyConfig
        Its interpolation is left to the caller, as in LSST.
    reject : sequence of str, optional
        Planes that reject a sample; those of `config` when left out. Names that the masks do not have are skipped.
    flags : mapping of str to BitPlanes, optional
        Planes to be set in the warps' masks before they are used, such as `Artifacts.by_plane`.
    clear : bool
        As in `mask_edits`.
    detectors, memory, threads
        As in `coadd`.

    Returns
    -------
    Coadd

    Raises
    ------
    ValueError
        If the weights do not fit; if an input map is wanted and there are no detectors; if an option does not fit the
        masks, or `memory` or `threads` is not positive.
    FileNotFoundError, TypeError, ValueError
        If `detectors`, or the WCS that it needs, cannot be used.
    ImportError
        If detectors are given and healsparse is not installed.
    """
    numbers = check_weights(weights, warps.shape[0])
    prepared = Prepared(tuple(range(len(numbers))), numbers, ())
    config = replace(config, interpolation=Interpolation(enabled=False))
    work = Work(memory_bound(memory, warps), check_threads(threads))
    extras = _extras(warps, replace(config, mask_bright_objects=False, select_epochs=False), None, detectors)
    schema = warps.schema.with_planes(*ADDED_PLANES).with_planes(*(flags or {}))
    bits = schema.known_bitmask(config.reject if reject is None else reject)
    with using(stack_device(warps)), bounded(warps, work) as (stack, _, work):
        mapper = extras.mapper(stack, prepared, config, bits)
        edits = mask_edits(flags or {}, schema, config, clear=clear)
        made = combine(stack, prepared, config, schema, work, reject=bits, edits=edits, mapper=mapper, step="stacking")
        made = made._replace(mask=_finish_mask(made.mask, made.variance, schema))
        more = {"input_map": None if mapper is None else mapper.finish()}
        return _post_process(
            stack, prepared, made, config, schema, provenance=_provenance(stack, prepared, config), **more
        )


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


def _check_psf_sigma(matched: WarpStack, epochs: Collection[Hashable], config: CoaddConfig) -> None:
    """PSF widths are needed for growing, smoothing the template and trails; say which is missing before the search."""
    if config.detection.grow_sigma == 0 and not (config.preserve_contained or config.finds_streaks):
        return
    for epoch, sigma in zip(matched.epochs, matched.psf_sigma, strict=True):
        if epoch in epochs and not (np.isfinite(sigma) and sigma > 0):
            raise ValueError(
                f"psf_sigma of epoch {epoch} must be finite and positive, got {sigma}; give the PSF width in pixels"
            )


def set_inexact_psf(mask: Array, schema: MaskSchema) -> Array:
    """A mask with INEXACT_PSF where the set of epochs changes: where SENSOR_EDGE, CLIPPED or REJECTED is set."""
    inexact = (mask & schema.bitmask("SENSOR_EDGE", "CLIPPED", "REJECTED")) != 0
    return array_module(mask).where(inexact, mask | schema.bitmask("INEXACT_PSF"), mask)


def _finish_mask(mask: Array, variance: Array, schema: MaskSchema) -> Array:
    """INEXACT_PSF where the set of epochs changes, NO_DATA where the variance is exactly 0."""
    mask = set_inexact_psf(mask, schema)
    return array_module(mask).where(variance == 0, mask | schema.bitmask("NO_DATA"), mask)


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


def mask_edits(
    flags: Mapping[str, BitPlanes], schema: MaskSchema, config: AssemblyConfig, *, clear: bool = True
) -> list[MaskEdit]:
    """
    What makes the masks those that the final stack uses: planes set in the warps' own masks.

    Parameters
    ----------
    flags : mapping of str to BitPlanes
        Plane name to the pixels of every epoch that get it.
    schema : MaskSchema
        Planes that it lacks are left out.
    config : AssemblyConfig
    clear : bool
        Whether, where NO_DATA is set and rejects, the planes that reject are cleared first. So a pixel without data in
        the twin leaves neither SAT nor REJECTED on an artifact-rejecting coadd, as in LSST.
    """
    cleared = schema.known_bitmask(config.reject) if clear and "NO_DATA" in config.reject else 0
    order = sorted(flags, key=lambda plane: plane != "NO_DATA")
    return [(flags[plane], ~cleared if plane == "NO_DATA" else -1, schema.known_bitmask((plane,))) for plane in order]
