"""
What the coadd tasks read from a Butler repository and write to it.

Names and dimensions are those of the tasks that these replace. Which classes the pixels come in, and are given back in,
is ``config.inputStorageClass``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from lsst.pipe.base import PipelineTaskConnections
from lsst.pipe.base import connectionTypes as connection_types

WARP = ("instrument", "visit", "skymap", "tract", "patch")
COADD = ("tract", "patch", "band", "skymap")
# Of images with planes, of masks and of counts, for each choice of `inputStorageClass`.
STORAGE_CLASSES = {
    "ExposureF": ("ExposureF", "Mask", "ImageU"),
    "MaskedImageV2": ("MaskedImageV2", "MaskV2", "ImageV2"),
    "PlainMaskedImage": ("PlainMaskedImage", "PlainMask", "PlainImage"),
}
PLAIN = "PlainMaskedImage"
# Classes of warps that carry their box and WCS, and the component that the latter is. A box of the sky map is one of
# lsst.geom, which readers of lsst.images do not take.
WCS_COMPONENTS = {"MaskedImageV2": "sky_projection", PLAIN: "wcs"}


class AssembleCoaddConnections(  # type: ignore[call-arg]
    PipelineTaskConnections,
    dimensions=COADD,
    defaultTemplates={
        "inputCoaddName": "deep",
        "outputCoaddName": "deep",
        "warpType": "direct",
        "warpTypeSuffix": "",
    },
):
    """Datasets of the statistical coadd."""

    inputWarps = connection_types.Input(
        doc="Warps that are coadded; with warpType psfMatched, psf_matched_warp unless another name is given.",
        name="direct_warp",
        storageClass="ExposureF",
        dimensions=WARP,
        deferLoad=True,
        multiple=True,
    )
    skyMap = connection_types.Input(
        doc="Tracts and patches; only for ExposureF: other warps carry their box and WCS.",
        name="skyMap",
        storageClass="SkyMap",
        dimensions=("skymap",),
    )
    selectedVisits = connection_types.Input(
        doc="Visits to coadd, in this order; only with doSelectVisits.",
        name="{outputCoaddName}_coadd_visits",
        storageClass="StructuredDataDict",
        dimensions=COADD,
    )
    brightObjectMask = connection_types.PrerequisiteInput(
        doc="Circles and boxes around bright objects; only with doMaskBrightObjects.",
        name="brightObjectMask",
        storageClass="ObjectMaskCatalog",
        dimensions=COADD,
        minimum=0,
    )
    coaddExposure = connection_types.Output(
        doc="The coadd.",
        name="{outputCoaddName}_coadd_predetection{warpTypeSuffix}",
        storageClass="ExposureF",
        dimensions=COADD,
    )
    nImage = connection_types.Output(
        doc="How many epochs contributed to each pixel; only with doNImage.",
        name="{outputCoaddName}_coadd_n_image",
        storageClass="ImageU",
        dimensions=COADD,
    )
    inputMap = connection_types.Output(
        doc="Healsparse map of the detectors in each part of the coadd; only with doInputMap.",
        name="{outputCoaddName}_coadd_input_map",
        storageClass="HealSparseMap",
        dimensions=COADD,
    )

    def __init__(self, *, config: Any = None) -> None:
        """Keep what `config` asks for, in the storage classes that it names."""
        super().__init__(config=config)
        image, _, counts = STORAGE_CLASSES[config.inputStorageClass]
        matched = config.warpType == "psfMatched" and self.inputWarps.name == type(self).inputWarps.name
        name = "psf_matched_warp" if matched else self.inputWarps.name
        self.inputWarps = dataclasses.replace(self.inputWarps, name=name, storageClass=image)
        self.coaddExposure = dataclasses.replace(self.coaddExposure, storageClass=image)
        self.nImage = dataclasses.replace(self.nImage, storageClass=counts)
        if image == PLAIN:
            self.brightObjectMask = dataclasses.replace(self.brightObjectMask, storageClass="AstropyTable")
        for connection, wanted in (
            ("coaddExposure", config.doWrite),
            ("skyMap", image not in WCS_COMPONENTS),
            ("selectedVisits", config.doSelectVisits),
            ("brightObjectMask", config.doMaskBrightObjects),
            ("nImage", config.doNImage),
            ("inputMap", config.doInputMap),
        ):
            if not wanted:
                delattr(self, connection)


class CompareWarpAssembleCoaddConnections(AssembleCoaddConnections):
    """Datasets of the artifact-rejecting coadd."""

    # Their existence is no condition, so that a visit without a twin keeps its direct warp; that a patch has none at
    # all, the task says.
    psfMatchedWarps = connection_types.Input(
        doc="PSF-matched twins of the warps; one may be missing.",
        name="psf_matched_warp",
        storageClass="ExposureF",
        dimensions=WARP,
        deferLoad=True,
        multiple=True,
        minimum=0,
        deferGraphConstraint=True,
    )
    templateCoadd = connection_types.Output(
        doc="The static-sky model; only with assembleStaticSkyModel.doWrite.",
        name="{outputCoaddName}_coadd_compare_template{warpTypeSuffix}",
        storageClass="ExposureF",
        dimensions=COADD,
    )
    artifactMasks = connection_types.Output(
        doc="Mask of each warp with its artifacts; only with doWriteArtifactMasks.",
        name="compare_warp_artifact_mask",
        storageClass="Mask",
        dimensions=WARP,
        multiple=True,
    )

    def __init__(self, *, config: Any = None) -> None:
        """Keep what `config` asks for, in the storage classes that it names."""
        super().__init__(config=config)
        image, mask, _ = STORAGE_CLASSES[config.inputStorageClass]
        self.psfMatchedWarps = dataclasses.replace(self.psfMatchedWarps, storageClass=image)
        self.templateCoadd = dataclasses.replace(self.templateCoadd, storageClass=image)
        self.artifactMasks = dataclasses.replace(self.artifactMasks, storageClass=mask)
        if not config.assembleStaticSkyModel.doWrite:
            del self.templateCoadd
        if not config.doWriteArtifactMasks:
            del self.artifactMasks
