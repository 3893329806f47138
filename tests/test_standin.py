"""The stand-in for CuPy refuses what CuPy refuses and counts what the host reads."""

from __future__ import annotations

import importlib
import sys
import threading

import hostcuda
import numpy as np
import pytest
import standin

needs_compiler = pytest.mark.skipif(not hostcuda.available(), reason=hostcuda.REASON)


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


CODE = """
extern "C" __global__ void twice(const float* x, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = 2 * x[i];
}
"""


@needs_compiler
def test_kernels_run_on_device_arrays(cupy):
    twice = cupy.RawModule(code=CODE, options=("-std=c++17",)).get_function("twice")
    x, out = cupy.arange(5, dtype=cupy.float32), cupy.empty(5, dtype=cupy.float32)
    standin.reset()
    twice((1,), (32,), (x, out, np.int32(5)))
    assert (standin.launches, standin.bytes_moved, standin.host_reads) == (1, 40, 0)
    np.testing.assert_array_equal(out.get(), [0, 2, 4, 6, 8])
    with pytest.raises(TypeError, match="'x' of kernel twice must be a device array, got a NumPy array"):
        twice((1,), (32,), (np.ones(5, np.float32), out, np.int32(5)))


def test_new_memory_is_not_zero(cupy):
    assert np.isnan(cupy.empty(3).get()).all()
    assert np.isnan(cupy.ndarray((2, 2), dtype=np.float32).get()).all()
    assert (cupy.empty_like(cupy.zeros(3, dtype=np.int32)).get() > 2**29).all()
    assert cupy.empty(3, dtype=bool).get().all()
    assert not cupy.zeros(3).get().any()


@pytest.mark.parametrize(
    ("work", "launches", "moved", "waits"),
    [
        (lambda xp, a: a + a, 1, 3 * 48, 0),
        (lambda xp, a: xp.add(a, 1, out=a), 1, 3 * 48, 0),
        (lambda xp, a: a.sum(axis=0), 1, 48 + 16, 0),
        (lambda xp, a: xp.where(a > 3, a, 0), 2, 48 + 12 + 12 + 48 + 48, 0),
        (lambda xp, a: a[1:].reshape(-1).T, 0, 0, 0),
        (lambda xp, a: a.T.reshape(-1), 1, 96, 0),
        (lambda xp, a: xp.expand_dims(a, 0), 0, 0, 0),
        (lambda xp, a: a.shape + xp.empty_like(a).shape, 0, 0, 0),
        (lambda xp, a: xp.zeros((3, 4), dtype=np.float32), 1, 48, 0),
        (lambda xp, a: a.__setitem__(slice(1), 0), 1, 16, 0),
        (lambda xp, a: a[xp.zeros(2, dtype=int)], 2, 16 + 2 * 32 + 16, 0),
        (lambda xp, a: a[a > 3], 2, 48 + 12 + 12 + 2 * 32, 1),
        (lambda xp, a: xp.flatnonzero(a), 1, 48 + 8 * 11, 1),
        (lambda xp, a: a.fill(0), 1, 48, 0),
        (lambda xp, a: xp.ascontiguousarray(a), 0, 0, 0),
        (lambda xp, a: xp.ascontiguousarray(a.T), 1, 96, 0),
        (lambda xp, a: xp.asarray(np.zeros(3)), 1, 24, 0),
        (lambda xp, a: a.astype(np.float64), 1, 48 + 96, 0),
        (lambda xp, a: a.copy(), 1, 96, 0),
    ],
)
def test_costs_are_counted(cupy, work, launches, moved, waits):
    array = cupy.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    standin.reset()
    work(cupy, array)
    assert (standin.launches, standin.bytes_moved, standin.hidden_waits) == (launches, moved, waits)
    assert standin.host_reads == 0


@pytest.fixture
def two():
    with standin.installed(devices=2) as module:
        yield module


def test_several_devices(two):
    assert two.cuda.runtime.getDeviceCount() == 2
    here = two.ones(3, dtype=np.float32)
    with two.cuda.Device(1) as device:
        assert device.id == two.cuda.runtime.getDevice() == two.cuda.Device().id == 1
        there = two.ones(3, dtype=np.float32)
        row = there[None]
    assert two.cuda.runtime.getDevice() == here.device.id == 0 and row.T.device.id == there.device.id == 1
    assert there.copy().device.id == 0 and two.asarray(there).device.id == 0
    two.asarray(there)[:] = 5
    np.testing.assert_array_equal(there.get(), 1)
    for wrong in (lambda: here + there, lambda: two.sqrt(there), lambda: there.sum(), lambda: there.__setitem__(0, 1)):
        with pytest.raises(ValueError, match="array device = 1 while current = 0"):
            wrong()
    with pytest.raises(RuntimeError, match="invalid device ordinal 2 of 2"), two.cuda.Device(2):
        pass


@needs_compiler
def test_launches_need_the_device_of_their_arrays(two):
    twice = two.RawModule(code=CODE).get_function("twice")
    x, out = two.ones(3, dtype=np.float32), two.ones(3, dtype=np.float32)
    with two.cuda.Device(1), pytest.raises(ValueError, match="array device = 0 while current = 1"):
        twice((1,), (32,), (x, out, np.int32(3)))


def test_the_device_is_the_threads_own(two):
    seen = []
    with two.cuda.Device(1):
        thread = threading.Thread(target=lambda: seen.append(two.cuda.runtime.getDevice()))
        thread.start()
        thread.join()
    assert seen == [0]


def pinned(cupy, values):
    """A NumPy array of page-locked memory."""
    values = np.asarray(values, np.float32)
    memory = cupy.cuda.alloc_pinned_memory(values.nbytes)
    array = np.frombuffer(memory, np.float32, values.size)
    array[:] = values
    return array


def test_copies_wait_for_their_stream(cupy):
    """Until someone waits, the device array holds what it held, and the buffer is not to be written to."""
    stream, event = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Event()
    buffer, array = pinned(cupy, [1, 2, 3]), cupy.zeros(3, dtype=np.float32)
    array.set(buffer, stream=stream)
    event.record(stream)
    assert not event.done and not stream.done
    np.testing.assert_array_equal((array + 0).get(), 0)
    cupy.cuda.get_current_stream().wait_event(event)
    assert event.done and stream.done
    np.testing.assert_array_equal((array + 0).get(), [1, 2, 3])
    array.set(buffer, stream=stream)
    buffer[:] = 7
    stream.synchronize()
    np.testing.assert_array_equal(array.get(), 7)


def test_work_in_the_stream_comes_after_its_copies(cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    array = cupy.zeros(3, dtype=np.float32)
    array.set(pinned(cupy, [1, 2, 3]), stream=stream)
    with stream:
        assert cupy.cuda.get_current_stream() is stream
        doubled = array * 2
    assert cupy.cuda.get_current_stream() is cupy.cuda.Stream.null
    np.testing.assert_array_equal(doubled.get(), [2, 4, 6])


def test_the_null_stream_waits_for_blocking_streams_only(cupy):
    for non_blocking, expected in ((False, 1), (True, 0)):
        stream, array = cupy.cuda.Stream(non_blocking=non_blocking), cupy.zeros(1, dtype=np.float32)
        array.set(pinned(cupy, [1]), stream=stream)
        assert float(array.sum()) == expected
        cupy.cuda.Device().synchronize()
        assert float(array.sum()) == 1


def test_events_are_done_in_order(cupy):
    stream = cupy.cuda.Stream(non_blocking=True)
    first, second = cupy.zeros(1, dtype=np.float32), cupy.zeros(1, dtype=np.float32)
    start = stream.record()
    first.set(pinned(cupy, [1]), stream=stream)
    middle = stream.record()
    second.set(pinned(cupy, [2]), stream=stream)
    end = stream.record()
    middle.synchronize()
    assert (start.done, middle.done, end.done) == (True, True, False)
    assert float(first.sum()) == 1 and float(second.sum()) == 0
    with pytest.raises(RuntimeError, match="synchronize the event first"):
        cupy.cuda.get_elapsed_time(start, end)
    end.synchronize()
    assert cupy.cuda.get_elapsed_time(start, end) >= 0
    with pytest.raises(RuntimeError, match="recorded, and with timing"):
        cupy.cuda.get_elapsed_time(start, cupy.cuda.Event(disable_timing=True))


def test_set_and_get(cupy):
    array = cupy.zeros((2, 3), dtype=np.float32)
    array.set(np.ones((2, 3), np.float32))
    out = np.zeros((2, 3), np.float32)
    assert array.get(out=out) is out and out.all()
    stream = cupy.cuda.Stream(non_blocking=True)
    late = np.zeros((2, 3), np.float32)
    array.get(stream=stream, out=late, blocking=False)
    assert not late.any()
    stream.synchronize()
    assert late.all()
    with pytest.raises(ValueError, match=r"set takes a NumPy array of shape \(2, 3\)"):
        array.set(np.ones(6, np.float32))
    with pytest.raises(ValueError, match=r"out must be a NumPy array of shape \(2, 3\)"):
        array.get(out=np.zeros((2, 3)))
    with pytest.raises(RuntimeError, match="non-contiguous"):
        array[:, :2].set(np.ones((2, 2), np.float32))


def test_pinned_memory_is_larger_than_asked_for(cupy):
    assert len(cupy.cuda.alloc_pinned_memory(100)) == 128
    importlib.import_module("cupyx").empty_pinned((3, 5), np.int32)[:] = 1


def test_addresses(cupy):
    array = cupy.zeros(4, dtype=np.float32)
    assert array[2:].data.ptr == array.data.ptr + 8


def test_pools_and_plans(cupy):
    pool = cupy.get_default_memory_pool()
    assert pool.used_bytes() == pool.total_bytes() == 0 and pool is cupy.get_default_memory_pool()
    pool.set_limit(size=1000)
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="Out of memory in zeros"):
        cupy.zeros(1001, dtype=np.uint8)
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    assert cupy.cuda.memory.OutOfMemoryError is not MemoryError
    cupy.zeros(1000, dtype=np.uint8)
    cache = cupy.fft.config.get_plan_cache()
    cache.set_size(4)
    cache.set_memsize(100)
    cache.clear()
    assert (cache.get_size(), cache.get_memsize()) == (4, 100)
    assert cache is cupy.fft.config.get_plan_cache()


def test_launchers_are_bound_to_the_stand_in_only_as_long_as_it_is_there():
    with standin.installed() as cupy:
        assert importlib.import_module("gpucoadd.kernels._compile").cupy is cupy
    gpucoadd = importlib.import_module("gpucoadd")
    assert "gpucoadd.kernels" not in sys.modules and not hasattr(gpucoadd, "kernels")
    gpucoadd.kernels = None  # as an import under another CuPy would leave behind
    with standin.installed() as other:
        assert not hasattr(gpucoadd, "kernels")
        assert importlib.import_module("gpucoadd.kernels._compile").cupy is other
