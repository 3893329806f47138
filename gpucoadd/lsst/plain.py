"""What a Butler without the LSST stack holds: a masked image with its PSF, a mask, an image of counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ..backend import Array
from ..boxes import Box
from ..images import Frozen, MaskedImage, check_dtype, check_pair, check_schema
from ..masks import MaskSchema
from ..pieces import cutout_wcs, inside
from ..point_spread import Psf
from ..writing import square_of

_REAL = ("uint8", "int16", "uint16", "int32", "float32", "float64")  # what FITS keeps as it is


class _Placed:
    """What has pixels, a place in the parent frame and perhaps on the sky."""

    origin: tuple[int, int]
    wcs: Any
    _plane: ClassVar[str] = "image"

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) size in pixels."""
        return getattr(self, self._plane).shape

    @property
    def bbox(self) -> Box:
        """All of its pixels, in the parent frame."""
        return Box.of(self.shape, self.origin)

    def _piece(self, box: Any) -> tuple[tuple[slice, slice], dict[str, Any]]:
        """Rows and columns of `box`, and their place."""
        rows, columns = piece = inside(box, self.bbox)
        origin = self.origin[0] + rows.start, self.origin[1] + columns.start
        return piece, {"origin": origin, "wcs": cutout_wcs(self.wcs, piece)}


class PlainMaskedImage(_Placed, MaskedImage):
    """
    A masked image with what a warp has besides: its PSF, and anything else that was said about it.

    Parameters
    ----------
    image, variance : array, shape (y, x), float32
        Pixel values in `unit`, and variances in its square.
    mask : array, shape (y, x), int32
        Bits as named by `schema`.
    schema, origin, wcs, unit
        As in `gpucoadd.MaskedImage`.
    psf : Psf, optional
    psf_sigma : float, optional
        Width of the PSF in pixels; that of `psf` in the middle when left out or NaN, and NaN without one.
    metadata : mapping of str to str or number, optional
        Kept as a dict.

    Raises
    ------
    TypeError, ValueError
        As from `gpucoadd.MaskedImage`; if the image is not float32, `psf` is no `Psf`, or its width is asked for and
        cannot be measured.
    """

    psf: Psf | None
    psf_sigma: float
    metadata: dict[str, Any]

    def __init__(
        self,
        image: Array,
        variance: Array,
        mask: Array,
        *,
        schema: MaskSchema,
        origin: tuple[int, int] = (0, 0),
        wcs: Any = None,
        unit: str | None = None,
        psf: Psf | None = None,
        psf_sigma: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(image, variance, mask, schema=schema, origin=origin, wcs=wcs, unit=unit)
        check_dtype("image", image, ("float32",))
        check_dtype("variance", variance, ("float32",))
        if psf is not None and not isinstance(psf, Psf):
            raise TypeError(f"psf must be a gpucoadd.Psf, got {type(psf).__name__}; Psf(stamp) makes one of an image")
        sigma = math.nan if psf_sigma is None else float(psf_sigma)
        if math.isnan(sigma) and psf is not None:
            sigma = psf.moments(*self.bbox.center)[0]
        self._set(psf=psf, psf_sigma=sigma, metadata=dict(metadata or {}))

    @classmethod
    def of(cls, image: MaskedImage, *, psf: Psf | None = None, psf_sigma: float | None = None) -> PlainMaskedImage:
        """The pixels of a `MaskedImage`, and where they are not given its PSF and `psf_sigma`, such as a coadd has."""
        own = getattr(image, "psf", None)
        return cls(
            image.image,
            image.variance,
            image.mask,
            schema=image.schema,
            origin=image.origin,
            wcs=image.wcs,
            unit=image.unit,
            psf=own if psf is None and isinstance(own, Psf) else psf,
            psf_sigma=getattr(image, "psf_sigma", None) if psf_sigma is None else psf_sigma,
            metadata=getattr(image, "metadata", None),
        )

    def cutout(self, box: Any) -> PlainMaskedImage:
        """
        The pixels of a box in the parent frame, as views; PSF and its width stay.

        Raises
        ------
        TypeError, ValueError
            If it is no box, or not inside.
        """
        piece, place = self._piece(box)
        image, variance, mask = self.image[piece], self.variance[piece], self.mask[piece]
        return PlainMaskedImage(image, variance, mask, schema=self.schema, **self._about(), **place)

    def with_planes(
        self, image: Array, variance: Array, mask: Array, *, schema: MaskSchema | None = None, psf: Psf | None = None
    ) -> PlainMaskedImage:
        """
        Other values of the same pixels, with the metadata and the PSF of this one.

        Parameters
        ----------
        image, variance : array, shape (y, x), float32
        mask : array, shape (y, x), int32
        schema : MaskSchema, optional
            Of `mask`; that of this image when left out.
        psf : Psf, optional
            Another PSF; its width is measured.

        Raises
        ------
        TypeError, ValueError
            As of `MaskedImage.with_planes`, and as when one is made.
        """
        self._check_covers(image)
        about = self._about() | ({} if psf is None else {"psf": psf, "psf_sigma": None})
        place: dict[str, Any] = {"origin": self.origin, "wcs": self.wcs}
        return PlainMaskedImage(image, variance, mask, schema=schema or self.schema, **about, **place)

    def _about(self) -> dict[str, Any]:
        """What there is besides planes and place."""
        return {"unit": self.unit, "psf": self.psf, "psf_sigma": self.psf_sigma, "metadata": self.metadata}

    def part(self, name: str) -> PlainImage | PlainMask:
        """One of the planes "image", "variance" and "mask" with its place on the sky."""
        place: dict[str, Any] = {"origin": self.origin, "wcs": self.wcs}
        if name == "mask":
            return PlainMask(self.mask, schema=self.schema, **place)
        if name == "variance":
            return PlainImage(self.variance, unit=None if self.unit is None else square_of(self.unit), **place)
        return PlainImage(self.image, unit=self.unit, **place)


class PlainMask(_Placed, Frozen):
    """
    A mask.

    Parameters
    ----------
    mask : array, shape (y, x), int32
        Bits as named by `schema`.
    schema : MaskSchema
        With one plane at least.
    origin : (int, int)
        (y, x) of the first pixel in the parent frame.
    wcs : object, optional
        Carried; only an `astropy.wcs.WCS` is written to files.

    Raises
    ------
    TypeError
        If `mask` is no int32, or `schema` no `MaskSchema`.
    ValueError
        If `mask` is not 2-d, or `schema` has no plane.
    """

    mask: Array
    schema: MaskSchema
    origin: tuple[int, int]
    wcs: Any
    _plane = "mask"

    def __init__(self, mask: Array, *, schema: MaskSchema, origin: tuple[int, int] = (0, 0), wcs: Any = None) -> None:
        _check_2d("mask", mask)
        check_dtype("mask", mask, ("int32",))
        check_schema(schema)
        if not schema.planes:
            raise ValueError("schema has no plane; it must name those of the mask, one at least")
        self._set(mask=mask, schema=schema, origin=check_pair("origin", origin), wcs=wcs)

    def cutout(self, box: Any) -> PlainMask:
        """The pixels of a box in the parent frame, as a view; TypeError or ValueError if it is not inside."""
        piece, place = self._piece(box)
        return PlainMask(self.mask[piece], schema=self.schema, **place)

    def __repr__(self) -> str:
        return f"PlainMask(shape={self.shape}, origin={self.origin}, planes={', '.join(self.schema)})"


class PlainImage(_Placed, Frozen):
    """
    One plane of numbers, such as the epochs that contributed to a coadd.

    Parameters
    ----------
    image : array, shape (y, x), uint8, int16, uint16, int32, float32 or float64
        Pixel values in `unit`.
    origin : (int, int)
        (y, x) of the first pixel in the parent frame.
    wcs : object, optional
        Carried; only an `astropy.wcs.WCS` is written to files.
    unit : str, optional
        As in the FITS card BUNIT.

    Raises
    ------
    TypeError
        If `image` has another dtype, which FITS would not give back.
    ValueError
        If `image` is not 2-d.

    Examples
    --------
    >>> import numpy as np
    >>> counts = PlainImage(np.arange(6, dtype=np.int32).reshape(2, 3), origin=(5, 7))
    >>> counts.cutout((8, 5, 2, 1)).image.tolist()
    [[1, 2]]
    """

    image: Array
    origin: tuple[int, int]
    wcs: Any
    unit: str | None

    def __init__(
        self, image: Array, *, origin: tuple[int, int] = (0, 0), wcs: Any = None, unit: str | None = None
    ) -> None:
        _check_2d("image", image)
        check_dtype("image", image, _REAL)
        self._set(image=image, origin=check_pair("origin", origin), wcs=wcs, unit=unit)

    def cutout(self, box: Any) -> PlainImage:
        """The pixels of a box in the parent frame, as a view; TypeError or ValueError if it is not inside."""
        piece, place = self._piece(box)
        return PlainImage(self.image[piece], unit=self.unit, **place)

    def __repr__(self) -> str:
        return f"PlainImage(shape={self.shape}, dtype={self.image.dtype}, origin={self.origin}, unit={self.unit!r})"


def _check_2d(name: str, array: Array) -> None:
    if getattr(array, "ndim", None) != 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {getattr(array, 'shape', None)}; it must be (y, x) and not empty")
