"""Mask planes: names at the door, bits inside."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

_START_UP_PLANES = (
    "BAD",
    "SAT",
    "INTRP",
    "CR",
    "EDGE",
    "DETECTED",
    "DETECTED_NEGATIVE",
    "SUSPECT",
    "NO_DATA",
    "VIGNETTED",
    "STREAK",
)
_N_BITS = 31  # of a signed 32-bit mask; the sign bit is left alone


class MaskSchema:
    """
    Immutable map from the names of mask planes to their bit numbers.

    It travels with the mask: bit numbers differ between data releases, so nothing
    in the package hard-codes one.

    Parameters
    ----------
    planes : mapping of str to int
        Plane name to bit number, 0 to 30, each bit at most once.

    Raises
    ------
    ValueError
        If a bit number is out of range or used twice.

    Examples
    --------
    >>> schema = MaskSchema.lsst()
    >>> schema.bitmask("BAD", "SAT")
    3
    >>> schema.with_planes("CLIPPED").planes["CLIPPED"]
    11
    """

    __slots__ = ("_planes",)
    _planes: Mapping[str, int]

    def __init__(self, planes: Mapping[str, int]) -> None:
        checked: dict[str, int] = {}
        for name, bit in planes.items():
            number = int(bit)
            if not 0 <= number < _N_BITS:
                raise ValueError(f"mask plane {name!r} has bit {bit}; bits of an int32 mask are 0 to {_N_BITS - 1}")
            if number in checked.values():
                other = next(n for n, b in checked.items() if b == number)
                raise ValueError(f"mask planes {other!r} and {name!r} share bit {number}; each plane needs its own")
            checked[str(name)] = number
        object.__setattr__(self, "_planes", MappingProxyType(checked))

    @classmethod
    def lsst(cls) -> MaskSchema:
        """Planes that every LSST mask starts with, BAD 0 to STREAK 10."""
        return cls({name: bit for bit, name in enumerate(_START_UP_PLANES)})

    @property
    def planes(self) -> Mapping[str, int]:
        """Read-only mapping of plane name to bit number."""
        return self._planes

    def bitmask(self, *names: str) -> int:
        """
        OR of the bits of `names`.

        Raises
        ------
        KeyError
            If a name is not a plane of this schema.
        """
        bits = 0
        for name in names:
            if name not in self._planes:
                near = difflib.get_close_matches(name, self._planes, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise KeyError(f"no mask plane {name!r}{hint}; this mask has {', '.join(self._planes)}")
            bits |= 1 << self._planes[name]
        return bits

    def known_bitmask(self, names: object) -> int:
        """OR of the bits of those of `names` (an iterable of str) that this schema has; others are skipped."""
        return self.bitmask(*(name for name in names if name in self._planes))  # type: ignore[attr-defined]

    def with_planes(self, *names: str) -> MaskSchema:
        """
        Schema that also has `names`; a new plane takes the lowest free bit.

        Raises
        ------
        ValueError
            If all bits are taken.
        """
        planes = dict(self._planes)
        for name in names:
            if name in planes:
                continue
            free = (bit for bit in range(_N_BITS) if bit not in planes.values())
            bit = next(free, None)
            if bit is None:
                raise ValueError(f"no free bit for mask plane {name!r}: all {_N_BITS} are taken by {', '.join(planes)}")
            planes[name] = bit
        return MaskSchema(planes)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"MaskSchema is immutable; make a new one to change {name!r}")

    def __contains__(self, name: object) -> bool:
        return name in self._planes

    def __iter__(self) -> Iterator[str]:
        return iter(self._planes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MaskSchema) and dict(self._planes) == dict(other._planes)

    def __hash__(self) -> int:
        return hash(frozenset(self._planes.items()))

    def __reduce__(self) -> tuple[type[MaskSchema], tuple[dict[str, int]]]:
        return MaskSchema, (dict(self._planes),)

    def __repr__(self) -> str:
        return f"MaskSchema({dict(self._planes)})"
