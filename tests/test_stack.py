"""`stack`: every statistic against its definition, and numbers worked out by LSST's own code."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import gpucoadd

SCHEMA = gpucoadd.MaskSchema.lsst().with_planes("REJECTED", "CLIPPED", "SENSOR_EDGE", "INEXACT_PSF")
DEFAULT_REJECT = ("NO_DATA", "BAD", "SAT", "EDGE")
EPS = float(np.finfo(np.float32).eps)


def bits(*names):
    return SCHEMA.bitmask(*names)


def stack_of_one(values, variances, masks, weights, **options):
    """`gpucoadd.stack` of a single pixel: value, variance, mask."""

    def cube(numbers, dtype):
        return np.asarray(numbers, dtype=dtype).reshape(-1, 1, 1)

    result = gpucoadd.stack(
        cube(values, np.float32),
        cube(variances, np.float32),
        cube(masks, np.int32),
        np.asarray(weights, dtype=np.float64),
        **{"schema": SCHEMA, "reject": DEFAULT_REJECT, **options},
    )
    return float(result.image[0, 0]), float(result.variance[0, 0]), int(result.mask[0, 0]), result.schema


def oracle_of_one(values, variances, masks, weights, *, statistic, reject=DEFAULT_REJECT, propagation=None, **options):
    """The same pixel by definition."""
    rejected = bits(*reject)
    lost = rejected & ~bits("NO_DATA", "EDGE", "CLIPPED")
    value, variance, mask = oracles.stack_pixel(
        values,
        variances,
        masks,
        weights,
        statistic,
        reject_bits=rejected,
        sigma_clip=options.get("sigma_clip", 3.0),
        clip_iterations=options.get("clip_iterations", 2),
        from_input=options.get("error_from_input_variance", True),
        propagation={bits(name): threshold for name, threshold in (propagation or {}).items()},
        mask_map=[
            (lost, bits("REJECTED")),
            (bits("EDGE"), bits("SENSOR_EDGE")),
            (bits("CLIPPED"), bits("CLIPPED")),
        ],
        no_data_bit=bits("NO_DATA"),
        clipped_bit=bits("CLIPPED"),
    )
    return float(value), float(variance), mask


# ---------------------------------------------------------------------------------------
# Worked numbers

VALUES = [10.0, 11.0, 12.0, 13.0, 40.0, 9.0]
WEIGHTS = [1.0, 1.0, 2.0, 1.0, 1.0, 0.5]
NAN = math.nan
TABLE = [
    ("MEAN", 15.769231, 0.781065, 26.211626, 0),
    ("MEDIAN", 11.5, 35.142719, 35.142719, 0),
    ("MEANCLIP", 11.363636, 0.958678, 0.474129, "CLIPPED"),
    ("VARIANCE", 134.235291, 5005.3096, 5005.3096, 0),
    ("VARIANCECLIP", 1.978261, NAN, NAN, "CLIPPED"),
    ("STDEV", 11.585996, 9.321896, 9.321896, 0),
    ("SUM", 102.5, 0, 0, None),
    ("MIN", 9, 0, 0, None),
    ("MAX", 40, 0, 0, None),
    ("IQRANGE", 2.5, NAN, NAN, 0),
    ("MEANSQUARE", 360.531372, 7221.2710, 7221.2710, 0),
]


@pytest.mark.parametrize(("statistic", "value", "from_input", "from_scatter", "mask"), TABLE, ids=[t[0] for t in TABLE])
@pytest.mark.parametrize("error_from_input_variance", [True, False])
def test_table(statistic, value, from_input, from_scatter, mask, error_from_input_variance):
    got = stack_of_one(
        VALUES, [4] * 6, [0] * 6, WEIGHTS, statistic=statistic, error_from_input_variance=error_from_input_variance
    )
    # The table is printed to about seven digits.
    assert_allclose(got[0], value, rtol=1e-6)
    assert_allclose(got[1], from_input if error_from_input_variance else from_scatter, rtol=1e-6)
    if mask is not None:
        assert got[2] == (bits(mask) if mask else 0)


@pytest.mark.parametrize("statistic", ["MIN", "MAX"])
def test_extremes_as_lsst_finds_them(statistic):
    """The search starts at the weighted sum over the count: 102.5 / 6."""
    options = {"statistic": statistic, "lsst_extremes": True}
    got = stack_of_one(VALUES, [4] * 6, [0] * 6, WEIGHTS, **options)
    expected = oracles.lsst_extreme(VALUES, [0] * 6, WEIGHTS, statistic, reject_bits=0)
    assert got[0] == expected
    heavy = [10 * w for w in WEIGHTS]
    got = stack_of_one(VALUES, [4] * 6, [0] * 6, heavy, **options)
    assert_allclose(got[0], {"MIN": 9, "MAX": 1025 / 6}[statistic], rtol=1e-6)


def flagged(n, which, plane):
    return [bits(plane) if i in which else 0 for i in range(n)]


def test_saturated_sample():
    options = {"statistic": "MEAN", "propagation": {"SAT": 0.1}}
    value, variance, mask, _ = stack_of_one(VALUES, [4] * 6, flagged(6, {4}, "SAT"), [1] * 6, **options)
    assert_allclose([value, variance], [11.0, 0.8], rtol=1e-6)
    assert mask == bits("SAT", "REJECTED")


@pytest.mark.parametrize("n", [10, 11])
def test_saturated_share_at_and_below_the_threshold(n):
    options = {"statistic": "MEAN", "propagation": {"SAT": 0.1}}
    assert stack_of_one([1.0] * n, [4] * n, flagged(n, {0}, "SAT"), [1] * n, **options)[2] == bits("REJECTED")


def test_saturated_everywhere():
    options = {"statistic": "MEAN", "propagation": {"SAT": 0.1}}
    value, variance, mask, _ = stack_of_one(VALUES, [4] * 6, flagged(6, range(6), "SAT"), WEIGHTS, **options)
    assert math.isnan(value) and math.isnan(variance)
    assert mask == bits("NO_DATA", "REJECTED")


@pytest.mark.parametrize(("plane", "mask"), [("NO_DATA", 0), ("EDGE", "SENSOR_EDGE")])
def test_first_sample_lost(plane, mask):
    value, variance, got, _ = stack_of_one(VALUES, [4] * 6, flagged(6, {0}, plane), WEIGHTS, statistic="MEAN")
    assert_allclose([value, variance], [16.818182, 0.958678], rtol=1e-6)
    assert got == (bits(mask) if mask else 0)


def test_clipped_sample_of_a_mean():
    options = {"statistic": "MEAN", "reject": (*DEFAULT_REJECT, "CLIPPED")}
    value, _, mask, _ = stack_of_one(VALUES, [4] * 6, flagged(6, {4}, "CLIPPED"), WEIGHTS, **options)
    assert_allclose(value, 11.363636, rtol=1e-6)
    assert mask == bits("CLIPPED")


def test_bits_of_good_and_of_clipped_samples_are_kept():
    assert stack_of_one(VALUES, [4] * 6, flagged(6, {0}, "CR"), WEIGHTS, statistic="MEAN")[2] == bits("CR")
    got = stack_of_one(VALUES, [4] * 6, flagged(6, {4}, "CR"), WEIGHTS, statistic="MEANCLIP")
    assert got[2] == bits("CR", "CLIPPED")


def test_unflagged_nan():
    options = {"statistic": "MEAN", "propagation": {"CR": 0.1}}
    for masks, mask in (([0, 0, 0], 0), ([bits("CR"), 0, 0], bits("CR"))):
        value, variance, got, _ = stack_of_one([NAN, 11, 12], [4] * 3, masks, [1] * 3, **options)
        assert_allclose([value, variance], [11.5, 2.0], rtol=1e-6)
        assert got == mask


@pytest.mark.parametrize(
    ("values", "value", "variance", "is_clipped"),
    [
        ([5, 100], 52.5, 2.0, False),
        ([5, 6, 100], 5.5, 2.0, True),
        ([5, 6, 5.5, 100], 5.5, 4 / 3, True),
        ([5, 5, 5, 5, 6], 5.0, 1.0, True),
        ([5, 5, 5, 5, 5], 5.0, 0.8, False),
    ],
)
def test_small_samples(values, value, variance, is_clipped):
    n = len(values)
    options = {"statistic": "MEANCLIP", "sigma_clip": 2.5, "clip_iterations": 3}
    got = stack_of_one(values, [4] * n, [0] * n, [1] * n, **options)
    assert_allclose(got[:2], [value, variance], rtol=1e-6)
    assert got[2] == (bits("CLIPPED") if is_clipped else 0)


@pytest.mark.parametrize(
    ("statistic", "from_input", "variance"),
    [("MEAN", True, 4), ("MEAN", False, None), ("MEDIAN", True, None), ("MEANCLIP", True, 4)],
)
def test_one_sample(statistic, from_input, variance):
    options = {"statistic": statistic, "error_from_input_variance": from_input}
    got = stack_of_one([5], [4], [0], [0.25], **options)
    assert got[0] == 5
    assert got[1] == variance if variance is not None else not math.isfinite(got[1])


# ---------------------------------------------------------------------------------------
# Properties

# Multiples of 1/4 below 2**10 in float32: sums of a few are exact in float64, so no clip hangs on a rounding error.
QUARTERS = st.integers(-400, 400).map(lambda i: i / 4)
SPOILT = st.sampled_from([math.nan, math.inf, -math.inf])
PLANES = ("BAD", "SAT", "CR", "EDGE", "NO_DATA", "CLIPPED", "STREAK")
SAMPLE = st.tuples(
    st.one_of(QUARTERS, QUARTERS, QUARTERS, QUARTERS, SPOILT),
    st.integers(1, 64).map(lambda i: i / 4),
    st.one_of(st.just(0), st.just(0), st.sets(st.sampled_from(PLANES), max_size=2).map(lambda names: bits(*names))),
    st.integers(1, 16).map(lambda i: i / 8),
)
THRESHOLDS = st.dictionaries(st.sampled_from(("SAT", "CR", "BAD")), st.sampled_from((0.0, 0.13, 0.37, 1.0)))
REJECT = st.sampled_from([("NO_DATA",), DEFAULT_REJECT, ("NO_DATA", "BAD", "SAT", "CLIPPED"), ("NO_DATA", "CR")])


def near_the_clip(values, weights, sigma_clip, iterations):
    """Whether a sample lies so near to a clipping limit that rounding decides, other than exactly on a simple one."""
    kept = list(range(len(values)))
    for iteration in range(iterations):
        if iteration > 0 and len(values) > 1 and kept:
            _, _, centre, scatter = oracles.moments([values[i] for i in kept], [weights[i] for i in kept])
            if math.isnan(scatter):
                return False
            half_width = sigma_clip * math.sqrt(max(scatter, 0.0))
        else:
            centre = oracles.quantile(values, 0.5)
            half_width = sigma_clip * oracles.IQR_TO_SIGMA * oracles.interquartile_range(values)
        scale = max(abs(centre), half_width, 1.0)
        margin = 1e-9 * scale
        if half_width > 0 and any(abs(abs(v - centre) - half_width) < margin for v in values):
            return True
        kept = [i for i, v in enumerate(values) if abs(v - centre) <= half_width]
    return False


@pytest.mark.parametrize("statistic", oracles.STATISTICS)
@settings(max_examples=150, deadline=None)
@given(
    samples=st.lists(SAMPLE, min_size=1, max_size=9),
    reject=REJECT,
    propagation=THRESHOLDS,
    clip=st.sampled_from([(3.0, 2), (2.5, 3), (1.5, 1), (2.0, 4)]),
    from_input=st.booleans(),
)
@example(samples=[(5.0, 4.0, 0, 1.0)] * 5, reject=("NO_DATA",), propagation={}, clip=(3.0, 2), from_input=False)
@example(samples=[(0.0, 1.0, 0, 0.3)] * 3, reject=("NO_DATA",), propagation={}, clip=(2.5, 3), from_input=True)
def test_equals_its_definition(statistic, samples, reject, propagation, clip, from_input):
    values, variances, masks, weights = (list(column) for column in zip(*samples))
    options = {
        "statistic": statistic,
        "reject": reject,
        "propagation": propagation,
        "sigma_clip": clip[0],
        "clip_iterations": clip[1],
        "error_from_input_variance": from_input,
    }
    good = [i for i in range(len(values)) if math.isfinite(values[i]) and not masks[i] & SCHEMA.bitmask(*reject)]
    if statistic.endswith("CLIP") and good:
        if near_the_clip([values[i] for i in good], [weights[i] for i in good], *clip):
            return
    got = stack_of_one(values, variances, masks, weights, **options)
    value, variance, mask = oracle_of_one(values, variances, masks, weights, **options)
    assert got[3] == SCHEMA
    assert got[2] == mask
    # One rounding to float32 on either side, and for scatters float64's, which the cancellation of a shifted mean
    # squared enlarges by (value / spread)**2 < 1e6 here; equal samples leave an absolute rest of 100**2 * 1e-14.
    scatter = statistic not in ("MEAN", "MEANCLIP") or not from_input
    for name, number, expected in (("value", got[0], value), ("variance", got[1], variance)):
        if scatter and not math.isfinite(expected) and len({values[i] for i in good}) <= 1:
            continue  # 0/0: NaN, inf or a rounding error over another
        if not math.isfinite(expected):
            assert (
                number == expected
                or (not math.isfinite(number) and scatter)
                or (math.isnan(number) and math.isnan(expected))
            ), name
        else:
            assert_allclose(number, expected, rtol=4 * EPS, atol=1e-9 if scatter else 1e-30, err_msg=name)


@pytest.mark.parametrize("statistic", oracles.STATISTICS)
def test_planes_of_pixels_do_not_mix(statistic):
    """Every pixel of a plane gets what it would get alone."""
    rng = np.random.default_rng(3)
    shape = (6, 4, 7)
    image = rng.integers(-40, 40, shape).astype(np.float32) / 4
    image[rng.random(shape) < 0.1] = np.nan
    variance = rng.integers(1, 9, shape).astype(np.float32)
    mask = np.where(rng.random(shape) < 0.2, bits("SAT"), 0).astype(np.int32)
    weights = rng.random(6) + 0.5
    result = gpucoadd.stack(
        image,
        variance,
        mask,
        weights,
        statistic=statistic,
        reject=DEFAULT_REJECT,
        propagation={"SAT": 0.1},
        schema=SCHEMA,
    )
    for y, x in np.ndindex(*shape[1:]):
        alone = stack_of_one(
            image[:, y, x],
            variance[:, y, x],
            mask[:, y, x],
            weights,
            statistic=statistic,
            propagation={"SAT": 0.1},
        )
        assert_array_equal(result.image[y, x], np.float32(alone[0]))
        assert_array_equal(result.variance[y, x], np.float32(alone[1]))
        assert result.mask[y, x] == alone[2]


def test_inputs_are_left_alone():
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    planes = [values, np.ones_like(values), np.zeros(values.shape, np.int32)]
    for plane in planes:
        plane.setflags(write=False)
    for statistic in oracles.STATISTICS:
        gpucoadd.stack(*planes, np.ones(4), statistic=statistic, reject=DEFAULT_REJECT, schema=SCHEMA)
    assert_array_equal(values.ravel(), np.arange(24))


def test_wrong_calls():
    cube, mask = np.ones((2, 1, 1), np.float32), np.zeros((2, 1, 1), np.int32)
    options = {"statistic": "MEAN", "reject": ["NO_DATA"], "schema": SCHEMA}
    with pytest.raises(ValueError, match="weights"):
        gpucoadd.stack(cube, cube, mask, [1.0], **options)
    with pytest.raises(ValueError, match="variance"):
        gpucoadd.stack(cube, cube[:1], mask, [1.0, 1.0], **options)
    with pytest.raises(ValueError, match="ERRORS"):
        gpucoadd.stack(cube, cube, mask, [1.0, 1.0], **{**options, "statistic": "ERRORS"})
    with pytest.raises(KeyError, match="NONSENSE"):
        gpucoadd.stack(cube, cube, mask, [1.0, 1.0], **{**options, "reject": ["NONSENSE"]})
    with pytest.raises(KeyError, match="NONSENSE"):
        gpucoadd.stack(cube, cube, mask, [1.0, 1.0], propagation={"NONSENSE": 0.1}, **options)
    with pytest.raises(ValueError, match="empty"):
        gpucoadd.stack(cube[:0], cube[:0], mask[:0], [], **options)
