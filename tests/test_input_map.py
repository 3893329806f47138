"""The input map: every map pixel against outlines and counts by the plain definition."""

from __future__ import annotations

import functools
import logging
import sys

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Column, QTable, Table
from numpy.testing import assert_array_equal
from scenes import SCHEMA, flat_stack, from_image
from skies import KINDS, scale_of, sky_of, tan_wcs
from test_streaming import write_stack

import gpucoadd
from gpucoadd import CoaddConfig, combination
from gpucoadd.backend import out_of_memory, to_host
from gpucoadd.fits import read_warps
from gpucoadd.input_map import InputMapper, read_detectors, write_input_map

WHY = 'healsparse and hpgeom are not installed; pip install "gpucoadd[maps]"'
healsparse = pytest.importorskip("healsparse", reason=WHY)
hpgeom = pytest.importorskip("hpgeom", reason=WHY)

SHAPE = (61, 45)
NSIDE = 32768
ON = {"inputMapper.nside": NSIDE}

# Corners (y, x) of the detectors in array pixels: all of the patch, a tilted one, two that share an edge, one aside
WHOLE = [(-80, -80), (-80, 120), (140, 120), (140, -80)]
TILTED = [(10.3, -20.2), (50.1, 3.3), (70.7, 60.1), (30.2, 50.9), (-8.4, 22.2)]
LOW, HIGH = (
    [(-9.1, -9.2), (-9.1, 60.3), (33.3, 60.3), (33.3, -9.2)],
    [(33.3, -9.2), (33.3, 60.3), (90.5, 60.3), (90.5, -9.2)],
)
ASIDE = [(300, 300), (300, 340), (350, 340)]
DETECTORS = [
    (0, 4, WHOLE),
    (1, 4, TILTED),
    (3, 7, LOW),
    (3, 8, HIGH),
    (2, 4, WHOLE),
    (4, 1, ASIDE),
    (5, 2, TILTED[::-1]),
]


# ------------------------------------------------------------------------------------------------ the definition


def vector(ra, dec):
    ra, dec = np.radians(ra), np.radians(dec)
    return np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def inside(point, corners):
    """Whether a direction lies on one side of every edge of a convex outline."""
    sides = [np.dot(np.cross(a, b), point) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]
    return all(side > 0 for side in sides) or all(side < 0 for side in sides)


@functools.cache
def pixel_numbers(kind, shape=SHAPE):
    """Map pixel of each coadd pixel, one by one."""
    wcs = tan_wcs(kind)
    return np.array(
        [[int(hpgeom.angle_to_pixel(NSIDE, *sky_of(wcs, y, x))) for x in range(shape[1])] for y in range(shape[0])]
    )


@functools.cache
def drawn(kind, outline):
    """Map pixels whose centre is in the patch and in an outline given in array pixels."""
    wcs = tan_wcs(kind)
    height, width = SHAPE
    patch = [(-0.5, -0.5), (-0.5, width - 0.5), (height - 0.5, width - 0.5), (height - 0.5, -0.5)]
    both = [[vector(*sky_of(wcs, *corner)) for corner in corners] for corners in (patch, outline)]
    return {
        int(number)
        for number in np.unique(pixel_numbers(kind))
        if all(inside(vector(*hpgeom.pixel_to_angle(NSIDE, number)), corners) for corners in both)
    }


def by_definition(kind, detectors, bad, *, share=0.5):
    """{map pixel: bits}; `bad` has the bad pixels (y, x) of each epoch that is used."""
    area = hpgeom.nside_to_pixel_area(NSIDE, degrees=True) * 3600.0**2
    limit = share * area / scale_of(tan_wcs(kind), SHAPE) ** 2
    numbers = pixel_numbers(kind)
    found = {}
    for bit, (epoch, _, corners) in enumerate([row for row in detectors if row[0] in bad]):
        for number in drawn(kind, tuple(corners)):
            count = sum(bool(bad[epoch][y, x]) for y, x in np.argwhere(numbers == number))
            if not count > limit:
                found.setdefault(number, set()).add(bit)
    return found


def bad_pixels(warps, coadd, config):
    """Of each kept epoch, from its mask and what was found: what the final stack did not take because of its mask."""
    stacking, schema = config.stacking, coadd.schema
    reject = schema.known_bitmask(stacking.reject)
    bad = {}
    for at, epoch in enumerate(coadd.epochs):
        mask = to_host(warps.mask)[warps.epochs.index(epoch)].copy()
        if "NO_DATA" in stacking.reject:
            mask[to_host(coadd.no_data)[at]] &= ~reject
        for plane, where in (("NO_DATA", coadd.no_data), ("EDGE", coadd.edge), ("CLIPPED", coadd.clipped)):
            mask[to_host(where)[at]] |= schema.bitmask(plane)
        mask &= ~schema.known_bitmask(stacking.remove)
        bad[epoch] = mask & (reject | schema.bitmask("CLIPPED")) != 0
    return bad


def as_dict(made):
    """{map pixel: bits} of a map."""
    n_bits = made.wide_mask_maxbits
    return {
        int(pixel): {bit for bit in range(n_bits) if made.check_bits_pix(np.array([pixel]), [bit])[0]}
        for pixel in made.valid_pixels
    }


# ------------------------------------------------------------------------------------------------ what it is made from


def detector_table(kind="plain", detectors=DETECTORS):
    """A row per detector, corners padded with NaN."""
    wcs, most = tan_wcs(kind), max(len(corners) for *_, corners in detectors)
    sky = np.full((len(detectors), most, 2), np.nan)
    for row, (_, _, corners) in enumerate(detectors):
        sky[row, : len(corners)] = [sky_of(wcs, *corner) for corner in corners]
    columns = {"epoch": [row[0] for row in detectors], "detector": [row[1] for row in detectors]}
    return Table({**columns, "ra": sky[..., 0], "dec": sky[..., 1]})


def night(kind="plain", xp=np, n_epochs=6, **options):
    """Flashes, flagged blocks and holes; where the twins have neither data nor a flag."""
    rng = np.random.default_rng(12)
    image = rng.normal(size=(n_epochs, *SHAPE)).astype(np.float32)
    mask = np.zeros(image.shape, np.int32)
    image[1, 20:34, 8:30] += 60
    image[4, 5:9] += 60
    image[2, 40:48, 30:40] = np.nan
    for epoch, rows, columns, plane in (
        (0, slice(0, 25), slice(0, 20), "SAT"),
        (0, slice(30, 50), slice(20, 45), "EDGE"),
        (2, slice(40, 61), slice(28, 45), "NO_DATA"),
        (3, slice(25, 44), slice(10, 40), "BAD"),
        (3, slice(0, 61, 2), slice(0, 45), "BAD"),
        (5, slice(0, 60), slice(0, 12), "CR"),
    ):
        mask[epoch, rows, columns] |= SCHEMA.bitmask(plane)
    return from_image(image, mask=mask, xp=xp, wcs=tan_wcs(kind), origin=(7, -30), sigma=1.5, **options)


@pytest.fixture(scope="module")
def expected():
    """The plain night's map, from the definition."""
    coadd = gpucoadd.coadd(night())
    return by_definition("plain", DETECTORS, bad_pixels(night(), coadd, CoaddConfig()))


# ------------------------------------------------------------------------------------------------ which bits


@pytest.mark.parametrize("kind", KINDS)
def test_every_map_pixel_is_as_the_definition_says(xp, kind):
    warps = night(kind, xp)
    coadd = gpucoadd.coadd(warps, detectors=detector_table(kind))
    wanted = by_definition(kind, DETECTORS, bad_pixels(warps, coadd, CoaddConfig()))
    assert as_dict(coadd.input_map) == wanted
    outlines = {bit: drawn(kind, tuple(row[2])) for bit, row in enumerate(DETECTORS)}
    kept = {bit: {pixel for pixel, bits in wanted.items() if bit in bits} for bit in outlines}
    assert [len(kept[bit]) < len(outlines[bit]) for bit in range(7)] == [True, True, True, True, True, False, False]
    assert all(kept[bit] for bit in range(7) if bit != 5) and not outlines[5]


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        ({"inputMapper.bad_mask_min_coverage": 0.0}, True),
        ({"inputMapper.bad_mask_min_coverage": 0.2}, True),
        ({"inputMapper.bad_mask_min_coverage": 1.5}, True),
        ({"badMaskPlanes": ["CR"]}, True),
        ({"removeMaskPlanes": ["BAD", "SAT"]}, True),
        ({"detect.thresholdValue": 1000.0}, True),
        ({"inputMapper.nside_coverage": 1024, "doInputMap": True}, False),
        ({"statistic": "MEDIAN"}, False),
        ({"doOnlineForMean": True}, False),
    ],
)
def test_configurations(expected, overrides, changes):
    config, warps = CoaddConfig.from_lsst(overrides), night()
    coadd = gpucoadd.coadd(warps, config=config, detectors=detector_table())
    share = config.stacking.input_map.max_bad_share
    found = as_dict(coadd.input_map)
    assert found == by_definition("plain", DETECTORS, bad_pixels(warps, coadd, config), share=share)
    assert (found != expected) == changes
    assert coadd.input_map.nside_coverage == config.stacking.input_map.nside_coverage


def test_coarse_maps():
    """One map pixel holds the whole patch, or none has its centre there."""
    config = CoaddConfig.from_lsst({"inputMapper.nside": 1024, "inputMapper.nside_coverage": 32})
    made = gpucoadd.coadd(night(), config=config, detectors=detector_table()).input_map
    assert made.nside_sparse == 1024 and len(made.valid_pixels) == 0


def test_the_base_task():
    """Without a search there are no artifacts, and EDGE rejects."""
    warps = night()
    coadd = gpucoadd.assemble(warps, detectors=detector_table())
    reject = SCHEMA.bitmask("NO_DATA", "BAD", "SAT", "EDGE")
    bad = {epoch: warps.mask[at] & reject != 0 for at, epoch in enumerate(warps.epochs)}
    assert as_dict(coadd.input_map) == by_definition("plain", DETECTORS, bad)


def test_dropped_epochs_have_no_bits(caplog):
    warps = night()
    warps.image[1] = warps.psf_matched.image[1] = np.nan
    coadd = gpucoadd.coadd(warps, detectors=detector_table())
    assert coadd.epochs == (0, 2, 3, 4, 5)
    assert as_dict(coadd.input_map) == by_definition("plain", DETECTORS, bad_pixels(warps, coadd, CoaddConfig()))
    assert [coadd.input_map.metadata[f"B{bit:04d}VIS"] for bit in range(6)] == [0, 3, 3, 2, 4, 5]


def test_without_detectors_there_is_no_map():
    assert gpucoadd.coadd(night()).input_map is None and gpucoadd.assemble(night()).input_map is None


def test_metadata_and_the_rest_of_the_coadd():
    plain, coadd = gpucoadd.coadd(night()), gpucoadd.coadd(night(), detectors=detector_table())
    for name in ("image", "variance", "mask", "n_image"):
        assert_array_equal(getattr(coadd, name), getattr(plain, name))
    assert coadd.template.input_map is None
    expected = {}
    for bit, (epoch, detector, _) in enumerate(DETECTORS):
        expected |= {f"B{bit:04d}CCD": detector, f"B{bit:04d}VIS": epoch, f"B{bit:04d}WT": coadd.weights[epoch]}
    assert coadd.input_map.metadata == expected
    assert coadd.input_map.nside_sparse == 32768 and coadd.input_map.nside_coverage == 256
    assert coadd.input_map.is_wide_mask_map


# ------------------------------------------------------------------------------------------------ how it is computed


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("rows", [1, 7, 61])
def test_bands_and_threads_do_not_show(expected, monkeypatch, rows, threads):
    monkeypatch.setattr(combination, "_band_rows", lambda *args: rows)
    monkeypatch.setattr("gpucoadd.input_map._AT_ONCE", 3 * SHAPE[1] + 1)
    assert as_dict(gpucoadd.coadd(night(), detectors=detector_table(), threads=threads).input_map) == expected


@pytest.mark.parametrize("memory", [None, 1])
def test_files_and_devices(device, expected, tmp_path, memory):
    warps = night()
    folders = [write_stack(tmp_path / name, some) for name, some in (("a", warps), ("b", warps.psf_matched))]
    for word in ("cpu", "cuda"):
        stack = read_warps(folders[0], psf_matched=folders[1], device=word, psf_fwhm=1.5 * gpucoadd.psf.FWHM_PER_SIGMA)
        stack._set(wcs=warps.wcs)
        coadd = gpucoadd.coadd(stack, detectors=detector_table(), memory=memory, threads=2)
        assert as_dict(coadd.input_map) == expected
        assert type(coadd.image).__module__.startswith("numpy") == (word == "cpu")


def test_a_device_that_is_full_counts_nothing_twice(device, expected, monkeypatch):
    count, times = InputMapper.count, []

    def full_at_first(self, rows, masks):
        counts = count(self, rows, masks)
        times.append(rows)
        if len(times) == 1:
            raise out_of_memory()[0](1, 1)
        return counts

    monkeypatch.setattr(InputMapper, "count", full_at_first)
    assert as_dict(gpucoadd.coadd(night(xp=device), detectors=detector_table()).input_map) == expected
    assert len(times) > 2


# ------------------------------------------------------------------------------------------------ tables


def one_corner_per_row(given=None):
    rows = []
    for row in detector_table() if given is None else given:
        rows += [(row["epoch"], row["detector"], a, d) for a, d in zip(row["ra"], row["dec"]) if np.isfinite(a)]
    return Table(rows=rows, names=("epoch", "detector", "ra", "dec"))


def of_objects():
    given = detector_table()
    for name in ("ra", "dec"):
        cells = np.empty(len(given), object)
        cells[:] = [cell[np.isfinite(cell)] for cell in given[name]]
        given[name] = Column(cells)
    return given


def with_units(kind=Table):
    given = detector_table()
    given["ra"], given["dec"] = np.radians(given["ra"]) * u.rad, given["dec"] * 60 * u.arcmin
    return kind(given)


def of_texts():
    given = detector_table()
    given["epoch"] = [f" {epoch}" for epoch in given["epoch"]]
    return given


def with_other_epochs():
    others = [(99, 1, WHOLE), *DETECTORS[:3], (98, 1, TILTED), *DETECTORS[3:]]
    return detector_table(detectors=others)


def with_shuffled_corners():
    """Corners out of turn, twice, and within: their convex hull counts."""
    rows = [
        (e, d, [*corners[1::2], *corners[::2], corners[0], *np.mean([corners, corners[1:] + corners[:1]], axis=1)[:1]])
        for e, d, corners in DETECTORS
    ]
    return detector_table(detectors=rows)


@pytest.mark.parametrize(
    "given",
    [
        one_corner_per_row,
        of_objects,
        with_units,
        lambda: with_units(QTable),
        of_texts,
        with_other_epochs,
        with_shuffled_corners,
        lambda: Table(detector_table(), masked=True),
    ],
)
def test_tables(expected, given):
    assert as_dict(gpucoadd.coadd(night(), detectors=given()).input_map) == expected


@pytest.mark.parametrize("name", ["detectors.ecsv", "detectors.fits", "one.csv", "objects.ecsv"])
def test_files_of_tables(expected, tmp_path, name):
    given = {"one.csv": one_corner_per_row, "objects.ecsv": of_objects}.get(name, detector_table)()
    given.write(tmp_path / name)
    assert as_dict(gpucoadd.coadd(night(), detectors=tmp_path / name).input_map) == expected


def test_ids_of_any_kind():
    warps = night(epochs=["a", "b", ("c", 1), "d", "e", "f"])
    given = Table(
        {
            "epoch": ["b", "d"],
            "detector": ["S29 R2", "x"],
            "ra": [[150, 151, 151.0]] * 2,
            "dec": [[-28, -28, -26.0]] * 2,
        }
    )
    metadata = gpucoadd.coadd(warps, detectors=given).input_map.metadata
    assert [metadata[key] for key in ("B0000CCD", "B0000VIS", "B0001VIS")] == ["S29 R2", "b", "d"]
    detectors = read_detectors(detector_table(detectors=[(1, 2, WHOLE)]), [(1, 2), 1])
    assert [detector.epoch for detector in detectors] == [1]


def test_epochs_without_detectors_are_named_in_the_log(caplog):
    with caplog.at_level(logging.WARNING):
        gpucoadd.coadd(night(), detectors=detector_table(detectors=DETECTORS[:2]))
    assert "no detectors are given for 4 epochs, such as 2; the map lacks them" in caplog.text


def test_a_map_without_pixels(caplog, tmp_path):
    with caplog.at_level(logging.WARNING):
        made = gpucoadd.coadd(night(), detectors=detector_table(detectors=[(e, 1, ASIDE) for e in range(6)])).input_map
    assert "no detector's outline reaches the patch; the input map is empty" in caplog.text
    assert as_dict(made) == {}
    write_input_map(tmp_path / "m.hsp", made)
    assert len(healsparse.HealSparseMap.read(str(tmp_path / "m.hsp")).valid_pixels) == 0


# ------------------------------------------------------------------------------------------------ written


@pytest.mark.parametrize("name", ["map.hsp", "map.fits"])
def test_written_maps_are_read_back(expected, tmp_path, name):
    made = gpucoadd.coadd(night(), detectors=detector_table()).input_map
    (tmp_path / name).write_text("an older one")
    write_input_map(tmp_path / name, made)
    again = healsparse.HealSparseMap.read(str(tmp_path / name))
    assert as_dict(again) == expected
    for key, value in made.metadata.items():
        assert again.metadata[key] == pytest.approx(value, rel=1e-12), key
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_failing_half_way_leaves_what_was_there(tmp_path):
    class Full:
        def write(self, path):
            with open(path, "w") as stream:
                stream.write("half")
            raise OSError(28, "No space left on device")

    (tmp_path / "map.hsp").write_text("an older one")
    with pytest.raises(OSError, match="No space left"):
        write_input_map(tmp_path / "map.hsp", Full())
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an older one"]


# ------------------------------------------------------------------------------------------------ what is refused


def replaced(**columns):
    given = detector_table()
    for name, value in columns.items():
        given[name] = value
    return given


def nan_in_one(column, row=2):
    given = detector_table()
    given[column][row, 1] = np.nan
    return given


def ragged():
    given = of_objects()
    given["ra"][3] = given["ra"][3][:-1]
    return given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            lambda: detector_table()["epoch", "ra", "dec"],
            "detectors has no column detector; it needs epoch, detector, ra",
        ),
        (
            lambda: replaced(epoch=range(90, 97)),
            "none of an epoch of the stack: its first row is of epoch 90, .* has 0",
        ),
        (lambda: detector_table()[:0], "detectors has no rows; give a row for each detector"),
        (lambda: replaced(epoch=0, detector=3), "detector 3 of epoch 0 is there twice; one row holds all its corners"),
        (lambda: replaced(dec=95.0 + np.zeros((7, 5))), "detector 4 of epoch 0 has a corner that is no position"),
        (lambda: replaced(ra=np.full((7, 5), np.inf)), "detector 4 of epoch 0 has a corner that is no position"),
        (lambda: nan_in_one("ra"), "detector 7 of epoch 3 has a corner that is no position on the sky"),
        (lambda: nan_in_one("dec"), "detector 7 of epoch 3 has a corner that is no position on the sky"),
        (ragged, "detector 8 of epoch 3 has 3 ra and 4 dec; give pairs"),
        (lambda: one_corner_per_row()[:2], "detector 4 of epoch 0 has 2 corners; an outline has three or more"),
        (
            lambda: Table({"epoch": [0], "detector": [1], "ra": [[0.0, 120.0, 240.0]], "dec": [[0.0, 0.0, 0.0]]}),
            "has 3 corners; an outline has three or more, on one side of the sky",
        ),
        (
            lambda: Table({"epoch": [0], "detector": [1], "ra": [[0.0, 1.0, 2.0]], "dec": [[0.0, 0.0, 0.0]]}),
            "the corners of detector 1 of epoch 0 lie on one line",
        ),
        (lambda: replaced(ra=[["x"] * 5] * 7), "column ra must hold numbers"),
        (lambda: replaced(ra=detector_table()["ra"] * u.m), "column ra is in m; it must be an angle, such as deg"),
    ],
)
def test_what_is_no_table_of_detectors(given, message, monkeypatch):
    monkeypatch.setattr(gpucoadd.coaddition, "prepare", None)  # found before the work
    with pytest.raises(ValueError, match=message):
        gpucoadd.coadd(night(), detectors=given())


def test_too_many_detectors(monkeypatch):
    monkeypatch.setattr("gpucoadd.input_map._MOST_BITS", 6)
    with pytest.raises(ValueError, match="has 7 detectors of these epochs; the map has room for 6"):
        gpucoadd.coadd(night(), detectors=detector_table())


def test_outlines_that_cannot_be_drawn(monkeypatch):
    def degenerate(nside, ra, dec):
        raise RuntimeError("Polygon has degenerate corner.")

    query = hpgeom.query_polygon
    monkeypatch.setattr(hpgeom, "query_polygon", lambda n, a, b: query(n, a, b) if len(a) != 5 else degenerate(n, a, b))
    with pytest.raises(ValueError, match=r"outline of detector 4 of epoch 1 cannot be drawn: Polygon has degenerate"):
        gpucoadd.coadd(night(), detectors=detector_table())


def test_a_map_needs_detectors_and_a_sky():
    with pytest.raises(ValueError, match=r"input_map \(doInputMap\) is on but there are no detectors; give detectors="):
        gpucoadd.coadd(night(), config=CoaddConfig.from_lsst({"doInputMap": True}))
    with pytest.raises(ValueError, match=r"input maps need an astropy.wcs.WCS with two axes, both celestial"):
        gpucoadd.assemble(flat_stack(3, SHAPE), detectors=detector_table())
    wide = tan_wcs(scale=3600.0)
    wide.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    with pytest.raises(ValueError, match="input maps need a patch that lies on the sky; by its WCS a corner does not"):
        gpucoadd.coadd(flat_stack(3, (200, 180), wcs=wide), detectors=detector_table())


def test_a_map_needs_healsparse(monkeypatch):
    monkeypatch.setitem(sys.modules, "healsparse", None)
    with pytest.raises(ImportError, match=r'input maps need healsparse and hpgeom: pip install "gpucoadd\[maps\]"'):
        gpucoadd.coadd(night(), detectors=detector_table())
