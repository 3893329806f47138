"""Lists and tables on the command line: the results of Python, one line for each mistake, nothing half-written."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from astropy.table import Table
from numpy.testing import assert_array_equal
from test_cli import files_in

import gpucoadd
from gpucoadd import cli, fits
from gpucoadd.arguments import read_ids
from gpucoadd.simulate import simulate_night, write_night
from gpucoadd.tables import as_known

IDS = (1001, 1008, 1015, 1022)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with `direct` and `matched` warps, and with tables about them."""
    folder = write_night(simulate_night(n_epochs=4, shape=(96, 100), seed=4), tmp_path_factory.mktemp("warps"))
    warps = gpucoadd.read_warps(folder / "direct", device="cpu")
    assert warps.epochs == tuple(f"warp-{number}" for number in IDS)
    names = list(warps.epochs)
    Table({"epoch": names[::-1], "factor": [4.0, 3.0, 2.0, 1.5]}).write(folder / "factors.csv")
    Table({"type": ["circle"], "ra": [150.1], "dec": [2.2], "radius": [1.9]}).write(folder / "bright.ecsv")
    corners = {"ra": [[150.0, 150.2, 150.2, 150.0]] * 4, "dec": [[2.1, 2.1, 2.3, 2.3]] * 4}
    Table({"epoch": names, "detector": [1, 2, 3, 4], **corners}).write(folder / "detectors.fits")
    (folder / "visits.txt").write_text("# those of a good night\nwarp-1022\n\n warp-1001 \nwarp-1008\n")
    return folder


@pytest.fixture
def arguments(folder):
    """A command that works, less its output."""
    return ["coadd", str(folder / "direct"), "--psf-matched", str(folder / "matched"), "--device", "cpu"]


@pytest.fixture(scope="module")
def warps(folder):
    return gpucoadd.read_warps(folder / "direct", psf_matched=folder / "matched", device="cpu")


def same_files(path, coadd):
    written = fits.read_image(path, device="cpu")
    for name in ("image", "variance", "mask"):
        assert_array_equal(getattr(written, name), getattr(coadd, name), err_msg=name)
    assert [epoch for epoch, _, _ in fits.read_provenance(path)["inputs"]] == [str(epoch) for epoch in coadd.epochs]


@pytest.mark.parametrize("words", ["warp-1022,warp-1001, warp-1008", "{folder}/visits.txt"])
def test_epochs(arguments, folder, warps, tmp_path, capsys, words):
    out = str(tmp_path / "c.fits")
    assert cli.main([*arguments, "-o", out, "--epochs", words.format(folder=folder), "-c", "doSelectVisits=true"]) == 0
    same_files(out, gpucoadd.coadd(warps.select(["warp-1022", "warp-1001", "warp-1008"])))
    said = capsys.readouterr()
    assert "3 of 3 kept" in said.out and said.err == ""


def test_missing_epochs_may_be_skipped(arguments, warps, tmp_path):
    out = str(tmp_path / "c.fits")
    words = ["--epochs", "x,warp-1015,y,warp-1008,warp-1001", "--skip-missing-epochs"]
    assert cli.main([*arguments, "-o", out, *words]) == 0
    same_files(out, gpucoadd.coadd(warps.select(["warp-1015", "warp-1008", "warp-1001"])))


def test_flux_factors(arguments, folder, warps, tmp_path):
    out = str(tmp_path / "c.fits")
    assert cli.main([*arguments, "-o", out, "--flux-factors", str(folder / "factors.csv")]) == 0
    same_files(out, gpucoadd.coadd(warps.scaled([1.5, 2.0, 3.0, 4.0])))


def test_everything_at_once(arguments, folder, warps, tmp_path, capsys):
    pytest.importorskip("healsparse", reason='healsparse is not installed; pip install "gpucoadd[maps]"')
    import healsparse

    out, input_map = tmp_path / "c.fits", tmp_path / "new.hsp"
    tables = {name: str(folder / f"{name}") for name in ("factors.csv", "bright.ecsv", "detectors.fits", "visits.txt")}
    words = ["--epochs", tables["visits.txt"], "--flux-factors", tables["factors.csv"]]
    words += ["--bright-objects", tables["bright.ecsv"], "--detectors", tables["detectors.fits"]]
    words += ["--input-map", str(input_map), "-c", "doMaskBrightObjects=true", "-c", "doInputMap=true"]
    assert cli.main([*arguments, "-o", str(out), *words]) == 0
    said = capsys.readouterr()
    assert f"{out}, {input_map}" in said.out and said.err == ""
    chosen = warps.scaled([1.5, 2.0, 3.0, 4.0]).select(["warp-1022", "warp-1001", "warp-1008"])
    expected = gpucoadd.coadd(chosen, bright_objects=tables["bright.ecsv"], detectors=tables["detectors.fits"])
    same_files(out, expected)
    bright = fits.read_image(out, device="cpu").schema.bitmask("BRIGHT_OBJECT")
    assert 0 < ((expected.mask & bright) != 0).sum() < expected.mask.size
    found = healsparse.HealSparseMap.read(str(input_map))
    assert_array_equal(found.valid_pixels, expected.input_map.valid_pixels)
    assert len(found.valid_pixels) > 3
    assert [found.metadata[f"B000{bit}VIS"] for bit in range(3)] == ["warp-1001", "warp-1008", "warp-1022"]
    assert files_in(tmp_path) == ["c.fits", "new.hsp"]


@pytest.mark.filterwarnings("default")
def test_a_missing_catalogue_is_a_line(arguments, tmp_path, capsys):
    assert cli.main([*arguments, "-o", str(tmp_path / "c.fits"), "-c", "doMaskBrightObjects=true"]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("gpucoadd: warning: bright objects are to be masked")


def test_numbers_and_texts_are_one_id():
    assert as_known([1001, "1001", " x", 2.5], ["1001", 1008, "x"]) == ["1001", "1001", " x", 2.5]
    assert as_known(["7", 7, np.int64(8), "8"], [7, "7", 8]) == ["7", 7, 8, 8]


MISTAKES = [
    pytest.param(["--epochs", "warp-1001,nine"], "no epoch 'nine'; the stack has 'warp-1001', ", id="unknown epoch"),
    pytest.param(["--epochs", "nine", "--skip-missing-epochs"], "no epoch is selected", id="no epoch left"),
    pytest.param(["--epochs", "warp-1001,warp-1001"], "each epoch once; 'warp-1001' is there", id="epoch twice"),
    pytest.param(["--epochs", " , "], "--epochs must name epochs", id="no epochs"),
    pytest.param(["--epochs", "{results}/../empty.txt"], "--epochs must name epochs", id="empty list"),
    pytest.param(["--epochs", "{folder}/detectors.fits"], "is no file of ids, one a line", id="list is no text"),
    pytest.param(["--skip-missing-epochs"], "--skip-missing-epochs is about --epochs", id="nothing to skip"),
    pytest.param(["-c", "doSelectVisits=true"], "no list of epochs is given; give --epochs", id="no list"),
    pytest.param(["--flux-factors", "nowhere.csv"], "no file nowhere.csv; check the name", id="no factors"),
    pytest.param(["--flux-factors", "{folder}/bright.ecsv"], "bright.ecsv has no column epoch, factor", id="no column"),
    pytest.param(["--flux-factors", "{results}/../bad.csv"], "must be positive and finite", id="bad factor"),
    pytest.param(
        ["--flux-factors", "{results}/../two.csv"], "more than one factor for epoch 'warp-1001'", id="factor twice"
    ),
    pytest.param(
        ["--flux-factors", "{results}/../unit.ecsv"], "must be a number without a unit", id="unit of a factor"
    ),
    pytest.param(
        ["--flux-factors", "{results}/../few.csv"], "factors has none for epoch 'warp-1008'", id="few factors"
    ),
    pytest.param(["--bright-objects", "{results}/../bad.csv"], "bad.csv has no column type, ra, dec", id="catalogue"),
    pytest.param(["--bright-objects", "{results}/../empty.txt"], "cannot be read as a table", id="no catalogue"),
    pytest.param(["--detectors", "{folder}/detectors.fits"], "--input-map FILE needs --detectors FILE", id="no map"),
    pytest.param(["--input-map", "{results}/m.hsp"], "--input-map FILE needs --detectors FILE", id="no detectors"),
    pytest.param(["-c", "doInputMap=true"], "is on but there are no detectors", id="map without detectors"),
    pytest.param(
        ["--input-map", "{results}/m.hsp", "--detectors", "{folder}/bright.ecsv"], "no column epoch", id="other table"
    ),
    pytest.param(
        ["--input-map", "{results}/c.fits", "--detectors", "{folder}/detectors.fits"], "two outputs", id="two outputs"
    ),
    pytest.param(
        ["--input-map", "{folder}/detectors.fits", "--detectors", "{folder}/detectors.fits"],
        "is an input",
        id="over it",
    ),
    pytest.param(
        ["--input-map", "{results}/no/such/m.hsp", "--detectors", "{folder}/detectors.fits"],
        "make it first",
        id="folder",
    ),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(words, message, arguments, folder, tmp_path, capsys):
    if "--detectors" in words:
        pytest.importorskip("healsparse", reason='healsparse is not installed; pip install "gpucoadd[maps]"')
    results = tmp_path / "results"
    results.mkdir()
    names = [f"warp-{number}" for number in IDS]
    Table({"epoch": names, "factor": [1.0, -1.0, 1.0, 1.0]}).write(tmp_path / "bad.csv")
    Table({"epoch": [*names, names[0]], "factor": [1.0] * 5}).write(tmp_path / "two.csv")
    Table({"epoch": names[:1], "factor": [1.0]}).write(tmp_path / "few.csv")
    Table({"epoch": names, "factor": [1.0] * 4}, units={"factor": "mag"}).write(tmp_path / "unit.ecsv")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    before = files_in(tmp_path), files_in(folder)
    line = [word.format(results=results, folder=folder) for word in words]
    assert cli.main([*arguments, "-o", str(results / "c.fits"), *line]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("gpucoadd: error: ") and message in said
    assert (files_in(tmp_path), files_in(folder)) == before


def test_failing_half_way_leaves_nothing(arguments, folder, tmp_path, capsys, monkeypatch):
    healsparse = pytest.importorskip("healsparse", reason='healsparse is not installed; pip install "gpucoadd[maps]"')

    def full(self, path, **options):
        with open(path, "w") as stream:
            stream.write("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(healsparse.HealSparseMap, "write", full)
    words = ["--input-map", str(tmp_path / "m.hsp"), "--detectors", str(folder / "detectors.fits")]
    assert cli.main([*arguments, "-o", str(tmp_path / "c.fits"), *words]) == 2
    assert capsys.readouterr().err == "gpucoadd: error: No space left on device\n"
    assert files_in(tmp_path) == []


def test_without_healsparse(arguments, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "healsparse", None)
    words = ["--input-map", str(tmp_path / "m.hsp"), "--detectors", str(folder / "detectors.fits")]
    assert cli.main([*arguments, "-o", str(tmp_path / "c.fits"), *words]) == 2
    assert 'pip install "gpucoadd[maps]"' in capsys.readouterr().err
    assert files_in(tmp_path) == []


def test_ids_of_a_file(tmp_path):
    (tmp_path / "ids").write_text("7\n 8 # no remark\n#9\n\n10")
    assert read_ids(str(tmp_path / "ids")) == ["7", "8 # no remark", "10"]
