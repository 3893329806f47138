"""The simulated night is what it says it is."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from gpucoadd import simulate


@pytest.fixture(scope="module")
def night():
    return simulate.simulate_night(n_epochs=5, shape=(192, 160), seed=3)


def test_same_seed_same_pixels(night):
    again = simulate.simulate_night(n_epochs=5, shape=(192, 160), seed=3)
    for stack, other in ((night.warps, again.warps), (night.warps.psf_matched, again.warps.psf_matched)):
        for plane in ("image", "variance", "mask"):
            assert_array_equal(getattr(stack, plane), getattr(other, plane))
    other = simulate.simulate_night(n_epochs=5, shape=(192, 160), seed=4)
    assert not np.array_equal(night.warps.mask, other.warps.mask)


def test_planes_agree(night):
    no_data = night.warps.schema.bitmask("NO_DATA")
    for stack in (night.warps, night.warps.psf_matched):
        assert stack.shape == (5, 192, 160)
        empty = stack.mask & no_data != 0
        assert empty.any()
        assert_array_equal(np.isnan(stack.image), empty)
        assert_array_equal(np.isnan(stack.variance), empty)
        assert_array_equal(stack.mask[empty], no_data)
        assert (stack.variance[~empty] > 0).all()


def test_matching_eats_a_border_and_edge_lies_further_in(night):
    schema, twins = night.warps.schema, night.warps.psf_matched
    empty, twin_empty = (s.mask & schema.bitmask("NO_DATA") != 0 for s in (night.warps, twins))
    assert twin_empty[empty].all()
    assert twin_empty.sum() > empty.sum()
    assert (night.warps.mask & schema.bitmask("EDGE") != 0).any()
    assert (twins.mask & schema.bitmask("EDGE") != 0).any()


def test_twins_have_the_target_psf():
    night = simulate.simulate_night(
        n_epochs=6, shape=(160, 160), seed=8, star_density=0, galaxy_density=0, cosmic_ray_density=0,
        trail_fraction=0, noise_range=(1e-3, 1e-3), n_saturated=0,
    )  # fmt: skip
    r, measured = 12, 0
    for star in night.variable_stars:
        iy, ix = round(star["y"]), round(star["x"])
        box = (slice(iy - r, iy + r + 1), slice(ix - r, ix + r + 1))
        axes = np.mgrid[box] - np.reshape([star["y"], star["x"]], (2, 1, 1))
        for stack, epoch in itertools.product((night.warps, night.warps.psf_matched), range(6)):
            stamp = stack.image[epoch][box].astype(float)
            if night.planted[epoch][box].max() > 1 or stack.mask[epoch][box].any():
                continue
            flux = stamp.sum()
            assert flux == pytest.approx(star["flux"][epoch], rel=0.01)
            for axis in axes:
                # The kernel ends at 4 sigma, which takes 0.1 % off its second moment; photon noise adds the rest.
                assert np.sqrt((stamp * axis**2).sum() / flux) == pytest.approx(stack.psf_sigma[epoch], rel=0.02)
            measured += 1
    assert measured >= 8
    assert night.warps.psf_matched.psf_sigma == pytest.approx(night.target_sigma)


def test_noise_is_as_the_variance_says(night):
    empty = (night.expected < 0.5) & (night.planted < 0.5) & (night.warps.mask == 0)
    pull = (night.warps.image - night.expected)[empty] / np.sqrt(night.warps.variance[empty])
    assert pull.std() == pytest.approx(1.0, abs=5 / np.sqrt(2 * pull.size))
    assert abs(pull.mean()) < 5 / np.sqrt(pull.size)
    twins = night.warps.psf_matched
    assert np.nanmedian(twins.variance) < 0.3 * np.nanmedian(night.warps.variance)


def test_artifacts_are_where_truth_says(night):
    assert set(night.truth) == {"trail", "cosmic ray", "moving object", "ghost"}
    anything = np.any(list(night.truth.values()), axis=0)
    half_noise = 0.5 * night.noise[:, np.newaxis, np.newaxis]
    assert (night.planted[~anything] < 4 * half_noise.max()).all()
    assert (night.planted[anything] >= 0.99 * half_noise.min()).all()
    assert night.truth["ghost"].any(axis=(1, 2)).sum() == 1
    assert night.truth["trail"].any(axis=(1, 2)).sum() == 2
    assert (night.truth["moving object"].sum(axis=0) <= 1).all()  # another place in each epoch
    flagged = night.warps.mask & night.warps.schema.bitmask("CR") != 0
    assert flagged.any()
    assert night.truth["cosmic ray"][flagged].all()
    assert (night.truth["cosmic ray"] & ~flagged).any()


def test_variable_stars_change_and_keep_clear_of_artifacts(night):
    for star in night.variable_stars:
        assert np.ptp(star["flux"]) > 0.4 * star["flux"].mean()
        y, x = round(star["y"]), round(star["x"])
        assert not any(pixels[:, y, x].any() for pixels in night.truth.values())
    assert night.stars["variable"].sum() == len(night.variable_stars)


def test_saturated_stars_have_bleed_columns():
    night = simulate.simulate_night(n_epochs=2, shape=(300, 300), seed=1, n_saturated=3)
    saturated = night.warps.mask & night.warps.schema.bitmask("SAT") != 0
    assert saturated.any()
    assert (night.warps.image[saturated] <= simulate.SATURATION * 1.01).all()


def test_one_epoch_and_nothing_planted():
    night = simulate.simulate_night(n_epochs=1, shape=(96, 96), seed=5, trail_fraction=0, cosmic_ray_density=0)
    assert night.warps.shape == (1, 96, 96)
    assert not night.truth["trail"].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_epochs": 0}, "n_epochs must be at least 1"),
        ({"shape": (50, 200)}, r"shape must be at least \(96, 96\)"),
        ({"psf_range": (2.0, 1.0)}, "psf_range must be two positive numbers"),
        ({"noise_range": (0.0, 1.0)}, "noise_range must be two positive numbers"),
        ({"faint_trail": -0.1}, "faint_trail must be at least 0"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate.simulate_night(**arguments)


def test_written_night_reads_back(night, tmp_path):
    fits = pytest.importorskip("gpucoadd.fits")
    folder = simulate.write_night(night, tmp_path / "night")
    warps = fits.read_warps(folder / "direct", psf_matched=folder / "matched", device="cpu")
    assert_array_equal(warps.image, night.warps.image)
    assert_array_equal(warps.psf_matched.mask, night.warps.psf_matched.mask)
    assert warps.psf_matched.psf_sigma == pytest.approx(night.target_sigma, rel=1e-3)
    with np.load(folder / "truth.npz") as truth:
        assert_array_equal(truth["moving_object"], night.truth["moving object"])
        assert_array_equal(truth["sky"], night.sky)


def test_psf_stamp_sums_to_one():
    stamp = simulate.gaussian_psf(2.0)
    assert stamp.shape == (31, 31)
    assert stamp.sum() == pytest.approx(1.0)
    assert stamp.argmax() == stamp.size // 2


def test_a_faint_trail_is_one_more(night):
    settings = {name: value for name, value in night.settings.items() if name != "faint_trail"}
    faint = simulate.simulate_night(**settings, faint_trail=0.3)
    extra = faint.planted - night.planted
    (epoch,) = np.flatnonzero(extra.any(axis=(1, 2)))
    assert not night.truth["trail"][epoch].any()
    assert extra.max() == pytest.approx(0.3 * night.noise[epoch], rel=0.05)
    on = faint.truth["faint trail"]
    assert not np.delete(on, epoch, axis=0).any()
    assert on[epoch][extra[epoch] > 0.031 * night.noise[epoch]].all()
    assert not on[epoch][extra[epoch] < 0.029 * night.noise[epoch]].any()
    for kind, pixels in night.truth.items():
        assert_array_equal(faint.truth[kind], pixels)
