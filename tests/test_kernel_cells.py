"""The CUDA kernel that merges cells into a mosaic, run on the CPU, against its NumPy twin: the same bits."""

from __future__ import annotations

import importlib

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal

from gpucoadd import CellGrid, MaskedImage, MaskSchema, Mosaic
from gpucoadd.fallback.cells import merge_cells as twin

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

SHAPE = (150, 201)  # three tiles by four, the last of each row and column cut
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3e38])


@pytest.fixture
def cupy():
    with standin.device() as cupy:
        yield cupy


def draw(shape, dtype, seed):
    """Numbers whose sums depend on their order, one in twenty of them special."""
    rng = np.random.default_rng(seed)
    values = np.exp(rng.normal(0, 4, shape)) * rng.choice([-1, 1], shape)
    return np.where(rng.random(shape) < 0.05, rng.choice(SPECIAL, shape), values).astype(dtype)


def random_boxes(n, seed=3):
    """Boxes on either side of a gap of eleven columns, from one pixel to as large as fits."""
    rng = np.random.default_rng(seed)
    is_left = rng.random(n) < 0.5
    first, end = np.where(is_left, 0, 101), np.where(is_left, 90, SHAPE[1])
    x0, y0 = rng.integers(first, end), rng.integers(0, SHAPE[0], n)
    return np.stack([x0, y0, rng.integers(1, end - x0 + 1), rng.integers(1, SHAPE[0] - y0 + 1)], axis=1)


def edge_boxes():
    """Cells that end on the border of a tile, or a pixel before or behind it; single pixels; corners of the mosaic."""
    sides = [(0, 64), (0, 63), (0, 65), (63, 1), (64, 1), (64, 64), (63, 66), (127, 1), (128, 22), (149, 1), (0, 150)]
    boxes = [(x0, y0, nx, ny) for x0, nx in [*sides, (200, 1), (0, 201)] for y0, ny in sides]
    return np.array(boxes)


def cells_of(boxes, dtypes=(np.float32, np.float32), n_planes=4, seed=4):
    """Images and variances (plane, y, x), and where in them the pixels of each box are."""
    rng = np.random.default_rng(seed)
    shape = (n_planes, SHAPE[0] + 5, SHAPE[1] + 7)
    corners = rng.integers(0, [6, 8], (len(boxes), 2))
    images, variances = (draw(shape, dtype, seed + i) for i, dtype in enumerate(dtypes))
    return images, variances, {"corners": corners, "planes": rng.integers(0, n_planes, len(boxes))}


def target_of(dtypes=(np.float32, np.float32), count=np.uint16, fill=0):
    planes = [np.full(SHAPE, fill, dtype) for dtype in dtypes]
    return *planes, None if count is None else np.zeros(SHAPE, count)


def check(cupy, target, boxes, images, variances, **options):
    """Merge on the host and on the device, which must read nothing and launch once."""
    expected = [None if plane is None else plane.copy() for plane in target]
    with np.errstate(all="ignore"):
        twin(tuple(expected), boxes, images, variances, **options)
    found = [None if plane is None else cupy.asarray(plane) for plane in target]
    given = cupy.asarray(images), cupy.asarray(variances)
    hostcuda.reset()
    reads = standin.host_reads
    importlib.import_module("gpucoadd.kernels.cells").merge_cells(tuple(found), boxes, *given, **options)
    assert standin.host_reads == reads
    standin.expect_launches({"merge_cells": 1})
    for array, before in zip(given, (images, variances)):
        assert_array_equal(array.get(), before)
    for name, got, wanted in zip(("image", "variance", "count"), found, expected):
        if wanted is not None:
            assert got.dtype == wanted.dtype
            bits = f"u{wanted.itemsize}"
            same = (got.get().view(bits) == wanted.view(bits)) | (np.isnan(got.get()) & np.isnan(wanted))
            assert same.all(), f"{name} at {np.argwhere(~same)[:3].tolist()}"
    return expected


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("n", [1, 7, 60])
def test_random_boxes(cupy, n, copy):
    boxes = random_boxes(n)
    images, variances, where = cells_of(boxes)
    target = target_of(fill=np.nan if copy else 0, count=None if copy else np.uint16)
    image, *_, count = check(cupy, target, boxes, images, variances, copy=copy, **where)
    if n == 60:
        assert np.isnan(image).any()
        assert copy or (count.max() > 3 and count.min() == 0)


@pytest.mark.parametrize("copy", [False, True])
def test_borders_of_tiles(cupy, copy):
    boxes = edge_boxes()
    images, variances, where = cells_of(boxes)
    check(cupy, target_of(fill=-7), boxes, images, variances, copy=copy, **where)
    for box in boxes[::17]:
        where = {"corners": np.array([[2, 3]]), "planes": np.array([1])}
        *_, count = check(cupy, target_of(), box[None], images, variances, copy=copy, **where)
        x0, y0, width, height = box.tolist()
        assert not np.delete(np.delete(count, np.s_[y0 : y0 + height], 0), np.s_[x0 : x0 + width], 1).any()


@pytest.mark.parametrize("count", [np.uint16, np.int32, None])
@pytest.mark.parametrize("of_cells", [(np.float32, np.float64), (np.float64, np.float32), (np.float64, np.float64)])
@pytest.mark.parametrize("of_mosaic", [(np.float32, np.float32), (np.float64, np.float32)])
def test_types(cupy, of_mosaic, of_cells, count):
    boxes = random_boxes(12, seed=8)
    images, variances, where = cells_of(boxes, of_cells)
    check(cupy, target_of(of_mosaic, count), boxes, images, variances, copy=False, **where)


def test_what_is_there_stays(cupy):
    """Batches one after the other, each a launch, are as one: sums go on in the same order."""
    boxes = random_boxes(30, seed=5)
    images, variances, where = cells_of(boxes)
    whole = check(cupy, target_of(), boxes, images, variances, copy=False, **where)
    target = target_of()
    for part in (slice(0, 11), slice(11, 12), slice(12, 30)):
        some = {name: values[part] for name, values in where.items()}
        target = check(cupy, tuple(target), boxes[part], images, variances, copy=False, **some)
    for one, other in zip(target, whole):
        assert_array_equal(one, other)


def test_any_order_of_the_threads(cupy):
    boxes = random_boxes(9, seed=6)
    images, variances, where = cells_of(boxes)
    for seed in range(2):
        with hostcuda.shuffled(seed):
            check(cupy, target_of(), boxes, images, variances, copy=False, **where)


@pytest.mark.parametrize("reduce", ["average", "sum", "copy"])
def test_a_mosaic_of_many_cells_is_one_of_each(cupy, reduce):
    """The whole way, with what a cell adds nowhere, and no cell at all."""
    boxes = random_boxes(25, seed=9)
    images, variances, where = cells_of(boxes)
    grid = CellGrid(reduce=reduce, bad_planes=("NO_DATA",))
    results = []
    for to in (lambda array: array, cupy.asarray):
        planes = [to(np.ones(SHAPE, np.float32)), to(np.ones(SHAPE, np.float32)), to(np.zeros(SHAPE, np.int32))]
        image = MaskedImage(*planes, schema=MaskSchema.lsst(), origin=(30, -4))
        mosaic = Mosaic(image, grid)
        mosaic.merge(boxes[:0], to(images), to(variances), planes=np.zeros(0, int))
        mosaic.merge(boxes, to(images), to(variances), **where)
        results.append(mosaic.finish())
    single = Mosaic(MaskedImage(*[np.ones(SHAPE, t) for t in ("f4", "f4", "i4")], schema=MaskSchema.lsst()), grid)
    for (x0, y0, width, height), (y, x), plane in zip(boxes.tolist(), where["corners"], where["planes"]):
        part = np.s_[y : y + height, x : x + width]
        single.add((x0, y0, width, height), images[plane][part], variances[plane][part])
    for name in ("image", "variance"):
        assert_array_equal(getattr(results[1], name).get(), getattr(results[0], name), err_msg=name)
        assert_array_equal(getattr(single.finish(), name), getattr(results[0], name), err_msg=name)
    assert_array_equal(results[1].mask.get(), results[0].mask)
