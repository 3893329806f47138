"""How many FFT plans CuPy keeps."""

from __future__ import annotations

import cupy

# A grid of cells has up to nine shapes, each transformed forth and back, in batches of up to two sizes; CuPy keeps 16
# plans, and going round a few more than that it would find none again.
_PLANS = 40


def keep_plans() -> None:
    """
    Let CuPy keep the plans of a whole run on the current device, for this thread.

    A plan is slow to make and holds device memory, about as much as the planes that it transforms. A cache that was
    switched off, or made larger, is left alone.
    """
    cache = cupy.fft.config.get_plan_cache()
    if 0 < cache.get_size() < _PLANS:
        cache.set_size(_PLANS)
