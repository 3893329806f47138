"""The CUDA masks of the final stack, run on the CPU, against their definition and the NumPy twin."""

from __future__ import annotations

import importlib
import math

import hostcuda
import numpy as np
import pytest
import standin
from numpy.testing import assert_array_equal

from gpucoadd import fallback
from gpucoadd.planes import n_words

pytestmark = pytest.mark.skipif(not standin.available(), reason=hostcuda.REASON)

REJECT, REMOVED = 1 | 2 | 16 | 32, 2 | 64


def by_pixel(mask, edits, reject, removed, online, image):
    """The definition, for planes of flags instead of words."""
    masks, n_image = np.zeros_like(mask), np.zeros(mask.shape[1:], np.int32)
    used = np.zeros(mask.shape, bool)
    for epoch, y, x in np.ndindex(mask.shape):
        bits = int(mask[epoch, y, x])
        for flags, keep, add in edits:
            if flags[epoch, y, x]:
                bits = bits & keep | add
        counted = bits & ~removed if online else bits
        n_image[y, x] += counted & reject == 0
        masks[epoch, y, x] = bits & ~removed
        used[epoch, y, x] = bits & ~removed & reject == 0 and math.isfinite(image[epoch, y, x])
    return masks, n_image, fallback.as_words(used)


def some(shape, n_edits, seed=1):
    """Masks, and edits as planes and as words; flags of the last edits are set in some epochs only."""
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.int32([0, 0, 0, 1, 2, 4, 8 | 2, 64, 1 << 30, -(2**31)]), shape).astype(np.int32)
    rules = [(~(1 | 2), 16), (-1, 8), (-1, 32), (~32, 4), (0, 64)][:n_edits]
    planes = [(rng.random(shape) < 0.3, keep, add) for keep, add in rules]
    for number, (flags, _, _) in enumerate(planes):
        flags[number :: n_edits + 1] = False
    image = rng.choice(np.float32([1, -2, 3e38, np.nan, np.inf, -np.inf]), shape)
    return mask, image, planes, [(fallback.as_words(flags), keep, add) for flags, keep, add in planes]


def launch(mask, edits, *others):
    reads = standin.host_reads
    masks, n_image, used = importlib.import_module("gpucoadd.kernels.stacking").stacking_masks(mask, edits, *others)
    assert standin.host_reads == reads
    assert (masks.dtype, n_image.dtype) == (np.int32, np.int32)
    if used is None:
        return masks.get(), n_image.get(), None
    assert used.dtype == np.uint32
    return masks.get(), n_image.get(), used.get()


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("n_edits", range(6))
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 31), (3, 2, 32), (5, 4, 33), (6, 3, 64), (4, 2, 65), (3, 5, 129)])
def test_equals_definition(shape, n_edits, online):
    mask, image, planes, words = some(shape, n_edits)
    for removed in (0, REMOVED):
        rules = REJECT, removed, online
        expected = by_pixel(mask, planes, *rules, image)
        twin = fallback.stacking_masks(mask, words, *rules, image)
        hostcuda.reset()
        with standin.device() as cupy:
            there = cupy.asarray(mask.copy())
            flags = [(cupy.asarray(w), k, a) for w, k, a in words]
            found = launch(there, flags, *rules, cupy.asarray(image))
            standin.expect_launches({"stacking_masks": 1 if n_edits <= 3 else 2})
            assert_array_equal(there.get(), mask)
            without = launch(there, flags, *rules)
        assert fallback.stacking_masks(mask, words, *rules)[2] is None and without[2] is None
        for one, other in zip(found[:2], without[:2], strict=True):
            assert_array_equal(one, other)
        for wanted, numpy, cuda in zip(expected, twin, found, strict=True):
            assert_array_equal(numpy, wanted)
            assert_array_equal(cuda, wanted)


@pytest.mark.parametrize("rows", [slice(0, 2), slice(3, 7), slice(6, 7)])
@pytest.mark.parametrize("columns", [slice(None), slice(5, 60)])
def test_bands_of_rows(rows, columns):
    """The rows of a band lie apart in mask, image and flags; so do cut rows, which are copied."""
    mask, image, planes, words = some((4, 7, 70), 3)
    cut = [(flags[:, rows, : 70 if columns == slice(None) else 55], keep, add) for flags, keep, add in planes]
    expected = by_pixel(mask[:, rows, columns], cut, REJECT, REMOVED, False, image[:, rows, columns])
    length = n_words(expected[0].shape[2])
    with standin.device() as cupy:
        there = cupy.asarray(mask)[:, rows, columns]
        edits = [(cupy.asarray(w)[:, rows, :length], keep, add) for w, keep, add in words]
        edits[1] = (edits[1][0].copy(), *edits[1][1:])  # its epochs lie closer to each other
        values = cupy.asarray(image)[:, rows, columns]
        for wanted, cuda in zip(expected, launch(there, edits, REJECT, REMOVED, False, values), strict=True):
            assert_array_equal(cuda, wanted)


def test_order_of_edits_matters():
    """No data clears what rejects; an artifact that is set after it stays."""
    mask = np.int32([[[1, 1]]])
    flags = np.array([[[True, False]]])
    edits = [(fallback.as_words(flags), ~33, 16), (fallback.as_words(flags), -1, 32)]
    with standin.device() as cupy:
        there = cupy.asarray(mask)
        device = [(cupy.asarray(words), keep, add) for words, keep, add in edits]
        assert launch(there, device, REJECT, 0, False)[0].tolist() == [[[16 | 32, 1]]]
        assert launch(there, device[::-1], REJECT, 0, False)[0].tolist() == [[[16, 1]]]
