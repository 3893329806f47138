"""Reference outputs of LSST's decorrelation: how they are read, and how a result is compared with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import oracle_decorrelation as oracle
from goldens import host
from numpy.testing import assert_allclose, assert_array_equal

import gpucoadd

DATA = Path(__file__).parent / "data" / "decorrelate"

# In units of the output's standard deviation. LSST transforms a float32 image in single precision (kind F); for float64
# (D) both sides round in double, amplified at most by the largest correction, 3e4 for a variance ratio of 1e9.
IMAGE = {"F": 2e-5, "D": 1e-9}
# Stored as float32, and a mean over frequencies of numbers of very different size lies behind it.
VARIANCE = 2e-6
# The same sums of sorted float32 values in float64, in another order.
VARIANCE_MEAN = 1e-12
# Rounding of the transform of a unit-sum kernel is 1e-16, and |K| matters down to the root of the variance ratio, 3e-5
# for 1e9: 1e-11. In score mode both |K| and |P| of the ratio may be as small as 1e-8.
CORRECTION = {False: 1e-11, True: 1e-8}
# A unit-sum stamp through two transforms in double.
PSF = 1e-12

# Where LSST divides by zero or goes on with NaN, an exception says which image it was and what is wrong with it.
REFUSED = {
    "g21_all_masked_but_finite": (ValueError, "science"),
    "g22_zero_science_variance": (ValueError, "science"),
    "g25_preconv_kernel_without_mode": (ValueError, "score"),
    "s11_cannot_make_even": (RuntimeError, "even|odd"),
}
EMPTY_TEMPLATE = "g20_template_all_nan"
ONE_PIXEL_KERNEL = "g24_one_pixel_kernel"
NOT_CORRECTED = (*REFUSED, EMPTY_TEMPLATE, ONE_PIXEL_KERNEL)


class Golden(NamedTuple):
    """One file: `meta` and the arrays by name."""

    name: str
    meta: dict
    arrays: dict

    @property
    def kind(self):
        """F: the image is float32; D: float64."""
        return self.meta["exposure_dtype"]

    @property
    def origin(self):
        """(y, x) of the first pixel."""
        x0, y0 = (int(v) for v in self.arrays["xy0"])
        return y0, x0

    @property
    def schema(self):
        return gpucoadd.MaskSchema(self.meta["bits"])

    @property
    def spatial(self):
        """Whether the cells are on."""
        return self.meta["run_kwargs"].get("spatiallyVarying", False)

    @property
    def task(self):
        """Configuration of the decorrelation of one image or cell."""
        config = self.meta["config"]
        if "decorrelateConfig" not in config:
            return config
        return config["decorrelateMapReduceConfig"]["mapper"] if self.spatial else config["decorrelateConfig"]

    @property
    def matched(self):
        """Whether the template was convolved."""
        return self.meta["run_kwargs"].get("templateMatched", True)

    @property
    def score(self):
        return self.meta["run_kwargs"].get("preConvMode", False)

    def __getitem__(self, name):
        return self.arrays[name]


def paths(prefixes="gps"):
    """Files of the tests and of $GPUCOADD_GOLDENS/decorrelate whose names start with one of the letters `prefixes`."""
    found = {p.stem: p for p in sorted(DATA.glob("*.npz"))}
    folder = os.environ.get("GPUCOADD_GOLDENS")
    if folder:
        more = sorted((Path(folder) / "decorrelate").glob("*.npz"))
        if not more:
            raise FileNotFoundError(f"GPUCOADD_GOLDENS={folder} has no decorrelate/*.npz")
        found.update({p.stem: p for p in more})
    return [path for stem, path in sorted(found.items()) if stem.startswith(tuple(prefixes))]


def load(path):
    """One golden file."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "meta_json"}
        meta = json.loads(str(file["meta_json"]))
    return Golden(Path(path).stem, meta, arrays)


# What goes in -------------------------------------------------------------------------------------------------------


def masked_image(golden, name, to_device=lambda array: array):
    """`MaskedImage` of "sci", "tmpl" or "diff"; where the file has no image, zeros, which nothing depends on."""
    variance, mask = golden[f"{name}_variance"], golden[f"{name}_mask"]
    image = golden.arrays.get(f"{name}_image", np.zeros(variance.shape, np.float32))
    planes = [to_device(plane) for plane in (image, variance, mask)]
    return gpucoadd.MaskedImage(*planes, schema=golden.schema, origin=golden.origin)


def kernel(golden):
    """A stamp where the kernel is the same everywhere, else a `SpatialKernel`."""
    basis, coefficients, kind = golden["kernel_basis"], golden["kernel_coeffs"], str(golden["kernel_kind"])
    if kind == "fixed":
        return np.einsum("b,byx->yx", coefficients[:, 0], basis)
    box = tuple(golden["kernel_range"].tolist()) if kind == "chebyshev1" else None
    return gpucoadd.SpatialKernel(basis, coefficients, kind=kind, range=box)


def grid(golden):
    """`CellGrid` of the file's configuration."""
    config = golden.meta["config"]["decorrelateMapReduceConfig"]
    centroids = None
    if config["cellCentroidsX"]:
        centroids = list(zip(config["cellCentroidsY"], config["cellCentroidsX"], strict=True))
    return gpucoadd.CellGrid(
        cell_size=(config["cellSizeY"], config["cellSizeX"]),
        grid_step=(config["gridStepY"], config["gridStepX"]),
        border_size=(config["borderSizeY"], config["borderSizeX"]),
        centroids=centroids,
        adjust=config["adjustGridOption"],
        scale_by_fwhm=config["scaleByFwhm"],
        reduce=config["reducer"]["reduceOperation"],
        bad_planes=tuple(config["reducer"]["badMaskPlanes"]),
    )


def psfs(golden):
    """
    Science and template PSF.

    With cells the reference corrected the PSF that the difference carried, which was the science PSF even where the
    template is the unconvolved image, so that one stands for the template's there.
    """
    own_template = golden.matched or not golden.spatial
    return golden["sci_psf"], golden["tmpl_psf" if own_template else "sci_psf"]


def arguments(golden, to_device=lambda array: array):
    """Positional arguments of `decorrelate`, and the keywords that are no configuration."""
    asked = golden.meta["run_kwargs"]
    keywords = dict(zip(("science_psf", "template_psf"), psfs(golden), strict=True))
    keywords |= {"template_matched": golden.matched, "score": golden.score}
    if "preConvKernel" in asked:
        keywords["preconvolution_kernel"] = golden["preconv_kernel"]
    if "xcen" in asked:
        keywords["position"] = (asked["ycen"], asked["xcen"])
    if "svar" in asked:
        keywords |= {"science_variance": asked["svar"], "template_variance": asked["tvar"]}
    if golden.spatial and golden.meta["config"]["decorrelateMapReduceConfig"]["scaleByFwhm"]:
        keywords["psf_fwhm"] = float(golden["psf_fwhm_used"])
    images = [masked_image(golden, name, to_device) for name in ("sci", "tmpl", "diff")]
    return [*images, kernel(golden)], keywords


def options(golden):
    """The file's configuration as keywords of `decorrelate`."""
    named = {"ignore_planes": golden.task["ignoreMaskPlanes"]}
    named["complete_variance"] = golden.task["completeVarPlanePropagation"]
    named["cells"] = grid(golden) if golden.spatial else None
    return named


def flat(config, prefix=""):
    """Nested tables as dotted names."""
    named = {}
    for name, value in config.items():
        named |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return named


def run(golden, to_device=lambda array: array):
    """`decorrelate` with the file's configuration, option by option."""
    images, keywords = arguments(golden, to_device)
    return gpucoadd.decorrelate(*images, **keywords, **options(golden))


def run_configured(golden):
    """`decorrelate` with the file's configuration by LSST's names."""
    images, keywords = arguments(golden)
    overrides = flat(golden.meta["config"])
    spatially_varying = golden.spatial if golden.meta["kind"] == "decorrelate_spatial" else None
    config = gpucoadd.DecorrelationConfig.from_lsst(overrides, spatially_varying=spatially_varying)
    return gpucoadd.decorrelate(*images, **keywords, config=config)


# What must come out -------------------------------------------------------------------------------------------------


def expected_planes(golden):
    """Image, variance, mask."""
    prefix = "clean" if golden.meta["kind"] == "decorrelate_spatial" else "out"
    return tuple(golden[f"{prefix}_{plane}"] for plane in ("image", "variance", "mask"))


def check_same_specials(name, got, expected):
    """NaN and infinities at the same pixels, with the same sign."""
    for kind, where in (("NaN", np.isnan), ("inf", np.isposinf), ("-inf", np.isneginf)):
        assert_array_equal(where(got), where(expected), err_msg=f"{name}: {kind}")


def check_image(got, expected, tolerance):
    """Equal within `tolerance` standard deviations of `expected`."""
    check_same_specials("image", got, expected)
    finite = np.isfinite(expected)
    if finite.any():
        allowed = tolerance * expected[finite].std(dtype=np.float64)
        worst = np.abs(got[finite].astype(np.float64) - expected[finite]).max()
        assert worst <= allowed, f"image: off by {worst:g}, allowed are {allowed:g}"


def check_planes(result, golden):
    """Image, variance and mask against the file, with their dtypes."""
    image, variance, mask = expected_planes(golden)
    assert host(result.image).dtype == image.dtype
    assert host(result.variance).dtype == variance.dtype
    check_image(host(result.image), image, IMAGE[golden.kind])
    check_same_specials("variance", host(result.variance), variance)
    assert_allclose(host(result.variance), variance, rtol=VARIANCE, err_msg="variance")
    assert_array_equal(host(result.mask), mask, err_msg="mask")
    assert result.schema == golden.schema
    assert tuple(result.origin) == golden.origin


def half_plane(index, shape):
    """Indices into an rfft half plane of (ky, kx) on the full plane; a real image's other half mirrors the first."""
    ky, kx = index[:, 0] % shape[0], index[:, 1] % shape[1]
    mirrored = kx > shape[1] // 2
    return np.where(mirrored, -ky % shape[0], ky), np.where(mirrored, -kx % shape[1], kx)


def check_whole(result, golden):
    """AssertionError unless a result without cells agrees."""
    check_planes(result, golden)
    assert result.cells is None
    if "corrft_value" not in golden.arrays:
        return
    shape = tuple(golden["fft_shape"].tolist())
    assert tuple(result.fft_shape) == shape
    correction = host(result.correction)
    assert correction.dtype == np.float64
    assert correction.shape == (shape[0], shape[1] // 2 + 1)
    values = correction[half_plane(golden["corrft_index"], shape)]
    assert_allclose(values, golden["corrft_value"], rtol=CORRECTION[golden.score], err_msg="correction")
    assert_allclose(host(result.psf), golden["corrected_psf"], rtol=0, atol=PSF, err_msg="psf")
    check_numbers(result, golden)


def check_numbers(result, golden):
    """Variance levels and the kernel's position; a number that was given is what it is."""
    levels = [golden.meta["unconvolved_variance_mean"], golden.meta["convolved_variance_mean"]]
    science, template = levels if golden.matched else levels[::-1]
    assert_allclose(result.science_variance, science, rtol=VARIANCE_MEAN, err_msg="science_variance")
    assert_allclose(result.template_variance, template, rtol=VARIANCE_MEAN, err_msg="template_variance")
    x, y = golden.meta["kernel_center"]
    assert tuple(result.kernel_position) == (y, x)


def check_cells(result, golden):
    """AssertionError unless a result with cells agrees."""
    check_planes(result, golden)
    cells = result.cells
    assert result.correction is None
    assert_array_equal(cells.inner, golden["boxes0"], err_msg="inner")
    assert_array_equal(cells.expanded, golden["boxes1"], err_msg="expanded")
    assert_array_equal(cells.kernel_position, golden["cell_kernel_center"][:, ::-1], err_msg="kernel_position")
    for name in ("science_variance", "template_variance"):
        assert_allclose(getattr(cells, name), golden[f"cell_{name}"], rtol=VARIANCE_MEAN, err_msg=name)
    assert_allclose(host(cells.psf), golden["cell_psf"], rtol=0, atol=PSF, err_msg="psf of the cells")
    n_found = 0
    for (x, y), expected in zip(golden["coadd_psf_points"], golden["coadd_psf_images"], strict=True):
        try:
            stamp = host(result.psf_at(y, x))
        except ValueError:  # outside of every cell
            assert np.isnan(expected).all(), f"psf_at{y, x}"
            continue
        n_found += 1
        assert_allclose(stamp, expected, rtol=0, atol=PSF, err_msg=f"psf_at{y, x}")
    members = golden.meta["coadd_psf_members"]
    assert n_found == sum(1 for cells_there in members if cells_there)


def check(result, golden):
    """AssertionError unless the result agrees with the file at its tolerances."""
    (check_cells if golden.spatial else check_whole)(result, golden)


def check_left_alone(result, golden):
    """The difference as it came."""
    for plane, expected in zip(("image", "variance", "mask"), expected_planes(golden), strict=True):
        assert_array_equal(host(getattr(result, plane)), expected, err_msg=plane)


def check_identity(result, golden):
    """LSST refuses a kernel of one pixel; it convolves with a number, so the noise is white already."""
    check_image(host(result.image), golden["diff_image"], IMAGE["F"])
    scale = float(golden["kernel_basis"].sum() * golden["kernel_coeffs"].sum())
    expected = golden["sci_variance"] + scale**2 * golden["tmpl_variance"]
    assert_allclose(host(result.variance), expected, rtol=VARIANCE)
    assert_allclose(host(result.psf), golden["sci_psf"] / golden["sci_psf"].sum(), rtol=0, atol=PSF)


# Our second opinion, in the same form --------------------------------------------------------------------------------


def from_oracle(golden):
    """What `check` compares, from `oracle_decorrelation`."""
    bits = sum(1 << golden.meta["bits"][name] for name in golden.task["ignoreMaskPlanes"])
    science, template = ((golden[f"{n}_variance"], golden[f"{n}_mask"]) for n in ("sci", "tmpl"))
    stamps = golden["kernel_basis"], golden["kernel_coeffs"], str(golden["kernel_kind"]), golden["kernel_range"]
    named = {"template_matched": golden.matched, "score": golden.score}
    named["complete"] = golden.task["completeVarPlanePropagation"]
    named["psf"] = psfs(golden)[0 if golden.matched else 1]
    named["preconvolution"] = golden.arrays.get("preconv_kernel")
    common = {"mask": golden["diff_mask"], "schema": golden.schema, "origin": golden.origin}
    dtype = golden["diff_image"].dtype
    if golden.spatial:
        boxes = golden["boxes0"], golden["boxes1"]
        reduce = golden.meta["config"]["decorrelateMapReduceConfig"]["reducer"]["reduceOperation"]
        at = lambda y, x: oracle.kernel_at(*stamps, y, x)  # noqa: E731
        made = oracle.decorrelate_cells(
            golden["diff_image"], science, template, at, *boxes, origin=golden.origin, bits=bits, reduce=reduce, **named
        )
        cells = SimpleNamespace(
            inner=boxes[0],
            expanded=boxes[1],
            kernel_position=[cell.position for cell in made.cells],
            science_variance=[cell.sv for cell in made.cells],
            template_variance=[cell.tv for cell in made.cells],
            psf=np.array([cell.psf for cell in made.cells]),
        )

        def psf_at(y, x):
            stamp = oracle.psf_at(made.cells, boxes[0], y, x)
            if stamp is None:
                raise ValueError("no cell there")
            return stamp

        common |= {"cells": cells, "correction": None, "psf_at": psf_at}
    else:
        asked = golden.meta["run_kwargs"]
        height, width = golden["diff_image"].shape
        y, x = asked.get("ycen", golden.origin[0] + height / 2), asked.get("xcen", golden.origin[1] + width / 2)
        sv = asked.get("svar", oracle.variance_mean(*science, bits))
        tv = asked.get("tvar", oracle.variance_mean(*template, bits))
        planes = golden["diff_image"], science[0], template[0]
        made = oracle.decorrelate(*planes, oracle.kernel_at(*stamps, y, x), sv=sv, tv=tv, **named)
        common |= {"cells": None, "fft_shape": made.fft_shape, "psf": made.psf, "kernel_position": (y, x)}
        common |= {"correction": made.spectrum[:, : made.fft_shape[1] // 2 + 1]}
        common |= {"science_variance": sv, "template_variance": tv}
    return SimpleNamespace(image=made.image.astype(dtype), variance=made.variance.astype(np.float32), **common)
