"""`pipetask run` on a repository of simulated warps: its coadds are those of `gpucoadd.coadd`, to the bit."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from lsst.daf.butler import CollectionType
from numpy.testing import assert_array_equal

import gpucoadd
from gpucoadd.lsst import PlainMask, PlainMaskedImage
from gpucoadd.lsst.demo import pipetask, run_words
from gpucoadd.lsst.repository import DIRECT, MATCHED, make_repository, simulate_fields, warp_of

PIPELINE = "resource://gpucoadd/lsst/pipelines/compare_warp.yaml"
OUTPUTS = ("deep_coadd_predetection", "deep_coadd_n_image", "deep_coadd_compare_template")
MASKS = "compare_warp_artifact_mask"
_PROJECT = 180  # seconds that the issue allows for all quanta


@pytest.fixture(scope="module")
def fields():
    """6 visits, 4 patches, 2 bands."""
    return list(simulate_fields(n_visits=6, n_patches=4, bands="gr", size=128, seed=3))


@pytest.fixture(scope="module")
def expected(fields):
    """What `gpucoadd.coadd` makes of the same arrays, by patch and band."""
    return {(field.patch, field.band): gpucoadd.coadd(field.night.warps) for field in fields}


@pytest.fixture(scope="module")
def butler(fields, tmp_path_factory):
    """A repository with these warps."""
    return make_repository(tmp_path_factory.mktemp("pipetask") / "repo", fields)


def repo_of(butler):
    return Path(butler.get_datastore_roots().popitem()[1].ospath)


def run(butler, output, *, more=(), inputs=None, succeeds=True):
    """`pipetask run`; what it said."""
    words = run_words(repo_of(butler), PIPELINE, output=output, more=more)
    if inputs is not None:
        words[words.index("-i") + 1] = inputs
    return call(butler, words, succeeds=succeeds)


def call(butler, words, *, succeeds=True):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = pipetask(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=300)
    assert (done.returncode == 0) == succeeds, done.stdout
    butler.registry.refresh()
    return done.stdout


def check(butler, field, coadd, collection):
    """All that the pipeline puts for a coadd, against the coadd of the arrays."""
    image, counts, template = (butler.get(name, field.data_id, collections=collection) for name in OUTPUTS)
    for found, made in ((image, coadd), (template, coadd.template)):
        assert isinstance(found, PlainMaskedImage)
        assert_array_equal(found.image, made.image)
        assert_array_equal(found.variance, made.variance)
        check_mask(found, made)
        assert (found.origin, found.unit) == (made.origin, "nJy")
    assert image.psf_sigma == coadd.psf_sigma
    assert_array_equal(image.wcs.wcs.crpix, field.night.warps.wcs.wcs.crpix)
    assert_array_equal(counts.image, coadd.n_image)
    assert coadd.epochs == field.night.warps.epochs
    for epoch, visit in enumerate(coadd.epochs):
        mask = butler.get(MASKS, field.warp_id(visit), collections=collection)
        assert mask.origin == coadd.origin
        check_mask(mask, artifact_mask(field.night.warps, coadd, epoch))


def artifact_mask(warps, coadd, epoch):
    """The mask of a warp with its artifacts; where its twin has no data, the planes that reject are cleared."""
    schema = warps.schema.with_planes("CLIPPED")
    mask = warps.mask[epoch].copy()
    mask[coadd.no_data[epoch]] &= ~schema.bitmask("NO_DATA", "BAD", "SAT")
    for name in ("no_data", "edge", "clipped"):
        mask[getattr(coadd, name)[epoch]] |= schema.bitmask(name.upper())
    return PlainMask(mask, schema=schema)


def check_mask(found, made):
    """Masks are the same, plane by plane, whatever their bits."""
    for name in sorted(set(made.schema) | set(found.schema)):
        planes = [one.mask & one.schema.known_bitmask((name,)) != 0 for one in (found, made)]
        assert_array_equal(*planes, err_msg=name)


@pytest.fixture(scope="module")
def coadds(butler):
    """All quanta, two at a time: the collection, what was said, and seconds."""
    began = time.perf_counter()
    said = run(butler, "coadds", more=["-j", "2"])
    return "coadds", said, time.perf_counter() - began


def test_every_coadd_is_that_of_the_arrays(butler, fields, expected, coadds):
    collection, said, seconds = coadds
    assert "Executed 8 quanta successfully, 0 failed and 0 remain out of total 8 quanta" in said
    assert seconds < _PROJECT
    assert sum(int(coadd.clipped.sum()) for coadd in expected.values()) > 0
    for field in fields:
        check(butler, field, expected[field.patch, field.band], collection)


def test_datasets_are_where_rubin_has_them(butler, coadds):
    collection, _, _ = coadds
    warp = {"instrument", "visit", "skymap", "tract", "patch"}
    for name in (*OUTPUTS, MASKS):
        dataset_type = butler.get_dataset_type(name)
        assert set(dataset_type.dimensions.required) == (
            warp if name == MASKS else {"skymap", "tract", "patch", "band"}
        )
        assert len(butler.query_datasets(name, collections=collection)) == (48 if name == MASKS else 8)
    assert len(butler.query_datasets("compareWarp_metadata", collections=collection)) == 8


def log_of(butler, field, collection):
    records = butler.get("compareWarp_log", field.data_id, collections=collection)
    return "\n".join(f"{record.name} {record.levelname} {record.message}" for record in records)


def test_logs_have_the_weights(butler, fields, coadds):
    collection, said, _ = coadds
    for field in fields:
        told = log_of(butler, field, collection)
        for visit in field.night.warps.epochs:
            assert re.search(rf"^gpucoadd\.compareWarp INFO Weight of .*visit: {visit},.*: \d", told, re.MULTILINE)
    assert said.count("gpucoadd.compareWarp INFO: Weight of") == 48
    assert "are to be removed but" not in said


def test_metadata_count_and_time(butler, fields, expected, coadds):
    for field in fields:
        told = butler.get("compareWarp_metadata", field.data_id, collections=coadds[0])["compareWarp"]
        assert told["nClippedPixels"] == expected[field.patch, field.band].clipped.sum()
        assert (told["nWarps"], told["nEpochs"]) == (6, len(expected[field.patch, field.band].epochs))
        assert 0 < told["secondsReading"] < told["seconds"] < _PROJECT


@pytest.fixture(scope="module")
def from_graph(butler, tmp_path_factory):
    """Two patches by way of a file of quanta: the collection, and what was said."""
    graph = tmp_path_factory.mktemp("graph") / "some.qg"
    some = ["-b", str(repo_of(butler)), "-i", "warps", "-o", "from-graph"]
    call(
        butler,
        ["qgraph", *some, "-p", PIPELINE, "-d", "band = 'r' AND patch IN (2, 3)", "--save-qgraph", str(graph)],
    )
    return "from-graph", call(butler, ["run", *some, "-g", str(graph), "--register-dataset-types"])


def test_graph_of_quanta_first(butler, fields, expected, from_graph):
    collection, said = from_graph
    assert "Executed 2 quanta successfully, 0 failed and 0 remain" in said
    for field in fields:
        if field.band == "r" and field.patch in (2, 3):
            check(butler, field, expected[field.patch, "r"], collection)
    assert len(butler.query_datasets("deep_coadd_predetection", collections=collection)) == 2


def test_what_exists_is_skipped(butler, fields, expected, from_graph):
    said = run(butler, "rest", more=["--skip-existing-in", from_graph[0], "-d", "band = 'r'"])
    assert "Executed 2 quanta successfully, 0 failed and 0 remain" in said
    found = butler.query_datasets("deep_coadd_predetection", collections="rest", find_first=False)
    assert sorted(ref.dataId["patch"] for ref in found) == [0, 1]
    for field in fields:
        if field.band == "r" and field.patch in (0, 1):
            check(butler, field, expected[field.patch, "r"], "rest")


# ------------------------------------------------------------------------------------------------ what goes wrong


def spoil(image, how):
    """A warp without data, or with another unit."""
    nan = np.full_like(image.image, np.nan)
    planes = (nan, nan) if how == "no data" else (image.image, image.variance)
    unit = "adu" if how == "unit" else image.unit
    return PlainMaskedImage(*planes, image.mask, schema=image.schema, origin=image.origin, unit=unit, wcs=image.wcs)


SPOILED = {1: "no data", 2: "unit", 3: "truncated"}  # by patch; patch 0 is well


@pytest.fixture(scope="module")
def spoiled(butler, fields):
    """A collection with the warps of band g, those of three patches spoiled."""
    butler.collections.register("spoiled", CollectionType.RUN)
    for field in fields:
        for name, stack in ((DIRECT, field.night.warps), (MATCHED, field.night.twins)):
            for epoch, visit in enumerate(stack.epochs if field.band == "g" else ()):
                warp = warp_of(stack, epoch)
                if SPOILED.get(field.patch) in ("no data", "unit"):
                    warp = spoil(warp, SPOILED[field.patch])
                ref = butler.put(warp, name, field.warp_id(visit), run="spoiled")
                if SPOILED.get(field.patch) == "truncated" and epoch == 3:
                    os.truncate(butler.getURI(ref).ospath, 20_000)
    return "spoiled"


def refs_of(butler, collection, patch):
    """Datasets of a patch that a run made, by name."""
    run = butler.collections.get_info(collection).children[0]
    found = {}
    for name in (*OUTPUTS, MASKS, "compareWarp_metadata", "compareWarp_log"):
        refs = butler.query_datasets(name, collections=run, explain=False)
        found[name] = [ref for ref in refs if ref.dataId["patch"] == patch]
    return found


def test_quantum_without_usable_warps_has_no_work(butler, fields, expected, spoiled):
    said = run(butler, "no-work", inputs=spoiled, more=["-d", "patch IN (0, 1)"])
    assert re.search(r"NoWorkFound|[Nn]othing to do|no work", said)
    assert "Executed 2 quanta successfully, 0 failed" in said
    check(butler, fields[0], expected[0, "g"], "no-work")
    for told in (said.replace("WARNING:", "WARNING"), log_of(butler, fields[2], "no-work")):
        assert re.search(r"^gpucoadd\.compareWarp WARNING .*1003.* is NaN everywhere; left out$", told, re.MULTILINE)
    found = refs_of(butler, "no-work", patch=1)
    assert [len(found[name]) for name in (*OUTPUTS, MASKS)] == [0, 0, 0, 0]
    assert len(found["compareWarp_metadata"]) == 1  # it is done, as far as the engine is concerned


def test_failing_quanta_leave_nothing_and_the_rest_is_done(butler, fields, expected, spoiled):
    said = run(butler, "partly", inputs=spoiled, more=["-d", "patch IN (0, 2, 3)"], succeeds=False)
    assert "Executed 1 quanta successfully, 2 failed and 0 remain out of total 3 quanta" in said
    assert "adu" in said and "Integrity failure" in said
    check(butler, fields[0], expected[0, "g"], "partly")
    run_folder = repo_of(butler) / butler.collections.get_info("partly").children[0]
    for patch in (2, 3):
        found = refs_of(butler, "partly", patch)
        assert [len(found[name]) for name in (*OUTPUTS, MASKS, "compareWarp_metadata")] == [0, 0, 0, 0, 0]
        for name in (*OUTPUTS, MASKS):
            assert not [file for file in (run_folder / name / "0" / str(patch)).rglob("*") if file.is_file()]
