"""The memory bound, what stays on a device, and what happens when it is full."""

from __future__ import annotations

import logging
import threading
import weakref
from pathlib import Path

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal
from scenes import flat_stack
from test_fits import SHAPE, write_afw

import gpucoadd
from gpucoadd import backend, memory, residence
from gpucoadd.fits import read_warps
from gpucoadd.images import ArraySource
from gpucoadd.reading import read_epochs, read_groups
from gpucoadd.sources import FitsSource
from gpucoadd.upload import Transfer
from gpucoadd.workers import Work

PLANES = ("image", "variance", "mask")
EPOCH = 12 * SHAPE[0] * SHAPE[1]  # bytes of its planes


@pytest.fixture
def cupy(monkeypatch):
    with standin.installed(devices=2) as module:
        yield module


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ------------------------------------------------------------------------------------------------ a device that is full


class Device:
    """Work that fits in pieces of up to `most`; keeps what it was asked for."""

    def __init__(self, most):
        self.most, self.asked, self.done, self.held = most, [], [], []

    def run(self, pieces):
        self.asked.append(list(pieces))
        for piece in pieces:
            yield self.one(piece)

    def one(self, piece):
        array = standin.ndarray((1,))
        self.held.append(weakref.ref(array._host))
        if piece.stop - piece.start > self.most:
            raise backend.out_of_memory()[0]("Out of memory allocating 1 byte")
        self.done.append((piece.start, piece.stop))
        return piece.start


@pytest.fixture
def frees(cupy, monkeypatch):
    """How many arrays were alive whenever CuPy's memory was freed."""
    alive = []
    monkeypatch.setattr(memory, "free_memory", lambda: alive.append(sum(ref() is not None for ref in device.held)))
    device = Device(3)
    return device, alive


def test_pieces_are_halved_and_none_is_done_twice(frees, caplog):
    device, alive = frees
    results = list(memory.in_pieces(device.run, 20, 16, what="rows"))
    pieces = [(start, min(start + 2, 20)) for start in range(0, 20, 2)]
    assert device.done == pieces
    assert [(piece.start, piece.stop) for piece, _ in results] == pieces
    assert [result for _, result in results] == [start for start, _ in pieces]
    assert [len(asked) for asked in device.asked] == [2, 3, 5, 10]
    assert alive == [0, 0, 0], "memory was freed while the work that failed still held its arrays"
    assert warnings_in(caplog) == [
        f"the device is out of memory with {size} rows at a time; going on with {size // 2}" for size in (16, 8, 4)
    ]


def test_pieces_that_were_done_stay_done(frees, caplog):
    device, _ = frees
    results = []
    for piece, _ in memory.in_pieces(device.run, 11, 3, what="epochs"):
        results.append((piece.start, piece.stop))
        if piece.stop == 6:
            device.most = 2
    assert results == device.done == [(0, 3), (3, 6), (6, 7), (7, 8), (8, 9), (9, 10), (10, 11)]
    assert warnings_in(caplog) == ["the device is out of memory with 3 epochs at a time; going on with 1"]


def test_a_last_piece_that_is_short_is_halved_itself(frees, caplog):
    device, _ = frees
    device.most = 4
    pieces = memory.in_pieces(device.run, 7, 4, what="rows")
    next(pieces)
    device.most = 2
    assert [(piece.start, piece.stop) for piece, _ in pieces] == [(4, 5), (5, 6), (6, 7)]
    assert warnings_in(caplog) == ["the device is out of memory with 3 rows at a time; going on with 1"]


def test_nothing_fits(frees):
    device, _ = frees
    device.most = 0
    with pytest.raises(MemoryError, match="out of memory even with 1 of the rows at a time; end other programs"):
        list(memory.in_pieces(device.run, 8, 4, what="rows"))
    with pytest.raises(MemoryError, match="out of memory even with 1 of the epochs at a time"):
        memory.at_most(lambda n: device.one(slice(0, n)), 4, what="epochs")


def test_other_errors_pass(frees):
    _, alive = frees

    def run(pieces):
        raise MemoryError("the host is out of memory")
        yield

    with pytest.raises(MemoryError, match="the host is out of memory"):
        list(memory.in_pieces(run, 8, 4, what="rows"))
    assert alive == []


def test_results_are_not_kept(frees):
    made = []

    def run(pieces):
        for _ in pieces:
            assert all(ref() is None for ref in made), "the result before is still there"
            array = np.zeros(3)
            made.append(weakref.ref(array))
            yield array
            del array

    for _, result in memory.in_pieces(run, 8, 2, what="rows"):
        del result
    assert len(made) == 4


def test_pieces_without_a_device():
    work = lambda pieces: (piece.stop for piece in pieces)  # noqa: E731
    assert [result for _, result in memory.in_pieces(work, 5, 2, what="rows")] == [2, 4, 5]
    assert list(memory.in_pieces(work, 0, 2, what="rows")) == []


def test_at_most(frees, caplog):
    device, alive = frees
    device.most = 5
    assert memory.at_most(lambda n: device.one(slice(7, 7 + n)), 23, what="epochs") == 7
    assert device.done == [(7, 12)] and alive == [0, 0]
    assert len(warnings_in(caplog)) == 2


def test_groups_read_ahead_are_halved(cupy, tmp_path, caplog):
    """As the steps do it: files, read ahead, work, and a device that is too small for the first groups."""
    for epoch in range(7):
        write_afw(tmp_path / f"{epoch}.fits", seed=epoch)
    host, warps = read_warps(tmp_path, device="cpu"), read_warps(tmp_path, device="cuda")
    cupy.get_default_memory_pool().set_limit(2 * EPOCH // 3)  # two epochs of one plane
    rows = slice(0, SHAPE[0])

    def run(pieces):
        groups = [(range(piece.start, piece.stop), rows) for piece in pieces]
        for image, _, mask in read_groups(warps, groups, threads=2):
            yield image.sum(axis=(1, 2)).get(), mask.get()

    means, masks = [], []
    for _, (mean, mask) in memory.in_pieces(run, 7, 7, what="epochs"):
        means.append(mean)
        masks.append(mask)
    assert [len(mean) for mean in means] == [1] * 7
    assert_array_equal(np.concatenate(means), host.image.sum(axis=(1, 2)))
    assert_array_equal(np.concatenate(masks), host.mask)
    assert len(warnings_in(caplog)) == 2  # 7 to 3, 3 to 1


# ------------------------------------------------------------------------------------------------ how much at once


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="the system does not tell how much memory is free")
def test_room_on_the_host():
    assert 0 < memory.room(np) < 1 << 50


def test_room_where_nobody_tells(monkeypatch):
    def refused(*args, **options):
        raise FileNotFoundError

    monkeypatch.setattr(memory, "open", refused, raising=False)
    assert memory.room(np) == 1 << 62


def test_room_on_a_device(cupy, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: {0: 1000, 1: 5000}[device])
    with backend.using(1):
        assert memory.room(cupy) == 5000
    assert memory.room(cupy) == 1000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((30, 100, 12, 12_000), 10),
        ((30, 100, 12, 11_999), 9),
        ((5, 100, 12, 12_000), 5),
        ((30, 100, 12, 1), 1),
        ((30, 100, 0.5, 1000), 20),
        ((1000, 4200 * 4200, 1, 1 << 50), 121),  # 2**31 - 1 samples
        ((3, 1 << 32, 1, 1 << 50), 1),
    ],
)
def test_group_size(arguments, expected):
    n_items, samples, bytes_per_sample, bound = arguments
    assert memory.group_size(n_items, samples, bytes_per_sample=bytes_per_sample, memory=bound) == expected


def test_bound_of_the_host():
    warps = flat_stack(2)
    assert memory.stack_device(warps) is None
    assert memory.memory_bound(12345, warps) == 12345
    assert memory.memory_bound(None, warps) > 1 << 20
    with pytest.raises(ValueError, match="memory must be a positive number of bytes, got 0"):
        memory.memory_bound(0, warps)


def test_bound_of_a_device(cupy, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: {0: 1000, 1: 5000}[device])
    with backend.using(1):
        in_memory = flat_stack(2, xp=cupy)
    files = read_warps(write_afw(tmp_path / "a.fits"), device="cuda")
    assert (memory.stack_device(in_memory), memory.stack_device(files)) == (1, 0)
    assert (memory.memory_bound(None, in_memory), memory.memory_bound(None, files)) == (4000, 800)
    assert memory.memory_bound(77, files) == 77


# ------------------------------------------------------------------------------------------------ what stays


def write_stack(folder, n_epochs):
    folder.mkdir()
    for epoch in range(n_epochs):
        write_afw(folder / f"{epoch}.fits", seed=100 * n_epochs + epoch)
    return folder


def bound_for(n_epochs, n_kept):
    """The bound under which so many epochs stay: 14 bytes a sample while they arrive."""
    least = int(SHAPE[0] * SHAPE[1] * (150 + 0.83 * n_epochs))
    return least + 2 * 14 * SHAPE[0] * SHAPE[1] * n_kept


def counted(monkeypatch):
    """Epochs that are read from files, in order of name."""
    reads = []
    raw = FitsSource.raw
    monkeypatch.setattr(FitsSource, "raw", lambda self, epoch, rows: reads.append(epoch) or raw(self, epoch, rows))
    return reads


def test_a_stack_that_fits_is_read_once(cupy, tmp_path, monkeypatch, caplog):
    reads = counted(monkeypatch)
    warps = read_warps(write_stack(tmp_path / "a", 5), psf_matched=write_stack(tmp_path / "b", 4), device="cuda:1")
    told = []
    work = Work(bound_for(5, 9), 2, lambda *step: told.append(step))
    with residence.bounded(warps, work) as (direct, matched, _):
        for kept, stack in (matched, warps.psf_matched), (direct, warps):
            assert isinstance(kept.source, ArraySource) and memory.stack_device(kept) == 1
            assert kept.epochs == stack.epochs and kept.inputs == stack.inputs
            image, _, _ = read_epochs(kept, [1, 2], slice(3, 9))
            assert np.shares_memory(image._host, kept.image._host)
    assert told == [("reading", i, 4) for i in range(1, 5)] + [("reading", i, 5) for i in range(1, 6)]
    assert sorted(reads) == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    for name in PLANES:
        host = read_warps(tmp_path / "a", psf_matched=tmp_path / "b", device="cpu")
        assert_array_equal(getattr(direct, name).get(), getattr(host, name))
        assert_array_equal(getattr(matched, name).get(), getattr(host.psf_matched, name))
    assert warnings_in(caplog) == []


@pytest.mark.parametrize(
    "epochs", [[0, 1], [1], [0, 2], [3, 4], [4, 2], [1, 2, 3], [0, 1, 2, 3, 4], [4, 0, 3, 1], [2, 0]]
)
def test_what_does_not_fit_is_read_again(cupy, tmp_path, monkeypatch, epochs):
    folder = write_stack(tmp_path / "a", 5)
    warps, host = (read_warps(folder, device=device) for device in ("cuda", "cpu"))
    reads = counted(monkeypatch)
    with residence.bounded(warps, Work(bound_for(5, 2), 2)) as (kept, matched, _):
        kept.source.read(0, slice(0, 1))
        assert matched is kept and sorted(reads) == [0, 1]
        reads.clear()
        for rows in slice(0, 40), slice(7, 20):
            groups = list(read_groups(kept, [(epochs, rows), (epochs[:1], rows)], threads=2))
            for got, wanted in zip(groups, (epochs, epochs[:1]), strict=True):
                for ours, theirs in zip(got, read_epochs(host, wanted, rows), strict=True):
                    assert_array_equal(ours.get(), theirs)
        assert 0 not in reads and 1 not in reads
        for ours, theirs in zip(kept.source.read(epochs[0], slice(2, 5)), host.source.read(epochs[0], slice(2, 5))):
            assert_array_equal(ours.get(), theirs)


def test_nothing_stays_under_the_least_bound(cupy, tmp_path, caplog):
    warps = read_warps(write_stack(tmp_path / "a", 3), device="cuda")
    with residence.bounded(warps, Work(1, 1)) as (kept, _, work):
        assert not kept.source.in_memory and work.memory > 1
    assert len(warnings_in(caplog)) == 1 and "memory bound of 1 bytes is less than the" in warnings_in(caplog)[0]


def test_fewer_stay_on_a_device_that_is_full(cupy, tmp_path, caplog):
    """The bound allows all six, the device only two at a time in one array."""
    folder = write_stack(tmp_path / "a", 6)
    warps, host = (read_warps(folder, device=device) for device in ("cuda", "cpu"))
    cupy.get_default_memory_pool().set_limit(2 * EPOCH // 3)
    with residence.bounded(warps, Work(bound_for(6, 6), 1)) as (kept, _, _):
        assert warnings_in(caplog) == [
            "the device is out of memory with 6 epochs at a time; going on with 3",
            "the device is out of memory with 3 epochs at a time; going on with 1",
        ]
        for epoch in range(6):
            assert_array_equal(kept.source.read(epoch, slice(0, 40))[2].get(), host.mask[epoch])


def test_damaged_files_are_named_when_they_are_kept(cupy, tmp_path):
    warps = read_warps(write_stack(tmp_path / "a", 3), device="cuda")
    warps.source.close()
    path = tmp_path / "a" / "1.fits"
    path.write_bytes(path.read_bytes()[:-8000])
    with pytest.raises(ValueError, match=r"1\.fits is truncated"):
        with residence.bounded(warps, Work(1 << 30, 2)) as (kept, _, _):
            read_epochs(kept, [0], slice(0, 40))


def test_what_nobody_asked_for_is_given_up(cupy, tmp_path, monkeypatch):
    """A step that fails leaves no thread and no copy behind."""
    warps = read_warps(write_stack(tmp_path / "a", 4), device="cuda")
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="a step"), residence.bounded(warps, Work(1 << 30, 2)) as (kept, _, _):
        assert memory.stack_device(kept) == 0 and len(kept.source._transfers) == 4, "it waited"
        raise RuntimeError("a step")
    assert threading.active_count() == before and not kept.source._transfers
    assert warps.source._uploader.stream.done


def test_damaged_files_are_named_when_they_are_read_again(cupy, tmp_path):
    warps = read_warps(write_stack(tmp_path / "a", 3), device="cuda")
    warps.source.close()
    path = tmp_path / "a" / "1.fits"
    path.write_bytes(path.read_bytes()[:-8000])
    with pytest.raises(ValueError, match=r"1\.fits is truncated"):
        with residence.bounded(warps, Work(bound_for(3, 1), 2)) as (kept, _, _):
            read_epochs(kept, [0, 1], slice(0, 40))


def test_a_damaged_file_leaves_no_copy_behind(cupy, tmp_path, monkeypatch):
    """The other epochs of its group are given up too, those behind a kept one among them, however late they come."""
    warps = read_warps(write_stack(tmp_path / "a", 4), device="cuda")
    given_up = threading.Event()
    abandon, raw = Transfer.abandon, FitsSource.raw

    def told(self):
        abandon(self)
        given_up.set()

    def late(self, epoch, rows):
        assert epoch != 3 or given_up.wait(10)
        return raw(self, epoch, rows)

    with residence.bounded(warps, Work(bound_for(4, 1), 2)) as (kept, _, _):
        kept.source.read(0, slice(0, 40))  # it has arrived
        monkeypatch.setattr(Transfer, "abandon", told)
        monkeypatch.setattr(FitsSource, "raw", late)
        warps.source.close()
        path = tmp_path / "a" / "2.fits"
        path.write_bytes(path.read_bytes()[:-8000])
        with pytest.raises(ValueError, match=r"2\.fits is truncated"):
            read_epochs(kept, [2, 0, 3], slice(0, 40), threads=2)
        assert warps.source._uploader.stream.done


@pytest.mark.skipif(not hostcuda.available(), reason=hostcuda.REASON)
@pytest.mark.parametrize("bound", [None, 1, bound_for(5, 3)])
def test_the_bound_of_a_device_does_not_show(cupy, tmp_path, bound):
    warps = read_warps(write_stack(tmp_path / "a", 5), device="cuda")
    result = gpucoadd.assemble(warps, memory=bound)
    planes = [getattr(warps, name) for name in PLANES]
    whole = gpucoadd.assemble(gpucoadd.WarpStack(*planes, schema=warps.schema, psf_sigma=warps.psf_sigma))
    for name in (*PLANES, "n_image"):
        assert_array_equal(getattr(result, name).get(), getattr(whole, name).get())
