"""Arrays on cuda:1 while the current device is cuda:0: every public step works where its arrays are."""

from __future__ import annotations

import decorrelation_goldens
import goldens
import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_allclose, assert_array_equal

import gpucoadd
from gpucoadd.backend import to_device, to_host

pytestmark = pytest.mark.skipif(not hostcuda.available(), reason=hostcuda.REASON)


@pytest.fixture
def there():
    """Moves an array to the second device of the stand-in, which refuses work on arrays of another than the current."""
    with standin.installed(devices=2):
        yield lambda array: to_device(np.ascontiguousarray(array), "cuda:1")


def on_second(*arrays):
    for array in arrays:
        assert array.device.id == 1
    return [to_host(array) for array in arrays]


def test_a_coadd_and_all_that_it_offers(there, tmp_path):
    golden = goldens.load(goldens.DATA / "few_epochs_3.npz")
    expected = goldens.run(golden)
    found = goldens.run(golden, goldens.warp_stack(golden, there))
    names = ("mask", "n_image", "clipped", "no_data", "edge", "epoch_count", "n_image_matched", "template_footprints")
    for name in names:
        (plane,) = on_second(getattr(found, name))
        assert_array_equal(plane, getattr(expected, name), err_msg=name)
    (plane,) = on_second(found.artifacts.plane("clipped", 1))
    assert_array_equal(plane, expected.clipped[1])
    found.write(tmp_path / "coadd.fits")
    assert_array_equal(gpucoadd.read_image(tmp_path / "coadd.fits", device="cpu").mask, expected.mask)


def test_the_steps(there):
    golden = goldens.load(goldens.DATA / "few_epochs_3.npz")
    expected = goldens.run(golden)
    warps = goldens.warp_stack(golden, there)
    template = gpucoadd.assemble(warps.psf_matched, config=gpucoadd.CoaddConfig().template)
    artifacts = gpucoadd.find_artifacts(warps.psf_matched, template)
    (clipped,) = on_second(artifacts.clipped)
    assert_array_equal(clipped, expected.clipped)

    counts = (expected.clipped[0], expected.epoch_count, expected.n_image_matched)
    (kept,) = on_second(gpucoadd.filter_artifacts(*map(there, counts)))
    assert_array_equal(kept, gpucoadd.filter_artifacts(*counts))
    mask = golden["in_m_mask"][0]
    (kept,) = on_second(gpucoadd.prefilter_artifacts(there(counts[0]), there(mask), schema=golden.schema))
    assert_array_equal(kept, gpucoadd.prefilter_artifacts(counts[0], mask, schema=golden.schema))
    edges = {"schema": expected.schema}
    (plane,) = on_second(gpucoadd.propagate_edges(there(expected.mask), there(expected.edge), **edges))
    assert_array_equal(plane, gpucoadd.propagate_edges(expected.mask, expected.edge, **edges))


def test_integers_of_any_width_are_taken(there):
    """CuPy's own integers have 64 bits; kernels read 32."""
    rng = np.random.default_rng(1)
    candidates = rng.random((30, 40)) < 0.1
    counts, n_image, sources = (rng.integers(low, low + 3, candidates.shape) for low in (1, 20, 0))
    assert counts.dtype == np.int64
    expected = gpucoadd.filter_artifacts(candidates, counts, n_image, template_footprints=sources)
    planes = map(there, (candidates, counts, n_image))
    (found,) = on_second(gpucoadd.filter_artifacts(*planes, template_footprints=there(sources)))
    assert_array_equal(found, expected)
    assert expected.any()


def test_decorrelation_and_mosaics(there):
    golden = decorrelation_goldens.load(decorrelation_goldens.DATA / "s09_explicit_centroids.npz")
    images, options = decorrelation_goldens.arguments(golden)
    moved, moved_options = decorrelation_goldens.arguments(golden, there)
    expected, found = gpucoadd.decorrelate(*images, **options), gpucoadd.decorrelate(*moved, **moved_options)
    image, variance, mask = on_second(found.image, found.variance, found.mask)
    assert_allclose(image, expected.image, rtol=0, atol=1e-5 * np.nanstd(expected.image))
    assert_allclose(variance, expected.variance, rtol=1e-6)
    assert_array_equal(mask, expected.mask)
    assert gpucoadd.noise_statistics(found.image, found.mask).lag1 == pytest.approx(
        gpucoadd.noise_statistics(expected.image, expected.mask).lag1, abs=1e-6
    )

    grid = gpucoadd.CellGrid(cell_size=9, grid_step=8, border_size=1, adjust="none", scale_by_fwhm=False)

    def twice(cell, expanded):
        cell.image[...] *= 2
        return cell

    for turned in (False, True):  # Fortran order
        planes = [(plane.T if turned else plane) for plane in (images[0].image, images[0].variance, images[0].mask)]
        schema = images[0].schema
        on_host = gpucoadd.map_cells(gpucoadd.MaskedImage(*planes, schema=schema), twice, grid)
        planes = [(there(plane.T).T if turned else there(plane)) for plane in planes]
        on_device = gpucoadd.map_cells(gpucoadd.MaskedImage(*planes, schema=schema), twice, grid)
        for name in ("image", "variance", "mask"):
            (plane,) = on_second(getattr(on_device, name))
            assert_array_equal(plane, getattr(on_host, name), err_msg=name)
