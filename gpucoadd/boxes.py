"""Boxes of pixels, of any kind, and where one lies in another."""

from __future__ import annotations

from typing import Any, NamedTuple


class Box(NamedTuple):
    """Rectangle of pixels in the parent frame."""

    x0: int
    y0: int
    width: int
    height: int

    @property
    def origin(self) -> tuple[int, int]:
        """(y, x) of the first pixel."""
        return self.y0, self.x0

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) size in pixels."""
        return self.height, self.width

    @property
    def center(self) -> tuple[float, float]:
        """(y, x) of the middle, which is between pixels where a size is even."""
        return self.y0 + (self.height - 1) / 2, self.x0 + (self.width - 1) / 2

    def within(self, whole: Box) -> tuple[slice, slice]:
        """
        Rows and columns of this box, counted from the first pixel of one that it lies in.

        Raises
        ------
        ValueError
            If this one is empty, or not inside of `whole`.
        """
        y, x = self.y0 - whole.y0, self.x0 - whole.x0
        ends = y + self.height <= whole.height and x + self.width <= whole.width
        if min(self.width, self.height) < 1 or min(y, x) < 0 or not ends:
            raise ValueError(
                f"the box {self._words()} must hold a pixel and be inside of the image's, {whole._words()} (parent "
                "coordinates)"
            )
        return slice(y, y + self.height), slice(x, x + self.width)

    def _words(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self._asdict().items())

    @classmethod
    def of(cls, shape: tuple[int, int], origin: tuple[int, int] = (0, 0)) -> Box:
        """From a shape and an origin, both (y, x)."""
        return cls(origin[1], origin[0], shape[1], shape[0])


def as_box(box: Any) -> Box:
    """
    `Box` of what stands for one: a ``Box2I`` of `lsst.geom`, a ``Box`` of `lsst.images`, or x0, y0, width, height as a
    sequence or as attributes.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if isinstance(box, Box):
        return box
    if hasattr(box, "getMinX"):
        return Box(int(box.getMinX()), int(box.getMinY()), int(box.getWidth()), int(box.getHeight()))
    if hasattr(box, "getBeginX"):
        return Box(int(box.getBeginX()), int(box.getBeginY()), int(box.getWidth()), int(box.getHeight()))
    if hasattr(box, "y") and hasattr(box.y, "start"):
        return Box(int(box.x.start), int(box.y.start), int(box.x.stop - box.x.start), int(box.y.stop - box.y.start))
    if hasattr(box, "minX"):
        return Box(int(box.minX), int(box.minY), int(box.width), int(box.height))
    if hasattr(box, "x0") and hasattr(box, "width"):
        return Box(int(box.x0), int(box.y0), int(box.width), int(box.height))
    if isinstance(box, (tuple, list)) and len(box) == 4:
        return Box(*map(int, box))
    raise TypeError(f"a box must be x0, y0, width, height or an object of lsst.geom or lsst.images, got {box!r}")


def box_like(box: Box, like: Any) -> Any:
    """`box` as an object of the class of `like`, which is any that `as_box` takes."""
    if hasattr(like, "getMinX"):
        return type(like)(type(like.getMin())(box.x0, box.y0), type(like.getDimensions())(box.width, box.height))
    if hasattr(like, "y") and hasattr(like.y, "start"):
        return type(like).from_shape(box.shape, start=box.origin)
    return box
