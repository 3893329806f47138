"""
FITS files as a source of planes: opened when asked, read band by band, from several threads.

Planes come as NumPy arrays; `upload` brings them to a device, where it can without decoding them here.

Why files are checked against their own headers first: a truncated file makes astropy warn and give zeros, hours
before anyone looks at the coadd.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import shutil
import tempfile
import threading
import time
import warnings
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import FITSFixedWarning

from .layouts import Layout, Plane, decode, keeps_bits
from .masks import MaskSchema

_BLOCK = 2880
_CARD = 80
_MAX_OPEN = 64

# warnings.catch_warnings swaps global state, so two threads in it at once could leave it swapped.
_QUIET = threading.RLock()
# astropy's HCOMPRESS decoder keeps its bit buffer in static variables of C and releases the interpreter lock.
_HCOMPRESS = threading.Lock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what astropy says about odd but readable headers; `check_length` has looked at the rest."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)
        warnings.simplefilter("ignore", FITSFixedWarning)
        for message in ("File may have been truncated", "Unexpected extra padding"):
            warnings.filterwarnings("ignore", message, AstropyUserWarning)
        yield


def check_length(stream: BinaryIO, path: str) -> None:
    """
    Raise ValueError unless `stream` is FITS and as long as its headers promise; pixels are not looked at.

    A missing fill of the last block is forgiven, and so is anything that is no extension after the last HDU.
    """
    size = stream.seek(0, os.SEEK_END)
    start = 0
    while start < size:
        stream.seek(start)
        begin = stream.read(_CARD)
        if start == 0 and begin[:9] != b"SIMPLE  =":
            raise ValueError(f"{path} is not a FITS file: it must begin with 'SIMPLE  =', it begins with {begin[:9]!r}")
        if start > 0 and begin[:8] != b"XTENSION":
            return
        stream.seek(start)
        values, length = _header_values(stream, path)
        end = start + length + _data_size(values)
        if end > size:
            raise ValueError(
                f"{path} is truncated: its headers promise {end} bytes or more, it has {size}; fetch it again"
            )
        start = math.ceil(end / _BLOCK) * _BLOCK


def _header_values(stream: BinaryIO, path: str) -> tuple[dict[str, int], int]:
    """Cards that say how large the data are, and the length of the header in bytes."""
    values: dict[str, int] = {}
    length = 0
    while True:
        block = stream.read(_BLOCK)
        if len(block) < _BLOCK:
            raise ValueError(f"{path} is truncated: it ends inside a header; fetch it again")
        length += _BLOCK
        for i in range(0, _BLOCK, _CARD):
            key = block[i : i + 8].rstrip()
            if key == b"END":
                return values, length
            if key in (b"BITPIX", b"PCOUNT", b"GCOUNT") or key.startswith(b"NAXIS"):
                text = block[i + 10 : i + _CARD].split(b"/")[0].strip()
                try:
                    values[key.decode()] = int(text)
                except ValueError:
                    raise ValueError(f"{path} is damaged: card {key.decode('ascii', 'replace')} is {text!r}") from None


def _data_size(values: dict[str, int]) -> int:
    """Bytes of data, section 4.4.1 of the FITS standard; also of random groups."""
    axes = [values.get(f"NAXIS{i}", 0) for i in range(1, values.get("NAXIS", 0) + 1)]
    if not axes:
        return 0
    pixels = math.prod(axes[1:] if axes[0] == 0 and len(axes) > 1 else axes)
    return abs(values.get("BITPIX", 0)) * values.get("GCOUNT", 1) * (values.get("PCOUNT", 0) + pixels) // 8


class OpenFile:
    """One open FITS file: `hdus` and the `stream` they are read from."""

    def __init__(self, path: str) -> None:
        self.stream = _open_stream(path)
        try:
            check_length(self.stream, path)
            self.stream.seek(0)
            self.hdus = self._open(path)
        except BaseException:
            self.stream.close()
            raise

    def _open(self, path: str) -> Any:
        try:
            with quiet():
                hdus = fits.open(self.stream, memmap=False)
                for hdu in hdus:  # all headers now, while warnings are held back
                    hdu.header.get("EXTNAME")
                return hdus
        except Exception as error:
            raise ValueError(f"{path} cannot be read as FITS ({error}); fetch or write it again") from error

    def close(self) -> None:
        with contextlib.suppress(Exception):  # nothing was written, so nothing can be lost
            self.hdus.close()
        self.stream.close()


def _open_stream(path: str) -> BinaryIO:
    """The file; a gzipped one is unpacked to an unnamed temporary file, for reading bands means jumping about."""
    try:
        stream = open(path, "rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}; check the name") from None
    except OSError as error:
        raise type(error)(f"cannot read {path}: {error.strerror}") from error
    magic = stream.read(2)
    stream.seek(0)
    if magic != b"\x1f\x8b":
        return stream
    with stream, tempfile.TemporaryFile(prefix="gpucoadd-") as unpacked:
        try:
            with gzip.GzipFile(fileobj=stream) as packed:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is truncated or damaged: gzip says {error}; fetch it again") from error
        unpacked.flush()
        return os.fdopen(os.dup(unpacked.fileno()), "rb")  # astropy refuses a read-only view of a writable stream


class Exposure:
    """The files of one exposure (itself, and perhaps its weight) and the lock that a thread holds while reading."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self.lock = threading.Lock()
        self.files: tuple[OpenFile, ...] = ()

    def open(self) -> None:
        opened: list[OpenFile] = []
        try:
            for path in self.paths:
                opened.append(OpenFile(path))
        except BaseException:
            for file in opened:
                file.close()
            raise
        self.files = tuple(opened)

    def close(self) -> None:
        files, self.files = self.files, ()
        for file in files:
            file.close()


class Pool:
    """
    Exposures whose files are open: the most recently used, 64 at most, apart from those being read this moment.

    Closes them all when it is no longer used.
    """

    def __init__(self, max_open: int = _MAX_OPEN) -> None:
        self._max_open = max_open
        self._lock = threading.Lock()
        self._open: OrderedDict[int, Exposure] = OrderedDict()
        self._finalizer = weakref.finalize(self, _close_all, self._open)

    @contextlib.contextmanager
    def using(self, exposure: Exposure) -> Iterator[list[Any]]:
        """HDU lists of `exposure`, which no other thread can use meanwhile."""
        with exposure.lock:
            if not exposure.files:
                exposure.open()
            with self._lock:
                self._open[id(exposure)] = exposure
                self._open.move_to_end(id(exposure))
                self._close_oldest(exposure)
            yield [file.hdus for file in exposure.files]

    def _close_oldest(self, current: Exposure) -> None:
        for key, exposure in list(self._open.items()):
            if len(self._open) <= self._max_open:
                return
            if exposure is not current and exposure.lock.acquire(blocking=False):
                try:
                    exposure.close()
                    del self._open[key]
                finally:
                    exposure.lock.release()

    def close(self) -> None:
        """Close all files; they are opened again when needed."""
        with self._lock:
            _close_all(self._open)


def _close_all(exposures: OrderedDict[int, Exposure]) -> None:
    for exposure in list(exposures.values()):
        exposure.close()
    exposures.clear()


def span(rows: slice, n_rows: int) -> tuple[int, int]:
    """First row of a slice of `n_rows`, and the row behind its last; ValueError if its step is not 1."""
    start, stop, step = rows.indices(n_rows)
    if step != 1:
        raise ValueError(f"rows must be a slice of step 1, got {rows}")
    return start, max(start, stop)


Fill = Callable[[int, np.ndarray], None]  # (first item, flat array to be filled with the items from there on)


class RawPlanes(NamedTuple):
    """
    Rows of an exposure whose numbers are those of the file but for their byte order, while its files are held.

    `image` and `variance` write float32 with the highest byte first under a native dtype; `mask`, of dtype big-endian
    int32, has the bits of the stack's schema.
    """

    image: Fill
    variance: Fill
    mask: np.ndarray


class FitsSource:
    """
    Planes of a stack that are read from FITS files when asked for.

    Safe to read from several threads: two read one file after the other, and different files at once.

    Parameters
    ----------
    exposures : sequence of Exposure
        One per epoch.
    layouts : sequence of Layout
        One per epoch.
    schema : MaskSchema
        Bits that all masks are given.
    shape : (int, int)
        (y, x) of every epoch.
    pool : Pool
        Keeps files open.

    Attributes
    ----------
    shape : (int, int, int)
        (epoch, y, x).
    in_memory : bool
        False.
    seconds_reading : float
        Time during which at least one thread was in `read`.
    """

    in_memory = False

    def __init__(
        self,
        exposures: Sequence[Exposure],
        layouts: Sequence[Layout],
        *,
        schema: MaskSchema,
        shape: tuple[int, int],
        pool: Pool,
    ) -> None:
        self.shape = (len(exposures), *shape)
        self.seconds_reading = 0.0
        self._exposures, self._layouts = tuple(exposures), tuple(layouts)
        self._schema, self._pool = schema, pool
        self._clock = threading.Lock()
        self._reading, self._began = 0, 0.0

    def read(self, epoch: int, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Image, variance (float32) and mask (int32) of some rows of one epoch.

        A compressed file is decoded in whole tiles, so bands that begin and end with its tiles cost least.

        Parameters
        ----------
        epoch : int
            Position in the stack.
        rows : slice
            Of step 1, as in indexing.

        Returns
        -------
        numpy.ndarray, numpy.ndarray, numpy.ndarray, each of shape (rows, x)

        Raises
        ------
        ValueError
            If the pixels cannot be decoded, or a mask bit has no name; names the file.
        """
        start, stop = span(rows, self.shape[1])
        if start == stop:
            empty = (0, self.shape[2])
            return np.empty(empty, np.float32), np.empty(empty, np.float32), np.empty(empty, np.int32)
        exposure, layout = self._exposures[epoch], self._layouts[epoch]
        with self._timed():
            with self._pool.using(exposure) as files:
                piece = slice(start, stop), slice(None)
                image, noise = (section(files, exposure, plane, *piece) for plane in (layout.image, layout.noise))
                mask = None if layout.mask is None else section(files, exposure, layout.mask, *piece)
            planes = [plane for plane in (image, noise, mask) if plane is not None]
            try:
                if any(plane.shape != (stop - start, self.shape[2]) for plane in planes):
                    raise ValueError(f"rows have shape {planes[0].shape}: the file has changed since it was first read")
                return decode(image, noise, mask, layout, self._schema)
            except ValueError as error:
                raise ValueError(f"{exposure.paths[0]}: {error}") from None

    @contextlib.contextmanager
    def raw(self, epoch: int, rows: slice) -> Iterator[RawPlanes | None]:
        """
        The same planes as bytes of the file, where decoding would do no more than swap them; None elsewhere.

        No other thread can read the exposure inside this context.

        Raises
        ------
        ValueError
            As from `read`; what `RawPlanes` are asked for may raise it too.
        """
        start, stop = span(rows, self.shape[1])
        exposure, layout = self._exposures[epoch], self._layouts[epoch]
        with self._timed(), self._pool.using(exposure) as files:
            yield self._raw(exposure, layout, files, start, stop)

    def _raw(self, exposure: Exposure, layout: Layout, files: Sequence[Any], start: int, stop: int) -> RawPlanes | None:
        if start == stop or layout.mask is None or not layout.complete or layout.noise_is != "variance":
            return None
        kinds = ((layout.image, -32), (layout.noise, -32), (layout.mask, 32))
        if not all(_is_plain(files[plane.file][plane.hdu], bitpix, self.shape[1:]) for plane, bitpix in kinds):
            return None
        image, variance, fill_mask = (
            _fill(exposure, plane, files[plane.file][plane.hdu], start * self.shape[2]) for plane, _ in kinds
        )
        mask = np.empty((stop - start, self.shape[2]), dtype=">i4")
        fill_mask(0, mask.reshape(-1))
        present = int(np.bitwise_or.reduce(mask, axis=None)) & 0xFFFFFFFF
        try:
            return RawPlanes(image, variance, mask) if keeps_bits(present, layout, self._schema) else None
        except ValueError as error:
            raise ValueError(f"{exposure.paths[0]}: {error}") from None

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the time from the first thread that comes to the last that leaves."""
        with self._clock:
            if self._reading == 0:
                self._began = time.perf_counter()
            self._reading += 1
        try:
            yield
        finally:
            with self._clock:
                self._reading -= 1
                if self._reading == 0:
                    self.seconds_reading += time.perf_counter() - self._began

    def close(self) -> None:
        """Close the files, when no thread is reading; reading opens them again."""
        self._pool.close()


def _is_plain(hdu: Any, bitpix: int, shape: tuple[int, ...]) -> bool:
    """Whether the pixels are in the file as numbers of that kind, neither compressed nor scaled."""
    return (
        isinstance(hdu, (fits.PrimaryHDU, fits.ImageHDU))
        and not isinstance(hdu, fits.CompImageHDU)
        and hdu.header.get("BITPIX") == bitpix
        and not any(card in hdu.header for card in ("BSCALE", "BZERO", "BLANK"))
        and hdu.shape == tuple(shape)
    )


def _fill(exposure: Exposure, plane: Plane, hdu: Any, first: int) -> Fill:
    """What reads the bytes of a plain HDU, from its item number `first` on."""
    stream, offset = exposure.files[plane.file].stream, hdu.fileinfo()["datLoc"]

    def fill(start: int, part: np.ndarray) -> None:
        stream.seek(offset + (first + start) * part.itemsize)
        if stream.readinto(part.view(np.uint8)) != part.nbytes:  # type: ignore[attr-defined]
            raise ValueError(
                f"{exposure.paths[plane.file]}: the pixels of {plane.name} cannot be decoded (the file ends before "
                "them); the file is damaged, fetch it again"
            )

    return fill


def section(files: Sequence[Any], exposure: Exposure, plane: Plane, rows: slice, columns: slice) -> np.ndarray:
    """A piece of one HDU of an open exposure, as astropy gives it; ValueError, naming the file, if it is damaged."""
    path = exposure.paths[plane.file]
    try:
        hdu = files[plane.file][plane.hdu]
        turn = _HCOMPRESS if getattr(hdu, "compression_type", "") == "HCOMPRESS_1" else contextlib.nullcontext()
        with turn:
            return np.asarray(hdu.section[rows, columns])
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path}: the pixels of {plane.name} cannot be decoded ({error or type(error).__name__}); "
            "the file is damaged, fetch it again"
        ) from error
