"""What holds for the package as a whole: imports, docstrings, twins, version."""

from __future__ import annotations

import importlib
import inspect
from importlib import metadata
from pathlib import Path

import pytest

import gpucoadd
from gpucoadd import fallback, kernels

PACKAGE = Path(gpucoadd.__file__).parent


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
    assert public_names(kernels) == public_names(fallback)
    assert public_names(kernels)
    for name in public_names(kernels):
        ours, theirs = getattr(kernels, name), getattr(fallback, name)
        if inspect.isfunction(theirs):
            assert str(inspect.signature(ours)) == str(inspect.signature(theirs)), name


def test_version_is_that_of_the_package():
    assert gpucoadd.__version__ == metadata.version("gpucoadd")


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").is_file()
