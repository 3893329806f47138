"""Options: names, defaults, validation."""

import dataclasses
import math
from pathlib import Path

import pytest

from gpucoadd import (
    AssemblyConfig,
    Clipping,
    CoaddConfig,
    Detection,
    InputMap,
    Interpolation,
    Persistence,
    Prefilter,
    VarianceScaling,
)
from gpucoadd.options import leaves

# The defaults of LSST's CompareWarpAssembleCoaddConfig, as documented.
DEFAULTS = {
    "badMaskPlanes": ("NO_DATA", "BAD", "SAT"),
    "statistic": "MEAN",
    "sigmaClip": 3.0,
    "clipIter": 2,
    "calcErrorFromInputVariance": True,
    "doOnlineForMean": False,
    "doInterp": True,
    "maskPropagationThresholds": {"SAT": 0.1},
    "removeMaskPlanes": ("NOT_DEBLENDED", "EDGE"),
    "warpType": "direct",
    "interpImage.useFallbackValueAtEdge": True,
    "interpImage.fallbackValueType": "MEDIAN",
    "interpImage.fallbackUserValue": 0.0,
    "interpImage.negativeFallbackAllowed": False,
    "interpImage.transpose": False,
    "assembleStaticSkyModel.badMaskPlanes": ("NO_DATA",),
    "assembleStaticSkyModel.warpType": "psfMatched",
    "assembleStaticSkyModel.statistic": "MEANCLIP",
    "assembleStaticSkyModel.sigmaClip": 2.5,
    "assembleStaticSkyModel.clipIter": 3,
    "assembleStaticSkyModel.calcErrorFromInputVariance": True,
    "assembleStaticSkyModel.removeMaskPlanes": ("NOT_DEBLENDED",),
    "assembleStaticSkyModel.doInterp": True,
    "detect.thresholdValue": 7.5,
    "detect.thresholdPolarity": "both",
    "detect.thresholdType": "pixel_stdev",
    "detect.minPixels": 4,
    "detect.isotropicGrow": True,
    "detect.combinedGrow": True,
    "detect.nSigmaToGrow": 0.4,
    "detect.includeThresholdMultiplier": 1.0,
    "detect.returnOriginalFootprints": False,
    "detect.reEstimateBackground": False,
    "detect.excludeMaskPlanes": (),
    "detectTemplate.thresholdValue": 300.0,
    "detectTemplate.thresholdPolarity": "positive",
    "detectTemplate.minPixels": 1,
    "detectTemplate.nSigmaToGrow": 2.4,
    "detectTemplate.nSigmaForKernel": 7.0,
    "detectTemplate.reEstimateBackground": True,
    "detectTemplateIterMultiplier": 1.25,
    "maxDetectTemplateIter": 10,
    "maxNumEpochs": 2,
    "maxFractionEpochsLow": 0.4,
    "maxFractionEpochsHigh": 0.03,
    "spatialThreshold": 0.5,
    "doScaleWarpVariance": True,
    "scaleWarpVariance.background.binSize": 32,
    "scaleWarpVariance.limit": 10.0,
    "doPreserveContainedBySource": True,
    "doPrefilterArtifacts": True,
    "prefilterArtifactsMaskPlanes": ("NO_DATA", "BAD", "SUSPECT"),
    "prefilterArtifactsRatio": 0.05,
    "doFilterMorphological": False,
    "growStreakFp": 5.0,
    "maskStreaks.onlyMaskDetected": True,
    "maskStreaks.nSigmaMask": 5.0,
    "maskStreaks.footprintThreshold": 0.01,
    "maskStreaks.maxStreakWidth": 0.0,
    "maskStreaks.badMaskPlanes": ("NO_DATA", "INTRP", "BAD", "SAT", "EDGE"),
    "doSelectVisits": False,
    "doMaskBrightObjects": False,
    "brightObjectMaskName": "BRIGHT_OBJECT",
    "doInputMap": False,
    "inputMapper.nside": 32768,
    "inputMapper.nside_coverage": 256,
    "inputMapper.bad_mask_min_coverage": 0.5,
    "assembleStaticSkyModel.doSelectVisits": False,
    "assembleStaticSkyModel.doMaskBrightObjects": False,
    "assembleStaticSkyModel.brightObjectMaskName": "BRIGHT_OBJECT",
    "assembleStaticSkyModel.doInputMap": False,
    "assembleStaticSkyModel.inputMapper.nside": 32768,
}


def test_defaults():
    found = {lsst: value for _, lsst, value in leaves(CoaddConfig())}
    assert {name: found[name] for name in DEFAULTS} == DEFAULTS


def test_base_defaults():
    base = AssemblyConfig()
    assert (base.statistic, base.reject) == ("MEANCLIP", ("NO_DATA", "BAD", "SAT", "EDGE"))
    assert base.clipping == Clipping(sigma=3.0, iterations=2)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_field_takes_its_default(name):
    assert CoaddConfig.from_lsst({name: DEFAULTS[name]}) == CoaddConfig()


def test_names_reach_their_field():
    config = CoaddConfig.from_lsst(
        {"detect.thresholdValue": 5, "assembleStaticSkyModel.statistic": "MEDIAN", "badMaskPlanes": ["NO_DATA"]}
    )
    assert config.detection.threshold == 5.0 and isinstance(config.detection.threshold, float)
    assert config.template.statistic == "MEDIAN" and config.stacking.statistic == "MEAN"
    assert config.stacking.reject == ("NO_DATA",)


def test_our_names_are_understood_where_they_are_asked_for():
    assert CoaddConfig.from_names({"detection.threshold": 5}).detection.threshold == 5
    assert CoaddConfig.from_names({"detect.thresholdValue": 5}).detection.threshold == 5
    with pytest.raises(ValueError, match=r"no configuration field 'detection\.threshold'; nearest: .*detect"):
        CoaddConfig.from_lsst({"detection.threshold": 5})


@pytest.mark.parametrize(
    "overrides",
    [
        {"subregionSize": [50, 37]},
        {"coaddName": "deep"},
        {"doNImage": True},
        {"doWriteArtifactMasks": True},
        {"hasFakes": False},
        {"detect.nPeaksMaxSimple": 3},
        {"detect.doTempLocalBackground": True},
        {"detectTemplate.background.useApprox": False},
        {"assembleStaticSkyModel.doWrite": True},
        {"doScaleZeroPoint": False},
        {"doFilterMorphological": False},
        {"inputRecorder.saveEmptyCcds": False},
        {"includeCalibVar": True},
        {"maskStreaks.minimumKernelHeight": 0.0},
        {"maskStreaks.absMinimumKernelHeight": 5.0},
        {"streakMaskName": "STREAK"},
        {"detect.tempWideBackground.binSize": 512},
        {"scaleWarpVariance.background.approxOrderX": 6},
        {"scaleWarpVariance.background.superPixelFilterSize": 3},
        {"scaleWarpVariance.background.binSizeX": 0},
        {"scaleWarpVariance.background.doFilterSuperPixels": False},
    ],
)
def test_bookkeeping_is_accepted_and_changes_nothing(overrides):
    assert CoaddConfig.from_lsst(overrides) == CoaddConfig()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"detect.thresholdVal": 5}, "no configuration field 'detect.thresholdVal'; nearest: detect.thresholdValue"),
        ({"temporalThreshold": 1}, "no configuration field 'temporalThreshold'"),
        ({"statistic": "MEDIANCLIP"}, "statistic must be one of MEAN"),
        ({"statistic": "ERRORS"}, "statistic must be one of"),
        ({"statistic": "SUM"}, "interpolation \\(doInterp\\) needs statistic"),
        ({"maskPropagationThresholds": {"SAT": -0.1}}, "of SAT must be a share from 0 on, got -0.1"),
        ({"maskPropagationThresholds": {"CR": math.nan}}, "of CR must be a share from 0 on, got nan"),
        ({"sigmaClip": 0}, "sigmaClip\\) must be positive"),
        ({"clipIter": 0}, "clipIter\\) must be at least 1"),
        ({"clipIter": 1.5}, "clipIter must be int, got 1.5"),
        ({"sigmaClip": "wide"}, "sigmaClip must be float, got 'wide'"),
        ({"doInterp": 1}, "doInterp must be true or false, got 1"),
        ({"sigmaClip": True}, "sigmaClip must be float, got True"),
        ({"badMaskPlanes": "SAT"}, "badMaskPlanes must be a list of strings"),
        ({"badMaskPlanes": [1]}, "badMaskPlanes must be a list of strings"),
        ({"maskPropagationThresholds": 0.1}, "must be a table"),
        ({"maskPropagationThresholds": {"SAT": "x"}}, "of SAT must be a share from 0 on, got 'x'"),
        ({"warpType": "both"}, "warpType\\) must be one of direct, psfMatched"),
        ({"interpImage.fallbackValueType": "MODE"}, "fallbackValueType\\) must be one of"),
        ({"detect.thresholdValue": 0}, "thresholdValue\\) must be positive"),
        ({"detect.thresholdType": "sigma"}, "thresholdType\\) must be one of"),
        ({"detect.thresholdPolarity": "up"}, "thresholdPolarity\\) must be one of"),
        ({"detect.minPixels": -1}, "minPixels\\) must be at least 0"),
        ({"detect.nSigmaToGrow": -1}, "nSigmaToGrow\\) must be at least 0"),
        ({"detect.includeThresholdMultiplier": -1}, "includeThresholdMultiplier"),
        ({"detect.nSigmaForKernel": -1}, "nSigmaForKernel"),
        ({"maxFractionEpochsLow": 1.0}, "maxFractionEpochsLow\\) must be from 0 to below 1"),
        ({"maxFractionEpochsHigh": -0.1}, "maxFractionEpochsHigh"),
        ({"spatialThreshold": 1.1}, "spatialThreshold\\) must be from 0 to 1"),
        ({"spatialThreshold": float("nan")}, "spatialThreshold"),
        ({"prefilterArtifactsRatio": float("nan")}, "prefilterArtifactsRatio"),
        ({"prefilterArtifactsMaskPlanes": ["BAD", "DETECTED"]}, "cannot hold DETECTED"),
        ({"scaleWarpVariance.limit": 0}, "scaleWarpVariance.limit\\) must be positive"),
        ({"scaleWarpVariance.background.binSize": 0}, "binSize"),
        ({"scaleWarpVariance.background.binSizeY": 16}, "background.binSizeY must be off: cells are square.* got 16"),
        ({"scaleWarpVariance.background.doFilterSuperPixels": True}, "doFilterSuperPixels must be off"),
        ({"detectTemplateIterMultiplier": 0}, "detectTemplateIterMultiplier\\) must be positive"),
        ({"maxDetectTemplateIter": 0}, "maxDetectTemplateIter"),
        ({"doScaleZeroPoint": True}, r"zero-point scaling is left out; give .* WarpStack.scaled \(--flux-factors\)"),
        ({"scaleZeroPoint.zeroPoint": 27.0}, "zero-point scaling is left out"),
        ({"maskStreaks.nSigmaMask": -5}, r"lsst_streaks.mask_sigmas \(maskStreaks.nSigmaMask\) must be at least 0"),
        ({"maskStreaks.nSigmaMasks": 5}, "no configuration field 'maskStreaks.nSigmaMasks'; nearest: .*nSigmaMask"),
        (
            {"assembleStaticSkyModel.doMaskBrightObjects": True},
            "assembleStaticSkyModel.doMaskBrightObjects\\) must be off: it is for the final coadd",
        ),
        ({"assembleStaticSkyModel.doInputMap": True}, "template.input_map.enabled .*doInputMap\\) must be off"),
        ({"assembleStaticSkyModel.doSelectVisits": True}, "assembleStaticSkyModel.doSelectVisits\\) must be off"),
        ({"brightObjectMaskName": "bright"}, "brightObjectMaskName\\) must be .* in upper case, got 'bright'"),
        ({"brightObjectMaskName": ""}, "brightObjectMaskName\\) must be the name of a mask plane"),
        ({"inputMapper.nside": 1000}, "inputMapper.nside\\) must be a power of 2 to 2\\*\\*29, got 1000"),
        ({"inputMapper.nside": 1 << 30}, "inputMapper.nside\\) must be a power of 2"),
        ({"inputMapper.nside_coverage": 0}, "inputMapper.nside_coverage\\) must be a power of 2"),
        ({"inputMapper.nside": 128}, "nside_coverage\\) must not be above nside, got 256 and 128"),
        ({"inputMapper.bad_mask_min_coverage": -0.5}, "bad_mask_min_coverage\\) must be at least 0"),
        ({"inputMapper.bad_mask_min_coverage": math.nan}, "bad_mask_min_coverage\\) must be at least 0"),
        ({"inputMapper.nsides": 64}, "no configuration field 'inputMapper.nsides'; nearest: inputMapper.nside"),
        ({"assembleStaticSkyModel.doNImage": True}, "assembleStaticSkyModel.doNImage must be False"),
        ({"assembleStaticSkyModel.doWriteArtifactMasks": True}, "must be False"),
        (
            {"assembleStaticSkyModel.doWrite": True, "assembleStaticSkyModel.warpType": "direct"},
            "assembleStaticSkyModel.warpType must differ from warpType",
        ),
    ],
)
def test_what_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        CoaddConfig.from_lsst(overrides)


def test_lists_and_maps():
    names = {"doMaskBrightObjects": True, "brightObjectMaskName": "STAR", "doSelectVisits": True, "doInputMap": True}
    config = CoaddConfig.from_lsst({**names, "inputMapper.nside": 1024, "inputMapper.bad_mask_min_coverage": 1})
    for stacking in (config.stacking, AssemblyConfig.from_lsst({**names, "inputMapper.nside": 1024})):
        assert stacking.mask_bright_objects and stacking.select_epochs and stacking.bright_object_plane == "STAR"
        assert stacking.input_map.enabled and stacking.input_map.nside == 1024
    assert config.stacking.input_map == InputMap(enabled=True, nside=1024, max_bad_share=1.0)
    assert config.template == CoaddConfig().template
    assert CoaddConfig.from_names({"stacking.input_map.nside": 512}).stacking.input_map.nside == 512


def test_base_task_writes_no_artifact_masks():
    with pytest.raises(ValueError, match="artifact-rejecting coadd only"):
        AssemblyConfig.from_lsst({"doWriteArtifactMasks": True})
    with pytest.raises(ValueError, match=r"no configuration field 'detect\.thresholdValue'"):
        AssemblyConfig.from_lsst({"detect.thresholdValue": 5})
    assert AssemblyConfig.from_lsst({"statistic": "MEDIAN", "subregionSize": [9, 9]}).statistic == "MEDIAN"


def test_options_are_frozen():
    for options in (
        AssemblyConfig(),
        Clipping(),
        CoaddConfig(),
        Detection(),
        InputMap(),
        Interpolation(),
        Persistence(),
        Prefilter(),
        VarianceScaling(),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(options, dataclasses.fields(options)[0].name, 1)


def test_names_for_files():
    names = CoaddConfig(detection=Detection(threshold=6.0)).as_names()
    assert names["detection.threshold"] == 6.0
    assert names["stacking.clipping.sigma"] == 3.0
    assert CoaddConfig.from_names(names) == CoaddConfig(detection=Detection(threshold=6.0))


def test_the_page_for_lsst_users_names_every_field():
    page = (Path(__file__).parents[1] / "docs" / "coming-from-lsst.md").read_text()
    for path, lsst, _ in leaves(CoaddConfig()):
        if lsst is not None:
            assert f"`{lsst.removeprefix('assembleStaticSkyModel.')}`" in page, lsst
        if path[0] != "template":
            assert f"`{'.'.join(path)}`" in page, path
