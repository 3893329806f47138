"""
FITS files: warps and images in, images, masks and counts out.

Reading recognises these layouts (`layouts` has the details):

========================= ============================ =========================== ===================================
layout                    image                        noise                       mask
========================= ============================ =========================== ===================================
LSST afw                  IMAGE                        VARIANCE                    MASK, `MP_<NAME>` = bit number
lsst.images (`DATAMODL`)  IMAGE                        VARIANCE                    MASK, `MSKN####`, `MSKM####`
HST, JWST                 SCI                          ERR = sigma, squared        DQ (see `read_warps`)
image and weight          first image                  1 / weight                  weight 0 is NO_DATA
CCDData                   primary image                UNCERT, kind from `UTYPE`   MASK, 1 is BAD
========================= ============================ =========================== ===================================

Writing makes the afw layout, which Rubin's readers take; `writing` has the details. Matching kernels and PSFs are in
`stamps`.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from astropy.wcs import WCS

from . import backend
from .images import MaskedImage, WarpStack
from .layouts import Layout, common_schema, hdu_name, recognise, recognise_difference
from .masks import MaskSchema
from .point_spread import Psf
from .psf import FWHM_PER_SIGMA, adaptive_moments, measure_sigma
from .sources import Exposure, FitsSource, Pool, quiet
from .stamps import find_stamp, psf_of_hdu, read_kernel, read_stamp
from .upload import DeviceSource
from .writing import PSF_HDU, read_provenance, write_array, write_kernel, write_mask, write_planes

__all__ = [
    "find_psf_sigma",
    "find_stamp",
    "read_difference",
    "read_image",
    "read_kernel",
    "read_provenance",
    "read_stamp",
    "read_warps",
    "write_array",
    "write_kernel",
    "write_mask",
    "write_planes",
]

logger = logging.getLogger(__name__)

_ENDINGS = (".fits", ".fits.gz", ".fits.fz")
_WEIGHT_ENDINGS = (".weight", ".wht", "_weight", "_wht")
_FWHM_CARDS = ("PSF_FWHM", "FWHM", "SEEING_PIX")
_NOT_FOR_PSF = ("NO_DATA", "BAD", "SAT", "EDGE", "CR")
_CELESTIAL = re.compile(
    r"(RA|DEC|[A-Z]LON|[A-Z]LAT|[A-Z]{2}L[NT])\s*(-|$)"
)  # CTYPEs, sections 8.2 and 8.3 of the standard
_MAX_GRID_OFFSET = 0.5  # pixels between two WCSs that are to describe one grid

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def read_warps(
    paths: Paths, *, psf_matched: Paths | None = None, device: str = "auto", psf_fwhm: Any = None
) -> WarpStack:
    """
    Stack of warps whose pixels are read from files when a step asks for them.

    Headers are read, and lengths of files checked, now. Pixels come through ``stack.source.read(epoch, rows)``. On
    their way to a device the bytes of plain afw files go as they are, and everything else is decoded by threads.

    Parameters
    ----------
    paths : path, or sequence of paths
        A folder (its ``*.fits``, ``*.fits.gz`` and ``*.fits.fz`` in order of name), a file, or several of either.
        Weight files beside their image (``X.weight.fits``, ``X.wht.fits``, ``X_weight.fits``, ``X_wht.fits``) are
        taken with it.
    psf_matched : path, or sequence of paths, optional
        The PSF-matched twins, found by epoch id. Epochs may lack one; twins without an epoch are left out with a
        warning in the log.
    device : str
        "auto", "cpu", "cuda" or "cuda:N": where pixels go. N counts the devices that CUDA_VISIBLE_DEVICES leaves.
    psf_fwhm : float or array-like of shape (epoch,), optional
        FWHM in pixels of the PSF of the stack that artifacts are searched in: the twins if there are any, in the order
        in which the returned ``stack.psf_matched`` has them, else the warps.

    Returns
    -------
    WarpStack
        ``inputs`` are the file names; ``epochs`` the cards VISIT, or else the file names without folder and ending;
        ``source.seconds_reading`` the time spent reading so far; ``wcs`` an `astropy.wcs.WCS` of the first file, or
        None.

    Raises
    ------
    FileNotFoundError, OSError
        If a path does not exist or cannot be read.
    ValueError
        If there is no file; if a file is not FITS, truncated or of no known layout; if two have one id; if shapes,
        origins, grids or units differ; if masks name more than 31 planes; if no twin has the id of a warp. Damaged
        pixels, and mask bits without a name, are found when they are read.

    Notes
    -----
    *PSF.* An image HDU PSF is the PSF of its epoch: one stamp (k, k), k odd, or the coefficient images (coefficient,
    k, k) of a `Psf` with its kind and range as cards KERNKIND, KERNXMIN, KERNYMIN, KERNXMAX and KERNYMAX. One that
    cannot be used is said in the log.

    *PSF width*, the first of: `psf_fwhm`; the adaptive moments of an image HDU PSF, in the middle of the image; card
    PSFSIGMA; card PSF_FWHM, FWHM or SEEING_PIX, in pixels; the image's own stars, which reads the file now and is said
    in the log. Warps that have twins are not measured on stars: their width is not needed, and is NaN where the file
    does not tell.

    *Origin.* CRVAL2A, CRVAL1A of a LINEAR WCS A, else -LTV2, -LTV1, else (0, 0).

    *HST and JWST masks.* JWST: DO_NOT_USE becomes BAD and NON_SCIENCE becomes NO_DATA, the rule by which STScI
    resamples; SATURATED, JUMP_DET, OUTLIER and PERSISTENCE keep their names and all other bits become DQ_OTHER. HST
    (TELESCOP, or a DQ of 16 bits): any bit becomes BAD, and also 256 SAT, 4096 and 8192 CR.

    *Weights* are taken as 1 / variance. Many programs write weights that are only relative; scale them first, since
    the significance of artifacts rests on the variance.

    *No data.* In all layouts but afw, non-finite pixels and noise, and a noise or weight that is not positive, become
    NO_DATA, and NaN in image and variance. An afw file is taken as it is.
    """
    device = _where(device)
    pool = Pool()
    try:
        direct = _describe_all(_list_files(paths, "paths"), pool)
        twins = [] if psf_matched is None else _describe_all(_list_files(psf_matched, "psf_matched"), pool)
        if psf_matched is not None:
            twins = _pair(direct, twins)
        everything = direct + twins
        for warp in everything[1:]:
            _check_grid(warp, everything[0], pool)
        schema = common_schema((warp.path, warp.layout) for warp in everything)
        make = partial(_make_stack, schema=schema, first=direct[0], pool=pool, device=device)
        if not twins:
            return make(direct, psf_fwhm=psf_fwhm, measure=True)
        matched = make(twins, psf_fwhm=psf_fwhm, measure=True)
        return make(direct, psf_fwhm=None, measure=False, psf_matched=matched)
    except BaseException:
        pool.close()
        raise


def read_image(path: str | os.PathLike[str], *, device: str = "auto") -> MaskedImage:
    """
    Image, variance and mask of a file, in any layout that `read_warps` knows.

    Parameters
    ----------
    path : path
        The file; a weight file beside it is taken with it.
    device : str
        "auto", "cpu", "cuda" or "cuda:N": where pixels go.

    Returns
    -------
    MaskedImage
        float32, float32, int32.

    Raises
    ------
    FileNotFoundError, OSError
        If the file does not exist or cannot be read.
    ValueError
        If it is not FITS, truncated, damaged, or of no known layout.
    """
    return _read_image(path, device, recognise)


def read_difference(path: str | os.PathLike[str], *, device: str = "auto") -> MaskedImage:
    """
    As `read_image`, for a difference image, whose noise and mask may be missing.

    Many programs write a difference as an image alone. Decorrelation takes its noise from the science image and the
    template, so nothing is lost.

    Parameters
    ----------
    path, device
        As in `read_image`. The image is the HDU IMAGE, else SCI, else the first with pixels that is no mask, noise or
        PSF by its name.

    Returns
    -------
    MaskedImage
        Where the file has no noise, its image is taken as it is and `variance` is NaN; where it has no mask, `mask` is
        0 and `schema` that of LSST.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        As `read_image`.
    """
    return _read_image(path, device, recognise_difference)


def find_psf_sigma(path: str | os.PathLike[str]) -> float:
    """
    Width of the PSF, a Gaussian's sigma in pixels, as a file tells it: its HDU PSF, else its header; NaN where neither.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        As `read_difference`.
    """
    pool = Pool()
    try:
        return describe(os.fspath(path), pool, recognise_difference).sigma
    finally:
        pool.close()


_Recognise = Callable[[str, Sequence[Any]], Layout]


def _read_image(path: str | os.PathLike[str], device: str, recognise: _Recognise) -> MaskedImage:
    device = _where(device)
    pool = Pool()
    try:
        found = describe(os.fspath(path), pool, recognise)
        schema = common_schema([(found.path, found.layout)])
        files = FitsSource([found.exposure], [found.layout], schema=schema, shape=found.shape, pool=pool)
        image, variance, mask = _at(files, device).read(0, slice(None))
        if found.layout.noise == found.layout.image:
            with backend.using(image):
                variance = backend.array_module(image).full_like(image, np.nan)
        return MaskedImage(image, variance, mask, schema=schema, origin=found.origin, wcs=found.wcs, unit=found.unit)
    finally:
        pool.close()


def _where(device: str) -> str:
    """`device` with "auto" decided, and said in the log."""
    kind, number = backend.resolve_device(device)
    chosen = kind if kind == "cpu" else f"{kind}:{number}"
    if device == "auto":
        logger.info("pixels go to %s", chosen)
    return chosen


def _at(files: FitsSource, device: str) -> FitsSource | DeviceSource:
    """`files` as a source of planes on a device that `_where` has named."""
    return files if device == "cpu" else DeviceSource(files, backend.resolve_device(device)[1])


# ------------------------------------------------------------------------------------------------ which files


def _list_files(paths: Paths, name: str) -> list[str]:
    """Files that `paths` stands for, without the weight files of others among them."""
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    files: list[str] = []
    for path in [os.fspath(path) for path in given]:
        if not isinstance(path, str):
            raise TypeError(f"{name} must be a path or a sequence of paths, got {path!r}")
        if os.path.isdir(path):
            inside = [entry for entry in sorted(os.listdir(path)) if entry.endswith(_ENDINGS)]
            if not inside:
                raise ValueError(f"the folder {path} holds no file that ends with {', '.join(_ENDINGS)}")
            files += [os.path.join(path, entry) for entry in inside]
        elif os.path.exists(path):
            files.append(path)
        else:
            raise FileNotFoundError(f"no file or folder {path}; check the name")
    stems = {_stem(file) for file in files}
    files = [file for file in files if not _is_weight_of(_stem(file), stems)]
    if not files:
        raise ValueError(f"{name} is empty; give a folder or at least one file")
    return files


def _stem(path: str) -> str:
    """`path` without its FITS ending."""
    return re.sub(r"\.(fits?|fts)(\.(gz|fz))?$", "", path, flags=re.IGNORECASE)


def _is_weight_of(stem: str, stems: set[str]) -> bool:
    return any(stem.endswith(ending) and stem[: -len(ending)] in stems for ending in _WEIGHT_ENDINGS)


def _weight_file(path: str) -> str | None:
    """The weight file beside `path`, if there is one."""
    candidates = (_stem(path) + weight + ending for weight in _WEIGHT_ENDINGS for ending in _ENDINGS)
    return next((file for file in candidates if os.path.isfile(file)), None)


# ------------------------------------------------------------------------------------------------ one file


@dataclass(frozen=True)
class Described:
    """What the headers of one exposure say."""

    path: str
    exposure: Exposure
    layout: Layout
    shape: tuple[int, int]
    origin: tuple[int, int]
    unit: str | None
    epoch: int | str
    wcs: WCS | None
    sigma: float  # NaN where the file does not tell
    psf: Psf | None


def _describe_all(files: Sequence[str], pool: Pool) -> list[Described]:
    """All exposures of one stack; ids must differ."""
    warps: dict[int | str, Described] = {}
    for path in files:
        warp = describe(path, pool)
        if warp.epoch in warps:
            raise ValueError(
                f"{warps[warp.epoch].path} and {path} both are epoch {warp.epoch!r}; ids must differ "
                "(they are the card VISIT, or the file name where there is none)"
            )
        warps[warp.epoch] = warp
    return list(warps.values())


def describe(path: str, pool: Pool, recognise: _Recognise = recognise, *, as_written: bool = False) -> Described:
    """
    What the headers of the exposure `path` say, and of a weight file beside it; both are opened in `pool`.

    With `as_written`, the card PSFSIGMA comes before the width that the HDU PSF is measured to have.
    """
    exposure = Exposure([path])
    weight = _weight_file(path)
    if weight is not None:
        exposure = Exposure([path, weight])
    with pool.using(exposure) as files:
        layout = recognise(path, files)
        hdu = files[0][layout.image.hdu]
        headers = [hdu.header, files[0][0].header]
        shape, origin = (int(hdu.shape[0]), int(hdu.shape[1])), origin_of(path, hdu.header)
        middle = origin[0] + (shape[0] - 1) / 2, origin[1] + (shape[1] - 1) / 2
        told = _width(_card(headers, "PSFSIGMA")) if as_written else math.nan
        sigma, psf = _known_psf(path, files[0], middle=middle, told=told)
        return Described(
            path=path,
            exposure=exposure,
            layout=layout,
            shape=shape,
            origin=origin,
            unit=str(_card(headers, "BUNIT") or "").strip() or None,
            epoch=_epoch(path, headers),
            wcs=celestial_wcs(path, hdu.header, files[0]),
            sigma=_told_sigma(headers) if math.isnan(sigma) else sigma,
            psf=psf,
        )


def _card(headers: Sequence[Any], *names: str) -> Any:
    """The first of the cards `names` that is there and has a value, in the image's header or the primary one."""
    for name in names:
        for header in headers:
            value = header.get(name)
            if isinstance(value, (str, bool, int, float)):
                return value
    return None


def _epoch(path: str, headers: Sequence[Any]) -> int | str:
    visit = _card(headers, "VISIT")
    if isinstance(visit, float) and visit.is_integer():
        visit = int(visit)
    if isinstance(visit, str) and visit.strip():
        return visit.strip()
    if isinstance(visit, int) and not isinstance(visit, bool):
        return visit
    return os.path.basename(_stem(path))


def origin_of(path: str, header: Any) -> tuple[int, int]:
    """(y, x) in the parent's frame of the first pixel."""
    start: list[float] = []
    for axis in (2, 1):
        if str(header.get(f"CTYPE{axis}A", "")).strip().upper() == "LINEAR" and f"CRVAL{axis}A" in header:
            step = header.get(f"CD{axis}_{axis}A", header.get(f"CDELT{axis}A", 1.0))
            start.append(header[f"CRVAL{axis}A"] + (1.0 - header.get(f"CRPIX{axis}A", 1.0)) * step)
        else:
            start.append(-header.get(f"LTV{axis}", 0.0))
    if not all(float(value).is_integer() for value in start):
        raise ValueError(
            f"{path}: its first pixel is at (y, x) = {tuple(start)} by CRVAL2A, CRVAL1A or -LTV2, -LTV1; "
            "the origin must be whole pixels"
        )
    return int(start[0]), int(start[1])


def celestial_wcs(path: str, header: Any, hdus: Any) -> WCS | None:
    """WCS of an HDU, or None where it has none, or one that astropy cannot read."""
    # Some astropy versions take a header with the A-WCS alone, or of pixels only, for a broken one: they are not asked.
    if not any(_CELESTIAL.match(str(kind)) for kind in header["CTYPE?"].values()):
        return None
    try:
        with quiet():
            wcs = WCS(header, fobj=hdus)
            return (wcs if wcs.naxis == 2 else wcs.celestial) if wcs.has_celestial else None
    except Exception as error:  # the WCS is only carried: a bad one must not stop the pixels
        logger.warning("%s: its WCS is left out, astropy cannot read it (%s)", path, str(error).strip())
        return None


def _known_psf(path: str, hdus: Any, *, middle: tuple[float, float], told: float) -> tuple[float, Psf | None]:
    """
    Width in pixels of the image HDU PSF, at a position (y, x), and itself; NaN or None where they cannot be had.

    It is not measured where it is `told`.
    """
    for hdu in hdus:
        if hdu_name(hdu) != PSF_HDU or not getattr(hdu, "is_image", False) or len(hdu.shape) not in (2, 3):
            continue
        sigma = told
        try:
            if math.isfinite(told):
                return told, psf_of_hdu(path, hdu)
            if len(hdu.shape) == 2:
                sigma = adaptive_moments(hdu.data)[0]
                return sigma, psf_of_hdu(path, hdu)
            psf = psf_of_hdu(path, hdu)
            return psf.moments(*middle)[0], psf
        except Exception as error:
            used = "not used" if math.isnan(sigma) else "used for its width only"
            logger.warning("%s: its PSF image is %s (%s)", path, used, str(error).removeprefix(f"{path}: "))
            return sigma, None
    return told, None


def _told_sigma(headers: Sequence[Any]) -> float:
    """PSF width in pixels as the cards tell it, or NaN."""
    sigma = _width(_card(headers, "PSFSIGMA"))
    if math.isfinite(sigma):
        return sigma
    fwhm = [value for name in _FWHM_CARDS if math.isfinite(value := _width(_card(headers, name)))]
    return fwhm[0] / FWHM_PER_SIGMA if fwhm else math.nan


def _width(value: Any) -> float:
    """The value of a card as a width, or NaN."""
    is_width = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < np.inf
    return float(value) if is_width else math.nan


# ------------------------------------------------------------------------------------------------ several files


def _pair(direct: Sequence[Described], twins: Sequence[Described]) -> list[Described]:
    """Twins of the direct warps, in their order."""
    by_epoch = {warp.epoch: warp for warp in twins}
    paired = [by_epoch.pop(warp.epoch) for warp in direct if warp.epoch in by_epoch]
    if not paired:
        raise ValueError(
            f"no file of psf_matched has the id of a warp: {twins[0].path} is {twins[0].epoch!r}, {direct[0].path} is "
            f"{direct[0].epoch!r}; ids are the card VISIT, or the file name where there is none"
        )
    for warp in by_epoch.values():
        logger.warning("%s is left out: there is no warp of epoch %r", warp.path, warp.epoch)
    return paired


def _check_grid(warp: Described, first: Described, pool: Pool) -> None:
    """Raise ValueError unless both share shape, origin, unit and sky."""
    if (warp.shape, warp.origin) != (first.shape, first.origin):
        raise ValueError(
            f"{warp.path} is {warp.shape[0]} x {warp.shape[1]} at {warp.origin} but the first warp, {first.path}, is "
            f"{first.shape[0]} x {first.shape[1]} at {first.origin}; warps must share one pixel grid"
        )
    if warp.unit != first.unit:
        raise ValueError(
            f"{warp.path} is in {warp.unit or 'no unit'} (BUNIT) but the first warp, {first.path}, is in "
            f"{first.unit or 'no unit'}; warps must share one unit"
        )
    offset = _sky_offset(warp, first)
    if offset > _MAX_GRID_OFFSET:
        raise ValueError(
            f"{warp.path} covers other sky than the first warp, {first.path}: by their WCS a corner is {offset:.1f} "
            "pixels away; resample them to one pixel grid first"
        )


def _sky_offset(warp: Described, first: Described) -> float:
    """Largest distance in pixels between the corners of the two; 0 where it cannot be told."""
    a, b = warp.wcs, first.wcs
    if a is None or b is None or list(a.wcs.ctype) != list(b.wcs.ctype) or a.wcs.radesys != b.wcs.radesys:
        return 0.0
    ny, nx = warp.shape
    corners = np.array([[0, 0], [nx - 1, 0], [0, ny - 1], [nx - 1, ny - 1]], float)
    try:
        moved = b.wcs_world2pix(a.wcs_pix2world(corners, 0), 0)
    except Exception:  # beyond what the projection can do; the shapes agree, and the WCS is only carried
        return 0.0
    distance = np.abs(moved - corners).max()
    return float(distance) if np.isfinite(distance) else 0.0


def _make_stack(
    warps: Sequence[Described],
    *,
    schema: MaskSchema,
    first: Described,
    pool: Pool,
    device: str,
    psf_fwhm: Any,
    measure: bool,
    psf_matched: WarpStack | None = None,
) -> WarpStack:
    exposures, layouts = [warp.exposure for warp in warps], [warp.layout for warp in warps]
    files = FitsSource(exposures, layouts, schema=schema, shape=first.shape, pool=pool)
    if psf_fwhm is not None:
        sigma = _checked_fwhm(psf_fwhm, len(warps)) / FWHM_PER_SIGMA
    else:
        sigma = np.array([warp.sigma for warp in warps])
        for epoch, warp in enumerate(warps):
            if measure and np.isnan(warp.sigma):
                sigma[epoch] = _measured_sigma(warp.path, files, epoch, schema)
    return WarpStack.from_source(
        _at(files, device),
        schema=schema,
        psf_sigma=sigma,
        epochs=[warp.epoch for warp in warps],
        psf_matched=psf_matched,
        origin=first.origin,
        wcs=first.wcs,
        unit=first.unit,
        inputs=[warp.path for warp in warps],
        psfs=[warp.psf for warp in warps],
    )


def _checked_fwhm(psf_fwhm: Any, n_epochs: int) -> np.ndarray:
    fwhm = np.asarray(psf_fwhm, dtype=np.float64)
    if fwhm.shape not in ((), (n_epochs,)):
        raise ValueError(f"psf_fwhm has shape {fwhm.shape}; it must be one number or one per epoch, ({n_epochs},)")
    if not np.all((fwhm > 0) & np.isfinite(fwhm)):
        raise ValueError(f"psf_fwhm must be positive, in pixels, got {psf_fwhm!r}")
    return np.broadcast_to(fwhm, (n_epochs,))


def _measured_sigma(path: str, files: FitsSource, epoch: int, schema: MaskSchema) -> float:
    """PSF width from the stars in the pixels."""
    image, variance, mask = files.read(epoch, slice(None))
    bad = (mask & schema.known_bitmask(_NOT_FOR_PSF)) != 0
    sigma, n_stars = measure_sigma(image, bad | ~(variance > 0))
    if n_stars:
        logger.warning("%s does not tell its PSF; measured %.3f pixels (sigma) on %d stars", path, sigma, n_stars)
    else:
        logger.warning("%s does not tell its PSF and has no star to measure it on; give psf_fwhm", path)
    return sigma
