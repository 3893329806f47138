"""MaskSchema, MaskedImage, WarpStack, BitPlanes, backend: what they refuse and what they keep."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from scenes import SCHEMA, flat_stack

import gpucoadd
from gpucoadd import MaskedImage, MaskSchema, WarpStack, backend
from gpucoadd.planes import BitPlanes, Flags


def planes(shape=(2, 3), dtype=np.float32):
    return np.zeros(shape, dtype), np.ones(shape, dtype), np.zeros(shape, np.int32)


def test_schema():
    schema = MaskSchema({"BAD": 3, "SAT": 0})
    assert schema.bitmask("BAD", "SAT") == 9 and schema.bitmask() == 0
    assert schema.known_bitmask(["SAT", "NOPE"]) == 1
    assert schema.with_planes("A", "BAD", "B").planes == {"BAD": 3, "SAT": 0, "A": 1, "B": 2}
    assert "SAT" in schema and list(schema) == ["BAD", "SAT"]
    assert schema == MaskSchema({"SAT": 0, "BAD": 3}) != MaskSchema.lsst()
    assert hash(schema) == hash(MaskSchema({"SAT": 0, "BAD": 3}))
    assert pickle.loads(pickle.dumps(schema)) == schema
    assert MaskSchema.lsst().planes["STREAK"] == 10
    assert eval(repr(schema), {"MaskSchema": MaskSchema}) == schema


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"A": 31}, "bits of an int32 mask are 0 to 30"), ({"A": -1}, "has bit -1"), ({"A": 1, "B": 1}, "share bit 1")],
)
def test_schema_refuses(bad, message):
    with pytest.raises(ValueError, match=message):
        MaskSchema(bad)


def test_schema_errors():
    with pytest.raises(KeyError, match="no mask plane 'NODATA' \\(did you mean 'NO_DATA'"):
        SCHEMA.bitmask("NODATA")
    with pytest.raises(AttributeError, match="immutable"):
        SCHEMA.planes_ = {}
    with pytest.raises(TypeError):
        SCHEMA.planes["NEW"] = 12
    with pytest.raises(ValueError, match="no free bit for mask plane 'ONE_MORE'"):
        MaskSchema({f"P{i}": i for i in range(31)}).with_planes("ONE_MORE")


def test_masked_image():
    image = MaskedImage(*planes(), schema=SCHEMA, origin=(-3, 5), unit="nJy")
    assert image.shape == (2, 3) and image.origin == (-3, 5)
    assert "(2, 3)" in repr(image)
    with pytest.raises(AttributeError, match="MaskedImage is frozen"):
        image.image = None
    with pytest.raises(AttributeError, match="cannot be removed"):
        del image.image
    assert MaskedImage(*planes(dtype=np.float64), schema=SCHEMA).image.dtype == np.float64


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": np.zeros((2, 3), int)}, TypeError, "image must be float32 or float64, got int64"),
        ({"image": np.zeros((2, 3), ">f4")}, TypeError, "image must be float32 or float64, got >f4"),
        ({"mask": np.zeros((2, 3), np.int64)}, TypeError, "mask must be int32, got int64; convert it"),
        (
            {"variance": np.zeros((3, 2), np.float32)},
            ValueError,
            "variance has shape \\(3, 2\\) but image has \\(2, 3\\)",
        ),
        ({"image": np.zeros(3, np.float32)}, ValueError, "it must be \\(y, x\\)"),
        ({"mask": [[0]]}, TypeError, "mask must be a NumPy or a CuPy array, got list"),
        ({"schema": {"BAD": 0}}, TypeError, "schema must be a MaskSchema, got dict"),
        ({"origin": (1, 2, 3)}, ValueError, "origin must be a pair of integers"),
        ({"origin": (0.5, 1)}, ValueError, "origin must be a pair of integers"),
    ],
)
def test_masked_image_refuses(change, error, message):
    values = {**dict(zip(("image", "variance", "mask"), planes(), strict=True)), "schema": SCHEMA, **change}
    with pytest.raises(error, match=message):
        MaskedImage(**values)


def test_empty_images_are_refused():
    with pytest.raises(ValueError, match="no axis of \\(y, x\\) may be empty"):
        MaskedImage(*planes((0, 3)), schema=SCHEMA)


def stack(**change):
    values = dict(zip(("image", "variance", "mask"), planes((2, 3, 4)), strict=True))
    return WarpStack(**{**values, "schema": SCHEMA, "psf_sigma": [1, 2], **change})


def test_warp_stack():
    warps = stack(epochs=["a", "b"], wcs="any object")
    assert warps.shape == (2, 3, 4) and warps.epochs == ("a", "b") and warps.wcs == "any object"
    assert warps.psf_sigma.dtype == np.float64 and not warps.psf_sigma.flags.writeable
    assert "2 epochs of 3 x 4, without twins" in repr(warps)
    assert "1 twins" in repr(stack(psf_matched=one_twin()))


def one_twin(**change):
    return WarpStack(*planes((1, 3, 4)), **{"schema": SCHEMA, "psf_sigma": [1], "epochs": [1], **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"psf_sigma": [1]}, ValueError, "psf_sigma has shape \\(1,\\) but there are 2 epochs"),
        ({"epochs": [1]}, ValueError, "1 epochs are named but image has 2"),
        ({"epochs": [1, 1]}, ValueError, "epoch 1 is there twice"),
        ({"image": np.zeros((2, 3, 4))}, TypeError, "image must be float32, got float64"),
        ({"schema": MaskSchema({"BAD": 0})}, ValueError, "schema must have the plane NO_DATA"),
        ({"psf_matched": "twins"}, TypeError, "psf_matched must be a WarpStack, got str"),
        ({"origin": (1, 0), "psf_matched": one_twin()}, ValueError, "both must share one pixel grid"),
        ({"unit": "adu", "psf_matched": one_twin()}, ValueError, "psf_matched is in 'nJy' but"),
        (
            {"psf_matched": one_twin(schema=SCHEMA.with_planes("X"))},
            ValueError,
            "other mask planes than the direct warps",
        ),
    ],
)
def test_warp_stack_refuses(change, error, message):
    with pytest.raises(error, match=message):
        stack(**change)


def test_stack_from_a_source_reads_when_asked():
    warps = flat_stack(3)

    class Source:
        in_memory = False
        shape = warps.shape

        def read(self, epoch, rows):
            return warps.source.read(epoch, rows)

    lazy = WarpStack.from_source(Source(), schema=SCHEMA, psf_sigma=[1.0] * 3, inputs=["a", "b", "c"])
    assert lazy.inputs == ("a", "b", "c")
    for name in ("image", "variance", "mask"):
        assert_array_equal(getattr(lazy, name), getattr(warps, name))


@given(hnp.arrays(bool, st.tuples(st.just(2), st.integers(1, 9), st.integers(1, 70))))
@settings(deadline=None, max_examples=50)
def test_bit_planes_keep_every_bit(flags):
    bits = BitPlanes(flags.shape, np)
    assert not bits.all_planes().any()
    for epoch in range(2):
        bits.set_planes([epoch], Flags.of(flags[epoch : epoch + 1]))
    assert_array_equal(bits.all_planes(), flags)
    assert_array_equal(bits.plane(1), flags[1])
    assert_array_equal(bits.any_plane(), flags.any(axis=0))
    for column in range(flags.shape[2]):
        assert_array_equal(bits.words[..., column // 32] >> (column % 32) & 1, flags[..., column])
    bits.fill(0)
    assert bits.plane(0).all()


def test_array_module():
    assert backend.array_module(np.zeros(2), image=np.zeros(1)) is np
    with pytest.raises(TypeError, match="mask must be a NumPy or a CuPy array, got list"):
        backend.array_module(image=np.zeros(2), mask=[1])
    with pytest.raises(TypeError, match="no array given"):
        backend.array_module()


def test_lazy_names():
    assert callable(gpucoadd.read_warps)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gpucoadd.nothing  # noqa: B018


def test_public_names_exist():
    for name in gpucoadd.__all__:
        assert getattr(gpucoadd, name) is not None
