"""The CUDA smoothing, run on the host, against SciPy's: equal to the bit, since a threshold comes after it."""

from __future__ import annotations

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal

from gpucoadd import fallback, primitives
from gpucoadd.detection import smoothing_kernel

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (31, 33), (64, 64), (90, 129)])
@pytest.mark.parametrize("sigma", [0.1, 0.8, 1.7, 2.9])
def test_equals_scipy(shape, sigma):
    rng = np.random.default_rng(1)
    plane = (rng.normal(0, 1, shape) * 10.0 ** rng.uniform(-4, 4, shape)).astype(np.float32)
    weights = smoothing_kernel(sigma, 8.0)
    before = plane.copy()
    expected = fallback.smooth(plane, weights)
    with standin.device() as cupy:
        found = primitives.smooth(cupy.asarray(plane), weights)
        assert standin.host_reads == 0
        assert_array_equal(found.get(), expected)
    assert_array_equal(plane, before)


def test_nan_and_infinity_spread_over_the_kernel_and_no_further():
    plane = np.ones((40, 50), np.float32)
    plane[10, 10], plane[30, 40] = np.nan, np.inf
    weights = smoothing_kernel(1.0, 8.0)
    with standin.device() as cupy:
        found = primitives.smooth(cupy.asarray(plane), weights).get()
    assert_array_equal(found, fallback.smooth(plane, weights))
    assert np.isnan(found[6:15, 6:15]).all() and np.isfinite(found[:6]).all()


def test_the_plane_must_be_float32_and_the_kernel_odd():
    with pytest.raises(TypeError, match="plane must be float32, got float64"):
        primitives.smooth(np.ones((3, 3)), np.ones(3))
    with pytest.raises(ValueError, match=r"weights must be symmetric and odd in number, got \[1.0, 1.0, 1.0, 1.0\]"):
        primitives.smooth(np.ones((3, 3), np.float32), np.ones(4))
