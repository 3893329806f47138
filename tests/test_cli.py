"""The command line: same pixels as the Python call, one line for each mistake, nothing half-written."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rehearsal

import gpucoadd
from gpucoadd import cli, detection, fits, terminal
from gpucoadd.arguments import parse_memory, parse_value, read_options
from gpucoadd.simulate import simulate_night, write_night

N_EPOCHS = 5
SHAPE = (112, 128)
DATA = Path(os.environ.get("GPUCOADD_DATA", "")) / "saao_bulge"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with `direct` and `matched` warps of a small night."""
    folder = tmp_path_factory.mktemp("warps")
    return write_night(simulate_night(n_epochs=N_EPOCHS, shape=SHAPE, seed=4), folder)


@pytest.fixture
def arguments(folder):
    """A command that works, less its output."""
    inputs = [str(folder / "direct"), "--psf-matched", str(folder / "matched")]
    return ["coadd", *inputs, "--device", "cpu"]


@pytest.fixture(scope="module")
def expected(folder):
    """What the Python call gives."""
    warps = gpucoadd.read_warps(folder / "direct", psf_matched=folder / "matched", device="cpu")
    return gpucoadd.coadd(warps, threads=1)


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ------------------------------------------------------------------------------------------------ what it does


@pytest.mark.parametrize("memory", ["1G", "64MiB", "24M"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_coadd_equals_the_python_call(arguments, expected, tmp_path, memory, threads):
    out = tmp_path / "coadd.fits"
    assert cli.main([*arguments, "-o", str(out), "--memory", memory, "--threads", threads]) == 0
    written = fits.read_image(out, device="cpu")
    np.testing.assert_array_equal(written.image, expected.image)
    np.testing.assert_array_equal(written.variance, expected.variance)
    np.testing.assert_array_equal(written.mask, expected.mask)
    assert written.schema == expected.schema
    assert files_in(tmp_path) == ["coadd.fits"]


def test_side_products(arguments, expected, tmp_path, capsys):
    from astropy.io import fits as astropy_fits

    masks, count = tmp_path / "new" / "masks", tmp_path / "count.fits"
    out = tmp_path / "coadd.fits"
    out.write_text("an older result")
    code = cli.main([*arguments, "-o", str(out), "--artifact-masks", str(masks), "--save-count-image", str(count)])
    assert code == 0
    assert [path.name for path in sorted(masks.iterdir())] == [f"{epoch}.fits" for epoch in expected.epochs]
    bit = expected.schema.bitmask("CLIPPED")
    for epoch, clipped in zip(expected.artifacts.epochs, expected.clipped, strict=True):
        with astropy_fits.open(masks / f"{epoch}.fits") as hdus:
            np.testing.assert_array_equal(hdus["MASK"].data, np.where(clipped, bit, 0))
            assert hdus["MASK"].header["MP_CLIPPED"] == expected.schema.planes["CLIPPED"]
    with astropy_fits.open(count) as hdus:
        np.testing.assert_array_equal(hdus["EPOCH_COUNT"].data, expected.epoch_count)
    said = capsys.readouterr().out
    assert f"{N_EPOCHS} of {N_EPOCHS} kept" in said
    assert f"{int(expected.clipped.sum())} pixels" in said
    assert "reading" in said and "computing" in said and "writing" in said
    assert "cpu (gpucoadd.fallback, NumPy)" in said


def test_options_reach_the_coadd(arguments, tmp_path):
    toml = tmp_path / "options.toml"
    toml.write_text('statistic = "MEDIAN"\n[detect]\nthresholdValue = 6\n[maskPropagationThresholds]\nSAT = 0.3\n')
    out = tmp_path / "coadd.fits"
    code = cli.main([*arguments, "-o", str(out), "--config", str(toml), "-c", "detection.threshold=5"])
    assert code == 0
    config = fits.read_provenance(out)["config"]
    assert config["stacking.statistic"] == "MEDIAN"
    assert config["detection.threshold"] == 5.0
    assert config["stacking.propagation"] == {"SAT": 0.3}


def test_the_last_option_wins_under_any_spelling(tmp_path):
    toml = tmp_path / "options.toml"
    toml.write_text('"detection.threshold" = 4.0\n"detect.thresholdValue" = 5.0\n')
    options = read_options(str(toml), ["detection.threshold=6", "statistic=SUM", "statistic=MEAN"])
    assert list(options) == ["detect.thresholdValue", "detection.threshold", "statistic"]
    config = gpucoadd.CoaddConfig.from_names(options)
    assert config.detection.threshold == 6.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("MEDIAN", "MEDIAN"),
        ("5", 5),
        ("2.5", 2.5),
        ("true", True),
        ("False", False),
        ('["NO_DATA", "BAD"]', ["NO_DATA", "BAD"]),
        ("('NO_DATA', 'BAD')", ("NO_DATA", "BAD")),
        ("{SAT = 0.1}", {"SAT": 0.1}),
        ("{'SAT': 0.1}", {"SAT": 0.1}),
        ("", ""),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_values_are_toml_then_python_then_text(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("4G", 4 << 30), ("4GiB", 4 << 30), ("4GB", 4 * 10**9), ("0.5k", 512), ("2 MiB", 2 << 20), ("7b", 7)],
)
def test_memory_sizes(text, size):
    assert parse_memory(text) == size


def test_info(capsys):
    assert cli.main(["info"]) == 0
    said = capsys.readouterr().out
    for word in ("gpucoadd", "python", "numpy", "scipy", "astropy", "cupy", "device", "twin"):
        assert any(line.startswith(word) for line in said.splitlines()), word


def test_info_tells_all_there_is(capsys):
    with rehearsal.device(2):
        assert cli.main(["info"]) == 0
        facts = gpucoadd.backend.describe()
    lines = capsys.readouterr().out.splitlines()
    for name, value in facts:
        assert f"{name:<14}{value}" in lines
    assert [line.split(",")[0] for line in lines if line.startswith("device")] == [
        "device        cuda:0",
        "device        cuda:1",
    ]
    assert "twin          gpucoadd.kernels, CuPy" in lines


def test_bench_is_a_command(capsys):
    words = ["bench", "--device", "cpu", "--size", "64", "--epochs", "2", "--repeats", "1", "--steps", "fft-pair"]
    assert cli.main(words) == 0
    assert "FFT pair" in capsys.readouterr().out


def test_help_is_fast_to_import():
    # Neither SciPy's nor astropy's readers are needed to say what can be typed.
    code = "import sys, gpucoadd.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert 'astropy.io.fits' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_module_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "gpucoadd", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("gpucoadd ")


@pytest.mark.skipif(
    "GPUCOADD_DATA" not in os.environ, reason="GPUCOADD_DATA does not name a folder with saao_bulge/epoch_*.fits"
)
def test_real_epochs_without_twins(tmp_path):
    from astropy.io import fits as astropy_fits
    from astropy.wcs import WCS

    inputs = sorted(str(path) for path in DATA.glob("epoch_*.fits"))
    assert inputs, f"{DATA} holds no epoch_*.fits"
    out, masks = tmp_path / "coadd.fits", tmp_path / "masks"
    words = ["coadd", *inputs, "-o", str(out), "--artifact-masks", str(masks), "--device", "cpu"]
    done = subprocess.run([sys.executable, "-m", "gpucoadd", *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("gpucoadd: warning: the warps have no PSF-matched twins")

    with astropy_fits.open(out) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus[1:4]] == ["IMAGE", "MASK", "VARIANCE"]
        assert WCS(hdus["IMAGE"].header).has_celestial
        image, variance = hdus["IMAGE"].data, hdus["VARIANCE"].data
        assert np.isfinite(image).mean() > 0.99 and (variance[np.isfinite(image)] > 0).all()
        clipped = hdus["MASK"].data & (1 << hdus["MASK"].header["MP_CLIPPED"])
        assert clipped.any()
        assert hdus[0].header["GCVERS"] == gpucoadd.__version__
        assert hdus[0].header["NINPUT"] == len(inputs)
    provenance = fits.read_provenance(out)
    assert [file for _, file, _ in provenance["inputs"]] == inputs
    assert provenance["config"]["detection.threshold"] == gpucoadd.CoaddConfig().detection.threshold

    # A trail crosses this epoch: faint, and slightly wavy.
    with astropy_fits.open(masks / "epoch_0064.fits") as hdus:
        clipped = hdus["MASK"].data & (1 << hdus["MASK"].header["MP_CLIPPED"]) != 0
    columns = np.arange(12, 512)
    trail = np.interp(columns, (12, 182, 370, 511), (323, 328, 335, 342))
    near = np.abs(np.arange(clipped.shape[0])[:, np.newaxis] - trail) <= 3
    assert (clipped[:, columns] & near).any(axis=0).mean() > 0.7


# ------------------------------------------------------------------------------------------------ what goes wrong

MISTAKES = [
    pytest.param(["frobnicate"], "invalid choice: 'frobnicate'", id="command"),
    pytest.param(["coadd", "-o", "{out}"], "the following arguments are required: WARPS", id="no warps"),
    pytest.param(["coadd", "nowhere", "-o", "{out}"], "no file or folder nowhere", id="no such file"),
    pytest.param(["coadd", "{text}", "-o", "{out}"], "notes.fits", id="not FITS"),
    pytest.param(["coadd", "{cut}", "-o", "{out}"], "cut.fits", id="truncated"),
    pytest.param(
        ["{good}", "-o", "{out}", "-c", "detect.thresholdVal=5"], "detect.thresholdValue", id="unknown option"
    ),
    pytest.param(["{good}", "-o", "{out}", "-c", "statistic"], "-c takes NAME=VALUE", id="no value"),
    pytest.param(["{good}", "-o", "{out}", "-c", "statistic=MODE"], "statistic must be one of", id="bad value"),
    pytest.param(["{good}", "-o", "{out}", "--config", "{text}"], "is not TOML", id="config is not TOML"),
    pytest.param(["{good}", "-o", "{out}", "--config", "nowhere.toml"], "nowhere.toml: No such file", id="no config"),
    pytest.param(["{good}", "-o", "{out}", "--memory", "lots"], "--memory must be a size", id="memory"),
    pytest.param(["{good}", "-o", "{out}", "--memory", "0"], "--memory must be positive", id="no memory"),
    pytest.param(["{good}", "-o", "{out}", "--threads", "0"], "--threads must be positive", id="threads"),
    pytest.param(["{good}", "-o", "{out}", "--psf-fwhm", "-1"], "--psf-fwhm must be positive", id="fwhm"),
    pytest.param(["{good}", "-o", "{out}", "--device", "tpu"], "device must be", id="device"),
    pytest.param(["{good}", "-o", "{text}/coadd.fits"], "notes.fits is not a folder", id="output in a file"),
    pytest.param(["{good}", "-o", "{folder}"], "it is a folder", id="output is a folder"),
    pytest.param(["{good}", "-o", "{folder}/no/such/coadd.fits"], "make it first", id="output in no folder"),
    pytest.param(["{good}", "-o", "{direct}/warp-1001.fits"], "is an input too", id="output is an input"),
    pytest.param(["{good}", "-o", "{out}", "--artifact-masks", "{direct}"], "holds inputs", id="masks over inputs"),
    pytest.param(["{good}", "-o", "{out}", "--save-count-image", "{out}"], "two outputs", id="two outputs"),
    pytest.param(["{good}", "-o", "{out}.gz"], "cannot write", id="output is gzipped"),
    pytest.param(["view", "{text}", "-o", "{out}"], "ends with .png", id="picture"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(words, message, arguments, folder, tmp_path, capsys):
    text, cut, results = tmp_path / "notes.fits", tmp_path / "cut.fits", tmp_path / "results"
    text.write_text("no FITS in here\n")
    cut.write_bytes((folder / "direct" / "warp-1001.fits").read_bytes()[:20_000])
    results.mkdir()
    before = files_in(tmp_path), files_in(folder)
    names = {"text": text, "cut": cut, "out": results / "coadd.fits", "folder": tmp_path, "direct": folder / "direct"}
    line = [word.format(**names) if word != "{good}" else None for word in words]
    line = [part for word in line for part in (arguments if word is None else [word])]
    assert cli.main(line) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("gpucoadd: error: ")
    assert message in said.err
    assert (files_in(tmp_path), files_in(folder)) == before


def test_gpu_without_cupy(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert cli.main([*arguments, "-o", str(tmp_path / "c.fits"), "--device", "cuda"]) == 2
    assert 'needs CuPy: pip install "gpucoadd[cuda12]"' in capsys.readouterr().err
    assert files_in(tmp_path) == []


def test_key_errors_print_their_message(capsys, monkeypatch):
    monkeypatch.setattr(cli, "run_info", lambda args: gpucoadd.MaskSchema({"BAD": 0}).bitmask("BAAD"))
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err == (
        "gpucoadd: error: no mask plane 'BAAD' (did you mean 'BAD'?); this mask has BAD\n"
    )


def test_our_mistakes_are_told_apart(capsys, monkeypatch):
    monkeypatch.setattr(cli, "run_info", lambda args: np.zeros(2) + np.zeros(3))
    assert cli.main(["info"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("gpucoadd: internal error: ValueError: ")
    assert said.endswith("--verbose shows where\n") and said.count("\n") == 1
    assert cli.main(["info", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_raise_over_several_lines_is_the_users(capsys, monkeypatch):
    config = gpucoadd.CoaddConfig().detection
    monkeypatch.setattr(cli, "run_info", lambda args: detection.growth_radius(-1.0, config))
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err.startswith("gpucoadd: error: psf_sigma")


def test_what_breaks_inside_the_package_is_ours(capsys, monkeypatch):
    monkeypatch.setattr(cli, "run_info", lambda args: gpucoadd.backend._cuda_version("twelve"))
    assert cli.main(["info"]) == 1
    assert capsys.readouterr().err.startswith("gpucoadd: internal error: TypeError: ")


def test_failing_half_way_leaves_nothing(arguments, tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    out, masks = tmp_path / "coadd.fits", tmp_path / "a" / "masks"
    kept = tmp_path / "count.fits"
    kept.write_text("an older result")
    monkeypatch.setattr(fits, "write_mask", full)
    words = ["-o", str(out), "--artifact-masks", str(masks), "--save-count-image", str(kept)]
    assert cli.main([*arguments, *words]) == 2
    assert capsys.readouterr().err == "gpucoadd: error: No space left on device\n"
    assert files_in(tmp_path) == ["count.fits"]
    assert kept.read_text() == "an older result"


def test_interrupt(arguments, tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpucoadd, "coadd", interrupt)
    assert cli.main([*arguments, "-o", str(tmp_path / "coadd.fits")]) == 130
    assert capsys.readouterr().err == "gpucoadd: interrupted\n"
    assert files_in(tmp_path) == []


def test_warnings_are_single_lines(folder, tmp_path):
    command = [sys.executable, "-m", "gpucoadd", "coadd", str(folder / "direct"), "-o", str(tmp_path / "coadd.fits")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert lines and all(line.startswith("gpucoadd: warning: ") for line in lines)
    assert any("no PSF-matched twins" in line for line in lines)


def test_bars_on_a_terminal_only(monkeypatch):
    pytest.importorskip("tqdm")
    for watched in (False, True):
        stream = io.StringIO()
        stream.isatty = lambda watched=watched: watched
        monkeypatch.setattr(sys, "stderr", stream)
        with terminal.progress_bars() as progress:
            assert (progress is not None) == watched
            for done in range(3) if watched else ():
                progress("stacking", done, 2)
        assert ("stacking" in stream.getvalue()) == watched


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody can write to")
def test_unwritable_folder_is_found_before_the_work(arguments, capsys, monkeypatch):
    monkeypatch.setattr(gpucoadd, "read_warps", None)
    assert cli.main([*arguments, "-o", "/proc/coadd.fits"]) == 2
    assert "cannot write /proc/coadd.fits: no file can be made in /proc" in capsys.readouterr().err
