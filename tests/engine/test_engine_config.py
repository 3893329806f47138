"""Configuration of the coadd tasks: fields, defaults, validation, and the options they become."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import goldens
import numpy as np
import pytest
from config_tools import get, put
from lsst.pex.config import Field, FieldValidationError
from lsst_defaults import BASE, COMPARE_WARP, DETECTION

import gpucoadd
from gpucoadd.lsst import (
    AssembleCoaddConfig,
    AssembleCoaddTask,
    CompareWarpAssembleCoaddConfig,
    assembly_options,
    coadd_options,
)
from gpucoadd.lsst.config_names import check_options, dotted_names
from gpucoadd.lsst.open_config import OpenConfig
from gpucoadd.lsst.subtask_configs import DetectionConfig, SourceDetectionTask

OURS = {"inputStorageClass": "ExposureF", "device": "auto", "memory": None, "threads": None}


@pytest.mark.parametrize(
    ("config_class", "defaults"),
    [
        (AssembleCoaddConfig, {**BASE, **OURS}),
        (DetectionConfig, DETECTION),
        (CompareWarpAssembleCoaddConfig, {**COMPARE_WARP, **OURS, "saveCountIm": False, "figPath": ".", "options": {}}),
    ],
)
def test_defaults(config_class, defaults):
    config = config_class()
    assert {name: get(config, name) for name in defaults} == defaults


@pytest.mark.parametrize(
    ("config_class", "known"),
    [
        (AssembleCoaddConfig, {*BASE, *OURS, "select", "inputRecorder", "scaleZeroPoint"}),
        (DetectionConfig, {*DETECTION, "background", "tempLocalBackground", "tempWideBackground"}),
    ],
)
def test_every_field_is_in_the_table(config_class, known):
    assert set(config_class._fields) == {name.partition(".")[0] for name in known}


def test_default_options_are_the_defaults():
    for config in (CompareWarpAssembleCoaddConfig(), AssembleCoaddConfig()):
        config.validate()
    assert coadd_options(CompareWarpAssembleCoaddConfig()) == gpucoadd.CoaddConfig()
    assert assembly_options(AssembleCoaddConfig()) == gpucoadd.AssemblyConfig()
    assert assembly_options(CompareWarpAssembleCoaddConfig()) == gpucoadd.CoaddConfig().stacking
    template = assembly_options(CompareWarpAssembleCoaddConfig().assembleStaticSkyModel.value)
    assert template == gpucoadd.CoaddConfig().template


@pytest.mark.parametrize("path", goldens.paths(), ids=lambda path: path.stem)
def test_overrides_of_the_reference_outputs(path):
    golden = goldens.load(path)
    if golden.meta.get("base_task"):
        config = put(AssembleCoaddConfig(), golden.overrides)
        assert assembly_options(config) == gpucoadd.AssemblyConfig.from_lsst(golden.overrides)
    else:
        config = put(CompareWarpAssembleCoaddConfig(), golden.overrides)
        assert coadd_options(config) == gpucoadd.CoaddConfig.from_lsst(golden.overrides)
    config.validate()


CHANGES = {
    "detect.thresholdValue": 5,
    "detect.excludeMaskPlanes": ["CR"],
    "detectTemplate.reEstimateBackground": False,
    "assembleStaticSkyModel.statistic": "MEDIAN",
    "assembleStaticSkyModel.interpImage.transpose": True,
    "scaleWarpVariance.limit": 2.0,
    "scaleWarpVariance.background.binSize": 64,
    "maskStreaks.onlyMaskDetected": False,
    "inputMapper.nside": 1024,
    "interpImage.fallbackValueType": "USER",
    "maskPropagationThresholds": {"CR": 0.2},
    "subregionSize": [50, 37],
    "saveCountIm": True,
    "figPath": "here",
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_level_reaches_the_options(name):
    config = put(CompareWarpAssembleCoaddConfig(), {name: CHANGES[name]})
    assert coadd_options(config) == gpucoadd.CoaddConfig.from_lsst({name: CHANGES[name]})
    assert (coadd_options(config) == gpucoadd.CoaddConfig()) is (name == "subregionSize")


def test_what_is_not_run_has_no_effect():
    config = CompareWarpAssembleCoaddConfig()
    config.select.maxEllipResidual = 0.007
    config.inputRecorder.saveEmptyCcds = True
    config.scaleZeroPoint.zeroPoint = 30.0
    config.scaleZeroPoint.selectFluxMag0.retarget(object)
    config.scaleZeroPoint.selectFluxMag0.database = "none"
    config.coaddPsf.warpingKernelName = "lanczos5"
    config.interpImage.modelPsf.defaultFwhm = 3.0
    config.detect.background.ignoredPixelMask = ["BAD"]
    config.validate()
    assert coadd_options(config) == gpucoadd.CoaddConfig()
    assert config.select.maxEllipResidual == 0.007
    assert config.scaleZeroPoint.selectFluxMag0.database == "none"
    assert config.detect.background.toDict() == {"others": {"ignoredPixelMask": ["BAD"]}}


def test_what_is_not_run_has_no_defaults():
    config = CompareWarpAssembleCoaddConfig()
    ours = r"^detect\.background\."
    with pytest.raises(
        AttributeError, match=ours + r"ignoredPixelMask has no method 'append': .* not run here, .* assign a value"
    ):
        config.detect.background.ignoredPixelMask.append("CR")
    with pytest.raises(AttributeError, match=r"^select has no method 'read': it is of a subtask"):
        config.select.read("x")
    with pytest.raises(AttributeError, match=ours + "useApprox was not set: it is of a subtask that is not run here"):
        assert config.detect.background.useApprox
    with pytest.raises(AttributeError, match="OpenConfig has no attribute '_hidden'"):
        _ = config.select._hidden
    with pytest.raises(AttributeError, match=ours + r"useApprox has no attribute '_hidden'"):
        _ = config.detect.background.useApprox._hidden
    with pytest.raises(FieldValidationError, match="plugin must be a number, text, list or dict of such, got object"):
        config.select.plugin = object()
    with pytest.raises(NotImplementedError, match="NotRun is not run here: it stands for a task of LSST's"):
        config.select.apply(name="select")
    config.freeze()
    with pytest.raises(FieldValidationError, match="Cannot modify a frozen Config"):
        config.select.maxEllipResidual = 1.0
    with pytest.raises(FieldValidationError, match="Cannot modify a frozen Config; warpingKernelName was to be 'x'"):
        config.coaddPsf.warpingKernelName = "x"


@pytest.mark.parametrize(
    "name",
    [
        "temporalThreshold",
        "chiThreshold",
        "detect.thresholdVal",
        "maskStreaks.nSigmaMasks",
        "scaleWarpVariance.background.binsize",
        "assembleStaticSkyModel.doScaleWarpVariance",
        "interpImage.transposed",
        "inputMapper.nsides",
        "connections.warps",
    ],
)
def test_unknown_fields(name):
    with pytest.raises(AttributeError, match=f"has no attribute {name.rpartition('.')[2]}$"):
        put(CompareWarpAssembleCoaddConfig(), {name: 1})


def test_base_task_has_no_fields_of_the_search():
    with pytest.raises(AttributeError, match="AssembleCoaddConfig has no attribute maxNumEpochs"):
        AssembleCoaddConfig().maxNumEpochs = 3


WHEN_SET = [
    ("maxFractionEpochsLow", 1.0, r"1.0 is outside of valid range \[0.0,1.0\)"),
    ("maxFractionEpochsHigh", -0.1, "outside of valid range"),
    ("spatialThreshold", 1.1, r"1.1 is outside of valid range \[0.0,1.0\]"),
    ("detect.thresholdType", "sigma", "Value sigma is not allowed"),
    ("detect.thresholdPolarity", "up", "Value up is not allowed"),
    ("detect.minPixels", -1, "outside of valid range"),
    ("detect.thresholdValue", 0.0, "outside of valid range"),
    ("detectTemplate.nSigmaToGrow", -1.0, "outside of valid range"),
    ("detectTemplate.nSigmaForKernel", -1.0, "outside of valid range"),
    ("detect.includeThresholdMultiplier", -1.0, "outside of valid range"),
    ("warpType", "both", "Value both is not allowed"),
    ("interpImage.fallbackValueType", "MODE", "Value MODE is not allowed"),
    ("scaleWarpVariance.limit", 0.0, "outside of valid range"),
    ("scaleWarpVariance.background.binSize", 0, "outside of valid range"),
    ("inputStorageClass", "ExposureD", "Value ExposureD is not allowed"),
    ("memory", 0, "outside of valid range"),
    ("device", "tpu", "device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got 'tpu'"),
    ("device", "cpu:1", "device must be"),
    ("threads", 0, "outside of valid range"),
    ("clipIter", 1.5, "incorrect type float"),
    ("doInterp", "yes", "incorrect type str"),
    ("badMaskPlanes", [1], "incorrect type int"),
    ("options", {"streaks.enabled": True}, "incorrect type bool"),
]


@pytest.mark.parametrize(("name", "value", "message"), WHEN_SET)
def test_refused_when_set(name, value, message):
    with pytest.raises(FieldValidationError, match=message) as caught:
        put(CompareWarpAssembleCoaddConfig(), {name: value})
    assert caught.value.fullname == name


@pytest.mark.parametrize("word", ["auto", "cpu", "cuda", "cuda:3", "gpu", "gpu:0"])
def test_words_of_a_device(word):
    config = put(CompareWarpAssembleCoaddConfig(), {"device": word})
    config.validate()
    assert config.device == word


def test_a_loose_configuration_has_no_path():
    with pytest.raises(AttributeError, match=r"^this configuration has no method 'read'"):
        OpenConfig().read("x")
    with pytest.raises(AttributeError, match=r"^fieldsA\.b has no method 'append'"):
        OpenConfig().fieldsA.b.append("x")


def test_a_region_has_two_sides():
    with pytest.raises(FieldValidationError, match="subregionSize"):
        put(CompareWarpAssembleCoaddConfig(), {"subregionSize": [2000]}).validate()


SKY = "assembleStaticSkyModel."
TOGETHER = [
    ({"statistic": "SUM"}, "doInterp", "needs statistic to be one of MEAN"),
    ({"statistic": "ERRORS", "doInterp": False}, "statistic", "statistic must be one of"),
    ({"statistic": "NOTHING", "doInterp": False}, "statistic", "statistic must be one of"),
    ({SKY + "statistic": "ORMASK"}, SKY + "statistic", "statistic must be one of"),
    ({"sigmaClip": 0.0}, "sigmaClip", "must be positive"),
    ({"clipIter": 0}, "clipIter", "at least 1"),
    ({"detectTemplateIterMultiplier": 0.0}, "detectTemplateIterMultiplier", "must be positive"),
    ({"prefilterArtifactsMaskPlanes": ["DETECTED"]}, "prefilterArtifactsMaskPlanes", "cannot hold DETECTED"),
    ({"prefilterArtifactsRatio": math.nan}, "prefilterArtifactsRatio", "must be a number"),
    ({"maskPropagationThresholds": {"CR": -1.0}}, "maskPropagationThresholds", "of CR must be a share"),
    ({"brightObjectMaskName": "bright"}, "brightObjectMaskName", "in upper case"),
    ({"doScaleZeroPoint": True}, "doScaleZeroPoint", "zero-point scaling is left out"),
    ({"inputMapper.nside": 1000}, "inputMapper.nside", "power of 2"),
    (
        {"scaleWarpVariance.background.binSizeX": 16},
        "scaleWarpVariance.background.binSizeX",
        "must be off: cells are square",
    ),
    ({SKY + "doNImage": True}, SKY + "doNImage", "must be False: the template has no contribution image"),
    ({SKY + "doWrite": True, SKY + "warpType": "direct"}, SKY + "warpType", "must differ from warpType"),
    ({SKY + "doWriteArtifactMasks": True}, SKY + "doWriteArtifactMasks", "artifact-rejecting coadd only"),
    (
        {"doInputMap": True, "inputStorageClass": "PlainMaskedImage"},
        "doInputMap",
        "must be False with inputStorageClass PlainMaskedImage: .* do not carry .* coadd ExposureF, or give",
    ),
    ({SKY + "doInputMap": True}, SKY + "doInputMap", "must be off: it is for the final coadd"),
    ({"options": {"streaks.length": "9"}}, "options", r"no configuration field 'streaks\.length'; nearest: streaks"),
    ({"options": {"streaks.clip": "-1"}}, "options", "streaks.clip must be positive"),
    (
        {"options": {"streaks.enabled": "true"}, "doFilterMorphological": True},
        "doFilterMorphological",
        "are both enabled; choose one",
    ),
]


@pytest.mark.parametrize(("names", "field", "message"), TOGETHER)
def test_refused_by_validation(names, field, message):
    config = put(CompareWarpAssembleCoaddConfig(), names)
    with pytest.raises(FieldValidationError, match=message) as caught:
        config.validate()
    assert (caught.value.fullname or "").endswith(field)


def test_what_names_no_field_stays_a_value_error():
    config = CompareWarpAssembleCoaddConfig()

    def refuse():
        raise ValueError("of no field")

    with pytest.raises(ValueError, match=r"^of no field$"):
        check_options(config, refuse)


def test_base_task_writes_no_artifact_masks():
    with pytest.raises(FieldValidationError, match="artifact-rejecting coadd only") as caught:
        AssembleCoaddConfig(doWriteArtifactMasks=True).validate()
    assert caught.value.fullname == "doWriteArtifactMasks"


def test_template_may_be_written():
    put(CompareWarpAssembleCoaddConfig(), {SKY + "doWrite": True}).validate()


def test_further_options():
    config = put(CompareWarpAssembleCoaddConfig(), {"detect.minPixels": 9})
    config.options = {"streaks.enabled": "true", "streaks.clip": "4"}
    config.validate()
    options = coadd_options(config)
    assert options.streaks.enabled is True and options.streaks.clip == 4.0 and options.detection.min_pixels == 9


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("stacking.reject", "badMaskPlanes"),
        ("template.statistic", "assembleStaticSkyModel.statistic"),
        ("detect.minPixels", "detect.minPixels"),
        ("save_count_image", "saveCountIm"),
    ],
)
def test_options_that_have_a_field(name, field):
    config = CompareWarpAssembleCoaddConfig()
    config.options = {name: "1"}
    with pytest.raises(FieldValidationError, match=f"options: {name} has a field of its own, {field}; set that"):
        config.validate()


def test_configurations_made_of_ours():
    class Detection(DetectionConfig):
        another = Field(doc="Of somebody else", dtype=str, default="x")

    class Mine(CompareWarpAssembleCoaddConfig):
        extra = Field(doc="Of somebody else", dtype=int, default=3)

    class Base(AssembleCoaddConfig):
        extra = Field(doc="Of somebody else", dtype=int, default=3)

    mine = put(Mine(), {"detect.minPixels": 9})
    mine.validate()
    assert coadd_options(mine) == coadd_options(put(CompareWarpAssembleCoaddConfig(), {"detect.minPixels": 9}))
    Base().validate()
    assert assembly_options(Base()) == assembly_options(AssembleCoaddConfig())
    assert dict(dotted_names(Detection())) == dict(dotted_names(DetectionConfig()))


def test_numbers_of_numpy_are_kept_as_pythons():
    config = CompareWarpAssembleCoaddConfig()
    config.select.x = [np.float64(3.5), {"n": np.int32(2)}]
    assert config.select.x == [3.5, {"n": 2}] and type(config.select.x[0]) is float
    again = CompareWarpAssembleCoaddConfig()
    again.loadFromString(config.saveToString())
    assert again.select.x == [3.5, {"n": 2}]


@pytest.mark.parametrize(
    "field", ["interpImage", "inputMapper", "assembleStaticSkyModel", "detect", "detectTemplate", "maskStreaks"]
)
def test_what_is_run_here_is_not_retargeted(field):
    config = CompareWarpAssembleCoaddConfig()
    with pytest.raises(FieldValidationError, match=r"OtherTask is not run here: .* what .*Task does in LSST") as caught:
        getattr(config, field).retarget(OtherTask)
    assert caught.value.fieldName == field


def test_retargeting_to_the_same_task_keeps_values():
    config = put(CompareWarpAssembleCoaddConfig(), {"detect.minPixels": 9})
    target = type("SourceDetectionTask", (), {"ConfigClass": DetectionConfig})
    config.detect.retarget(target)
    assert config.detect.minPixels == 9 and config.detect.ConfigClass is DetectionConfig
    assert config.detect.target is SourceDetectionTask
    config.assembleStaticSkyModel.retarget(AssembleCoaddTask)
    assert "assembleStaticSkyModel.retarget" not in config.saveToString(skipImports=True)


def test_the_base_task_is_the_target():
    """Also where only configurations were imported; and what stands for it until then makes it."""
    code = (
        "from gpucoadd.lsst import CompareWarpAssembleCoaddConfig as Config\n"
        "later = Config.assembleStaticSkyModel.target\n"
        "target = Config().assembleStaticSkyModel.target\n"
        "import gpucoadd.lsst\n"
        "assert target is gpucoadd.lsst.AssembleCoaddTask is Config.assembleStaticSkyModel.target\n"
        "assert later is not target and type(later()) is target\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert CompareWarpAssembleCoaddConfig().assembleStaticSkyModel.target is AssembleCoaddTask


class OtherTask:
    ConfigClass = DetectionConfig


def test_saved_and_loaded_again(tmp_path):
    config = put(CompareWarpAssembleCoaddConfig(), CHANGES)
    config.select.maxEllipResidual = math.nan
    config.coaddPsf.warpingKernelName = "lanczos5"
    config.scaleZeroPoint.selectFluxMag0.values = [1, 2.5, "x"]
    config.options = {"streaks.enabled": "true"}
    config.save(str(tmp_path / "config.py"))
    again = CompareWarpAssembleCoaddConfig()
    assert not again.compare(config)
    again.load(str(tmp_path / "config.py"))
    assert again.saveToString() == config.saveToString()
    assert math.isnan(again.select.maxEllipResidual)
    assert again.scaleZeroPoint.selectFluxMag0.values == [1, 2.5, "x"]
    config.select.maxEllipResidual = again.select.maxEllipResidual = 1.0
    assert again.compare(config)
    again.scaleZeroPoint.selectFluxMag0.values = []
    differences = []
    assert not again.compare(config, output=differences.append)
    assert "scaleZeroPoint" in differences[0]


def test_copied_and_pickled():
    config = put(CompareWarpAssembleCoaddConfig(), CHANGES)
    config.select.maxEllipResidual = 1.0
    for again in (config.copy(), pickle.loads(pickle.dumps(config))):
        assert again.compare(config)
        again.select.maxEllipResidual = 2.0
        assert config.select.maxEllipResidual == 1.0
