"""Frozen outputs of LSST through the tasks' methods, on stand-ins for its exposures; and what the arrays give."""

import goldens
import lsst_flow
import pytest
from lsst.pipe.base import NoWorkFound
from numpy.testing import assert_array_equal

PATHS = [path for path in goldens.paths() if not path.stem.startswith("stack_statistics")]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_tasks_agree_with_lsst_and_with_the_arrays(path):
    golden = goldens.load(path)
    if golden.meta.get("expected_error"):
        with pytest.raises(NoWorkFound, match="there are no warps to coadd"):
            lsst_flow.run_stages(golden)
        return
    result = lsst_flow.run_stages(golden)
    if golden.overrides.get("doFilterMorphological"):
        plain = golden._replace(
            meta={**golden.meta, "config_overrides": {**golden.overrides, "doFilterMorphological": False}}
        )
        goldens.check_streaks(result, lsst_flow.run_stages(plain), golden)
    else:
        goldens.check_coadd(result, golden)
    coadd = goldens.run(golden)
    for name in ("image", "variance", "mask", "n_image"):
        assert_array_equal(getattr(result, name), getattr(coadd, name), err_msg=name)
    if coadd.template is not None:
        for name in ("image", "variance", "mask"):
            assert_array_equal(getattr(result.template, name), getattr(coadd.template, name), err_msg=name)
        for name in ("clipped", "no_data", "edge", "epoch_count"):
            assert_array_equal(getattr(result, name), getattr(coadd, name), err_msg=name)
    assert_array_equal(result.weights, coadd.weights)
