"""Results in the kind that the warps have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import to_host
from ..coadds import Coadd
from ..exposure_masks import mask_given_back
from ..exposure_psfs import psf_of, psf_sigma
from ..exposures import given_back, is_of_images
from ..images import MaskedImage
from ..masks import MaskSchema
from ..point_spread import Psf
from .loaded import loaded_afw
from .plain import PlainImage, PlainMask, PlainMaskedImage
from .warps import WarpRef


def coadd_exposure(coadd: Coadd, refs: Sequence[WarpRef], *, planes: Sequence[str] = (), matched: bool = False) -> Any:
    """
    A coadd in the kind of its warps.

    Parameters
    ----------
    coadd : Coadd
    refs : sequence of WarpRef
        Its warps.
    planes : sequence of str
        Planes that are set later.
    matched : bool
        Whether the warps are PSF-matched, and the widest PSF among them is that of the coadd.

    Returns
    -------
    object
        A new one on the host: an exposure of `lsst.afw` or a masked image of `lsst.images`, in the dtypes of the first
        warp, or a `PlainMaskedImage`, float32. Its mask has the planes of the coadd and `planes`.

    Raises
    ------
    ValueError
        If the first warp has not the shape of the coadd.
    """
    host = [to_host(plane) for plane in (coadd.image, coadd.variance, coadd.mask)]
    pixels = coadd.with_planes(*host, schema=coadd.schema.with_planes(*planes))
    if isinstance(refs[0].row, MaskedImage):
        central = coadd.central_psf()
        psf = None if central is None else Psf(to_host(central[0]))
        return PlainMaskedImage.of(pixels, psf=psf, psf_sigma=coadd.psf_sigma)
    made = given_back(pixels, refs[0].whole(), anew=True)
    if is_of_images(made) and isinstance(getattr(made, "metadata", None), dict):
        made.metadata["PSFSIGMA"] = coadd.psf_sigma
    if matched and hasattr(made, "setPsf"):
        made.setPsf(psf_of(max(refs, key=lambda ref: psf_sigma(ref.row)).row))
    return made


def count_image(coadd: Coadd, ref: WarpRef) -> Any:
    """
    Epochs that contributed to each pixel, in the kind of a warp.

    Returns
    -------
    object
        ``ImageU`` of `lsst.afw` (uint16), which is loaded if the warp is of it; an image of `lsst.images`, or else a
        `PlainImage`, both int32.
    """
    counts = to_host(coadd.n_image)
    afw = loaded_afw("image", ref.row)
    if afw is not None:
        image = afw.ImageU(ref.bbox)
        image.array[...] = counts
        return image
    if is_of_images(ref.row):
        return type(ref.row.image)(counts, bbox=ref.bbox)
    return PlainImage(counts, origin=coadd.origin, wcs=coadd.wcs)


def mask_exposure(mask: np.ndarray, schema: MaskSchema, ref: WarpRef, *, wcs: Any) -> Any:
    """
    The mask of a warp, in its kind, with other pixels.

    Parameters
    ----------
    mask : numpy.ndarray, shape (y, x), int32
        Of the patch.
    schema : MaskSchema
        Names of its bits.
    ref : WarpRef
        The warp.
    wcs : object
        Of the patch.

    Returns
    -------
    object
        A new mask of `lsst.afw` or `lsst.images`, in which a plane may have another bit, or a `PlainMask`, with the
        bits of `schema`.
    """
    if isinstance(ref.row, MaskedImage):
        return PlainMask(mask, schema=schema, origin=ref.box.origin, wcs=wcs)
    return mask_given_back(mask, schema, ref.row.mask, ref.bbox)
