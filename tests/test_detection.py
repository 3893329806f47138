"""Threshold detection, growth and merging."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from gpucoadd import Detection
from gpucoadd.backend import to_host
from gpucoadd.detection import NothingUndetectedError, detect, detect_template, growth_radius, smoothing_kernel


def found(image, variance=1.0, xp=np, psf_sigma=1.0, mask=None, exclude=0, **options):
    """Label image of what is detected with no growth unless asked for."""
    image = np.asarray(image, np.float32)
    variance = np.broadcast_to(np.float32(variance), image.shape).copy()
    mask = np.zeros(image.shape, np.int32) if mask is None else mask
    options = {"min_pixels": 1, "grow_sigma": 0.0, **options}
    footprints, _ = detect(
        *(xp.asarray(plane)[None] for plane in (image, variance, mask)),
        psf_sigma=[psf_sigma],
        config=Detection(**options),
        exclude=exclude,
    )
    labels = np.zeros(image.size, int)
    labels[to_host(footprints.pixels)] = to_host(footprints.labels)
    return labels.reshape(image.shape), footprints


def spots(shape, *pixels):
    image = np.zeros(shape, np.float32)
    for y, x, value in pixels:
        image[y, x] = value
    return image


def test_the_threshold_itself_is_detected(xp):
    """Walks across the threshold, one float32 step at a time, where the variance has no exact root."""
    variance = np.float32(2.3)
    limit = 7.5 * np.sqrt(np.float64(variance))
    values = [np.float32(limit)]
    for _ in range(20):
        values = [np.nextafter(values[0], np.float32(0)), *values, np.nextafter(values[-1], np.float32(100))]
    image = np.zeros((1, 2 * len(values)), np.float32)
    image[0, ::2] = values
    labels, _ = found(image, variance, xp)
    assert_array_equal(labels[0, ::2] > 0, np.array(values, np.float64) >= limit)


def test_zero_variance_qualifies_and_infinite_or_nan_never(xp):
    image = np.array([[0.0, 5.0, 1e30, np.nan, np.inf, 3.0]], np.float32)
    variance = np.array([[0.0, 0.0, np.inf, 1.0, 1.0, np.nan]], np.float32)
    labels, _ = found(image, variance, xp)
    assert_array_equal(labels > 0, [[True, True, False, False, True, False]])


def test_polarities_are_connected_apart_and_merged_where_they_touch(xp):
    image = spots((5, 9), (1, 1, 9), (2, 2, -9), (2, 7, -9))
    labels, footprints = found(image, xp=xp)
    assert footprints.n_footprints == 2
    assert labels[1, 1] == labels[2, 2] != labels[2, 7]
    # two pixels of either sign are too few each, though together they are enough
    assert found(image, xp=xp, min_pixels=2)[1].n_footprints == 0


@pytest.mark.parametrize(("polarity", "where"), [("positive", (1, 1)), ("negative", (3, 3))])
def test_one_polarity(polarity, where):
    labels, footprints = found(spots((5, 5), (1, 1, 9), (3, 3, -9)), polarity=polarity)
    assert footprints.n_footprints == 1 and labels[where] == 1


def test_small_footprints_go_before_growing():
    image = spots((9, 9), (1, 1, 9), (5, 5, 9), (5, 6, 9))
    labels, footprints = found(image, min_pixels=2, grow_sigma=1.0)
    assert footprints.n_footprints == 1 and labels[1, 1] == 0 and labels[4, 5] == 1


def test_growth_merges_what_touches_even_diagonally():
    image = spots((7, 9), (2, 2, 9), (4, 4, 9))
    assert found(image)[1].n_footprints == 2
    assert found(image, grow_sigma=1.0)[1].n_footprints == 1
    apart = found(image, grow_sigma=1.0, combined_grow=False, polarity="positive")[1]
    assert apart.n_footprints == 2
    assert_array_equal(apart.areas()[1:], [5, 5])


def test_growth_without_merging_may_overlap_and_stays_inside():
    image = spots((4, 6), (0, 1, 9), (0, 3, 9))
    apart = found(image, grow_sigma=1.0, combined_grow=False, polarity="positive")[1]
    assert_array_equal(apart.areas()[1:], [4, 4])
    assert len(np.unique(apart.pixels)) == 7


def test_diamond():
    image = spots((11, 11), (5, 5, 9))
    assert found(image, grow_sigma=3.0, isotropic_grow=False)[0].astype(bool).sum() == 25
    assert found(image, grow_sigma=3.0)[0].astype(bool).sum() == 29


def test_return_original_keeps_footprints_small():
    assert (found(spots((9, 9), (4, 4, 9)), grow_sigma=2.0, return_original=True)[0] > 0).sum() == 1


def test_include_multiplier_asks_for_a_peak():
    image = spots((5, 9), (1, 1, 8), (1, 6, 20))
    labels, footprints = found(image, include_multiplier=2.0)
    assert footprints.n_footprints == 1 and labels[1, 6] == 1


def test_excluded_planes():
    mask = np.zeros((5, 5), np.int32)
    mask[1, 1] = 4
    assert found(spots((5, 5), (1, 1, 9)), mask=mask, exclude=4)[1].n_footprints == 0


@pytest.mark.parametrize(("kind", "limit"), [("value", 7.5), ("stdev", 7.5 * 2.0), ("variance", 7.5 * 2.0)])
def test_threshold_types(kind, limit):
    image = (np.random.default_rng(4).normal(size=(64, 64)) * 2).astype(np.float32)
    image[10, 10] = limit * 1.1
    image[20, 20] = -limit * 1.1
    labels, _ = found(image, variance=1e9, threshold_type=kind)
    assert labels[10, 10] > 0 and labels[20, 20] > 0
    if kind != "value":
        assert (labels > 0).sum() == 2


@pytest.mark.parametrize(("grow", "sigma", "radius"), [(0.4, 2.2, 1), (0.4, 1.24, 0), (2.4, 2.6, 6), (0.0, np.nan, 0)])
def test_growth_radius(grow, sigma, radius):
    assert growth_radius(sigma, Detection(grow_sigma=grow)) == radius


@pytest.mark.parametrize("sigma", [np.nan, 0.0, -1.0, np.inf])
def test_growth_needs_a_psf(sigma):
    with pytest.raises(ValueError, match="psf_sigma must be finite and positive to grow"):
        growth_radius(sigma, Detection(grow_sigma=1.0))


TEMPLATE = Detection(threshold=50.0, polarity="positive", min_pixels=1, grow_sigma=2.4, reestimate_background=True)


def star(shape, y, x, flux, sigma=2.0):
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    return (flux * np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * sigma**2))).astype(np.float32)


def test_template_sources(xp):
    image = star((80, 80), 40, 30, 100) + star((80, 80), 0, 60, 100)
    (labels,) = map(
        to_host, detect_template(xp.asarray(image), xp.ones((80, 80), dtype=xp.float32), psf_sigma=2.0, config=TEMPLATE)
    )
    assert labels.max() == 1 and labels[40, 30] == 1
    assert labels[0, 60] == 0  # within half a kernel of the border nothing is searched


def test_template_smoothing_spreads_nan_over_the_kernel_only():
    image = star((80, 80), 40, 30, 1000)
    image[40, 60] = np.nan
    (labels,) = detect_template(image, np.ones((80, 80), np.float32), psf_sigma=2.0, config=TEMPLATE)
    assert labels[40, 30] == 1


def test_template_smaller_than_the_kernel_has_no_sources():
    image = star((12, 12), 6, 6, 1e6)
    (labels,) = detect_template(image, np.ones((12, 12), np.float32), psf_sigma=2.0, config=TEMPLATE)
    assert not labels.any()


def test_template_all_footprint():
    image = np.full((60, 60), 1e6, np.float32)
    with pytest.raises(NothingUndetectedError, match="cover all"):
        detect_template(image, np.ones((60, 60), np.float32), psf_sigma=2.0, config=TEMPLATE)


def test_template_needs_a_psf():
    with pytest.raises(ValueError, match="psf_sigma of the template"):
        detect_template(np.ones((9, 9), np.float32), np.ones((9, 9), np.float32), psf_sigma=np.nan, config=TEMPLATE)


@pytest.mark.parametrize("sigma", [0.8, 1.7, 2.6, 3.3])
def test_kernel_length(sigma):
    kernel = smoothing_kernel(sigma, 7.0)
    assert len(kernel) == (int(7 * sigma + 0.5) // 2) * 2 + 1
    assert kernel.sum() == pytest.approx(1)
