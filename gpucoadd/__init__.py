"""
Coaddition of warped exposures that rejects artifacts and keeps variable stars.

NumPy arrays in, NumPy arrays out; CuPy arrays in, CuPy arrays out. `coadd` is the place to start.
"""

from typing import TYPE_CHECKING, Any

from .artifacts import Artifacts, filter_artifacts, find_artifacts, prefilter_artifacts, propagate_edges
from .backend import to_device, to_host
from .coaddition import Coadd, NoWorkFound, assemble, coadd
from .combination import stack
from .configuration import (
    STATISTICS,
    AssemblyConfig,
    Clipping,
    CoaddConfig,
    Detection,
    Interpolation,
    Persistence,
    Prefilter,
    VarianceScaling,
)
from .images import MaskedImage, WarpStack
from .masks import MaskSchema

if TYPE_CHECKING:
    from .fits import read_image, read_warps

__version__ = "0.1.0"

__all__ = [
    "STATISTICS",
    "Artifacts",
    "AssemblyConfig",
    "Clipping",
    "Coadd",
    "CoaddConfig",
    "Detection",
    "Interpolation",
    "MaskSchema",
    "MaskedImage",
    "NoWorkFound",
    "Persistence",
    "Prefilter",
    "VarianceScaling",
    "WarpStack",
    "assemble",
    "coadd",
    "filter_artifacts",
    "find_artifacts",
    "prefilter_artifacts",
    "propagate_edges",
    "read_image",
    "read_warps",
    "stack",
    "to_device",
    "to_host",
]

_FROM_FITS = ("read_image", "read_warps")


def __getattr__(name: str) -> Any:
    """Readers come with astropy.io.fits, which takes a while to import; only who asks pays."""
    if name in _FROM_FITS:
        from . import fits

        return getattr(fits, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
