"""
How options find their names.

Options are small frozen dataclasses. Each field says which LSST configuration field it
answers to, so that one walk over the tree serves `from_lsst`, the command line and the
provenance written to files.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def option(lsst: str | None, default: Any) -> Any:
    """Dataclass field with its `default`, answering to the LSST field `lsst` (None: ours alone)."""
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata={"lsst": lsst})
    return dataclasses.field(default=default, metadata={"lsst": lsst})


def group(lsst: str, default: Any) -> Any:
    """Dataclass field that holds further options; `lsst` is their prefix, "" for none."""
    return dataclasses.field(default=default, metadata={"lsst": lsst})


def leaves(options: Any) -> Iterator[tuple[tuple[str, ...], str | None, Any]]:
    """Path of our names, LSST's dotted name (or None) and value of every single option."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        lsst = field.metadata["lsst"]
        if not dataclasses.is_dataclass(value):
            yield (field.name,), lsst, value
            continue
        for path, name, leaf in leaves(value):
            full = ".".join(part for part in (lsst, name) if part) if name is not None else None
            yield (field.name, *path), full, leaf


def as_names(options: Any) -> dict[str, Any]:
    """Every option under our dotted name, for provenance."""
    return {".".join(path): value for path, _, value in leaves(options)}


def check_names(name: str, names: Any) -> tuple[str, ...]:
    """`names`, a list of mask planes, as a tuple, or raise ValueError."""
    if not isinstance(names, (list, tuple, set, frozenset)) or not all(isinstance(plane, str) for plane in names):
        raise ValueError(f"{name} must be names of mask planes, as ('BAD', 'NO_DATA'), got {names!r}")
    return tuple(names)


def _convert(name: str, value: Any, current: Any) -> Any:
    """`value` in the type of `current`, or ValueError. None is a whole number that may be left open."""
    if current is None and value is None:
        return None
    wanted = int if current is None else type(current)
    if wanted is bool or isinstance(value, bool):
        fits = isinstance(value, bool) and wanted is bool
    elif wanted is float:
        fits = isinstance(value, (int, float))
    elif wanted is int:
        fits = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    elif wanted is tuple:
        fits = isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(v, str) for v in value)
    elif wanted is dict:
        fits = isinstance(value, Mapping)
    else:
        fits = isinstance(value, str)
    if not fits:
        words = {bool: "true or false", tuple: "a list of strings", dict: "a table of plane = threshold"}
        raise ValueError(f"{name} must be {words.get(wanted, wanted.__name__)}, got {value!r}")
    return wanted(value)


def with_overrides(
    options: T,
    overrides: Mapping[str, Any],
    *,
    own_names: bool,
    without_effect: frozenset[str] = frozenset(),
    prefix: str = "",
) -> T:
    """
    `options` with some values replaced.

    Parameters
    ----------
    options : dataclass
        The defaults.
    overrides : mapping of str to object
        Dotted names to values.
    own_names : bool
        Whether our names are understood beside LSST's.
    without_effect : frozenset of str
        LSST names that are accepted and dropped, with all names below them.
    prefix : str
        What stands before LSST's names in `overrides`.

    Raises
    ------
    ValueError
        If a name is unknown or a value does not fit; the message names the field.
    """
    known: dict[str, tuple[tuple[str, ...], Any]] = {}
    for path, lsst, value in leaves(options):
        if own_names:
            known[".".join(path)] = (path, value)
        if lsst is not None:
            known[prefix + lsst] = (path, value)
    tree: dict[str, Any] = {}
    for name, value in overrides.items():
        if name not in known and any(part in without_effect for part in _prefixes(name.removeprefix(prefix))):
            continue
        if name not in known:
            raise unknown(name, [*known, *(prefix + dropped for dropped in without_effect)])
        path, current = known[name]
        branch = tree
        for part in path[:-1]:
            branch = branch.setdefault(part, {})
        branch[path[-1]] = _convert(name, value, current)
    return _replace(options, tree)


def unknown(name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not one of `known`."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return ValueError(f"no configuration field {name!r}; nearest: {', '.join(near) or 'none'}")


def _prefixes(name: str) -> list[str]:
    """``a.b.c`` gives ``a``, ``a.b``, ``a.b.c``."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _replace(options: T, tree: Mapping[str, Any]) -> T:
    """Copy of nested dataclasses with the leaves of `tree` in place; each level is validated when made."""
    changes = {
        name: _replace(getattr(options, name), value) if dataclasses.is_dataclass(getattr(options, name)) else value
        for name, value in tree.items()
    }
    return dataclasses.replace(options, **changes)  # type: ignore[type-var]
