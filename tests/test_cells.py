"""Cells: where they lie, what a function sees of them, how they are put together."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import standin
from astropy.wcs import WCS
from goldens import host
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from test_pictures import decode

from gpucoadd import MaskedImage, MaskSchema
from gpucoadd.cells import ADJUSTMENTS, CellGrid
from gpucoadd.mosaic import CellResult, CompositePsf, Mosaic, map_cells

DATA = Path(__file__).parent / "data" / "decorrelate"
FWHM = 4.70381
SCHEMA = MaskSchema.lsst()
# At most a dozen float32 terms of about ten, added in the same order; the mean may be rounded once more.
SUMS = {"rtol": 1e-6, "atol": 1e-6}


def golden_paths(pattern):
    """Files that come with the tests, and those in $GPUCOADD_GOLDENS/decorrelate."""
    found = {path.stem: path for path in sorted(DATA.glob(pattern))}
    folder = os.environ.get("GPUCOADD_GOLDENS")
    if folder:
        found.update({path.stem: path for path in sorted((Path(folder) / "decorrelate").glob(pattern))})
    return list(found.values())


def load(path):
    """`meta` and the arrays of one file."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name != "meta_json"}
        return json.loads(str(file["meta_json"])), arrays


def make_image(shape, *, origin=(0, 0), seed=1, to_device=np.asarray, **extra):
    """Noise with a few mask bits."""
    rng = np.random.default_rng(seed)
    image = rng.normal(10, 3, shape).astype(np.float32)
    variance = rng.uniform(1, 2, shape).astype(np.float32)
    mask = ((rng.random(shape) < 0.1) * 32).astype(np.int32)
    planes = (to_device(plane) for plane in (image, variance, mask))
    return MaskedImage(*planes, schema=SCHEMA, origin=origin, **extra)


def pixel_grid(size=4, step=3, border=2, **options):
    """Grid in pixels."""
    options = {"adjust": "none", "scale_by_fwhm": False} | options
    return CellGrid(cell_size=size, grid_step=step, border_size=border, **options)


def covered(boxes, shape):
    """How many boxes hold each pixel."""
    count = np.zeros(shape, int)
    for x0, y0, width, height in boxes:
        count[y0 : y0 + height, x0 : x0 + width] += 1
    return count


# --- boxes


@pytest.mark.parametrize("path", golden_paths("p03*.npz"), ids=lambda path: path.stem)
def test_grids_of_lsst(path):
    meta, arrays = load(path)
    assert len(meta["rows"]) > 100
    for row in meta["rows"]:
        (cell_x, cell_y), (step_x, step_y), (border_x, border_y) = row["cellSize"], row["gridStep"], row["border"]
        grid = CellGrid(
            cell_size=(cell_y, cell_x),
            grid_step=(step_y, step_x),
            border_size=(border_y, border_x),
            adjust=row["adjust"],
            scale_by_fwhm=row["scaleByFwhm"],
        )
        where = {"origin": row["xy0"][::-1], "psf_fwhm": meta["fwhm"], "force_even": row["forceEvenSized"]}
        if "error" in row:
            with pytest.raises(RuntimeError, match=r"spans all (45|60) pixels .* along [xy] and cannot be made even"):
                grid.boxes(row["shape"], **where)
            continue
        for boxes, name in zip(grid.boxes(row["shape"], **where), ("boxes0", "boxes1")):
            assert boxes.dtype == np.int64
            assert_array_equal(boxes, arrays[f"g{row['i']}_{name}"], err_msg=f"{row}")


@pytest.mark.parametrize("path", golden_paths("s*.npz"), ids=lambda path: path.stem)
def test_grids_of_lsst_decorrelation(path):
    meta, arrays = load(path)
    config = dict(meta["config"]["decorrelateMapReduceConfig"])
    reducer = {f"reducer.{name}": value for name, value in config.pop("reducer").items()}
    del config["mapper"]
    grid = CellGrid.from_lsst(config | reducer)
    where = {"origin": meta["xy0"][::-1], "psf_fwhm": arrays.get("psf_fwhm_used"), "force_even": True}
    if meta["outcome"] == "raises":
        with pytest.raises(RuntimeError, match="cannot be made even"):
            grid.boxes(meta["shape"], **where)
    elif "boxes0" in arrays:
        inner, expanded = grid.boxes(meta["shape"], **where)
        assert_array_equal(inner, arrays["boxes0"])
        assert_array_equal(expanded, arrays["boxes1"])
    else:
        assert meta["run_kwargs"]["spatiallyVarying"] is False


@pytest.mark.parametrize(
    ("adjust", "force_even", "n", "inner_wanted", "expanded_wanted"),
    [
        (
            "spacing",
            False,
            9,
            {0: (0, 0, 47, 47), 1: (0, 41, 47, 47), -1: (82, 82, 46, 46)},
            {0: (0, 0, 71, 71), -1: (58, 58, 70, 70)},
        ),
        (
            "spacing",
            True,
            9,
            {0: (0, 0, 48, 48), 1: (0, 41, 48, 48), -1: (82, 82, 46, 46)},
            {0: (0, 0, 72, 72), -1: (58, 58, 70, 70)},
        ),
        ("size", False, 9, {0: (0, 0, 47, 47), 1: (0, 46, 47, 48), -1: (93, 93, 35, 35)}, {}),
        ("none", False, 9, {0: (0, 0, 47, 47), 1: (0, 47, 47, 47), -1: (94, 94, 34, 34)}, {}),
    ],
)
def test_worked_examples(adjust, force_even, n, inner_wanted, expanded_wanted):
    grid = CellGrid(cell_size=10, grid_step=10, border_size=5, adjust=adjust)
    inner, expanded = grid.boxes((128, 128), psf_fwhm=FWHM, force_even=force_even)
    assert len(inner) == len(expanded) == n
    assert {number: tuple(inner[number].tolist()) for number in inner_wanted} == inner_wanted
    assert {number: tuple(expanded[number].tolist()) for number in expanded_wanted} == expanded_wanted


def test_decorrelation_defaults_are_169_pixels_with_borders_of_33():
    inner, expanded = CellGrid().boxes((1000, 1000), psf_fwhm=4.12)
    assert len(inner) == 36 and (inner[:, 2:] == [169, 169]).all(axis=1).any()
    assert expanded[:, 2:].max(axis=0).tolist() == [169 + 2 * 33] * 2


def test_axes_and_origin():
    """8 rows from y = -7, 6 columns from x = 100; x is the outer loop."""
    grid = CellGrid(cell_size=(4, 3), grid_step=(4, 3), border_size=(2, 1), adjust="none", scale_by_fwhm=False)
    inner, expanded = grid.boxes((8, 6), origin=(-7, 100))
    assert inner.tolist() == [[100, -7, 3, 4], [100, -3, 3, 4], [103, -7, 3, 4], [103, -3, 3, 4]]
    assert expanded.tolist() == [[100, -7, 4, 6], [100, -5, 4, 6], [102, -7, 4, 6], [102, -5, 4, 6]]


def test_sizes_round_half_to_even():
    grid = CellGrid(cell_size=5, grid_step=7, border_size=3, adjust="none")
    inner, expanded = grid.boxes((40, 40), psf_fwhm=0.5)
    assert inner[0].tolist() == [0, 0, 2, 2] and inner[1].tolist() == [0, 4, 2, 2]  # 2.5 is 2, 3.5 is 4
    assert expanded[1].tolist() == [0, 2, 4, 6]  # 1.5 is 2


def test_explicit_centroids_are_relative_and_cut_to_integers():
    """Neither FWHM nor step nor `adjust` counts; a centre outside the image gives no cell."""
    centroids = [(20, 10), (61.9, 50.4), (119, 118), (300, 10), (-30, 5)]
    grid = CellGrid(cell_size=(22, 30.7), border_size=(9, 8.99), centroids=centroids, adjust="size")
    inner, expanded = grid.boxes((120, 130), origin=(600, 500))
    assert inner.tolist() == [[500, 609, 25, 22], [535, 650, 30, 22], [603, 708, 27, 12]]
    assert expanded.tolist() == [[500, 600, 33, 40], [527, 641, 46, 40], [595, 699, 35, 21]]


def test_even_boxes_grow_right_and_up_else_left_and_down():
    grid = CellGrid(cell_size=3, border_size=1, centroids=[(1, 1), (8, 8)])
    inner, expanded = grid.boxes((10, 10), force_even=True)
    assert inner.tolist() == [[0, 0, 4, 4], [6, 6, 4, 4]]
    assert expanded.tolist() == [[0, 0, 4, 4], [6, 6, 4, 4]]


def test_cells_of_one_pixel_are_left_out():
    """The third centre leaves one pixel of its cell in the corner, unless that is made even."""
    grid = CellGrid(cell_size=2, border_size=1, centroids=[(2, 2), (4, 4), (6, 6)])
    assert grid.boxes((6, 6))[0].tolist() == [[1, 1, 2, 2], [3, 3, 2, 2]]
    assert grid.boxes((6, 6), force_even=True)[0].tolist() == [[1, 1, 2, 2], [3, 3, 2, 2], [4, 4, 2, 2]]


def test_a_grid_keeps_nothing_between_images():
    grid = pixel_grid()
    first = grid.boxes((10, 10))[0]
    assert len(grid.boxes((30, 30), origin=(5, 5))[0]) > len(first)
    assert_array_equal(grid.boxes((10, 10))[0], first)


sizes = st.floats(1, 40)


@given(
    shape=st.tuples(st.integers(2, 90), st.integers(2, 90)),
    origin=st.tuples(st.integers(-50, 50), st.integers(-50, 50)),
    cell=st.tuples(sizes, sizes),
    share=st.floats(0.1, 1),
    border=st.floats(0.1, 20),
    adjust=st.sampled_from(ADJUSTMENTS),
    force_even=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_boxes_cover_the_image_and_lie_in_it(shape, origin, cell, share, border, adjust, force_even):
    """With steps no larger than cells; but cells of one pixel are left out, as one that begins at the last pixel."""
    cell = tuple(size + 1.5 for size in cell)
    step = tuple(max(1.5, np.floor(share * size)) for size in cell)
    grid = pixel_grid(cell, step, border, adjust=adjust)
    if force_even:
        shape = tuple(2 * (n // 2) for n in shape)
    inner, expanded = grid.boxes(shape, origin=origin, force_even=force_even)
    moved = [boxes - np.array([origin[1], origin[0], 0, 0]) for boxes in (inner, expanded)]
    for x0, y0, width, height in np.concatenate(moved).tolist():
        assert 0 <= x0 < x0 + width <= shape[1] and 0 <= y0 < y0 + height <= shape[0]
        assert not force_even or (width % 2 == 0 and height % 2 == 0)
    begins, ends = ([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]] for boxes in moved)
    assert (ends[0] <= begins[0]).all() and (begins[1] <= ends[1]).all()
    count = covered(moved[0], shape)
    one_pixel = np.zeros(shape, bool)
    one_pixel[-1, -1] = adjust == "none"
    assert (count[~one_pixel] > 0).all()


def test_many_cells_are_quick():
    grid = pixel_grid(80, 80, 10)
    start = time.perf_counter()
    inner, _ = grid.boxes((4000, 4000), force_even=True)
    assert len(inner) == 2500
    assert time.perf_counter() - start < 0.5  # takes 2 ms; a loop over cells with NumPy in it would not do


# --- options


def test_defaults_and_one_number_for_both_axes():
    grid = CellGrid()
    assert (grid.cell_size, grid.grid_step, grid.border_size) == ((41, 41), (40, 40), (8, 8))
    assert (grid.adjust, grid.reduce, grid.scale_by_fwhm, grid.centroids) == ("spacing", "average", True, None)
    assert grid.bad_planes == ("INVALID_MAPREDUCE", "BAD", "NO_DATA")
    assert CellGrid(cell_size=41) == CellGrid(cell_size=(41.0, np.float32(41))) == grid
    assert CellGrid(centroids=[]) == grid and hash(CellGrid(centroids=[[1, 2]])) == hash(CellGrid(centroids=((1, 2),)))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cell_size": 0}, r"cell_size \(cellSizeY, cellSizeX\) must be a positive number or a pair"),
        ({"grid_step": (3, -1)}, "grid_step .* must be a positive number"),
        ({"border_size": 0.0}, "border_size .* must be a positive number"),
        ({"cell_size": np.nan}, "cell_size .* got nan"),
        ({"cell_size": (1, 2, 3)}, "cell_size .* pair"),
        ({"cell_size": "12"}, "cell_size .* got '12'"),
        ({"cell_size": True}, "cell_size .* got True"),
        ({"centroids": [(1, 2), (3,)]}, r"centroids .* must be pairs .* got \(3,\) as number 1"),
        ({"centroids": [(1, np.inf)]}, "centroids .* finite"),
        ({"adjust": "spaced"}, r"adjust \(adjustGridOption\) must be one of spacing, size, none, got 'spaced'"),
        ({"reduce": "coaddPsf"}, "reduce .* must be one of average, sum, copy, none, coadd_psf, got 'coaddPsf'"),
        ({"scale_by_fwhm": 1}, "scale_by_fwhm .* must be True or False, got 1"),
        ({"return_sub_images": "yes"}, "return_sub_images .* must be True or False"),
        ({"centroids": 5}, "centroids .* must be a list of pairs .* got 5"),
        ({"bad_planes": "BAD"}, "bad_planes .* must be names of mask planes"),
        ({"bad_planes": (1, 2)}, "bad_planes .* must be names of mask planes"),
    ],
)
def test_options_that_do_not_fit(options, match):
    with pytest.raises(ValueError, match=match):
        CellGrid(**options)


@pytest.mark.parametrize(
    ("grid", "where", "match"),
    [
        (CellGrid(), {}, "in units of the PSF's FWHM; give psf_fwhm in pixels"),
        (CellGrid(), {"psf_fwhm": 0}, "psf_fwhm must be positive and finite, in pixels, got 0"),
        (CellGrid(), {"psf_fwhm": np.nan}, "psf_fwhm must be positive and finite"),
        (CellGrid(), {"psf_fwhm": np.inf}, "psf_fwhm must be positive and finite"),
        (CellGrid(), {"psf_fwhm": [4.0, 4.0]}, "psf_fwhm must be positive and finite"),
        (CellGrid(), {"psf_fwhm": 4.0, "shape": (0, 5)}, "shape must be a positive"),
        (CellGrid(), {"psf_fwhm": 4.0, "shape": 5}, "shape must be a pair"),
        (CellGrid(), {"psf_fwhm": 4.0, "origin": (0.5, 0)}, "origin must be a pair of integers"),
        (pixel_grid(0.4), {}, r"cell_size \(0.4, 0.4\) \(y, x\) is \(0, 0\) in whole pixels"),
        (pixel_grid(4, 0.2), {}, "grid_step .* in whole pixels"),
        (pixel_grid(4, 0.2, adjust="size"), {}, "grid_step .* in whole pixels"),
        (CellGrid(cell_size=(0.9, 5), centroids=[(1, 1)]), {}, r"cell_size .* is \(0, 5\) in whole pixels"),
        (CellGrid(centroids=[(500, 500)]), {}, "no cell of more than one pixel lies in the image of .20, 30."),
        (pixel_grid(1, 1, 0.1), {}, "no cell of more than one pixel"),
    ],
)
def test_grids_without_boxes(grid, where, match):
    with pytest.raises(ValueError, match=match):
        grid.boxes(**{"shape": (20, 30)} | where)


def test_what_is_not_used_may_be_tiny_or_missing():
    assert len(pixel_grid(4, 0.2, adjust="spacing").boxes((20, 20))[0]) == 36
    assert len(pixel_grid(0.2, 4, adjust="size").boxes((20, 20))[0]) == 25
    assert len(CellGrid(centroids=[(5, 5)]).boxes((20, 20))[0]) == 1


def test_odd_images_cannot_be_made_even():
    with pytest.raises(RuntimeError, match="spans all 21 pixels of the image along x and cannot be made even"):
        pixel_grid(30, 30).boxes((20, 21), force_even=True)
    assert pixel_grid(30, 30).boxes((20, 21))[0].tolist() == [[0, 0, 21, 20]]


def test_from_lsst():
    grid = CellGrid.from_lsst({})
    assert (grid.cell_size, grid.grid_step, grid.border_size) == ((10, 10), (10, 10), (5, 5))
    assert grid == CellGrid(cell_size=10, grid_step=10, border_size=5)
    overrides = {
        "cellCentroidsX": [1, 2.5],
        "cellCentroidsY": [3, 4],
        "cellSizeX": 11,
        "cellSizeY": 12.5,
        "gridStepX": 7,
        "gridStepY": 8,
        "borderSizeX": 2,
        "borderSizeY": 3,
        "adjustGridOption": "none",
        "scaleByFwhm": False,
        "returnSubImages": True,
        "ignoreMaskPlanes": ["SAT"],
        "reducer.reduceOperation": "coaddPsf",
        "reducer.badMaskPlanes": ["BAD", "MINE"],
    }
    grid = CellGrid.from_lsst(overrides)
    assert grid == CellGrid(
        cell_size=(12.5, 11),
        grid_step=(8, 7),
        border_size=(3, 2),
        centroids=[(3, 1), (4, 2.5)],
        adjust="none",
        scale_by_fwhm=False,
        return_sub_images=True,
        reduce="coadd_psf",
        bad_planes=("BAD", "MINE"),
    )
    assert CellGrid.from_lsst({}, defaults=grid) == grid
    assert CellGrid.from_lsst({"gridStepY": 9}, defaults=grid).grid_step == (9, 7)
    assert CellGrid.from_lsst({"cellCentroidsX": None, "cellCentroidsY": []}, defaults=grid).centroids is None


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ({"cellSize": 3}, "no configuration field 'cellSize'; nearest: cellSize"),
        ({"cellCentroidX": [3]}, "nearest: cellCentroidsX"),
        ({"reducer.reduceOp": "sum"}, "nearest: reducer.reduceOperation"),
        ({"cellSizeX": "3"}, "cellSizeX must be float"),
        ({"cellSizeX": 0}, r"cell_size \(cellSizeY, cellSizeX\) must be a positive number"),
        ({"scaleByFwhm": 1}, "scaleByFwhm must be true or false"),
        ({"adjustGridOption": "spaced"}, "adjustGridOption"),
        ({"reducer.reduceOperation": "coadd_psf"}, "reduceOperation must be one of .*coaddPsf, got 'coadd_psf'"),
        ({"reducer.badMaskPlanes": "BAD"}, "badMaskPlanes must be a list of strings"),
        ({"cellCentroidsX": [1, 2], "cellCentroidsY": [1]}, "cellCentroidsX has 2 values but cellCentroidsY has 1"),
        ({"cellCentroidsX": [1, 2]}, "cellCentroidsX has 2 values but cellCentroidsY has 0"),
        ({"cellCentroidsY": [1, 2]}, "cellCentroidsX has 0 values but cellCentroidsY has 2"),
        ({"cellCentroidsX": "12", "cellCentroidsY": [1, 2]}, "cellCentroidsX must be a list of finite numbers"),
        ({"cellCentroidsX": [1], "cellCentroidsY": [np.nan]}, "cellCentroidsY must be a list of finite numbers"),
    ],
)
def test_from_lsst_refuses(overrides, match):
    with pytest.raises(ValueError, match=match):
        CellGrid.from_lsst(overrides)


# --- picture


def test_picture_shows_inner_and_expanded_boxes(tmp_path):
    """200 rows, 400 columns: two pixels of the picture for each."""
    grid = CellGrid(cell_size=(40, 60), border_size=(10, 20), centroids=[(50, 100), (50, 100), (150, 300)])
    path = grid.draw(tmp_path / "boxes.png", (200, 400), origin=(1000, -50), skip=2)
    rgb = decode(path.read_bytes())[::-1]
    assert rgb.shape == (400, 800, 3)
    white = (rgb == 255).all(axis=-1)
    first, second = np.zeros_like(white), np.zeros_like(white)
    first[60:140, 140:260] = second[260:340, 540:660] = True
    for box in (first, second):
        assert not white[box].any() and len(np.unique(rgb[box], axis=0)) == 1
    assert (rgb[100, 200] != rgb[300, 600]).any()
    outline = np.zeros_like(white)
    outline[40:160, 100:300] = outline[240:360, 500:700] = True
    outline[41:159, 101:299] = outline[241:359, 501:699] = False
    assert_array_equal(~white, first | second | outline)


def test_picture_of_one_pixel_rows_and_of_every_cell(tmp_path):
    grid = pixel_grid(4, 4, 1)
    rgb = decode(grid.draw(tmp_path / "row.png", (1, 2001), skip=1).read_bytes())
    assert rgb.shape == (1, 800, 3) and (rgb != 255).any(axis=-1).all()


@pytest.mark.parametrize("skip", [0, 1.5, True])
def test_picture_refuses_a_skip(tmp_path, skip):
    with pytest.raises(ValueError, match="skip must be a positive integer"):
        pixel_grid().draw(tmp_path / "boxes.png", (20, 20), skip=skip)
    assert not list(tmp_path.iterdir())


# --- putting cells together


@pytest.mark.parametrize("path", golden_paths("p04*.npz"), ids=lambda path: path.stem)
def test_reducers_of_lsst(path):
    meta, arrays = load(path)
    x0, y0 = meta["xy0"]
    bits = {name: bit for name, bit in meta["bits"].items() if name != "INVALID_MAPREDUCE"}
    assert {row["op"] for row in meta["rows"]} == {"copy", "sum", "average"}
    for row in meta["rows"]:
        config = dict(row["config"])
        reducer = {f"reducer.{name}": value for name, value in config.pop("reducer").items()}
        del config["mapper"]
        grid = CellGrid.from_lsst(config | reducer)
        planes = [arrays[f"r{row['i']}_{name}"] for name in ("image", "variance", "mask")]
        image = MaskedImage(*planes, schema=MaskSchema(bits), origin=(y0, x0), unit="adu", wcs="kept")

        def mapper(cell, expanded, *, add_nans):
            out = MaskedImage(cell.image + 5, 2 * cell.variance, cell.mask, schema=cell.schema)
            if add_nans:
                out.image[0, 0] = np.nan
            return out

        result = map_cells(image, mapper, grid, add_nans=row["addNans"])
        assert dict(result.schema.planes) == meta["bits"]
        assert (result.origin, result.unit, result.wcs) == ((y0, x0), "adu", "kept")
        assert_array_equal(result.mask, arrays[f"r{row['i']}_out_mask"], err_msg=f"{row}")
        for name in ("image", "variance"):
            got, wanted = getattr(result, name), arrays[f"r{row['i']}_out_{name}"]
            assert got.dtype == wanted.dtype
            assert_allclose(got, wanted, equal_nan=True, err_msg=f"{row} {name}", **SUMS)


def mosaic_by_pixels(image, boxes, planes, reduce, bad):
    """The definition, pixel by pixel in float64."""
    out = np.full((2, *image.shape), np.nan if reduce == "copy" else 0.0)
    mask, count = image.mask.copy(), np.zeros(image.shape, int)
    with np.errstate(invalid="ignore"):
        for (x0, y0, width, height), (values, variances, bits) in zip(boxes, planes):
            for y in range(height):
                for x in range(width):
                    to = y0 + y - image.origin[0], x0 + x - image.origin[1]
                    pair = np.array([values[y, x], variances[y, x]], float)
                    mask[to] |= bits[y, x]
                    if not np.isnan(pair[0] * pair[1]):
                        out[(slice(None), *to)] = pair if reduce == "copy" else out[(slice(None), *to)] + pair
                        count[to] += 1
        if reduce == "average":
            out = out / count
        missing = np.isnan(out[0] * out[1])
    mask[missing] |= bad
    return (*out, mask)


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, 3.0, 3.0], np.float32)


@pytest.mark.parametrize("floats", [np.float32, np.float64])
@pytest.mark.parametrize("reduce", ["average", "sum", "copy"])
@pytest.mark.parametrize("seed", [1, 2])
def test_mosaic_equals_its_definition(xp, reduce, floats, seed):
    """Overlaps, gaps, NaN, infinities, their products and opposites."""
    rng = np.random.default_rng(seed)
    image = make_image((14, 17), origin=(-3, 40), seed=seed, to_device=xp.asarray)
    image = MaskedImage(image.image.astype(floats), image.variance, image.mask, schema=SCHEMA, origin=image.origin)
    grid = pixel_grid(5, 4, reduce=reduce, bad_planes=("NO_DATA", "BAD", "NEW"))
    boxes = grid.boxes(image.shape, origin=image.origin)[0][:-3].tolist()
    planes = []
    for _, _, width, height in boxes:
        values, variances = (rng.choice(SPECIAL, (height, width)).astype(np.float32) for _ in range(2))
        planes.append((values.astype(floats), variances, (1 << rng.integers(0, 4, (height, width))).astype(np.int32)))
    mosaic = Mosaic(image, grid)
    for box, cell in zip(boxes, planes):
        mosaic.add(box, *(xp.asarray(plane) for plane in cell))
    result = mosaic.finish()
    bad = result.schema.bitmask("NO_DATA", "BAD", "NEW")
    on_host = MaskedImage(host(image.image), host(image.variance), host(image.mask), schema=SCHEMA, origin=image.origin)
    wanted = mosaic_by_pixels(on_host, boxes, planes, reduce, bad)
    assert (result.image.dtype, result.variance.dtype, result.mask.dtype) == (floats, np.float32, np.int32)
    assert_array_equal(host(result.mask), wanted[2])
    assert_allclose(host(result.image), wanted[0], **SUMS)
    assert_allclose(host(result.variance), wanted[1], **SUMS)
    missing = wanted[2] & bad == bad
    assert missing.any() and not missing.all()


@pytest.mark.parametrize("reduce", ["average", "sum", "copy"])
def test_pixels_known_to_be_valid_give_the_same(reduce):
    """Also without masks, and with float64 cells in a float32 mosaic; it may be asked for again, but not added to."""
    image = make_image((20, 20))
    grid = pixel_grid(reduce=reduce)
    looked, told = Mosaic(image, grid), Mosaic(image, grid)
    for number, (x0, y0, width, height) in enumerate(grid.boxes(image.shape)[0]):
        part = np.s_[y0 : y0 + height, x0 : x0 + width]
        cell = image.image[part].astype(np.float64) * number, image.variance[part].astype(np.float64)
        looked.add((x0, y0, width, height), *cell)
        told.add((x0, y0, width, height), *cell, all_valid=True)
    for name in ("image", "variance", "mask"):
        assert_array_equal(getattr(told.finish(), name), getattr(looked.finish(), name))
        assert getattr(told.finish(), name).dtype == getattr(image, name).dtype
    assert_array_equal(told.finish().mask, image.mask)
    with pytest.raises(ValueError, match="the mosaic is finished; make another one"):
        told.add((x0, y0, width, height), *cell)


@pytest.mark.parametrize(
    ("box", "shape", "match"),
    [
        (
            (-1, 0, 4, 4),
            (4, 4),
            "box x0=-1, y0=0, width=4, height=4 must .* the image's, x0=0, y0=5, width=12, height=10",
        ),
        ((0, 4, 4, 4), (4, 4), "must hold a pixel and be inside of the image"),
        ((9, 5, 4, 4), (4, 4), "must hold a pixel and be inside of the image"),
        ((0, 12, 4, 4), (4, 4), "must hold a pixel and be inside of the image"),
        ((0, 5, 0, 4), (4, 0), "must hold a pixel and be inside of the image"),
        ((0, 5, 4, 3), (4, 3), r"image has shape \(4, 3\) but the box \(0, 5, 4, 3\) has \(3, 4\)"),
    ],
)
def test_mosaic_refuses_boxes(box, shape, match):
    mosaic = Mosaic(make_image((10, 12), origin=(5, 0)), pixel_grid())
    with pytest.raises(ValueError, match=match):
        mosaic.add(box, np.ones(shape, np.float32), np.ones(shape, np.float32))


def test_mosaic_refuses_planes():
    mosaic = Mosaic(make_image((10, 12)), pixel_grid())
    ones = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"variance has shape \(3,\)"):
        mosaic.add((0, 0, 3, 2), ones, ones[0])
    with pytest.raises(ValueError, match=r"mask has shape \(2, 1\)"):
        mosaic.add((0, 0, 3, 2), ones, ones, np.ones((2, 1), np.int32))
    with pytest.raises(TypeError, match="variance must be a NumPy or a CuPy array, got float"):
        mosaic.add((0, 0, 3, 2), ones, 1.0)
    with pytest.raises(TypeError, match="image must be a MaskedImage, got ndarray"):
        Mosaic(ones, pixel_grid())
    with pytest.raises(TypeError, match="grid must be a CellGrid, got str"):
        Mosaic(make_image((10, 12)), "average")
    for reduce in ("none", "coadd_psf"):
        with pytest.raises(ValueError, match=f"reduce to be one of average, sum, copy, got '{reduce}'"):
            Mosaic(make_image((10, 12)), pixel_grid(reduce=reduce))
    full = MaskSchema({f"P{bit}": bit for bit in range(31)})
    image = MaskedImage(ones, ones, np.zeros((2, 3), np.int32), schema=full)
    with pytest.raises(ValueError, match="no free bit for mask plane 'INVALID_MAPREDUCE'"):
        Mosaic(image, pixel_grid())


# --- mapping


def frozen(image):
    """The same image, with arrays that refuse to be written to."""
    for plane in (image.image, image.variance, image.mask):
        plane.setflags(write=False)
    return image


@pytest.mark.parametrize("reduce", ["average", "sum", "copy", "none"])
def test_cells_are_independent_copies(reduce):
    """A function that scribbles over its inputs changes neither the image nor what other cells see."""
    image = frozen(make_image((12, 15), origin=(3, -7), unit="nJy"))
    grid = pixel_grid(reduce=reduce)
    inner, expanded = grid.boxes(image.shape, origin=image.origin)
    seen = []

    def scribble(cell, around):
        assert not np.shares_memory(cell.image, around.image)
        for part, box in ((cell, inner[len(seen)]), (around, expanded[len(seen)])):
            x, y = box[:2] - [-7, 3]
            window = np.s_[y : y + box[3], x : x + box[2]]
            assert part.origin == (box[1], box[0]) and part.unit == "nJy" and part.schema == image.schema
            for name in ("image", "variance", "mask"):
                assert_array_equal(getattr(part, name), getattr(image, name)[window])
                getattr(part, name)[...] = 77
        seen.append(cell)
        return cell

    result = map_cells(image, scribble, grid)
    assert len(seen) == len(inner) > 10
    if reduce == "none":
        assert all(a is b for a, b in zip(result, seen, strict=True))
    elif reduce == "sum":
        assert_array_equal(result.image, 77 * covered(inner - [-7, 3, 0, 0], image.shape))
    else:
        assert (result.image == 77).all() and (result.variance == 77).all()


def test_identity_gives_the_image_back():
    image = make_image((30, 41), origin=(9, 9))
    for grid in (CellGrid(cell_size=2, border_size=1), pixel_grid(10, 7), pixel_grid(10, 7, reduce="copy")):
        result = map_cells(image, lambda cell, expanded: cell, grid, psf_fwhm=4.0, force_even=False)
        assert_allclose(result.image, image.image, rtol=1e-6)
        assert_array_equal(result.mask, image.mask)


def test_even_boxes_and_context_reach_the_function():
    image = make_image((20, 30))
    shapes = []

    def note(cell, expanded, **context):
        shapes.append((*cell.shape, *expanded.shape))
        return context

    results = map_cells(image, note, pixel_grid(5, 5, 2, reduce="none"), force_even=True, kernel=3, box="x")
    assert results == [{"kernel": 3, "box": "x"}] * 24
    assert not np.any(np.array(shapes) % 2)


def test_sub_images_come_back_as_they_were():
    image = make_image((9, 9))

    def spoil(cell, expanded):
        cell.image[...] = expanded.image[...] = 0
        return "done"

    results = map_cells(image, spoil, pixel_grid(reduce="none", return_sub_images=True))
    assert len(results) == 9 and all(isinstance(result, CellResult) for result in results)
    assert results[4].result == "done"
    assert_array_equal(results[4].cell.image, image.image[3:7, 3:7])
    assert_array_equal(results[4].expanded.image, image.image[1:9, 1:9])
    assert results[4].expanded.origin == (1, 1)


def test_wcs_is_cut_with_the_pixels():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [150, 2], [5, 6], [-1e-4, 1e-4]
    image = make_image((12, 12), origin=(100, 200), wcs=wcs)
    grid = CellGrid(cell_size=4, border_size=2, centroids=[(6, 5)], reduce="none", return_sub_images=True)
    ((_, cell, expanded),) = map_cells(image, lambda cell, expanded: None, grid)
    assert cell.origin == (104, 203) and expanded.origin == (102, 201)
    here = wcs.pixel_to_world_values(5, 7)
    assert_allclose(cell.wcs.pixel_to_world_values(2, 3), here)
    assert_allclose(expanded.wcs.pixel_to_world_values(4, 5), here)
    assert wcs.wcs.crpix.tolist() == [5, 6]


def test_a_wcs_of_another_kind_is_not_handed_on():
    image = make_image((12, 12), wcs={"any": "thing"})
    ((_, cell, expanded),) = map_cells(
        image,
        lambda cell, expanded: None,
        CellGrid(cell_size=4, border_size=2, centroids=[(6, 5)], reduce="none", return_sub_images=True),
    )
    assert cell.wcs is None and expanded.wcs is None
    assert map_cells(image, lambda cell, expanded: cell, pixel_grid()).wcs == {"any": "thing"}


def with_schema(cell, planes):
    return MaskedImage(cell.image, cell.variance, cell.mask, schema=MaskSchema(planes))


@pytest.mark.parametrize("reduce", ["average", "sum", "copy"])
@pytest.mark.parametrize(
    ("function", "error", "match"),
    [
        (lambda cell, expanded: cell.image, TypeError, "function returned ndarray for cell 0; .* must be MaskedImage"),
        (lambda cell, expanded: None, TypeError, "function returned NoneType for cell 0"),
        (lambda cell, expanded: expanded, ValueError, r"an image of \(6, 6\) for cell 0, .* is \(4, 4\)"),
        (lambda cell, expanded: with_schema(cell, {"BAD": 3}), ValueError, "other mask planes for cell 0"),
        (lambda cell, expanded: with_schema(cell, {"MINE": 25}), ValueError, "add planes to the image's before"),
    ],
)
def test_results_that_cannot_be_merged(reduce, function, error, match):
    with pytest.raises(error, match=match):
        map_cells(make_image((12, 12)), function, pixel_grid(reduce=reduce))


def test_map_cells_checks_its_arguments():
    image, grid = make_image((12, 12)), pixel_grid()
    with pytest.raises(TypeError, match="image must be a MaskedImage, got ndarray"):
        map_cells(image.image, print, grid)
    with pytest.raises(TypeError, match="grid must be a CellGrid, got dict"):
        map_cells(image, print, {})
    with pytest.raises(TypeError, match=r"function must be callable as function\(cell, expanded\), got int"):
        map_cells(image, 3, grid)
    with pytest.raises(ValueError, match="give psf_fwhm"):
        map_cells(image, print, CellGrid())
    with pytest.raises(TypeError, match=r"for cell 0; for a composite PSF results must be a stamp"):
        map_cells(image, lambda cell, expanded: 1.5, pixel_grid(reduce="coadd_psf"))


# --- composite PSF


def test_composite_psf_from_cells():
    image = make_image((10, 10), origin=(50, 0))
    grid = pixel_grid(5, 5, reduce="coadd_psf")
    psf = map_cells(image, lambda cell, expanded: np.full((3, 3), float(cell.origin[1] + 1)), grid)
    assert isinstance(psf, CompositePsf) and len(psf) == 4
    assert_array_equal(psf.boxes, grid.boxes(image.shape, origin=image.origin)[0])
    assert [float(stamp[0, 0]) for stamp in psf.stamps] == [1, 1, 6, 6]
    with_boxes = map_cells(image, lambda cell, expanded: (np.ones((3, 3)), (cell.origin[1], 7, 2, 2)), grid)
    assert with_boxes.boxes.tolist() == [[0, 7, 2, 2], [0, 7, 2, 2], [5, 7, 2, 2], [5, 7, 2, 2]]


@pytest.mark.parametrize("path", golden_paths("s*.npz"), ids=lambda path: path.stem)
def test_composite_psf_of_lsst(path):
    meta, arrays = load(path)
    if "cell_psf" not in arrays:
        assert meta["outcome"] == "raises" or meta["run_kwargs"]["spatiallyVarying"] is False
        return
    psf = CompositePsf(arrays["cell_psf"], arrays["boxes0"])
    assert len(arrays["coadd_psf_points"]) == 6
    for (x, y), members, wanted in zip(
        arrays["coadd_psf_points"], meta["coadd_psf_members"], arrays["coadd_psf_images"]
    ):
        if members:
            assert_allclose(psf.at(y, x), wanted, rtol=0, atol=1e-14)
        else:
            with pytest.raises(ValueError, match="no cell holds the point"):
                psf.at(y, x)


def test_composite_psf_has_half_open_boxes():
    stamps = np.zeros((2, 3, 3))
    stamps[0, 1, 1], stamps[1, 1, 1], stamps[1, 0, 1] = 2, 3, 1
    psf = CompositePsf(stamps, [(10, 20, 4, 6), (13, 20, 4, 6)])
    one, two = stamps[0] / 2, stamps[1] / 4
    assert_array_equal(psf.at(19.5, 9.5), one)
    assert_array_equal(psf.at(25.49, 12.49), one)
    assert_array_equal(psf.at(22, 12.5), (one + two) / 2)
    assert_array_equal(psf.at(22, 13.49), (one + two) / 2)
    assert_array_equal(psf.at(22, 13.5), two)
    for y, x in ((19.49, 11), (25.5, 11), (22, 9.49), (22, 16.5), (np.nan, 11)):
        with pytest.raises(ValueError, match=r"no cell holds the point y=.*, x=.*; .* inside the inner boxes only"):
            psf.at(y, x)


@pytest.mark.parametrize("shapes", [((4, 7), (5, 2), (1, 6)), ((4, 3), (3, 8), (1, 5))])
def test_composite_psf_aligns_stamps_of_other_sizes(shapes):
    """Origins are at n // 2, for even sizes too; the inputs stay as they are."""
    rng = np.random.default_rng(3)
    stamps = [rng.random(shape) for shape in shapes]
    for stamp in stamps:
        stamp.setflags(write=False)
    got = CompositePsf(stamps, [(0, 0, 5, 5)] * 3).at(2, 2)
    wanted = np.zeros(np.max(shapes, axis=0))
    origin = np.array(wanted.shape) // 2
    for stamp in stamps:
        for index, value in np.ndenumerate(stamp):
            wanted[tuple(index - np.array(stamp.shape) // 2 + origin)] += value / stamp.sum() / 3
    assert got.dtype == np.float64
    assert_allclose(got, wanted, rtol=1e-14)
    assert_allclose(got.sum(), 1, rtol=1e-14)


def test_composite_psf_is_nan_where_a_member_is():
    psf = CompositePsf(np.array([np.ones((3, 3)), np.full((3, 3), np.nan), np.zeros((3, 3))]), [(0, 0, 4, 4)] * 3)
    assert np.isnan(psf.at(1, 1)).all()


@pytest.mark.parametrize(
    ("stamps", "boxes", "error", "match"),
    [
        (np.ones((2, 3, 3)), [(0, 0, 4, 4)], ValueError, "2 stamps came with 1 boxes"),
        (np.ones((0, 3, 3)), np.zeros((0, 4), int), ValueError, "0 stamps came with 0 boxes"),
        (np.ones((1, 3)), [(0, 0, 4, 4)], ValueError, r"a stamp has shape \(3,\)"),
        ([np.ones((3, 0))], [(0, 0, 4, 4)], ValueError, r"a stamp has shape \(3, 0\)"),
        ([[[1.0]]], [(0, 0, 4, 4)], TypeError, "stamp 0 must be a NumPy or a CuPy array, got list"),
        (np.ones((1, 3, 3)), [(0, 0, 4)], ValueError, r"boxes must be integers of shape \(cell, 4\).* \(1, 3\)"),
        (np.ones((1, 3, 3)), [(0, 0, 4, 4.5)], ValueError, "boxes must be integers .* got float64"),
    ],
)
def test_composite_psf_refuses(stamps, boxes, error, match):
    with pytest.raises(error, match=match):
        CompositePsf(stamps, boxes)


def test_composite_psf_is_frozen():
    boxes = np.array([[0, 0, 4, 4]])
    psf = CompositePsf(np.ones((1, 3, 3)), boxes)
    boxes[...] = 9
    assert psf.boxes.tolist() == [[0, 0, 4, 4]] and not psf.boxes.flags.writeable
    with pytest.raises(AttributeError, match="frozen"):
        psf.boxes = boxes
    assert repr(psf) == "CompositePsf(1 cells)"


# --- on the device


@pytest.fixture
def cupy():
    with standin.installed() as module:
        yield module


def shifted(cell, expanded, gain):
    """Something that needs the border and leaves a NaN."""
    cell.image[...] = gain * cell.image - expanded.image.mean()
    cell.image[0, 0] = np.nan
    cell.mask[1, 1] |= 4
    return cell


@pytest.mark.parametrize("reduce", ["average", "sum", "copy"])
def test_map_cells_on_the_device(cupy, reduce):
    grid = pixel_grid(reduce=reduce)
    result = map_cells(make_image((14, 15), to_device=cupy.asarray), shifted, grid, gain=2)
    assert standin.host_reads == 0
    wanted = map_cells(make_image((14, 15)), shifted, grid, gain=2)
    assert result.schema == wanted.schema
    assert_array_equal(result.mask.get(), wanted.mask)
    for name in ("image", "variance"):
        plane = getattr(result, name)
        assert isinstance(plane, standin.ndarray) and plane.dtype == np.float32
        assert_allclose(plane.get(), getattr(wanted, name), **SUMS)


def test_composite_psf_on_the_device(cupy):
    rng = np.random.default_rng(5)
    stamps = [rng.random((3, 3)), rng.random((5, 4))]
    boxes = [(0, 0, 5, 5), (2, 0, 5, 5)]
    for given_stamps in (stamps, np.array([stamps[0]] * 2)):
        wanted = CompositePsf(given_stamps, boxes)
        put = [cupy.asarray(stamp) for stamp in stamps] if given_stamps is stamps else cupy.asarray(given_stamps)
        psf = CompositePsf(put, boxes)
        for x in (1, 3, 6):
            stamp = psf.at(2, x)
            assert isinstance(stamp, standin.ndarray)
            assert_allclose(stamp.get(), wanted.at(2, x), rtol=1e-14)
    with pytest.raises(TypeError, match="stamp 1 is a NumPy array but stamp 0 is on the GPU"):
        CompositePsf([cupy.asarray(stamps[0]), stamps[1]], boxes)


def test_results_stay_on_the_device_of_the_image(cupy):
    image = make_image((14, 15), to_device=cupy.asarray)
    with pytest.raises(TypeError, match="result of cell 0 is a NumPy array but image is on the GPU"):
        map_cells(image, lambda cell, expanded: make_image(cell.shape), pixel_grid())
    with pytest.raises(TypeError, match="image is a NumPy array but mosaic is on the GPU"):
        Mosaic(image, pixel_grid()).add((0, 0, 2, 2), np.ones((2, 2)), np.ones((2, 2)))


def test_more_cells_on_a_pixel_than_16_bits_can_count():
    one = np.ones((1, 1), np.float32)
    mosaic = Mosaic(MaskedImage(one, one, np.zeros((1, 1), np.int32), schema=MaskSchema.lsst()), pixel_grid())
    for n in (2**15, 2**15 + 1):
        boxes = np.tile([0, 0, 1, 1], (n, 1))
        mosaic.merge(boxes, 2 * one[None], one[None], planes=np.zeros(n, int), all_valid=np.ones(n, bool))
    assert mosaic.finish().image.item() == 2  # 2^17 + 2 and 2^16 + 1 are whole numbers in float32


def test_border_in_pixels():
    assert CellGrid(border_size=(2.4, 3.6), scale_by_fwhm=False).border() == (2, 4)
    assert CellGrid(border_size=2.0).border(psf_fwhm=4.2) == (8, 8)
    with pytest.raises(ValueError, match="give psf_fwhm in pixels"):
        CellGrid().border()
