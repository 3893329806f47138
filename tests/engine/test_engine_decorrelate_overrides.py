"""Configuration files written for LSST's decorrelation and map-reduce tasks."""

from __future__ import annotations

import pytest
from lsst.pex.config import FieldValidationError

from gpucoadd.lsst import (
    DecorrelateALKernelConfig,
    DecorrelateALKernelMapper,
    DecorrelateALKernelMapReduceConfig,
    DecorrelateALKernelSpatialConfig,
    ImageMapReduceConfig,
    ImageReducer,
)

# As LSST's pex_config writes them, with every field.
_CELLS = """
{0}.mapper.ignoreMaskPlanes=['SAT', 'CR']

# Compute the full effect of the decorrelated matching kernel on the variance plane.
{0}.mapper.completeVarPlanePropagation=True

{0}.reducer.reduceOperation='sum'
{0}.reducer.badMaskPlanes=['BAD']
{0}.cellCentroidsX=[20.0, 60.5]
{0}.cellCentroidsY=[30.0, 30.0]
{0}.cellSizeX=31.0
{0}.cellSizeY=32.0
{0}.gridStepX=33.0
{0}.gridStepY=34.0
{0}.borderSizeX=6.0
{0}.borderSizeY=7.0
{0}.adjustGridOption='size'
{0}.scaleByFwhm=False
{0}.returnSubImages=True
{0}.ignoreMaskPlanes=['EDGE']
"""
_CELLS_READ = {
    "mapper.ignoreMaskPlanes": ["SAT", "CR"],
    "mapper.completeVarPlanePropagation": True,
    "reducer.reduceOperation": "sum",
    "reducer.badMaskPlanes": ["BAD"],
    "cellCentroidsX": [20.0, 60.5],
    "cellCentroidsY": [30.0, 30.0],
    "cellSizeX": 31.0,
    "cellSizeY": 32.0,
    "gridStepX": 33.0,
    "gridStepY": 34.0,
    "borderSizeX": 6.0,
    "borderSizeY": 7.0,
    "adjustGridOption": "size",
    "scaleByFwhm": False,
    "returnSubImages": True,
    "ignoreMaskPlanes": ["EDGE"],
}
_ASSERTED = "import {0}\nassert type(config) is {0}.{1}, 'config is of type %s' % type(config).__name__\n"
_DECORRELATION, _MAP_REDUCE = "lsst.ip.diffim.imageDecorrelation", "lsst.ip.diffim.imageMapReduce"

SPATIAL_DUMP = (
    _ASSERTED.format(_DECORRELATION, "DecorrelateALKernelSpatialConfig")
    + "import lsst.ip.diffim.imageMapReduce\n"
    + "config.decorrelateConfig.ignoreMaskPlanes=['INTRP', 'SUSPECT']\n"
    + "config.decorrelateConfig.completeVarPlanePropagation=False\n"
    + _CELLS.format("config.decorrelateMapReduceConfig")
    + "config.ignoreMaskPlanes=['BAD']\n"
)
MAP_REDUCE_DUMP = (
    _ASSERTED.format(_MAP_REDUCE, "ImageMapReduceConfig")
    + f"import {_DECORRELATION}\n"
    + f"config.mapper.retarget(target={_DECORRELATION}.DecorrelateALKernelMapper, "
    + f"ConfigClass={_DECORRELATION}.DecorrelateALKernelConfig)\n"
    + _CELLS.format("config")
)


def flat(fields):
    named = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            named |= {f"{name}.{below}": each for below, each in flat(value).items()}
        else:
            named[name] = value
    return named


def without_device(config):
    return {name: value for name, value in flat(config.toDict()).items() if not name.endswith("device")}


def test_a_dump_of_the_spatial_task(tmp_path):
    path = tmp_path / "decorrelate.py"
    path.write_text(SPATIAL_DUMP)
    config = DecorrelateALKernelSpatialConfig()
    config.load(path)
    assert without_device(config) == {
        "decorrelateConfig.ignoreMaskPlanes": ["INTRP", "SUSPECT"],
        "decorrelateConfig.completeVarPlanePropagation": False,
        **{f"decorrelateMapReduceConfig.{name}": value for name, value in _CELLS_READ.items()},
        "ignoreMaskPlanes": ["BAD"],
    }
    config.validate()


@pytest.mark.parametrize("config_class", [ImageMapReduceConfig, DecorrelateALKernelMapReduceConfig])
def test_a_dump_of_map_reduce(config_class):
    config = config_class()
    text = MAP_REDUCE_DUMP
    if config_class is DecorrelateALKernelMapReduceConfig:
        text = text.replace(f"{_MAP_REDUCE}.ImageMapReduceConfig", f"{_DECORRELATION}.{config_class.__name__}")
        text = text.replace(f"import {_MAP_REDUCE}", f"import {_DECORRELATION}")
    config.loadFromString(text)
    assert config.mapper.target is DecorrelateALKernelMapper and config.reducer.target is ImageReducer
    assert without_device(config) == _CELLS_READ


def test_our_own_dump_loads():
    config = DecorrelateALKernelSpatialConfig()
    config.loadFromString(SPATIAL_DUMP)
    config.device = "cpu"
    copy = DecorrelateALKernelSpatialConfig()
    copy.loadFromString(config.saveToString())
    assert copy.compare(config) and copy.device == "cpu"


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("config.decorrelateConfig.completeVarPlanePropagation = True", "completeVarPlanePropagation", True),
        (
            "from lsst.ip.diffim import DecorrelateALKernelConfig\n"
            "part = DecorrelateALKernelConfig()\n"
            "part.ignoreMaskPlanes = ['BAD']\n"
            "config.decorrelateConfig = part",
            "ignoreMaskPlanes",
            ["BAD"],
        ),
        ("config.decorrelateConfig.ignoreMaskPlanes.append('SUSPECT')", "ignoreMaskPlanes", "SUSPECT"),
    ],
)
def test_overrides(text, name, value):
    config = DecorrelateALKernelSpatialConfig()
    config.loadFromString(text)
    got = config.decorrelateConfig.toDict()[name]
    assert got == value or got[-1] == value


def test_what_fails_as_in_pex_config():
    with pytest.raises(AttributeError, match="has no attribute ignoredMaskPlanes"):
        DecorrelateALKernelConfig().loadFromString("config.ignoredMaskPlanes = ['BAD']")
    with pytest.raises(FieldValidationError, match="borderSizeX"):
        DecorrelateALKernelSpatialConfig().loadFromString("config.decorrelateMapReduceConfig.borderSizeX = -1.0")
    with pytest.raises(AssertionError, match="config is of type DecorrelateALKernelConfig"):
        DecorrelateALKernelConfig().loadFromString(SPATIAL_DUMP)
