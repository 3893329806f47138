"""From files and host memory to a device and through whole coadds; on the stand-in, and on a device if there is one."""

from __future__ import annotations

import goldens
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_fits import write_afw

import gpucoadd
from gpucoadd.backend import to_host
from gpucoadd.fits import read_warps
from gpucoadd.memory import stack_device
from gpucoadd.psf import FWHM_PER_SIGMA
from gpucoadd.reading import read_groups
from gpucoadd.simulate import simulate_night

EXACT = (
    "mask",
    "n_image",
    "contributed",
    "clipped",
    "no_data",
    "edge",
    "epoch_count",
    "n_image_matched",
    "template_footprints",
)


def same_coadd(found, expected):
    for name in EXACT:
        assert_array_equal(to_host(getattr(found, name)), getattr(expected, name), err_msg=name)
    for name in ("image", "variance"):
        # the same sums in the same order; the weights before them are means of planes, added up in another order
        np.testing.assert_allclose(to_host(getattr(found, name)), getattr(expected, name), rtol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def night():
    """Warps with twins, and their coadd on the host."""
    warps = simulate_night(n_epochs=6, shape=(96, 107), seed=3).warps
    return warps, gpucoadd.coadd(warps)


def write_stack(folder, warps):
    folder.mkdir()
    for index, epoch in enumerate(warps.epochs):
        planes = {"image": warps.image[index], "variance": warps.variance[index], "mask": warps.mask[index]}
        path = folder / f"{epoch}.fits"
        gpucoadd.fits.write_planes(path, **planes, schema=warps.schema, origin=warps.origin, wcs=None, unit=warps.unit)
    return folder


@pytest.mark.parametrize("compression", [None, "GZIP_2"])
def test_files_arrive_bit_by_bit(device, tmp_path, compression):
    for epoch in range(7):
        write_afw(tmp_path / f"{epoch}.fits", seed=epoch, compression=compression)
    host, there = (read_warps(tmp_path, device=word) for word in ("cpu", "cuda"))
    asked = [([0, 1, 2], slice(0, 40)), ([6], slice(3, 17)), ([4, 2], slice(30, 40)), (range(7), slice(0, 40))]
    arrived = 0
    for (epochs, rows), planes in zip(asked, read_groups(there, asked, threads=3, ahead=2), strict=True):
        for position, epoch in enumerate(epochs):
            for plane, expected in zip(planes, host.source.read(epoch, rows), strict=True):
                assert isinstance(plane, device.ndarray) and plane.dtype == expected.dtype
                assert to_host(plane[position]).tobytes() == expected.tobytes()
        arrived += 1
    assert arrived == len(asked)


@pytest.mark.parametrize("memory", [None, 1])
def test_a_coadd_from_files(device, tmp_path, night, memory):
    """Whether all epochs stay on the device, or none and every step reads them again."""
    warps, expected = night
    folders = [write_stack(tmp_path / name, stack) for name, stack in (("a", warps), ("b", warps.psf_matched))]
    sigma = warps.psf_matched.psf_sigma * FWHM_PER_SIGMA
    there = read_warps(folders[0], psf_matched=folders[1], device="cuda", psf_fwhm=sigma)
    found = gpucoadd.coadd(there, memory=memory, threads=2)
    assert isinstance(found.image, device.ndarray)
    same_coadd(found, expected)


def test_a_coadd_from_host_memory(device, night):
    warps, expected = night
    there = warps.to_device("cuda")
    assert stack_device(there) == 0 and there.to_device("cuda:0") is there
    found = gpucoadd.coadd(there)
    assert isinstance(found.image, device.ndarray)
    same_coadd(found, expected)
    same_coadd(gpucoadd.coadd(there), expected)  # and again


def test_resident_arrays_through_every_public_step(device):
    golden = goldens.load(goldens.DATA / "few_epochs_3.npz")
    warps, there = goldens.warp_stack(golden), goldens.warp_stack(golden, device.asarray)
    expected, found = gpucoadd.coadd(warps), gpucoadd.coadd(there)
    same_coadd(found, expected)
    template = gpucoadd.assemble(there.psf_matched, config=gpucoadd.CoaddConfig().template)
    artifacts = gpucoadd.find_artifacts(there.psf_matched, template)
    for name in ("clipped", "no_data", "edge", "epoch_count", "n_image_matched"):
        assert_array_equal(to_host(getattr(artifacts, name)), getattr(expected, name), err_msg=name)
    candidates = expected.clipped[0] | (expected.template_footprints > 0)
    counts, n_image = expected.epoch_count, expected.n_image_matched
    kept = gpucoadd.filter_artifacts(*map(device.asarray, (candidates, counts, n_image)))
    assert_array_equal(to_host(kept), gpucoadd.filter_artifacts(candidates, counts, n_image))
