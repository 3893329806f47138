"""Files to a device: the same bits as on the host, whatever the layout; buffers and memory used when they are free."""

from __future__ import annotations

import gc
import logging
import threading
import time

import goldens
import hostcuda
import numpy as np
import pytest
import standin
import test_fits
from astropy.io import fits
from numpy.testing import assert_array_equal
from test_fits import write_afw

import gpucoadd
from gpucoadd import backend, upload
from gpucoadd.fits import read_difference, read_image, read_warps
from gpucoadd.reading import read_epochs, read_groups
from gpucoadd.sources import FitsSource

pytestmark = pytest.mark.skipif(not hostcuda.available(), reason=hostcuda.REASON)

WHOLE = slice(0, 40)
PLANES = ("image", "variance", "mask")


@pytest.fixture
def cupy(monkeypatch):
    """The stand-in with two devices, and small pinned buffers."""
    monkeypatch.setattr(upload, "_STAGING_BYTES", 1000)  # some eight rows of float32
    with standin.installed(devices=2) as module:
        yield module


def same_bits(device, host):
    for name, ours, theirs in zip(PLANES, device, host, strict=True):
        assert isinstance(ours, standin.ndarray), name
        got = ours.get()
        assert got.dtype == theirs.dtype and got.shape == theirs.shape, name
        assert got.tobytes() == theirs.tobytes(), name


def afw_folder(tmp_path, n_epochs=5, **options):
    for epoch in range(n_epochs):
        write_afw(tmp_path / f"{epoch}.fits", seed=epoch, **options)
    return tmp_path


# ------------------------------------------------------------------------------------------------ every layout

LAYOUTS = {
    "afw": (test_fits.test_afw_is_taken_as_it_is, None),
    "afw GZIP_2": (test_fits.test_afw_is_taken_as_it_is, "GZIP_2"),
    "afw NaN": (test_fits.test_afw_keeps_nan_and_mask_as_they_are,),
    "afw without names": (test_fits.test_afw_without_plane_names_has_lsst_planes,),
    "afw without EXTNAME": (test_fits.test_exttype_names_an_hdu_without_extname,),
    "lsst.images": (test_fits.test_lsst_images,),
    "JWST": (test_fits.test_jwst,),
    "HST": (test_fits.test_hst_any_bit_is_bad, "HST"),
    "no DQ": (test_fits.test_sci_and_err_without_dq,),
    "weight inside": (test_fits.test_image_and_weight, "WHT"),
    "weight beside": (test_fits.test_image_and_weight, ".weight.fits"),
    "scaled integers": (test_fits.test_scaled_integers,),
    "CCDData": (test_fits.test_ccddata,),
    "gzip": (test_fits.test_whole_file_gzip,),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_as_on_the_host(cupy, tmp_path, layout):
    """The files are those that the tests of the reader write."""
    write, *args = LAYOUTS[layout]
    write(tmp_path, *args)
    for path in sorted(path for path in tmp_path.iterdir() if "weight" not in path.name):
        host, device = read_image(path, device="cpu"), read_image(path, device="cuda:1")
        same_bits([getattr(device, name) for name in PLANES], [getattr(host, name) for name in PLANES])
        assert device.image.device.id == device.mask.device.id == 1
        assert device.schema == host.schema


@pytest.mark.parametrize("rows", [slice(0, 40), slice(3, 4), slice(7, 33), slice(None), slice(35, 99), slice(5, 5)])
@pytest.mark.parametrize("compression", [None, "RICE_1"])
def test_bands(cupy, tmp_path, compression, rows):
    afw_folder(tmp_path, 1, compression=compression)
    on_host, on_device = (read_warps(tmp_path, device=device).source for device in ("cpu", "cuda"))
    same_bits(on_device.read(0, rows), on_host.read(0, rows))


def test_plain_files_are_not_decoded(cupy, tmp_path, monkeypatch):
    monkeypatch.delattr(FitsSource, "read")
    path = write_afw(tmp_path / "a.fits", seed=3)
    image = read_image(path, device="cuda")
    same_bits([image.image, image.variance, image.mask], test_fits.planes(3))


def test_scaled_and_blank_planes_are_decoded(cupy, tmp_path):
    """astropy alone knows what such cards do to the numbers."""
    for number, (name, cards) in enumerate(
        [("IMAGE", {"BSCALE": 2.0}), ("VARIANCE", {"BZERO": 3.0}), ("MASK", {"BSCALE": 1, "BZERO": 0})]
    ):
        path = tmp_path / f"{number}.fits"
        write_afw(path, seed=5)
        with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
            hdus[name].header.update(cards)
        host, device = read_image(path, device="cpu"), read_image(path, device="cuda")
        same_bits([getattr(device, name) for name in PLANES], [getattr(host, name) for name in PLANES])
        assert_array_equal(host.image, test_fits.planes(5)[0] * (2 if name == "IMAGE" else 1))


def special_floats():
    """NaN with payloads, quiet and signalling, infinities, both zeros, subnormal numbers."""
    bits = [0x7FC00001, 0x7F800001, 0xFFC12345, 0x7F800000, 0xFF800000, 0, 0x80000000, 1, 0x807FFFFF, 0x00010203]
    return np.array(bits, np.uint32).view(np.float32)


def test_every_bit_of_a_float_is_kept(cupy, tmp_path):
    hdus = test_fits.afw_hdus()
    hdus["IMAGE"].data[0, :10] = hdus["VARIANCE"].data[-1, -10:] = special_floats()
    hdus.writeto(tmp_path / "a.fits")
    device = read_image(tmp_path / "a.fits", device="cuda")
    assert device.image.get()[0, :10].tobytes() == special_floats().tobytes()
    assert device.variance.get()[-1, -10:].tobytes() == special_floats().tobytes()


def test_differences_without_noise(cupy, tmp_path):
    fits.PrimaryHDU(test_fits.planes(2)[0]).writeto(tmp_path / "d.fits")
    device = read_difference(tmp_path / "d.fits", device="cuda:1")
    assert_array_equal(device.image.get(), test_fits.planes(2)[0])
    assert np.isnan(device.variance.get()).all() and device.variance.device.id == 1


# ------------------------------------------------------------------------------------------------ masks


@pytest.mark.parametrize("compression", [None, "GZIP_2"])
@pytest.mark.parametrize(("bit", "narrow"), [(0, True), (14, True), (15, True), (16, False), (30, False)])
def test_masks_are_narrow_where_they_fit(cupy, tmp_path, bit, narrow, compression):
    path = write_afw(tmp_path / "a.fits", names={"NO_DATA": 3, "ODD": bit}, compression=compression)
    widened = []
    kernels = backend.twin(cupy.zeros(1))  # imports the kernels of this stand-in
    bytes_ = __import__(f"{kernels.__name__}.bytes", fromlist=["bytes"])
    widen = bytes_.widen_mask
    bytes_.widen_mask = lambda mask, out: widened.append(mask.dtype) or widen(mask, out=out)
    device = read_image(path, device="cuda")
    assert_array_equal(device.mask.get(), read_image(path, device="cpu").mask)
    assert int((device.mask >> bit & 1).sum()) > 0
    assert widened == ([np.dtype("uint16")] if narrow else [])


def test_masks_that_are_moved_to_other_bits(cupy, tmp_path):
    """The second file numbers its planes otherwise, so its mask is decoded, and its image with it."""
    write_afw(tmp_path / "a.fits", seed=1, names={"BAD": 0, "NO_DATA": 1})
    write_afw(tmp_path / "b.fits", seed=2, names={"BAD": 1, "NO_DATA": 0})
    on_host, on_device = (read_warps(tmp_path, device=device) for device in ("cpu", "cuda"))
    same_bits([getattr(on_device, name) for name in PLANES], [getattr(on_host, name) for name in PLANES])


def test_mask_bits_without_a_name(cupy, tmp_path):
    hdus = test_fits.afw_hdus()
    hdus["MASK"].data[3, 3] = (1 << 20) - (1 << 31)
    hdus.writeto(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=r"a\.fits: mask bits 20, 31 are set but have no name"):
        read_image(tmp_path / "a.fits", device="cuda")


# ------------------------------------------------------------------------------------------------ reading ahead


def all_groups(n_epochs):
    return [([0], WHOLE), (list(range(1, n_epochs)), WHOLE), ([n_epochs - 1, 0], slice(3, 30)), ([2], slice(0, 1))]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ahead", [1, 4])
def test_groups(cupy, tmp_path, threads, ahead):
    afw_folder(tmp_path)
    on_host, on_device = (read_warps(tmp_path, device=device) for device in ("cpu", "cuda:1"))
    groups = all_groups(5)
    expected = list(read_groups(on_host, groups))
    got = list(read_groups(on_device, groups, threads=threads, ahead=ahead))
    assert len(got) == len(groups)
    for (epochs, rows), ours, theirs in zip(groups, got, expected, strict=True):
        same_bits(ours, theirs)
        assert theirs[0].shape == (len(epochs), rows.stop - rows.start, 30)
        same_bits(read_epochs(on_device, epochs, rows, threads=threads), theirs)
    assert got[0][0].device.id == 1
    assert backend.device_of(cupy.zeros(1)) == 0, "the caller's device has changed"


def test_views_of_arrays():
    planes = np.arange(120, dtype=np.float32).reshape(5, 4, 6)
    mask = planes.astype(np.int32)
    warps = gpucoadd.WarpStack(planes, planes + 1, mask, schema=gpucoadd.MaskSchema.lsst(), psf_sigma=[1] * 5)
    for epochs, rows in ([1, 2, 3], slice(1, 3)), ([4], slice(0, 4)), (range(5), slice(0, 2)):
        image, variance, bits = read_epochs(warps, epochs, rows)
        assert np.shares_memory(image, planes) and np.shares_memory(bits, mask)
        assert_array_equal(variance, planes[list(epochs), rows] + 1)
    image, _, bits = read_epochs(warps, [0, 2, 3], slice(1, 4))
    assert_array_equal(image, planes[[0, 2, 3], 1:4])
    assert_array_equal(bits, mask[[0, 2, 3], 1:4])


def test_the_next_group_is_under_way_before_it_is_asked_for(cupy, tmp_path, monkeypatch):
    afw_folder(tmp_path)
    warps = read_warps(tmp_path, device="cuda")
    started = [threading.Event() for _ in range(5)]
    raw = FitsSource.raw

    def told(self, epoch, rows):
        started[epoch].set()
        return raw(self, epoch, rows)

    monkeypatch.setattr(FitsSource, "raw", told)
    groups = read_groups(warps, [([epoch], WHOLE) for epoch in range(5)], threads=1, ahead=1)
    next(groups)
    assert started[1].wait(10)
    time.sleep(0.05)
    assert not started[2].is_set(), "more is under way than there is memory for"
    groups.close()


def test_no_thread_outlives_its_groups(cupy, tmp_path):
    afw_folder(tmp_path)
    warps = read_warps(tmp_path, device="cuda")
    before = set(threading.enumerate())
    groups = read_groups(warps, [([epoch], WHOLE) for epoch in range(5)], threads=3, ahead=3)
    next(groups)
    groups.close()
    list(read_groups(warps, [([1, 2], WHOLE)], threads=3))
    assert set(threading.enumerate()) - before <= {t for t in threading.enumerate() if t.daemon}


def test_damaged_files_are_named(cupy, tmp_path):
    afw_folder(tmp_path, 4)
    warps = read_warps(tmp_path, device="cuda")
    warps.source.close()
    path = tmp_path / "2.fits"
    path.write_bytes(path.read_bytes()[:-8000])
    with pytest.raises(ValueError, match=r"2\.fits is truncated"):
        list(read_groups(warps, [([epoch], WHOLE) for epoch in range(4)], threads=2, ahead=2))


def test_file_that_shrinks_while_it_is_open(cupy, tmp_path):
    path = write_afw(tmp_path / "a.fits")
    warps = read_warps(path, device="cuda")
    size = path.stat().st_size
    with open(path, "r+b") as stream:
        stream.truncate(size - 8000)
    with pytest.raises(ValueError, match=r"a\.fits: the pixels of (VARIANCE|MASK) cannot be decoded \(the file ends"):
        warps.source.read(0, WHOLE)


def test_file_replaced_by_another_size(cupy, tmp_path):
    source = read_warps(write_afw(tmp_path / "a.fits"), device="cuda").source
    source.close()
    write_afw(tmp_path / "b.fits", shape=(40, 31)).replace(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=r"a\.fits: rows have shape \(40, 31\): the file has changed"):
        source.read(0, WHOLE)


def test_seconds_of_reading_are_told(cupy, tmp_path):
    source = read_warps(write_afw(tmp_path / "a.fits"), device="cuda").source
    before = source.seconds_reading
    source.read(0, WHOLE)
    assert source.seconds_reading > before
    with pytest.raises(ValueError, match="slice of step 1"):
        source.read(0, slice(0, 10, 2))


# ------------------------------------------------------------------------------------------------ buffers and streams


def test_buffers_are_used_again_when_their_copy_has_ended(cupy, tmp_path, monkeypatch):
    """Each time a buffer is filled, no copy from it is outstanding; few buffers serve many pieces."""
    filled = []
    raw_fill = upload.Uploader.send

    def send(self, fill, target):
        def checked(start, part):
            waiting = [pinned for copy in list(self.stream._waiting) for pinned in arrays_of(copy)]
            assert not any(np.may_share_memory(part, pinned) for pinned in waiting)
            filled.append(part.__array_interface__["data"][0])
            fill(start, part)

        raw_fill(self, checked, target)

    monkeypatch.setattr(upload.Uploader, "send", send)
    warps = read_warps(afw_folder(tmp_path), device="cuda")
    list(read_groups(warps, [(range(5), WHOLE)], threads=2))
    assert len(filled) > 40
    assert len(set(filled)) <= 2 + upload._SPARE


def arrays_of(copy):
    """Host arrays in a copy that the stand-in has put off."""
    return [cell.cell_contents for cell in copy.__closure__ if isinstance(cell.cell_contents, np.ndarray)]


def test_pinned_memory_is_what_was_asked_for(cupy):
    plane = upload.pinned((3, 5), np.int32)
    assert plane.shape == (3, 5) and plane.dtype == np.int32 and plane.flags.writeable
    assert upload.pinned(7, np.float32).shape == (7,)


def test_reading_does_not_wait_for_the_device(cupy, tmp_path):
    source = read_warps(write_afw(tmp_path / "a.fits"), device="cuda").source
    source.read(0, WHOLE)
    assert standin.host_reads == 0 and standin.hidden_waits == 0


def test_work_waits_for_the_copy(cupy, tmp_path, monkeypatch):
    """Without the wait the planes would hold what was in the memory before: the stand-in copies as late as it may."""
    source = read_warps(write_afw(tmp_path / "a.fits"), device="cuda").source
    monkeypatch.setattr(standin._Stream, "wait_event", lambda self, event: None)
    with pytest.raises(AssertionError):
        same_bits(source.read(0, slice(0, 5)), [plane[:5] for plane in test_fits.planes(0)])


def test_copies_wait_for_earlier_work_on_their_memory(cupy, tmp_path, monkeypatch):
    """What the caller asked for before it started the transfer may still use the memory that it is given."""
    source = read_warps(write_afw(tmp_path / "a.fits"), device="cuda").source
    waits = []
    wait_event = standin._Stream.wait_event
    monkeypatch.setattr(
        standin._Stream,
        "wait_event",
        lambda self, event: waits.append((self, event._stream)) or wait_event(self, event),
    )
    source.read(0, WHOLE)
    copying = source._uploader.stream
    assert copying.non_blocking
    assert waits == [(copying, standin._Stream.null), (standin._Stream.null, copying)]


def test_planes_are_on_the_callers_stream(cupy, tmp_path, monkeypatch):
    warps = read_warps(afw_folder(tmp_path, 2), device="cuda")
    waiting = []
    wait_event = standin._Stream.wait_event
    monkeypatch.setattr(
        standin._Stream, "wait_event", lambda self, event: waiting.append(self) or wait_event(self, event)
    )
    with cupy.cuda.Stream(non_blocking=True) as mine:
        list(read_groups(warps, [([0], WHOLE), ([1], WHOLE)], threads=1))
    assert waiting.count(mine) == 2 and standin._Stream.null not in waiting


def test_nothing_is_copied_to_memory_given_up(cupy, tmp_path):
    warps = read_warps(afw_folder(tmp_path), device="cuda")
    groups = read_groups(warps, [([epoch], WHOLE) for epoch in range(5)], threads=2, ahead=3)
    next(groups)
    groups.close()
    assert warps.source._uploader.stream.done


def test_groups_that_do_not_fit_leave_nothing_behind(cupy, tmp_path):
    warps = read_warps(afw_folder(tmp_path), device="cuda")
    cupy.get_default_memory_pool().set_limit(10_000)  # an epoch's float32 is 4800 bytes
    groups = read_groups(warps, [([0], WHOLE), ([1], WHOLE), ([2, 3, 4], WHOLE)], threads=1, ahead=1)
    next(groups)
    with pytest.raises(backend.out_of_memory()):
        list(groups)
    assert warps.source._uploader.stream.done


# ------------------------------------------------------------------------------------------------ end to end


@pytest.mark.parametrize("compression", [None, "GZIP_2"])
def test_coadd_from_files_on_the_second_device(cupy, tmp_path, compression, caplog):
    rng = np.random.default_rng(8)
    for epoch in range(5):
        hdus = test_fits.afw_hdus(epoch, compression=compression)
        image = rng.normal(0.0, 1.5, test_fits.SHAPE).astype(np.float32)
        image[10 + epoch, 5:20] += 300.0 * (epoch == 2)
        hdus["IMAGE"].data = image
        hdus[0].header["PSFSIGMA"] = 1.5
        hdus.writeto(tmp_path / f"{epoch}.fits")
    results = []
    for device in ("cpu", "cuda:1"):
        warps = read_warps(tmp_path, psf_matched=tmp_path, device=device)
        results.append(gpucoadd.coadd(warps, threads=2))
    host, device = results
    assert host.clipped.any()
    for name in ("image", "variance", "mask", "n_image", "epoch_count"):
        plane = getattr(device, name)
        assert plane.device.id == 1, name
        if name in ("image", "variance"):
            # the same float64 sums in another order, rounded to float32
            np.testing.assert_allclose(plane.get(), getattr(host, name), rtol=1e-6, atol=1e-6, err_msg=name)
        else:
            assert_array_equal(plane.get(), getattr(host, name), err_msg=name)
    assert_array_equal(backend.to_host(device.clipped), host.clipped)
    assert backend.device_of(cupy.zeros(1)) == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_stack_in_host_memory_goes_to_a_device():
    golden = goldens.load(goldens.DATA / "few_epochs_3.npz")
    warps = goldens.warp_stack(golden)
    on_host = gpucoadd.coadd(warps)
    assert warps.to_device("cpu") is warps
    with standin.installed(devices=2) as cupy:
        there = warps.to_device("cuda:1")
        assert there.to_device("cuda:1") is there and there.psf_matched is not None
        with pytest.raises(ValueError, match="the warps are on cuda:1 and cannot go to cuda:0"):
            there.to_device("cuda:0")
        with pytest.raises(ValueError, match="the warps are on cuda:1 and cannot go to cpu"):
            there.to_device("cpu")
        found = gpucoadd.coadd(there)
        assert isinstance(found.image, cupy.ndarray) and found.image.device.id == 1
        for name in ("mask", "n_image", "clipped", "epoch_count"):
            assert_array_equal(getattr(found, name).get(), getattr(on_host, name))
        assert_array_equal(there.source.read(1, slice(3, 9))[0].get(), warps.image[1, 3:9])
        with pytest.raises(ValueError, match="rows must be a slice of step 1"):
            there.source.read(0, slice(0, 4, 2))


def test_pinned_memory_waits_for_its_copies(cupy):
    """It may have another owner as soon as nobody holds it."""
    uploader = upload.Uploader(0)
    target = cupy.empty(600, dtype=cupy.float32)
    uploader.send(lambda start, part: part.fill(start), target)
    stream = uploader.stream
    assert not stream.done
    del uploader
    gc.collect()
    assert stream.done
