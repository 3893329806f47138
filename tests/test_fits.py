"""FITS files: every layout in, the afw layout out, and one clear line for everything that is wrong with a file."""

import gzip
import logging
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.wcs import WCS
from numpy.testing import assert_array_equal

from gpucoadd import sources
from gpucoadd.fits import read_image, read_provenance, read_warps, write_array, write_mask, write_planes
from gpucoadd.masks import MaskSchema

SHAPE = (40, 30)
PLANES = {"BAD": 0, "SAT": 1, "EDGE": 4, "NO_DATA": 8}


def sky_wcs(crpix=(10.0, 12.0)):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = crpix
    wcs.wcs.cdelt = [-5e-5, 5e-5]
    return wcs


def planes(seed=0, shape=SHAPE, names=PLANES):
    rng = np.random.default_rng(seed)
    image = rng.normal(10.0, 2.0, shape).astype(np.float32)
    variance = rng.uniform(1.0, 4.0, shape).astype(np.float32)
    mask = np.zeros(shape, np.int32)
    for bit in names.values():
        mask[rng.random(shape) < 0.05] |= 1 << bit
    return image, variance, mask


def afw_hdus(
    seed=0, *, shape=SHAPE, names=PLANES, unit="nJy", visit=None, origin=None, compression=None, wcs=None, **cards
):
    image, variance, mask = planes(seed, shape, names)
    primary = fits.PrimaryHDU()
    if visit is not None:
        primary.header["VISIT"] = visit
    primary.header.update(cards)
    hdus = [primary]
    for name, array in (("IMAGE", image), ("MASK", mask), ("VARIANCE", variance)):
        header = fits.Header() if wcs is None else wcs.to_header()
        header["EXTTYPE"] = name
        if unit and name == "IMAGE":
            header["BUNIT"] = unit
        if origin:
            for axis, start in ((1, origin[1]), (2, origin[0])):
                header[f"CTYPE{axis}A"], header[f"CRPIX{axis}A"] = "LINEAR", 1.0
                header[f"CRVAL{axis}A"], header[f"CUNIT{axis}A"] = float(start), "PIXEL"
        if name == "MASK":
            for plane, bit in names.items():
                header[f"HIERARCH MP_{plane}"] = bit
        if compression:
            options = {"quantize_level": 0.0} if compression.startswith("GZIP") else {}
            hdu = fits.CompImageHDU(array, header, name=name, compression_type=compression, **options)
        else:
            hdu = fits.ImageHDU(array, header, name=name)
        hdus.append(hdu)
    return fits.HDUList(hdus)


def write_afw(path, seed=0, **options):
    options.setdefault("PSFSIGMA", 2.0)
    afw_hdus(seed, **options).writeto(path)
    return path


def assert_planes(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and a.dtype.isnative and a.flags.c_contiguous
        assert_array_equal(a, b)


def read_one(path):
    out = read_image(path, device="cpu")
    return out.image, out.variance, out.mask


# ------------------------------------------------------------------------------------------------ layouts


@pytest.mark.parametrize("compression", [None, "GZIP_2", "GZIP_1"])
def test_afw_is_taken_as_it_is(tmp_path, compression):
    path = write_afw(tmp_path / "a.fits", seed=3, compression=compression, origin=(-7, 4100), wcs=sky_wcs())
    out = read_image(path, device="cpu")
    assert_planes((out.image, out.variance, out.mask), planes(3))
    assert dict(out.schema.planes) == PLANES
    assert out.origin == (-7, 4100) and out.unit == "nJy"
    assert out.wcs.wcs.crpix.tolist() == [10.0, 12.0]


def test_afw_keeps_nan_and_mask_as_they_are(tmp_path):
    hdus = afw_hdus()
    hdus["IMAGE"].data[0, 0] = np.nan
    hdus["VARIANCE"].data[0, 1] = -1.0
    mask = hdus["MASK"].data.copy()
    hdus.writeto(tmp_path / "a.fits")
    image, variance, got = read_one(tmp_path / "a.fits")
    assert np.isnan(image[0, 0]) and variance[0, 1] == -1.0
    assert_array_equal(got, mask)


def test_afw_without_plane_names_has_lsst_planes(tmp_path):
    write_afw(tmp_path / "a.fits", names={})
    assert read_image(tmp_path / "a.fits", device="cpu").schema == MaskSchema.lsst()


def test_origin_from_ltv(tmp_path):
    hdus = afw_hdus()
    hdus["IMAGE"].header["LTV1"], hdus["IMAGE"].header["LTV2"] = -12.0, 5.0
    hdus.writeto(tmp_path / "a.fits")
    assert read_image(tmp_path / "a.fits", device="cpu").origin == (-5, 12)


def test_origin_must_be_whole_pixels(tmp_path):
    write_afw(tmp_path / "a.fits", origin=(0.5, 2))
    with pytest.raises(ValueError, match=r"a\.fits: its first pixel is at .*0\.5.*whole pixels"):
        read_image(tmp_path / "a.fits")


def test_exttype_names_an_hdu_without_extname(tmp_path):
    hdus = afw_hdus()
    for hdu in hdus[1:]:
        del hdu.header["EXTNAME"]
    hdus.writeto(tmp_path / "a.fits")
    assert_planes(read_one(tmp_path / "a.fits"), planes(0))


def test_lsst_images(tmp_path):
    image, variance, mask = planes(1, names={"COSMIC": 3, "NO_DATA": 5})
    image[2, 3] = np.nan
    primary = fits.PrimaryHDU()
    primary.header["DATAMODL"] = "org.lsst.images"
    header = fits.Header()
    header["MSKN0000"], header["MSKM0000"] = "COSMIC", 8
    header["MSKN0001"], header["MSKM0001"] = "NO_DATA", 32
    hdus = [fits.ImageHDU(image, name="IMAGE"), fits.ImageHDU(mask, header, name="MASK")]
    fits.HDUList([primary, *hdus, fits.ImageHDU(variance, name="VARIANCE")]).writeto(tmp_path / "a.fits")
    out = read_image(tmp_path / "a.fits", device="cpu")
    assert dict(out.schema.planes) == {"COSMIC": 3, "NO_DATA": 5}
    mask[2, 3] |= 32
    variance[2, 3] = np.nan
    assert_planes((out.image, out.variance, out.mask), (image, variance, mask))


def test_lsst_images_value_must_be_one_bit(tmp_path):
    hdus = afw_hdus(names={})
    hdus["MASK"].header["MSKN0000"], hdus["MASK"].header["MSKM0000"] = "COSMIC", 6
    hdus.writeto(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=r"a\.fits: card MSKM0000 of mask plane 'COSMIC' must be one bit, got 6"):
        read_image(tmp_path / "a.fits")


def space_file(path, dq, telescope=None):
    image, variance, _ = planes(2)
    sigma = np.sqrt(variance)
    image[0, 0], sigma[0, 1], sigma[0, 2] = np.nan, 0.0, np.nan
    primary = fits.PrimaryHDU()
    if telescope:
        primary.header["TELESCOP"] = telescope
    hdus = [primary, fits.ImageHDU(image, name="SCI"), fits.ImageHDU(sigma, name="ERR")]
    if dq is not None:
        hdus.append(fits.ImageHDU(dq, name="DQ"))
    fits.HDUList(hdus).writeto(path)
    return image, sigma


def test_jwst(tmp_path):
    dq = np.zeros(SHAPE, np.uint32)
    dq[1, :8] = [0, 1, 2, 4, 1 << 9, 1 << 31, 16 | 32, 1 << 12]
    image, sigma = space_file(tmp_path / "a.fits", dq, "JWST")
    out = read_image(tmp_path / "a.fits", device="cpu")
    bit = out.schema.bitmask
    expected = [0, bit("BAD"), bit("SATURATED"), bit("JUMP_DET"), bit("NO_DATA"), bit("DQ_OTHER")]
    expected += [bit("OUTLIER", "PERSISTENCE"), bit("DQ_OTHER")]
    assert out.mask[1, :8].tolist() == expected
    assert (out.mask[0, :4] == [bit("NO_DATA")] * 3 + [0]).all()
    assert np.isnan(out.image[0, :3]).all() and np.isnan(out.variance[0, :3]).all()
    assert_array_equal(out.variance[2:], np.square(sigma[2:].astype(np.float64)).astype(np.float32))
    assert_array_equal(out.image[2:], image[2:])


@pytest.mark.parametrize("telescope", ["HST", None])
def test_hst_any_bit_is_bad(tmp_path, telescope):
    dq = np.zeros(SHAPE, np.int16)
    dq[1, :5] = [0, 64, 256, 4096, -32768]
    space_file(tmp_path / "a.fits", dq, telescope)
    out = read_image(tmp_path / "a.fits", device="cpu")
    bit = out.schema.bitmask
    assert out.mask[1, :5].tolist() == [0, bit("BAD"), bit("BAD", "SAT"), bit("BAD", "CR"), bit("BAD")]


def test_sci_and_err_without_dq(tmp_path):
    space_file(tmp_path / "a.fits", None)
    out = read_image(tmp_path / "a.fits", device="cpu")
    assert out.schema == MaskSchema.lsst()
    assert np.flatnonzero(out.mask).tolist() == [0, 1, 2]


@pytest.mark.parametrize("where", ["WEIGHT", "WHT", ".weight.fits", ".wht.fits", "_weight.fits", ".weight.fits.gz"])
def test_image_and_weight(tmp_path, where):
    image, variance, _ = planes(4)
    weight = (1.0 / variance).astype(np.float32)
    weight[5, :3] = [0.0, -1.0, np.nan]
    if where.isupper():
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, name="SCI"), fits.ImageHDU(weight, name=where)]
        fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    else:
        fits.PrimaryHDU(image).writeto(tmp_path / "a.fits")
        fits.PrimaryHDU(weight).writeto(tmp_path / f"a{where}")
    got = read_one(tmp_path / "a.fits")
    mask = np.zeros(SHAPE, np.int32)
    mask[5, :3] = MaskSchema.lsst().bitmask("NO_DATA")
    image[5, :3] = np.nan
    with np.errstate(divide="ignore"):
        variance = (1.0 / weight.astype(np.float64)).astype(np.float32)
    variance[5, :3] = np.nan
    assert_planes(got, (image, variance, mask))


def test_weight_files_in_a_folder_are_no_warps(tmp_path):
    image, variance, _ = planes(4)
    for name in ("b", "a"):
        fits.PrimaryHDU(image).writeto(tmp_path / f"{name}.fits")
        fits.PrimaryHDU(variance).writeto(tmp_path / f"{name}.weight.fits")
    warps = read_warps(tmp_path, psf_fwhm=4.0, device="cpu")
    assert warps.epochs == ("a", "b")
    assert read_warps(sorted(tmp_path.iterdir()), psf_fwhm=4.0, device="cpu").epochs == ("a", "b")


def test_scaled_integers(tmp_path):
    hdu = fits.PrimaryHDU(np.arange(1200, dtype=np.uint16).reshape(SHAPE))
    hdu.writeto(tmp_path / "a.fits")
    fits.PrimaryHDU(np.ones(SHAPE, np.float64)).writeto(tmp_path / "a.weight.fits")
    assert_array_equal(read_one(tmp_path / "a.fits")[0], np.arange(1200, dtype=np.float32).reshape(SHAPE))


def test_ccddata(tmp_path):
    image, variance, _ = planes(5)
    sigma = np.sqrt(variance)
    bad = image > 12
    data = CCDData(image, uncertainty=StdDevUncertainty(sigma), mask=bad, unit="adu")
    data.write(tmp_path / "a.fits")
    out = read_image(tmp_path / "a.fits", device="cpu")
    assert out.unit == "adu"
    assert_array_equal(out.mask, np.where(bad, out.schema.bitmask("BAD"), 0))
    assert_array_equal(out.variance, np.square(sigma.astype(np.float64)).astype(np.float32))


def test_whole_file_gzip(tmp_path):
    plain = write_afw(tmp_path / "a.fits", seed=6)
    packed = tmp_path / "b.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert_planes(read_one(packed), planes(6))
    assert read_warps(packed, device="cpu").epochs == ("b",)


# ------------------------------------------------------------------------------------------------ stacks


def test_stack_of_a_folder(tmp_path):
    for name, seed in (("b.fits", 1), ("a.fits.fz", 0), ("c.fits", 2)):
        write_afw(tmp_path / name, seed=seed, origin=(3, 4), wcs=sky_wcs())
    (tmp_path / "notes.txt").write_text("no warp")
    warps = read_warps(str(tmp_path), device="cpu")
    assert warps.shape == (3, *SHAPE) and warps.epochs == ("a", "b", "c")
    assert warps.inputs == tuple(str(tmp_path / name) for name in ("a.fits.fz", "b.fits", "c.fits"))
    assert warps.origin == (3, 4) and warps.unit == "nJy" and warps.wcs is not None
    assert warps.source.in_memory is False and warps.source.seconds_reading == 0.0
    for epoch in range(3):
        assert_planes(warps.source.read(epoch, slice(0, 40)), planes(epoch))
    assert warps.source.seconds_reading > 0.0
    assert_array_equal(warps.image[1], planes(1)[0])


def test_epoch_is_the_visit(tmp_path):
    write_afw(tmp_path / "a.fits", visit=1234)
    write_afw(tmp_path / "b.fits", visit="v7")
    hdus = afw_hdus(PSFSIGMA=2.0)
    hdus["IMAGE"].header["VISIT"] = 99
    hdus.writeto(tmp_path / "c.fits")
    assert read_warps(tmp_path, device="cpu").epochs == (1234, "v7", 99)


@pytest.mark.parametrize("compression", [None, "GZIP_2", "RICE_1", "HCOMPRESS_1"])
def test_bands_equal_the_whole(tmp_path, compression):
    write_afw(tmp_path / "a.fits", seed=8, shape=(67, 53), compression=compression)
    source = read_warps(tmp_path, device="cpu").source
    whole = source.read(0, slice(None))
    assert whole[0].shape == (67, 53)
    for start in range(0, 67, 13):
        band = source.read(0, slice(start, min(start + 13, 67)))
        for a, b in zip(band, whole, strict=True):
            assert_array_equal(a, b[start : start + 13])
            assert a.flags.c_contiguous and a.dtype == b.dtype
    assert source.read(-1, slice(60, 99))[0].shape == (7, 53)
    assert [p.shape for p in source.read(0, slice(5, 5))] == [(0, 53)] * 3
    with pytest.raises(ValueError, match="slice of step 1"):
        source.read(0, slice(0, 10, 2))


@pytest.mark.parametrize("compression", [None, "GZIP_2", "HCOMPRESS_1"])
def test_threads_read_what_one_reads(tmp_path, monkeypatch, compression):
    monkeypatch.setattr(sources, "_MAX_OPEN", 2)
    for epoch in range(6):
        write_afw(tmp_path / f"{epoch}.fits", seed=epoch, shape=(64, 64), compression=compression)
    source = read_warps(tmp_path, device="cpu").source
    bands = [(epoch, slice(start, start + 16)) for start in range(0, 64, 16) for epoch in range(6)]
    alone = [source.read(*band) for band in bands]
    with ThreadPoolExecutor(8) as pool:
        for together, one in zip(pool.map(lambda band: source.read(*band), bands * 3), alone * 3, strict=True):
            for a, b in zip(together, one, strict=True):
                assert_array_equal(a, b)


def test_few_files_stay_open(tmp_path):
    for epoch in range(5):
        write_afw(tmp_path / f"{epoch}.fits", seed=epoch)
    pool = sources.Pool(max_open=2)
    exposures = [sources.Exposure([str(tmp_path / f"{epoch}.fits")]) for epoch in range(5)]
    for exposure in exposures:
        with pool.using(exposure):
            pass
    assert [bool(exposure.files) for exposure in exposures] == [False, False, False, True, True]
    with pool.using(exposures[0]) as (hdus,):
        assert_array_equal(hdus["IMAGE"].data, planes(0)[0])
    pool.close()
    assert not any(exposure.files for exposure in exposures)


def test_closed_source_opens_again(tmp_path):
    write_afw(tmp_path / "a.fits")
    source = read_warps(tmp_path, device="cpu").source
    source.close()
    assert_planes(source.read(0, slice(None)), planes(0))


def test_masks_are_moved_to_common_bits(tmp_path):
    write_afw(tmp_path / "a.fits", names={"BAD": 0, "NO_DATA": 8})
    other = {"NO_DATA": 1, "BAD": 8, "CROSSTALK": 9, "SAT": 0}
    write_afw(tmp_path / "b.fits", seed=5, names=other)
    warps = read_warps(tmp_path, device="cpu")
    assert dict(warps.schema.planes) == {"BAD": 0, "NO_DATA": 8, "CROSSTALK": 9, "SAT": 1}
    raw, got = planes(5, names=other)[2], warps.source.read(1, slice(None))[2]
    for name, bit in other.items():
        assert_array_equal((got & warps.schema.bitmask(name)) != 0, (raw >> bit & 1) != 0)
    assert_array_equal(warps.source.read(0, slice(None))[2], planes(0, names={"BAD": 0, "NO_DATA": 8})[2])


def test_twins_by_epoch(tmp_path, caplog):
    for folder, visits in (("direct", (11, 12, 13)), ("matched", (99, 13, 11))):
        (tmp_path / folder).mkdir()
        for i, visit in enumerate(visits):
            write_afw(tmp_path / folder / f"{i}.fits", seed=visit, visit=visit, PSFSIGMA=3.0 + visit)
    warps = read_warps(tmp_path / "direct", psf_matched=tmp_path / "matched", device="cpu")
    twins = warps.psf_matched
    assert warps.epochs == (11, 12, 13) and twins.epochs == (11, 13)
    assert twins.psf_sigma.tolist() == [14.0, 16.0] and warps.psf_sigma.tolist() == [14.0, 15.0, 16.0]
    assert_planes(twins.source.read(1, slice(None)), planes(13))
    assert "0.fits is left out: there is no warp of epoch 99" in caplog.text
    twins = read_warps(
        tmp_path / "direct", psf_matched=tmp_path / "matched", psf_fwhm=[2.3548200450309493, 1], device="cpu"
    )
    assert twins.psf_matched.psf_sigma[0] == pytest.approx(1.0)
    assert twins.psf_sigma.tolist() == [14.0, 15.0, 16.0]


def test_no_unit_at_all(tmp_path):
    write_afw(tmp_path / "a.fits", unit=None)
    assert read_warps(tmp_path, device="cpu").unit is None


def test_pixel_grid_without_a_sky_is_no_broken_wcs(tmp_path, caplog):
    write_afw(tmp_path / "a.fits", origin=(3, 4))
    warps = read_warps(tmp_path, device="cpu")
    assert warps.wcs is None and warps.origin == (3, 4)
    assert "WCS" not in caplog.text


@pytest.mark.parametrize(
    "cards",
    [
        {},
        {"WCSAXES": 2, "CRPIX1": 1.0},
        {"CTYPE1": "", "CTYPE2": ""},
        {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"},
        {"CTYPE1": "PIXEL", "CTYPE2": "PIXEL", "CUNIT1": "PIXEL", "CUNIT2": "PIXEL"},
        {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR", "CD1_1": 0.0, "CD2_2": 1.0},  # singular
        {"CTYPE1": "WAVE-XYZ", "CTYPE2": "LINEAR"},
    ],
)
def test_no_sky_is_no_broken_wcs(tmp_path, caplog, cards):
    image, variance, mask = planes(0)
    path = tmp_path / "a.fits"
    write_planes(path, image=image, variance=variance, mask=mask, schema=MaskSchema(PLANES), origin=(3, 4))
    fits.setval(path, "PSFSIGMA", value=2.0)
    for name, value in cards.items():
        fits.setval(path, name, value=value, extname="IMAGE")
    assert read_image(path, device="cpu").wcs is None
    assert read_warps(path, device="cpu").wcs is None
    assert not caplog.records


@pytest.mark.parametrize(
    "kinds", [("RA---TAN", "DEC--TAN"), ("GLON-CAR", "GLAT-CAR"), ("RA", "DEC"), ("HPLN-TAN", "HPLT-TAN")]
)
def test_skies_are_read(tmp_path, kinds):
    wcs = sky_wcs()
    wcs.wcs.ctype = kinds
    write_afw(tmp_path / "a.fits", wcs=wcs, origin=(3, 4))
    assert list(read_image(tmp_path / "a.fits", device="cpu").wcs.wcs.ctype) == list(kinds)


def test_unreadable_wcs_is_left_out(tmp_path, caplog):
    hdus = afw_hdus(PSFSIGMA=2.0)
    hdus["IMAGE"].header.update({"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"})
    hdus.writeto(tmp_path / "a.fits")
    assert read_warps(tmp_path, device="cpu").wcs is None
    assert "its WCS is left out" in caplog.text


# ------------------------------------------------------------------------------------------------ PSF width


def star_hdus(sigma, **cards):
    y, x = np.mgrid[:121, :121]
    hdus = afw_hdus(shape=(121, 121), names={"NO_DATA": 8}, **cards)
    hdus["MASK"].data[:] = 0
    image = np.random.default_rng(2).normal(0, 0.01, (121, 121))
    for y0, x0 in ((30, 30), (30, 90), (90, 30), (90, 90)):
        image += 10 * np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * sigma**2))
    hdus["IMAGE"].data = image.astype(np.float32)
    return hdus


def psf_hdu(sigma):
    y, x = np.mgrid[:31, :31]
    return fits.ImageHDU(np.exp(-((y - 15) ** 2 + (x - 15) ** 2) / (2 * sigma**2)), name="PSF")


def test_order_of_psf_widths(tmp_path, caplog):
    hdus = star_hdus(1.5, PSFSIGMA=2.5, FWHM=3.5 * 2.3548200450309493)
    hdus.append(psf_hdu(2.0))
    hdus.writeto(tmp_path / "a.fits")

    def width(**options):
        return read_warps(tmp_path / "a.fits", device="cpu", **options).psf_sigma[0]

    assert width(psf_fwhm=3 * 2.3548200450309493) == pytest.approx(3.0)
    assert width() == pytest.approx(2.0, rel=1e-3)
    with fits.open(tmp_path / "a.fits", mode="update", memmap=False) as file:
        file["PSF"].data[:] = 1.0
    assert width() == 2.5
    assert "its PSF image is not used" in caplog.text
    with fits.open(tmp_path / "a.fits", mode="update", memmap=False) as file:
        del file["PSF"], file[0].header["PSFSIGMA"]
    assert width() == pytest.approx(3.5)
    caplog.clear()
    with fits.open(tmp_path / "a.fits", mode="update", memmap=False) as file:
        file[0].header["FWHM"] = -1.0
    assert width() == pytest.approx(1.5, rel=0.01)
    assert [record.levelno for record in caplog.records if "on 4 stars" in record.message] == [logging.WARNING]


def test_psf_of_a_file(tmp_path, caplog):
    """A stamp, and coefficient images with the cards of a kernel that varies: sigma 2 at x = 20, 3 at x = 80."""
    stamp = psf_hdu(2.0).data.astype(np.float32)
    narrow, wide = (psf_hdu(sigma).data / psf_hdu(sigma).data.sum() for sigma in (2.0, 3.0))
    images = np.stack([(narrow + wide) / 2, (wide - narrow) / 2, 0 * wide])
    cards = {"KERNKIND": "chebyshev1", "KERNXMIN": 20.0, "KERNYMIN": 0.0, "KERNXMAX": 80.0, "KERNYMAX": 100.0}
    for name, data in (("a", stamp), ("b", images), ("c", None)):
        hdus = afw_hdus(shape=(121, 121), names={"NO_DATA": 8}, origin=(-7, -40), PSFSIGMA=1.0)
        if data is not None:
            hdus.append(fits.ImageHDU(data, fits.Header(cards if data.ndim == 3 else {}), name="PSF"))
        hdus.writeto(tmp_path / f"{name}.fits")
    (one,) = read_warps(tmp_path / "a.fits", device="cpu").psfs
    assert_array_equal(one.images[0], stamp.astype(np.float64))

    warps = read_warps([tmp_path / "b.fits", tmp_path / "c.fits"], device="cpu")
    assert warps.psfs[1] is None and warps.psf_sigma[1] == 1.0
    assert_array_equal(warps.psfs[0].images, images)
    assert (warps.psfs[0].kind, warps.psfs[0].range) == ("chebyshev1", (20.0, 0.0, 80.0, 100.0))
    assert warps.psf_sigma[0] == pytest.approx(2.0, rel=1e-3)  # the middle of the columns -40 to 80 is 20
    assert not caplog.text


@pytest.mark.parametrize(
    ("data", "cards", "sigma", "message"),
    [
        ((30, 31), {}, 2.0, r"used for its width only \(PSF: images has shape \(30, 31\); it must be \(k, k\)"),
        ((3, 31, 31), {}, 1.0, "not used .card KERNKIND of PSF must be polynomial or chebyshev1, got ''"),
        ((3, 31, 31), {"KERNKIND": "chebyshev1"}, 1.0, "not used .card KERNXMIN of PSF must be a number, got None"),
        ((2, 31, 31), {"KERNKIND": "polynomial"}, 1.0, "not used .PSF: images has 2 coefficient images"),
        (np.nan, {}, 1.0, "not used .image must be finite with a positive sum"),
    ],
)
def test_psf_images_that_cannot_be_used(tmp_path, caplog, data, cards, sigma, message):
    stamp = psf_hdu(2.0).data
    if isinstance(data, tuple):
        stamp = np.broadcast_to(stamp[: data[-2], : data[-1]], data).copy()
    else:
        stamp[3, 4] = data
    hdus = afw_hdus(PSFSIGMA=1.0)
    hdus.append(fits.ImageHDU(stamp, fits.Header(cards), name="PSF"))
    hdus.writeto(tmp_path / "a.fits")
    warps = read_warps(tmp_path, device="cpu")
    assert warps.psfs == (None,) and warps.psf_sigma[0] == pytest.approx(sigma, rel=1e-3)
    (record,) = [record for record in caplog.records if "PSF image" in record.getMessage()]
    assert re.search(f"a.fits: its PSF image is {message}", record.getMessage())


def test_no_star_gives_nan_and_a_warning(tmp_path, caplog):
    hdus = afw_hdus()
    hdus.writeto(tmp_path / "a.fits")
    assert np.isnan(read_warps(tmp_path, device="cpu").psf_sigma[0])
    assert "has no star to measure it on; give psf_fwhm" in caplog.text


def test_direct_warps_with_twins_are_not_measured(tmp_path):
    for folder, cards in (("direct", {}), ("matched", {"PSFSIGMA": 2.0})):
        (tmp_path / folder).mkdir()
        star_hdus(1.5, **cards).writeto(tmp_path / folder / "a.fits")
    warps = read_warps(tmp_path / "direct", psf_matched=tmp_path / "matched", device="cpu")
    assert np.isnan(warps.psf_sigma[0]) and warps.psf_matched.psf_sigma[0] == 2.0
    assert warps.source.seconds_reading == 0.0


@pytest.mark.parametrize(
    ("fwhm", "message"),
    [(0.0, "must be positive"), (np.nan, "must be positive"), ([1.0, 2.0], r"shape \(2,\); .* \(1,\)")],
)
def test_wrong_psf_fwhm(tmp_path, fwhm, message):
    write_afw(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=f"psf_fwhm.*{message}"):
        read_warps(tmp_path, psf_fwhm=fwhm)


# ------------------------------------------------------------------------------------------------ what is wrong


def test_paths_that_lead_nowhere(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nothing"):
        read_warps(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.fits"):
        read_image(tmp_path / "nothing.fits")
    with pytest.raises(ValueError, match=r"holds no file that ends with \.fits"):
        read_warps(tmp_path)
    with pytest.raises(ValueError, match="psf_matched is empty"):
        read_warps(write_afw(tmp_path / "a.fits"), psf_matched=[])
    with pytest.raises(TypeError, match="paths must be a path"):
        read_warps([b"a.fits"])
    with pytest.raises(OSError, match="cannot read"):
        read_image(tmp_path)


def test_not_fits(tmp_path):
    (tmp_path / "a.fits").write_text("hello" * 1000)
    (tmp_path / "b.fits").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.fits is not a FITS file: .* begins with b'hellohell'"):
        read_warps(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=r"b\.fits"):
        read_warps(tmp_path / "b.fits")


@pytest.mark.parametrize("compression", [None, "GZIP_2"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_truncated(tmp_path, compression, keep):
    path = write_afw(tmp_path / "a.fits", shape=(100, 90), compression=compression)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=r"a\.fits is truncated: .* fetch it again"):
        read_warps(path)


def test_truncated_gzip(tmp_path):
    data = gzip.compress(write_afw(tmp_path / "a.fits").read_bytes())
    (tmp_path / "b.fits.gz").write_bytes(data[:-100])
    with pytest.raises(ValueError, match=r"b\.fits\.gz is truncated or damaged"):
        read_warps(tmp_path / "b.fits.gz")


def test_damaged_size_card(tmp_path):
    path = write_afw(tmp_path / "a.fits")
    path.write_bytes(path.read_bytes().replace(b"NAXIS1  =                   30", b"NAXIS1  =                   3x", 1))
    with pytest.raises(ValueError, match=r"a\.fits is damaged: card NAXIS1 is b'3x'"):
        read_warps(path)


def test_missing_fill_and_trailing_bytes_are_forgiven(tmp_path):
    path = write_afw(tmp_path / "a.fits")
    data = path.read_bytes()
    path.write_bytes(data + b"\0" * 5000)
    assert_planes(read_one(path), planes(0))
    path.write_bytes(data[: -(2880 - 1200 * 4 % 2880)])
    assert_planes(read_one(path), planes(0))


def test_corrupt_compressed_pixels(tmp_path):
    path = write_afw(tmp_path / "a.fits", seed=1, shape=(100, 90), compression="GZIP_2")
    data = bytearray(path.read_bytes())
    with fits.open(path, memmap=False, disable_image_compression=True) as file:
        table = file["VARIANCE"]
        heap = table.fileinfo()["datLoc"] + table.header["NAXIS1"] * table.header["NAXIS2"]
        length = table.header["PCOUNT"]
    data[heap : heap + length] = bytes(length)
    path.write_bytes(data)
    warps = read_warps(path, device="cpu")
    with pytest.raises(
        ValueError, match=r"a\.fits: the pixels of VARIANCE cannot be decoded .*damaged, fetch it again"
    ):
        warps.source.read(0, slice(0, 20))
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_image(path)


def test_file_replaced_by_another_size(tmp_path):
    path = write_afw(tmp_path / "a.fits")
    source = read_warps(path, device="cpu").source
    source.close()
    path.unlink()
    write_afw(path, shape=(40, 31))
    with pytest.raises(ValueError, match=r"a\.fits: .*the file has changed since it was first read"):
        source.read(0, slice(None))


def drop(name):
    def change(hdus):
        del hdus[name]

    return change


def reshape(name, shape):
    def change(hdus):
        hdus[name].data = np.zeros(shape, hdus[name].data.dtype)

    return change


def float_mask(hdus):
    hdus["MASK"].data = hdus["MASK"].data.astype(np.float32)


def twice(hdus):
    hdus.append(hdus["MASK"].copy())


def bit_card(value):
    def change(hdus):
        hdus["MASK"].header["MP_BAD"] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("VARIANCE"), "has no HDU VARIANCE; .* must hold IMAGE, MASK and VARIANCE, this one holds IMAGE, MASK"),
        (drop("MASK"), "has no HDU MASK"),
        (drop("IMAGE"), "holds MASK, VARIANCE but no image"),
        (twice, "has 2 HDUs MASK; an exposure has one"),
        (reshape("IMAGE", (2, 40, 30)), r"IMAGE has shape \(2, 40, 30\); it must be \(y, x\)"),
        (reshape("MASK", (40, 31)), r"MASK has shape \(40, 31\) but IMAGE has \(40, 30\); both are \(y, x\)"),
        (float_mask, r"MASK holds floats \(BITPIX -32\); a mask must hold integers"),
        (bit_card(1), "mask planes 'BAD' and 'SAT' share bit 1"),
        (bit_card(31), "bits of an int32 mask are 0 to 30"),
        (bit_card("x"), "card MP_BAD must be a bit number, got 'x'"),
    ],
)
def test_wrong_hdus(tmp_path, change, message):
    hdus = afw_hdus()
    change(hdus)
    hdus.writeto(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=rf"a\.fits.*{message}"):
        read_warps(tmp_path / "a.fits")


def test_no_image_and_no_noise(tmp_path):
    fits.PrimaryHDU().writeto(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=r"a\.fits holds no image"):
        read_image(tmp_path / "a.fits")
    fits.PrimaryHDU(np.ones(SHAPE)).writeto(tmp_path / "b.fits")
    with pytest.raises(ValueError, match=r"b\.fits has an image but no noise; .*<name>\.weight\.fits"):
        read_image(tmp_path / "b.fits")
    fits.PrimaryHDU().writeto(tmp_path / "b.weight.fits")
    with pytest.raises(ValueError, match=r"the weight file of .*b\.fits holds no image"):
        read_image(tmp_path / "b.fits")


def test_sci_without_err(tmp_path):
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.ones(SHAPE), name="SCI"), fits.ImageHDU(np.ones(SHAPE, int), name="DQ")]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=r"a\.fits has no HDU ERR; .* must hold SCI, ERR and DQ"):
        read_image(tmp_path / "a.fits")


def test_unknown_uncertainty(tmp_path):
    hdus = [fits.PrimaryHDU(np.ones(SHAPE)), fits.ImageHDU(np.ones(SHAPE), name="UNCERT")]
    hdus[1].header["UTYPE"] = "UnknownUncertainty"
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=r"a\.fits: UNCERT has UTYPE 'UNK'; it must be one of STD, VAR, INV"):
        read_image(tmp_path / "a.fits")


def test_variance_below_float32(tmp_path):
    fits.PrimaryHDU(np.ones(SHAPE)).writeto(tmp_path / "a.fits")
    fits.PrimaryHDU(np.full(SHAPE, 1e40)).writeto(tmp_path / "a.weight.fits")
    with pytest.raises(ValueError, match=r"a\.fits: a variance is 1e-40, below what float32 holds"):
        read_image(tmp_path / "a.fits")


def test_mask_bits_without_a_name(tmp_path):
    hdus = afw_hdus(PSFSIGMA=2.0)
    hdus["MASK"].data[7, 7] |= 1 << 20
    hdus.writeto(tmp_path / "a.fits")
    warps = read_warps(tmp_path, device="cpu")
    assert warps.source.read(0, slice(0, 7))[2].shape == (7, 30)
    with pytest.raises(ValueError, match=r"a\.fits: mask bits 20 are set but have no name"):
        warps.source.read(0, slice(7, 8))


def test_too_many_planes(tmp_path):
    write_afw(tmp_path / "a.fits", names={f"A{i}": i for i in range(20)})
    write_afw(tmp_path / "b.fits", names={f"B{i}": i for i in range(20)})
    with pytest.raises(ValueError, match=r"b\.fits: no bit left for mask plane 'B11'; .* may name 31 planes"):
        read_warps(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (41, 30)}, r"b\.fits is 41 x 30 at \(0, 0\) but the first warp, .*a\.fits, is 40 x 30 at \(0, 0\)"),
        ({"origin": (0, 5)}, r"b\.fits is 40 x 30 at \(0, 5\) but .*; warps must share one pixel grid"),
        ({"unit": "adu"}, r"b\.fits is in adu \(BUNIT\) but the first warp, .*a\.fits, is in nJy; .* share one unit"),
        ({"unit": None}, r"b\.fits is in no unit \(BUNIT\) but the first warp, .*, is in nJy"),
        ({"wcs": sky_wcs((14.0, 12.0))}, r"b\.fits covers other sky than .*a\.fits: .* corner is 4\.0 pixels away"),
        ({"visit": "a"}, r"a\.fits and .*b\.fits both are epoch 'a'; ids must differ"),
    ],
)
def test_warps_that_do_not_fit(tmp_path, options, message):
    write_afw(tmp_path / "a.fits", wcs=sky_wcs())
    write_afw(tmp_path / "b.fits", **{"wcs": sky_wcs(), **options})
    with pytest.raises(ValueError, match=message):
        read_warps(tmp_path)


def test_twins_that_do_not_fit(tmp_path):
    direct = write_afw(tmp_path / "a.fits", visit=1)
    with pytest.raises(
        ValueError, match=r"no file of psf_matched has the id of a warp: .*b\.fits is 2, .*a\.fits is 1"
    ):
        read_warps(direct, psf_matched=write_afw(tmp_path / "b.fits", visit=2))
    with pytest.raises(ValueError, match=r"c\.fits is in adu"):
        read_warps(direct, psf_matched=write_afw(tmp_path / "c.fits", visit=1, unit="adu"))


def test_unknown_device(tmp_path):
    with pytest.raises(ValueError, match="device must be"):
        read_warps(write_afw(tmp_path / "a.fits"), device="tpu")


# ------------------------------------------------------------------------------------------------ writing

PROVENANCE = {
    "version": "0.1.0",
    "config": {"detection.threshold": 7.5, "planes": ["BAD", "SAT"], "mode": "mean", "rate": None, "long": "x" * 300},
    "inputs": [(1234, "warps/a.fits", 0.25), ("v7", "b" * 100 + ".fits", 1.5), ("ü", '"quoted".fits', 0.0)],
}


def write_example(path, **options):
    image, variance, mask = planes(9)
    options.setdefault("schema", MaskSchema(PLANES).with_planes("DETECTED_NEGATIVE"))
    write_planes(
        path, image=image, variance=variance, mask=mask, origin=(-3, 4000), wcs=sky_wcs(), unit="nJy", **options
    )
    return image, variance, mask


@pytest.mark.parametrize("compression", ["none", "lossless"])
def test_written_planes_read_back(tmp_path, compression):
    n_image = np.arange(1200, dtype=np.int64).reshape(SHAPE)
    path = tmp_path / "a.fits"
    expected = write_example(path, compression=compression, extra={"NIMAGE": n_image}, provenance=PROVENANCE)
    out = read_image(path, device="cpu")
    assert_planes((out.image, out.variance, out.mask), expected)
    assert dict(out.schema.planes) == {**PLANES, "DETECTED_NEGATIVE": 2}
    assert out.origin == (-3, 4000) and out.unit == "nJy"
    corner = [[0.0, 0.0], [29.0, 39.0]]
    assert_array_equal(out.wcs.wcs_pix2world(corner, 0), sky_wcs().wcs_pix2world(corner, 0))
    assert read_provenance(path) == PROVENANCE
    assert os.listdir(tmp_path) == ["a.fits"]
    with fits.open(path, memmap=False) as file:
        assert [hdu.name for hdu in file] == ["PRIMARY", "IMAGE", "MASK", "VARIANCE", "NIMAGE"]
        assert file[0].data is None and "EXTNAME" not in file[0].header
        assert file[0].header["CREATOR"] == "gpucoadd 0.1.0" and "DATE" in file[0].header
        assert file[4].data.dtype.name == "int32" and (file[4].data == n_image).all()
        for hdu in file[1:]:
            header = hdu.header
            assert header["EXTTYPE"] == hdu.name and header["INHERIT"] is True and header["CTYPE1"] == "RA---TAN"
            assert (header["CRVAL1A"], header["CRVAL2A"], header["CRPIX1A"]) == (4000.0, -3.0, 1.0)
            assert (header["CTYPE1A"], header["CUNIT2A"]) == ("LINEAR", "PIXEL")
            assert (header["LTV1"], header["LTV2"]) == (-4000.0, 3.0) and "AR_HDU" not in header
        assert (file[1].header["BUNIT"], file[3].header["BUNIT"]) == ("nJy", "nJy**2")
        assert "BUNIT" not in file[2].header
        assert file[2].header["MP_NO_DATA"] == 8 and file[2].header["MP_DETECTED_NEGATIVE"] == 2


def test_written_psf_is_read_back_as_a_width(tmp_path):
    write_example(tmp_path / "a.fits", extra={"PSF": psf_hdu(1.7).data})
    with fits.open(tmp_path / "a.fits", memmap=False) as file:
        assert "CTYPE1" not in file["PSF"].header and "LTV1" not in file["PSF"].header
    assert read_warps(tmp_path, device="cpu").psf_sigma[0] == pytest.approx(1.7, rel=1e-6)


def test_tiles_are_square(tmp_path):
    array = np.zeros((600, 300), np.int16)
    write_array(tmp_path / "a.fits", array, compression="lossless", extname="NIMAGE")
    with fits.open(tmp_path / "a.fits", memmap=False) as file:
        assert file["NIMAGE"].tile_shape == (256, 256) and file["NIMAGE"].compression_type == "GZIP_2"
        assert file["NIMAGE"].data.dtype.name == "int16"


def test_lossy(tmp_path):
    image, variance, mask = write_example(tmp_path / "a.fits", compression="lossy")
    write_example(tmp_path / "b.fits", compression="lossy")
    got, again = read_one(tmp_path / "a.fits"), read_one(tmp_path / "b.fits")
    # Quantised to a sixteenth of the noise (2.0, estimated from the pixels themselves): half a step either way.
    assert 0 < np.abs(got[0] - image).max() < 2.0 / 16
    assert np.abs(got[1] - variance).max() < 2.0 / 16
    assert_array_equal(got[2], mask)
    assert_planes(got, again)


def test_lossy_keeps_nan(tmp_path):
    image, variance, mask = planes(9)
    image[:5] = np.nan
    variance[3, 3] = np.inf
    path = tmp_path / "a.fits"
    write_planes(
        path, image=image, variance=variance, mask=mask, schema=MaskSchema(PLANES), origin=(0, 0), compression="lossy"
    )
    got = read_one(path)
    assert_array_equal(np.isnan(got[0]), np.isnan(image))
    assert not np.isfinite(got[1][3, 3]) and np.isfinite(got[1]).sum() == got[1].size - 1


def test_read_only_float64_is_written_as_it_is(tmp_path):
    image, variance, mask = planes(1)
    image = image.astype(np.float64)
    for array in (image, variance, mask):
        array.setflags(write=False)
    write_planes(
        tmp_path / "a.fits", image=image, variance=variance, mask=mask, schema=MaskSchema(PLANES), origin=(0, 0)
    )
    with fits.open(tmp_path / "a.fits", memmap=False) as file:
        assert file["IMAGE"].header["BITPIX"] == -64 and "BUNIT" not in file["IMAGE"].header
    assert_planes(read_one(tmp_path / "a.fits"), (image.astype(np.float32), variance, mask))


def test_write_mask_and_array(tmp_path):
    mask = planes(2)[2]
    write_mask(
        tmp_path / "m.fits", mask, schema=MaskSchema(PLANES), origin=(1, 2), wcs=sky_wcs(), provenance=PROVENANCE
    )
    with fits.open(tmp_path / "m.fits", memmap=False) as file:
        assert [hdu.name for hdu in file] == ["PRIMARY", "MASK"]
        assert_array_equal(file[1].data, mask)
        assert file[1].header["MP_EDGE"] == 4 and file[1].header["CRVAL2A"] == 1.0
    assert read_provenance(tmp_path / "m.fits") == PROVENANCE
    write_array(tmp_path / "c.fits", mask > 0, extname="COUNT", unit="epoch")
    with fits.open(tmp_path / "c.fits", memmap=False) as file:
        assert file["COUNT"].data.dtype.name == "uint8" and file["COUNT"].header["BUNIT"] == "epoch"


def test_provenance_of_nothing(tmp_path):
    write_array(tmp_path / "a.fits", np.zeros(SHAPE))
    with pytest.raises(ValueError, match=r"a\.fits has no card GCVERS"):
        read_provenance(tmp_path / "a.fits")
    write_array(tmp_path / "b.fits", np.zeros(SHAPE), provenance={"version": "1"})
    assert read_provenance(tmp_path / "b.fits") == {"version": "1", "config": {}, "inputs": []}


def test_numbers_in_provenance(tmp_path):
    provenance = {
        "version": "1",
        "config": {"a": np.float64(2.5), "b": np.arange(2), "c": {"y", "x"}, "d": complex(1)},
        "inputs": [(np.int64(3), "a.fits", np.nan), (("t", 1), "b.fits", np.float32(0.5))],
    }
    write_array(tmp_path / "a.fits", np.zeros(SHAPE), provenance=provenance)
    back = read_provenance(tmp_path / "a.fits")
    assert back["config"] == {"a": 2.5, "b": [0, 1], "c": ["x", "y"], "d": "(1+0j)"}
    assert back["inputs"][0][0] == 3 and np.isnan(back["inputs"][0][2])
    assert back["inputs"][1] == ("('t', 1)", "b.fits", 0.5)


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "a.fits"
    write_example(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*a\.fits: No space left on device; the folder must exist"):
        write_example(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.fits"]

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_example(tmp_path / "b.fits")
    assert os.listdir(tmp_path) == ["a.fits"]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*a\.fits: Not a directory; the folder must exist"):
        write_example(tmp_path / "file" / "a.fits")
    with pytest.raises(OSError, match=r"cannot write .*a\.fits: No such file"):
        write_example(tmp_path / "nothing" / "a.fits")


def test_relative_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_example("a.fits")
    assert read_image("a.fits", device="cpu").shape == SHAPE


def test_writing_refuses(tmp_path):
    path = tmp_path / "a.fits"
    image, variance, mask = planes(0)
    good = {"image": image, "variance": variance, "mask": mask, "schema": MaskSchema(PLANES), "origin": (0, 0)}
    for change, error, message in (
        ({"compression": "best"}, ValueError, "compression must be one of none, lossless, lossy, got 'best'"),
        ({"variance": variance[1:]}, ValueError, r"VARIANCE has shape \(39, 30\) but IMAGE has \(40, 30\)"),
        ({"image": image[0]}, ValueError, r"IMAGE has shape \(30,\); it must be \(y, x\)"),
        ({"mask": mask.astype(np.int64) << 40}, TypeError, "MASK must be int32, got int64"),
        ({"schema": {"BAD": 0}}, TypeError, "schema must be a MaskSchema"),
        ({"schema": MaskSchema({"bad": 0})}, ValueError, "mask plane 'bad' cannot be a FITS card"),
        ({"origin": (0.5, 1)}, ValueError, "origin must be a pair of integers"),
        ({"extra": {"MASK": mask}}, ValueError, "extra must not name IMAGE, MASK or VARIANCE"),
        ({"extra": {"PSF": image.astype(complex)}}, TypeError, "PSF must be bool, integer or float, got complex128"),
    ):
        with pytest.raises(error, match=message):
            write_planes(path, **{**good, **change})
    with pytest.raises(ValueError, match="compression must be one of none, lossless, got 'lossy'"):
        write_mask(path, mask, schema=MaskSchema(PLANES), compression="lossy")
    with pytest.raises(ValueError, match=r"a\.fits\.gz: write \.fits with"):
        write_planes(tmp_path / "a.fits.gz", **good)
    assert os.listdir(tmp_path) == []


def test_wcs_of_another_kind_is_left_out(tmp_path):
    write_array(tmp_path / "a.fits", np.zeros(SHAPE), wcs=object())
    with fits.open(tmp_path / "a.fits", memmap=False) as file:
        assert "CTYPE1" not in file[1].header


def test_threads_that_open_files_leave_warnings_as_they_were(tmp_path):
    import warnings

    for epoch in range(4):
        write_afw(tmp_path / f"{epoch}.fits", seed=epoch, PSF_FWHM=3.0)
    before = list(warnings.filters)
    threads = [threading.Thread(target=read_warps, args=(tmp_path,), kwargs={"device": "cpu"}) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
