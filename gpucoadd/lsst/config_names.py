"""From the configuration of a task to the options of the functions on arrays, by LSST's dotted names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from lsst.pex.config import Config, ConfigurableInstance, FieldValidationError

from .. import AssemblyConfig, CoaddConfig
from ..arguments import read_options
from ..options import leaves

# Of the engine and of the tasks, not of the arithmetic. The factors of the zero-point scaling are refused with it.
_NOT_OPTIONS = frozenset(
    {
        "connections",
        "saveLogOutput",
        "inputStorageClass",
        "device",
        "memory",
        "threads",
        "options",
        "scaleZeroPoint",
    }
)


# Of these only the defaults do what they do in LSST.
_OF_LSST_ALONE = (
    *(f"scaleWarpVariance.background.{name}" for name in ("statisticsProperty", "algorithm", "useApprox")),
    *(f"detect.{name}" for name in ("doTempLocalBackground", "doTempWideBackground", "doApplyFlatBackgroundRatio")),
    "detect.adjustBackground",
)


def assembly_options(config: Config) -> AssemblyConfig:
    """
    Options of `gpucoadd.assemble`, from an `AssembleCoaddConfig`; of the final coadd, where artifacts are rejected.

    Raises
    ------
    ValueError
        If a value, or values together, are not valid.
    """
    if "assembleStaticSkyModel" in config:
        return coadd_options(config).stacking
    return AssemblyConfig.from_lsst(dict(dotted_names(config)))


def coadd_options(config: Config) -> CoaddConfig:
    """
    Options of `gpucoadd.coadd`, from a `CompareWarpAssembleCoaddConfig` and its field ``options``.

    Raises
    ------
    ValueError
        If a value, or values together, are not valid; if ``options`` names none, or one that has a field of its own.
    """
    further = read_options(None, [f"{name}={text}" for name, text in config.options.items()])
    fields = {".".join(path): lsst for path, lsst, _ in leaves(CoaddConfig()) if lsst is not None}
    for name in further:
        field = fields.get(name, name if name in fields.values() else None)
        if field is not None:
            raise ValueError(f"options: {name} has a field of its own, {field}; set that")
    return CoaddConfig.from_names({**dict(dotted_names(config)), **further})


def dotted_names(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of `config` and of what it holds, with a plain value, but for those that are no options."""
    for name, field in _known_fields(config).items():
        value = getattr(config, name)
        value = value.value if isinstance(value, ConfigurableInstance) else value
        if name in _NOT_OPTIONS:
            continue
        if isinstance(value, Config):
            yield from dotted_names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.toDict(config)


def _known_fields(config: Config) -> dict[str, Any]:
    """Fields that gpucoadd's class of a configuration has; what a class made of it elsewhere adds is its own affair."""
    return _known_class(config)._fields


def _known_class(config: Config) -> type[Config]:
    return next((known for known in type(config).__mro__ if known.__module__.startswith("gpucoadd.")), type(config))


def values_without_effect(config: Config) -> list[str]:
    """Fields that change pixels in LSST and not here, and are off the default, with their values."""
    values, usual = (dict(dotted_names(of)) for of in (config, _known_class(config)()))
    return [f"{name}={values[name]!r}" for name in _OF_LSST_ALONE if values[name] != usual[name]]


def check_options(config: Config, options: Callable[[], Any]) -> None:
    """
    Make the `options` of `config`; what they refuse is an error of the field that the refusal names.

    Raises
    ------
    FieldValidationError
        With the message of the ValueError.
    """
    try:
        options()
    except ValueError as error:
        message = str(error)
        further = [name for name in getattr(config, "options", ()) if _stands_in(name, message) is not None]
        name = "options" if further else _named(config, message)
        if name is None:
            raise
        *holders, last = name.split(".")
        for part in holders:
            config = getattr(config, part)
        config = config.value if isinstance(config, ConfigurableInstance) else config
        raise FieldValidationError(config._fields[last], config, message) from error


def _named(config: Config, message: str) -> str | None:
    """The field of `config` whose dotted name stands first in `message`, the longest if several do."""
    places = {name: _stands_in(name, message) for name, _ in dotted_names(config)}
    found = [(place, -len(name), name) for name, place in places.items() if place is not None]
    return min(found)[2] if found else None


def _stands_in(name: str, message: str) -> int | None:
    """Where `name` begins in `message`, as a word that no longer name contains."""
    match = re.search(rf"(?<![\w.]){re.escape(name)}(?!\.?\w)", message)
    return None if match is None else match.start()
