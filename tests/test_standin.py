"""The stand-in for CuPy refuses what CuPy refuses and counts what the host reads."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
import standin


@pytest.fixture
def cupy():
    with standin.installed() as module:
        yield module


def test_modules_come_and_go():
    before = sys.modules.get("cupy")
    with standin.installed() as module:
        assert importlib.import_module("cupy") is module
        assert importlib.import_module("cupyx.scipy.ndimage").label
        assert module.cuda.is_available() and module.cuda.runtime.getDeviceCount() == 1
        with module.cuda.Device(0):
            pass
    assert sys.modules.get("cupy") is before


def test_values_equal_numpys(cupy):
    host = np.arange(12, dtype=np.float32).reshape(3, 4)
    device = cupy.asarray(host)
    results = {
        "sum": (device.sum(axis=0), host.sum(axis=0)),
        "where": (cupy.where(device > 3, device, -1), np.where(host > 3, host, -1)),
        "operator": (2 * device + device[0] - np.float32(1), 2 * host + host[0] - np.float32(1)),
        "index": (device[device > 3], host[host > 3]),
        "stack": (cupy.stack([device, device]), np.stack([host, host])),
        "numpy name": (np.sqrt(device), np.sqrt(host)),
        "numpy function": (np.mean(device, axis=1), np.mean(host, axis=1)),
        "quantile": (cupy.percentile(device, [25, 75]), np.percentile(host, [25, 75])),
        "filter": (importlib.import_module("cupyx.scipy.ndimage").label(device > 3)[0], (host > 3).astype(np.int32)),
        "fft": (cupy.fft.rfft2(device), np.fft.rfft2(host)),
    }
    for name, (result, expected) in results.items():
        assert isinstance(result, cupy.ndarray), name
        np.testing.assert_array_equal(result.get(), expected, err_msg=name)
        assert result.dtype == expected.dtype, name


def test_reductions_stay_on_the_device(cupy):
    total = cupy.asarray(np.ones(3)).sum()
    assert isinstance(total, cupy.ndarray) and total.ndim == 0
    assert isinstance(cupy.count_nonzero(cupy.ones(3)), cupy.ndarray)
    assert standin.host_reads == 0


@pytest.mark.parametrize("read", [float, int, bool, complex, lambda a: a.item(), lambda a: a.get()])
def test_host_reads_are_counted(cupy, read):
    read(cupy.ones(()))
    assert standin.host_reads == 1


def test_asnumpy_is_counted_and_copies(cupy):
    device = cupy.zeros(3)
    host = cupy.asnumpy(device)
    host[:] = 1
    assert standin.host_reads == 1 and float(device.sum()) == 0


def test_device_memory_is_not_the_hosts(cupy):
    host = np.zeros(3)
    cupy.asarray(host)[:] = 1
    assert not host.any()


@pytest.mark.parametrize(
    "mix",
    [
        lambda d, h: np.asarray(d),
        lambda d, h: np.array(d),
        lambda d, h: d + h,
        lambda d, h: h + d,
        lambda d, h: sys.modules["cupy"].where(d > 0, d, h),
        lambda d, h: sys.modules["cupy"].sum(h),
        lambda d, h: np.add(h, d),
        lambda d, h: np.where(h > 0, d, h),
        lambda d, h: np.concatenate([d, h]),
        lambda d, h: d.__setitem__(slice(None), h),
        lambda d, h: d.__iadd__(h),
        lambda d, h: h.__iadd__(d),
        lambda d, h: d[: d.sum()],
        lambda d, h: range(d.sum()),
        lambda d, h: sys.modules["cupy"].zeros(d.sum()),
        lambda d, h: sys.modules["cupy"].bincount(d.astype(int), minlength=d.max()),
        lambda d, h: sys.modules["cupy"].sqrt([1.0, 2.0]),
        lambda d, h: sys.modules["cupy"].sum([1.0, 2.0]),
        lambda d, h: sys.modules["cupy"].sum(d, where=d > 0),
        lambda d, h: sys.modules["cupy"].repeat(d, d.astype(int)),
        lambda d, h: sys.modules["cupy"].lexsort((d, d)),
    ],
)
def test_refusals(cupy, mix):
    with pytest.raises(TypeError):
        mix(cupy.ones(3), np.ones(3))


@pytest.mark.parametrize("name", ["errstate", "nanpercentile", "ma", "insert", "block", "geomspace", "nonsense"])
def test_missing_names(cupy, name):
    with pytest.raises(AttributeError, match=name):
        getattr(cupy, name)


def test_missing_methods(cupy):
    with pytest.raises(AttributeError, match="setflags"):
        cupy.ones(3).setflags(write=False)


def test_in_place_and_views(cupy):
    device = cupy.zeros((2, 3), dtype=cupy.float32)
    same = device
    device += 1
    assert device is same
    row = device[0]
    row[:] = 5
    device[1, 1] = device[0, 0]
    cupy.add.at(device, (cupy.asarray([1, 1]), cupy.asarray([2, 2])), 1)
    np.testing.assert_array_equal(device.get(), [[5, 5, 5], [1, 5, 3]])
    out = cupy.empty_like(device)
    assert cupy.multiply(device, 2, out=out) is out


def test_the_package_sees_a_device(cupy):
    backend = pytest.importorskip("gpucoadd.backend")
    device = cupy.ones(3)
    assert backend.array_module(device) is cupy
    assert backend.has_device()
    assert isinstance(backend.to_device(np.ones(2)), cupy.ndarray)
    assert isinstance(backend.to_host(device), np.ndarray)
    with pytest.raises(TypeError, match="but"):
        backend.array_module(device, np.ones(3))
