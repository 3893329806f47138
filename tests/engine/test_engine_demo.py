"""`gpucoadd lsst-demo`: what it makes, what it says of it, and what it refuses."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from lsst.daf.butler import Butler

from gpucoadd import cli
from gpucoadd.lsst import demo
from gpucoadd.lsst.repository import simulate_fields

WORDS = ["--visits", "2", "--patches", "1", "--bands", "1", "--size", "96"]
ID = {"skymap": "simulated", "tract": 0, "patch": 0, "band": "g"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The demo's folder, and what it said."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "demo"
    said = []
    demo.run_demo(folder, n_visits=8, n_patches=1, n_bands=1, size=192, seed=1, say=said.append)
    return folder, said


def test_repository_holds_what_is_said(made):
    folder, said = made
    butler = Butler.from_config(str(folder / "repo"), collections="coadds")
    rows = [line.split() for line in said if re.match(r" +g +0 ", line)]
    assert len(rows) == 1
    _, _, visits, share, _, epochs, clipped, planted, _, middle, noise, seconds = rows[0]
    counts = butler.get("deep_coadd_n_image", ID).image
    masks = [butler.get(ref) for ref in butler.query_datasets("compare_warp_artifact_mask")]
    found = sum(np.count_nonzero(mask.mask & mask.schema.bitmask("CLIPPED")) for mask in masks)
    assert (int(visits), len(masks)) == (8, 8)
    assert float(share) == pytest.approx(100 * np.mean(counts > 0), abs=0.05)
    assert float(epochs) == np.median(counts)
    assert int(clipped) == found > 0
    assert float(planted) > 90
    assert abs(float(middle)) < 0.2
    assert 0.9 < float(noise) < 1.1
    assert float(seconds) > 0
    assert said[0] == "simulating  8 visits x 1 patches x 1 bands of 192 x 192 pixels"
    assert any(line.startswith("repository") and "8 warps of 192 x 192" in line for line in said)


def test_commands_to_look_further_are_right(made, capfd):
    folder, said = made
    text = "\n".join(said)
    again = re.search(r"other options +pipetask (.*)", text)[1].split()
    assert demo.pipetask(again).returncode == 0
    butler = Butler.from_config(str(folder / "repo"))
    lower, usual = (
        sum(
            int(butler.get("compareWarp_metadata", ID, collections=name)["compareWarp"]["nClippedPixels"])
            for name in names
        )
        for names in (["deeper"], ["coadds"])
    )
    assert lower > usual  # a lower threshold clips more
    code = re.search(r'one coadd +python -c "(.*)"', text)[1]
    exec(code)
    assert "PlainMaskedImage(shape=(192, 192)" in capfd.readouterr().out
    files = re.search(r"its files +(\S+)/:", text)[1]
    assert files == str(folder / "repo" / "coadds")
    for name in ("compare_warp.yaml", "laptop.yaml", "pipetask.log"):
        assert (folder / name).is_file()
        assert str(folder / name) in text


def test_another_seed_is_another_sky():
    one, same, other = (next(iter(simulate_fields(n_visits=1, size=96, seed=seed))) for seed in (1, 1, 2))
    assert np.array_equal(one.night.warps.image, same.night.warps.image, equal_nan=True)
    assert not np.array_equal(one.night.warps.image, other.night.warps.image, equal_nan=True)


def test_patches_lie_side_by_side():
    fields = list(simulate_fields(n_visits=1, n_patches=3, bands="g", size=96))
    assert [field.night.warps.origin for field in fields] == [(0, 0), (0, 96), (96, 0)]
    skies = [field.night.warps.wcs.pixel_to_world(*pixel) for field, pixel in zip(fields, [(96, 0), (0, 0)])]
    assert skies[0].separation(skies[1]).arcsec < 1e-6
    assert len({field.night.warps.epochs for field in fields}) == 1


def test_visits_of_bands_differ():
    fields = list(simulate_fields(n_visits=2, n_patches=1, bands="gr", size=96))
    assert not set(fields[0].night.warps.epochs) & set(fields[1].night.warps.epochs)


@pytest.mark.parametrize("n_bands", [0, 7])
def test_bands_have_names(tmp_path, n_bands):
    with pytest.raises(ValueError, match=rf"bands must be 1 to 6, .* got {n_bands}"):
        demo.run_demo(tmp_path / "demo", n_bands=n_bands)
    assert not (tmp_path / "demo").exists()
    assert demo.demo_bands(6) == "grizyu"


def test_folder_must_be_empty(tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    assert cli.main(["lsst-demo", str(tmp_path), *WORDS]) == 2
    assert "is not an empty folder; give one that is" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_failed_pipeline_is_told_of(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "run_words", lambda *given, **more: ["run", "-b", str(tmp_path / "nowhere")])
    folder = tmp_path / "demo"
    assert cli.main(["lsst-demo", str(folder), *WORDS]) == 2
    told = rf"pipetask ended with exit code \d+; .*pipetask\.log says why; remove {folder} before another try\n"
    assert re.search(told, capsys.readouterr().err)


def test_pipetask_ends_with_the_demo(tmp_path, monkeypatch, capsys):
    started = []

    class Interrupted(subprocess.Popen):
        """At the first wait somebody presses Control-C."""

        def wait(self, timeout=None):
            if self not in started:
                started.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(demo, "_command", lambda words: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(demo.subprocess, "Popen", Interrupted)
    assert cli.main(["lsst-demo", str(tmp_path / "demo"), *WORDS]) == 130
    assert [process.poll() for process in started] == [-signal.SIGTERM]


def test_pipetask_must_be_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "_PIPETASK", "lsst.no_such.package")
    assert cli.main(["lsst-demo", str(tmp_path / "demo"), *WORDS]) == 2
    said = capsys.readouterr().err
    assert re.search(r'needs pipetask, of lsst\.no_such\.package, .* pip install "gpucoadd\[lsst\]"', said)
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("version, shown", [((3, 11), 1), ((3, 12), 0)])
def test_batch_jobs_of_an_old_python_need_two_variables(tmp_path, monkeypatch, version, shown):
    monkeypatch.setattr(sys, "version_info", version)
    told = "\n".join(demo._next_steps(tmp_path))
    assert told.count(f"export CTRL_MPEXEC_DIR={sys.prefix} DAF_BUTLER_DIR={sys.prefix}") == shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bands", "7"], "--bands must be 1 to 6, got 7"),
        (["--size", "95"], "--size must be at least 96, got 95"),
        (["--seed", "-1"], "--seed must be 0 or more, got -1"),
    ],
)
def test_errors_name_the_words_of_the_command(tmp_path, capsys, words, message):
    assert cli.main(["lsst-demo", str(tmp_path / "demo"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("word", ["--visits", "--patches", "--bands", "-j"])
def test_numbers_must_be_positive(tmp_path, capsys, word):
    assert cli.main(["lsst-demo", str(tmp_path), word, "0"]) == 2
    assert "must be positive, got 0" in capsys.readouterr().err
