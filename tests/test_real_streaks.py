"""Trails in real stacks, where the folder of real images is given: the one that is seen by eye, and no other."""

import os
from pathlib import Path

import numpy as np
import pytest

import gpucoadd

DATA = Path(os.environ.get("GPUCOADD_DATA", "")).absolute()
CONFIG = gpucoadd.CoaddConfig(streaks=gpucoadd.StreakConfig())


def coadd(name):
    files = sorted((DATA / name).glob("epoch_*.fits")) if os.environ.get("GPUCOADD_DATA") else []
    if not files:
        pytest.skip(f"GPUCOADD_DATA does not name a folder with {name}/epoch_*.fits")
    warps = gpucoadd.read_warps(files, device="cpu")
    with pytest.warns(UserWarning, match="no PSF-matched twins"):
        return warps, gpucoadd.coadd(warps, config=CONFIG)


def test_the_trail_is_clipped_from_border_to_border_and_nothing_else():
    warps, result = coadd("saao_bulge")
    (trail,) = np.flatnonzero(result.streak.any(axis=(1, 2)))
    assert result.epochs[trail] == "epoch_0064"
    # Points on the trail seen by eye, (x, y).
    x, y = np.transpose([(12, 323), (182, 328), (370, 335), (511, 342)])
    columns = np.arange(512)
    rows = np.rint(np.interp(columns, x, y)).astype(int)
    there = np.isfinite(warps.image[warps.epochs.index("epoch_0064")][rows, columns])
    assert there.sum() > 480
    assert result.streak[trail][rows, columns][there].all()
    assert result.clipped[trail][rows, columns][there].all()
    assert result.streak[trail].mean() < 0.05


def test_a_stack_without_a_trail_has_none():
    _, result = coadd("microobs_hatp32")
    assert not result.streak.any()
