"""
FITS files that other tools read: LSST's afw layout, written at once or not at all.

Why an A-WCS besides LTV: LSST takes the origin of the pixel grid from it, ds9 from LTV.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from . import backend
from .images import check_pair, check_schema
from .masks import MaskSchema
from .matching import SpatialKernel
from .point_spread import Psf
from .sources import OpenFile, quiet

logger = logging.getLogger(__name__)

COMPRESSIONS = ("none", "lossless", "lossy")
_TILE = 256
_LOSSY_LEVEL = 16.0  # steps per sigma of the noise
_DITHER_2 = 2  # SUBTRACTIVE_DITHER_2 of the FITS standard: zeros stay exactly zero
_DITHER_SEED = 1  # fixed, so that the same pixels give the same file

PSF_HDU = "PSF"
KERNEL_HDU, BASIS_HDU, COEFFICIENTS_HDU = "KERNEL", "KERNEL_BASIS", "KERNEL_COEFFICIENTS"
KIND_CARD = "KERNKIND"
RANGE_CARDS = ("KERNXMIN", "KERNYMIN", "KERNXMAX", "KERNYMAX")


def write_planes(
    path: str | os.PathLike[str],
    *,
    image: backend.Array,
    variance: backend.Array,
    mask: backend.Array,
    schema: MaskSchema,
    origin: tuple[int, int],
    wcs: Any = None,
    unit: str | None = None,
    extra: Mapping[str, backend.Array] | None = None,
    psf: Psf | tuple[backend.Array, tuple[float, float]] | None = None,
    psf_sigma: float | None = None,
    tables: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    compression: str = "none",
) -> None:
    """
    Write image, mask and variance in the afw layout.

    HDUs: an empty primary with the provenance, IMAGE, MASK, VARIANCE, those of `extra`, PSF, then those of `tables`.
    The file appears under its name when it is complete; one that was there is replaced. Waits for the device.

    Parameters
    ----------
    path : path
        File to write, in a folder that exists.
    image, variance : array, shape (y, x), float32 or float64
        Pixel values in `unit`, and variances in its square.
    mask : array, shape (y, x), int32
        Bits as named by `schema`.
    schema : MaskSchema
        Written as cards `MP_<NAME>`.
    origin : (int, int)
        (y, x) of the first pixel in the parent's frame.
    wcs : astropy.wcs.WCS, optional
        Written to each HDU; objects of other kinds are left out.
    unit : str, optional
        Card BUNIT.
    extra : mapping of str to 2-d array, optional
        More HDUs, by EXTNAME; float, integer or bool. One of another shape than `image`, such as a PSF, is written
        without the WCS and the origin.
    psf : Psf, or (array, (float, float)), optional
        All of it, to the bit; or a stamp (y, x), and the position (y, x) in the parent's frame where it holds: cards
        PSFY and PSFX.
    psf_sigma : float, optional
        Width of the PSF in pixels: card PSFSIGMA of IMAGE, to the bit; none for NaN.
    tables : mapping of str to astropy.table.Table, optional
        Binary tables, by EXTNAME.
    provenance : mapping, optional
        As `read_provenance` returns it: "version" and perhaps "config" and "inputs"; other keys are left out.
    metadata : mapping of str to what JSON holds, optional
        Anything else about the image: cards MET00001 and so on of the primary header, each a name and a value as JSON,
        which `read_metadata` reads.
    compression : str
        "none", "lossless" (GZIP_2) or "lossy" (image and variance RICE_1, quantised to a sixteenth of the noise and
        dithered; the rest lossless), both in tiles of 256 x 256.

    Raises
    ------
    OSError
        If the file cannot be written; nothing is left behind.
    TypeError, ValueError
        If an array is not 2-d, shapes differ, or a name or word is not allowed.
    """
    _check_compression(compression)
    check_schema(schema)
    planes = {"IMAGE": image, "MASK": mask, "VARIANCE": variance, **(extra or {})}
    if len(planes) != 3 + len(extra or {}):
        raise ValueError(f"extra must not name IMAGE, MASK or VARIANCE, got {', '.join(extra or {})}")
    hosts = {name: _host(name, array) for name, array in planes.items()}
    for name in ("MASK", "VARIANCE"):
        if hosts[name].shape != hosts["IMAGE"].shape:
            raise ValueError(f"{name} has shape {hosts[name].shape} but IMAGE has {hosts['IMAGE'].shape}; both (y, x)")
    _check_mask(hosts["MASK"])
    units = {"IMAGE": unit, "VARIANCE": None if unit is None else square_of(unit)}
    lossy = ("IMAGE", "VARIANCE") if compression == "lossy" else ()
    hdus = [
        _image_hdu(
            name,
            array,
            header=_grid_header(name, origin=origin, wcs=wcs, unit=units.get(name))
            if array.shape == hosts["IMAGE"].shape
            else _name_header(name, None),
            schema=schema if name == "MASK" else None,
            compression="lossless" if compression == "lossy" and name not in lossy else compression,
        )
        for name, array in hosts.items()
    ]
    if psf_sigma is not None and math.isfinite(psf_sigma):
        hdus[0].header.append(_exact_card("PSFSIGMA", float(psf_sigma)))
    if psf is not None:
        hdus.append(_psf_model_hdu(psf) if isinstance(psf, Psf) else _psf_hdu(*psf))
    hdus += [_table_hdu(name, table) for name, table in (tables or {}).items()]
    _write(path, hdus, provenance, metadata)


def write_mask(
    path: str | os.PathLike[str],
    mask: backend.Array,
    *,
    schema: MaskSchema,
    origin: tuple[int, int] = (0, 0),
    wcs: Any = None,
    provenance: Mapping[str, Any] | None = None,
    compression: str = "lossless",
) -> None:
    """
    Write a mask alone, as one HDU MASK with `MP_<NAME>` cards.

    Parameters
    ----------
    path : path
        File to write, as in `write_planes`.
    mask : array, shape (y, x), int32
        Bits as named by `schema`.
    schema, origin, wcs, provenance
        As in `write_planes`.
    compression : str
        "none" or "lossless".

    Raises
    ------
    OSError
        If the file cannot be written; nothing is left behind.
    TypeError, ValueError
        If `mask` is not 2-d int32, or a word is not allowed.
    """
    _check_compression(compression, COMPRESSIONS[:2])
    check_schema(schema)
    host = _host("MASK", mask)
    _check_mask(host)
    header = _grid_header("MASK", origin=origin, wcs=wcs, unit=None)
    _write(path, [_image_hdu("MASK", host, header=header, schema=schema, compression=compression)], provenance)


def write_array(
    path: str | os.PathLike[str],
    array: backend.Array,
    *,
    extname: str = "IMAGE",
    origin: tuple[int, int] = (0, 0),
    wcs: Any = None,
    unit: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    compression: str = "none",
) -> None:
    """
    Write one 2-d array, such as a count image, as one HDU.

    Parameters
    ----------
    path : path
        File to write, as in `write_planes`.
    array : array, shape (y, x), float, integer or bool
        Values in `unit`.
    extname : str
        Name of the HDU.
    origin, wcs, unit, provenance
        As in `write_planes`.
    compression : str
        "none" or "lossless".

    Raises
    ------
    OSError
        If the file cannot be written; nothing is left behind.
    TypeError, ValueError
        If `array` is not 2-d or a word is not allowed.
    """
    _check_compression(compression, COMPRESSIONS[:2])
    header = _grid_header(extname, origin=origin, wcs=wcs, unit=unit)
    _write(path, [_image_hdu(extname, _host(extname, array), header=header, compression=compression)], provenance)


def write_kernel(
    path: str | os.PathLike[str],
    kernel: backend.Array | SpatialKernel,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """
    Write a PSF-matching kernel; `read_kernel` gives back the same values to the last bit.

    HDUs: an empty primary with the provenance; then KERNEL for one image, or for a kernel that varies over the field
    KERNEL_BASIS, shape (basis, ky, kx), and KERNEL_COEFFICIENTS, shape (basis, coefficient), whose cards KERNKIND and
    KERNXMIN, KERNYMIN, KERNXMAX, KERNYMAX are `SpatialKernel.kind` and its range, if it has one. Waits for the device.

    Parameters
    ----------
    path : path
        File to write, as in `write_planes`.
    kernel : SpatialKernel, or array of shape (ky, kx), float or integer
        Written as float64.
    provenance
        As in `write_planes`.

    Raises
    ------
    OSError
        If the file cannot be written; nothing is left behind.
    TypeError, ValueError
        If `kernel` is no SpatialKernel and no finite 2-d array.
    """
    _write(path, _spatial_hdus(kernel) if isinstance(kernel, SpatialKernel) else [_kernel_hdu(kernel)], provenance)


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    What a file written here tells about its making.

    Returns
    -------
    dict
        ``version`` (str), ``config`` (dotted name to value, as JSON keeps it: tuples come back as lists) and ``inputs``
        (list of epoch id, file name, weight).

    Raises
    ------
    FileNotFoundError, OSError
        If the file does not exist or cannot be read.
    ValueError
        If it is not FITS, or has no such cards.
    """
    name = os.fspath(path)
    file = OpenFile(name)
    try:
        header = file.hdus[0].header
        if "GCVERS" not in header:
            raise ValueError(f"{name} has no card GCVERS; only files written by gpucoadd with a provenance have one")
        config = {}
        for i in _count(header, "CFG"):
            key, _, value = str(header[f"CFG{i:05d}"]).partition(" = ")
            config[key] = json.loads(value)
        inputs = [
            (_untext(header[f"EPO{i:05d}"]), _untext(header[f"INP{i:05d}"]), float(header[f"WGT{i:05d}"]))
            for i in range(1, int(header["NINPUT"]) + 1)
        ]
        return {"version": header["GCVERS"], "config": config, "inputs": inputs}
    finally:
        file.close()


def read_metadata(header: Mapping[str, Any]) -> dict[str, Any]:
    """What `write_planes` was given as `metadata`, from the primary header of its file; empty where nothing was."""
    return dict(json.loads(header[f"MET{i:05d}"]) for i in _count(header, "MET"))


# ------------------------------------------------------------------------------------------------ headers


def _grid_header(name: str, *, origin: tuple[int, int], wcs: Any, unit: str | None) -> fits.Header:
    """Name, unit, sky and pixel grid of an HDU."""
    y0, x0 = check_pair("origin", origin)
    header = _name_header(name, unit)
    if isinstance(wcs, WCS):
        with quiet():
            header.extend(wcs.to_header(relax=True).cards, update=True)
        if wcs.cpdis1 is not None or wcs.det2im1 is not None:
            logger.warning("the lookup tables of the WCS's distortion are not written, only its analytic part")
    elif wcs is not None:
        logger.info("a WCS of type %s is not written; only astropy.wcs.WCS is", type(wcs).__name__)
    for axis, start in ((1, x0), (2, y0)):
        header[f"CTYPE{axis}A"] = "LINEAR"
        header[f"CRPIX{axis}A"] = 1.0
        header[f"CRVAL{axis}A"] = float(start)
        header[f"CUNIT{axis}A"] = "PIXEL"
    header["LTV1"], header["LTV2"] = float(-x0), float(-y0)
    return header


def _name_header(name: str, unit: str | None) -> fits.Header:
    header = fits.Header()
    header["EXTNAME"] = name
    header["EXTTYPE"] = name
    header["INHERIT"] = True
    if unit is not None:
        header["BUNIT"] = unit
    return header


def square_of(unit: str) -> str:
    """`unit` squared, in the notation of the FITS standard."""
    return f"{unit}**2" if unit.isalnum() else f"({unit})**2"


def _provenance_header(provenance: Mapping[str, Any] | None) -> fits.Header:
    """Primary header: cards GCVERS, NINPUT, INP/EPO/WGT and CFG, five digits each."""
    header = fits.Header()
    version = None if provenance is None else str(provenance["version"])
    header["CREATOR"] = "gpucoadd" if version is None else f"gpucoadd {version}"
    header["DATE"] = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if provenance is None:
        return header
    header["GCVERS"] = version
    inputs = provenance.get("inputs", ())
    header["NINPUT"] = len(inputs)
    for i, (epoch, file, weight) in enumerate(inputs, start=1):
        header[f"INP{i:05d}"] = _text(os.fspath(file))
        header[f"EPO{i:05d}"] = int(epoch) if isinstance(epoch, (int, np.integer)) else _text(str(epoch))
        header[f"WGT{i:05d}"] = float(weight) if math.isfinite(weight) else str(float(weight))
    for i, (name, value) in enumerate(provenance.get("config", {}).items(), start=1):
        header[f"CFG{i:05d}"] = f"{name} = {json.dumps(value, default=_plain)}"
    return header


def _plain(value: Any) -> Any:
    """What JSON can hold of a NumPy scalar or array, a set, or anything else."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


def _text(text: str) -> str:
    """FITS holds printable ASCII only; other text is kept as JSON."""
    simple = text.isascii() and text.isprintable() and not text.startswith('"') and text == text.rstrip()
    return text if simple else json.dumps(text)


def _untext(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value.startswith('"') else value


def _count(header: Mapping[str, Any], prefix: str) -> range:
    """1, 2, ... as long as the card `prefix` with that number is there."""
    n = 0
    while f"{prefix}{n + 1:05d}" in header:
        n += 1
    return range(1, n + 1)


# ------------------------------------------------------------------------------------------------ pixels


def _check_compression(compression: str, allowed: Sequence[str] = COMPRESSIONS) -> None:
    if compression not in allowed:
        raise ValueError(f"compression must be one of {', '.join(allowed)}, got {compression!r}")


def _check_mask(mask: np.ndarray) -> None:
    if mask.dtype != np.int32:
        raise TypeError(f"MASK must be int32, got {mask.dtype}; convert it with mask.astype('int32')")


def _host(name: str, array: backend.Array) -> np.ndarray:
    """Host array of a type that FITS has."""
    host = backend.to_host(array)
    if host.ndim != 2 or 0 in host.shape:
        raise ValueError(f"{name} has shape {host.shape}; it must be (y, x)")
    if host.dtype == bool:
        return host.astype(np.uint8)
    if host.dtype.kind not in "iuf" or host.dtype == np.int8:
        raise TypeError(f"{name} must be bool, integer or float, got {host.dtype}")
    if host.dtype in (np.int64, np.uint64, np.uint32) and np.abs(host).max(initial=0) < 2**31:
        return host.astype(np.int32)
    return host


def _image_hdu(
    name: str, array: np.ndarray, *, header: fits.Header, compression: str, schema: MaskSchema | None = None
) -> Any:
    for plane, bit in (schema.planes if schema is not None else {}).items():
        if plane != plane.upper() or not plane.isascii() or not plane.isprintable():
            raise ValueError(f"mask plane {plane!r} cannot be a FITS card; its name must be upper-case ASCII")
        header[f"MP_{plane}" if len(plane) <= 5 else f"HIERARCH MP_{plane}"] = bit
    with quiet():
        if compression == "none":
            return fits.ImageHDU(array, header=header, name=name)
        tile = (min(_TILE, array.shape[0]), min(_TILE, array.shape[1]))
        if compression == "lossless":
            return fits.CompImageHDU(
                array, header=header, name=name, compression_type="GZIP_2", tile_shape=tile, quantize_level=0.0
            )
        return fits.CompImageHDU(
            array,
            header=header,
            name=name,
            compression_type="RICE_1",
            tile_shape=tile,
            quantize_level=_LOSSY_LEVEL,
            quantize_method=_DITHER_2,
            dither_seed=_DITHER_SEED,
        )


def _psf_hdu(stamp: backend.Array, position: tuple[float, float]) -> Any:
    header = _name_header(PSF_HDU, None)
    for axis, value in zip("YX", position, strict=True):
        header[f"PSF{axis}"] = (value, f"[pix] {axis.lower()} where it holds, parent frame")
    return _image_hdu(PSF_HDU, _host(PSF_HDU, stamp), header=header, compression="none")


def _table_hdu(name: str, table: Any) -> Any:
    """Binary table; units that the standard does not know, which astropy would leave out, are written as text."""
    plain = table.copy()
    for column in plain.itercols():
        column.unit = None
    hdu = fits.table_to_hdu(plain)
    for number, column in enumerate(table.itercols(), start=1):
        if column.unit is not None and str(column.unit):
            hdu.header[f"TUNIT{number}"] = _unit_text(column.unit)
    hdu.name = name
    return hdu


def _unit_text(unit: Any) -> str:
    try:
        return str(unit.to_string("fits"))
    except ValueError:
        return str(unit)


def _kernel_hdu(kernel: backend.Array) -> Any:
    stamp = _host(KERNEL_HDU, kernel).astype(np.float64)
    if not np.isfinite(stamp).all():
        raise ValueError(f"{KERNEL_HDU} holds NaN or infinite values; give finite ones")
    return _image_hdu(KERNEL_HDU, stamp, header=_name_header(KERNEL_HDU, None), compression="none")


def _spatial_hdus(kernel: SpatialKernel) -> list[Any]:
    header = _field_header(COEFFICIENTS_HDU, kernel)
    return [
        fits.ImageHDU(backend.to_host(kernel.basis), header=_name_header(BASIS_HDU, None), name=BASIS_HDU),
        fits.ImageHDU(backend.to_host(kernel.coefficients), header=header, name=COEFFICIENTS_HDU),
    ]


def _psf_model_hdu(psf: Psf) -> Any:
    """One stamp where that says all, else the coefficient images and the polynomials that they belong to."""
    images = backend.to_host(psf.images)
    if psf.kind == "chebyshev1" and psf.range is None:
        return fits.ImageHDU(images[0], header=_name_header(PSF_HDU, None), name=PSF_HDU)
    return fits.ImageHDU(images, header=_field_header(PSF_HDU, psf), name=PSF_HDU)


def _field_header(name: str, varying: SpatialKernel | Psf) -> fits.Header:
    """Header of an HDU of coefficients: the kind of the polynomials, and their range."""
    header = _name_header(name, None)
    header[KIND_CARD] = varying.kind
    for card, value in zip(RANGE_CARDS, varying.range or ()):
        header.append(_exact_card(card, value))
    return header


def _exact_card(name: str, value: float) -> fits.Card:
    """Card with every digit of `value`; astropy cuts a float after twenty characters."""
    return fits.Card.fromstring(f"{name:8}= {value!r:>20}".replace("e", "E"))


def _write(
    path: str | os.PathLike[str],
    hdus: Sequence[Any],
    provenance: Mapping[str, Any] | None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write under another name beside `path`, then rename: no reader ever sees half a file."""
    name = os.fspath(path)
    if name.endswith(".gz"):
        raise ValueError(f'cannot write {name}: write .fits with compression="lossless", which can be read in pieces')
    primary = _provenance_header(provenance)
    for i, pair in enumerate((metadata or {}).items(), start=1):
        primary[f"MET{i:05d}"] = json.dumps(pair, default=_plain)
    whole = fits.HDUList([fits.PrimaryHDU(header=primary), *hdus])
    folder, base = os.path.split(name)
    temporary = os.path.join(folder, f".{base}.{secrets.token_hex(6)}.tmp")
    try:
        try:
            with open(temporary, "wb") as stream:
                with quiet():
                    whole.writeto(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {name}: {error.strerror or error}; the folder must exist, be writable and have room",
        ) from error
