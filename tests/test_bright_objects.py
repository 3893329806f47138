"""Bright-object masks: every pixel against a loop over all pixels and objects."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, QTable, Table
from astropy.wcs import WCS
from numpy.testing import assert_array_equal
from scenes import SCHEMA, flat_stack
from skies import DEC, KINDS, RA, SCALE, scale_of, sky_of, tan_wcs

import gpucoadd
from gpucoadd import AssemblyConfig, CoaddConfig, mask_bright_objects
from gpucoadd.backend import to_host
from gpucoadd.sky import pixel_scale

SHAPE = (61, 45)
PLANE = "BRIGHT_OBJECT"


def table(rows, **columns):
    """Catalogue of (type, ra, dec, radius, width, height)."""
    names = ("type", "ra", "dec", "radius", "width", "height")
    return (
        Table(rows=rows, names=names, dtype=("U8", *(float,) * 5))
        if rows
        else Table(names=names, dtype=("U8", *(float,) * 5))
    )


def circle(ra, dec, radius):
    return ("circle", ra, dec, radius, np.nan, np.nan)


def box(ra, dec, width, height):
    return ("box", ra, dec, np.nan, width, height)


def by_loops(objects, places, wcs, shape, origin):
    """By definition: each pixel asks each object; `places` are the array positions that the objects were put at."""
    scale = scale_of(wcs, shape)
    flags = np.zeros(shape, bool)
    for (kind, _, _, radius, width, height), place in zip(objects, places, strict=True):
        y, x = (math.floor(value + start + 0.5) for value, start in zip(place, origin, strict=True))
        for j in range(shape[0]):
            for i in range(shape[1]):
                dy, dx = j + origin[0] - y, i + origin[1] - x
                if kind == "circle":
                    whole = math.floor(radius / scale)
                    inside = dy * dy + dx * dx <= whole * whole
                else:
                    tall, wide = height / scale / 2, width / scale / 2
                    inside = math.trunc(y - tall) <= y + dy <= math.trunc(y + tall) and math.trunc(
                        x - wide
                    ) <= x + dx <= math.trunc(x + wide)
                flags[j, i] |= inside
    return flags


def scattered(wcs, seed, n=14):
    """Objects inside, on the border and beyond it, of all sizes down to none, and their array positions; none close to
    where rounding decides."""
    rng = np.random.default_rng(seed)
    scale = scale_of(wcs, SHAPE)
    rows, places = [], []
    while len(rows) < n:
        y, x = rng.uniform(-14, SHAPE[0] + 14), rng.uniform(-14, SHAPE[1] + 14)
        sizes = rng.uniform(0, 19, 3) * (rng.random(3) < 0.85)
        numbers = np.array([y - 0.5, x - 0.5, sizes[0], sizes[1] / 2, sizes[2] / 2])
        if (
            np.abs(numbers - np.round(numbers))[numbers != 0].min() < 0.02
            or np.abs(numbers[3:] * 2 % 2 - 1).min() < 0.02
        ):
            continue
        ra, dec = sky_of(wcs, y, x)
        kind = circle(ra, dec, sizes[0] * scale) if rng.random() < 0.5 else box(ra, dec, *(sizes[1:] * scale))
        rows.append(kind)
        places.append((y, x))
    return rows, places


def masked(mask, objects, **options):
    found, schema = mask_bright_objects(mask, objects, **{"schema": SCHEMA, **options})
    return to_host(found), schema


# ------------------------------------------------------------------------------------------------ which pixels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("origin", [(0, 0), (-31, 17), (4000, -9000), (-20, -22)])
def test_every_pixel_is_as_a_loop_finds_it(xp, kind, origin):
    wcs = tan_wcs(kind)
    rows, places = scattered(wcs, seed=3 + KINDS.index(kind))
    before = np.random.default_rng(8).integers(0, 1 << 11, SHAPE).astype(np.int32)
    mask = xp.asarray(before)
    found, schema = mask_bright_objects(mask, table(rows), wcs=wcs, schema=SCHEMA, origin=origin)
    assert isinstance(found, xp.ndarray) and found.dtype == np.int32
    expected = by_loops(rows, places, wcs, SHAPE, origin)
    assert 0.05 < expected.mean() < 0.95
    assert schema == SCHEMA.with_planes(PLANE)
    assert_array_equal(to_host(found), np.where(expected, before | schema.bitmask(PLANE), before))
    assert_array_equal(to_host(mask), before)


def only(objects, wcs=None, shape=SHAPE, origin=(0, 0)):
    mask, schema = masked(np.zeros(shape, np.int32), table(objects), wcs=wcs or tan_wcs(), origin=origin)
    return {tuple(int(v) for v in at) for at in np.argwhere(mask == schema.bitmask(PLANE))}


def test_known_shapes():
    """Pixel (30, 22) is at RA, DEC."""
    scale = scale_of(tan_wcs(), SHAPE)
    assert only([circle(RA, DEC, 0.0)]) == only([box(RA, DEC, 0.0, 0.0)]) == {(30, 22)}
    assert only([circle(RA, DEC, 1.99 * scale)]) == {(30, 22), (29, 22), (31, 22), (30, 21), (30, 23)}
    assert len(only([circle(RA, DEC, 2.01 * scale)])) == 13
    assert only([box(RA, DEC, 2.5 * scale, 0.5 * scale)]) == {(y, x) for y in (29, 30) for x in (20, 21, 22, 23)}


def test_boxes_are_cut_towards_zero_of_the_parent():
    """At parent (0, 0), -1.25 and 1.25 both become a distance of 1; at (30, 22), 28.75 becomes 28."""
    scale = scale_of(tan_wcs(), SHAPE)
    small = [box(RA, DEC, 2.5 * scale, 2.5 * scale)]
    assert only(small, origin=(-30, -22)) == {(y, x) for y in (29, 30, 31) for x in (21, 22, 23)}
    assert only(small) == {(y, x) for y in (28, 29, 30, 31) for x in (20, 21, 22, 23)}
    assert only(small, origin=(-90, -90)) == {(y, x) for y in (29, 30, 31, 32) for x in (21, 22, 23, 24)}


@pytest.mark.parametrize(
    ("y", "x", "pixels"),
    [
        (-2.0, 5.0, 0),
        (-1.0, 5.0, 1),
        (61.0, 5.0, 1),
        (62.0, 5.0, 0),
        (7.0, -1.0, 1),
        (7.0, 45.0, 1),
        (7.0, 46.0, 0),
        (-1.0, -1.0, 0),
    ],
)
def test_objects_about_the_border(y, x, pixels):
    wcs = tan_wcs()
    assert len(only([circle(*sky_of(wcs, y, x), 1.5 * SCALE)])) == pixels


def test_objects_behind_the_sky_are_left_out():
    """The antipode, and what a tangent projection has no place for."""
    assert only([circle(RA - 180, -DEC, 30.0), box(RA - 180, -DEC, 9.0, 9.0), circle(RA + 95, 0.0, 1000.0)]) == set()


def test_an_object_larger_than_the_patch():
    assert len(only([circle(RA, DEC, 7200.0)])) == SHAPE[0] * SHAPE[1]
    assert len(only([box(RA + 0.3, DEC, 7200.0, 7200.0)])) == SHAPE[0] * SHAPE[1]


def test_the_pixel_scale_is_that_of_the_middle():
    """Some thirty degrees from the tangent point, where pixels are smaller; 1e-3 for the curvature of 10 arcmin."""
    wcs, shape = tan_wcs(scale=600.0, centre=(0.0, 0.0)), (300, 200)
    assert pixel_scale(wcs, shape) == pytest.approx(scale_of(wcs, shape), rel=1e-3)
    assert pixel_scale(wcs, shape) < 0.9 * pixel_scale(wcs, (1, 1)) == pytest.approx(0.9 * 600, rel=1e-3)


def test_a_patch_that_is_wide():
    """A map of half the sky in degrees, one of whose corners is beyond it: nobody is left out beforehand."""
    wcs = tan_wcs(scale=3600.0, centre=(50.0, 50.0))
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    for shape in ((101, 101), (101, 91), (91, 101)):
        assert only([circle(RA, DEC, 3.01 * 3600.0)], wcs, shape) >= {(47, 50), (50, 53)}


def test_without_objects():
    mask = np.full(SHAPE, 5, np.int32)
    found, schema = masked(mask, table([]), wcs=tan_wcs())
    assert_array_equal(found, mask)
    assert found is not mask and PLANE in schema


def test_another_plane():
    found, schema = masked(np.zeros(SHAPE, np.int32), table([circle(RA, DEC, 0)]), wcs=tan_wcs(), plane="BAD")
    assert schema == SCHEMA and found[30, 22] == SCHEMA.bitmask("BAD")


# ------------------------------------------------------------------------------------------------ catalogues

ROWS = [circle(RA, DEC, 4.3), box(RA + 0.002, DEC - 0.003, 7.0, 12.0)]


def expected_rows():
    return masked(np.zeros(SHAPE, np.int32), table(ROWS), wcs=tan_wcs())[0]


@pytest.mark.parametrize("name", ["bright.ecsv", "bright.csv", "bright.fits"])
def test_files(tmp_path, name):
    table(ROWS).write(tmp_path / name)
    for path in (tmp_path / name, str(tmp_path / name)):
        assert_array_equal(masked(np.zeros(SHAPE, np.int32), path, wcs=tan_wcs())[0], expected_rows())


def with_units():
    given = table(ROWS)
    given["ra"], given["dec"] = np.radians(given["ra"]) * u.rad, (given["dec"] * 60) * u.arcmin
    for size in ("radius", "width", "height"):
        given[size] = (given[size] / 60) * u.arcmin
    return given


def with_masks():
    given = table(ROWS)
    for size in ("radius", "width", "height"):
        given[size] = MaskedColumn(given[size], mask=np.isnan(given[size]), fill_value=7.0)
    return given


def with_what_others_have():
    given = table([("circle", *row[1:]) if row[0] == "circle" else row for row in ROWS])
    given["angle"] = [45.0, 0.0]  # of a circle it means nothing
    given["id"], given["mag"] = [7, 8], [3.0, 4.0]
    return given


@pytest.mark.parametrize("given", [with_units, lambda: QTable(with_units()), with_masks, with_what_others_have])
def test_columns_in_other_units_and_with_gaps(tmp_path, given):
    assert_array_equal(masked(np.zeros(SHAPE, np.int32), given(), wcs=tan_wcs())[0], expected_rows())
    given().write(tmp_path / "t.ecsv")
    assert_array_equal(masked(np.zeros(SHAPE, np.int32), tmp_path / "t.ecsv", wcs=tan_wcs())[0], expected_rows())


def test_columns_that_no_type_needs_may_be_missing():
    given = table(ROWS[:1])["type", "ra", "dec", "radius"]
    assert masked(np.zeros(SHAPE, np.int32), given, wcs=tan_wcs())[0].any()


def test_other_types_are_left_out_with_a_warning(caplog):
    rows = [*ROWS, ("ellipse", RA, DEC, 9.0, 9.0, 9.0), ("ellipse", RA, DEC, 9.0, 9.0, 9.0), ("Box", RA, DEC, 9, 9, 9)]
    with caplog.at_level(logging.WARNING):
        assert_array_equal(masked(np.zeros(SHAPE, np.int32), table(rows), wcs=tan_wcs())[0], expected_rows())
    assert [record.getMessage() for record in caplog.records] == [
        "bright_objects has 2 objects of type 'ellipse', which are left out; circle and box are known",
        "bright_objects has 1 objects of type 'Box', which are left out; circle and box are known",
    ]


def changed(row, **columns):
    given = table(ROWS)
    given["angle"] = [0.0, 0.0]
    for name, value in columns.items():
        given[name][row] = value
    return given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: changed(1, angle=30.0), r"bright_objects: the angle of a box must be 0.*; in row 1 \(of 0, 1, ...\)"),
        (lambda: changed(0, radius=-1.0), r"radius must be a size from 0 to 648000 arcsec; in row 0 .* it is not"),
        (lambda: changed(0, radius=np.nan), "radius must be a size"),
        (lambda: changed(1, width=np.inf), "width must be a size"),
        (lambda: changed(1, height=1e7), "height must be a size"),
        (lambda: changed(0, dec=-91.0), "ra and dec must be a position on the sky; in row 0"),
        (lambda: changed(1, ra=np.nan), "ra and dec must be a position on the sky; in row 1"),
        (lambda: table([circle(0, 0, -1)] * 3), "in row 0 .*, and in 2 more it is not"),
        (
            lambda: table(ROWS)["type", "ra"],
            "bright_objects has no column dec; it needs type, ra, dec and has type, ra",
        ),
        (lambda: table(ROWS)["type", "ra", "dec", "width", "height"], "bright_objects has no column radius; it needs"),
        (lambda: table(ROWS)["type", "ra", "dec", "radius", "width"], "no column height"),
        (lambda: Table(), "has no column type, ra, dec; it needs type, ra, dec and has none"),
        (lambda: Table({"type": ["box"], "ra": ["10h"], "dec": [0.0]}), "column ra must hold numbers, got <U3"),
        (lambda: Table({"type": ["box"], "ra": [1.0] * u.m, "dec": [0.0]}), "column ra is in m; it must be an angle"),
    ],
)
def test_what_is_no_catalogue(given, message):
    with pytest.raises(ValueError, match=message):
        mask_bright_objects(np.zeros(SHAPE, np.int32), given(), wcs=tan_wcs(), schema=SCHEMA)


def test_what_is_no_table(tmp_path):
    (tmp_path / "notes.ecsv").write_text("nothing here\n")
    (tmp_path / "notes.xyz").write_text("nothing here\n")
    for name in ("notes.ecsv", "notes.xyz"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a table \(.*\); write it as .ecsv"):
            masked(np.zeros(SHAPE, np.int32), tmp_path / name, wcs=tan_wcs())
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere.ecsv; check the name"):
        masked(np.zeros(SHAPE, np.int32), tmp_path / "nowhere.ecsv", wcs=tan_wcs())
    with pytest.raises(TypeError, match="bright_objects must be an astropy Table or a path, got list"):
        masked(np.zeros(SHAPE, np.int32), ROWS, wcs=tan_wcs())


def linear_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.set()
    return wcs


def cube_wcs():
    wcs = WCS(naxis=3)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN", "FREQ"]
    wcs.wcs.set()
    return wcs


def solar_wcs():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["SLON-CAR", "SLAT-CAR"]  # of the surface of a planet
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize(
    ("wcs", "message"),
    [
        (
            lambda: None,
            "bright-object masks need an astropy.wcs.WCS with two axes, both celestial; the warps have none",
        ),
        (lambda: "sky", "the warps have a str"),
        (linear_wcs, "the warps have one with the axes linear, linear"),
        (cube_wcs, "the warps have one with the axes RA---TAN, DEC--TAN, FREQ"),
        (solar_wcs, "bright-object masks need a WCS of positions on the sky; astropy says"),
    ],
)
def test_what_is_no_sky(wcs, message):
    with pytest.raises(ValueError, match=message):
        mask_bright_objects(np.zeros(SHAPE, np.int32), table(ROWS), wcs=wcs(), schema=SCHEMA)


def test_a_patch_off_the_sky():
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt, wcs.wcs.crpix = ["RA---SIN", "DEC--SIN"], [-1, 1], [-900, 0]
    wcs.wcs.set()
    with pytest.raises(ValueError, match="the WCS gives no sky position for the middle of the patch"):
        mask_bright_objects(np.zeros(SHAPE, np.int32), table(ROWS), wcs=wcs, schema=SCHEMA)


def test_what_is_no_mask():
    options = {"wcs": tan_wcs(), "schema": SCHEMA}
    with pytest.raises(TypeError, match="mask must be int32, got int64"):
        mask_bright_objects(np.zeros(SHAPE, np.int64), table(ROWS), **options)
    with pytest.raises(ValueError, match=r"mask has shape \(3, 4, 5\); it must be \(y, x\)"):
        mask_bright_objects(np.zeros((3, 4, 5), np.int32), table(ROWS), **options)
    with pytest.raises(TypeError, match="schema must be a MaskSchema"):
        mask_bright_objects(np.zeros(SHAPE, np.int32), table(ROWS), wcs=tan_wcs(), schema={"BAD": 0})
    with pytest.raises(ValueError, match="origin must be a pair of integers"):
        mask_bright_objects(np.zeros(SHAPE, np.int32), table(ROWS), origin=0.5, **options)


# ------------------------------------------------------------------------------------------------ in a coadd


def warps_of(xp=np, **options):
    return flat_stack(5, SHAPE, xp=xp, wcs=tan_wcs(), origin=(-31, 17), **options)


@pytest.mark.parametrize("make", [gpucoadd.coadd, gpucoadd.assemble])
def test_the_coadd_is_masked_and_the_template_is_not(xp, make):
    warps = warps_of(xp)
    plain, bright = make(warps), make(warps, bright_objects=table(ROWS))
    expected, schema = mask_bright_objects(
        plain.mask, table(ROWS), wcs=warps.wcs, schema=plain.schema, origin=warps.origin
    )
    assert_array_equal(to_host(bright.mask), to_host(expected))
    assert (to_host(expected) != to_host(plain.mask)).sum() > 50
    assert bright.schema == schema and PLANE not in plain.schema
    assert_array_equal(to_host(bright.image), to_host(plain.image))
    assert_array_equal(to_host(bright.n_image), to_host(plain.n_image))
    if make is gpucoadd.coadd:
        assert PLANE not in bright.template.schema
        assert_array_equal(to_host(bright.template.mask), to_host(plain.template.mask))


def test_the_plane_can_be_named(tmp_path):
    table(ROWS).write(tmp_path / "b.ecsv")
    config = CoaddConfig.from_lsst({"brightObjectMaskName": "STAR", "doMaskBrightObjects": True})
    result = gpucoadd.coadd(warps_of(), config=config, bright_objects=tmp_path / "b.ecsv")
    assert (result.mask & result.schema.bitmask("STAR")).any() and PLANE not in result.schema


@pytest.mark.parametrize(
    "make",
    [
        lambda warps: gpucoadd.coadd(warps, config=CoaddConfig.from_lsst({"doMaskBrightObjects": True})),
        lambda warps: gpucoadd.assemble(warps, config=AssemblyConfig.from_lsst({"doMaskBrightObjects": True})),
    ],
)
def test_a_missing_catalogue_only_warns(make):
    with pytest.warns(
        UserWarning, match=r"no catalogue of them, so none are; give bright_objects= \(--bright-obj"
    ) as w:
        result = make(warps_of())
    assert w[0].filename == __file__
    assert PLANE not in result.schema


def test_bad_catalogues_are_found_before_the_work(monkeypatch):
    monkeypatch.setattr(gpucoadd.coaddition, "prepare", None)
    with pytest.raises(ValueError, match="radius must be a size"):
        gpucoadd.coadd(warps_of(), bright_objects=changed(0, radius=-1.0))
    with pytest.raises(ValueError, match="bright-object masks need an astropy"):
        gpucoadd.coadd(flat_stack(5, SHAPE), bright_objects=table(ROWS))
    planes = {f"P{bit}": bit for bit in range(27) if bit != 8}
    full = gpucoadd.MaskSchema({**planes, "NO_DATA": 8})
    with pytest.raises(ValueError, match="no free bit for mask plane 'BRIGHT_OBJECT'"):
        gpucoadd.coadd(warps_of(schema=full), bright_objects=table(ROWS))
