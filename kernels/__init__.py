"""
The device twins. Installed as `gpucoadd.kernels`.

There is no CUDA source yet: every function here is the array code of `gpucoadd.fallback`, which
runs on CuPy arrays as it stands. It gives the same answers; it is not yet fast.
"""

from gpucoadd.fallback import Rules, grow, label, stack_statistics

__all__ = ["Rules", "grow", "label", "stack_statistics"]
