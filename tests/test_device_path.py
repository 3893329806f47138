"""Whole steps on the stand-in for CuPy, with the CUDA kernels on the CPU: they equal NumPy and stay on the device."""

from __future__ import annotations

import goldens
import numpy as np
import pytest
import standin
from numpy.testing import assert_allclose, assert_array_equal

import gpucoadd

COUNTS = ("mask", "n_image", "contributed")
ARTIFACTS = ("clipped", "no_data", "edge", "epoch_count", "n_image_matched", "template_footprints")
# The same float64 sums on both sides, perhaps in another order, rounded to float32 once or twice.
FLOAT = {"rtol": 4 * np.finfo(np.float32).eps, "atol": 1e-6}


@pytest.fixture(scope="module")
def golden():
    return goldens.load(goldens.DATA / "few_epochs_3.npz")


@pytest.fixture(scope="module")
def base_golden():
    return goldens.load(goldens.DATA / "base_default.npz")


@pytest.fixture(scope="module")
def on_host(golden):
    return goldens.run(golden)


@pytest.fixture
def cupy():
    with standin.installed() as module:
        yield module


def check_exact(names, device, host):
    for name in names:
        plane = getattr(device, name)
        assert isinstance(plane, standin.ndarray), f"{name} is a {type(plane)}"
        assert plane.dtype == getattr(host, name).dtype, name
        assert_array_equal(plane.get(), getattr(host, name), err_msg=name)


def check_floats(device, host):
    for name in ("image", "variance"):
        plane = getattr(device, name)
        assert isinstance(plane, standin.ndarray), f"{name} is a {type(plane)}"
        assert plane.dtype == np.float32, name
        assert_allclose(plane.get(), getattr(host, name), err_msg=name, **FLOAT)


@pytest.mark.parametrize("statistic", gpucoadd.STATISTICS)
def test_stack(cupy, statistic):
    golden = goldens.load(goldens.DATA / "stack_statistics.npz")
    planes = [golden[f"in_{k}"] for k in ("image", "variance", "mask")]
    options = {
        "statistic": statistic,
        "reject": ["NO_DATA", "BAD", "SAT"],
        "propagation": {"SAT": 0.1},
        "schema": golden.schema,
    }
    device = gpucoadd.stack(*map(cupy.asarray, planes), golden["in_weights"], **options)
    host = gpucoadd.stack(*planes, golden["in_weights"], **options)
    check_exact(["mask"], device, host)
    check_floats(device, host)


@pytest.mark.parametrize("overrides", [{}, {"statistic": "MEDIAN"}, {"statistic": "MEAN", "doOnlineForMean": True}])
def test_assemble(cupy, base_golden, overrides):
    config = gpucoadd.AssemblyConfig.from_lsst(overrides)
    device = gpucoadd.assemble(goldens.warp_stack(base_golden, cupy.asarray), config=config)
    host = gpucoadd.assemble(goldens.warp_stack(base_golden), config=config)
    check_exact(COUNTS, device, host)
    check_floats(device, host)
    assert_allclose(goldens.host(device.weights), host.weights, rtol=1e-12)


def test_coadd(cupy, golden, on_host):
    device = goldens.run(golden, goldens.warp_stack(golden, cupy.asarray))
    check_exact(COUNTS + ARTIFACTS, device, on_host)
    check_floats(device, on_host)
    check_exact(["mask"], device.template, on_host.template)
    check_floats(device.template, on_host.template)
    assert_allclose(goldens.host(device.variance_scale), on_host.variance_scale, rtol=1e-6)
    goldens.check_coadd(device, golden)


def test_coadd_without_some_twins(cupy):
    golden = goldens.load(goldens.DATA / "no_matched_twin.npz")
    device = goldens.run(golden, goldens.warp_stack(golden, cupy.asarray))
    check_exact(COUNTS + ARTIFACTS, device, goldens.run(golden))
    goldens.check_coadd(device, golden)


def test_nothing_to_coadd(cupy):
    golden = goldens.load(goldens.DATA / "empty_all_nan.npz")
    with pytest.raises(gpucoadd.NoWorkFound, match=r"none of the .* epochs can be used .*is NaN everywhere"):
        goldens.run(golden, goldens.warp_stack(golden, cupy.asarray))


def test_find_artifacts(cupy, golden, on_host):
    sky = on_host.template
    template = gpucoadd.MaskedImage(
        cupy.asarray(sky.image),
        cupy.asarray(sky.variance),
        cupy.asarray(sky.mask),
        schema=sky.schema,
        origin=sky.origin,
        unit=sky.unit,
    )
    device = gpucoadd.find_artifacts(goldens.warp_stack(golden, cupy.asarray).psf_matched, template)
    check_exact(ARTIFACTS, device, on_host)


def test_the_steps_on_one_epoch(cupy, golden, on_host):
    candidates = np.zeros(on_host.shape, bool)
    candidates[3:9, 4:11] = candidates[20:22, 30:60] = candidates[70:80, 70:72] = True
    protected = on_host.template_footprints
    mask = golden["in_m_mask"][0]

    kept = gpucoadd.prefilter_artifacts(cupy.asarray(candidates), cupy.asarray(mask), schema=golden.schema)
    kept_on_host = gpucoadd.prefilter_artifacts(candidates, mask, schema=golden.schema)
    assert isinstance(kept, standin.ndarray)
    assert_array_equal(kept.get(), kept_on_host)

    counts = candidates.astype(np.int32)
    n_image = np.full(counts.shape, 3, np.int32)
    artifacts = gpucoadd.filter_artifacts(
        cupy.asarray(candidates),
        cupy.asarray(counts),
        cupy.asarray(n_image),
        template_footprints=cupy.asarray(protected),
    )
    on_numpy = gpucoadd.filter_artifacts(candidates, counts, n_image, template_footprints=protected)
    assert isinstance(artifacts, standin.ndarray)
    assert_array_equal(artifacts.get(), on_numpy)
    assert on_numpy.any()

    edges = gpucoadd.propagate_edges(cupy.asarray(on_host.mask), cupy.asarray(on_host.edge), schema=on_host.schema)
    assert isinstance(edges, standin.ndarray)
    expected = gpucoadd.propagate_edges(on_host.mask, on_host.edge, schema=on_host.schema)
    assert_array_equal(edges.get(), expected)


def test_mixed_arrays_are_refused(cupy, golden):
    with pytest.raises(TypeError, match="variance"):
        gpucoadd.WarpStack(
            cupy.asarray(golden["in_image"]),
            golden["in_variance"],
            golden["in_mask"],
            schema=golden.schema,
            psf_sigma=golden["in_sigma"],
        )


def test_stacking_reads_nothing_back(cupy):
    ones = cupy.ones((3, 4, 5), dtype=cupy.float32)
    mask = cupy.zeros((3, 4, 5), dtype=cupy.int32)
    schema = gpucoadd.MaskSchema.lsst()
    gpucoadd.stack(ones, ones, mask, [1.0, 1.0, 1.0], statistic="MEANCLIP", reject=["NO_DATA"], schema=schema)
    assert standin.host_reads == 0


@pytest.mark.parametrize("n_epochs", [1, 2, 3])
def test_reads_stay_few(cupy, golden, n_epochs):
    """Waits for the device cost; a few numbers are read for all epochs together, never one per footprint or pixel."""
    planes = [cupy.asarray(golden[f"in_m_{k}"][:n_epochs]) for k in ("image", "variance", "mask")]
    options = {"schema": golden.schema, "psf_sigma": golden["in_m_sigma"][:n_epochs]}
    warps = gpucoadd.WarpStack(*planes, **options, psf_matched=gpucoadd.WarpStack(*planes, **options))
    standin.reset()
    gpucoadd.coadd(warps)
    # more for those whose variance asks for a second look, which in this scene are two of three
    second_looks = n_epochs - 1
    assert standin.host_reads <= 18 + 3 * second_looks and standin.hidden_waits <= 5
    assert standin.launches <= 420 + 15 * second_looks
    # what is counted today, and a little: one pass more over the stack would show
    n_pixels = planes[0][0].size
    assert standin.bytes_moved <= n_pixels * (550 + 295 * n_epochs + 60 * second_looks)


def test_a_device_that_is_too_small_for_all_at_once(cupy, golden, on_host, caplog):
    """Groups of epochs and bands of rows are halved, with a line in the log each, and nothing is different."""
    warps = goldens.warp_stack(golden, cupy.asarray)
    one_plane = golden["in_image"][0].nbytes
    cupy.get_default_memory_pool().set_limit(2 * one_plane)
    device = goldens.run(golden, warps)
    check_exact(COUNTS + ARTIFACTS, device, on_host)
    check_floats(device, on_host)
    said = [record.getMessage() for record in caplog.records if "out of memory" in record.getMessage()]
    assert {line.partition(" with ")[2] for line in said} == {
        "3 epochs at a time; going on with 1",
        "116 rows at a time; going on with 58",
    }
    assert len(said) == 5  # weights and stack, twice, and the search

    cupy.get_default_memory_pool().set_limit(one_plane // 2)
    with pytest.raises(MemoryError, match="out of memory even with 1 of the epochs at a time"):
        goldens.run(golden, warps)
