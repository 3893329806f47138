"""
Sources of planes made of other sources: some of the epochs in an order of their own, or with other fluxes.

Nothing is copied or computed before a step reads. On a device such a source stays outermost, with the files or arrays
below it, so that pixels travel as they would without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from . import primitives
from .backend import Array, array_module, using
from .images import PlaneSource
from .memory import source_device

Planes = tuple[Array, Array, Array]


class _Wrapper:
    """What all such sources share; `source` is the one below."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.device = source_device(source)

    @property
    def seconds_reading(self) -> float:
        """Time during which at least one thread was reading."""
        return float(getattr(self.source, "seconds_reading", 0.0))

    def close(self) -> None:
        """Close the files, if there are any, when no thread is reading; reading opens them again."""
        if hasattr(self.source, "close"):
            self.source.close()


class SelectedSource(_Wrapper):
    """
    Some epochs of a source, in an order of their own.

    Parameters
    ----------
    source : PlaneSource
    epochs : sequence of int
        Positions in `source`.
    """

    def __init__(self, source: Any, epochs: Sequence[int]) -> None:
        if isinstance(source, SelectedSource):
            source, epochs = source.source, source.below(epochs)
        super().__init__(source)
        self.epochs = tuple(epochs)
        self.shape = (len(self.epochs), *source.shape[1:])
        self.in_memory = source.in_memory
        if hasattr(source, "start"):
            self.start = self._start

    def below(self, epochs: Sequence[int]) -> list[int]:
        """Positions in the source below."""
        return [self.epochs[epoch] for epoch in epochs]

    def read(self, epoch: int, rows: slice) -> Planes:
        """As that of the source below."""
        return self.source.read(self.epochs[epoch], rows)

    def _start(self, epochs: Sequence[int], rows: slice, submit: Any, out: Planes | None = None) -> Any:
        return self.source.start(self.below(epochs), rows, submit, out)

    def on_device(self, device: int) -> SelectedSource:
        """The same selection of what is below, on a device."""
        from .upload import on_device

        return SelectedSource(on_device(self.source, device), self.epochs)


class ScaledSource(_Wrapper):
    """
    A source with the image of each epoch times a factor, and its variance times the factor's square.

    Factor, square and products are float32, wherever the pixels are.

    Parameters
    ----------
    source : PlaneSource
    factors : sequence of numpy.float32
        One per epoch, as from `check_factors`.
    """

    in_memory = False  # every reading computes, so those who may keep what they read should

    def __init__(self, source: Any, factors: Sequence[Any]) -> None:
        super().__init__(source)
        self.shape = source.shape
        self.factors = tuple(factors)
        if self.device is not None:
            self.start = self._start

    def read(self, epoch: int, rows: slice) -> Planes:
        """New image and variance of one epoch; the mask is that of the source below."""
        image, variance, mask = self.source.read(epoch, rows)
        factor = self.factors[epoch]
        with using(image):
            return primitives.scale(image, factor), primitives.scale(variance, factor * factor), mask

    def _start(self, epochs: Sequence[int], rows: slice, submit: Any, out: Planes | None = None) -> _Scaling:
        below = self.source
        transfer = (
            below.start(epochs, rows, submit, out) if hasattr(below, "start") else _Copy(below, epochs, rows, out)
        )
        return _Scaling(transfer, [self.factors[epoch] for epoch in epochs])

    def on_device(self, device: int) -> ScaledSource:
        """The same factors for what is below, on a device."""
        from .upload import on_device

        return ScaledSource(on_device(self.source, device), self.factors)


class _Scaling:
    """A transfer whose planes are scaled, where they are, once they have come."""

    def __init__(self, transfer: Any, factors: Sequence[Any]) -> None:
        self._transfer, self._factors = transfer, factors

    def finish(self) -> Planes:
        """As `upload.Transfer.finish`."""
        planes: Planes = self._transfer.finish()
        image, variance, _ = planes
        with using(image):
            for position, factor in enumerate(self._factors):
                primitives.scale(image[position], factor, out=image[position])
                primitives.scale(variance[position], factor * factor, out=variance[position])
        return planes

    def abandon(self) -> None:
        """As `upload.Transfer.abandon`."""
        self._transfer.abandon()


class _Copy:
    """Planes of arrays on a device, copied, as an `upload.Transfer`: what is in them may be changed."""

    def __init__(self, source: PlaneSource, epochs: Sequence[int], rows: slice, out: Planes | None) -> None:
        self._read, self._epochs, self._rows, self._out = source.read, epochs, rows, out

    def finish(self) -> Planes:
        """New planes, or those given."""
        found = list(zip(*(self._read(epoch, self._rows) for epoch in self._epochs), strict=True))
        with using(found[0][0]):
            if self._out is None:
                image, variance, mask = (array_module(*planes).stack(planes) for planes in found)
                return image, variance, mask
            for target, planes in zip(self._out, found, strict=True):
                for position, plane in enumerate(planes):
                    target[position] = plane
        return self._out

    def abandon(self) -> None:
        """Nothing is under way."""


def is_selected(source: Any) -> bool:
    """Whether epochs were selected in what `source` is made of."""
    while source is not None:
        if isinstance(source, SelectedSource):
            return True
        source = getattr(source, "source", None)
    return False


def positions(epochs: Sequence[Hashable], known: Sequence[Hashable], *, missing: str) -> list[int]:
    """
    Where the ids `epochs` stand among those of a stack.

    Raises
    ------
    TypeError
        If `epochs` is one text, or no sequence.
    ValueError
        If an id is there twice, or is not `known` and `missing` is "error"; if no id is left.
    """
    if missing not in ("error", "ignore"):
        raise ValueError(f"missing must be 'error' or 'ignore', got {missing!r}")
    if isinstance(epochs, (str, bytes)) or not hasattr(epochs, "__iter__"):
        raise TypeError(f"epochs must be a sequence of ids, got {epochs!r}; put one id into a list")
    wanted = list(epochs)
    twice = [epoch for epoch, times in Counter(wanted).items() if times > 1]
    if twice:
        raise ValueError(f"epochs must name each epoch once; {_listed(twice)} is there more than once")
    where = {epoch: position for position, epoch in enumerate(known)}
    unknown = [epoch for epoch in wanted if epoch not in where]
    if unknown and missing == "error":
        raise ValueError(
            f"no epoch {_listed(unknown)}; the stack has {_listed(known)}. missing='ignore' (--skip-missing-epochs) "
            "leaves such ids out, as LSST does"
        )
    found = [where[epoch] for epoch in wanted if epoch in where]
    if not found:
        raise ValueError(f"no epoch is selected; the stack has {_listed(known)}")
    return found


def check_factors(factors: Mapping[Hashable, float] | Sequence[float], epochs: Sequence[Hashable]) -> tuple[Any, ...]:
    """
    One float32 factor for each of the ids `epochs`; a mapping may have more.

    Raises
    ------
    ValueError
        If there are too few or too many, or one, or its square, is not positive and finite in float32.
    """
    if isinstance(factors, Mapping):
        without = [epoch for epoch in epochs if epoch not in factors]
        if without:
            raise ValueError(f"factors has none for epoch {_listed(without)}; every epoch of the stack needs one")
        values = [factors[epoch] for epoch in epochs]
    else:
        if np.ndim(factors) != 1:
            raise ValueError(f"factors must be one number for each epoch, or a mapping of ids, got {factors!r}")
        values = list(factors)
        if len(values) != len(epochs):
            raise ValueError(f"factors has {len(values)} numbers but there are {len(epochs)} epochs; give one for each")
    return tuple(_checked(value, epoch) for value, epoch in zip(values, epochs, strict=True))


def _checked(value: Any, epoch: Hashable) -> np.float32:
    try:
        with np.errstate(over="ignore", under="ignore"):
            factor = np.float32(value)
            square = factor * factor
    except (TypeError, ValueError):
        factor = square = np.float32(np.nan)
    if not (factor > 0 and 0 < square < np.inf):
        raise ValueError(
            f"the factor of epoch {epoch!r} must be positive and finite, and its square in float32 too, got {value!r}"
        )
    return factor


def _listed(epochs: Any, most: int = 8) -> str:
    """Some ids for a message."""
    names = [repr(epoch) for epoch in epochs]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
