"""Trails in a coadd: found in one epoch, voted on by the others, clipped; and LSST's rules for their masks."""

import goldens
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import ndimage

import gpucoadd
from gpucoadd import CoaddConfig, LsstStreaks, MaskSchema, StreakConfig, WarpStack
from gpucoadd.line_votes import Votes
from gpucoadd.streak_masking import count_votes, outside_sources

SHAPE, N_EPOCHS, PSF = (200, 260), 7, 2.0
SCHEMA = MaskSchema.lsst().with_planes("INEXACT_PSF")
CONFIG = CoaddConfig(streaks=StreakConfig())
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]


def distance(slope, first):
    """From the line y = first + slope x."""
    return (Y - first - slope * X) / np.hypot(1, slope)


def trail(crest, slope=0.3, first=60.0, width=2.0):
    return crest * np.exp(-0.5 * (distance(slope, first) / width) ** 2)


def stack(light, xp=np, *, seed=1, mask=None):
    """Epochs of white noise of variance 1 about a few stars, with `light` {epoch: image} on top."""
    rng = np.random.default_rng(seed)
    stars = np.zeros(SHAPE)
    stars[rng.integers(10, 190, 6), rng.integers(10, 250, 6)] = 4e3
    image = rng.normal(size=(N_EPOCHS, *SHAPE)) + ndimage.gaussian_filter(stars, PSF)
    for epoch, extra in light.items():
        image[epoch] += extra
    mask = np.zeros(image.shape, np.int32) if mask is None else mask
    image[mask & SCHEMA.bitmask("NO_DATA") != 0] = np.nan
    planes = [xp.asarray(p) for p in (image.astype(np.float32), np.ones(image.shape, np.float32), mask)]
    return WarpStack(*planes, schema=SCHEMA, psf_sigma=[PSF] * N_EPOCHS, psf_matched=WarpStack(
        *planes, schema=SCHEMA, psf_sigma=[PSF] * N_EPOCHS
    ))  # fmt: skip


def planes(result, name):
    return goldens.host(getattr(result, name))


def test_a_trail_far_below_the_threshold_is_clipped(xp):
    warps = stack({3: trail(0.8)}, xp)
    plain, result = gpucoadd.coadd(warps), gpucoadd.coadd(warps, config=CONFIG)
    on = np.abs(distance(0.3, 60.0)) < 4
    assert planes(plain, "clipped")[3][on].mean() < 0.01
    streak = planes(result, "streak")
    assert streak[3][on].all()
    assert not streak[3][np.abs(distance(0.3, 60.0)) > 16].any()
    assert not np.delete(streak, 3, axis=0).any()
    assert_array_equal(planes(result, "clipped"), planes(plain, "clipped") | streak)
    assert_array_equal(planes(result, "epoch_count"), planes(plain, "epoch_count"))
    assert [len(found) for found in result.lines] == [0, 0, 0, 1, 0, 0, 0]
    mask = goldens.host(result.mask)
    assert (mask[on] & SCHEMA.bitmask("INEXACT_PSF") != 0).all()
    assert (goldens.host(result.n_image)[on] <= N_EPOCHS - 1).all()


def test_one_answer_for_every_bound_and_thread(tmp_path):
    warps = stack({3: trail(0.8), 5: trail(1.5, slope=-0.6, first=180.0)})
    expected = gpucoadd.coadd(warps, config=CONFIG)
    assert planes(expected, "streak")[5].any()
    for settings in ({"threads": 3}, {"threads": 1, "memory": 3_000_000}):
        result = gpucoadd.coadd(warps, config=CONFIG, **settings)
        assert_array_equal(result.streak, expected.streak)
        assert_array_equal(result.image, expected.image)


def test_one_answer_for_host_and_device(device):
    light = {3: trail(0.8), 5: trail(1.5, slope=-0.6, first=180.0)}
    expected, result = (gpucoadd.coadd(stack(light, module), config=CONFIG) for module in (np, device))
    assert_array_equal(planes(result, "streak"), expected.streak)
    for found, wanted in zip(result.lines, expected.lines, strict=True):
        np.testing.assert_allclose(found.z, wanted.z, rtol=1e-4)


def test_a_line_that_comes_back_is_kept():
    light = {epoch: trail(1.0, slope=0.0, first=80.0, width=1.5) for epoch in (1, 3, 5)}
    result = gpucoadd.coadd(stack(light), config=CONFIG)
    assert all(result.lines[epoch].persistent.all() and len(result.lines[epoch]) for epoch in (1, 3, 5))
    assert not result.streak.any()


def test_dark_lines_are_told_and_kept():
    result = gpucoadd.coadd(stack({3: -trail(1.0)}), config=CONFIG)
    assert result.lines[3].sign.tolist() == [-1]
    assert not result.streak.any()


def test_a_trail_left_in_the_template_is_told_from_trails():
    # Among four epochs the template keeps a quarter of a faint trail, which is then dark in the three others.
    warps = stack({3: trail(3.0)})
    few = WarpStack(*(p[:4] for p in (warps.image, warps.variance, warps.mask)), schema=SCHEMA, psf_sigma=[PSF] * 4)
    with pytest.warns(UserWarning, match="no PSF-matched twins"):
        result = gpucoadd.coadd(few, config=CONFIG)
    assert result.streak[3].any() and not result.streak[:3].any()


def test_pixels_without_data_and_bad_planes_are_left_out():
    mask = np.zeros((N_EPOCHS, *SHAPE), np.int32)
    mask[3, :, 100:140] = SCHEMA.bitmask("NO_DATA")
    mask[3, :, 180:200] = SCHEMA.bitmask("SAT")
    warps = stack({3: trail(0.8) + 50.0 * ((X >= 180) & (X < 200))}, mask=mask)
    result = gpucoadd.coadd(warps, config=CONFIG)
    on = np.abs(distance(0.3, 60.0)) < 3
    streak = result.streak[3]
    assert not streak[:, 100:140].any()
    assert streak[on & (X < 100)].all() and streak[on & (X >= 140)].all()  # the saturated stretch, too
    assert len(result.lines[3]) == 1


def test_without_the_search_there_is_nothing_to_tell():
    result = gpucoadd.coadd(stack({3: trail(0.8)}))
    assert set(result.lines) == {None}
    with pytest.raises(AttributeError, match=r"no trails were searched for; use CoaddConfig\(streaks=StreakConfig"):
        _ = result.streak


def test_a_single_epoch_has_no_trails():
    warps = stack({})
    alone = WarpStack(*(p[:1] for p in (warps.image, warps.variance, warps.mask)), schema=SCHEMA, psf_sigma=[PSF])
    with pytest.warns(UserWarning, match="no PSF-matched twins"):
        result = gpucoadd.coadd(alone, config=CONFIG)
    assert not result.streak.any()


# ---- by LSST's rules ------------------------------------------------------------------------------------------------


def lsst(**options):
    return CoaddConfig(lsst_streaks=LsstStreaks(enabled=True, **options))


def test_lsst_masks_what_is_detected_and_grows_it():
    warps = stack({3: trail(30.0, width=3.0)})
    plain, result = gpucoadd.coadd(warps), gpucoadd.coadd(warps, config=lsst())
    detected = np.abs(distance(0.3, 60.0)) < 3.0 * np.sqrt(2 * np.log(30 / 7.5)) - 1
    assert plain.clipped[3][detected].all()
    grown = ndimage.distance_transform_edt(~plain.clipped[3]) <= int(5 * PSF)
    near = np.abs(distance(0.3, 60.0)) < 20
    assert_array_equal(result.streak[3][near], grown[near])
    assert_array_equal(planes(result, "clipped"), plain.clipped | result.streak)


@pytest.mark.parametrize(
    ("options", "half_width"),
    [
        ({"mask_sigmas": 2.0}, 2 * 2.08307 * 3.0),
        ({"max_width": 7.0}, 3.5),
        # (1 + (d / s)**2)**-2.5 = 3 / 30
        ({"footprint_threshold": 3.0, "mask_sigmas": 9.0}, 2.08307 * 3.0 * np.sqrt(10**0.4 - 1)),
    ],
)
def test_lsst_bands(options, half_width):
    """Without `only_detected` and growth, the mask is a band as wide as the Moffat profile that fits a Gaussian's half
    height; the line is found to a few hundredths of a pixel, its width to one per cent."""
    result = gpucoadd.coadd(
        stack({3: trail(30.0, width=3.0)}), config=lsst(only_detected=False, grow_sigma=0.0, **options)
    )
    away = np.abs(distance(0.3, 60.0))
    inside, outside = away < 0.97 * half_width - 0.2, away > 1.03 * half_width + 0.2
    assert result.streak[3][inside].all()
    assert not result.streak[3][outside].any()


def test_lsst_spares_pieces_inside_a_source():
    warps = stack({3: trail(30.0)})
    labels = np.where(X < 130, 1, 0).astype(np.int32)
    from gpucoadd import streak_masking
    from gpucoadd.detection import label
    from gpucoadd.planes import Flags

    result = gpucoadd.coadd(warps, config=lsst())
    lines = [result.lines[3]]
    candidates = (np.abs(distance(0.3, 60.0)) < 4) & ((X < 120) | (X > 135))
    flags = streak_masking.streak_flags(
        lines, label(Flags.of(candidates[None])), Flags.of(np.zeros((1, *SHAPE), bool)), [labels], [PSF],
        lsst(grow_sigma=0.0),
    )  # fmt: skip
    assert_array_equal(flags.planes()[0], candidates & (X > 135))


def test_both_rules_at_once_are_refused():
    with pytest.raises(ValueError, match=r"streaks and lsst_streaks \(doFilterMorphological\) are both enabled"):
        CoaddConfig(streaks=StreakConfig(), lsst_streaks=LsstStreaks(enabled=True))
    with pytest.raises(ValueError, match=r"grow_sigma \(growStreakFp\) must be at least 0"):
        LsstStreaks(grow_sigma=-1.0)


def test_lsst_names():
    names = {"doFilterMorphological": True, "growStreakFp": 3, "maskStreaks.onlyMaskDetected": False}
    config = CoaddConfig.from_lsst({**names, "maskStreaks.delta": 0.2, "streakMaskName": "STREAK"})
    assert config.lsst_streaks == LsstStreaks(enabled=True, grow_sigma=3.0, only_detected=False)
    assert not config.streaks.enabled and config.finds_streaks
    assert CoaddConfig.from_names({"streaks.enabled": True, "streaks.bin": 4}).streaks == StreakConfig(bin=4)
    assert CoaddConfig.from_names(CONFIG.as_names()) == CONFIG
    with pytest.raises(ValueError, match=r"streaks\.bin must be int, got 'two'"):
        CoaddConfig.from_names({"streaks.bin": "two"})


# ---- parts ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    return gpucoadd.coadd(stack({3: trail(0.8)}), config=CONFIG).lines[3]


@pytest.mark.parametrize(
    ("n_epochs", "n_seen", "persistent"),
    [(4, 0, False), (4, 1, True), (7, 1, False), (7, 2, True), (68, 3, False), (68, 4, True)],
)
def test_a_line_may_be_in_as_many_epochs_as_an_artifact(found, n_epochs, n_seen, persistent):
    """One of three others is enough, then two, and, where artifacts may be in more epochs, as many as these."""
    seen, unseen = (Votes(np.array([z]), np.array([1.0])) for z in (found.z[0], 0.0))
    votes = [{3: vote} for vote in [seen] * n_seen + [unseen] * (n_epochs - 1 - n_seen)] + [{}]
    counted = count_votes({3: found}, votes, CONFIG)
    assert counted[3].persistent.tolist() == [persistent]
    assert goldens.host(counted[3].mask).any() != persistent


def test_lines_in_one_source_are_dropped(found):
    source = np.where((X > 10) & (X < 150) & (np.abs(distance(0.3, 60.0)) < 20), 5, 0).astype(np.int32)
    assert 0.5 < source.astype(bool)[np.abs(distance(0.3, 60.0)) < 1].mean()
    assert len(outside_sources(found, [np.zeros(SHAPE, np.int32), source])) == 0
    two = np.where((source == 5) & (X > 80), 6, source).astype(np.int32)
    assert len(outside_sources(found, [two])) == 1
    crowded = np.where(X < 200, 7, 0).astype(np.int32)
    assert len(outside_sources(found, [crowded])) == 1


def test_of_two_epochs_nothing_is_clipped():
    """Nobody can say whether one has a trail or the other a scratch; nor where only two have data."""
    warps = stack({0: trail(2.0)})
    pair = WarpStack(*(p[:2] for p in (warps.image, warps.variance, warps.mask)), schema=SCHEMA, psf_sigma=[PSF] * 2)
    with pytest.warns(UserWarning, match="no PSF-matched twins"):
        result = gpucoadd.coadd(pair, config=CONFIG)
    assert result.lines[0].suspect.all() and len(result.lines[0])
    assert not result.streak.any()
    mask = np.zeros((N_EPOCHS, *SHAPE), np.int32)
    mask[2:, :, :200] = SCHEMA.bitmask("NO_DATA")
    result = gpucoadd.coadd(stack({0: trail(2.0)}, mask=mask), config=CONFIG)
    assert len(result.lines[0]) and not result.streak.any()


def test_widths_are_asked_for_before_the_work():
    warps = stack({})
    planes = warps.image, warps.variance, warps.mask
    unknown = WarpStack(*planes, schema=SCHEMA, psf_sigma=[PSF] * 3 + [np.nan] * 4)
    detection = gpucoadd.Detection(grow_sigma=0.0)
    config = CoaddConfig(detection=detection, preserve_contained=False, streaks=StreakConfig())
    with (
        pytest.raises(ValueError, match="psf_sigma of epoch 3 must be finite and positive"),
        pytest.warns(UserWarning, match="no PSF-matched twins"),
    ):
        gpucoadd.coadd(unknown, config=config)


def test_trails_that_start_at_saturated_pixels_are_clipped_where_others_vote():
    mask = np.zeros((N_EPOCHS, *SHAPE), np.int32)
    mask[3, 40:80, :12] = SCHEMA.bitmask("SAT")
    result = gpucoadd.coadd(stack({3: trail(0.8)}, mask=mask), config=CONFIG)
    assert not result.lines[3].suspect.any()
    assert result.streak[3][np.abs(distance(0.3, 60.0)) < 3].all()
