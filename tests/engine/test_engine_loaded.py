"""Objects of afw, made where it is loaded."""

import sys

import afwlike
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from gpucoadd.lsst import PixelSet
from gpucoadd.lsst.loaded import like_sets, loaded_afw
from gpucoadd.lsst.stamp_sources import kernel_source
from gpucoadd.pixel_sets import spans_of

ExposureF = type("ExposureF", (), {"__module__": "lsst.afw.image"})


def test_span_sets_of_afw_where_it_is_loaded(monkeypatch):
    sets = [PixelSet([(4, 7, 9)])]
    assert like_sets(sets, object()) == sets
    monkeypatch.setitem(sys.modules, "lsst.afw.geom", afwlike)
    (made,) = like_sets(sets, ExposureF())
    assert isinstance(made, afwlike.SpanSet)
    assert_array_equal(spans_of(made), [(4, 7, 9)])
    assert like_sets(sets, object()) == sets


@pytest.mark.parametrize("thing", [ExposureF(), type("Mine", (ExposureF,), {})()])
def test_modules_for_objects_of_afw_alone(monkeypatch, thing):
    assert loaded_afw("geom", thing) is None
    monkeypatch.setitem(sys.modules, "lsst.afw.geom", afwlike)
    assert loaded_afw("geom", thing) is afwlike
    assert loaded_afw("image", thing) is None
    assert loaded_afw("geom", afwlike.SpanSet([])) is None


def test_kernels_of_others_fill_no_image_of_afw(monkeypatch):
    filled = []

    class Kernel(afwlike.Kernel):
        def computeImage(self, image, doNormalize, x=0.0, y=0.0):
            filled.append(type(image).__module__)
            return super().computeImage(image, doNormalize, x, y)

    monkeypatch.setitem(sys.modules, "lsst.afw.image", afwlike)
    stamp = np.arange(15.0).reshape(3, 5)
    assert_array_equal(kernel_source(Kernel(stamp)), stamp)
    assert filled == ["gpucoadd.lsst.stamp_sources"]
