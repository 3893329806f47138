"""Statistics of the samples of one pixel over the epochs."""

from __future__ import annotations

from functools import cache
from typing import Any

import cupy
import numpy as np

from gpucoadd.fallback import Rules
from gpucoadd.fallback.clipping import IQR_TO_SIGMA
from gpucoadd.fallback.network import exchanges

from ._compile import Defines, blocks, kernel
from ._planes import strided

_FILE = "stack_statistics.cu"
_MOST_SORTED = 200  # epochs: of more, the samples of a pixel do not fit into a thread's registers
_TILE_BYTES = 48 << 10  # shared memory that a block may declare on every device
_ORDERED = ("MEDIAN", "MEANCLIP", "VARIANCECLIP", "STDEVCLIP", "IQRANGE")
_ABOUT_MEAN = ("VARIANCE", "STDEV", "MEANSQUARE")


def stack_statistics(image: Any, variance: Any, mask: Any, weights: tuple[float, ...], rules: Rules) -> Any:
    """
    As `gpucoadd.primitives.stack_statistics`, for any number of pixels at once.

    Equal to the bit, but for the sign of zeros. One launch, which nobody waits for. Views with distant epochs, such as
    bands of a larger stack, are read where they are. Moves 8 bytes a sample, 12 where the variance plane counts, and 12
    a pixel. With more than 200 epochs, image and mask are read a hundred times to find median and quartiles, and again
    for every round of clipping.
    """
    n_epochs, n_pixels = image.shape
    (image, image_stride), (variance, variance_stride), (mask, mask_stride) = map(strided, (image, variance, mask))
    # the running sums of LSST keep what was rejected, and nothing else
    propagation = [pair for pair in rules.propagation if not rules.online_mean or pair[0] & rules.reject]
    defines = _variant(
        rules.statistic,
        n_epochs,
        from_input=rules.error_from_input,
        online=rules.online_mean,
        extremes=rules.lsst_extremes,
        n_propagated=len(propagation),
    )
    numbers = cupy.asarray(np.array([*weights, *(share for _, share in propagation), 0.0]))
    bits = cupy.asarray(np.array([*(bit for bit, _ in propagation), *sum(rules.mask_map, ()), 0], dtype=np.int32))
    out = tuple(cupy.empty(n_pixels, dtype=dtype) for dtype in (cupy.float32, cupy.float32, cupy.int32))
    block = int(dict(defines)["BLOCK"])
    kernel(_FILE, "stack_statistics", defines)(
        (blocks(n_pixels, block),),
        (block,),
        (
            image,
            variance,
            mask,
            image_stride,
            variance_stride,
            mask_stride,
            numbers[:n_epochs],
            numbers[n_epochs:],
            bits[: len(propagation)],
            bits[len(propagation) :],
            np.int32(len(rules.mask_map)),
            np.int32(rules.reject),
            np.int32(rules.no_data),
            np.int32(rules.clipped),
            np.float64(rules.sigma_clip),
            np.float64(rules.sigma_clip * IQR_TO_SIGMA),
            np.int32(rules.clip_iterations),
            np.int32(n_epochs),
            np.int32(n_pixels),
            *out,
        ),
    )
    return out


def _variant(
    statistic: str,
    n_epochs: int,
    *,
    from_input: bool = True,
    online: bool = False,
    extremes: bool = False,
    n_propagated: int = 1,
) -> Defines:
    """Macros of the kernel, with those that do not matter to the statistic at one value, so that builds are few."""
    from_input = from_input and statistic in ("MEAN", "MEANCLIP")
    keeps_samples = statistic in (*_ORDERED, *_ABOUT_MEAN) or (statistic == "MEAN" and not from_input)
    room = _room(n_epochs) if keeps_samples else 1
    return (
        ("STATISTIC", statistic),
        ("N_SAMPLES", room),
        ("SORT_NETWORK", _network(room) if statistic in _ORDERED else ""),
        ("BLOCK", _block(room)),
        ("FROM_INPUT", int(from_input)),
        ("ONLINE", int(online)),
        ("LSST_EXTREMES", int(extremes and statistic in ("MIN", "MAX"))),
        ("N_PROPAGATED", n_propagated),
    )


def _room(n_epochs: int) -> int:
    """Samples a build has room for: rounded up, so that a survey needs a dozen builds; 0 where none would be enough."""
    if n_epochs > _MOST_SORTED:
        return 0
    step = 4 if n_epochs <= 64 else 16
    return min(-(-n_epochs // step) * step, _MOST_SORTED)


def _block(room: int) -> int:
    """Threads of a block, so that the samples of all of them fit."""
    return next(block for block in (128, 64, 32) if 4 * room * block <= _TILE_BYTES)


@cache
def _network(n: int) -> str:
    """A sorting network as C text."""
    return " ".join(f"CE({i}, {j})" for i, j in exchanges(n))


# What the tests build for every chip; the other statistics and sizes differ from these in little.
VARIANTS = {
    _FILE: [
        *(_variant("MEANCLIP", n) for n in (4, 12, 32, 64, 128, 200, 201)),
        *(_variant("MEANCLIP", 32, from_input=False, n_propagated=n) for n in (0, 3)),
        *(_variant(statistic, 32) for statistic in (*_ORDERED, *_ABOUT_MEAN) if statistic != "MEANCLIP"),
        *(_variant("MEAN", 32, from_input=from_input, online=True) for from_input in (True, False)),
        *(_variant(statistic, 32) for statistic in ("MEAN", "SUM", "NPOINT", "NCLIPPED", "NMASKED")),
        *(_variant(statistic, 32, extremes=extremes) for statistic in ("MIN", "MAX") for extremes in (True, False)),
    ]
}
