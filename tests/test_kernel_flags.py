"""The CUDA kernels on packed flags, run on the CPU, against NumPy."""

from __future__ import annotations

import importlib

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal

from gpucoadd.fallback import flags as twin

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

SHAPES = [(1, 1, 1), (1, 1, 70), (1, 70, 1), (3, 5, 31), (2, 5, 32), (2, 4, 33), (3, 3, 63), (2, 3, 64), (2, 3, 65)]
SHAPES += [(5, 9, 97), (2, 40, 200)]  # more than one block of threads


@pytest.fixture
def cupy():
    with standin.device() as cupy:
        yield cupy


def kernels():
    return importlib.import_module("gpucoadd.kernels.flags")


def random_planes(shape, density, seed=3):
    return np.random.default_rng(seed).random(shape) < density


@pytest.mark.parametrize("density", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_pack_and_unpack(cupy, shape, density):
    planes = random_planes(shape, density)
    on_device = cupy.asarray(planes)
    words = kernels().pack(on_device)
    back = kernels().unpack(words, shape[2])
    assert standin.host_reads == 0
    assert (words.dtype, back.dtype) == (np.uint32, bool)
    assert_array_equal(words.get(), twin.as_words(planes))
    assert_array_equal(back.get(), planes)
    assert_array_equal(on_device.get(), planes)


def test_each_column_has_its_bit(cupy):
    words = kernels().pack(cupy.asarray(np.eye(97, dtype=bool)[None]))
    expected = np.zeros((1, 97, 4), np.uint32)
    for column in range(97):
        expected[0, column, column // 32] = 1 << column % 32
    assert_array_equal(words.get(), expected)


def test_views_are_read_as_they_look(cupy):
    planes = random_planes((6, 8, 41), 0.4)
    on_device = cupy.asarray(planes)
    words = kernels().pack(on_device[::2, 2:5])
    assert_array_equal(words.get(), twin.as_words(planes[::2, 2:5]))
    all_words = kernels().pack(on_device)
    assert_array_equal(kernels().unpack(all_words[1::3], 41).get(), planes[1::3])
    assert_array_equal(kernels().any_flag(all_words[:, 3:6]).get(), twin.as_words(planes[:, 3:6].any(axis=0)))
    out = cupy.zeros((3, 41), dtype=cupy.int32)
    kernels().add_flags(all_words[:, 3:6], out)
    assert_array_equal(out.get(), planes[:, 3:6].sum(axis=0))
    pixels = cupy.asarray(np.arange(3 * 41, dtype=np.int32)[::2])
    assert_array_equal(kernels().take_flags(all_words[:1, 3:6], pixels, 41).get(), planes[:1, 3:6].ravel()[::2])


def test_what_is_what_on_the_device(cupy):
    planes = random_planes((2, 3, 40), 0.5)
    flags = kernels().as_flags(cupy.asarray(planes))
    assert_array_equal(flags.get(), twin.as_words(planes))
    assert kernels().as_words(flags) is flags
    assert_array_equal(kernels().as_planes(flags, 40).get(), planes)


@pytest.mark.parametrize("n_planes", [1, 2, 40])
@pytest.mark.parametrize("shape", SHAPES)
def test_add_flags_counts_on_top(cupy, shape, n_planes):
    planes = random_planes((n_planes, *shape[1:]), 0.3)
    flags = kernels().pack(cupy.asarray(planes))
    start = np.arange(shape[1] * shape[2], dtype=np.int32).reshape(shape[1:]) - 7
    out = cupy.asarray(start)
    assert kernels().add_flags(flags, out) is None
    kernels().add_flags(flags, out)
    assert standin.host_reads == 0
    assert_array_equal(out.get(), start + 2 * planes.sum(axis=0))
    assert_array_equal(flags.get(), twin.as_words(planes))


def test_add_flags_refuses_what_it_cannot_add_to(cupy):
    flags = kernels().pack(cupy.asarray(random_planes((2, 3, 5), 0.5)))
    out = cupy.zeros((3, 10), dtype=cupy.int32)[:, ::2]
    with pytest.raises(ValueError, match=r"out must be C-contiguous .* strides \(40, 8\) for shape \(3, 5\); give"):
        kernels().add_flags(flags, out)
    assert not out.get().any()


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_flag(cupy, shape, density):
    planes = random_planes(shape, density)
    words = kernels().any_flag(kernels().pack(cupy.asarray(planes)))
    assert standin.host_reads == 0
    assert words.dtype == np.uint32
    assert_array_equal(words.get(), twin.as_words(planes.any(axis=0)))


@pytest.mark.parametrize("density", [0.0, 0.02, 0.6, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_paint_and_take(cupy, shape, density):
    planes = random_planes(shape, density)
    pixels = np.flatnonzero(planes).astype(np.int32)
    on_device = cupy.asarray(pixels)
    flags = kernels().paint(on_device, shape)
    asked = np.random.default_rng(4).integers(0, planes.size, 300).astype(np.int32)
    taken = kernels().take_flags(flags, cupy.asarray(asked), shape[2])
    every = kernels().take_flags(flags, cupy.arange(planes.size, dtype=cupy.int32), shape[2])
    assert standin.host_reads == 0
    assert (flags.dtype, taken.dtype) == (np.uint32, bool)
    assert_array_equal(flags.get(), twin.as_words(planes))
    assert_array_equal(taken.get(), planes.ravel()[asked])
    assert_array_equal(every.get(), planes.ravel())
    assert_array_equal(on_device.get(), pixels)


@pytest.mark.parametrize("seed", range(4))
def test_paint_in_any_order_and_twice(cupy, seed):
    shape = (3, 4, 70)
    pixels = np.random.default_rng(seed).integers(0, 3 * 4 * 70, 400)
    with hostcuda.shuffled(seed):
        words = kernels().paint(cupy.asarray(pixels.astype(np.int32)), shape)
    assert_array_equal(words.get(), twin.as_words(twin.paint(pixels, shape)))


@pytest.mark.parametrize("n_columns", [31, 32, 33, 70])
def test_paint_from_the_last_to_the_first(cupy, n_columns):
    pixels = np.arange(2 * 3 * n_columns, dtype=np.int32)[::-1]
    words = kernels().paint(cupy.asarray(pixels), (2, 3, n_columns))
    assert_array_equal(words.get(), twin.as_words(np.ones((2, 3, n_columns), bool)))


def test_indices_may_be_wide_integers(cupy):
    """Footprints that were grown apart have int64 indices."""
    words = kernels().paint(cupy.asarray(np.array([1, 33, 139])), (2, 2, 35))
    assert_array_equal(np.flatnonzero(twin.unpack(words.get(), 35)), [1, 33, 139])
    assert_array_equal(kernels().take_flags(words, cupy.asarray(np.array([33, 34])), 35).get(), [True, False])


def test_too_many_pixels_are_refused(cupy):
    """An index of 2**31 would come back as a negative one."""
    words = cupy.broadcast_to(cupy.zeros((1, 1, 1), dtype=cupy.uint32), (2, 32768, 1024))
    pixels = cupy.asarray(np.array([2**31]))
    message = r"planes \(2, 32768, 32768\) .* more than 2147483647 pixels.*pass fewer epochs"
    with pytest.raises(ValueError, match=message):
        kernels().paint(pixels, (2, 32768, 32768))
    with pytest.raises(ValueError, match=message):
        kernels().take_flags(words, pixels, 32768)


def test_nothing_at_all(cupy):
    words = kernels().pack(cupy.zeros((0, 3, 5), dtype=bool))
    assert words.shape == (0, 3, 1)
    assert kernels().unpack(words, 5).shape == (0, 3, 5)
    assert_array_equal(kernels().any_flag(words).get(), np.zeros((3, 1)))
    out = cupy.ones((3, 5), dtype=cupy.int32)
    kernels().add_flags(words, out)
    assert_array_equal(out.get(), np.ones((3, 5)))
    assert kernels().take_flags(words, cupy.zeros(0, dtype=cupy.int32), 5).shape == (0,)


@pytest.mark.parametrize("most", [1, 96, 200, 10**6])
def test_more_pixels_than_int32_numbers_are_unpacked_in_parts(cupy, monkeypatch, most):
    module = importlib.import_module("gpucoadd.kernels.flags")
    monkeypatch.setattr(module, "MOST_PIXELS", most)
    planes = np.random.default_rng(2).random((5, 3, 33)) < 0.4
    assert_array_equal(module.unpack(cupy.asarray(twin.as_words(planes)), 33).get(), planes)
