"""The streak finder on seeded scenes with known trails: what it must find, how well, and what it must not."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

import numpy as np
import oracle_streaks
import pytest
from scipy import stats

from gpucoadd import backend
from gpucoadd.streaks import StreakConfig, find_streaks, line_sums, noise_factor, streak_images

with pytest.MonkeyPatch.context() as _patch:
    _patch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    measures = importlib.import_module("streak_measures")
    scenes = importlib.import_module("streak_scenes")

Recipe = scenes.Recipe
EVERYTHING = {"stars": 1.0, "cosmic_rays": 1.0, "gaps": True, "corner": True, "bad_fraction": 0.01}
SEED = 20260


@functools.cache
def make(recipe, seed):
    return scenes.make_scene(recipe, seed)


def find(scene, xp=np, **changes):
    planes = [xp.asarray(plane) for plane in (scene.difference, scene.variance, scene.bad)]
    return find_streaks(*planes, psf_sigma=scene.psf_sigma, config=StreakConfig(**changes))


@functools.cache
def outcome(recipe, seed):
    scene = make(recipe, seed)
    streaks = find(scene)
    return measures.judge(scene, measures.lines_of(streaks), streaks.mask)


def outcomes(n, **recipe):
    return [outcome(Recipe(**recipe), SEED + k) for k in range(n)]


def found(results):
    return [one for result in results for one in result.found if one is not None]


@pytest.mark.parametrize(
    ("recipe", "of", "needed"),
    [
        ({"crest": 1.0}, 4, 4),
        ({"crest": 0.7}, 4, 1),
        ({"kind": "white", "crest": 0.25}, 4, 4),
        ({"crest": 1.0, "width": 5.0}, 3, 3),
        ({"crest": 1.0, "width": 10.0}, 3, 3),
        ({"crest": 2.0, "length": 256}, 3, 3),
        ({"crest": 4.0, "length": 128}, 3, 3),
        ({"crest": 2.5, "periods": 6}, 3, 3),
        ({"crest": -1.0}, 3, 3),
        ({"crest": 1.5, **EVERYTHING}, 3, 3),
    ],
    ids=lambda value: ",".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_trails_are_found_and_nothing_else(recipe, of, needed):
    results = outcomes(of, **recipe)
    assert len(found(results)) >= needed
    assert not any(result.false for result in results)


@pytest.mark.parametrize("angle", [0.0, 45.0, 90.0, 1.5, 88.0])
def test_every_direction(angle):
    (result,) = outcomes(1, crest=1.5, angle=angle)
    assert len(found([result])) == 1
    assert not result.false


def test_three_trails():
    (result,) = outcomes(1, crest=2.0, trails=3)
    assert len(found([result])) == 3
    assert not result.false


@pytest.mark.parametrize("kind", ["white", "matched"])
@pytest.mark.parametrize("extra", [{}, EVERYTHING | {"gradient": 6.0}], ids=["noise", "everything"])
def test_nothing_in_a_clean_difference(kind, extra):
    for result in outcomes(3, kind=kind, trails=0, **extra):
        assert not result.false
        assert result.masked == 0


def test_no_line_is_accepted_below_the_threshold():
    """Of trails about as significant as the threshold some are found, none with less than the false-alarm rate asks."""
    least = stats.norm.isf(1e-3 / (30 * 512**2))
    significance = [one.z for one in found(outcomes(12, crest=0.65))]
    assert significance
    assert min(significance) >= least - 1e-6


@pytest.mark.parametrize(("crest", "limit"), [(1.0, 0.6), (3.0, 0.25)])
def test_lines_lie_on_the_trail(crest, limit):
    offsets = np.array([one.offset for one in found(outcomes(4, crest=crest))])
    assert np.sqrt((offsets**2).mean()) < limit


@pytest.mark.parametrize(("crest", "width"), [(10.0, None), (10.0, 5.0), (50.0, None)])
def test_crest_and_width(crest, width):
    """Measured on pixels that were not clipped."""
    results = found(outcomes(3, crest=crest, width=width))
    assert [one.crest for one in results] == pytest.approx([1.0] * 3, abs=0.07)
    assert [one.width for one in results] == pytest.approx([1.0] * 3, abs=0.10)


@pytest.mark.parametrize("width", [None, 5.0])
def test_crest_and_width_near_the_noise(width):
    """At 3 sigma no single trail can be measured to 7 per cent: noise alone makes 4 and more."""
    results = found(outcomes(3, crest=3.0, width=width))
    assert np.mean([one.crest for one in results]) == pytest.approx(1.0, abs=0.07)
    assert np.mean([one.width for one in results]) == pytest.approx(1.0, abs=0.10)


@pytest.mark.parametrize("crest", [2.0, 5.0])
def test_ends_inside_the_image(crest):
    assert max(one.end for one in found(outcomes(3, crest=crest, length=256))) < 40


@pytest.mark.parametrize("crest", [1.5, 10.0, 50.0])
def test_mask_covers_the_light_and_little_else(crest):
    for result in outcomes(3, crest=crest):
        assert result.rest <= 0.1
        assert result.area <= 1.5


@pytest.mark.parametrize("kind", ["white", "matched"])
@pytest.mark.parametrize("width", [0.7, 1.0, 2.6, 5.0, 10.0])
def test_noise_factor(kind, width):
    """The mean of four images; a factor that scatters by 6 per cent and more in single ones does not hold this."""
    measured = []
    for k in range(4):
        scene = make(Recipe(kind=kind, trails=0), SEED + k)
        measured.append(noise_factor(streak_images(scene.difference, scene.variance, scene.bad))(width))
    expected = oracle_streaks.gaussian_noise_factor(width, 1.77) if kind == "matched" else 1.0
    assert np.mean(measured) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("n_rows", "n_columns"), [(13, 16), (24, 21), (9, 60)])
def test_sums_along_lines_are_those_of_their_paths(xp, n_rows, n_columns):
    image = np.random.default_rng(1).standard_normal((n_rows, n_columns)).astype(np.float32)
    base, joins = n_columns, 0
    while base > 15:
        base, joins = -(-base // 2), joins + 1
    lengths = []
    for lines in line_sums(xp.asarray(image[None])):
        sums = backend.to_host(lines.sums)[0]
        expected = oracle_streaks.line_sums(image, lines.length, base)
        sizes = oracle_streaks.line_sums(np.abs(image), lines.length, base)
        for place, total in expected.items():
            block, displacement, first = place
            # one rounding per addition, each of at most half an epsilon of what was added up so far
            rounding = (base + joins) * np.finfo(np.float32).eps / 2 * sizes[place]
            assert abs(float(sums[block, displacement, first - lines.first]) - total) <= rounding
        lengths.append(lines.length)
    assert lengths == [base << k for k in range(joins + 1)]


def lines_in(streaks):
    """(sign, z, ends) of each line, the highest first."""
    order = np.argsort(-np.asarray(streaks.z))
    return [(int(streaks.sign[i]), float(streaks.z[i]), np.asarray(streaks.ends[i], float)) for i in order]


@pytest.fixture(scope="module")
def crowded():
    scene = make(Recipe(crest=2.0, trails=2, size=(448, 512), **EVERYTHING), SEED + 3)
    streaks = find(scene)
    assert len(streaks.z) == 2
    return scene, streaks


@pytest.mark.parametrize(
    ("turn", "back"),
    [
        (np.transpose, lambda ends, shape: ends[:, ::-1]),
        (np.flipud, lambda ends, shape: ends * [-1, 1] + [shape[0] - 1, 0]),
        (np.fliplr, lambda ends, shape: ends * [1, -1] + [0, shape[1] - 1]),
    ],
    ids=["transposed", "flipped in y", "flipped in x"],
)
def test_a_turned_image_has_the_same_lines(crowded, turn, back):
    scene, streaks = crowded
    planes = [np.ascontiguousarray(turn(plane)) for plane in (scene.difference, scene.variance, scene.bad)]
    other = find_streaks(*planes, psf_sigma=scene.psf_sigma)
    assert len(other.z) == len(streaks.z)
    for (sign, z, ends), (other_sign, other_z, other_ends) in zip(lines_in(streaks), lines_in(other)):
        assert other_sign == sign
        assert other_z == pytest.approx(z, rel=0.02)
        placed = back(other_ends, scene.bad.shape)
        assert measures.near(ends, placed).all()
        assert measures.near(placed, ends).all()


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**10])
def test_units_of_the_image_do_not_matter(crowded, scale):
    """A power of two changes no mantissa, so everything is equal to the bit."""
    scene, streaks = crowded
    scale = np.float32(scale)
    other = find_streaks(scene.difference * scale, scene.variance * scale**2, scene.bad, psf_sigma=scene.psf_sigma)
    np.testing.assert_array_equal(other.mask, streaks.mask)
    np.testing.assert_array_equal(other.ends, streaks.ends)
    np.testing.assert_array_equal(other.z, streaks.z)


def test_two_runs_are_equal_and_inputs_stay(crowded):
    scene, streaks = crowded
    planes = [plane.copy() for plane in (scene.difference, scene.variance, scene.bad)]
    for plane in planes:
        plane.setflags(write=False)
    again = find_streaks(*planes, psf_sigma=scene.psf_sigma)
    for name in ("ends", "z", "sign", "width", "amplitude", "mask"):
        np.testing.assert_array_equal(getattr(again, name), getattr(streaks, name), err_msg=name)


def test_backends_agree_on_small_images(xp):
    scene = make(Recipe(size=160, crest=3.0), SEED + 1)
    host = find(scene, min_length=64)
    streaks = find(scene, xp, min_length=64)
    assert len(host.z) == 1
    np.testing.assert_array_equal(backend.to_host(streaks.mask), host.mask)
    np.testing.assert_array_equal(backend.to_host(streaks.sign), host.sign)
    np.testing.assert_allclose(backend.to_host(streaks.ends), host.ends, atol=1e-2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 2), (5, 7), (16, 16), (64, 60)])
def test_tiny_images_have_no_lines(shape):
    rng = np.random.default_rng(2)
    planes = rng.standard_normal(shape).astype(np.float32), np.ones(shape, np.float32), np.zeros(shape, bool)
    streaks = find_streaks(*planes, psf_sigma=2.0)
    assert len(streaks.z) == 0
    assert streaks.mask.shape == shape
    assert not streaks.mask.any()


@pytest.mark.parametrize("share", [1.0, 0.98])
def test_nothing_good_or_almost_nothing(share):
    """Neither an error nor a line where all pixels are bad, or all but a few."""
    shape = (256, 300)
    rng = np.random.default_rng(3)
    bad = rng.random(shape) < share
    difference = np.where(bad, np.nan, rng.standard_normal(shape)).astype(np.float32)
    streaks = find_streaks(difference, np.ones(shape, np.float32), bad, psf_sigma=2.0)
    assert len(streaks.z) == 0
    assert not streaks.mask.any()


def test_a_constant_image_has_no_lines():
    shape = (256, 256)
    streaks = find_streaks(
        np.zeros(shape, np.float32), np.ones(shape, np.float32), np.zeros(shape, bool), psf_sigma=2.0
    )
    assert len(streaks.z) == 0
