"""A masked image that has its PSF and metadata with it: what stays where pixels change."""

import numpy as np
import pytest

import gpucoadd
from gpucoadd.lsst import PlainMaskedImage
from gpucoadd.scenery import gaussian_psf

STAMP = gaussian_psf(1.6, 15)
PLACE = {"origin": (-20, 30), "wcs": "a wcs", "unit": "nJy"}


def planes(value=1):
    return np.full((5, 7), value, np.float32), np.ones((5, 7), np.float32), np.zeros((5, 7), np.int32)


def plain():
    more = {"psf": gpucoadd.Psf(STAMP), "psf_sigma": 1.25, "metadata": {"VISIT": 7}}
    return PlainMaskedImage(*planes(), schema=gpucoadd.MaskSchema.lsst(), **PLACE, **more)


def test_other_planes_of_a_plain_image():
    image, other = plain(), planes(2)
    made = image.with_planes(*other)
    assert type(made) is PlainMaskedImage and made.image is other[0]
    assert {name: getattr(made, name) for name in PLACE} == PLACE and made.schema == image.schema
    assert (made.psf, made.psf_sigma, made.metadata) == (image.psf, 1.25, {"VISIT": 7})
    psf = gpucoadd.Psf(gaussian_psf(2.0, 15))
    made = image.with_planes(*other, schema=image.schema.with_planes("SATELLITE"), psf=psf)
    assert made.psf is psf and made.psf_sigma == pytest.approx(2.0, rel=0.02)
    assert "SATELLITE" in made.schema and made.metadata == {"VISIT": 7}
    with pytest.raises(ValueError, match=r"shape \(4, 7\) but the image \(5, 7\); both must cover the same pixels"):
        image.with_planes(*(plane[1:] for plane in other))


def test_a_cutout_has_what_the_whole_has():
    image = plain()
    made = image.cutout((31, -18, 3, 2))
    assert (made.shape, made.origin, made.unit) == ((2, 3), (-18, 31), "nJy")
    assert (made.psf, made.psf_sigma, made.metadata) == (image.psf, 1.25, {"VISIT": 7})


def test_of_another_masked_image():
    image = plain()
    assert PlainMaskedImage.of(image).psf is image.psf
    psf = gpucoadd.Psf(gaussian_psf(2.0, 15))
    made = PlainMaskedImage.of(image, psf=psf, psf_sigma=3.5)
    assert made.psf is psf and made.psf_sigma == 3.5 and made.image is image.image
