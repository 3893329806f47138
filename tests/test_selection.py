"""Stacks of some epochs in an order of their own: the very pixels, lazily, wherever they are."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scenes import SCHEMA, flat_stack, from_image
from test_fits import write_afw
from test_streaming import EXACT, write_stack

import gpucoadd
from gpucoadd import AssemblyConfig, CoaddConfig, WarpStack
from gpucoadd.backend import to_device, to_host
from gpucoadd.fits import read_warps
from gpucoadd.memory import stack_device
from gpucoadd.psf import FWHM_PER_SIGMA
from gpucoadd.reading import read_epochs
from gpucoadd.simulate import simulate_night
from gpucoadd.sources import FitsSource
from gpucoadd.wrappers import is_selected

PLANES = ("image", "variance", "mask")
IDS = (11, 12, 13, 14, 15, 16)
ORDER = (14, 11, 16, 13)
POSITIONS = [3, 0, 5, 2]


def stack(xp=np, twins=(16, 11, 12, 14), seed=2):
    """Six epochs; the twins lack some, and have an order of their own."""
    rng = np.random.default_rng(seed)

    def planes(n):
        image, variance = rng.normal(size=(2, n, 9, 11)).astype(np.float32)
        return [xp.asarray(plane) for plane in (image, variance**2, rng.integers(0, 99, (n, 9, 11)).astype(np.int32))]

    common = {"schema": SCHEMA, "origin": (-3, 7), "unit": "adu"}
    matched = WarpStack(*planes(len(twins)), psf_sigma=np.arange(len(twins)) + 2.5, epochs=twins, **common)
    return WarpStack(*planes(6), psf_sigma=np.arange(6) + 1.0, epochs=IDS, psf_matched=matched, **common)


def same_planes(selected, whole, positions):
    assert selected.shape == (len(positions), *whole.shape[1:])
    for name in PLANES:
        assert_array_equal(to_host(getattr(selected, name)), to_host(getattr(whole, name))[positions], err_msg=name)


def same_coadd(found, expected):
    for name in (*EXACT, "image", "variance"):
        assert to_host(getattr(found, name)).tobytes() == to_host(getattr(expected, name)).tobytes(), name
    assert [str(epoch) for epoch in found.epochs] == [str(epoch) for epoch in expected.epochs]
    assert_array_equal(found.weights, expected.weights)


# ------------------------------------------------------------------------------------------------ what is in it


def test_the_epochs_come_in_the_order_given(xp):
    warps = stack(xp)
    chosen = warps.select(ORDER)
    assert chosen.epochs == ORDER
    same_planes(chosen, warps, POSITIONS)
    assert_array_equal(chosen.psf_sigma, warps.psf_sigma[POSITIONS])
    assert (chosen.origin, chosen.unit, chosen.schema) == (warps.origin, warps.unit, warps.schema)
    twins = chosen.psf_matched
    assert twins.epochs == (14, 11, 16)
    same_planes(twins, warps.psf_matched, [3, 1, 0])
    assert_array_equal(twins.psf_sigma, warps.psf_matched.psf_sigma[[3, 1, 0]])
    assert warps.epochs == IDS and stack_device(chosen) == stack_device(warps)


def test_a_selection_of_a_selection(xp):
    warps = stack(xp)
    chosen = warps.select(ORDER).select([16, 14])
    assert chosen.epochs == chosen.psf_matched.epochs == (16, 14)
    same_planes(chosen, warps, [5, 3])
    same_planes(chosen.psf_matched, warps.psf_matched, [0, 3])


def test_stacks_without_twins():
    chosen = stack().psf_matched.select([12])
    assert chosen.psf_matched is None and chosen.epochs == (12,)


def test_ids_need_only_be_equal():
    names = from_image(np.zeros((2, 3, 3), np.float32), epochs=["a", (7, "r")])
    assert names.select([(7, "r"), "a"]).epochs == ((7, "r"), "a")
    assert stack().select(np.array([13, 14])).epochs == (13, 14)
    assert stack().select(iter([13, 14])).epochs == (13, 14)


def test_nothing_is_copied():
    warps = stack()
    chosen = warps.select(ORDER)
    for mine, theirs in zip(chosen.source.read(2, slice(1, 4)), warps.source.read(5, slice(1, 4)), strict=True):
        assert np.shares_memory(mine, theirs)
    (following, *_) = read_epochs(warps.select([16, 12, 13, 14]), [1, 2, 3], slice(2, 5))
    assert np.shares_memory(following, warps.image)
    assert_array_equal(following, warps.image[1:4, 2:5])


def test_groups_are_read_in_the_order_asked_for(xp):
    warps = stack(xp)
    for epochs in ([0], [0, 1], [2, 0, 3], [3, 2, 1, 0]):
        found = read_epochs(warps.select(ORDER), epochs, slice(2, 7), threads=2)
        for plane, name in zip(found, PLANES, strict=True):
            expected = to_host(getattr(warps, name))[[POSITIONS[epoch] for epoch in epochs], 2:7]
            assert_array_equal(to_host(plane), expected, err_msg=name)


def test_whether_epochs_were_selected_is_known():
    warps = stack()
    assert not is_selected(warps.source)
    assert is_selected(warps.select(IDS).source) and is_selected(warps.select(IDS).scaled([2.0] * 6).source)


@pytest.mark.parametrize("make", [gpucoadd.coadd, gpucoadd.assemble])
def test_a_switch_without_a_list_warns(make):
    warps = flat_stack(4, (12, 13))
    kind = CoaddConfig if make is gpucoadd.coadd else AssemblyConfig
    config = kind.from_lsst({"doSelectVisits": True})
    with pytest.warns(UserWarning, match=r"doSelectVisits\) but the stack has all of its own; give the list to") as w:
        make(warps, config=config)
    assert w[0].filename == __file__
    make(warps.select([2, 0, 1]), config=config)  # warnings are errors
    make(warps.select([2, 0, 1]).scaled([1.0, 2.0, 1.0]), config=config)


# ------------------------------------------------------------------------------------------------ files and devices


def test_files_are_not_read_before_they_are_asked_for(tmp_path, monkeypatch):
    for epoch in range(5):
        write_afw(tmp_path / f"{epoch}.fits", seed=epoch)
    warps = read_warps(tmp_path, device="cpu", psf_fwhm=2.0)
    asked = []
    read = FitsSource.read
    monkeypatch.setattr(FitsSource, "read", lambda self, epoch, rows: asked.append(epoch) or read(self, epoch, rows))
    chosen = warps.select([warps.epochs[3], warps.epochs[1]])
    assert asked == [] and not chosen.source.in_memory
    assert chosen.inputs == (warps.inputs[3], warps.inputs[1])
    before = chosen.source.seconds_reading
    image, _, _ = chosen.source.read(1, slice(3, 8))
    assert asked == [1] and chosen.source.seconds_reading > before
    monkeypatch.undo()
    assert_array_equal(image, warps.image[1, 3:8])
    chosen.source.close()
    same_planes(chosen, warps, [3, 1])


@pytest.fixture(scope="module")
def night():
    """Warps with twins, four of them in an order of their own, and the coadd of those by themselves."""
    warps = simulate_night(n_epochs=5, shape=(96, 101), seed=6).warps
    ids = [warps.epochs[position] for position in (4, 0, 3, 2)]
    picked = {name: getattr(warps, name)[[4, 0, 3, 2]].copy() for name in PLANES}
    twins = {name: getattr(warps.psf_matched, name)[[4, 0, 3, 2]].copy() for name in PLANES}
    common = {"schema": warps.schema, "epochs": ids}
    matched = WarpStack(**twins, psf_sigma=warps.psf_matched.psf_sigma[[4, 0, 3, 2]], **common)
    alone = WarpStack(**picked, psf_sigma=warps.psf_sigma[[4, 0, 3, 2]], psf_matched=matched, **common)
    return warps, ids, alone, gpucoadd.coadd(alone)


@pytest.mark.parametrize(("memory", "threads"), [(None, 1), (1, 2)])
def test_coadds_are_those_of_the_epochs_alone(night, memory, threads):
    warps, ids, _, expected = night
    same_coadd(gpucoadd.coadd(warps.select(ids), memory=memory, threads=threads), expected)


@pytest.mark.parametrize(("memory", "threads"), [(None, 2), (1, 1)])
def test_coadds_from_files(night, tmp_path, memory, threads):
    warps, ids, _, expected = night
    folders = [write_stack(tmp_path / name, some) for name, some in (("a", warps), ("b", warps.psf_matched))]
    sigma = warps.psf_matched.psf_sigma * FWHM_PER_SIGMA
    from_files = read_warps(folders[0], psf_matched=folders[1], device="cpu", psf_fwhm=sigma)
    chosen = from_files.select([str(epoch) for epoch in ids])
    same_coadd(gpucoadd.coadd(chosen, memory=memory, threads=threads), expected)


@pytest.mark.parametrize("memory", [None, 1])
def test_coadds_on_a_device(device, night, memory):
    warps, ids, alone, _ = night
    expected = gpucoadd.coadd(alone.to_device("cuda"))
    for chosen in (warps.select(ids).to_device("cuda"), warps.to_device("cuda").select(ids)):
        assert stack_device(chosen) == 0 and is_selected(chosen.source)
        same_coadd(gpucoadd.coadd(chosen, memory=memory, threads=2), expected)


def test_arrays_on_a_device(device, night):
    warps, ids, alone, _ = night

    def there(some, matched=None):
        planes = {name: to_device(getattr(some, name)) for name in PLANES}
        return WarpStack(
            **planes, schema=some.schema, psf_sigma=some.psf_sigma, epochs=some.epochs, psf_matched=matched
        )

    expected = gpucoadd.coadd(there(alone, there(alone.psf_matched)))
    same_coadd(gpucoadd.coadd(there(warps, there(warps.psf_matched)).select(ids)), expected)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("epochs", "kind", "message"),
    [
        ([11, 99, "12"], ValueError, r"no epoch 99, '12'; the stack has 11, 12, 13, 14, 15, 16\. missing='ignore'"),
        ([11, 12, 11], ValueError, "each epoch once; 11 is there more than once"),
        ([99, 99], ValueError, "99 is there more than once"),
        ([], ValueError, "no epoch is selected; the stack has 11, 12"),
        ("11", TypeError, "epochs must be a sequence of ids, got '11'"),
        (11, TypeError, "epochs must be a sequence of ids, got 11"),
        ([13, 15], ValueError, "none of the selected epochs has a PSF-matched twin"),
    ],
)
def test_what_cannot_be_selected(epochs, kind, message):
    with pytest.raises(kind, match=message):
        stack().select(epochs)


def test_missing_epochs_may_be_ignored():
    assert stack().select([99, 14, 98, 11], missing="ignore").epochs == (14, 11)
    with pytest.raises(ValueError, match="no epoch is selected"):
        stack().select([99], missing="ignore")
    with pytest.raises(ValueError, match="14 is there more than once"):
        stack().select([14, 14], missing="ignore")
    with pytest.raises(ValueError, match="missing must be 'error' or 'ignore', got 'skip'"):
        stack().select([14], missing="skip")


def test_long_lists_are_cut_in_messages():
    many = from_image(np.zeros((30, 3, 3), np.float32), twins=False)
    with pytest.raises(ValueError, match=r"the stack has 0, 1, 2, 3, 4, 5, 6, 7 and 22 more\."):
        many.select([77])


def test_psfs_and_values_go_with_their_epoch():
    """Through selection, scaling and the way to a device, in any order."""
    rng = np.random.default_rng(1)
    planes = [rng.normal(size=(6, 9, 11)).astype(np.float32), np.ones((6, 9, 11), np.float32)]
    planes.append(np.zeros((6, 9, 11), np.int32))
    sides = (3, 5, 7, 9, 11, 13)
    psfs = [None if side == 7 else np.pad(np.ones((1, 1)), side // 2) + 0.01 for side in sides]
    values = {"airmass": np.arange(6) / 10, "table": np.arange(12.0).reshape(6, 2)}
    warps = WarpStack(*planes, schema=SCHEMA, psf_sigma=np.arange(6) + 1.0, epochs=IDS, psfs=psfs, epoch_values=values)
    factors = dict(zip(IDS, (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), strict=True))
    for made in (warps.select(ORDER).scaled(factors), warps.scaled(factors).select(ORDER)):
        assert [None if psf is None else psf.side for psf in made.psfs] == [9, 3, 13, None]
        assert_array_equal(made.epoch_values["airmass"], values["airmass"][POSITIONS])
        assert_array_equal(made.epoch_values["table"], values["table"][POSITIONS])
        assert_array_equal(made.psf_sigma, np.array(POSITIONS) + 1.0)
        result = gpucoadd.assemble(made, config=AssemblyConfig(statistic="MEAN", reject=("NO_DATA",)))
        order = [ORDER.index(epoch) for epoch in result.epochs]
        weights = np.array(result.weights)[np.argsort(order)]
        assert_array_equal(result.inputs["epoch"], list(result.epochs))
        expected = (weights * values["airmass"][POSITIONS]).sum() / weights.sum()
        assert result.epoch_mean("airmass", 4, 5) == pytest.approx(expected)
