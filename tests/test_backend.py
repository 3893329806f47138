"""Devices: the words for them, what is said when there is none, what is told about those there are."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import standin

import gpucoadd
from gpucoadd import backend


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


class Device:
    """A fake `cupy.cuda.Device`."""

    current = 0

    def __init__(self, number):
        self.number = number

    def __enter__(self):
        self.before, Device.current = Device.current, self.number

    def __exit__(self, *error):
        Device.current = self.before


class Pool:
    """A memory pool that holds 8 GiB, of which 3 GiB are in use."""

    freed = 0

    def total_bytes(self):
        return 8 << 30

    def used_bytes(self):
        return 3 << 30

    def free_all_blocks(self):
        Pool.freed += 1


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy that sees two devices; tests change what it says."""
    names, free = (b"Some GPU", b"Other GPU"), (1 << 30, 3 << 30)
    runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=lambda: 2,
        getDeviceProperties=lambda number: {"name": names[number], "major": 9, "minor": number},
        memGetInfo=lambda: (free[Device.current], 4 << 30),
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 12090,
    )
    cuda = types.SimpleNamespace(
        is_available=lambda: True,
        runtime=runtime,
        Device=Device,
        nvrtc=types.SimpleNamespace(getVersion=lambda: (12, 9)),
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    )
    module = types.SimpleNamespace(cuda=cuda, ndarray=type("ndarray", (), {}), get_default_memory_pool=Pool)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return module


def no_device(error=None):
    def is_available():
        if error:
            raise CUDARuntimeError(error)
        return False

    return is_available


INSUFFICIENT = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"


@pytest.mark.parametrize("word", ["gpuu", "cuda:x", "cpu:1", "", "cuda:-1", "cuda:1.5", "auto:0"])
def test_bad_device_words(word):
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        backend.resolve_device(word)


def test_device_words(cupy):
    assert backend.has_device()
    words = {"auto": 0, "cuda": 0, "gpu": 0, "cuda:0": 0, "cuda:1": 1, "gpu:1": 1, "cuda:01": 1}
    assert {word: backend.resolve_device(word) for word in words} == {word: ("cuda", n) for word, n in words.items()}
    assert backend.resolve_device("cpu") == ("cpu", 0)


def test_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert backend.resolve_device("auto") == ("cpu", 0) == backend.resolve_device("cpu")
    with pytest.raises(
        ImportError, match=r'device=\'cuda:0\' needs CuPy: pip install "gpucoadd\[cuda12\]" \(or cuda13'
    ):
        backend.resolve_device("cuda:0")
    assert dict(backend.describe())["device"].startswith("cpu; CuPy ")
    assert backend.out_of_memory() == ()


def test_cupy_that_cannot_be_loaded(monkeypatch, tmp_path):
    (tmp_path / "cupy.py").write_text("raise ImportError('libcudart.so.12: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    assert backend.resolve_device("auto") == ("cpu", 0)
    with pytest.raises(ImportError, match=r"installed but cannot be loaded \(libcudart.so.12: no such file\); install"):
        backend.resolve_device("cuda")


def test_no_device_is_visible(cupy, monkeypatch):
    cupy.cuda.is_available = no_device()
    assert backend.resolve_device("auto") == ("cpu", 0)
    with pytest.raises(RuntimeError, match=r'no CUDA device is visible; see .* or use device="cpu", or device="auto"'):
        backend.resolve_device("cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(RuntimeError, match=r"no CUDA device is visible \(CUDA_VISIBLE_DEVICES is ''\)"):
        backend.resolve_device("gpu")
    assert dict(backend.describe())["CUDA_VISIBLE_DEVICES"] == "empty: hides every device"


def test_number_out_of_range(cupy, monkeypatch):
    with pytest.raises(RuntimeError, match=r"device='cuda:2' but only 2 CUDA device\(s\) are visible; they count"):
        backend.resolve_device("cuda:2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(RuntimeError, match=r"are visible \(CUDA_VISIBLE_DEVICES is '4,5'\); they .* cuda:0 to cuda:1"):
        backend.resolve_device("cuda:4")


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (12040, r'supports CUDA 12.4, this CuPy needs CUDA 13.0; update the driver, or .*"gpucoadd\[cuda12\]"'),
        (11040, r"supports CUDA 11.4, this CuPy needs CUDA 13.0; update the driver; or use device"),
        (0, r"there is no NVIDIA driver; install one, or let the container have the GPU"),
    ],
)
def test_driver_is_too_old(cupy, driver, message):
    cupy.cuda.is_available = no_device(INSUFFICIENT)
    cupy.cuda.runtime.driverGetVersion = lambda: driver
    cupy.cuda.runtime.runtimeGetVersion = lambda: 13000
    assert backend.resolve_device("auto") == ("cpu", 0)
    with pytest.raises(RuntimeError, match=message):
        backend.resolve_device("cuda:0")


def test_cuda_that_does_not_start(cupy):
    cupy.cuda.is_available = no_device("cudaErrorSystemNotReady: system not yet initialized")
    assert backend.resolve_device("auto") == ("cpu", 0)
    with pytest.raises(
        RuntimeError, match=r"CUDA cannot be started \(cudaErrorSystemNotReady.*see whether `nvidia-smi`"
    ):
        backend.resolve_device("cuda")
    assert dict(backend.describe())["device"].startswith("cpu; CUDA cannot be started")


def test_every_device_is_described(cupy, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    facts = backend.describe()
    assert [value for name, value in facts if name == "device"] == [
        "cuda:0, Some GPU, compute 9.0, 1.0 of 4.0 GiB free",
        "cuda:1, Other GPU, compute 9.1, 3.0 of 4.0 GiB free",
    ]
    said = dict(facts)
    assert (said["driver"], said["runtime"], said["compiler"]) == ("CUDA 13.0", "CUDA 12.9", "NVRTC 12.9")
    assert said["CUDA_VISIBLE_DEVICES"] == "4,5"
    assert Device.current == 0


def test_a_missing_compiler_is_described(cupy):
    def no_nvrtc():
        raise RuntimeError("CuPy failed to load libnvrtc.so.12")

    cupy.cuda.nvrtc.getVersion = no_nvrtc
    assert dict(backend.describe())["compiler"].startswith("none (CuPy failed to load libnvrtc.so.12)")


def test_memory_of_a_device(cupy):
    assert backend.free_bytes(0) == (1 + 5) << 30
    assert backend.free_bytes(1) == (3 + 5) << 30
    before = Pool.freed
    backend.free_memory()
    assert Pool.freed == before + 1
    assert backend.out_of_memory() == (OutOfMemoryError,)


def test_to_device_cpu_gives_the_array_back():
    array = np.zeros(3)
    assert gpucoadd.to_device(array, "cpu") is array and gpucoadd.to_host(array) is array


def test_devices_of_arrays():
    with standin.installed(devices=2) as cupy:
        there = backend.to_device(np.ones(3), "cuda:1")
        assert backend.device_of(there) == 1 and backend.device_of(np.ones(3)) is None
        with backend.using(there):
            assert backend.device_of(cupy.zeros(2)) == 1
            with backend.using(0):
                assert backend.device_of(cupy.zeros(2)) == 0
            with backend.using(None), backend.using(np.ones(3)):
                assert backend.device_of(cupy.zeros(2)) == 1
        assert backend.device_of(cupy.zeros(2)) == 0
        here = backend.to_device(np.ones(3), "cuda:0")
        with pytest.raises(TypeError, match="variance is on cuda:1 but image is on cuda:0; move one with"):
            backend.array_module(image=here, variance=there)
        with pytest.raises(TypeError, match="argument 1 is a NumPy array but argument 0 is on the GPU"):
            backend.array_module(there, np.ones(3))
