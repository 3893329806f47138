"""Plain storage classes: what a Butler gives back is what it was given, to the bit, whole or in pieces."""

from __future__ import annotations

import itertools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from lsst.daf.butler import Butler, Config, DatasetRef, DatasetType, FileDataset
from lsst.pipe.base import InMemoryDatasetHandle
from numpy.testing import assert_allclose, assert_array_equal

import gpucoadd
from gpucoadd import MaskedImage, MaskSchema, Psf, pieces
from gpucoadd.boxes import Box
from gpucoadd.exposure_psfs import psf_sigma, psf_stamp
from gpucoadd.lsst import PlainImage, PlainMask, PlainMaskedImage, butler_config
from gpucoadd.simulate import simulate_night

CLASSES = ("PlainMaskedImage", "PlainMask", "PlainImage")
ORIGIN = (-7, 500)
PIECE = Box(x0=520, y0=10, width=40, height=25)
ROWS, COLUMNS = slice(17, 42), slice(20, 60)  # the same, from the first pixel
STAMP = np.random.default_rng(3).random((3, 15, 15)) + 10 * np.eye(3)[:, :1, None]
PSFS = {
    "none": None,
    "stamp": Psf(STAMP[0]),
    "polynomial": Psf(STAMP[0], kind="polynomial"),
    "field": Psf(STAMP, range=(499.5, -7.5, 1 / 3 + 700, 88.5)),
}
METADATA = {
    "VISIT": 1234567890123,
    "a name = with words": "it's long, " + 30 * "and longer ",
    "µ": 0.1,
    "nan": math.nan,
}


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """A repository with patches to spare."""
    root = str(tmp_path_factory.mktemp("storage") / "repo")
    Butler.makeRepo(root, config=Config(butler_config()))
    butler = Butler.from_config(root, writeable=True, run="run")
    insert = butler.registry.insertDimensionData
    insert("skymap", {"name": "sky", "hash": b"0", "tract_max": 1, "patch_nx_max": 1000, "patch_ny_max": 1})
    insert("tract", {"skymap": "sky", "id": 0})
    for patch in range(200):
        insert("patch", {"skymap": "sky", "tract": 0, "id": patch, "cell_x": patch, "cell_y": 0})
    for name in CLASSES:
        dimensions = ("skymap", "tract", "patch")
        butler.registry.registerDatasetType(DatasetType(name, dimensions, name, universe=butler.dimensions))
    return butler


@pytest.fixture
def data_id(patches=itertools.count()):  # noqa: B008
    """A patch that no other test has."""
    return {"skymap": "sky", "tract": 0, "patch": next(patches)}


@pytest.fixture(scope="module")
def warp():
    """A simulated warp, NaN and masked pixels included."""
    warps = simulate_night(n_epochs=1, shape=(96, 130), seed=4).warps
    assert np.isnan(warps.image).any()
    return PlainMaskedImage(
        warps.image[0],
        warps.variance[0],
        warps.mask[0],
        schema=warps.schema,
        origin=ORIGIN,
        wcs=warps.wcs,
        unit="nJy",
        psf=PSFS["field"],
        psf_sigma=0.1 + 0.2 + 1e-16 * math.pi,
        metadata=METADATA,
    )


def equal(one, other):
    """Whether two plain objects are the same, but for what a WCS loses in a file."""
    assert type(one) is type(other)
    for name in ("image", "variance", "mask"):
        if hasattr(one, name):
            assert getattr(one, name).dtype == getattr(other, name).dtype
            assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("schema", "origin", "unit"):
        assert getattr(one, name, None) == getattr(other, name, None)
    assert (one.wcs is None) == (other.wcs is None)
    if one.wcs is not None:
        corners = np.array([[0.0, 0.0], [30.0, 20.0]])
        assert_allclose(one.wcs.wcs_pix2world(corners, 0), other.wcs.wcs_pix2world(corners, 0), rtol=1e-11)
    return True


def same_psf(one, other):
    assert (one is None) == (other is None)
    if one is not None:
        assert (one.kind, one.range) == (other.kind, other.range)
        assert_array_equal(one.images, other.images)
    return True


# ------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("psf", PSFS.values(), ids=PSFS)
def test_masked_image_comes_back_to_the_bit(repo, data_id, warp, psf):
    planes = {name: getattr(warp, name) for name in ("image", "variance", "mask", "schema", "origin", "wcs", "unit")}
    given = PlainMaskedImage(**planes, psf=psf, psf_sigma=warp.psf_sigma, metadata=METADATA)
    repo.put(given, "PlainMaskedImage", data_id)
    found = repo.get("PlainMaskedImage", data_id)
    assert equal(given, found) and same_psf(given.psf, found.psf)
    assert found.psf_sigma == given.psf_sigma
    assert math.isnan(found.metadata.pop("nan"))
    assert found.metadata == {name: value for name, value in METADATA.items() if name != "nan"}
    assert list(found.metadata) == [name for name in METADATA if name != "nan"]


def test_what_is_not_known_stays_so(repo, data_id, warp):
    given = PlainMaskedImage(warp.image, warp.variance, warp.mask, schema=warp.schema)
    repo.put(given, "PlainMaskedImage", data_id)
    found = repo.get("PlainMaskedImage", data_id)
    assert equal(given, found)
    assert (found.psf, found.metadata, found.unit, found.wcs) == (None, {}, None, None)
    assert math.isnan(found.psf_sigma)
    for name in ("psf", "unit", "wcs"):
        assert repo.get(f"PlainMaskedImage.{name}", data_id) is None


def test_width_follows_from_the_psf():
    plane, mask = np.zeros((40, 50), np.float32), np.zeros((40, 50), np.int32)
    for sigma in (None, math.nan):
        image = PlainMaskedImage(plane, plane, mask, schema=MaskSchema.lsst(), psf=Psf.gaussian(1.75), psf_sigma=sigma)
        assert image.psf_sigma == pytest.approx(1.75, abs=1e-5)
    assert psf_sigma(image) == image.psf_sigma
    assert_array_equal(psf_stamp(image), image.psf.at(19.5, 24.5))


def test_a_schema_of_its_own(repo, data_id):
    schema = MaskSchema({"FIRST": 30, "A_LONG_NAME_OF_A_PLANE": 2, "NO_DATA": 0})
    mask = np.arange(12, dtype=np.int32).reshape(3, 4) % 2 * (1 << 30) + 4
    plane = np.ones((3, 4), np.float32)
    repo.put(PlainMaskedImage(plane, plane, mask, schema=schema), "PlainMaskedImage", data_id)
    assert equal(repo.get("PlainMaskedImage", data_id), PlainMaskedImage(plane, plane, mask, schema=schema))
    repo.put(PlainMask(mask, schema=schema), "PlainMask", data_id)
    assert equal(repo.get("PlainMask", data_id), PlainMask(mask, schema=schema))


def test_mask_comes_back_to_the_bit(repo, data_id, warp):
    schema = MaskSchema({"CLIPPED": 4, "X": 30})  # without NO_DATA, which nothing adds
    given = PlainMask((warp.mask % 2 << 4) | 1 << 30, schema=schema, origin=ORIGIN, wcs=warp.wcs)
    repo.put(given, "PlainMask", data_id)
    assert equal(given, repo.get("PlainMask", data_id))
    assert equal(given.cutout(PIECE), repo.get("PlainMask", data_id, parameters={"bbox": PIECE}))
    assert repo.get("PlainMask.bbox", data_id) == Box(500, -7, 130, 96)
    assert repo.get("PlainMask.schema", data_id) == schema
    assert repo.get("PlainMask.wcs", data_id).wcs.crval[0] == 150.1


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_image_comes_back_in_its_dtype(repo, data_id, warp, dtype):
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    pixels = np.zeros((96, 130), dtype)
    pixels[ROWS, COLUMNS] = np.random.default_rng(2).random((25, 40)) * 100
    pixels[20, 30], pixels[21, 31] = info.min, info.max
    given = PlainImage(pixels, origin=ORIGIN, wcs=warp.wcs, unit="epochs" if dtype == "uint16" else None)
    repo.put(given, "PlainImage", data_id)
    found = repo.get("PlainImage", data_id)
    assert equal(given, found) and found.image.dtype.isnative
    assert equal(given.cutout(PIECE), repo.get("PlainImage", data_id, parameters={"bbox": PIECE}))
    assert repo.get("PlainImage.bbox", data_id) == given.bbox
    assert repo.get("PlainImage.unit", data_id) == given.unit
    assert repo.get("PlainImage.wcs", data_id).wcs.crval[1] == 2.2


def test_inputs_may_be_read_only_and_stay_as_they_are(repo, data_id, warp):
    before = {name: getattr(warp, name).copy() for name in ("image", "variance", "mask")}
    for name in before:
        getattr(warp, name).setflags(write=False)
    repo.put(warp, "PlainMaskedImage", data_id)
    for name, plane in before.items():
        assert_array_equal(getattr(warp, name), plane)


def test_coadd_becomes_plain(repo, data_id):
    night = simulate_night(n_epochs=3, shape=(96, 96), seed=2)
    coadd = gpucoadd.coadd(night.warps)
    repo.put(coadd, "PlainMaskedImage", data_id)
    found = repo.get("PlainMaskedImage", data_id)
    assert equal(PlainMaskedImage.of(coadd), found)
    assert found.psf_sigma == coadd.psf_sigma
    assert found.psf is None
    plain = MaskedImage(coadd.image, coadd.variance, coadd.mask, schema=coadd.schema)
    assert math.isnan(PlainMaskedImage.of(plain).psf_sigma)


def test_pickle(warp):
    for one in (warp, warp.part("mask"), warp.part("image")):
        assert equal(one, pickle.loads(pickle.dumps(one)))


# ------------------------------------------------------------------------------------------------ pieces


@pytest.fixture(scope="module", params=["none", "lossless"])
def stored(repo, warp, request, tmp_path_factory):
    """A warp in the repository, and the file it is in."""
    config = butler_config()
    formatter = config["datastore"]["formatters"]["PlainMaskedImage"]
    config["datastore"]["formatters"]["PlainMaskedImage"] = {
        "formatter": formatter,
        "parameters": {"compression": request.param},
    }
    root = str(tmp_path_factory.mktemp("pieces") / "repo")
    Butler.makeRepo(root, config=Config(config))
    butler = Butler.from_config(root, writeable=True, run="run")
    insert = butler.registry.insertDimensionData
    insert("skymap", {"name": "sky", "hash": b"0", "tract_max": 1, "patch_nx_max": 1, "patch_ny_max": 1})
    dataset_type = DatasetType("warp", ("skymap",), "PlainMaskedImage", universe=butler.dimensions)
    butler.registry.registerDatasetType(dataset_type)
    ref = butler.put(warp, "warp", skymap="sky")
    path = butler.getURI(ref).ospath
    with fits.open(path) as hdus:
        assert isinstance(hdus["IMAGE"], fits.CompImageHDU) == (request.param == "lossless")
    return butler, ref, path


def test_box_is_a_cutout(stored, warp):
    butler, ref, _ = stored
    found = butler.get(ref, parameters={"bbox": PIECE})
    assert_array_equal(found.image, warp.image[ROWS, COLUMNS])
    assert_array_equal(found.variance, warp.variance[ROWS, COLUMNS])
    assert_array_equal(found.mask, warp.mask[ROWS, COLUMNS])
    assert found.bbox == PIECE
    assert equal(found, warp.cutout(PIECE)) and same_psf(found.psf, warp.psf)
    assert found.psf_sigma == warp.psf_sigma
    assert butler.getDeferred(ref).get(parameters={"bbox": tuple(PIECE)}).bbox == PIECE


@pytest.mark.parametrize("box", [None, PIECE])
@pytest.mark.parametrize("plane", ["image", "variance", "mask"])
def test_one_plane_alone(stored, warp, monkeypatch, plane, box):
    butler, _, _ = stored
    read = []
    section = pieces.section
    monkeypatch.setattr(pieces, "section", lambda *given: (read.append(given[2].name), section(*given))[1])
    found = butler.get(f"warp.{plane}", skymap="sky", parameters={} if box is None else {"bbox": box})
    expected = warp if box is None else warp.cutout(box)
    assert equal(found, expected.part(plane))
    assert read == [plane.upper()]
    assert found.bbox == expected.bbox
    assert getattr(found, "unit", None) == {"image": "nJy", "variance": "nJy**2", "mask": None}[plane]


def test_headers_tell_the_rest(stored, warp, monkeypatch):
    butler, _, _ = stored
    monkeypatch.setattr(pieces, "section", None)  # nothing may be read
    about = {
        name: butler.get(f"warp.{name}", skymap="sky")
        for name in ("bbox", "unit", "psf_sigma", "schema", "metadata", "psf", "wcs")
    }
    assert about["bbox"] == warp.bbox == Box(500, -7, 130, 96)
    assert (about["unit"], about["psf_sigma"], about["schema"]) == ("nJy", warp.psf_sigma, warp.schema)
    assert about["metadata"]["VISIT"] == METADATA["VISIT"]
    assert same_psf(about["psf"], warp.psf)
    assert_allclose(about["wcs"].wcs.crpix, warp.wcs.wcs.crpix)


def test_files_of_other_layouts_are_read(repo, data_id, tmp_path):
    """A JWST-like file, ingested: sigmas are squared, NON_SCIENCE becomes NO_DATA."""
    path = tmp_path / "jwst.fits"
    image = np.full((20, 30), 5, np.float32)
    codes = np.zeros((20, 30), np.uint32)
    codes[3, 4] = 1 << 9
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(a, name=n) for n, a in (("SCI", image), ("ERR", image), ("DQ", codes)))]
    hdus[0].header["TELESCOP"] = "JWST"
    fits.HDUList(hdus).writeto(path)
    dataset_type = repo.get_dataset_type("PlainMaskedImage")
    ref = DatasetRef(dataset_type, repo.registry.expandDataId(data_id), run="run")
    formatter = "gpucoadd.lsst.storage.PlainMaskedImageFormatter"
    repo.ingest(FileDataset(str(path), [ref], formatter=formatter), transfer="copy")
    found = repo.get(ref)
    assert (found.variance[0, 0], found.mask[3, 4]) == (25.0, found.schema.bitmask("NO_DATA"))
    mask = repo.get("PlainMaskedImage.mask", data_id, parameters={"bbox": Box(4, 3, 1, 1)})
    assert mask.mask.tolist() == [[found.schema.bitmask("NO_DATA")]]
    assert repo.get("PlainMaskedImage.image", data_id).image[0, 0] == 5


def test_in_memory(warp):
    handle = InMemoryDatasetHandle(warp, storageClass=_storage_class("PlainMaskedImage"))
    assert equal(handle.get(parameters={"bbox": PIECE}), warp.cutout(PIECE))
    assert handle.get(component="bbox") == warp.bbox
    assert equal(handle.get(component="variance"), warp.part("variance"))
    assert handle.get(component="psf_sigma") == warp.psf_sigma
    mask = InMemoryDatasetHandle(warp.part("mask"), storageClass=_storage_class("PlainMask"))
    assert equal(mask.get(parameters={"bbox": PIECE}), warp.cutout(PIECE).part("mask"))
    assert mask.get() is mask.inMemoryDataset


def _storage_class(name):
    from lsst.daf.butler import StorageClassFactory

    return StorageClassFactory().getStorageClass(name)


def test_what_a_warp_says_of_itself(warp):
    assert repr(warp) == "PlainMaskedImage(shape=(96, 130), origin=(-7, 500), unit='nJy')"
    assert repr(warp.part("image")) == "PlainImage(shape=(96, 130), dtype=float32, origin=(-7, 500), unit='nJy')"
    assert (
        repr(PlainMask(warp.mask, schema=MaskSchema({"A": 1}))) == "PlainMask(shape=(96, 130), origin=(0, 0), planes=A)"
    )


# ------------------------------------------------------------------------------------------------ what cannot be


@pytest.mark.parametrize(
    "box, message",
    [
        (Box(499, 0, 10, 10), r"x0=499, y0=0, width=10, height=10 must hold a pixel and be inside of .* x0=500, y0=-7"),
        (Box(500, 80, 10, 10), "must hold a pixel and be inside"),
        (Box(621, 0, 10, 10), "must hold a pixel and be inside"),
        (Box(500, -8, 10, 10), "must hold a pixel and be inside"),
        (Box(500, 0, 0, 10), "must hold a pixel and be inside"),
    ],
)
@pytest.mark.parametrize("name", CLASSES)
def test_box_must_be_inside(repo, warp, name, box, message):
    given = {"PlainMaskedImage": warp, "PlainMask": warp.part("mask"), "PlainImage": warp.part("image")}[name]
    data_id = {"skymap": "sky", "tract": 0, "patch": 190 + CLASSES.index(name)}
    if not repo.exists(name, data_id):
        repo.put(given, name, data_id)
    with pytest.raises(ValueError, match=message):
        given.cutout(box)
    with pytest.raises(ValueError, match="Failure from formatter") as raised:
        repo.get(name, data_id, parameters={"bbox": box})
    assert "must hold a pixel and be inside" in str(raised.value.__cause__)
    assert ".fits: the box" in str(raised.value.__cause__)


def test_box_must_be_a_box(warp):
    with pytest.raises(TypeError, match="a box must be x0, y0, width, height"):
        warp.cutout("all")


def test_planes_must_fit():
    plane, mask = np.zeros((4, 5), np.float32), np.zeros((4, 5), np.int32)
    schema = MaskSchema.lsst()
    with pytest.raises(TypeError, match="image must be float32, got float64"):
        PlainMaskedImage(plane.astype(float), plane, mask, schema=schema)
    with pytest.raises(TypeError, match="variance must be float32, got float64"):
        PlainMaskedImage(plane, plane.astype(float), mask, schema=schema)
    with pytest.raises(TypeError, match=r"psf must be a gpucoadd\.Psf, got ndarray"):
        PlainMaskedImage(plane, plane, mask, schema=schema, psf=STAMP[0])
    with pytest.raises(ValueError, match=r"adaptive moments .* do not settle"):
        PlainMaskedImage(plane, plane, mask, schema=schema, psf=PSFS["stamp"])
    with pytest.raises(TypeError, match=r"image must be uint8 or int16 .* got int64"):
        PlainImage(plane.astype(np.int64))
    with pytest.raises(ValueError, match=r"image has shape \(20,\); it must be \(y, x\) and not empty"):
        PlainImage(plane.ravel())
    with pytest.raises(TypeError, match="mask must be int32, got uint8"):
        PlainMask(mask.astype(np.uint8), schema=schema)
    with pytest.raises(ValueError, match=r"mask has shape \(0, 5\); it must be \(y, x\) and not empty"):
        PlainMask(mask[:0], schema=schema)
    with pytest.raises(TypeError, match="schema must be a MaskSchema, got dict"):
        PlainMask(mask, schema={"BAD": 0})
    with pytest.raises(ValueError, match="schema has no plane"):
        PlainMask(mask, schema=MaskSchema({}))


@pytest.mark.parametrize("name", ["PlainMaskedImage", "PlainMask"])
def test_bits_must_have_names(repo, data_id, warp, name):
    mask = warp.mask | np.int32(1 << 20)
    given = PlainMaskedImage(warp.image, warp.variance, mask, schema=warp.schema)
    with pytest.raises(RuntimeError, match="Failed to serialize") as raised:
        repo.put(given if name == "PlainMaskedImage" else given.part("mask"), name, data_id)
    assert "mask bits 20 are set but have no name; schema must name every bit in use" in str(raised.value.__cause__)
    assert nothing_left(repo, data_id, name)


@pytest.mark.parametrize("name", CLASSES)
def test_failed_write_leaves_nothing(repo, data_id, warp, name, monkeypatch):
    given = {"PlainMaskedImage": warp, "PlainMask": warp.part("mask"), "PlainImage": warp.part("image")}[name]

    def full(stream):
        stream.write(b"SIMPLE")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(fits.HDUList, "writeto", lambda self, stream: full(stream))
        with pytest.raises(RuntimeError, match="Failed to serialize") as raised:
            repo.put(given, name, data_id)
    assert "No space left on device" in str(raised.value.__cause__)
    assert nothing_left(repo, data_id, name)
    repo.put(given, name, data_id)
    assert equal(given, repo.get(name, data_id))


def nothing_left(repo, data_id, name):
    """Whether the repository neither has the dataset nor any file of it."""
    folder = Path(repo.get_datastore_roots().popitem()[1].ospath) / "run" / name / "0" / str(data_id["patch"])
    assert not repo.exists(name, data_id)
    assert not folder.exists() or not list(folder.iterdir())
    return True


@pytest.mark.parametrize("name", CLASSES)
def test_truncated_file_is_told_of(repo, data_id, warp, name):
    given = {"PlainMaskedImage": warp, "PlainMask": warp.part("mask"), "PlainImage": warp.part("image")}[name]
    path = Path(repo.getURI(repo.put(given, name, data_id)).ospath)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    with pytest.raises(RuntimeError, match="Integrity failure"):
        repo.get(name, data_id)
    reader = pieces.ImageFile if name == "PlainMaskedImage" else pieces.read_plane
    with pytest.raises(ValueError, match=r"\.fits is truncated"):
        reader(path)
