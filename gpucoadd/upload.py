"""
From files to a device: decoded in threads, staged in pinned memory, copied on a stream of their own.

    a thread              file -> pinned buffer, piece by piece: its bytes as they are, or decoded planes
    the copy stream       pinned buffer -> planes on the device
    the caller's stream   bytes swapped and masks widened, once the copy has ended

So the copy of one epoch runs beside the work on another. Masks whose set bits all lie in the lower half are sent as
16 bits.

Why the caller's thread and stream allocate the planes: memory that CuPy gives to one stream goes back to that stream,
so planes made on the copy stream could be filled anew while work on another still reads them. As it is, the copy
stream waits for what the caller had asked for when it started the transfer, and the caller's stream for the copy.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

import numpy as np

from .backend import Array, device_module, launchers, using
from .images import PlaneSource
from .reading import Planes
from .sources import Fill, FitsSource, span
from .workers import cut

_STAGING_BYTES = 8 << 20  # long for the bus, whose cost per copy is lost in it; short beside a plane
_SPARE = 2  # buffers that rest at least, for their copies may still run
_NARROW = 1 << 16


def pinned(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """Host array that a device reads by itself, faster than other host memory; not initialised."""
    count = int(np.prod(shape))
    memory = device_module().cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)


class _Staging:
    """
    Pinned memory, and the event after the last copy from it.

    Why it waits when it goes: CuPy gives memory that nobody holds to the next who asks, and a copy may still read it.
    """

    def __init__(self) -> None:
        self.copied = device_module().cuda.Event(block=True, disable_timing=True)  # a thread that waits for it sleeps
        self.memory = pinned(_STAGING_BYTES, np.uint8)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter, or CUDA, may be on its way out
            self.copied.synchronize()


class Uploader:
    """
    Copies to one device by way of pinned buffers, which are kept.

    Parameters
    ----------
    device : int

    Attributes
    ----------
    stream
        On which the copies run.
    """

    def __init__(self, device: int) -> None:
        self.device = device
        with using(device):
            self.stream = device_module().cuda.Stream(non_blocking=True)
        self._idle: deque[_Staging] = deque()
        self._lock = threading.Lock()

    def send(self, fill: Fill, target: Array) -> None:
        """
        Fill `target` on the device; returns when the last copy has been asked for, not when it has ended.

        Parameters
        ----------
        fill : callable
            ``fill(start, part)`` writes the items from number `start` on into the flat host array `part`.
        target : array, C-contiguous
            On the uploader's device, which is the current one.
        """
        flat = target.reshape(-1)
        for piece in cut(flat.size, _STAGING_BYTES // flat.itemsize):
            staging = self._take()
            try:
                part = staging.memory[: (piece.stop - piece.start) * flat.itemsize].view(flat.dtype)
                fill(piece.start, part)
                flat[piece].set(part, stream=self.stream)
                staging.copied.record(self.stream)
            finally:
                self._idle.append(staging)

    def _take(self) -> _Staging:
        """The buffer that has rested longest, when its copy has ended."""
        with self._lock:
            if len(self._idle) < _SPARE:
                return _Staging()
            staging = self._idle.popleft()
        staging.copied.synchronize()
        return staging


class _Sent(NamedTuple):
    """How the planes of an epoch were sent."""

    swapped: bool  # image, variance, and the mask if it is not narrow, are bytes of the file
    narrow: bool
    arrived: Any  # event


Submit = Callable[..., "Future[_Sent]"]


def _at_once(function: Callable[..., _Sent], *args: Any) -> Future[_Sent]:
    """As the `submit` of a pool; the calling thread does it."""
    future: Future[_Sent] = Future()
    try:
        future.set_result(function(*args))
    except Exception as error:
        future.set_exception(error)
    return future


class Transfer:
    """Planes on their way to a device, one of the `jobs` for each epoch. Somebody must `finish` or `abandon` it."""

    def __init__(self, device: int, planes: Planes, narrow: Array, uploader: Uploader) -> None:
        self.jobs: list[Future[_Sent]] = []
        self._device, self._planes, self._narrow, self._uploader = device, planes, narrow, uploader

    def finish(self) -> Planes:
        """
        Image, variance (float32) and mask (int32), ready for work on the current stream; waits for the threads only.

        Raises
        ------
        ValueError
            If a file cannot be decoded.
        """
        try:
            for position, job in enumerate(self.jobs):
                self._convert(position, job.result())
        except BaseException:
            self.abandon()
            raise
        return self._planes

    def _convert(self, position: int, sent: _Sent) -> None:
        kernels = launchers("bytes")
        image, variance, mask = (plane[position] for plane in self._planes)
        with using(self._device):
            device_module().cuda.get_current_stream().wait_event(sent.arrived)
            if sent.narrow:
                kernels.widen_mask(self._narrow[position], out=mask)
            for plane in (image, variance) if sent.narrow else (image, variance, mask):
                if sent.swapped:
                    kernels.swap_bytes(plane, out=plane)

    def abandon(self) -> None:
        """Give the transfer up; afterwards no copy writes to its memory, which may have other uses then."""
        for job in self.jobs:
            job.cancel()
        wait(self.jobs)
        self._uploader.stream.synchronize()


def on_device(source: Any, device: int) -> Any:
    """A source on the host as one whose planes are brought to a device when they are read."""
    if hasattr(source, "on_device"):
        return source.on_device(device)
    return DeviceSource(HostArrays(source) if source.in_memory else source, device)


class HostArrays:
    """A stack of NumPy arrays, as `DeviceSource` reads files."""

    seconds_reading = 0.0

    def __init__(self, source: PlaneSource) -> None:
        self.shape, self._source = source.shape, source

    def read(self, epoch: int, rows: slice) -> Planes:
        """Views."""
        return self._source.read(epoch, rows)

    @contextlib.contextmanager
    def raw(self, epoch: int, rows: slice) -> Iterator[None]:
        """Never: they are no bytes of a file."""
        yield None

    def close(self) -> None:
        """Nothing is open."""


class DeviceSource:
    """
    Planes from files, or from host memory, on a device.

    Parameters
    ----------
    files : FitsSource or HostArrays
    device : int

    Attributes
    ----------
    shape : (int, int, int)
        (epoch, y, x).
    in_memory : bool
        False.
    device : int
    """

    in_memory = False

    def __init__(self, files: FitsSource | HostArrays, device: int) -> None:
        self.shape, self.device = files.shape, device
        self._files, self._uploader = files, Uploader(device)

    @property
    def seconds_reading(self) -> float:
        """Time during which at least one thread was reading."""
        return self._files.seconds_reading

    def close(self) -> None:
        """Close the files, when no thread is reading; reading opens them again."""
        self._files.close()

    def read(self, epoch: int, rows: slice) -> Planes:
        """As `FitsSource.read`, on the device. Waits for the file, and not for the device."""
        image, variance, mask = self.start([epoch], rows).finish()
        return image[0], variance[0], mask[0]

    def start(
        self, epochs: Sequence[int], rows: slice, submit: Submit = _at_once, out: Planes | None = None
    ) -> Transfer:
        """
        Begin to read some rows of some epochs, for the current stream.

        Parameters
        ----------
        epochs : sequence of int
            Positions in the stack.
        rows : slice
            Of step 1.
        submit : callable
            Of a pool of threads that read; the calling thread reads when left out.
        out : array, array, array, each of shape (len(epochs), rows, x), C-contiguous, optional
            Where the planes go.

        Returns
        -------
        Transfer
            Of image, variance (float32) and mask (int32), each of shape (len(epochs), rows, x).
        """
        first, stop = span(rows, self.shape[1])
        shape = (len(epochs), stop - first, self.shape[2])
        with using(self.device):
            xp = device_module()
            if out is None:
                out = tuple(xp.empty(shape, dtype=dtype) for dtype in (np.float32, np.float32, np.int32))
            narrow = xp.empty(shape, dtype=np.uint16)
            ready = xp.cuda.get_current_stream().record(xp.cuda.Event(disable_timing=True))
        transfer = Transfer(self.device, out, narrow, self._uploader)
        try:
            for position, epoch in enumerate(epochs):
                planes = [plane[position] for plane in (*out, narrow)]
                transfer.jobs.append(submit(self._send, epoch, rows, *planes, ready))
        except BaseException:
            transfer.abandon()
            raise
        return transfer

    def _send(
        self, epoch: int, rows: slice, image: Array, variance: Array, mask: Array, narrow: Array, ready: Any
    ) -> _Sent:
        with using(self.device):
            self._uploader.stream.wait_event(ready)
            with self._files.raw(epoch, rows) as raw:
                if raw is not None:
                    self._uploader.send(raw.image, image)
                    self._uploader.send(raw.variance, variance)
                    return self._send_mask(raw.mask, raw.mask.view(np.int32), mask, narrow)
            planes = self._files.read(epoch, rows)
            self._uploader.send(_fill_from(planes[0]), image)
            self._uploader.send(_fill_from(planes[1]), variance)
            return self._send_mask(planes[2], planes[2], mask, narrow)

    def _send_mask(self, values: np.ndarray, as_sent: np.ndarray, mask: Array, narrow: Array) -> _Sent:
        """The mask in 16 bits if they hold it, else its memory as it is; the event behind the last copy."""
        is_narrow = 0 <= int(np.bitwise_or.reduce(values, axis=None)) < _NARROW
        if is_narrow:
            self._uploader.send(_fill_from(values), narrow)
        else:
            self._uploader.send(_fill_from(as_sent), mask)
        arrived = self._uploader.stream.record(device_module().cuda.Event(disable_timing=True))
        return _Sent(swapped=not values.dtype.isnative, narrow=is_narrow, arrived=arrived)


def _fill_from(array: np.ndarray) -> Fill:
    """What reads the items of an array in memory."""
    flat = array.reshape(-1)
    return lambda start, part: np.copyto(part, flat[start : start + part.size], casting="unsafe")
