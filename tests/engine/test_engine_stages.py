"""The stages of the coadd tasks one by one, in every kind of exposure, and what they refuse."""

import functools
import sys
from types import SimpleNamespace

import afwlike
import goldens
import imageslike
import lsst_flow
import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from lsst.pipe.base import InMemoryDatasetHandle, NoWorkFound
from numpy.testing import assert_array_equal

import gpucoadd
from gpucoadd.boxes import Box
from gpucoadd.exposure_masks import read_mask
from gpucoadd.exposures import from_lsst
from gpucoadd.lsst import ArtifactMasks, AssembleCoaddTask, CompareWarpAssembleCoaddTask, PixelSet
from gpucoadd.lsst.plain import PlainImage, PlainMaskedImage
from gpucoadd.lsst.warps import Room, as_refs, epoch_ids, stack_of
from gpucoadd.pixel_sets import pieces, plane_of
from gpucoadd.residence import least_memory

FULL = next(path for path in goldens.paths() if path.stem == "no_matched_twin")
WITH_SETS = [path for path in goldens.paths() if "out_candidates" in goldens.load(path).arrays]


@pytest.fixture(scope="module")
def golden():
    return goldens.load(FULL)


@pytest.fixture(scope="module")
def done(golden):
    return lsst_flow.run_stages(golden)


def same(result, expected, *, schema=True):
    for name in ("image", "variance"):
        assert_array_equal(getattr(result, name), getattr(expected, name), err_msg=name)
    translated = goldens.translate(result.mask, result.schema, expected.schema.planes)
    assert_array_equal(translated, expected.mask)


# --------------------------------------------------------------------------------------------------- sets of pixels


@pytest.mark.parametrize("path", WITH_SETS, ids=lambda path: path.stem)
def test_sets_are_those_of_the_reference(path):
    golden = goldens.load(path)
    if golden.overrides.get("doFilterMorphological"):
        pytest.skip("other lines are found")
    result = lsst_flow.run_stages(golden)
    box = Box.of(golden["in_image"].shape[1:], tuple(golden["in_xy0"][::-1].tolist()))
    tables = result.struct.altMaskList
    assert len(tables) == len(golden["out_used_epochs"])
    has_twin = golden["in_has_matched"][golden["out_used_epochs"]]
    for epoch, table in enumerate(tables):
        assert list(table) == ["CLIPPED", "NO_DATA", "EDGE"][: 3 if has_twin[epoch] else 2]
        assert len(table["CLIPPED"]) == golden["out_n_clipped_spansets"][epoch]
        for plane, key in (("CLIPPED", "clipped"), ("NO_DATA", "no_data"), ("EDGE", "edge")):
            assert_array_equal(plane_of(table.get(plane, ()), box), golden[f"out_alt_{key}"][epoch], err_msg=plane)
        for plane in set(table) - {"CLIPPED"}:
            assert table[plane], "one empty set stands for none"


@pytest.mark.parametrize("path", WITH_SETS, ids=lambda path: path.stem)
def test_candidates_through_the_filters(path):
    golden = goldens.load(path)
    if golden.overrides.get("doFilterMorphological"):
        pytest.skip("candidates of streaks are not filtered")
    result = lsst_flow.run_stages(golden)
    task, (x0, y0) = result.task, golden["in_xy0"].tolist()
    count = afwlike.Image(golden["out_epoch_count"], (x0, y0))
    n_image = afwlike.Image(golden["out_n_image_diff"], (x0, y0))
    excluded = None
    if "out_template_footprints" in golden.arrays:
        numbers = golden["out_template_footprints"]
        sets = [PixelSet.of(numbers == n, (y0, x0)) for n in range(1, numbers.max() + 1)]
        excluded = SimpleNamespace(getFootprints=lambda: [afwlike.Footprint(s.spans.tolist()) for s in sets])
    for epoch, index in enumerate(golden["out_used_epochs"].tolist()):
        exposure = lsst_flow.as_afw(
            [golden[f"in_m_{name}"][index] for name in ("image", "variance", "mask")], golden.planes, (x0, y0), 1.0
        )
        candidates = pieces(golden["out_candidates"][epoch], (y0, x0), diagonal=True)
        kept = candidates
        if task.config.doPrefilterArtifacts:
            kept = task.prefilterArtifacts(candidates, exposure)
        box = Box(x0, y0, *golden["in_image"].shape[:0:-1])
        assert_array_equal(plane_of(kept, box), golden["out_candidates_prefiltered"][epoch])
        artifacts = task.filterArtifacts(kept, count, n_image, excluded)
        assert_array_equal(plane_of(artifacts, box), golden["out_alt_clipped"][epoch])
        order = [id(pixels) for pixels in candidates]
        assert [order.index(id(pixels)) for pixels in artifacts] == sorted(order.index(id(p)) for p in artifacts)


def test_sets_that_overlap_and_sets_outside(golden):
    task = lsst_flow.make_task(golden)
    count = np.ones((20, 20), np.int32)
    n_image = np.full((20, 20), 9)
    whole, part, outside = PixelSet([(y, 2, 9) for y in range(2, 9)]), PixelSet([(4, 3, 5)]), PixelSet([(40, 3, 5)])
    assert task.filterArtifacts([whole, part, outside], count, n_image) == [whole, part]
    count[:, :] = 9  # in too many epochs
    count[4, 3:6] = 1
    assert task.filterArtifacts([whole, part], count, n_image) == [part]
    sources = [PixelSet([(y, 0, 9) for y in range(6)]), PixelSet([(4, 2, 7)])]  # two that overlap
    assert task.filterArtifacts([part], count, n_image, sources) == []
    assert task.filterArtifacts([part], count, n_image, sources[1:]) == []
    halves = [PixelSet([(4, 0, 3)]), PixelSet([(4, 4, 9)])]  # none of which holds it alone
    assert task.filterArtifacts([part], count, n_image, halves) == [part]
    mask = np.zeros((20, 20), np.int32)
    mask[4, 3:6] = 1 << golden.planes["SUSPECT"]
    exposure = lsst_flow.as_afw([np.ones((20, 20), np.float32)] * 2 + [mask], golden.planes, (0, 0), 1.0)
    reaches = PixelSet([(4, -3, 5)])  # inside of a source where it is in the image, and outside of it beyond
    assert task.filterArtifacts([reaches], np.ones((20, 20), int), n_image, [PixelSet([(4, 0, 9)])]) == [reaches]
    assert task.filterArtifacts([reaches], np.ones((20, 20), int), n_image, [PixelSet([(4, -5, 9)])]) == []
    edge = PixelSet([(19, 19, 38)])  # 1 of 20 pixels is inside and good: not above the ratio of 0.05
    assert task.prefilterArtifacts([whole, part, outside, edge], exposure) == [whole]
    assert task.prefilterArtifacts([PixelSet([(19, 19, 37)])], exposure) != []


def test_lists_of_sets_give_what_the_flags_give(golden, done):
    task, struct = done.task, done.struct
    lists = {name: getattr(struct, name) for name in ("warpRefList", "imageScalerList", "weightList")}
    tables = [dict(table) for table in struct.altMaskList]
    bits = sum(1 << golden.planes[name] for name in ("NO_DATA", "BAD", "SAT", "CLIPPED"))
    for mask in (bits, np.int32(bits), ["NO_DATA", "BAD", "SAT", "CLIPPED"]):
        again = AssembleCoaddTask.run(task, lsst_flow.sky_info(golden), **lists, altMaskList=tables, mask=mask)
        task.applyAltEdgeMask(again.coaddExposure.mask, tables)
        task.processResults(again.coaddExposure)
        same(from_lsst(again.coaddExposure), done)
    with pytest.raises(ValueError, match=r"altMaskList has 1 entries but there are 7 warps; give one for each"):
        AssembleCoaddTask.run(task, lsst_flow.sky_info(golden), **lists, altMaskList=tables[:1])


def test_artifacts_that_somebody_changes_are_taken_as_changed(golden, done):
    x0, y0 = golden["in_xy0"].tolist()

    class MoreAndLess(CompareWarpAssembleCoaddTask):
        def findArtifacts(self, *args):
            found = super().findArtifacts(*args)
            found[1]["CLIPPED"].append(PixelSet([(y0 + 60, x0 + 20, x0 + 40)]))
            found[0] = {**found[0], "CLIPPED": []}
            return found

    class OfLists(MoreAndLess):
        def findArtifacts(self, *args):
            return [{name: list(sets) for name, sets in table.items()} for table in super().findArtifacts(*args)]

    config = lsst_flow.make_task(golden, doNImage=True).config
    result, again = (lsst_flow.run_stages(golden, task=kind(config=config)) for kind in (MoreAndLess, OfLists))
    same(again, result)
    clipped = [plane_of(table["CLIPPED"], Box.of(result.image.shape, (y0, x0))) for table in result.struct.altMaskList]
    assert result.task.metadata["nClippedPixels"] == np.sum(clipped) != done.task.metadata["nClippedPixels"]
    clipped = result.mask >> result.schema.planes["CLIPPED"] & 1
    assert clipped[60, 20:41].all()
    assert result.n_image.sum() != done.n_image.sum()
    masks = ArtifactMasks(done.struct.altMaskList.artifacts, Box(0, 0, 124, 116), [None] * len(done.epochs))
    assert masks.as_found
    masks.insert(0, {"CLIPPED": []})
    del masks[1]
    assert not masks.as_found and len(masks) == len(done.epochs) and masks[0] == {"CLIPPED": []}
    assert masks[:2][1] is masks[1]


def test_find_artifacts_by_itself(golden, done):
    task = done.task
    twins = {ref.dataId["visit"]: ref for ref in lsst_flow.make_handles(golden, matched=True)}
    refs = [twins.get(ref.dataId["visit"]) for ref in done.struct.warpRefList]
    template_mask = done.template_exposure.mask.array.copy()
    found = task.findArtifacts(done.template_exposure, refs, [None] * len(refs))
    assert_array_equal(found.artifacts.clipped, golden["out_alt_clipped"])
    assert_array_equal(done.template_exposure.mask.array, template_mask)
    without_psf = done.template_exposure.clone()
    without_psf.setPsf(None)  # then the widest warp's width
    found = task.findArtifacts(without_psf, refs, [None] * len(refs))
    assert_array_equal(found.artifacts.clipped, golden["out_alt_clipped"])
    nothing = task.findArtifacts(done.template_exposure, [None, None], [None, None])
    assert nothing.artifacts.no_data.all() and not nothing.artifacts.clipped.any()
    assert [list(table) for table in nothing] == [["CLIPPED", "NO_DATA"]] * 2


# ------------------------------------------------------------------------------------------------- kinds of exposures


def as_images(arrays, planes, xy0, sigma):
    """`lsst.images`: flags by name, a PSF by its image."""
    image, variance, mask = arrays
    flags = {name: mask >> bit & 1 != 0 for name, bit in planes.items()}
    psf = imageslike.Psf(gpucoadd.Psf.gaussian(sigma).at(0, 0))
    return imageslike.MaskedImage.of(image, variance, flags, start=xy0[::-1], unit=units.nJy, psf=psf)


class ImagesHandle(afwlike.Handle):
    def get(self, *, parameters):
        return self.exposure.cut(parameters["bbox"])


def as_plain(arrays, planes, xy0, sigma):
    return PlainMaskedImage(*arrays, schema=gpucoadd.MaskSchema(planes), origin=xy0[::-1], unit="nJy", psf_sigma=sigma)


class PlainHandle(afwlike.Handle):
    def get(self, *, parameters):
        return self.exposure.cutout(parameters["bbox"])


def in_memory(exposure, visit):
    return InMemoryDatasetHandle(exposure, visit=visit)


@pytest.mark.parametrize(
    ("make", "handle", "box"),
    [
        (as_plain, PlainHandle, lambda x0, y0, w, h: Box(x0, y0, w, h)),
        (as_images, ImagesHandle, lambda x0, y0, w, h: imageslike.Box.from_shape((h, w), (y0, x0))),
        (lsst_flow.as_afw, in_memory, afwlike.Box2I.of),
    ],
    ids=["plain", "lsst.images", "in memory"],
)
def test_all_kinds_give_the_same(golden, done, make, handle, box):
    height, width = golden["in_image"].shape[1:]
    sky = SimpleNamespace(bbox=box(*golden["in_xy0"].tolist(), width, height), wcs=None)
    handles = functools.partial(lsst_flow.make_handles, make=make, handle=handle)
    result = lsst_flow.run_stages(golden, sky=sky, handles=handles)
    kinds = {as_plain: PlainMaskedImage, as_images: imageslike.MaskedImage, lsst_flow.as_afw: afwlike.Exposure}
    assert type(result.exposure) is kinds[make], "and none of one warp, whose PSF it had"
    if make is as_images:
        assert result.template_exposure.metadata["PSFSIGMA"] == pytest.approx(max(golden["in_m_sigma"]), rel=1e-3)
    # the widths of PSFs that are measured on images are a little off, and so is nothing that depends on whole pixels
    same(result, done)
    assert_array_equal(result.n_image, done.n_image)
    assert result.unit == "nJy" and result.origin == done.origin


def test_a_coadd_of_afw_exposures(golden, done):
    exposure = done.exposure
    assert (exposure.getWcs(), exposure.getFilter(), exposure.getPhotoCalib()) == ("a wcs", "r", "calibrated")
    assert exposure.getPsf() is None, "none of its warps'"
    widest = max(golden["in_m_sigma"][golden["in_has_matched"]])
    assert done.template_exposure.getPsf().computeShape(afwlike.Point(0, 0)).getDeterminantRadius() == widest
    assert isinstance(done.struct.nImage, PlainImage) and done.struct.nImage.origin == done.origin


def test_counts_and_masks_of_afw(golden, done, monkeypatch):
    """Where `lsst.afw` is loaded, its own images come back."""

    class ImageU(afwlike.Image):
        def __init__(self, box):
            super().__init__(np.zeros((box.getHeight(), box.getWidth()), np.uint16), (box.getMinX(), box.getMinY()))

    class OfAfw(afwlike.Exposure):
        pass

    OfAfw.__module__ = "lsst.afw.image._exposure"
    monkeypatch.setitem(sys.modules, "lsst.afw.image", SimpleNamespace(ImageU=ImageU))
    handles = lsst_flow.make_handles(golden)
    for handle in handles:
        handle.exposure.__class__ = OfAfw
    task, sky = lsst_flow.make_task(golden, doNImage=True), lsst_flow.sky_info(golden)
    lists = {"warpRefList": handles, "imageScalerList": [None] * 7, "weightList": [1.0] * 7}
    counts = AssembleCoaddTask.run(task, sky, **lists).nImage
    assert isinstance(counts, ImageU) and counts.array.shape == done.image.shape
    plain = AssembleCoaddTask.run(task, sky, **lists | {"warpRefList": lsst_flow.make_handles(golden)}).nImage
    assert_array_equal(counts.array, plain.image)


@pytest.mark.parametrize(
    ("make", "handle"), [(lsst_flow.as_afw, afwlike.Handle), (as_images, ImagesHandle), (as_plain, PlainHandle)]
)
def test_artifact_masks(golden, done, make, handle):
    x0, y0 = golden["in_xy0"].tolist()
    height, width = golden["in_image"].shape[1:]
    box = {as_images: imageslike.Box.from_shape((height, width), (y0, x0)), as_plain: Box(x0, y0, width, height)}
    bbox = box.get(make, afwlike.Box2I.of(x0, y0, width, height))
    handles = [lsst_flow.make_handles(golden, make=make, handle=handle)[n] for n in golden["out_used_epochs"]]
    masks = list(done.task.artifactMasks(as_refs(handles, bbox), done.struct.altMaskList))
    assert len(masks) == len(handles)
    for epoch, mask in enumerate(masks):
        before = golden["in_mask"][golden["out_used_epochs"][epoch]]
        cleared = golden.schema.bitmask("NO_DATA", "BAD", "SAT")
        no_data, edge, clipped = (golden[f"out_alt_{key}"][epoch] for key in ("no_data", "edge", "clipped"))
        expected = np.where(no_data, before & ~cleared | golden.schema.bitmask("NO_DATA"), before)
        expected = expected | np.where(edge, golden.schema.bitmask("EDGE"), 0)
        expected = expected | np.where(clipped, golden.schema.bitmask("CLIPPED"), 0)
        pixels, schema = read_mask(mask)
        assert_array_equal(goldens.translate(pixels, schema, golden.planes), expected)


def test_a_coadd_of_plain_images_has_a_psf(golden):
    make = functools.partial(lsst_flow.make_handles, make=as_plain, handle=PlainHandle)
    task = lsst_flow.make_task(golden)
    height, width = golden["in_image"].shape[1:]
    sky = SimpleNamespace(bbox=Box(*golden["in_xy0"].tolist(), width, height), wcs=None)
    handles = make(golden)
    for handle in handles:
        handle.exposure._set(psf=gpucoadd.Psf.gaussian(handle.exposure.psf_sigma))
    made = AssembleCoaddTask.run(task, sky, warpRefList=handles, imageScalerList=[None] * 7, weightList=[1.0] * 7)
    coadd = made.coaddExposure
    assert isinstance(coadd, PlainMaskedImage) and made.nImage is None
    assert coadd.psf_sigma == max(golden["in_sigma"])
    assert coadd.psf.moments(*coadd.origin)[0] == pytest.approx(np.mean(golden["in_sigma"]), rel=0.1)


# -------------------------------------------------------------------------------------------------------------- reading


def test_pixels_are_read_in_pieces_or_kept(golden, done):
    handles = lsst_flow.make_handles(golden)
    sky = lsst_flow.sky_info(golden)
    config = lsst_flow.make_task(golden, memory=1).config  # a bound that nothing fits in
    task = CompareWarpAssembleCoaddTask(config=config)
    lists = {"warpRefList": handles, "imageScalerList": [None] * len(handles)}
    weights = done.task.prepareInputs(handles, sky.bbox).weightList
    for handle in handles:
        handle.boxes.clear()
    again = AssembleCoaddTask.run(task, sky, **lists, weightList=weights)
    heights = {box.getHeight() for handle in handles[1:] for box in handle.boxes}  # the first gives the coadd its kind
    assert 1 < max(heights) < golden["in_image"].shape[1] / 4
    roomy = AssembleCoaddTask.run(done.task, sky, **lists, weightList=weights)
    same(from_lsst(again.coaddExposure), from_lsst(roomy.coaddExposure))
    shape = golden["in_image"].shape[1:]
    refs = as_refs(handles, sky.bbox, Room(3 * 12 * shape[0] * shape[1]))
    for _ in range(2):
        done.task.prepareInputs(refs, sky.bbox)
    assert [ref.kept for ref in refs].count(True) == 3
    for ref, handle in zip(refs, handles):
        handle.boxes.clear()
        ref.read(slice(0, 5))
        assert len(handle.boxes) == (0 if ref.kept else 1)


def test_where_box_and_wcs_of_a_patch_come_from(golden):
    def told(**components):
        return SimpleNamespace(get=lambda *, component: components[component])

    for storage, name in (("PlainMaskedImage", "wcs"), ("MaskedImageV2", "sky_projection")):
        task = lsst_flow.make_task(golden, inputStorageClass=storage)
        for connection in ("inputWarps", "psfMatchedWarps"):
            inputs = {"inputWarps": [], connection: [told(bbox="a box", **{name: "a wcs"})]}
            sky = task._skyInfo(inputs, {})
            assert (sky.bbox, sky.wcs) == ("a box", "a wcs")
        with pytest.raises(NoWorkFound, match="there are no warps"):
            task._skyInfo({"inputWarps": []}, {})
    patch = SimpleNamespace(getOuterBBox=lambda: "the outer box")
    tract = SimpleNamespace(getPatchInfo=lambda number: {6: patch}[number], getWcs=lambda: "the tract's")
    sky = lsst_flow.make_task(golden)._skyInfo({"inputWarps": [], "skyMap": {9: tract}}, {"tract": 9, "patch": 6})
    assert (sky.bbox, sky.wcs, sky.patchInfo, sky.tractInfo) == ("the outer box", "the tract's", patch, tract)


def test_twins_are_kept_first(golden):
    direct, twins = lsst_flow.make_handles(golden), lsst_flow.make_handles(golden, matched=True)
    sky = lsst_flow.sky_info(golden)
    plane = 12 * sky.bbox.getWidth() * sky.bbox.getHeight()
    least = least_memory(golden["in_image"].shape)
    task = lsst_flow.make_task(golden, memory=least + 2 * plane * (len(twins) + 2))
    warps = task._open({"inputWarps": direct, "psfMatchedWarps": twins}, sky)
    assert task._machine["memory"] == least + plane * (len(twins) + 2), "the stages have the rest"
    task.prepareInputs(warps["inputWarps"], sky.bbox)
    task.prepareInputs(warps["psfMatchedWarps"], sky.bbox)
    assert [ref.kept for ref in warps["psfMatchedWarps"]] == [True] * len(twins)
    assert [ref.kept for ref in warps["inputWarps"]].count(True) == 2


def test_warps_with_planes_of_their_own(golden):
    first, second = lsst_flow.make_handles(golden)[:2]
    shuffled = {name: 30 - bit for name, bit in golden.planes.items()} | {"OTHER": 3}
    mask = goldens.translate(second.exposure.mask.array, golden.schema, shuffled)
    mask[5, 5] |= 1 << 3
    arrays = second.exposure.image.array, second.exposure.variance.array, mask
    other = afwlike.Handle(lsst_flow.as_afw(arrays, shuffled, tuple(golden["in_xy0"].tolist()), 2.0), visit=7)
    refs = as_refs([first, other], lsst_flow.sky_info(golden).bbox)
    stack = stack_of(refs)
    assert set(stack.schema) == {*golden.planes, "OTHER"} and stack.epochs == (100, 7)
    expected = goldens.translate(mask, gpucoadd.MaskSchema(shuffled), stack.schema.planes)
    assert_array_equal(stack.mask[1], expected)


def test_epochs_are_visits_or_positions():
    assert epoch_ids([SimpleNamespace(dataId={"visit": 4}), SimpleNamespace(dataId={"visit": 2})]) == [4, 2]
    for ids in ([{"visit": 4}, {"visit": 4}], [{"visit": 4}, None], [{"visit": 4}, {"detector": 2}]):
        assert epoch_ids([SimpleNamespace(dataId=data_id) for data_id in ids]) == [0, 1]


def test_fluxes_are_scaled(golden):
    task = lsst_flow.make_task(golden)
    sky, handles = lsst_flow.sky_info(golden), lsst_flow.make_handles(golden)
    factors = [None, 2.0, *[1.0] * 5]
    made = AssembleCoaddTask.run(task, sky, warpRefList=handles, imageScalerList=factors, weightList=[1.0] * 7)
    warps = goldens.warp_stack(golden).scaled([factor or 1.0 for factor in factors])
    plain = AssembleCoaddTask.run(task, sky, warpRefList=handles, imageScalerList=[None] * 7, weightList=[1.0] * 7)
    expected = gpucoadd.stack(
        warps.image,
        warps.variance,
        warps.mask,
        [1.0] * 7,
        statistic="MEAN",
        reject=["NO_DATA", "BAD", "SAT"],
        propagation={"SAT": 0.1},
        schema=warps.schema,
    )
    assert_array_equal(made.coaddExposure.image.array, expected.image)
    assert not np.array_equal(made.coaddExposure.image.array, plain.coaddExposure.image.array, equal_nan=True)
    factors[1] = np.float32(2.0)
    again = AssembleCoaddTask.run(task, sky, warpRefList=handles, imageScalerList=factors, weightList=[1.0] * 7)
    assert_array_equal(again.coaddExposure.image.array, made.coaddExposure.image.array)
    for bad in ("two", float("nan"), object()):
        with pytest.raises(TypeError, match="an image scaler must be None or a number"):
            AssembleCoaddTask.run(task, sky, warpRefList=handles[:1], imageScalerList=[bad], weightList=[1.0])


# ---------------------------------------------------------------------------------------------------- what is refused


def test_nothing_to_coadd(golden):
    task, sky = lsst_flow.make_task(golden), lsst_flow.sky_info(golden)
    empty = {"warpRefList": [], "imageScalerList": [], "weightList": []}
    with pytest.raises(NoWorkFound, match="there are no warps to coadd"):
        task.run(sky, **empty, supplementaryData=SimpleNamespace(warpRefList=[]))
    with pytest.raises(NoWorkFound, match="there are no warps to coadd"):
        AssembleCoaddTask.run(task, sky, **empty)
    assert task.prepareInputs([], sky.bbox).warpRefList == []


@pytest.mark.parametrize("unit", [None, "adu"])
def test_uncalibrated_warps(golden, unit):
    handles = lsst_flow.make_handles(golden)
    metadata = handles[2].exposure.getMetadata()
    metadata.pop("BUNIT")
    if unit:
        metadata["BUNIT"] = unit
    with pytest.raises(ValueError, match=rf"warp .*102.* must be in nJy \(BUNIT, or unit\), got {unit!r}"):
        lsst_flow.make_task(golden).prepareInputs(handles, lsst_flow.sky_info(golden).bbox)


def test_stages_without_what_they_do_not_need(golden, done):
    """Somebody who goes on from weights of his own: no unit, no WCS, PSFs that tell their width alone."""
    sky = SimpleNamespace(bbox=lsst_flow.sky_info(golden).bbox)
    handles, twins = lsst_flow.make_handles(golden), lsst_flow.make_handles(golden, matched=True)
    for handle in (*handles, *twins):
        handle.exposure.getMetadata().clear()
        psf = handle.exposure.getPsf()
        handle.exposure.setPsf(SimpleNamespace(computeShape=lambda sigma=psf._sigma: afwlike.Quadrupole(sigma)))
    kept = [handle for handle in handles if handle.dataId["visit"] - 100 in golden["out_used_epochs"]]
    supplementary = SimpleNamespace(
        templateCoadd=done.template_exposure, warpRefList=twins, imageScalerList=[None] * len(twins)
    )
    lists = {"warpRefList": kept, "imageScalerList": [None] * len(kept), "weightList": done.struct.weightList}
    made = done.task.run(sky, **lists, supplementaryData=supplementary).coaddExposure
    done.task.processResults(made)
    same(from_lsst(made), done)
    kept[0].exposure.getMetadata()["BUNIT"] = "adu"
    with pytest.raises(ValueError, match="must be in nJy"):
        done.task.run(sky, **lists, supplementaryData=supplementary)


def test_a_warp_that_does_not_cover_the_patch(golden):
    handles = lsst_flow.make_handles(golden)
    handles[1] = InMemoryDatasetHandle(handles[1].exposure.cut(afwlike.Box2I.of(*golden["in_xy0"].tolist(), 50, 50)))
    with pytest.raises(ValueError, match=r"^warp .*: the box .* must hold a pixel and be inside of .*; all warps must"):
        lsst_flow.make_task(golden).prepareInputs(handles, lsst_flow.sky_info(golden).bbox)


def test_weights_that_do_not_fit(golden):
    task, sky = lsst_flow.make_task(golden), lsst_flow.sky_info(golden)
    handles = lsst_flow.make_handles(golden)
    with pytest.raises(ValueError, match=r"2 weights are given but image has 7 epochs"):
        AssembleCoaddTask.run(task, sky, warpRefList=handles, imageScalerList=[None] * 7, weightList=[1.0, 2.0])


def test_twins_are_matched_by_data_id(golden):
    task = lsst_flow.make_task(golden)
    direct, twins = lsst_flow.make_handles(golden), lsst_flow.make_handles(golden, matched=True)
    prepared = task.prepareInputs(direct, lsst_flow.sky_info(golden).bbox, twins[::-1])
    visits = [None if ref is None else ref.dataId["visit"] for ref in prepared.psfMatchedWarpRefList]
    has = golden["in_has_matched"]
    assert visits == [100 + n if has[n] else None for n in golden["out_used_epochs"]]
    assert all(any(ref is handle for handle in direct) for ref in prepared.warpRefList)


def test_visits_are_chosen_in_their_order(golden):
    inputs = {
        "inputWarps": lsst_flow.make_handles(golden),
        "psfMatchedWarps": lsst_flow.make_handles(golden, matched=True),
    }
    task = lsst_flow.make_task(golden)
    task.filterWarps(inputs, None)
    assert len(inputs["inputWarps"]) == 7
    task.filterWarps(inputs, {105: 1.0, 999: 1.0, 101: 1.0})  # as the dict of LSST's selection
    assert [ref.dataId["visit"] for ref in inputs["inputWarps"]] == [105, 101]
    has = golden["in_has_matched"]
    assert [ref.dataId["visit"] for ref in inputs["psfMatchedWarps"]] == [v for v in (105, 101) if has[v - 100]]


def test_lists_that_do_not_fit(golden):
    task, sky = lsst_flow.make_task(golden), lsst_flow.sky_info(golden)
    lists = {"warpRefList": lsst_flow.make_handles(golden), "weightList": [1.0] * 7}
    for scalers in ([], [None], [1.0] * 9):
        with pytest.raises(ValueError, match=rf"imageScalerList has {len(scalers)} entries but there are 7 warps"):
            AssembleCoaddTask.run(task, sky, **lists, imageScalerList=scalers)
    for name in ("altMaskList", "mask"):
        with pytest.raises(TypeError, match=r"altMaskList and mask are made here; override findArtifacts"):
            task.run(sky, **lists, imageScalerList=[None] * 7, supplementaryData=None, **{name: [1]})
    with pytest.raises(TypeError, match="altMaskLst"):
        task.run(sky, **lists, imageScalerList=[None] * 7, supplementaryData=None, altMaskLst=[1])


@pytest.mark.parametrize("ids", [{}, {"visit": 7}], ids=["none", "the same"])
def test_warps_that_cannot_be_told_apart(golden, done, ids):
    """Else each would be compared with one and the same twin, or with none."""
    task, sky = done.task, lsst_flow.sky_info(golden)
    direct, twins = done.struct.warpRefList, lsst_flow.make_handles(golden, matched=True)
    lists = {"imageScalerList": [None] * len(direct), "weightList": done.struct.weightList}
    alike = [InMemoryDatasetHandle(handle.exposure, **ids) for handle in twins]
    with pytest.raises(ValueError, match="matched by their data ids, so each must have one of its own"):
        task.prepareInputs(direct, sky.bbox, alike)
    for refs, matched in ((direct, alike), ([InMemoryDatasetHandle(h.exposure, **ids) for h in direct], twins)):
        supplementary = SimpleNamespace(templateCoadd=done.template_exposure, warpRefList=matched)
        with pytest.raises(ValueError, match="matched by their data ids, so each must have one of its own"):
            task.run(sky, warpRefList=refs, **lists, supplementaryData=supplementary)


def test_data_ids_of_any_kind(golden, done):
    task, sky = done.task, lsst_flow.sky_info(golden)
    direct, twins = lsst_flow.make_handles(golden), lsst_flow.make_handles(golden, matched=True)
    for handle in (*direct, *twins):
        handle.dataId = handle.dataId["visit"]  # a number
    prepared = task.prepareInputs(direct, sky.bbox, twins)
    lists = {name: getattr(prepared, name) for name in ("warpRefList", "imageScalerList", "weightList")}
    supplementary = SimpleNamespace(templateCoadd=done.template_exposure, warpRefList=twins)
    made = task.run(sky, **lists, supplementaryData=supplementary).coaddExposure
    task.processResults(made)
    same(from_lsst(made), done)


@pytest.mark.parametrize("name", ["prefilterArtifacts", "filterArtifacts", "applyAltMaskPlanes", "setInexactPsf"])
def test_methods_that_would_be_overridden_in_vain(golden, name):
    kind = type("Mine", (CompareWarpAssembleCoaddTask,), {name: lambda self, *args: None})
    kind.__dict__[name].__module__ = "elsewhere"
    with pytest.raises(TypeError, match=rf"Mine overrides {name}, which is there to be called"):
        kind(config=lsst_flow.make_task(golden).config)


def test_an_empty_warp_needs_no_unit(golden):
    handles = lsst_flow.make_handles(golden)
    handles[3].exposure.image.array[...] = np.nan
    handles[3].exposure.getMetadata().pop("BUNIT")
    prepared = lsst_flow.make_task(golden).prepareInputs(handles, lsst_flow.sky_info(golden).bbox)
    assert [ref.dataId["visit"] for ref in prepared.warpRefList] == [100, 101, 102, 104, 105, 106]


def test_values_that_lsst_alone_obeys_are_warned_of(golden, caplog):
    lsst_flow.make_task(golden)
    assert "has no effect here" not in caplog.text
    lsst_flow.make_task(golden, **{"scaleWarpVariance.background.useApprox": True, "detect.doTempWideBackground": True})
    assert "scaleWarpVariance.background.useApprox=True is not what LSST has by default" in caplog.text
    assert "detect.doTempWideBackground=True" in caplog.text


# --------------------------------------------------------------------------------------------------- as the arrays


def flawed(golden, **planes):
    """The golden without the pixels of some epochs, NaN with EDGE: ``twin=2`` of a twin, ``direct=1`` of a warp."""
    arrays = {name: array.copy() for name, array in golden.arrays.items()}
    for kind, epochs in planes.items():
        prefix = "in_m_" if kind == "twin" else "in_"
        for epoch in np.atleast_1d(epochs):
            arrays[f"{prefix}image"][epoch] = np.nan
            arrays[f"{prefix}mask"][epoch] |= golden.schema.bitmask("EDGE", "NO_DATA")
    return golden._replace(arrays=arrays)


@pytest.mark.parametrize(
    "planes",
    [{"twin": 2}, {"direct": 1}, {"twin": [0, 1, 2], "direct": [3, 4, 5, 6]}, {"twin": 2, "direct": 2}],
    ids=["a twin without pixels", "a direct warp without pixels", "no epoch with both", "an epoch without pixels"],
)
def test_epochs_that_lack_one_of_the_two(golden, planes):
    golden = flawed(golden, **planes)
    result, coadd = lsst_flow.run_stages(golden), goldens.run(golden)
    same(result, coadd)
    assert_array_equal(result.n_image, coadd.n_image)
    assert list(result.epochs) == list(coadd.epochs)
    if planes == {"twin": 2}:
        position = list(coadd.epochs).index(2)
        assert coadd.no_data[position].all() and not coadd.edge[position].any()  # as an epoch without a twin


def test_the_base_task_clears_nothing(golden):
    planes = afwlike.Planes(golden.planes)
    sat, no_data = 1 << planes["SAT"], 1 << planes["NO_DATA"]
    table = {"NO_DATA": [PixelSet([(0, 0, 1)])]}
    ones = [np.ones((2, 3), np.float32)] * 2
    task = AssembleCoaddTask(config=AssembleCoaddTask.ConfigClass())
    mask = afwlike.Mask(np.full((2, 3), sat, np.int32), planes)
    task.applyAltMaskPlanes(mask, table)
    assert_array_equal(mask.array[0], [sat | no_data, sat | no_data, sat])
    exposures = [afwlike.Exposure.of(*ones, np.array([[bits, 0, 0], [0, 0, 0]], np.int32), planes) for bits in (sat, 0)]
    sky = SimpleNamespace(bbox=afwlike.Box2I.of(0, 0, 3, 2), wcs=None)
    lists = {"warpRefList": exposures, "imageScalerList": [None] * 2, "weightList": [1.0, 1.0]}
    made = from_lsst(task.run(sky, **lists, altMaskList=[table, table]).coaddExposure)
    assert made.mask[0, 0] == made.schema.bitmask("NO_DATA", "REJECTED", "INEXACT_PSF")
    assert made.mask[0, 1] == made.schema.bitmask("NO_DATA")


# ------------------------------------------------------------------------------------------------------ edits of masks


def test_alternative_planes_in_a_mask(golden):
    task = lsst_flow.make_task(golden)
    planes = afwlike.Planes(golden.planes)
    sat, no_data = 1 << planes["SAT"], 1 << planes["NO_DATA"]
    mask = afwlike.Mask(np.full((4, 6), sat, np.int32), planes, xy0=(10, 20))
    spans = {
        "GLINT": [PixelSet([(20, 10, 11)])],
        "NO_DATA": [PixelSet([(21, 10, 12), (22, 15, 30)])],
        "EDGE": [PixelSet()],
    }
    assert task.applyAltMaskPlanes(mask, spans) is mask
    expected = np.full((4, 6), sat)
    expected[0, :2] |= 1 << planes["GLINT"]
    expected[1, :3] = expected[2, 5] = no_data
    assert_array_equal(mask.array, expected)


def test_inexact_psf(golden):
    task = lsst_flow.make_task(golden)
    mask = afwlike.Mask(np.zeros((1, 5), np.int32), afwlike.Planes())
    bits = [1 << mask.addMaskPlane(name) for name in ("REJECTED", "CLIPPED", "SENSOR_EDGE")]
    mask.array[0] = [0, *bits, 1]
    task.setInexactPsf(mask)
    inexact = 1 << mask.getMaskPlaneDict()["INEXACT_PSF"]
    assert_array_equal(mask.array[0], [0, *(bit | inexact for bit in bits), 1])


class SkyWcs:
    """Of `lsst.afw.geom`: its header is in parent pixels."""

    def __init__(self, wcs, xy0):
        header = wcs.to_header()
        header["CRPIX1"] += xy0[0]
        header["CRPIX2"] += xy0[1]
        self._cards = dict(header)

    def getFitsMetadata(self):
        return self._cards


class Angle:
    def __init__(self, degrees):
        self._degrees = degrees

    def asDegrees(self):
        return self._degrees

    def asArcseconds(self):
        return self._degrees * 3600


def sky_of(shape, scale=0.2):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [30.0, 1.0], [-scale / 3600, scale / 3600]
    wcs.wcs.crpix = [shape[1] / 2, shape[0] / 2]
    return wcs


def test_bright_objects(golden, caplog):
    task = lsst_flow.make_task(golden, doMaskBrightObjects=True)
    exposure = lsst_flow.make_handles(golden)[0].exposure
    shape, xy0 = exposure.image.array.shape, tuple(golden["in_xy0"].tolist())
    wcs = sky_of(shape)
    exposure._wcs = SkyWcs(wcs, xy0)
    rows = [("circle", 30.0, 1.0, 3.0, 0.0, 0.0, 0.0), ("box", 30.001, 1.001, 0.0, 2.0, 4.0, 0.0)]
    names = ("type", "ra", "dec", "radius", "width", "height", "angle")
    expected, schema = gpucoadd.mask_bright_objects(
        exposure.mask.array, Table(rows=rows, names=names), wcs=wcs, schema=golden.schema, origin=xy0[::-1]
    )
    units_of = dict.fromkeys(("radius", "width", "height"), 3600)
    catalogue = [
        {name: value if name == "type" else Angle(value / units_of.get(name, 1)) for name, value in zip(names, row)}
        for row in rows
    ]
    plain = lsst_flow.make_task(golden, doMaskBrightObjects=True, doInterp=False)
    plain.processResults(exposure, catalogue)
    bits = {**golden.planes, **exposure.mask.getMaskPlaneDict()}
    assert_array_equal(exposure.mask.array, goldens.translate(expected, schema, bits))
    assert (exposure.mask.array >> bits["BRIGHT_OBJECT"] & 1).sum() > 400
    task.setBrightObjectMasks(exposure, None, "a patch")
    assert "no catalogue of bright objects for a patch" in caplog.text
    exposure._wcs = None
    with pytest.raises(TypeError, match="bright objects and input maps need a WCS of the patch"):
        task.setBrightObjectMasks(exposure, Table(rows=rows, names=names))


def test_post_processing_can_be_off(golden, done):
    task = lsst_flow.make_task(golden, doInterp=False)
    exposure = done.exposure.clone()
    before = exposure.image.array.copy(), exposure.variance.array.copy(), exposure.mask.array.copy()
    task.processResults(exposure)
    for part, plane in zip((exposure.image, exposure.variance, exposure.mask), before):
        assert_array_equal(part.array, plane)


def test_the_count_image_is_written(golden, tmp_path):
    folder = tmp_path / "new"
    result = lsst_flow.run_stages(golden, saveCountIm=True, figPath=str(folder))
    assert_array_equal(fits.getdata(folder / "epochCountIm.fits"), golden["out_epoch_count"])
    result.task._dataId = {"tract": 9, "patch": 4, "band": "r"}
    refs = lsst_flow.make_handles(golden, matched=True)
    result.task.findArtifacts(result.template_exposure, refs, [None] * len(refs))
    assert sorted(path.name for path in folder.iterdir()) == ["epochCountIm.fits", "epochCountIm_9_4_r.fits"]


# --------------------------------------------------------------------------------------------------------- input maps


class Ccd(dict):
    """A record of CoaddInputs."""

    def __init__(self, number, box, wcs, polygon=None):
        super().__init__(ccd=number)
        self._box, self._wcs, self._polygon = box, wcs, polygon

    def getBBox(self):
        return self._box

    def getWcs(self):
        return self

    def getValidPolygon(self):
        return self._polygon

    def pixelToSky(self, x, y):
        ra, dec = (float(value) for value in self._wcs.wcs_pix2world(x, y, 0))
        return SimpleNamespace(getRa=lambda: Angle(ra), getDec=lambda: Angle(dec))


def test_an_input_map(golden):
    pytest.importorskip("healsparse")
    task = lsst_flow.make_task(golden, doInputMap=True)
    shape = golden["in_image"].shape[1:]
    wcs = sky_of(shape, scale=2.0)
    corners = [(-0.5, -0.5), (60.0, -0.5), (60.0, 90.0), (-0.5, 90.0)]
    polygon = SimpleNamespace(getVertices=lambda: [afwlike.Point(*corner) for corner in corners])
    ccds = [Ccd(4, afwlike.Box2I.of(0, 0, 70, 100), wcs), Ccd(5, None, wcs, polygon)]
    handles = lsst_flow.make_handles(golden)
    sky = SimpleNamespace(bbox=lsst_flow.sky_info(golden).bbox, wcs=SkyWcs(wcs, golden["in_xy0"].tolist()))
    lists = {"warpRefList": handles, "imageScalerList": [None] * 7, "weightList": [1.0] * 7}
    with pytest.raises(ValueError, match=r"an input map \(doInputMap\) needs the detectors of warp .*100"):
        AssembleCoaddTask.run(task, sky, **lists)
    info = SimpleNamespace(getCoaddInputs=lambda: SimpleNamespace(ccds=ccds))

    class WithInfo(afwlike.Exposure):
        def getInfo(self):
            return info

    for handle in handles:
        handle.exposure.__class__ = WithInfo
    made = AssembleCoaddTask.run(task, sky, **lists).inputMap
    edges = [(-0.5, -0.5), (69.5, -0.5), (69.5, 99.5), (-0.5, 99.5)]
    rows = []
    for visit in range(100, 107):
        for number, outline in ((4, edges), (5, corners)):
            ra, dec = zip(*(wcs.wcs_pix2world([corner], 0)[0].tolist() for corner in outline))
            rows.append((visit, number, list(ra), list(dec)))
    warps = goldens.warp_stack(golden)
    warps = gpucoadd.WarpStack(
        warps.image,
        warps.variance,
        warps.mask,
        schema=warps.schema,
        psf_sigma=warps.psf_sigma,
        wcs=wcs,
        origin=warps.origin,
        epochs=range(100, 107),
    )
    config = gpucoadd.AssemblyConfig(
        statistic="MEAN", reject=("NO_DATA", "BAD", "SAT"), remove=("NOT_DEBLENDED", "EDGE")
    )
    table = Table(rows=rows, names=("epoch", "detector", "ra", "dec"))
    expected = gpucoadd.assemble(warps, config=config, detectors=table).input_map
    assert len(made.valid_pixels) > 100
    assert_array_equal(made.valid_pixels, expected.valid_pixels)
    assert_array_equal(made[made.valid_pixels], expected[expected.valid_pixels])


# ------------------------------------------------------------------------------------------------------------- device


def test_on_a_device(golden, done, device):
    result = lsst_flow.run_stages(golden, device="cuda")
    same(result, done)
    assert_array_equal(result.n_image, done.n_image)
    assert isinstance(result.exposure.image.array, np.ndarray)
    tables = [dict(table) for table in result.struct.altMaskList]
    lists = {name: getattr(result.struct, name) for name in ("warpRefList", "imageScalerList", "weightList")}
    mask = ["NO_DATA", "BAD", "SAT", "CLIPPED"]
    again = AssembleCoaddTask.run(result.task, lsst_flow.sky_info(golden), **lists, altMaskList=tables, mask=mask)
    result.task.applyAltEdgeMask(again.coaddExposure.mask, tables)
    result.task.processResults(again.coaddExposure)
    same(from_lsst(again.coaddExposure), done)


def test_the_template_is_made_where_the_coadd_is(golden):
    task = lsst_flow.make_task(golden, device="cpu", memory=10**9, threads=3)
    assert task.assembleStaticSkyModel._machine == {"memory": 10**9, "threads": 3} == task._machine
    assert task.assembleStaticSkyModel._computing.device == "cpu"
