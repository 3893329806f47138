"""
The artifact-rejecting coadd as a task.

    runQuantum               as of the base task
      _makeSupplementaryData   the template, by the base task, from the PSF-matched warps
      run                      findArtifacts, the stack without them, applyAltEdgeMask
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lsst.pipe.base import NoWorkFound, Struct

from ..artifacts import Artifacts, filter_artifacts, find_artifacts, prefilter_artifacts, propagate_edges
from ..backend import to_device, to_host
from ..boxes import Box
from ..coaddition import mask_edits
from ..combination import ADDED_PLANES, edited_mask
from ..exposure_masks import mask_of, read_mask, write_mask
from ..exposure_parts import box_of, native_box, origin_of
from ..exposure_psfs import psf_sigma
from ..exposures import from_lsst
from ..fits import write_array
from ..images import MaskedImage, WarpStack
from ..pixel_sets import PixelSet, box_around, in_layers, kept_sets, layer, spans_of
from .artifact_masks import ArtifactMasks, Table, edge_plane
from .assemble_coadd import AssembleCoaddTask
from .config_names import coadd_options, values_without_effect
from .configs import CompareWarpAssembleCoaddConfig
from .devices import on_device
from .overridden import check_overridden
from .results import mask_exposure
from .warps import WarpRef, as_refs, by_data_id, data_key, epoch_ids, stack_of

_OUTSIDE = "OUTSIDE_IMAGE"


class _Template(MaskedImage):
    """A template on a device, with the width of its PSF in pixels."""

    psf_sigma: float

    def __init__(self, template: MaskedImage, psf_sigma: float, device: str) -> None:
        moved = on_device(template, device)
        super().__init__(moved.image, moved.variance, moved.mask, schema=moved.schema, origin=moved.origin)
        self._set(psf_sigma=psf_sigma)

    def alone(self) -> WarpStack:
        """A stack of itself, an epoch that nobody asks for, where no warp has a twin."""
        planes = (plane[None] for plane in (self.image, self.variance, self.mask))
        about: dict[str, Any] = {"schema": self.schema, "origin": self.origin}
        return WarpStack(*planes, psf_sigma=[self.psf_sigma], epochs=[object()], **about)


class CompareWarpAssembleCoaddTask(AssembleCoaddTask):
    """
    The coadd of one patch without what a comparison of its PSF-matched warps with their common model finds.

    Notes
    -----
    `findArtifacts` leaves the mask of the template alone; that of LSST clears it, to the same effect.
    """

    ConfigClass: ClassVar[Any] = CompareWarpAssembleCoaddConfig
    _DefaultName: ClassVar[str] = "compareWarpAssembleCoadd"
    _clears = True

    assembleStaticSkyModel: AssembleCoaddTask

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_overridden(self, ("prefilterArtifacts", "filterArtifacts"), by="findArtifacts")
        for name in values_without_effect(self.config):
            self.log.warning("%s is not what LSST has by default, and has no effect here", name)
        self.makeSubtask("assembleStaticSkyModel")
        self.assembleStaticSkyModel._computing = self.config
        self._dataId: Any = None

    # ---------------------------------------------------------------------------------------------------- the engine

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """As that of the base task; the template and the artifact masks are put where they are asked for."""
        self._dataId = butlerQC.quantum.dataId
        super().runQuantum(butlerQC, inputRefs, outputRefs)

    def _use(self, resources: Any) -> None:
        super()._use(resources)
        self.assembleStaticSkyModel._use(resources)

    def _makeSupplementaryData(self, skyInfo: Struct, warps: dict[str, list[WarpRef]]) -> Struct:
        """The template, and the PSF-matched warps that it is made of."""
        make = self.assembleStaticSkyModel
        make._held = self._held
        given = warps.get("psfMatchedWarps", [])
        prepared = make.prepareInputs(given, skyInfo.bbox)
        if not prepared.warpRefList:
            raise NoWorkFound(f"none of the {len(given)} warps can be used for the static-sky model")
        lists = {name: getattr(prepared, name) for name in ("warpRefList", "imageScalerList", "weightList")}
        made = make.run(skyInfo, **lists)
        make.processResults(made.coaddExposure)
        return Struct(templateCoadd=made.coaddExposure, **lists)

    def _datasets(self, result: Struct, supplementary: Struct, outputRefs: Any) -> Iterator[tuple[Any, Any]]:
        yield from super()._datasets(result, supplementary, outputRefs)
        if hasattr(outputRefs, "templateCoadd"):
            yield supplementary.templateCoadd, outputRefs.templateCoadd
        if hasattr(outputRefs, "artifactMasks"):
            places = by_data_id(outputRefs.artifactMasks)
            masks = self.artifactMasks(result.warpRefList, result.altMaskList)
            for ref, mask in zip(result.warpRefList, masks, strict=True):
                yield mask, places[data_key(ref)]

    # --------------------------------------------------------------------------------------------------------- stages

    def run(  # type: ignore[override]
        self,
        skyInfo: Any,
        *,
        warpRefList: Sequence[Any],
        imageScalerList: Sequence[Any],
        weightList: Sequence[float],
        supplementaryData: Any,
        psfMatchedWarpRefList: Sequence[Any] | None = None,
        altMaskList: None = None,
        mask: None = None,
    ) -> Struct:
        """
        The coadd before post-processing.

        Parameters
        ----------
        skyInfo, warpRefList, imageScalerList, weightList
            As of the base task; the direct warps.
        supplementaryData : object
            With `templateCoadd`, an exposure, the static-sky model; and `warpRefList` and `imageScalerList`, the
            PSF-matched warps that it was made of. These are brought in the order of the direct ones by their data ids.
        psfMatchedWarpRefList : sequence of deferred warps, optional
            Not used: `supplementaryData` says which twins there are.
        altMaskList, mask : None
            Made here; to give them, override `findArtifacts`.

        Returns
        -------
        Struct
            As of the base task; `altMaskList` has for every warp a dict of sets of pixels: CLIPPED, NO_DATA, and EDGE
            where it has a twin.

        Raises
        ------
        NoWorkFound
            If there are no warps.
        ValueError, TypeError
            As of the base task; if warps have no data ids that differ; if a PSF width is missing; if `altMaskList` or
            `mask` is given.
        """
        if altMaskList is not None or mask is not None:
            raise TypeError("altMaskList and mask are made here; override findArtifacts to have others")
        if not warpRefList:
            raise NoWorkFound("there are no warps to coadd")
        matched = as_refs(supplementaryData.warpRefList, skyInfo.bbox)
        scalers = getattr(supplementaryData, "imageScalerList", None) or [None] * len(matched)
        twins = dict(zip(by_data_id(matched), zip(matched, scalers, strict=True), strict=True))
        aligned, aligned_scalers = zip(*(twins.get(key, (None, None)) for key in by_data_id(warpRefList)), strict=True)
        found = self.findArtifacts(supplementaryData.templateCoadd, aligned, aligned_scalers)
        result = super().run(
            skyInfo,
            warpRefList=warpRefList,
            imageScalerList=imageScalerList,
            weightList=weightList,
            altMaskList=found,
            mask=[*self.config.badMaskPlanes, "CLIPPED"],
        )
        self.applyAltEdgeMask(mask_of(result.coaddExposure), found)
        return result

    def findArtifacts(
        self, templateCoadd: Any, warpRefList: Sequence[Any], imageScalerList: Sequence[Any]
    ) -> ArtifactMasks:
        """
        What differs from the template in few epochs.

        Parameters
        ----------
        templateCoadd : exposure
            Where it does not tell the width of its PSF, that is the widest of the warps'.
        warpRefList : sequence of deferred PSF-matched warps, or None
            None for a direct warp without a twin.
        imageScalerList : sequence of None or float

        Returns
        -------
        ArtifactMasks
            As a list of dicts; `run` takes any such list.

        Raises
        ------
        ValueError
            If a PSF width is missing.
        """
        refs = as_refs(warpRefList, native_box(templateCoadd))
        present = {position: ref for position, ref in enumerate(refs) if ref is not None}
        template = _Template(from_lsst(templateCoadd), _sigma(templateCoadd, present.values()), self.config.device)
        names = epoch_ids(refs)
        if present:
            stack = stack_of(
                list(present.values()),
                scalers=[imageScalerList[position] for position in present],
                epochs=[names[position] for position in present],
                device=self.config.device,
            )
        else:
            stack = template.alone()
        found = find_artifacts(stack, template, config=coadd_options(self.config), epochs=names, **self._machine)
        if self.config.saveCountIm:
            self._saveCountIm(found)
        return ArtifactMasks(found, box_of(templateCoadd), [None if ref is None else ref.row for ref in refs])

    def _saveCountIm(self, found: Artifacts) -> None:
        """In how many epochs each pixel stood out, as a file in figPath."""
        names = () if self._dataId is None else ("tract", "patch", "band")
        place = "".join(f"_{self._dataId[name]}" for name in names)
        folder = Path(self.config.figPath)
        folder.mkdir(parents=True, exist_ok=True)
        write_array(folder / f"epochCountIm{place}.fits", to_host(found.epoch_count), extname="EPOCH_COUNT")

    def prefilterArtifacts(self, spanSetList: Sequence[Any], exp: Any) -> list[Any]:
        """
        Those of the sets that do not lie mostly on pixels with one of prefilterArtifactsMaskPlanes.

        Parameters
        ----------
        spanSetList : sequence of pixel sets
        exp : exposure
            Its mask is used; what is outside counts as bad.

        Returns
        -------
        list
            The very objects, in their order.
        """
        image = from_lsst(exp)
        has = box_of(image)
        box = box_around(spanSetList, has)
        schema = image.schema.with_planes(_OUTSIDE)
        mask = np.full(box.shape, schema.bitmask(_OUTSIDE), dtype=np.int32)
        mask[has.within(box)] = image.mask
        prefilter = coadd_options(self.config).prefilter
        config = replace(prefilter, planes=(*prefilter.planes, _OUTSIDE))

        def keep(labels: np.ndarray) -> np.ndarray:
            return prefilter_artifacts(labels, mask, schema=schema, config=config)

        return kept_sets(spanSetList, box, keep)

    def filterArtifacts(
        self, spanSetList: Sequence[Any], epochCountImage: Any, nImage: Any, footprintsToExclude: Any = None
    ) -> list[Any]:
        """
        Those of the sets that are artifacts: they stand out in few epochs, and not inside of one bright source.

        Parameters
        ----------
        spanSetList : sequence of pixel sets
            Candidates of one epoch.
        epochCountImage, nImage : image with ``array``, or array (y, x), int
            In how many epochs a pixel lies in a candidate, and how many contribute there.
        footprintsToExclude : sequence of footprints, optional
            Bright sources of the template.

        Returns
        -------
        list
            The very objects, in their order. A set without a pixel in the image is none.
        """
        count, n_image = (np.asarray(getattr(image, "array", image)) for image in (epochCountImage, nImage))
        box = Box.of(count.shape, origin_of(epochCountImage))
        excluded = list(getattr(footprintsToExclude, "getFootprints", lambda: footprintsToExclude or ())())
        layers: list[Any] = [layer([excluded[n] for n in group], box) for group in in_layers(excluded)] or [None]
        config = coadd_options(self.config).persistence

        def keep(labels: np.ndarray) -> np.ndarray:
            planes = [
                filter_artifacts(labels, count, n_image, template_footprints=spared, config=config) for spared in layers
            ]
            return np.logical_and.reduce(planes)

        def keep_all(labels: np.ndarray) -> np.ndarray:
            return filter_artifacts(labels, count, n_image, config=config)

        # What reaches outside of the image is not known to be inside of a source by its pixels within.
        outside = [pixels for pixels in spanSetList if box_around([pixels], box) != box]
        sources = [PixelSet(spans_of(footprint)) for footprint in excluded] if outside else []
        kept = kept_sets(outside, box, keep_all)
        kept = [pixels for pixels in kept if not any(source.contains(pixels) for source in sources)]
        kept += kept_sets([pixels for pixels in spanSetList if not _is_among(pixels, outside)], box, keep)
        return [pixels for pixels in spanSetList if _is_among(pixels, kept)]

    def applyAltEdgeMask(self, mask: Any, altMaskList: Sequence[Table | None]) -> None:
        """Set SENSOR_EDGE and INEXACT_PSF in the coadd's `mask`, in place, where any epoch has an EDGE."""
        pixels, schema = read_mask(mask)
        schema = schema.with_planes(*ADDED_PLANES)
        if isinstance(altMaskList, ArtifactMasks) and altMaskList.as_found:
            edge = to_host(altMaskList.artifacts.bits["edge"].any_plane())
        else:
            edge = edge_plane(altMaskList, Box.of(pixels.shape, origin_of(mask)))
        write_mask(mask, propagate_edges(pixels, edge[None], schema=schema), schema)

    def artifactMasks(self, warpRefList: Sequence[WarpRef], altMaskList: Sequence[Table | None]) -> Iterator[Any]:
        """The mask of each direct warp with its alternative mask in it, in its kind, one after the other."""
        stack = stack_of(warpRefList)
        flags = self._flags(altMaskList, stack) or {}
        schema = stack.schema.with_planes(*ADDED_PLANES).with_planes(*flags)
        edits = mask_edits(flags, schema, self._assembly)
        rows = slice(0, stack.shape[1])
        for epoch, ref in enumerate(warpRefList):
            mask = to_device(stack.source.read(epoch, rows)[2], self.config.device)
            yield mask_exposure(to_host(edited_mask(mask, edits, epoch)), schema, ref, wcs=stack.wcs)


def _is_among(pixels: Any, sets: Sequence[Any]) -> bool:
    return any(pixels is one for one in sets)


def _sigma(template: Any, refs: Iterable[WarpRef]) -> float:
    """Width of the template's PSF; the widest of the warps' where it does not tell."""
    sigma = psf_sigma(template)
    return max((psf_sigma(ref.row) for ref in refs), default=sigma) if np.isnan(sigma) else sigma
