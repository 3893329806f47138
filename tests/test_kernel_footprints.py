"""The CUDA kernels that count and add over footprints, run on the CPU, against NumPy."""

from __future__ import annotations

import importlib

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal

from gpucoadd.fallback import footprints as twin

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

SIZES = [0, 1, 2, 15, 16, 17, 31, 32, 33, 500, 2048, 2100, 5000]  # a thread takes 16 pixels, a block 2048


@pytest.fixture
def cupy():
    with standin.device() as cupy:
        yield cupy


def kernels():
    return importlib.import_module("gpucoadd.kernels.footprints")


def some_labels(m, n, seed, mixed=False):
    """`m` labels from 0 to `n` in runs of random lengths, as in rows of footprints; or without any order."""
    rng = np.random.default_rng(seed)
    if mixed:
        return rng.integers(0, n + 1, m).astype(np.int32)
    return np.repeat(rng.integers(0, n + 1, m + 1), rng.integers(1, 40, m + 1))[:m].astype(np.int32)


def same_under(labels, n, under):
    """The definition."""
    values = [set(under[labels == label].tolist()) for label in range(n + 1)]
    return [value.pop() if len(value) == 1 and min(value) > 0 else 0 for value in values]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("n", [1, 7, 300])
@pytest.mark.parametrize("m", SIZES)
def test_counts_and_sums(cupy, m, n, mixed):
    labels = some_labels(m, n, seed=m + n, mixed=mixed)
    rng = np.random.default_rng(1)
    flags = rng.random(m) < 0.3
    values = rng.integers(-(2**31), 2**31, m).astype(np.int32)
    labels_there, flags_there, values_there = map(cupy.asarray, (labels, flags, values))
    counts = kernels().count_by_label(labels_there, n)
    flagged = kernels().count_by_label(labels_there, n, flags_there)
    sums = kernels().sum_by_label(labels_there, n, values_there)
    assert standin.host_reads == 0
    twins = twin.count_by_label(labels, n), twin.count_by_label(labels, n, flags), twin.sum_by_label(labels, n, values)
    assert [array.dtype for array in (counts, flagged, sums)] == [array.dtype for array in twins]
    assert (counts.dtype, flagged.dtype, sums.dtype) == (np.int32, np.int32, np.int64)
    assert_array_equal(counts.get(), np.bincount(labels, minlength=n + 1))
    assert_array_equal(flagged.get(), np.bincount(labels[flags], minlength=n + 1))
    expected = np.zeros(n + 1, np.int64)
    np.add.at(expected, labels, values.astype(np.int64))
    assert_array_equal(sums.get(), expected)
    for there, here in ((labels_there, labels), (flags_there, flags), (values_there, values)):
        assert_array_equal(there.get(), here)


@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_beyond_32_bits(cupy, sign):
    labels = np.repeat(np.array([1, 3], np.int32), 200)
    values = np.full(400, sign * (2**31 - 1), np.int32)
    sums = kernels().sum_by_label(cupy.asarray(labels), 3, cupy.asarray(values))
    assert sums.get().tolist() == [0, sign * 200 * (2**31 - 1), 0, sign * 200 * (2**31 - 1)]


@pytest.mark.parametrize("flagged", [False, True])
def test_all_flags_alike(cupy, flagged):
    labels = some_labels(1000, 5, seed=2)
    counts = kernels().count_by_label(cupy.asarray(labels), 5, cupy.asarray(np.full(1000, flagged)))
    assert_array_equal(counts.get(), np.bincount(labels, minlength=6) * flagged)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("n", [1, 7, 100])
@pytest.mark.parametrize("m", SIZES)
def test_same_under(cupy, m, n, mixed):
    labels = some_labels(m, n, seed=m + n, mixed=mixed)
    under = (labels * 5 % 4).astype(np.int32)  # one value per label, 0 for some
    labels_there, under_there = cupy.asarray(labels), cupy.asarray(under)
    found = kernels().same_under(labels_there, n, under_there)
    assert standin.host_reads == 0
    assert found.dtype == twin.same_under(labels, n, under).dtype == np.int32
    assert_array_equal(found.get(), same_under(labels, n, under))
    assert_array_equal(labels_there.get(), labels)
    assert_array_equal(under_there.get(), under)


@pytest.mark.parametrize("other", [0, 2, 9, -1, 2**31 - 1])
def test_one_pixel_that_differs(cupy, other):
    labels = np.repeat(np.arange(1, 5, dtype=np.int32), 50)
    for position in (0, 15, 16, 49, 50, 99, 100, 199):
        under = np.full(200, 7, np.int32)
        under[position] = other
        found = kernels().same_under(cupy.asarray(labels), 4, cupy.asarray(under)).get()
        expected = [0, 7, 7, 7, 7]
        expected[labels[position]] = 0
        assert found.tolist() == expected


def test_values_that_are_no_label(cupy):
    """Only a positive value can be shared; the largest int is one."""
    labels = np.array([1, 1, 2, 2, 3, 3, 4, 4], np.int32)
    under = np.array([-3, -3, 0, 0, 2**31 - 1, 2**31 - 1, -3, 5], np.int32)
    assert kernels().same_under(cupy.asarray(labels), 5, cupy.asarray(under)).get().tolist() == [
        0,
        0,
        0,
        2**31 - 1,
        0,
        0,
    ]


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_the_threads(cupy, seed):
    labels = some_labels(3000, 9, seed, mixed=seed % 2 == 1)
    rng = np.random.default_rng(seed)
    flags, under = rng.random(3000) < 0.5, rng.integers(1, 3, 3000).astype(np.int32)
    under[labels < 5] = 3
    there = cupy.asarray(labels)
    with hostcuda.shuffled(seed):
        counts = kernels().count_by_label(there, 9)
        flagged = kernels().count_by_label(there, 9, cupy.asarray(flags))
        sums = kernels().sum_by_label(there, 9, cupy.asarray(under))
        shared = kernels().same_under(there, 9, cupy.asarray(under))
    assert_array_equal(counts.get(), np.bincount(labels, minlength=10))
    assert_array_equal(flagged.get(), np.bincount(labels[flags], minlength=10))
    assert_array_equal(sums.get(), np.bincount(labels, weights=under, minlength=10).astype(np.int64))
    assert_array_equal(shared.get(), same_under(labels, 9, under))


def test_views_are_read_as_they_look(cupy):
    labels = some_labels(200, 4, seed=5)
    values = np.arange(200, dtype=np.int32) % 3
    labels_there, values_there = cupy.asarray(labels)[::2], cupy.asarray(values)[::2]
    expected = np.bincount(labels[::2], minlength=5)
    assert_array_equal(kernels().count_by_label(labels_there, 4).get(), expected)
    expected = np.bincount(labels[::2][values[::2] > 0], minlength=5)
    assert_array_equal(kernels().count_by_label(labels_there, 4, values_there > 0).get(), expected)
    expected = np.bincount(labels[::2], weights=values[::2], minlength=5)
    assert_array_equal(kernels().sum_by_label(labels_there, 4, values_there).get(), expected.astype(np.int64))
    assert_array_equal(
        kernels().same_under(labels_there, 4, labels_there).get(), same_under(labels[::2], 4, labels[::2])
    )
