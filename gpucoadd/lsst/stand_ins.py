"""
Stand-ins for classes of the LSST stack, which need not be installed.

Configuration files name LSST's tasks as targets of subtasks that are not run here. In their place stand classes that do
nothing, and that are found again, once the configuration is saved, below this module:
``gpucoadd.lsst.stand_ins.lsst.pipe.tasks.selectImages.PsfWcsSelectImagesTask``.
"""

from __future__ import annotations

from typing import Any

from lsst.pex.config import ConfigMeta

from .open_config import OpenConfig

_MADE: dict[str, type] = {}


class NotRun:
    """A subtask of LSST's that is not run here; it takes any configuration, and has no effect."""

    ConfigClass = OpenConfig

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__} is not run here: it stands for a task of LSST's")


class _Package:
    """What comes before the name of a class: ``lsst.pipe.tasks``."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{self._path} has no attribute {name!r}")
        path = f"{self._path}.{name}"
        return stand_in(path) if names_a_class(name) else _Package(path)


def names_a_class(name: str) -> bool:
    """Whether `name` is written as classes are, with a capital."""
    return name[:1].isupper()


def stand_in(path: str) -> type:
    """
    The class that stands for the one at `path`, always the same.

    Parameters
    ----------
    path : str
        Such as ``lsst.pipe.tasks.selectImages.PsfWcsSelectImagesTask``.

    Returns
    -------
    type
        An `OpenConfig` if the name ends in Config, else a `NotRun` with such a ``ConfigClass``.
    """
    if path not in _MADE:
        # pex_config writes a class as module and name; so it is found again from here.
        namespace: dict[str, Any] = {"__module__": __name__, "__qualname__": path, "__doc__": f"Stands for {path}."}
        if path.endswith("Config"):
            _MADE[path] = ConfigMeta(path, (OpenConfig,), namespace)
        else:
            _MADE[path] = type(
                path, (NotRun,), {**namespace, "ConfigClass": stand_in(path.removesuffix("Task") + "Config")}
            )
    return _MADE[path]


def __getattr__(name: str) -> Any:
    if name == "lsst":
        return _Package("lsst")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
