"""Examples in the docstrings of gpucoadd.lsst, which the other doctests pass by; and its names."""

import doctest
import importlib
import pkgutil

import pytest

import gpucoadd.lsst

MODULES = sorted(module.name for module in pkgutil.iter_modules(gpucoadd.lsst.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"gpucoadd.lsst.{name}")
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(f"gpucoadd.lsst.{name}") for name in MODULES]
    assert sum(bool(found.examples) for module in modules for found in finder.find(module)) > 0


@pytest.mark.parametrize("name", gpucoadd.lsst.__all__)
def test_names_are_found_and_say_where_they_are(name):
    assert name in dir(gpucoadd.lsst)
    thing = getattr(gpucoadd.lsst, name)
    assert thing.__module__.startswith(("gpucoadd.lsst.", "gpucoadd.pixel_sets")), "pipelines and pickles name it so"
    assert thing.__doc__


def test_unknown_names():
    with pytest.raises(AttributeError, match="has no attribute 'MakeWarpTask'"):
        gpucoadd.lsst.MakeWarpTask  # noqa: B018
    assert gpucoadd.lsst is importlib.import_module("gpucoadd").lsst
