"""`coadd` and `assemble` as a whole."""

import threading

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scenes import SCHEMA, flat_stack, from_image

import gpucoadd
from gpucoadd import AssemblyConfig, CoaddConfig, Interpolation, NoWorkFound, WarpStack
from gpucoadd.backend import to_host
from gpucoadd.simulate import simulate_night

PLANES = ("image", "variance", "mask", "n_image", "contributed")
ALL = (*PLANES, "epoch_count", "n_image_matched", "template_footprints", "clipped", "no_data", "edge", "variance_scale")


def busy_stack(n_epochs=9, shape=(70, 83), seed=3, **options):
    """Stars, a trail, cosmic rays, bad pixels, unequal coverage."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    sky = sum(
        flux * np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / 8)
        for y, x, flux in zip(*rng.uniform(5, 65, (3, 12)), strict=True)
    )
    image = (sky + rng.normal(size=(n_epochs, *shape))).astype(np.float32)
    image[2, 30:33] += 40
    for epoch, y, x in rng.integers(0, (n_epochs, *shape), (30, 3)):
        image[epoch, y : y + 2, x : x + 3] += 60
    mask = np.zeros(image.shape, np.int32)
    mask[1, :, 40] |= SCHEMA.bitmask("SAT")
    mask[4, 10:20, 10:20] |= SCHEMA.bitmask("BAD", "CR")
    mask[5, :, -4:] |= SCHEMA.bitmask("EDGE")
    for epoch in range(n_epochs):
        image[epoch, : epoch % 4] = np.nan
        mask[epoch, : epoch % 4] |= SCHEMA.bitmask("NO_DATA")
    return from_image(image, mask=mask, **options)


def assert_same(a, b, names=ALL):
    for name in names:
        assert_array_equal(to_host(getattr(a, name)), to_host(getattr(b, name)), err_msg=name)


class Slow:
    """A source that gives copies, counts its reads, and says it is not in memory."""

    in_memory = False

    def __init__(self, warps):
        self.warps, self.shape, self.whole, self.lock = warps, warps.shape, 0, threading.Lock()

    def read(self, epoch, rows):
        with self.lock:
            self.whole += rows.stop - rows.start == self.shape[1]
        return tuple(plane.copy() for plane in self.warps.source.read(epoch, rows))


def from_files(warps):
    common = {"schema": SCHEMA, "psf_sigma": warps.psf_sigma}
    matched = WarpStack.from_source(Slow(warps.psf_matched), **common)
    return WarpStack.from_source(Slow(warps), psf_matched=matched, **common)


@pytest.mark.parametrize("memory", [1, 200_000, 2_000_000, None])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_memory_and_threads_do_not_show(memory, threads):
    warps = busy_stack()
    whole = gpucoadd.coadd(warps, threads=1)
    assert whole.clipped.any()
    assert_same(gpucoadd.coadd(warps, memory=memory, threads=threads), whole)
    assert_same(gpucoadd.coadd(from_files(warps), memory=memory, threads=threads), whole)


def test_pieces_do_not_show(monkeypatch):
    """One pixel at a time, whose sums NumPy might order otherwise, gives the same bits."""
    warps = busy_stack(shape=(12, 70))
    whole = gpucoadd.coadd(warps)
    monkeypatch.setattr("gpucoadd.combination._PIECE_SAMPLES", 1)
    monkeypatch.setattr("gpucoadd.combination._SMALLEST_PIECE", 1)
    assert_same(gpucoadd.coadd(warps), whole)


def test_files_are_read_once_where_memory_allows():
    warps = from_files(busy_stack())
    gpucoadd.coadd(warps)
    assert warps.source.whole == warps.shape[0]
    assert warps.psf_matched.source.whole == warps.shape[0]


def test_inputs_stay_as_they_were():
    warps = busy_stack()
    planes = [plane for stack in (warps, warps.psf_matched) for plane in (stack.image, stack.variance, stack.mask)]
    before = [plane.copy() for plane in planes]
    for plane in planes:
        plane.setflags(write=False)
    gpucoadd.coadd(warps)
    for plane, copy in zip(planes, before, strict=True):
        assert_array_equal(plane, copy)


def test_steps_by_hand_are_the_story():
    warps, config = busy_stack(), CoaddConfig()
    whole = gpucoadd.coadd(warps, config=config)
    template = gpucoadd.assemble(warps.psf_matched, config=config.template)
    found = gpucoadd.find_artifacts(warps.psf_matched, template, config=config)
    assert_array_equal(template.image, whole.template.image)
    assert_array_equal(found.clipped, whole.clipped)
    assert_array_equal(found.epoch_count, whole.epoch_count)


def test_stack_and_assemble_agree():
    warps = busy_stack()
    config = AssemblyConfig(interpolation=Interpolation(enabled=False))
    whole = gpucoadd.assemble(warps, config=config)
    by_hand = gpucoadd.stack(
        warps.image,
        warps.variance,
        warps.mask,
        whole.weights,
        statistic=config.statistic,
        reject=config.reject,
        propagation=config.propagation,
        schema=SCHEMA,
    )
    assert_array_equal(by_hand.image, whole.image)
    assert_array_equal(by_hand.variance, whole.variance)


def test_without_twins_each_warp_stands_in_for_its_own():
    twins, alone = busy_stack(), busy_stack(twins=False)
    with pytest.warns(UserWarning, match="no PSF-matched twins"):
        result = gpucoadd.coadd(alone)
    assert_same(result, gpucoadd.coadd(twins))


def test_psf_matched_warps_can_be_coadded():
    warps = busy_stack()
    other = from_image(warps.image * 0 + 5)
    both = WarpStack(
        other.image, other.variance, other.mask, schema=SCHEMA, psf_sigma=[1.0] * 9, psf_matched=warps.psf_matched
    )
    config = CoaddConfig.from_lsst({"warpType": "psfMatched"})
    assert_same(gpucoadd.coadd(both, config=config), gpucoadd.coadd(warps))
    chosen = gpucoadd.assemble(both, config=AssemblyConfig(warp_type="psfMatched"))
    assert_same(chosen, gpucoadd.assemble(warps), PLANES)


def test_unusable_epochs_are_dropped(caplog):
    warps = busy_stack()
    image, variance = warps.image.copy(), warps.variance.copy()
    image[0] = np.nan
    variance[1] = 0
    variance[2] = np.nan
    result = gpucoadd.assemble(WarpStack(image, variance, warps.mask, schema=SCHEMA, psf_sigma=warps.psf_sigma))
    assert result.epochs == (3, 4, 5, 6, 7, 8) and len(result.weights) == 6
    assert "epoch 1 has the weight inf" in caplog.text and "epoch 2 has the weight nan" in caplog.text


def test_nothing_to_coadd():
    warps = busy_stack()
    empty = WarpStack(warps.image * np.float32(np.nan), warps.variance, warps.mask, schema=SCHEMA, psf_sigma=[1.0] * 9)
    with pytest.raises(NoWorkFound, match="none of the 9 epochs can be used"):
        gpucoadd.assemble(empty)
    with pytest.raises(ValueError, match="none of the 9 epochs"):
        gpucoadd.coadd(
            WarpStack(
                empty.image,
                empty.variance,
                empty.mask,
                schema=SCHEMA,
                psf_sigma=[1.0] * 9,
                psf_matched=warps.psf_matched,
            )
        )


def test_psf_width_is_needed():
    warps = busy_stack(sigma=np.nan)
    with pytest.raises(ValueError, match="psf_sigma of epoch 0 must be finite and positive"):
        gpucoadd.coadd(warps)
    no_need = CoaddConfig.from_lsst({"detect.nSigmaToGrow": 0.0, "doPreserveContainedBySource": False})
    assert gpucoadd.coadd(warps, config=no_need).clipped.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be a whole number from 1 on, got 0"),
        ({"threads": 1.5}, "threads must be a whole number"),
        ({"memory": 0}, "memory must be a positive number of bytes"),
        ({"memory": -5}, "memory must be a positive number of bytes"),
    ],
)
def test_bad_bounds(options, message):
    with pytest.raises(ValueError, match=message):
        gpucoadd.coadd(busy_stack(), **options)


def test_unknown_propagated_plane():
    config = AssemblyConfig(propagation={"STA": 0.1})
    with pytest.raises(KeyError, match="no mask plane 'STA'"):
        gpucoadd.assemble(busy_stack(), config=config)


def test_count_image_is_written(tmp_path):
    from astropy.io import fits

    config = CoaddConfig.from_lsst({"saveCountIm": True, "figPath": str(tmp_path)})
    result = gpucoadd.coadd(busy_stack(), config=config)
    assert_array_equal(fits.getdata(tmp_path / "epochCountIm.fits"), result.epoch_count)


def test_written_and_read_again(tmp_path):
    result = gpucoadd.coadd(busy_stack(origin=(-7, 40)))
    result.write(tmp_path / "coadd.fits")
    back = gpucoadd.read_image(tmp_path / "coadd.fits", device="cpu")
    assert back.origin == (-7, 40) and back.unit == "nJy" and back.schema == result.schema
    assert_same(back, result, PLANES[:3])


def test_assembled_coadds_have_no_artifacts():
    result = gpucoadd.assemble(busy_stack())
    for name in ALL[len(PLANES) :]:
        with pytest.raises(AttributeError, match="no artifact search"):
            getattr(result, name)


def test_progress_is_told():
    seen = []
    gpucoadd.coadd(busy_stack(), progress=lambda step, done, total: seen.append((step, done, total)), threads=2)
    assert {step for step, _, _ in seen} == {"weighing", "template", "comparing", "stacking"}
    for step in ("weighing", "comparing"):
        assert (step, 9, 9) in seen


@pytest.mark.parametrize("statistic", gpucoadd.STATISTICS)
def test_every_statistic_can_be_the_final_one(statistic):
    config = CoaddConfig.from_lsst({"statistic": statistic, "doInterp": False})
    result = gpucoadd.coadd(busy_stack(), config=config)
    assert result.image.dtype == np.float32
    if statistic in ("SUM", "MIN", "MAX", "NPOINT", "NCLIPPED", "NMASKED"):  # variance 0 reads as no data in LSST
        assert (result.mask & SCHEMA.bitmask("NO_DATA")).all()


def test_epoch_ids_align_twins_in_any_order():
    warps = busy_stack()
    order = [4, 2, 8, 0]
    twins = WarpStack(
        *(np.ascontiguousarray(plane[order]) for plane in (warps.image, warps.variance, warps.mask)),
        schema=SCHEMA,
        psf_sigma=[1.0] * 4,
        epochs=order,
    )
    stack = WarpStack(
        warps.image, warps.variance, warps.mask, schema=SCHEMA, psf_sigma=warps.psf_sigma, psf_matched=twins
    )
    result = gpucoadd.coadd(stack)
    absent = [epoch for epoch in range(9) if epoch not in order]
    assert result.no_data[absent].all() and not result.edge[absent].any()
    assert int(result.n_image_matched.max()) == 4
    assert int(result.n_image.max()) == 4  # an epoch without a twin has no data in the coadd either


def test_mixed_devices_and_ids():
    warps = flat_stack(3)
    with pytest.raises(ValueError, match="epoch 7 is there twice"):
        flat_stack(2, epochs=[7, 7])
    assert gpucoadd.assemble(warps).epochs == (0, 1, 2)


def test_schemas_without_the_usual_planes():
    schema = gpucoadd.MaskSchema({"NO_DATA": 30, "SATURATED": 0, "SAT": 4})
    warps = from_image(busy_stack().image[:5], schema=schema, mask=np.full((5, 70, 83), 1, np.int32))
    mask = warps.mask.copy()
    mask[:, 10, 10] |= schema.bitmask("NO_DATA")
    stack = WarpStack(warps.image, warps.variance, mask, schema=schema, psf_sigma=[1.0] * 5)
    result = gpucoadd.assemble(stack)
    assert result.mask[10, 10] & result.schema.bitmask("INTRP") and np.isfinite(result.image[10, 10])
    assert (result.mask & 1).sum() == result.mask.size - 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0] * 8, "8 weights are given but image has 9 epochs"),
        ([1.0] * 8 + [0.0], "weight of epoch 8 must be finite and positive, got 0.0"),
        ([np.nan] + [1.0] * 8, "weight of epoch 0 must be finite and positive, got nan"),
    ],
)
def test_bad_weights(weights, message):
    warps = busy_stack()
    planes = warps.image, warps.variance, warps.mask
    with pytest.raises(ValueError, match=message):
        gpucoadd.stack(*planes, weights, statistic="MEAN", reject=["NO_DATA"], schema=SCHEMA)


def test_an_error_in_one_thread_is_the_callers():
    class Broken(Slow):
        def read(self, epoch, rows):
            if epoch == 2:
                raise ValueError("epoch-2.fits is damaged")
            return super().read(epoch, rows)

    warps = WarpStack.from_source(Broken(busy_stack()), schema=SCHEMA, psf_sigma=[1.0] * 9)
    for threads in (1, 2):
        with pytest.raises(ValueError, match=r"epoch-2\.fits is damaged"):
            gpucoadd.assemble(warps, threads=threads)


def test_online_mean_counts_what_it_sums():
    warps = flat_stack(3, shape=(5, 5))
    mask = warps.mask.copy()
    mask[0, 2, 2] = SCHEMA.bitmask("EDGE")
    stack = WarpStack(warps.image, warps.variance, mask, schema=SCHEMA, psf_sigma=[1.0] * 3)
    names = {"statistic": "MEAN", "doOnlineForMean": True, "removeMaskPlanes": ["EDGE"]}
    result = gpucoadd.assemble(stack, config=AssemblyConfig.from_lsst(names))
    assert result.n_image[2, 2] == 3 and result.variance[2, 2] == result.variance[1, 1]
    names["doOnlineForMean"] = False  # the stack path counts before planes are removed, as LSST does
    assert gpucoadd.assemble(stack, config=AssemblyConfig.from_lsst(names)).n_image[2, 2] == 2


def test_provenance_names_the_warps_that_were_stacked():
    night = simulate_night(n_epochs=4, shape=(96, 96), seed=2)
    twins = night.twins.select(night.twins.epochs[::-1])
    warps = gpucoadd.WarpStack(
        night.warps.image, night.warps.variance, night.warps.mask, schema=night.warps.schema,
        psf_sigma=night.warps.psf_sigma, epochs=night.warps.epochs, psf_matched=twins,
    )  # fmt: skip
    config = gpucoadd.CoaddConfig.from_lsst({"warpType": "psfMatched"})
    result = gpucoadd.coadd(warps, config=config)
    assert tuple(epoch for epoch, _, _ in result.provenance["inputs"]) == result.epochs
