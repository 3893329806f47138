"""Windows of float64 planes whose values are beyond float32; the rest is in test_device_decorrelation."""

from __future__ import annotations

import importlib

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)


def test_large_values_are_finite():
    values = np.array([[1e300, -1e39, np.inf], [np.finfo(np.float64).max, np.nan, -np.inf]])
    with standin.device() as cupy:
        windows = importlib.import_module("gpucoadd.kernels.windows")
        plane, corners = cupy.asarray(values), cupy.zeros((1, 2), dtype=cupy.int32)
        count = cupy.zeros(1, dtype=cupy.uint64)
        windows.count_negative(plane, cupy.zeros((2, 3), dtype=cupy.int32), 0, count)
        means = windows.finite_means(plane[:1].copy(), corners, (1, 3))
        grids = windows.pad_windows(plane, corners, (2, 3), cupy.full(1, 7.0), (2, 3), np.float64)
        boxes = cupy.asarray(np.int32([[0, 0, 3, 2]]))
        results = windows.crop_windows(grids, 1.0, plane, corners, boxes, (2, 3), np.float64)
        found = [array.get() for array in (count, means, grids, results)]
    finite = np.where(np.isfinite(values), values, 7.0)
    restored = np.where(np.isfinite(values), values, np.abs(values))
    for array, expected in zip(found, ([1], [5e299], finite[None], restored[None]), strict=True):
        assert_array_equal(array, expected)
