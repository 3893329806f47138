"""
The statistical coadd as a task: LSST's stages, methods and datasets around the array functions.

    runQuantum         deferred warps of a patch
      prepareInputs      which can be used, and their weights
      run                the stack
      processResults     interpolation, bright objects

Every stage can be called, or overridden, by itself, and so can `findArtifacts` and `applyAltEdgeMask` of the
artifact-rejecting task; exposures are given back in the kind that the warps have. The other methods are steps of these
which are there to be called.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any, ClassVar

from lsst.pipe.base import NoWorkFound, PipelineTask, Struct

from ..assembly_config import AssemblyConfig
from ..backend import resolve_device
from ..boxes import Box, as_box
from ..bright_objects import mask_bright_objects
from ..coaddition import assemble_weighted, mask_edits, set_inexact_psf, weigh
from ..combination import ADDED_PLANES, edited_mask
from ..exposure_masks import mask_of, read_mask, write_mask
from ..exposure_parts import origin_of
from ..exposures import from_lsst, overwrite
from ..images import MaskedImage, WarpStack
from ..interpolation import interpolate
from ..masks import MaskSchema
from ..residence import least_memory
from ..workers import check_memory
from .artifact_masks import ArtifactMasks, Table, as_flags
from .catalogues import bright_table, detector_table, pixel_wcs
from .config_names import assembly_options
from .configs import AssembleCoaddConfig
from .connections import WCS_COMPONENTS
from .overridden import check_overridden
from .results import coadd_exposure, count_image
from .warps import Room, WarpRef, as_refs, by_data_id, bytes_of_warp, check_units, data_key, stack_of


class AssembleCoaddTask(PipelineTask):
    """
    The statistical coadd of the warps of one patch.

    Notes
    -----
    A coadd of `lsst.afw` exposures has WCS, filter, calibration and BUNIT, and no PSF: that of LSST is made by classes
    of its stack. One that is made of PSF-matched warps has the widest PSF of these, as LSST's. `PlainMaskedImage` has a
    PSF image of the middle of the patch.
    """

    ConfigClass: ClassVar[Any] = AssembleCoaddConfig
    _DefaultName: ClassVar[str] = "assembleCoadd"
    _clears = False  # whether a NO_DATA that is set clears other planes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_overridden(self, ("applyAltMaskPlanes", "setInexactPsf"), by="run")
        self._computing = self.config  # whose device, memory and threads hold
        self._cores: int | None = None
        self._memory: int | None = None
        self._held = 0  # bytes for warps between the stages

    # ------------------------------------------------------------------------------------------------ the engine

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read what the engine has for a patch, make the coadd, and then put it."""
        start = time.perf_counter()
        self._use(butlerQC.resources)
        data_id = butlerQC.quantum.dataId
        inputs = butlerQC.get(inputRefs)
        self.filterWarps(inputs, inputs.get("selectedVisits"))
        skyInfo = self._skyInfo(inputs, data_id)
        warps = self._open(inputs, skyInfo)
        prepared = self.prepareInputs(warps["inputWarps"], skyInfo.bbox, warps.get("psfMatchedWarps"))
        if not prepared.warpRefList:
            raise NoWorkFound(f"none of the {len(warps['inputWarps'])} warps can be used")
        supplementary = self._makeSupplementaryData(skyInfo, warps)
        result = self.run(
            skyInfo,
            warpRefList=prepared.warpRefList,
            imageScalerList=prepared.imageScalerList,
            weightList=prepared.weightList,
            psfMatchedWarpRefList=prepared.psfMatchedWarpRefList,
            supplementaryData=supplementary,
        )
        self.processResults(result.coaddExposure, inputs.get("brightObjectMask"), data_id)
        refs = {ref for some in warps.values() for ref in some}
        self.metadata["nWarps"] = len(warps["inputWarps"])
        self.metadata["nEpochs"] = len(prepared.warpRefList)
        for dataset, ref in self._datasets(result, supplementary, outputRefs):
            butlerQC.put(dataset, ref)
        self.metadata["secondsReading"] = sum(ref.seconds for ref in refs)
        self.metadata["seconds"] = time.perf_counter() - start

    def _use(self, resources: Any) -> None:
        """Cores and memory that the engine has for the quantum, where the configuration names none."""
        self._cores = int(resources.num_cores)
        self._memory = None if resources.max_mem is None else int(resources.max_mem.to_value("byte"))

    @property
    def _bound(self) -> int:
        """Bytes of the host's memory that a quantum may take."""
        return check_memory(self._memory if self._computing.memory is None else self._computing.memory)

    @property
    def _on_host(self) -> bool:
        return resolve_device(self._computing.device)[0] == "cpu"

    @property
    def _machine(self) -> dict[str, Any]:
        """Arguments that the array functions share. What they may take on a device, the engine does not know."""
        memory = max(self._bound - self._held, 1) if self._on_host else self._computing.memory
        return {"memory": memory, "threads": self._computing.threads or self._cores}

    @property
    def _assembly(self) -> AssemblyConfig:
        """Options of the stack."""
        return assembly_options(self.config)

    def _skyInfo(self, inputs: dict[str, Any], data_id: Any) -> Struct:
        """Box and WCS of the patch, from the sky map, or from the first warp where that has them."""
        sky_map = inputs.get("skyMap")
        if sky_map is not None:
            tract = sky_map[data_id["tract"]]
            patch = tract.getPatchInfo(data_id["patch"])
            sky = {"skyMap": sky_map, "tractInfo": tract, "patchInfo": patch}
            return Struct(**sky, bbox=patch.getOuterBBox(), wcs=tract.getWcs())
        handles = [*inputs["inputWarps"], *inputs.get("psfMatchedWarps", ())]
        if not handles:
            raise NoWorkFound("there are no warps")
        wcs = WCS_COMPONENTS[self.config.inputStorageClass]
        return Struct(bbox=handles[0].get(component="bbox"), wcs=handles[0].get(component=wcs))

    def _open(self, inputs: dict[str, Any], skyInfo: Struct) -> dict[str, list[WarpRef]]:
        """
        The warps, whose pixels stay in memory between the stages as far as that allows.

        They have half of what the least that a coadd takes leaves, the twins first, for these are read most often; the
        stages have the rest.
        """
        box, twins = as_box(skyInfo.bbox), inputs.get("psfMatchedWarps", ())
        least = least_memory((len(inputs["inputWarps"]), *box.shape)) if self._on_host else 0
        self._held = max(self._bound - least, 0) // 2
        for_twins = min(self._held, len(twins) * bytes_of_warp(box))
        warps = {"inputWarps": as_refs(inputs["inputWarps"], skyInfo.bbox, Room(self._held - for_twins))}
        return warps | ({"psfMatchedWarps": as_refs(twins, skyInfo.bbox, Room(for_twins))} if twins else {})

    def _makeSupplementaryData(self, skyInfo: Struct, warps: dict[str, list[WarpRef]]) -> Struct:
        """What `run` needs besides: nothing here."""
        return Struct()

    def _datasets(self, result: Struct, supplementary: Struct, outputRefs: Any) -> Iterator[tuple[Any, Any]]:
        """Everything to be put, with its place."""
        for name in ("coaddExposure", "nImage", "inputMap"):
            if hasattr(outputRefs, name):
                yield getattr(result, name), getattr(outputRefs, name)

    # --------------------------------------------------------------------------------------------------------- stages

    def filterWarps(self, inputs: dict[str, Any], goodVisits: Iterable[int] | None) -> None:
        """
        Keep the warps of some visits, in the order of the list.

        Parameters
        ----------
        inputs : dict
            Lists of warps under ``inputWarps`` and, where there are some, ``psfMatchedWarps``; these are replaced.
        goodVisits : iterable of int or None
            Visits without a warp are passed over; None keeps all.
        """
        if goodVisits is None:
            return
        for name in ("inputWarps", "psfMatchedWarps"):
            if name in inputs:
                by_visit = {ref.dataId["visit"]: ref for ref in inputs[name]}
                inputs[name] = [by_visit[visit] for visit in goodVisits if visit in by_visit]

    def prepareInputs(
        self, refList: Sequence[Any], coadd_bbox: Any, psfMatchedWarpRefList: Sequence[Any] | None = None
    ) -> Struct:
        """
        Which warps can be used, and their weights.

        Parameters
        ----------
        refList : sequence of deferred warps
            With ``get(parameters={"bbox": ...})`` and ``dataId``; exposures will do, too.
        coadd_bbox : object
            Pixels of the patch.
        psfMatchedWarpRefList : sequence of deferred warps, optional

        Returns
        -------
        Struct
            `warpRefList`, `weightList`, `imageScalerList` (None for each) and `psfMatchedWarpRefList` (None for a warp
            without a twin), aligned.

        Raises
        ------
        ValueError
            If a warp is not in nJy, or the twins have no data ids that differ.
        """
        twins = by_data_id(psfMatchedWarpRefList or ())
        refs = as_refs(refList, coadd_bbox)
        kept: Sequence[int] = ()
        weights: Sequence[float] = ()
        if refs:
            stack = stack_of(refs, device=self._computing.device)
            prepared = weigh(stack, config=self._assembly, **self._machine)
            kept, weights = prepared.indices, prepared.weights
            check_units([refs[index] for index in kept])
            for reason in prepared.dropped:
                self.log.warning("%s; left out", reason)
            for index, weight in zip(kept, weights, strict=True):
                self.log.info("Weight of %s: %.3g", refs[index].dataId, weight)
        return Struct(
            warpRefList=[refList[index] for index in kept],
            weightList=list(weights),
            imageScalerList=[None] * len(kept),
            psfMatchedWarpRefList=[twins.get(data_key(refList[index])) for index in kept],
        )

    def run(
        self,
        skyInfo: Any,
        *,
        warpRefList: Sequence[Any],
        imageScalerList: Sequence[Any],
        weightList: Sequence[float],
        altMaskList: Sequence[Table | None] | None = None,
        mask: int | Sequence[str] | None = None,
        psfMatchedWarpRefList: Sequence[Any] | None = None,
        supplementaryData: Any = None,
    ) -> Struct:
        """
        The coadd before post-processing.

        Parameters
        ----------
        skyInfo : object
            With `bbox` and `wcs` of the patch.
        warpRefList : sequence of deferred warps
        imageScalerList : sequence of None or float
            Factor of each warp's fluxes.
        weightList : sequence of float
        altMaskList : sequence of dict, optional
            For every warp, plane name to sets of pixels that get it.
        mask : int, or sequence of str, optional
            Planes that reject a pixel, as bits of the warps' masks or by name; badMaskPlanes when left out.
        psfMatchedWarpRefList, supplementaryData
            Of no use here; `CompareWarpAssembleCoaddTask` has some for them.

        Returns
        -------
        Struct
            coaddExposure, nImage (None unless doNImage), warpRefList, imageScalerList, weightList, inputMap (None
            without), altMaskList.

        Raises
        ------
        NoWorkFound
            If there are no warps.
        ValueError, TypeError
            If lists do not fit each other, a warp is not in nJy, or a scaler is no number.
        """
        if not warpRefList:
            raise NoWorkFound("there are no warps to coadd")
        refs = as_refs(warpRefList, skyInfo.bbox)
        check_units(refs, may_be_missing=True)  # prepareInputs, which LSST asks about them, may not have been called
        wcs = getattr(skyInfo, "wcs", None)
        wcs = pixel_wcs(wcs, refs[0].box.origin) if self.config.doInputMap else wcs
        stack = stack_of(refs, scalers=imageScalerList, wcs=wcs, device=self._computing.device)
        flags = self._flags(altMaskList, stack)
        options = self._assembly
        coadd = assemble_weighted(
            stack,
            weightList,
            config=options,
            reject=plane_names(mask, stack.schema),
            flags=flags,
            clear=self._clears,
            detectors=detector_table(refs) if self.config.doInputMap else None,
            **self._machine,
        )
        if flags and "CLIPPED" in flags:
            self.metadata["nClippedPixels"] = int(flags["CLIPPED"].counts().sum())
        later = [("INTRP", options.interpolation.enabled), (options.bright_object_plane, options.mask_bright_objects)]
        planes = [plane for plane, wanted in later if wanted]  # that processResults sets
        matched = self.config.warpType == "psfMatched"
        return Struct(
            coaddExposure=coadd_exposure(coadd, refs, planes=planes, matched=matched),
            nImage=count_image(coadd, refs[0]) if self.config.doNImage else None,
            warpRefList=warpRefList,
            imageScalerList=imageScalerList,
            weightList=weightList,
            inputMap=coadd.input_map,
            altMaskList=altMaskList,
        )

    def processResults(self, coaddExposure: Any, brightObjectMasks: Any = None, dataId: Any = None) -> None:
        """
        Fill pixels without data and mask bright objects, as configured; `coaddExposure` is edited in place.

        Parameters
        ----------
        coaddExposure : object
        brightObjectMasks : astropy.table.Table or object, optional
            Catalogue; rows with ``type``, ``ra``, ``dec`` and sizes.
        dataId : object, optional
            For messages.
        """
        options = self._assembly
        coadd = from_lsst(coaddExposure)
        if options.interpolation.enabled:
            schema = coadd.schema.with_planes("INTRP")
            planes = interpolate(
                coadd.image,
                coadd.variance,
                coadd.mask,
                no_data=schema.known_bitmask(("NO_DATA",)),
                interpolated=schema.bitmask("INTRP"),
                config=options.interpolation,
            )
            overwrite(coaddExposure, MaskedImage(*planes, schema=schema))
        if options.mask_bright_objects:
            self.setBrightObjectMasks(coaddExposure, brightObjectMasks, dataId)

    # ------------------------------------------------------------------------------------------------- edits of masks

    def setBrightObjectMasks(self, exposure: Any, brightObjectMasks: Any, dataId: Any = None) -> None:
        """Set the plane brightObjectMaskName of `exposure`, in place; without a catalogue a warning is logged."""
        if brightObjectMasks is None:
            self.log.warning("no catalogue of bright objects for %s: none are masked", dataId)
            return
        coadd = from_lsst(exposure)
        mask, schema = mask_bright_objects(
            coadd.mask,
            bright_table(brightObjectMasks),
            wcs=pixel_wcs(coadd.wcs, coadd.origin),
            schema=coadd.schema,
            origin=coadd.origin,
            plane=self.config.brightObjectMaskName,
        )
        write_mask(mask_of(exposure), mask, schema)

    def setInexactPsf(self, mask: Any) -> None:
        """Set INEXACT_PSF where `mask`, edited in place, has SENSOR_EDGE, CLIPPED or REJECTED."""
        pixels, schema = read_mask(mask)
        schema = schema.with_planes(*ADDED_PLANES)
        write_mask(mask, set_inexact_psf(pixels, schema), schema)

    def applyAltMaskPlanes(self, mask: Any, altMaskSpans: Table) -> Any:
        """
        Set planes in the mask of a warp, in place.

        Parameters
        ----------
        mask : object
        altMaskSpans : dict
            Plane name to sets of pixels. By `CompareWarpAssembleCoaddTask`, where NO_DATA is set and is one of
            badMaskPlanes, these are cleared first.

        Returns
        -------
        object
            `mask`.
        """
        pixels, schema = read_mask(mask)
        flags = as_flags([altMaskSpans], Box.of(pixels.shape, origin_of(mask)))
        schema = schema.with_planes(*flags)
        edits = mask_edits(flags, schema, self._assembly, clear=self._clears)
        write_mask(mask, edited_mask(pixels, edits), schema)
        return mask

    # ---------------------------------------------------------------------------------------------------------- pieces

    def _flags(self, tables: Any, stack: WarpStack) -> dict[str, Any] | None:
        """Alternative masks as the stack takes them."""
        if tables is None:
            return None
        if len(tables) != stack.shape[0]:
            raise ValueError(
                f"altMaskList has {len(tables)} entries but there are {stack.shape[0]} warps; give one for each"
            )
        if isinstance(tables, ArtifactMasks) and tables.as_found:
            return tables.artifacts.by_plane
        return as_flags(tables, Box.of(stack.shape[1:], stack.origin), device=self._computing.device)


def plane_names(mask: int | Sequence[str] | None, schema: MaskSchema) -> Sequence[str] | None:
    """Names of planes that are given as bits of a coadd's mask, or by name; None stays None."""
    if not isinstance(mask, (int, Integral)):
        return mask
    bits = int(mask)
    return [name for name, bit in schema.with_planes(*ADDED_PLANES).planes.items() if bits >> bit & 1]
