"""The tasks of decorrelation: the answers of LSST and of `gpucoadd.decorrelate`, for exposures of any kind."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import afwlike
import decorrelation_goldens as goldens
import hostcuda
import imageslike
import numpy as np
import pytest
import standin
from lsst.pex.config import FieldValidationError
from lsst.pipe.base import Struct
from numpy.testing import assert_allclose, assert_array_equal

import gpucoadd
from gpucoadd.backend import to_host
from gpucoadd.exposures import cut_out, from_lsst
from gpucoadd.lsst import (
    DecorrelateALKernelConfig,
    DecorrelateALKernelMapper,
    DecorrelateALKernelMapReduceConfig,
    DecorrelateALKernelSpatialConfig,
    DecorrelateALKernelSpatialTask,
    DecorrelateALKernelTask,
    ImageMapReduceTask,
    ImageReducer,
    PlainMaskedImage,
)
from gpucoadd.lsst.devices import on_device
from gpucoadd.psf import FWHM_PER_SIGMA
from gpucoadd.scenery import gaussian_psf

PATHS = goldens.paths("gs")
CORRECTED = [path for path in PATHS if path.stem not in goldens.NOT_CORRECTED]
IGNORED = "INTRP EDGE DETECTED SAT CR BAD NO_DATA DETECTED_NEGATIVE".split()


def name_of(path):
    return path.stem


class At:
    """A kernel known by position alone, one position at a time."""

    def __init__(self, kernel):
        self._kernel = kernel

    def at(self, y, x):
        return self._kernel.at(float(y), float(x))


def exposure(golden, name, psf=None, **more):
    """Stand-in for an ExposureF whose pixels cannot be written to."""
    image = goldens.masked_image(golden, name)
    planes = image.image, image.variance, image.mask
    for plane in planes:
        plane.setflags(write=False)
    (y0, x0), bits = image.origin, afwlike.Planes(golden.meta["bits"])
    psf = None if psf is None else afwlike.Psf(psf, average=(x0 + 1.5, y0 + 2.5), **more)
    return afwlike.Exposure.of(*planes, bits, xy0=(x0, y0), psf=psf, wcs="a wcs")


def kernel_like(stamp):
    """Stand-in for a Kernel of afw with a golden file's kernel."""
    return afwlike.Kernel(stamp if isinstance(stamp, np.ndarray) else lambda x, y: stamp.at(y, x))


def inputs(golden):
    """Positional arguments of the tasks, and keywords."""
    asked = dict(golden.meta["run_kwargs"])
    science_psf, template_psf = goldens.psfs(golden)
    sigma = float(golden["psf_fwhm_used"]) / FWHM_PER_SIGMA if "psf_fwhm_used" in golden.arrays else None
    images = (
        exposure(golden, "sci", science_psf),
        exposure(golden, "tmpl", template_psf),
        exposure(golden, "diff", science_psf, sigma=sigma),
    )
    if "preConvKernel" in asked:
        asked["preConvKernel"] = afwlike.Kernel(golden["preconv_kernel"])
    return (*images, kernel_like(goldens.kernel(golden))), asked


def fill(config, values):
    """Set fields of a configuration by nested names."""
    for name, value in values.items():
        if isinstance(value, dict):
            fill(getattr(config, name), value)
        else:
            setattr(config, name, value)


def task_of(golden):
    kind = golden.meta["kind"]
    task = {"decorrelate": DecorrelateALKernelTask, "decorrelate_spatial": DecorrelateALKernelSpatialTask}[kind]
    config = task.ConfigClass()
    fill(config, golden.meta["config"])
    return task(config=config)


def run(golden):
    positional, keywords = inputs(golden)
    return task_of(golden).run(*positional, **keywords)


def planes_of(result):
    """What the checks of the golden files look at."""
    image = from_lsst(result.correctedExposure)
    names = "image variance mask schema origin".split()
    return SimpleNamespace(psf=result.correctedPsf, **{name: getattr(image, name) for name in names})


def golden_named(name):
    (path,) = [path for path in PATHS if path.stem == name]
    return goldens.load(path)


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_agrees_with_lsst(path, caplog):
    golden = goldens.load(path)
    if golden.name in goldens.REFUSED:
        error, match = goldens.REFUSED[golden.name]
        with pytest.raises(error, match=match):
            run(golden)
        return
    with caplog.at_level(logging.WARNING, logger="gpucoadd"):
        result = run(golden)
    made = planes_of(result)
    if golden.name == goldens.EMPTY_TEMPLATE:
        goldens.check_left_alone(made, golden)
        assert "template" in caplog.text
    elif golden.name == goldens.ONE_PIXEL_KERNEL:
        goldens.check_identity(made, golden)
    else:
        goldens.check_planes(made, golden)
        check_psf(result, golden)


def check_psf(result, golden):
    psf = result.correctedPsf
    if golden.score:  # a score image has another PSF
        assert psf is None
    elif golden.spatial:
        assert_allclose(psf.stamps, golden["cell_psf"], rtol=0, atol=goldens.PSF)
        assert_array_equal(psf.boxes, golden["boxes0"])
    elif "corrected_psf" in golden.arrays:
        assert_allclose(psf, golden["corrected_psf"], rtol=0, atol=goldens.PSF)


@pytest.mark.parametrize("path", CORRECTED, ids=name_of)
def test_equals_the_arrays_to_the_bit(path):
    golden = goldens.load(path)
    positional, keywords = inputs(golden)
    task = task_of(golden)
    result = task.run(*positional, **keywords)
    (*images, kernel), named = goldens.arguments(golden)
    if isinstance(kernel, gpucoadd.SpatialKernel):
        kernel = At(kernel)
    expected = gpucoadd.decorrelate(*images, kernel, **named, **goldens.options(golden))
    got = planes_of(result)
    for plane in ("image", "variance", "mask"):
        assert_array_equal(getattr(got, plane), getattr(expected, plane), err_msg=plane)
    if golden.spatial:
        assert result.exposure is result.correctedExposure
        assert task.metadata["n_cells"] == len(expected.cells.inner)
        if not golden.score:
            assert_array_equal(result.correctedPsf.stamps, expected.cells.psf)
        return
    assert not hasattr(result, "exposure")
    if golden.meta["kind"] == "decorrelate":
        assert task.freqSpaceShape == expected.fft_shape
    if not golden.score:
        assert_array_equal(result.correctedPsf, expected.psf)


@pytest.mark.parametrize("path", [p for p in CORRECTED if p.stem.startswith("s")], ids=name_of)
def test_map_reduce_with_the_mapper_gives_what_the_spatial_task_gives(path):
    golden = goldens.load(path)
    if not golden.spatial:
        return
    (science, template, difference, kernel), keywords = inputs(golden)
    del keywords["spatiallyVarying"]
    config = DecorrelateALKernelMapReduceConfig()
    fill(config, golden.meta["config"]["decorrelateMapReduceConfig"])
    result = ImageMapReduceTask(config=config).run(
        difference,
        science=science,
        template=template,
        alTaskResult=Struct(psfMatchingKernel=kernel),
        forceEvenSized=True,
        **keywords,
    )
    got, (image, variance, _) = from_lsst(result.exposure), goldens.expected_planes(golden)
    goldens.check_image(got.image, image, goldens.IMAGE[golden.kind])
    assert_allclose(got.variance, variance, rtol=goldens.VARIANCE)
    bits = dict(golden.meta["bits"]) | {"INVALID_MAPREDUCE": 9}
    planes = {name: got.mask >> got.schema.planes[name] & 1 for name in got.schema}
    for name, bit in bits.items():
        expected = golden["mapreduce_mask"] >> bit & 1
        assert_array_equal(planes.get(name, np.zeros_like(got.mask)), expected, err_msg=name)


class OwnReducer(ImageReducer):
    """Gives the mean, and remembers that it was asked."""

    asked = 0

    def run(self, mapperResults, exposure, **kwargs):
        type(self).asked += 1
        return super().run(mapperResults, exposure, **kwargs)


def test_another_reducer_is_asked():
    golden = golden_named("s09_explicit_centroids")
    positional, keywords = inputs(golden)
    config = DecorrelateALKernelSpatialConfig()
    config.decorrelateMapReduceConfig.reducer.retarget(OwnReducer)
    fill(config, golden.meta["config"])
    task = DecorrelateALKernelSpatialTask(config=config)
    result = task.run(*positional, **keywords)
    assert OwnReducer.asked == 1
    made = planes_of(result)
    assert set(made.schema) == {*golden.schema, "INVALID_MAPREDUCE"}  # afw's planes are one table
    made.schema = golden.schema
    goldens.check_planes(made, golden)
    assert result.exposure is result.correctedExposure
    assert task.metadata["n_cells"] == len(golden["boxes0"])


def test_a_reducer_without_an_exposure_is_refused():
    golden = golden_named("s09_explicit_centroids")
    positional, keywords = inputs(golden)
    config = task_of(golden).config
    copied = DecorrelateALKernelSpatialConfig()
    fill(copied, config.toDict())
    copied.decorrelateMapReduceConfig.reducer.retarget(OwnReducer)
    copied.decorrelateMapReduceConfig.reducer.reduceOperation = "none"
    with pytest.raises(ValueError, match="reducer of decorrelateMapReduceConfig gives no exposure"):
        DecorrelateALKernelSpatialTask(config=copied).run(*positional, **keywords)


# Kinds ----------------------------------------------------------------------------------------------------------------


def planes(seed, shape=(48, 50)):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape).astype(np.float32)
    return image, np.full(shape, 1.0 + seed, np.float32), np.zeros(shape, np.int32)


STAMP, KERNEL = gaussian_psf(1.6, 15), gaussian_psf(1.1, 9)


def ours(seed):
    image = gpucoadd.MaskedImage(*planes(seed), schema=gpucoadd.MaskSchema.lsst(), origin=(-4, 20), unit="nJy")
    return image


def as_afw(seed):
    return afwlike.Exposure.of(*planes(seed), afwlike.Planes(), xy0=(20, -4), psf=afwlike.Psf(STAMP, sigma=1.6))


def as_images(seed):
    image, variance, mask = planes(seed)
    flags = {name: mask != 0 for name in IGNORED}
    return imageslike.MaskedImage.of(image, variance, flags, start=(-4, 20), psf=imageslike.Psf(STAMP))


def as_plain(seed):
    image = ours(seed)
    planes = image.image, image.variance, image.mask
    return PlainMaskedImage(*planes, schema=image.schema, origin=image.origin, unit="nJy", psf=gpucoadd.Psf(STAMP))


@pytest.mark.parametrize("make", [ours, as_plain, as_afw, as_images])
@pytest.mark.parametrize("spatial", [False, True])
def test_every_kind_comes_back_in_kind(make, spatial):
    config = DecorrelateALKernelSpatialConfig()
    cells = config.decorrelateMapReduceConfig
    cells.scaleByFwhm = False
    cells.cellSizeX = cells.cellSizeY = 20.0
    images = [make(seed) for seed in range(3)]
    before = [[plane.copy() for plane in (i.image, i.variance, i.mask)] for i in map(from_lsst, images)]
    result = DecorrelateALKernelSpatialTask(config=config).run(*images, KERNEL, spatiallyVarying=spatial)
    made = result.correctedExposure
    assert type(made) is type(images[2]) and made is not images[2]
    grid = gpucoadd.CellGrid(cell_size=20, border_size=8, grid_step=40, scale_by_fwhm=False) if spatial else None
    psf = None if make is ours else STAMP
    expected = gpucoadd.decorrelate(*(ours(seed) for seed in range(3)), KERNEL, science_psf=psf, cells=grid)
    got = from_lsst(made)
    for name in ("image", "variance"):
        assert_array_equal(getattr(got, name), getattr(expected, name))
    assert (got.origin, got.unit) == ((-4, 20), from_lsst(images[2]).unit)
    assert not got.mask.any() and not np.shares_memory(got.mask, from_lsst(images[2]).mask)
    for image, kept in zip(map(from_lsst, images), before):
        for plane, copied in zip((image.image, image.variance, image.mask), kept):
            assert_array_equal(plane, copied)
    if make is as_afw:
        assert made.getPsf() is images[2].getPsf()  # that of afw cannot be made here
    if make is as_plain:
        assert_allclose(made.psf.images[0], expected.psf, rtol=0, atol=goldens.PSF)
        assert made.psf_sigma < images[2].psf_sigma  # the correction sharpens
    assert (result.correctedPsf is None) == (make is ours)


def test_a_plain_image_keeps_its_psf_where_the_corrected_one_is_none(caplog):
    images = [as_plain(seed) for seed in range(3)]
    score = DecorrelateALKernelTask().run(*images, KERNEL, preConvMode=True)
    assert score.correctedExposure.psf is images[2].psf and score.correctedPsf is None
    wide = afwlike.Exposure.of(*planes(0), afwlike.Planes(), xy0=(20, -4), psf=afwlike.Psf(STAMP[1:]))
    result = DecorrelateALKernelTask().run(wide, *images[1:], KERNEL)
    assert result.correctedExposure.psf is images[2].psf
    assert result.correctedPsf.shape == (14, 15)
    assert "the PSF of the difference is kept, since the corrected one cannot be: images has shape" in caplog.text


def test_images_on_a_device_stay_there():
    if not hostcuda.available():
        pytest.skip(hostcuda.REASON)
    config = DecorrelateALKernelConfig()
    config.device = "cuda"
    expected = gpucoadd.decorrelate(*(ours(seed) for seed in range(3)), KERNEL).image
    with standin.installed() as cupy:
        there = [on_device(ours(seed), "cuda") for seed in range(3)]
        assert on_device(there[0], "cpu") is there[0]
        result = DecorrelateALKernelTask().run(*there, KERNEL).correctedExposure
        assert isinstance(result.image, cupy.ndarray) and isinstance(result.mask, cupy.ndarray)
        moved = DecorrelateALKernelTask(config=config).run(*(ours(seed) for seed in range(3)), KERNEL)
        assert isinstance(moved.correctedExposure.image, np.ndarray)
        for got in (to_host(result.image), moved.correctedExposure.image):
            assert_allclose(got, expected, rtol=0, atol=1e-6)
        before = standin.launches
        afw = DecorrelateALKernelTask(config=config).run(*(as_afw(seed) for seed in range(3)), KERNEL)
        assert standin.launches > before
        assert isinstance(afw.correctedPsf, np.ndarray) and isinstance(afw.correctedExposure.image.array, np.ndarray)


def test_a_kernel_is_asked_at_the_position_of_the_task():
    asked = []

    def stamp(x, y):
        asked.append((x, y))
        return KERNEL * (1 + 1e-3 * x)

    images = [as_afw(seed) for seed in range(3)]
    DecorrelateALKernelTask().run(*images, afwlike.Kernel(stamp), spatiallyVarying=True)
    assert asked[-1] == (20 + 25.0, -4 + 24.0)
    task = DecorrelateALKernelTask()
    result = task.run(*images, afwlike.Kernel(stamp), xcen=30.0)
    assert asked[-1] == (30.0, 20.0)
    expected = gpucoadd.decorrelate(*(ours(seed) for seed in range(3)), KERNEL * 1.03, science_psf=STAMP)
    assert_array_equal(from_lsst(result.correctedExposure).image, expected.image)
    task.run(*images, afwlike.Kernel(stamp), ycen=-1.5, xcen=44.0)
    assert asked[-1] == (44.0, -1.5)


def test_afw_fills_an_image_of_its_own(monkeypatch):
    class ImageD(afwlike.Image):
        def __init__(self, dimensions):
            super().__init__(np.full((dimensions.getY(), dimensions.getX()), np.nan))

    class Strict(afwlike.Kernel):
        def computeImage(self, image, doNormalize, x=0.0, y=0.0):
            assert type(image) is ImageD
            return super().computeImage(image, doNormalize, x, y)

    Strict.__module__ = "lsst.afw.math"
    monkeypatch.setitem(sys.modules, "lsst.afw.image", SimpleNamespace(ImageD=ImageD))
    images = [as_afw(seed) for seed in range(3)]
    stamp = KERNEL[1:, :]  # rows and columns must not be mixed up
    got = DecorrelateALKernelTask().run(*images, Strict(stamp))
    expected = DecorrelateALKernelTask().run(*images, stamp)
    assert_array_equal(got.correctedExposure.image.array, expected.correctedExposure.image.array)


def test_a_kernel_of_lsst_images():
    images = [as_images(seed) for seed in range(3)]
    got = DecorrelateALKernelTask().run(*images, imageslike.Psf(KERNEL))  # kernels have the method of PSFs
    expected = DecorrelateALKernelTask().run(*images, KERNEL)
    assert_array_equal(got.correctedExposure.image.array, expected.correctedExposure.image.array)


def test_a_kernel_of_no_kind_is_refused():
    with pytest.raises(TypeError, match=r"a kernel must be an array \(y, x\), an object with at"):
        DecorrelateALKernelTask().run(*(as_afw(seed) for seed in range(3)), "gaussian")


def test_a_psf_with_a_hole():
    """Where the template's PSF has no image, its mean over the field stands in."""

    def hole(x, y):
        if abs(x - 45) < 2:
            raise RuntimeError("no input there")
        return STAMP

    images = [as_afw(seed) for seed in range(3)]
    images[1].setPsf(afwlike.Psf(hole))
    result = DecorrelateALKernelTask().run(*images, KERNEL, templateMatched=False)
    images[1].setPsf(afwlike.Psf(STAMP))
    whole = DecorrelateALKernelTask().run(*images, KERNEL, templateMatched=False)
    assert_allclose(result.correctedPsf, whole.correctedPsf, rtol=0, atol=goldens.PSF)

    def nowhere(x, y):
        raise RuntimeError("no input there")

    images[1].setPsf(afwlike.Psf(nowhere))
    with pytest.raises(ValueError, match="the PSF is not defined"):
        DecorrelateALKernelTask().run(*images, KERNEL, templateMatched=False)
    images[1].setPsf("gaussian")
    with pytest.raises(TypeError, match="a PSF must have computeKernelImage"):
        DecorrelateALKernelTask().run(*images, KERNEL, templateMatched=False)


def test_score_takes_the_science_psf_at_its_average_position():
    def stamp(x, y):
        return STAMP if (x, y) == (33.0, 3.0) else gaussian_psf(3.0, 15)

    images = [as_afw(seed) for seed in range(3)]
    images[0].setPsf(afwlike.Psf(stamp, average=(33.0, 3.0)))
    got = DecorrelateALKernelTask().run(*images, KERNEL, preConvMode=True)
    explicit = DecorrelateALKernelTask().run(*images, KERNEL, preConvMode=True, preConvKernel=afwlike.Kernel(5 * STAMP))
    assert_allclose(got.correctedExposure.image.array, explicit.correctedExposure.image.array, rtol=1e-6, atol=1e-6)
    assert got.correctedPsf is None and explicit.correctedPsf is None
    with pytest.raises(ValueError, match="score=True needs template_matched=True"):
        DecorrelateALKernelTask().run(*images, KERNEL, preConvMode=True, templateMatched=False)


def test_cells_need_a_psf_or_sizes_in_pixels():
    images = [as_afw(seed) for seed in range(3)]
    images[2].setPsf(None)
    with pytest.raises(ValueError, match="the exposure does not tell it; give it a PSF, or sizes in pixels"):
        DecorrelateALKernelSpatialTask().run(*images, KERNEL)


def test_given_variances_are_used():
    images = [as_afw(seed) for seed in range(3)]
    given = DecorrelateALKernelTask().run(*images, KERNEL, svar=3.0, tvar=np.float64(6.0))
    measured = DecorrelateALKernelTask().run(*images, KERNEL)  # 1 and 2: the same ratio
    assert_array_equal(given.correctedExposure.image.array, measured.correctedExposure.image.array)
    other = DecorrelateALKernelTask().run(*images, KERNEL, svar=6.0, tvar=3.0)
    assert not np.array_equal(other.correctedExposure.image.array, measured.correctedExposure.image.array)


def test_the_log_has_the_variances(caplog):
    images = [as_afw(seed) for seed in range(3)]
    images[0].mask.array[...] = 1  # BAD
    config = DecorrelateALKernelSpatialConfig()
    config.ignoreMaskPlanes = ["SAT"]
    config.decorrelateConfig.ignoreMaskPlanes = ["SAT"]
    with caplog.at_level(logging.INFO):
        DecorrelateALKernelSpatialTask(config=config).run(*images, KERNEL, spatiallyVarying=False)
    assert "Variance of the whole image (science, template): (1, 2)" in caplog.text


# The mapper -----------------------------------------------------------------------------------------------------------


def test_the_mapper_needs_a_kernel():
    cell = as_afw(2)
    with pytest.raises(RuntimeError, match="there is no matching kernel; give psfMatchingKernel, or alTaskResult"):
        DecorrelateALKernelMapper().run(cell, cell, cell.getBBox(), template=as_afw(1), science=as_afw(0))


def test_a_cell_without_good_pixels_is_nothing():
    cell, science = as_afw(2), as_afw(0)
    science.mask.array[...] = 1
    result = DecorrelateALKernelMapper().run(
        cell, cell, cell.getBBox(), template=as_afw(1), science=science, psfMatchingKernel=KERNEL
    )
    assert np.isnan(result.subExposure.image.array).all() and np.isnan(result.subExposure.variance.array).all()
    assert not np.isnan(cell.image.array).any()
    science.image.array[...] = np.nan
    result = DecorrelateALKernelMapper().run(
        cell, cell, cell.getBBox(), template=as_afw(1), science=science, psfMatchingKernel=KERNEL
    )
    assert_array_equal(result.subExposure.image.array, cell.image.array)


def test_cells_of_a_score_image_share_the_preconvolution_kernel():
    """That of the middle of the whole science image, whatever the cell."""
    images = [as_plain(seed) for seed in range(3)]
    coefficients = np.stack([STAMP, 0.3 * gaussian_psf(3.0, 15), np.zeros_like(STAMP)])
    varying = gpucoadd.Psf(coefficients, kind="chebyshev1", range=(19.5, -4.5, 69.5, 43.5))
    science = images[0].with_planes(images[0].image, images[0].variance, images[0].mask, psf=varying)
    cell = cut_out(images[2], (20, -4, 24, 48))
    options = {"template": images[1], "science": science, "psfMatchingKernel": KERNEL, "preConvMode": True}
    got = DecorrelateALKernelMapper().run(cell, cell, images[2].bbox, **options).subExposure
    explicit = DecorrelateALKernelMapper().run(
        cell, cell, images[2].bbox, preConvKernel=varying.at(-4 + 23.5, 20 + 24.5), **options
    )
    assert_array_equal(got.image, explicit.subExposure.image)
    other = DecorrelateALKernelMapper().run(cell, cell, images[2].bbox, preConvKernel=varying.at(19.5, 31.5), **options)
    assert not np.allclose(got.image, other.subExposure.image, rtol=1e-3)


@pytest.mark.parametrize("base", [DecorrelateALKernelTask, DecorrelateALKernelMapper])
def test_methods_that_nothing_asks_cannot_be_overridden(base):
    names = [name for name in vars(DecorrelateALKernelTask) if name.startswith(("compute", "estimate", "calc", "pad"))]
    assert len(names) == 9
    asked = ["computeVarianceMean"] if base is DecorrelateALKernelMapper else []
    for name in names:
        other = type("Other", (base,), {name: lambda *args: None})
        if name in asked:
            other()
            continue
        with pytest.raises(TypeError, match=f"^Other overrides {name}, which is there to be called and which run does"):
            other()
    type("Other", (base,), {"run": lambda *args: None})()


def test_a_mapper_asks_for_the_mean_variance():
    class Equal(DecorrelateALKernelMapper):
        def computeVarianceMean(self, exposure):
            return 2.0

    images = [as_plain(seed) for seed in range(3)]
    options = {"template": images[1], "science": images[0], "psfMatchingKernel": KERNEL}
    cells = [images[2], images[2], images[2].bbox]
    made = DecorrelateALKernelMapper().run(*cells, **options).subExposure
    with_these = DecorrelateALKernelMapper().run(*cells, **options, svar=2.0, tvar=2.0).subExposure
    assert not np.allclose(made.image, with_these.image, rtol=1e-3)
    assert_array_equal(Equal().run(*cells, **options).subExposure.image, with_these.image)


# The methods ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pieces():
    return goldens.load(goldens.DATA / "p01_building_blocks.npz")


@pytest.fixture(scope="module")
def means():
    return goldens.load(goldens.DATA / "p02_clipped_variance_mean.npz")


def prepared(shape):
    task = DecorrelateALKernelTask()
    task.freqSpaceShape = tuple(int(n) for n in shape)
    return task


def test_common_shape(pieces):
    task = DecorrelateALKernelTask()
    for shapes, expected in zip(pieces.meta["common_shape_in"], pieces.meta["common_shape_out"], strict=True):
        assert task.computeCommonShape(*map(tuple, shapes)) is None
        assert task.freqSpaceShape == tuple(expected)


@pytest.mark.parametrize("number", range(5))
def test_padding(pieces, number):
    array, padded = pieces[f"pad_in_{number}"], pieces[f"pad_out_{number}"]
    task = DecorrelateALKernelTask()
    got = task.padCenterOriginArray(array, padded.shape)
    assert_array_equal(got, padded)
    assert got.dtype == array.dtype
    assert_array_equal(task.padCenterOriginArray(padded, array.shape, useInverse=True), pieces[f"pad_back_{number}"])


@pytest.mark.parametrize("number", range(4))
def test_corrections(pieces, number):
    task, (v1, v2) = prepared(pieces[f"corr{number}_shape"]), pieces[f"corr{number}_par"].tolist()
    kernel = pieces[f"corr{number}_kernel"]
    made = task.computeDiffimCorrection(kernel, v1, v2)
    assert_allclose(made.corrft, pieces[f"corr{number}_corrft"], rtol=goldens.CORRECTION[False])
    assert_allclose(made.crft, pieces[f"corr{number}_crft"], rtol=0, atol=1e-12)
    assert_array_equal(made.cnft, made.corrft)
    assert (made.corrft.dtype, made.cnft.dtype, made.crft.dtype) == (np.float64, np.complex128, np.complex128)
    made = task.computeScoreCorrection(kernel, v1, v2, pieces[f"score{number}_preconv"])
    assert_allclose(made.corrft, pieces[f"score{number}_corrft"], rtol=goldens.CORRECTION[True])
    for name in ("cnft", "crft"):
        expected = pieces[f"score{number}_{name}"]
        assert_allclose(getattr(made, name), expected, rtol=0, atol=1e-9 * np.abs(expected).max(), err_msg=name)


@pytest.mark.parametrize("number", range(4))
def test_variance_planes_and_psf(pieces, number):
    (v1, v2), shape = pieces[f"corr{number}_par"].tolist(), pieces[f"corr{number}_shape"]
    task, planes = prepared(shape), [pieces[f"corr{number}_v1"], pieces[f"corr{number}_v2"]]
    made = task.computeDiffimCorrection(pieces[f"corr{number}_kernel"], v1, v2)
    got = task.estimateVariancePlane(*planes, made.cnft, made.crft)
    assert_allclose(got, pieces[f"corr{number}_vest"], rtol=1e-12)
    got = task.computeCorrectedDiffimPsf(made.corrft, pieces[f"corr{number}_psf_in"])
    assert_allclose(got, pieces[f"corr{number}_psf_out"], rtol=0, atol=goldens.PSF)
    if number == 0:  # the planes are larger than the grid
        with pytest.raises(ValueError, match=r"v1 has shape .* does not fit on the grid"):
            task.calculateVariancePlane(*planes, v1, v2, made.cnft, made.crft)
        return
    got = task.calculateVariancePlane(*planes, v1, v2, made.cnft, made.crft)
    assert_allclose(got, pieces[f"corr{number}_vfull"], rtol=1e-12)


def test_the_worked_example():
    task, kernel = DecorrelateALKernelTask(), gaussian_psf(1.0, 5)
    image = np.zeros((12, 12), np.float32)
    image[5, 6] = 1
    task.computeCommonShape(image.shape, kernel.shape, (5, 5))
    made = task.computeDiffimCorrection(kernel, 1.0, 1.0)
    got = task.computeCorrectedImage(made.corrft, image)
    assert got.dtype == np.float64
    values = [got[5, 6], got[5, 7], got[5, 8], got[6, 7], got.sum()]
    assert_allclose(values, [1.37049954, -0.03270210, -0.01295315, -0.02432664, 1.00043695], atol=6e-9)
    image[0, 0], image[1, 1] = np.nan, -np.inf
    got = task.computeCorrectedImage(made.corrft, image)
    assert np.isnan(got[0, 0]) and got[1, 1] == np.inf and np.isfinite(got).sum() == 142


def test_the_image_of_the_methods_is_that_of_run():
    images = [as_afw(seed) for seed in range(3)]
    task = DecorrelateALKernelTask()
    result = task.run(*images, KERNEL)
    means = [task.computeVarianceMean(image) for image in images[:2]]
    assert means == [1.0, 2.0]
    made = task.computeDiffimCorrection(KERNEL, *means)
    got = task.computeCorrectedImage(made.corrft, images[2].image.array)
    assert_allclose(got.astype(np.float32), result.correctedExposure.image.array, rtol=2e-6, atol=1e-9)
    variance = task.estimateVariancePlane(images[0].variance.array, images[1].variance.array, made.cnft, made.crft)
    assert variance.dtype == np.float32
    assert_allclose(variance, result.correctedExposure.variance.array, rtol=1e-6)
    assert_allclose(task.computeCorrectedDiffimPsf(made.corrft, STAMP), result.correctedPsf, rtol=0, atol=goldens.PSF)


@pytest.mark.parametrize("number", range(14))
def test_variance_mean(means, number):
    variance, mask = means[f"var{number}"], means[f"mask{number}"]
    image = afwlike.MaskedImage(np.zeros_like(variance), variance, mask, afwlike.Planes(means.meta["bits"]))
    for task in (DecorrelateALKernelTask(), DecorrelateALKernelSpatialTask()):
        got = task.computeVarianceMean(image)
        assert isinstance(got, float)
        assert_allclose(got, means["clipped_mean"][number], rtol=goldens.VARIANCE_MEAN)


def test_a_correction_needs_a_grid():
    with pytest.raises(RuntimeError, match="no FFT grid has been set; call computeCommonShape"):
        DecorrelateALKernelTask().computeDiffimCorrection(KERNEL, 1.0, 1.0)


# Configuration --------------------------------------------------------------------------------------------------------


def without_device(fields):
    return {n: without_device(v) if isinstance(v, dict) else v for n, v in fields.items() if n != "device"}


def test_defaults():
    plain = {"ignoreMaskPlanes": IGNORED, "completeVarPlanePropagation": False}
    assert DecorrelateALKernelConfig().toDict() == plain | {"device": "auto"}
    cells = {
        "mapper": plain,
        "reducer": {"reduceOperation": "average", "badMaskPlanes": ["INVALID_MAPREDUCE", "BAD", "NO_DATA"]},
        "cellCentroidsX": None,
        "cellCentroidsY": None,
        "cellSizeX": 10.0,
        "cellSizeY": 10.0,
        "gridStepX": 10.0,
        "gridStepY": 10.0,
        "borderSizeX": 5.0,
        "borderSizeY": 5.0,
        "adjustGridOption": "spacing",
        "scaleByFwhm": True,
        "returnSubImages": False,
        "ignoreMaskPlanes": IGNORED,
    }
    assert without_device(DecorrelateALKernelMapReduceConfig().toDict()) == cells
    sizes = {f"{name}{axis}": size for name, size in (("cellSize", 41.0), ("gridStep", 40.0)) for axis in "XY"}
    sizes |= {"borderSizeX": 8.0, "borderSizeY": 8.0}
    assert without_device(DecorrelateALKernelSpatialConfig().toDict()) == {
        "decorrelateConfig": plain,
        "decorrelateMapReduceConfig": cells | sizes,
        "ignoreMaskPlanes": IGNORED,
    }


def test_a_field_that_does_not_exist():
    with pytest.raises(AttributeError, match="ignoreMaskPlane"):
        DecorrelateALKernelConfig().ignoreMaskPlane = ["BAD"]
    with pytest.raises(AttributeError, match="has no attribute cellSize"):
        DecorrelateALKernelSpatialConfig().decorrelateMapReduceConfig.cellSize = 3.0


def test_values_that_are_not_allowed():
    cells = DecorrelateALKernelSpatialConfig().decorrelateMapReduceConfig
    for name in ("cellSizeX", "cellSizeY", "gridStepX", "gridStepY", "borderSizeX", "borderSizeY"):
        with pytest.raises(FieldValidationError, match=name):
            setattr(cells, name, 0.0)
    with pytest.raises(FieldValidationError, match="adjustGridOption"):
        cells.adjustGridOption = "stretch"
    with pytest.raises(FieldValidationError, match="reduceOperation"):
        cells.reducer.reduceOperation = "median"
    with pytest.raises(FieldValidationError, match="completeVarPlanePropagation"):
        cells.mapper.completeVarPlanePropagation = "yes"


NOT_THERE = "cuda:999"


def test_a_device_that_does_not_exist():
    config = DecorrelateALKernelConfig()
    with pytest.raises(FieldValidationError, match="device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got 'tpu'"):
        config.device = "tpu"
    config.device = NOT_THERE
    with pytest.raises((ImportError, RuntimeError), match=f"device='{NOT_THERE}'"):
        DecorrelateALKernelTask(config=config).run(*(as_afw(seed) for seed in range(3)), KERNEL)


@pytest.mark.parametrize("part", ["config", "mapper"])
def test_the_device_of_the_part_comes_first(part):
    config = DecorrelateALKernelSpatialConfig()
    config.device = "cpu"
    cells = config.decorrelateMapReduceConfig
    cells.scaleByFwhm = False
    (cells.mapper if part == "mapper" else config).device = NOT_THERE
    with pytest.raises((ImportError, RuntimeError), match=f"device='{NOT_THERE}'"):
        DecorrelateALKernelSpatialTask(config=config).run(*(as_afw(seed) for seed in range(3)), KERNEL)


def test_fields_apply():
    images = [as_afw(seed) for seed in range(3)]
    images[0].mask.array[:, :20] = 1 << 7  # SUSPECT, which counts by default
    images[0].variance.array[:, :20] = 4.0
    plain = DecorrelateALKernelTask().run(*images, KERNEL)
    config = DecorrelateALKernelConfig()
    config.ignoreMaskPlanes = ["SUSPECT"]
    masked = DecorrelateALKernelTask(config=config).run(*images, KERNEL)
    expected = DecorrelateALKernelTask().run(*images, KERNEL, svar=1.0)
    assert_array_equal(masked.correctedExposure.image.array, expected.correctedExposure.image.array)
    assert not np.array_equal(plain.correctedExposure.image.array, expected.correctedExposure.image.array)
    config = DecorrelateALKernelConfig()
    config.completeVarPlanePropagation = True
    complete = DecorrelateALKernelTask(config=config).run(*images, KERNEL).correctedExposure
    assert complete.variance.array[0, 45] < complete.variance.array[24, 45]
    config = DecorrelateALKernelConfig()
    config.ignoreMaskPlanes = ["CROSSTALK"]
    with pytest.raises(KeyError, match="no mask plane 'CROSSTALK'"):
        DecorrelateALKernelTask(config=config).run(*images, KERNEL)
