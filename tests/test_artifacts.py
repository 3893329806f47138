"""The artifact search: what goes, what stays."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scenes import SCHEMA, flat_stack, from_image

import gpucoadd
from gpucoadd import CoaddConfig, Detection, MaskedImage, Persistence, Prefilter
from gpucoadd.backend import to_host

PLAIN = CoaddConfig.from_lsst({"doScaleWarpVariance": False, "doPreserveContainedBySource": False})


def sky(shape, value=0.0, variance=0.1, origin=(0, 0), xp=np):
    return MaskedImage(
        xp.full(shape, value, dtype=xp.float32),
        xp.full(shape, variance, dtype=xp.float32),
        xp.zeros(shape, dtype=xp.int32),
        schema=SCHEMA,
        origin=origin,
    )


def image_of(n_epochs, shape, seed=2):
    return np.random.default_rng(seed).normal(size=(n_epochs, *shape)).astype(np.float32)


def test_trail_is_clipped_and_nothing_else(xp):
    image = image_of(8, (40, 48))
    trail = np.zeros(image.shape, bool)
    trail[3, 20:23, :] = True
    image[trail] += 30
    found = gpucoadd.find_artifacts(from_image(image, xp=xp), sky((40, 48), xp=xp), config=PLAIN)
    assert_array_equal(to_host(found.clipped), trail)
    assert_array_equal(to_host(found.epoch_count), trail.sum(axis=0))
    assert_array_equal(to_host(found.n_image_matched), 8)


def test_negative_artifacts_count_too():
    image = image_of(8, (40, 48))
    image[2, 10:14, 10:14] -= 30
    found = gpucoadd.find_artifacts(from_image(image), sky((40, 48)), config=PLAIN)
    assert found.clipped.sum() == 16 and found.clipped[2, 11, 11]


@pytest.mark.parametrize(("n_bright", "clipped"), [(1, True), (2, True), (3, False), (8, False)])
def test_variable_star_stays(n_bright, clipped):
    """With 8 epochs, int(min(0.4 * 8, 2 + 0.03 * 8)) = 2 of them may be artifacts."""
    image = image_of(8, (40, 48))
    image[:n_bright, 10:14, 10:14] += 50
    found = gpucoadd.find_artifacts(from_image(image), sky((40, 48)), config=PLAIN)
    assert found.clipped.any() == clipped


def test_absent_twins_have_no_data_and_do_not_count():
    warps = flat_stack(3, epochs=[10, 11, 12])
    found = gpucoadd.find_artifacts(warps, sky((40, 48)), config=PLAIN, epochs=[11, 99])
    assert found.epochs == (11, 99)
    assert not found.no_data[0].any() and found.no_data[1].all() and not found.edge[1].any()
    assert_array_equal(found.n_image_matched, 1)


def test_nan_is_no_data_and_edges_are_reported(xp):
    image = image_of(4, (20, 20))
    image[1, 5:8, 5:8] = np.nan
    mask = np.zeros(image.shape, np.int32)
    mask[2, :, :2] = SCHEMA.bitmask("EDGE")
    mask[0, 0, 0] = SCHEMA.bitmask("SAT")
    found = gpucoadd.find_artifacts(from_image(image, mask=mask, xp=xp), sky((20, 20), xp=xp), config=PLAIN)
    assert_array_equal(to_host(found.no_data), np.isnan(image))
    assert to_host(found.edge)[2, :, :2].all() and int(found.edge.sum()) == 40
    assert int(found.n_image_matched[0, 0]) == 3 and int(found.n_image_matched[6, 6]) == 3


def test_variance_is_rescaled_or_left_alone():
    warps = flat_stack(3, shape=(96, 96), noise=2.0)
    too_small = gpucoadd.WarpStack(
        warps.image, np.ones_like(warps.image), warps.mask, schema=SCHEMA, psf_sigma=[1.0] * 3
    )
    found = gpucoadd.find_artifacts(too_small, sky((96, 96)), config=CoaddConfig())
    assert found.variance_scale == pytest.approx([4] * 3, rel=0.1)
    off = gpucoadd.find_artifacts(too_small, sky((96, 96)), config=PLAIN)
    assert np.isnan(off.variance_scale).all()


def test_candidates_inside_one_template_source_are_spared():
    shape = (120, 120)
    yy, xx = np.mgrid[:120, :120]
    source = (3e4 * np.exp(-((yy - 60) ** 2 + (xx - 60) ** 2) / (2 * 4.0**2))).astype(np.float32)
    image = image_of(8, shape) + source
    image[2, 58:62, 58:62] += 400
    image[3, 20:24, 20:24] += 400
    template = MaskedImage(source, np.full(shape, 0.1, np.float32), np.zeros(shape, np.int32), schema=SCHEMA)
    keep = CoaddConfig.from_lsst({"doScaleWarpVariance": False})
    found = gpucoadd.find_artifacts(from_image(image, sigma=2.0), template, config=keep)
    assert not found.clipped[2].any() and found.clipped[3].any()
    assert found.template_footprints[60, 60] > 0
    assert gpucoadd.find_artifacts(from_image(image, sigma=2.0), template, config=PLAIN).clipped[2].any()


def test_the_threshold_rises_until_the_template_is_not_all_source():
    shape = (60, 60)
    image = np.full(shape, 700, np.float32)
    image[30, 30] = 1e6
    template = MaskedImage(image, np.ones(shape, np.float32), np.zeros(shape, np.int32), schema=SCHEMA)
    warps = from_image(np.repeat(image[None], 3, 0), sigma=1.0)
    config = CoaddConfig.from_lsst({"doScaleWarpVariance": False, "detectTemplateIterMultiplier": 4.0})
    found = gpucoadd.find_artifacts(warps, template, config=config)
    assert found.template_footprints[30, 30] > 0 and found.template_footprints[5, 5] == 0
    with pytest.raises(ValueError, match="cover all"):
        config = CoaddConfig.from_lsst({"doScaleWarpVariance": False, "detectTemplateIterMultiplier": 1.0})
        gpucoadd.find_artifacts(warps, template, config=config)


def test_template_must_share_the_grid():
    with pytest.raises(ValueError, match="must share one pixel grid"):
        gpucoadd.find_artifacts(flat_stack(), sky((40, 47)))
    with pytest.raises(ValueError, match="at origin \\(1, 0\\)"):
        gpucoadd.find_artifacts(flat_stack(), sky((40, 48), origin=(1, 0)))


# filter, prefilter, edges on plain arrays


def planes(footprints, count, n):
    footprints = np.asarray(footprints, bool)
    return footprints, np.asarray(count, np.int32), np.full(footprints.shape, n, np.int32)


@pytest.mark.parametrize(("n", "limit"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (33, 2), (34, 3), (67, 4)])
def test_epoch_limit(n, limit):
    for count in range(1, 6):
        kept = gpucoadd.filter_artifacts(*planes([[True]], [[count]], n))
        assert bool(kept[0, 0]) == (count <= limit)


def test_spatial_threshold_is_strict():
    half = planes([[True] * 4], [[1, 1, 9, 9]], 10)
    assert not gpucoadd.filter_artifacts(*half).any()
    assert gpucoadd.filter_artifacts(*half, config=Persistence(spatial_threshold=0.4)).all()
    none = planes([[True]], [[9]], 10)
    assert not gpucoadd.filter_artifacts(*none, config=Persistence(spatial_threshold=0.0)).any()
    every = planes([[True]], [[1]], 10)
    assert not gpucoadd.filter_artifacts(*every, config=Persistence(spatial_threshold=1.0)).any()


def test_two_template_footprints_do_not_shield_together(xp):
    footprints, count, n = (xp.asarray(a) for a in planes([[True] * 4], [[1] * 4], 10))
    for template, spared in (([1, 1, 2, 2], False), ([3, 3, 3, 3], True), ([1, 1, 1, 0], False)):
        labels = xp.asarray(np.array([template], np.int32))
        kept = gpucoadd.filter_artifacts(footprints, count, n, template_footprints=labels)
        assert bool(kept.any()) != spared


def test_label_images_are_taken_as_they_are():
    labels = np.array([[1, 1, 2, 2]], np.int32)  # touching, yet apart
    count = np.array([[1, 1, 9, 9]], np.int32)
    kept = gpucoadd.filter_artifacts(labels, count, np.full((1, 4), 10, np.int32))
    assert_array_equal(kept, [[True, True, False, False]])
    with pytest.raises(ValueError, match="negative labels"):
        gpucoadd.filter_artifacts(-labels, count, count)


@pytest.mark.parametrize(("n_good", "stays"), [(0, False), (1, False), (2, True)])
def test_prefilter_ratio_is_strict(n_good, stays):
    footprints = np.ones((1, 20), bool)
    mask = np.full((1, 20), SCHEMA.bitmask("SUSPECT"), np.int32)
    mask[0, :n_good] = SCHEMA.bitmask("CR")
    assert gpucoadd.prefilter_artifacts(footprints, mask, schema=SCHEMA).any() == stays


def test_prefilter_ignores_unknown_planes():
    footprints = np.ones((1, 4), bool)
    config = Prefilter(planes=("NO_SUCH_PLANE",))
    kept = gpucoadd.prefilter_artifacts(footprints, np.full((1, 4), -1, np.int32), schema=SCHEMA, config=config)
    assert kept.all()


def test_propagate_edges(xp):
    schema = SCHEMA.with_planes("SENSOR_EDGE", "INEXACT_PSF")
    mask = xp.zeros((2, 2), dtype=xp.int32)
    edge = xp.asarray(np.array([[[True, False], [False, False]], [[False, False], [False, True]]]))
    both = schema.bitmask("SENSOR_EDGE", "INEXACT_PSF")
    assert_array_equal(to_host(gpucoadd.propagate_edges(mask, edge, schema=schema)), [[both, 0], [0, both]])
    assert not bool(mask.any())
    with pytest.raises(KeyError, match="SENSOR_EDGE"):
        gpucoadd.propagate_edges(mask, edge, schema=SCHEMA)
    with pytest.raises(ValueError, match="edge is \\(epoch, y, x\\)"):
        gpucoadd.propagate_edges(mask, edge[0], schema=schema)


def test_shapes_must_agree():
    plane = np.ones((2, 3), bool)
    with pytest.raises(ValueError, match="n_image has shape"):
        gpucoadd.filter_artifacts(plane, np.ones((2, 3), np.int32), np.ones((3, 2), np.int32))
    with pytest.raises(ValueError, match="one epoch"):
        stack = np.ones((1, 2, 3), bool)
        gpucoadd.filter_artifacts(stack, stack.astype(np.int32), stack.astype(np.int32))
    with pytest.raises(TypeError, match="footprints must be int32"):
        gpucoadd.filter_artifacts(plane.astype(float), np.ones((2, 3), np.int32), np.ones((2, 3), np.int32))


def test_lower_threshold_finds_fainter_trails():
    image = image_of(8, (40, 48))
    image[3, 20:23] += 6.8
    config = CoaddConfig.from_lsst({"doScaleWarpVariance": False, "doPreserveContainedBySource": False})
    lower = dataclasses.replace(config, detection=Detection(threshold=4.0))
    few = gpucoadd.find_artifacts(from_image(image), sky((40, 48)), config=config).clipped.sum()
    many = gpucoadd.find_artifacts(from_image(image), sky((40, 48)), config=lower).clipped.sum()
    assert many > 2 * few


def two_sources(value=4000.0):
    """Two stars whose grown footprints overlap in the middle, and an artifact at the right of the left one."""
    yy, xx = np.mgrid[:41, :61]
    sky = sum(value * np.exp(-((yy - 20) ** 2 + (xx - c) ** 2) / 2) for c in (24, 36)).astype(np.float32)
    image = np.repeat(sky[None], 5, 0)
    image[0, 20, 26:30] += 100
    return image


@pytest.mark.parametrize("combined", [True, False])
def test_overlapping_template_footprints_each_spare_what_is_inside_them(combined):
    """The artifact lies in the left footprint alone, though partly in the overlap with the right one."""
    overrides = {"detectTemplate.nSigmaToGrow": 5.0, "detectTemplate.combinedGrow": combined, "detect.minPixels": 1}
    config = CoaddConfig.from_lsst({**overrides, "doScaleWarpVariance": False})
    result = gpucoadd.coadd(from_image(two_sources()), config=config)
    assert result.epoch_count.any() and not result.clipped.any()
    assert (result.template_footprints.max() == 1) == combined


def test_excluded_pixels_are_searched_as_zeros():
    """So they do not widen the scatter that the threshold is a multiple of."""
    image = np.random.default_rng(1).normal(size=(5, 5, 40)).astype(np.float32) * np.float32(0.1)
    image[0, :, :12] = 100
    image[0, 0, 35] = 9
    mask = np.zeros(image.shape, np.int32)
    mask[0, :, :12] = SCHEMA.bitmask("CR")
    overrides = {"detect.excludeMaskPlanes": ["CR"], "detect.thresholdType": "stdev", "detect.minPixels": 1}
    config = CoaddConfig.from_lsst(
        {**overrides, "doScaleWarpVariance": False, "doPreserveContainedBySource": False, "detect.nSigmaToGrow": 0.0}
    )
    found = gpucoadd.find_artifacts(from_image(image, mask=mask), sky((5, 40)), config=config)
    assert found.epoch_count[0, 35] and not found.epoch_count[:, :12].any()


def test_detected_bits_of_a_warp_exclude_nothing():
    image = image_of(5, (20, 20))
    image[0, 5:8, 5:8] += 50
    mask = np.full(image.shape, SCHEMA.bitmask("DETECTED"), np.int32)
    config = CoaddConfig.from_lsst(
        {
            "detect.excludeMaskPlanes": ["DETECTED"],
            "doScaleWarpVariance": False,
            "doPreserveContainedBySource": False,
        }
    )
    assert gpucoadd.find_artifacts(from_image(image, mask=mask), sky((20, 20)), config=config).clipped[0, 6, 6]


@pytest.mark.parametrize("position", [1, 2, 3])
def test_counts_must_be_integers(position):
    planes = [np.ones((4, 5), bool), *(np.ones((4, 5), np.int32) for _ in range(3))]
    planes[position] = planes[position].astype(np.float32)
    name = ("", "epoch_count", "n_image", "template_footprints")[position]
    with pytest.raises(TypeError, match=f"{name} must be integers, got float32; convert it"):
        gpucoadd.filter_artifacts(*planes[:3], template_footprints=planes[3])
