"""Pipelines, the BPS example, and what docs/rubin.md shows of them."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest
import yaml
from lsst.daf.butler import Config
from lsst.pipe.base import Pipeline
from lsst.resources import ResourcePath

from gpucoadd.lsst import CompareWarpAssembleCoaddTask, butler_config

ROOT = Path(__file__).parents[2]
PACKAGE = resources.files("gpucoadd.lsst")
BLOCKS = [
    yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/rubin.md").read_text(), re.DOTALL)
]
PIPELINE, _, LAPTOP = BLOCKS


@pytest.mark.parametrize(
    "name, kinds",
    [
        ("compare_warp", ("PlainMaskedImage", "PlainImage")),
        ("compare_warp_rubin", ("ExposureF", "ImageU")),
    ],
)
def test_pipelines_resolve(name, kinds):
    graph = Pipeline.from_uri(f"resource://gpucoadd/lsst/pipelines/{name}.yaml").to_graph()
    assert list(graph.tasks) == ["compareWarp"]
    node = graph.tasks["compareWarp"]
    assert node.task_class is CompareWarpAssembleCoaddTask
    outputs = {edge.parent_dataset_type_name: edge.storage_class_name for edge in node.outputs.values()}
    inputs = {edge.parent_dataset_type_name: edge.storage_class_name for edge in node.inputs.values()}
    assert (outputs["deep_coadd_predetection"], outputs["deep_coadd_n_image"]) == kinds
    assert inputs["direct_warp"] == inputs["psf_matched_warp"] == kinds[0]


def test_both_pipelines_put_the_same():
    ours, rubins = (
        yaml.safe_load((PACKAGE / f"pipelines/{name}.yaml").read_text())["tasks"]["compareWarp"]
        for name in ("compare_warp", "compare_warp_rubin")
    )
    assert ours["config"].pop("inputStorageClass") != rubins["config"].pop("inputStorageClass")
    assert ours == rubins


def test_batch_jobs_log_what_gpucoadd_says():
    assert LAPTOP["defaultPreCmdOpts"].split() == ["--log-level=INFO", "--log-level=gpucoadd=INFO"]


def test_docs_show_the_pipeline_and_the_batch_file():
    for block, file in ((PIPELINE, "pipelines/compare_warp.yaml"), (LAPTOP, "bps/laptop.yaml")):
        assert block == yaml.safe_load((PACKAGE / file).read_text())
    assert (PACKAGE / "bps/laptop.yaml").read_text() in (ROOT / "docs/rubin.md").read_text()


def test_laptop_is_small():
    assert ResourcePath(LAPTOP["pipelineYaml"]).exists()
    assert LAPTOP["finalJob"] == {"requestCpus": 1, "requestMemory": 2048}
    site = LAPTOP["site"][LAPTOP["computeSite"]]
    assert site["class"] == "lsst.ctrl.bps.parsl.sites.Local" and site["cores"] == 2
    service = pytest.importorskip("lsst.ctrl.bps.parsl", reason="lsst-ctrl-bps-parsl is not installed")
    assert LAPTOP["wmsServiceClass"].rpartition(".")[2] in dir(service)


def test_each_call_gives_a_config_of_its_own():
    one = butler_config()
    one["storageClasses"]["PlainImage"]["parameters"].append("mine")
    assert butler_config()["storageClasses"]["PlainMask"]["parameters"] == ["bbox"]
    assert Config(butler_config())["storageClasses", "PlainNumber", "pytype"] == "float"


def test_extras_have_one_set_for_each_python():
    """On 3.11 every part of the engine is pinned, since the index has them from different weeks."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in ("lsst", "bps"):
        words = [word.split(";") for word in extras[name] if word.startswith("lsst-")]
        old = {re.split("[=>]", package)[0]: package for package, marker in words if "< '3.12'" in marker}
        new = {re.split("[=>]", package)[0]: package for package, marker in words if ">= '3.12'" in marker}
        assert len(old) + len(new) == len(words)
        assert old.keys() >= new.keys() > set()
        assert all("==" in package for package in old.values())
