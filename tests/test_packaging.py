"""What holds for the package as a whole: imports, docstrings, twins, version."""

from __future__ import annotations

import importlib
import inspect
from importlib import metadata
from pathlib import Path

import pytest
import standin

import gpucoadd
from gpucoadd import fallback

PACKAGE = Path(gpucoadd.__file__).parent
ROOT = Path(__file__).parent.parent


def public_names(module):
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    return sorted(names)


def test_one_module_speaks_of_cupy():
    modules = [*PACKAGE.glob("*.py"), *Path(fallback.__file__).parent.glob("*.py")]
    assert len(modules) > 5
    assert [path.name for path in modules if "cupy" in path.read_text()] == ["backend.py"]


@pytest.mark.parametrize("name", public_names(gpucoadd))
def test_public_names_have_docstrings(name):
    thing = getattr(gpucoadd, name)
    if not callable(thing):
        assert name.isupper()  # a constant
        return
    assert inspect.getdoc(thing), f"gpucoadd.{name} has no docstring"
    # a dataclass without one gets its signature instead
    assert not inspect.getdoc(thing).startswith(f"{name}("), f"gpucoadd.{name} has no docstring of its own"
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
                assert inspect.getdoc(getattr(thing, member)), f"gpucoadd.{name}.{member} has no docstring"


@pytest.mark.parametrize("module", sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__main__"))
def test_modules_have_docstrings(module):
    assert importlib.import_module(f"gpucoadd.{module}" if module != "__init__" else "gpucoadd").__doc__


def test_twins_have_the_same_functions():
    with standin.installed():
        kernels = importlib.import_module("gpucoadd.kernels")
        functions = {name: getattr(kernels, name) for name in public_names(kernels)}
    assert len(functions) > 20
    twins = {name: thing for name in public_names(fallback) if inspect.isfunction(thing := getattr(fallback, name))}
    assert functions.keys() == twins.keys()
    for name, function in functions.items():
        ours, theirs = (inspect.signature(twin).parameters.values() for twin in (function, twins[name]))
        assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs], name


def test_cuda_is_in_cuda_files():
    """The one piece of CUDA that Python writes is the sorting network, and that is a list of macro calls."""
    texts = {
        path: path.read_text()
        for folder in ("gpucoadd", "kernels", "fallback")
        for path in (ROOT / folder).glob("*.py")
    }
    assert len(texts) > 50
    for path, text in texts.items():
        for word in ("__global__", "__device__", "threadIdx", "blockIdx", "ElementwiseKernel", "ReductionKernel"):
            assert word not in text or (path.name == "_compile.py" and word == "__global__"), f"{word} in {path}"


def test_version_is_that_of_the_package():
    assert gpucoadd.__version__ == metadata.version("gpucoadd")


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").is_file()
