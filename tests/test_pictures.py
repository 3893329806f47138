"""Pictures are valid PNG files that show what they should."""

import struct
import zlib

import numpy as np
import pytest

from gpucoadd import pictures


def decode(png):
    """Pixels (y, x, 3) of a PNG as `to_png` writes it: RGB, 8 bits, filter Sub."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    place, chunks = 8, {}
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length : place + 12 + length])[0] == zlib.crc32(kind + data)
        chunks[kind] = data
        place += 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 2, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert (rows[:, 0] == 1).all()
    return np.cumsum(rows[:, 1:].reshape(height, width, 3), axis=1, dtype=np.uint8)


def test_grey_picture_has_its_first_row_at_the_bottom():
    image = np.array([[0.0, 1.0, 2.0], [4.0, 4.0, 4.0]])
    rgb = decode(pictures.to_png(image, stretch="linear", limits=(0, 4)))
    assert rgb.shape == (2, 3, 3)
    assert rgb[1, :, 0].tolist() == [0, 64, 128]
    assert (rgb[0] == 255).all()


def test_nan_has_its_own_colour_and_does_not_spread():
    image = np.random.default_rng(1).normal(size=(20, 30))
    image[3, 4], image[5, 6] = np.nan, np.inf
    rgb = decode(pictures.to_png(image))[::-1]
    special = (rgb == pictures.NAN_COLOUR).all(axis=-1)
    assert np.argwhere(special).tolist() == [[3, 4], [5, 6]]


@pytest.mark.parametrize("value", [0.0, -3.0, np.nan])
@pytest.mark.parametrize("stretch", ["asinh", "linear"])
def test_constant_image(value, stretch):
    rgb = decode(pictures.to_png(np.full((5, 7), value), stretch=stretch))
    assert rgb.shape == (5, 7, 3)
    assert (rgb == rgb[0, 0]).all()


def test_large_images_are_averaged_and_small_ones_zoomed():
    assert decode(pictures.to_png(np.zeros((101, 50)), size_limit=25)).shape == (21, 10, 3)
    assert decode(pictures.to_png(np.zeros((4, 5)), zoom=3)).shape == (12, 15, 3)
    halves = np.tile([0.0, 2.0], (4, 4))
    assert (decode(pictures.to_png(halves, stretch="linear", limits=(0, 2), size_limit=4)) == 128).all()


def test_overlay_tints_its_pixels_alone():
    mask = np.zeros((4, 4), dtype=bool)
    mask[0, 1] = True
    rgb = decode(pictures.to_png(np.zeros((4, 4)), overlays=[(mask, (255, 0, 0), 1.0)], limits=(0, 1)))
    assert rgb[3, 1].tolist() == [255, 0, 0]
    assert rgb.astype(int).sum() == 255


def test_counts_grow_brighter():
    rgb = decode(pictures.to_png(np.arange(13)[np.newaxis], stretch="linear", colours="heat")).astype(int)
    assert (np.diff(rgb.sum(axis=-1)[0]) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.zeros(3)}, "image has shape"),
        ({"image": np.zeros((0, 3))}, "image has shape"),
        ({"image": np.zeros((2, 2)), "stretch": "log"}, "stretch must be"),
        ({"image": np.zeros((2, 2)), "colours": "jet"}, "colours must be one of grey"),
    ],
)
def test_wrong_arguments_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        pictures.to_png(**arguments)


def test_view_tints_masks_and_names_what_is_there(tmp_path):
    from astropy.io import fits

    mask = np.zeros((8, 9), dtype=np.int32)
    mask[2, 3] = 1 << 11
    planes = [
        fits.PrimaryHDU(),
        fits.ImageHDU(np.ones((8, 9), np.float32), name="IMAGE"),
        fits.ImageHDU(mask, name="MASK"),
    ]
    planes[2].header["HIERARCH MP_CLIPPED"] = 11
    fits.HDUList(planes).writeto(tmp_path / "coadd.fits")
    for hdu in ("IMAGE", "mask"):
        rgb = decode(pictures.view(tmp_path / "coadd.fits", tmp_path / "out.png", hdu=hdu).read_bytes())[::-1]
        grey = (rgb == rgb[..., :1]).all(axis=-1)
        assert np.argwhere(~grey).tolist() == [[2, 3]]
    with pytest.raises(KeyError, match=r"no image HDU 'WEIGHT'; it has IMAGE, MASK"):
        pictures.view(tmp_path / "coadd.fits", tmp_path / "out.png", hdu="WEIGHT")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["coadd.fits", "out.png"]


def test_view_shows_a_lone_count_image(tmp_path):
    from astropy.io import fits

    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.eye(6, dtype=np.int32), name="EPOCH_COUNT")]).writeto(
        tmp_path / "count.fits"
    )
    assert decode(pictures.view(tmp_path / "count.fits", tmp_path / "count.png").read_bytes()).shape == (6, 6, 3)


def test_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with pytest.raises(TypeError):
        pictures.write_atomically(target, "text")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
