"""
Pieces of image files: what their headers tell, boxes of pixels, one plane alone.

Where a pipeline asks for a box of a warp, or for its mask only, the rest of the file stays unread: rows of plain
images, tiles of compressed ones.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .boxes import Box, as_box
from .fits import celestial_wcs, describe, origin_of
from .layouts import Plane, as_float32, common_schema, decode, lone_mask, lone_plane, recognise, translate
from .masks import MaskSchema
from .sources import Exposure, Pool, section
from .writing import read_metadata

PLANES = ("image", "variance", "mask")


class ImageFile:
    """
    A file with image, variance and mask, in any layout that `gpucoadd.read_image` knows, to be read in pieces.

    Headers are read at once, pixels when asked for. To be used in a `with` block, which closes the file.

    Parameters
    ----------
    path : path
        The file; a weight file beside it is taken with it.

    Attributes
    ----------
    box : Box
        All of its pixels, in the parent frame.
    schema : MaskSchema
        Planes of its mask, and NO_DATA.
    wcs : astropy.wcs.WCS or None
    unit : str or None
    psf : Psf or None
        Its HDU PSF.
    psf_sigma : float
        Pixels: card PSFSIGMA, else the width of `psf`, else another card that tells it; NaN where none does.
    metadata : dict
        As `gpucoadd.fits.write_planes` was given it.

    Raises
    ------
    FileNotFoundError, OSError
        If the file does not exist or cannot be read.
    ValueError
        If it is not FITS, truncated, or of no known layout.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._pool = Pool()
        try:
            found = describe(os.fspath(path), self._pool, recognise, as_written=True)
            with self._pool.using(found.exposure) as files:
                self.metadata = read_metadata(files[0][0].header)
        except BaseException:
            self._pool.close()
            raise
        self._exposure, self._layout = found.exposure, found.layout
        self.box = Box.of(found.shape, found.origin)
        self.schema = common_schema([(found.path, found.layout)])
        self.wcs, self.unit, self.psf, self.psf_sigma = found.wcs, found.unit, found.psf, found.sigma

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.close()

    def place(self, box: Any = None) -> tuple[Box, Any]:
        """`box`, or all pixels, as a `Box`, and the WCS of what `read` gives; ValueError if it is not inside."""
        with _naming(self._exposure):
            piece = inside(box, self.box)
        return self.box if box is None else as_box(box), cutout_wcs(self.wcs, piece)

    def read(self, box: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Image, variance (float32) and mask (int32) in a box.

        Parameters
        ----------
        box : Box, or what `as_box` takes, optional
            In the parent frame; everything when left out.

        Raises
        ------
        ValueError
            If the box is not inside; if pixels cannot be decoded, or a mask bit has no name.
        """
        image, noise = (self._section(plane, box) for plane in (self._layout.image, self._layout.noise))
        mask = None if self._layout.mask is None else self._section(self._layout.mask, box)
        with _naming(self._exposure):
            return decode(image, noise, mask, self._layout, self.schema)

    def plane(self, name: str, box: Any = None) -> np.ndarray:
        """
        One of "image", "variance" and "mask" in a box, as from `read`; an afw file is read no further.

        Raises
        ------
        ValueError
            As from `read`.
        """
        if not self._layout.complete or self._layout.mask is None:
            return self.read(box)[PLANES.index(name)]
        if name == "mask":
            bits = self._section(self._layout.mask, box)
            with _naming(self._exposure):
                return translate(bits, self._layout, self.schema)
        return as_float32(self._section(self._layout.image if name == "image" else self._layout.noise, box))

    def _section(self, plane: Plane, box: Any) -> np.ndarray:
        with _naming(self._exposure):
            piece = inside(box, self.box)
        with self._pool.using(self._exposure) as files:
            return section(files, self._exposure, plane, *piece)


class LonePlane(NamedTuple):
    """
    One 2-d image of a file.

    Attributes
    ----------
    array : numpy.ndarray or None, shape (y, x)
        Native byte order; None where no pixels were asked for.
    box : Box
        Of the array; all of the file's where no pixels were asked for.
    wcs : astropy.wcs.WCS or None
        Of the array.
    unit : str or None
    schema : MaskSchema or None
        Of a mask.
    """

    array: np.ndarray | None
    box: Box
    wcs: Any
    unit: str | None
    schema: MaskSchema | None


def read_plane(path: str | os.PathLike[str], *, name: str = "IMAGE", box: Any = None, pixels: bool = True) -> LonePlane:
    """
    One HDU of a file, such as `gpucoadd.fits.write_array` and `write_mask` make it.

    Parameters
    ----------
    path : path
    name : str
        Of the HDU. MASK is decoded to int32 with the bits that its header names.
    box : Box, or what `as_box` takes, optional
        In the parent frame; everything when left out.
    pixels : bool
        Whether to read them.

    Raises
    ------
    FileNotFoundError, OSError
        If the file does not exist or cannot be read.
    ValueError
        If it is not FITS, truncated or damaged; if it has no such HDU, or two; if the box is not inside; if a mask bit
        has no name.
    """
    exposure, pool = Exposure([os.fspath(path)]), Pool()
    try:
        with pool.using(exposure) as files:
            hdus = files[0]
            layout = lone_mask(exposure.paths[0], hdus) if name == "MASK" else None
            plane = layout.image if layout is not None else lone_plane(exposure.paths[0], hdus, name)
            header = hdus[plane.hdu].header
            whole = Box.of(hdus[plane.hdu].shape, origin_of(exposure.paths[0], header))
            schema = None if layout is None else MaskSchema(layout.planes)
            with _naming(exposure):
                piece = inside(box, whole)
            array = section(files, exposure, plane, *piece) if pixels else None
            if array is not None and layout is not None and schema is not None:
                with _naming(exposure):
                    array = translate(array, layout, schema)
            elif array is not None:
                array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
            return LonePlane(
                array,
                whole if box is None or not pixels else as_box(box),
                cutout_wcs(celestial_wcs(exposure.paths[0], header, hdus), piece),
                str(header.get("BUNIT") or "").strip() or None,
                schema,
            )
    finally:
        pool.close()


def inside(box: Any, whole: Box) -> tuple[slice, slice]:
    """
    Rows and columns of a box, counted from the first pixel of an image that covers `whole`; all without a box.

    Raises
    ------
    TypeError
        If it is no box.
    ValueError
        If it is empty or not inside.
    """
    if box is None:
        return slice(0, whole.height), slice(0, whole.width)
    return as_box(box).within(whole)


def cutout_wcs(wcs: Any, piece: Sequence[slice]) -> Any:
    """WCS of rows and columns of an image: an `astropy.wcs.WCS` counts pixels from the first one, others stay."""
    from astropy.wcs import WCS

    return wcs[tuple(piece)] if isinstance(wcs, WCS) else wcs


@contextlib.contextmanager
def _naming(exposure: Exposure) -> Iterator[None]:
    """Errors about the content of a file name it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{exposure.paths[0]}: {error}") from None
