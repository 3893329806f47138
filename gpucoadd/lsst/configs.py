"""
Configuration of the coadd tasks: LSST's fields, names and defaults, and a few of gpucoadd's own.

What the values mean, and which are valid, the functions on arrays say: `validate` makes their options.
"""

from __future__ import annotations

from typing import Any

from lsst.pex.config import (
    ChoiceField,
    ConfigField,
    ConfigurableField,
    DictField,
    Field,
    FieldValidationError,
    ListField,
    RangeField,
)
from lsst.pipe.base import PipelineTaskConfig

from .config_fields import Later, RunHereField
from .config_names import assembly_options, check_options, coadd_options
from .connections import PLAIN, STORAGE_CLASSES, AssembleCoaddConnections, CompareWarpAssembleCoaddConnections
from .devices import device_field
from .open_config import OpenConfig
from .overrides import OverridableConfig, standing_in
from .stand_ins import NotRun
from .subtask_configs import (
    HealSparseInputMapTask,
    InterpImageTask,
    MaskStreaksTask,
    ScaleVarianceTask,
    SourceDetectionTask,
)


class CoaddPsfConfig(OpenConfig):
    """Of LSST's PSF model of a coadd; has no effect here."""

    cacheSize = Field(doc="Images it keeps", dtype=int, default=0)


class AssembleCoaddConfig(  # type: ignore[call-arg]
    OverridableConfig, PipelineTaskConfig, pipelineConnections=AssembleCoaddConnections
):
    """A statistical coadd."""

    coaddName = Field(doc="Not used; the names of datasets are those of the connections", dtype=str, default="deep")
    select = ConfigurableField(doc="Selection of visits; has no effect here", target=NotRun)
    badMaskPlanes = ListField(
        doc="Planes whose pixels do not count; unknown ones are skipped",
        dtype=str,
        default=["NO_DATA", "BAD", "SAT", "EDGE"],
    )
    inputRecorder = ConfigurableField(doc="Records of the inputs; has no effect here", target=NotRun)
    includeCalibVar = Field(doc="Has no effect", dtype=bool, default=False)
    warpType = ChoiceField(
        doc="Which warps are coadded",
        dtype=str,
        default="direct",
        allowed={"direct": "with their own PSF", "psfMatched": "with a common PSF"},
    )
    subregionSize = ListField(
        doc="Width and height of the pieces; these follow from memory here, and never show in the result",
        dtype=int,
        length=2,
        default=[2000, 2000],
    )
    statistic = Field(doc="Of the samples of a pixel", dtype=str, default="MEANCLIP")
    doOnlineForMean = Field(doc="With statistic MEAN, use running sums?", dtype=bool, default=False)
    sigmaClip = Field(doc="Half width of the clipping in sigmas", dtype=float, default=3.0)
    clipIter = Field(doc="Rounds of clipping", dtype=int, default=2)
    calcErrorFromInputVariance = Field(
        doc="Variance of the coadd from the variances of the inputs? Else from their scatter", dtype=bool, default=True
    )
    doScaleZeroPoint = Field(doc="Must be False: warps are calibrated, in nJy", dtype=bool, default=False)
    scaleZeroPoint = ConfigurableField(doc="For doScaleZeroPoint", target=NotRun)
    doInterp = Field(doc="Fill pixels without data, and make every variance positive?", dtype=bool, default=True)
    interpImage = RunHereField(doc="How they are filled", target=InterpImageTask)
    doWrite = Field(doc="Write the coadd?", dtype=bool, default=True)
    doWriteArtifactMasks = Field(doc="Write the mask of each warp with its artifacts?", dtype=bool, default=False)
    doNImage = Field(doc="Write how many epochs contributed to each pixel?", dtype=bool, default=False)
    maskPropagationThresholds = DictField(
        doc="Plane to the share of rejected weight above which the coadd has it",
        keytype=str,
        itemtype=float,
        default={"SAT": 0.1},
    )
    removeMaskPlanes = ListField(doc="Planes cleared before stacking", dtype=str, default=["NOT_DEBLENDED"])
    doMaskBrightObjects = Field(doc="Mask what brightObjectMask has?", dtype=bool, default=False)
    brightObjectMaskName = Field(doc="Plane for that", dtype=str, default="BRIGHT_OBJECT")
    coaddPsf = ConfigField(doc="Of the PSF model; has no effect here", dtype=CoaddPsfConfig)
    doAttachTransmissionCurve = Field(doc="Has no effect on pixels", dtype=bool, default=False)
    hasFakes = Field(doc="Has no effect on pixels", dtype=bool, default=False)
    doSelectVisits = Field(doc="Coadd the visits that selectedVisits lists?", dtype=bool, default=False)
    doInputMap = Field(doc="Make the map of the detectors in each part of the coadd?", dtype=bool, default=False)
    inputMapper = RunHereField(doc="How that is made", target=HealSparseInputMapTask)

    inputStorageClass = ChoiceField(
        doc="Storage class of warps and coadds",
        dtype=str,
        default="ExposureF",
        allowed={
            name: f"with {mask} and {counts} for masks and counts"
            for name, (_, mask, counts) in STORAGE_CLASSES.items()
        },
    )
    device = device_field()
    memory = RangeField(
        doc="Bytes a quantum may take; None: what the engine gives it (--memory-per-quantum), or half of the host's",
        dtype=int,
        default=None,
        optional=True,
        min=1,
    )
    threads = RangeField(
        doc="Threads; None: the cores that the engine gives",
        dtype=int,
        default=None,
        optional=True,
        min=1,
    )

    def validate(self) -> None:
        """FieldValidationError unless every value, and all together, can be used."""
        super().validate()
        if self.doInputMap and self.inputStorageClass == PLAIN:
            raise FieldValidationError(
                type(self).doInputMap,
                self,
                f"must be False with inputStorageClass {PLAIN}: plain warps do not carry the outlines of detectors "
                "that a map is made of; coadd ExposureF, or give gpucoadd.coadd the outlines (detectors=)",
            )
        check_options(self, self._options)

    def _options(self) -> Any:
        """What the functions on arrays are given, and check."""
        return assembly_options(self)

    def applyConfigOverrides(self, *arguments: Any, **keywords: Any) -> None:
        """As in `lsst.pipe.base.PipelineTaskConfig`; LSST's modules need not be there for a pipeline's Python."""
        with standing_in():
            super().applyConfigOverrides(*arguments, **keywords)


def _base_task() -> type:
    from .assemble_coadd import AssembleCoaddTask  # that module needs this one

    return AssembleCoaddTask


class CompareWarpAssembleCoaddConfig(  # type: ignore[call-arg]
    AssembleCoaddConfig, pipelineConnections=CompareWarpAssembleCoaddConnections
):
    """An artifact-rejecting coadd."""

    assembleStaticSkyModel = RunHereField(
        doc="The static sky that warps are compared with",
        target=Later("AssembleCoaddTask", AssembleCoaddConfig, _base_task),
    )
    detect = RunHereField(doc="Detection on each difference of a warp and the template", target=SourceDetectionTask)
    detectTemplate = RunHereField(
        doc="Detection of bright sources in the template, with doPreserveContainedBySource", target=SourceDetectionTask
    )
    maskStreaks = RunHereField(doc="With doFilterMorphological", target=MaskStreaksTask)
    streakMaskName = Field(doc="Has no effect on pixels", dtype=str, default="STREAK")
    maxNumEpochs = Field(doc="Epochs in which an artifact may appear, of many", dtype=int, default=2)
    maxFractionEpochsLow = RangeField(
        doc="Share of the epochs in which an artifact may appear, of few", dtype=float, default=0.4, min=0.0, max=1.0
    )
    maxFractionEpochsHigh = RangeField(
        doc="Share of the epochs, added to maxNumEpochs", dtype=float, default=0.03, min=0.0, max=1.0
    )
    spatialThreshold = RangeField(
        doc="An artifact has more than this share of rare pixels",
        dtype=float,
        default=0.5,
        min=0.0,
        max=1.0,
        inclusiveMax=True,
    )
    doScaleWarpVariance = Field(doc="Rescale the variance of matched warps first?", dtype=bool, default=True)
    scaleWarpVariance = RunHereField(doc="How that is done", target=ScaleVarianceTask)
    doPreserveContainedBySource = Field(
        doc="Spare candidates inside one bright source of the template?", dtype=bool, default=True
    )
    doPrefilterArtifacts = Field(doc="Drop candidates that lie mostly on bad pixels?", dtype=bool, default=True)
    prefilterArtifactsMaskPlanes = ListField(
        doc="Planes of bad pixels, for that", dtype=str, default=["NO_DATA", "BAD", "SUSPECT"]
    )
    prefilterArtifactsRatio = Field(doc="Share of good pixels of what stays", dtype=float, default=0.05)
    doFilterMorphological = Field(doc="Mask streaks?", dtype=bool, default=False)
    growStreakFp = Field(doc="Growth of streaks in units of the PSF's sigma", dtype=float, default=5.0)
    detectTemplateIterMultiplier = Field(
        doc="Threshold factor between attempts at the template's sources", dtype=float, default=1.25
    )
    maxDetectTemplateIter = Field(doc="Most attempts", dtype=int, default=10)

    saveCountIm = Field(doc="Write the epoch count image as FITS?", dtype=bool, default=False)
    figPath = Field(doc="Folder for that", dtype=str, default=".")
    options = DictField(
        doc="Further options of gpucoadd.coadd by their names there, written as for the command line's -c: "
        "{'streaks.enabled': 'true'}",
        keytype=str,
        itemtype=str,
        default={},
    )

    def setDefaults(self) -> None:
        """LSST's defaults where they are not those of the base task and of detection."""
        super().setDefaults()
        self.statistic = "MEAN"
        self.badMaskPlanes = ["NO_DATA", "BAD", "SAT"]
        self.removeMaskPlanes = [*self.removeMaskPlanes, "EDGE"]

        template = self.assembleStaticSkyModel
        template.badMaskPlanes = ["NO_DATA"]
        template.warpType = "psfMatched"
        template.statistic = "MEANCLIP"
        template.sigmaClip = 2.5
        template.clipIter = 3
        template.calcErrorFromInputVariance = True
        template.doWrite = False

        self.detect.doTempLocalBackground = False
        self.detect.reEstimateBackground = False
        self.detect.returnOriginalFootprints = False
        self.detect.thresholdPolarity = "both"
        self.detect.thresholdValue = 7.5
        self.detect.minPixels = 4
        self.detect.isotropicGrow = True
        self.detect.thresholdType = "pixel_stdev"
        self.detect.nSigmaToGrow = 0.4

        self.detectTemplate.nSigmaToGrow = 2.4
        self.detectTemplate.thresholdValue = 300.0
        self.detectTemplate.doTempLocalBackground = True
        self.detectTemplate.reEstimateBackground = True
        self.detectTemplate.background.useApprox = False
        self.detectTemplate.returnOriginalFootprints = False

    def _options(self) -> Any:
        """What the functions on arrays are given, and check."""
        return coadd_options(self)
