"""Objects of `lsst.afw`, made by the modules that are loaded where there is one already: nothing is imported."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from ..pixel_sets import PixelSet


def loaded_afw(module: str, thing: Any) -> ModuleType | None:
    """
    A module of `lsst.afw` that is loaded, if `thing` is of that package; else None.

    Parameters
    ----------
    module : str
        Its name below ``lsst.afw``.
    thing : object
        Where its class, or one that this is derived from, is of `lsst.afw`, what is made for it must be too.
    """
    of_afw = any(kind.__module__.startswith("lsst.afw.") for kind in type(thing).__mro__)
    return sys.modules.get(f"lsst.afw.{module}") if of_afw else None


def like_sets(sets: list[PixelSet], exposure: Any) -> list[Any]:
    """The sets as ``SpanSet`` where `exposure` is of `lsst.afw`, which is loaded then; else as they are."""
    afw = loaded_afw("geom", exposure)
    if afw is None:
        return list(sets)
    return [afw.SpanSet([afw.Span(*map(int, span)) for span in pixels.spans]) for pixels in sets]
