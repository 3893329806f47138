"""Small cases worked out by LSST's own code, number by number; and random small skies against the definition."""

from __future__ import annotations

import goldens
import numpy as np
import oracles
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scenes import PLANES, random_sky

import gpucoadd

CONFIG = {"detect.minPixels": 1, "doScaleWarpVariance": False, "doPreserveContainedBySource": False}


def coadd_of(image, *, psf_sigma=1.0, overrides=None):
    """Coadd of (epoch, y, x) `image` with variance 1, no masks, its own PSF-matched twin."""
    image = np.asarray(image, dtype=np.float32)
    variance, mask = np.ones_like(image), np.zeros(image.shape, np.int32)
    common = {"schema": gpucoadd.MaskSchema.lsst(), "psf_sigma": [psf_sigma] * len(image)}
    matched = gpucoadd.WarpStack(image, variance, mask, **common)
    warps = gpucoadd.WarpStack(image, variance, mask, psf_matched=matched, **common)
    return gpucoadd.coadd(warps, config=gpucoadd.CoaddConfig.from_lsst({**CONFIG, **(overrides or {})}))


def zeros(n_epochs):
    return np.zeros((n_epochs, 5, 5), np.float32)


def has(coadd, *planes):
    return coadd.mask & coadd.schema.bitmask(*planes) != 0


def test_one_flash_in_one_of_five():
    image = zeros(5)
    image[0, 2, 2] = 50
    result = coadd_of(image)
    spot = image[0] > 0
    assert_array_equal(result.template.image, 0)
    assert_array_equal(result.epoch_count, spot.astype(int))
    assert_array_equal(result.clipped, np.stack([spot] + [np.zeros_like(spot)] * 4))
    assert_array_equal(result.image, 0)
    assert_allclose(result.variance, np.where(spot, 0.25, 0.2), rtol=1e-6)
    assert_array_equal(result.n_image, np.where(spot, 4, 5))
    assert_array_equal(result.mask, np.where(spot, result.schema.bitmask("CLIPPED", "INEXACT_PSF"), 0))


def test_three_of_five_are_the_sky():
    image = zeros(5)
    image[:3, 2, 2] = 50
    result = coadd_of(image)
    assert_allclose(result.template.image[2, 2], 30, rtol=1e-6)
    assert result.epoch_count[2, 2] == 5
    assert not result.clipped.any()
    assert_allclose(result.image, np.where(image[0] > 0, 30, 0), rtol=1e-6)
    assert_array_equal(result.n_image, 5)
    assert_array_equal(result.mask, 0)


def test_two_of_six_are_not_removed():
    image = zeros(6)
    image[:2, 1, 1] = 50
    result = coadd_of(image)
    assert_allclose(result.template.image[1, 1], 50 / 3, rtol=1e-6)
    assert result.epoch_count[1, 1] == 6
    assert not result.clipped.any()
    assert_allclose(result.image[1, 1], 50 / 3, rtol=1e-6)
    assert_array_equal(result.mask, 0)


def test_growing_takes_the_neighbours():
    image = zeros(5)
    image[0, 2, 1:4] = 50
    result = coadd_of(image, psf_sigma=2.0)
    grown = np.zeros((5, 5), bool)
    grown[2] = grown[1:4, 1:4] = True
    assert grown.sum() == 11
    assert_array_equal(result.clipped[0], grown)
    assert not result.clipped[1:].any()
    assert_allclose(result.variance, np.where(grown, 0.25, 0.2), rtol=1e-6)
    assert_array_equal(result.n_image, np.where(grown, 4, 5))
    assert_array_equal(has(result, "CLIPPED"), grown)


def test_one_of_three():
    image = zeros(3)
    image[0, 2, 2] = 50
    result = coadd_of(image)
    spot = image[0] > 0
    assert_array_equal(result.clipped[0], spot)
    assert_allclose(result.variance, np.where(spot, 0.5, 1 / 3), rtol=1e-6)


@pytest.mark.parametrize("n_epochs", [1, 2])
def test_two_epochs_clip_nothing(n_epochs):
    image = zeros(n_epochs)
    image[0, 2, 2] = 50
    result = coadd_of(image)
    assert not result.clipped.any()
    assert_allclose(result.image[2, 2], 50 / n_epochs, rtol=1e-6)


def test_spatial_threshold_is_strict():
    image = zeros(5)
    image[0, 2, 2] = 50
    assert coadd_of(image, overrides={"spatialThreshold": 0.999}).clipped.any()
    assert not coadd_of(image, overrides={"spatialThreshold": 1.0}).clipped.any()


@pytest.mark.parametrize("sign", [1, -1])
def test_detection_threshold_is_inclusive(sign):
    overrides = {"detect.thresholdType": "value", "detect.thresholdValue": 30.0}
    for flash, found in ((30.0, True), (np.nextafter(np.float32(30), np.float32(0)), False)):
        image = zeros(5)
        image[0, 2, 2] = sign * flash
        assert coadd_of(image, overrides=overrides).clipped.any() == found


@pytest.mark.parametrize(
    ("epochs", "limit"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (33, 2), (34, 3), (67, 4)]
)
@pytest.mark.parametrize("above", [0, 1])
def test_epoch_limit(epochs, limit, above):
    """A footprint seen in as many epochs as the limit is an artifact; seen in one more it is not."""
    footprint = np.zeros((3, 3), bool)
    footprint[1, 1] = True
    count = np.where(footprint, limit + above, 0).astype(np.int32)
    n_image = np.full((3, 3), epochs, np.int32)
    artifact = gpucoadd.filter_artifacts(footprint, count, n_image)
    assert artifact.any() == (limit > 0 and above == 0)


# ---------------------------------------------------------------------------------------
# Random small skies against the definition

VARIANTS = [
    {},
    {"detect.thresholdPolarity": "positive", "detect.minPixels": 2, "detect.nSigmaToGrow": 1.2},
    {"detect.isotropicGrow": False, "detect.nSigmaToGrow": 1.5, "detect.thresholdPolarity": "negative"},
    {"detect.thresholdType": "value", "detect.thresholdValue": 9.0, "detect.includeThresholdMultiplier": 1.5},
    {"detectTemplate.thresholdValue": 12.0, "spatialThreshold": 0.2},
    {"detectTemplate.thresholdValue": 12.0, "detectTemplate.isotropicGrow": False, "detectTemplate.minPixels": 5},
    {"maxNumEpochs": 1, "maxFractionEpochsLow": 0.7, "maxFractionEpochsHigh": 0.3, "prefilterArtifactsRatio": 0.6},
    {"prefilterArtifactsMaskPlanes": ["EDGE", "NOT_A_PLANE"], "prefilterArtifactsRatio": 0.5},
    {"statistic": "MEDIAN", "assembleStaticSkyModel.statistic": "MEDIAN"},
    {"statistic": "MEANCLIP", "calcErrorFromInputVariance": False, "clipIter": 3, "sigmaClip": 2.5},
    {"doOnlineForMean": True, "maskPropagationThresholds": {"SAT": 0.3, "BAD": 0.1}},
    {"badMaskPlanes": ["NO_DATA", "SAT", "CR", "EDGE"], "removeMaskPlanes": ["STREAK"]},
    {"badMaskPlanes": ["SAT"], "assembleStaticSkyModel.badMaskPlanes": ["NO_DATA", "BAD"]},
    {"doInterp": False, "assembleStaticSkyModel.doInterp": False, "doScaleWarpVariance": False},
    {"doPrefilterArtifacts": False, "doPreserveContainedBySource": False, "subregionSize": [7, 5]},
]


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
@pytest.mark.parametrize("seed", [1, 2])
def test_random_sky(seed, variant):
    overrides = VARIANTS[variant]
    golden = goldens.from_oracle(random_sky(100 * seed + variant), PLANES, overrides)
    goldens.check_coadd(goldens.run(golden), golden)


def test_template_detected_everywhere():
    """No threshold that is tried leaves a pixel to estimate a background from: both give up."""
    inputs, overrides = random_sky(504), VARIANTS[4]
    with pytest.raises(oracles.TooManyMaskedPixels):
        oracles.compare_warp(inputs, PLANES, overrides)
    golden = goldens.Golden("sky", {"mask_planes": PLANES, "config_overrides": overrides}, inputs)
    with pytest.raises(ValueError, match="cover"):
        goldens.run(golden)


def test_template_threshold_is_raised():
    """A template that is detected everywhere at first, but not at a higher threshold."""
    golden = goldens.from_oracle(random_sky(1404), PLANES, VARIANTS[4])
    goldens.check_coadd(goldens.run(golden), golden)


@pytest.mark.parametrize("seed", range(4))
def test_random_plain_coadd(seed):
    overrides = [{}, {"statistic": "MEAN"}, {"statistic": "VARIANCE"}, {"clipIter": 4, "doInterp": False}][seed]
    golden = goldens.from_oracle(random_sky(seed), PLANES, overrides, base_task=True)
    goldens.check_coadd(goldens.run(golden), golden)


@pytest.mark.parametrize("seed", range(20))
def test_steps_equal_their_definition(seed):
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(1, 30)), int(rng.integers(1, 30))
    footprints = rng.random(shape) < rng.choice([0.1, 0.3, 0.5])
    labels, _ = oracles.flood_fill(footprints)
    count = (footprints * rng.integers(1, 4, shape)).astype(np.int32)
    n_image = rng.integers(0, 9, shape).astype(np.int32)
    protected, _ = oracles.flood_fill(oracles.dilate(rng.random(shape) < 0.02, 3))
    for template in (None, protected):
        expected = oracles.filter_artifacts(labels, count, n_image, template, spatial_threshold=0.5)
        for given in (footprints, labels):
            got = gpucoadd.filter_artifacts(given, count, n_image, template_footprints=template)
            assert_array_equal(got, expected)
    schema = gpucoadd.MaskSchema(PLANES)
    mask = np.where(rng.random(shape) < 0.9, schema.bitmask(str(rng.choice(["BAD", "SUSPECT", "CR"]))), 0).astype(
        np.int32
    )
    expected = oracles.prefilter(labels, mask, bad_bits=schema.bitmask("NO_DATA", "BAD", "SUSPECT"))
    assert_array_equal(gpucoadd.prefilter_artifacts(footprints, mask, schema=schema), expected)
