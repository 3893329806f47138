"""Per-epoch flux factors: float32 products of the same bits everywhere, computed when they are read."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_fits import write_afw
from test_selection import IDS, PLANES, same_coadd, stack
from test_streaming import write_stack

import gpucoadd
from gpucoadd import WarpStack, primitives
from gpucoadd.backend import to_device, to_host
from gpucoadd.fits import read_warps
from gpucoadd.memory import stack_device
from gpucoadd.psf import FWHM_PER_SIGMA
from gpucoadd.reading import read_epochs
from gpucoadd.simulate import simulate_night
from gpucoadd.sources import FitsSource

FACTORS = (0.9, 1.0, 1.0 / 3.0, 2.7182817, 1e-6, 1234.5)


def special_floats():
    """NaN with payloads, infinities, zeros, numbers that become subnormal or infinite, and subnormal ones."""
    bits = [0x7FC00001, 0xFFC12345, 0x7F800000, 0xFF800000, 0, 0x80000000, 1, 0x807FFFFF, 0x00010203, 0x00900001]
    bits += [0x7F7FFFFF, 0x01234567, 0x3F800001, 0xBF7FFFFF]
    return np.array(bits, np.uint32).view(np.float32)


def product(plane, factor):
    """By definition, one number at a time: the exact product of two float32 in float64, rounded once."""
    with np.errstate(over="ignore"):
        products = [np.float32(float(value) * float(factor)) for value in plane.ravel()]
    return np.array(products, np.float32).reshape(plane.shape)


def same_bits(a, b):
    a, b = to_host(a), to_host(b)
    assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


# ------------------------------------------------------------------------------------------------ the product


@pytest.mark.parametrize("shape", [(1,), (255,), (257,), (3, 5, 17), (0, 4)])
@pytest.mark.parametrize("factor", [1.0 / 3.0, 3e-20, 1e20, 1.0])
def test_products_are_rounded_once(xp, shape, factor):
    host = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    host.reshape(-1)[: len(special_floats())] = special_floats()[: host.size]
    plane = xp.asarray(host)
    scaled = primitives.scale(plane, factor)
    assert isinstance(scaled, xp.ndarray) and scaled.dtype == np.float32
    same_bits(scaled, product(host, np.float32(factor)))
    same_bits(plane, host)
    assert primitives.scale(plane, factor, out=plane) is plane
    same_bits(plane, scaled)


def test_views_are_read_as_they_look(xp):
    host = np.random.default_rng(5).normal(size=(6, 20)).astype(np.float32)
    same_bits(primitives.scale(xp.asarray(host)[::2, 3:9], 0.7), product(host[::2, 3:9], np.float32(0.7)))


def test_only_float32_is_scaled(xp):
    with pytest.raises(TypeError, match="plane must be float32, got float64"):
        primitives.scale(xp.zeros(3), 2.0)


# ------------------------------------------------------------------------------------------------ stacks


def expected_planes(warps, factors):
    """Planes of every epoch, from the definition."""
    images, variances = [], []
    for epoch, factor in enumerate(np.float32(factors)):
        images.append(product(to_host(warps.image)[epoch], factor))
        variances.append(product(to_host(warps.variance)[epoch], factor * factor))
    return np.array(images), np.array(variances), to_host(warps.mask)


def same_stack(warps, expected):
    for name, planes in zip(PLANES, expected, strict=True):
        same_bits(getattr(warps, name), planes)


def test_image_variance_and_twins_are_scaled(xp):
    warps = stack(xp)
    before = [to_host(plane).copy() for plane in (warps.image, warps.variance, warps.psf_matched.image)]
    scaled = warps.scaled(FACTORS)
    assert (scaled.epochs, scaled.origin, scaled.unit, scaled.schema) == (IDS, (-3, 7), "adu", warps.schema)
    assert stack_device(scaled) == stack_device(warps)
    assert_array_equal(scaled.psf_sigma, warps.psf_sigma)
    same_stack(scaled, expected_planes(warps, FACTORS))
    assert scaled.psf_matched.epochs == warps.psf_matched.epochs == (16, 11, 12, 14)
    same_stack(scaled.psf_matched, expected_planes(warps.psf_matched, [FACTORS[i] for i in (5, 0, 1, 3)]))
    for plane, was in zip((warps.image, warps.variance, warps.psf_matched.image), before, strict=True):
        same_bits(plane, was)


def test_factors_by_id():
    warps = stack()
    by_id = dict(zip(reversed(IDS), reversed(FACTORS), strict=True))
    same_stack(warps.scaled({**by_id, 99: -1.0}), expected_planes(warps, FACTORS))  # 99 is of no concern
    same_stack(warps.scaled(np.array(FACTORS)), expected_planes(warps, FACTORS))


def test_factors_of_factors(xp):
    warps = stack(xp)
    once = expected_planes(warps, FACTORS)
    twice = WarpStack(*once, schema=warps.schema, psf_sigma=warps.psf_sigma)
    same_stack(warps.scaled(FACTORS).scaled([0.7] * 6), expected_planes(twice, [0.7] * 6))


@pytest.mark.parametrize("rows", [slice(0, 9), slice(2, 3), slice(4, 9), slice(3, 3)])
def test_bands(xp, rows):
    warps = stack(xp)
    scaled = warps.scaled(FACTORS)
    expected = expected_planes(warps, FACTORS)
    for epochs in ([0], [3, 1], list(range(6))):
        for plane, whole in zip(read_epochs(scaled, epochs, rows, threads=2), expected, strict=True):
            same_bits(plane, whole[epochs, rows])
    for plane, whole in zip(scaled.source.read(2, rows), expected, strict=True):
        same_bits(plane, whole[2, rows])


def test_selections_take_their_factors_along(xp):
    warps = stack(xp)
    expected = [planes[[3, 0, 5]] for planes in expected_planes(warps, FACTORS)]
    same_stack(warps.scaled(FACTORS).select([14, 11, 16]), expected)
    same_stack(warps.select([14, 11, 16]).scaled([FACTORS[3], FACTORS[0], FACTORS[5]]), expected)


# ------------------------------------------------------------------------------------------------ files and devices


def test_nothing_is_computed_before_it_is_asked_for(tmp_path, monkeypatch):
    for epoch in range(3):
        write_afw(tmp_path / f"{epoch}.fits", seed=epoch)
    warps = read_warps(tmp_path, device="cpu", psf_fwhm=2.0)
    asked = []
    read = FitsSource.read
    monkeypatch.setattr(FitsSource, "read", lambda self, epoch, rows: asked.append(epoch) or read(self, epoch, rows))
    scaled = warps.scaled([2.0, 3.0, 4.0])
    assert asked == [] and not scaled.source.in_memory and scaled.inputs == warps.inputs
    scaled.source.read(2, slice(0, 3))
    assert asked == [2]
    monkeypatch.undo()
    same_stack(scaled, expected_planes(warps, [2.0, 3.0, 4.0]))


def test_on_a_device_in_either_order(device):
    warps = stack()
    expected = expected_planes(warps, FACTORS)
    for scaled in (warps.scaled(FACTORS).to_device("cuda"), warps.to_device("cuda").scaled(FACTORS)):
        assert stack_device(scaled) == stack_device(scaled.psf_matched) == 0
        assert scaled.to_device("cuda:0") is scaled
        same_stack(scaled, expected)
        for epochs, rows in (([4, 2], slice(1, 8)), (range(6), slice(0, 9))):
            for plane, whole in zip(read_epochs(scaled, epochs, rows, threads=2), expected, strict=True):
                assert isinstance(plane, device.ndarray)
                same_bits(plane, whole[list(epochs), rows])


@pytest.mark.parametrize("compression", [None, "GZIP_2"])
def test_files_on_a_device_have_the_bits_of_the_host(device, tmp_path, compression):
    for epoch in range(4):
        write_afw(tmp_path / f"{epoch}.fits", seed=epoch, compression=compression)
    factors = [0.3, 1e-20, 7.1, 1.0]
    host = read_warps(tmp_path, device="cpu", psf_fwhm=2.0).scaled(factors)
    for there in (
        read_warps(tmp_path, device="cuda", psf_fwhm=2.0).scaled(factors),
        read_warps(tmp_path, device="cpu", psf_fwhm=2.0).scaled(factors).to_device("cuda"),
    ):
        for mine, theirs in zip(
            read_epochs(there, [2, 1, 3], slice(3, 30)), read_epochs(host, [2, 1, 3], slice(3, 30)), strict=True
        ):
            same_bits(mine, theirs)


@pytest.fixture(scope="module")
def night():
    """Warps whose calibration went astray, the factors that mend it, and the coadd of the mended arrays."""
    warps = simulate_night(n_epochs=5, shape=(96, 101), seed=6).warps
    factors = np.array([0.5, 0.77, 1.0, 1.9, 1.2], np.float32)
    cube = factors[:, None, None]

    def mended(some, matched=None):
        planes = (some.image * cube, some.variance * (cube * cube), some.mask)
        common = {"schema": some.schema, "psf_sigma": some.psf_sigma, "epochs": some.epochs}
        return WarpStack(*planes, psf_matched=matched, **common)

    direct = mended(warps, mended(warps.psf_matched))
    return warps, factors, direct, gpucoadd.coadd(direct)


@pytest.mark.parametrize(("memory", "threads"), [(None, 1), (None, 2), (1, 2), (40_000_000, 1)])
def test_coadds_are_those_of_the_scaled_arrays(night, memory, threads):
    warps, factors, _, expected = night
    same_coadd(gpucoadd.coadd(warps.scaled(factors), memory=memory, threads=threads), expected)


@pytest.mark.parametrize("memory", [None, 1])
def test_coadds_from_files(night, tmp_path, memory):
    warps, factors, _, expected = night
    folders = [write_stack(tmp_path / name, some) for name, some in (("a", warps), ("b", warps.psf_matched))]
    sigma = warps.psf_matched.psf_sigma * FWHM_PER_SIGMA
    files = read_warps(folders[0], psf_matched=folders[1], device="cpu", psf_fwhm=sigma)
    same_coadd(gpucoadd.coadd(files.scaled(factors), memory=memory, threads=2), expected)


@pytest.mark.parametrize("memory", [None, 1])
def test_coadds_on_a_device(device, night, memory):
    warps, factors, direct, _ = night
    expected = gpucoadd.coadd(direct.to_device("cuda"))

    def there(some, matched=None):
        planes = {name: to_device(getattr(some, name)) for name in PLANES}
        return WarpStack(
            **planes, schema=some.schema, psf_sigma=some.psf_sigma, epochs=some.epochs, psf_matched=matched
        )

    arrays = there(warps, there(warps.psf_matched))
    before = to_host(arrays.image)
    for scaled in (
        warps.scaled(factors).to_device("cuda"),
        warps.to_device("cuda").scaled(factors),
        arrays.scaled(factors),
    ):
        same_coadd(gpucoadd.coadd(scaled, memory=memory, threads=2), expected)
    same_bits(arrays.image, before)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, 1e-30, 1e25, 1e60, "much", None])
def test_what_is_no_factor(bad):
    with pytest.raises(ValueError, match=r"the factor of epoch 13 must be positive and finite, .* got "):
        stack().scaled([1.0, 1.0, bad, 1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="the factor of epoch 13 must be positive and finite"):
        stack().scaled({**dict.fromkeys(IDS, 2.0), 13: bad})


@pytest.mark.parametrize("factors", [2.0, None, [[1.0] * 6]])
def test_one_number_for_all_is_not_enough(factors):
    with pytest.raises(ValueError, match="factors must be one number for each epoch, or a mapping of ids, got"):
        stack().scaled(factors)


def test_every_epoch_needs_a_factor():
    with pytest.raises(ValueError, match="factors has 5 numbers but there are 6 epochs; give one for each"):
        stack().scaled([1.0] * 5)
    with pytest.raises(ValueError, match="factors has none for epoch 12, 14; every epoch of the stack needs one"):
        stack().scaled(dict.fromkeys((11, 13, 15, 16, 99), 1.0))


def test_twins_of_no_epoch_need_no_factor():
    night = simulate_night(n_epochs=4, shape=(96, 96), seed=2)
    whole = night.warps
    planes = [plane[:3] for plane in (whole.image, whole.variance, whole.mask)]
    fewer = WarpStack(
        *planes, schema=whole.schema, psf_sigma=whole.psf_sigma[:3], epochs=whole.epochs[:3], psf_matched=night.twins
    )
    scaled = fewer.scaled(dict.fromkeys(whole.epochs, 2.0))
    assert scaled.psf_matched.epochs == whole.epochs[:3]
    assert_array_equal(scaled.psf_matched.image, 2 * night.twins.image[:3])
