"""
Coaddition that rejects artifacts and keeps variable stars; image differences with white noise.

NumPy arrays in, NumPy arrays out; CuPy arrays in, CuPy arrays out. `coadd` and `decorrelate` are the places to start;
`find_streaks` finds satellite trails in any difference.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .artifacts import Artifacts, filter_artifacts, find_artifacts, prefilter_artifacts, propagate_edges
from .assembly_config import STATISTICS, AssemblyConfig, Clipping, InputMap, Interpolation
from .backend import to_device, to_host
from .bright_objects import mask_bright_objects
from .cells import CellGrid
from .coaddition import NoWorkFound, assemble, coadd
from .coadds import Coadd
from .combination import stack
from .configuration import CoaddConfig, Detection, LsstStreaks, Persistence, Prefilter, VarianceScaling
from .decorrelation import Decorrelated, DecorrelatedCells, decorrelate, variance_mean
from .decorrelation_config import DecorrelationConfig
from .exposures import from_lsst
from .images import MaskedImage, WarpStack
from .masks import MaskSchema
from .matching import SpatialKernel
from .mosaic import CellResult, CompositePsf, Mosaic, map_cells
from .noise import NoiseStatistics, noise_statistics
from .point_spread import Psf
from .spectra import diffim_correction, fft_shape, score_correction
from .streak_config import StreakConfig
from .streaks import Streaks, find_streaks

if TYPE_CHECKING:
    from .fits import read_image, read_kernel, read_warps

__version__ = "0.1.0"

__all__ = [
    "STATISTICS",
    "Artifacts",
    "AssemblyConfig",
    "CellGrid",
    "CellResult",
    "Clipping",
    "Coadd",
    "CoaddConfig",
    "CompositePsf",
    "Decorrelated",
    "DecorrelatedCells",
    "DecorrelationConfig",
    "Detection",
    "InputMap",
    "Interpolation",
    "LsstStreaks",
    "MaskSchema",
    "MaskedImage",
    "Mosaic",
    "NoWorkFound",
    "NoiseStatistics",
    "Persistence",
    "Prefilter",
    "Psf",
    "SpatialKernel",
    "StreakConfig",
    "Streaks",
    "VarianceScaling",
    "WarpStack",
    "assemble",
    "coadd",
    "decorrelate",
    "diffim_correction",
    "fft_shape",
    "filter_artifacts",
    "find_artifacts",
    "find_streaks",
    "from_lsst",
    "map_cells",
    "mask_bright_objects",
    "noise_statistics",
    "prefilter_artifacts",
    "propagate_edges",
    "read_image",
    "read_kernel",
    "read_warps",
    "score_correction",
    "stack",
    "to_device",
    "to_host",
    "variance_mean",
]

_FROM_FITS = ("read_image", "read_kernel", "read_warps")


def __getattr__(name: str) -> Any:
    """Readers come with astropy.io.fits, which takes a while to import, `lsst` with an engine; only who asks pays."""
    if name in _FROM_FITS:
        from . import fits

        return getattr(fits, name)
    if name == "lsst":
        return importlib.import_module(".lsst", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
