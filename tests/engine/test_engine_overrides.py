"""Files written for LSST's tasks, loaded without LSST."""

from __future__ import annotations

import builtins
import importlib
import subprocess
import sys
from pathlib import Path

import lsst.pipe
import pytest
from config_tools import get
from lsst.pex.config import FieldValidationError
from lsst.pipe.base.configOverrides import ConfigOverrides
from lsst_defaults import COMPARE_WARP

import gpucoadd
from gpucoadd.lsst import (
    AssembleCoaddConfig,
    CompareWarpAssembleCoaddConfig,
    CompareWarpAssembleCoaddTask,
    coadd_options,
    stand_ins,
)
from gpucoadd.lsst.overrides import standing_in

DATA = Path(__file__).parents[1] / "data" / "lsst_config"
DUMP = DATA / "compare_warp_dump.py"
FIRST_LINE = "lsst.drp.tasks.assemble_coadd"
OLD = "lsst.pipe.tasks.assembleCoadd"


@pytest.fixture
def config():
    return CompareWarpAssembleCoaddConfig()


@pytest.fixture(autouse=True)
def no_trace():
    """No module, no attribute of one and no hook is left, whether loading fails or not."""
    before = set(sys.modules), set(vars(lsst)), set(vars(lsst.pipe)), list(sys.meta_path), builtins.__import__
    yield
    assert list(sys.meta_path) == before[3] and builtins.__import__ is before[4]
    assert {name for name in set(sys.modules) - before[0] if name.startswith("lsst.")} == set()
    assert set(vars(lsst)) == before[1] and set(vars(lsst.pipe)) == before[2]
    for name in ("lsst.drp.tasks.assemble_coadd", "lsst.pipe.tasks", "lsst.afw"):
        with pytest.raises(ModuleNotFoundError, match="No module named 'lsst"):
            importlib.import_module(name)


def test_default_dump(config):
    plain = CompareWarpAssembleCoaddConfig()
    config.load(DUMP)
    config.validate()
    assert coadd_options(config) == gpucoadd.CoaddConfig()
    assert {name: get(config, name) for name in COMPARE_WARP} == COMPARE_WARP
    for name in config._fields.keys() - {"select", "inputRecorder", "scaleZeroPoint", "coaddPsf", "interpImage"}:
        if name not in ("detect", "detectTemplate", "assembleStaticSkyModel", "scaleWarpVariance"):
            assert config._fields[name]._compare(config, plain, True, 0, 0, print), name
    assert config.select.excludeDetectors == [1, 2]
    assert config.select.target.__name__ == "lsst.pipe.tasks.selectImages.PsfWcsSelectImagesTask"
    assert config.detect.tempWideBackground.binSize == 512


def test_dump_changes_what_it_says(config):
    text = DUMP.read_text()
    assert "config.detect.thresholdValue=7.5\n" in text
    config.loadFromString(text.replace("config.detect.thresholdValue=7.5\n", "config.detect.thresholdValue=6.5\n"))
    assert coadd_options(config) == gpucoadd.CoaddConfig.from_lsst({"detect.thresholdValue": 6.5})


def test_older_dumps(config):
    new = "assert type(config) is lsst.drp.tasks.assemble_coadd.CompareWarpAssembleCoaddConfig, f"
    assert new in DUMP.read_text()
    text = DUMP.read_text().replace(new, "assert type(config)==" + new.split()[3] + " ").replace(FIRST_LINE, OLD)
    text = text.replace(', f"config', ', "config')
    with open(DUMP) as stream:
        config.loadFromStream(stream)
    config.loadFromStream(text)
    assert coadd_options(config) == gpucoadd.CoaddConfig()


@pytest.mark.parametrize("module", [FIRST_LINE, OLD])
def test_dump_of_another_task(module):
    text = DUMP.read_text().replace(FIRST_LINE, module)
    message = (
        f"config is of type gpucoadd.lsst.configs.AssembleCoaddConfig instead of {module}.CompareWarpAssembleCoadd"
    )
    with pytest.raises(AssertionError, match=message):
        AssembleCoaddConfig().loadFromString(text)
    other = text.replace("CompareWarpAssembleCoaddConfig", "DcrAssembleCoaddConfig")
    with pytest.raises(AssertionError, match=r"instead of .*DcrAssembleCoaddConfig"):
        CompareWarpAssembleCoaddConfig().loadFromString(other)


def test_observatory(config):
    config.load(str(DATA / "observatory.py"))
    config.validate()
    assert coadd_options(config) == gpucoadd.CoaddConfig.from_lsst(
        {
            "doSelectVisits": True,
            "doMaskBrightObjects": True,
            "brightObjectMaskName": "BRIGHT",
            "badMaskPlanes": ["NO_DATA", "BAD", "CR", "SUSPECT", "CROSSTALK"],
            "removeMaskPlanes": ["EDGE", "CROSSTALK"],
            "maskPropagationThresholds": {"SAT": 0.1, "CROSSTALK": 0.1},
            "detect.excludeMaskPlanes": ["VIGNETTED"],
            "detectTemplate.excludeMaskPlanes": ["VIGNETTED"],
            "interpImage.transpose": True,
            "assembleStaticSkyModel.interpImage.transpose": True,
        }
    )
    assert config.detect.background.useApprox is False and config.select.maxEllipResidual == 0.01
    assert config.ConnectionsClass(config=config).coaddExposure.name == "goodSeeing_coadd_predetection"


def test_retargeted(config):
    config.load(DATA / "retargeted.py")
    config.validate()
    names = {
        "doFilterMorphological": True,
        "maskStreaks.onlyMaskDetected": False,
        "assembleStaticSkyModel.statistic": "MEDIAN",
    }
    assert coadd_options(config) == gpucoadd.CoaddConfig.from_lsst(names)
    assert config.inputRecorder.saveEmptyCcds is True
    target = "lsst.pipe.tasks.selectImages.BestSeeingSelectVisitsTask"
    assert config.assembleStaticSkyModel.select.target is stand_ins.stand_in(target)
    assert config.scaleZeroPoint.interpStyle == "NATURAL_SPLINE"


def test_survey(config):
    config.load(DATA / "survey.py")
    config.validate()
    planes = [*gpucoadd.VarianceScaling().mask_planes, "CR"]
    assert coadd_options(config) == gpucoadd.CoaddConfig.from_lsst(
        {
            "maxNumEpochs": 3,
            "maxFractionEpochsLow": 0.5,
            "maxFractionEpochsHigh": 0.05,
            "prefilterArtifactsMaskPlanes": ["NO_DATA", "BAD"],
            "detect.thresholdValue": 5.0,
            "detectTemplate.thresholdValue": 100.0,
            "detectTemplate.nSigmaToGrow": 3.0,
            "scaleWarpVariance.background.binSize": 64,
            "scaleWarpVariance.maskPlanes": planes,
            "assembleStaticSkyModel.clipIter": 4,
        }
    )
    assert config.doNImage and config.doWriteArtifactMasks


@pytest.mark.parametrize("name", ["observatory", "retargeted", "survey", "compare_warp_dump"])
def test_saved_and_loaded_again(name, config, tmp_path):
    config.load(DATA / f"{name}.py")
    config.save(str(tmp_path / "saved.py"))
    again = CompareWarpAssembleCoaddConfig()
    again.load(str(tmp_path / "saved.py"))
    assert again.compare(config, output=print)
    assert again.select.target is config.select.target
    assert again.saveToString() == config.saveToString()


def _saved_elsewhere(code, path):
    """What a configuration `c`, made by `code`, is saved as in an interpreter of its own."""
    code = f"import sys; path = sys.argv[1]; {code}; c.validate(); sys.stdout.write(c.saveToString())"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_elsewhere(config, tmp_path):
    config.load(DATA / "retargeted.py")
    config.save(str(tmp_path / "saved.py"))
    text = config.saveToString()
    engine = "from lsst.pex.config import Config; c = Config._fromPython(open(path).read())"
    assert _saved_elsewhere(engine, tmp_path / "saved.py") == text
    ours = (
        "from gpucoadd.lsst import CompareWarpAssembleCoaddConfig; c = CompareWarpAssembleCoaddConfig(); c.load(path)"
    )
    assert _saved_elsewhere(ours, DATA / "retargeted.py") == text


def test_through_the_engine(config):
    overrides = ConfigOverrides()
    overrides.addFileOverride(str(DATA / "observatory.py"))
    overrides.addValueOverride("detect.thresholdValue", "6.0")
    overrides.addFileOverride(str(DATA / "retargeted.py"))
    overrides.applyTo(config)
    assert config.detect.thresholdValue == 6.0 and config.brightObjectMaskName == "BRIGHT"
    assert config.assembleStaticSkyModel.statistic == "MEDIAN"


PIPELINE = f"""
description: an artifact-rejecting coadd
tasks:
  assemble:
    class: gpucoadd.lsst.CompareWarpAssembleCoaddTask
    config:
      - file: {DATA / "observatory.py"}
        python: |
          from lsst.pipe.tasks.selectImages import WcsSelectImagesTask
          import lsst.drp.tasks.assemble_coadd
          assert type(config) is lsst.drp.tasks.assemble_coadd.CompareWarpAssembleCoaddConfig
          config.select.retarget(WcsSelectImagesTask)
        maxNumEpochs: 4
"""


def test_pipetask(tmp_path):
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    command = ["-m", "lsst.ctrl.mpexec.cli.pipetask", "build", "-p", str(tmp_path / "pipeline.yaml")]
    command += ["-C", f"assemble:{DATA / 'survey.py'}", "-c", "assemble:detect.minPixels=7", "--show", "config"]
    code = f"import sys; from lsst.ctrl.mpexec.cli.pipetask import main; sys.argv[1:] = {command[2:]!r}; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in (
        "config.detect.minPixels=7",
        "config.detect.thresholdValue=5.0",
        "config.maxNumEpochs=3",
        "config.brightObjectMaskName='BRIGHT'",
        "config.select.retarget(target=gpucoadd.lsst.stand_ins.lsst.pipe.tasks.selectImages.WcsSelectImagesTask, ",
        "config.connections.outputCoaddName='goodSeeing'",
    ):
        assert line in done.stdout


def test_task_may_be_made(config):
    config.load(DATA / "retargeted.py")
    task = CompareWarpAssembleCoaddTask(config=config)
    assert type(task.assembleStaticSkyModel).__name__ == "AssembleCoaddTask"
    assert type(task.assembleStaticSkyModel).__module__ == "gpucoadd.lsst.assemble_coadd"


REFUSED = [
    (
        "from lsst.pipe.tasks.other import OtherTask\nconfig.detect.retarget(OtherTask)",
        FieldValidationError,
        r"lsst.pipe.tasks.other.OtherTask is not run here: .* what SourceDetectionTask does in LSST",
    ),
    (
        "import lsst.drp.tasks.assemble_coadd as m\n"
        "config.assembleStaticSkyModel.retarget(m.CompareWarpAssembleCoaddTask)",
        FieldValidationError,
        "CompareWarpAssembleCoaddTask is not run here: .* what AssembleCoaddTask does in LSST",
    ),
    ("config.detect.thresholdVal = 3", AttributeError, "has no attribute thresholdVal"),
    ("config.nothing = 3", AttributeError, "has no attribute nothing"),
    ("from lsst.pex.config import Nothing", ImportError, "cannot import name 'Nothing'"),
    ("import lsst.pex.config\nlsst.pex.config.Nothing", AttributeError, "'lsst.pex.config' has no attribute 'Nothing'"),
    ("import nosuch.module", ModuleNotFoundError, "No module named 'nosuch'"),
    ("from lsst.pipe.tasks.a import ATask\nATask()", NotImplementedError, "is not run here: it stands for a task"),
]


@pytest.mark.parametrize(("text", "error", "message"), REFUSED)
def test_refused(text, error, message, config):
    with pytest.raises(error, match=message):
        config.loadFromString(text)


def test_what_is_installed_is_itself(config):
    text = "import lsst.pex.config, lsst.utils, os\nfrom lsst.pipe import base\nfrom lsst.pipe.base import Struct\n"
    text += "found.extend([lsst.pex.config.Config, lsst.utils.getPackageDir, base.Task, Struct, os])\n"
    text += "def inner():\n    import lsst.pipe.tasks.x\n    return lsst.pipe.tasks.x.YTask\nfound.append(inner())\n"
    found = []
    config.loadFromString(text, extraLocals={"found": found})
    from lsst.pex.config import Config
    from lsst.pipe.base import Struct, Task
    from lsst.utils import getPackageDir

    assert found[:4] == [Config, getPackageDir, Task, Struct] and found[4].path
    assert found[5] is stand_ins.lsst.pipe.tasks.x.YTask


def test_only_the_text_is_shown_stand_ins(config, tmp_path, monkeypatch):
    (tmp_path / "asks.py").write_text("try:\n    import lsst.afw\nexcept ImportError:\n    lsst = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    config.loadFromString("import lsst.afw, asks\nassert asks.lsst is None and lsst.afw.X")
    with standing_in(), pytest.raises(ImportError, match="No module named 'lsst"):
        import lsst.afw  # noqa: F401


def _installed(folder, monkeypatch):
    """A package ``lsst.drp.tasks`` as in a full stack."""
    package = folder / "lsst" / "drp" / "tasks"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "assemble_coadd.py").write_text("class CompareWarpAssembleCoaddConfig: pass\nclass More: pass\n")
    (package / "broken.py").write_text("import not_there\n")
    monkeypatch.setattr(lsst, "__path__", [*lsst.__path__, str(folder / "lsst")])
    importlib.invalidate_caches()


@pytest.mark.parametrize("imported", [False, True])
def test_inside_a_full_stack(imported, config, tmp_path, monkeypatch):
    _installed(tmp_path, monkeypatch)
    try:
        real = importlib.import_module(FIRST_LINE) if imported else None
        config.load(DUMP)
        config.loadFromString(
            f"from {FIRST_LINE} import More, CompareWarpAssembleCoaddConfig as C\nassert type(config) is C"
        )
        with pytest.raises(ModuleNotFoundError, match="not_there"):
            config.loadFromString("from lsst.drp.tasks.broken import X")
        module = importlib.import_module(FIRST_LINE)
        assert module.CompareWarpAssembleCoaddConfig.__module__ == FIRST_LINE
        assert real in (None, module) and lsst.drp.tasks.assemble_coadd is module
    finally:
        for name in [name for name in sys.modules if name.startswith("lsst.drp")]:
            del sys.modules[name]
        del lsst.drp


@pytest.mark.parametrize(
    ("module", "name", "field"),
    [
        ("lsst.meas.algorithms", "SourceDetectionConfig", "detect"),
        ("lsst.meas.algorithms.detection", "SourceDetectionConfig", "detectTemplate"),
        ("lsst.pipe.tasks.scaleVariance", "ScaleVarianceConfig", "scaleWarpVariance"),
        ("lsst.meas.algorithms.maskStreaks", "MaskStreaksConfig", "maskStreaks"),
        ("lsst.pipe.tasks.interpImage", "InterpImageConfig", "interpImage"),
        ("lsst.pipe.tasks.healSparseMapping", "HealSparseInputMapConfig", "inputMapper"),
    ],
)
def test_configurations_of_subtasks_are_ours(module, name, field, config):
    config.loadFromString(f"from {module} import {name}\nmade = {name}()\nconfig.{field} = made")
    config.validate()
    assert type(getattr(config, field).value).__module__ == "gpucoadd.lsst.subtask_configs"


def test_functions_that_are_not_installed(config):
    with pytest.raises(TypeError, match=r"lsst\.utils\.elsewhere\.find cannot be called: it is not installed"):
        config.loadFromString("from lsst.utils.elsewhere import find\nfind()")


def test_names_below_the_stand_ins():
    task = stand_ins.lsst.pipe.tasks.a.BTask
    assert task is stand_ins.stand_in("lsst.pipe.tasks.a.BTask") and issubclass(task, stand_ins.NotRun)
    assert task.ConfigClass is stand_ins.lsst.pipe.tasks.a.BConfig
    assert stand_ins.lsst.pipe.tasks.a.Chooser.ConfigClass is stand_ins.lsst.pipe.tasks.a.ChooserConfig
    with pytest.raises(AttributeError, match="stand_ins' has no attribute 'other'"):
        _ = stand_ins.other
    with pytest.raises(AttributeError, match=r"lsst\.pipe has no attribute '_hidden'"):
        _ = stand_ins.lsst.pipe._hidden


@pytest.mark.parametrize("module", ["lsst.ip.diffim.imageDecorrelation", "lsst.ip.diffim"])
def test_decorrelation_is_ours(module, config, monkeypatch):
    ours = type("DecorrelateALKernelSpatialConfig", (), {})
    monkeypatch.setattr(gpucoadd.lsst, "DecorrelateALKernelSpatialConfig", ours, raising=False)
    found = []
    text = f"import {module}\nfound.append({module}.DecorrelateALKernelSpatialConfig)"
    config.loadFromString(text, extraLocals={"found": found})
    assert found == [ours]
