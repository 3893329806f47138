"""
Configuration of the subtasks of the coadd tasks: LSST's names and defaults.

Beside each stands a class with the name of LSST's task, for it is what the field is said to point at; the work is done
by the functions on arrays, and none is ever made.
"""

from __future__ import annotations

from lsst.pex.config import ChoiceField, ConfigField, ConfigurableField, Field, ListField, RangeField

from ..configuration import VarianceScaling
from ..streak_config import BAD_PLANES
from .config_fields import RunHereField
from .open_config import OpenConfig
from .overrides import OverridableConfig
from .stand_ins import NotRun

_OFF = "; has no effect here"


class InterpImageConfig(OverridableConfig):
    """Filling of NO_DATA pixels of a finished coadd."""

    modelPsf = ConfigField(doc="Not used by the interpolation" + _OFF, dtype=OpenConfig)
    useFallbackValueAtEdge = Field(doc="Tend to the fallback value at the edges?", dtype=bool, default=True)
    fallbackValueType = ChoiceField(
        doc="Of all finite pixels, the value for what cannot be interpolated",
        dtype=str,
        default="MEDIAN",
        allowed={"MEAN": "mean", "MEDIAN": "median", "MEANCLIP": "clipped mean", "USER": "fallbackUserValue"},
    )
    fallbackUserValue = Field(doc="With fallbackValueType USER", dtype=float, default=0.0)
    negativeFallbackAllowed = Field(doc="May the fallback value be negative? Else it is 0", dtype=bool, default=False)
    transpose = Field(doc="Interpolate along columns instead of rows?", dtype=bool, default=False)


class InterpImageTask(NotRun):
    """Interpolation, as a target."""

    ConfigClass = InterpImageConfig


class DetectionConfig(OverridableConfig):
    """Threshold detection and growing."""

    minPixels = RangeField(doc="Fewest pixels of a footprint, before growing", dtype=int, default=1, min=0)
    isotropicGrow = Field(doc="Grow by a disc? Else by a diamond", dtype=bool, default=True)
    combinedGrow = Field(doc="May grown footprints merge?", dtype=bool, default=True)
    nSigmaToGrow = RangeField(doc="Growth in units of the PSF's sigma", dtype=float, default=2.4, min=0.0)
    returnOriginalFootprints = Field(doc="Keep footprints as before growing?", dtype=bool, default=False)
    thresholdValue = RangeField(
        doc="At or above it a pixel is detected", dtype=float, default=5.0, min=0.0, inclusiveMin=False
    )
    includeThresholdMultiplier = RangeField(
        doc="A footprint needs one pixel at this times thresholdValue", dtype=float, default=1.0, min=0.0
    )
    thresholdType = ChoiceField(
        doc="Unit of thresholdValue",
        dtype=str,
        default="pixel_stdev",
        allowed={
            "variance": "variance of the image",
            "stdev": "standard deviation of the image",
            "value": "that of the image",
            "pixel_stdev": "standard deviation of each pixel",
        },
    )
    thresholdPolarity = ChoiceField(
        doc="Sign of what is detected",
        dtype=str,
        default="positive",
        allowed={"positive": "above", "negative": "below", "both": "both"},
    )
    adjustBackground = Field(doc="Added to the background" + _OFF, dtype=float, default=0.0)
    reEstimateBackground = Field(
        doc="Of the template: fail, and try again with a higher threshold, when nothing is left undetected?",
        dtype=bool,
        default=True,
    )
    background = ConfigurableField(doc="Background, estimated again" + _OFF, target=NotRun)
    doApplyFlatBackgroundRatio = Field(doc="For that background" + _OFF, dtype=bool, default=False)
    tempLocalBackground = ConfigurableField(doc="Background while peaks are found" + _OFF, target=NotRun)
    doTempLocalBackground = Field(doc="Subtract it" + _OFF, dtype=bool, default=True)
    tempWideBackground = ConfigurableField(doc="Background before detection" + _OFF, target=NotRun)
    doTempWideBackground = Field(doc="Subtract it" + _OFF, dtype=bool, default=False)
    nPeaksMaxSimple = Field(doc="Of peaks" + _OFF, dtype=int, default=1)
    nSigmaForKernel = RangeField(
        doc="Full width of the smoothing kernel in PSF sigmas", dtype=float, default=7.0, min=0.0
    )
    statsMask = ListField(doc="Planes" + _OFF, dtype=str, default=["BAD", "SAT", "EDGE", "NO_DATA"])
    excludeMaskPlanes = ListField(doc="Planes whose pixels are not detected", dtype=str, default=[])


class SourceDetectionTask(NotRun):
    """Detection, as a target."""

    ConfigClass = DetectionConfig


class VarianceBackgroundConfig(OverridableConfig):
    """Background that is subtracted before a warp's scatter is measured."""

    statisticsProperty = Field(doc="Of a cell" + _OFF, dtype=str, default="MEANCLIP", optional=True)
    undersampleStyle = Field(
        doc="For grids of few cells" + _OFF, dtype=str, default="REDUCE_INTERP_ORDER", optional=True
    )
    binSize = RangeField(doc="Side of a cell in pixels", dtype=int, default=32, min=1)
    binSizeX = Field(doc="Must be 0: cells are square", dtype=int, default=0)
    binSizeY = Field(doc="Must be 0: cells are square", dtype=int, default=0)
    algorithm = Field(doc="Between cells" + _OFF, dtype=str, default="AKIMA_SPLINE", optional=True)
    ignoredPixelMask = ListField(
        doc="Planes whose pixels do not count", dtype=str, default=VarianceScaling().background_mask_planes
    )
    isNanSafe = Field(doc="NaN never counts here" + _OFF, dtype=bool, default=False)
    useApprox = Field(doc="Chebyshev polynomials" + _OFF, dtype=bool, default=False)
    approxOrderX = Field(doc="Order of those" + _OFF, dtype=int, default=6)
    approxOrderY = Field(doc="Order of those" + _OFF, dtype=int, default=-1)
    weighting = Field(doc="Weights for those" + _OFF, dtype=bool, default=True)
    doApplyFlatBackgroundRatio = Field(doc="Must be False", dtype=bool, default=False)
    doFilterSuperPixels = Field(doc="Must be False: cells are used as they are", dtype=bool, default=False)
    superPixelFilterSize = Field(doc="For that" + _OFF, dtype=int, default=None, optional=True)


class SubtractBackgroundTask(NotRun):
    """Background of the variance scaling, as a target."""

    ConfigClass = VarianceBackgroundConfig


class ScaleVarianceConfig(OverridableConfig):
    """Rescaling of a warp's variance to the scatter of its own pixels."""

    background = RunHereField(doc="Subtracted first", target=SubtractBackgroundTask)
    maskPlanes = ListField(
        doc="Planes whose pixels do not count in the scatter", dtype=str, default=VarianceScaling().mask_planes
    )
    limit = RangeField(doc="Larger factors are not applied", dtype=float, default=10.0, min=0.0, inclusiveMin=False)


class ScaleVarianceTask(NotRun):
    """Variance scaling, as a target."""

    ConfigClass = ScaleVarianceConfig


class MaskStreaksConfig(OverridableConfig):
    """Streak masks; the lines themselves are found by gpucoadd's own search."""

    minimumKernelHeight = Field(doc="Of LSST's line finder" + _OFF, dtype=float, default=0.0)
    absMinimumKernelHeight = Field(doc="Of LSST's line finder" + _OFF, dtype=float, default=5.0)
    clusterMinimumSize = Field(doc="Of LSST's line finder" + _OFF, dtype=int, default=50)
    clusterMinimumDeviation = Field(doc="Of LSST's line finder" + _OFF, dtype=float, default=2.0)
    delta = Field(doc="Of LSST's line finder" + _OFF, dtype=float, default=0.2)
    nSigma = Field(doc="Of LSST's line finder" + _OFF, dtype=float, default=2.0)
    nSigmaMask = RangeField(doc="Half width of a mask in widths of the profile", dtype=float, default=5.0, min=0.0)
    rhoBinSize = Field(doc="Of LSST's line finder" + _OFF, dtype=float, default=40.0)
    thetaBinSize = Field(doc="Of LSST's line finder" + _OFF, dtype=float, default=2.0)
    invSigma = Field(doc="Of LSST's line finder" + _OFF, dtype=float, default=0.1)
    footprintThreshold = RangeField(
        doc="Profiles fainter than that are not masked, in units of the image", dtype=float, default=0.01, min=0.0
    )
    dChi2Tolerance = Field(doc="Of LSST's line finder" + _OFF, dtype=float, default=0.1)
    maxFitIter = Field(doc="Of LSST's line finder" + _OFF, dtype=int, default=100)
    detectedMaskPlane = Field(doc="Name" + _OFF, dtype=str, default="DETECTED")
    onlyMaskDetected = Field(doc="Mask pixels of candidates only?", dtype=bool, default=True)
    streaksMaskPlane = Field(doc="Name" + _OFF, dtype=str, default="STREAK")
    badMaskPlanes = ListField(doc="Planes whose pixels are not searched", dtype=str, default=BAD_PLANES)
    maxStreakWidth = RangeField(doc="Largest full width of a mask; 0 for none", dtype=float, default=0.0, min=0.0)


class MaskStreaksTask(NotRun):
    """Streak masks, as a target."""

    ConfigClass = MaskStreaksConfig


class InputMapConfig(OverridableConfig):
    """Map of the detectors in each part of the coadd."""

    nside = Field(doc="Of the map's pixels; a power of 2", dtype=int, default=32768)
    nside_coverage = Field(doc="Of the grid that healsparse keeps it in; a power of 2", dtype=int, default=256)
    bad_mask_min_coverage = Field(
        doc="A visit with more bad pixels than this share of a map pixel's area is taken out", dtype=float, default=0.5
    )


class HealSparseInputMapTask(NotRun):
    """Input map, as a target."""

    ConfigClass = InputMapConfig
