"""
File layouts: which HDU is what, and how its numbers become image, variance and mask.

Recognising looks at headers only; decoding is arithmetic on arrays. Opening and reading is in `sources`.

Why a table of codes: bit numbers differ between releases and observatories, so every layout says which source bits
mean which plane, and decoding moves them to the bits of one schema common to all files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from astropy.io import fits

from .masks import MaskSchema

_ALL_BITS = 0xFFFFFFFF
_N_BITS = 31
_LSST = tuple(MaskSchema.lsst().planes.items())

# STScI's rule for resampling JWST exposures: only DO_NOT_USE and NON_SCIENCE are bad. The others tell what happened
# to a pixel whose value is still good, so they keep their own names and no step rejects them unasked.
_JWST_CODES = (
    (1 << 0, "BAD"),  # DO_NOT_USE
    (1 << 9, "NO_DATA"),  # NON_SCIENCE
    (1 << 1, "SATURATED"),
    (1 << 2, "JUMP_DET"),
    (1 << 4, "OUTLIER"),
    (1 << 5, "PERSISTENCE"),
    (_ALL_BITS & ~0b1000110111, "DQ_OTHER"),
)
# HST instruments number their bits each in its own way but agree on these; drizzling takes every bit as bad.
_HST_CODES = ((_ALL_BITS, "BAD"), (256, "SAT"), (4096 | 8192, "CR"))
_WEIGHT_NAMES = ("WEIGHT", "WHT")
_NO_IMAGE = (*_WEIGHT_NAMES, "MASK", "VARIANCE", "ERR", "DQ", "PSF", "CTX", "UNCERT", "NIMAGE")
_PARTNERS = {"IMAGE": ("VARIANCE", "MASK"), "SCI": ("ERR",)}  # HDUs without which an image has no known layout
_UNCERTAINTIES = {"STD": "sigma", "VAR": "variance", "INV": "weight"}


@dataclass(frozen=True)
class Plane:
    """One HDU: `file` counts the files of an exposure (1 is a separate weight file), `hdu` the HDUs in it."""

    file: int
    hdu: int
    name: str


@dataclass(frozen=True)
class Layout:
    """
    What the HDUs of one exposure hold.

    Parameters
    ----------
    image, noise : Plane
        Where the pixels and their noise are.
    noise_is : str
        "variance", "sigma" or "weight" (1 / variance).
    mask : Plane or None
        Where the mask is, if there is one.
    codes : tuple of (int, str)
        Source bits, any of which sets the plane of that name.
    planes : mapping of str to int
        Planes of this file and the bit that each would like to have.
    complete : bool
        The mask is the authority on which pixels hold data. Otherwise non-finite pixels and variances that are not
        positive become NO_DATA.
    """

    image: Plane
    noise: Plane
    noise_is: str
    mask: Plane | None
    codes: tuple[tuple[int, str], ...]
    planes: Mapping[str, int]
    complete: bool = False


def recognise(path: str, files: Sequence[Any]) -> Layout:
    """
    Layout of an exposure.

    Parameters
    ----------
    path : str
        For messages.
    files : sequence of astropy.io.fits.HDUList
        The exposure's file, and a separate weight file if it has one.

    Raises
    ------
    ValueError
        If an HDU is missing, twice there, or not 2-d, or the mask's planes make no schema.
    """
    hdus = _images(files[0])
    if "IMAGE" in hdus and ("MASK" in hdus or "VARIANCE" in hdus or "DATAMODL" in files[0][0].header):
        layout = _lsst(path, files, hdus)
    elif "SCI" in hdus and ("ERR" in hdus or "DQ" in hdus):
        layout = _space_telescope(path, files, hdus)
    elif "UNCERT" in hdus:
        layout = _ccddata(path, files, hdus)
    else:
        layout = _weighted(path, files, hdus)
    _check_planes(path, files, layout)
    return layout


def hdu_name(hdu: Any) -> str:
    """Upper-case EXTNAME, or EXTTYPE where a file has only that."""
    return str(hdu.header.get("EXTNAME") or hdu.header.get("EXTTYPE") or "").strip().upper()


def _images(hdulist: Any) -> dict[str, list[int]]:
    """Numbers of the HDUs that are images with pixels, by name."""
    found: dict[str, list[int]] = {}
    for number, hdu in enumerate(hdulist):
        if getattr(hdu, "is_image", False) and len(hdu.shape) > 0:
            found.setdefault(hdu_name(hdu), []).append(number)
    return found


def _the(path: str, hdus: Mapping[str, list[int]], name: str, among: str) -> Plane:
    """The one plane called `name`."""
    numbers = hdus.get(name, [])
    if not numbers:
        has = ", ".join(n or "unnamed" for n in hdus) or "no image"
        raise ValueError(f"{path} has no HDU {name}; a file of this kind must hold {among}, this one holds {has}")
    if len(numbers) > 1:
        raise ValueError(f"{path} has {len(numbers)} HDUs {name}; an exposure has one, so split the file by detector")
    return Plane(0, numbers[0], name)


def _lsst(path: str, files: Sequence[Any], hdus: Mapping[str, list[int]]) -> Layout:
    """LSST's afw layout (`MP_<NAME>` is a bit number) and that of lsst.images (`MSKN`, `MSKM`: name, bit value)."""
    image, mask, noise = (_the(path, hdus, name, "IMAGE, MASK and VARIANCE") for name in ("IMAGE", "MASK", "VARIANCE"))
    modern = "DATAMODL" in files[0][0].header
    planes = _named_planes(path, files[0][mask.hdu].header, modern=modern)
    return Layout(image, noise, "variance", mask, _codes(planes), planes, complete=not modern)


def lone_mask(path: str, hdus: Sequence[Any]) -> Layout:
    """
    Layout of a file whose HDU MASK stands for itself, with cards as in an exposure.

    Raises
    ------
    ValueError
        If there is no such HDU, or more than one; if it is not 2-d, not made of integers, or its cards do not fit.
    """
    mask = lone_plane(path, hdus, "MASK")
    planes = _named_planes(path, hdus[mask.hdu].header, modern=False)
    return Layout(mask, mask, "variance", mask, _codes(planes), planes, complete=True)


def lone_plane(path: str, hdus: Sequence[Any], name: str) -> Plane:
    """
    The one 2-d image of a file that is called `name`.

    Raises
    ------
    ValueError
        If there is none, or more than one; if it is not 2-d, or a mask that is not made of integers.
    """
    plane = _the(path, _images(hdus), name, name)
    _check_plane(path, hdus[plane.hdu], plane, is_mask=name == "MASK")
    return plane


def _codes(planes: Mapping[str, int]) -> tuple[tuple[int, str], ...]:
    return tuple((1 << bit, name) for name, bit in planes.items())


def _named_planes(path: str, header: Any, *, modern: bool) -> dict[str, int]:
    """Planes of a mask and their bits, as its header names them; LSST's where it names none."""
    bits = {key[3:]: value for key, value in header.items() if key.startswith("MP_")}
    if (modern or not bits) and any(key.startswith("MSKN") for key in header):
        bits = _named_values(path, header)
    for name, bit in bits.items():
        if isinstance(bit, bool) or not isinstance(bit, int):
            raise ValueError(f"{path}: card MP_{name} must be a bit number, got {bit!r}")
    try:
        return dict(MaskSchema(bits).planes) if bits else dict(_LSST)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _named_values(path: str, header: Any) -> dict[str, int]:
    """Plane to bit number from pairs of cards MSKN#### (name) and MSKM#### (bit value)."""
    bits = {}
    for key, name in header.items():
        if key.startswith("MSKN"):
            value = header.get("MSKM" + key[4:])
            if not isinstance(value, int) or value <= 0 or value & (value - 1):
                raise ValueError(f"{path}: card MSKM{key[4:]} of mask plane {name!r} must be one bit, got {value!r}")
            bits[str(name).strip()] = value.bit_length() - 1
    return bits


def _space_telescope(path: str, files: Sequence[Any], hdus: Mapping[str, list[int]]) -> Layout:
    """HST and JWST: SCI, ERR (sigma), DQ."""
    image, noise = (_the(path, hdus, name, "SCI, ERR and DQ") for name in ("SCI", "ERR"))
    mask = _the(path, hdus, "DQ", "SCI, ERR and DQ") if "DQ" in hdus else None  # JWST mosaics have none
    telescope = str(files[0][0].header.get("TELESCOP", "")).strip().upper()
    is_hst = telescope == "HST" or (telescope != "JWST" and mask is not None and _bitpix(files[0][mask.hdu]) == 16)
    codes = _HST_CODES if is_hst else _JWST_CODES
    names = [name for _, name in codes] if mask is not None else []
    return Layout(image, noise, "sigma", mask, codes, MaskSchema.lsst().with_planes(*names).planes)


def _bitpix(hdu: Any) -> int:
    return int(hdu.header.get("BITPIX", 0))


def _ccddata(path: str, files: Sequence[Any], hdus: Mapping[str, list[int]]) -> Layout:
    """What astropy.nddata.CCDData writes: unnamed primary image, UNCERT with its kind in UTYPE, a MASK of 0 and 1."""
    noise = _the(path, hdus, "UNCERT", "an image, UNCERT and MASK")
    kind = str(files[0][noise.hdu].header.get("UTYPE", "STD")).strip().upper()[:3]
    if kind not in _UNCERTAINTIES:
        raise ValueError(f"{path}: UNCERT has UTYPE {kind!r}; it must be one of {', '.join(_UNCERTAINTIES)}")
    mask = _the(path, hdus, "MASK", "an image, UNCERT and MASK") if "MASK" in hdus else None
    codes = ((_ALL_BITS, "BAD"),)
    return Layout(_first_image(path, hdus), noise, _UNCERTAINTIES[kind], mask, codes, dict(_LSST))


def _weighted(path: str, files: Sequence[Any], hdus: Mapping[str, list[int]]) -> Layout:
    """An image and its weight, in one file or two."""
    if not hdus:
        raise ValueError(f"{path} holds no image; it must hold IMAGE, MASK and VARIANCE, or SCI, ERR and DQ")
    image = _first_image(path, hdus)
    name = next((name for name in _WEIGHT_NAMES if name in hdus), None)
    if name is not None:
        noise = _the(path, hdus, name, "an image and its weight")
    elif len(files) > 1:
        separate = _images(files[1])
        numbers = sorted(n for numbers in separate.values() for n in numbers)
        if not numbers:
            raise ValueError(f"the weight file of {path} holds no image; it must hold the weight of each pixel")
        noise = Plane(1, numbers[0], "weight")
    else:
        raise ValueError(
            f"{path} has an image but no noise; it must hold IMAGE, MASK and VARIANCE, or SCI, ERR and DQ, or an HDU "
            "WEIGHT or WHT, or have its weight beside it in <name>.weight.fits, <name>.wht.fits or <name>_weight.fits"
        )
    return Layout(image, noise, "weight", None, (), dict(_LSST))


def recognise_difference(path: str, files: Sequence[Any]) -> Layout:
    """
    As `recognise`; for planes that are missing, empty ones stand in.

    Noise that is missing is the image itself in the result, by which a reader knows it.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for hdu in files[0]:
        if getattr(hdu, "is_image", False) and len(hdu.shape) > 0:
            shapes.setdefault(hdu_name(hdu), hdu.shape)
    others = (name for name in shapes if name not in _NO_IMAGE)
    image = next((name for name in ("IMAGE", "SCI", *others) if name in shapes), "")
    missing = [name for name in _PARTNERS.get(image, ("WEIGHT",)) if name not in shapes]
    has_weight = len(files) > 1 or not shapes.keys().isdisjoint(("UNCERT", "WEIGHT", "WHT"))
    if not missing or has_weight or image not in shapes:
        return recognise(path, files)
    empty = np.zeros(shapes[image], np.uint8)
    layout = recognise(path, [[*files[0], *(fits.ImageHDU(empty, name=name) for name in missing)]])
    if "MASK" in missing:
        layout = replace(layout, mask=None)
    if missing == ["MASK"]:
        return layout
    return replace(layout, noise=layout.image, noise_is="variance", complete=True)


def _first_image(path: str, hdus: Mapping[str, list[int]]) -> Plane:
    candidates = [(number, name) for name, numbers in hdus.items() if name not in _NO_IMAGE for number in numbers]
    if not candidates:
        raise ValueError(f"{path} holds {', '.join(hdus)} but no image that they could belong to")
    number, name = min(candidates)
    return Plane(0, number, name or "image")


def _check_planes(path: str, files: Sequence[Any], layout: Layout) -> None:
    """Raise ValueError unless the planes are 2-d, of one shape, and the mask is made of integers."""
    shape = files[layout.image.file][layout.image.hdu].shape
    for plane in (layout.image, layout.noise, layout.mask):
        if plane is None:
            continue
        hdu = files[plane.file][plane.hdu]
        _check_plane(path, hdu, plane, is_mask=plane is layout.mask)
        if hdu.shape != shape:
            raise ValueError(
                f"{path}: {plane.name} has shape {tuple(hdu.shape)} but {layout.image.name} has {tuple(shape)}; "
                "both are (y, x)"
            )


def _check_plane(path: str, hdu: Any, plane: Plane, *, is_mask: bool) -> None:
    if len(hdu.shape) != 2 or 0 in hdu.shape:
        raise ValueError(f"{path}: {plane.name} has shape {tuple(hdu.shape)}; it must be (y, x)")
    if is_mask and _bitpix(hdu) < 0:
        raise ValueError(f"{path}: {plane.name} holds floats (BITPIX {_bitpix(hdu)}); a mask must hold integers")


def common_schema(layouts: Iterable[tuple[str, Layout]]) -> MaskSchema:
    """
    Union of the planes of all files, and NO_DATA.

    A plane has the bit of the first file that names it if that is free, else the lowest free one.

    Parameters
    ----------
    layouts : iterable of (str, Layout)
        Path, for messages, and layout of each file.

    Raises
    ------
    ValueError
        If the files name more than 31 planes together.
    """
    planes: dict[str, int] = {}
    path = ""
    for path, layout in layouts:
        for name, bit in layout.planes.items():
            _place(planes, name, bit, path)
    _place(planes, "NO_DATA", MaskSchema.lsst().planes["NO_DATA"], path)
    return MaskSchema(planes)


def _place(planes: dict[str, int], name: str, bit: int, path: str) -> None:
    if name in planes:
        return
    taken = set(planes.values())
    free = next((b for b in (bit, *range(_N_BITS)) if b not in taken), None)
    if free is None:
        raise ValueError(
            f"{path}: no bit left for mask plane {name!r}; the files together may name {_N_BITS} planes, "
            f"and before it came {', '.join(planes)}"
        )
    planes[name] = free


def translate(mask: np.ndarray, layout: Layout, schema: MaskSchema) -> np.ndarray:
    """
    Mask of a file in the bits of `schema`.

    Parameters
    ----------
    mask : numpy.ndarray, shape (y, x), any integer
        As it is in the file; not changed.
    layout : Layout
        Says what its bits mean.
    schema : MaskSchema
        Has all planes of `layout`.

    Returns
    -------
    numpy.ndarray, shape (y, x), int32

    Raises
    ------
    ValueError
        If a bit is set that the file gives no name; the message lacks the file.
    """
    # Through int64, so that a negative int16 keeps its sixteenth bit where int32 has it too.
    bits = np.ascontiguousarray(mask).astype(np.int64) & _ALL_BITS
    present = int(np.bitwise_or.reduce(bits, axis=None))
    if keeps_bits(present, layout, schema):
        return bits.astype(np.int32)
    out = np.zeros(bits.shape, np.int32)
    for source, name in layout.codes:
        if source & present:
            out[(bits & source) != 0] |= np.int32(1 << schema.planes[name])
    return out


def keeps_bits(present: int, layout: Layout, schema: MaskSchema) -> bool:
    """
    Whether a mask is the same in the bits of `schema` as in those of the file.

    Parameters
    ----------
    present : int
        Bits that are set anywhere in the mask.
    layout : Layout
        Says what they mean.
    schema : MaskSchema
        Has all planes of `layout`.

    Raises
    ------
    ValueError
        If a bit is set that the file gives no name; the message lacks the file.
    """
    named = 0
    for source, _ in layout.codes:
        named |= source
    if present & ~named:
        unnamed = [bit for bit in range(32) if present & ~named & (1 << bit)]
        raise ValueError(
            f"mask bits {', '.join(map(str, unnamed))} are set but have no name; every bit in use needs its card "
            "(MP_<NAME>), or must be cleared"
        )
    return all(source == 1 << schema.planes[name] for source, name in layout.codes if source & present)


def decode(
    image: np.ndarray, noise: np.ndarray, mask: np.ndarray | None, layout: Layout, schema: MaskSchema
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Image, variance and mask from the arrays of a file.

    Parameters
    ----------
    image, noise : numpy.ndarray, shape (y, x), real, any byte order
        As they are in the file; not changed.
    mask : numpy.ndarray or None, shape (y, x), any integer
        As it is in the file.
    layout : Layout
        Says what they mean.
    schema : MaskSchema
        Bits of the result.

    Returns
    -------
    image, variance : numpy.ndarray, shape (y, x), float32
        NaN where there is no data, except that a `complete` layout is taken as it is.
    mask : numpy.ndarray, shape (y, x), int32
        All three native and C-contiguous.

    Raises
    ------
    ValueError
        If a mask bit has no name, or a variance is too small for float32. The message lacks the file.
    """
    bits = np.zeros(image.shape, np.int32) if mask is None else translate(mask, layout, schema)
    if layout.complete:
        return as_float32(image), as_float32(noise), bits
    pixels = as_float32(image)
    with np.errstate(all="ignore"):  # zero weights and NaN are told apart below
        sharp = noise.astype(np.float64)
        if layout.noise_is == "sigma":
            sharp = np.where(sharp > 0, sharp**2, np.nan)
        elif layout.noise_is == "weight":
            sharp = np.where(sharp > 0, 1.0 / sharp, np.nan)
        if np.any((sharp > 0) & (sharp < np.finfo(np.float32).tiny)):
            raise ValueError(
                f"a variance is {np.nanmin(sharp[sharp > 0]):.3g}, below what float32 holds; "
                "multiply the image by a constant and its noise with it"
            )
        variance = as_float32(sharp)
        empty = ~(np.isfinite(pixels) & np.isfinite(variance) & (variance > 0))
    bits[empty] |= np.int32(schema.bitmask("NO_DATA"))
    nan = np.float32(np.nan)
    return np.where(empty, nan, pixels), np.where(empty, nan, variance), bits


def as_float32(array: np.ndarray) -> np.ndarray:
    """Native, C-contiguous float32."""
    with np.errstate(all="ignore"):  # what float32 cannot hold becomes infinite
        return np.ascontiguousarray(array, dtype=np.float32)
