"""How a .cu file becomes a kernel: options, chips, files; on the stand-in for CuPy."""

from __future__ import annotations

import importlib
import os

import hostcuda
import numpy as np
import pytest
import standin

pytestmark = pytest.mark.skipif(not hostcuda.available(), reason=hostcuda.REASON)


@pytest.fixture
def compiling(tmp_path, monkeypatch):
    """kernels/_compile.py with an empty cache."""
    with standin.installed():
        monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cache"))
        yield importlib.import_module("gpucoadd.kernels._compile")


def files(tmp_path):
    return sorted(os.listdir(tmp_path / "cache"))


def test_small_numbers_stay_and_products_are_not_fused(compiling, tmp_path):
    """CuPy's own way to compile would flush float32 numbers below 1.2e-38 to 0."""
    assert set(compiling.OPTIONS) == {"-std=c++17", "-fmad=false", "-ftz=false"}
    compiling.kernel("smooth.cu", "smooth")
    (name,) = files(tmp_path)
    assert name.startswith("gpucoadd-smooth-") and name.endswith(".cubin")
    assert (tmp_path / "cache" / name).read_text().startswith("// -std=c++17 -fmad=false -ftz=false -arch=sm_90\n")


def test_a_binary_is_made_once(compiling, tmp_path, monkeypatch):
    compiling.kernel("smooth.cu", "smooth")
    made = files(tmp_path)
    monkeypatch.setattr(compiling, "_compiled", lambda *args: pytest.fail("compiled again"))
    compiling._module.cache_clear()
    compiling._function.cache_clear()
    kernel = compiling.kernel("smooth.cu", "smooth")
    assert files(tmp_path) == made
    out = standin.ndarray._of(np.zeros((1, 3), np.float32))
    plane, weights = (standin.ndarray._of(np.array(a)) for a in (np.float32([[1, 2, 3]]), np.array([0.25, 0.5, 0.25])))
    kernel((1,), (32,), (plane, weights, out, *map(np.int32, (1, 1, 1, 3))))
    assert out.get().tolist() == [[1.0, 2.0, 2.0]]


@pytest.mark.parametrize(("chip", "arch"), [("75", "sm_75"), ("121", "compute_120"), ("87", "compute_80")])
def test_a_chip_that_the_compiler_does_not_know(compiling, tmp_path, monkeypatch, chip, arch):
    monkeypatch.setattr(compiling.cupy.cuda, "Device", lambda number: type("D", (), {"compute_capability": chip}))
    compiling.kernel("smooth.cu", "smooth")
    (name,) = files(tmp_path)
    assert name.endswith(".cubin" if arch.startswith("sm") else ".ptx")
    assert f"-arch={arch}\n" in (tmp_path / "cache" / name).read_text()


def test_a_home_that_cannot_be_written_to(compiling, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert compiling.kernel("smooth.cu", "smooth").name == "smooth"


def test_what_the_compiler_says_is_shown(compiling, tmp_path):
    with pytest.raises(RuntimeError, match=r"bad\.cu cannot be compiled for sm_90 by NVRTC \(0, 0\).*cu\(1\): error"):
        compiling._compiled("bad.cu", "#error", "sm_90")
