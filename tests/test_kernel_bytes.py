"""The CUDA kernels on byte order and width, run on the CPU, against NumPy."""

from __future__ import annotations

import importlib

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

SHAPES = [(1,), (255,), (256,), (257,), (3, 5, 17), (2, 40, 30), (0, 7), ()]


@pytest.fixture
def cupy():
    with standin.device() as cupy:
        yield cupy


def kernels():
    return importlib.import_module("gpucoadd.kernels.bytes")


def random_bytes(shape, dtype, seed=3):
    """Any bit patterns, NaN with payloads among them."""
    dtype = np.dtype(dtype)
    return np.random.default_rng(seed).integers(0, 256, (*shape, dtype.itemsize), np.uint8).view(dtype)[..., 0]


def same_bits(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint16", "int16", "float64", "uint64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_swap_bytes(cupy, shape, dtype):
    host = random_bytes(shape, dtype)
    device = cupy.asarray(host)
    swapped = kernels().swap_bytes(device)
    assert standin.host_reads == 0
    same_bits(swapped.get(), host.byteswap())
    same_bits(device.get(), host)


def test_swapping_big_endian_numbers_gives_native_ones(cupy):
    numbers = np.array([1.5, -0.0, np.nan, np.inf, 3e38, 1e-45], np.float32)
    as_in_a_file = numbers.astype(">f4").view(np.float32)
    same_bits(kernels().swap_bytes(cupy.asarray(as_in_a_file)).get(), numbers)


def test_swap_in_place(cupy):
    host = random_bytes((3, 500), "float32")
    device = cupy.asarray(host)
    middle = device[1]
    assert kernels().swap_bytes(middle, out=middle) is middle
    same_bits(device.get(), np.stack([host[0], host[1].byteswap(), host[2]]))


def test_views_are_read_as_they_look(cupy):
    host = random_bytes((6, 20), "float32")
    same_bits(kernels().swap_bytes(cupy.asarray(host)[::2, 3:9]).get(), host[::2, 3:9].byteswap())


@pytest.mark.parametrize("shape", SHAPES)
def test_widen_mask(cupy, shape):
    host = random_bytes(shape, "uint16")
    device = cupy.asarray(host)
    wide = kernels().widen_mask(device)
    assert standin.host_reads == 0 and wide.dtype == np.int32
    assert_array_equal(wide.get(), host.astype(np.int32))
    assert_array_equal(device.get(), host)


def test_the_sixteenth_bit_is_no_sign(cupy):
    wide = kernels().widen_mask(cupy.asarray(np.array([0x8000, 0xFFFF, 0x7FFF, 1], np.uint16)))
    assert wide.tolist() == [0x8000, 0xFFFF, 0x7FFF, 1]


def test_widen_into_a_part(cupy):
    out = cupy.asarray(np.full((3, 300), -1, np.int32))
    host = random_bytes((300,), "uint16")
    kernels().widen_mask(cupy.asarray(host), out=out[1])
    assert_array_equal(out.get()[1], host)
    assert (out.get()[::2] == -1).all()


@pytest.mark.parametrize("dtype", ["uint8", "bool", "complex64", "complex128"])
def test_nothing_to_swap(cupy, dtype):
    with pytest.raises(TypeError, match=f"array must hold real numbers of 2, 4 or 8 bytes, got {dtype}"):
        kernels().swap_bytes(cupy.zeros(3, dtype=dtype))


def test_only_half_masks_are_widened(cupy):
    with pytest.raises(TypeError, match="mask must be uint16, got int16"):
        kernels().widen_mask(cupy.zeros(3, dtype=np.int16))


@pytest.mark.parametrize(
    "out",
    [
        lambda cupy: cupy.zeros((3, 5), dtype=np.int32),
        lambda cupy: cupy.zeros((3, 4), dtype=np.uint32),
        lambda cupy: cupy.zeros((4, 3), dtype=np.int32).T,
    ],
)
def test_where_results_cannot_go(cupy, out):
    with pytest.raises(ValueError, match="out must be C-contiguous int32 of shape \\(3, 4\\)"):
        kernels().swap_bytes(cupy.zeros((3, 4), dtype=np.int32), out=out(cupy))
    with pytest.raises(ValueError, match="out must be C-contiguous int32 of shape \\(3, 4\\)"):
        kernels().widen_mask(cupy.zeros((3, 4), dtype=np.uint16), out=out(cupy))
