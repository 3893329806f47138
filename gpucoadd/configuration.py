"""
Options of the coaddition, as small frozen dataclasses that check themselves.

`CoaddConfig` composes the others. The defaults are those of LSST's
CompareWarpAssembleCoaddTask; the first argument of each `option` is the name of the LSST field
it answers to. Fields of the LSST tasks that only steer their bookkeeping are accepted by
`from_lsst` and have no effect here (`docs/coming-from-lsst.md` lists them).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .assembly_config import (
    ASSEMBLY_BOOKKEEPING,
    AssemblyConfig,
    Clipping,
    in_range,
    one_of,
    without_zero_point,
)
from .options import as_names, group, option, with_overrides
from .streak_config import BAD_PLANES, StreakConfig


@dataclass(frozen=True, kw_only=True)
class Detection:
    """
    Threshold detection and growing (LSST's SourceDetectionConfig; the defaults are those of CompareWarp's `detect`).

    Attributes
    ----------
    threshold : float
        In units given by `threshold_type`; at or above it a pixel is detected.
    threshold_type : str
        "pixel_stdev" (of each pixel's variance), "stdev" or "variance" (of the whole image), "value".
    polarity : str
        "positive", "negative" or "both".
    min_pixels : int
        Smallest footprint kept, before growing, per polarity.
    grow_sigma : float
        Growth in units of the PSF's sigma; rounded to whole pixels.
    isotropic_grow : bool
        Disc if True, diamond if False.
    combined_grow : bool
        Whether grown footprints that touch become one.
    include_multiplier : float
        A footprint needs one pixel at this times the threshold.
    return_original : bool
        Keep the footprints as they were before growing.
    kernel_sigmas : float
        Full width of the smoothing kernel in PSF sigmas (template detection only).
    reestimate_background : bool
        Template detection only: fail, and try again with a higher threshold, when nothing is left undetected.
    exclude : tuple of str
        Planes whose pixels are never detected.
    """

    threshold: float = option("thresholdValue", 7.5)
    threshold_type: str = option("thresholdType", "pixel_stdev")
    polarity: str = option("thresholdPolarity", "both")
    min_pixels: int = option("minPixels", 4)
    grow_sigma: float = option("nSigmaToGrow", 0.4)
    isotropic_grow: bool = option("isotropicGrow", True)
    combined_grow: bool = option("combinedGrow", True)
    include_multiplier: float = option("includeThresholdMultiplier", 1.0)
    return_original: bool = option("returnOriginalFootprints", False)
    kernel_sigmas: float = option("nSigmaForKernel", 7.0)
    reestimate_background: bool = option("reEstimateBackground", False)
    exclude: tuple[str, ...] = option("excludeMaskPlanes", ())

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ValueError(f"detection threshold (thresholdValue) must be positive, got {self.threshold!r}")
        one_of("threshold_type (thresholdType)", self.threshold_type, ("pixel_stdev", "stdev", "variance", "value"))
        one_of("polarity (thresholdPolarity)", self.polarity, ("positive", "negative", "both"))
        in_range("min_pixels (minPixels)", self.min_pixels, 0)
        in_range("grow_sigma (nSigmaToGrow)", self.grow_sigma, 0.0)
        in_range("include_multiplier (includeThresholdMultiplier)", self.include_multiplier, 0.0)
        in_range("kernel_sigmas (nSigmaForKernel)", self.kernel_sigmas, 0.0)


_DETECTION_BOOKKEEPING = (
    "adjustBackground",
    "doApplyFlatBackgroundRatio",
    "doTempLocalBackground",
    "doTempWideBackground",
    "nPeaksMaxSimple",
    "statsMask",
    "background",
    "tempLocalBackground",
    "tempWideBackground",
)


@dataclass(frozen=True, kw_only=True)
class VarianceScaling:
    """
    Rescaling of a warp's variance to the scatter of its own pixels.

    Attributes
    ----------
    enabled : bool
        Off: variances are used as they are.
    bin_size : int
        Side of the background cells in pixels.
    mask_planes : tuple of str
        Pixels with one of these planes do not count in the scatter.
    background_mask_planes : tuple of str
        Nor, for these, in the background.
    limit : float
        Factors above it are not applied.
    """

    enabled: bool = option("doScaleWarpVariance", True)
    bin_size: int = option("scaleWarpVariance.background.binSize", 32)
    mask_planes: tuple[str, ...] = option(
        "scaleWarpVariance.maskPlanes", ("DETECTED", "DETECTED_NEGATIVE", "BAD", "SAT", "NO_DATA", "INTRP")
    )
    background_mask_planes: tuple[str, ...] = option(
        "scaleWarpVariance.background.ignoredPixelMask",
        ("DETECTED", "DETECTED_NEGATIVE", "BAD", "SAT", "NO_DATA", "INTRP"),
    )
    limit: float = option("scaleWarpVariance.limit", 10.0)

    def __post_init__(self) -> None:
        in_range("bin_size (scaleWarpVariance.background.binSize)", self.bin_size, 1)
        if not self.limit > 0:
            raise ValueError(f"limit (scaleWarpVariance.limit) must be positive, got {self.limit!r}")


@dataclass(frozen=True, kw_only=True)
class Prefilter:
    """
    Dropping of candidates that lie mostly on pixels known to be bad.

    A candidate stays if the share of its pixels without any of `planes` is above `ratio`.
    """

    enabled: bool = option("doPrefilterArtifacts", True)
    planes: tuple[str, ...] = option("prefilterArtifactsMaskPlanes", ("NO_DATA", "BAD", "SUSPECT"))
    ratio: float = option("prefilterArtifactsRatio", 0.05)

    def __post_init__(self) -> None:
        if math.isnan(self.ratio):
            raise ValueError("prefilter.ratio (prefilterArtifactsRatio) must be a number, got nan")
        for plane in ("DETECTED", "DETECTED_NEGATIVE"):
            if plane in self.planes:
                raise ValueError(
                    f"prefilter.planes (prefilterArtifactsMaskPlanes) cannot hold {plane}: every candidate is detected"
                )


@dataclass(frozen=True, kw_only=True)
class Persistence:
    """
    In how many epochs may an artifact appear?

    With ``N`` contributing epochs (mean over the footprint), a pixel counts as rare in up to
    ``int(min(max_fraction_low * N, max_epochs + max_fraction_high * N))`` epochs; a footprint
    is an artifact if more than `spatial_threshold` of its pixels are rare.
    """

    max_epochs: int = option("maxNumEpochs", 2)
    max_fraction_low: float = option("maxFractionEpochsLow", 0.4)
    max_fraction_high: float = option("maxFractionEpochsHigh", 0.03)
    spatial_threshold: float = option("spatialThreshold", 0.5)

    def __post_init__(self) -> None:
        in_range("max_fraction_low (maxFractionEpochsLow)", self.max_fraction_low, 0.0, 1.0, open_high=True)
        in_range("max_fraction_high (maxFractionEpochsHigh)", self.max_fraction_high, 0.0, 1.0, open_high=True)
        in_range("spatial_threshold (spatialThreshold)", self.spatial_threshold, 0.0, 1.0)

    def limit(self, n_epochs: float) -> int:
        """In how many of `n_epochs` an artifact may appear."""
        low, high = self.max_fraction_low * n_epochs, self.max_epochs + self.max_fraction_high * n_epochs
        return int(min(low, high))


@dataclass(frozen=True, kw_only=True)
class LsstStreaks:
    """
    Streak masks by LSST's rules, around the lines that `find_streaks` finds.

    Attributes
    ----------
    enabled : bool
        In place of the masks of `CoaddConfig.streaks`; its other options hold for the search all the same.
    only_detected : bool
        Mask only pixels of candidates.
    mask_sigmas : float
        Half width of the mask in units of the profile's width, that of a Moffat profile of exponent 2.5.
    footprint_threshold : float
        Nor is masked where this profile is fainter, in units of the image.
    max_width : float
        Largest full width of the mask in pixels; 0 for none.
    grow_sigma : float
        Growth in units of the PSF's sigma, cut to whole pixels.
    """

    enabled: bool = option("doFilterMorphological", False)
    only_detected: bool = option("maskStreaks.onlyMaskDetected", True)
    mask_sigmas: float = option("maskStreaks.nSigmaMask", 5.0)
    footprint_threshold: float = option("maskStreaks.footprintThreshold", 0.01)
    max_width: float = option("maskStreaks.maxStreakWidth", 0.0)
    grow_sigma: float = option("growStreakFp", 5.0)

    def __post_init__(self) -> None:
        for name, field in (
            ("mask_sigmas", "maskStreaks.nSigmaMask"),
            ("footprint_threshold", "maskStreaks.footprintThreshold"),
            ("max_width", "maskStreaks.maxStreakWidth"),
            ("grow_sigma", "growStreakFp"),
        ):
            in_range(f"lsst_streaks.{name} ({field})", getattr(self, name), 0.0)


_TEMPLATE = AssemblyConfig(
    reject=("NO_DATA",),
    warp_type="psfMatched",
    clipping=Clipping(sigma=2.5, iterations=3),
)
_STACKING = AssemblyConfig(
    statistic="MEAN",
    reject=("NO_DATA", "BAD", "SAT"),
    remove=("NOT_DEBLENDED", "EDGE"),
)
_DETECT_TEMPLATE = Detection(
    threshold=300.0, polarity="positive", min_pixels=1, grow_sigma=2.4, reestimate_background=True
)

# Fields of MaskStreaksConfig that steer LSST's own line finder, or name planes.
_LINE_FINDER_BOOKKEEPING = (
    "minimumKernelHeight",
    "absMinimumKernelHeight",
    "clusterMinimumSize",
    "clusterMinimumDeviation",
    "delta",
    "nSigma",
    "rhoBinSize",
    "thetaBinSize",
    "invSigma",
    "dChi2Tolerance",
    "maxFitIter",
    "detectedMaskPlane",
    "streaksMaskPlane",
)

# Fields of SubtractBackgroundConfig for the scatter of a warp: of its interpolation, and those that must be off.
_SPLINE_BOOKKEEPING = (
    "useApprox",
    "approxOrderX",
    "approxOrderY",
    "weighting",
    "undersampleStyle",
    "statisticsProperty",
    "algorithm",
    "isNanSafe",
    "superPixelFilterSize",
)
_CELLS_OFF = ("binSizeX", "binSizeY", "doFilterSuperPixels", "doApplyFlatBackgroundRatio")


def _check_template(template: AssemblyConfig) -> None:
    """Raise ValueError if the template is asked for what only a final coadd has."""
    for name, lsst, on in (
        ("select_epochs", "doSelectVisits", template.select_epochs),
        ("mask_bright_objects", "doMaskBrightObjects", template.mask_bright_objects),
        ("input_map.enabled", "doInputMap", template.input_map.enabled),
    ):
        if on:
            raise ValueError(
                f"template.{name} (assembleStaticSkyModel.{lsst}) must be off: it is for the final coadd, not for the "
                "template"
            )


_COMPARE_WARP_BOOKKEEPING = (
    ASSEMBLY_BOOKKEEPING
    | {f"maskStreaks.{name}" for name in _LINE_FINDER_BOOKKEEPING}
    | {f"assembleStaticSkyModel.{name}" for name in ASSEMBLY_BOOKKEEPING}
    | {f"{prefix}.{name}" for prefix in ("detect", "detectTemplate") for name in _DETECTION_BOOKKEEPING}
    | {
        "streakMaskName",
    }
    | {f"scaleWarpVariance.background.{name}" for name in (*_SPLINE_BOOKKEEPING, *_CELLS_OFF)}
)


@dataclass(frozen=True, kw_only=True)
class CoaddConfig:
    """
    The artifact-rejecting coadd (LSST's CompareWarpAssembleCoaddTask).

    Attributes
    ----------
    stacking : AssemblyConfig
        The final coadd of the direct warps.
    template : AssemblyConfig
        The static-sky model, from the PSF-matched warps.
    variance_scaling : VarianceScaling
        Applied to every PSF-matched warp before it is compared.
    detection : Detection
        On each difference of warp and template.
    template_detection : Detection
        Bright sources of the template; candidates inside one of them are spared.
    template_detection_step, template_detection_attempts : float, int
        Threshold factor between attempts, and their number, when the template is all footprint.
    preserve_contained : bool
        Whether candidates inside one template footprint are spared.
    prefilter : Prefilter
        Candidates that lie on bad pixels.
    persistence : Persistence
        The epoch-count rule.
    streaks : StreakConfig
        The search for satellite trails, however faint; off unless its `enabled` is True, as in ``StreakConfig()``.
    streak_bad_planes : tuple of str
        Planes whose pixels are not searched for trails.
    lsst_streaks : LsstStreaks
        Masks of the trails by LSST's rules instead.
    save_count_image : bool
        Write the epoch count image as ``epochCountIm.fits`` into `figure_path`.
    figure_path : str
        Folder for that.

    Examples
    --------
    >>> CoaddConfig(detection=Detection(threshold=5.0)).detection.threshold
    5.0
    >>> CoaddConfig.from_lsst({"detect.thresholdValue": 5.0}).detection.min_pixels
    4
    """

    stacking: AssemblyConfig = group("", _STACKING)
    template: AssemblyConfig = group("assembleStaticSkyModel", _TEMPLATE)
    variance_scaling: VarianceScaling = group("", VarianceScaling())
    detection: Detection = group("detect", Detection())
    template_detection: Detection = group("detectTemplate", _DETECT_TEMPLATE)
    template_detection_step: float = option("detectTemplateIterMultiplier", 1.25)
    template_detection_attempts: int = option("maxDetectTemplateIter", 10)
    preserve_contained: bool = option("doPreserveContainedBySource", True)
    prefilter: Prefilter = group("", Prefilter())
    persistence: Persistence = group("", Persistence())
    streaks: StreakConfig = group("", StreakConfig(enabled=False))
    streak_bad_planes: tuple[str, ...] = option("maskStreaks.badMaskPlanes", BAD_PLANES)
    lsst_streaks: LsstStreaks = group("", LsstStreaks())
    save_count_image: bool = option("saveCountIm", False)
    figure_path: str = option("figPath", ".")

    def __post_init__(self) -> None:
        in_range("template_detection_attempts (maxDetectTemplateIter)", self.template_detection_attempts, 1)
        if not self.template_detection_step > 0:
            raise ValueError(
                "template_detection_step (detectTemplateIterMultiplier) must be positive, "
                f"got {self.template_detection_step!r}"
            )
        _check_template(self.template)
        if self.streaks.enabled and self.lsst_streaks.enabled:
            raise ValueError(
                "streaks and lsst_streaks (doFilterMorphological) are both enabled; choose one: the first masks a "
                "trail as far out as it is seen, the second by LSST's rules"
            )

    @property
    def finds_streaks(self) -> bool:
        """Whether trails are searched for."""
        return self.streaks.enabled or self.lsst_streaks.enabled

    @classmethod
    def from_lsst(cls, overrides: Mapping[str, Any]) -> CoaddConfig:
        """
        Configuration from dotted names of LSST's CompareWarpAssembleCoaddConfig.

        Parameters
        ----------
        overrides : mapping of str to object
            Such as ``{"detect.thresholdValue": 5.0, "assembleStaticSkyModel.statistic": "MEDIAN"}``.

        Raises
        ------
        ValueError
            If a name is unknown (the nearest are given) or a value is not valid.
        """
        return cls._with(overrides, own_names=False)

    @classmethod
    def from_names(cls, overrides: Mapping[str, Any]) -> CoaddConfig:
        """As `from_lsst`, and our dotted names (``detection.threshold``) are understood too."""
        return cls._with(overrides, own_names=True)

    @classmethod
    def _with(cls, overrides: Mapping[str, Any], *, own_names: bool) -> CoaddConfig:
        prefix = "assembleStaticSkyModel."
        if overrides.get(prefix + "doNImage"):
            raise ValueError(f"{prefix}doNImage must be False: the template has no contribution image of its own")
        if overrides.get(prefix + "doWriteArtifactMasks"):
            raise ValueError(f"{prefix}doWriteArtifactMasks must be False: the template rejects no artifacts")
        for name in (f"scaleWarpVariance.background.{off}" for off in _CELLS_OFF):
            if overrides.get(name):
                raise ValueError(f"{name} must be off: cells are square, and used as they are; got {overrides[name]!r}")
        kept = without_zero_point(without_zero_point(overrides), prefix=prefix)
        config = with_overrides(cls(), kept, own_names=own_names, without_effect=_COMPARE_WARP_BOOKKEEPING)
        if overrides.get(prefix + "doWrite") and config.template.warp_type == config.stacking.warp_type:
            raise ValueError(f"{prefix}warpType must differ from warpType when {prefix}doWrite is on")
        return config

    def as_names(self) -> dict[str, Any]:
        """Every option under our dotted name, as written to files."""
        return as_names(self)
