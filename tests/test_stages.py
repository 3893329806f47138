"""A coadd stage by stage: weights, artifacts, the stack with what is given."""

import goldens
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import gpucoadd
from gpucoadd.coaddition import assemble_weighted, mask_edits, set_inexact_psf, weigh
from gpucoadd.combination import edited_mask
from gpucoadd.planes import BitPlanes, Flags

GOLDEN = goldens.load(next(path for path in goldens.paths() if path.stem == "no_matched_twin"))
REJECT = ("NO_DATA", "BAD", "SAT", "CLIPPED")


def host(result):
    return {name: goldens.host(getattr(result, name)) for name in ("image", "variance", "mask", "n_image")}


def test_stages_make_the_coadd(xp):
    warps = goldens.warp_stack(GOLDEN, xp.asarray)
    config = gpucoadd.CoaddConfig()
    template = gpucoadd.assemble(warps, config=config.template)
    direct = warps.with_source(warps.source)
    prepared = weigh(direct, config=config.stacking)
    kept = direct.select([direct.epochs[index] for index in prepared.indices])
    found = gpucoadd.find_artifacts(warps.psf_matched, template, config=config, epochs=kept.epochs)
    made = assemble_weighted(
        kept, prepared.weights, config=config.stacking, reject=REJECT, flags=found.by_plane, threads=2
    )
    mask = gpucoadd.propagate_edges(made.mask, found.edge, schema=made.schema)
    whole = gpucoadd.coadd(
        warps,
        config=gpucoadd.CoaddConfig.from_lsst({"doInterp": False}),
    )
    got = host(made) | {"mask": goldens.host(mask)}
    for name, plane in host(whole).items():
        assert_array_equal(got[name], plane, err_msg=name)
    assert_array_equal(made.weights, whole.weights)
    assert_array_equal(goldens.host(made.contributed), goldens.host(whole.contributed))


def test_weights_that_are_given(xp):
    warps = goldens.warp_stack(GOLDEN, xp.asarray)
    direct = warps.with_source(warps.source)
    weights = np.arange(1.0, 8.0)
    made = assemble_weighted(direct, weights, config=gpucoadd.AssemblyConfig())
    expected = gpucoadd.stack(
        direct.image,
        direct.variance,
        direct.mask,
        weights,
        statistic="MEANCLIP",
        clip_iterations=2,
        reject=gpucoadd.AssemblyConfig().reject,
        propagation={"SAT": 0.1},
        schema=direct.schema,
    )
    assert_array_equal(goldens.host(made.image), goldens.host(expected.image))  # not interpolated
    assert made.epochs == direct.epochs and "INTRP" in made.schema
    with pytest.raises(ValueError, match="2 weights are given but image has 7 epochs"):
        assemble_weighted(direct, [1.0, 2.0], config=gpucoadd.AssemblyConfig())
    with pytest.raises(ValueError, match="weight of epoch 1 must be finite and positive"):
        assemble_weighted(direct, [1.0, -1.0, *[1.0] * 5], config=gpucoadd.AssemblyConfig())


def flags_of(xp, planes):
    bits = BitPlanes(planes.shape, xp)
    bits.set_planes(range(len(planes)), Flags.of(xp.asarray(planes)))
    return bits


def test_masks_are_edited_in_order(xp):
    schema = gpucoadd.MaskSchema.lsst().with_planes("CLIPPED")
    rng = np.random.default_rng(5)
    mask = rng.integers(0, 1 << 11, size=(3, 4, 37), dtype=np.int32)
    planes = {name: rng.random(mask.shape) < 0.3 for name in ("CLIPPED", "EDGE", "NO_DATA", "UNKNOWN")}
    flags = {name: flags_of(xp, plane) for name, plane in planes.items()}
    edits = mask_edits(flags, schema, gpucoadd.CoaddConfig().stacking)
    cleared = schema.bitmask("NO_DATA", "BAD", "SAT")
    expected = np.where(planes["NO_DATA"], mask & ~cleared | schema.bitmask("NO_DATA"), mask)
    expected = np.where(planes["CLIPPED"], expected | schema.bitmask("CLIPPED"), expected)
    expected = np.where(planes["EDGE"], expected | schema.bitmask("EDGE"), expected)
    for epoch in range(3):
        given = xp.asarray(mask[epoch])
        assert_array_equal(goldens.host(edited_mask(given, edits, epoch)), expected[epoch])
        assert_array_equal(goldens.host(given), mask[epoch])
    kept = mask_edits(flags, schema, gpucoadd.AssemblyConfig(reject=("BAD",)))  # NO_DATA does not reject
    assert goldens.host(edited_mask(xp.asarray(mask[0]), kept)).shape == (4, 37)
    assert [keep for _, keep, _ in kept] == [-1, -1, -1, -1]


def test_inexact_psf(xp):
    schema = gpucoadd.MaskSchema.lsst().with_planes("REJECTED", "CLIPPED", "SENSOR_EDGE", "INEXACT_PSF")
    bits = [0, *(schema.bitmask(name) for name in ("REJECTED", "CLIPPED", "SENSOR_EDGE", "SAT"))]
    got = goldens.host(set_inexact_psf(xp.asarray(np.array([bits], np.int32)), schema))
    inexact = schema.bitmask("INEXACT_PSF")
    assert_array_equal(got, [[0, *(bit | inexact for bit in bits[1:4]), bits[4]]])


def test_a_twin_without_pixels_is_none(xp):
    """The template is not made of it, and nothing is compared with it: neither counts nor edges come from it."""
    warps = goldens.warp_stack(GOLDEN, xp.asarray)
    twins = warps.psf_matched
    epoch = list(twins.epochs)[1]
    image, mask = twins.image.copy(), twins.mask.copy()
    image[1], mask[1] = np.nan, mask[1] | twins.schema.bitmask("EDGE")
    about = {"schema": twins.schema, "psf_sigma": twins.psf_sigma, "epochs": twins.epochs, "origin": twins.origin}
    blank = gpucoadd.WarpStack(image, twins.variance, mask, **about)
    fewer = twins.select([other for other in twins.epochs if other != epoch])
    with_blank, without = (gpucoadd.coadd(warps.with_source(warps.source, psf_matched=m)) for m in (blank, fewer))
    for name, plane in host(without).items():
        assert_array_equal(host(with_blank)[name], plane, err_msg=name)
    for name in ("clipped", "no_data", "edge", "epoch_count", "n_image_matched"):
        got, expected = (goldens.host(getattr(coadd, name)) for coadd in (with_blank, without))
        assert_array_equal(got, expected, err_msg=name)
