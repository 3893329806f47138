"""
Options of the statistical coadd, LSST's AssembleCoaddTask, as small frozen dataclasses that check themselves.

The first argument of each `option` is the name of the LSST field it answers to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .options import group, option, with_overrides

STATISTICS = (
    "MEAN",
    "MEDIAN",
    "MEANCLIP",
    "VARIANCE",
    "VARIANCECLIP",
    "STDEV",
    "STDEVCLIP",
    "MEANSQUARE",
    "SUM",
    "MIN",
    "MAX",
    "NPOINT",
    "NCLIPPED",
    "NMASKED",
    "IQRANGE",
)
_INTERPOLABLE = ("MEAN", "MEDIAN", "MEANCLIP", "VARIANCE", "VARIANCECLIP")


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def in_range(name: str, value: float, low: float, high: float = math.inf, *, open_high: bool = False) -> None:
    inside = low <= value < high if open_high else low <= value <= high
    if not inside or math.isnan(value):
        bound = f"from {low:g} to {'below ' if open_high else ''}{high:g}" if high < math.inf else f"at least {low:g}"
        raise ValueError(f"{name} must be {bound}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """
    Sigma clipping of the samples of one pixel, and of the variance plane that gives an epoch its weight.

    The first round is about the median with the quartile width, the following about the clipped
    mean; every round starts again from all good samples.
    """

    sigma: float = option("sigmaClip", 3.0)
    iterations: int = option("clipIter", 2)

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"clipping.sigma (sigmaClip) must be positive, got {self.sigma!r}")
        in_range("clipping.iterations (clipIter)", self.iterations, 1)


@dataclass(frozen=True, kw_only=True)
class Interpolation:
    """Filling of NO_DATA pixels in a finished coadd, row by row (`transpose`: column by column)."""

    enabled: bool = option("doInterp", True)
    fallback_at_edge: bool = option("interpImage.useFallbackValueAtEdge", True)
    fallback: str = option("interpImage.fallbackValueType", "MEDIAN")
    fallback_value: float = option("interpImage.fallbackUserValue", 0.0)
    negative_fallback: bool = option("interpImage.negativeFallbackAllowed", False)
    transpose: bool = option("interpImage.transpose", False)

    def __post_init__(self) -> None:
        one_of(
            "interpolation.fallback (interpImage.fallbackValueType)",
            self.fallback,
            ("MEDIAN", "MEAN", "MEANCLIP", "USER"),
        )


@dataclass(frozen=True, kw_only=True)
class InputMap:
    """
    The healsparse map of the detectors that went into each part of the coadd (LSST's HealSparseInputMapTask).

    Attributes
    ----------
    enabled : bool
        On without detectors is an error; with detectors the map is made anyway.
    nside : int
        Of the map's pixels; a power of 2.
    nside_coverage : int
        Of the coarse grid that healsparse keeps its map in; a power of 2, at most `nside`.
    max_bad_share : float
        An epoch with more bad pixels than this share of a map pixel's area is taken out of it.
    """

    enabled: bool = option("doInputMap", False)
    nside: int = option("inputMapper.nside", 32768)
    nside_coverage: int = option("inputMapper.nside_coverage", 256)
    max_bad_share: float = option("inputMapper.bad_mask_min_coverage", 0.5)

    def __post_init__(self) -> None:
        for name, value in (("nside", self.nside), ("nside_coverage", self.nside_coverage)):
            if not 1 <= value <= 1 << 29 or value & (value - 1):
                raise ValueError(f"input_map.{name} (inputMapper.{name}) must be a power of 2 to 2**29, got {value!r}")
        if self.nside_coverage > self.nside:
            raise ValueError(
                f"input_map.nside_coverage (inputMapper.nside_coverage) must not be above nside, got "
                f"{self.nside_coverage} and {self.nside}"
            )
        in_range("input_map.max_bad_share (inputMapper.bad_mask_min_coverage)", self.max_bad_share, 0.0)


# Fields of AssembleCoaddConfig that change nothing in the pixels.
ASSEMBLY_BOOKKEEPING = frozenset(
    {
        "coaddName",
        "select",
        "inputRecorder",
        "includeCalibVar",
        "subregionSize",
        "doWrite",
        "doWriteArtifactMasks",
        "doNImage",
        "coaddPsf",
        "doAttachTransmissionCurve",
        "hasFakes",
        "interpImage.modelPsf",
    }
)


def without_zero_point(overrides: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """`overrides` less the zero-point scaling, which must be off; ValueError if it is on."""
    kept = {}
    for name, value in overrides.items():
        last = name.removeprefix(prefix)
        if last == "doScaleZeroPoint" or last.startswith("scaleZeroPoint"):
            if last != "doScaleZeroPoint" or value:
                raise ValueError(
                    f"{name}: the deprecated zero-point scaling is left out; give the factor of each epoch to "
                    "WarpStack.scaled (--flux-factors), or warps that are calibrated already"
                )
        else:
            kept[name] = value
    return kept


@dataclass(frozen=True, kw_only=True)
class AssemblyConfig:
    """
    A statistical coadd of one stack of warps (LSST's AssembleCoaddTask).

    Attributes
    ----------
    statistic : str
        Per-pixel statistic over the epochs, one of `STATISTICS`.
    reject : tuple of str
        Planes that reject a sample; names that a mask does not have are skipped.
    clipping : Clipping
        For the clipped statistics, and for the weights.
    error_from_input_variance : bool
        Coadd variance from the input variances; if False, from the scatter of the samples.
    propagation : dict of str to float
        Plane name to the share of rejected weight above which it is set on the coadd.
    remove : tuple of str
        Planes cleared on every warp just before stacking; unknown names are skipped with a log line.
    online_mean : bool
        With statistic MEAN, LSST's running-sum rules for masks (they differ where nothing is good).
    warp_type : str
        "direct" or "psfMatched": which of a stack's warps are coadded.
    interpolation : Interpolation
        Post-processing.
    select_epochs : bool
        Whether the stack is to be one of chosen epochs, from `WarpStack.select`; if it is not, a warning says so.
    mask_bright_objects : bool
        Whether bright objects are to be masked; without a catalogue, a warning says that none are. A catalogue that is
        given is used anyway.
    bright_object_plane : str
        Plane that they get.
    input_map : InputMap
        Which detectors went into each part of the sky.
    """

    statistic: str = option("statistic", "MEANCLIP")
    reject: tuple[str, ...] = option("badMaskPlanes", ("NO_DATA", "BAD", "SAT", "EDGE"))
    clipping: Clipping = group("", Clipping())
    error_from_input_variance: bool = option("calcErrorFromInputVariance", True)
    propagation: dict[str, float] = option("maskPropagationThresholds", {"SAT": 0.1})
    remove: tuple[str, ...] = option("removeMaskPlanes", ("NOT_DEBLENDED",))
    online_mean: bool = option("doOnlineForMean", False)
    warp_type: str = option("warpType", "direct")
    interpolation: Interpolation = group("", Interpolation())
    select_epochs: bool = option("doSelectVisits", False)
    mask_bright_objects: bool = option("doMaskBrightObjects", False)
    bright_object_plane: str = option("brightObjectMaskName", "BRIGHT_OBJECT")
    input_map: InputMap = group("", InputMap())

    def __post_init__(self) -> None:
        one_of("statistic", self.statistic, STATISTICS)
        one_of("warp_type (warpType)", self.warp_type, ("direct", "psfMatched"))
        if self.interpolation.enabled and self.statistic not in _INTERPOLABLE:
            raise ValueError(
                f"interpolation (doInterp) needs statistic to be one of {', '.join(_INTERPOLABLE)}, got "
                f"{self.statistic!r}; turn it off with interpolation=Interpolation(enabled=False)"
            )
        for plane, threshold in self.propagation.items():
            if not isinstance(threshold, (int, float)) or not threshold >= 0:
                raise ValueError(
                    f"propagation (maskPropagationThresholds) of {plane} must be a share from 0 on, got {threshold!r}"
                )
        if not self.bright_object_plane or self.bright_object_plane != self.bright_object_plane.upper():
            raise ValueError(
                "bright_object_plane (brightObjectMaskName) must be the name of a mask plane, in upper case, got "
                f"{self.bright_object_plane!r}"
            )
        object.__setattr__(self, "reject", tuple(self.reject))
        object.__setattr__(self, "remove", tuple(self.remove))

    @classmethod
    def from_lsst(cls, overrides: Mapping[str, Any]) -> AssemblyConfig:
        """
        Configuration from dotted names of LSST's AssembleCoaddConfig.

        Raises
        ------
        ValueError
            If a name is unknown (the nearest are given) or a value is not valid.
        """
        if overrides.get("doWriteArtifactMasks"):
            raise ValueError("doWriteArtifactMasks: artifact masks are made by the artifact-rejecting coadd only")
        return with_overrides(
            cls(), without_zero_point(overrides), own_names=False, without_effect=ASSEMBLY_BOOKKEEPING
        )
