"""`gpucoadd decorrelate`: same pixels as the Python call, one line for each mistake, nothing half-written."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import standin
from astropy.io import fits as astropy_fits
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

import gpucoadd
from gpucoadd import cli, fits
from gpucoadd.cells import CellGrid
from gpucoadd.decorrelation import decorrelate
from gpucoadd.decorrelation_config import DecorrelationConfig
from gpucoadd.masks import MaskSchema
from gpucoadd.matching import SpatialKernel
from gpucoadd.noise import noise_statistics

SHAPE, ORIGIN = (90, 100), (12, -7)
SCHEMA = MaskSchema.lsst()
PIXEL_CELLS = ("cells.cell_size=30", "cells.border_size=8", "cells.scale_by_fwhm=false")
GRID = CellGrid(cell_size=30, border_size=8, scale_by_fwhm=False)


def gaussian(size, sigma, total=1.0):
    y, x = np.indices(size) - (np.array(size) // 2).reshape(2, 1, 1)
    stamp = np.exp(-(y**2 + x**2) / (2 * sigma**2))
    return stamp * (total / stamp.sum())


KERNEL, PSF, SHARP_PSF = gaussian((11, 13), 1.4, 1.1), gaussian((15, 15), 2.0), gaussian((9, 9), 1.3)


def spatial_kernel():
    basis = np.stack([gaussian((11, 13), 1.2), gaussian((11, 13), 2.0)])
    coefficients = np.array([[0.7, 0.1, 0.0], [0.3, -0.1, 0.05]])
    y0, x0 = ORIGIN
    range_ = (x0 - 0.5, y0 - 0.5, x0 + SHAPE[1] - 0.5, y0 + SHAPE[0] - 0.5)
    return SpatialKernel(basis, coefficients, kind="chebyshev1", range=range_)


def exposure(seed, level, *, image=None):
    """Noise whose variance rises along x, with pixels of several planes; as float32."""
    rng = np.random.default_rng(seed)
    variance = level * np.linspace(0.8, 1.2, SHAPE[1]) * rng.uniform(0.95, 1.05, SHAPE)
    mask = np.zeros(SHAPE, np.int32)
    for name in ("BAD", "DETECTED", "SUSPECT"):
        mask[rng.random(SHAPE) < 0.03] |= SCHEMA.bitmask(name)
    pixels = rng.normal(0.0, np.sqrt(variance)) if image is None else image
    return pixels.astype(np.float32), variance.astype(np.float32), mask


def write(path, planes, *, psf=None, origin=ORIGIN, **options):
    image, variance, mask = planes
    extra = None if psf is None else {"PSF": psf}
    fits.write_planes(
        path, image=image, variance=variance, mask=mask, schema=SCHEMA, origin=origin, extra=extra, **options
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Science with its PSF inside, template without; difference, score and kernels."""
    folder = tmp_path_factory.mktemp("difference")
    science, template = exposure(1, 1.0), exposure(2, 3.0)
    image = science[0] - ndimage.convolve(template[0].astype(float), KERNEL, mode="constant")
    image[5, 6], image[20, 30] = np.nan, np.inf
    write(folder / "science.fits", science, psf=PSF, unit="nJy")
    write(folder / "plain.fits", science)
    write(folder / "template.fits", template)
    write(folder / "difference.fits", exposure(3, 4.0, image=image), unit="nJy")
    fits.write_array(folder / "image_alone.fits", image.astype(np.float32), origin=ORIGIN)
    fits.write_kernel(folder / "kernel.fits", KERNEL)
    fits.write_kernel(folder / "even.fits", gaussian((20, 21), 1.5))
    fits.write_kernel(folder / "varying.fits", spatial_kernel())
    fits.write_kernel(
        folder / "varying_even.fits", SpatialKernel(np.stack([gaussian((10, 12), 1.5)]), np.array([[1.0]]))
    )
    fits.write_array(folder / "psf.fits", SHARP_PSF, extname="PSF")
    return folder


@pytest.fixture
def words(folder):
    """A command that works, less its output; keyword arguments replace words or, if None, leave them out."""

    def make(**changes):
        given = {name: str(folder / f"{name}.fits") for name in ("science", "template", "difference", "kernel")}
        given |= {"device": "cpu"} | changes
        return ["decorrelate", *(w for name, value in given.items() if value for w in (f"--{name}", str(value)))]

    return make


def inputs(folder, *, science="science", difference="difference"):
    images = [fits.read_image(folder / f"{name}.fits", device="cpu") for name in (science, "template")]
    return *images, fits.read_difference(folder / f"{difference}.fits", device="cpu")


def check(path, expected):
    """The written planes are those of `expected`, to the bit."""
    written = fits.read_image(path, device="cpu")
    for plane in ("image", "variance", "mask"):
        got, wanted = getattr(written, plane), getattr(expected, plane)
        assert got.dtype == wanted.dtype
        assert_array_equal(got, wanted)
    assert (written.schema, written.origin, written.unit) == (expected.schema, expected.origin, expected.unit)
    stamp = fits.find_stamp(path, "PSF")
    assert (stamp is None) == (expected.psf is None)
    if stamp is not None:
        assert_array_equal(stamp, expected.psf)


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ------------------------------------------------------------------------------------------------ what it does


FLAGS = [
    pytest.param([], {"science_psf": PSF}, id="whole image"),
    pytest.param(["--threads", "1"], {"science_psf": PSF, "threads": 2}, id="threads"),
    pytest.param(["--complete-variance"], {"science_psf": PSF, "complete_variance": True}, id="complete variance"),
    pytest.param(["--precision", "single"], {"science_psf": PSF, "precision": "single"}, id="precision"),
    pytest.param(["--edge", "reflect"], {"science_psf": PSF, "edge": "reflect"}, id="edge"),
    pytest.param(["--science-convolved"], {"science_psf": PSF, "template_matched": False}, id="science convolved"),
    pytest.param(
        ["--science-convolved", "--template-psf", "{psf}"],
        {"template_psf": SHARP_PSF, "template_matched": False},
        id="template PSF",
    ),
    pytest.param(["--science-psf", "{psf}"], {"science_psf": SHARP_PSF}, id="PSF file instead of the HDU"),
    pytest.param(
        ["--science-variance", "1.5", "--template-variance", "2"],
        {"science_psf": PSF, "science_variance": 1.5, "template_variance": 2.0},
        id="variances",
    ),
    pytest.param(["--template-variance", "0"], {"science_psf": PSF, "template_variance": 0.0}, id="no variance"),
    pytest.param(
        ["--ignore-planes", "BAD, SUSPECT"], {"science_psf": PSF, "ignore_planes": ("BAD", "SUSPECT")}, id="planes"
    ),
    pytest.param(["--ignore-planes", ""], {"science_psf": PSF, "ignore_planes": ()}, id="no planes"),
]


@pytest.mark.parametrize(("flags", "arguments"), FLAGS)
def test_equals_the_python_call(folder, words, tmp_path, flags, arguments):
    out = tmp_path / "out.fits"
    flags = [flag.format(psf=folder / "psf.fits") for flag in flags]
    assert cli.main([*words(), *flags, "-o", str(out)]) == 0
    check(out, decorrelate(*inputs(folder), KERNEL, **arguments))
    assert files_in(tmp_path) == ["out.fits"]


def test_options_change_the_result(folder, words, tmp_path):
    """Each of these flags reaches the pixels: none of them gives what the plain command gives."""
    plain = decorrelate(*inputs(folder), KERNEL, science_psf=PSF)
    for number, flags in enumerate(
        (
            ["--complete-variance"],
            ["--precision", "single"],
            ["--edge", "reflect"],
            ["--science-convolved"],
            ["--science-variance", "1.5"],
            ["--ignore-planes", "BAD"],
            ["--cells", *(word for text in PIXEL_CELLS for word in ("-c", text))],
        )
    ):
        out = tmp_path / f"{number}.fits"
        assert cli.main([*words(), *flags, "-o", str(out)]) == 0
        written = fits.read_image(out, device="cpu")
        same = np.array_equal(written.image, plain.image, equal_nan=True)
        assert not (same and np.array_equal(written.variance, plain.variance, equal_nan=True)), flags


def test_psf_of_the_convolved_image_is_not_asked_for(folder, words, tmp_path):
    """That of a coadd may have holes; here it holds NaN, which a PSF that is used must not."""
    image, variance, mask = exposure(2, 3.0)
    holes = np.where(np.eye(9) == 0, SHARP_PSF, np.nan)
    write(tmp_path / "template.fits", (image, variance, mask), psf=holes)
    out = tmp_path / "out.fits"
    assert cli.main([*words(template=tmp_path / "template.fits"), "-o", str(out)]) == 0
    check(out, decorrelate(*inputs(folder), KERNEL, science_psf=PSF))


def test_varying_kernel(folder, words, tmp_path):
    out, there = tmp_path / "out.fits", tmp_path / "there.fits"
    assert cli.main([*words(kernel=folder / "varying.fits"), "-o", str(out)]) == 0
    check(out, decorrelate(*inputs(folder), spatial_kernel(), science_psf=PSF))
    flags = ["--position", "20.5", "-3"]
    assert cli.main([*words(kernel=folder / "varying.fits"), *flags, "-o", str(there)]) == 0
    check(there, decorrelate(*inputs(folder), spatial_kernel(), science_psf=PSF, position=(20.5, -3.0)))
    images = [fits.read_image(path, device="cpu").image for path in (out, there)]
    assert not np.array_equal(*images, equal_nan=True)


def test_even_kernels_when_asked_for(folder, words, tmp_path):
    out = tmp_path / "out.fits"
    for name in ("even", "varying_even"):
        kernel = fits.read_kernel(folder / f"{name}.fits")
        assert cli.main([*words(kernel=folder / f"{name}.fits"), "--even-kernel", "-o", str(out)]) == 0
        check(out, decorrelate(*inputs(folder), kernel, science_psf=PSF))


@pytest.mark.parametrize("kernel", ["kernel", "varying"])
def test_cells(folder, words, tmp_path, capsys, kernel):
    out, picture, drawn = tmp_path / "out.fits", tmp_path / "cells.png", tmp_path / "drawn.png"
    options = [word for text in PIXEL_CELLS for word in ("-c", text)]
    flags = ["--cells", *options, "--save-cells", str(picture), "-o", str(out)]
    assert cli.main([*words(kernel=folder / f"{kernel}.fits"), *flags]) == 0
    expected = decorrelate(*inputs(folder), fits.read_kernel(folder / f"{kernel}.fits"), science_psf=PSF, cells=GRID)
    check(out, expected)
    GRID.draw(drawn, SHAPE, origin=ORIGIN, force_even=True)
    assert picture.read_bytes() == drawn.read_bytes()
    said = capsys.readouterr().out
    assert f"{len(expected.cells.inner)} cells" in said
    median = np.median(expected.cells.template_variance)
    assert f"template {median:.6g} (medians of the cells)" in said
    assert f"wrote         {out}, {picture}" in said


@pytest.mark.parametrize("fwhm", [2.0, None])
def test_cells_in_units_of_the_psf(folder, words, tmp_path, fwhm):
    """LSST's 41 and 8 FWHM are LSST's default; here the field is small, so they are less."""
    out, picture, drawn = tmp_path / "out.fits", tmp_path / "cells.png", tmp_path / "drawn.png"
    options = ["-c", "cells.cell_size=8", "-c", "cells.border_size=2"]
    flags = ["--cells", *options, "--save-cells", str(picture), "-o", str(out)]
    assert cli.main([*words(), *flags, *([] if fwhm is None else ["--psf-fwhm", str(fwhm)])]) == 0
    grid = CellGrid(cell_size=8, border_size=2)
    expected = decorrelate(*inputs(folder), KERNEL, science_psf=PSF, cells=grid, psf_fwhm=fwhm)
    assert len(expected.cells.inner) > 4
    check(out, expected)
    assert fits.read_provenance(out)["config"]["cells.cell_size"] == [8.0, 8.0]
    grid.draw(drawn, SHAPE, origin=ORIGIN, psf_fwhm=fwhm or 2.0 * 2.3548200450309493, force_even=True)
    assert picture.read_bytes() == drawn.read_bytes()


def test_cells_have_lsst_defaults(folder, words, tmp_path):
    out = tmp_path / "out.fits"
    assert cli.main([*words(), "--cells", "--psf-fwhm", "0.5", "-o", str(out)]) == 0
    expected = decorrelate(*inputs(folder), KERNEL, science_psf=PSF, cells=CellGrid(), psf_fwhm=0.5)
    assert expected.cells.inner[0, 2] in (20, 21, 22)  # 41 times 0.5
    check(out, expected)


@pytest.mark.parametrize(
    ("science", "flags", "arguments"),
    [
        ("science", [], {"science_psf": PSF}),
        ("plain", ["--science-psf", "{psf}"], {"science_psf": SHARP_PSF}),
        ("plain", ["--preconvolution-kernel", "{psf}"], {"preconvolution_kernel": SHARP_PSF}),
        (
            "plain",
            ["--preconvolution-kernel", "{kernel}", "--complete-variance"],
            {"preconvolution_kernel": KERNEL, "complete_variance": True},
        ),
    ],
)
def test_score(folder, words, tmp_path, capsys, science, flags, arguments):
    out = tmp_path / "out.fits"
    flags = [flag.format(psf=folder / "psf.fits", kernel=folder / "kernel.fits") for flag in flags]
    assert cli.main([*words(science=folder / f"{science}.fits"), "--score", *flags, "-o", str(out)]) == 0
    check(out, decorrelate(*inputs(folder, science=science), KERNEL, score=True, **arguments))
    said = capsys.readouterr().out
    assert "mode          score, template convolved, whole image" in said
    assert "correlation" not in said


def test_image_alone_as_difference(folder, words, tmp_path):
    out = tmp_path / "out.fits"
    assert cli.main([*words(difference=folder / "image_alone.fits"), "-o", str(out)]) == 0
    expected = decorrelate(*inputs(folder, difference="image_alone"), KERNEL, science_psf=PSF)
    check(out, expected)
    whole = decorrelate(*inputs(folder), KERNEL, science_psf=PSF)
    assert_array_equal(expected.image, whole.image)
    assert_array_equal(expected.variance, whole.variance)
    assert not expected.mask.any() and expected.schema == SCHEMA


def test_what_is_said(folder, words, tmp_path, capsys):
    out = tmp_path / "out.fits"
    assert cli.main([*words(), "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    science, template, difference = inputs(folder)
    expected = decorrelate(science, template, difference, KERNEL, science_psf=PSF)
    ignored = difference.mask & SCHEMA.bitmask(*DecorrelationConfig().ignore_planes)
    before, after = (noise_statistics(i, ignored, max_lag=1).lag1 for i in (difference.image, expected.image))
    assert abs(before) > 0.05 > abs(after)
    names = [line.split()[0] for line in said.out.splitlines()]
    assert names == ["device", "mode", "variance", "correlation", "seconds", "wrote"]
    for line in (
        "device        cpu (NumPy)",
        "mode          difference, template convolved, whole image",
        f"variance      science {expected.science_variance:.6g}, template {expected.template_variance:.6g}",
        f"correlation   {before:+.4f} -> {after:+.4f} between neighbours",
        f"wrote         {out}",
    ):
        assert line in said.out.splitlines()
    assert re.search(r"^seconds       [\d.]+ reading, [\d.]+ computing, [\d.]+ writing$", said.out, re.MULTILINE)


def test_no_pixel_for_the_correlation(folder, words, tmp_path, capsys):
    image, variance, mask = exposure(3, 4.0)
    write(tmp_path / "masked.fits", (image, variance, mask | SCHEMA.bitmask("BAD")))
    assert cli.main([*words(difference=tmp_path / "masked.fits"), "-o", str(tmp_path / "out.fits")]) == 0
    assert "correlation   not measured: no pixel is left" in capsys.readouterr().out


def test_blank_template_gives_the_difference_back(folder, words, tmp_path, capsys):
    image, variance, mask = exposure(2, 3.0, image=np.full(SHAPE, np.nan))
    write(tmp_path / "blank.fits", (image, variance * np.nan, mask))
    out = tmp_path / "out.fits"
    assert cli.main([*words(template=tmp_path / "blank.fits"), "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("gpucoadd: warning: the template image is NaN throughout")
    assert "not corrected" in said.out
    written, difference = fits.read_image(out, device="cpu"), inputs(folder)[2]
    for plane in ("image", "variance", "mask"):
        assert_array_equal(getattr(written, plane), getattr(difference, plane))


def test_provenance(folder, words, tmp_path):
    out = tmp_path / "out.fits"
    line = words(science=folder / "plain.fits")
    assert cli.main([*line, "--science-psf", str(folder / "psf.fits"), "--edge", "reflect", "-o", str(out)]) == 0
    provenance = fits.read_provenance(out)
    assert provenance["version"] == gpucoadd.__version__
    assert provenance["config"]["edge"] == "reflect" and provenance["config"]["complete_variance"] is False
    names = {"science": "plain", "template": "template", "difference": "difference"}
    names |= {"kernel": "kernel", "science_psf": "psf"}
    assert {role: file for role, file, _ in provenance["inputs"]} == {
        role: str(folder / f"{name}.fits") for role, name in names.items()
    }


# ------------------------------------------------------------------------------------------------ options by name


def test_configuration_file_in_our_names(folder, words, tmp_path):
    toml, out = tmp_path / "options.toml", tmp_path / "out.fits"
    toml.write_text(
        'edge = "reflect"\nignore_planes = ["BAD"]\n[cells]\ncell_size = 99.0\nborder_size = 8\nscale_by_fwhm = false\n'
    )
    flags = ["--cells", "--config", str(toml), "-c", "cells.cell_size=30", "-c", "complete_variance=true"]
    assert cli.main([*words(), *flags, "-o", str(out)]) == 0
    arguments = {"edge": "reflect", "ignore_planes": ("BAD",), "complete_variance": True, "cells": GRID}
    check(out, decorrelate(*inputs(folder), KERNEL, science_psf=PSF, **arguments))


def test_configuration_in_the_names_of_lsst(folder, words, tmp_path):
    toml, out = tmp_path / "options.toml", tmp_path / "out.fits"
    toml.write_text(
        "[decorrelateMapReduceConfig]\ncellSizeX = 30\ncellSizeY = 99\nborderSizeX = 8\nborderSizeY = 8\n"
        "scaleByFwhm = false\n[decorrelateMapReduceConfig.mapper]\ncompleteVarPlanePropagation = true\n"
    )
    flags = ["--cells", "--config", str(toml), "-c", "decorrelateMapReduceConfig.cellSizeY=30"]
    assert cli.main([*words(), *flags, "-o", str(out)]) == 0
    check(out, decorrelate(*inputs(folder), KERNEL, science_psf=PSF, cells=GRID, complete_variance=True))


def test_options_of_cells_switch_them_on(folder, words, tmp_path):
    out = tmp_path / "out.fits"
    options = [word for text in PIXEL_CELLS for word in ("-c", text)]
    assert cli.main([*words(), *options, "--save-cells", str(tmp_path / "cells.png"), "-o", str(out)]) == 0
    check(out, decorrelate(*inputs(folder), KERNEL, science_psf=PSF, cells=GRID))
    assert files_in(tmp_path) == ["cells.png", "out.fits"]


def test_flags_win(folder, words, tmp_path):
    out = tmp_path / "out.fits"
    options = ["-c", "edge=zero", "-c", "precision=double", "-c", 'ignore_planes=["SUSPECT"]']
    flags = ["--edge", "reflect", "--precision", "single", "--ignore-planes", "BAD"]
    assert cli.main([*words(), *options, *flags, "-o", str(out)]) == 0
    arguments = {"edge": "reflect", "precision": "single", "ignore_planes": ("BAD",)}
    check(out, decorrelate(*inputs(folder), KERNEL, science_psf=PSF, **arguments))


# ------------------------------------------------------------------------------------------------ what goes wrong

MISTAKES = [
    pytest.param(["--science", "nowhere.fits"], "no file nowhere.fits; check the name", id="no such file"),
    pytest.param(["--kernel", "nowhere.fits"], "no file nowhere.fits", id="no such kernel"),
    pytest.param(["--template", "{text}"], "notes.fits is not a FITS file", id="not FITS"),
    pytest.param(["--kernel", "{text}"], "notes.fits is not a FITS file", id="kernel is not FITS"),
    pytest.param(["--science-psf", "{text}"], "notes.fits is not a FITS file", id="PSF is not FITS"),
    pytest.param(["--science", "{holes}"], "holes.fits: PSF holds NaN or infinite values", id="PSF with NaN"),
    pytest.param(["--difference", "{cut}"], "cut.fits is truncated", id="truncated"),
    pytest.param(
        ["--kernel", "{even}"],
        "even.fits: kernel has shape (20, 21); both sides must be odd so that it has a centre pixel; --even-kernel "
        "takes element n//2 as its origin\n",
        id="even kernel",
    ),
    pytest.param(["--kernel", "{varying_even}"], "varying_even.fits: kernel has shape (10, 12); both", id="even basis"),
    pytest.param(
        ["--score", "--preconvolution-kernel", "{even}"],
        "even.fits: kernel has shape (20, 21)",
        id="even preconvolution",
    ),
    pytest.param(["--kernel", "{nan}"], "nan.fits: KERNEL holds NaN or infinite values", id="kernel with NaN"),
    pytest.param(["--kernel", "{large}"], "kernel has shape (101, 101)", id="kernel larger than the image"),
    pytest.param(["--kernel", "{cube}"], "cube.fits has no 2-d image", id="no kernel"),
    pytest.param(["--science", "{small}"], "(80, 100)", id="science of another shape"),
    pytest.param(["--template", "{small}"], "(80, 100)", id="template of another shape"),
    pytest.param(["--difference", "{small}"], "(80, 100)", id="difference of another shape"),
    pytest.param(["--template", "{moved}"], "(0, 0)", id="template elsewhere"),
    pytest.param(["--science", "{no_variance}"], "no_variance.fits has no HDU VARIANCE", id="no variance"),
    pytest.param(["--template", "{alone}"], "has an image but no noise", id="template without variance"),
    pytest.param(["--template", "{negative}"], "variance", id="negative variance plane"),
    pytest.param(["--ignore-planes", "BAD,SATT"], "no mask plane 'SATT' (did you mean 'SAT'?)", id="unknown plane"),
    pytest.param(["--science-variance", "-1"], "--science-variance must be a number that is not", id="negative"),
    pytest.param(["--template-variance", "nan"], "--template-variance must be a number that is not", id="nan"),
    pytest.param(["--science-variance", "0"], "science_variance", id="zero"),
    pytest.param(["--science-variance", "many"], "argument --science-variance: invalid float", id="no number"),
    pytest.param(["--position", "1", "inf"], "--position must be two finite numbers, got 1.0 inf", id="position"),
    pytest.param(["--position", "1"], "argument --position: expected 2 arguments", id="half a position"),
    pytest.param(["--position", "1", "2", "--cells", "--psf-fwhm", "1"], "position", id="position and cells"),
    pytest.param(["--threads", "0"], "--threads must be positive", id="threads"),
    pytest.param(["--psf-fwhm", "inf"], "--psf-fwhm must be positive, got inf", id="fwhm"),
    pytest.param(["--precision", "half"], "invalid choice: 'half'", id="precision"),
    pytest.param(["--edge", "wrap"], "invalid choice: 'wrap'", id="edge"),
    pytest.param(["--device", "tpu"], "device must be", id="device"),
    pytest.param(["-c", "cells.cell_sice=5"], "no configuration field 'cells.cell_sice'", id="unknown option"),
    pytest.param(
        ["-c", "decorrelateMapReduceConfig.cellSize=5"],
        "nearest: decorrelateMapReduceConfig.cellSizeY",
        id="unknown LSST option",
    ),
    pytest.param(["-c", "edge"], "-c takes NAME=VALUE, such as cells.cell_size=60, got 'edge'", id="no value"),
    pytest.param(["-c", "edge=wrap"], "edge", id="bad value"),
    pytest.param(["--cells", "-c", "cells.cell_size=0"], "cell_size", id="cells of nothing"),
    pytest.param(["--config", "{text}"], "is not TOML", id="config is not TOML"),
    pytest.param(["--config", "nowhere.toml"], "nowhere.toml: No such file", id="no config"),
    pytest.param(["--score", "--science", "{plain}"], "--score needs the kernel that pre-convolved", id="no PSF"),
    pytest.param(["--score", "--science-convolved"], "score", id="score of a convolved science image"),
    pytest.param(["--preconvolution-kernel", "{psf}"], "goes with --score only", id="preconvolution without score"),
    pytest.param(["--save-cells", "{picture}"], "--save-cells draws the cells of --cells", id="picture of no cells"),
    pytest.param(["--cells", "--save-cells", "{out}"], "ends with .png", id="picture is no PNG"),
    pytest.param(["--cells", "--science", "{plain}"], "psf_fwhm", id="cells without a PSF"),
    pytest.param(["-o", "{science}"], "is an input too", id="output is an input"),
    pytest.param(["-o", "{kernel}"], "is an input too", id="output is the kernel"),
    pytest.param(["-o", "{psf}", "--science-psf", "{psf}"], "is an input too", id="output is the PSF"),
    pytest.param(["--config", "{toml}", "-o", "{toml}"], "is an input too", id="output is the config"),
    pytest.param(["-o", "{folder}/no/out.fits"], "make it first", id="output in no folder"),
    pytest.param(["-o", "{folder}"], "it is a folder", id="output is a folder"),
    pytest.param(["-o", "{out}.gz"], "cannot write", id="output is gzipped"),
]


@pytest.fixture(scope="module")
def wrong(folder, tmp_path_factory):
    """Files that are wrong, beside those that are right, by name."""
    wrong = tmp_path_factory.mktemp("wrong")
    (wrong / "notes.fits").write_text("no FITS in here\n")
    (wrong / "cut.fits").write_bytes((folder / "difference.fits").read_bytes()[:20_000])
    planes = exposure(2, 3.0)
    write(wrong / "small.fits", [plane[:80] for plane in planes])
    write(wrong / "moved.fits", planes, origin=(0, 0))
    write(wrong / "holes.fits", planes, psf=np.where(np.eye(9) == 0, SHARP_PSF, np.nan))
    write(wrong / "negative.fits", (planes[0], planes[1] - np.float32(3), planes[2]))
    shutil.copy(folder / "plain.fits", wrong / "no_variance.fits")
    with astropy_fits.open(wrong / "no_variance.fits", mode="update") as hdus:
        del hdus["VARIANCE"]
    fits.write_array(wrong / "alone.fits", planes[0])
    fits.write_kernel(wrong / "large.fits", gaussian((101, 101), 2.0))
    fits.write_array(wrong / "nan.fits", np.full((5, 5), np.nan), extname="KERNEL")
    astropy_fits.PrimaryHDU(np.zeros((2, 5, 5))).writeto(wrong / "cube.fits")
    files = {path.stem: path for place in (folder, wrong) for path in place.glob("*.fits")}
    (wrong / "options.toml").write_text('edge = "zero"\n')
    return files | {"text": files["notes"], "toml": wrong / "options.toml"}


@pytest.mark.parametrize(("flags", "message"), MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(words, folder, wrong, tmp_path, capsys, flags, message):
    results = tmp_path / "results"
    results.mkdir()
    before = files_in(tmp_path), files_in(folder), (folder / "science.fits").read_bytes()
    names = {**wrong, "out": results / "out.fits", "picture": results / "cells.png", "folder": tmp_path}
    flags = [flag.format(**names) for flag in flags]
    out = [] if "-o" in flags else ["-o", str(results / "out.fits")]
    assert cli.main([*words(), *out, *flags]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("gpucoadd: error: ")
    assert message in said.err
    assert (files_in(tmp_path), files_in(folder), (folder / "science.fits").read_bytes()) == before


@pytest.mark.parametrize("missing", ["science", "template", "difference", "kernel"])
def test_what_must_be_given(words, tmp_path, capsys, missing):
    assert cli.main([*words(**{missing: None}), "-o", str(tmp_path / "out.fits")]) == 2
    assert f"the following arguments are required: --{missing}" in capsys.readouterr().err
    assert cli.main(words()) == 2
    assert "the following arguments are required: -o/--out" in capsys.readouterr().err


def test_failing_half_way_leaves_nothing(words, tmp_path, capsys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    out = tmp_path / "out.fits"
    out.write_text("an older result")
    monkeypatch.setattr("gpucoadd.cell_pictures.draw_boxes", full)
    options = [word for text in PIXEL_CELLS for word in ("-c", text)]
    flags = ["--cells", *options, "--save-cells", str(tmp_path / "cells.png"), "-o", str(out)]
    assert cli.main([*words(), *flags]) == 2
    assert capsys.readouterr().err == "gpucoadd: error: No space left on device\n"
    assert files_in(tmp_path) == ["out.fits"] and out.read_text() == "an older result"


def test_inputs_are_not_changed(folder, words, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert cli.main([*words(), "-o", str(tmp_path / "out.fits")]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.fixture(params=["stand-in", pytest.param("device", marks=pytest.mark.gpu)])
def device(request):
    """A device to compute on: the stand-in for CuPy, and a real one where there is one."""
    if request.param == "stand-in":
        with standin.installed():
            yield
    elif gpucoadd.backend.has_device():
        yield
    else:
        pytest.skip("no CUDA device")


@pytest.mark.parametrize(
    ("kernel", "flags"),
    [("kernel", []), ("varying", ["--cells", "--psf-fwhm", "0.5"]), ("kernel", ["--score", "--science-psf", "{psf}"])],
)
def test_on_the_device(folder, words, tmp_path, capsys, device, kernel, flags):
    paths = [tmp_path / f"{name}.fits" for name in ("cpu", "cuda")]
    flags = [flag.format(psf=folder / "psf.fits") for flag in flags]
    for path in paths:
        line = words(kernel=folder / f"{kernel}.fits", device=path.stem)
        assert cli.main([*line, *flags, "-o", str(path)]) == 0
    assert "device        cuda:0 (CuPy)" in capsys.readouterr().out
    host, device = (fits.read_image(path, device="cpu") for path in paths)
    # The same arithmetic in float64, rounded to float32; where the image is near 0, in units of its scatter of 2.
    assert_allclose(device.image, host.image, rtol=1e-6, atol=1e-6)
    assert_allclose(device.variance, host.variance, rtol=1e-6)
    assert_array_equal(device.mask, host.mask)
