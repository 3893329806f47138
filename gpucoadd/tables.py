"""
Tables that come with a stack: catalogues, detectors, factors.

Why astropy is imported inside functions: nobody pays for it who has no table.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np


def read_table(table: Any, name: str, columns: Sequence[str]) -> Any:
    """
    An astropy table that has `columns`, read from a file if `table` is a path.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        If `table` is neither a table nor a path.
    ValueError
        If the file is no table that astropy knows by itself, or a column is missing.
    """
    from astropy.table import Table

    where = name
    if isinstance(table, (str, os.PathLike)):
        where = os.fspath(table)
        table = _from_file(where)
    elif not isinstance(table, Table):
        raise TypeError(f"{name} must be an astropy Table or a path, got {type(table).__name__}")
    missing = [column for column in columns if column not in table.colnames]
    if missing:
        raise ValueError(
            f"{where} has no column {', '.join(missing)}; it needs {', '.join(columns)} and has "
            f"{', '.join(table.colnames) or 'none'}"
        )
    return table


def _from_file(path: str) -> Any:
    from astropy.table import Table

    if not os.path.exists(path):
        raise FileNotFoundError(f"no file {path}; check the name")
    try:
        return Table.read(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as a table ({reason}); write it as .ecsv, .csv or .fits, for instance"
        ) from error


def in_unit(table: Any, column: str, unit: str) -> np.ndarray:
    """
    A column of numbers as float64 in `unit`, which is also taken where the column has none; NaN where masked.

    Raises
    ------
    ValueError
        If they are no numbers, or of another kind of unit.
    """
    values = table[column]
    raw = getattr(values, "value", values)
    try:
        numbers = np.asarray(raw.astype(np.float64).filled(np.nan) if hasattr(raw, "filled") else raw, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"column {column} must hold numbers, got {raw.dtype}") from None
    return numbers * _factor(column, getattr(values, "unit", None), unit)


def _factor(column: str, given: Any, unit: str) -> float:
    """What takes numbers from the unit `given` to `unit`."""
    from astropy import units

    if given is None or given == units.dimensionless_unscaled:
        return 1.0  # a bare number is what the documentation of the column says
    try:
        return float(units.Quantity(1.0, given).to_value(unit))
    except (TypeError, ValueError):
        wanted = f"an angle, such as {unit}" if unit else "a number without a unit"
        raise ValueError(f"column {column} is in {given}; it must be {wanted}") from None


def scalars(table: Any, column: str) -> list[Any]:
    """Items of a column as Python has them, texts without the blanks around them."""
    items = table[column].tolist()
    return [item.strip() if isinstance(item, str) else _text(item) for item in items]


def _text(item: Any) -> Any:
    return item.decode("utf-8", "replace").strip() if isinstance(item, bytes) else item


def as_known(ids: Sequence[Any], known: Sequence[Hashable]) -> list[Any]:
    """
    Ids as a stack has them: those equal to one of its ids, or written alike; others as they are.

    A table may have the number 1001 where the stack has the text, and the other way round.

    Examples
    --------
    >>> as_known(["1001", "x7", 12], [1001, "x7", "12"])
    [1001, 'x7', '12']
    """
    exact, written = set(known), {str(epoch): epoch for epoch in known}
    return [given if given in exact else written.get(str(given), given) for given in ids]
