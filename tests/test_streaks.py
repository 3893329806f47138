"""`find_streaks`: trails that no pixel shows, their masks, and what is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import standin
from numpy.testing import assert_allclose, assert_array_equal
from trails import light, noise, planes

import gpucoadd
from gpucoadd import StreakConfig, find_streaks, streak_search, to_host
from gpucoadd.line_candidates import Candidate
from gpucoadd.streak_search import search, threshold
from gpucoadd.streaks import line_votes, noise_factor, streak_images, streak_mask, with_votes

SHAPE = (220, 260)
FAINT = ((30, 0), (170, 259))
CROSSING = ((219, 60), (0, 200))


def trail(ends=FAINT, crest=0.5, width=2.0, shape=SHAPE):
    return light(shape, *ends, crest=crest, width=width)


def find(difference, xp=np, bad=None, variance=1.0, psf_sigma=2.0, others=None, flagged=None, **options):
    config = StreakConfig(**{"mesh": 0, **options})
    flagged = None if flagged is None else xp.asarray(flagged)
    given = planes(difference, bad=bad, xp=xp, variance=variance)
    return find_streaks(*given, psf_sigma=psf_sigma, config=config, others=others, flagged=flagged)


def off(streaks, number, ends):
    """Root of the mean squared distance of a line from the one between two points."""
    (y0, x0), (y1, x1) = ends
    points = np.linspace(*streaks.ends[number], 50)
    across = ((points[:, 1] - x0) * (y1 - y0) - (points[:, 0] - y0) * (x1 - x0)) / np.hypot(y1 - y0, x1 - x0)
    return np.sqrt((across**2).mean())


# ---------------------------------------------------------------------------------------
# What is found


@pytest.mark.parametrize("sign", [1, -1])
def test_a_trail_of_half_a_sigma(xp, sign):
    difference = noise(SHAPE) + trail(crest=sign * 0.5)
    streaks = find(difference, xp)
    assert len(streaks) == 1 and streaks.sign[0] == sign
    assert off(streaks, 0, FAINT) < 1
    # z is good to 1 and at most a few per cent below that of the ideal filter.
    ideal = np.sqrt((trail().astype(float) ** 2).sum())
    assert_allclose(streaks.z[0], ideal, atol=2.5)
    assert_allclose(streaks.amplitude[0], sign * 0.5, atol=3 * 0.5 / ideal)
    assert_allclose(streaks.length[0], np.hypot(*np.subtract(*FAINT)), atol=3)
    assert not streaks.persistent[0] and not streaks.suspect[0]
    mask = to_host(streaks.mask)
    assert mask[trail(crest=1) > 0.3].mean() > 0.99 and mask.mean() < 0.1
    assert type(streaks.mask) is type(xp.asarray(difference)) and mask.dtype == bool


def test_numbers_describe_the_line():
    streaks = find(noise(SHAPE) + trail(crest=5) + trail(CROSSING, crest=-5))
    assert sorted(streaks.orientation) == ["h", "v"]
    for n, vertical in enumerate(streaks.orientation == "v"):
        (first, start), (last, stop) = streaks.ends[n][:, ::-1] if vertical else streaks.ends[n]
        centre = ((SHAPE[0] if vertical else SHAPE[1]) - 1) / 2
        expected = streaks.intercept[n] + streaks.slope[n] * (np.array([start, stop]) - centre)
        assert_allclose([first, last], expected, atol=1e-9)
        assert_allclose(streaks.length[n], np.hypot(stop - start, last - first))
        middle = streaks.profile[n][streaks.profile.shape[1] // 2]
        # Noise of a tenth, and the place of the line to half a pixel.
        assert_allclose([middle, np.nanmean(streaks.block_amplitude[n])], streaks.amplitude[n], rtol=0.1)
    assert list(streaks.z) == sorted(streaks.z, reverse=True)
    assert_allclose(streaks.width, 2.0, rtol=0.1)


def test_one_trail_under_another_is_found_when_that_is_gone(xp):
    difference = noise(SHAPE) + trail(crest=60) + trail(CROSSING, crest=0.8)
    streaks = find(difference, xp)
    assert len(streaks) == 2
    assert off(streaks, 0, FAINT) < 0.5 and off(streaks, 1, CROSSING) < 1.5
    assert len(find(difference, xp, max_lines=1)) == 1


@pytest.mark.parametrize("crest", [10, -50, 300])
@pytest.mark.parametrize("mesh", [64, 128])
def test_bright_trails_have_no_dark_flanks(crest, mesh):
    """The background of meshes is raised by the trail, and lowers what is beside it, until the trail is taken out."""
    shape = (400, 420)
    difference = noise(shape) + light(shape, (40, 0), (300, 419), crest=crest, width=2.0)
    streaks = find(difference, mesh=mesh)
    assert len(streaks) == 1 and streaks.sign[0] == np.sign(crest)


def test_neighbours_are_found_one_after_the_other():
    """Candidates next to one that was looked at wait for the next round."""
    beside = tuple((y + 22, x) for y, x in FAINT)
    streaks = find(noise(SHAPE) + trail(crest=3) + trail(beside, crest=2))
    assert len(streaks) == 2
    assert sorted(round(off(streaks, n, FAINT), -1) for n in range(2)) == [0, 20]


def test_rounds_go_on_while_they_find_lines(monkeypatch):
    monkeypatch.setattr(streak_search, "_LOOKS", 1)
    difference = noise(SHAPE) + trail(crest=3) + trail(CROSSING, crest=2)
    assert len(find(difference)) == 2
    monkeypatch.setattr(streak_search, "_MAX_ROUNDS", 1)
    assert len(find(difference)) == 1


def test_candidates_of_one_line():
    one = Candidate(9.0, 1, ((10.0, 0.0), (30.0, 200.0)), 4.0)
    near = one._replace(ends=((22.0, 5.0), (42.0, 195.0)))
    same = streak_search._same
    assert same(one, near, 13.0) and not same(one, near, 12.9)
    assert same(one, near._replace(ends=near.ends[::-1]), 13.0)
    assert not same(one, near._replace(sign=-1), 13.0)
    assert not same(one, near._replace(ends=(near.ends[0], (90.0, 195.0))), 13.0)


def test_lines_that_are_removed_leave_nothing():
    given = planes(noise(SHAPE) + trail(crest=20))
    images = streak_images(*given, mesh=0)
    found = search(images, given[:2], psf_sigma=2.0, config=StreakConfig(mesh=0), flagged=None)
    gone = images.weight == 0
    assert len(found) == 1 and not images.signal[gone].any()
    assert gone[trail(crest=20) > 0.1].all() and gone.mean() < 0.2


def test_only_where_there_is_weight(xp):
    """A line of good pixels in an image without others."""
    good = abs(trail(crest=1)) > 0.1
    streaks = find(noise(SHAPE) + trail(crest=1.5) + np.float32(5), xp, bad=~good, clip=10)
    mask = to_host(streaks.mask)
    assert len(streaks) <= 1 and (not len(streaks) or mask[good].mean() > 0.9)


def test_a_column_without_pixels_and_single_ones():
    difference = noise(SHAPE) + trail(crest=0.7)
    bad = np.random.default_rng(1).random(SHAPE) < 0.02
    difference[:, 100] = np.nan
    difference[50, 50], difference[60, 60] = np.inf, 1e30
    variance = np.ones(SHAPE, np.float32)
    variance[70, 70], variance[80, 80], variance[90, 90] = np.nan, 0, np.inf
    streaks = find_streaks(difference, variance, bad, psf_sigma=2.0, config=StreakConfig(mesh=0))
    assert len(streaks) == 1 and off(streaks, 0, FAINT) < 1
    assert to_host(streaks.mask)[:, 100].any()  # the mask is drawn across


def test_sigma_that_varies():
    sigma = np.broadcast_to(np.linspace(1, 4, SHAPE[1]), SHAPE).astype(np.float32)
    given = (noise(SHAPE) * sigma + 3 * trail(crest=1)).astype(np.float32), sigma**2, np.zeros(SHAPE, bool)
    streaks = find_streaks(*given, psf_sigma=2.0, config=StreakConfig(mesh=0))
    assert len(streaks) == 1 and off(streaks, 0, FAINT) < 1
    assert_allclose(streaks.amplitude[0] * streaks.noise, 3, rtol=0.15)  # of constant flux


def test_short_trails_keep_their_ends():
    ends = (60, 60), (120, 180)
    streaks = find(noise(SHAPE) + trail(ends, crest=3))
    assert len(streaks) == 1
    order = np.argsort(streaks.ends[0][:, 1])
    assert_allclose(streaks.ends[0][order], ends, atol=16)
    beyond = np.hypot(*(streaks.mask_ends[0] - streaks.ends[0]).T)
    assert_allclose(beyond, 32, atol=2)
    assert_array_equal(streak_mask(streaks, SHAPE), streaks.mask)


# ---------------------------------------------------------------------------------------
# What is none


def test_noise_alone():
    for seed in range(8):
        difference = noise(SHAPE, seed, 1.77 * (seed % 2))
        streaks = find(difference, psf_sigma=2.6, mesh=64)
        assert len(streaks) == 0 and not streaks.mask.any() and streaks.ends.shape == (0, 2, 2)
        assert_allclose(streaks.noise, 1, atol=0.03)


def test_stars_in_a_row():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    difference = noise(SHAPE)
    for k in range(6):
        difference += 40 * np.exp(-((y - 50 - 15 * k) ** 2 + (x - 30 - 40 * k) ** 2) / 8).astype(np.float32)
    assert len(find(difference)) == 0


@pytest.mark.parametrize("place", ["top", "beside a gap"])
def test_strips_along_the_border_of_the_data(place):
    difference, bad = noise(SHAPE), np.zeros(SHAPE, bool)
    difference[0 if place == "top" else 100 : 5 if place == "top" else 105] -= 30
    bad[70:100] = place != "top"
    assert len(find(difference, bad=bad)) == 0
    bad[:] = False
    if place != "top":
        assert len(find(difference, bad=bad)) == 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1, 400), (40, 40), (129, 2), (2, 300)])
def test_images_too_small_have_none(xp, shape):
    streaks = find(noise(shape), xp)
    assert len(streaks) == 0 and streaks.mask.shape == shape and not to_host(streaks.mask).any()


def test_nothing_good(xp):
    streaks = find(noise(SHAPE), xp, bad=np.ones(SHAPE, bool))
    assert len(streaks) == 0 and math.isnan(streaks.noise) and not to_host(streaks.mask).any()
    assert len(streaks.to_table()) == 0
    assert len(find(np.full(SHAPE, np.nan, np.float32), xp)) == 0


# ---------------------------------------------------------------------------------------
# Turned and repeated


def disturbed():
    difference = noise(SHAPE, 7) + trail(crest=1.0) + trail(CROSSING, crest=-1.0)
    bad = np.random.default_rng(2).random(SHAPE) < 0.01
    bad[:, 120:135] = True
    return difference, bad


def test_backends_and_repeats_agree_bit_for_bit(xp):
    difference, bad = disturbed()
    before = difference.copy()
    first, again, there = find(difference, bad=bad), find(difference, bad=bad), find(difference, xp, bad=bad)
    assert_array_equal(difference, before)
    assert len(first) == 2
    for name in ("ends", "z", "width", "amplitude", "profile", "block_amplitude"):
        assert_array_equal(getattr(first, name), getattr(again, name))
    assert_array_equal(first.mask, again.mask)
    assert_array_equal(first.mask, to_host(there.mask))
    # Positions do not hang on the noise factor, whose transform differs in its last digits.
    assert_array_equal(first.ends, there.ends)
    assert_allclose(first.z, there.z, rtol=1e-4)


@pytest.mark.parametrize("turn", [np.transpose, np.flipud, np.fliplr, lambda plane: 37 * plane])
def test_turned_images_have_the_same_lines(turn):
    difference, bad = disturbed()
    streaks = find(difference, bad=bad)
    scaled = turn(np.ones((1, 1), np.float32))[0, 0] != 1
    turned = find(turn(difference), bad=bad if scaled else turn(bad), variance=np.float32(37.0**2) if scaled else 1.0)
    assert_allclose(turned.z, streaks.z, rtol=0.03)
    assert_allclose(turned.amplitude, streaks.amplitude, rtol=0.1)
    mask = streaks.mask if scaled else turn(streaks.mask)
    assert (turned.mask != mask).sum() < 0.1 * mask.sum()
    assert_array_equal(turned.sign, streaks.sign)


def test_reads_and_launches_are_few(device):
    given = planes(noise(SHAPE), xp=device)
    find_streaks(*given, psf_sigma=2.0)
    standin.reset()
    find_streaks(*given, psf_sigma=2.0)
    # Scatter, noise factor, candidates; five for each of at most twelve candidates.
    assert standin.host_reads <= 3 + 5 * 12
    assert standin.hidden_waits == 0


# ---------------------------------------------------------------------------------------
# Other epochs, flags


def epochs(n, n_with, xp=np, line=FAINT, crest=1.5):
    """Planes of `n` epochs, of which the first some have a line."""
    return [planes(noise(SHAPE, 50 + k) + trail(line, crest=crest * (k < n_with)), xp=xp) for k in range(n)]


def test_lines_that_come_back_are_persistent(xp):
    row = (100, 0), (115, 259)
    difference = noise(SHAPE, 9) + trail(crest=1) + trail(row, crest=2)
    streaks = find(difference, xp, others=epochs(6, 3, xp, row))
    assert len(streaks) == 2 and streaks.voters == 6
    assert streaks.persistent.tolist() == [True, False]
    assert off(streaks, 0, row) < 1
    mask = to_host(streaks.mask)
    assert not mask[113:116, 235:].any() and mask[trail(crest=1) > 0.5].mean() > 0.95
    assert find(difference, others=epochs(6, 1, line=row)).persistent.tolist() == [False, False]
    assert find(difference, others=epochs(6, 3, line=row), persistence=4).persistent.tolist() == [False, False]


def test_votes_epoch_by_epoch_are_the_same():
    row = (100, 0), (100, 259)
    difference = noise(SHAPE, 9) + trail(crest=1) + trail(row, crest=2)
    others = epochs(5, 3, line=row)
    together, alone = find(difference, others=others), find(difference)
    votes = []
    for other in others:
        images = streak_images(*other, mesh=0)
        votes.append(line_votes(alone, images))
        assert_array_equal(votes[-1].z, line_votes(alone, images, noise_factor(images)).z)
    voted = with_votes(alone, votes)
    assert_array_equal(voted.persistent, together.persistent)
    assert_array_equal(voted.mask, together.mask)
    assert not alone.persistent.any() and alone.mask.sum() > voted.mask.sum() and voted.voters == 5


def test_a_dark_line_is_not_the_bright_one_of_others():
    """A trail in one epoch leaves its negative in the differences of all others, if the template has some of it."""
    difference = noise(SHAPE, 9) + trail(crest=2)
    assert not find(difference, others=epochs(5, 5, crest=-1)).persistent.any()
    assert find(-difference, others=epochs(5, 5, crest=-1)).persistent.all()


def test_masks_of_some_lines(xp):
    row = (100, 0), (100, 259)
    difference = noise(SHAPE, 9) + trail(crest=1) + trail(row, crest=2)
    streaks = find(difference, xp, others=epochs(6, 3, xp, row))
    both, first, second = (
        to_host(streak_mask(streaks, SHAPE, which=which, xp=xp)) for which in ([0, 1], [True, False], [1])
    )
    assert_array_equal(both, first | second)
    assert_array_equal(to_host(streak_mask(streaks, SHAPE, xp=xp)), second)
    assert_array_equal(to_host(streaks.mask), second)
    assert first[100].all() and not to_host(streak_mask(streaks, SHAPE, which=[], xp=xp)).any()


def test_lines_at_flags_are_suspect_unless_others_vote(xp):
    ends = (100, 80), (100, 259)
    flagged = np.zeros(SHAPE, bool)
    flagged[95:106, 65:76] = True
    difference = noise(SHAPE) + trail(ends, crest=3)
    assert find(difference, xp, flagged=flagged).suspect.tolist() == [True]
    assert find(difference, xp).suspect.tolist() == [False]
    assert find(difference, xp, flagged=np.zeros(SHAPE, bool)).suspect.tolist() == [False]
    voted = find(difference, xp, flagged=flagged, others=epochs(4, 0, xp))
    assert voted.suspect.tolist() == [False] and to_host(voted.mask).any()


def test_rows_along_flags_need_more():
    row = (100, 0), (100, 259)
    flagged = np.zeros(SHAPE, bool)
    flagged[101, 100:200] = True
    needed = threshold(SHAPE, 1e-3)
    z = []
    for crest in (0.245, 0.27, 0.4):
        streaks = find(noise(SHAPE) + trail(row, crest=crest))
        z.append(streaks.z[0])
        assert len(find(noise(SHAPE) + trail(row, crest=crest), flagged=flagged)) == (z[-1] >= needed + 2)
    assert z[0] < needed + 2 <= z[-1]


# ---------------------------------------------------------------------------------------
# Interface


@pytest.mark.parametrize(("n", "expected"), [(256, 6.216), (512, 6.431), (1024, 6.638), (2048, 6.839), (4096, 7.035)])
def test_thresholds_grow_with_the_image(n, expected):
    assert_allclose(threshold((n, n), 1e-3), expected, atol=0.0006)


def test_table_has_a_row_for_each_line():
    streaks = find(noise(SHAPE) + trail(crest=5) + trail(CROSSING, crest=-5))
    table = streaks.to_table()
    assert len(table) == 2 and table.meta["noise"] == streaks.noise
    for name in ("z", "sign", "orientation", "persistent", "suspect", "slope", "amplitude"):
        assert_array_equal(np.asarray(table[name]), getattr(streaks, name))
    for name in ("width", "half_width", "length", "intercept"):
        assert table[name].unit == "pix"
        assert_array_equal(table[name].value, getattr(streaks, name))
    assert_array_equal(table["stop_x"].value, streaks.ends[:, 1, 1])
    assert_array_equal(table["start_y"].value, streaks.ends[:, 0, 0])


def test_streaks_are_frozen():
    streaks = find(noise(SHAPE) + trail(crest=5))
    with pytest.raises(AttributeError, match="Streaks is frozen"):
        streaks.z = None
    with pytest.raises(ValueError, match="read-only"):
        streaks.z[0] = 1
    assert repr(streaks) == "Streaks(1 lines in 220 x 260, 0 persistent)"


def test_bad_input_is_told():
    difference, variance, bad = planes(noise(SHAPE))
    with pytest.raises(TypeError, match="variance must be a NumPy or a CuPy array, got list"):
        find_streaks(difference, [1.0], bad, psf_sigma=2.0)
    with pytest.raises(TypeError, match="difference must be float32, got float64; convert it with"):
        find_streaks(difference.astype(float), variance, bad, psf_sigma=2.0)
    with pytest.raises(TypeError, match="bad must be bool, got int32"):
        find_streaks(difference, variance, bad.astype(np.int32), psf_sigma=2.0)
    with pytest.raises(TypeError, match="flagged must be bool, got float32"):
        find_streaks(difference, variance, bad, psf_sigma=2.0, flagged=variance)
    with pytest.raises(ValueError, match=r"variance has shape \(5, 260\) but the difference has \(220, 260\)"):
        find_streaks(difference, variance[:5], bad, psf_sigma=2.0)
    with pytest.raises(ValueError, match=r"difference has shape \(57200,\); it must be \(y, x\)"):
        find_streaks(difference.ravel(), variance, bad, psf_sigma=2.0)
    with pytest.raises(ValueError, match=r"difference has shape \(0, 260\)"):
        find_streaks(difference[:0], variance[:0], bad[:0], psf_sigma=2.0)
    for psf_sigma in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"psf_sigma must be finite and positive, got {psf_sigma}"):
            find_streaks(difference, variance, bad, psf_sigma=psf_sigma)


def test_bad_others_are_told():
    given = planes(noise(SHAPE))
    with pytest.raises(ValueError, match=r"others\[1\] has 2 parts; it must be \(difference, variance, bad\)"):
        find_streaks(*given, psf_sigma=2.0, others=[given, given[:2]])
    with pytest.raises(ValueError, match=r"variance of others\[0\] has shape \(5, 260\)"):
        find_streaks(*given, psf_sigma=2.0, others=[(given[0], given[1][:5], given[2])])
    with pytest.raises(TypeError, match=r"bad of others\[0\] must be bool, got float32"):
        find_streaks(*given, psf_sigma=2.0, others=[(given[0], given[1], given[1])])


def test_mixed_arrays_are_told(device):
    difference, variance, bad = planes(noise(SHAPE))
    with pytest.raises(TypeError, match="variance is on the GPU but difference is a NumPy array"):
        find_streaks(difference, device.asarray(variance), bad, psf_sigma=2.0)


def test_masks_have_the_shape_of_the_search():
    streaks = find(noise(SHAPE) + trail(crest=5))
    with pytest.raises(ValueError, match=r"shape is \(5, 5\) but the lines were found in \(220, 260\)"):
        streak_mask(streaks, (5, 5))


def test_public_names():
    from gpucoadd import streaks

    for name in streaks.__all__:
        assert getattr(streaks, name).__name__ == name
    for name in ("find_streaks", "StreakConfig", "Streaks"):
        assert name in gpucoadd.__all__ and getattr(gpucoadd, name) is getattr(streaks, name)


# ---------------------------------------------------------------------------------------
# Options


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("enabled", 1, TypeError, "streaks.enabled must be True or False, got 1"),
        ("min_length", 15, ValueError, "streaks.min_length must be at least 16, got 15"),
        ("min_length", 64.0, TypeError, "streaks.min_length must be a whole number, got 64.0"),
        ("bin", 0, ValueError, "streaks.bin must be at least 1, got 0"),
        ("bin", True, TypeError, "streaks.bin must be a whole number, got True"),
        ("clip", 0.0, ValueError, "streaks.clip must be positive and finite, got 0.0"),
        ("clip", math.inf, ValueError, "streaks.clip must be positive and finite, got inf"),
        ("mesh", -1, ValueError, "streaks.mesh must be at least 0, got -1"),
        ("mesh", 8, ValueError, r"streaks.mesh must be 0 \(no background\) or at least 16, got 8"),
        ("false_alarm", 0.0, ValueError, "streaks.false_alarm must be between 0 and 1, got 0.0"),
        ("false_alarm", 1.0, ValueError, "streaks.false_alarm must be between 0 and 1, got 1.0"),
        ("signs", "up", ValueError, "streaks.signs must be one of both, positive, negative, got 'up'"),
        ("spread", 1.0, ValueError, "streaks.spread must be from 0 to below 1, got 1.0"),
        ("mask_level", math.nan, ValueError, "streaks.mask_level must be positive and finite, got nan"),
        ("max_lines", 0, ValueError, "streaks.max_lines must be at least 1, got 0"),
        ("persistence", 0, ValueError, "streaks.persistence must be at least 1, got 0"),
    ],
)
def test_options_check_themselves(name, value, error, message):
    with pytest.raises(error, match=message):
        StreakConfig(**{name: value})


def test_options_do_what_they_say():
    both = noise(SHAPE) + trail(crest=1) + trail(CROSSING, crest=-1)
    assert find(both, signs="positive").sign.tolist() == [1]
    assert find(both, signs="negative").sign.tolist() == [-1]
    assert len(find(both, spread=0.999)) == 0
    assert len(find(both, false_alarm=1e-300)) == 0
    assert len(find(both, enabled=False)) == 2
    assert len(find(both, bin=1)) == len(find(both, bin=4)) == 2
    wide, narrow = (find(both, mask_level=level).half_width for level in (0.01, 0.5))
    assert (wide > narrow).all()
    short = noise(SHAPE) + trail(((60, 60), (80, 130)), crest=4)
    assert len(find(short)) == 0 and len(find(short, min_length=64)) == 1


def test_bins_may_be_left_open_in_overrides():
    from gpucoadd.options import as_names, with_overrides

    assert as_names(StreakConfig())["bin"] is None
    for value, expected in ((2, 2), (4.0, 4), (None, None)):
        assert with_overrides(StreakConfig(), {"bin": value}, own_names=True).bin == expected
    for value in ("2", True, 2.5):
        with pytest.raises(ValueError, match="bin must be int, got"):
            with_overrides(StreakConfig(), {"bin": value}, own_names=True)


# ---------------------------------------------------------------------------------------
# What is no trail


def slanted(n):
    """Ends of the n-th of some lines side by side."""
    return (20 + 50 * n, 0), (50 + 50 * n, 259)


def test_many_lines_that_barely_pass_are_none(monkeypatch):
    two, three = (noise(SHAPE) + sum(trail(slanted(n), crest=1) for n in range(count)) for count in (2, 3))
    strongest = find(three).z.max()
    assert [len(find(image)) for image in (two, three)] == [2, 3]
    monkeypatch.setattr(streak_search, "_BARELY", 1.2 * strongest - threshold(SHAPE, 1e-3))
    assert [len(find(image)) for image in (two, three)] == [2, 0]
    (kept,) = find(three + trail(CROSSING, crest=4)).z
    assert kept > 1.2 * strongest


def test_what_is_wider_than_any_trail_is_none():
    difference = noise(SHAPE) + trail(crest=1, width=9.0)
    assert len(find(difference, psf_sigma=2.0)) == 1
    assert len(find(difference, psf_sigma=1.2)) == 0


def test_rows_and_columns_need_more(monkeypatch):
    row, turned = ((100, 0), (104, 259)), ((100, 0), (115, 259))  # 0.9 and 3.3 degrees
    images = [noise(SHAPE) + trail(ends, crest=0.7) for ends in (row, turned)]
    images += [np.ascontiguousarray(image.T) for image in images]
    assert [len(find(image)) for image in images] == [1, 1, 1, 1]
    monkeypatch.setattr(streak_search, "_MORE_NEAR_AXIS", 30.0)
    assert [len(find(image)) for image in images] == [0, 1, 0, 1]


@pytest.mark.parametrize("separation", [14, 18, 20, 24])
def test_two_trails_side_by_side(separation):
    """The second is seen before the first is removed, and then looked at again."""
    for seed in range(3):
        below = (FAINT[0][0] + separation, FAINT[0][1]), (FAINT[1][0] + separation, FAINT[1][1])
        streaks = find(noise(SHAPE, seed) + trail(crest=2) + trail(below, crest=2))
        assert len(streaks) == 2, seed
        assert_allclose(streaks.width, 2.0, atol=1.6)


@pytest.mark.parametrize(("first", "slope"), [(100.0, 0.0), (100.25, 0.0), (100.5, 0.0), (60.0, 0.5), (10.0, 0.75)])
@pytest.mark.parametrize("turned", [False, True])
def test_lines_along_the_pixels_are_where_they_are(first, slope, turned):
    ends = (first, 0), (first + 259 * slope, 259)
    image = noise(SHAPE, 4) + trail(ends, crest=10, width=1.2)
    streaks = find(np.ascontiguousarray(image.T) if turned else image, psf_sigma=1.2)
    assert len(streaks) == 1
    assert off(streaks, 0, [end[::-1] for end in ends] if turned else ends) < 0.1
    assert_allclose(streaks.width, 1.2, rtol=0.08)
    assert_allclose(streaks.amplitude, 10, rtol=0.08)
