"""Fixtures shared by the tests."""

import importlib
import os

import pytest


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    """Array module under test: NumPy always, CuPy where there is a device."""
    if request.param == "numpy":
        return importlib.import_module("numpy")
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.cuda.is_available():
        pytest.skip("no CUDA device")
    return cupy


def pytest_configure(config):
    """Keep BLAS to one thread: the suite itself runs on all processors."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
