"""Options off their defaults, and awkward inputs, on random small skies against the definition."""

from __future__ import annotations

import goldens
import numpy as np
import oracles
import pytest
from numpy.testing import assert_array_equal
from scenes import PLANES, random_sky

SKY = "assembleStaticSkyModel."
GROWN = {"detect.nSigmaToGrow": 1.5, "detect.minPixels": 1}
COADD = {
    "type stdev": {"detect.thresholdType": "stdev", "detect.thresholdValue": 4.0},
    "type variance": {"detect.thresholdType": "variance", "detect.thresholdValue": 6.0, "detect.minPixels": 2},
    "type value": {"detect.thresholdType": "value", "detect.thresholdValue": 11.0},
    "type value, excluded": {"detect.thresholdType": "value", "detect.excludeMaskPlanes": ["CR", "NO_PLANE"]},
    "template type stdev": {"detectTemplate.thresholdType": "stdev", "detectTemplate.thresholdValue": 3.0},
    "positive": {"detect.thresholdPolarity": "positive"},
    "negative": {"detect.thresholdPolarity": "negative"},
    "diamond": {"detect.isotropicGrow": False, **GROWN},
    "diamond, one polarity": {"detect.isotropicGrow": False, "detect.thresholdPolarity": "positive", **GROWN},
    "not combined": {"detect.combinedGrow": False, "detect.thresholdPolarity": "positive", **GROWN},
    "not combined, negative": {
        "detect.combinedGrow": False,
        "detect.thresholdPolarity": "negative",
        "detect.isotropicGrow": False,
        "detect.nSigmaToGrow": 2.5,
        "spatialThreshold": 0.2,
    },
    "not combined, both": {"detect.combinedGrow": False, **GROWN},
    "original": {"detect.returnOriginalFootprints": True, **GROWN},
    "original, positive": {
        "detect.returnOriginalFootprints": True,
        "detect.combinedGrow": False,
        "detect.thresholdPolarity": "positive",
        **GROWN,
    },
    "multiplier": {"detect.includeThresholdMultiplier": 1.5, "detect.thresholdValue": 18.0, "detect.minPixels": 1},
    "multiplier, value": {
        "detect.includeThresholdMultiplier": 1.5,
        "detect.thresholdType": "value",
        "detect.thresholdValue": 20.0,
    },
    "excluded": {"detect.excludeMaskPlanes": ["CR"]},
    "excluded, several": {"detect.excludeMaskPlanes": ["BAD", "SUSPECT", "NO_PLANE"], "detect.minPixels": 1},
    "psfMatched": {"warpType": "psfMatched"},
    "psfMatched, MEANCLIP": {"warpType": "psfMatched", "statistic": "MEANCLIP", "badMaskPlanes": ["NO_DATA", "EDGE"]},
    "EDGE is bad": {"badMaskPlanes": ["NO_DATA", "BAD", "SAT", "EDGE"]},
    "EDGE is bad and stays": {"badMaskPlanes": ["NO_DATA", "SAT", "EDGE"], "removeMaskPlanes": []},
    "CR is bad": {"badMaskPlanes": ["NO_DATA", "CR"], "maskPropagationThresholds": {"CR": 0.2, "SAT": 0.1}},
    "bad without NO_DATA": {"badMaskPlanes": ["BAD", "EDGE"], "removeMaskPlanes": []},
    "nothing removed": {"removeMaskPlanes": []},
    "several removed": {"removeMaskPlanes": ["SAT", "EDGE", "CR", "NO_PLANE"]},
    "clipIter 1": {"statistic": "MEANCLIP", "clipIter": 1, SKY + "clipIter": 1},
    "clipIter 5": {"statistic": "MEANCLIP", "clipIter": 5, SKY + "clipIter": 5, SKY + "sigmaClip": 1.5},
    "online": {"doOnlineForMean": True},
    "online, scatter": {"doOnlineForMean": True, "calcErrorFromInputVariance": False},
    "online, EDGE stays": {
        "doOnlineForMean": True,
        "calcErrorFromInputVariance": False,
        "badMaskPlanes": ["NO_DATA", "SAT", "EDGE"],
        "removeMaskPlanes": [],
    },
    "online template": {SKY + "doOnlineForMean": True, SKY + "statistic": "MEAN"},
    "scatter": {"calcErrorFromInputVariance": False, SKY + "calcErrorFromInputVariance": False},
    "binSize 8": {"scaleWarpVariance.background.binSize": 8},
    "binSize 100": {"scaleWarpVariance.background.binSize": 100},
    "limit 1": {"scaleWarpVariance.limit": 1.0},
    "limit 1.3, own planes": {
        "scaleWarpVariance.limit": 1.3,
        "scaleWarpVariance.maskPlanes": ["NO_DATA", "CR"],
        "scaleWarpVariance.background.ignoredPixelMask": ["SAT", "NO_PLANE"],
    },
    "prefilter": {"prefilterArtifactsMaskPlanes": ["CR", "EDGE", "SAT"], "prefilterArtifactsRatio": 0.8},
    "prefilter, nothing bad": {"prefilterArtifactsMaskPlanes": []},
    "prefilter, all good": {"prefilterArtifactsRatio": 0.999},
    **{
        f"statistic {name}": {"statistic": name, "doInterp": False}
        for name in ("STDEVCLIP", "VARIANCE", "IQRANGE", "SUM", "MIN", "MAX", "NPOINT")
    },
}
BASE = {
    "psfMatched": {"warpType": "psfMatched", "badMaskPlanes": ["NO_DATA"]},
    "online": {"statistic": "MEAN", "doOnlineForMean": True, "calcErrorFromInputVariance": False},
    "EDGE stays, CR is bad": {"badMaskPlanes": ["NO_DATA", "CR"], "removeMaskPlanes": []},
    "clipIter 1": {"clipIter": 1, "sigmaClip": 1.5},
    "clipIter 5": {"clipIter": 5, "sigmaClip": 2.0, "calcErrorFromInputVariance": False},
    **{
        f"statistic {name}": {"statistic": name, "doInterp": False}
        for name in (
            "MEDIAN",
            "VARIANCECLIP",
            "STDEV",
            "STDEVCLIP",
            "MEANSQUARE",
            "IQRANGE",
            "SUM",
            "MIN",
            "MAX",
            "NPOINT",
            "NCLIPPED",
            "NMASKED",
        )
    },
}
FALLBACKS = {
    "MEDIAN": {},
    "MEDIAN, negative": {"negativeFallbackAllowed": True},
    "MEAN": {"fallbackValueType": "MEAN"},
    "MEAN, negative": {"fallbackValueType": "MEAN", "negativeFallbackAllowed": True},
    "MEANCLIP": {"fallbackValueType": "MEANCLIP"},
    "MEANCLIP, negative": {"fallbackValueType": "MEANCLIP", "negativeFallbackAllowed": True},
    "USER": {"fallbackValueType": "USER", "fallbackUserValue": 7.5},
    "USER, negative": {"fallbackValueType": "USER", "fallbackUserValue": -7.5, "negativeFallbackAllowed": True},
    "USER, negative not allowed": {"fallbackValueType": "USER", "fallbackUserValue": -7.5},
    "none at the edge": {"useFallbackValueAtEdge": False},
}
SIZES = [(1, 40), (37, 1), (1, 1), (2, 2), (3, 200), (5, 9), (12, 11), (33, 65)]


# Where the option changes what is clipped; the sum of the letters' codes does not always do.
SEEDS = {
    "excluded": 3791,
    "type value, excluded": 20365,
    "limit 1": 2182,
    "prefilter": 4876,
    "prefilter, nothing bad": 23831,
    "prefilter, all good": 17656,
    "original": 3795,
    "type stdev": 5653,
    "type value": 5573,
    "template type stdev": 19061,
    "binSize 100": 4641,
    "EDGE is bad": 5503,
    "CR is bad": 3877,
}


def seed_of(name):
    """A seed of its own for every name."""
    return SEEDS.get(name) or sum((i + 1) * ord(c) for i, c in enumerate(name))


def compare(inputs, overrides, *, base_task=False):
    """The package and the definition give the same, or both find the template detected everywhere."""
    meta = {"mask_planes": PLANES, "config_overrides": overrides, "base_task": base_task}
    try:
        golden = goldens.from_oracle(inputs, PLANES, overrides, base_task=base_task)
    except oracles.TooManyMaskedPixels:
        with pytest.raises(ValueError, match="cover"):
            goldens.run(goldens.Golden("sky", meta, inputs))
    else:
        goldens.check_coadd(goldens.run(golden), golden)


def sky(seed, **options):
    """A sky of several epochs."""
    rng = np.random.default_rng(seed)
    options = {"n_epochs": int(rng.integers(4, 8)), "size": tuple(int(n) for n in rng.integers(30, 48, 2)), **options}
    return random_sky(seed, **options)


def with_unflagged(inputs, seed, kinds=("in", "in_m"), planes=("image", "variance"), values=(np.nan, np.inf, -np.inf)):
    """Some pixels that are not finite, and no plane says so."""
    rng = np.random.default_rng(seed)
    inputs = dict(inputs)
    for kind in kinds:
        for plane in planes:
            array = inputs[f"{kind}_{plane}"].copy()
            array[rng.random(array.shape) < 0.01] = values[0]
            for value in values:
                array[rng.random(array.shape) < 0.003] = value
            inputs[f"{kind}_{plane}"] = array
    return inputs


def translated(mask, planes):
    """`mask` with the bits of `PLANES` moved to those of `planes`."""
    out = np.zeros_like(mask)
    for name, bit in PLANES.items():
        if name in planes:
            out |= (mask >> bit & 1).astype(mask.dtype) << planes[name]
    return out


@pytest.mark.parametrize("name", COADD)
def test_coadd(name):
    compare(sky(seed_of(name)), COADD[name])


@pytest.mark.parametrize("name", BASE)
def test_plain_coadd(name):
    compare(sky(seed_of(name)), BASE[name], base_task=True)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"doOnlineForMean": True, "calcErrorFromInputVariance": False},
        {"detect.thresholdType": "stdev", "detect.thresholdValue": 4.0, "statistic": "MEANCLIP"},
        {"warpType": "psfMatched", "doInterp": False, SKY + "doInterp": False},
        {"detectTemplate.thresholdValue": 12.0, SKY + "statistic": "MEDIAN"},
    ],
)
@pytest.mark.parametrize("planes", [("image",), ("variance",), ("image", "variance")])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_not_finite_without_a_flag(planes, overrides):
    seed = 10 * len(overrides) + len(planes[0])
    compare(with_unflagged(sky(seed), seed, planes=planes), overrides)


@pytest.mark.parametrize("level", [-20.0, 20.0])
@pytest.mark.parametrize("transpose", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("name", FALLBACKS)
def test_interpolation(name, transpose, level):
    """Holes that all epochs share: along each border, across whole rows and columns, and inside."""
    inputs = sky(seed_of(name) + transpose, n_epochs=4)
    for kind in ("in", "in_m"):
        image, variance, mask = (inputs[f"{kind}_{k}"] for k in ("image", "variance", "mask"))
        image += np.float32(level)
        hole = np.zeros(image.shape[1:], bool)
        hole[2:5, :9] = hole[6:8, -12:] = hole[9, :4] = hole[:10, 20] = hole[-14:, 12:14] = hole[-5:, 17] = True
        hole[14] = hole[:, 25] = hole[17:20, 5:8] = hole[21, 3:5] = hole[23, 6] = hole[23, 8] = True
        image[:, hole] = variance[:, hole] = np.nan
        mask[:, hole] = 1 << PLANES["NO_DATA"]
    options = {**FALLBACKS[name], "transpose": transpose}
    overrides = {f"{task}interpImage.{k}": v for task in ("", SKY) for k, v in options.items()}
    golden = goldens.from_oracle(inputs, PLANES, overrides)
    assert np.count_nonzero(golden["out_coadd_mask"] >> PLANES["INTRP"] & 1) > 50
    goldens.check_coadd(goldens.run(golden), golden)


@pytest.mark.parametrize("statistic", ["MEAN", "MEANCLIP", "MEDIAN", "MIN", "NMASKED", "STDEVCLIP"])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_plain_coadd_not_finite_without_a_flag(statistic):
    seed = seed_of(statistic)
    compare(with_unflagged(sky(seed), seed), {"statistic": statistic, "doInterp": False}, base_task=True)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"scaleWarpVariance.background.binSize": 8, "interpImage.transpose": True},
        {"detectTemplate.nSigmaForKernel": 3.0, "detectTemplate.thresholdValue": 60.0, "detect.nSigmaToGrow": 2.0},
    ],
)
def test_awkward_size(size, overrides):
    compare(random_sky(sum(size) + len(overrides), n_epochs=5, size=size), overrides)


@pytest.mark.parametrize("warp_type", ["direct", "psfMatched"])
def test_one_twin(warp_type):
    """All epochs but one are without a PSF-matched warp."""
    inputs = sky(7, n_epochs=6)
    inputs["in_has_matched"] = np.arange(6) == 3
    compare(inputs, {"warpType": warp_type})


@pytest.mark.parametrize("limit", [0.5, 1.0])
def test_variance_far_off(limit):
    """Above the limit the second estimate is tried; above it again, the variance stays as it is."""
    inputs = sky(8, n_epochs=6)
    inputs["in_m_variance"] *= np.geomspace(0.05, 40.0, 6, dtype=np.float32)[:, None, None]
    inputs["in_m_variance"][4, ::2] /= 500  # the first estimate is off, the second is not
    inputs["in_has_matched"][:] = True
    golden = goldens.from_oracle(inputs, PLANES, {"scaleWarpVariance.limit": limit})
    scale = golden["out_variance_scale"]
    assert np.isnan(scale).any()
    assert (scale <= limit).any()
    goldens.check_coadd(goldens.run(golden), golden)


BITS = {"NO_DATA": 0, "BAD": 30, "SAT": 29, "EDGE": 1, "CR": 17, "INTRP": 11, "CLIPPED": 8, "REJECTED": 10}
FREE = [bit for bit in range(30, -1, -1) if bit not in BITS.values()]
PERMUTED = BITS | dict(zip((name for name in PLANES if name not in BITS), FREE))


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"badMaskPlanes": ["NO_DATA", "BAD", "CR", "EDGE"], "removeMaskPlanes": [], "statistic": "MEANCLIP"},
        {"doOnlineForMean": True, "maskPropagationThresholds": {"BAD": 0.2, "SAT": 0.1}},
        {"detect.excludeMaskPlanes": ["CR"], "prefilterArtifactsMaskPlanes": ["BAD"]},
    ],
)
@pytest.mark.parametrize("added", [True, False], ids=["all planes", "planes to add"])
def test_bits_do_not_matter(overrides, added):
    """Only the names of the planes count."""
    inputs = sky(20 + len(overrides), n_epochs=7)
    golden = goldens.from_oracle(inputs, PLANES, overrides)
    planes = {
        name: bit
        for name, bit in PERMUTED.items()
        if added or name not in ("CLIPPED", "REJECTED", "SENSOR_EDGE", "INEXACT_PSF", "INTRP", "STREAK")
    }
    moved = {k: translated(v, planes) if k in ("in_mask", "in_m_mask") else v for k, v in inputs.items()}
    result = goldens.run(goldens.Golden("permuted", {"mask_planes": planes, "config_overrides": overrides}, moved))
    goldens.check_coadd(result, golden)
    usual = goldens.run(golden)
    for name in ("image", "variance", "n_image", "clipped"):
        assert_array_equal(getattr(result, name), getattr(usual, name), err_msg=name)
    assert {name: result.schema.planes[name] for name in planes} == planes
