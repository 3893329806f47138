"""Exposures of the LSST stack in, by their attributes, and back."""

from types import SimpleNamespace

import afwlike
import imageslike
import numpy as np
import pytest
from astropy import units
from numpy.testing import assert_array_equal

import gpucoadd
from gpucoadd.boxes import Box, as_box, box_like
from gpucoadd.exposure_masks import read_mask
from gpucoadd.exposure_parts import box_of, native_box, origin_of
from gpucoadd.exposure_psfs import psf_sigma, psf_stamp, stamp_at
from gpucoadd.exposures import cut_out, from_lsst, given_back, unit_of
from gpucoadd.scenery import gaussian_psf

SHAPE = (5, 7)


def pixels():
    rng = np.random.default_rng(3)
    image, variance = (rng.uniform(1, 2, SHAPE).astype(np.float32) for _ in range(2))
    mask = np.zeros(SHAPE, np.int32)
    mask[1, 2], mask[3, 4] = 1 << 8, 1 << 2
    return image, variance, mask


def afw(**more):
    return afwlike.Exposure.of(*pixels(), afwlike.Planes(), xy0=(30, -20), wcs="a wcs", **more)


def from_images(**more):
    image, variance, mask = pixels()
    flags = {"NO_DATA": mask >> 8 & 1 == 1, "INTRP": mask >> 2 & 1 == 1, "CROSSTALK": image > 1.9}
    return imageslike.MaskedImage.of(image, variance, flags, start=(-20, 30), unit=units.nJy, **more)


def test_boxes_of_all_kinds():
    box = Box(30, -20, 7, 5)
    assert box.origin == (-20, 30) and box.shape == SHAPE
    begun = {"getBeginX": lambda: 30, "getBeginY": lambda: -20, "getWidth": lambda: 7, "getHeight": lambda: 5}
    named = {"x0": 30, "y0": -20, "width": 7, "height": 5}
    bounds = {"minX": 30, "minY": -20, "width": 7, "height": 5}
    for given in (
        afwlike.Box2I.of(30, -20, 7, 5),
        imageslike.Box.from_shape(SHAPE, (-20, 30)),
        [30, -20, 7, 5],
        box,
        *(SimpleNamespace(**attributes) for attributes in (begun, named, bounds)),
    ):
        assert as_box(given) == box
    for like in (afwlike.Box2I.of(0, 0, 1, 1), imageslike.Box.from_shape((1, 1), (0, 0)), Box(0, 0, 1, 1)):
        made = box_like(box, like)
        assert type(made) is type(like) and as_box(made) == box
    assert box.center == (-18, 33) and Box(0, 0, 4, 1).center == (0, 1.5)
    with pytest.raises(TypeError, match="a box must be x0, y0, width, height or an object"):
        as_box("30 -20 7 5")


def test_afw_exposure_to_arrays():
    image, variance, mask = pixels()
    exposure = afw()
    got = from_lsst(exposure)
    for name, plane in (("image", image), ("variance", variance), ("mask", mask)):
        assert_array_equal(getattr(got, name), plane)
    assert np.shares_memory(got.image, exposure.image.array)
    assert (got.origin, got.wcs, got.unit) == ((-20, 30), "a wcs", "nJy")
    assert got.schema == gpucoadd.MaskSchema.lsst()
    assert gpucoadd.from_lsst is from_lsst


def test_masked_image_of_afw_and_getters():
    image, variance, mask = pixels()
    planes = afwlike.MaskedImage(image, variance, mask, afwlike.Planes(), xy0=(1, 2))

    class Old:
        def getMaskedImage(self):
            return planes

        def getXY0(self):
            return afwlike.Point(1, 2)

    for thing in (planes, Old()):
        got = from_lsst(thing)
        assert_array_equal(got.image, image)
        assert got.origin == (2, 1) and got.unit is None and got.wcs is None


def test_images_of_lsst_images():
    image, variance, _ = pixels()
    got = from_lsst(from_images())
    assert_array_equal(got.image, image)
    assert_array_equal(got.variance, variance)
    assert (got.origin, got.unit, got.wcs) == ((-20, 30), "nJy", "a projection")
    assert got.schema.planes["NO_DATA"] == 8 and got.schema.planes["CROSSTALK"] == 11
    assert got.mask[1, 2] & 1 << 8 and got.mask[3, 4] & 1 << 2
    assert_array_equal(got.mask >> 11 & 1, image > 1.9)


def test_other_byte_order_and_order_of_axes():
    image, variance, mask = pixels()
    swapped = afwlike.Exposure.of(
        image.astype(">f4"), np.asfortranarray(variance), mask.astype(">i4"), afwlike.Planes()
    )
    got = from_lsst(swapped)
    assert got.image.dtype == np.float32 and got.image.dtype.isnative
    assert_array_equal(got.variance, variance)
    assert_array_equal(got.mask, mask)


def test_our_own_comes_back_as_it_is():
    ours = gpucoadd.MaskedImage(*pixels(), schema=gpucoadd.MaskSchema.lsst(), origin=(1, 2))
    assert from_lsst(ours) is ours
    back = given_back(ours, ours)
    assert back.image is ours.image and back.variance is ours.variance and back.mask is ours.mask
    assert (back.origin, back.schema) == (ours.origin, ours.schema)
    assert box_of(ours) == Box(2, 1, 7, 5)
    assert read_mask(ours)[0] is ours.mask


@pytest.mark.parametrize("make", [afw, from_images])
def test_given_back_in_the_kind_that_came(make):
    like = make()
    before = from_lsst(like)
    kept = before.image.copy(), before.variance.copy(), before.mask.copy()
    schema = gpucoadd.MaskSchema({"NO_DATA": 3, "CLIPPED": 30, "SAT": 1, "INTRP": 2})
    mask = np.zeros(SHAPE, np.int32)
    mask[0, 0], mask[4, 6] = 1 << 3 | 1 << 30, 1 << 1
    result = gpucoadd.MaskedImage(2 * before.image, 3 * before.variance, mask, schema=schema, origin=(-20, 30))
    made = given_back(result, like)
    assert type(made) is type(like) and made is not like
    got = from_lsst(made)
    assert_array_equal(got.image, result.image)
    assert_array_equal(got.variance, result.variance)
    for name in schema:
        assert_array_equal(got.mask >> got.schema.planes[name] & 1, mask >> schema.planes[name] & 1, err_msg=name)
    assert got.origin == (-20, 30)
    for plane, expected in zip((before.image, before.variance, before.mask), kept):
        assert_array_equal(plane, expected)


def test_planes_are_added_by_name():
    like = afw()
    schema = gpucoadd.MaskSchema.lsst().with_planes("REJECTED", "CLIPPED", "SENSOR_EDGE", "INEXACT_PSF")
    mask = np.full(SHAPE, schema.bitmask("CLIPPED"), np.int32)
    like.mask.addMaskPlane("OTHER")  # takes the bit that REJECTED has here
    made = given_back(gpucoadd.MaskedImage(*pixels()[:2], mask, schema=schema), like)
    planes = made.mask.getMaskPlaneDict()
    assert planes["CLIPPED"] == 13 and set(schema) <= set(planes)
    assert_array_equal(made.mask.array, 1 << 13)


def test_a_coadd_has_nothing_of_its_warps_but_calibration():
    like = afw(psf=afwlike.Psf(np.ones((3, 3))))
    made = given_back(from_lsst(like), like, anew=True)
    assert made.getPsf() is None and like.getPsf() is not None
    assert (made.getWcs(), made.getFilter(), made.getPhotoCalib()) == ("a wcs", "r", "calibrated")
    assert unit_of(made) == "nJy"
    copied = given_back(from_lsst(like), like)
    assert copied.getPsf() is like.getPsf()

    class Closed(afwlike.Exposure):
        def __init__(self, box, wcs, planes):
            super().__init__(box, wcs, planes)

    closed = Closed.of(*pixels(), afwlike.Planes(), psf=afwlike.Psf(np.ones((3, 3))))
    made = given_back(from_lsst(closed), closed, anew=True)
    assert type(made) is Closed and made.getPsf() is None

    class OfPlanes(afwlike.Exposure):
        """Takes two arguments, too, but others."""

        def __init__(self, image, mask):
            self.image = image

        def clone(self):
            made = super().clone()
            made.__class__ = OfPlanes
            return made

        @classmethod
        def of(cls, *planes, **more):
            return afwlike.Exposure.of(*planes, **more)

    of_planes = afw(psf=afwlike.Psf(np.ones((3, 3))))
    of_planes.__class__ = OfPlanes
    made = given_back(from_lsst(of_planes), of_planes, anew=True)
    assert_array_equal(made.image.array, of_planes.image.array)


def test_psf_of_all_kinds():
    stamp = gaussian_psf(1.7, 17)
    exposure = afw(psf=afwlike.Psf(lambda x, y: stamp * x, sigma=2.5, average=(3.0, 4.0)))
    assert psf_sigma(exposure) == 2.5
    assert_array_equal(psf_stamp(exposure), 3 * stamp)
    assert_array_equal(psf_stamp(exposure, (8.0, 9.0)), 9 * stamp)
    images = from_images(psf=imageslike.Psf(stamp))
    assert psf_sigma(images) == pytest.approx(1.7, abs=1e-3)
    assert_array_equal(psf_stamp(images), stamp)
    assert np.isnan(psf_sigma(afw())) and psf_stamp(afw()) is None

    class Ours(gpucoadd.MaskedImage):
        psf = gpucoadd.Psf(stamp)
        psf_sigma = float("nan")

    ours = Ours(*pixels(), schema=gpucoadd.MaskSchema.lsst())
    assert psf_sigma(ours) == pytest.approx(1.7, abs=1e-3)
    assert psf_stamp(ours) == pytest.approx(stamp / stamp.sum())
    with pytest.raises(TypeError, match="a PSF must have computeKernelImage"):
        psf_stamp(afw(psf="gaussian"))


def ours():
    return gpucoadd.MaskedImage(*pixels(), schema=gpucoadd.MaskSchema.lsst(), origin=(-20, 30), unit="nJy")


@pytest.mark.parametrize("make", [afw, from_images, ours])
def test_a_part_in_the_kind_of_the_whole(make):
    whole = make()
    own = native_box(whole)
    assert as_box(own) == Box(30, -20, 7, 5)
    assert type(own) is {afw: afwlike.Box2I, from_images: imageslike.Box, ours: Box}[make]
    inside = Box(32, -19, 3, 4)
    for box in (inside, box_like(inside, own)):
        part = cut_out(whole, box)
        assert type(part) is type(whole) and box_of(part) == inside
        got, before = from_lsst(part), from_lsst(whole)
        for name in ("image", "variance", "mask"):
            assert_array_equal(getattr(got, name), getattr(before, name)[1:5, 2:5])
        got.image[...] = 0
        assert before.image.all()
        assert (got.unit, got.schema) == ("nJy", before.schema)


def test_a_psf_at_a_position():
    stamp = gaussian_psf(1.7, 17)
    assert_array_equal(stamp_at(afwlike.Psf(lambda x, y: stamp * x), 9.0, 8.0), 8 * stamp)
    assert_array_equal(stamp_at(imageslike.Psf(stamp), 9.0, 8.0), stamp)
    assert stamp_at(gpucoadd.Psf(stamp), 9.0, 8.0) == pytest.approx(stamp / stamp.sum())
    with pytest.raises(TypeError, match=r"a PSF must have computeKernelImage.* got ndarray"):
        stamp_at(stamp, 9.0, 8.0)


def test_an_image_of_a_class_that_has_more():
    class Named(gpucoadd.MaskedImage):
        def with_planes(self, *planes, schema=None):
            return "named", *planes, schema

    image, result = Named(*pixels(), schema=gpucoadd.MaskSchema.lsst()), ours()
    got = given_back(result, image)
    assert got[0] == "named" and got[-1] is result.schema
    assert got[1] is result.image and got[2] is result.variance and got[3] is result.mask
    assert given_back(result, image, anew=True) is result


def test_other_planes_of_the_same_pixels():
    place = {"origin": (-20, 30), "wcs": "a wcs", "unit": "nJy"}
    image = gpucoadd.MaskedImage(*pixels(), schema=gpucoadd.MaskSchema.lsst(), **place)
    other = [plane + 1 for plane in pixels()]
    made = image.with_planes(*other)
    assert made.image is other[0] and made.variance is other[1] and made.mask is other[2]
    assert made.schema is image.schema and {name: getattr(made, name) for name in place} == place
    more = image.schema.with_planes("SATELLITE")
    assert image.with_planes(*other, schema=more).schema == more
    with pytest.raises(ValueError, match=r"shape \(2, 7\) but the image \(5, 7\); both must cover"):
        image.with_planes(*(plane[:2] for plane in other))


def test_where_masks_and_images_begin():
    for thing in (afw().mask, from_images().mask, from_images(), Box.of(SHAPE, (-20, 30))):
        assert origin_of(thing) == (-20, 30)
    assert origin_of(np.zeros(SHAPE)) == (0, 0)


def test_errors_say_what_is_wanted():
    with pytest.raises(TypeError, match="ndarray has no image; an exposure must have"):
        from_lsst(np.zeros(SHAPE))
    with pytest.raises(TypeError, match="a mask must have getMaskPlaneDict"):
        read_mask(np.zeros(SHAPE, np.int32))
    with pytest.raises(TypeError, match="has no pixels"):
        from_lsst(type("Thing", (), {"image": "pixels", "mask": None, "variance": None})())
    small = gpucoadd.MaskedImage(*(plane[:2] for plane in pixels()), schema=gpucoadd.MaskSchema.lsst())
    with pytest.raises(ValueError, match=r"shape \(2, 7\) but the exposure to be filled \(5, 7\)"):
        given_back(small, afw())
