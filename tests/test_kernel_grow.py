"""The CUDA kernel that grows packed flags, run on the CPU, against the definition and its NumPy twin."""

from __future__ import annotations

import importlib

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal

from gpucoadd.fallback.flags import as_words
from gpucoadd.fallback.growing import grow as twin

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

RADII = [0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 40, 63, 64, 65, 96, 97, 130, 1000]
SHAPES = [(1, 1), (1, 90), (90, 1), (5, 31), (6, 32), (5, 33), (4, 63), (4, 64), (4, 65), (20, 97), (3, 200)]


@pytest.fixture
def cupy():
    with standin.device() as cupy:
        yield cupy


def grow(cupy, planes, radii, disc):
    """Words of the grown planes; looks after what every call must keep."""
    words = as_words(planes)
    on_device = cupy.asarray(words)
    reads = standin.host_reads
    out = importlib.import_module("gpucoadd.kernels.growing").grow(on_device, planes.shape[2], radii, disc)
    assert standin.host_reads == reads
    assert out.dtype == np.uint32
    assert_array_equal(on_device.get(), words)
    return out.get()


@pytest.mark.parametrize("disc", [True, False])
@pytest.mark.parametrize("radius", RADII)
def test_one_pixel_in_every_column(cupy, radius, disc):
    """Each plane has one flag, in another column: the stencil itself, at every place in a word."""
    columns = np.arange(131)
    planes = np.zeros((131, 9, 131), bool)
    planes[columns, 2, columns] = True
    dy, dx = np.abs(np.arange(9) - 2)[None, :, None], np.abs(columns[:, None, None] - columns[None, None, :])
    expected = dx * dx + dy * dy <= radius * radius if disc else dx + dy <= radius
    assert_array_equal(grow(cupy, planes, [radius] * 131, disc), as_words(expected))


@pytest.mark.parametrize("disc", [True, False])
@pytest.mark.parametrize("density", [0.002, 0.03, 0.5, 0.95])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_planes_each_with_its_radius(cupy, shape, density, disc):
    planes = np.random.default_rng(8).random((len(RADII), *shape)) < density
    assert_array_equal(grow(cupy, planes, RADII, disc), as_words(twin(planes, shape[1], RADII, disc)))


@pytest.mark.parametrize("radius", [1, 4, 20])
def test_tall_planes(cupy, radius):
    planes = np.random.default_rng(9).random((2, 150, 40)) < 0.003
    assert_array_equal(grow(cupy, planes, [radius] * 2, True), as_words(twin(planes, 40, [radius] * 2, True)))


@pytest.mark.parametrize("shape", [(7, 33), (3, 64)])
def test_planes_do_not_see_each_other(cupy, shape):
    """Empty planes between full ones stay empty, and full ones full; none reaches into the next."""
    planes = np.zeros((5, *shape), bool)
    planes[1::2] = True
    assert_array_equal(grow(cupy, planes, [3, 3, 1000, 0, 7], True), as_words(planes))
    planes[1], planes[3] = False, False
    planes[1, -1, -1], planes[3, 0, 0] = True, True
    grown = grow(cupy, planes, [6] * 5, True)
    assert not grown[::2].any()
    assert_array_equal(grown, as_words(twin(planes, shape[1], [6] * 5, True)))


def test_any_order_of_the_threads(cupy):
    planes = np.random.default_rng(10).random((4, 30, 70)) < 0.01
    planes[2] = False
    expected = as_words(twin(planes, 70, [2, 5, 4, 40], True))
    for seed in range(3):
        with hostcuda.shuffled(seed):
            assert_array_equal(grow(cupy, planes, [2, 5, 4, 40], True), expected)


def test_views_and_nothing(cupy):
    planes = np.random.default_rng(11).random((4, 6, 50)) < 0.05
    growing = importlib.import_module("gpucoadd.kernels.growing")
    words = cupy.asarray(as_words(planes))
    assert_array_equal(
        growing.grow(words[::2], 50, [2, 3], False).get(), as_words(twin(planes[::2], 50, [2, 3], False))
    )
    assert growing.grow(words[:0], 50, [], True).shape == (0, 6, 2)
