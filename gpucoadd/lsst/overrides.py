"""
Loading of configuration files that were written for LSST's tasks, unchanged.

Such files import LSST's modules: dumps, to say whose they are (``assert type(config) is
lsst.drp.tasks.assemble_coadd.CompareWarpAssembleCoaddConfig``) and for the targets of subtasks; overrides, for targets.
While a file is loaded, its own imports below ``lsst`` are answered here: the tasks that gpucoadd replaces are
gpucoadd's, also where the LSST stack is installed; what can be imported is what it is; and everything else is a class
that does nothing (`stand_ins`). Only the text of the file sees that. No module is made for it, so that nothing is left
in the interpreter, and what the file imports finds the modules that are there and no others.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from lsst.pex.config import Config
from lsst.pex.config.config import RecordingImporter

from .stand_ins import names_a_class, stand_in

_COADDS = tuple(
    f"{task}{part}"
    for task in ("AssembleCoadd", "CompareWarpAssembleCoadd")
    for part in ("Task", "Config", "Connections")
)
_DECORRELATION = (
    *(f"DecorrelateALKernel{kind}" for kind in ("Task", "Config", "SpatialTask", "SpatialConfig")),
    *(f"DecorrelateALKernel{kind}" for kind in ("Mapper", "MapReduceConfig")),
)
_MAP_REDUCE = tuple(f"Image{kind}" for kind in ("Mapper", "Reducer", "MapReduceTask", "MapReduceConfig")) + tuple(
    f"Image{kind}Config" for kind in ("Mapper", "Reducer")
)
# LSST's names of the configurations of subtasks.
_SUBTASKS = {
    "SourceDetectionConfig": "DetectionConfig",
    "ScaleVarianceConfig": "ScaleVarianceConfig",
    "MaskStreaksConfig": "MaskStreaksConfig",
    "InterpImageConfig": "InterpImageConfig",
    "HealSparseInputMapConfig": "InputMapConfig",
}
# Names that are gpucoadd.lsst's, by the modules that LSST has them in.
_OURS = {
    "lsst.drp.tasks.assemble_coadd": _COADDS,
    "lsst.pipe.tasks.assembleCoadd": _COADDS,
    "lsst.ip.diffim.imageDecorrelation": _DECORRELATION,
    "lsst.ip.diffim.imageMapReduce": _MAP_REDUCE,
    "lsst.ip.diffim": (*_DECORRELATION, *_MAP_REDUCE),
    "lsst.meas.algorithms": tuple(_SUBTASKS),
    "lsst.meas.algorithms.detection": ("SourceDetectionConfig",),
    "lsst.meas.algorithms.scaleVariance": ("ScaleVarianceConfig",),
    "lsst.meas.algorithms.maskStreaks": ("MaskStreaksConfig",),
    "lsst.pipe.tasks.scaleVariance": ("ScaleVarianceConfig",),
    "lsst.pipe.tasks.interpImage": ("InterpImageConfig",),
    "lsst.pipe.tasks.healSparseMapping": ("HealSparseInputMapConfig",),
}


class OverridableConfig(Config):
    """Configuration that loads files written for the LSST task whose fields it has."""

    def load(self, filename: Any, root: str = "config") -> None:
        """As in `lsst.pex.config.Config`; LSST's modules need not be there."""
        with standing_in():
            super().load(filename, root=root)

    def loadFromStream(self, stream: Any, root: str = "config", filename: Any = None, extraLocals: Any = None) -> None:
        """As in `lsst.pex.config.Config`; LSST's modules need not be there."""
        with standing_in():
            super().loadFromStream(stream, root=root, filename=filename, extraLocals=extraLocals)

    def loadFromString(self, code: Any, root: str = "config", filename: Any = None, extraLocals: Any = None) -> None:
        """As in `lsst.pex.config.Config`; LSST's modules need not be there."""
        with standing_in():
            super().loadFromString(code, root=root, filename=filename, extraLocals=extraLocals)


@contextlib.contextmanager
def standing_in() -> Iterator[None]:
    """Let text of configurations that is executed within, and nothing else, import LSST's modules that are missing."""
    with _LOCK:
        before = builtins.__import__
        builtins.__import__ = _importer(before)
        try:
            yield
        finally:
            builtins.__import__ = before


def _importer(before: Callable[..., ModuleType]) -> Callable[..., ModuleType]:
    """`__import__` that answers imports of text here, and hands on all others."""

    def importer(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: tuple[str, ...] = (),
        level: int = 0,
    ) -> ModuleType:
        if name.partition(".")[0] == "lsst" and _is_executed_text(globals, locals):
            return _Shown(name if fromlist else "lsst")
        return before(name, globals, locals, fromlist, level)

    return importer


def _is_executed_text(globals: Mapping[str, Any] | None, locals: Mapping[str, Any] | None) -> bool:
    """Whether an import is one of a configuration file, which has no name, or of a pipeline's ``python:`` block."""
    if globals is None or "__name__" not in globals:
        return globals is not None
    return globals["__name__"] == "lsst.pipe.base.configOverrides" and locals is not None


class _Shown(ModuleType):
    """A module of LSST as the text of a configuration file is shown it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        ours = _ours(name) if name in _OURS.get(self.__name__, ()) else None
        if ours is not None:
            return ours
        path = f"{self.__name__}.{name}"
        real = _real_module(self.__name__)
        value = getattr(real, name, None)
        if value is not None and getattr(value, "__name__", None) != path:
            return value
        if not names_a_class(name):
            return _Shown(path)
        if real is not None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return stand_in(path)

    def __call__(self, *arguments: Any, **keywords: Any) -> None:
        raise TypeError(
            f"{self.__name__} cannot be called: it is not installed, and without it only names of classes and modules "
            "can be used"
        )


def _ours(name: str) -> Any:
    """The class of gpucoadd.lsst of that name, or None; what it imports is not recorded as an import of the file."""
    recording = sys.meta_path
    sys.meta_path = [finder for finder in recording if not isinstance(finder, RecordingImporter)]
    try:
        where = "gpucoadd.lsst.subtask_configs" if name in _SUBTASKS else "gpucoadd.lsst"
        return getattr(importlib.import_module(where), _SUBTASKS.get(name, name), None)
    finally:
        sys.meta_path = recording


def _real_module(name: str) -> ModuleType | None:
    """The module of that name, if it is installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        return None


_LOCK = threading.RLock()
