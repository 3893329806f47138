"""Image map-reduce as a task: LSST's grids and reducers, mappers of users, exposures of any kind."""

from __future__ import annotations

from typing import ClassVar

import afwlike
import imageslike
import numpy as np
import pytest
from lsst.pex.config import Config, Field
from lsst.pipe.base import Struct
from numpy.testing import assert_allclose, assert_array_equal
from test_cells import SUMS, golden_paths, load

import gpucoadd
from gpucoadd.boxes import as_box
from gpucoadd.exposure_parts import box_of
from gpucoadd.exposures import from_lsst
from gpucoadd.lsst import (
    ImageMapper,
    ImageMapperConfig,
    ImageMapReduceConfig,
    ImageMapReduceTask,
    ImageReducer,
    ImageReducerConfig,
    PlainMaskedImage,
)
from gpucoadd.psf import FWHM_PER_SIGMA
from gpucoadd.scenery import gaussian_psf

STAMP = gaussian_psf(1.5, 13)


class AddConfig(ImageMapperConfig):
    amount = Field(dtype=float, default=5.0, doc="What is added.")


class Add(ImageMapper):
    """Adds to the image, doubles the variance, writes to its input, and remembers what it was given."""

    ConfigClass = AddConfig
    calls: ClassVar[list] = []

    def run(self, subExposure, expandedSubExposure, fullBBox, **kwargs):
        self.calls.append((subExposure, expandedSubExposure, fullBBox, kwargs))
        subExposure.image.array[...] += self.config.amount
        subExposure.variance.array[...] *= 2
        expandedSubExposure.image.array[...] = -1e9
        if kwargs.get("add_nans"):
            subExposure.image.array[0, 0] = np.nan
        return Struct(subExposure=subExposure)


@pytest.fixture(autouse=True)
def no_calls():
    Add.calls = []


def configured(mapper=Add, reducer=None, **fields):
    config = ImageMapReduceConfig()
    config.mapper.retarget(mapper)
    if reducer is not None:
        config.reducer.retarget(reducer)
    for name, value in fields.items():
        if name in ("reduceOperation", "badMaskPlanes"):
            setattr(config.reducer, name, value)
        else:
            setattr(config, name, value)
    return config


def in_pixels(mapper=Add, **fields):
    sizes = {"cellSizeX": 12.0, "cellSizeY": 10.0, "borderSizeX": 3.0, "borderSizeY": 2.0, "scaleByFwhm": False}
    return configured(mapper, **(sizes | fields))


def exposure(shape=(30, 40), xy0=(100, -20), psf=None, seed=1):
    rng = np.random.default_rng(seed)
    planes = rng.normal(size=shape).astype(np.float32), rng.uniform(1, 2, shape).astype(np.float32)
    mask = (rng.random(shape) < 0.1).astype(np.int32)
    return afwlike.Exposure.of(*planes, mask, afwlike.Planes(), xy0=xy0, psf=psf, wcs="a wcs")


def boxes(task):
    return [np.array([as_box(box) for box in kept]) for kept in (task.boxes0, task.boxes1)]


# The grid -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", golden_paths("p03*.npz"), ids=lambda path: path.stem)
def test_grids_of_lsst(path):
    meta, arrays = load(path)
    psf = afwlike.Psf(STAMP, sigma=meta["fwhm"] / FWHM_PER_SIGMA)
    for row in meta["rows"]:
        names = ("cellSize", "gridStep", "border")
        pairs = [(f"{name.removesuffix('Size')}Size" if name == "border" else name, row[name]) for name in names]
        sizes = {f"{name}{axis}": value for name, pair in pairs for axis, value in zip("XY", pair)}
        config = configured(adjustGridOption=row["adjust"], scaleByFwhm=row["scaleByFwhm"], **sizes)
        task = ImageMapReduceTask(config=config)
        image = exposure(tuple(row["shape"]), tuple(row["xy0"]), psf)
        if "error" in row:
            with pytest.raises(RuntimeError, match="cannot be made even"):
                task._generateGrid(image, forceEvenSized=row["forceEvenSized"])
            continue
        made = task._generateGrid(image, forceEvenSized=row["forceEvenSized"])
        assert made == (task.boxes0, task.boxes1)
        assert all(isinstance(box, afwlike.Box2I) for kept in made for box in kept)
        for got, name in zip(boxes(task), ("boxes0", "boxes1")):
            assert_array_equal(got, arrays[f"g{row['i']}_{name}"], err_msg=f"{row}")


def test_the_grid_is_made_anew():
    """LSST keeps the boxes of the first exposure."""
    task = ImageMapReduceTask(config=in_pixels())
    assert task.boxes0 is None and task.boxes1 is None
    task.run(exposure())
    first = len(task.boxes0)
    result = task.run(exposure((60, 80)))
    assert len(task.boxes0) > first == task.metadata["n_cells"] - (len(task.boxes0) - first)
    assert not np.isnan(result.exposure.image.array).any()


def test_sizes_are_in_units_of_the_psf():
    image = exposure(psf=afwlike.Psf(STAMP, sigma=2.0 / FWHM_PER_SIGMA))
    task = ImageMapReduceTask(config=in_pixels(scaleByFwhm=True, cellSizeX=6.0, cellSizeY=5.0, borderSizeX=1.0))
    task.run(image)
    inner, expanded = boxes(task)
    assert_array_equal(inner[0], [100, -20, 12, 10])
    assert_array_equal(expanded[0], [100, -20, 14, 14])
    with pytest.raises(ValueError, match="the exposure does not tell it; give it a PSF, or sizes in pixels"):
        task.run(exposure())


def test_centroids():
    config = in_pixels(cellCentroidsX=[5.0, 30.7], cellCentroidsY=[6.0, 20.0], scaleByFwhm=True)
    task = ImageMapReduceTask(config=config)
    result = task.run(exposure())  # no PSF is needed
    assert_array_equal(boxes(task)[0], [[100, -19, 11, 10], [124, -5, 12, 10]])
    assert np.isnan(result.exposure.image.array[0, 0])
    config = in_pixels(cellCentroidsX=[5.0, 30.7], cellCentroidsY=[6.0])
    with pytest.raises(ValueError, match="cellCentroidsX has 2 values but cellCentroidsY has 1"):
        ImageMapReduceTask(config=config).run(exposure())


def test_picture(tmp_path):
    task = ImageMapReduceTask(config=in_pixels())
    image = exposure()
    with pytest.raises(RuntimeError, match="there are no boxes before the first run"):
        task.plotBoxes(image.getBBox(), path=tmp_path / "boxes.png")
    task.run(image)
    path = task.plotBoxes(image.getBBox(), skip=1, path=tmp_path / "boxes.png")
    grid = gpucoadd.CellGrid(cell_size=(10, 12), border_size=(2, 3), grid_step=10, scale_by_fwhm=False)
    expected = grid.draw(tmp_path / "expected.png", (30, 40), origin=(-20, 100), skip=1)
    assert path.read_bytes() == expected.read_bytes()
    with pytest.raises(ValueError, match="skip must be a positive integer"):
        task.plotBoxes(image.getBBox(), skip=0, path=tmp_path / "none.png")


# Mapping --------------------------------------------------------------------------------------------------------------


def test_what_a_mapper_is_given():
    image = exposure()
    before = [part.array.copy() for part in (image.image, image.variance, image.mask)]
    task = ImageMapReduceTask(config=in_pixels(mapper=Add))
    task.run(image, doClone=True, forceEvenSized=True, something="else")
    assert len(Add.calls) == len(task.boxes0)
    for (sub, expanded, full, kwargs), inner, outer in zip(Add.calls, *boxes(task)):
        assert type(sub) is type(expanded) is afwlike.Exposure
        assert_array_equal(box_of(sub), inner)
        assert_array_equal(box_of(expanded), outer)
        assert as_box(full) == box_of(image)
        assert kwargs == {"forceEvenSized": True, "something": "else"}
        assert sub.getWcs() == "a wcs" and sub.getFilter() == "r"
    for part, copied in zip((image.image, image.variance, image.mask), before):
        assert_array_equal(part.array, copied)


def test_a_mapper_must_be_chosen():
    with pytest.raises(TypeError, match="abstract class ImageMapper"):
        ImageMapReduceTask()


def test_the_inputs_are_given_back_on_request():
    config = in_pixels(returnSubImages=True, reduceOperation="none")
    image = exposure()
    results = ImageMapReduceTask(config=config).run(image).result
    for result, (sub, expanded, _, _) in zip(results, Add.calls):
        assert result.subExposure is sub
        for name, changed in (("inputSubExposure", sub), ("inputExpandedSubExposure", expanded)):
            box = box_of(changed)
            rows = slice(box.y0 + 20, box.y0 + 20 + box.height)
            columns = slice(box.x0 - 100, box.x0 - 100 + box.width)
            assert_array_equal(getattr(result, name).image.array, image.image.array[rows, columns])
    assert not hasattr(Add.calls[0], "inputSubExposure")
    config = in_pixels(reduceOperation="none")
    assert not hasattr(ImageMapReduceTask(config=config).run(image).result[0], "inputSubExposure")


def test_the_configuration_of_a_mapper():
    config = in_pixels()
    config.mapper.amount = 7.0
    image = exposure()
    result = ImageMapReduceTask(config=config).run(image)
    assert_array_equal(result.exposure.image.array, image.image.array + np.float32(7))


# Reducing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", golden_paths("p04*.npz"), ids=lambda path: path.stem)
def test_reducers_of_lsst(path):
    meta, arrays = load(path)
    bits = {name: bit for name, bit in meta["bits"].items() if name != "INVALID_MAPREDUCE"}
    for row in meta["rows"]:
        fields = dict(row["config"])
        del fields["mapper"]
        config = configured(**fields.pop("reducer"), **fields)
        planes = [arrays[f"r{row['i']}_{name}"].copy() for name in ("image", "variance", "mask")]
        for plane in planes:
            plane.setflags(write=False)
        image = afwlike.Exposure.of(*planes, afwlike.Planes(bits), xy0=tuple(meta["xy0"]), psf="kept", wcs="kept")
        result = ImageMapReduceTask(config=config).run(image, add_nans=row["addNans"]).exposure
        assert (result.getPsf(), result.getWcs()) == ("kept", "kept")
        assert box_of(result) == box_of(image)
        assert result.mask.getMaskPlaneDict() == meta["bits"]
        assert_array_equal(result.mask.array, arrays[f"r{row['i']}_out_mask"], err_msg=f"{row}")
        for name in ("image", "variance"):
            got, wanted = getattr(result, name).array, arrays[f"r{row['i']}_out_{name}"]
            assert got.dtype == wanted.dtype
            assert_allclose(got, wanted, equal_nan=True, err_msg=f"{row} {name}", **SUMS)


class NewPlane(ImageMapper):
    """Sets a plane that the exposure does not have in the first pixel of each cell."""

    def run(self, subExposure, expandedSubExposure, fullBBox, **kwargs):
        image = from_lsst(subExposure)
        schema = image.schema.with_planes("SEEN")
        mask = image.mask.copy()
        mask[0, 0] |= schema.bitmask("SEEN")
        made = gpucoadd.MaskedImage(image.image, image.variance, mask, schema=schema, origin=image.origin)
        return Struct(subExposure=made)


def plain(**more):
    image = from_lsst(exposure())
    planes = image.image, image.variance, image.mask
    return PlainMaskedImage(*planes, schema=image.schema, origin=image.origin, unit="nJy", **more)


def of_images():
    image = from_lsst(exposure())
    flags = {"BAD": image.mask == 1, "NO_DATA": image.mask == 2}
    return imageslike.MaskedImage.of(image.image, image.variance, flags, start=(-20, 100))


@pytest.mark.parametrize("make", [exposure, plain, of_images, lambda: from_lsst(exposure())])
def test_every_kind_comes_back_in_kind(make):
    image = make()
    before = from_lsst(image)
    task = ImageMapReduceTask(config=in_pixels(NewPlane, badMaskPlanes=["BAD"]))
    result = task.run(image).exposure
    assert type(result) is type(image) and result is not image
    got = from_lsst(result)
    assert_array_equal(got.image, before.image)
    assert got.origin == before.origin
    seen = np.zeros(got.shape, bool)
    for x0, y0, _, _ in boxes(task)[0]:
        seen[y0 + 20, x0 - 100] = True
    assert_array_equal(got.mask >> got.schema.planes["SEEN"] & 1, seen)
    assert_array_equal(got.mask >> got.schema.planes["BAD"] & 1, before.mask >> before.schema.planes["BAD"] & 1)
    assert "SEEN" not in from_lsst(make()).schema


def test_plain_images_keep_what_they_have():
    image = plain(psf=gpucoadd.Psf(STAMP), metadata={"night": 3})
    result = ImageMapReduceTask(config=in_pixels(NewPlane)).run(image).exposure
    assert result.psf is image.psf and result.metadata == {"night": 3} and result.psf_sigma == image.psf_sigma


class Stamps(ImageMapper):
    """PSF and box, the PSF an exposure's own where it has one."""

    def run(self, subExposure, expandedSubExposure, fullBBox, *, how, **kwargs):
        box = subExposure.getBBox()
        if how == "exposure":
            return Struct(subExposure=subExposure)
        width = 1.0 + 0.01 * (box.getMinX() - 100)
        return Struct(psf=gpucoadd.Psf(gaussian_psf(width, 13)), bbox=box if how == "both" else None)


def test_composite_psf():
    config = in_pixels(Stamps, reduceOperation="coaddPsf", adjustGridOption="none", gridStepX=12.0, gridStepY=10.0)
    task = ImageMapReduceTask(config=config)
    psf = task.run(exposure(), how="both").result
    assert isinstance(psf, gpucoadd.CompositePsf) and len(psf) == len(task.boxes0)
    for x, width in ((105.0, 1.0), (115.0, 1.12)):
        assert_allclose(psf.at(-15.0, x), gaussian_psf(width, 13), rtol=0, atol=1e-12)
    varying = afwlike.Psf(lambda x, y: gaussian_psf(1.0 + 0.01 * (x - 100), 13))
    psf = task.run(exposure(psf=varying), how="exposure").result
    assert_allclose(psf.at(-15.0, 115.0), gaussian_psf(1.175, 13), rtol=0, atol=1e-12)  # of the cell's middle, 117.5
    for how in ("psf alone", "exposure"):
        with pytest.raises(TypeError, match="the mapper's result for cell 0 has no PSF; for a composite one"):
            task.run(exposure(), how=how)


def test_results_that_are_no_exposures():
    results = [Struct(subExposure=exposure()), Struct(psf=STAMP)]
    assert ImageReducer(config=reducing("none")).run(results, exposure()).result is results
    with pytest.raises(TypeError, match="the mapper's result for cell 1 has no subExposure"):
        ImageReducer(config=reducing("average")).run(results, exposure())
    with pytest.raises(TypeError, match="ndarray has no image; an exposure must have"):
        ImageReducer(config=reducing("sum")).run([Struct(subExposure=STAMP)], exposure())
    with pytest.raises(
        ValueError, match="the box x0=100, y0=-20, width=50, height=30 must hold a pixel and be inside of"
    ):
        ImageReducer(config=reducing("copy")).run([Struct(subExposure=exposure((30, 50)))], exposure())


def reducing(operation):
    config = ImageReducerConfig()
    config.reduceOperation = operation
    return config


class Last(ImageReducer):
    def run(self, mapperResults, exposure, **kwargs):
        return Struct(exposure=mapperResults[-1].subExposure, kwargs=kwargs)


def test_another_reducer():
    result = ImageMapReduceTask(config=in_pixels(reducer=Last)).run(exposure(), something="else")
    assert result.exposure is Add.calls[-1][0] and result.kwargs == {"something": "else"}


# Configuration --------------------------------------------------------------------------------------------------------


def test_defaults():
    fields = ImageMapReduceConfig().toDict()
    assert fields.pop("ignoreMaskPlanes") == "INTRP EDGE DETECTED SAT CR BAD NO_DATA DETECTED_NEGATIVE".split()
    assert fields == {
        "mapper": {},
        "reducer": {"reduceOperation": "average", "badMaskPlanes": ["INVALID_MAPREDUCE", "BAD", "NO_DATA"]},
        **{f"{name}{axis}": 10.0 for name in ("cellSize", "gridStep") for axis in "XY"},
        **{f"{name}{axis}": 5.0 for name in ("borderSize",) for axis in "XY"},
        **{f"cellCentroids{axis}": None for axis in "XY"},
        "adjustGridOption": "spacing",
        "scaleByFwhm": True,
        "returnSubImages": False,
    }
    assert issubclass(ImageMapReduceConfig, Config)
