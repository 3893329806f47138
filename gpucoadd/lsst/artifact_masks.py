"""What a search for artifacts found, as the reference's tasks hand it on: one table of pixel sets per epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableSequence, Sequence
from typing import Any

import numpy as np

from ..artifacts import Artifacts
from ..backend import array_module, to_device, to_host, using
from ..boxes import Box
from ..pixel_sets import PixelSet, pieces, plane_of
from ..planes import BitPlanes, Flags
from .loaded import like_sets

Table = Mapping[str, Sequence[Any]]


class ArtifactMasks(MutableSequence):
    """
    For every epoch a dict of plane name to sets of pixels: CLIPPED, NO_DATA and EDGE.

    The sets are made when somebody looks at them; as long as nobody has, the stack takes the flags as they are.

    Parameters
    ----------
    artifacts : Artifacts
        Of all epochs.
    box : Box
        Pixels of the patch.
    exposures : sequence of object or None, (epoch,)
        In whose kind the sets are given; None for an epoch without a twin, which has no EDGE.

    Attributes
    ----------
    artifacts : Artifacts
        As given.
    as_found : bool
        Whether nobody has looked at a set yet, so that `artifacts` has all there is. Afterwards the sets count, which
        may have been changed.
    """

    def __init__(self, artifacts: Artifacts, box: Box, exposures: Sequence[Any]) -> None:
        self.artifacts = artifacts
        self._box, self._exposures = box, exposures
        self._tables: list[Any] = [None] * len(exposures)
        self.as_found = True

    def __len__(self) -> int:
        return len(self._tables)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        self.as_found = False
        if self._tables[index] is None:
            self._tables[index] = self._table(range(len(self))[index])
        return self._tables[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._all()[index] = value

    def __delitem__(self, index: Any) -> None:
        del self._all()[index]

    def insert(self, index: int, value: Any) -> None:
        """As that of a list."""
        self._all().insert(index, value)

    def _all(self) -> list[Any]:
        """Every table: what has none yet cannot change its place."""
        self[:]
        return self._tables

    def _table(self, epoch: int) -> dict[str, list[Any]]:
        exposure = self._exposures[epoch]
        table = {"CLIPPED": like_sets(self._pieces("clipped", epoch, diagonal=True), exposure)}
        # the reference has one empty set where there is nothing
        table["NO_DATA"] = like_sets(self._pieces("no_data", epoch) or [PixelSet()], exposure)
        if exposure is not None:
            table["EDGE"] = like_sets(self._pieces("edge", epoch) or [PixelSet()], exposure)
        return table

    def _pieces(self, kind: str, epoch: int, *, diagonal: bool = False) -> list[PixelSet]:
        return pieces(to_host(self.artifacts.plane(kind, epoch)), self._box.origin, diagonal=diagonal)


def as_flags(tables: Sequence[Table | None], box: Box, *, device: str = "cpu") -> dict[str, BitPlanes]:
    """
    Plane name to the pixels of every epoch that are in its sets; a table that is None has none.

    `device` is as in `gpucoadd.backend.resolve_device`.
    """
    names = dict.fromkeys(name for table in tables for name in table or {})
    flags = {}
    for name in names:
        planes = [plane_of((table or {}).get(name, ()), box) for table in tables]
        for epoch, plane in enumerate(to_device(plane, device) for plane in planes):
            with using(plane):
                if name not in flags:
                    flags[name] = BitPlanes((len(tables), *box.shape), array_module(plane))
                flags[name].set_planes([epoch], Flags.of(plane[None]))
    return flags


def edge_plane(tables: Iterable[Table | None], box: Box) -> np.ndarray:
    """(y, x) bool: in an EDGE set of any epoch."""
    return plane_of([pixels for table in tables for pixels in (table or {}).get("EDGE", ())], box)
