"""
Configuration that takes any field: of LSST's subtasks whose work is not done here.

A dump of an LSST task's configuration names the fields of all its subtasks, those that steer nothing here as well. They
are kept as they came, and saved again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TextIO

import numpy as np
from lsst.pex.config import Config, Field, FieldValidationError
from lsst.pex.config.callStack import getCallStack
from lsst.pex.config.comparison import compareScalars, getComparisonName

_PLAIN = (bool, int, float, str, type(None))


def _as_plain(value: Any) -> Any:
    """`value` in classes that come back from their text, in a file that is saved; TypeError if there are none."""
    if isinstance(value, (list, tuple)):
        return type(value)(_as_plain(item) for item in value)
    if isinstance(value, dict):
        return {_as_plain(key): _as_plain(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if type(value) not in _PLAIN:
        raise TypeError(type(value).__name__)
    return value


def _as_text(value: Any) -> str:
    return f"float('{value!r}')" if isinstance(value, float) and not math.isfinite(value) else repr(value)


class AnyFields(Field):
    """The field of an `OpenConfig` that holds all others: a dict of dotted name to plain value."""

    def __init__(self, doc: str = "Fields that have no effect here, by name.") -> None:
        super().__init__(doc=doc, dtype=str, default=None, optional=True)

    def __deepcopy__(self, memo: dict) -> AnyFields:
        return type(self)(self.doc)

    def __set__(self, instance: Config, value: Mapping | None, at: Any = None, label: str = "assignment") -> None:
        instance._storage[self.name] = {}
        for name, item in (value or {}).items():
            self.keep(instance, name, item, at=at, label=label)

    def keep(self, instance: Config, name: str, value: Any, *, at: Any = None, label: str = "assignment") -> None:
        """Set field `name` of `instance`; FieldValidationError if it is frozen, or `value` cannot be saved."""
        if instance._frozen:
            raise FieldValidationError(self, instance, f"Cannot modify a frozen Config; {name} was to be {value!r}")
        try:
            value = _as_plain(value)
        except TypeError as error:
            raise FieldValidationError(
                self, instance, f"{name} must be a number, text, list or dict of such, got {error}"
            ) from None
        instance._storage[self.name][name] = value
        instance._history.setdefault(name, []).append((value, at or getCallStack(), label))

    def save(self, outfile: TextIO, instance: Config) -> None:
        for name, value in instance._storage[self.name].items():
            outfile.write(f"{instance._name}.{name}={_as_text(value)}\n\n")

    def toDict(self, instance: Config) -> dict[str, Any]:
        return dict(instance._storage[self.name])

    def _compare(self, instance1: Config, instance2: Config, shortcut: bool, rtol: float, atol: float, output: Any):
        name = getComparisonName(instance1._name or "config", instance2._name or "config")
        return compareScalars(name, self.toDict(instance1), self.toDict(instance2), output=output)


class OpenConfig(Config):
    """
    Configuration without fields of its own, or with some, that keeps any other field it is given.

    Nothing is done with them. A field is known once it was set: what it would be otherwise is not known here, so that
    a list must be assigned before it can be appended to.
    """

    others = AnyFields()

    def __getattr__(self, name: str) -> Any:
        """A field that was set, or the part of the configuration that `name` may stand for."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        kept = self._storage["others"]
        return kept[name] if name in kept else _Part(self, name)

    def __setattr__(self, attr: str, value: Any, at: Any = None, label: str = "assignment") -> None:
        if attr in self._fields or attr.startswith("_"):
            super().__setattr__(attr, value, at=at, label=label)
        else:
            type(self).others.keep(self, attr, value, at=at, label=label)


class _Part:
    """A nested configuration of an `OpenConfig`: the beginning of a dotted name."""

    def __init__(self, config: OpenConfig, path: str) -> None:
        object.__setattr__(self, "_config", config)
        object.__setattr__(self, "_path", path)

    def __str__(self) -> str:
        """The whole path, from the outermost configuration."""
        name = self._config._name
        return f"{name}.{self._path}" if name else self._path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{self} has no attribute {name!r}")
        return getattr(self._config, f"{self._path}.{name}")

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._config, f"{self._path}.{name}", value)

    def retarget(self, target: Any, ConfigClass: Any = None) -> None:
        """Nothing: the subtask is not run here."""

    def __call__(self, *arguments: Any, **keywords: Any) -> None:
        path, _, method = str(self).rpartition(".")
        raise AttributeError(
            f"{path or 'this configuration'} has no method {method!r}: it is of a subtask that is not run here, whose "
            "defaults are not known; assign a value instead"
        )

    def __bool__(self) -> bool:
        raise AttributeError(f"{self} was not set: it is of a subtask that is not run here, with unknown defaults")
