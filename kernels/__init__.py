"""
The device twins. Installed as `gpucoadd.kernels`.

There is no CUDA source yet: the functions here are array code that runs on CuPy arrays, most of it that of
`gpucoadd.fallback` as it stands. It gives the same answers; it is not yet fast.
"""

from gpucoadd.fallback import Rules, grow, stack_statistics
from gpucoadd.fallback.labelling import label_every_pixel as label

__all__ = ["Rules", "grow", "label", "stack_statistics"]
