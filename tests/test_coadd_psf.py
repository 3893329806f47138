"""The PSF of a coadd, and what it knows of its epochs."""

from __future__ import annotations

import math
import pickle
import warnings

import goldens
import hostcuda
import numpy as np
import pytest
import standin
from astropy.io import fits
from astropy.table import Table
from numpy.testing import assert_allclose, assert_array_equal
from scenes import PLANES, SCHEMA, from_image, random_sky
from test_coaddition import Slow, busy_stack

import gpucoadd
from gpucoadd import AssemblyConfig, CoaddConfig, Psf, WarpStack
from gpucoadd.backend import array_module, to_host
from gpucoadd.fits import find_stamp, read_warps
from gpucoadd.planes import BitPlanes
from gpucoadd.psf import FWHM_PER_SIGMA, adaptive_moments
from gpucoadd.simulate import simulate_night

SIDE, HALF = 41, 20
N_EPOCHS = 12
# Of a planted star: each sample, each weight, their ratio and the coadd are rounded to float32; nothing cancels.
FLOAT32 = 4 * 2.0**-24
BAD, NO_DATA, CLIPPED = (SCHEMA.with_planes("CLIPPED").bitmask(plane) for plane in ("BAD", "NO_DATA", "CLIPPED"))


def moffat(fwhm, side=SIDE):
    y, x = np.mgrid[:side, :side] - side // 2
    stamp = (1 + (y**2 + x**2) / (fwhm / 2) ** 2 * (2 ** (1 / 3) - 1)) ** -3
    return stamp / stamp.sum()


PSFS = np.stack([moffat(fwhm) for fwhm in np.linspace(3, 6, N_EPOCHS)])
SKY = np.random.default_rng(0).uniform(1.0, 4.0, N_EPOCHS)
STAR, ELSEWHERE = (130, -20), (175, 25)  # parent coordinates
ORIGIN = (100, -50)


def planted(missing=(), flux=1.0, xp=np, shape=(80, 80)):
    """
    A star in the middle of empty sky, seen by twelve epochs whose seeing and sky differ.

    `missing`: (epochs, condition on the offsets from the star) of the pixels that are BAD.
    """
    image = np.zeros((N_EPOCHS, *shape), np.float32)
    y0, x0 = STAR[0] - ORIGIN[0], STAR[1] - ORIGIN[1]
    image[:, y0 - HALF : y0 + HALF + 1, x0 - HALF : x0 + HALF + 1] = flux * PSFS
    mask = np.zeros(image.shape, np.int32)
    dy, dx = np.mgrid[: shape[0], : shape[1]] - np.array([y0, x0])[:, None, None]
    near = np.maximum(abs(dy), abs(dx)) <= HALF  # the rest of the image is complete
    for epochs, condition in missing:
        mask[epochs] |= np.where(condition(dy, dx) & near, BAD, 0).astype(np.int32)
    variance = np.broadcast_to(SKY.astype(np.float32)[:, None, None], image.shape).copy()
    planes = (xp.asarray(plane) for plane in (image, variance, mask))
    return WarpStack(*planes, schema=SCHEMA, psfs=PSFS, origin=ORIGIN)


def mean_of(warps, *, statistic="MEAN", warp_type="direct", **options):
    return gpucoadd.assemble(warps, config=AssemblyConfig(statistic=statistic, warp_type=warp_type), **options)


def flux_bias(psf, coadd, flux=1.0):
    """Relative error of the flux that a PSF finds, in per cent."""
    y, x = STAR[0] - ORIGIN[0], STAR[1] - ORIGIN[1]
    star = to_host(coadd.image)[y - HALF : y + HALF + 1, x - HALF : x + HALF + 1].astype(np.float64)
    psf = to_host(psf)
    return 100 * ((psf * star).sum() / (psf**2).sum() / flux - 1)


def everywhere(dy, dx):
    return dy == dy


def core(dy, dx):
    return dy**2 + dx**2 < 9


CASES = {  # missing pixels; bias in per cent of one mean PSF for the whole image, and of `psf`
    "all epochs": ((), 0.0, 0.0),
    "without the six widest": (((slice(6, 12), everywhere),), 18.0, 0.0),
    "without the six sharpest": (((slice(0, 6), everywhere),), -22.9, 0.0),
    "the sharpest clipped in the core": (((0, core),), -2.6, -0.26),
    "the widest clipped in the core": (((11, core),), 6.7, 0.27),
    "a trail beside the centre": (((3, lambda dy, dx: abs(dx - 2) < 2),), -0.75, -0.75),
    "an edge across the star": (((slice(0, 4), lambda dy, dx: dx >= 2),), -0.31, -0.31),
}


@pytest.mark.parametrize("case", CASES)
def test_flux_of_a_planted_star(xp, case):
    missing, with_mean, with_psf = CASES[case]
    coadd = mean_of(planted(missing, flux=1000.0, xp=xp))
    mean, psf, exact = coadd.psf(*ELSEWHERE), coadd.psf(*STAR), coadd.psf(*STAR, exact=True)
    digits = 0.5 if abs(with_mean) > 1 else 0.05  # as many as are given
    assert flux_bias(mean, coadd, 1000.0) == pytest.approx(with_mean, abs=0.1 * digits + 100 * FLOAT32)
    assert flux_bias(psf, coadd, 1000.0) == pytest.approx(with_psf, abs=0.005 + 100 * FLOAT32)
    assert abs(flux_bias(exact, coadd, 1000.0)) <= 100 * FLOAT32
    assert float(psf.sum()) == pytest.approx(1.0, abs=1e-13)


def test_worked_numbers():
    """Widths of the mean PSF with all epochs and with half of them; the sum of an exact one that lost a sharp core."""
    missing = {"all epochs": 4.654, "without the six widest": 4.048, "without the six sharpest": 6.109}
    for case, fwhm in missing.items():
        stamp = mean_of(planted(CASES[case][0])).psf(*STAR)
        assert FWHM_PER_SIGMA * adaptive_moments(stamp)[0] == pytest.approx(fwhm, abs=5.1e-4)
    coadd = mean_of(planted(CASES["the sharpest clipped in the core"][0]))
    assert coadd.psf(*STAR, exact=True).sum() == pytest.approx(0.9872, abs=5.1e-5)


def test_a_star_under_a_clipped_trail(xp):
    """Through the whole artifact search: the trail goes, and the exact PSF knows that it took some epochs' light."""
    direct = planted(flux=1000.0, xp=xp)
    image = to_host(direct.image).copy()
    twin = np.zeros_like(image)
    twin += 1000 * np.pad(moffat(8.0), ((10, 29), (10, 29)))
    dx = np.arange(80) - 32
    for plane in (image, twin):
        plane[0] += np.where(abs(dx) < 3, 500, 0)
    common = {"schema": SCHEMA, "origin": ORIGIN}
    others = direct.variance, direct.mask
    matched = WarpStack(xp.asarray(twin), *others, psf_sigma=[3.5] * N_EPOCHS, **common)
    coadd = gpucoadd.coadd(WarpStack(xp.asarray(image), *others, psfs=PSFS, psf_matched=matched, **common))
    clipped, contributed = to_host(coadd.clipped), to_host(coadd.contributed)
    assert clipped[0, 10:51, 30:35].all() and not clipped[1:].any()
    assert_array_equal(contributed, ~clipped)
    psf, exact = coadd.psf(*STAR), coadd.psf(*STAR, exact=True)
    assert abs(flux_bias(exact, coadd, 1000.0)) <= 100 * FLOAT32
    assert abs(flux_bias(psf, coadd, 1000.0)) < 2 < abs(flux_bias(coadd.psf(*ELSEWHERE), coadd, 1000.0))
    assert_allclose(to_host(coadd.psf(*ELSEWHERE)), np.average(PSFS, axis=0, weights=1 / SKY), rtol=1e-6)


# ------------------------------------------------------------------------------------------------ who contributed


SEARCHES = [
    {},
    {"doOnlineForMean": True},
    {"badMaskPlanes": ["NO_DATA", "BAD", "SAT", "EDGE"], "removeMaskPlanes": ["SAT"]},
    {"badMaskPlanes": ["BAD"], "statistic": "MEANCLIP"},
]


@pytest.mark.parametrize(("seed", "overrides"), list(enumerate(SEARCHES)))
def test_what_the_stack_used(xp, seed, overrides):
    """The masks of the final stack, pixel by pixel, say who contributed; the packed bits and INEXACT_PSF agree."""
    golden = goldens.Golden("random", {"mask_planes": PLANES}, random_sky(40 + seed, n_epochs=6, size=(37, 67)))
    config = CoaddConfig.from_lsst(overrides)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing twins
        coadd = gpucoadd.coadd(goldens.warp_stack(golden, xp.asarray), config=config)
    reject = config.stacking.reject
    clipped, no_data, edge = (to_host(getattr(coadd, name)) for name in ("clipped", "no_data", "edge"))
    bit = {plane: 1 << number for plane, number in PLANES.items()}
    expected, has_data = np.zeros(clipped.shape, bool), np.zeros(clipped.shape, bool)
    for kept, epoch in enumerate(coadd.epochs):
        for y, x in np.ndindex(coadd.shape):
            mask, value = int(golden["in_mask"][epoch, y, x]), golden["in_image"][epoch, y, x]
            names = {plane for plane in PLANES if mask & bit[plane]}
            if no_data[kept, y, x]:
                names = names - (set(reject) if "NO_DATA" in reject else set()) | {"NO_DATA"}
            names |= {"EDGE"} if edge[kept, y, x] else set()
            names |= {"CLIPPED"} if clipped[kept, y, x] else set()
            names -= set(config.stacking.remove)
            expected[kept, y, x] = not names & {*reject, "CLIPPED"} and math.isfinite(value)
            has_data[kept, y, x] = "NO_DATA" not in names and math.isfinite(value)
    contributed = to_host(coadd.contributed)
    assert contributed.dtype == bool and 0.3 < expected.mean() < 0.99
    assert_array_equal(contributed, expected)
    inexact = to_host(coadd.mask) & coadd.schema.bitmask("INEXACT_PSF", "NO_DATA") != 0
    lost = (has_data & ~contributed).any(axis=0)
    assert lost.any() and not (lost & ~inexact).any()
    nobody = ~contributed.any(axis=0)
    assert (to_host(coadd.mask)[nobody] & coadd.schema.bitmask("NO_DATA") != 0).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_inexact_psf_on_a_night(seed):
    """Where all flags are off, the epochs that did not contribute have no data."""
    night = simulate_night(n_epochs=8, shape=(128, 128), seed=seed).warps
    coadd = gpucoadd.coadd(night)
    inexact = coadd.mask & coadd.schema.bitmask("INEXACT_PSF") != 0
    empty = coadd.no_data | (night.mask & SCHEMA.bitmask("NO_DATA") != 0) | ~np.isfinite(night.image)
    missing = ~coadd.contributed
    assert missing.any() and (missing & ~empty).any()
    assert not (missing & ~empty & ~inexact).any()


def test_n_image_is_their_number():
    warps = busy_stack()
    for made in (gpucoadd.coadd(warps), mean_of(warps)):
        assert_array_equal(made.contributed.sum(axis=0), made.n_image)  # no sample that is not finite is without a flag
    with pytest.raises(AttributeError, match="the template of a coadd does not keep which epochs contributed"):
        gpucoadd.coadd(warps).template.contributed  # noqa: B018


def test_bits(xp):
    rng = np.random.default_rng(4)
    flags, others = rng.random((2, 5, 7, 65)) < 0.4
    planes, rest = (BitPlanes(flags.shape, xp) for _ in range(2))
    for bits, values in ((planes, flags), (rest, others)):
        bits.words[...] = xp.asarray(gpucoadd.fallback.as_words(values))
    assert_array_equal(planes.counts(), flags.sum(axis=(1, 2)))
    assert_array_equal(to_host(planes.without(rest).all_planes()), flags & ~others)
    assert_array_equal(planes.without(rest).counts(), (flags & ~others).sum(axis=(1, 2)))
    full = BitPlanes((2, 3, 64), xp)
    full.fill(1)
    assert full.counts().tolist() == [0, 192]
    y, x = rng.integers(7, size=20), rng.integers(65, size=20)
    assert_array_equal(planes.at(y, x), flags[:, y, x])
    assert_array_equal(to_host(planes.all_planes()), flags)


# ------------------------------------------------------------------------------------------------ against loops


def patchwork(xp=np, **options):
    """Five epochs full of holes, with PSFs of all kinds; their stamps by a function of epoch, y, x."""
    rng = np.random.default_rng(7)
    image = rng.normal(size=(5, 30, 41)).astype(np.float32)
    mask = np.where(rng.random(image.shape) < 0.3, BAD, 0).astype(np.int32)
    image[2, 3:9, 33:] = np.nan
    mask[:, 20:24, 10:15] = BAD
    y, x = np.mgrid[-3:4, -3:4]
    varies = np.stack([np.exp(-(y**2 + x**2) / 6), 0.1 * np.exp(-(y**2) / 4), 0.05 * np.exp(-((x - 1) ** 2) / 3)])
    small, wide = rng.random((5, 5)) + 0.1, rng.random((9, 9)) + 0.1
    powers = np.stack([wide, 0.001 * wide[::-1], 0.002 * wide[:, ::-1]])
    psfs = [varies, small, None, Psf(wide), Psf(powers, kind="polynomial")]
    variance = np.broadcast_to(np.float32([1, 2, 4, 3, 5])[:, None, None], image.shape).copy()
    planes = (xp.asarray(plane) for plane in (image, variance, mask))
    common = {"schema": SCHEMA, "psf_sigma": [1, 1, 0.8, 1, 1], "psfs": psfs, "origin": (-7, 30), **options}

    def stamp(epoch, y, x):
        u, v = (2 * x - 29.5 - 70.5) / 41, (2 * y + 7.5 - 22.5) / 30
        out = np.zeros((9, 9))
        if epoch == 0:
            out[1:-1, 1:-1] = varies[0] + u * varies[1] + v * varies[2]
        elif epoch == 1:
            out[2:-2, 2:-2] = small
        elif epoch == 2:
            dy, dx = np.mgrid[-4:5, -4:5]
            out = np.exp(-(dy**2 + dx**2) / (2 * 0.8**2))
        else:
            out = wide if epoch == 3 else powers[0] + x * powers[1] + y * powers[2]
        return out / out.sum()

    return WarpStack(*planes, **common), stamp


def by_loops(coadd, stamp, y, x, exact):
    contributed = to_host(coadd.contributed)
    row, column = math.floor(y + 0.5) - coadd.origin[0], math.floor(x + 0.5) - coadd.origin[1]
    out = np.full((9, 9), np.nan)
    for i in range(9):
        for j in range(9):
            at = (row + i - 4, column + j - 4) if exact else (row, column)
            if not (0 <= at[0] < contributed.shape[1] and 0 <= at[1] < contributed.shape[2]):
                continue
            members = [epoch for epoch in range(5) if contributed[epoch, at[0], at[1]]]
            if members:
                total = sum(coadd.weights[epoch] for epoch in members)
                out[i, j] = sum(coadd.weights[epoch] * stamp(epoch, y, x)[i, j] for epoch in members) / total
    return out


POSITIONS = ([-7.0, -7.5, 22.4, 5.0, 5.5, 12.3, 12.49, 8.0], [30.0, 29.5, 70.4, 50.0, 49.5, 38.2, 44.7, 63.0])


@pytest.mark.parametrize("exact", [False, True])
def test_psf_equals_loops(xp, exact):
    warps, stamp = patchwork(xp)
    coadd = mean_of(warps)
    ys, xs = POSITIONS
    found = coadd.psf(ys, xs, exact=exact)
    assert array_module(found) is xp and found.shape == (8, 9, 9) and found.dtype == np.float64
    expected = np.stack([by_loops(coadd, stamp, y, x, exact) for y, x in zip(ys, xs, strict=True)])
    assert np.isnan(expected).any() == exact
    assert_allclose(to_host(found), expected, rtol=1e-12, atol=1e-16)
    one = coadd.psf(ys[4], xs[4], exact=exact)
    assert one.shape == (9, 9)
    assert_allclose(to_host(one), expected[4], rtol=1e-12, atol=1e-16)
    assert coadd.psf([], [], exact=exact).shape == (0, 9, 9)


def test_batches_do_not_show(monkeypatch):
    coadd = mean_of(patchwork()[0])
    whole = coadd.psf(*POSITIONS, exact=True)
    monkeypatch.setattr("gpucoadd.contributors._BATCH_BYTES", 2 * 5 * 81 * 32)
    assert_array_equal(coadd.psf(*POSITIONS, exact=True), whole)


@pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)
def test_few_waits_and_launches_for_many_positions():
    with standin.installed() as cupy:
        _check_few_waits(mean_of(patchwork(cupy)[0]))


def _check_few_waits(coadd):
    rng = np.random.default_rng(3)
    full = np.argwhere(to_host(coadd.contributed).any(axis=0)) + np.array(coadd.origin)
    y, x = full[rng.integers(len(full), size=500)].T
    coadd.psf(y, x)
    standin.reset()
    coadd.psf(y, x)
    coadd.psf(y, x, exact=True)
    assert standin.host_reads <= 2 and standin.hidden_waits == 0
    assert standin.launches <= 60


def test_epoch_means(xp):
    tables = np.arange(5 * 2 * 3.0).reshape(5, 2, 3) ** 2
    coadd = mean_of(patchwork(xp, epoch_values={"scale": [1, 2, 3, 5, 8], "table": tables})[0])
    ys, xs = POSITIONS
    scale, table = coadd.epoch_mean("scale", ys, xs), coadd.epoch_mean("table", ys, xs)
    assert scale.shape == (8,) and table.shape == (8, 2, 3)
    contributed = to_host(coadd.contributed)
    for n, (y, x) in enumerate(zip(ys, xs, strict=True)):
        used = contributed[:, math.floor(y + 0.5) + 7, math.floor(x + 0.5) - 30]
        weights = np.where(used, coadd.weights, 0)
        assert scale[n] == pytest.approx(np.average([1, 2, 3, 5, 8], weights=weights), rel=1e-14)
        assert_allclose(table[n], np.average(tables, axis=0, weights=weights), rtol=1e-14)
    one = coadd.epoch_mean("scale", ys[2], xs[2])
    assert isinstance(one, float) and one == pytest.approx(scale[2], rel=1e-14)
    assert coadd.epoch_mean("table", ys[2], xs[2]).shape == (2, 3)
    with pytest.raises(KeyError, match="no epoch values 'scales'; the warps have 'scale', 'table'"):
        coadd.epoch_mean("scales", 0, 40)
    with pytest.raises(KeyError, match=r"no epoch values 'a'; the warps have none; give WarpStack"):
        mean_of(patchwork(xp)[0]).epoch_mean("a", 0, 40)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("y", "x", "message"),
    [
        (-7.6, 40, r"\(y, x\) = \(-7.6, 40.0\) is outside of the coadd, whose 30 x 41 pixels begin at \(-7, 30\)"),
        (22.5, 40, r"= \(22.5, 40.0\) is outside"),
        (0, 29.4, r"= \(0.0, 29.4\) is outside"),
        (0, 70.5, r"= \(0.0, 70.5\) is outside"),
        (np.nan, 40, r"= \(nan, 40.0\) is outside"),
        (0, np.inf, r"= \(0.0, inf\) is outside"),
        ([0, 99, 99], [40, 41, 42], r"= \(99.0, 41.0\) is outside of the coadd \(and 1 more\)"),
        (13.6, 44.4, r"no epoch contributed at \(y, x\) = \(13.6, 44.4\)$"),
        ([0, 14, 14], [40, 41, 42], r"no epoch contributed at \(y, x\) = \(14.0, 41.0\) \(and 1 more\)"),
        ([0, 1], 40, r"y has shape \(2,\) and x \(\)"),
    ],
)
def test_wrong_positions(y, x, message, exact):
    coadd = mean_of(patchwork(epoch_values={"a": np.ones(5)})[0])
    with pytest.raises(ValueError, match=message):
        coadd.psf(y, x, exact=exact)
    with pytest.raises(ValueError, match=message):
        coadd.epoch_mean("a", y, x)


def test_other_statistics_have_no_linear_psf():
    warps, _ = patchwork()
    mean, median = (mean_of(warps, statistic=word) for word in ("MEAN", "MEDIAN"))
    with pytest.raises(ValueError, match="a coadd with the statistic MEDIAN has no exact PSF"):
        median.psf(5, 50, exact=True)
    with pytest.warns(UserWarning, match="the statistic of this coadd is MEDIAN: .* only near its own") as caught:
        stamp = median.psf(5, 50)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert_array_equal(stamp, mean.psf(5, 50))


def test_widths_that_are_not_known():
    image = np.zeros((3, 8, 9), np.float32)
    coadd = mean_of(from_image(image, twins=False, psf_sigma=[1.0, np.nan, 2.0], epochs=[5, "night", 7]))
    for exact in (False, True):
        with pytest.raises(ValueError, match="the PSF of epoch 'night' is not known, its psf_sigma is nan; make the"):
            coadd.psf(4, 4, exact=exact)
    assert coadd.inputs["epoch"].tolist() == ["5", "night", "7"]


def test_gaussians_stand_in():
    coadd = mean_of(from_image(np.zeros((2, 60, 60), np.float32), twins=False, psf_sigma=[2.0, 3.0]))
    expected = (np.pad(Psf.gaussian(2.0).at(0, 0), 5) + Psf.gaussian(3.0).at(0, 0)) / 2
    assert_allclose(coadd.psf(30, 30), expected, rtol=1e-13)


# ------------------------------------------------------------------------------------------------ which epochs


def test_dropped_epochs_and_ids_stay_in_step():
    """The epoch in the middle is dropped; PSFs, widths and values of the others keep their places."""
    image = np.zeros((3, 60, 60), np.float32)
    image[1] = np.nan
    psfs = [Psf.gaussian(sigma) for sigma in (1.5, 2.0, 3.0)]
    warps = from_image(
        image, twins=False, psf_sigma=None, psfs=psfs, epochs=[30, 10, 20], epoch_values={"a": [1, 2, 4]}
    )
    coadd = mean_of(warps)
    assert coadd.epochs == (30, 20) and coadd.psf_sigma == pytest.approx(3.0, abs=1e-5)
    assert coadd.inputs["epoch"].tolist() == [30, 20]
    assert coadd.inputs["psf_sigma"] == pytest.approx([1.5, 3.0], abs=1e-5)
    assert coadd.epoch_mean("a", 30, 30) == 2.5
    expected = (np.pad(psfs[0].at(0, 0), 7) + psfs[2].at(0, 0)) / 2
    assert_allclose(coadd.psf(30, 30), expected, rtol=1e-13)


def test_psf_matched_coadds_have_the_psfs_of_the_twins():
    image = np.zeros((4, 60, 60), np.float32)
    twins = from_image(image[:2], twins=False, epochs=[3, 1], psfs=[Psf.gaussian(2.0), None], sigma=3.0)
    direct = from_image(image, twins=False)
    warps = direct.with_source(direct.source, psf_matched=twins)
    config = CoaddConfig.from_lsst({"warpType": "psfMatched"})
    coadd = gpucoadd.coadd(warps, config=config)
    expected = (np.pad(Psf.gaussian(2.0).at(0, 0), 5) + Psf.gaussian(3.0).at(0, 0)) / 2
    assert coadd.epochs == (3, 1)
    assert_allclose(coadd.psf(30, 30), expected, rtol=1e-13)
    plain = mean_of(warps, warp_type="psfMatched")
    assert_allclose(plain.psf(30, 30), expected, rtol=1e-13)


@pytest.mark.parametrize("memory", [1, None])
def test_files_and_bounds_keep_them(memory):
    warps, _ = patchwork(epoch_values={"a": [1, 2, 3, 4, 5]})
    lazy = warps.with_source(Slow(warps))
    whole, found = mean_of(warps), mean_of(lazy, memory=memory)
    assert_array_equal(found.contributed, whole.contributed)
    for exact in (False, True):
        assert_array_equal(found.psf(*POSITIONS, exact=exact), whole.psf(*POSITIONS, exact=exact))
    assert_array_equal(found.epoch_mean("a", *POSITIONS), whole.epoch_mean("a", *POSITIONS))


def test_from_host_memory_to_a_device(device):
    warps, _ = patchwork(epoch_values={"a": [1, 2, 3, 4, 5]})
    whole, there = mean_of(warps), mean_of(warps.to_device("cuda"))
    assert isinstance(there.contributed, device.ndarray)
    assert_array_equal(to_host(there.contributed), whole.contributed)
    for exact in (False, True):
        found = there.psf(*POSITIONS, exact=exact)
        assert isinstance(found, device.ndarray)
        assert_allclose(to_host(found), whole.psf(*POSITIONS, exact=exact), rtol=1e-12, atol=1e-16)
    assert_allclose(there.epoch_mean("a", *POSITIONS), whole.epoch_mean("a", *POSITIONS), rtol=1e-12)


# ------------------------------------------------------------------------------------------------ table and files


def test_inputs(xp):
    night = busy_stack()
    image, mask = night.image.copy(), night.mask.copy()
    image[3, 2:8, 20:60] += 40  # grown, it reaches into the rows without data
    config = CoaddConfig.from_lsst({"detect.nSigmaToGrow": 3.0})
    coadd = gpucoadd.coadd(from_image(image, mask=mask, xp=xp), config=config)
    table = coadd.inputs
    assert isinstance(table, Table)
    assert table.colnames == ["epoch", "weight", "psf_sigma", "fraction_clipped", "input"]
    assert table["epoch"].tolist() == list(coadd.epochs) and table["input"].tolist() == [""] * 9
    assert_array_equal(table["weight"], coadd.weights)
    assert str(table["weight"].unit) == "1 / nJy2" and str(table["psf_sigma"].unit) == "pix"
    clipped, no_data = to_host(coadd.clipped), to_host(coadd.no_data)
    assert (clipped & no_data).any()
    shares = [(clip & ~gone).sum() / (~gone).sum() for clip, gone in zip(clipped, no_data, strict=True)]
    assert_array_equal(table["fraction_clipped"], shares)
    assert max(shares) > 0.02 > min(shares)
    assert np.isnan(mean_of(night).inputs["fraction_clipped"]).all()


def test_inputs_name_their_files(tmp_path):
    warps, _ = patchwork()
    for epoch in (0, 1):
        planes = {name: getattr(warps, name)[epoch] for name in ("image", "variance", "mask")}
        gpucoadd.fits.write_planes(tmp_path / f"{epoch}.fits", **planes, schema=SCHEMA, origin=(0, 0), unit="nJy")
    files = [str(tmp_path / name) for name in ("0.fits", "1.fits")]
    coadd = mean_of(read_warps(files, device="cpu", psf_fwhm=3.0))
    assert coadd.inputs["input"].tolist() == files and coadd.inputs["epoch"].tolist() == ["0", "1"]


def test_an_epoch_without_a_twin_has_no_share():
    image = np.zeros((4, 40, 48), np.float32)
    direct = from_image(image, twins=False)
    warps = direct.with_source(direct.source, psf_matched=from_image(image[:3], twins=False))
    shares = gpucoadd.coadd(warps).inputs["fraction_clipped"]
    assert shares[:3].tolist() == [0, 0, 0] and np.isnan(shares[3])


@pytest.mark.parametrize(
    ("unit", "found", "written"),
    [
        ("nJy", "1 / nJy2", "nJy-2"),
        ("electron / s", "s2 / electron2", "s2 / electron2"),
        ("blorps", "None", None),
        (None, "None", None),
    ],
)
def test_units_of_weights(tmp_path, unit, found, written):
    coadd = mean_of(from_image(np.zeros((2, 9, 9), np.float32), twins=False, unit=unit))
    assert str(coadd.inputs["weight"].unit) == found
    coadd.write(tmp_path / "coadd.fits")
    header = fits.getheader(tmp_path / "coadd.fits", "INPUTS")
    assert (header["TTYPE2"], header.get("TUNIT2"), header["TUNIT3"]) == ("weight", written, "pix")


def test_written_and_read_again(xp, tmp_path):
    path = tmp_path / "coadd.fits"
    coadd = mean_of(patchwork(xp)[0])
    coadd.write(path)
    with fits.open(path) as file:
        assert [hdu.name for hdu in file[1:]] == ["IMAGE", "MASK", "VARIANCE", "NIMAGE", "PSF", "INPUTS"]
        stamp, header = file["PSF"].data.astype(np.float64), file["PSF"].header
    at = header["PSFY"], header["PSFX"]
    assert at == (7, 50)  # the middle of rows -7 to 22 and columns 30 to 70
    assert_array_equal(stamp, to_host(coadd.psf(*at)))
    table = Table.read(path, hdu="INPUTS")
    for name in ("epoch", "weight", "psf_sigma"):
        assert_array_equal(table[name], coadd.inputs[name])
    assert str(table["weight"].unit) == "1 / nJy2"

    assert_array_equal(find_stamp(path, "PSF"), stamp)
    again = read_warps(path, device="cpu")
    assert_allclose(again.psfs[0].at(0, 0), stamp, rtol=1e-15)
    assert again.psf_sigma[0] == pytest.approx(adaptive_moments(stamp)[0])


def test_a_hole_in_the_middle(tmp_path):
    mask = np.zeros((2, 21, 31), np.int32)
    mask[:, 4:13, 5:19] = BAD  # the middle is (10, 15): the nearest pixel is three rows on
    coadd = mean_of(from_image(np.zeros(mask.shape, np.float32), mask=mask, psfs=PSFS[:2], origin=(50, -9)))
    coadd.write(tmp_path / "coadd.fits")
    header = fits.getheader(tmp_path / "coadd.fits", "PSF")
    assert (header["PSFY"], header["PSFX"]) == (63, 6)


@pytest.mark.parametrize("why", ["no PSF was given", "no epoch contributed", "a width is not known"])
def test_no_psf_to_write(tmp_path, caplog, why):
    mask = np.zeros((2, 9, 9), np.int32)
    options = {"psfs": PSFS[:2]}
    if why == "no PSF was given":
        options = {}
    elif why == "a width is not known":
        options = {"psfs": [PSFS[0], None], "psf_sigma": [1.0, np.nan]}
    else:
        mask[0, :5] = mask[1, 5:] = BAD
    image = np.zeros(mask.shape, np.float32)
    image[0, 5:] = image[1, :5] = np.nan if why == "no epoch contributed" else 0
    coadd = mean_of(from_image(image, mask=mask, **options))
    assert coadd.contributed.any() == (why != "no epoch contributed")
    coadd.write(tmp_path / "coadd.fits")
    with fits.open(tmp_path / "coadd.fits") as file:
        assert [hdu.name for hdu in file[4:]] == ["NIMAGE", "INPUTS"]
    assert ("no PSF is written: the PSF of epoch 1 is not known" in caplog.text) == (why == "a width is not known")


def test_the_psf_of_a_median_is_written_without_a_word(tmp_path):
    coadd = mean_of(patchwork()[0], statistic="MEDIAN")
    coadd.write(tmp_path / "coadd.fits")
    assert fits.getheader(tmp_path / "coadd.fits", "PSF")["NAXIS1"] == 9


def test_in_a_decorrelation():
    """A coadd's PSF, and one that varies, can be that of a template."""
    coadd = mean_of(patchwork()[0])
    field = Psf(np.stack([moffat(3.0, 7), 0 * moffat(3.0, 7), 0 * moffat(3.0, 7)]), range=(30, -7, 70, 22))
    kernel = np.zeros((3, 3))
    kernel[1, 1] = 1
    kernel[1, 2] = 0.3
    results = [
        gpucoadd.decorrelate(coadd, coadd, coadd, kernel, science_psf=psf, science_variance=1.0, template_variance=1.0)
        for psf in (field, moffat(3.0, 7))
    ]
    assert_allclose(results[0].psf, results[1].psf, rtol=1e-12, atol=1e-15)


def test_a_coadd_can_be_pickled():
    coadd = mean_of(patchwork()[0])
    coadd.psf(5, 50)
    again = pickle.loads(pickle.dumps(coadd))
    assert_array_equal(again.psf(5, 50, exact=True), coadd.psf(5, 50, exact=True))
