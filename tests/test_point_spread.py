"""PSFs of images and of the epochs of a stack."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scenes import SCHEMA

import gpucoadd
from gpucoadd import Psf, WarpStack
from gpucoadd.backend import array_module, to_host
from gpucoadd.point_spread import coefficient_shares, coefficient_stack

EPS = np.finfo(np.float64).eps


def gaussian(side, yy, xx=None, yx=0.0, center=0.0):
    """Elliptical Gaussian, not normalised."""
    xx = yy if xx is None else xx
    y, x = np.mgrid[:side, :side] - side // 2 - center
    return np.exp(-0.5 * (xx * y**2 + yy * x**2 - 2 * yx * y * x) / (yy * xx - yx**2))


def varying(side=9, seed=1):
    """Coefficient images of degree 1 whose sum is positive everywhere on the field."""
    rng = np.random.default_rng(seed)
    return np.stack([gaussian(side, 2.0), *(0.1 * gaussian(side, 1.0) * rng.normal(size=(2, side, side)))])


def test_a_stamp_is_normalised_and_the_same_everywhere(xp):
    stamp = xp.asarray(gaussian(7, 1.5).astype(np.float32))
    before = to_host(stamp).copy()
    psf = Psf(stamp)
    one, many = psf.at(3, -1e9), psf.at([0.0, 5.0], [1.0, 2.0])
    assert array_module(one) is xp and one.shape == (7, 7) and many.shape == (2, 7, 7) and one.dtype == np.float64
    expected = before.astype(np.float64)
    assert_allclose(to_host(one), expected / expected.sum(), rtol=4 * EPS)
    assert_array_equal(to_host(many), np.stack([to_host(one)] * 2))
    assert_array_equal(to_host(stamp), before)
    assert repr(psf) == "Psf(7 x 7, chebyshev1 of degree 0)" and psf.side == 7 and psf.images.shape == (1, 7, 7)
    assert psf.at([], []).shape == (0, 7, 7)


@pytest.mark.parametrize("kind", ["chebyshev1", "polynomial"])
def test_coefficient_images(xp, kind):
    """1, x, y, T2(x), xy, T2(y), in coordinates from -1 to 1 over the range, or plain powers; then sum 1."""
    rng = np.random.default_rng(2)
    images = np.stack([gaussian(5, 1.5), *(0.02 * rng.normal(size=(5, 5, 5)))])
    box = (-10.5, 20.5, 89.5, 60.5)
    psf = Psf(xp.asarray(images), kind=kind, range=box if kind == "chebyshev1" else None)
    for y, x in ((21.0, -10.0), (40.0, 33.0)) if kind == "chebyshev1" else ((0.5, -1.0), (1.0, 0.0)):
        u, v = ((x - 39.5) / 50, (y - 40.5) / 20) if kind == "chebyshev1" else (x, y)
        squares = (2 * u * u - 1, u * v, 2 * v * v - 1) if kind == "chebyshev1" else (u * u, u * v, v * v)
        expected = sum(f * image for f, image in zip((1, u, v, *squares), images, strict=True))
        assert_allclose(to_host(psf.at(y, x)), expected / expected.sum(), rtol=1e-13, atol=1e-16)
        assert float(psf.at(y, x).sum()) == pytest.approx(1.0, abs=1e-14)


def test_gaussian():
    psf = Psf.gaussian(2.2)
    assert psf.side == 23 and psf.at(0, 0)[11, 11] == psf.at(0, 0).max()
    y, x = np.mgrid[-11:12, -11:12]
    assert_allclose(psf.at(0, 0), np.exp(-(y**2 + x**2) / (2 * 2.2**2)) / (2 * np.pi * 2.2**2), rtol=2e-5)
    assert psf.moments(0.0, 0.0) == pytest.approx((2.2, 0, 0), abs=1e-5)
    for sigma in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"sigma must be finite and positive, in pixels, got {sigma}"):
            Psf.gaussian(sigma)


def test_moments(xp):
    """The worked numbers of Moffat profiles; an ellipse along x, and one along the diagonal."""
    y, x = np.mgrid[-18:19, -18:19]
    for fwhm, sigma, centre in ((3.5, 1.6801, 0.0540731), (4.5, 2.1601, 0.0327522)):
        alpha = fwhm / 2 / np.sqrt(2 ** (1 / 3) - 1)
        psf = Psf(xp.asarray((1 + (y**2 + x**2) / alpha**2) ** -3))
        assert psf.moments(3.0, 4.0)[0] == pytest.approx(sigma, abs=5e-5)
        assert float(psf.at(3.0, 4.0)[18, 18]) == pytest.approx(centre, abs=5e-8)
    sigma, e1, e2 = Psf(xp.asarray(gaussian(31, 4.0, 6.25))).moments(0, 0)
    assert (sigma, e1, e2) == pytest.approx((25**0.25, 2.25 / 10.25, 0.0), abs=1e-5)
    assert Psf(xp.asarray(gaussian(31, 5.0, 5.0, 2.0))).moments(0, 0) == pytest.approx((21**0.25, 0, 0.4), abs=1e-5)


def test_moments_at_several_positions():
    """A PSF that widens along x."""
    narrow, wide = gaussian(31, 4.0), gaussian(31, 9.0)
    narrow, wide = narrow / narrow.sum(), wide / wide.sum()
    psf = Psf(np.stack([(narrow + wide) / 2, (wide - narrow) / 2, 0 * wide]), range=(0, 0, 10, 10))
    sigma, e1, e2 = psf.moments([5, 5], [0, 10])
    assert sigma == pytest.approx([2, 3], abs=1e-5) and e1 == pytest.approx([0, 0], abs=1e-9) and e2.shape == (2,)


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        ([[1.0]], {}, TypeError, "images must be a NumPy or a CuPy array"),
        (np.ones((3, 3), complex), {}, TypeError, "images must be real numbers, got complex128"),
        (np.ones((3, 3), bool), {}, TypeError, "images must be real numbers, got bool"),
        (np.ones((4, 4)), {}, ValueError, r"images has shape \(4, 4\); it must be \(k, k\) .* k odd"),
        (np.ones((3, 5)), {}, ValueError, r"images has shape \(3, 5\)"),
        (np.ones(3), {}, ValueError, r"images has shape \(3,\)"),
        (np.ones(()), {}, ValueError, r"images has shape \(\)"),
        (np.ones((0, 3, 3)), {}, ValueError, r"images has shape \(0, 3, 3\)"),
        (np.ones((2, 3, 3)), {"range": (0, 0, 1, 1)}, ValueError, "images has 2 coefficient images; .* has 1, 3, 6"),
        (np.full((3, 3), np.nan), {}, ValueError, "images holds NaN or infinite values"),
        (np.zeros((3, 3)), {}, ValueError, "images has the sum 0.0; a PSF's must be positive"),
        (-np.ones((1, 3, 3)), {}, ValueError, "images has the sum -9.0"),
        (np.ones((3, 3, 3)), {}, ValueError, r"range must be \(min_x, min_y, max_x, max_y\) for kind='chebyshev1'"),
        (np.ones((3, 3)), {"kind": "spline"}, ValueError, "kind must be one of polynomial, chebyshev1, got 'spline'"),
    ],
)
def test_what_is_no_psf(images, options, error, message):
    with pytest.raises(error, match=message):
        Psf(images, **options)


def test_a_sum_that_is_not_positive_there():
    psf = Psf(np.array([1.0, 2.0, 0.0])[:, None, None] * np.ones((1, 3, 3)), range=(0, 0, 10, 10))
    with pytest.raises(ValueError, match=r"the PSF has the sum -9.0 at \(y, x\) = \(4.0, 0.0\); it must be positive"):
        psf.at([4, 4], [10, 0])
    with pytest.raises(ValueError, match="the PSF has the sum nan at"):
        psf.at(4, np.nan)
    with pytest.raises(ValueError, match=r"y has shape \(2,\) and x \(\)"):
        psf.at([4, 4], 10)


def test_psfs_of_several_epochs_on_the_union_of_their_stamps():
    psfs = [Psf(gaussian(3, 1.0)), Psf(varying(5), range=(0, 0, 20, 20)), Psf.gaussian(0.5)]
    images = coefficient_stack(psfs)
    assert images.shape == (3, 3, 7, 7)
    y, x = np.array([3.0, 11.0]), np.array([20.0, 0.0])
    stamps = np.einsum("pec,ecyx->peyx", coefficient_shares(psfs, y, x), images)
    for epoch, psf in enumerate(psfs):
        edge = 3 - psf.side // 2
        expected = np.pad(psf.at(y, x), ((0, 0), (edge, edge), (edge, edge)))
        assert_allclose(stamps[:, epoch], expected, rtol=1e-13, atol=1e-17)


# ------------------------------------------------------------------------------------------------ of a stack


def stack(n_epochs=3, shape=(20, 30), **options):
    planes = np.ones((2, n_epochs, *shape), np.float32)
    return WarpStack(*planes, np.zeros((n_epochs, *shape), np.int32), schema=SCHEMA, **options)


def test_psfs_of_a_stack():
    psf, stamp, images = Psf.gaussian(1.5), gaussian(5, 1.0), varying()
    warps = stack(4, psfs=[psf, stamp, images, None], psf_sigma=[1, 2, np.nan, 4], origin=(100, -50))
    assert warps.psfs[0] is psf and warps.psfs[3] is None and warps.psf_sigma.tolist()[3] == 4
    assert_array_equal(warps.psfs[1].at(0, 0), Psf(stamp).at(0, 0))
    assert (warps.psfs[2].kind, warps.psfs[2].range) == ("chebyshev1", (-50.5, 99.5, -20.5, 119.5))
    assert stack(psf_sigma=[1, 2, 3]).psfs == (None,) * 3
    assert len(stack(2, psfs=np.stack([stamp, stamp])).psfs) == 2


def test_widths_are_measured_in_the_middle():
    narrow, wide = gaussian(31, 4.0), gaussian(31, 9.0)
    grows = np.stack([narrow / narrow.sum(), wide / wide.sum() - narrow / narrow.sum(), 0 * wide])
    # the middle of the columns 20 to 49 is 34.5, the end of this range
    psfs = [Psf.gaussian(1.5), Psf(grows, kind="chebyshev1", range=(14.5, 0, 34.5, 1))]
    assert stack(2, psfs=psfs, origin=(0, 20)).psf_sigma == pytest.approx([1.5, 3.0], abs=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "psf_sigma must be given where psfs is not"),
        ({"psfs": [None, Psf.gaussian(1), None]}, ValueError, "psf_sigma must be given, for psfs has none for epoch 0"),
        (
            {"psfs": [Psf.gaussian(1)]},
            ValueError,
            "1 psfs are given but there are 3 epochs; give one for each, or None",
        ),
        ({"psfs": [np.ones((4, 4))] * 3}, ValueError, r"psfs: that of epoch 0: images has shape \(4, 4\)"),
        ({"psfs": ["gaussian"] * 3}, TypeError, "psfs: that of epoch 0: images must be a NumPy or a CuPy array"),
        (
            {"psfs": [np.ones((3, 3))] * 3},
            ValueError,
            "width of epoch 0 cannot be measured: .*settle.*; give psf_sigma",
        ),
        ({"psfs": [Psf.gaussian(1)] * 3, "psf_sigma": [1]}, ValueError, r"psf_sigma has shape \(1,\)"),
    ],
)
def test_wrong_psfs(options, error, message):
    with pytest.raises(error, match=message):
        stack(**options)


def test_epoch_values():
    scale, table = [1, 2, 3], np.arange(12.0).reshape(3, 4)
    warps = stack(psf_sigma=[1] * 3, epoch_values={"scale": scale, "throughput": table})
    table[:] = -1
    assert warps.epoch_values["scale"].tolist() == [1.0, 2.0, 3.0]
    assert_array_equal(warps.epoch_values["throughput"], np.arange(12.0).reshape(3, 4))
    with pytest.raises(ValueError, match="read-only"):
        warps.epoch_values["scale"][0] = 5
    assert stack(psf_sigma=[1] * 3).epoch_values == {}


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([1, 2], ValueError, r"epoch_values\['a'\] has shape \(2,\) but there are 3 epochs; it is \(epoch, ...\)"),
        (5.0, ValueError, r"epoch_values\['a'\] has shape \(\)"),
        ([1, 2, np.inf], ValueError, r"epoch_values\['a'\] holds NaN or infinite values"),
        (["x", "y", "z"], TypeError, r"epoch_values\['a'\] must be real numbers"),
        ([[1], [1, 2], [3]], TypeError, r"epoch_values\['a'\] must be real numbers"),
    ],
)
def test_wrong_epoch_values(values, error, message):
    with pytest.raises(error, match=message):
        stack(psf_sigma=[1] * 3, epoch_values={"a": values})


def test_epoch_values_live_on_the_host(device):
    with pytest.raises(TypeError, match=r"epoch_values\['a'\] must be real numbers in host memory"):
        stack(psf_sigma=[1] * 3, epoch_values={"a": device.ones(3)})


def test_to_device_carries_them(device):
    warps = stack(2, psf_sigma=[1, 2], psfs=[Psf.gaussian(1), None], epoch_values={"a": [5, 6]})
    there = warps.to_device("cuda")
    assert there.psfs == warps.psfs and there.epoch_values["a"].tolist() == [5, 6]
    assert there.psf_sigma.tolist() == [1, 2] and there.epochs == warps.epochs


def test_psf_is_public():
    assert gpucoadd.Psf is Psf and "Psf" in gpucoadd.__all__
