"""Pieces of files: boxes, single planes, what the headers tell; and what `write_planes` keeps for them."""

import math

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_array_equal

from gpucoadd import MaskSchema, Psf, pieces, read_image, read_warps
from gpucoadd.boxes import Box
from gpucoadd.fits import read_provenance, write_array, write_mask, write_planes
from gpucoadd.pieces import ImageFile, cutout_wcs, inside, read_plane

SCHEMA = MaskSchema({"NO_DATA": 3, "ODD": 30})
WHOLE, PIECE = Box(-20, 1000, 50, 40), Box(-5, 1010, 12, 9)
ROWS, COLUMNS = slice(10, 19), slice(15, 27)


@pytest.fixture(scope="module")
def planes():
    """Image, variance and mask, NaN and both bits among them."""
    rng = np.random.default_rng(1)
    image, variance = (rng.normal(size=(40, 50)).astype(np.float32) for _ in range(2))
    image[12, 16] = np.nan
    return {
        "image": image,
        "variance": variance,
        "mask": np.int32(1 << 30) * rng.integers(2, size=(40, 50), dtype=np.int32),
    }


@pytest.fixture
def write(tmp_path, planes):
    """Writes the planes; more as `write_planes` takes it."""

    def write_them(**more):
        path = tmp_path / "a.fits"
        write_planes(path, **planes, schema=SCHEMA, origin=WHOLE.origin, **more)
        return path

    return write_them


@pytest.mark.parametrize("compression", ["none", "lossless"])
@pytest.mark.parametrize("box", [None, PIECE, tuple(PIECE)])
def test_box_of_all_planes(write, planes, compression, box):
    piece = (slice(None), slice(None)) if box is None else (ROWS, COLUMNS)
    with ImageFile(write(compression=compression)) as file:
        assert (file.box, file.schema) == (WHOLE, SCHEMA)
        for name, found in zip(pieces.PLANES, file.read(box), strict=True):
            assert_array_equal(found, planes[name][piece])
            assert found.dtype == planes[name].dtype
            alone = file.plane(name, box)
            assert_array_equal(alone, found)
            assert alone.dtype == found.dtype and alone.dtype.isnative


def test_planes_of_other_layouts_need_each_other(tmp_path):
    path = tmp_path / "weighted.fits"
    image, weight = np.ones((4, 5), np.float32), np.full((4, 5), 4, np.float32)
    weight[1, 2] = 0
    fits.HDUList([fits.PrimaryHDU(image), fits.ImageHDU(weight, name="WEIGHT")]).writeto(path)
    with ImageFile(path) as file:
        assert file.plane("variance", Box(0, 0, 2, 2)).tolist() == [[0.25, 0.25], [0.25, 0.25]]
        assert np.isnan(file.plane("image", Box(2, 1, 1, 1))).all()
        assert file.plane("mask", Box(2, 1, 1, 1)).tolist() == [[file.schema.bitmask("NO_DATA")]]


@pytest.mark.parametrize(
    "psf",
    [
        Psf.gaussian(1.3),
        Psf(np.ones((3, 3)), kind="polynomial"),
        Psf(np.ones((1, 3, 3)), range=(0, 0, 1, 1 / 3)),
        Psf(np.arange(27.0).reshape(3, 3, 3), range=(-21, 999, 31, 1040 + 1 / 7)),
    ],
)
def test_psf_comes_back_to_the_bit(write, psf):
    sigma = math.pi / 2 + 1e-16
    with ImageFile(write(psf=psf, psf_sigma=sigma)) as file:
        assert (file.psf.kind, file.psf.range) == (psf.kind, psf.range)
        assert_array_equal(file.psf.images, psf.images)
        assert file.psf_sigma == sigma


def test_width_is_what_was_written_or_measured(write):
    """The card is believed by pieces; `read_warps` believes the PSF, as it says."""
    path = write(psf=Psf.gaussian(2.0), psf_sigma=1.25, unit="nJy")
    with ImageFile(path) as file:
        assert file.psf_sigma == 1.25
    assert read_warps(path, device="cpu").psf_sigma[0] == pytest.approx(2.0, abs=1e-5)
    with ImageFile(write(psf=Psf.gaussian(2.0), psf_sigma=math.nan)) as file:
        assert file.psf_sigma == pytest.approx(2.0, abs=1e-5)
    with ImageFile(write()) as file:
        assert math.isnan(file.psf_sigma) and file.psf is None


def test_metadata_are_kept(write):
    given = {"a = b": "it's 'so'", "long": 200 * "x", "µ": [1, 0.1, None], "big": 2**60, "yes": True}
    path = write(metadata=given, provenance={"version": "1", "config": {"a": 2}, "inputs": []})
    with ImageFile(path) as file:
        assert file.metadata == given
        assert list(file.metadata) == list(given)
    assert read_provenance(path)["config"] == {"a": 2}
    with ImageFile(write()) as file:
        assert file.metadata == {}


def test_wcs_of_a_piece(write):
    from astropy.wcs import WCS

    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [10, 20], [-1e-4, 1e-4]
    with ImageFile(write(wcs=wcs)) as file:
        box, found = file.place(PIECE)
        assert box == PIECE
        assert_array_equal(found.wcs_pix2world([[0, 0]], 0), file.wcs.wcs_pix2world([[15, 10]], 0))
        assert file.place()[0] == WHOLE
    assert cutout_wcs("another", (ROWS, COLUMNS)) == "another"
    assert cutout_wcs(None, (ROWS, COLUMNS)) is None


@pytest.mark.parametrize("box", [Box(-21, 1000, 5, 5), Box(-20, 999, 5, 5), Box(26, 1000, 5, 5), Box(-20, 1036, 5, 5)])
def test_box_must_be_inside(write, box):
    inside(WHOLE, WHOLE)
    message = (
        rf"x0={box.x0}, y0={box.y0}, width=5, height=5 must hold a pixel and be inside of the image's, x0=-20, y0=1000"
    )
    with pytest.raises(ValueError, match=message):
        inside(box, WHOLE)
    path = write()
    with ImageFile(path) as file:
        for read in (file.read, file.place, lambda box: file.plane("mask", box)):
            with pytest.raises(ValueError, match=rf"a\.fits: the box {message}"):
                read(box)
    with pytest.raises(ValueError, match=rf"a\.fits: the box {message}"):
        read_plane(path, box=box)


def test_box_must_hold_a_pixel():
    with pytest.raises(ValueError, match="width=0, height=5 must hold a pixel"):
        inside(Box(0, 1000, 0, 5), WHOLE)
    with pytest.raises(TypeError, match="a box must be x0, y0, width, height"):
        inside(7, WHOLE)


def test_one_plane_of_a_file(tmp_path, write, planes):
    found = read_plane(write(unit="nJy"), name="VARIANCE", box=PIECE)
    assert_array_equal(found.array, planes["variance"][ROWS, COLUMNS])
    assert (found.box, found.unit, found.schema) == (PIECE, "nJy**2", None)
    told = read_plane(tmp_path / "a.fits", pixels=False)
    assert (told.array, told.box, told.unit) == (None, WHOLE, "nJy")


def test_mask_has_the_planes_of_its_header(tmp_path, planes):
    path = tmp_path / "mask.fits"
    write_mask(path, planes["mask"], schema=SCHEMA, origin=WHOLE.origin)
    found = read_plane(path, name="MASK", box=PIECE)
    assert_array_equal(found.array, planes["mask"][ROWS, COLUMNS])
    assert (found.schema, found.box, found.array.dtype) == (SCHEMA, PIECE, np.int32)


def test_tiles_outside_of_the_box_stay_unread(tmp_path):
    """What is damaged far away does no harm."""
    pixels = np.arange(600 * 600, dtype=np.int32).reshape(600, 600)
    path = tmp_path / "tiles.fits"
    write_array(path, pixels, compression="lossless")
    data = bytearray(path.read_bytes())
    data[-6000:-3000] = 3000 * b"\xff"
    path.write_bytes(bytes(data))
    assert_array_equal(read_plane(path, box=Box(0, 0, 100, 100)).array, pixels[:100, :100])
    with pytest.raises(ValueError, match=r"tiles\.fits.*cannot be decoded"):
        read_plane(path)


def test_hdu_must_be_there_once(tmp_path, write):
    path = tmp_path / "b.fits"
    write_array(path, np.zeros((4, 5), np.float32), extname="MASK")
    with pytest.raises(ValueError, match=r"b\.fits: MASK holds floats"):
        read_plane(path, name="MASK")
    with pytest.raises(ValueError, match=r"b\.fits has no HDU IMAGE"):
        read_plane(path)
    fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(np.zeros((4, 5)), name="IMAGE") for _ in "ab")]).writeto(
        path, overwrite=True
    )
    with pytest.raises(ValueError, match=r"b\.fits has 2 HDUs IMAGE"):
        read_plane(path)
    fits.ImageHDU(np.zeros((2, 4, 5)), name="IMAGE").writeto(path, overwrite=True)
    with pytest.raises(ValueError, match=r"b\.fits: IMAGE has shape \(2, 4, 5\); it must be \(y, x\)"):
        read_plane(path)


def test_bits_must_have_names(tmp_path, planes):
    path = tmp_path / "c.fits"
    write_mask(path, np.full((4, 5), 4, np.int32), schema=MaskSchema({"A": 1}))
    with pytest.raises(ValueError, match=r"c\.fits: mask bits 2 are set but have no name"):
        read_plane(path, name="MASK")
    write_planes(path, **planes, schema=MaskSchema({"NO_DATA": 3}), origin=(0, 0))
    with ImageFile(path) as file, pytest.raises(ValueError, match=r"c\.fits: mask bits 30 are set but have no name"):
        file.plane("mask")


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        ImageFile(tmp_path / "none.fits")
    (tmp_path / "text.fits").write_text("text")
    for read in (ImageFile, read_plane):
        with pytest.raises(ValueError, match="is not a FITS file"):
            read(tmp_path / "text.fits")


def test_read_image_agrees(write, planes):
    path = write(psf=Psf.gaussian(1.5), psf_sigma=1.5, metadata={"a": 1})
    whole = read_image(path, device="cpu")
    with ImageFile(path) as file:
        for found, name in zip(file.read(), pieces.PLANES, strict=True):
            assert_array_equal(found, getattr(whole, name))
        assert (file.box.origin, file.schema) == (whole.origin, whole.schema)
