"""What docs/rubin.md shows, runs: repositories that learn the classes, files that are ingested, a task of one's own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from lsst.daf.butler import Butler, DatasetType
from lsst.daf.butler.cli import butler as command
from lsst.daf.butler.cli.utils import LogCliRunner, clickResultMsg
from numpy.testing import assert_array_equal

import gpucoadd
from gpucoadd.fits import write_planes
from gpucoadd.lsst.demo import pipetask, run_words
from gpucoadd.lsst.repository import DIRECT, MATCHED, register_dimensions, simulate_fields, warp_of

PAGE = (Path(__file__).parents[2] / "docs/rubin.md").read_text()
WARP = ("instrument", "visit", "skymap", "tract", "patch")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


MODULE, SETTINGS, NEW, EXISTING = blocks("python")
_, PIPELINE, _ = blocks("yaml")
(TABLE,) = blocks("csv")
(COMMANDS,) = blocks("sh")


@pytest.fixture(scope="module")
def field():
    """One patch with six visits."""
    return next(iter(simulate_fields(n_visits=6, n_patches=1, bands="g", size=128, seed=1)))


def run(code, folder):
    exec(compile(code.replace('"REPO', f'"{folder}/REPO'), "rubin.md", "exec"), {})


def test_an_existing_repository_learns_the_classes(tmp_path, field):
    file = tmp_path / "REPO/butler.yaml"
    Butler.makeRepo(str(tmp_path / "REPO"))
    before = yaml.safe_load(file.read_text())
    before["datastore"]["formatters"] = {"Mine": "somebody.elses.Formatter"}
    file.write_text(yaml.safe_dump(before))
    run(EXISTING, tmp_path)
    after = yaml.safe_load(file.read_text())
    assert after.pop("storageClasses").keys() >= {"PlainMaskedImage", "PlainMask", "PlainImage"}
    formatters = after["datastore"].pop("formatters")
    assert formatters.keys() == {"Mine", "PlainMaskedImage", "PlainMask", "PlainImage"}
    assert before["datastore"].pop("formatters").keys() == {"Mine"}
    assert after == before

    butler = Butler.from_config(str(tmp_path / "REPO"), writeable=True, run="warps")
    with butler.transaction():
        register_dimensions(butler, [field])
    butler.registry.registerDatasetType(DatasetType(DIRECT, WARP, "PlainMaskedImage", universe=butler.dimensions))
    warp = warp_of(field.night.warps, 0)
    butler.put(warp, DIRECT, field.warp_id(1001))
    found = butler.get(DIRECT, field.warp_id(1001))
    for plane in ("image", "variance", "mask"):
        assert_array_equal(getattr(found, plane), getattr(warp, plane))


@pytest.fixture(scope="module")
def ingested(tmp_path_factory, field):
    """The folder of a repository, made and filled with files as the page says."""
    folder = tmp_path_factory.mktemp("page")
    run(NEW, folder)
    butler = Butler.from_config(str(folder / "REPO"), writeable=True)
    with butler.transaction():
        register_dimensions(butler, [field])
    for kind, stack in (("direct", field.night.warps), ("matched", field.night.twins)):
        (folder / kind).mkdir()
        for epoch, visit in enumerate(stack.epochs):
            warp = warp_of(stack, epoch)
            names = ("image", "variance", "mask", "schema", "origin", "wcs", "unit", "psf", "psf_sigma")
            write_planes(folder / kind / f"{visit}-0.fits", **{name: getattr(warp, name) for name in names})
    head, *rows = TABLE.splitlines()
    every = [f"direct/{visit}-0.fits,{visit},0,0" for visit in field.night.warps.epochs]
    assert rows == every[: len(rows)]
    table = "\n".join([head, *every, ""])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, text in (("direct_warp", table), ("psf_matched_warp", table.replace("direct/", "matched/"))):
            (folder / "warps.csv").write_text(text)
            for line in COMMANDS.replace("direct_warp", name).splitlines():
                _, *words = shlex.split(line)
                done = LogCliRunner().invoke(command.cli, words)
                assert done.exit_code == 0, clickResultMsg(done)
    return folder


def test_files_are_ingested(ingested, field):
    butler = Butler.from_config(str(ingested / "REPO"), collections="warps")
    for name, stack in ((DIRECT, field.night.warps), (MATCHED, field.night.twins)):
        assert len(butler.query_datasets(name)) == 6
        for epoch, visit in enumerate(stack.epochs):
            found = butler.get(name, field.warp_id(visit))
            assert_array_equal(found.image, stack.image[epoch])
            assert_array_equal(found.mask, stack.mask[epoch])
            assert found.psf_sigma == stack.psf_sigma[epoch]


def test_a_task_of_ones_own(ingested, field):
    for name, text in (("mycoadd.py", MODULE), ("mine.yaml", PIPELINE), ("spare.py", SETTINGS)):
        (ingested / name).write_text(text)
    more = ["-C", f"compareWarp:{ingested / 'spare.py'}"]
    words = run_words(ingested / "REPO", ingested / "mine.yaml", output="spared", more=more)
    words = ["--log-level", "mycoadd=INFO", *words]
    path = os.pathsep.join([str(ingested), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    said = pipetask(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=300)
    assert said.returncode == 0, said.stdout
    butler = Butler.from_config(str(ingested / "REPO"), collections="spared")
    usual, lower = (
        gpucoadd.coadd(field.night.warps, config=gpucoadd.CoaddConfig.from_lsst({"detect.thresholdValue": threshold}))
        for threshold in (7.5, 6.0)
    )
    spared = {1001, 1004}
    assert spared < set(lower.epochs) and not np.array_equal(usual.clipped, lower.clipped)
    for epoch, visit in enumerate(lower.epochs):
        found = butler.get("compare_warp_artifact_mask", field.warp_id(visit))
        clipped = found.mask & found.schema.known_bitmask(("CLIPPED",)) != 0
        assert lower.clipped[epoch].any() or visit not in spared
        assert_array_equal(clipped, lower.clipped[epoch] & (visit not in spared))
        assert (f"mycoadd.compareWarp INFO: nothing is clipped of visit {visit}" in said.stdout) == (visit in spared)
    coadd = butler.get("deep_coadd_predetection", field.data_id)
    same = ~lower.clipped.any(axis=0)
    assert_array_equal(coadd.image[same], lower.image[same])
    assert not np.array_equal(coadd.image, lower.image)
