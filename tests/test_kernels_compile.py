"""
NVRTC compiles every .cu file for every chip it knows; needs no GPU.

A launcher module lists in its constant ``VARIANTS``, {file: [macros, ...]}, the builds of its files that are tried
here; a file without one is compiled without macros. All of them are compiled for the chip the package is meant for, by
turns for the oldest and the newest, and the first of each file for all the others.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import nvrtc
import pytest
import standin

FOLDER = Path(next(iter(importlib.util.find_spec("gpucoadd.kernels").submodule_search_locations)))
FILES = sorted(file.name for file in FOLDER.glob("*.cu"))
HOPPER = 90

needs_nvrtc = pytest.mark.skipif(nvrtc.find() is None, reason=nvrtc.REASON)


@functools.cache
def variants():
    """Macros of the builds to try, by file."""
    found = {}
    with standin.installed():
        for module in pkgutil.iter_modules([str(FOLDER)]):
            imported = importlib.import_module(f"gpucoadd.kernels.{module.name}")
            for file, defines in getattr(imported, "VARIANTS", {}).items():
                found.setdefault(file, []).extend(tuple(d) for d in defines)
    return found


def builds(file, architecture):
    """Macros and logs of the builds of a file for a chip, one per variant."""
    tried = variants().get(file, [()])
    oldest, newest = ends()
    chosen = {HOPPER: tried, oldest: tried[::2], newest: tried[1::2] or tried}.get(architecture, tried[:1])
    with standin.installed():
        compiling = importlib.import_module("gpucoadd.kernels._compile")
        for defines in chosen:
            yield defines, nvrtc.build(compiling.source(file, defines), architecture, compiling.OPTIONS)[1]


def ends():
    """The oldest chip and the newest."""
    known = nvrtc.supported_architectures()
    return known[0], known[-1]


def architectures():
    return nvrtc.supported_architectures() if nvrtc.find() else []


def kernels(file):
    """Names of the kernels in a file."""
    return re.findall(
        r'extern\s+"C"\s+__global__\s+.*?void\s+.*?(\w+)\s*\(', (FOLDER / file).read_text(encoding="utf-8")
    )


def strings(path):
    """Patterns of the strings in a module; what an f-string puts in may be any word."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(re.escape(v.value) if isinstance(v, ast.Constant) else r"\w+" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield re.escape(node.value)


@needs_nvrtc
@pytest.mark.parametrize("architecture", architectures())
@pytest.mark.parametrize("file", FILES)
def test_compiles_into_registers_only(file, architecture):
    """An array that the compiler puts in local memory costs traffic, and no other test would notice."""
    for defines, log in builds(file, architecture):
        used = nvrtc.usage(log)
        assert set(used) == set(kernels(file)), log
        for name, kernel in used.items():
            touched = kernel.stack, kernel.spill_stores, kernel.spill_loads
            assert touched == (0, 0, 0), f"{name} with {defines!s:.200} for sm_{architecture}: {kernel}"


@needs_nvrtc
def test_the_library_is_new_enough():
    oldest, newest = ends()
    assert oldest <= 75 and newest >= 120


@needs_nvrtc
def test_local_memory_is_seen():
    """What the test above looks for: an array with an index that is not known when compiling."""
    source = """extern "C" __global__ void pick(const float* x, const int* i, float* out) {
        float v[300];
        for (int k = 0; k < 300; k++) v[i[k]] = x[k * 32 + threadIdx.x];
        out[threadIdx.x] = v[i[threadIdx.x]];
    }"""
    assert nvrtc.usage(nvrtc.build(source, HOPPER)[1])["pick"].stack >= 4 * 300


@needs_nvrtc
def test_errors_of_the_compiler_are_shown():
    with pytest.raises(RuntimeError, match=r'sm_90: NVRTC_ERROR_COMPILATION\n(?s:.)*"wrong" is undefined'):
        nvrtc.build('extern "C" __global__ void f() { wrong; }', HOPPER)
    with pytest.raises(RuntimeError, match="INVALID_OPTION"):
        nvrtc.build("", HOPPER, ["-nonsense"])


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(nvrtc, "find", lambda: None)
    with pytest.raises(RuntimeError, match="pip install nvidia-cuda-nvrtc"):
        nvrtc._library.__wrapped__()


@pytest.mark.parametrize("file", FILES)
def test_is_launched(file):
    """A .cu file that no launcher names, or a kernel that none launches, is dead."""
    launchers = [said for said in map(set, map(strings, FOLDER.glob("*.py"))) if re.escape(file) in said]
    assert launchers, f"no launcher names {file}"
    assert kernels(file)
    said = set().union(*launchers)
    assert [name for name in kernels(file) if not any(re.fullmatch(pattern, name) for pattern in said)] == []


def test_variants_are_of_files():
    assert FILES
    assert set(variants()) <= set(FILES)
    for file, tried in variants().items():
        assert tried and len(set(tried)) == len(tried), file
