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
    def __init__(self, array, *, unit=None, bbox=None):
        self.array, self.unit, self.bbox = array, unit, bbox

    def copy(self):
        return type(self)(self.array.copy(), unit=self.unit, bbox=self.bbox)


class Mask:
    def __init__(self, fill, *, schema, bbox):
        n_bytes = -(-len(list(schema)) // 8)
        self.array = np.full((*bbox.shape, n_bytes), fill, np.uint8)
        self.schema, self.bbox = schema, bbox

    def copy(self):
        made = type(self)(0, schema=self.schema, bbox=self.bbox)
        made.array[...] = self.array
        return made

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
    def __init__(self, image, *, mask, variance, metadata=None):
        self.image, self.variance, self.mask = image, variance, mask
        self.metadata, self.sky_projection = dict(metadata or {}), "a projection"

    @classmethod
    def of(cls, image, variance, flags, *, start, unit=None, psf=None):
        """From planes of flags by name, with a gap in the schema; a `VisitImage` if there is a PSF."""
        bbox = Box.from_shape(image.shape, start)
        first, *rest = [MaskPlane(name, "") for name in flags]
        mask = Mask(0, schema=MaskSchema([first, None, *rest]), bbox=bbox)
        for name, where in flags.items():
            mask.set(name, where)
        planes = {"mask": mask, "variance": Image(variance, bbox=bbox)}
        image = Image(image, unit=unit, bbox=bbox)
        return MaskedImage(image, **planes) if psf is None else VisitImage(image, **planes, psf=psf)

    @property
    def bbox(self):
        return self.image.bbox

    @property
    def unit(self):
        return self.image.unit

    def _more(self):
        return {"metadata": self.metadata}

    def __getitem__(self, box):
        """View of a part of it."""
        part = tuple(
            slice(cut.start - own.start, cut.stop - own.start)
            for cut, own in ((box.y, self.bbox.y), (box.x, self.bbox.x))
        )
        mask = Mask(0, schema=self.mask.schema, bbox=box)
        mask.array = self.mask.array[part]
        image, variance = (Image(plane.array[part], unit=plane.unit, bbox=box) for plane in (self.image, self.variance))
        return type(self)(image, mask=mask, variance=variance, **self._more())

    def copy(self):
        planes = {"mask": self.mask.copy(), "variance": self.variance.copy()}
        return type(self)(self.image.copy(), **planes, **self._more())

    def cut(self, box):
        """Part of it: what a reader gives for a bbox."""
        return self[box].copy()


class VisitImage(MaskedImage):
    def __init__(self, image, *, mask, variance, psf, metadata=None):
        super().__init__(image, mask=mask, variance=variance, metadata=metadata)
        self.psf = psf

    def _more(self):
        return super()._more() | {"psf": self.psf}
