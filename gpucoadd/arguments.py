"""What is typed on the command line, as values: sizes, options, files of options."""

from __future__ import annotations

import ast
import contextlib
import math
import os
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from typing import Any


class UsageError(ValueError):
    """The command line itself is wrong."""


def parse_memory(text: str) -> int:
    """
    Bytes for a size as people write it.

    K, M, G, T and KiB, MiB, GiB, TiB are powers of 1024; KB, MB, GB, TB powers of 1000.

    Raises
    ------
    ValueError
        If it is no size, or less than a byte.

    Examples
    --------
    >>> parse_memory("4G"), parse_memory("1.5 KiB"), parse_memory("2MB"), parse_memory("4096")
    (4294967296, 1536, 2000000, 4096)
    """
    found = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*(?:([KMGT])(iB|B)?|B)?\s*", text, flags=re.IGNORECASE)
    if found is None:
        raise UsageError(f"--memory must be a size such as 4G, 512MiB or 2000000000, got {text!r}")
    number, letter, ending = found.groups()
    base = 1000 if (ending or "").lower() == "b" else 1024
    size = int(float(number) * base ** (" KMGT".index(letter.upper()) if letter else 0))
    if size < 1:
        raise UsageError(f"--memory must be positive, got {text!r}")
    return size


def parse_value(text: str) -> Any:
    """
    Value of an option: TOML, else a Python literal, else the text itself.

    Examples
    --------
    >>> [parse_value(text) for text in ("MEDIAN", "5", "true", "False", '["BAD", "SAT"]', "{SAT = 0.2}")]
    ['MEDIAN', 5, True, False, ['BAD', 'SAT'], {'SAT': 0.2}]
    """
    with contextlib.suppress(tomllib.TOMLDecodeError):
        parsed = tomllib.loads(f"value = {text}")
        if list(parsed) == ["value"]:
            return parsed["value"]
    with contextlib.suppress(ValueError, SyntaxError, RecursionError):
        return ast.literal_eval(text.strip())
    return text


def check_positive(values: Mapping[str, float | None]) -> None:
    """Raise UsageError unless every value, by the name it is typed under, is positive and finite, or None."""
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{name} must be positive, got {value}")


def read_ids(text: str) -> list[str]:
    """
    Ids of epochs, separated by commas, or the lines of a file; empty lines, and those that begin with #, do not count.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no text, or there is no id.

    Examples
    --------
    >>> read_ids("12, 15,7")
    ['12', '15', '7']
    """
    if os.path.isfile(text):
        with open(text, encoding="utf-8") as stream:
            try:
                parts = [line for line in stream if not line.lstrip().startswith("#")]
            except UnicodeDecodeError as error:
                raise UsageError(f"{text} is no file of ids, one a line: {error}") from error
    else:
        parts = text.split(",")
    ids = [part.strip() for part in parts if part.strip()]
    if not ids:
        raise UsageError(f"--epochs must name epochs, such as 12,15,7, or a file of one id a line, got {text!r}")
    return ids


def read_options(
    file: str | None,
    assignments: Sequence[str],
    *,
    tables: Collection[str] | None = None,
    example: str = "detect.thresholdValue=5",
) -> dict[str, Any]:
    """
    Options by dotted name: those of a TOML file, then `NAME=VALUE` texts, of which later ones win.

    Parameters
    ----------
    file : str or None
        TOML; a table in it is a prefix of names, unless it is the value of an option.
    assignments : sequence of str
        Values are taken as `parse_value` takes them.
    tables : collection of str, optional
        Names of the options whose value is itself a table; those of a coadd when left out.
    example : str
        For the message.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not TOML, or a text is not `NAME=VALUE`.
    """
    options = {} if file is None else _flat(_read_toml(file), tables=_table_options() if tables is None else tables)
    for text in assignments:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(f"-c takes NAME=VALUE, such as {example}, got {text!r}")
        options.pop(name, None)  # to the end: under another spelling of its name, too, the last one wins
        options[name] = parse_value(value)
    return options


def _read_toml(file: str) -> dict[str, Any]:
    with open(file, "rb") as stream:
        try:
            return tomllib.load(stream)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not TOML: {error}") from error


def _table_options() -> frozenset[str]:
    """Names of the options of a coadd whose value is itself a table."""
    from .configuration import CoaddConfig
    from .options import leaves

    tables = [(path, lsst) for path, lsst, value in leaves(CoaddConfig()) if isinstance(value, Mapping)]
    return frozenset(name for path, lsst in tables for name in (".".join(path), lsst) if name)


def _flat(table: Mapping[str, Any], *, tables: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, Mapping) and name not in tables:
            flat.update(_flat(value, tables=tables, prefix=f"{name}."))
        else:
            flat[name] = value
    return flat
