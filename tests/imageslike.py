"""Stand-ins with those attributes of `lsst.images` objects that gpucoadd uses, from that package's documents."""

from collections import namedtuple

import numpy as np

Interval = namedtuple("Interval", "start stop")
MaskPlane = namedtuple("MaskPlane", "name description")


class Box:
    def __init__(self, y, x):
        self.y, self.x = y, x

    @classmethod
    def from_shape(cls, shape, start):
        return cls(*(Interval(first, first + n) for first, n in zip(start, shape)))

    @property
    def shape(self):
        return self.y.stop - self.y.start, self.x.stop - self.x.start


class MaskSchema:
    def __init__(self, planes):
        self._planes = list(planes)

    def __iter__(self):
        return iter(self._planes)

    @property
    def names(self):
        return [plane.name for plane in self._planes if plane is not None]

    def where(self, name):
        number = [None if plane is None else plane.name for plane in self._planes].index(name)
        return number // 8, 1 << number % 8


class Image:
    def __init__(self, array, unit=None, bbox=None):
        self.array, self.unit, self.bbox = array, unit, bbox


class Mask:
    def __init__(self, fill, *, schema, bbox):
        n_bytes = -(-len(list(schema)) // 8)
        self.array = np.full((*bbox.shape, n_bytes), fill, np.uint8)
        self.schema, self.bbox = schema, bbox

    def get(self, name):
        byte, bit = self.schema.where(name)
        return self.array[:, :, byte] & bit != 0

    def clear(self):
        self.array[...] = 0

    def set(self, name, where):
        byte, bit = self.schema.where(name)
        self.array[:, :, byte][where] |= np.uint8(bit)


class Psf:
    def __init__(self, stamp):
        self._stamp = stamp

    def compute_kernel_image(self, *, x, y):
        return Image(self._stamp)


class MaskedImage:
    def __init__(self, image, variance, mask, *, bbox, unit=None, psf=None):
        self.image, self.variance, self.mask = Image(image, unit), Image(variance), mask
        self.bbox, self.unit, self.psf, self.sky_projection = bbox, unit, psf, "a projection"

    @classmethod
    def of(cls, image, variance, flags, *, start, **more):
        """From planes of flags by name, with a gap in the schema."""
        bbox = Box.from_shape(image.shape, start)
        first, *rest = [MaskPlane(name, "") for name in flags]
        mask = Mask(0, schema=MaskSchema([first, None, *rest]), bbox=bbox)
        for name, where in flags.items():
            mask.set(name, where)
        return cls(image, variance, mask, bbox=bbox, **more)

    def __getitem__(self, box):
        """View of a part of it."""
        part = tuple(
            slice(cut.start - own.start, cut.stop - own.start)
            for cut, own in ((box.y, self.bbox.y), (box.x, self.bbox.x))
        )
        mask = Mask(0, schema=self.mask.schema, bbox=box)
        mask.array = self.mask.array[part]
        planes = self.image.array[part], self.variance.array[part], mask
        return type(self)(*planes, bbox=box, unit=self.unit, psf=self.psf)

    def copy(self):
        mask = Mask(0, schema=self.mask.schema, bbox=self.bbox)
        mask.array[...] = self.mask.array
        planes = self.image.array.copy(), self.variance.array.copy(), mask
        return type(self)(*planes, bbox=self.bbox, unit=self.unit, psf=self.psf)

    def cut(self, box):
        """Part of it: what a reader gives for a bbox."""
        rows = slice(box.y.start - self.bbox.y.start, box.y.stop - self.bbox.y.start)
        columns = slice(box.x.start - self.bbox.x.start, box.x.stop - self.bbox.x.start)
        mask = Mask(0, schema=self.mask.schema, bbox=box)
        mask.array[...] = self.mask.array[rows, columns]
        planes = self.image.array[rows, columns].copy(), self.variance.array[rows, columns].copy(), mask
        return type(self)(*planes, bbox=box, unit=self.unit, psf=self.psf)
