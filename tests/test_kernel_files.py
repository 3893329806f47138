"""Kernel and PSF files, and differences without noise or mask: what comes back, and one clear line for the rest."""

import os

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_array_equal

import gpucoadd
from gpucoadd.fits import (
    find_stamp,
    read_difference,
    read_image,
    read_kernel,
    read_provenance,
    read_stamp,
    write_array,
    write_kernel,
    write_mask,
    write_planes,
)
from gpucoadd.masks import MaskSchema
from gpucoadd.matching import SpatialKernel

RNG = np.random.default_rng(3)
STAMP = RNG.normal(size=(5, 7))
BASIS, COEFFICIENTS = RNG.normal(size=(3, 5, 7)), RNG.normal(size=(3, 6))
# more digits than the twenty characters that astropy gives a float
RANGE = (-0.30000000000000004, -1.2345678901234567e-10, 1e300 / 3, 1e16 + 2)


def spatial_hdus(**cards):
    """HDUs of a Chebyshev kernel file, cards replaced or, if None, removed."""
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(BASIS, name="KERNEL_BASIS"),
            fits.ImageHDU(COEFFICIENTS, name="KERNEL_COEFFICIENTS"),
        ]
    )
    given = {"KERNKIND": "chebyshev1", "KERNXMIN": -0.5, "KERNYMIN": -0.5, "KERNXMAX": 99.5, "KERNYMAX": 59.5}
    hdus[2].header.update({key: value for key, value in (given | cards).items() if value is not None})
    return hdus


# ------------------------------------------------------------------------------------------------ kernels


@pytest.mark.parametrize(
    ("kind", "range_"), [("polynomial", None), ("chebyshev1", RANGE), ("chebyshev1", (-0.5, -0.5, 99.5, 59.5))]
)
def test_spatial_kernel_round_trip_is_exact(tmp_path, kind, range_):
    kernel = SpatialKernel(BASIS, COEFFICIENTS, kind=kind, range=range_)
    kernel.write(tmp_path / "k.fits")
    back = read_kernel(tmp_path / "k.fits")
    assert isinstance(back, SpatialKernel)
    assert (back.kind, back.range) == (kind, range_)
    for got, expected in ((back.basis, BASIS), (back.coefficients, COEFFICIENTS)):
        assert got.dtype == np.float64 and got.dtype.isnative
        assert_array_equal(got, expected)
    with fits.open(tmp_path / "k.fits") as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus[1:]] == ["KERNEL_BASIS", "KERNEL_COEFFICIENTS"]
        assert hdus[0].data is None and hdus[0].header["CREATOR"] == "gpucoadd"
        assert ("KERNXMIN" in hdus[2].header) == (range_ is not None)
        assert hdus[2].header["KERNKIND"] == kind


@pytest.mark.parametrize("dtype", [">f8", "f8", "f4", "i4", "i8"])
def test_fixed_kernel_round_trip_is_exact(tmp_path, dtype):
    stamp = (STAMP * 100).astype(dtype)
    stamp.setflags(write=False)
    write_kernel(tmp_path / "k.fits", stamp)
    back = read_kernel(tmp_path / "k.fits")
    assert back.dtype == np.float64 and back.dtype.isnative and back.flags.c_contiguous
    assert_array_equal(back, stamp)
    with fits.open(tmp_path / "k.fits") as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "KERNEL"]
        assert hdus["KERNEL"].data.dtype == np.dtype(">f8")


def test_read_kernel_is_public():
    assert gpucoadd.read_kernel is read_kernel


def test_kernel_of_the_device(tmp_path, xp):
    write_kernel(tmp_path / "k.fits", xp.asarray(STAMP))
    assert_array_equal(read_kernel(tmp_path / "k.fits"), STAMP)
    write_kernel(tmp_path / "k.fits", SpatialKernel(xp.asarray(BASIS), xp.asarray(COEFFICIENTS)))
    assert_array_equal(read_kernel(tmp_path / "k.fits").basis, BASIS)


def test_provenance_of_a_kernel(tmp_path):
    provenance = {"version": "1.2", "config": {"degree": 2}, "inputs": [("science", "s.fits", 1.0)]}
    for kernel in (STAMP, SpatialKernel(BASIS, COEFFICIENTS)):
        write_kernel(tmp_path / "k.fits", kernel, provenance=provenance)
        assert read_provenance(tmp_path / "k.fits") == provenance


def test_which_image_is_the_kernel(tmp_path):
    other = fits.ImageHDU(np.zeros((9, 9)), name="OTHER")
    cube = fits.ImageHDU(np.zeros((2, 9, 9)), name="CUBE")
    for hdus in (
        [fits.PrimaryHDU(STAMP), other],
        [fits.PrimaryHDU(), cube, fits.ImageHDU(STAMP), other],
        [fits.PrimaryHDU(np.zeros((9, 9))), other, fits.ImageHDU(STAMP, name="KERNEL")],
        [fits.PrimaryHDU(), fits.CompImageHDU(STAMP, name="KERNEL", compression_type="GZIP_2", quantize_level=0.0)],
    ):
        fits.HDUList(hdus).writeto(tmp_path / "k.fits", overwrite=True)
        assert_array_equal(read_kernel(tmp_path / "k.fits"), STAMP)


def test_scaled_integers_and_chebyshev_written_by_others(tmp_path):
    hdu = fits.PrimaryHDU(np.arange(12, dtype=np.int16).reshape(3, 4))
    hdu.header["BSCALE"], hdu.header["BZERO"] = 0.5, 2.0
    fits.HDUList([hdu]).writeto(tmp_path / "k.fits")
    with fits.open(tmp_path / "k.fits") as file:
        expected = np.array(file[0].data, np.float64)
    assert_array_equal(read_kernel(tmp_path / "k.fits"), expected)
    spatial_hdus(KERNXMAX=100, KERNKIND="CHEBYSHEV1").writeto(tmp_path / "s.fits")
    assert read_kernel(tmp_path / "s.fits").range == (-0.5, -0.5, 100.0, 59.5)


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "k.fits"
    write_kernel(path, STAMP)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*k\.fits: No space left on device"):
        write_kernel(path, SpatialKernel(BASIS, COEFFICIENTS))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["k.fits"]


@pytest.mark.parametrize(
    ("kernel", "error", "message"),
    [
        (np.zeros(5), ValueError, r"KERNEL has shape \(5,\); it must be \(y, x\)"),
        (np.zeros((2, 3, 3)), ValueError, r"KERNEL has shape \(2, 3, 3\); it must be"),
        (np.zeros((0, 3)), ValueError, r"KERNEL has shape \(0, 3\)"),
        (np.full((3, 3), np.nan), ValueError, "KERNEL holds NaN or infinite values; give finite ones"),
        (np.zeros((3, 3), complex), TypeError, "KERNEL must be bool, integer or float, got complex128"),
        ([[1.0]], TypeError, "must be a NumPy or a CuPy array, got list"),
    ],
)
def test_writing_refuses(tmp_path, kernel, error, message):
    with pytest.raises(error, match=message):
        write_kernel(tmp_path / "k.fits", kernel)
    assert os.listdir(tmp_path) == []


def images(*arrays, **named):
    hdus = [fits.ImageHDU(array) for array in arrays]
    return fits.HDUList([fits.PrimaryHDU(), *hdus, *(fits.ImageHDU(array, name=name) for name, array in named.items())])


NAN = np.where(np.eye(5), np.nan, 0.0)
NO_KERNEL = [
    pytest.param(fits.HDUList([fits.PrimaryHDU()]), r"has no 2-d image; .* named KERNEL, .* no image", id="empty"),
    pytest.param(
        images(np.zeros(4), CUBE=np.zeros((2, 3, 3))),
        r"has no 2-d image; .* holds an unnamed image of shape \(4,\), CUBE of shape \(2, 3, 3\)",
        id="no 2-d image",
    ),
    pytest.param(images(KERNEL=np.zeros((2, 3, 3))), r"KERNEL has shape \(2, 3, 3\); it must have 2 axes", id="cube"),
    pytest.param(images(KERNEL=NAN), "KERNEL holds NaN or infinite values; every value must be finite", id="nan"),
    pytest.param(images(np.where(NAN == 0, 0.0, np.inf)), "image holds NaN or infinite values", id="infinite"),
    pytest.param(
        images(KERNEL_BASIS=BASIS), "has KERNEL_BASIS but no KERNEL_COEFFICIENTS; .* both", id="no coefficients"
    ),
    pytest.param(
        images(KERNEL_COEFFICIENTS=COEFFICIENTS), "has KERNEL_COEFFICIENTS but no KERNEL_BASIS", id="no basis"
    ),
    pytest.param(
        spatial_hdus(KERNKIND="spline"), "KERNKIND .* must be polynomial or chebyshev1, got 'spline'", id="kind"
    ),
    pytest.param(spatial_hdus(KERNKIND=None), "KERNKIND .* must be polynomial or chebyshev1, got ''", id="no kind"),
    pytest.param(spatial_hdus(KERNYMAX=None), "KERNYMAX .* must be a number, got None", id="no range"),
    pytest.param(spatial_hdus(KERNYMAX="far"), "KERNYMAX .* must be a number, got 'far'", id="word as range"),
    pytest.param(spatial_hdus(KERNYMAX=True), "KERNYMAX .* must be a number, got True", id="bool as range"),
    pytest.param(spatial_hdus(KERNXMAX=-0.5), "range must be .* min < max", id="empty range"),
    pytest.param(
        images(KERNEL_BASIS=BASIS[0], KERNEL_COEFFICIENTS=COEFFICIENTS),
        "KERNKIND",
        id="no cards at all",
    ),
]


@pytest.mark.parametrize(("hdus", "message"), NO_KERNEL)
def test_files_that_hold_no_kernel(tmp_path, hdus, message):
    path = tmp_path / "k.fits"
    hdus.writeto(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_kernel(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("basis", "coefficients", "message"),
    [
        (BASIS[0], COEFFICIENTS, r"KERNEL_BASIS has shape \(5, 7\); it must have 3 axes"),
        (BASIS, COEFFICIENTS[0], r"KERNEL_COEFFICIENTS has shape \(6,\); it must have 2 axes"),
        (BASIS[:2], COEFFICIENTS, "coefficients has shape .* but there are 2 basis images"),
        (BASIS, COEFFICIENTS[:, :4], "coefficients has 4 columns"),
        (BASIS * np.nan, COEFFICIENTS, "KERNEL_BASIS holds NaN"),
        (BASIS, COEFFICIENTS * np.inf, "KERNEL_COEFFICIENTS holds NaN"),
    ],
)
def test_arrays_that_make_no_kernel(tmp_path, basis, coefficients, message):
    path = tmp_path / "k.fits"
    hdus = spatial_hdus()
    hdus["KERNEL_BASIS"].data = basis
    hdus["KERNEL_COEFFICIENTS"].data = coefficients
    hdus.writeto(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_kernel(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("read", [read_kernel, read_stamp, lambda path: find_stamp(path, "PSF")])
def test_files_that_cannot_be_read(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"no file .*k\.fits"):
        read(tmp_path / "k.fits")
    (tmp_path / "k.fits").write_text("no FITS in here\n")
    with pytest.raises(ValueError, match=r"k\.fits is not a FITS file"):
        read(tmp_path / "k.fits")
    write_kernel(tmp_path / "w.fits", np.zeros((99, 99)))
    (tmp_path / "k.fits").write_bytes((tmp_path / "w.fits").read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"k\.fits is truncated"):
        read(tmp_path / "k.fits")


def test_corrupt_pixels(tmp_path):
    path = tmp_path / "k.fits"
    stamp = RNG.normal(size=(64, 64))
    hdu = fits.CompImageHDU(stamp, name="KERNEL", compression_type="GZIP_1", quantize_level=0.0)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    data = bytearray(path.read_bytes())
    data[-20_000:-2_880] = bytes(17_120)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"k\.fits: the pixels of KERNEL cannot be decoded .*; the file is damaged"):
        read_kernel(path)


def test_out_of_memory_stays_what_it_is(tmp_path, monkeypatch):
    def none_left(*_, **__):
        raise MemoryError

    write_kernel(tmp_path / "k.fits", STAMP)
    monkeypatch.setattr("gpucoadd.stamps.np.array", none_left)
    with pytest.raises(MemoryError):
        read_kernel(tmp_path / "k.fits")


# ------------------------------------------------------------------------------------------------ stamps


def test_stamps_by_name(tmp_path):
    path = tmp_path / "s.fits"
    fits.HDUList(
        [fits.PrimaryHDU(np.zeros((9, 9))), fits.ImageHDU(STAMP, name="PSF"), fits.ImageHDU(STAMP * 2, name="KERNEL")]
    ).writeto(path)
    assert_array_equal(read_stamp(path, "PSF"), STAMP)
    assert_array_equal(read_stamp(path, "NONE", "KERNEL", "PSF"), STAMP * 2)
    assert_array_equal(read_stamp(path, "NONE"), np.zeros((9, 9)))
    assert_array_equal(read_stamp(path), np.zeros((9, 9)))
    assert_array_equal(find_stamp(path, "PSF"), STAMP)
    assert find_stamp(path, "NONE") is None


def test_a_table_or_a_cube_is_no_stamp(tmp_path):
    path = tmp_path / "s.fits"
    images(PSF=BASIS).writeto(path)
    assert find_stamp(path, "PSF") is None
    path.unlink()
    table = fits.BinTableHDU.from_columns([fits.Column("a", "E", array=np.zeros(3))], name="PSF")
    fits.HDUList([fits.PrimaryHDU(STAMP), table]).writeto(path)
    assert find_stamp(path, "PSF") is None
    assert_array_equal(read_stamp(path, "PSF"), STAMP)


# ------------------------------------------------------------------------------------------------ differences


IMAGE = np.where(RNG.random((20, 30)) < 0.05, np.nan, RNG.normal(size=(20, 30))).astype(np.float32)
VARIANCE = RNG.uniform(1, 2, IMAGE.shape).astype(np.float32)
MASK = RNG.integers(0, 4, IMAGE.shape).astype(np.int32)
SCHEMA = MaskSchema({"SAT": 0, "BAD": 1, "NO_DATA": 8})


def check_difference(path, *, variance=None, mask=None, schema=None, origin=(0, 0)):
    got = read_difference(path, device="cpu")
    assert [plane.dtype for plane in (got.image, got.variance, got.mask)] == [np.float32, np.float32, np.int32]
    assert_array_equal(got.image, IMAGE)
    assert_array_equal(got.variance, np.full(IMAGE.shape, np.nan) if variance is None else variance)
    assert_array_equal(got.mask, np.zeros(IMAGE.shape) if mask is None else mask)
    assert got.schema == (schema or MaskSchema.lsst())
    assert got.origin == origin


def test_whole_difference_is_read_as_any_image(tmp_path):
    path = tmp_path / "d.fits"
    write_planes(path, image=IMAGE, variance=VARIANCE, mask=MASK, schema=SCHEMA, origin=(3, -4))
    check_difference(path, variance=VARIANCE, mask=MASK, schema=SCHEMA, origin=(3, -4))


@pytest.mark.parametrize("name", ["IMAGE", "SCI", "DIFF", "PRIMARY"])
def test_difference_that_is_an_image_alone(tmp_path, name):
    path = tmp_path / "d.fits"
    if name == "PRIMARY":
        fits.PrimaryHDU(IMAGE).writeto(path)
        check_difference(path)
    else:
        write_array(path, IMAGE, extname=name, origin=(3, -4), unit="nJy")
        check_difference(path, origin=(3, -4))
        assert read_difference(path, device="cpu").unit == "nJy"
    with pytest.raises(ValueError, match="has an image but no noise"):
        read_image(path, device="cpu")


def test_difference_with_a_psf_and_extensions_that_are_no_difference(tmp_path):
    path = tmp_path / "d.fits"
    images(PSF=STAMP, DIFF=IMAGE, OTHER=np.zeros((3, 3))).writeto(path)
    check_difference(path)


def test_unnamed_images_give_the_first(tmp_path):
    path = tmp_path / "d.fits"
    images(IMAGE, np.zeros((3, 3))).writeto(path)
    check_difference(path)


@pytest.mark.parametrize("without", ["VARIANCE", "MASK"])
def test_difference_without_one_plane(tmp_path, without):
    path = tmp_path / "d.fits"
    write_planes(path, image=IMAGE, variance=VARIANCE, mask=MASK, schema=SCHEMA, origin=(3, -4))
    with fits.open(path, mode="update") as hdus:
        del hdus[without]
    with pytest.raises(ValueError, match=f"has no HDU {without}"):
        read_image(path, device="cpu")
    if without == "VARIANCE":
        check_difference(path, mask=MASK, schema=SCHEMA, origin=(3, -4))
    else:
        expected = MaskSchema.lsst()
        check_difference(path, variance=VARIANCE, schema=expected, origin=(3, -4))


def test_space_telescope_without_noise(tmp_path):
    path = tmp_path / "d.fits"
    images(SCI=IMAGE, DQ=(MASK & 1)).writeto(path)
    got = read_difference(path, device="cpu")
    assert_array_equal(got.image, IMAGE)
    assert np.isnan(got.variance).all()
    assert_array_equal(got.mask, np.where(MASK & 1, got.schema.bitmask("BAD"), 0))


def test_difference_with_weight_is_read_as_any_image(tmp_path):
    path = tmp_path / "d.fits"
    images(DIFF=IMAGE, WEIGHT=1 / VARIANCE).writeto(path)
    for plane in ("image", "variance", "mask"):
        got, expected = (getattr(read(path, device="cpu"), plane) for read in (read_difference, read_image))
        assert_array_equal(got, expected)
    (tmp_path / "beside").mkdir()
    write_array(tmp_path / "beside" / "d.fits", IMAGE)
    write_array(tmp_path / "beside" / "d.weight.fits", 1 / VARIANCE)
    assert_array_equal(read_difference(tmp_path / "beside" / "d.fits", device="cpu").variance, expected_variance())


def expected_variance():
    return np.where(np.isnan(IMAGE), np.nan, 1 / (1 / VARIANCE).astype(np.float64)).astype(np.float32)


@pytest.mark.parametrize(
    ("hdus", "message"),
    [
        (fits.HDUList([fits.PrimaryHDU()]), "holds no image"),
        (images(PSF=STAMP), "but no image that they could belong to"),
        (images(IMAGE=np.zeros((2, 3, 4))), r"IMAGE has shape \(2, 3, 4\); it must be \(y, x\)"),
        (images(SCI=np.zeros(4)), r"SCI has shape \(4,\); it must be \(y, x\)"),
        (images(IMAGE=np.zeros((3, 4)), MASK=np.zeros((4, 4), np.int32)), r"MASK has shape \(4, 4\) but IMAGE"),
        (images(IMAGE=np.zeros((3, 4)), MASK=np.zeros((3, 4))), "a mask must hold integers"),
    ],
)
def test_no_difference(tmp_path, hdus, message):
    path = tmp_path / "d.fits"
    hdus.writeto(path)
    with pytest.raises(ValueError, match=message) as caught:
        read_difference(path, device="cpu")
    assert str(path) in str(caught.value)


def test_mask_alone_is_no_difference(tmp_path):
    write_mask(tmp_path / "m.fits", MASK, schema=SCHEMA)
    with pytest.raises(ValueError, match="holds MASK but no image"):
        read_difference(tmp_path / "m.fits", device="cpu")
