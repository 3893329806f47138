"""Do we agree with LSST on decorrelation? Frozen outputs, described in data/README.md; and does our second opinion?"""

from __future__ import annotations

import logging

import decorrelation_goldens as goldens
import oracle_decorrelation as oracle
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import gpucoadd
from gpucoadd.backend import to_host

PATHS = goldens.paths("gs")
CORRECTED = [p for p in PATHS if p.stem not in goldens.NOT_CORRECTED]


def name_of(path):
    return path.stem


@pytest.fixture(scope="module")
def pieces():
    return goldens.load(goldens.DATA / "p01_building_blocks.npz")


@pytest.fixture(scope="module")
def means():
    return goldens.load(goldens.DATA / "p02_clipped_variance_mean.npz")


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_agrees_with_lsst(path, xp, caplog):
    golden = goldens.load(path)
    if golden.name in goldens.REFUSED:
        error, match = goldens.REFUSED[golden.name]
        with pytest.raises(error, match=match):
            goldens.run(golden, xp.asarray)
        return
    with caplog.at_level(logging.WARNING, logger="gpucoadd"):
        result = goldens.run(golden, xp.asarray)
    if golden.name == goldens.EMPTY_TEMPLATE:
        goldens.check_left_alone(result, golden)
        assert "template" in caplog.text
    elif golden.name == goldens.ONE_PIXEL_KERNEL:
        goldens.check_identity(result, golden)
        assert_allclose(to_host(result.correction), 1.0, rtol=1e-14)
    else:
        goldens.check(result, golden)


@pytest.mark.parametrize("path", CORRECTED, ids=name_of)
def test_lsst_names_give_the_same(path):
    golden = goldens.load(path)
    result, expected = goldens.run_configured(golden), goldens.run(golden)
    assert (result.cells is None) == (expected.cells is None)
    for plane in ("image", "variance", "mask"):
        assert_array_equal(getattr(result, plane), getattr(expected, plane), err_msg=plane)


@pytest.mark.parametrize("path", CORRECTED, ids=name_of)
def test_the_oracle_agrees_with_lsst(path):
    golden = goldens.load(path)
    goldens.check(goldens.from_oracle(golden), golden)


def test_common_shape(pieces):
    for shapes, expected in zip(pieces.meta["common_shape_in"], pieces.meta["common_shape_out"], strict=True):
        assert gpucoadd.fft_shape(*map(tuple, shapes)) == tuple(expected)
        assert oracle.fft_shape(*shapes) == tuple(expected)


@pytest.mark.parametrize("number", range(4))
def test_correction(pieces, number):
    kernel, (v1, v2) = pieces[f"corr{number}_kernel"], pieces[f"corr{number}_par"].tolist()
    shape = tuple(pieces[f"corr{number}_shape"].tolist())
    expected = pieces[f"corr{number}_corrft"]
    half = expected[:, : shape[1] // 2 + 1]
    assert_allclose(gpucoadd.diffim_correction(kernel, v1, v2, shape), half, rtol=goldens.CORRECTION[False])
    assert_allclose(oracle.Textbook(kernel, v1, v2, shape).spectrum(), expected, rtol=goldens.CORRECTION[False])


@pytest.mark.parametrize("number", range(4))
def test_score_correction(pieces, number):
    kernel, (v1, v2) = pieces[f"corr{number}_kernel"], pieces[f"corr{number}_par"].tolist()
    shape, smoothing = tuple(pieces[f"corr{number}_shape"].tolist()), pieces[f"score{number}_preconv"]
    expected = pieces[f"score{number}_corrft"]
    half = expected[:, : shape[1] // 2 + 1]
    assert_allclose(gpucoadd.score_correction(kernel, v1, v2, shape, smoothing), half, rtol=goldens.CORRECTION[True])
    textbook = oracle.Textbook(kernel, v1, v2, shape, smoothing)
    assert_allclose(textbook.spectrum(), expected, rtol=goldens.CORRECTION[True])


@pytest.mark.parametrize("number", [1, 2, 3])  # of number 0 the planes do not fit the grid
def test_the_oracle_has_the_variance_planes_and_the_psf(pieces, number):
    kernel, (v1, v2) = pieces[f"corr{number}_kernel"], pieces[f"corr{number}_par"].tolist()
    textbook = oracle.Textbook(kernel, v1, v2, tuple(pieces[f"corr{number}_shape"].tolist()))
    planes = [pieces[f"corr{number}_v1"], pieces[f"corr{number}_v2"]]
    for name, complete in (("vest", False), ("vfull", True)):
        got = oracle.corrected_variance(textbook, *planes, v1, v2, complete=complete)
        assert_allclose(got, pieces[f"corr{number}_{name}"], rtol=goldens.VARIANCE, err_msg=name)
    got = oracle.corrected_psf(textbook, pieces[f"corr{number}_psf_in"])
    assert_allclose(got, pieces[f"corr{number}_psf_out"], rtol=0, atol=goldens.PSF)


@pytest.mark.parametrize("number", range(14))
def test_variance_mean(means, number):
    variance, mask, expected = means[f"var{number}"], means[f"mask{number}"], means["clipped_mean"][number]
    got = gpucoadd.variance_mean(variance, mask, schema=means.schema)
    assert isinstance(got, float)
    assert_allclose(got, expected, rtol=goldens.VARIANCE_MEAN)
    planes = "INTRP EDGE DETECTED SAT CR BAD NO_DATA DETECTED_NEGATIVE".split()
    assert_allclose(oracle.variance_mean(variance, mask, means.schema.bitmask(*planes)), expected, rtol=1e-14)
