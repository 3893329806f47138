"""
gpucoadd inside Rubin's engine: tasks, configuration and datasets for ``pipetask run``.

The tasks have the names, configuration fields and methods of those they replace; the work is done by the functions on
arrays. Exposures are used by their attributes, so that this package needs the engine (``pip install
"gpucoadd[lsst]"``) but not the rest of the LSST stack.
"""

from __future__ import annotations

import importlib
from typing import Any

try:
    import lsst.pex.config
    import lsst.pipe.base  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"gpucoadd.lsst needs Rubin's engine ({error}): "
        'pip install "gpucoadd[lsst]", best with Python 3.12 or later; '
        "without it, gpucoadd.coadd and gpucoadd.decorrelate do the same on arrays"
    ) from error

_WHERE: dict[str, str] = {
    "ArtifactMasks": "artifact_masks",
    "AssembleCoaddConfig": "configs",
    "AssembleCoaddConnections": "connections",
    "AssembleCoaddTask": "assemble_coadd",
    "CompareWarpAssembleCoaddConfig": "configs",
    "CompareWarpAssembleCoaddConnections": "connections",
    "CompareWarpAssembleCoaddTask": "compare_warp",
    "DecorrelateALKernelConfig": "decorrelate",
    "DecorrelateALKernelMapReduceConfig": "decorrelate_spatial",
    "DecorrelateALKernelMapper": "decorrelate_spatial",
    "DecorrelateALKernelSpatialConfig": "decorrelate_spatial",
    "DecorrelateALKernelSpatialTask": "decorrelate_spatial",
    "DecorrelateALKernelTask": "decorrelate",
    "ImageMapReduceConfig": "image_map_reduce",
    "ImageMapReduceTask": "image_map_reduce",
    "ImageMapper": "image_mappers",
    "ImageMapperConfig": "image_mappers",
    "ImageReducer": "image_reducers",
    "ImageReducerConfig": "image_reducers",
    "OverridableConfig": "overrides",
    "PixelSet": ".pixel_sets",
    "PlainImage": "plain",
    "PlainImageFormatter": "storage",
    "PlainMask": "plain",
    "PlainMaskFormatter": "storage",
    "PlainMaskedImage": "plain",
    "PlainMaskedImageFormatter": "storage",
    "assembly_options": "config_names",
    "butler_config": "storage",
    "coadd_options": "config_names",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """What a task does not need is not imported for it."""
    if name in _WHERE:
        return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
