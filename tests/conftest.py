"""Fixtures shared by the tests."""

import importlib
import os

import hostcuda
import pytest
import standin

_DEVICES = ["cuda-on-cpu", pytest.param("cupy", marks=pytest.mark.gpu)]


@pytest.fixture(params=["numpy", *_DEVICES])
def xp(request):
    """Array module under test: NumPy; the stand-in for CuPy, with CUDA code on the CPU; CuPy where it has a device."""
    if request.param == "numpy":
        yield importlib.import_module("numpy")
    else:
        yield from _device(request.param)


@pytest.fixture(params=_DEVICES)
def device(request):
    """As `xp`, without NumPy."""
    yield from _device(request.param)


def _device(name):
    if name == "cupy":
        cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
        if not cupy.cuda.is_available():
            pytest.skip("no CUDA device")
        yield cupy
    elif not hostcuda.available():
        pytest.skip(hostcuda.REASON)
    else:
        with standin.installed() as module:
            yield module


def pytest_configure(config):
    """Keep BLAS to one thread: the suite itself runs on all processors."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
