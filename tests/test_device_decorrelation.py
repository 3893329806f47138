"""Decorrelation on the stand-in for CuPy, its CUDA kernels run on the CPU: that they are right, and wait for little."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import decorrelation_goldens as goldens
import hostcuda
import numpy as np
import pytest
import standin
from goldens import host
from numpy.testing import assert_allclose, assert_array_equal
from oracle_decorrelation import gaussian

import gpucoadd
from gpucoadd import CellGrid, CompositePsf, MaskedImage, MaskSchema, SpatialKernel, decorrelate
from gpucoadd.filtering import Windows
from gpucoadd.spectra import Correction, phases

pytestmark = pytest.mark.skipif(not hostcuda.available(), reason=hostcuda.REASON)

SCHEMA = MaskSchema.lsst()
SUMS = {"rtol": 1e-13, "atol": 1e-13}  # of some hundred numbers of order one in float64, in another order
SPECIAL = (np.nan, np.inf, -np.inf)
PLANE = (31, 290)  # wider than a block of threads
CORNERS = np.array([[0, 0], [3, 21], [17, 25], [9, 4]], np.int32)
SIZE = (14, 265)


@pytest.fixture
def cupy():
    with standin.installed() as cupy:
        yield cupy


def launchers(name):
    return importlib.import_module(f"gpucoadd.kernels.{name}")


def plane_of(dtype=np.float32, seed=1, special=True):
    rng = np.random.default_rng(seed)
    values = rng.normal(5, 2, PLANE)
    if special:
        values[rng.random(PLANE) < 0.1] = np.nan
        values[rng.random(PLANE) < 0.1] = np.inf
        values[rng.random(PLANE) < 0.1] = -np.inf
    return values.astype(dtype)


def windows_of(plane, corners=CORNERS, size=SIZE):
    return np.stack([plane[y : y + size[0], x : x + size[1]] for y, x in corners.tolist()])


def boxes_of(seed=2):
    """Boxes of all sizes inside the windows; the last one is all of its window."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, SIZE[::-1], (len(CORNERS), 2))
    size = rng.integers(1, SIZE[::-1] - first + 1)
    first[-1], size[-1] = 0, SIZE[::-1]
    return np.hstack([first, size]).astype(np.int32)


def each_box(boxes):
    for number, (x0, y0, width, height) in enumerate(boxes.tolist()):
        yield number, np.s_[y0 : y0 + height, x0 : x0 + width], np.s_[:height, :width]


# Kernels: windows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples(cupy, dtype):
    plane, mask = plane_of(dtype), np.random.default_rng(3).integers(0, 8, PLANE).astype(np.int32)
    samples = cupy.empty((len(CORNERS), SIZE[0] * SIZE[1]), np.float32)
    launchers("windows").sample_windows(*map(cupy.asarray, (plane, mask)), 5, cupy.asarray(CORNERS), SIZE, samples)
    good = np.isfinite(plane) & (mask & 5 == 0)
    expected = windows_of(np.where(good, plane, np.inf).astype(np.float32)).reshape(len(CORNERS), -1)
    assert_array_equal(samples.get(), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_negative_pixels_are_counted(cupy, dtype):
    plane = plane_of(dtype) - 5
    plane[::3, ::2] = 0
    mask = np.random.default_rng(3).integers(0, 8, PLANE).astype(np.int32)
    count = cupy.asarray(np.array([7, 0], np.uint64))
    for seed in range(2):
        with hostcuda.shuffled(seed):
            launchers("windows").count_negative(*map(cupy.asarray, (plane, mask)), 5, count[1:])
    expected = np.count_nonzero(np.isfinite(plane) & (plane < 0) & (mask & 5 == 0))
    assert expected > 100
    assert_array_equal(count.get(), [7, 2 * expected])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_means_of_finite_pixels(cupy, dtype):
    plane = plane_of(dtype)
    plane[:14, :265] = SPECIAL[0]  # the first window has none
    means = launchers("windows").finite_means(cupy.asarray(plane), cupy.asarray(CORNERS), SIZE)
    expected = [w[np.isfinite(w)].astype(np.float64).mean() if np.isfinite(w).any() else 0 for w in windows_of(plane)]
    assert_allclose(means.get(), expected, **SUMS)
    assert expected[0] == 0


def test_means_of_one_large_window_and_of_thousands(cupy, monkeypatch):
    """More rows than blocks that add them up, and more blocks than threads that add these up."""
    monkeypatch.setattr(launchers("windows"), "_PIECE", 1)
    rng = np.random.default_rng(4)
    plane = rng.normal(size=(2100, 3)).astype(np.float32)
    for corners, size in (([[0, 0]], (2100, 3)), (np.stack([np.arange(2100), np.zeros(2100)], 1), (1, 2))):
        corners = np.array(corners, np.int32)
        means = launchers("windows").finite_means(cupy.asarray(plane), cupy.asarray(corners), size)
        expected = windows_of(plane, corners, size).mean(axis=(1, 2), dtype=np.float64)
        assert_allclose(means.get(), expected, **SUMS)


@pytest.mark.parametrize("grid", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(14, 265), (16, 270), (20, 513)])
def test_padding(cupy, shape, dtype, grid):
    plane, means = plane_of(dtype), np.array([1 / 3, -2, 0, 7.5])
    on_device = (cupy.asarray(a) for a in (plane, CORNERS))
    grids = launchers("windows").pad_windows(*on_device, SIZE, cupy.asarray(means), shape, grid)
    expected = np.zeros((len(CORNERS), *shape), grid)
    windows = windows_of(plane)
    expected[:, :14, :265] = np.where(np.isfinite(windows), windows, means[:, None, None])
    assert grids.dtype == grid
    assert_array_equal(grids.get(), expected)


@pytest.mark.parametrize(
    ("grid", "dtype", "result"),
    [(np.float64, np.float32, np.float32), (np.float32, np.float32, np.float32), (np.float64, np.float32, np.float64)],
)
def test_cropping(cupy, grid, dtype, result):
    plane, boxes = plane_of(dtype), boxes_of()
    grids = np.random.default_rng(5).normal(size=(len(CORNERS), 17, 271)).astype(grid)
    size = (14, 300)
    on_device = (cupy.asarray(a) for a in (plane, CORNERS, boxes))
    found = launchers("windows").crop_windows(cupy.asarray(grids), 1 / 3, *on_device, size, result)
    expected, windows = np.zeros((len(CORNERS), *size), result), windows_of(plane)
    for number, box, place in each_box(boxes):
        behind = windows[number][box]
        value = (grids[number][box] * np.float64(1 / 3)).astype(result)
        expected[number][place] = np.where(np.isnan(behind), np.nan, np.where(np.isinf(behind), np.inf, value))
    assert found.dtype == result
    assert_array_equal(found.get(), expected)


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        (np.float32, np.float32, np.float32),
        (np.float32, np.float64, np.float32),
        (np.float64, np.float32, np.float32),
        (np.float32, np.float32, np.float64),
    ],
)
def test_weighted_sums_are_those_of_the_host(cupy, first, second, result, divided):
    """To the bit, in all mixtures of types."""
    planes = plane_of(first), plane_of(second, seed=6)
    rng = np.random.default_rng(7)
    weights, divisors = rng.random((2, len(CORNERS))), rng.random(len(CORNERS)) if divided else None
    found = []
    for to in (lambda a: a, cupy.asarray):
        windows = [Windows(to(plane), to(CORNERS), SIZE) for plane in planes]
        box = np.tile([3, 2, 250, 11], (len(CORNERS), 1))
        with np.errstate(all="ignore"):
            found.append(
                gpucoadd.filtering.weighted_sum(
                    to(weights), *windows, box, result, divisors=None if divisors is None else to(divisors)
                )
            )
    assert found[1].dtype == found[0].dtype == result
    assert_array_equal(found[1].get(), found[0])


def test_weighted_sums_of_boxes_of_other_sizes(cupy):
    planes, boxes, weights = (plane_of(), plane_of(seed=6)), boxes_of(), np.random.default_rng(7).random((2, 4))
    on_device = [Windows(cupy.asarray(plane), cupy.asarray(CORNERS), SIZE) for plane in planes]
    found = gpucoadd.filtering.weighted_sum(cupy.asarray(weights), *on_device, boxes, np.float32).get()
    assert found.shape == (4, *SIZE)
    expected = np.zeros_like(found)
    one, other = map(windows_of, planes)
    w1, w2 = weights.astype(np.float32)
    for number, box, place in each_box(boxes):
        with np.errstate(invalid="ignore"):
            expected[number][place] = w1[number] * one[number][box] + w2[number] * other[number][box]
    assert_array_equal(found, expected)


@pytest.mark.parametrize("corners", [CORNERS, CORNERS[:1]])
def test_windows_are_cut_out_on_either_side(cupy, corners):
    plane = plane_of()
    expected = windows_of(plane, corners)
    assert_array_equal(Windows(plane, corners, SIZE).pixels, expected)
    assert_array_equal(Windows(cupy.asarray(plane), cupy.asarray(corners), SIZE).pixels.get(), expected)
    for to in (lambda a: a, cupy.asarray):
        whole = Windows.whole(to(plane))
        assert len(whole) == 1
        assert_array_equal(host(whole.pixels), plane[None])


# Kernels: corrections ------------------------------------------------------------------------------------------------

# Height and width of the kernel, its number, the grid: odd and even lengths, stamps as large as the grid, one pixel.
CASES = [
    ((5, 5), 1, 3, (12, 14)),
    ((4, 7), 3, 3, (13, 9)),
    ((1, 1), 1, 2, (8, 8)),
    ((2, 3), 2, 2, (2, 4)),
    ((9, 6), 1, 1, (9, 6)),
    ((21, 20), 2, 2, (150, 75)),
    ((11, 9), 1, 1, (129, 128)),
]


def correction_of(case, score, to, psf=None):
    (height, width), n_kernels, n, shape = case
    rng = np.random.default_rng(8)
    kernels = rng.normal(0.1, 1, (n_kernels, height, width)) / np.sqrt(height * width)
    v1, v2 = 0.5 + rng.random((2, n))
    if n > 2:
        v1[-1] = np.nan
    stamp = rng.random((min(4, shape[0]), min(3, shape[1])))  # its power is another one at negative frequencies in y
    preconvolution = to(stamp / stamp.sum()) if score else None
    psf = None if psf is None else to(psf)
    return Correction(*map(to, (kernels, v1, v2)), shape, preconvolution=preconvolution, psf=psf)


@pytest.mark.parametrize("score", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", [np.complex128, np.complex64])
def test_corrections_where_they_are_applied(cupy, case, score, precision):
    """Spectra, weights and PSFs against those of array code on the host, which knows the whole correction."""
    *_, n, shape = case
    rng = np.random.default_rng(9)
    psf = rng.random((1, min(5, shape[0]), min(4, shape[1])))
    spectra = rng.normal(size=(n, shape[0], shape[1] // 2 + 1, 2)).view(np.complex128)[..., 0].astype(precision)
    device = cupy.asarray(spectra)
    weights, stamps = correction_of(case, score, cupy.asarray, psf).multiply(device)
    block = correction_of(case, score, lambda a: a, psf).block()
    assert device.dtype == precision
    rtol = 1e-6 if precision == np.complex64 else 1e-12
    assert_allclose(device.get(), spectra * block.correction, rtol=rtol, atol=0)
    assert_allclose(weights.get(), block.weights, rtol=1e-12)
    assert_allclose(stamps.get(), block.stamps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("score", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_whole_corrections(cupy, case, score):
    found = correction_of(case, score, cupy.asarray).whole()
    assert_allclose(found.get(), correction_of(case, score, lambda a: a).whole(), rtol=1e-12)


def test_a_score_where_both_kernels_have_no_power(cupy):
    """The floor under the power of the pre-convolution kernel keeps a ratio of zeros a number."""
    nothing = np.zeros((1, 3, 3))
    found, expected = (
        Correction(
            to(np.pad(gaussian((3, 3), 1.0), 0)[None]),
            to(np.ones(1)),
            to(np.zeros(1)),
            (8, 8),
            preconvolution=to(nothing[0]),
        ).whole()
        for to in (cupy.asarray, lambda a: a)
    )
    assert_array_equal(found.get(), 1)
    assert_array_equal(expected, 1)


@pytest.mark.parametrize(("n", "n_stamps"), [(1, 1), (3, 1), (3, 3)])
@pytest.mark.parametrize("shape", [(1, 1), (4, 3), (13, 12)])
def test_stamps_are_convolved(cupy, shape, n, n_stamps):
    rng = np.random.default_rng(10)
    height, width = shape
    responses, stamps = rng.normal(size=(n, height, 2 * width - 1)), rng.normal(size=(n_stamps, height, width))
    found = launchers("corrections").convolve_stamps(cupy.asarray(responses), cupy.asarray(stamps))
    expected = np.zeros((n, height, width))
    for number, y, x in np.ndindex(expected.shape):
        for row, column in np.ndindex(shape):
            dy, dx = y - row, x - column
            lag = (dy, dx) if dy >= 0 else (-dy, -dx)
            stamp = stamps[number % n_stamps, row, column]
            expected[number, y, x] += stamp * responses[number, lag[0], lag[1] + width - 1]
    assert_allclose(found.get(), expected, rtol=1e-12, atol=1e-13)


def test_phases_stay_on_the_device(cupy):
    one, same = (gpucoadd.spectra.phases_beside(cupy.zeros(1), 12, 7, 5) for _ in range(2))
    assert one is same
    assert_array_equal(one.get(), phases(12, 7, 5))


# The whole way -------------------------------------------------------------------------------------------------------


def golden_paths():
    """The files of the tests; and the others, where they are."""
    paths = goldens.paths("gs")
    refused = "g20 g21 g22 g24 g25 s11".split()  # tests of the host's answers say what becomes of these
    return [path for path in paths if path.stem[:3] not in refused]


@pytest.mark.parametrize("path", golden_paths(), ids=lambda path: path.stem)
def test_agrees_with_lsst(cupy, path):
    goldens.check(goldens.run(goldens.load(path), cupy.asarray), goldens.load(path))


KERNEL = SpatialKernel(
    np.stack([gaussian((7, 7), 1.0), gaussian((7, 7), 1.5, (0.5, 0.2))]),
    np.array([[0.6, 0.002, 0.001], [0.3, -0.001, 0.002]]),
)
PSF = gaussian((9, 10), 1.4)
GRIDS = {
    "average": CellGrid(cell_size=(24, 30), border_size=(7, 6), scale_by_fwhm=False),
    "sum": CellGrid(cell_size=31, grid_step=17, border_size=5, adjust="none", reduce="sum", scale_by_fwhm=False),
    "copy": CellGrid(cell_size=31, grid_step=19, border_size=5, adjust="none", reduce="copy", scale_by_fwhm=False),
}


def scene(to=lambda a: a, shape=(70, 76), dtype=np.float32, blank=False):
    """Science, template, difference: holes, mask bits, and, if asked for, corners where one image has no value."""
    images = []
    for seed in (1, 2, 3):
        rng = np.random.default_rng(seed)
        image, variance = rng.normal(size=shape).astype(dtype), (1 + rng.random(shape)).astype(np.float32)
        mask = np.where(rng.random(shape) < 0.05, SCHEMA.bitmask("SAT"), 0).astype(np.int32)
        image[30:33, 40] = variance[50, 2:5] = SPECIAL
        image[10:14] = np.nan
        if blank and seed == 1:
            image[:45, :40], variance[:45, :40] = np.nan, np.nan
        if blank and seed == 2:
            variance[40:, 40:] = np.nan
        images.append(MaskedImage(to(image), to(variance), to(mask), schema=SCHEMA, origin=(5, -3)))
    return images


@pytest.mark.parametrize(
    ("name", "dtype", "blank", "options"),
    [
        ("average", np.float32, False, {}),
        ("average", np.float64, True, {}),
        ("sum", np.float64, False, {}),
        ("sum", np.float32, True, {"edge": "reflect", "precision": "single"}),
        ("copy", np.float64, True, {"edge": "reflect"}),
        ("copy", np.float32, False, {"template_matched": False}),
        ("average", np.float64, False, {"template_matched": False, "complete_variance": True}),
        ("average", np.float32, True, {"complete_variance": True, "edge": "reflect"}),
    ],
)
def test_cells_equal_those_of_the_host(cupy, name, dtype, blank, options):
    options = {"cells": GRIDS[name], "science_psf": PSF, "template_psf": PSF, **options}
    expected = decorrelate(*scene(dtype=dtype, blank=blank), KERNEL, **options)
    result = decorrelate(*scene(cupy.asarray, dtype=dtype, blank=blank), KERNEL, **options)
    got = result.image.get()
    goldens.check_same_specials("image", got, expected.image)
    tolerance = 2e-6 if "precision" in options or dtype == np.float32 else 1e-11
    assert_allclose(got, expected.image, rtol=tolerance, atol=tolerance)
    goldens.check_same_specials("variance", result.variance.get(), expected.variance)
    assert_allclose(result.variance.get(), expected.variance, rtol=1e-6)
    assert_allclose(result.cells.science_variance, expected.cells.science_variance, rtol=1e-12)
    assert_allclose(result.cells.template_variance, expected.cells.template_variance, rtol=1e-12)
    assert_allclose(result.cells.psf.get(), expected.cells.psf, rtol=0, atol=1e-12)
    assert_allclose(result.psf.get(), expected.psf, rtol=0, atol=1e-12)
    assert blank == np.isnan(expected.cells.science_variance + expected.cells.template_variance).any()


@pytest.mark.parametrize("n", [1, 2, 7])
def test_batches_do_not_show(cupy, n, monkeypatch):
    """Cells in batches of any number, the last of them smaller, give the same bits."""
    options = {"cells": GRIDS["average"], "science_psf": PSF}
    images = scene(cupy.asarray, (130, 120), np.float64)
    monkeypatch.setattr(launchers("windows"), "_FULL", 8)  # so that a sum could depend on the number of windows
    whole = decorrelate(*images, KERNEL, **options)
    monkeypatch.setattr(gpucoadd.decorrelation_cells, "_DEVICE_CHUNK_BYTES", 16 * 38 * 42 * n)
    hostcuda.reset()
    cut = decorrelate(*images, KERNEL, **options)
    assert hostcuda.launches["merge_cells"] >= max(len(whole.cells.inner) / n, 5)
    for name in ("image", "variance", "psf"):
        assert_array_equal(getattr(cut, name).get(), getattr(whole, name).get(), err_msg=name)


def test_inputs_are_left_alone(cupy):
    images = scene(cupy.asarray)
    planes = [getattr(image, name) for image in images for name in ("image", "variance", "mask")]
    before = [plane.get() for plane in planes]
    for options in ({}, {"cells": GRIDS["sum"]}, {"complete_variance": True, "edge": "reflect"}):
        decorrelate(*images, KERNEL, science_psf=PSF, **options)
    for plane, copy in zip(planes, before, strict=True):
        assert_array_equal(plane.get(), copy)


# What waits ----------------------------------------------------------------------------------------------------------


def cost(cupy, kernel=KERNEL, shape=(70, 76), images=None, **options):
    """Reads, hidden waits and launches of one call, after one that has filled all caches."""
    images = scene(cupy.asarray, shape) if images is None else images
    decorrelate(*images, kernel, **options)
    hostcuda.reset()
    before = np.array([standin.host_reads, standin.hidden_waits, standin.launches])
    decorrelate(*images, kernel, **options)
    reads, waits, launches = np.array([standin.host_reads, standin.hidden_waits, standin.launches]) - before
    return int(reads), int(waits), int(launches)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 2),
        ({"science_psf": PSF}, 2),
        ({"science_variance": 1.0, "template_variance": 2.0}, 2),
        ({"complete_variance": True}, 2),
        ({"score": True, "preconvolution_kernel": PSF}, 2),
        ({"edge": "reflect"}, 3),
    ],
    ids=lambda value: "+".join(value) or "plain" if isinstance(value, dict) else None,
)
def test_reads_of_a_whole_image(cupy, options, most):
    """Negative variances and the levels; how far a correction reaches. A kernel on the host is not asked there."""
    reads, waits, launches = cost(cupy, gaussian((7, 7), 1.2), **options)
    assert (reads <= most, waits) == (True, 0)
    assert launches < 120


def test_reads_of_a_varying_kernel_and_of_stamps_on_the_device(cupy):
    assert cost(cupy)[0] == 3
    stamp = cupy.asarray(gaussian((7, 7), 1.2))
    assert cost(cupy, stamp, science_psf=stamp)[0] == 5  # finite; and a sum


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((70, 76), {}),
        ((130, 120), {"science_psf": PSF}),
        ((70, 76), {"template_matched": False}),
        ((130, 120), {"edge": "reflect"}),
    ],
)
def test_cells_are_launched_by_shape(cupy, shape, options):
    """Reads stay as they are, and launches go up with the shapes of cells, whatever the number of cells."""
    reads, waits, launches = cost(cupy, shape=shape, cells=GRIDS["average"], **options)
    shapes = hostcuda.launches["merge_cells"]
    assert (reads <= 5, waits) == (True, 0)
    assert shapes <= 9
    assert launches < 40 + 90 * shapes
    assert hostcuda.launches["pad_windows"] == hostcuda.launches["crop_windows"] == shapes


def test_reads_of_varying_psfs(cupy):
    """Stamps are looked at together, and stamps from the host before they go to the device."""
    inner, _ = GRIDS["average"].boxes((70, 76), origin=(5, -3), force_even=True)
    on_device, on_host = (CompositePsf(to(np.stack([PSF] * len(inner))), inner) for to in (cupy.asarray, lambda a: a))
    options = {"cells": GRIDS["average"]}
    assert cost(cupy, science_psf=on_host, **options)[0] == 3
    assert cost(cupy, science_psf=on_device, **options)[0] == 4


def test_cells_without_a_value_are_looked_at_together(cupy):
    reads, waits, _ = cost(cupy, images=scene(cupy.asarray, blank=True), cells=GRIDS["average"])
    assert (reads <= 3 + hostcuda.launches["merge_cells"], waits) == (True, 0)


def test_plans_are_kept(cupy):
    """As many as a run can use; a cache that is switched off stays so."""
    cache = cupy.fft.config.get_plan_cache()
    for before, after in ((16, 40), (0, 0), (-1, -1), (64, 64)):
        cache.set_size(before)
        decorrelate(*scene(cupy.asarray), gaussian((3, 3), 1.0))
        assert cache.get_size() == after


@pytest.mark.parametrize(("shape", "fwhm"), [((4000, 4000), 4.11), ((4096, 4096), 3.3), ((4000, 4000), 5.0)])
def test_shapes_of_cells_fit_the_plans(cupy, shape, fwhm):
    """Two directions, and two sizes of batches."""
    _, expanded = CellGrid().boxes(shape, psf_fwhm=fwhm, force_even=True)
    assert 4 * len(np.unique(expanded[:, 2:], axis=0)) <= launchers("plans")._PLANS


def test_second_device(cupy):
    """Everything is made where the images are, whatever the current device."""
    standin.device_count = 2
    try:
        with cupy.cuda.Device(1):
            images = scene(cupy.asarray)
        for options in ({}, {"cells": GRIDS["average"]}):
            result = decorrelate(*images, KERNEL, science_psf=PSF, **options)
            assert result.image.device.id == result.psf.device.id == 1
        assert decorrelate(*images, KERNEL).correction.device.id == 1
    finally:
        standin.device_count = 1


def test_more_goldens_are_found():
    """Where the environment says that there are more files, they are taken."""
    folder = os.environ.get("GPUCOADD_GOLDENS")
    if folder is None:
        pytest.skip("GPUCOADD_GOLDENS is not set")
    assert len(golden_paths()) > len(list(Path(goldens.DATA).glob("[gs]*.npz")))
