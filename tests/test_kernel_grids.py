"""More planes, windows or images than a grid has room for are refused before anything is launched."""

from __future__ import annotations

import importlib

import hostcuda
import numpy as np
import pytest
import standin

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

MANY = 65536
CLIP = {"sigma": 3.0, "iterations": 1}


def refused(name, things):
    """Launchers of a module, and the context of a call that is refused."""
    message = f"{MANY} {things}; a grid has room for 65535, so pass fewer at once"
    return importlib.import_module(f"gpucoadd.kernels.{name}"), pytest.raises(ValueError, match=message)


@pytest.fixture
def cupy():
    with standin.device() as cupy:
        yield cupy


def test_planes(cupy):
    planes = cupy.zeros((MANY, 1, 1), dtype=cupy.float32)
    launchers, error = refused("plane_statistics", "planes")
    with error:
        launchers.all_nan(planes)
    launchers, error = refused("plane_statistics", "samples")
    with error:
        launchers.quantiles(planes[:, 0], (0.5,))
    with error:
        launchers.clipped_statistics(planes[:, 0], **CLIP)
    with error:
        launchers.clipped_means(planes, cupy.zeros(planes.shape, dtype=cupy.int32), 0, **CLIP)


def test_windows(cupy):
    plane, mask = cupy.zeros((2, 2), dtype=cupy.float32), cupy.zeros((2, 2), dtype=cupy.int32)
    corners, means = cupy.zeros((MANY, 2), dtype=cupy.int32), cupy.zeros(MANY)
    boxes, grids = cupy.zeros((MANY, 4), dtype=cupy.int32), cupy.zeros((MANY, 1, 1))
    launchers, error = refused("windows", "windows")
    with error:
        launchers.sample_windows(plane, mask, 0, corners, (1, 1), cupy.zeros((MANY, 1), dtype=cupy.float32))
    with error:
        launchers.finite_means(plane, corners, (1, 1))
    with error:
        launchers.pad_windows(plane, corners, (1, 1), means, (1, 1), np.float32)
    with error:
        launchers.crop_windows(grids, 1.0, plane, corners, boxes, (1, 1), np.float32)
    with error:
        launchers.weigh_windows(cupy.zeros((2, MANY)), plane, plane, corners, boxes, (1, 1), np.float32)


def test_images_and_stamps(cupy):
    rows, roots = cupy.ones((1, 1, 2), dtype=cupy.complex128), cupy.ones(2, dtype=cupy.complex128)
    launchers, error = refused("corrections", "images")
    with error:
        launchers.correct_spectra(None, (2, 2), cupy.ones((MANY, 3)), rows, roots)
    launchers, error = refused("corrections", "stamps")
    with error:
        launchers.convolve_stamps(cupy.ones((MANY, 1, 1)), cupy.ones((1, 1, 1)))
