"""
Stand-ins with the attributes of `lsst.afw` and `lsst.geom` objects that gpucoadd uses, and no others.

Written from what those packages document. As there, the planes of all masks are one table: here that of a `Planes`.
"""

import numpy as np


class Point:
    """Point2I or Point2D."""

    def __init__(self, x, y):
        self._x, self._y = x, y

    def getX(self):
        return self._x

    def getY(self):
        return self._y


class Extent(Point):
    """Extent2I."""


class Box2I:
    def __init__(self, corner, dimensions):
        self._corner, self._dimensions = corner, dimensions

    @classmethod
    def of(cls, x0, y0, width, height):
        return cls(Point(x0, y0), Extent(width, height))

    def getMin(self):
        return self._corner

    def getDimensions(self):
        return self._dimensions

    def getMinX(self):
        return self._corner.getX()

    def getMinY(self):
        return self._corner.getY()

    def getWidth(self):
        return self._dimensions.getX()

    def getHeight(self):
        return self._dimensions.getY()

    def __iter__(self):
        raise TypeError("a Box2I is no sequence")


class Image:
    """ImageF, ImageD, ImageU: `array` and where its first pixel is."""

    def __init__(self, array, xy0=(0, 0)):
        self.array, self._xy0 = array, xy0

    def getArray(self):
        return self.array

    def getXY0(self):
        return Point(*self._xy0)

    def getBBox(self):
        return Box2I.of(*self._xy0, self.array.shape[1], self.array.shape[0])


class Planes(dict):
    """The process-wide table of mask planes."""

    def __init__(self, planes=None):
        start = "BAD SAT INTRP CR EDGE DETECTED DETECTED_NEGATIVE SUSPECT NO_DATA VIGNETTED STREAK".split()
        super().__init__({name: bit for bit, name in enumerate(start)} if planes is None else planes)


class Mask(Image):
    """MaskX: of a box, or by its pixels."""

    def __init__(self, array, planes=None, xy0=(0, 0)):
        if isinstance(array, Box2I):
            xy0, array = (array.getMinX(), array.getMinY()), np.zeros((array.getHeight(), array.getWidth()), np.int32)
        super().__init__(array, xy0)
        self._planes = Planes() if planes is None else planes

    def getMaskPlaneDict(self):
        return dict(self._planes)

    def addMaskPlane(self, name):
        bit = next(bit for bit in range(31) if bit not in self._planes.values())
        return self._planes.setdefault(name, bit)

    def getPlaneBitMask(self, names):
        names = [names] if isinstance(names, str) else names
        return sum(1 << self._planes[name] for name in names)


class MaskedImage:
    """MaskedImageF: no metadata, no PSF."""

    def __init__(self, image, variance, mask, planes, xy0=(0, 0)):
        self.image, self.variance = Image(image, xy0), Image(variance, xy0)
        self.mask = Mask(mask, planes, xy0)

    def getBBox(self):
        return self.image.getBBox()


class Exposure:
    """ExposureF: made of a box and a WCS, as coadds are, or by `of`."""

    def __init__(self, box, wcs=None, planes=None):
        x0, y0, width, height = box.getMinX(), box.getMinY(), box.getWidth(), box.getHeight()
        self._planes = Planes() if planes is None else planes
        self._fill(*(np.zeros((height, width), np.float32) for _ in range(2)), np.zeros((height, width), np.int32))
        self._move(x0, y0)
        self._wcs, self._psf, self._filter, self._photo_calib, self._metadata = wcs, None, None, None, {}

    @classmethod
    def of(cls, image, variance, mask, planes, *, xy0=(0, 0), psf=None, unit="nJy", wcs=None):
        made = cls(Box2I.of(*xy0, image.shape[1], image.shape[0]), wcs, planes)
        made._fill(image, variance, mask)
        made._move(*xy0)
        made._psf, made._filter, made._photo_calib = psf, "r", "calibrated"
        made._metadata = {} if unit is None else {"BUNIT": unit}
        return made

    def _fill(self, image, variance, mask):
        self.image, self.variance, self.mask = Image(image), Image(variance), Mask(mask, self._planes)

    def _move(self, x0, y0):
        for part in (self.image, self.variance, self.mask):
            part._xy0 = (x0, y0)

    def getBBox(self):
        return self.image.getBBox()

    def getXY0(self):
        return self.image.getXY0()

    def getWcs(self):
        return self._wcs

    def getPsf(self):
        return self._psf

    def setPsf(self, psf):
        self._psf = psf

    def getFilter(self):
        return self._filter

    def setFilter(self, label):
        self._filter = label

    def getPhotoCalib(self):
        return self._photo_calib

    def setPhotoCalib(self, calib):
        self._photo_calib = calib

    def getMetadata(self):
        return self._metadata

    metadata = property(getMetadata)

    def clone(self):
        planes = [part.array.copy() for part in (self.image, self.variance, self.mask)]
        xy0 = self.image._xy0
        made = type(self).of(*planes, self._planes, xy0=xy0, psf=self._psf, wcs=self._wcs)
        made._filter, made._photo_calib, made._metadata = self._filter, self._photo_calib, dict(self._metadata)
        return made

    def __getitem__(self, box):
        """View of a part of it."""
        x0, y0 = self.image._xy0
        rows = slice(box.getMinY() - y0, box.getMinY() - y0 + box.getHeight())
        columns = slice(box.getMinX() - x0, box.getMinX() - x0 + box.getWidth())
        planes = [part.array[rows, columns] for part in (self.image, self.variance, self.mask)]
        made = type(self).of(*planes, self._planes, xy0=(box.getMinX(), box.getMinY()), psf=self._psf, wcs=self._wcs)
        made._filter, made._photo_calib, made._metadata = self._filter, self._photo_calib, self._metadata
        return made

    def cut(self, box):
        """Part of it: what a reader gives for a bbox."""
        return self[box].clone()


class Quadrupole:
    def __init__(self, radius):
        self._radius = radius

    def getDeterminantRadius(self):
        return self._radius


class Psf:
    """KernelPsf: a stamp, the same everywhere, or a function of (x, y) that gives it."""

    def __init__(self, stamp, *, sigma=None, average=(0.0, 0.0)):
        self._stamp, self._sigma, self._average = stamp, sigma, average

    def getAveragePosition(self):
        return Point(*self._average)

    def computeKernelImage(self, position):
        assert isinstance(position, Point)
        stamp = self._stamp
        return Image(stamp(position.getX(), position.getY()) if callable(stamp) else stamp)

    def computeShape(self, position):
        assert isinstance(position, Point)
        if self._sigma is None:
            raise RuntimeError("no width")
        return Quadrupole(self._sigma)


class Kernel:
    """FixedKernel or LinearCombinationKernel: a stamp, the same everywhere, or a function of (x, y) that gives it."""

    def __init__(self, stamp):
        self._stamp = stamp

    def getDimensions(self):
        height, width = self._at(0.0, 0.0).shape
        return Extent(width, height)

    def isSpatiallyVarying(self):
        return callable(self._stamp)

    def computeImage(self, image, doNormalize, x=0.0, y=0.0):
        stamp = self._at(x, y)
        image.array[...] = stamp / stamp.sum() if doNormalize else stamp
        return stamp.sum()

    def _at(self, x, y):
        return self._stamp(x, y) if callable(self._stamp) else self._stamp


class SpanSet:
    """Pixels as spans (y, x0, x1), both ends included."""

    def __init__(self, spans):
        self._spans = [span if isinstance(span, Span) else Span(*span) for span in spans]

    def __iter__(self):
        return iter(self._spans)

    def getArea(self):
        return sum(span.getX1() - span.getX0() + 1 for span in self._spans)


class Span:
    def __init__(self, y, x0, x1):
        self._y, self._x0, self._x1 = y, x0, x1

    def getY(self):
        return self._y

    def getX0(self):
        return self._x0

    def getX1(self):
        return self._x1


class Footprint:
    def __init__(self, spans):
        self._spans = SpanSet(spans)

    def getSpans(self):
        return self._spans


class Handle:
    """A deferred dataset of an exposure: cut to a box on request; counts how often it is read."""

    def __init__(self, exposure, **data_id):
        self.exposure, self.dataId, self.boxes = exposure, data_id, []

    def get(self, *, component=None, parameters=None):
        if component is not None:
            return getattr(self.exposure, "get" + {"bbox": "BBox", "wcs": "Wcs", "psf": "Psf"}[component])()
        self.boxes.append((parameters or {}).get("bbox"))
        return self.exposure.clone() if self.boxes[-1] is None else self.exposure.cut(self.boxes[-1])
