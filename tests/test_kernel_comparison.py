"""The CUDA comparison with the static sky, run on the host, against the NumPy one."""

from __future__ import annotations

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal

from gpucoadd import fallback, primitives
from gpucoadd.fallback import Search

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

FLAGS = ("positive", "negative", "positive_peaks", "negative_peaks", "no_data", "edge")


def planes(shape, seed=1):
    """Noise with what a warp may hold: stars, holes, infinities, denormals, zero and negative variances, bits."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 3, shape).astype(np.float32)
    variance = rng.uniform(0.5, 2, shape).astype(np.float32)
    mask = rng.choice(np.int32([0, 0, 0, 1, 2, 4, 16, 64 | 2]), shape).astype(np.int32)
    odd = [np.nan, np.inf, -np.inf, 1e-42, 0.0, -0.0, 1e30, np.finfo(np.float32).max]
    for plane, values in ((image, odd), (variance, [*odd, -1.0])):
        where = rng.random(shape) < 0.1
        plane[where] = rng.choice(np.float32(values), np.count_nonzero(where))
    return image, variance, mask


def check(image, variance, mask, template, scales, search):
    expected = fallback.compare(image, variance, mask, template, scales, search)
    with standin.device() as cupy:
        device = [cupy.asarray(plane) for plane in (image, variance, mask)]
        sky = None if template is None else tuple(map(cupy.asarray, template))
        found = primitives.compare(*device, sky, scales, search)
        for name in FLAGS:
            flags, plane = getattr(found, name), getattr(expected, name)
            assert (flags is None) == (plane is None), name
            if flags is not None:
                words = flags.data.get()
                unpacked = fallback.unpack(words, image.shape[2])
                assert_array_equal(unpacked, plane, err_msg=name)
                assert_array_equal(fallback.as_words(unpacked), words, err_msg=f"{name}: bits beyond the last column")
        assert found.n_good.dtype == expected.n_good.dtype == np.int32
        assert_array_equal(found.n_good.get(), expected.n_good)
    return expected


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 3, 31), (1, 2, 32), (3, 5, 33), (5, 4, 128), (2, 3, 129), (4, 2, 300)]
)
@pytest.mark.parametrize("in_sigmas", [True, False])
@pytest.mark.parametrize("with_template", [True, False])
def test_equals_numpy(shape, in_sigmas, with_template):
    image, variance, mask = planes(shape)
    template = None
    if with_template:
        sky, sky_variance, _ = planes((1, *shape[1:]), seed=2)
        template = sky[0], sky_variance[0]
    scales = np.random.default_rng(3).choice([np.nan, 0.7, 1.0, 2.5], shape[0]).tolist()
    limits = tuple(np.random.default_rng(4).uniform(1.0, 4.0, shape[0]).tolist())
    search = Search(limits, in_sigmas, peak=1.3, exclude=2, reject=5, edge=16)
    expected = check(image, variance, mask, template, scales, search)
    check(image, variance, mask, template, scales, search._replace(peak=1.0, exclude=0))
    if image.size > 300:
        assert all(getattr(expected, name).any() for name in FLAGS)


def test_the_threshold_itself_is_found():
    """Walks across the threshold, one float32 step at a time, where the variance has no exact root."""
    variance = np.float32(2.3)
    values = [np.float32(5 * np.sqrt(np.float64(variance)))]
    for _ in range(40):
        values = [np.nextafter(values[0], np.float32(0)), *values, np.nextafter(values[-1], np.float32(100))]
    image = np.array([values, np.negative(values)], np.float32)[None]
    spread = np.full(image.shape, variance)
    expected = check(image, spread, np.zeros(image.shape, np.int32), None, [np.nan], Search((5.0,), True))
    assert 0 < np.count_nonzero(expected.positive) < len(values)


def test_bands_of_a_larger_stack_are_views():
    image, variance, mask = planes((3, 20, 45))
    sky, sky_variance, _ = planes((1, 6, 45), seed=5)
    search = Search((2.0, 2.0, 2.0), True, exclude=2, reject=5, edge=16)
    expected = fallback.compare(
        image[:, 4:10], variance[:, 4:10], mask[:, 4:10], (sky[0], sky_variance[0]), [1.5] * 3, search
    )
    with standin.device() as cupy:
        bands = [cupy.asarray(plane)[:, 4:10] for plane in (image, variance, mask)]
        found = primitives.compare(*bands, (cupy.asarray(sky[0]), cupy.asarray(sky_variance[0])), [1.5] * 3, search)
        assert_array_equal(fallback.unpack(found.positive.data.get(), 45), expected.positive)
        assert_array_equal(found.n_good.get(), expected.n_good)
        assert standin.host_reads == 2  # those of this test


def test_reads_nothing_back():
    image, variance, mask = planes((2, 8, 40))
    with standin.device() as cupy:
        device = [cupy.asarray(plane) for plane in (image, variance, mask)]
        primitives.compare(*device, None, [1.0, 1.0], Search((5.0, 5.0), True))
        assert standin.host_reads == 0
